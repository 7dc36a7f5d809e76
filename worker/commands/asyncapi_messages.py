"""The messages of the AsyncAPI document: payloads from the models of the core, headers, and examples."""

import json
from typing import Any

from worker.commands import examples
from worker.commands.schemas import CLOUD_EVENT_IDENTITY, cloud_event_schema, event_schemas
from worker.core.errors import BY_THE_BROKER, Reason
from worker.core.parsing import EVENT_ID_PATTERN
from worker.core.payload import schemas as payload_schemas
from worker.core.ports import Stage
from worker.core.signature import sign
from worker.rabbitmq.message import MAX_ERROR, Header

AMQP = {"bindingVersion": "0.3.0"}
NAMES = {
    "call.ended": "callEnded",
    "agent.onboarded": "agentOnboarded",
    "call.enriched": "callEnriched",
    "agent.enriched": "agentEnriched",
}
TITLES = {
    "call.ended": "A call ended",
    "agent.onboarded": "An agent was onboarded",
    "call.enriched": "A call, with what the dialer knows of it",
    "agent.enriched": "An agent, with what the dialer knows of it",
}

_PING = {
    "type": "object",
    "description": "Shows that a payload would arrive.",
    "additionalProperties": False,
    "required": ["type", "timestamp", "data"],
    "properties": {
        "type": {"const": "ping"},
        "timestamp": {"type": "string", "format": "date-time", "description": "When it was sent."},
        "data": {"type": "object"},
    },
}
_POSTED_AT = 1795201636
_HEADER_SENTENCES = {
    Header.EVENT_ID: "The event's id; missing where the message names none.",
    Header.ATTEMPT: "The number of the attempt that failed, from 1.",
    Header.FIRST_SEEN: "When the event was first taken in.",
    Header.ROUTING_KEY: "The routing key that its producer used.",
    Header.REASON: "Why it is here.",
    Header.ERROR: "The last error, in words.",
    Header.STAGE: "The step that failed.",
    Header.FAILED_AT: "When it was given up.",
    Header.ENRICHMENT: "What the dialer said, as JSON, so that a replay need not ask again.",
}


def cloud_names(kind: str) -> list[str]:
    """Name the messages that are an event of this type as a CloudEvent, structured and binary."""
    return [f"{NAMES[kind]}CloudEvent", f"{NAMES[kind]}BinaryCloudEvent"]


def messages() -> dict[str, Any]:
    """Give each message by its name."""
    found: dict[str, Any] = {}
    for kind, event in examples.EVENTS.items():
        found |= _event_messages(kind, event)
    for kind, payload in examples.payloads().items():
        found |= _payload_messages(kind, payload)
    return found | {"ping": _ping(), "deadLetter": _dead_letter()}


def _event_messages(kind: str, event: dict[str, Any]) -> dict[str, Any]:
    """Describe the three ways of writing one event."""
    structured, binary = cloud_names(kind)
    envelope = examples.cloud_event(kind)
    attributes = examples.cloud_event_headers(kind)
    return {
        NAMES[kind]: _message(kind, "plain JSON", _schema(kind), {"payload": event})
        | {"bindings": {"amqp": {"messageType": kind} | AMQP}},
        structured: _message(
            kind, "a CloudEvent in structured mode", _schema(kind, "CloudEvent"), {"payload": envelope}
        )
        | {"contentType": "application/cloudevents+json"},
        binary: _message(
            kind,
            "a CloudEvent in binary mode",
            _schema(kind),
            {"headers": attributes, "payload": envelope["data"]},
        )
        | {"headers": _cloud_headers(kind)},
    }


def _payload_messages(kind: str, payload: dict[str, Any]) -> dict[str, Any]:
    posted = _posted(payload["data"]["event_id"], payload)
    return {
        NAMES[kind]: _message(kind, "published", _schema(kind), {"payload": payload})
        | {
            "description": "The AMQP property `message_id` is the event's id, `type` the payload's type.",
            "bindings": {"amqp": {"messageType": kind} | AMQP},
        },
        f"{NAMES[kind]}Webhook": _message(
            kind, "posted", _schema(kind), {"headers": posted, "payload": payload}
        )
        | {"headers": _webhook_headers()},
    }


def _ping() -> dict[str, Any]:
    payload: dict[str, Any] = {"type": "ping", "timestamp": "2026-11-20T19:07:16Z", "data": {}}
    posted = _posted("ping-2f6d3a58-0a53-4b1e-8a53-5b0f6a2c9d10", payload)
    return {
        "name": "ping",
        "title": "A ping, which means nothing",
        "description": "Posted by `crm-sync check --ping`. Answer 2xx, or 404 if you do not support it.",
        "headers": _webhook_headers(),
        "payload": {"$ref": "#/components/schemas/Ping"},
        "examples": [{"name": "example", "headers": posted, "payload": payload}],
    }


def _posted(message_id: str, payload: dict[str, Any]) -> dict[str, str]:
    body = json.dumps(payload, separators=(",", ":")).encode()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(_POSTED_AT),
        "webhook-signature": sign(b"the key of this example", message_id, _POSTED_AT, body),
        "idempotency-key": message_id,
    }


