"""What happened, as the producer said it: one AMQP message decoded into an `Event`.

Three envelopes are understood: plain JSON, CloudEvents 1.0 structured
(`application/cloudevents+json`) and CloudEvents 1.0 binary, whose attributes
are message properties named `cloudEvents:…` or `cloudEvents_…` (CloudEvents
AMQP binding, section 3.1.3.1) or, as HTTP bridges write them, `ce-…`, in any case.

**A body** is one JSON object, bounded in size, in depth and in what its numbers can hold. One within the
limit costs at most a small multiple of what `json.loads` alone does, in time and in memory.

**A time** is RFC 3339 in full, and ISO 8601 as far as it has only one meaning. `datetime.fromisoformat`
refuses some of RFC 3339 (small letters, leap seconds), and what it accepts differs between versions of
Python.

**An id** goes through script languages, tables and data frames on its way: a number becomes a fraction,
gets leading zeros, or is replaced by a word for "nothing", and a text gets blanks around it. The functions
here return the id that is meant, or `None` if none is.
"""

import base64
import json
import math
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from enum import StrEnum
from typing import Annotated, Any, NoReturn

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from worker.core.errors import InvalidEvent

MAX_EXPECTED_CAMPAIGNS = 1000
"""How many campaigns an agent can be expected to have."""

CLOUDEVENTS_PREFIXES = ("cloudEvents:", "cloudEvents_", "ce-")
"""How the headers begin that hold the attributes of a binary CloudEvent."""

_STRUCTURED = "application/cloudevents+json"
_BATCH = "application/cloudevents-batch"
_YEARS = range(1970, 3000)
_EARLIEST = datetime(1, 1, 2, tzinfo=UTC)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_SHOWN = 80


class EventType(StrEnum):
    """What can happen; also the routing keys of the events exchange."""

    CALL_ENDED = "call.ended"
    AGENT_ONBOARDED = "agent.onboarded"


_EVENT_TYPES = {str(kind): kind for kind in EventType}


@dataclass(slots=True)
class Inbound:
    """One AMQP message as the core sees it.

    `attempt` counts from 1. `event_id`, `enrichment` and `progress` are what a copy of
    ours carries in its headers, `None` on a producer's own message.
    """

    body: bytes
    routing_key: str
    first_seen: datetime
    headers: Mapping[str, Any]
    content_type: str | None = None
    message_id: str | None = None
    type: str | None = None
    timestamp: datetime | None = None
    attempt: int = 1
    event_id: str | None = None
    enrichment: str | bytes | None = None
    progress: str | None = None


@dataclass(slots=True)
class Event:
    """One event. `occurred_at` is in UTC and never after the message was first seen."""

    type: EventType
    id: str
    occurred_at: datetime
    subject: str
    """The call id, or the agent's user."""
    data: dict[str, Any]
    """The event as its producer sent it; of a CloudEvent, its data."""
    dated: bool = False
    """Whether its producer said when it happened; else that is the time it was first seen."""
    ended_at: datetime | None = None
    """When the call ended, in the producer's offset; None if the producer did not say so itself."""
    uniqueid: str | None = None
    lead_id: str | None = None
    expected_campaigns: tuple[str, ...] | None = None


# --- a body ---------------------------------------------------------------------------------------

MAX_BODY = 1024 * 1024
"""The largest body that is parsed, in bytes."""

MAX_DEPTH = 100
"""How deep arrays and objects may be nested; pydantic can't write more than about 200."""

_GZIP = b"\x1f\x8b"
_TOO_DEEP = f"arrays and objects are nested more than {MAX_DEPTH} deep"


def parse_object(body: bytes, what: str = "the body") -> dict[str, Any]:
    """Parse a JSON object. Raises `InvalidEvent`, whose text calls the body `what`."""
    data = parse_json(body, what)
    if not isinstance(data, dict):
        raise InvalidEvent(f"{what} is not a JSON object but {name_of(data)}")
    return data


