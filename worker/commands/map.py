"""`crm-sync map`: what a CRM would get for a payload, without sending it."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

import typer
import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from worker.commands.common import load_or_exit, stop_with, to_json
from worker.commands.crm import CrmPart, chosen
from worker.commands.dead_letters import find_or_exit
from worker.commands.event_schemas import payloads
from worker.commands.options import ConfigOption
from worker.commands.terminal import say
from worker.core.errors import InvalidEvent
from worker.core.events import decode
from worker.core.payload import enrichment_from_json
from worker.core.pipeline import build_payload, unknown_call
from worker.core.scrub import Scrubber, printable
from worker.crm.compiled import CompiledPreset, PresetError
from worker.crm.load import compiled
from worker.crm.preset_tests import CannedAnswers, failures, plain_answers, read_cases
from worker.crm.rehearsal import Rehearsal, Sent, Skipped, rehearse
from worker.rabbitmq.message import to_inbound
from worker.settings import BrokerCommandSettings, SettingsError
from worker.settings.tree import CrmSettings
from worker.settings.types import read_typed_yaml

LARGEST = 16 * 1024 * 1024
"""Of a file with a payload or answers, in bytes."""

_answers = TypeAdapter(CannedAnswers)


class _Dialer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    url: str = "https://dialer.example/"


class _MapSettings(CrmPart):
    """What is needed to show a delivery; the rest of the settings is not looked at."""

    vicidial: _Dialer = Field(default={}, validate_default=True)


FileArgument = Annotated[
    Path | None,
    typer.Argument(metavar="FILE", help="A payload as JSON, as crm-sync delivers it; -: standard input."),
]
ExampleOption = Annotated[
    str | None, typer.Option("--example", metavar="NAME", help="An example instead: call or agent.")
]
DeadLetterOption = Annotated[
    str | None,
    typer.Option("--dead-letter", metavar="ID", help="A dead letter instead, read from RabbitMQ."),
]
PresetOption = Annotated[
    str | None, typer.Option("--preset", metavar="NAME", help="Another preset than that of the settings.")
]
AnswersOption = Annotated[
    Path | None,
    typer.Option("--answers", metavar="FILE", help="A YAML file with the CRM's answers, by step."),
]
TestOption = Annotated[bool, typer.Option("--test", help="Play the tests of the preset instead.")]


def map_(
    file: FileArgument = None,
    example: ExampleOption = None,
    dead_letter: DeadLetterOption = None,
    preset: PresetOption = None,
    answers: AnswersOption = None,
    test: TestOption = False,
    config: ConfigOption = None,
) -> None:
    """Show the requests that a CRM would get for a payload, without sending them.

    Use it before the first delivery, and after every change of sink.crm. It
    shows each request, which fields are left out because their expression is
    null, and the outcome. Nothing is sent: the CRM's answers are those of
    --answers, else those of the preset's first test. A login, and a required
    setting that is missing, are shown by their names. Secrets are masked.

    A file with answers has them by step, for example:
      contact: {body: {results: [{id: "501"}]}}
      record: {status: 429, headers: {Retry-After: 10}}

    Exit status 0; 1 if the payload can't be mapped, or a test fails; 2 for
    wrong usage, settings or presets.

    Examples:
      crm-sync map --example call --preset hubspot
      crm-sync map --example call --config crm-sync.yaml --answers answers.yaml
      crm-sync map --dead-letter 9f1c2d3e --config crm-sync.yaml
      crm-sync map --preset ./own.yaml --test
    """
    settings = load_or_exit(_MapSettings, config)
    name = preset or chosen(settings.sink.crm)
    if test:
        _play_tests(name)
        return
    if sum(each is not None for each in (file, example, dead_letter)) != 1:
        raise typer.BadParameter("give a FILE, --example or --dead-letter", param_hint="FILE")
    ready = _compiled(name, settings)
    if dead_letter is not None:
        payload = _from_dead_letter(dead_letter, config)
    else:
        payload = _example(example) if example is not None else _from_file(file)
    found = rehearse(ready, payload, _read_answers(answers) if answers else _of_first_test(name, payload))
    _show(found, ready)
    if found.outcome == "mapping_failed":
        raise typer.Exit(1)


def _compiled(name: str, settings: _MapSettings) -> CompiledPreset:
    """Compile the preset; the settings are for the one that they choose."""
    crm = settings.sink.crm
    own = crm if name == crm.preset else CrmSettings(preset=name)
    try:
        return compiled(own, settings.vicidial.url, placeholders=True)
    except SettingsError as error:
        stop_with("the preset can't be used:", *error.problems, status=2)


# --- payloads and answers -------------------------------------------------------------------------


def examples() -> dict[str, Any]:
    """Return the example payloads by their short names, `call` and `agent`."""
    return {kind.partition(".")[0]: payload for kind, payload in payloads().items()}


def _example(name: str) -> dict[str, Any]:
    known = examples()
    if name not in known:
        raise typer.BadParameter(f"no such example; known are {' and '.join(known)}", param_hint="--example")
    payload: dict[str, Any] = known[name]
    return payload


def _from_file(file: Path | None) -> dict[str, Any]:
    """Read a payload, or exit with status 2."""
    text = _read(file or Path("-"))
    try:
        payload: dict[str, Any] = json.loads(text)
        data = payload["data"]
        record = data["call" if payload["type"] == "call.enriched" else "agent"]
        if isinstance(record, dict) and isinstance(data["event_id"], str) and payload["timestamp"]:
            return payload
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    wanted = "JSON with type, timestamp and data, as crm-sync schema describes it"
    return stop_with(f"{file} is no payload: {wanted}", status=2)


def _read(file: Path) -> str:
    try:
        with sys.stdin.buffer if str(file) == "-" else file.open("rb") as source:
            data = source.read(LARGEST + 1)
        if len(data) > LARGEST:
            stop_with(f"{file} is larger than {LARGEST // 1024**2} MiB", status=2)
        return data.decode()
    except (OSError, UnicodeError) as error:
        stop_with(f"{file} can't be read: {getattr(error, 'strerror', None) or 'not UTF-8'}", status=2)


def _read_answers(file: Path) -> dict[str, Any]:
    try:
        found = _answers.validate_python(read_typed_yaml(_read(file)) or {})
    except yaml.YAMLError:
        stop_with(f"{file} is no YAML", status=2)
    except ValidationError as error:
        wrong = [".".join(map(str, each["loc"][:1])) for each in error.errors(include_input=False)]
        stop_with(
            f"{file} is no file of answers: {', '.join(dict.fromkeys(wrong))} must be a mapping with status,"
            " headers, and body or text, or a list of such",
            status=2,
        )
    return plain_answers(found)


def _of_first_test(preset: str, payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answers of the preset's first test with such a payload, none if there is no test."""
    try:
        cases = read_cases(preset)
    except PresetError:
        return {}
    kind = payload["type"].partition(".")[0]
    return next((plain_answers(case.answers) for case in cases if case.payload == kind), {})


