"""Reading the dialer's answers: pure text in, records or named errors out.

Two dialects are read without being told which: what the real API answers
(recorded from VICIdial 2.14), and what the tutorials describe. HTTP status
200 carries errors too; the body alone decides.

Raises, and nothing else: `NotReady` (nothing found yet), `EnrichmentRejected`
(an id that the dialer refuses), `EnrichmentUnavailable` (an outage, a refusal,
or an answer that fits no known shape). No error holds text of the body but
VICIdial's own fixed sentences, since its bodies repeat the password.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import dropwhile
from typing import Literal, NoReturn

from worker.core.errors import EnrichmentRejected, EnrichmentUnavailable, Fault, NotReady
from worker.core.records import (
    AgentEnrichment,
    AgentRecord,
    CallEnrichment,
    CallRecord,
    Campaign,
    Recording,
)

NOT_FINAL = frozenset({"QUEUE", "INCALL", "DISPO", "XFER", ""})
"""Statuses that a call passes through; an empty one is set by nobody yet."""

NOBODY = frozenset({"VDAD", "VDCL", ""})
"""Users that stand where no agent took the call."""

_SEPARATORS = ("|", "\t", ",")
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
_COLUMN_NAMES = frozenset({*_CALL_COLUMNS[1:], *_AGENT_COLUMNS[1:]})
_TUTORIAL_CALL_COLUMNS = 8
_DIRECTIONS: dict[str, Literal["inbound", "outbound"]] = {"inbound": "inbound", "outbound": "outbound"}
_CALL_TYPES = re.compile(r"INBOUND|OUTBOUND(_[A-Z]+)?")
_NUMBER = re.compile(r"-?\d{1,9}")
_HTML = re.compile(r"<(!doctype|html|head|body|br|b|title|p|h1)\b", re.IGNORECASE)
_ERROR_LINE = re.compile(r"^ERROR: ?(.*)$", re.MULTILINE)
_NO_CAMPAIGNS = re.compile(r"NO AVAILABLE CAMPAIGNS(?:: *([^|]*)\|)?")
_VERSION = re.compile(r"DATE: (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)\|EPOCH: (\d{9,11})\|")

_NOT_FOUND = (
    "CALL LOG NOT FOUND",
    "CALL NOT FOUND",
    "CALL ID NOT FOUND",
    "AGENT USER DOES NOT EXIST",
    "AGENT NOT FOUND",
)
_REJECTED = ("INVALID SEARCH PARAMETERS",)
_REFUSED = {
    "LOGIN INCORRECT": "check vicidial.user and vicidial.password; the API user needs level 7 or more",
    "INVALID USERNAME OR PASSWORD": "check vicidial.user and vicidial.password",
    "TOO MANY LOGIN ATTEMPTS": "ten failed logins lock the API user for 15 minutes; check vicidial.password",
    "IP ADDRESS IS NOT ALLOWED": "add this host to the API IP list of the user group (Admin > User Groups)",
    "DOES NOT HAVE PERMISSION": "in Admin > Users give the API user level 8, View Reports, Modify Users, "
    "API Access and the allowed functions callid_info and agent_campaigns",
    "INVALID SOURCE": "vicidial.source must be 2 to 20 letters and digits",
    "NO FUNCTION SPECIFIED": "this build of VICIdial does not know the function; check vicidial.url",
}


def read_call(body: str, call_id: str, zone: tzinfo | None) -> CallEnrichment:
    """Read an answer of `callid_info` about one call.

    Times of the answer are in `zone`; where it is unknown they are `None`.
    """
    columns, rows = _find_rows(body, call_id, "call_id")
    values = _only(rows)
    if columns is None:
        columns = {len(_CALL_COLUMNS): _CALL_COLUMNS, len(_SHORT_CALL_COLUMNS): _SHORT_CALL_COLUMNS}.get(
            len(values)
        )
    if columns is None:
        return _tutorial_call(values, zone)
    if len(columns) != len(values):
        _unreadable(f"the row of callid_info has {len(values)} columns where {len(columns)} are named")
    return _real_call(dict(zip(columns, values, strict=True)), zone)


def read_agent(body: str, agent_user: str) -> AgentEnrichment:
    """Read an answer of `agent_campaigns` about one agent. No campaigns is an answer too."""
    if (error := _ERROR_LINE.search(body)) and (empty := _NO_CAMPAIGNS.search(error[1])):
        if empty[1] not in (None, agent_user):
            _unreadable("agent_campaigns answered about another agent than asked for")
        return AgentEnrichment(agent=AgentRecord(agent_user=agent_user))
    columns, rows = _find_rows(body, agent_user, "user")
    if columns is None:
        lines = _lines_from(body, agent_user)
        if any(len(row) != len(_AGENT_COLUMNS) or _is_name(row[2]) for row in rows) or len(lines) > len(rows):
            return _tutorial_agent(lines, agent_user)
        columns = _AGENT_COLUMNS
    values = _only(rows)
    if len(columns) != len(values):
        _unreadable(f"the row of agent_campaigns has {len(values)} columns where {len(columns)} are named")
    row = dict(zip(columns, values, strict=True))
    if not {"allowed_campaigns_list", "allowed_ingroups_list"} <= row.keys():
        _unreadable("the row of agent_campaigns lacks its lists")
    return _real_agent(agent_user, row["allowed_campaigns_list"], row["allowed_ingroups_list"])


def read_offset(body: str) -> timedelta | None:
    """Read the server's present offset from UTC from an answer of `version`, `None` where it is not told.

    Its `TZ` field can be wrong, so it is `DATE` (read as UTC) less `EPOCH`.
    """
    if (match := _VERSION.search(body)) is None:
        return None
    try:
        local = datetime.fromisoformat(match[1]).replace(tzinfo=UTC)
    except ValueError:
        return None
    offset = timedelta(minutes=round((local.timestamp() - int(match[2])) / 60))
    return offset if abs(offset) < timedelta(days=1) else None


def _find_rows(body: str, asked: str, id_column: str) -> tuple[Sequence[str] | None, list[list[str]]]:
    """Find the different rows that begin with the id asked for, and their columns' names where they are told.

    They can stand amid tens of kilobytes of PHP's warnings.
    """
    header: list[str] | None = None
    rows: dict[tuple[str, ...], list[str]] = {}
    for line in _lines(body):
        names = _split(line, id_column)
        if names is not None and not _COLUMN_NAMES.isdisjoint(names[1:]):
            header = names
        elif (values := _split(line, asked)) is not None:
            rows[tuple(values)] = values
    if not rows:
        _explain(body)
    return header, list(rows.values())


def _split(line: str, first: str) -> list[str] | None:
    """Split a line at the separator that stands behind its first value; `None` where it begins otherwise."""
    if not line or not line.startswith(first):
        return None
    rest = line[len(first) :].lstrip(" ")
    if rest and rest[0] not in _SEPARATORS:
        return None
    return _values(line, rest[0]) if rest else [first]


def _values(line: str, mark: str) -> list[str]:
    """Split a line; where blanks stand beside every separator, they are no part of the values."""
    values = line.split(mark)
    if f"{mark} " not in line:
        return values
    padded = all(value.startswith(" ") for value in values[1:] if value)
    return [value.strip() for value in values] if padded else values


def _only(rows: list[list[str]]) -> list[str]:
    if len(rows) > 1:
        _unreadable("the dialer answered with several different rows for one id")
    return rows[0]


def _lines(body: str) -> list[str]:
    """Split at line feeds alone: `str.splitlines` would also cut at characters inside a field."""
    return body.replace("\r\n", "\n").removesuffix("\r").split("\n")


def _real_call(row: dict[str, str], zone: tzinfo | None) -> CallEnrichment:
    call_type = row.get("call_type") or None
    if call_type is not None and not _CALL_TYPES.fullmatch(call_type):
        _unreadable("callid_info answered with an unknown call type; a field may hold the separator")
    status = row.get("status")
    inbound = call_type == "INBOUND"
    campaign = row.get("campaign_id") or None
    call = CallRecord(
        call_id=row["call_id"],
        direction=None if call_type is None else ("inbound" if inbound else "outbound"),
        call_type=call_type,
        started_at=_time(row.get("call_date", ""), zone),
        talk_seconds=_talk(row.get("custtime", "")),
        agent_user=_agent(row.get("user", "")),
        phone_number=row.get("phone") or None,
        status=status or None,
        campaign_id=None if inbound else campaign,
        in_group_id=campaign if inbound else None,
        list_id=row.get("list_id") or None,
    )
    return CallEnrichment(call=call, final=status not in NOT_FINAL)


def _tutorial_call(values: list[str], zone: tzinfo | None) -> CallEnrichment:
    """Read the tutorials' order: id, start, end, direction, agent, phone, status, recording file."""
    if len(values) not in (_TUTORIAL_CALL_COLUMNS - 1, _TUTORIAL_CALL_COLUMNS):
        _unreadable(f"the row of callid_info has {len(values)} columns, which fits no known order")
    call_id, start, end, direction, user, phone, status, *recording = values
    way = _DIRECTIONS.get(direction.lower())
    if way is None or not any(letter.isalpha() for letter in status):
        _unreadable("the row of callid_info fits no known order")
    started, ended = _naive_time(start), _naive_time(end)
    duration = None if started is None or ended is None else int((ended - started).total_seconds())
    call = CallRecord(
        call_id=call_id,
        direction=way,
        started_at=_in_zone(started, zone),
        ended_at=_in_zone(ended, zone),
        duration_seconds=duration if duration is not None and duration >= 0 else None,
        agent_user=_agent(user),
        phone_number=phone or None,
        status=status,
        recordings=tuple(Recording(file_name=name) for name in recording if name),
    )
    return CallEnrichment(call=call, final=status.upper() not in NOT_FINAL)


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
    lines = list(dropwhile(lambda line: _split(line, asked) is None, dict.fromkeys(_lines(body))))
    mark = lines[0][len(asked) :].lstrip(" ")[:1]
    return [line for line in lines if mark in line and line.strip() and not line.startswith("<")]