def parse_json(body: bytes, what: str = "the body") -> object:
    """Parse a JSON value. Raises `InvalidEvent`, whose text calls the body `what`."""
    if len(body) > MAX_BODY:
        raise InvalidEvent(f"{what} has {len(body)} bytes; the limit is {MAX_BODY}")
    try:
        data: object = _JSON.decode(body.decode().removeprefix("\ufeff"))
        if b"\\ud" in body or b"\\uD" in body:
            json.dumps(data, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        if body.startswith(_GZIP):
            raise InvalidEvent(f"{what} is not UTF-8 but gzip; publish it without compression") from error
        raise InvalidEvent(f"{what} is not UTF-8: {error.reason} at byte {error.start}") from error
    except UnicodeEncodeError as error:
        raise InvalidEvent(f"{what} has half of a surrogate pair, which no text can hold") from error
    except RecursionError as error:
        raise InvalidEvent(_TOO_DEEP) from error
    except ValueError as error:
        problem, _, _ = str(error).partition("; use sys.")  # Python's hint on long numbers
        raise InvalidEvent(f"{what} is not JSON: {problem}") from error
    if (
        isinstance(data, dict | list)
        and body.count(b"[") + body.count(b"{") > MAX_DEPTH
        and _is_too_deep(data)
    ):
        raise InvalidEvent(_TOO_DEEP)
    return data


def name_of(value: object) -> str:
    """Return what JSON calls a value."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _is_too_deep(data: dict[str, Any] | list[Any]) -> bool:
    level: list[Any] = [data]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if type(outer) is dict else outer)
            if (type(inner) is dict or type(inner) is list) and inner
        ]
        if not level:
            return False
    return True


def _not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON value")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"the number {digits[:40]} is too large")
    return value


_JSON = json.JSONDecoder(parse_constant=_not_json, parse_float=_finite)


# --- a time ---------------------------------------------------------------------------------------

_TIME = re.compile(
    r"""(?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2} | [0-9]{8} | [0-9]{4}-W[0-9]{2}-[1-7] | [0-9]{4}W[0-9]{2}[1-7])
        [T_ ]
        (?P<hour>[0-9]{2}) (?P<colon>:?) (?P<minute>[0-9]{2})
        (?: (?P=colon) (?P<second>[0-9]{2}) (?: [.,] (?P<fraction>[0-9]+) )? )?
        \ ? (?P<offset> Z | UTC | GMT
                | (?P<sign>[-+\u2212]) (?P<hours>[0-9]{2})
                  (?: :? (?P<minutes>[0-9]{2}) (?: :? (?P<seconds>[0-9]{2}) )? )?
             )?
        (?(offset) (?: \[ [-+_/A-Za-z0-9]{1,64} \] )? )
    """,
    re.VERBOSE | re.IGNORECASE,
)
_USUAL_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{6})?"
    r"(?:Z|[-+](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
"""A time as nearly every producer writes it, which Python's own parser reads right, and much faster."""
_MINUTES = 60
_HOURS = 24


def read_time(text: str) -> datetime | None:
    """Parse a date with a time of day; return None for anything else. Without an offset, the result is naive.

    A leap second is the second after it, `24:00` is the next midnight, and digits beyond microseconds are cut
    off. Behind an offset the zone's name may be in brackets (RFC 9557, as Java writes it); the offset counts.
    """
    try:
        if _USUAL_TIME.fullmatch(text):
            return datetime.fromisoformat(text)
        if (match := _TIME.fullmatch(text.strip())) is None:
            return None
        start = datetime.combine(date.fromisoformat(match["date"].upper()), datetime.min.time())
        return (start + _time_of_day(match)).replace(tzinfo=_offset(match))
    except (ValueError, OverflowError):
        return None


def _time_of_day(match: re.Match[str]) -> timedelta:
    hour, minute, second = int(match["hour"]), int(match["minute"]), int(match["second"] or 0)
    when = timedelta(
        hours=hour,
        minutes=minute,
        seconds=second,
        microseconds=int((match["fraction"] or "")[:6].ljust(6, "0")),
    )
    if minute >= _MINUTES or second > _MINUTES or (hour >= _HOURS and when != timedelta(hours=_HOURS)):
        raise ValueError("no such time of day")
    return when


