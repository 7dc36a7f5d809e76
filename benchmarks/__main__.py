"""What one event costs, beside a bare loop that does the same two hops: one command, one table.

Worker and bare loop work off a backlog in turn, pinned to one core, against nginx as dialer and webhook if it
is installed (apt-get install nginx-light), else against the simulators, which are slower than the consumer
and flatter it: the table says which. A ratio is that of neighbours, so that both saw the same machine.

Milliseconds mean something on a machine that does nothing else. `python -m benchmarks.instructions` counts
instructions instead, which repeat on any machine; `python -m benchmarks.stages` tells which stage takes them.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import stages
from benchmarks.bench import (
    KINDS,
    Result,
    consumer,
    counted,
    declare,
    measure,
    publish,
    purge,
    until_delivered,
)
from benchmarks.parse import BUDGET, PARSES, microseconds
from benchmarks.processes import split_cores
from benchmarks.upstreams import IN_FLIGHT, Stage, stage
from simulators.broker import find_broker

DELAY = 0.05
SHARES = {IN_FLIGHT: 0.96, 256: 0.85}
"""The share of what the delay allows that is aimed at, by the number of events in flight."""
MOST_RATIO = 1.15
LIGHT = 20
"""Events a second that are a light load."""
Rounds = list[Mapping[str, Result]]


async def _in_turn(on: Stage, rounds: int, count: int, cores: Sequence[int]) -> Rounds:
    """Measure every consumer in turn, so that neighbours see the same machine."""
    seen: Rounds = []
    for _ in range(rounds):
        results: dict[str, Result] = {}
        for kind in KINDS:
            here = counted(kind, on)
            async with consumer(kind, here, cores=cores) as running:
                await measure(running, here, 500)  # warm: connections, caches
                results[kind] = await measure(running, here, count)
            await purge(on.broker)
        seen.append(results)
    return seen


async def _delayed(on: Stage, in_flight: int, count: int, cores: Sequence[int]) -> float:
    """Return the events per second with so many in flight."""
    limits = {"MAX_IN_FLIGHT": in_flight, "VICIDIAL__MAX_CONCURRENCY": in_flight}
    async with consumer("worker", on, limits, cores=cores) as running:
        await measure(running, on, 10 * in_flight)  # slow start
        return (await measure(running, on, count)).rate


async def _own_time(on: Stage, cores: Sequence[int]) -> float:
    """Return the median of the milliseconds from an event's receipt to its acknowledgement, as logged."""
    with tempfile.TemporaryFile("w+") as output:
        async with consumer("worker", on, cores=cores, output=output) as running:
            await measure(running, on, 500)
            already = await on.delivered()
            await publish(on.broker, 10 * LIGHT, already, rate=LIGHT)
            await until_delivered(on.delivered, already + 10 * LIGHT)
        output.seek(0)
        lines: list[dict[str, Any]] = [json.loads(line) for line in output]
    times: list[float] = [line["duration_ms"] for line in lines if line.get("outcome") == "delivered"]
    return statistics.median(times[500:])


async def _memory(on: Stage, first: int, then: int) -> tuple[float, float]:
    async with consumer("worker", on) as running:
        return (await measure(running, on, first)).rss_mib, (await measure(running, on, then)).rss_mib


async def _main(*, quick: bool) -> None:
    console, out = Console(stderr=True, emoji=False), Console(emoji=False)
    rounds, count = (2, 3000) if quick else (7, 8000)
    first, then = (2_000, 8_000) if quick else (20_000, 80_000)
    cores = split_cores()
    async with find_broker(None, console.print) as broker:
        async with stage(broker) as on:
            await declare(on)
            console.print(f"{len(KINDS)} consumers in turn, {rounds} rounds of {count} events …")
            seen = await _in_turn(on, rounds, count, cores)
            out.print(_costs(seen, f"{on.program} as dialer and webhook, {_where(cores)}"))
            console.print("by stage …")
            kinds = ("worker", "bare")
            out.print(stages.show({kind: await stages.stages(kind, on, count) for kind in kinds}))
            console.print(f"{LIGHT} events per second …")
            own = await _own_time(on, cores)
            console.print(f"memory over {first + then} events …")
            memory = await _memory(on, first, then)
        console.print(f"{DELAY * 1000:g} ms of delay in each request …")
        async with stage(broker, DELAY) as slow:
            rates = {size: await _delayed(slow, size, 50 * size, cores) for size in SHARES}
    out.print(_rest(rates, slow.program, own, memory, (first, first + then)))


def _where(cores: Sequence[int]) -> str:
    return "the consumer on a core of its own" if cores else "all on the same cores"


def _costs(seen: Rounds, how: str) -> Table:
    table = _table(f"CPU per event, {IN_FLIGHT} in flight, medians; {how}")
    table.caption = "No instructions are counted here: python -m benchmarks.instructions does."
    for column in ("CPU ms", "least to most", "events/s", "ratio pair by pair", "aim"):
        table.add_column(column, justify="right")
    for kind in KINDS:
        values = [each[kind].cpu_ms for each in seen]
        yardstick = "bare queue" if "queue" in kind else "bare"
        ratio = statistics.median(each[kind].cpu_ms / each[yardstick].cpu_ms for each in seen)
        table.add_row(
            kind,
            f"{statistics.median(values):.3f}",
            f"{min(values):.3f} to {max(values):.3f}",
            f"{statistics.median(each[kind].rate for each in seen):.0f}",
            f"{ratio:.2f}",
            "" if kind == yardstick else f"at most {MOST_RATIO}",
        )
    return table


def _rest(
    rates: Mapping[int, float], program: str, own: float, memory: Sequence[float], counts: Sequence[int]
) -> Table:
    table = _table("the worker otherwise")
    for column in ("value", "aim"):
        table.add_column(column, justify="right")
    for in_flight, rate in rates.items():
        ideal = in_flight / (2 * DELAY)
        what = f"events/s, {in_flight} in flight, 2 x {DELAY * 1000:g} ms ({program})"
        table.add_row(what, f"{rate:.0f}", f"{SHARES[in_flight] * ideal:.0f} of {ideal:.0f}")
    table.add_row(f"ms from receipt to acknowledgement at {LIGHT} events/s", f"{own:.2f}", "at most 1")
    for count, mib in zip(counts, memory, strict=True):
        table.add_row(f"MiB resident after {count} events", f"{mib:.1f}", "at most 64, no growth")
    parsing = microseconds(PARSES["callid_info, nine columns"])
    table.add_row("µs to read an answer of nine columns", f"{parsing:.1f}", f"below {BUDGET}")
    return table


def _table(title: str) -> Table:
    table = Table(title=title)
    table.add_column("")
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer events and rounds; a first look")
    asyncio.run(_main(quick=parser.parse_args().quick))
