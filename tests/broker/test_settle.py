"""Settling: what a copy keeps and leaves behind, and that nothing is acknowledged without its successor."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import aio_pika
import pytest

from tests.broker.bench import (
    AGENTS,
    CALLS,
    LONG,
    SHORT,
    Bench,
    bury,
    eventually,
    known,
    open_bench,
    retry,
    until,
)
from worker.core.errors import PublishError, Reason
from worker.core.events import EventType, Inbound
from worker.core.pipeline import Outcome
from worker.core.ports import Ack, DeadLetter, Disposition, Retry
from worker.rabbitmq.message import Delivery, Settler
from worker.rabbitmq.publisher import BrokerPublisher

pytestmark = pytest.mark.broker

CALL = json.dumps({"event_id": "e-1", "call_id": "V1201405090000012345"}).encode()
BODIES = {
    "an event": CALL,
    "nothing": b"",
    "garbage": bytes(range(256)) * 3,
    "more than is looked into": b"\x00\xff" * (512 * 1024) + b"!",
}


@pytest.fixture
async def bench(broker_url: str, namespace: str) -> AsyncIterator[Bench]:
    async with open_bench(broker_url, namespace) as opened:
        yield opened


def moment(text: object) -> datetime:
    return datetime.fromisoformat(str(text))


class TestCopiesForARetry:
    async def test_one_stands_in_its_tier_with_our_headers(self, bench: Bench) -> None:
        async def later(inbound: Inbound) -> Disposition:
            return Retry(LONG, inbound.attempt + 1, "dialer_outage", "the dialer is down" + "!" * 2000)

        found = bench.pipeline.enrichment = known("SALE")
        before = datetime.now(UTC)
        await bench.publish(CALL, headers={"tenant": "acme"})
        async with bench.running(later):
            await eventually(lambda: bench.settled)
        copy = await bench.take(bench.topology.tiers[LONG])
        assert copy.body == CALL
        assert copy.routing_key == "call.ended"
        assert copy.delivery_mode == aio_pika.DeliveryMode.PERSISTENT
        headers = dict(copy.headers)
        assert before <= moment(headers.pop("crm-sync-first-seen")) <= datetime.now(UTC)
        assert json.loads(str(headers.pop("crm-sync-enrichment"))) == json.loads(found.model_dump_json())
        assert str(headers.pop("crm-sync-error")) == ("the dialer is down" + "!" * 2000)[:1000]
        assert headers.pop("x-delivery-count", 0) == 0  # the new queue's own; RabbitMQ 4 omits a 0
        assert headers == {
            "tenant": "acme",
            "crm-sync-attempt": 2,
            "crm-sync-event-id": "e-1",
            "crm-sync-routing-key": "call.ended",
        }

    async def test_what_the_sink_noted_comes_back_and_reaches_no_dead_letter(self, bench: Bench) -> None:
        async def act(inbound: Inbound) -> Disposition:
            return await (retry(inbound) if inbound.attempt == 1 else bury(inbound))

        bench.pipeline.progress = '{"crm":"x","steps":{}}'
        await bench.publish(CALL, headers={"crm-sync-progress": "from outside"})
        async with bench.running(act):
            await eventually(lambda: len(bench.settled) == 2)
        assert [inbound.progress for inbound, _ in bench.settled] == [None, bench.pipeline.progress]
        dead = await bench.take(bench.topology.dead_letters)
        assert "crm-sync-progress" not in dead.headers

    async def test_a_note_that_is_too_long_is_left_out(self, bench: Bench) -> None:
        bench.pipeline.progress = "x" * 1025
        await bench.publish(CALL)
        async with bench.running(until(2)):
            await eventually(lambda: len(bench.settled) == 2)
        assert bench.settled[1][0].progress is None

    @pytest.mark.parametrize("what", BODIES)
    async def test_a_body_comes_back_byte_for_byte(self, bench: Bench, what: str) -> None:
        await bench.publish(BODIES[what])
        async with bench.running(until(3)):
            await eventually(lambda: len(bench.settled) == 3)
        assert [inbound.attempt for inbound, _ in bench.settled] == [1, 2, 3]
        assert {inbound.body for inbound, _ in bench.settled} == {BODIES[what]}
        assert len({inbound.first_seen for inbound, _ in bench.settled}) == 1

    @pytest.mark.parametrize("kind", [CALLS, AGENTS])
    async def test_one_comes_back_to_its_own_queue_whatever_the_routing_key(
        self, bench: Bench, kind: EventType
    ) -> None:
        await bench.publish(b"direct", bench.queue(kind), exchange="")
        async with bench.running(until(2)):
            await eventually(lambda: len(bench.settled) == 2)
        assert [inbound.routing_key for inbound, _ in bench.settled] == [bench.queue(kind)] * 2
        assert bench.settled[1][0].attempt == 2

    async def test_what_the_producer_said_is_kept_and_what_would_misroute_is_not(self, bench: Bench) -> None:
        when = datetime(2026, 11, 20, 19, 7, 14, tzinfo=UTC)
        await bench.publish(
            CALL,
            headers={
                "CC": ["nowhere"],
                "BCC": ["nowhere"],
                "cc": ["text"],
                "x-death": [{"queue": "q", "reason": "expired", "count": 1}],
                "x-anything": 1,
                "X-Request-Id": "r-1",
                "nested": {"a": [1, {"b": None}], "when": when},
            },
            expiration=60,
            user_id="guest",
            content_type="application/json",
            content_encoding="identity",
            correlation_id="c-1",
            reply_to="nobody",
            message_id="m-1",
            timestamp=when,
            type="call.ended",
            app_id="pbx",
            priority=3,
        )
        async with bench.running(retry_later):
            await eventually(lambda: bench.settled)
        copy = await bench.take(bench.topology.tiers[LONG])
        kept = {name for name in copy.headers if not name.startswith("crm-sync-")}
        assert kept - {"x-delivery-count"} == {"X-Request-Id", "nested"}  # the count is the tier's own
        assert copy.headers["nested"] == {"a": [1, {"b": None}], "when": when}
        assert (copy.expiration, copy.user_id) == (None, None)
        assert (copy.content_type, copy.content_encoding) == ("application/json", "identity")
        assert (copy.correlation_id, copy.reply_to, copy.message_id) == ("c-1", "nobody", "m-1")
        assert (copy.timestamp, copy.type, copy.app_id, copy.priority) == (when, "call.ended", "pbx", 3)

    async def test_no_message_id_stays_nobodys(self, bench: Bench) -> None:
        """The client library invents one for each copy; the event keeps its id by our own header."""
        await bench.publish(b'{"call_id": "V1201405090000012345"}')
        async with bench.running(until(3)):
            await eventually(lambda: len(bench.settled) == 3)
        ids = {outcome.event.id for _, outcome in bench.settled if outcome.event}
        assert len(ids) == 1
        assert {inbound.event_id for inbound, _ in bench.settled[1:]} == ids

    @pytest.mark.parametrize("letter", ["x", "\N{PILE OF POO}"])
    async def test_headers_that_leave_no_room_for_ours_are_left_behind(
        self, bench: Bench, letter: str
    ) -> None:
        bench.pipeline.enrichment = known(letter * 3000)
        await bench.publish(CALL, headers={"big": letter * (120_000 // len(letter.encode()))})
        async with bench.running(retry_later) as supervisor:
            await eventually(lambda: bench.settled)
            assert supervisor.state.connections == 1
        copy = await bench.take(bench.topology.tiers[LONG])
        assert copy.body == CALL
        assert "big" not in copy.headers
        assert copy.headers["crm-sync-attempt"] == 2
        assert "crm-sync-enrichment" in copy.headers

    async def test_an_enrichment_that_is_too_large_is_looked_up_again(self, bench: Bench) -> None:
        bench.pipeline.enrichment = known("x" * 20_000)
        await bench.publish(CALL)
        async with bench.running(until(2)):
            await eventually(lambda: len(bench.settled) == 2)
        assert bench.settled[1][0].enrichment is None


async def retry_later(inbound: Inbound) -> Disposition:
    return Retry(LONG, inbound.attempt + 1, "dialer_outage", "the dialer is down")


class TestDeadLetters:
    @pytest.mark.parametrize("what", BODIES)
    async def test_one_keeps_its_body_and_says_why(self, bench: Bench, what: str) -> None:
        await bench.publish(BODIES[what], headers={"tenant": "acme"}, message_id="m-1")
        before = datetime.now(UTC)
        async with bench.running(bury):
            await eventually(lambda: bench.settled)
        dead = await bench.take_dead()
        assert dead.body == BODIES[what]
        assert dead.message_id == "m-1"
        headers = dict(dead.headers)
        assert before <= moment(headers.pop("crm-sync-first-seen"))
        assert before <= moment(headers.pop("crm-sync-failed-at")) <= datetime.now(UTC)
        assert headers.pop("crm-sync-event-id", None) == ("e-1" if what == "an event" else None)
        assert headers.pop("x-delivery-count", 0) == 0  # the new queue's own; RabbitMQ 4 omits a 0
        assert headers == {
            "tenant": "acme",
            "crm-sync-attempt": 1,
            "crm-sync-routing-key": "call.ended",
            "crm-sync-reason": "invalid_event",
            "crm-sync-stage": "enrich",
            "crm-sync-error": "the body is not JSON",
        }
        await bench.holds(bench.queue(), 0)

    async def test_the_last_copy_says_how_often_it_was_tried(self, bench: Bench) -> None:
        async def give_up(inbound: Inbound) -> Disposition:
            if inbound.attempt < 3:
                return await retry(inbound)
            return DeadLetter(Reason.ATTEMPTS_EXHAUSTED, "the dialer is down")

        await bench.publish(CALL, "agent.onboarded")
        async with bench.running(give_up):
            await eventually(lambda: len(bench.settled) == 3)
        dead = await bench.take_dead()
        assert dead.headers["crm-sync-attempt"] == 3
        assert dead.headers["crm-sync-reason"] == "attempts_exhausted"
        assert dead.headers["crm-sync-routing-key"] == "agent.onboarded"
        assert moment(dead.headers["crm-sync-first-seen"]) == bench.settled[0][0].first_seen


class TestNoSuccessorNoAcknowledgement:
    async def test_a_tier_without_its_queue(self, bench: Bench) -> None:
        """The copy is refused as unroutable; the next session declares the queue again."""
        async with bench.running(retry_later) as supervisor:
            async with bench.connection.channel() as channel:
                await channel.queue_delete(bench.topology.tiers[LONG])
            await bench.publish(CALL)
            await eventually(lambda: bench.settled and supervisor.state.connections == 2)
            assert "no queue takes messages for 'call.ended'" in str(supervisor.state.last_error)
        await bench.holds(bench.topology.tiers[LONG], 1)
        await bench.holds(bench.queue(), 0)

    @pytest.mark.parametrize("waits", [(0.05,) * 200, (0.05,) * 4], ids=["for a while", "for too long"])
    async def test_a_tier_that_is_full(self, waits: tuple[float, ...], bench: Bench, namespace: str) -> None:
        """The inbound is held, and requeued alone after long: each time counts as a delivery."""
        bench.waits_when_full = waits
        full = f"{namespace}.retry.50ms"
        async with bench.connection.channel() as channel:
            exchange = await channel.declare_exchange(full, "fanout")
            arguments: dict[str, Any] = {"x-max-length": 1, "x-overflow": "reject-publish"}
            queue = await channel.declare_queue(full, durable=True, arguments=arguments)
            await queue.bind(exchange)
        await bench.publish(b"takes the place", exchange=full)
        await bench.publish(CALL)
        bench.topology = replace(bench.topology, tiers={SHORT: full})
        async with bench.running(retry) as supervisor:
            await eventually(lambda: bench.pipeline.seen)
            if len(waits) < 10:
                await eventually(lambda: len(bench.pipeline.seen) >= 2)
            await bench.publish(b"innocent", AGENTS)
            await eventually(lambda: len({inbound.body for inbound in bench.pipeline.seen}) == 2)
            assert bench.settled == []
            await bench.take(full)
            await eventually(lambda: bench.settled)
        assert (await bench.take(full)).body in (CALL, b"innocent")
        assert supervisor.state.connections == 1

    async def test_no_connection_to_publish_through(self, bench: Bench) -> None:
        await bench.publish(CALL)
        settler = Settler(BrokerPublisher(), bench.topology)
        async with bench.held(bench.queue()) as delivery:
            inbound = delivery.inbound(bench.topology.work_exchange)
            outcome = Outcome(await bury(inbound))
            with pytest.raises(PublishError, match="no connection"):
                await settler.settle(delivery, inbound, outcome, CALLS)
            assert not delivery.settled
        await bench.holds(bench.queue(), 1)

    async def test_an_acknowledgement_that_gets_lost(self, bench: Bench) -> None:
        """The successor exists, so it is made twice, with the same id."""
        await bench.publish(CALL)
        publisher = BrokerPublisher()
        _ = await publisher.attach(bench.connection)
        settler = Settler(publisher, bench.topology)
        async with bench.held(bench.queue()) as delivery:
            await delivery.message.channel.close()
            inbound = delivery.inbound(bench.topology.work_exchange)
            outcome = Outcome(await bury(inbound))
            with pytest.raises(PublishError, match="acknowledgement"):
                await settler.settle(delivery, inbound, outcome, CALLS)
        assert (await bench.take_dead()).body == CALL
        await bench.holds(bench.queue(), 1)


class SlowPublisher(BrokerPublisher):
    """Waits to be let go before it publishes."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.entered = asyncio.Event()

    async def publish_message(self, exchange: str, routing_key: str, message: aio_pika.Message) -> None:
        self.entered.set()
        await self.go.wait()
        await super().publish_message(exchange, routing_key, message)


