"""Delivering to the CRM's webhook: what is sent, and what each answer means."""

import asyncio
import base64
import gzip
import ssl
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from simulators.crm import StandInCrm
from simulators.stand_in import Fault as Breakage
from tests.adapters.raw import Connection, RawServer, closed_port
from tests.adapters.webhook import NOW, PAYLOAD, SECRET, connected, rejected, unavailable
from worker import __version__
from worker.core.errors import DeliveryRejected, DeliveryUnavailable, FailureKind
from worker.core.ports import Receipt
from worker.settings import SinkSettings
from worker.sinks.webhook import WebhookSink

MEBIBYTE = 1024 * 1024


@pytest.fixture
async def crm() -> AsyncIterator[StandInCrm]:
    async with StandInCrm(secret=SECRET) as running:
        yield running


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
        "accept-encoding": "identity",
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
    assert seen[0].startswith(b"POST /in?key=a%2Fb&x=1 HTTP/1.1\r\n")
    assert b"\r\nAuthorization: Basic " + base64.b64encode(b"crm:pa@ss") + b"\r\n" in seen[0]


@pytest.mark.parametrize(
    ("target", "requested"),
    [
        ("", "/"),
        ("?x=1", "/?x=1"),
        (
            *("/workflows/ab%2Fcd/invoke?sp=%2Ftriggers%2Fmanual%2Frun&sig=aB%2BcD%2Fe%3D",),
            *("/workflows/ab%2Fcd/invoke?sp=%2Ftriggers%2Fmanual%2Frun&sig=aB%2BcD%2Fe%3D",),
        ),
        *(
            (target, target)
            for target in (
                *("/%7euser/%41bc/a%2fb", "/a/./b/../c", "//a//b/", "/a;v=1/b,c", "/a+b%20c", "/@me"),
                *("/a?b+c=d%20e&f=&g&&h==", "/a?b[]=1&c=a:b@c/d?e", "/a?%C3%A9=%c3%a9", "/a?b=%252F"),
            )
        ),
    ],
)
@pytest.mark.parametrize("login", ["", "crm:pa%40ss@"])
async def test_path_and_query_are_requested_exactly_as_they_are_set(
    target: str, requested: str, login: str
) -> None:
    seen: list[bytes] = []

    async def serve(connection: Connection) -> None:
        seen.append(await connection.request())
        await connection.answer(b"")

    async with (
        RawServer(serve) as server,
        connected(f"http://{login}127.0.0.1:{server.port}{target}") as sink,
    ):
        await sink.deliver(PAYLOAD)
    assert seen[0].startswith(f"POST {requested} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n".encode())


@pytest.mark.parametrize(
    ("login", "sent"),
    [
        ("crm:pa%40ss", b"crm:pa@ss"),
        ("crm", b"crm:"),
        ("crm:%C3%A9", b"crm:\xc3\xa9"),
        ("crm:%E9", b"crm:\xe9"),
    ],
)
async def test_a_login_is_sent_as_the_bytes_that_are_meant(login: str, sent: bytes) -> None:
    async with StandInCrm() as crm, connected(crm.url.replace("//", f"//{login}@")) as sink:
        await sink.deliver(PAYLOAD)
        assert crm.received[0].headers["authorization"] == "Basic " + base64.b64encode(sent).decode()


def test_a_webhook_needs_an_address() -> None:
    with pytest.raises(ValueError, match=r"sink\.url"):
        WebhookSink(SinkSettings(kind="queue"), None)  # type: ignore[arg-type]


# --- what each status means


async def test_each_try_is_reported_by_the_class_of_its_answer(crm: StandInCrm) -> None:
    observed: list[str] = []
    async with connected(crm.url, observe=observed.append) as sink:
        crm.script = [204, 302, 404, 503]
        await sink.deliver(PAYLOAD)
        for error in (DeliveryRejected, DeliveryRejected, DeliveryUnavailable):
            with pytest.raises(error):
                await sink.deliver(PAYLOAD)
    async with connected(f"http://127.0.0.1:{closed_port()}/", observe=observed.append) as sink:
        await unavailable(sink)
    assert observed == ["2xx", "3xx", "4xx", "5xx", "no_answer"]


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
    assert (error.kind, error.label, error.retry_after) == (FailureKind.REFUSED, "sink_refused", None)
    assert f"{status}; check sink.signing_secret" in str(error)


async def test_a_wrong_secret_is_refused_and_not_shown(crm: StandInCrm) -> None:
    other = "whsec_" + base64.b64encode(b"somebody else's own key.").decode()
    async with connected(crm.url, secret=other) as sink:
        error = await unavailable(sink)
    assert error.kind is FailureKind.REFUSED
    assert other[6:] not in str(error)


@pytest.mark.parametrize("status", [408, 425, 500, 501, 502, 503, 504, 507, 520, 599])
async def test_these_are_an_outage(status: int, crm: StandInCrm) -> None:
    async with connected(crm.url) as sink:
        crm.script = [status]
        error = await unavailable(sink)
    assert (error.kind, error.label, error.retry_after) == (FailureKind.OUTAGE, "sink_outage", None)
    assert f"answered {status}" in str(error)


# --- what a connection does


async def test_nobody_listens() -> None:
    async with connected(f"http://127.0.0.1:{closed_port()}/") as sink:
        error = await unavailable(sink)
    assert error.kind is FailureKind.OUTAGE
    assert "can't be reached" in str(error)


