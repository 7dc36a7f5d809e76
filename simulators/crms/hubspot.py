"""A HubSpot account: calls, tasks, contacts, owners and properties, at the dated versions of the API.

Sources: HubSpot's OpenAPI descriptions (api.hubapi.com: CRM Calls, Tasks, Contacts, Properties, Owners), its
guides "Calls", "CRM search", "Error handling" and "API usage guidelines" on developers.hubspot.com, and the
refusals that segmentio/action-destinations (#3957, #3969) quotes. Each rule below names which.

Not confirmed on a real account: that calls and tasks accept a unique property, and so `batch/upsert` by it
(endpoint and SDKs exist); which items a batch refuses alone, with 207, and which as a whole; whether a
property's value may be a JSON number (the description says text, so only text is accepted here); the scope
for properties; that unknown keys of a body are refused; the texts of refusals other than those quoted.
"""

import json
import math
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from aiohttp import web

from simulators.crms.base import CrmStandIn, Refused, json_object
from simulators.crms.hubspot_properties import (
    DISPOSITIONS,
    Property,
    calculated,
    described,
    standard_properties,
)

TOKEN: Final = "pat-na1-stand-in"  # noqa: S105 - opens nothing
KEY: Final = "crm_sync_call_id"

_MAX_BATCH = 100  # "API usage guidelines"
_MAX_UNIQUE = 10  # unique properties of one type: guide "Properties"
_MAX_GROUPS, _MAX_FILTERS, _MAX_FOUND = 5, 6, 200  # guide "CRM search"


# The type's number, which messages name it by; the default association with a contact.
_TYPE_IDS: Final = {"calls": "0-48", "tasks": "0-27", "contacts": "0-1"}
_TO_CONTACT: Final = {"calls": 194, "tasks": 204}
_NEW_PROPERTY: Final = frozenset({"name", "label", "type", "fieldType", "groupName"})
_REQUIRED: Final = {"calls": "hs_timestamp", "tasks": "hs_timestamp", "contacts": None}


@dataclass(slots=True)
class _Item:
    """One input of a batch, and what is wrong with it."""

    id: str
    properties: dict[str, str]
    trace: str | None
    problems: list[dict[str, Any]] = field(default_factory=list)


