"""One work queue, on a channel of its own: consumed as far as there is room, or asked for one message."""

from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from aio_pika.abc import AbstractChannel, AbstractConnection
from aiormq import spec
from aiormq.abc import AbstractChannel as Underlay
from aiormq.abc import DeliveredMessage

from worker.core.events import EventType

_CANCEL_TIMEOUT = 2.0


class Source:
    """Where one type of event comes from. Nothing is consumed until `flow` says how much."""

    def __init__(
        self,
        kind: EventType,
        queue: str,
        on_message: Callable[[DeliveredMessage], Coroutine[Any, Any, None]],
        on_broken: Callable[[BaseException | None], None],
    ) -> None:
        """Take the queue's name, who gets each message, and who is told that no more can come."""
        self.kind = kind
        self._queue = queue
        self._on_message = on_message
        self._on_broken = on_broken
        self._channel: AbstractChannel | None = None
        self._tag: str | None = None
        self._prefetch = 0

    async def open(self, connection: AbstractConnection) -> None:
        """Open the channel."""
        self._channel = channel = await connection.channel(publisher_confirms=False)
        channel.close_callbacks.add(self._on_channel_closed)
        (await self._underlay(channel)).on_consumer_cancel_callbacks.add(self._on_cancelled)

    async def flow(self, prefetch: int) -> None:
        """Consume with so many messages in hand at most; 0 stops consuming.

        A prefetch counts from the next consumer on, so a change replaces the
        consumer. What was delivered before the old one ended is worked on.
        """
        if self._channel is None or prefetch == self._prefetch:
            return
        underlay = await self._underlay(self._channel)
        if self._tag is not None:
            tag, self._tag = self._tag, None
            await underlay.basic_cancel(tag)
        self._prefetch = prefetch
        if prefetch > 0:
            await underlay.basic_qos(prefetch_count=prefetch)
            started = await underlay.basic_consume(self._queue, self._on_message)
            self._tag = started.consumer_tag

    async def take_one(self) -> DeliveredMessage | None:
        """Give one message, or `None` where the queue is empty."""
        if self._channel is None:
            return None
        message = await (await self._underlay(self._channel)).basic_get(self._queue)
        return None if isinstance(message.delivery, spec.Basic.GetEmpty) else message

    async def close(self) -> None:
        """Stop consuming; the channel itself closes with its connection."""
        if self._channel is None:
            return
        self._channel.close_callbacks.discard(self._on_channel_closed)
        tag, self._tag = self._tag, None
        if tag is not None:
            with suppress(Exception):  # where it can't be cancelled any more, nothing is consumed either
                await (await self._underlay(self._channel)).basic_cancel(tag, timeout=_CANCEL_TIMEOUT)

    @staticmethod
    async def _underlay(channel: AbstractChannel) -> Underlay:
        return await channel.get_underlay_channel()

    def _on_channel_closed(self, _channel: object, error: BaseException | None) -> None:
        self._on_broken(error)

    def _on_cancelled(self, _frame: object) -> None:
        self._on_broken(ConnectionError("the broker cancelled the consumer; was its queue deleted?"))
