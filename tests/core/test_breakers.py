"""All the breakers: which of them an outcome concerns, and which an event has to pass."""

from datetime import timedelta

import pytest

from tests.clock import Clock
from worker.core.breakers import FUNCTIONS, BreakerStatus, CircuitBreakers
from worker.core.errors import (
    CircuitOpen,
    DeliveryUnavailable,
    EnrichmentUnavailable,
    FailureKind,
    FunctionRefused,
    LoginRefused,
)
from worker.core.events import EventType
from worker.core.transitions import State

CALLS, AGENTS = EventType.CALL_ENDED, EventType.AGENT_ONBOARDED
KINDS = list(EventType)
FULL = 8
REFUSED_PROBE = 300.0
NAMES = ["dialer", "sink", "callid_info", "agent_campaigns"]


@pytest.fixture
def changes() -> list[BreakerStatus]:
    return []


@pytest.fixture
def breakers(clock: Clock, changes: list[BreakerStatus]) -> CircuitBreakers:
    return make(clock, changes)


def make(
    clock: Clock, changes: list[BreakerStatus] | None = None, *, slow_start: bool = False
) -> CircuitBreakers:
    return CircuitBreakers(
        full=FULL,
        probe_max=timedelta(seconds=30),
        refused_probe=timedelta(seconds=REFUSED_PROBE),
        slow_start=slow_start,
        clock=clock,
        on_change=([] if changes is None else changes).append,
    )


LOGIN_REFUSED = LoginRefused("Login incorrect")
A_WHILE = timedelta(seconds=10)
SINK_REFUSED = DeliveryUnavailable("answered 403", FailureKind.REFUSED)
DIALER_DOWN = EnrichmentUnavailable("the dialer can't be reached")
SINK_DOWN = DeliveryUnavailable("answered 500")


def states(breakers: CircuitBreakers) -> dict[str, State]:
    """Return the breakers that are not closed, with their states."""
    return {each.name: each.state for each in breakers.status() if each.state is not State.CLOSED}


def call_fails(breakers: CircuitBreakers, error: EnrichmentUnavailable, event: str = "V1") -> bool:
    return breakers.unanswered("callid_info", error, event)


def agent_fails(breakers: CircuitBreakers, error: EnrichmentUnavailable, event: str = "1000") -> bool:
    return breakers.unanswered("agent_campaigns", error, event)


def begin_to_probe(breakers: CircuitBreakers, clock: Clock) -> None:
    """Let the longest wait pass."""
    clock.now += 2 * REFUSED_PROBE
    for kind in KINDS:
        breakers.capacity(kind)


def close_again(breakers: CircuitBreakers, clock: Clock) -> None:
    begin_to_probe(breakers, clock)
    for function in FUNCTIONS.values():
        breakers.probed(function)
    for _ in range(FULL):
        for function in FUNCTIONS.values():
            breakers.answered(function)
            breakers.sink_answered()
    assert states(breakers) == {}


# --- all closed -----------------------------------------------------------------------------------


def test_they_start_closed_with_full_capacity_for_each_type_of_event(breakers: CircuitBreakers) -> None:
    assert [each.name for each in breakers.status()] == NAMES
    assert breakers.all_closed
    assert states(breakers) == {}
    assert breakers.next_change_in() is None
    assert breakers.to_probe() == []
    for kind in KINDS:
        assert breakers.capacity(kind) == FULL
        assert not breakers.probing(kind)
        breakers.check(kind)
        breakers.check_function(FUNCTIONS[kind])
    breakers.check_function("an optional function")
    breakers.check_sink()
    assert {breakers.open_seconds(name) for name in NAMES} == {0.0}


def test_each_type_of_event_has_a_breaker_for_the_function_that_it_needs() -> None:
    assert FUNCTIONS.keys() == set(EventType)
    assert {*FUNCTIONS.values()} < {*NAMES}


