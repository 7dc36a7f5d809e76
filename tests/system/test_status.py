"""`crm-sync status` beside a real worker: it says what is wrong, shows it live, and needs no secret."""

import asyncio
import contextlib
import json
import os
import pty
import signal
import subprocess
from collections.abc import Mapping

import pytest

from tests.system.harness import WITHIN, System, Worker, crm_sync, environment, eventually

pytestmark = [pytest.mark.system, pytest.mark.verify]


async def status(port: int, *options: str) -> tuple[int, str]:
    """Ask as an operator does on the worker's host: with no setting but the port."""
    process = await asyncio.create_subprocess_exec(
        *(*crm_sync(), "status", *options),
        env=environment({"CRM_SYNC_HTTP__PORT": str(port)}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), WITHIN)
    assert process.returncode is not None
    return process.returncode, output.decode()


async def open_the_sinks_breaker(system: System, worker: Worker) -> None:
    await system.crm.control(script=[401] * 1000)
    await system.publish_all(await system.calls(1))
    await eventually(lambda: worker.events("circuit_open"))


async def test_an_open_circuit_breaker_is_said_first_and_the_rest_shown(system: System) -> None:
    worker = await system.start(circuit_breakers__refused_probe="1h")
    port = await worker.listening()
    code, said = await status(port)
    assert (code, said.splitlines()[0]) == (
        0,
        "✓ all is well: it consumes, and every circuit breaker is closed",
    )
    await open_the_sinks_breaker(system, worker)
    code, said = await status(port)
    first, *rest = said.splitlines()
    assert code == 1
    assert first.startswith("✗ sink: circuit breaker open, intake paused for ")
    assert "the webhook answered 401" in first
    assert first.endswith("; see operations: circuit breakers")
    words = [line.split() for line in rest]
    (breaker,) = [line for line in words if line[:1] == ["sink"]]
    assert breaker[1] == "open"
    assert [f"{system.namespace}.call-ended", "0"] in words
    code, said = await status(port, "--json")
    document = json.loads(said)
    assert (code, document["well"]) == (1, False)
    assert document["summary"][0].startswith("sink: circuit breaker open, intake paused for ")
    assert document["status"]["counts"]["retry"] == 1
    assert await worker.stop() == 0
    code, said = await status(port)
    assert code == 1
    assert said.startswith(f"✗ no worker answers at http://127.0.0.1:{port}: Connection refused; start one")


def watch(settings: Mapping[str, str], terminal: int) -> subprocess.Popen[bytes]:
    command = [*crm_sync(), "status", "--watch"]
    return subprocess.Popen(
        command, env=environment(settings), stdin=terminal, stdout=terminal, stderr=terminal
    )


async def test_watching_shows_the_change_until_ctrl_c(system: System) -> None:
    worker = await system.start(circuit_breakers__refused_probe="1h")
    ours, theirs = pty.openpty()
    settings = {"CRM_SYNC_HTTP__PORT": str(await worker.listening()), "TERM": "xterm", "COLUMNS": "100"}
    watching = watch(settings, theirs)
    os.close(theirs)
    os.set_blocking(ours, False)
    shown = bytearray()

    def shows(text: str) -> bool:
        read()
        return text.encode() in shown

    def has_ended() -> bool:
        read()  # a full terminal would keep it
        return watching.poll() is not None

    def read() -> None:
        with contextlib.suppress(OSError):  # nothing new, or it has ended
            shown.extend(os.read(ours, 1 << 16))

    try:
        await eventually(lambda: shows("every circuit breaker is closed"))
        await open_the_sinks_breaker(system, worker)
        await eventually(lambda: shows("sink: circuit breaker open, intake paused for "))
        watching.send_signal(signal.SIGINT)
        await eventually(has_ended)
    finally:
        watching.kill()
        watching.wait()
        os.close(ours)
    assert watching.returncode == 1, "as it was at the last look"
    assert b"Traceback" not in shown
