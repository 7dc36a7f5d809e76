"""The stand-in dialer: VICIdial's non-agent API on loopback, with what the recordings know.

Run as `python -m worker.demo.dialer`, it prints one JSON line with its address and serves until SIGTERM.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Final

from aiohttp import web

from worker.demo.dialer_answers import Question, answer, filtered, subject_of
from worker.demo.dialer_data import (
    DEFAULT_PASSWORD,
    DEFAULT_USER,
    ApiUser,
    Campaign,
    Dialect,
    DialerAgent,
    DialerCall,
    Recording,
    World,
    recorded_world,
)
from worker.demo.dialer_requests import (
    CONTENT_TYPE,
    Answerer,
    DialerRequest,
    Planted,
    Plants,
    outcome_of,
    read_parameters,
)
from worker.demo.dialer_tutorial import tutorial_answer, tutorial_world
from worker.demo.recordings import Exchange
from worker.demo.stand_in import StandIn, program_arguments, serve_until_signal, take_common

__all__ = [
    "DEFAULT_PASSWORD",
    "DEFAULT_USER",
    "PATH",
    "ApiUser",
    "Campaign",
    "DialerAgent",
    "DialerCall",
    "DialerRequest",
    "Planted",
    "Recording",
    "StandInDialer",
    "main",
]

PATH: Final = "/vicidial/non_agent_api.php"
"""Where the API is."""

_PAGE = """A stand-in for VICIdial's non-agent API, dialect "{dialect}".

