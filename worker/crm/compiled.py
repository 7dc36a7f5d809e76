"""A preset with all its templates compiled, and the names that they may use."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final

from worker.core.payload import schemas
from worker.crm import filters
from worker.crm.expressions import Compiler, Shape, Template, TemplateError
from worker.crm.numbers import number_forms
from worker.crm.plan import (
    CompiledBatch,
    CompiledCache,
    CompiledCheck,
    CompiledLearn,
    CompiledLogin,
    CompiledRequest,
    CompiledRule,
    CompiledStep,
    Plan,
)
from worker.crm.preset import Batch, Cache, Check, Learn, Login, Preset, Request, Rule, Step
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
Scope = Mapping[str, Shape]
"""The names that a template may use, and what is known of their values."""

_ANSWER: Final[Scope] = {"status": None, "headers": None, "body": None, "text": None}
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
    """A preset that can be carried out."""

    preset: Preset
    settings: Mapping[str, Any]
    """The values of the preset's settings: those given, else their defaults."""
    dialer: str
    """The dialer's host, a part of `record_uuid`."""
    plan: Plan = field(repr=False)


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
    plan = _Planner(compiler).plan(preset, tables)
    if compiler.problems:
        raise PresetError([str(problem) for problem in compiler.problems])
    return CompiledPreset(preset, values, dialer, plan)


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


