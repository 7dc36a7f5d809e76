"""Calls: what VICIdial's id of a call holds, the answers of `callid_info`, and the call's own recordings.

The dialer builds the id when it dials, or when the caller enters the queue::

    V 1 20 14 05 09 0000012345
    │ │  │  │  │  │ └ the lead, ten digits
    │ │  │  │  │  └ second
    │ │  │  │  └ minute
    │ │  │  └ hour, of the dialer's local time
    │ │  └ day
    │ └ last digit of the month: 1 is January or November, 0 is October
    └ who made the call: V auto-dialled, M dialled by an agent, Y and J in-groups

The tens digit of the month and the year are not in it. They follow from a time
near it, the row's `call_date`, which is between the start and the end of the call.

Answers come in two dialects: that of the real API (recorded from VICIdial 2.14)
and that of the tutorials; which one it is follows from the answer. Status 200
carries errors too, so the body alone decides.
"""

import re
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime, time, timedelta, tzinfo
from enum import IntEnum
from typing import Literal, NamedTuple

from worker.core.errors import EnrichmentRejected
from worker.core.events import LARGEST_LEAD, NOBODY, Event
from worker.core.payload import CallEnrichment, CallRecord, Recording
from worker.vicidial.answers import (
    by_name,
    error_message,
    explain,
    explain_needed,
    find_rows,
    lines,
    only_row,
    seconds,
    split_row,
    unreadable,
)
from worker.vicidial.clock import DialerTimes, local_time

EARLIEST = timedelta(minutes=-1)
LATEST = timedelta(hours=12)
"""How much later than the id's time `call_date` may be. The clocks of two servers may differ a little."""

REPEATS_AFTER = timedelta(days=60)
"""No id is used again sooner. November and January are the nearest months with the same last digit."""

_SHAPE = re.compile(
    r"(?:[YJVMS]|DC|LP|VH|XL)([0-9])([0-9]{2})((?:[01][0-9]|2[0-3])[0-5][0-9][0-5][0-9])([0-9]{10})", re.ASCII
)
_NEAREST_DAYS = (timedelta(0), timedelta(days=-1), timedelta(days=1))
_LONGEST_MONTHS = (31, 31, 31, 31, 30, 31, 30, 31, 31, 30)
"""Days of the longest month, by the last digit of its number: 2 is also December."""


class CallId(NamedTuple):
    """The parts of a call id."""

    month: int
    """Its last digit."""
    day: int
    time: time
    lead_id: str | None
    """None if the call was made without a lead."""

    def is_at(self, when: datetime) -> bool:
        """Return whether a time of the dialer's zone is the one in the id."""
        return (when.month % 10, when.day, when.time()) == (self.month, self.day, self.time)

    def begin(self, call_date: datetime, times: DialerTimes) -> tuple[datetime, datetime] | None:
        """Return when the call began, and `call_date`, both with their offsets from UTC.

        None if `call_date`, a local time, does not fit the id: the call then began at another time, or the
        id was not made by VICIdial. In the hour that is repeated when the clocks go back, `call_date` has the
        reading that `times` prefers, and the start is the last one before it.
        """
        for at in times.readings(call_date):
            for days in _NEAREST_DAYS:
                on = call_date + days
                if on.day != self.day or on.month % 10 != self.month:
                    continue
                readings = times.readings(datetime.combine(on, self.time))
                for began in readings if len(readings) == 1 else sorted(readings, reverse=True):
                    if EARLIEST <= at - began <= LATEST:
                        return began, at
        return None


def parse_call_id(call_id: str) -> CallId | None:
    """Return the parts of a call id; None if it has another shape or an impossible date."""
    found = _SHAPE.fullmatch(call_id)
    if found is None:
        return None
    month, day, lead = int(found[1]), int(found[2]), int(found[4])
    if not 0 < day <= _LONGEST_MONTHS[month]:
        return None
    lead_id = str(lead) if 0 < lead <= LARGEST_LEAD else None
    return CallId(month, day, time.fromisoformat(found[3]), lead_id)


# --- callid_info

