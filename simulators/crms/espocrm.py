"""An EspoCRM: calls, contacts, leads and users, through the REST API with an API key.

It answers as EspoCRM 8.4.2 did on PHP 8.2 with MariaDB: reasons stand in the header X-Status-Reason, lengths
and enumerations are checked, unknown fields are ignored, and a link to what is not there is refused. Sources
in EspoCRM's tree: Core/Record/Service.php, Core/Api/ErrorOutput.php, Core/FieldValidation, Core/Select/Where,
Core/Authentication/Hook/Hooks/FailedAttemptsLimit.php, Modules/Crm/Resources/metadata/entityDefs/Call.json.

Not confirmed: that later versions answer the same; their source gives 403 of too many failed logins a reason.
EspoCRM has no limit on requests; `storm` and `rate` answer as a web server before it might.
"""

import json
import math
import re
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

from aiohttp import web

from simulators.crms.base import CrmStandIn, Refused, Window

KEY_FIELD: Final = "cCallId"
TOKEN: Final = "9f0e8d7c6b5a49382716051423324150"  # noqa: S105 - opens nothing
API_USER: Final = "6b0dbb2341eac928b"

_API = "/api/v1"
_FAILURES = 10  # authMaxFailedAttemptNumber, in authFailedAttemptsPeriod
_FAILURE_PERIOD = 60.0
_ACTIONS: Final = ("create", "read", "edit")
_REQUIRED: Final = ("name", "dateStart", "dateEnd", "assignedUserId")
_OPTIONS: Final = {"status": ("Planned", "Held", "Not Held"), "direction": ("Outbound", "Inbound")}
_LINKS: Final = {"contacts": "Contact", "leads": "Lead"}
_NAME_LENGTH = 255
_TIME = re.compile(r"\d{4}-\d\d-\d\d( \d\d:\d\d(:\d\d)?|T\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d))")
_ATTRIBUTES: Final = {
    "Call": {
        *("id", "name", "status", "direction", "dateStart", "dateEnd", "description", "assignedUserId"),
        *("contactsIds", "leadsIds", "parentType", "parentId", "usersIds", "createdAt", "duration"),
    },
    "Contact": {"id", "name", "lastName", "phoneNumber", "phoneNumberNumeric", "assignedUserId"},
    "Lead": {"id", "name", "lastName", "phoneNumber", "phoneNumberNumeric", "assignedUserId"},
    "User": {"id", "userName", "emailAddress", "isActive", "type", "lastName"},
}

Record = dict[str, Any]


