"""Single-flight look-ups with a TTL cache: identical look-ups in flight share one request."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from datetime import timedelta
from typing import Generic, TypeVar

from cachetools import TTLCache

CACHE_SIZE = 10_000
"""How many answers of one function are cached at most; the oldest are dropped first."""

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


class SingleFlight(Generic[_K, _V]):
    """The look-ups of one function: never two with the same key at one time."""

    def __init__(
        self,
        ttl: timedelta = timedelta(0),
        *,
        on_hit: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Cache each answer for `ttl`, by default not at all. `on_hit` is called at each use of the cache."""
        self._cache = TTLCache[_K, _V](CACHE_SIZE, ttl.total_seconds(), timer=clock) if ttl else None
        self._on_hit = on_hit
        self._in_flight: dict[_K, asyncio.Future[_V]] = {}

    async def get(self, key: _K, ask: Callable[[], Awaitable[_V]], *, fresh: bool = False) -> _V:
        """Return the answer to `key`: from the cache unless `fresh`, from a look-up in flight, or from `ask`.

        Raises what `ask` raises, to everyone who waits; a failure is not cached. If the look-up in flight is
        cancelled, the next one who waits calls its own `ask`.
        """
        if self._cache is not None and not fresh and (cached := self._cache.get(key)) is not None:
            self._on_hit()
            return cached
        while (flight := self._in_flight.get(key)) is not None:
            await asyncio.wait([flight])
            if not flight.cancelled():
                return flight.result()
        flight = self._in_flight[key] = asyncio.get_running_loop().create_future()
        try:
            answer = await ask()
        except Exception as error:
            flight.set_exception(error)
            flight.exception()  # mark it as retrieved, also if nobody else waits
            raise
        else:
            flight.set_result(answer)
            if self._cache is not None:
                self._cache[key] = answer
            return answer
        finally:
            flight.cancel()
            del self._in_flight[key]
