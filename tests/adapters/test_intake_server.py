"""The intake's server: what it answers, whom it lets in, and what a slow or large client can't do."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cloudevents.core.bindings.http import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent
from structlog.testing import capture_logs

from tests.adapters.intake import CALL_ID, TOKEN, Intake, open_intake
from tests.adapters.raw import until
from worker.core.errors import MessageRefused, PublishError
from worker.intake.server import Limits, ListenError
from worker.intake.tls import Certificate

CALL = json.dumps({"type": "call.ended", "call_id": CALL_ID}).encode()
CLOUD = {
    "specversion": "1.0",
    "id": "1",
    "source": "/pbx",
    "type": "call.ended",
    "data": {"call_id": CALL_ID},
}
URL = f"/vicidial/call-ended?call_id={CALL_ID}&uniqueid=1795269909.101&agent_user=1000"
WITHIN = 20.0


@pytest.fixture
async def intake(tmp_path: Path) -> AsyncIterator[Intake]:
    async with open_intake(tmp_path) as opened:
        yield opened


def event_of(intake: Intake) -> dict[str, Any]:
    (message,) = intake.feed.published
    found: dict[str, Any] = json.loads(message.body)
    return found


async def exchange(port: int, *parts: bytes) -> bytes:
    """Send bytes as they are, and return all that comes until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        async with asyncio.timeout(WITHIN):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


# --- what is accepted -------------------------------------------------------------------------------


async def test_vicidials_url_is_answered_with_the_id_that_is_published(intake: Intake) -> None:
    async with intake.session.get(f"{intake.url}{URL}&token={TOKEN}") as response:
        text = await response.text()
    event = event_of(intake)
    assert (response.status, text) == (200, f"stored {event['event_id']}\n")
    assert (event["call_id"], event["agent_user"]) == (CALL_ID, "1000")
    assert intake.feed.published[0].message_id == event["event_id"]


async def test_a_url_in_another_encoding_than_utf_8_is_understood(intake: Intake) -> None:
    target = f"{URL}&status=A%20B+C&campaign_id=B%DCRO&list_id=%C3%A4&token={TOKEN}"
    head = f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert b" 200 OK\r\n" in await exchange(intake.port, head.encode())
    event = event_of(intake)
    assert (event["status"], event["campaign_id"], event["list_id"]) == ("A B C", "BÜRO", "ä")


async def test_json_is_published_as_it_is(intake: Intake) -> None:
    status, text = await intake.ask("POST", "/events", CALL)
    (message,) = intake.feed.published
    assert (status, json.loads(text)) == (200, {"accepted": [message.message_id]})
    assert (message.body, message.type, message.content_type) == (CALL, "call.ended", "application/json")
    assert message.timestamp is not None


async def test_cloud_events_are_accepted_in_all_three_modes(intake: Intake) -> None:
    structured, batch = "application/cloudevents+json", "application/cloudevents-batch+json"
    binary = {f"ce-{name}": str(CLOUD[name]) for name in ("specversion", "id", "source", "type")}
    answers = [
        await intake.ask("POST", "/events", json.dumps(CLOUD).encode(), {"Content-Type": structured}),
        await intake.ask("POST", "/events", json.dumps(CLOUD["data"]).encode(), binary),
        await intake.ask("POST", "/events", json.dumps([CLOUD, CLOUD]).encode(), {"Content-Type": batch}),
    ]
    ids = [each for status, text in answers for each in json.loads(text)["accepted"] if status == 200]
    assert len(ids) == 4
    assert len(set(ids)) == 1
    assert [message.content_type for message in intake.feed.published][1] == "application/json"
    assert dict(intake.feed.published[1].headers or {})["cloudEvents:source"] == "/pbx"
    assert await intake.ask("POST", "/events", b"[]", {"Content-Type": batch}) == (200, '{"accepted":[]}\n')


async def test_what_the_sdk_of_cloud_events_sends_is_accepted(intake: Intake) -> None:
    attributes = {"specversion": "1.0", "id": "büro 1", "source": "/pbx", "type": "call.ended"}
    event = CloudEvent(attributes=attributes | {"time": datetime.now(UTC)}, data={"call_id": CALL_ID})
    answers = [
        await intake.ask("POST", "/events", bytes(message.body), dict(message.headers))
        for message in (to_structured_event(event), to_binary_event(event))
    ]
    assert {status for status, _ in answers} == {200}
    assert answers[0] == answers[1]
    kinds = [message.content_type for message in intake.feed.published]
    assert kinds == ["application/cloudevents+json", "application/json"]


