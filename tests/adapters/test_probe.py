"""Asking the dialer questions of our own: when, how often, and what else shall not come of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from simulators.dialer import DEFAULT_PASSWORD, DEFAULT_USER, ApiUser, StandInDialer
from tests.adapters.dialer_client import CALL, TIMES, connected, failure
from tests.adapters.raw import until
from worker.core.breakers import BreakerStatus, CircuitBreakers
from worker.core.errors import EnrichmentUnavailable, FailureKind, FunctionRefused
from worker.core.transitions import State
from worker.vicidial.client import NO_AGENT, NO_CALL, DialerClient, Prober

DOWN = EnrichmentUnavailable("the dialer can't be reached")


@pytest.fixture
async def dialer() -> AsyncIterator[StandInDialer]:
    async with StandInDialer() as running:
        yield running


class Scene:
    """A client with breakers that wait briefly, and its prober at work."""

    def __init__(self, client: DialerClient, breakers: CircuitBreakers, states: list[State]) -> None:
        self.client = client
        self.breakers = breakers
        self.states = states

    def open(self, function: str = "callid_info") -> None:
        for _ in range(5):
            self.breakers.unanswered(function, DOWN, "V1")


@asynccontextmanager
async def probing(
    dialer: StandInDialer,
    refused_probe: float = 0.05,
    probe_max: float = 0.05,
    **chosen: Any,  # noqa: ANN401 - as many kinds as there are settings
) -> AsyncIterator[Scene]:
    """Yield a scene whose prober works until the end of the block."""
    changed, states = asyncio.Event(), list[State]()

    def on_change(status: BreakerStatus) -> None:
        states.append(status.state)
        changed.set()

    breakers = CircuitBreakers(
        full=8,
        probe_max=timedelta(seconds=probe_max),
        refused_probe=timedelta(seconds=refused_probe),
        on_change=on_change,
    )
    async with connected(
        dialer.url, breakers=breakers, clock=asyncio.get_running_loop().time, **chosen
    ) as client:
        watching = asyncio.create_task(Prober(client, changed, reread_every=0.02).watch())
        try:
            yield Scene(client, breakers, states)
            assert not watching.done()
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching


@pytest.mark.parametrize(("function", "subject"), [("callid_info", NO_CALL), ("agent_campaigns", NO_AGENT)])
async def test_an_open_circuit_is_probed_without_any_event_until_the_dialer_answers(
    function: str, subject: str, dialer: StandInDialer
) -> None:
    dialer.fault = "500"
    async with probing(dialer) as scene:
        scene.open(function)
        await until(lambda: dialer.served >= 5)
        assert State.RECOVERING not in scene.states
        dialer.fault = None
        await until(lambda: State.RECOVERING in scene.states)
        assert {(each.function, each.subject) for each in dialer.requests} == {(function, subject)}
        served = dialer.served
        await asyncio.sleep(0.2)
        assert dialer.served == served, "the rest is for the events to show"


async def test_while_all_circuits_are_closed_nothing_is_asked(dialer: StandInDialer) -> None:
    async with probing(dialer) as scene:
        await scene.client.callid_info(CALL, TIMES)
        await asyncio.sleep(0.3)
        assert dialer.served == 1


async def test_a_function_that_is_refused_is_probed_until_it_is_allowed(dialer: StandInDialer) -> None:
    dialer.users[DEFAULT_USER] = ApiUser(DEFAULT_PASSWORD, functions=frozenset({"callid_info"}))
    async with probing(dialer) as scene:
        with pytest.raises(FunctionRefused):
            await scene.client.agent_campaigns("1000")
        await until(lambda: dialer.count("agent_campaigns", NO_AGENT) >= 3)
        await scene.client.callid_info(CALL, TIMES)
        dialer.users[DEFAULT_USER].functions = frozenset({"callid_info", "agent_campaigns"})
        await until(lambda: State.RECOVERING in scene.states)
        await scene.client.agent_campaigns("1000")


async def test_a_password_that_changes_is_noticed_while_the_circuit_is_open(
    dialer: StandInDialer, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_text("wrong")
    async with probing(dialer, password_file=file) as scene:
        await failure(scene.client, FailureKind.REFUSED)
        await asyncio.sleep(0.3)
        assert dialer.failed_logins == 1, "however often one may try, and 0.05 s are over"
        file.write_text(DEFAULT_PASSWORD)
        await until(lambda: State.RECOVERING in scene.states)
        await scene.client.callid_info(CALL, TIMES)
        assert dialer.failed_logins == 1


async def test_a_bug_of_ours_ends_no_probing(dialer: StandInDialer, monkeypatch: pytest.MonkeyPatch) -> None:
    probe, bugs = DialerClient.probe, 2

    async def buggy(client: DialerClient, function: str) -> None:
        nonlocal bugs
        if bugs:
            bugs -= 1
            raise ZeroDivisionError
        await probe(client, function)

    monkeypatch.setattr(DialerClient, "probe", buggy)
    with capture_logs() as logs:
        async with probing(dialer) as scene:
            scene.open()
            await until(lambda: State.RECOVERING in scene.states)
    assert [line["event"] for line in logs] == ["dialer_probe_failed"] * 2
    assert isinstance(logs[0]["exc_info"], ZeroDivisionError)


async def test_a_try_that_meets_requests_from_before_waits_for_them(dialer: StandInDialer) -> None:
    async with probing(dialer, refused_probe=0.01, probe_max=0.01) as scene:
        lockout = scene.client.guard.lockout
        slow, refused = lockout.admit(), lockout.admit()
        lockout.refused(refused, "Login incorrect")
        lockout._logins.passwords.clear()  # noqa: SLF001 - as if 15 minutes had passed
        scene.breakers.dialer.failed(FailureKind.REFUSED, "Login incorrect")
        await asyncio.sleep(0.2)
        assert dialer.served == 0
        lockout.accepted(slow)
        await until(lambda: State.RECOVERING in scene.states)


@pytest.mark.parametrize("body", ["nobody understands this\n", f"{CALL}|120\n"])
async def test_an_answer_that_nobody_can_read_is_an_answer(body: str, dialer: StandInDialer) -> None:
    """Servers differ in what they say of a call that does not exist."""
    dialer.plant(NO_CALL, body=body)
    async with probing(dialer) as scene:
        scene.open()
        await until(lambda: State.RECOVERING in scene.states)
