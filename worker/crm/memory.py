"""What is remembered from one delivery to the next, for as long as the process lives."""

import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from cachetools import TLRUCache

MOST = 10_000
"""How many results are kept in all caches together, at most."""


class Memory:
    """Results that are kept for a while, and waits that the CRM asked for."""

    def __init__(self, *, most: int = MOST, clock: Callable[[], float] = time.monotonic) -> None:
        """Start empty."""
        self._clock = clock
        self._kept: TLRUCache[tuple[str, str], tuple[Mapping[str, Any], float]] = TLRUCache(
            maxsize=most, ttu=lambda _key, value, now: now + value[1], timer=clock
        )
        self._until: dict[str | None, float] = {}

    def recall(self, cache: str, key: str) -> Mapping[str, Any] | None:
        """Return results that were kept, None if there are none or their time is over."""
        found = self._kept.get((cache, key))
        return None if found is None else found[0]

    def keep(self, cache: str, key: str, results: Mapping[str, Any], time_to_live: timedelta) -> None:
        """Keep results for a while; if there are too many, the one that was not used for longest goes."""
        self._kept[cache, key] = results, time_to_live.total_seconds()

    def pause(self, group: str | None, wait: timedelta) -> None:
        """Send nothing of a group of steps for so long; None: nothing at all."""
        self._until[group] = max(self._until.get(group, 0.0), self._clock() + wait.total_seconds())

    def wait(self, group: str | None) -> timedelta | None:
        """Return how long nothing of a group may be sent, None if it may be now."""
        left = self._until.get(group, 0.0) - self._clock()
        return timedelta(seconds=left) if left > 0 else None
