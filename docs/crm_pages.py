"""Write what the pages of the CRMs say of their presets, and draw the way of a call.

What stands between `<!-- generated: NAME -->` and `<!-- end -->` is made here; the rest is written by hand.
"""

import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from docs.crm_picture import draw
from simulators.crms.hubspot_properties import DISPOSITIONS
from worker.commands.event_schemas import payloads
from worker.core.retry import format_delay
from worker.crm import filters
from worker.crm.preset import Limit, Preset, Repeat, Request, SettingDeclaration, Step
from worker.crm.preset_tests import played, read_cases
from worker.crm.source import read_preset, shipped

FOLDER = Path(__file__).parent
_GENERATED = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_ADDRESS = re.compile(r"https://[\w./-]*\w")
_EXPRESSION = re.compile(r"\{\{\s*(.*?)\s*(?:\|[^}]*)?\}\}")

_STEPS: Mapping[str, str] = {
    "contact": "find the contact who has the number",
    "person": "find the person who has the number",
    "lead": "find the lead who has the number",
    "known": "look for the call's id",
    "owner": "find the agent's user",
    "user": "find the agent's user",
    "record": "write the call",
    "link": "link the call to whom it was with",
    "update": "change the call that is there",
    "change": "change the call that is there",
    "state": "read whether the call is completed",
    "reopen": "open the call again",
    "complete": "complete the call",
    "task": "make a task for the supervisor",
    "field": "make the field for the call's id",
    "calls_group": "make the group of the properties on calls",
    "calls_property": "make the unique property on calls",
    "tasks_group": "make the group of the properties on tasks",
    "tasks_property": "make the unique property on tasks",
    "token": "get a token",
    "me": "ask whose key it is",
    "challenge": "get a challenge",
    "first": "log in with it",
    "new_challenge": "get another challenge",
    "second": "log in with that one",
}
"""What a step does, by its name; the page of a preset needs a row for each."""
_OWNER_EXISTS = "see that the agent's user is there"
_OF_A_PRESET: Mapping[tuple[str, str], str] = {
    ("vtiger", "on_call.owner"): _OWNER_EXISTS,
    ("espocrm", "on_call.owner"): _OWNER_EXISTS,
}
_REPEAT: Mapping[Repeat, str] = {
    Repeat.OWN_ID: "the record's id is computed from the call's, so a second one can't be made",
    Repeat.UPSERT: "the call's id is a unique field, by which the CRM creates or updates",
    Repeat.UNIQUE: "the CRM refuses a second record with the call's id",
    Repeat.SEARCH: "crm-sync looks for the call's id before it creates a record",
}
_VALUE_NAMES: Mapping[str, str] = DISPOSITIONS
"""What a CRM calls a value that is only a key."""


# --- pages ----------------------------------------------------------------------------------------


def page(name: str) -> str:
    """Write the generated parts into the page of a preset, and leave the rest as it is."""
    preset = read_preset(name)
    return _filled(
        f"crm/{name}.md",
        {
            "not_confirmed": lambda: _not_confirmed(preset),
            "settings": lambda: _settings(preset),
            "requests": lambda: _requests(preset),
            "example": lambda: _example(name),
            "values": lambda: _values(preset),
            "limits": lambda: _limits(preset),
            "check": lambda: _checks(preset),
        },
    )


def index_page() -> str:
    """Write the table of the presets into the overview."""
    return _filled("crm/index.md", {"presets": _presets})


def presets_page() -> str:
    """Write the tables of filters and tests into the page about presets."""
    return _filled("crm/presets.md", {"filters": _filters})


def picture(name: str) -> str:
    """Draw the way of a call."""
    preset = read_preset(name)
    return draw(preset, lambda step: sentence(preset, "on_call", step), short)


def _filled(path: str, parts: Mapping[str, Callable[[], str]]) -> str:
    text = (FOLDER / path).read_text(encoding="utf-8")
    return _GENERATED.sub(lambda match: f"{match[1]}\n{parts[match[2]]().strip()}\n\n{match[3]}", text)


def sentence(preset: Preset, place: str, step: Step) -> str:
    """Return what a step does, in a few words."""
    return _OF_A_PRESET.get((preset.crm, f"{place}.{step.step}")) or _STEPS[step.step]


