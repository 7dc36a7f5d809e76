"""The rules of a circuit breaker: what each report changes in each state, and how long an open breaker waits.

`TRANSITIONS` has all of them, which `worker.core.breakers` follows; a report without a row changes nothing.

The waits after an outage grow from opening to opening. Each doubling of the capacity takes one doubling of
the wait back, and staying closed for as long as the next wait would last takes back the rest. So what shows
only short signs of life is asked ever more rarely, while what fails three times in ten still gets work.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

FAILURES_IN_A_ROW = 5
LAST_OUTCOMES = 20
FAILURES_OF_THE_LAST = 10
FIRST_WAIT = 1.0
LONGEST_BUSY = timedelta(hours=1)


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

ROWS = {(row.state, row.report): row for row in TRANSITIONS}


class Backoff:
    """How long an open breaker waits until it probes."""

    def __init__(self, probe_max: timedelta, refused_probe: timedelta, jitter: Callable[[], float]) -> None:
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
