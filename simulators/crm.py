"""The stand-in CRM: a webhook receiver that checks signatures, drops repeats, and refuses on request.

Run as `python -m simulators.crm`, it prints one JSON line with its address and serves until SIGTERM.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from aiohttp import web

from simulators.stand_in import Fault, StandIn, program_arguments, serve_until_signal, take_common

PATH: Final = "/webhook"
"""Where the CRM listens."""

TOLERANCE: Final = 300
"""Seconds by which a signed timestamp may be off."""

_SECRET_PREFIX = "whsec_"  # noqa: S105 - how a Standard Webhooks secret begins
_BAD_SIGNATURE = 401
_RETRY_AFTER_STATUSES = (429, 503)
_STATUS_OF_A_FAULT: Final[Mapping[Fault, int]] = {
    **dict.fromkeys(("cut", "empty", "html", "mysql", "drip", "huge", "bomb"), 200),
    "500": 500,
    "redirect": 302,
}
"""What a sender reads of a broken answer, and goes by."""


class BadSignature(Exception):
    """The request was not signed by who it claims to be from; the message says what is wrong."""


@dataclass(frozen=True, slots=True)
class Received:
    """One delivery as it arrived.

    `json` is `None` if the body is no JSON. `verified` is true only after a good signature, so never without
    a secret. `at` is the time of day. `status` is what was answered; 0 if a fault ate the answer before
    its status was sent.
    """

    id: str
    timestamp: str
    headers: Mapping[str, str]
    body: bytes
    json: Any
    verified: bool
    at: float
    status: int = 0


Script = list[int] | Callable[[Received], int | None]
"""The next answers, used up one by one, or who decides; `None` and an empty list mean acceptance."""


class StandInCrm(StandIn):
    """A CRM's webhook. It gives `answer` (200) to what is well signed, but for `script`, `fail_ids`, `fault`.

    `received` holds every delivery in order, `by_id` how often each id came, `accepted` the first accepted
    one of each id: a repeat is answered 200 again and changes nothing, as a good receiver does it. `fail_ids`
    maps an id to its next statuses. `retry_after` is sent with 429 and 503. With `keep=False` it only counts:
    `deliveries` and `by_status`.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        secret: str | None = None,
        delay: float = 0.0,
        keep: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Prepare a CRM; with a `whsec_…` secret every request must be signed with it."""
        super().__init__(port=port, delay=delay)
        self.secret = secret
        self.keep = keep
        self.answer = 200
        self.script: Script = []
        self.fail_ids: dict[str, list[int]] = {}
        self.retry_after: int | str | None = None
        self.received: list[Received] = []
        self.accepted: dict[str, Received] = {}
        self.by_id: Counter[str] = Counter()
        self.by_status: Counter[int] = Counter()
        self.deliveries = 0
        self._clock = clock

    @property
    def url(self) -> str:
        """The full address of the webhook."""
        return f"{self.base_url}{PATH}"

    def forget(self) -> None:
        """Drop what was received and counted so far."""
        self.received.clear()
        self.accepted.clear()
        self.by_id.clear()
        self.by_status.clear()
        self.deliveries = 0

    def add_routes(self, app: web.Application) -> None:
        """Accept deliveries at `/webhook`; `/account` returns what became of each id."""
        app.router.add_post(PATH, self._serve)
        app.router.add_get("/account", self._show_account)

    def control(self, change: Mapping[str, Any]) -> None:
        """Change by JSON: `forget`, and the attributes but `received`, `by_id`, `accepted` and the counts."""
        for name, value in change.items():
            if name == "forget":
                self.forget()
            elif name in {"answer", "script", "fail_ids", "retry_after", "secret"}:
                setattr(self, name, value)
            else:
                take_common(self, name, value)

    def report(self) -> dict[str, Any]:
        """Return what was received so far: counts, and the deliveries if they are kept."""
        return {
            "served": self.served,
            "deliveries": self.deliveries,
            "accepted": len(self.accepted),
            "by_id": dict(self.by_id),
            "by_status": {str(status): count for status, count in self.by_status.items()},
            "concurrent": self.concurrent,
            "max_concurrent": self.max_concurrent,
            "received": [_shown(each) for each in self.received],
        }

    async def _show_account(self, _: web.Request) -> web.Response:
        """Return what became of each id: when it was accepted, and its bodies if they differ."""
        bodies: dict[str, set[str]] = {}
        accepted_at: dict[str, list[float]] = {}
        for each in self.received:
            bodies.setdefault(each.id, set()).add(each.body.decode(errors="replace"))
            times = accepted_at.setdefault(each.id, [])
            if 200 <= each.status < 300:
                times.append(each.at)
        return web.json_response(
            {
                name: {"accepted_at": accepted_at[name], "different": sorted(found) if len(found) > 1 else []}
                for name, found in bodies.items()
            }
        )

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        async with self.counted():
            seen, complaint = self._examine(request, body)
            if self.fault is not None:
                self._remember(replace(seen, status=_STATUS_OF_A_FAULT.get(self.fault, 0)))
                return await self.misbehave(request, _for_a_crm(self.fault))
            status = _BAD_SIGNATURE if complaint else self._decide(seen)
            self._remember(replace(seen, status=status))
        headers = {}
        if status in _RETRY_AFTER_STATUSES and self.retry_after is not None:
            headers["retry-after"] = str(self.retry_after)
        return web.Response(status=status, text=complaint or f"{status}\n", headers=headers)

    def _examine(self, request: web.Request, body: bytes) -> tuple[Received, str]:
        complaint = ""
        if self.secret is not None:
            try:
                verify(self.secret, request.headers, body, self._clock())
            except BadSignature as error:
                complaint = str(error)
        seen = Received(
            id=request.headers.get("webhook-id", ""),
            timestamp=request.headers.get("webhook-timestamp", ""),
            headers={name.lower(): value for name, value in request.headers.items()} if self.keep else {},
            body=body,
            json=_json(body) if self.keep else None,
            verified=self.secret is not None and not complaint,
            at=self._clock(),
        )
        return seen, complaint

    def _decide(self, seen: Received) -> int:
        scripted: int | None = None
        if self.fail_ids.get(seen.id):
            scripted = self.fail_ids[seen.id].pop(0)
        elif callable(self.script):
            scripted = self.script(seen)
        elif self.script:
            scripted = self.script.pop(0)
        return self.answer if scripted is None else scripted

    def _remember(self, seen: Received) -> None:
        self.deliveries += 1
        self.by_status[seen.status] += 1
        if not self.keep:
            return
        self.received.append(seen)
        self.by_id[seen.id] += 1
        if 200 <= seen.status < 300:
            self.accepted.setdefault(seen.id, seen)


def verify(secret: str, headers: Mapping[str, str], body: bytes, now: float) -> None:
    """Check a Standard Webhooks signature; raises `BadSignature` saying what is wrong."""
    message_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    signatures = headers.get("webhook-signature", "")
    if not (message_id and timestamp and signatures):
        raise BadSignature("webhook-id, webhook-timestamp or webhook-signature is missing")
    if not timestamp.isdecimal():
        raise BadSignature("webhook-timestamp is not a number of seconds")
    if abs(now - int(timestamp)) > TOLERANCE:
        raise BadSignature("webhook-timestamp is more than 5 minutes off")
    try:
        key = base64.b64decode(secret.removeprefix(_SECRET_PREFIX), validate=True)
    except binascii.Error as error:
        raise BadSignature("the CRM's own secret is not base64") from error
    digest = hmac.new(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    expected = b"v1," + base64.b64encode(digest)
    if not any(hmac.compare_digest(expected, each.encode()) for each in signatures.split(" ")):
        raise BadSignature("no signature in webhook-signature fits")


def _for_a_crm(fault: Fault) -> Fault:
    """Make garbage a broken server: behind a 200, no sender reads the body."""
    return "not_http" if fault == "garbage" else fault


def _json(body: bytes) -> Any:  # noqa: ANN401 - any JSON value
    try:
        return json.loads(body)
    except ValueError:
        return None


def _shown(each: Received) -> dict[str, Any]:
    return {
        "id": each.id,
        "timestamp": each.timestamp,
        "headers": dict(each.headers),
        "body": each.body.decode(errors="replace"),
        "verified": each.verified,
        "at": each.at,
        "status": each.status,
    }


def main() -> None:
    """Serve as a program until SIGTERM or SIGINT."""
    parser = program_arguments("A stand-in for a CRM's webhook.")
    parser.add_argument("--secret", help="a whsec_… secret; every request must then be signed with it")
    parser.add_argument("--count-only", action="store_true", help="keep no list of the deliveries")
    chosen = parser.parse_args()

    async def serve() -> None:
        crm = StandInCrm(
            port=chosen.port, secret=chosen.secret, delay=chosen.delay, keep=not chosen.count_only
        )
        await serve_until_signal(crm, chosen.config)

    asyncio.run(serve())


if __name__ == "__main__":
    main()
