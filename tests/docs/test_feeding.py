"""What docs/dialer.md says to put into VICIdial becomes events, through the intake."""

import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aio_pika
import aiohttp
import pytest
from aio_pika.abc import AbstractQueue

from tests.system.harness import PASSWORD, Program, System, Worker, crm_sync, environment
from tests.tools import need
from worker.core.events import EventType

pytestmark = pytest.mark.verify

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "dialer.md").read_text(encoding="utf-8")
TOKEN = "a-token_of-the-tests"
CALL = {
    "call_id": "V1201405090000012345",
    "uniqueid": "1795269909.101",
    "lead_id": "12345",
    "user": "1000",
    "campaign": "SALES1",
    "group": "SALESLINE",
    "list_id": "1001",
    "dispo": "SALE",
}
"""A call as VICIdial knows it, by the names of its variables."""


def template(name: str) -> str:
    """Return a URL as the page says to put it into VICIdial."""
    match = re.search(rf"<!-- {name} -->\n```\n(.*?)\n```", PAGE, re.DOTALL)
    assert match is not None
    return match[1]


def filled_in(name: str, port: int, **changed: str) -> str:
    """Fill in a template as VICIdial does."""
    url = template(name).removeprefix("VAR").replace("TOKEN", TOKEN).replace(":8085/", f":{port}/")
    for variable, value in (CALL | changed).items():
        url = re.sub(f"--A--{variable}--B--", value, url, flags=re.IGNORECASE)
    return url


class Intake:
    """The intake as a process, with the broker of the tests."""

    def __init__(self, broker_url: str, namespace: str, folder: Path) -> None:
        (folder / "token").write_text(TOKEN, encoding="utf-8")
        settings = {
            "CRM_SYNC_BROKER__URL": broker_url,
            "CRM_SYNC_BROKER__NAMESPACE": namespace,
            "CRM_SYNC_INTAKE__PORT": "0",
            "CRM_SYNC_INTAKE__SPOOL": str(folder / "spool"),
            "CRM_SYNC_INTAKE__TOKEN_FILES": str(folder / "token"),
        }
        self.process = Worker(settings, folder, "intake")
        self.port = 0

    async def ready(self) -> None:
        self.port = await self.process.listening()

    @staticmethod
    async def get(url: str) -> tuple[int, str]:
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return response.status, await response.text()

    async def dispositioned(self, name: str = "dispo-call-url", **changed: str) -> tuple[int, str]:
        return await self.get(filled_in(name, self.port, **changed))


@pytest.fixture
def intake(broker_url: str, namespace: str, tmp_path: Path) -> Iterator[Intake]:
    made = Intake(broker_url, namespace, tmp_path)
    yield made
    made.process.kill()


@pytest.fixture
async def queue(broker_url: str, namespace: str) -> AsyncIterator[AbstractQueue]:
    """Yield a queue that gets every `call.ended`, as the worker's does."""
    async with await aio_pika.connect(broker_url) as connection:
        channel = await connection.channel()
        exchange = await channel.declare_exchange(f"{namespace}.events", "topic", durable=True)
        made = await channel.declare_queue(exclusive=True)
        await made.bind(exchange, EventType.CALL_ENDED)
        yield made


async def take(queue: AbstractQueue) -> dict[str, Any]:
    async with asyncio.timeout(20):
        while (message := await queue.get(fail=False)) is None:  # noqa: ASYNC110 - a queue announces nothing
            await asyncio.sleep(0.02)
    await message.ack()
    found: dict[str, Any] = json.loads(message.body)
    return found


# --- what becomes of a URL ------------------------------------------------------------------------


@pytest.mark.broker
async def test_a_disposition_becomes_an_event(intake: Intake, queue: AbstractQueue) -> None:
    await intake.ready()
    status, said = await intake.dispositioned()
    event = await take(queue)
    assert (status, said) == (200, f"stored {event['event_id']}\n")
    age = datetime.now(UTC) - datetime.fromisoformat(event.pop("occurred_at"))
    assert 0 <= age.total_seconds() < 20
    assert event == {
        "type": "call.ended",
        "event_id": event["event_id"],
        "call_id": "V1201405090000012345",
        "uniqueid": "1795269909.101",
        "lead_id": "12345",
        "agent_user": "1000",
        "campaign_id": "SALES1",
        "list_id": "1001",
        "status": "SALE",
    }


