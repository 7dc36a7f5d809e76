"""A message from the broker: read as an `Inbound`, copied with our headers, and settled at most once.

Settling publishes the successor, then acknowledges the inbound. Never the other way round.
"""

import asyncio
import re
from collections.abc import Awaitable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import structlog
from aiormq import spec
from aiormq.abc import DeliveredMessage

from worker.core.errors import MessageRefused, PublishError, Reason
from worker.core.events import CLOUDEVENTS_PREFIXES, EventType, Inbound
from worker.core.pipeline import Outcome
from worker.core.ports import Ack, DeadLetter, Duplicate, Retry
from worker.rabbitmq import codec
from worker.rabbitmq.codec import Copy, OddText, Properties, Raw, Table, to_bytes
from worker.rabbitmq.publisher import BrokerPublisher, RefusedByQueueError
from worker.rabbitmq.topology import Topology


class Header:
    """The names of our headers, which copies carry."""

    EVENT_ID = "crm-sync-event-id"
    ATTEMPT = "crm-sync-attempt"
    FIRST_SEEN = "crm-sync-first-seen"
    ROUTING_KEY = "crm-sync-routing-key"
    REASON = "crm-sync-reason"
    ERROR = "crm-sync-error"
    STAGE = "crm-sync-stage"
    FAILED_AT = "crm-sync-failed-at"
    ENRICHMENT = "crm-sync-enrichment"
    PROGRESS = "crm-sync-progress"
    """What the sink noted of a delivery that is half done. Only on a retry copy: a replay starts anew."""


OUR_HEADERS = frozenset(value for name, value in vars(Header).items() if name.isupper())

MAX_ERROR = 1000
MAX_ENRICHMENT = 16 * 1024
MAX_PROGRESS = 1024
MAX_PRODUCER_HEADERS = 32 * 1024
MAX_READ = 1024
MAX_HEADERS = codec.MAX_HEADERS - 100
"""Limits in bytes (of the error: in characters), as all headers must fit into one AMQP frame of 128 KiB.

A copy carries `MAX_PRODUCER_HEADERS` bytes and `MAX_HEADERS` headers of the producer's; if there are more,
those that are read and have up to `MAX_READ` bytes.
"""

SETTLE_TIMEOUT = 15.0
"""Seconds that settling may take at most, even while the worker is being stopped; longer than a publish."""
WAITS_WHEN_FULL = (1.0, 2.0, 4.0, 8.0, 15.0, *[30.0] * 42)
"""Seconds between the tries to put a copy into a queue that is full: 21.5 minutes in all.

With what came before, below the 30 minutes after which RabbitMQ gives up on a consumer. Before 4.3 each
requeue of the inbound counts towards its delivery limit, so it is held for as long as possible.
"""


_log = structlog.get_logger()
_ROUTES_ELSEWHERE = frozenset({"cc", "bcc"})
_TRACE_CONTEXT = ("traceparent", "tracestate")
_READ = tuple(name.lower() for name in (*CLOUDEVENTS_PREFIXES, *_TRACE_CONTEXT))
_EVENT_ID = re.compile(r"[\x21-\x7e]{1,255}")
_LONGEST_ROUTING_KEY = 255


class DroppedBody(bytes):
    """Stands for a body that was too large to be held. It has that body's length, and no content."""

    _size: int

    @classmethod
    def of(cls, size: int) -> "DroppedBody":
        """Return one of so many bytes."""
        body = cls()
        body._size = size
        return body

    def __len__(self) -> int:
        """Return how many bytes the message has."""
        return self._size


