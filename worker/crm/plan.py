"""A preset in the form in which it is carried out: each step with its own compiled templates."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from worker.crm.preset import Limit, Means
from worker.crm.tables import Tables

Names = Mapping[str, Any]
"""What the expressions of a template may use, by name."""

RECORD = "record"
"""The step that is the delivery."""


class Compiled(Protocol):
    """A template that was parsed once and can be rendered often."""

    def render(self, names: Names) -> Any:
        """Return its value. Raises `MappingFailed`, with the place in the template."""
        ...


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
