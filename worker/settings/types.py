"""The kinds of value that settings have: durations, addresses, zones and secrets from files."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, ValidationInfo
from pydantic_core import PydanticCustomError
from pydantic_settings import NoDecode

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "": 1}
_DURATION = re.compile(r"(\d+(?:\.\d+)?) *(ms|s|m|h|)")
_LONGEST = timedelta(days=7)


def parse_duration(value: object) -> timedelta:
    """Read `500ms`, `5s`, `2m`, `1h` or a number of seconds. Raises `ValueError`."""
    if isinstance(value, timedelta):
        return value
    match = _DURATION.fullmatch(str(value).strip())
    if match is None or isinstance(value, bool):
        raise ValueError("write a duration such as 500ms, 5s, 2m, 1h or a number of seconds")
    seconds = float(match[1]) * _UNITS[match[2]]
    if seconds > _LONGEST.total_seconds():
        raise ValueError("a duration must be at most 7 days (168h)")
    return timedelta(seconds=seconds)


def _longer_than_nothing(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("a duration must be longer than 0 and at most 7 days (168h)")
    return value


def _parse_list(value: object) -> object:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    return [value] if isinstance(value, int | float) else value


def _ascending(delays: tuple[timedelta, ...]) -> tuple[timedelta, ...]:
    if not delays or list(delays) != sorted(set(delays)):
        raise ValueError("name at least one delay, each longer than the one before it, such as 5s,30s,2m")
    return delays


def _zone(value: object) -> object:
    try:
        return value if value is None or isinstance(value, ZoneInfo) else ZoneInfo(str(value))
    except (ValueError, OSError, KeyError) as error:
        raise ValueError("is no IANA time zone; write one such as America/New_York") from error


DurationOrNone = Annotated[timedelta, BeforeValidator(parse_duration)]
"""A duration of which 0 turns something off."""
Duration = Annotated[DurationOrNone, AfterValidator(_longer_than_nothing)]
Delays = Annotated[tuple[Duration, ...], NoDecode, BeforeValidator(_parse_list), AfterValidator(_ascending)]
Statuses = Annotated[
    frozenset[Annotated[str, AfterValidator(str.upper)]], NoDecode, BeforeValidator(_parse_list)
]
Zone = Annotated[ZoneInfo, BeforeValidator(_zone)]


def required(what: str) -> PydanticCustomError:
    """Make the error of a setting that has no default."""
    return PydanticCustomError("missing", "{what}", {"what": f"is required: {what}"})


def secret_or_file(what: str | None) -> BeforeValidator:
    """Read a secret from the file beside it where it is not given itself."""

    def read(value: object, info: ValidationInfo) -> object:
        path = info.data.get(f"{info.field_name}_file")
        if path is None:
            if value in (None, "") and what is not None:
                raise required(what)
            return value
        if value is not None:
            raise ValueError(f"is given twice, directly and by {info.field_name}_file; keep one of them")
        return read_secret(path)

    return BeforeValidator(read)


def read_secret(path: Path) -> str:
    """Read a secret file; the line break at its end is not part of it. Raises `ValueError`."""
    try:
        text = path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeError) as error:
        raise ValueError(
            f"can't read {path}: {getattr(error, 'strerror', None) or 'not UTF-8 text'}"
        ) from error
    if not text:
        raise ValueError(f"{path} is empty")
    return text
