"""Calls reach a real CRM's API once each, from the broker on: the worker as a program, against a stand-in."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.system.harness import WITHIN, Program, System, eventually

pytestmark = pytest.mark.system

CALLS = 20
CONTACT, USER = "003000000000000501", "005000000000000077"


@pytest.fixture
async def hubspot(tmp_path: Path) -> AsyncIterator[Program]:
    program = Program("crms", "hubspot", log=tmp_path / "hubspot.log")
    contact = {"id": "501", "phone": "(312) 555-1212"}
    await program.control(prepared=True, records={"contacts": [contact], "owners": [{"id": "77"}]})
    yield program
    program.end()


@pytest.fixture
async def salesforce(tmp_path: Path) -> AsyncIterator[Program]:
    program = Program("crms", "salesforce", log=tmp_path / "salesforce.log")
    records = {"Contact": [{"id": CONTACT, "Phone": "(312) 555-1212"}], "User": [{"id": USER}]}
    await program.control(prepared=True, records=records)
    yield program
    program.end()


def crm(program: Program, preset: str, **own: str) -> dict[str, str | None]:
    """Return the settings of a worker that delivers into the CRM."""
    chosen = {"preset": preset, "url": program.url, **own}
    settings: dict[str, str | None] = {f"sink__crm__{name}": value for name, value in chosen.items()}
    return {"sink__kind": "crm", "sink__url": None, **settings}


async def written(program: Program, kind: str, count: int) -> None:
    """Wait until the CRM has so many records."""

    async def all_there() -> bool:
        return len((await program.report())["records"].get(kind, {})) >= count

    await eventually(all_there, WITHIN)


async def test_each_call_is_one_engagement_in_hubspot_whatever_breaks(
    system: System, hubspot: Program
) -> None:
    worker = await system.start(**crm(hubspot, "hubspot", token="pat-na1-stand-in", owners='{"1000": "77"}'))
    await hubspot.control(fault="lose_answer", fault_path="upsert", fail_next=2)
    events = await system.calls(CALLS, talk_seconds=120, phone="3125551212")
    await system.publish_all(events)
    await written(hubspot, "calls", CALLS)
    await eventually(lambda: len(worker.settled("delivered")) >= CALLS, WITHIN)
    report = await hubspot.report()
    assert sorted(report["records"]["calls"].values()) == sorted(each["call_id"] for each in events)
    assert report["doubles"] == {}
    lines = worker.settled("delivered")
    assert {line["crm_contact"] for line in lines} == {"501"}
    assert await worker.stop() == 0
    assert worker.complaints() == []


async def test_each_call_is_one_task_in_salesforce_whatever_breaks(
    system: System, salesforce: Program
) -> None:
    app = {"client_id": "3MVG9-stand-in", "client_secret": "stand-in-secret"}
    worker = await system.start(**crm(salesforce, "salesforce", owners=f'{{"1000": "{USER}"}}', **app))
    await salesforce.control(fault="lose_answer", fault_path="composite", fail_next=1)
    events = await system.calls(CALLS, talk_seconds=120, phone="3125551212")
    first, second = events[: CALLS // 2], events[CALLS // 2 :]
    await system.publish_all(first)
    await written(salesforce, "Task", len(first))
    await salesforce.control(revoke_tokens=True)
    await system.publish_all(second)
    await written(salesforce, "Task", CALLS)
    await eventually(lambda: len(worker.settled("delivered")) >= CALLS, WITHIN)
    report = await salesforce.report()
    assert sorted(report["records"]["Task"].values()) == sorted(each["call_id"] for each in events)
    assert report["doubles"] == {}
    assert report["tokens_issued"] == 2
    assert {line["crm_contact"] for line in worker.settled("delivered")} == {CONTACT}
    assert await worker.stop() == 0
    assert worker.complaints() == []
