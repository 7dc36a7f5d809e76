"""The fuse, against the dialer's own rule of locking a user."""

from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.clock import Clock
from worker.core.errors import EnrichmentUnavailable, Fault
from worker.demo.dialer_data import ApiUser
from worker.demo.dialer_logins import LOCK_AFTER, check_login
from worker.vicidial.fuse import Fuse, Refusal, Ticket

PROBE = 300.0
SPAN = 3 * PROBE
MARGIN = 0.02 * SPAN
MOST_AT_ONCE = 8
PASSWORDS = ("first", "second")
THROUGH_WITHIN = 16 * 60.0
"""How long after the password is right again everything goes through, at the default `refused_probe`."""


@pytest.fixture
def fuse(clock: Clock) -> Fuse:
    return Fuse(PROBE, clock)


def told(fuse: Fuse) -> str:
    """Insist that nothing may be sent, and give what is said about it."""
    with pytest.raises(EnrichmentUnavailable) as caught:
        fuse.admit()
    assert caught.value.fault is Fault.REFUSED
    return str(caught.value)


def standing(fuse: Fuse) -> Refusal | None:
    return fuse.refusal


def refuse_one(fuse: Fuse) -> None:
    fuse.refused(fuse.admit(), "no")


# --- the first refusal


def test_as_long_as_nothing_is_refused_everything_goes(fuse: Fuse, clock: Clock) -> None:
    tickets = [fuse.admit() for _ in range(100)]
    for ticket, report in zip(tickets, [fuse.accepted, fuse.unanswered] * 50, strict=True):
        clock.now += 1
        report(ticket)
    assert standing(fuse) is None
    assert not fuse.admit().probe


def test_the_first_refusal_stops_all_that_is_not_sent_yet(fuse: Fuse) -> None:
    first, second = fuse.admit(), fuse.admit()
    fuse.refused(first, "Login incorrect")
    assert told(fuse) == "Login incorrect; next try in 5m"
    fuse.accepted(second)
    assert told(fuse) == "Login incorrect; next try in 5m", "it was sent before the refusal"
    assert standing(fuse) == Refusal("Login incorrect", 300)


@pytest.mark.parametrize(
    ("passed", "words"),
    [
        (0.0, "5m"),
        (0.1, "5m"),
        (9.5, "4m 51s"),
        (10.0, "4m 50s"),
        (240.0, "1m"),
        (299.9, "1s"),
        (-3300.0, "1h"),
        (-3430.0, "1h 2m"),
    ],
)
def test_the_wait_is_told_in_words(passed: float, words: str, fuse: Fuse, clock: Clock) -> None:
    refuse_one(fuse)
    clock.now += passed
    assert told(fuse) == f"no; next try in {words}"


# --- the next try


def test_the_next_try_goes_alone_and_its_success_lets_everything_through(fuse: Fuse, clock: Clock) -> None:
    refuse_one(fuse)
    clock.now += PROBE
    assert standing(fuse) == Refusal("no", 0)
    ticket = fuse.admit()
    assert ticket.probe
    assert told(fuse) == "no; the next try is under way"
    clock.now += 5
    fuse.accepted(ticket)
    assert standing(fuse) is None
    assert not any(fuse.admit().probe for _ in range(MOST_AT_ONCE))


def test_a_refused_try_stands_for_as_long_again_with_its_own_message(fuse: Fuse, clock: Clock) -> None:
    refuse_one(fuse)
    clock.now += PROBE
    ticket = fuse.admit()
    clock.now += 7
    fuse.refused(ticket, "Too many login attempts")
    assert standing(fuse) == Refusal("Too many login attempts", PROBE)
    clock.now += PROBE - 0.5
    assert told(fuse) == "Too many login attempts; next try in 1s"
    clock.now += 0.5
    assert fuse.admit().probe