class Delivery:
    """A delivery of the channel below aio-pika's, whose own message costs as much as decoding the event.

    Settling does not wait for the wire, but it may wait for a place in the connection's short queue of
    frames. A cancellation there leaves the message unsettled.
    """

    __slots__ = ("message", "settled")

    def __init__(self, message: DeliveredMessage) -> None:
        self.message = message
        self.settled = False

    @property
    def body(self) -> bytes:
        """The body."""
        return self.message.body

    @property
    def properties(self) -> Properties:
        """The properties, with the bytes that they came as."""
        return Properties.of(self.message.header.properties)

    @property
    def routing_key(self) -> str:
        """The routing key that it was published with."""
        return self.message.routing_key or ""

    @property
    def exchange(self) -> str:
        """The exchange that it was published to: by its producer, or by a tier on its way back."""
        return self.message.exchange or ""

    async def acknowledge(self) -> None:
        """Acknowledge. Raises `PublishError` if that is no longer possible; the broker then redelivers."""
        if self.settled:
            raise PublishError("the message was requeued meanwhile")
        try:
            await self._settle(self.message.channel.basic_ack(self._tag, wait=False))
        except Exception as error:
            raise PublishError("the channel closed before the acknowledgement was sent") from error

    async def requeue(self) -> None:
        """Requeue the message, unless it is settled. Never raises."""
        if not self.settled:
            with suppress(Exception):  # a closed channel has requeued it already
                await self._settle(self.message.channel.basic_nack(self._tag, requeue=True, wait=False))

    async def dead_letter(self) -> None:
        """Reject the message, so that the broker itself moves it to the dead letters, unless it is settled.

        Never raises.
        """
        if not self.settled:
            with suppress(Exception):
                await self._settle(self.message.channel.basic_reject(self._tag, requeue=False, wait=False))

    @property
    def settles_at_once(self) -> bool:
        """Whether settling would not wait now, so that no cancellation can come between."""
        channel: Any = self.message.channel  # aiormq's own class, not the abstract one
        return not channel.write_queue.full()

    @property
    def _tag(self) -> int:
        return self.message.delivery_tag or 0

    async def _settle(self, sending: Awaitable[None]) -> None:
        self.settled = True  # while it is sent, nobody else may settle it
        try:
            await sending
        except BaseException:
            self.settled = False
            raise

    def inbound(self, work_exchange: str) -> Inbound:
        """Return what the core sees of it.

        Our headers count only on what came by our own exchange, from a tier or by a replay: who may publish
        an event must not be able to say what the dialer answered.
        """
        copied = self.exchange == work_exchange
        return to_inbound(self.body, self.properties, self.routing_key, copied=copied)

    def copy(self, with_headers: dict[str, Any]) -> Copy:
        """Copy the message with these headers and the producer's own."""
        properties = self.properties
        return Copy(self.body, properties, producer_headers(table_of(properties)) | with_headers)


def table_of(properties: Properties) -> Table:
    """Return a message's headers, empty if it has none."""
    return properties.headers if isinstance(properties.headers, Table) else Table()


def to_inbound(
    body: bytes, properties: spec.Basic.Properties, routing_key: str, *, copied: bool = True
) -> Inbound:
    """Turn a message into what the core sees of it.

    Our own headers count only on a copy of ours, and one that can't be read as missing.
    """
    read = Properties.of(properties)
    table = table_of(read)
    carried = producer_headers(table)
    plain: dict[str, Any] = {
        "headers": {name: value for name, value in table.items() if name in carried or _is_brokers(name)},
        "content_type": read.content_type,
        "message_id": read.message_id,
        "type": read.message_type,
        "timestamp": read.timestamp,
    }
    if not table or not copied:
        return Inbound(body, routing_key, datetime.now(UTC), **plain)
    return Inbound(
        body,
        read_routing_key(table) or routing_key,
        read_time(table, Header.FIRST_SEEN) or datetime.now(UTC),
        **plain,
        attempt=_read_attempt(table),
        event_id=_read_event_id(table),
        enrichment=read_text(table, Header.ENRICHMENT),
        progress=read_text(table, Header.PROGRESS),
    )


# --- headers


