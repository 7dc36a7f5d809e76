"""What is measured, and how: real processes against a private RabbitMQ node and the stand-ins."""

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import IO, Any

import aio_pika
import aiohttp
import psutil

QUEUE = "crm-sync.call-ended"
IN_FLIGHT = 64
_BEGAN = f"{datetime.now(UTC) - timedelta(minutes=5):%m%d%H%M%S}"[1:]
CALLS = [f"V{_BEGAN}{number:010d}" for number in range(8 * IN_FLIGHT)]
"""More calls than are ever in flight: identical look-ups in flight would share one request."""

PYTHON = sys.executable
WITHIN = 300.0


@dataclass(frozen=True, slots=True)
class Result:
    """One run of one consumer: events per second, CPU milliseconds per event, MiB resident at the end."""

    rate: float
    cpu_ms: float
    rss_mib: float


@dataclass(frozen=True, slots=True)
class Stage:
    """The addresses of one set of stand-ins and the broker."""

    broker: str
    dialer: str
    webhook: str


@asynccontextmanager
async def process(
    *command: str, env: dict[str, str] | None = None
) -> AsyncIterator[tuple[psutil.Process, str]]:
    """Run a process for as long as the block runs. Return it, and the first line that it printed.

    Its output goes to a file: a pipe would make us wake up for every line, at the writer's cost.
    """
    with tempfile.TemporaryFile("w+") as output:
        running = await asyncio.create_subprocess_exec(*command, env=env, stdout=output, stderr=output)
        try:
            yield psutil.Process(running.pid), await _first_line(output)
        finally:
            running.terminate()
            await running.wait()


async def _first_line(output: IO[str]) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        output.seek(0)
        if (line := output.readline()).endswith("\n"):
            output.seek(0, os.SEEK_END)
            return line
        await asyncio.sleep(0.02)
    raise TimeoutError("a process printed nothing")


@asynccontextmanager
async def stage(broker: str, delay: float) -> AsyncIterator[Stage]:
    """Start a stand-in dialer and CRM that answer after `delay` seconds."""
    async with AsyncExitStack() as stack:
        urls = []
        for name in ("dialer", "crm"):
            command = [PYTHON, "-m", f"simulators.{name}", "--count-only", "--delay", str(delay)]
            if name == "dialer":
                command += ["--config", json.dumps({"calls": {call: {} for call in CALLS}})]
            _, line = await stack.enter_async_context(process(*command))
            urls.append(json.loads(line)["url"])
        yield Stage(broker, *urls)


@asynccontextmanager
async def consumer(kind: str, on: Stage, **settings: object) -> AsyncIterator[psutil.Process]:
    """Run the bare loop or the worker, ready to consume; settings such as `VICIDIAL__TIMEOUT="1s"`."""
    if kind == "bare":
        command = (PYTHON, "-m", "benchmarks.bare", on.broker, QUEUE, on.dialer, on.webhook, str(IN_FLIGHT))
        async with process(*command) as (running, _):
            yield running
        return
    env = {name: value for name, value in os.environ.items() if not name.startswith("CRM_SYNC_")} | {
        "CRM_SYNC_BROKER__URL": on.broker,
        "CRM_SYNC_VICIDIAL__URL": on.dialer,
        "CRM_SYNC_VICIDIAL__USER": "crmsync",
        "CRM_SYNC_VICIDIAL__PASSWORD": "Dialer-Pass-1",
        "CRM_SYNC_VICIDIAL__MAX_CONCURRENCY": str(IN_FLIGHT),
        "CRM_SYNC_VICIDIAL__RECORDING_LOOKUP": "false",  # the bare loop asks once a call, too
        "CRM_SYNC_SINK__URL": on.webhook,
        "CRM_SYNC_SINK__SIGNING_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "CRM_SYNC_MAX_IN_FLIGHT": str(IN_FLIGHT),
        "CRM_SYNC_HTTP__PORT": "0",
        "CRM_SYNC_HTTP__HOST": "127.0.0.1",
    }
    env |= {f"CRM_SYNC_{name}": str(value) for name, value in settings.items()}
    async with process(PYTHON, "-m", "worker", "run", env=env) as (running, line):
        await _until_ready(json.loads(line)["port"])
        yield running


async def _until_ready(port: int) -> None:
    deadline = time.monotonic() + 30
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < deadline:
            async with session.get(f"http://127.0.0.1:{port}/readyz") as response:
                if response.status == 200:
                    return
            await asyncio.sleep(0.05)
    raise TimeoutError("the worker did not get ready")


async def control(url: str, **change: object) -> None:
    """Change what a stand-in does."""
    address = f"{url.split('/', 3)[0]}//{url.split('/', 3)[2]}/control"
    async with aiohttp.ClientSession() as session, session.post(address, data=json.dumps(change)) as response:
        response.raise_for_status()


def health_port(running: psutil.Process) -> int:
    """Return the port on which the worker listens."""
    return next(each.laddr.port for each in running.net_connections("tcp") if each.status == "LISTEN")


async def publish(broker: str, count: int, offset: int = 0) -> None:
    """Put so many events into the work queue, confirmed: a quorum queue loses some of what nobody awaits."""
    now = datetime.now(UTC).isoformat()
    window = asyncio.Semaphore(256)
    async with await aio_pika.connect(broker) as connection, asyncio.TaskGroup() as group:
        exchange = (await connection.channel()).default_exchange

        async def one(number: int) -> None:
            event = {"type": "call.ended", "event_id": f"bench-{number}", "occurred_at": now}
            event |= {"call_id": CALLS[number % len(CALLS)], "lead_id": "12345", "agent_user": "1000"}
            message = aio_pika.Message(json.dumps(event).encode(), delivery_mode=2)
            await exchange.publish(message, QUEUE)
            window.release()

        for number in range(offset, offset + count):
            await window.acquire()
            group.create_task(one(number))


async def delivered(webhook: str) -> int:
    """Ask the stand-in CRM how many deliveries it has had."""
    report: dict[str, Any]
    async with (
        aiohttp.ClientSession() as session,
        session.get(webhook.replace("/webhook", "/control")) as response,
    ):
        report = await response.json()
    return int(report["deliveries"])


async def until_delivered(webhook: str, count: int) -> None:
    """Wait until the stand-in CRM has had so many."""
    deadline = time.monotonic() + WITHIN
    while await delivered(webhook) < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{count} deliveries took longer than {WITHIN:g} s")
        await asyncio.sleep(0.1)


async def measure(running: psutil.Process, on: Stage, count: int) -> Result:
    """Push so many events through a consumer that is ready."""
    before, started = running.cpu_times(), time.monotonic()
    already = await delivered(on.webhook)
    pushing = asyncio.create_task(publish(on.broker, count, already))
    await until_delivered(on.webhook, already + count)
    await pushing
    took, after = time.monotonic() - started, running.cpu_times()
    cpu = (after.user - before.user) + (after.system - before.system)
    return Result(count / took, cpu / count * 1000, running.memory_info().rss / 2**20)
