"""The README's examples of publishing an event do publish one."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import aio_pika
import pytest

from worker.core.events import EventType, decode
from worker.rabbitmq.delivery import to_inbound

pytestmark = pytest.mark.broker
README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
PHP_LIBRARY = Path("/usr/share/php/PhpAmqpLib/autoload.php")


def example(kind: str) -> str:
    match = re.search(rf"<!-- example: {kind} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert match is not None
    return match[1]


COMMANDS = {
    "python": [sys.executable, "-"],
    "shell": ["/bin/sh", "-s"],
    "php": [shutil.which("php") or "php"],
}
MISSING = {
    "python": False,
    "shell": shutil.which("amqp-publish") is None,
    "php": shutil.which("php") is None or not PHP_LIBRARY.exists(),
}


def run(command: list[str], code: str, environment: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command, input=code.encode(), env=environment, capture_output=True, timeout=30, check=False
    )


@pytest.mark.parametrize(
    ("kind", "event_type"),
    [
        ("python", EventType.CALL_ENDED),
        ("shell", EventType.AGENT_ONBOARDED),
        ("php", EventType.CALL_ENDED),
    ],
    ids=["python", "shell", "php"],
)
async def test_the_example_publishes_an_event(
    kind: str, event_type: EventType, broker_url: str, namespace: str
) -> None:
    if MISSING[kind]:
        pytest.skip(f"what the {kind} example needs is not installed here")
    code = example(kind).replace("crm-sync.events", f"{namespace}.events")
    code = code.replace("require 'vendor/autoload.php';", f"require '{PHP_LIBRARY}';")
    async with await aio_pika.connect(broker_url) as connection:
        channel = await connection.channel()
        exchange = await channel.declare_exchange(f"{namespace}.events", "topic", durable=True)
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(exchange, event_type)
        environment = {**os.environ, "CRM_SYNC_BROKER__URL": broker_url}
        done = await asyncio.to_thread(run, COMMANDS[kind], code, environment)
        assert done.returncode == 0, done.stderr.decode()
        message = await queue.get(timeout=10)
        await message.ack()
    event = decode(to_inbound(message.body, message.properties, message.routing_key or ""))
    assert event.type is event_type