class HubSpotStandIn(CrmStandIn):
    """One HubSpot account and its only service key.

    Attributes:
        properties: Type → name → `Property`. A unique one is made by `POST /crm/properties/…`, or `prepare`.
        scopes: What the key may do. Without one that a request needs, it is refused with 403.
        associations: Pairs (type/id, type/id).
        index_delay: Seconds until the search finds a contact made through the API.
        migrating: Seconds for which the account answers 477, from now on; set it by `migrate`.
    """

    title = "HubSpot"

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - as the base has them
        """Prepare an account with the limits of a Free or Starter one, and one key."""
        super().__init__(**options)
        self.key_fields = {"calls": KEY, "tasks": KEY}
        self.properties = standard_properties()
        self.groups: dict[str, set[str]] = {kind: set() for kind in self.properties}
        self.scopes = {
            *("crm.objects.contacts.read", "crm.objects.contacts.write", "crm.objects.owners.read"),
            *("crm.schemas.contacts.read", "crm.schemas.contacts.write"),
        }
        self.associations: set[tuple[str, str]] = set()
        self.index_delay = 0.0
        self._visible_from: dict[str, float] = {}
        self._migrated_at = -math.inf
        self.tokens[TOKEN] = math.inf
        self.limit("rate", 100)
        self.limit("search_rate", 5)
        self.limit("daily", 250_000)

    def route(self, app: web.Application) -> None:
        """Add the routes; only dated versions, because v1 to v4 end in 2027."""
        objects = r"/crm/objects/{version:\d{4}-\d{2}}/{kind}"
        properties = r"/crm/properties/{version:\d{4}-\d{2}}/{kind}"
        app.router.add_post(objects, self._create)
        app.router.add_post(f"{objects}/search", self._search)
        app.router.add_post(f"{objects}/batch/upsert", self._upsert)
        app.router.add_put(f"{objects}/{{id}}/associations/default/{{other}}/{{other_id}}", self._associate)
        app.router.add_post(properties, self._make_property)
        app.router.add_post(f"{properties}/groups", self._make_group)
        app.router.add_get(f"{properties}/{{name}}", self._get_property)
        app.router.add_get(r"/crm/owners/{version:\d{4}-\d{2}}", self._owners)
        app.router.add_get("/calling/v1/dispositions", self._dispositions)

    def settings(self) -> dict[str, Any]:
        """Return the settings for the only key."""
        return {"preset": "hubspot", "url": self.url, "token": TOKEN}

    def prepare(self, name: str = KEY) -> None:
        """Make the unique property on calls and on tasks."""
        for kind in ("calls", "tasks"):
            self.properties[kind][name] = Property(unique=True, label=name)

    def migrate(self, seconds: float) -> None:
        """Answer 477 for so long, as while HubSpot moves an account to another data centre."""
        self._migrated_at = self.clock() + seconds

    def control(self, change: Mapping[str, Any]) -> None:
        """Know `prepared`, `scopes`, `index_delay` and `migrating` besides the common changes."""
        own: dict[str, Callable[[Any], None]] = {
            "prepared": lambda _: self.prepare(),
            "scopes": lambda value: setattr(self, "scopes", set(value)),
            "index_delay": lambda value: setattr(self, "index_delay", float(value)),
            "migrating": lambda value: self.migrate(float(value)),
        }
        for name in change.keys() & own.keys():
            own[name](change[name])
        super().control({name: value for name, value in change.items() if name not in own})

    def seed(self, kind: str, fields: Mapping[str, Any]) -> str:
        """Make a record that was there before; a contact's searchable numbers are calculated."""
        return super().seed(kind, fields if kind != "contacts" else dict(fields) | calculated(fields))

    # What is the same for all requests.

    def counts_in(self, request: web.Request) -> Mapping[str, int]:
        """Return what counts: the search has a limit of its own (guide "CRM search": 5 a second)."""
        common = {"rate": 1, "daily": 1}
        return {"search_rate": 1} | common if request.path.endswith("/search") else common

    def headers(self, request: web.Request) -> Mapping[str, str]:
        """Return the headers on limits, which the search does not have ("API usage guidelines")."""
        if request.path.endswith("/search"):
            return {}
        headers = {}
        if (rate := self.windows.get("rate")) is not None:
            headers["X-HubSpot-RateLimit-Max"] = str(rate.limit)
            headers["X-HubSpot-RateLimit-Remaining"] = str(rate.remaining)
            headers["X-HubSpot-RateLimit-Interval-Milliseconds"] = str(int(rate.seconds * 1000))
        if (daily := self.windows.get("daily")) is not None:
            headers["X-HubSpot-RateLimit-Daily"] = str(daily.limit)
            headers["X-HubSpot-RateLimit-Daily-Remaining"] = str(daily.remaining)
        return headers

    def too_many(self, window: str, wait: float) -> web.Response:  # noqa: ARG002 - HubSpot does not say it
        """Return 429 without `Retry-After` ("Error handling" promises none)."""
        policy = {"search_rate": "SECONDLY", "daily": "DAILY"}.get(window, "TEN_SECONDLY_ROLLING")
        body = {
            "status": "error",
            "message": f"You have reached your {policy.lower()} limit.",
            "errorType": "RATE_LIMIT",
            "correlationId": str(uuid.uuid4()),
            "policyName": policy,
        }
        return web.json_response(body, status=429)

    def unknown_route(self, status: int) -> web.Response:
        """Return HubSpot's page for a path that it does not have."""
        return web.Response(status=status, text="<html><body>Error</body></html>", content_type="text/html")

    def _admit(self, request: web.Request, scope: str) -> str:
        """Refuse what no handler would see; return the object type that the path names."""
        if (left := self._migrated_at - self.clock()) > 0:
            raise Refused(
                _error(
                    477,
                    "MIGRATION_IN_PROGRESS",
                    "This account is being migrated between data centers",
                    headers={"Retry-After": str(math.ceil(left))},
                )
            )
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer" or not self.is_good(token):
            raise Refused(
                _error(
                    401,
                    "INVALID_AUTHENTICATION",
                    "Authentication credentials not found. This API supports OAuth 2.0 authentication",
                )
            )
        if scope not in self.scopes:
            missing = {"message": "One or more of the following scopes are required."}
            missing |= {"context": {"requiredGranularScopes": [scope]}}  # type: ignore[dict-item]
            raise Refused(
                _error(
                    403,
                    "MISSING_SCOPES",
                    "This app hasn't been granted all required scopes to make this call.",
                    errors=[missing],
                )
            )
        kind = request.match_info.get("kind", "")
        if kind and kind not in self.properties:
            raise Refused(_error(400, "VALIDATION_ERROR", f"Unable to infer object type from: {kind}"))
        return kind

    # Objects.

    async def _create(self, request: web.Request) -> web.Response:
        kind = self._admit(request, "crm.objects.contacts.write")
        body = _body(await request.read(), {"properties", "associations"})
        properties, problems = self._checked(kind, body.get("properties"), is_new=True)
        problems += self._taken(kind, properties)
        if problems:
            raise Refused(_invalid(problems))
        record_id = self._write_new(kind, properties)
        for each in body.get("associations", []):
            self.associations.add((f"{kind}/{record_id}", f"contacts/{each['to']['id']}"))
        return web.json_response(self._shown(kind, record_id), status=201)

    async def _upsert(self, request: web.Request) -> web.Response:
        kind = self._admit(request, "crm.objects.contacts.write")
        inputs = _body(await request.read(), {"inputs"}).get("inputs")
        if not isinstance(inputs, list) or not inputs:
            raise Refused(_error(400, "VALIDATION_ERROR", "Invalid input JSON: inputs must not be empty"))
        if len(inputs) > _MAX_BATCH:
            say = f"The maximum number of inputs supported in a batch request is {_MAX_BATCH}"
            raise Refused(_error(400, "VALIDATION_ERROR", say))
        by = self._id_property(kind, inputs)
        items = [self._item(kind, by, each) for each in inputs]
        if len({item.id for item in items}) < len(items):  # action-destinations #3969
            raise Refused(_error(400, "VALIDATION_ERROR", "Duplicate IDs found in batch input"))
        for item in items:
            if self.locked & set(self.find(kind, **{by: item.id})):
                raise Refused(_error(423, "LOCKED", "The resource is locked"))
        return self._upserted(kind, by, items)

    def _id_property(self, kind: str, inputs: list[Any]) -> str:
        names = {each.get("idProperty") if isinstance(each, dict) else None for each in inputs}
        name = next(iter(names))
        if len(names) > 1 or not isinstance(name, str):
            raise Refused(_error(400, "VALIDATION_ERROR", "idProperty is required, and the same for all"))
        known = self.properties[kind].get(name)
        if known is None or not known.unique:  # quoted in action-destinations #3957
            say = f"Unable to perform update/upsert by non-unique {_TYPE_IDS[kind]} property {name}"
            raise Refused(_error(400, "VALIDATION_ERROR", say))
        return name

    def _item(self, kind: str, by: str, given: Mapping[str, Any]) -> _Item:
        if unknown := given.keys() - {"id", "idProperty", "properties", "objectWriteTraceId"}:
            raise Refused(_error(400, "VALIDATION_ERROR", f"Invalid input JSON: unknown {sorted(unknown)}"))
        if not isinstance(given.get("id"), str) or not given["id"]:
            raise Refused(_error(400, "VALIDATION_ERROR", "Invalid input JSON: id is required"))
        is_new = not self.find(kind, **{by: given["id"]})
        properties, problems = self._checked(kind, given.get("properties"), is_new=is_new)
        if properties.get(by, given["id"]) != given["id"]:
            problems.append(_problem(by, "CONFLICTING_UNIQUE_VALUE", f"{by} differs from the id"))
        return _Item(given["id"], {**properties, by: given["id"]}, given.get("objectWriteTraceId"), problems)

    def _upserted(self, kind: str, by: str, items: list[_Item]) -> web.Response:
        """Write the good items, if each bad one has a trace ("Error handling", multi-status errors)."""
        bad = [item for item in items if item.problems]
        for item in bad:
            if item.trace is None:
                raise Refused(_invalid(item.problems))
        results = []
        for item in items:
            if item.problems:
                continue
            existing = self.find(kind, **{by: item.id})
            if existing:
                self.change(kind, existing[0], item.properties)
            record_id = existing[0] if existing else self._write_new(kind, item.properties)
            shown = self._shown(kind, record_id) | {"new": not existing}
            results.append(shown | ({"objectWriteTraceId": item.trace} if item.trace else {}))
        now = _now()
        answer: dict[str, Any] = {"status": "COMPLETE", "startedAt": now, "completedAt": now}
        answer["results"] = results
        if not bad:
            return web.json_response(answer)
        errors = [
            {
                "status": "error",
                "category": "VALIDATION_ERROR",
                "message": _message(item.problems),
                "context": {"objectWriteTraceId": [item.trace]},
            }
            for item in bad
        ]
        return web.json_response(answer | {"numErrors": len(errors), "errors": errors}, status=207)

    def _checked(
        self, kind: str, given: object, *, is_new: bool
    ) -> tuple[dict[str, str], list[dict[str, Any]]]:
        if not isinstance(given, dict):
            raise Refused(_error(400, "VALIDATION_ERROR", "Invalid input JSON: properties is required"))
        problems = []
        for name, value in given.items():
            known = self.properties[kind].get(name)
            if known is None:
                say = f'Property "{name}" does not exist'
                problems.append(_problem(name, "PROPERTY_DOESNT_EXIST", say))
            elif known.read_only:
                problems.append(_problem(name, "READ_ONLY_VALUE", f"{name} is a read only property"))
            elif not isinstance(value, str):
                raise Refused(
                    _error(400, "VALIDATION_ERROR", f"Invalid input JSON: {name} must be text, not {value!r}")
                )
            elif value and (complaint := known.complaint(value, self.records["owners"])):
                problems.append(_problem(name, *complaint))
        required = _REQUIRED[kind]
        if is_new and required and not given.get(required):
            problems.append(_problem(required, "REQUIRED_FIELD", f"Required property {required} is missing"))
        return given, problems

    def _taken(self, kind: str, properties: Mapping[str, str]) -> list[dict[str, Any]]:
        """Return the unique properties whose value another record has."""
        return [
            _problem(name, "CONFLICTING_UNIQUE_VALUE", f"{value} is already used by another record")
            for name, value in properties.items()
            if self.properties[kind].get(name, Property()).unique and self.find(kind, **{name: value})
        ]

    def _write_new(self, kind: str, properties: Mapping[str, str]) -> str:
        fields = dict(properties) | (calculated(properties) if kind == "contacts" else {})
        record_id = self.make(kind, fields)
        self._visible_from[record_id] = self.clock() + self.index_delay
        return record_id

    def _shown(self, kind: str, record_id: str) -> dict[str, Any]:
        properties = {**self.records[kind][record_id], "hs_object_id": record_id}
        now = _now()
        return {
            "id": record_id,
            "properties": properties,
            "createdAt": now,
            "updatedAt": now,
            "archived": False,
        }

    async def _associate(self, request: web.Request) -> web.Response:
        kind = self._admit(request, "crm.objects.contacts.write")
        one, other, other_id = (request.match_info[name] for name in ("id", "other", "other_id"))
        if other not in self.properties:
            raise Refused(_error(400, "VALIDATION_ERROR", f"Unable to infer object type from: {other}"))
        if one not in self.records[kind] or other_id not in self.records[other]:
            raise Refused(_error(404, "OBJECT_NOT_FOUND", "Some objects of the association do not exist"))
        if self.locked & {one, other_id}:
            raise Refused(_error(423, "LOCKED", "The resource is locked"))
        self.associations.add((f"{kind}/{one}", f"{other}/{other_id}"))
        self._changes += 1
        spec = {"associationCategory": "HUBSPOT_DEFINED", "associationTypeId": _TO_CONTACT.get(kind, 0)}
        result = {"from": {"id": one}, "to": {"id": other_id}, "associationSpec": spec}
        return web.json_response({"status": "COMPLETE", "results": [result]})

    # Search.

    async def _search(self, request: web.Request) -> web.Response:
        kind = self._admit(request, "crm.objects.contacts.read")
        allowed = {"filterGroups", "properties", "sorts", "after", "limit", "query"}
        body = _body(await request.read(), allowed)
        groups, limit = body.get("filterGroups", []), body.get("limit", 10)
        if not isinstance(limit, int) or not 0 < limit <= _MAX_FOUND:
            raise Refused(_error(400, "VALIDATION_ERROR", f"limit must be at most {_MAX_FOUND}"))
        if not isinstance(groups, list) or not 0 < len(groups) <= _MAX_GROUPS:
            raise Refused(_error(400, "VALIDATION_ERROR", f"1 to {_MAX_GROUPS} filterGroups are supported"))
        found = [
            record_id
            for record_id in self.records[kind]
            if self._visible_from.get(record_id, -math.inf) <= self.clock()
            and any(self._fits(kind, record_id, group) for group in groups)
        ]
        results = [self._shown(kind, each) for each in found[:limit]]
        wanted = {*body.get("properties", []), "hs_object_id"}
        for each in results:
            # A property that was asked for and is not set is there, as null.
            each["properties"] = {name: each["properties"].get(name) for name in sorted(wanted)}
        return web.json_response({"total": len(found), "results": results})

    def _fits(self, kind: str, record_id: str, group: Mapping[str, Any]) -> bool:
        filters = group.get("filters")
        if not isinstance(filters, list) or not 0 < len(filters) <= _MAX_FILTERS:
            raise Refused(_error(400, "VALIDATION_ERROR", f"1 to {_MAX_FILTERS} filters are supported"))
        for each in filters:
            name, operator = each.get("propertyName"), each.get("operator")
            if name not in self.properties[kind]:
                raise Refused(_error(400, "VALIDATION_ERROR", f"There was a problem with property {name}"))
            if operator not in {"EQ", "IN"}:
                raise Refused(_error(400, "VALIDATION_ERROR", f"this stand-in has no operator {operator}"))
            values = [each.get("value")] if operator == "EQ" else each.get("values", [])
            if not values or not all(isinstance(value, str) and value for value in values):
                raise Refused(_error(400, "VALIDATION_ERROR", f"{operator} on {name} needs a value"))
            if self.records[kind][record_id].get(name) not in values:
                return False
        return True

    # Properties, owners, dispositions.

    async def _make_property(self, request: web.Request) -> web.Response:
        kind = self._admit(request, "crm.schemas.contacts.write")
        body = _body(await request.read(), {*_NEW_PROPERTY, "hasUniqueValue", "description"})
        if missing := _NEW_PROPERTY - body.keys():
            raise Refused(_error(400, "VALIDATION_ERROR", f"Invalid input JSON: missing {sorted(missing)}"))
        name = body["name"]
        if re.fullmatch(r"[a-z][a-z0-9_]*", name) is None:
            raise Refused(_error(400, "VALIDATION_ERROR", f"{name} is no valid property name"))
        if body["groupName"] not in self.groups[kind]:
            raise Refused(_error(400, "VALIDATION_ERROR", f"property group {body['groupName']} is missing"))
        if name in self.properties[kind]:
            raise Refused(_error(409, "OBJECT_ALREADY_EXISTS", f"A property named '{name}' already exists."))
        unique = bool(body.get("hasUniqueValue"))
        if unique and sum(each.unique for each in self.properties[kind].values()) >= _MAX_UNIQUE:
            raise Refused(_error(400, "VALIDATION_ERROR", f"at most {_MAX_UNIQUE} unique properties"))
        made = Property(body["type"], unique=unique, group=body["groupName"], label=body["label"])
        self.properties[kind][name] = made
        return web.json_response(described(name, made), status=201)

    async def _make_group(self, request: web.Request) -> web.Response:
        kind = self._admit(request, "crm.schemas.contacts.write")
        body = _body(await request.read(), {"name", "label", "displayOrder"})
        if missing := {"name", "label"} - body.keys():
            raise Refused(_error(400, "VALIDATION_ERROR", f"Invalid input JSON: missing {sorted(missing)}"))
        if body["name"] in self.groups[kind]:
            raise Refused(_error(409, "OBJECT_ALREADY_EXISTS", f"group '{body['name']}' already exists."))
        self.groups[kind].add(body["name"])
        return web.json_response({"name": body["name"], "label": body["label"]}, status=201)

    async def _get_property(self, request: web.Request) -> web.Response:
        kind, name = self._admit(request, "crm.schemas.contacts.read"), request.match_info["name"]
        if name not in self.properties[kind]:
            raise Refused(_error(404, "OBJECT_NOT_FOUND", f"Property {name} does not exist"))
        return web.json_response(described(name, self.properties[kind][name]))

    async def _owners(self, request: web.Request) -> web.Response:
        self._admit(request, "crm.objects.owners.read")
        email = request.query.get("email")
        found = [
            {"id": owner_id, "archived": False, **fields}
            for owner_id, fields in self.records["owners"].items()
            if email is None or fields.get("email", "").lower() == email.lower()
        ]
        return web.json_response({"results": found[: int(request.query.get("limit", "100"))]})

    async def _dispositions(self, request: web.Request) -> web.Response:
        self._admit(request, "crm.objects.contacts.read")
        return web.json_response([{"id": each, "label": label} for each, label in DISPOSITIONS.items()])


