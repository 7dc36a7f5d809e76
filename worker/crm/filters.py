"""The filters and tests of templates: pure functions of which null in gives null out.

A filter that can't do its work raises `Unusable`, whose text holds no data of the event.
"""

import functools
import hashlib
import html as html_text
import json as json_text
import math
import operator
import re
import uuid as uuids
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import quote
from zoneinfo import ZoneInfo

from markupsafe import Markup

from worker.core.retry_after import retry_after

NAMESPACE: Final = uuids.UUID("5f1d7c52-6f0b-5a3e-9d0c-2b1c7c0f9a64")
"""Of the UUIDs that are made from texts. It never changes, or repeats would be new records."""
LONGEST: Final = 256 * 1024
"""Characters that a filter may give; it bounds what `replace` and `join` can grow."""

Filter = Callable[..., Any]


class Unusable(ValueError):
    """An expression that can't be used, or has no value; its text may be shown."""


def _null_safe(function: Filter) -> Filter:
    @functools.wraps(function)
    def safe(value: Any, *args: Any, **named: Any) -> Any:
        return None if value is None else function(value, *args, **named)

    return safe


# --- operators, which templates write as such -----------------------------------------------------

_COMPARISONS: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "lteq": operator.le,
    "gt": operator.gt,
    "gteq": operator.ge,
    "in": lambda value, others: value in others,
    "notin": lambda value, others: value not in others,
}


def compare(left: Any, comparison: str, right: Any) -> bool:
    """Compare two values; null equals null, and is neither less, nor greater, nor in anything."""
    if comparison in {"eq", "ne"}:
        return bool(_COMPARISONS[comparison](left, right))
    if right is None or (left is None and not isinstance(right, list | tuple | dict)):
        return comparison == "notin"
    try:
        return bool(_COMPARISONS[comparison](left, right))
    except TypeError as error:
        kinds = f"{type(left).__name__} and {type(right).__name__}"
        raise Unusable(f"can't compare {kinds}") from error


def concatenate(*parts: Any) -> str:
    """Join values as text; null is empty."""
    return "".join(text(part) or "" for part in parts)


# --- times ----------------------------------------------------------------------------------------


def _time(value: Any) -> datetime:
    if isinstance(value, datetime):
        return value if value.tzinfo is not None else value.replace(tzinfo=UTC)
    try:
        if isinstance(value, int | float):
            return datetime.fromtimestamp(value, UTC)
        found = datetime.fromisoformat(str(value).strip())
    except (ValueError, OverflowError, OSError) as error:
        raise Unusable("is no time") from error
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


@functools.lru_cache(maxsize=64)
def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError) as error:
        raise Unusable(f"{name[:60]!r} is no IANA time zone") from error


def _in_zone(value: Any, zone: str | None) -> datetime:
    found = _time(value)
    return found.astimezone(_zone(zone)) if zone else found


@_null_safe
def epoch_ms(value: Any) -> int:
    """Return a time as milliseconds since 1970."""
    return round(_time(value).timestamp() * 1000)


@_null_safe
def epoch(value: Any) -> int:
    """Return a time as whole seconds since 1970."""
    return int(_time(value).timestamp())


@_null_safe
def utc(value: Any, fmt: str = "%Y-%m-%dT%H:%M:%SZ") -> str:
    """Return a time in UTC."""
    return _time(value).astimezone(UTC).strftime(fmt)


@_null_safe
def local(value: Any, zone: str | None, fmt: str = "%Y-%m-%d %H:%M:%S") -> str:
    """Return a time in a zone; if that is null, in its own."""
    return _in_zone(value, zone).strftime(fmt)


@_null_safe
def iso(value: Any, zone: str | None = None) -> str:
    """Return a time in ISO 8601 with its offset, in whole seconds."""
    return _in_zone(value, zone).isoformat(timespec="seconds")


@_null_safe
def date(value: Any, zone: str | None = None) -> str:
    """Return the day of a time, such as 2026-11-20."""
    return _in_zone(value, zone).strftime("%Y-%m-%d")


@_null_safe
def time(value: Any, zone: str | None = None) -> str:
    """Return the time of the day, such as 14:05:09."""
    return _in_zone(value, zone).strftime("%H:%M:%S")


# --- durations in seconds, and other numbers ------------------------------------------------------


def _number(value: Any) -> int | float:
    if isinstance(value, int | float):
        return value
    written = str(value).strip()
    try:
        found = int(written) if re.fullmatch(r"[-+]?[0-9]{1,18}", written) else float(written)
    except ValueError as error:
        raise Unusable("is no number") from error
    if not math.isfinite(found):
        raise Unusable("is no number")
    return found


