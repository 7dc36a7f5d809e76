"""The private broker is a broker, keeps what is durable, and leaves nothing behind."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import aio_pika
import psutil
import pytest

from simulators import broker as broker_module
from simulators.broker import (
    BrokerError,
    BrokerStartError,
    NoBrokerError,
    PrivateBroker,
    find_broker,
    find_server,
    services_stay_stopped,
)

pytestmark = [pytest.mark.verify, pytest.mark.timeout(400)]  # several nodes are started

needs_server = pytest.mark.skipif(
    find_server() is None and "CI" not in os.environ, reason="rabbitmq-server is not installed here"
)


def processes_of(folder: Path) -> list[int]:
    """Find what still runs in, or with a file of, a broker's folder; a zombie runs no more."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.cwd().startswith(str(folder)):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def until(condition: Callable[[], bool], within: float = 10) -> None:
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 - a process announces nothing
            await asyncio.sleep(0.02)


async def publish(url: str, body: bytes) -> None:
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        await channel.declare_queue("kept", durable=True, arguments={"x-queue-type": "quorum"})
        message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await channel.default_exchange.publish(message, "kept", timeout=10)


async def take(url: str) -> bytes:
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        queue = await channel.get_queue("kept")
        async with asyncio.timeout(20):
            while (message := await queue.get(fail=False)) is None:  # noqa: ASYNC110 - as `basic.get` is
                await asyncio.sleep(0.05)
        await message.ack()
        return message.body


@needs_server
@pytest.mark.broker
async def test_it_serves_and_keeps_durable_messages_and_leaves_nothing_behind() -> None:
    server = find_server()
    assert server is not None
    async with await PrivateBroker.start(server) as broker:
        url, folder = broker.url, broker.folder
        assert len(processes_of(folder)) >= 2  # the node and its port mapper
        await publish(url, b"over a restart")
        await broker.restart()
        assert broker.url == url
        assert await take(url) == b"over a restart"

        await publish(url, b"over a kill")
        await broker.kill()
        assert broker.pid is None
        with pytest.raises(OSError):  # noqa: PT011 - the refusal is the system's own
            await asyncio.open_connection("127.0.0.1", broker.port)
        await broker.resume()
        assert await take(url) == b"over a kill"

        assert "kept" in await broker.ctl("list_queues", "name")
        with pytest.raises(BrokerError, match="no_such_command"):
            await broker.ctl("no_such_command")
    assert not folder.exists()
    await until(lambda: not processes_of(folder))
    with pytest.raises(BrokerError, match="stopped"):
        await broker.resume()
    await broker.stop()  # a second time is harmless


@needs_server
@pytest.mark.broker
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("when", ["starting", "running"])
async def test_whatever_ends_the_program_nothing_is_left(
    number: signal.Signals, when: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "simulators.broker"]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    assert process.stdout is not None
    try:
        if when == "running":
            line = json.loads(await asyncio.wait_for(process.stdout.readline(), 60))
            assert line["pid"] in processes_of(tmp_path)
        else:
            await until(lambda: len(processes_of(tmp_path)) > 1, 30)
        process.send_signal(number)
        expected = -signal.SIGKILL if number == signal.SIGKILL else 0
        assert await asyncio.wait_for(process.wait(), 20) == expected
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    await until(lambda: not processes_of(tmp_path) and not names_in(tmp_path))


async def test_a_node_that_cannot_start_shows_why_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("simulators.broker_node.find_epmd", lambda: str(fake(tmp_path / "epmd", LISTEN)))
    server = fake(tmp_path / "rabbitmq-server", "#!/bin/sh\necho no such cookie\nexit 3\n")
    with pytest.raises(BrokerStartError, match=r"(?s)status 3.*no such cookie"):
        await PrivateBroker.start(server)
    await until(lambda: not processes_of(tmp_path))
    assert names_in(tmp_path) == ["epmd", "rabbitmq-server"]


LISTEN = f"""#!{sys.executable}
import socket, sys, time
listener = socket.create_server(("127.0.0.1", int(sys.argv[2])))
time.sleep(60)
"""


