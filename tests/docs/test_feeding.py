"""The bridge of docs/dialer.md: what VICIdial's URLs ask for becomes an event, whatever breaks."""

import asyncio
import json
import os
import re
import resource
import shlex
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aio_pika
import aiohttp
import pytest
from aio_pika.abc import AbstractIncomingMessage, AbstractQueue

from tests.system.harness import PASSWORD, Program, System, crm_sync, environment, eventually
from tests.tools import need
from worker.core.events import EventType
from worker.rabbitmq.bulk_publish import check_event

pytestmark = pytest.mark.verify

ROOT = Path(__file__).parents[2]
BRIDGE = ROOT / "docs" / "feeding" / "dispo_bridge.py"
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


@dataclass
class Bridge:
    """The bridge as a process; `start` it again after `kill`."""

    folder: Path
    broker_url: str
    exchange: str
    port: int = 0
    limit: int | None = None
    """The largest file that it may write, in bytes."""
    process: subprocess.Popen[bytes] | None = field(default=None)

    def start(self) -> None:
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        with (self.folder / "bridge.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(BRIDGE)],
                cwd=self.folder,
                env=os.environ
                | {
                    "BRIDGE_TOKEN": TOKEN,
                    "BRIDGE_LISTEN": f"127.0.0.1:{self.port}",
                    "BRIDGE_SPOOL": str(self.spool),
                    "CRM_SYNC_BROKER__URL": self.broker_url,
                    "CRM_SYNC_BROKER__EVENTS_EXCHANGE": self.exchange,
                },
                stdout=log,
                stderr=log,
            )
        if self.limit is not None:
            resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (self.limit, self.limit))

    async def ready(self) -> None:
        self.start()

        async def answers() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.log
            return (await self.get(f"http://127.0.0.1:{self.port}/call-ended"))[0] == 403

        await eventually(answers, 20)

    @property
    def spool(self) -> Path:
        return self.folder / "spool.ndjson"

    @property
    def log(self) -> str:
        return (self.folder / "bridge.log").read_text()

    @staticmethod
    async def get(url: str, method: str = "GET") -> tuple[int, str]:
        async with aiohttp.ClientSession() as session, session.request(method, url) as response:
            return response.status, await response.text()

    async def dispositioned(self, name: str = "dispo-call-url", **changed: str) -> tuple[int, str]:
        return await self.get(filled_in(name, self.port, **changed))

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)


@pytest.fixture
def bridge(broker_url: str, namespace: str, tmp_path: Path) -> Iterator[Bridge]:
    made = Bridge(tmp_path, broker_url, f"{namespace}.events")
    yield made
    made.kill()


@pytest.fixture
async def channel(broker_url: str) -> AsyncIterator[aio_pika.abc.AbstractChannel]:
    async with await aio_pika.connect(broker_url) as connection:
        yield await connection.channel()


@pytest.fixture
async def queue(channel: aio_pika.abc.AbstractChannel, namespace: str) -> AbstractQueue:
    """Return a queue that gets every `call.ended`, as the worker's does."""
    exchange = await channel.declare_exchange(f"{namespace}.events", "topic", durable=True)
    made = await channel.declare_queue(exclusive=True)
    await made.bind(exchange, EventType.CALL_ENDED)
    return made


async def take(queue: AbstractQueue) -> AbstractIncomingMessage:
    async with asyncio.timeout(20):
        while (message := await queue.get(fail=False)) is None:  # noqa: ASYNC110 - a queue announces nothing
            await asyncio.sleep(0.02)
    await message.ack()
    return message


def event_of(message: AbstractIncomingMessage) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(message.body)
    return found


# --- what becomes of a URL ------------------------------------------------------------------------


@pytest.mark.broker
async def test_a_disposition_becomes_an_event(bridge: Bridge, queue: AbstractQueue) -> None:
    await bridge.ready()
    status, said = await bridge.dispositioned()
    message = await take(queue)
    event = event_of(message)
    assert (status, said) == (200, f"stored {event['event_id']}\n")
    assert message.delivery_mode == aio_pika.DeliveryMode.PERSISTENT
    assert message.routing_key == "call.ended"
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
    await eventually(lambda: bridge.spool.read_bytes() == b"")


