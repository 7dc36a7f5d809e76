"""A private Prometheus: a real one, with its own folder and port, that scrapes one worker each second."""

import re
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import yaml

from tests.system.harness import eventually
from tests.tools import need

READY_WITHIN: Final = 20.0
_END_WITHIN: Final = 10.0
_LISTENING = re.compile(r'msg="Listening on" address=(\S+)')

Points = list[tuple[float, float]]
"""What a graph is made of: times, in seconds since 1970, and values."""


class QueryRefused(Exception):
    """Prometheus does not understand a query; the message is its own."""


@dataclass(frozen=True)
class Series:
    """One line of a graph."""

    labels: Mapping[str, str]
    points: Points


@dataclass(frozen=True)
class Prometheus:
    """One that runs."""

    url: str

    async def ask(self, path: str, **parameters: str) -> Any:  # noqa: ANN401 - JSON
        """Return what its HTTP API says. Raises `QueryRefused`."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.url}/api/v1/{path}", params=parameters) as response,
        ):
            said = await response.json()
        if said["status"] != "success":
            raise QueryRefused(f"{said['error']}: {parameters.get('query')}")
        return said["data"]

    async def now(self, query: str) -> list[float]:
        """Return the values of a query at this moment."""
        found = (await self.ask("query", query=query))["result"]
        return [float(each["value"][1]) for each in found]

    async def holds(self, query: str) -> bool:
        """Return whether a condition such as `x > 0` holds for anything at this moment."""
        return bool(await self.now(query))

    async def graph(self, query: str, start: float, end: float, step: float = 1.0) -> list[Series]:
        """Return what a graph of a query shows from one time to another."""
        data = await self.ask("query_range", query=query, start=str(start), end=str(end), step=str(step))
        return [
            Series(each["metric"], [(at, float(value)) for at, value in each["values"]])
            for each in data["result"]
        ]


class _Server:
    """The process, with its log in a file."""

    def __init__(self, config: Mapping[str, object], folder: Path) -> None:
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
        self._log = folder / "prometheus.log"
        command = [
            str(need("prometheus")),
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=data",
            "--web.listen-address=127.0.0.1:0",
        ]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, cwd=folder, stderr=log)

    def url(self) -> str | None:
        """Return its address once it listens."""
        log = self._log.read_text(encoding="utf-8")
        assert self._process.poll() is None, log
        match = _LISTENING.search(log)
        return f"http://{match[1]}" if match else None

    async def ready(self) -> bool:
        url = self.url()
        if url is None:
            return False
        async with aiohttp.ClientSession() as session, session.get(f"{url}/-/ready") as response:
            return response.status == 200

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(_END_WITHIN)


@asynccontextmanager
async def watching(
    ports: Sequence[int], folder: Path, rules: Path | None = None
) -> AsyncIterator[Prometheus]:
    """Run a Prometheus that scrapes ports on this machine, and evaluates rules, each second."""
    addresses = [f"127.0.0.1:{port}" for port in ports]
    targets = {"job_name": "crm-sync", "static_configs": [{"targets": addresses}]}
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(rules)] if rules else [],
        "scrape_configs": [targets],
    }
    server = _Server(config, folder)
    try:
        await eventually(server.ready, READY_WITHIN)
        url = server.url()
        assert url is not None
        yield Prometheus(url)
    finally:
        server.end()
