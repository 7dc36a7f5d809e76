"""A Zoho CRM account with its token server: calls, contacts, leads, users, fields and COQL, at version 8.

Sources: Zoho's OpenAPI description (github.com/zoho/crm-oas, v8.0) with its examples of answers, and the
pages of zoho.com/crm/developer/docs/api/v8 that the rules name.

Not confirmed on a real account: that Calls accept a unique field; which fields a layout requires (here:
Subject, Call_Type, Call_Start_Time, and Call_Duration unless the call was missed); that unknown fields and
other values of a picklist are refused; that a lead is a What_Id; how the search compares phone numbers (here:
by the last digits); the status when all records of several are refused (here: 400); what a query costs;
X-API-CREDITS-REMAINING.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from aiohttp import web

from simulators.crms.base import CrmStandIn, Refused, Window, json_object
from simulators.crms.zoho_fields import FIELDS, check_text

CLIENT_ID: Final = "1000.STANDIN"
CLIENT_SECRET: Final = "stand-in-secret"  # noqa: S105 - opens nothing
REFRESH_TOKEN: Final = "1000.stand-in.refresh"  # noqa: S105 - opens nothing
ORGANIZATION: Final = "600000046"
KEY: Final = "CRM_Sync_Call_Id"

ALL_SCOPES: Final = frozenset(
    {
        *("ZohoCRM.modules.ALL", "ZohoCRM.coql.READ", "ZohoSearch.securesearch.READ"),
        *("ZohoCRM.users.READ", "ZohoCRM.settings.fields.ALL"),
    }
)

_ACTIVE_TOKENS = 15  # "Token Validity": the 16th ends the oldest
_TOKENS, _TOKENS_IN = 10, 600.0  # "Token Validity": ten from a refresh token in ten minutes
_MAX_RECORDS = 100  # "Insert Records"
_MAX_QUERIES = 10  # "API Limits": concurrent queries
_CREDIT_RECORDS = 10  # "API Limits": one credit for each ten records
_TRIGGERS = {"workflow", "approval", "blueprint", "pathfinder", "orchestration"}  # "Insert Records"
_PHONES = {
    "Contacts": ("Phone", "Mobile", "Home_Phone", "Other_Phone"),
    "Leads": ("Phone", "Mobile"),
    "Calls": (),
}


def error(code: str, message: str, **details: object) -> dict[str, Any]:
    """Return an error as Zoho words one, of a request or of one record."""
    return {"code": code, "details": details, "message": message, "status": "error"}


class Wrong(Exception):
    """One record is refused."""

    def __init__(self, code: str, message: str, field: str, **details: object) -> None:
        """Keep what is said of it."""
        super().__init__(code)
        self.error = error(code, message, api_name=field, **details)


class ZohoStandIn(CrmStandIn):
    """One account of the edition Standard, and its only self client.

    Attributes:
        fields: The custom fields of Calls, by API name. `prepare` adds the one for the key.
        unique: Whether that field refuses a second record with the same value.
        scopes: What tokens of the refresh token may do; those of client credentials ask for theirs.
        concurrency: How many requests may be under way: 5 in Free, 10 in Standard, 15, 20 and 25 above it
            (help.zoho.com, Kaizen 203).
    """

    title = "Zoho CRM"

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - as the base has them
        """Prepare an account of which Calls have the field for the key."""
        super().__init__(**options)
        self.key_fields = {"Calls": KEY}
        self.fields: set[str] = set()
        self.unique = False
        self.scopes = set(ALL_SCOPES)
        self.concurrency = 10
        self.granted: dict[str, set[str]] = {}
        self.token_requests = Window(_TOKENS, _TOKENS_IN, self.clock)
        self._queries = 0
        self.limit("daily", 50_000)  # "API Limits": credits in 24 hours
        self.prepare()

    def prepare(self, name: str = KEY) -> None:
        """Add the field for the key."""
        self.fields.add(name)

    def route(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_post("/oauth/v2/token", self._token)
        app.router.add_post("/crm/v8/coql", self._query)
        app.router.add_get("/crm/v8/users", self._users)
        app.router.add_get("/crm/v8/settings/fields", self._list_fields)
        app.router.add_post("/crm/v8/settings/fields", self._add_fields)
        app.router.add_get("/crm/v8/{module}/search", self._search)
        app.router.add_post("/crm/v8/{module}", self._insert)
        app.router.add_put("/crm/v8/{module}", self._update)

    def settings(self) -> dict[str, Any]:
        """Return the settings for the self client, with this server as that of the tokens."""
        return {
            "preset": "zoho",
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
            "refresh_token": REFRESH_TOKEN,
            "tables": {"accounts": {"com": self.base_url}, "api": {"com": self.base_url}},
        }

    def control(self, change: Mapping[str, Any]) -> None:
        """Know `unique`, `fields`, `scopes` and `concurrency` besides the common changes."""
        own: dict[str, Callable[[Any], None]] = {
            "unique": lambda value: setattr(self, "unique", bool(value)),
            "fields": lambda value: setattr(self, "fields", set(value)),
            "scopes": lambda value: setattr(self, "scopes", set(value)),
            "concurrency": lambda value: setattr(self, "concurrency", int(value)),
        }
        for name in change.keys() & own.keys():
            own[name](change[name])
        super().control({name: value for name, value in change.items() if name not in own})

    def new_id(self) -> str:
        """Return an id of 19 digits, as Zoho's are."""
        return f"572576700000{int(super().new_id()):07}"

    def unknown_route(self, status: int) -> web.Response:
        """Answer as to an unknown address, or method."""
        if status == 405:
            said = error("INVALID_REQUEST_METHOD", "The http request method type is not a valid one")
            return web.json_response(said, status=400)
        said = error("INVALID_URL_PATTERN", "Please check if the URL trying to access is a correct one")
        return web.json_response(said, status=404)

    def too_many(self, window: str, wait: float) -> web.Response:
        """Answer 429; the number of seconds is in the body (example `response-429` of the description)."""
        said = error("TOO_MANY_REQUESTS", f"{window} limit exceeded", retry_after=max(1, math.ceil(wait)))
        return web.json_response(said, status=429)

    def counts_in(self, request: web.Request) -> Mapping[str, int]:
        """Return one credit; writing is counted by the number of records, and tokens are free."""
        is_write = request.method in {"POST", "PUT"} and request.path.startswith("/crm/v8/Calls")
        return {} if is_write or request.path.startswith("/oauth/") else {"daily": 1}

    def headers(self, request: web.Request) -> Mapping[str, str]:  # noqa: ARG002 - the same for each
        """Return the credits that are left."""
        window = self.windows.get("daily")
        return {} if window is None else {"X-API-CREDITS-REMAINING": str(window.remaining)}

    # The token server: it answers 200 to what it refuses ("Token Validity"; help.zoho.com, Kaizen 43).

    async def _token(self, request: web.Request) -> web.Response:
        form = await request.post()
        if not self.token_requests.admit():
            return web.json_response(
                {
                    "error": "Access Denied",
                    "error_description": "You have made too many requests continuously. Please try again "
                    "after some time.",
                    "status": "failure",
                }
            )
        refusal, scopes = self._grant({name: str(value) for name, value in form.items()})
        if refusal:
            return web.json_response({"error": refusal})
        token = f"1000.{self.issue_token()}"
        self.tokens[token] = self.tokens.pop(token.removeprefix("1000."))
        self.granted[token] = scopes
        for oldest in list(self.tokens)[:-_ACTIVE_TOKENS]:
            del self.tokens[oldest]
        return web.json_response(
            {
                "access_token": token,
                "api_domain": self.base_url,
                "token_type": "Bearer",
                "expires_in": round(self.token_life),
            }
        )

    def _grant(self, form: Mapping[str, str]) -> tuple[str | None, set[str]]:
        """Return why a token is refused, and what it may do."""
        if form.get("client_id") != CLIENT_ID:
            return "invalid_client", set()
        if form.get("client_secret") != CLIENT_SECRET:
            return "invalid_client_secret", set()
        match form.get("grant_type"):
            case "refresh_token":
                known = form.get("refresh_token") == REFRESH_TOKEN
                return (None if known else "invalid_code"), set(self.scopes)
            case "client_credentials":
                scopes = set(form.get("scope", "").split(","))
                if not scopes <= ALL_SCOPES:
                    return "invalid_scope", set()
                # "Self Client - Client credentials flow": without it, this error.
                known = form.get("soid") == f"ZohoCRM.{ORGANIZATION}"
                return (None if known else "missing_org_info"), scopes
            case _:
                return "unsupported_grant_type", set()

    # What is the same for all requests.

    def _admit(self, request: web.Request, *scopes: str) -> None:
        if self.concurrent > self.concurrency:
            raise Refused(self.too_many("concurrency", 1))
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        if kind != "Zoho-oauthtoken" or not token:
            said = error("AUTHENTICATION_FAILURE", "Authentication failed")
            raise Refused(web.json_response(said, status=401))
        if not self.is_good(token):
            raise Refused(web.json_response(error("INVALID_TOKEN", "invalid oauth token"), status=401))
        if not set(scopes) <= self.granted.get(token, set()):
            raise Refused(web.json_response(error("OAUTH_SCOPE_MISMATCH", "Unauthorized"), status=401))

    def _spend(self, records: int) -> None:
        window = self.windows.get("daily")
        if window is not None and not window.admit(-(-records // _CREDIT_RECORDS)):
            raise Refused(self.too_many("daily", window.wait))

    # Reading: 204 without a body if there is nothing ("Search Records", "Query API").

    async def _search(self, request: web.Request) -> web.Response:
        self._admit(request, "ZohoCRM.modules.ALL", "ZohoSearch.securesearch.READ")
        module = request.match_info["module"]
        if module not in {"Contacts", "Leads"}:
            raise Refused(_bad("INVALID_MODULE", "The module name given seems to be invalid"))
        phone = request.query.get("phone")
        if not phone:
            raise Refused(_bad("REQUIRED_PARAM_MISSING", "One of the expected parameter is missing"))
        found = [
            {"id": each, **record}
            for each, record in self.records[module].items()
            if any(_same_number(record.get(name), phone) for name in _PHONES[module])
            and not (request.query.get("converted") == "false" and record.get("Converted__s"))
        ]
        return _found(found, request.query.get("fields"), int(request.query.get("per_page", "200")))

    async def _query(self, request: web.Request) -> web.Response:
        self._admit(request, "ZohoCRM.modules.ALL", "ZohoCRM.coql.READ")
        with self._querying():
            text = str((await _body(request)).get("select_query", ""))
            # Only what a look-up by one field needs; the language has more.
            parsed = re.fullmatch(
                r"select ([\w, ]+) from (\w+) where (\w+) = '((?:[^'\\]|\\.)*)'(?: limit (\d+))?", text
            )
            if parsed is None:
                raise Refused(_bad("SYNTAX_ERROR", "error occured while parsing the query"))
            columns, module, field, value, limit = parsed.groups()
            names = [each.strip() for each in columns.split(",")]
            known = {"id", *FIELDS, *self.fields} - {"$se_module"}
            if module != "Calls":
                raise Refused(_bad("INVALID_QUERY", "module given seems to be invalid", module=module))
            for name in (*names, field):
                if name not in known:
                    said = "column given seems to be invalid"
                    raise Refused(_bad("INVALID_QUERY", said, column_name=name))
            wanted = re.sub(r"\\(.)", r"\1", value)
            calls = self.records["Calls"]
            found = [{"id": each, **calls[each]} for each in self.find("Calls", **{field: wanted})]
            return _found(found, ",".join(names), int(limit or "200"))

    @contextmanager
    def _querying(self) -> Iterator[None]:
        if self._queries >= _MAX_QUERIES:
            raise Refused(self.too_many("concurrency", 1))
        self._queries += 1
        try:
            yield
        finally:
            self._queries -= 1

    async def _users(self, request: web.Request) -> web.Response:
        self._admit(request, "ZohoCRM.users.READ")
        users = [{"id": each, **user} for each, user in self.records["users"].items()]
        if request.query.get("type") == "ActiveUsers":
            users = [user for user in users if user.get("status", "active") == "active"]
        return web.json_response({"users": users}) if users else web.Response(status=204)

    # Fields ("Custom Fields"). The API name is the label with underscores.

    async def _list_fields(self, request: web.Request) -> web.Response:
        self._admit(request, "ZohoCRM.settings.fields.ALL")
        _calls_only(request.query.get("module"))
        names = [*(name for name in FIELDS if not name.startswith("$")), *sorted(self.fields)]
        unique = {"casesensitive": ""} if self.unique else {}
        return web.json_response(
            {
                "fields": [
                    {
                        "api_name": name,
                        "custom_field": name in self.fields,
                        "unique": unique if name in self.fields else {},
                    }
                    for name in names
                ]
            }
        )

    async def _add_fields(self, request: web.Request) -> web.Response:
        self._admit(request, "ZohoCRM.settings.fields.ALL")
        _calls_only(request.query.get("module"))
        results = []
        for each in (await _body(request)).get("fields", []):
            name = str(each.get("field_label", "")).replace(" ", "_")
            if not name or each.get("data_type") not in {"text", "integer", "picklist"}:
                results.append(error("MANDATORY_NOT_FOUND", "required field not found", api_name="data_type"))
            elif name in self.fields or name in FIELDS:
                results.append(error("DUPLICATE_DATA", "duplicate data", api_name="field_label"))
            else:
                self.fields.add(name)
                results.append(_success(self.new_id(), "field created"))
        return _results("fields", results, 201)

    # Writing: each record has a status of its own; 207 if they differ (examples of the description).

    async def _insert(self, request: web.Request) -> web.Response:
        self._admit(request, "ZohoCRM.modules.ALL")
        results = []
        for place, record in enumerate(await self._records(request)):
            try:
                self._check(record)
                self._check_unique(record)
                results.append(_success(self.make("Calls", record), "record added"))
            except Wrong as wrong:
                results.append(_at(wrong, place))
        return _results("data", results, 201)

    async def _update(self, request: web.Request) -> web.Response:
        self._admit(request, "ZohoCRM.modules.ALL")
        results = []
        for place, record in enumerate(await self._records(request)):
            try:
                record_id = self._existing(record)
                changed = {name: value for name, value in record.items() if name != "id"}
                self._check(changed, whole=False)
                self.change("Calls", record_id, changed)
                results.append(_success(record_id, "record updated"))
            except Wrong as wrong:
                results.append(_at(wrong, place))
        return _results("data", results, 200)

    async def _records(self, request: web.Request) -> list[Any]:
        _calls_only(request.match_info["module"])
        body = await _body(request)
        data, trigger = body.get("data"), body.get("trigger", [])
        if not isinstance(data, list) or not data:
            raise Refused(_bad("MANDATORY_NOT_FOUND", "required field not found", api_name="data"))
        if len(data) > _MAX_RECORDS:
            raise Refused(_bad("LIMIT_EXCEEDED", "Record insertion limit has been exceeded."))
        if not isinstance(trigger, list) or not _TRIGGERS.issuperset(trigger):
            raise Refused(_bad("INVALID_DATA", "invalid data", api_name="trigger"))
        self._spend(len(data))
        return data

    def _existing(self, record: object) -> str:
        if not isinstance(record, dict) or not isinstance(record.get("id"), str):
            raise Wrong("MANDATORY_NOT_FOUND", "required field not found", "id")
        if record["id"] not in self.records["Calls"]:
            raise Wrong("INVALID_DATA", "the id given seems to be invalid", "id")
        if record["id"] in self.locked:
            said = "Sorry, you cannot perform this operation as the record is locked."
            raise Wrong("RECORD_LOCKED", said, "id", action="record_locking")
        return str(record["id"])

    def _check(self, record: object, *, whole: bool = True) -> None:
        if not isinstance(record, dict):
            raise Wrong("INVALID_DATA", "invalid data", "data", expected_data_type="jsonobject")
        required = ["Subject", "Call_Type", "Call_Start_Time"] if whole else []
        if whole and record.get("Call_Type") != "Missed":
            required.append("Call_Duration")
        for name in required:
            if record.get(name) in (None, ""):
                raise Wrong("MANDATORY_NOT_FOUND", "required field not found", name)
        for name, value in record.items():
            check = check_text(255) if name in self.fields else FIELDS.get(name)
            if check is None:
                raise Wrong("INVALID_DATA", "the field api name given seems to be invalid", name)
            try:
                check(value)
            except ValueError as expected:
                what = expected.args[0]
                expectation = {"maximum_length" if isinstance(what, int) else "expected_data_type": what}
                raise Wrong("INVALID_DATA", "invalid data", name, **expectation) from expected
        if "Outgoing_Call_Status" in record and record.get("Call_Type", "Outbound") != "Outbound":
            raise Wrong("INVALID_DATA", "invalid data", "Outgoing_Call_Status")
        self._check_lookups(record)

    def _check_lookups(self, record: Mapping[str, Any]) -> None:
        if "What_Id" in record and "$se_module" not in record:
            said = "The field '$se_module' is required when 'What_Id' is provided"
            raise Wrong("DEPENDENT_FIELD_MISSING", said, "$se_module", dependee={"api_name": "What_Id"})
        modules = {"Who_Id": "Contacts", "What_Id": record.get("$se_module", ""), "Owner": "users"}
        for name, module in modules.items():
            if name in record and record[name]["id"] not in self.records[module]:
                raise Wrong("INVALID_DATA", "the id given seems to be invalid", name)

    def _check_unique(self, record: Mapping[str, Any]) -> None:
        key = record.get(KEY)
        found = self.find("Calls", **{KEY: key}) if self.unique and key is not None else []
        if found:
            known = {"duplicate_record": {"id": found[0]}, "id": found[0], "more_records": False}
            raise Wrong("DUPLICATE_DATA", "duplicate data", KEY, **known)


def _same_number(stored: object, wanted: str) -> bool:
    digits, asked = re.sub(r"\D", "", str(stored or "")), re.sub(r"\D", "", wanted)
    return bool(asked) and digits.endswith(asked)


def _calls_only(module: str | None) -> None:
    if module != "Calls":
        raise Refused(_bad("INVALID_MODULE", "The module name given seems to be invalid"))


def _bad(code: str, message: str, **details: object) -> web.Response:
    return web.json_response(error(code, message, **details), status=400)


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        return json_object(await request.read())
    except (ValueError, json.JSONDecodeError) as wrong:
        raise Refused(_bad("INVALID_DATA", "body", expected_data_type="jsonobject")) from wrong


def _found(found: list[dict[str, Any]], fields: str | None, limit: int) -> web.Response:
    if not found:
        return web.Response(status=204)
    names = {"id", *(fields or "").split(",")} if fields else None
    data = [{k: v for k, v in each.items() if names is None or k in names} for each in found[:limit]]
    info = {"count": len(data), "more_records": len(found) > limit}
    return web.json_response({"data": data, "info": info})


def _success(record_id: str, message: str) -> dict[str, Any]:
    return {"code": "SUCCESS", "details": {"id": record_id}, "message": message, "status": "success"}


def _at(wrong: Wrong, place: int) -> dict[str, Any]:
    details = wrong.error["details"]
    return wrong.error | {"details": details | {"json_path": f"$.data[{place}].{details['api_name']}"}}


def _results(name: str, results: list[dict[str, Any]], status: int) -> web.Response:
    good = sum(each["status"] == "success" for each in results)
    status = status if good == len(results) else 207 if good else 400
    return web.json_response({name: results}, status=status)


STAND_IN = ZohoStandIn
