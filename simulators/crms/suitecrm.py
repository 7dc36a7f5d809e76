"""SuiteCRM: its API V8 with calls, contacts, leads and users, and its login.

The rules are those of the code of SuiteCRM 7.15.0 (github.com/SuiteCRM/SuiteCRM, tag v7.15.0):

- Every exception is a 400 with its text (Api/V8/Controller, Api/V8/Middleware/ParamsMiddleware.php); the
  parameters are checked by Symfony's OptionsResolver (Api/V8/Param).
- `data.id` of a create may be any UUID and becomes the record's id; one that exists, or that was deleted, is
  refused; a change of a deleted one is refused as not found (Api/V8/Service/ModuleService.php,
  Api/V8/BeanDecorator/BeanManager.php).
- Attributes are written as they are (ModuleService::processAttributes). A time in the form of the database
  is UTC; any other is read in the user's form and zone, and emptied if it is none (data/SugarBean.php
  fixUpFormatting, include/TimeDate.php to_db). Neither `required` nor the options of an enum are enforced,
  and a text that is too long is cut (include/database/DBManager.php): what the user interface could not show
  is listed in `silent`.
- `contact_id` and `lead_id` of a call make its relationships (modules/Calls/Call.php relationship_fields,
  data/SugarBean.php handle_preset_relationships); `date_end` is computed (Call::save).
- Filters: one `and` or `or` for all; of one field and operator the last counts, as PHP reads a query
  (Api/V8/JsonApi/Repository/Filter.php).
- A database that fails writes its own text behind the JSON of the 400 (include/utils.php sugar_die, Slim 3
  appends what a route prints).
- Tokens live an hour; a wrong secret is a 401, an unknown client a 500
  (Api/V8/Config/services/middlewares.php, Api/V8/OAuth2/Repository, league/oauth2-server 8.5.5).

Not confirmed: the paths of SuiteCRM 8 (`/legacy/Api`, which others' programs use). SuiteCRM limits no rates;
a storm is the 429 of a server in front of it.
"""

import json
import re
import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, ClassVar, Final
from zoneinfo import ZoneInfo

from aiohttp import web
from typing_extensions import override

from simulators.crms.base import CrmStandIn, Refused

CLIENT_ID: Final = "0c4a1f6e-3a67-4d0f-9a47-6a1d3f5b7c21"
CLIENT_SECRET: Final = "a client secret of the stand-in"  # noqa: S105 - of no real account
USER_ID: Final = "1"

