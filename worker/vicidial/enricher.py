"""Enrichment: from an event to what the dialer knows about its call or agent."""

import re
from collections.abc import Awaitable, Callable, Hashable, Iterable
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

from worker.core.errors import (
    CircuitOpen,
    EnrichmentRejected,
    EnrichmentUnavailable,
    FailureKind,
    LeftOut,
    NotReady,
    NotReadyReason,
    ProcessingError,
)
from worker.core.events import Event, EventType
from worker.core.payload import AgentEnrichment, CallEnrichment, CallRecord, Enrichment, check_access
from worker.settings import VicidialSettings
from worker.vicidial import agents, calls
from worker.vicidial.agents import KnownCampaign, UserDetails
from worker.vicidial.calls import REPEATS_AFTER, FoundRecording, parse_call_id
from worker.vicidial.client import DialerClient, SingleFlight
from worker.vicidial.clock import DialerClock, DialerTimes

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")
_Asked = tuple[_K, datetime | None]
"""What is looked up, and the event's time by which the answer is read; None for whoever asked first."""
_Read = tuple[DialerTimes, _V]
"""An answer, and how its times were read."""

_CALL_ID = re.compile(r"[0-9a-zA-Z]+")
_USER = re.compile(r"[-_0-9a-zA-Z]+")
_MOST_NAMED = 10
_MOST_ASKED = 12
"""How many hidden campaigns are asked for one by one to prove that a list is split correctly."""