@pytest.mark.parametrize("fault", ["hang", "reset", "not_http"])
async def test_a_broken_crm_is_an_outage(fault: Breakage, crm: StandInCrm) -> None:
    async with connected(crm.url, timeout=0.2 if fault == "hang" else 5) as sink:
        crm.fault = fault
        error = await unavailable(sink)
        assert error.kind is FailureKind.OUTAGE
        said = {"hang": "within 0.2 s", "reset": "can't be reached", "not_http": "answer is not HTTP"}
        assert said[str(fault)] in str(error)
        assert crm.deliveries == 1  # aiohttp repeats no POST
        crm.fault = None
        await sink.deliver(PAYLOAD)


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
async def test_the_status_decides_whatever_becomes_of_the_body(headers: str, body: bytes, then: str) -> None:
    async with (
        RawServer(answering(f"200 OK\r\n{headers}", body, then)) as server,
        connected(server.url, body_seconds=0.1) as sink,
    ):
        assert await sink.deliver(PAYLOAD) == Receipt("200")
    async with (
        RawServer(answering(f"500 No\r\n{headers}", body, then)) as server,
        connected(server.url, body_seconds=0.1) as sink,
    ):
        assert (await unavailable(sink)).kind is FailureKind.OUTAGE
    async with (
        RawServer(answering(f"422 No\r\n{headers}", body, then)) as server,
        connected(server.url, body_seconds=0.1) as sink,
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


async def test_a_server_without_tls_is_not_told_as_one_with_a_wrong_certificate() -> None:
    async def serve(connection: Connection) -> None:
        await connection.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with RawServer(serve) as server, connected(server.url.replace("http:", "https:")) as sink:
        said = str(await unavailable(sink))
    assert said == "there is no TLS at the webhook, or of another kind; check the port and https in sink.url"


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


async def refusal(body: bytes, *, url: str = "/api", login: str = "", cut: int | None = None) -> str:
    """Return the error's text if the CRM refuses with this body, sent in two parts if `cut` says where."""

    async def serve(connection: Connection) -> None:
        await connection.request()
        await connection.send(f"HTTP/1.1 422 No\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body[:cut])
        if cut is not None:
            await asyncio.sleep(0.05)  # or the two would arrive as one
            await connection.send(body[cut:])

    async with RawServer(serve) as server, connected(f"http://{login}127.0.0.1:{server.port}{url}") as sink:
        return await rejected(sink)


async def test_a_refusal_holds_the_first_500_bytes() -> None:
    assert await refusal(b'{"error":"no such lead"}') == (
        'the webhook answered 422: \'{"error":"no such lead"}\''
    )
    assert (await refusal(b"a" * 499 + b"bcd")).endswith(f": '{'a' * 499}b'")
    assert (await refusal("é".encode() * 400)).endswith(f": '{'é' * 250}'")
    assert (await refusal(b"a" * 499 + "é".encode())).endswith(f": '{'a' * 499}'")
    assert (await refusal(b"\xff\x00\n")).endswith(r": '�\x00\n'")


async def test_a_refusal_that_arrives_in_parts_is_shown_whole() -> None:
    assert (await refusal(b"no such lead", cut=3)).endswith(": 'no such lead'")


@pytest.mark.parametrize("secret", [SECRET, SECRET.removeprefix("whsec_")])
@pytest.mark.parametrize("at", [0, 480, 499])
async def test_a_refusal_never_repeats_the_signing_secret(secret: str, at: int) -> None:
    text = await refusal(b"x" * at + secret.encode() + b" is not it", cut=at + 9)
    for length in range(4, len(secret) + 1):
        assert secret[:length] not in text.replace("whsec_***", "")
    assert "***" in text or at > 497


TOKEN = "S3cr3tT0kenValue"
LOGIN = base64.b64encode(b"crmuser:pa$$word1").decode()


@pytest.mark.parametrize(
    ("address", "said", "secret"),
    [
        ("/hooks/T0ken%20x?key=k3y", "Cannot POST /hooks/T0ken%20x?key=k3y", "k3y"),
        ("/hooks/T0ken%20x?key=k3y", "Cannot POST /hooks/T0ken x", "T0ken"),
        (f"/in?key={TOKEN}", f"invalid key {TOKEN}", TOKEN),
        (f"/in?{TOKEN}", f"invalid key {TOKEN}", TOKEN),
        ("/in?a=1&key=a%2BbcD%2Fe%3D", "invalid key a+bcD/e=", "a+bcD/e="),
        ("/in?key=two+words", "invalid key two words", "two words"),
        (f"/services/T01/B02/{TOKEN}", f"no such hook: {TOKEN}", TOKEN),
        ("/services/ab%2FcdT0ken", "no such hook: ab/cdT0ken", "cdT0ken"),
        (f"/hooks/{TOKEN}/x", f'{{"path": "\\/hooks\\/{TOKEN}\\/x"}}', TOKEN),
        ("/hooks/K3y/x", '{"path": "\\/hooks\\/K3y\\/x"}', "K3y"),
        (f"/hooks/{TOKEN}", TOKEN.encode("utf-16").decode("latin-1"), TOKEN),
        (f"/hooks/{TOKEN}", "".join(f"%{ord(letter):x}" for letter in TOKEN), f"%{ord(TOKEN[0]):x}"),
        (f"/hooks/{TOKEN}", 700 * (TOKEN + " "), TOKEN[:4]),
        ("/in", "bad password pa$$word1", "pa$$word1"),
        ("/in", "bad password pa%24%24word1", "word1"),
        ("/in", f"bad header Basic {LOGIN}", LOGIN),
    ],
)
async def test_a_refusal_never_repeats_what_of_the_address_may_be_a_key(
    address: str, said: str, secret: str
) -> None:
    login = "crmuser:pa%24%24word1@" if address == "/in" else ""
    text = await refusal(said.encode("latin-1"), url=address, login=login)
    assert secret not in text
    assert "***" in text
    assert text.startswith("the webhook answered 422: ")
