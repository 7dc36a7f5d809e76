"""The stand-in EspoCRM answers as EspoCRM 8.4.2 did to the same requests."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import pytest

from simulators.crms.espocrm import API_USER, TOKEN, EspoStandIn

AGENT = "6b0dbb23d43113418"
CALL = {
    "name": "Outbound call",
    "status": "Held",
    "direction": "Outbound",
    "dateStart": "2026-07-01 10:00:00",
    "dateEnd": "2026-07-01 10:02:05",
    "assignedUserId": AGENT,
    "cCallId": "V1",
}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Api:
    def __init__(self, crm: EspoStandIn, session: aiohttp.ClientSession, clock: Clock) -> None:
        self.crm = crm
        self.clock = clock
        self.token: str | None = TOKEN
        self.reason: str | None = None
        self._session = session

    async def ask(self, method: str, path: str, body: object = None, **options: Any) -> tuple[int, Any]:  # noqa: ANN401 - aiohttp's
        headers = options.pop("headers", {}) | ({"X-Api-Key": self.token} if self.token else {})
        url = f"{self.crm.url}/api/v1/{path}"
        async with self._session.request(method, url, headers=headers, json=body, **options) as answer:
            self.reason = answer.headers.get("X-Status-Reason")
            return answer.status, await answer.json(content_type=None) if await answer.text() else None

    async def create(self, **changes: object) -> tuple[int, Any]:
        given = {name: value for name, value in (CALL | changes).items() if value is not None}
        return await self.ask("POST", "Call", given)

    async def find(self, kind: str, *conditions: tuple[str, str, object], **others: str) -> Any:  # noqa: ANN401
        query = dict(others)
        for at, (kind_of_test, attribute, value) in enumerate(conditions):
            query |= {f"where[{at}][type]": kind_of_test, f"where[{at}][attribute]": attribute}
            values = value if isinstance(value, list) else [value]
            names = [f"[{place}]" for place in range(len(values))] if isinstance(value, list) else [""]
            query |= {f"where[{at}][value]{name}": each for name, each in zip(names, values, strict=True)}
        return await self.ask("GET", kind, params=query)


@pytest.fixture
async def api(session: aiohttp.ClientSession) -> AsyncIterator[Api]:
    clock = Clock()
    async with EspoStandIn(clock=clock) as crm:
        yield Api(crm, session, clock)


async def test_a_call_is_made_once_for_each_request_and_found_by_its_id(api: Api) -> None:
    contact = api.crm.seed("Contact", {"lastName": "O'Brien", "phoneNumber": "+13125551212"})
    status, made = await api.create(contactsIds=[contact])
    assert (status, len(made["id"]), made["usersIds"]) == (200, 17, [AGENT])
    assert (await api.create())[0] == 200
    first = {"orderBy": "createdAt", "order": "asc", "select": "id,contactsIds", "maxSize": "1"}
    for key in ("V1", "v1", "V1 "):  # text is compared without case, and without blanks at the end
        _, found = await api.find("Call", ("equals", "cCallId", key), **first)
        assert (found["total"], found["list"]) == (2, [{"id": made["id"], "contactsIds": [contact]}])
    assert api.crm.doubles == {"V1": 2}


async def test_the_first_of_two_calls_is_found_by_the_time_of_creation(api: Api) -> None:
    ids = [(await api.create())[1]["id"] for _ in range(2)]
    for order, wanted in (("asc", ids[0]), ("desc", ids[1])):
        _, found = await api.find("Call", orderBy="createdAt", order=order, maxSize="1", select="id")
        assert found["list"] == [{"id": wanted}]


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_a_change_needs_only_the_changed_fields(api: Api, method: str) -> None:
    _, made = await api.create()
    status, changed = await api.ask(method, f"Call/{made['id']}", {"status": "Not Held"})
    assert (status, changed["status"], changed["name"]) == (200, "Not Held", "Outbound call")
    assert (await api.ask("GET", f"Call/{made['id']}"))[1] == changed


@pytest.mark.parametrize(
    ("changes", "status", "reason"),
    [
        ({"name": "  "}, 400, "Field validation failure; entityType: Call, field: name, type: required."),
        ({"name": None}, 400, "Field validation failure; entityType: Call, field: name, type: required."),
        (
            {"dateEnd": None},
            400,
            "Field validation failure; entityType: Call, field: dateEnd, type: required.",
        ),
        (
            {"assignedUserId": None},
            400,
            "Field validation failure; entityType: Call, field: assignedUser, type: required.",
        ),
        (
            {"status": "Perhaps"},
            400,
            "Field validation failure; entityType: Call, field: status, type: valid.",
        ),
        (
            {"direction": "Sideways"},
            400,
            "Field validation failure; entityType: Call, field: direction, type: valid.",
        ),
        (
            {"dateStart": "yesterday"},
            400,
            "Field validation failure; entityType: Call, field: dateStart, type: valid.",
        ),
        (
            {"dateStart": "2026-13-01 10:00:00"},
            400,
            "Field validation failure; entityType: Call, field: dateStart, type: valid.",
        ),
        (
            {"name": "n" * 300},
            400,
            "Field validation failure; entityType: Call, field: name, type: maxLength.",
        ),
        (
            {"cCallId": "k" * 150},
            400,
            "Field validation failure; entityType: Call, field: cCallId, type: maxLength.",
        ),
        (
            {"assignedUserId": "nobody"},
            403,
            "Can't relate with non-existing record. entity type: Call, link: assignedUser.",
        ),
        (
            {"contactsIds": ["nobody"]},
            403,
            "Can't relate with non-existing record. entity type: Call, link: contacts.",
        ),
        (
            {"leadsIds": ["nobody"]},
            403,
            "Can't relate with non-existing record. entity type: Call, link: leads.",
        ),
    ],
)
async def test_a_call_is_refused_with_a_reason(
    api: Api, changes: Mapping[str, object], status: int, reason: str
) -> None:
    assert (await api.create(**changes))[0] == status
    assert api.reason == reason
    assert not api.crm.records["Call"]


@pytest.mark.parametrize(
    ("changes", "stored"),
    [
        ({"dateStart": "2026-07-01T10:00:00Z"}, {"dateStart": "2026-07-01 10:00:00"}),
        ({"dateStart": "2026-07-01T10:00:00+02:00"}, {"dateStart": "2026-07-01 08:00:00"}),
        ({"dateStart": "2026-07-01 10:00"}, {"dateStart": "2026-07-01 10:00"}),
        ({"name": " Call "}, {"name": "Call"}),
        ({"cCallId": ""}, {"cCallId": None}),
        ({"dateEnd": "2026-07-01 09:00:00"}, {"dateEnd": "2026-07-01 09:00:00"}),
        ({"name": "Call \N{TELEPHONE RECEIVER}"}, {"name": "Call \N{TELEPHONE RECEIVER}"}),
        ({"contactsIds": "text"}, {"contactsIds": []}),
        ({"assignedUserId": API_USER}, {"assignedUserId": API_USER}),
        ({"description": "x" * 70_000}, {"description": "x" * 70_000}),
        ({"status": None, "direction": None}, {"status": "Planned", "direction": "Outbound"}),
    ],
)
async def test_a_call_is_accepted_and_stored(
    api: Api, changes: Mapping[str, object], stored: Mapping[str, object]
) -> None:
    status, made = await api.create(**changes)
    assert status == 200
    assert {name: made[name] for name in stored} == stored


async def test_an_unknown_field_and_an_own_id_are_ignored(api: Api) -> None:
    _, made = await api.create(nofield="x", id="aaaaaaaaaaaaaaaaa")
    assert "nofield" not in made
    assert made["id"] != "aaaaaaaaaaaaaaaaa"


async def test_a_body_that_is_no_json_is_an_error_without_a_reason(api: Api) -> None:
    assert await api.ask("POST", "Call", data=b"{oops") == (500, None)
    assert api.reason is None
    for body in (b"", b"[1]"):
        assert (await api.ask("POST", "Call", data=body))[0] == 400
        assert api.reason == "Field validation failure; entityType: Call, field: name, type: required."


async def test_a_second_call_is_refused_only_if_the_duplicate_check_is_on(api: Api) -> None:
    api.crm.control({"unique": True})
    _, made = await api.create()
    status, twins = await api.create()
    assert (status, api.reason, twins) == (409, "duplicate", [made])
    skipping = {"X-Skip-Duplicate-Check": "true"}
    assert (await api.ask("POST", "Call", CALL, headers=skipping))[0] == 200
    assert (await api.create(cCallId=None))[0] == 200


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        (("in", "phoneNumberNumeric", ["13125551212", "3125551212"]), 1),
        (("in", "phoneNumberNumeric", ["3125551212"]), 0),
        (("equals", "phoneNumber", "+13125551212"), 1),
        (("isNotNull", "phoneNumber", ""), 1),
    ],
)
async def test_a_contact_is_found_by_its_number(
    api: Api, condition: tuple[str, str, object], found: int
) -> None:
    api.crm.seed("Contact", {"lastName": "O'Brien", "phoneNumber": "+1 (312) 555-1212"})
    api.crm.records["Contact"][next(iter(api.crm.records["Contact"]))]["phoneNumber"] = "+13125551212"
    assert (await api.find("Contact", condition, select="id"))[1]["total"] == found


async def test_only_an_active_user_is_found_as_such(api: Api) -> None:
    active = (("equals", "userName", "1000"), ("isTrue", "isActive", ""))
    assert (await api.find("User", *active))[1]["total"] == 1
    api.crm.change("User", AGENT, {"isActive": False})
    assert (await api.find("User", *active))[1]["total"] == 0


@pytest.mark.parametrize(
    ("method", "path", "status", "reason"),
    [
        ("GET", "Nonsense", 404, "Controller 'Nonsense' does not exist."),
        ("GET", "User/nope", 404, "Record nope does not exist."),
        ("PUT", "Call/nope", 404, "Record nope not found."),
        ("DELETE", "Call/nope", 405, "Controller does not exist."),
        (
            "GET",
            "Call?where[0][type]=equals&where[0][attribute]=cNope&where[0][value]=1",
            400,
            "Not existing attribute 'cNope' in where.",
        ),
        (
            "GET",
            "Call?where[0][type]=between&where[0][attribute]=cCallId",
            400,
            "Where type between is not known to this stand-in.",
        ),
    ],
)
async def test_what_is_not_there_is_named(api: Api, method: str, path: str, status: int, reason: str) -> None:
    await api.create()
    assert (await api.ask(method, path))[0] == status
    assert api.reason == reason


@pytest.mark.parametrize("action", ["create", "read", "edit"])
async def test_a_role_without_a_right_is_refused(api: Api, action: str) -> None:
    _, made = await api.create()
    api.crm.control({"acl": {"Call": {action: False}}})
    request = {"create": ("POST", "Call"), "read": ("GET", "Call"), "edit": ("PUT", f"Call/{made['id']}")}
    assert (await api.ask(*request[action], CALL if action != "read" else None))[0] == 403
    assert api.reason == f"No {action} access."
    _, user = await api.ask("GET", "App/user")
    assert user["acl"]["table"]["Call"][action] == "no"


async def test_a_call_of_a_user_needs_the_right_to_read_users(api: Api) -> None:
    api.crm.control({"acl": {"User": {"read": False}}})
    assert (await api.create())[0] == 403
    assert api.reason == "No foreign record access for link operation (Call:assignedUser)."


async def test_more_than_ten_wrong_keys_in_a_minute_lock_everybody_out_for_a_minute(api: Api) -> None:
    api.token = None
    for _ in range(20):
        assert await api.ask("GET", "App/user") == (401, None)  # no attempt at a login
    api.token = "wrong"
    answers = [(await api.ask("GET", "App/user"))[0] for _ in range(13)]
    assert answers == [401] * 11 + [403] * 2
    api.token = TOKEN
    assert await api.ask("GET", "App/user") == (403, None)
    assert api.reason is None
    api.clock.now += 61
    status, user = await api.ask("GET", "App/user")
    assert (status, user["user"]["id"]) == (200, API_USER)


async def test_the_program_announces_the_settings_and_takes_other_controls(api: Api) -> None:
    api.crm.control({"fields": {"cCallId": 20}, "storm": 60})
    assert api.crm.announcement()["settings"] == {"preset": "espocrm", "url": api.crm.url, "token": TOKEN}
    async with aiohttp.ClientSession() as session, session.get(f"{api.crm.url}/api/v1/App/user") as answer:
        assert answer.status == 503
