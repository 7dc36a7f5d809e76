"""Mistakes in a preset, in words: where, and what would be right."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from worker.crm import preset as models

_SAID = {
    "string_type": "must be text",
    "dict_type": "must be a mapping",
    "tuple_type": "must be a list",
    "model_type": "must be a mapping",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "missing": "is missing",
}


def explained(error: ValidationError, data: Any) -> Iterator[str]:
    """Yield a line for each mistake; `data` is the preset as written."""
    for problem in error.errors(include_url=False, include_context=False):
        place, name = place_of(problem["loc"], data), str(problem["loc"][-1]) if problem["loc"] else ""
        if problem["type"] == "extra_forbidden":
            close = difflib.get_close_matches(name, _keys(), 1)
            yield f"{place}: is no key of a preset" + (f"; did you mean {close[0]}?" if close else "")
        else:
            said = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
            yield f"{place}: {_SAID.get(problem['type'], said)}" if place else said


def without_unknown(error: ValidationError, data: Any) -> Any:
    """Return a preset as written without the keys that no preset has."""
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        if problem["type"] == "extra_forbidden":
            *way, name = problem["loc"]
            data = _without(data, way, name)
    return data


def _without(data: Any, way: list[int | str], name: int | str) -> Any:
    """Return a copy without one key; what aliases share is not changed."""
    if not way:
        return {key: value for key, value in data.items() if key != name}
    part, *rest = way
    inner = _without(data[part], rest, name)
    if isinstance(data, list) and isinstance(part, int):
        return [*data[:part], inner, *data[part + 1 :]]
    return {**data, part: inner}


def _keys() -> list[str]:
    found = [each for each in vars(models).values() if isinstance(each, type) and issubclass(each, BaseModel)]
    return sorted({name for model in found for name in model.model_fields})


def place_of(location: tuple[int | str, ...], data: Any) -> str:
    """Return a place such as `on_call.record.body`: a step by its name, and no word of pydantic."""
    place = ""
    for part in location:
        inner = _inner(data, part)
        if isinstance(part, int):
            name = inner.get("step") if isinstance(inner, Mapping) else None
            place += f".{name}" if isinstance(name, str) else f"[{part}]"
        elif inner is not None or part == location[-1]:
            place += f".{part}" if place else part
        data = inner
    return place


def _inner(data: Any, part: int | str) -> Any:
    if isinstance(data, list) and isinstance(part, int) and part < len(data):
        return data[part]
    return data.get(part) if isinstance(data, Mapping) else None
