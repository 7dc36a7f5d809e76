"""What is wrong with a preset as a whole. Its templates are looked at when they are compiled."""

from collections.abc import Iterator
from typing import Any, Final

from worker.crm.preset import Preset, Repeat, Step

RESERVED: Final = frozenset({"preset", "tables", "fields"})
"""Names below `sink.crm` that no preset may give to a setting of its own."""
RECORD: Final = "record"
KNOWN: Final = "known"


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
