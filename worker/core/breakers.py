"""All circuit breakers, which of them an event has to pass, and how many events are in work behind them."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import timedelta
from types import MappingProxyType

from worker.core.breaker import BreakerStatus, CircuitBreaker, SlowStart, State
from worker.core.errors import (
    CircuitOpen,
    DeliveryUnavailable,
    EnrichmentUnavailable,
    FailureKind,
    FunctionRefused,
    LoginRefused,
)
from worker.core.events import EventType

FUNCTIONS: Mapping[EventType, str] = MappingProxyType(
    {EventType.CALL_ENDED: "callid_info", EventType.AGENT_ONBOARDED: "agent_campaigns"}
)
"""The dialer's function that each type of event needs; its name is also that of its breaker."""

LONGEST_START = 2.0
"""Seconds after its first event at which a process that still lives has full capacity."""


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
        return self.sink.failed(
            error.kind, str(error), error.retry_after, event=event, answered=error.answered
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
