"""How late the event loop is: a call that blocks it delays every event in work, every probe and heartbeat."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Never

LOOK_EVERY = 0.5
"""Seconds between two looks."""
LOOKS = 30
"""How many looks are remembered: those of 15 s, as long as is usual between two scrapes."""


class LoopLag:
    """Measures by how much a short sleep takes longer than it should."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Take a clock in seconds."""
        self._clock = clock
        self._late: deque[float] = deque(maxlen=LOOKS)

    @property
    def longest(self) -> float:
        """The longest delay that is remembered, in seconds; one that still lasts can't be asked for."""
        return max(self._late, default=0.0)

    async def watch(self) -> Never:
        """Measure until cancelled."""
        while True:
            before = self._clock()
            await asyncio.sleep(LOOK_EVERY)
            self.woken_after(self._clock() - before)

    def woken_after(self, seconds: float) -> None:
        """Take note of how long a sleep took."""
        self._late.append(max(0.0, seconds - LOOK_EVERY))
