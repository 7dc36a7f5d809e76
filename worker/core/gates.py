"""All the gates, which of them an event has to pass, and how many events are in work behind them."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import timedelta
from types import MappingProxyType

from worker.core.errors import (
    DeliveryRejected,
    DeliveryUnavailable,
    EnrichmentUnavailable,
    FunctionRefused,
    GateClosed,
    NotReady,
)
from worker.core.events import EventType
from worker.core.gate import Gate, GateStatus, State

FUNCTIONS: Mapping[EventType, str] = MappingProxyType(
    {EventType.CALL_ENDED: "callid_info", EventType.AGENT_ONBOARDED: "agent_campaigns"}
)
"""The dialer's function that each type of event can't do without: its name is also that of its gate."""


LONGEST_START = 2.0
"""Seconds after its first event at which a process that still lives has full room."""


class Gates:
    """One gate for the dialer, one for the sink, and one for the permission that each type of event needs.

    So a missing permission holds up the events that need it, and no others.
    """

    def __init__(
        self,
        *,
        full: int,
        probe_max: timedelta,
        refused_probe: timedelta,
        slow_start: bool = False,
        clock: Callable[[], float] = time.monotonic,
        on_change: Callable[[GateStatus], None] = lambda _: None,
    ) -> None:
        """Open them all, each with room for `full` events; see `worker.core.gate.Gate` for the rest.

        With `slow_start` there is room for one event at first, then for two, four, …, for two seconds
        at most: where an event kills the process, the broker counts a delivery of all that were in
        hand, and their number is limited.
        """

        def make(name: str) -> Gate:
            return Gate(
                name,
                full=full,
                probe_max=probe_max,
                refused_probe=refused_probe,
                clock=clock,
                on_change=self._changed,
            )

        self.full = full
        self._clock = clock
        self._dialer, self._sink = make("dialer"), make("sink")
        self._permissions = {kind: make(name) for kind, name in FUNCTIONS.items()}
        self._all = (self._dialer, self._sink, *self._permissions.values())
        self._needed = {kind: (self._dialer, self._sink, own) for kind, own in self._permissions.items()}
        self._on_change = on_change
        self._wake: Callable[[], None] = lambda: None
        self._in_work = Counter[EventType]()
        self._start_room = 1 if slow_start else full
        self._ended = 0
        self._start_until: float | None = None
        self.all_open = self._start_room == full
        """Whether there is full room for every event."""

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
        """Count an event of this type no more."""
        self._in_work[kind] -= 1
        if self._start_room < self.full:
            self._grow_from_start()

    def room(self, kind: EventType) -> int:
        """Give how many events of a type may be in work now.

        A closed gate whose time has come begins to probe.
        """
        if self.all_open:
            return self.full
        return min(self._shared_room(), self._permissions[kind].room())

    def _shared_room(self) -> int:
        if self._start_room < self.full and self._start_until and self._clock() >= self._start_until:
            self._end_start()
        return min(self._start_room, self._dialer.room(), self._sink.room())

    def _grow_from_start(self) -> None:
        """Let the room double after as many events as it holds: so far the process has outlived them."""
        self._ended += 1
        if self._ended >= self._start_room:
            self._ended = 0
            self._start_room = min(2 * self._start_room, self.full)
            if self._start_room == self.full:
                self._end_start()

    def _end_start(self) -> None:
        self._start_room = self.full
        self._note_whether_open()
        self._wake()

    def _note_whether_open(self) -> None:
        started = self._start_room == self.full
        self.all_open = started and all(gate.state is State.OPEN for gate in self._all)

    def insist(self, kind: EventType) -> None:
        """Raise `GateClosed` where no event of this type may be worked on now."""
        if self.all_open or self.room(kind) > 0:
            return
        closed = [gate.status() for gate in self._needed[kind] if gate.state is State.CLOSED]
        raise GateClosed("; ".join(f"{each.name}: {each.reason}" for each in closed))

    def crowded(self, kind: EventType) -> bool:
        """Tell whether an event of this type has to wait until others have ended, as they fill the room.

        Where there is no room at all it need not wait: `insist` turns it away.
        """
        if self.all_open or (room := self.room(kind)) == 0:
            return False
        return self._in_work.total() >= self._shared_room() or self._in_work[kind] >= room

    def probing(self, kind: EventType) -> bool:
        """Tell whether a single event of this type is wanted, to see whether a dependency works again."""
        return self.room(kind) > 0 and any(gate.state is State.PROBING for gate in self._needed[kind])

    def next_change_in(self) -> float | None:
        """Give the seconds, at least 0, until some room may grow by itself; see `Gate.next_change`."""
        times = [when for gate in self._all if (when := gate.next_change()) is not None]
        if self._start_room < self.full and self._start_until is not None:
            times.append(self._start_until)
        return max(0.0, min(times) - self._clock()) if times else None

    def dialer_closed(self) -> bool:
        """Tell whether the dialer is not to be asked now."""
        return not self.all_open and self._dialer.room() == 0

    def insist_on_sink(self) -> None:
        """Raise `GateClosed` where nothing may be delivered now."""
        if not self.all_open and self._sink.room() == 0:
            raise GateClosed(f"sink: {self._sink.status().reason}")

    def looked_up(self, kind: EventType) -> None:
        """Take it that the dialer answered about an event of this type."""
        self._dialer.succeeded()
        self._permissions[kind].succeeded()

    def delivered(self) -> None:
        """Take it that the sink took a payload."""
        self._sink.succeeded()

    def failed(self, kind: EventType, error: Exception, event_id: str | None = None) -> bool:
        """Take in why a step failed; tell whether the event is to blame, and uses up an attempt."""
        match error:
            case NotReady():
                self.looked_up(kind)
            case DeliveryRejected():
                self._sink.succeeded()
            case FunctionRefused():
                self._dialer.succeeded()  # the login is good
                return self._permissions[kind].failed(error.fault, str(error))
            case EnrichmentUnavailable():
                return self._dialer.failed(error.fault, str(error))
            case GateClosed():
                return False
            case DeliveryUnavailable():
                answered = event_id if error.answered else None
                return self._sink.failed(error.fault, str(error), error.retry_after, answered)
            case _:  # it says nothing of any dependency
                pass
        return True

    def closed_seconds(self, name: str) -> float:
        """Give the seconds since a gate closed, 0 where it is open."""
        closed_for = next(each.closed_for for each in self.status() if each.name == name)
        return 0.0 if closed_for is None else closed_for.total_seconds()

    def status(self) -> list[GateStatus]:
        """Tell how each stands."""
        return [gate.status() for gate in self._all]

    def _changed(self, status: GateStatus) -> None:
        self._note_whether_open()
        self._on_change(status)
        self._wake()
