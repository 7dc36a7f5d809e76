"""The stand-in Zoho CRM accepts and refuses what Zoho's documentation says."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from simulators.crms.zoho import CLIENT_ID, CLIENT_SECRET, KEY, ORGANIZATION, REFRESH_TOKEN, ZohoStandIn

REFRESH = {
    "grant_type": "refresh_token",
    "client_id": CLIENT_ID,
    "client_secret": CLIENT_SECRET,
    "refresh_token": REFRESH_TOKEN,
}
SELF = {
    "grant_type": "client_credentials",
    "client_id": CLIENT_ID,
    "client_secret": CLIENT_SECRET,
    "scope": "ZohoCRM.modules.ALL,ZohoCRM.coql.READ",
    "soid": f"ZohoCRM.{ORGANIZATION}",
}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Api:
    def __init__(self, crm: ZohoStandIn, session: aiohttp.ClientSession, clock: Clock) -> None:
        self.crm = crm
        self.clock = clock
        self.session = session
        self.authorization = ""

    async def token(self, form: dict[str, str]) -> dict[str, Any]:
        async with self.session.post(f"{self.crm.url}/oauth/v2/token", data=form) as answer:
            assert answer.status == 200
            body: dict[str, Any] = await answer.json()
            return body

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:  # noqa: ANN401
        headers = {"authorization": self.authorization}
        url = f"{self.crm.url}/crm/v8/{path}"
        async with self.session.request(method, url, json=body, headers=headers) as answer:
            return answer.status, await answer.json() if answer.status != 204 else None

    async def insert(self, *records: dict[str, Any]) -> tuple[int, list[dict[str, Any]]]:
        status, body = await self.ask("POST", "Calls", {"data": list(records), "trigger": []})
        return status, body["data"]

    async def query(self, text: str) -> tuple[int, Any]:
        return await self.ask("POST", "coql", {"select_query": text})


@pytest.fixture
async def api(session: aiohttp.ClientSession) -> AsyncIterator[Api]:
    clock = Clock()
    async with ZohoStandIn(clock=clock) as crm:
        crm.seed("Contacts", {"id": "501", "Last_Name": "Smith", "Phone": "(312) 555-1212"})
        crm.seed("Leads", {"id": "601", "Last_Name": "Jones", "Mobile": "+1 312 555 1213"})
        crm.seed("users", {"id": "77", "email": "ann@example.com"})
        found = Api(crm, session, clock)
        found.authorization = f"Zoho-oauthtoken {(await found.token(REFRESH))['access_token']}"
        yield found


def refusal(answer: tuple[int, Any]) -> tuple[int, str]:
    return answer[0], answer[1]["code"]


def call(key: str, **changed: Any) -> dict[str, Any]:  # noqa: ANN401
    record = {
        KEY: key,
        "Subject": "Outbound call",
        "Call_Type": "Outbound",
        "Call_Start_Time": "2026-11-20T19:05:09+00:00",
        "Call_Duration": "02:00",
    }
    return {name: value for name, value in (record | changed).items() if value is not None}


async def test_a_refresh_token_and_client_credentials_give_a_token_and_the_api_s_address(api: Api) -> None:
    for form in (REFRESH, SELF):
        answer = await api.token(form)
        assert (answer["api_domain"], answer["expires_in"]) == (api.crm.url, 3600)


@pytest.mark.parametrize(
    ("form", "error"),
    [
        (REFRESH | {"client_id": "1000.OTHER"}, "invalid_client"),
        (REFRESH | {"client_secret": "other"}, "invalid_client_secret"),
        (REFRESH | {"refresh_token": "other"}, "invalid_code"),
        (REFRESH | {"grant_type": "password"}, "unsupported_grant_type"),
        (SELF | {"soid": "ZohoCRM."}, "missing_org_info"),
        (SELF | {"scope": "ZohoCRM.everything"}, "invalid_scope"),
    ],
)
async def test_a_refused_login_is_an_error_with_status_200(
    api: Api, form: dict[str, str], error: str
) -> None:
    assert await api.token(form) == {"error": error}


async def test_ten_tokens_are_given_in_ten_minutes(api: Api) -> None:
    for _ in range(9):  # the fixture has one
        assert "access_token" in await api.token(REFRESH)
    assert (await api.token(REFRESH))["error"] == "Access Denied"
    api.clock.now = 601
    assert "access_token" in await api.token(REFRESH)


async def test_the_sixteenth_token_ends_the_oldest(api: Api) -> None:
    for round_ in range(15):
        api.clock.now += 61 * (round_ % 2)
        await api.token(REFRESH)
        api.clock.now += 60
    assert refusal(await api.query("select id from Calls where id = '1'")) == (401, "INVALID_TOKEN")


async def test_a_token_is_good_for_an_hour_and_only_in_zoho_s_own_header(api: Api) -> None:
    assert (await api.ask("GET", "Contacts/search?phone=3125551212"))[0] == 200
    good = api.authorization
    api.authorization = good.replace("Zoho-oauthtoken", "Bearer")
    assert refusal(await api.ask("GET", "users")) == (401, "AUTHENTICATION_FAILURE")
    api.authorization = good
    api.clock.now = 3601
    assert refusal(await api.ask("GET", "users")) == (401, "INVALID_TOKEN")


async def test_a_token_may_do_what_its_scopes_say(api: Api) -> None:
    api.authorization = f"Zoho-oauthtoken {(await api.token(SELF))['access_token']}"
    assert (await api.query("select id from Calls where CRM_Sync_Call_Id = 'V1'"))[0] == 204
    assert refusal(await api.ask("GET", "users")) == (401, "OAUTH_SCOPE_MISMATCH")
    assert refusal(await api.ask("GET", "Leads/search?phone=3125551213")) == (401, "OAUTH_SCOPE_MISMATCH")


async def test_calls_are_written_with_a_status_of_their_own(api: Api) -> None:
    status, results = await api.insert(call("V1", Who_Id={"id": "501"}, Owner={"id": "77"}))
    assert (status, results[0]["code"], results[0]["status"]) == (201, "SUCCESS", "success")
    stored = api.crm.records["Calls"][results[0]["details"]["id"]]
    assert (stored["Who_Id"], stored["Call_Duration"]) == ({"id": "501"}, "02:00")
    status, results = await api.insert(call("V2"), call("V3", Call_Type="outbound"))
    assert (status, [each["status"] for each in results]) == (207, ["success", "error"])
    assert results[1]["details"] == {
        "api_name": "Call_Type",
        "expected_data_type": "picklist",
        "json_path": "$.data[1].Call_Type",
    }
    assert api.crm.writes == {"V1": 1, "V2": 1}


@pytest.mark.parametrize(
    ("changed", "code", "field"),
    [
        ({"Subject": None}, "MANDATORY_NOT_FOUND", "Subject"),
        ({"Call_Type": None}, "MANDATORY_NOT_FOUND", "Call_Type"),
        ({"Call_Duration": None}, "MANDATORY_NOT_FOUND", "Call_Duration"),
        ({"Call_Duration": "120"}, "INVALID_DATA", "Call_Duration"),
        ({"Call_Duration": 120}, "INVALID_DATA", "Call_Duration"),
        ({"Call_Start_Time": "2026-11-20T19:05:09.123+00:00"}, "INVALID_DATA", "Call_Start_Time"),
        ({"Call_Start_Time": "2026-11-20 19:05:09"}, "INVALID_DATA", "Call_Start_Time"),
        ({"Call_Start_Time": "2026-13-20T19:05:09+00:00"}, "INVALID_DATA", "Call_Start_Time"),
        ({"Call_Result": "Sold"}, "INVALID_DATA", "Call_Result"),
        (
            {"Call_Type": "Inbound", "Outgoing_Call_Status": "Completed"},
            "INVALID_DATA",
            "Outgoing_Call_Status",
        ),
        ({"Subject": "x" * 256}, "INVALID_DATA", "Subject"),
        ({"Subject": 1}, "INVALID_DATA", "Subject"),
        ({"Voice_Recording__s": "a file"}, "INVALID_DATA", "Voice_Recording__s"),
        ({"Who_Id": "501"}, "INVALID_DATA", "Who_Id"),
        ({"Who_Id": {"id": "601"}}, "INVALID_DATA", "Who_Id"),
        ({"Owner": {"id": "78"}}, "INVALID_DATA", "Owner"),
        ({"What_Id": {"id": "601"}}, "DEPENDENT_FIELD_MISSING", "$se_module"),
        ({"Colour": "red"}, "INVALID_DATA", "Colour"),
    ],
)
async def test_a_wrong_field_is_refused(api: Api, changed: dict[str, Any], code: str, field: str) -> None:
    status, results = await api.insert(call("V1", **changed))
    assert (status, results[0]["code"], results[0]["details"]["api_name"]) == (400, code, field)
    assert not api.crm.writes


async def test_a_lead_is_what_and_a_missed_call_has_no_duration(api: Api) -> None:
    lead = {"What_Id": {"id": "601"}, "$se_module": "Leads"}
    status, _ = await api.insert(call("V1", Call_Type="Missed", Call_Duration=None, **lead))
    assert status == 201


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ([], "INVALID_DATA"),
        ({}, "MANDATORY_NOT_FOUND"),
        ({"data": []}, "MANDATORY_NOT_FOUND"),
        ({"data": [call(str(number)) for number in range(101)]}, "LIMIT_EXCEEDED"),
        ({"data": [call("V1")], "trigger": ["mail"]}, "INVALID_DATA"),
    ],
)
async def test_a_wrong_body_is_refused_as_a_whole(api: Api, body: Any, code: str) -> None:  # noqa: ANN401
    assert refusal(await api.ask("POST", "Calls", body)) == (400, code)


async def test_calls_have_no_upsert(api: Api) -> None:
    upsert = await api.ask("POST", "Calls/upsert", {"data": [call("V1")]})
    assert refusal(upsert) == (404, "INVALID_URL_PATTERN")
    assert refusal(await api.ask("DELETE", "Calls")) == (400, "INVALID_REQUEST_METHOD")
    assert refusal(await api.ask("POST", "Phones", {"data": [call("V1")]})) == (400, "INVALID_MODULE")


async def test_only_a_unique_field_refuses_a_second_record_and_names_the_first(api: Api) -> None:
    _, (first,) = await api.insert(call("V1"))
    await api.insert(call("V1"))
    assert api.crm.doubles == {"V1": 2}
    api.crm.control({"unique": True})
    status, (again,) = await api.insert(call("V1"))
    assert (status, again["code"], again["details"]["api_name"]) == (400, "DUPLICATE_DATA", KEY)
    assert again["details"]["id"] == again["details"]["duplicate_record"]["id"] == first["details"]["id"]


async def test_a_query_finds_a_call_by_its_key(api: Api) -> None:
    _, (made,) = await api.insert(call("V1", Who_Id={"id": "501"}))
    status, body = await api.query(
        "select id, Who_Id, What_Id from Calls where CRM_Sync_Call_Id = 'V1' limit 1"
    )
    assert (status, body["data"]) == (200, [{"id": made["details"]["id"], "Who_Id": {"id": "501"}}])
    assert await api.query("select id from Calls where CRM_Sync_Call_Id = 'V2'") == (204, None)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("select id from Calls", "SYNTAX_ERROR"),
        ("select id from Calls where Colour = 'red'", "INVALID_QUERY"),
        ("select $se_module from Calls where id = '1'", "SYNTAX_ERROR"),
        ("select id from Phones where id = '1'", "INVALID_QUERY"),
    ],
)
async def test_a_wrong_query_is_refused(api: Api, text: str, code: str) -> None:
    assert refusal(await api.query(text)) == (400, code)


async def test_a_search_by_phone_needs_one_and_answers_204_if_it_finds_nothing(api: Api) -> None:
    status, body = await api.ask("GET", "Contacts/search?phone=3125551212&fields=id&per_page=2")
    assert (status, body["data"]) == (200, [{"id": "501"}])
    assert await api.ask("GET", "Contacts/search?phone=3125550000") == (204, None)
    assert refusal(await api.ask("GET", "Contacts/search?fields=id")) == (400, "REQUIRED_PARAM_MISSING")
    assert refusal(await api.ask("GET", "Phones/search?phone=1")) == (400, "INVALID_MODULE")
    api.crm.change("Leads", "601", {"Converted__s": True})
    assert await api.ask("GET", "Leads/search?phone=3125551213&converted=false") == (204, None)


async def test_an_update_needs_an_id_that_is_not_locked(api: Api) -> None:
    _, (made,) = await api.insert(call("V1"))
    record_id = made["details"]["id"]
    link = {"id": record_id, "Who_Id": {"id": "501"}}
    status, body = await api.ask("PUT", "Calls", {"data": [link]})
    assert (status, body["data"][0]["code"]) == (200, "SUCCESS")
    assert api.crm.records["Calls"][record_id]["Who_Id"] == {"id": "501"}
    api.crm.control({"locked": [record_id]})
    wrong = [link, {"id": "1"}, {"Subject": "x"}, "x"]
    status, body = await api.ask("PUT", "Calls", {"data": wrong})
    codes = ["RECORD_LOCKED", "INVALID_DATA", "MANDATORY_NOT_FOUND", "MANDATORY_NOT_FOUND"]
    assert (status, [each["code"] for each in body["data"]]) == (400, codes)


async def test_users_and_fields_are_listed_and_a_field_is_added_once(api: Api) -> None:
    api.crm.seed("users", {"id": "78", "email": "bob@example.com", "status": "inactive"})
    _, body = await api.ask("GET", "users?type=ActiveUsers")
    assert [each["email"] for each in body["users"]] == ["ann@example.com"]
    api.crm.control({"fields": []})
    new = {"fields": [{"field_label": KEY.replace("_", " "), "data_type": "text", "length": 255}]}
    status, body = await api.ask("POST", "settings/fields?module=Calls", new)
    assert (status, body["fields"][0]["code"]) == (201, "SUCCESS")
    status, body = await api.ask("POST", "settings/fields?module=Calls", new)
    assert (status, body["fields"][0]["code"]) == (400, "DUPLICATE_DATA")
    assert (await api.ask("POST", "settings/fields?module=Calls", {"fields": [{}]}))[0] == 400
    _, body = await api.ask("GET", "settings/fields?module=Calls")
    assert [each["api_name"] for each in body["fields"] if each["custom_field"]] == [KEY]


async def test_more_requests_at_one_time_than_the_edition_allows_are_refused(api: Api) -> None:
    api.crm.control({"concurrency": 2, "delay": 0.2})
    answers = await asyncio.gather(*(api.ask("GET", "users") for _ in range(4)))
    assert sorted(status for status, _ in answers) == [200, 200, 429, 429]


async def test_credits_are_counted_by_records_and_return_after_a_day(api: Api) -> None:
    api.crm.control({"daily": 3})
    await api.insert(*(call(f"V{number}") for number in range(11)))  # two credits
    assert (await api.ask("GET", "users"))[0] == 200
    status, body = await api.ask("GET", "users")
    assert (status, body["code"]) == (429, "TOO_MANY_REQUESTS")
    assert (await api.ask("POST", "Calls", {"data": [call("V99")]}))[0] == 429
    assert api.crm.report()["remaining"] == {"daily": 0}
    api.crm.control({"storm": 30, "daily": None})
    assert (await api.ask("GET", "users"))[1]["details"]["retry_after"] == 30
