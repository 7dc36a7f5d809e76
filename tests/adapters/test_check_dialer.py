"""What `crm-sync check` finds out about the dialer, whatever answers there."""

from collections.abc import Callable

import pytest

from simulators.dialer import DEFAULT_USER, ApiUser, StandInDialer
from simulators.recordings import find
from tests.adapters.raw import Connection, RawServer
from worker.check.dialer import check_dialer
from worker.check.finding import Finding, Level
from worker.settings import Settings, load

VERSION = find("other", "version").body
AGENT_API = "VERSION: 2.14-103|BUILD: 250122-1010|DATE: 2026-11-22 02:09:58|EPOCH: 1795313398\n"
PASSWORD = "Pl4ntedS3cret9"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("CRM_SYNC_VICIDIAL__USER", DEFAULT_USER)
    monkeypatch.setenv("CRM_SYNC_VICIDIAL__PASSWORD", PASSWORD)
    monkeypatch.setenv("CRM_SYNC_SINK__KIND", "queue")
    return monkeypatch


async def finding(environment: pytest.MonkeyPatch, url: str) -> Finding:
    environment.setenv("CRM_SYNC_VICIDIAL__URL", url)
    found = [each async for each in check_dialer(load(Settings))]
    assert PASSWORD not in repr(found)
    return found[0]


def answering(body: Callable[[bytes], bytes], asked: list[bytes]) -> RawServer:
    async def serve(connection: Connection) -> None:
        while True:
            request = await connection.request()
            asked.append(request)
            await connection.answer(body(request))

    return RawServer(serve)


@pytest.mark.parametrize("before", ["", "\ufeff"])
async def test_the_agent_api_is_recognized_and_no_login_is_sent_there(
    before: str, environment: pytest.MonkeyPatch
) -> None:
    asked: list[bytes] = []
    async with answering(lambda _: (before + AGENT_API).encode(), asked) as server:
        found = await finding(environment, server.url)
    assert found.level is Level.FAILED
    assert found.text == "VICIdial 2.14-103, build 250122-1010"
    assert found.advice[0] == (
        "vicidial.url is the agent API; set it to the address of vicidial/non_agent_api.php"
    )
    assert len(asked) == 1
    assert PASSWORD.encode() not in asked[0]


async def test_the_agent_api_is_known_by_its_address_too(environment: pytest.MonkeyPatch) -> None:
    async with answering(lambda _: VERSION.encode(), []) as server:
        found = await finding(environment, f"http://127.0.0.1:{server.port}/agc/api.php")
    assert "agent API" in found.advice[0]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
async def test_a_login_refused_by_any_api_is_tried_once_and_shows_no_password(
    encoding: str, environment: pytest.MonkeyPatch
) -> None:
    asked: list[bytes] = []
    refusals = (f"ERROR: Invalid Username/Password: |6666|{PASSWORD}|0|0|BAD|\n", "LOGIN INCORRECT: |x|\n")
    for refusal in refusals:
        asked.clear()

        def answer(request: bytes, refusal: str = refusal) -> bytes:
            return (VERSION if b"function=version" in request else refusal).encode(encoding)

        async with answering(answer, asked) as server:
            found = await finding(environment, server.url)
        assert found.level is Level.FAILED
        assert found.advice[0].startswith("callid_info: the dialer says ")
        assert found.advice[1].startswith("agent_campaigns: not tried, since refused logins lock")
        assert len(asked) == 2


async def test_an_answer_that_can_not_be_decoded_is_called_that(environment: pytest.MonkeyPatch) -> None:
    async def serve(connection: Connection) -> None:
        await connection.request()
        await connection.answer(b"ok", "content-encoding: br")

    async with RawServer(serve) as server:
        found = await finding(environment, server.url)
    assert found.text.startswith("the dialer's answer could not be decoded: its Content-Encoding is br")


async def test_the_optional_functions_are_tried_too_if_a_needed_function_is_refused(
    environment: pytest.MonkeyPatch,
) -> None:
    async with StandInDialer() as dialer:
        allowed = frozenset({"callid_info", "recording_lookup", "campaigns_list"})
        dialer.users[DEFAULT_USER] = ApiUser(PASSWORD, functions=allowed)
        found = await finding(environment, dialer.url)
    assert found.level is Level.FAILED
    assert found.text.endswith("; may use callid_info, recording_lookup, campaigns_list")
    assert [advice.partition(":")[0] for advice in found.advice] == ["agent_campaigns", "user_details"]
    assert found.advice[1].endswith("until then full_name, access_level and user_group are null")


async def test_the_optional_functions_are_not_waited_for_if_a_needed_function_fails(
    environment: pytest.MonkeyPatch,
) -> None:
    async with StandInDialer() as dialer:
        dialer.users[DEFAULT_USER] = ApiUser(PASSWORD)
        dialer.plant("M0000000000000000000", status=500)
        found = await finding(environment, dialer.url)
    assert found.level is Level.FAILED
    assert found.text.endswith("; may use agent_campaigns")
    assert [advice.partition(":")[0] for advice in found.advice] == ["callid_info"]
