"""An intake's server with a real spool, and a broker that does what the test says."""

import asyncio
import io
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from worker.core.errors import PublishError
from worker.core.ports import Outgoing
from worker.core.scrub import Scrubber
from worker.intake.access import Rates, Tokens
from worker.intake.relay import Relay
from worker.intake.server import Limits, Server
from worker.intake.spool import Spool
from worker.observe.intake import IntakeReporter
from worker.observe.metrics import CONTENT_TYPE, IntakeMetrics

TOKEN = "a-token_of-the-tests"
CALL_ID = "V1201405090000012345"


class FakeFeed:
    """A broker that takes what it is given, refuses it, or waits."""

    def __init__(self) -> None:
        self.available = asyncio.Event()
        self.available.set()
        self.published: list[Outgoing] = []
        self.refuses: PublishError | None = None
        self.waiting = 0
        self.bug: Exception | None = None
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def publish(self, message: Outgoing) -> None:
        self.waiting += 1
        await self.go_on.wait()
        self.waiting -= 1
        if self.bug is not None:
            raise self.bug
        if self.refuses is not None:
            raise self.refuses
        self.published.append(message)

    async def renew(self) -> None:
        """Do nothing: it has no channels."""

    async def check(self) -> None:
        if not self.available.is_set():
            raise PublishError("away")


@dataclass
class Intake:
    """A server that listens, and a client of it."""

    url: str
    port: int
    feed: FakeFeed
    spool: Spool
    server: Server
    metrics: IntakeMetrics
    session: aiohttp.ClientSession
    scrubber: Scrubber
    token_file: Path
    headers: dict[str, str] = field(default_factory=lambda: {"Authorization": f"Bearer {TOKEN}"})

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, str]:
        """Send a request with the token in the header, and return the status and the text of the answer."""
        sent = self.headers | {"Content-Type": "application/json"} | (headers or {})
        data = None if body is None else io.BytesIO(body)
        async with self.session.request(method, self.url + path, data=data, headers=sent) as response:
            return response.status, await response.text()

    def counted(self, endpoint: str, status: int) -> float:
        """Return how many such answers the metrics have."""
        name = "crm_sync_intake_requests_total"
        value = self.metrics.registry.get_sample_value(name, {"endpoint": endpoint, "status": str(status)})
        return value or 0.0


@asynccontextmanager
async def open_intake(
    folder: Path,
    *,
    limits: Limits | None = None,
    rate: int = 1000,
    spool_size: int = 1_000_000,
    confirmed_within: float = 0.2,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Intake]:
    """Listen on any free port of the loopback."""
    token_file = folder / "token"
    await asyncio.to_thread(token_file.write_text, TOKEN)
    reporter = IntakeReporter(IntakeMetrics())
    scrubber = Scrubber([])
    feed = FakeFeed()
    async with Spool(folder / "spool", spool_size) as spool:
        server = Server(
            relay=Relay(spool, feed, reporter, confirmed_within=confirmed_within),
            tokens=Tokens([token_file], scrubber.learn, reporter),
            rates=Rates(rate),
            observer=reporter,
            scrub=scrubber,
            ready=lambda: not spool.full,
            metrics=lambda: (reporter.metrics.expose(), CONTENT_TYPE),
            limits=limits or Limits(),
        )
        async with aiohttp.ClientSession() as session, server.listen("127.0.0.1", 0, tls) as port:
            url = f"{'http' if tls is None else 'https'}://127.0.0.1:{port}"
            yield Intake(url, port, feed, spool, server, reporter.metrics, session, scrubber, token_file)