@pytest.mark.broker
async def test_a_call_that_no_agent_took_names_none(intake: Intake, queue: AbstractQueue) -> None:
    await intake.ready()
    status, _ = await intake.dispositioned("no-agent-call-url", user="VDCL", dispo="DROP", list_id="")
    assert status == 200
    event = await take(queue)
    assert event["in_group_id"] == "SALESLINE"
    assert event["status"] == "DROP"
    assert event.keys().isdisjoint({"agent_user", "campaign_id", "list_id"})


@pytest.mark.broker
async def test_php_takes_the_answer_for_a_success_and_a_refusal_for_an_error(intake: Intake) -> None:
    """VICIdial asks with PHP's `file()` and logs an error if that returns nothing."""
    php = str(need("php"))
    await intake.ready()
    good = filled_in("dispo-call-url", intake.port)
    for url, succeeds in ((good, True), (good.replace("call_id=V", "call_id="), False)):
        done = await asyncio.to_thread(
            subprocess.run,
            [php, "-r", "exit(file($argv[1]) ? 0 : 1);", url],
            capture_output=True,
            timeout=30,
            check=False,
        )
        assert (done.returncode == 0) is succeeds, done.stdout


@pytest.mark.broker
async def test_the_pages_command_asks_again_for_what_was_lost(
    intake: Intake, queue: AbstractQueue, tmp_path: Path
) -> None:
    """The database is played by a script that prints what it would answer."""
    match = re.search(r"<!-- lost-urls -->\n```sh\n(.*?)```", PAGE, re.DOTALL)
    assert match is not None
    await intake.ready()
    urls = [
        filled_in("dispo-call-url", intake.port),
        filled_in("no-agent-call-url", intake.port, call_id="Y1201405110000012345", user="VDCL"),
    ]
    rows = "".join(f"2026-11-20T14:0{number}:14\t{url}\n" for number, url in enumerate(urls))
    get = "import sys, urllib.request as u; print(u.urlopen(sys.argv[-1]).read().decode())"
    for name, script in (
        ("mysql", f"cat <<'ROWS'\n{rows}ROWS"),
        ("curl", f"exec {shlex.quote(sys.executable)} -c '{get}' \"$@\""),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    process = await asyncio.create_subprocess_exec(
        "/bin/sh",
        "-c",
        match[1],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
    )
    said = (await process.communicate())[0].decode()
    assert said.count("stored ") == 2
    events = [await take(queue) for _ in urls]
    assert [(event["call_id"], event["occurred_at"]) for event in events] == [
        ("V1201405090000012345", "2026-11-20T14:00:14"),
        ("Y1201405110000012345", "2026-11-20T14:01:14"),
    ]


# --- as a system ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def programs() -> Iterator[tuple[Program, Program]]:
    dialer, crm = Program("dialer"), Program("crm")
    yield dialer, crm
    dialer.end()
    crm.end()


@pytest.fixture
async def system(
    broker_url: str, namespace: str, tmp_path: Path, programs: tuple[Program, Program]
) -> AsyncIterator[System]:
    opened = System(broker_url, namespace, tmp_path, *programs)
    await programs[0].control(password={"crmsync": PASSWORD})
    await programs[1].control(forget=True)
    yield opened
    with suppress(TimeoutError):
        await opened.end()


@pytest.mark.broker
@pytest.mark.system
async def test_a_disposition_reaches_the_crm_with_its_recordings(intake: Intake, system: System) -> None:
    await system.start()
    await intake.ready()
    _, said = await intake.dispositioned()
    event_id = said.removeprefix("stored ").strip()
    (sent,) = (await system.delivered(event_id))[event_id]
    data = json.loads(sent["body"])["data"]
    assert data["final"]
    assert data["call"]["status"] == "SALE"
    assert data["call"]["lead_id"] == "12345"
    assert len(data["call"]["recordings"]) >= 1


@pytest.mark.broker
@pytest.mark.system
async def test_the_pages_command_publishes_an_onboarding(system: System) -> None:
    match = re.search(r"<!-- onboarded -->\n```sh\n(.*?)```", PAGE, re.DOTALL)
    assert match is not None
    command = shlex.split(match[1].replace("\\\n", " "))
    assert command[0] == "crm-sync"
    await system.start(vicidial__ready_within="1s")
    process = await asyncio.create_subprocess_exec(
        *crm_sync(), *command[1:], env=environment(system.settings()), stdout=subprocess.PIPE
    )
    said = (await process.communicate())[0].decode()
    assert process.returncode == 0
    event_id = said.split()[2]
    (sent,) = (await system.delivered(event_id))[event_id]
    assert json.loads(sent["body"])["type"] == "agent.enriched"
    assert "access_check" in json.loads(sent["body"])["data"]
