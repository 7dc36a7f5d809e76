"""The circuit breaker of one dependency: while it is down, no event uses up an attempt.

Intake takes an event only while fewer are in work than each breaker has capacity for. Whoever sent a
request reports how it went, once: `succeeded` for any answer that shows the dependency at work (also "not
found", also "rejected for good"), `failed` for the rest, and nothing if no request was sent.

`TRANSITIONS` says what each report changes in each state; a report without a row there changes nothing.
`worker.core.blame` says when an outage opens the breaker, and which failures are an event's own.

- What was in work when the breaker opened still ends. It never shortens the wait.
- A half-open breaker with a question of our own (`own_question`) has no capacity: whoever owns the question
  asks it, and reports `probed` or `failed`. So no event is needed, and none can be the reason for a
  failure; an outage that an older event reports meanwhile changes nothing. Without such a question one
  event is the probe, and so is what was in work before. An event that did not need the dependency reports
  nothing, and the next one probes.
- The waits after an outage grow from opening to opening. Each doubling of the capacity takes one doubling
  of the wait back, and staying closed for as long as the next wait would last takes back the rest. So what
  shows only short signs of life is asked ever more rarely, while what fails three times in ten still gets
  work.

Nothing here waits, logs or sends, and no call takes longer the more has happened. Times are in seconds.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from worker.core.blame import FAILURES_OF_THE_LAST, LAST_OUTCOMES, Blame, Outcomes
from worker.core.errors import FailureKind

FAILURES_IN_A_ROW = 5
FIRST_WAIT = 1.0
LONGEST_BUSY = timedelta(hours=1)
LONGEST_RECOVERY = 60.0


class State(StrEnum):
    """How much a circuit breaker lets through."""

    CLOSED = "closed"
    """Everything: all is well."""
    OPEN = "open"
    """Nothing: it has tripped."""
    HALF_OPEN = "half_open"
    """One event, or nothing but a question of our own, to see whether the dependency works again."""
    RECOVERING = "recovering"
    """A little, and more with each success."""


class Report(StrEnum):
    """What can happen to a breaker, in the words of the documentation."""

    SUCCESS = "a success"
    RECOVERED = "full capacity, or a success after a minute without an outage"
    ANSWER = "an answer to our own question"
    OUTAGE = "an outage"
    DOWN = f"{FAILURES_IN_A_ROW} outages in a row, or {FAILURES_OF_THE_LAST} of the last {LAST_OUTCOMES}"
    REFUSAL = "a refusal that is not one event's own"
    BUSY = "a request to come back later"
    WAIT_OVER = "the wait is over"
    LOCKED_OUT = "the login lockout guard allows no request yet"


class Wait(StrEnum):
    """How long a breaker stays open, in the words of the documentation."""

    GROWING = "1 s, then 2 s, 4 s, … up to `probe_max`, each times 0.8 to 1.2"
    REFUSED = "`refused_probe`, or up to a fifth longer; at least as long as the login lockout guard says"
    ASKED = "as long as it asked for, 1 s to 1 h; else 1 s, doubled with each failed probe up to `probe_max`"
    LOCKOUT = "as long as the login lockout guard says"


class Capacity(StrEnum):
    """How the capacity changes while the breaker recovers, in the words of the documentation."""

    BEGINS = "one event"
    GROWS = "doubles after as many successes as it holds"
    HALVES = "halves"


@dataclass(frozen=True, slots=True)
class Transition:
    """What one report changes in one state."""

    state: State
    report: Report
    then: State
    wait: Wait | None = None
    """In an open breaker only if that is longer than what is left; a busy dependency has to say how long."""
    capacity: Capacity | None = None


TRANSITIONS = (
    Transition(State.CLOSED, Report.DOWN, State.OPEN, Wait.GROWING),
    Transition(State.CLOSED, Report.REFUSAL, State.OPEN, Wait.REFUSED),
    Transition(State.CLOSED, Report.BUSY, State.OPEN, Wait.ASKED),
    Transition(State.OPEN, Report.REFUSAL, State.OPEN, Wait.REFUSED),
    Transition(State.OPEN, Report.BUSY, State.OPEN, Wait.ASKED),
    Transition(State.OPEN, Report.WAIT_OVER, State.HALF_OPEN),
    Transition(State.HALF_OPEN, Report.SUCCESS, State.RECOVERING, capacity=Capacity.BEGINS),
    Transition(State.HALF_OPEN, Report.ANSWER, State.RECOVERING, capacity=Capacity.BEGINS),
    Transition(State.HALF_OPEN, Report.OUTAGE, State.OPEN, Wait.GROWING),
    Transition(State.HALF_OPEN, Report.REFUSAL, State.OPEN, Wait.REFUSED),
    Transition(State.HALF_OPEN, Report.BUSY, State.OPEN, Wait.ASKED),
    Transition(State.HALF_OPEN, Report.LOCKED_OUT, State.OPEN, Wait.LOCKOUT),
    Transition(State.RECOVERING, Report.SUCCESS, State.RECOVERING, capacity=Capacity.GROWS),
    Transition(State.RECOVERING, Report.RECOVERED, State.CLOSED),
    Transition(State.RECOVERING, Report.OUTAGE, State.RECOVERING, capacity=Capacity.HALVES),
    Transition(State.RECOVERING, Report.DOWN, State.OPEN, Wait.GROWING),
    Transition(State.RECOVERING, Report.REFUSAL, State.OPEN, Wait.REFUSED),
    Transition(State.RECOVERING, Report.BUSY, State.OPEN, Wait.ASKED),
)

_ROWS = {(row.state, row.report): row for row in TRANSITIONS}
_REPORTS = {FailureKind.REFUSED: Report.REFUSAL, FailureKind.BUSY: Report.BUSY}


@dataclass(frozen=True, slots=True)
class BreakerStatus:
    """What an operator wants to know of a breaker."""

    name: str
    state: State
    reason: str | None
    """Why it opened, in words; `None` while it is closed."""
    open_for: timedelta | None
    """How long ago it opened, failed probes included; `None` while it is closed."""
    next_probe_in: timedelta | None
    """How long it stays open; `None` in any other state."""


class SlowStart:
    """A capacity that begins with one, and doubles after as many successes as it holds."""

    def __init__(self, full: int) -> None:
        """Start at full capacity."""
        self.full = self.capacity = full
        self._successes = 0

    def begin(self) -> None:
        """Go back to a capacity of one."""
        self.capacity, self._successes = 1, 0

    def succeeded(self) -> bool:
        """Count a success. Return whether the capacity has grown."""
        self._successes += 1
        if self._successes < self.capacity:
            return False
        self.capacity, self._successes = min(2 * self.capacity, self.full), 0
        return True

    def failed(self) -> None:
        """Halve the capacity."""
        self.capacity, self._successes = max(1, self.capacity // 2), 0

    def finish(self) -> None:
        """Go to full capacity."""
        self.capacity = self.full


class Backoff:
    """How long an open breaker waits until it probes."""

    def __init__(self, probe_max: timedelta, refused_probe: timedelta, jitter: Callable[[], float]) -> None:
        """Begin with the shortest waits; `jitter` returns numbers from 0 to 1."""
        self._probe_max = probe_max.total_seconds()
        self._refused_probe = refused_probe.total_seconds()
        self._jitter = jitter
        self._growing = self._busy = FIRST_WAIT

    def opened(self, closed_for: float) -> None:
        """Shorten the waits of a breaker that opens after it was closed for so many seconds."""
        self._busy = FIRST_WAIT
        if closed_for >= self._growing:
            self._growing = FIRST_WAIT

    def probe_failed(self) -> None:
        """Lengthen the wait for a busy dependency that does not say how long it will be."""
        self._busy = min(2 * self._busy, self._probe_max)

    def recovers(self) -> None:
        """Halve the next wait after an outage."""
        self._growing = max(FIRST_WAIT, self._growing / 2)

    def seconds(self, wait: Wait, asked: timedelta | None) -> float:
        """Return how long to wait now; `asked` is what the reporter asked for."""
        match wait:
            case Wait.GROWING:
                growing = self._growing
                self._growing = min(2 * growing, self._probe_max)
                return min(growing * (0.8 + 0.4 * self._jitter()), self._probe_max)
            case Wait.REFUSED:
                at_least = min(asked or timedelta(0), LONGEST_BUSY).total_seconds()
                return max(self._refused_probe * (1 + 0.2 * self._jitter()), at_least)
            case Wait.ASKED:
                asked = min(asked or timedelta(seconds=self._busy), LONGEST_BUSY)
                return max(FIRST_WAIT, asked.total_seconds())
            case _:  # Wait.LOCKOUT: the guard says how long
                return (asked or timedelta(0)).total_seconds()


class CircuitBreaker:
    """Decides how many events may use one dependency."""

    def __init__(  # noqa: PLR0913 - each is a rule of its own
        self,
        name: str,
        *,
        full: int,
        probe_max: timedelta,
        refused_probe: timedelta,
        own_question: bool = False,
        failures_in_a_row: int = FAILURES_IN_A_ROW,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
        on_change: Callable[[BreakerStatus], None] = lambda _: None,
    ) -> None:
        """Start closed, with capacity for `full` events.

        `jitter` returns numbers from 0 to 1. `on_change` is called after each change of state, but not of the
        capacity alone, and must not raise.
        """
        self._name = name
        self._own_question = own_question
        self._clock = clock
        self._on_change = on_change
        self._backoff = Backoff(probe_max, refused_probe, jitter)
        self._slow_start = SlowStart(full)
        self._outcomes = Outcomes(failures_in_a_row)
        self._blame = Blame(own_question=own_question)
        self._state = State.CLOSED
        self._reason: str | None = None
        self._refused = False
        self._opened_at = self._until = 0.0
        self._closed_at = self._recovering_since = clock()

    @property
    def state(self) -> State:
        """How much it lets through."""
        return self._state

    @property
    def refused(self) -> bool:
        """Whether a refusal opened it, and it does not recover yet."""
        return self._refused and self._state in (State.OPEN, State.HALF_OPEN)

    @property
    def in_doubt(self) -> bool:
        """Whether an outage would open it now, unless a question of our own is answered."""
        works = self._state in (State.CLOSED, State.RECOVERING) and not self._blame.too_many_alone
        return works and self._outcomes.look_down(after_one_more=True)

    def capacity(self) -> int:
        """Return how many events may be in work now. An open breaker whose wait is over becomes half-open."""
        if self._state is State.OPEN and self._clock() >= self._until:
            self._apply(Report.WAIT_OVER)
        if self._state is State.HALF_OPEN:
            return 0 if self._own_question else 1
        return 0 if self._state is State.OPEN else self._slow_start.capacity

    def probe_now(self) -> None:
        """End the wait of an open breaker."""
        self._until = min(self._until, self._clock())

    def postpone(self, wait: timedelta) -> None:
        """Open a half-open breaker for a while longer: nothing may be sent yet."""
        self._apply(Report.LOCKED_OUT, asked=wait)

    def next_change(self) -> float | None:
        """Return the clock's time at which the capacity may grow by itself, None if there is none."""
        return self._until if self._state is State.OPEN else None

    def status(self) -> BreakerStatus:
        """Return what an operator wants to know."""
        now = self._clock()
        is_closed, is_open = self._state is State.CLOSED, self._state is State.OPEN
        return BreakerStatus(
            self._name,
            self._state,
            self._reason,
            None if is_closed else timedelta(seconds=now - self._opened_at),
            timedelta(seconds=max(0.0, self._until - now)) if is_open else None,
        )

    def succeeded(self) -> None:
        """Record that the dependency did what an event needed."""
        late = self._state is State.OPEN
        self._blame.succeeded(late=late)
        if not late:
            self._outcomes.add(failed=False)
            self._apply(Report.SUCCESS)

    def probed(self) -> None:
        """Record that the dependency answered a question of our own."""
        self._blame.answered()
        self._apply(Report.ANSWER)

    def failed_alone(self, event: str) -> bool:
        """Record that an event failed though our own question is answered.

        Return whether it is alone in that, and so uses up an attempt. If not, report it as `failed`.
        """
        counts = self._blame.failed_alone(event)
        if counts:
            self._outcomes.clear()
        return counts

    def failed(
        self,
        kind: FailureKind,
        message: str,
        wait: timedelta | None = None,
        *,
        event: str | None = None,
        answered: bool = False,
    ) -> bool:
        """Record a failure. Return whether it counts as an attempt of the event.

        Args:
            kind: What kind of failure it was.
            message: The reason if the breaker opens: what happened, in words for an operator.
            wait: How long to stay away at least, if a busy or refusing dependency made that known.
            event: The id of the event that failed; None if no event can be the reason.
            answered: Whether the dependency answered this event.
        """
        if kind is FailureKind.UNREADABLE:
            return True
        if kind is FailureKind.OUTAGE:
            return self._outage(message, event, answered=answered)
        if kind is FailureKind.REFUSED and (counts := self._blame.refusal(event)) is not None:
            return counts
        self._apply(_REPORTS[kind], message, wait)
        return False

    def _outage(self, message: str, event: str | None, *, answered: bool) -> bool:
        half_open = self._state is State.HALF_OPEN
        late = self._state is State.OPEN or (half_open and self._own_question and event is not None)
        if late:
            return False
        follows_another = self._outcomes.last_failed
        self._outcomes.add(failed=True)
        down = not half_open and self._outcomes.look_down()
        self._apply(Report.DOWN if down else Report.OUTAGE, message)
        if self._state is State.OPEN:
            return False
        return self._blame.outage(event if answered else None, follows_another=follows_another)

    def _apply(self, report: Report, message: str | None = None, asked: timedelta | None = None) -> None:
        """Do what the table says of a report."""
        row = _ROWS.get((self._state, report))
        if row is None:
            return
        if row.wait is not None:
            self._wait(row, row.wait, message, asked)
        if row.capacity is not None:
            self._recover(row.capacity)
        if row.then is State.CLOSED:
            self._closed_at = self._clock()
            self._reason = None
        if row.then is not row.state:
            self._state = row.then
            self._on_change(self.status())
        if row.capacity is Capacity.GROWS and self._slow_start.capacity == self._slow_start.full:
            self._apply(Report.RECOVERED)

    def _wait(self, row: Transition, wait: Wait, message: str | None, asked: timedelta | None) -> None:
        now = self._clock()
        if row.state is State.OPEN:
            self._wait_longer(wait, message, asked)
            return
        if wait is not Wait.LOCKOUT:
            if row.state is State.HALF_OPEN:
                self._backoff.probe_failed()
            else:
                self._backoff.opened(now - self._closed_at if row.state is State.CLOSED else 0.0)
                self._opened_at = now
            self._reason, self._refused = message, wait is Wait.REFUSED
        self._until = now + self._backoff.seconds(wait, asked)

    def _wait_longer(self, wait: Wait, message: str | None, asked: timedelta | None) -> None:
        """Lengthen the wait of an open breaker, for the first refusal or if the dependency asks for it."""
        if self._refused if wait is Wait.REFUSED else not asked:
            return
        until = self._clock() + self._backoff.seconds(wait, asked)
        if wait is Wait.REFUSED or until > self._until:
            self._reason = message
        self._refused = self._refused or wait is Wait.REFUSED
        self._until = max(self._until, until)

    def _recover(self, capacity: Capacity) -> None:
        now = self._clock()
        if capacity is Capacity.GROWS:
            late = now - self._recovering_since >= LONGEST_RECOVERY
            if late:
                self._slow_start.finish()
            if late or self._slow_start.succeeded():
                self._backoff.recovers()
            return
        self._recovering_since = now
        if capacity is Capacity.BEGINS:
            self._outcomes.clear()
            self._slow_start.begin()
        else:
            self._slow_start.failed()
