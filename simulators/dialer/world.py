"""What the stand-in dialer knows: calls and their life cycles, agents, campaigns, recordings, API users."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

CALL_COLUMNS: Final = (
    "call_id",
    "custtime",
    "call_date",
    "phone",
    "call_type",
    "campaign_id",
    "list_id",
    "status",
    "user",
)
"""The columns of `callid_info` with `detail=YES`, in this build's order."""

DEFAULT_USER: Final = "crmsync"
DEFAULT_PASSWORD: Final = "Dialer-Pass-1"  # noqa: S105 - opens nothing but the stand-in

ALL_FUNCTIONS: Final = "ALL_FUNCTIONS"
SEPARATORS: Final = {"csv": ",", "tab": "\t"}
"""The separators of `stage`; anything else is a pipe."""

Dialect = Literal["real", "tutorial"]
Charset = Literal["utf-8", "latin-1"]


State = str
"""`not_found`, `log_not_found`, `sql_error`, `final`, or a status of VICIdial that a call has for a while."""

NOBODY: Final = frozenset({"VDAD", "VDCL", ""})
"""Users of calls that no agent took."""

_BEFORE_THE_END: Final = frozenset({"not_found", "log_not_found", "sql_error", "QUEUE", "INCALL", "XFER"})
_CALL_ID: Final = re.compile(r"[A-Z]{1,2}(?P<time>[0-9]{9})(?P<lead>[0-9]{10})")
_DATE: Final = "%Y-%m-%d %H:%M:%S"
_SOME_DAY: Final = "2026-11-20 14:05:09"

LocalTime = Callable[[float], str]
"""Writes a time of the dialer's clock as the server does: its own local time, without a zone."""


@dataclass(slots=True, kw_only=True)
class DialerCall:
    """One call, with the state it has in the end, and on request the way there.

    `schedule` lists (seconds, state): from so many seconds after `since` on, the call is in that state.
    States are `not_found`, `log_not_found`, `sql_error` (the server breaks over it), `final` (the call's own
    `status`), or a VICIdial status; `INCALL` and `QUEUE` have no talk time yet, and `QUEUE` no agent.
    `since` is the dialer's clock; unset, it becomes the time of the first question about the call. Without a
    schedule the call is final from the start.

    An empty `call_date` follows the schedule as in VICIdial: the time of the row's insert; and for an
    outbound call of an agent, from the hang-up on, the time of the hang-up. Without a schedule it follows
    from the time in the call id.

    A call that came out of a transfer names the one it was `transferred_from`: its schedule begins
    `transferred_after` seconds after the beginning of that one, and never by itself. `earlier` is a call with
    the same id from a year before, which the API answers in its place.
    """

    call_id: str
    talk_seconds: int = 0
    call_date: str = ""
    phone: str = "3125551212"
    call_type: str = "OUTBOUND_AUTO"
    campaign_id: str = "SALES1"
    list_id: str = "1001"
    status: str = "SALE"
    user: str = "1000"
    uniqueid: str = ""
    lead_id: str = ""
    ended_at: str = ""
    recording: str = ""
    schedule: tuple[tuple[float, State], ...] = ()
    since: float | None = None
    transferred_from: "DialerCall | None" = field(default=None, repr=False)
    transferred_after: float = 0.0
    earlier: "DialerCall | None" = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Read the lead from the call id if none is given."""
        if not self.lead_id and (parts := _CALL_ID.fullmatch(self.call_id)):
            self.lead_id = parts["lead"].lstrip("0")

    @property
    def moves_its_date(self) -> bool:
        """Whether `call_date` becomes the time of the hang-up: that of an agent's outbound call does."""
        return self.call_type.startswith("OUTBOUND") and self.user not in NOBODY

    def state(self, now: float) -> State:
        """Return the call's state for who asks at that time of the dialer's clock, and begin its schedule."""
        if self.schedule and self.since is None and self.transferred_from is None:
            self.since = now
        return self.peek(now)

    def peek(self, now: float) -> State:
        """Return the call's state at that time, and begin nothing."""
        if not self.schedule:
            return "final"
        begun = self.begun
        reached = [] if begun is None else [state for after, state in self.schedule if now >= begun + after]
        return reached[-1] if reached else "not_found"

    @property
    def begun(self) -> float | None:
        """The time at which the schedule began; `None` if nothing began it."""
        since = self.since if self.transferred_from is None else self.transferred_from.since
        return None if since is None else since + self.transferred_after

    @property
    def hung_up(self) -> float | None:
        """The time of the hang-up, which may be still to come; `None` if it is not known."""
        return self._first(lambda state: state not in _BEFORE_THE_END)

    def dates(self, now: float, local: LocalTime) -> tuple[str, str, str]:
        """Return the start, the end so far (empty before it), and what stands as `call_date`, as written."""
        if not self.schedule or self.begun is None:
            start = self.call_date or _moment_of(self.call_id, local(now)) or _SOME_DAY
            end = _later(start, self.talk_seconds)
            return start, self.ended_at or end, self.call_date or (end if self.moves_its_date else start)
        start, hung_up = local(self.begun), self.hung_up
        inserted = self._first(lambda state: state != "not_found")
        row = start if inserted is None or self.user in NOBODY else local(inserted)
        end = local(hung_up) if hung_up is not None and now >= hung_up else ""
        moved = end if end and self.moves_its_date else row
        return self.call_date or start, self.ended_at or end, self.call_date or moved

    def _first(self, fits: Callable[[State], bool]) -> float | None:
        found = (after for after, state in self.schedule if fits(state))
        after = next(found, None)
        return None if after is None or self.begun is None else self.begun + after


