"""The stand-in HubSpot accepts and refuses what HubSpot's documentation says."""

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from simulators.crms.hubspot import KEY, TOKEN, HubSpotStandIn

CALLS = "/crm/objects/2026-03/calls"
UPSERT = f"{CALLS}/batch/upsert"
SEARCH = "/crm/objects/2026-03/contacts/search"
PROPERTIES = "/crm/properties/2026-03/calls"
CONNECTED = "f240bbac-87c9-4f6e-bf70-924b57d47db7"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Api:
    def __init__(self, crm: HubSpotStandIn, session: aiohttp.ClientSession, clock: Clock) -> None:
        self.crm = crm
        self.clock = clock
        self._session = session
        self.token = TOKEN
        self.headers: dict[str, str] = {}

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:  # noqa: ANN401
        headers = {"authorization": f"Bearer {self.token}"}
        async with self._session.request(method, self.crm.url + path, json=body, headers=headers) as answer:
            self.headers = dict(answer.headers)
            return answer.status, await answer.json(content_type=None) if answer.status != 404 else None

    async def upsert(self, *items: dict[str, Any]) -> tuple[int, Any]:
        return await self.ask("POST", UPSERT, {"inputs": list(items)})


@pytest.fixture
async def api(session: aiohttp.ClientSession) -> AsyncIterator[Api]:
    clock = Clock()
    async with HubSpotStandIn(clock=clock) as crm:
        crm.prepare()
        crm.seed("owners", {"id": "77", "email": "ann@example.com"})
        crm.seed("contacts", {"id": "501", "phone": "+1 312-555-1212", "hubspot_owner_id": "77"})
        yield Api(crm, session, clock)


def item(key: str, *, trace: bool = True, **properties: Any) -> dict[str, Any]:  # noqa: ANN401
    made = {"id": key, "idProperty": KEY, "properties": {"hs_timestamp": "1764500000000", **properties}}
    return made | ({"objectWriteTraceId": key} if trace else {})


def search(value: str) -> dict[str, Any]:
    group = {"propertyName": "hs_searchable_calculated_phone_number", "operator": "EQ", "value": value}
    return {"filterGroups": [{"filters": [group]}], "properties": ["hubspot_owner_id"], "limit": 2}


async def test_an_upsert_makes_a_call_once_and_then_changes_it(api: Api) -> None:
    status, body = await api.upsert(item("V1", hs_call_direction="OUTBOUND"), item("V2"))
    assert (status, [each["new"] for each in body["results"]]) == (200, [True, True])
    first = body["results"][0]
    assert (first["objectWriteTraceId"], first["properties"][KEY]) == ("V1", "V1")
    status, body = await api.upsert(item("V1", hs_call_status="COMPLETED"))
    assert (status, body["results"][0]["new"], body["results"][0]["id"]) == (200, False, first["id"])
    stored = api.crm.records["calls"][first["id"]]
    assert (stored["hs_call_direction"], stored["hs_call_status"]) == ("OUTBOUND", "COMPLETED")
    assert api.crm.writes == {"V1": 1, "V2": 1}


@pytest.mark.parametrize(
    ("properties", "code"),
    [
        ({"hs_call_colour": "red"}, "PROPERTY_DOESNT_EXIST"),
        ({"hs_call_direction": "outbound"}, "INVALID_OPTION"),
        ({"hs_call_status": "DONE"}, "INVALID_OPTION"),
        ({"hs_call_disposition": "SALE"}, "INVALID_OPTION"),
        ({"hs_call_duration": "2m"}, "INVALID_NUMBER"),
        ({"hs_timestamp": "1764500000"}, "INVALID_LONG"),
        ({"hs_timestamp": "2026-11-20 14:05:09"}, "INVALID_LONG"),
        ({"hs_call_recording_url": "http://dialer.example.com/a.mp3"}, "INVALID_URL"),
        ({"hubspot_owner_id": "78"}, "INVALID_OWNER_ID"),
        ({"hs_call_body": "x" * 65_537}, "PROPERTY_VALUE_TOO_LONG"),
        ({KEY: "another"}, "CONFLICTING_UNIQUE_VALUE"),
        ({"hs_timestamp": None}, None),
        ({"hs_call_duration": 2}, None),
    ],
)
async def test_a_bad_property_is_refused(api: Api, properties: dict[str, Any], code: str | None) -> None:
    status, body = await api.upsert(item("V1", trace=False, **properties))
    assert (status, body["category"]) == (400, "VALIDATION_ERROR")
    assert [each["code"] for each in body.get("errors", [])] == ([code] if code else [])
    assert not api.crm.records["calls"]


