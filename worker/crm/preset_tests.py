"""The tests of a preset: payloads, canned answers, and what is expected; a YAML file beside the preset."""

import copy
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from worker.crm.compiled import PresetError, compile_preset
from worker.crm.load import setting_values
from worker.crm.problems import explained
from worker.crm.rehearsal import Rehearsal, Sent, rehearse
from worker.crm.source import is_path, read_preset, shipped_text
from worker.settings.tree import CrmSettings
from worker.settings.types import read_typed_yaml

NOW: Final = datetime(2026, 11, 20, 19, 10, tzinfo=UTC)
"""The time in a test; the examples are of a few minutes before."""

Outcome = Literal[
    "delivered", "incomplete", "retry", "busy", "refused", "rejected", "mapping_failed", "skipped"
]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class CannedAnswer(_Part):
    """One answer; `body` is JSON, or a text as it is; `lost`: none, because the connection broke."""

    status: int = 200
    headers: dict[str, str | int] = {}
    body: Any = None
    text: str | None = None
    lost: bool = False


CannedAnswers = dict[str, CannedAnswer | tuple[CannedAnswer, ...]]
"""By step; of several, one for each time."""


class ExpectedRequest(_Part):
    """A request; only what is given is compared, `body`, `query` and `form` as a whole.

    A mapping in `form` stands for its JSON.
    """

    step: str
    method: str | None = None
    url: str | None = None
    path: str | None = None
    query: dict[str, str] | None = None
    headers: dict[str, str] | None = None
    body: Any = None
    form: dict[str, Any] | None = None


class Expected(_Part):
    """What has to come of a delivery."""

    outcome: Outcome
    receipt: dict[str, Any] | None = Field(None, description="Compared by the keys that are given.")
    requests: tuple[ExpectedRequest, ...] | None = Field(
        None, description="In order; those of the login only if one of them is here."
    )
    says: str | None = Field(None, description="A part of what is said of the outcome.")


class Case(_Part):
    """One test."""

    name: str
    payload: str = Field(description="An example's name: `call` or `agent`.")
    changes: dict[str, Any] = Field({}, alias="with", description="Values by their paths in the payload.")
    settings: dict[str, Any] = {}
    answers: CannedAnswers = {}
    progress: dict[str, dict[str, Any]] | None = Field(None, description="The results of earlier attempts.")
    expect: Expected


_cases: Final = TypeAdapter(tuple[Case, ...])


def read_cases(preset: str) -> tuple[Case, ...]:
    """Read the tests of a preset, which stand beside it: `hubspot.tests.yaml`. Raises `PresetError`."""
    try:
        if is_path(preset):
            path = Path(preset)
            text = path.with_name(f"{path.stem}.tests{path.suffix}").read_text(encoding="utf-8")
        else:
            text = shipped_text(f"{preset}.tests.yaml")
        data = read_typed_yaml(text)
    except FileNotFoundError as error:
        raise PresetError([f"the preset {preset} has no tests beside it"]) from error
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise PresetError([f"the tests of {preset} can't be read: {error}"]) from error
    try:
        return _cases.validate_python(data)
    except ValidationError as error:
        raise PresetError(list(explained(error, data))) from None


def failures(preset: str, case: Case, examples: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Play one test of a preset; return what differs from what is expected."""
    try:
        return list(_compared(played(preset, case, examples), case.expect))
    except (PresetError, ValueError) as error:
        return [str(error)]


def played(name: str, case: Case, examples: Mapping[str, Mapping[str, Any]]) -> Rehearsal:
    """Play one test of a preset. Raises `PresetError` or `ValueError` if it can't be played."""
    if case.payload not in examples:
        raise ValueError(f"payload: {case.payload} is no example; known are {', '.join(examples)}")
    payload = copy.deepcopy(examples[case.payload])
    for path, value in case.changes.items():
        _change(payload, path, value)
    crm = CrmSettings.model_validate({"preset": name, **case.settings})
    preset = read_preset(name, crm.tables, crm.fields)
    problems: list[str] = []
    values = setting_values(preset, crm, {}, problems)
    if problems:
        raise PresetError(problems)
    answers = plain_answers(case.answers)
    wanted = {request.step for request in case.expect.requests or ()}
    login = set() if preset.login is None else {step.step for step in preset.login.steps}
    return rehearse(
        compile_preset(preset, values, now=lambda: NOW),
        payload,
        answers,
        progress=case.progress,
        now=NOW,
        real_login=bool(wanted & login),
    )


def plain_answers(answers: CannedAnswers) -> dict[str, Any]:
    """Return answers as a rehearsal gets them."""

    def plain(answer: CannedAnswer) -> dict[str, Any]:
        return answer.model_dump(exclude_unset=True)

    return {
        step: [plain(each) for each in answer] if isinstance(answer, tuple) else plain(answer)
        for step, answer in answers.items()
    }


def _change(payload: Any, path: str, value: Any) -> None:
    *parts, last = path.split(".")
    place = payload
    for part in parts:
        place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
    place[int(last) if isinstance(place, list) else last] = copy.deepcopy(value)


def _compared(found: Rehearsal, expected: Expected) -> Iterator[str]:
    if found.outcome != expected.outcome:
        yield f"outcome: {found.outcome}, not {expected.outcome}; {found.says}"
    for name, value in (expected.receipt or {}).items():
        if found.receipt.get(name) != value:
            yield f"receipt.{name}: {found.receipt.get(name)!r}, not {value!r}"
    if expected.says is not None and expected.says not in found.says:
        yield f"says: {found.says!r}, without {expected.says!r}"
    if expected.requests is not None:
        yield from _compared_requests(found.requests, expected.requests)


def _compared_requests(sent: list[Sent], expected: tuple[ExpectedRequest, ...]) -> Iterator[str]:
    wanted = [request.step for request in expected]
    if not any(each.of_login and each.request.step in wanted for each in sent):
        sent = [each for each in sent if not each.of_login]
    steps = [each.request.step for each in sent]
    if steps != wanted:
        yield f"requests: {', '.join(steps)}, not {', '.join(wanted)}"
        return
    for place, (each, request) in enumerate(zip(sent, expected, strict=True)):
        for name in sorted(request.model_fields_set):
            value, got = getattr(request, name), getattr(each.request, name)
            if name == "headers":
                got = {header: got.get(header) for header in value}
            if name == "form":
                got = {field: _as_written(text, value.get(field)) for field, text in (got or {}).items()}
            if got != value:
                yield f"requests[{place}] ({request.step}) {name}: {got!r}, not {value!r}"


def _as_written(text: str, expected: object) -> object:
    """Return the JSON in a field of a form if a mapping is expected there."""
    return json.loads(text) if isinstance(expected, dict) else text
