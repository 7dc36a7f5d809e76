"""A vtiger CRM: `webservice.php`, for calls (PBXManager, Events), contacts, leads and users.

It answers as vtiger 8.0.0 (API version 0.22) did on PHP 8.2, with MariaDB 10.11 and text as utf8mb3: nearly
every refusal is a 200, an owner who does not exist is taken, and what is too long is cut, because
PearDatabase.php switches the database's strict mode off. Sources in vtiger's tree: webservice.php,
include/Webservices, include/database, modules/PBXManager/schema.xml; and the exchanges with a real
installation in tests/crm/vtiger.jsonl.

A session ends when PHP removes its file (session.gc_maxlifetime after its last use), and then it is unknown:
SessionManager.php sets its own limits before the session begins, so that they are lost, and `SESSION_EXPIRED`
and `SESSION_LEFT_IDLE` are never answered.

Not modelled: that creates with the same unique field at once, on several sessions, may all succeed. vtiger
has no limit on requests; `storm` and `rate` answer as a web server before it might.
"""

import asyncio
import hashlib
import html
import json
import re
import time
import uuid
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, Final, NoReturn

from aiohttp import web

from simulators.crms.base import CrmStandIn, Refused
from simulators.crms.vtiger_modules import BY_PREFIX, MODULES, Field, Module, types
from simulators.crms.vtiger_query import EmptyComparisonError, QuerySyntaxError, parse

PATH: Final = "/webservice.php"
USER: Final = "admin"
ACCESS_KEY: Final = "StandInAccessKey"

_DENIED = "Permission to perform the operation is denied"
_NOT_ASSIGNABLE = "Cannot assign record to the given user"
_CHALLENGE_LIFE = 300  # AuthToken.php
_GROUPS = frozenset({"2", "3", "4"})  # a new installation has these
_GROUP_PREFIX = "20"
_NUMBERED: Final = {"Contacts": ("contact_no", "CON"), "Leads": ("lead_no", "LEA")}
_EMPTY: Final = {"integer": "0", "boolean": "0", "currency": "0.00000000"}
_NO_TIME = "0000-00-00 00:00:00"
_FORMS = frozenset({"application/x-www-form-urlencoded", "multipart/form-data"})
_TRACE = (
    "<pre>array (\n  0 => \n  array (\n    'file' => '/var/www/crm/include/database/PearDatabase.php',\n"
    "    'function' => 'checkError',\n  ),\n)</pre>Cannot add or update a child row"
)

Inputs = Mapping[str, str]
Record = dict[str, Any]


