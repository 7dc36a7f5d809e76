"""Once a byte of an answer has arrived the dialer can be reached, and the status line decides what it was."""

import gzip
import zlib
from collections.abc import Callable
from datetime import timedelta

import pytest
from pydantic import SecretStr

from simulators.dialer import DEFAULT_PASSWORD
from tests.adapters.dialer_client import CALL, ROW, TIMES, connected, failure, put_off
from tests.adapters.raw import Connection, RawServer
from worker.core.errors import EnrichmentUnavailable, FailureKind

BODY = ROW.encode()
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
OK = b"HTTP/1.1 200 OK\r\n"


def serving(data: bytes) -> RawServer:
    async def serve(connection: Connection) -> None:
        while True:
            await connection.request()
            await connection.send(data)

    return RawServer(serve)


def encoded(coding: str, body: bytes) -> bytes:
    return OK + f"Content-Encoding: {coding}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def raw_deflate(body: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(body) + stream.flush()


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (encoded("br", b"ok"), "its Content-Encoding is br"),
        (encoded("br", b"\x0b\x00\x80ok\x03"), "its Content-Encoding is br"),
        (encoded("zstd", b"ok"), "its Content-Encoding is zstd"),
        (encoded("compress", BODY), "its Content-Encoding is compress"),
        (encoded("gzip, br", b"ok"), "its Content-Encoding is br"),
        (encoded(f"|6666|{DEFAULT_PASSWORD}|", b"ok"), "its Content-Encoding is unknown"),
        (encoded("gzip", BODY), "not in the gzip that its Content-Encoding names"),
        (
            encoded("gzip", gzip.compress(BODY, mtime=0)[:-9]),
            "not in the gzip that its Content-Encoding names",
        ),
        (encoded("deflate", BODY), "not in the deflate that its Content-Encoding names"),
        (OK + LENGTH * 2 + b"\r\n" + BODY, "no valid HTTP (Duplicate Content-Length)"),
        (OK + LENGTH + b"Content-Length: 2\r\n\r\n" + BODY, "no valid HTTP (Duplicate Content-Length)"),
        (OK + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "no valid HTTP ("),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n", "no valid HTTP ("),
        (OK + b"Content-Length: -2\r\n\r\nok", "no valid HTTP ("),
        (OK + b"no header\r\n\r\n" + BODY, "no valid HTTP ("),
        (OK + b"X: " + b"x" * 70_000 + b"\r\n\r\n" + BODY, "no valid HTTP (Got more than 32768 bytes"),
        (BODY, "no valid HTTP (Bad status line: Expected HTTP/, RTSP/ or ICE/)"),
        (f"|6666|{DEFAULT_PASSWORD}|\r\n\r\n".encode(), "no valid HTTP (Bad status line"),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok", "no valid HTTP ("),
    ],
)
async def test_an_answer_that_can_not_be_decoded_is_called_that(answer: bytes, what: str) -> None:
    async with serving(answer) as server, connected(server.url, timeout=timedelta(seconds=5)) as client:
        said = await failure(client)
        with pytest.raises(EnrichmentUnavailable, match="could not be decoded"):
            await client.version()
    assert "the dialer's answer could not be decoded: it" in said
    assert what in said
    assert "reached" not in said
    assert CALL not in said


@pytest.mark.parametrize(
    "answer",
    [
        encoded("gzip", gzip.compress(BODY, mtime=0)),
        encoded("X-GZIP", gzip.compress(BODY, mtime=0)),
        encoded("deflate", zlib.compress(BODY)),
        encoded("deflate", raw_deflate(BODY)),
        encoded("deflate, gzip", gzip.compress(zlib.compress(BODY))),
        encoded("identity", BODY),
        encoded("UTF-8", BODY),
        OK + b"Content-Security-Policy: " + b"x" * 9400 + b"\r\n" + LENGTH + b"\r\n" + BODY,
        OK + b"".join(b"X-%d: x\r\n" % at for at in range(200)) + LENGTH + b"\r\n" + BODY,
        OK.replace(b"\r", b"") + LENGTH.replace(b"\r", b"") + b"\n" + BODY,
        OK + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY),
    ],
)
async def test_an_unusual_answer_is_read(answer: bytes) -> None:
    async with serving(answer) as server, connected(server.url) as client:
        assert (await client.callid_info(CALL, TIMES)).call.talk_seconds == 120