class VicidialEnricher:
    """Implements `worker.core.ports.Enricher`.

    Identical look-ups in flight share one request; answers about agents are cached for a short time. A call
    that is not ready is never cached.
    """

    def __init__(
        self,
        client: DialerClient,
        clock: DialerClock,
        settings: VicidialSettings,
        *,
        on_hit: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Look up with the client; call `on_hit` with the function's name at each use of a cached answer."""
        self._client = client
        self._clock = clock
        self._calls = SingleFlight[_Asked[str], _Read[CallEnrichment]]()
        self._agents = SingleFlight[str, AgentEnrichment](
            settings.agent_campaigns_cache, on_hit=partial(on_hit, "agent_campaigns")
        )
        self._campaigns = SingleFlight[str, dict[str, KnownCampaign]](
            settings.campaigns_list_cache, on_hit=partial(on_hit, "campaigns_list")
        )
        self._proofs = SingleFlight[tuple[str, str], bool](settings.campaigns_list_cache)
        self._details = SingleFlight[str, UserDetails | None](
            settings.user_details_cache, on_hit=partial(on_hit, "user_details")
        )
        self._recordings = SingleFlight[_Asked[calls.Query], _Read[list[FoundRecording]]]()
        self._settings = settings

    async def enrich(self, event: Event, *, accept_incomplete: bool) -> Enrichment:
        """Look the event's call or agent up; see the port for what it raises."""
        if event.type is EventType.CALL_ENDED:
            return await self._call(event, accept_incomplete=accept_incomplete)
        return await self._agent(event, accept_incomplete=accept_incomplete)

    async def _call(self, event: Event, *, accept_incomplete: bool) -> CallEnrichment:
        _check_characters(_CALL_ID, event.subject, "call id")
        zone = await self._clock.zone()
        times = DialerTimes(UTC if zone is None else zone, event.occurred_at)
        found = await _shared(
            self._calls,
            event.subject,
            partial(self._client.callid_info, event.subject, times),
            times,
            lambda found: (found.call.started_at, found.call.ended_at),
        )
        _check_same_call(found.call, event)
        if zone is None:
            found = found.with_call(started_at=None, ended_at=None)
        if not accept_incomplete and not found.final:
            status = found.call.status or "empty"
            raise NotReady(f"the call's status is {status}, which is not final", NotReadyReason.FINAL_STATUS)
        if not self._settings.recording_lookup or found.call.recordings is not None:
            return found
        return await self._with_recordings(found, event, times)

    async def _with_recordings(
        self, found: CallEnrichment, event: Event, times: DialerTimes
    ) -> CallEnrichment:
        rows: list[FoundRecording] = []
        mine = None
        for search in calls.build_searches(found.call, event, times.zone):
            more = await self._rows(search, times)
            if more is None:
                return found
            rows += more
            if mine := calls.match_to_call(rows, found.call, event, search):
                break
        if mine is None:
            return found
        return found.with_call(
            recordings=tuple(row.recording for row in mine),
            lead_id=calls.lead_of(mine) or found.call.lead_id,
        )

    async def _rows(self, search: calls.Search, times: DialerTimes) -> list[FoundRecording] | None:
        """Return what a search finds, None if it fails."""
        rows: list[FoundRecording] = []
        for query in search.queries:
            more = await _optional(partial(self._search, query, search, times))
            if more is None:
                return None
            rows += more
        return rows

    async def _search(
        self, query: calls.Query, search: calls.Search, times: DialerTimes
    ) -> list[FoundRecording]:
        try:
            return await _shared(
                self._recordings,
                query,
                partial(self._client.recording_lookup, query, times),
                times,
                lambda found: [each.recording.started_at for each in found],
            )
        except EnrichmentRejected:
            if search.last:
                raise
            return []  # the dialer has no call with this `uniqueid`; another search follows

    async def _agent(self, event: Event, *, accept_incomplete: bool) -> AgentEnrichment:
        user, expected = event.subject, event.expected_campaigns
        _check_characters(_USER, user, "agent user")
        ask = partial(self._client.agent_campaigns, user)
        found = await self._agents.get(user, ask, fresh=bool(expected))  # a check needs the present state
        found = await self._with_names(found)
        if not accept_incomplete and expected and (missing := check_access(expected, found).missing):
            named = ", ".join(missing[:_MOST_NAMED])
            raise NotReady(
                f"the agent has not been given the campaigns {named} yet", NotReadyReason.CAMPAIGNS
            )
        return await self._with_details(found)

    async def _with_names(self, found: AgentEnrichment) -> AgentEnrichment:
        """Name the campaigns, and split their list correctly at its dashes."""
        text = found.campaigns_text
        if not self._settings.campaigns_list or not text:
            return found
        ask = partial(self._campaigns.get, "", self._client.campaigns_list)
        known = await _optional(ask)
        found = agents.resolve(found, known)
        if known is None or found.agent.campaigns_ambiguous:
            return found
        user = found.agent.agent_user
        has_none = partial(self._has_none_of, user, agents.possible_hidden_ids(text, known))
        if await self._proofs.get((user, text), has_none):
            return found
        return found.with_agent(campaigns_ambiguous=True)

    async def _has_none_of(self, user: str, hidden: list[str]) -> bool:
        """Return whether the agent certainly has none of these campaigns, which the API user may not see.

        `agent_campaigns` lists these too, and its filter asks for one. A server without the filter is not
        VICIdial, and has no groups that hide campaigns.
        """
        if len(hidden) > _MOST_ASKED:
            return False
        for campaign_id in hidden:
            try:
                answer = (await self._client.agent_campaigns(user, campaign_id)).campaigns_text
            except NotReady:
                return False
            except EnrichmentUnavailable as error:
                if error.kind is not FailureKind.UNREADABLE:
                    raise
                return False
            if answer is not None:
                return answer.casefold() != campaign_id.casefold()
        return True

    async def _with_details(self, found: AgentEnrichment) -> AgentEnrichment:
        if not self._settings.user_details:
            return found
        user = found.agent.agent_user
        ask = partial(self._details.get, user, partial(self._client.user_details, user))
        details = await _optional(ask)
        if details is None:
            return found
        return found.with_agent(
            full_name=details.full_name, access_level=details.user_level, user_group=details.user_group
        )


async def _shared(
    flights: SingleFlight[_Asked[_K], _Read[_V]],
    key: _K,
    ask: Callable[[], Awaitable[_V]],
    times: DialerTimes,
    times_of: Callable[[_V], Iterable[datetime | None]],
) -> _V:
    """Return the answer of a request in flight if this event's time would not change how it is read.

    It would if the answer has a time in the hour that is repeated when the clocks go back.
    """
    read = partial(_read, ask, times)
    read_by, answer = await flights.get((key, None), read)
    if read_by == times or (read_by.zone is times.zone and not times.are_ambiguous(*times_of(answer))):
        return answer
    return (await flights.get((key, times.near), read))[1]


async def _read(ask: Callable[[], Awaitable[_V]], times: DialerTimes) -> _Read[_V]:
    return times, await ask()


def _check_same_call(call: CallRecord, event: Event) -> None:
    """Raise `NotReady` if the row is that of another call with the same id, months or years ago."""
    known = call.started_at or call.ended_at
    if known is None or abs(known - event.occurred_at) <= REPEATS_AFTER:
        return
    if parse_call_id(call.call_id) is not None:
        raise NotReady(
            f"the dialer answers with another call of the same id, of {known:%Y-%m-%d}; the event is of"
            f" {event.occurred_at:%Y-%m-%d}"
        )


async def _optional(look_up: Callable[[], Awaitable[_V]]) -> _V | None:
    """Return the answer of an optional function; None if it is left out or fails. Never fail the event."""
    try:
        return await look_up()
    except CircuitOpen:
        raise  # the dialer itself is in trouble: look everything up later
    except (LeftOut, ProcessingError):
        return None  # the log says why


def _check_characters(allowed: re.Pattern[str], value: str, name: str) -> None:
    if not allowed.fullmatch(value):
        raise EnrichmentRejected(
            f"the {name} has characters that the dialer drops silently, so it would look up another one"
        )
