"""The stand-in of vtiger against what a real vtiger answered, exchange by exchange."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from simulators.crms.vtiger import ACCESS_KEY, VtigerStandIn

RECORDED = [json.loads(line) for line in (Path(__file__).parent / "vtiger.jsonl").read_text().splitlines()]
"""149 exchanges with vtiger 8.0.0, in order: name, method, operation, request, status, body."""

KEYS = {"admin": ACCESS_KEY, "seller": "SellersAccessKey"}
MEASURED = {"speed.create_pbx": 16, "unique.four_at_once_four_sessions": 0}
"""Two lines tell measurements, not an exchange: how many records each of them made before the next line."""


VARYING = {"createdtime", "modifiedtime", "token", "sessionname", "servertime", "expiretime"}


def md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()  # noqa: S324 - vtiger's own proof


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Client:
    """Sends to `webservice.php`, and parses the answer."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.http = session
        self.url = f"{url}/webservice.php"
        self.session = ""

    async def send(self, method: str, operation: str | None, **parameters: object) -> tuple[int, Any]:
        fields: dict[str, str] = {"operation": operation} if operation is not None else {}
        for name, value in parameters.items():
            fields[name] = value if isinstance(value, str) else json.dumps(value)
        query, form = (fields, None) if method == "GET" else (None, fields)
        async with self.http.request(method, self.url, params=query, data=form) as answer:
            text = await answer.text()
            with suppress(ValueError):
                return answer.status, json.loads(text)
            return answer.status, text

    async def call(self, method: str, operation: str, **parameters: object) -> dict[str, Any]:
        answer: dict[str, Any] = (await self.send(method, operation, sessionName=self.session, **parameters))[
            1
        ]
        return answer

    async def challenge(self, user: str) -> str:
        _, answer = await self.send("GET", "getchallenge", username=user)
        return str(answer["result"]["token"])

    async def log_in(
        self, user: str = "admin", token: str | None = None, key: str | None = None
    ) -> dict[str, Any]:
        token = token or await self.challenge(user)
        proof = md5(f"{token}{key or KEYS[user]}")
        answer: dict[str, Any] = (await self.send("POST", "login", username=user, accessKey=proof))[1]
        self.session = answer.get("result", {}).get("sessionName", "")
        return answer

    async def create(self, module: str = "PBXManager", **element: object) -> dict[str, Any]:
        given = {"customernumber": "1", "assigned_user_id": "19x1"} | element
        return await self.call("POST", "create", elementType=module, element=given)

    async def query(self, text: str) -> dict[str, Any]:
        return await self.call("GET", "query", query=text)


@pytest.fixture
async def server() -> AsyncIterator[VtigerStandIn]:
    async with VtigerStandIn() as running:
        yield running


@pytest.fixture
def client(server: VtigerStandIn, session: aiohttp.ClientSession) -> Client:
    return Client(session, server.url)


