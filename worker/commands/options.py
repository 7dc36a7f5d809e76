"""Options that the subcommands share, and their help; imports typer alone, so that `--help` is quick."""

from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from worker import __version__

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
