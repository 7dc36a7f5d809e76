"""The stand-in Salesforce accepts and refuses what Salesforce's documentation says."""

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from simulators.crms.salesforce import CLIENT_ID, CLIENT_SECRET, KEY, Field, SalesforceStandIn
from simulators.crms.salesforce_queries import BadQuery, parse_query

DATA = "/services/data/v65.0"
TASK = f"{DATA}/sobjects/Task/{KEY}"
MANY = f"{DATA}/composite/sobjects/Task/{KEY}"
CONTACT, LEAD, USER, GONE = (
    "003000000000000501",
    "00Q000000000000601",
    "005000000000000077",
    "005000000000000078",
)
FORM = {"grant_type": "client_credentials", "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Api:
    def __init__(self, crm: SalesforceStandIn, session: aiohttp.ClientSession, clock: Clock) -> None:
        self.crm = crm
        self.clock = clock
        self._session = session
        self.token = crm.issue_token()
        self.headers: dict[str, str] = {}

    async def ask(self, method: str, path: str, body: Any = None, **more: Any) -> tuple[int, Any]:  # noqa: ANN401
        more.setdefault("headers", {"authorization": f"Bearer {self.token}"})
        async with self._session.request(method, self.crm.url + path, json=body, **more) as answer:
            self.headers = dict(answer.headers)
            return answer.status, await answer.json(content_type=None)

    async def upsert(self, key: str, **fields: Any) -> tuple[int, Any]:  # noqa: ANN401
        return await self.ask("PATCH", f"{TASK}/{key}", fields)

    async def upsert_many(self, *records: dict[str, Any]) -> tuple[int, Any]:
        typed = [{"attributes": {"type": "Task"}} | each for each in records]
        return await self.ask("PATCH", MANY, {"allOrNone": False, "records": typed})

    async def found(self, what: str, query: str) -> tuple[int, Any]:
        return await self.ask("GET", f"{DATA}/{what}", params={"q": query})


@pytest.fixture
async def api(session: aiohttp.ClientSession) -> AsyncIterator[Api]:
    clock = Clock()
    async with SalesforceStandIn(clock=clock) as crm:
        crm.prepare()
        crm.seed("Contact", {"id": CONTACT, "Phone": "(312) 555-1212", "OwnerId": USER})
        crm.seed("Lead", {"id": LEAD, "MobilePhone": "+1 312 555 1213", "OwnerId": USER})
        crm.seed("User", {"id": USER, "EmployeeNumber": "1000", "Alias": "ann"})
        crm.seed("User", {"id": GONE, "EmployeeNumber": "1001", "IsActive": False})
        yield Api(crm, session, clock)


async def test_a_token_is_issued_for_a_form_or_basic_and_names_the_instance(api: Api) -> None:
    path = "/services/oauth2/token"
    status, body = await api.ask("POST", path, data=FORM, headers={})
    assert (status, body["instance_url"], body["token_type"]) == (200, api.crm.base_url, "Bearer")
    assert "expires_in" not in body
    basic = aiohttp.encode_basic_auth(CLIENT_ID, CLIENT_SECRET)
    grant = {"grant_type": "client_credentials"}
    assert (await api.ask("POST", path, data=grant, headers={"authorization": basic}))[0] == 200
    for wrong, error in (
        ({"grant_type": "password"}, "unsupported_grant_type"),
        ({"client_id": "x"}, "invalid_client_id"),
        ({"client_secret": "x"}, "invalid_client"),
    ):
        status, body = await api.ask("POST", path, data=FORM | wrong, headers={})
        assert (status, body["error"]) == (400, error)
    status, body = await api.ask("POST", path, data=grant, headers={"authorization": "Basic ?"})
    assert (status, body["error"]) == (400, "invalid_request")


async def test_a_session_ends(api: Api) -> None:
    assert (await api.upsert("V1", Subject="Call"))[0] == 201
    api.clock.now = 7200
    status, body = await api.upsert("V1", Subject="Call")
    assert (status, body) == (
        401,
        [{"message": "Session expired or invalid", "errorCode": "INVALID_SESSION_ID"}],
    )


async def test_an_upsert_makes_a_task_once_and_then_changes_it(api: Api) -> None:
    status, body = await api.upsert("V1", Subject="Call", TaskSubtype="Call", WhoId=CONTACT, OwnerId=USER)
    assert (status, body["created"], body["id"][:3]) == (201, True, "00T")
    assert (await api.upsert("V1", CallDurationInSeconds=12, ActivityDate="2026-11-20"))[0] == 200
    api.crm.updated_status = 204
    assert await api.upsert("V1", Status="Completed") == (204, None)
    stored = api.crm.records["Task"][body["id"]]
    assert (stored["Subject"], stored["Status"], stored["CallDurationInSeconds"]) == ("Call", "Completed", 12)
    assert api.crm.writes == {"V1": 1}


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"Colour": "red"}, "INVALID_FIELD"),
        ({KEY: "V1"}, "INVALID_FIELD"),
        ({"Status": "Done"}, "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST"),
        ({"CallType": "outbound"}, "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST"),
        ({"Subject": "x" * 256}, "STRING_TOO_LONG"),
        ({"CallDisposition": "x" * 256}, "STRING_TOO_LONG"),
        ({"ActivityDate": "2026-11-20T14:05:09Z"}, "JSON_PARSER_ERROR"),
        ({"ActivityDate": "20261120"}, "JSON_PARSER_ERROR"),
        ({"CallDurationInSeconds": "12s"}, "JSON_PARSER_ERROR"),
        ({"Subject": 7}, "JSON_PARSER_ERROR"),
        ({"WhoId": "501"}, "MALFORMED_ID"),
        ({"WhoId": USER}, "MALFORMED_ID"),
        ({"WhoId": "003000000000000999"}, "INVALID_CROSS_REFERENCE_KEY"),
        ({"OwnerId": GONE}, "INACTIVE_OWNER_OR_USER"),
        ({"CompletedDateTime": "2026-11-20T14:05:09Z"}, "INVALID_FIELD_FOR_INSERT_UPDATE"),
    ],
)
async def test_a_bad_field_is_refused(api: Api, fields: dict[str, Any], code: str) -> None:
    status, body = await api.upsert("V1", **fields)
    assert (status, [each["errorCode"] for each in body]) == (400, [code])
    assert not api.crm.records["Task"]


