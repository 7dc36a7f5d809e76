"""Calls that live while somebody watches: dialled, talking, on the disposition screen, final, archived.

From VICIdial's source, as the recorded life cycle shows it. An unanswered automatic call gets its row only at
hang-up, and so does a manual call that never got a channel (`DONEM`). A transfer into an in-group gives the
call a new id, and nobody finds the old one again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from simulators.dialer.data import Dialect, DialerCall, State

Schedule = tuple[tuple[float, State], ...]
Spans = tuple[tuple[float, float], ...]
"""Recordings of a call: from and until so many seconds after its beginning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """One kind of call, `what` in words: when it is in which state, in seconds, and its fields in the end.

    With `transferred_after`, a second call comes out of it after so many seconds, which takes the `then`
    states, in seconds of its own. `recorded` are the recordings of the first call.
    """

    what: str
    schedule: Schedule
    prefix: str = "V"
    fields: Mapping[str, Any] = field(default_factory=dict)
    recorded: Spans = ()
    transferred_after: float | None = None
    then: Schedule = ()
    then_fields: Mapping[str, Any] = field(default_factory=dict)


def automatic(rings: float, lasts: float, wraps_up: float) -> Schedule:
    """Make the schedule of a call that the dialer made: its row is written at the answer, before an agent's.

    `lasts` ends with the agent's hang-up, whoever hung up first, and `wraps_up` with the disposition.
    """
    return _dialled("QUEUE", rings, lasts, wraps_up)


def manual(rings: float, lasts: float, wraps_up: float) -> Schedule:
    """Make the schedule of a call that an agent dialled: its two rows are written one after the other."""
    return _dialled("log_not_found", rings, lasts, wraps_up)


def _dialled(at_the_answer: State, rings: float, lasts: float, wraps_up: float) -> Schedule:
    talking = ((rings, at_the_answer), (rings + min(1.0, lasts / 4), "INCALL"))
    return ((0.0, "not_found"), *talking, (rings + lasts, "DISPO"), (rings + lasts + wraps_up, "final"))


def without_a_channel(rings: float, wraps_up: float) -> Schedule:
    """Make the schedule of a manual call that nobody answered: its row is written by the agent's hang-up."""
    return ((0.0, "not_found"), (rings, "DONEM"), (rings + wraps_up, "final"))


def queued(waits: float, lasts: float, wraps_up: float) -> Schedule:
    """Make the schedule of an inbound call that an agent took."""
    return ((0.0, "QUEUE"), (waits, "INCALL"), (waits + lasts, "DISPO"), (waits + lasts + wraps_up, "final"))


_INBOUND: Final = {"call_type": "INBOUND", "campaign_id": "SALESLINE"}
LIVES: Final[Mapping[str, Life]] = {
    "answered": Life(
        what="not found, then QUEUE, INCALL, DISPO; final after 20 s",
        schedule=automatic(2, 10, 8),
        fields={"talk_seconds": 9},
        recorded=((2, 12),),
    ),
    "manual": Life(
        what="dialled by an agent, recorded while it rings, the customer gone 2 s before the hang-up; "
        "final after 20 s",
        prefix="M",
        schedule=manual(3, 9, 8),
        fields={"talk_seconds": 7, "call_type": "OUTBOUND_MANUAL"},
        recorded=((0, 12),),
    ),
    "no_channel": Life(
        what="dialled by an agent, nobody answers: not found, DONEM after 10 s, B after 20 s",
        prefix="M",
        schedule=without_a_channel(10, 10),
        fields={"talk_seconds": 0, "call_type": "OUTBOUND_MANUAL", "status": "B"},
    ),
    "inbound": Life(
        what="waits in the queue, then INCALL, then DISPO; final after 20 s",
        prefix="Y",
        schedule=queued(4, 8, 8),
        fields={"talk_seconds": 8, **_INBOUND},
        recorded=((4, 12),),
    ),
    "unanswered": Life(
        what="not found until it is hung up after 10 s, then NA",
        schedule=((0, "not_found"), (10, "final")),
        fields={"talk_seconds": 0, "status": "NA", "user": "VDAD"},
    ),
    "dropped": Life(
        what="waits in the queue, and hangs up after 6 s",
        prefix="Y",
        schedule=((0, "QUEUE"), (6, "final")),
        fields={"talk_seconds": 0, "status": "DROP", "user": "VDCL", **_INBOUND},
    ),
    "transferred": Life(
        what="gone after 8 s, by a transfer into an in-group: it has another id then, final after 22 s",
        schedule=((0, "not_found"), (1, "INCALL"), (7, "XFER"), (8, "not_found")),
        fields={"talk_seconds": 6},
        transferred_after=8,
        then=queued(4, 6, 4),
        then_fields={
            **_INBOUND,
            "talk_seconds": 6,
            "user": "1001",
            "campaign_id": "SUPPORTLINE",
            "status": "SALE",
        },
    ),
    "archived": Life(
        what="final after 5 s, not found any more after 30 s",
        schedule=((0, "INCALL"), (5, "final"), (30, "not_found")),
        fields={"talk_seconds": 5, "status": "NI"},
    ),
    "endless": Life(what="INCALL for ever", schedule=((0, "INCALL"),)),
    "unknown": Life(what="never found", schedule=((0, "not_found"),)),
}
"""The kinds of life, by name."""

LIVE_IDS: Final[Mapping[Dialect, Mapping[str, str]]] = {
    "real": {kind: f"{life.prefix}{number:019}" for number, (kind, life) in enumerate(LIVES.items(), 1)},
    "tutorial": {kind: f"{1010000000 + number}" for number, kind in enumerate(LIVES, 1)},
}
"""The call of each kind that is always there; its life begins at the first question about it.

Whenever that is, the id must fit it, so it tells no time: there is no day 00.
"""


def make_call(
    kind: str, call_id: str, *, since: float | None = None, speed: float = 1.0, **fields: object
) -> tuple[DialerCall, ...]:
    """Make a call of this kind, and the one that it is transferred to, if any.

    Its life begins at `since`, in seconds of the dialer's clock, or unset at the first question; it goes
    `speed` times as fast. `fields` are those of `DialerCall`. Raises `ValueError` for a kind that is none.
    """
    if speed <= 0:
        raise ValueError("speed must be more than 0")
    life = life_of(kind)
    call = DialerCall(call_id=call_id, schedule=_faster(life.schedule, speed), since=since)
    call = replace(call, **{**life.fields, **fields})
    if life.transferred_after is None:
        return (call,)
    follower = replace(
        call,
        call_id=transferred_id(call_id),
        schedule=_faster(life.then, speed),
        transferred_from=call,
        transferred_after=life.transferred_after / speed,
        **life.then_fields,
    )
    return (call, follower)


def life_of(kind: str) -> Life:
    """Return the life of that name. Raises `ValueError` for a kind that is none."""
    if kind not in LIVES:
        raise ValueError(f"there is no life {kind!r}; there are {', '.join(LIVES)}")
    return LIVES[kind]


def transferred_id(call_id: str) -> str:
    """Return the id that a call gets by a transfer: a `Y…` one, in the tutorials' digits another number."""
    if call_id.isdigit():
        return str(int(call_id) + 5000)
    return f"Y{call_id[1:]}"


def live_calls(dialect: Dialect) -> tuple[DialerCall, ...]:
    """Make the calls of `LIVE_IDS`, whose lives begin when somebody asks for them."""
    return tuple(call for kind, call_id in LIVE_IDS[dialect].items() for call in make_call(kind, call_id))


def _faster(schedule: Schedule, speed: float) -> Schedule:
    return tuple((after / speed, state) for after, state in schedule)
