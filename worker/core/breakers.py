"""The circuit breakers: while a dependency is down, nothing is asked of it and no event uses up an attempt.

Intake takes an event only while fewer are in work than each breaker has capacity for. Whoever sent a
request reports how it went, once: `succeeded` for any answer that shows the dependency at work (also "not
found", also "rejected for good"), `failed` for the rest, and nothing if no request was sent.
`worker.core.transitions` has what each report changes; `Blame` says which failures are an event's own.

- What was in work when the breaker opened still ends. It never shortens the wait.
- A half-open breaker with a question of our own (`own_question`) has no capacity: whoever owns the question
  asks it, and reports `probed` or `failed`. So no event is needed, and none can be the reason for a
  failure; an outage that an older event reports meanwhile changes nothing. Without such a question one
  event is the probe, and so is what was in work before. An event that did not need the dependency reports
  nothing, and the next one probes.

Nothing here waits, logs or sends, and no call takes longer the more has happened. Times are in seconds.
"""

import random
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType

from worker.core.errors import (
    CircuitOpen,
    DeliveryUnavailable,
    EnrichmentUnavailable,
    FailureKind,
    FunctionRefused,
    LoginRefused,
    SinkLoginRefused,
)
from worker.core.events import EventType
from worker.core.transitions import (
    FAILURES_IN_A_ROW,
    FAILURES_OF_THE_LAST,
    LAST_OUTCOMES,
    ROWS,
    Backoff,
    Capacity,
    Report,
    State,
    Transition,
    Wait,
)

LONGEST_RECOVERY = 60.0
SUCCESSES_TO_BLAME = 3
MOST_ALONE = 20
"""Different events that may fail though our own question is answered, with no success between."""
MOST_REFUSED = 1000
"""Refused events that are remembered; the oldest are forgotten first."""
LONGEST_START = 2.0
"""Seconds after its first look-up at which a process that still lives has full capacity."""

FUNCTIONS: Mapping[EventType, str] = MappingProxyType(
    {EventType.CALL_ENDED: "callid_info", EventType.AGENT_ONBOARDED: "agent_campaigns"}
)
"""The dialer's function that each type of event needs; its name is also that of its breaker."""

_REPORTS = {FailureKind.REFUSED: Report.REFUSAL, FailureKind.BUSY: Report.BUSY}


# --- one of them


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


