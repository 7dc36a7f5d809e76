"""What the subcommands share: options, the settings or exit status 2, the consoles, and text safe to show."""

import json
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from typer.core import TyperCommand, TyperGroup, TyperOption

from worker import __version__
from worker.settings import BrokerCommandSettings, SettingsError, load

_P = TypeVar("_P")


class Command(TyperCommand):
    """A command whose `--help` shows no type behind a flag."""

    def get_params(self, ctx: Any) -> list[Any]:  # noqa: ANN401 - typer's own types are private
        """Return the parameters as typer does."""
        return _without_types_of_flags(super().get_params(ctx))


class Group(TyperGroup):
    """A group of commands, with the same help."""

    def get_params(self, ctx: Any) -> list[Any]:  # noqa: ANN401
        """Return the parameters as typer does."""
        return _without_types_of_flags(super().get_params(ctx))


def _without_types_of_flags(params: list[_P]) -> list[_P]:
    for each in params:
        if isinstance(each, TyperOption) and each.is_flag:
            each.metavar = ""
    return params


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"crm-sync {__version__}")
        raise typer.Exit


VersionOption = Annotated[
    bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", help="A YAML file with settings; the environment wins over it."),
]

out = Console(highlight=False, emoji=False)
err = Console(stderr=True, highlight=False, emoji=False)

_T = TypeVar("_T", bound=BrokerCommandSettings)


def load_or_exit(kind: type[_T], config: Path | None) -> _T:
    """Load the settings of that kind, or name every problem and exit with status 2."""
    try:
        return load(kind, config)
    except SettingsError as error:
        many = len(error.problems) > 1
        fail(f"{len(error.problems)} settings are wrong:" if many else "a setting is wrong:", error.problems)
        raise typer.Exit(2) from None


def fail(headline: str, details: list[str]) -> None:
    """Print what is wrong, a line each, without exiting."""
    for line in (f"crm-sync: {headline}", *(f"  {detail}" for detail in details)):
        err.print(printable(line), markup=False, soft_wrap=True)


def printable(text: str) -> str:
    """Return text that others wrote with escapes for what would steer a terminal or break the line."""
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(letter: str) -> str:
    return letter if letter.isprintable() else ascii(letter)[1:-1]


def to_json(value: object, *, indent: int | None = None) -> str:
    """Return a JSON document with escapes for what would steer a terminal, on one line unless indented."""
    text = json.dumps(value, ensure_ascii=False, indent=indent, separators=None if indent else (",", ":"))
    return "\n".join(
        line if line.isprintable() else "".join(map(_escaped_in_json, line)) for line in text.split("\n")
    )


def _escaped_in_json(letter: str) -> str:
    return letter if letter.isprintable() else json.dumps(letter)[1:-1]
