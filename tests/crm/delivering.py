"""Delivering payloads by a preset into a stand-in, through the real sink, and how the attempts end."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest

from simulators.crms.base import CrmStandIn
from worker.commands.event_schemas import payloads
from worker.core.errors import DeliveryIncomplete, DeliveryRejected, DeliveryUnavailable, ProcessingError
from worker.core.payload import Payload
from worker.core.ports import CrmRecord, Receipt
from worker.crm.client import CrmClient, open_session
from worker.crm.compiled import compile_preset
from worker.crm.limits import Limits
from worker.crm.memory import Memory
from worker.crm.session import CrmSession, open_crm
from worker.crm.sink import CrmSink
from worker.crm.source import read_preset
from worker.settings import Settings

CALL, AGENT = "call.enriched", "agent.enriched"
TIMEOUT = timedelta(seconds=5)


# --- payloads -------------------------------------------------------------------------------------


def call(key: str = "V1201405090000000001", **changed: Any) -> Payload:  # noqa: ANN401 - any field
    """Return the payload of an outbound sale that an agent talked of for two minutes."""
    record: dict[str, Any] = {
        "call_id": key,
        "direction": "outbound",
        "call_type": "OUTBOUND_AUTO",
        "started_at": "2026-11-20T14:05:09-05:00",
        "ended_at": None,
        "talk_seconds": 120,
        "duration_seconds": None,
        "agent_user": "1000",
        "phone_number": "3125551212",
        "status": "SALE",
        "campaign_id": "SALES1",
        "in_group_id": None,
        "list_id": "1001",
        "lead_id": "12345",
        "recordings": [],
    }
    data = {"event_id": f"event-{key}", "final": True, "call": record | changed, "event": {}}
    return _payload("call.enriched", f"event-{key}", data)


def agent(user: str, email: str, missing: tuple[str, ...] = ()) -> Payload:
    """Return the payload of an agent who was onboarded with this address, and lacks these campaigns."""
    record = {"agent_user": user, "full_name": "Ann Example", "campaigns": [], "in_groups": []}
    data = {"event_id": f"agent-{user}", "agent": record, "event": {"agent_user": user, "email": email}}
    data["access_check"] = {"ok": not missing, "missing": list(missing), "unexpected": []}
    return _payload("agent.enriched", f"agent-{user}", data)


def again(payload: Payload, progress: str | None) -> Payload:
    """Return the payload of the next attempt."""
    return replace(payload, progress=progress)


def _payload(kind: str, event_id: str, data: dict[str, Any]) -> Payload:
    body = {"type": kind, "timestamp": "2026-11-20T19:07:14Z", "data": data}
    return Payload(event_id, kind, json.dumps(body).encode())


# --- sinks ----------------------------------------------------------------------------------------


def settings_for(crm: Mapping[str, Any], **more: Any) -> Settings:  # noqa: ANN401 - other sections
    """Return settings with this section `sink.crm`."""
    dialer = {"url": "https://dialer.example/api.php", "user": "api", "password": "hunter2-hunter2"}
    return Settings.model_validate({"vicidial": dialer, "sink": {"kind": "crm", "crm": crm}, **more})


@asynccontextmanager
async def sink_into(crm: CrmStandIn, **own: Any) -> AsyncIterator[CrmSink]:  # noqa: ANN401 - any setting
    """Open the sink for a stand-in, with its settings and these."""
    async with open_crm(settings_for(crm.settings() | own), connections=64) as session:
        yield CrmSink(session)


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


# --- how an attempt ends --------------------------------------------------------------------------


async def delivered(sink: CrmSink, payload: Payload) -> CrmRecord:
    """Deliver a call, and return what the CRM said of its record."""
    record = (await sink.deliver(payload)).record
    assert record is not None
    return record


async def unavailable(sink: CrmSink, payload: Payload) -> tuple[DeliveryUnavailable, Payload]:
    """Return why it can't be delivered now, and the payload of the next attempt."""
    with pytest.raises(DeliveryUnavailable) as caught:
        await sink.deliver(payload)
    return caught.value, again(payload, caught.value.progress)


async def incomplete(sink: CrmSink, payload: Payload) -> tuple[str, Payload]:
    """Return what is not done after the record is written, and the payload of the next attempt."""
    with pytest.raises(DeliveryIncomplete) as caught:
        await sink.deliver(payload)
    return str(caught.value), again(payload, caught.value.progress)


async def rejected(sink: CrmSink, payload: Payload) -> str:
    """Return why it will never be delivered."""
    with pytest.raises(DeliveryRejected) as caught:
        await sink.deliver(payload)
    return str(caught.value)


# --- as a worker delivers -------------------------------------------------------------------------


@dataclass
class Worker:
    """Delivers as a worker does: a failed event comes again with its progress."""

    session: CrmSession
    sink: CrmSink
    statuses: list[str]
    secrets: list[str]
    failures: list[ProcessingError] = field(default_factory=list)

    async def deliver(
        self,
        kind: str = CALL,
        *,
        progress: str | None = None,
        **changes: Any,  # noqa: ANN401 - fields
    ) -> Receipt:
        """Deliver the example's payload with some fields of its call changed."""
        payload = json.loads(json.dumps(payloads()[kind]))
        payload["data"].get("call", {}).update(changes)
        body = json.dumps(payload).encode()
        return await self.sink.deliver(Payload(payload["data"]["event_id"], kind, body, progress))

    async def deliver_in_the_end(self, kind: str = CALL, tries: int = 5, **changes: Any) -> Receipt:  # noqa: ANN401
        """Deliver, and again after each failure and the wait that it asks for."""
        progress = None
        for _ in range(tries):
            try:
                return await self.deliver(kind, progress=progress, **changes)
            except ProcessingError as error:
                self.failures.append(error)
                progress = error.progress or progress
                if isinstance(error, DeliveryUnavailable) and error.retry_after is not None:
                    await asyncio.sleep(min(error.retry_after.total_seconds(), 3.0))
        raise self.failures[-1]


@asynccontextmanager
async def worker_for(crm: CrmStandIn | Mapping[str, Any], **more: Any) -> AsyncIterator[Worker]:  # noqa: ANN401
    """Open a worker that delivers into a stand-in; `more` are other sections of the settings."""
    own = crm.settings() if isinstance(crm, CrmStandIn) else crm
    statuses: list[str] = []
    secrets: list[str] = []
    settings = settings_for(own, **more)
    async with open_crm(settings, observe=statuses.append, on_secret=secrets.append) as session:
        yield Worker(session, CrmSink(session), statuses, secrets)
