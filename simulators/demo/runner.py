"""Run the demonstration: a broker, a dialer, a CRM, the real worker, and a day's handful of events."""

import asyncio
import base64
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

import aio_pika
import aiormq
from aio_pika.abc import AbstractConnection, AbstractExchange

from simulators.broker import find_broker
from simulators.crm import Received, StandInCrm
from simulators.demo.display import Display
from simulators.demo.progress import Progress
from simulators.demo.scenario import (
    CASES,
    EXCHANGES,
    QUEUES,
    READY_WITHIN,
    RETRY_AFTER,
    RETRY_DELAYS,
    Case,
    Message,
)
from simulators.demo.summary import Letter, Result
from simulators.demo.worker_process import WorkerProcess, worker_process
from simulators.dialer import DEFAULT_PASSWORD, DEFAULT_USER, StandInDialer
from simulators.dialer.answers import Question, tutorial_answer
from simulators.dialer.recorded import tutorial_world

DEADLINE: Final = 90.0
"""Seconds for everything but getting a broker, which has deadlines of its own."""

_INTRODUCTION = (
    "Events come in by RabbitMQ; the worker asks the dialer about each, and the CRM\n"
    "gets what the dialer knows. Here are some, with troubles on the way.\n"
)
_BETWEEN_TWO = 0.3  # seconds between two events: so that one can see them come
_CONNECT_WITHIN = 10.0
_CLOSE_WITHIN = 3.0
_CLEAN_WITHIN = 10.0
_PUBLISH_WITHIN = 10.0
_WORKER_READY_WITHIN = 30.0
_BROKER_ERRORS = (aiormq.AMQPError, OSError, TimeoutError, RuntimeError)


class DemoError(Exception):
    """The demonstration can't go on; the message says why."""


async def play(url: str | None, display: Display, *, within: float = DEADLINE) -> Result:
    """Play it on the broker at this address, or on one of its own; whatever happens, nothing stays behind.

    Raises `DemoError`, `BrokerError` or `WorkerEnded`, or what aio-pika does if the connection fails.
    """
    started = time.monotonic()
    display.say(_INTRODUCTION)
    display.doing("starting RabbitMQ" if url is None else "connecting to RabbitMQ")
    async with find_broker(url, display.say) as broker_url:
        runner = _Runner(broker_url, display, started)
        owned = "started for this demo alone" if url is None else f"given; all is in {runner.namespace}.*"
        async with (
            _deadline(within),
            runner.swept(given=url is not None),
            _connected(runner.url) as connection,
        ):
            display.done("RabbitMQ", f"at {_address(runner.url)}, {owned}")
            return await runner.play(connection)


@asynccontextmanager
async def _deadline(within: float) -> AsyncIterator[None]:
    deadline = asyncio.timeout(within)
    try:
        async with deadline:
            yield
    except TimeoutError as error:
        if not deadline.expired():
            raise
        raise DemoError(f"this took longer than {within:.0f} seconds, so it was given up") from error