MEDIA_TYPE: Final = "application/vnd.api+json"
_STORED_TIME = "%Y-%m-%d %H:%M:%S"
_OBJECTS: Final = {"Calls": "Call", "Contacts": "Contact", "Leads": "Lead", "Users": "User"}
_PERSON = frozenset(
    {"first_name", "last_name", "phone_home", "phone_mobile", "phone_work", "phone_other", "assigned_user_id"}
)
_FIELDS: Final = {
    "Calls": frozenset(
        {
            *("id", "name", "date_start", "date_end", "duration_hours", "duration_minutes", "status"),
            *("direction", "description", "parent_type", "parent_id", "assigned_user_id", "outlook_id"),
            *("contact_id", "lead_id", "user_id", "account_id", "deleted", "date_entered", "date_modified"),
        }
    ),
    "Contacts": _PERSON | {"id", "deleted"},
    "Leads": _PERSON | {"id", "deleted", "status", "converted"},
    "Users": frozenset({"id", "user_name", "first_name", "last_name", "status", "deleted"}),
}
_LENGTHS: Final = {"name": 50, "status": 100, "direction": 100, "outlook_id": 255}
_OPTIONS: Final = {"status": {"Planned", "Held", "Not Held"}, "direction": {"Inbound", "Outbound"}}
_REQUIRED = ("name", "date_start", "duration_hours")
_LINKS: Final = {"contact_id": ("contacts", "Contacts"), "lead_id": ("leads", "Leads")}
_OPERATORS: Final = {"eq", "neq", "gt", "gte", "lt", "lte", "like"}
_ID = re.compile(r"\d+|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_UUID = re.compile(r"(?:[0-9a-f]-?){31}[0-9a-f]", re.IGNORECASE)
_KEY = re.compile(r"(\w+)(?:\[(\w+)\])?(?:\[(\w+)\])?")


class SuiteCrmStandIn(CrmStandIn):
    """SuiteCRM on loopback. Records of `Contacts`, `Leads` and `Users` are to be seeded.

    Attributes:
        links: Id of a call → name of a relationship → ids.
        silent: What was stored otherwise than it was sent, or can't be shown.
        denied: Modules for which the API's user has no rights.
        enabled: Whether the API's user is active.
        database_down: Whether every query fails.
    """

    title: ClassVar[str] = "SuiteCRM"

    @override
    def __init__(self, *, prefix: str = "/Api", zone: str = "America/New_York", **settings: Any) -> None:
        super().__init__(**settings)
        self.key_fields = {"Calls": "id"}
        self.prefix = prefix
        self.zone = ZoneInfo(zone)
        self.custom_fields: frozenset[str] = frozenset()
        self.links: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        self.silent: list[str] = []
        self.denied: set[str] = set()
        self.enabled = True
        self.database_down = False

    @override
    def settings(self) -> dict[str, Any]:
        return {
            "preset": "suitecrm",
            "url": self.base_url,
            "api": self.prefix,
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
        }

    @override
    def control(self, change: Mapping[str, Any]) -> None:
        own = {"enabled", "database_down"} & set(change)
        for name in own:
            setattr(self, name, bool(change[name]))
        if "denied" in change:
            self.denied = set(change["denied"])
        super().control({name: change[name] for name in change if name not in own | {"denied"}})

    @override
    def report(self) -> dict[str, Any]:
        links = {call: {name: sorted(ids) for name, ids in of.items()} for call, of in self.links.items()}
        return super().report() | {"links": links, "silent": self.silent}

    @override
    def seed(self, kind: str, fields: Mapping[str, Any]) -> str:
        fields = {"id": str(uuid.uuid4())} | dict(fields)
        return self.make(kind, fields, fields["id"])

    @override
    def route(self, app: web.Application) -> None:
        router, v8 = app.router, f"{self.prefix}/V8"
        router.add_post(f"{self.prefix}/access_token", self._log_in)
        router.add_get(f"{v8}/current-user", self._served(self._current_user))
        router.add_get(f"{v8}/meta/fields/{{module}}", self._served(self._fields))
        router.add_get(f"{v8}/module/{{module}}", self._served(self._list))
        router.add_get(f"{v8}/module/{{module}}/{{id}}", self._served(self._get))
        router.add_post(f"{v8}/module", self._served(self._create))
        router.add_patch(f"{v8}/module", self._served(self._update))
        router.add_delete(f"{v8}/module/{{module}}/{{id}}", self._served(self._delete))

    @override
    def too_many(self, window: str, wait: float) -> web.Response:
        return web.Response(status=429, headers={"Retry-After": str(int(wait) + 1)})

    @override
    def unknown_route(self, status: int) -> web.Response:
        page = "<html><head><title>Page Not Found</title></head><body><h1>Page Not Found</h1></body></html>"
        return web.Response(status=status, text=page, content_type="text/html")

    # The login.

    async def _log_in(self, request: web.Request) -> web.Response:
        body = await _json(request) if "json" in request.content_type else dict(await request.post())
        form = body if isinstance(body, dict) else {}
        if form.get("grant_type") != "client_credentials":
            text = "The authorization grant type is not supported by the authorization server."
            return _oauth(400, "unsupported_grant_type", text)
        if not form.get("client_id"):
            return _oauth(400, "invalid_request", "The request is missing a required parameter.")
        if form["client_id"] != CLIENT_ID:
            text = f"OAuth2Clients module with id {form['client_id']} is not found"
            return _oauth(500, "unknown_error", text)
        if form.get("client_secret") != CLIENT_SECRET:
            return _oauth(401, "invalid_client", "Client authentication failed")
        if not self.enabled:
            return _oauth(500, "unknown_error", "Not Authorized")
        return web.json_response(
            {
                "token_type": "Bearer",
                "expires_in": int(self.token_life),
                "access_token": self.issue_token(),
            }
        )

    def _served(self, handler: Callable[[web.Request, Any], web.Response]) -> Any:  # noqa: ANN401
        async def serve(request: web.Request) -> web.Response:
            kind, _, token = request.headers.get("Authorization", "").partition(" ")
            if kind != "Bearer" or not self.is_good(token):
                text = "The resource owner or authorization server denied the request."
                hint = "Access token could not be verified" if token else 'Missing "Authorization" header'
                return _oauth(401, "access_denied", text, hint)
            if self.database_down:
                text = "Database failure. Please refer to suitecrm.log for details."
                answer = _error(text)
                answer.text = str(answer.text) + text
                return answer
            if not self.enabled:
                return _error("Not found")
            return handler(request, await _json(request))

        return serve

    # Reading.

    def _current_user(self, *_: object) -> web.Response:
        return _document({"type": "User", "id": USER_ID, "attributes": {"user_name": "crm-sync"}})

    def _fields(self, request: web.Request, _: object) -> web.Response:
        module = request.match_info["module"]
        fields = {name: {"type": "varchar"} for name in sorted(self._known(module))}
        return _document({"type": "fields", "attributes": fields})

    def _list(self, request: web.Request, _: object) -> web.Response:
        module = request.match_info["module"]
        query = _nested(request)
        known = self._known(module)
        _only(query, {"fields", "page", "sort", "filter"})
        size = _page_size(query.get("page", {}))
        columns = _columns(query.get("fields"), self._known, module)
        condition = _condition(query.get("filter", {}), known, _OBJECTS[module])
        self._check_access(module)
        found = [
            record for record in self.records[module].values() if not _deleted(record) and condition(record)
        ]
        data = [_data(module, record, columns) for record in found[:size]]
        meta = {"total-pages": -(-len(found) // size), "records-on-this-page": len(data)} if size else {}
        return _answer(200, {"meta": meta, "data": data} if meta and data else {"data": data})

    def _get(self, request: web.Request, _: object) -> web.Response:
        module = request.match_info["module"]
        record = self._record(module, request.match_info["id"])
        self._check_access(module)
        return _document(_data(module, record, None))

    # Writing.

    def _create(self, _: web.Request, body: object) -> web.Response:
        module, record_id, attributes = self._params(body, need_id=False)
        if record_id is not None and record_id in self.records[module]:
            raise Refused(_error(f"Bean {module} with id {record_id} is already exist"))
        self._check_access(module)
        record_id = record_id or str(uuid.uuid4())
        defaults = {"id": record_id} | ({"status": "Planned"} if module == "Calls" else {})
        self.make(module, defaults | self._stored(record_id, attributes, new=True), record_id)
        return _document(_data(module, self.records[module][record_id], None), 201)

    def _update(self, _: web.Request, body: object) -> web.Response:
        module, record_id, attributes = self._params(body, need_id=True)
        record = self._record(module, str(record_id))
        self._check_access(module)
        self.change(module, record["id"], self._stored(record["id"], attributes, new=False))
        return _document(_data(module, self.records[module][record["id"]], None), 201)

    def _delete(self, request: web.Request, _: object) -> web.Response:
        module = request.match_info["module"]
        record = self._record(module, request.match_info["id"])
        self._check_access(module)
        self.change(module, record["id"], {"deleted": 1})
        return _answer(200, {"meta": {"message": f"Record with id {record['id']} is deleted"}})

    def _params(self, body: object, *, need_id: bool) -> tuple[str, str | None, dict[str, Any]]:
        _only(body if isinstance(body, dict) else {}, {"data"})
        data = body.get("data") if isinstance(body, dict) else None
        if data is None:
            raise Refused(_error('The required option "data" is missing.'))
        if not isinstance(data, dict) or not all(data.values()):
            raise Refused(_error('The option "data" with value array is invalid.'))
        _only(data, {"type", "id", "attributes"})
        for name in ("id", "type") if need_id else ("type",):
            if name not in data:
                raise Refused(_error(f'The required option "{name}" is missing.'))
        module, record_id, attributes = data["type"], data.get("id"), data.get("attributes", {})
        pattern = _ID if need_id else _UUID
        if record_id is not None and not (isinstance(record_id, str) and pattern.fullmatch(record_id)):
            raise Refused(_error(f'The option "id" with value "{record_id}" is invalid.'))
        known = self._known(str(module))
        for name, value in attributes.items():
            if isinstance(value, dict | list):
                raise Refused(_error('Expected argument of type "string", "array" given'))
            if name not in known:
                raise Refused(_error(f"Property {name} in {_OBJECTS[module]} module is invalid"))
        return module, record_id, attributes

    def _stored(self, record_id: str, attributes: Mapping[str, Any], *, new: bool) -> dict[str, Any]:
        """Return the fields as the database has them, and note in `silent` what changed on the way."""
        fields = dict(attributes)
        for name, (link, module) in _LINKS.items():
            linked = fields.pop(name, None)
            if linked and linked in self.records[module]:
                self.links[record_id][link].add(linked)
        for name in ("date_start", "date_end"):
            if name in fields:
                fields[name] = self._time(str(fields[name] or ""))
                self._note(name, attributes[name], fields[name])
        for name, length in _LENGTHS.items():
            if len(str(fields.get(name) or "")) > length:
                fields[name] = fields[name][:length]
                self._note(name, attributes[name], fields[name])
        for name, options in _OPTIONS.items():
            if name in fields and fields[name] not in options:
                self.silent.append(f"{name}: {fields[name]!r} is no option")
        self.silent += [f"{name}: missing" for name in _REQUIRED if new and fields.get(name) in (None, "")]
        if fields.get("date_start"):
            duration = timedelta(
                hours=int(fields.get("duration_hours") or 0), minutes=int(fields.get("duration_minutes") or 0)
            )
            end = datetime.strptime(fields["date_start"], _STORED_TIME) + duration  # noqa: DTZ007 - stored in UTC
            fields["date_end"] = end.strftime(_STORED_TIME)
        return fields

    def _note(self, name: str, sent: object, stored: object) -> None:
        if sent != stored:
            self.silent.append(f"{name}: {sent!r} was stored as {stored!r}")

    def _time(self, text: str) -> str:
        if re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", text):
            return text
        try:
            read = datetime.strptime(text, "%m/%d/%Y %H:%M").replace(tzinfo=self.zone)
        except ValueError:
            return ""
        return read.astimezone(ZoneInfo("UTC")).strftime(_STORED_TIME)

    # What all share.

    def _known(self, module: str) -> frozenset[str]:
        if module not in _OBJECTS:
            raise Refused(_error(f"Module {module} does not exist"))
        return _FIELDS[module] | (self.custom_fields if module == "Calls" else frozenset())

    def _record(self, module: str, record_id: str) -> dict[str, Any]:
        self._known(module)
        record = self.records[module].get(record_id)
        if record is None or _deleted(record):
            raise Refused(_error(f"{module} module with id {record_id} is not found"))
        return record

    def _check_access(self, module: str) -> None:
        if module in self.denied:
            raise Refused(_error("[AccessDeniedException] "))


# --- requests -------------------------------------------------------------------------------------


async def _json(request: web.Request) -> Any:  # noqa: ANN401 - any JSON value
    try:
        return json.loads(await request.read())
    except ValueError:
        return None


def _nested(request: web.Request) -> dict[str, Any]:
    """Read `a[b][c]=value` as PHP does."""
    found: dict[str, Any] = {}
    for name, value in request.query.items():
        match = _KEY.fullmatch(name)
        first, second, third = match.groups() if match else (name, None, None)
        if second is None:
            found[first] = value
        elif third is None:
            found.setdefault(first, {})[second] = value
        else:
            found.setdefault(first, {}).setdefault(second, {})[third] = value
    return found


def _only(given: Mapping[str, Any], known: set[str]) -> None:
    for name in given:
        if name not in known:
            options = ", ".join(f'"{each}"' for each in sorted(known))
            text = f'The option "{name}" does not exist. Defined options are: {options}.'
            raise Refused(_error(text))


def _page_size(page: Mapping[str, str]) -> int | None:
    if not isinstance(page, dict) or not all(value.isdecimal() for value in page.values()):
        raise Refused(_error('The option "page" with value array is invalid.'))
    size = page.get("size")
    if size == "0":
        raise Refused(_error('The option "size" with value "0" is invalid.'))
    return None if size is None else int(size)


def _columns(
    fields: Mapping[str, str] | None, known: Callable[[str], frozenset[str]], module: str
) -> set[str] | None:
    if fields is None:
        return None
    (of, listed), *_ = fields.items()
    columns = listed.split(",")
    unknown = [each for each in columns if each not in known(of)]
    if unknown:
        text = f"The following field in {_OBJECTS[of]} module is not found: {', '.join(unknown)}"
        raise Refused(_error(text))
    return set(columns) if of == module else set()


def _condition(
    given: Mapping[str, Any], known: frozenset[str], kind: str
) -> Callable[[Mapping[str, Any]], bool]:
    operator = str(given.get("operator", "and")).lower()
    if operator not in {"and", "or"}:
        raise Refused(_error(f"Filter operator {operator} is invalid"))
    tests: list[tuple[str, str, str]] = []
    for field, expression in given.items():
        if field == "operator":
            continue
        if field not in known:
            raise Refused(_error(f"Filter field {field} in {kind} module is not found"))
        if not isinstance(expression, dict):
            raise Refused(_error(f"Filter field {field} must be an array"))
        for name, value in expression.items():
            if name.lower() not in _OPERATORS:
                raise Refused(_error(f"Filter operator {name} is invalid"))
            tests.append((field, name.lower(), value))
    combine = any if operator == "or" else all
    return lambda record: (
        not tests or combine(_fits(record.get(field), op, value) for field, op, value in tests)
    )


def _fits(stored: object, operator: str, value: str) -> bool:
    """Compare as MySQL does: without regard to case, and never true of NULL."""
    if stored is None:
        return False
    left, right = str(stored).lower(), value.lower()
    if operator == "like":
        pattern = re.escape(right).replace("%", ".*").replace("_", ".")
        return re.fullmatch(pattern, left, re.DOTALL) is not None
    return {
        "eq": left == right,
        "neq": left != right,
        "gt": left > right,
        "gte": left >= right,
        "lt": left < right,
        "lte": left <= right,
    }[operator]


# --- answers --------------------------------------------------------------------------------------


def _deleted(record: Mapping[str, Any]) -> bool:
    return str(record.get("deleted", 0)) == "1"


def _data(module: str, record: Mapping[str, Any], columns: set[str] | None) -> dict[str, Any]:
    attributes = {
        name: value for name, value in record.items() if name != "id" and (columns is None or name in columns)
    }
    return {"type": _OBJECTS[module], "id": record["id"], "attributes": attributes}


def _document(data: Mapping[str, Any], status: int = 200) -> web.Response:
    return _answer(status, {"data": data})


def _answer(status: int, body: Mapping[str, Any]) -> web.Response:
    return web.Response(status=status, text=json.dumps(body, indent=4), content_type=MEDIA_TYPE)


def _error(detail: str) -> web.Response:
    return _answer(400, {"errors": {"status": 400, "title": None, "detail": detail}})


def _oauth(status: int, error: str, description: str, hint: str | None = None) -> web.Response:
    body = {"error": error, "error_description": description, "message": description}
    return web.json_response(body | ({"hint": hint} if hint else {}), status=status)


STAND_IN = SuiteCrmStandIn