@pytest.mark.broker
async def test_a_call_that_no_agent_took_names_none(bridge: Bridge, queue: AbstractQueue) -> None:
    await bridge.ready()
    status, _ = await bridge.dispositioned("no-agent-call-url", user="VDCL", dispo="DROP", list_id="")
    assert status == 200
    event = event_of(await take(queue))
    assert event["in_group_id"] == "SALESLINE"
    assert event["status"] == "DROP"
    assert event.keys().isdisjoint({"agent_user", "campaign_id", "list_id"})


@pytest.mark.broker
async def test_the_same_call_again_has_the_same_id(bridge: Bridge, queue: AbstractQueue) -> None:
    """So the CRM drops it; another call has another, even with the same VICIdial id a year later."""
    await bridge.ready()
    for changed in ({}, {"dispo": "NI"}, {"uniqueid": "1826805909.7"}, {"call_id": "V1201405090000012346"}):
        assert (await bridge.dispositioned(**changed))[0] == 200
    first, again, later, other = [event_of(await take(queue))["event_id"] for _ in range(4)]
    assert first == again
    assert len({first, later, other}) == 3


@pytest.mark.broker
async def test_a_url_that_is_asked_for_again_by_hand_can_say_when(
    bridge: Bridge, queue: AbstractQueue
) -> None:
    await bridge.ready()
    url = filled_in("dispo-call-url", bridge.port)
    assert (await bridge.get(f"{url}&occurred_at=2026-11-20+14:07:14"))[0] == 200
    message = await take(queue)
    assert event_of(message)["occurred_at"] == "2026-11-20 14:07:14"
    assert check_event(message.body).occurred_at.isoformat() == "2026-11-20T14:07:14+00:00"
    assert (await bridge.get(f"{url}&occurred_at=yesterday"))[0] == 400


@pytest.mark.parametrize(
    "call_id",
    ["", "--A--call_id--B--", "12345", "V12014050900000'2345", "V" + "1" * 39, "V120140509000001234\n"],
    ids=["none", "not filled in", "a lead's", "a quote", "too long", "a line break"],
)
async def test_what_is_no_call_is_refused(tmp_path: Path, call_id: str) -> None:
    bridge = Bridge(tmp_path, "amqp://127.0.0.1:1/", "nowhere")
    try:
        await bridge.ready()
        assert (await bridge.dispositioned(call_id=call_id.replace("\n", "%0A")))[0] == 400
        assert bridge.spool.read_bytes() == b""
    finally:
        bridge.kill()


async def test_who_does_not_know_the_token_stores_nothing(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, "amqp://127.0.0.1:1/", "nowhere")
    try:
        await bridge.ready()
        url = filled_in("dispo-call-url", bridge.port)
        for wrong in ("wrong", "", TOKEN[:-1]):
            assert (await bridge.get(url.replace(TOKEN, wrong)))[0] == 403
        for method in ("POST", "HEAD"):
            assert (await bridge.get(url, method))[0] == 405
        assert bridge.spool.read_bytes() == b""
    finally:
        bridge.kill()


