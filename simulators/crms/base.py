"""What the stand-ins of CRMs share: records, logins, rates, faults, and the account of what happened.

A subclass adds the vendor's routes (`route`) and words its refusals (`too_many`, `unknown_route`). A handler
refuses by raising `Refused`.
"""

import json
import math
import secrets
import time
from abc import abstractmethod
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Final, Literal, get_args

from aiohttp import web

from simulators.stand_in import Fault, StandIn, take_common

CrmFault = Literal[Fault, "503", "drop", "lose_answer"]
"""How a CRM breaks: as any stand-in, and three more.

`503`: that status. `drop`: the connection is reset before anything is written. `lose_answer`: what the
request asks for is written, and then the connection is reset; a request that writes nothing is answered.
"""

CRM_FAULTS: Final[tuple[CrmFault, ...]] = get_args(CrmFault)

DAY: Final = 86_400.0
_KEPT_REQUESTS = 10_000
_REPORTED_REQUESTS = 100
_OWN_PATHS = ("/control", "/report", "/records")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Refused(Exception):
    """Ends a handler with this answer."""

    def __init__(self, answer: web.Response) -> None:
        """Keep the answer."""
        super().__init__(answer.status)
        self.answer = answer


@dataclass(slots=True)
class Seen:
    """One request as it arrived. `status` is 0 if its answer was lost or its connection was reset."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any
    status: int = 0


class Window:
    """At most `limit` in any `seconds`: a sliding window, as the vendors count."""

    def __init__(self, limit: int, seconds: float, clock: Callable[[], float]) -> None:
        """Begin with nothing used."""
        self.limit = limit
        self.seconds = seconds
        self._clock = clock
        self._used: deque[tuple[float, int]] = deque()

    @property
    def used(self) -> int:
        """What counts now."""
        while self._used and self._used[0][0] <= self._clock() - self.seconds:
            self._used.popleft()
        return sum(cost for _, cost in self._used)

    @property
    def remaining(self) -> int:
        """What is left now."""
        return max(0, self.limit - self.used)

    @property
    def wait(self) -> float:
        """Return the seconds until the oldest use no longer counts."""
        return max(0.0, self._used[0][0] + self.seconds - self._clock()) if self.used else 0.0

    def admit(self, cost: int = 1) -> bool:
        """Count a request, unless it exceeds the limit."""
        if self.used + cost > self.limit:
            return False
        self._used.append((self._clock(), cost))
        return True


class CrmStandIn(StandIn):
    """A CRM on loopback.

    Attributes:
        records: Object type → id → fields. `key_fields` names the field of each type that holds our key.
        writes: Key → how many records were made for it; above 1 is a double.
        requests: The latest requests, each a `Seen`.
        windows: Name → `Window`. A request counts in those that `counts_in` names.
        fault: A `CrmFault` or None. `fault_path`, if set, restricts it to paths that contain this text;
            `fail_next`, if set, to so many requests.
        token_life: Seconds for which an issued token is good.
        locked: Ids of records that somebody else is changing.
    """

    title: ClassVar[str]
    rate_seconds: ClassVar[float] = 10.0
    """The length of the window `rate`."""
    search_seconds: ClassVar[float] = 1.0
    """The length of the window `search_rate`."""

    def __init__(
        self, *, port: int = 0, delay: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Prepare a server on this port; 0 takes any free one."""
        super().__init__(port=port, delay=delay)
        self.clock = clock
        self.records: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        self.key_fields: dict[str, str] = {}
        self.writes: Counter[str] = Counter()
        self.requests: deque[Seen] = deque(maxlen=_KEPT_REQUESTS)
        self.by_status: Counter[int] = Counter()
        self.windows: dict[str, Window] = {}
        self.tokens: dict[str, float] = {}
        self.tokens_issued = 0
        self.token_life = 3600.0
        self.locked: set[str] = set()
        self.fault: Any = None
        self.fault_path: str | None = None
        self.fail_next: int | None = None
        self._storm_until = -math.inf
        self._changes = 0
        self._next_id = 1000

    # For a subclass.

    @abstractmethod
    def route(self, app: web.Application) -> None:
        """Add the vendor's routes."""

    @abstractmethod
    def too_many(self, window: str, wait: float) -> web.Response:
        """Return the refusal if this window, or `storm`, is exceeded; after `wait` seconds there is room."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return the settings below `sink.crm` by which the service writes into this server."""

    def unknown_route(self, status: int) -> web.Response:
        """Return the answer to a path (404) or method (405) that the vendor does not have."""
        return web.Response(status=status)

    def counts_in(self, request: web.Request) -> Mapping[str, int]:  # noqa: ARG002 - a subclass reads it
        """Return what this request costs in each window."""
        return {"rate": 1, "daily": 1}

    def headers(self, request: web.Request) -> Mapping[str, str]:  # noqa: ARG002 - a subclass reads it
        """Return the headers that the vendor adds to each answer."""
        return {}

    # Records.

    def new_id(self) -> str:
        """Return an id that no record has."""
        self._next_id += 1
        return str(self._next_id)

    def make(self, kind: str, fields: Mapping[str, Any], record_id: str | None = None) -> str:
        """Make a record and return its id; `writes` counts it by its key."""
        record_id = record_id or self.new_id()
        self.records[kind][record_id] = dict(fields)
        key = fields.get(self.key_fields.get(kind, ""))
        if key:
            self.writes[str(key)] += 1
        self._changes += 1
        return record_id

    def change(self, kind: str, record_id: str, fields: Mapping[str, Any]) -> None:
        """Change fields of a record."""
        self.records[kind][record_id] |= fields
        self._changes += 1

    def find(self, kind: str, **fields: object) -> list[str]:
        """Return the ids of the records with these fields, in the order in which they were made."""
        return [
            record_id
            for record_id, record in self.records[kind].items()
            if all(record.get(name) == value for name, value in fields.items())
        ]

    @property
    def doubles(self) -> dict[str, int]:
        """Each key for which more than one record was made."""
        return {key: count for key, count in self.writes.items() if count > 1}

    # Logins.

    def issue_token(self) -> str:
        """Return a new token that is good for `token_life`."""
        token = secrets.token_hex(16)
        self.tokens[token] = self.clock() + self.token_life
        self.tokens_issued += 1
        return token

    def is_good(self, token: str) -> bool:
        """Return whether this token was issued, and is neither expired nor revoked."""
        return self.tokens.get(token, -math.inf) > self.clock()

    # Faults.

    def storm(self, seconds: float) -> None:
        """Refuse everything for so long, in the vendor's words for too many requests."""
        self._storm_until = self.clock() + seconds

    def limit(self, window: str, limit: int | None) -> None:
        """Set the limit of `rate`, `search_rate` or `daily`; None is unlimited."""
        lengths = {"rate": self.rate_seconds, "search_rate": self.search_seconds, "daily": DAY}
        if limit is None:
            self.windows.pop(window, None)
        else:
            self.windows[window] = Window(limit, lengths[window], self.clock)

    def control(self, change: Mapping[str, Any]) -> None:
        """Make the changes that a JSON object names; `python -m simulators.crms --help` lists them."""
        takers: dict[str, Callable[[Any], None]] = {
            "fault": self._take_fault,
            "storm": lambda value: self.storm(float(value)),
            "revoke_tokens": lambda _: self.tokens.clear(),
            "locked": lambda value: setattr(self, "locked", set(value)),
            "records": self._take_records,
            "forget": lambda _: self.forget(),
        }
        for name, value in change.items():
            if name in takers:
                takers[name](value)
            elif name in {"fail_next", "fault_path", "token_life"}:
                setattr(self, name, value)
            elif name in {"rate", "search_rate", "daily"}:
                self.limit(name, value)
            else:
                take_common(self, name, value)

    def _take_fault(self, fault: object) -> None:
        if fault is not None and fault not in CRM_FAULTS:
            raise ValueError(f"unknown fault {fault!r}; known: {', '.join(CRM_FAULTS)}")
        self.fault = fault

    def _take_records(self, records: Mapping[str, list[Mapping[str, Any]]]) -> None:
        for kind, each in records.items():
            for fields in each:
                self.seed(kind, fields)

    def seed(self, kind: str, fields: Mapping[str, Any]) -> str:
        """Make a record that was there before, and return its id; a field `id` chooses it."""
        given = dict(fields)
        return self.make(kind, given, given.pop("id", None))

    def forget(self) -> None:
        """Drop the requests and counts so far, and keep the records."""
        self.requests.clear()
        self.by_status.clear()
        self.writes.clear()

    def report(self) -> dict[str, Any]:
        """Return as JSON what is there and what happened: records with their keys, doubles, requests."""
        return {
            "served": self.served,
            "max_concurrent": self.max_concurrent,
            "records": {
                kind: {each: record.get(self.key_fields.get(kind, "")) for each, record in records.items()}
                for kind, records in self.records.items()
            },
            "writes": dict(self.writes),
            "doubles": self.doubles,
            "tokens_issued": self.tokens_issued,
            "remaining": {name: window.remaining for name, window in self.windows.items()},
            "by_status": {str(status): count for status, count in self.by_status.items()},
            "requests": [
                {"method": each.method, "path": each.path, "body": each.body, "status": each.status}
                for each in list(self.requests)[-_REPORTED_REQUESTS:]
            ],
        }

    # The server.

    def announcement(self) -> dict[str, Any]:
        """Return where the server listens, and the settings for it."""
        return super().announcement() | {"settings": self.settings()}

    @property
    def url(self) -> str:
        """The address of the API."""
        return self.base_url

    def add_routes(self, app: web.Application) -> None:
        """Serve the vendor's routes, through the faults and limits, and `/report` and `/records`."""

        async def report(_: web.Request) -> web.Response:
            return web.json_response(self.report())

        async def records(_: web.Request) -> web.Response:
            return web.json_response(self.records, dumps=partial(json.dumps, default=str))

        @web.middleware
        async def watch(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await (handler if request.path in _OWN_PATHS else self._watched(handler))(request)

        app.router.add_get("/report", report)
        app.router.add_get("/records", records)
        app.middlewares.append(watch)
        self.route(app)

    def _watched(self, handler: Handler) -> Handler:
        async def serve(request: web.Request) -> web.StreamResponse:
            seen = Seen(
                request.method,
                request.path,
                dict(request.query),
                {name.lower(): value for name, value in request.headers.items()},
                _parsed(await request.read(), request.content_type),
            )
            self.requests.append(seen)
            async with self.counted():
                answer, status = await self._answered(request, handler)
                seen.status = status
                self.by_status[status] += 1
                return answer

        return serve

    async def _answered(self, request: web.Request, handler: Handler) -> tuple[web.StreamResponse, int]:
        fault = self.fault if self.fault_path is None or self.fault_path in request.path else None
        if fault not in {None, "lose_answer"}:
            self._count_fault()
            return await self._broken(request, fault)
        before = self._changes
        answer = self._refusal(request) or await self._handled(request, handler)
        if fault == "lose_answer" and self._changes > before:
            self._count_fault()
            return await self.misbehave(request, "reset"), 0
        answer.headers.update(self.headers(request))
        return answer, answer.status

    async def _broken(self, request: web.Request, fault: str) -> tuple[web.StreamResponse, int]:
        if fault == "503":
            return web.Response(status=503), 503
        known: Fault = "reset" if fault == "drop" else fault  # type: ignore[assignment]
        answer = await self.misbehave(request, known)
        return answer, 0 if known in {"hang", "reset", "cut", "not_http"} else answer.status

    def _count_fault(self) -> None:
        if self.fail_next is None:
            return
        self.fail_next -= 1
        if self.fail_next <= 0:
            self.fault = self.fail_next = None

    def _refusal(self, request: web.Request) -> web.Response | None:
        if (wait := self._storm_until - self.clock()) > 0:
            return self.too_many("storm", wait)
        for name, cost in self.counts_in(request).items():
            window = self.windows.get(name)
            if window is not None and not window.admit(cost):
                return self.too_many(name, window.wait)
        return None

    async def _handled(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except Refused as refused:
            return refused.answer
        except web.HTTPException as unknown:
            return self.unknown_route(unknown.status)


def _parsed(body: bytes, content_type: str) -> Any:  # noqa: ANN401 - any JSON value
    """Return a JSON body's value, any other body as text, and None for none."""
    if "json" in content_type:
        try:
            return json.loads(body)
        except ValueError:
            pass
    return body.decode(errors="replace") or None


def json_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object in a body; raise `ValueError` for anything else."""
    value = json.loads(body)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - a bad body is a bad value
    return value
