"""What the HTTP clients share: a session's limits, why a request failed, and answers that aiohttp refuses.

aiohttp refuses some answers whole: two lengths, a body behind a 204, a head that breaks off. But the request
arrived, so the server's answer must not get lost: `Protocol` keeps the bytes in which an answer begins, and
the status is read from them if aiohttp can't read it.
"""

import asyncio
import re
import zlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any, Self

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http_parser import RawResponseMessage
from aiohttp.streams import StreamReader
from multidict import CIMultiDict, MultiMapping
from typing_extensions import override

from worker import __version__

LARGEST = 64 * 1024
"""How many bytes are read of a head."""

_STATUS_LINE = re.compile(rb"[\s\xef\xbb\xbf]*HTTP/[\d.]+[ \t]+(\d{3})(?!\d)[^\n]*\n?", re.IGNORECASE)
_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
_CHUNK = re.compile(rb"(?:\r?\n)?([0-9A-Fa-f]{1,8})[^\n]*\n")
_GZIP_OR_ZLIB, _RAW_DEFLATE = 32 + zlib.MAX_WBITS, -zlib.MAX_WBITS
_NO_CODING = frozenset({"", "identity", "none", "binary", "8bit", "utf-8", "utf8"})
"""No coding, or what servers write by mistake if there is none."""
_CODINGS = frozenset({"gzip", "x-gzip", "deflate"})


def open_session(
    timeout: timedelta,
    connector: aiohttp.BaseConnector,
    headers: Mapping[str, str],
    *,
    longest_line: int,
    **more: Any,  # noqa: ANN401 - as they are aiohttp's
) -> aiohttp.ClientSession:
    """Open a session with every limit set, without cookies, that leaves bodies as they are.

    `longest_line` limits each line of an answer's head. The caller closes the session.
    """
    return aiohttp.ClientSession(
        connector=connector,
        # The total bounds every part of a request; bounds of their own would only cost timers.
        timeout=aiohttp.ClientTimeout(
            total=timeout.total_seconds(), connect=None, sock_connect=None, sock_read=None
        ),
        headers={"User-Agent": f"crm-sync/{__version__}", **headers},
        auto_decompress=False,  # aiohttp refuses a whole answer if it does not know its coding
        cookie_jar=aiohttp.DummyCookieJar(),
        max_line_size=longest_line,
        max_field_size=longest_line,
        **more,
    )


def describe_failure(error: Exception, server: str, setting: str, timeout: timedelta) -> str:
    """Return why a request got no answer; `setting` names the setting that holds the address of `server`."""
    match error:
        case TimeoutError():
            return f"{server} did not answer within {timeout.total_seconds():g} s"
        case UnreadableAnswer():
            return f"{server}'s answer is not HTTP, or breaks off before its status; check {setting}"
        case aiohttp.ClientConnectorCertificateError():
            return f"{server}'s TLS certificate can't be verified; check {setting}"
        case aiohttp.ClientSSLError():
            return f"there is no TLS at {server}, or of another kind; check the port and https in {setting}"
        case _:
            return f"{server} can't be reached ({type(error).__name__}); check {setting} and the network"


# --- answers, whatever comes behind the status line


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
                body = len(data) if end is None else end.end()
                fields = _fields(data[line.end() : body].splitlines())
                chunked = "chunked" in fields.get("Transfer-Encoding", "").lower()
                return cls(status, fields, _chunks(data, body) if chunked else data[body:])
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


def _chunks(data: bytes, at: int) -> bytes:
    """Return what the chunks from this position on hold, as far as they are there."""
    body = bytearray()
    while (size := _CHUNK.match(data, at)) is not None and int(size[1], 16) > 0:
        at = size.end() + int(size[1], 16)
        body += data[size.end() : at]
    return bytes(body)


class UnreadableAnswer(Exception):
    """Bytes of an answer came, and aiohttp could not read them. `answer` is None without a status line."""

    def __init__(self, answer: Answer | None) -> None:
        super().__init__()
        self.answer = answer


async def answer_of(
    request: AbstractAsyncContextManager[aiohttp.ClientResponse],
    read: Callable[[aiohttp.ClientResponse], Awaitable[bytes]],
) -> Answer:
    """Send a request, and return its answer once the status is known: nothing that fails later changes it.

    Raises what aiohttp does (`OSError` or `aiohttp.ClientError`), and `UnreadableAnswer` without a status.
    """
    answer = None
    try:
        async with request as response:
            answer = Answer(response.status, response.headers)
            answer = replace(answer, body=await read(response))
    except UnreadableAnswer as error:
        if error.answer is None:
            raise
        return error.answer
    except (aiohttp.ClientError, OSError):
        if answer is None:
            raise
    return answer


class Protocol(ResponseHandler):
    """aiohttp's reader of one connection. Keeps the first bytes of the present answer."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.first = bytearray()

    @override
    def is_connected(self) -> bool:
        """Return whether a request can be sent. Not if an answer came that nobody had asked for."""
        return super().is_connected() and not self._buffer

    @override
    def data_received(self, data: bytes) -> None:
        """Keep what came, and let aiohttp read it."""
        if len(self.first) < LARGEST:
            self.first += data[: LARGEST - len(self.first)]
        super().data_received(data)

    @override
    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        """Pass a head on. Close after a 204 that announces a body: nobody knows if one will come."""
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
        first = protocol.first if isinstance(protocol, Protocol) else bytearray()
        first.clear()  # nothing was awaited since the request was sent
        try:
            return await super().start(connection)
        except (aiohttp.ClientError, OSError) as error:
            answer = Answer.read(bytes(first))
            if answer is None and (not first or isinstance(error, TimeoutError)):
                raise
            raise UnreadableAnswer(answer) from error


class Connector(aiohttp.TCPConnector):
    """Opens connections that `Protocol` reads."""

    def __init__(self, **parameters: Any) -> None:  # noqa: ANN401 - as they are aiohttp's
        super().__init__(**parameters)
        self._factory = partial(Protocol, loop=self._loop)  # type: ignore[assignment]  # not covariant


def decoded(body: bytes, encoding: str, most: int) -> bytes | None:
    """Undo encodings that were not asked for, up to `most` bytes. Return None if one can't be undone."""
    for coding in reversed([each.strip().lower() for each in encoding.split(",")]):
        if coding in _NO_CODING:
            continue
        inflated = _inflated(body, most) if coding in _CODINGS else None
        if inflated is None:
            return None
        body = inflated
    return body


def _inflated(body: bytes, most: int) -> bytes | None:
    for form in (_GZIP_OR_ZLIB, _RAW_DEFLATE):
        with suppress(zlib.error):
            return zlib.decompressobj(form).decompress(body, most)
    return None
