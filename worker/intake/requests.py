"""Requests read as events, without I/O: VICIdial's URLs, plain JSON, and CloudEvents over HTTP.

A `Record` is one event as it is published. Its id depends on the request alone, so a request that is
repeated gives the same event.

CloudEvents follow the HTTP protocol binding 1.0.2: structured (`application/cloudevents+json`), batch
(`application/cloudevents-batch+json`), and binary (`ce-…` headers, section 3.1). What is published is the
AMQP form of the same event: structured as it came, binary with `cloudEvents:…` headers, a batch as one
structured event each.
"""

import json
import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, unquote_to_bytes

from worker.core.errors import InvalidEvent
from worker.core.events import NOBODY, Event, EventType, Inbound, decode, name_of, parse_json, read_time

PLAIN = "application/json"
STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"

CALL_FIELDS = (
    "uniqueid",
    "lead_id",
    "agent_user",
    "campaign_id",
    "in_group_id",
    "list_id",
    "phone_number",
    "status",
)
"""The optional fields of a call that VICIdial's URL may have."""

_OF_CALLS = uuid.UUID("a4b6a3f2-6d0d-4d53-9a0e-6c1b8f6c2f10")
_CALL_ID = re.compile(r"[A-Z][0-9A-Za-z]{17,38}")
"""What VICIdial's `callid_info` accepts."""
_ANY_CALL_ID = re.compile(rf"{_CALL_ID.pattern}|[0-9]{{1,39}}")
"""Servers of the tutorials' kind number their calls."""
_AGENT = re.compile(r"[-_0-9A-Za-z]{1,100}")
"""VICIdial drops any other character of a user silently."""
_UNFILLED = re.compile(r"--A--.*--B--", re.DOTALL)
"""A variable that VICIdial did not fill in, as it does not know it."""
_LONGEST_FIELD = 255
_REQUIRED = ("specversion", "id", "source", "type")
_CE = "ce-"
_SPECVERSION = "1.0"


class UnsupportedType(Exception):
    """The body has a content type that is not understood. The text says which are."""


@dataclass(frozen=True, slots=True)
class Record:
    """One event as it is published: checked, with an id, and routed by its type."""

    id: str
    type: str
    body: bytes
    content_type: str = PLAIN
    at: int = 0
    """When the request came, in seconds since 1970: the time of an event that names none."""
    headers: Mapping[str, str] = field(default_factory=dict)
    subject: str = field(default="", compare=False)
    """The call id, or the agent's user, for the log; it is not kept in the spool."""


def read_query(raw: str) -> dict[str, str]:
    """Read a query string in percent-encoding; of several fields of one name, the first counts.

    A value that is not UTF-8 is taken for cp1252, MySQL's latin1: VICIdial encodes what its database holds.
    """
    pairs = parse_qsl(raw, keep_blank_values=True, encoding="latin-1")
    return {name: _decoded(value.encode("latin-1")) for name, value in reversed(pairs)}