class EspoStandIn(CrmStandIn):
    """One EspoCRM with an API user, its role, and the field for the call's id.

    Attributes:
        fields: The own fields of Call (type varchar) → their greatest length.
        acl: Entity type → action (`create`, `read`, `edit`) → whether the role allows it for all records.
        unique: Whether a second call with the same id is refused, as `duplicateCheckFieldList` lets it.
    """

    title = "EspoCRM"

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - as the base has them
        """Prepare an installation without records but two users."""
        super().__init__(**options)
        self.key_fields = {"Call": KEY_FIELD}
        self.tokens[TOKEN] = math.inf
        self.fields: dict[str, int] = {KEY_FIELD: 100}
        self.acl = {kind: dict.fromkeys(_ACTIONS, kind == "Call") | {"read": True} for kind in _ATTRIBUTES}
        self.unique = False
        self._failures = Window(_FAILURES + 1, _FAILURE_PERIOD, self.clock)
        self.seed("User", {"id": API_USER, "userName": "crm-sync", "type": "api"})
        self.seed(
            "User", {"id": "6b0dbb23d43113418", "userName": "1000", "emailAddress": "a1000@example.com"}
        )

    def route(self, app: web.Application) -> None:
        """Add the routes that a delivery uses."""
        app.router.add_get(f"{_API}/App/user", self._app_user)
        app.router.add_get(f"{_API}/{{kind}}", self._list)
        app.router.add_get(f"{_API}/{{kind}}/{{id}}", self._read)
        app.router.add_post(f"{_API}/Call", self._create)
        app.router.add_put(f"{_API}/Call/{{id}}", self._edit)
        app.router.add_patch(f"{_API}/Call/{{id}}", self._edit)

    def settings(self) -> dict[str, Any]:
        """Return the settings for the API user."""
        return {"preset": "espocrm", "url": self.url, "token": TOKEN}

    def too_many(self, window: str, wait: float) -> web.Response:  # noqa: ARG002 - it says neither
        """Return what a web server before it answers."""
        return web.Response(status=503, text="<html><body>Service Unavailable</body></html>")

    def unknown_route(self, status: int) -> web.Response:
        """Return the answer to a path that it does not have."""
        return _answer(status, "Controller does not exist.")

    def control(self, change: Mapping[str, Any]) -> None:
        """Know `unique`, `fields` and `acl` (merged) besides the common changes."""
        self.unique = bool(change.get("unique", self.unique))
        self.fields = dict(change.get("fields", self.fields))
        for kind, rights in change.get("acl", {}).items():
            self.acl[kind] |= rights
        own = {"unique", "fields", "acl"}
        super().control({name: value for name, value in change.items() if name not in own})

    def seed(self, kind: str, fields: Mapping[str, Any]) -> str:
        """Make a record that was there before."""
        given = dict(fields)
        if kind == "User":
            given = {"type": "regular", "isActive": True} | given
        if "phoneNumber" in given:
            given["phoneNumberNumeric"] = re.sub(r"\D", "", given["phoneNumber"])
        return self.make(kind, given, given.pop("id", None) or self.new_id())

    def new_id(self) -> str:
        """Return an id as EspoCRM makes them."""
        return secrets.token_hex(9)[:17]

    # Rights.

    def _admit(self, request: web.Request, kind: str, action: str) -> None:
        if self._failures.used > _FAILURES:
            raise Refused(web.Response(status=403, content_type="text/html", charset="UTF-8"))
        token = request.headers.get("x-api-key", "")
        if not self.is_good(token):
            if token:  # without one, there is nothing to log
                self._failures.admit()
            raise Refused(web.Response(status=401, content_type="text/html", charset="UTF-8"))
        if kind and kind not in _ATTRIBUTES:
            _refuse(404, f"Controller '{kind}' does not exist.")
        if kind and not self.acl[kind][action]:
            _refuse(403, f"No {action} access.")

    async def _app_user(self, request: web.Request) -> web.Response:
        self._admit(request, "", "read")
        table = {
            kind: {
                action: ("yes" if allowed else "no") if action == "create" else ("all" if allowed else "no")
                for action, allowed in rights.items()
            }
            for kind, rights in self.acl.items()
        }
        user = {"id": API_USER} | self.records["User"][API_USER]
        return web.json_response({"user": user, "acl": {"table": table}})

    # Reading.

    async def _list(self, request: web.Request) -> web.Response:
        kind = request.match_info["kind"]
        self._admit(request, kind, "read")
        found = [{"id": each} | record for each, record in self.records[kind].items()]
        for condition in _conditions(request.query):
            attribute = condition["attribute"]
            if attribute not in _ATTRIBUTES[kind] | (self.fields.keys() if kind == "Call" else set()):
                _refuse(400, f"Not existing attribute '{attribute}' in where.")
            found = [each for each in found if _holds(condition, each.get(attribute))]
        if "orderBy" in request.query:
            by = request.query["orderBy"]
            found.sort(key=lambda each: str(each.get(by)), reverse=request.query.get("order") == "desc")
        else:
            found.reverse()  # the latest first
        columns = {"id", *request.query.get("select", "").split(",")}
        most = request.query.get("maxSize", "20")
        shown = found[: int(most) if most.isdecimal() else 0]
        rows = [{name: each[name] for name in each.keys() & columns} for each in shown]
        return web.json_response({"total": len(found), "list": rows})

    async def _read(self, request: web.Request) -> web.Response:
        kind, record_id = request.match_info["kind"], request.match_info["id"]
        self._admit(request, kind, "read")
        if record_id not in self.records[kind]:
            _refuse(404, f"Record {record_id} does not exist.")
        return self._whole(kind, record_id)

    def _whole(self, kind: str, record_id: str) -> web.Response:
        return web.json_response({"id": record_id} | self.records[kind][record_id])

    # Writing.

    async def _create(self, request: web.Request) -> web.Response:
        self._admit(request, "Call", "create")
        given = await _body(request)
        fields = self._checked(dict.fromkeys(_REQUIRED) | given)
        key = fields.get(KEY_FIELD)
        if self.unique and key and request.headers.get("x-skip-duplicate-check") != "true":
            twins = [
                {"id": each} | self.records["Call"][each] for each in self.find("Call", **{KEY_FIELD: key})
            ]
            if twins:
                raise Refused(web.json_response(twins, status=409, headers={"X-Status-Reason": "duplicate"}))
        made = {"status": "Planned", "direction": "Outbound", "contactsIds": [], "leadsIds": []} | fields
        made |= {"createdAt": f"{len(self.records['Call']):09}", "usersIds": [fields["assignedUserId"]]}
        return self._whole("Call", self.make("Call", made))

    async def _edit(self, request: web.Request) -> web.Response:
        self._admit(request, "Call", "edit")
        record_id = request.match_info["id"]
        if record_id not in self.records["Call"]:
            _refuse(404, f"Record {record_id} not found.")
        self.change("Call", record_id, self._checked(await _body(request)))
        return self._whole("Call", record_id)

    def _checked(self, given: Record) -> Record:
        """Return the known fields as they are stored; refuse what EspoCRM does."""
        fields = {name: given[name] for name in given.keys() & (_ATTRIBUTES["Call"] | self.fields.keys())}
        for name in ("id", "createdAt", "duration", "usersIds"):
            fields.pop(name, None)
        self._check_values(fields)
        self._check_link("assignedUser", "User", fields.get("assignedUserId"))
        for name, kind in _LINKS.items():
            if f"{name}Ids" in fields:
                ids = fields[f"{name}Ids"]
                fields[f"{name}Ids"] = list(dict.fromkeys(ids)) if isinstance(ids, list) else []
                for each in fields[f"{name}Ids"]:
                    self._check_link(name, kind, each)
        return fields

    def _check_values(self, fields: Record) -> None:
        for name in fields.keys() & (self.fields.keys() | {"name"}):
            fields[name] = (str(fields[name]).strip() or None) if fields[name] is not None else None
        for name in _REQUIRED:
            if name in fields and not fields[name]:
                _invalid(name.removesuffix("Id"), "required")
        for name, length in ({"name": _NAME_LENGTH} | self.fields).items():
            if len(fields.get(name) or "") > length:
                _invalid(name, "maxLength")
        for name, options in _OPTIONS.items():
            if fields.get(name) is not None and fields[name] not in options:
                _invalid(name, "valid")
        for name in fields.keys() & {"dateStart", "dateEnd"}:
            fields[name] = _time(name, str(fields[name]))

    def _check_link(self, link: str, kind: str, record_id: object) -> None:
        if record_id is None:
            return
        if record_id not in self.records[kind]:
            reason = f"Can't relate with non-existing record. entity type: Call, link: {link}."
            raise Refused(_explained(403, reason, "cannotRelateNonExisting", {"foreignEntityType": kind}))
        if not self.acl[kind]["read"]:
            _refuse(403, f"No foreign record access for link operation (Call:{link}).")