def read_text(headers: Mapping[str, Any], name: str) -> str | None:
    """Read a header as text, `None` if it is missing or something else."""
    value = headers.get(name)
    if isinstance(value, bytes):
        value = OddText.read(value)
    return value if isinstance(value, str) and value else None


def read_time(headers: Mapping[str, Any], name: str) -> datetime | None:
    """Read a time that we wrote, `None` if it is missing or can't be read."""
    if (written := read_text(headers, name)) is None:
        return None
    try:
        when = datetime.fromisoformat(written)
        return when.astimezone(UTC) if when.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def read_routing_key(headers: Mapping[str, Any]) -> str | None:
    """Read the producer's routing key, `None` if it is missing or longer than one can be."""
    value = read_text(headers, Header.ROUTING_KEY)
    return value if value is not None and len(to_bytes(value)) <= _LONGEST_ROUTING_KEY else None


def _read_event_id(headers: Mapping[str, Any]) -> str | None:
    """Read the event id, `None` if it is missing or could not travel as an HTTP header."""
    value = read_text(headers, Header.EVENT_ID)
    return value if value is not None and _EVENT_ID.fullmatch(value) else None


def _read_attempt(headers: Mapping[str, Any]) -> int:
    value = headers.get(Header.ATTEMPT)
    return max(1, value) if isinstance(value, int) else 1


def producer_headers(table: Table) -> dict[str, Any]:
    """Return the producer's own headers: those that the core sees, and that copies carry as they came.

    Not the broker's `x-…` (with `x-death` on it, older brokers silently drop a copy that would run in a
    circle), nor `CC` and `BCC` (they would route the copy to other queues too). If the rest is too large to
    fit in with ours, only what is read remains: the attributes of a CloudEvent and the trace context.
    The trace context is text, as tracing reads it from the copy.
    """
    own = {
        name: raw
        for name, raw in table.raw.items()
        if name not in OUR_HEADERS and not _is_brokers(name) and name.lower() not in _ROUTES_ELSEWHERE
    }
    if not own:
        return {}
    if not _fit(own):
        own = {
            name: raw for name, raw in own.items() if name.lower().startswith(_READ) and len(raw) <= MAX_READ
        }
        if not _fit(own):
            return {}
    context = {name: table[name] for name in _TRACE_CONTEXT if name in own and name in table}
    return own | {name: value for name, value in context.items() if isinstance(value, str)}


def _is_brokers(name: str) -> bool:
    return name.startswith("x-")


def _fit(headers: Mapping[str, Raw]) -> bool:
    size = sum(1 + len(to_bytes(name)) + len(raw) for name, raw in headers.items())
    return size <= MAX_PRODUCER_HEADERS and len(headers) <= MAX_HEADERS


# --- settling


