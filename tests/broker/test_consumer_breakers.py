"""Consuming by the capacity that the breakers have: open, half-open, recovering, and every way out of it."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from typing import Any

import aio_pika
import pytest
from aiormq.abc import DeliveredMessage

from simulators.broker_node import PrivateBroker
from tests.broker.bench import AGENTS, CALLS, LONG, SHORT, Bench, eventually, open_bench
from worker.core.breakers import FUNCTIONS, BreakerStatus, CircuitBreakers
from worker.core.errors import (
    DeliveryUnavailable,
    EnrichmentRejected,
    EnrichmentUnavailable,
    FailureKind,
    FunctionRefused,
    Reason,
)
from worker.core.events import Event, EventType
from worker.core.payload import AgentEnrichment, AgentRecord, CallEnrichment, CallRecord, Enrichment, Payload
from worker.core.pipeline import Pipeline
from worker.core.ports import Ack, DeadLetter, Receipt, Retry
from worker.core.retry import RetryPolicy
from worker.core.transitions import State
from worker.rabbitmq.consumer import CHECK_QUEUES, RPC_TIMEOUT, Consumer, WorkQueue
from worker.rabbitmq.session import Supervisor

pytestmark = pytest.mark.broker

FOR_LONG = timedelta(hours=1)
BRIEFLY = timedelta(milliseconds=50)
REFUSED = EnrichmentUnavailable("the dialer refuses our address", FailureKind.REFUSED)
SINK_DOWN = DeliveryUnavailable("answered 500")

ONE_ON_ITS_WAY = "what is on its way when a consumer ends is delivered again; the limit is 20"

Trouble = Callable[[Event], Exception | None]


def works(_: Event) -> Exception | None:
    return None


@dataclass
class Dialer:
    """Fulfils the enricher's port: it answers, unless there is trouble, and counts who asks at one time.

    It reports to the breakers, as the guard around each request does.
    """

    breakers: CircuitBreakers
    trouble: Trouble = works
    takes: float = 0.0
    answers: asyncio.Event = field(default_factory=asyncio.Event)
    asked: list[Event] = field(default_factory=list)
    now: int = 0
    loads: list[tuple[State, int, int]] = field(default_factory=list)
    """At each question: the sink's breaker's state, how many asked at the time, and how many might."""

    async def enrich(self, event: Event, *, accept_incomplete: bool) -> Enrichment:
        self.asked.append(event)
        self.now += 1
        self.loads.append((state_of(self.breakers, "sink"), self.now, self.breakers.capacity(event.type)))
        try:
            await asyncio.sleep(self.takes)
            await self.answers.wait()
        finally:
            self.now -= 1
        trouble, function = self.trouble(event), FUNCTIONS[event.type]
        if isinstance(trouble, EnrichmentUnavailable):
            trouble.to_blame = self.breakers.unanswered(function, trouble, event.id)
        elif trouble is None:
            self.breakers.answered(function)
        if trouble is not None:
            raise trouble
        return known(event)


def known(event: Event) -> Enrichment:
    if event.type is CALLS:
        return CallEnrichment(call=CallRecord(call_id=event.subject, status="SALE"))
    return AgentEnrichment(agent=AgentRecord(agent_user=event.subject))


@dataclass
class Crm:
    """Fulfils the sink's port."""

    breakers: CircuitBreakers
    trouble: Exception | None = None
    takes: float = 0.0
    now: int = 0
    probes: list[tuple[str, int]] = field(default_factory=list)
    """While its breaker probed: which event was tried, and how many were at the time."""
    tried: int = 0
    delivered: Counter[str] = field(default_factory=Counter)

    async def deliver(self, payload: Payload) -> Receipt:
        self.tried += 1
        self.now += 1
        if state_of(self.breakers, "sink") is State.HALF_OPEN:
            self.probes.append((payload.id, self.now))
        await asyncio.sleep(self.takes)
        self.now -= 1
        if self.trouble is not None:
            raise self.trouble
        self.delivered[payload.id] += 1
        return Receipt("200")


