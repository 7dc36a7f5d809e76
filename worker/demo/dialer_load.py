"""How long the real server takes: a share of it for each request, so that more at once are not faster."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

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
        """Take one request's time, as long as that is with all the others."""
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