class Replay:
    """Repeats the recording: what it left out (tokens, sessions, proofs) is put in again."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.tokens: list[str] = []
        self.sessions: dict[str, str] = {}

    async def repeat(self, line: Mapping[str, Any]) -> tuple[int, Any]:
        name, request = line["name"], dict(line["request"])
        if request.get("accessKey") == "<MD5(TOKEN+KEY)>":
            token = self.tokens[-2] if name == "login.two.a" else self.tokens[-1]
            key = "wrong" if name == "login.wrong_key" else KEYS[request["username"]]
            request["accessKey"] = md5(f"{token}{key}")
        if request.get("sessionName") == "<SESSION>":
            sellers = name.startswith(("restricted.", "logout", "session.after_logout"))
            request["sessionName"] = self.sessions["seller" if sellers else "admin"]
        status, body = await self.client.send(line["method"], line["operation"], **request)
        if isinstance(body, dict) and isinstance(result := body.get("result"), dict):
            self.tokens.extend([result["token"]] if "token" in result else [])
            if "sessionName" in result:
                self.sessions[result["username"]] = result["sessionName"]
        return status, body


async def test_it_answers_every_recorded_exchange_as_vtiger_did(
    server: VtigerStandIn, client: Client
) -> None:
    server.crmid, server.numbers["Contacts"], server.numbers["Leads"] = 125, 2, 2
    server.change("Users", "19x5", {"email1": "s@example.com"})
    replay = Replay(client)
    different = []
    for line in RECORDED:
        if line["name"] in MEASURED:
            for _ in range(MEASURED[line["name"]]):
                server.seed("PBXManager", {"customernumber": "1"})
            continue
        if line["name"] == "unique.login":
            server.unique = True
        status, body = await replay.repeat(line)
        recorded, answered = sorted(_facts(line["body"])), sorted(_facts(body))
        if ".information." not in str(recorded):
            answered = [fact for fact in answered if ".information." not in fact[0]]
        if (status, answered) != (line["status"], recorded):
            different.append((line["name"], set(recorded) ^ set(answered)))
    assert not different
    assert len(RECORDED) == 149


def _facts(value: object, path: str = "") -> Iterator[tuple[str, str]]:
    """Return every leaf with its path, but those that differ from one run to the next.

    Of `describe`, the recording has no plain fields and no labels: it is compared by names, prefixes and the
    mandatory fields.
    """
    if isinstance(value, dict) and "idPrefix" in value:
        fields = value["fields"]
        yield from ((path, name) for name in value.get("allFieldNames", [each["name"] for each in fields]))
        yield from ((path, f"{each['name']} is mandatory") for each in fields if each["mandatory"])
        yield from ((path, value[name]) for name in ("name", "idPrefix", "labelFields"))
    elif isinstance(value, dict):
        for name, each in value.items():
            yield from _facts(each, f"{path}.{name}")
    elif isinstance(value, list):
        for at, each in enumerate(value):
            yield from _facts(each, f"{path}[{at}]")
    elif path.rpartition(".")[2].lower() in VARYING:
        yield path, "differs"
    else:
        yield path, "a trace" if str(value).startswith("<pre>") else repr(value)


async def test_a_session_ends_after_its_last_use_and_is_unknown_then(client: Client) -> None:
    clock = Clock()
    async with VtigerStandIn(clock=clock) as server:
        client.url = f"{server.url}/webservice.php"
        await client.log_in()
        for wait, code in ((1400.0, None), (1400.0, None), (1441.0, "INVALID_SESSIONID")):
            clock.now += wait
            answer = await client.query("SELECT id FROM Users;")
            assert answer.get("error", {}).get("code") == code


async def test_a_challenge_is_good_for_five_minutes(client: Client) -> None:
    clock = Clock()
    async with VtigerStandIn(clock=clock) as server:
        client.url = f"{server.url}/webservice.php"
        token = await client.challenge("admin")
        clock.now += 301
        assert (await client.log_in(token=token))["error"]["code"] == "INVALID_AUTH_TOKEN"


async def test_an_inactive_user_cannot_log_in(server: VtigerStandIn, client: Client) -> None:
    server.change("Users", "19x1", {"status": "Inactive"})
    assert (await client.log_in())["error"]["code"] == "INVALID_USER_CREDENTIALS"


async def test_requests_of_one_session_run_one_after_another(server: VtigerStandIn, client: Client) -> None:
    await client.log_in()
    server.work = 0.05
    started = asyncio.get_running_loop().time()
    await asyncio.gather(*(client.create(sourceuuid=f"k{each}") for each in range(4)))
    assert asyncio.get_running_loop().time() - started >= 0.2


async def test_a_body_or_method_that_php_does_not_parse_is_no_operation(
    server: VtigerStandIn, session: aiohttp.ClientSession
) -> None:
    url = f"{server.url}/webservice.php"
    form = {"operation": "getchallenge", "username": "admin"}
    async with session.post(url, json=form) as by_json, session.put(url, data=form) as by_put:
        assert [(each.status, await each.text()) for each in (by_json, by_put)] == [(500, ""), (500, "")]


@pytest.mark.parametrize("user", ["admin", "seller"])
async def test_who_is_no_administrator_finds_no_call_of_others(client: Client, user: str) -> None:
    await client.log_in(user)
    assert (await client.create(sourceuuid="V1"))["success"]  # it belongs to the administrator
    found = await client.query("SELECT id FROM PBXManager WHERE sourceuuid = 'V1';")
    assert len(found["result"]) == (user == "admin")


async def test_who_is_no_administrator_gives_no_call_to_an_equal(
    server: VtigerStandIn, client: Client
) -> None:
    server.seed("Users", {"id": "19x6", "user_name": "1000", "is_admin": "off", "status": "Active"})
    await client.log_in("seller")
    for field in ("assigned_user_id", "user"):
        answer = await client.create(**{field: "19x6"})
        assert answer["error"]["message"] == "Cannot assign record to the given user"
    assert (await client.create(assigned_user_id="19x77"))["error"]["code"] == "ACCESS_DENIED"
    assert (await client.create(assigned_user_id="20x3", sourceuuid="V1"))["success"]
    found = await client.query("SELECT id FROM PBXManager WHERE sourceuuid = 'V1';")
    assert len(found["result"]) == 1  # a group's


@pytest.mark.parametrize(
    ("owner", "answered"),
    [("19x5", "19x5"), ("seller", "19x1"), ("12x2", "20x2"), ("20x3", "20x3"), ("19x77", "77")],
)
async def test_an_owner_is_taken_by_the_number_alone(client: Client, owner: str, answered: str) -> None:
    await client.log_in()
    assert (await client.create(assigned_user_id=owner))["result"]["assigned_user_id"] == answered


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        ("sourceuuid = 'v1'", 1),
        ("sourceuuid = 'V1 '", 1),
        ("sourceuuid = ' V1'", 0),
        ("sourceuuid != 'V1'", 1),
        ("sourceuuid > 'V1' AND sourceuuid <= 'V2'", 1),
        ("sourceuuid IN ('V1', 'V2') OR customernumber = '9'", 2),
        ("sourceuuid LIKE 'V_' ORDER BY sourceuuid DESC LIMIT 1", 1),
        ("sourceuuid LIKE 'V%' ORDER BY sourceuuid ASC LIMIT 1, 1", 1),
    ],
)
async def test_a_text_is_compared_without_case_and_without_blanks_at_its_end(
    server: VtigerStandIn, client: Client, condition: str, found: int
) -> None:
    for key in ("V1", "V2"):
        server.seed("PBXManager", {"sourceuuid": key, "customernumber": "1"})
    await client.log_in()
    answer = await client.query(f"SELECT id FROM PBXManager WHERE {condition};")  # noqa: S608 - no SQL
    assert len(answer["result"]) == found


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("SELECT id FROM PBXManager WHERE sourceuuid = '';", "INTERNAL_SERVER_ERROR"),
        ("SELECT id FROM PBXManager WHERE sourceuuid == '1';", "QUERY_SYNTAX_ERROR"),
        ("SELECT id FROM PBXManager WHERE sourceuuid LIKE;", "QUERY_SYNTAX_ERROR"),
        ("SELECT nofield FROM PBXManager;", "ACCESS_DENIED"),
        ("SELECT id FROM PBXManager WHERE nofield = '1';", "ACCESS_DENIED"),
        ("", "ACCESS_DENIED"),
        (";", "QUERY_SYNTAX_ERROR"),
        ("SELECT id FROM PBXManager WHERE sourceuuid = 'V1", "QUERY_SYNTAX_ERROR"),
    ],
)
async def test_a_query_that_is_none_is_refused(client: Client, query: str, code: str) -> None:
    await client.log_in()
    assert (await client.query(query))["error"]["code"] == code


async def test_every_field_of_a_record_is_asked_for_by_a_star(server: VtigerStandIn, client: Client) -> None:
    server.seed("PBXManager", {"sourceuuid": "V1", "customernumber": "1"})
    await client.log_in()
    (row,) = (await client.query("SELECT * FROM PBXManager;"))["result"]
    assert (row["sourceuuid"], row["totalduration"], row["customer"]) == ("V1", "0", "")


@pytest.mark.parametrize(
    ("given", "stored"),
    [(-5, "-5"), ("1.5", "2"), ("x", "0"), (None, "0"), (125, "125"), ("-1.5", "-2"), (10**11, "2147483647")],
)
async def test_a_duration_becomes_a_whole_number(client: Client, given: object, stored: str) -> None:
    await client.log_in()
    assert (await client.create(totalduration=given))["result"]["totalduration"] == stored


@pytest.mark.parametrize(("given", "stored"), [(True, "1"), (False, ""), ({"a": 1}, "1"), (["a"], "1")])
async def test_what_is_no_text_is_stored_as_php_writes_it(client: Client, given: object, stored: str) -> None:
    await client.log_in()
    assert (await client.create(gateway=given))["result"]["gateway"] == stored


async def test_a_challenge_needs_a_name(client: Client) -> None:
    _, answer = await client.send("GET", "getchallenge")
    assert answer["error"]["message"] == "No username given"


@pytest.mark.parametrize("record", ["24x999", "99x1", "abc", ""])
async def test_a_record_that_is_not_there_is_not_permitted(client: Client, record: str) -> None:
    await client.log_in()
    answer = await client.call("POST", "revise", element={"id": record, "callstatus": "busy"})
    assert answer["error"]["code"] == "ACCESS_DENIED"


async def test_an_answer_can_be_spoiled_after_the_write(server: VtigerStandIn, client: Client) -> None:
    await client.log_in()
    server.control({"after_write": ["trace", "empty", "internal"]})
    trace: object = await client.create(sourceuuid="V0")
    empty: object = await client.create(sourceuuid="V1")
    assert str(trace).startswith("<pre>array (")
    assert empty == ""
    assert (await client.create(sourceuuid="V2"))["error"]["code"] == "INTERNAL_SERVER_ERROR"
    assert (await client.create(sourceuuid="V3"))["success"]
    assert server.writes == {"V0": 1, "V1": 1, "V2": 1, "V3": 1}


async def test_a_change_keeps_what_a_record_was_made_with(server: VtigerStandIn, client: Client) -> None:
    record = server.seed("Contacts", {"lastname": "O'Brien"})
    before = dict(server.records["Contacts"][record])
    await client.log_in()
    answer = await client.call("POST", "revise", element={"id": record, "phone": "1"})
    assert (answer["result"]["phone"], answer["result"]["label"]) == ("1", "O&#039;Brien")
    assert answer["result"]["contact_no"] == before["contact_no"]
    assert answer["result"]["createdtime"] == before["createdtime"]


async def test_too_many_requests_are_refused_by_the_web_server(server: VtigerStandIn, client: Client) -> None:
    server.storm(60)
    assert (await client.send("GET", "getchallenge", username="admin"))[0] == 503


async def test_the_program_announces_the_settings(server: VtigerStandIn) -> None:
    assert server.announcement()["settings"] == {
        "preset": "vtiger",
        "url": server.url,
        "user": "admin",
        "access_key": ACCESS_KEY,
    }
