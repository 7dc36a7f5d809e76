"""Delivers payloads by a preset into its stand-in, through the real sink."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from simulators.crms.base import CrmStandIn
from tests.crm.deliver import settings_for
from worker.core.payload import Payload
from worker.crm.session import open_crm
from worker.crm.sink import CrmSink


@asynccontextmanager
async def sink_into(crm: CrmStandIn, **own: Any) -> AsyncIterator[CrmSink]:  # noqa: ANN401 - any setting
    """Open the sink for a stand-in, with its settings and these."""
    async with open_crm(settings_for(crm.settings() | own), connections=64) as session:
        yield CrmSink(session)


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
