"""One event has one id, however often it comes; and a worker may drop what it delivered a moment ago."""

import asyncio
from typing import Any

import pytest

from tests.system.harness import EXIT_WITHIN, System, Worker, crm_sync, environment, eventually

pytestmark = [pytest.mark.system, pytest.mark.verify]


async def replay_all(system: System) -> None:
    process = await asyncio.create_subprocess_exec(
        *(*crm_sync(), "dead-letters", "replay", "--all"),
        env=environment(system.settings()),
        stdout=asyncio.subprocess.DEVNULL,
    )
    assert await asyncio.wait_for(process.wait(), EXIT_WITHIN) == 0


async def received(system: System, event: dict[str, Any], times: int) -> list[dict[str, Any]]:
    """Wait until the CRM has received an event so often; whatever it received has the event's id."""

    async def all_there() -> bool:
        return int((await system.crm.report())["deliveries"]) >= times

    await eventually(all_there)
    found: list[dict[str, Any]] = (await system.crm.report())["received"]
    assert [each["headers"]["webhook-id"] for each in found] == [event["event_id"]] * times
    assert len({each["body"] for each in found}) == 1
    return found


async def outcomes(worker: Worker, *expected: str) -> None:
    await eventually(lambda: len(worker.settled()) >= len(expected))
    assert [line["outcome"] for line in worker.settled()] == list(expected)


class TestTheId:
    async def test_of_an_event_that_is_published_twice(self, system: System) -> None:
        worker = await system.start()
        event = await system.call()
        await system.publish_all([event, event])
        await received(system, event, 2)
        await outcomes(worker, "delivered", "delivered")

    async def test_of_one_that_is_delivered_again_as_its_worker_died(self, system: System) -> None:
        await system.crm.control(fault="hang")
        worker = await system.start(sink__timeout="60s")
        event = await system.call()
        await system.publish(event)
        await received(system, event, 1)
        worker.kill()
        await system.crm.control(fault=None)
        await system.start()
        await received(system, event, 2)
        await system.delivered()

    async def test_of_one_that_is_tried_again(self, system: System) -> None:
        await system.crm.control(script=[503, 503])
        await system.start()
        event = await system.call()
        await system.publish(event)
        assert [each["status"] for each in await received(system, event, 3)] == [503, 503, 200]

    async def test_of_one_that_is_replayed(self, system: System) -> None:
        await system.crm.control(script=[422])
        worker = await system.start()
        event = await system.call()
        await system.publish(event)
        await outcomes(worker, "dead_letter")
        await replay_all(system)
        assert [each["status"] for each in await received(system, event, 2)] == [422, 200]
        await system.nothing_dead()


class TestTheWindow:
    async def test_a_repeat_of_what_was_delivered_is_dropped_and_logged(self, system: System) -> None:
        worker = await system.start(duplicates_window="10")
        event, other = await system.calls(2)
        await system.publish(event)
        await outcomes(worker, "delivered")
        await system.publish(event)
        await outcomes(worker, "delivered", "duplicate")
        await system.publish(other)
        await outcomes(worker, "delivered", "duplicate", "delivered")
        repeat = worker.settled("duplicate")[0]
        assert (repeat["event_id"], repeat["call_id"]) == (event["event_id"], event["call_id"])
        assert (await system.crm.report())["by_id"] == {event["event_id"]: 1, other["event_id"]: 1}
        counts = (await worker.status())["counts"]
        assert counts == {"delivered": 2, "duplicate": 1, "retry": 0, "dead_letter": 0}
        line = 'crm_sync_events_settled_total{event_type="call.ended",outcome="duplicate"} 1.0'
        assert line in (await worker.get("/metrics"))[1]
        assert await system.depth("call-ended") == 0
        assert await worker.stop() == 0
        assert worker.events("stopped")[0]["duplicate"] == 1

    async def test_a_replay_is_delivered_as_its_event_was_not(self, system: System) -> None:
        await system.crm.control(script=[422])
        worker = await system.start(duplicates_window="10")
        event = await system.call()
        await system.publish(event)
        await outcomes(worker, "dead_letter")
        await replay_all(system)
        await outcomes(worker, "dead_letter", "delivered")
        await system.publish(event)
        await outcomes(worker, "dead_letter", "delivered", "duplicate")
        await received(system, event, 2)
        await system.nothing_dead()

    async def test_a_repeat_is_delivered_where_the_first_is_still_in_work(self, system: System) -> None:
        worker = await system.start(duplicates_window="10")
        await system.publish(await system.call())
        await outcomes(worker, "delivered")  # a worker begins with room for one
        await system.crm.control(delay=0.5)
        event = await system.call()
        await system.publish_all([event, event])
        await outcomes(worker, "delivered", "delivered", "delivered")
        assert len((await system.delivered(event["event_id"]))[event["event_id"]]) == 2
        await system.crm.control(delay=0)
        await system.publish(event)
        await outcomes(worker, "delivered", "delivered", "delivered", "duplicate")
