"""Gets a RabbitMQ broker from wherever there is one: an address, an installed server, apt, or a container.

Run as `python -m simulators.broker`, it starts a private node, prints one JSON line with its address, and
ends it at SIGTERM or SIGINT.
"""

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from simulators.broker_node import (
    BrokerError,
    BrokerStartError,
    PrivateBroker,
    free_ports,
    speaks_amqp,
)

__all__ = [
    "BrokerError",
    "BrokerStartError",
    "NoBrokerError",
    "PrivateBroker",
    "find_broker",
    "find_server",
    "main",
]

IMAGE = "rabbitmq:4"
"""The container image used if RabbitMQ is not installed and cannot be."""

_SERVER_PLACES = (
    # Debian's /usr/sbin/rabbitmq-server changes to the user `rabbitmq`, who cannot read our folder: the real
    # script comes first.
    "/usr/lib/rabbitmq/bin/rabbitmq-server",
    "/usr/sbin/rabbitmq-server",
    "/opt/homebrew/opt/rabbitmq/sbin/rabbitmq-server",
    "/usr/local/opt/rabbitmq/sbin/rabbitmq-server",
    "/usr/local/sbin/rabbitmq-server",
    "/opt/rabbitmq/sbin/rabbitmq-server",
)
_DEBIAN_WRAPPER = Path("/usr/sbin/rabbitmq-server")
_POLICY = Path("/usr/sbin/policy-rc.d")
_APT_WITHIN = 600.0
_ENGINE_WITHIN = 5.0
_CONTAINER_WITHIN = 300.0
_ADVICE = (
    "No RabbitMQ was found. Install it (Debian and Ubuntu: apt-get install rabbitmq-server; macOS:"
    " brew install rabbitmq), or start Docker or Podman, or give the address of a running broker in"
    " CRM_SYNC_BROKER__URL."
)


class NoBrokerError(BrokerError):
    """There is no broker to be had here; the message says what to do about it."""


@asynccontextmanager
async def find_broker(url: str | None, say: Callable[[str], None]) -> AsyncIterator[str]:
    """Yield the address of a broker: the one given, else one that lives as long as the context.

    In this order: an installed RabbitMQ, one that apt installs (only as root), a container. `say` is called
    with a sentence about what is done. Raises `NoBrokerError` when nothing works.
    """
    if url is not None:
        yield url
        return
    async with contextlib.AsyncExitStack() as stack:
        private = await _private_broker(say)
        if private is not None:
            yield (await stack.enter_async_context(private)).url
            return
        engine = await find_container_engine()
        if engine is None:
            raise NoBrokerError(_ADVICE)
        yield await stack.enter_async_context(container_broker(engine, say))


def find_server() -> Path | None:
    """Find the installed `rabbitmq-server`: where packages put it, else on the PATH."""
    on_path = shutil.which("rabbitmq-server")
    candidates = [Path(place) for place in _SERVER_PLACES]
    if on_path is not None and Path(on_path) != _DEBIAN_WRAPPER:
        candidates.insert(0, Path(on_path))
    return next((path for path in candidates if os.access(path, os.X_OK)), None)


def can_install() -> bool:
    """Return whether this process may install packages: root, with apt-get present."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


async def install_server(say: Callable[[str], None], policy: Path = _POLICY) -> None:
    """Install Debian's `rabbitmq-server` without starting its service; raises `BrokerError` on failure."""
    say("RabbitMQ is not installed here, so its Debian package is being installed with apt-get.")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ("apt-get", "install", "--yes", "--quiet", "--no-install-recommends", "rabbitmq-server")
    with services_stay_stopped(policy):
        await run(("apt-get", "update", "--quiet"), _APT_WITHIN, environment)
        await run(install, _APT_WITHIN, environment)


@contextlib.contextmanager
def services_stay_stopped(policy: Path) -> Iterator[None]:
    """Keep newly installed packages from starting services, by Debian's own `policy-rc.d`.

    One that exists already is somebody else's and is left alone.
    """
    try:
        with policy.open("x") as file:
            file.write("#!/bin/sh\nexit 101\n")
            os.fchmod(file.fileno(), 0o755)
    except FileExistsError:
        yield
        return
    try:
        yield
    finally:
        policy.unlink(missing_ok=True)


