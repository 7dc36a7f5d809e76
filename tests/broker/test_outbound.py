"""The outbound exchange refuses or fails: an outage of the sink that nothing else notices."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import aio_pika
import pytest

from simulators.broker_node import PrivateBroker
from tests.broker.bench import Bench, eventually, settings_for
from tests.broker.test_consumer_breakers import Dialer, Scene, body
from worker.core.breakers import BreakerStatus, CircuitBreakers
from worker.core.errors import (
    DeliveryUnavailable,
    FailureKind,
    MessageRefused,
    PublishError,
    PublishForbidden,
)
from worker.core.payload import Payload
from worker.core.pipeline import Pipeline
from worker.core.ports import Outgoing
from worker.core.retry import RetryPolicy
from worker.core.transitions import State
from worker.rabbitmq.publisher import BrokerPublisher
from worker.rabbitmq.topology import build_topology, declare
from worker.settings.tree import SinkNames
from worker.sinks.queue import QueueSink

pytestmark = pytest.mark.broker

ROUNDS = 60
PAYLOAD = Payload("e-1", "call.enriched", b"{}")
OUTGOING = Outgoing(b"{}", "e-1", "call.enriched", "application/json")


class Watched(BrokerPublisher):
    """Counts what becomes of the publishes to the outbound exchange, and the channels that they take."""

    def __init__(self) -> None:
        super().__init__()
        self.refused = self.channels = 0

    async def publish(self, exchange: str, routing_key: str, message: Outgoing) -> None:
        try:
            await super().publish(exchange, routing_key, message)
        except PublishForbidden:
            self.refused += 1
            raise

    async def attach(self, connection: aio_pika.abc.AbstractConnection) -> aio_pika.abc.AbstractChannel:
        make = connection.channel

        def counted(*arguments: object, **options: object) -> aio_pika.abc.AbstractChannel:
            self.channels += 1
            return make(*arguments, **options)  # type: ignore[arg-type]

        connection.channel = counted  # type: ignore[method-assign]
        return await super().attach(connection)


@pytest.fixture
async def theirs(node: PrivateBroker, namespace: str) -> AsyncIterator[str]:
    """Yield a node's address for a user who may do everything but publish to the outbound exchange."""
    outside = f"{namespace}-outside"
    await node.ctl("add_user", namespace, "Broker-Pass-1")
    await node.ctl("set_permissions", namespace, ".*", rf"^(?!{outside}$).*", ".*")
    yield node.url.replace("guest:guest", f"{namespace}:Broker-Pass-1")
    await node.ctl("delete_user", namespace)


@asynccontextmanager
async def scene_of(url: str, admin: str, namespace: str) -> AsyncIterator[tuple[Scene, Watched]]:
    """Make a scene whose sink is the outbound exchange, and whose permission never waits long."""
    settings = settings_for(url, namespace, timedelta(milliseconds=100))
    topology = build_topology(
        settings.model_copy(update={"sink": SinkNames(kind="queue", exchange=f"{namespace}-outside")})
    )
    async with await aio_pika.connect(admin) as connection:
        await declare(connection, topology)
        publisher = Watched()
        breakers = CircuitBreakers(
            full=8, probe_max=timedelta(milliseconds=50), refused_probe=timedelta(milliseconds=50)
        )
        dialer, changes = Dialer(breakers), list[BreakerStatus]()
        dialer.answers.set()
        policy = RetryPolicy(
            (timedelta(milliseconds=100),), max_attempts=5, ready_within=timedelta(minutes=5)
        )
        bench = Bench(url, topology, connection, publisher, breakers=breakers)
        bench.whole = Pipeline(dialer, QueueSink(topology.outbound_exchange, publisher), policy, breakers)
        yield Scene(bench, breakers, dialer, None, changes), publisher  # type: ignore[arg-type]


