"""What goes out to the dialer, what may come back, and that the dialer is never harmed."""

import asyncio
import gzip
import ssl
import tracemalloc
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aioresponses import aioresponses
from pydantic import SecretStr
from yarl import URL

from simulators.dialer import DEFAULT_PASSWORD, DEFAULT_USER, StandInDialer
from simulators.stand_in import Fault as Breakage
from tests.adapters.dialer_client import CALL, ROW, TIMES, connected, failure, put_off
from tests.adapters.raw import Connection, RawServer, closed_port, until
from worker import __version__
from worker.core.errors import EnrichmentRejected, FailureKind, NotReady
from worker.core.ports import DialerRequest
from worker.vicidial.answers import MAX_ANSWER

ADDRESS = "http://dialer.example/vicidial/non_agent_api.php"
AGENT_ROW = "user|allowed_campaigns_list|allowed_ingroups_list\n1000|SALES1|IN1\n"
LOGIN = {"user": DEFAULT_USER, "pass": DEFAULT_PASSWORD, "source": "crmsync"}


def sent(http: aioresponses) -> list[tuple[str, URL, dict[str, Any]]]:
    return [(method, url, call.kwargs) for (method, url), calls in http.requests.items() for call in calls]


# --- what a request looks like


async def test_the_shim_for_aioresponses_is_still_needed() -> None:
    with aioresponses() as bare:
        bare.get(ADDRESS)
        async with aiohttp.ClientSession() as session:
            with pytest.raises(TypeError, match="stream_writer"):  # else drop `FakedResponse` in conftest.py
                await session.get(ADDRESS)


async def test_a_call_is_asked_for_with_get(http: aioresponses) -> None:
    http.get(URL(ADDRESS).with_query(call := LOGIN | CALL_PARAMETERS), body=ROW)
    async with connected(ADDRESS) as client:
        found = await client.callid_info(CALL, TIMES)
    assert (found.call.talk_seconds, found.call.status) == (120, "SALE")
    [(method, url, options)] = sent(http)
    assert (method, dict(url.query), options["allow_redirects"]) == ("GET", call, False)
    assert "data" not in options


CALL_PARAMETERS = {
    "function": "callid_info",
    "call_id": CALL,
    "stage": "pipe",
    "header": "YES",
    "detail": "YES",
}
AGENT_PARAMETERS = {"function": "agent_campaigns", "agent_user": "1000", "stage": "pipe", "header": "YES"}


async def test_an_agent_is_asked_for_with_get(http: aioresponses) -> None:
    http.get(URL(ADDRESS).with_query(LOGIN | AGENT_PARAMETERS), body=AGENT_ROW)
    async with connected(ADDRESS) as client:
        assert (await client.agent_campaigns("1000")).agent.in_groups == ("IN1",)
    assert len(sent(http)) == 1


async def test_a_setting_leaves_the_agentdirect_groups_out(http: aioresponses) -> None:
    expected = LOGIN | AGENT_PARAMETERS | {"ignore_agentdirect": "Y", "source": "night"}
    http.get(URL(ADDRESS).with_query(expected), body=AGENT_ROW)
    async with connected(ADDRESS, ignore_agentdirect=True, source="night") as client:
        await client.agent_campaigns("1000")
    assert len(sent(http)) == 1


@pytest.mark.parametrize("function", ["callid_info", "agent_campaigns"])
async def test_with_post_all_parameters_are_in_the_form_and_none_in_the_address(
    function: str, http: aioresponses
) -> None:
    http.post(ADDRESS, body=ROW if function == "callid_info" else AGENT_ROW)
    async with connected(ADDRESS, method="POST") as client:
        if function == "callid_info":
            await client.callid_info(CALL, TIMES)
        else:
            await client.agent_campaigns("1000")
    [(method, url, options)] = sent(http)
    assert (method, str(url), options["allow_redirects"]) == ("POST", ADDRESS, False)
    assert options["data"] == LOGIN | (CALL_PARAMETERS if function == "callid_info" else AGENT_PARAMETERS)
    assert "params" not in options