class Settler:
    """Acts on dispositions, each inbound at most once."""

    def __init__(
        self,
        publisher: BrokerPublisher,
        topology: Topology,
        waits_when_full: Sequence[float] = WAITS_WHEN_FULL,
    ) -> None:
        self._publisher = publisher
        self._topology = topology
        self._waits_when_full = waits_when_full
        self._waiting = 0

    async def settle(
        self, delivery: Delivery, inbound: Inbound, outcome: Outcome, queue: EventType
    ) -> Outcome:
        """Publish the successor and acknowledge; a cancellation waits until that is done.

        If the queue of the copy is full, hold the inbound and try again, so that consuming comes to a halt.
        If the message can't be copied, it goes to the dead letters, and the outcome that is returned says so.

        `queue` is the work queue that the inbound came from, to which a copy finds its way back, whatever the
        producer's routing key.

        Raises `PublishError` if there is no successor: the inbound is not acknowledged, and comes back. So it
        does if the acknowledgement itself gets lost; its successor is then published twice, with the same id.
        """
        if isinstance(outcome.disposition, Ack | Duplicate):
            # the sink has it: that was the successor
            if delivery.settles_at_once:  # nothing to shield
                await delivery.acknowledge()
            else:
                await self._shielded(delivery.acknowledge())
        elif isinstance(delivery.body, DroppedBody):
            await self._shielded(delivery.dead_letter())
        else:
            try:
                copy = delivery.copy(_our_headers(inbound, outcome))
                await self._succeed_unless_full(delivery, self._exchange_for(outcome), queue, copy)
            except MessageRefused as error:
                return await self._dead_letter_bare(delivery, inbound, outcome, queue, error)
        return outcome

    async def _dead_letter_bare(
        self, delivery: Delivery, inbound: Inbound, outcome: Outcome, queue: EventType, error: MessageRefused
    ) -> Outcome:
        """Publish a dead letter with our headers alone, or else have the broker move the message as it is."""
        if isinstance(outcome.disposition, Retry):
            reason = f"it can't be copied for a retry: {error}"
            outcome = replace(outcome, disposition=DeadLetter(Reason.INVALID_EVENT, reason))
        bare = Copy(delivery.body, Properties(), _our_headers(inbound, outcome))
        try:
            await self._succeed_unless_full(delivery, self._topology.dead_letters, queue, bare)
        except MessageRefused:
            await self._shielded(delivery.dead_letter())
        return outcome

    def _exchange_for(self, outcome: Outcome) -> str:
        tier = outcome.disposition.tier if isinstance(outcome.disposition, Retry) else None
        return self._topology.dead_letters if tier is None else self._topology.tiers[tier]

    async def _succeed_unless_full(
        self, delivery: Delivery, exchange: str, queue: EventType, copy: Copy
    ) -> None:
        for wait in self._waits_when_full:
            try:
                await self._shielded(self._succeed(delivery, exchange, queue, copy))
            except RefusedByQueueError as error:
                await self._wait_for_space(wait, error)
            else:
                return
        await self._shielded(self._succeed(delivery, exchange, queue, copy))

    async def _wait_for_space(self, seconds: float, error: RefusedByQueueError) -> None:
        """Wait; of all that wait at one time, only the first one is logged."""
        if not self._waiting:
            _log.warning("settling_held_up", error=str(error), next_try_seconds=seconds)
        self._waiting += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self._waiting -= 1

    async def _shielded(self, step: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(step)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # seen: it comes back
            await asyncio.wait([task], timeout=SETTLE_TIMEOUT)
            task.cancel()
            raise

    async def _succeed(self, delivery: Delivery, exchange: str, queue: EventType, copy: Copy) -> None:
        await self._publisher.publish_message(exchange, queue, copy)
        await delivery.acknowledge()


def _our_headers(inbound: Inbound, outcome: Outcome) -> dict[str, Any]:
    """Return our headers for a retry copy or a dead letter."""
    ours: dict[str, Any] = {
        Header.FIRST_SEEN: inbound.first_seen.isoformat(),
        Header.ROUTING_KEY: inbound.routing_key,
    }
    if outcome.event_id is not None:
        ours[Header.EVENT_ID] = outcome.event_id
    if outcome.enrichment is not None:
        carried = outcome.enrichment.model_dump_json()
        if len(carried.encode()) <= MAX_ENRICHMENT:
            ours[Header.ENRICHMENT] = carried
    match outcome.disposition:
        case Retry() as retry:
            if outcome.progress is not None and len(outcome.progress.encode()) <= MAX_PROGRESS:
                ours[Header.PROGRESS] = outcome.progress
            return ours | {Header.ATTEMPT: retry.attempt, Header.ERROR: retry.error[:MAX_ERROR]}
        case DeadLetter() as dead:
            return ours | {
                Header.ATTEMPT: inbound.attempt,
                Header.ERROR: dead.error[:MAX_ERROR],
                Header.REASON: dead.reason.value,
                Header.STAGE: outcome.stage.value,
                Header.FAILED_AT: datetime.now(UTC).isoformat(),
            }
        case _:
            return {}