@pytest.mark.parametrize(
    "properties",
    [
        {"hs_timestamp": "2026-11-20T14:05:09Z"},
        {"hs_call_disposition": CONNECTED, "hs_call_status": "NO_ANSWER", "hubspot_owner_id": "77"},
        {"hs_call_duration": "125000", "hs_call_recording_url": "https://dialer.example.com/a.mp3"},
        {"hs_call_title": ""},
    ],
)
async def test_good_properties_are_stored(api: Api, properties: dict[str, Any]) -> None:
    assert (await api.upsert(item("V1", **properties)))[0] == 200


async def test_a_new_call_needs_its_time_and_a_change_does_not(api: Api) -> None:
    bare = {"id": "V1", "idProperty": KEY, "properties": {}}
    status, body = await api.upsert(bare)
    assert (status, body["errors"][0]["code"]) == (400, "REQUIRED_FIELD")
    await api.upsert(item("V1"))
    assert (await api.upsert(bare))[0] == 200


async def test_of_a_batch_the_good_items_are_written_and_the_bad_ones_named(api: Api) -> None:
    status, body = await api.upsert(item("V1"), item("V2", hs_call_status="DONE"))
    assert (status, body["numErrors"]) == (207, 1)
    assert [each["objectWriteTraceId"] for each in body["results"]] == ["V1"]
    assert body["errors"][0]["context"] == {"objectWriteTraceId": ["V2"]}
    assert api.crm.writes == {"V1": 1}


async def test_a_bad_item_without_a_trace_spoils_the_whole_batch(api: Api) -> None:
    assert (await api.upsert(item("V1"), item("V2", trace=False, hs_call_status="DONE")))[0] == 400
    assert not api.crm.writes


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ([item("V1"), item("V1")], "Duplicate IDs"),
        ([item(str(each)) for each in range(101)], "maximum number of inputs"),
        ([], "must not be empty"),
        ([{**item("V1"), "idProperty": None}], "idProperty is required"),
        ([{**item("V1"), "idProperty": "hs_call_title"}], "non-unique 0-48 property hs_call_title"),
        ([{**item("V1"), "associations": []}], "associations"),
        ([{**item("V1"), "id": ""}], "id is required"),
        ([{"id": "V1", "idProperty": KEY}], "properties is required"),
    ],
)
async def test_a_bad_batch_is_refused_as_a_whole(api: Api, inputs: list[Any], says: str) -> None:
    status, body = await api.ask("POST", UPSERT, {"inputs": inputs})
    assert status == 400
    assert says in body["message"]
    assert not api.crm.writes


async def test_the_unique_property_is_made_in_a_group_and_only_once(session: aiohttp.ClientSession) -> None:
    async with HubSpotStandIn() as crm:
        api = Api(crm, session, Clock())
        assert (await api.upsert(item("V1")))[0] == 400
        assert (await api.ask("GET", f"{PROPERTIES}/{KEY}"))[0] == 404
        made = {"name": KEY, "label": "Call id", "type": "string", "fieldType": "text", "groupName": "crm"}
        unique = made | {"hasUniqueValue": True}
        assert (await api.ask("POST", PROPERTIES, unique))[0] == 400  # there is no such group
        assert (await api.ask("POST", f"{PROPERTIES}/groups", {"name": "crm", "label": "crm"}))[0] == 201
        assert (await api.ask("POST", f"{PROPERTIES}/groups", {"name": "crm", "label": "crm"}))[0] == 409
        assert (await api.ask("POST", PROPERTIES, {"name": KEY}))[0] == 400
        assert (await api.ask("POST", PROPERTIES, unique))[0] == 201
        assert (await api.ask("POST", PROPERTIES, unique))[0] == 409
        assert (await api.ask("GET", f"{PROPERTIES}/{KEY}"))[1]["hasUniqueValue"] is True
        assert (await api.upsert(item("V1")))[0] == 200


async def test_a_create_knows_unique_values_and_associations(api: Api) -> None:
    body = {
        "properties": {"hs_timestamp": "1764500000000", KEY: "V1"},
        "associations": [{"to": {"id": "501"}, "types": []}],
    }
    status, made = await api.ask("POST", CALLS, body)
    assert status == 201
    assert api.crm.associations == {(f"calls/{made['id']}", "contacts/501")}
    status, refused = await api.ask("POST", CALLS, body)
    assert (status, refused["errors"][0]["code"]) == (400, "CONFLICTING_UNIQUE_VALUE")


async def test_an_association_can_be_made_again(api: Api) -> None:
    call = (await api.upsert(item("V1")))[1]["results"][0]["id"]
    path = f"{CALLS}/{call}/associations/default/contacts/"
    for _ in range(2):
        status, body = await api.ask("PUT", path + "501")
        assert (status, body["results"][0]["associationSpec"]["associationTypeId"]) == (200, 194)
    assert api.crm.associations == {(f"calls/{call}", "contacts/501")}
    assert (await api.ask("PUT", path + "502"))[0] == 404