def test_by_default_they_run_on_the_worlds_clock_and_notify_nobody() -> None:
    breakers = CircuitBreakers(full=1, probe_max=timedelta(seconds=30), refused_probe=timedelta(minutes=5))
    breakers.login_refused(LOGIN_REFUSED, A_WHILE)
    wait = breakers.next_change_in()
    assert wait is not None
    assert 290 < wait <= 360


# --- which breaker an outcome concerns ------------------------------------------------------------


def test_a_refused_login_opens_the_dialers_breaker_for_all(breakers: CircuitBreakers) -> None:
    for _ in range(100):
        breakers.answered("callid_info")
    breakers.login_refused(LOGIN_REFUSED, timedelta(minutes=15))
    assert states(breakers) == {"dialer": State.OPEN}
    assert breakers.next_change_in() == 900
    for kind in KINDS:
        assert breakers.capacity(kind) == 0
        with pytest.raises(CircuitOpen, match=r"^dialer: Login incorrect$"):
            breakers.check_function(FUNCTIONS[kind])
    with pytest.raises(CircuitOpen):
        breakers.check_function("an optional function")
    breakers.check_sink()


@pytest.mark.parametrize(("kind", "other"), [(CALLS, AGENTS), (AGENTS, CALLS)])
def test_a_missing_permission_holds_up_only_the_events_that_need_it(
    breakers: CircuitBreakers, kind: EventType, other: EventType
) -> None:
    function = FUNCTIONS[kind]
    assert not breakers.unanswered(function, FunctionRefused("no permission"), "V1")
    assert states(breakers) == {function: State.OPEN}
    assert (breakers.capacity(kind), breakers.capacity(other)) == (0, FULL)
    breakers.check(other)
    breakers.check_function(FUNCTIONS[other])
    with pytest.raises(CircuitOpen, match=rf"^{function}: no permission$"):
        breakers.check(kind)
    with pytest.raises(CircuitOpen, match=rf"^{function}: no permission$"):
        breakers.check_function(function)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [SINK_REFUSED, DeliveryUnavailable("429", FailureKind.BUSY)])
def test_a_sink_that_refuses_us_or_is_busy_holds_up_all(
    breakers: CircuitBreakers, kind: EventType, error: DeliveryUnavailable
) -> None:
    assert not breakers.sink_failed(error, "e1")
    assert states(breakers) == {"sink": State.OPEN}
    breakers.check_function(FUNCTIONS[kind])
    for each in KINDS:
        with pytest.raises(CircuitOpen, match=f"^sink: {error}$"):
            breakers.check(each)


def test_a_failed_request_of_several_events_is_one_failure(breakers: CircuitBreakers) -> None:
    again = DeliveryUnavailable("down")
    again.shared = True
    for number in range(5):
        breakers.check_sink()
        breakers.sink_failed(SINK_DOWN, f"e{number}")
        assert not any(breakers.sink_failed(again, f"shared{each}") for each in range(9))
    with pytest.raises(CircuitOpen, match="sink: answered 500"):
        breakers.check_sink()


def test_the_sinks_own_wait_is_honoured(breakers: CircuitBreakers) -> None:
    breakers.sink_failed(DeliveryUnavailable("429", FailureKind.BUSY, timedelta(seconds=77)), "e1")
    assert breakers.next_change_in() == 77


def test_outages_of_both_types_of_events_count_together(breakers: CircuitBreakers) -> None:
    for fails in (call_fails, agent_fails, call_fails, agent_fails):
        fails(breakers, DIALER_DOWN)
        breakers.sink_failed(SINK_DOWN, "e1")
    assert states(breakers) == {}
    call_fails(breakers, DIALER_DOWN)
    assert states(breakers) == {"dialer": State.OPEN}
    breakers.sink_failed(SINK_DOWN, "e1")
    assert states(breakers) == {"dialer": State.OPEN, "sink": State.OPEN}


