"""What the stand-ins share: a real server on loopback that can misbehave, be watched, and be a program.

A fault is how a server breaks: see `Fault`. The control surface (`GET` and `POST /control`) gives tests in
other processes what tests in this one do by attribute.
"""

import argparse
import asyncio
import contextlib
import json
import signal
import socket
import struct
import sys
import zlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from functools import cache
from types import TracebackType
from typing import Any, Final, Literal, Self, get_args

from aiohttp import web

Fault = Literal[
    "hang",
    "reset",
    "cut",
    "500",
    "empty",
    "html",
    "mysql",
    "drip",
    "garbage",
    "not_http",
    "huge",
    "bomb",
    "redirect",
]
"""How a server breaks.

`hang`: never answers. `reset`: the connection is reset before an answer. `cut`: it is reset in the middle
of a body. `500`, `empty`: that status, or 200, with no body. `html`: a proxy's page with 200. `mysql`: the
text of an old PHP without its database. `drip`: a body that never ends, a byte at a time. `garbage`: a body
of bytes that are no text. `not_http`: bytes that are no HTTP. `huge`: a body of 100 MiB. `bomb`: the same,
compressed to a thousandth. `redirect`: to itself, so without an end.
"""

FAULTS: Final[tuple[Fault, ...]] = get_args(Fault)
"""Every fault there is."""

GARBAGE: Final = bytes(range(256))
HTML_PAGE: Final = (
    "<!DOCTYPE html>\n<html><head><title>Welcome</title></head><body><h1>It works!</h1></body></html>\n"
)
MYSQL_ERROR: Final = "MySQL connect ERROR:  Connection refused"

_BODIES: Final[Mapping[str, tuple[int, bytes]]] = {
    "500": (500, b""),
    "empty": (200, b""),
    "html": (200, HTML_PAGE.encode()),
    "mysql": (200, MYSQL_ERROR.encode()),
    "garbage": (200, GARBAGE),
}
_CONTENT_TYPE = "text/html; charset=UTF-8"  # PHP's own, in capitals: no script got as far as to name one
_DRIP_EVERY = 0.05
_HUGE = 100
_MEBIBYTE = bytes(1024 * 1024)
_LARGEST_BODY = 16 * 1024 * 1024
_LONGEST_LINE = 64 * 1024


