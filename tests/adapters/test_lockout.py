"""The login lockout guard, against the dialer's own rule of locking a user."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from simulators.dialer.logins import LOCK_AFTER, check_login
from simulators.dialer.world import ApiUser
from tests.clock import Clock
from worker.core.errors import LoginRefused
from worker.core.logins import LOCK, Logins
from worker.vicidial.guard import LockoutGuard, Permit

PROBE = 300.0
SPAN = 900.0
"""VICIdial's 15 minutes."""
MOST_AT_ONCE = 8
PASSWORDS = ("first", "second", "third")
THROUGH_WITHIN = 21 * 60.0
"""How long after the password is right again everything goes through, at the default `refused_probe`."""


class Guarded:
    """A guard, and the file that it reads the password from."""

    def __init__(self, clock: Clock, refused_probe: float = PROBE, *, with_file: bool = True) -> None:
        self.file = "old"
        self.unreadable: str | None = None
        self.clock = clock
        self.guard = LockoutGuard(refused_probe, self.file, self.read if with_file else None, clock)

    def read(self) -> str:
        if self.unreadable is not None:
            raise ValueError(self.unreadable)
        return self.file

    def refuse_one(self, message: str = "no") -> None:
        self.guard.refused(self.guard.admit(), message)

    def said(self) -> str:
        """Insist that nothing may be sent, and give what is said about it."""
        with pytest.raises(LoginRefused) as caught:
            self.guard.admit()
        return str(caught.value)

    def tries(self, how_many: int, lasts: float = 0.0) -> list[float]:
        """Ask each second for as long as it takes; each try is refused `lasts` seconds after it went."""
        at: list[float] = []
        while len(at) < how_many:
            if self.guard.ready_in() > 0:
                self.clock.now += 1
                continue
            permit = self.guard.admit()
            at.append(self.clock.now)
            self.clock.now += lasts
            self.guard.refused(permit, "no")
        return at


@pytest.fixture
def guarded(clock: Clock) -> Guarded:
    return Guarded(clock)


@pytest.fixture
def guard(guarded: Guarded) -> LockoutGuard:
    return guarded.guard


# --- the first refusal


def test_as_long_as_nothing_is_refused_everything_goes_and_no_file_is_read(
    guarded: Guarded, guard: LockoutGuard, clock: Clock
) -> None:
    guarded.unreadable = "nobody reads it"
    permits = [guard.admit() for _ in range(100)]
    for permit, report in zip(permits, [guard.accepted, guard.unanswered] * 50, strict=True):
        clock.now += 1
        report(permit)
    assert (guard.refusing, guard.message, guard.ready_in()) == (False, None, 0)
    assert not guard.admit().lone


def test_the_first_refusal_stops_all_that_is_not_sent_yet(guarded: Guarded, guard: LockoutGuard) -> None:
    first, second = guard.admit(), guard.admit()
    guard.refused(first, "Login incorrect")
    assert (guard.refusing, guard.message) == (True, "Login incorrect")
    said = "Login incorrect; the file still holds the password that was refused; next try in 15m 18s"
    assert guarded.said() == said
    guard.accepted(second)
    assert guarded.said() == said, "it was sent before the refusal"


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
def test_the_wait_is_given_in_words(passed: float, words: str, clock: Clock) -> None:
    guarded = Guarded(clock, with_file=False)
    guarded.refuse_one()
    clock.now += passed
    assert guarded.said() == f"no; next try in {words}"


# --- the password


@pytest.mark.parametrize("refused_probe", [0.05, 1.0, PROBE])
def test_the_refused_password_is_not_sent_again_for_15_minutes_however_often_one_may_try(
    clock: Clock, refused_probe: float
) -> None:
    guarded = Guarded(clock, refused_probe)
    guarded.refuse_one()
    began = clock.now
    tries = guarded.tries(4)
    assert tries[0] - began > SPAN
    assert all(later - sooner > SPAN for sooner, later in itertools.pairwise(tries))
    assert tries[-1] - began < 4 * SPAN + 120, "nor is it left for longer"


def test_another_password_is_tried_at_once(guarded: Guarded, guard: LockoutGuard) -> None:
    guarded.refuse_one()
    guarded.file = "new"
    assert guard.ready_in() == 0
    assert guard.admit().lone


def test_a_password_that_changes_later_is_tried_at_once(
    guarded: Guarded, guard: LockoutGuard, clock: Clock
) -> None:
    guarded.refuse_one()
    clock.now += PROBE + 123
    assert guard.ready_in() == LOCK - PROBE - 123
    guarded.file = "new"
    assert guard.ready_in() == 0
    assert guard.admit().lone


