"""What the tests of the dead letters share: letters of every kind, and what happens to them."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import aio_pika
import pytest
from aio_pika.abc import AbstractConnection, AbstractIncomingMessage
from typer.testing import CliRunner, Result

from worker.core.payload import CallEnrichment, CallRecord
from worker.rabbitmq.dead_letters import (
    Action,
    Progress,
    Selection,
    StoredDeadLetter,
    browse,
    replaying,
    settle,
)
from worker.rabbitmq.message import Header
from worker.rabbitmq.publisher import BrokerPublisher
from worker.rabbitmq.topology import DELIVERY_LIMIT, Topology, build_topology, declare
from worker.settings import BrokerCommandSettings, load

FAILED_AT = datetime(2026, 11, 20, 19, 7, 14, tzinfo=UTC)
CALL = b'{"type": "call.ended",  "call_id": "V1", "event_id": "e-1"}'
HEADERS: dict[str, Any] = {
    Header.EVENT_ID: "e-1",
    Header.ATTEMPT: 12,
    Header.FIRST_SEEN: "2026-11-20T19:00:00+00:00",
    Header.ROUTING_KEY: "call.ended",
    Header.REASON: "rejected_by_sink",
    Header.ERROR: "the webhook answered 422",
    Header.STAGE: "deliver",
    Header.FAILED_AT: FAILED_AT.isoformat(),
    Header.ENRICHMENT: CallEnrichment(call=CallRecord(call_id="V1")).model_dump_json(),
}


@dataclass
class Letters:
    """One namespace on the broker, and what a test does to it."""

    connection: AbstractConnection
    topology: Topology
    publisher: BrokerPublisher

    async def bury(
        self,
        body: bytes,
        said: dict[str, Any],
        key: str = "call.ended",
        **properties: Any,  # noqa: ANN401
    ) -> None:
        message = aio_pika.Message(body, headers=said, **properties)
        await self.publisher.publish_message(self.topology.dead_letters, key, message)

    async def take(self, queue: str) -> AbstractIncomingMessage:
        async with asyncio.timeout(30), self.connection.channel() as channel:
            found = await channel.get_queue(queue)
            while (message := await found.get(fail=False)) is None:  # noqa: ASYNC110 - as `basic.get` is
                await asyncio.sleep(0.02)
            await message.ack()
            return message

    async def wear_out(self, queue: str) -> None:
        """Reject a message until it reaches the delivery limit; from RabbitMQ 4.3 on no nack counts."""
        async with asyncio.timeout(60), self.connection.channel() as channel:
            found = await channel.get_queue(queue)
            times = 0
            while times <= DELIVERY_LIMIT:
                if (message := await found.get(fail=False)) is None:
                    await asyncio.sleep(0.02)
                    continue
                times += 1
                await message.reject(requeue=True)

    async def count(self, queue: str) -> int:
        async with self.connection.channel() as channel:
            found = await channel.declare_queue(queue, passive=True)
            return found.declaration_result.message_count or 0

    async def holds(self, queue: str, count: int) -> None:
        async with asyncio.timeout(30):
            while await self.count(queue) != count:  # noqa: ASYNC110 - the broker notifies nobody
                await asyncio.sleep(0.02)

    async def back(self, queue: str) -> int:
        """Count, once the broker has noticed that nobody holds anything any more."""
        counted = -1
        while (now := await self.count(queue)) != counted:
            counted = now
            await asyncio.sleep(0.3)
        return counted

    async def letters(self, count: int) -> list[StoredDeadLetter]:
        """Read them all, once the queue has as many."""
        await self.holds(self.topology.dead_letters, count)
        async with browse(self.connection, self.topology.dead_letters) as held:
            return [letter async for letter, _ in held]

    async def settle(self, selection: Selection, act: Action, **options: Any) -> Progress:  # noqa: ANN401
        progress = Progress()
        stop = options.pop("stop", asyncio.Event())
        async with browse(self.connection, self.topology.dead_letters) as held:
            await settle(held, selection, act, progress, stop=stop, **options)
        return progress

    def replaying(self, *, look_up_again: bool = False) -> Action:
        return replaying(self.publisher, self.topology.work_exchange, look_up_again=look_up_again)

    async def bury_some(self) -> None:
        """Bury three that the sink refused, and a bad one."""
        for number in range(3):
            await self.bury(CALL, HEADERS | {Header.EVENT_ID: f"e-{number}"})
        bad = HEADERS | {Header.REASON: "invalid_event", Header.ERROR: "bad \x1b[31m\nid"}
        await self.bury(b'{"agent_user": 1', bad | {Header.EVENT_ID: "bad"}, "agent.onboarded")
        await self.holds(self.topology.dead_letters, 4)


def settings_for(broker_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch) -> BrokerCommandSettings:
    """Set the environment, which the commands' own processes inherit."""
    monkeypatch.setenv("CRM_SYNC_BROKER__URL", broker_url)
    monkeypatch.setenv("CRM_SYNC_BROKER__NAMESPACE", namespace)
    monkeypatch.setenv("CRM_SYNC_RETRY__DELAYS", "100ms")
    return load(BrokerCommandSettings)


@asynccontextmanager
async def open_letters(settings: BrokerCommandSettings) -> AsyncIterator[Letters]:
    """Declare the topology of a namespace and give what acts on its dead letters."""
    topology = build_topology(settings)
    async with await aio_pika.connect(settings.broker.url[0].get_secret_value()) as connection:
        await declare(connection, topology)
        publisher = BrokerPublisher()
        _ = await publisher.attach(connection)
        yield Letters(connection, topology, publisher)


async def command(*arguments: str, answer: str | None = None) -> Result:
    """Run a command in a process of its own: it has its own event loop and signals."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "worker", "dead-letters", *arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    stdout, stderr = await asyncio.wait_for(process.communicate((answer or "").encode()), 60)
    assert b"Traceback" not in stderr
    return Result(
        runner=CliRunner(),
        stdout_bytes=stdout,
        stderr_bytes=stderr,
        output_bytes=stdout + stderr,
        return_value=None,
        exit_code=process.returncode or 0,
        exception=None,
    )
