"""Dynamics 365: phone calls, contacts, leads and users of the Dataverse Web API, and the login of Entra ID.

The rules, with their sources (learn.microsoft.com, repository MicrosoftDocs/powerapps-docs):

- `PATCH phonecalls(guid)` makes or changes a record; `If-None-Match: *` only makes (412 if it is there),
  `If-Match: *` only changes (404 if it is not): use-upsert-insert-update-record.md.
- Status codes and the form of errors: webapi/compose-http-requests-handle-errors.md. The codes and texts
  0x80040217, 0x80040237, 0x80044331, 0x80048408: reference/web-service-error-codes.
- Fields, lengths, and that `statecode` is not valid in a create, and which `statuscode` belongs to which
  state: reference/entities/phonecall.
- Limits per user (6,000 requests in 300 s, 52 at once), 429 with `Retry-After`: api-limits.md.
- Logins by client credentials, and AADSTS errors: entra/identity-platform/v2-oauth2-client-creds-grant-flow.

Not confirmed on a real account: how a completed phone call refuses a change (the reference says "read-only
and can't be edited"; the text here is the one that integrators report), the code and text for an undeclared
property, that `statecode` in a create is ignored rather than refused, and that an update replaces the
activity parties (reported in MicrosoftDocs/dynamics-365-customer-engagement, issue 2671).
"""

import json
import re
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, ClassVar, Final

from aiohttp import web
from typing_extensions import override

from simulators.crms.base import CrmStandIn, Refused

TENANT: Final = "11111111-2222-3333-4444-555555555555"
CLIENT_ID: Final = "66666666-7777-8888-9999-000000000000"
CLIENT_SECRET: Final = "a client secret of the stand-in"  # noqa: S105 - of no real account

_API = "/api/data/v9.2"
_MOST_AT_ONCE = 52
_LARGEST_INTEGER = 2_147_483_647
_GUID = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_TEXTS: Final = {"subject": 200, "description": 2000, "phonenumber": 200, "category": 250, "subcategory": 250}
_INTEGERS = frozenset({"actualdurationminutes"})
_BOOLEANS = frozenset({"directioncode", "leftvoicemail"})
_TIMES = frozenset({"actualstart", "actualend", "scheduledstart", "scheduledend"})
_STATES: Final = {0: (1,), 1: (2, 4), 2: (3,)}
"""State → its status reasons, the default first: open; completed (made, received); canceled."""
_BINDS: Final = {
    "ownerid@odata.bind": ("systemusers",),
    "regardingobjectid_contact_phonecall@odata.bind": ("contacts",),
    "regardingobjectid_lead_phonecall@odata.bind": ("leads",),
}
_PARTIES: Final = {
    "partyid_contact@odata.bind": ("contacts",),
    "partyid_lead@odata.bind": ("leads",),
    "partyid_systemuser@odata.bind": ("systemusers",),
}
_ROLES = frozenset({1, 2, 8, 9})
"""Of a party in a phone call: from, to, regarding, owner."""
_COLUMNS: Final = {
    "contacts": {"contactid", "fullname", "telephone1", "telephone2", "mobilephone", "_ownerid_value"},
    "leads": {"leadid", "fullname", "telephone1", "telephone2", "mobilephone", "_ownerid_value", "statecode"},
    "systemusers": {"systemuserid", "employeeid", "domainname", "internalemailaddress", "isdisabled"},
    "phonecalls": {"activityid", "statecode", "statuscode", *_TEXTS, *_INTEGERS, *_BOOLEANS, *_TIMES},
}
_KEYS: Final = {
    "contacts": "contactid",
    "leads": "leadid",
    "systemusers": "systemuserid",
    "phonecalls": "activityid",
}


