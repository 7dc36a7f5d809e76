"""`crm-sync map --dead-letter` shows what would become of a dead letter now."""

import asyncio
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.broker.letters import CALL, HEADERS, open_letters, settings_for
from worker.cli import app
from worker.core.payload import CallEnrichment, CallRecord
from worker.rabbitmq.message import Header
from worker.settings import BrokerCommandSettings

pytestmark = pytest.mark.broker
BARE = {name: value for name, value in HEADERS.items() if name != Header.ENRICHMENT}


@pytest.fixture
def settings(broker_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch) -> BrokerCommandSettings:
    return settings_for(broker_url, namespace, monkeypatch)


def bury(settings: BrokerCommandSettings, *letters: tuple[bytes, dict[str, Any], str]) -> None:
    async def work() -> None:
        async with open_letters(settings) as bench:
            for body, headers, key in letters:
                await bench.bury(body, headers, key)
            await bench.holds(bench.topology.dead_letters, len(letters))

    asyncio.run(work())


def count(settings: BrokerCommandSettings) -> int:
    async def work() -> int:
        async with open_letters(settings) as bench:
            return await bench.back(bench.topology.dead_letters)

    return asyncio.run(work())


def mapped(letter_id: str) -> Result:
    return CliRunner().invoke(app, ["map", "--preset", "hubspot", "--dead-letter", letter_id])


def test_a_dead_letter_is_mapped_with_what_it_carries(settings: BrokerCommandSettings) -> None:
    call = CallRecord(call_id="V1", status="SALE", phone_number="3125551212")
    carried = CallEnrichment(call=call).model_dump_json()
    bury(settings, (CALL, HEADERS | {Header.ENRICHMENT: carried}, "call.ended"))
    shown = mapped("e-1")
    assert shown.exit_code == 0
    assert '"id": "V1"' in shown.stdout
    assert "+13125551212" in shown.stdout
    assert count(settings) == 1, "it stays where it is"


def test_one_without_an_answer_of_the_dialer_is_mapped_with_what_it_says(
    settings: BrokerCommandSettings,
) -> None:
    agent = b'{"type": "agent.onboarded", "agent_user": "1000", "event_id": "e-2"}'
    bury(
        settings,
        (CALL, BARE, "call.ended"),
        (agent, BARE | {Header.EVENT_ID: "e-2"}, "agent.onboarded"),
        (b"{", BARE | {Header.EVENT_ID: "e-3"}, "call.ended"),
    )
    shown = mapped("e-1")
    assert shown.exit_code == 0
    assert shown.stdout.startswith("The dialer's answer is not in it: this is what the event itself says.\n")
    refused = [mapped(letter_id) for letter_id in ("e-2", "e-3", "e-9")]
    assert [each.exit_code for each in refused] == [1, 1, 1]
    assert "it carries no answer of the dialer" in refused[0].stderr
    assert "it is no event that could be delivered" in refused[1].stderr
    assert "there is no dead letter e-9" in refused[2].stderr
