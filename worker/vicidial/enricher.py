"""From an event to what the dialer knows of it."""

import asyncio
import re
from collections.abc import Awaitable, Callable

from worker.core.errors import EnrichmentRejected, NotReady, ProcessingError
from worker.core.events import Event, EventType
from worker.core.records import AgentEnrichment, CallEnrichment, Enrichment
from worker.vicidial.client import DialerClient
from worker.vicidial.zone import DialerZone

_CALL_ID = re.compile(r"[0-9a-zA-Z]+")
_USER = re.compile(r"[-_0-9a-zA-Z]+")


class VicidialEnricher:
    """Fulfils `worker.core.ports.Enricher`. Identical look-ups in flight share one request."""

    def __init__(self, client: DialerClient, zone: DialerZone) -> None:
        """Take the client, and where the dialer's times are."""
        self._client = client
        self._zone = zone
        self._flights: dict[tuple[EventType, str], asyncio.Future[Enrichment]] = {}

    async def enrich(self, event: Event) -> Enrichment:
        """Look the event's call or agent up; see the port for what it raises."""
        if event.type is EventType.CALL_ENDED:
            _insist(_CALL_ID, event.subject, "call id")
            found = await self._shared(event, self._call)
        else:
            _insist(_USER, event.subject, "agent user")
            found = await self._shared(event, self._agent)
        if isinstance(found, CallEnrichment) and not found.final:
            raise NotReady(f"the call's status is {found.call.status or 'empty'}, which is not final", found)
        return found

    async def _call(self, call_id: str) -> CallEnrichment:
        return await self._client.callid_info(call_id, await self._zone.get())

    async def _agent(self, agent_user: str) -> AgentEnrichment:
        return await self._client.agent_campaigns(agent_user)

    async def _shared(self, event: Event, look_up: Callable[[str], Awaitable[Enrichment]]) -> Enrichment:
        """Look up, or wait for the same look-up that is in flight.

        Where the one that flies is cancelled, the next one takes its place.
        """
        key = (event.type, event.subject)
        while (flight := self._flights.get(key)) is not None:
            await asyncio.wait([flight])
            if not flight.cancelled():
                return flight.result()
        flight = self._flights[key] = asyncio.get_running_loop().create_future()
        try:
            found = await look_up(event.subject)
        except ProcessingError as error:
            flight.set_exception(error)
            flight.exception()  # seen, also where nobody else waits
            raise
        else:
            flight.set_result(found)
            return found
        finally:
            flight.cancel()
            del self._flights[key]


def _insist(allowed: re.Pattern[str], value: str, name: str) -> None:
    if not allowed.fullmatch(value):
        raise EnrichmentRejected(
            f"the {name} has characters that the dialer drops silently, so it would look up another one"
        )