class Blame:
    """Who is to blame for a failure: its event, which then uses up an attempt, or the dependency.

    **An outage** counts as an attempt of its event only if the breaker stays closed or recovering, and

    - at least 3 successes, of whichever events, came since the last outage that counted: others succeed; or
    - the dependency answered this event, and the outage before it was this event's own too, with no success
      between: it alone fails, and nothing shows an outage.

    Hence at the onset of an outage at most one failure counts. Without other traffic at most three of one
    event do before the breaker opens, and none if nothing answers. If failures strike at random, an event
    uses up its next attempt before it gets through in at most one of four cases. An event that always fails
    uses up its attempts also if it is tried more often than others come: that alone makes the breaker open
    and recover again, so it has to count while recovering. If more than about one event in forty fails for
    good, the breaker opens now and again: the others wait for minutes at a time, and nothing is lost.

    A dependency with a question of our own is asked it before its breaker opens. If it answers, the failure
    is the event's own. But if more than 20 different events fail like that with no success between,
    something is down that our question does not need: then none counts, and the breaker opens as for any
    outage.

    **A refusal** is about our credentials, and opens the breaker. But if at least 3 successes, or an answer
    to our own question, came since this same event was last refused, it is the event's own (a firewall that
    dislikes its content): it counts, and opens nothing. After one or two it neither counts nor opens
    anything. The first refusal of an event opens a breaker with a question of our own. It opens another
    breaker if nothing succeeded since the last event was refused for the first time, as when all are
    refused; else it neither counts nor opens anything.
    """

    def __init__(self, *, own_question: bool) -> None:
        """Begin without successes; `own_question` is whether the dependency is asked one."""
        self._own_question = own_question
        self._successes = 0  # since the last outage that counted
        self._suspect: str | None = None  # the only event that failed since the last success
        self._failed_alone = set[str]()  # events since the last success, though our own question was answered
        self._all_successes = 0
        self._refused = dict[str, int]()  # how many successes there were at each event's last refusal
        self._last_refusal = 0  # and at the last one that was not an event's own

    @property
    def too_many_alone(self) -> bool:
        """Whether so many different events failed alone that they are not alone."""
        return len(self._failed_alone) > MOST_ALONE

    def succeeded(self, *, late: bool) -> None:
        """Record a success of an event. A late one, while the breaker is open, only shows no refusal."""
        self._all_successes += 1
        if not late:
            self._failed_alone.clear()
            self._successes += 1

    def answered(self) -> None:
        """Record an answer to our own question: it shows as much as it takes that we are allowed."""
        self._all_successes += SUCCESSES_TO_BLAME

    def failed_alone(self, event: str) -> bool:
        """Record a failure of an event though our own question was answered. Return whether it counts."""
        if not self.too_many_alone:
            self._failed_alone.add(event)
        return not self.too_many_alone

    def outage(self, answered: str | None, *, follows_another: bool) -> bool:
        """Record an outage that left the breaker closed or recovering. Return whether it counts.

        Args:
            answered: The event, if the dependency answered it.
            follows_another: Whether the outcome before it was an outage too.
        """
        again = follows_another and answered is not None and answered == self._suspect
        if not again:
            self._suspect = None if follows_another else answered
        if self._successes < SUCCESSES_TO_BLAME:
            return again
        self._successes = 0
        return True

    def refusal(self, event: str | None) -> bool | None:
        """Record a refusal. Return whether it counts, or None if it concerns every event."""
        if event is None:
            self._last_refusal = self._all_successes
            return None
        before = self._refused.pop(event, None)
        self._refused[event] = self._all_successes
        if len(self._refused) > MOST_REFUSED:
            del self._refused[next(iter(self._refused))]
        if before is not None and self._all_successes - before >= SUCCESSES_TO_BLAME:
            return True
        nothing_since = self._all_successes == (self._last_refusal if before is None else before)
        self._last_refusal = self._all_successes
        return None if nothing_since or (before is None and self._own_question) else False


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
        self._in_a_row = failures_in_a_row
        self._last = deque[bool](maxlen=LAST_OUTCOMES)  # whether each failed
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
        return works and self._looks_down([*self._last, True])

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
            self._last.append(False)
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
            self._last.clear()
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
        follows_another = bool(self._last) and self._last[-1]
        self._last.append(True)
        down = not half_open and self._looks_down(list(self._last))
        self._apply(Report.DOWN if down else Report.OUTAGE, message)
        if self._state is State.OPEN:
            return False
        return self._blame.outage(event if answered else None, follows_another=follows_another)

    def _looks_down(self, failed: list[bool]) -> bool:
        row = failed[-self._in_a_row :]
        return (len(row) == self._in_a_row and all(row)) or sum(
            failed[-LAST_OUTCOMES:]
        ) >= FAILURES_OF_THE_LAST

    def _apply(self, report: Report, message: str | None = None, asked: timedelta | None = None) -> None:
        """Do what the table says of a report."""
        row = ROWS.get((self._state, report))
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
            self._last.clear()
            self._slow_start.begin()
        else:
            self._slow_start.failed()


# --- all of them


