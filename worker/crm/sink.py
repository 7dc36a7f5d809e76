"""Delivering to a CRM by its own API."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from worker.core.errors import DeliveryUnavailable, FailureKind
from worker.core.payload import Payload
from worker.core.ports import CrmRecord, Receipt
from worker.crm.session import CrmSession
from worker.crm.steps import Done


class CrmSink:
    """Fulfils `worker.core.ports.Sink`."""

    def __init__(self, session: CrmSession) -> None:
        """Deliver through a session."""
        self._session = session
        self._keys = KeyedLock()

    async def deliver(self, payload: Payload) -> Receipt:
        """Write the payload into the CRM; see the port for what it raises.

        Deliveries of the same call come one after another: two at once could both find no record.
        """
        if (wait := self._session.memory.wait(None)) is not None:
            raise DeliveryUnavailable("the CRM asked to wait", FailureKind.BUSY, wait)
        self._session.refresh()
        names = self._session.names(json.loads(payload.body))
        async with self._keys.hold(str(names["key"])):
            done = await self._session.deliver(names, payload.progress)
        return _receipt(payload.type, done)


def _receipt(kind: str, done: Done) -> Receipt:
    detail = "; ".join([done.outcome, *(f"left out: {why}" for why in done.left_out)])
    if kind != "call.enriched":
        return Receipt(detail, asked=done.asked)
    record, linked = (
        None if value is None else str(value) for value in map(done.receipt.get, ("id", "linked"))
    )
    return Receipt(detail, CrmRecord(done.outcome, record, linked), asked=done.asked)


class KeyedLock:
    """A lock for each key, for as long as somebody holds it or waits for it."""

    def __init__(self) -> None:
        """Start without any."""
        self._locks: dict[str, asyncio.Lock] = {}
        self._users: Counter[str] = Counter()

    @asynccontextmanager
    async def hold(self, key: str) -> AsyncIterator[None]:
        """Hold the lock of a key."""
        lock = self._locks.setdefault(key, asyncio.Lock())
        self._users[key] += 1
        try:
            async with lock:
                yield
        finally:
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key], self._locks[key]