def test_a_password_that_changes_back_and_forth_is_sent_once_each(guarded: Guarded, clock: Clock) -> None:
    guarded.refuse_one()
    sent = []
    for _ in range(int(SPAN)):
        clock.now += 1
        guarded.file = "new" if guarded.file == "old" else "old"
        if guarded.guard.ready_in() == 0:
            sent.append(guarded.file)
            guarded.refuse_one()
    assert sent == ["new"]


@pytest.mark.parametrize("same", ["o l d", "öold!", "old$"])
def test_a_password_that_vicidial_takes_for_the_same_is_the_same(
    same: str, guarded: Guarded, clock: Clock
) -> None:
    guarded.refuse_one()
    guarded.file = same
    clock.now += PROBE
    assert guarded.guard.ready_in() > 0
    guarded.file = "0ld"
    assert guarded.guard.ready_in() == 0


def test_a_file_that_can_not_be_read_is_said_and_looked_at_again(
    guarded: Guarded, guard: LockoutGuard, clock: Clock
) -> None:
    guarded.refuse_one()
    guarded.unreadable = "No such file"
    clock.now += LOCK
    assert guard.ready_in() == 1
    assert guarded.said() == "no; the password file: No such file; next try in 1s"
    guarded.unreadable, guarded.file = None, "new"
    assert guard.admit().lone


def test_a_refused_password_is_forgotten_once_another_was_accepted(
    guarded: Guarded, guard: LockoutGuard, clock: Clock
) -> None:
    guarded.refuse_one()
    guarded.file = "new"
    clock.now += PROBE
    guard.accepted(guard.admit())
    assert not guard.refusing
    guarded.refuse_one()  # the dialer was changed back
    guarded.file = "old"
    clock.now += PROBE
    assert guard.ready_in() == 0


# --- without a file


def test_without_a_file_the_same_password_is_tried_ever_more_rarely(clock: Clock) -> None:
    guard = LockoutGuard(PROBE, "the only one", None, clock)
    guard.refused(guard.admit(), "no")
    waits = []
    for _ in range(5):
        waits.append(guard.ready_in())
        clock.now += guard.ready_in()
        guard.refused(guard.admit(), "no")
    assert waits == [PROBE, 2.1 * PROBE, LOCK, LOCK, LOCK]
    clock.now += guard.ready_in()
    guard.accepted(guard.admit())
    guard.refused(guard.admit(), "no")
    assert guard.ready_in() == PROBE, "it begins anew"


@pytest.mark.parametrize("read", [None, lambda: "right"], ids=["without a file", "with a file"])
def test_a_password_that_nobody_refused_is_tried_at_once_after_another_ones_mistake(
    clock: Clock, read: Callable[[], str] | None
) -> None:
    """Somebody gives `crm-sync check` a mistyped password: the workers have the right one."""
    mine = LockoutGuard(PROBE, "right", read, clock, fingerprint=str)
    theirs = LockoutGuard(PROBE, "mistyped", None, clock, fingerprint=str)
    theirs.refused(theirs.admit(), "no")
    (login,) = theirs.news(0.0)
    mine.learn(Logins().after(login))
    theirs.learn(Logins().after(login))
    assert (mine.refusing, mine.ready_in(), theirs.ready_in()) == (True, 0.0, PROBE)
    mine.refused(mine.admit(), "no")
    assert mine.ready_in() >= PROBE


@pytest.mark.parametrize("refused_probe", [0.0, 0.2, 1.0, 60.0, PROBE])
@pytest.mark.parametrize("at_once", [1, 8])
def test_without_a_file_no_15_minutes_hold_ten_failed_logins_either(
    refused_probe: float, at_once: int, clock: Clock
) -> None:
    guard = LockoutGuard(refused_probe, "the only one", None, clock)
    failures = [clock.now] * at_once
    for permit in [guard.admit() for _ in range(at_once)]:
        guard.refused(permit, "no")
    for _ in range(30):
        clock.now += max(guard.ready_in(), 0.001)
        failures.append(clock.now)
        guard.refused(guard.admit(), "no")
    assert max(sum(start <= at <= start + SPAN for at in failures) for start in failures) <= 9


# --- the next try