def test_it_does_not_start_with_a_token_that_could_be_guessed(tmp_path: Path) -> None:
    for token in ("", "short", "sixteen letters;", "$(sixteen_letters)"):
        done = subprocess.run(
            [sys.executable, str(BRIDGE)],
            cwd=tmp_path,
            env=os.environ | {"BRIDGE_TOKEN": token, "CRM_SYNC_BROKER__URL": "amqp://127.0.0.1:1/"},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 1
        assert "BRIDGE_TOKEN" in done.stderr


@pytest.mark.broker
async def test_php_takes_the_answer_for_a_success_and_a_refusal_for_an_error(bridge: Bridge) -> None:
    """VICIdial asks with PHP's `file()` and logs an error if that returns nothing."""
    php = str(need("php"))
    await bridge.ready()
    good = filled_in("dispo-call-url", bridge.port)
    for url, succeeds in ((good, True), (good.replace("call_id=V", "call_id="), False)):
        done = await asyncio.to_thread(
            subprocess.run,
            [php, "-r", "exit(file($argv[1]) ? 0 : 1);", url],
            capture_output=True,
            timeout=30,
            check=False,
        )
        assert (done.returncode == 0) is succeeds, done.stdout


# --- what breaks ----------------------------------------------------------------------------------


@pytest.mark.broker
async def test_while_the_broker_is_away_and_over_a_kill_nothing_is_lost(
    bridge: Bridge, queue: AbstractQueue, broker_url: str
) -> None:
    ids = [f"V12014050900000{number}" for number in range(10_000, 10_020)]
    bridge.broker_url = "amqp://guest:Br0ker-Secret@127.0.0.1:1/"
    await bridge.ready()
    assert [(await bridge.dispositioned(call_id=each))[0] for each in ids] == [200] * len(ids)
    await eventually(lambda: "the events wait in the spool" in bridge.log)
    bridge.kill()
    assert "Br0ker-Secret" not in bridge.log
    assert bridge.spool.stat().st_mode & 0o077 == 0
    lines = bridge.spool.read_bytes().splitlines()
    assert [check_event(line).subject for line in lines] == ids  # as crm-sync publish --file reads them
    with bridge.spool.open("ab") as spool:
        spool.write(b'{"type": "call.ended", "call_')  # killed while it wrote: never answered
    bridge.broker_url = broker_url
    await bridge.ready()
    assert [event_of(await take(queue))["call_id"] for _ in ids] == ids
    await eventually(lambda: bridge.spool.read_bytes() == b"")
    assert (await bridge.dispositioned())[0] == 200
    assert event_of(await take(queue))["call_id"] == CALL["call_id"]
    assert await queue.get(fail=False) is None


@pytest.mark.broker
async def test_an_event_that_no_queue_takes_waits_for_one(
    bridge: Bridge, channel: aio_pika.abc.AbstractChannel, namespace: str
) -> None:
    """The worker has not declared its queues yet."""
    exchange = await channel.declare_exchange(f"{namespace}.events", "topic", durable=True)
    await bridge.ready()
    assert (await bridge.dispositioned())[0] == 200
    await eventually(lambda: "the events wait in the spool" in bridge.log)
    queue = await channel.declare_queue(exclusive=True)
    await queue.bind(exchange, EventType.CALL_ENDED)
    assert event_of(await take(queue))["call_id"] == CALL["call_id"]


async def test_a_disk_that_is_full_is_reported_to_vicidial_and_spoils_no_line(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, "amqp://127.0.0.1:1/", "nowhere", limit=400)
    try:
        await bridge.ready()
        assert [(await bridge.dispositioned())[0] for _ in range(3)] == [200, 503, 503]
        (line,) = bridge.spool.read_bytes().splitlines()
        assert check_event(line).subject == CALL["call_id"]
        assert f"call {CALL['call_id']} is lost" in bridge.log
    finally:
        bridge.kill()


async def test_a_second_bridge_does_not_share_the_spool(tmp_path: Path) -> None:
    first = Bridge(tmp_path, "amqp://127.0.0.1:1/", "nowhere")
    second = Bridge(tmp_path, "amqp://127.0.0.1:1/", "nowhere")
    try:
        await first.ready()
        second.start()
        assert second.process is not None
        assert await asyncio.to_thread(second.process.wait, 20) == 1
        assert "another bridge has it" in second.log
    finally:
        first.kill()
        second.kill()


@pytest.mark.broker
async def test_the_pages_command_asks_again_for_what_was_lost(
    bridge: Bridge, queue: AbstractQueue, tmp_path: Path
) -> None:
    """The database is played by a script that prints what it would answer."""
    match = re.search(r"<!-- lost-urls -->\n```sh\n(.*?)```", PAGE, re.DOTALL)
    assert match is not None
    await bridge.ready()
    urls = [
        filled_in("dispo-call-url", bridge.port),
        filled_in("no-agent-call-url", bridge.port, call_id="Y1201405110000012345", user="VDCL"),
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
    events = [event_of(await take(queue)) for _ in urls]
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
async def test_a_disposition_reaches_the_crm_with_its_recordings(bridge: Bridge, system: System) -> None:
    await system.start()
    await bridge.ready()
    _, said = await bridge.dispositioned()
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