class _Planner:
    """Compiles each template of a preset with the names of its place, such as `on_call.record.body`."""

    def __init__(self, compiler: Compiler) -> None:
        self._compiler = compiler

    def plan(self, preset: Preset, tables: Tables) -> Plan:
        login = preset.login
        settings: Scope = {"settings": _fields(preset.settings)}
        fixed = {**settings, "login": _fields(login.take if login is not None else ())}
        event: Scope = {
            **fixed,
            **_payload_shapes(),
            "number": _NUMBER,
            **dict.fromkeys(("event_id", "type", "timestamp", "event", "final", "found")),
            **dict.fromkeys(("call_end", "key", "record_uuid")),
        }
        on_call, calls = self._steps(preset.on_call, "on_call", event)
        on_agent, agents = self._steps(preset.on_agent, "on_agent", event)
        prepare, prepared = self._steps(preset.prepare, "prepare", fixed)
        everything = {**calls, **agents, **prepared}
        return Plan(
            crm=preset.crm,
            title=preset.title,
            limits=preset.limits,
            tables=tables,
            on_call=on_call,
            on_agent=on_agent,
            prepare=prepare,
            skip_when=self._template(preset.skip_when, "skip_when", event),
            receipt=self._needed(preset.receipt, "receipt", calls),
            agent_receipt=self._template(preset.agent_receipt, "agent_receipt", agents),
            rules=self._rules(preset.answers, "answers", {**everything, "result": None}),
            url=self._needed(preset.url, "url", fixed),
            headers=self._template(preset.headers, "headers", everything),
            login=None if login is None else self._login(login, settings, fixed),
            check=tuple(self._check(each, f"check[{i}]", fixed) for i, each in enumerate(preset.check)),
        )

    def _template(self, template: Any, place: str, scope: Scope) -> Template | None:
        return None if template in (None, {}) else self._compiler.compile(template, place, scope)

    def _needed(self, template: Any, place: str, scope: Scope) -> Template:
        if template in (None, {}):
            self._compiler.problems.append(TemplateError(place, "is missing"))
        return self._compiler.compile(template, place, scope)

    def _rules(self, rules: Iterable[Rule], place: str, scope: Scope) -> tuple[CompiledRule, ...]:
        names = {**scope, **_ANSWER}
        return tuple(self._rule(rule, f"{place}[{number}]", names) for number, rule in enumerate(rules))

    def _rule(self, rule: Rule, place: str, scope: Scope) -> CompiledRule:
        return CompiledRule(
            means=rule.means,
            statuses=tuple(_statuses(rule.status)),
            when=self._template(rule.when, f"{place}.when", scope),
            wait=self._template(rule.wait, f"{place}.wait", scope),
            say=self._template(rule.say, f"{place}.say", scope),
            take=self._template(rule.take, f"{place}.take", scope),
        )

    def _request(self, request: Request, place: str, scope: Scope) -> CompiledRequest:
        return CompiledRequest(
            method=request.method,
            path=self._needed(request.path, f"{place}.path", scope),
            query=self._template(request.query, f"{place}.query", scope),
            headers=self._template(request.headers, f"{place}.headers", scope),
            body=self._template(request.body, f"{place}.body", scope),
            form=self._template(request.form, f"{place}.form", scope),
            rules=self._rules(request.answers, f"{place}.answers", scope),
        )

    def _steps(
        self, steps: Iterable[Step], place: str, scope: Scope
    ) -> tuple[tuple[CompiledStep, ...], dict[str, Shape]]:
        """Return the compiled steps, and the names that there are after them."""
        names = dict(scope)
        compiled = []
        for step in steps:
            # Before its answer, a step's own name is an empty mapping: so a body that another step sends
            # too (`body_of`) can differ there.
            if step.step in {"result", *_ANSWER, *scope}:
                wrong = TemplateError(f"{place}.{step.step}", "the name is taken; use another one")
                self._compiler.problems.append(wrong)
            compiled.append(self._step(step, f"{place}.{step.step}", {**names, step.step: _BEFORE}))
            names[step.step] = _step_shape(step)
        return tuple(compiled), names

    def _step(self, step: Step, place: str, names: Scope) -> CompiledStep:
        answer = {**names, **_ANSWER}
        if step.batch is not None:
            answer["result"] = None
        done = {**answer, step.step: _step_shape(step)}
        return CompiledStep(
            name=step.step,
            soft=step.soft,
            of=step.of,
            request=self._request(step, place, names),
            when=self._template(step.when, f"{place}.when", names),
            cache=None if step.cache is None else self._cache(step, step.cache, f"{place}.cache", names),
            batch=None if step.batch is None else self._batch(step.batch, f"{place}.batch", names),
            take=self._template(step.take, f"{place}.take", answer),
            learn=None if step.learn is None else self._learn(step.learn, f"{place}.learn", done),
        )

    def _cache(self, step: Step, cache: Cache, place: str, names: Scope) -> CompiledCache:
        by = self._needed(cache.by, f"{place}.by", names)
        return CompiledCache(cache.name or step.step, by, cache.found, cache.missing)

    def _learn(self, learn: Learn, place: str, done: Scope) -> CompiledLearn:
        key = self._needed(learn.key, f"{place}.key", done)
        return CompiledLearn(learn.table, key, self._needed(learn.value, f"{place}.value", done))

    def _batch(self, batch: Batch, place: str, names: Scope) -> CompiledBatch:
        whole = {**names, **_ANSWER}
        item = {**whole, "result": None}
        return CompiledBatch(
            max=batch.max,
            wait=batch.wait,
            at=tuple(batch.at.split(".")) if batch.at else (),
            results=self._needed(batch.results, f"{place}.results", whole),
            errors=self._template(batch.errors, f"{place}.errors", whole),
            match=self._template(batch.match, f"{place}.match", item),
            each=self._rules(batch.each, f"{place}.each", item),
        )

    def _login(self, login: Login, settings: Scope, fixed: Scope) -> CompiledLogin:
        steps, names = self._steps(login.steps, "login.steps", settings)
        done = {**names, **fixed}
        return CompiledLogin(
            steps=steps,
            take=self._needed(login.take, "login.take", names),
            lifetime=self._needed(login.lifetime, "login.lifetime", done),
            url=self._template(login.url, "login.url", done),
            hosts=login.hosts,
        )

    def _check(self, check: Check, place: str, fixed: Scope) -> CompiledCheck:
        step = CompiledStep(check.check, self._request(check, place, fixed))
        expect = self._needed(check.expect, f"{place}.expect", {**fixed, **_ANSWER})
        return CompiledCheck(check.check, step, expect, check.otherwise)


def _statuses(status: int | str | tuple[int | str, ...] | None) -> Iterator[range]:
    """Read `429`, `4xx`, `500-504`, or a list of these."""
    for each in status if isinstance(status, tuple) else () if status is None else (status,):
        text = str(each).strip().lower()
        first, _, last = text.partition("-")
        if len(text) == 3 and text.endswith("xx") and text[0].isdecimal():
            yield range(int(text[0]) * 100, int(text[0]) * 100 + 100)
        else:
            yield range(int(first), int(last or first) + 1)


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
