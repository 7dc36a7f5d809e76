"""Delivering to the CRM's webhook: what is sent, and what each answer means."""

import asyncio
import base64
import gzip
import ssl
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from standardwebhooks import Webhook

from tests.adapters.raw import Connection, RawServer, closed_port
from worker import __version__
from worker.core.errors import DeliveryRejected, DeliveryUnavailable, Fault
from worker.core.payload import Payload
from worker.core.ports import Receipt
from worker.demo.crm import StandInCrm
from worker.demo.stand_in import Fault as Breakage
from worker.settings import SinkSettings
from worker.sinks.webhook import LONGEST_RETRY_AFTER, WebhookSink, open_session, retry_after

SECRET = "whsec_" + base64.b64encode(b"a key of 24 bytes or so.").decode()
PAYLOAD = Payload("9f1c-evt", "call.enriched", '{"type":"call.enriched","data":{"é":1}}'.encode())
NOW = 1795313398.75
MEBIBYTE = 1024 * 1024


@asynccontextmanager
async def connected(
    url: str,
    *,
    secret: str | None = SECRET,
    now: Callable[[], float] = time.time,
    timeout: float = 5,  # noqa: ASYNC109 - the setting of that name
    connections: int = 8,
    observe: Callable[[str], None] = lambda _: None,
) -> AsyncIterator[WebhookSink]:
    chosen = SinkSettings(
        url=SecretStr(url),
        signing_secret=None if secret is None else SecretStr(secret),
        timeout=timedelta(seconds=timeout),
    )
    async with open_session(chosen, connections) as session:
        yield WebhookSink(chosen, session, observe, now)


@pytest.fixture
async def crm() -> AsyncIterator[StandInCrm]:
    async with StandInCrm(secret=SECRET) as running:
        yield running


async def unavailable(sink: WebhookSink) -> DeliveryUnavailable:
    with pytest.raises(DeliveryUnavailable) as caught:
        await sink.deliver(PAYLOAD)
    return caught.value


async def rejected(sink: WebhookSink) -> str:
    with pytest.raises(DeliveryRejected) as caught:
        await sink.deliver(PAYLOAD)
    assert caught.value.label == "rejected_by_sink"
    return str(caught.value)


# --- what is sent


async def test_a_delivery_has_exactly_these_headers() -> None:
    async with (
        StandInCrm(secret=SECRET, clock=lambda: NOW) as crm,
        connected(crm.url, now=lambda: NOW) as sink,
    ):
        assert await sink.deliver(PAYLOAD) == Receipt("200")
        [seen] = crm.received
    headers = dict(seen.headers)
    signature = headers.pop("webhook-signature")
    assert headers == {
        "host": f"127.0.0.1:{crm.port}",
        "content-type": "application/json",
        "content-length": str(len(PAYLOAD.body)),
        "webhook-id": "9f1c-evt",
        "webhook-timestamp": "1795313398",
        "idempotency-key": "9f1c-evt",
        "user-agent": f"crm-sync/{__version__}",
        "accept": "*/*",
        "accept-encoding": headers["accept-encoding"],
    }
    assert signature.startswith("v1,")
    assert (seen.body, seen.verified) == (PAYLOAD.body, True)


@pytest.mark.parametrize("secret", [SECRET, SECRET.removeprefix("whsec_")])
async def test_the_published_library_verifies_the_signature(secret: str, crm: StandInCrm) -> None:
    async with connected(crm.url, secret=secret) as sink:
        await sink.deliver(PAYLOAD)
    [seen] = crm.received
    assert Webhook(SECRET).verify(seen.body, dict(seen.headers)) == {
        "type": "call.enriched",
        "data": {"é": 1},
    }


async def test_without_a_secret_nothing_is_signed() -> None:
    async with StandInCrm() as crm, connected(crm.url, secret=None) as sink:
        await sink.deliver(PAYLOAD)
        assert "webhook-signature" not in crm.received[0].headers
        assert crm.received[0].id == "9f1c-evt"


