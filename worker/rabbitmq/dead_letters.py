"""The dead letters: looking through them, putting them back into work, throwing them away.

They are read one after the other on a channel of its own, and held until it
closes: what was not acknowledged by then goes back. So whatever ends the
program, nothing is lost; a replay that is cut off between the confirmation
and the acknowledgement is made twice, with the same id.
"""

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aio_pika import Message
from aio_pika.abc import AbstractConnection, AbstractIncomingMessage, AbstractQueue

from worker.core.errors import InvalidEvent, Reason
from worker.core.events import Event, EventType, Inbound, decode
from worker.core.pipeline import carried
from worker.rabbitmq import headers
from worker.rabbitmq.delivery import to_inbound
from worker.rabbitmq.publisher import BrokerPublisher

UNKNOWN = "unknown"
"""The reason, or the type, of a letter that tells none."""

HOLD_AT_MOST = 20 * 60.0
"""Seconds after which a settling ends, to begin anew with what it left.

RabbitMQ closes a channel that has held a message for 30 minutes (`consumer_timeout`), read by `get` or not.
"""

_RPC_TIMEOUT = 10
_BACK_WITHIN = 3.0
_LOOK_EVERY = 0.02
_KINDS = {kind.replace(".", "-"): kind for kind in EventType}


@dataclass(frozen=True, slots=True)
class Letter:
    """What is to be known of one dead letter, without its body.

    `queue` is the work queue it came from, by which it finds its way back;
    `None` where that can't be told. `event_id` is `None` where nobody has
    named the event yet; `id` is then the message's own. `enriched` tells
    whether it carries what the dialer said, so that a replay need not ask.
    """

    id: str
    event_id: str | None
    type: str
    reason: str
    stage: str | None
    error: str | None
    attempts: int
    first_seen: datetime | None
    failed_at: datetime | None
    queue: EventType | None
    enriched: bool = False


def read_letter(message: AbstractIncomingMessage) -> Letter:
    """Read a dead letter. Never fails: nonsense counts as missing.

    Where the broker itself put it there, by the delivery limit of a work
    queue, it has none of our headers but the broker's `x-death`.
    """
    inbound = to_inbound(message.body, message.properties, message.routing_key or "")
    event, event_id = _event(inbound)
    death = _death(message.headers)
    queue = _queue(message, death)
    return Letter(
        id=event_id or message.message_id or f"body-{hashlib.sha256(message.body).hexdigest()[:16]}",
        event_id=event_id,
        type=event.type if event is not None else _known(message.type) or queue or UNKNOWN,
        reason=headers.text(message.headers, headers.REASON) or _reason(message.headers, death),
        stage=headers.text(message.headers, headers.STAGE),
        error=headers.text(message.headers, headers.ERROR),
        attempts=inbound.attempt,
        first_seen=headers.time(message.headers, headers.FIRST_SEEN),
        failed_at=headers.time(message.headers, headers.FAILED_AT) or _time(death.get("time")),
        queue=queue,
        enriched=event is not None and carried(inbound, event) is not None,
    )


def _event(inbound: Inbound) -> tuple[Event | None, str | None]:
    """Return the event and its id; of what is no event, the id that it claims."""
    try:
        event = decode(inbound)
    except InvalidEvent as error:
        return None, error.event_id
    return event, event.id


