"""A preset in the form in which it is carried out: each step with its own compiled templates."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from worker.crm.preset import (
    Batch,
    Cache,
    Check,
    Learn,
    Limit,
    Login,
    Means,
    Preset,
    Request,
    Rule,
    Step,
)

Names = Mapping[str, Any]
"""What the expressions of a template may use, by name."""

RECORD = "record"
"""The step that is the delivery."""


class Compiled(Protocol):
    """A template that was parsed once and can be rendered often."""

    def render(self, names: Names) -> Any:
        """Return its value. Raises `MappingFailed`, with the place in the template."""
        ...


class Tables(Protocol):
    """The tables of the preset."""

    def learn(self, name: str, key: object, value: object) -> None:
        """Keep a row of a table in memory, unless its key or value is null."""
        ...


Templates = Callable[[str], Compiled | None]
"""Returns the compiled template at a place such as `on_call.record.body`, None if there is none."""


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """A rule with its templates compiled."""

    means: Means
    statuses: tuple[range, ...]
    """Empty: any."""
    when: Compiled | None
    wait: Compiled | None
    say: Compiled | None
    take: Compiled | None


@dataclass(frozen=True, slots=True)
class CompiledRequest:
    """A request with its templates compiled."""

    method: str
    path: Compiled
    query: Compiled | None
    headers: Compiled | None
    body: Compiled | None
    form: Compiled | None
    rules: tuple[CompiledRule, ...]


@dataclass(frozen=True, slots=True)
class CompiledCache:
    """Where a step's results are kept."""

    name: str
    by: Compiled
    found: timedelta
    missing: timedelta


@dataclass(frozen=True, slots=True)
class CompiledLearn:
    """A row that a step adds to a table."""

    table: str
    key: Compiled
    value: Compiled


@dataclass(frozen=True, slots=True)
class CompiledBatch:
    """How items of several events are sent together, and the answer is divided."""

    max: int
    wait: timedelta
    at: tuple[str, ...]
    results: Compiled
    errors: Compiled | None
    match: Compiled | None
    each: tuple[CompiledRule, ...]


@dataclass(frozen=True, slots=True)
class CompiledStep:
    """A step with its templates compiled."""

    name: str
    request: CompiledRequest
    when: Compiled | None = None
    soft: bool = False
    of: str | None = None
    cache: CompiledCache | None = None
    batch: CompiledBatch | None = None
    take: Compiled | None = None
    learn: CompiledLearn | None = None


@dataclass(frozen=True, slots=True)
class CompiledLogin:
    """A login with its templates compiled."""

    steps: tuple[CompiledStep, ...]
    take: Compiled
    lifetime: Compiled
    url: Compiled | None
    hosts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CompiledCheck:
    """A check with its templates compiled."""

    title: str
    step: CompiledStep
    expect: Compiled
    otherwise: str


@dataclass(frozen=True, slots=True)
class Plan:
    """A preset with its templates compiled."""

    crm: str
    title: str
    url: Compiled
    headers: Compiled | None
    login: CompiledLogin | None
    limits: tuple[Limit, ...]
    skip_when: Compiled | None
    on_call: tuple[CompiledStep, ...]
    on_agent: tuple[CompiledStep, ...]
    receipt: Compiled
    agent_receipt: Compiled | None
    rules: tuple[CompiledRule, ...]
    check: tuple[CompiledCheck, ...]
    prepare: tuple[CompiledStep, ...]
    tables: Tables


def make_plan(preset: Preset, templates: Templates, tables: Tables) -> Plan:
    """Put the templates of a preset into its steps."""
    return Plan(
        crm=preset.crm,
        title=preset.title,
        url=_needed(templates, "url"),
        headers=templates("headers"),
        login=None if preset.login is None else _login(preset.login, templates),
        limits=preset.limits,
        skip_when=templates("skip_when"),
        on_call=_steps(preset.on_call, "on_call", templates),
        on_agent=_steps(preset.on_agent, "on_agent", templates),
        receipt=_needed(templates, "receipt"),
        agent_receipt=templates("agent_receipt"),
        rules=_rules(preset.answers, "answers", templates),
        check=tuple(_check(each, f"check[{number}]", templates) for number, each in enumerate(preset.check)),
        prepare=_steps(preset.prepare, "prepare", templates),
        tables=tables,
    )


