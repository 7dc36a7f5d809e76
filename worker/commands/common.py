"""What the subcommands share: the settings or exit status 2, errors, and text that is safe to show."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

import typer

from worker.core.scrub import printable
from worker.settings import BrokerCommandSettings, SettingsError, load

_T = TypeVar("_T", bound=BrokerCommandSettings)


def load_or_exit(kind: type[_T], config: Path | None) -> _T:
    """Load the settings of that kind, or name every problem and exit with status 2."""
    try:
        return load(kind, config)
    except SettingsError as error:
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
