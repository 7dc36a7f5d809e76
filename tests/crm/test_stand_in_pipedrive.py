"""The stand-in Pipedrive accepts and refuses what Pipedrive's documentation says."""

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from simulators.crms.pipedrive import TOKEN, PipedriveStandIn


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Api:
    def __init__(self, crm: PipedriveStandIn, session: aiohttp.ClientSession, clock: Clock) -> None:
        self.crm = crm
        self.clock = clock
        self.session = session
        self.token = TOKEN
        self.headers: dict[str, str] = {}

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:  # noqa: ANN401
        url = f"{self.crm.url}/api/{path}"
        headers = {"x-api-token": self.token}
        async with self.session.request(method, url, json=body, headers=headers) as answer:
            self.headers = {name.lower(): value for name, value in answer.headers.items()}
            return answer.status, await (answer.json() if "json" in answer.content_type else answer.text())

    async def add(self, **fields: Any) -> tuple[int, Any]:  # noqa: ANN401
        return await self.ask("POST", "v2/activities", fields)

    async def found(self, path: str) -> Any:  # noqa: ANN401
        status, body = await self.ask("GET", path)
        assert (status, body["success"]) == (200, True)
        return body["data"]


@pytest.fixture
async def api(session: aiohttp.ClientSession) -> AsyncIterator[Api]:
    clock = Clock()
    async with PipedriveStandIn(clock=clock) as crm:
        crm.seed("persons", {"id": "501", "name": "Ann Smith", "phones": ["(312) 555-1212"]})
        crm.seed("users", {"id": "77", "name": "Bob", "email": "bob@example.com"})
        yield Api(crm, session, clock)


async def test_only_the_account_s_token_is_accepted(api: Api) -> None:
    api.token = "other"
    status, body = await api.ask("GET", "v1/activityTypes")
    assert (status, body["success"], body["error"]) == (401, False, "unauthorized access")
    api.token = ""
    assert (await api.ask("GET", f"v1/activityTypes?api_token={TOKEN}"))[0] == 200


async def test_an_activity_is_added_with_its_person_and_changed(api: Api) -> None:
    status, body = await api.add(
        subject="Outbound call",
        type="call",
        done=True,
        due_date="2026-11-20",
        due_time="19:05",
        duration="00:02",
        owner_id=77,
        participants=[{"person_id": 501, "primary": True}],
        note="<p>Call V1</p>",
    )
    made = body["data"]
    assert (status, body["success"], made["person_id"], made["owner_id"]) == (200, True, 501, 77)
    assert api.crm.writes == {"V1": 1}
    status, body = await api.ask("PATCH", f"v2/activities/{made['id']}", {"subject": "Changed"})
    assert (status, body["data"]["subject"], body["data"]["note"]) == (200, "Changed", "<p>Call V1</p>")
    assert (await api.ask("PATCH", "v2/activities/1", {"subject": "Changed"}))[0] == 404
    await api.add(note="<p>Call V1</p>")
    assert api.crm.doubles == {"V1": 2}  # nothing is unique


@pytest.mark.parametrize(
    "fields",
    [
        {"colour": "red"},
        {"type": "chat"},
        {"done": 1},
        {"due_date": "20.11.2026"},
        {"due_time": "7 pm"},
        {"due_time": "25:00"},
        {"duration": 120},
        {"owner_id": "77"},
        {"owner_id": 78},
        {"participants": [{"primary": True}]},
        {"participants": [{"person_id": "501"}]},
        {"participants": [{"person_id": 502, "primary": True}]},
        {"participants": [{"person_id": 501, "colour": "red"}]},
        {"participants": {"person_id": 501}},
        {"note": None},
    ],
)
async def test_a_wrong_field_of_an_activity_is_refused(api: Api, fields: dict[str, Any]) -> None:
    status, body = await api.add(**fields)
    assert (status, body["success"], body["code"]) == (400, False, "ERR_SCHEMA_VALIDATION_FAILED")
    assert not api.crm.records["activities"]


async def test_a_body_that_is_no_object_is_refused(api: Api) -> None:
    assert (await api.ask("POST", "v2/activities", [1]))[0] == 400


