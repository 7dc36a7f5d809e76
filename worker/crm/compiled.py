"""A preset with all its templates compiled, and the names that they may use."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final, Self

from worker.core.payload import schemas
from worker.crm import filters
from worker.crm.expressions import Compiler, Shape, Template, TemplateError
from worker.crm.numbers import number_forms
from worker.crm.preset import Preset, Request, Rule, Step
from worker.crm.tables import Tables

_OPEN: Final[Mapping[str, Any]] = {"type": "object", "additionalProperties": True}
_NUMBER: Final[Mapping[str, Any]] = {
    "type": "object",
    "properties": {
        "e164": {"type": "string"},
        "national": {"type": "string"},
        "digits": {"type": "string"},
        "spellings": {"type": "array", "items": {"type": "string"}},
    },
}
_ANSWER: Final[Mapping[str, Shape]] = {"status": None, "headers": None, "body": None, "text": None}
"""The names of an answer."""
_BEFORE: Final[Mapping[str, Any]] = {"type": "object", "properties": {"duplicate": {"type": "boolean"}}}
"""What a step may read of itself."""


class PresetError(Exception):
    """A preset that can't be used; `problems` names each mistake with its place."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class CompiledPreset:
    """A preset that can be carried out.

    A template is found by its place: `url`, `headers`, `skip_when`, `receipt`, `agent_receipt`,
    `answers[0].when`, `login.take`, `login.lifetime`, `login.url`, and of each request `<place>.path`,
    `.query`, `.headers`, `.body`, `.form`, `.answers[0].when`. The places of requests are `on_call.<step>`,
    `on_agent.<step>`, `prepare.<step>`, `login.steps.<step>` and `check[0]`. A step has also `.when`,
    `.take`, `.cache.by`, `.learn.key`, `.learn.value`, `.batch.results`, `.batch.errors`, `.batch.match`
    and `.batch.each[0].when`; a rule `.when`, `.wait`, `.say` and `.take`; a check `.expect`.
    """

    preset: Preset
    settings: Mapping[str, Any]
    """The values of the preset's settings: those given, else their defaults."""
    tables: Tables
    dialer: str
    """The dialer's host, a part of `record_uuid`."""
    templates: Mapping[str, Template] = field(repr=False)

    def template(self, place: str) -> Template:
        """Return the template at a place. Raises `KeyError` if the preset has none there."""
        return self.templates[place]

    def get(self, place: str) -> Template | None:
        """Return the template at a place, None if the preset has none there."""
        return self.templates.get(place)

    def with_settings(self, settings: Mapping[str, Any]) -> Self:
        """Return the same with other values of some settings, such as a secret that was read again."""
        return replace(self, settings={**self.settings, **settings})


def compile_preset(
    preset: Preset,
    settings: Mapping[str, Any],
    *,
    dialer: str = "",
    now: Callable[[], datetime] = _utc_now,
) -> CompiledPreset:
    """Compile all templates of a preset.

    Args:
        preset: The preset.
        settings: The values of its settings, secrets as plain text; those left out have their default.
        dialer: The dialer's host.
        now: The time, for `seconds_until`.

    Raises:
        PresetError: Templates are wrong; all are named.
    """
    values = {name: settings.get(name, each.default) for name, each in preset.settings.items()}
    rows = {name: dict(table) for name, table in preset.tables.items()}
    for name, declared in preset.settings.items():
        if declared.type == "table":
            rows[name] = {**rows.get(name, {}), **(values[name] or {})}
    tables = Tables(rows)
    region = values.get("region")
    compiler = Compiler(
        {
            **filters.PURE,
            "seconds_until": filters.seconds_until(now),
            "table": filters.of_tables(tables.lookup, tables.names),
            **_number_filters(None if region is None else str(region)),
        }
    )
    templates = _Walk(compiler, preset).templates
    if compiler.problems:
        raise PresetError([str(problem) for problem in compiler.problems])
    return CompiledPreset(preset, values, tables, dialer, templates)


