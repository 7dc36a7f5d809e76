"""Large bodies: how many bytes are held and in work at one time, and that none is lost."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from aiormq import spec
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from tests.broker.bench import AGENTS, LONG, SHORT, Bench, ack, bury, closed_breakers, eventually, open_bench
from worker.core.errors import EnrichmentUnavailable, InvalidEvent
from worker.core.events import MAX_BODY, Event, Inbound, decode
from worker.core.payload import Enrichment, Payload
from worker.core.pipeline import Pipeline
from worker.core.ports import Disposition, Receipt
from worker.core.retry import RetryPolicy
from worker.rabbitmq import consumer
from worker.rabbitmq.consumer import BodyLimits
from worker.rabbitmq.dead_letters import browse
from worker.rabbitmq.message import DroppedBody, to_inbound

MIB = 1024 * 1024


class Frames:
    """A channel as far as its frames go."""

    def __init__(self, *frames: bytes) -> None:
        self._frames = [ContentBody(content) for content in frames]

    async def _get_frame(self) -> ContentBody:
        await asyncio.sleep(0)
        return self._frames.pop(0)


async def read(held: BodyLimits, *frames: bytes) -> bytes:
    channel = Frames(*frames)
    held.attach(channel)
    header = ContentHeader(body_size=sum(map(len, frames)))
    message = await channel._read_content(spec.Basic.Deliver(), header)  # type: ignore[attr-defined]  # noqa: SLF001
    body: bytes = message.body
    return body


@pytest.mark.parametrize("frames", [(), (b"x",), (b"a", b"b" * 1000, b"c"), (b"x" * MAX_BODY,)])
async def test_a_body_that_can_be_an_event_is_always_held(frames: tuple[bytes, ...]) -> None:
    held = BodyLimits()
    for _ in range(10):
        body = await read(held, *frames)
        assert body == b"".join(frames)
        assert not isinstance(body, DroppedBody)


async def test_of_larger_ones_a_few_are_held_at_one_time_and_the_others_dropped() -> None:
    held = BodyLimits()
    larger = [b"x" * MAX_BODY, b"!"]
    found = [await read(held, *larger) for _ in range(5)]
    assert [isinstance(body, DroppedBody) for body in found] == [False, False, False, True, True]
    assert {len(body) for body in found} == {MAX_BODY + 1}
    for body in found:
        held.release(body)
    assert not isinstance(await read(held, *larger), DroppedBody)
    assert isinstance(await read(held, *[b"x" * MIB] * 16), DroppedBody)


async def test_what_was_dropped_is_refused_by_its_size_as_if_it_were_there() -> None:
    inbound = to_inbound(DroppedBody.of(16 * MIB), spec.Basic.Properties(), "call.ended")
    with pytest.raises(InvalidEvent, match="the body has 16777216 bytes; the limit is 1048576"):
        decode(inbound)


class TestLargeOnesInWork:
    async def test_are_so_many_bytes_at_one_time_in_the_order_of_their_arrival(self) -> None:
        held, begun, go = BodyLimits(), list[str](), asyncio.Event()

        async def work(name: str, size: int) -> None:
            async with held.in_work(b"x" * size):
                begun.append(name)
                await go.wait()

        names = {"half": MAX_BODY // 2, "whole": MAX_BODY, "small": 1000, "large": consumer.LARGE}
        async with asyncio.TaskGroup() as tasks:
            for name, size in names.items():
                tasks.create_task(work(name, size))
            await asyncio.sleep(0.01)
            assert begun == ["half", "small"], "a small one passes; a large one waits for its turn"
            go.set()
        assert begun == ["half", "small", "whole", "large"]

    async def test_are_given_their_turn_after_one_that_failed_or_was_cancelled(self) -> None:
        held, whole = BodyLimits(), b"x" * MAX_BODY

        async def work(error: Exception | None = None) -> None:
            async with held.in_work(whole):
                if error is not None:
                    raise error
                await asyncio.sleep(10)

        first = asyncio.create_task(work())
        await asyncio.sleep(0)
        waiting = [asyncio.create_task(work()) for _ in range(3)]
        await asyncio.sleep(0)
        for task in (waiting[0], waiting[2], first, waiting[1]):
            task.cancel()
        await asyncio.wait([first, *waiting])
        with pytest.raises(ZeroDivisionError):
            await work(ZeroDivisionError())
        async with asyncio.timeout(1), held.in_work(whole):
            pass


@pytest.fixture
async def bench(broker_url: str, namespace: str) -> AsyncIterator[Bench]:
    async with open_bench(broker_url, namespace) as opened:
        yield opened


async def as_it_comes(inbound: Inbound) -> Disposition:
    return await (bury(inbound) if len(inbound.body) > MAX_BODY else ack(inbound))


@pytest.mark.broker
async def test_bodies_over_16_mib_reach_the_dead_letters_whole_and_nothing_else_is_held_up(
    bench: Bench,
) -> None:
    large = [bytes([number]) * (16 * MIB - number) for number in range(3)]
    async with bench.running(as_it_comes) as supervisor:
        for body in large:
            await bench.publish(body)
        await bench.flood([b"%d" % number for number in range(20)])
        await bench.publish(b"small", AGENTS)
        await eventually(lambda: len(bench.settled) == 24, 20)
        assert supervisor.state.connections == 1
    await bench.holds(bench.topology.dead_letters, 3)
    found = set()
    async with browse(bench.connection, bench.topology.dead_letters) as letters:
        async for letter, message in letters:
            assert letter.reason == "invalid_event"
            assert letter.error == f"the body has {len(message.body)} bytes; the limit is {MAX_BODY}"
            assert letter.queue == "call.ended"
            found.add(hashlib.sha256(message.body).digest())
    assert found == {hashlib.sha256(body).digest() for body in large}


@pytest.mark.broker
async def test_an_event_that_failed_is_not_held_by_its_error(bench: Bench) -> None:
    """The frames of a traceback hold what was parsed, in a circle that only a full collection breaks."""

    class Unreachable:
        async def enrich(self, event: Event, *, accept_incomplete: bool) -> Enrichment:
            raise EnrichmentUnavailable("the dialer is down")

    breakers = bench.breakers = closed_breakers(4)
    policy = RetryPolicy((SHORT, LONG), max_attempts=5, ready_within=timedelta(minutes=5))
    bench.whole = Pipeline(Unreachable(), Unused(), policy, breakers)
    async with bench.running():
        await bench.publish(b'{"call_id": "V1"}')
        await bench.publish(b"not JSON")
        await eventually(lambda: len(bench.settled) >= 2)
    errors = [outcome.error for _, outcome in bench.settled]
    assert {type(error) for error in errors} >= {EnrichmentUnavailable, InvalidEvent}
    assert all(error is not None and error.__traceback__ is None for error in errors)


class Unused:
    async def deliver(self, payload: Payload) -> Receipt:
        raise NotImplementedError