_CALL_COLUMNS = (
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
_SHORT_CALL_COLUMNS = _CALL_COLUMNS[:2]
_REAL_CALL_COLUMNS = frozenset({"custtime", "call_date", "call_type"})
"""Columns that the tutorials' dialect has not."""
_OTHER_CALL_COLUMNS = frozenset({*_CALL_COLUMNS[1:], "length_in_sec", "duration"})
_KNOWN_CALL_SHAPES = {len(columns): columns for columns in (_CALL_COLUMNS, _SHORT_CALL_COLUMNS)}
_TUTORIAL_CALL_WIDTHS = (7, 8)
_DIRECTIONS: dict[str, Literal["inbound", "outbound"]] = {"inbound": "inbound", "outbound": "outbound"}
_CALL_TYPES = frozenset({"INBOUND", "OUTBOUND_AUTO", "OUTBOUND_MANUAL", "OUTBOUND_OTHER"})
_LIKE_A_CALL_TYPE = re.compile(r"OUTBOUND(_[A-Z]+)?")


def read_call(body: str, call_id: str, times: DialerTimes, not_final: AbstractSet[str]) -> CallEnrichment:
    """Parse an answer of `callid_info` about one call.

    It is final if its status is none of `not_final`, which are in capital letters; an empty status is
    looked for as ``""``.

    Raises `NotReady` if nothing was found yet, `EnrichmentRejected` if the dialer refuses the id,
    `EnrichmentUnavailable` for an outage, a refusal or an unreadable answer, and nothing else.
    """
    columns: list[str] | tuple[str, ...] | None
    columns, rows = find_rows(body, call_id, "call_id", _OTHER_CALL_COLUMNS)
    if not rows:
        raise explain_needed(body, "callid_info")
    values = only_row(rows)
    if columns is not None and _REAL_CALL_COLUMNS.isdisjoint(columns) and _is_tutorial(values):
        columns = None  # the order is known, those names are not
    if columns is None:
        columns = _KNOWN_CALL_SHAPES.get(len(values))
    if columns is None:
        return _tutorial_call(values, times, not_final)
    return _real_call(by_name("callid_info", columns, values), times, not_final)


def _real_call(row: dict[str, str], times: DialerTimes, not_final: AbstractSet[str]) -> CallEnrichment:
    call_type = row.get("call_type") or None
    if call_type is not None and call_type not in _CALL_TYPES and not _LIKE_A_CALL_TYPE.fullmatch(call_type):
        raise unreadable("callid_info answered with an unknown call type; a field may hold the separator")
    status = row.get("status")
    final = status is None or status.upper() not in not_final
    inbound = call_type == "INBOUND"
    campaign = row.get("campaign_id") or None
    agent_user = _agent_user(row.get("user", ""))
    made = parse_call_id(row["call_id"])
    outbound_with_agent = call_type is not None and not inbound and agent_user is not None
    started, ended, length = _span(row, made, times, date_moves=final and outbound_with_agent)
    call = CallRecord(
        call_id=row["call_id"],
        direction=None if call_type is None else ("inbound" if inbound else "outbound"),
        call_type=call_type,
        started_at=started,
        ended_at=ended,
        talk_seconds=seconds(row.get("custtime", ""), "talk time"),
        duration_seconds=length,
        agent_user=agent_user,
        phone_number=row.get("phone") or None,
        status=status or None,
        campaign_id=None if inbound else campaign,
        in_group_id=campaign if inbound else None,
        list_id=row.get("list_id") or None,
        lead_id=made.lead_id if made is not None and "call_date" in row else None,
    )
    return CallEnrichment(call=call, final=final)


class _Span(NamedTuple):
    """When a call began and ended, and its length; None for what is not known."""

    started: datetime | None
    ended: datetime | None
    seconds: int | None


def _span(row: dict[str, str], made: CallId | None, times: DialerTimes, *, date_moves: bool) -> _Span:
    """Return start, end and length of a call.

    The start is in the call's id. VICIdial sets `call_date` to the hang-up when an agent's outbound call ends
    (`date_moves`); until then, and for all other calls, it is the start or the answer.
    """
    text = row.get("length_in_sec") or row.get("duration")  # as VICIdial's logs call it, and as others do
    length = seconds(text, "length of the call") if text else None
    call_date = local_time(row.get("call_date", ""))
    if call_date is None:
        return _Span(None, None, length)
    span = None if made is None else made.begin(call_date, times)
    started, ended = (times.localize(call_date), None) if span is None else span
    if started is not None and length is not None:
        ended = times.after(started, length)
    elif started is None or ended is None or not date_moves or ended <= started:
        ended = None
    else:
        length = int((ended - started).total_seconds())
    return _Span(started, ended, length)


def _is_tutorial(values: list[str]) -> bool:
    return len(values) in _TUTORIAL_CALL_WIDTHS and values[3].strip().lower() in _DIRECTIONS


def _tutorial_call(values: list[str], times: DialerTimes, not_final: AbstractSet[str]) -> CallEnrichment:
    """Parse the tutorials' order: id, start, end, direction, agent, phone, status, recording file."""
    if len(values) not in _TUTORIAL_CALL_WIDTHS:
        raise unreadable(f"the row of callid_info has {len(values)} columns, which fits no known order")
    call_id, start, end, direction, user, phone, status, *recording = values
    way = _DIRECTIONS.get(direction.lower())
    if way is None or not any(letter.isalpha() for letter in status):
        raise unreadable("the row of callid_info fits no known order")
    local_start, local_end = local_time(start), local_time(end)
    started, ended = times.localize(local_start), times.localize(local_end)
    if started is not None and ended is not None:
        length = int((ended - started).total_seconds())  # also right if the clocks were changed in between
    elif local_start is not None and local_end is not None:
        length = int((local_end - local_start).total_seconds())
    else:
        length = -1
    call = CallRecord(
        call_id=call_id,
        direction=way,
        started_at=started,
        ended_at=ended,
        duration_seconds=length if length >= 0 else None,
        agent_user=_agent_user(user),
        phone_number=phone or None,
        status=status,
        recordings=tuple(Recording(file_name=name) for name in recording if name),
    )
    return CallEnrichment(call=call, final=status.upper() not in not_final)


def _agent_user(user: str) -> str | None:
    return None if user.upper() in NOBODY else user


# --- recording_lookup

_RECORDING_COLUMNS = ("start_time", "user", "recording_id", "lead_id", "location")
_LENGTHS = frozenset({"length_in_sec", "duration"})
_STARTS_WITH_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}")
_RECORDING_ID = re.compile(r"[0-9]{1,20}")
_NO_LEAD = frozenset({"", "0", "NULL"})
"""VICIdial counts leads from 1."""