async def test_a_field_of_the_creation_is_refused_in_a_change(api: Api) -> None:
    await api.upsert("V1", TaskSubtype="Call")
    status, body = await api.upsert("V1", TaskSubtype="Call")
    assert (status, body[0]["errorCode"], body[0]["fields"]) == (
        400,
        "INVALID_FIELD_FOR_INSERT_UPDATE",
        ["TaskSubtype"],
    )


async def test_the_key_needs_an_external_id(api: Api) -> None:
    for name in ("Other__c", "Subject"):
        status, body = await api.ask("PATCH", f"{DATA}/sobjects/Task/{name}/V1", {})
        assert (status, body[0]["errorCode"]) == (404, "NOT_FOUND")
    assert (await api.upsert("x" * 65))[1][0]["errorCode"] == "STRING_TOO_LONG"
    api.crm.add_field("Recording__c", Field())
    assert (await api.upsert("V1", Recording__c="https://dialer.example.com/a.mp3"))[0] == 201


async def test_a_collection_has_a_result_for_each_in_order(api: Api) -> None:
    await api.upsert_many({KEY: "V1"})
    status, body = await api.upsert_many(
        {KEY: "V2", "Subject": "x" * 256},
        {KEY: "V1", "Subject": "Call"},
        {"Subject": "Call"},
        {KEY: "V3"},
        {KEY: "V4"},
        {KEY: "V4"},
    )
    assert (status, [each["success"] for each in body]) == (200, [False, True, False, True, False, False])
    assert body[0]["errors"][0]["statusCode"] == "STRING_TOO_LONG"
    assert body[2]["errors"][0]["statusCode"] == "MISSING_ARGUMENT"
    assert body[4]["errors"][0]["statusCode"] == "DUPLICATE_VALUE"
    assert (body[1]["created"], body[3]["created"]) == (False, True)
    assert api.crm.writes == {"V1": 1, "V3": 1}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"records": [{"attributes": {"type": "Task"}, KEY: "V", "Colour": "red"}]}, "INVALID_FIELD"),
        ({"records": [{KEY: "V1"}]}, "INVALID_INPUT"),
        (
            {"records": [{"attributes": {"type": "Task"}, KEY: str(i)} for i in range(201)]},
            "NUMBER_OUTSIDE_VALID_RANGE",
        ),
        ({"records": []}, "JSON_PARSER_ERROR"),
        ({"allOrNone": True, "records": [{}]}, "INVALID_INPUT"),
        ([], "JSON_PARSER_ERROR"),
    ],
)
async def test_a_bad_collection_is_refused_as_a_whole(api: Api, body: Any, code: str) -> None:  # noqa: ANN401
    status, refused = await api.ask("PATCH", MANY, body)
    assert (status, refused[0]["errorCode"]) == (400, code)
    assert not api.crm.writes


