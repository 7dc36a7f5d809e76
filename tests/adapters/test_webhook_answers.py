"""The status line of the CRM's answer decides, whatever comes behind it."""

import asyncio
import gzip
import time
import zlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.adapters.raw import Connection, RawServer, until
from tests.adapters.webhook import PAYLOAD, connected, rejected, unavailable
from worker.core.errors import FailureKind
from worker.core.payload import Payload
from worker.core.ports import Receipt
from worker.http import LARGEST, Answer

POLICY = "Content-Security-Policy: " + "x" * 9400
BROTLI_OK = b"\x0b\x00\x80ok\x03"

TWO_LENGTHS = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok"

ANSWERS = {
    "204 with chunks": (b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 204),
    "204 with a body": (b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok", 204),
    "brotli": (
        b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 6\r\n\r\n" + BROTLI_OK,
        200,
    ),
    "no zstd": (b"HTTP/1.1 200 OK\r\nContent-Encoding: zstd\r\nContent-Length: 2\r\n\r\nok", 200),
    "no gzip": (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok", 200),
    "a long header": (f"HTTP/1.1 200 OK\r\n{POLICY}\r\nContent-Length: 2\r\n\r\nok".encode(), 200),
    "a header that is far too long": (
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 3 * LARGEST + b"\r\nContent-Length: 2\r\n\r\nok",
        200,
    ),
    "300 headers": (b"HTTP/1.1 202 OK\r\n" + b"X: y\r\n" * 300 + b"Content-Length: 2\r\n\r\nok", 202),
    "two equal lengths": (TWO_LENGTHS, 200),
    "two lengths": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", 200),
    "a length and chunks": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        200,
    ),
    "a length that is none": (b"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nok", 200),
    "an empty length": (b"HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n", 200),
    "chunks that are none": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nok\r\n", 200),
    "an unknown transfer encoding": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: x\r\n\r\nok", 200),
    "more than its length": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more", 200),
    "a header without a colon": (b"HTTP/1.1 200 OK\r\nnonsense\r\nContent-Length: 0\r\n\r\n", 200),
    "a header without a name": (b"HTTP/1.1 200 OK\r\n: x\r\nContent-Length: 0\r\n\r\n", 200),
    "a blank before the colon": (b"HTTP/1.1 200 OK\r\nX : x\r\nContent-Length: 0\r\n\r\n", 200),
    "a folded header": (b"HTTP/1.1 200 OK\r\nX: x\r\n y\r\nContent-Length: 0\r\n\r\n", 200),
    "a header of other bytes": (b"HTTP/1.1 200 OK\r\nX: \xff\xfe\r\nContent-Length: 0\r\n\r\n", 200),
    "a header with a NUL": (b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n", 200),
    "a header name of other bytes": (b"HTTP/1.1 200 OK\r\n\xc3\xa9: x\r\nContent-Length: 0\r\n\r\n", 200),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", 200),
    "a reason of other bytes": (b"HTTP/1.1 200 D\xe9j\xe0\r\nContent-Length: 0\r\n\r\n", 200),
    "two blanks": (b"HTTP/1.1  200  OK\r\nContent-Length: 0\r\n\r\n", 200),
    "small letters": (b"http/1.1 200 ok\r\ncontent-length: 0\r\n\r\n", 200),
    "line feeds": (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", 200),
    "version 1.0": (b"HTTP/1.0 200 OK\r\n\r\nok", 200),
    "another version": (b"HTTP/1.7 200 OK\r\nContent-Length: 0\r\n\r\n", 200),
    "version 2": (b"HTTP/2 200\r\ncontent-length: 0\r\n\r\n", 200),
    "empty lines first": (b"\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200),
    "a byte order mark first": (b"\xef\xbb\xbfHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200),
    "an answer before the answer": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        200,
    ),
    "hints before a broken answer": (
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + TWO_LENGTHS.replace(b"200", b"201"),
        201,
    ),
    "an upgrade": (b"HTTP/1.1 200 OK\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n", 200),
    "a connection to be closed": (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", 200),
    "a conflict": (b"HTTP/1.1 409 Conflict\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", 409),
}


def always(answer: bytes, *, piece: int | None = None, then: str = "") -> Callable[[Connection], Any]:
    """Answer every request of a connection with these bytes, in pieces of one size if wanted."""

    async def serve(connection: Connection) -> None:
        while True:
            await connection.request()
            for at in range(0, len(answer), piece or len(answer)):
                await connection.send(answer[at : at + (piece or len(answer))])
                if piece:
                    await asyncio.sleep(0)  # so that it is written by itself
            if then == "close":
                return
            if then == "reset":
                connection.reset()
                return

    return serve


@pytest.mark.parametrize("piece", [None, 30])
@pytest.mark.parametrize(("answer", "status"), ANSWERS.values(), ids=ANSWERS)
async def test_one_post_for_each_event_whatever_comes_behind_the_status(
    answer: bytes, status: int, piece: int | None
) -> None:
    seen: list[bytes] = []

    async def serve(connection: Connection) -> None:
        async def request() -> bytes:
            seen.append(await Connection.request(connection))
            return seen[-1]

        connection.request = request  # type: ignore[method-assign]
        await always(answer, piece=min(piece, len(answer)) if piece else None)(connection)

    async with RawServer(serve) as server, connected(server.url, timeout=5, body_seconds=0.05) as sink:
        for number in range(5):
            payload = Payload(f"event-{number}", PAYLOAD.type, PAYLOAD.body)
            assert await sink.deliver(payload) == Receipt(str(status))
    assert len(seen) == 5


STATUS = b"HTTP/1.1 200 OK\r\n"
CUT = {
    "within the reason": b"HTTP/1.1 200 O",
    "after the status": b"HTTP/1.1 200",
    "after the status line": STATUS,
    "within a header": STATUS + b"Content-Le",
    "within the head": STATUS + b"Content-Length: 2\r\n",
    "before the last line feed": STATUS + b"Content-Length: 0\r\n\r",
    "within the body": STATUS + b"Content-Length: 200\r\n\r\nok",
    "within a chunk": STATUS + b"Transfer-Encoding: chunked\r\n\r\n20\r\nok",
    "before the last chunk": STATUS + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
}


@pytest.mark.parametrize("then", ["close", "reset", "stall"])
@pytest.mark.parametrize("answer", CUT.values(), ids=CUT)
async def test_an_answer_that_breaks_off_behind_its_status_is_one(answer: bytes, then: str) -> None:

    async def serve(connection: Connection) -> None:
        await connection.request()
        await connection.send(answer)
        if then == "reset":
            await asyncio.sleep(0.05)  # what is not read when a reset comes is lost
            connection.reset()
        elif then == "stall":
            await connection.gone()

    async with RawServer(serve) as server, connected(server.url, timeout=1, body_seconds=0.05) as sink:
        assert await sink.deliver(PAYLOAD) == Receipt("200")


async def test_headers_that_never_end_change_no_status() -> None:
    async def serve(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\n")
        while True:
            await connection.send(b"x-more: " + b"y" * 4000 + b"\r\n")

    async with RawServer(serve) as server, connected(server.url) as sink:
        assert await sink.deliver(PAYLOAD) == Receipt("200")


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
async def test_an_answer_before_the_request_was_read_is_one() -> None:
    async def serve(connection: Connection) -> None:
        await connection.answer(b"")
        await asyncio.sleep(60)

    large = Payload("large", PAYLOAD.type, bytes(16 * 1024 * 1024))
    async with RawServer(serve) as server, connected(server.url) as sink:
        started = time.monotonic()
        assert await sink.deliver(large) == Receipt("200")
        assert time.monotonic() - started < 4


async def test_what_comes_unasked_is_nobodys_answer() -> None:
    """A second answer to the first request must not stand for the answer to the next."""

    async def serve(connection: Connection) -> None:
        await connection.request()
        await connection.answer(b"")
        await connection.answer(b"")
        await connection.request()
        await connection.answer(b"", start=b"HTTP/1.1 500 No\r\n")

    async with RawServer(serve) as server, connected(server.url) as sink:
        await sink.deliver(PAYLOAD)
        pool: Any = vars(sink._session.connector)["_conns"]  # noqa: SLF001 - nothing else shows what arrived
        kept = [protocol for each in pool.values() for protocol, _ in each]
        await until(lambda: not any(protocol.is_connected() for protocol in kept))
        await sink.deliver(PAYLOAD)
        assert server.connections == 2


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
NOT_HTTP = [b"SSH-2.0-OpenSSH_9.6\r\n", b"\x15\x03\x01\x00\x02\x02\x46", b"ok", b"HTTP/1.1 OK\r\n\r\n", b"{}"]


@pytest.mark.parametrize(
    ("answer", "then"),
    [
        *((answer, then) for answer in NOT_HTTP for then in ("", "close")),
        (CONTINUE, "close"),
        (b"HTT", "close"),
    ],
)
async def test_an_answer_without_a_status_is_not_reported_as_none(answer: bytes, then: str) -> None:
    async with (
        RawServer(always(answer, then=then)) as server,
        connected(server.url, timeout=5) as sink,
    ):
        error = await unavailable(sink)
    assert str(error) == "the webhook's answer is not HTTP, or breaks off before its status; check sink.url"
    assert (error.kind, error.answered) == (FailureKind.OUTAGE, True)


def failed(status: str, *headers: str) -> bytes:
    """Make an answer that aiohttp can't read."""
    lines = [f"HTTP/1.1 {status}", "Content-Length: 2", "Content-Length: 2", *headers, "", "ok"]
    return "\r\n".join(lines).encode()


async def test_an_answer_that_only_promises_one_is_none() -> None:
    async with RawServer(always(CONTINUE)) as server, connected(server.url, timeout=0.2) as sink:
        assert str(await unavailable(sink)) == "the webhook did not answer within 0.2 s"


async def test_every_status_of_an_answer_that_aiohttp_refuses_means_the_same() -> None:
    async def ask(answer: bytes) -> Any:  # noqa: ANN401 - each kind of error
        async with RawServer(always(answer)) as server, connected(server.url) as sink:
            refuses = answer.startswith((b"HTTP/1.1 3", b"HTTP/1.1 42"))
            return await (rejected if refuses else unavailable)(sink)

    assert await ask(failed("422 No")) == "the webhook answered 422: 'ok'"
    assert "redirect to login.example" in await ask(failed("302 Found", "Location: https://login.example/"))
    assert (await ask(failed("401 No"))).kind is FailureKind.REFUSED
    assert (await ask(failed("500 No"))).answered
    busy = await ask(failed("503 Busy", "Retry-After: 17"))
    assert (busy.kind, busy.retry_after) == (FailureKind.BUSY, timedelta(seconds=17))


@pytest.mark.parametrize("status", ["101 Switching Protocols", "600 What", "999 No"])
async def test_a_status_that_means_nothing_is_retried(status: str) -> None:
    answer = f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode()
    async with RawServer(always(answer)) as server, connected(server.url) as sink:
        error = await unavailable(sink)
    assert f"answered {status[:3]}" in str(error)
    assert error.answered


async def encoded(body: bytes, encoding: str) -> str:
    """Return what is said of a refusal with this body."""
    head = f"HTTP/1.1 422 No\r\nContent-Encoding: {encoding}\r\nContent-Length: {len(body)}\r\n\r\n"
    async with RawServer(always(head.encode() + body)) as server, connected(server.url) as sink:
        return await rejected(sink)


async def test_a_refusal_is_one_however_its_body_is_encoded() -> None:
    text = b"no such lead"
    for body, encoding in [
        (text, "identity"),
        (gzip.compress(text), "gzip"),
        (zlib.compress(text), "deflate"),
    ]:
        assert await encoded(body, encoding) == "the webhook answered 422: 'no such lead'"
    for body, encoding in [(BROTLI_OK, "br"), (b"ok", "zstd"), (b"ok", "gzip"), (b"ok", "gzip, br")]:
        said = f"(its body could not be decoded; it is encoded as {encoding!r})"
        assert await encoded(body, encoding) == f"the webhook answered 422: {said}"


@given(
    st.binary(max_size=60) | st.from_regex(rb"HTTP/1.1 [1-5]\d\d\r\n(X: y\r\n)?\r\n.{0,9}", fullmatch=True)
)
def test_whatever_comes_it_has_a_final_status_or_none(data: bytes) -> None:
    answer = Answer.read(data)
    assert answer is None or 200 <= answer.status <= 999
