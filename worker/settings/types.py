"""The kinds of value that settings have: durations, names, lists, zones and secrets from files."""

import ipaddress
import re
from datetime import timedelta
from fractions import Fraction
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo

import yaml
from pydantic import AfterValidator, BeforeValidator, SecretStr, ValidationInfo
from pydantic_core import PydanticCustomError
from pydantic_settings import NoDecode

from worker.settings.as_written import read_yaml

LONGEST_REQUEST = timedelta(minutes=2)
"""An event makes up to four requests to the dialer and one to the CRM, and settling it may wait for ten
minutes: together that has to stay below the 30 minutes after which RabbitMQ takes it for lost."""
SHORTEST_DELAY = timedelta(milliseconds=100)
LARGEST_SECRET = 64 * 1024
"""In bytes."""
_AROUND = "\ufeff\r\n"
"""A byte order mark, and line breaks."""

_MILLISECONDS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "": 1000}
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,12})?) *(ms|s|m|h|)")
_LONGEST = timedelta(days=7)
_STATUS = re.compile(r"[-_0-9A-Za-z]{0,20}")
_NO_ZONE = re.compile(r"(posix|right)/.*|posixrules|localtime|Factory|EST|MST|HST")
"""What the system knows as well. The last three have no summer time, which nobody expects of them."""


def parse_duration(value: object) -> timedelta:
    """Read `500ms`, `5s`, `2m`, `1h` or a number of seconds. Raises `ValueError`."""
    if isinstance(value, timedelta):
        return value
    match = _DURATION.fullmatch(str(value).strip())
    if match is None or isinstance(value, bool):
        raise ValueError("write a duration such as 500ms, 5s, 2m, 1h or a number of seconds")
    milliseconds = Fraction(match[1]) * _MILLISECONDS[match[2]]
    if milliseconds.denominator != 1:
        raise ValueError("a duration must be whole milliseconds")
    if milliseconds > _LONGEST / timedelta(milliseconds=1):
        raise ValueError("a duration must be at most 7 days (168h)")
    return timedelta(milliseconds=int(milliseconds))


def _longer_than_nothing(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("a duration must be longer than 0 and at most 7 days (168h)")
    return value


def _within_a_request(value: timedelta) -> timedelta:
    if value > LONGEST_REQUEST:
        raise ValueError("must be at most 2m, or RabbitMQ could give up on an event that is still in work")
    return value


def _parse_list(value: object) -> object:
    """Split a text at its commas. Text in brackets, as people copy it from YAML and JSON, is read as such."""
    if not isinstance(value, str):
        return [value] if isinstance(value, int | float) else value
    if not value.strip().startswith("["):
        return [part.strip() for part in value.split(",")]
    try:
        return read_yaml(value)
    except yaml.YAMLError as error:
        raise ValueError("has a bracket that does not fit; write a list as text with commas") from error


def _ascending(delays: tuple[timedelta, ...]) -> tuple[timedelta, ...]:
    if not delays or list(delays) != sorted(set(delays)):
        raise ValueError("name at least one delay, each longer than the one before it, such as 5s,30s,2m")
    if delays[0] < SHORTEST_DELAY:
        raise ValueError("each delay must be at least 100ms, as it is a queue on the broker")
    return delays


def _status(value: str) -> str:
    if _STATUS.fullmatch(value) is None:
        raise ValueError("write statuses with commas between them, such as QUEUE,INCALL")
    return value.upper()


def _zone(value: object) -> object:
    if value is None or isinstance(value, ZoneInfo):
        return value
    try:
        zone = None if _NO_ZONE.fullmatch(str(value)) else ZoneInfo(str(value))
    except (ValueError, OSError, KeyError):
        zone = None
    if zone is None:
        raise ValueError("is no IANA time zone; write one such as America/New_York")
    return zone


def _exchange(value: str) -> str:
    if not value.isprintable() or value != value.strip() or re.search(r"""["'`\[\]{}]""", value):
        raise ValueError("must be the bare name of an exchange, without quotes, brackets or blanks around it")
    if len(value.encode()) > 255:
        raise ValueError("must be at most 255 bytes long")
    return value


def _host(value: str) -> str:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        if re.fullmatch(r"(?=.*[A-Za-z])[A-Za-z0-9._-]{1,253}", value) is None:
            raise ValueError("must be an IP address such as 0.0.0.0, or a host's name") from None
    return value


DurationOrNone = Annotated[timedelta, BeforeValidator(parse_duration)]
"""A duration of which 0 turns something off."""
Duration = Annotated[DurationOrNone, AfterValidator(_longer_than_nothing)]
RequestTimeout = Annotated[Duration, AfterValidator(_within_a_request)]
Delays = Annotated[tuple[Duration, ...], NoDecode, BeforeValidator(_parse_list), AfterValidator(_ascending)]
Statuses = Annotated[
    frozenset[Annotated[str, AfterValidator(_status)]], NoDecode, BeforeValidator(_parse_list)
]
Zone = Annotated[ZoneInfo, BeforeValidator(_zone)]
Exchange = Annotated[str, AfterValidator(_exchange)]
Host = Annotated[str, AfterValidator(_host)]


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
            return value.strip(_AROUND) if isinstance(value, str) else value
        if value is not None:
            raise ValueError(f"is given twice, directly and by {info.field_name}_file; keep one of them")
        return read_secret(path)

    return BeforeValidator(read)


def visible(secret: SecretStr) -> SecretStr:
    """Insist on a secret without a character that nobody sees. Raises `ValueError`."""
    if not secret.get_secret_value().replace("\t", "").isprintable():
        raise ValueError("holds a line break or an invisible character")
    return secret


def read_secret(path: Path) -> str:
    """Read a secret file as UTF-8; what editors put around a secret is no part of it. Raises `ValueError`."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_SECRET + 1)
    except OSError as error:
        raise ValueError(f"can't read {path}: {error.strerror}") from error
    if len(data) > LARGEST_SECRET:
        raise ValueError(f"{path} is larger than {LARGEST_SECRET // 1024} KiB, so it is no secret")
    try:
        text = data.decode().strip(_AROUND)
    except UnicodeError as error:
        raise ValueError(f"can't read {path}: not UTF-8 text") from error
    if not text:
        raise ValueError(f"{path} is empty")
    return text