@dataclass(frozen=True, slots=True)
class FoundRecording:
    """A recording, with the agent and lead by which it is matched to a call."""

    recording: Recording
    agent_user: str
    lead_id: str | None


def read_recordings(body: str, times: DialerTimes) -> list[FoundRecording]:
    """Parse an answer of `recording_lookup`, in its order; empty if nothing was found.

    Raises `EnrichmentRejected` if the dialer has no call with the uniqueid, and `EnrichmentUnavailable`.
    """
    columns, rows = _recording_rows(body)
    if not rows:
        said = error_message(body)
        if "NO RECORDINGS FOUND" in said:
            return []
        if "INVALID SEARCH PARAMETERS" in said:
            raise EnrichmentRejected(
                "the dialer says INVALID SEARCH PARAMETERS: it has no call log with this uniqueid"
            )
        raise explain(body, "recording_lookup")
    if len({len(row) for row in rows}) > 1:
        raise unreadable("the rows of recording_lookup differ in length; a field may hold the separator")
    names = _recording_columns(columns, len(rows[0]))
    return [_recording(by_name("recording_lookup", names, row), times) for row in rows]


def _recording_rows(body: str) -> tuple[list[str] | None, list[list[str]]]:
    header: list[str] | None = None
    rows: dict[tuple[str, ...], list[str]] = {}
    for line in lines(body):
        if (begin := _STARTS_WITH_TIME.match(line)) is not None:
            if (values := split_row(line, begin[0])) is not None:
                rows[tuple(values)] = values
        elif (names := split_row(line, _RECORDING_COLUMNS[0])) is not None and len(names) > 1:
            header = names
    return header, list(rows.values())


def _recording_columns(header: Sequence[str] | None, width: int) -> Sequence[str]:
    """Return the columns' names. With `duration=Y` rows have one before the last that the header lacks."""
    names = _RECORDING_COLUMNS if header is None else header
    if "user" not in names:
        raise unreadable("the rows of recording_lookup lack the user")
    if width == len(names) + 1 and names[-1] == "location" and _LENGTHS.isdisjoint(names):
        return (*names[:-1], "length_in_sec", "location")
    return names


