"""The network between two programs: it lets bytes through until it has to stall, cut or tear them."""

import asyncio
from asyncio import StreamReader, StreamWriter
from contextlib import suppress

from tests.system.harness import eventually

_CHUNK = 65536
_CUT_WITHIN = 30.0
_TORN_OFF = 3  # a frame's end octet and something before it: never the end of a frame


class Proxy:
    """A TCP proxy on a port of 127.0.0.1 that stays its own, for a server on another."""

    def __init__(self, target: int, host: str = "127.0.0.1") -> None:
        self._target = host, target
        self._server: asyncio.Server | None = None
        self._clients: set[StreamWriter] = set()
        self._servers: set[StreamWriter] = set()
        self._lost: set[StreamWriter] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._tearing = self._losing = False
        self._awaited = b""
        self._sighted = asyncio.Event()
        self.port = 0
        self.connections = 0

    async def open(self) -> None:
        """Listen, and let everything through."""
        self._tearing = self._losing = False
        self._flowing.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Listen no more, and cut what is connected; returns once nothing is."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self._flowing.set()
        self.cut()
        await eventually(lambda: not self._clients, _CUT_WITHIN)

    @property
    def is_open(self) -> bool:
        """Whether it listens, and lets everything through."""
        return self._server is not None and self._flowing.is_set() and not (self._tearing or self._losing)

    def cut(self) -> None:
        """Break every connection."""
        for writer in (*self._clients, *self._servers):
            writer.transport.abort()

    def stall(self) -> None:
        """Let nothing through until `open`; it is late then, but complete."""
        self._flowing.clear()

    def tear(self) -> None:
        """Cut each connection, until `open`, in the middle of the next frame that goes through it."""
        self._tearing = True

    def lose(self) -> None:
        """Forget the connections, as a firewall does: the server sees an end, the client only silence.

        `open` lets new ones through; the old ones stay silent.
        """
        self._losing = True
        self._lost |= self._servers
        for writer in self._servers:
            writer.transport.abort()

    async def sees(self, text: bytes) -> None:
        """Wait until this goes through, in one piece."""
        self._awaited = text
        self._sighted.clear()
        await self._sighted.wait()

    async def _serve(self, near_in: StreamReader, near: StreamWriter) -> None:
        self.connections += 1
        self._clients.add(near)
        try:
            with suppress(asyncio.CancelledError):  # at the end of the loop, when nobody waits for it
                await self._forward(near_in, near)
        finally:
            await _close(near)
            self._clients.discard(near)

    async def _forward(self, near_in: StreamReader, near: StreamWriter) -> None:
        if self._losing:
            await _until_gone(near_in)
            return
        try:
            far_in, far = await asyncio.open_connection(*self._target)
        except OSError:
            return
        self._servers.add(far)
        try:
            await asyncio.gather(self._pump(near_in, far), self._pump(far_in, near, far))
            if far in self._lost:
                await _until_gone(near_in)
        finally:
            self._lost.discard(far)
            await _close(far)
            self._servers.discard(far)

    async def _pump(
        self, source: StreamReader, sink: StreamWriter, server: StreamWriter | None = None
    ) -> None:
        with suppress(OSError):
            while chunk := await source.read(_CHUNK):
                await self._flowing.wait()
                if self._awaited and self._awaited in chunk:
                    self._sighted.set()
                if self._tearing:
                    sink.write(chunk[:-_TORN_OFF])
                    break
                sink.write(chunk)
                await sink.drain()
        if server not in self._lost:
            sink.close()


async def _close(writer: StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


async def _until_gone(reader: StreamReader) -> None:
    with suppress(OSError):
        while await reader.read(_CHUNK):
            pass
