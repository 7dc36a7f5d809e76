"""Reading the dialer's answers about calls and agents: pure text in, records or named errors out.

Two dialects are read without being told which: what the real API answers
(recorded from VICIdial 2.14), and what the tutorials describe. HTTP status
200 carries errors too; the body alone decides.

Raises, and nothing else: `NotReady` (nothing found yet), `EnrichmentRejected`
(an id that the dialer refuses), `EnrichmentUnavailable` (an outage, a refusal,
or an answer that fits no known shape). No error holds text of the body but
VICIdial's own fixed sentences, since its bodies repeat the password.
"""

import re
from collections.abc import Set as AbstractSet
from datetime import datetime
from itertools import dropwhile
from typing import Literal, NamedTuple

from worker.core.errors import EnrichmentRejected, NotReady, ProcessingError
from worker.core.ids import NOBODY
from worker.core.records import (
    AgentEnrichment,
    AgentRecord,
    CallEnrichment,
    CallRecord,
    Campaign,
    Recording,
)
from worker.vicidial.call_id import CallId, parse_call_id
from worker.vicidial.error_answers import error_message, error_text, explain, first_in, unreadable
from worker.vicidial.rows import (
    SEPARATORS,
    DialerTimes,
    by_name,
    find_rows,
    lines,
    local_time,
    only_row,
    seconds,
    split_row,
    split_values,
)

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
_AGENT_COLUMNS = ("user", "allowed_campaigns_list", "allowed_ingroups_list")
_OTHER_CALL_COLUMNS = frozenset({*_CALL_COLUMNS[1:], "length_in_sec", "duration"})
_OTHER_AGENT_COLUMNS = frozenset(_AGENT_COLUMNS[1:])
_KNOWN_CALL_SHAPES = {len(columns): columns for columns in (_CALL_COLUMNS, _SHORT_CALL_COLUMNS)}
_TUTORIAL_CALL_COLUMNS = 8
_DIRECTIONS: dict[str, Literal["inbound", "outbound"]] = {"inbound": "inbound", "outbound": "outbound"}
_CALL_TYPES = frozenset({"INBOUND", "OUTBOUND_AUTO", "OUTBOUND_MANUAL", "OUTBOUND_OTHER"})
_LIKE_A_CALL_TYPE = re.compile(r"OUTBOUND(_[A-Z]+)?")
_NO_CAMPAIGNS = re.compile(r"NO AVAILABLE CAMPAIGNS(?:: *([^|]*)\|)?")

_NO_AGENT = ": not made yet, or hidden from the API user, whose user group may not see the agent's"
_NOT_FOUND = {
    "CALL LOG NOT FOUND": "",
    "CALL NOT FOUND": "",
    "CALL ID NOT FOUND": "",
    "AGENT USER DOES NOT EXIST": _NO_AGENT,
    "AGENT NOT FOUND": _NO_AGENT,
}
"""What means that the id is not known, and what can be the cause."""
_REJECTED = "INVALID SEARCH PARAMETERS"


def read_call(body: str, call_id: str, times: DialerTimes, not_final: AbstractSet[str]) -> CallEnrichment:
    """Read an answer of `callid_info` about one call.

    It is final where its status is none of `not_final`, which are in capital
    letters; an empty status is looked for there as ``""``.
    """
    columns: list[str] | tuple[str, ...] | None
    columns, rows = find_rows(body, call_id, "call_id", _OTHER_CALL_COLUMNS)
    if not rows:
        raise _explain(body, "callid_info")
    values = only_row(rows)
    if columns is None:
        columns = _KNOWN_CALL_SHAPES.get(len(values))
    if columns is None:
        return _tutorial_call(values, times, not_final)
    return _real_call(by_name("callid_info", columns, values), times, not_final)


def read_agent(body: str, agent_user: str) -> AgentEnrichment:
    """Read an answer of `agent_campaigns` about one agent. No campaigns is an answer too.

    Campaigns are split at dashes, which is a guess where there is one: `campaigns_ambiguous`
    says so, and `worker.vicidial.campaigns` knows better with the list of all campaigns.
    """
    columns: list[str] | tuple[str, ...] | None
    columns, rows = find_rows(body, agent_user, "user", _OTHER_AGENT_COLUMNS)
    if not rows:
        return _agent_without_campaigns(body, agent_user)
    if columns is None:
        following = _lines_from(body, agent_user)
        if any(len(row) != len(_AGENT_COLUMNS) or _is_name(row[2]) for row in rows) or (
            len(following) > len(rows)
        ):
            return _tutorial_agent(following, agent_user)
        columns = _AGENT_COLUMNS
    row = by_name("agent_campaigns", columns, only_row(rows))
    if not row.keys() >= _OTHER_AGENT_COLUMNS:
        raise unreadable("the row of agent_campaigns lacks its lists")
    return _real_agent(agent_user, row["allowed_campaigns_list"], row["allowed_ingroups_list"])


def _real_call(row: dict[str, str], times: DialerTimes, not_final: AbstractSet[str]) -> CallEnrichment:
    call_type = row.get("call_type") or None
    if call_type is not None and call_type not in _CALL_TYPES and not _LIKE_A_CALL_TYPE.fullmatch(call_type):
        raise unreadable("callid_info answered with an unknown call type; a field may hold the separator")
    status = row.get("status")
    final = status is None or status.upper() not in not_final
    inbound = call_type == "INBOUND"
    campaign = row.get("campaign_id") or None
    agent_user = _agent(row.get("user", ""))
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
    """When a call began and ended; what is not known is `None`."""

    started: datetime | None
    ended: datetime | None
    seconds: int | None


