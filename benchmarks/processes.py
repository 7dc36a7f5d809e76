"""Processes of a benchmark: started, pinned to a core, and ended with the block that needs them."""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from typing import IO

import psutil

PYTHON = sys.executable
START_WITHIN = 120.0
"""Seconds; a process below valgrind starts slowly."""


def split_cores() -> tuple[int, ...]:
    """Keep one core free for the consumer, and return it; empty if there is only one, or no way to choose.

    Everything that is started after it shares the other cores.
    """
    if not hasattr(os, "sched_setaffinity"):
        return ()
    *others, last = sorted(os.sched_getaffinity(0))
    if not others:
        return ()
    os.sched_setaffinity(0, others)
    return (last,)


@asynccontextmanager
async def process(
    *command: str,
    env: Mapping[str, str] | None = None,
    port: int | None = None,
    cores: Sequence[int] = (),
    output: IO[str] | None = None,
) -> AsyncIterator[tuple[psutil.Process, str]]:
    """Run a process for as long as the block runs. Yield it, and the first line that it printed.

    If `port` is given, wait until something listens there instead of for a line. Its output goes to a file,
    `output` or a temporary one: a pipe would wake us up for every line, at the writer's cost.
    """
    with nullcontext(output) if output else tempfile.TemporaryFile("w+") as file:
        running = await asyncio.create_subprocess_exec(*command, env=env, stdout=file, stderr=file)
        if cores:
            psutil.Process(running.pid).cpu_affinity(list(cores))
        try:
            look = partial(_first_line, file) if port is None else partial(_listens, port)
            if (line := await _within(look, running)) is None:
                file.seek(0)
                raise RuntimeError(f"{' '.join(command)} did not start: {file.read()[-1000:]}")
            yield psutil.Process(running.pid), line
        finally:
            if running.returncode is None:
                running.terminate()
                await running.wait()


async def _within(look: Callable[[], Awaitable[str]], running: asyncio.subprocess.Process) -> str | None:
    deadline = time.monotonic() + START_WITHIN
    while time.monotonic() < deadline and running.returncode is None:
        if found := await look():
            return found
        await asyncio.sleep(0.02)
    return None


async def _first_line(output: IO[str]) -> str:
    output.seek(0)
    line = output.readline()
    output.seek(0, os.SEEK_END)
    return line if line.endswith("\n") else ""


async def _listens(port: int) -> str:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return ""
    writer.close()
    return "listening\n"
