"""Playing many scenarios: the groups side by side, each scenario with a deadline and from a sound state.

A scenario that fails, or never ends, costs its own verdict and no other.
"""

import asyncio
import logging
import random
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import psutil

from tests.system.chaos.account import Verdict
from tests.system.chaos.node import Node, NodeUnavailable
from tests.system.chaos.play import play
from tests.system.chaos.scenarios import Scenario
from tests.system.chaos.stage import Pace, Stage
from tests.system.harness import bounded, cancelled, position

PREPARED_WITHIN: Final = 450.0
"""Seconds until a scenario has a sound stage, if everything has to be made anew for it."""

_CLOSED_WITHIN = 60.0
_SLACK = 30.0
_AIORMQ = logging.getLogger("aiormq")


class Stuck(Exception):
    """No verdict came in time: not even the deadlines work any more. The message says what stands where."""


class Home:
    """A node that groups share. It is restored before each scenario, and replaced if that fails."""

    def __init__(self) -> None:
        self._node: Node | None = None
        self._had_one = False
        self._lock = asyncio.Lock()

    async def sound(self) -> Node:
        """Return a node that takes clients and has no alarm and no policy.

        Raises `NodeUnavailable` only if there never was one.
        """
        async with self._lock:
            if self._node is not None:
                try:
                    await self._node.restore()
                except Exception:  # noqa: BLE001 - whatever it was, there is another node
                    await self._end()
            if self._node is None:
                self._node = await self._start()
                self._had_one = True
            return self._node

    async def close(self) -> None:
        async with self._lock:
            await self._end()

    async def _start(self) -> Node:
        """Start a node, if need be with a second try, since a busy machine may be late once."""
        with suppress(NodeUnavailable):
            return await asyncio.to_thread(Node)
        try:
            return await asyncio.to_thread(Node)
        except NodeUnavailable as error:
            if self._had_one:
                raise RuntimeError("the node could not be replaced") from error
            raise

    async def _end(self) -> None:
        node, self._node = self._node, None
        if node is not None:
            await asyncio.to_thread(node.end)


class Group:
    """Plays scenarios one after the other, on a stage that lasts until one of them goes wrong."""

    def __init__(self, name: str, home: Home, folder: Path, pace: Pace, rng: random.Random) -> None:
        self._name, self._home, self._folder, self._pace, self._rng = name, home, folder, pace, rng
        self._stage: Stage | None = None
        self._stages = 0

    async def play(self, scenarios: Sequence[Scenario], say: Callable[[Verdict], None]) -> None:
        """Play them all; `say` is called with each verdict."""
        try:
            for scenario in scenarios:
                say(await self._verdict(scenario, last=scenario is scenarios[-1]))
        finally:
            await self._discard()

    async def _verdict(self, scenario: Scenario, *, last: bool) -> Verdict:
        verdict = Verdict(scenario.title)
        try:
            stage = await bounded(self._sound_stage(), PREPARED_WITHIN)
            await bounded(
                self._play(stage, scenario, verdict, last=last), scenario.deadline or self._pace.deadline
            )
        except NodeUnavailable:
            raise
        except Exception:  # noqa: BLE001 - whatever it was, the other scenarios are played
            verdict.wrong.append(f"it ended in the middle: {traceback.format_exc()}")
        if self._stage is not None:
            verdict.wrong += self._stage.complaints()
        if verdict.wrong:
            await self._discard()
        return verdict

    async def _play(self, stage: Stage, scenario: Scenario, verdict: Verdict, *, last: bool) -> None:
        await play(stage, scenario, verdict)
        if last:
            await stage.dismiss()

    async def _sound_stage(self) -> Stage:
        """Return the stage of the scenario before if a scenario can begin on it, else a new one."""
        node = await self._home.sound()
        if self._stage is not None and not (self._stage.node is node and await self._stage.is_sound()):
            await self._discard()
        if self._stage is None:
            self._stages += 1
            name = f"{self._name.replace(' ', '-')}-{self._stages}"
            self._stage = Stage(name, node, self._folder, self._pace, self._rng)
            await self._stage.open()
        return self._stage

    async def _discard(self) -> None:
        stage, self._stage = self._stage, None
        if stage is not None:
            with suppress(Exception):  # what is left of it disturbs no other: each has its own namespace
                await bounded(stage.close(), _CLOSED_WITHIN)


