"""What the subcommands share: the settings or exit status 2, errors, and text that is safe to show."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import typer
import yaml
from pydantic import BaseModel, ConfigDict, Field

from worker.core.scrub import printable
from worker.settings import Settings, SettingsError, SinkSettings, load
from worker.settings.load import peek, sources

_T = TypeVar("_T", bound=BaseModel)


def load_or_exit(kind: type[_T], config: Path | None) -> _T:
    """Load the settings of that kind, or name every problem and exit with status 2."""
    try:
        return load(kind, config)
    except SettingsError as error:
        _exit_for(error)


class _SinkPart(BaseModel):
    """The sink alone, whatever is wrong with other settings."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    sink: SinkSettings = Field(default={}, validate_default=True)


def load_settings(config: Path | None) -> Settings:
    """Load all settings, those of the CRM's preset too. Raises `SettingsError` with every problem."""
    try:
        settings = load(Settings, config)
    except SettingsError as error:
        part = peek(_SinkPart, config)
        if part is None:
            raise
        try:
            _with_preset(part.sink, config)
        except SettingsError as other:
            raise SettingsError([*error.problems, *other.problems]) from None
        raise
    return settings.model_copy(update={"sink": _with_preset(settings.sink, config)})


def _with_preset(sink: SinkSettings, config: Path | None) -> SinkSettings:
    """Return the sink's settings with those that the preset declares."""
    if sink.kind != "crm":
        return sink
    from worker.crm.load import resolved  # noqa: PLC0415 - only a CRM needs Jinja2

    return sink.model_copy(update={"crm": resolved(sink.crm, sources(config))})


def load_settings_or_exit(config: Path | None) -> Settings:
    """Load all settings, or name every problem and exit with status 2."""
    try:
        return load_settings(config)
    except SettingsError as error:
        _exit_for(error)


def _exit_for(error: SettingsError) -> NoReturn:
    many = len(error.problems) > 1
    headline = f"{len(error.problems)} settings are wrong:" if many else "a setting is wrong:"
    stop_with(headline, *error.problems, status=2)


def fail(headline: str, details: Sequence[str] = ()) -> None:
    """Print what is wrong on standard error, a line each, without exiting."""
    for line in (f"crm-sync: {headline}", *(f"  {detail}" for detail in details)):
        typer.echo(printable(line), err=True)


def stop_with(headline: str, *details: str, status: int = 1) -> NoReturn:
    """Print what is wrong and what to do, and exit."""
    fail(headline, details)
    raise typer.Exit(status) from None


def to_json(value: object, *, indent: int | None = None) -> str:
    """Return a JSON document with escapes for what would steer a terminal, on one line unless indented."""
    text = json.dumps(value, ensure_ascii=False, indent=indent, separators=None if indent else (",", ":"))
    return "\n".join(
        line if line.isprintable() else "".join(map(_escaped_in_json, line)) for line in text.split("\n")
    )


def _escaped_in_json(letter: str) -> str:
    return letter if letter.isprintable() else json.dumps(letter)[1:-1]


def to_yaml(value: object) -> str:
    """Return a YAML document for people: text of several lines as such, and nothing as an alias."""
    return yaml.dump(value, Dumper=_Readable, sort_keys=False, allow_unicode=True, width=110)


class _Readable(yaml.SafeDumper):
    def ignore_aliases(self, _data: Any) -> bool:  # noqa: ANN401 - any part of it
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)


_Readable.add_representer(str, _Readable.represent_str)
