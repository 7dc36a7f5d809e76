"""The view of a running worker: what its `/status` answers, what is wrong, and the lines that show it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from worker.commands.terminal import age, in_one_unit
from worker.core.scrub import printable
from worker.observe.status import Status

_CLOSED = "closed"
_FIRST = {"open": 0, "half_open": 1}
"""The states that come first."""

Line = tuple[str, str | None]
"""A line for the terminal, and its style."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a worker answered at one moment, if it did, and what that means in sentences."""

    url: str
    well: bool
    sentences: tuple[str, ...]
    answer: Any = None
    status: Status | None = None


# --- diagnosis ------------------------------------------------------------------------------------


def diagnose(status: Status) -> tuple[bool, tuple[str, ...]]:
    """Return whether all is well, and sentences: what is wrong and what to do, the worst first."""
    problems = tuple(_problems(status))
    return not problems, problems or (_all_is_well(status),)


def _problems(status: Status) -> Iterator[str]:
    if not status.consuming:
        why = (
            status.broker.last_error
            or "it is starting or stopping, or the broker is in an alarm; see its log"
        )
        yield f"it consumes nothing: {why}; crm-sync check looks at the broker"
    tripped = [
        (name, breaker) for name, breaker in status.circuit_breakers.items() if breaker.state != _CLOSED
    ]
    for name, breaker in sorted(tripped, key=lambda each: _FIRST.get(each[1].state, len(_FIRST))):
        since = "" if breaker.open_seconds is None else f" for {in_one_unit(breaker.open_seconds)}"
        why = f": {breaker.reason}" if breaker.reason else ""
        about = f"{name}: circuit breaker"
        match breaker.state:
            case "open":
                yield f"{about} open, intake paused{since}{why}; see operations: circuit breakers"
            case "half_open":
                asked = "the next event" if name == "sink" else "a question of our own"
                yield f"{about} half-open, intake paused{since}{why}; {asked} shows whether it works again"
            case _:
                yield f"{about} {breaker.state}: it works again, and gets more and more; nothing to do"


def _all_is_well(status: Status) -> str:
    dead = sum(count for name, count in status.queues.items() if name.endswith(".dead-letters"))
    rest = f", but {dead} in the dead letters need a person: crm-sync dead-letters list" if dead else ""
    return f"all is well: it consumes, and every circuit breaker is closed{rest}"


# --- rendering ------------------------------------------------------------------------------------


def render(snapshot: Snapshot) -> Iterator[Line]:
    """Yield the lines of the view; text that others wrote can't steer the terminal."""
    mark, style = ("✓", "green") if snapshot.well else ("✗", "red")
    for sentence in snapshot.sentences:
        yield f"{mark} {printable(sentence)}", style
    if snapshot.status is None:
        return
    yield "", None
    for text in _about(snapshot.url, snapshot.status):
        yield printable(text), None
    yield "", None
    yield from _breakers(snapshot.status)
    if snapshot.status.queues:
        yield "", None
        rows = [(name, str(count)) for name, count in snapshot.status.queues.items()]
        yield from _columns(("QUEUE", "WAITING"), rows)


def _about(url: str, status: Status) -> Iterator[str]:
    up = f", up {age(status.started_at)}" if status.started_at else ""
    yield f"worker   {status.version} at {url}{up}"
    state = "consuming" if status.consuming else "not consuming"
    yield f"broker   {state}; connections since the start: {status.broker.connections}"
    dialer = status.dialer
    parts = [] if dialer.limit is None else [f"requests at one time: at most {dialer.limit:g}"]
    if dialer.refused is None:
        parts.append("refuses nothing")
    else:
        again = dialer.next_try_in_seconds
        parts.append(
            f"refuses us: {dialer.refused}" + (f"; next try in {in_one_unit(again)}" if again else "")
        )
    parts += [f"{function} is left out: {why}" for function, why in dialer.left_out.items()]
    if (skew := dialer.clock_skew_seconds) is not None:
        parts.append(f"its clock is {abs(skew):.1f} s {'behind' if skew < 0 else 'ahead'}")
    yield f"dialer   {'; '.join(parts)}"
    yield f"in work  {status.in_flight} events"
    if status.counts:
        yield f"so far   {', '.join(f'{name} {count}' for name, count in status.counts.items())}"


def _breakers(status: Status) -> Iterator[Line]:
    rows = []
    styles: list[str | None] = [None]
    for name, breaker in status.circuit_breakers.items():
        since = "-" if breaker.open_seconds is None else in_one_unit(breaker.open_seconds)
        rows.append((name, breaker.state, since, _in(breaker.next_probe_at), breaker.reason or "-"))
        styles.append(None if breaker.state == _CLOSED else "red" if breaker.state == "open" else "yellow")
    lines = _columns(("CIRCUIT BREAKER", "STATE", "OPEN FOR", "NEXT PROBE", "REASON"), rows)
    yield from ((text, own or style) for (text, style), own in zip(lines, styles, strict=True))


def _in(when: datetime | None) -> str:
    if when is None:
        return "-"
    seconds = (when - datetime.now(UTC)).total_seconds()
    return f"in {in_one_unit(seconds)}" if seconds > 0 else "now"


def _columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[Line]:
    """Yield lines with the values in columns; the head is bold."""
    shown = [[printable(value) for value in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for number, row in enumerate(shown):
        text = "  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip()
        yield text, None if number else "bold"
