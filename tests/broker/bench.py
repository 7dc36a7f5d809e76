"""What the broker tests share: the worker's AMQP half around a scripted pipeline."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import aio_pika
import aiormq
from aio_pika.abc import AbstractConnection, AbstractIncomingMessage
from pydantic import SecretStr

from worker.core.breakers import CircuitBreakers
from worker.core.errors import InvalidEvent, Reason
from worker.core.events import EventType, Inbound, decode
from worker.core.payload import CallEnrichment, CallRecord
from worker.core.pipeline import Outcome, Pipeline
from worker.core.ports import Ack, DeadLetter, Depth, Disposition, Retry, Stage
from worker.rabbitmq.consumer import CHECK_QUEUES, POLL_FOR_PROBE, Consumer
from worker.rabbitmq.message import WAITS_WHEN_FULL, Delivery, Settler
from worker.rabbitmq.publisher import BrokerPublisher
from worker.rabbitmq.session import COUNT_EVERY, LONGEST_WAIT_ONCE_CONNECTED, Supervisor
from worker.rabbitmq.topology import Topology, build_topology, declare
from worker.settings.tree import BrokerCommandSettings, BrokerSettings, RetrySettings, SinkNames

CALLS = EventType.CALL_ENDED
AGENTS = EventType.AGENT_ONBOARDED
SHORT = timedelta(milliseconds=200)
LONG = timedelta(minutes=1)

WITHIN = 30.0
"""Seconds for what takes one on an idle machine: on a busy one it is late, and still right."""

Act = Callable[[Inbound], Awaitable[Disposition]]


async def ack(_: Inbound) -> Disposition:
    return Ack()


async def retry(inbound: Inbound) -> Disposition:
    return Retry(SHORT, inbound.attempt + 1, "dialer_outage", "the dialer is down")


async def bury(_: Inbound) -> Disposition:
    return DeadLetter(Reason.INVALID_EVENT, "the body is not JSON")


def known(status: str) -> CallEnrichment:
    """Return an enrichment with this status."""
    return CallEnrichment(call=CallRecord(call_id="V1201405090000012345", status=status))


def until(attempts: int) -> Act:
    """Fail that often, then deliver."""

    async def act(inbound: Inbound) -> Disposition:
        return await (ack(inbound) if inbound.attempt >= attempts else retry(inbound))

    return act


class Scripted(Pipeline):
    """A pipeline that decides by a script, and remembers what came."""

    def __init__(self, act: Act = ack) -> None:
        self.act = act
        self.seen: list[Inbound] = []
        self.enrichment: CallEnrichment | None = None
        self.progress: str | None = None
        self.now = self.most = 0

    async def process(self, inbound: Inbound) -> Outcome:
        event, error = None, None
        try:
            event = decode(inbound)
        except InvalidEvent as raised:
            error = raised
        self.seen.append(inbound)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            disposition = await self.act(inbound)
        finally:
            self.now -= 1
        return Outcome(disposition, Stage.ENRICH, event, self.enrichment, error=error, progress=self.progress)


@dataclass
class Account:
    """Keeps what it is notified of: the work and the connection."""

    taken_in: list[EventType] = field(default_factory=list)
    outcomes: list[tuple[Inbound, Outcome]] = field(default_factory=list)
    counts: list[Sequence[Depth]] = field(default_factory=list)
    reconnects: int = 0

    def received(self, queue: EventType) -> None:
        self.taken_in.append(queue)

    def settled(self, inbound: Inbound, outcome: Outcome, seconds: float) -> None:
        assert seconds > 0
        self.outcomes.append((inbound, outcome))

    def reconnected(self) -> None:
        self.reconnects += 1

    def counted(self, depths: Sequence[Depth]) -> None:
        self.counts.append(depths)


@dataclass
class Bench:
    """One namespace on the broker, its topology, and a producer's connection to it."""

    url: str
    topology: Topology
    connection: AbstractConnection
    publisher: BrokerPublisher
    pipeline: Scripted = field(default_factory=Scripted)
    account: Account = field(default_factory=Account)
    max_in_flight: int = 8
    drain: float = 5.0
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    breakers: CircuitBreakers | None = None
    whole: Pipeline | None = None
    """A pipeline in place of the scripted one."""
    waits_when_full: Sequence[float] = WAITS_WHEN_FULL
    poll_every: float = POLL_FOR_PROBE
    check_every: float = CHECK_QUEUES
    count_every: float = COUNT_EVERY
    longest_wait_once_connected: float = LONGEST_WAIT_ONCE_CONNECTED

    @property
    def settled(self) -> list[tuple[Inbound, Outcome]]:
        return self.account.outcomes

    def queue(self, kind: EventType = CALLS) -> str:
        return self.topology.work_queues[kind]

    @property
    def events(self) -> str:
        return self.topology.exchanges[0].name

    async def publish(
        self,
        body: bytes,
        key: str = CALLS,
        *,
        exchange: str | None = None,
        **properties: Any,  # noqa: ANN401
    ) -> None:
        """Publish as a producer does; with `exchange=""` the key is a queue's name."""
        async with self.connection.channel(publisher_confirms=True, on_return_raises=True) as channel:
            name = self.events if exchange is None else exchange
            target = await channel.get_exchange(name, ensure=False) if name else channel.default_exchange
            properties.setdefault("delivery_mode", aio_pika.DeliveryMode.PERSISTENT)
            await target.publish(aio_pika.Message(body, **properties), key, timeout=WITHIN)

    async def flood(self, bodies: list[bytes], key: str = CALLS) -> None:
        """Publish many at once."""
        async with self.connection.channel(publisher_confirms=True, on_return_raises=True) as channel:
            target = await channel.get_exchange(self.events, ensure=False)
            async with asyncio.TaskGroup() as group:
                for body in bodies:
                    group.create_task(target.publish(aio_pika.Message(body), key, timeout=WITHIN))

    async def take(self, queue: str, within: float = WITHIN) -> AbstractIncomingMessage:
        """Get and acknowledge one message of a queue, waiting for it."""
        async with asyncio.timeout(within), self.connection.channel() as channel:
            source = await channel.get_queue(queue, ensure=False)
            while (message := await source.get(fail=False)) is None:  # noqa: ASYNC110 - `basic.get` waits for nothing
                await asyncio.sleep(0.02)
            await message.ack()
            return message

    async def take_dead(self, within: float = WITHIN) -> AbstractIncomingMessage:
        return await self.take(self.topology.dead_letters, within)

    @asynccontextmanager
    async def held(self, queue: str) -> AsyncIterator[Delivery]:
        """Get one message and leave it unsettled; it is requeued at the end of the block, if it still is."""
        async with self.connection.channel() as channel:
            underlay = await channel.get_underlay_channel()
            async with asyncio.timeout(WITHIN):
                while (message := await underlay.basic_get(queue)).delivery_tag is None:  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.02)
            yield Delivery(message)

    async def depth(self, queue: str) -> int:
        """Count the messages that are ready in a queue."""
        async with self.connection.channel() as channel:
            declared = await channel.declare_queue(queue, passive=True)
            return declared.declaration_result.message_count or 0

    async def holds(self, queue: str, count: int) -> None:
        """Wait until so many messages are ready in a queue, which counts a moment later."""
        async with asyncio.timeout(WITHIN):
            while await self.depth(queue) != count:  # noqa: ASYNC110 - a queue announces nothing
                await asyncio.sleep(0.02)

    def make_consumer(self) -> Consumer:
        settler = Settler(self.publisher, self.topology, self.waits_when_full)
        return Consumer(
            self.whole or self.pipeline,
            settler,
            self.topology,
            self.breakers or closed_breakers(self.max_in_flight),
            observer=self.account,
            poll_every=self.poll_every,
            check_every=self.check_every,
        )

    def make_supervisor(self) -> Supervisor:
        return Supervisor(
            [SecretStr(self.url)],
            self.topology,
            self.publisher,
            self.make_consumer,
            self.drain,
            self.account,
            longest_wait_once_connected=self.longest_wait_once_connected,
            count_every=self.count_every,
        )

    @asynccontextmanager
    async def running(self, act: Act | None = None) -> AsyncIterator[Supervisor]:
        """Run the supervisor, consuming before the block begins; stopped gracefully after it."""
        if act is not None:
            self.pipeline.act = act
        self.stop = asyncio.Event()
        supervisor = self.make_supervisor()
        task = asyncio.create_task(supervisor.run(self.stop))
        try:
            await eventually(lambda: supervisor.state.connections or task.done())
            yield supervisor
        finally:
            self.stop.set()
            await asyncio.wait_for(task, self.drain + 20)