def test_the_next_try_goes_alone_and_its_success_lets_everything_through(
    guarded: Guarded, guard: LockoutGuard, clock: Clock
) -> None:
    guarded.refuse_one()
    guarded.file = "new"
    clock.now += PROBE
    permit = guard.admit()
    assert permit.lone
    assert guarded.said() == "no; the next try is under way"
    assert guard.ready_in() == 1
    clock.now += 5
    guard.accepted(permit)
    assert not guard.refusing
    assert not any(guard.admit().lone for _ in range(MOST_AT_ONCE))


def test_a_try_without_an_answer_lifts_nothing_and_the_next_goes_as_long_after_it(
    guarded: Guarded, guard: LockoutGuard, clock: Clock
) -> None:
    guarded.refuse_one()
    guarded.file = "new"
    clock.now += PROBE
    permit = guard.admit()
    clock.now += 10
    guard.unanswered(permit)
    assert guard.ready_in() == PROBE
    clock.now += PROBE
    guard.accepted(guard.admit())
    assert not guard.refusing


def test_a_try_without_an_answer_with_a_password_that_was_refused_counts_as_refused(
    guarded: Guarded, guard: LockoutGuard, clock: Clock
) -> None:
    guarded.refuse_one()
    clock.now += LOCK
    guard.unanswered(guard.admit())
    assert guard.ready_in() == LOCK


def test_the_next_try_waits_for_all_that_was_sent_before(
    guarded: Guarded, guard: LockoutGuard, clock: Clock
) -> None:
    slow = guard.admit()
    guarded.refuse_one()
    guarded.file = "new"
    clock.now += PROBE
    assert guarded.said() == "no; next try when the requests under way have ended"
    assert guard.ready_in() == 1
    guard.accepted(slow)
    assert guard.ready_in() == 0
    assert guard.admit().lone


def test_a_later_refusal_of_the_same_burst_does_not_push_the_next_try(clock: Clock) -> None:
    guard = LockoutGuard(PROBE, "the only one", None, clock)
    burst = [guard.admit() for _ in range(MOST_AT_ONCE)]
    for permit in burst:
        guard.refused(permit, "no")
        clock.now += 1
    assert guard.ready_in() == PROBE - MOST_AT_ONCE


def test_only_the_first_report_of_a_permit_counts(
    guarded: Guarded, guard: LockoutGuard, clock: Clock
) -> None:
    guarded.refuse_one()
    guarded.file = "new"
    clock.now += PROBE
    permit = guard.admit()
    guard.accepted(permit)
    for _ in range(20):
        guard.unanswered(permit)
        guard.refused(permit, "again")
    assert not guard.refusing
    guarded.refuse_one()
    guard.accepted(permit)
    assert guard.refusing


# --- how many in 15 minutes


def passwords_that_never_end(guarded: Guarded) -> None:
    """Let the file hold another password at each look."""
    numbers = itertools.count()
    guarded.guard._read_password = lambda: f"wrong {next(numbers)}"  # noqa: SLF001 - as if it were so written


@pytest.mark.parametrize("refused_probe", [0.0, 1.0, PROBE])
def test_whatever_the_file_holds_no_15_minutes_hold_ten_failed_logins(
    clock: Clock, refused_probe: float
) -> None:
    guarded = Guarded(clock, refused_probe)
    began = clock.now
    burst = [guarded.guard.admit() for _ in range(MOST_AT_ONCE)]
    for permit in burst:
        guarded.guard.refused(permit, "no")
    passwords_that_never_end(guarded)
    tries = [at - began for at in guarded.tries(12)]
    failures = sorted([0.0] * MOST_AT_ONCE + tries)
    assert max(sum(start <= at <= start + SPAN for at in failures) for start in failures) <= 9
    # 0:00 the burst and the ninth; from 15:18 on they count no more
    assert tries[:2] == [0, 918]


def test_the_time_that_the_requests_take_is_reckoned_with(
    guarded: Guarded, guard: LockoutGuard, clock: Clock
) -> None:
    began = clock.now
    burst = [guard.admit() for _ in range(8)]
    clock.now += 9
    for permit in burst:
        guard.refused(permit, "no")
    passwords_that_never_end(guarded)
    # Each may have counted as late as when its answer came: the 15 minutes begin there.
    assert [at - began for at in guarded.tries(4, lasts=9)] == [9, 927, 936, 945]


