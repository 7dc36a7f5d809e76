"""Taking events in: consume both work queues, one task per message, at most `max_in_flight` at work."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection
from aiormq.abc import DeliveredMessage

from worker.core.errors import PublishError
from worker.core.events import EventType, Inbound
from worker.core.pipeline import Outcome, Pipeline
from worker.rabbitmq.delivery import Delivery
from worker.rabbitmq.settle import Settler
from worker.rabbitmq.topology import Topology

_log = structlog.get_logger()

Observer = Callable[[Inbound, Outcome, float], None]
"""Told of each settled inbound, with the seconds that it took."""


class Intake:
    """Consumes through one connection until it is stopped or something breaks."""

    def __init__(
        self,
        pipeline: Pipeline,
        settler: Settler,
        topology: Topology,
        *,
        max_in_flight: int,
        observe: Observer = lambda *_: None,
    ) -> None:
        """Take what each message goes through."""
        self._pipeline = pipeline
        self._settler = settler
        self._topology = topology
        self._places = asyncio.Semaphore(max_in_flight)
        self._max_in_flight = max_in_flight
        self._observe = observe
        self._tasks: set[asyncio.Task[None]] = set()
        self._at_work = 0
        self._channels: dict[AbstractChannel, str] = {}
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def in_flight(self) -> int:
        """How many messages are at work; those that wait for a place are not."""
        return self._at_work

    async def start(self, connection: AbstractConnection) -> None:
        """Begin to consume. From then on `broken` fails as soon as a consumer no longer consumes.

        Each queue has a channel of its own. The calls alone may fill every
        place; the onboardings hold a quarter more, and as places are given in
        the order of arrival, they get the next one that falls free.
        """
        prefetch = {
            EventType.CALL_ENDED: self._max_in_flight,
            EventType.AGENT_ONBOARDED: max(1, self._max_in_flight // 4),
        }
        for kind, name in self._topology.work_queues.items():
            channel = await connection.channel(publisher_confirms=False)
            channel.close_callbacks.add(self._on_channel_closed)
            underlay = await channel.get_underlay_channel()
            underlay.on_consumer_cancel_callbacks.add(self._on_consumer_cancelled)
            await channel.set_qos(prefetch_count=prefetch[kind])
            started = await underlay.basic_consume(name, partial(self._on_message, kind))
            self._channels[channel] = started.consumer_tag or ""

    async def stop(self, drain: float) -> None:
        """Stop consuming, let the messages at work finish within `drain` seconds, give the rest back."""
        for channel, tag in self._channels.items():
            channel.close_callbacks.discard(self._on_channel_closed)
            with suppress(Exception):  # where it can't be cancelled any more, nothing is consumed either
                underlay = await channel.get_underlay_channel()
                await underlay.basic_cancel(tag, timeout=2)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=drain)
        left = list(self._tasks)
        if left:
            _log.warning("drain_incomplete", given_back=len(left), drain_seconds=drain)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)

    async def _on_message(self, queue: EventType, message: DeliveredMessage) -> None:
        """Work on a message. Where that breaks this intake, the end of its channel gives the message back.

        Given back at once, it would be delivered here again before the
        consumer is cancelled, and each delivery counts towards the limit.
        """
        task = asyncio.current_task()
        if task is None or self.broken.done():
            return
        self._tasks.add(task)
        delivery = Delivery(message)
        try:
            await self._work_on(queue, delivery)
        except PublishError as error:
            self.break_off(error)
        except asyncio.CancelledError:
            await delivery.give_back()
            raise
        except Exception as error:  # noqa: BLE001 - a bug of ours: begin anew, and lose nothing
            _log.exception("intake_failed", error_type=type(error).__name__)
            self.break_off(error)
        finally:
            self._tasks.discard(task)

    async def _work_on(self, queue: EventType, delivery: Delivery) -> None:
        async with self._places:
            if self.broken.done():  # while it waited for its place
                return
            self._at_work += 1
            try:
                started = time.perf_counter()
                inbound = delivery.inbound()
                outcome = await self._pipeline.process(inbound)
                await self._settler.settle(delivery, inbound, outcome, queue)
                self._observe(inbound, outcome, time.perf_counter() - started)
            finally:
                self._at_work -= 1

    def _on_channel_closed(self, _channel: object, error: BaseException | None) -> None:
        self.break_off(error)

    def _on_consumer_cancelled(self, _frame: object) -> None:
        self.break_off(ConnectionError("the broker cancelled the consumer; was its queue deleted?"))

    def break_off(self, error: BaseException | None) -> None:
        """Say that this intake can't go on; `broken` then fails with the first such error."""
        if not self.broken.done():
            self.broken.set_exception(error or ConnectionError("the channel was closed"))
            self.broken.exception()  # seen, also where the stop came first
