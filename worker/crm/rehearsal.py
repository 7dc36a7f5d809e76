"""A delivery with canned answers: what would be sent, and what would come of it; without a network."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from worker.core.errors import (
    DeliveryIncomplete,
    DeliveryRejected,
    DeliveryUnavailable,
    FailureKind,
    MappingFailed,
)
from worker.crm.answers import Answer
from worker.crm.compiled import CompiledPreset, variables
from worker.crm.expressions import LeftOut, Names, Template
from worker.crm.memory import Memory
from worker.crm.progress import Progress
from worker.crm.steps import (
    Access,
    HttpRequest,
    Renew,
    carry_out,
    checked_address,
    log_in,
)

NO_LOGIN_URL: Final = "https://crm.example"
"""Stands for the address that only a login names."""

_UNAVAILABLE: Final = {
    FailureKind.BUSY: "busy",
    FailureKind.REFUSED: "refused",
    FailureKind.OUTAGE: "retry",
}


@dataclass(frozen=True, slots=True)
class Sent:
    """One request, and the parts of its templates that were null."""

    request: HttpRequest
    left_out: list[LeftOut]
    of_login: bool = False


@dataclass(frozen=True, slots=True)
class Skipped:
    """A step that is left out because its `when` is not true."""

    step: str


@dataclass(slots=True)
class Rehearsal:
    """What a delivery would do."""

    parts: list[Sent | Skipped] = field(default_factory=list)
    outcome: str = ""
    """`delivered`, `incomplete`, `retry`, `busy`, `refused`, `rejected`, `mapping_failed` or `skipped`."""
    receipt: Mapping[str, Any] = field(default_factory=dict)
    says: str = ""
    """What is said of an outcome other than `delivered`, or of soft steps that failed."""

    @property
    def requests(self) -> list[Sent]:
        """The requests in order, those of the login too."""
        return [part for part in self.parts if isinstance(part, Sent)]


class Canned:
    """Answers by step; a list has an answer for each time, the last of which repeats."""

    def __init__(self, answers: Mapping[str, Any]) -> None:
        self._answers = answers
        self._times: dict[str, int] = {}

    def names(self, step: str) -> bool:
        """Return whether there is an answer to this step."""
        return step in self._answers

    def answer(self, step: str) -> Answer:
        """Return the next answer to a step, by default an empty object.

        Raises:
            DeliveryUnavailable: The answer is `{lost: true}`.
        """
        found = self._answers.get(step, {"body": {}})
        if isinstance(found, list):
            place = self._times.get(step, 0)
            self._times[step] = place + 1
            found = found[min(place, len(found) - 1)]
        if found.get("lost"):
            raise DeliveryUnavailable("the connection was lost", FailureKind.OUTAGE)
        headers = {str(name): str(value) for name, value in (found.get("headers") or {}).items()}
        text = found.get("text") or ""
        if "body" in found:
            text = found["body"] if isinstance(found["body"], str) else json.dumps(found["body"])
        return Answer.read(found.get("status", 200), headers, text)


def rehearse(
    preset: CompiledPreset,
    payload: Mapping[str, Any],
    answers: Mapping[str, Any],
    *,
    progress: Mapping[str, Mapping[str, Any]] | None = None,
    now: datetime | None = None,
    real_login: bool = False,
) -> Rehearsal:
    """Carry out the steps for one payload with canned answers.

    Args:
        preset: The preset.
        payload: The payload as parsed JSON.
        answers: By step, or by step of the login: `status`, `headers`, and `body` (JSON, or a text as it is).
        progress: The results of steps that an earlier attempt did.
        now: The time.
        real_login: Whether the login is made, too. It is if one of its steps has an answer; else its results
            are their names in angle brackets.
    """
    stage = _Stage(preset, Canned(answers), (now or datetime.now(UTC)).timestamp())
    rehearsal = stage.rehearsal
    try:
        names = variables(payload, preset)
        access = stage.log_in(names, real=real_login)
        written = None if progress is None else Progress(progress).written(preset.preset.crm)
        conversation = carry_out(
            stage.plan, names, access, stage.memory, progress=written, now=lambda: stage.now
        )
        done = stage.talk(conversation, names)
    except MappingFailed as error:
        rehearsal.outcome, rehearsal.says = "mapping_failed", str(error)
    except DeliveryIncomplete as error:
        rehearsal.outcome, rehearsal.says = "incomplete", str(error)
    except DeliveryRejected as error:
        rehearsal.outcome, rehearsal.says = "rejected", str(error)
    except DeliveryUnavailable as error:
        rehearsal.outcome, rehearsal.says = _UNAVAILABLE[error.kind], str(error)
    else:
        rehearsal.outcome = "skipped" if done.outcome == "skipped" else "delivered"
        rehearsal.receipt, rehearsal.says = done.receipt, "; ".join(done.left_out)
    return rehearsal


class _Watched:
    """A template that notes what it leaves out."""

    def __init__(self, template: Template, parts: list[Sent | Skipped], noted: list[LeftOut]) -> None:
        self._template = template
        self._parts = parts
        self._noted = noted

    def render(self, names: Names) -> Any:
        value = self._template.render(names)
        place, _, last = self._template.path.rpartition(".")
        if last == "when" and not value and "[" not in place:
            self._parts.append(Skipped(place.rpartition(".")[2]))
        elif last in {"query", "headers", "body", "form"}:
            self._noted += self._template.left_out(names)
        return value


class _Stage:
    """One rehearsal while it runs."""

    def __init__(self, preset: CompiledPreset, canned: Canned, now: float) -> None:
        self.memory = Memory()
        self.rehearsal = Rehearsal()
        self.now = now
        self._noted: list[LeftOut] = []
        self._preset = preset
        self._canned = canned
        self.plan = self._watched(preset.plan)

    def _watched(self, part: Any) -> Any:
        """Return a part of the plan with each template watched."""
        if isinstance(part, Template):
            return _Watched(part, self.rehearsal.parts, self._noted)
        if isinstance(part, tuple):
            return tuple(map(self._watched, part))
        if is_dataclass(part) and not isinstance(part, type):
            return replace(
                part, **{each.name: self._watched(getattr(part, each.name)) for each in fields(part)}
            )
        return part

    def log_in(self, names: Names, *, real: bool) -> Access:
        login = self.plan.login
        if login is None or real or any(self._canned.names(step.name) for step in login.steps):
            conversation = log_in(self.plan, names, self.memory, now=lambda: self.now)
            access: Access = self.talk(conversation, names, of_login=True)
            return access
        declared = self._preset.preset.login
        results = {name: f"<{name}>" for name in (declared.take if declared is not None else ())}
        return Access(results, checked_address(self.plan.url.render(names) or NO_LOGIN_URL))

    def talk(self, conversation: Any, names: Names, *, of_login: bool = False) -> Any:
        """Answer each request until the conversation ends; return what it returns."""
        try:
            request = next(conversation)
            while True:
                if isinstance(request, Renew):
                    request = conversation.send(self.log_in(names, real=True))
                    continue
                self.rehearsal.parts.append(Sent(request, list(self._noted), of_login))
                self._noted.clear()
                try:
                    answer = self._canned.answer(request.step)
                except DeliveryUnavailable as error:
                    request = conversation.throw(error)
                else:
                    request = conversation.send(answer)
        except StopIteration as end:
            return end.value
