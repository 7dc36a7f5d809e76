"""From an event to what the dialer knows of it."""

import re
from collections.abc import Callable
from functools import partial

from worker.core.errors import EnrichmentRejected, Lack, NotReady
from worker.core.events import Event, EventType
from worker.core.payload import check_access
from worker.core.records import AgentEnrichment, CallEnrichment, CallRecord, Enrichment
from worker.settings import VicidialSettings
from worker.vicidial import campaigns, recordings
from worker.vicidial.call_id import REPEATS_AFTER, parse_call_id
from worker.vicidial.client import DialerClient
from worker.vicidial.clock import DialerClock
from worker.vicidial.extras import FoundRecording, KnownCampaign, UserDetails
from worker.vicidial.lookups import Lookups
from worker.vicidial.optional import OptionalFunction
from worker.vicidial.rows import DialerTimes

_CALL_ID = re.compile(r"[0-9a-zA-Z]+")
_USER = re.compile(r"[-_0-9a-zA-Z]+")
_MOST_NAMED = 10


class VicidialEnricher:
    """Fulfils `worker.core.ports.Enricher`.

    Identical look-ups in flight share one request; those about agents are kept
    for a short time. A call that is not ready is never kept.
    """

    def __init__(
        self,
        client: DialerClient,
        clock: DialerClock,
        settings: VicidialSettings,
        *,
        again_after: float,
        on_hit: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Take the client, and the seconds until a refused extra function is tried again.

        `on_hit` is told of each use of a kept answer, by the function's name.
        """
        self._client = client
        self._clock = clock
        self._calls = Lookups[str, CallEnrichment]()
        self._agents = Lookups[str, AgentEnrichment](
            settings.agent_campaigns_cache, on_hit=partial(on_hit, "agent_campaigns")
        )
        self._campaigns = Lookups[str, dict[str, KnownCampaign]](
            settings.campaigns_list_cache, on_hit=partial(on_hit, "campaigns_list")
        )
        self._details = Lookups[str, UserDetails | None](
            settings.user_details_cache, on_hit=partial(on_hit, "user_details")
        )
        self._recordings = Lookups[recordings.Search, list[FoundRecording]]()
        self._may_look_up_recordings = OptionalFunction("recording_lookup", "recordings", again_after)
        self._may_list_campaigns = OptionalFunction("campaigns_list", "the campaigns' names", again_after)
        self._may_see_details = OptionalFunction(
            "user_details", "full_name, access_level and user_group", again_after
        )
        self._settings = settings

    async def enrich(self, event: Event, *, patient: bool) -> Enrichment:
        """Look the event's call or agent up; see the port for what it raises."""
        if event.type is EventType.CALL_ENDED:
            return await self._call(event, patient=patient)
        return await self._agent(event, patient=patient)

    async def _call(self, event: Event, *, patient: bool) -> CallEnrichment:
        _insist(_CALL_ID, event.subject, "call id")
        times = DialerTimes(await self._clock.zone(), event.occurred_at)
        ask = partial(self._client.callid_info, event.subject, times)
        found = await self._calls.get(event.subject, ask)
        _insist_on_the_same_call(found.call, event)
        if patient and not found.final:
            status = found.call.status or "empty"
            raise NotReady(f"the call's status is {status}, which is not final", Lack.FINAL_STATUS)
        if not self._settings.recording_lookup or found.call.recordings is not None:
            return found
        return await self._with_recordings(found, event, times)

    async def _with_recordings(
        self, found: CallEnrichment, event: Event, times: DialerTimes
    ) -> CallEnrichment:
        rows: list[FoundRecording] = []
        wanted = recordings.searches(found.call, event, times.zone)
        for search in wanted:
            ask = partial(self._client.recording_lookup, search, times)
            more = await self._may_look_up_recordings.ask(partial(self._recordings.get, search, ask))
            if more is None:
                return found
            rows += more
        if not wanted:
            return found
        rows = recordings.own(rows, found.call, event)
        known = {"recordings": recordings.records(rows), "lead_id": recordings.lead_of(rows)}
        return found.model_copy(update={"call": found.call.model_copy(update=known)})

    async def _agent(self, event: Event, *, patient: bool) -> AgentEnrichment:
        user, expected = event.subject, event.expected_campaigns
        _insist(_USER, user, "agent user")
        ask = partial(self._client.agent_campaigns, user)
        found = await self._agents.get(user, ask, fresh=bool(expected))  # a check is of the present state
        found = await self._with_names(found)
        if patient and expected and (missing := check_access(expected, found).missing):
            named = ", ".join(missing[:_MOST_NAMED])
            raise NotReady(f"the agent has not been given the campaigns {named} yet", Lack.CAMPAIGNS)
        return await self._with_details(found)

    async def _with_names(self, found: AgentEnrichment) -> AgentEnrichment:
        """Name the campaigns, and tell a dash within a campaign's id from one between two."""
        if not self._settings.campaigns_list or not found.campaigns_text:
            return found
        ask = partial(self._campaigns.get, "", self._client.campaigns_list)
        return campaigns.resolve(found, await self._may_list_campaigns.ask(ask))

    async def _with_details(self, found: AgentEnrichment) -> AgentEnrichment:
        if not self._settings.user_details:
            return found
        user = found.agent.agent_user
        ask = partial(self._details.get, user, partial(self._client.user_details, user))
        details = await self._may_see_details.ask(ask)
        if details is None:
            return found
        known = {
            "full_name": details.full_name,
            "access_level": details.user_level,
            "user_group": details.user_group,
        }
        return found.model_copy(update={"agent": found.agent.model_copy(update=known)})


def _insist_on_the_same_call(call: CallRecord, event: Event) -> None:
    """Raise `NotReady` where the row is another call's, of months or years ago, that had the same id."""
    known = call.started_at or call.ended_at
    if known is None or parse_call_id(call.call_id) is None:
        return
    if abs(known - event.occurred_at) > REPEATS_AFTER:
        raise NotReady(
            f"the dialer answers with another call of the same id, of {known:%Y-%m-%d}; the event is of"
            f" {event.occurred_at:%Y-%m-%d}"
        )


def _insist(allowed: re.Pattern[str], value: str, name: str) -> None:
    if not allowed.fullmatch(value):
        raise EnrichmentRejected(
            f"the {name} has characters that the dialer drops silently, so it would look up another one"
        )