@dataclass
class Scene:
    """A bench with breakers, and the dependencies behind them."""

    bench: Bench
    breakers: CircuitBreakers
    dialer: Dialer
    crm: Crm
    changes: list[BreakerStatus]
    published: list[str] = field(default_factory=list)

    async def publish(self, count: int, kind: EventType = CALLS) -> list[str]:
        """Publish so many events, and enter their ids into the account."""
        ids = [f"{kind}-{len(self.published) + n}" for n in range(count)]
        await self.bench.flood([body(each, kind) for each in ids], kind)
        self.published += ids
        return ids

    def state(self, name: str = "sink") -> State:
        return state_of(self.breakers, name)

    def trip_sink(self) -> None:
        """Open the sink's breaker; as its waits are short, it probes soon."""
        while self.state() in {State.CLOSED, State.RECOVERING}:
            self.breakers.sink_failed(SINK_DOWN, "another")

    def retries(self) -> list[tuple[str, int]]:
        """Return the label and the next attempt of each event that was put off."""
        dispositions = [outcome.disposition for _, outcome in self.bench.settled]
        return [(each.label, each.attempt) for each in dispositions if isinstance(each, Retry)]

    async def consumers(self, kind: EventType) -> int:
        """Count who consumes; the broker still counts one that was cancelled and has messages in hand."""
        async with self.bench.connection.channel() as channel:
            declared = await channel.declare_queue(self.bench.queue(kind), passive=True)
            return declared.declaration_result.consumer_count or 0

    async def waiting(self) -> int:
        """Count the events that stand ready, in the work queues and in the first tier."""
        tier = self.bench.topology.tiers[SHORT]
        return sum(
            [await self.bench.depth(queue) for queue in (*self.bench.topology.work_queues.values(), tier)]
        )

    async def all_delivered(self, within: float = 15) -> None:
        """Wait until the CRM has each event that was published."""
        await eventually(lambda: self.crm.delivered.keys() >= set(self.published), within)

    async def paused(self) -> None:
        """Wait until nothing is in work and nobody consumes."""
        await eventually(lambda: self.breakers.in_work == 0)
        async with asyncio.timeout(10):
            while await self.consumers(CALLS) or await self.consumers(AGENTS):  # noqa: ASYNC110 - it notifies nobody
                await asyncio.sleep(0.02)

    async def stand_ready(self, count: int) -> None:
        """Wait until so many stand in the work queues and the first tier; one on its way is in neither."""
        async with asyncio.timeout(10):
            while await self.waiting() != count:  # noqa: ASYNC110 - a queue announces nothing
                await asyncio.sleep(0.02)

    def delivery_counts(self) -> list[int]:
        """Return how often the broker had delivered each message that was settled, by its own account."""
        return [delivery_count(inbound.headers) for inbound, _ in self.bench.settled]


def delivery_count(headers: Mapping[str, Any] | None) -> int:
    return int((headers or {}).get("x-delivery-count") or 0)


def state_of(breakers: CircuitBreakers, name: str) -> State:
    return next(each.state for each in breakers.status() if each.name == name)


def body(event_id: str, kind: EventType = CALLS) -> bytes:
    about = {"call_id": f"V{event_id}"} if kind is CALLS else {"agent_user": event_id}
    return json.dumps({"type": kind, "event_id": event_id} | about).encode()


Stage = Callable[..., Scene]


@pytest.fixture
async def stage(broker_url: str, namespace: str) -> AsyncIterator[Stage]:
    """Yield a scene with breakers that wait as long as is said."""
    async with open_bench(broker_url, namespace) as bench:
        yield lambda **waits: set_up(bench, **waits)


