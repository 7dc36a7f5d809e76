"""A cluster of three nodes, each of which has an address in `broker.url`: whatever one of them does, nothing
is lost, and the worker consumes again soon."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aio_pika
import aiormq
import pytest
from aio_pika.abc import AbstractConnection, AbstractExchange

from simulators.broker import find_server
from simulators.broker_node import free_ports
from tests.system.cluster import Cluster, ClusterNode
from tests.system.harness import WITHIN, Program, System, Worker, eventually
from tests.system.intake import Producer, account, declare, emptied, spawn
from tests.tools import skip_without

pytestmark = [pytest.mark.system, pytest.mark.verify]

AGAIN_WITHIN = 10.0
"""Seconds until the worker consumes again, whatever a node does."""
PACE = 0.02
"""Seconds between two events."""
CONFIRMED_WITHIN = 3.0
"""Seconds until an event is published again; RabbitMQ itself sends it to a new leader only after 30."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    server = find_server()
    if server is None:
        skip_without("no RabbitMQ is installed")
    started = asyncio.run(Cluster.start(server))
    yield started
    asyncio.run(started.stop())


@pytest.fixture
async def system(
    cluster: Cluster, tmp_path: Path, dialer_program: Program, crm_program: Program, workers: list[Worker]
) -> AsyncIterator[System]:
    """Yield a system on a cluster of which every node runs."""
    await dialer_program.control(fault=None, delay=0, unplant=True)
    await crm_program.control(fault=None, delay=0, script=[], fail_ids={}, forget=True)
    url, namespace = cluster.nodes[0].url, f"t{uuid.uuid4().hex[:12]}"
    opened = System(url, namespace, tmp_path, dialer_program, crm_program, workers)
    yield opened
    await opened.end()


