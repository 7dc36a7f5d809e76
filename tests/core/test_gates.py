"""All the gates: which of them an outcome concerns, and which an event has to pass."""

from datetime import timedelta

import pytest

from tests.clock import Clock
from worker.core.errors import (
    DeliveryRejected,
    DeliveryUnavailable,
    EnrichmentRejected,
    EnrichmentUnavailable,
    Fault,
    FunctionRefused,
    GateClosed,
    Lack,
    LoginRefused,
    NotReady,
    ProcessingError,
)
from worker.core.events import EventType
from worker.core.gate import GateStatus, State
from worker.core.gates import FUNCTIONS, Gates

CALLS, AGENTS = EventType.CALL_ENDED, EventType.AGENT_ONBOARDED
KINDS = list(EventType)
FULL = 8
REFUSED_PROBE = 300.0
NAMES = ["dialer", "sink", "callid_info", "agent_campaigns"]


@pytest.fixture
def changes() -> list[GateStatus]:
    return []


@pytest.fixture
def gates(clock: Clock, changes: list[GateStatus]) -> Gates:
    return make(clock, changes)


def make(clock: Clock, changes: list[GateStatus] | None = None, *, slow_start: bool = False) -> Gates:
    return Gates(
        full=FULL,
        probe_max=timedelta(seconds=30),
        refused_probe=timedelta(seconds=REFUSED_PROBE),
        slow_start=slow_start,
        clock=clock,
        on_change=([] if changes is None else changes).append,
    )


LOGIN_REFUSED = LoginRefused("Login incorrect")
A_WHILE = timedelta(seconds=10)
SINK_REFUSED = DeliveryUnavailable("answered 403", Fault.REFUSED)
DIALER_DOWN = EnrichmentUnavailable("the dialer can't be reached")
SINK_DOWN = DeliveryUnavailable("answered 500")


def states(gates: Gates) -> dict[str, State]:
    """Give the gates that are not open, with their states."""
    return {each.name: each.state for each in gates.status() if each.state is not State.OPEN}


def call_fails(gates: Gates, error: EnrichmentUnavailable, event: str = "V1") -> bool:
    return gates.unanswered("callid_info", error, event)


def agent_fails(gates: Gates, error: EnrichmentUnavailable, event: str = "1000") -> bool:
    return gates.unanswered("agent_campaigns", error, event)


def begin_to_probe(gates: Gates, clock: Clock) -> None:
    """Let the longest wait pass."""
    clock.now += 2 * REFUSED_PROBE
    for kind in KINDS:
        gates.room(kind)


def open_again(gates: Gates, clock: Clock) -> None:
    begin_to_probe(gates, clock)
    for function in FUNCTIONS.values():
        gates.probed(function)
    for _ in range(FULL):
        for function in FUNCTIONS.values():
            gates.answered(function)
            gates.delivered()
    assert states(gates) == {}


# --- all open -------------------------------------------------------------------------------------


def test_they_begin_open_with_full_room_for_each_type_of_event(gates: Gates) -> None:
    assert [each.name for each in gates.status()] == NAMES
    assert gates.all_open
    assert states(gates) == {}
    assert gates.next_change_in() is None
    assert gates.to_probe() == []
    for kind in KINDS:
        assert gates.room(kind) == FULL
        assert not gates.probing(kind)
        gates.insist(kind)
        gates.insist_on(FUNCTIONS[kind])
    gates.insist_on("an optional function")
    gates.insist_on_sink()
    assert {gates.closed_seconds(name) for name in NAMES} == {0.0}


def test_each_type_of_event_has_a_gate_for_the_function_that_it_needs() -> None:
    assert FUNCTIONS.keys() == set(EventType)
    assert {*FUNCTIONS.values()} < {*NAMES}


def test_by_default_they_run_on_the_worlds_clock_and_tell_nobody() -> None:
    gates = Gates(full=1, probe_max=timedelta(seconds=30), refused_probe=timedelta(minutes=5))
    gates.login_refused(LOGIN_REFUSED, A_WHILE)
    wait = gates.next_change_in()
    assert wait is not None
    assert 290 < wait <= 360


# --- which gate an outcome concerns ---------------------------------------------------------------


def test_a_refused_login_closes_the_dialers_gate_for_all(gates: Gates) -> None:
    for _ in range(100):
        gates.answered("callid_info")
    gates.login_refused(LOGIN_REFUSED, timedelta(minutes=15))
    assert states(gates) == {"dialer": State.CLOSED}
    assert gates.next_change_in() == 900
    for kind in KINDS:
        assert gates.room(kind) == 0
        with pytest.raises(GateClosed, match=r"^dialer: Login incorrect$"):
            gates.insist_on(FUNCTIONS[kind])
    with pytest.raises(GateClosed):
        gates.insist_on("an optional function")
    gates.insist_on_sink()


