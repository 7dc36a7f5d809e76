"""Settings as an operator may see them: what is wrong with one, and those in force, with secrets masked."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import reduce

from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from worker.core.retry import format_delay
from worker.settings.tree import PREFIX, BrokerCommandSettings, Settings, leaves

MASK = "***"

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/+")
_NUMBER = ("int_", "greater_than", "less_than")
_RIGHT = {
    "string_type": "must be text",
    "string_pattern_mismatch": "must fit this",
    "path_type": "must be the path of a file",
    "tuple_type": "must be a list, or text with commas",
    "frozen_set_type": "must be a list, or text with commas",
}
"""What pydantic says less well, or in the words of Python; the setting's own sentence follows."""


def explain(
    error: ValidationError, fields: Mapping[str, FieldInfo], origins: Mapping[str, str]
) -> Iterator[str]:
    """Yield a line for each mistake: which setting, who gave it, what it is, and what would be right.

    `origins` are the sources of the settings by their paths.
    """
    problems = error.errors(include_url=False, include_context=False)
    wrong = {_path(problem) for problem in problems}
    for problem in problems:
        path = _path(problem)
        if problem["type"] == "missing" and f"{path}_file" in wrong:
            continue  # it was given, by a file that is named wrongly
        origin = origins.get(path, PREFIX + path.upper().replace(".", "__"))
        yield f"{path} ({origin}): {_said(problem, fields.get(path))}{_given(path, problem, fields)}"


def masked_address(text: str) -> str:
    """Return an address without what may be secret: user and password, and what follows a `?` or `#`.

    An `@` behind the host may end a password that was not escaped, so all is masked then.
    """
    scheme = _SCHEME.match(text)
    start = "" if scheme is None else scheme[0]
    authority, *rest = re.split(r"(?=[/?#])", text[len(start) :], maxsplit=1)
    path = "".join(rest)
    if "@" in path:
        return f"{start}{MASK}"
    _, at, host = authority.rpartition("@")
    place, *hidden = re.split(r"[?#]", path, maxsplit=1)
    return f"{start}{MASK + at if at else ''}{host}{place}{f'?{MASK}' if hidden else ''}"


def _path(problem: ErrorDetails) -> str:
    return ".".join(str(part) for part in problem["loc"] if not isinstance(part, int))


def _said(problem: ErrorDetails, field: FieldInfo | None) -> str:
    """Return what would be right, if pydantic only says what is wrong."""
    kind, said = problem["type"], problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if field is None:
        return said
    if kind.startswith(_NUMBER):
        bounds = {
            name: getattr(each, name)
            for each in field.metadata
            for name in ("ge", "le")
            if hasattr(each, name)
        }
        return f"must be a whole number from {bounds['ge']} to {bounds['le']}"
    if kind.startswith("bool_"):
        return "must be true or false"
    if kind in {"missing", "value_error", "literal_error"}:
        return said
    return f"{_RIGHT.get(kind, said)}: {(field.description or '').rstrip('.')}"


def _given(path: str, problem: ErrorDetails, fields: Mapping[str, FieldInfo]) -> str:
    """Return what was given in brackets, a secret masked; nothing if nothing was given."""
    value: object = problem["input"]
    if value is None or path not in fields or problem["type"] == "missing":
        return ""
    if f"{path}_file" in fields or isinstance(value, SecretStr):
        return f" (it is {MASK})"
    if path.endswith("url"):
        value = masked_address(str(value))
    return f" (it is {value!r})"


# --- the settings in force -------------------------------------------------------------------------

DEFAULT = "default"
"""The source of a setting that is not given."""

_TO_HOST = re.compile(r"\w+://[^/?]*")


@dataclass(frozen=True, slots=True)
class InForce:
    """One setting: its path, such as `broker.url`, its value in words, and its source."""

    name: str
    value: str
    source: str


def in_force(settings: BrokerCommandSettings, origins: Mapping[str, str]) -> Iterator[InForce]:
    """Yield every setting by name; `origins` are those that `worker.settings.load.sources` returns.

    A secret that stands in a file is one setting, not two: the file is its source.
    """
    values = dict(_values(settings))
    for name, value in sorted(values.items()):
        source = origins.get(name, DEFAULT)
        if (file := values.get(f"{name}_file")) is not None:
            source = f"{file} ({source})"
        if not (name.endswith("_file") and name.removesuffix("_file") in values):
            yield InForce(name, _shown(value), source)


def _values(settings: BrokerCommandSettings) -> Iterator[tuple[str, object]]:
    for path, _ in leaves(type(settings)):
        yield path, reduce(getattr, path.split("."), settings)
    if isinstance(settings, Settings):
        yield from ((f"sink.crm.{name}", value) for name, value in settings.sink.crm.own.items())


def _shown(value: object) -> str:
    match value:
        case None:
            shown = "-"
        case SecretStr():
            shown = _masked(value.get_secret_value())
        case bool():
            shown = str(value).lower()
        case timedelta():
            shown = format_delay(value)
        case dict() | list():
            shown = json.dumps(value, ensure_ascii=False) if value else "-"
        case tuple():
            shown = ",".join(map(_shown, value))
        case frozenset():
            shown = ",".join(sorted(map(_shown, value)))
        case _:
            text = str(value)
            shown = masked_address(text) if "://" in text else text
    return shown


def _masked(secret: str) -> str:
    """Mask a secret; of an address show the host, and of a broker's the virtual host, as neither is one."""
    if "://" not in secret:
        return MASK
    address = masked_address(secret)
    host = _TO_HOST.match(address)
    if address.startswith("amqp") or host is None:
        return address
    return host[0] if address[host.end() :] in {"", "/"} else f"{host[0]}/{MASK}"
