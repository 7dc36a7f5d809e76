"""One connection to the broker, and what its errors mean."""

import asyncio
from collections.abc import AsyncIterator, Iterator
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
CLOSE_TIMEOUT = 5.0
HEARTBEAT = 6
"""Seconds, if the address names none. aiormq gives a silent connection up after (6 + 1) * 3 of them.

RabbitMQ's own proposal of 60 would leave a worker deaf for three minutes behind a network that drops packets;
its documentation finds 5 to 20 s right for most.
"""
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


@asynccontextmanager
async def connect(url: SecretStr, name: str) -> AsyncIterator[AbstractConnection]:
    """Open one connection, shown on the broker under this name; closed at the end, within a deadline.

    Raises one of `BROKER_ERRORS`. From then on pamqp reads messages with `codec`, in the whole process.
    """
    codec.install()
    target = URL(url.get_secret_value())
    if "heartbeat" not in target.query:
        target = target.update_query(heartbeat=HEARTBEAT)
    connection = aio_pika.Connection(target, client_properties={"connection_name": name})
    try:
        try:
            await connection.connect(CONNECT_TIMEOUT)
        except StopAsyncIteration as error:  # aiormq's, if the broker closed before the client read a word
            raise ConnectionError("the connection was closed during the handshake") from error
        with loss_named(connection):
            yield connection
    finally:
        await _close(connection)


@contextmanager
def loss_named(connection: AbstractConnection) -> Iterator[None]:
    """Turn the `RuntimeError` that a library raises for a connection that is gone into `ConnectionError`."""
    try:
        yield
    except RuntimeError as error:
        transport = connection.transport
        if transport is not None and not transport.connection.is_closed:
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

    If not, a `CancelledError` is aiormq's: it cancels what waits on a connection that fell silent.
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
