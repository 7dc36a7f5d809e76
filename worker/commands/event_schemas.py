"""The JSON Schemas of the events that are accepted, and the examples that the documents show.

The schemas come from the models that parse events. They say what is accepted, so they are a little wider
than what a producer should send: a number is accepted as an id, and `null` as a field that is left out.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, TypeAdapter
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
from worker.core.payload import Enrichment
from worker.core.pipeline import build_payload

_MODELS: dict[EventType, type[BaseModel]] = {
    EventType.CALL_ENDED: CallEnded,
    EventType.AGENT_ONBOARDED: AgentOnboarded,
}
_SUMMARIES = {EventType.CALL_ENDED: "A call ended.", EventType.AGENT_ONBOARDED: "An agent was onboarded."}

_DATA: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("examples.yaml").read_text(encoding="utf-8"))
FIELDS: dict[str, str] = _DATA["fields"]
"""A sentence for each field."""
EVENTS: dict[str, dict[str, Any]] = _DATA["events"]
"""An example of each type, as plain JSON."""

_AGENTS_USER = "VICIdial's user name of the agent."
_ONLY_PASSED_ON = ("in_group_id", "list_id", "phone_number", "status")
"""Of a call: no model reads them, so any value is accepted."""


class _AsAccepted(GenerateJsonSchema):
    """Allows a number for an id, which a model's own schema does not."""

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


def payloads() -> dict[str, dict[str, Any]]:
    """Build the payload of each example, by the payload's type, as its receiver reads it."""
    read: TypeAdapter[Enrichment] = TypeAdapter(Enrichment)
    built = [
        build_payload(
            decode(Inbound(json.dumps(event).encode(), kind, datetime(2027, 1, 1, tzinfo=UTC), {})),
            read.validate_python(_DATA["enrichments"][kind]),
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