def short(path: str) -> str:
    """Return a path with its expressions as names in braces."""
    return _EXPRESSION.sub(lambda match: "{" + match[1].replace("settings.", "") + "}", path)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    names = list(head)
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(_cell(each) for each in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


# --- of one preset --------------------------------------------------------------------------------


def _not_confirmed(preset: Preset) -> str:
    """Return the last paragraph of what a preset says of itself."""
    *_, last = preset.about.strip().split("\n")
    return last


def _settings(preset: Preset) -> str:
    rows = (
        (f"`{name}`", _ADDRESS.sub(r"`\g<0>`", each.about), _default(each))
        for name, each in preset.settings.items()
    )
    return _table(("setting", "what it is", "default"), rows)


def _default(setting: SettingDeclaration) -> str:
    if setting.required:
        return "**required**, a secret" if setting.secret else "**required**"
    if setting.secret:
        return "none; a secret"
    value = setting.default
    shown = value if isinstance(value, str) else json.dumps(value)
    return "none" if value in (None, {}, []) else f"`{shown}`"


def _requests(preset: Preset) -> str:
    parts = []
    if preset.login is not None:
        parts += [
            "**To log in**, once for all requests:",
            "",
            *_listed(preset, "login", preset.login.steps),
            "",
        ]
    parts += ["**For a call**:", "", *_listed(preset, "on_call", preset.on_call), ""]
    if preset.on_agent:
        parts += ["**For an agent's event**:", "", *_listed(preset, "on_agent", preset.on_agent), ""]
    if any(step.soft for step in preset.on_call):
        parts.append("*May fail*: the other steps are done all the same, and this one is tried again later.")
    return "\n".join(parts)


def _listed(preset: Preset, place: str, steps: Iterable[Step]) -> Iterator[str]:
    for number, step in enumerate(steps, 1):
        notes = "; ".join(_notes(step))
        yield (
            f"{number}. **{step.step}**, {sentence(preset, place, step)}: `{_request(step)}`"
            f"{'; ' if notes else ''}{notes}"
        )


def _request(request: Request) -> str:
    return f"{request.method} {short(str(request.path))}"


def _notes(step: Step) -> Iterator[str]:
    if step.when is not None:
        yield f"only if `{_expression(step.when)}`"
    if step.body_of is not None:
        yield f"the body is that of `{step.body_of}`"
    if step.cache is not None:
        found, missing = format_delay(step.cache.found), format_delay(step.cache.missing)
        yield f"kept for {found}, or {missing} if nothing was found"
    if step.batch is not None:
        yield f"up to {step.batch.max} calls in one request"
    if step.soft:
        yield "may fail"


def _expression(template: object) -> str:
    return " ".join(re.sub(r"^\{\{|\}\}$", "", str(template).strip()).split())


def _example(name: str) -> str:
    """Show the request of the step `record` in the first test of a preset."""
    case = read_cases(name)[0]
    examples = {kind.partition(".")[0]: each for kind, each in payloads().items()}
    sent = next(
        each.request for each in played(name, case, examples).requests if each.request.step == "record"
    )
    body = sent.body
    if sent.form is not None:
        body = {key: _parsed(value) for key, value in sent.form.items()}
    text = json.dumps(body, indent=2, ensure_ascii=False)
    return f"`{sent.method} {sent.path}`\n\n```json\n{text}\n```"


def _parsed(text: str) -> object:
    return json.loads(text) if text.startswith("{") else text


def _values(preset: Preset) -> str:
    parts = []
    for name, rows in preset.tables.items():
        keys: dict[str, list[str]] = {}
        for key, value in rows.items():
            keys.setdefault(_value(value), []).append("any other" if key == "*" else f"`{key}`")
        shown = ((value, ", ".join(those)) for value, those in keys.items())
        parts += [f"Table `{name}`:", "", _table(("value", "for"), shown), ""]
    return "\n".join(parts)


def _value(value: object) -> str:
    if value is None:
        return "none"
    text = value if isinstance(value, str) else json.dumps(value)
    return f"{_VALUE_NAMES[text]} (`{text}`)" if text in _VALUE_NAMES else f"`{text}`"


def _limits(preset: Preset) -> str:
    return "\n".join(f"- {_limit(preset, limit)}" for limit in preset.limits)


def _limit(preset: Preset, limit: Limit) -> str:
    parts = []
    if limit.rate is not None and limit.per is not None:
        parts.append(f"{limit.rate:,} requests in {format_delay(limit.per)}")
    if limit.concurrent is not None:
        parts.append(f"{limit.concurrent} {'request' if limit.concurrent == 1 else 'requests'} at one time")
    if limit.of is not None:
        steps = [f"`{step.step}`" for step in (*preset.on_call, *preset.on_agent) if step.of == limit.of]
        parts.append(f"of the step {', '.join(steps)}")
    return " ".join(parts)


def _checks(preset: Preset) -> str:
    rows = ((each.check, each.otherwise) for each in preset.check)
    parts = [_table(("`crm-sync check` looks at", "if that fails"), rows)]
    if preset.prepare:
        steps = _listed(preset, "prepare", preset.prepare)
        parts += [
            "",
            "`crm-sync crm prepare` shows this, asks, and does it; what is there already stays as it is:",
            "",
            *steps,
        ]
    return "\n".join(parts)


# --- of all ---------------------------------------------------------------------------------------


def _presets() -> str:
    def row(name: str) -> tuple[str, ...]:
        preset = read_preset(name)
        repeat = next(step.repeat for step in preset.on_call if step.repeat is not None)
        return f"`{name}`", f"[{preset.title}]({name}.md)", _REPEAT[repeat]

    return _table(("preset", "CRM", "a repeat is harmless, because"), map(row, shipped()))


def _filters() -> str:
    known: dict[str, Callable[..., Any]] = {
        **filters.PURE,
        "table": filters.of_tables(lambda _name, _value: None, ()),
        "seconds_until": filters.seconds_until(lambda: datetime.now(UTC)),
    }
    rows = [(f"`{name}{_arguments(each)}`", inspect.getdoc(each) or "") for name, each in known.items()]
    rows.append(("`e164`, `national`, `digits`, `spellings`", "Return such a form of a phone number."))
    tests = [(f"`x is {name}`", inspect.getdoc(each) or _TESTS[name]) for name, each in filters.TESTS.items()]
    return "\n".join([_table(("filter", "what it does"), rows), "", _table(("test", "what it does"), tests)])


_TESTS: Mapping[str, str] = {
    "none": "Return whether a value is null.",
    "defined": "Return whether a value is not null.",
}


def _arguments(function: Callable[..., Any]) -> str:
    _, *others = inspect.signature(function).parameters.values()
    shown = [
        each.name if each.default in (each.empty, None) else f"{each.name}={each.default!r}"
        for each in others
    ]
    return f"({', '.join(shown)})" if shown else ""


PAGES: Mapping[str, Callable[[], str]] = {
    "crm/index.md": index_page,
    "crm/presets.md": presets_page,
    **{f"crm/{name}.md": partial(page, name) for name in shipped()},
    **{f"images/crm-{name}.svg": partial(picture, name) for name in shipped()},
}
