"""A connection that is kept to publish events through, and what is known of it."""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

import structlog
from aio_pika.abc import AbstractConnection
from pydantic import SecretStr

from worker.core.errors import PublishError
from worker.core.ports import Outgoing
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
from worker.rabbitmq.publisher import BrokerPublisher
from worker.rabbitmq.session import LONGEST_WAIT_ONCE_CONNECTED, backoff
from worker.rabbitmq.topology import Exchange, exists

_log = structlog.get_logger()


class Feed:
    """Publishes events to one exchange. It outlives connections: between two of them a publish fails at once.

    `available` is set while the broker takes messages for the exchange, as far as is known.
    """

    def __init__(
        self,
        urls: Iterable[SecretStr],
        exchange: str,
        *,
        longest_wait: float = LONGEST_WAIT_ONCE_CONNECTED,
    ) -> None:
        self._nodes = Nodes(urls, _report_skipped)
        self._exchange = exchange
        self._longest_wait = longest_wait
        self._publisher = BrokerPublisher()
        self._connection: AbstractConnection | None = None
        self._failures = 0
        self.available = asyncio.Event()
        self.last_error: str | None = None

    async def publish(self, message: Outgoing) -> None:
        """Publish an event with its type as the routing key; returning means routed and confirmed.

        Raises `PublishError` otherwise.
        """
        with _silence_named():
            await self._publisher.publish(self._exchange, message.type or "", message)

    async def renew(self) -> None:
        """Publish through another channel from now on; what is unconfirmed on the present one fails."""
        with suppress(PublishError), _silence_named():
            await self._publisher.renew()

    async def check(self) -> None:
        """Ask the broker for the exchange, without publishing. Raises `PublishError` if that fails."""
        if self._connection is None or not self.available.is_set():
            raise PublishError(self.last_error or "there is no connection to the broker")
        try:
            with loss_named(self._connection), _silence_named():
                await self._look_for_exchange(self._connection)
        except BROKER_ERRORS as error:
            raise PublishError(explain(error)) from error

    async def run(self) -> None:
        """Keep the connection until cancelled. Any failure is followed by a new one, after a wait."""
        while not is_being_cancelled():
            self._connection = None
            try:
                await self._run_session()
            except asyncio.CancelledError:
                if is_being_cancelled():
                    raise
                await self._wait_out(ConnectionError(SILENT))
            except Exception as error:  # noqa: BLE001 - whatever it is, the events are in the spool
                await self._wait_out(error)

    async def _run_session(self) -> None:
        async with connect(self._nodes, "crm-sync intake") as connection:
            self._connection = connection
            closed = _closing(connection)
            try:
                await self._look_for_exchange(connection)
                _ = await self._publisher.attach(connection)
                if is_being_cancelled():
                    return
                self._failures, self.last_error = 0, None
                self.available.set()
                _log.info("feeding", broker=node(connection), exchange=self._exchange)
                await closed
            finally:
                self.available.clear()
                self._publisher.detach()
                closed.cancel()

    async def _look_for_exchange(self, connection: AbstractConnection) -> None:
        """Raise `PublishError` if there is no such exchange: producers may own it, so it is not declared."""
        if not await exists(connection, Exchange(self._exchange, "topic")):
            raise PublishError(
                f"there is no exchange {self._exchange}; start a worker or run crm-sync topology"
            )

    async def _wait_out(self, error: BaseException) -> None:
        self._failures += 1
        wait = backoff(self._failures, self._longest_wait)
        self.last_error = explain(error)
        if not isinstance(error, BROKER_ERRORS):
            _log.error("feed_failed", error_type=type(error).__name__, exc_info=error)
        elif isinstance(error, PublishError):
            _log.warning(
                "broker_takes_nothing",
                broker=addresses(self._nodes.order),
                error=self.last_error,
                next_try_seconds=round(wait, 1),
            )
        else:
            _log.warning(
                "broker_connection_lost" if self._connection is not None else "broker_unreachable",
                broker=addresses(self._nodes.order),
                error=self.last_error,
                next_try_seconds=round(wait, 1),
            )
        await asyncio.sleep(wait)


@contextmanager
def _silence_named() -> Iterator[None]:
    """Turn the cancellation by which aiormq ends what waits for a silent broker into `PublishError`."""
    try:
        yield
    except asyncio.CancelledError:
        if is_being_cancelled():
            raise
        raise PublishError(SILENT) from None


def _report_skipped(url: SecretStr, error: Exception) -> None:
    """Log a node that could not be used, now that another one can."""
    _log.warning("broker_node_unreachable", broker=address(url), error=explain(error))


def _closing(connection: AbstractConnection) -> asyncio.Future[None]:
    """Return a future that fails when the connection closes."""
    closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_close(_: object, error: BaseException | None) -> None:
        if not closed.done():
            closed.set_exception(ConnectionError("the connection was lost") if error is None else error)
            with suppress(asyncio.CancelledError):
                closed.exception()  # it may be that nobody waits for it any more

    connection.close_callbacks.add(on_close)
    return closed