def _answer(status: int, reason: str) -> web.Response:
    return web.Response(status=status, content_type="application/json", headers={"X-Status-Reason": reason})


def _refuse(status: int, reason: str) -> NoReturn:
    raise Refused(_answer(status, reason))


def _explained(status: int, reason: str, label: str, data: Record) -> web.Response:
    answer = _answer(status, reason)
    answer.text = json.dumps({"messageTranslation": {"label": label, "scope": None, "data": data}})
    return answer


def _invalid(field: str, kind: str) -> NoReturn:
    reason = f"Field validation failure; entityType: Call, field: {field}, type: {kind}."
    raise Refused(_explained(400, reason, "validationFailure", {"field": field, "type": kind}))


async def _body(request: web.Request) -> Record:
    """Return the body; none, or a list, counts as an empty object."""
    text = await request.text()
    if not text:
        return {}
    try:
        found = json.loads(text)
    except ValueError:
        raise Refused(web.Response(status=500, content_type="application/json")) from None
    return found if isinstance(found, dict) else {}


def _time(name: str, value: str) -> str:
    """Return a time as it is stored: one with an offset in UTC, any other as it is."""
    if _TIME.fullmatch(value) is None:
        _invalid(name, "valid")
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        _invalid(name, "valid")
    return value if moment.tzinfo is None else moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def _conditions(query: Mapping[str, str]) -> list[Record]:
    """Read `where[0][type]`, `where[0][attribute]`, `where[0][value]` and `where[0][value][0]`."""
    found: dict[int, Record] = {}
    for name, value in query.items():
        parts = re.fullmatch(r"where\[(\d+)\]\[(type|attribute|value)\](\[\d*\])?", name)
        if parts is None:
            continue
        condition = found.setdefault(int(parts[1]), {"type": "equals", "attribute": "", "values": []})
        if parts[2] == "value":
            condition["values"].append(value)
        else:
            condition[parts[2]] = value
    return [found[each] for each in sorted(found)]


def _holds(condition: Record, stored: object) -> bool:
    """Return whether a value fulfils a condition; text is compared as MariaDB does it."""
    values = [_folded(each) for each in condition["values"]]
    tests: dict[str, Callable[[], bool]] = {
        "equals": lambda: bool(values) and stored is not None and _folded(stored) == values[0],
        "in": lambda: stored is not None and _folded(stored) in values,
        "isTrue": lambda: stored is True,
        "isNotNull": lambda: stored is not None,
    }
    if condition["type"] not in tests:
        _refuse(400, f"Where type {condition['type']} is not known to this stand-in.")
    return tests[condition["type"]]()


def _folded(value: object) -> str:
    return str(value).rstrip(" ").casefold()


STAND_IN = EspoStandIn
