"""The real `crm-sync run` as a child process, its log read line by line."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

_LONGEST_LINE = 4 * 1024 * 1024
_STOP_WITHIN = 10.0
_STOP_SOON = (
    2.0  # after Ctrl-C nobody cares for the events in work, but what is being declared has to be done
)
_SETTINGS = "CRM_SYNC_"


class WorkerEnded(Exception):
    """The worker ended by itself; the message says how."""


class WorkerProcess:
    """One running worker, whose log is read until its end, which is the worker's own."""

    def __init__(
        self, process: asyncio.subprocess.Process, on_line: Callable[[dict[str, Any]], None]
    ) -> None:
        """Read the log of this process from now on."""
        self._process = process
        self._on_line = on_line
        self._last_words = ""
        self._consuming = asyncio.Event()
        self._reading = asyncio.ensure_future(self._read())

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    async def consuming(self) -> None:
        """Return once the worker consumes. Raises `WorkerEnded`."""
        await self.unless_it_ends(self._consuming)

    async def unless_it_ends(self, event: asyncio.Event) -> None:
        """Wait for the event. Raises `WorkerEnded` if the worker ends first."""
        waiting = asyncio.ensure_future(event.wait())
        try:
            await asyncio.wait([waiting, self._reading], return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if not event.is_set():
            self._reading.result()
            status = await self._process.wait()
            raise WorkerEnded(f"the worker ended by itself with status {status}. {self._last_words}".strip())

    async def stop(self, within: float = _STOP_WITHIN) -> int:
        """Stop it as Kubernetes does: with SIGTERM, then with SIGKILL. Return its exit status."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(within):
                await asyncio.wait([self._reading])
                return await self._process.wait()
        except TimeoutError:
            self._process.kill()
            return await self._process.wait()

    async def _read(self) -> None:
        stream = self._process.stderr
        while stream is not None and (raw := await stream.readline()):
            text = raw.decode(errors="replace").strip()
            try:
                line = json.loads(text)
            except ValueError:
                line = None
            if not isinstance(line, dict):
                self._last_words = text  # the last line of a traceback, or of a refusal to start
                continue
            if line.get("event") == "consuming":
                self._consuming.set()
            self._on_line(line)


@asynccontextmanager
async def worker_process(
    settings: Mapping[str, str], on_line: Callable[[dict[str, Any]], None]
) -> AsyncIterator[WorkerProcess]:
    """Run `crm-sync run` with these settings and no others; ended at the end if it still runs."""
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(_SETTINGS)}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "worker", "run"),
        env=kept | {_SETTINGS + name: value for name, value in settings.items()},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        limit=_LONGEST_LINE,
        process_group=0,  # Ctrl-C is for the demonstration, which then ends it
    )
    worker = WorkerProcess(process, on_line)
    try:
        yield worker
    finally:
        if process.returncode is None:
            await worker.stop(_STOP_SOON)