def make_call_id(prefix: str, local_time: str, lead_id: str) -> str:
    """Build a call id as VICIdial does: prefix, last digit of the month, DDHHMMSS, lead in ten digits."""
    return f"{prefix}{re.sub('[^0-9]', '', local_time)[5:14]}{lead_id:0>10}"


def _moment_of(call_id: str, latest: str) -> str:
    """Return the last time before `latest` that the id can stand for, empty if it stands for none."""
    parts = _CALL_ID.fullmatch(call_id)
    if parts is None:
        return ""
    month, rest = parts["time"][0], parts["time"][1:]
    fits = (moment for year_month in _months_until(latest) if (moment := _date(year_month, month, rest)))
    return next((moment for moment in fits if moment <= latest), "")


def _months_until(latest: str) -> Iterator[str]:
    year, month = int(latest[:4]), int(latest[5:7])
    for back in range(12 * 8):  # the longest wait for a 29th of February
        total = year * 12 + month - 1 - back
        yield f"{total // 12:04}{total % 12 + 1:02}"


def _date(year_month: str, last_digit: str, rest: str) -> str:
    if not year_month.endswith(last_digit):
        return ""
    try:
        return datetime.strptime(f"{year_month}{rest}", "%Y%m%d%H%M%S").strftime(_DATE)  # noqa: DTZ007 - local
    except ValueError:
        return ""


def _later(moment: str, seconds: int) -> str:
    try:
        return (datetime.strptime(moment, _DATE) + timedelta(seconds=seconds)).strftime(_DATE)  # noqa: DTZ007
    except (ValueError, OverflowError):
        return moment  # a date that a test made up


@dataclass(slots=True, kw_only=True)
class Campaign:
    """One campaign, as `campaigns_list` shows it, with the in-groups that its agents may take calls from."""

    campaign_id: str
    name: str
    active: bool = True
    dial_method: str = "MANUAL"
    in_groups: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class DialerAgent:
    """One agent. `campaigns` unset means every active campaign."""

    user: str
    full_name: str = "Agent"
    user_group: str = "SALES"
    user_level: int = 1
    active: bool = True
    campaigns: tuple[str, ...] | None = None


