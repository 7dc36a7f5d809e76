"""Connections to the broker, and the loop that keeps one: consume until it breaks, begin anew."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol
from urllib.parse import urlsplit

import aio_pika
import aiormq
import structlog
from aio_pika.abc import AbstractConnection
from pamqp.exceptions import PAMQPException
from pydantic import SecretStr
from yarl import URL

from worker.core.errors import PublishError
from worker.core.ports import Depth
from worker.rabbitmq import codec
from worker.rabbitmq.intake import Intake, IntakeFailedError
from worker.rabbitmq.publisher import PUBLISH_TIMEOUT, BrokerPublisher
from worker.rabbitmq.source import SILENT, is_being_cancelled
from worker.rabbitmq.topology import Topology, declare, depths, differences

CONNECT_TIMEOUT = 10.0
CLOSE_TIMEOUT = 5.0
HEARTBEAT = 6
"""Seconds, where the address names none. aiormq gives a silent connection up after (6 + 1) * 3 of them.

RabbitMQ's own proposal of 60 would leave a worker deaf for three minutes behind a network that drops packets;
its documentation finds 5 to 20 s right for most.
"""
FIRST_WAIT = 0.5
LONGEST_WAIT = 10.0
LONGEST_WAIT_ONCE_CONNECTED = 5.0
"""Seconds between two connections; less where the broker does answer."""
COUNT_EVERY = 15.0
"""Seconds until the messages in the queues are counted again."""
LONG_ENOUGH = 30.0
"""Seconds of consuming after which a break counts as the first one, not as one more in a row."""
DRAIN_WHEN_BROKEN = 5.0
"""Seconds for the events in work when the connection broke: some can still be settled."""

BROKER_ERRORS = (
    aiormq.AMQPError,
    aiormq.exceptions.ChannelInvalidStateError,
    PAMQPException,
    PublishError,
    OSError,
)
"""What a broken connection raises, depending on when it breaks. Anything else is a bug of ours."""

_TALKATIVE = ("aiormq.connection", "aiormq.channel")
"""Loggers that write a traceback for what `explain` says, or a whole message with its body."""

_log = structlog.get_logger()


class TopologyMismatchError(Exception):
    """What stands on the broker differs from the settings, and only a person can change it."""

    def __init__(self, differences: list[str]) -> None:
        """Take one line for each difference."""
        super().__init__("the broker's topology differs from the settings: " + "; ".join(differences))
        self.differences = differences


@asynccontextmanager
async def connect(url: SecretStr, name: str) -> AsyncIterator[AbstractConnection]:
    """Open one connection, shown on the broker under this name; closed at the end, within a deadline.

    Raises one of `BROKER_ERRORS`.
    """
    codec.install()
    for talkative in _TALKATIVE:
        logging.getLogger(talkative).setLevel(logging.CRITICAL)
    where = URL(url.get_secret_value())
    if "heartbeat" not in where.query:
        where = where.update_query(heartbeat=HEARTBEAT)
    connection = aio_pika.Connection(where, client_properties={"connection_name": name})
    try:
        try:
            await connection.connect(CONNECT_TIMEOUT)
        except StopAsyncIteration as error:  # aiormq's, if the broker closed before the client read a word
            raise ConnectionError("the connection was closed during the handshake") from error
        with _loss_named(connection):
            yield connection
    finally:
        await _close(connection)


@contextmanager
def _loss_named(connection: AbstractConnection) -> Iterator[None]:
    """Turn the `RuntimeError` that a library raises for a connection that is gone into `ConnectionError`."""
    try:
        yield
    except RuntimeError as error:
        transport = connection.transport
        if transport is not None and not transport.connection.is_closed:
            raise
        raise ConnectionError("the connection was lost") from error


async def _close(connection: AbstractConnection) -> None:
    """Close, within a deadline, also what was never quite open.

    aio-pika closes what is left unclosed when it is collected: in a thread without a loop, that is an error.
    """
    try:
        with suppress(*BROKER_ERRORS):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await connection.close()
    finally:
        await connection.close()  # where the first was cut short; without a transport it only says "closed"


def address(url: SecretStr) -> str:
    """Give the broker's host and port, for a person; without user and password."""
    parts = urlsplit(url.get_secret_value())
    try:
        port = parts.port
    except ValueError:
        port = None
    return f"{parts.hostname}:{port or (5671 if parts.scheme == 'amqps' else 5672)}"


