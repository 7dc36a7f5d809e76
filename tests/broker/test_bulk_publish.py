"""A file of events is published in order, and the line to continue at is always a safe one."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import aio_pika
import pytest
from aio_pika.abc import AbstractConnection, AbstractIncomingMessage

from worker.core.errors import InvalidEvent, PublishError
from worker.core.events import MAX_BODY
from worker.rabbitmq.bulk_publish import BadLine, BulkPublisher, Line, check_event, publish_event, read_lines
from worker.rabbitmq.publisher import BrokerPublisher

pytestmark = pytest.mark.broker


class Recorder(BrokerPublisher):
    """Confirms in its own time, and fails on request; no broker is needed."""

    def __init__(self, failing: str = "") -> None:
        super().__init__()
        self.failing = failing
        self.sent: list[str] = []
        self.now = self.most = 0

    async def publish_message(self, exchange: str, routing_key: str, message: aio_pika.Message) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(0.001 if len(self.sent) % 3 else 0.003)
        finally:
            self.now -= 1
        if message.message_id == self.failing:
            raise PublishError("the broker did not confirm")
        self.sent.append(message.message_id or "")


def call(number: int) -> bytes:
    return json.dumps({"type": "call.ended", "call_id": "V1", "event_id": f"e-{number}"}).encode()


async def lines(*texts: bytes) -> AsyncIterator[Line]:
    end = 0
    for number, text in enumerate(texts, 1):
        end += len(text) + 1
        yield Line(number, end, text)


@contextmanager
def opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


async def test_never_more_than_a_window_is_unconfirmed() -> None:
    publisher = Recorder()
    seen: list[tuple[int, int]] = []
    bulk = BulkPublisher(
        publisher, "x", window=5, on_progress=lambda at: seen.append((at.confirmed, at.published))
    )
    await bulk.run(lines(*(call(number) for number in range(30))))
    assert (bulk.confirmed, bulk.published, publisher.most) == (30, 30, 5)
    assert seen == [(number, number) for number in range(1, 31)]
    assert bulk.bytes == sum(len(call(number)) + 1 for number in range(30))


async def test_all_before_the_confirmed_line_are_confirmed() -> None:
    publisher = Recorder(failing="e-7")
    bulk = BulkPublisher(publisher, "x", window=5)
    with pytest.raises(PublishError):
        await bulk.run(lines(*(call(number) for number in range(30))))
    assert (bulk.confirmed, bulk.published) == (7, 7)
    assert {f"e-{number}" for number in range(7)} <= set(publisher.sent)
    assert publisher.now == 0


async def test_nothing_after_a_bad_line_is_sent() -> None:
    publisher = Recorder()
    bulk = BulkPublisher(publisher, "x")
    with pytest.raises(BadLine, match=r"^line 4: not a usable call.ended event: call_id: Field required$"):
        await bulk.run(lines(call(1), b" ", call(2), b'{"type": "call.ended"}', call(3)))
    assert (bulk.confirmed, publisher.sent) == (3, ["e-1", "e-2"])


async def test_it_goes_on_at_a_line_and_leaves_blank_ones_out() -> None:
    publisher = Recorder()
    bulk = BulkPublisher(publisher, "x")
    await bulk.run(lines(b"not looked at", call(1), b"", call(2), b"\t", b""), from_line=3)
    assert (publisher.sent, bulk.published, bulk.confirmed) == (["e-2"], 1, 4)


async def test_a_cancelled_feed_knows_how_far_it_got() -> None:
    publisher = Recorder()
    bulk = BulkPublisher(publisher, "x", window=5)

    async def endless() -> AsyncIterator[Line]:
        number = 0
        while True:
            number += 1
            yield Line(number, number, call(number))

    task = asyncio.ensure_future(bulk.run(endless()))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert set(publisher.sent) == {f"e-{number}" for number in range(1, bulk.confirmed + 1)}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", []),
        (b"a\nb\r\n\nc", [(1, 2, b"a"), (2, 5, b"b"), (3, 6, b""), (4, 7, b"c")]),
        (b"a\n", [(1, 2, b"a")]),
        (b"x" * 300_000 + b"\ny\n", [(1, 300_001, b"x" * 300_000), (2, 300_003, b"y")]),
    ],
)
async def test_lines_are_read_as_they_are(
    tmp_path: Path, content: bytes, expected: list[tuple[int, int, bytes]]
) -> None:
    path = tmp_path / "events"
    path.write_bytes(content)
    with opened(path) as descriptor:
        found = [(line.number, line.end, line.text) async for line in read_lines(descriptor, asyncio.Event())]
    assert found == expected


async def test_a_line_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.write_bytes(b"a\n" + b"x" * (2 * MAX_BODY))
    with opened(path) as descriptor, pytest.raises(BadLine, match="line 2: longer than 1048576 bytes"):
        _ = [line async for line in read_lines(descriptor, asyncio.Event())]


async def test_a_slow_pipe_gives_each_line_at_once_and_a_stop_is_heard() -> None:
    reading, writing = os.pipe()
    stop = asyncio.Event()
    try:
        os.write(writing, b"first\nsec")
        found = read_lines(reading, stop)
        assert (await anext(found)).text == b"first"
        asyncio.get_running_loop().call_later(0.3, os.write, writing, b"ond\n")
        assert (await anext(found)).text == b"second"
        asyncio.get_running_loop().call_later(0.1, stop.set)
        async with asyncio.timeout(2):
            assert [line async for line in found] == []
    finally:
        os.close(reading)
        os.close(writing)


def test_an_event_is_read_as_the_worker_will() -> None:
    assert check_event(call(1)).id == "e-1"
    same = b'{"type": "call.ended", "call_id": "V1"}'
    assert check_event(same).id == check_event(same).id
    with pytest.raises(InvalidEvent, match="unknown event type"):
        check_event(b'{"call_id": "V1"}')


# --- with a broker --------------------------------------------------------------------------------


@pytest.fixture
async def connection(
    broker_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[AbstractConnection]:
    monkeypatch.setenv("CRM_SYNC_BROKER__URL", broker_url)
    monkeypatch.setenv("CRM_SYNC_BROKER__NAMESPACE", namespace)
    async with await aio_pika.connect(broker_url) as opened:
        yield opened


async def bind(connection: AbstractConnection, namespace: str) -> None:
    async with connection.channel() as channel:
        exchange = await channel.declare_exchange(f"{namespace}.events", "topic", durable=True)
        queue = await channel.declare_queue(
            f"{namespace}.call-ended", durable=True, arguments={"x-queue-type": "quorum"}
        )
        await queue.bind(exchange, "call.ended")


async def drain(connection: AbstractConnection, namespace: str) -> list[AbstractIncomingMessage]:
    found = []
    async with asyncio.timeout(60), connection.channel() as channel:
        queue = await channel.get_queue(f"{namespace}.call-ended")
        while (message := await queue.get(no_ack=True, fail=False)) is not None:
            found.append(message)
    return found


async def crm_sync(*arguments: str, given: bytes = b"") -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "worker", "publish", *arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    stdout, stderr = await asyncio.wait_for(process.communicate(given), 30)
    return process.returncode or 0, stdout.decode(), stderr.decode()


async def test_an_event_arrives_with_its_bytes_and_its_id(
    connection: AbstractConnection, namespace: str
) -> None:
    await bind(connection, namespace)
    publisher = BrokerPublisher()
    _ = await publisher.attach(connection)
    body = b'{"type":"call.ended",  "call_id":"V1"}'
    event = check_event(body)
    await publish_event(publisher, f"{namespace}.events", event, body)
    (message,) = await drain(connection, namespace)
    assert (message.body, message.routing_key) == (body, "call.ended")
    assert (message.message_id, message.type) == (str(uuid.UUID(event.id)), "call.ended")
    assert (message.content_type, message.delivery_mode) == ("application/json", 2)


async def test_a_file_is_published(connection: AbstractConnection, namespace: str, tmp_path: Path) -> None:
    path = tmp_path / "my events.ndjson"
    path.write_bytes(b"\n".join(call(number) for number in [*range(1000), *([7] * 50)]))
    status, _, stderr = await crm_sync("--file", str(path))
    assert status == 1
    assert "start the worker or run crm-sync topology first" in stderr
    await bind(connection, namespace)
    status, stdout, stderr = await crm_sync("--file", str(path))
    assert (status, stderr) == (0, "")
    assert stdout.startswith("published 1,050 events, ")
    arrived = await drain(connection, namespace)
    assert [message.body for message in arrived[:1000]] == [call(number) for number in range(1000)]
    assert len(arrived) == 1050
    status, _, stderr = await crm_sync("--file", str(path), "--from-line", "2000")
    assert (status, "there is no line 2000" in stderr) == (1, True)


async def test_it_says_how_to_continue(
    connection: AbstractConnection, namespace: str, tmp_path: Path
) -> None:
    await bind(connection, namespace)
    path = tmp_path / "my events.ndjson"
    path.write_bytes(
        b"\n".join([call(1), call(2), b'{"type": "agent.onboarded", "agent_user": "a"}', call(3)])
    )
    status, stdout, stderr = await crm_sync("--file", str(path))
    assert (status, stdout) == (1, "")
    assert "no queue takes messages for" in stderr
    assert "start the worker or run crm-sync topology first" in stderr
    assert (
        f"confirmed up to line 2; continue with: crm-sync publish --file '{path}' --from-line 3\n" in stderr
    )
    config = tmp_path / "settings.yaml"
    config.write_text("log: {level: info}\n")
    status, stdout, stderr = await crm_sync(
        "--file", "-", "--config", str(config), given=call(5) + b"\nbad\n"
    )
    assert status == 1
    assert "line 2: the body is not JSON" in stderr
    assert stderr.endswith(f"crm-sync publish --file - --from-line 2 --config {config}\n")
    assert len(await drain(connection, namespace)) >= 3


async def test_a_stop_is_clean(connection: AbstractConnection, namespace: str) -> None:
    await bind(connection, namespace)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "worker", "publish", "--file", "-"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.write(call(1) + b"\n" + call(2) + b"\n")
    async with asyncio.timeout(30):
        while len(found := await drain(connection, namespace)) == 0:  # noqa: ASYNC110 - the broker notifies nobody
            await asyncio.sleep(0.05)
        process.send_signal(signal.SIGINT)
        stderr = await process.stderr.read()
        assert await process.wait() == 1
    process.stdin.close()
    assert len(found) <= 2
    assert stderr.decode() == (
        "crm-sync: stopped\n"
        "  confirmed up to line 2; continue with: crm-sync publish --file - --from-line 3\n"
    )


async def test_single_events(connection: AbstractConnection, namespace: str) -> None:
    status, _, stderr = await crm_sync("call-ended", "--call-id", "V1")
    assert (status, "start the worker or run crm-sync topology first" in stderr) == (1, True)
    await bind(connection, namespace)
    full = ["--event-id", "e-1", "--occurred-at", "2026-11-20T14:07:14-05:00", "--lead-id", "5"]
    assert await crm_sync("call-ended", "--call-id", "V1", *full) == (
        *(0, f"published call.ended e-1 to {namespace}.events\n"),
        "",
    )
    (message,) = await drain(connection, namespace)
    assert json.loads(message.body) == {
        "type": "call.ended",
        "event_id": "e-1",
        "occurred_at": "2026-11-20T14:07:14-05:00",
        "call_id": "V1",
        "lead_id": "5",
    }
    status, _, stderr = await crm_sync("agent-onboarded", "--agent-user", "a", "--expected-campaign", "S")
    assert status == 1
    assert "no queue takes messages for" in stderr
