"""How long an answer's `Retry-After` asks to wait, however it is written."""

import math
import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

LONGEST_RETRY_AFTER = timedelta(hours=1)

_SECONDS_OF = {
    **dict.fromkeys(("ms", "msec", "msecs", "millis", "millisecond", "milliseconds"), 0.001),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
    **dict.fromkeys(("w", "week", "weeks"), 604800.0),
}
_AROUND = " \t\"'`;()[]<>~\u2018\u2019\u201c\u201d"
_PREAMBLE = re.compile(
    r"(?:(?:please|wait|retry|try|again|after|not|before|until|at|in|for|about|delta|seconds?|secs?)"
    r"(?:-(?=[a-z])|[ =:_~(])+)+"
)
"""Words that some write before a number or a date."""
_ALONE = re.compile(r"\+?((?:\d+(?:\.\d*)?|\.\d+)(?:e\+?\d{1,3})?)(?: ?\(seconds\)?)?", re.ASCII)
_WITH_UNIT = re.compile(r"(?<![\d.:-])(\d+(?:\.\d*)?|\.\d+) *([a-z]+)", re.ASCII)
_CLOCK = re.compile(r"(\d{1,2}):(\d\d):(\d\d(?:\.\d*)?)", re.ASCII)
_EPOCH = (1e9, 1e11)
"""Such a number is a time, in seconds since 1970: as a wait it would be 31 years and more."""


def retry_after(value: str | None, now: float) -> timedelta | None:
    """Return how long `Retry-After` asks to wait at time `now`, at most an hour; None if it can't be read.

    RFC 9110, 10.2.3, has seconds and HTTP dates. Also read are fractions and units (`1.5`, `3e2`,
    `2 minutes`, `1m30s`, `PT30S`, `00:05:00`), ISO 8601 times, seconds since 1970 and parts of them, and
    words, brackets and parameters around (`wait 30 seconds`, `seconds=30`, `30; q=1`). The longest of
    several values, separated by commas, counts. A fraction of a second is rounded up.
    """
    text = (value or "").partition(";")[0].strip(_AROUND).lower()
    text = _PREAMBLE.sub("", text, count=1) if _PREAMBLE.match(text) else text
    if text.startswith("p"):
        text = text.replace(",", ".")  # ISO 8601 prefers a comma in its fractions
    parts = [part.strip() for part in text.split(",")]
    each = [wait for part in parts for wait in (_duration(part, now), _date(part, now)) if wait is not None]
    whole = _duration(text, now)
    if whole is None and not each:
        whole = _date(text, now)
    waits = each if whole is None else [whole, *each]
    return min(timedelta(seconds=min(max(waits), 1e6)), LONGEST_RETRY_AFTER) if waits else None


def _duration(text: str, now: float) -> float | None:
    if (clock := _CLOCK.fullmatch(text)) is not None:
        seconds = int(clock[1]) * 3600 + int(clock[2]) * 60 + float(clock[3])
    elif (alone := _ALONE.fullmatch(text)) is not None:
        seconds = float(alone[1])
        for epoch in (seconds, seconds / 1e3, seconds / 1e6, seconds / 1e9):
            if _EPOCH[0] <= epoch < _EPOCH[1]:
                return max(0.0, epoch - now)
    else:
        found = [
            float(number) * _SECONDS_OF[unit]
            for number, unit in _WITH_UNIT.findall(text)
            if unit in _SECONDS_OF
        ]
        if not found:
            return None
        seconds = sum(found)
    return float(math.ceil(min(seconds, _EPOCH[0])))


def _date(text: str, now: float) -> float | None:
    """Parse an HTTP date in any of its three forms, or one of ISO 8601; without a zone it is in UTC."""
    iso = re.sub(r" ?(utc|gmt)$", "z", text).upper()
    for read, written in ((datetime.fromisoformat, iso), (parsedate_to_datetime, text)):
        with suppress(ValueError, TypeError, OverflowError, IndexError):
            when = read(written)
            return max(0.0, (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() - now)
    return None