def _offset(match: re.Match[str]) -> tzinfo | None:
    if match["sign"] is None:
        return UTC if match["offset"] else None
    hours, minutes, seconds = (int(match[part] or 0) for part in ("hours", "minutes", "seconds"))
    if hours >= _HOURS or minutes >= _MINUTES or seconds >= _MINUTES:
        raise ValueError("no such offset")
    offset = timedelta(hours=hours, minutes=minutes, seconds=seconds)
    return timezone(offset if match["sign"] == "+" else -offset)


# --- an id ----------------------------------------------------------------------------------------

MAX_ID = 255
EVENT_ID_PATTERN = f"^[!-~]{{1,{MAX_ID}}}$"
"""An event id can travel as an HTTP header and as an AMQP property: visible ASCII."""

_INVISIBLE_RANGES = (
    (0x00, 0x20),  # control characters, and the blank
    (0x7F, 0xA0),  # more control characters, and the no-break space
    (0xAD, 0xAD),  # soft hyphen
    (0x34F, 0x34F),  # from here on: what Unicode has as white space, or as ignorable by default
    (0x61C, 0x61C),
    (0x115F, 0x1160),
    (0x1680, 0x1680),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x2000, 0x200F),
    (0x2028, 0x202F),
    (0x205F, 0x206F),
    (0x2800, 0x2800),  # braille without a dot
    (0x3000, 0x3000),
    (0x3164, 0x3164),
    (0xFE00, 0xFE0F),
    (0xFEFF, 0xFEFF),  # byte order mark
    (0xFFA0, 0xFFA0),
    (0xFFF0, 0xFFFB),
)
_INVISIBLE = "".join(chr(code) for first, last in _INVISIBLE_RANGES for code in range(first, last + 1))
VISIBLE_PATTERN = "[^" + "".join(rf"\u{first:04x}-\u{last:04x}" for first, last in _INVISIBLE_RANGES) + "]"
"""Found in every text that is not blank."""

NOBODY = frozenset({"", "VDAD", "VDCL"})
"""Users that VICIdial writes if no agent took the call."""

LARGEST_LEAD = 2**32 - 1
"""VICIdial counts leads from 1, in an `INT UNSIGNED` column."""

_LARGEST_EXACT = 2**53
"""From here on a fraction's digits are not all its own."""
_NOTHING = frozenset(
    {"", "-", "--", "undefined", "null", "(null)", "<null>", "\\n", "none", "nan", "nil", "n/a", "#n/a"}
)
"""What languages and tables write for a missing value, in small letters."""
_UNFILLED = "--A--"
"""What VICIdial's own variables in a URL begin with if it did not fill them in."""
_EVENT_ID = re.compile(rf"[!-~]{{1,{MAX_ID}}}")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_NAMESPACE = uuid.UUID("6f0c2a53-4d0e-5a0b-9f39-6f6d1f2b6c11")
_WHOLE = re.compile(r"([0-9]+)\.0+")
_LEAD = re.compile(r"\+?0*([1-9][0-9]{0,9})(?:\.0*)?")


def whole_id(value: object) -> object:
    """Return an id as `plain_text` does; a text that is a number without its fraction of zeros."""
    text = plain_text(value)
    number = _WHOLE.fullmatch(text) if isinstance(text, str) else None
    return text if number is None else number[1]


def plain_text(value: object) -> object:
    """Return text without what surrounds it and can't be seen, and a number as text.

    A whole number is written without a fraction. Anything else is returned as it is, for
    whoever validates it.
    """
    if isinstance(value, str):
        return value.strip(_INVISIBLE)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) <= _LARGEST_EXACT:
        return str(int(value))
    return str(value)


def known_id(value: object) -> object:
    """Return an id as `whole_id` does, `None` for a word that stands for nothing."""
    return _unless_nothing(whole_id(value))


