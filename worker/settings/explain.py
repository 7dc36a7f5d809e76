"""Saying what is wrong with a setting: which one, who gave it, what it is, and what would be right."""

import re
from collections.abc import Iterator, Mapping

from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from worker.settings.tree import PREFIX

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
    """Give a line for each mistake. `origins` tells by each setting's path who gave it."""
    problems = error.errors(include_url=False, include_context=False)
    wrong = {_path(problem) for problem in problems}
    for problem in problems:
        path = _path(problem)
        if problem["type"] == "missing" and f"{path}_file" in wrong:
            continue  # it was given, by a file that is named wrongly
        origin = origins.get(path, PREFIX + path.upper().replace(".", "__"))
        yield f"{path} ({origin}): {_said(problem, fields.get(path))}{_given(path, problem, fields)}"


def masked_address(text: str) -> str:
    """Give an address without what may be secret: user and password, and what follows a `?` or `#`.

    Of an `@` behind the host nobody knows whether it ends a password that was not escaped: all is masked.
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
    """Say what would be right, where pydantic only says what is wrong."""
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
    """Show what was given, unless that is nothing; a secret masked."""
    value: object = problem["input"]
    if value is None or path not in fields or problem["type"] == "missing":
        return ""
    if f"{path}_file" in fields or isinstance(value, SecretStr):
        return f" (it is {MASK})"
    if path.endswith("url"):
        value = masked_address(str(value))
    return f" (it is {value!r})"
