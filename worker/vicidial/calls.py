"""Calls: what VICIdial's id of a call holds, and the answers of `callid_info`.

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
from collections.abc import Set as AbstractSet
from datetime import datetime, time, timedelta
from typing import Literal, NamedTuple

from worker.core.events import LARGEST_LEAD, NOBODY
from worker.core.records import CallEnrichment, CallRecord, Recording
from worker.vicidial.answers import by_name, explain_needed, find_rows, only_row, seconds, unreadable
from worker.vicidial.clock import DialerTimes, local_time

EARLIEST = timedelta(minutes=-1)
LATEST = timedelta(hours=12)
"""How much later than the id's time `call_date` may be. The clocks of two servers may differ a little."""

REPEATS_AFTER = timedelta(days=60)
"""No id is used again sooner. November and January are the nearest months with the same last digit."""

_SHAPE = re.compile(
    r"(?:[YJVMS]|DC|LP|VH|XL)([0-9])([0-9]{2})([0-9]{2})([0-9]{2})([0-9]{2})([0-9]{10})", re.ASCII
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
    month, day, hour, minute, second = map(int, found.group(1, 2, 3, 4, 5))
    if not 0 < day <= _LONGEST_MONTHS[month] or hour > 23 or minute > 59 or second > 59:
        return None
    lead = int(found[6])
    return CallId(month, day, time(hour, minute, second), str(lead) if 0 < lead <= LARGEST_LEAD else None)


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
_OTHER_CALL_COLUMNS = frozenset({*_CALL_COLUMNS[1:], "length_in_sec", "duration"})
_KNOWN_CALL_SHAPES = {len(columns): columns for columns in (_CALL_COLUMNS, _SHORT_CALL_COLUMNS)}
_TUTORIAL_CALL_COLUMNS = 8
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
    length = _length(row)
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


def _length(row: dict[str, str]) -> int | None:
    """Return the call's whole length if a column has it: VICIdial's logs call it `length_in_sec`."""
    text = row.get("length_in_sec") or row.get("duration")
    return seconds(text, "length of the call") if text else None


def _tutorial_call(values: list[str], times: DialerTimes, not_final: AbstractSet[str]) -> CallEnrichment:
    """Parse the tutorials' order: id, start, end, direction, agent, phone, status, recording file."""
    if len(values) not in (_TUTORIAL_CALL_COLUMNS - 1, _TUTORIAL_CALL_COLUMNS):
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