async def test_a_locked_row_is_a_400_and_passes(api: Api) -> None:
    api.crm.locked = {CONTACT}
    status, body = await api.upsert("V1", WhoId=CONTACT)
    assert (status, body[0]["errorCode"]) == (400, "UNABLE_TO_LOCK_ROW")
    status, body = await api.upsert_many({KEY: "V1", "WhoId": CONTACT}, {KEY: "V2"})
    assert [each["success"] for each in body] == [False, True]
    assert body[0]["errors"][0]["statusCode"] == "UNABLE_TO_LOCK_ROW"
    api.crm.locked = set()
    task = (await api.upsert("V1", WhoId=CONTACT))[1]["id"]
    api.crm.locked = {task}
    assert (await api.upsert("V1"))[0] == 400


async def test_the_loser_of_a_race_on_the_key_sees_the_winner(api: Api) -> None:
    api.crm.control({"racing": ["V1"]})
    status, body = await api.upsert("V1")
    assert (status, body[0]["errorCode"]) == (400, "DUPLICATE_VALUE")
    assert (await api.upsert("V1"))[0] == 200
    assert api.crm.writes == {"V1": 1}


async def test_the_days_requests_are_counted_and_end(api: Api) -> None:
    api.crm.control({"daily": 2})
    await api.upsert("V1")
    assert api.headers["Sforce-Limit-Info"] == "api-usage=1/2"
    assert (await api.ask("GET", f"{DATA}/limits"))[1] == {"DailyApiRequests": {"Max": 2, "Remaining": 0}}
    status, body = await api.upsert("V1")
    assert (status, body[0]["errorCode"]) == (403, "REQUEST_LIMIT_EXCEEDED")
    assert (await api.ask("POST", "/services/oauth2/token", data=FORM, headers={}))[0] == 200


async def test_a_setting_of_the_org_refuses_everything(api: Api) -> None:
    api.crm.control({"forbidden": "API_DISABLED_FOR_ORG"})
    status, body = await api.upsert("V1")
    assert (status, body[0]["errorCode"]) == (403, "API_DISABLED_FOR_ORG")


async def test_the_search_ignores_punctuation_and_names_the_type(api: Api) -> None:
    returning = "RETURNING Contact(Id, OwnerId), Lead(Id, OwnerId WHERE IsConverted = false) LIMIT 3"
    status, body = await api.found(
        "search/", f"FIND {{3125551212 OR 13125551213}} IN PHONE FIELDS {returning}"
    )
    assert status == 200
    assert [(each["attributes"]["type"], each["Id"]) for each in body["searchRecords"]] == [
        ("Contact", CONTACT),
        ("Lead", LEAD),
    ]
    assert body["searchRecords"][0]["OwnerId"] == USER
    escaped = f"FIND {{312\\-555\\-1212}} IN PHONE FIELDS {returning}"
    assert len((await api.found("search", escaped))[1]["searchRecords"]) == 1
    api.crm.records["Lead"][LEAD]["IsConverted"] = True
    body = (await api.found("search", f"FIND {{13125551213}} IN PHONE FIELDS {returning}"))[1]
    assert body == {"searchRecords": []}


