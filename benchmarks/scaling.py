"""Several workers on one queue: `python -m benchmarks.scaling [--seconds 30]`.

Against a dialer that does not mind how many ask (each answer takes 50 ms, and so does each delivery), and
against one that works on four requests at a time, as the recorded one does. There an answer takes 50 ms, too,
ten times as long as recorded: so the processors are not what the workers wait for.
"""

import argparse
import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import aiohttp
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.bench import consumer, control, health_port, measure, publish
from benchmarks.upstreams import Stage, stage
from simulators.broker import find_broker

DELAY = 0.05
SERVICE = 0.05
WORKERS = (1, 2, 4, 8)
IN_FLIGHT = 16
MOST = 8
FASTEST = 1.2 * MOST / DELAY
"""Events a second that all workers together may process at most."""
WARM = 15.0
"""Seconds that are not counted: the slow start, and the limit that looks for its place."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a number of workers did together."""

    rate: float
    shares: list[float]
    limits: list[int]
    milliseconds: float
    cpu: float


async def status(session: aiohttp.ClientSession, port: int) -> dict[str, Any]:
    """Ask a worker what it shows."""
    async with session.get(f"http://127.0.0.1:{port}/status") as response:
        found: dict[str, Any] = await response.json()
        return found


async def look_up_times(session: aiohttp.ClientSession, port: int) -> tuple[float, float]:
    """Return how many look-ups a worker made, and how many seconds they took."""
    async with session.get(f"http://127.0.0.1:{port}/metrics") as response:
        text = await response.text()
    name = 'crm_sync_dialer_request_seconds_{}{{function="callid_info"}} '
    values = [
        float(line.rpartition(" ")[2])
        for part in ("count", "sum")
        for line in text.splitlines()
        if line.startswith(name.format(part))
    ]
    return (values[0], values[1]) if values else (0.0, 0.0)


async def run(on: Stage, workers: int, seconds: float, **settings: object) -> Seen:
    """Let so many workers take from one queue that never runs dry."""
    async with AsyncExitStack() as stack, aiohttp.ClientSession() as session:
        begin = [consumer("worker", on, settings) for _ in range(workers)]
        running = [await stack.enter_async_context(each) for each in begin]
        ports = [health_port(each) for each in running]
        await asyncio.sleep(WARM)
        before, cpu, started = await _look(session, ports), _cpu(running), time.monotonic()
        already = await on.delivered()
        await asyncio.sleep(seconds)
        took = time.monotonic() - started
        rate = (await on.delivered() - already) / took
        after = await _look(session, ports)
        used = (_cpu(running) - cpu) / took
    done = [late["delivered"] - early["delivered"] for early, late in zip(before, after, strict=True)]
    look_ups = sum(late["count"] - early["count"] for early, late in zip(before, after, strict=True))
    spent = sum(late["sum"] - early["sum"] for early, late in zip(before, after, strict=True))
    shares = [each / sum(done) for each in done]
    return Seen(rate, shares, [int(each["limit"]) for each in after], spent / look_ups * 1000, used)


async def _look(session: aiohttp.ClientSession, ports: list[int]) -> list[dict[str, float]]:
    found = []
    for port in ports:
        shown = await status(session, port)
        count, total = await look_up_times(session, port)
        found.append(
            {
                "delivered": shown["counts"]["delivered"],
                "limit": shown["dialer"]["limit"],
                "count": count,
                "sum": total,
            }
        )
    return found


def _cpu(running: list[psutil.Process]) -> float:
    return sum(each.cpu_times().user + each.cpu_times().system for each in running)


async def main(seconds: float) -> None:
    """Run it and print the tables."""
    console = Console(stderr=True, emoji=False)
    enough = int(FASTEST * (seconds + WARM))
    async with find_broker(None, console.print) as broker:
        tables = []
        for title, delay, service in (
            ("a dialer that does not mind", DELAY, 0.0),
            ("a dialer with four places", 0.0, SERVICE),
        ):
            async with stage(broker, delay, controlled=service > 0) as on:
                if service:
                    await control(on.dialer, service_time=service)
                async with consumer("worker", on) as running:  # declares the queues
                    await measure(running, on, 20)
                seen = []
                for workers in WORKERS:
                    console.print(f"{workers} workers, {title} …")
                    await publish(broker, enough, 0)
                    settings = {"MAX_IN_FLIGHT": IN_FLIGHT, "VICIDIAL__MAX_CONCURRENCY": MOST}
                    seen.append(await run(on, workers, seconds, **settings))
            tables.append(_table(f"{title}; max_in_flight {IN_FLIGHT}, max_concurrency {MOST}", seen))
    for table in tables:
        Console(emoji=False).print(table)


def _table(title: str, seen: list[Seen]) -> Table:
    table = Table(title=title)
    for column in ("workers", "events/s", "share of each", "ms a look-up", "limits now", "CPUs of all"):
        table.add_column(column, justify="right")
    for each in seen:
        shares = f"{min(each.shares):.0%} to {max(each.shares):.0%}"
        limits = ", ".join(map(str, sorted(each.limits)))
        row = (
            len(each.shares),
            f"{each.rate:.0f}",
            shares,
            f"{each.milliseconds:.1f}",
            limits,
            f"{each.cpu:.2f}",
        )
        table.add_row(*map(str, row))
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument(
        "--seconds", type=float, default=30, help="how long each number of workers is measured"
    )
    asyncio.run(main(parser.parse_args().seconds))
