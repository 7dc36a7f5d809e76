"""Calls that live while somebody watches: dialled, talking, on the disposition screen, final, archived.

From VICIdial's source, as the recorded life cycle shows it. An unanswered automatic call gets its row only at
hang-up. A transfer into an in-group gives the call a new id, and nobody finds the old one again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from worker.demo.dialer_data import Dialect, DialerCall, State

Schedule = tuple[tuple[float, State], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """One kind of call, `what` in words: when it is in which state, in seconds, and its fields in the end.

    With `transferred_after`, a second call comes out of it after so many seconds, which takes the `then`
    states, in seconds of its own.
    """

    what: str
    schedule: Schedule
    fields: Mapping[str, Any] = field(default_factory=dict)
    transferred_after: float | None = None
    then: Schedule = ()
    then_fields: Mapping[str, Any] = field(default_factory=dict)


LIVES: Final[Mapping[str, Life]] = {
    "answered": Life(
        what="not found, then INCALL, then DISPO; final after 20 s",
        schedule=((0, "not_found"), (2, "log_not_found"), (3, "INCALL"), (12, "DISPO"), (20, "final")),
        fields={"talk_seconds": 9},
    ),
    "unanswered": Life(
        what="not found until it is hung up after 10 s, then NA",
        schedule=((0, "not_found"), (10, "final")),
        fields={"talk_seconds": 0, "status": "NA", "user": "VDAD"},
    ),
    "dropped": Life(
        what="waits in the queue, and hangs up after 6 s",
        schedule=((0, "QUEUE"), (6, "final")),
        fields={
            "talk_seconds": 0,
            "status": "DROP",
            "user": "VDCL",
            "call_type": "INBOUND",
            "campaign_id": "SALESLINE",
        },
    ),
    "transferred": Life(
        what="gone after 8 s, by a transfer into an in-group: it has another id then, final after 22 s",
        schedule=((0, "not_found"), (1, "INCALL"), (7, "XFER"), (8, "not_found")),
        fields={"talk_seconds": 6},
        transferred_after=8,
        then=((0, "QUEUE"), (4, "INCALL"), (10, "DISPO"), (14, "final")),
        then_fields={
            "talk_seconds": 6,
            "user": "1001",
            "call_type": "INBOUND",
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
    "real": {
        "answered": "V1010000000000000001",
        "unanswered": "V1010000000000000002",
        "dropped": "Y1010000000000000003",
        "transferred": "V1010000000000000004",
        "archived": "V1010000000000000005",
        "endless": "V1010000000000000006",
        "unknown": "V1010000000000000007",
    },
    "tutorial": {
        "answered": "1010000001",
        "unanswered": "1010000002",
        "dropped": "1010000003",
        "transferred": "1010000004",
        "archived": "1010000005",
        "endless": "1010000006",
        "unknown": "1010000007",
    },
}
"""The call of each kind that is always there; its life begins at the first question about it."""


def make_call(
    kind: str, call_id: str, *, since: float | None = None, speed: float = 1.0, **fields: object
) -> tuple[DialerCall, ...]:
    """Make a call of this kind, and the one that it is transferred to, if any.

    Its life begins at `since`, in seconds of the dialer's clock, or unset at the first question; it goes
    `speed` times as fast. `fields` are those of `DialerCall`. Raises `ValueError` for a kind that is none.
    """
    if kind not in LIVES:
        raise ValueError(f"there is no life {kind!r}; there are {', '.join(LIVES)}")
    if speed <= 0:
        raise ValueError("speed must be more than 0")
    life = LIVES[kind]
    call = DialerCall(call_id=call_id, schedule=_faster(life.schedule, speed), since=since, call_date="")
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


def transferred_id(call_id: str) -> str:
    """Give the id that a call gets by a transfer: a `Y…` one, in the tutorials' digits another number."""
    if call_id.isdigit():
        return str(int(call_id) + 5000)
    return f"Y{call_id[1:]}"


def live_calls(dialect: Dialect) -> tuple[DialerCall, ...]:
    """Make the calls of `LIVE_IDS`, whose lives begin when somebody asks for them."""
    return tuple(call for kind, call_id in LIVE_IDS[dialect].items() for call in make_call(kind, call_id))


def _faster(schedule: Schedule, speed: float) -> Schedule:
    return tuple((after / speed, state) for after, state in schedule)