def test_a_try_without_an_answer_lifts_nothing_and_the_next_goes_as_long_after_it(
    fuse: Fuse, clock: Clock
) -> None:
    refuse_one(fuse)
    clock.now += PROBE
    ticket = fuse.admit()
    clock.now += 10
    fuse.unanswered(ticket)
    assert told(fuse) == "no; next try in 5m"
    clock.now += PROBE
    fuse.accepted(fuse.admit())
    assert standing(fuse) is None


def test_a_try_that_was_not_sent_leaves_its_turn_to_the_next(fuse: Fuse, clock: Clock) -> None:
    refuse_one(fuse)
    clock.now += PROBE
    fuse.unsent(fuse.admit())
    assert fuse.admit().probe


def test_the_next_try_waits_for_all_that_was_sent_before(fuse: Fuse, clock: Clock) -> None:
    slow = fuse.admit()
    refuse_one(fuse)
    clock.now += PROBE
    assert told(fuse) == "no; next try when the requests under way have ended"
    fuse.accepted(slow)
    assert fuse.admit().probe


def test_a_later_refusal_of_the_same_burst_does_not_push_the_next_try(fuse: Fuse, clock: Clock) -> None:
    burst = [fuse.admit() for _ in range(MOST_AT_ONCE)]
    for ticket in burst:
        fuse.refused(ticket, "no")
        clock.now += 1
    assert standing(fuse) == Refusal("no", PROBE - MOST_AT_ONCE)


def test_only_the_first_report_of_a_ticket_counts(fuse: Fuse, clock: Clock) -> None:
    refuse_one(fuse)
    clock.now += PROBE
    ticket = fuse.admit()
    fuse.accepted(ticket)
    for _ in range(20):
        fuse.unanswered(ticket)
        fuse.refused(ticket, "again")
        fuse.unsent(ticket)
    assert standing(fuse) is None
    refuse_one(fuse)
    assert standing(fuse) == Refusal("no", PROBE)
    fuse.accepted(ticket)
    assert standing(fuse) == Refusal("no", PROBE)


# --- how many in a span


def tries_of(fuse: Fuse, clock: Clock, how_many: int, lasts: float) -> list[float]:
    """Ask at every second for as long as it takes; each try is refused `lasts` seconds after it went."""
    at: list[float] = []
    while len(at) < how_many:
        try:
            ticket = fuse.admit()
        except EnrichmentUnavailable:
            clock.now += 1
            continue
        at.append(clock.now)
        clock.now += lasts
        fuse.refused(ticket, "no")
    return at


def test_after_eight_at_once_the_tries_are_spaced_so_that_no_span_holds_ten(fuse: Fuse, clock: Clock) -> None:
    begin = clock.now
    burst = [fuse.admit() for _ in range(8)]
    for ticket in burst:
        fuse.refused(ticket, "no")
    tries = tries_of(fuse, clock, 6, lasts=0)
    # 0:00      the burst, 8 refused
    # 5:00      the 9th
    # 15:18     the burst is out of the span, with the margin; 5:00 to 15:18 is more than two tries apart
    # 20:18 …   one every 5 minutes: a span of 15 minutes holds at most 4
    assert [at - begin for at in tries] == [300, 918, 1218, 1518, 1818, 2118]


def test_the_time_that_the_requests_take_is_reckoned_with(fuse: Fuse, clock: Clock) -> None:
    begin = clock.now
    burst = [fuse.admit() for _ in range(8)]
    clock.now += 9
    for ticket in burst:
        fuse.refused(ticket, "no")
    tries = tries_of(fuse, clock, 4, lasts=9)
    # Each may have counted as late as when its answer came: the span begins there.
    assert [at - begin for at in tries] == [309, 927, 1236, 1545]


def test_requests_of_the_burst_without_an_answer_count_as_refused(fuse: Fuse, clock: Clock) -> None:
    begin = clock.now
    burst = [fuse.admit() for _ in range(8)]
    fuse.refused(burst[0], "no")
    clock.now += 10
    for ticket in burst[1:]:
        fuse.unanswered(ticket)
    assert [at - begin for at in tries_of(fuse, clock, 2, lasts=0)] == [300, 918]


