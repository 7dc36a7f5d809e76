"""What the dialer refuses is not asked again at once: ten failed logins lock the API user."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from simulators.dialer import DEFAULT_PASSWORD, DEFAULT_USER, ApiUser, StandInDialer
from simulators.stand_in import Fault as Breakage
from tests.adapters.dialer_client import CALL, ROW, TIMES, connected, failure, let_limit_grow, put_off
from tests.adapters.raw import until
from tests.clock import Clock
from worker.core.breakers import CircuitBreakers
from worker.core.errors import CircuitOpen, EnrichmentUnavailable, FailureKind, FunctionRefused, LoginRefused
from worker.core.logins import LOCK
from worker.vicidial.client import NO_AGENT, NO_CALL, Prober


@pytest.fixture
async def dialer(clock: Clock) -> AsyncIterator[StandInDialer]:
    async with StandInDialer(clock=clock) as running:
        yield running


FIVE_MINUTES, FIFTEEN_MINUTES = 300, 900


class PasswordFile:
    """A file that holds the dialer's default password until a test changes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.change(DEFAULT_PASSWORD)

    def change(self, password: str) -> None:
        self.path.write_text(password)

    def vanish(self) -> None:
        self.path.unlink()


@pytest.fixture
def file(tmp_path: Path) -> PasswordFile:
    return PasswordFile(tmp_path / "password")


async def test_a_refused_login_stops_all_and_opens_the_dialers_circuit(
    dialer: StandInDialer, clock: Clock, file: PasswordFile
) -> None:
    dialer.users[DEFAULT_USER].password = "changed"
    async with connected(dialer.url, clock=clock, password_file=file.path) as client:
        first = await failure(client, FailureKind.REFUSED)
        assert "check vicidial.user" in first
        assert await put_off(client) == f"dialer: {first}"
        for ask in (client.agent_campaigns("1000"), client.user_details("1000"), client.campaigns_list()):
            with pytest.raises(CircuitOpen):
                await ask
        assert (dialer.served, dialer.failed_logins) == (1, 1)
        assert client.guard.refusal == first
        assert client.guard.breakers.dialer.status().next_probe_in == timedelta(seconds=LOCK)


@pytest.mark.parametrize("refused_probe", [0.2, FIVE_MINUTES])
async def test_the_refused_password_is_not_sent_again_for_15_minutes(
    dialer: StandInDialer, clock: Clock, file: PasswordFile, refused_probe: float
) -> None:
    dialer.users[DEFAULT_USER].password = "changed"
    breakers = CircuitBreakers(
        full=8,
        probe_max=timedelta(seconds=1),
        refused_probe=timedelta(seconds=refused_probe),
        clock=clock,
    )
    async with connected(dialer.url, clock=clock, breakers=breakers, password_file=file.path) as client:
        await failure(client, FailureKind.REFUSED)
        prober = Prober(client, asyncio.Event())
        failed: list[float] = []
        for _ in range(2 * FIFTEEN_MINUTES):
            clock.now += 1
            before = dialer.failed_logins
            await prober.probe_what_is_due()
            failed += [clock.now - 1000.0] * (dialer.failed_logins - before)
        assert len(failed) == 1
        assert FIFTEEN_MINUTES < failed[0] < FIFTEEN_MINUTES + 60


async def test_without_a_file_a_user_that_the_dialer_takes_again_is_found_out_by_a_later_try(
    dialer: StandInDialer, clock: Clock
) -> None:
    dialer.users[DEFAULT_USER].level = 6
    async with connected(dialer.url, clock=clock) as client:
        prober = Prober(client, asyncio.Event())
        await failure(client, FailureKind.REFUSED)
        dialer.users[DEFAULT_USER].level = 8
        clock.now += FIVE_MINUTES - 1
        await prober.probe_what_is_due()
        await put_off(client)
        clock.now += 62
        await prober.probe_what_is_due()
        await client.callid_info(CALL, TIMES)
        assert dialer.failed_logins == 1


async def test_a_changed_password_is_tried_alone_with_a_probe_and_lets_everything_through(
    dialer: StandInDialer, clock: Clock, file: PasswordFile
) -> None:
    async with connected(dialer.url, clock=clock, password_file=file.path) as client:
        let_limit_grow(client, clock)
        before = dialer.served
        dialer.users[DEFAULT_USER].password = "changed"
        await failure(client, FailureKind.REFUSED)
        prober = Prober(client, asyncio.Event())
        clock.now += 1
        await prober.probe_what_is_due()
        assert dialer.served == before + 1, "the file is as it was"
        file.change("changed\n")
        dialer.delay = 0.05
        probing = asyncio.ensure_future(prober.probe_what_is_due())
        await until(lambda: dialer.concurrent == 1)
        for _ in range(8):
            await put_off(client)
        await probing
        assert (dialer.served, dialer.requests[-1].subject) == (before + 2, NO_CALL)
        dialer.delay = 0
        await asyncio.gather(*(client.callid_info(CALL, TIMES) for _ in range(8)))
        assert client.guard.refusal is None
        assert dialer.failed_logins == 1


