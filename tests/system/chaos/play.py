"""Playing scenarios: publish, break, heal, wait, and account for every id."""

import asyncio
import random
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import groupby
from pathlib import Path

from tests.system.chaos.account import Verdict, judge
from tests.system.chaos.node import Node
from tests.system.chaos.scenarios import CONSUMES_AGAIN_WITHIN, Scenario
from tests.system.chaos.stage import MAY_COME_AGAIN, Pace, Stage
from tests.system.chaos.watch import Watch
from tests.system.harness import eventually

_WORK_BEGINS_WITHIN = 30.0
_FLOWING = 0.02  # seconds a dialer takes, so that there always is something in flight

SHORT = Pace(events=120, rounds=1, hold=1.0, long_hold=3.0, kills=3, patience=45.0)
"""For every `make test`."""
LONG = Pace(events=600, rounds=3, hold=3.0, long_hold=30.0, kills=5, patience=120.0)
"""For `make chaos`."""


async def play_all(
    scenarios: Iterable[Scenario], pace: Pace, seed: int, folder: Path, say: Callable[[Verdict], None]
) -> list[Verdict]:
    """Play the groups side by side; `say` is told of each verdict as it comes.

    What happens to the broker happens on a node of its own.
    """
    groups = {name: list(found) for name, found in groupby(scenarios, lambda each: each.group)}
    homes = {_home(name) for name in groups}
    nodes = dict(zip(homes, await asyncio.gather(*(asyncio.to_thread(Node) for _ in homes)), strict=True))
    try:
        stages = [
            Stage(name.replace(" ", "-"), nodes[_home(name)], folder, pace, random.Random(f"{seed} {name}"))  # noqa: S311
            for name in groups
        ]
        found = await asyncio.gather(
            *(_play_group(stage, group, say) for stage, group in zip(stages, groups.values(), strict=True))
        )
    finally:
        await asyncio.gather(*(asyncio.to_thread(node.end) for node in nodes.values()))
    return [verdict for verdicts in found for verdict in verdicts]


def _home(group: str) -> str:
    """Name the node on which a group plays: two that break it can't share one."""
    return group if group == "broker" else "calm"


async def _play_group(
    stage: Stage, scenarios: list[Scenario], say: Callable[[Verdict], None]
) -> list[Verdict]:
    verdicts = []
    async with stage:
        await stage.system.dialer.control(delay=_FLOWING)
        for scenario in scenarios:
            verdict = Verdict(f"{scenario.group}: {scenario.name}")
            try:
                await _play(stage, scenario, verdict)
                if scenario is scenarios[-1]:
                    await stage.dismiss()
            except Exception:  # noqa: BLE001 - whatever it was, the other scenarios are played
                verdict.wrong.append(f"it ended in the middle: {traceback.format_exc()}")
                await stage.clear()
            verdict.wrong += stage.complaints()
            verdicts.append(verdict)
            say(verdict)
    return verdicts


async def _play(stage: Stage, scenario: Scenario, verdict: Verdict) -> None:
    stage.published, stage.dead, stage.cuts, stage.notes = [], [], 0, verdict.notes
    await stage.system.crm.control(forget=True)
    await stage.employ(scenario.workers, scenario.settings)
    queued: set[str] = set()
    for _ in range(stage.pace.rounds):
        if not await _round(stage, scenario, verdict):
            await stage.dismiss()  # what they hold goes back to the queues
            queued = await stage.queued()
            await stage.take_dead()
            break
    arrived = await stage.arrived()
    if queued:
        await stage.clear()  # the next one has an account of its own
    verdict.bound = stage.cuts * MAY_COME_AGAIN
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
    batch = stage.load.batch(pace.events, agents=scenario.agents)
    half = len(batch) // 2 if scenario.takes_events else len(batch)
    await stage.publish(batch[:half])
    await eventually(lambda: _more_arrived(stage, before + begins), _WORK_BEGINS_WITHIN)
    watch = Watch(stage, verdict, notices_within=scenario.notices_within, stays_ready=scenario.stays_ready)
    watching = asyncio.create_task(watch.run())
    try:
        async with scenario.fault(stage):
            await stage.publish(batch[half:])
            await asyncio.sleep(pace.long_hold if scenario.shows_late else pace.hold)
        healed, healed_at = time.monotonic(), time.time()
        await _publish_canaries(stage)
        settled = await _settled(stage, watch, pace.patience)
        verdict.seconds = max(verdict.seconds, time.monotonic() - healed)
        first = await _first_after(stage, healed_at)
        verdict.recovered = None if first is None else max(verdict.recovered or 0.0, first)
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
    return settled


async def _publish_canaries(stage: Stage) -> None:
    """Publish one event of each type: a worker that went deaf on one queue leaves one of them there."""

    async def queues_stand() -> bool:
        with suppress(Exception):
            await stage.publish([stage.load.agent()])
            return True
        return False

    await eventually(queues_stand, CONSUMES_AGAIN_WITHIN)
    await stage.publish([stage.load.call()])


async def _settled(stage: Stage, watch: Watch, within: float) -> bool:
    looks = watch.looks

    async def all_done() -> bool:
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
