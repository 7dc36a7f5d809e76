"""The demonstration's cases hold on any day."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from pydantic import SecretStr

from simulators.demo.scenario import CASES, Case, Delivered
from simulators.dialer import DEFAULT_PASSWORD, DEFAULT_USER, StandInDialer
from tests.adapters.dialer_client import make_breakers
from worker.core.events import Inbound, decode
from worker.core.payload import CallEnrichment
from worker.settings import VicidialSettings
from worker.vicidial.client import DialerClient, open_session
from worker.vicidial.clock import DialerClock
from worker.vicidial.enricher import VicidialEnricher

CALLS = [
    case
    for case in CASES
    if case.kind == "call" and case.dialect == "real" and isinstance(case.ending, Delivered)
]


@pytest.mark.parametrize("case", CALLS, ids=lambda case: case.event_id)
@pytest.mark.parametrize("day", ["2026-12-01", "2027-01-31", "2027-06-15", "2031-11-20"])
async def test_a_story_is_about_the_call_that_the_dialer_knows_in_any_year(case: Case, day: str) -> None:
    """A call id is used again in other years, so a case of a recorded call must say when it was."""
    now = datetime.fromisoformat(f"{day}T23:30:00Z")
    async with StandInDialer(wall=now.timestamp) as dialer:
        settings = VicidialSettings(
            url=dialer.url, user=DEFAULT_USER, password=SecretStr(DEFAULT_PASSWORD), recording_lookup=False
        )
        if case.call is not None:
            dialer.add_call(replace(case.call(now), schedule=()))
        message = case.message(now)
        received = Inbound(message.body, message.routing_key, now, message.headers, message.content_type)
        async with open_session(settings) as session:
            client = DialerClient(settings, session, make_breakers())
            enricher = VicidialEnricher(client, DialerClock(UTC, client.version), settings)
            found = await enricher.enrich(decode(received), accept_incomplete=False)
        assert isinstance(found, CallEnrichment)
        assert found.final
