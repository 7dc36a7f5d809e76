"""One connection to the broker, to one of its nodes, and what its errors mean."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from urllib.parse import urlsplit

import aio_pika
import aiormq
from aio_pika.abc import AbstractConnection
from pamqp.exceptions import PAMQPException
from pydantic import SecretStr
from yarl import URL

from worker.core.errors import PublishError
from worker.rabbitmq import codec

CONNECT_TIMEOUT = 10.0
"""Seconds until a broker that has a single address must be connected to."""
NEXT_AFTER = 3.0
"""Seconds until the next of several addresses is tried."""
CLOSE_TIMEOUT = 5.0
HEARTBEAT = 5
"""Seconds, if the address names none. It decides how long a node that hangs holds the worker up.

Both sides send a heartbeat after half of it. RabbitMQ gives a silent connection up after two to three times
5 s (`rabbit_heartbeat.erl`), aiormq after `(HEARTBEAT + 1) * SILENT_HEARTBEATS`, 6 s, and looks every 2 s.
Less than 5 s gives up connections that are only slow (https://www.rabbitmq.com/docs/heartbeats).
"""
SILENT_HEARTBEATS = 1
"""aiormq's own 3 would find a silent connection dead only after 18 s."""
SILENT = "the broker fell silent: no heartbeat came"

BROKER_ERRORS = (
    aiormq.AMQPError,
    aiormq.exceptions.ChannelInvalidStateError,
    PAMQPException,
    PublishError,
    OSError,
)
"""What a failed connection raises, depending on when it fails. Anything else is a bug of ours.

`OSError` covers `TimeoutError`, of an answer that does not come. See `loss_named` for `RuntimeError`.
"""


class NoNodeError(ConnectionError):
    """None of several addresses can be connected to; the message says why, for each."""

    def __init__(self, failures: Sequence[tuple[SecretStr, Exception]]) -> None:
        reasons = [f"{address(url)}: {explain(error)}" for url, error in failures]
        super().__init__(f"none of its nodes can be used; {'; '.join(reasons)}")


class Nodes:
    """The addresses of a broker's nodes, in the order in which to try them.

    The first is the one that worked last; one that fails goes to the end.
    """

    def __init__(
        self, urls: Iterable[SecretStr], on_skip: Callable[[SecretStr, Exception], None] = lambda *_: None
    ) -> None:
        """Use these addresses, at least one; `on_skip` is called with each that failed before one worked."""
        self._order = list(urls)
        self.on_skip = on_skip

    @property
    def order(self) -> tuple[SecretStr, ...]:
        """The addresses, the next one to try first."""
        return tuple(self._order)

    def failed(self, url: SecretStr) -> None:
        """Put an address to the end, unless another one has taken its place already."""
        if self._order[0] is url:
            self._order.append(self._order.pop(0))


@asynccontextmanager
async def connect(nodes: Nodes, name: str) -> AsyncIterator[aio_pika.Connection]:
    """Open one connection, shown on the broker under this name; closed at the end, within a deadline.

    The nodes are tried in turn, each once. Raises one of `BROKER_ERRORS`; if there are several nodes and none
    can be used, `NoNodeError`. From then on pamqp reads messages with `codec`, in the whole process.
    """
    url, connection = await _open_first(nodes, name)
    try:
        with loss_named(connection):
            yield connection
    except BaseException as error:
        if _is_gone(connection) or isinstance(error, TimeoutError):
            nodes.failed(url)
        raise
    finally:
        await _close(connection)


async def _open_first(nodes: Nodes, name: str) -> tuple[SecretStr, aio_pika.Connection]:
    """Connect to the first node that can be connected to."""
    if len(nodes.order) == 1:
        return nodes.order[0], await _open(nodes.order[0], name, CONNECT_TIMEOUT)
    failures: list[tuple[SecretStr, Exception]] = []
    for url in nodes.order:
        try:
            connection = await _open(url, name, NEXT_AFTER)
        except BROKER_ERRORS as error:
            nodes.failed(url)
            failures.append((url, error))
        else:
            for skipped in failures:
                nodes.on_skip(*skipped)
            return url, connection
    raise NoNodeError(failures)


async def _open(url: SecretStr, name: str, within: float) -> aio_pika.Connection:
    codec.install()
    aiormq.Connection.HEARTBEAT_GRACE_MULTIPLIER = SILENT_HEARTBEATS
    target = URL(url.get_secret_value())
    if "heartbeat" not in target.query:
        target = target.update_query(heartbeat=HEARTBEAT)
    connection = aio_pika.Connection(target, client_properties={"connection_name": name})
    try:
        await connection.connect(within)
    except BaseException as error:
        await _close(connection)
        if isinstance(
            error, StopAsyncIteration
        ):  # aiormq's, if the broker closed before the client read a word
            raise ConnectionError("the connection was closed during the handshake") from error
        raise
    return connection


def _is_gone(connection: AbstractConnection) -> bool:
    """Return whether a connection that was open has ended."""
    return connection.transport is None or connection.transport.connection.is_closed


@contextmanager
def loss_named(connection: AbstractConnection) -> Iterator[None]:
    """Turn the `RuntimeError` that a library raises for a connection that is gone into `ConnectionError`."""
    try:
        yield
    except RuntimeError as error:
        if not _is_gone(connection):
            raise
        raise ConnectionError("the connection was lost") from error


async def _close(connection: AbstractConnection) -> None:
    """Close, within a deadline, even what was never fully open.

    aio-pika closes what is left unclosed when it is collected: in a thread without a loop, that is an error.
    """
    try:
        with suppress(*BROKER_ERRORS):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await connection.close()
    finally:
        await connection.close()  # if the first was cut short; without a transport it only says "closed"


def is_being_cancelled() -> bool:
    """Return whether somebody cancels this task.

    If not, a `CancelledError` is aiormq's: it cancels what waits on a connection that fell silent. Before
    Python 3.12, `asyncio.wait_for` returns a result that comes together with the cancellation, and aiormq
    uses it: a loop that asks the broker has to look here, or it goes on after it was cancelled.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def address(url: SecretStr) -> str:
    """Return the broker's host and port, without user and password, for a person."""
    parts = urlsplit(url.get_secret_value())
    try:
        port = parts.port
    except ValueError:
        port = None
    return f"{parts.hostname}:{port or (5671 if parts.scheme == 'amqps' else 5672)}"


def addresses(urls: Iterable[SecretStr]) -> str:
    """Return the host and port of each of a broker's nodes, for a person."""
    return ", ".join(map(address, urls))


def node(connection: aio_pika.Connection) -> str:
    """Return the host and port of the node that a connection goes to, for a person."""
    return address(SecretStr(str(connection.url)))


def explain(error: BaseException) -> str:
    """Return what a failed connection means, for a person; without the address, which holds the password."""
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
    if not isinstance(error, BROKER_ERRORS):
        return f"unexpected {type(error).__name__}; the log has the traceback"
    return str(error) or type(error).__name__
