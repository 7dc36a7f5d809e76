"""A Salesforce org: tasks, contacts, leads and users, by the REST API.

Sources: "REST API Developer Guide" (status codes and error responses, upsert by external id, sObject
Collections, Search, Query, Limits), "Object Reference" (Task) and "OAuth 2.0 Client Credentials Flow" on
developer.salesforce.com and help.salesforce.com; simple-salesforce for the shapes of answers.

`TaskSubtype` has not the property Update, so it can be set on creation only (article 003876152 of the help).

Not confirmed on a real org: 200 or 204 for an update by upsert (`updated_status` chooses); the code by which
an update refuses `TaskSubtype`; whether one bad field refuses a collection as a whole, here a field that does
not exist does, as does a value of the wrong JSON type; the code for a collection of more than 200.
"""

import base64
import binascii
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

from aiohttp import web

from simulators.crms.base import CrmStandIn, Refused, json_object
from simulators.crms.salesforce_queries import BadQuery, Selection, parse_query, parse_search

CLIENT_ID: Final = "3MVG9-stand-in"
CLIENT_SECRET: Final = "stand-in-secret"  # noqa: S105 - opens nothing
KEY: Final = "CrmSync_Call_Id__c"

_PREFIXES: Final = {"Task": "00T", "Contact": "003", "Lead": "00Q", "User": "005", "Account": "001"}
_ID = re.compile(r"[A-Za-z0-9]{15}(?:[A-Za-z0-9]{3})?")
_MAX_COLLECTION = 200
_SESSION = 7200.0  # the default timeout of a session: help page "Modify Session Security Settings"


@dataclass(frozen=True, slots=True)
class Field:
    """What Salesforce knows of one field; a `picklist` is a restricted one."""

    type: str = "string"
    length: int = 255
    options: tuple[str, ...] = ()
    refers_to: tuple[str, ...] = ()
    create: bool = True
    update: bool = True
    external: bool = False


def _task_fields() -> dict[str, Field]:
    """Return the fields of Task, from the Object Reference; Subject is a combobox, so no restricted list."""
    statuses = ("Not Started", "In Progress", "Completed", "Waiting on someone else", "Deferred")
    return {
        "Id": Field("id", create=False, update=False),
        "Subject": Field(),
        "Description": Field(length=32_000),
        "Status": Field("picklist", options=statuses),
        "Priority": Field("picklist", options=("High", "Normal", "Low")),
        "TaskSubtype": Field("picklist", options=("Task", "Call", "Email", "ListEmail"), update=False),
        "CallType": Field("picklist", options=("Internal", "Inbound", "Outbound")),
        "CallDurationInSeconds": Field("int"),
        "CallDisposition": Field(),
        "CallObject": Field(),
        "ActivityDate": Field("date"),
        "WhoId": Field("reference", refers_to=("Contact", "Lead")),
        "WhatId": Field("reference", refers_to=("Account",)),
        "OwnerId": Field("reference", refers_to=("User",)),
        "CompletedDateTime": Field("datetime", create=False, update=False),
        "IsClosed": Field("boolean", create=False, update=False),
    }


_QUERYABLE: Final = {
    "Contact": frozenset({"Id", "Name", "Phone", "MobilePhone", "Email", "AccountId", "OwnerId"}),
    "Lead": frozenset({"Id", "Name", "Phone", "MobilePhone", "Email", "IsConverted", "OwnerId"}),
    "User": frozenset(
        {"Id", "Name", "Username", "Email", "Alias", "EmployeeNumber", "FederationIdentifier", "IsActive"}
    ),
}


class ItemError(Exception):
    """One record is refused: Salesforce's code, text and fields."""

    def __init__(self, code: str, message: str, *fields: str) -> None:
        """Keep the three."""
        super().__init__(message)
        self.code = code
        self.fields = list(fields)


