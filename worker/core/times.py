"""Reading the times that producers write: RFC 3339 in full, and ISO 8601 as far as it has only one meaning.

`datetime.fromisoformat` refuses some of RFC 3339 (small letters, leap seconds), and what it takes
differs between versions of Python.
"""

import re
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo

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
    """Read a date with a time of day; `None` where it is none. Without an offset, the result is naive.

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