@pytest.mark.parametrize(("kind", "other"), [(CALLS, AGENTS), (AGENTS, CALLS)])
def test_a_missing_permission_holds_up_only_the_events_that_need_it(
    gates: Gates, kind: EventType, other: EventType
) -> None:
    function = FUNCTIONS[kind]
    assert not gates.unanswered(function, FunctionRefused("no permission"), "V1")
    assert states(gates) == {function: State.CLOSED}
    assert (gates.room(kind), gates.room(other)) == (0, FULL)
    gates.insist(other)
    gates.insist_on(FUNCTIONS[other])
    with pytest.raises(GateClosed, match=rf"^{function}: no permission$"):
        gates.insist(kind)
    with pytest.raises(GateClosed, match=rf"^{function}: no permission$"):
        gates.insist_on(function)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [SINK_REFUSED, DeliveryUnavailable("429", Fault.BUSY)])
def test_a_sink_that_refuses_us_or_is_busy_holds_up_all(
    gates: Gates, kind: EventType, error: DeliveryUnavailable
) -> None:
    assert not gates.failed(error, "e1")
    assert states(gates) == {"sink": State.CLOSED}
    gates.insist_on(FUNCTIONS[kind])
    for each in KINDS:
        with pytest.raises(GateClosed, match=f"^sink: {error}$"):
            gates.insist(each)


def test_the_sinks_own_wait_is_honoured(gates: Gates) -> None:
    gates.failed(DeliveryUnavailable("429", Fault.BUSY, timedelta(seconds=77)), "e1")
    assert gates.next_change_in() == 77


def test_outages_of_both_types_of_events_count_together(gates: Gates) -> None:
    for fails in (call_fails, agent_fails, call_fails, agent_fails):
        fails(gates, DIALER_DOWN)
        gates.failed(SINK_DOWN, "e1")
    assert states(gates) == {}
    call_fails(gates, DIALER_DOWN)
    assert states(gates) == {"dialer": State.CLOSED}
    gates.failed(SINK_DOWN, "e1")
    assert states(gates) == {"dialer": State.CLOSED, "sink": State.CLOSED}


def test_an_outage_that_no_event_met_counts_too(gates: Gates, clock: Clock) -> None:
    for _ in range(5):
        gates.dialer_failed("version failed")
    assert states(gates) == {"dialer": State.CLOSED}
    clock.now += 2
    assert gates.to_probe() == ["callid_info"]


def test_an_outage_among_successes_is_held_against_the_event(gates: Gates) -> None:
    for _ in range(3):
        gates.answered("callid_info")
        gates.delivered()
    assert [call_fails(gates, DIALER_DOWN), gates.failed(SINK_DOWN, "e1")] == [True, True]
    assert [call_fails(gates, DIALER_DOWN), gates.failed(SINK_DOWN, "e1")] == [False, False]


def test_what_becomes_of_a_question_to_the_dialer_is_recorded_once_by_who_asked_it(gates: Gates) -> None:
    """However many events wait for it, and whoever asks afterwards whether it counts."""
    error = EnrichmentUnavailable("the dialer can't be reached")
    assert call_fails(gates, error) is False
    for error.to_blame in (True, False):
        assert [gates.failed(error, f"e{number}") for number in range(100)] == [error.to_blame] * 100
    assert states(gates) == {}


OTHERS = [
    EnrichmentRejected("1234"),
    NotReady("not found", Lack.RECORD),
    RuntimeError("a bug of ours"),
    ProcessingError("any"),
]


@pytest.mark.parametrize("error", OTHERS)
def test_what_says_nothing_of_a_dependency_changes_nothing_and_is_the_events_own(
    gates: Gates, clock: Clock, error: Exception
) -> None:
    gates.login_refused(LOGIN_REFUSED, A_WHILE)
    gates.failed(SINK_REFUSED, "e1")
    begin_to_probe(gates, clock)
    before = gates.status()
    assert gates.failed(error, "e2")
    assert gates.status() == before


def test_an_event_that_was_turned_away_is_not_to_blame(gates: Gates) -> None:
    for _ in range(100):
        assert not gates.failed(GateClosed("sink: 403"), "e1")
    assert states(gates) == {}


