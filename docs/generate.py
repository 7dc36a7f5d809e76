"""Write what the docs say of the code: settings, metrics, AsyncAPI, circuit breakers, and CRMs.

python -m docs.generate            # write them
python -m docs.generate --check    # only name the pages that are out of date; exit status 1 then

A test keeps each page equal to what is made here.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin
from zoneinfo import ZoneInfo

from annotated_types import Ge, Le
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from docs import crm_pages
from worker.commands.asyncapi import asyncapi
from worker.commands.common import to_yaml
from worker.core.retry import format_delay
from worker.core.transitions import TRANSITIONS, State, Transition, Wait
from worker.observe.metrics import Declared, IntakeMetrics, Metrics
from worker.settings import BrokerCommandSettings, Settings
from worker.settings.load import SECRETS_DIR
from worker.settings.tree import LONGEST_DRAIN, PREFIX, leaves
from worker.settings.types import (
    LONGEST_REQUEST,
    MOST_NODES,
    Delays,
    Duration,
    DurationOrNone,
    Paths,
    RequestTimeout,
    Statuses,
)

FOLDER = Path(__file__).parent
_BY = "Made by `python -m docs.generate`; don't edit it here."

# --- settings -------------------------------------------------------------------------------------

_SETTINGS_INTRODUCTION = f"""\
# Settings

A setting can be set in several ways. If more than one sets it, the first of these wins:

1. an environment variable: `{PREFIX}VICIDIAL__TIMEOUT` sets `vicidial.timeout`, with `__` between the levels;
2. for a secret, a file in the directory that `{SECRETS_DIR}` names: `vicidial__password` there sets
   `vicidial.password`;
3. a line in the YAML file of `--config FILE`; [webhook.yaml](../config/webhook.yaml),
   [queue.yaml](../config/queue.yaml) and [crm.yaml](../config/crm.yaml) name every setting with its default;
4. the default.

A secret can always be in a file of its own: the setting with `_file` after its name says which. To set it
both directly and by a file, in the same place, is an error; of two places the first wins, whichever of the
two ways it uses. Only the dialer's password and the secrets of a CRM's preset are read again while the worker
runs, after a login was refused; and the intake's tokens and certificate, when their files change.

`crm-sync check` and `crm-sync run` name everything that is wrong with the settings at once, before they open
any connection, and exit with 2. An unknown name is an error, in the file and in the environment, so that a
typing error is not ignored.

A **duration** is written `500ms`, `5s`, `2m`, `1h`, or as a number of seconds, in whole milliseconds; the
longest is 7 days, `168h`. A **list** is written with commas, or in brackets as in YAML and JSON. **true or
false** may also be `1` or `0`, `yes` or `no`, `on` or `off`. In YAML a value is what is written there: `0100`
stays `0100`, and needs no quotes. Only an empty value, `null` and `~` mean "not set".

An **address** is used exactly as it is written, except blanks and line breaks around it. Write special
characters as `%XX`: in a password `/` as `%2F`, `@` as `%40`, `#` as `%23`, `?` as `%3F` and `%` as `%25`. A
**file with a secret** is UTF-8 text of at most 64 KiB; a byte order mark before it and line breaks behind it
are not part of the secret.

