"""Which recordings belong to a call: what to search for, and which of the rows found are its own.

VICIdial's `recording_lookup` finds by a `uniqueid`, of which it looks at the
second alone, by lead, or by agent and day; each can give other calls'
recordings too. A recording of somebody else's call in a CRM is worse than
none, so each row must fit the call's agent and time.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, tzinfo

from worker.core.events import Event
from worker.core.records import CallRecord, Recording
from worker.vicidial.extras import FoundRecording

Search = tuple[tuple[str, str], ...]
"""The parameters of one search, as pairs of name and value."""

_UNIQUEID = re.compile(r"[0-9]{10}\.[0-9]{1,9}")
_LEAD = re.compile(r"[0-9]{1,10}")
_USER = re.compile(r"[-_0-9a-zA-Z]+")
_TRUNCATED = timedelta(seconds=1)
"""Both of the dialer's times are in whole seconds."""


def searches(call: CallRecord, event: Event, zone: tzinfo | None) -> list[Search]:
    """Give what to search for: the narrowest way there is, and nothing where no row could be told apart.

    No agent took the call, or it is not known when: then none of the rows could be known to be its own.
    """
    if call.agent_user is None or call.started_at is None:
        return []
    if event.uniqueid is not None and _UNIQUEID.fullmatch(event.uniqueid):
        return [(("uniqueid", event.uniqueid),)]
    if event.lead_id is not None and _LEAD.fullmatch(event.lead_id):
        return [(("lead_id", event.lead_id),)]
    end = _end(call, event)
    if end is None or not _USER.fullmatch(call.agent_user):
        return []
    days = dict.fromkeys(when.astimezone(zone).date().isoformat() for when in (call.started_at, end))
    return [(("agent_user", call.agent_user), ("date", day)) for day in days]


def own(found: Iterable[FoundRecording], call: CallRecord, event: Event) -> list[FoundRecording]:
    """Give the rows that belong to the call, the longest first.

    They are its agent's and its lead's; they begin while the call lasts; and
    none begins later after the first one than the agent talked, since that one
    began no sooner than the talk.
    """
    begin, end = call.started_at, _end(call, event)
    if begin is None or call.agent_user is None:
        return []
    agent = call.agent_user.casefold()
    rows = [
        (each.recording.started_at, each)
        for each in found
        if each.agent_user.casefold() == agent
        and (event.lead_id is None or each.lead_id in (None, event.lead_id))
        and each.recording.started_at is not None
        and begin - _TRUNCATED <= each.recording.started_at
        and (end is None or each.recording.started_at <= end)
    ]
    if not rows:
        return []
    first = min(started for started, _ in rows)
    talk = timedelta(seconds=max(1, call.talk_seconds or 0))
    return sorted((each for started, each in rows if started < first + talk), key=_longest_first)


def lead_of(rows: Sequence[FoundRecording]) -> str | None:
    """Give the lead that all of these rows name, `None` where they name none or several."""
    leads = {each.lead_id for each in rows}
    return leads.pop() if len(leads) == 1 else None


def records(rows: Iterable[FoundRecording]) -> tuple[Recording, ...]:
    """Give the records alone."""
    return tuple(each.recording for each in rows)


def _end(call: CallRecord, event: Event) -> datetime | None:
    """Give a time at which the call was over, as near to its end as is known."""
    return call.ended_at or event.ended_at or (event.occurred_at if event.dated else None)


def _longest_first(each: FoundRecording) -> tuple[int, str]:
    started = each.recording.started_at
    return -(each.recording.duration_seconds or 0), started.isoformat() if started else ""
