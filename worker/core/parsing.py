"""Parsing what producers write: a message's body, a time, an id.

**A body** is one JSON object, bounded in size, in depth and in what its numbers can hold. One within the
limit costs at most a small multiple of what `json.loads` alone does, in time and in memory.

**A time** is RFC 3339 in full, and ISO 8601 as far as it has only one meaning. `datetime.fromisoformat`
refuses some of RFC 3339 (small letters, leap seconds), and what it accepts differs between versions of
Python.

**An id** goes through script languages, tables and data frames on its way: a number becomes a fraction,
gets leading zeros, or is replaced by a word for "nothing", and a text gets blanks around it. The functions
here return the id that is meant, or `None` if none is.
"""

import json
import math
import re
import uuid
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from typing import Any, NoReturn

from worker.core.errors import InvalidEvent

# --- a body ---------------------------------------------------------------------------------------

MAX_BODY = 1024 * 1024
"""The largest body that is parsed, in bytes."""

MAX_DEPTH = 100
"""How deep arrays and objects may be nested; pydantic can't write more than about 200."""

_TOO_DEEP = f"arrays and objects are nested more than {MAX_DEPTH} deep"


def parse_object(body: bytes, what: str = "the body") -> dict[str, Any]:
    """Parse a JSON object. Raises `InvalidEvent`, whose text calls the body `what`."""
    if len(body) > MAX_BODY:
        raise InvalidEvent(f"{what} has {len(body)} bytes; the limit is {MAX_BODY}")
    try:
        data = _JSON.decode(body.decode().removeprefix("\ufeff"))
        if b"\\ud" in body or b"\\uD" in body:
            json.dumps(data, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise InvalidEvent(f"{what} is not UTF-8: {error.reason} at byte {error.start}") from error
    except UnicodeEncodeError as error:
        raise InvalidEvent(f"{what} has half of a surrogate pair, which no text can hold") from error
    except RecursionError as error:
        raise InvalidEvent(_TOO_DEEP) from error
    except ValueError as error:
        problem, _, _ = str(error).partition("; use sys.")  # Python's hint on long numbers
        raise InvalidEvent(f"{what} is not JSON: {problem}") from error
    if not isinstance(data, dict):
        raise InvalidEvent(f"{what} is not a JSON object but {name_of(data)}")
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _is_too_deep(data):
        raise InvalidEvent(_TOO_DEEP)
    return data


def name_of(value: object) -> str:
    """Return what JSON calls a value."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _is_too_deep(data: dict[str, Any]) -> bool:
    level: list[Any] = [data]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if type(outer) is dict else outer)
            if (type(inner) is dict or type(inner) is list) and inner
        ]
        if not level:
            return False
    return True


def _not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON value")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"the number {digits[:40]} is too large")
    return value


_JSON = json.JSONDecoder(parse_constant=_not_json, parse_float=_finite)


# --- a time ---------------------------------------------------------------------------------------

_TIME = re.compile(
    r"""(?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2} | [0-9]{8} | [0-9]{4}-W[0-9]{2}-[1-7] | [0-9]{4}W[0-9]{2}[1-7])
        [T_ ]
        (?P<hour>[0-9]{2}) (?P<colon>:?) (?P<minute>[0-9]{2})
        (?: (?P=colon) (?P<second>[0-9]{2}) (?: [.,] (?P<fraction>[0-9]+) )? )?
        \ ? (?P<offset> Z | UTC | (?P<sign>[-+\u2212]) (?P<hours>[0-9]{2}) (?: :? (?P<minutes>[0-9]{2}) )? )?
    """,
    re.VERBOSE | re.IGNORECASE,
)
_MINUTES = 60
_HOURS = 24


def read_time(text: str) -> datetime | None:
    """Parse a date with a time of day; return None for anything else. Without an offset, the result is naive.

    A leap second is the second after it, `24:00` is the next midnight, and
    digits beyond microseconds are cut off.
    """
    match = _TIME.fullmatch(text.strip())
    if match is None:
        return None
    try:
        start = datetime.combine(date.fromisoformat(match["date"].upper()), datetime.min.time())
        return (start + _time_of_day(match)).replace(tzinfo=_offset(match))
    except (ValueError, OverflowError):
        return None


def _time_of_day(match: re.Match[str]) -> timedelta:
    hour, minute, second = int(match["hour"]), int(match["minute"]), int(match["second"] or 0)
    when = timedelta(
        hours=hour,
        minutes=minute,
        seconds=second,
        microseconds=int((match["fraction"] or "")[:6].ljust(6, "0")),
    )
    if minute >= _MINUTES or second > _MINUTES or (hour >= _HOURS and when != timedelta(hours=_HOURS)):
        raise ValueError("no such time of day")
    return when


def _offset(match: re.Match[str]) -> tzinfo | None:
    if match["sign"] is None:
        return UTC if match["offset"] else None
    hours, minutes = int(match["hours"]), int(match["minutes"] or 0)
    if hours >= _HOURS or minutes >= _MINUTES:
        raise ValueError("no such offset")
    offset = timedelta(hours=hours, minutes=minutes)
    return timezone(offset if match["sign"] == "+" else -offset)


# --- an id ----------------------------------------------------------------------------------------

MAX_ID = 255
EVENT_ID_PATTERN = f"^[!-~]{{1,{MAX_ID}}}$"
"""An event id can travel as an HTTP header and as an AMQP property: visible ASCII."""

_INVISIBLE_RANGES = (
    (0x00, 0x20),  # control characters, and the blank
    (0x7F, 0xA0),  # more control characters, and the no-break space
    (0xAD, 0xAD),  # soft hyphen
    (0x34F, 0x34F),  # from here on: what Unicode has as white space, or as ignorable by default
    (0x61C, 0x61C),
    (0x115F, 0x1160),
    (0x1680, 0x1680),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x2000, 0x200F),
    (0x2028, 0x202F),
    (0x205F, 0x206F),
    (0x2800, 0x2800),  # braille without a dot
    (0x3000, 0x3000),
    (0x3164, 0x3164),
    (0xFE00, 0xFE0F),
    (0xFEFF, 0xFEFF),  # byte order mark
    (0xFFA0, 0xFFA0),
    (0xFFF0, 0xFFFB),
)
_INVISIBLE = "".join(chr(code) for first, last in _INVISIBLE_RANGES for code in range(first, last + 1))
VISIBLE_PATTERN = "[^" + "".join(rf"\u{first:04x}-\u{last:04x}" for first, last in _INVISIBLE_RANGES) + "]"
"""Found in every text that is not blank."""

NOBODY = frozenset({"", "VDAD", "VDCL"})
"""Users that VICIdial writes if no agent took the call."""

LARGEST_LEAD = 2**32 - 1
"""VICIdial counts leads from 1, in an `INT UNSIGNED` column."""

_LARGEST_EXACT = 2**53
"""From here on a fraction's digits are not all its own."""
_NOTHING = frozenset(
    {"", "-", "--", "undefined", "null", "(null)", "<null>", "\\n", "none", "nan", "nil", "n/a", "#n/a"}
)
"""What languages and tables write for a missing value, in small letters."""
_UNFILLED = "--A--"
"""What VICIdial's own variables in a URL begin with if it did not fill them in."""
_EVENT_ID = re.compile(rf"[!-~]{{1,{MAX_ID}}}")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_NAMESPACE = uuid.UUID("6f0c2a53-4d0e-5a0b-9f39-6f6d1f2b6c11")
_WHOLE = re.compile(r"([0-9]+)\.0+")
_LEAD = re.compile(r"\+?0*([1-9][0-9]{0,9})(?:\.0*)?")


