"""Look-ups that are shared while they fly, and kept for a while where that is wanted."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from datetime import timedelta
from typing import Generic, TypeVar

from cachetools import TTLCache

MOST_KEPT = 10_000
"""How many answers are kept of one function at most; the oldest go first."""

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


class SingleFlight(Generic[_K, _V]):
    """The look-ups of one function, by what is asked: never two of the same at one time."""

    def __init__(
        self,
        keep: timedelta = timedelta(0),
        *,
        on_hit: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep each answer for so long; by default not at all. `on_hit` is told of each use of a kept one."""
        self._kept = TTLCache[_K, _V](MOST_KEPT, keep.total_seconds(), timer=clock) if keep else None
        self._on_hit = on_hit
        self._flights: dict[_K, asyncio.Future[_V]] = {}

    async def get(self, key: _K, ask: Callable[[], Awaitable[_V]], *, fresh: bool = False) -> _V:
        """Give the answer to `key`: a kept one, that of a look-up in flight, or what `ask` gives.

        With `fresh`, a kept one is not enough. Raises what `ask` raises, to everyone who waits; a failure is
        not kept. Where the one that flies is cancelled, the next one who waits takes its place.
        """
        if self._kept is not None and not fresh and (kept := self._kept.get(key)) is not None:
            self._on_hit()
            return kept
        while (flight := self._flights.get(key)) is not None:
            await asyncio.wait([flight])
            if not flight.cancelled():
                return flight.result()
        flight = self._flights[key] = asyncio.get_running_loop().create_future()
        try:
            answer = await ask()
        except Exception as error:
            flight.set_exception(error)
            flight.exception()  # seen, also where nobody else waits
            raise
        else:
            flight.set_result(answer)
            if self._kept is not None:
                self._kept[key] = answer
            return answer
        finally:
            flight.cancel()
            del self._flights[key]
