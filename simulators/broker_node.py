"""A RabbitMQ node of our own: own ports, own folder, own Erlang port mapper, gone without a trace.

Nothing of an installed broker is touched: the node has its own data, logs, configuration, cookie and name,
listens on loopback only, and its port mapper (epmd) is a child of ours on a port of its own, never the shared
daemon. The cleaning is done by `broker_keeper`, so that it happens however this process ends.
"""

import asyncio
import contextlib
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self

READY_WITHIN = 100.0
"""Seconds a node may take until an AMQP client can connect; a busy machine needs over a minute."""

_CLOSE_WITHIN = 30.0
_COMMAND_WITHIN = 60.0
_STEP = 0.03
# Below the usual ephemeral range: a client that reconnects to a closed ephemeral port of its own machine
# can connect to itself, and then the restarted node finds its port taken.
_PORTS = range(20_000, 32_000)
_TAIL = 4_000
_FOREIGN = ("RABBITMQ_", "ERL_", "NOTIFY_SOCKET")
_EPMD_PLACES = (
    "/usr/lib/erlang/bin/epmd",
    "/usr/lib64/erlang/bin/epmd",
    "/usr/local/lib/erlang/bin/epmd",
    "/opt/homebrew/opt/erlang/lib/erlang/bin/epmd",
    "/usr/local/opt/erlang/lib/erlang/bin/epmd",
)


class BrokerError(RuntimeError):
    """The private broker could not do what was asked; the message says why."""


class BrokerStartError(BrokerError):
    """The node did not get ready; the message holds the end of its log."""


