"""What happened, as the producer said it: one AMQP message decoded into an `Event`.

Three envelopes are understood: plain JSON, CloudEvents 1.0 structured
(`application/cloudevents+json`) and CloudEvents 1.0 binary, whose attributes
are message properties named `cloudEvents:…` or `cloudEvents_…` (CloudEvents
AMQP binding, section 3.1.3.1) or, as HTTP bridges write them, `ce-…`.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from worker.core import parsing
from worker.core.errors import InvalidEvent
from worker.core.parsing import name_of, parse_object, read_time

MAX_EXPECTED_CAMPAIGNS = 1000
"""How many campaigns an agent can be expected to have."""

CLOUDEVENTS_PREFIXES = ("cloudEvents:", "cloudEvents_", "ce-")
"""How the headers begin that hold the attributes of a binary CloudEvent."""

_STRUCTURED = "application/cloudevents+json"
_BATCH = "application/cloudevents-batch"
_YEARS = range(1970, 3000)
_EARLIEST = datetime(1, 1, 2, tzinfo=UTC)
_MAX_SHOWN = 80


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
    """When the call ended, in the producer's offset; None if the producer did not say so itself."""
    uniqueid: str | None = None
    lead_id: str | None = None
    expected_campaigns: tuple[str, ...] | None = None


def _required(value: object) -> object:
    if value == "":
        raise PydanticCustomError("blank", "the text is blank; an id has at least one visible character")
    return value


_LongText = Annotated[str, Field(max_length=parsing.MAX_ID)]
_Id = Annotated[_LongText, BeforeValidator(_required), BeforeValidator(parsing.whole_id)]
_EventId = Annotated[_LongText, BeforeValidator(_required), BeforeValidator(parsing.plain)]
_KnownId = Annotated[_LongText | None, BeforeValidator(parsing.known_id)]
_Uniqueid = Annotated[_LongText | None, BeforeValidator(parsing.uniqueid)]
_Agent = Annotated[_LongText | None, BeforeValidator(parsing.agent)]
_Lead = Annotated[str | None, BeforeValidator(parsing.lead)]
_Campaigns = Annotated[list[_Id], Field(fail_fast=True, max_length=MAX_EXPECTED_CAMPAIGNS)]
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
    expected_campaigns: _Campaigns | None = None
    event_id: _EventId | None = None
    occurred_at: _Text | None = None


@dataclass(frozen=True, slots=True)
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
        parsing.event_id(inbound.event_id)
        or _checked_id(fields.event_id, "event_id")
        or _cloud_event_id(envelope)
        or parsing.event_id(inbound.message_id)
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


def _claimed_id(envelope: _Envelope | None, inbound: Inbound) -> str | None:
    """Return the id by which a person can find a message that is no event, if it has one."""
    if (ours := parsing.event_id(inbound.event_id)) is not None or envelope is None:
        return ours
    try:
        return parsing.event_id(envelope.data.get("event_id")) or _cloud_event_id(envelope)
    except InvalidEvent:
        return None


def _open(inbound: Inbound) -> _Envelope:
    content_type = (inbound.content_type or "").lower()
    if content_type.startswith(_BATCH):
        raise InvalidEvent("the body is a CloudEvents batch; publish one event a message")
    body = parse_object(inbound.body)
    if content_type.startswith(_STRUCTURED):
        return _envelope(_structured_data(body), body)
    attributes = _binary_attributes(inbound.headers)
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
        if value is not None and name.startswith(prefix)
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
    if (usable := parsing.event_id(value)) is None:
        raise InvalidEvent(f"{name} {_show(value)} is not 1 to {parsing.MAX_ID} visible ASCII characters")
    return usable


def _cloud_event_id(envelope: _Envelope) -> str | None:
    """Return the event id that an envelope gives.

    CloudEvents are numbered within their `source`: two sources may use the same id for different
    events. A UUID is unique by itself; of any other id and its source, an id is derived.
    """
    said, source = parsing.plain(envelope.id), parsing.plain(envelope.source)
    if isinstance(source, bytes):  # text of an AMQP header that is not UTF-8
        source = repr(source)
    if isinstance(said, str) and isinstance(source, str) and said and source and not parsing.is_uuid(said):
        return parsing.derived_id("cloudevents", source, said)
    return _checked_id(envelope.id, "the CloudEvents id")


def _derived_id(kind: EventType, subject: str, said_time: object, body: bytes) -> str:
    """Derive an id from the event alone, so that a producer's repeat gets the same one."""
    return parsing.derived_id(kind, subject, said_time if isinstance(said_time, str) else body.hex())


def _occurred_at(said: object, inbound: Inbound, zone: tzinfo) -> datetime:
    when = (inbound.timestamp or inbound.first_seen) if said is None else _read_time(said, "occurred_at")
    try:
        when = _in_zone(when, zone).astimezone(UTC)
        in_range = when >= _EARLIEST  # whoever reads it may move it by hours
    except OverflowError:
        in_range = False
    if not in_range:
        raise InvalidEvent(f"occurred_at {_show(said)} is out of range")
    return min(when, inbound.first_seen)


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