def test_an_outage_that_no_event_met_counts_too(breakers: CircuitBreakers, clock: Clock) -> None:
    for _ in range(5):
        breakers.dialer_failed("version failed")
    assert states(breakers) == {"dialer": State.OPEN}
    clock.now += 2
    assert breakers.to_probe() == ["callid_info"]


def test_an_outage_among_successes_is_held_against_the_event(breakers: CircuitBreakers) -> None:
    for _ in range(3):
        breakers.answered("callid_info")
        breakers.sink_answered()
    assert [call_fails(breakers, DIALER_DOWN), breakers.sink_failed(SINK_DOWN, "e1")] == [True, True]
    assert [call_fails(breakers, DIALER_DOWN), breakers.sink_failed(SINK_DOWN, "e1")] == [False, False]


def test_a_firewall_that_refuses_one_event_among_others_opens_nothing(breakers: CircuitBreakers) -> None:
    verdicts = []
    for number in range(200):
        breakers.sink_answered()
        if number % 10 == 9:
            verdicts.append(breakers.sink_failed(SINK_REFUSED, "odd"))
    assert verdicts == [False] + [True] * 19
    assert states(breakers) == {}


# --- probing with questions of our own ------------------------------------------------------------


@pytest.mark.parametrize("function", FUNCTIONS.values())
def test_the_dialer_is_probed_with_a_question_to_the_function_that_failed(
    breakers: CircuitBreakers, clock: Clock, function: str
) -> None:
    for _ in range(5):
        assert breakers.to_probe() == []
        breakers.unanswered(function, DIALER_DOWN, "V1")
    assert breakers.to_probe() == [], "it waits"
    clock.now += 2
    assert breakers.to_probe() == [function]
    assert [breakers.capacity(kind) for kind in KINDS] == [0, 0], "no event is wanted for that"
    assert not any(breakers.probing(kind) for kind in KINDS)
    breakers.probed_in_vain(function, DIALER_DOWN)
    assert (breakers.to_probe(), states(breakers)) == ([], {"dialer": State.OPEN})
    clock.now += 4
    breakers.probed(breakers.to_probe()[0])
    assert (breakers.to_probe(), states(breakers)) == ([], {"dialer": State.RECOVERING})
    assert [breakers.capacity(kind) for kind in KINDS] == [1, 1]


@pytest.mark.parametrize("function", FUNCTIONS.values())
def test_a_missing_permission_is_probed_with_a_question_to_that_function(
    breakers: CircuitBreakers, clock: Clock, function: str
) -> None:
    breakers.unanswered(function, FunctionRefused("no"), "V1")
    assert breakers.to_probe() == []
    clock.now += 2 * REFUSED_PROBE
    assert breakers.to_probe() == [function]
    breakers.probed_in_vain(function, FunctionRefused("no"))
    assert (breakers.to_probe(), states(breakers)) == ([], {function: State.OPEN})
    clock.now += 2 * REFUSED_PROBE
    breakers.probed(breakers.to_probe()[0])
    assert states(breakers) == {function: State.RECOVERING}


def test_no_permission_is_probed_while_the_dialer_is_in_trouble(
    breakers: CircuitBreakers, clock: Clock
) -> None:
    call_fails(breakers, FunctionRefused("no"))
    clock.now += 2 * REFUSED_PROBE
    breakers.login_refused(LOGIN_REFUSED, A_WHILE)
    assert breakers.to_probe() == []
    clock.now += 2 * REFUSED_PROBE
    assert breakers.to_probe() == ["callid_info"]
    breakers.probed_in_vain("callid_info", FunctionRefused("no"))
    assert states(breakers) == {"dialer": State.RECOVERING, "callid_info": State.OPEN}, "the login is good"


@pytest.mark.parametrize("kind", [FailureKind.OUTAGE, FailureKind.UNREADABLE])
def test_an_outage_while_a_permission_is_probed_makes_it_wait(
    breakers: CircuitBreakers, clock: Clock, kind: FailureKind
) -> None:
    call_fails(breakers, FunctionRefused("no"))
    clock.now += 2 * REFUSED_PROBE
    assert breakers.to_probe() == ["callid_info"]
    breakers.probed_in_vain("callid_info", EnrichmentUnavailable("what?", kind))
    assert (breakers.to_probe(), states(breakers)) == ([], {"callid_info": State.OPEN})


