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


LOGIN_REFUSED = EnrichmentUnavailable("Login incorrect", Fault.REFUSED)
SINK_REFUSED = DeliveryUnavailable("answered 403", Fault.REFUSED)
DIALER_DOWN = EnrichmentUnavailable("the dialer can't be reached")
SINK_DOWN = DeliveryUnavailable("answered 500")


def states(gates: Gates) -> dict[str, State]:
    """Give the gates that are not open, with their states."""
    return {each.name: each.state for each in gates.status() if each.state is not State.OPEN}


def begin_to_probe(gates: Gates, clock: Clock) -> None:
    """Let the longest wait pass."""
    clock.now += 2 * REFUSED_PROBE
    for kind in KINDS:
        gates.room(kind)


def open_again(gates: Gates, clock: Clock) -> None:
    begin_to_probe(gates, clock)
    for _ in range(FULL):
        for kind in KINDS:
            gates.looked_up(kind)
            gates.delivered()
    assert states(gates) == {}


# --- all open -------------------------------------------------------------------------------------


def test_they_begin_open_with_full_room_for_each_type_of_event(gates: Gates) -> None:
    assert [each.name for each in gates.status()] == NAMES
    assert gates.all_open
    assert states(gates) == {}
    assert gates.next_change_in() is None
    assert not gates.dialer_closed()
    for kind in KINDS:
        assert gates.room(kind) == FULL
        assert not gates.probing(kind)
        gates.insist(kind)
    assert {gates.closed_seconds(name) for name in NAMES} == {0.0}


def test_each_type_of_event_has_a_gate_for_the_function_that_it_needs() -> None:
    assert FUNCTIONS.keys() == set(EventType)
    assert {*FUNCTIONS.values()} < {*NAMES}


def test_by_default_they_run_on_the_worlds_clock_and_tell_nobody() -> None:
    gates = Gates(full=1, probe_max=timedelta(seconds=30), refused_probe=timedelta(minutes=5))
    gates.failed(CALLS, LOGIN_REFUSED)
    wait = gates.next_change_in()
    assert wait is not None
    assert 290 < wait <= 360


# --- which gate an outcome concerns ---------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_refused_login_closes_the_dialers_gate_for_all(gates: Gates, kind: EventType) -> None:
    assert not gates.failed(kind, LOGIN_REFUSED)
    assert states(gates) == {"dialer": State.CLOSED}
    assert gates.dialer_closed()
    for each in KINDS:
        assert gates.room(each) == 0


@pytest.mark.parametrize(("kind", "other"), [(CALLS, AGENTS), (AGENTS, CALLS)])
def test_a_missing_permission_holds_up_only_the_events_that_need_it(
    gates: Gates, kind: EventType, other: EventType
) -> None:
    assert not gates.failed(kind, FunctionRefused("no permission"))
    assert states(gates) == {FUNCTIONS[kind]: State.CLOSED}
    assert not gates.dialer_closed()
    assert (gates.room(kind), gates.room(other)) == (0, FULL)
    gates.insist(other)
    with pytest.raises(GateClosed, match=rf"^{FUNCTIONS[kind]}: no permission$"):
        gates.insist(kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [SINK_REFUSED, DeliveryUnavailable("429", Fault.BUSY)])
def test_a_sink_that_refuses_us_or_is_busy_holds_up_all(
    gates: Gates, kind: EventType, error: DeliveryUnavailable
) -> None:
    assert not gates.failed(kind, error)
    assert states(gates) == {"sink": State.CLOSED}
    assert not gates.dialer_closed()
    for each in KINDS:
        with pytest.raises(GateClosed, match=f"^sink: {error}$"):
            gates.insist(each)


def test_the_sinks_own_wait_is_honoured(gates: Gates) -> None:
    gates.failed(CALLS, DeliveryUnavailable("429", Fault.BUSY, timedelta(seconds=77)))
    assert gates.next_change_in() == 77


@pytest.mark.parametrize(("error", "name"), [(DIALER_DOWN, "dialer"), (SINK_DOWN, "sink")])
def test_outages_of_both_types_of_events_count_together(gates: Gates, error: Exception, name: str) -> None:
    for kind in (CALLS, AGENTS, CALLS, AGENTS):
        gates.failed(kind, error)
    assert states(gates) == {}
    gates.failed(CALLS, error)
    assert states(gates) == {name: State.CLOSED}


def test_an_outage_among_successes_is_held_against_the_event(gates: Gates) -> None:
    for _ in range(3):
        gates.looked_up(CALLS)
        gates.delivered()
    assert [gates.failed(CALLS, error) for error in (DIALER_DOWN, SINK_DOWN)] == [True, True]
    assert [gates.failed(CALLS, error) for error in (DIALER_DOWN, SINK_DOWN)] == [False, False]


OTHERS = [EnrichmentRejected("1234"), RuntimeError("a bug of ours"), ProcessingError("any")]


@pytest.mark.parametrize("error", OTHERS)
def test_what_says_nothing_of_a_dependency_changes_nothing_and_is_the_events_own(
    gates: Gates, clock: Clock, error: Exception
) -> None:
    gates.failed(CALLS, LOGIN_REFUSED)
    gates.failed(CALLS, SINK_REFUSED)
    begin_to_probe(gates, clock)
    before = gates.status()
    assert gates.failed(CALLS, error)
    assert gates.status() == before


def test_an_event_that_was_turned_away_is_not_to_blame(gates: Gates) -> None:
    for _ in range(100):
        assert not gates.failed(CALLS, GateClosed("sink: 403"))
    assert states(gates) == {}


