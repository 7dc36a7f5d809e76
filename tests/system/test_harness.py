"""What the system tests stand on leaves nothing behind for which another test would have to pay."""

import asyncio
import gc
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import aio_pika
import pytest
from aio_pika.abc import AbstractConnection

from tests.adapters.raw import Connection, RawServer, closed_port, until
from tests.system.chaos.proxy import Proxy
from tests.system.harness import Unfinished, bounded, connect, eventually, first_line

NEVER_AWAITED = "coroutine 'Connection.close' was never awaited"

Connect = Callable[..., Awaitable[AbstractConnection]]


@pytest.fixture(autouse=True)
def _no_log_that_keeps_the_errors(caplog: pytest.LogCaptureFixture) -> None:
    """With an error, its traceback is kept, and with that the connection."""
    caplog.set_level(logging.CRITICAL, "aiormq.connection")


@pytest.fixture
async def silent() -> AsyncIterator[RawServer]:
    """Yield a server that takes connections and says nothing."""

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


class TestDeadlines:
    """They hold for whatever swallows its cancellation, as what asks a broker does."""

    async def test_a_condition_that_swallows_it(self) -> None:
        async def never() -> bool:
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            return False

        with pytest.raises(TimeoutError):
            await bounded(eventually(never, 0.1), 30)

    async def test_work_that_swallows_it_and_goes_on(self) -> None:
        swallowed = 0

        async def work() -> None:
            nonlocal swallowed
            while swallowed < 3:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    swallowed += 1

        with pytest.raises(
            Unfinished, match=r"not done within 0\.1 s; it stood at test_harness\.py:\d+ work"
        ):
            await bounded(work(), 0.1)
        assert swallowed == 3

    async def test_work_that_ends_with_a_cancellation_of_its_own(self) -> None:
        """A library's future that was cancelled must not end whoever plays the next scenario."""

        async def work() -> None:
            future = asyncio.get_running_loop().create_future()
            future.cancel()
            await future

        with pytest.raises(Unfinished, match="cancelled, and not from outside"):
            await bounded(work(), 30)

    async def test_what_is_in_time_returns_or_raises(self) -> None:
        async def work(*, fail: bool) -> int:
            if fail:
                raise OSError("no room")
            return 3

        assert await bounded(work(fail=False), 30) == 3
        with pytest.raises(OSError, match="no room"):
            await bounded(work(fail=True), 30)

    def test_a_program_that_says_nothing_is_ended(self) -> None:
        command = [sys.executable, "-c", "import time; time.sleep(600)"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert first_line(process, 0.1) == b""
            assert process.poll() is not None
