"""Publishing: mandatory, persistent, confirmed, and within a deadline."""

import asyncio
import struct
from contextlib import suppress
from typing import Any

import aio_pika
import aiormq
from aio_pika.abc import AbstractChannel, AbstractConnection, DeliveryMode

from worker.core.errors import MessageRefused, PublishError, PublishForbidden
from worker.core.ports import Outgoing
from worker.core.tracing import UNTRACED, Tracing

PUBLISH_TIMEOUT = 10.0
"""Seconds until a publish that is not confirmed counts as failed; a blocked connection ends here."""

_CLOSE_TIMEOUT = 1.0
"""Seconds that a channel may take to close; on a blocked connection it does not."""
_NOWHERE = "crm-sync.probe"


class _Unroutable(PublishError):
    """No queue is bound for the message."""


class RefusedByQueueError(PublishError):
    """The connection is good, but a queue that the message was for is full."""


class _Lane:
    """A channel for publishing. One that the broker closed is opened anew by the next publish."""

    def __init__(self) -> None:
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None
        self._opening = asyncio.Lock()

    def attach(self, connection: AbstractConnection | None) -> None:
        self._connection, self._channel = connection, None

    async def open(self) -> AbstractChannel:
        async with self._opening:
            if self._channel is None or self._channel.is_closed:
                self._channel = await self._new_channel()
            return self._channel

    async def renew(self) -> None:
        old, self._channel = self._channel, None
        if old is not None:
            await _close(old)

    async def publish(self, exchange: str, routing_key: str, message: aio_pika.Message) -> None:
        try:
            channel = self._channel
            if channel is None or channel.is_closed:
                channel = await self.open()
            await _send(channel, exchange, routing_key, message)
        except _FAILURES as error:
            raise _explained(error, exchange, routing_key) from error

    async def publish_afresh(self, exchange: str, routing_key: str, message: aio_pika.Message) -> None:
        """Publish through a channel that is used for this one message."""
        try:
            channel = await self._new_channel()
            try:
                await _send(channel, exchange, routing_key, message)
            finally:
                await _close(channel)
        except _FAILURES as error:
            raise _explained(error, exchange, routing_key) from error

    async def _new_channel(self) -> AbstractChannel:
        if self._connection is None:
            raise PublishError("there is no connection to the broker")
        channel = await self._connection.channel(publisher_confirms=True, on_return_raises=True)
        underlay: Any = await channel.get_underlay_channel()
        underlay.write_queue = _FramesUntilClosed(underlay)
        return channel


async def _close(channel: AbstractChannel) -> None:
    """Close a channel, within a deadline: one that waits for a queue does not answer.

    Nothing is raised for it: what the broker said of the message is what counts.
    """
    with suppress(aiormq.AMQPError, RuntimeError, OSError):
        async with asyncio.timeout(_CLOSE_TIMEOUT):
            await channel.close(aiormq.exceptions.ChannelInvalidStateError("another channel is used now"))


class _FramesUntilClosed:
    """A channel's queue of frames to send, which takes none once the broker has closed the channel.

    aiormq 7.2 lets a publish pass for a moment after it confirmed that, and the broker then closes the whole
    connection ("expected 'channel.open'").
    """

    def __init__(self, channel: Any) -> None:  # noqa: ANN401 - aiormq's own class, not the abstract one
        self._channel = channel
        self._frames: asyncio.Queue[Any] = channel.write_queue

    async def put(self, frame: object) -> None:
        if (closed := _why_closed(self._channel)) is not None:
            raise closed
        await self._frames.put(frame)

    def put_nowait(self, frame: object) -> None:
        self._frames.put_nowait(frame)


def _why_closed(channel: Any) -> BaseException | None:  # noqa: ANN401 - as above
    """Return why the broker closed a channel; nothing else has it as early."""
    reason: BaseException | None = channel._close_exception  # noqa: SLF001
    return reason


async def _send(channel: AbstractChannel, exchange: str, routing_key: str, message: aio_pika.Message) -> None:
    underlay = await channel.get_underlay_channel()
    try:
        await underlay.basic_publish(
            message.body,
            exchange=exchange,
            routing_key=routing_key,
            properties=message.properties,
            mandatory=True,
        )
    except aiormq.exceptions.ChannelInvalidStateError as error:
        if (closed := _why_closed(underlay)) is not None:
            raise closed from error
        raise
    except (TypeError, ValueError, OverflowError, struct.error) as error:
        raise MessageRefused(f"AMQP can't hold this message ({type(error).__name__})") from error