@pytest.mark.parametrize(
    ("error", "works", "to_blame"),
    [
        (NotReady("not found", Lack.RECORD), {"dialer", "callid_info"}, True),
        (DeliveryRejected("422"), {"sink"}, True),
        (FunctionRefused("no"), {"dialer"}, False),
    ],
)
def test_an_answer_that_is_not_the_wanted_one_shows_too_that_a_dependency_works(
    gates: Gates, clock: Clock, error: Exception, works: set[str], *, to_blame: bool
) -> None:
    for kind in KINDS:
        gates.failed(kind, FunctionRefused("no"))
    gates.failed(CALLS, LOGIN_REFUSED)
    gates.failed(CALLS, SINK_REFUSED)
    begin_to_probe(gates, clock)
    assert {*states(gates).values()} == {State.PROBING}
    assert gates.failed(CALLS, error) is to_blame
    assert {name for name, state in states(gates).items() if state is State.RAMPING} == works


def test_a_look_up_shows_that_the_login_and_the_permission_are_good(gates: Gates, clock: Clock) -> None:
    for kind in KINDS:
        gates.failed(kind, FunctionRefused("no"))
    gates.failed(CALLS, LOGIN_REFUSED)
    begin_to_probe(gates, clock)
    gates.looked_up(AGENTS)
    assert states(gates) == {
        "dialer": State.RAMPING,
        "agent_campaigns": State.RAMPING,
        "callid_info": State.PROBING,
    }


# --- what an event has to pass --------------------------------------------------------------------


def test_an_event_is_told_of_every_closed_gate_in_its_way(gates: Gates) -> None:
    for error in (LOGIN_REFUSED, SINK_REFUSED, FunctionRefused("no permission")):
        gates.failed(AGENTS, error)
    with pytest.raises(GateClosed) as raised:
        gates.insist(AGENTS)
    assert str(raised.value) == (
        "dialer: Login incorrect; sink: answered 403; agent_campaigns: no permission"
    )
    with pytest.raises(GateClosed) as raised:
        gates.insist(CALLS)
    assert str(raised.value) == "dialer: Login incorrect; sink: answered 403"


def test_insisting_when_the_wait_is_over_begins_to_probe(gates: Gates, clock: Clock) -> None:
    gates.failed(CALLS, LOGIN_REFUSED)
    clock.now += 2 * REFUSED_PROBE
    gates.insist(CALLS)
    assert states(gates) == {"dialer": State.PROBING}
    assert not gates.dialer_closed()


def test_a_gate_that_probes_wants_a_single_event_of_any_type_that_passes_it(
    gates: Gates, clock: Clock
) -> None:
    gates.failed(AGENTS, FunctionRefused("no"))
    begin_to_probe(gates, clock)
    assert [gates.probing(kind) for kind in (CALLS, AGENTS)] == [False, True]
    gates.failed(CALLS, SINK_REFUSED)
    assert [gates.probing(kind) for kind in KINDS] == [False, False], "the sink's gate is closed"
    begin_to_probe(gates, clock)
    assert [gates.probing(kind) for kind in KINDS] == [True, True]
    assert {gates.room(kind) for kind in KINDS} == {1}


def test_the_next_change_is_that_of_the_gate_whose_wait_is_over_first(gates: Gates, clock: Clock) -> None:
    gates.failed(CALLS, LOGIN_REFUSED)
    gates.failed(CALLS, DeliveryUnavailable("429", Fault.BUSY, timedelta(seconds=77)))
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
    gates.failed(CALLS, LOGIN_REFUSED)
    assert not gates.crowded(CALLS)
    with pytest.raises(GateClosed):
        gates.insist(CALLS)


@pytest.mark.parametrize("busy", KINDS)
@pytest.mark.parametrize("error", [LOGIN_REFUSED, SINK_REFUSED])
def test_the_room_of_the_dialers_and_the_sinks_gate_is_for_all_events_together(
    gates: Gates, clock: Clock, busy: EventType, error: Exception
) -> None:
    gates.failed(CALLS, error)
    begin_to_probe(gates, clock)
    assert [gates.crowded(kind) for kind in KINDS] == [False, False]
    gates.begin(busy)
    assert [gates.crowded(kind) for kind in KINDS] == [True, True]
    gates.looked_up(busy)
    gates.delivered()
    assert [gates.crowded(kind) for kind in KINDS] == [True, True], "it ramps up from one"
    gates.end(busy)
    assert gates.in_work == 0
    assert [gates.crowded(kind) for kind in KINDS] == [False, False]
    gates.looked_up(busy)
    gates.delivered()
    gates.begin(CALLS)
    assert not gates.crowded(AGENTS)
    gates.begin(AGENTS)
    assert [gates.crowded(kind) for kind in KINDS] == [True, True], "two of two"


def test_the_room_of_a_permissions_gate_is_for_the_events_that_need_it(gates: Gates, clock: Clock) -> None:
    gates.failed(AGENTS, FunctionRefused("no"))
    begin_to_probe(gates, clock)
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
    gates.failed(CALLS, LOGIN_REFUSED)
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
    gates.failed(CALLS, LOGIN_REFUSED)
    gates.failed(AGENTS, FunctionRefused("no"))
    begin_to_probe(gates, clock)
    for _ in range(FULL):
        gates.looked_up(CALLS)
    assert states(gates) == {"agent_campaigns": State.PROBING}
    assert not gates.all_open
    assert (gates.room(CALLS), gates.room(AGENTS)) == (FULL, 1)
    open_again(gates, clock)
    assert gates.all_open


def test_the_seconds_since_a_gate_closed_are_told_by_its_name(gates: Gates, clock: Clock) -> None:
    gates.failed(CALLS, SINK_REFUSED)
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
    gates.failed(CALLS, LOGIN_REFUSED)
    assert gates.room(CALLS) == 0
    clock.now += 60
    assert (gates.room(CALLS), gates.all_open) == (0, False)