def _tutorial_agent(lines: list[str], agent_user: str) -> AgentEnrichment:
    """Read the tutorials' order: agent, then pairs of campaign id and name.

    All on one line or a pair a line, with the agent on the first line or on each.
    """
    mark = lines[0][len(agent_user) :].lstrip(" ")[:1]
    campaigns: dict[str, Campaign] = {}
    for line in lines:
        values = _split(line, agent_user)
        if values is None:
            mark = mark or next((each for each in _SEPARATORS if each in line), "|")
            values = [agent_user, *_values(line, mark)]
        for campaign in _pairs(values[1:]):
            if campaigns.setdefault(campaign.campaign_id, campaign) != campaign:
                _unreadable("the answer of agent_campaigns gives one campaign two names")
    if not campaigns:
        _unreadable("the answer of agent_campaigns names no campaign")
    return AgentEnrichment(agent=AgentRecord(agent_user=agent_user, campaigns=tuple(campaigns.values())))


def _pairs(values: list[str]) -> list[Campaign]:
    ids, names = values[::2], values[1::2]
    if len(ids) != len(names) or not all(ids) or any(" " in each for each in ids):
        _unreadable("the answer of agent_campaigns fits no known order")
    return [Campaign(campaign_id=each, name=name or None) for each, name in zip(ids, names, strict=True)]