@dataclass(slots=True, kw_only=True)
class Recording:
    """One recording of a call or of a lead.

    With a `call`, it begins `after` seconds after the call's schedule did; its length and place are known
    once it is over.
    """

    recording_id: str
    start_time: str = ""
    user: str = ""
    lead_id: str = ""
    seconds: int = 0
    location: str = ""
    uniqueid: str = ""
    call: DialerCall | None = field(default=None, repr=False)
    after: float = 0.0

    def as_of(self, now: float, local: LocalTime) -> "Recording | None":
        """Return it as it stands at that time, `None` before it begins."""
        if self.call is None:
            return self
        if self.call.begun is None or now < (begun := self.call.begun + self.after):
            return None
        over = now >= begun + self.seconds
        ending = (self.seconds, self.location) if over else (0, "")
        return replace(self, start_time=local(begun), seconds=ending[0], location=ending[1])


@dataclass(slots=True, kw_only=True)
class ApiUser:
    """One user of the API, with what it may do and how its logins went.

    `last_login` is in seconds of the dialer's clock, which starts at 0: by default the user logged in just
    before, so that ten failures lock it. `None` means that it never has. `groups` and `campaigns`, if set,
    are all that the user's own group may see. `lock_seconds` is how long a lock lasts after the last good
    login: VICIdial's 15 minutes, unless a test has less time.
    """

    password: str = field(kw_only=False)
    level: int = 9
    api_access: bool = True
    view_reports: bool = True
    modify_users: bool = True
    two_factor: bool = False
    functions: frozenset[str] = frozenset({ALL_FUNCTIONS})
    groups: frozenset[str] | None = None
    campaigns: frozenset[str] | None = None
    failed_logins: int = 0
    last_login: float | None = 0.0
    lock_seconds: float = 900.0


@dataclass(slots=True)
class World:
    """Everything that the stand-in knows; tests change it while it serves.

    `utc_offset` is the server's real offset in seconds, `zone` what `version` claims it to be: on the
    recorded server they differed. `display_errors` is PHP's setting of that name: the answer then stands
    amid warnings. With the `charset` `latin-1` the bytes are in it, whatever the header says.
    """

    calls: dict[str, DialerCall] = field(default_factory=dict)
    agents: dict[str, DialerAgent] = field(default_factory=dict)
    campaigns: dict[str, Campaign] = field(default_factory=dict)
    recordings: list[Recording] = field(default_factory=list)
    users: dict[str, ApiUser] = field(default_factory=dict)
    ip_blocked: bool = False
    display_errors: bool = False
    charset: Charset = "utf-8"
    utc_offset: int = 0
    zone: str = "-5.00"

    def local_time(self, wall: float) -> str:
        """Write a time of day as the server does: its own local time, without a zone."""
        return datetime.fromtimestamp(wall + self.utc_offset, UTC).strftime(_DATE)


# --- the life cycles of calls ---------------------------------------------------------------------
#
# From VICIdial's source, as the recorded life cycle shows it. An unanswered automatic call gets its row only
# at hang-up, and so does a manual call that never got a channel (`DONEM`). A transfer into an in-group gives
# the call a new id, and nobody finds the old one again.

