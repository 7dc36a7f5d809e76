"""The health endpoints: `/livez`, `/readyz`, `/status`, `/metrics`; and how late the event loop is."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Never

import orjson
import structlog
from aiohttp import web

from worker.observe.metrics import CONTENT_TYPE, Metrics
from worker.settings import HttpSettings

LOOK_EVERY = 0.5
"""Seconds between two looks."""
LOOKS = 30
"""How many looks are remembered: those of 15 s, as long as is usual between two scrapes."""

_log = structlog.get_logger()


class ListenError(Exception):
    """The port of the health endpoints can't be listened on. The text says why."""


@asynccontextmanager
async def serve(
    settings: HttpSettings,
    *,
    metrics: Metrics,
    ready: Callable[[], bool],
    status: Callable[[], dict[str, Any]],
) -> AsyncIterator[int]:
    """Serve the endpoints for as long as the block runs; yield the port. Raises `ListenError`.

    `/livez` answers whenever the loop turns and says nothing of any
    dependency, so that a broker's outage restarts no worker.
    """

    async def livez(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n") if ready() else web.Response(text="not consuming\n", status=503)

    async def show_status(_: web.Request) -> web.Response:
        return web.Response(body=orjson.dumps(status(), default=str), content_type="application/json")

    async def show_metrics(_: web.Request) -> web.Response:
        return web.Response(body=metrics.expose(), headers={"Content-Type": CONTENT_TYPE})

    app = web.Application()
    app.add_routes(
        [
            web.get("/livez", livez),
            web.get("/readyz", readyz),
            web.get("/status", show_status),
            web.get("/metrics", show_metrics),
        ]
    )
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, settings.host, settings.port)
        try:
            await site.start()
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise ListenError(f"can't listen on {settings.host}:{settings.port}: {reason}") from error
        port: int = runner.addresses[0][1]
        _log.info("listening", host=settings.host, port=port)
        yield port
    finally:
        await runner.cleanup()


class LoopLag:
    """Measures by how much a short sleep takes longer than it should.

    A call that blocks the event loop delays every event in work, every probe and every heartbeat.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._late: deque[float] = deque(maxlen=LOOKS)

    @property
    def longest(self) -> float:
        """The longest delay that is remembered, in seconds; one that still lasts is not among them."""
        return max(self._late, default=0.0)

    async def watch(self) -> Never:
        """Measure until cancelled."""
        while True:
            before = self._clock()
            await asyncio.sleep(LOOK_EVERY)
            self.woken_after(self._clock() - before)

    def woken_after(self, seconds: float) -> None:
        """Record how long a sleep took."""
        self._late.append(max(0.0, seconds - LOOK_EVERY))
