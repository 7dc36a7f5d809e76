"""Attempts at a delivery whose clock the test sets, and how they end."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from simulators.crms.base import CrmStandIn
from worker.core.errors import DeliveryIncomplete, DeliveryRejected, DeliveryUnavailable
from worker.core.payload import Payload
from worker.core.ports import CrmRecord
from worker.crm.client import CrmClient, open_session
from worker.crm.compiled import compile_preset
from worker.crm.limits import Limits
from worker.crm.memory import Memory
from worker.crm.session import CrmSession
from worker.crm.sink import CrmSink
from worker.crm.source import read_preset

TIMEOUT = timedelta(seconds=5)


class Clock:
    """A clock that a test sets, in seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def session_at(crm: CrmStandIn, clock: Clock, **settings: Any) -> AsyncIterator[CrmSession]:  # noqa: ANN401
    """Open a session for a stand-in, with its settings and these."""
    given = crm.settings() | settings
    preset = read_preset(given.pop("preset"), given.pop("tables", {}))
    compiled = compile_preset(preset, given, dialer="dialer.example")
    memory = Memory(clock=clock)
    limits = Limits(preset.limits, memory.wait, clock=clock)
    async with open_session(TIMEOUT, 8) as http:
        session = CrmSession(compiled, CrmClient(http, limits, TIMEOUT), memory)
        try:
            yield session
        finally:
            await session.close()


@asynccontextmanager
async def sink_at(crm: CrmStandIn, clock: Clock, **settings: Any) -> AsyncIterator[CrmSink]:  # noqa: ANN401
    """Open the sink for a stand-in, with its settings and these."""
    async with session_at(crm, clock, **settings) as session:
        yield CrmSink(session)


async def delivered(sink: CrmSink, payload: Payload) -> CrmRecord:
    """Deliver a call, and return what the CRM said of its record."""
    record = (await sink.deliver(payload)).record
    assert record is not None
    return record


async def unavailable(sink: CrmSink, payload: Payload) -> tuple[DeliveryUnavailable, Payload]:
    """Return why it can't be delivered now, and the payload of the next attempt."""
    with pytest.raises(DeliveryUnavailable) as caught:
        await sink.deliver(payload)
    return caught.value, replace(payload, progress=caught.value.progress)


async def incomplete(sink: CrmSink, payload: Payload) -> tuple[str, Payload]:
    """Return what is not done after the record is written, and the payload of the next attempt."""
    with pytest.raises(DeliveryIncomplete) as caught:
        await sink.deliver(payload)
    return str(caught.value), replace(payload, progress=caught.value.progress)


async def rejected(sink: CrmSink, payload: Payload) -> str:
    """Return why it will never be delivered."""
    with pytest.raises(DeliveryRejected) as caught:
        await sink.deliver(payload)
    return str(caught.value)
