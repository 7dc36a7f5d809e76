"""The AsyncAPI 3.0 document that `crm-sync schema --asyncapi` prints: what comes in and goes out, and where.

The messages come from the models of the core, the names from the topology and
from the headers' constants. Payloads are plain Schema Objects
(JSON Schema draft-07, AsyncAPI's own kind), which every tool can read.

https://www.asyncapi.com/docs/reference/specification/v3.0.0
"""

import json
from typing import Any

import yaml

from worker import __version__
from worker.commands.event_schemas import (
    CLOUD_EVENT_IDENTITY,
    EVENTS,
    cloud_event,
    cloud_event_headers,
    cloud_event_schema,
    event_schemas,
    payloads,
)
from worker.core.errors import BY_THE_BROKER, Reason
from worker.core.events import EVENT_ID_PATTERN, EventType
from worker.core.payload import schemas as payload_schemas
from worker.core.ports import Stage
from worker.core.signature import sign
from worker.rabbitmq.message import MAX_ERROR, MAX_PROGRESS, Header
from worker.rabbitmq.topology import build_topology
from worker.settings import BrokerCommandSettings

_AMQP = {"bindingVersion": "0.3.0"}
_NAMES = {
    "call.ended": "callEnded",
    "agent.onboarded": "agentOnboarded",
    "call.enriched": "callEnriched",
    "agent.enriched": "agentEnriched",
}
_TITLES = {
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
    Header.PROGRESS: "What was done of the delivery to a CRM; only on what the broker moved here by itself.",
}
_ABOUT = """\
`crm-sync` takes events from RabbitMQ, asks VICIdial about each, and delivers the enriched payload to a CRM's
webhook (`sink.kind: webhook`) or to an exchange on the same broker (`sink.kind: queue`).

`receive` and `send` are said of `crm-sync`: publish what it receives, and receive what it sends. Everything
is delivered at least once; drop repeats by the event's id.
"""

_HOW_IT_IS_ANSWERED = """\
Any 2xx, and 409, say that the CRM has the payload. After 401, 403, 408, 425, 429, 5xx or no answer at all it
is sent again later, with the same `webhook-id`. Any other answer makes it a dead letter. Redirects are not
followed.
"""


def as_yaml(document: dict[str, Any]) -> str:
    """Write the document for people and tools alike."""
    apart = json.loads(json.dumps(document))  # what stands in it twice would be an alias
    return yaml.dump(apart, Dumper=_Readable, sort_keys=False, allow_unicode=True, width=110)


class _Readable(yaml.SafeDumper):
    """Writes text of several lines as lines."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Readable.add_representer(str, _represent_text)


def asyncapi(settings: BrokerCommandSettings) -> dict[str, Any]:
    """Return the document, with the names that stand on the broker by these settings."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "crm-sync",
            "version": __version__,
            "description": _ABOUT,
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "servers": _servers(),
        "channels": _channels(settings),
        "operations": _operations(),
        "components": {
            "messages": _messages(),
            "schemas": _schemas(),
            "securitySchemes": {"login": {"type": "userPassword"}},
        },
    }


def _servers() -> dict[str, Any]:
    return {
        "broker": {
            "host": "{host}:{port}",
            "pathname": "/{vhost}",
            "protocol": "amqp",
            "protocolVersion": "0.9.1",
            "description": "RabbitMQ, the one of `broker.url`; with TLS, `amqps` and port 5671.",
            "variables": {
                "host": {"default": "rabbitmq.example"},
                "port": {"default": "5672"},
                "vhost": {"default": "%2F", "description": "The virtual host; `%2F` is RabbitMQ's own."},
            },
            "security": [{"$ref": "#/components/securitySchemes/login"}],
        },
        "crm": {
            "host": "{host}",
            "protocol": "https",
            "description": "The CRM, the one of `sink.url`.",
            "variables": {"host": {"default": "crm.example"}},
        },
    }


# --- channels -------------------------------------------------------------------------------------


