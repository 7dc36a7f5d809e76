"""The examples that the documents show: an event of each type, and the payload that becomes of it."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from worker.core.events import Inbound, decode
from worker.core.payload import build_payload
from worker.core.records import (
    AgentEnrichment,
    AgentRecord,
    CallEnrichment,
    CallRecord,
    Campaign,
    Enrichment,
    Recording,
)

_EASTERN = timezone(timedelta(hours=-5))

EVENTS: dict[str, dict[str, Any]] = {
    "call.ended": {
        "type": "call.ended",
        "event_id": "9f1c2c1e-6f0e-4a53-9c6b-0a4f5d0c7a11",
        "occurred_at": "2026-11-20T14:07:14-05:00",
        "call_id": "V1201405090000012345",
        "uniqueid": "1795269909.101",
        "lead_id": 12345,
        "agent_user": "1000",
        "campaign_id": "SALES1",
    },
    "agent.onboarded": {
        "type": "agent.onboarded",
        "event_id": "7a2b6f0e-1d3c-4e5f-8a9b-2c3d4e5f6a7b",
        "occurred_at": "2026-11-20T09:00:00-05:00",
        "agent_user": "agent001",
        "expected_campaigns": ["SALES1"],
    },
}
"""By type; each as plain JSON."""

_ENRICHMENTS: dict[str, Enrichment] = {
    "call.ended": CallEnrichment(
        call=CallRecord(
            call_id="V1201405090000012345",
            direction="outbound",
            call_type="OUTBOUND_AUTO",
            started_at=datetime(2026, 11, 20, 14, 5, 9, tzinfo=_EASTERN),
            talk_seconds=120,
            agent_user="1000",
            phone_number="3125551212",
            status="SALE",
            campaign_id="SALES1",
            list_id="1001",
            recordings=(
                Recording(
                    recording_id="1",
                    file_name="20261120-140515_3125551212-all.mp3",
                    url="https://dialer.example/RECORDINGS/20261120-140515_3125551212-all.mp3",
                    started_at=datetime(2026, 11, 20, 14, 5, 15, tzinfo=_EASTERN),
                    duration_seconds=120,
                ),
            ),
        )
    ),
    "agent.onboarded": AgentEnrichment(
        agent=AgentRecord(
            agent_user="agent001",
            full_name="Agnes Agent",
            access_level=1,
            user_group="AGENTS",
            campaigns=(Campaign(campaign_id="SALES1", name="Sales one"),),
            in_groups=("SALESLINE",),
        ),
        campaigns_text="SALES1",
    ),
}


def payloads() -> dict[str, dict[str, Any]]:
    """Build the payload of each example, by the payload's type, as its receiver reads it."""
    built = [
        build_payload(
            decode(Inbound(json.dumps(event).encode(), kind, datetime(2027, 1, 1, tzinfo=UTC), {})),
            _ENRICHMENTS[kind],
        )
        for kind, event in EVENTS.items()
    ]
    return {payload.type: json.loads(payload.body) for payload in built}


def cloud_event(kind: str) -> dict[str, Any]:
    """Give an example as a CloudEvent in structured mode: its id and time stand in the envelope."""
    data = dict(EVENTS[kind])
    return {
        "specversion": "1.0",
        "id": data.pop("event_id"),
        "source": "/telephony/pbx-1",
        "type": data.pop("type"),
        "time": data.pop("occurred_at"),
        "datacontenttype": "application/json",
        "data": data,
    }


def cloud_event_headers(kind: str) -> dict[str, str]:
    """Give the headers of an example as a CloudEvent in binary mode; the body is the data."""
    envelope = cloud_event(kind)
    return {f"cloudEvents:{name}": envelope[name] for name in ("specversion", "id", "source", "type", "time")}