Schedule = tuple[tuple[float, State], ...]
Spans = tuple[tuple[float, float], ...]
"""Recordings of a call: from and until so many seconds after its beginning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LifeCycle:
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
LIFE_CYCLES: Final[Mapping[str, LifeCycle]] = {
    "answered": LifeCycle(
        what="not found, then QUEUE, INCALL, DISPO; final after 20 s",
        schedule=automatic(2, 10, 8),
        fields={"talk_seconds": 9},
        recorded=((2, 12),),
    ),
    "manual": LifeCycle(
        what="dialled by an agent, recorded while it rings, the customer gone 2 s before the hang-up; "
        "final after 20 s",
        prefix="M",
        schedule=manual(3, 9, 8),
        fields={"talk_seconds": 7, "call_type": "OUTBOUND_MANUAL"},
        recorded=((0, 12),),
    ),
    "no_channel": LifeCycle(
        what="dialled by an agent, nobody answers: not found, DONEM after 10 s, B after 20 s",
        prefix="M",
        schedule=without_a_channel(10, 10),
        fields={"talk_seconds": 0, "call_type": "OUTBOUND_MANUAL", "status": "B"},
    ),
    "inbound": LifeCycle(
        what="waits in the queue, then INCALL, then DISPO; final after 20 s",
        prefix="Y",
        schedule=queued(4, 8, 8),
        fields={"talk_seconds": 8, **_INBOUND},
        recorded=((4, 12),),
    ),
    "unanswered": LifeCycle(
        what="not found until it is hung up after 10 s, then NA",
        schedule=((0, "not_found"), (10, "final")),
        fields={"talk_seconds": 0, "status": "NA", "user": "VDAD"},
    ),
    "dropped": LifeCycle(
        what="waits in the queue, and hangs up after 6 s",
        prefix="Y",
        schedule=((0, "QUEUE"), (6, "final")),
        fields={"talk_seconds": 0, "status": "DROP", "user": "VDCL", **_INBOUND},
    ),
    "transferred": LifeCycle(
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
    "archived": LifeCycle(
        what="final after 5 s, not found any more after 30 s",
        schedule=((0, "INCALL"), (5, "final"), (30, "not_found")),
        fields={"talk_seconds": 5, "status": "NI"},
    ),
    "endless": LifeCycle(what="INCALL for ever", schedule=((0, "INCALL"),)),
    "unknown": LifeCycle(what="never found", schedule=((0, "not_found"),)),
}
"""The life cycles, by name."""

LIVE_IDS: Final[Mapping[Dialect, Mapping[str, str]]] = {
    "real": {
        kind: f"{life.prefix}{number:019}" for number, (kind, life) in enumerate(LIFE_CYCLES.items(), 1)
    },
    "tutorial": {kind: f"{1010000000 + number}" for number, kind in enumerate(LIFE_CYCLES, 1)},
}
"""The call of each life cycle that is always there; it begins at the first question about it.

Whenever that is, the id must fit it, so it holds no time: there is no day 00.
"""


def make_call(
    kind: str, call_id: str, *, since: float | None = None, speed: float = 1.0, **fields: object
) -> tuple[DialerCall, ...]:
    """Make a call with this life cycle, and the one that it is transferred to, if any.

    It begins at `since`, in seconds of the dialer's clock, or unset at the first question; it goes
    `speed` times as fast. `fields` are those of `DialerCall`. Raises `ValueError` for an unknown life cycle.
    """
    if speed <= 0:
        raise ValueError("speed must be more than 0")
    cycle = life_cycle_of(kind)
    call = DialerCall(call_id=call_id, schedule=_faster(cycle.schedule, speed), since=since)
    call = replace(call, **{**cycle.fields, **fields})
    if cycle.transferred_after is None:
        return (call,)
    follower = replace(
        call,
        call_id=transferred_id(call_id),
        schedule=_faster(cycle.then, speed),
        transferred_from=call,
        transferred_after=cycle.transferred_after / speed,
        **cycle.then_fields,
    )
    return (call, follower)


def life_cycle_of(kind: str) -> LifeCycle:
    """Return the life cycle of that name. Raises `ValueError` for an unknown one."""
    if kind not in LIFE_CYCLES:
        raise ValueError(f"there is no life {kind!r}; there are {', '.join(LIFE_CYCLES)}")
    return LIFE_CYCLES[kind]


def transferred_id(call_id: str) -> str:
    """Return the id that a call gets by a transfer: a `Y…` one, in the tutorials' digits another number."""
    if call_id.isdigit():
        return str(int(call_id) + 5000)
    return f"Y{call_id[1:]}"


def live_calls(dialect: Dialect) -> tuple[DialerCall, ...]:
    """Make the calls of `LIVE_IDS`, which begin when somebody asks for them."""
    return tuple(call for kind, call_id in LIVE_IDS[dialect].items() for call in make_call(kind, call_id))


def _faster(schedule: Schedule, speed: float) -> Schedule:
    return tuple((after / speed, state) for after, state in schedule)