def test_our_own_question_that_nobody_can_read_shows_no_dialer_that_works(
    breakers: CircuitBreakers, clock: Clock
) -> None:
    breakers.login_refused(LOGIN_REFUSED, A_WHILE)
    clock.now += 2 * REFUSED_PROBE
    breakers.probed_in_vain(breakers.to_probe()[0], EnrichmentUnavailable("what?", FailureKind.UNREADABLE))
    assert states(breakers) == {"dialer": State.OPEN}


def test_the_same_event_refused_again_after_our_own_question_was_answered_is_to_blame(
    breakers: CircuitBreakers, clock: Clock
) -> None:
    """One of the dialer's functions, or the web server before it, dislikes what this event asks for."""
    for error in (FunctionRefused("no"), EnrichmentUnavailable("answered 403", FailureKind.REFUSED)):
        assert not call_fails(breakers, error, "odd")
        clock.now += 2 * REFUSED_PROBE
        breakers.probed(breakers.to_probe()[0])
        assert call_fails(breakers, error, "odd")
        assert {*states(breakers).values()} == {State.RECOVERING}
        close_again(breakers, clock)


# --- what an event has to pass --------------------------------------------------------------------


def test_the_error_names_every_open_breaker_in_the_way(breakers: CircuitBreakers) -> None:
    breakers.login_refused(LOGIN_REFUSED, A_WHILE)
    breakers.sink_failed(SINK_REFUSED, "e1")
    agent_fails(breakers, FunctionRefused("no permission"))
    with pytest.raises(CircuitOpen) as raised:
        breakers.check(AGENTS)
    assert str(raised.value) == (
        "dialer: Login incorrect; sink: answered 403; agent_campaigns: no permission"
    )
    with pytest.raises(CircuitOpen) as raised:
        breakers.check(CALLS)
    assert str(raised.value) == "dialer: Login incorrect; sink: answered 403"
    with pytest.raises(CircuitOpen, match=r"^sink: answered 403$"):
        breakers.check_sink()


def test_a_check_when_the_wait_is_over_begins_to_probe(breakers: CircuitBreakers, clock: Clock) -> None:
    breakers.sink_failed(SINK_REFUSED, "e1")
    clock.now += 2 * REFUSED_PROBE
    breakers.check(CALLS)
    assert states(breakers) == {"sink": State.HALF_OPEN}


def test_while_the_dialer_is_probed_events_are_turned_away(breakers: CircuitBreakers, clock: Clock) -> None:
    breakers.login_refused(LOGIN_REFUSED, A_WHILE)
    clock.now += 2 * REFUSED_PROBE
    with pytest.raises(CircuitOpen, match=r"^dialer: Login incorrect$"):
        breakers.check(CALLS)
    assert states(breakers) == {"dialer": State.HALF_OPEN}


def test_a_sink_that_is_probed_wants_a_single_event_of_any_type_that_passes(
    breakers: CircuitBreakers, clock: Clock
) -> None:
    breakers.sink_failed(SINK_REFUSED, "e1")
    assert [breakers.probing(kind) for kind in KINDS] == [False, False]
    clock.now += 2 * REFUSED_PROBE
    assert [breakers.probing(kind) for kind in KINDS] == [True, True], "the question itself begins it"
    assert {breakers.capacity(kind) for kind in KINDS} == {1}
    agent_fails(breakers, FunctionRefused("no"))
    assert [breakers.probing(kind) for kind in (CALLS, AGENTS)] == [True, False]


