"""Count the instructions that one event costs, below valgrind: `python -m benchmarks.instructions`.

Milliseconds differ by a tenth from run to run, and by much more while the machine does something else.
Instructions do not: two runs differ by about one in a hundred. They leave out what the kernel does, and a
cache miss counts like any other instruction, so compare versions with them, and say what they cost in
milliseconds (`python -m benchmarks`). It needs valgrind, and takes about a minute for each consumer.
"""

import argparse
import asyncio
import shutil
import statistics
import tempfile
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.bench import KINDS, consumer, counted, declare, measure, purge
from benchmarks.processes import PYTHON
from benchmarks.upstreams import Stage, stage
from simulators.broker import find_broker

WARM = 200
"""Events that are not counted: connections, caches, specialized bytecode."""
_PATIENT = {"VICIDIAL__TIMEOUT": "60s", "SINK__TIMEOUT": "60s"}
"""A consumer is fifty times slower below valgrind, and that is nobody's outage."""


async def instructions(kind: str, on: Stage, count: int) -> float:
    """Return the instructions per event of one consumer."""
    on = counted(kind, on)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        valgrind = ("valgrind", "-q", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={out}")
        async with consumer(kind, on, _PATIENT, through=(*valgrind, PYTHON, "-m")) as running:
            await measure(running, on, WARM)
            await _instrument(running, "on")
            await measure(running, on, count)
            await _instrument(running, "off")
        await purge(on.broker)
        return _total(out) / count


async def _instrument(running: psutil.Process, state: str) -> None:
    command = await asyncio.create_subprocess_exec(
        "callgrind_control",
        "-i",
        state,
        str(running.pid),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    if await command.wait() != 0:
        raise RuntimeError("callgrind_control failed")


def _total(out: Path) -> int:
    """Return the instructions in all dumps of one run."""
    lines = [line for file in out.parent.glob("out*") for line in file.read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("totals:"))


async def main(kinds: list[str], rounds: int, count: int) -> None:
    """Measure in turn, and print the table."""
    if shutil.which("callgrind_control") is None:
        raise SystemExit("it needs valgrind: apt-get install valgrind")
    console = Console(stderr=True, emoji=False)
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    async with find_broker(None, console.print) as broker, stage(broker) as on:
        await declare(on)
        for number in range(rounds):
            for kind in kinds:
                found[kind].append(await instructions(kind, on, count))
                console.print(f"round {number + 1}, {kind}: {found[kind][-1] / 1e6:.3f} million per event")
    table = Table(title=f"millions of instructions per event, {count} events")
    for column in ("consumer", "median", "least", "most"):
        table.add_column(column, justify="left" if column == "consumer" else "right")
    for kind, values in found.items():
        figures = (statistics.median(values), min(values), max(values))
        table.add_row(kind, *(f"{value / 1e6:.3f}" for value in figures))
    Console(emoji=False).print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.instructions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kinds", nargs="*", metavar="consumer", help=f"of: {', '.join(KINDS)} (default: all)")
    parser.add_argument("--rounds", type=int, default=1, help="how often each is measured (default: 1)")
    parser.add_argument("--events", type=int, default=300, help="events of each run (default: 300)")
    chosen = parser.parse_args()
    if unknown := set(chosen.kinds) - set(KINDS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    asyncio.run(main(chosen.kinds or list(KINDS), chosen.rounds, chosen.events))
