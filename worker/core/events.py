"""What happened, as the producer said it: one AMQP message decoded into an `Event`.

Three envelopes are understood: plain JSON, CloudEvents 1.0 structured
(`application/cloudevents+json`) and CloudEvents 1.0 binary, whose attributes
are message properties named `cloudEvents:…` or `cloudEvents_…` (CloudEvents
AMQP binding, section 3.1.3.1) or, as HTTP bridges write them, `ce-…`.
"""

import base64
import binascii
import json
import math
import re
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from enum import StrEnum
from typing import Annotated, Any, NoReturn

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from worker.core import ids
from worker.core.errors import InvalidEvent

MAX_BODY = 1024 * 1024
"""The largest body that is looked into, in bytes."""

CLOUDEVENTS_PREFIXES = ("cloudEvents:", "cloudEvents_", "ce-")
"""How the headers begin that hold the attributes of a binary CloudEvent."""

MAX_DEPTH = 100
"""How deep arrays and objects may stand in one another; pydantic can't write more than about 200."""

_TOO_DEEP = f"arrays and objects stand more than {MAX_DEPTH} deep in one another"
_NAMESPACE = uuid.UUID("6f0c2a53-4d0e-5a0b-9f39-6f6d1f2b6c11")
_STRUCTURED = "application/cloudevents+json"
_BATCH = "application/cloudevents-batch"
_YEARS = range(1970, 3000)
_VISIBLE_ASCII = re.compile(r"[\x21-\x7e]{1,255}")


class EventType(StrEnum):
    """What can happen; also the routing keys of the events exchange."""

    CALL_ENDED = "call.ended"
    AGENT_ONBOARDED = "agent.onboarded"


_EVENT_TYPES = {str(kind): kind for kind in EventType}


@dataclass(frozen=True, slots=True)
class Inbound:
    """One AMQP message as the core sees it.

    `attempt` counts from 1. `event_id` and `enrichment` are what a copy of
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


@dataclass(frozen=True, slots=True)
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
    """When the call ended, where the producer said so by itself, in the producer's offset."""
    uniqueid: str | None = None
    lead_id: str | None = None
    expected_campaigns: tuple[str, ...] | None = None


_LongText = Annotated[str, Field(max_length=255)]
_Id = Annotated[str, BeforeValidator(ids.whole), Field(min_length=1, max_length=255)]
_EventId = Annotated[str, BeforeValidator(ids.number_text), Field(min_length=1, max_length=255)]
_KnownId = Annotated[_LongText | None, BeforeValidator(ids.known)]
_Uniqueid = Annotated[_LongText | None, BeforeValidator(ids.number_text)]
_Agent = Annotated[_LongText | None, BeforeValidator(ids.agent)]
_Lead = Annotated[str | None, BeforeValidator(ids.lead)]
_Text = Annotated[str, Field(strict=True)]


class CallEnded(BaseModel):
    """The fields of a call's end that are read; others are passed on as they are."""

    model_config = ConfigDict(coerce_numbers_to_str=True)  # producers differ on what an id is
    call_id: _Id
    uniqueid: _Uniqueid = None
    lead_id: _Lead = None
    agent_user: _Agent = None
    campaign_id: _KnownId = None
    event_id: _EventId | None = None
    occurred_at: _Text | None = None
    ended_at: _Text | None = None


class AgentOnboarded(BaseModel):
    """The fields of an agent's onboarding that are read; others are passed on as they are."""

    model_config = ConfigDict(coerce_numbers_to_str=True)  # producers differ on what an id is
    agent_user: _Id
    expected_campaigns: list[_Id] | None = None
    event_id: _EventId | None = None
    occurred_at: _Text | None = None


@dataclass(frozen=True, slots=True)
class _Envelope:
    """What the envelope says, whichever it was; the data inside may say it better."""

    data: dict[str, Any]
    type: object = None
    id: object = None
    time: object = None


def decode(inbound: Inbound, zone: tzinfo = UTC) -> Event:
    """Read one message. Times without an offset are taken to be in `zone`.

    Raises `InvalidEvent` with a sentence for the producer, and nothing else.
    """
    envelope = _open(inbound)
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
        _usable_id(inbound.event_id)
        or _checked_id(fields.event_id, "event_id")
        or _checked_id(envelope.id, "the CloudEvents id")
        or _usable_id(inbound.message_id)
        or _derived_id(kind, subject, said_time, inbound.body)
    )
    return Event(
        type=kind,
        id=event_id,
        occurred_at=_occurred_at(said_time, inbound, zone),
        subject=subject,
        data=envelope.data,
        dated=said_time is not None or inbound.timestamp is not None,
        ended_at=ended_at,
        uniqueid=uniqueid,
        lead_id=lead_id,
        expected_campaigns=None if expected is None else tuple(expected),
    )


def claimed_id(inbound: Inbound) -> str | None:
    """Give the id by which a person can find a message that can't be decoded, if it has one."""
    if (ours := _usable_id(inbound.event_id)) is not None:
        return ours
    try:
        said = _open(inbound)
        return _usable_id(ids.number_text(said.data.get("event_id"))) or _usable_id(ids.number_text(said.id))
    except InvalidEvent:
        return None