def _recording(row: dict[str, str], times: DialerTimes) -> FoundRecording:
    recording_id, lead = row.get("recording_id") or None, row.get("lead_id", "")
    for number in (recording_id, lead):
        if number and number != "NULL" and not _RECORDING_ID.fullmatch(number):
            raise unreadable("recording_lookup answered with an id that is not a number")
    length = row.get("length_in_sec") or row.get("duration") or ""
    url, file_name = _split_location(row.get("location", ""))
    recording = Recording(
        recording_id=recording_id,
        file_name=file_name,
        url=url,
        started_at=times.read(row["start_time"]),
        duration_seconds=seconds(length, "recording's length"),
    )
    return FoundRecording(recording, row["user"], None if lead in _NO_LEAD else lead)


def _split_location(location: str) -> tuple[str | None, str | None]:
    """Return a recording's address and file name: the location is either an address or a path."""
    if location in ("", "NULL"):
        return None, None
    scheme, _, rest = location.partition("://")
    if scheme.lower() not in ("http", "https"):
        return None, location.rpartition("/")[2] or None
    path = rest.partition("?")[0].partition("/")[2]
    return location, path.rpartition("/")[2] or None


# --- which of them are a call's own
#
# VICIdial finds recordings by a `uniqueid`, of which only the second counts, by
# lead, or by agent and day. Each search can find other calls' recordings too. A
# recording of another call in a CRM is worse than none, so a row must match the
# call by its agent, its lead and its time::
#
#                   id's time         talk          customer leaves    hang-up     event
#     ────┬─────────────┼───────────────┼────────────────┼────────────────┼──────────┼────
#         DIALLING      └── dialling ───┘                └── dead time ───┘
#
# If the hang-up is known, a row is the call's own if it begins before that. If
# not, a row is the call's own if it begins within the talk time; rows that begin
# later are decided by the event's time, if at all.

Query = tuple[tuple[str, str], ...]
"""The parameters of one request, as pairs of name and value."""

DIALLING = timedelta(seconds=10)
"""How much sooner than the id's time a recording may begin, as the servers' clocks differ."""
RINGING = timedelta(minutes=1)
"""How long a call may ring or wait for an agent until its first recording is in doubt."""
TIMELY = timedelta(minutes=15)
"""How long after the talk an event is not late: a disposition takes minutes."""

_SECOND = timedelta(seconds=1)
_UNIQUEID = re.compile(r"[0-9]{10}(\.[0-9]{1,9})?")
_USER = re.compile(r"[-_0-9a-zA-Z]+")


class _Belongs(IntEnum):
    """Whether a row is the call's own by one criterion; the least of them counts."""

    NO = 0
    MAYBE = 1
    YES = 2


@dataclass(frozen=True, slots=True)
class Search:
    """One way to find a call's recordings; the rows of all its queries belong together."""

    queries: tuple[Query, ...]
    last: bool = True
    """Whether no other search follows: if it finds nothing, there is nothing."""

    @property
    def by(self) -> str:
        """The name of the parameter that finds the call."""
        return self.queries[0][0][0]


def build_searches(call: CallRecord, event: Event, zone: tzinfo | None) -> list[Search]:
    """Return the searches for a call's recordings, the narrowest first, to be made until one finds some.

    A `uniqueid` does not find what was recorded while an agent dialled and nobody answered. If an agent
    exchanged the lead during the call, the recordings may have the old one, which is in the id. Empty if no
    row could be matched: no agent took the call, or its start is not known.
    """
    if call.agent_user is None or call.started_at is None:
        return []
    known = [("lead_id", lead) for lead in _leads(call, event)]
    if event.uniqueid is not None and _UNIQUEID.fullmatch(event.uniqueid):
        known.insert(0, ("uniqueid", event.uniqueid))
    if known:
        return [Search(((each,),), last=each is known[-1]) for each in known]
    end = _Window.of(call, event, call.started_at).hung_up
    if end is None or not _USER.fullmatch(call.agent_user):
        return []
    days = dict.fromkeys(when.astimezone(zone).date().isoformat() for when in (call.started_at, end))
    return [Search(tuple((("agent_user", call.agent_user), ("date", day)) for day in days))]


def match_to_call(
    rows: Iterable[FoundRecording], call: CallRecord, event: Event, search: Search
) -> list[FoundRecording] | None:
    """Return the rows that belong to the call, the longest first.

    Empty if all of them certainly are other calls'. None if none is certainly the call's own, and at least
    one may be.
    """
    if call.started_at is None:
        return None
    window = _Window.of(call, event, call.started_at)
    marked = [(min(_whose(row, call, event), window.holds(row.recording)), row) for row in rows]
    mine = _certain([row for belongs, row in marked if belongs is _Belongs.YES], window, event, search.by)
    if not mine and any(belongs > _Belongs.NO for belongs, _ in marked):
        return None
    return sorted(mine, key=_longest_first)


