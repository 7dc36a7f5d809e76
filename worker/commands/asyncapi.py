"""The AsyncAPI 3.0 document that `crm-sync schema --asyncapi` prints: what comes in and goes out, and where.

Pure. The messages come from the models of the core, the names from the
topology and from the headers' constants. Payloads are plain Schema Objects
(JSON Schema draft-07, AsyncAPI's own kind), which every tool can read.

https://www.asyncapi.com/docs/reference/specification/v3.0.0
"""

import json
from typing import Any

import yaml

from worker import __version__
from worker.commands.asyncapi_messages import AMQP, NAMES, TITLES, cloud_names, schemas
from worker.commands.asyncapi_messages import messages as all_messages
from worker.core.events import EventType
from worker.core.payload import schemas as payload_schemas
from worker.rabbitmq.topology import build_topology
from worker.settings import BrokerCommandSettings

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
    """Give the document, with the names that stand on the broker by these settings."""
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
            "messages": all_messages(),
            "schemas": schemas(),
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
        channels[f"{NAMES[kind]}Events"] = _by_routing_key(
            settings.broker.events_exchange, kind, about, [NAMES[kind], *cloud_names(kind)]
        )
    for kind, queue in topology.work_queues.items():
        about = f"Bound to the events exchange by {kind}; what waits here is worked off by every worker."
        channels[f"{NAMES[kind]}Queue"] = _queue(
            queue, arguments[queue], about, [NAMES[kind], *cloud_names(kind)]
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
        channels[f"{NAMES[payload]}Payloads"] = _by_routing_key(
            topology.outbound_exchange, payload, about, [NAMES[payload]]
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
        "bindings": {"amqp": {"is": "routingKey", "exchange": on_exchange} | AMQP},
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
            | AMQP
        },
    }


def _references(messages: list[str]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/messages/{name}"} for name in messages}


# --- operations -----------------------------------------------------------------------------------


def _operations() -> dict[str, Any]:
    published = {"amqp": {"deliveryMode": 2, "mandatory": True} | AMQP}
    operations: dict[str, Any] = {}
    for kind in EventType:
        name = NAMES[kind]
        operations[f"{name}Published"] = _operation(
            "receive", f"{name}Events", f"{TITLES[kind]}; published to the exchange.", published
        )
        operations[f"{name}Taken"] = _operation(
            "receive",
            f"{name}Queue",
            f"{TITLES[kind]}; taken from its queue, and acknowledged once its successor stands.",
            {"amqp": {"ack": True} | AMQP},
        )
    operations["giveUp"] = _operation(
        "send", "deadLetters", "What no retry can mend is kept, byte for byte.", published
    )
    for payload in payload_schemas():
        operations[f"{NAMES[payload]}ToQueue"] = _operation(
            "send", f"{NAMES[payload]}Payloads", f"{TITLES[payload]}; published.", published
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
    return [f"{NAMES[kind]}Webhook" for kind in payload_schemas()]