def set_up(
    bench: Bench,
    *,
    refused_probe: timedelta = FOR_LONG,
    probe_max: timedelta = BRIEFLY,
    max_in_flight: int = 8,
) -> Scene:
    changes: list[BreakerStatus] = []
    breakers = CircuitBreakers(
        full=max_in_flight, probe_max=probe_max, refused_probe=refused_probe, on_change=changes.append
    )
    dialer, crm = Dialer(breakers), Crm(breakers)
    dialer.answers.set()
    policy = RetryPolicy((SHORT, LONG), max_attempts=5, ready_within=timedelta(minutes=5))
    bench.breakers, bench.max_in_flight = breakers, max_in_flight
    bench.whole = Pipeline(dialer, crm, policy, breakers)
    return Scene(bench, breakers, dialer, crm, changes)


class TestOpen:
    async def test_nothing_is_consumed_and_what_was_in_hand_goes_back_without_using_an_attempt(
        self, stage: Stage
    ) -> None:
        scene = stage()
        scene.dialer.trouble = lambda _: REFUSED
        async with scene.bench.running() as supervisor:  # with nothing there yet: both queues are consumed
            await scene.publish(200)
            await scene.publish(30, AGENTS)
            await scene.paused()
            assert scene.state("dialer") is State.OPEN
            in_hand = len(scene.bench.settled)
            assert in_hand <= 8 + 2 + 2, "the prefetched ones, and hardly any that came before the cancel"
            assert {label for label, _ in scene.retries()} <= {"circuit_open", "dialer_refused"}
            assert {attempt for _, attempt in scene.retries()} == {1}
            assert len(scene.dialer.asked) <= 8
            await scene.stand_ready(230)
            await scene.publish(50)
            await scene.stand_ready(280)
            assert len(scene.bench.settled) == in_hand
            assert supervisor.state.consuming

    async def test_the_consumers_are_cancelled_before_the_failed_event_is_settled(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """However long its copy takes to be confirmed, nothing more comes in meanwhile."""
        scene = stage(max_in_flight=2)
        confirmed = asyncio.Event()
        publish = scene.bench.publisher.publish_message

        async def slowly(exchange: str, routing_key: str, message: aio_pika.Message) -> None:
            await confirmed.wait()
            await publish(exchange, routing_key, message)

        set_prefetch, prefetches = WorkQueue.set_prefetch, list[int]()

        async def remembered(queue: WorkQueue, prefetch: int) -> None:
            await set_prefetch(queue, prefetch)
            prefetches.append(prefetch)

        monkeypatch.setattr(scene.bench.publisher, "publish_message", slowly)
        monkeypatch.setattr(WorkQueue, "set_prefetch", remembered)
        scene.dialer.trouble = lambda _: REFUSED
        await scene.publish(20)
        async with scene.bench.running():
            await eventually(lambda: prefetches[-2:] == [0, 0])
            assert scene.breakers.in_work == 2
            await scene.stand_ready(18)
            confirmed.set()
            await scene.paused()
            assert len(scene.bench.settled) == 2

    async def test_no_messages_delivery_count_grows_however_many_probes_fail(self, stage: Stage) -> None:
        """Each delivery that is requeued counts towards the queue's limit of 20."""
        scene = stage(probe_max=timedelta(milliseconds=5))
        scene.bench.poll_every = 0.01
        scene.crm.trouble = SINK_DOWN
        await scene.publish(3)
        async with scene.bench.running():
            await eventually(lambda: len(scene.crm.probes) > 60, 30)
            assert max(Counter(event for event, _ in scene.crm.probes).values()) > 19
            assert max(scene.delivery_counts()) <= 1, ONE_ON_ITS_WAY
            scene.crm.trouble = None
            await scene.all_delivered()
        assert {attempt for _, attempt in scene.retries()} == {1}
        assert set(scene.crm.delivered.values()) == {1}

    async def test_a_missing_permission_pauses_one_kind_only(self, stage: Stage) -> None:
        scene = stage()

        def no_agents(event: Event) -> Exception | None:
            return FunctionRefused("no permission") if event.type is AGENTS else None

        scene.dialer.trouble = no_agents
        agents = await scene.publish(20, AGENTS)
        async with scene.bench.running():
            await eventually(lambda: scene.state("agent_campaigns") is State.OPEN)
            calls = await scene.publish(300)
            await eventually(lambda: scene.crm.delivered.keys() >= {*calls})
            assert await scene.consumers(AGENTS) == 0
            assert await scene.consumers(CALLS) == 1
            assert not scene.crm.delivered.keys() & {*agents}
            assert sum(event.type is AGENTS for event in scene.dialer.asked) <= 2


class TestHalfOpen:
    async def test_one_event_at_a_time_and_each_time_another(self, stage: Stage) -> None:
        scene = stage()
        scene.crm.trouble, scene.crm.takes = SINK_DOWN, 0.01
        await scene.publish(60)
        async with scene.bench.running():
            await eventually(lambda: len(scene.crm.probes) > 25, 30)
        assert {now for _, now in scene.crm.probes} == {1}
        assert len({event for event, _ in scene.crm.probes[-20:]}) == 20

    async def test_the_probes_from_the_queues_are_of_both_kinds_in_turn(self, stage: Stage) -> None:
        """From the first on, if nothing was in hand when the breaker opened: that may be a probe too."""
        scene = stage()
        scene.crm.trouble = SINK_DOWN
        async with scene.bench.running():
            scene.trip_sink()
            await scene.paused()
            scene.dialer.answers.clear()  # holds the first probe until both queues hold events
            await scene.publish(30)
            await scene.publish(30, AGENTS)
            scene.dialer.answers.set()
            await eventually(lambda: len(scene.crm.probes) > 20, 30)
        kinds = [event.partition("-")[0] for event, _ in scene.crm.probes]
        assert all(one != other for one, other in pairwise(kinds)), kinds

    async def test_if_one_queue_is_empty_the_other_gives_the_probes(self, stage: Stage) -> None:
        scene = stage()
        scene.crm.trouble = SINK_DOWN
        await scene.publish(20, AGENTS)
        async with scene.bench.running():
            await eventually(lambda: len(scene.crm.probes) > 12, 30)

    @pytest.mark.parametrize("kind", EventType)
    async def test_with_empty_queues_it_waits_and_takes_the_first_that_comes(
        self, stage: Stage, kind: EventType
    ) -> None:
        scene = stage()
        async with scene.bench.running():
            scene.trip_sink()
            await eventually(lambda: scene.state() is State.HALF_OPEN)
            await scene.paused()
            await scene.publish(1, kind)
            assert await eventually(lambda: scene.crm.delivered) < CHECK_QUEUES - 1, (
                "it looks each half second"
            )
            assert scene.state() is State.RECOVERING

    async def test_it_waits_for_what_was_in_work_when_the_breaker_opened(self, stage: Stage) -> None:
        scene = stage()
        scene.dialer.answers.clear()
        await scene.publish(3)
        async with scene.bench.running():
            await eventually(lambda: scene.dialer.now == 3)
            scene.trip_sink()
            await scene.publish(10)
            await eventually(lambda: scene.state() is State.HALF_OPEN)
            await asyncio.sleep(0.7)  # longer than it takes to look again
            assert (scene.dialer.now, len(scene.dialer.asked)) == (3, 3)
            await scene.stand_ready(10)
            scene.dialer.answers.set()
            await scene.all_delivered()

    async def test_an_event_that_says_nothing_of_the_sink_is_followed_by_the_next_at_once(
        self, stage: Stage
    ) -> None:
        """Invalid, refused by the dialer, or the cause of a bug of ours."""
        scene = stage()
        odd: dict[str, Exception] = {"rejected": EnrichmentRejected("1234"), "bug": RuntimeError("a bug")}
        scene.dialer.trouble = lambda event: odd.get(event.id)
        scene.trip_sink()
        await scene.bench.publish(b"not JSON")
        await scene.bench.publish(body("rejected"))
        await scene.bench.publish(body("bug"))
        await scene.bench.publish(body("good"))
        async with scene.bench.running():
            await eventually(lambda: len(scene.bench.settled) == 4, 1.5)
            kinds = [type(outcome.disposition) for _, outcome in scene.bench.settled]
            assert kinds == [DeadLetter, DeadLetter, Retry, Ack]
            assert [each.state for each in scene.changes] == [State.OPEN, State.HALF_OPEN, State.RECOVERING]
            assert scene.retries() == [("unexpected", 2)]
            odd.clear()
            await eventually(lambda: len(scene.bench.settled) == 5)
        assert [event.id for event in scene.dialer.asked] == ["rejected", "bug", "good", "bug"]
        assert (await scene.bench.take_dead()).headers["crm-sync-reason"] == Reason.INVALID_EVENT

    @pytest.mark.parametrize("name", ["dialer", "callid_info"])
    async def test_what_is_probed_with_a_question_of_our_own_gets_no_event_until_it_is_answered(
        self, stage: Stage, name: str
    ) -> None:
        scene = stage(refused_probe=BRIEFLY)
        scene.breakers.unanswered("callid_info", REFUSED if name == "dialer" else FunctionRefused("no"), "V1")
        await scene.publish(40)
        async with scene.bench.running():
            await eventually(lambda: scene.state(name) is State.HALF_OPEN)
            await asyncio.sleep(0.7)  # longer than it takes to look again
            assert (scene.dialer.asked, scene.bench.settled) == ([], [])
            assert scene.breakers.to_probe() == ["callid_info"]
            scene.breakers.probed("callid_info")
            await scene.all_delivered()
        # A quorum queue takes back, counted, what it was sending to a consumer at the moment of its end.
        assert max(scene.delivery_counts()) <= 1


class TestRecovering:
    async def test_never_are_more_in_work_than_the_capacity_and_full_capacity_returns(
        self, stage: Stage
    ) -> None:
        scene = stage(max_in_flight=16)
        scene.dialer.takes = 0.1  # long enough to overlap on a busy machine
        scene.trip_sink()
        await scene.publish(300)
        await scene.publish(50, AGENTS)
        async with scene.bench.running():
            await scene.all_delivered()
            assert scene.breakers.all_closed
            assert await scene.consumers(CALLS) == await scene.consumers(AGENTS) == 1
        recovering = [
            (now, capacity) for state, now, capacity in scene.dialer.loads if state is State.RECOVERING
        ]
        assert all(now <= capacity for now, capacity in recovering)
        most: dict[int, int] = {}
        for now, capacity in recovering:
            most[capacity] = max(most.get(capacity, 0), now)
        assert most.keys() == {1, 2, 4, 8}
        assert most[8] > 4, "each step is made use of; on a busy machine not always to the full"
        assert scene.dialer.loads[0][:2] == (State.HALF_OPEN, 1)
        assert max(now for state, now, _ in scene.dialer.loads if state is State.CLOSED) == 16
        assert set(scene.crm.delivered.values()) == {1}


class TestTheSink:
    async def test_while_its_breaker_is_open_nothing_is_looked_up_but_for_the_probes(
        self, stage: Stage
    ) -> None:
        scene = stage(max_in_flight=4)
        scene.crm.trouble = DeliveryUnavailable("answered 429", FailureKind.BUSY, timedelta(seconds=1))
        await scene.publish(40)
        async with scene.bench.running():
            await eventually(lambda: scene.state("sink") is State.OPEN)
            await scene.paused()
            in_hand = len(scene.dialer.asked)
            assert in_hand <= 4
            await eventually(lambda: len(scene.changes) >= 5)
            assert [each.state for each in scene.changes[:4]] == [State.OPEN, State.HALF_OPEN] * 2
            assert len(scene.dialer.asked) <= in_hand + 2
            scene.crm.trouble = None
            await scene.all_delivered()
        assert {*Counter(event.id for event in scene.dialer.asked).values()} == {1}, "the answer is carried"
        assert {attempt for _, attempt in scene.retries()} == {1}


class TestStopping:
    @asynccontextmanager
    async def quick(self, scene: Scene, drain: float = 20.0) -> AsyncIterator[Supervisor]:
        """Run it, and stop it at the end of the block, long before a drain or a request would be over."""
        scene.bench.drain = drain
        async with scene.bench.running() as supervisor:
            yield supervisor
            started = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - started < RPC_TIMEOUT - 2

    async def nothing_is_lost(self, scene: Scene) -> None:
        """What is not delivered stands in the queues, and a worker that finds all well delivers it."""
        left = len(scene.published) - len(scene.crm.delivered)
        await scene.stand_ready(left)
        scene.dialer.trouble = works
        scene.dialer.answers.set()
        scene.bench.breakers = None
        calm = set_up(scene.bench)
        calm.published, calm.crm.delivered = scene.published, scene.crm.delivered
        async with scene.bench.running():
            await calm.all_delivered()
        assert {*scene.crm.delivered.values()} == {1}

    async def test_while_open(self, stage: Stage) -> None:
        scene = stage()
        scene.dialer.trouble = lambda _: REFUSED
        await scene.publish(20)
        async with self.quick(scene):
            await scene.paused()
        await self.nothing_is_lost(scene)

    async def test_while_half_open_with_empty_queues(self, stage: Stage) -> None:
        scene = stage()
        scene.trip_sink()
        async with self.quick(scene):
            await eventually(lambda: scene.state() is State.HALF_OPEN)

    async def test_while_a_probe_hangs(self, stage: Stage) -> None:
        scene = stage()
        scene.trip_sink()
        scene.dialer.answers.clear()
        await scene.publish(20)
        async with self.quick(scene, drain=0.3):
            await eventually(lambda: scene.dialer.now == 1)
        assert scene.breakers.in_work == 0
        await self.nothing_is_lost(scene)

    async def test_at_any_moment_of_the_way_nothing_is_lost_or_done_twice(self, stage: Stage) -> None:
        """Also amid a question to the broker: cancelled, it would break the channel of what is in work."""
        scene = stage(probe_max=timedelta(milliseconds=5), max_in_flight=16)
        scene.dialer.takes = 0.005
        dice = random.Random(7)  # noqa: S311 - the same moments each time
        await scene.publish(400)
        await scene.publish(40, AGENTS)
        for _ in range(25):
            scene.trip_sink()
            async with self.quick(scene):
                await asyncio.sleep(dice.uniform(0, 0.06))
        await self.nothing_is_lost(scene)
        assert max(scene.delivery_counts()) < 10, ONE_ON_ITS_WAY

    async def test_a_broker_that_does_not_answer_holds_up_no_stop(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scene = stage()
        asked = asyncio.Event()

        async def silent(_: WorkQueue) -> DeliveredMessage | None:
            asked.set()
            await asyncio.Event().wait()
            return None

        monkeypatch.setattr(WorkQueue, "get_one", silent)
        async with self.quick(scene):
            scene.trip_sink()
            await asked.wait()


class TestTheBroker:
    async def test_a_new_session_keeps_the_breakers_state(self, node: PrivateBroker, namespace: str) -> None:
        async with open_bench(node.url, namespace) as bench:
            scene = set_up(bench)
            scene.dialer.trouble = lambda _: REFUSED
            await scene.publish(20)
            async with bench.running() as supervisor:
                await scene.paused()
                asked = len(scene.dialer.asked)
                await node.ctl("close_all_connections", "maintenance")
                await eventually(lambda: supervisor.state.connections == 2)
        assert scene.state("dialer") is State.OPEN
        assert len(scene.dialer.asked) == asked
        assert max(scene.delivery_counts()) <= 1, ONE_ON_ITS_WAY

    async def test_a_queue_that_is_deleted_while_nothing_is_consumed_is_declared_again(
        self, stage: Stage
    ) -> None:
        scene = stage()
        scene.bench.check_every = 0.1
        scene.breakers.unanswered("agent_campaigns", FunctionRefused("no permission"), "1000")
        async with scene.bench.running() as supervisor:
            async with scene.bench.connection.channel() as channel:
                await channel.queue_delete(scene.bench.queue(AGENTS))
            await eventually(lambda: supervisor.state.connections == 2)
            assert await scene.consumers(AGENTS) == 0
            assert scene.state("agent_campaigns") is State.OPEN
            await scene.publish(5)
            await scene.all_delivered()

    async def test_a_queue_that_is_deleted_while_a_breaker_is_half_open_is_declared_again(
        self, stage: Stage
    ) -> None:
        scene = stage()
        scene.trip_sink()
        async with scene.bench.running() as supervisor:
            await eventually(lambda: scene.state() is State.HALF_OPEN)
            async with scene.bench.connection.channel() as channel:
                await channel.queue_delete(scene.bench.queue(CALLS))
            await eventually(lambda: supervisor.state.connections == 2)
            await scene.publish(5)
            await scene.all_delivered()

    async def test_what_waits_for_capacity_when_the_session_ends_comes_back(self, stage: Stage) -> None:
        scene = stage()
        scene.trip_sink()
        async with scene.bench.running() as supervisor:
            await eventually(lambda: scene.state() is State.HALF_OPEN)
            await scene.publish(1)
            await scene.all_delivered()
            assert scene.state() is State.RECOVERING
            scene.dialer.answers.clear()
            await scene.publish(1)
            await eventually(lambda: scene.dialer.now == 1)
            await scene.publish(1, AGENTS)
            await scene.stand_ready(0)
            assert (scene.breakers.in_work, scene.dialer.now) == (1, 1), (
                "one waits, as there is capacity for one"
            )
            consumer_of(supervisor).fail(ConnectionError("the channel was closed"))
            scene.dialer.answers.set()
            await scene.all_delivered()
        assert {*scene.crm.delivered.values()} == {1}

    async def test_one_that_never_began_can_be_stopped(self, stage: Stage) -> None:
        scene = stage()
        connection = await aio_pika.connect(scene.bench.url)
        await connection.close()
        consumer = scene.bench.make_consumer()
        with pytest.raises(RuntimeError):
            await consumer.start(connection)
        await consumer.stop(1)


def consumer_of(supervisor: Supervisor) -> Consumer:
    assert supervisor.state.consumer is not None
    return supervisor.state.consumer


async def test_changing_how_much_is_consumed_loses_no_delivery(stage: Stage) -> None:
    """The consumer is replaced hundreds of times under load; each message is settled once."""
    scene = stage()
    settled: Counter[bytes] = Counter()
    counts: list[int] = []

    async def on_message(message: DeliveredMessage) -> None:
        await asyncio.sleep(dice.uniform(0, 0.003))
        counts.append(delivery_count(message.header.properties.headers))
        settled[message.body] += 1
        await message.channel.basic_ack(message.delivery_tag or 0, wait=False)

    dice = random.Random(11)  # noqa: S311 - the same order each time
    bodies = [b"%d" % n for n in range(3000)]
    await scene.bench.flood(bodies)
    failed: list[BaseException | None] = []
    name = scene.bench.queue()
    queue = WorkQueue(CALLS, name, on_message, failed.append)
    await queue.open(scene.bench.connection)
    changes = 0
    async with asyncio.timeout(60):
        while len(settled) < len(bodies):
            await queue.set_prefetch(dice.choice([0, 1, 2, 4, 8, 64]))
            if dice.random() < 0.2 and (message := await queue.get_one()) is not None:
                await on_message(message)
            changes += 1
    await queue.close()
    assert settled == Counter(bodies)
    assert max(counts) < 10, ONE_ON_ITS_WAY
    assert failed == []
    assert changes > 50
    await scene.bench.holds(name, 0)
