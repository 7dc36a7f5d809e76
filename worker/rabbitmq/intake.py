"""Taking events in: both work queues, one task per message, at most `max_in_flight` at work.

While a breaker is open nothing is taken in: the queues hold the backlog. What
was taken in already goes back by way of the first tier. A breaker that probes is
given one message once nothing is in work behind it; then as many as it has
room for.
"""

import asyncio
import time
from contextlib import suppress
from functools import partial
from typing import Protocol

import structlog
from aio_pika.abc import AbstractConnection
from aiormq.abc import DeliveredMessage

from worker.core.breakers import CircuitBreakers
from worker.core.errors import PublishError
from worker.core.events import EventType, Inbound
from worker.core.pipeline import Outcome, Pipeline
from worker.core.tracing import UNTRACED, Tracing
from worker.rabbitmq.bodies import Bodies
from worker.rabbitmq.delivery import Delivery
from worker.rabbitmq.publisher import RefusedByQueueError
from worker.rabbitmq.settle import Settler
from worker.rabbitmq.source import SILENT, Source, is_being_cancelled
from worker.rabbitmq.topology import Topology

LOOK_AGAIN = 0.5
"""Seconds until empty queues are asked again for a message to probe with."""
CHECK_QUEUES = 5.0
"""Seconds until the queues that are not consumed from are looked at again: they might be gone."""
_REGULATE_TIMEOUT = 2.0
_GIVE_BACK_TIMEOUT = 1.0

_log = structlog.get_logger()


class IntakeFailedError(Exception):
    """A bug of ours broke the intake; it has been logged with its traceback."""


class Observer(Protocol):
    """Who is told of each inbound."""

    def received(self, queue: EventType) -> None:
        """Take note that one is taken into work."""
        ...

    def settled(self, inbound: Inbound, outcome: Outcome, seconds: float) -> None:
        """Take note that one was settled after so many seconds of work."""
        ...


