"""What the tests of `crm-sync intake` as a process share: a producer, and an account of what arrived."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aio_pika
import aiohttp

from tests.system.harness import Worker, eventually

NAMESPACE = "crm-sync"
TOKEN = "a-token_of-the-tests"
CLIENTS = 8
PAUSE = 0.02
"""Seconds between two calls of a client: enough load for a kill to meet requests in work."""


@dataclass
class Producer:
    """Clients that report calls, and repeat one until it is answered with 2xx, as a good producer does."""

    port: int
    pause: float = PAUSE
    next: int = 0
    accepted: dict[str, str] = field(default_factory=dict)
    """The event id of each call that was answered with 2xx."""
    refused: int = 0
    """Answers with 503, and requests without an answer."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Report calls for as long as the block runs."""
        stop = asyncio.Event()
        clients = [asyncio.create_task(self._report(stop)) for _ in range(CLIENTS)]
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(*clients)

    async def more(self, count: int = 20) -> None:
        """Wait until so many more calls are accepted."""
        before = len(self.accepted)
        await eventually(lambda: len(self.accepted) > before + count)

    async def _report(self, stop: asyncio.Event) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
            while not stop.is_set():
                self.next += 1
                await self._until_accepted(session, f"V12014050900{self.next:08d}", stop)
                await asyncio.sleep(self.pause)

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
            self.refused += 1
            await asyncio.sleep(self.pause)


def spawn(folder: Path, broker_url: str, port: int, namespace: str = NAMESPACE) -> Worker:
    (folder / "token").write_text(TOKEN, encoding="utf-8")
    settings = {
        "CRM_SYNC_BROKER__URL": broker_url,
        "CRM_SYNC_BROKER__NAMESPACE": namespace,
        "CRM_SYNC_INTAKE__PORT": str(port),
        "CRM_SYNC_INTAKE__RATE": "100000",
        "CRM_SYNC_INTAKE__SPOOL": str(folder / "spool"),
        "CRM_SYNC_INTAKE__TOKEN_FILES": str(folder / "token"),
    }
    return Worker(settings, folder, "intake")


async def declare(url: str, namespace: str = NAMESPACE) -> None:
    """Declare the exchange for events, and the queue for calls."""
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        exchange = await channel.declare_exchange(f"{namespace}.events", "topic", durable=True)
        queue = await channel.declare_queue(
            f"{namespace}.call-ended", durable=True, arguments={"x-queue-type": "quorum"}
        )
        await queue.bind(exchange, "call.ended")


async def account(url: str, producer: Producer, namespace: str = NAMESPACE) -> None:
    """Take all messages: each call that was accepted is there, with the id of its answer alone."""
    found: list[tuple[str, str | None]] = []
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        queue = await channel.get_queue(f"{namespace}.call-ended")
        while (message := await queue.get(no_ack=True, fail=False)) is not None:
            found.append((json.loads(message.body)["call_id"], message.message_id))
    by_call: dict[str, set[str | None]] = {}
    for call_id, event_id in found:
        by_call.setdefault(call_id, set()).add(event_id)
    lost = producer.accepted.keys() - by_call.keys()
    repeats = len(found) - len(by_call)
    print(f"{len(producer.accepted)} accepted, {len(lost)} lost, {repeats} repeats")  # noqa: T201 - a measurement
    assert lost == set()
    assert all(by_call[call] == {event_id} for call, event_id in producer.accepted.items())


async def emptied(intake: Worker, within: float = 60) -> float:
    """Wait until the broker has all that was in the spool. Return the seconds that it took."""

    async def is_empty() -> bool:
        text = (await intake.get("/metrics"))[1]
        (line,) = (each for each in text.splitlines() if each.startswith("crm_sync_intake_spool_events "))
        return float(line.split()[1]) == 0

    return await eventually(is_empty, within)
