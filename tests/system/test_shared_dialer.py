"""Workers share one dialer that has four places, as if they were one client of it, whoever comes and goes."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from tests.system.harness import Program, System, Worker, eventually

pytestmark = [pytest.mark.system, pytest.mark.verify, pytest.mark.timeout(300)]

SERVICE = 0.05
EVENTS = 4000
SHARED_WITHIN = 5.0
"""Seconds until a new worker has its share."""


@pytest.fixture
async def dialer() -> AsyncIterator[Program]:
    """Yield a dialer that works on four requests at a time."""
    program = Program("dialer", "--count-only")
    await program.control(service_time=SERVICE)
    yield program
    program.end()


async def counts(workers: Sequence[Worker]) -> list[int]:
    return [(await each.status())["counts"]["delivered"] for each in workers]


async def delivered_in(workers: Sequence[Worker], seconds: float) -> list[int]:
    """Return how many events each delivers in so many seconds."""
    before = await counts(workers)
    await asyncio.sleep(seconds)
    return [late - early for early, late in zip(before, await counts(workers), strict=True)]


async def test_a_new_worker_has_its_share_within_five_seconds(system: System, dialer: Program) -> None:
    chosen = {"vicidial__url": dialer.url, "vicidial__recording_lookup": "false", "max_in_flight": "16"}
    workers = [await system.start(**chosen) for _ in range(3)]
    events = await system.calls(EVENTS)
    calls: dict[str, object] = {event["call_id"]: {} for event in events}
    await dialer.control(calls=calls)
    await system.publish_all(events)
    await eventually(lambda: all(len(each.settled("delivered")) >= 50 for each in workers), 60)
    workers.append(await system.start(**chosen))
    loop = asyncio.get_running_loop()
    joined = loop.time()
    await eventually(lambda: len(workers[-1].settled("delivered")) >= 10)
    took = loop.time() - joined
    each = await delivered_in(workers, 15.0)
    most = (await dialer.report())["max_concurrent"]
    print(f"first events after {took:.1f} s, then {each} in 15 s; {most} requests at one time")  # noqa: T201
    assert took < SHARED_WITHIN
    assert max(each) < 2 * min(each)
    assert most <= 8