def test_requests_of_the_burst_without_an_answer_count_as_refused(
    guarded: Guarded, guard: LockoutGuard, clock: Clock
) -> None:
    began = clock.now
    burst = [guard.admit() for _ in range(8)]
    guard.refused(burst[0], "no")
    clock.now += 10
    for permit in burst[1:]:
        guard.unanswered(permit)
    passwords_that_never_end(guarded)
    assert [at - began for at in guarded.tries(2)] == [10, 918]


def test_a_success_between_two_bursts_begins_the_count_anew(
    guarded: Guarded, guard: LockoutGuard, clock: Clock
) -> None:
    for number in range(3):
        burst = [guard.admit() for _ in range(8)]
        for permit in burst:
            guard.refused(permit, "no")
        guarded.file = f"new {number}"
        assert guard.ready_in() == 0, "as the dialer's own count does"
        clock.now += PROBE
        guard.accepted(guard.admit())


def test_a_success_takes_out_only_what_had_ended_before_it_was_sent(
    guarded: Guarded, guard: LockoutGuard, clock: Clock
) -> None:
    late, burst = guard.admit(), [guard.admit() for _ in range(8)]
    for permit in burst:
        guard.refused(permit, "no")
    clock.now += 1
    guard.accepted(late)  # sent before they were refused: they count on
    passwords_that_never_end(guarded)
    began = clock.now
    assert [round(at - began) for at in guarded.tries(2)] == [0, 917]


def test_an_outage_before_a_refusal_says_nothing_of_logins(
    guarded: Guarded, guard: LockoutGuard, clock: Clock
) -> None:
    for permit in [guard.admit() for _ in range(1000)]:
        guard.unanswered(permit)
    guarded.refuse_one()
    guarded.file = "new"
    assert guard.ready_in() == 0


# --- several workers, which know nothing of one another


