"""The JSON Schemas of the events that are understood, from the models that read them.

They say what is accepted, so they are a little wider than what a producer should
send: a number is taken for an id, and `null` for a field that is left out.
"""

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from worker.core.events import AgentOnboarded, CallEnded, EventType
from worker.core.parsing import EVENT_ID_PATTERN, VISIBLE_PATTERN

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

CLOUD_EVENT_IDENTITY: dict[str, dict[str, Any]] = {
    "id": {
        "type": "string",
        "minLength": 1,
        "description": "The event's id, if it is a UUID. Any other counts within its source: the event's id"
        " is then a UUIDv5 of the two.",
    },
    "source": {"type": "string", "minLength": 1, "description": "Who says so."},
}
"""The attributes of a CloudEvent that name it."""

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
    """Give the JSON Schema of each event as plain JSON, by its type (draft-07 and later)."""
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


def cloud_event_schema(kind: str, data: dict[str, Any]) -> dict[str, Any]:
    """Give the JSON Schema of a CloudEvents 1.0 envelope in structured mode, with that schema of its data."""
    return {
        "type": "object",
        "description": "A CloudEvent in structured mode.",
        "required": ["specversion", "id", "source", "type", "data"],
        "properties": {
            "specversion": {"const": "1.0"},
            **CLOUD_EVENT_IDENTITY,
            "type": {"const": kind},
            "time": {"type": "string", "description": "When it happened, with an offset."},
            "datacontenttype": {"const": "application/json"},
            "data": data,
        },
    }