class _Runner:
    def __init__(self, url: str, display: Display, started: float) -> None:
        self.started = started
        self.url = url
        self.display = display
        self.namespace = f"crm-sync-demo-{secrets.token_hex(4)}"
        self.secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
        self.crm = StandInCrm(secret=self.secret)
        self.dialer = StandInDialer()
        self.progress = Progress(CASES, self._last_payload)
        self.declared = False
        self.all_over = asyncio.Event()
        self.bodies: dict[str, bytes] = {}

    @asynccontextmanager
    async def swept(self, *, given: bool) -> AsyncIterator[None]:
        """Delete from a broker that was given whatever the demonstration declared there."""
        try:
            yield
        finally:
            if given and self.declared:
                await self._sweep()

    async def _sweep(self) -> None:
        try:
            async with asyncio.timeout(_CLEAN_WITHIN), _connected(self.url) as connection:
                channel = await connection.channel()
                for name in QUEUES:
                    await channel.queue_delete(f"{self.namespace}.{name}")
                for name in EXCHANGES:
                    await channel.exchange_delete(f"{self.namespace}.{name}")
        except _BROKER_ERRORS:
            left = f"{self.namespace}.*"
            self.display.say(f"The broker can't be reached any more; the queues {left} are left on it.")

    async def play(self, connection: AbstractConnection) -> Result:
        """Run everything once, from the first event to the last settling."""
        async with self.dialer, self.crm:
            self._brief()
            self.display.done("dialer", "a stand-in; it answers as recorded from a real VICIdial")
            self.display.done("CRM", "a stand-in; it checks every signature, and fails now and then")
            self.declared = True
            async with worker_process(self._settings(), self._on_line) as worker:
                await self._until_it_consumes(worker)
                with self.display.showing(self.progress):
                    await self._publish_all(connection)
                    await worker.unless_it_ends(self.all_over)
                status = await worker.stop()
            letters = await self._read_dead_letters(connection)
        return Result(
            rows=self.progress.rows,
            received=self.crm.received,
            letters=letters,
            bodies=self.bodies,
            dialer_requests=self.dialer.served,
            worker_status=status,
            seconds=time.monotonic() - self.started,
        )

    def _brief(self) -> None:
        """Prepare the stand-ins for all cases."""
        self.crm.script = self._crm_answer
        for case in CASES:
            if case.dialect == "tutorial":
                self.dialer.plant(case.subject, body=_in_tutorial_dialect(case))

    def _crm_answer(self, seen: Received) -> int | None:
        """Answer what the case says, in turn, then accept; only a 429 comes with `Retry-After`."""
        statuses = next((case.crm_says for case in CASES if case.event_id == seen.id), ())
        earlier = sum(each.id == seen.id for each in self.crm.received)
        status = statuses[earlier] if earlier < len(statuses) else None
        self.crm.retry_after = RETRY_AFTER if status == 429 else None
        return status

    async def _until_it_consumes(self, worker: WorkerProcess) -> None:
        self.display.doing("starting the worker")
        try:
            async with asyncio.timeout(_WORKER_READY_WITHIN):
                await worker.consuming()
        except TimeoutError as error:
            raise DemoError("the worker did not begin to consume in time") from error
        delays = ", ".join(RETRY_DELAYS)
        self.display.done("worker", f"the real `crm-sync run`, process {worker.pid}; retries after {delays}")

    async def _publish_all(self, connection: AbstractConnection) -> None:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        exchange = await channel.get_exchange(f"{self.namespace}.events", ensure=False)
        for case in CASES:
            now = datetime.now(UTC)
            if case.call is not None:
                self.dialer.add_call(case.call(now))
            message = case.message(now)
            self.bodies[case.event_id] = message.body
            for _ in range(case.published):
                await _publish(exchange, message)
                self.display.news(self.progress.received(case, datetime.now(UTC)))
            await asyncio.sleep(_BETWEEN_TWO)

    def _on_line(self, line: Mapping[str, Any]) -> None:
        self.display.news(self.progress.logged(line))
        if self.progress.over:
            self.all_over.set()

    def _last_payload(self, event_id: str) -> Mapping[str, Any] | None:
        return next((each.json for each in reversed(self.crm.received) if each.id == event_id), None)

    async def _read_dead_letters(self, connection: AbstractConnection) -> dict[str, Letter]:
        """Read what is in the dead letters, by the id of the event, or of the message if it has none."""
        channel = await connection.channel()
        queue = await channel.get_queue(f"{self.namespace}.dead-letters", ensure=False)
        letters: dict[str, Letter] = {}
        while (message := await queue.get(no_ack=True, fail=False)) is not None:
            said = message.headers
            name = said.get("crm-sync-event-id") or message.message_id
            letters[str(name)] = Letter(str(said.get("crm-sync-reason")), message.body)
        return letters

    def _settings(self) -> dict[str, str]:
        return {
            "BROKER__URL": self.url,
            "BROKER__NAMESPACE": self.namespace,
            "VICIDIAL__URL": self.dialer.url,
            "VICIDIAL__USER": DEFAULT_USER,
            "VICIDIAL__PASSWORD": DEFAULT_PASSWORD,
            "VICIDIAL__READY_WITHIN": READY_WITHIN,
            "SINK__URL": self.crm.url,
            "LOG__LEVEL": "debug",  # the table counts the look-ups
            "SINK__SIGNING_SECRET": self.secret,
            "RETRY__DELAYS": ",".join(RETRY_DELAYS),
            "HTTP__HOST": "127.0.0.1",
            "HTTP__PORT": "0",
            "DRAIN": "5s",
        }


async def _publish(exchange: AbstractExchange, message: Message) -> None:
    await exchange.publish(
        aio_pika.Message(
            message.body,
            content_type=message.content_type,
            message_id=message.message_id,
            headers=dict(message.headers),
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        ),
        message.routing_key,
        mandatory=True,
        timeout=_PUBLISH_WITHIN,
    )


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[AbstractConnection]:
    connection = await aio_pika.connect(
        url, timeout=_CONNECT_WITHIN, client_properties={"connection_name": "crm-sync demo"}
    )
    try:
        yield connection
    finally:
        with suppress(*_BROKER_ERRORS):
            async with asyncio.timeout(_CLOSE_WITHIN):
                await connection.close()


def _address(url: str) -> str:
    """Return host and port, without user and password."""
    return urlsplit(url).netloc.rpartition("@")[2]


def _in_tutorial_dialect(case: Case) -> str:
    function, name = ("callid_info", "call_id") if case.kind == "call" else ("agent_campaigns", "agent_user")
    asked = {"function": function, name: case.subject, "user": DEFAULT_USER, "pass": DEFAULT_PASSWORD}
    world = tutorial_world()
    return tutorial_answer(Question(asked, world, 0.0, 0.0, world.local_time), "|")
