"""What an answer of the CRM means: ordered rules, of which the first that fits decides.

The rules of the step come first, then those of the preset, then `judge_status`. Everything here is pure.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Self

from worker.core.errors import MappingFailed
from worker.core.retry_after import retry_after
from worker.crm.plan import Compiled, CompiledBatch, CompiledRule, Names
from worker.crm.preset import Means
from worker.settings.types import parse_duration

LONGEST_WAIT = timedelta(days=7)
"""Also of the life of a login."""
_TRY_AGAIN = frozenset({408, 425})
_PLAIN = (str, int, float, bool, type(None))


@dataclass(slots=True)
class SharedAnswer:
    """One answer to a batch, as all its items see it."""

    count: int
    """How many items were in the batch."""
    results: list[Any] | None = None
    """The results of all items, once one item has asked for its own."""
    by_key: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of the CRM."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    """Names in lower case."""
    text: str = ""
    body: Any = None
    """The parsed JSON; None if there is none."""
    is_json: bool = True
    """Whether the text is JSON."""
    shared: SharedAnswer | None = None
    """Set on the answer to a batch."""
    position: int = 0
    """The place of this item in the batch."""
    reported: bool = False
    """Whether another delivery got the same answer, and reports it if it means a failure."""

    @classmethod
    def read(cls, status: int, headers: Mapping[str, str], text: str) -> Self:
        """Parse the text, if it is JSON."""
        headers = {name.lower(): value for name, value in headers.items()}
        try:
            return cls(status, headers, text, json.loads(text, parse_constant=_refuse_constant))
        except (ValueError, RecursionError):
            return cls(status, headers, text, None, is_json=False)

    def names(self, names: Names, result: object = None) -> dict[str, Any]:
        """Return the names for a template that reads this answer."""
        own = {
            "status": self.status,
            "headers": self.headers,
            "body": self.body,
            "text": self.text,
            "result": result,
        }
        return {**names, **own}


def _refuse_constant(name: str) -> None:
    """Refuse what Python reads and JSON does not have, such as NaN."""
    raise ValueError(f"{name} is no JSON")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an answer means, and what was read from it."""

    means: Means
    wait: timedelta | None = None
    say: str | None = None
    """The CRM's reason."""
    results: Mapping[str, Any] = field(default_factory=dict)
    whole: bool = True
    """Whether it is about the whole answer, not about one item of a batch."""
    by_rule: bool = True
    """Whether a rule of the preset decided."""


def as_duration(value: object) -> timedelta | None:
    """Read a wait: a duration such as `10s`, or seconds. Return None for anything else."""
    try:
        wait = parse_duration(round(value, 3) if isinstance(value, float) else value)
    except (ValueError, OverflowError):
        return None
    return min(wait, LONGEST_WAIT)


def apply_rule(rule: CompiledRule, status: int, reading: Names) -> Verdict | None:
    """Return what a rule says of an answer, None if it does not fit; `reading` has the answer's names."""
    if rule.statuses and not any(status in each for each in rule.statuses):
        return None
    if rule.when is not None and not read_template(rule.when, reading):
        return None
    say = read_template(rule.say, reading)
    return Verdict(
        rule.means,
        as_duration(read_template(rule.wait, reading)),
        None if say is None else str(say),
        read_template(rule.take, reading) or {},
    )


def read_template(template: Compiled | None, reading: Names) -> Any:
    """Return what a template reads of an answer, None if the answer is not as the template expects it.

    A strange header in the answer to a write must not fail the delivery that it confirms.
    """
    try:
        return None if template is None else template.render(reading)
    except MappingFailed:
        return None


def judge(rules: Iterable[CompiledRule], answer: Answer, names: Names, *, now: float) -> Verdict:
    """Return what an answer means: the first rule that fits, else what its status says.

    `now` is the time since the epoch, for a `Retry-After` that is a date.
    """
    reading = answer.names(names)
    for rule in rules:
        if (verdict := apply_rule(rule, answer.status, reading)) is not None:
            return _waiting_as_asked(verdict, answer, now)
    return judge_status(answer, now=now)


def _waiting_as_asked(verdict: Verdict, answer: Answer, now: float) -> Verdict:
    """Return a verdict with the answer's own `Retry-After`, if that is longer than the rule's wait."""
    asked = retry_after(answer.headers.get("retry-after"), now)
    if asked is None or verdict.means not in (Means.BUSY, Means.QUOTA):
        return verdict
    return replace(verdict, wait=max(asked, verdict.wait or asked))


def judge_status(answer: Answer, *, now: float) -> Verdict:
    """Return what the status says by itself."""
    status = answer.status
    wait = retry_after(answer.headers.get("retry-after"), now)
    say = None
    match status:
        case _ if 200 <= status < 300:
            means = Means.DONE
        case _ if 300 <= status < 400:
            means, say = Means.REFUSED, "a redirect, which is not followed; check the address"
        case 401:
            means = Means.TOKEN
        case 403:
            means = Means.REFUSED
        case 429:
            return Verdict(Means.BUSY, wait or timedelta(0), by_rule=False)
        case 503 if wait is not None:
            return Verdict(Means.BUSY, wait, by_rule=False)
        case _ if status in _TRY_AGAIN or not 400 <= status < 500:
            means = Means.RETRY
        case _:
            means = Means.BAD
    return Verdict(means, say=say, by_rule=False)


def own_result(batch: CompiledBatch, answer: Answer, names: Names) -> Any:
    """Return the result of this event's item in the answer to a batch, None if the answer has none."""
    shared = answer.shared or SharedAnswer(1)
    if shared.results is None:
        shared.results = _divide(batch, answer, names, shared.by_key)
    if batch.match is None:
        complete = len(shared.results) == shared.count
        return shared.results[answer.position] if complete else None
    if not shared.by_key and shared.count == len(shared.results) == 1:
        return shared.results[0]  # it does not say whose result it is, but there is only one item
    return shared.by_key.get(str(names.get("key")))


def _divide(batch: CompiledBatch, answer: Answer, names: Names, by_key: dict[str, Any]) -> list[Any]:
    reading = answer.names(names)
    lists = [read_template(each, reading) for each in (batch.results, batch.errors)]
    results = [result for found in lists if isinstance(found, list) for result in found]
    if not all(isinstance(result, dict) for result in results):
        return []  # an answer that can't be divided says nothing of any item
    for result in results if batch.match is not None else ():
        key = read_template(batch.match, answer.names(names, result))
        if key is not None:
            by_key.setdefault(str(key), result)
    return results


def plain(results: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return those results that are text, numbers, booleans or null: the others can't be kept."""
    return {name: value for name, value in (results or {}).items() if isinstance(value, _PLAIN)}