def _from_dead_letter(letter_id: str, config: Path | None) -> dict[str, Any]:
    """Return the payload of a dead letter, built anew from what it carries, or exit."""
    *_, (_, message) = find_or_exit(load_or_exit(BrokerCommandSettings, config), letter_id)
    inbound = to_inbound(message.body, message.properties, message.routing_key)
    try:
        event = decode(inbound)
    except InvalidEvent as error:
        stop_with(f"it is no event that could be delivered: {error}")
    enrichment = None if inbound.enrichment is None else enrichment_from_json(inbound.enrichment)
    if enrichment is None:
        if event.type != "call.ended":
            stop_with("it carries no answer of the dialer, so there is nothing to deliver yet")
        say("The dialer's answer is not in it: this is what the event itself says.")
        say()
        enrichment = unknown_call(event)
    payload: dict[str, Any] = json.loads(build_payload(event, enrichment).body)
    return payload


# --- tests ----------------------------------------------------------------------------------------


def _play_tests(name: str) -> None:
    try:
        cases = read_cases(name)
    except PresetError as error:
        stop_with("the tests can't be read:", *error.problems, status=2)
    failed = 0
    for case in cases:
        if problems := failures(name, case, examples()):
            failed += 1
            say(f"✗ {printable(case.name)}", "red")
            for problem in problems:
                say(f"    {printable(problem)}")
    count = f"{len(cases)} test{'' if len(cases) == 1 else 's'}"
    if failed:
        say(f"{failed} of {count} failed", "red")
        raise typer.Exit(1)
    say(f"{count} passed", "green")


# --- output ---------------------------------------------------------------------------------------


def _show(found: Rehearsal, preset: CompiledPreset) -> None:
    secrets = [str(preset.settings[name]) for name, each in preset.preset.settings.items() if each.secret]
    scrub = Scrubber(secret for secret in secrets if not secret.startswith("<"))

    def write(line: str = "", style: str | None = None) -> None:
        say(printable(scrub(line)), style)

    whens = {step.step: step.when for step in (*preset.preset.on_call, *preset.preset.on_agent)}
    for part in found.parts:
        if isinstance(part, Skipped):
            write(f"{part.step}: left out, because this is not true: {whens.get(part.step)}", "bold")
        else:
            for line in _request_lines(part):
                write(line, "bold" if line.startswith(part.request.step) else None)
        write()
    write(f"outcome: {found.outcome.replace('_', ' ')}" + (f": {found.says}" if found.says else ""), "bold")
    if found.receipt:
        write(f"receipt: {to_json(dict(found.receipt))}")


def _request_lines(sent: Sent) -> list[str]:
    request = sent.request
    query = f"?{urlencode(request.query)}" if request.query else ""
    lines = [f"{request.step}: {request.method} {request.url}{query}"]
    lines += [f"  {name}: {value}" for name, value in request.headers.items()]
    lines += [f"  {name}={value}" for name, value in (request.form or {}).items()]
    if request.body is not None:
        lines += [f"  {line}" for line in to_json(request.body, indent=2).split("\n")]
    place = {each.path: each.source for each in sent.left_out}
    return lines + [
        f"  left out: {_short(path)}, because this is null: {source}" for path, source in place.items()
    ]


def _short(path: str) -> str:
    """Return a place without the list and step in which it stands."""
    return path.split(".", 2)[2] if path.count(".") > 1 else path