async def test_a_second_try_has_the_same_id_and_a_time_of_its_own() -> None:
    times = [NOW, NOW, NOW + 5]
    async with StandInCrm() as crm, connected(crm.url, now=lambda: times.pop(0)) as sink:
        crm.script = [500]
        await unavailable(sink)
        times[:] = [NOW + 5]
        await sink.deliver(PAYLOAD)
        assert [each.id for each in crm.received] == ["9f1c-evt"] * 2
        assert [each.timestamp for each in crm.received] == ["1795313398", "1795313403"]
        assert crm.received[0].headers["webhook-signature"] != crm.received[1].headers["webhook-signature"]


async def test_an_address_may_hold_a_login_and_a_query() -> None:
    seen: list[bytes] = []

    async def serve(connection: Connection) -> None:
        seen.append(await connection.request())
        await connection.answer(b"")

    async with (
        RawServer(serve) as server,
        connected(f"http://crm:pa%40ss@127.0.0.1:{server.port}/in?key=a%2Fb&x=1") as sink,
    ):
        await sink.deliver(PAYLOAD)
    assert seen[0].startswith(b"POST /in?key=a/b&x=1 HTTP/1.1\r\n")
    assert b"authorization: basic " + base64.b64encode(b"crm:pa@ss") in seen[0].replace(
        b"Basic", b"basic"
    ).replace(b"Authorization", b"authorization")


def test_a_webhook_needs_an_address() -> None:
    with pytest.raises(ValueError, match=r"sink\.url"):
        WebhookSink(SinkSettings(kind="queue"), None)  # type: ignore[arg-type]


# --- what each status means


async def test_each_try_is_told_of_by_the_class_of_its_answer(crm: StandInCrm) -> None:
    told: list[str] = []
    async with connected(crm.url, observe=told.append) as sink:
        crm.script = [204, 302, 404, 503]
        await sink.deliver(PAYLOAD)
        for error in (DeliveryRejected, DeliveryRejected, DeliveryUnavailable):
            with pytest.raises(error):
                await sink.deliver(PAYLOAD)
    async with connected(f"http://127.0.0.1:{closed_port()}/", observe=told.append) as sink:
        await unavailable(sink)
    assert told == ["2xx", "3xx", "4xx", "5xx", "no_answer"]


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299, 409])
async def test_these_say_that_the_crm_has_it(status: int, crm: StandInCrm) -> None:
    async with connected(crm.url) as sink:
        crm.script = [status]
        assert await sink.deliver(PAYLOAD) == Receipt(str(status))


@pytest.mark.parametrize("status", [400, 402, 404, 405, 406, 410, 411, 413, 415, 418, 422, 451])
async def test_these_refuse_the_payload_for_good(status: int, crm: StandInCrm) -> None:
    async with connected(crm.url) as sink:
        crm.script = [status]
        assert f"the webhook answered {status}" in await rejected(sink)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed_but_refused(status: int) -> None:
    places: list[str] = []

    async def serve(connection: Connection) -> None:
        while True:
            await connection.request()
            start = f"HTTP/1.1 {status} Moved\r\n".encode()
            await connection.answer(b"", f"location: {places.pop()}", start=start)

    async with RawServer(serve) as server, connected(server.url) as sink:
        for where, said in [
            (server.url, "127.0.0.1"),  # in a loop, if it were followed
            ("https://login.example/token=abc", "login.example: ''"),
            ("/elsewhere", "the same host"),
            ("http://[bad", "an unreadable address"),
            ("http://\xff.example/", "?.example"),  # no UTF-8: aiohttp makes half a surrogate pair of it
        ]:
            places.append(where)
            assert f"{status} with a redirect to {said}" in await rejected(sink)
            assert not places


async def test_a_status_of_three_hundred_without_a_place_to_go(crm: StandInCrm) -> None:
    async with connected(crm.url) as sink:
        crm.script = [304]
        assert "304" in await rejected(sink)