def _is_name(text: str) -> bool:
    """Tell a campaign's name from a list of in-groups, whose ids have neither spaces nor small letters."""
    return " " in text or text != text.upper()


def _explain(body: str) -> NoReturn:
    """Raise the error that an answer without a row stands for."""
    text = body.strip()
    if (error := _ERROR_LINE.search(body)) is not None:
        _explain_error(error[1])
    if not text:
        raise EnrichmentUnavailable("the dialer answered with an empty body")
    if text.startswith("MySQL connect ERROR"):
        raise EnrichmentUnavailable("the dialer can't reach its database")
    if _HTML.search(text):
        raise EnrichmentUnavailable("the dialer answered with a page of HTML instead of a row")
    _unreadable("the dialer's answer has no row for the id asked for")


def _explain_error(text: str) -> NoReturn:
    said = text.partition(":")[0].upper()  # what follows repeats the request
    if (known := _first_in(said, _NOT_FOUND)) is not None:
        raise NotReady(f"the dialer says {known}")
    if (known := _first_in(said, _REJECTED)) is not None:
        raise EnrichmentRejected(f"the dialer says {known}: this can't be a call id on that server")
    if (known := _first_in(said, _REFUSED)) is not None:
        raise EnrichmentUnavailable(f"the dialer says {known}: {_REFUSED[known]}", Fault.REFUSED)
    _unreadable("the dialer answered with an ERROR of an unknown kind")


def _first_in(text: str, known: Sequence[str] | dict[str, str]) -> str | None:
    return next((words for words in known if words in text), None)


def _unreadable(message: str) -> NoReturn:
    raise EnrichmentUnavailable(message, Fault.UNREADABLE)


def _talk(text: str) -> int | None:
    if text and not _NUMBER.fullmatch(text):
        _unreadable("callid_info answered with a talk time that is not a number")
    seconds = int(text) if text else -1
    return seconds if seconds >= 0 else None


def _agent(user: str) -> str | None:
    return None if user in NOBODY else user


def _naive_time(text: str) -> datetime | None:
    if not text or text.startswith("0000-00-00"):
        return None
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        _unreadable("the dialer answered with a time that can't be read")
    if when.tzinfo is not None:
        _unreadable("the dialer answered with a time that has a zone, which it never has")
    return when


def _in_zone(when: datetime | None, zone: tzinfo | None) -> datetime | None:
    return None if when is None or zone is None else when.replace(tzinfo=zone)


def _time(text: str, zone: tzinfo | None) -> datetime | None:
    return _in_zone(_naive_time(text), zone)
