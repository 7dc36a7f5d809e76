"""The dead letters: browse them, replay them, discard them.

They are read one after the other on a channel of its own, and held until it closes: what was not acknowledged
by then is requeued. So whatever ends the program, nothing is lost; a replay that is cut off between the
confirmation and the acknowledgement is made twice, with the same id.
"""

import asyncio
import base64
import hashlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from aio_pika.abc import AbstractConnection, AbstractQueue
from aiormq import spec

from worker.core.errors import BY_THE_BROKER, InvalidEvent, MessageRefused, Reason
from worker.core.events import Event, EventType, Inbound, decode
from worker.core.pipeline import carried
from worker.rabbitmq.codec import Copy, OddText, Properties, Table
from worker.rabbitmq.message import (
    Delivery,
    Header,
    producer_headers,
    read_routing_key,
    read_text,
    read_time,
    table_of,
    to_inbound,
)
from worker.rabbitmq.publisher import BrokerPublisher

UNKNOWN = "unknown"
"""The reason, or the type, of a dead letter that names none."""
_MOVED_BY_BROKER = "x-death"
"""A header of the broker's; no copy of ours carries it."""
_REJECTED = "rejected"
"""The broker's reason for a message that the worker had it move, as it can't be copied."""

HOLD_AT_MOST = 20 * 60.0
"""Seconds after which settling ends, to begin anew with what it left.

RabbitMQ closes a channel that has held a message for 30 minutes (`consumer_timeout`), read by `get` or not.
"""

_RPC_TIMEOUT = 10
_BACK_WITHIN = 3.0
_LOOK_EVERY = 0.02
_KINDS = {kind.replace(".", "-"): kind for kind in EventType}


@dataclass(frozen=True, slots=True)
class StoredDeadLetter:
    """What is known of one dead letter, without its body."""

    id: str
    """The event's id, or the message's own if the event has none."""
    event_id: str | None
    type: str
    reason: str
    stage: str | None
    error: str | None
    attempts: int
    first_seen: datetime | None
    failed_at: datetime | None
    queue: EventType | None
    """The work queue that it came from, by which it finds its way back; `None` if that is unknown."""
    enriched: bool = False
    """Whether it carries what the dialer said, so that a replay need not ask."""


def read_dead_letter(message: Delivery) -> StoredDeadLetter:
    """Read a dead letter. Never fails: what can't be read counts as missing.

    If the broker itself moved it there from a work queue, our headers count only if the message was a copy of
    ours, which is what its `x-death` says. What the dialer said never counts then: brokers before 4.0 believe
    an `x-death` that a producer wrote.
    """
    properties = message.properties
    table = table_of(properties)
    death = _death(table)
    trusted = _trusted_headers(message, table, death)
    inbound = to_inbound(message.body, properties, message.routing_key, copied=trusted is table)
    event, event_id, problem = _event(inbound)
    queue = _queue(message, properties, death, trusted)
    return StoredDeadLetter(
        id=event_id or _message_id(message, properties),
        event_id=event_id,
        type=event.type if event is not None else _known(properties.message_type) or queue or UNKNOWN,
        reason=_reason_moved(death) if death else _reason_written(table, trusted),
        stage=None if death else read_text(trusted, Header.STAGE),
        error=_why_moved(death, trusted, problem) if death else read_text(trusted, Header.ERROR),
        attempts=inbound.attempt,
        first_seen=read_time(trusted, Header.FIRST_SEEN),
        failed_at=_time(death.get("time")) if death else read_time(trusted, Header.FAILED_AT),
        queue=queue,
        enriched=not death and event is not None and carried(inbound, event) is not None,
    )


def _event(inbound: Inbound) -> tuple[Event | None, str | None, str | None]:
    """Return the event and its id; of what is no event, the id that it claims, and what is wrong with it."""
    try:
        event = decode(inbound)
    except InvalidEvent as error:
        return None, error.event_id, str(error)
    return event, event.id, None