class VtigerStandIn(CrmStandIn):
    """One installation, with an administrator (`admin`) and a user with the role Sales Person (`seller`).

    Attributes:
        unique: Whether `sourceuuid` is a unique field, and duplicates are forbidden.
        fail_query: Queries that contain this text are answered 500.
        after_write: What the next writes answer instead: `trace` (a PHP trace), `empty` or `internal`.
        work: Seconds that each request takes while it holds its session.
        crmid: The number of the next record.
        numbers: Module → the last number of its `contact_no` or `lead_no`.
    """

    title = "vtiger"

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - as the base has them
        """Prepare an installation without records but its users."""
        super().__init__(**options)
        self.key_fields = {"PBXManager": "sourceuuid"}
        self.token_life = 1440.0  # PHP's session.gc_maxlifetime
        self.unique = False
        self.fail_query: str | None = None
        self.after_write: deque[str] = deque()
        self.work = 0.0
        self.crmid = 1
        self.numbers: Counter[str] = Counter()
        self.challenges: dict[str, tuple[str, float]] = {}
        self._users: dict[str, str] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._operations: dict[str, tuple[str, Callable[[Record, Inputs], Any]]] = {
            "getchallenge": ("GET", lambda _, inputs: self._challenge(inputs)),
            "login": ("POST", lambda _, inputs: self._login(inputs)),
            "logout": ("POST", lambda _, __: _fatal()),
            "listtypes": ("GET", lambda user, _: types(admin=_is_admin(user))),
            "describe": ("GET", lambda _, inputs: _module(inputs.get("elementType", "")).described()),
            "query": ("GET", self._query),
            "retrieve": ("GET", self._retrieve),
            "create": ("POST", self._create),
            "update": ("POST", self._update),
            "revise": ("POST", self._revise),
            "delete": ("POST", self._delete),
        }
        self._add_user("1", USER, ACCESS_KEY, first_name="Ad", last_name="Administrator", is_admin="on")
        zone = {"time_zone": "America/New_York", "hour_format": "24"}
        self._add_user("5", "seller", "SellersAccessKey", first_name="S", last_name="Seller", **zone)

    def route(self, app: web.Application) -> None:
        """Add the only path."""
        app.router.add_route("*", PATH, self._serve)

    def settings(self) -> dict[str, Any]:
        """Return the settings for the administrator."""
        return {"preset": "vtiger", "url": self.url, "user": USER, "access_key": ACCESS_KEY}

    def too_many(self, window: str, wait: float) -> web.Response:  # noqa: ARG002 - it says neither
        """Return what a web server before it answers."""
        return web.Response(status=503, text="<html><body>Service Unavailable</body></html>")

    def control(self, change: Mapping[str, Any]) -> None:
        """Know `unique`, `after_write` (a list), `fail_query` and `work` besides the common changes."""
        own = change.keys() & {"unique", "after_write", "fail_query", "work"}
        for name in own:
            setattr(self, name, deque(change[name]) if name == "after_write" else change[name])
        super().control({name: value for name, value in change.items() if name not in own})

    def seed(self, kind: str, fields: Mapping[str, Any]) -> str:
        """Make a record that was there before, with all fields of its module."""
        module = MODULES[kind]
        given = {"assigned_user_id": "19x1"} | dict(fields)
        record_id = given.pop("id", None) or f"{module.prefix}x{self._next_number()}"
        return self.make(kind, self._stored(module, given, "19x1"), record_id)

    def user_id(self, name: str) -> str | None:
        """Return the id of a user by the user's name, which is compared without case."""
        for user_id, each in self.records["Users"].items():
            if str(each["user_name"]).casefold() == name.casefold():
                return user_id
        return None

    def _add_user(self, number: str, name: str, key: str, **fields: str) -> None:
        common = {"is_admin": "off", "time_zone": "Europe/Berlin", "hour_format": "12", "status": "Active"}
        login = {"user_name": name, "accesskey": key, "email1": f"{name}@example.com"}
        self.seed("Users", common | login | fields | {"id": f"19x{number}"})

    # One request.

    async def _serve(self, request: web.Request) -> web.Response:
        form: dict[str, str] = {}
        if request.method == "POST" and request.content_type in _FORMS:
            form = {name: str(value) for name, value in (await request.post()).items()}
        everything = dict(request.query) | form
        name = everything.get("operation", "").lower()
        if name not in self._operations:
            return _fatal()
        method, run = self._operations[name]
        # Each operation reads its own parameters from $_GET or $_POST only: OperationManager.php.
        inputs = dict(request.query) if method == "GET" else form
        session = everything.get("sessionName", "")
        if name in {"getchallenge", "login"}:
            return _success(run({}, inputs))
        user = self._user_of(session)
        async with self._locks[session]:  # PHP locks a session's file for the whole request
            if self.work:
                await self.pause(self.work)
            before = self._changes
            result = run(user, inputs)
            if isinstance(result, web.Response):
                return result
            return self._after_write(result) if self._changes > before else _success(result)

    def _after_write(self, result: object) -> web.Response:
        instead = self.after_write.popleft() if self.after_write else None
        if instead == "trace":
            return web.Response(text=_TRACE, content_type="text/html", charset="UTF-8")
        if instead == "empty":
            return web.Response(content_type="text/html", charset="UTF-8")
        if instead == "internal":
            _refuse("INTERNAL_SERVER_ERROR", "Unknown Error while processing request")
        return _success(result)

    # Login: AuthToken.php, Login.php, SessionManager.php.

    def _challenge(self, inputs: Inputs) -> Record:
        name = inputs.get("username")
        if not name:
            _refuse("ACCESS_DENIED", "No username given")
        user_id = self.user_id(name)
        if user_id is None:
            _refuse("ACCESS_DENIED", "username does not exists")
        token = uuid.uuid4().hex[:13]
        self.challenges[user_id] = token, self.clock() + _CHALLENGE_LIFE  # the one before is gone
        now = int(time.time())
        return {"token": token, "serverTime": now, "expireTime": now + _CHALLENGE_LIFE}

    def _login(self, inputs: Inputs) -> Record:
        user_id = self.user_id(inputs.get("username", ""))
        token, until = self.challenges.get(user_id or "", ("", 0.0))
        if user_id is None or not token or until < self.clock():
            _refuse("INVALID_AUTH_TOKEN", "Specified token is invalid or expired")
        user = self.records["Users"][user_id]
        proof = hashlib.md5(f"{token}{user['accesskey']}".encode()).hexdigest()  # noqa: S324 - vtiger's own
        if inputs.get("accessKey") != proof or user["status"] != "Active":
            _refuse("INVALID_USER_CREDENTIALS", "Invalid username or password")
        session = self.issue_token()
        self._users[session] = user_id
        return {
            "username": user["user_name"],
            "first_name": user["first_name"],
            "last_name": user["last_name"],
            "email": user["email1"],
            "time_zone": user["time_zone"],
            "hour_format": user["hour_format"],
            "date_format": "yyyy-mm-dd",
            "is_admin": user["is_admin"],
            "call_duration": "5",
            "other_event_duration": "5",
            "sessionName": session,
            "userId": user_id,
            "version": "0.22",
            "vtigerVersion": "8.0.0",
        }

    def _user_of(self, session: str) -> Record:
        if not session:
            _refuse("AUTHENTICATION_REQUIRED", "Authencation required")
        if not self.is_good(session):
            _refuse("INVALID_SESSIONID", "Session Identifier provided is Invalid")
        self.tokens[session] = self.clock() + self.token_life
        return {"id": self._users[session]} | self.records["Users"][self._users[session]]

    # Reading.

    def _query(self, user: Record, inputs: Inputs) -> list[Record]:
        if not inputs.get("query"):
            _refuse("ACCESS_DENIED", f"{_DENIED} for query")
        if self.fail_query and self.fail_query in inputs["query"]:
            raise Refused(_fatal())
        try:
            query = parse(inputs["query"])
        except QuerySyntaxError as error:
            _refuse("QUERY_SYNTAX_ERROR", str(error))
        except EmptyComparisonError:
            _refuse("INTERNAL_SERVER_ERROR", "Unknown Error while processing request")
        module = _module(query.module)
        if module.name == "Users" and not _is_admin(user):
            _refuse("ACCESS_DENIED", _DENIED)
        for name in query.conditioned:
            if name not in module.fields:
                _refuse("ACCESS_DENIED", f"Permission to access {name} attribute denied.")
        for name in query.columns:
            if name != "*" and name not in module.fields:
                _refuse("ACCESS_DENIED", f"Permission to access '.{name}.' attribute denied.")
        rows = [
            {"id": record_id} | record
            for record_id, record in self.records[module.name].items()
            if _sees(user, module, record)
        ]
        columns = [*module.fields] if "*" in query.columns else [*query.columns, "id"]
        return [{name: row.get(name, "") for name in columns} for row in query.select(rows)]

    def _retrieve(self, user: Record, inputs: Inputs) -> Record:
        module, record_id = self._find(user, inputs.get("id", ""))
        return self._answer(module, record_id)

    def _find(self, user: Record, record_id: str) -> tuple[Module, str]:
        module = BY_PREFIX.get(record_id.partition("x")[0])
        if module is None:
            _refuse("ACCESS_DENIED", f"{_DENIED} for id")
        if record_id not in self.records[module.name]:
            _refuse("ACCESS_DENIED", _DENIED)
        if not _sees(user, module, self.records[module.name][record_id]):
            _refuse("ACCESS_DENIED", "Permission to read given object is denied")
        return module, record_id

    def _answer(self, module: Module, record_id: str) -> Record:
        record = self.records[module.name][record_id]
        label = " ".join(str(record[name]) for name in module.label_fields if record[name])
        values = {name: record.get(name, "") for name in module.fields}
        return values | {"id": record_id, "label": html.escape(label[:255]).replace("&#x27;", "&#039;")}

    # Writing: Create.php, Update.php, Revise.php, Delete.php.

    def _create(self, user: Record, inputs: Inputs) -> Record | web.Response:
        if inputs.get("elementType") not in MODULES:
            _refuse("ACCESS_DENIED", _DENIED)
        module = MODULES[inputs["elementType"]]
        element = self._checked(module, _object(inputs.get("element")), user)
        _demand(module, element)
        key = element.get("sourceuuid")
        if self.unique and key and self.find(module.name, sourceuuid=key):
            _refuse(0, "Duplicate(s) detected!")  # the code is the number
        number = self._next_number()
        if not all(_is_date(element.get(name, "")) for name in ("date_start", "due_date")):
            return web.Response(text=_TRACE, content_type="text/html", charset="UTF-8")
        stored = self._stored(module, element, user["id"])
        return self._answer(module, self.make(module.name, stored, f"{module.prefix}x{number}"))

    def _update(self, user: Record, inputs: Inputs) -> Record:
        return self._changed(user, _object(inputs.get("element")), whole=True)

    def _revise(self, user: Record, inputs: Inputs) -> Record:
        return self._changed(user, _object(inputs.get("element")), whole=False)

    def _changed(self, user: Record, element: Record, *, whole: bool) -> Record:
        module, record_id = self._find(user, str(element.pop("id", "")))
        element = self._checked(module, element, user)
        if whole:
            _demand(module, element)
        record = self.records[module.name][record_id]
        changed = self._stored(module, record | element, user["id"])
        kept = {name: record[name] for name in changed if name.lower() == "createdtime"}
        numbered = _NUMBERED.get(module.name, ("", ""))[0]
        kept |= {numbered: record[numbered]} if numbered else {}
        if module.name == "Events":
            kept["reminder_time"] = ""
        self.change(module.name, record_id, changed | kept)
        return self._answer(module, record_id)

    def _delete(self, user: Record, inputs: Inputs) -> Record:
        module, record_id = self._find(user, inputs.get("id", ""))
        del self.records[module.name][record_id]
        return {"status": "successful"}

    def _checked(self, module: Module, element: Record, user: Record) -> Record:
        """Return the known fields of an element, its owner and references as they will be stored."""
        known = {name: element[name] for name in element.keys() & module.fields.keys()}
        if known.get("assigned_user_id"):
            known["assigned_user_id"] = self._owner(str(known["assigned_user_id"]), user)
        for name in [each for each in known if module.fields[each].refers]:
            known[name] = self._reference(module.fields[name], str(known[name] or ""), user)
        return known

    def _owner(self, given: str, user: Record) -> str:
        """Return whom a record will belong to. What is no id makes it the caller's."""
        number = given.partition("x")[2]
        if not number:
            return str(user["id"])
        if f"19x{number}" in self.records["Users"]:
            self._check_assignable(f"19x{number}", user)
            return f"19x{number}"
        if number in _GROUPS:
            return f"{_GROUP_PREFIX}x{number}"
        if not _is_admin(user):
            _refuse("ACCESS_DENIED", _NOT_ASSIGNABLE)
        return number

    def _check_assignable(self, owner: str, user: Record) -> None:
        """Refuse a user who is neither the caller nor an administrator, unless an administrator asks."""
        if not (_is_admin(user) or owner == user["id"] or _is_admin(self.records["Users"][owner])):
            _refuse("ACCESS_DENIED", _NOT_ASSIGNABLE)

    def _reference(self, field: Field, given: str, user: Record) -> str:
        if not given:
            return ""
        module = BY_PREFIX.get(given.partition("x")[0])
        if "x" not in given or module is None:
            _refuse("ACCESS_DENIED", f"{_DENIED} for id")
        if module.name not in field.refers:
            _refuse("REFERENCE_INVALID", f"Invalid reference specified for {field.name}")
        if given not in self.records[module.name]:
            return ""
        if module.name == "Users":
            self._check_assignable(given, user)
        return given

    def _stored(self, module: Module, element: Record, caller: str) -> Record:
        """Return every field as the database keeps it."""
        record = {
            name: _kept(each, element.get(name), module.lengths.get(name))
            for name, each in module.fields.items()
            if name != "id"
        }
        if module.name == "Users":
            return record | element
        if module.name in {"Events", "Calendar"}:
            record |= _with_duration(element)
        if module.name == "Calendar":
            record |= {"taskstatus": "", "reminder_time": ""}  # as it was answered
        if module.name in _NUMBERED:
            self.numbers[module.name] += 1
            name, prefix = _NUMBERED[module.name]
            record[name] = f"{prefix}{self.numbers[module.name]}"
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
        times = {name: now for name in record if name.lower() in {"createdtime", "modifiedtime"}}
        by = {"modifiedby": caller} if "modifiedby" in record else {}
        return record | times | by | {"source": "WEBSERVICE"}

    def _next_number(self) -> int:
        self.crmid += 1
        return self.crmid - 1


