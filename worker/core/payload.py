"""What is delivered: the records of calls and agents, and the payloads that hold them.

A record is what the dialer said. What is not known is `None`, never guessed. It travels as JSON in the
`crm-sync-enrichment` header of a retry copy, so that an event whose delivery failed is not looked up again.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NotRequired, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict  # pydantic refuses that of Python 3.11

# --- what the dialer said


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_serialization_defaults_required=True)


class Recording(_Record):
    """One recording of a call."""

    recording_id: str | None = None
    file_name: str | None = None
    url: str | None = None
    started_at: AwareDatetime | None = None
    duration_seconds: int | None = None


class CallRecord(_Record):
    """One call. Durations are whole seconds."""

    call_id: str
    direction: Literal["inbound", "outbound"] | None = None
    call_type: str | None = Field(None, description="The dialer's own word, such as OUTBOUND_AUTO.")
    started_at: AwareDatetime | None = Field(
        None, description="The time in the call id, else the dialer's `call_date`."
    )
    ended_at: AwareDatetime | None = Field(
        None,
        description="The event's own, else the dialer's, which knows it of an agent's outbound calls only.",
    )
    talk_seconds: int | None = Field(None, description="Seconds of talk with the customer.")
    duration_seconds: int | None = Field(None, description="End minus start, if both are known.")
    agent_user: str | None = Field(None, description="Null if no agent took the call.")
    phone_number: str | None = None
    status: str | None = None
    campaign_id: str | None = Field(None, description="Null for an inbound call.")
    in_group_id: str | None = Field(None, description="Set for an inbound call.")
    list_id: str | None = None
    lead_id: str | None = Field(
        None, description="The event's, else that of the recordings, else the one in the call id."
    )
    recordings: tuple[Recording, ...] | None = Field(
        None,
        description="The call's own, longest first; empty if the dialer has none, null if unknown.",
    )


class Campaign(_Record):
    """A campaign that an agent may work on."""

    campaign_id: str
    name: str | None = None


class AgentRecord(_Record):
    """One agent and what it may work on."""

    agent_user: str
    full_name: str | None = None
    access_level: int | None = None
    user_group: str | None = None
    campaigns: tuple[Campaign, ...] = ()
    in_groups: tuple[str, ...] = ()
    campaigns_ambiguous: bool = Field(
        default=False,
        description="True if the dialer's joined list could be read in more than one way.",
    )


class CallEnrichment(_Record):
    """What the dialer said about a call. `final` is false while its status may still change.

    `found` is false if the dialer knew nothing, and the record holds what the event said.
    """

    kind: Literal["call"] = "call"
    call: CallRecord
    final: bool = True
    found: bool = True

    def with_call(self, **changed: object) -> Self:
        """Return a copy in which these fields of the call are changed."""
        return self.model_copy(update={"call": self.call.model_copy(update=changed)})


class AgentEnrichment(_Record):
    """What the dialer said about an agent.

    `campaigns_text` is the list as the dialer joined it with dashes, `None` if the dialer named each campaign
    by itself. A campaign's id may contain a dash too, so a list with a dash is ambiguous unless all campaigns
    are known (`worker.vicidial.agents.resolve`).
    """

    kind: Literal["agent"] = "agent"
    agent: AgentRecord
    campaigns_text: str | None = None

    def with_agent(self, **changed: object) -> Self:
        """Return a copy in which these fields of the agent are changed."""
        return self.model_copy(update={"agent": self.agent.model_copy(update=changed)})

    def which_of(self, campaign_ids: Iterable[str]) -> set[str]:
        """Return which of these campaigns the agent has; of an ambiguous list, those that are whole in it."""
        if self.agent.campaigns_ambiguous:
            joined = f"-{self.campaigns_text or ''}-"
            return {each for each in campaign_ids if f"-{each}-" in joined}
        return {campaign.campaign_id for campaign in self.agent.campaigns}.intersection(campaign_ids)

    def listed_as(self, campaign_id: str) -> list[str]:
        """Return the ids as which a campaign that the agent has is listed: its parts if that is ambiguous."""
        parts = split_at_dashes(campaign_id) if self.agent.campaigns_ambiguous else []
        return [campaign_id, *parts]


def split_at_dashes(joined: str) -> list[str]:
    """Split a list that the dialer joined with dashes, as if no id contained one."""
    return [each for each in joined.split("-") if each]


Enrichment = CallEnrichment | AgentEnrichment

_adapter: TypeAdapter[Enrichment] = TypeAdapter(Annotated[Enrichment, Field(discriminator="kind")])


def enrichment_from_json(text: str | bytes) -> Enrichment | None:
    """Parse what a retry copy carries; return None if it is not an enrichment."""
    try:
        return _adapter.validate_json(text)
    except ValidationError:
        return None


# --- what is made of it

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


CALL_ENRICHED = TypeAdapter(CallEnriched)
AGENT_ENRICHED = TypeAdapter(AgentEnriched)


@dataclass(frozen=True, slots=True)
class Payload:
    """One payload: its id (the event's), its type and its JSON body."""

    id: str
    type: str
    body: bytes
    progress: str | None = None
    """What the sink noted at an earlier attempt; only the sink reads it."""


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
        "call.enriched": CALL_ENRICHED,
        "agent.enriched": AGENT_ENRICHED,
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