@dataclass
class BrokerState:
    """What is to be known of the connection from outside."""

    consuming: bool = False
    connections: int = 0
    last_error: str | None = None
    intake: Intake | None = None

    @property
    def in_flight(self) -> int:
        """How many messages are at work."""
        return self.intake.in_flight if self.intake is not None else 0


class Observer(Protocol):
    """Who is told of the connection."""

    def reconnected(self) -> None:
        """Take note that it consumes again after a connection broke."""
        ...

    def counted(self, depths: Sequence[Depth]) -> None:
        """Take note of what waits in the queues; nothing, where that is not known any more."""
        ...


class Supervisor:
    """Keeps the worker consuming, one connection after the other.

    A connection that breaks is not mended: everything on it is dropped and
    opened anew, so there is one way into every state.
    """

    def __init__(
        self,
        url: SecretStr,
        topology: Topology,
        publisher: BrokerPublisher,
        make_intake: Callable[[], Intake],
        drain: float,
        observer: Observer,
    ) -> None:
        """Take who publishes, how to make the intake of each new connection, and who is told of it."""
        self._url = url
        self._topology = topology
        self._publisher = publisher
        self._make_intake = make_intake
        self._drain = drain
        self._observer = observer
        self._connected = False
        self._consumed_from: float | None = None
        self._failures = 0
        self.state = BrokerState()

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until `stop` is set, then drain.

        Returns after a stop only. Raises `TopologyMismatchError`, which no
        retry would mend; every other trouble is waited out, a bug of ours too.
        """
        while not stop.is_set():
            self._consumed_from = None
            self._connected = False
            try:
                await self._consume_until(stop)
            except asyncio.CancelledError:
                if is_being_cancelled():
                    raise
                await self._wait_out(ConnectionError(SILENT), stop)
            except TopologyMismatchError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, the broker has what was in work
                await self._wait_out(error, stop)

    def _consumed_long_enough(self) -> bool:
        now = asyncio.get_running_loop().time()
        return self._consumed_from is not None and now - self._consumed_from >= LONG_ENOUGH

    async def _wait_out(self, error: BaseException, stop: asyncio.Event) -> None:
        self._failures = 1 if self._consumed_long_enough() else self._failures + 1
        wait = backoff(self._failures, LONGEST_WAIT_ONCE_CONNECTED if self._connected else LONGEST_WAIT)
        lost = self._connected and isinstance(
            error, aiormq.AMQPConnectionError | aiormq.exceptions.InvalidFrameError
        )
        self.state.last_error = f"the connection broke: {error}" if lost else explain(error)
        self._report(error, wait)
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), wait)

    def _report(self, error: BaseException, wait: float) -> None:
        if isinstance(error, IntakeFailedError):
            return  # it has been logged
        if not isinstance(error, BROKER_ERRORS):
            _log.error("intake_failed", error_type=type(error).__name__, exc_info=error)
            return
        event = "broker_connection_lost" if self._connected else "broker_unreachable"
        _log.warning(
            "settling_failed" if isinstance(error, PublishError) else event,
            broker=address(self._url),
            error=self.state.last_error,
            next_try_seconds=round(wait, 1),
        )

    async def _consume_until(self, stop: asyncio.Event) -> None:
        async with (
            connect(self._url, "crm-sync consumer") as consuming,
            connect(self._url, "crm-sync publisher") as publishing,
        ):
            self._connected = True
            await self._declare(publishing)
            _ = await self._publisher.attach(publishing)
            await self._until_it_takes_messages(stop)
            if stop.is_set():
                return
            intake = self.state.intake = self._make_intake()
            counting = asyncio.create_task(self._count(consuming))
            counting.add_done_callback(partial(_break_off_if_failed, intake))
            publishing.close_callbacks.add(lambda _, error: intake.fail(error))
            try:
                await intake.start(consuming)
                self.state.consuming, self.state.connections = True, self.state.connections + 1
                self._consumed_from = asyncio.get_running_loop().time()
                if self.state.connections > 1:
                    self._observer.reconnected()
                _log.info(
                    "consuming", broker=address(self._url), queues=list(self._topology.work_queues.values())
                )
                await _first(stop, intake.failed)
            finally:
                self.state.consuming = False
                await intake.stop(self._drain if stop.is_set() else min(self._drain, DRAIN_WHEN_BROKEN))
                self._publisher.detach()
                counting.cancel()

    async def _until_it_takes_messages(self, stop: asyncio.Event) -> None:
        """Take in nothing while an alarm keeps the broker from taking copies: each try would count as one."""
        probe = asyncio.ensure_future(self._publisher.probe(self._topology.work_exchange))
        loop = asyncio.get_running_loop()
        warning = loop.call_later(PUBLISH_TIMEOUT, _log.warning, "broker_blocks_publishing")
        try:
            await _first(stop, probe)
        finally:
            warning.cancel()
            probe.cancel()
            await asyncio.gather(probe, return_exceptions=True)

    async def _count(self, connection: AbstractConnection) -> None:
        """Tell what waits in the queues for as long as this connection serves."""
        try:
            while True:
                with suppress(*BROKER_ERRORS), _loss_named(connection):  # whoever consumes finds out more
                    self._observer.counted(await depths(connection, self._topology))
                await asyncio.sleep(COUNT_EVERY)
        finally:
            self._observer.counted([])

    async def _declare(self, connection: AbstractConnection) -> None:
        try:
            await declare(connection, self._topology)
        except aiormq.ChannelPreconditionFailed as error:
            found = await differences(connection, self._topology, missing=False)
            raise TopologyMismatchError(found or [str(error)]) from error


def _break_off_if_failed(intake: Intake, task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        intake.fail(error)


async def _first(stop: asyncio.Event, failed: asyncio.Future[None]) -> None:
    """Wait for the stop, or raise what broke."""
    stopping = asyncio.ensure_future(stop.wait())
    either: list[asyncio.Future[Any]] = [stopping, failed]
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
    if not stop.is_set():
        await failed


def backoff(failures: int, longest: float) -> float:
    """Give the seconds to wait after so many failures in a row: doubling, with jitter (half to whole)."""
    whole = min(FIRST_WAIT * 2.0 ** (failures - 1), longest)
    return whole * random.uniform(0.5, 1.0)  # noqa: S311 - spreads workers out, guards nothing


def explain(error: BaseException) -> str:
    """Say what a broken connection means, for a person; without the address, which holds the password."""
    if isinstance(
        error, aiormq.exceptions.ProbableAuthenticationError | aiormq.exceptions.AuthenticationError
    ):
        return "the broker refused the login; check user, password and virtual host in broker.url"
    if isinstance(error, aiormq.exceptions.InvalidFrameError):  # `Close` instead of `OpenOk`
        return "the broker refused the connection; check the virtual host in broker.url"
    if type(error) is aiormq.exceptions.AMQPConnectionError:  # while connecting; it is a ConnectionError too
        return f"the broker can't be reached ({error.strerror or error}); check broker.url and the network"
    if isinstance(error, aiormq.exceptions.AMQPConnectionError | OSError | TimeoutError) and not isinstance(
        error, ConnectionError | PublishError
    ):
        return f"the broker can't be reached ({type(error).__name__}); check broker.url and the network"
    if not isinstance(error, (*BROKER_ERRORS, IntakeFailedError)):
        return f"unexpected {type(error).__name__}; the log has the traceback"
    return str(error) or type(error).__name__
