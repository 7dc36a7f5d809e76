"""What the system tests share: real processes, settings by environment, and an account of every event id.

Nothing of `worker` is imported: the tests know the surface that users know.
"""

import asyncio
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any, Final, TypeVar

import aio_pika
import aiohttp
import aiormq
from aio_pika.abc import AbstractConnection, AbstractIncomingMessage
from aio_pika.exceptions import ConnectionClosed
from yarl import URL

ROOT: Final = Path(__file__).parents[2]
PASSWORD: Final = "Dialer-Pass-1"
READY_WITHIN: Final = 60.0
CONNECT_WITHIN: Final = 30.0
EXIT_WITHIN: Final = 45.0
WITHIN: Final = 60.0
"""Seconds for what takes one or two on an idle machine: on a busy one it is late, and still right."""
STARTED_WITHIN: Final = 60.0
"""Seconds until a program has printed its first line."""

_ANSWER_WITHIN = aiohttp.ClientTimeout(total=30)
_END_WITHIN = 30.0
_CANCELLATIONS = 5
_left_alone = set[asyncio.Task[Any]]()
"""Tasks that did not end when cancelled; a loop keeps only weak references to its tasks."""

T = TypeVar("T")


class Program:
    """A stand-in as a process of its own, changed and watched through `/control`."""

    def __init__(self, name: str, *arguments: str, log: Path | None = None) -> None:
        """Start `python -m simulators.<name>`, which prints where it listens; its errors go to the log."""
        command = [sys.executable, "-m", f"simulators.{name}", *arguments]
        errors = None if log is None else log.open("ab")
        try:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, env=environment({})
            )
        finally:
            if errors is not None:
                errors.close()
        line = first_line(self.process)
        assert line, f"{name} could not be started"
        said = json.loads(line)
        self.settings: dict[str, Any] = said.get("settings", {})
        """Those by which the service uses it, if it says so."""
        self.url: str = said["url"]
        self.port: int = said["port"]

    def end(self) -> None:
        """Stop it and wait."""
        end(self.process)

    async def control(self, **change: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
        """Change it, and return what it says about that."""
        async with (
            aiohttp.ClientSession(timeout=_ANSWER_WITHIN) as session,
            session.post(f"http://127.0.0.1:{self.port}/control", json=change) as response,
        ):
            assert response.status == 200, await response.text()
            said: dict[str, Any] = await response.json()
            return said

    async def report(self, path: str = "/control") -> dict[str, Any]:
        async with (
            aiohttp.ClientSession(timeout=_ANSWER_WITHIN) as session,
            session.get(f"http://127.0.0.1:{self.port}{path}") as response,
        ):
            found: dict[str, Any] = await response.json()
            return found


def first_line(process: subprocess.Popen[bytes], within: float = STARTED_WITHIN) -> bytes:
    """Return the first line that a process prints; empty if it ends first, or is late and is ended."""
    stream: IO[bytes] | None = process.stdout
    assert stream is not None
    readable, _, _ = select.select([stream], [], [], within)
    line = stream.readline() if readable else b""
    if not line:
        end(process)
    return line


def end(process: subprocess.Popen[bytes]) -> None:
    """Stop a process and wait for its end; kill it if it is late."""
    process.terminate()
    try:
        process.wait(_END_WITHIN)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(_END_WITHIN)
    if process.stdout is not None:
        process.stdout.close()


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment, with these settings instead of its own."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("CRM_SYNC_")}
    return others | {"PYTHONPATH": str(ROOT), **settings}


def crm_sync() -> list[str]:
    """Return the command: the installed one, else the package."""
    script = Path(sys.executable).with_name("crm-sync")
    return [str(script)] if script.exists() else [shutil.which("python") or sys.executable, "-m", "worker"]


class Worker:
    """One `crm-sync run`, or `crm-sync intake`, its log in a file."""

    def __init__(self, settings: Mapping[str, str], folder: Path, command: str = "run") -> None:
        self.log_file = folder / f"worker-{uuid.uuid4().hex[:8]}.log"
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [*crm_sync(), command],
                cwd=folder,
                env=environment(settings),
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        self._read = 0
        self._lines: list[dict[str, Any]] = []

    @property
    def text(self) -> str:
        return self.log_file.read_text(errors="replace")

    def lines(self) -> list[dict[str, Any]]:
        """Return the log, each line parsed; whatever is no JSON is kept under `stray`."""
        with self.log_file.open("rb") as log:
            log.seek(self._read)
            whole = log.read().rpartition(b"\n")[0]
        if whole:
            self._read += len(whole) + 1
            self._lines += [_parsed(line.decode(errors="replace")) for line in whole.split(b"\n")]
        return self._lines.copy()

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.lines() if line.get("event") == name]

    def settled(self, outcome: str | None = None) -> list[dict[str, Any]]:
        return [
            line for line in self.events("event_settled") if outcome is None or line["outcome"] == outcome
        ]

    async def listening(self, within: float = READY_WITHIN) -> int:
        """Return the port of its health endpoints."""
        await eventually(lambda: self.events("listening") or self.process.poll() is not None, within)
        assert self.process.poll() is None, self.text
        port: int = self.events("listening")[0]["port"]
        return port

    async def get(self, path: str) -> tuple[int, str]:
        url = f"http://127.0.0.1:{await self.listening()}{path}"
        async with aiohttp.ClientSession(timeout=_ANSWER_WITHIN) as session, session.get(url) as response:
            return response.status, await response.text()

    async def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((await self.get("/status"))[1])
        return found

    async def ready(self, within: float = READY_WITHIN) -> float:
        """Wait until it is ready. Return the seconds that it took."""

        async def is_ready() -> bool:
            assert self.process.poll() is None, self.text
            return (await self.get("/readyz"))[0] == 200

        await self.listening(within)
        return await eventually(is_ready, within)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def exit(self, within: float = EXIT_WITHIN) -> int:
        """Wait for its end. Return the exit status."""
        await eventually(lambda: self.process.poll() is not None, within)
        status: int = self.process.wait()
        return status

    async def stop(self, within: float = EXIT_WITHIN) -> int:
        """Stop it as an operator does."""
        self.signal(signal.SIGTERM)
        return await self.exit(within)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(_END_WITHIN)

    def complaints(self) -> list[dict[str, Any]]:
        """Return what has no place in a log: tracebacks, stray lines, warnings of Python or of the loop."""
        signs = ("Traceback", "never retrieved", "never awaited", "was destroyed", "Unclosed")
        return [
            line
            for line in self.lines()
            if "stray" in line or any(sign in json.dumps(line) for sign in signs)
        ]


