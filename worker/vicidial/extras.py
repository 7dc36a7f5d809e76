"""Reading what the dialer tells beside a call or an agent: recordings, campaigns' names, users' details.

Each of these functions has permissions of its own, and an integration can do
without all of them. The answers are those of the real API, asked for with
``stage=pipe``, ``header=YES`` and, for `recording_lookup`, ``duration=Y``.

Raises `EnrichmentUnavailable` (`FunctionRefused` where only the function is
refused), `read_recordings` also `EnrichmentRejected`; and nothing else.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from worker.core.errors import EnrichmentRejected
from worker.core.records import Recording
from worker.vicidial.error_answers import error_message, explain, unreadable
from worker.vicidial.rows import (
    DialerTimes,
    by_name,
    find_rows,
    lines,
    only_row,
    seconds,
    split_row,
    split_values,
)

_RECORDING_COLUMNS = ("start_time", "user", "recording_id", "lead_id", "location")
_LENGTHS = frozenset({"length_in_sec", "duration"})
_STARTS_WITH_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}")
_RECORDING_ID = re.compile(r"[0-9]{1,20}")
_NO_LEAD = frozenset({"", "0", "NULL"})
"""VICIdial counts leads from 1."""

_CAMPAIGN_ID = "campaign_id"
_OTHER_CAMPAIGN_COLUMNS = frozenset({"campaign_name", "active", "user_group"})
_FEWEST_CAMPAIGN_COLUMNS = 8
_STARTS_WITH_CAMPAIGN = re.compile(r"[-\w]{1,32} *([|\t,])")
_LONGEST_ID = 32
"""VICIdial's own are of eight characters at most."""
_ACTIVE = {"Y": True, "N": False}
_NO_ROW = ("<", "ERROR:", "DEBUG:")
"""What lines begin with that are no rows: PHP's warnings, VICIdial's errors and queries."""

_DETAILS_COLUMNS = ("user", "full_name", "user_group", "user_level", "active")
_OTHER_DETAILS = frozenset(_DETAILS_COLUMNS[1:])
_LEVEL = re.compile(r"[0-9]{1,2}")


@dataclass(frozen=True, slots=True)
class FoundRecording:
    """A recording, and by what to tell whose it is: a search can find those of other calls too."""

    recording: Recording
    agent_user: str
    lead_id: str | None


@dataclass(frozen=True, slots=True)
class KnownCampaign:
    """One of the dialer's campaigns. `name` is `None` where it has none, or none that could be read."""

    name: str | None
    active: bool


@dataclass(frozen=True, slots=True)
class UserDetails:
    """What the dialer knows of a user."""

    full_name: str | None
    user_group: str | None
    user_level: int | None


# --- recording_lookup


def read_recordings(body: str, times: DialerTimes) -> list[FoundRecording]:
    """Read an answer of `recording_lookup`, in its order; empty where nothing was found.

    Raises `EnrichmentRejected` where the dialer has no call with what was searched for.
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
    """Give the columns' names: with `duration=Y` the rows have one before the last that the header lacks."""
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
    url, file_name = _place(row.get("location", ""))
    recording = Recording(
        recording_id=recording_id,
        file_name=file_name,
        url=url,
        started_at=times.read(row["start_time"]),
        duration_seconds=seconds(length, "recording's length"),
    )
    return FoundRecording(recording, row["user"], None if lead in _NO_LEAD else lead)


def _place(location: str) -> tuple[str | None, str | None]:
    """Give a recording's address and its file's name: the location is either an address or a path."""
    if location in ("", "NULL"):
        return None, None
    scheme, _, rest = location.partition("://")
    if scheme.lower() not in ("http", "https"):
        return None, location.rpartition("/")[2] or None
    path = rest.partition("?")[0].partition("/")[2]
    return location, path.rpartition("/")[2] or None


# --- campaigns_list


