"""A RabbitMQ node that may be mistreated: stopped, killed, started again, and told things by rabbitmqctl."""

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen

import aio_pika
import psutil

from tests.system.harness import connect, environment, eventually

_END_WITHIN = 30.0


class NodeUnavailable(Exception):
    """There is no RabbitMQ on this machine that could be mistreated."""


class Node:
    """A private node with its own port, folder and name, which keeps all three over a restart."""

    def __init__(self) -> None:
        """Start it with `python -m worker.demo.broker`, which cleans up; raises `NodeUnavailable`."""
        command = [sys.executable, "-m", "worker.demo.broker"]
        self._program = Popen(command, stdout=PIPE, text=True, env=environment({}))
        assert self._program.stdout is not None
        line = self._program.stdout.readline()
        said = json.loads(line or "{}")
        if "pid" not in said:  # nothing, or a container
            self._end_program()
            raise NodeUnavailable("a node that may be mistreated needs an installed rabbitmq-server")
        self.url: str = said["url"]
        self.port = int(self.url.rstrip("/").rpartition(":")[2])
        self._name: str = said["node"]
        self._server = psutil.Process(said["pid"])
        self._command, self._folder = self._server.cmdline(), self._server.cwd()
        self._environment, self._group = self._server.environ(), os.getpgid(self._server.pid)
        self._started: Popen[bytes] | None = None

    async def halt(self) -> None:
        """Shut it down as an operator does: its clients are told."""
        self._server.terminate()
        await asyncio.to_thread(self._gone)

    async def kill(self) -> None:
        """SIGKILL it."""
        self._server.kill()
        await asyncio.to_thread(self._gone)

    async def start(self) -> None:
        """Start it again with its data, and wait until it takes clients."""
        self._spawn()
        await eventually(self.takes_clients, _END_WITHIN)

    async def takes_clients(self) -> bool:
        try:
            connection = await connect(self.url, timeout=2)
        except (OSError, aio_pika.exceptions.AMQPError, TimeoutError):
            return False
        await connection.close()
        return True

    async def ctl(self, *arguments: str) -> str:
        """Run rabbitmqctl against it; gives what it prints."""
        plugins = self._environment["ERL_LIBS"].split(os.pathsep)[0]
        tool = Path(plugins).with_name("sbin") / "rabbitmqctl"
        command = [str(tool), "--quiet", "--node", self._name, *arguments]
        done = await asyncio.to_thread(
            subprocess.run, command, env=self._environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return str(done.stdout)

    def end(self) -> None:
        """End it for good; its folder goes with it."""
        if self._started is not None and self._started.poll() is None:
            self._started.kill()
            self._started.wait(_END_WITHIN)
        self._end_program()

    def _end_program(self) -> None:
        self._program.terminate()
        self._program.wait(_END_WITHIN)
        if self._program.stdout is not None:
            self._program.stdout.close()

    def _spawn(self) -> None:
        self._started = Popen(
            self._command,
            cwd=self._folder,
            env=self._environment,
            process_group=self._group,
            stdout=DEVNULL,
            stderr=DEVNULL,
        )
        self._server = psutil.Process(self._started.pid)

    def _gone(self) -> None:
        if self._started is not None:
            self._started.wait(_END_WITHIN)
            return
        deadline = time.monotonic() + _END_WITHIN
        while self._server.is_running() and self._server.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, "the node did not end"
            time.sleep(0.02)
