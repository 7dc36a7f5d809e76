"""Mistakes in a preset, in words: where, and what would be right.

Its templates are looked at when they are compiled.
"""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from worker.crm import preset as models
from worker.crm.plan import RECORD
from worker.crm.preset import Preset, Repeat, Step

RESERVED: Final = frozenset({"preset", "tables", "fields"})
"""Names below `sink.crm` that no preset may give to a setting of its own."""
KNOWN: Final = "known"

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


# --- the preset as a whole


def shape_problems(preset: Preset) -> Iterator[str]:
    """Yield each mistake with its place."""
    for name in preset.settings:
        if name in RESERVED or name.endswith("_file"):
            yield f"settings.{name}: the name is taken; use another one"
    if "id" not in preset.receipt:
        yield "receipt: needs `id`, that of the record"
    yield from _record_problems(preset.on_call)
    lists = {"on_call": preset.on_call, "on_agent": preset.on_agent, "prepare": preset.prepare}
    for place, steps in lists.items():
        names = [step.step for step in steps]
        for name in dict.fromkeys(names):
            if names.count(name) > 1:
                yield f"{place}.{name}: stands there twice"
        for step in steps:
            yield from _step_problems(step, f"{place}.{step.step}", preset)


def _step_problems(step: Step, place: str, preset: Preset) -> Iterator[str]:
    tables = {*preset.tables, *(name for name, each in preset.settings.items() if each.type == "table")}
    if step.of is not None and step.of not in {limit.of for limit in preset.limits}:
        yield f"{place}.of: there is no limit of {step.of}"
    if step.learn is not None and step.learn.table not in tables:
        yield f"{place}.learn.table: there is no table {step.learn.table}"
    if step.batch is not None and not isinstance(_at(step.body, step.batch.at), list):
        yield f"{place}.batch.at: there is no list in the body"


def _at(body: Any, path: str) -> Any:
    for name in path.split(".") if path else ():
        body = body.get(name) if isinstance(body, dict) else None
    return body


def _record_problems(steps: tuple[Step, ...]) -> Iterator[str]:
    names = [step.step for step in steps]
    for step in steps:
        if step.repeat is not None and step.step != RECORD:
            yield f"on_call.{step.step}.repeat: is only for `record`"
    if RECORD not in names:
        yield "on_call: needs a step `record`, which is the delivery"
        return
    place = names.index(RECORD)
    record = steps[place]
    if record.repeat is None:
        yield f"on_call.record.repeat: is missing; it is one of {', '.join(Repeat)}"
    elif record.repeat is Repeat.SEARCH and KNOWN not in names[:place]:
        yield "on_call.record.repeat: search needs a step `known` before `record`"
    if record.soft or record.cache is not None:
        yield "on_call.record: is the delivery, so it has neither `soft` nor `cache`"
