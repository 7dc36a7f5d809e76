"""The command `crm-sync`. Exit status 0, 1 (failed), 2 (wrong usage or settings)."""

import gc
import importlib
from typing import Any, Final, NamedTuple

import typer
from typer.core import TyperCommand
from typer.main import get_command as build

from worker.commands.options import Command, Group, VersionOption


class Place(NamedTuple):
    """Where a command is defined, and the line about it in the help of `crm-sync`."""

    module: str
    name: str
    summary: str


COMMANDS: Final = {
    "run": Place("run", "run", "Run the worker until SIGTERM or Ctrl-C: consume, enrich and deliver events."),
    "check": Place(
        "check", "check", "Check everything a worker needs, and say what to do about each failure."
    ),
    "status": Place(
        "status",
        "status",
        "Ask a running worker how it is: what is wrong, what to do, and the details.",
    ),
    "intake": Place(
        "intake",
        "intake",
        "Accept events over HTTP until SIGTERM or Ctrl-C, and publish them to the events exchange.",
    ),
    "publish": Place("publish", "app", "Publish events to the events exchange, as a telephony system would."),
    "topology": Place(
        "topology",
        "topology",
        "Declare the exchanges, queues and bindings of a worker, and show them.",
    ),
    "dead-letters": Place(
        "dead_letters",
        "app",
        "List, show, replay, discard or export the events that could not be delivered.",
    ),
    "map": Place(
        "map", "map_", "Show the requests that a CRM would get for a payload, without sending them."
    ),
    "crm": Place("crm", "app", "List and show the CRMs that calls can be written into."),
    "schema": Place(
        "schema", "schema", "Print the JSON Schema of the payloads that the CRM gets (draft 2020-12)."
    ),
    "demo": Place("demo", "app", "Watch the real worker at work for some ten seconds; nothing to set up."),
}
"""The commands by their names. The module of a command is imported only when it is run."""


class Commands(Group):
    """The commands of `crm-sync`, listed without importing them."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - typer's own
        super().__init__(**options)
        self.commands = {name: TyperCommand(name, help=place.summary) for name, place in COMMANDS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:  # noqa: ANN401
        """Return the command that the arguments name, imported."""
        _, _, rest = super().resolve_command(ctx, args)
        return args[0], load(args[0]), rest


def load(name: str) -> Any:  # noqa: ANN401 - typer's own types are private
    """Import a command and return it."""
    place = COMMANDS[name]
    try:
        found = getattr(importlib.import_module(f"worker.commands.{place.module}"), place.name)
    finally:
        gc.enable()  # see `worker.__main__`
    if isinstance(found, typer.Typer):
        command = build(found)
    else:
        alone = typer.Typer(add_completion=False)
        alone.command(name, cls=Command)(found)
        command = build(alone)
    command.name = name
    return command


app = typer.Typer(
    name="crm-sync",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def crm_sync(*, version: VersionOption = False) -> None:
    """Carry VICIdial's call and agent events from RabbitMQ to a CRM.

    Every setting is an environment variable (CRM_SYNC_…) or a line in a YAML file given with --config.
    """


def main() -> None:
    """Run the command."""
    app()