async def test_a_password_that_changes_long_after_is_tried_within_a_second(
    dialer: StandInDialer, clock: Clock, file: PasswordFile
) -> None:
    async with connected(dialer.url, clock=clock, password_file=file.path) as client:
        dialer.users[DEFAULT_USER].password = "changed"
        await failure(client, FailureKind.REFUSED)
        prober = Prober(client, asyncio.Event())
        for _ in range(3):
            clock.now += FIVE_MINUTES / 2
            await prober.probe_what_is_due()
        assert dialer.served == 1
        file.change("changed")
        await prober.probe_what_is_due()
        await client.callid_info(CALL, TIMES)
        assert dialer.failed_logins == 1


async def test_a_password_file_that_can_not_be_read_is_looked_at_again(
    dialer: StandInDialer, clock: Clock, file: PasswordFile
) -> None:
    async with connected(dialer.url, clock=clock, password_file=file.path) as client:
        dialer.users[DEFAULT_USER].password = "changed"
        await failure(client, FailureKind.REFUSED)
        prober = Prober(client, asyncio.Event())
        file.vanish()
        clock.now += FIFTEEN_MINUTES + 60
        await prober.probe_what_is_due()
        assert dialer.served == 1
        assert "the password file" in client.guard.lockout.explain()
        file.change("changed")
        clock.now += 1
        await prober.probe_what_is_due()
        await client.callid_info(CALL, TIMES)


@pytest.mark.parametrize("breakage", ["500", "garbage", "empty"])
async def test_a_try_that_is_not_answered_lifts_nothing(
    breakage: Breakage, dialer: StandInDialer, clock: Clock, file: PasswordFile
) -> None:
    async with connected(dialer.url, clock=clock, password_file=file.path) as client:
        dialer.users[DEFAULT_USER].password = "changed"
        await failure(client, FailureKind.REFUSED)
        prober = Prober(client, asyncio.Event())
        file.change("changed")
        dialer.fault = breakage
        clock.now += FIVE_MINUTES
        await prober.probe_what_is_due()
        assert dialer.served == 2
        dialer.fault = None
        for _ in range(FIVE_MINUTES - 1):
            clock.now += 1
            await prober.probe_what_is_due()
            await put_off(client)
        assert dialer.served == 2
        clock.now += 2
        await prober.probe_what_is_due()
        await client.callid_info(CALL, TIMES)


async def test_a_success_that_began_before_the_refusal_does_not_lift_it(
    dialer: StandInDialer,
) -> None:
    async with connected(dialer.url) as client:
        await client.callid_info(CALL, TIMES)
        dialer.plant(CALL, body=ROW, delay=0.1)
        slow = asyncio.ensure_future(client.callid_info(CALL, TIMES))
        await until(lambda: dialer.concurrent == 1)
        dialer.users[DEFAULT_USER].password = "changed"
        with pytest.raises(EnrichmentUnavailable):
            await client.agent_campaigns("1000")
        await slow
        await put_off(client)
        assert dialer.served == 3


@pytest.mark.parametrize("status", [401, 403])
async def test_a_web_server_that_refuses_is_left_alone_too(status: int, dialer: StandInDialer) -> None:
    async with connected(dialer.url) as client:
        dialer.plant(CALL, body="go away", status=status)
        await failure(client, FailureKind.REFUSED)
        assert str(status) in await put_off(client)
        assert dialer.served == 1


async def test_version_is_asked_for_also_while_the_login_is_refused(dialer: StandInDialer) -> None:
    async with connected(dialer.url) as client:
        dialer.users[DEFAULT_USER].password = "changed"
        await failure(client, FailureKind.REFUSED)
        assert (await client.version()).build == "250720-1841"


async def test_a_login_that_is_refused_to_an_optional_function_stops_all(dialer: StandInDialer) -> None:
    async with connected(dialer.url) as client:
        dialer.users[DEFAULT_USER].password = "changed"
        with pytest.raises(LoginRefused):
            await client.user_details("1000")
        await put_off(client)
        assert client.guard.left_out("user_details") is None, "it is not the function that is refused"
        assert dialer.served == 1


# --- permissions