async def test_without_the_permission_to_publish_there_nothing_is_lost_for_as_long_as_it_lasts(
    node: PrivateBroker, theirs: str, namespace: str
) -> None:
    """More rounds than the broker delivers one message; one channel is opened for each, and no connection."""
    async with scene_of(theirs, node.url, namespace) as (scene, publisher):
        bench = scene.bench
        async with bench.running() as supervisor:
            await bench.flood([body(f"e-{number}") for number in range(5)])
            await eventually(lambda: publisher.refused >= ROUNDS, 60)
            assert scene.state("sink") in (State.OPEN, State.HALF_OPEN)
            assert supervisor.state.connections == 1
            assert publisher.channels <= publisher.refused + 10
            await node.ctl("set_permissions", namespace, ".*", ".*", ".*")
            await bench.holds(f"{namespace}.enriched", 5)
        assert await bench.depth(bench.topology.dead_letters) == 0
        labels = Counter(label for label, _ in scene.retries())
        assert labels.keys() <= {"sink_refused", "circuit_open"}
        assert {attempt for _, attempt in scene.retries()} == {1}
        assert max(scene.delivery_counts()) <= 1


@pytest.fixture
async def publisher(broker_url: str) -> AsyncIterator[BrokerPublisher]:
    async with await aio_pika.connect(broker_url) as connection:
        found = BrokerPublisher()
        _ = await found.attach(connection)
        yield found


async def test_an_exchange_that_is_gone_is_an_outage_until_it_is_back(
    broker_url: str, publisher: BrokerPublisher, namespace: str
) -> None:
    sink = QueueSink(f"{namespace}.enriched", publisher)
    for _ in range(3):
        with pytest.raises(DeliveryUnavailable, match="there is no exchange") as caught:
            await sink.deliver(PAYLOAD)
        assert (caught.value.kind, caught.value.answered) == (FailureKind.OUTAGE, False)
    async with await aio_pika.connect(broker_url) as connection, connection.channel() as channel:
        exchange = await channel.declare_exchange(f"{namespace}.enriched", "fanout")
        queue = await channel.declare_queue(f"{namespace}.enriched")
        await queue.bind(exchange)
        assert (await sink.deliver(PAYLOAD)).detail == "confirmed"


async def test_a_refused_publish_to_the_outbound_exchange_breaks_off_no_copy(
    publisher: BrokerPublisher, broker_url: str, namespace: str
) -> None:
    """Each has a channel of its own, so what is under way on the other is confirmed."""
    async with await aio_pika.connect(broker_url) as connection, connection.channel() as channel:
        exchange = await channel.declare_exchange(f"{namespace}.work", "fanout")
        queue = await channel.declare_queue(f"{namespace}.call-ended", durable=True)
        await queue.bind(exchange)
        copies = [
            publisher.publish_message(f"{namespace}.work", "k", aio_pika.Message(b"%d" % number))
            for number in range(50)
        ]
        payloads = [publisher.publish(f"{namespace}.no-such", "k", OUTGOING) for _ in range(5)]
        results = await asyncio.gather(*copies, *payloads, return_exceptions=True)
    assert results[:50] == [None] * 50
    assert all(isinstance(result, PublishError) for result in results[50:])


@pytest.mark.parametrize(
    ("error", "kind", "answered"),
    [
        (PublishForbidden("no permission"), FailureKind.REFUSED, False),
        (MessageRefused("too large"), FailureKind.OUTAGE, True),
        (PublishError("no connection"), FailureKind.OUTAGE, False),
    ],
)
async def test_what_the_publisher_says_shows_whose_fault_it_is(
    error: PublishError,
    kind: FailureKind,
    answered: bool,  # noqa: FBT001
) -> None:
    class Refusing(BrokerPublisher):
        async def publish(self, exchange: str, routing_key: str, message: Outgoing) -> None:
            raise error

    with pytest.raises(DeliveryUnavailable) as caught:
        await QueueSink("outside", Refusing()).deliver(PAYLOAD)
    assert (caught.value.kind, caught.value.answered) == (kind, answered)


async def test_what_comes_while_the_broker_closes_the_channel_does_not_break_the_connection(
    broker_url: str, namespace: str
) -> None:
    """aiormq would let it pass, and the broker closes the connection for a publish on a closed channel."""
    async with await aio_pika.connect(broker_url) as connection:
        publisher = BrokerPublisher()
        _ = await publisher.attach(connection)
        for _ in range(20):
            publishes = [
                publisher.publish(f"{namespace}.no-such", "k", Outgoing(b"{}", f"e-{n}", None, None))
                for n in range(30)
            ]
            results = await asyncio.gather(*publishes, return_exceptions=True)
            assert {str(result).partition(":")[0] for result in results} == {
                f"there is no exchange {namespace}.no-such"
            }
            async with connection.channel():
                pass  # the connection is still good
