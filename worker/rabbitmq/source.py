"""One work queue, on a channel of its own: consumed as far as there is room, or asked for one message."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Self

from aio_pika.abc import AbstractChannel, AbstractConnection
from aiormq import spec
from aiormq.abc import AbstractChannel as Underlay
from aiormq.abc import DeliveredMessage

from worker.core.events import EventType

RPC_TIMEOUT = 10.0
"""Seconds until a broker that does not answer counts as gone: the channel is closed then."""
SILENT = "the broker fell silent: no heartbeat came"
_CANCEL_TIMEOUT = 2.0
_CANCELLED = (
    "the broker cancelled the consumer; was its queue deleted, or an event held longer than consumer_timeout?"
)
"""RabbitMQ 4.3 does so for an event that is held too long; before, it closes the channel."""


class Source:
    """Where one type of event comes from. Nothing is consumed until `flow` says how much."""

    def __init__(
        self,
        kind: EventType,
        queue: str,
        channel: AbstractChannel,
        underlay: Underlay,
        on_message: Callable[[DeliveredMessage], Coroutine[Any, Any, None]],
        on_failed: Callable[[BaseException | None], None],
    ) -> None:
        """Take what `open` does, and the channel that it opened, with the one below it."""
        self.kind = kind
        self.underlay = underlay
        self._queue = queue
        self._channel = channel
        self._on_message = on_message
        self._on_failed = on_failed
        self._tag: str | None = None
        self._prefetch = 0
        channel.close_callbacks.add(self._on_channel_closed)
        underlay.on_consumer_cancel_callbacks.add(self._on_cancelled)

    @classmethod
    async def open(
        cls,
        connection: AbstractConnection,
        kind: EventType,
        queue: str,
        on_message: Callable[[DeliveredMessage], Coroutine[Any, Any, None]],
        on_failed: Callable[[BaseException | None], None],
    ) -> Self:
        """Open a channel for a queue; take who gets each message, and who is told that no more can come."""
        channel = await connection.channel(publisher_confirms=False)
        return cls(kind, queue, channel, await channel.get_underlay_channel(), on_message, on_failed)

    async def set_prefetch(self, prefetch: int) -> None:
        """Consume with so many messages in hand at most; 0 stops consuming.

        A prefetch counts from the next consumer on, so a change replaces the
        consumer. What was delivered before the old one ended is worked on; what
        the broker was about to send to it goes back to the head of the queue, one
        delivery more in its count, and is the first that the new one gets.
        """
        if prefetch == self._prefetch:
            return
        self._prefetch = prefetch
        if self._tag is not None:
            tag, self._tag = self._tag, None
            await self.underlay.basic_cancel(tag, timeout=RPC_TIMEOUT)
        if prefetch > 0:
            await self.underlay.basic_qos(prefetch_count=prefetch, timeout=RPC_TIMEOUT)
            consume = self.underlay.basic_consume(self._queue, self._on_message, timeout=RPC_TIMEOUT)
            self._tag = (await consume).consumer_tag

    async def get_one(self) -> DeliveredMessage | None:
        """Give one message, or `None` where the queue is empty."""
        message = await self.underlay.basic_get(self._queue, timeout=RPC_TIMEOUT)
        return None if isinstance(message.delivery, spec.Basic.GetEmpty) else message

    async def check(self) -> None:
        """Make sure that the queue is still there, where nothing is consumed: only a consumer is told.

        The channel breaks, and so this raises, where the queue is gone.
        """
        if self._tag is None:
            await self.underlay.queue_declare(self._queue, passive=True, timeout=RPC_TIMEOUT)

    async def close(self) -> None:
        """Stop consuming; the channel itself closes with its connection."""
        self._channel.close_callbacks.discard(self._on_channel_closed)
        tag, self._tag = self._tag, None
        if tag is not None:
            with suppress(Exception):  # where it can't be cancelled any more, nothing is consumed either
                try:
                    await self.underlay.basic_cancel(tag, timeout=_CANCEL_TIMEOUT)
                except asyncio.CancelledError:
                    if is_being_cancelled():
                        raise

    def _on_channel_closed(self, _channel: object, error: BaseException | None) -> None:
        self._on_failed(error)

    def _on_cancelled(self, _frame: object) -> None:
        self._on_failed(ConnectionError(_CANCELLED))


def is_being_cancelled() -> bool:
    """Tell whether this task is being cancelled by somebody.

    If not, a `CancelledError` is aiormq's: it cancels what waits on a connection that fell silent.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