def fake(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


class Machine:
    """A machine with nothing on it, of which each test adds something."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.said: list[str] = []
        self.server: Path | None = None
        self.may_install = False
        self.install_fails = False
        self.engine: str | None = None
        monkeypatch.setattr(broker_module, "find_server", lambda: self.server)
        monkeypatch.setattr(broker_module, "can_install", lambda: self.may_install)
        monkeypatch.setattr(broker_module, "install_server", self.install)
        monkeypatch.setattr(broker_module, "find_container_engine", self.find_engine)
        monkeypatch.setattr(broker_module, "container_broker", self.container)
        monkeypatch.setattr(broker_module.PrivateBroker, "start", self.start)

    async def install(self, say: Callable[[str], None]) -> None:
        say("installing")
        if self.install_fails:
            raise BrokerError("no network")
        self.server = Path("/installed")

    async def find_engine(self) -> str | None:
        return self.engine

    @asynccontextmanager
    async def container(self, engine: str, say: Callable[[str], None]) -> AsyncIterator[str]:
        say("container")
        yield f"amqp://{engine}/"

    async def start(self, binary: Path) -> "Machine":
        self.url = f"amqp://private{binary}/"
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.said.append("stopped")

    async def search(self, url: str | None = None) -> str:
        async with find_broker(url, self.said.append) as found:
            return found


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


async def test_a_given_address_is_taken_as_it_is(machine: Machine) -> None:
    assert await machine.search("amqp://there/") == "amqp://there/"
    assert machine.said == []


async def test_an_installed_server_comes_first(machine: Machine) -> None:
    machine.server, machine.may_install, machine.engine = Path("/here"), True, "docker"
    assert await machine.search() == "amqp://private/here/"
    assert machine.said == ["stopped"]


async def test_then_one_is_installed_where_that_is_allowed(machine: Machine) -> None:
    machine.may_install, machine.engine = True, "docker"
    assert await machine.search() == "amqp://private/installed/"
    assert machine.said == ["installing", "stopped"]


async def test_then_a_container_is_run(machine: Machine) -> None:
    machine.may_install = machine.install_fails = True
    machine.engine = "docker"
    assert await machine.search() == "amqp://docker/"
    assert machine.said[0] == "installing"
    assert "no network" in machine.said[1]
    assert machine.said[2] == "container"


async def test_with_nothing_at_all_the_error_says_what_to_do(machine: Machine) -> None:
    with pytest.raises(NoBrokerError, match="Install it"):
        await machine.search()


def test_services_are_kept_from_starting_only_while_installing(tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    with services_stay_stopped(policy):
        assert subprocess.run([str(policy)], check=False).returncode == 101
    assert not policy.exists()


def test_a_policy_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    policy.write_text("theirs")
    with services_stay_stopped(policy):
        assert policy.read_text() == "theirs"
    assert policy.read_text() == "theirs"


DOCKER = """#!/bin/sh
echo "$@" >> "$(dirname "$0")/said"
"""


async def test_a_container_is_stopped_by_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ready(port: int) -> bool:
        return True

    monkeypatch.setattr(broker_module, "speaks_amqp", ready)
    engine = fake(tmp_path / "docker", DOCKER)
    async with broker_module.container_broker(str(engine), lambda _: None) as url:
        assert url.startswith("amqp://guest:guest@127.0.0.1:")
    run, stop = (tmp_path / "said").read_text().splitlines()
    name = run.split("--name ")[1].split()[0]
    assert name.startswith("crm-sync-")
    assert run.endswith(":5672 rabbitmq:4")
    assert stop == f"stop --time 5 {name}"


async def test_an_engine_that_does_not_answer_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert await broker_module.find_container_engine() is None
    fake(tmp_path / "docker", "#!/bin/sh\nexit 1\n")
    podman = fake(tmp_path / "podman", "#!/bin/sh\nexit 0\n")
    assert await broker_module.find_container_engine() == str(podman)


async def test_packages_are_installed_without_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = '#!/bin/sh\necho "$DEBIAN_FRONTEND $@" >> ' + str(tmp_path / "said") + "\n"
    fake(tmp_path / "apt-get", text)
    monkeypatch.setenv("PATH", str(tmp_path))
    said: list[str] = []
    await broker_module.install_server(said.append, policy=tmp_path / "policy-rc.d")
    assert (tmp_path / "said").read_text().splitlines() == [
        "noninteractive update --quiet",
        "noninteractive install --yes --quiet --no-install-recommends rabbitmq-server",
    ]
    assert len(said) == 1
    assert not (tmp_path / "policy-rc.d").exists()


async def test_a_command_that_fails_or_is_late_says_so() -> None:
    with pytest.raises(BrokerError, match=r"(?s)status 3.*sorry"):
        await broker_module.run(("sh", "-c", "echo sorry; exit 3"), 5)
    with pytest.raises(BrokerError, match="did not end within"):
        await broker_module.run(("sleep", "30"), 0.1)
