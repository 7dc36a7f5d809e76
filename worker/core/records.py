"""What the dialer said, as records. What is not known is `None`, never guessed.

The records are part of the payload (`worker.core.payload`) and travel as JSON
in the `crm-sync-enrichment` header of a retry copy, so that an event whose
delivery failed is not looked up again.
"""

from collections.abc import Iterable
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError


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