def test_a_payload_that_the_sink_refuses_shows_that_it_works(gates: Gates, clock: Clock) -> None:
    gates.failed(SINK_REFUSED, "e1")
    begin_to_probe(gates, clock)
    assert gates.failed(DeliveryRejected("422"), "e2")
    assert states(gates) == {"sink": State.RAMPING}


def test_a_firewall_that_refuses_one_event_among_others_closes_nothing(gates: Gates) -> None:
    verdicts = []
    for number in range(200):
        gates.delivered()
        if number % 10 == 9:
            verdicts.append(gates.failed(SINK_REFUSED, "odd"))
    assert verdicts == [False] + [True] * 19
    assert states(gates) == {}


# --- probing with questions of our own ------------------------------------------------------------


@pytest.mark.parametrize("function", FUNCTIONS.values())
def test_the_dialer_is_probed_with_a_question_to_the_function_that_failed(
    gates: Gates, clock: Clock, function: str
) -> None:
    for _ in range(5):
        assert gates.to_probe() == []
        gates.unanswered(function, DIALER_DOWN, "V1")
    assert gates.to_probe() == [], "it waits"
    clock.now += 2
    assert gates.to_probe() == [function]
    assert [gates.room(kind) for kind in KINDS] == [0, 0], "no event is wanted for that"
    assert not any(gates.probing(kind) for kind in KINDS)
    gates.probed_in_vain(function, DIALER_DOWN)
    assert (gates.to_probe(), states(gates)) == ([], {"dialer": State.CLOSED})
    clock.now += 4
    gates.probed(gates.to_probe()[0])
    assert (gates.to_probe(), states(gates)) == ([], {"dialer": State.RAMPING})
    assert [gates.room(kind) for kind in KINDS] == [1, 1]


@pytest.mark.parametrize("function", FUNCTIONS.values())
def test_a_missing_permission_is_probed_with_a_question_to_that_function(
    gates: Gates, clock: Clock, function: str
) -> None:
    gates.unanswered(function, FunctionRefused("no"), "V1")
    assert gates.to_probe() == []
    clock.now += 2 * REFUSED_PROBE
    assert gates.to_probe() == [function]
    gates.probed_in_vain(function, FunctionRefused("no"))
    assert (gates.to_probe(), states(gates)) == ([], {function: State.CLOSED})
    clock.now += 2 * REFUSED_PROBE
    gates.probed(gates.to_probe()[0])
    assert states(gates) == {function: State.RAMPING}


def test_no_permission_is_probed_while_the_dialer_is_in_trouble(gates: Gates, clock: Clock) -> None:
    call_fails(gates, FunctionRefused("no"))
    clock.now += 2 * REFUSED_PROBE
    gates.login_refused(LOGIN_REFUSED, A_WHILE)
    assert gates.to_probe() == []
    clock.now += 2 * REFUSED_PROBE
    assert gates.to_probe() == ["callid_info"]
    gates.probed_in_vain("callid_info", FunctionRefused("no"))
    assert states(gates) == {"dialer": State.RAMPING, "callid_info": State.CLOSED}, "the login is good"


@pytest.mark.parametrize("fault", [Fault.OUTAGE, Fault.UNREADABLE])
def test_an_outage_while_a_permission_is_probed_makes_it_wait(
    gates: Gates, clock: Clock, fault: Fault
) -> None:
    call_fails(gates, FunctionRefused("no"))
    clock.now += 2 * REFUSED_PROBE
    assert gates.to_probe() == ["callid_info"]
    gates.probed_in_vain("callid_info", EnrichmentUnavailable("what?", fault))
    assert (gates.to_probe(), states(gates)) == ([], {"callid_info": State.CLOSED})


def test_our_own_question_that_nobody_can_read_shows_no_dialer_that_works(gates: Gates, clock: Clock) -> None:
    gates.login_refused(LOGIN_REFUSED, A_WHILE)
    clock.now += 2 * REFUSED_PROBE
    gates.probed_in_vain(gates.to_probe()[0], EnrichmentUnavailable("what?", Fault.UNREADABLE))
    assert states(gates) == {"dialer": State.CLOSED}


def test_the_same_event_refused_again_after_our_own_question_was_answered_is_to_blame(
    gates: Gates, clock: Clock
) -> None:
    """One of the dialer's functions, or the web server before it, dislikes what this event asks for."""
    for error in (FunctionRefused("no"), EnrichmentUnavailable("answered 403", Fault.REFUSED)):
        assert not call_fails(gates, error, "odd")
        clock.now += 2 * REFUSED_PROBE
        gates.probed(gates.to_probe()[0])
        assert call_fails(gates, error, "odd")
        assert {*states(gates).values()} == {State.RAMPING}
        open_again(gates, clock)