class DynamicsStandIn(CrmStandIn):
    """Dynamics 365 on loopback. Records of `contacts`, `leads` and `systemusers` are to be seeded.

    `read_only` holds the ids of users who lack the privilege to own a phone call; `completed_read_only` is
    whether a completed phone call refuses changes.
    """

    title: ClassVar[str] = "Dynamics 365"
    rate_seconds: ClassVar[float] = 300.0

    @override
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.key_fields = {"phonecalls": "activityid"}
        self.token_life = 3599.0
        self.read_only: set[str] = set()
        self.completed_read_only = True
        self.limit("rate", 6000)

    @override
    def settings(self) -> dict[str, Any]:
        return {
            "preset": "dynamics",
            "url": self.base_url,
            "authority": self.base_url,
            "tenant": TENANT,
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
        }

    @override
    def seed(self, kind: str, fields: Mapping[str, Any]) -> str:
        made = super().seed(kind, {"id": str(uuid.uuid4())} | dict(fields))
        self.records[kind][made].setdefault(_KEYS[kind], made)
        return made

    @override
    def route(self, app: web.Application) -> None:
        app.router.add_post("/{tenant}/oauth2/v2.0/token", self._log_in)
        app.router.add_get(f"{_API}/WhoAmI", self._authorized(self._who_am_i))
        app.router.add_get(
            f"{_API}/{{kind:contacts|leads|systemusers|phonecalls}}", self._authorized(self._query)
        )
        one = f"{_API}/phonecalls({{id:[^)]*}})"
        app.router.add_get(one, self._authorized(self._retrieve))
        app.router.add_patch(one, self._authorized(self._patch))

    @override
    def too_many(self, window: str, wait: float) -> web.Response:
        text = "Number of requests exceeded the limit of 6000 over time window of 300 seconds."
        return _error(429, "0x80072322", text, {"Retry-After": str(int(wait) + 1)})

    @override
    def counts_in(self, request: web.Request) -> Mapping[str, int]:
        return {"rate": 1} if request.path.startswith(_API) else {}

    @override
    def unknown_route(self, status: int) -> web.Response:
        return _error(status, "0x8006088a", "Resource not found for the segment.")

    @override
    def headers(self, request: web.Request) -> Mapping[str, str]:
        if not request.path.startswith(_API):
            return {}
        remaining = str(self.windows["rate"].remaining) if "rate" in self.windows else "6000"
        return {"OData-Version": "4.0", "x-ms-ratelimit-burst-remaining-xrm-requests": remaining}

    def _authorized(self, handler: Callable[[web.Request, Any], web.Response]) -> Any:  # noqa: ANN401
        async def serve(request: web.Request) -> web.Response:
            kind, _, token = request.headers.get("Authorization", "").partition(" ")
            if kind != "Bearer" or not self.is_good(token):
                challenge = f'Bearer authorization_uri={self.base_url}/{TENANT}, error="invalid_token"'
                return web.Response(status=401, headers={"WWW-Authenticate": challenge})
            if self.concurrent > _MOST_AT_ONCE:
                text = f"Number of concurrent requests exceeded the limit of {_MOST_AT_ONCE}."
                return _error(429, "0x80072326", text, {"Retry-After": "1"})
            return handler(request, await _json(request))

        return serve

    # The login.

    async def _log_in(self, request: web.Request) -> web.Response:
        form = await request.post()
        if request.match_info["tenant"] != TENANT:
            return _aadsts(400, "invalid_request", "AADSTS90002: Tenant not found.")
        if form.get("grant_type") != "client_credentials":
            return _aadsts(400, "unsupported_grant_type", "AADSTS70003: The grant type is not supported.")
        if form.get("scope") != f"{self.base_url}/.default":
            return _aadsts(400, "invalid_scope", "AADSTS70011: The provided value for scope is not valid.")
        if form.get("client_id") != CLIENT_ID:
            return _aadsts(400, "unauthorized_client", "AADSTS700016: Application was not found.")
        if form.get("client_secret") != CLIENT_SECRET:
            return _aadsts(401, "invalid_client", "AADSTS7000215: Invalid client secret provided.")
        life = int(self.token_life)
        return web.json_response(
            {
                "token_type": "Bearer",
                "expires_in": life,
                "ext_expires_in": life,
                "access_token": self.issue_token(),
            }
        )

    # Reading.

    def _who_am_i(self, *_: object) -> web.Response:
        names = ("BusinessUnitId", "UserId", "OrganizationId")
        return web.json_response({name: str(uuid.uuid5(uuid.NAMESPACE_URL, name)) for name in names})

    def _query(self, request: web.Request, _: object) -> web.Response:
        kind = request.match_info["kind"]
        columns = _selected(request, kind)
        condition = _filter(request.query.get("$filter", ""), _COLUMNS[kind], kind)
        found = [record for record in self.records[kind].values() if condition(record)]
        top = request.query.get("$top", "5000")
        if not top.isdecimal() or int(top) < 1:
            raise _bad(f"Invalid value '{top}' for $top query option found.")
        return web.json_response(
            {
                "@odata.context": f"{self.base_url}{_API}/$metadata#{kind}",
                "value": [_shown(record, columns) for record in found[: int(top)]],
            }
        )

    def _retrieve(self, request: web.Request, _: object) -> web.Response:
        record_id = _guid(request)
        columns = _selected(request, "phonecalls")
        if record_id not in self.records["phonecalls"]:
            raise _not_there("phonecall", record_id)
        return web.json_response(_shown(self.records["phonecalls"][record_id], columns))

    # Writing.

    def _patch(self, request: web.Request, body: object) -> web.Response:
        record_id = _guid(request)
        if not isinstance(body, dict):
            raise _bad("The request must have a JSON object and the content type application/json.")
        there = record_id in self.records["phonecalls"]
        if there and request.headers.get("If-None-Match") == "*":
            return _error(412, "0x80040237", "A record with matching key values already exists.")
        if not there and request.headers.get("If-Match") == "*":
            raise _not_there("phonecall", record_id)
        fields = self._checked(body)
        state: dict[str, Any] = {
            name: fields.pop(name) for name in ("statecode", "statuscode") if name in fields
        }
        if there:
            self._update(record_id, fields, state)
        else:
            # IsValidForCreate of statecode is false: a new phone call is open.
            defaults = {"statecode": 0, "statuscode": 1, "directioncode": True, "leftvoicemail": False}
            self.make("phonecalls", {**defaults, **fields, "activityid": record_id}, record_id)
        entity = f"{self.base_url}{_API}/phonecalls({record_id})"
        return web.Response(status=204, headers={"OData-EntityId": entity})

    def _update(self, record_id: str, fields: dict[str, Any], state: dict[str, Any]) -> None:
        now = self.records["phonecalls"][record_id]["statecode"]
        if fields and now != 0 and self.completed_read_only:
            raise _bad("Cannot update Closed or Cancelled Activity", "0x80040203")
        if state:
            code = state.get("statecode", now)
            reason = state.get("statuscode", _STATES.get(code, (0,))[0])
            if reason not in _STATES.get(code, ()):
                text = f"{reason} is not a valid status code for state code {code} on phonecall."
                raise _bad(text, "0x80048408")
            fields = fields | {"statecode": code, "statuscode": reason}
        self.change("phonecalls", record_id, fields)

    def _checked(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the fields, of which each is declared and has a value of its type."""
        fields = dict(body)
        for name, value in body.items():
            if name in _BINDS:
                fields[name] = self._bound(name, value, _BINDS[name])
            elif name == "phonecall_activity_parties":
                fields[name] = self._parties(value)
            elif name in {"statecode", "statuscode"} and type(value) is int:
                continue
            else:
                _check(name, value)
        owner = str(fields.get("ownerid@odata.bind", ""))[-37:-1]
        if owner in self.read_only:
            text = f"Principal user (Id={owner}, type=8) is missing prvReadActivity privilege."
            raise Refused(_error(403, "0x80040220", text))
        return fields

    def _parties(self, parties: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - whatever was sent
        if not isinstance(parties, list):
            raise _bad("phonecall_activity_parties must be a collection.")
        for party in parties:
            binds = [name for name in party if name in _PARTIES]
            unknown = set(party) - set(_PARTIES) - {"participationtypemask"}
            if unknown or len(binds) != 1 or party.get("participationtypemask") not in _ROLES:
                raise _bad("An activity party must have one party and a participationtypemask.")
            self._bound(binds[0], party[binds[0]], _PARTIES[binds[0]])
        return parties

    def _bound(self, name: str, address: object, kinds: tuple[str, ...]) -> object:
        if address is None:  # which removes the reference
            return None
        found = re.fullmatch(rf"/?(\w+)\(({_GUID})\)", str(address))
        if found is None or found[1] not in kinds:
            raise _bad(f"The value of {name} is not an address of {' or '.join(kinds)}.")
        if found[2] not in self.records[found[1]]:
            raise _not_there(found[1].removesuffix("s"), found[2])
        return address


# --- requests -------------------------------------------------------------------------------------


async def _json(request: web.Request) -> Any:  # noqa: ANN401 - any JSON value
    if "application/json" not in request.content_type:
        return None
    try:
        return json.loads(await request.read())
    except ValueError:
        return None


def _guid(request: web.Request) -> str:
    written = request.match_info["id"]
    if not re.fullmatch(_GUID, written):
        raise _bad(f"Bad Request - Error in query syntax: {written!r} is no Guid.", "0x80060888")
    return written.lower()


def _check(name: str, value: object) -> None:
    if name not in _COLUMNS["phonecalls"] or name == "activityid":
        raise _bad(f"An undeclared property '{name}' was found in the payload.", "0x80048d19")
    if value is None:
        return
    if name in _TEXTS:
        good = isinstance(value, str)
        if isinstance(value, str) and len(value) > _TEXTS[name]:
            text = (
                f"A validation error occurred. The length of the '{name}' attribute of the 'phonecall' "
                f"entity exceeded the maximum allowed length of '{_TEXTS[name]}'."
            )
            raise _bad(text, "0x80044331")
    elif name in _INTEGERS:
        good = type(value) is int and 0 <= value <= _LARGEST_INTEGER
    elif name in _BOOLEANS:
        good = isinstance(value, bool)
    else:
        good = isinstance(value, str) and _is_time(value)
    if not good:
        raise _bad(f"Cannot convert the value of '{name}' to the expected type.", "0x80048d19")


def _is_time(text: str) -> bool:
    """Return whether it is an Edm.DateTimeOffset: a date, a time, and an offset or Z."""
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _selected(request: web.Request, kind: str) -> list[str]:
    columns = [each for each in request.query.get("$select", "").split(",") if each]
    for column in columns:
        if column not in _COLUMNS[kind]:
            raise _unknown(column, kind)
    return [*(columns or sorted(_COLUMNS[kind])), _KEYS[kind]]


def _shown(record: Mapping[str, Any], columns: list[str]) -> dict[str, Any]:
    return {"@odata.etag": 'W/"1"'} | {column: record.get(column) for column in columns}


_IN = re.compile(r"Microsoft\.Dynamics\.CRM\.In\(PropertyName='(\w+)',PropertyValues=\[(.*?)\]\)")
_EQUAL = re.compile(r"(\w+) eq ('(?:[^']|'')*'|true|false|null|-?\d+)")


def _filter(text: str, columns: set[str], kind: str) -> Callable[[Mapping[str, Any]], bool]:
    """Parse the part of $filter that is served: `eq` and `In`, in brackets, with `and` and `or`."""
    tests: list[Callable[[Mapping[str, Any]], bool]] = []

    def add(column: str, wanted: list[object]) -> str:
        if column not in columns:
            raise _unknown(column, kind)
        tests.append(lambda record: record.get(column) in wanted)
        return f" t{len(tests) - 1} "

    def is_in(match: re.Match[str]) -> str:
        return add(match[1], [each.replace("''", "'") for each in re.findall(r"'((?:[^']|'')*)'", match[2])])

    words = _EQUAL.sub(lambda match: add(match[1], [_literal(match[2])]), _IN.sub(is_in, text))
    if text and not re.fullmatch(r"[\s()]*t\d+[\s()]*(?:\b(?:and|or)\b[\s()]*t\d+[\s()]*)*", words):
        raise _bad(f"Syntax error in $filter: {text}", "0x80060888")
    # Brackets are only put around alternatives, so `and` separates what all must be true.
    groups = [[int(each) for each in re.findall(r"t(\d+)", group)] for group in words.split(" and ")]
    return lambda record: all(not group or any(tests[each](record) for each in group) for group in groups)


def _literal(text: str) -> object:
    if text.startswith("'"):
        return text[1:-1].replace("''", "'")
    known = {"true": True, "false": False, "null": None}
    return known[text] if text in known else int(text)


# --- answers --------------------------------------------------------------------------------------


def _error(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response({"error": {"code": code, "message": message}}, status=status, headers=headers)


def _aadsts(status: int, error: str, description: str) -> web.Response:
    return web.json_response({"error": error, "error_description": description}, status=status)


def _bad(message: str, code: str = "0x0") -> Refused:
    return Refused(_error(400, code, message))


def _not_there(kind: str, record_id: str) -> Refused:
    return Refused(_error(404, "0x80040217", f"Entity '{kind}' With Id = {record_id} Does Not Exist"))


def _unknown(column: str, kind: str) -> Refused:
    text = f"Could not find a property named '{column}' on type 'Microsoft.Dynamics.CRM.{kind[:-1]}'."
    return _bad(text, "0x80060888")


STAND_IN = DynamicsStandIn
