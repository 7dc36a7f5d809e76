"""What a scenario plays on: a node, a dialer and a CRM behind proxies, and real workers between them."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aio_pika
import aiohttp
from aio_pika.abc import AbstractIncomingMessage

from tests.system.chaos.account import BURIED, Arrived, Dead, Published
from tests.system.chaos.load import Load
from tests.system.chaos.node import Node
from tests.system.chaos.proxy import Proxy
from tests.system.harness import PASSWORD, Program, System, Worker

IN_FLIGHT: Final = 32
MAY_COME_AGAIN: Final = IN_FLIGHT + IN_FLIGHT // 4
"""What a worker may have in hand of both queues, and so what may be delivered twice after one kill or cut."""

WORK: Final = ("call-ended", "agent-onboarded")
TIERS: Final = ("retry.200ms", "retry.500ms", "retry.1s")
QUEUES: Final = (*WORK, *TIERS, "dead-letters")

_EXIT_WITHIN = 90.0
_READY_WITHIN = 150.0
_ANSWER_WITHIN = 20.0
_LOOK_WITHIN = 3.0
_LONG = 1500
_FLOWING = 0.02  # seconds a dialer takes, so that there always is something in flight
_NET_ERRORS = (OSError, aio_pika.exceptions.AMQPError, TimeoutError, aiohttp.ClientError, RuntimeError)


@dataclass(frozen=True, slots=True)
class Pace:
    """How much is done to the system."""

    events: int
    """Published in each round."""
    rounds: int
    hold: float
    """Seconds for which a fault lasts at least."""
    long_hold: float
    """The same for faults that show only after a while."""
    kills: int
    """How often a process is killed, or a connection closed, in one round."""
    patience: float
    """Seconds in which everything has to be accounted for once the fault is over."""
    deadline: float
    """Seconds in which a scenario has to end, whatever happens."""


class Stage:
    """One namespace on a node with its own dialer and CRM; scenarios play on it one after the other.

    A stage on which a scenario went wrong is closed, and the next scenario has a new one.
    """

    def __init__(self, name: str, node: Node, folder: Path, pace: Pace, rng: random.Random) -> None:
        self.name, self.node, self.pace, self.rng = name, node, pace, rng
        self.folder = folder / name
        self.load = Load(name, rng)
        self.cuts = 0
        self.notes: list[str] = []
        self.workers: list[Worker] = []
        self.published: list[Published] = []
        self.dead: list[Dead] = []
        self._settings: Mapping[str, str | None] = {}
        self._gone: list[Worker] = []
        self._late_before = 0
        self._closed = False
        self._opened = AsyncExitStack()
        self.folder.mkdir()

    async def open(self) -> None:
        """Start the stand-ins and the proxies. `close` ends what was started, also if this fails."""
        dialer, crm = await asyncio.gather(self._start("dialer"), self._start("crm"))
        self.system = System(self.node.url, self.name, self.folder, dialer, crm)
        self._opened.callback(self._kill_all)
        timeout = aiohttp.ClientTimeout(total=_ANSWER_WITHIN)
        self.http = await self._opened.enter_async_context(aiohttp.ClientSession(timeout=timeout))
        self.broker, self.dialer, self.crm = (
            Proxy(self.node.port),
            Proxy(dialer.port),
            Proxy(crm.port),
        )
        for proxy in self._proxies:
            self._opened.push_async_callback(proxy.refuse)
            await proxy.open()

    async def close(self) -> None:
        """Kill the workers and end everything else; a scenario that goes on can start no more of them."""
        self._closed = True
        await self._opened.aclose()

    async def is_sound(self) -> bool:
        """Return whether a scenario can begin: everything runs and lets through, every queue stands empty."""
        alive = all(worker.process.poll() is None for worker in self.workers)
        if not alive or not all(proxy.is_open for proxy in self._proxies):
            return False
        async with await self.system.connect() as connection:
            channel = await connection.channel()
            return all([await self._is_empty(channel, queue) for queue in QUEUES])

    async def begin(self, notes: list[str]) -> None:
        """Begin the account of a scenario: nothing published yet, and both stand-ins in their usual state."""
        (self.folder / "password").write_text(PASSWORD)
        await self.system.dialer.control(
            fault=None, delay=_FLOWING, unplant=True, ip_blocked=False, password={"crmsync": PASSWORD}
        )
        await self.system.crm.control(fault=None, delay=0, answer=200, retry_after=None, forget=True)
        self.published, self.dead, self.cuts, self.notes = [], [], 0, notes
        self._late_before = self._late()

    @property
    def may_come_again(self) -> int:
        """How many deliveries may be repeated: what was in hand at each cut, and each that timed out."""
        return self.cuts * MAY_COME_AGAIN + self._late() - self._late_before

    def _late(self) -> int:
        """Count the deliveries that the workers gave up as timed out: the CRM may have them all the same."""
        return sum(
            line["reason"] == "sink_outage" and "did not answer" in line["error"]
            for worker in (*self.workers, *self._gone)
            for line in worker.settled("retry")
        )

    async def _start(self, name: str) -> Program:
        program = await asyncio.to_thread(Program, name, log=self.folder / f"{name}.log")
        self._opened.push_async_callback(asyncio.to_thread, program.end)
        return program

    @property
    def _proxies(self) -> tuple[Proxy, ...]:
        return self.broker, self.dialer, self.crm

    async def _is_empty(self, channel: aio_pika.abc.AbstractChannel, queue: str) -> bool:
        declared = await channel.declare_queue(f"{self.name}.{queue}", passive=True)
        return declared.declaration_result.message_count == 0

    # --- workers

    def spawn(self) -> Worker:
        """Start one more worker with the settings of the scenario."""
        assert not self._closed, "the stage is closed"
        chosen: dict[str, str | None] = {
            "broker__url": f"amqp://guest:guest@127.0.0.1:{self.broker.port}/",
            "vicidial__url": _behind(self.system.dialer.url, self.dialer),
            "sink__url": _behind(self.system.crm.url, self.crm),
            "vicidial__timeout": "1s",
            "sink__timeout": "2s",
            "vicidial__ready_within": "6s",  # the dialer knows every call sooner, and is asked every second
            "max_in_flight": str(IN_FLIGHT),
        }
        for name, value in self._settings.items():
            known = {"folder": self.folder, "port": self.broker.port}
            chosen[name] = None if value is None else value.format(**known)
        worker = self.system.spawn(**chosen)
        self.workers.append(worker)
        return worker

    def kill(self, worker: Worker) -> None:
        """SIGKILL a worker: what it had in flight may come again."""
        worker.kill()
        self.cuts += 1
        self._bury(worker)

    def replace(self, worker: Worker) -> None:
        """Start another one for a worker that has ended."""
        self._bury(worker)
        self.spawn()

    async def dismiss(self) -> None:
        """Stop all workers as an operator does; each has to end well."""
        leaving = list(self.workers)
        for worker in leaving:
            self._bury(worker)
            worker.process.terminate()
        for worker in leaving:
            status = await worker.exit(_EXIT_WITHIN)
            assert status == 0, f"a worker stopped with exit status {status}: {worker.text[-2000:]}"

    async def employ(self, count: int, settings: Mapping[str, str | None]) -> None:
        """Have so many workers with these settings, ready; those of the scenario before if they fit."""
        if self._settings != settings or len(self.workers) != count:
            await self.dismiss()
            self._settings = settings
            for _ in range(count):
                self.spawn()
        for worker in self.workers:
            await worker.ready(_READY_WITHIN)

    def complaints(self) -> list[str]:
        """Return what has no place in the logs of those that are gone, once."""
        found = [_shortened(json.dumps(line)) for worker in self._gone for line in worker.complaints()]
        self._gone.clear()
        return found

    def _kill_all(self) -> None:
        for worker in self.system.workers:
            if worker.process.poll() is None:
                worker.kill()

    def _bury(self, worker: Worker) -> None:
        self.workers.remove(worker)
        self._gone.append(worker)

    # --- events

    async def publish(self, events: Iterable[Published]) -> None:
        """Publish events, each once and confirmed; the dialer knows their calls then."""
        chosen = list(events)
        if not chosen:
            return
        calls = {each.call_id: each.call for each in chosen if each.call is not None}
        await self.system.dialer.control(calls=calls)
        async with await self.system.connect() as connection:
            channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
            target = await channel.get_exchange(f"{self.name}.events", ensure=False)
            for number in range(0, len(chosen), 200):
                part = chosen[number : number + 200]
                await asyncio.gather(*(target.publish(_message(each), each.key, timeout=30) for each in part))
                self.published += part

    async def arrived(self) -> dict[str, Arrived]:
        """Return what the CRM says of each id."""
        async with self.http.get(f"http://127.0.0.1:{self.system.crm.port}/account") as response:
            return {name: Arrived(**found) for name, found in (await response.json()).items()}

    async def accepted(self) -> int:
        """Count what the CRM has accepted."""
        return sum(len(each.accepted_at) for each in (await self.arrived()).values())

    async def take_dead(self) -> None:
        """Move all dead letters to `dead`."""
        async for message in self._take("dead-letters"):
            self.dead.append(_dead(message))  # before the next is asked for, which may take too long
            await message.ack()

    async def queued(self) -> set[str]:
        """Return the ids of what stands in the other queues, where they stay."""
        return {
            json.loads(message.body)["event_id"]
            for queue in (*WORK, *TIERS)
            async for message in self._take(queue)
        }

    async def _take(self, queue: str) -> AsyncIterator[AbstractIncomingMessage]:
        """Yield the messages of a queue; those that are not acknowledged go back at the end."""
        async with await self.system.connect() as connection:
            source = await (await connection.channel()).get_queue(f"{self.name}.{queue}", ensure=False)
            while (message := await source.get(fail=False, timeout=_ANSWER_WITHIN)) is not None:
                yield message


class Window:
    """A look at the queues from outside, which outlives whatever happens to the broker."""

    def __init__(
        self, connect: Callable[[], Awaitable[aio_pika.abc.AbstractConnection]], queues: Collection[str]
    ) -> None:
        self._connect, self._queues = connect, queues
        self._connection: aio_pika.abc.AbstractConnection | None = None

    async def look(self, within: float = _LOOK_WITHIN) -> Mapping[str, tuple[int, int]] | None:
        """Return the messages that stand ready and the consumers of each queue.

        Empty if the broker has none of them or can't be reached, `None` if it did not answer in time.
        """
        try:
            async with asyncio.timeout(within):
                if self._connection is None or self._connection.is_closed:
                    self._connection = await self._connect()
                return await self._counts(self._connection)
        except TimeoutError:
            await self.close()
            return None
        except _NET_ERRORS:
            await self.close()
            return {}

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                async with asyncio.timeout(2):
                    await connection.close()
            except _NET_ERRORS:
                pass

    async def _counts(self, connection: aio_pika.abc.AbstractConnection) -> dict[str, tuple[int, int]]:
        found = {}
        async with connection.channel() as channel:
            for name in self._queues:
                queue = await channel.declare_queue(name, passive=True)
                said = queue.declaration_result
                found[name] = (said.message_count or 0, said.consumer_count or 0)
        return found


def _shortened(text: str) -> str:
    """Leave out the middle: a traceback begins with what called, and ends with what failed."""
    return text if len(text) < _LONG else f"{text[: _LONG // 3]} … {text[-_LONG * 2 // 3 :]}"


def _behind(url: str, proxy: Proxy) -> str:
    return urlsplit(url)._replace(netloc=f"127.0.0.1:{proxy.port}").geturl()


def _message(event: Published) -> aio_pika.Message:
    return aio_pika.Message(event.body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)


def _dead(message: AbstractIncomingMessage) -> Dead:
    ours = message.headers.get("crm-sync-reason")
    deaths: Any = message.headers.get("x-death") or [{}]
    reason = BURIED if ours is None and deaths[0].get("reason") == BURIED else str(ours)
    return Dead(json.loads(message.body)["event_id"], reason, message.body)
