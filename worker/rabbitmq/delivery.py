"""One message as the broker delivered it, to be acknowledged or given back, at most once."""

from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from aio_pika import Message
from aiormq import spec
from aiormq.abc import DeliveredMessage

from worker.core.errors import PublishError
from worker.core.events import Inbound
from worker.rabbitmq import headers


class Delivery:
    """A delivery of the channel below aio-pika's, whose own message costs as much as decoding the event.

    Neither settling waits for the wire: it puts its frame in line without
    ever suspending, so that no cancellation can come between the frame and
    the note of it here.
    """

    __slots__ = ("message", "settled")

    def __init__(self, message: DeliveredMessage) -> None:
        """Take what aiormq hands to a consumer."""
        self.message = message
        self.settled = False

    @property
    def exchange(self) -> str:
        """The exchange that it was published to: by its producer, or by a tier on its way back."""
        return self.message.exchange or ""

    async def acknowledge(self) -> None:
        """Acknowledge. Raises `PublishError` where that is no longer possible; the broker then redelivers."""
        if self.settled:
            raise PublishError("the message was given back meanwhile")
        try:
            await self.message.channel.basic_ack(self.message.delivery_tag or 0, wait=False)
        except Exception as error:
            raise PublishError("the channel closed before the acknowledgement was sent") from error
        self.settled = True

    async def give_back(self) -> None:
        """Put the message back into its queue, if that is still ours to do. Never raises."""
        if self.settled:
            return
        self.settled = True
        with suppress(Exception):  # a closed channel has given it back already
            await self.message.channel.basic_nack(self.message.delivery_tag or 0, requeue=True, wait=False)

    def inbound(self, work_exchange: str) -> Inbound:
        """Give what the core sees of it.

        Our headers are ours on what came by our own exchange, from a tier or by a replay: who
        may publish an event must not be able to say what the dialer answered.
        """
        message, copied = self.message, self.exchange == work_exchange
        return to_inbound(message.body, message.header.properties, message.routing_key or "", copied=copied)

    def copy(self, with_headers: dict[str, Any]) -> Message:
        """Copy the message with other headers."""
        return headers.copy_of(self.message.body, self.message.header.properties, with_headers)


def to_inbound(
    body: bytes, properties: spec.Basic.Properties, routing_key: str, *, copied: bool = True
) -> Inbound:
    """Turn a message into what the core sees of it.

    Our own headers count only on a copy of ours, and nonsense in them as missing.
    """
    plain: dict[str, Any] = {
        "content_type": properties.content_type,
        "message_id": properties.message_id,
        "type": properties.message_type,
        "timestamp": properties.timestamp,
    }
    said = properties.headers
    if not said or not copied:
        return Inbound(body, routing_key, datetime.now(UTC), said or {}, **plain)
    return Inbound(
        body,
        headers.routing_key(said) or routing_key,
        headers.time(said, headers.FIRST_SEEN) or datetime.now(UTC),
        said,
        **plain,
        attempt=headers.attempt(said),
        event_id=headers.event_id(said),
        enrichment=headers.text(said, headers.ENRICHMENT),
    )