class TestCancellation:
    async def test_it_waits_for_a_settling_that_has_begun(self, bench: Bench) -> None:
        publisher, task, delivery = await self.begin(bench)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        publisher.go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert delivery.settled
        await delivery.message.channel.close()
        await bench.holds(bench.queue(), 0)
        await bench.holds(bench.topology.dead_letters, 1)

    async def test_a_second_one_settles_neither_twice_nor_never(self, bench: Bench) -> None:
        publisher, task, delivery = await self.begin(bench)
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
        publisher.go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.2)  # a settling that was left alone would do its work now
        was_acknowledged = delivery.settled
        await delivery.message.channel.close()
        await bench.holds(bench.queue(), 0 if was_acknowledged else 1)
        if was_acknowledged:
            await bench.holds(bench.topology.dead_letters, 1)

    async def test_before_the_settling_the_message_is_requeued(self, bench: Bench) -> None:
        async def never(_: Inbound) -> Disposition:
            await asyncio.Event().wait()
            return Ack()

        bench.drain = 0.1
        await bench.publish(CALL)
        async with bench.running(never):
            await eventually(lambda: bench.pipeline.now == 1)
        assert (await bench.take(bench.queue())).redelivered

    async def begin(self, bench: Bench) -> tuple[SlowPublisher, asyncio.Task[Outcome], Any]:
        await bench.publish(CALL)
        publisher = SlowPublisher()
        _ = await publisher.attach(bench.connection)
        channel = await bench.connection.channel()
        delivery = Delivery(await (await channel.get_underlay_channel()).basic_get(bench.queue()))
        inbound = delivery.inbound(bench.topology.work_exchange)
        settler = Settler(publisher, bench.topology)
        outcome = Outcome(await bury(inbound))
        task = asyncio.create_task(settler.settle(delivery, inbound, outcome, CALLS))
        await publisher.entered.wait()
        return publisher, task, delivery
