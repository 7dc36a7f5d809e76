"""The way of events to a real broker: kept over restarts and alarms, and honest about what it took."""

import asyncio
import os
import signal
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractQueue
from pydantic import SecretStr
from structlog.testing import capture_logs

from simulators.broker_node import PrivateBroker
from tests.adapters.raw import closed_port
from tests.broker.bench import eventually
from tests.intake.test_relay import Observer
from worker.core.errors import PublishError
from worker.core.ports import Outgoing
from worker.intake.relay import Relay
from worker.intake.requests import Record
from worker.intake.spool import Spool
from worker.rabbitmq.connection import SILENT
from worker.rabbitmq.feed import Feed
from worker.rabbitmq.publisher import BrokerPublisher

pytestmark = pytest.mark.broker

CALL = Outgoing(
    b"{}",
    "id-1",
    "call.ended",
    "application/json",
    {"cloudEvents:id": "7"},
    datetime(2026, 11, 20, tzinfo=UTC),
)


@asynccontextmanager
async def running(feed: Feed) -> AsyncIterator[None]:
    task = asyncio.create_task(feed.run())
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@asynccontextmanager
async def bound(url: str, exchange: str, name: str) -> AsyncIterator[tuple[AbstractChannel, AbstractQueue]]:
    """Declare the exchange and a durable queue that gets all of it."""
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        target = await channel.declare_exchange(exchange, "topic", durable=True)
        queue = await channel.declare_queue(name, durable=True)
        await queue.bind(target, "#")
        yield channel, queue
        await channel.queue_delete(name)


async def test_an_event_is_published_with_all_that_it_has(broker_url: str, namespace: str) -> None:
    exchange = f"{namespace}.events"
    feed = Feed([SecretStr(broker_url)], exchange)
    async with bound(broker_url, exchange, f"{namespace}.call-ended") as (_, queue), running(feed):
        await asyncio.wait_for(feed.available.wait(), 20)
        await feed.publish(CALL)
        await feed.check()
        message = await queue.get()
        assert message is not None
        await message.ack()
        assert await queue.get(fail=False) is None
    assert (message.body, message.routing_key, message.message_id) == (b"{}", "call.ended", "id-1")
    assert (message.headers, message.timestamp) == (CALL.headers, CALL.timestamp)
    assert message.delivery_mode == aio_pika.DeliveryMode.PERSISTENT
    with pytest.raises(PublishError, match="no connection"):
        await feed.publish(CALL)


async def test_without_an_exchange_it_says_so_and_begins_once_there_is_one(
    broker_url: str, namespace: str
) -> None:
    exchange = f"{namespace}.events"
    feed = Feed([SecretStr(broker_url)], exchange, longest_wait=0.2)
    with capture_logs() as lines:
        async with running(feed):
            await eventually(lambda: feed.last_error is not None)
            assert f"there is no exchange {exchange}" in str(feed.last_error)
            with pytest.raises(PublishError, match="there is no exchange"):
                await feed.check()
            async with bound(broker_url, exchange, f"{namespace}.call-ended"):
                await asyncio.wait_for(feed.available.wait(), 20)
    assert lines[0]["event"] == "broker_takes_nothing"
    assert lines[-1]["event"] == "feeding"


async def test_an_event_that_no_queue_gets_is_not_taken(broker_url: str, namespace: str) -> None:
    exchange = f"{namespace}.events"
    feed = Feed([SecretStr(broker_url)], exchange)
    async with bound(broker_url, exchange, f"{namespace}.call-ended") as (channel, queue), running(feed):
        await asyncio.wait_for(feed.available.wait(), 20)
        await queue.unbind(await channel.get_exchange(exchange), "#")
        with pytest.raises(PublishError, match="no queue takes"):
            await feed.publish(CALL)


async def test_a_broker_that_is_away_is_named_without_its_password(namespace: str) -> None:
    feed = Feed([SecretStr(f"amqp://guest:Br0ker-Secret@127.0.0.1:{closed_port()}/")], "x", longest_wait=0.1)
    with capture_logs() as lines:
        async with running(feed):
            await eventually(lambda: len(lines) >= 3)
    assert {line["event"] for line in lines} == {"broker_unreachable"}
    assert "Br0ker-Secret" not in str(lines)


async def test_a_bug_of_ours_is_logged_and_the_connection_is_opened_again(
    broker_url: str, namespace: str
) -> None:
    class Faulty(Feed):
        faults = 1

        async def _look_for_exchange(self, connection: AbstractConnection) -> None:
            if self.faults:
                self.faults -= 1
                raise KeyError("x")
            await super()._look_for_exchange(connection)

    exchange = f"{namespace}.events"
    feed = Faulty([SecretStr(broker_url)], exchange, longest_wait=0.1)
    with capture_logs() as lines:
        async with bound(broker_url, exchange, f"{namespace}.call-ended"), running(feed):
            await asyncio.wait_for(feed.available.wait(), 20)
    assert [(line["event"], line.get("error_type")) for line in lines] == [
        ("feed_failed", "KeyError"),
        ("feeding", None),
    ]


async def test_a_broker_that_falls_silent_while_the_channel_is_renewed_cancels_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def end_as_aiormq_does(_: BrokerPublisher) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(BrokerPublisher, "renew", end_as_aiormq_does)
    await Feed([SecretStr("amqp://127.0.0.1")], "x").renew()


