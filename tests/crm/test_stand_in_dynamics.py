"""The stand-in Dynamics 365 accepts and refuses what Microsoft's documentation says."""

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from simulators.crms.dynamics import CLIENT_ID, CLIENT_SECRET, TENANT, DynamicsStandIn

API = "/api/data/v9.2"
CALL = f"{API}/phonecalls(0b0f9c1e-5d0e-5c7a-9a53-1b7c0a6a7f11)"
CONTACT = "aaaaaaaa-0000-4000-8000-000000000001"
LEAD = "bbbbbbbb-0000-4000-8000-000000000002"
USER = "cccccccc-0000-4000-8000-000000000003"
CREATE = {"If-None-Match": "*"}
UPDATE = {"If-Match": "*"}
DONE = {"statecode": 1, "statuscode": 2}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Api:
    def __init__(self, crm: DynamicsStandIn, session: aiohttp.ClientSession, clock: Clock) -> None:
        self.crm = crm
        self.clock = clock
        self.token = crm.issue_token()
        self.headers: dict[str, str] = {}
        self._session = session

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: dict[str, str] | None = None,
        query: dict[str, str] | None = None,
    ) -> tuple[int, Any]:
        sent = {"Authorization": f"Bearer {self.token}"} | (headers or {})
        request = self._session.request(method, self.crm.url + path, json=body, headers=sent, params=query)
        async with request as answer:
            self.headers = dict(answer.headers)
            return answer.status, await answer.json() if answer.content_type == "application/json" else None

    async def log_in(self, tenant: str = TENANT, **form: str) -> tuple[int, Any]:
        good = {
            "grant_type": "client_credentials",
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
            "scope": f"{self.crm.url}/.default",
        }
        address = f"{self.crm.url}/{tenant}/oauth2/v2.0/token"
        async with self._session.post(address, data=good | form) as answer:
            return answer.status, await answer.json()

    async def find(self, kind: str, condition: str, **query: str) -> tuple[int, Any]:
        return await self.ask("GET", f"{API}/{kind}", query={"$filter": condition} | query)

    @property
    def call(self) -> dict[str, Any]:
        (found,) = self.crm.records["phonecalls"].values()
        return found


@pytest.fixture
async def api(session: aiohttp.ClientSession) -> AsyncIterator[Api]:
    clock = Clock()
    async with DynamicsStandIn(clock=clock) as crm:
        crm.seed("contacts", {"id": CONTACT, "telephone1": "(312) 555-1212", "_ownerid_value": USER})
        crm.seed("leads", {"id": LEAD, "mobilephone": "312-555-1212", "statecode": 0})
        crm.seed("systemusers", {"id": USER, "employeeid": "1000", "isdisabled": False})
        yield Api(crm, session, clock)


def code(body: dict[str, Any]) -> str:
    found: str = body["error"]["code"]
    return found


async def test_a_login_by_client_credentials_gives_a_token(api: Api) -> None:
    status, body = await api.log_in()
    assert (status, body["token_type"], body["expires_in"]) == (200, "Bearer", 3599)
    api.token = body["access_token"]
    assert (await api.ask("GET", f"{API}/WhoAmI"))[0] == 200


@pytest.mark.parametrize(
    ("tenant", "form", "status", "error"),
    [
        ("common", {}, 400, "invalid_request"),
        (TENANT, {"grant_type": "password"}, 400, "unsupported_grant_type"),
        (TENANT, {"scope": "https://other.example.com/.default"}, 400, "invalid_scope"),
        (TENANT, {"client_id": USER}, 400, "unauthorized_client"),
        (TENANT, {"client_secret": "wrong"}, 401, "invalid_client"),
    ],
)
async def test_a_login_with_a_mistake_is_refused(
    api: Api, tenant: str, form: dict[str, str], status: int, error: str
) -> None:
    answered, body = await api.log_in(tenant, **form)
    assert (answered, body["error"]) == (status, error)