async def test_a_function_that_is_denied_keeps_no_other_from_being_asked(
    dialer: StandInDialer, clock: Clock
) -> None:
    dialer.users["calls"] = ApiUser("Calls-Pass-1", functions=frozenset({"callid_info"}))
    password = SecretStr("Calls-Pass-1")
    async with connected(dialer.url, user="calls", password=password, clock=clock) as client:
        prober = Prober(client, asyncio.Event())
        with pytest.raises(FunctionRefused, match="API Allowed Functions"):
            await client.agent_campaigns("1000")
        for _ in range(3):
            with pytest.raises(CircuitOpen, match=r"^agent_campaigns: .*API Allowed Functions"):
                await client.agent_campaigns("1000")
            await client.callid_info(CALL, TIMES)
        clock.now += 400
        await prober.probe_what_is_due()
        assert [each.subject for each in dialer.requests if each.function == "agent_campaigns"] == [
            "1000",
            NO_AGENT,
        ]
        with pytest.raises(CircuitOpen):
            await client.agent_campaigns("1000")
        dialer.users["calls"].functions = frozenset({"callid_info", "agent_campaigns"})
        clock.now += 400
        await prober.probe_what_is_due()
        await client.agent_campaigns("1000")
        assert dialer.count("callid_info") == 3
        assert client.guard.refusal is None


async def test_nothing_is_sent_while_the_circuit_is_open_also_not_what_waits(dialer: StandInDialer) -> None:
    async with connected(dialer.url) as client:
        dialer.delay = 0.05
        asked = [asyncio.ensure_future(client.callid_info(CALL, TIMES)) for _ in range(20)]
        await until(lambda: dialer.concurrent > 0)
        client.guard.breakers.login_refused(LoginRefused("no"), timedelta(0))
        answers = await asyncio.gather(*asked, return_exceptions=True)
    assert dialer.served == 1
    assert [repr(each) for each in answers[1:]] == ["CircuitOpen('dialer: no')"] * 19


async def test_a_blocked_address_waits_as_long_as_any_refusal_but_a_login(
    dialer: StandInDialer, clock: Clock
) -> None:
    dialer.world.ip_blocked = True
    async with connected(dialer.url, clock=clock) as client:
        prober = Prober(client, asyncio.Event())
        assert "IP list" in await failure(client, FailureKind.REFUSED)
        assert "IP list" in await put_off(client)
        assert "IP ADDRESS IS NOT ALLOWED" in (client.guard.refusal or "")
        assert not client.guard.lockout.refusing
        clock.now += FIVE_MINUTES - 1
        await prober.probe_what_is_due()
        assert dialer.served == 1
        dialer.world.ip_blocked = False
        clock.now += 62
        await prober.probe_what_is_due()
        await client.callid_info(CALL, TIMES)
        assert client.guard.refusal is None


# --- the password is changed under load


async def test_a_changed_password_locks_nobody_out_and_the_new_one_is_taken_up_from_its_file(
    dialer: StandInDialer, clock: Clock, file: PasswordFile
) -> None:
    """1,000 wait, 8 are in flight; the hour after is gone through in steps of ten seconds."""
    learnt = list[str]()
    async with connected(
        dialer.url, clock=clock, password_file=file.path, on_password=learnt.append, max_concurrency=8
    ) as client:
        let_limit_grow(client, clock)
        dialer.delay = 0.05
        waiting = [asyncio.ensure_future(client.callid_info(CALL, TIMES)) for _ in range(1000)]
        await until(lambda: dialer.concurrent == 8)
        dialer.users[DEFAULT_USER].password = "Changed-Pass-2"
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(each, EnrichmentUnavailable | CircuitOpen) for each in answers)
        dialer.delay = 0
        prober = Prober(client, asyncio.Event())
        failures = [(clock.now, dialer.failed_logins)]
        for step in range(360):
            clock.now += 10
            file.change("wrong too" if step % 70 == 69 else DEFAULT_PASSWORD)
            await prober.probe_what_is_due()
            await asyncio.gather(
                *(client.callid_info(CALL, TIMES) for _ in range(20)), return_exceptions=True
            )
            failures.append((clock.now, dialer.failed_logins))
        assert max(within_15_minutes(failures)) < 10
        assert not any("LOCK" in each.outcome or "Too many" in each.outcome for each in dialer.requests)
        file.change("Changed-Pass-2")
        clock.now += FIVE_MINUTES
        await prober.probe_what_is_due()
        await client.callid_info(CALL, TIMES)
        found = await asyncio.gather(*(client.callid_info(CALL, TIMES) for _ in range(1000)))
        assert len(found) == 1000
    assert set(learnt) == {DEFAULT_PASSWORD, "wrong too", "Changed-Pass-2"}


def within_15_minutes(failures: list[tuple[float, int]]) -> list[int]:
    """Return how many logins failed in each span of 15 minutes, its ends included."""
    return [
        max(count for at, count in failures if at <= start + 900) - before
        for before, (start, _) in zip([0, *(count for _, count in failures)], failures, strict=False)
    ]
