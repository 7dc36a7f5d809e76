"""What waits in the queues is counted while the worker is connected."""

from collections.abc import AsyncIterator

import pytest

from tests.broker.bench import AGENTS, CALLS, Bench, bury, eventually, open_bench, retry
from worker.core.ports import Depth
from worker.rabbitmq.topology import depths


@pytest.fixture
async def bench(broker_url: str, namespace: str) -> AsyncIterator[Bench]:
    async with open_bench(broker_url, namespace) as opened:
        yield opened


async def test_each_queue_that_events_pass_through_is_counted_with_its_role(bench: Bench) -> None:
    async with bench.running(bury):
        await bench.flood([b"bad", b"worse"])
        await eventually(lambda: len(bench.settled) == 2)
    async with bench.running(retry):
        await bench.publish(b"later", AGENTS)
        await eventually(lambda: len(bench.settled) == 3)
    await bench.flood([b"%d" % n for n in range(5)])
    work, tier = bench.queue(CALLS), next(iter(bench.topology.tiers.values()))
    counted = await depths(bench.connection, bench.topology)
    assert {depth.queue for depth in counted} == {
        *bench.topology.work_queues.values(),
        *bench.topology.tiers.values(),
        bench.topology.dead_letters,
    }
    assert Depth(work, "work", 5) in counted
    assert Depth(bench.topology.dead_letters, "dead_letters", 2) in counted
    assert [depth.role for depth in counted if depth.queue == tier] == ["retry"]


async def test_a_queue_that_is_gone_is_left_out(bench: Bench) -> None:
    tier = next(iter(bench.topology.tiers.values()))
    async with bench.connection.channel() as channel:
        await channel.queue_delete(tier)
    counted = await depths(bench.connection, bench.topology)
    assert tier not in {depth.queue for depth in counted}
    assert counted


async def test_they_are_counted_again_and_again_and_unknown_after_the_end(
    bench: Bench,
) -> None:
    bench.count_every = 0.05
    counts = bench.account.counts
    async with bench.running():
        await eventually(lambda: len(counts) > 3)
        assert all(len(each) == len(bench.topology.tiers) + 3 for each in counts)
    await eventually(lambda: counts[-1] == [])