async def test_only_what_can_be_decoded_is_asked_for() -> None:
    asked: list[bytes] = []

    async def serve(connection: Connection) -> None:
        asked.append(await connection.request())
        await connection.answer(BODY)

    async with RawServer(serve) as server, connected(server.url) as client:
        await client.callid_info(CALL, TIMES)
    [request] = asked
    assert b"\r\naccept-encoding: gzip, deflate\r\n" in request.lower()


@pytest.mark.parametrize(
    ("sent", "what"),
    [
        (OK + b"Content-Length: 100\r\n\r\nok", "answer was not complete within 0.2 s"),
        (OK + b"Content-Length: 100\r\n", "did not answer within 0.2 s"),
        (b"", "did not answer within 0.2 s"),
    ],
)
async def test_an_answer_that_stops_midway_is_not_called_no_answer(sent: bytes, what: str) -> None:
    async with (
        serving(sent) as server,
        connected(server.url, timeout=timedelta(seconds=0.2)) as client,
    ):
        assert what in await failure(client)


@pytest.mark.parametrize("sent", [OK + b"Content-Length: 100\r\n\r\nok", OK + LENGTH + b"\r\n"])
async def test_an_answer_that_breaks_off_is_called_that(sent: bytes) -> None:
    async def serve(connection: Connection) -> None:
        await connection.request()
        await connection.send(sent)

    async with RawServer(serve) as server, connected(server.url) as client:
        assert "the dialer's answer broke off" in await failure(client)


SECRET = "Pl4ntedS3cret9"
LOGIN = f"ERROR: Login incorrect, please try again: |6666|{DEFAULT_PASSWORD}|BAD|\n"
UNKNOWN = f"ERROR: something new, {SECRET}, |6666|{SECRET}|BAD|\nand {SECRET}\n"
FORMS: dict[str, Callable[[str], bytes]] = {
    "ff fe, then ASCII": lambda text: b"\xff\xfe" + text.encode(),
    "fe ff, then ASCII": lambda text: b"\xfe\xff" + text.encode(),
    "a mark of UTF-8": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "UTF-16 with a mark": lambda text: text.encode("utf-16"),
    "UTF-16": lambda text: text.encode("utf-16-le"),
    "UTF-16, big-endian": lambda text: text.encode("utf-16-be"),
    "UTF-16, a mark of the other order": lambda text: b"\xfe\xff" + text.encode("utf-16-le"),
    "UTF-32": lambda text: text.encode("utf-32"),
    "NUL first": lambda text: b"\x00\x00" + text.encode(),
    "NUL between some": lambda text: b"E\x00R\x00ROR" + text[5:].replace("t", "t\0").encode(),
    "zero-width characters between": lambda text: "\u200b".join(text).encode(),
}


def answering(body: bytes) -> RawServer:
    return serving(OK + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))


@pytest.mark.parametrize("form", FORMS)
async def test_a_refused_login_stops_all_requests_whatever_stands_before_it(form: str) -> None:
    async with answering(FORMS[form](LOGIN)) as server, connected(server.url) as client:
        said = await failure(client, FailureKind.REFUSED)
        assert "LOGIN INCORRECT" in said
        assert client.guard.lockout.refusing
        assert "LOGIN INCORRECT" in await put_off(client)


@pytest.mark.parametrize("form", FORMS)
async def test_no_password_is_shown_of_an_answer_that_can_not_be_read(form: str) -> None:
    async with (
        answering(FORMS[form](UNKNOWN)) as server,
        connected(server.url, password=SecretStr(SECRET)) as client,
    ):
        said = await failure(client, FailureKind.UNREADABLE)
    for part in (SECRET[at : at + 4] for at in range(len(SECRET) - 3)):
        assert part not in "".join(filter(str.isalnum, said)), said


async def test_of_an_answer_that_is_no_text_only_the_length_is_shown() -> None:
    async with answering(b"\x7fELF\x02\x01\xff\xfe" * 100) as server, connected(server.url) as client:
        said = await failure(client, FailureKind.UNREADABLE)
    assert said.endswith("characters, not all of them text)")