async def find_container_engine() -> str | None:
    """Find `docker` or `podman` whose engine answers within a few seconds."""
    for name in ("docker", "podman"):
        command = shutil.which(name)
        if command is not None:
            with contextlib.suppress(BrokerError):
                await run((command, "info"), _ENGINE_WITHIN)
                return command
    return None


@asynccontextmanager
async def container_broker(
    engine: str, say: Callable[[str], None], within: float = _CONTAINER_WITHIN
) -> AsyncIterator[str]:
    """Run RabbitMQ in a container of our own on a free loopback port; stop and remove it at the end."""
    name = f"crm-sync-{secrets.token_hex(4)}"
    (port,) = free_ports(1)
    say(f"RabbitMQ is not installed here, so it is run in a container ({IMAGE}) with {Path(engine).name}.")
    publish = f"127.0.0.1:{port}:5672"
    try:
        await run(
            (engine, "run", "--rm", "--detach", "--name", name, "--publish", publish, IMAGE),
            within,
        )
        deadline = time.monotonic() + within
        while not await speaks_amqp(port):
            if time.monotonic() > deadline:
                raise BrokerStartError(f"RabbitMQ in the container {name} was not ready in time.")
            await asyncio.sleep(0.2)
        yield f"amqp://guest:guest@127.0.0.1:{port}/"
    finally:
        await asyncio.shield(_stop_container(engine, name))


async def run(command: tuple[str, ...], within: float, environment: Mapping[str, str] | None = None) -> str:
    """Run a command to its end and return what it prints; raises `BrokerError` on failure or lateness."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    shown = " ".join(command)
    try:
        output, _ = await asyncio.wait_for(process.communicate(), within)
    except TimeoutError as error:
        raise BrokerError(f"`{shown}` did not end within {within:.0f} seconds.") from error
    finally:
        await _end(process)
    text = output.decode(errors="replace")
    if process.returncode != 0:
        raise BrokerError(f"`{shown}` ended with status {process.returncode}: {text[-2000:]}")
    return text


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _ENGINE_WITHIN)
    except TimeoutError:
        process.kill()


async def _private_broker(say: Callable[[str], None]) -> PrivateBroker | None:
    server = find_server()
    try:
        if server is None and can_install():
            await install_server(say)
            server = find_server()
        return None if server is None else await PrivateBroker.start(server)
    except BrokerError as error:
        say(f"A private RabbitMQ could not be had: {error}")
        return None


async def _stop_container(engine: str, name: str) -> None:
    with contextlib.suppress(BrokerError):  # it was never started, or has ended by itself
        await run((engine, "stop", "--time", "5", name), 60)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    if task is None:
        raise AssertionError
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    async with contextlib.AsyncExitStack() as stack:
        private = await _private_broker(_say)
        if private is None:
            line: dict[str, object] = {"url": await stack.enter_async_context(find_broker(None, _say))}
        else:
            broker = await stack.enter_async_context(private)
            line = {"url": broker.url, "pid": broker.pid, "node": broker.node, "folder": str(broker.folder)}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


def _say(sentence: str) -> None:
    sys.stderr.write(f"crm-sync: {sentence}\n")


async def _prepare() -> None:
    if find_server() is None and can_install():
        await install_server(_say)


def main() -> None:
    """Run a private broker until SIGTERM or SIGINT; one JSON line on stdout says where it is.

    With `--prepare`, only install RabbitMQ if it is missing and can be installed.
    """
    parser = argparse.ArgumentParser(
        prog="python -m simulators.broker",
        description="Run a private broker until SIGTERM or SIGINT; one JSON line says where it is.",
    )
    parser.add_argument(
        "--prepare", action="store_true", help="only install RabbitMQ, if it is missing and can be installed"
    )
    prepare = parser.parse_args().prepare
    try:
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(_prepare() if prepare else _serve())
    except BrokerError as error:
        _say(str(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