def read_campaigns(body: str) -> dict[str, KnownCampaign]:
    """Read an answer of `campaigns_list`, by campaign id; empty where the API user may see none.

    A campaign's name that holds the separator makes its row longer than the
    header: the id stands before it, and what stands behind it is counted from
    the end. If that leaves in doubt which field holds the separator, only the
    name is left out. Whatever else does not fit is an error: an agent's joined
    list would be split wrongly where a campaign is missing here.
    """
    header, rows = _campaign_rows(body)
    if not rows:
        if "NO VIEWABLE CAMPAIGNS" in error_message(body):
            return {}
        raise explain(body, "campaigns_list")
    if header is None and len({len(row) for row in rows}) > 1:
        raise unreadable("the rows of campaigns_list differ in length; a field may hold the separator")
    found: dict[str, KnownCampaign] = {}
    for row in rows:
        campaign = _campaign_by_shape(row) if header is None else _campaign_by_name(header, row)
        if not 0 < len(row[0]) <= _LONGEST_ID:
            raise unreadable("a row of campaigns_list has no campaign id")
        if found.setdefault(row[0], campaign) != campaign:
            raise unreadable("campaigns_list tells one campaign in two ways")
    return found


def _campaign_rows(body: str) -> tuple[list[str] | None, list[list[str]]]:
    """Find the rows: what holds the header's separator, or else that of the first line that begins as one."""
    all_lines = lines(body)
    header, mark = None, None
    for line in all_lines:
        names = split_row(line, _CAMPAIGN_ID)
        if names is not None and not _OTHER_CAMPAIGN_COLUMNS.isdisjoint(names[1:]):
            header, mark = names, line[len(_CAMPAIGN_ID) :].lstrip(" ")[0]
            break
    if mark is None:
        first = next(filter(None, map(_STARTS_WITH_CAMPAIGN.match, all_lines)), None)
        if first is None:
            return None, []
        mark = first[1]
    rows = [split_values(line, mark) for line in all_lines if mark in line and not line.startswith(_NO_ROW)]
    return header, [row for row in rows if row != header]


def _campaign_by_name(header: list[str], values: list[str]) -> KnownCampaign:
    """Read name and mark by their columns; the mark tells on which side of it a field holds the separator."""
    if "campaign_name" not in header or "active" not in header:
        raise unreadable("campaigns_list names no column of names, or none that tells which are active")
    name, mark = header.index("campaign_name"), header.index("active")
    surplus = len(values) - len(header)
    if surplus <= 0 or name > mark:
        row = by_name("campaigns_list", header, values)
        return _known_campaign(row["campaign_name"], row["active"])
    if values[mark] not in _ACTIVE:
        row = by_name("campaigns_list", header, values, free_text="campaign_name")
        return _known_campaign(row["campaign_name"], row["active"])
    if values[mark + surplus] not in _ACTIVE:
        return _known_campaign(values[name], values[mark])
    return _known_campaign("", values[mark + surplus])


def _campaign_by_shape(values: list[str]) -> KnownCampaign:
    """Read id, name and mark: without a header the mark alone tells where the name ends."""
    marks = [at for at, value in enumerate(values[:-5]) if value in _ACTIVE and at > 1]
    if len(values) < _FEWEST_CAMPAIGN_COLUMNS or marks != [2]:
        raise unreadable("a row of campaigns_list fits no known order")
    return _known_campaign(values[1], values[2])


def _known_campaign(name: str, active: str) -> KnownCampaign:
    if active not in _ACTIVE:
        raise unreadable("campaigns_list does not tell of a campaign whether it is active")
    return KnownCampaign(name or None, _ACTIVE[active])


# --- user_details


def read_user_details(body: str, agent_user: str) -> UserDetails | None:
    """Read an answer of `user_details` about one user; `None` where there is none that may be seen.

    The row has the database's spelling of the user, whatever the case of the letters asked for.
    """
    header, rows = find_rows(body, agent_user, "user", _OTHER_DETAILS, any_case=True)
    if not rows:
        if "USER NOT FOUND" in error_message(body):
            return None
        raise explain(body, "user_details")
    values = only_row(rows)
    columns: Sequence[str] = _DETAILS_COLUMNS if header is None else header
    row = by_name("user_details", columns, values, free_text="full_name")
    if (header is None or len(values) > len(columns)) and row.get("active") not in _ACTIVE:
        raise unreadable("the row of user_details fits no known order")
    level = row.get("user_level") or None
    if level is not None and not _LEVEL.fullmatch(level):
        raise unreadable("user_details answered with a user level that is not a number")
    return UserDetails(
        full_name=row.get("full_name") or None,
        user_group=row.get("user_group") or None,
        user_level=None if level is None else int(level),
    )