def closed_breakers(full: int) -> CircuitBreakers:
    """Make breakers that are closed; one that opens probes within a short time."""
    return CircuitBreakers(
        full=full, probe_max=timedelta(milliseconds=200), refused_probe=timedelta(milliseconds=300)
    )


@asynccontextmanager
async def open_bench(url: str, namespace: str, *tiers: timedelta) -> AsyncIterator[Bench]:
    """Declare a namespace's topology and connect a producer."""
    topology = build_topology(settings_for(url, namespace, *tiers))
    connection = await aio_pika.connect(url)
    try:
        await declare(connection, topology)
        yield Bench(url, topology, connection, BrokerPublisher())
    finally:
        with suppress(aiormq.AMQPError, OSError, RuntimeError):
            await asyncio.wait_for(connection.close(), 5)


def settings_for(url: str, namespace: str, *tiers: timedelta) -> BrokerCommandSettings:
    return BrokerCommandSettings(
        broker=BrokerSettings(url=(SecretStr(url),), namespace=namespace),
        sink=SinkNames(kind="queue"),
        retry=RetrySettings(delays=tiers or (SHORT, LONG)),
    )


async def eventually(condition: Callable[[], object], within: float = WITHIN) -> float:
    """Wait until the condition holds. Return the seconds that it took."""
    started = time.monotonic()
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 - what is watched announces nothing
            await asyncio.sleep(0.01)
    return time.monotonic() - started