def test_a_success_between_two_bursts_begins_the_count_anew(fuse: Fuse, clock: Clock) -> None:
    for _ in range(3):
        burst = [fuse.admit() for _ in range(8)]
        for ticket in burst:
            fuse.refused(ticket, "no")
        assert standing(fuse) == Refusal("no", PROBE), "as the dialer's own count does"
        clock.now += PROBE
        fuse.accepted(fuse.admit())


def test_a_success_takes_out_only_what_had_ended_before_it_was_sent(fuse: Fuse, clock: Clock) -> None:
    burst = [fuse.admit() for _ in range(4)]
    for ticket in burst:
        fuse.unanswered(ticket)
    clock.now += 1
    late, good, bad = fuse.admit(), fuse.admit(), [fuse.admit() for _ in range(8)]
    clock.now += 1
    fuse.unanswered(late)
    fuse.accepted(good)
    for ticket in bad:
        fuse.refused(ticket, "no")
    assert standing(fuse) == Refusal("no", SPAN + MARGIN), "nine: the late one may have been counted last"


def test_with_a_large_burst_only_the_last_nine_are_kept(fuse: Fuse, clock: Clock) -> None:
    burst = [fuse.admit() for _ in range(1000)]
    for ticket in burst:
        fuse.refused(ticket, "no")
    assert standing(fuse) == Refusal("no", SPAN + MARGIN)
    assert [at - clock.now for at in tries_of(Fuse(PROBE, clock), clock, 1, lasts=0)] == [0]


# --- against the dialer's own rule


@dataclass(slots=True, eq=False)
class Request:
    """One request under way: what it was sent with, and what the dialer made of it, once it did."""

    ticket: Ticket
    password: str
    verdict: str | None = None