class SalesforceStandIn(CrmStandIn):
    """One Salesforce org with one External Client App.

    Attributes:
        fields: The fields of Task; `prepare` adds the external id, and `add_field` any other.
        updated_status: The status for an upsert that updates: 200 or 204.
        forbidden: An error code with which everything is refused as 403, or None.
        index_delay: Seconds until a search (not a query) finds a record made through the API.
        racing: Keys that another request inserts at the same time: the next upsert of each loses the race.
    """

    title = "Salesforce"

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - as the base has them
        """Prepare an org without the external id."""
        super().__init__(**options)
        self.key_fields = {"Task": KEY}
        self.token_life = _SESSION
        self.fields = _task_fields()
        self.updated_status = 200
        self.forbidden: str | None = None
        self.index_delay = 0.0
        self.racing: set[str] = set()
        self._visible_from: dict[str, float] = {}
        self.limit("daily", 15_000)

    def route(self, app: web.Application) -> None:
        """Add the routes."""
        data = r"/services/data/{version:v\d\d\.0}"
        app.router.add_post("/services/oauth2/token", self._token)
        app.router.add_patch(f"{data}/sobjects/Task/{{field}}/{{value}}", self._upsert)
        app.router.add_patch(f"{data}/composite/sobjects/Task/{{field}}", self._upsert_many)
        app.router.add_post(f"{data}/sobjects/{{kind}}", self._create)
        app.router.add_get(f"{data}/sobjects/Task/describe", self._describe)
        app.router.add_get(f"{data}/search{{end:/?}}", self._search)
        app.router.add_get(f"{data}/query{{end:/?}}", self._query)
        app.router.add_get(f"{data}/limits{{end:/?}}", self._limits)

    def settings(self) -> dict[str, Any]:
        """Return the settings for the only app."""
        app = {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
        return {"preset": "salesforce", "url": self.url, **app}

    def prepare(self, name: str = KEY) -> None:
        """Add the external id: a unique text field on activities, which `describe` shows on Task."""
        self.add_field(name, Field(length=64, external=True))

    def add_field(self, name: str, field: Field) -> None:
        """Add a custom field to Task."""
        self.fields[name] = field

    def control(self, change: Mapping[str, Any]) -> None:
        """Know `prepared` and the attributes but `fields` besides the common changes."""
        own: dict[str, Callable[[Any], None]] = {
            "prepared": lambda _: self.prepare(),
            "updated_status": lambda value: setattr(self, "updated_status", int(value)),
            "forbidden": lambda value: setattr(self, "forbidden", value),
            "index_delay": lambda value: setattr(self, "index_delay", float(value)),
            "racing": lambda value: setattr(self, "racing", set(value)),
        }
        for name in change.keys() & own.keys():
            own[name](change[name])
        super().control({name: value for name, value in change.items() if name not in own})

    def seed(self, kind: str, fields: Mapping[str, Any]) -> str:
        """Make a record that was there before; its id gets the prefix of its type."""
        defaults: Mapping[str, Any] = {"User": {"IsActive": True}, "Lead": {"IsConverted": False}}.get(
            kind, {}
        )
        return super().seed(kind, {"id": self._id_for(kind), **defaults, **fields})

    def _id_for(self, kind: str) -> str:
        return f"{_PREFIXES[kind]}{int(self.new_id()):015d}"

    # What is the same for all requests.

    def counts_in(self, request: web.Request) -> Mapping[str, int]:
        """Return what counts: every request but those for a token."""
        return {} if request.path.startswith("/services/oauth2/") else {"daily": 1}

    def headers(self, request: web.Request) -> Mapping[str, str]:
        """Return what of the day's requests is used ("Sforce-Limit-Info header")."""
        daily = self.windows.get("daily")
        if daily is None or not request.path.startswith("/services/data/"):
            return {}
        return {"Sforce-Limit-Info": f"api-usage={daily.used}/{daily.limit}"}

    def too_many(self, window: str, wait: float) -> web.Response:  # noqa: ARG002 - Salesforce does not say it
        """Return 403, without a `Retry-After`."""
        return _errors(403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.")

    def unknown_route(self, status: int) -> web.Response:
        """Return Salesforce's words for a path or method that it does not have."""
        if status == 405:
            return _errors(405, "METHOD_NOT_ALLOWED", "HTTP Method not allowed.")
        return _errors(404, "NOT_FOUND", "The requested resource does not exist")

    def _admit(self, request: web.Request) -> None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer" or not self.is_good(token):
            raise Refused(_errors(401, "INVALID_SESSION_ID", "Session expired or invalid"))
        if self.forbidden is not None:
            raise Refused(_errors(403, self.forbidden, "Refused by this org's settings"))

    async def _token(self, request: web.Request) -> web.Response:
        form = await request.post()
        if form.get("grant_type") != "client_credentials":
            return _token_error("unsupported_grant_type", "grant type not supported")
        client, secret = form.get("client_id"), form.get("client_secret")
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme == "Basic":
            try:
                client, _, secret = base64.b64decode(given, validate=True).decode().partition(":")
            except (binascii.Error, UnicodeDecodeError):
                return _token_error("invalid_request", "malformed Authorization header")
        if client != CLIENT_ID:
            return _token_error("invalid_client_id", "client identifier invalid")
        if secret != CLIENT_SECRET:
            return _token_error("invalid_client", "invalid client credentials")
        answer = {"access_token": self.issue_token(), "instance_url": self.base_url, "token_type": "Bearer"}
        return web.json_response(answer | {"scope": "api", "issued_at": str(int(time.time() * 1000))})

    # Tasks.

    async def _create(self, request: web.Request) -> web.Response:
        self._admit(request)
        kind = request.match_info["kind"]
        if kind not in {"Task", "Contact", "Lead"}:
            raise Refused(_errors(404, "NOT_FOUND", "The requested resource does not exist"))
        given = _object(await request.read())
        if kind == "Task":
            self._check_names(given)
            try:
                self._check_values(given, is_new=True)
            except ItemError as error:
                raise Refused(_item_refusal(error)) from error
        record_id = self._write_new(kind, given)
        return web.json_response({"id": record_id, "success": True, "errors": []}, status=201)

    async def _upsert(self, request: web.Request) -> web.Response:
        self._admit(request)
        name = self._external(request)
        given = _object(await request.read())
        if name in given:
            say = f"The {name} field should not be specified in the sobject data."
            raise Refused(_errors(400, "INVALID_FIELD", say, name))
        self._check_names(given)
        try:
            record_id, created = self._write(name, request.match_info["value"], given)
        except ItemError as error:
            raise Refused(_item_refusal(error)) from error
        if not created and self.updated_status == 204:
            return web.Response(status=204)
        answer = {"id": record_id, "success": True, "errors": [], "created": created}
        return web.json_response(answer, status=201 if created else 200)

    async def _upsert_many(self, request: web.Request) -> web.Response:
        self._admit(request)
        name = self._external(request)
        body = _object(await request.read())
        records = body.get("records")
        if body.keys() - {"allOrNone", "records"} or not isinstance(records, list) or not records:
            raise Refused(_errors(400, "JSON_PARSER_ERROR", "expected allOrNone and records"))
        if body.get("allOrNone"):
            raise Refused(_errors(400, "INVALID_INPUT", "this stand-in does not roll back"))
        if len(records) > _MAX_COLLECTION:
            say = f"record limit reached: at most {_MAX_COLLECTION}"
            raise Refused(_errors(400, "NUMBER_OUTSIDE_VALID_RANGE", say))
        for each in records:
            if not isinstance(each, dict) or each.get("attributes") != {"type": "Task"}:
                raise Refused(_errors(400, "INVALID_INPUT", "each record needs attributes with a type"))
            self._check_names({field: value for field, value in each.items() if field != "attributes"})
        return web.json_response([self._upserted_one(name, each, records) for each in records])

    def _upserted_one(self, name: str, given: Mapping[str, Any], records: list[Any]) -> dict[str, Any]:
        key = str(given.get(name) or "")
        fields = {field: value for field, value in given.items() if field not in {"attributes", name}}
        try:
            _check_key(name, key, records)
            record_id, created = self._write(name, key, fields)
        except ItemError as error:
            said = {"statusCode": error.code, "message": str(error), "fields": error.fields}
            return {"success": False, "errors": [said]}
        return {"id": record_id, "success": True, "errors": [], "created": created}

    def _external(self, request: web.Request) -> str:
        name = request.match_info["field"]
        known = self.fields.get(name)
        if known is None or not known.external:
            say = f"Provided external ID field does not exist or is not accessible: {name}"
            raise Refused(_errors(404, "NOT_FOUND", say))
        return name

    def _check_names(self, given: Mapping[str, Any]) -> None:
        """Refuse the whole request for a field or a JSON type that the parser does not know."""
        for name, value in given.items():
            known = self.fields.get(name)
            if known is None:
                say = f"No such column '{name}' on sobject of type Task"
                raise Refused(_errors(400, "INVALID_FIELD", say))
            if value is None:
                continue
            expected = int if known.type == "int" else str
            good = isinstance(value, expected) and not isinstance(value, bool)
            if not good or (known.type == "date" and not _is_date(value)):
                say = f"Cannot deserialize instance of {known.type} from value {value!r}"
                raise Refused(_errors(400, "JSON_PARSER_ERROR", say, name))

    def _check_values(self, given: Mapping[str, Any], *, is_new: bool) -> None:
        for name, value in given.items():
            known = self.fields[name]
            if not (known.create if is_new else known.update):
                say = f"Unable to create/update fields: {name}. Please check the security settings"
                raise ItemError("INVALID_FIELD_FOR_INSERT_UPDATE", say, name)
            if known.type == "string" and len(value or "") > known.length:
                say = f"{name}: data value too large: {value[:40]} (max length={known.length})"
                raise ItemError("STRING_TOO_LONG", say, name)
            if known.type == "picklist" and value is not None and value not in known.options:
                say = f"{name}: bad value for restricted picklist field: {value}"
                raise ItemError("INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST", say, name)
            if known.type == "reference" and value is not None:
                self._check_reference(name, value, known)

    def _check_reference(self, name: str, value: str, known: Field) -> None:
        if _ID.fullmatch(value) is None or value[:3] not in {_PREFIXES[kind] for kind in known.refers_to}:
            raise ItemError("MALFORMED_ID", f"{name}: id value of incorrect type: {value}", name)
        found = next(
            (self.records[kind][value] for kind in known.refers_to if value in self.records[kind]), None
        )
        if found is None:
            raise ItemError("INVALID_CROSS_REFERENCE_KEY", "invalid cross reference id", name)
        if found.get("IsActive") is False:
            raise ItemError("INACTIVE_OWNER_OR_USER", "operation performed with inactive user", name)
        if value in self.locked:
            say = f"unable to obtain exclusive access to this record or 1 records: {value}"
            raise ItemError("UNABLE_TO_LOCK_ROW", say)

    def _write(self, name: str, key: str, given: Mapping[str, Any]) -> tuple[str, bool]:
        existing = self.find("Task", **{name: key})
        if len(key) > self.fields[name].length:
            raise ItemError("STRING_TOO_LONG", f"{name}: data value too large: {key[:40]}", name)
        self._check_values(given, is_new=not existing)
        if key in self.racing:
            self.racing.remove(key)
            winner = existing[0] if existing else self._write_new("Task", {**given, name: key})
            say = f"duplicate value found: {name} duplicates value on record with id: {winner}"
            raise ItemError("DUPLICATE_VALUE", say)
        if existing and existing[0] in self.locked:
            say = f"unable to obtain exclusive access to this record or 1 records: {existing[0]}"
            raise ItemError("UNABLE_TO_LOCK_ROW", say)
        if existing:
            self.change("Task", existing[0], given)
            return existing[0], False
        return self._write_new("Task", {**given, name: key}), True

    def _write_new(self, kind: str, given: Mapping[str, Any]) -> str:
        defaults: dict[str, Mapping[str, Any]]
        defaults = {"Task": {"Status": "Not Started", "Priority": "Normal"}, "Lead": {"IsConverted": False}}
        record_id = self.make(kind, {**defaults.get(kind, {}), **given}, self._id_for(kind))
        self._visible_from[record_id] = self.clock() + self.index_delay
        return record_id

    async def _describe(self, request: web.Request) -> web.Response:
        self._admit(request)
        fields = [
            {
                "name": name,
                "type": known.type,
                "length": known.length,
                "externalId": known.external,
                "unique": known.external,
                "createable": known.create,
                "updateable": known.update,
                "picklistValues": [{"value": each, "active": True} for each in known.options],
            }
            for name, known in self.fields.items()
        ]
        return web.json_response({"name": "Task", "createable": True, "fields": fields})

    # Search, query, limits.

    async def _search(self, request: web.Request) -> web.Response:
        self._admit(request)
        try:
            search = parse_search(request.query.get("q", ""), _QUERYABLE)
        except BadQuery as error:
            raise Refused(_errors(400, error.code, str(error))) from error
        found = [
            each
            for selection in search.returning
            for each in self._selected(selection, request.match_info["version"])
            if search.fits(self.records[selection.kind][each["Id"]])
            and self._visible_from.get(each["Id"], 0.0) <= self.clock()
        ]
        return web.json_response({"searchRecords": found[: search.limit]})

    async def _query(self, request: web.Request) -> web.Response:
        self._admit(request)
        try:
            query = parse_query(request.query.get("q", ""), _QUERYABLE)
        except BadQuery as error:
            raise Refused(_errors(400, error.code, str(error))) from error
        found = self._selected(query.selection, request.match_info["version"])[: query.limit]
        return web.json_response({"totalSize": len(found), "done": True, "records": found})

    def _selected(self, selection: Selection, version: str) -> list[dict[str, Any]]:
        kind = selection.kind
        address = f"/services/data/{version}/sobjects/{kind}"
        return [
            {
                "attributes": {"type": kind, "url": f"{address}/{record_id}"},
                "Id": record_id,
                **{name: record.get(name) for name in selection.fields if name != "Id"},
            }
            for record_id, record in self.records[kind].items()
            if selection.test({**record, "Id": record_id})
        ]

    async def _limits(self, request: web.Request) -> web.Response:
        self._admit(request)
        daily = self.windows.get("daily")
        known = {} if daily is None else {"Max": daily.limit, "Remaining": daily.remaining}
        return web.json_response({"DailyApiRequests": known})


STAND_IN: Final = SalesforceStandIn


def _check_key(name: str, key: object, records: list[Any]) -> None:
    if not key:
        raise ItemError("MISSING_ARGUMENT", f"{name} not specified")
    if sum(each.get(name) == key for each in records) > 1:
        raise ItemError("DUPLICATE_VALUE", f"Duplicate external id specified: {key}", name)


def _errors(status: int, code: str, message: str, *fields: str) -> web.Response:
    error: dict[str, Any] = {"message": message, "errorCode": code} | (
        {"fields": list(fields)} if fields else {}
    )
    return web.json_response([error], status=status)


def _item_refusal(error: ItemError) -> web.Response:
    """Return 400, which a locked row has too ("Status Codes and Error Responses")."""
    return _errors(400, error.code, str(error), *error.fields)


def _token_error(error: str, description: str) -> web.Response:
    return web.json_response({"error": error, "error_description": description}, status=400)


def _object(body: bytes) -> dict[str, Any]:
    try:
        return json_object(body)
    except ValueError as error:
        raise Refused(_errors(400, "JSON_PARSER_ERROR", str(error))) from error


def _is_date(value: str) -> bool:
    try:
        return date.fromisoformat(value).isoformat() == value
    except ValueError:
        return False
