"""What the subcommands share: the `--config` option, the settings or exit status 2, the consoles."""

from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console

from worker.settings import BrokerCommandSettings, SettingsError, load

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", help="A YAML file with settings; the environment wins over it."),
]

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

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
    """Say what is wrong, a line each, without exiting."""
    for line in (f"crm-sync: {headline}", *(f"  {detail}" for detail in details)):
        err.print(line, markup=False, soft_wrap=True)