def _parsed(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {"stray": line}
    return found if isinstance(found, dict) else {"stray": line}


@dataclass
class System:
    """A broker's namespace, the stand-ins, and the workers that a test starts."""

    broker_url: str
    namespace: str
    folder: Path
    dialer: Program
    crm: Program
    workers: list[Worker] = field(default_factory=list)
    published: list[str] = field(default_factory=list)
    may_complain: bool = False
    """Whether tracebacks belong to what the test does."""

    def settings(self, **changed: str | None) -> dict[str, str]:
        """Return a worker's environment; `vicidial__timeout="2s"` sets a setting, `None` takes it out."""
        chosen: dict[str, str | None] = {
            "broker__url": self.broker_url,
            "broker__namespace": self.namespace,
            "vicidial__url": self.dialer.url,
            "vicidial__user": "crmsync",
            "vicidial__password": PASSWORD,
            "vicidial__timeout": "10s",  # a busy machine is late: what is given up is delivered twice
            "vicidial__ready_within": "30s",
            "sink__url": self.crm.url,
            "sink__timeout": "10s",
            "retry__delays": "200ms,500ms,1s",
            "retry__max_attempts": "100",
            "circuit_breakers__probe_max": "500ms",
            "circuit_breakers__refused_probe": "1s",
            "http__host": "127.0.0.1",
            "http__port": "0",
            **changed,
        }
        return {f"CRM_SYNC_{name.upper()}": value for name, value in chosen.items() if value is not None}

    def spawn(self, **changed: str | None) -> Worker:
        """Start a worker and wait for nothing."""
        worker = Worker(self.settings(**changed), self.folder)
        self.workers.append(worker)
        return worker

    async def start(self, **changed: str | None) -> Worker:
        """Start a worker and wait until it is ready."""
        worker = self.spawn(**changed)
        await worker.ready()
        return worker

    async def connect(self) -> AbstractConnection:
        return await connect(self.broker_url)

    async def publish(
        self,
        event: Mapping[str, Any] | bytes,
        key: str = "call.ended",
        *,
        exchange: str | None = None,
        **properties: Any,  # noqa: ANN401 - those of AMQP
    ) -> None:
        """Publish one event as a producer does."""
        await self.publish_all([event], key, exchange=exchange, **properties)

    async def publish_all(
        self,
        events: Iterable[Mapping[str, Any] | bytes],
        key: str = "call.ended",
        *,
        exchange: str | None = None,
        **properties: Any,  # noqa: ANN401 - those of AMQP
    ) -> None:
        """Publish events, each confirmed, and enter their ids into the account."""
        properties.setdefault("delivery_mode", aio_pika.DeliveryMode.PERSISTENT)
        async with await self.connect() as connection:
            channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
            target = await channel.get_exchange(exchange or f"{self.namespace}.events", ensure=False)

            async def send(event: Mapping[str, Any] | bytes) -> None:
                body = event if isinstance(event, bytes) else json.dumps(event).encode()
                await target.publish(aio_pika.Message(body, **properties), key, timeout=WITHIN)
                if not isinstance(event, bytes) and "event_id" in event:
                    self.published.append(event["event_id"])

            await asyncio.gather(*(send(event) for event in events))

    async def calls(self, count: int, **fields: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - JSON
        """Make calls that the dialer knows, and give the events of their ends."""
        events = [call_ended() for _ in range(count)]
        await self.dialer.control(calls={event["call_id"]: fields for event in events})
        return events

    async def call(self, **fields: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
        """Make one call that the dialer knows, and give the event of its end."""
        (event,) = await self.calls(1, **fields)
        return event

    async def delivered(self, *ids: str, within: float = WITHIN) -> dict[str, list[dict[str, Any]]]:
        """Wait until the CRM has accepted all the ids. Return what it received, by id."""
        wanted = set(ids or self.published)
        found: dict[str, list[dict[str, Any]]] = {}

        async def all_there() -> bool:
            found.clear()
            accepted = set()
            for each in (await self.crm.report())["received"]:
                found.setdefault(each["id"], []).append(each)
                if 200 <= each["status"] < 300 or each["status"] == 409:
                    accepted.add(each["id"])
            return wanted <= accepted

        try:
            await eventually(all_there, within)
        except TimeoutError:
            missing = wanted - found.keys()
            raise AssertionError(f"not delivered within {within} s: {missing or 'none accepted'}") from None
        return found

    async def take(self, queue: str, within: float = WITHIN) -> AbstractIncomingMessage:
        """Get and acknowledge one message of a queue of the namespace, waiting for it."""
        async with asyncio.timeout(within), await self.connect() as connection:
            channel = await connection.channel()
            source = await channel.get_queue(f"{self.namespace}.{queue}", ensure=False)
            while (message := await source.get(fail=False)) is None:  # noqa: ASYNC110 - a queue announces nothing
                await asyncio.sleep(0.02)
            await message.ack()
            return message

    async def dead_letter(self, within: float = WITHIN) -> AbstractIncomingMessage:
        return await self.take("dead-letters", within)

    async def depth(self, queue: str) -> int:
        """Count the messages that stand ready in a queue of the namespace."""
        async with await self.connect() as connection:
            channel = await connection.channel()
            declared = await channel.declare_queue(f"{self.namespace}.{queue}", passive=True)
            return declared.declaration_result.message_count or 0

    async def nothing_dead(self) -> None:
        assert await self.depth("dead-letters") == 0, dict((await self.dead_letter()).headers)

    async def end(self) -> None:
        """End the workers, and let none of them have complained."""
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.signal(signal.SIGTERM)
        late = []
        for worker in self.workers:
            try:
                await worker.exit()
            except TimeoutError:
                late.append(worker.text)
                worker.kill()
        assert late == [], late
        if not self.may_complain:
            complaints = [line for worker in self.workers for line in worker.complaints()]
            assert complaints == [], complaints


class _Connection(aio_pika.Connection):
    """One that is closed after `close` also if that failed, or was cut short.

    aio_pika closes what is still open when it is collected. In a thread without a loop that only leaves
    a coroutine that nobody awaits, and a warning in whichever test runs just then.
    """

    async def close(self, exc: aiormq.abc.ExceptionType | None = ConnectionClosed) -> None:
        try:
            await super().close(exc)
        except BaseException:
            await super().close(exc)  # the first one has given up the transport: this only says "closed"
            raise


async def connect(url: str, timeout: float = CONNECT_WITHIN) -> AbstractConnection:  # noqa: ASYNC109 - aio_pika's
    """Connect to a broker. Where that fails or is cancelled nothing is left to be closed by the collector."""
    connection = _Connection(URL(url))
    try:
        await connection.connect(timeout)
    except StopAsyncIteration as error:  # aiormq's, if the broker closed before the client read a word
        await connection.close()
        raise ConnectionError("the connection was closed during the handshake") from error
    except BaseException:
        await connection.close()
        raise
    return connection


def call_ended(**fields: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """Return an event about a call that nobody knows."""
    return {
        "type": "call.ended",
        "event_id": str(uuid.uuid4()),
        "occurred_at": datetime.now(UTC).isoformat(),
        "call_id": new_call_id(),
        **fields,
    }


def new_call_id(rng: random.Random | None = None) -> str:
    """Return the id of a call that began five minutes ago, as a dialer in UTC makes it; no other has it."""
    began = datetime.now(UTC) - timedelta(minutes=5)
    lead = (rng or random.Random()).randrange(1, 2**32)  # noqa: S311 - a name
    return f"V{f'{began:%m%d%H%M%S}'[1:]}{lead:010}"


async def eventually(
    condition: Callable[[], object] | Callable[[], Awaitable[object]], within: float = WITHIN
) -> float:
    """Wait until the condition holds; returns the seconds that it took.

    Raises `TimeoutError` when it is late, also if the condition swallowed the cancellation, as one does that
    asks a broker and takes every failure for "not yet".
    """
    started = time.monotonic()
    async with asyncio.timeout(within):
        while time.monotonic() - started <= within:
            with suppress(aiohttp.ClientConnectionError):
                held = condition()
                if isinstance(held, Awaitable):
                    held = await held
                if held:
                    return time.monotonic() - started
            # Seldom after a while: the machine is for what is waited for, not for looking at it.
            await asyncio.sleep(min(max(0.02, (time.monotonic() - started) / 20), 0.2))
        raise TimeoutError


class Unfinished(Exception):
    """Work that did not end in time, or was cancelled by itself; the message says where it stood."""


async def bounded(work: Coroutine[Any, Any, T] | asyncio.Task[T], within: float) -> T:
    """Await work for so many seconds at most, whatever it does with its cancellation; raises `Unfinished`."""
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=within)
        if not done:
            raise Unfinished(f"not done within {within:g} s; it stood at {position(task)}")
        if task.cancelled():
            raise Unfinished("cancelled, and not from outside")
        return task.result()
    finally:
        await cancelled(task)


async def cancelled(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks until they end. One that never does is left alone after a while.

    Once is not enough: aiormq turns a cancellation into an error of its own, which its callers expect.
    """
    left = {task for task in tasks if not task.done()}
    for _ in range(_CANCELLATIONS):
        for task in left:
            task.cancel()
        if left:
            _, left = await asyncio.wait(left, timeout=1)
    for task in tasks:
        if task.done() and not task.cancelled():
            task.exception()  # whoever needed it has had it
    _left_alone.update(left)


def position(task: asyncio.Task[Any]) -> str:
    """Return where a task stands, from the outermost coroutine to the innermost."""
    awaited: object = task.get_coro()
    places = []
    while (frame := getattr(awaited, "cr_frame", None)) is not None:
        places.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}")
        awaited = getattr(awaited, "cr_await", None)
    return " > ".join(places) or "its end"
