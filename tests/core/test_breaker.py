"""The circuit breaker: when it opens and for how long, how it probes and recovers, and whom it blames."""

from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.clock import Clock
from worker.core.breakers import MOST_ALONE, MOST_REFUSED, BreakerStatus, CircuitBreaker
from worker.core.errors import FailureKind
from worker.core.transitions import TRANSITIONS, Capacity, Report, State, Wait

SECOND = timedelta(seconds=1)
PROBE_MAX = 30.0
REFUSED_PROBE = 300.0
FULL = 64
NOT_THE_EVENTS_OWN = [FailureKind.OUTAGE, FailureKind.REFUSED, FailureKind.BUSY]
DOWN = "the dialer can't be reached"


@pytest.fixture
def changes() -> list[BreakerStatus]:
    return []


@pytest.fixture
def breaker(clock: Clock, changes: list[BreakerStatus]) -> CircuitBreaker:
    return make(clock, on_change=changes.append)


def make(
    clock: Clock,
    *,
    full: int = FULL,
    probe_max: float = PROBE_MAX,
    jitter: Callable[[], float] = lambda: 0.5,
    own_question: bool = False,
    on_change: Callable[[BreakerStatus], None] = lambda _: None,
) -> CircuitBreaker:
    return CircuitBreaker(
        "dialer",
        full=full,
        probe_max=probe_max * SECOND,
        refused_probe=REFUSED_PROBE * SECOND,
        own_question=own_question,
        clock=clock,
        jitter=jitter,
        on_change=on_change,
    )


def state(breaker: CircuitBreaker) -> State:
    return breaker.status().state


def fail(breaker: CircuitBreaker, times: int = 1) -> list[bool]:
    """Report so many outages, and return which of them counted."""
    return [breaker.failed(FailureKind.OUTAGE, DOWN) for _ in range(times)]


