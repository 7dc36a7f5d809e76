"""`crm-sync crm`: the presets of CRMs."""

import difflib
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel, ConfigDict, Field

from worker.commands.common import load_or_exit, stop_with, to_yaml
from worker.commands.crm_prepare import prepare
from worker.commands.options import Command, ConfigOption, Group
from worker.commands.terminal import say, show_table
from worker.core.scrub import printable
from worker.crm.load import compiled
from worker.crm.source import read_merged, read_preset, shipped, shipped_text
from worker.settings.load import SettingsError
from worker.settings.tree import CrmSettings

app = typer.Typer(cls=Group, no_args_is_help=True, add_completion=False)


class _Sink(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    crm: CrmSettings = Field(default={}, validate_default=True)


class CrmPart(BaseModel):
    """The CRM's settings; the rest is not looked at."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    sink: _Sink = Field(default={}, validate_default=True)


@app.callback()
def crm() -> None:
    """List and show the CRMs that calls can be written into.

    A preset is a YAML file that says how a CRM is written to. The service has
    some; an own one may begin with `extends: hubspot`. The settings choose one
    by sink.crm.preset, and crm-sync map shows what it would send.

    Example: crm-sync crm show hubspot
    """


@app.command("list", cls=Command)
def list_() -> None:
    """List the presets that the service has.

    Example: crm-sync crm list
    """
    rows = []
    for name in shipped():
        preset = read_preset(name)
        first_sentence = " ".join(preset.about.split()).partition(". ")[0].rstrip(".")
        rows.append((name, preset.title, first_sentence))
    show_table(("PRESET", "CRM", "WHAT IT WRITES"), rows)


@app.command(cls=Command)
def show(
    preset: Annotated[
        str | None,
        typer.Argument(metavar="PRESET", help="A name or the path of a file; unset: that of the settings."),
    ] = None,
    merged: Annotated[
        bool,
        typer.Option("--merged", help="With all that it extends, and the tables and fields of the settings."),
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Show a preset: what it writes, its settings, and each request.

    Exit status 0; 2 for a preset that can't be used: every mistake in it is
    named, below its text if that can be shown.

    Examples:
      crm-sync crm show hubspot
      crm-sync crm show --merged --config crm-sync.yaml
    """
    settings = load_or_exit_crm(config)
    name = preset or chosen(settings)
    if preset is not None:
        settings = CrmSettings(preset=preset)
    if merged:
        _print(to_yaml(_merged_or_exit(settings)))
    elif name in shipped():
        _print(shipped_text(f"{name}.yaml"))
    else:
        try:
            _print(Path(name).read_text(encoding="utf-8"))
        except (OSError, UnicodeError) as error:
            stop_with(f"{name} can't be read: {getattr(error, 'strerror', None) or 'not UTF-8'}", status=2)
        _merged_or_exit(settings)


@app.command(cls=Command)
def diff(config: ConfigOption = None) -> None:
    """Show what the settings change in the preset that the service has.

    An own preset is compared with the one of the same CRM.

    Example: crm-sync crm diff --config crm-sync.yaml
    """
    settings = load_or_exit_crm(config)
    name = chosen(settings)
    own = _merged_or_exit(settings)
    base = str(own.get("crm"))
    if base not in shipped():
        stop_with(f"the service has no preset {base} to compare with; it has {', '.join(shipped())}")
    theirs = read_merged(base)
    own.pop("extends", None)
    lines = list(
        difflib.unified_diff(
            to_yaml(theirs).splitlines(), to_yaml(own).splitlines(), base, name, lineterm="", n=2
        )
    )
    _print("\n".join(lines) if lines else "nothing is changed")


app.command(cls=Command)(prepare)


def load_or_exit_crm(config: Path | None) -> CrmSettings:
    """Load the CRM's settings alone, or exit with status 2."""
    return load_or_exit(CrmPart, config).sink.crm


def chosen(settings: CrmSettings) -> str:
    """Return the preset that the settings name, or exit with status 2."""
    if settings.preset is None:
        stop_with("the settings name no preset; see sink.crm.preset, and crm-sync crm list", status=2)
    return settings.preset


def _merged_or_exit(settings: CrmSettings) -> dict[str, Any]:
    """Return the preset as it is used, as written, or exit with status 2 if it can't be used.

    No secret is needed, so it can be looked at where the files of the secrets are not.
    """
    bare = CrmSettings(preset=chosen(settings), tables=settings.tables, fields=settings.fields)
    try:
        compiled(bare, "", placeholders=True)
    except SettingsError as error:
        stop_with("the preset can't be used:", *error.problems, status=2)
    return read_merged(chosen(settings), settings.tables, settings.fields)


def _print(text: str) -> None:
    for line in text.rstrip("\n").split("\n"):
        say(printable(line))
