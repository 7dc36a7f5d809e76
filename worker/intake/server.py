"""The HTTP server of the intake: who is let in, what is answered, and how slow or large a client may be.

It is aiohttp's low-level server, because the limits that matter here are those of connections and headers:
a parser's error must not repeat the header that holds the token.
"""

import asyncio
import os
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

import orjson
import structlog
from aiohttp import ClientConnectionError, web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler
from typing_extensions import override

from worker.core.errors import InvalidEvent, MessageRefused
from worker.core.events import MAX_BODY
from worker.intake.access import Rates, Tokens, presented, source_of
from worker.intake.relay import Relay
from worker.intake.requests import Record, UnsupportedType, read_body, read_call, read_query
from worker.intake.spool import SpoolError

CALL_ENDED, EVENTS, CHECK = "/vicidial/call-ended", "/events", "/check"

LINGER = 1.0
"""Seconds that the rest of a body that is not read may take, before the connection is closed."""

_log = structlog.get_logger()


class ListenError(Exception):
    """The address of the intake can't be listened on. The text says why."""


class Limits(NamedTuple):
    """What a client may use."""

    body: int = MAX_BODY
    headers: int = 16 * 1024
    """Bytes of the request line and the headers."""
    body_within: float = 10.0
    """Seconds from the headers to the end of the body."""
    idle: float = 15.0
    """Seconds that a connection may take for the headers of a request, and between two requests."""
    requests: int = 256
    """Requests in work at one time."""
    connections: int = 512
    """Open at one time. Half of the files that a process may have by default: the spool needs some, too."""
    connections_of_one: int = 256
    """The same, of one source."""
    stop_within: float = 15.0
    """Seconds that a stop waits for the requests in work."""


class Observer(Protocol):
    """Observes what was answered."""

    def answered(self, endpoint: str, status: int, seconds: float) -> None:
        """Report an answer."""

    def accepted(self, event_id: str, event_type: str, subject: str, stored: str, source: str) -> None:
        """Report an event that is safe."""

    def refused(self, path: str, status: int, error: str, source: str) -> None:
        """Report a request with a right token that was not accepted, in the words of its answer."""

    def turned_away(self, path: str, status: int, error: str, source: str) -> None:
        """Report a request that did not get so far that its token was accepted: anybody can send such."""


class _Refused(Exception):
    """The request is not accepted. The text is the answer."""

    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.headers = headers or {}


class _TurnedAway(_Refused):
    """The same before a token was accepted."""