class BrokerPublisher:
    """Implements `worker.core.ports.Publisher`.

    It outlives connections: between two of them every publish fails at once. Payloads and copies have a
    channel each, as the broker closes the channel on which it refuses one, with all that is under way there.
    """

    def __init__(self, timeout: float = PUBLISH_TIMEOUT, tracing: Tracing = UNTRACED) -> None:
        """Have each publish end within so many seconds, in a span of its own."""
        self._timeout = timeout
        self._tracing = tracing
        self._payloads, self._copies = _Lane(), _Lane()
        self._ids: dict[str, asyncio.Event] = {}

    async def attach(self, connection: AbstractConnection) -> AbstractChannel:
        """Publish through channels of this connection from now on. Return the one for copies."""
        self._payloads.attach(connection)
        self._copies.attach(connection)
        return await self._copies.open()

    def detach(self) -> None:
        """Publish nothing until there is a connection again."""
        self._payloads.attach(None)
        self._copies.attach(None)

    async def renew(self) -> None:
        """Publish payloads through another channel from now on; what is unconfirmed on this one fails."""
        await self._payloads.renew()

    async def publish(self, exchange: str, routing_key: str, message: Outgoing) -> None:
        """Publish a payload; see the port for what is guaranteed."""
        full = aio_pika.Message(
            message.body,
            content_type=message.content_type,
            message_id=message.message_id,
            type=message.type,
            delivery_mode=DeliveryMode.PERSISTENT,
            headers=None if message.headers is None else dict(message.headers),
            timestamp=message.timestamp,
        )
        await self._publish(self._payloads, exchange, routing_key, full)

    async def publish_message(self, exchange: str, routing_key: str, message: aio_pika.Message) -> None:
        """Publish a message with all its properties; same guarantee. Trace headers are added to it."""
        await self._publish(self._copies, exchange, routing_key, message)

    async def probe(self, exchange: str) -> None:
        """Return once the broker takes messages, without a deadline: during an alarm it does not answer.

        Publishes two that no queue gets, as a broker blocks a connection only after its first. Raises
        `PublishError` if the connection fails.
        """
        for _ in range(2):
            with suppress(_Unroutable):
                await self._copies.publish(exchange, _NOWHERE, aio_pika.Message(b""))

    async def _publish(self, lane: _Lane, exchange: str, routing_key: str, message: aio_pika.Message) -> None:
        with self._tracing.send(exchange, routing_key, message.message_id, message.headers):
            try:
                async with asyncio.timeout(self._timeout):
                    await self._publish_alone(lane, exchange, routing_key, message)
            except TimeoutError as error:
                raise PublishError(
                    f"the broker did not confirm within {self._timeout:g} s;"
                    " is it blocked by an alarm, or a queue without a leader?"
                ) from error

    async def _publish_twice(
        self, lane: _Lane, exchange: str, routing_key: str, message: aio_pika.Message
    ) -> None:
        """Publish, and once more through a channel of its own if the refusal may not be about this message.

        RabbitMQ 3.10 can go on refusing on a channel on which a quorum queue refused once, also when the
        queue's limit was removed; on another it takes the message. And if the broker closes a channel because
        of one message, all that are under way on it fail.
        """
        try:
            await lane.publish(exchange, routing_key, message)
        except (RefusedByQueueError, MessageRefused):
            await lane.publish_afresh(exchange, routing_key, message)

    async def _publish_alone(
        self, lane: _Lane, exchange: str, routing_key: str, message: aio_pika.Message
    ) -> None:
        """Publish once no other message with this id is being published.

        aiormq finds what a returned message belongs to by its id alone, so of
        two at once the wrong one would count as confirmed.
        """
        if not (message_id := message.message_id):
            await self._publish_twice(lane, exchange, routing_key, message)
            return
        while (other := self._ids.get(message_id)) is not None:
            await other.wait()
        done = self._ids[message_id] = asyncio.Event()
        try:
            await self._publish_twice(lane, exchange, routing_key, message)
        finally:
            del self._ids[message_id]
            done.set()


_FAILURES = (aiormq.AMQPError, RuntimeError, OSError, asyncio.InvalidStateError)
"""What the library raises for a publish."""


def _explained(error: Exception, exchange: str, routing_key: str) -> Exception:
    """Return in words what one of `_FAILURES` means: a `PublishError`, or `MessageRefused`."""
    match error:
        case aiormq.exceptions.PublishError():
            return _Unroutable(f"no queue takes messages for {str(routing_key)!r} from {exchange}")
        case aiormq.exceptions.DeliveryError():
            return RefusedByQueueError(
                f"a queue behind {exchange} refused the message; is it full, or without a leader?"
            )
        case aiormq.ChannelAccessRefused():
            return PublishForbidden(f"the broker refuses to publish to {exchange}: {_reply(error)}")
        case aiormq.ChannelNotFoundEntity():
            return PublishError(f"there is no exchange {exchange}: {_reply(error)}")
        case aiormq.ChannelPreconditionFailed():
            return MessageRefused(f"the broker refuses this message: {_reply(error)}")
        case _:
            return PublishError(f"the connection to the broker failed ({type(error).__name__})")


def _reply(error: aiormq.AMQPError) -> str:
    """Return what the broker said when it closed the channel."""
    return str(error.args[0]) if error.args else type(error).__name__