async def test_version_is_asked_for_without_a_login(http: aioresponses) -> None:
    http.get(f"{ADDRESS}?function=version", body="VERSION: 2.14")
    async with connected(ADDRESS) as client:
        assert (await client.version()).version is None


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_on_the_wire_it_says_who_asks_and_escapes_what_it_asks(method: str) -> None:
    seen: list[bytes] = []

    async def serve(connection: Connection) -> None:
        seen.append(await connection.request())
        await connection.answer(ROW.encode())

    async with (
        RawServer(serve) as server,
        connected(server.url, method=method, password=SecretStr("a&b=c d+é%41")) as client,
    ):
        await client.callid_info(CALL, TIMES)
    head, _, body = seen[0].partition(b"\r\n\r\n")
    assert f"user-agent: crm-sync/{__version__}" in head.decode().lower()
    where = head.split(b"\r\n")[0] if method == "GET" else body
    assert URL(f"/?{where.decode().partition('?')[2].partition(' ')[0] or body.decode()}").query["pass"] == (
        "a&b=c d+é%41"
    )
    if method == "POST":
        assert head.startswith(b"POST /api HTTP/1.1")
        assert b"application/x-www-form-urlencoded" in head


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_the_stand_in_dialer_is_understood(method: str) -> None:
    async with StandInDialer() as dialer, connected(dialer.url, method=method) as client:
        assert (await client.callid_info(CALL, TIMES)).call.agent_user == "1000"
        assert (await client.agent_campaigns("1001")).agent.campaigns_ambiguous
        assert (await client.version()).build == "250720-1841"
        with pytest.raises(NotReady):
            await client.callid_info("V9999999999999999999", TIMES)
        with pytest.raises(EnrichmentRejected):
            await client.callid_info("1000012345", TIMES)
        assert {each.method for each in dialer.requests} == {method}
        assert dialer.failed_logins == 0


# --- statuses


@pytest.mark.parametrize(
    ("status", "kind"),
    [(status, FailureKind.OUTAGE) for status in (201, 204, 301, 302, 400, 404, 414, 429, 500, 502, 503)]
    + [(status, FailureKind.REFUSED) for status in (401, 403)],
)
async def test_any_status_but_200_is_no_answer(status: int, kind: FailureKind, http: aioresponses) -> None:
    body = "" if status == 500 else ROW
    http.get(
        URL(ADDRESS).with_query(LOGIN | CALL_PARAMETERS),
        status=status,
        body=body,
        headers={"Location": "http://elsewhere.example/"},
    )
    async with connected(ADDRESS) as client:
        assert str(status) in await failure(client, kind)
    assert len(sent(http)) == 1


async def test_a_redirect_is_not_followed_since_the_password_would_go_with_it() -> None:
    asked = 0

    async def serve(connection: Connection) -> None:
        nonlocal asked
        while True:
            await connection.request()
            asked += 1
            await connection.answer(b"", "location: /other", start=b"HTTP/1.1 301 Moved\r\n")

    async with RawServer(serve) as server, connected(server.url) as client:
        assert "301" in await failure(client)
        assert asked == 1


# --- what a connection does


async def test_nobody_listens() -> None:
    async with connected(f"http://127.0.0.1:{closed_port()}/") as client:
        assert "can't be reached" in await failure(client)


async def test_a_name_that_nobody_knows() -> None:
    async with connected("http://no-such-host.invalid/", timeout=timedelta(seconds=5)) as client:
        assert "the dialer" in await failure(client)


BREAKAGES: dict[Breakage, str] = {
    "hang": "did not answer within 0.2 s",
    "drip": "was not complete within 0.2 s",
    "reset": "can't be reached",
    "cut": "broke off",
    "500": "answered 500",
    "empty": "empty body",
    "html": "HTML",
    "mysql": "database",
    "not_http": "could not be decoded: it is no valid HTTP (Bad status line",
}


@pytest.mark.parametrize("fault", BREAKAGES)
async def test_a_broken_dialer_is_an_outage(fault: Breakage) -> None:
    patient = timedelta(seconds=0.2 if fault in {"hang", "drip"} else 5)
    async with StandInDialer() as dialer, connected(dialer.url, timeout=patient) as client:
        dialer.fault = fault
        assert BREAKAGES[fault] in await failure(client)
        dialer.fault = None
        await client.callid_info(CALL, TIMES)


async def test_garbage_is_unreadable() -> None:
    async with StandInDialer() as dialer, connected(dialer.url) as client:
        dialer.fault = "garbage"
        await failure(client, FailureKind.UNREADABLE)