def _started_minutes(value: Any) -> int:
    return math.ceil(max(_number(value), 0) / 60)


@_null_safe
def seconds(value: Any) -> int:
    """Return whole seconds."""
    return int(_number(value))


@_null_safe
def minutes(value: Any) -> int:
    """Return seconds as minutes; a minute that has begun counts."""
    return _started_minutes(value)


@_null_safe
def hours(value: Any) -> int:
    """Return the whole hours of seconds; the rest is in `minutes_past_hour`."""
    return _started_minutes(value) // 60


@_null_safe
def minutes_past_hour(value: Any) -> int:
    """Return the minutes of seconds without the whole hours."""
    return _started_minutes(value) % 60


@_null_safe
def mmss(value: Any) -> str:
    """Return seconds as 02:05; a hundred minutes are 100:00."""
    whole = max(int(_number(value)), 0)
    return f"{whole // 60:02}:{whole % 60:02}"


@_null_safe
def hhmm(value: Any) -> str:
    """Return seconds as hours and minutes, such as 00:03; a minute that has begun counts."""
    whole = _started_minutes(value)
    return f"{whole // 60:02}:{whole % 60:02}"


@_null_safe
def hms(value: Any) -> str:
    """Return seconds as 00:02:05."""
    whole = max(int(_number(value)), 0)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"


@_null_safe
def times(value: Any, factor: float) -> int | float:
    """Multiply."""
    return _number(value) * _number(factor)


@_null_safe
def plus(value: Any, addend: float | None) -> Any:
    """Add; to a time, seconds. Null plus anything is null."""
    if addend is None:
        return None
    if isinstance(value, datetime):
        return value + timedelta(seconds=_number(addend))
    return _number(value) + _number(addend)


@_null_safe
def number(value: Any) -> int | float:
    """Return the number that a text holds."""
    return _number(value)


@_null_safe
def integer(value: Any) -> int:
    """Return a number without its fraction."""
    return int(_number(value))


# --- text -----------------------------------------------------------------------------------------


