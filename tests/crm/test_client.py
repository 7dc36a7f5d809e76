"""The client of a CRM: what it sends byte by byte, and what it makes of answers of every kind."""

import codecs
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from tests.adapters.raw import Connection, RawServer
from worker.core.errors import DeliveryUnavailable, FailureKind, MappingFailed
from worker.crm.answers import Answer
from worker.crm.client import LARGEST_BODY, CrmClient, open_session
from worker.crm.limits import Limits
from worker.crm.preset import Limit
from worker.crm.steps import HttpRequest

SECOND = timedelta(seconds=1)


class Crm:
    """Answers every request with the same bytes, and remembers the requests."""

    def __init__(self) -> None:
        self.head = b"HTTP/1.1 200 OK\r\n"
        self.body = b"{}"
        self.headers: tuple[str, ...] = ()
        self.raw: bytes | None = None
        self.requests: list[bytes] = []
        self.seen: list[str] = []

    async def __call__(self, connection: Connection) -> None:
        while True:
            self.requests.append(await connection.request())
            if self.raw is not None:
                await connection.send(self.raw)
                return
            await connection.answer(self.body, *self.headers, start=self.head)

    async def ask(self, path: str = "/calls", limits: Limits | None = None, **said: Any) -> Answer:  # noqa: ANN401
        parts = {"method": "POST", "query": {}, "headers": {}, **said}
        async with open_session(2 * SECOND, 2) as session:
            client = CrmClient(session, limits or Limits([]), 2 * SECOND, observe=self.seen.append)
            return await client.send(HttpRequest("record", url=self.url + path, path=path, **parts))

    url = ""

    @property
    def lines(self) -> list[str]:
        return self.requests[-1].partition(b"\r\n\r\n")[0].decode().split("\r\n")

    @property
    def sent(self) -> bytes:
        return self.requests[-1].partition(b"\r\n\r\n")[2]


@pytest.fixture
async def crm() -> AsyncIterator[Crm]:
    served = Crm()
    async with RawServer(served) as server:
        served.url = f"http://127.0.0.1:{server.port}"
        yield served


# --- what is sent ---------------------------------------------------------------------------------


async def test_a_body_is_json_with_a_query_and_headers(crm: Crm) -> None:
    query = {"q": "FIND {1 2} & more+", "where[0][a]": "b"}
    await crm.ask(query=query, headers={"Authorization": "Bearer x"}, body={"name": "Zoë", "n": None})
    assert crm.lines[0] == "POST /calls?q=FIND%20%7B1%202%7D%20%26%20more%2B&where%5B0%5D%5Ba%5D=b HTTP/1.1"
    assert {"Content-Type: application/json", "Authorization: Bearer x", "Accept: application/json"} <= {
        *crm.lines
    }
    assert json.loads(crm.sent) == {"name": "Zoë", "n": None}
    assert "Zoë".encode() in crm.sent


async def test_a_form_is_one(crm: Crm) -> None:
    await crm.ask(form={"operation": "create", "element": '{"a":"ü &"}'})
    assert "Content-Type: application/x-www-form-urlencoded" in crm.lines
    assert crm.sent == b"operation=create&element=%7B%22a%22%3A%22%C3%BC+%26%22%7D"


async def test_the_preset_may_name_another_type_of_content(crm: Crm) -> None:
    await crm.ask(headers={"content-type": "application/vnd.api+json"}, body={})
    types = [line for line in crm.lines if line.lower().startswith("content-type")]
    assert [line.partition(": ")[2] for line in types] == ["application/vnd.api+json"]
    await crm.ask(method="GET")
    assert crm.lines[0] == "GET /calls HTTP/1.1"
    assert (crm.sent, [line for line in crm.lines if "ontent" in line]) == (b"", [])


async def test_a_path_is_sent_as_it_is_quoted_and_can_not_break_out_of_its_line(crm: Crm) -> None:
    await crm.ask("/calls(a%2Fb)/x y\r\nEvil: 1?a=1", query={"b": "2"})
    assert crm.lines[0] == "POST /calls(a%2Fb)/x%20y%0D%0AEvil:%201?a=1&b=2 HTTP/1.1"
    assert not [line for line in crm.lines if line.startswith("Evil")]


@pytest.mark.parametrize("body", [float("nan"), {"a": {1, 2}}])
async def test_a_body_that_is_no_json_is_a_mapping_that_failed(crm: Crm, body: Any) -> None:  # noqa: ANN401
    with pytest.raises(MappingFailed, match="record: the body can't be written as JSON"):
        await crm.ask(body=body)
    assert crm.requests == []


async def test_our_limits_come_before_the_request(crm: Crm) -> None:
    limits = Limits([Limit(rate=1, per=timedelta(seconds=100))])
    await crm.ask(limits=limits)
    with pytest.raises(DeliveryUnavailable) as caught:
        await crm.ask(limits=limits)
    assert (caught.value.kind, len(crm.requests)) == (FailureKind.BUSY, 1)


# --- what is answered -----------------------------------------------------------------------------


async def test_an_answer_has_its_status_its_headers_and_its_parsed_body(crm: Crm) -> None:
    crm.head, crm.body = b"HTTP/1.1 207 Some\r\n", b'\xef\xbb\xbf{"id": "\xc3\xbc"}'
    crm.headers = ("X-Wait: 3", "x-wait: 4", "Set-Cookie: a=b")
    answer = await crm.ask()
    assert (answer.status, answer.body, answer.is_json) == (207, {"id": "ü"}, True)
    assert answer.headers["x-wait"] == "3, 4"
    assert crm.seen == ["2xx"]