async def test_a_stall_in_the_middle_of_a_body_is_a_timeout() -> None:
    async def serve(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n" + ROW.encode())
        await connection.gone()

    async with RawServer(serve) as server, connected(server.url, timeout=timedelta(seconds=0.2)) as client:
        assert "within 0.2 s" in await failure(client)


async def test_headers_that_never_end_are_an_outage() -> None:
    async def serve(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\n")
        while True:
            await connection.send(b"x-more: " + b"y" * 4000 + b"\r\n")

    async with RawServer(serve) as server, connected(server.url) as client:
        assert "Too many headers" in await failure(client)


async def test_an_answer_of_a_mebibyte_is_the_largest_taken_in() -> None:
    filler = b"." * (MAX_ANSWER - len(ROW) - 1) + b"\n"
    answers = [filler + ROW.encode(), b"." + filler + ROW.encode()]

    async def serve(connection: Connection) -> None:
        while answers:
            await connection.request()
            await connection.answer(answers.pop(0))

    async with RawServer(serve) as server, connected(server.url) as client:
        await client.callid_info(CALL, TIMES)
        assert "larger than 1048576 bytes" in await failure(client, FailureKind.UNREADABLE)


async def test_an_endless_answer_is_given_up_at_the_limit() -> None:
    gone = asyncio.Event()

    async def serve(connection: Connection) -> None:
        try:
            await connection.request()
            await connection.send(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                await connection.send(b"." * 65536)
        finally:
            gone.set()

    async with RawServer(serve) as server, connected(server.url) as client:
        await failure(client, FailureKind.UNREADABLE)
        await asyncio.wait_for(gone.wait(), 5)


async def test_a_bomb_of_gzip_is_refused_in_little_memory() -> None:
    bomb = gzip.compress(bytes(300 * MAX_ANSWER))

    async def serve(connection: Connection) -> None:
        await connection.request()
        await connection.answer(bomb, "content-encoding: gzip")

    async with RawServer(serve) as server, connected(server.url) as client:
        tracemalloc.start()
        try:
            await failure(client, FailureKind.UNREADABLE)
            assert tracemalloc.get_traced_memory()[1] < 16 * MAX_ANSWER
        finally:
            tracemalloc.stop()


# --- connections


def answering(log: list[int]) -> Callable[[Connection], Any]:
    async def serve(connection: Connection) -> None:
        while True:
            await connection.request()
            log.append(connection.number)
            await connection.answer(ROW.encode())

    return serve


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_connection_is_kept_and_used_again(method: str) -> None:
    log: list[int] = []
    async with RawServer(answering(log)) as server, connected(server.url, method=method) as client:
        for _ in range(5):
            await client.callid_info(CALL, TIMES)
        assert (server.connections, log) == (1, [1] * 5)


async def test_a_kept_connection_that_the_server_closed_is_opened_anew() -> None:
    closing: list[Connection] = []

    async def serve(connection: Connection) -> None:
        closing.append(connection)
        await connection.request()
        await connection.answer(ROW.encode())

    async with RawServer(serve) as server, connected(server.url) as client:
        for _ in range(3):
            await client.callid_info(CALL, TIMES)
            await asyncio.sleep(0)
        assert server.connections == 3


async def test_a_get_on_a_connection_that_closes_under_it_is_repeated_by_aiohttp_once() -> None:
    async def serve(connection: Connection) -> None:
        await connection.request()
        await connection.answer(ROW.encode())
        await connection.request()  # and then it ends without an answer

    async with RawServer(serve) as server, connected(server.url) as client:
        await client.callid_info(CALL, TIMES)
        await client.callid_info(CALL, TIMES)
        assert server.connections == 2


async def test_a_post_is_repeated_by_nobody() -> None:
    async def serve(connection: Connection) -> None:
        await connection.request()
        await connection.answer(ROW.encode())
        await connection.request()

    async with RawServer(serve) as server, connected(server.url, method="POST") as client:
        await client.callid_info(CALL, TIMES)
        assert "can't be reached" in await failure(client)
        assert server.connections == 1


async def test_never_more_requests_at_one_time_than_allowed() -> None:
    async with StandInDialer(delay=0.02) as dialer, connected(dialer.url, max_concurrency=3) as client:
        await asyncio.gather(*(client.callid_info(CALL, TIMES) for _ in range(60)))
        assert dialer.max_concurrent == 3
        assert dialer.served == 60


async def test_the_very_first_request_goes_alone() -> None:
    async with StandInDialer(delay=0.02) as dialer, connected(dialer.url) as client:
        dialer.users[DEFAULT_USER].password = "changed"
        asked = await asyncio.gather(
            *(client.callid_info(CALL, TIMES) for _ in range(8)), return_exceptions=True
        )
        assert {str(each).removeprefix("dialer: ") for each in asked} == {str(asked[0])}
        assert (dialer.served, dialer.failed_logins) == (1, 1)


async def test_the_others_do_not_wait_for_a_first_one_that_was_given_up() -> None:
    async with StandInDialer() as dialer, connected(dialer.url) as client:
        dialer.plant(CALL, fault="hang", times=1)
        first = asyncio.ensure_future(client.callid_info(CALL, TIMES))
        await until(lambda: dialer.concurrent == 1)
        others = [asyncio.ensure_future(client.callid_info(CALL, TIMES)) for _ in range(3)]
        for _ in range(10):
            await asyncio.sleep(0)
        assert dialer.served == 1
        first.cancel()
        await asyncio.gather(*others)


async def test_a_cancelled_request_leaves_no_slot_taken() -> None:
    seen = list[DialerRequest]()
    async with (
        StandInDialer() as dialer,
        connected(dialer.url, max_concurrency=2, observe=seen.append) as client,
    ):
        while client.guard.limit < 2:
            await client.callid_info(CALL, TIMES)
        dialer.fault = "hang"
        hanging = [asyncio.ensure_future(client.callid_info(CALL, TIMES)) for _ in range(5)]
        await until(lambda: dialer.concurrent == 2)
        for each in hanging:
            each.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)
        dialer.fault = None
        async with asyncio.timeout(5):
            await asyncio.gather(*(client.callid_info(CALL, TIMES) for _ in range(4)))
    assert [each.outcome for each in seen if each.outcome != "ok"] == ["cancelled", "cancelled"]
    assert [each.outcome for each in seen[-4:]] == ["ok"] * 4


async def test_an_unknown_certificate_is_a_clear_error(certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    try:
        port = server.sockets[0].getsockname()[1]
        async with connected(f"https://127.0.0.1:{port}/") as client:
            assert "certificate can't be verified; check vicidial.url" in await failure(client)
    finally:
        server.close()
        await server.wait_closed()


@pytest.fixture
async def dialer() -> AsyncIterator[StandInDialer]:
    async with StandInDialer() as running:
        yield running


# --- what is reported of it


async def test_each_request_is_reported_once(dialer: StandInDialer) -> None:
    seen = list[DialerRequest]()
    async with connected(dialer.url, observe=seen.append) as client:
        await client.callid_info(CALL, TIMES)
        await client.agent_campaigns("1000")
        await client.version()
        with pytest.raises(NotReady):
            await client.callid_info("V9999999999999999999", TIMES)
        dialer.fault = "500"
        await failure(client)
        dialer.fault = None
        dialer.users[DEFAULT_USER].password = "changed"
        await failure(client, FailureKind.REFUSED)
        await put_off(client)
    assert [(each.function, dict(each.about), each.outcome) for each in seen] == [
        ("callid_info", {"call_id": CALL}, "ok"),
        ("agent_campaigns", {"agent_user": "1000"}, "ok"),
        ("version", {}, "ok"),
        ("callid_info", {"call_id": "V9999999999999999999"}, "not_found"),
        ("callid_info", {"call_id": CALL}, "dialer_outage"),
        ("callid_info", {"call_id": CALL}, "dialer_refused"),
    ]
    assert all(0 < each.seconds < 5 for each in seen)
    assert DEFAULT_PASSWORD not in repr(seen)


async def test_what_nobody_foresaw_is_reported_as_such(
    dialer: StandInDialer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = list[DialerRequest]()
    async with connected(dialer.url, observe=seen.append) as client:
        monkeypatch.setattr("worker.vicidial.calls.read_call", lambda *_, **__: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            await client.callid_info(CALL, TIMES)
    assert [each.outcome for each in seen] == ["unexpected"]