async def test_activities_are_listed_by_time_person_and_state(api: Api) -> None:
    _, first = await api.add(done=True, participants=[{"person_id": 501, "primary": True}])
    _, second = await api.add(done=True, owner_id=77)
    _, third = await api.add(done=False)
    ids = [each["data"]["id"] for each in (first, second, third)]

    async def listed(query: str) -> list[int]:
        return [each["id"] for each in await api.found(f"v2/activities?{query}")]

    assert await listed("") == ids
    assert await listed("done=true&sort_by=add_time&sort_direction=desc") == [ids[1], ids[0]]
    assert await listed("person_id=501") == [ids[0]]
    assert await listed("owner_id=77") == [ids[1]]
    assert await listed("updated_since=2100-01-01T00:00:00Z") == []
    assert await listed("updated_since=2000-01-01T00:00:00Z&limit=1") == [ids[0]]


@pytest.mark.parametrize(
    "path",
    [
        "v2/activities?limit=501",
        "v2/activities?limit=many",
        "v2/activities?done=yes",
        "v2/activities?sort_by=subject",
        "v2/activities?sort_direction=down",
        "v2/activities?updated_since=2026-11-20 00:00:00",
        "v2/persons/search?term=3",
        "v2/persons/search?term=312&fields=fax",
        "v1/users/find",
    ],
)
async def test_a_wrong_parameter_is_refused(api: Api, path: str) -> None:
    assert (await api.ask("GET", path))[0] == 400


async def test_persons_are_found_by_a_part_of_their_number_or_name(api: Api) -> None:
    async def found(query: str) -> list[int]:
        answer = await api.found(f"v2/persons/search?{query}")
        return [each["item"]["id"] for each in answer["items"]]

    assert await found("term=3125551212&fields=phone") == [501]
    assert await found("term=smith&fields=name") == [501]
    assert await found("term=3125551213&fields=phone") == []
    assert await found("term=3125551212&fields=phone&exact_match=true") == []
    assert await found("term=(312) 555-1212&fields=phone&exact_match=true") == [501]


async def test_users_and_activity_types_are_found(api: Api) -> None:
    assert [
        each["id"] for each in await api.found("v1/users/find?term=bob@example.com&search_by_email=1")
    ] == [77]
    assert await api.found("v1/users/find?term=ann") is None
    assert "call" in [each["key_string"] for each in await api.found("v1/activityTypes")]
    api.crm.control({"types": ["chat"]})
    assert [each["key_string"] for each in await api.found("v1/activityTypes")] == ["chat"]


async def test_what_version_1_had_is_gone(api: Api) -> None:
    assert (await api.ask("GET", "v1/activities"))[0] == 404
    assert (await api.ask("DELETE", "v2/activities"))[0] == 405


async def test_a_burst_is_refused_for_two_seconds_and_searches_earlier(api: Api) -> None:
    for _ in range(10):
        assert (await api.ask("GET", "v2/persons/search?term=312"))[0] == 200
    status, body = await api.ask("GET", "v2/persons/search?term=312")
    assert (status, body["success"], api.headers["x-ratelimit-reset"]) == (429, False, "2")
    for _ in range(9):
        assert (await api.ask("GET", "v1/activityTypes"))[0] == 200
    assert (await api.ask("GET", "v1/activityTypes"))[0] == 429
    api.clock.now = 2.1
    assert (await api.ask("GET", "v2/persons/search?term=312"))[0] == 200


async def test_the_day_s_tokens_are_used_up_by_what_each_request_costs(api: Api) -> None:
    api.crm.control({"daily": 60, "rate": None, "search_rate": None})
    await api.ask("GET", "v2/persons/search?term=312")  # 20
    await api.ask("GET", "v2/activities")  # 10
    await api.ask("GET", "v1/activityTypes")  # 20
    await api.add(subject="x")  # 5
    assert api.headers["x-daily-ratelimit-token-remaining"] == "5"
    await api.add(subject="x")
    assert (await api.add(subject="x"))[0] == 429
    assert api.headers["x-daily-ratelimit-token-remaining"] == "0"


async def test_cloudflare_answers_with_a_page(api: Api) -> None:
    api.crm.control({"blocked": 60})
    status, body = await api.ask("GET", "v2/activities")
    assert (status, "<html>" in body) == (403, True)
    api.clock.now = 61
    assert (await api.ask("GET", "v2/activities"))[0] == 200