def _death(said: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give the broker's record of why it dropped the message; one that only came by a tier has expired."""
    records = said.get("x-death")
    for record in records if isinstance(records, list) else []:
        if isinstance(record, dict) and headers.text(record, "reason") == Reason.DELIVERY_LIMIT:
            return record
    return {}


def _reason(said: Mapping[str, Any], death: Mapping[str, Any]) -> str:
    limited = death or headers.text(said, "x-first-death-reason") == Reason.DELIVERY_LIMIT
    return Reason.DELIVERY_LIMIT if limited else UNKNOWN


def _queue(message: AbstractIncomingMessage, death: Mapping[str, Any]) -> EventType | None:
    said = message.headers
    return (
        _known(message.routing_key)
        or _by_queue(headers.text(death, "queue"))
        or _by_queue(headers.text(said, "x-first-death-queue"))
        or _known(headers.text(said, headers.ROUTING_KEY))
        or _known(message.type)
    )


def _known(name: str | None) -> EventType | None:
    return next((kind for kind in EventType if kind == name), None)


def _by_queue(name: str | None) -> EventType | None:
    return _KINDS.get((name or "").rpartition(".")[2])


def _time(value: object) -> datetime | None:
    if not isinstance(value, datetime):
        return None
    return value if value.tzinfo is not None else value.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which letters are meant: those that everything given applies to; all where nothing is given."""

    ids: frozenset[str] = frozenset()
    reason: str | None = None
    type: str | None = None
    only: frozenset[Letter] | None = None

    def takes(self, letter: Letter) -> bool:
        """Tell whether a letter is meant."""
        return (
            (not self.ids or letter.id in self.ids)
            and (self.reason is None or letter.reason == self.reason)
            and (self.type is None or letter.type == self.type)
            and (self.only is None or letter in self.only)
        )


class DeadLetters:
    """The dead letters while one channel holds them; as many as there were when it began."""

    def __init__(self, queue: AbstractQueue, count: int) -> None:
        """Take the queue and how many letters it has: new arrivals must not make the reading endless."""
        self._queue = queue
        self.count = count
        self.looked_at = 0
        self.settled = 0
        self._let_go_at = asyncio.get_running_loop().time() + HOLD_AT_MOST

    @property
    def held_too_long(self) -> bool:
        """Whether it is time to give back what is held."""
        return asyncio.get_running_loop().time() >= self._let_go_at

    async def __aiter__(self) -> AsyncIterator[tuple[Letter, AbstractIncomingMessage]]:
        """Give one after the other; each body can be forgotten before the next comes."""
        for _ in range(self.count):
            message = await self._queue.get(fail=False, timeout=_RPC_TIMEOUT)
            if message is None:
                return
            self.looked_at += 1
            yield read_letter(message), message

    async def settle(self, message: AbstractIncomingMessage) -> None:
        """Acknowledge one: it is then gone from the dead letters."""
        await message.ack()
        self.settled += 1


@asynccontextmanager
async def hold(
    connection: AbstractConnection, queue: str, at_most: int | None = None
) -> AsyncIterator[DeadLetters]:
    """Look through the dead letters, or `at_most` so many; what is not acknowledged goes back at the end.

    Raises `aiormq.ChannelNotFoundEntity` where there is no such queue.
    """
    async with connection.channel(publisher_confirms=False) as channel:
        found = await channel.declare_queue(queue, passive=True, timeout=_RPC_TIMEOUT)
        there = found.declaration_result.message_count or 0
        letters = DeadLetters(found, there if at_most is None else min(there, at_most))
        yield letters
    await _given_back(connection, queue, letters.count - letters.settled)


async def _given_back(connection: AbstractConnection, queue: str, count: int) -> None:
    """Wait a little until the queue has them again: whoever looks next would otherwise see none."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_BACK_WITHIN), connection.channel() as channel:
            while True:
                found = await channel.declare_queue(queue, passive=True)
                if (found.declaration_result.message_count or 0) >= count:
                    return
                await asyncio.sleep(_LOOK_EVERY)


@dataclass
class Tally:
    """How far a settling got, also where it was cut off."""

    done: int = 0
    found: set[str] = field(default_factory=set)
    stuck: list[str] = field(default_factory=list)
    unfinished: bool = False
    """Whether it ended only because it had held letters for too long: the rest is still to be done."""


Act = Callable[[Letter, AbstractIncomingMessage], Awaitable[bool]]
"""What is done before a letter is acknowledged; false where it has to stay."""


async def settle(
    letters: DeadLetters,
    selection: Selection,
    act: Act,
    tally: Tally,
    *,
    stop: asyncio.Event,
    rate: float | None = None,
    tick: Callable[[int], None] = lambda _: None,
) -> None:
    """Act on each selected letter, then acknowledge it; at most `rate` a second, until `stop`.

    Ends early where it takes so long that the broker would end it: see `Tally.unfinished`.
    Raises what `act` raises: that letter and all after it then stay.
    """
    loop = asyncio.get_running_loop()
    next_at = loop.time()
    async for letter, message in letters:
        tick(letters.looked_at)
        if letters.held_too_long:
            tally.unfinished = True
            return
        if not selection.takes(letter):
            continue
        if rate is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), next_at - loop.time())
            next_at = max(next_at, loop.time()) + 1 / rate
        if stop.is_set():
            return
        tally.found.add(letter.id)
        if await act(letter, message):
            await letters.settle(message)
            tally.done += 1
        else:
            tally.stuck.append(letter.id)
        if stop.is_set():
            return


def replaying(publisher: BrokerPublisher, exchange: str, *, look_up_again: bool = False) -> Act:
    """Make the act of a replay: put the event into the work queue that it came from, routed and confirmed."""

    async def act(letter: Letter, message: AbstractIncomingMessage) -> bool:
        if letter.queue is None:
            return False
        await publisher.publish_message(
            exchange, letter.queue, replayed(letter, message, look_up_again=look_up_again)
        )
        return True

    return act


async def discarding(_letter: Letter, _message: AbstractIncomingMessage) -> bool:
    """Do nothing before a letter is acknowledged: it is then gone."""
    return True


def replayed(letter: Letter, message: AbstractIncomingMessage, *, look_up_again: bool = False) -> Message:
    """Copy a letter for the work queue: it starts anew, as the same event.

    The enrichment that it carries goes with it, so that the dialer isn't asked again, unless that
    is wanted (`look_up_again`).

    The event's id travels along even where the producer gave none, since
    client libraries invent a `message_id`, from which another id would come.
    """
    kept = headers.foreign(message.headers)
    kept[headers.ROUTING_KEY] = to_inbound(
        message.body, message.properties, message.routing_key or ""
    ).routing_key
    if letter.event_id is not None:
        kept[headers.EVENT_ID] = letter.event_id
    if (first_seen := letter.first_seen or letter.failed_at) is not None:
        kept[headers.FIRST_SEEN] = first_seen.isoformat()
    enrichment = headers.text(message.headers, headers.ENRICHMENT)
    if enrichment is not None and not look_up_again:
        kept[headers.ENRICHMENT] = enrichment
    return headers.copy_of(message.body, message.properties, kept)


def record(letter: Letter, message: AbstractIncomingMessage) -> dict[str, Any]:
    """Give everything about a letter, its body too, as JSON can hold it."""
    return {
        "id": letter.id,
        "type": letter.type,
        "reason": letter.reason,
        "stage": letter.stage,
        "error": letter.error,
        "attempts": letter.attempts,
        "first_seen": _plain(letter.first_seen),
        "failed_at": _plain(letter.failed_at),
        "routing_key": message.routing_key,
        "message_id": message.message_id,
        "content_type": message.content_type,
        "headers": _plain(message.headers),
    } | _body(message.body)


def _body(body: bytes) -> dict[str, str]:
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"body_base64": base64.b64encode(body).decode()}


def _plain(value: object) -> Any:  # noqa: ANN401 - JSON is of any type
    """Turn an AMQP value into one that JSON knows: bytes into text or base64, times into ISO 8601."""
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, bytes | bytearray):
        return next(iter(_body(bytes(value)).values()))
    if isinstance(value, datetime):
        return value.isoformat()
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
