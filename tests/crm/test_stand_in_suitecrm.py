"""The stand-in SuiteCRM accepts and refuses what the code of SuiteCRM 7.15.0 does."""

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from simulators.crms.suitecrm import CLIENT_ID, CLIENT_SECRET, SuiteCrmStandIn

CALL = "0b0f9c1e-5d0e-5c7a-9a53-1b7c0a6a7f11"
CONTACT = "aaaaaaaa-0000-4000-8000-000000000001"
GOOD: dict[str, Any] = {
    "name": "Outbound call 3125551212",
    "date_start": "2026-11-20 19:05:09",
    "duration_hours": 1,
    "duration_minutes": 15,
    "status": "Held",
    "direction": "Outbound",
    "contact_id": CONTACT,
}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Api:
    def __init__(self, crm: SuiteCrmStandIn, session: aiohttp.ClientSession, clock: Clock) -> None:
        self.crm = crm
        self.clock = clock
        self.token = crm.issue_token()
        self._session = session

    async def ask(
        self, method: str, path: str, body: object = None, query: list[tuple[str, str]] | None = None
    ) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        request = self._session.request(
            method, f"{self.crm.url}{self.crm.prefix}{path}", json=body, params=query, headers=headers
        )
        async with request as answer:
            try:
                return answer.status, await answer.json(content_type=None)
            except ValueError:
                return answer.status, await answer.text()

    async def write(
        self, method: str, call: str | None = CALL, kind: str = "Calls", **attributes: object
    ) -> tuple[int, Any]:
        data = {"type": kind, "attributes": attributes} | ({"id": call} if call else {})
        return await self.ask(method, "/V8/module", {"data": data})

    async def find(self, *pairs: tuple[str, str], **query: str) -> tuple[int, Any]:
        return await self.ask("GET", "/V8/module/Contacts", query=[*pairs, *query.items()])

    @property
    def call(self) -> dict[str, Any]:
        return self.crm.records["Calls"][CALL]


@pytest.fixture
async def api(session: aiohttp.ClientSession) -> AsyncIterator[Api]:
    clock = Clock()
    async with SuiteCrmStandIn(clock=clock) as crm:
        crm.seed("Contacts", {"id": CONTACT, "phone_work": "(312) 555-1212", "assigned_user_id": "7"})
        yield Api(crm, session, clock)


def detail(body: dict[str, Any]) -> str:
    found: str = body["errors"]["detail"]
    return found


