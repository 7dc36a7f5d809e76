"""One message as the broker delivered it, to be acknowledged or given back, at most once."""

from collections.abc import Awaitable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from aiormq import spec
from aiormq.abc import DeliveredMessage

from worker.core.errors import PublishError
from worker.core.events import Inbound
from worker.rabbitmq import headers
from worker.rabbitmq.codec import Copy, Properties, Table


class Delivery:
    """A delivery of the channel below aio-pika's, whose own message costs as much as decoding the event.

    Settling does not wait for the wire, but it may wait for a place in the connection's short queue of
    frames. A cancellation there leaves the message unsettled.
    """

    __slots__ = ("message", "settled")

    def __init__(self, message: DeliveredMessage) -> None:
        """Take what aiormq hands to a consumer."""
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
        """Acknowledge. Raises `PublishError` where that is no longer possible; the broker then redelivers."""
        if self.settled:
            raise PublishError("the message was given back meanwhile")
        try:
            await self._settle(self.message.channel.basic_ack(self._tag, wait=False))
        except Exception as error:
            raise PublishError("the channel closed before the acknowledgement was sent") from error

    async def requeue(self) -> None:
        """Put the message back into its queue, if that is still ours to do. Never raises."""
        if not self.settled:
            with suppress(Exception):  # a closed channel has given it back already
                await self._settle(self.message.channel.basic_nack(self._tag, requeue=True, wait=False))

    async def hand_over(self) -> None:
        """Have the broker itself move the message to the dead letters, if it is still ours. Never raises."""
        if not self.settled:
            with suppress(Exception):
                await self._settle(self.message.channel.basic_reject(self._tag, requeue=False, wait=False))

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

        Our headers are ours on what came by our own exchange, from a tier or by a replay: who
        may publish an event must not be able to say what the dialer answered.
        """
        copied = self.exchange == work_exchange
        return to_inbound(self.body, self.properties, self.routing_key, copied=copied)

    def copy(self, with_headers: dict[str, Any]) -> Copy:
        """Copy the message with these headers and the producer's own."""
        properties = self.properties
        return Copy(self.body, properties, headers.foreign(table_of(properties)) | with_headers)


def table_of(properties: Properties) -> Table:
    """Return a message's headers, empty if it has none."""
    return properties.headers if isinstance(properties.headers, Table) else Table()


def to_inbound(
    body: bytes, properties: spec.Basic.Properties, routing_key: str, *, copied: bool = True
) -> Inbound:
    """Turn a message into what the core sees of it.

    Our own headers count only on a copy of ours, and nonsense in them as missing.
    """
    read = Properties.of(properties)
    table = table_of(read)
    carried = headers.foreign(table)
    plain: dict[str, Any] = {
        "headers": {
            name: value for name, value in table.items() if name in carried or headers.is_brokers(name)
        },
        "content_type": read.content_type,
        "message_id": read.message_id,
        "type": read.message_type,
        "timestamp": read.timestamp,
    }
    if not table or not copied:
        return Inbound(body, routing_key, datetime.now(UTC), **plain)
    return Inbound(
        body,
        headers.routing_key(table) or routing_key,
        headers.time(table, headers.FIRST_SEEN) or datetime.now(UTC),
        **plain,
        attempt=headers.attempt(table),
        event_id=headers.event_id(table),
        enrichment=headers.text(table, headers.ENRICHMENT),
    )