@dataclass
class Server:
    """Answers the requests."""

    relay: Relay
    tokens: Tokens
    rates: Rates
    observer: Observer
    scrub: Callable[[str], str]
    """Removes the tokens from a text."""
    ready: Callable[[], bool]
    metrics: Callable[[], tuple[bytes, str]]
    """Return the metrics and their content type."""
    limits: Limits
    _in_work: int = field(default=0, init=False)

    @asynccontextmanager
    async def listen(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
        """Serve for as long as the block runs; yield the port. Raises `ListenError`.

        At the end the requests in work are still answered, within a deadline.
        """
        server = _Connections(self)
        try:
            listening = await asyncio.get_running_loop().create_server(
                server,
                host,
                port,
                ssl=tls,
                ssl_handshake_timeout=self.limits.idle if tls else None,
                reuse_address=True,
            )
        except OSError as error:
            number = error.errno or 0  # of a name that is unknown it is negative
            reason = os.strerror(number) if number > 0 else error.strerror or type(error).__name__
            raise ListenError(f"can't listen on {host}:{port}: {reason}") from error
        try:
            yield listening.sockets[0].getsockname()[1]
        finally:
            listening.close()
            server.pre_shutdown()
            await server.shutdown(self.limits.stop_within)

    async def answer(self, request: web.BaseRequest) -> web.Response:
        """Answer one request."""
        began = time.monotonic()
        path = request.path
        endpoint = path if path in _ENDPOINTS else "other"
        try:
            response = await self._answer(request)
        except _Refused as refusal:
            response = self._refuse(request, refusal)
        except (ConnectionError, ClientConnectionError):
            raise
        except Exception:  # noqa: BLE001 - a bug of ours must not end the connection without an answer
            _log.exception("request_failed", path=endpoint)
            response = _text("an error of the intake; its log has more\n", 500)
        self.observer.answered(endpoint, response.status, time.monotonic() - began)
        return response

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        _check_headers(request, self.limits)
        if (method := _ENDPOINTS.get(request.path)) is None:
            raise _TurnedAway(404, f"there is nothing here; events go to {CALL_ENDED} and {EVENTS}")
        if request.method != method and (request.method, request.path) not in _HEADS:
            raise _TurnedAway(405, f"{request.path} takes {method} alone", {"Allow": method})
        match request.path:
            case "/livez":
                return _text("ok\n")
            case "/readyz":
                return _text("ok\n") if self.ready() else _text("the spool takes no events\n", 503)
            case "/metrics":
                body, content_type = self.metrics()
                return web.Response(body=body, headers={"Content-Type": content_type})
            case _:
                self._admit(request)
        return await self._within_limit(self._check() if request.path == CHECK else self._accept(request))

    async def _within_limit(self, work: Coroutine[Any, Any, web.Response]) -> web.Response:
        if self._in_work >= self.limits.requests:
            work.close()
            raise _Refused(503, "not accepted: too many requests are in work", {"Retry-After": "1"})
        self._in_work += 1
        try:
            return await work
        finally:
            self._in_work -= 1

    def _admit(self, request: web.BaseRequest) -> None:
        if not self.rates.admit(source_of(request.remote)):
            raise _TurnedAway(429, "too many requests from this address", {"Retry-After": "1"})
        if not self.tokens.accept(presented(request.headers, request.query)):
            raise _TurnedAway(
                401,
                "the token is missing or wrong; send it as Authorization: Bearer …, or in the query",
                {"WWW-Authenticate": "Bearer"},
            )

    async def _accept(self, request: web.BaseRequest) -> web.Response:
        records = await self._read(request)
        try:
            stored = await self.relay.accept(records) if records else ""
        except SpoolError as error:
            raise _Refused(503, f"not accepted: {error}", {"Retry-After": "5"}) from error
        except MessageRefused as error:
            raise _Refused(422, f"not accepted: {error}") from error
        for record in records:
            source = source_of(request.remote)
            self.observer.accepted(record.id, record.type, record.subject, stored, source)
        if request.path == CALL_ENDED:
            return _text(f"stored {records[0].id}\n")  # PHP takes an empty answer for an error
        return _json({"accepted": [record.id for record in records]})

    async def _read(self, request: web.BaseRequest) -> list[Record]:
        now = datetime.now(UTC)
        try:
            if request.path == CALL_ENDED:
                return [read_call(read_query(request.rel_url.raw_query_string), now)]
            body = await _read_body(request, self.limits)
            return read_body(body, request.headers.get("Content-Type", ""), request.headers.items(), now)
        except InvalidEvent as error:
            raise _Refused(400, str(error)) from error
        except UnsupportedType as error:
            raise _Refused(415, str(error)) from error

    async def _check(self) -> web.Response:
        broker, spool = await self.relay.check()
        status = 503 if broker and spool else 200
        return _json({"broker": broker, "spool": spool}, status)

    def _refuse(self, request: web.BaseRequest, refusal: _Refused) -> web.Response:
        sentence = self.scrub(str(refusal))
        path = request.path if request.path in _ENDPOINTS else "other"
        away = isinstance(refusal, _TurnedAway)
        report = self.observer.turned_away if away else self.observer.refused
        report(path, refusal.status, sentence, source_of(request.remote))
        response = _text(f"{sentence}\n", refusal.status, refusal.headers)
        if request.can_read_body:
            response.force_close()
        return response


_ENDPOINTS = {
    CALL_ENDED: "GET",
    EVENTS: "POST",
    CHECK: "POST",
    "/livez": "GET",
    "/readyz": "GET",
    "/metrics": "GET",
}
_HEADS = {("HEAD", path) for path in ("/livez", "/readyz", "/metrics")}
"""Monitors ask by HEAD, too; for the others that would be an event without an answer."""


def _check_headers(request: web.BaseRequest, limits: Limits) -> None:
    size = len(request.raw_path) + sum(len(name) + len(value) + 4 for name, value in request.raw_headers)
    if size > limits.headers:
        raise _TurnedAway(431, _too_large(limits))


def _too_large(limits: Limits) -> str:
    return f"the address and the headers have more than {limits.headers} bytes"


async def _read_body(request: web.BaseRequest, limits: Limits) -> bytes:
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise _Refused(415, "the body is compressed; send it as it is")
    if (request.content_length or 0) > limits.body:
        raise _Refused(413, f"the body has more than {limits.body} bytes")
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_within):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > limits.body:
                    raise _Refused(413, f"the body has more than {limits.body} bytes")
    except TimeoutError as error:
        raise _Refused(408, f"the body did not come within {limits.body_within:g} s") from error
    except web.RequestPayloadError as error:
        raise _Refused(400, "the body is cut off, or not as its headers say") from error
    return bytes(body)


def _text(text: str, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(text=text, status=status, headers=headers)


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value) + b"\n", status=status, content_type="application/json")


# --- connections ------------------------------------------------------------------------------------


class _Connections(web.Server):
    """Makes the handler of each connection, and closes at once those beyond the limits."""

    def __init__(self, server: Server) -> None:
        super().__init__(server.answer)
        self.owner = server
        self._sources: dict[RequestHandler, str] = {}
        self._of_source: Counter[str] = Counter()

    @override
    def __call__(self) -> RequestHandler:
        return _Connection(self)

    @override
    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        address = transport.get_extra_info("peername")
        source = self._sources[handler] = source_of(address[0] if address else None)
        self._of_source[source] += 1
        limits = self.owner.limits
        if len(self._sources) > limits.connections or self._of_source[source] > limits.connections_of_one:
            handler.force_close()

    @override
    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        source = self._sources.pop(handler)
        self._of_source[source] -= 1
        if not self._of_source[source]:
            del self._of_source[source]
        super().connection_lost(handler, exc)


class _Connection(RequestHandler):
    """A connection whose errors repeat nothing that the client sent, in the answer or the log."""

    __slots__ = ("_owner",)

    def __init__(self, connections: _Connections) -> None:
        self._owner = connections.owner
        limits = self._owner.limits
        super().__init__(
            connections,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]  # aiohttp's own way to have none
            keepalive_timeout=limits.idle,
            lingering_time=LINGER,
            max_line_size=limits.headers,
            max_field_size=limits.headers,
            auto_decompress=False,
        )

    @override
    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the answer to a request that can't be read."""
        status, sentence = 400, "the request is not HTTP, or has too many headers"
        if isinstance(exc, LineTooLong):
            status, sentence = 431, _too_large(self._owner.limits)
        self._owner.observer.turned_away("other", status, sentence, source_of(request.remote))
        self._owner.observer.answered("other", status, 0.0)
        response = _text(f"{sentence}\n", status)
        response.force_close()
        return response

    @override
    def log_exception(self, *args: object, **kw: object) -> None:
        """Log nothing: an exception of aiohttp's parser may hold the token."""