def lead_of(rows: Sequence[FoundRecording]) -> str | None:
    """Return the lead that all of these rows have; None if they have none or several."""
    leads = {each.lead_id for each in rows}
    return leads.pop() if len(leads) == 1 else None


@dataclass(frozen=True, slots=True)
class _Window:
    """When the recordings of a call can begin."""

    start: datetime
    start_is_known: bool
    """If not, `start` is `call_date`, which is the end of an outbound call that an agent took."""
    talk: timedelta
    hung_up: datetime | None
    """The last moment of the call; None if neither dialer nor event has it."""
    over: datetime
    """A moment at which the call was over: the hang-up, or the event's time."""
    inbound: bool

    @classmethod
    def of(cls, call: CallRecord, event: Event, start: datetime) -> "_Window":
        talk = timedelta(seconds=call.talk_seconds or 0)
        known_ends = (call.ended_at, event.ended_at)
        ends = [end for end in known_ends if end is not None and start <= end <= start + LATEST]
        # An event's time before the end of the talk is not the time of the end.
        seen = event.occurred_at if start + talk <= event.occurred_at <= start + LATEST else start + LATEST
        made = parse_call_id(call.call_id)
        return cls(
            start=start,
            start_is_known=call.direction != "outbound" or (made is not None and made.is_at(start)),
            talk=talk,
            hung_up=max(ends, default=None),
            over=max(ends, default=seen),
            inbound=call.direction == "inbound",
        )

    def holds(self, recording: Recording) -> _Belongs:
        began = recording.started_at
        if began is None:
            return _Belongs.MAYBE
        if began > self.over:
            return _Belongs.NO
        length = timedelta(seconds=recording.duration_seconds or 0)
        # What begins before the call and ends before it is of the agent's call before.
        if began < self.start and (began < self.start - DIALLING or began + length <= self.start):
            return _Belongs.NO if self.start_is_known else _Belongs.MAYBE
        return _Belongs.YES


def _whose(row: FoundRecording, call: CallRecord, event: Event) -> _Belongs:
    """Match by agent and lead. The agent may have exchanged the lead in the id during the call."""
    user = row.agent_user.casefold()
    if user.upper() in NOBODY:
        return _Belongs.MAYBE  # made by the dialer itself
    if call.agent_user is None or user != call.agent_user.casefold():
        return _Belongs.NO
    leads = _leads(call, event)
    if not leads or row.lead_id is None or row.lead_id in leads:
        return _Belongs.YES
    return _Belongs.MAYBE if event.lead_id is None else _Belongs.NO


def _leads(call: CallRecord, event: Event) -> list[str]:
    return list(dict.fromkeys(each for each in (event.lead_id, call.lead_id) if each is not None))


def _certain(
    rows: list[FoundRecording], window: _Window, event: Event, searched_by: str
) -> list[FoundRecording]:
    """Return those of the possible rows that certainly are the call's own."""
    begun = [(row.recording.started_at or window.over, row) for row in rows]
    if not begun:
        return []
    if window.hung_up is not None:
        # A caller who waits for a busy agent: the agent's earlier rows are of the calls before.
        waits = searched_by == "agent_user" and window.inbound
        since = window.hung_up - window.talk if waits else window.start - DIALLING
        return [row for began, row in begun if began >= since]
    first = min(began for began, _ in begun)
    soon = first <= window.start + window.talk + RINGING
    timely = event.dated and abs(event.occurred_at - (first + window.talk)) <= TIMELY
    if not soon and not timely and searched_by != "uniqueid":
        return []  # of this call after a long wait, or of a later call
    talked = max(window.start, first) + max(window.talk, _SECOND)
    in_time = event.dated and timedelta(0) <= event.occurred_at - talked <= TIMELY
    if window.inbound and (in_time or searched_by == "uniqueid"):
        # Dead time ends before the event, and a next call begins after it; or no other call of that second
        # has this agent and this lead.
        return rows
    if window.inbound and any(talked <= began <= talked + TIMELY for began, _ in begun):
        return []  # in the dead time, or of a next call
    return [row for began, row in begun if began < talked]


def _longest_first(each: FoundRecording) -> tuple[int, str]:
    started = each.recording.started_at
    return -(each.recording.duration_seconds or 0), started.isoformat() if started else ""