def known_uniqueid(value: object) -> object:
    """Return Asterisk's id of a call, which may end with zeros; `None` for a word that stands for nothing."""
    return _unless_nothing(plain_text(value))


def _unless_nothing(text: object) -> object:
    nothing = isinstance(text, str) and (text.casefold() in _NOTHING or text.startswith(_UNFILLED))
    return None if nothing else text


def known_lead(value: object) -> object:
    """Return a lead as `lead_number` does; what is neither text nor a number is returned as it is."""
    text = plain_text(value)
    return lead_number(text) if isinstance(text, str) else value


def lead_number(text: str) -> str | None:
    """Return a lead's number without leading zeros, `None` for what can't be a lead."""
    number = _LEAD.fullmatch(text.strip())
    return number[1] if number is not None and int(number[1]) <= LARGEST_LEAD else None


def known_agent(value: object) -> object:
    """Return an agent's user, `None` for the users that VICIdial writes if there is none, and for 0."""
    user = known_id(value)
    return None if user == "0" or (isinstance(user, str) and user.upper() in NOBODY) else user


def usable_id(value: object) -> str | None:
    """Return an event id as `plain_text` does, `None` for what can't be one, or stands for nothing."""
    if value is None:
        return None
    text = _unless_nothing(plain_text(value))
    return text if isinstance(text, str) and _EVENT_ID.fullmatch(text) else None


def derived_id(*parts: str) -> str:
    """Derive an event id: the same parts always give the same one."""
    return str(uuid.uuid5(_NAMESPACE, "\n".join(parts)))


# --- an event -------------------------------------------------------------------------------------


def _required(value: object) -> object:
    if value == "":
        raise PydanticCustomError("blank", "the text is blank; an id has at least one visible character")
    if isinstance(value, str) and value.startswith(_UNFILLED):
        raise PydanticCustomError("unfilled", "VICIdial did not fill in its variable")
    return value


def _required_call(value: object) -> object:
    """Refuse a word for "nothing", which no call's id can be. An agent may be called so."""
    if value != "" and isinstance(value, str) and value.casefold() in _NOTHING:
        raise PydanticCustomError("nothing", "the text stands for a value that is missing")
    return _required(value)


def _known_event_id(value: object) -> object:
    """Return an event id as `plain_text` does. With a word for "nothing", all events would have the same."""
    text = plain_text(value)
    return _required(text) if text == "" else _unless_nothing(text)


_LongText = Annotated[str, Field(max_length=MAX_ID)]
_Id = Annotated[_LongText, BeforeValidator(_required), BeforeValidator(whole_id)]
_CallId = Annotated[_LongText, BeforeValidator(_required_call), BeforeValidator(whole_id)]
_EventId = Annotated[_LongText | None, BeforeValidator(_known_event_id)]
_KnownId = Annotated[_LongText | None, BeforeValidator(known_id)]
_Uniqueid = Annotated[_LongText | None, BeforeValidator(known_uniqueid)]
_Agent = Annotated[_LongText | None, BeforeValidator(known_agent)]
_Lead = Annotated[str | None, BeforeValidator(known_lead)]
_Campaigns = Annotated[list[_Id], Field(fail_fast=True, max_length=MAX_EXPECTED_CAMPAIGNS)]
_Text = Annotated[str, Field(strict=True)]


class CallEnded(BaseModel):
    """The fields of a call's end that are read; others are passed on as they are."""

    model_config = ConfigDict(coerce_numbers_to_str=True)  # producers differ on what an id is
    call_id: _CallId
    uniqueid: _Uniqueid = None
    lead_id: _Lead = None
    agent_user: _Agent = None
    campaign_id: _KnownId = None
    event_id: _EventId = None
    occurred_at: _Text | None = None
    ended_at: _Text | None = None


class AgentOnboarded(BaseModel):
    """The fields of an agent's onboarding that are read; others are passed on as they are."""

    model_config = ConfigDict(coerce_numbers_to_str=True)  # producers differ on what an id is
    agent_user: _Id
    expected_campaigns: _Campaigns | None = None
    event_id: _EventId = None
    occurred_at: _Text | None = None


