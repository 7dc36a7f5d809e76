"""The stand-in CRM checks signatures as the published verifier makes them, and refuses on request."""

import asyncio
import base64
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest
from standardwebhooks import Webhook

from simulators.crm import StandInCrm
from simulators.stand_in import Fault

SECRET = "whsec_" + base64.b64encode(b"a key of 24 bytes or so.").decode()
OTHER = "whsec_" + base64.b64encode(b"somebody else's own key.").decode()
BODY = '{"type":"call.enriched","data":{"é":1}}'


def signed(secret: str = SECRET, message_id: str = "evt-1", age: timedelta = timedelta()) -> dict[str, str]:
    at = datetime.now(tz=UTC) - age
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign(message_id, at, BODY),
    }


async def send(
    session: aiohttp.ClientSession, crm: StandInCrm, headers: dict[str, str], body: str = BODY
) -> tuple[int, str]:
    async with session.post(crm.url, data=body.encode(), headers=headers) as response:
        return response.status, await response.text()


async def test_a_signature_of_the_published_library_is_good(session: aiohttp.ClientSession) -> None:
    async with StandInCrm(secret=SECRET) as crm:
        assert (await send(session, crm, signed()))[0] == 200
        (seen,) = crm.received
        assert (seen.id, seen.verified, seen.status, seen.body) == ("evt-1", True, 200, BODY.encode())
        assert seen.json == json.loads(BODY)


async def test_one_good_signature_of_several_is_enough(session: aiohttp.ClientSession) -> None:
    headers = signed()
    headers["webhook-signature"] = (
        signed(OTHER)["webhook-signature"] + " v1a,xx " + headers["webhook-signature"]
    )
    async with StandInCrm(secret=SECRET) as crm:
        assert (await send(session, crm, headers))[0] == 200


@pytest.mark.parametrize(
    ("headers", "body", "why"),
    [
        (lambda: signed(OTHER), BODY, "no signature"),
        (signed, BODY + " ", "no signature"),
        (lambda: signed() | {"webhook-id": "evt-2"}, BODY, "no signature"),
        (dict, BODY, "missing"),
        (lambda: signed(age=timedelta(minutes=6)), BODY, "5 minutes"),
        (lambda: signed(age=timedelta(minutes=-6)), BODY, "5 minutes"),
        (lambda: signed() | {"webhook-timestamp": "soon"}, BODY, "not a number"),
    ],
    ids=["key", "body", "id", "unsigned", "too old", "from the future", "no number"],
)
async def test_a_bad_signature_is_refused_with_the_reason(
    headers: Callable[[], dict[str, str]], body: str, why: str, session: aiohttp.ClientSession
) -> None:
    async with StandInCrm(secret=SECRET) as crm:
        status, text = await send(session, crm, headers(), body)
        assert status == 401
        assert why in text
        assert not crm.received[0].verified
        assert not crm.accepted


async def test_without_a_secret_everything_is_taken_but_nothing_is_verified(
    session: aiohttp.ClientSession,
) -> None:
    async with StandInCrm() as crm:
        assert (await send(session, crm, {"webhook-id": "a"}, "no json"))[0] == 200
        assert (crm.received[0].json, crm.received[0].verified) == (None, False)


async def test_a_repeat_is_accepted_again_but_changes_nothing(session: aiohttp.ClientSession) -> None:
    async with StandInCrm() as crm:
        for body in ("1", "2"):
            assert (await send(session, crm, {"webhook-id": "a"}, body))[0] == 200
        assert (crm.deliveries, crm.by_id["a"], crm.accepted["a"].body) == (2, 2, b"1")


async def test_it_refuses_by_script_and_by_id(session: aiohttp.ClientSession) -> None:
    async with StandInCrm() as crm:
        crm.script = [500, 429]
        crm.retry_after = 7
        crm.fail_ids["b"] = [410]
        statuses = [(await send(session, crm, {"webhook-id": each}))[0] for each in ("a", "b", "b", "a")]
        assert statuses == [500, 410, 429, 200]
        crm.script = lambda seen: 400 if seen.id == "c" else None
        assert [(await send(session, crm, {"webhook-id": each}))[0] for each in ("c", "d")] == [400, 200]
        assert crm.by_status == {200: 2, 400: 1, 410: 1, 429: 1, 500: 1}
        crm.script = [503]
        async with session.post(crm.url, data=b"{}") as response:
            assert response.headers["retry-after"] == "7"


