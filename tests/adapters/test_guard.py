"""The guard around each request to the dialer: what it lets through, and what it learns from its end."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from simulators.dialer import (
    DEFAULT_PASSWORD,
    DEFAULT_USER,
    DialerAgent,
    DialerCall,
    DialerRequest,
    Planted,
    StandInDialer,
)
from simulators.dialer.requests import Plants
from tests.adapters.dialer_client import CALL, TIMES, connected, let_limit_grow, make_breakers, put_off
from tests.adapters.raw import until
from tests.clock import Clock
from worker.core.breakers import CircuitBreakers
from worker.core.errors import (
    CircuitOpen,
    EnrichmentRejected,
    EnrichmentUnavailable,
    FunctionRefused,
    LeftOut,
    LoginRefused,
    NotReady,
)
from worker.core.events import Event, EventType
from worker.core.payload import CallEnrichment
from worker.core.transitions import State
from worker.settings import VicidialSettings
from worker.vicidial.client import NO_AGENT, NO_CALL, DialerClient, Prober
from worker.vicidial.clock import DialerClock
from worker.vicidial.enricher import VicidialEnricher
from worker.vicidial.guard import FAILURES_IN_A_ROW, Guard, LockoutGuard

DETAILS = "user_details"
UNKNOWN = "V9999999999999999999"


@pytest.fixture
async def dialer(clock: Clock) -> AsyncIterator[StandInDialer]:
    async with StandInDialer(clock=clock) as running:
        yield running


@pytest.fixture
def breakers(clock: Clock) -> CircuitBreakers:
    return make_breakers(clock)


@pytest.fixture
async def client(
    dialer: StandInDialer, breakers: CircuitBreakers, clock: Clock
) -> AsyncIterator[DialerClient]:
    """Provide a client whose guard can send probes."""
    async with connected(dialer.url, clock=clock, breakers=breakers, timeout=timedelta(seconds=5)) as made:
        Prober(made, asyncio.Event())
        yield made


def state(breakers: CircuitBreakers, name: str = "dialer") -> State:
    return next(each.state for each in breakers.status() if each.name == name)


class Everywhere(Plants):
    """Answers every request of one function with the same answer."""

    def __init__(self, function: str, planted: Planted) -> None:
        super().__init__()
        self._function, self._answer = function, planted

    def take(self, seen: DialerRequest) -> Planted | None:
        return self._answer if seen.function == self._function else None


async def failure(client: DialerClient, call_id: str = CALL) -> EnrichmentUnavailable:
    with pytest.raises(EnrichmentUnavailable) as caught:
        await client.callid_info(call_id, TIMES)
    return caught.value


# --- an event at which the dialer always fails


def bring_into_doubt(breakers: CircuitBreakers, function: str = "callid_info") -> None:
    """Let the next outage be the one that would open the breaker."""
    while not breakers.dialer.in_doubt:
        breakers.unanswered(function, EnrichmentUnavailable("down"), "another")


@pytest.mark.parametrize("function", ["callid_info", "agent_campaigns"])
async def test_events_at_which_the_dialer_always_fails_use_up_attempts_and_open_no_circuit(
    function: str, client: DialerClient, breakers: CircuitBreakers, dialer: StandInDialer
) -> None:
    poison = {
        "callid_info": [f"V120140509000000{n:04}" for n in range(8)],
        "agent_campaigns": list("abcdefgh"),
    }
    for subject in poison[function]:
        dialer.plant(subject, status=500)
    blamed = 0
    for _ in range(10):
        asked = [
            client.callid_info(each, TIMES) if function == "callid_info" else client.agent_campaigns(each)
            for each in poison[function]
        ]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        blamed += sum(isinstance(each, EnrichmentUnavailable) and each.to_blame for each in answers)
        assert state(breakers) is State.CLOSED
    assert blamed >= 16
    ours = [each for each in dialer.requests if each.subject in {NO_CALL, NO_AGENT}]
    assert {each.function for each in ours} == {function}
    assert len(ours) <= 3 * 16


async def test_one_failure_is_no_reason_to_ask_anything(client: DialerClient, dialer: StandInDialer) -> None:
    dialer.plant(CALL, status=500)
    assert not (await failure(client)).to_blame
    assert dialer.served == 1


async def test_those_that_fail_at_one_time_share_the_probes(
    client: DialerClient, dialer: StandInDialer, breakers: CircuitBreakers, clock: Clock
) -> None:
    let_limit_grow(client, clock)
    bring_into_doubt(breakers)
    dialer.delay = 0.1
    poison = [f"V120140509000000{n:04}" for n in range(8)]
    for each in poison:
        dialer.plant(each, status=500)
    errors = await asyncio.gather(*(failure(client, each) for each in poison))
    assert sum(error.to_blame for error in errors) >= 4
    assert dialer.count("callid_info", NO_CALL) <= 6
    assert state(breakers) is State.CLOSED


async def test_while_others_succeed_nothing_is_asked_to_know_whose_fault_it_is(
    client: DialerClient, dialer: StandInDialer
) -> None:
    dialer.plant("V1202150000000012346", status=500)
    for _ in range(20):
        for _ in range(3):
            await client.callid_info(CALL, TIMES)
        assert (await failure(client, "V1202150000000012346")).to_blame
    assert dialer.count("callid_info", NO_CALL) == 0


@pytest.mark.parametrize("fault", ["500", "reset", "empty", "html", "mysql"])
async def test_in_an_outage_nobody_is_to_blame_and_the_circuit_opens(
    fault: Any,  # noqa: ANN401 - one of the stand-in's faults
    client: DialerClient,
    breakers: CircuitBreakers,
    dialer: StandInDialer,
) -> None:
    dialer.fault = fault
    errors = [await failure(client, f"V120140509000000{n:04}") for n in range(5)]
    assert not any(error.to_blame for error in errors)
    assert state(breakers) is State.OPEN
    served = dialer.served
    await put_off(client)
    assert dialer.served == served <= (20 if fault == "reset" else 10), "aiohttp repeats a GET itself"


@pytest.mark.parametrize("answered", [0, 1, 2])
async def test_a_probe_has_to_be_answered_three_times_in_a_row(
    answered: int, client: DialerClient, breakers: CircuitBreakers, dialer: StandInDialer
) -> None:
    """A dialer that fails at random answers it now and then."""
    bring_into_doubt(breakers)
    times = 0

    def now_and_then(_: DialerRequest) -> Planted | None:
        nonlocal times
        times += 1
        return None if times <= answered else Planted(status=500)

    dialer.plant(CALL, status=500)
    dialer.plant(NO_CALL, now_and_then)
    assert not (await failure(client)).to_blame
    assert (times, state(breakers)) == (answered + 1, State.OPEN)


async def test_a_function_that_fails_for_every_event_is_down_though_the_probe_is_answered(
    client: DialerClient, breakers: CircuitBreakers, dialer: StandInDialer
) -> None:
    blamed, n = 0, 0
    while state(breakers) is State.CLOSED:
        n += 1
        dialer.plant(f"V120140509000000{n:04}", status=500)
        blamed += (await failure(client, f"V120140509000000{n:04}")).to_blame
    assert (blamed, n) == (20, 105)


async def test_a_request_that_many_events_share_is_one_outage(
    client: DialerClient, breakers: CircuitBreakers, dialer: StandInDialer
) -> None:
    """One slow row that a producer asks for again and again."""
    clock = DialerClock(UTC, client.version)
    enricher = VicidialEnricher(client, clock, settings_of(dialer))
    client.guard.verify = _nobody
    dialer.plant(CALL, status=500, delay=0.05)
    for expected in (State.CLOSED, State.CLOSED, State.CLOSED, State.CLOSED, State.OPEN):
        looked_up = [enricher.enrich(call(), accept_incomplete=False) for _ in range(20)]
        answers = await asyncio.gather(*looked_up, return_exceptions=True)
        assert len({id(each) for each in answers}) == 1
        assert state(breakers) is expected
    assert dialer.count("callid_info") == 5


def settings_of(dialer: StandInDialer) -> VicidialSettings:
    return VicidialSettings(url=dialer.url, user=DEFAULT_USER, password=SecretStr(DEFAULT_PASSWORD))


async def _nobody(_: str) -> bool:
    return False


def call(call_id: str = CALL, uniqueid: str | None = "1795269909.101") -> Event:
    ended = datetime(2026, 11, 20, 19, 7, 14, tzinfo=UTC)
    return Event(
        type=EventType.CALL_ENDED,
        id="e1",
        occurred_at=ended,
        subject=call_id,
        data={},
        dated=True,
        uniqueid=uniqueid,
    )


# --- what closes the dialer's circuit again


async def test_an_id_that_the_dialer_rejects_shows_that_it_works_and_one_that_was_never_asked_for_does_not(
    client: DialerClient, breakers: CircuitBreakers, dialer: StandInDialer, clock: Clock
) -> None:
    breakers.login_refused(LoginRefused("no"), timedelta(0))
    clock.now += 400
    await Prober(client, asyncio.Event()).probe_what_is_due()
    assert state(breakers) is State.RECOVERING
    enricher = VicidialEnricher(client, DialerClock(UTC, client.version), settings_of(dialer))
    for _ in range(100):
        with pytest.raises(EnrichmentRejected, match="drops silently"):
            await enricher.enrich(call("V 12"), accept_incomplete=False)
    assert state(breakers) is State.RECOVERING
    for _ in range(64):
        with pytest.raises(EnrichmentRejected, match="INVALID SEARCH PARAMETERS"):
            await client.callid_info("1000012345", TIMES)
    assert state(breakers) is State.CLOSED


async def test_a_call_that_is_not_found_shows_that_the_dialer_works(
    client: DialerClient, breakers: CircuitBreakers, clock: Clock
) -> None:
    breakers.login_refused(LoginRefused("no"), timedelta(0))
    clock.now += 400
    await Prober(client, asyncio.Event()).probe_what_is_due()
    for _ in range(64):
        with pytest.raises(NotReady):
            await client.callid_info(UNKNOWN, TIMES)
    assert state(breakers) is State.CLOSED


# --- the wait for a slot


def guard_that_waits_briefly(breakers: CircuitBreakers) -> Guard:
    """Make a guard that lets one request through at a time."""
    return Guard(breakers, LockoutGuard(300, "password"), max_concurrency=1, longest_wait=0.05)


async def never_sent() -> None:
    pytest.fail("it was let through")


async def test_who_gets_no_slot_in_time_is_put_off_and_nobody_is_to_blame(breakers: CircuitBreakers) -> None:
    guard = guard_that_waits_briefly(breakers)

    async def ten_others() -> None:
        for _ in range(10):
            with pytest.raises(CircuitOpen, match=r"too slow: no place .* fell free within 0\.05 s"):
                await guard.request("callid_info", CALL, never_sent)
        assert breakers.all_closed

    await guard.request("callid_info", CALL, ten_others)


# --- optional functions


async def left_out(client: DialerClient, user: str = "1000") -> str:
    with pytest.raises(LeftOut) as caught:
        await client.user_details(user)
    return str(caught.value)


async def test_one_that_fails_is_left_out_and_asked_at_growing_intervals_until_it_works_again(
    client: DialerClient, breakers: CircuitBreakers, dialer: StandInDialer, clock: Clock
) -> None:
    dialer.plant("1000", function=DETAILS, status=500)
    with capture_logs() as logs:
        for _ in range(3):
            with pytest.raises(EnrichmentUnavailable):
                await client.user_details("1000")
        began, asked = clock.now, [0.0]
        while clock.now < began + 100:
            clock.now += 0.5
            before = dialer.count(DETAILS)
            with pytest.raises((LeftOut, EnrichmentUnavailable)):
                await client.user_details("1000")
            asked += [clock.now - began] * (dialer.count(DETAILS) - before)
        assert "user_details is left out for now: the dialer's web server answered 500" in await left_out(
            client
        )
        assert client.guard.left_out(DETAILS) == "the dialer's web server answered 500 instead of 200"
        waits = [later - sooner for sooner, later in itertools.pairwise(asked)]
        assert all(wait < 1.7 * 2**n for n, wait in enumerate(waits[:5])), waits
        assert waits[-1] > 20
        dialer.unplant()
        clock.now += 40
        await client.user_details("1000")
        await client.user_details("1000")
    changes = [line for line in logs if line["event"].startswith("dialer_extra")]
    assert [line["event"] for line in changes] == ["dialer_extra_failing", "dialer_extra_allowed"]
    assert (changes[0]["function"], changes[0]["null"], changes[0]["log_level"]) == (
        DETAILS,
        "full_name, access_level and user_group",
        "warning",
    )
    assert client.guard.left_out(DETAILS) is None
    assert breakers.all_closed, "and nothing else was concerned"


async def test_one_that_is_refused_is_left_out_as_long_as_any_refusal(
    client: DialerClient, breakers: CircuitBreakers, dialer: StandInDialer, clock: Clock
) -> None:
    dialer.plant(
        "1000",
        function=DETAILS,
        body="ERROR: auth USER DOES NOT HAVE PERMISSION TO USE THIS FUNCTION: |a|b|\n",
    )
    with capture_logs() as logs:
        with pytest.raises(FunctionRefused):
            await client.user_details("1000")
        for _ in range(299):
            clock.now += 1
            await left_out(client)
        clock.now += 61
        with pytest.raises(FunctionRefused):
            await client.user_details("1000")
        await left_out(client)
        dialer.unplant()
        clock.now += 361
        await client.user_details("1000")
    assert [line["event"] for line in logs] == ["dialer_extra_refused", "dialer_extra_allowed"]
    assert "API Allowed Functions" in logs[0]["error"]
    assert breakers.all_closed


async def test_failures_of_one_now_and_then_leave_nothing_out(
    client: DialerClient, dialer: StandInDialer
) -> None:
    for _ in range(20):
        dialer.plant("1000", function=DETAILS, status=500, times=2)
        for _ in range(2):
            with pytest.raises(EnrichmentUnavailable):
                await client.user_details("1000")
        await client.user_details("1000")
        await client.user_details("1000")
        await client.user_details("1000")
    assert client.guard.left_out(DETAILS) is None


async def test_while_it_is_tried_again_all_others_go_without_it(
    client: DialerClient, dialer: StandInDialer, clock: Clock
) -> None:
    dialer.plant("1000", function=DETAILS, status=500, times=3)
    for _ in range(3):
        with pytest.raises(EnrichmentUnavailable):
            await client.user_details("1000")
    clock.now += 2
    dialer.plant("1000", function=DETAILS, fault="hang")
    trying = asyncio.ensure_future(client.user_details("1000"))
    await until(lambda: dialer.concurrent == 1)
    for _ in range(10):
        await left_out(client, "1001")
    trying.cancel()
    await asyncio.gather(trying, return_exceptions=True)
    await client.user_details("1001")
    assert client.guard.left_out(DETAILS) is None


async def test_its_timeouts_lower_no_limit_and_concern_no_other_breaker(
    dialer: StandInDialer, breakers: CircuitBreakers, clock: Clock
) -> None:
    timeout = timedelta(seconds=0.2)
    async with connected(dialer.url, clock=clock, breakers=breakers, timeout=timeout) as client:
        let_limit_grow(client, clock)
        dialer.plant("1000", function=DETAILS, fault="hang")
        await asyncio.gather(*(client.user_details("1000") for _ in range(30)), return_exceptions=True)
        assert client.guard.limit == 8
        # Seven slots, and two more requests if the first two of three timeouts come one after the other:
        # only the third in a row opens the breaker.
        assert dialer.count(DETAILS) <= 7 + FAILURES_IN_A_ROW - 1
        assert breakers.all_closed


async def test_while_the_dialer_itself_is_in_trouble_it_is_no_matter_of_the_function(
    client: DialerClient, breakers: CircuitBreakers
) -> None:
    breakers.login_refused(LoginRefused("no"), timedelta(0))
    with pytest.raises(CircuitOpen):
        await client.user_details("1000")
    assert client.guard.left_out(DETAILS) is None


async def test_one_that_gets_no_slot_in_time_counts_as_failing(breakers: CircuitBreakers) -> None:
    guard = guard_that_waits_briefly(breakers)

    async def four_others() -> None:
        for _ in range(3):
            with pytest.raises(EnrichmentUnavailable, match="too slow"):
                await guard.request(DETAILS, "1000", never_sent)
        with pytest.raises(LeftOut, match="too slow"):
            await guard.request(DETAILS, "1000", never_sent)

    await guard.request("callid_info", CALL, four_others)


@pytest.mark.parametrize("breakage", ["hang", "500", "reset"])
@pytest.mark.no_cover  # its times are those of an unmeasured worker
@pytest.mark.parametrize("function", ["recording_lookup", "campaigns_list", "user_details"])
async def test_300_events_go_on_while_an_optional_function_hangs_or_fails(
    function: str,
    breakage: Any,  # noqa: ANN401 - one of the stand-in's faults
) -> None:
    """On an idle machine in 2 s; the fields that it would give are null."""
    async with StandInDialer(delay=0.005) as dialer:
        dialer.plants = Everywhere(function, Planted(fault=breakage))
        for n in range(300):
            dialer.add_call(DialerCall(call_id=f"V120140509000000{n:04}"))
            dialer.agents[f"agent{n}"] = DialerAgent(user=f"agent{n}", campaigns=("SALES1", "SUPP-1"))
        timeout = timedelta(seconds=1)
        async with connected(dialer.url, breakers=make_breakers(), timeout=timeout) as client:
            enricher = VicidialEnricher(client, DialerClock(UTC, client.version), settings_of(dialer))
            in_hand = asyncio.Semaphore(64)

            async def look_up(n: int) -> Any:  # noqa: ANN401 - a record of a call or of an agent
                async with in_hand:
                    return await enricher.enrich(subject(n), accept_incomplete=True)

            def subject(n: int) -> Event:
                if function == "recording_lookup":
                    return call(f"V120140509000000{n:04}", f"{1795269909 + n}.1")
                return Event(EventType.AGENT_ONBOARDED, "e", datetime.now(UTC), f"agent{n}", {})

            began = time.perf_counter()
            found = await asyncio.gather(*(look_up(n) for n in range(300)))
            took = time.perf_counter() - began
            assert client.guard.left_out(function) is not None
            assert client.guard.breakers.all_closed
        asked = dialer.count(function)
    print(f"300 events in {took:.1f} s, {function} asked {asked} times")  # noqa: T201 - a measurement
    assert took < 12, "without a breaker: 100 s"
    assert asked < 40
    if function == "recording_lookup":
        assert all(isinstance(each, CallEnrichment) and each.call.recordings is None for each in found)
