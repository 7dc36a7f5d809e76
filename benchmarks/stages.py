"""Which stage of an event takes how much CPU time: `python -m benchmarks.stages`.

A sampler inside the consumer notes every millisecond of CPU time where it is; `benchmarks.sampler` says what
that shows, and what not. Shares of a busy machine are as good as those of a quiet one.
"""

import argparse
import asyncio
import json
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from benchmarks.bench import KINDS, consumer, counted, declare, measure, purge
from benchmarks.processes import PYTHON
from benchmarks.sampler import LOOP
from benchmarks.upstreams import Stage, stage
from simulators.broker import find_broker

ORDER = (
    "receive",
    "decode",
    "work on it",
    "look-up",
    "build",
    "sign",
    "post",
    "settle",
    "log",
    "metrics",
    LOOP,
)
WITHIN = 10.0


async def stages(kind: str, on: Stage, count: int) -> Mapping[str, float]:
    """Return the CPU milliseconds per event of each stage, in the order in which an event meets them."""
    on = counted(kind, on)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "stages"
        ports = [str(urlsplit(url).port) for url in (on.dialer, on.webhook)]
        through = (PYTHON, "-m", "benchmarks.sampler", str(out), *ports)
        async with consumer(kind, on, through=through) as running:
            await measure(running, on, 500)
            running.send_signal(signal.SIGUSR1)
            result = await measure(running, on, count)
            running.send_signal(signal.SIGUSR2)
            async with asyncio.timeout(WITHIN):
                while not out.exists():  # noqa: ASYNC110 - a file announces nothing
                    await asyncio.sleep(0.05)
            await purge(on.broker)
        seen: dict[str, int] = json.loads(out.read_text(encoding="utf-8"))
    total = sum(seen.values())
    return {name: result.cpu_ms * seen.get(name, 0) / total for name in ORDER}


def show(found: Mapping[str, Mapping[str, float]]) -> Table:
    """Return the table of several consumers."""
    table = Table(title="CPU ms per event by stage, on asyncio's own loop")
    for column in ("stage", *found):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for name in ORDER:
        table.add_row(name, *(f"{each[name]:.3f}" for each in found.values()))
    table.add_row("all", *(f"{sum(each.values()):.3f}" for each in found.values()))
    return table


async def main(kinds: list[str], count: int) -> None:
    """Measure and print the table."""
    console = Console(stderr=True, emoji=False)
    async with find_broker(None, console.print) as broker, stage(broker) as on:
        await declare(on)
        found = {kind: await stages(kind, on, count) for kind in kinds}
    Console(emoji=False).print(show(found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.stages",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kinds", nargs="*", metavar="consumer", help=f"of: {', '.join(KINDS)}")
    parser.add_argument("--events", type=int, default=4000, help="events of each run (default: 4000)")
    chosen = parser.parse_args()
    asyncio.run(main(chosen.kinds or ["worker", "bare"], chosen.events))
