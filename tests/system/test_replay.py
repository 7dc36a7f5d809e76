"""A replay of the dead letters can be killed at any moment: nothing is lost, hardly anything doubled."""

import asyncio
import random
from collections import Counter
from subprocess import DEVNULL
from typing import Any

import pytest

from tests.system.harness import EXIT_WITHIN, System, crm_sync, environment, eventually

pytestmark = [pytest.mark.system, pytest.mark.verify]

LETTERS = 300
KILLS = 10
UP_TO_AT_ONE_GO = 45
DEAD, WORK = "dead-letters", "call-ended"


async def bury(system: System, count: int) -> list[dict[str, Any]]:
    """Let a CRM refuse events for good, and stop the worker."""
    await system.crm.control(script=[422] * count)
    worker = await system.start()
    events = await system.calls(count)
    await system.publish_all(events)
    await eventually(lambda: len(worker.settled("dead_letter")) == count, 20)
    assert await worker.stop() == 0
    await system.crm.control(script=[], forget=True)
    return events


async def replay(system: System, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(*crm_sync(), "dead-letters", "replay", *arguments),
        env=environment(system.settings()),
        stdout=DEVNULL,
    )


async def is_anywhere(system: System, count: int) -> bool:
    return await system.depth(DEAD) + await system.depth(WORK) >= count


async def went_into_work(system: System, count: int) -> bool:
    return await system.depth(WORK) >= count


async def look_ups(system: System, events: list[dict[str, Any]]) -> Counter[str]:
    """Count how often the dialer was asked about each event's call."""
    calls = {event["call_id"]: event["event_id"] for event in events}
    requests = (await system.dialer.report())["requests"]
    asked = [each for each in requests if each["function"] == "callid_info"]
    return Counter(calls[each["subject"]] for each in asked if each["subject"] in calls)


async def test_killed_over_and_over_it_loses_nothing(system: System) -> None:
    events = await bury(system, LETTERS)
    at = random.Random(20261120)  # noqa: S311 - when to kill
    kills = 0
    while kills < KILLS and (begun := await system.depth(WORK)) < LETTERS:
        enough = min(begun + at.randrange(1, UP_TO_AT_ONE_GO), LETTERS)
        process = await replay(system, "--all")
        await eventually(lambda enough=enough: went_into_work(system, enough))
        if process.returncode is None:
            process.kill()
        await process.wait()
        kills += 1
        await eventually(lambda: is_anywhere(system, LETTERS))
        assert await system.depth(DEAD) + await system.depth(WORK) <= LETTERS + kills
    print(f"{await system.depth(WORK)} in work after {kills} kills")  # noqa: T201 - a measurement
    assert kills > 3
    rest = await replay(system, "--all")
    assert await asyncio.wait_for(rest.wait(), EXIT_WITHIN) == 0
    await system.nothing_dead()
    assert LETTERS <= await system.depth(WORK) <= LETTERS + kills

    await system.start()
    found = await system.delivered(within=20)
    assert found.keys() == {event["event_id"] for event in events}
    assert sum(len(deliveries) - 1 for deliveries in found.values()) <= kills
    assert await look_ups(system, events) == {event["event_id"]: 1 for event in events}


async def test_what_was_looked_up_is_looked_up_again_only_where_that_is_asked_for(system: System) -> None:
    kept, again = await bury(system, 2)
    changed = {event["call_id"]: {"status": "NEW"} for event in (kept, again)}
    await system.dialer.control(calls=changed)
    for arguments in ([kept["event_id"]], [again["event_id"], "--look-up-again"]):
        process = await replay(system, *arguments)
        assert await asyncio.wait_for(process.wait(), EXIT_WITHIN) == 0
    await system.start()
    found = await system.delivered()
    assert '"status":"NEW"' not in found[kept["event_id"]][0]["body"]
    assert '"status":"NEW"' in found[again["event_id"]][0]["body"]
    assert await look_ups(system, [kept, again]) == {kept["event_id"]: 1, again["event_id"]: 2}
