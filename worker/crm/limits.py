"""Keep the rates and the concurrency that a CRM allows, before it has to refuse a request."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

from worker.core.errors import DeliveryUnavailable, FailureKind
from worker.crm.preset import Limit

LONGEST_TURN = 20.0
"""Seconds that a request waits for its turn at most."""
SPREAD = 0.1
"""Seconds by which two requests may come closer together on their way: a CRM counts them as they arrive."""


class _Rate:
    """At most so many requests in any such time: a sliding window, as the vendors count."""

    def __init__(self, rate: int, seconds: float) -> None:
        self._seconds = seconds + SPREAD
        self._starts: deque[float] = deque(maxlen=rate)

    def next(self, now: float) -> float:
        """Return when the next request may start."""
        full = len(self._starts) == self._starts.maxlen
        return max(now, self._starts[0] + self._seconds) if full else now

    def count(self, start: float) -> None:
        """Count a request that starts then, which is no earlier than the one before it."""
        self._starts.append(start)


class _Bound:
    """One limit of a preset."""

    def __init__(self, limit: Limit) -> None:
        self.of = limit.of
        self.rate = None
        if limit.rate is not None and limit.per is not None:
            self.rate = _Rate(limit.rate, limit.per.total_seconds())
        self.next_in_line = asyncio.Semaphore(1)
        """Held by the request that waits for the rate; those behind it wait for this."""
        self.places = None if limit.concurrent is None else asyncio.Semaphore(limit.concurrent)
        what = [f"{limit.concurrent} at one time"] if limit.concurrent is not None else []
        if limit.rate is not None and limit.per is not None:
            what.append(f"{limit.rate} in {limit.per.total_seconds():g} s")
        self.name = " and ".join(what) + (f" for {limit.of}" if limit.of else "")


class Limits:
    """All limits of a preset, and the waits that the CRM asked for."""

    def __init__(
        self,
        limits: Iterable[Limit],
        wait: Callable[[str | None], timedelta | None] = lambda _group: None,
        *,
        longest_turn: float = LONGEST_TURN,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep these limits.

        Args:
            limits: The preset's.
            wait: Returns how long nothing of a group may be sent.
            longest_turn: Seconds that a request waits for its turn at most.
            clock: Returns seconds.
        """
        self._bounds = [_Bound(limit) for limit in limits]
        self._wait = wait
        self._longest = longest_turn
        self._clock = clock

    @asynccontextmanager
    async def turn(self, group: str | None) -> AsyncIterator[None]:
        """Wait for the turn of a request, and hold its place until it is answered.

        Raises:
            DeliveryUnavailable: It is not its turn in time, or the CRM asked to wait.
        """
        if group is not None and (asked := self._wait(group)) is not None:
            raise _busy(f"the CRM asked to wait with requests of the group {group}", asked.total_seconds())
        until = self._clock() + self._longest
        bounds = [each for each in self._bounds if each.of in (None, group)]
        async with AsyncExitStack() as places:
            for bound in bounds:
                if bound.places is not None:
                    await self._take(bound, bound.places, until)
                    places.callback(bound.places.release)
            await self._wait_for_rates(bounds, until)
            yield

    async def _take(self, bound: _Bound, places: asyncio.Semaphore, until: float) -> None:
        if not places.locked():
            await places.acquire()  # does not wait
            return
        try:
            async with asyncio.timeout(max(0.0, until - self._clock())):
                await places.acquire()
        except TimeoutError as error:
            raise _busy(f"too many requests wait for our limit of {bound.name}", 1.0) from error

    async def _wait_for_rates(self, bounds: Iterable[_Bound], until: float) -> None:
        """Wait until all rates allow a request, and count it in all of them at that moment.

        A group's rate comes before that of all requests. It still allows the request when that of all does,
        because no other one of the group gets past; and those that are not of the group do not wait for it.
        """
        rated = [(each, each.rate) for each in bounds if each.rate is not None]
        rated.sort(key=lambda each: each[0].of is None)
        start = self._clock()
        async with AsyncExitStack() as held:
            for bound, rate in rated:
                await self._take(bound, bound.next_in_line, until)
                held.callback(bound.next_in_line.release)
                now = self._clock()
                start = rate.next(max(start, now))
                if start > until:
                    raise _busy(f"our limit of {bound.name} is used up", start - now)
                if start > now:
                    await asyncio.sleep(start - now)
            start = max(start, self._clock())  # a busy machine wakes us late
            for _, rate in rated:
                rate.count(start)


def _busy(message: str, seconds: float) -> DeliveryUnavailable:
    return DeliveryUnavailable(message, FailureKind.BUSY, timedelta(seconds=seconds))
