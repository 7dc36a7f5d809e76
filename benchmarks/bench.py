"""What is measured, and how: real processes against a private RabbitMQ node and fast upstreams."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import IO, Final

import aio_pika
import aiohttp
import psutil

from benchmarks.processes import PYTHON, process
from benchmarks.upstreams import CALLS, IN_FLIGHT, Stage
from simulators.broker_node import free_ports

QUEUE = "crm-sync.call-ended"
OUTBOUND = "crm-sync.enriched"
WITHIN = 300.0


@dataclass(frozen=True, slots=True)
class Result:
    """One run of one consumer: events per second, CPU milliseconds per event, MiB resident at the end."""

    rate: float
    cpu_ms: float
    rss_mib: float


def _worker_env(on: Stage, settings: Mapping[str, object]) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("CRM_SYNC_")}
    values: dict[str, object] = {
        "BROKER__URL": on.broker,
        "VICIDIAL__URL": on.dialer,
        "VICIDIAL__USER": "crmsync",
        "VICIDIAL__PASSWORD": "Dialer-Pass-1",
        "VICIDIAL__MAX_CONCURRENCY": IN_FLIGHT,
        "VICIDIAL__RECORDING_LOOKUP": "false",  # the bare loop asks once a call, too
        "SINK__URL": on.webhook,
        "SINK__SIGNING_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "MAX_IN_FLIGHT": IN_FLIGHT,
        "HTTP__HOST": "127.0.0.1",
    }
    return env | {f"CRM_SYNC_{name}": str(value) for name, value in (values | dict(settings)).items()}


KINDS: Final[Mapping[str, Mapping[str, str]]] = {
    "worker": {},
    "quiet worker": {"LOG__LEVEL": "warning"},
    "bare": {},
    "queue worker": {"SINK__KIND": "queue"},
    "bare queue": {},
}
"""The consumers, and the settings of those that are workers. `queue`: they deliver to the outbound queue."""


@asynccontextmanager
async def consumer(
    kind: str,
    on: Stage,
    settings: Mapping[str, object] = {},
    *,
    through: Sequence[str] = (PYTHON, "-m"),
    cores: Sequence[int] = (),
    output: IO[str] | None = None,
) -> AsyncIterator[psutil.Process]:
    """Run one of `KINDS`, ready to consume.

    The settings are names and values such as `{"VICIDIAL__TIMEOUT": "1s"}`; only a worker reads them.
    `through` is what runs the module. What a worker prints goes to `output`.
    """
    if "bare" in kind:
        target = ["--exchange", OUTBOUND] if "queue" in kind else [on.webhook]
        arguments = ("benchmarks.bare", on.broker, QUEUE, str(IN_FLIGHT), on.dialer, *target)
        async with process(*through, *arguments, cores=cores) as (running, _):
            yield running
        return
    (port,) = free_ports(1)
    env = _worker_env(on, {"HTTP__PORT": port, **KINDS[kind], **settings})
    command = (*through, "worker", "run")
    async with process(*command, env=env, port=port, cores=cores, output=output) as (running, _):
        await _until_ready(port)
        yield running


async def _until_ready(port: int) -> None:
    deadline = time.monotonic() + 60
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < deadline:
            async with session.get(f"http://127.0.0.1:{port}/readyz") as response:
                if response.status == 200:
                    return
            await asyncio.sleep(0.05)
    raise TimeoutError("the worker did not get ready")


async def control(url: str, **change: object) -> None:
    """Change what a simulator does."""
    address = f"{url.split('/', 3)[0]}//{url.split('/', 3)[2]}/control"
    async with aiohttp.ClientSession() as session, session.post(address, data=json.dumps(change)) as response:
        response.raise_for_status()


def health_port(running: psutil.Process) -> int:
    """Return the port on which the worker listens."""
    return next(each.laddr.port for each in running.net_connections("tcp") if each.status == "LISTEN")


async def publish(broker: str, count: int, offset: int = 0, rate: float | None = None) -> None:
    """Put so many events into the work queue, confirmed: a quorum queue loses some of what nobody awaits.

    With a `rate`, publish so many a second.
    """
    window = asyncio.Semaphore(256)
    async with await aio_pika.connect(broker) as connection, asyncio.TaskGroup() as group:
        exchange = (await connection.channel()).default_exchange

        async def one(number: int) -> None:
            now = datetime.now(UTC).isoformat()
            event = {"type": "call.ended", "event_id": f"bench-{number}", "occurred_at": now}
            event |= {"call_id": CALLS[number % len(CALLS)], "lead_id": "12345", "agent_user": "1000"}
            message = aio_pika.Message(json.dumps(event).encode(), delivery_mode=2)
            await exchange.publish(message, QUEUE)
            window.release()

        for number in range(offset, offset + count):
            await window.acquire()
            group.create_task(one(number))
            if rate is not None:
                await asyncio.sleep(1 / rate)


async def depth(broker: str, queue: str = QUEUE) -> int:
    """Return how many messages are ready in a queue."""
    async with await aio_pika.connect(broker) as connection:
        found = await (await connection.channel()).declare_queue(queue, passive=True)
        return found.declaration_result.message_count or 0


async def declare(on: Stage) -> None:
    """Have a worker declare the queues."""
    async with consumer("queue worker", on):
        pass


async def purge(broker: str) -> None:
    """Empty both queues."""
    async with await aio_pika.connect(broker) as connection:
        channel = await connection.channel()
        for name in (QUEUE, OUTBOUND):
            await (await channel.get_queue(name, ensure=False)).purge()


def counted(kind: str, on: Stage) -> Stage:
    """Return the stage with the deliveries of this consumer counted where it puts them."""
    return replace(on, delivered=partial(depth, on.broker, OUTBOUND)) if "queue" in kind else on


async def until_delivered(delivered: Callable[[], Awaitable[int]], count: int) -> None:
    """Wait until there were so many deliveries."""
    deadline = time.monotonic() + WITHIN
    while await delivered() < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{count} deliveries took longer than {WITHIN:g} s")
        await asyncio.sleep(0.05)


async def measure(running: psutil.Process, on: Stage, count: int) -> Result:
    """Have a consumer that is ready work off a backlog of so many events.

    It is stopped while they are published: it would wait for the publisher otherwise.
    """
    already = await on.delivered()
    running.suspend()
    try:
        await publish(on.broker, count, already)
    finally:
        running.resume()
    before, started = running.cpu_times(), time.monotonic()
    await until_delivered(on.delivered, already + count)
    took, after = time.monotonic() - started, running.cpu_times()
    cpu = (after.user - before.user) + (after.system - before.system)
    return Result(count / took, cpu / count * 1000, running.memory_info().rss / 2**20)