async def test_a_repeat_gets_the_same_id(intake: Intake) -> None:
    assert await intake.ask("GET", URL) == await intake.ask("GET", URL)
    assert await intake.ask("POST", "/events", CALL) == await intake.ask("POST", "/events", CALL)


async def test_while_the_broker_is_away_an_event_is_safe_in_the_spool(intake: Intake) -> None:
    intake.feed.available.clear()
    with capture_logs() as lines:
        assert (await intake.ask("GET", URL))[0] == 200
    assert intake.spool.waiting == 1
    assert [line["stored"] for line in lines if line["event"] == "event_accepted"] == ["spool"]
    assert (await intake.ask("GET", "/readyz"))[0] == 200


async def test_a_body_in_pieces_and_after_a_100_is_read_whole(intake: Intake) -> None:
    head = (
        f"POST /events?token={TOKEN} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Connection: close\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (CALL[:9], CALL[9:]))
    answer = await exchange(intake.port, head.encode(), chunks + b"0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")


async def test_a_body_may_have_a_mebibyte_and_no_byte_more(tmp_path: Path) -> None:
    async with open_intake(tmp_path, spool_size=10_000_000) as intake:
        largest = CALL + b" " * (1024 * 1024 - len(CALL))
        assert (await intake.ask("POST", "/events", largest))[0] == 200
        assert (await intake.ask("POST", "/events", largest + b" "))[0] == 413
        assert len(intake.feed.published) == 1


# --- what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    [
        ("GET", "/vicidial/call-ended?call_id=12345", None, {}, 400),
        ("GET", f"/vicidial/call-ended?call_id={TOKEN}", None, {}, 400),
        ("GET", f"{URL}&occurred_at={TOKEN}", None, {}, 400),
        ("POST", "/events", b"{", {}, 400),
        ("POST", "/events", CALL.replace(CALL_ID.encode(), b"nobody's"), {}, 400),
        ("POST", "/events", json.dumps({"type": TOKEN, "call_id": CALL_ID}).encode(), {}, 400),
        ("POST", "/events", CALL, {"Content-Type": "text/plain"}, 415),
        ("POST", "/events", CALL, {"Content-Encoding": "gzip"}, 415),
        ("POST", "/events", CALL, {"ce-specversion": "1.0", "ce-id": "%ff"}, 400),
        ("GET", "/events", None, {}, 405),
        ("HEAD", URL, None, {}, 405),
        ("POST", f"/{TOKEN}", CALL, {}, 404),
        ("POST", "/events", CALL, {"X-Long": "x" * 9000, "X-Other": "x" * 9000}, 431),
        ("POST", "/events", CALL, {"X-Long": f"{TOKEN}{'x' * 17000}"}, 431),
        ("GET", f"{URL}&status={TOKEN}{'x' * 17000}", None, {}, 431),
        ("POST", "/events", CALL, {"Authorization": "Bearer wrong"}, 401),
        ("POST", "/events", CALL, {"Authorization": ""}, 401),
    ],
)
async def test_what_is_wrong_is_refused_with_a_sentence_that_repeats_no_token(
    intake: Intake, method: str, path: str, body: bytes | None, headers: dict[str, str], status: int
) -> None:
    with capture_logs() as lines:
        found, text = await intake.ask(method, path, body, headers)
    assert found == status
    assert method == "HEAD" or len(text) > 20
    assert TOKEN not in text
    assert TOKEN not in str(lines)
    assert any(line["status"] == status for line in lines if line["event"].startswith("request_"))
    assert (intake.feed.published, intake.spool.waiting) == ([], 0)


async def test_what_anybody_can_send_is_logged_apart_from_what_a_producer_sends(intake: Intake) -> None:
    with capture_logs() as lines:
        await exchange(intake.port, b"none\r\n\r\n")
        for method, path in (("GET", "/none"), ("PUT", "/events"), ("POST", "/events")):
            await intake.ask(method, path, headers={"Authorization": "Bearer wrong"})
        await intake.ask("POST", "/events", b"{")
    assert [(line["event"], line["status"]) for line in lines] == [
        ("request_turned_away", 400),
        ("request_turned_away", 404),
        ("request_turned_away", 405),
        ("request_turned_away", 401),
        ("request_refused", 400),
    ]