@pytest.mark.parametrize(
    ("fault", "status"), [("hang", 0), ("reset", 0), ("garbage", 0), ("cut", 200), ("drip", 200)]
)
async def test_a_fault_eats_the_answer_but_the_delivery_and_what_was_sent_of_it_are_remembered(
    fault: Fault, status: int
) -> None:
    quick = aiohttp.ClientTimeout(total=0.3)
    async with StandInCrm() as crm, aiohttp.ClientSession(timeout=quick) as session:
        crm.fault = fault
        with pytest.raises((aiohttp.ClientError, TimeoutError)):
            await send(session, crm, {"webhook-id": "a"})
        assert [(each.id, each.status) for each in crm.received] == [("a", status)]


@pytest.mark.parametrize(
    ("fault", "status"), [("500", 500), ("empty", 200), ("html", 200), ("redirect", 302)]
)
async def test_a_broken_answer_with_a_status_is_remembered_with_it(fault: Fault, status: int) -> None:
    async with StandInCrm() as crm, aiohttp.ClientSession() as session:
        crm.fault = fault
        async with session.post(crm.url, data=b"{}", allow_redirects=False) as response:
            assert response.status == status
        assert crm.by_status == {status: 1}


async def test_it_returns_one_answer_until_that_is_changed(session: aiohttp.ClientSession) -> None:
    async with StandInCrm() as crm:
        crm.control({"answer": 503, "retry_after": "Wed, 21 Oct 2015 07:28:00 GMT"})
        for _ in range(2):
            async with session.post(crm.url, data=b"{}") as response:
                assert response.status == 503
                assert response.headers["retry-after"] == "Wed, 21 Oct 2015 07:28:00 GMT"
        crm.control({"answer": 200})
        assert (await send(session, crm, {"webhook-id": "a"}))[0] == 200


async def test_it_accounts_for_every_id(session: aiohttp.ClientSession) -> None:
    times = iter([1.0, 2.0, 3.0])
    async with StandInCrm(clock=lambda: next(times)) as crm:
        crm.script = [500]
        for name, body in (("a", "1"), ("a", "2"), ("b", "3")):
            await send(session, crm, {"webhook-id": name}, body)
        async with session.get(f"{crm.base_url}/account") as response:
            assert await response.json() == {
                "a": {"accepted_at": [2.0], "different": ["1", "2"]},
                "b": {"accepted_at": [3.0], "different": []},
            }


async def test_it_can_count_without_keeping(session: aiohttp.ClientSession) -> None:
    async with StandInCrm(keep=False) as crm:
        for number in range(3):
            await send(session, crm, {"webhook-id": str(number)})
        assert (crm.deliveries, crm.by_status[200]) == (3, 3)
        assert [len(each) for each in (crm.received, crm.by_id, crm.accepted)] == [0, 0, 0]


async def test_as_a_program_it_is_controlled_over_http(session: aiohttp.ClientSession) -> None:
    command = [sys.executable, "-m", "simulators.crm", "--secret", SECRET]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        line = json.loads(await asyncio.wait_for(process.stdout.readline(), 20))
        control = f"http://127.0.0.1:{line['port']}/control"
        async with session.post(control, json={"script": [503], "retry_after": 1}) as response:
            assert response.status == 200, await response.text()
        for expected in (503, 200):
            async with session.post(line["url"], data=BODY.encode(), headers=signed()) as response:
                assert response.status == expected
        async with session.get(control) as response:
            report = await response.json()
        assert (report["deliveries"], report["accepted"], report["by_id"]) == (2, 1, {"evt-1": 2})
        assert report["received"][1]["body"] == BODY
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 20) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
