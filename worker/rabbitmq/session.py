"""The sessions with the broker, one after the other: connect, declare, consume, drain, close, begin anew."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import aiormq
import structlog
from aio_pika.abc import AbstractConnection
from pydantic import SecretStr

from worker.core.errors import PublishError
from worker.rabbitmq.connection import (
    BROKER_ERRORS,
    SILENT,
    Nodes,
    address,
    addresses,
    connect,
    explain,
    is_being_cancelled,
    loss_named,
    node,
)
from worker.rabbitmq.consumer import Consumer, ConsumerFailedError, Observer
from worker.rabbitmq.fleet import Fleet
from worker.rabbitmq.publisher import PUBLISH_TIMEOUT, BrokerPublisher
from worker.rabbitmq.topology import Queue, Topology, declare, depths, differences, exists

FIRST_WAIT = 0.5
LONGEST_WAIT = 10.0
LONGEST_WAIT_ONCE_CONNECTED = 5.0
"""Seconds between two sessions; less if the broker does answer."""
COUNT_EVERY = 15.0
"""Seconds between two counts of the messages in the queues."""
LONG_ENOUGH = 30.0
"""Seconds of consuming after which a failure counts as the first one, not as one more in a row."""
DRAIN_WHEN_BROKEN = 5.0
"""Seconds for the events in work when the connection failed: some can still be settled."""

_log = structlog.get_logger()


class TopologyMismatchError(Exception):
    """The broker's topology differs from the settings, and only a person can change it."""

    def __init__(self, differences: list[str]) -> None:
        super().__init__("the broker's topology differs from the settings: " + "; ".join(differences))
        self.differences = differences


@dataclass
class BrokerState:
    """What is known of the connection from outside."""

    consuming: bool = False
    node: str | None = None
    """The host and port that it is connected to, or was last."""
    connections: int = 0
    last_error: str | None = None
    consumer: Consumer | None = None
    """The present one, or the last."""


