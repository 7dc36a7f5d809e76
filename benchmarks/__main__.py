"""One command, one table. `--quick` for a first look; without it the memory run takes a few minutes."""

import argparse
import asyncio
import statistics

import aio_pika
from rich.console import Console
from rich.table import Table

from benchmarks.bench import IN_FLIGHT, QUEUE, Result, consumer, measure, stage
from benchmarks.parse import BUDGET, PARSES, microseconds
from simulators.broker import find_broker

DELAY = 0.05


async def _purge(broker: str) -> None:
    async with await aio_pika.connect(broker) as connection:
        channel = await connection.channel()
        queue = await channel.get_queue(QUEUE, ensure=False)
        await queue.purge()


async def _pairs(broker: str, rounds: int, count: int) -> list[tuple[Result, Result]]:
    """Measure worker and bare loop in turn, so that both see the same weather."""
    pairs = []
    async with stage(broker, 0) as on:
        async with consumer("worker", on) as running:  # declares the queues
            await measure(running, on, 1000)
        for _ in range(rounds):
            results = []
            for kind in ("worker", "bare"):
                async with consumer(kind, on) as running:
                    await measure(running, on, 500)  # warm: connections, caches
                    results.append(await measure(running, on, count))
                await _purge(broker)
            pairs.append((results[0], results[1]))
    return pairs


async def _with_delay(broker: str, count: int) -> Result:
    async with stage(broker, DELAY) as on, consumer("worker", on) as running:
        await measure(running, on, 500)
        return await measure(running, on, count)


async def _memory(broker: str, first: int, then: int) -> tuple[Result, Result]:
    async with stage(broker, 0) as on, consumer("worker", on) as running:
        return await measure(running, on, first), await measure(running, on, then)


async def _main(*, quick: bool) -> None:
    console = Console(stderr=True, emoji=False)
    rounds, count = (2, 3000) if quick else (5, 6000)
    first, then = (2_000, 8_000) if quick else (20_000, 80_000)
    async with find_broker(None, console.print) as broker:
        console.print(f"worker and bare loop in turn, {rounds} rounds of {count} events …")
        pairs = await _pairs(broker, rounds, count)
        console.print(f"{DELAY * 1000:g} ms of delay in each request …")
        slow = await _with_delay(broker, 6400)
        console.print(f"memory over {first + then} events …")
        early, late = await _memory(broker, first, then)
    _show(pairs, slow, early, late, first, first + then)


def _show(
    pairs: list[tuple[Result, Result]], slow: Result, early: Result, late: Result, first: int, total: int
) -> None:
    def median(which: int, name: str) -> float:
        values: list[float] = [getattr(pair[which], name) for pair in pairs]
        return statistics.median(values)

    ratio = statistics.median(worker.cpu_ms / bare.cpu_ms for worker, bare in pairs)
    table = Table(title=f"crm-sync, max_in_flight {IN_FLIGHT}, medians")
    for column in ("measure", "worker", "bare loop", "budget"):
        table.add_column(column, justify="left" if column == "measure" else "right")
    table.add_row("events per second", f"{median(0, 'rate'):.0f}", f"{median(1, 'rate'):.0f}", "")
    table.add_row("CPU ms per event", f"{median(0, 'cpu_ms'):.3f}", f"{median(1, 'cpu_ms'):.3f}", "")
    table.add_row("CPU per event, ratio pair by pair", f"{ratio:.2f}", "1", "at most 1.3")
    ideal = IN_FLIGHT / (2 * DELAY)
    table.add_row(
        f"events per second with 2 x {DELAY * 1000:g} ms",
        f"{slow.rate:.0f}",
        "",
        f"{0.9 * ideal:.0f} or more",
    )
    parsing = microseconds(PARSES["callid_info, nine columns"])
    table.add_row("µs to read an answer of nine columns", f"{parsing:.1f}", "", f"below {BUDGET}")
    table.add_row(f"MiB resident after {first} events", f"{early.rss_mib:.1f}", "", "")
    table.add_row(f"MiB resident after {total} events", f"{late.rss_mib:.1f}", "", "below 120, no growth")
    Console(emoji=False).print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer events; the memory figures mean less")
    asyncio.run(_main(quick=parser.parse_args().quick))