@pytest.mark.parametrize("status", [401, 403])
async def test_these_refuse_our_credentials(status: int, crm: StandInCrm) -> None:
    async with connected(crm.url) as sink:
        crm.script = [status]
        error = await unavailable(sink)
    assert (error.fault, error.label, error.retry_after) == (Fault.REFUSED, "sink_refused", None)
    assert f"{status}; check sink.signing_secret" in str(error)


async def test_a_wrong_secret_is_refused_and_not_shown(crm: StandInCrm) -> None:
    other = "whsec_" + base64.b64encode(b"somebody else's own key.").decode()
    async with connected(crm.url, secret=other) as sink:
        error = await unavailable(sink)
    assert error.fault is Fault.REFUSED
    assert other[6:] not in str(error)


@pytest.mark.parametrize("status", [408, 425, 500, 501, 502, 503, 504, 507, 520, 599])
async def test_these_are_an_outage(status: int, crm: StandInCrm) -> None:
    async with connected(crm.url) as sink:
        crm.script = [status]
        error = await unavailable(sink)
    assert (error.fault, error.label, error.retry_after) == (Fault.OUTAGE, "sink_outage", None)
    assert f"answered {status}" in str(error)


HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("status", "header", "wait"),
    [
        (429, None, timedelta(0)),
        (429, "17", timedelta(seconds=17)),
        (429, "0", timedelta(0)),
        (429, "999999999999999999999", HOUR),
        (429, formatdate(NOW + 90.25, usegmt=True), timedelta(seconds=90.25)),
        (429, formatdate(NOW - 90, usegmt=True), timedelta(0)),
        (429, formatdate(NOW + 9e8, usegmt=True), HOUR),
        (429, "soon", timedelta(0)),
        (429, "-5", timedelta(0)),
        (429, "1.5", timedelta(0)),
        (503, "17", timedelta(seconds=17)),
        (503, formatdate(NOW + 90.25, usegmt=True), timedelta(seconds=90.25)),
        (503, "0", timedelta(0)),
    ],
)
async def test_these_ask_to_come_back_later(status: int, header: str | None, wait: timedelta) -> None:
    async with StandInCrm() as crm, connected(crm.url, now=lambda: NOW) as sink:
        crm.script = [status]
        crm.retry_after = header
        error = await unavailable(sink)
    assert (error.fault, error.label) == (Fault.BUSY, "sink_busy")
    assert error.retry_after is not None
    assert abs(error.retry_after - wait) < timedelta(seconds=1)


@pytest.mark.parametrize("header", ["soon", "", "1.5"])
async def test_a_503_that_does_not_say_for_how_long_is_an_outage(header: str, crm: StandInCrm) -> None:
    async with connected(crm.url) as sink:
        crm.script = [503]
        crm.retry_after = header
        error = await unavailable(sink)
    assert (error.fault, error.retry_after) == (Fault.OUTAGE, None)


def test_a_date_without_a_zone_is_in_utc() -> None:
    assert retry_after("Sun, 22 Nov 2026 02:10:28", NOW) == timedelta(seconds=29.25)
    assert retry_after(" 5 ", NOW) == timedelta(seconds=5)
    assert retry_after(None, NOW) is None


dates = st.from_regex(
    r"(Mon, )?\d{1,12} (Jan|Feb|Dec) \d{1,12} \d{1,4}:\d{1,4}(:\d{1,4})? ([+-]\d{1,8}|GMT|-0000|XYZ)?",
    fullmatch=True,
)


@settings(max_examples=500)
@given(value=st.text(max_size=40) | dates | st.integers().map(str))
def test_whatever_retry_after_says_it_is_a_wait_of_at_most_an_hour_or_nothing(value: str) -> None:
    wait = retry_after(value, NOW)
    assert wait is None or timedelta(0) <= wait <= LONGEST_RETRY_AFTER


# --- what a connection does


async def test_nobody_listens() -> None:
    async with connected(f"http://127.0.0.1:{closed_port()}/") as sink:
        error = await unavailable(sink)
    assert error.fault is Fault.OUTAGE
    assert "can't be reached" in str(error)


