"""What is delivered: the models, and how one is built from an event and its enrichment."""

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from worker.core.events import Event
from worker.core.records import AgentEnrichment, AgentRecord, CallEnrichment, CallRecord, Enrichment


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_serialization_defaults_required=True)


EventId = Field(description="The same over retries, redeliveries, restarts and replays: drop repeats by it.")
AsReceived = Field(description="The event as its producer sent it; of a CloudEvent, its data.")


class AccessCheck(_Model):
    """How the agent's campaigns compare with those that the event expected."""

    ok: bool = Field(description="True where none is missing.")
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


class CallData(_Model):
    """What is known of a call."""

    event_id: str = EventId
    final: bool = Field(description="False where the call's status may still change.")
    call: CallRecord
    event: dict[str, Any] = AsReceived


class AgentData(_Model):
    """What is known of an agent. `access_check` is present where the event named campaigns."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)

    event_id: str = EventId
    agent: AgentRecord
    access_check: AccessCheck | SkipJsonSchema[None] = Field(default=None, exclude_if=lambda it: it is None)
    event: dict[str, Any] = AsReceived


class CallEnriched(_Model):
    """The payload for a call that ended."""

    type: Literal["call.enriched"] = "call.enriched"
    timestamp: AwareDatetime = Field(description="The time of the event.")
    data: CallData


class AgentEnriched(_Model):
    """The payload for an agent who was onboarded."""

    type: Literal["agent.enriched"] = "agent.enriched"
    timestamp: AwareDatetime = Field(description="The time of the event.")
    data: AgentData


@dataclass(frozen=True, slots=True)
class Payload:
    """One payload: its id (the event's), its type and its JSON body."""

    id: str
    type: str
    body: bytes


def build_payload(event: Event, enrichment: Enrichment) -> Payload:
    """Build the payload. The same event and enrichment always give the same bytes."""
    if isinstance(enrichment, CallEnrichment):
        return _call_payload(event, enrichment)
    return _agent_payload(event, enrichment)


def _call_payload(event: Event, enrichment: CallEnrichment) -> Payload:
    call = enrichment.call
    if call.lead_id is None and event.lead_id is not None:
        call = call.model_copy(update={"lead_id": event.lead_id})
    data = CallData(event_id=event.id, final=enrichment.final, call=call, event=event.data)
    model = CallEnriched(timestamp=event.occurred_at, data=data)
    return Payload(event.id, model.type, model.model_dump_json().encode())


def _agent_payload(event: Event, enrichment: AgentEnrichment) -> Payload:
    check = None
    if event.expected_campaigns is not None:
        check = check_access(event.expected_campaigns, enrichment)
    data = AgentData(event_id=event.id, agent=enrichment.agent, access_check=check, event=event.data)
    model = AgentEnriched(timestamp=event.occurred_at, data=data)
    return Payload(event.id, model.type, model.model_dump_json().encode())


def check_access(expected: tuple[str, ...], enrichment: AgentEnrichment) -> AccessCheck:
    """Compare the campaigns that an agent has with those that it should have.

    A campaign id may itself contain the dash that joins the dialer's list, so
    an expected campaign counts as present where it stands whole in that list.
    """
    has = [campaign.campaign_id for campaign in enrichment.agent.campaigns]
    joined = f"-{enrichment.campaigns_text or ''}-"
    expected = tuple(dict.fromkeys(expected))
    present = {name for name in expected if name in has or f"-{name}-" in joined}
    covered = set(present)
    if enrichment.campaigns_text is not None:
        covered.update(part for name in present for part in name.split("-"))
    return AccessCheck(
        ok=len(present) == len(expected),
        missing=tuple(name for name in expected if name not in present),
        unexpected=tuple(name for name in has if name not in covered),
    )


def schemas() -> dict[str, dict[str, Any]]:
    """Give the JSON Schema of each payload type (draft 2020-12), by its type."""
    models: dict[str, type[BaseModel]] = {"call.enriched": CallEnriched, "agent.enriched": AgentEnriched}
    return {
        name: {"$schema": "https://json-schema.org/draft/2020-12/schema"}
        | model.model_json_schema(mode="serialization")
        for name, model in models.items()
    }