class Reports:
    """Events that are accepted one after the other, and a queue that has to get each of them."""

    def __init__(self, url: str, folder: Path, *, quorum: bool = False) -> None:
        self.url, self.folder = url, folder
        self.name = f"t{uuid.uuid4().hex[:12]}"
        self.feed = Feed([SecretStr(url)], f"{self.name}.events", longest_wait=0.5)
        self.accepted: list[str] = []
        self.stored: list[str] = []
        self.found: list[str | None] = []
        self.spool = Spool(folder, 1_000_000)
        self.observer = Observer()
        self.type = "quorum" if quorum else "classic"

    async def report(self, relay: Relay, stop: asyncio.Event) -> None:
        while not stop.is_set():
            event_id = f"id-{len(self.accepted)}"
            self.stored.append(await relay.accept([Record(event_id, "call.ended", b"{}", at=1)]))
            self.accepted.append(event_id)
            await asyncio.sleep(0.005)

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        """Report events while the block runs, and until all of them are out of the spool."""
        await self._declare()
        async with self.spool as spool, running(self.feed):
            relay = Relay(spool, self.feed, self.observer)
            relaying = asyncio.create_task(relay.run())
            stop = asyncio.Event()
            await asyncio.wait_for(self.feed.available.wait(), 20)
            reporting = asyncio.create_task(self.report(relay, stop))
            yield
            stop.set()
            await reporting
            await eventually(lambda: not spool.waiting, 60)
            relaying.cancel()
        await self._take_all()

    async def _declare(self) -> None:
        async with await aio_pika.connect(self.url) as connection:
            channel = await connection.channel()
            await channel.declare_exchange(f"{self.name}.events", "topic", durable=True)
            queue = await channel.declare_queue(
                f"{self.name}.call-ended", durable=True, arguments={"x-queue-type": self.type}
            )
            await queue.bind(f"{self.name}.events", "#")

    async def _take_all(self) -> None:
        async with await aio_pika.connect(self.url) as connection:
            channel = await connection.channel()
            queue = await channel.get_queue(f"{self.name}.call-ended")
            while (message := await queue.get(no_ack=True, fail=False)) is not None:
                self.found.append(message.message_id)
            await queue.delete(if_unused=False, if_empty=False)
            await channel.exchange_delete(f"{self.name}.events")

    def check(self) -> None:
        """Check that each arrived, in order but for repeats, by both ways."""
        assert set(self.stored) == {"broker", "spool"}
        assert list(dict.fromkeys(self.found)) == self.accepted


async def test_over_a_restart_of_the_broker_every_event_arrives_in_order(
    node: PrivateBroker, tmp_path: Path
) -> None:
    reports = Reports(node.url, tmp_path)
    async with reports.going_on():
        await eventually(lambda: len(reports.accepted) > 20)
        await node.restart()
        await asyncio.wait_for(reports.feed.available.wait(), 60)
    reports.check()


async def test_over_an_alarm_every_event_arrives_in_order(node: PrivateBroker, tmp_path: Path) -> None:
    reports = Reports(node.url, tmp_path)
    async with reports.going_on():
        await eventually(lambda: len(reports.accepted) > 20)
        await node.ctl("set_vm_memory_high_watermark", "0")
        await eventually(lambda: reports.spool.waiting > 20, 60)
        await node.ctl("set_vm_memory_high_watermark", "0.6")
    reports.check()
    print(f"{len(reports.found) - len(reports.accepted)} repeats of {len(reports.accepted)}")  # noqa: T201


@pytest.mark.parametrize("disturb", ["suspend", "stop"])
async def test_over_a_queue_that_takes_nothing_every_event_arrives_in_order(
    node: PrivateBroker, tmp_path: Path, disturb: str
) -> None:
    """Its only member hangs, and the broker confirms nothing; or it is gone, and the broker refuses."""
    stop, go_on, why = {
        "suspend": ("sys:suspend(element(1, {}))", "sys:resume(element(1, {}))", "did not confirm"),
        "stop": (
            "ra:stop_server(quorum_queues, {})",
            "ra:restart_server(quorum_queues, {})",
            "refused the message",
        ),
    }[disturb]
    reports = Reports(node.url, tmp_path, quorum=True)
    member = f"{{'%2F_{reports.name}.call-ended', node()}}"
    async with reports.going_on():
        await eventually(lambda: len(reports.accepted) > 20)
        await node.ctl("eval", stop.format(member) + ".")
        await eventually(
            lambda: any(kind == "held up" and why in said[0] for kind, *said in reports.observer.seen), 60
        )
        await node.ctl("eval", go_on.format(member) + ".")
    reports.check()


async def test_over_a_broker_that_hangs_every_event_arrives_in_order(
    node: PrivateBroker, tmp_path: Path
) -> None:
    """Whatever waits for it ends with an error, not as if it were cancelled: the relay goes on."""
    assert node.pid is not None
    reports = Reports(f"{node.url}?heartbeat=1", tmp_path)
    try:
        async with reports.going_on():
            await eventually(lambda: len(reports.accepted) > 20)
            os.kill(node.pid, signal.SIGSTOP)
            await eventually(lambda: reports.feed.last_error == SILENT, 60)
            os.kill(node.pid, signal.SIGCONT)
            await asyncio.wait_for(reports.feed.available.wait(), 60)
    finally:
        os.kill(node.pid, signal.SIGCONT)
    reports.check()
