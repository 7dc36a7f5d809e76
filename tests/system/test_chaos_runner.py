"""The proof plays each scenario by itself: one that fails, or never ends, costs no other its verdict."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tests.system.chaos import runner as module
from tests.system.chaos.account import Verdict
from tests.system.chaos.faults import terminated
from tests.system.chaos.node import NodeUnavailable
from tests.system.chaos.play import SHORT
from tests.system.chaos.runner import Runner, Stuck
from tests.system.chaos.scenarios import Scenario
from tests.system.chaos.stage import QUEUES, Stage
from tests.tools import skip_without

pytestmark = pytest.mark.verify

CALM = replace(SHORT, events=40)
THREE = [Scenario("worker", name, terminated) for name in ("a", "b", "c")]


@asynccontextmanager
async def deaf(stage: Stage) -> AsyncIterator[None]:
    """Never heal, and ignore more cancellations than the runner tries."""
    for _ in range(7):
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
    yield


@asynccontextmanager
async def wrecked(stage: Stage) -> AsyncIterator[None]:
    """Leave queues, policies, rights, stand-ins, network, worker and node broken."""
    async with await stage.system.connect() as connection:
        channel = await connection.channel()
        for queue in QUEUES:
            await channel.queue_delete(f"{stage.name}.{queue}")
    await stage.node.ctl("set_policy", "--apply-to", "queues", "full", ".*", '{"max-length": 0}')
    await stage.node.ctl("set_vm_memory_high_watermark", "0.000001")
    await stage.node.ctl("set_permissions", "guest", "^$", "^$", "^$")
    stage.dialer.stall()
    await stage.crm.refuse()
    stage.system.dialer.process.kill()
    stage.workers[0].kill()
    await stage.node.kill()
    yield


@pytest.mark.system
@pytest.mark.timeout(1200)
def test_a_scenario_that_fails_or_hangs_costs_no_other(tmp_path: Path) -> None:
    table = [
        Scenario("broker", "hangs", deaf, deadline=3),
        Scenario("broker", "falls", wrecked),
        Scenario("broker", "is stopped", terminated),
    ]
    with Runner(table, CALM, 1, tmp_path) as runner:
        try:
            hangs, falls, is_stopped = [runner.verdict(each.title) for each in table]
        except NodeUnavailable as error:
            skip_without(str(error))
    assert any("not done within 3 s; it stood at runner.py" in each for each in hangs.wrong), hangs
    assert any("it ended in the middle: Traceback" in each for each in falls.wrong), falls
    assert is_stopped.wrong == [], is_stopped


def no_node() -> None:
    raise NodeUnavailable("nowhere")


def broken_node() -> None:
    raise OSError("no room")


def test_without_a_node_each_verdict_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Node", no_node)
    with Runner(THREE, CALM, 1, tmp_path) as runner:
        for each in THREE:
            with pytest.raises(NodeUnavailable, match="nowhere"):
                runner.verdict(each.title)


def test_a_node_that_fails_costs_each_its_own_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "Node", broken_node)
    said: list[str] = []
    with Runner(THREE, CALM, 1, tmp_path, lambda verdict: said.append(verdict.name)) as runner:
        for each in THREE:
            (wrong,) = runner.verdict(each.title).wrong
            assert "OSError: no room" in wrong
    assert said == [each.title for each in THREE]


@pytest.mark.parametrize(("waited_for", "closed"), [(THREE, [True]), (THREE[:1], [])], ids=["all", "one"])
def test_the_last_verdict_cuts_no_closing_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waited_for: list[Scenario], closed: list[bool]
) -> None:
    """A stage that is cancelled while it closes leaves its processes behind, for the collector to find."""
    has_closed: list[bool] = []

    async def play_all(*arguments: object) -> None:
        say = arguments[-1]
        assert callable(say)
        for each in waited_for:
            say(Verdict(each.title))
        await asyncio.sleep(1)
        has_closed.append(True)

    monkeypatch.setattr(module, "play_all", play_all)
    with Runner(THREE, CALM, 1, tmp_path) as runner:
        for each in waited_for:
            runner.verdict(each.title)
    assert has_closed == closed


def test_a_runner_that_stands_still_is_found_out_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever blocks the loop itself, nobody waits for it for ever, and only the first waits at all."""
    go_on = threading.Event()

    def stand_still(_: object) -> None:
        go_on.wait(60)

    monkeypatch.setattr(module, "Node", broken_node)
    with Runner(THREE, CALM, 1, tmp_path, stand_still, verdict_within=0.8) as runner:
        assert runner.verdict("worker: a").wrong
        with pytest.raises(Stuck, match=r"no verdict on 'worker: b' within 0\.8 s; the tasks stand at"):
            runner.verdict("worker: b")
        with pytest.raises(Stuck, match="worker: b"):
            runner.verdict("worker: c")
        go_on.set()