async def test_a_token_expires(api: Api) -> None:
    api.clock.now = 3600
    assert await api.ask("GET", f"{API}/WhoAmI") == (401, None)
    assert "invalid_token" in api.headers["WWW-Authenticate"]


async def test_an_own_id_makes_one_record_and_a_repeat_says_so(api: Api) -> None:
    assert (await api.ask("PATCH", CALL, {"subject": "A call"}, CREATE))[0] == 204
    assert api.headers["OData-EntityId"].endswith(CALL)
    status, body = await api.ask("PATCH", CALL, {"subject": "Another"}, CREATE)
    assert (status, code(body)) == (412, "0x80040237")
    assert (await api.ask("PATCH", CALL, {"subject": "Changed"}))[0] == 204
    assert (api.call["subject"], api.crm.doubles) == ("Changed", {})


async def test_an_update_of_what_is_not_there_is_refused(api: Api) -> None:
    status, body = await api.ask("PATCH", CALL, {"subject": "A call"}, UPDATE)
    assert (status, code(body)) == (404, "0x80040217")
    assert (await api.ask("GET", CALL))[0] == 404
    assert (await api.ask("GET", f"{API}/phonecalls(1)"))[0] == 400


async def test_a_phone_call_is_created_open_and_completed_by_a_second_request(api: Api) -> None:
    await api.ask("PATCH", CALL, {"subject": "A call", **DONE}, CREATE)
    assert (api.call["statecode"], api.call["statuscode"]) == (0, 1)
    await api.ask("PATCH", CALL, DONE, UPDATE)
    status, body = await api.ask("GET", CALL, query={"$select": "statecode,statuscode"})
    assert (status, body["statecode"], body["statuscode"]) == (200, 1, 2)
    assert "subject" not in body


async def test_a_completed_phone_call_is_changed_only_after_it_was_opened_again(api: Api) -> None:
    await api.ask("PATCH", CALL, {"subject": "A call"}, CREATE)
    await api.ask("PATCH", CALL, DONE, UPDATE)
    status, body = await api.ask("PATCH", CALL, {"subject": "Changed"}, UPDATE)
    assert (status, body["error"]["message"]) == (400, "Cannot update Closed or Cancelled Activity")
    assert (await api.ask("PATCH", CALL, {"statecode": 0, "statuscode": 1}, UPDATE))[0] == 204
    assert (await api.ask("PATCH", CALL, {"subject": "Changed"}, UPDATE))[0] == 204


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"subject": "x" * 201}, "0x80044331"),
        ({"description": "x" * 2001}, "0x80044331"),
        ({"colour": "red"}, "0x80048d19"),
        ({"activityid": CONTACT}, "0x80048d19"),
        ({"directioncode": "outbound"}, "0x80048d19"),
        ({"actualdurationminutes": "2"}, "0x80048d19"),
        ({"actualdurationminutes": -1}, "0x80048d19"),
        ({"actualstart": "2026-11-20 14:05:09"}, "0x80048d19"),
        ({"actualstart": "yesterday"}, "0x80048d19"),
    ],
)
async def test_a_value_that_does_not_fit_its_column_is_refused(
    api: Api, body: dict[str, object], expected: str
) -> None:
    status, answer = await api.ask("PATCH", CALL, body, CREATE)
    assert (status, code(answer)) == (400, expected)


async def test_a_body_that_is_no_json_object_is_refused(api: Api) -> None:
    assert (await api.ask("PATCH", CALL, ["subject"]))[0] == 400
    assert (await api.ask("PATCH", CALL, None))[0] == 400


async def test_a_status_reason_of_another_state_is_refused(api: Api) -> None:
    await api.ask("PATCH", CALL, {"subject": "A call"}, CREATE)
    status, body = await api.ask("PATCH", CALL, {"statecode": 1, "statuscode": 1}, UPDATE)
    assert (status, code(body)) == (400, "0x80048408")