class DialerAndFuse(RuleBasedStateMachine):
    """At most eight under way at one time, ended in any order; passwords change on either side at any time.

    Logins whose answers are all lost can't be told from an outage: so one that is refused gets lost on its
    way back only where a refusal stands.
    """

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.fuse = Fuse(PROBE, self.clock)
        self.under_way: list[Request] = []
        self.late: list[tuple[float, str]] = []
        self.failures: list[float] = []
        self.ours = self.file = "first"
        self.user = ApiUser("first")

    @initialize(ago=st.sampled_from([None, 0.0, 450.0, 900.0]))
    def the_user_has_logged_in_or_never(self, ago: float | None) -> None:
        self.user.last_login = None if ago is None else self.clock.now - ago

    @rule(password=st.sampled_from(PASSWORDS))
    def the_dialer_changes(self, password: str) -> None:
        self.user.password = password

    @rule(password=st.sampled_from(PASSWORDS))
    def the_file_changes(self, password: str) -> None:
        self.file = password

    @rule(
        seconds=st.one_of(
            st.sampled_from([0.001, 1.0, 10.0, PROBE / 2, PROBE, PROBE + 1, 2 * PROBE, SPAN, SPAN + MARGIN]),
            st.floats(0.0, 400.0),
        )
    )
    def time_passes(self, seconds: float) -> None:
        until = self.clock.now + seconds
        for at, password in sorted(self.late):
            if at <= until:
                self.clock.now = max(self.clock.now, at)
                self.late.remove((at, password))
                self.log_in(password)
        self.clock.now = until

    @precondition(lambda self: len(self.under_way) < MOST_AT_ONCE)
    @rule(how_many=st.integers(1, MOST_AT_ONCE))
    def ask(self, how_many: int) -> None:
        for _ in range(min(how_many, MOST_AT_ONCE - len(self.under_way))):
            try:
                ticket = self.fuse.admit()
            except EnrichmentUnavailable:
                return
            if ticket.probe:
                assert self.under_way == [], "a try goes alone"
                self.ours = self.file
            self.under_way.append(Request(ticket, self.ours))

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), all_of_them=st.booleans())
    def the_dialer_works(self, data: st.DataObject, all_of_them: bool) -> None:  # noqa: FBT001 - drawn
        for request in self.under_way if all_of_them else [self.pick(data)]:
            if request.verdict is None:
                request.verdict = self.log_in(request.password)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def an_answer_comes(self, data: st.DataObject) -> None:
        request = self.pick(data)
        self.under_way.remove(request)
        others, self.under_way = self.under_way, [request]
        self.all_end()
        self.under_way = others

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), counted_late=st.sampled_from([None, 0.0, 1.0, 15.0]))
    def an_answer_is_lost(self, data: st.DataObject, counted_late: float | None) -> None:
        request = self.pick(data)
        if self.fuse.refusal is None and (request.verdict == "BAD" or request.password != self.user.password):
            return
        self.under_way.remove(request)
        if counted_late is not None and request.verdict is None and self.fuse.refusal is not None:
            self.late.append((self.clock.now + counted_late, request.password))
        self.fuse.unanswered(request.ticket)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def a_request_is_never_sent(self, data: st.DataObject) -> None:
        request = self.pick(data)
        if request.verdict is None:
            self.under_way.remove(request)
            self.fuse.unsent(request.ticket)

    @rule(password=st.sampled_from(PASSWORDS), lasts=st.sampled_from([0.0, 9.0]))
    def the_dialer_changes_under_load(self, password: str, lasts: float) -> None:
        self.ask(MOST_AT_ONCE)
        self.user.password = password
        self.time_passes(lasts)
        self.all_end()

    @precondition(lambda self: self.fuse.refusal is not None)
    @rule(how_many=st.integers(1, 4), lasts=st.sampled_from([0.0, 9.0]))
    def the_next_tries_go_as_soon_as_they_may(self, how_many: int, lasts: float) -> None:
        self.all_end()
        for _ in range(how_many):
            self.time_passes(self.fuse.refusal.seconds if self.fuse.refusal else 1.0)
            self.ask(1)
            self.time_passes(lasts)
            self.all_end()

    @invariant()
    def what_is_told_of_a_refusal_makes_sense(self) -> None:
        refusal = self.fuse.refusal
        assert refusal is None or 0 <= refusal.seconds <= SPAN + MARGIN + 1e-6  # what floats lose

    def pick(self, data: st.DataObject) -> Request:
        return data.draw(st.sampled_from(self.under_way))

    def log_in(self, password: str) -> str:
        now = self.clock.now
        verdict = check_login(self.user, password, now)
        assert verdict != "LOCK"
        if verdict == "GOOD":
            self.failures.clear()
        else:
            self.failures.append(now)
        in_span = [at for at in self.failures if at >= now - SPAN]
        assert len(in_span) < LOCK_AFTER, in_span
        return verdict

    def all_end(self) -> None:
        for request in self.under_way:
            if (request.verdict or self.log_in(request.password)) == "GOOD":
                self.fuse.accepted(request.ticket)
            else:
                self.fuse.refused(request.ticket, "no")
        self.under_way.clear()

    def teardown(self) -> None:
        """Let the password be right again: everything must go through in time."""
        rounds = (
            2 if self.user.last_login is None else 1
        )  # the very first login is refused once, at the worst
        self.all_end()
        self.file = self.user.password
        deadline = self.clock.now + rounds * THROUGH_WITHIN
        while self.fuse.refusal is not None or self.ours != self.file:
            assert self.clock.now <= deadline, self.fuse.refusal
            self.time_passes(1.0)
            self.ask(1)
            self.all_end()
        self.ask(MOST_AT_ONCE)
        assert len(self.under_way) == MOST_AT_ONCE


TestDialerAndFuse = DialerAndFuse.TestCase
TestDialerAndFuse.settings = settings(
    max_examples=300,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
