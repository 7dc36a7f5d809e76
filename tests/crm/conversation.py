"""Holding a conversation with the engine: a small preset, canned answers, and what was asked for."""

import json
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import timedelta
from typing import Any

from worker.commands.event_schemas import payloads
from worker.core.errors import ProcessingError
from worker.crm.answers import Answer, SharedAnswer
from worker.crm.compiled import CompiledPreset, compile_preset, variables
from worker.crm.expressions import Template
from worker.crm.memory import Memory
from worker.crm.plan import Plan
from worker.crm.preset import Preset
from worker.crm.steps import Access, Done, HttpRequest, Renew, carry_out

BASE: dict[str, Any] = {
    "crm": "example",
    "title": "Example",
    "about": "An example.",
    "settings": {"token": {"secret": True, "default": "t0ken-t0ken", "about": "A token."}},
    "url": "https://crm.example/api/",
    "headers": {"Authorization": "Bearer {{ settings.token }}"},
    "on_call": [
        {
            "step": "contact",
            "soft": True,
            "when": "{{ number.digits }}",
            "get": "/contacts",
            "query": {
                "phone": "{{ number.digits }}",
                "left": "{{ event.nothing }}",
                "deep": {"a": [1]},
            },
            "take": {"id": "{{ body.id }}"},
        },
        {
            "step": "record",
            "repeat": "upsert",
            "post": "/calls/{{ key | urlquote }}",
            "body": {"key": "{{ key }}", "contact": "{{ contact.id }}"},
            "take": {"id": "{{ body.id }}", "new": "{{ body.new }}"},
        },
        {
            "step": "link",
            "when": "{{ contact.id }}",
            "put": "/calls/{{ record.id }}/contacts/{{ contact.id }}",
        },
    ],
    "on_agent": [
        {
            "step": "user",
            "get": "/users",
            "query": {"name": "{{ agent.agent_user }}"},
            "take": {"id": "{{ body.id }}"},
        },
    ],
    "receipt": {"id": "{{ record.id }}", "new": "{{ record.new }}", "linked": "{{ contact.id }}"},
    "agent_receipt": {"id": "{{ user.id }}"},
}
LOGIN: dict[str, Any] = {
    "steps": [
        {
            "step": "start",
            "post": "/token",
            "form": {"secret": "{{ settings.token }}"},
            "take": {"t": "{{ body.t }}", "u": "{{ body.u }}"},
        }
    ],
    "take": {"token": "{{ start.t }}"},
    "lifetime": "10m",
}
WITH_LOGIN: dict[str, Any] = {"login": LOGIN, "headers": {"X-Login": "{{ login.token }}"}}

CALL, AGENT = "call.enriched", "agent.enriched"


def preset(**changes: Any) -> CompiledPreset:  # noqa: ANN401 - parts of a preset
    """Compile the small preset with some parts replaced."""
    return compile_preset(Preset.model_validate({**BASE, **changes}), {})


def plan_of(compiled: CompiledPreset) -> Plan:
    """Return a compiled preset as it is carried out."""
    return compiled.plan


def template(compiled: CompiledPreset, place: str) -> Template:
    """Return the template at a place of a preset."""
    return next(each for each in _templates(compiled.plan) if each.path == place)


def _templates(part: object) -> Iterator[Template]:
    if isinstance(part, Template):
        yield part
    elif isinstance(part, tuple):
        for each in part:
            yield from _templates(each)
    elif is_dataclass(part):
        for each in fields(part):
            yield from _templates(getattr(part, each.name))


def with_step(name: str, **changes: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - parts of a step
    """Return the small preset's steps with some parts of one replaced; None removes a part."""
    steps = []
    for step in BASE["on_call"]:
        merged = {**step, **changes} if step["step"] == name else step
        steps.append({key: value for key, value in merged.items() if value is not None})
    return steps


def ok(body: object = None, status: int = 200, **headers: str) -> Answer:
    """Return an answer in JSON."""
    return Answer.read(status, headers, json.dumps({} if body is None else body))


def batch_answer(answer: Answer, position: int, count: int) -> Answer:
    """Return an answer to a batch, for the item at a place in it."""
    return Answer(
        answer.status,
        answer.headers,
        answer.text,
        answer.body,
        is_json=answer.is_json,
        shared=SharedAnswer(count),
        position=position,
    )


Reply = Answer | Access | ProcessingError


@dataclass
class Talk:
    """A delivery by canned answers: by step, in turn; a login's renewal is the step `renew`."""

    answers: Mapping[str, list[Reply]]
    compiled: CompiledPreset = field(default_factory=preset)
    memory: Memory = field(default_factory=Memory)
    kind: str = CALL
    access: Access = field(default_factory=lambda: Access({}, "https://crm.example/api"))
    progress: str | None = None
    requests: list[HttpRequest] = field(default_factory=list)
    renewed: int = 0

    @property
    def asked(self) -> list[str]:
        """The names of the steps that were asked for, in order."""
        return [request.step for request in self.requests]

    def run(self, **changes: Any) -> Done:  # noqa: ANN401 - fields of the call
        """Carry the example's payload out."""
        payload = json.loads(json.dumps(payloads()[self.kind]))
        payload["data"].get("call", {}).update(changes)
        names = variables(payload, self.compiled)
        talk = carry_out(
            plan_of(self.compiled),
            names,
            self.access,
            self.memory,
            progress=self.progress,
            scrub=lambda text: text.replace("t0ken-t0ken", "***"),
            now=lambda: 1_764_500_000.0,
        )
        done: Done = self.hold(talk)
        return done

    def hold(self, talk: Generator[HttpRequest | Renew, Answer | Access, Any]) -> Any:  # noqa: ANN401
        """Answer until the conversation ends."""
        turns = {step: iter(answers) for step, answers in self.answers.items()}
        try:
            wanted = next(talk)
            while True:
                if isinstance(wanted, HttpRequest):
                    self.requests.append(wanted)
                    step = wanted.step
                else:
                    self.renewed += 1
                    step = "renew"
                reply = next(turns[step], None) if step in turns else ok()
                assert reply is not None, f"{step} was asked for too often"
                wanted = talk.throw(reply) if isinstance(reply, ProcessingError) else talk.send(reply)
        except StopIteration as end:
            return end.value


def access(token: str = "s1") -> Access:
    """Return a login that can be renewed."""
    return Access({"token": token}, "https://crm.example/api", timedelta(minutes=10))