async def test_parties_and_references_must_exist(api: Api) -> None:
    party = {"partyid_contact@odata.bind": f"/contacts({CONTACT})", "participationtypemask": 2}
    good = {
        "ownerid@odata.bind": f"/systemusers({USER})",
        "regardingobjectid_contact_phonecall@odata.bind": f"/contacts({CONTACT})",
        "phonecall_activity_parties": [party],
    }
    assert (await api.ask("PATCH", CALL, good, CREATE))[0] == 204
    for bad, status in (
        ({"ownerid@odata.bind": f"/systemusers({CONTACT})"}, 404),
        ({"ownerid@odata.bind": f"/contacts({CONTACT})"}, 400),
        ({"regardingobjectid_contact_phonecall@odata.bind": f"/contacts({LEAD})"}, 404),
        ({"phonecall_activity_parties": [{"participationtypemask": 1}]}, 400),
        ({"phonecall_activity_parties": [party | {"participationtypemask": 3}]}, 400),
        ({"phonecall_activity_parties": {}}, 400),
    ):
        assert (await api.ask("PATCH", CALL, bad))[0] == status, bad
    assert (await api.ask("PATCH", CALL, {"regardingobjectid_contact_phonecall@odata.bind": None}))[0] == 204
    api.crm.read_only.add(USER)
    assert (await api.ask("PATCH", CALL, good))[0] == 403


async def test_people_are_found_by_the_stored_spelling_only(api: Api) -> None:
    columns = {"$select": "contactid,_ownerid_value", "$top": "2"}
    spellings = "Microsoft.Dynamics.CRM.In(PropertyName='telephone1',PropertyValues=['x','(312) 555-1212'])"
    status, body = await api.find("contacts", f"{spellings} or mobilephone eq '1'", **columns)
    (found,) = body["value"]
    assert (status, found["contactid"], found["_ownerid_value"]) == (200, CONTACT, USER)
    assert (await api.find("contacts", "telephone1 eq '3125551212'"))[1]["value"] == []
    condition = "(mobilephone eq '312-555-1212' or telephone1 eq '1') and statecode eq 0"
    assert [each["leadid"] for each in (await api.find("leads", condition))[1]["value"]] == [LEAD]
    condition = "(mobilephone eq '312-555-1212' or telephone1 eq '1') and statecode eq 1"
    assert (await api.find("leads", condition))[1]["value"] == []
    condition = "(employeeid eq '1000' or domainname eq 'it''s') and isdisabled eq false"
    assert len((await api.find("systemusers", condition))[1]["value"]) == 1


@pytest.mark.parametrize(
    ("condition", "query"),
    [
        ("phone eq '1'", {}),
        ("telephone1 = '1'", {}),
        ("telephone1 in ('1','2')", {}),
        ("telephone1 eq 'it's'", {}),
        ("telephone1 eq '1'", {"$select": "phone"}),
        ("telephone1 eq '1'", {"$top": "0"}),
    ],
)
async def test_a_query_with_a_mistake_is_refused(api: Api, condition: str, query: dict[str, str]) -> None:
    assert (await api.find("contacts", condition, **query))[0] == 400


async def test_too_many_requests_are_refused_with_the_time_to_wait(api: Api) -> None:
    api.crm.limit("rate", 1)
    assert (await api.ask("GET", f"{API}/WhoAmI"))[0] == 200
    assert api.headers["x-ms-ratelimit-burst-remaining-xrm-requests"] == "0"
    status, body = await api.ask("GET", f"{API}/WhoAmI")
    assert (status, code(body), api.headers["Retry-After"]) == (429, "0x80072322", "301")
    api.clock.now = 300.5
    assert (await api.ask("GET", f"{API}/WhoAmI"))[0] == 200
    api.crm.limit("rate", None)
    api.crm.concurrent = 52
    status, body = await api.ask("GET", f"{API}/WhoAmI")
    assert (status, code(body)) == (429, "0x80072326")


async def test_what_the_vendor_does_not_have_is_not_found(api: Api) -> None:
    assert (await api.ask("GET", f"{API}/calls"))[0] == 404
