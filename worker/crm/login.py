"""Keep one login for all requests: in memory alone, renewed before it ends, and made by one at a time."""

import time
from collections.abc import Callable, Coroutine
from typing import Any

from worker.core.errors import DeliveryUnavailable, SinkLoginRefused
from worker.crm.single_flight import SingleFlight
from worker.crm.steps import Access

RENEW_AT = 0.9
"""The part of its life after which a login is renewed."""


class Logins:
    """The present login, single-flight: whoever needs one while it is made waits for that one.

    After a refusal nobody asks again for a while: each failed login counts towards the CRM's lockout, and the
    deliveries that were in work would all try.
    """

    def __init__(
        self,
        log_in: Callable[[], Coroutine[Any, Any, Access]],
        refused_wait: float,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Log in by `log_in`; after a refusal not again for `refused_wait` seconds."""
        self._log_in = log_in
        self._refused_wait = refused_wait
        self._clock = clock
        self._access: Access | None = None
        self._renew_at = self._ends_at = 0.0
        self._flights = SingleFlight[Access]()
        self._refusal: str | None = None
        self._refused_until = 0.0

    async def get(self) -> Access:
        """Return a login that is good for a while. Raises `DeliveryUnavailable`."""
        if self._access is not None and self._clock() < self._renew_at:
            return self._access
        try:
            return await self._fly()
        except DeliveryUnavailable as error:
            still_good = self._access is not None and self._clock() < self._ends_at
            if self._access is not None and still_good and not isinstance(error, SinkLoginRefused):
                return self._access
            raise

    async def renew(self, stale: Access) -> Access:
        """Return another login than one that the CRM no longer accepts. Raises `DeliveryUnavailable`."""
        if self._access is stale:
            self._access = None
        return await self.get()

    def forget(self) -> None:
        """Forget the login and its refusal: what it is made with has changed."""
        self._access = None
        self._refusal = None

    async def close(self) -> None:
        """End a login that is being made."""
        await self._flights.close()

    async def _fly(self) -> Access:
        if self._refusal is not None and self._clock() < self._refused_until:
            raise SinkLoginRefused(self._refusal)
        access, _ = await self._flights.do("login", self._make)
        return access

    async def _make(self) -> Access:
        started = self._clock()
        try:
            access = await self._log_in()
        except SinkLoginRefused as error:
            self._refusal = str(error)
            self._refused_until = self._clock() + self._refused_wait
            raise
        life = float("inf") if access.lifetime is None else access.lifetime.total_seconds()
        self._access, self._refusal = access, None
        self._renew_at, self._ends_at = started + RENEW_AT * life, started + life
        return access