def succeed(breaker: CircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        breaker.succeeded()


def wait_of(breaker: CircuitBreaker) -> float:
    """Return for how many seconds the breaker stays open."""
    left = breaker.status().next_probe_in
    assert left is not None
    return left.total_seconds()


def begin_to_probe(breaker: CircuitBreaker, clock: Clock) -> float:
    """Let the wait pass, to its last moment, and return how long it was."""
    seconds = wait_of(breaker)
    until = breaker.next_change()
    assert until is not None
    clock.now = until - 0.001
    assert breaker.capacity() == 0
    clock.now = until
    assert breaker.capacity() == 1
    return round(seconds, 3)


def begin_to_recover(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 5)
    begin_to_probe(breaker, clock)
    breaker.succeeded()
    assert (state(breaker), breaker.capacity()) == (State.RECOVERING, 1)


# --- closed ---------------------------------------------------------------------------------------


def test_a_breaker_starts_closed_with_full_capacity(breaker: CircuitBreaker) -> None:
    assert breaker.capacity() == FULL
    assert breaker.status() == BreakerStatus("dialer", State.CLOSED, None, None, None)
    assert breaker.next_change() is None


def test_by_default_it_runs_on_the_worlds_clock_and_dice() -> None:
    breaker = CircuitBreaker("sink", full=2, probe_max=30 * SECOND, refused_probe=300 * SECOND)
    fail(breaker, 5)
    assert 0 < wait_of(breaker) <= 1.2


def test_five_outages_in_a_row_open_it(breaker: CircuitBreaker) -> None:
    fail(breaker, 4)
    assert (state(breaker), breaker.capacity()) == (State.CLOSED, FULL)
    fail(breaker)
    assert (state(breaker), breaker.capacity()) == (State.OPEN, 0)


def test_a_success_begins_the_row_anew(breaker: CircuitBreaker) -> None:
    fail(breaker, 4)
    breaker.succeeded()
    fail(breaker, 4)
    assert state(breaker) is State.CLOSED


def test_ten_outages_among_the_last_twenty_open_it(breaker: CircuitBreaker) -> None:
    for _ in range(9):
        fail(breaker)
        breaker.succeeded()
    assert state(breaker) is State.CLOSED
    fail(breaker)
    assert state(breaker) is State.OPEN


def test_an_outage_is_forgotten_after_twenty_outcomes(breaker: CircuitBreaker) -> None:
    fail(breaker)
    breaker.succeeded()
    for _ in range(9):
        succeed(breaker, 2)
        fail(breaker)
    assert state(breaker) is State.CLOSED, "the tenth of the last 29"
    succeed(breaker, 20)
    fail(breaker, 4)
    assert state(breaker) is State.CLOSED


def test_nine_of_twenty_for_ever_do_not_open_it(breaker: CircuitBreaker) -> None:
    for _ in range(1000):
        for _ in range(9):
            succeed(breaker)
            fail(breaker)
        succeed(breaker, 2)
    assert state(breaker) is State.CLOSED


@pytest.mark.parametrize("kind", [FailureKind.REFUSED, FailureKind.BUSY])
def test_a_refusal_or_a_request_to_come_back_later_opens_it_at_once(
    breaker: CircuitBreaker, kind: FailureKind
) -> None:
    succeed(breaker, 100)
    assert not breaker.failed(kind, "no")
    assert (state(breaker), breaker.capacity()) == (State.OPEN, 0)


# --- open, and for how long -----------------------------------------------------------------------


def test_the_waits_begin_with_a_second_and_double_up_to_the_longest(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    fail(breaker, 5)
    waits = []
    for _ in range(8):
        waits.append(begin_to_probe(breaker, clock))
        fail(breaker)
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]


@pytest.mark.parametrize(("dice", "waits"), [(0.0, [0.8, 1.6, 24, 24]), (1.0, [1.2, 2.4, 30, 30])])
def test_the_waits_vary_by_a_fifth_and_are_never_longer_than_the_longest(
    clock: Clock, dice: float, waits: list[float]
) -> None:
    breaker = make(clock, jitter=lambda: dice)
    fail(breaker, 5)
    seen = []
    for _ in range(12):
        seen.append(begin_to_probe(breaker, clock))
        fail(breaker)
    assert [*seen[:2], *seen[-2:]] == waits


def test_the_longest_wait_may_be_shorter_than_the_first(clock: Clock) -> None:
    breaker = make(clock, probe_max=0.5)
    fail(breaker, 5)
    for _ in range(3):
        assert begin_to_probe(breaker, clock) == 0.5
        fail(breaker)


@pytest.mark.parametrize(("dice", "seconds"), [(0.0, REFUSED_PROBE), (1.0, 1.2 * REFUSED_PROBE)])
def test_after_a_refusal_it_is_never_asked_too_soon(clock: Clock, dice: float, seconds: float) -> None:
    breaker = make(clock, jitter=lambda: dice)
    for _ in range(3):
        breaker.failed(FailureKind.REFUSED, "login incorrect")
        assert begin_to_probe(breaker, clock) == seconds


@pytest.mark.parametrize(
    ("asked", "seconds"), [(7.0, 7.0), (3600.0, 3600.0), (86400.0, 3600.0), (1.0, 1.0), (0.001, 1.0)]
)
def test_a_busy_dependency_is_left_alone_for_as_long_as_it_asked(
    breaker: CircuitBreaker, clock: Clock, asked: float, seconds: float
) -> None:
    for _ in range(3):
        breaker.failed(FailureKind.BUSY, "429", asked * SECOND)
        assert begin_to_probe(breaker, clock) == seconds


@pytest.mark.parametrize("asked", [None, 0 * SECOND])
def test_where_a_busy_one_did_not_say_how_long_the_waits_grow_until_it_takes_one(
    breaker: CircuitBreaker, clock: Clock, asked: timedelta | None
) -> None:
    waits = []
    for _ in range(7):
        breaker.failed(FailureKind.BUSY, "429", asked)
        waits.append(begin_to_probe(breaker, clock))
    assert waits == [1, 2, 4, 8, 16, 30, 30]
    breaker.succeeded()
    breaker.failed(FailureKind.BUSY, "429", asked)
    assert begin_to_probe(breaker, clock) == 1


def test_waits_that_were_asked_for_do_not_lengthen_those_after_an_outage(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    for kind in (FailureKind.BUSY, FailureKind.REFUSED) * 5:
        breaker.failed(kind, "no")
        begin_to_probe(breaker, clock)
    fail(breaker)
    assert begin_to_probe(breaker, clock) == 1


def test_what_was_in_work_when_it_opened_neither_closes_it_nor_opens_it_for_longer(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    fail(breaker, 5)
    until = breaker.next_change()
    clock.now += 0.5
    succeed(breaker, 100)
    assert fail(breaker, 100) == [False] * 100
    assert (state(breaker), breaker.capacity(), breaker.next_change()) == (State.OPEN, 0, until)
    breaker.failed(FailureKind.BUSY, "429")
    assert breaker.next_change() == until
    clock.now += 0.5
    assert breaker.capacity() == 1
    fail(breaker)
    assert wait_of(breaker) == 2


def test_a_late_refusal_makes_an_outage_a_refusal(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 5)
    clock.now += 0.5
    assert not breaker.failed(FailureKind.REFUSED, "login incorrect")
    assert wait_of(breaker) == 1.1 * REFUSED_PROBE
    assert breaker.status().reason == "login incorrect"
    clock.now += 100
    breaker.failed(FailureKind.REFUSED, "and again")
    assert wait_of(breaker) == 1.1 * REFUSED_PROBE - 100, "the first one counts"
    assert breaker.status().reason == "login incorrect"


def test_a_late_refusal_does_not_shorten_what_was_asked_for(breaker: CircuitBreaker) -> None:
    breaker.failed(FailureKind.BUSY, "503", 3600 * SECOND)
    breaker.failed(FailureKind.REFUSED, "403")
    assert wait_of(breaker) == 3600
    assert breaker.status().reason == "403"


@pytest.mark.parametrize("first", NOT_THE_EVENTS_OWN)
def test_a_late_request_for_a_longer_wait_is_kept_and_one_for_a_shorter_is_not(
    breaker: CircuitBreaker, first: FailureKind
) -> None:
    while state(breaker) is State.CLOSED:
        breaker.failed(first, "first")
    before = wait_of(breaker)
    breaker.failed(FailureKind.BUSY, "shorter", 0.5 * before * SECOND)
    assert (wait_of(breaker), breaker.status().reason) == (max(before, 1), "first")
    breaker.failed(FailureKind.BUSY, "longer", 1000 * SECOND)
    assert (wait_of(breaker), breaker.status().reason) == (1000, "longer")
    breaker.failed(FailureKind.BUSY, "far too long", 86400 * SECOND)
    assert wait_of(breaker) == 3600


# --- probing --------------------------------------------------------------------------------------


def test_when_the_wait_is_over_it_has_a_capacity_of_one(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 5)
    begin_to_probe(breaker, clock)
    assert state(breaker) is State.HALF_OPEN
    assert breaker.next_change() is None
    clock.now += 10_000
    assert breaker.capacity() == 1, "an event that did not need the dependency changes nothing"


@pytest.mark.parametrize("kind", NOT_THE_EVENTS_OWN)
def test_a_probe_that_fails_opens_it_again(breaker: CircuitBreaker, clock: Clock, kind: FailureKind) -> None:
    succeed(breaker, 3)
    fail(breaker, 5)
    begin_to_probe(breaker, clock)
    assert not breaker.failed(kind, "still down")
    assert (state(breaker), breaker.status().reason) == (State.OPEN, "still down")


def test_a_probe_that_succeeds_begins_the_recovery(breaker: CircuitBreaker, clock: Clock) -> None:
    begin_to_recover(breaker, clock)
    assert breaker.next_change() is None


# --- recovering -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("full", "capacities"),
    [
        (64, [1] * 1 + [2] * 2 + [4] * 4 + [8] * 8 + [16] * 16 + [32] * 32),
        (20, [1] * 1 + [2] * 2 + [4] * 4 + [8] * 8 + [16] * 16),
        (2, [1]),
        (1, [1]),
    ],
)
def test_the_capacity_doubles_after_as_many_successes_as_it_holds(
    clock: Clock, full: int, capacities: list[int]
) -> None:
    breaker = make(clock, full=full)
    begin_to_recover(breaker, clock)
    seen = []
    while state(breaker) is State.RECOVERING:
        seen.append(breaker.capacity())
        breaker.succeeded()
    assert seen == capacities
    assert (state(breaker), breaker.capacity()) == (State.CLOSED, full)


def test_a_single_failure_halves_the_capacity_and_the_successes_count_anew(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    begin_to_recover(breaker, clock)
    succeed(breaker, 1 + 2 + 4 + 7)
    assert breaker.capacity() == 8
    fail(breaker)
    assert (state(breaker), breaker.capacity()) == (State.RECOVERING, 4)
    succeed(breaker, 3)
    assert breaker.capacity() == 4
    breaker.succeeded()
    assert breaker.capacity() == 8


def fail_answered(breaker: CircuitBreaker, event: str | None) -> bool:
    return breaker.failed(FailureKind.OUTAGE, "answered 500", event=event, answered=event is not None)


def test_an_event_that_alone_is_answered_with_failures_uses_up_attempts_until_the_breaker_opens(
    breaker: CircuitBreaker,
) -> None:
    assert [fail_answered(breaker, "a") for _ in range(5)] == [False, True, True, True, False]
    assert state(breaker) is State.OPEN


def test_where_another_event_fails_too_it_is_an_outage(breaker: CircuitBreaker) -> None:
    assert [fail_answered(breaker, event) for event in ("a", "a", "b", "a")] == [False, True, False, False]


def test_where_nothing_answers_it_is_an_outage_also_for_one_event_alone(breaker: CircuitBreaker) -> None:
    assert [fail_answered(breaker, event) for event in (None, None, "a", "a")] == [False] * 4


def test_a_success_between_begins_anew(breaker: CircuitBreaker) -> None:
    fail_answered(breaker, "a")
    breaker.succeeded()
    assert [fail_answered(breaker, "a"), fail_answered(breaker, "a")] == [False, True]


def test_few_events_end_a_recovery_too_after_a_minute_without_a_failure(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    begin_to_recover(breaker, clock)
    clock.now += 59
    fail(breaker)
    clock.now += 59
    breaker.succeeded()
    assert state(breaker) is State.RECOVERING
    clock.now += 1
    breaker.succeeded()
    assert (state(breaker), breaker.capacity()) == (State.CLOSED, 64)


def test_the_capacity_of_a_recovery_is_at_least_one(breaker: CircuitBreaker, clock: Clock) -> None:
    begin_to_recover(breaker, clock)
    fail(breaker, 4)
    assert (state(breaker), breaker.capacity()) == (State.RECOVERING, 1)


def test_a_recovery_ends_for_the_same_reasons_for_which_the_breaker_opened(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    begin_to_recover(breaker, clock)
    fail(breaker, 5)
    assert (state(breaker), breaker.capacity()) == (State.OPEN, 0)
    begin_to_probe(breaker, clock)
    breaker.succeeded()
    for _ in range(9):
        fail(breaker)
        breaker.succeeded()
    assert state(breaker) is State.RECOVERING
    fail(breaker)
    assert state(breaker) is State.OPEN
    begin_to_probe(breaker, clock)
    breaker.succeeded()
    breaker.failed(FailureKind.REFUSED, "no")
    assert state(breaker) is State.OPEN


def test_what_failed_before_the_probe_does_not_count_while_recovering(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    for _ in range(9):
        fail(breaker)
        breaker.succeeded()
    fail(breaker)
    begin_to_probe(breaker, clock)
    breaker.succeeded()
    fail(breaker, 4)
    assert state(breaker) is State.RECOVERING


# --- a question of our own ------------------------------------------------------------------------


@pytest.fixture
def asked(clock: Clock, changes: list[BreakerStatus]) -> CircuitBreaker:
    """Return a breaker whose dependency can be asked a question of our own."""
    return make(clock, own_question=True, on_change=changes.append)


def begin_to_ask(breaker: CircuitBreaker, clock: Clock) -> float:
    """Let the wait pass, and return how long it was."""
    seconds = wait_of(breaker)
    clock.now += seconds
    assert (breaker.capacity(), state(breaker)) == (0, State.HALF_OPEN)
    return round(seconds, 3)


def test_while_our_own_question_is_asked_there_is_no_capacity_for_events(
    asked: CircuitBreaker, clock: Clock
) -> None:
    fail(asked, 5)
    begin_to_ask(asked, clock)
    asked.probed()
    assert (state(asked), asked.capacity()) == (State.RECOVERING, 1)


def test_our_own_question_is_asked_at_growing_intervals(asked: CircuitBreaker, clock: Clock) -> None:
    fail(asked, 5)
    waits = []
    for _ in range(7):
        waits.append(begin_to_ask(asked, clock))
        fail(asked)
    assert waits == [1, 2, 4, 8, 16, 30, 30]


def test_events_that_fail_late_do_not_answer_our_own_question(asked: CircuitBreaker, clock: Clock) -> None:
    fail(asked, 5)
    begin_to_ask(asked, clock)
    assert not asked.failed(FailureKind.OUTAGE, "sent before it opened", event="late")
    assert state(asked) is State.HALF_OPEN
    asked.probed()
    assert state(asked) is State.RECOVERING


@pytest.mark.parametrize("before", [0, 3])
def test_an_answer_to_our_own_question_changes_nothing_in_a_closed_breaker(
    asked: CircuitBreaker, before: int
) -> None:
    succeed(asked, before)
    status = asked.status()
    for _ in range(30):
        asked.probed()
    assert asked.status() == status
    fail(asked, 4)
    asked.probed()
    fail(asked)
    assert state(asked) is State.OPEN, "it is no success of an event"


def test_events_that_fail_though_our_own_question_is_answered_are_to_blame_and_open_nothing(
    asked: CircuitBreaker,
) -> None:
    for _ in range(12):
        assert all(asked.failed_alone(f"event {number}") for number in range(MOST_ALONE))
    assert (state(asked), asked.capacity()) == (State.CLOSED, FULL)


def test_it_is_in_doubt_when_an_outage_would_open_it(asked: CircuitBreaker, clock: Clock) -> None:
    seen = []
    for _ in range(5):
        seen.append(asked.in_doubt)
        fail(asked)
    assert (seen, state(asked), asked.in_doubt) == ([False] * 4 + [True], State.OPEN, False)
    begin_to_ask(asked, clock)
    assert not asked.in_doubt
    asked.probed()
    for _ in range(9):
        succeed(asked)
        fail(asked)
    succeed(asked)
    assert (state(asked), asked.in_doubt) == (State.RECOVERING, True), (
        "the tenth of twenty would open it, too"
    )


def test_one_that_failed_alone_ends_the_doubt(asked: CircuitBreaker) -> None:
    fail(asked, 4)
    assert asked.failed_alone("odd")
    fail(asked, 4)
    assert (state(asked), asked.in_doubt) == (State.CLOSED, True)


def test_if_too_many_different_events_fail_none_is_to_blame_until_one_succeeds(
    asked: CircuitBreaker, clock: Clock
) -> None:
    """Something is down that our question does not need."""
    verdicts = [asked.failed_alone(f"event {number}") for number in range(1000)]
    assert verdicts == [True] * MOST_ALONE + [False] * (1000 - MOST_ALONE)
    assert not asked.failed_alone("event 0"), "nor is one of those that were"
    asked.probed()
    assert not asked.failed_alone("event 0"), "our own question shows nothing new"
    fail(asked, 4)
    assert not asked.in_doubt, "it need not be asked"
    fail(asked)
    assert state(asked) is State.OPEN
    clock.now += 2
    asked.capacity()
    asked.probed()
    asked.succeeded()
    assert asked.failed_alone("event 0")


def test_a_wait_can_be_ended_and_lengthened(
    asked: CircuitBreaker, clock: Clock, changes: list[BreakerStatus]
) -> None:
    asked.probe_now()
    asked.postpone(SECOND)
    assert (state(asked), changes) == (State.CLOSED, [])
    asked.failed(FailureKind.REFUSED, "login incorrect", 3000 * SECOND)
    assert wait_of(asked) == 3000
    asked.postpone(SECOND)
    assert wait_of(asked) == 3000, "only a half-open breaker is opened again"
    asked.probe_now()
    assert (asked.capacity(), state(asked)) == (0, State.HALF_OPEN)
    asked.postpone(7 * SECOND)
    assert (state(asked), wait_of(asked), asked.status().reason) == (State.OPEN, 7, "login incorrect")
    assert asked.refused


def test_a_refusal_waits_at_least_as_long_as_ever(asked: CircuitBreaker) -> None:
    asked.failed(FailureKind.REFUSED, "login incorrect", SECOND)
    assert wait_of(asked) == 1.1 * REFUSED_PROBE


def test_it_is_refused_until_it_recovers(asked: CircuitBreaker, clock: Clock) -> None:
    seen = list[bool]()
    fail(asked, 5)
    seen.append(asked.refused)
    asked.failed(FailureKind.REFUSED, "late")
    seen.append(asked.refused)
    begin_to_ask(asked, clock)
    seen.append(asked.refused)
    asked.probed()
    seen.append(asked.refused)
    assert seen == [False, True, True, False]


# --- who is to blame for a refusal ----------------------------------------------------------------


def refuse(breaker: CircuitBreaker, event: str | None) -> bool:
    return breaker.failed(FailureKind.REFUSED, "answered 403", event=event)


def test_a_first_refusal_among_successes_is_only_noted_and_those_that_follow_are_the_events_own(
    breaker: CircuitBreaker,
) -> None:
    verdicts = []
    for _ in range(13):
        succeed(breaker, 3)
        verdicts.append(refuse(breaker, "odd"))
    assert verdicts == [False] + [True] * 12
    assert (state(breaker), breaker.capacity()) == (State.CLOSED, FULL)


@pytest.mark.parametrize("between", [1, 2])
def test_too_few_successes_between_two_refusals_of_an_event_decide_nothing(
    breaker: CircuitBreaker, between: int
) -> None:
    for _ in range(20):
        succeed(breaker, between)
        assert not refuse(breaker, "odd")
        assert state(breaker) is State.CLOSED


def test_several_events_that_are_refused_among_others_open_nothing(breaker: CircuitBreaker) -> None:
    for name in ("a", "b", "c"):
        succeed(breaker, 1)
        assert not refuse(breaker, name)
    succeed(breaker, 3)
    assert [refuse(breaker, name) for name in ("a", "b", "c")] == [True] * 3, (
        "each of them was refused before"
    )
    assert not refuse(breaker, "d"), "the refusals that are an event's own are nobody else's affair"
    assert state(breaker) is State.CLOSED


def test_a_first_refusal_opens_the_breaker_if_nothing_succeeded_before(breaker: CircuitBreaker) -> None:
    assert not refuse(breaker, "a")
    assert state(breaker) is State.OPEN


@pytest.mark.parametrize("again", ["a", "b", None])
def test_a_revoked_secret_opens_the_breaker_with_the_second_refusal_and_blames_nobody(
    breaker: CircuitBreaker, clock: Clock, again: str | None
) -> None:
    succeed(breaker, 200)
    assert [refuse(breaker, "a"), refuse(breaker, again)] == [False, False]
    assert state(breaker) is State.OPEN
    for number in range(100):
        clock.now += 1.2 * REFUSED_PROBE
        assert breaker.capacity() == 1
        assert not refuse(breaker, f"event {number % 7}")
        assert state(breaker) is State.OPEN


def test_a_known_odd_event_does_not_end_the_probing(breaker: CircuitBreaker, clock: Clock) -> None:
    succeed(breaker, 3)
    refuse(breaker, "odd")
    succeed(breaker, 3)
    fail(breaker, 5)
    begin_to_probe(breaker, clock)
    assert refuse(breaker, "odd")
    assert (state(breaker), breaker.capacity()) == (State.HALF_OPEN, 1)


def test_a_refusal_of_nobody_opens_the_breaker_whatever_came_before(breaker: CircuitBreaker) -> None:
    succeed(breaker, 200)
    assert not refuse(breaker, None)
    assert state(breaker) is State.OPEN


def test_with_our_own_question_the_first_refusal_opens_and_an_answer_to_it_shows_whose_it_is(
    asked: CircuitBreaker, clock: Clock
) -> None:
    succeed(asked, 200)
    assert not refuse(asked, "odd")
    begin_to_ask(asked, clock)
    asked.probed()
    assert refuse(asked, "odd")
    assert (state(asked), asked.capacity()) == (State.RECOVERING, 1)
    assert not refuse(asked, "odd"), "nothing was answered since"
    assert state(asked) is State.OPEN


def test_refused_events_are_remembered_up_to_a_number(breaker: CircuitBreaker) -> None:
    for number in range(2 * MOST_REFUSED):
        succeed(breaker)
        refuse(breaker, f"event {number}")
    succeed(breaker, 3)
    assert not refuse(breaker, "event 0"), "forgotten"
    assert refuse(breaker, f"event {MOST_REFUSED + 1}")


# --- how the waits are forgotten ------------------------------------------------------------------


def after_long_outage(breaker: CircuitBreaker, clock: Clock) -> None:
    """Let it be down until the next wait is the longest, and then begin to recover."""
    fail(breaker, 5)
    for _ in range(10):
        begin_to_probe(breaker, clock)
        fail(breaker)
    begin_to_probe(breaker, clock)
    breaker.succeeded()


@pytest.mark.parametrize(("successes", "wait"), [(0, 30), (1, 15), (2, 15), (3, 7.5), (7, 3.75), (62, 1)])
def test_each_doubling_of_the_capacity_takes_back_one_of_the_wait(
    breaker: CircuitBreaker, clock: Clock, successes: int, wait: float
) -> None:
    after_long_outage(breaker, clock)
    succeed(breaker, successes)
    fail(breaker, 5)
    assert begin_to_probe(breaker, clock) == wait


@pytest.mark.parametrize(("lasts", "wait"), [(14.9, 15.0), (15.0, 1.0)])
def test_the_rest_is_taken_back_when_it_has_stayed_closed_for_as_long(
    clock: Clock, lasts: float, wait: float
) -> None:
    breaker = make(clock, full=1)
    after_long_outage(breaker, clock)
    breaker.succeeded()
    assert state(breaker) is State.CLOSED
    clock.now += lasts
    fail(breaker, 5)
    assert begin_to_probe(breaker, clock) == wait


def test_signs_of_life_that_are_too_short_lengthen_the_waits(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 5)
    waits = []
    for _ in range(8):
        waits.append(begin_to_probe(breaker, clock))
        breaker.succeeded()
        fail(breaker, 5)
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]


# --- who is to blame ------------------------------------------------------------------------------


def test_where_nothing_ever_succeeded_nothing_counts(breaker: CircuitBreaker) -> None:
    assert fail(breaker, 20) == [False] * 20


@pytest.mark.parametrize(("before", "counted"), [(2, False), (3, True), (100, True)])
def test_at_the_onset_of_an_outage_at_most_one_failure_counts(
    breaker: CircuitBreaker, before: int, *, counted: bool
) -> None:
    succeed(breaker, before)
    assert fail(breaker, 50) == [counted] + [False] * 49


def test_one_that_fails_among_others_that_succeed_is_to_blame_each_time(breaker: CircuitBreaker) -> None:
    for _ in range(100):
        succeed(breaker, 3)
        assert fail(breaker) == [True]
    assert state(breaker) is State.CLOSED


def test_of_those_that_fail_one_counts_for_each_three_that_succeed(breaker: CircuitBreaker) -> None:
    verdicts = []
    for _ in range(4):
        succeed(breaker, 2)
        verdicts += fail(breaker)
    assert verdicts == [False, True, False, True], "failures that don't count take nothing away"


def test_the_failure_that_opens_it_does_not_count(breaker: CircuitBreaker) -> None:
    for _ in range(9):
        fail(breaker)
        succeed(breaker)
    succeed(breaker)
    fail(breaker)
    succeed(breaker, 2)
    assert state(breaker) is State.OPEN
    assert fail(breaker) == [False]


def test_a_recovery_shows_too_that_others_succeed(breaker: CircuitBreaker, clock: Clock) -> None:
    begin_to_recover(breaker, clock)
    succeed(breaker, 2)
    assert fail(breaker, 4) == [True, False, False, False]


@pytest.mark.parametrize("kind", [FailureKind.REFUSED, FailureKind.BUSY])
def test_a_refusal_and_a_request_to_come_back_later_are_nobodys_fault(
    breaker: CircuitBreaker, kind: FailureKind
) -> None:
    succeed(breaker, 100)
    assert not breaker.failed(kind, "no")


def test_an_answer_that_nobody_can_read_counts_always_and_changes_nothing(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    for _ in range(30):
        assert breaker.failed(FailureKind.UNREADABLE, "what?")
    assert state(breaker) is State.CLOSED
    fail(breaker, 4)
    breaker.failed(FailureKind.UNREADABLE, "what?")
    fail(breaker)
    assert state(breaker) is State.OPEN, "it did not break the row"
    assert breaker.failed(FailureKind.UNREADABLE, "what?")
    begin_to_probe(breaker, clock)
    assert breaker.failed(FailureKind.UNREADABLE, "what?")
    assert state(breaker) is State.HALF_OPEN
    breaker.succeeded()
    assert breaker.failed(FailureKind.UNREADABLE, "what?")
    assert (state(breaker), breaker.capacity()) == (State.RECOVERING, 1)


# --- the status -----------------------------------------------------------------------------------


def test_the_status_says_why_and_since_when_and_until_when(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 4)
    breaker.failed(FailureKind.OUTAGE, "HTTP 502")
    clock.now += 0.25
    quarter = timedelta(seconds=0.25)
    assert breaker.status() == BreakerStatus("dialer", State.OPEN, "HTTP 502", quarter, 3 * quarter)
    clock.now += 10
    assert breaker.status().next_probe_in == timedelta(0), "due, and not begun"
    breaker.capacity()
    breaker.failed(FailureKind.OUTAGE, "HTTP 504")
    clock.now += 1
    assert breaker.status() == BreakerStatus("dialer", State.OPEN, "HTTP 504", 11.25 * SECOND, SECOND)
    clock.now += 1
    breaker.capacity()
    assert breaker.status() == BreakerStatus("dialer", State.HALF_OPEN, "HTTP 504", 12.25 * SECOND, None)
    breaker.succeeded()
    assert breaker.status() == BreakerStatus("dialer", State.RECOVERING, "HTTP 504", 12.25 * SECOND, None)
    succeed(breaker, 63)
    assert breaker.status() == BreakerStatus("dialer", State.CLOSED, None, None, None)


def test_an_opening_after_a_sign_of_life_is_a_new_one(breaker: CircuitBreaker, clock: Clock) -> None:
    begin_to_recover(breaker, clock)
    clock.now += 100
    fail(breaker, 5)
    assert breaker.status().open_for == timedelta(0)


def test_each_change_of_state_is_reported_once_it_is_made(
    breaker: CircuitBreaker, clock: Clock, changes: list[BreakerStatus]
) -> None:
    fail(breaker, 10)
    begin_to_probe(breaker, clock)
    breaker.capacity()
    fail(breaker)
    breaker.failed(FailureKind.REFUSED, "403")
    begin_to_probe(breaker, clock)
    succeed(breaker, 64)
    assert [change.state for change in changes] == [
        State.OPEN,
        State.HALF_OPEN,
        State.OPEN,
        State.HALF_OPEN,
        State.RECOVERING,
        State.CLOSED,
    ]
    assert (changes[0].reason, changes[0].next_probe_in) == (DOWN, SECOND)
    assert (changes[-2].reason, changes[-1].reason) == ("403", None)


# --- the table of transitions ---------------------------------------------------------------------


def pass_time(breaker: CircuitBreaker, clock: Clock) -> None:
    clock.now += 1000
    breaker.capacity()


REPORTS: dict[Report, Callable[[CircuitBreaker, Clock], object]] = {
    Report.SUCCESS: lambda breaker, _: breaker.succeeded(),
    Report.RECOVERED: lambda breaker, _: succeed(breaker, FULL - 1),
    Report.ANSWER: lambda breaker, _: breaker.probed(),
    Report.OUTAGE: lambda breaker, _: fail(breaker),
    Report.DOWN: lambda breaker, _: fail(breaker, 5),
    Report.REFUSAL: lambda breaker, _: breaker.failed(FailureKind.REFUSED, "no"),
    Report.BUSY: lambda breaker, _: breaker.failed(FailureKind.BUSY, "429", 1000 * SECOND),
    Report.WAIT_OVER: pass_time,
    Report.LOCKED_OUT: lambda breaker, _: breaker.postpone(7 * SECOND),
}
SEVERAL = {(State.HALF_OPEN, Report.DOWN), (State.HALF_OPEN, Report.RECOVERED)}
"""What takes more than one report, of which the first changes the state."""
WAITS = {Wait.GROWING: 1, Wait.REFUSED: 1.1 * REFUSED_PROBE, Wait.ASKED: 1000, Wait.LOCKOUT: 7}


def in_state(state: State, clock: Clock) -> CircuitBreaker:
    breaker = make(clock)
    if state is not State.CLOSED:
        breaker.failed(FailureKind.BUSY, "429")
    if state in (State.HALF_OPEN, State.RECOVERING):
        clock.now += 1
        assert breaker.capacity() == 1
    if state is State.RECOVERING:
        breaker.succeeded()
    assert breaker.state is state
    return breaker


@pytest.mark.parametrize("report", Report)
@pytest.mark.parametrize("before", State)
def test_the_table_says_what_each_report_changes_in_each_state(
    before: State, report: Report, clock: Clock
) -> None:
    if (before, report) in SEVERAL:
        return
    breaker = in_state(before, clock)
    REPORTS[report](breaker, clock)
    row = next((row for row in TRANSITIONS if (row.state, row.report) == (before, report)), None)
    assert breaker.state is (before if row is None else row.then)
    if row is not None and row.wait is not None:
        assert wait_of(breaker) == WAITS[row.wait]
    elif before is State.OPEN and report is not Report.WAIT_OVER:
        assert wait_of(breaker) == 1
    if row is not None and row.capacity is Capacity.GROWS:
        assert breaker.capacity() == 2
    elif breaker.state is State.RECOVERING:
        assert breaker.capacity() == 1


def test_each_pair_of_a_state_and_a_report_stands_in_the_table_once() -> None:
    pairs = [(row.state, row.report) for row in TRANSITIONS]
    assert len(pairs) == len(set(pairs))


# --- whatever happens -----------------------------------------------------------------------------

OUTCOMES = [None, None, None, *FailureKind]
EVENTS = st.sampled_from([None, "a", "b", "c"])
ASKED = st.none() | st.timedeltas(timedelta(0), timedelta(days=2))


class WorkerAndBreaker(RuleBasedStateMachine):
    """An intake that fills the capacity there is; outcomes of any kind, in any order, at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.changes: list[BreakerStatus] = []
        self.breaker = make(self.clock)
        self.in_work = 0
        self.counted = self.successes = 0
        self.own = False

    @initialize(full=st.integers(1, 100), dice=st.floats(0, 1), own=st.booleans())
    def a_worker_starts(self, full: int, dice: float, *, own: bool) -> None:
        self.full, self.own = full, own
        self.breaker = make(
            self.clock,
            full=full,
            jitter=lambda: dice,
            own_question=own,
            on_change=self.changes.append,
        )

    @rule(seconds=st.floats(0, 40) | st.floats(0, 4000))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def the_breaker_may_probe_as_soon_as_it_says(self) -> None:
        self.clock.now = self.breaker.next_change() or self.clock.now

    @rule(how_many=st.integers(1, 100))
    def events_are_taken(self, how_many: int) -> None:
        self.in_work += max(0, min(how_many, self.breaker.capacity() - self.in_work))

    @precondition(lambda self: self.in_work)
    @rule(outcome=st.sampled_from(OUTCOMES), asked=ASKED, share=st.floats(0, 1), event=EVENTS)
    def some_end(
        self, outcome: FailureKind | None, asked: timedelta | None, share: float, event: str | None
    ) -> None:
        for _ in range(1 + int(share * (self.in_work - 1))):
            self.ends(outcome, asked, event)

    @precondition(lambda self: self.own and state(self.breaker) is State.HALF_OPEN)
    @rule(outcome=st.sampled_from([None, FailureKind.OUTAGE, FailureKind.REFUSED]))
    def our_own_question_is_asked(self, outcome: FailureKind | None) -> None:
        if outcome is None:
            self.breaker.probed()
            assert state(self.breaker) is State.RECOVERING
        else:
            assert not self.breaker.failed(outcome, "down")
            assert state(self.breaker) is State.OPEN

    @precondition(lambda self: self.in_work and self.own)
    @rule(event=st.integers(0, 40))
    def one_fails_though_our_own_question_is_answered(self, event: int) -> None:
        before = self.breaker.status()
        self.in_work -= 1
        self.breaker.failed_alone(f"event {event}")
        assert self.breaker.status() == before

    @precondition(lambda self: self.in_work)
    @rule()
    def an_event_needed_nothing_of_it(self) -> None:
        before = self.breaker.status()
        self.in_work -= 1
        assert self.breaker.status() == before

    def ends(self, outcome: FailureKind | None, asked: timedelta | None, event: str | None) -> None:
        self.in_work -= 1
        before, until = state(self.breaker), self.breaker.next_change()
        if outcome is None:
            self.breaker.succeeded()
            self.successes += before is not State.OPEN
            assert state(self.breaker) is not State.OPEN or before is State.OPEN
            return
        counts = self.breaker.failed(outcome, "down", asked, event=event)
        after = state(self.breaker)
        assert after is before or after is State.OPEN, "failures alone open nothing"
        if outcome is FailureKind.UNREADABLE:
            assert counts
            assert after is before
            return
        if before is State.OPEN:
            assert (self.breaker.next_change() or 0) >= (until or 0)
        if counts:
            assert outcome in {FailureKind.OUTAGE, FailureKind.REFUSED}
            assert after is before
            self.counted += outcome is FailureKind.OUTAGE
            assert after in {State.CLOSED, State.RECOVERING} or outcome is FailureKind.REFUSED
        if outcome is FailureKind.REFUSED and before is not State.OPEN and after is State.OPEN:
            assert wait_of(self.breaker) >= REFUSED_PROBE
        assert event is not None or outcome is not FailureKind.REFUSED or after is State.OPEN

    @invariant()
    def the_capacity_fits_the_state(self) -> None:
        capacity, now = self.breaker.capacity(), state(self.breaker)
        probe = {0} if self.own else {1}
        expected = {State.CLOSED: {self.full}, State.OPEN: {0}, State.HALF_OPEN: probe}
        assert capacity in expected.get(now, range(1, self.full + 1))
        assert (self.breaker.next_change() is not None) == (now is State.OPEN)

    @invariant()
    def it_is_never_open_for_longer_than_anybody_may_ask_for(self) -> None:
        left = self.breaker.status().next_probe_in
        assert left is None or timedelta(0) <= left <= 3600 * SECOND

    @invariant()
    def at_most_one_failure_counts_for_each_three_successes(self) -> None:
        assert 3 * self.counted <= self.successes

    @invariant()
    def it_goes_only_where_it_may(self) -> None:
        ways = {
            State.CLOSED: {State.OPEN},
            State.OPEN: {State.HALF_OPEN},
            State.HALF_OPEN: {State.OPEN, State.RECOVERING},
            State.RECOVERING: {State.OPEN, State.CLOSED},
        }
        states = [State.CLOSED, *(change.state for change in self.changes)]
        assert all(after in ways[before] for before, after in pairwise(states))
        assert states[-1] is state(self.breaker)

    def teardown(self) -> None:
        """Let the dependency be well again: one wait and a bounded number of successes close the breaker."""
        begin = self.clock.now
        self.clock.now = self.breaker.next_change() or self.clock.now
        assert self.clock.now - begin <= 3600
        for _ in range(2 * self.full + 1):
            if self.breaker.capacity() == 0:
                self.breaker.probed()
            assert self.breaker.capacity() >= 1
            self.breaker.succeeded()
        assert (state(self.breaker), self.breaker.capacity()) == (State.CLOSED, self.full)


WorkerAndBreaker.TestCase.settings = settings(max_examples=200, stateful_step_count=60)
TestWorkerAndBreaker = WorkerAndBreaker.TestCase