# --- what an event has to pass --------------------------------------------------------------------


def test_an_event_is_told_of_every_closed_gate_in_its_way(gates: Gates) -> None:
    gates.login_refused(LOGIN_REFUSED, A_WHILE)
    gates.failed(SINK_REFUSED, "e1")
    agent_fails(gates, FunctionRefused("no permission"))
    with pytest.raises(GateClosed) as raised:
        gates.insist(AGENTS)
    assert str(raised.value) == (
        "dialer: Login incorrect; sink: answered 403; agent_campaigns: no permission"
    )
    with pytest.raises(GateClosed) as raised:
        gates.insist(CALLS)
    assert str(raised.value) == "dialer: Login incorrect; sink: answered 403"
    with pytest.raises(GateClosed, match=r"^sink: answered 403$"):
        gates.insist_on_sink()


def test_insisting_when_the_wait_is_over_begins_to_probe(gates: Gates, clock: Clock) -> None:
    gates.failed(SINK_REFUSED, "e1")
    clock.now += 2 * REFUSED_PROBE
    gates.insist(CALLS)
    assert states(gates) == {"sink": State.PROBING}


def test_while_the_dialer_is_probed_events_are_turned_away(gates: Gates, clock: Clock) -> None:
    gates.login_refused(LOGIN_REFUSED, A_WHILE)
    clock.now += 2 * REFUSED_PROBE
    with pytest.raises(GateClosed, match=r"^dialer: Login incorrect$"):
        gates.insist(CALLS)
    assert states(gates) == {"dialer": State.PROBING}


def test_a_sink_that_is_probed_wants_a_single_event_of_any_type_that_passes(
    gates: Gates, clock: Clock
) -> None:
    gates.failed(SINK_REFUSED, "e1")
    assert [gates.probing(kind) for kind in KINDS] == [False, False]
    clock.now += 2 * REFUSED_PROBE
    assert [gates.probing(kind) for kind in KINDS] == [True, True], "the question itself begins it"
    assert {gates.room(kind) for kind in KINDS} == {1}
    agent_fails(gates, FunctionRefused("no"))
    assert [gates.probing(kind) for kind in (CALLS, AGENTS)] == [True, False]


def test_the_next_change_is_that_of_the_gate_whose_wait_is_over_first(gates: Gates, clock: Clock) -> None:
    gates.login_refused(LOGIN_REFUSED, A_WHILE)
    gates.failed(DeliveryUnavailable("429", Fault.BUSY, timedelta(seconds=77)), "e1")
    assert gates.next_change_in() == 77
    clock.now += 100
    assert gates.next_change_in() == 0, "due, and not begun"
    gates.room(CALLS)
    assert gates.next_change_in() == pytest.approx(REFUSED_PROBE - 100, abs=0.2 * REFUSED_PROBE + 1)


# --- how many are in work -------------------------------------------------------------------------


def test_while_all_are_open_nothing_is_crowded(gates: Gates) -> None:
    for _ in range(3 * FULL):
        gates.begin(CALLS)
    assert gates.in_work == 3 * FULL
    assert not gates.crowded(CALLS)


def test_where_there_is_no_room_an_event_need_not_wait_but_is_turned_away(gates: Gates) -> None:
    gates.begin(CALLS)
    gates.login_refused(LOGIN_REFUSED, A_WHILE)
    assert not gates.crowded(CALLS)
    with pytest.raises(GateClosed):
        gates.insist(CALLS)


@pytest.mark.parametrize("busy", KINDS)
@pytest.mark.parametrize("name", ["dialer", "sink"])
def test_the_room_of_the_dialers_and_the_sinks_gate_is_for_all_events_together(
    gates: Gates, clock: Clock, busy: EventType, name: str
) -> None:
    gates.login_refused(LOGIN_REFUSED, A_WHILE) if name == "dialer" else gates.failed(SINK_REFUSED, "e1")
    begin_to_probe(gates, clock)
    gates.probed(FUNCTIONS[busy])
    assert [gates.crowded(kind) for kind in KINDS] == [False, False]
    gates.begin(busy)
    assert [gates.crowded(kind) for kind in KINDS] == [True, True]
    gates.delivered()
    assert [gates.crowded(kind) for kind in KINDS] == [True, True], "it ramps up from one"
    gates.end(busy)
    assert gates.in_work == 0
    assert [gates.crowded(kind) for kind in KINDS] == [False, False]
    gates.answered(FUNCTIONS[busy])
    gates.delivered()
    gates.begin(CALLS)
    assert not gates.crowded(AGENTS)
    gates.begin(AGENTS)
    assert [gates.crowded(kind) for kind in KINDS] == [True, True], "two of two"


