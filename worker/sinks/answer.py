"""Reading an answer of which the status line decides, whatever comes behind it.

aiohttp refuses some answers whole: two lengths, a body behind a 204, a head
that breaks off. But the request arrived, so what the server answered must
not get lost. `Protocol` keeps the bytes in which an answer begins. Where
aiohttp can't read it, the status is read from them.
"""

import asyncio
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http_parser import RawResponseMessage
from aiohttp.streams import StreamReader
from multidict import CIMultiDict, MultiMapping
from typing_extensions import override

LARGEST = 64 * 1024
"""How much is read of a head, and how much of a body, in bytes."""

_STATUS_LINE = re.compile(rb"[\s\xef\xbb\xbf]*HTTP/[\d.]+[ \t]+(\d{3})(?!\d)[^\n]*\n?", re.IGNORECASE)
_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")


@dataclass(frozen=True, slots=True)
class Answer:
    """The server's answer: its status, and as much of the rest as could be read."""

    status: int
    headers: MultiMapping[str]
    body: bytes = b""

    @classmethod
    def read(cls, data: bytes) -> Self | None:
        """Read the status from the bytes of an answer. Return None if they hold no final status."""
        at = 0
        while (line := _STATUS_LINE.match(data, at)) is not None:
            end = _END_OF_HEAD.search(data, line.end() - 1)
            status = int(line[1])
            if status >= 200:
                head, body = (line.end(), len(data)) if end is None else (line.end(), end.end())
                return cls(status, _fields(data[head:body].splitlines()), data[body:])
            if end is None:
                break
            at = end.end()
        return None

    def field(self, name: str) -> str | None:
        """Return a header's value, of several joined by commas, as RFC 9110, 5.3, says; None without any."""
        return ", ".join(self.headers.getall(name, ())) or None


def _fields(lines: Iterable[bytes]) -> MultiMapping[str]:
    fields = CIMultiDict[str]()
    for line in lines:
        name, colon, value = line.decode("latin-1").partition(":")
        if colon:
            fields.add(name.strip(), value.strip())
    return fields


class UnreadableAnswer(Exception):
    """Bytes of an answer came, and aiohttp could not read them. `answer` is None without a status line."""

    def __init__(self, answer: Answer | None) -> None:
        """Take what could be read all the same."""
        super().__init__()
        self.answer = answer


class Protocol(ResponseHandler):
    """aiohttp's reader of one connection. Keeps the first bytes of the present answer."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin without a request."""
        super().__init__(loop)
        self.first = bytearray()

    @override
    def is_connected(self) -> bool:
        """Return whether a request can go here. Not if an answer came that nobody had asked for."""
        return super().is_connected() and not self._buffer

    @override
    def set_response_params(self, **parameters: Any) -> None:
        """Begin a request."""
        self.first.clear()
        super().set_response_params(**parameters)

    @override
    def data_received(self, data: bytes) -> None:
        """Keep what came, and let aiohttp read it."""
        if len(self.first) < LARGEST:
            self.first += data[: LARGEST - len(self.first)]
        super().data_received(data)

    @override
    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        """Hand a head over. Close after a 204 that announces a body: nobody knows if one will come."""
        message, _ = data
        if message.code == 204 and (message.chunked or message.headers.get("Content-Length", "0") != "0"):
            self.force_close()
        super().feed_data(data, size)


class Response(aiohttp.ClientResponse):
    """A response that raises `UnreadableAnswer` if bytes of it came before it failed."""

    @override
    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        """Read the head. Raises what aiohttp does if nothing came, or not in time."""
        protocol = connection.protocol
        try:
            return await super().start(connection)
        except (aiohttp.ClientError, OSError) as error:
            first = bytes(protocol.first) if isinstance(protocol, Protocol) else b""
            answer = Answer.read(first)
            if answer is None and (not first or isinstance(error, TimeoutError)):
                raise
            raise UnreadableAnswer(answer) from error


class Connector(aiohttp.TCPConnector):
    """Opens connections that `Protocol` reads."""

    def __init__(self, **parameters: Any) -> None:  # noqa: ANN401 - as they are aiohttp's
        """Take what aiohttp's connector does."""
        super().__init__(**parameters)
        self._factory = partial(Protocol, loop=self._loop)  # type: ignore[assignment]  # not covariant
