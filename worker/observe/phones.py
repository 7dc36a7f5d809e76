"""Mask phone numbers in the log: only the last two digits of each are shown.

A number is recognized by the name of its field, or by its shape within a text:
nine to fifteen digits in a row, a plus with digits behind it, groups as North
America writes them, groups that begin with a zero. Two things of such a
shape are not masked: the ids that the same line names, and times.
"""

import re
import time
from datetime import datetime
from typing import Any

from structlog.typing import EventDict, WrappedLogger

_BEFORE = (
    r"(?:(?<![A-Za-z0-9+%])(?<!\d[.-])(?<![0-9A-Fa-f]{4}-)"  # not amid an id, a decimal, a date, a UUID…
    r"|(?<=%[0-9A-Fa-f]{2})|(?<=\\[nrt]))"  # …but behind a letter that a URL or `repr` has written as others
)
_AFTER = r"(?!(?!x\d)[A-Za-z0-9]|[.-]\d)"  # x12 is an extension
_SHAPES = (
    r"\+?\d{9,15}",
    r"\+\d(?:[ ().-]{0,3}\d){8,18}",
    r"(?:1[ .-]?)?(?:\(\d{3}\)[ .-]?|\d{3}[ .-])\d{3}[ .-]\d{4}",
    r"[2-9]\d\d([|/])[2-9]\d\d[|/-]\d{4}",  # as some dialers keep them; no three columns of numbers
    r"(?<!\d:)0\d{1,4}([ .-])\d{2,8}(?:\2\d{2,4}){0,3}",  # not the seconds of a time
)
_PHONE = re.compile(f"{_BEFORE}(?:{'|'.join(_SHAPES)}){_AFTER}")
_FEWEST = 9
"""The fewest digits of a phone number; shorter numbers are too often something else."""
_PERHAPS = re.compile(r"(?:\d\D{0,3}){8}\d")
"""Whatever `_PHONE` finds, this finds too, and ten times as fast if there is nothing."""

_IDS = frozenset({"call_id", "agent_user", "event_id", "lead_id", "uniqueid", "campaign_id"})
_NO_PHONES = _IDS | {
    *("event", "event_type", "outcome", "attempt", "stage", "tier", "answer", "function"),
    *("age_seconds", "enrich_ms", "deliver_ms", "duration_ms", "trace_id", "span_id"),
}
"""Fields of ours that never hold one. A line with no others, as events and requests have, costs nothing."""

_YEAR = 366 * 86400
_COMPACT_TIME = re.compile(r"20\d\d[01]\d[0-3]\d[0-2]\d[0-5]\d[0-5]\d")


def mask_phone(number: str) -> str:
    """Mask all digits of a phone number but the last two."""
    hidden = sum(letter.isdigit() for letter in number) - 2
    masked = []
    for letter in number:
        if letter.isdigit():
            hidden -= 1
        masked.append("*" if letter.isdigit() and hidden >= 0 else letter)
    return "".join(masked)


def mask_phones(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Mask the phone numbers of a line, in texts, lists and dicts, in an error's text and traceback."""
    if _NO_PHONES.issuperset(event):
        return event
    for field in event.keys() - _NO_PHONES:
        event[field] = _masked(event[field], event, is_phone="phone" in field)
    if "logger" in event:  # a library's record, whose event is a text
        event["event"] = _masked_text(event["event"], event)
    return event


def _masked(value: Any, event: EventDict, *, is_phone: bool) -> Any:  # noqa: ANN401 - whatever a line holds
    if isinstance(value, str):
        return mask_phone(value) if is_phone else _masked_text(value, event)
    if isinstance(value, dict):
        return {
            key: _masked(each, event, is_phone=is_phone or "phone" in str(key)) for key, each in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_masked(each, event, is_phone=is_phone) for each in value]
    if value is None or isinstance(value, bool | datetime):
        return value
    if isinstance(value, int | float) and not is_phone:
        return value
    return _masked(str(value), event, is_phone=is_phone)


def _masked_text(text: str, event: EventDict) -> str:
    if _PERHAPS.search(text) is None:
        return text
    return _PHONE.sub(lambda found: _hidden(found[0], event), text)


def _hidden(text: str, event: EventDict) -> str:
    if sum(letter.isdigit() for letter in text) < _FEWEST or _is_time(text):
        return text
    known = any(text == str(event[name]) for name in _IDS & event.keys())
    return text if known else mask_phone(text)


def _is_time(text: str) -> bool:
    """Return whether it is seconds or milliseconds since 1970, within a year of now, or `YYYYMMDDhhmmss`."""
    if not text.isdecimal():
        return False
    seconds = {10: 1, 13: 1000}.get(len(text))
    if seconds is not None:
        return abs(int(text) / seconds - time.time()) < _YEAR
    return len(text) == 14 and _COMPACT_TIME.fullmatch(text) is not None