class StandIn(ABC):
    """A server on 127.0.0.1, alive within its asynchronous context.

    `fault` and `delay` apply to every request while they are set; they may be changed at any time.
    `concurrent` and `max_concurrent` count the requests being answered, now and at most so far.
    """

    def __init__(self, *, port: int = 0, delay: float = 0.0) -> None:
        """Prepare a server on this port; 0 takes any free one."""
        self.fault: Fault | None = None
        self.delay = delay
        self.concurrent = 0
        self.max_concurrent = 0
        self.served = 0
        self.port = port
        self._closing = asyncio.Event()
        self._runner: web.AppRunner | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """The full address that clients are configured with."""

    @property
    def base_url(self) -> str:
        """The server's address without a path, for `/control`."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen; `port` then holds the real port."""
        app = web.Application(client_max_size=_LARGEST_BODY)
        app.router.add_get("/control", self._get_control)
        app.router.add_post("/control", self._post_control)
        self.add_routes(app)
        self._closing.clear()
        # A client that gives up ends its handler, so that `concurrent` is right.
        self._runner = web.AppRunner(
            app,
            access_log=None,
            shutdown_timeout=0.2,
            handler_cancellation=True,
            max_line_size=_LONGEST_LINE,
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening and end every connection; `start` listens on the same port again."""
        self._closing.set()
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def __aenter__(self) -> Self:
        """Start, and give the server itself."""
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        await self.stop()

    @abstractmethod
    def add_routes(self, app: web.Application) -> None:
        """Add what this server answers to."""

    @abstractmethod
    def control(self, change: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Make the changes that a JSON object names, and give what there is to say about them.

        Raises `ValueError` for what it does not know.
        """

    @abstractmethod
    def report(self) -> dict[str, Any]:
        """Return what happened so far, as JSON values."""

    def announcement(self) -> dict[str, Any]:
        """Return what a program prints of its server as soon as it listens."""
        return {"url": self.url, "port": self.port}

    @contextlib.asynccontextmanager
    async def counted(self) -> AsyncIterator[None]:
        """Count a request while it is being answered, and hold it up for `delay`."""
        self.served += 1
        self.concurrent += 1
        self.max_concurrent = max(self.max_concurrent, self.concurrent)
        try:
            if self.delay:
                await self.pause(self.delay)
            yield
        finally:
            self.concurrent -= 1

    async def pause(self, seconds: float) -> None:
        """Wait so long, or until the server stops."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), seconds)

    async def misbehave(self, request: web.Request, fault: Fault) -> web.StreamResponse:
        """Answer as a server broken in this way."""
        if fault in _BODIES:
            status, body = _BODIES[fault]
            return web.Response(status=status, body=body, headers={"content-type": _CONTENT_TYPE})
        if fault == "redirect":
            return web.Response(status=302, headers={"location": request.path})
        if fault == "drip":
            return await self._drip(request)
        if fault in {"huge", "bomb"}:
            return await _serve_huge(request, compressed=fault == "bomb")
        if fault == "cut":
            response = web.StreamResponse(headers={"content-length": "1000"})
            await response.prepare(request)
            await response.write(b"half an ans")
        if fault == "hang":
            await self._closing.wait()
        if fault == "not_http" and request.transport is not None:
            request.transport.write(b"220 mail.example.com ESMTP\r\n\r\n")
            request.transport.close()
        else:
            _reset(request)
        return web.Response()

    async def _drip(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": _CONTENT_TYPE})
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while not self._closing.is_set():
                await response.write(b".")
                await self.pause(_DRIP_EVERY)
        return response

    async def _get_control(self, _: web.Request) -> web.Response:
        return web.json_response(self.report())

    async def _post_control(self, request: web.Request) -> web.Response:
        try:
            said = self.control(await request.json())
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            return web.json_response({"error": f"{type(error).__name__}: {error}"}, status=400)
        return web.json_response({"ok": True, **(said or {})})


def take_common(stand_in: StandIn, name: str, value: object) -> None:
    """Make a change that every stand-in knows (`fault`, `delay`); raises `ValueError` for any other."""
    if name == "fault":
        if value is not None and value not in FAULTS:
            raise ValueError(f"unknown fault {value!r}")
        stand_in.fault = value
    elif name == "delay" and isinstance(value, int | float):
        stand_in.delay = float(value)
    else:
        raise ValueError(f"unknown or unusable setting {name!r}")


def program_arguments(description: str) -> argparse.ArgumentParser:
    """Return the command line that every stand-in has as a program of its own."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--port", type=int, default=0, help="0 takes any free one")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--config", default="{}", help="a JSON object, as POST /control takes it")
    return parser


async def serve_until_signal(stand_in: StandIn, config: str) -> None:
    """Serve as a program: one JSON line when listening, the end at SIGTERM or SIGINT."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    stand_in.control(json.loads(config))
    async with stand_in:
        sys.stdout.write(json.dumps(stand_in.announcement()) + "\n")
        sys.stdout.flush()
        await stopped.wait()


async def _serve_huge(request: web.Request, *, compressed: bool) -> web.StreamResponse:
    headers = {"content-type": _CONTENT_TYPE} | ({"content-encoding": "gzip"} if compressed else {})
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        if compressed:
            await response.write(_bomb())
        else:
            for _ in range(_HUGE):
                await response.write(_MEBIBYTE)
    return response


@cache
def _bomb() -> bytes:
    packer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)  # 16 asks for gzip's header
    return b"".join([*(packer.compress(_MEBIBYTE) for _ in range(_HUGE)), packer.flush()])


def _reset(request: web.Request) -> None:
    """End the connection with a reset instead of an orderly close."""
    transport = request.transport
    if transport is None:
        return
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