def _trusted_headers(message: Delivery, table: Table, death: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the headers if ours among them count, as we published the message, and not its producer."""
    if _MOVED_BY_BROKER not in table.raw:
        return table
    work_exchange = message.exchange.removesuffix("dead-letters") + "work"
    return table if read_text(death, "exchange") == work_exchange else {}


def _message_id(message: Delivery, properties: Properties) -> str:
    """Return a message's own id if a person can type it, else one made of its body."""
    if properties.message_id and not isinstance(properties.message_id, OddText):
        return properties.message_id
    return f"body-{hashlib.sha256(message.body).hexdigest()[:16]}"


def _death(table: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the broker's record of why it moved the message out of a work queue, the latest one.

    Empty if it did not. A message that came by a tier has expired there, which is no reason.
    """
    records = table.get(_MOVED_BY_BROKER)
    for record in records if isinstance(records, list) else []:
        if isinstance(record, dict):
            limited = read_text(record, "reason") == Reason.DELIVERY_LIMIT
            if limited or _by_queue(read_text(record, "queue")):
                return record
    return {}


def _reason_written(table: Mapping[str, Any], trusted: Mapping[str, Any]) -> str:
    """Return the reason that we wrote; some brokers say only in `x-first-death-reason` that it was theirs."""
    first = read_text(table, "x-first-death-reason")
    limited = Reason.DELIVERY_LIMIT if first == Reason.DELIVERY_LIMIT else UNKNOWN
    return read_text(trusted, Header.REASON) or limited


def _reason_moved(death: Mapping[str, Any]) -> str:
    reason = read_text(death, "reason")
    if reason == _REJECTED:
        return Reason.INVALID_EVENT
    return next((known for known in BY_THE_BROKER if known == reason), UNKNOWN)


def _why_moved(death: Mapping[str, Any], trusted: Mapping[str, Any], problem: str | None) -> str:
    """Return in words why the broker moved a message."""
    match reason := read_text(death, "reason"):
        case Reason.EXPIRED:
            limit = read_text(death, "original-expiration")
            whose = "a time to live" if limit is None else f"its producer's own expiration of {limit} ms"
            return f"{whose} ran out while it waited in the work queue"
        case Reason.DELIVERY_LIMIT:
            last = read_text(trusted, Header.ERROR)
            why = "it was delivered too often: each time the worker or its connection broke first"
            return why if last is None else f"{why}; the last error before that: {last}"
        case "rejected":
            return problem or "the broker takes no copy of it, so it was moved as it is"
        case _:
            return f"the broker moved it out of the work queue: {reason}"


def _queue(
    message: Delivery, properties: Properties, death: Mapping[str, Any], trusted: Mapping[str, Any]
) -> EventType | None:
    return (
        _known(message.routing_key)
        or _by_queue(read_text(death, "queue"))
        or _by_queue(read_text(table_of(properties), "x-first-death-queue"))
        or _known(read_text(trusted, Header.ROUTING_KEY))
        or _known(properties.message_type)
    )


def _known(name: str | None) -> EventType | None:
    return next((kind for kind in EventType if kind == name), None)


def _by_queue(name: str | None) -> EventType | None:
    return _KINDS.get((name or "").rpartition(".")[2])


def _time(value: object) -> datetime | None:
    return value if isinstance(value, datetime) else None


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead letters are meant: those that everything given applies to; all if nothing is given.

    `only` holds their hashes: the dead letters themselves would fill the memory.
    """

    ids: frozenset[str] = frozenset()
    reason: str | None = None
    type: str | None = None
    only: frozenset[int] | None = None

    def matches(self, letter: StoredDeadLetter) -> bool:
        """Return whether a dead letter is meant."""
        return (
            (not self.ids or letter.id in self.ids)
            and (self.reason is None or letter.reason == self.reason)
            and (self.type is None or letter.type == self.type)
            and (self.only is None or hash(letter) in self.only)
        )


class DeadLetters:
    """The dead letters that one channel browses; as many as there were when it began."""

    def __init__(self, queue: AbstractQueue, count: int) -> None:
        """Read no more than `count`: new arrivals must not make the reading endless."""
        self._queue = queue
        self.count = count
        self.looked_at = 0
        self.settled = 0
        self.opened_at = asyncio.get_running_loop().time()

    async def __aiter__(self) -> AsyncIterator[tuple[StoredDeadLetter, Delivery]]:
        """Yield one after the other; each body can be freed before the next comes."""
        channel = await self._queue.channel.get_underlay_channel()
        for _ in range(self.count):
            message = await channel.basic_get(self._queue.name, timeout=_RPC_TIMEOUT)
            if isinstance(message.delivery, spec.Basic.GetEmpty):
                return
            self.looked_at += 1
            delivery = Delivery(message)
            yield read_dead_letter(delivery), delivery

    async def settle(self, message: Delivery) -> None:
        """Acknowledge one, which removes it from the dead letters."""
        await message.acknowledge()
        self.settled += 1


@asynccontextmanager
async def browse(
    connection: AbstractConnection, queue: str, at_most: int | None = None
) -> AsyncIterator[DeadLetters]:
    """Browse the dead letters, or `at_most` so many; what is not acknowledged is requeued at the end.

    Raises `aiormq.ChannelNotFoundEntity` if there is no such queue.
    """
    async with connection.channel(publisher_confirms=False) as channel:
        found = await channel.declare_queue(queue, passive=True, timeout=_RPC_TIMEOUT)
        there = found.declaration_result.message_count or 0
        count = there if at_most is None else min(there, at_most)
        letters = DeadLetters(found, count)
        yield letters
    await _requeued(connection, queue, letters.count - letters.settled)


async def _requeued(connection: AbstractConnection, queue: str, count: int) -> None:
    """Wait a little until the queue has them again: the next one to look would otherwise see none."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_BACK_WITHIN), connection.channel() as channel:
            while True:
                found = await channel.declare_queue(queue, passive=True)
                if (found.declaration_result.message_count or 0) >= count:
                    return
                await asyncio.sleep(_LOOK_EVERY)


@dataclass
class Progress:
    """How far settling got, also if it was cut off."""

    done: int = 0
    found: set[str] = field(default_factory=set)
    """The ids that were found of those that were named."""
    stuck: list[str] = field(default_factory=list)
    unfinished: bool = False
    """Whether it ended only because it had held them for too long: the rest is still to be done."""


Action = Callable[[StoredDeadLetter, Delivery], Awaitable[bool]]
"""What is done before a dead letter is acknowledged; returns false if it has to stay."""


async def settle(
    letters: DeadLetters,
    selection: Selection,
    act: Action,
    progress: Progress,
    *,
    stop: asyncio.Event,
    rate: float | None = None,
    hold_at_most: float = HOLD_AT_MOST,
    on_progress: Callable[[int], None] = lambda _: None,
) -> None:
    """Act on each dead letter that is selected, then acknowledge it; at most `rate` a second, until `stop`.

    Ends early if it takes longer than the broker lets a message be held: see `Progress.unfinished`.
    Raises what `act` raises: that dead letter and all after it then stay.
    """
    loop = asyncio.get_running_loop()
    next_at = loop.time()
    async for letter, message in letters:
        on_progress(letters.looked_at)
        if loop.time() - letters.opened_at >= hold_at_most:
            progress.unfinished = True
            return
        if not selection.matches(letter):
            continue
        if rate is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), next_at - loop.time())
            next_at = max(next_at, loop.time()) + 1 / rate
        if stop.is_set():
            return
        if selection.ids:
            progress.found.add(letter.id)
        if await act(letter, message):
            await letters.settle(message)
            progress.done += 1
        else:
            progress.stuck.append(letter.id)
        if stop.is_set():
            return


def replaying(publisher: BrokerPublisher, exchange: str, *, look_up_again: bool = False) -> Action:
    """Return the action of a replay: publish the event to the work queue that it came from, confirmed."""

    async def act(letter: StoredDeadLetter, message: Delivery) -> bool:
        if letter.queue is None:
            return False
        copy = replayed(letter, message, look_up_again=look_up_again)
        try:
            await publisher.publish_message(exchange, letter.queue, copy)
        except MessageRefused:
            return False
        return True

    return act


async def discarding(_letter: StoredDeadLetter, _message: Delivery) -> bool:
    """Do nothing: a dead letter that is acknowledged is gone."""
    return True


def replayed(letter: StoredDeadLetter, message: Delivery, *, look_up_again: bool = False) -> Copy:
    """Copy a dead letter for the work queue: it starts anew, as the same event.

    The enrichment that it carries goes with it, unless the dialer is to be asked again (`look_up_again`). So
    does the event's id, even if the producer gave none: client libraries invent a `message_id`, from which
    another id would come.
    """
    properties = message.properties
    table = table_of(properties)
    copied = producer_headers(table)
    trusted = _trusted_headers(message, table, _death(table))
    copied[Header.ROUTING_KEY] = read_routing_key(trusted) or message.routing_key
    if letter.event_id is not None:
        copied[Header.EVENT_ID] = letter.event_id
    if (first_seen := letter.first_seen or letter.failed_at) is not None:
        copied[Header.FIRST_SEEN] = first_seen.isoformat()
    if letter.enriched and not look_up_again:
        copied[Header.ENRICHMENT] = read_text(table, Header.ENRICHMENT)
    return Copy(message.body, properties, copied)


def record(letter: StoredDeadLetter, message: Delivery) -> dict[str, Any]:
    """Return everything about a dead letter, its body too, as JSON can hold it."""
    properties = message.properties
    return {
        "id": letter.id,
        "type": letter.type,
        "reason": letter.reason,
        "stage": letter.stage,
        "error": letter.error,
        "attempts": letter.attempts,
        "first_seen": _plain(letter.first_seen),
        "failed_at": _plain(letter.failed_at),
        "routing_key": _plain(message.routing_key),
        "message_id": _plain(properties.message_id),
        "content_type": _plain(properties.content_type),
        "headers": _plain(table_of(properties)),
    } | _body(message.body)


def _body(body: bytes) -> dict[str, str]:
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"body_base64": base64.b64encode(body).decode()}


def _plain(value: object) -> Any:  # noqa: ANN401 - JSON is of any type
    """Turn an AMQP value into one of JSON: bytes into text or base64, times into ISO 8601."""
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, bytes | bytearray):
        return next(iter(_body(bytes(value)).values()))
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, OddText):
        return value.raw.decode(errors="backslashreplace")
    known = value is None or isinstance(value, bool | int | str)
    return value if known or (isinstance(value, float) and math.isfinite(value)) else str(value)