STAND_IN: Final = HubSpotStandIn


def _error(
    status: int,
    category: str,
    message: str,
    *,
    errors: list[dict[str, Any]] | None = None,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    body: dict[str, Any] = {"status": "error", "message": message, "correlationId": str(uuid.uuid4())}
    body |= {"category": category} | ({"errors": errors} if errors else {})
    return web.json_response(body, status=status, headers=headers)


def _problem(name: str, code: str, message: str) -> dict[str, Any]:
    return {"isValid": False, "message": message, "error": code, "name": name}


def _message(problems: list[dict[str, Any]]) -> str:
    return f"Property values were not valid: {json.dumps(problems)}"


def _invalid(problems: list[dict[str, Any]]) -> web.Response:
    errors = [
        {"message": each["message"], "code": each["error"], "context": {"propertyName": [each["name"]]}}
        for each in problems
    ]
    return _error(400, "VALIDATION_ERROR", _message(problems), errors=errors)


def _body(body: bytes, allowed: set[str]) -> dict[str, Any]:
    try:
        value = json_object(body)
    except ValueError as error:
        raise Refused(_error(400, "VALIDATION_ERROR", f"Invalid input JSON: {error}")) from error
    if unknown := value.keys() - allowed:
        raise Refused(_error(400, "VALIDATION_ERROR", f"Invalid input JSON: unknown {sorted(unknown)}"))
    return value


def _now() -> str:
    return datetime.now(tz=UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
