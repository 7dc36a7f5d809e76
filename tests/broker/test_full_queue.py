"""A dead-letter queue that stays full: the events that wait for it are held, and nobody else notices."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from tests.broker.bench import AGENTS, LONG, Bench, ack, bury, eventually, open_bench
from worker.core.events import Inbound
from worker.core.ports import Disposition, Retry
from worker.rabbitmq import message
from worker.rabbitmq.message import Delivery

pytestmark = pytest.mark.broker


@pytest.fixture
async def bench(broker_url: str, namespace: str) -> AsyncIterator[Bench]:
    async with open_bench(broker_url, namespace) as opened:
        yield opened


async def fill(bench: Bench, name: str) -> Bench:
    """Make a full queue, and let it be that of the dead letters."""
    async with bench.connection.channel() as channel:
        exchange = await channel.declare_exchange(name, "fanout")
        arguments: dict[str, Any] = {"x-max-length": 1, "x-overflow": "reject-publish"}
        await (await channel.declare_queue(name, durable=True, arguments=arguments)).bind(exchange)
    await bench.publish(b"takes the place", exchange=name)
    bench.topology = replace(bench.topology, dead_letters=name)
    return bench


async def good_or_bad(inbound: Inbound) -> Disposition:
    return await (bury(inbound) if inbound.body == b"bad" else ack(inbound))


def counts(bench: Bench, body: bytes) -> list[int]:
    """Return how often the broker had delivered a message before, each time that it was taken in."""
    return [
        int(inbound.headers.get("x-delivery-count") or 0)
        for inbound in bench.pipeline.seen
        if inbound.body == body
    ]


def test_an_event_is_held_for_less_than_25_minutes_as_the_broker_gives_up_after_30() -> None:
    assert 20 * 60 < sum(message.WAITS_WHEN_FULL) < 25 * 60


async def test_an_event_that_waits_for_a_full_queue_goes_back_alone_and_the_others_are_done(
    bench: Bench, namespace: str
) -> None:
    bench.waits_when_full = (0.1, 0.1)
    await fill(bench, f"{namespace}.retry.50ms")
    bench.max_in_flight = 2
    async with bench.running(good_or_bad) as supervisor:
        await bench.publish(b"bad")
        await eventually(lambda: len(counts(bench, b"bad")) >= 2)
        innocent = [b"good %d" % number for number in range(30)]
        await bench.flood(innocent)
        await bench.publish(b"good agent", AGENTS)
        await eventually(lambda: len(bench.settled) == 31)
        assert supervisor.state.connections == 1
        await bench.take(f"{namespace}.retry.50ms")
        await eventually(lambda: len(bench.settled) == 32)
    for body in (*innocent, b"good agent"):
        assert counts(bench, body) == [0]
    assert (await bench.take(f"{namespace}.retry.50ms")).body == b"bad"


async def test_what_is_in_hand_when_a_session_fails_is_requeued_and_not_left_to_its_end(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From RabbitMQ 4.3 on, that does not count as a delivery; the end of a channel does."""
    requeued: list[bytes] = []
    requeue = Delivery.requeue

    async def watched(delivery: Delivery) -> None:
        if not delivery.settled:
            requeued.append(delivery.body)
        await requeue(delivery)

    monkeypatch.setattr(Delivery, "requeue", watched)
    all_there, failed = asyncio.Event(), asyncio.Event()

    async def breaks_the_session(inbound: Inbound) -> Disposition:
        if inbound.body == b"first" and not failed.is_set():
            await all_there.wait()
            return Retry(LONG, 2, "dialer_outage", "its tier has no queue")
        await failed.wait()
        return await ack(inbound)

    bench.max_in_flight = 2
    async with bench.running(breaks_the_session) as supervisor:
        async with bench.connection.channel() as channel:
            await channel.queue_delete(bench.topology.tiers[LONG])
        for body in (b"first", b"second", b"waits for a place"):
            await bench.publish(body, AGENTS if body.startswith(b"waits") else "call.ended")
        await bench.holds(bench.queue(AGENTS), 0)
        all_there.set()
        await eventually(lambda: not supervisor.state.consuming)
        failed.set()
        await eventually(lambda: len(bench.settled) == 3 and supervisor.state.connections == 2)
    assert sorted(requeued) == [b"first", b"waits for a place"]


async def test_an_event_that_met_an_error_of_ours_is_left_to_the_end_of_its_channel(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That counts in every version, so the delivery limit ends it."""
    requeued: list[bytes] = []

    async def watched(delivery: Delivery) -> None:
        requeued.append(delivery.body)

    monkeypatch.setattr(Delivery, "requeue", watched)

    async def broken_once(inbound: Inbound) -> Disposition:
        if len(bench.pipeline.seen) == 1:
            raise KeyError("a bug of ours")
        return await ack(inbound)

    await bench.publish(b"poison")
    async with bench.running(broken_once):
        await eventually(lambda: bench.settled)
    assert requeued == []
