"""A RabbitMQ node that may be mistreated: stopped, killed, started again, and changed by rabbitmqctl."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen

import aio_pika
import psutil

from tests.system.harness import connect, end, environment, eventually, first_line

_BEGUN_WITHIN = 120.0
_END_WITHIN = 90.0
_TAKES_CLIENTS_WITHIN = 150.0
_COMMAND_WITHIN = 90.0
_CHANGES = ("set_", "clear_", "add_", "delete_")
_AS_STARTED = (
    ("set_vm_memory_high_watermark", "0.4"),
    ("set_disk_free_limit", "50MB"),
    ("set_permissions", "guest", ".*", ".*", ".*"),
)


class NodeUnavailable(Exception):
    """There is no RabbitMQ on this machine that could be mistreated."""


class Node:
    """A private node with its own port, folder and name, which keeps all three over a restart."""

    def __init__(self) -> None:
        """Start it with `python -m simulators.broker`, which cleans up; raises `NodeUnavailable`."""
        command = [sys.executable, "-m", "simulators.broker"]
        self._program = Popen(command, stdout=PIPE, env=environment({}))
        said = json.loads(first_line(self._program, _BEGUN_WITHIN) or "{}")
        if "pid" not in said:  # nothing, or a container
            end(self._program)
            raise NodeUnavailable("a node that may be mistreated needs an installed rabbitmq-server")
        self.url: str = said["url"]
        self.port = int(self.url.rstrip("/").rpartition(":")[2])
        self._name: str = said["node"]
        self._server = psutil.Process(said["pid"])
        self._command, self._folder = self._server.cmdline(), self._server.cwd()
        self._environment, self._group = self._server.environ(), os.getpgid(self._server.pid)
        self._started: Popen[bytes] | None = None
        self._changed = False

    async def halt(self) -> None:
        """Shut it down as an operator does: its clients are notified."""
        self._server.terminate()
        try:
            await eventually(self._gone, _END_WITHIN)
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        """SIGKILL it."""
        if not self._gone():
            self._server.kill()
        await eventually(self._gone, _END_WITHIN)

    async def start(self) -> None:
        """Start it again with its data, and wait until it takes clients."""
        self._spawn()
        await eventually(self.takes_clients, _TAKES_CLIENTS_WITHIN)

    async def takes_clients(self) -> bool:
        """Return whether a client can log in; asked in vain it answers at once, and quietly."""
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.transport.abort()
            connection = await connect(self.url, timeout=2)
        except (OSError, aio_pika.exceptions.AMQPError, TimeoutError):
            return False
        await connection.close()
        return True

    async def restore(self) -> None:
        """Undo whatever was done to it: let it run, without an alarm or a policy, and with all rights."""
        if self._gone():
            self._spawn()
        if self._changed:
            await self.ctl("await_startup")
            policies = json.loads(await self.ctl("list_policies", "--formatter", "json") or "[]")
            for command in (*(("clear_policy", each["name"]) for each in policies), *_AS_STARTED):
                await self.ctl(*command)
            self._changed = False
        try:
            await eventually(self.takes_clients, _TAKES_CLIENTS_WITHIN)
        except TimeoutError:
            await self.kill()
            await self.start()

    async def ctl(self, *arguments: str) -> str:
        """Run rabbitmqctl against it and return what it prints."""
        self._changed |= arguments[0].startswith(_CHANGES)
        plugins = self._environment["ERL_LIBS"].split(os.pathsep)[0]
        tool = Path(plugins).with_name("sbin") / "rabbitmqctl"
        command = [str(tool), "--quiet", "--node", self._name, *arguments]
        done = await asyncio.to_thread(
            subprocess.run,
            command,
            env=self._environment,
            stdin=DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_COMMAND_WITHIN,
        )
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return str(done.stdout)

    def end(self) -> None:
        """End it for good; its folder goes with it."""
        if self._started is not None and self._started.poll() is None:
            self._started.kill()
            self._started.wait(_END_WITHIN)
        end(self._program)

    def _spawn(self) -> None:
        self._started = Popen(
            self._command,
            cwd=self._folder,
            env=self._environment,
            process_group=self._group,
            stdin=DEVNULL,
            stdout=DEVNULL,
            stderr=DEVNULL,
        )
        self._server = psutil.Process(self._started.pid)

    def _gone(self) -> bool:
        if self._started is not None:
            return self._started.poll() is not None
        try:
            return not self._server.is_running() or self._server.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True