Ask {url}?function=callid_info&call_id=…&user={user}&pass=…&source=test (or POST the same as a form).
It knows these calls: {calls}
and these agents: {agents}
GET /control tells what was asked; POST /control changes what is answered.
"""


class StandInDialer(StandIn):
    """A dialer that answers as VICIdial does, breaks when told to, and remembers what it was asked.

    `calls`, `agents`, `campaigns`, `recordings` and `users` may be changed while it serves. In the tutorial
    dialect it answers as the tutorials say, with `separator` between the values. With `keep_requests=False`
    it only counts. Its `clock` starts at 0; `wall` is the time of day that `version` tells.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        delay: float = 0.0,
        dialect: Dialect = "real",
        separator: str = "|",
        keep_requests: bool = True,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Prepare a dialer with everything that stands in the recordings."""
        super().__init__(port=port, delay=delay)
        self.dialect: Dialect = dialect
        self.separator = separator
        self.keep_requests = keep_requests
        self.world: World = recorded_world() if dialect == "real" else tutorial_world()
        self.requests: list[DialerRequest] = []
        self.asked: Counter[str] = Counter()
        self.failed_logins = 0
        self._plants = Plants()
        self._clock, self._wall, self._began = clock, wall, clock()

    @property
    def url(self) -> str:
        """The full address of the API."""
        return f"{self.base_url}{PATH}"

    @property
    def calls(self) -> dict[str, DialerCall]:
        """The calls by id; add one to have it found."""
        return self.world.calls

    @property
    def agents(self) -> dict[str, DialerAgent]:
        """The agents by user name."""
        return self.world.agents

    @property
    def campaigns(self) -> dict[str, Campaign]:
        """The campaigns by id."""
        return self.world.campaigns

    @property
    def recordings(self) -> list[Recording]:
        """The recordings that `recording_lookup` searches."""
        return self.world.recordings

    @property
    def users(self) -> dict[str, ApiUser]:
        """The API users by name; change a password here."""
        return self.world.users

    def now(self) -> float:
        """Give the seconds since this dialer was made, by its clock."""
        return self._clock() - self._began

    def add_call(self, call: DialerCall) -> None:
        """Add a call whose schedule begins now, not at the first question about it."""
        call.since = self.now()
        self.calls[call.call_id] = call

    def plant(
        self,
        subject: str,
        planted: Planted | Answerer | None = None,
        *,
        function: str = "",
        **fields: Any,  # noqa: ANN401 - the fields of `Planted`, given one by one
    ) -> None:
        """Answer requests about this call or agent with exactly this: a `Planted`, its fields, or a callable.

        With `function`, only that function; then `subject` may be empty, for one without an id.
        """
        self._plants.put(function, subject, Planted(**fields) if planted is None else planted)

    def plant_exchange(self, exchange: Exchange) -> None:
        """Answer the recorded request's function and subject with the recorded answer."""
        parameters = filtered(exchange.query)
        self.plant(
            subject_of(parameters),
            function=parameters.get("function", ""),
            body=exchange.body,
            status=exchange.status,
            content_type=exchange.content_type,
        )

    def unplant(self) -> None:
        """Forget everything planted."""
        self._plants.clear()

    def count(self, function: str, subject: str | None = None) -> int:
        """Count the requests of a function so far, of one subject if given (which needs `keep_requests`)."""
        if subject is None:
            return self.asked[function]
        return sum(1 for each in self.requests if (each.function, each.subject) == (function, subject))

    def add_routes(self, app: web.Application) -> None:
        """Answer at the API's path with any method, and with a short page at `/`."""
        app.router.add_route("*", PATH, self._serve)
        app.router.add_get("/", self._page)

    def control(self, change: Mapping[str, Any]) -> None:
        """Change by JSON: `fault`, `delay`, `password`, `plant`, `unplant`, `calls`, `agents`, `ip_blocked`.

        `calls` and `agents` map ids to fields of `DialerCall` and `DialerAgent`; `plant` maps a subject, or
        `function:subject`, to fields of `Planted`.
        """
        changes: dict[str, Callable[[Any], None]] = {
            "password": self._change_passwords,
            "calls": self._change_calls,
            "agents": self._change_agents,
            "plant": self._change_plants,
            "unplant": lambda _: self.unplant(),
            "ip_blocked": lambda value: setattr(self.world, "ip_blocked", bool(value)),
        }
        for name, value in change.items():
            if name in changes:
                changes[name](value)
            else:
                take_common(self, name, value)

    def report(self) -> dict[str, Any]:
        """Say what was asked so far: counts, and the requests where they are kept."""
        return {
            "served": self.served,
            "asked": dict(self.asked),
            "failed_logins": self.failed_logins,
            "concurrent": self.concurrent,
            "max_concurrent": self.max_concurrent,
            "requests": [asdict(each) for each in self.requests],
        }

    def _change_passwords(self, passwords: Mapping[str, str]) -> None:
        for user, password in passwords.items():
            self.users[user].password = password

    def _change_calls(self, calls: Mapping[str, Mapping[str, Any]]) -> None:
        for call_id, fields in calls.items():
            self.add_call(DialerCall(call_id=call_id, **_with_tuples(fields)))

    def _change_agents(self, agents: Mapping[str, Mapping[str, Any]]) -> None:
        for user, fields in agents.items():
            self.agents[user] = DialerAgent(user=user, **_with_tuples(fields))

    def _change_plants(self, plants: Mapping[str, Mapping[str, Any]]) -> None:
        for key, fields in plants.items():
            function, _, subject = key.rpartition(":")
            self.plant(subject, Planted(**fields), function=function)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        parameters = filtered(await read_parameters(request))
        seen = DialerRequest(
            at=self.now(),
            method=request.method,
            function=parameters.get("function", ""),
            subject=subject_of(parameters),
            user=parameters.get("user", ""),
            parameters={name: value for name, value in parameters.items() if name != "pass"},
        )
        self.asked[seen.function] += 1
        if self.keep_requests:
            self.requests.append(seen)
        async with self.counted():
            if self.fault is not None:
                seen.outcome = f"fault: {self.fault}"
                return await self.misbehave(request, self.fault)
            planted = self._plants.take(seen)
            if planted is not None:
                return await self._serve_planted(request, seen, planted)
            text = self._answer(parameters)
        seen.status, seen.outcome = 200, outcome_of(text)
        return web.Response(text=text, headers={"content-type": CONTENT_TYPE})

    def _answer(self, parameters: Mapping[str, str]) -> str:
        question = Question(parameters, self.world, self.now(), self._wall())
        tutorial = self.dialect == "tutorial"
        text = tutorial_answer(question, self.separator) if tutorial else answer(question)
        if text.startswith(("ERROR: Login incorrect", "ERROR: Too many login", "ERROR: INVALID USERNAME")):
            self.failed_logins += 1
        return text

    async def _serve_planted(
        self, request: web.Request, seen: DialerRequest, planted: Planted
    ) -> web.StreamResponse:
        if planted.delay:
            await self.pause(planted.delay)
        if planted.fault is not None:
            seen.outcome = f"fault: {planted.fault}"
            return await self.misbehave(request, planted.fault)
        body = planted.body.encode() if isinstance(planted.body, str) else planted.body
        seen.status, seen.outcome = planted.status, f"planted {planted.status}"
        return web.Response(
            status=planted.status,
            body=body,
            headers={"content-type": planted.content_type, **planted.headers},
        )

    async def _page(self, _: web.Request) -> web.Response:
        text = _PAGE.format(
            dialect=self.dialect,
            url=self.url,
            user=DEFAULT_USER,
            calls=" ".join(self.calls),
            agents=" ".join(self.agents),
        )
        return web.Response(text=text)


def _with_tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _as_tuple(value) for name, value in fields.items()}


def _as_tuple(value: object) -> object:
    return tuple(_as_tuple(each) for each in value) if isinstance(value, list) else value


def main() -> None:
    """Serve as a program until SIGTERM or SIGINT."""
    parser = program_arguments("A stand-in for VICIdial's non-agent API.")
    parser.add_argument("--dialect", choices=("real", "tutorial"), default="real")
    parser.add_argument("--separator", default="|", help="of the tutorial dialect")
    parser.add_argument("--count-only", action="store_true", help="keep no list of the requests")
    chosen = parser.parse_args()

    async def serve() -> None:
        dialer = StandInDialer(
            port=chosen.port,
            delay=chosen.delay,
            dialect=chosen.dialect,
            separator=chosen.separator,
            keep_requests=not chosen.count_only,
        )
        await serve_until_signal(dialer, chosen.config)

    asyncio.run(serve())


if __name__ == "__main__":
    main()