class CircuitBreakers:
    """One breaker for the dialer, one for the sink, and one for the function that each type of event needs.

    So a missing permission stops the events that need it, and no others. The sink is probed with an event;
    the dialer and its functions with questions of our own, which somebody has to ask (`to_probe`).
    """

    def __init__(
        self,
        *,
        full: int,
        probe_max: timedelta,
        refused_probe: timedelta,
        slow_start: bool = False,
        clock: Callable[[], float] = time.monotonic,
        on_change: Callable[[BreakerStatus], None] = lambda _: None,
    ) -> None:
        """Start with all closed, each with a capacity of `full` events; see `CircuitBreaker` for the rest.

        With `slow_start` the capacity is one event at first, then two, four, …, for two seconds at most: if
        an event kills the process, the broker counts a delivery of all events in work, and limits those.
        """

        def make(name: str, *, own_question: bool = True) -> CircuitBreaker:
            return CircuitBreaker(
                name,
                full=full,
                probe_max=probe_max,
                refused_probe=refused_probe,
                own_question=own_question,
                clock=clock,
                on_change=self._changed,
            )

        self.full = full
        self.probe_max = probe_max
        self.refused_probe = refused_probe
        self._clock = clock
        self.dialer, self.sink = make("dialer"), make("sink", own_question=False)
        self.functions = {name: make(name) for name in FUNCTIONS.values()}
        self._all = (self.dialer, self.sink, *self.functions.values())
        self._suspect = next(iter(self.functions))  # the function of the dialer's last failure
        self._on_change = on_change
        self._wake: Callable[[], None] = lambda: None
        self._in_work = Counter[EventType]()
        self._start = SlowStart(full)
        self._start_until: float | None = None
        if slow_start:
            self._start.begin()
        self.all_closed = self._started
        """Whether there is full capacity for every event."""

    def watch(self, wake: Callable[[], None]) -> None:
        """Call `wake` at each change of a state from now on, in place of whoever was called before."""
        self._wake = wake

    @property
    def in_work(self) -> int:
        """How many events are in work."""
        return self._in_work.total()

    def begin(self, kind: EventType) -> None:
        """Count an event of this type as in work, until `end`."""
        self._in_work[kind] += 1

    def look_up(self) -> None:
        """Record that a request about an event is sent now; the longest start begins with the first.

        Not with the event itself, which may wait for this worker's share of the requests: what is in hand
        meanwhile is all redelivered if that event then kills the process.
        """
        if self._start_until is None:
            self._start_until = self._clock() + LONGEST_START

    def end(self, kind: EventType) -> None:
        """Stop counting an event of this type."""
        self._in_work[kind] -= 1
        if not self._started:
            self._start.succeeded()  # so far the process has outlived the event
            if self._start.capacity == self.full:
                self._end_start()

    def capacity(self, kind: EventType) -> int:
        """Return how many events of a type may be in work now.

        An open breaker whose wait is over becomes half-open.
        """
        if self.all_closed:
            return self.full
        return min(self._shared_capacity(), self.functions[FUNCTIONS[kind]].capacity())

    def _shared_capacity(self) -> int:
        if not self._started and self._start_until and self._clock() >= self._start_until:
            self._end_start()
        return min(self._start.capacity, self.dialer.capacity(), self.sink.capacity())

    @property
    def _started(self) -> bool:
        return self._start.capacity == self.full

    def _end_start(self) -> None:
        self._start.finish()
        self._note_whether_closed()
        self._wake()

    def _note_whether_closed(self) -> None:
        self.all_closed = self._started and all(breaker.state is State.CLOSED for breaker in self._all)

    def check(self, kind: EventType) -> None:
        """Raise `CircuitOpen` if no event of this type may be worked on now."""
        if self.all_closed or self.capacity(kind) > 0:
            return
        self._raise_if_open(self.dialer, self.sink, self.functions[FUNCTIONS[kind]])

    def check_function(self, function: str) -> None:
        """Raise `CircuitOpen` if no event may ask this function of the dialer now."""
        if self.all_closed:
            return
        self._raise_if_open(self.dialer, *filter(None, [self.functions.get(function)]))

    def check_sink(self) -> None:
        """Raise `CircuitOpen` if nothing may be delivered now."""
        if not self.all_closed:
            self._raise_if_open(self.sink)

    def _raise_if_open(self, *needed: CircuitBreaker) -> None:
        in_the_way = [breaker.status() for breaker in needed if breaker.capacity() == 0]
        if in_the_way:
            raise CircuitOpen("; ".join(f"{each.name}: {each.reason}" for each in in_the_way))

    def at_capacity(self, kind: EventType) -> bool:
        """Return whether an event of this type has to wait until others have ended.

        If there is no capacity at all it need not wait: `check` raises.
        """
        if self.all_closed or (capacity := self.capacity(kind)) == 0:
            return False
        return self._in_work.total() >= self._shared_capacity() or self._in_work[kind] >= capacity

    def probing(self, kind: EventType) -> bool:
        """Return whether a single event of this type is wanted, to see whether the sink works again."""
        return (
            self.capacity(kind) > 0 and self.sink.state is State.HALF_OPEN
        )  # in this order: `capacity` may make it half-open

    def to_probe(self) -> list[str]:
        """Return the dialer's functions of which a question of our own has to be asked now."""
        if self.all_closed:
            return []
        self.dialer.capacity()
        if self.dialer.state is State.HALF_OPEN:
            return [self._suspect]
        if self.dialer.state is State.OPEN:
            return []
        due = [name for name, breaker in self.functions.items() if breaker.capacity() == 0]
        return [name for name in due if self.functions[name].state is State.HALF_OPEN]

    def next_change_in(self) -> float | None:
        """Return the seconds, at least 0, until a capacity may grow by itself; `None` if none will."""
        times = [when for breaker in self._all if (when := breaker.next_change()) is not None]
        if not self._started and self._start_until is not None:
            times.append(self._start_until)
        return max(0.0, min(times) - self._clock()) if times else None

    def answered(self, function: str) -> None:
        """Record that the dialer answered an event's question."""
        self.dialer.succeeded()
        self.functions[function].succeeded()

    def login_refused(self, error: LoginRefused, wait: timedelta) -> None:
        """Record that the dialer refused the login, so that nothing may be sent for so long."""
        self.dialer.failed(error.kind, str(error), wait)

    def unanswered(self, function: str, error: EnrichmentUnavailable, event: str) -> bool:
        """Record why an event's question got no answer. Return whether it counts as an attempt."""
        if isinstance(error, FunctionRefused):
            self.dialer.succeeded()  # the login is good
            return self.functions[function].failed(error.kind, str(error), event=event)
        self._suspect = function
        return self.dialer.failed(error.kind, str(error), event=event)

    def dialer_failed(self, message: str) -> None:
        """Record an outage of the dialer that no event's question met."""
        self.dialer.failed(FailureKind.OUTAGE, message, event="")

    def probed(self, function: str) -> None:
        """Record that the dialer answered a question of our own."""
        self.dialer.probed()
        self.functions[function].probed()

    def probed_in_vain(self, function: str, error: EnrichmentUnavailable) -> None:
        """Record why it did not. An outage changes only half-open breakers: the others count events."""
        own = self.functions[function]
        if isinstance(error, FunctionRefused):
            self.dialer.probed()
            own.failed(error.kind, str(error))
        elif error.kind is FailureKind.REFUSED:
            self.dialer.failed(error.kind, str(error))
        else:
            for breaker in (self.dialer, own):
                if breaker.state is State.HALF_OPEN:
                    breaker.failed(FailureKind.OUTAGE, str(error))

    def sink_answered(self) -> None:
        """Record that the sink accepted a payload, or refused one for good: it works."""
        self.sink.succeeded()

    def sink_failed(self, error: DeliveryUnavailable, event: str) -> bool:
        """Record why the sink did not accept a payload. Return whether it counts as an attempt."""
        if error.shared:
            return False
        about = None if isinstance(error, SinkLoginRefused) else event
        return self.sink.failed(
            error.kind, str(error), error.retry_after, event=about, answered=error.answered
        )

    def open_seconds(self, name: str) -> float:
        """Return the seconds since a breaker opened, 0 if it is closed."""
        open_for = next(each.open_for for each in self.status() if each.name == name)
        return 0.0 if open_for is None else open_for.total_seconds()

    def status(self) -> list[BreakerStatus]:
        """Return the status of each."""
        return [breaker.status() for breaker in self._all]

    def _changed(self, status: BreakerStatus) -> None:
        self._note_whether_closed()
        self._on_change(status)
        self._wake()
