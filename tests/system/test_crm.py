"""A real worker writes into a CRM by its own API; `test_crm_faults` has what fails meanwhile."""

import asyncio
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.system.harness import Program, System, crm_sync, environment, eventually

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]


@pytest.fixture
def hubspot() -> Iterator[Program]:
    program = Program("crms", "hubspot", "--port", "0")
    yield program
    program.end()


def settings(crm: Program, **more: str | None) -> dict[str, str | None]:
    own = {f"sink__crm__{name}": str(value) for name, value in crm.settings.items()}
    return {"sink__kind": "crm", "sink__url": None, **own, **more}


async def prepare(system: System, crm: Program) -> str:
    """Make what the preset needs, by the command."""
    process = await asyncio.create_subprocess_exec(
        *crm_sync(),
        *("crm", "prepare", "--yes"),
        env=environment(system.settings(**settings(crm))),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    output, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, errors.decode()
    return output.decode()


async def written(crm: Program) -> dict[str, Any]:
    found: dict[str, Any] = (await crm.report("/report"))["writes"]
    return found


async def test_a_call_is_a_record_and_the_log_says_which(system: System, hubspot: Program) -> None:
    made = await prepare(system, hubspot)
    assert "calls_property: made" in made
    worker = await system.start(**settings(hubspot))
    await system.publish(await system.call(talk_seconds=9))
    await eventually(lambda: bool(worker.settled("delivered")))
    (line,) = worker.settled("delivered")
    assert (line["answer"], line["crm_outcome"]) == ("created", "created")
    assert line["crm_record"]
    _, metrics = await worker.get("/metrics")
    assert 'crm_sync_crm_records_total{linked="no",outcome="created"} 1.0' in metrics
    assert 'crm_sync_sink_requests_total{status="2xx"} 2.0' in metrics, "a search and an upsert"


async def at_least(crm: Program, count: int) -> bool:
    return len(await written(crm)) >= count


async def test_a_search_that_is_down_holds_no_call_up_and_the_link_is_made_later(
    system: System, hubspot: Program
) -> None:
    await prepare(system, hubspot)
    event = await system.call(talk_seconds=9)
    await hubspot.control(records={"contacts": [{"id": "501", "phone": "+1 312-555-1212"}]})
    await hubspot.control(fault="500", fault_path="/search")
    worker = await system.start(**settings(hubspot))
    await system.publish(event)
    await eventually(lambda: at_least(hubspot, 1))
    await eventually(lambda: len(worker.settled("retry")) >= 2)
    assert {line["reason"] for line in worker.settled("retry")} == {"delivery_incomplete"}
    await hubspot.control(fault=None, fault_path=None)
    await eventually(lambda: bool(worker.settled("delivered")))
    (line,) = worker.settled("delivered")
    assert line["crm_contact"] == "501"
    assert await written(hubspot) == {event["call_id"]: 1}
    upserts = [
        each
        for each in (await hubspot.report("/report"))["requests"]
        if each["path"].endswith("/calls/batch/upsert")
    ]
    assert len(upserts) == 1, "what is done is not done again"


async def test_a_key_that_is_refused_stops_consuming_and_a_new_one_starts_it_again(
    system: System, hubspot: Program
) -> None:
    await prepare(system, hubspot)
    file = system.folder / "key"
    file.write_text("pat-na1-the-old-one\n", encoding="utf-8")
    chosen = settings(hubspot, sink__crm__token=None, sink__crm__token_file=str(file))
    worker = await system.start(**chosen)
    await system.publish(await system.call(talk_seconds=9))
    await eventually(lambda: bool(worker.settled("retry")))
    assert worker.settled("retry")[0]["reason"] == "sink_refused"
    assert await breaker(worker) != "closed"
    file.write_text(f"{hubspot.settings['token']}\n", encoding="utf-8")
    await eventually(lambda: bool(worker.settled("delivered")))
    assert hubspot.settings["token"] not in worker.text


async def breaker(worker: Any) -> str:  # noqa: ANN401 - a Worker
    state: str = (await worker.status())["circuit_breakers"]["sink"]["state"]
    return state