def _needed(templates: Templates, place: str) -> Compiled:
    if (found := templates(place)) is None:
        raise ValueError(f"{place}: is missing")
    return found


def _steps(steps: Iterable[Step], place: str, templates: Templates) -> tuple[CompiledStep, ...]:
    return tuple(_step(step, f"{place}.{step.step}", templates) for step in steps)


def _step(step: Step, place: str, templates: Templates) -> CompiledStep:
    return CompiledStep(
        name=step.step,
        request=_request(step, place, templates),
        when=templates(f"{place}.when"),
        soft=step.soft,
        of=step.of,
        cache=None if step.cache is None else _cache(step.step, step.cache, f"{place}.cache", templates),
        batch=None if step.batch is None else _batch(step.batch, f"{place}.batch", templates),
        take=templates(f"{place}.take"),
        learn=None if step.learn is None else _learn(step.learn, f"{place}.learn", templates),
    )


def _request(request: Request, place: str, templates: Templates) -> CompiledRequest:
    return CompiledRequest(
        method=request.method,
        path=_needed(templates, f"{place}.path"),
        query=templates(f"{place}.query"),
        headers=templates(f"{place}.headers"),
        body=templates(f"{place}.body"),
        form=templates(f"{place}.form"),
        rules=_rules(request.answers, f"{place}.answers", templates),
    )


def _cache(step: str, cache: Cache, place: str, templates: Templates) -> CompiledCache:
    return CompiledCache(cache.name or step, _needed(templates, f"{place}.by"), cache.found, cache.missing)


def _learn(learn: Learn, place: str, templates: Templates) -> CompiledLearn:
    return CompiledLearn(
        learn.table, _needed(templates, f"{place}.key"), _needed(templates, f"{place}.value")
    )


def _batch(batch: Batch, place: str, templates: Templates) -> CompiledBatch:
    return CompiledBatch(
        max=batch.max,
        wait=batch.wait,
        at=tuple(batch.at.split(".")) if batch.at else (),
        results=_needed(templates, f"{place}.results"),
        errors=templates(f"{place}.errors"),
        match=templates(f"{place}.match"),
        each=_rules(batch.each, f"{place}.each", templates),
    )


def _login(login: Login, templates: Templates) -> CompiledLogin:
    return CompiledLogin(
        steps=_steps(login.steps, "login.steps", templates),
        take=_needed(templates, "login.take"),
        lifetime=_needed(templates, "login.lifetime"),
        url=templates("login.url"),
        hosts=login.hosts,
    )


def _check(check: Check, place: str, templates: Templates) -> CompiledCheck:
    request = _request(check, place, templates)
    step = CompiledStep(check.check, request)
    return CompiledCheck(check.check, step, _needed(templates, f"{place}.expect"), check.otherwise)


def _rules(rules: Iterable[Rule], place: str, templates: Templates) -> tuple[CompiledRule, ...]:
    return tuple(_rule(rule, f"{place}[{number}]", templates) for number, rule in enumerate(rules))


def _rule(rule: Rule, place: str, templates: Templates) -> CompiledRule:
    return CompiledRule(
        means=rule.means,
        statuses=tuple(_statuses(rule.status)),
        when=templates(f"{place}.when"),
        wait=templates(f"{place}.wait"),
        say=templates(f"{place}.say"),
        take=templates(f"{place}.take"),
    )


def _statuses(status: int | str | tuple[int | str, ...] | None) -> Iterator[range]:
    """Read `429`, `4xx`, `500-504`, or a list of these."""
    for each in status if isinstance(status, tuple) else () if status is None else (status,):
        text = str(each).strip().lower()
        first, _, last = text.partition("-")
        if len(text) == 3 and text.endswith("xx") and text[0].isdecimal():
            yield range(int(text[0]) * 100, int(text[0]) * 100 + 100)
        else:
            yield range(int(first), int(last or first) + 1)