def _channels(settings: BrokerCommandSettings) -> dict[str, Any]:
    topology = build_topology(settings)
    arguments = {queue.name: queue.arguments for queue in topology.queues}
    channels: dict[str, Any] = {}
    for kind in EventType:
        about = f"Producers publish {kind} events here, persistent, mandatory and confirmed."
        channels[f"{_NAMES[kind]}Events"] = _by_routing_key(
            settings.broker.events_exchange, kind, about, [_NAMES[kind], *_cloud_names(kind)]
        )
    for kind, queue in topology.work_queues.items():
        about = f"Bound to the events exchange by {kind}; what waits here is worked off by every worker."
        channels[f"{_NAMES[kind]}Queue"] = _queue(
            queue, arguments[queue], about, [_NAMES[kind], *_cloud_names(kind)]
        )
    channels["deadLetters"] = _queue(
        topology.dead_letters,
        arguments[topology.dead_letters],
        "What could not be delivered, for a person to look at: `crm-sync dead-letters`.",
        ["deadLetter"],
    )
    for payload in payload_schemas():
        about = (
            f"{payload} payloads, where `sink.kind` is `queue`. Queue `{settings.broker.namespace}.enriched`"
            " gets all of them; bind one of your own to get a copy."
        )
        channels[f"{_NAMES[payload]}Payloads"] = _by_routing_key(
            topology.outbound_exchange, payload, about, [_NAMES[payload]]
        )
    channels["webhook"] = {
        "address": "/{path}",
        "title": "The webhook",
        "description": "Where `sink.kind` is `webhook`: the address of `sink.url`.",
        "servers": [{"$ref": "#/servers/crm"}],
        "parameters": {"path": {"default": "hooks/calls", "description": "The path of `sink.url`."}},
        "messages": _references([*_posted(), "ping"]),
    }
    return channels


def _by_routing_key(exchange: str, key: str, about: str, messages: list[str]) -> dict[str, Any]:
    on_exchange = {"name": exchange, "type": "topic", "durable": True, "autoDelete": False}
    return {
        "address": str(key),
        "title": f"{exchange}, routing key {key}",
        "description": about,
        "servers": [{"$ref": "#/servers/broker"}],
        "messages": _references(messages),
        "bindings": {"amqp": {"is": "routingKey", "exchange": on_exchange} | _AMQP},
    }


def _queue(name: str, arguments: dict[str, Any], about: str, messages: list[str]) -> dict[str, Any]:
    queue = {"name": name, "durable": True, "exclusive": False, "autoDelete": False}
    return {
        "address": name,
        "description": about,
        "servers": [{"$ref": "#/servers/broker"}],
        "messages": _references(messages),
        "bindings": {
            "amqp": {"is": "queue", "queue": queue}
            | {"x-arguments": {"x-queue-type": "quorum"} | arguments}
            | _AMQP
        },
    }


def _references(messages: list[str]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/messages/{name}"} for name in messages}


# --- operations -----------------------------------------------------------------------------------


def _operations() -> dict[str, Any]:
    published = {"amqp": {"deliveryMode": 2, "mandatory": True} | _AMQP}
    operations: dict[str, Any] = {}
    for kind in EventType:
        name = _NAMES[kind]
        operations[f"{name}Published"] = _operation(
            "receive", f"{name}Events", f"{_TITLES[kind]}; published to the exchange.", published
        )
        operations[f"{name}Taken"] = _operation(
            "receive",
            f"{name}Queue",
            f"{_TITLES[kind]}; taken from its queue, and acknowledged once its successor stands.",
            {"amqp": {"ack": True} | _AMQP},
        )
    operations["giveUp"] = _operation(
        "send", "deadLetters", "What no retry can mend is kept, byte for byte.", published
    )
    for payload in payload_schemas():
        operations[f"{_NAMES[payload]}ToQueue"] = _operation(
            "send", f"{_NAMES[payload]}Payloads", f"{_TITLES[payload]}; published.", published
        )
    posted = {"http": {"method": "POST", "bindingVersion": "0.3.0"}}
    operations["payloadToWebhook"] = _operation(
        "send", "webhook", "A payload, posted to the CRM.", posted, _posted()
    ) | {"description": _HOW_IT_IS_ANSWERED}
    operations["pingToWebhook"] = _operation(
        "send", "webhook", "A ping, posted by `crm-sync check --ping`.", posted, ["ping"]
    )
    return operations


def _operation(
    action: str, channel: str, summary: str, bindings: dict[str, Any], messages: list[str] | None = None
) -> dict[str, Any]:
    """Describe an operation; where no messages are named it is all that the channel has."""
    of_these = [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in messages or []]
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": summary,
        "bindings": bindings,
    } | ({"messages": of_these} if of_these else {})