def _success(result: object) -> web.Response:
    return _json({"success": True, "result": result})


def _json(body: object) -> web.Response:
    return web.Response(body=json.dumps(body).encode(), content_type="application/json")


def _refuse(code: str | int, message: str) -> NoReturn:
    """Refuse as vtiger does: with 200."""
    raise Refused(_json({"success": False, "error": {"code": code, "message": message}}))


def _fatal() -> web.Response:
    """Return what PHP answers to an error that nothing catches, with display_errors off."""
    return web.Response(status=500, content_type="text/html", charset="UTF-8")


def _module(name: str) -> Module:
    if name not in MODULES:
        _refuse("ACCESS_DENIED", f"{_DENIED} for name : {name}")
    return MODULES[name]


def _is_admin(user: Record) -> bool:
    return bool(user["is_admin"] == "on")


def _sees(user: Record, module: Module, record: Record) -> bool:
    owner = str(record["assigned_user_id"])
    mine = owner == user["id"] or owner.startswith(f"{_GROUP_PREFIX}x")
    return module.shared or _is_admin(user) or mine


def _object(text: str | None) -> Record:
    """Return a JSON object; what is none counts as an empty one."""
    try:
        found = json.loads(text or "")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _demand(module: Module, element: Record) -> None:
    for each in module.fields.values():
        if each.mandatory and element.get(each.name) in {None, ""}:
            _refuse("MANDATORY_FIELDS_MISSING", f"{each.name} does not have a value")


