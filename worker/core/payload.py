"""What is delivered: the models, and how one is built from an event and its enrichment."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NotRequired

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict  # pydantic refuses that of Python 3.11

from worker.core.events import Event, known_agent, known_id, known_lead
from worker.core.records import AgentEnrichment, AgentRecord, CallEnrichment, CallRecord, Enrichment

_SAID_OF_A_CALL: dict[str, Callable[[object], object]] = {
    "agent_user": known_agent,
    "campaign_id": known_id,
    "in_group_id": known_id,
    "list_id": known_id,
    "lead_id": known_lead,
    "phone_number": known_id,
    "status": known_id,
}
"""The fields of an event that stand in for the dialer's row, and how each is read."""

EventId = Annotated[
    str,
    Field(description="The same over retries, redeliveries, restarts and replays: drop repeats by it."),
]
EventTime = Annotated[AwareDatetime, Field(description="The time of the event.")]
AsReceived = Annotated[
    dict[str, Any],
    Field(description="The event as its producer sent it; of a CloudEvent, its data."),
]


class AccessCheck(BaseModel):
    """How the agent's campaigns compare with those that the event expected."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ok: bool = Field(description="True if none is missing.")
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


@with_config(extra="forbid")
class CallData(TypedDict):
    """What is known of a call. `enrichment` is present if the dialer did not know the call."""

    event_id: EventId
    enrichment: NotRequired[
        Annotated[
            Literal["not_found"], Field(description="Present if `call` holds only what the event said.")
        ]
    ]
    final: Annotated[bool, Field(description="False if the call's status may still change.")]
    call: CallRecord
    event: AsReceived


@with_config(extra="forbid")
class AgentData(TypedDict):
    """What is known of an agent. `access_check` is present if the event named campaigns."""

    event_id: EventId
    agent: AgentRecord
    access_check: NotRequired[AccessCheck]
    event: AsReceived


@with_config(extra="forbid")
class CallEnriched(TypedDict):
    """The payload for a call that ended."""

    type: Literal["call.enriched"]
    timestamp: EventTime
    data: CallData


@with_config(extra="forbid")
class AgentEnriched(TypedDict):
    """The payload for an agent who was onboarded."""

    type: Literal["agent.enriched"]
    timestamp: EventTime
    data: AgentData


_call_enriched = TypeAdapter(CallEnriched)
_agent_enriched = TypeAdapter(AgentEnriched)


@dataclass(frozen=True, slots=True)
class Payload:
    """One payload: its id (the event's), its type and its JSON body."""

    id: str
    type: str
    body: bytes
    progress: str | None = None
    """What the sink noted at an earlier attempt; only the sink reads it."""


def build_payload(event: Event, enrichment: Enrichment) -> Payload:
    """Build the payload. The same event and enrichment always give the same bytes."""
    if isinstance(enrichment, CallEnrichment):
        return _call_payload(event, enrichment)
    return _agent_payload(event, enrichment)


def _call_payload(event: Event, enrichment: CallEnrichment) -> Payload:
    call = _completed(enrichment.call, event)
    data: CallData = {"event_id": event.id, "final": enrichment.final, "call": call, "event": event.data}
    if not enrichment.found:
        data["enrichment"] = "not_found"
    body: CallEnriched = {"type": "call.enriched", "timestamp": event.occurred_at, "data": data}
    return Payload(event.id, body["type"], _call_enriched.dump_json(body))


def _completed(call: CallRecord, event: Event) -> CallRecord:
    """Return the record with what the event says itself, which is taken before what the dialer says."""
    known: dict[str, Any] = {}
    if event.lead_id is not None:
        known["lead_id"] = event.lead_id
    if event.ended_at is not None:
        known["ended_at"] = event.ended_at
        if call.started_at is not None:
            seconds = int((event.ended_at - call.started_at).total_seconds())
            known["duration_seconds"] = seconds if seconds >= 0 else None
    return call.model_copy(update=known) if known else call


def unknown_call(event: Event) -> CallEnrichment:
    """Return what the event said of its call, for one that the dialer does not know."""
    said = {name: read(event.data.get(name)) for name, read in _SAID_OF_A_CALL.items()}
    texts = {name: value for name, value in said.items() if isinstance(value, str)}
    call = CallRecord.model_validate({"call_id": event.subject, **texts})
    return CallEnrichment(call=call, final=False, found=False)


def _agent_payload(event: Event, enrichment: AgentEnrichment) -> Payload:
    data: AgentData
    if event.expected_campaigns is None:
        data = {"event_id": event.id, "agent": enrichment.agent, "event": event.data}
    else:
        check = check_access(event.expected_campaigns, enrichment)
        data = {
            "event_id": event.id,
            "agent": enrichment.agent,
            "access_check": check,
            "event": event.data,
        }
    body: AgentEnriched = {"type": "agent.enriched", "timestamp": event.occurred_at, "data": data}
    return Payload(event.id, body["type"], _agent_enriched.dump_json(body))


def check_access(expected: tuple[str, ...], enrichment: AgentEnrichment) -> AccessCheck:
    """Compare the campaigns that an agent has with those that it should have."""
    expected = tuple(dict.fromkeys(expected))
    present = enrichment.which_of(expected)
    covered = {listed for name in present for listed in enrichment.listed_as(name)}
    has = [campaign.campaign_id for campaign in enrichment.agent.campaigns]
    return AccessCheck(
        ok=len(present) == len(expected),
        missing=tuple(name for name in expected if name not in present),
        unexpected=tuple(name for name in has if name not in covered),
    )


def schemas() -> dict[str, dict[str, Any]]:
    """Return the JSON Schema of each payload type (draft 2020-12), by its type.

    It allows fields that it doesn't name: a later version may add some, and no
    receiver should refuse them.
    """
    adapters: dict[str, TypeAdapter[Any]] = {
        "call.enriched": _call_enriched,
        "agent.enriched": _agent_enriched,
    }
    return {
        name: {"$schema": "https://json-schema.org/draft/2020-12/schema"}
        | _opened(adapter.json_schema(mode="serialization"))
        for name, adapter in adapters.items()
    }


def _opened(schema: Any) -> Any:  # noqa: ANN401 - any part of a JSON Schema
    if isinstance(schema, dict):
        closed = schema.get("additionalProperties") is False
        return {k: _opened(v) for k, v in schema.items() if not (closed and k == "additionalProperties")}
    return [_opened(each) for each in schema] if isinstance(schema, list) else schema
