"""The exchanges, queues and bindings on the broker, from the settings alone.

Declaring is idempotent. RabbitMQ never changes the arguments of a queue that exists, so a difference is named
(`differences`) and left to a person.
"""

import re
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import aio_pika
import aiormq

from worker.core.events import EventType
from worker.core.ports import Depth
from worker.core.retry import LookAgain, format_delay
from worker.settings import BrokerCommandSettings

DELIVERY_LIMIT = 20
"""How often a work queue delivers one message before it goes to the dead letters."""

_NO_LIMIT = 2**31 - 1  # without one, RabbitMQ 4 drops a message after 20 deliveries
_RPC_TIMEOUT = 10
_MISMATCH = re.compile(
    r"inequivalent arg '(?P<name>[^']+)' for (?:queue|exchange) .*?: "
    r"received (?P<wanted>.+?) but current is (?P<found>.+?)$"
)
_VALUE = re.compile(r"(?:the value )?'(?P<text>[^']*)'(?: of type '(?P<type>[^']*)')?$")
_ATTRIBUTES = {"durable": True, "auto_delete": False}
_READ_AS = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Exchange:
    """An exchange; one that is not ours is declared only if it is missing."""

    name: str
    kind: str
    ours: bool = True


@dataclass(frozen=True, slots=True)
class Queue:
    """A quorum queue with its arguments."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Binding:
    """A binding of a queue to an exchange."""

    exchange: str
    queue: str
    key: str = ""


@dataclass(frozen=True, slots=True)
class Topology:
    """Everything that the worker needs on the broker, and the names by which it finds it."""

    work_queues: dict[EventType, str]
    work_exchange: str
    dead_letters: str
    board: str
    """The queue of the message that all workers share: see `worker.core.fleet`."""
    outbound_exchange: str
    tiers: dict[timedelta, str]
    exchanges: tuple[Exchange, ...]
    queues: tuple[Queue, ...]
    bindings: tuple[Binding, ...]


@dataclass(frozen=True, slots=True)
class QueueState:
    """Whether an exchange or queue exists; of a queue, how many messages are ready, and how many consume."""

    item: Exchange | Queue
    exists: bool
    messages: int = 0
    consumers: int = 0


def build_topology(settings: BrokerCommandSettings) -> Topology:
    """Return the topology that the settings ask for."""
    namespace = settings.broker.namespace
    events, work, dead = settings.broker.events_exchange, f"{namespace}.work", f"{namespace}.dead-letters"
    outbound = settings.sink.exchange or f"{namespace}.enriched"
    work_queues = {kind: f"{namespace}.{kind.replace('.', '-')}" for kind in EventType}
    look_again = LookAgain.within(settings.vicidial.ready_within)
    delays = sorted({*settings.retry.delays, look_again.often, look_again.later})
    tiers = {delay: f"{namespace}.retry.{format_delay(delay)}" for delay in delays}
    exchanges = [Exchange(events, "topic", ours=False), Exchange(work, "direct"), Exchange(dead, "fanout")]
    board = f"{namespace}.dialer"
    queues = [
        Queue(dead, {"x-delivery-limit": _NO_LIMIT}),
        Queue(board, {"x-max-length": 1, "x-overflow": "drop-head", "x-delivery-limit": _NO_LIMIT}),
    ]
    bindings = [Binding(dead, dead)]
    for kind, name in work_queues.items():
        queues.append(Queue(name, _to(dead) | {"x-delivery-limit": DELIVERY_LIMIT}))
        bindings += [Binding(events, name, kind), Binding(work, name, kind)]
    for delay, name in tiers.items():
        exchanges.append(Exchange(name, "fanout"))
        queues.append(Queue(name, _to(work) | {"x-message-ttl": delay // timedelta(milliseconds=1)}))
        bindings.append(Binding(name, name))
    if settings.sink.kind == "queue":
        exchanges.append(Exchange(outbound, "topic", ours=settings.sink.exchange is None))
        queues.append(Queue(f"{namespace}.enriched"))
        bindings.append(Binding(outbound, f"{namespace}.enriched", "#"))
    return Topology(
        work_queues, work, dead, board, outbound, tiers, tuple(exchanges), tuple(queues), tuple(bindings)
    )


def _to(exchange: str) -> dict[str, Any]:
    """Dead-letter at least once, which falls back to at most once unless overflow is `reject-publish`."""
    return {
        "x-dead-letter-exchange": exchange,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


async def declare(connection: aio_pika.abc.AbstractConnection, topology: Topology) -> None:
    """Declare everything. Raises `aiormq.AMQPError` if something differs: see `differences`."""
    async with connection.channel() as channel:
        for exchange in topology.exchanges:
            if exchange.ours or not await exists(connection, exchange):
                await channel.declare_exchange(
                    exchange.name, exchange.kind, durable=True, timeout=_RPC_TIMEOUT
                )
        for queue in topology.queues:
            await channel.declare_queue(
                queue.name, durable=True, arguments=_arguments(queue), timeout=_RPC_TIMEOUT
            )
        for binding in topology.bindings:
            target = await channel.get_queue(binding.queue, ensure=False)
            await target.bind(binding.exchange, binding.key, timeout=_RPC_TIMEOUT)


async def differences(
    connection: aio_pika.abc.AbstractConnection, topology: Topology, *, missing: bool = True
) -> list[str]:
    """Return a line for each thing that has other arguments, or is `missing`. Changes nothing."""
    found: list[str] = []
    for state in await inspect(connection, topology):
        item = state.item
        if not state.exists:
            if missing:
                found.append(f"{describe(item)}: missing")
        elif isinstance(item, Queue) or item.ours:
            found += await _compare(connection, item)
    return found


async def inspect(connection: aio_pika.abc.AbstractConnection, topology: Topology) -> list[QueueState]:
    """Return the state of each exchange and queue, whatever its arguments. Changes nothing."""
    items: list[Exchange | Queue] = [*topology.exchanges, *topology.queues]
    return [await _inspect(connection, item) for item in items]


async def depths(connection: aio_pika.abc.AbstractConnection, topology: Topology) -> list[Depth]:
    """Count the messages in each queue that events pass through, except the outbound one."""
    roles = dict.fromkeys(topology.work_queues.values(), "work")
    roles |= dict.fromkeys(topology.tiers.values(), "retry") | {topology.dead_letters: "dead_letters"}
    states = [(await _inspect(connection, Queue(name)), role) for name, role in roles.items()]
    return [Depth(each.item.name, role, each.messages) for each, role in states if each.exists]


async def exists(connection: aio_pika.abc.AbstractConnection, item: Exchange | Queue) -> bool:
    """Return whether an exchange or queue of that name exists, whatever its arguments."""
    return (await _inspect(connection, item)).exists


def describe(item: Exchange | Queue) -> str:
    """Return the kind and the name of an exchange or queue, for a person."""
    return f"{type(item).__name__.lower()} {item.name}"


async def _inspect(connection: aio_pika.abc.AbstractConnection, item: Exchange | Queue) -> QueueState:
    try:
        async with connection.channel() as channel:
            if isinstance(item, Exchange):
                await channel.declare_exchange(item.name, passive=True, timeout=_RPC_TIMEOUT)
                return QueueState(item, exists=True)
            queue = await channel.declare_queue(item.name, passive=True, timeout=_RPC_TIMEOUT)
            counts = queue.declaration_result
            return QueueState(
                item, exists=True, messages=counts.message_count or 0, consumers=counts.consumer_count or 0
            )
    except aiormq.ChannelNotFoundEntity:
        return QueueState(item, exists=False)
    except aiormq.ChannelLockedResource:  # exclusive to another connection
        return QueueState(item, exists=True)


async def _compare(connection: aio_pika.abc.AbstractConnection, item: Exchange | Queue) -> list[str]:
    """Find every difference of one item that exists.

    The broker names one at a time, so each is adopted and the item declared again.
    """
    kind = _arguments(item) if isinstance(item, Queue) else {"type": item.kind, "internal": False}
    wanted: dict[str, Any] = _ATTRIBUTES | kind
    found: dict[str, str] = {}
    while True:
        try:
            await _declare_as(connection, item, wanted)
        except aiormq.ChannelLockedResource:
            return [f"{describe(item)}: is exclusive to another connection, wanted one that all can use"]
        except aiormq.ChannelPreconditionFailed as error:
            match = _MISMATCH.search(str(error.args[0]) if error.args else "")
            if match is None or match["name"] in found:
                # A queue of another type may refuse arguments of ours: its type is then all there is to say.
                return [*found.values(), *([] if "x-queue-type" in found else [f"{describe(item)}: {error}"])]
            name, current = match["name"], _read_value(match["found"])
            found[name] = f"{describe(item)}: {name} is {_show(current)}, wanted {_show(wanted.get(name))}"
            wanted = {key: value for key, value in (wanted | {name: current}).items() if value is not None}
        else:
            return list(found.values())


async def _declare_as(
    connection: aio_pika.abc.AbstractConnection, item: Exchange | Queue, wanted: dict[str, Any]
) -> None:
    arguments = dict(wanted)
    durable, auto_delete = arguments.pop("durable"), arguments.pop("auto_delete")
    async with connection.channel() as channel:
        if isinstance(item, Queue):
            await channel.declare_queue(
                item.name,
                durable=durable,
                auto_delete=auto_delete,
                arguments=arguments,
                timeout=_RPC_TIMEOUT,
            )
        else:
            await channel.declare_exchange(
                item.name,
                arguments.pop("type"),
                durable=durable,
                auto_delete=auto_delete,
                internal=arguments.pop("internal"),
                arguments=arguments,
                timeout=_RPC_TIMEOUT,
            )


def _arguments(queue: Queue) -> dict[str, Any]:
    return {"x-queue-type": "quorum"} | queue.arguments


def _read_value(text: str) -> str | int | bool | None:
    """Parse the broker's notation of a value: `none`, `'10'`, or `the value '10' of type 'signedint'`."""
    match = _VALUE.match(text)
    if match is None:
        return None
    value, kind = match["text"], match["type"]
    if value in _READ_AS and kind != "longstr":
        return _READ_AS[value]
    return int(value) if value.isdigit() and kind != "longstr" else value


def _show(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "not set" if value is None else str(value)