async def test_a_request_that_is_no_http_is_answered_and_repeats_nothing(intake: Intake) -> None:
    for line in (
        f"GET {URL}&token={TOKEN} HTTP/9\r\n\r\n",
        f"{TOKEN}\r\n\r\n",
        "GET / HTTP/1.1\r\n \0: x\r\n\r\n",
    ):
        answer = await exchange(intake.port, line.encode())
        assert answer.startswith(b"HTTP/1.0 400 ")
        assert TOKEN.encode() not in answer
    assert intake.counted("other", 400) == 3


async def test_a_body_that_is_cut_off_is_no_event(intake: Intake) -> None:
    head = f"POST /events?token={TOKEN} HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", intake.port)
    writer.write(head.encode() + CALL)
    await writer.drain()
    writer.close()
    del reader
    bad = head.replace("Content-Length: 99", "Transfer-Encoding: chunked\r\nConnection: close")
    answer = await exchange(intake.port, bad.encode() + b"zz\r\n")
    assert b" 400 " in answer.partition(b"\r\n")[0]
    assert intake.feed.published == []


async def test_a_full_spool_without_a_broker_is_a_503(tmp_path: Path) -> None:
    async with open_intake(tmp_path, spool_size=1100) as intake:
        intake.feed.available.clear()
        answers = [await intake.ask("GET", f"{URL}&status=S{number}") for number in range(3)]
        assert [status for status, _ in answers] == [200, 200, 503]
        assert "the spool is full" in answers[2][1]
        assert (await intake.ask("GET", "/readyz"))[0] == 503
        assert (await intake.ask("POST", "/check"))[0] == 503


async def test_an_event_that_the_broker_refuses_for_good_is_not_accepted(intake: Intake) -> None:
    intake.feed.refuses = MessageRefused("the broker refuses this message: too large")
    assert await intake.ask("POST", "/events", CALL) == (
        422,
        "not accepted: the broker refuses this message: too large\n",
    )
    intake.feed.refuses = PublishError("a queue is full")
    assert (await intake.ask("POST", "/events", CALL))[0] == 200
    assert intake.spool.waiting == 1


async def test_a_bug_of_ours_is_a_500_and_is_logged(intake: Intake) -> None:
    intake.feed.bug = KeyError(TOKEN)
    with capture_logs() as lines:
        status, text = await intake.ask("POST", "/events", CALL)
    assert (status, TOKEN in text) == (500, False)
    assert [line["event"] for line in lines] == ["request_failed"]


async def test_more_than_its_rate_is_refused_of_a_source_before_its_token_is_looked_at(
    tmp_path: Path,
) -> None:
    async with open_intake(tmp_path, rate=3) as intake:
        answers = [await intake.ask("GET", URL, headers={"Authorization": ""}) for _ in range(4)]
        assert [status for status, _ in answers] == [401, 401, 401, 429]
        assert (await intake.ask("GET", "/livez"))[0] == 200


# --- health -----------------------------------------------------------------------------------------


async def test_the_health_endpoints_need_no_token(intake: Intake) -> None:
    intake.headers.clear()
    assert await intake.ask("GET", "/livez") == (200, "ok\n")
    assert await intake.ask("GET", "/readyz") == (200, "ok\n")
    assert await intake.ask("HEAD", "/readyz") == (200, "")
    status, text = await intake.ask("GET", "/metrics")
    assert status == 200
    assert 'crm_sync_intake_requests_total{endpoint="/livez",status="200"} 1.0' in text


async def test_a_check_needs_a_token_and_says_what_would_take_an_event(intake: Intake) -> None:
    assert await intake.ask("POST", "/check") == (200, '{"broker":null,"spool":null}\n')
    intake.feed.available.clear()
    assert await intake.ask("POST", "/check") == (200, '{"broker":"away","spool":null}\n')
    intake.headers.clear()
    assert (await intake.ask("POST", "/check"))[0] == 401
    assert (intake.feed.published, intake.spool.waiting) == ([], 0)


# --- connections ------------------------------------------------------------------------------------


async def test_a_client_that_sends_its_headers_slowly_is_cut_off(tmp_path: Path) -> None:
    async with open_intake(tmp_path, limits=Limits(idle=0.2)) as intake:
        assert await exchange(intake.port, b"GET /livez HTTP/1.1\r\nHost:") == b""


