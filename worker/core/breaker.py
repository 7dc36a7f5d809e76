"""The breaker of one dependency, a circuit breaker: while it is down, no event uses up an attempt.

Intake takes an event only while fewer are in work than each breaker has `room`
for. Whoever asked the dependency reports how it went, once a request:
`succeeded` for any answer that shows it at work (also "not found", also
"rejected for good"), `failed` for the rest, and nothing if it was not asked.

**OPEN** has full room. It closes

- after 5 outages in a row, or when at least 10 of the last 20 outcomes were outages,
- at once if the dependency refuses us, or asks us to come back later.

**CLOSED** has no room, for

- 1 s after an outage, then 2 s, 4 s, … up to `probe_max`, each times 0.8 to 1.2;
- `refused_probe` after a refusal, and up to a fifth more, never less; longer if the reporter says so;
- as long as a busy dependency asked for, within 1 s and 1 h; if it did not say, 1 s, doubled
  with each probe in a row that fails, up to `probe_max`.

What was in work when it closed still ends. Its successes and outages change
nothing. A refusal turns any other closure into a refusal, and a longer wait
that is asked for is kept.

**PROBING** comes when the wait is over. With a question of our own
(`own_question`) there is still no room: whoever owns the question asks it, and
reports `probed` or `failed`. So no event is needed, and none can be the reason
for a failure; what an older event reports meanwhile closes nothing. Without
one, there is room for one event, and what was in work before is taken for the
probe. A success leads to RAMPING, any failure back to CLOSED. An event that did
not need the dependency leaves the breaker as it is, and the next one probes.

**RAMPING** has room for one, then two, four, …: the room doubles after as many
successes as it holds, and each outage halves it. It closes for the same
reasons as OPEN. With full room it is OPEN; so it is with a success after a
minute without an outage, since few events fill no room.

The waits after an outage grow from closure to closure. Each doubling of the
room takes one doubling of the wait back, and staying OPEN for as long as the
next wait would last takes back the rest. So what shows only short signs of
life is asked ever more rarely, while what fails three times in ten, and
hardly ever lets a ramp reach its end, still gets its work.

**Who is to blame for an outage.** It counts as an attempt of the event only if
the breaker stays Closed or RAMPING, and at least 3 successes, of whichever events,
came since the last one that counted: others succeed. Or if the dependency
answered this event, and the outage before it was its own too, with nothing
between: it alone fails, and nothing shows an outage. Hence

- at the onset of an outage at most one failure counts; without other traffic at most three of one
  event do before the breaker opens, and none if nothing answers;
- if failures strike at random, at most one counts for every 3 successes: an event that is not
  delivered yet uses up its next attempt before it gets through in at most one of four cases;
- an event that always fails uses up its attempts also if it is tried more often than others
  come. That alone makes the breaker open and ramp up again, so it has to count while RAMPING.

If more than about one event in forty fails for good with an outage, that is more than 3
successes each can account for: the breaker opens now and again, the others wait for minutes
at a time, and nothing is lost.

A dependency with a question of our own is asked it before its breaker opens
(`in_doubt`). If it answers, it is well, and the failure is the event's own:
report it as `failed_alone`. It counts, and the breaker stays as it is. But if more
than 20 different events fail like that, with no success of any event between,
they are not alone: something is down that our question does not need. Then none
counts, and the breaker opens as for any outage.

**Who is to blame for a refusal.** Our credentials: the breaker opens. But if at
least 3 successes, or an answer to our own question, came since this same event
was last refused, it is the event's own (a firewall that dislikes its content):
it counts, and closes nothing. With one or two successes since, it neither
counts nor closes anything. The first refusal of an event opens a breaker with a
question of our own. It closes another breaker if nothing succeeded since the last
event was refused for the first time, as when all are refused; else it neither
counts nor closes anything.

An answer that nobody can read is the event's own affair: it counts, and
neither opens nor closes anything.

Nothing in here waits, logs or sends, and no call takes longer the more has
happened. The clock is given, in seconds.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from worker.core.errors import FailureKind

FAILURES_IN_A_ROW = 5
LAST_OUTCOMES = 20
FAILURES_OF_THE_LAST = 10
SUCCESSES_TO_BLAME = 3
MOST_ALONE = 20
"""Different events that may fail though our own question is answered, with no success between; see above."""
MOST_REFUSED = 1000
"""Refused events that are remembered; the oldest are forgotten first."""
FIRST_WAIT = 1.0
LONGEST_BUSY = timedelta(hours=1)
LONGEST_RECOVERY = 60.0

_WINDOW = (1 << LAST_OUTCOMES) - 1


class State(StrEnum):
    """How much a circuit breaker lets through."""

    CLOSED = "closed"
    """As much as there is: all is well."""
    OPEN = "open"
    """Nothing: it has tripped."""
    HALF_OPEN = "half_open"
    """One event, or nothing but a question of our own, to see whether the dependency works again."""
    RECOVERING = "recovering"
    """A little, and more with each success."""


@dataclass(frozen=True, slots=True)
class BreakerStatus:
    """What an operator wants to know of a breaker."""

    name: str
    state: State
    reason: str | None
    """Why it closed, in words; `None` while it is open."""
    open_for: timedelta | None
    """How long ago it closed, failed probes included; `None` while it is open."""
    next_probe_in: timedelta | None
    """How long it stays closed; `None` in any other state."""


class CircuitBreaker:
    """The open or closed state of one dependency. The module's text says by which rules it changes."""

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
        """Begin open, with room for `full` events.

        `jitter` gives numbers from 0 to 1. `on_change` is called after each change
        of state, never of the room alone, and must not raise.
        """
        self._name = name
        self._full = full
        self._probe_max = probe_max.total_seconds()
        self._refused_probe = refused_probe.total_seconds()
        self._own_question = own_question
        self._row = (1 << failures_in_a_row) - 1
        self._clock = clock
        self._jitter = jitter
        self._on_change = on_change
        self._state = State.CLOSED
        self._capacity = full
        self._reason: str | None = None
        self._refused = False
        self._opened_at = self._until = 0.0
        self._closed_at = self._recovering_since = clock()
        self._next_wait = self._busy_wait = FIRST_WAIT
        self._outcomes = 0  # the last ones, one bit each, the newest lowest; 1 is a failure
        self._successes = 0  # since the last failure that counted, up to as many as it takes to blame
        self._successes_at_capacity = 0
        self._alone: str | None = None  # the only event that failed since the last success
        self._failed_alone = set[str]()  # those since the last success, though our own question was answered
        self._all_successes = 0
        self._refused_events = dict[str, int]()  # how many successes there were at each one's last refusal
        self._last_refusal = 0  # and at the last one that was not an event's own
        self._calm = False  # open, and one more success changes nothing but the count

    @property
    def state(self) -> State:
        """How much it lets through."""
        return self._state

    @property
    def refused(self) -> bool:
        """Whether it is not open, and a refusal closed it."""
        return self._refused and self._state in (State.OPEN, State.HALF_OPEN)

    @property
    def in_doubt(self) -> bool:
        """Whether an outage would close it now, unless a question of our own is answered."""
        works = self._state in (State.CLOSED, State.RECOVERING) and len(self._failed_alone) <= MOST_ALONE
        return works and self._looks_down(self._outcomes << 1 | 1)

    def capacity(self) -> int:
        """Return how many events may be in work now. An open breaker whose time has come begins to probe."""
        if self._state is State.OPEN and self._clock() >= self._until:
            self._capacity = 0 if self._own_question else 1
            self._change(State.HALF_OPEN)
        return self._capacity

    def probe_now(self) -> None:
        """End the wait of an open breaker."""
        self._until = min(self._until, self._clock())

    def postpone(self, wait: timedelta) -> None:
        """Open a breaker that probes for a while longer: nothing may be sent yet."""
        if self._state is State.HALF_OPEN:
            self._capacity = 0
            self._until = self._clock() + wait.total_seconds()
            self._change(State.OPEN)

    def next_change(self) -> float | None:
        """Give the clock's time at which the room may grow by itself; `None` where it depends on outcomes."""
        return self._until if self._state is State.OPEN else None

    def status(self) -> BreakerStatus:
        """Tell how it stands."""
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
        """Record that the dependency did what it is there for."""
        self._all_successes += 1
        if self._calm or self._state is State.OPEN:
            return
        self._failed_alone.clear()
        self._outcomes = self._outcomes << 1 & _WINDOW
        self._successes = min(self._successes + 1, SUCCESSES_TO_BLAME)
        if self._state is State.CLOSED:
            self._calm = not self._outcomes and self._successes == SUCCESSES_TO_BLAME
        elif self._state is State.HALF_OPEN:
            self._begin_recovery()
        else:
            self._grow()

    def probed(self) -> None:
        """Record that the dependency answered a question of our own."""
        self._all_successes += SUCCESSES_TO_BLAME
        if self._state is State.HALF_OPEN:
            self._begin_recovery()

    def failed_alone(self, event: str) -> bool:
        """Record that an event failed though our own question is answered.

        Return whether it is alone in that, and so used up an attempt. If not, report it as `failed`.
        """
        self._calm = False
        if len(self._failed_alone) <= MOST_ALONE:
            self._failed_alone.add(event)
        if len(self._failed_alone) > MOST_ALONE:
            return False
        self._outcomes = 0
        return True

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
            event: The id of the event that failed; `None` if no event can be the reason.
            answered: Whether the dependency answered this event.
        """
        if kind is FailureKind.UNREADABLE:
            return True
        if kind is FailureKind.REFUSED and (counts := self._refusal_of(event)) is not None:
            return counts
        if self._state is State.OPEN or self._is_late(kind, event):
            self._failed_late(kind, message, wait)
            return False
        self._calm = False
        self._outcomes = (self._outcomes << 1 | 1) & _WINDOW
        if (
            kind is not FailureKind.OUTAGE
            or self._state is State.HALF_OPEN
            or self._looks_down(self._outcomes)
        ):
            self._open(kind, message, wait)
            return False
        if self._state is State.RECOVERING:
            self._capacity = max(1, self._capacity // 2)
            self._successes_at_capacity = 0
            self._recovering_since = self._clock()
        alone = self._has_failed_alone(event if answered else None)
        if self._successes < SUCCESSES_TO_BLAME:
            return alone
        self._successes = 0
        return True

    def _refusal_of(self, event: str | None) -> bool | None:
        """Return whether a refusal counts as an attempt of its event; `None` if it concerns everybody."""
        if event is None:
            self._last_refusal = self._all_successes
            return None
        before = self._refused_events.pop(event, None)
        self._refused_events[event] = self._all_successes
        if len(self._refused_events) > MOST_REFUSED:
            del self._refused_events[next(iter(self._refused_events))]
        if before is not None and self._all_successes - before >= SUCCESSES_TO_BLAME:
            return True
        nothing_since = self._all_successes == (self._last_refusal if before is None else before)
        self._last_refusal = self._all_successes
        return None if nothing_since or (before is None and self._own_question) else False

    def _is_late(self, kind: FailureKind, event: str | None) -> bool:
        """Return whether an event's outage is from before the probing: our own question decides then."""
        own = self._own_question and self._state is State.HALF_OPEN
        return own and kind is FailureKind.OUTAGE and event is not None

    def _has_failed_alone(self, answered: str | None) -> bool:
        """Tell whether this event failed before, and nothing else happened since."""
        in_a_row = bool(self._outcomes & 2)
        again = in_a_row and answered is not None and answered == self._alone
        if not again:
            self._alone = None if in_a_row else answered
        return again

    def _looks_down(self, outcomes: int) -> bool:
        return outcomes & self._row == self._row or (outcomes & _WINDOW).bit_count() >= FAILURES_OF_THE_LAST

    def _begin_recovery(self) -> None:
        self._outcomes = 0
        self._capacity = 1
        self._successes_at_capacity = 0
        self._recovering_since = self._clock()
        self._change(State.RECOVERING)

    def _grow(self) -> None:
        self._successes_at_capacity += 1
        now = self._clock()
        if now - self._recovering_since >= LONGEST_RECOVERY:
            self._capacity = self._full
        elif self._successes_at_capacity < self._capacity:
            return
        self._successes_at_capacity = 0
        self._capacity = min(2 * self._capacity, self._full)
        self._next_wait = max(FIRST_WAIT, self._next_wait / 2)
        if self._capacity == self._full:
            self._closed_at = now
            self._reason = None
            self._change(State.CLOSED)

    def _open(self, kind: FailureKind, message: str, wait: timedelta | None) -> None:
        now = self._clock()
        if self._state is State.CLOSED and now - self._closed_at >= self._next_wait:
            self._next_wait = FIRST_WAIT
        if self._state is State.HALF_OPEN:
            self._busy_wait = min(2 * self._busy_wait, self._probe_max)
        else:
            self._busy_wait = FIRST_WAIT
            self._opened_at = now
        self._capacity = 0
        self._reason = message
        self._refused = kind is FailureKind.REFUSED
        if self._refused:
            self._until = now + self._refused_wait(wait)
        elif kind is FailureKind.BUSY:
            self._until = now + _asked_for(wait or timedelta(seconds=self._busy_wait))
        else:
            self._until = now + self._growing_wait()
        self._change(State.OPEN)

    def _failed_late(self, kind: FailureKind, message: str, wait: timedelta | None) -> None:
        """Record the failure of an event that was in work when the breaker opened."""
        if kind is FailureKind.REFUSED and not self._refused:
            self._refused = True
            until = self._clock() + self._refused_wait(wait)
        elif kind is FailureKind.BUSY and wait and self._clock() + _asked_for(wait) > self._until:
            until = self._clock() + _asked_for(wait)
        else:
            return
        self._until = max(self._until, until)
        self._reason = message

    def _refused_wait(self, at_least: timedelta | None) -> float:
        wait = self._refused_probe * (1 + 0.2 * self._jitter())
        return wait if at_least is None else max(wait, min(at_least, LONGEST_BUSY).total_seconds())

    def _growing_wait(self) -> float:
        wait = min(self._next_wait * (0.8 + 0.4 * self._jitter()), self._probe_max)
        self._next_wait = min(2 * self._next_wait, self._probe_max)
        return wait

    def _change(self, state: State) -> None:
        self._state = state
        self._on_change(self.status())


def _asked_for(wait: timedelta) -> float:
    return max(FIRST_WAIT, min(wait, LONGEST_BUSY).total_seconds())
