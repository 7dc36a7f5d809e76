"""Playing one scenario: publish, break, heal, wait, and account for every id."""

import asyncio
import time
from contextlib import suppress

from tests.system.chaos.account import Verdict, judge
from tests.system.chaos.scenarios import CONSUMES_AGAIN_WITHIN, Scenario
from tests.system.chaos.stage import Pace, Stage
from tests.system.chaos.watch import Watch
from tests.system.harness import eventually

_WORK_BEGINS_WITHIN = 120.0

SHORT = Pace(events=120, rounds=1, hold=1.0, long_hold=3.0, kills=3, patience=120.0, deadline=420.0)
"""For every `make test`."""
LONG = Pace(events=600, rounds=3, hold=3.0, long_hold=30.0, kills=5, patience=180.0, deadline=900.0)
"""For `make chaos`."""


async def play(stage: Stage, scenario: Scenario, verdict: Verdict) -> None:
    """Play a scenario on a stage that is sound, and write into the verdict what is to be said of it."""
    await stage.begin(verdict.notes)
    await stage.employ(scenario.workers, scenario.settings)
    queued: set[str] = set()
    for _ in range(stage.pace.rounds):
        if not await _round(stage, scenario, verdict):
            await stage.dismiss()  # what they hold goes back to the queues
            queued = await stage.queued()
            await stage.take_dead()
            break
    arrived = await stage.arrived()
    verdict.bound = stage.may_come_again
    judge(
        verdict,
        stage.published,
        arrived,
        stage.dead,
        queued=queued,
        tolerated=scenario.tolerated,
    )
    if verdict.recovered is None or verdict.recovered > CONSUMES_AGAIN_WITHIN:
        verdict.wrong.append(f"it did not consume again within {CONSUMES_AGAIN_WITHIN:g} s")


async def _round(stage: Stage, scenario: Scenario, verdict: Verdict) -> bool:
    """Break it once; tell whether everything was accounted for."""
    pace, begins = stage.pace, stage.pace.events // 20
    before = len(await stage.arrived())
    half = pace.events // 2 if scenario.takes_events else pace.events
    await stage.publish(stage.load.batch(half, agents=scenario.agents))
    await eventually(lambda: _more_arrived(stage, before + begins), _WORK_BEGINS_WITHIN)
    watch = Watch(stage, verdict, notices_within=scenario.notices_within, stays_ready=scenario.stays_ready)
    async with watch:
        async with scenario.fault(stage):
            await stage.publish(stage.load.batch(pace.events - half, agents=scenario.agents, after=half))
            await asyncio.sleep(pace.long_hold if scenario.shows_late else pace.hold)
        healed, healed_at = time.monotonic(), time.time()
        await _publish_canaries(stage)
        settled = await _settled(stage, watch, pace.patience)
        verdict.seconds = max(verdict.seconds, time.monotonic() - healed)
        first = await _first_after(stage, healed_at)
        verdict.recovered = None if first is None else max(verdict.recovered or 0.0, first)
    return settled


async def _publish_canaries(stage: Stage) -> None:
    """Publish one event of each type: a worker that went deaf on one queue leaves one of them there."""

    async def queues_stand() -> bool:
        with suppress(Exception):
            await stage.publish([stage.load.agent()])
            return True
        return False

    await eventually(queues_stand, stage.pace.patience)
    await stage.publish([stage.load.call()])


async def _settled(stage: Stage, watch: Watch, within: float) -> bool:
    looks = watch.looks

    async def all_done() -> bool:
        watch.check()
        if watch.looks < looks + 2 or not watch.all_ready or not watch.idle():
            return False
        await stage.take_dead()
        done = await _accepted(stage) | {letter.id for letter in stage.dead}
        return done.issuperset(event.id for event in stage.published)

    try:
        await eventually(all_done, within)
    except TimeoutError:
        return False
    return True


async def _accepted(stage: Stage) -> set[str]:
    return {name for name, found in (await stage.arrived()).items() if found.accepted_at}


async def _more_arrived(stage: Stage, count: int) -> bool:
    return len(await stage.arrived()) >= count


async def _first_after(stage: Stage, moment: float) -> float | None:
    times = [at for found in (await stage.arrived()).values() for at in found.accepted_at if at >= moment]
    return min(times) - moment if times else None
