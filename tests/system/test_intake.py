"""`crm-sync intake` is killed again and again under load while its broker comes and goes: nothing is lost."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aio_pika
import aiohttp
import pytest

from simulators.broker import find_server
from simulators.broker_node import PrivateBroker, free_ports
from tests.system.harness import Worker, eventually
from tests.tools import skip_without

pytestmark = [pytest.mark.system, pytest.mark.broker, pytest.mark.verify, pytest.mark.timeout(600)]

TOKEN = "a-token_of-the-tests"
KILLS = 20
CLIENTS = 8
PAUSE = 0.02
"""Seconds between two calls of a client: enough load for a kill to meet requests in work."""


@pytest.fixture
async def node() -> AsyncIterator[PrivateBroker]:
    server = find_server()
    if server is None:
        skip_without("a node of its own needs an installed rabbitmq-server")
    async with await PrivateBroker.start(server) as started:
        yield started


@dataclass
class Producer:
    """Clients that report calls, and repeat one until it is answered with 2xx, as a good producer does."""

    port: int
    next: int = 0
    accepted: dict[str, str] = field(default_factory=dict)
    """The event id of each call that was answered with 2xx."""

    def call_id(self) -> str:
        self.next += 1
        return f"V12014050900{self.next:08d}"

    async def report(self, stop: asyncio.Event) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
            while not stop.is_set():
                await self._until_accepted(session, self.call_id(), stop)
                await asyncio.sleep(PAUSE)

    async def _until_accepted(
        self, session: aiohttp.ClientSession, call_id: str, stop: asyncio.Event
    ) -> None:
        url = f"http://127.0.0.1:{self.port}/events"
        body = {"type": "call.ended", "call_id": call_id}
        while not stop.is_set():
            try:
                async with session.post(url, json=body, headers={"Authorization": f"Bearer {TOKEN}"}) as got:
                    if got.status == 200:
                        (self.accepted[call_id],) = (await got.json())["accepted"]
                        return
                    assert got.status == 503, await got.text()
            except (aiohttp.ClientError, TimeoutError):
                pass
            await asyncio.sleep(0.02)


def spawn(folder: Path, broker_url: str, port: int) -> Worker:
    (folder / "token").write_text(TOKEN, encoding="utf-8")
    settings = {
        "CRM_SYNC_BROKER__URL": broker_url,
        "CRM_SYNC_INTAKE__PORT": str(port),
        "CRM_SYNC_INTAKE__RATE": "100000",
        "CRM_SYNC_INTAKE__SPOOL": str(folder / "spool"),
        "CRM_SYNC_INTAKE__TOKEN_FILES": str(folder / "token"),
    }
    return Worker(settings, folder, "intake")


async def declare(url: str) -> None:
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        exchange = await channel.declare_exchange("crm-sync.events", "topic", durable=True)
        queue = await channel.declare_queue(
            "crm-sync.call-ended", durable=True, arguments={"x-queue-type": "quorum"}
        )
        await queue.bind(exchange, "call.ended")


async def taken(url: str) -> list[dict[str, Any]]:
    """Get all messages of the queue: the call, and the id of its event."""
    found = []
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        queue = await channel.get_queue("crm-sync.call-ended")
        while (message := await queue.get(no_ack=True, fail=False)) is not None:
            found.append({"call_id": json.loads(message.body)["call_id"], "id": message.message_id})
    return found


async def spooled(intake: Worker) -> int:
    text = (await intake.get("/metrics"))[1]
    (line,) = (each for each in text.splitlines() if each.startswith("crm_sync_intake_spool_events "))
    return int(float(line.split()[1]))


async def test_killed_twenty_times_under_load_with_the_broker_away_nothing_is_lost(
    node: PrivateBroker, tmp_path: Path
) -> None:
    await declare(node.url)
    (port,) = free_ports(1)
    producer = Producer(port)
    stop = asyncio.Event()
    intake = spawn(tmp_path, node.url, port)
    clients = [asyncio.create_task(producer.report(stop)) for _ in range(CLIENTS)]
    try:
        for kill in range(KILLS):
            before = len(producer.accepted)
            await eventually(lambda before=before: len(producer.accepted) > before + 20)
            if kill % 5 == 1:
                await node.kill()
            intake.kill()
            intake = spawn(tmp_path, node.url, port)
            if kill % 5 == 3:
                await node.resume()
        if node.pid is None:
            await node.resume()
        before = len(producer.accepted)
        await eventually(lambda: len(producer.accepted) > before + 20)
        stop.set()
        await asyncio.gather(*clients)

        async def is_empty() -> bool:
            return await spooled(intake) == 0

        await eventually(is_empty, 60)
        assert await intake.stop() == 0
    finally:
        stop.set()
        if intake.process.poll() is None:
            intake.kill()
    found = await taken(node.url)
    by_call: dict[str, set[str]] = {}
    for each in found:
        by_call.setdefault(each["call_id"], set()).add(each["id"])
    lost = producer.accepted.keys() - by_call.keys()
    repeats = len(found) - len(by_call)
    print(f"{len(producer.accepted)} accepted, {len(lost)} lost, {repeats} repeats")  # noqa: T201 - a measurement
    assert lost == set()
    assert all(by_call[call] == {event_id} for call, event_id in producer.accepted.items())