class Intake:
    """Takes events in through one connection until it is stopped or something breaks."""

    def __init__(
        self,
        pipeline: Pipeline,
        settler: Settler,
        topology: Topology,
        breakers: CircuitBreakers,
        *,
        max_in_flight: int,
        observer: Observer,
        tracing: Tracing = UNTRACED,
    ) -> None:
        """Take what each message goes through, and the breakers that tell how much may be taken in."""
        self._pipeline = pipeline
        self._settler = settler
        self._breakers = breakers
        self._places = asyncio.Semaphore(max_in_flight)
        self._max_in_flight = max_in_flight
        self._observer = observer
        self._tracing = tracing
        self._tasks: set[asyncio.Task[None]] = set()
        self._in_hand: set[Delivery] = set()
        self._bodies = Bodies()
        self._queues = topology.work_queues
        self._work_exchange = topology.work_exchange
        self._sources: list[Source] = []
        self._regulating: asyncio.Task[None] | None = None
        self._stopping = False
        self._in_full_flow = False
        self._changed = asyncio.Event()  # until it is looked at
        self._capacity_may_be = asyncio.Event()  # for an instant: wakes those who wait for room
        self._probe: asyncio.Task[None] | None = None
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def in_flight(self) -> int:
        """How many messages are at work; those that wait for a place are not."""
        return self._breakers.in_work

    async def start(self, connection: AbstractConnection) -> None:
        """Begin to take in. From then on `broken` fails as soon as that is no longer possible."""
        for kind, name in self._queues.items():
            on_message = partial(self._on_message, kind)
            source = await Source.open(connection, kind, name, on_message, self.fail)
            self._bodies.watch(source.underlay)
            self._sources.append(source)
        self._breakers.watch(self._wake)
        await self._set_prefetch()
        self._regulating = asyncio.create_task(self._regulate())

    async def stop(self, drain: float) -> None:
        """Take no more in, let what is at work finish within `drain` seconds, give the rest back."""
        await self._stop_regulating()
        for source in self._sources:
            await source.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=drain)
        left = list(self._tasks)
        if left:
            _log.warning("drain_incomplete", requeued=len(left), drain_seconds=drain)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)
        with suppress(TimeoutError):  # of a connection that fell silent; its end gives them back
            async with asyncio.timeout(_GIVE_BACK_TIMEOUT):
                for delivery in list(self._in_hand):
                    await delivery.requeue()

    async def _stop_regulating(self) -> None:
        """Let it end by itself: cancelled amid a question to the broker, it would break a channel in use."""
        self._stopping = True
        self._wake()
        if self._regulating is None:
            return
        try:
            await asyncio.wait([self._regulating], timeout=_REGULATE_TIMEOUT)
        finally:
            self._regulating.cancel()

    async def _regulate(self) -> None:
        """Take in as much as the breakers have room for, from now on."""
        try:
            while await self._something_changed():
                await self._set_prefetch()
        except asyncio.CancelledError as error:
            if is_being_cancelled():
                raise
            self.fail(error)
        except Exception as error:  # noqa: BLE001 - the channel broke, or a bug of ours: begin anew
            self.fail(error)

    async def _something_changed(self) -> bool:
        """Wait until there may be another room; false at the stop."""
        try:
            async with asyncio.timeout(self._next_look()):
                await self._changed.wait()
        except TimeoutError:
            for source in self._sources:
                if not self._breakers.probing(source.kind):  # else it is asked for a message anyway
                    await source.check()
        return not self._stopping

    def _next_look(self) -> float | None:
        """Give the seconds after which to look at the breakers and queues though nothing happened."""
        if self._in_full_flow:
            return None
        wanted = any(self._wants_probe(source.kind) for source in self._sources)
        look = LOOK_AGAIN if wanted else CHECK_QUEUES
        change = self._breakers.next_change_in()
        return look if change is None else min(look, change)

    async def _set_prefetch(self) -> None:
        self._changed.clear()
        self._in_full_flow = self._breakers.all_closed
        await asyncio.gather(*(source.set_prefetch(self._prefetch(source.kind)) for source in self._sources))
        if not self._in_full_flow:
            await self._send_a_probe()

    def _prefetch(self, kind: EventType) -> int:
        """Give how many messages of a queue may be in hand.

        The calls alone may fill every place; the onboardings hold a quarter
        more, and as places are given in the order of arrival, they get the
        next one that falls free.
        """
        if self._breakers.probing(kind):
            return 0
        capacity = min(self._breakers.capacity(kind), self._max_in_flight)
        return capacity if kind is EventType.CALL_ENDED or capacity == 0 else max(1, capacity // 4)

    def _wants_probe(self, kind: EventType) -> bool:
        under_way = self._probe is not None and not self._probe.done()
        return not under_way and self._breakers.probing(kind) and not self._breakers.at_capacity(kind)

    async def _send_a_probe(self) -> None:
        """Take one message for a breaker that wants to see whether its dependency works again."""
        for source in self._sources:
            if self._wants_probe(source.kind) and (message := await source.get_one()) is not None:
                self._probe = asyncio.create_task(self._on_message(source.kind, message))
                self._sources.remove(source)
                self._sources.append(source)  # the next probe is of the other kind, if there is one
                return

    async def _on_message(self, queue: EventType, message: DeliveredMessage) -> None:
        """Work on a message. What it leaves unsettled is given back when this intake stops.

        Given back at once, it would be delivered here again before the
        consumer is cancelled, and each delivery counts towards the limit.
        """
        task = asyncio.current_task()
        delivery = Delivery(message)
        self._in_hand.add(delivery)
        if task is None or self.failed.done():
            return
        self._tasks.add(task)
        try:
            await self._work_on(queue, delivery)
        except RefusedByQueueError as error:  # the queue of its copy is full, which concerns no other event
            _log.warning("settling_failed", error=str(error))
            await delivery.requeue()
        except PublishError as error:
            self.fail(error)
        except Exception as error:  # noqa: BLE001 - a bug of ours: begin anew, and lose nothing
            _log.exception("intake_failed", error_type=type(error).__name__)
            self._in_hand.discard(delivery)  # so that the end of the channel gives it back, which is counted
            self.fail(IntakeFailedError(f"unexpected {type(error).__name__}; the log has the traceback"))
        finally:
            self._tasks.discard(task)
            if delivery.settled:
                self._in_hand.discard(delivery)
            self._bodies.forget(delivery.body)

    async def _work_on(self, queue: EventType, delivery: Delivery) -> None:
        async with self._bodies.in_work(delivery.body), self._places:
            while self._breakers.at_capacity(queue):
                await self._capacity_may_be.wait()
            if self.failed.done():  # while it waited
                return
            self._breakers.begin(queue)
            self._observer.received(queue)
            try:
                started = time.perf_counter()
                inbound = delivery.inbound(self._work_exchange)
                with self._tracing.work(self._queues[queue], delivery.exchange, inbound) as span:
                    outcome = await self._pipeline.process(inbound)
                    span.decided(outcome)
                    await self._settler.settle(delivery, inbound, outcome, queue)
                    self._observer.settled(inbound, outcome, time.perf_counter() - started)
                if outcome.error is not None:  # its frames hold the parsed event, in a circle with it
                    outcome.error.__traceback__ = None
            finally:
                self._breakers.end(queue)
                if not (self._in_full_flow and self._breakers.all_closed):
                    self._wake()

    def _wake(self) -> None:
        """Have the breakers looked at, as a state or the number of events in work has changed."""
        self._changed.set()
        self._capacity_may_be.set()
        self._capacity_may_be.clear()

    def fail(self, error: BaseException | None) -> None:
        """Say that this intake can't go on; `broken` then fails with the first such error."""
        if isinstance(error, asyncio.CancelledError):  # what aiormq says where the heartbeats stopped
            error = ConnectionError(SILENT)
        if not self.failed.done():
            self.failed.set_exception(error or ConnectionError("the channel was closed"))
            self.failed.exception()  # seen, also where the stop came first