@pytest.mark.parametrize("fault", ["hang", "reset", "not_http"])
async def test_a_broken_crm_is_an_outage(fault: Breakage, crm: StandInCrm) -> None:
    async with connected(crm.url, timeout=0.2 if fault == "hang" else 5) as sink:
        crm.fault = fault
        error = await unavailable(sink)
        assert error.fault is Fault.OUTAGE
        assert ("within 0.2 s" if fault == "hang" else "can't be reached") in str(error)
        assert crm.deliveries == 1  # aiohttp repeats no POST
        crm.fault = None
        await sink.deliver(PAYLOAD)


async def test_headers_that_never_end_are_an_outage() -> None:
    async def serve(connection: Connection) -> None:
        await connection.request()
        while True:
            await connection.send(b"HTTP/1.1 200 OK\r\n" + b"x-more: " + b"y" * 4000 + b"\r\n")

    async with RawServer(serve) as server, connected(server.url) as sink:
        assert (await unavailable(sink)).fault is Fault.OUTAGE


def answering(start: str, body: bytes, then: str) -> Callable[[Connection], Any]:
    async def serve(connection: Connection) -> None:
        await connection.request()
        await connection.send(f"HTTP/1.1 {start}\r\n\r\n".encode() + body)
        if then == "reset":
            connection.reset()
        elif then == "stall":
            await connection.gone()
        while then == "go on":
            await connection.send(body)

    return serve


BODIES = [
    ("content-length: 1000", b"half", "stall"),
    ("content-length: 1000", b"half", "reset"),
    ("content-length: 1000", b"half", "close"),
    ("transfer-encoding: chunked", b"4\r\nhalf\r\n", "stall"),
    ("content-encoding: gzip\r\ncontent-length: 14", b"no gzip at all", "stall"),
    ("x-endless: yes", b"." * 65536, "go on"),
    ("transfer-encoding: chunked", b"10000\r\n" + b"." * 65536 + b"\r\n", "go on"),
]


