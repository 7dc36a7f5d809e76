"""The AsyncAPI 3.0 document that `crm-sync schema --asyncapi` prints: what comes in and goes out, and where.

`asyncapi.yaml` beside this file has all that is fixed. The schemas come from the models of the core, the
names from the topology, and the examples are real messages. Payloads are plain Schema Objects (JSON Schema
draft-07, AsyncAPI's own kind), which every tool can read.

https://www.asyncapi.com/docs/reference/specification/v3.0.0
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from worker import __version__
from worker.commands.event_schemas import EVENTS, cloud_event, cloud_event_headers, event_schemas, payloads
from worker.core.errors import BY_THE_BROKER, Reason
from worker.core.events import EVENT_ID_PATTERN
from worker.core.payload import schemas as payload_schemas
from worker.core.ports import Stage
from worker.core.signature import sign
from worker.rabbitmq.message import MAX_ERROR, MAX_PROGRESS, Header
from worker.rabbitmq.topology import build_topology
from worker.settings import BrokerCommandSettings

_FIXED = Path(__file__).with_name("asyncapi.yaml")
_NAMES = {
    "call.ended": "callEnded",
    "agent.onboarded": "agentOnboarded",
    "call.enriched": "callEnriched",
    "agent.enriched": "agentEnriched",
}
_POSTED_AT = 1795201636


def asyncapi(settings: BrokerCommandSettings) -> dict[str, Any]:
    """Return the document, with the names on the broker that follow from these settings."""
    topology = build_topology(settings)
    names = {
        "<version>": __version__,
        "<namespace>": settings.broker.namespace,
        "<events>": settings.broker.events_exchange,
        "<outbound>": topology.outbound_exchange,
        "<event id>": EVENT_ID_PATTERN,
    }
    document: dict[str, Any] = _named(yaml.safe_load(_FIXED.read_text(encoding="utf-8")), names)
    arguments = {queue.name: queue.arguments for queue in topology.queues}
    for channel in document["channels"].values():
        if channel["address"] in arguments:
            channel["bindings"]["amqp"]["x-arguments"] |= arguments[channel["address"]]
    components = document["components"]
    for name, example in _examples().items():
        components["messages"][name]["examples"] = [{"name": "example"} | example]
    headers = components["messages"]["deadLetter"]["headers"]["properties"]
    headers[Header.REASON]["enum"] = [str(reason) for reason in Reason if reason not in BY_THE_BROKER]
    headers[Header.STAGE]["enum"] = [str(stage) for stage in Stage]
    headers[Header.ERROR]["maxLength"] = MAX_ERROR
    headers[Header.PROGRESS]["maxLength"] = MAX_PROGRESS
    components["schemas"] = _schemas(components["schemas"])
    return document


def _named(part: Any, names: Mapping[str, str]) -> Any:  # noqa: ANN401 - any part of the document
    if isinstance(part, dict):
        return {key: _named(value, names) for key, value in part.items()}
    if isinstance(part, list):
        return [_named(each, names) for each in part]
    if isinstance(part, str):
        return re.sub(r"<[a-z ]+>", lambda found: names[found[0]], part)
    return part


# --- examples -------------------------------------------------------------------------------------


def _examples() -> dict[str, dict[str, Any]]:
    """Return an example of each message, by the message's name."""
    ping: dict[str, Any] = {"type": "ping", "timestamp": "2026-11-20T19:07:16Z", "data": {}}
    found = {
        "ping": _posted("ping-2f6d3a58-0a53-4b1e-8a53-5b0f6a2c9d10", ping),
        "deadLetter": _dead_letter(EVENTS["call.ended"]),
    }
    for kind, event in EVENTS.items():
        envelope = cloud_event(kind)
        found[_NAMES[kind]] = {"payload": event}
        found[f"{_NAMES[kind]}CloudEvent"] = {"payload": envelope}
        binary = {"headers": cloud_event_headers(kind), "payload": envelope["data"]}
        found[f"{_NAMES[kind]}BinaryCloudEvent"] = binary
    for kind, payload in payloads().items():
        found[_NAMES[kind]] = {"payload": payload}
        found[f"{_NAMES[kind]}Webhook"] = _posted(payload["data"]["event_id"], payload)
    return found


def _posted(message_id: str, payload: dict[str, Any]) -> dict[str, Any]:
    body = json.dumps(payload, separators=(",", ":")).encode()
    headers = {
        "webhook-id": message_id,
        "webhook-timestamp": str(_POSTED_AT),
        "webhook-signature": sign(b"the key of this example", message_id, _POSTED_AT, body),
        "idempotency-key": message_id,
    }
    return {"headers": headers, "payload": payload}


def _dead_letter(event: dict[str, Any]) -> dict[str, Any]:
    at = "2026-11-20T19:07:15.016204+00:00"
    headers: dict[str, Any] = {
        Header.EVENT_ID: event["event_id"],
        Header.ATTEMPT: 1,
        Header.FIRST_SEEN: at,
        Header.ROUTING_KEY: event["type"],
        Header.REASON: Reason.REJECTED_BY_SINK.value,
        Header.ERROR: "the webhook answered 422: 'unknown campaign SALES1'",
        Header.STAGE: Stage.DELIVER.value,
        Header.FAILED_AT: at,
    }
    return {"headers": headers, "payload": event}


# --- schemas --------------------------------------------------------------------------------------


def _schemas(fixed: dict[str, Any]) -> dict[str, Any]:
    """Return each schema by its name; they refer to each other."""
    ping = fixed.pop("Ping")
    found = fixed | {_schema_name(kind): schema for kind, schema in event_schemas().items()}
    for kind, schema in payload_schemas().items():
        inner = schema.pop("$defs")
        del schema["$schema"]
        found |= {name: _moved(each) for name, each in inner.items()} | {_schema_name(kind): _moved(schema)}
    return found | {"Ping": ping}


def _schema_name(kind: str) -> str:
    return _NAMES[kind][0].upper() + _NAMES[kind][1:]


def _moved(schema: Any) -> Any:  # noqa: ANN401 - any part of a schema
    """Make the references between schemas point to their place in the document.

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