def test_the_room_of_a_permissions_gate_is_for_the_events_that_need_it(gates: Gates, clock: Clock) -> None:
    agent_fails(gates, FunctionRefused("no"))
    begin_to_probe(gates, clock)
    gates.probed("agent_campaigns")
    for _ in range(FULL - 1):
        gates.begin(CALLS)
    assert not gates.crowded(AGENTS)
    gates.begin(AGENTS)
    assert gates.crowded(AGENTS)
    gates.end(AGENTS)
    gates.begin(CALLS)
    assert gates.crowded(AGENTS), "every place is taken"


# --- what is told ---------------------------------------------------------------------------------


def test_each_change_is_told_and_whoever_watches_is_woken_after_it(
    gates: Gates, clock: Clock, changes: list[GateStatus]
) -> None:
    seen: list[bool] = []
    gates.watch(lambda: seen.append(gates.all_open))
    gates.login_refused(LOGIN_REFUSED, A_WHILE)
    assert seen == [False]
    later: list[bool] = []
    gates.watch(lambda: later.append(gates.all_open))
    open_again(gates, clock)
    assert seen == [False], "only the latest is woken"
    assert later == [False, False, True]
    told = [(each.name, each.state) for each in changes]
    assert told == [("dialer", state) for state in (State.CLOSED, State.PROBING, State.RAMPING, State.OPEN)]
    assert gates.all_open


def test_it_is_all_open_only_when_the_last_gate_is(gates: Gates, clock: Clock) -> None:
    gates.login_refused(LOGIN_REFUSED, A_WHILE)
    agent_fails(gates, FunctionRefused("no"))
    begin_to_probe(gates, clock)
    gates.probed("callid_info")
    for _ in range(FULL):
        gates.answered("callid_info")
    assert states(gates) == {"agent_campaigns": State.PROBING}
    assert not gates.all_open
    assert (gates.room(CALLS), gates.room(AGENTS)) == (FULL, 0)
    open_again(gates, clock)
    assert gates.all_open


def test_the_seconds_since_a_gate_closed_are_told_by_its_name(gates: Gates, clock: Clock) -> None:
    gates.failed(SINK_REFUSED, "e1")
    clock.now += 12.5
    assert [gates.closed_seconds(name) for name in NAMES] == [0.0, 12.5, 0.0, 0.0]


# --- the slow start -------------------------------------------------------------------------------


def test_a_process_that_starts_slowly_gets_room_as_its_events_end(clock: Clock) -> None:
    gates = make(clock, slow_start=True)
    woken: list[bool] = []
    gates.watch(lambda: woken.append(gates.all_open))
    rooms = []
    while not gates.all_open:
        rooms.append(gates.room(CALLS))
        gates.begin(CALLS)
        gates.end(CALLS)
    assert rooms == [1, 2, 2, 4, 4, 4, 4]
    assert (gates.room(CALLS), gates.room(AGENTS), woken) == (8, 8, [True])


def test_the_start_is_crowded_by_one_event_of_either_type(clock: Clock) -> None:
    gates = make(clock, slow_start=True)
    gates.begin(AGENTS)
    assert gates.crowded(CALLS)
    gates.end(AGENTS)
    assert not gates.crowded(CALLS)


def test_the_start_ends_two_seconds_after_the_first_event_also_where_that_never_ends(clock: Clock) -> None:
    gates = make(clock, slow_start=True)
    clock.now += 100
    assert (gates.room(CALLS), gates.next_change_in()) == (1, None)
    gates.begin(CALLS)
    clock.now += 1.5
    assert (gates.crowded(CALLS), gates.next_change_in()) == (True, 0.5)
    clock.now += 0.5
    assert (gates.room(CALLS), gates.all_open, gates.next_change_in()) == (8, True, None)


def test_a_gate_that_closes_at_the_start_still_counts(clock: Clock) -> None:
    gates = make(clock, slow_start=True)
    gates.begin(CALLS)
    gates.login_refused(LOGIN_REFUSED, A_WHILE)
    assert gates.room(CALLS) == 0
    clock.now += 60
    assert (gates.room(CALLS), gates.all_open) == (0, False)