def _kept(field: Field, value: object, length: int | None) -> str:
    text = "" if value is None or value is False else str(value)
    if value is True or isinstance(value, dict | list):
        text = "1"
    if field.type == "integer" and field.name != "duration_minutes":
        return _whole_number(text)
    if field.type == "datetime" and text:
        found = re.match(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)", text)
        return f"{found[1]} {found[2]}" if found else _NO_TIME
    if field.type == "date" and (german := re.fullmatch(r"(\d\d)\.(\d\d)\.(\d{4})", text)):
        return f"{german[3]}-{german[2]}-{german[1]}"
    text = "".join(each if ord(each) <= 0xFFFF else "????" for each in text)  # utf8mb3
    return text[:length] or _EMPTY.get(field.type, "")


def _whole_number(text: str) -> str:
    found = re.match(r"[+-]?\d{1,18}(\.\d{1,9})?", text.strip())
    whole = int(Decimal(found[0]).quantize(Decimal(1), ROUND_HALF_UP)) if found else 0
    return str(max(-(2**31), min(whole, 2**31 - 1)))  # INT(11)


def _is_date(text: str) -> bool:
    return not text or bool(re.fullmatch(r"\d{4}-\d\d-\d\d|\d\d\.\d\d\.\d{4}", text))


def _with_duration(element: Record) -> Record:
    """Return the duration, which is always computed; a time that PHP can't read is its epoch."""
    start = _moment(element["date_start"], element["time_start"])
    end = _moment(element["due_date"], element["time_end"])
    hours, rest = divmod(int(end - start), 3600)
    return {"duration_hours": str(hours), "duration_minutes": str(rest // 60)}


def _moment(date: str, clock: str) -> float:
    try:
        return datetime.fromisoformat(f"{date} {clock.removesuffix('Z')}").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0


STAND_IN = VtigerStandIn
