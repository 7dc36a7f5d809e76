"""The picture of a running worker: what its `/status` answers, what is wrong, and the lines that show it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from worker.commands.common import printable
from worker.commands.terminal import age

_CLOSED = "closed"
_FIRST = {"open": 0, "half_open": 1}
"""The states that are told of first."""

Line = tuple[str, str | None]
"""A line for the terminal, and its style."""


class _Part(BaseModel):
    """What may be missing has a default: the worker may be an older or a newer one."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class _Broker(_Part):
    connections: int = 0
    last_error: str | None = None


class _Breaker(_Part):
    state: str
    reason: str | None = None
    open_seconds: float | None = None
    next_probe_at: datetime | None = None


class _Dialer(_Part):
    limit: float | None = None
    refused: str | None = None
    next_try_in_seconds: float | None = None
    left_out: dict[str, str] = {}
    clock_skew_seconds: float | None = None


class Status(_Part):
    """What `/status` answers."""

    consuming: bool
    circuit_breakers: dict[str, _Breaker]
    version: str = "of unknown version"
    started_at: datetime | None = None
    broker: _Broker = _Broker()
    dialer: _Dialer = _Dialer()
    in_flight: int = 0
    queues: dict[str, int] = {}
    counts: dict[str, int] = {}


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a worker: what it answered, if it did, and what that means in sentences."""

    url: str
    well: bool
    sentences: tuple[str, ...]
    answer: Any = None
    status: Status | None = None


# --- judging --------------------------------------------------------------------------------------


def judge(told: Status) -> tuple[bool, tuple[str, ...]]:
    """Tell whether all is well, and say so, or what is wrong and what to do, the worst first."""
    troubles = tuple(_troubles(told))
    return not troubles, troubles or (_praise(told),)


def _troubles(told: Status) -> Iterator[str]:
    if not told.consuming:
        why = (
            told.broker.last_error or "it is starting or stopping, or the broker is in an alarm; see its log"
        )
        yield f"it consumes nothing: {why}; crm-sync check looks at the broker"
    tripped = [(name, breaker) for name, breaker in told.circuit_breakers.items() if breaker.state != _CLOSED]
    for name, breaker in sorted(tripped, key=lambda each: _FIRST.get(each[1].state, len(_FIRST))):
        since = "" if breaker.open_seconds is None else f" for {_lasting(breaker.open_seconds)}"
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


def _praise(told: Status) -> str:
    dead = sum(count for name, count in told.queues.items() if name.endswith(".dead-letters"))
    rest = f", but {dead} in the dead letters need a person: crm-sync dead-letters list" if dead else ""
    return f"all is well: it consumes, and every circuit breaker is closed{rest}"


# --- drawing --------------------------------------------------------------------------------------


def draw(seen: Look) -> Iterator[Line]:
    """Give the lines of the picture; text that others wrote can't steer the terminal."""
    mark, style = ("✓", "green") if seen.well else ("✗", "red")
    for sentence in seen.sentences:
        yield f"{mark} {printable(sentence)}", style
    if seen.status is None:
        return
    yield "", None
    for text in _about(seen.url, seen.status):
        yield printable(text), None
    yield "", None
    yield from _breakers(seen.status)
    if seen.status.queues:
        yield "", None
        rows = [(name, str(count)) for name, count in seen.status.queues.items()]
        yield from _columns(("QUEUE", "WAITING"), rows)


def _about(url: str, told: Status) -> Iterator[str]:
    up = f", up {age(told.started_at)}" if told.started_at else ""
    yield f"worker   {told.version} at {url}{up}"
    state = "consuming" if told.consuming else "not consuming"
    yield f"broker   {state}; connections since the start: {told.broker.connections}"
    dialer = told.dialer
    parts = [] if dialer.limit is None else [f"requests at one time: at most {dialer.limit:g}"]
    if dialer.refused is None:
        parts.append("refuses nothing")
    else:
        again = dialer.next_try_in_seconds
        parts.append(f"refuses us: {dialer.refused}" + (f"; next try in {_lasting(again)}" if again else ""))
    parts += [f"{function} is left out: {why}" for function, why in dialer.left_out.items()]
    if (skew := dialer.clock_skew_seconds) is not None:
        parts.append(f"its clock is {abs(skew):.1f} s {'behind' if skew < 0 else 'ahead'}")
    yield f"dialer   {'; '.join(parts)}"
    yield f"in work  {told.in_flight} events"
    if told.counts:
        yield f"so far   {', '.join(f'{name} {count}' for name, count in told.counts.items())}"


def _breakers(told: Status) -> Iterator[Line]:
    rows = []
    styles: list[str | None] = [None]
    for name, breaker in told.circuit_breakers.items():
        since = "-" if breaker.open_seconds is None else _lasting(breaker.open_seconds)
        rows.append((name, breaker.state, since, _in(breaker.next_probe_at), breaker.reason or "-"))
        styles.append(None if breaker.state == _CLOSED else "red" if breaker.state == "open" else "yellow")
    lines = _columns(("CIRCUIT BREAKER", "STATE", "OPEN FOR", "NEXT PROBE", "REASON"), rows)
    yield from ((text, own or style) for (text, style), own in zip(lines, styles, strict=True))


def _in(when: datetime | None) -> str:
    if when is None:
        return "-"
    seconds = (when - datetime.now(UTC)).total_seconds()
    return f"in {_lasting(seconds)}" if seconds > 0 else "now"


def _columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[Line]:
    """Give lines with the values below one another; the head is bold."""
    shown = [[printable(value) for value in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for number, row in enumerate(shown):
        text = "  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip()
        yield text, None if number else "bold"


def _lasting(seconds: float) -> str:
    """Say how long that is, in one unit."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
