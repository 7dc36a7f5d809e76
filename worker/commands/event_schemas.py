"""The JSON Schemas of the events that are accepted, and the examples that the documents show.

The schemas come from the models that parse events. They say what is accepted, so they are a little wider
than what a producer should send: a number is accepted as an id, and `null` as a field that is left out.
"""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from worker.core.events import (
    EVENT_ID_PATTERN,
    VISIBLE_PATTERN,
    AgentOnboarded,
    CallEnded,
    EventType,
    Inbound,
    decode,
)
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

_MODELS: dict[EventType, type[BaseModel]] = {
    EventType.CALL_ENDED: CallEnded,
    EventType.AGENT_ONBOARDED: AgentOnboarded,
}
_SUMMARIES = {EventType.CALL_ENDED: "A call ended.", EventType.AGENT_ONBOARDED: "An agent was onboarded."}

_UNKNOWN_CALL = "Used where the dialer does not know the call (`vicidial.not_found: deliver`)."
FIELDS = {
    "type": "What happened. Unset: the AMQP property `type`, else the routing key.",
    "event_id": "The same for each repeat of the event. Unset: the CloudEvents id, else the `message_id`,"
    " else derived from the type, the call or agent, and `occurred_at` (unset: the whole body).",
    "occurred_at": "When it happened, such as 2026-11-20T14:07:14-05:00. Without an offset it is in"
    " `vicidial.timezone`, else UTC. Unset: the CloudEvents time, else the AMQP timestamp, else the time it"
    " was first seen.",
    "call_id": "VICIdial's id of the call, such as V1201405090000012345.",
    "uniqueid": "Asterisk's id of the call; its recordings are found by it.",
    "lead_id": "The lead; recordings are found by it too, and it stands in the payload.",
    "ended_at": "When the call ended, written like `occurred_at`; taken before what the dialer says.",
    "agent_user": f"Who took the call. {_UNKNOWN_CALL}",
    "campaign_id": _UNKNOWN_CALL,
    "in_group_id": _UNKNOWN_CALL,
    "list_id": _UNKNOWN_CALL,
    "phone_number": _UNKNOWN_CALL,
    "status": _UNKNOWN_CALL,
    "expected_campaigns": "Campaigns that the agent should have; the payload then has an `access_check`.",
}
"""A sentence for each field."""

_AGENTS_USER = "VICIdial's user name of the agent."
_ONLY_PASSED_ON = ("in_group_id", "list_id", "phone_number", "status")
"""Of a call: no model reads them, so any value is accepted."""


class _AsAccepted(GenerateJsonSchema):
    """Tells that a number is taken for an id, which a model's own schema does not."""

    def str_schema(self, schema: core_schema.StringSchema) -> JsonSchemaValue:
        plain = super().str_schema(schema)
        return plain if schema.get("strict") else plain | {"type": ["string", "number"]}

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        inner = self.generate_inner(schema["schema"])
        types = inner["type"] if isinstance(inner["type"], list) else [inner["type"]]
        return inner | {"type": [*types, "null"]}


def event_schemas() -> dict[str, dict[str, Any]]:
    """Return the JSON Schema of each event as plain JSON, by its type (draft-07 and later)."""
    return {str(kind): _event_schema(kind) for kind in EventType}


def _event_schema(kind: EventType) -> dict[str, Any]:
    model = _MODELS[kind]
    generated = model.model_json_schema(schema_generator=_AsAccepted)
    known = {
        name: {key: value for key, value in field.items() if key not in ("title", "default")}
        for name, field in generated["properties"].items()
    }
    for name in generated["required"]:
        known[name] |= {"pattern": VISIBLE_PATTERN}
    known["event_id"] |= {"pattern": EVENT_ID_PATTERN}
    if kind is EventType.CALL_ENDED:
        known |= {name: {} for name in _ONLY_PASSED_ON}
    else:
        known["expected_campaigns"]["items"] |= {"pattern": VISIBLE_PATTERN}
    properties = {
        name: field | {"description": FIELDS[name]}
        for name, field in ({"type": {"const": str(kind)}} | known).items()
    }
    if kind is EventType.AGENT_ONBOARDED:
        properties["agent_user"]["description"] = _AGENTS_USER
    return {
        "type": "object",
        "description": f"{_SUMMARIES[kind]} Unknown fields are kept and passed on.",
        "required": generated["required"],
        "properties": properties,
    }


# --- examples -------------------------------------------------------------------------------------

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
    """Return an example as a CloudEvent in structured mode: its id and time stand in the envelope."""
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
    """Return the headers of an example as a CloudEvent in binary mode; the body is the data."""
    envelope = cloud_event(kind)
    return {f"cloudEvents:{name}": envelope[name] for name in ("specversion", "id", "source", "type", "time")}