def test_the_next_change_is_that_of_the_breaker_whose_wait_is_over_first(
    breakers: CircuitBreakers, clock: Clock
) -> None:
    breakers.login_refused(LOGIN_REFUSED, A_WHILE)
    breakers.sink_failed(DeliveryUnavailable("429", FailureKind.BUSY, timedelta(seconds=77)), "e1")
    assert breakers.next_change_in() == 77
    clock.now += 100
    assert breakers.next_change_in() == 0, "due, and not begun"
    breakers.capacity(CALLS)
    assert breakers.next_change_in() == pytest.approx(REFUSED_PROBE - 100, abs=0.2 * REFUSED_PROBE + 1)


# --- how many are in work -------------------------------------------------------------------------


def test_while_all_are_closed_nothing_is_at_capacity(breakers: CircuitBreakers) -> None:
    for _ in range(3 * FULL):
        breakers.begin(CALLS)
    assert breakers.in_work == 3 * FULL
    assert not breakers.at_capacity(CALLS)


def test_without_capacity_an_event_need_not_wait_but_is_turned_away(breakers: CircuitBreakers) -> None:
    breakers.begin(CALLS)
    breakers.login_refused(LOGIN_REFUSED, A_WHILE)
    assert not breakers.at_capacity(CALLS)
    with pytest.raises(CircuitOpen):
        breakers.check(CALLS)


@pytest.mark.parametrize("busy", KINDS)
@pytest.mark.parametrize("name", ["dialer", "sink"])
def test_the_capacity_of_the_dialers_and_the_sinks_breaker_is_for_all_events_together(
    breakers: CircuitBreakers, clock: Clock, busy: EventType, name: str
) -> None:
    breakers.login_refused(LOGIN_REFUSED, A_WHILE) if name == "dialer" else breakers.sink_failed(
        SINK_REFUSED, "e1"
    )
    begin_to_probe(breakers, clock)
    breakers.probed(FUNCTIONS[busy])
    assert [breakers.at_capacity(kind) for kind in KINDS] == [False, False]
    breakers.begin(busy)
    assert [breakers.at_capacity(kind) for kind in KINDS] == [True, True]
    breakers.sink_answered()
    assert [breakers.at_capacity(kind) for kind in KINDS] == [True, True], "it recovers from one"
    breakers.end(busy)
    assert breakers.in_work == 0
    assert [breakers.at_capacity(kind) for kind in KINDS] == [False, False]
    breakers.answered(FUNCTIONS[busy])
    breakers.sink_answered()
    breakers.begin(CALLS)
    assert not breakers.at_capacity(AGENTS)
    breakers.begin(AGENTS)
    assert [breakers.at_capacity(kind) for kind in KINDS] == [True, True], "two of two"


def test_the_capacity_of_a_permissions_breaker_is_for_the_events_that_need_it(
    breakers: CircuitBreakers, clock: Clock
) -> None:
    agent_fails(breakers, FunctionRefused("no"))
    begin_to_probe(breakers, clock)
    breakers.probed("agent_campaigns")
    for _ in range(FULL - 1):
        breakers.begin(CALLS)
    assert not breakers.at_capacity(AGENTS)
    breakers.begin(AGENTS)
    assert breakers.at_capacity(AGENTS)
    breakers.end(AGENTS)
    breakers.begin(CALLS)
    assert breakers.at_capacity(AGENTS), "every place is taken"


# --- the status -----------------------------------------------------------------------------------


def test_each_change_is_reported_and_the_watcher_is_woken_after_it(
    breakers: CircuitBreakers, clock: Clock, changes: list[BreakerStatus]
) -> None:
    seen: list[bool] = []
    breakers.watch(lambda: seen.append(breakers.all_closed))
    breakers.login_refused(LOGIN_REFUSED, A_WHILE)
    assert seen == [False]
    later: list[bool] = []
    breakers.watch(lambda: later.append(breakers.all_closed))
    close_again(breakers, clock)
    assert seen == [False], "only the latest is woken"
    assert later == [False, False, True]
    reported = [(each.name, each.state) for each in changes]
    assert reported == [
        ("dialer", state) for state in (State.OPEN, State.HALF_OPEN, State.RECOVERING, State.CLOSED)
    ]
    assert breakers.all_closed


