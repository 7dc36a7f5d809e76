"""The private broker as a program, and its keeper, from inside: as processes they are ended by force."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from simulators import broker as broker_module
from simulators import broker_keeper, broker_node
from simulators.broker import BrokerError, NoBrokerError, find_server
from simulators.broker_node import BrokerStartError, PrivateBroker

pytestmark = pytest.mark.verify

needs_server = pytest.mark.skipif(
    find_server() is None and "CI" not in os.environ, reason="rabbitmq-server is not installed here"
)


@needs_server
@pytest.mark.broker
async def test_what_was_stopped_stays_stopped() -> None:
    server = find_server()
    assert server is not None
    broker = await PrivateBroker.start(server)
    await broker.stop()
    await broker.stop()
    with pytest.raises(BrokerError, match="stopped"):
        await broker.resume()
    with pytest.raises(BrokerError, match="stopped"):
        await broker.ctl("status")


@needs_server
@pytest.mark.broker
async def test_a_node_that_is_late_is_given_up_and_leaves_nothing() -> None:
    server = find_server()
    assert server is not None
    with pytest.raises(BrokerStartError, match="not ready in time"):
        await PrivateBroker.start(server, ready_within=0.05)


@needs_server
@pytest.mark.broker
async def test_without_a_port_mapper_no_node_can_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_node, "find_epmd", lambda: None)
    with pytest.raises(BrokerStartError, match="epmd"):
        await PrivateBroker.start(tmp_path / "no-server")


def test_no_keeper_no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/true")
    with pytest.raises(BrokerStartError, match="keeper"):
        asyncio.run(PrivateBroker.start("/no/server"))


def test_the_keeper_ends_a_group_and_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    (folder / "log").mkdir(parents=True)
    with subprocess.Popen(["/bin/sleep", "60"], start_new_session=True) as process:
        broker_keeper.end(process.pid, folder)
        assert process.wait(5) < 0
    assert not folder.exists()


class _Pipe:
    """A standard stream that is one end of a pipe."""

    def __init__(self, end: int) -> None:
        self._end = end

    def fileno(self) -> int:
        return self._end


@pytest.mark.parametrize("forked", [0, 4711], ids=["the child cleans up", "the keeper waits for it"])
def test_the_keeper_cleans_up_once_its_owner_is_gone(
    forked: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said, did = os.pipe(), []
    theirs = os.pipe()
    os.close(theirs[1])  # the owner is gone
    monkeypatch.setattr(tempfile, "mkdtemp", lambda prefix: str(tmp_path / prefix))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "stdin", _Pipe(theirs[0]))
    monkeypatch.setattr(sys, "stdout", _Pipe(said[1]))
    monkeypatch.setattr(os, "fork", lambda: forked)
    monkeypatch.setattr(os, "setpgid", lambda *_: did.append("left the group"))
    monkeypatch.setattr(os, "_exit", lambda _: did.append("exit"))
    monkeypatch.setattr(os, "wait", lambda: did.append("wait"))
    monkeypatch.setattr(broker_keeper, "end", lambda _group, folder: did.append(folder.name))
    broker_keeper.main()
    monkeypatch.undo()
    assert os.read(said[0], 1000).decode().strip() == str(tmp_path / "crm-sync-broker-")
    for end in (*said, theirs[0]):
        os.close(end)
    assert did[-1] == "wait"
    assert ("crm-sync-broker-" in did) is (forked == 0)


async def test_where_only_a_container_is_to_be_had_the_program_runs_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def ready(_port: int) -> bool:
        return True

    engine = tmp_path / "docker"
    engine.write_text("#!/bin/sh\nexit 0\n")
    engine.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(broker_module, "find_server", lambda: None)
    monkeypatch.setattr(broker_module, "can_install", lambda: False)
    monkeypatch.setattr(broker_module, "speaks_amqp", ready)
    serving = asyncio.create_task(broker_module._serve())  # noqa: SLF001 - the program without its process
    text = ""
    async with asyncio.timeout(10):
        while not (text := text + capsys.readouterr().out).endswith("\n"):  # noqa: ASYNC110 - printed only
            await asyncio.sleep(0.01)
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    assert json.loads(text)["url"].startswith("amqp://guest:guest@127.0.0.1:")


async def test_a_container_that_never_gets_ready_is_given_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def silent(_port: int) -> bool:
        return False

    engine = tmp_path / "docker"
    engine.write_text("#!/bin/sh\nexit 0\n")
    engine.chmod(0o755)
    monkeypatch.setattr(broker_module, "speaks_amqp", silent)
    with pytest.raises(BrokerStartError, match="was not ready in time"):
        async with broker_module.container_broker(str(engine), lambda _: None, within=0.5):
            pass


@pytest.mark.parametrize("installed", [True, False])
def test_prepare_installs_only_what_is_missing(installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    calls: list[str] = []

    async def install(_say: Any) -> None:  # noqa: ANN401
        calls.append("installed")

    monkeypatch.setattr(sys, "argv", ["broker", "--prepare"])
    monkeypatch.setattr(broker_module, "find_server", lambda: Path("/there") if installed else None)
    monkeypatch.setattr(broker_module, "can_install", lambda: True)
    monkeypatch.setattr(broker_module, "install_server", install)
    broker_module.main()
    assert calls == ([] if installed else ["installed"])


def test_the_program_says_what_to_do_where_there_is_no_broker(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def none() -> None:
        raise NoBrokerError("Install it.")

    monkeypatch.setattr(sys, "argv", ["broker"])
    monkeypatch.setattr(broker_module, "_serve", none)
    with pytest.raises(SystemExit) as ended:
        broker_module.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err == "crm-sync: Install it.\n"