async def test_a_login_by_client_credentials_gives_a_token_for_an_hour(api: Api) -> None:
    form = {"grant_type": "client_credentials", "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
    status, body = await api.ask("POST", "/access_token", form)
    assert (status, body["token_type"], body["expires_in"]) == (200, "Bearer", 3600)
    api.token = body["access_token"]
    assert (await api.ask("GET", "/V8/current-user"))[0] == 200
    api.clock.now = 3601
    status, body = await api.ask("GET", "/V8/current-user")
    assert (status, body["error"]) == (401, "access_denied")


@pytest.mark.parametrize(
    ("changed", "status", "error"),
    [
        ({"grant_type": "token"}, 400, "unsupported_grant_type"),
        ({"client_id": ""}, 400, "invalid_request"),
        ({"client_id": CONTACT}, 500, "unknown_error"),
        ({"client_secret": "wrong"}, 401, "invalid_client"),
    ],
)
async def test_a_login_with_a_mistake_is_refused(
    api: Api, changed: dict[str, str], status: int, error: str
) -> None:
    form = {"grant_type": "client_credentials", "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
    answered, body = await api.ask("POST", "/access_token", form | changed)
    assert (answered, body["error"]) == (status, error)


async def test_a_client_of_a_disabled_user_can_do_nothing(api: Api) -> None:
    api.crm.control({"enabled": False})
    form = {"grant_type": "client_credentials", "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
    assert (await api.ask("POST", "/access_token", form))[0] == 500
    status, body = await api.write("POST", **GOOD)
    assert (status, detail(body)) == (400, "Not found")


async def test_an_own_id_makes_one_record_and_a_repeat_says_so(api: Api) -> None:
    status, body = await api.write("POST", **GOOD)
    assert (status, body["data"]["id"], body["data"]["type"]) == (201, CALL, "Call")
    status, body = await api.write("POST", **GOOD)
    assert (status, detail(body)) == (400, f"Bean Calls with id {CALL} is already exist")
    assert (await api.write("PATCH", status="Not Held"))[0] == 201
    assert (api.call["status"], api.crm.doubles, api.crm.silent) == ("Not Held", {}, [])


async def test_a_call_gets_its_end_and_its_relationships(api: Api) -> None:
    await api.write("POST", **GOOD)
    assert api.call["date_end"] == "2026-11-20 20:20:09"
    assert api.crm.report()["links"] == {CALL: {"contacts": [CONTACT]}}


async def test_without_an_id_each_request_makes_a_record(api: Api) -> None:
    assert (await api.write("POST", None, **GOOD))[0] == 201
    assert (await api.write("POST", None, **GOOD))[0] == 201
    assert len(api.crm.records["Calls"]) == 2


async def test_a_deleted_call_exists_for_a_create_but_not_for_a_change(api: Api) -> None:
    await api.write("POST", **GOOD)
    assert (await api.ask("DELETE", f"/V8/module/Calls/{CALL}"))[0] == 200
    assert "already exist" in detail((await api.write("POST", **GOOD))[1])
    status, body = await api.write("PATCH", **GOOD)
    assert (status, detail(body)) == (400, f"Calls module with id {CALL} is not found")
    assert (await api.ask("GET", f"/V8/module/Calls/{CALL}"))[0] == 400


@pytest.mark.parametrize(
    ("attributes", "stored", "silent"),
    [
        ({"name": "x" * 60}, {"name": "x" * 50}, "was stored as"),
        ({"date_start": "2026-11-20T19:05:09Z"}, {"date_start": ""}, "was stored as ''"),
        ({"date_start": "11/20/2026 14:05"}, {"date_start": "2026-11-20 19:05:00"}, "was stored as"),
        ({"status": "Done"}, {"status": "Done"}, "is no option"),
        ({"duration_hours": None}, {"duration_hours": None}, "duration_hours: missing"),
    ],
)
async def test_what_the_interface_could_not_show_is_stored_silently(
    api: Api, attributes: dict[str, Any], stored: dict[str, Any], silent: str
) -> None:
    assert (await api.write("POST", **(GOOD | attributes)))[0] == 201
    assert api.call.items() >= stored.items()
    assert silent in api.crm.silent[0]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (None, 'The required option "data" is missing.'),
        ({"data": {"type": "Calls"}, "id": "1"}, 'The option "id" does not exist.'),
        ({"data": {"type": "Calls", "attributes": {}}}, 'The option "data" with value array is invalid.'),
        ({"data": {"attributes": GOOD}}, 'The required option "type" is missing.'),
        ({"data": {"type": "Calls", "id": "V112"}}, 'The option "id" with value "V112" is invalid.'),
        ({"data": {"type": "Talks", "attributes": GOOD}}, "Module Talks does not exist"),
        ({"data": {"type": "Calls", "attributes": {"colour": "x"}}}, "Property colour in Call module"),
        ({"data": {"type": "Calls", "attributes": {"name": ["x"]}}}, "Expected argument of type"),
    ],
)
async def test_a_body_with_a_mistake_is_a_400_of_which_only_the_text_says_more(
    api: Api, body: object, text: str
) -> None:
    status, answer = await api.ask("POST", "/V8/module", body)
    assert status == 400
    assert text in detail(answer)
    assert not api.crm.records["Calls"]


async def test_a_custom_field_is_known_once_it_was_made(api: Api) -> None:
    assert (await api.write("POST", call_id_c="V1", **GOOD))[0] == 400
    api.crm.custom_fields = frozenset({"call_id_c"})
    assert (await api.write("POST", call_id_c="V1", **GOOD))[0] == 201
    assert "call_id_c" in (await api.ask("GET", "/V8/meta/fields/Calls"))[1]["data"]["attributes"]


async def test_people_are_found_by_a_pattern_but_not_by_another_spelling(api: Api) -> None:
    query = {
        "filter[operator]": "or",
        "filter[phone_mobile][like]": "%3%1%2%5%5%5%1%2%1%2%",
        "filter[phone_work][like]": "%3%1%2%5%5%5%1%2%1%2%",
        "fields[Contacts]": "phone_work,assigned_user_id",
        "page[size]": "2",
    }
    status, body = await api.find(**query)
    attributes = {"phone_work": "(312) 555-1212", "assigned_user_id": "7"}
    assert (status, body["data"]) == (200, [{"type": "Contact", "id": CONTACT, "attributes": attributes}])
    assert (await api.find(**{"filter[phone_work][eq]": "3125551212"}))[1]["data"] == []
    # Of one field and operator, the last counts: two spellings can't be asked for at once.
    two = [("filter[phone_work][eq]", "(312) 555-1212"), ("filter[phone_work][eq]", "3125551212")]
    assert (await api.find(*two))[1]["data"] == []


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ({"filter[phone][eq]": "1"}, "Filter field phone in Contact module is not found"),
        ({"filter[phone_work]": "1"}, "Filter field phone_work must be an array"),
        ({"filter[phone_work][in]": "1"}, "Filter operator in is invalid"),
        ({"filter[operator]": "xor"}, "Filter operator xor is invalid"),
        ({"fields[Contacts]": "phone"}, "is not found: phone"),
        ({"page[size]": "0"}, "is invalid"),
        ({"page[size]": "x"}, "is invalid"),
        ({"limit": "2"}, 'The option "limit" does not exist.'),
    ],
)
async def test_a_query_with_a_mistake_is_refused(api: Api, query: dict[str, str], text: str) -> None:
    status, body = await api.find(**query)
    assert status == 400
    assert text in detail(body)


async def test_a_denied_module_is_a_400_too(api: Api) -> None:
    api.crm.control({"denied": ["Calls"]})
    status, body = await api.write("POST", **GOOD)
    assert (status, detail(body)) == (400, "[AccessDeniedException] ")


async def test_a_database_that_fails_spoils_the_json_of_the_400(api: Api) -> None:
    api.crm.control({"database_down": True})
    status, text = await api.write("POST", **GOOD)
    assert status == 400
    assert text.endswith("}Database failure. Please refer to suitecrm.log for details.")


async def test_a_storm_and_an_unknown_path_are_answered_by_the_server_in_front(api: Api) -> None:
    assert (await api.ask("GET", "/V8/calls"))[0] == 404
    api.crm.storm(30)
    assert (await api.ask("GET", "/V8/current-user"))[0] == 429


async def test_suitecrm_8_has_another_path(session: aiohttp.ClientSession) -> None:
    async with SuiteCrmStandIn(prefix="/legacy/Api") as crm:
        api = Api(crm, session, Clock())
        assert (await api.write("POST", **GOOD))[0] == 201
        assert crm.settings()["api"] == "/legacy/Api"