@_null_safe
def text(value: Any) -> str:
    """Return a value as text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list | tuple):
        return _as_json(value)
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _bounded(found: str) -> str:
    if len(found) > LONGEST:
        raise Unusable(f"grows to more than {LONGEST} characters")
    return found


@_null_safe
def clip(value: Any, length: int) -> str:
    """Return the first characters, at most so many."""
    return str(text(value))[:length]


@_null_safe
def lower(value: Any) -> str:
    """Return text in lower case."""
    return str(text(value)).lower()


@_null_safe
def upper(value: Any) -> str:
    """Return text in upper case."""
    return str(text(value)).upper()


@_null_safe
def title(value: Any) -> str:
    """Return text of which each word begins with a capital."""
    return str(text(value)).title()


@_null_safe
def join(value: Any, separator: str = ", ") -> str | None:
    """Join the items of a list that are not null; null if there are none."""
    items = value if isinstance(value, list | tuple) else [value]
    parts = [str(text(item)) for item in items if item is not None]
    return _bounded(separator.join(parts)) if parts else None


@_null_safe
def spread(value: Any, between: str) -> str:
    """Put a text between the characters of another, such as the wildcard of a search."""
    return _bounded(between.join(str(text(value))))


@_null_safe
def replace(value: Any, old: str, new: str) -> str:
    """Replace a part of a text wherever it stands."""
    whole = str(text(value))
    if not old:
        raise Unusable("replaces nothing")
    if len(whole) + whole.count(old) * max(len(new) - len(old), 0) > LONGEST:
        raise Unusable(f"grows to more than {LONGEST} characters")
    return whole.replace(old, new)


@_null_safe
def split(value: Any, separator: str) -> list[str]:
    """Return the parts of a text, of at most a thousand separators."""
    if not separator:
        raise Unusable("splits at nothing")
    return str(text(value)).split(separator, 1000)


@_null_safe
def first(value: Any) -> Any:
    """Return the first item of a list."""
    return value[0] if isinstance(value, list | tuple) and value else None


def _field(item: Any, path: str) -> str | None:
    """Return a field of an item as text; `path` is dotted."""
    for name in path.split("."):
        item = item.get(name) if isinstance(item, dict) else None
    found: str | None = text(item)
    return found


@_null_safe
def find(value: Any, path: str, wanted: Any) -> Any:
    """Return the first item of a list of which a field equals a text, whatever its case."""
    if wanted is None or not isinstance(value, list | tuple):
        return None
    sought = str(text(wanted)).casefold()
    return next((item for item in value if (_field(item, path) or "").casefold() == sought), None)


@_null_safe
def containing(value: Any, path: str, wanted: Any) -> Any:
    """Return the first item of a list of which a field contains a text."""
    if not wanted or not isinstance(value, list | tuple):
        return None
    sought = str(text(wanted))
    return next((item for item in value if sought in (_field(item, path) or "")), None)


def default(value: Any, instead: Any) -> Any:
    """Return the value, or another if it is null."""
    return instead if value is None else value


def required(value: Any, what: str = "a required value is missing") -> Any:
    """Return the value; null and empty text fail the delivery."""
    if value in (None, ""):
        raise Unusable(what)
    return value


# --- forms of text that others parse --------------------------------------------------------------


def uuid_of(name: str) -> str:
    """Return the UUIDv5 of a text, always the same."""
    return str(uuids.uuid5(NAMESPACE, name))


@_null_safe
def uuid5(value: Any) -> str:
    """Return the UUIDv5 of a text, always the same."""
    return uuid_of(str(text(value)))


@_null_safe
def base64(value: Any) -> str:
    """Return text in base64."""
    return b64encode(str(text(value)).encode()).decode()


@_null_safe
def md5(value: Any) -> str:
    """Return the MD5 of a text, which some logins want."""
    return hashlib.md5(str(text(value)).encode(), usedforsecurity=False).hexdigest()


@_null_safe
def html(value: Any) -> Markup:
    """Escape text for HTML."""
    if isinstance(value, Markup):
        return value
    return Markup(html_text.escape(str(text(value))))  # noqa: S704 - it is escaped


@_null_safe
def sosl(value: Any) -> str:
    """Escape text for a Salesforce search (FIND {…})."""
    return re.sub(r"""([?&|!{}\[\]()^~*:\\"'+-])""", r"\\\1", str(text(value)))


@_null_safe
def soql(value: Any) -> str:
    """Escape text for a text in quotes in a query of Salesforce or Zoho."""
    escaped = re.sub(r"""([\\'"])""", r"\\\1", str(text(value)))
    return escaped.replace("\n", "\\n").replace("\r", "\\r")


@_null_safe
def odata(value: Any) -> str:
    """Escape text for a text in quotes in an OData filter."""
    return str(text(value)).replace("'", "''")


@_null_safe
def vtql(value: Any) -> str:
    """Escape text for a text in quotes in a query of vtiger."""
    return str(text(value)).replace("'", "''")


@_null_safe
def urlquote(value: Any) -> str:
    """Escape text for a part of a path."""
    return quote(str(text(value)), safe="")


def _as_json(value: Any) -> str:
    return json_text.dumps(value, ensure_ascii=False, separators=(",", ":"), default=text)


@_null_safe
def json(value: Any) -> str:
    """Return a value as JSON."""
    return _as_json(value)


# --- tests ----------------------------------------------------------------------------------------


def is_https(value: Any) -> bool:
    """Return whether a text is an address that begins with https://."""
    return isinstance(value, str) and value.lower().startswith("https://")


TESTS: Final[Mapping[str, Callable[..., bool]]] = {
    "https": is_https,
    "none": lambda value: value is None,
    "defined": lambda value: value is not None,
}
"""The tests of templates (`x is https`), by their names."""

PURE: Final[Mapping[str, Filter]] = {
    each.__name__: each
    for each in (
        *(epoch_ms, epoch, utc, local, iso, date, time),
        *(seconds, minutes, hours, minutes_past_hour, mmss, hhmm, hms, times, plus, number),
        *(text, clip, lower, upper, title, join, spread, replace, split, default, required),
        *(first, find, containing),
        *(uuid5, base64, md5, html, sosl, soql, odata, vtql, urlquote, json),
    )
} | {"int": integer}
"""The filters that need nothing but their arguments, by their names."""


def seconds_until(now: Callable[[], datetime]) -> Filter:
    """Make the filter that reads a Retry-After header; null if it can't be read."""

    @_null_safe
    def seconds_until(value: Any) -> float | None:
        """Return the seconds that a header such as Retry-After asks to wait, at most an hour."""
        wait = retry_after(str(value), now().timestamp())
        return None if wait is None else wait.total_seconds()

    return seconds_until


def of_tables(lookup: Callable[[str, Any], Any], known: Sequence[str]) -> Filter:
    """Make the filter `table`."""

    def table(value: Any, name: str) -> Any:
        """Return the row of a table, else its row `*`, else null."""
        return lookup(name, value)

    def check(name: object = None, *_: object) -> None:
        if not isinstance(name, str) or name not in known:
            raise Unusable(f"uses an unknown table; known are {', '.join(sorted(known)) or 'none'}")

    table.check = check  # type: ignore[attr-defined] # called when the template is compiled
    return table