class Supervisor:
    """Keeps the worker consuming, one session after the other.

    A connection that fails is not repaired: everything on it is dropped and opened anew, so there is one way
    into every state.
    """

    def __init__(  # noqa: PLR0913 - each is a part or a deadline of its own
        self,
        urls: Iterable[SecretStr],
        topology: Topology,
        publisher: BrokerPublisher,
        make_consumer: Callable[[], Consumer],
        drain: float,
        observer: Observer,
        *,
        fleet: Fleet | None = None,
        longest_wait_once_connected: float = LONGEST_WAIT_ONCE_CONNECTED,
        count_every: float = COUNT_EVERY,
    ) -> None:
        self._nodes = Nodes(urls, self._report_skipped)
        self._topology = topology
        self._publisher = publisher
        self._make_consumer = make_consumer
        self._drain = drain
        self._observer = observer
        self._fleet = fleet
        self._longest_wait_once_connected = longest_wait_once_connected
        self._count_every = count_every
        self._connected = False
        self._consumed_from: float | None = None
        self._failures = 0
        self.state = BrokerState()

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until `stop` is set, then drain. Any failure is followed by a new session, after a wait.

        Raises:
            TopologyMismatchError: no new session would help.
        """
        while not stop.is_set():
            self._consumed_from = None
            self._connected = False
            try:
                await self._run_session(stop)
            except asyncio.CancelledError:
                if is_being_cancelled():
                    raise
                await self._wait_out(ConnectionError(SILENT), stop)
            except TopologyMismatchError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, the broker has what was in work
                await self._wait_out(error, stop)

    async def _run_session(self, stop: asyncio.Event) -> None:
        async with (
            connect(self._nodes, "crm-sync consumer") as consuming,
            connect(self._nodes, "crm-sync publisher") as publishing,
        ):
            self._connected, self.state.node = True, node(consuming)
            fresh = not await exists(publishing, Queue(self._topology.board))
            await self._declare(publishing)
            _ = await self._publisher.attach(publishing)
            await self._until_it_takes_messages(stop)
            if stop.is_set():
                return
            consumer = self.state.consumer = self._make_consumer()
            counting = asyncio.create_task(self._count(consuming, consumer))
            publishing.close_callbacks.add(lambda _, error: consumer.fail(error))
            try:
                async with self._sharing(publishing, consumer, fresh=fresh):
                    await self._consume(consuming, consumer, stop)
            finally:
                self._publisher.detach()
                counting.cancel()

    async def _consume(self, connection: AbstractConnection, consumer: Consumer, stop: asyncio.Event) -> None:
        try:
            await consumer.start(connection)
            self._report_consuming()
            await _first(stop, consumer.failed)
        finally:
            self.state.consuming = False
            await consumer.stop(self._drain if stop.is_set() else min(self._drain, DRAIN_WHEN_BROKEN))

    @asynccontextmanager
    async def _sharing(
        self, connection: AbstractConnection, consumer: Consumer, *, fresh: bool
    ) -> AsyncIterator[None]:
        """Share the dialer with the other workers until the events in work have ended."""
        if self._fleet is None:
            yield
            return
        attending = asyncio.create_task(self._attend(self._fleet, connection, consumer, fresh=fresh))
        try:
            yield
        finally:
            attending.cancel()
            await asyncio.gather(attending, return_exceptions=True)
            await self._fleet.leave(connection)

    async def _attend(
        self, fleet: Fleet, connection: AbstractConnection, consumer: Consumer, *, fresh: bool
    ) -> None:
        try:
            await fleet.attend(connection, fresh=fresh)
        except Exception as error:  # noqa: BLE001 - a bug of ours: begin anew
            consumer.fail(error)

    async def _declare(self, connection: AbstractConnection) -> None:
        try:
            await declare(connection, self._topology)
        except aiormq.ChannelPreconditionFailed as error:
            found = await differences(connection, self._topology, missing=False)
            raise TopologyMismatchError(found or [str(error)]) from error

    async def _until_it_takes_messages(self, stop: asyncio.Event) -> None:
        """Consume nothing while an alarm blocks publishing: each try of a copy would count as a delivery."""
        probe = asyncio.ensure_future(self._publisher.probe(self._topology.work_exchange))
        loop = asyncio.get_running_loop()
        warning = loop.call_later(PUBLISH_TIMEOUT, _log.warning, "broker_blocks_publishing")
        try:
            await _first(stop, probe)
        finally:
            warning.cancel()
            probe.cancel()
            await asyncio.gather(probe, return_exceptions=True)

    def _report_consuming(self) -> None:
        self.state.consuming, self.state.connections = True, self.state.connections + 1
        self._consumed_from = asyncio.get_running_loop().time()
        if self.state.connections > 1:
            self._observer.reconnected()
        _log.info("consuming", broker=self.state.node, queues=list(self._topology.work_queues.values()))

    def _report_skipped(self, url: SecretStr, error: Exception) -> None:
        _log.warning("broker_node_unreachable", broker=address(url), error=explain(error))

    async def _count(self, connection: AbstractConnection, consumer: Consumer) -> None:
        """Report how many messages are in the queues for as long as this connection serves."""
        try:
            while True:
                with suppress(*BROKER_ERRORS), loss_named(connection):  # the consumer finds out more
                    self._observer.counted(await depths(connection, self._topology))
                if is_being_cancelled():
                    return
                await asyncio.sleep(self._count_every)
        except Exception as error:  # noqa: BLE001 - a bug of ours: begin anew
            consumer.fail(error)
        finally:
            self._observer.counted([])

    async def _wait_out(self, error: BaseException, stop: asyncio.Event) -> None:
        now = asyncio.get_running_loop().time()
        consumed_for = 0.0 if self._consumed_from is None else now - self._consumed_from
        self._failures = 1 if consumed_for >= LONG_ENOUGH else self._failures + 1
        longest = self._longest_wait_once_connected if self._connected else LONGEST_WAIT
        wait = backoff(self._failures, longest)
        self.state.last_error = self._describe(error)
        self._log_failure(error, wait)
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), wait)

    def _describe(self, error: BaseException) -> str:
        lost = aiormq.AMQPConnectionError | aiormq.exceptions.InvalidFrameError
        if self._connected and isinstance(error, lost):
            return f"the connection broke: {error}"
        return str(error) if isinstance(error, ConsumerFailedError) else explain(error)

    def _log_failure(self, error: BaseException, wait: float) -> None:
        if isinstance(error, ConsumerFailedError):
            return  # it has been logged
        if not isinstance(error, BROKER_ERRORS):
            _log.error("intake_failed", error_type=type(error).__name__, exc_info=error)
            return
        event = "broker_connection_lost" if self._connected else "broker_unreachable"
        _log.warning(
            "settling_failed" if isinstance(error, PublishError) else event,
            broker=self.state.node if self._connected else addresses(self._nodes.order),
            error=self.state.last_error,
            next_try_seconds=round(wait, 1),
        )


async def _first(stop: asyncio.Event, failed: asyncio.Future[None]) -> None:
    """Return at the stop, or raise the failure if that comes first."""
    stopping = asyncio.ensure_future(stop.wait())
    either: list[asyncio.Future[Any]] = [stopping, failed]
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
    if not stop.is_set():
        await failed


def backoff(failures: int, longest: float) -> float:
    """Return the seconds to wait after so many failures in a row: doubling, with jitter (half to whole)."""
    whole = min(FIRST_WAIT * 2.0 ** (failures - 1), longest)
    return whole * random.uniform(0.5, 1.0)  # noqa: S311 - spreads workers out, guards nothing