def test_all_are_closed_only_when_the_last_breaker_is(breakers: CircuitBreakers, clock: Clock) -> None:
    breakers.login_refused(LOGIN_REFUSED, A_WHILE)
    agent_fails(breakers, FunctionRefused("no"))
    begin_to_probe(breakers, clock)
    breakers.probed("callid_info")
    for _ in range(FULL):
        breakers.answered("callid_info")
    assert states(breakers) == {"agent_campaigns": State.HALF_OPEN}
    assert not breakers.all_closed
    assert (breakers.capacity(CALLS), breakers.capacity(AGENTS)) == (FULL, 0)
    close_again(breakers, clock)
    assert breakers.all_closed


def test_the_seconds_since_a_breaker_opened_are_found_by_its_name(
    breakers: CircuitBreakers, clock: Clock
) -> None:
    breakers.sink_failed(SINK_REFUSED, "e1")
    clock.now += 12.5
    assert [breakers.open_seconds(name) for name in NAMES] == [0.0, 12.5, 0.0, 0.0]


# --- the slow start -------------------------------------------------------------------------------


def test_the_capacity_of_a_process_that_starts_slowly_grows_as_its_events_end(clock: Clock) -> None:
    breakers = make(clock, slow_start=True)
    woken: list[bool] = []
    breakers.watch(lambda: woken.append(breakers.all_closed))
    capacities = []
    while not breakers.all_closed:
        capacities.append(breakers.capacity(CALLS))
        breakers.begin(CALLS)
        breakers.end(CALLS)
    assert capacities == [1, 2, 2, 4, 4, 4, 4]
    assert (breakers.capacity(CALLS), breakers.capacity(AGENTS), woken) == (8, 8, [True])


def test_the_start_is_crowded_by_one_event_of_either_type(clock: Clock) -> None:
    breakers = make(clock, slow_start=True)
    breakers.begin(AGENTS)
    assert breakers.at_capacity(CALLS)
    breakers.end(AGENTS)
    assert not breakers.at_capacity(CALLS)


def test_the_start_ends_two_seconds_after_the_first_look_up_also_if_that_never_ends(clock: Clock) -> None:
    breakers = make(clock, slow_start=True)
    clock.now += 100
    assert (breakers.capacity(CALLS), breakers.next_change_in()) == (1, None)
    breakers.begin(CALLS)
    clock.now += 5  # it waits for this worker's share of the requests
    assert (breakers.at_capacity(CALLS), breakers.next_change_in()) == (True, None)
    breakers.look_up()
    clock.now += 1.5
    assert (breakers.at_capacity(CALLS), breakers.next_change_in()) == (True, 0.5)
    clock.now += 0.5
    assert (breakers.capacity(CALLS), breakers.all_closed, breakers.next_change_in()) == (8, True, None)


def test_a_breaker_that_opens_at_the_start_still_counts(clock: Clock) -> None:
    breakers = make(clock, slow_start=True)
    breakers.begin(CALLS)
    breakers.login_refused(LOGIN_REFUSED, A_WHILE)
    assert breakers.capacity(CALLS) == 0
    clock.now += 60
    assert (breakers.capacity(CALLS), breakers.all_closed) == (0, False)


def test_a_dialer_that_refuses_us_all_is_what_a_probed_permission_waits_for(
    breakers: CircuitBreakers, clock: Clock
) -> None:
    call_fails(breakers, FunctionRefused("no"))
    clock.now += 2 * REFUSED_PROBE
    assert breakers.to_probe() == ["callid_info"]
    breakers.probed_in_vain("callid_info", EnrichmentUnavailable("Invalid Source", FailureKind.REFUSED))
    assert states(breakers) == {"dialer": State.OPEN, "callid_info": State.HALF_OPEN}
    assert breakers.status()[0].reason == "Invalid Source"