`broker.url` is one address, or several of one cluster: a list in YAML, text with commas between them, or a
file with a line for each. They have the same virtual host. [Deployment](deploy.md#2-a-broker) says how they
are used.

The query of `broker.url` may contain `heartbeat` and `timeout` (whole seconds, 1 to 600), `name`, `auth`
(`plain` or `external`) and, for `amqps://`, `cafile`, `capath`, `certfile`, `keyfile` and `no_verify_ssl` (0
or 1).
"""

_SECTIONS = ("broker", "vicidial", "sink", "retry", "circuit_breakers", "http", "intake", "log")
"""In the order of config/webhook.yaml."""
_REQUIRED = {
    "vicidial.url": "required",
    "vicidial.user": "required",
    "vicidial.password": "required",
    "sink.url": "required for `webhook`",
    "sink.crm.preset": "required for `crm`",
    "intake.token_files": "required for `crm-sync intake`",
}
_MORE = {
    "sink.crm.preset": "[Into a CRM](crm/index.md) has a page for each, with the settings that it adds below"
    " `sink.crm`.",
}
_UNSET = "unset"
_BOUNDS = {
    "broker.url": f"`amqp://` or `amqps://`, one host each, at most {MOST_NODES} addresses",
    "broker.namespace": "1 to 100 letters, digits, dots, dashes and underscores",
    "drain": f"longer than 0, at most {format_delay(LONGEST_DRAIN)}",
    "retry.delays": "at least one, each longer than the one before it, and at least 100ms",
    "vicidial.source": "2 to 20 letters and digits",
    "vicidial.user": "letters, digits, dashes and underscores",
    "vicidial.url": "`http://` or `https://`",
    "sink.url": "`http://` or `https://`",
    "sink.signing_secret": "`whsec_` and base64 of at least 24 bytes, at most 64",
}
"""Bounds that a check of the tree sets, not a type; a test tries them."""

_DURATIONS: tuple[tuple[Any, str, str], ...] = (
    (Duration, "a duration", "longer than 0"),
    (RequestTimeout, "a duration", f"longer than 0, at most {format_delay(LONGEST_REQUEST)}"),
    (DurationOrNone, "a duration", ""),
    (Delays, "a list of durations", ""),
    (Statuses, "a list of texts", ""),
    (Paths, "a list of paths", ""),
)

_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    str: "text",
    Path: "a path",
    SecretStr: "text, a secret",
    tuple[SecretStr, ...]: "a list of addresses, a secret",
    dict[str, Any]: "a mapping",
    ZoneInfo: "a time zone's IANA name",
}


class Setting(NamedTuple):
    """One setting as the page shows it."""

    path: str
    variable: str
    kind: str
    bounds: str
    default: str
    sentence: str
    file: str | None
    """The setting that names a file with its value, for a secret."""


def settings_of() -> Iterator[Setting]:
    """Yield every setting in the order of the tree; a secret's `…_file` belongs to the secret."""
    fields = dict(leaves(Settings))
    defaults = _defaults()
    for path, field in fields.items():
        if path.endswith("_file"):
            continue
        kind, bounds = _kind(field)
        yield Setting(
            path,
            _variable(path),
            kind,
            _BOUNDS.get(path, bounds),
            _REQUIRED.get(path) or _shown(_at(defaults, path)),
            field.description or "",
            f"{path}_file" if f"{path}_file" in fields else None,
        )


def settings_page() -> str:
    """Write the settings reference."""
    found = list(settings_of())
    parts = [f"<!-- {_BY} -->\n", _SETTINGS_INTRODUCTION]
    for section in _SECTIONS:
        model = Settings.model_fields[section].annotation
        about = (model.__doc__ or "") if isinstance(model, type) else ""
        parts += [f"## {section}\n", about.strip() + "\n"]
        parts += [_entry(each) for each in found if each.path.startswith(f"{section}.")]
    parts += ["## The worker itself\n", *(_entry(each) for each in found if "." not in each.path)]
    return "\n".join(parts)


def _entry(setting: Setting) -> str:
    kind = ", ".join(filter(None, [setting.kind, setting.bounds]))
    sentence = " ".join(filter(None, [setting.sentence, _MORE.get(setting.path)]))
    lines = [f"### {setting.path}\n", f"{sentence}\n"]
    lines.append(f"`{setting.variable}` · {kind} · {_default_in_words(setting.default)}\n")
    if setting.file is not None:
        name = setting.path.replace(".", "__")
        lines.append(
            f"From a file: `{setting.file}` (`{_variable(setting.file)}`) names it, or it is `{name}` in the"
            " secrets directory.\n"
        )
    return "\n".join(lines)


def _default_in_words(default: str) -> str:
    if default.startswith("required"):
        return f"**{default}**"
    return f"default: {default}" if default != _UNSET else "no default"


def _variable(path: str) -> str:
    return PREFIX + path.upper().replace(".", "__")


def _kind(field: FieldInfo) -> tuple[str, str]:
    """Name the type in words, and its bounds where the type has some."""
    for annotated, words, bounds in _DURATIONS:
        base, *metadata = get_args(annotated)
        if field.annotation == base and list(field.metadata) == metadata:
            return words, bounds
    annotation: Any = field.annotation
    if NoneType in get_args(annotation):
        annotation = next(each for each in get_args(annotation) if each is not NoneType)
    if get_origin(annotation) is Literal:
        *first, last = (f"`{value}`" for value in get_args(annotation))
        return f"{', '.join(first)} or {last}", ""
    low = next((each.ge for each in field.metadata if isinstance(each, Ge)), None)
    high = next((each.le for each in field.metadata if isinstance(each, Le)), None)
    return _WORDS[get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation], (
        "" if low is None else f"{low} to {high}"
    )


def _defaults() -> Settings:
    """Load the tree with nothing but what is required; the namespace shows where it goes into a name."""
    return Settings.model_validate(
        {
            "broker": {"namespace": "NAMESPACE"},
            "vicidial": {"url": "http://x/", "user": "x", "password": "x"},
            "sink": {"url": "http://x/"},
        }
    )


def _at(tree: BaseModel, path: str) -> object:
    value: object = tree
    for name in path.split("."):
        value = getattr(value, name)
    return "crm-sync" if path == "broker.namespace" else value


def _shown(value: object) -> str:
    if value is None:
        return _UNSET
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    elif isinstance(value, bool):
        value = str(value).lower()
    elif isinstance(value, timedelta):
        value = format_delay(value) if value else "0"
    elif isinstance(value, tuple):
        value = ",".join(_in_list(each) for each in value)
    elif isinstance(value, frozenset):
        value = ",".join(sorted(value, key=lambda each: (each == "", each)))
    return f"`{str(value).replace('NAMESPACE', '<namespace>')}`"


def _in_list(value: timedelta | SecretStr) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else format_delay(value)


# --- metrics --------------------------------------------------------------------------------------

_METRICS_INTRODUCTION = """\
# Metrics

`GET /metrics` returns all of them in Prometheus' text format. [Monitoring](monitoring.md) says which to look
at, and [Operations](operations.md) what the values of the labels `outcome`, `reason`, `breaker` and `state`
mean, and what to do.
"""


def metrics_page() -> str:
    """Write the reference of the metrics."""
    declared = Metrics().declared
    own = [metric for metric in IntakeMetrics().declared if metric not in declared]
    buckets = groupby(
        sorted((metric for metric in [*declared, *own] if metric.buckets), key=lambda each: each.buckets),
        key=lambda each: each.buckets,
    )
    bounds = [
        f"- {', '.join(f'`{each.name}`' for each in those)}: {', '.join(f'{bound:g}' for bound in bucket)}"
        for bucket, those in buckets
    ]
    return "\n".join(
        [
            f"<!-- {_BY} -->\n",
            _METRICS_INTRODUCTION,
            *_rows(declared),
            "\nThose of `crm-sync intake`, which has `crm_sync_build_info` and those of the process, too:\n",
            *_rows(own),
            "\nThe upper bounds of the histograms' buckets, in seconds:\n",
            *bounds,
            "",
        ]
    )


def _rows(declared: list[Declared]) -> list[str]:
    rows = [
        f"| `{metric.name}` | {metric.kind} | {', '.join(f'`{label}`' for label in metric.labels)} "
        f"| {metric.sentence.replace('|', chr(92) + '|')} |"
        for metric in declared
    ]
    return ["| metric | kind | labels | what it shows |", "|---|---|---|---|", *rows]


# --- AsyncAPI -------------------------------------------------------------------------------------


def asyncapi_document() -> str:
    """Write the AsyncAPI document with the names that the default settings give."""
    return f"# {_BY}\n" + to_yaml(asyncapi(BrokerCommandSettings()))


# --- the circuit breaker --------------------------------------------------------------------------

_TRANSITIONS = "<!-- circuit breaker transitions, made by `python -m docs.generate` -->\n"
_END = "<!-- end of the transitions -->\n"


def architecture_page() -> str:
    """Write the table of a circuit breaker's transitions into the page, and leave the rest as it is."""
    before, _, rest = (FOLDER / "architecture.md").read_text(encoding="utf-8").partition(_TRANSITIONS)
    _, end, after = rest.partition(_END)
    rows = [
        f"| {_words(row.state)} | {row.report} | {'' if row.then is row.state else _words(row.then)} "
        f"| {_changed(row)} |"
        for row in TRANSITIONS
    ]
    head = ["| state | what happens | new state | wait, or capacity |", "|---|---|---|---|"]
    waits = [f"- *{wait.name.lower()}*: {wait}" for wait in Wait]
    table = "\n".join(["", *head, *rows, "", "The waits:", "", *waits, "", ""])
    return before + _TRANSITIONS + table + end + after


def _words(state: State) -> str:
    return state.replace("_", "-")


def _changed(row: Transition) -> str:
    if row.capacity is not None:
        return f"capacity: {row.capacity}"
    if row.wait is None:
        return ""
    if_longer = ", if that is longer than what is left" if row.state is State.OPEN else ""
    return f"*{row.wait.name.lower()}*{if_longer}"


# --- all of them ----------------------------------------------------------------------------------

PAGES: dict[str, Callable[[], str]] = {
    "architecture.md": architecture_page,
    "settings.md": settings_page,
    "metrics.md": metrics_page,
    "asyncapi.yaml": asyncapi_document,
    **crm_pages.PAGES,
}


def main() -> int:
    """Write each page that is out of date, or with `--check` name it."""
    parser = argparse.ArgumentParser(prog="python -m docs.generate", description="Write the generated pages.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page is out of date")
    check = parser.parse_args().check
    for name in [name for name in os.environ if name.upper().startswith(PREFIX)]:
        del os.environ[name]  # the pages show the defaults
    stale = []
    for name, make in PAGES.items():
        path, text = FOLDER / name, make()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if not check:
                path.write_text(text, encoding="utf-8")
    for name in stale:
        what = "out of date; run python -m docs.generate" if check else "written"
        sys.stdout.write(f"docs/{name}: {what}\n")
    return 1 if stale and check else 0


if __name__ == "__main__":
    sys.exit(main())