@dataclass(slots=True)
class _Envelope:
    """What the envelope says, whichever it was; the data inside may say it better."""

    data: dict[str, Any]
    type: object = None
    id: object = None
    source: object = None
    time: object = None


def decode(inbound: Inbound, zone: tzinfo = UTC) -> Event:
    """Read one message. Times without an offset are taken to be in `zone`.

    Raises `InvalidEvent` with a sentence for the producer, and nothing else.
    """
    envelope = None
    try:
        envelope = _open(inbound)
        return _read(envelope, inbound, zone)
    except InvalidEvent as error:
        error.event_id = _claimed_id(envelope, inbound)
        raise


def _read(envelope: _Envelope, inbound: Inbound, zone: tzinfo) -> Event:
    kind = _event_type(envelope, inbound)
    fields = _validate(kind, envelope.data)
    uniqueid = lead_id = expected = ended_at = None
    if isinstance(fields, CallEnded):
        subject, uniqueid, lead_id = fields.call_id, fields.uniqueid, fields.lead_id
        if fields.ended_at is not None:
            ended_at = _ended_at(fields.ended_at, zone)
    else:
        subject, expected = fields.agent_user, fields.expected_campaigns
    said_time = fields.occurred_at if fields.occurred_at is not None else envelope.time
    event_id = (
        usable_id(inbound.event_id)
        or _checked_id(fields.event_id, "event_id")
        or _cloud_event_id(envelope)
        or usable_id(inbound.message_id)
        # of the event alone, so that a producer's repeat gets the same one
        or derived_id(kind, subject, said_time if isinstance(said_time, str) else inbound.body.hex())
    )
    return Event(
        type=kind,
        id=event_id,
        occurred_at=_occurred_at(said_time, inbound, zone),
        subject=subject,
        data=envelope.data,
        dated=said_time is not None or _timestamp(inbound) is not None,
        ended_at=ended_at,
        uniqueid=uniqueid,
        lead_id=lead_id,
        expected_campaigns=None if expected is None else tuple(expected),
    )


def _claimed_id(envelope: _Envelope | None, inbound: Inbound) -> str | None:
    """Return the id by which a person can find a message that is no event, if it has one."""
    if (ours := usable_id(inbound.event_id)) is not None or envelope is None:
        return ours
    try:
        return usable_id(envelope.data.get("event_id")) or _cloud_event_id(envelope)
    except InvalidEvent:
        return None


def _open(inbound: Inbound) -> _Envelope:
    content_type = (inbound.content_type or "").strip().lower()
    if content_type.startswith(_BATCH):
        raise InvalidEvent("the body is a CloudEvents batch; publish one event a message")
    body = parse_object(inbound.body)
    if content_type.startswith(_STRUCTURED):
        return _envelope(_structured_data(body), body)
    attributes = _binary_attributes(inbound.headers) if inbound.headers else {}
    return _envelope(body, attributes if attributes.keys() & {"specversion", "id"} else {})


def _envelope(data: dict[str, Any], attributes: Mapping[str, Any]) -> _Envelope:
    kind = attributes.get("type")
    return _Envelope(
        data,
        type=data.get("type") if kind is None else kind,
        id=attributes.get("id"),
        source=attributes.get("source"),
        time=attributes.get("time"),
    )


def _structured_data(outer: dict[str, Any]) -> dict[str, Any]:
    """Return the data of a CloudEvent; `null` is as good as leaving a member out."""
    data, encoded = outer.get("data"), outer.get("data_base64")
    if data is not None and encoded == "":
        encoded = None  # how some languages write that there is none
    if data is not None and encoded is not None:
        raise InvalidEvent("the CloudEvent has both data and data_base64; send one of them")
    if encoded is None:
        if isinstance(data, dict):
            return data
        raise InvalidEvent(f"the data of the CloudEvent is not a JSON object but {name_of(data)}")
    try:
        decoded = base64.b64decode(encoded, validate=True)
    except (TypeError, ValueError) as error:
        raise InvalidEvent("data_base64 of the CloudEvent is not base64") from error
    return parse_object(decoded, "the data of the CloudEvent")