def whole_id(value: object) -> object:
    """Return an id as `plain` does; a text that is a number without its fraction of zeros."""
    text = plain(value)
    number = _WHOLE.fullmatch(text) if isinstance(text, str) else None
    return text if number is None else number[1]


def plain(value: object) -> object:
    """Return text without what surrounds it and can't be seen, and a number as text.

    A whole number is written without a fraction. Anything else is returned as it is, for
    whoever validates it.
    """
    if isinstance(value, str):
        return value.strip(_INVISIBLE)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) <= _LARGEST_EXACT:
        return str(int(value))
    return str(value)


def known_id(value: object) -> object:
    """Return an id as `whole_id` does, `None` for a word that stands for nothing."""
    return _unless_nothing(whole_id(value))


def uniqueid(value: object) -> object:
    """Return Asterisk's id of a call, which may end with zeros; `None` for a word that stands for nothing."""
    return _unless_nothing(plain(value))


def _unless_nothing(text: object) -> object:
    nothing = isinstance(text, str) and (text.casefold() in _NOTHING or text.startswith(_UNFILLED))
    return None if nothing else text


def lead(value: object) -> object:
    """Return a lead as `lead_number` does; what is neither text nor a number is returned as it is."""
    text = plain(value)
    return lead_number(text) if isinstance(text, str) else value


def lead_number(text: str) -> str | None:
    """Return a lead's number without leading zeros, `None` for what can't be a lead."""
    number = _LEAD.fullmatch(text.strip())
    return number[1] if number is not None and int(number[1]) <= LARGEST_LEAD else None


def agent(value: object) -> object:
    """Return an agent's user, `None` for the users that VICIdial writes if there is none, and for 0."""
    user = known_id(value)
    return None if user == "0" or (isinstance(user, str) and user.upper() in NOBODY) else user


def event_id(value: object) -> str | None:
    """Return an event id as `plain` does, `None` for what can't be one."""
    text = plain(value)
    return text if isinstance(text, str) and _EVENT_ID.fullmatch(text) else None


def is_uuid(text: str) -> bool:
    """Return whether a text is a UUID, and so unique by itself."""
    return _UUID.fullmatch(text) is not None


def derived_id(*parts: str) -> str:
    """Derive an event id: the same parts always give the same one."""
    return str(uuid.uuid5(_NAMESPACE, "\n".join(parts)))
