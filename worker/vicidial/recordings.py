"""Recordings: the answers of `recording_lookup`, what to search for, and which rows belong to a call.

VICIdial finds recordings by a `uniqueid`, of which only the second counts, by
lead, or by agent and day. Each search can find other calls' recordings too. A
recording of another call in a CRM is worse than none, so a row must match the
call by its agent, its lead and its time::

                  id's time         talk          customer leaves    hang-up     event
    ────┬─────────────┼───────────────┼────────────────┼────────────────┼──────────┼────
        DIALLING      └── dialling ───┘                └── dead time ───┘

If the hang-up is known, a row is the call's own if it begins before that. If
not, a row is the call's own if it begins within the talk time; rows that begin
later are decided by the event's time, if at all.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from enum import IntEnum

from worker.core.errors import EnrichmentRejected
from worker.core.events import NOBODY, Event
from worker.core.records import CallRecord, Recording
from worker.vicidial.answers import by_name, error_message, explain, lines, seconds, split_row, unreadable
from worker.vicidial.calls import LATEST, parse_call_id
from worker.vicidial.clock import DialerTimes

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
        told = (call.ended_at, event.ended_at)
        ends = [end for end in told if end is not None and start <= end <= start + LATEST]
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