@dataclass
class Fleet:
    """Workers with a guard each, one dialer and one password file, in steps of a second."""

    workers: int
    at_once: int
    clock: Clock = field(default_factory=Clock)
    with_file: bool = True
    failures: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.all = [Guarded(self.clock, with_file=self.with_file) for _ in range(self.workers)]

    def write(self, password: str) -> None:
        for each in self.all:
            each.file = password

    def password_changes_on_the_dialer_under_load(self) -> None:
        """All that is in flight is refused."""
        for each in self.all:
            for permit in [each.guard.admit() for _ in range(self.at_once)]:
                self.refuse(each.guard, permit)

    def pass_time(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.now += 1
            for each in self.all:
                if each.guard.ready_in() == 0:
                    self.refuse(each.guard, each.guard.admit())

    def refuse(self, guard: LockoutGuard, permit: Permit) -> None:
        self.failures.append(self.clock.now)
        guard.refused(permit, "no")

    def most_in_15_minutes(self) -> int:
        return max(sum(start <= at <= start + SPAN for at in self.failures) for start in self.failures)


@pytest.mark.parametrize(
    ("workers", "at_once", "unchanged", "one_wrong"),
    [(1, 8, 8, 9), (2, 3, 6, 8), (3, 3, 9, 12), (3, 2, 6, 9), (4, 2, 8, 12), (2, 2, 4, 6)],
)
def test_how_many_failed_logins_several_workers_make_in_15_minutes(
    workers: int, at_once: int, unchanged: int, one_wrong: int
) -> None:
    """With the file as it was, no more than were in flight; each wrong password in it costs one a worker.

    Without a file it is as with one wrong password.
    """
    fleet = Fleet(workers, at_once)
    fleet.password_changes_on_the_dialer_under_load()
    fleet.pass_time(2 * 3600)
    assert fleet.most_in_15_minutes() == unchanged == workers * at_once

    fleet = Fleet(workers, at_once)
    fleet.password_changes_on_the_dialer_under_load()
    fleet.pass_time(60)
    fleet.write("mistyped")
    fleet.pass_time(2 * 3600)
    assert fleet.most_in_15_minutes() == one_wrong == workers * (at_once + 1)

    fleet = Fleet(workers, at_once, with_file=False)
    fleet.password_changes_on_the_dialer_under_load()
    fleet.pass_time(2 * 3600)
    assert fleet.most_in_15_minutes() == one_wrong


# --- against the dialer's own rule


@dataclass(slots=True, eq=False)
class Request:
    """One request under way: what it was sent with, and what the dialer made of it, once it did."""

    permit: Permit
    password: str
    verdict: str | None = None


class DialerAndGuard(RuleBasedStateMachine):
    """At most eight under way at one time, ended in any order; passwords change on either side at any time.

    Logins whose answers are all lost can't be distinguished from an outage: so one that is refused gets
    lost on its way back only if a refusal stands.
    """

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.ours = self.file = "first"
        self.guard = self.make(PROBE)
        self.under_way: list[Request] = []
        self.late: list[tuple[float, str]] = []
        self.failures: list[float] = []
        self.refused: dict[str, float] = {}
        self.user = ApiUser("first")

    def make(self, refused_probe: float) -> LockoutGuard:
        return LockoutGuard(refused_probe, self.file, self.read, self.clock)

    def read(self) -> str:
        self.ours = self.file
        return self.file

    @initialize(ago=st.sampled_from([None, 0.0, 450.0, 900.0]), probe=st.sampled_from([0.0, 1.0, PROBE]))
    def the_user_has_logged_in_or_never(self, ago: float | None, probe: float) -> None:
        self.user.last_login = None if ago is None else self.clock.now - ago
        self.guard = self.make(probe)
        self.probe = probe

    @rule(password=st.sampled_from(PASSWORDS))
    def the_dialer_changes(self, password: str) -> None:
        self.user.password = password

    @rule(password=st.sampled_from(PASSWORDS))
    def the_file_changes(self, password: str) -> None:
        self.file = password

    @rule(
        seconds=st.one_of(
            st.sampled_from([0.001, 1.0, 10.0, PROBE / 2, PROBE, PROBE + 1, 2 * PROBE, SPAN, LOCK]),
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
                permit = self.guard.admit()
            except LoginRefused:
                return
            if permit.lone:
                assert self.under_way == [], "a try goes alone"
                assert self.clock.now - self.refused.get(self.ours, -SPAN) >= SPAN, "it was refused just now"
            self.under_way.append(Request(permit, self.ours))

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
        wrong = request.verdict == "BAD" or request.password != self.user.password
        if wrong and not self.guard.refusing:
            return
        self.under_way.remove(request)
        if counted_late is not None and request.verdict is None and self.guard.refusing:
            self.late.append((self.clock.now + counted_late, request.password))
        self.guard.unanswered(request.permit)

    @rule(password=st.sampled_from(PASSWORDS), lasts=st.sampled_from([0.0, 9.0]))
    def the_dialer_changes_under_load(self, password: str, lasts: float) -> None:
        self.ask(MOST_AT_ONCE)
        self.user.password = password
        self.time_passes(lasts)
        self.all_end()

    @precondition(lambda self: self.guard.refusing)
    @rule(how_many=st.integers(1, 4), lasts=st.sampled_from([0.0, 9.0]))
    def the_next_tries_go_as_soon_as_they_may(self, how_many: int, lasts: float) -> None:
        self.all_end()
        for _ in range(how_many):
            self.time_passes(self.guard.ready_in())
            self.ask(1)
            self.time_passes(lasts)
            self.all_end()

    @invariant()
    def the_wait_makes_sense(self) -> None:
        assert 0 <= self.guard.ready_in() <= LOCK + 1e-6  # what floats lose

    def pick(self, data: st.DataObject) -> Request:
        return data.draw(st.sampled_from(self.under_way))

    def log_in(self, password: str) -> str:
        now = self.clock.now
        verdict = check_login(self.user, password, now)
        assert verdict != "LOCK"
        if verdict == "GOOD":
            self.failures.clear()
            self.refused.clear()
        else:
            self.failures.append(now)
        in_span = [at for at in self.failures if at >= now - SPAN]
        assert len(in_span) < LOCK_AFTER, in_span
        return verdict

    def all_end(self) -> None:
        for request in self.under_way:
            if (request.verdict or self.log_in(request.password)) == "GOOD":
                self.guard.accepted(request.permit)
            else:
                self.refused[request.password] = self.clock.now
                self.guard.refused(request.permit, "no")
        self.under_way.clear()

    def teardown(self) -> None:
        """Let the password be right again: everything must go through in time."""
        # The very first login is refused once, at the worst.
        rounds = 2 if self.user.last_login is None else 1
        self.all_end()
        self.file = self.user.password
        deadline = self.clock.now + rounds * THROUGH_WITHIN
        while self.guard.refusing or self.ours != self.file:
            assert self.clock.now <= deadline
            self.time_passes(1.0)
            self.ask(1)
            self.all_end()
        self.ask(MOST_AT_ONCE)
        assert len(self.under_way) == MOST_AT_ONCE


TestDialerAndGuard = DialerAndGuard.TestCase
TestDialerAndGuard.settings = settings(
    max_examples=300,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