def _decoded(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("cp1252", "replace")


def read_call(query: Mapping[str, str], now: datetime) -> Record:
    """Read the parameters of VICIdial's Dispo Call URL or No Agent Call URL. Raises `InvalidEvent`."""
    call_id = query.get("call_id", "")
    if _CALL_ID.fullmatch(call_id) is None:
        raise InvalidEvent("call_id is missing, or is none of VICIdial's, such as V1201405090000012345")
    occurred_at = query.get("occurred_at") or now.astimezone(UTC).isoformat(timespec="seconds")
    if read_time(occurred_at) is None:
        raise InvalidEvent("occurred_at is not a time such as 2026-11-20T14:07:14-05:00")
    said = {name: query.get(name, "").strip()[:_LONGEST_FIELD] for name in CALL_FIELDS}
    known = {name: value for name, value in said.items() if value not in NOBODY and not _is_unfilled(value)}
    event_id = str(uuid.uuid5(_OF_CALLS, f"{call_id} {known.get('uniqueid', '')}"))
    event = {
        "type": EventType.CALL_ENDED,
        "event_id": event_id,
        "occurred_at": occurred_at,
        "call_id": call_id,
    }
    return _record(_encode(event | known), PLAIN, {}, now)


def _is_unfilled(value: str) -> bool:
    return _UNFILLED.fullmatch(value) is not None


def read_body(
    body: bytes, content_type: str, headers: Iterable[tuple[str, str]], now: datetime
) -> list[Record]:
    """Read the body of `POST /events`: one event, or a batch.

    Raises `InvalidEvent`, with a sentence for the producer, if any event is wrong; `UnsupportedType` for a
    content type that is not understood.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == BATCH:
        return _read_batch(body, now)
    if kind == STRUCTURED:
        return [_read_structured(body, now)]
    if kind.startswith("application/cloudevents"):
        raise UnsupportedType(f"CloudEvents are accepted as {STRUCTURED} and {BATCH}, in JSON alone")
    if kind not in ("", PLAIN, "text/json") and not kind.endswith("+json"):
        raise UnsupportedType(f"the content type is none of {PLAIN}, {STRUCTURED}, {BATCH}")
    attributes = {name[len(_CE) :].lower(): value for name, value in headers if name.lower().startswith(_CE)}
    if "specversion" not in attributes:
        return [_record(body, PLAIN, {}, now)]
    decoded = {name: _percent_decoded(value) for name, value in attributes.items()}
    _check_attributes(decoded)
    return [_record(body, PLAIN, {f"cloudEvents:{name}": value for name, value in decoded.items()}, now)]


def _read_batch(body: bytes, now: datetime) -> list[Record]:
    events = parse_json(body, "the batch")
    if not isinstance(events, list):
        raise InvalidEvent(f"the batch is not a JSON array but {name_of(events)}")
    records = []
    for number, event in enumerate(events):
        try:
            records.append(_read_structured(_encode(event), now))
        except InvalidEvent as error:
            raise InvalidEvent(f"event {number} of the batch, counted from 0: {error}") from error
    return records


def _read_structured(body: bytes, now: datetime) -> Record:
    event = parse_json(body)
    if not isinstance(event, dict):
        raise InvalidEvent(f"the CloudEvent is not a JSON object but {name_of(event)}")
    _check_attributes(event)
    return _record(body, STRUCTURED, {}, now)


def _check_attributes(attributes: Mapping[str, Any]) -> None:
    """Raise `InvalidEvent` unless the event has the attributes that each CloudEvent must have."""
    for name in _REQUIRED:
        value = attributes.get(name)
        if not isinstance(value, str) or not value:
            raise InvalidEvent(f"the CloudEvent has no {name}, which is required and a text")
    if attributes["specversion"] != _SPECVERSION:
        raise InvalidEvent(f"the specversion of the CloudEvent is not {_SPECVERSION}")


def _percent_decoded(value: str) -> str:
    """Return the value of a `ce-…` header (HTTP binding, section 3.1.3.2). Raises `InvalidEvent`."""
    text = value.strip()
    if len(text) > 1 and text.startswith('"') and text.endswith('"'):
        text = re.sub(r"\\(.)", r"\1", text[1:-1])
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeError as error:
        raise InvalidEvent("an attribute of the CloudEvent is not UTF-8 in percent-encoding") from error


def _record(body: bytes, content_type: str, headers: Mapping[str, str], now: datetime) -> Record:
    """Check an event as the worker will, and its id as VICIdial will. Raises `InvalidEvent`."""
    event = decode(Inbound(body, routing_key="", first_seen=now, headers=headers, content_type=content_type))
    _check_subject(event)
    return Record(event.id, str(event.type), body, content_type, int(now.timestamp()), headers, event.subject)


def _check_subject(event: Event) -> None:
    if event.type is EventType.CALL_ENDED and _ANY_CALL_ID.fullmatch(event.subject) is None:
        raise InvalidEvent("call_id is none of VICIdial's, such as V1201405090000012345")
    if event.type is EventType.AGENT_ONBOARDED and _AGENT.fullmatch(event.subject) is None:
        raise InvalidEvent("agent_user is none of VICIdial's: letters, digits, dashes and underscores")


def _encode(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
