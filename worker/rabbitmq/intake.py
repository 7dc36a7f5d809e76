"""Taking events in: both work queues, one task per message, at most `max_in_flight` at work.

While a gate is closed nothing is taken in: the queues hold the backlog. What
was taken in already goes back by way of the first tier. A gate that probes is
given one message; then as many as it has room for.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import structlog
from aio_pika.abc import AbstractConnection
from aiormq.abc import DeliveredMessage

from worker.core.errors import PublishError
from worker.core.events import EventType, Inbound
from worker.core.gates import Gates
from worker.core.pipeline import Outcome, Pipeline
from worker.rabbitmq.delivery import Delivery
from worker.rabbitmq.settle import Settler
from worker.rabbitmq.source import Source
from worker.rabbitmq.topology import Topology

LOOK_AGAIN = 0.5
"""Seconds until a gate that probes looks again for a message to probe with, and a closed one at its clock."""

_log = structlog.get_logger()

Observer = Callable[[Inbound, Outcome, float], None]
"""Told of each settled inbound, with the seconds that it took."""


class Intake:
    """Takes events in through one connection until it is stopped or something breaks."""

    def __init__(
        self,
        pipeline: Pipeline,
        settler: Settler,
        topology: Topology,
        gates: Gates,
        *,
        max_in_flight: int,
        observe: Observer = lambda *_: None,
    ) -> None:
        """Take what each message goes through, and the gates that tell how much may be taken in."""
        self._pipeline = pipeline
        self._settler = settler
        self._gates = gates
        self._places = asyncio.Semaphore(max_in_flight)
        self._max_in_flight = max_in_flight
        self._observe = observe
        self._tasks: set[asyncio.Task[None]] = set()
        self._at_work = 0
        self._sources = [
            Source(kind, name, partial(self._on_message, kind), self.break_off)
            for kind, name in topology.work_queues.items()
        ]
        self._regulating: asyncio.Task[None] | None = None
        self._in_full_flow = False
        self._changed = asyncio.Event()
        self._probe: asyncio.Task[None] | None = None
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def in_flight(self) -> int:
        """How many messages are at work; those that wait for a place are not."""
        return self._at_work

    async def start(self, connection: AbstractConnection) -> None:
        """Begin to take in. From then on `broken` fails as soon as that is no longer possible."""
        for source in self._sources:
            await source.open(connection)
        await self._flow()
        self._regulating = asyncio.create_task(self._regulate())

    async def stop(self, drain: float) -> None:
        """Take no more in, let what is at work finish within `drain` seconds, give the rest back."""
        if self._regulating is not None:
            self._regulating.cancel()
            await asyncio.wait([self._regulating])
        for source in self._sources:
            await source.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=drain)
        left = list(self._tasks)
        if left:
            _log.warning("drain_incomplete", given_back=len(left), drain_seconds=drain)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)

    async def _regulate(self) -> None:
        """Take in as much as the gates have room for, from now on."""
        try:
            while True:
                await self._until_something_changes()
                await self._flow()
        except Exception as error:  # noqa: BLE001 - the channel broke, or a bug of ours: begin anew
            self.break_off(error)

    async def _until_something_changes(self) -> None:
        """Wait for an outcome while a gate is not open, or for the time at which one may be."""
        with suppress(TimeoutError):
            async with asyncio.timeout(None if self._in_full_flow else self._until_next_look()):
                await self._changed.wait()

    def _until_next_look(self) -> float:
        change = self._gates.next_change()
        return LOOK_AGAIN if change is None else max(0.0, min(change - time.monotonic(), LOOK_AGAIN))

    async def _flow(self) -> None:
        self._changed.clear()
        self._in_full_flow = self._gates.all_open
        for source in self._sources:
            await source.flow(self._prefetch(source.kind))
        if not self._in_full_flow and (self._probe is None or self._probe.done()):
            await self._send_a_probe()

    def _prefetch(self, kind: EventType) -> int:
        """Give how many messages of a queue may be in hand.

        The calls alone may fill every place; the onboardings hold a quarter
        more, and as places are given in the order of arrival, they get the
        next one that falls free.
        """
        if self._gates.probing(kind):
            return 0
        room = min(self._gates.room(kind), self._max_in_flight)
        return room if kind is EventType.CALL_ENDED or room == 0 else max(1, room // 4)

    async def _send_a_probe(self) -> None:
        """Take one message for a gate that wants to see whether its dependency works again."""
        for source in self._sources:
            if self._gates.probing(source.kind) and (message := await source.take_one()) is not None:
                self._probe = asyncio.create_task(self._on_message(source.kind, message))
                self._sources.reverse()  # the next probe is of the other kind, if there is one
                return

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
                if not (self._in_full_flow and self._gates.all_open):
                    self._changed.set()

    def break_off(self, error: BaseException | None) -> None:
        """Say that this intake can't go on; `broken` then fails with the first such error."""
        if not self.broken.done():
            self.broken.set_exception(error or ConnectionError("the channel was closed"))
            self.broken.exception()  # seen, also where the stop came first
