"""What every stand-in CRM does: count, limit, forget logins, break as it is asked to."""

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from simulators.crms.base import CRM_FAULTS, CrmStandIn, Refused, Window, json_object


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Notes(CrmStandIn):
    """A CRM of one type of record."""

    title = "Notes"

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - as the base has them
        super().__init__(**options)
        self.key_fields = {"notes": "key"}

    def route(self, app: web.Application) -> None:
        app.router.add_post("/notes", self._make)
        app.router.add_get("/notes", self._list)

    def too_many(self, window: str, wait: float) -> web.Response:
        return web.json_response({"window": window, "wait": wait}, status=429)

    def counts_in(self, request: web.Request) -> Mapping[str, int]:
        return {"search_rate": 1} if request.method == "GET" else {"rate": 1, "daily": 2}

    def headers(self, request: web.Request) -> Mapping[str, str]:
        return {"x-left": str(self.windows["rate"].remaining)} if "rate" in self.windows else {}

    def settings(self) -> dict[str, Any]:
        return {"url": self.url}

    async def _make(self, request: web.Request) -> web.Response:
        try:
            fields = json_object(await request.read())
        except ValueError as error:
            raise Refused(web.json_response({"error": "no JSON"}, status=400)) from error
        return web.json_response({"id": self.make("notes", fields)}, status=201)

    async def _list(self, _: web.Request) -> web.Response:
        return web.json_response(list(self.records["notes"]))


async def post(session: aiohttp.ClientSession, url: str, body: Any) -> tuple[int, Any]:  # noqa: ANN401
    async with session.post(url, json=body) as answer:
        return answer.status, await answer.json(content_type=None)


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def test_a_window_slides(clock: Clock) -> None:
    window = Window(2, 10, clock)
    assert window.admit()
    clock.now = 4
    assert window.admit()
    assert not window.admit()
    assert (window.remaining, window.wait) == (0, 6)
    clock.now = 10
    assert window.remaining == 1
    assert not window.admit(2)
    assert window.admit()


async def test_records_are_counted_by_key_and_a_second_one_is_a_double(
    session: aiohttp.ClientSession,
) -> None:
    async with Notes() as crm:
        for key in ("a", "b", "a"):
            assert (await post(session, crm.url + "/notes", {"key": key}))[0] == 201
        assert (crm.writes, crm.doubles) == ({"a": 2, "b": 1}, {"a": 2})
        assert crm.find("notes", key="a") == ["1001", "1003"]
        async with session.get(crm.url + "/report") as answer:
            report = await answer.json()
    assert report["records"] == {"notes": {"1001": "a", "1002": "b", "1003": "a"}}
    assert report["doubles"] == {"a": 2}
    assert report["requests"][0] == {"method": "POST", "path": "/notes", "body": {"key": "a"}, "status": 201}


async def test_a_handler_refuses_and_an_unknown_route_is_refused(session: aiohttp.ClientSession) -> None:
    async with Notes() as crm:
        assert await post(session, crm.url + "/notes", []) == (400, {"error": "no JSON"})
        assert await post(session, crm.url + "/nothing", {}) == (404, None)
        async with session.put(crm.url + "/notes") as answer:
            assert answer.status == 405
        assert not crm.records["notes"]


async def test_limits_and_storms_refuse_in_the_vendors_words(
    session: aiohttp.ClientSession, clock: Clock
) -> None:
    async with Notes(clock=clock) as crm:
        await post(session, crm.url + "/control", {"rate": 2, "search_rate": 1, "daily": 4})
        async with session.post(crm.url + "/notes", json={}) as answer:
            assert answer.headers["x-left"] == "1"
        assert (await post(session, crm.url + "/notes", {}))[0] == 201
        assert await post(session, crm.url + "/notes", {}) == (429, {"window": "rate", "wait": 10})
        clock.now = 10
        assert (await post(session, crm.url + "/notes", {}))[1]["window"] == "daily"
        for status in (200, 429):
            async with session.get(crm.url + "/notes") as answer:
                assert answer.status == status
        await post(session, crm.url + "/control", {"daily": None, "storm": 5})
        assert (await post(session, crm.url + "/notes", {}))[1] == {"window": "storm", "wait": 5}
        clock.now = 15
        assert (await post(session, crm.url + "/notes", {}))[0] == 201


async def test_a_token_expires_and_can_be_revoked(session: aiohttp.ClientSession, clock: Clock) -> None:
    async with Notes(clock=clock) as crm:
        crm.token_life = 60
        first = crm.issue_token()
        clock.now = 59
        assert crm.is_good(first)
        clock.now = 60
        assert not crm.is_good(first)
        second = crm.issue_token()
        await post(session, crm.url + "/control", {"revoke_tokens": True})
        assert not crm.is_good(second)
        assert crm.tokens_issued == 2


async def test_a_lost_answer_is_of_a_request_that_has_written(session: aiohttp.ClientSession) -> None:
    async with Notes() as crm:
        await post(session, crm.url + "/control", {"fault": "lose_answer", "fail_next": 1})
        async with session.get(crm.url + "/notes") as answer:
            assert answer.status == 200
        with pytest.raises(aiohttp.ClientError):
            await post(session, crm.url + "/notes", {"key": "a"})
        assert crm.writes == {"a": 1}
        assert (await post(session, crm.url + "/notes", {"key": "b"}))[0] == 201
        assert [each.status for each in crm.requests] == [200, 0, 201]


async def test_a_dropped_request_writes_nothing(session: aiohttp.ClientSession) -> None:
    async with Notes() as crm:
        crm.fault = "drop"
        with pytest.raises(aiohttp.ClientError):
            await post(session, crm.url + "/notes", {})
        assert not crm.records["notes"]


async def test_a_fault_may_be_of_some_paths_and_of_some_requests_only(session: aiohttp.ClientSession) -> None:
    async with Notes() as crm:
        crm.control({"fault": "503", "fault_path": "/notes", "fail_next": 2})
        statuses = [(await post(session, crm.url + path, {}))[0] for path in ("/other", *["/notes"] * 3)]
        assert statuses == [404, 503, 503, 201]
        assert crm.by_status == {404: 1, 503: 2, 201: 1}


async def test_the_control_seeds_locks_forgets_and_refuses_what_it_does_not_know(
    session: aiohttp.ClientSession,
) -> None:
    async with Notes() as crm:
        control = crm.url + "/control"
        await post(session, control, {"records": {"notes": [{"id": "7", "key": "a"}]}, "locked": ["7"]})
        assert (crm.records["notes"], crm.locked) == ({"7": {"key": "a"}}, {"7"})
        await post(session, control, {"forget": True, "delay": 0.001})
        assert (crm.writes, crm.delay) == ({}, 0.001)
        wrong: Any
        for wrong in ({"fault": "sulk"}, {"colour": 1}, []):
            assert (await post(session, control, wrong))[0] == 400


def test_the_faults_are_those_of_every_stand_in_and_three_more() -> None:
    assert {"500", "503", "hang", "drop", "lose_answer"} <= set(CRM_FAULTS)


def test_help_of_the_program_teaches() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "simulators.crms", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert "lose_answer" in shown
    assert "/control" in shown
    assert json.dumps({"fault": None}) in shown
