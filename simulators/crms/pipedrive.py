"""A Pipedrive account: activities and persons at version 2 of the API, users and activity types at version 1.

Sources: Pipedrive's own client (github.com/pipedrive/client-nodejs, made from its OpenAPI description) for
requests and answers; pipedrive.readme.io/docs/core-api-concepts-rate-limiting (2026-09) for limits and what a
request costs.

Not confirmed on a real account: the texts of refusals; that unknown fields of a body are refused; the header
x-daily-ratelimit-token-remaining (seen by others, not documented); when Cloudflare blocks, and for how long;
that an unknown person, user or activity type is refused with 400.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from aiohttp import web

from simulators.crms.base import CrmStandIn, Refused, json_object

TOKEN: Final = "stand-in-token"  # noqa: S105 - opens nothing

_MARK: Final = re.compile(r"\bCall ([A-Za-z0-9._-]+)")
"""How the service marks an activity in its note; only the account of doubles reads it."""
_MAX_LISTED, _LISTED = 500, 100  # parameter `limit` of each list
_SORTS = ("id", "update_time", "add_time", "due_date")
_SEARCHED = {"custom_fields", "email", "notes", "phone", "name"}  # GET /persons/search, `fields`
_TEXTS = {"subject", "type", "note", "public_description", "lead_id"}
_NUMBERS = {"owner_id", "deal_id", "person_id", "org_id", "project_id", "priority"}
_FLAGS = {"done", "busy"}
_FORMATS = {
    "due_date": r"\d{4}-\d\d-\d\d",
    "due_time": r"([01]\d|2[0-3]):[0-5]\d(:[0-5]\d)?",
    "duration": r"\d\d:[0-5]\d(:[0-5]\d)?",
}
_CLOUDFLARE = (
    "<!DOCTYPE html>\n<html><head><title>Access denied</title></head>"
    "<body><h1>Error 1015</h1><p>You are being rate limited</p></body></html>\n"
)


def refusal(status: int, error: str, **more: object) -> web.Response:
    """Return an error as Pipedrive words one."""
    body = {"success": False, "error": error, "errorCode": status, **more}
    return web.json_response(body, status=status)


class PipedriveStandIn(CrmStandIn):
    """One account of the plan Lite with one seat, and the API token of its administrator.

    Attributes:
        types: The keys of the active activity types.
        blocked: Seconds for which Cloudflare answers instead of Pipedrive, from now on; set it by `block`.
    """

    title = "Pipedrive"
    rate_seconds = 2.0  # burst limits count in windows of two seconds
    search_seconds = 2.0

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - as the base has them
        """Prepare an account with the limits of one seat of the plan Lite."""
        super().__init__(**options)
        self.key_fields = {"activities": "key"}
        self.types = {"call", "meeting", "task", "deadline", "email", "lunch"}
        self._blocked_until = 0.0
        self.limit("rate", 20)
        self.limit("search_rate", 10)
        self.limit("daily", 30_000)

    def route(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_get("/api/v2/persons/search", self._search)
        app.router.add_get("/api/v2/activities", self._list)
        app.router.add_post("/api/v2/activities", self._add)
        app.router.add_patch("/api/v2/activities/{id}", self._update)
        app.router.add_get("/api/v1/activityTypes", self._types)
        app.router.add_get("/api/v1/users/find", self._find_users)

    def settings(self) -> dict[str, Any]:
        """Return the settings for the only token."""
        return {"preset": "pipedrive", "url": self.url, "token": TOKEN}

    def block(self, seconds: float) -> None:
        """Let Cloudflare answer for so long: 403 with a page, after too many refused requests."""
        self._blocked_until = self.clock() + seconds

    def control(self, change: Mapping[str, Any]) -> None:
        """Know `blocked` and `types` besides the common changes."""
        own: dict[str, Callable[[Any], None]] = {
            "blocked": lambda value: self.block(float(value)),
            "types": lambda value: setattr(self, "types", set(value)),
        }
        for name in change.keys() & own.keys():
            own[name](change[name])
        super().control({name: value for name, value in change.items() if name not in own})

    def unknown_route(self, status: int) -> web.Response:
        """Answer as to an unknown address, or method."""
        return refusal(status, "Unknown method." if status == 404 else "Method not allowed")

    def too_many(self, window: str, wait: float) -> web.Response:
        """Answer 429 as at the end of a burst, or of the day's tokens."""
        answer = refusal(429, "request over limit")
        answer.headers["x-ratelimit-reset"] = "2" if window == "daily" else str(max(1, math.ceil(wait)))
        return answer

    def counts_in(self, request: web.Request) -> Mapping[str, int]:
        """Return the tokens that a request costs: at version 2 half of those at version 1."""
        if request.path.endswith("/search"):
            return {"rate": 1, "search_rate": 1, "daily": 20}
        listed = request.method == "GET"
        cost = 20 if listed else 10
        return {"rate": 1, "daily": cost // 2 if "/v2/" in request.path else cost}

    def headers(self, request: web.Request) -> Mapping[str, str]:  # noqa: ARG002 - the same for each
        """Return the limits, and what is left of them."""
        found: dict[str, str] = {}
        if (burst := self.windows.get("rate")) is not None:
            found |= {"x-ratelimit-limit": str(burst.limit), "x-ratelimit-remaining": str(burst.remaining)}
        if (daily := self.windows.get("daily")) is not None:
            cheapest = 5  # below the cost of any request, nothing is left
            left = daily.remaining if daily.remaining >= cheapest else 0
            found["x-daily-ratelimit-token-remaining"] = str(left)
        return found

    def _admit(self, request: web.Request) -> None:
        if self._blocked_until > self.clock():
            raise Refused(web.Response(status=403, text=_CLOUDFLARE, content_type="text/html"))
        token = request.headers.get("x-api-token") or request.query.get("api_token")
        if token != TOKEN:
            said = "Please check developers.pipedrive.com"
            raise Refused(refusal(401, "unauthorized access", error_info=said))

    # Persons, users and types.

    async def _search(self, request: web.Request) -> web.Response:
        self._admit(request)
        query = request.query
        term, exact = query.get("term", ""), query.get("exact_match") in {"true", "1"}
        if len(term) < (1 if exact else 2):
            raise Refused(refusal(400, "term must be at least 2 characters long"))
        fields = set(query["fields"].split(",")) if "fields" in query else _SEARCHED
        if not fields <= _SEARCHED:
            raise Refused(refusal(400, "fields has an invalid value"))
        limit = _limit(query.get("limit"))
        found = [
            {"result_score": 1.0, "item": _person(int(each), person)}
            for each, person in self.records["persons"].items()
            if _matches(person, term, fields, exact=exact)
        ]
        return _data({"items": found[:limit]}, more=len(found) > limit)

    async def _find_users(self, request: web.Request) -> web.Response:
        self._admit(request)
        term = request.query.get("term", "").lower()
        if not term:
            raise Refused(refusal(400, "term is required"))
        field = "email" if request.query.get("search_by_email") in {"1", "true"} else "name"
        users = [{"id": int(each), **user} for each, user in self.records["users"].items()]
        found = [user for user in users if term in str(user.get(field, "")).lower()]
        return _data(found or None)

    async def _types(self, request: web.Request) -> web.Response:
        self._admit(request)
        types = [{"id": place, "key_string": each} for place, each in enumerate(sorted(self.types), 1)]
        return _data([each | {"name": each["key_string"], "active_flag": True} for each in types])

    # Activities.

    async def _list(self, request: web.Request) -> web.Response:
        self._admit(request)
        query = request.query
        if query.get("done", "true") not in {"true", "false"}:
            raise Refused(refusal(400, "done must be a boolean"))
        if query.get("sort_direction", "asc") not in {"asc", "desc"}:
            raise Refused(refusal(400, "sort_direction has an invalid value"))
        order = query.get("sort_by", "id")
        if order not in _SORTS:
            raise Refused(refusal(400, "sort_by has an invalid value"))
        since = _time(query.get("updated_since"))
        limit = _limit(query.get("limit"))
        found = [
            activity
            for activity in (self._shown(each) for each in self.records["activities"])
            if (since is None or datetime.fromisoformat(activity["update_time"]) >= since)
            and ("done" not in query or activity["done"] is (query["done"] == "true"))
            and all(str(activity[name]) == query[name] for name in ("person_id", "owner_id") if name in query)
        ]
        found.sort(
            key=lambda activity: (str(activity[order]) if order != "id" else "", activity["id"]),
            reverse=query.get("sort_direction") == "desc",
        )
        return _data(found[:limit], more=len(found) > limit)

    async def _add(self, request: web.Request) -> web.Response:
        self._admit(request)
        fields = self._checked(await _body(request))
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        marked = _MARK.search(fields.get("note", ""))
        made = {"type": "call", "done": False, **fields, "add_time": now, "update_time": now}
        if marked is not None:
            made["key"] = marked[1]
        return _data(self._shown(self.make("activities", made)))

    async def _update(self, request: web.Request) -> web.Response:
        self._admit(request)
        activity_id = request.match_info["id"]
        fields = self._checked(await _body(request))
        if activity_id not in self.records["activities"]:
            raise Refused(refusal(404, "Activity not found"))
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.change("activities", activity_id, fields | {"update_time": now})
        return _data(self._shown(activity_id))

    def _shown(self, activity_id: str) -> dict[str, Any]:
        kept = {k: v for k, v in self.records["activities"][activity_id].items() if k != "key"}
        primary = [each["person_id"] for each in kept.get("participants", []) if each.get("primary")]
        unset = dict.fromkeys((*_TEXTS, *_NUMBERS, *_FORMATS))
        return {**unset, "id": int(activity_id), "person_id": primary[0] if primary else None, **kept}

    def _checked(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Return the fields of an activity; refuse those that are wrong."""
        for name, value in fields.items():
            if not _is_right(name, value):
                raise Refused(_invalid(f"{name}: invalid value or unknown field"))
        if fields.get("type", "call") not in self.types:
            raise Refused(_invalid("type: no active activity type has this key"))
        persons = [each["person_id"] for each in fields.get("participants", [])]
        ids = [("persons", each) for each in (*persons, fields.get("person_id"))]
        ids += [("users", fields.get("owner_id")), ("organizations", fields.get("org_id"))]
        for kind, each in ids:
            if each is not None and str(each) not in self.records[kind]:
                raise Refused(_invalid(f"{kind[:-1]} {each} not found"))
        return fields


def _is_right(name: str, value: object) -> bool:
    if name in _TEXTS:
        return isinstance(value, str)
    if name in _FLAGS:
        return isinstance(value, bool)
    if name in _NUMBERS:
        return type(value) is int
    if name in _FORMATS:
        return isinstance(value, str) and re.fullmatch(_FORMATS[name], value) is not None
    return name == "participants" and isinstance(value, list) and all(_is_participant(each) for each in value)


def _is_participant(value: object) -> bool:
    return (
        isinstance(value, dict)
        and type(value.get("person_id")) is int
        and isinstance(value.get("primary", False), bool)
        and set(value) <= {"person_id", "primary"}
    )


def _invalid(said: str) -> web.Response:
    return refusal(400, f"Validation failed: {said}", code="ERR_SCHEMA_VALIDATION_FAILED")


def _limit(written: str | None) -> int:
    limit = int(written) if written is not None and written.isdecimal() else _LISTED
    if not 1 <= limit <= _MAX_LISTED or (written is not None and not written.isdecimal()):
        raise Refused(refusal(400, "limit must be a number from 1 to 500"))
    return limit


def _time(written: str | None) -> datetime | None:
    """Parse a time in RFC 3339, of which a zone is a part."""
    if written is None:
        return None
    if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)", written):
        raise Refused(refusal(400, "updated_since must be in RFC3339 format"))
    return datetime.fromisoformat(written)


def _person(person_id: int, person: Mapping[str, Any]) -> dict[str, Any]:
    shown = {"id": person_id, "type": "person", "emails": [], "phones": [], "organization": None}
    return shown | dict(person)


def _matches(person: Mapping[str, Any], term: str, fields: set[str], *, exact: bool) -> bool:
    """Compare phone numbers by their digits, and the name as text; anywhere in them, unless `exact`."""
    phones, name = person.get("phones", []), person.get("name", "")
    if exact:
        return ("phone" in fields and term in phones) or ("name" in fields and term == name)
    digits = re.sub(r"\D", "", term)
    if "phone" in fields and digits and any(digits in re.sub(r"\D", "", phone) for phone in phones):
        return True
    return "name" in fields and term.lower() in name.lower()


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        return json_object(await request.read())
    except (ValueError, json.JSONDecodeError) as wrong:
        raise Refused(_invalid("the body is no JSON object")) from wrong


def _data(data: object, *, more: bool = False) -> web.Response:
    return web.json_response(
        {"success": True, "data": data, "additional_data": {"next_cursor": "next" if more else None}}
    )


STAND_IN = PipedriveStandIn
