"""What the system tests stand on leaves nothing behind for which another test would have to pay."""

import asyncio
import gc
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

import aio_pika
import pytest
from aio_pika.abc import AbstractConnection

from tests.adapters.raw import Connection, RawServer, closed_port, until
from tests.system.chaos.proxy import Proxy
from tests.system.harness import connect

NEVER_AWAITED = "coroutine 'Connection.close' was never awaited"

Connect = Callable[..., Awaitable[AbstractConnection]]


@pytest.fixture(autouse=True)
def _no_log_that_keeps_the_errors(caplog: pytest.LogCaptureFixture) -> None:
    """With an error, its traceback is kept, and with that the connection."""
    caplog.set_level(logging.CRITICAL, "aiormq.connection")


@pytest.fixture
async def silent() -> AsyncIterator[RawServer]:
    """Give a server that takes connections and says nothing."""

    async def serve(connection: Connection) -> None:
        await connection.gone()

    async with RawServer(serve) as server:
        yield server


async def left_by(failing: Awaitable[object]) -> list[str]:
    """Let it fail, collect what is left of it in a thread without a loop, and give what is said there."""
    errors, said, others = list[BaseException](), list[str](), asyncio.all_tasks()
    try:
        await failing
    except (OSError, asyncio.CancelledError) as error:
        errors.append(error)  # its traceback keeps what is left until the thread lets go of it
    assert len(errors) == 1, "it was to fail"
    await until(lambda: asyncio.all_tasks() <= others)  # those of the libraries keep it too

    def collect() -> None:
        errors.clear()
        gc.collect()

    before, sys.unraisablehook = sys.unraisablehook, lambda it: said.append(str(it.exc_value))
    try:
        await asyncio.to_thread(collect)
    finally:
        sys.unraisablehook = before
    return said


async def refused(connect: Connect, _: RawServer) -> None:
    await connect(f"amqp://guest:guest@127.0.0.1:{closed_port()}/")


async def out_of_time(connect: Connect, silent: RawServer) -> None:
    await connect(f"amqp://guest:guest@127.0.0.1:{silent.port}/", timeout=0.1)


async def cancelled(connect: Connect, silent: RawServer) -> None:
    task = asyncio.ensure_future(connect(f"amqp://guest:guest@127.0.0.1:{silent.port}/"))
    await until(lambda: silent.connections == 1)
    task.cancel()
    await task


@pytest.mark.parametrize("fails", [refused, out_of_time, cancelled])
class TestConnectingThatFails:
    async def test_it_leaves_nothing(
        self, fails: Callable[[Connect, RawServer], Awaitable[None]], silent: RawServer
    ) -> None:
        assert await left_by(fails(connect, silent)) == []

    async def test_aio_pikas_own_does(
        self, fails: Callable[[Connect, RawServer], Awaitable[None]], silent: RawServer
    ) -> None:
        """Where this fails the harness may do without its own `connect`."""
        assert await left_by(fails(aio_pika.connect, silent)) == [NEVER_AWAITED]


@pytest.mark.broker
class TestClosingThatIsInterrupted:
    async def test_it_leaves_nothing(self, broker_url: str) -> None:
        assert await left_by(interrupted(connect, broker_url)) == []

    async def test_aio_pikas_own_does(self, broker_url: str) -> None:
        assert await left_by(interrupted(aio_pika.connect, broker_url)) == [NEVER_AWAITED]


async def interrupted(connect: Connect, broker_url: str) -> None:
    proxy = Proxy(int(broker_url.rstrip("/").rpartition(":")[2]))
    await proxy.open()
    try:
        connection = await connect(f"amqp://guest:guest@127.0.0.1:{proxy.port}/")
        proxy.stall()
        async with asyncio.timeout(0.1):
            await connection.close()
    finally:
        await proxy.refuse()