def _span(row: dict[str, str], made: CallId | None, times: DialerTimes, *, date_moves: bool) -> _Span:
    """Return start, end and length of a call.

    The start is in the call's id. VICIdial sets `call_date` to the hang-up when an agent's outbound call ends
    (`date_moves`). Of all other calls, and until then, it is the start or the answer.
    """
    length = _length(row)
    call_date = local_time(row.get("call_date", ""))
    if call_date is None:
        return _Span(None, None, length)
    span = None if made is None else made.begin(call_date, times)
    started, ended = (times.place(call_date), None) if span is None else span
    if started is not None and length is not None:
        ended = times.after(started, length)
    elif started is None or ended is None or not date_moves or ended <= started:
        ended = None
    else:
        length = int((ended - started).total_seconds())
    return _Span(started, ended, length)


def _length(row: dict[str, str]) -> int | None:
    """Give the call's whole length where a column tells it: VICIdial's logs call it `length_in_sec`."""
    text = row.get("length_in_sec") or row.get("duration")
    return seconds(text, "length of the call") if text else None


def _tutorial_call(values: list[str], times: DialerTimes, not_final: AbstractSet[str]) -> CallEnrichment:
    """Read the tutorials' order: id, start, end, direction, agent, phone, status, recording file."""
    if len(values) not in (_TUTORIAL_CALL_COLUMNS - 1, _TUTORIAL_CALL_COLUMNS):
        raise unreadable(f"the row of callid_info has {len(values)} columns, which fits no known order")
    call_id, start, end, direction, user, phone, status, *recording = values
    way = _DIRECTIONS.get(direction.lower())
    if way is None or not any(letter.isalpha() for letter in status):
        raise unreadable("the row of callid_info fits no known order")
    local_start, local_end = local_time(start), local_time(end)
    started, ended = times.place(local_start), times.place(local_end)
    if started is not None and ended is not None:
        length = int((ended - started).total_seconds())  # also right where the clocks were changed between
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
        agent_user=_agent(user),
        phone_number=phone or None,
        status=status,
        recordings=tuple(Recording(file_name=name) for name in recording if name),
    )
    return CallEnrichment(call=call, final=status.upper() not in not_final)


def _agent_without_campaigns(body: str, agent_user: str) -> AgentEnrichment:
    empty = _NO_CAMPAIGNS.search(error_text(body))
    if empty is None:
        raise _explain(body, "agent_campaigns")
    if empty[1] not in (None, agent_user):
        raise unreadable("agent_campaigns answered about another agent than asked for")
    return AgentEnrichment(agent=AgentRecord(agent_user=agent_user))


def _real_agent(agent_user: str, campaigns: str, in_groups: str) -> AgentEnrichment:
    """Split the lists at their dashes. A campaign id may hold a dash too, an in-group id may not."""
    ids = [name for name in campaigns.split("-") if name]
    agent = AgentRecord(
        agent_user=agent_user,
        campaigns=tuple(Campaign(campaign_id=name) for name in ids),
        in_groups=tuple(name for name in in_groups.split("-") if name),
        campaigns_ambiguous="-" in campaigns,
    )
    return AgentEnrichment(agent=agent, campaigns_text=campaigns)


def _lines_from(body: str, asked: str) -> list[str]:
    """Give the row of the id asked for and what follows it that may be a pair, each line once."""
    rest = list(dropwhile(lambda line: split_row(line, asked) is None, dict.fromkeys(lines(body))))
    mark = rest[0][len(asked) :].lstrip(" ")[:1]
    return [line for line in rest if mark in line and line.strip() and not line.startswith("<")]


def _tutorial_agent(following: list[str], agent_user: str) -> AgentEnrichment:
    """Read the tutorials' order: agent, then pairs of campaign id and name.

    All on one line or a pair a line, with the agent on the first line or on each.
    """
    mark = following[0][len(agent_user) :].lstrip(" ")[:1]
    campaigns: dict[str, Campaign] = {}
    for line in following:
        values = split_row(line, agent_user)
        if values is None:
            mark = mark or next((each for each in SEPARATORS if each in line), "|")
            values = [agent_user, *split_values(line, mark)]
        for campaign in _pairs(values[1:]):
            if campaigns.setdefault(campaign.campaign_id, campaign) != campaign:
                raise unreadable("the answer of agent_campaigns gives one campaign two names")
    if not campaigns:
        raise unreadable("the answer of agent_campaigns names no campaign")
    return AgentEnrichment(agent=AgentRecord(agent_user=agent_user, campaigns=tuple(campaigns.values())))


def _pairs(values: list[str]) -> list[Campaign]:
    ids, names = values[::2], values[1::2]
    if len(ids) != len(names) or not all(ids) or any(" " in each for each in ids):
        raise unreadable("the answer of agent_campaigns fits no known order")
    return [Campaign(campaign_id=each, name=name or None) for each, name in zip(ids, names, strict=True)]


def _is_name(text: str) -> bool:
    """Tell a campaign's name from a list of in-groups, whose ids have neither spaces nor small letters."""
    return " " in text or text != text.upper()


def _agent(user: str) -> str | None:
    return None if user.upper() in NOBODY else user


def _explain(body: str, function: str) -> ProcessingError:
    """Make the error that an answer without a row stands for."""
    said = error_message(body)
    if (known := first_in(said, _NOT_FOUND)) is not None:
        return NotReady(f"the dialer says {known}{_NOT_FOUND[known]}")
    if _REJECTED in said:
        return EnrichmentRejected(f"the dialer says {_REJECTED}: this can't be a call id on that server")
    return explain(body, function)