class Load:
    """A producer that publishes an event every now and then, each until it is confirmed."""

    def __init__(self, system: System, node: ClusterNode) -> None:
        self._system = system
        self._node = node
        self._connection: AbstractConnection
        self._exchange: AbstractExchange
        self._opening = asyncio.Lock()

    @asynccontextmanager
    async def running(self, worker: Worker) -> AsyncIterator[None]:
        """Publish during the block, which begins once some are delivered; end when each is confirmed."""
        async with await aio_pika.connect(self._node.url) as self._connection:
            self._exchange = await self._open()
            over = asyncio.Event()
            publishing = asyncio.create_task(self._publish_until(over))
            before = len(worker.settled("delivered"))
            try:
                await eventually(lambda: len(worker.settled("delivered")) > before + 10)
                yield
            finally:
                over.set()
                async with asyncio.timeout(WITHIN):
                    await publishing

    async def _open(self) -> AbstractExchange:
        channel = await self._connection.channel(publisher_confirms=True, on_return_raises=True)
        return await channel.get_exchange(f"{self._system.namespace}.events", ensure=False)

    async def _publish_until(self, over: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            while not over.is_set():
                (event,) = await self._system.calls(1)
                group.create_task(self.publish(event))
                await asyncio.sleep(PACE)

    async def publish(self, event: dict[str, Any]) -> None:
        """Publish one event again and again until the broker has confirmed it."""
        message = aio_pika.Message(json.dumps(event).encode(), delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        while True:
            exchange = self._exchange
            try:
                await exchange.publish(message, "call.ended", timeout=CONFIRMED_WITHIN)
            except (aiormq.exceptions.DeliveryError, aio_pika.exceptions.DeliveryError, TimeoutError):
                async with self._opening:  # the queue has no leader, and this channel may never find the next
                    if exchange is self._exchange:
                        await asyncio.sleep(PACE)
                        self._exchange = await self._open()
            else:
                self._system.published.append(event["event_id"])
                return


async def node_of(cluster: Cluster, worker: Worker) -> ClusterNode:
    return cluster.node_at((await worker.status())["broker"]["node"])


async def consumes_again(system: System, load: Load, since: float) -> float:
    """Return the seconds until an event that is published now is delivered."""
    (event,) = await system.calls(1)
    await load.publish(event)
    await system.delivered(event["event_id"])
    took = time.monotonic() - since
    print(f"consuming again after {took:.1f} s")  # noqa: T201 - a measurement
    return took


async def settles_again(worker: Worker, since: datetime) -> float:
    """Return the seconds until an event is settled by way of another connection."""
    found: list[datetime] = []

    def settled() -> bool:
        begun = [at(line) for line in worker.events("consuming") if at(line) > since]
        found[:] = [at(line) for line in worker.settled("delivered") if begun and at(line) > begun[0]]
        return bool(found)

    await eventually(settled)
    took = (min(found) - since).total_seconds()
    print(f"consuming again after {took:.1f} s")  # noqa: T201 - a measurement
    return took


def at(line: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(line["timestamp"])


async def all_delivered(system: System) -> None:
    await system.delivered()
    await system.nothing_dead()
    print(f"{len(system.published)} events, 0 lost")  # noqa: T201 - a measurement


async def test_a_node_that_is_killed(cluster: Cluster, system: System) -> None:
    """The worker is connected to it, and it leads the queue.

    From RabbitMQ 4.3 on, what the next leader assigned to the lost consumer before it noticed comes back only
    after `consumer_disconnected_timeout`; so any event counts as a sign that the worker consumes again.
    """
    worker = await system.start(broker__url=cluster.urls)
    killed = await node_of(cluster, worker)
    load = Load(system, cluster.others(killed)[0])
    await killed.lead(system.namespace)
    async with load.running(worker):
        await killed.kill()
        took = await settles_again(worker, datetime.now(UTC))
        assert await node_of(cluster, worker) is not killed
        await killed.resume()
    await all_delivered(system)
    await cluster.settled()
    assert took < AGAIN_WITHIN


async def test_a_leader_that_is_moved(cluster: Cluster, system: System) -> None:
    worker = await system.start(broker__url=cluster.urls)
    here = await node_of(cluster, worker)
    load = Load(system, here)
    async with load.running(worker):
        for node in (*cluster.others(here), here):
            await node.lead(system.namespace)
            took = await consumes_again(system, load, time.monotonic())
            assert took < AGAIN_WITHIN
    await all_delivered(system)
    assert (await worker.status())["broker"]["connections"] == 1, "it needs no other connection"


@pytest.mark.parametrize("leads", [False, True])
async def test_a_node_that_hangs(cluster: Cluster, system: System, *, leads: bool) -> None:
    """The worker is connected to it. If it leads the queues too, the others have to elect a leader first."""
    worker = await system.start(broker__url=cluster.urls)
    hanging = await node_of(cluster, worker)
    other = cluster.others(hanging)[0]
    await (hanging if leads else other).lead(system.namespace)
    async with Load(system, other).running(worker):
        hanging.freeze()
        took = await settles_again(worker, datetime.now(UTC))
        assert await node_of(cluster, worker) is not hanging
        await hanging.kill()  # going on, it would be partitioned from the others: somebody has to restart it
        await hanging.resume()
    await all_delivered(system)
    await cluster.settled()
    assert took < AGAIN_WITHIN


async def test_a_rolling_restart(cluster: Cluster, system: System) -> None:
    worker = await system.start(broker__url=cluster.urls)
    first = await node_of(cluster, worker)
    others = cluster.others(first)
    for restarted, load in ((node, Load(system, cluster.others(node)[0])) for node in (first, *others)):
        async with load.running(worker):
            await restarted.halt()
            took = await consumes_again(system, load, time.monotonic())
            assert took < AGAIN_WITHIN
            await restarted.resume()
            await cluster.settled()
    await all_delivered(system)
    lost = [line["broker"] for line in worker.events("broker_connection_lost")]
    assert lost, worker.text


async def test_workers_that_share_the_dialer_while_the_leader_of_their_board_is_killed(
    cluster: Cluster, system: System, tmp_path: Path
) -> None:
    """The dialer's password changes at that moment, too."""
    file = tmp_path / "password"
    file.write_text("Dialer-Pass-1")
    dialer = Program("dialer", "--delay", "0.05")
    _, killed, _ = cluster.nodes
    try:
        chosen = {"vicidial__password": None, "vicidial__password_file": str(file)}
        chosen |= {"broker__url": cluster.urls, "vicidial__url": dialer.url, "retry__max_attempts": "2"}
        started = [await system.start(**chosen) for _ in range(4)]
        events = await system.calls(600)
        calls: dict[str, object] = {event["call_id"]: {} for event in events}
        await dialer.control(calls=calls)
        await killed.lead(system.namespace)
        await system.publish_all(events)
        await eventually(lambda: all(len(each.settled("delivered")) >= 5 for each in started))
        await asyncio.gather(killed.kill(), dialer.control(password={"crmsync": "Changed-Pass-2"}))
        await eventually(lambda: all(each.events("circuit_open") for each in started))
        file.write_text("Changed-Pass-2")
        since = time.monotonic()
        await system.delivered(within=90.0)
        took = time.monotonic() - since
        await system.nothing_dead()
        seen = await dialer.report()
    finally:
        dialer.end()
        await killed.resume()
        await cluster.settled()
    failed = sum("Login incorrect" in each["outcome"] for each in seen["requests"])
    print(f"{failed} failed logins, {seen['max_concurrent']} requests at one time, done after {took:.1f} s")  # noqa: T201 - a measurement
    assert 1 <= failed < 10
    assert seen["max_concurrent"] <= 8


@pytest.mark.parametrize("own", [True, False], ids=["its own node", "another node"])
@pytest.mark.parametrize("fault", ["kill", "halt", "freeze"])
async def test_an_intake_whose_queues_are_led_by_a_node_that_ends_or_hangs(
    cluster: Cluster, tmp_path: Path, workers: list[Worker], fault: str, *, own: bool
) -> None:
    """It accepts all that comes, and publishes it again soon; of a node that ends, others lead at once."""
    namespace = f"t{uuid.uuid4().hex[:12]}"
    await declare(cluster.nodes[0].url, namespace)
    (port,) = free_ports(1)
    producer = Producer(port, pause=0.2)
    intake = spawn(tmp_path, cluster.urls, port, namespace)
    workers.append(intake)
    await eventually(lambda: intake.events("feeding"))
    here = cluster.node_at(intake.events("feeding")[-1]["broker"])
    led_by = here if own else cluster.others(here)[0]
    await led_by.lead(namespace)
    try:
        async with producer.running():
            await producer.more()
            since = datetime.now(UTC)
            if fault == "freeze":
                led_by.freeze()
            else:
                await (led_by.kill() if fault == "kill" else led_by.halt())
            await producer.more(100)
            await emptied(intake)
        took = (max(map(at, intake.events("spool_emptied")), default=since) - since).total_seconds()
        print(f"publishing again after {took:.1f} s")  # noqa: T201 - a measurement
    finally:
        await led_by.kill()
        await led_by.resume()
        await cluster.settled()
    await account(cluster.others(led_by)[0].url, producer, namespace)
    assert producer.refused == 0
    assert took < AGAIN_WITHIN
