"""Parsing a message's body: one JSON object, bounded in size, in depth and in what its numbers can hold.

A body within the limit costs at most a small multiple of what `json.loads` alone does, in time and in memory.
"""

import json
import math
from typing import Any, NoReturn

from worker.core.errors import InvalidEvent

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
