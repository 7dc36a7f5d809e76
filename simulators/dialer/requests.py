"""What the stand-in dialer was asked, the answers planted for it to give, and how long an answer takes."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import parse_qsl

from aiohttp import web

from simulators.stand_in import Fault

CONTENT_TYPE: Final = "text/html; charset=utf-8"
"""What VICIdial says of every answer."""


@dataclass(slots=True)
class DialerRequest:
    """One request as it was asked, never with its password; `outcome` is filled in when it is answered.

    `at` is seconds of the dialer's clock, `seconds` what the answer took. `outcome` is `ok`, the start of an
    error, or `fault: …`; while the answer is still due it is empty.
    """

    at: float
    method: str
    function: str
    subject: str
    user: str
    parameters: Mapping[str, str] = field(repr=False)
    status: int = 0
    outcome: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """An answer word for word, given without any check; `fault` instead breaks that one request."""

    body: str | bytes = ""
    status: int = 200
    content_type: str = CONTENT_TYPE
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    fault: Fault | None = None
    times: int | None = None


Answerer = Callable[[DialerRequest], Planted | None]
"""Decides about one request; `None` leaves it to the usual answer."""


class Plants:
    """The planted answers by function and subject; the empty function stands for all of them."""

    def __init__(self) -> None:
        self._planted: dict[tuple[str, str], Planted | Answerer] = {}

    def __bool__(self) -> bool:
        return bool(self._planted)

    def put(self, function: str, subject: str, planted: Planted | Answerer) -> None:
        """Plant an answer, in place of an earlier one for the same."""
        self._planted[function, subject] = planted

    def clear(self) -> None:
        """Forget every one."""
        self._planted.clear()

    def take(self, seen: DialerRequest) -> Planted | None:
        """Return the answer planted for this request, if any, and count its use."""
        for key in ((seen.function, seen.subject), ("", seen.subject)):
            planted = self._planted.get(key)
            if planted is None:
                continue
            if not isinstance(planted, Planted):
                return planted(seen)
            if planted.times == 1:
                del self._planted[key]
            elif planted.times is not None:
                self._planted[key] = replace(planted, times=planted.times - 1)
            return planted
        return None


async def read_parameters(request: web.Request) -> dict[str, str]:
    """Read the parameters as PHP does: the address first, then a POSTed form, and no other body.

    An array (`name[]`) reads `Array` as text, and stands under its own name too.
    """
    form = b""
    if request.method == "POST" and request.content_type == "application/x-www-form-urlencoded":
        form = await request.read()
    found: dict[str, str] = {}
    for text in (form.decode(errors="replace"), request.raw_path.partition("?")[2]):
        for name, value in parse_qsl(text, keep_blank_values=True, errors="replace"):
            if name.endswith("[]"):
                found |= {name: value, name.removesuffix("[]"): "Array"}
            else:
                found[name] = value
    return found


def outcome_of(text: str) -> str:
    """Shorten an answer to what a log may hold: `ok`, or an error's first words without what it quotes."""
    if not text.startswith("ERROR: "):
        return "ok"
    first_line = text.partition("\n")[0]
    return "ERROR: " + first_line.removeprefix("ERROR: ").partition(": ")[0]


KNEE: Final = 4
"""So many at a time the recorded server worked on at full speed; its throughput grew no further."""

_NOTHING_LEFT = 1e-9


class Load:
    """Work that requests share: up to `knee` at a time each takes `seconds`, above it in proportion more.

    Both may be changed at any time. `sleep` waits so many seconds of `clock`.
    """

    def __init__(
        self, sleep: Callable[[float], Awaitable[None]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin with a server that takes no time."""
        self.seconds = 0.0
        self.knee = KNEE
        self._sleep, self._clock = sleep, clock
        self._first = asyncio.Lock()
        self._working = 0
        self._done = 0.0
        self._seen = clock()

    async def work(self) -> None:
        """Wait for as long as one request takes beside all the others."""
        self._catch_up()
        end = self._done + self.seconds
        self._working += 1
        try:
            async with self._first:  # they end in the order in which they came, so only the first is timed
                self._catch_up()
                while (left := end - self._done) > _NOTHING_LEFT:
                    # More may come while it sleeps; then there is something left when it wakes.
                    await self._sleep(left / self._speed())
                    self._catch_up()
        finally:
            self._catch_up()
            self._working -= 1

    def _speed(self) -> float:
        return min(1.0, self.knee / max(self._working, 1))

    def _catch_up(self) -> None:
        """Count what each request got done since the last look, at the speed that was then."""
        now = self._clock()
        self._done += (now - self._seen) * self._speed()
        self._seen = now
