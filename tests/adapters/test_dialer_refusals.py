"""What the dialer refuses is not asked again at once: ten failed logins lock the API user."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from tests.adapters.dialer_client import CALL, ROW, TIMES, connected, failure
from tests.adapters.raw import until
from tests.clock import Clock
from worker.core.errors import EnrichmentRejected, EnrichmentUnavailable, Fault, FunctionRefused, NotReady
from worker.demo.dialer import DEFAULT_PASSWORD, DEFAULT_USER, ApiUser, StandInDialer
from worker.vicidial.client import DialerClient


@pytest.fixture
async def dialer(clock: Clock) -> AsyncIterator[StandInDialer]:
    async with StandInDialer(clock=clock) as running:
        yield running


async def test_after_a_refused_login_nothing_is_sent_until_the_wait_is_over(
    dialer: StandInDialer, clock: Clock
) -> None:
    async with connected(dialer.url, clock=clock) as client:
        dialer.users[DEFAULT_USER].password = "changed"
        first = await failure(client, Fault.REFUSED)
        assert "check vicidial.user" in first
        for seconds in (0, 1, 298.9):
            clock.now += seconds
            assert (await failure(client, Fault.REFUSED)).startswith(f"{first}; next try in ")
            with pytest.raises(EnrichmentUnavailable):
                await client.agent_campaigns("1000")
        assert dialer.served == 1
        clock.now += 0.2
        await failure(client, Fault.REFUSED)
        assert dialer.served == 2
        clock.now += 299
        await failure(client, Fault.REFUSED)
        assert (dialer.served, dialer.failed_logins) == (2, 2)


async def test_the_next_try_goes_alone_and_a_success_lifts_the_refusal(
    dialer: StandInDialer, clock: Clock
) -> None:
    async with connected(dialer.url, clock=clock) as client:
        await grown(client)
        before = dialer.served
        dialer.users[DEFAULT_USER].password = "changed"
        await failure(client, Fault.REFUSED)
        dialer.users[DEFAULT_USER].password = DEFAULT_PASSWORD
        clock.now += 301
        dialer.delay = 0.05
        asked = await asyncio.gather(
            *(client.callid_info(CALL, TIMES) for _ in range(8)), return_exceptions=True
        )
        assert sum(isinstance(each, EnrichmentUnavailable) for each in asked) == 7
        assert dialer.served == before + 2
        dialer.delay = 0
        await asyncio.gather(*(client.callid_info(CALL, TIMES) for _ in range(8)))
        assert dialer.served == before + 10


@pytest.mark.parametrize(
    ("call_id", "error"), [("V9999999999999999999", NotReady), ("1000012345", EnrichmentRejected)]
)
async def test_an_answer_about_the_id_lifts_the_refusal_too(
    call_id: str, error: type[Exception], dialer: StandInDialer, clock: Clock
) -> None:
    async with connected(dialer.url, clock=clock) as client:
        dialer.users[DEFAULT_USER].password = "changed"
        await failure(client, Fault.REFUSED)
        dialer.users[DEFAULT_USER].password = DEFAULT_PASSWORD
        clock.now += 301
        with pytest.raises(error):
            await client.callid_info(call_id, TIMES)
        await client.callid_info(CALL, TIMES)


async def test_an_outage_during_the_next_try_lifts_nothing(dialer: StandInDialer, clock: Clock) -> None:
    async with connected(dialer.url, clock=clock) as client:
        dialer.users[DEFAULT_USER].password = "changed"
        await failure(client, Fault.REFUSED)
        dialer.fault = "500"
        clock.now += 301
        await failure(client, Fault.OUTAGE)
        await failure(client, Fault.REFUSED)
        assert dialer.served == 2


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
        await failure(client, Fault.REFUSED)
        assert dialer.served == 3


async def test_the_password_file_is_read_again_before_the_next_try(
    dialer: StandInDialer, clock: Clock, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_text("old one\n")
    async with connected(dialer.url, clock=clock, password_file=file) as client:
        await failure(client, Fault.REFUSED)
        file.unlink()
        clock.now += 301
        assert "the password file" in await failure(client, Fault.REFUSED)
        assert dialer.served == 1
        file.write_text(f"{DEFAULT_PASSWORD}\n")
        await client.callid_info(CALL, TIMES)
        assert dialer.failed_logins == 1


@pytest.mark.parametrize("status", [401, 403])
async def test_a_web_server_that_refuses_is_left_alone_too(status: int, dialer: StandInDialer) -> None:
    async with connected(dialer.url) as client:
        dialer.plant(CALL, body="go away", status=status)
        await failure(client, Fault.REFUSED)
        await failure(client, Fault.REFUSED)
        assert dialer.served == 1


async def test_version_is_asked_for_also_while_the_login_is_refused(
    dialer: StandInDialer, clock: Clock
) -> None:
    async with connected(dialer.url) as client:
        dialer.users[DEFAULT_USER].password = "changed"
        await failure(client, Fault.REFUSED)
        assert (await client.version()).build == "250720-1841"


# --- permissions


async def test_a_function_that_is_denied_keeps_no_other_from_being_asked(dialer: StandInDialer) -> None:
    dialer.users["calls"] = ApiUser("Calls-Pass-1", functions=frozenset({"callid_info"}))
    password = SecretStr("Calls-Pass-1")
    async with connected(dialer.url, user="calls", password=password) as client:
        for _ in range(3):
            with pytest.raises(FunctionRefused, match="API Allowed Functions"):
                await client.agent_campaigns("1000")
            await client.callid_info(CALL, TIMES)
        assert dialer.count("callid_info") == 3
        assert client.refusal is None


async def test_nothing_is_sent_while_the_gate_is_closed_also_not_what_waits(dialer: StandInDialer) -> None:
    closed = False
    async with connected(dialer.url, closed=lambda: closed) as client:
        dialer.delay = 0.05
        asked = [asyncio.ensure_future(client.callid_info(CALL, TIMES)) for _ in range(20)]
        await until(lambda: dialer.concurrent > 0)
        closed = True
        answers = await asyncio.gather(*asked, return_exceptions=True)
    assert dialer.served == 1
    assert [str(each) for each in answers[1:]] == ["the dialer is in trouble, so it was not asked"] * 19


async def test_a_blocked_address_rests_as_a_refused_login_does(dialer: StandInDialer, clock: Clock) -> None:
    dialer.world.ip_blocked = True
    async with connected(dialer.url, clock=clock) as client:
        assert "IP list" in await failure(client, Fault.REFUSED)
        await failure(client, Fault.REFUSED)
        with pytest.raises(EnrichmentUnavailable, match="next try in 5m"):
            await client.agent_campaigns("1000")
        assert dialer.served == 1
        dialer.world.ip_blocked = False
        clock.now += 301
        await client.callid_info(CALL, TIMES)


# --- the password is changed under load


async def test_a_changed_password_locks_nobody_out_and_the_new_one_is_taken_up_from_its_file(
    dialer: StandInDialer, clock: Clock, tmp_path: Path
) -> None:
    """1,000 wait, 8 are in flight; the hour after is gone through in steps of ten seconds."""
    file, learnt = tmp_path / "password", list[str]()
    file.write_text(DEFAULT_PASSWORD)
    async with connected(
        dialer.url, clock=clock, password_file=file, on_password=learnt.append, max_concurrency=8
    ) as client:
        await grown(client)
        dialer.delay = 0.05
        waiting = [asyncio.ensure_future(client.callid_info(CALL, TIMES)) for _ in range(1000)]
        await until(lambda: dialer.concurrent == 8)
        dialer.users[DEFAULT_USER].password = "Changed-Pass-2"
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(each, EnrichmentUnavailable) for each in answers)
        dialer.delay = 0
        failures = [(clock.now, dialer.failed_logins)]
        for _ in range(360):
            clock.now += 10
            await asyncio.gather(
                *(client.callid_info(CALL, TIMES) for _ in range(20)), return_exceptions=True
            )
            failures.append((clock.now, dialer.failed_logins))
        assert max(within_15_minutes(failures)) < 10
        assert not any("LOCK" in each.outcome or "Too many" in each.outcome for each in dialer.requests)
        file.write_text("Changed-Pass-2")
        clock.now += 301
        await client.callid_info(CALL, TIMES)
        found = await asyncio.gather(*(client.callid_info(CALL, TIMES) for _ in range(1000)))
        assert len(found) == 1000
    assert set(learnt) == {DEFAULT_PASSWORD, "Changed-Pass-2"}


async def grown(client: DialerClient) -> None:
    """Ask until as many requests may go at one time as ever."""
    async with asyncio.timeout(10):
        while client.limit < 8:
            await asyncio.gather(*(client.callid_info(CALL, TIMES) for _ in range(8)))


def within_15_minutes(failures: list[tuple[float, int]]) -> list[int]:
    """Give how many logins failed in each span of 15 minutes, its ends included."""
    return [
        max(count for at, count in failures if at <= start + 900) - before
        for before, (start, _) in zip([0, *(count for _, count in failures)], failures, strict=False)
    ]