def _binary_attributes(headers: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name[len(prefix) :].lower(): value
        for name, value in headers.items()
        for prefix in CLOUDEVENTS_PREFIXES
        if value is not None and name[: len(prefix)].lower() == prefix.lower()
    }


def _event_type(envelope: _Envelope, inbound: Inbound) -> EventType:
    said = envelope.type if envelope.type is not None else (inbound.type or inbound.routing_key)
    kind = _EVENT_TYPES.get(said) if isinstance(said, str) else None
    if kind is not None:
        return kind
    raise InvalidEvent(f"unknown event type {_show(said)}; known are {' and '.join(EventType)}")


def _validate(kind: EventType, data: dict[str, Any]) -> CallEnded | AgentOnboarded:
    model = CallEnded if kind is EventType.CALL_ENDED else AgentOnboarded
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False, include_context=False)
        ]
        raise InvalidEvent(f"not a usable {kind} event: " + "; ".join(problems[:10])) from error


def _checked_id(value: object, name: str) -> str | None:
    """Return an id that can be an HTTP header and an AMQP property. Raises `InvalidEvent` for any other."""
    if value is None:
        return None
    if (usable := usable_id(value)) is None:
        raise InvalidEvent(f"{name} {_show(value)} is not 1 to {MAX_ID} visible ASCII characters")
    return usable


def _cloud_event_id(envelope: _Envelope) -> str | None:
    """Return the event id that an envelope gives.

    CloudEvents are numbered within their `source`: two sources may use the same id for different
    events. A UUID is unique by itself; of any other id and its source, an id is derived.
    """
    said, source = plain_text(envelope.id), plain_text(envelope.source)
    if said and _unless_nothing(said) is None:
        return None
    if isinstance(source, bytes):  # text of an AMQP header that is not UTF-8
        source = repr(source)
    if isinstance(said, str) and isinstance(source, str) and said and source and not _UUID.fullmatch(said):
        return derived_id("cloudevents", source, said)
    return _checked_id(envelope.id, "the CloudEvents id")


def _occurred_at(said: object, inbound: Inbound, zone: tzinfo) -> datetime:
    when = (_timestamp(inbound) or inbound.first_seen) if said is None else _read_time(said, "occurred_at")
    try:
        when = _in_zone(when, zone).astimezone(UTC)
        in_range = when >= _EARLIEST  # whoever reads it may move it by hours
    except OverflowError:
        in_range = False
    if not in_range:
        raise InvalidEvent(f"occurred_at {_show(said)} is out of range")
    return min(when, inbound.first_seen)


def _timestamp(inbound: Inbound) -> datetime | None:
    """Return the time of the AMQP property, `None` for 0, which clients write if they have none."""
    return inbound.timestamp if inbound.timestamp != _EPOCH else None


def _ended_at(said: str, zone: tzinfo) -> datetime:
    when = _in_zone(_read_time(said, "ended_at"), zone)
    # Far from the limits of `datetime`: a reader may move it by hours.
    if when.year not in _YEARS:
        raise InvalidEvent(f"ended_at {_show(said)} is out of range; calls end in the years 1970 to 2999")
    return when


def _in_zone(when: datetime, zone: tzinfo) -> datetime:
    return when if when.tzinfo is not None else when.replace(tzinfo=zone)


def _read_time(said: object, name: str) -> datetime:
    if isinstance(said, datetime):  # an AMQP header can hold a time as such
        return said
    if isinstance(said, str) and (when := read_time(said)) is not None:
        return when
    raise InvalidEvent(f"{name} {_show(said)} is not a time such as 2026-11-20T14:07:14-05:00")


def _show(value: object) -> str:
    """Return a value as an error text names it: short, however large it is."""
    if isinstance(value, list | dict):
        return "[…]" if isinstance(value, list) else "{…}"
    cut = value[: _MAX_SHOWN + 1] if isinstance(value, str | bytes) else value
    text = repr(cut)
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…"