async def play_all(
    scenarios: Iterable[Scenario], pace: Pace, seed: int, folder: Path, say: Callable[[Verdict], None]
) -> None:
    """Play the groups side by side; what happens to the broker happens on a node of its own."""
    groups = {name: list(found) for name, found in groupby(scenarios, lambda each: each.group)}
    homes = {_home(name): Home() for name in groups}
    try:
        async with asyncio.TaskGroup() as tasks:
            for name, chosen in groups.items():
                rng = random.Random(f"{seed} {name}")  # noqa: S311 - to play it again
                group = Group(name, homes[_home(name)], folder, pace, rng)
                tasks.create_task(group.play(chosen, say))
    finally:
        await asyncio.gather(*(home.close() for home in homes.values()))


def _home(group: str) -> str:
    """Name the node on which a group plays: two that break it can't share one."""
    return group if group == "broker" else "calm"


class Runner:
    """Plays scenarios in a thread of its own, so that whoever waits for a verdict does not wait for ever."""

    def __init__(
        self,
        scenarios: Sequence[Scenario],
        pace: Pace,
        seed: int,
        folder: Path,
        say: Callable[[Verdict], None] = lambda _: None,
        *,
        verdict_within: float | None = None,
    ) -> None:
        """Prepare; without `verdict_within`, a verdict may take as long as all that may precede it."""
        self.seed = seed
        self._scenarios, self._pace, self._folder, self._say = scenarios, pace, folder, say
        self._verdicts: Mapping[str, Future[Verdict]] = {each.title: Future() for each in scenarios}
        self._loop = asyncio.new_event_loop()
        self._playing: asyncio.Task[None] | None = None
        self._others = set(psutil.Process().children())
        self._thread = threading.Thread(target=self._run, name="chaos", daemon=True)
        self._stuck = ""
        latest = PREPARED_WITHIN + pace.deadline + _CLOSED_WITHIN + _SLACK
        self._verdict_within = latest if verdict_within is None else verdict_within
        self._level = _AIORMQ.level

    def __enter__(self) -> Self:
        """Begin to play. What is broken is broken on purpose, so a library need not tell of it."""
        _AIORMQ.setLevel(logging.CRITICAL)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End, however far it came, and leave no process behind."""
        if not all(future.done() for future in self._verdicts.values()):  # else it is closing its stages
            with suppress(RuntimeError):  # it has ended, and closed its loop
                self._loop.call_soon_threadsafe(self._cancel)
        self._thread.join(_CLOSED_WITHIN + _SLACK)
        _AIORMQ.setLevel(self._level)
        if self._thread.is_alive():
            for process in set(psutil.Process().children()) - self._others:
                with suppress(psutil.NoSuchProcess):
                    process.kill()  # a node's keeper, a grandchild, then ends the node

    def verdict(self, title: str) -> Verdict:
        """Wait for the verdict on one scenario, once those before it in the table have theirs.

        Raises `NodeUnavailable` without a node, and `Stuck` if it does not come, or did not for another.
        """
        if self._stuck and not self._verdicts[title].done():
            raise Stuck(self._stuck)
        limit = self._verdict_within
        future = self._verdicts[title]
        if not wait([future], limit).done:
            tasks = "\n".join(position(task) for task in asyncio.all_tasks(self._loop))
            self._stuck = f"no verdict on {title!r} within {limit:g} s; the tasks stand at:\n{tasks}"
            raise Stuck(self._stuck)
        return future.result()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        failure: BaseException = Stuck("it ended before")
        try:
            self._playing = self._loop.create_task(
                play_all(self._scenarios, self._pace, self.seed, self._folder, self._heard)
            )
            self._loop.run_until_complete(self._playing)
        except BaseExceptionGroup as group:
            failure = group.exceptions[0]
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - raised to those who wait
            failure = error
        finally:
            for future in self._verdicts.values():
                if not future.done():
                    future.set_exception(failure)
            self._loop.run_until_complete(cancelled(*asyncio.all_tasks(self._loop)))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    def _heard(self, verdict: Verdict) -> None:
        self._verdicts[verdict.name].set_result(verdict)
        self._say(verdict)

    def _cancel(self) -> None:
        if self._playing is not None:
            self._playing.cancel()