def _posted() -> list[str]:
    """Name the messages that are payloads on the webhook."""
    return [f"{_NAMES[kind]}Webhook" for kind in payload_schemas()]


# --- messages -------------------------------------------------------------------------------------


def _cloud_names(kind: str) -> list[str]:
    """Name the messages that are an event of this type as a CloudEvent, structured and binary."""
    return [f"{_NAMES[kind]}CloudEvent", f"{_NAMES[kind]}BinaryCloudEvent"]


def _messages() -> dict[str, Any]:
    """Return each message by its name."""
    found: dict[str, Any] = {}
    for kind, event in EVENTS.items():
        found |= _event_messages(kind, event)
    for kind, payload in payloads().items():
        found |= _payload_messages(kind, payload)
    return found | {"ping": _ping(), "deadLetter": _dead_letter()}


def _event_messages(kind: str, event: dict[str, Any]) -> dict[str, Any]:
    """Describe the three ways of writing one event."""
    structured, binary = _cloud_names(kind)
    envelope = cloud_event(kind)
    attributes = cloud_event_headers(kind)
    return {
        _NAMES[kind]: _message(kind, "plain JSON", _schema(kind), {"payload": event})
        | {"bindings": {"amqp": {"messageType": kind} | _AMQP}},
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
    posted = _posted_headers(payload["data"]["event_id"], payload)
    return {
        _NAMES[kind]: _message(kind, "published", _schema(kind), {"payload": payload})
        | {
            "description": "The AMQP property `message_id` is the event's id, `type` the payload's type.",
            "bindings": {"amqp": {"messageType": kind} | _AMQP},
        },
        f"{_NAMES[kind]}Webhook": _message(
            kind, "posted", _schema(kind), {"headers": posted, "payload": payload}
        )
        | {"headers": _webhook_headers()},
    }


def _ping() -> dict[str, Any]:
    payload: dict[str, Any] = {"type": "ping", "timestamp": "2026-11-20T19:07:16Z", "data": {}}
    posted = _posted_headers("ping-2f6d3a58-0a53-4b1e-8a53-5b0f6a2c9d10", payload)
    return {
        "name": "ping",
        "title": "A ping, which means nothing",
        "description": "Posted by `crm-sync check --ping`. Answer 2xx, or 404 if you do not support it.",
        "headers": _webhook_headers(),
        "payload": {"$ref": "#/components/schemas/Ping"},
        "examples": [{"name": "example", "headers": posted, "payload": payload}],
    }


def _posted_headers(message_id: str, payload: dict[str, Any]) -> dict[str, str]:
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
        "title": f"{_TITLES[kind]} ({form})",
        "contentType": "application/json",
        "payload": payload,
        "examples": [{"name": "example"} | example],
    }


def _dead_letter() -> dict[str, Any]:
    event = EVENTS["call.ended"]
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
        Header.PROGRESS: {"type": "string", "maxLength": MAX_PROGRESS},
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


def _schemas() -> dict[str, Any]:
    """Return each schema by its name; they refer to each other."""
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
    return _NAMES[kind][0].upper() + _NAMES[kind][1:] + ending


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