def _message(kind: str, form: str, payload: dict[str, Any], example: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": kind,
        "title": f"{TITLES[kind]} ({form})",
        "contentType": "application/json",
        "payload": payload,
        "examples": [{"name": "example"} | example],
    }


def _dead_letter() -> dict[str, Any]:
    event = examples.EVENTS["call.ended"]
    at = "2026-11-20T19:07:15.016204+00:00"
    said: dict[str, Any] = {
        Header.EVENT_ID: event["event_id"],
        Header.ATTEMPT: 1,
        Header.FIRST_SEEN: at,
        Header.ROUTING_KEY: event["type"],
        Header.REASON: Reason.REJECTED_BY_SINK.value,
        Header.ERROR: "the webhook answered 422: 'unknown campaign SALES1'",
        Header.STAGE: Stage.DELIVER.value,
        Header.FAILED_AT: at,
    }
    return {
        "name": "dead-letter",
        "title": "A dead letter",
        "description": "The body and the properties are those of the event. What the broker moved here by"
        " itself (`delivery_limit`, `expired`, or too large to copy) has none of these headers but those of"
        " its last retry; its `x-death` says the rest.",
        "headers": {"type": "object", "properties": _dead_letter_headers()},
        "payload": {"description": "The body as its producer sent it, whatever that is."},
        "examples": [{"name": "example", "headers": said, "payload": event}],
    }


def _dead_letter_headers() -> dict[str, Any]:
    written = [str(reason) for reason in Reason if reason not in BY_THE_BROKER]
    time = {"type": "string", "format": "date-time"}
    kinds: dict[str, dict[str, Any]] = {
        Header.EVENT_ID: {"type": "string", "pattern": EVENT_ID_PATTERN},
        Header.ATTEMPT: {"type": "integer", "minimum": 1},
        Header.FIRST_SEEN: time,
        Header.ROUTING_KEY: {"type": "string"},
        Header.REASON: {"type": "string", "enum": written},
        Header.ERROR: {"type": "string", "maxLength": MAX_ERROR},
        Header.STAGE: {"type": "string", "enum": [str(stage) for stage in Stage]},
        Header.FAILED_AT: time,
        Header.ENRICHMENT: {"type": "string", "contentMediaType": "application/json"},
    }
    return {name: kind | {"description": _HEADER_SENTENCES[name]} for name, kind in kinds.items()}


def _cloud_headers(kind: str) -> dict[str, Any]:
    return {
        "type": "object",
        "description": "The prefix may also be `cloudEvents_` or `ce-`.",
        "required": [f"cloudEvents:{name}" for name in ("specversion", "id", "source", "type")],
        "properties": {
            "cloudEvents:specversion": {"const": "1.0"},
            **{f"cloudEvents:{name}": said for name, said in CLOUD_EVENT_IDENTITY.items()},
            "cloudEvents:type": {"const": kind},
            "cloudEvents:time": {"type": "string", "description": "When it happened, with an offset."},
        },
    }


def _webhook_headers() -> dict[str, Any]:
    an_id = {"type": "string", "pattern": EVENT_ID_PATTERN}
    return {
        "type": "object",
        "required": ["webhook-id", "webhook-timestamp", "idempotency-key"],
        "properties": {
            "webhook-id": an_id | {"description": "The event's id, the same each time: drop repeats by it."},
            "webhook-timestamp": {
                "type": "string",
                "pattern": "^[0-9]+$",
                "description": "When it was sent, in seconds since 1970.",
            },
            "webhook-signature": {
                "type": "string",
                "pattern": "^v1,[A-Za-z0-9+/]{43}=( v1,[A-Za-z0-9+/]{43}=)*$",
                "description": "Standard Webhooks: `v1,` and the base64 of the HMAC-SHA256 of"
                " `id.timestamp.body`; several with blanks between them, of which one has to fit."
                " Missing where no `sink.signing_secret` is set.",
            },
            "idempotency-key": an_id | {"description": "The same as `webhook-id`."},
        },
    }


# --- schemas --------------------------------------------------------------------------------------


def schemas() -> dict[str, Any]:
    """Give each schema by its name; they refer to each other."""
    found: dict[str, Any] = {}
    for kind, schema in event_schemas().items():
        found[_schema_name(kind)] = schema
        found[_schema_name(kind, "CloudEvent")] = cloud_event_schema(kind, _schema(kind))
    for kind, schema in payload_schemas().items():
        inner = schema.pop("$defs")
        del schema["$schema"]
        found |= {name: _moved(each) for name, each in inner.items()} | {_schema_name(kind): _moved(schema)}
    return found | {"Ping": _PING}


def _schema_name(kind: str, ending: str = "") -> str:
    return NAMES[kind][0].upper() + NAMES[kind][1:] + ending


def _schema(kind: str, ending: str = "") -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{_schema_name(kind, ending)}"}


def _moved(schema: Any) -> Any:  # noqa: ANN401 - any part of a schema
    """Let a schema refer to where the document keeps it.

    pydantic's titles only repeat the names, and no payload leaves out what would need a default.
    """
    if isinstance(schema, list):
        return [_moved(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: value.replace("#/$defs/", "#/components/schemas/") if key == "$ref" else _moved(value)
        for key, value in schema.items()
        if key != "default" and not (key == "title" and isinstance(value, str))
    }