class PrivateBroker:
    """One running node, from `start` to `stop`; also an asynchronous context manager that stops it.

    `url` stays the same over `halt`, `kill`, `resume` and `restart`, and so do the node's data. If the object
    is dropped, or this process ends in any way, the keeper ends the node and removes its folder.
    """

    def __init__(self, binary: Path) -> None:
        """Prepare a node run by the given `rabbitmq-server`; `start` is the way to get a running one."""
        self._binary = binary
        self._keeper: subprocess.Popen[bytes] | None = None
        self._epmd: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._epmd_port = 0
        self._distribution_port = 0
        self.folder = Path()
        self.node = f"crm-sync-{secrets.token_hex(4)}@localhost"
        self.port = 0

    @property
    def url(self) -> str:
        """The AMQP address, with the node's only user."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    @property
    def pid(self) -> int | None:
        """The process id of the running node; `None` while it is halted or stopped."""
        return self._server.pid if self._server is not None and self._server.poll() is None else None

    @classmethod
    async def start(cls, binary: str | Path, *, ready_within: float = READY_WITHIN) -> Self:
        """Start a node and return once an AMQP client can connect; on any failure nothing is left behind.

        Raises `BrokerStartError`. A port that somebody else took in the meantime is tried again elsewhere.
        """
        for left in (2, 1, 0):
            broker = cls(Path(binary))
            try:
                await broker._open(ready_within)
            except BrokerStartError as error:
                await broker.stop()
                if left == 0 or not _port_was_taken(str(error)):
                    raise
            except BaseException:
                await asyncio.shield(broker.stop())
                raise
            else:
                return broker
        raise AssertionError

    async def stop(self) -> None:
        """End the node and its port mapper at once and remove the folder. Harmless when already stopped."""
        keeper, self._keeper = self._keeper, None
        if keeper is None or keeper.stdin is None or keeper.stdout is None:
            return
        keeper.stdin.close()
        await asyncio.to_thread(_drain, keeper.stdout)
        for process in (self._server, self._epmd, keeper):
            if process is not None:
                await asyncio.to_thread(process.wait, _CLOSE_WITHIN)

    async def halt(self) -> None:
        """Shut the node down as an operator would: clients are notified, data is kept. `resume` starts it."""
        await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """SIGKILL the node: connections break, data is kept. `resume` starts it."""
        await self._end(signal.SIGKILL)

    async def resume(self, *, ready_within: float = READY_WITHIN) -> None:
        """Start a halted or killed node again on the same port and data; returns when it is ready."""
        if self._keeper is None:
            raise BrokerError("This broker has been stopped; its folder is gone.")
        if self.pid is None:
            self._server = self._spawn(str(self._binary))
        await self._ready(ready_within)

    async def restart(self) -> None:
        """`halt`, then `resume`."""
        await self.halt()
        await self.resume()

    async def ctl(self, *arguments: str) -> str:
        """Run `rabbitmqctl` against this node and return what it prints, or raise it as a `BrokerError`."""
        tool = self._binary.with_name("rabbitmqctl")
        command = (str(tool), "--quiet", "--node", self.node, *arguments)
        keeper = self._keeper
        if keeper is None:
            raise BrokerError("This broker has been stopped.")
        process = await asyncio.create_subprocess_exec(
            *command,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=keeper.pid,
        )
        try:
            output, _ = await asyncio.wait_for(process.communicate(), _COMMAND_WITHIN)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        text = output.decode(errors="replace")
        if process.returncode != 0:
            raise BrokerError(f"rabbitmqctl {' '.join(arguments)} ended with {process.returncode}: {text}")
        return text

    async def __aenter__(self) -> Self:
        """Return the running broker itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it, also when the body was cancelled."""
        await asyncio.shield(self.stop())

    async def _open(self, ready_within: float) -> None:
        self._keeper = keeper = _start_keeper()
        self.folder = await asyncio.to_thread(_first_line, keeper)
        self.port, self._epmd_port, self._distribution_port = free_ports(3)
        self._write_files()
        await self._start_epmd(ready_within)
        self._server = self._spawn(str(self._binary))
        await self._ready(ready_within)

    async def _start_epmd(self, within: float) -> None:
        epmd = find_epmd()
        if epmd is None:
            raise BrokerStartError(
                "Erlang's port mapper `epmd` is not on the PATH nor beside Erlang, so no node can start."
            )
        self._epmd = self._spawn(epmd, "-port", str(self._epmd_port), "-address", "127.0.0.1")
        await self._listening(self._epmd_port, within)

    def _write_files(self) -> None:
        for name in ("home", "data", "log", "conf.d"):
            (self.folder / name).mkdir()
        (self.folder / "enabled_plugins").write_text("[].\n")
        (self.folder / "rabbitmq-env.conf").write_text("")
        (self.folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.local = 127.0.0.1:{self.port}\n"
            "loopback_users.guest = true\n"
            "log.console = false\n"
            "log.file = node.log\n"
            "vm_memory_high_watermark.relative = 0.4\n"
            "disk_free_limit.absolute = 50MB\n",
        )

    def _environment(self) -> Mapping[str, str]:
        folder = self.folder
        loopback = "-kernel inet_dist_use_interface {127,0,0,1}"
        idle = "+sbwt none +sbwtdcpu none +sbwtdio none"  # no scheduler spins while it waits
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
        return kept | {
            "HOME": str(folder / "home"),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "rabbitmq-env.conf"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
            "RABBITMQ_CONFIG_FILES": str(folder / "conf.d"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            # Makes the start script become the node instead of waiting for it as its parent.
            "RUNNING_UNDER_SYSTEMD": "true",
            "RABBITMQ_CTL_ERL_ARGS": loopback,
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"+S 2:2 {idle} {loopback}",
        }

    def _spawn(self, *command: str) -> subprocess.Popen[bytes]:
        if self._keeper is None:
            raise AssertionError
        with (self.folder / "log" / "output.log").open("ab") as output:
            return subprocess.Popen(  # noqa: S603 - the server and the port mapper that were found
                command,
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=self._keeper.pid,
            )

    async def _end(self, number: signal.Signals) -> None:
        server = self._server
        if server is None or server.poll() is not None:
            return
        server.send_signal(number)
        try:
            await asyncio.to_thread(server.wait, _CLOSE_WITHIN)
        except subprocess.TimeoutExpired:
            server.kill()
            await asyncio.to_thread(server.wait, _CLOSE_WITHIN)

    async def _listening(self, port: int, within: float) -> None:
        deadline = time.monotonic() + within
        while not await _accepts(port):
            self._give_up_if_late(self._epmd, "The Erlang port mapper", deadline)
            await asyncio.sleep(_STEP)

    async def _ready(self, within: float) -> None:
        deadline = time.monotonic() + within
        while not await speaks_amqp(self.port):
            self._give_up_if_late(self._server, "The private RabbitMQ node", deadline)
            await asyncio.sleep(_STEP)

    def _give_up_if_late(self, process: subprocess.Popen[bytes] | None, who: str, deadline: float) -> None:
        if process is not None and process.poll() is not None:
            raise BrokerStartError(
                f"{who} ended with status {process.returncode} while starting. {self._log_tail()}"
            )
        if time.monotonic() > deadline:
            raise BrokerStartError(f"{who} was not ready in time. {self._log_tail()}")

    def _log_tail(self) -> str:
        texts = [
            f"The end of {name}:\n{path.read_text(errors='replace')[-_TAIL:]}"
            for name in ("output.log", "node.log")
            if (path := self.folder / "log" / name).exists()
        ]
        return "\n".join(texts)


def free_ports(count: int) -> tuple[int, ...]:
    """Find that many different free ports on loopback, outside the usual ephemeral range."""
    with contextlib.ExitStack() as stack:
        ports: list[int] = []
        for port in random.sample(_PORTS, len(_PORTS)):
            listener = stack.enter_context(socket.socket())
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                listener.bind(("127.0.0.1", port))
                ports.append(port)
            if len(ports) == count:
                return tuple(ports)
    raise BrokerStartError("No free port on 127.0.0.1.")


def find_epmd() -> str | None:
    """Find Erlang's port mapper: on the PATH, else where Erlang is usually installed."""
    return shutil.which("epmd") or next((place for place in _EPMD_PLACES if Path(place).exists()), None)


async def speaks_amqp(port: int) -> bool:
    """Return whether an AMQP 0-9-1 handshake is answered on this port of 127.0.0.1."""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"AMQP\x00\x00\x09\x01")
            return await reader.readexactly(1) == b"\x01"  # a method frame: connection.start
    except (OSError, EOFError):
        return False
    finally:
        if writer is not None:
            writer.transport.abort()


async def _accepts(port: int) -> bool:
    try:
        async with asyncio.timeout(2):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.transport.abort()
    return True


def _start_keeper() -> subprocess.Popen[bytes]:
    script = str(Path(__file__).with_name("broker_keeper.py"))
    command = [sys.executable, "-I", "-S", script]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, process_group=0)  # noqa: S603 - our own script


def _first_line(keeper: subprocess.Popen[bytes]) -> Path:
    line = b"" if keeper.stdout is None else keeper.stdout.readline()
    if not line:
        raise BrokerStartError("The keeper of the private broker could not be started.")
    return Path(line.decode().rstrip("\n"))


def _drain(stream: IO[bytes]) -> None:
    with stream:
        while stream.read(1024):
            pass


def _port_was_taken(text: str) -> bool:
    return any(sign in text.lower() for sign in ("eaddrinuse", "address in use", "address already in use"))
