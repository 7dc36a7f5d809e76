"""Keeping connected: whatever breaks, a new session begins, and nothing is lost."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pamqp.commands
import pamqp.frame
import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from simulators.broker_node import PrivateBroker, free_ports
from tests.adapters.raw import Connection, RawServer
from tests.broker.bench import AGENTS, CALLS, WITHIN, Bench, ack, closed_breakers, eventually, open_bench
from worker.core.errors import PublishError
from worker.core.events import EventType, Inbound
from worker.core.pipeline import Outcome
from worker.core.ports import Disposition
from worker.rabbitmq.connection import (
    BROKER_ERRORS,
    NEXT_AFTER,
    Nodes,
    NoNodeError,
    address,
    connect,
    explain,
)
from worker.rabbitmq.consumer import CHECK_QUEUES, Consumer
from worker.rabbitmq.message import Delivery, Settler
from worker.rabbitmq.publisher import BrokerPublisher
from worker.rabbitmq.session import Supervisor, TopologyMismatchError

pytestmark = pytest.mark.broker


@pytest.fixture
async def bench(broker_url: str, namespace: str) -> AsyncIterator[Bench]:
    async with open_bench(broker_url, namespace) as opened:
        yield opened


@pytest.fixture
async def lonely(node: PrivateBroker) -> AsyncIterator[Bench]:
    """Yield a bench on the node that may be mistreated."""
    async with open_bench(node.url, f"t{uuid.uuid4().hex[:12]}") as opened:
        yield opened


async def briefly(inbound: Inbound) -> Disposition:
    await asyncio.sleep(0.02)
    return await ack(inbound)


def bodies(bench: Bench) -> set[bytes]:
    return {inbound.body for inbound, _ in bench.settled}


@pytest.mark.parametrize("kind", [CALLS, AGENTS])
async def test_a_queue_that_is_deleted_is_declared_and_consumed_again(bench: Bench, kind: EventType) -> None:
    async with bench.running() as supervisor:
        async with bench.connection.channel() as channel:
            await channel.queue_delete(bench.queue(kind))
        took = await eventually(lambda: supervisor.state.connections == 2 and supervisor.state.consuming)
        print(f"consuming again after {took:.2f} s")  # noqa: T201 - a measurement
        assert "was its queue deleted, or an event held longer than consumer_timeout?" in str(
            supervisor.state.last_error
        )
        assert bench.account.reconnects == 1
        await bench.publish(b"after", kind)
        await eventually(lambda: b"after" in bodies(bench))
    assert took < CHECK_QUEUES, "the broker notifies the consumer; nobody has to look"


class RudeSettler(Settler):
    """Makes the broker close the channel, by acknowledging what was never delivered."""

    async def settle(
        self, delivery: Delivery, inbound: Inbound, outcome: Outcome, queue: EventType
    ) -> Outcome:
        if inbound.body == b"rude" and not delivery.message.redelivered:
            await delivery.message.channel.basic_ack(99_999)
            await asyncio.sleep(5)
        return await super().settle(delivery, inbound, outcome, queue)


async def test_a_channel_that_the_broker_closes(bench: Bench) -> None:
    def make_consumer() -> Consumer:
        settler = RudeSettler(bench.publisher, bench.topology)
        return Consumer(
            bench.pipeline,
            settler,
            bench.topology,
            closed_breakers(4),
            observer=bench.account,
        )

    await bench.flood([b"%d" % n for n in range(10)])
    await bench.publish(b"rude")
    stop = asyncio.Event()
    supervisor = Supervisor(
        [SecretStr(bench.url)], bench.topology, bench.publisher, make_consumer, 5, bench.account
    )
    task = asyncio.create_task(supervisor.run(stop))
    await eventually(lambda: len(bodies(bench)) == 11)
    await eventually(lambda: supervisor.state.connections == 2)  # counted once both queues are consumed
    stop.set()
    await task
    await bench.holds(bench.queue(), 0)


async def test_connections_that_the_broker_closes(node: PrivateBroker, lonely: Bench) -> None:
    lonely.max_in_flight = 4
    async with lonely.running(briefly) as supervisor:
        await lonely.flood([b"%d" % n for n in range(100)])
        await eventually(lambda: len(lonely.settled) > 5)
        await node.ctl("close_all_connections", "maintenance")
        took = await eventually(lambda: supervisor.state.connections == 2)
        print(f"consuming again after {took:.2f} s")  # noqa: T201 - a measurement
        await eventually(lambda: len(bodies(lonely)) == 100)
        assert len(lonely.settled) <= 100 + 4, "only what was in flight may be done twice"


@pytest.mark.parametrize("how", ["halt", "kill"])
async def test_a_broker_that_goes_away_and_comes_back(node: PrivateBroker, lonely: Bench, how: str) -> None:
    lonely.max_in_flight = 4
    async with lonely.running(briefly) as supervisor:
        await lonely.flood([b"%d" % n for n in range(100)])
        await eventually(lambda: len(lonely.settled) > 5)
        await getattr(node, how)()
        await eventually(lambda: not supervisor.state.consuming)
        await node.resume()
        took = await eventually(lambda: supervisor.state.consuming, 40)
        print(f"consuming again {took:.2f} s after the broker")  # noqa: T201 - a measurement
        await eventually(lambda: len(bodies(lonely)) == 100, 20)


async def test_a_stop_while_the_broker_is_away_is_quick(bench: Bench) -> None:
    (port,) = free_ports(1)
    url = SecretStr(f"amqp://guest:guest@127.0.0.1:{port}/")
    supervisor = Supervisor([url], bench.topology, BrokerPublisher(), bench.make_consumer, 5, bench.account)
    stop = asyncio.Event()
    task = asyncio.create_task(supervisor.run(stop))
    await eventually(lambda: supervisor.state.last_error)
    assert "can't be reached" in str(supervisor.state.last_error)
    stop.set()
    await asyncio.wait_for(task, 1)


START = pamqp.frame.marshal(
    pamqp.commands.Connection.Start(server_properties={}, mechanisms="PLAIN", locales="en_US"), 0
)


async def half_open(connection: Connection, said: bytes) -> None:
    """Send no more than this, and close before the handshake is over."""
    await connection.send(said)
    connection.close()


@pytest.mark.parametrize(
    "said", [b"", START[:5], START, START * 2, b"HTTP/1.1 400 Bad Request\r\n\r\n", b"AMQP\x00\x00\x09\x01"]
)
@pytest.mark.parametrize("late", [False, True], ids=["read at once", "read when it is over"])
async def test_a_handshake_that_breaks_off_is_a_broker_that_is_away(
    said: bytes, monkeypatch: pytest.MonkeyPatch, *, late: bool
) -> None:
    """Whatever the libraries raise then, some of it made for iterators, it is no error of ours."""
    opening = asyncio.open_connection

    async def opened_late(*place: Any, **how: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:  # noqa: ANN401
        reader, writer = await opening(*place, **how)
        await eventually(lambda: getattr(reader, "_eof"))  # noqa: B009 - as on a busy machine
        return reader, writer

    if late:
        monkeypatch.setattr(asyncio, "open_connection", opened_late)
    async with RawServer(lambda connection: half_open(connection, said)) as server:
        with pytest.raises(BROKER_ERRORS):
            async with connect(Nodes([SecretStr(f"amqp://guest:guest@127.0.0.1:{server.port}/")]), "it"):
                pass


async def test_a_refused_login_is_explained_without_the_password(bench: Bench) -> None:
    url = SecretStr(bench.url.replace("guest:guest", "guest:Wrong-Secret-1"))
    supervisor = Supervisor([url], bench.topology, BrokerPublisher(), bench.make_consumer, 5, bench.account)
    stop = asyncio.Event()
    task = asyncio.create_task(supervisor.run(stop))
    await eventually(lambda: supervisor.state.last_error)
    assert "refused the login" in str(supervisor.state.last_error)
    stop.set()
    await asyncio.wait_for(task, 1)


async def test_another_topology_ends_it_and_names_the_difference(bench: Bench) -> None:
    async with bench.connection.channel() as channel:
        await channel.queue_delete(bench.queue())
        arguments: dict[str, Any] = {"x-queue-type": "quorum", "x-delivery-limit": 7}
        await channel.declare_queue(bench.queue(), durable=True, arguments=arguments)
    supervisor = bench.make_supervisor()
    with pytest.raises(TopologyMismatchError) as caught:
        await asyncio.wait_for(supervisor.run(asyncio.Event()), 10)
    assert any(f"{bench.queue()}: x-delivery-limit is 7" in line for line in caught.value.differences)


async def test_what_a_library_raises_for_a_connection_that_is_gone_is_no_bug_of_ours(broker_url: str) -> None:
    async def use_what_is_gone() -> None:
        async with connect(Nodes([SecretStr(broker_url)]), "gone") as connection:
            assert connection.transport is not None
            await connection.transport.connection.close()
            _ = await connection.channel()

    with pytest.raises(ConnectionError, match="the connection was lost"):
        await use_what_is_gone()


async def test_an_error_of_ours_passes_as_it_is_while_the_connection_stands(broker_url: str) -> None:
    with pytest.raises(RuntimeError, match="a bug of ours"):
        async with connect(Nodes([SecretStr(broker_url)]), "well"):
            raise RuntimeError("a bug of ours")


async def silent(connection: Connection) -> None:
    """Accept the connection, and never answer: what a node does that hangs."""
    await asyncio.sleep(60)


def closed() -> SecretStr:
    (port,) = free_ports(1)
    return SecretStr(f"amqp://guest:Hush-Pass-1@127.0.0.1:{port}/")


class TestSeveralNodes:
    async def test_the_next_one_is_tried_and_is_then_the_first(self, broker_url: str) -> None:
        """One is not there, one hangs."""
        async with RawServer(silent) as hanging:
            hung = SecretStr(f"amqp://guest:guest@127.0.0.1:{hanging.port}/")
            gone, good = closed(), SecretStr(broker_url)
            skipped: list[tuple[SecretStr, Exception]] = []
            nodes = Nodes([gone, hung, good], lambda *each: skipped.append(each))
            began = asyncio.get_running_loop().time()
            async with connect(nodes, "it") as connection:
                assert f":{connection.url.port}/" in broker_url
            assert asyncio.get_running_loop().time() - began < NEXT_AFTER + WITHIN
        assert [url for url, _ in skipped] == [gone, hung]
        assert nodes.order == (good, gone, hung)

    async def test_none_can_be_used(self) -> None:
        gone = [closed(), closed()]
        with pytest.raises(NoNodeError) as caught:
            async with connect(Nodes(gone), "it"):
                pass
        assert all(address(url) in explain(caught.value) for url in gone)
        assert explain(caught.value).count("can't be reached") == 2
        assert "Hush-Pass-1" not in str(caught.value)

    async def test_one_whose_connection_is_lost_goes_to_the_end(self, broker_url: str) -> None:
        good, gone = SecretStr(broker_url), closed()
        nodes = Nodes([good, gone])

        async def lose_both() -> None:
            async with connect(nodes, "one"), connect(nodes, "two") as connection:
                assert nodes.order == (good, gone)
                assert connection.transport is not None
                await connection.transport.connection.close()
                _ = await connection.channel()

        with pytest.raises(ConnectionError):
            await lose_both()
        assert nodes.order == (gone, good)

    async def test_one_that_no_longer_answers_goes_to_the_end(self, broker_url: str) -> None:
        good, gone = SecretStr(broker_url), closed()
        nodes = Nodes([good, gone])
        with pytest.raises(TimeoutError):
            async with connect(nodes, "it"):
                raise TimeoutError
        assert nodes.order == (gone, good)

    async def test_any_other_error_leaves_the_order(self, broker_url: str) -> None:
        good, gone = SecretStr(broker_url), closed()
        nodes = Nodes([good, gone])
        with pytest.raises(PublishError):
            async with connect(nodes, "it"):
                raise PublishError("the queue is full")
        assert nodes.order == (good, gone)

    async def test_the_worker_names_the_one_that_it_uses_and_those_that_it_skips(self, bench: Bench) -> None:
        gone = closed()
        nodes = [gone, SecretStr(bench.url)]
        with capture_logs() as lines:
            supervisor = Supervisor(
                nodes, bench.topology, BrokerPublisher(), bench.make_consumer, 5, bench.account
            )
            stop = asyncio.Event()
            task = asyncio.create_task(supervisor.run(stop))
            await eventually(lambda: supervisor.state.consuming)
            stop.set()
            await task
        assert supervisor.state.node == address(nodes[1])
        found = [(line["event"], line["broker"]) for line in lines if "broker" in line]
        assert found == [("broker_node_unreachable", address(gone)), ("consuming", address(nodes[1]))]