def _number_filters(region: str | None) -> dict[str, Callable[..., Any]]:
    def form(name: str) -> Callable[..., Any]:
        def read(value: Any, country: str | None = None) -> Any:
            return number_forms(value, country or region)[name]

        return read

    return {name: form(name) for name in ("e164", "national", "digits", "spellings")}


# --- what a template may use ----------------------------------------------------------------------


def _fields(names: Iterable[str]) -> Shape:
    """Return the shape of a mapping with these keys."""
    return {"type": "object", "properties": dict.fromkeys(names, _OPEN)}


@lru_cache(maxsize=1)
def _payload_shapes() -> dict[str, Shape]:
    call, agent = (
        _inlined(schema, schema["$defs"])["properties"]["data"]["properties"] for schema in schemas().values()
    )
    return {"call": call["call"], "agent": agent["agent"], "access_check": agent["access_check"]}


def _inlined(schema: Any, known: Mapping[str, Any]) -> Any:
    """Return a schema with its references followed, and without null as an alternative."""
    if isinstance(schema, list):
        return [_inlined(each, known) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if (reference := schema.get("$ref")) is not None:
        return _inlined(known[reference.rpartition("/")[2]], known)
    choices = [each for each in schema.get("anyOf", []) if each.get("type") != "null"]
    if len(choices) == 1:
        return _inlined(choices[0], known)
    return {name: _inlined(each, known) for name, each in schema.items() if name != "$defs"}


def _step_shape(step: Step) -> Shape:
    extra = [name for rule in step.answers for name in rule.take]
    return _fields([*step.take, *extra, "duplicate"])


class _Walk:
    """Compiles each template of a preset with the names of its place."""

    def __init__(self, compiler: Compiler, preset: Preset) -> None:
        self._compiler = compiler
        self.templates: dict[str, Template] = {}
        login = preset.login
        settings: dict[str, Shape] = {"settings": _fields(preset.settings)}
        fixed = {**settings, "login": _fields(login.take if login is not None else ())}
        event: dict[str, Shape] = {
            **fixed,
            **_payload_shapes(),
            "number": _NUMBER,
            **dict.fromkeys(("event_id", "type", "timestamp", "event", "final", "found")),
            **dict.fromkeys(("call_end", "key", "record_uuid")),
        }
        calls = self._steps(preset.on_call, "on_call", event)
        agents = self._steps(preset.on_agent, "on_agent", event)
        prepared = self._steps(preset.prepare, "prepare", fixed)
        self._add("skip_when", preset.skip_when, event)
        self._add("receipt", preset.receipt, calls)
        self._add("agent_receipt", preset.agent_receipt, agents)
        everything = {**calls, **agents, **prepared}
        self._rules(preset.answers, "answers", {**everything, "result": None})
        self._add("url", preset.url, fixed)
        self._add("headers", preset.headers, everything)
        if login is not None:
            steps = self._steps(login.steps, "login.steps", settings)
            self._add("login.take", login.take, steps)
            done = {**steps, **fixed}
            self._add("login.lifetime", login.lifetime, done)
            self._add("login.url", login.url, done)
        for place, check in enumerate(preset.check):
            self._request(check, f"check[{place}]", fixed)
            self._add(f"check[{place}].expect", check.expect, {**fixed, **_ANSWER})

    def _add(self, place: str, template: Any, scope: Mapping[str, Shape]) -> None:
        if template is not None and template != {}:
            self.templates[place] = self._compiler.compile(template, place, scope)

    def _rules(self, rules: Iterable[Rule], place: str, scope: Mapping[str, Shape]) -> None:
        for number, rule in enumerate(rules):
            for name in ("when", "wait", "say", "take"):
                self._add(f"{place}[{number}].{name}", getattr(rule, name), {**scope, **_ANSWER})

    def _request(self, request: Request, place: str, scope: Mapping[str, Shape]) -> None:
        for name in ("path", "query", "headers", "body", "form"):
            self._add(f"{place}.{name}", getattr(request, name), scope)
        self._rules(request.answers, f"{place}.answers", scope)

    def _steps(self, steps: Iterable[Step], place: str, scope: Mapping[str, Shape]) -> dict[str, Shape]:
        """Compile steps; return the names that there are after them."""
        names = dict(scope)
        for step in steps:
            # Before its answer, a step's own name is an empty mapping: so a body that another step sends
            # too (`body_of`) can differ there.
            if step.step in {"result", *_ANSWER, *scope}:
                wrong = TemplateError(f"{place}.{step.step}", "the name is taken; use another one")
                self._compiler.problems.append(wrong)
            self._step(step, f"{place}.{step.step}", {**names, step.step: _BEFORE})
            names[step.step] = _step_shape(step)
        return names

    def _step(self, step: Step, place: str, names: Mapping[str, Shape]) -> None:
        self._request(step, place, names)
        self._add(f"{place}.when", step.when, names)
        answer = {**names, **_ANSWER}
        if step.cache is not None:
            self._add(f"{place}.cache.by", step.cache.by, names)
        if (batch := step.batch) is not None:
            self._add(f"{place}.batch.results", batch.results, answer)
            self._add(f"{place}.batch.errors", batch.errors, answer)
            answer["result"] = None
            self._add(f"{place}.batch.match", batch.match, answer)
            self._rules(batch.each, f"{place}.batch.each", answer)
        self._add(f"{place}.take", step.take, answer)
        if (learn := step.learn) is not None:
            done = {**answer, step.step: _step_shape(step)}
            self._add(f"{place}.learn.key", learn.key, done)
            self._add(f"{place}.learn.value", learn.value, done)


# --- the names of one event -----------------------------------------------------------------------


def variables(
    payload: Mapping[str, Any], compiled: CompiledPreset, login: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the names that the templates of a delivery may use, except the results of steps.

    Args:
        payload: The payload as parsed JSON.
        compiled: The preset.
        login: The results of the login.

    Raises:
        TemplateError: A time of the payload can't be read.
    """
    data = payload["data"]
    call, agent = _with_times(data.get("call"), "call"), data.get("agent")
    event_id = data["event_id"]
    subject = call or {}
    key = subject.get("call_id") or event_id
    event = data.get("event") or {}
    region = compiled.settings.get("region")
    return {
        "settings": compiled.settings,
        "login": login or {},
        "event_id": event_id,
        "type": payload["type"],
        "timestamp": _read_time(payload["timestamp"], "timestamp"),
        "event": event,
        "call": call,
        "agent": agent,
        "access_check": data.get("access_check"),
        "final": data.get("final"),
        "found": data.get("enrichment") != "not_found",
        "number": number_forms(subject.get("phone_number"), region, event.get("phone_code")),
        "call_end": _call_end(subject),
        "key": key,
        "record_uuid": filters.uuid_of(f"{compiled.dialer}/{key}"),
    }


def _call_end(call: Mapping[str, Any]) -> datetime | None:
    started, talked, ended = call.get("started_at"), call.get("talk_seconds"), call.get("ended_at")
    if ended is not None or started is None or talked is None:
        return ended
    return started + timedelta(seconds=talked)  # type: ignore[no-any-return] # `_with_times` made it one


def _with_times(record: Any, place: str) -> Any:
    """Return a record of the payload, times as such."""
    if isinstance(record, list):
        return [_with_times(each, place) for each in record]
    if not isinstance(record, dict):
        return record
    return {
        name: _read_time(value, f"{place}.{name}") if name.endswith("_at") else _with_times(value, place)
        for name, value in record.items()
    }


def _read_time(value: Any, place: str) -> datetime | None:
    try:
        return None if value is None else datetime.fromisoformat(value)
    except (TypeError, ValueError) as error:
        raise TemplateError(place, "is no time") from error