async def test_a_client_that_sends_its_body_slowly_is_answered_and_cut_off(tmp_path: Path) -> None:
    async with open_intake(tmp_path, limits=Limits(body_within=0.2)) as intake:
        head = f"POST /events?token={TOKEN} HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n"
        answer = await exchange(intake.port, head.encode() + CALL)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"the body did not come within 0.2 s" in answer


async def test_a_request_too_many_is_a_503_and_does_not_hide_that_it_lives(tmp_path: Path) -> None:
    async with open_intake(tmp_path, limits=Limits(requests=1), confirmed_within=WITHIN) as intake:
        intake.feed.go_on.clear()
        first = asyncio.create_task(intake.ask("POST", "/events", CALL))
        await until(lambda: bool(intake.feed.waiting))
        answer = await intake.ask("POST", "/events", CALL)
        assert answer == (503, "not accepted: too many requests are in work\n")
        assert intake.counted("/events", 503) == 1
        assert await intake.ask("GET", "/livez") == (200, "ok\n")
        intake.feed.go_on.set()
        assert (await first)[0] == 200
        assert (await intake.ask("POST", "/events", CALL))[0] == 200


@pytest.mark.parametrize("limits", [Limits(connections=2), Limits(connections_of_one=2)])
async def test_a_connection_too_many_is_closed_at_once(tmp_path: Path, limits: Limits) -> None:
    async with open_intake(tmp_path, limits=limits) as intake:
        opened = [await asyncio.open_connection("127.0.0.1", intake.port) for _ in range(2)]
        assert await exchange(intake.port, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n") == b""
        for _, writer in opened:
            writer.close()
            await writer.wait_closed()
        async with asyncio.timeout(WITHIN):
            while not await exchange(intake.port, b"GET /livez HTTP/1.0\r\n\r\n"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_a_stop_answers_what_is_in_work_and_takes_nothing_more(tmp_path: Path) -> None:
    async with open_intake(tmp_path, confirmed_within=WITHIN) as intake:
        intake.feed.go_on.clear()
        async with intake.server.listen("127.0.0.1", 0) as port:
            asking = asyncio.create_task(
                intake.session.post(
                    f"http://127.0.0.1:{port}/events?token={TOKEN}",
                    data=CALL,
                    headers={"Content-Type": "application/json"},
                )
            )
            await until(lambda: bool(intake.feed.waiting))
            asyncio.get_running_loop().call_later(0.05, intake.feed.go_on.set)
        assert (await asking).status == 200
        with pytest.raises(aiohttp.ClientConnectionError):
            await intake.session.get(f"http://127.0.0.1:{port}/livez")


async def test_an_address_that_is_taken_is_named(intake: Intake) -> None:
    with pytest.raises(ListenError, match=f"can't listen on 127.0.0.1:{intake.port}: .*in use"):
        async with intake.server.listen("127.0.0.1", intake.port):
            pass


# --- TLS --------------------------------------------------------------------------------------------


async def test_it_speaks_tls_with_a_certificate(tmp_path: Path, certificate: Path) -> None:
    tls = Certificate(certificate, certificate).context
    async with open_intake(tmp_path, tls=tls) as intake:
        context = ssl.create_default_context(cafile=str(certificate))
        async with intake.session.get(f"{intake.url}{URL}&token={TOKEN}", ssl=context) as response:
            assert response.status == 200
        assert await exchange(intake.port, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n") == b""


async def test_a_renewed_certificate_is_used_and_a_broken_one_is_not(
    tmp_path: Path, certificate: Path
) -> None:
    text = await asyncio.to_thread(certificate.read_text)
    watched = Certificate(certificate, certificate, look_every=0.01)
    watching = asyncio.create_task(watched.watch())
    with capture_logs() as lines:
        await asyncio.to_thread(certificate.write_text, "broken")
        await until(lambda: any(line["event"] == "certificate_unusable" for line in lines))
        await asyncio.to_thread(certificate.write_text, text)
        await until(lambda: any(line["event"] == "certificate_changed" for line in lines))
    watching.cancel()


def test_a_certificate_that_cannot_be_used_is_named(tmp_path: Path, certificate: Path) -> None:
    (tmp_path / "broken").write_text("broken")
    for file in (tmp_path / "none", tmp_path / "broken"):
        with pytest.raises(ValueError, match=f"can't use {file} with"):
            Certificate(file, certificate)