async def test_the_search_finds_a_new_record_only_later(api: Api) -> None:
    api.crm.control({"index_delay": 5})
    assert (await api.ask("POST", f"{DATA}/sobjects/Contact", {"Phone": "3125559999"}))[0] == 201
    sosl = "FIND {3125559999} IN PHONE FIELDS RETURNING Contact(Id)"
    assert (await api.found("search", sosl))[1]["searchRecords"] == []
    assert (await api.found("query", "SELECT Id FROM Contact WHERE Phone = '3125559999'"))[1][
        "totalSize"
    ] == 1
    api.clock.now = 5
    assert len((await api.found("search", sosl))[1]["searchRecords"]) == 1


@pytest.mark.parametrize(
    "sosl",
    [
        "FIND {312-555-1212} IN PHONE FIELDS RETURNING Contact(Id)",
        "FIND {3} IN PHONE FIELDS RETURNING Contact(Id)",
        "FIND 3125551212 IN PHONE FIELDS RETURNING Contact(Id)",
        "FIND {3125551212} IN PHONE FIELDS RETURNING Contact",
        "FIND {3125551212} IN PHONE FIELDS RETURNING Contact(Colour)",
        "FIND {3125551212} IN PHONE FIELDS RETURNING Car(Id)",
    ],
)
async def test_a_bad_search_is_refused(api: Api, sosl: str) -> None:
    assert (await api.found("search", sosl))[0] == 400


async def test_users_are_queried_by_what_the_dialer_knows(api: Api) -> None:
    soql = (
        "SELECT Id, Name FROM User WHERE IsActive = true AND (EmployeeNumber = '?' OR Alias IN ('?', 'x'))"
        " LIMIT 2"
    )
    for known, ids in (("1000", [USER]), ("ann", [USER]), ("1001", []), ("o\\'neil", [])):
        status, body = await api.found("query", soql.replace("?", known))
        assert (status, [each["Id"] for each in body["records"]]) == (200, ids)
    assert (await api.found("query", "SELECT Id FROM User WHERE Alias = o'neil"))[0] == 400


@pytest.mark.parametrize(
    "soql",
    [
        "SELECT Id",
        "SELECT Id FROM Car",
        "SELECT Colour FROM User",
        "SELECT Id FROM User HAVING 1",
        "SELECT Id FROM User WHERE Alias",
        "SELECT Id FROM User WHERE Alias = ",
        "SELECT Id FROM User WHERE Alias = ann",
        "SELECT Id FROM User WHERE (Alias = 'a'",
        "SELECT Id FROM User WHERE Alias = 'a' 'b'",
        "SELECT Id FROM User WHERE Alias = 'a' ; ",
    ],
)
def test_a_bad_query_is_refused(soql: str) -> None:
    with pytest.raises(BadQuery):
        parse_query(soql, {"User": frozenset({"Id", "Alias"})})


async def test_describe_shows_the_external_id(session: aiohttp.ClientSession) -> None:
    async with SalesforceStandIn() as crm:
        api = Api(crm, session, Clock())
        describe = f"{DATA}/sobjects/Task/describe"
        names = {each["name"] for each in (await api.ask("GET", describe))[1]["fields"]}
        assert KEY not in names
        crm.control({"prepared": True})
        fields = {each["name"]: each for each in (await api.ask("GET", describe))[1]["fields"]}
        assert (fields[KEY]["externalId"], fields[KEY]["createable"]) == (True, True)
        assert fields["TaskSubtype"]["updateable"] is False


async def test_what_is_not_there_is_said_in_salesforces_words(api: Api) -> None:
    assert (await api.ask("GET", f"{DATA}/sobjects/Car/describe"))[1][0]["errorCode"] == "NOT_FOUND"
    assert (await api.ask("POST", f"{DATA}/sobjects/Car", {}))[0] == 404
    assert (await api.ask("DELETE", f"{DATA}/limits"))[1][0]["errorCode"] == "METHOD_NOT_ALLOWED"
    assert (await api.ask("POST", f"{DATA}/sobjects/Task", {"Subject": "Call"}))[0] == 201
    assert (await api.ask("POST", f"{DATA}/sobjects/Task", {"Status": "Done"}))[0] == 400