@pytest.mark.parametrize(("headers", "body", "then"), BODIES)
async def test_the_status_decides_whatever_becomes_of_the_body(
    headers: str, body: bytes, then: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.sinks.webhook._ANSWER_SECONDS", 0.1)
    async with (
        RawServer(answering(f"200 OK\r\n{headers}", body, then)) as server,
        connected(server.url) as sink,
    ):
        assert await sink.deliver(PAYLOAD) == Receipt("200")
    async with (
        RawServer(answering(f"500 No\r\n{headers}", body, then)) as server,
        connected(server.url) as sink,
    ):
        assert (await unavailable(sink)).fault is Fault.OUTAGE
    async with (
        RawServer(answering(f"422 No\r\n{headers}", body, then)) as server,
        connected(server.url) as sink,
    ):
        assert "422" in await rejected(sink)


async def test_a_body_that_trickles_holds_a_delivery_up_for_a_second_at_most(crm: StandInCrm) -> None:
    async with connected(crm.url, timeout=30) as sink:
        crm.fault = "drip"
        started = time.monotonic()
        assert await sink.deliver(PAYLOAD) == Receipt("200")
        assert time.monotonic() - started < 3


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_an_answer_of_a_hundred_mebibytes_takes_little_memory(encoding: str) -> None:
    block = bytes(MEBIBYTE)
    bomb = gzip.compress(bytes(100 * MEBIBYTE))

    async def serve(connection: Connection) -> None:
        await connection.request()
        if encoding == "gzip":
            await connection.answer(bomb, "content-encoding: gzip", start=b"HTTP/1.1 422 No\r\n")
            return
        await connection.send(f"HTTP/1.1 422 No\r\ncontent-length: {100 * MEBIBYTE}\r\n\r\n".encode())
        for _ in range(100):
            await connection.send(block)

    async with RawServer(serve) as server, connected(server.url) as sink:
        tracemalloc.start()
        try:
            assert len(await rejected(sink)) < 4000
            assert tracemalloc.get_traced_memory()[1] < 16 * MEBIBYTE
        finally:
            tracemalloc.stop()


async def test_an_unknown_certificate_is_a_clear_error(certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    try:
        port = server.sockets[0].getsockname()[1]
        async with connected(f"https://127.0.0.1:{port}/") as sink:
            assert "certificate can't be verified; check sink.url" in str(await unavailable(sink))
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("length", [0, 3, 500, 5000, 60_000])
@pytest.mark.parametrize("status", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 500 No\r\n"])
async def test_a_connection_is_kept_and_used_again(length: int, status: bytes) -> None:
    async def serve(connection: Connection) -> None:
        while True:
            await connection.request()
            await connection.answer(b"." * length, start=status)

    async with RawServer(serve) as server, connected(server.url) as sink:
        for _ in range(3):
            if b"200" in status:
                await sink.deliver(PAYLOAD)
            else:
                await unavailable(sink)
        assert server.connections == 1


async def test_no_more_connections_than_allowed() -> None:
    async with StandInCrm(delay=0.02) as crm, connected(crm.url, secret=None, connections=3) as sink:
        await asyncio.gather(*(sink.deliver(PAYLOAD) for _ in range(12)))
        assert (crm.max_concurrent, crm.deliveries) == (3, 12)


async def test_a_cancelled_delivery_leaves_no_connection_taken() -> None:
    async with StandInCrm() as crm, connected(crm.url, secret=None, connections=1) as sink:
        crm.fault = "hang"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(sink.deliver(PAYLOAD), 0.05)
        crm.fault = None
        async with asyncio.timeout(5):
            await sink.deliver(PAYLOAD)


# --- what a refusal says


async def refusal(body: bytes, *, url: str = "/api", cut: int | None = None) -> str:
    """Give the error's text where the CRM refuses with this body, sent in two parts if `cut` says where."""

    async def serve(connection: Connection) -> None:
        await connection.request()
        await connection.send(f"HTTP/1.1 422 No\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body[:cut])
        if cut is not None:
            await asyncio.sleep(0.05)  # or the two would arrive as one
            await connection.send(body[cut:])

    async with RawServer(serve) as server, connected(server.url.replace("/api", url)) as sink:
        return await rejected(sink)


async def test_a_refusal_tells_the_first_500_bytes() -> None:
    assert await refusal(b'{"error":"no such lead"}') == (
        'the webhook answered 422: \'{"error":"no such lead"}\''
    )
    assert (await refusal(b"a" * 499 + b"bcd")).endswith(f": '{'a' * 499}b'")
    assert (await refusal("é".encode() * 400)).endswith(f": '{'é' * 250}'")
    assert (await refusal(b"a" * 499 + "é".encode())).endswith(f": '{'a' * 499}'")
    assert (await refusal(b"\xff\x00\n")).endswith(r": '�\x00\n'")


async def test_a_refusal_that_arrives_in_parts_is_told_whole() -> None:
    assert (await refusal(b"no such lead", cut=3)).endswith(": 'no such lead'")


@pytest.mark.parametrize("secret", [SECRET, SECRET.removeprefix("whsec_")])
@pytest.mark.parametrize("at", [0, 480, 499])
async def test_a_refusal_never_repeats_the_signing_secret(secret: str, at: int) -> None:
    text = await refusal(b"x" * at + secret.encode() + b" is not it", cut=at + 9)
    for length in range(4, len(secret) + 1):
        assert secret[:length] not in text.replace("whsec_***", "")
    assert "***" in text or at > 497


async def test_a_refusal_never_repeats_an_address_that_is_a_key() -> None:
    text = await refusal(
        b"Cannot POST /hooks/T0ken%20x?key=k3y or /hooks/T0ken x", url="/hooks/T0ken%20x?key=k3y"
    )
    assert "T0ken" not in text
    assert "k3y" not in text
    assert "Cannot POST" in text