def _open(inbound: Inbound) -> _Envelope:
    content_type = (inbound.content_type or "").lower()
    if content_type.startswith(_BATCH):
        raise InvalidEvent("the body is a CloudEvents batch; publish one event a message")
    if content_type.startswith(_STRUCTURED):
        return _open_structured(_parse(inbound.body))
    data = _parse(inbound.body)
    if not inbound.headers:
        return _Envelope(data, type=data.get("type"))
    attributes = _binary_attributes(inbound.headers)
    if "specversion" in attributes or "id" in attributes:
        return _Envelope(
            data, attributes.get("type", data.get("type")), attributes.get("id"), attributes.get("time")
        )
    return _Envelope(data, type=data.get("type"))


def _open_structured(outer: dict[str, Any]) -> _Envelope:
    if "data_base64" in outer:
        try:
            data = _parse(base64.b64decode(outer["data_base64"], validate=True))
        except (binascii.Error, TypeError, ValueError) as error:
            raise InvalidEvent("data_base64 of the CloudEvent is not base64") from error
    elif isinstance(outer.get("data"), dict):
        data = outer["data"]
    else:
        raise InvalidEvent("the data of the CloudEvent is not a JSON object")
    return _Envelope(data, outer.get("type", data.get("type")), outer.get("id"), outer.get("time"))


def _binary_attributes(headers: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name[len(prefix) :].lower(): value
        for name, value in headers.items()
        for prefix in CLOUDEVENTS_PREFIXES
        if name.startswith(prefix)
    }


def _parse(body: bytes) -> dict[str, Any]:
    if len(body) > MAX_BODY:
        raise InvalidEvent(f"the body has {len(body)} bytes; the limit is {MAX_BODY}")
    try:
        data = _JSON.decode(body.decode().removeprefix("\ufeff"))
        if b"\\ud" in body or b"\\uD" in body:
            json.dumps(data, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise InvalidEvent(f"the body is not UTF-8: {error.reason} at byte {error.start}") from error
    except UnicodeEncodeError as error:
        raise InvalidEvent("the body has half of a surrogate pair, which no text can hold") from error
    except RecursionError as error:
        raise InvalidEvent(_TOO_DEEP) from error
    except ValueError as error:
        raise InvalidEvent(f"the body is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise InvalidEvent(f"the body is not a JSON object but {_name_of(data)}")
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _depth(data) > MAX_DEPTH:
        raise InvalidEvent(_TOO_DEEP)
    return data


def _depth(data: object) -> int:
    depth, level = 0, [data]
    while level := [
        inner
        for outer in level
        if isinstance(outer, dict | list)
        for inner in (outer.values() if isinstance(outer, dict) else outer)
    ]:
        depth += 1
    return depth


def _not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON value")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"the number {digits[:40]} is too large")
    return value


_JSON = json.JSONDecoder(parse_constant=_not_json, parse_float=_finite)


def _name_of(value: object) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


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


def _usable_id(value: object) -> str | None:
    return value if isinstance(value, str) and _VISIBLE_ASCII.fullmatch(value) else None


def _checked_id(value: object, name: str) -> str | None:
    """Insist that an id can travel as an HTTP header and as an AMQP property."""
    if value is None:
        return None
    if (usable := _usable_id(ids.number_text(value))) is None:
        raise InvalidEvent(f"{name} {_show(value)} is not 1 to 255 visible ASCII characters")
    return usable


def _derived_id(kind: EventType, subject: str, said_time: object, body: bytes) -> str:
    """Derive an id from the event alone, so that a producer's repeat gets the same one."""
    told_apart_by = said_time if isinstance(said_time, str) else body.hex()
    return str(uuid.uuid5(_NAMESPACE, f"{kind}\n{subject}\n{told_apart_by}"))


def _occurred_at(said: object, inbound: Inbound, zone: tzinfo) -> datetime:
    when = (inbound.timestamp or inbound.first_seen) if said is None else _read_time(said, "occurred_at")
    try:
        when = _in_zone(when, zone).astimezone(UTC)
    except OverflowError as error:
        raise InvalidEvent(f"occurred_at {_show(said)} is out of range") from error
    return min(when, inbound.first_seen)


def _ended_at(said: str, zone: tzinfo) -> datetime:
    when = _in_zone(_read_time(said, "ended_at"), zone)
    # Far from where `datetime` ends: whoever reads it may move it by hours.
    if when.year not in _YEARS:
        raise InvalidEvent(f"ended_at {_show(said)} is out of range; calls end in the years 1970 to 2999")
    return when


def _in_zone(when: datetime, zone: tzinfo) -> datetime:
    return when if when.tzinfo is not None else when.replace(tzinfo=zone)


def _read_time(said: object, name: str) -> datetime:
    if isinstance(said, datetime):  # an AMQP header can hold a time as such
        return said
    if isinstance(said, str) and len(said) >= len("2026-11-20T14:07"):  # a date alone is no time
        with suppress(ValueError):
            return datetime.fromisoformat(said)
    raise InvalidEvent(f"{name} {_show(said)} is not a time such as 2026-11-20T14:07:14-05:00")


def _show(value: object) -> str:
    text = repr(value)
    limit = 80
    return text if len(text) <= limit else text[:limit] + "…"
