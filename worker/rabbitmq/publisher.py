"""Publishing: mandatory, persistent, confirmed, and within a deadline."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import aio_pika
import aiormq
from aio_pika.abc import AbstractChannel, AbstractExchange, DeliveryMode

from worker.core.errors import PublishError
from worker.core.ports import Outgoing
from worker.core.tracing import UNTRACED, Tracing

PUBLISH_TIMEOUT = 10.0
"""Seconds until a publish that is not confirmed counts as failed; a blocked connection ends here."""

_NOWHERE = "crm-sync.probe"


class _Unroutable(PublishError):
    """No queue is bound for the message."""


class RefusedByQueueError(PublishError):
    """The connection is good, and the broker took the message for no queue: one that it was for is full."""


class BrokerPublisher:
    """Fulfils `worker.core.ports.Publisher`.

    It outlives connections: between two of them every publish fails at once.
    """

    def __init__(self, timeout: float = PUBLISH_TIMEOUT, tracing: Tracing = UNTRACED) -> None:
        """Take the deadline of each publish, in seconds, and who opens a span for each."""
        self._timeout = timeout
        self._tracing = tracing
        self._connection: aio_pika.abc.AbstractConnection | None = None
        self._channel: AbstractChannel | None = None
        self._exchanges: dict[str, AbstractExchange] = {}
        self._ids: dict[str, asyncio.Event] = {}

    async def attach(self, connection: aio_pika.abc.AbstractConnection) -> AbstractChannel:
        """Publish through a channel of this connection from now on."""
        self._exchanges = {}
        self._connection = connection
        self._channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        return self._channel

    def detach(self) -> None:
        """Publish nothing until there is a connection again."""
        self._channel = None

    async def publish(self, exchange: str, routing_key: str, message: Outgoing) -> None:
        """Publish; see the port for its promise."""
        full = aio_pika.Message(
            message.body,
            content_type=message.content_type,
            message_id=message.message_id,
            type=message.type,
            delivery_mode=DeliveryMode.PERSISTENT,
        )
        await self.publish_message(exchange, routing_key, full)

    async def probe(self, exchange: str) -> None:
        """Return once the broker takes messages, without a deadline: while an alarm stands, it stays silent.

        Publishes two that no queue gets, as a broker blocks a connection only after its first. Raises
        `PublishError` where the connection fails.
        """
        for _ in range(2):
            with suppress(_Unroutable):
                await self._publish(exchange, _NOWHERE, aio_pika.Message(b""))

    async def publish_message(self, exchange: str, routing_key: str, message: aio_pika.Message) -> None:
        """Publish a message with all its properties; the same promise. Trace headers are added to it."""
        with self._tracing.send(exchange, routing_key, message.message_id, message.headers):
            await self._publish_in_time(exchange, routing_key, message)

    async def _publish_in_time(self, exchange: str, routing_key: str, message: aio_pika.Message) -> None:
        try:
            async with asyncio.timeout(self._timeout), self._alone(message.message_id):
                try:
                    await self._publish(exchange, routing_key, message)
                except RefusedByQueueError:
                    await self._publish_afresh(exchange, routing_key, message)
        except TimeoutError as error:
            raise PublishError(
                f"the broker did not confirm within {self._timeout:g} s; is it blocked by an alarm?"
            ) from error

    async def _publish(self, exchange: str, routing_key: str, message: aio_pika.Message) -> None:
        if self._channel is None or self._channel.is_closed:
            raise PublishError("there is no connection to the broker")
        with _explained(exchange, routing_key):
            target = self._exchanges.get(exchange)
            if target is None:
                target = await self._channel.get_exchange(exchange, ensure=False)
                self._exchanges[exchange] = target
            await target.publish(message, routing_key, mandatory=True)

    async def _publish_afresh(self, exchange: str, routing_key: str, message: aio_pika.Message) -> None:
        """Publish through a channel of its own.

        RabbitMQ 3.10 can go on refusing on a channel on which a quorum queue refused once, also when the
        queue's limit was taken away; on another it takes the message.
        """
        if self._connection is None:
            raise PublishError("there is no connection to the broker")
        with _explained(exchange, routing_key):
            async with self._connection.channel(publisher_confirms=True, on_return_raises=True) as channel:
                target = await channel.get_exchange(exchange, ensure=False)
                await target.publish(message, routing_key, mandatory=True)

    @asynccontextmanager
    async def _alone(self, message_id: str | None) -> AsyncIterator[None]:
        """Wait until no other message with this id is being published.

        aiormq finds what a returned message belongs to by its id alone, so of
        two at once the wrong one would count as confirmed.
        """
        if not message_id:
            yield
            return
        while (other := self._ids.get(message_id)) is not None:
            await other.wait()
        done = self._ids[message_id] = asyncio.Event()
        try:
            yield
        finally:
            del self._ids[message_id]
            done.set()


@contextmanager
def _explained(exchange: str, routing_key: str) -> Iterator[None]:
    """Turn what the library raises of a publish into a `PublishError` in words."""
    try:
        yield
    except aiormq.exceptions.PublishError as error:
        raise _Unroutable(f"no queue takes messages for {str(routing_key)!r} from {exchange}") from error
    except aiormq.exceptions.DeliveryError as error:
        text = f"a queue behind {exchange} refused the message; is it full?"
        raise RefusedByQueueError(text) from error
    except (aiormq.AMQPError, RuntimeError, OSError, asyncio.InvalidStateError) as error:
        raise PublishError(f"the connection to the broker failed ({type(error).__name__})") from error
