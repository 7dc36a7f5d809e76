"""Do once what several deliveries need at the same time."""

import asyncio
import copy
from collections.abc import Callable, Coroutine, Hashable
from functools import partial
from typing import Any, Generic, TypeVar

from worker.core.errors import DeliveryUnavailable, ProcessingError

_T = TypeVar("_T")
_E = TypeVar("_E", bound=ProcessingError)


class SingleFlight(Generic[_T]):
    """Whoever needs something while it is being done waits for that, and gets the same result."""

    def __init__(self) -> None:
        """Start with nothing under way."""
        self._flights: dict[Hashable, asyncio.Task[_T]] = {}

    async def do(self, key: Hashable, work: Callable[[], Coroutine[Any, Any, _T]]) -> tuple[_T, bool]:
        """Return the result of `work`, and whether this call began it.

        It goes on if whoever began it is cancelled. Raises what `work` raises, a copy for each.
        """
        flight = self._flights.get(key)
        begun = flight is None
        if flight is None:
            flight = self._flights[key] = asyncio.create_task(work())
            flight.add_done_callback(partial(self._landed, key))
        try:
            return await asyncio.shield(flight), begun
        except ProcessingError as error:
            raise own(error, shared=not begun) from error

    async def close(self) -> None:
        """End what is under way."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        if flights:
            await asyncio.wait(flights)

    def _landed(self, key: Hashable, flight: asyncio.Task[_T]) -> None:
        del self._flights[key]
        if not flight.cancelled():
            flight.exception()  # seen, also if nobody waits any more


def own(error: _E, *, shared: bool) -> _E:
    """Return a copy of an error that several deliveries share: each notes its own progress in it.

    All but one are `shared`, so that the circuit breaker counts one failure.
    """
    copied = copy.copy(error)
    copied.progress = None
    if isinstance(copied, DeliveryUnavailable):
        copied.shared = shared
    return copied