async def test_the_search_matches_the_national_number_only(api: Api) -> None:
    status, body = await api.ask("POST", SEARCH, search("3125551212"))
    assert (status, body["total"]) == (200, 1)
    assert body["results"][0]["properties"] == {"hs_object_id": "501", "hubspot_owner_id": "77"}
    assert (await api.ask("POST", SEARCH, search("+13125551212")))[1]["total"] == 0
    assert not [name for name in api.headers if name.lower().startswith("x-hubspot-ratelimit")]


async def test_the_search_refuses_what_it_cannot_do(api: Api) -> None:
    for wrong in (
        search("x") | {"limit": 201},
        search("x") | {"filterGroups": []},
        search("x") | {"filterGroups": search("x")["filterGroups"] * 6},
        search(""),
        search("x") | {"filterGroups": [{"filters": []}]},
        {"filterGroups": [{"filters": [{"propertyName": "colour", "operator": "EQ", "value": "x"}]}]},
    ):
        api.clock.now += 1
        assert (await api.ask("POST", SEARCH, wrong))[0] == 400


async def test_the_search_finds_a_new_contact_only_later(api: Api) -> None:
    api.crm.index_delay = 5
    new = {"properties": {"phone": "+44 20 7183 8750", "email": "b@example.com"}}
    assert (await api.ask("POST", "/crm/objects/2026-03/contacts", new))[0] == 201
    assert (await api.ask("POST", SEARCH, search("2071838750")))[1]["total"] == 0
    api.clock.now = 5
    assert (await api.ask("POST", SEARCH, search("2071838750")))[1]["total"] == 1


async def test_five_searches_a_second_are_allowed_and_the_sixth_is_not(api: Api) -> None:
    statuses = [(await api.ask("POST", SEARCH, search("x")))[0] for _ in range(6)]
    assert statuses == [200] * 5 + [429]
    status, body = await api.ask("POST", SEARCH, search("x"))
    assert (status, body["errorType"], body["policyName"]) == (429, "RATE_LIMIT", "SECONDLY")
    assert "Retry-After" not in api.headers
    api.clock.now = 1
    assert (await api.ask("POST", SEARCH, search("x")))[0] == 200


async def test_the_limits_are_sent_and_kept(api: Api) -> None:
    api.crm.control({"rate": 2, "daily": 3})
    await api.upsert(item("V1"))
    limits = {name: value for name, value in api.headers.items() if name.startswith("X-HubSpot")}
    assert limits == {
        "X-HubSpot-RateLimit-Max": "2",
        "X-HubSpot-RateLimit-Remaining": "1",
        "X-HubSpot-RateLimit-Interval-Milliseconds": "10000",
        "X-HubSpot-RateLimit-Daily": "3",
        "X-HubSpot-RateLimit-Daily-Remaining": "2",
    }
    await api.upsert(item("V1"))
    assert (await api.upsert(item("V1")))[1]["policyName"] == "TEN_SECONDLY_ROLLING"
    api.clock.now = 10
    await api.upsert(item("V1"))
    assert (await api.upsert(item("V1")))[1]["policyName"] == "DAILY"


async def test_a_wrong_key_a_missing_scope_and_a_migration_are_refused(api: Api) -> None:
    api.crm.control({"scopes": ["crm.objects.contacts.write"]})
    status, body = await api.ask("POST", SEARCH, search("x"))
    assert (status, body["category"]) == (403, "MISSING_SCOPES")
    assert (await api.upsert(item("V1")))[0] == 200
    api.crm.control({"migrating": 3600})
    assert (await api.upsert(item("V1")))[0] == 477
    assert api.headers["Retry-After"] == "3600"
    api.clock.now = 3600
    api.crm.control({"revoke_tokens": True})
    status, body = await api.upsert(item("V1"))
    assert (status, body["category"]) == (401, "INVALID_AUTHENTICATION")


async def test_a_locked_record_is_refused(api: Api) -> None:
    call = (await api.upsert(item("V1")))[1]["results"][0]["id"]
    api.crm.locked = {call}
    assert (await api.upsert(item("V1")))[0] == 423
    assert (await api.ask("PUT", f"{CALLS}/{call}/associations/default/contacts/501"))[0] == 423


async def test_owners_are_found_by_their_address_and_dispositions_listed(api: Api) -> None:
    owners = "/crm/owners/2026-03?email="
    assert [each["id"] for each in (await api.ask("GET", owners + "Ann@example.com"))[1]["results"]] == ["77"]
    assert (await api.ask("GET", owners + "bob@example.com"))[1]["results"] == []
    listed = (await api.ask("GET", "/calling/v1/dispositions"))[1]
    assert {"id": CONNECTED, "label": "Connected"} in listed


async def test_old_versions_and_unknown_types_are_not_there(api: Api) -> None:
    assert (await api.ask("POST", "/crm/v3/objects/calls", {}))[0] == 404
    assert (await api.ask("POST", "/crm/objects/2026-03/cars", {"properties": {}}))[0] == 400
    assert (await api.ask("POST", UPSERT, [1]))[0] == 400