@pytest.mark.parametrize("body", [b"", b"<html>", b"{", b"[" * 100_000, b"\xff"])
async def test_a_body_that_is_no_json_is_text(crm: Crm, body: bytes) -> None:
    crm.body = body
    answer = await crm.ask()
    assert (answer.status, answer.body, answer.is_json) == (200, None, False)
    assert answer.text == body.decode("utf-8", "replace")


async def test_a_body_may_be_compressed_though_nobody_asked_for_it(crm: Crm) -> None:
    crm.body, crm.headers = gzip.compress(b'{"id": 1}'), ("Content-Encoding: gzip",)
    assert (await crm.ask()).body == {"id": 1}
    crm.headers = ("Content-Encoding: br",)
    answer = await crm.ask()
    assert (answer.text, answer.is_json) == ("", False)


@pytest.mark.parametrize(
    "body",
    [
        codecs.BOM_UTF8 * 2 + b'{"id": 1}',
        b"\r\n" + codecs.BOM_UTF8 + b'\n{"id": 1}',
        *('{"id": 1}'.encode(name) for name in ("utf-16", "utf-16-be", "utf-32", "utf-32-le")),
    ],
    ids=ascii,
)
async def test_what_nobody_sees_before_a_body_and_its_encoding_change_nothing(crm: Crm, body: bytes) -> None:
    crm.body = body
    assert (await crm.ask()).body == {"id": 1}


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("GZIP , identity", gzip.compress(b'{"id": 1}', mtime=0)),
        ("deflate", zlib.compress(b'{"id": 1}')),
        ("deflate", zlib.compress(b'{"id": 1}', wbits=-15)),
        ("deflate, x-gzip", gzip.compress(zlib.compress(b'{"id": 1}'), mtime=0)),
        ("utf-8", b'{"id": 1}'),
        ("", b'{"id": 1}'),
    ],
)
async def test_every_usual_coding_is_undone(crm: Crm, coding: str, body: bytes) -> None:
    crm.body, crm.headers = body, (f"Content-Encoding: {coding}",)
    assert (await crm.ask()).body == {"id": 1}


@pytest.mark.parametrize(
    "chunks",
    [
        b'9\r\n{"id": 1}\r\n0\r\n\r\n',
        b'4;x=y\r\n{"id\r\n0005\r\n": 1}\r\n0\r\nTrailer: x\r\n\r\n',
        b'9\n{"id": 1}\n0\n\n',
        b'9\r\n{"id": 1}',
    ],
)
async def test_a_body_in_chunks_is_read_although_its_length_is_named_too(crm: Crm, chunks: bytes) -> None:
    crm.raw = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: Chunked\r\n\r\n" + chunks
    assert (await crm.ask()).body == {"id": 1}


@pytest.mark.parametrize("compressed", [False, True])
async def test_a_body_is_bounded(crm: Crm, compressed: bool) -> None:  # noqa: FBT001 - a parameter
    whole = b'"' + b"x" * (3 * LARGEST_BODY) + b'"'
    crm.body = gzip.compress(whole) if compressed else whole
    crm.headers = ("Content-Encoding: gzip",) if compressed else ()
    answer = await crm.ask()
    assert (len(answer.text), answer.is_json, answer.status) == (LARGEST_BODY, False, 200)


async def test_a_redirect_is_not_followed(crm: Crm) -> None:
    crm.head, crm.headers = b"HTTP/1.1 302 Found\r\n", (f"Location: {crm.url}/other",)
    assert (await crm.ask()).status == 302
    assert len(crm.requests) == 1


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 201 Created\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 201 Created\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 201 Created\r\nX",
    ],
    ids=["breaks off", "two lengths", "half a head"],
)
async def test_the_status_line_decides_whatever_comes_behind_it(crm: Crm, raw: bytes) -> None:
    crm.raw = raw
    answer = await crm.ask()
    assert answer.status == 201
    assert crm.seen == ["2xx"]


async def test_an_answer_that_is_not_http_shows_that_somebody_is_there(crm: Crm) -> None:
    crm.raw = b"SSH-2.0-OpenSSH\r\n"
    with pytest.raises(DeliveryUnavailable, match="not HTTP") as caught:
        await crm.ask()
    assert (caught.value.answered, crm.seen) == (True, ["no_answer"])


async def test_a_connection_that_ends_without_an_answer_has_an_unknown_outcome(crm: Crm) -> None:
    crm.raw = b""
    with pytest.raises(DeliveryUnavailable, match="can't be reached") as caught:
        await crm.ask()
    assert (caught.value.kind, caught.value.answered) == (FailureKind.OUTAGE, False)


async def test_who_does_not_answer_is_not_waited_for() -> None:
    async def hang(connection: Connection) -> None:
        await connection.request()
        await connection.gone()

    async with RawServer(hang) as server, open_session(SECOND / 10, 1) as session:
        client = CrmClient(session, Limits([]), SECOND / 10)
        url = f"http://127.0.0.1:{server.port}/"
        with pytest.raises(DeliveryUnavailable, match=r"did not answer within 0\.1 s"):
            await client.send(HttpRequest("record", "GET", url, "/", {}, {}))
