"""A backlog and an outage: `python -m benchmarks.outage [--events 200000] [--minutes 10]`.

The dialer goes down while the events are waiting. Memory must stay flat and
the health port responsive meanwhile; afterwards the worker must be as fast as
it was before.
"""

import argparse
import asyncio
import time
from dataclasses import dataclass, field

import aiohttp
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.bench import consumer, control, health_port, measure, publish, until_delivered
from benchmarks.upstreams import Stage, stage
from simulators.broker import find_broker

WATCH_EVERY = 2.0
SETTLED_AFTER = 60.0
"""Seconds after which an outage's memory is that of a worker that waits."""


@dataclass
class Watch:
    """What was seen of the worker during the outage."""

    rss_mib: list[float] = field(default_factory=list)
    health_ms: list[float] = field(default_factory=list)
    not_ready: int = 0


async def watch(running: psutil.Process, seconds: float, console: Console) -> Watch:
    """Look at the worker's memory, and how soon it answers, for so long."""
    seen, started, logged_at = Watch(), time.monotonic(), 0.0
    url = f"http://127.0.0.1:{health_port(running)}/readyz"
    async with aiohttp.ClientSession() as session:
        while (passed := time.monotonic() - started) < seconds:
            asked = time.monotonic()
            async with session.get(url) as response:
                seen.not_ready += response.status != 200
            seen.health_ms.append((time.monotonic() - asked) * 1000)
            seen.rss_mib.append(running.memory_info().rss / 2**20)
            if passed - logged_at >= SETTLED_AFTER:
                logged_at = passed
                console.print(f"  {passed:.0f} s of the outage: {seen.rss_mib[-1]:.1f} MiB")
            await asyncio.sleep(WATCH_EVERY)
    return seen


async def rate_of(on: Stage, count: int) -> float:
    """Return the events per second at which the next ones are delivered."""
    before, started = await on.delivered(), time.monotonic()
    await until_delivered(on.delivered, before + count)
    return count / (time.monotonic() - started)


async def main(events: int, minutes: float, sample: int) -> None:
    """Run it and print the table."""
    console = Console(stderr=True, emoji=False)
    async with (
        find_broker(None, console.print) as broker,
        stage(broker, controlled=True) as on,
        consumer("worker", on) as running,
    ):
        await measure(running, on, 1000)
        console.print(f"normal rate over {sample} events …")
        normal = (await measure(running, on, sample)).rate
        await control(on.dialer, fault="reset")
        console.print(f"the dialer is down; publishing {events} events …")
        await publish(broker, events, 1_000_000)
        console.print(f"watching for {minutes:g} minutes …")
        seen = await watch(running, minutes * 60, console)
        before = await on.delivered()
        healed = time.monotonic()
        await control(on.dialer, fault=None)
        await until_delivered(on.delivered, before + 1)
        first = time.monotonic() - healed
        await until_delivered(on.delivered, before + sample)  # the ramp
        recovered = await rate_of(on, sample)
        await until_delivered(on.delivered, before + events)
        after = running.memory_info().rss / 2**20
    table = Table(title=f"{events} events waiting, the dialer down for {minutes:g} minutes")
    for column in ("measure", "value", "budget"):
        table.add_column(column, justify="left" if column == "measure" else "right")
    settled = seen.rss_mib[int(min(SETTLED_AFTER / WATCH_EVERY, len(seen.rss_mib) - 1)) :]
    slowest = sorted(seen.health_ms)[int(len(seen.health_ms) * 0.99)]
    table.add_row(
        "MiB resident, least and most after a minute", f"{min(settled):.1f} to {max(settled):.1f}", "flat"
    )
    table.add_row("MiB resident when all are delivered", f"{after:.1f}", "below 120")
    table.add_row("ms until /readyz answers, 99 of 100", f"{slowest:.1f}", "")
    table.add_row("times not ready", str(seen.not_ready), "0")
    table.add_row("seconds from the heal to the first delivery", f"{first:.1f}", "at most 30 and a little")
    table.add_row("events per second before and after", f"{normal:.0f}, {recovered:.0f}", "the same")
    Console(emoji=False).print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.outage", description=__doc__)
    parser.add_argument("--events", type=int, default=200_000, help="how many wait")
    parser.add_argument("--minutes", type=float, default=10, help="how long the dialer is down")
    parser.add_argument("--sample", type=int, default=10_000, help="how many to measure a rate with")
    chosen = parser.parse_args()
    asyncio.run(main(chosen.events, chosen.minutes, chosen.sample))
