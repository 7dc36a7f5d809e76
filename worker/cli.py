"""The command `crm-sync`. Exit status 0, 1 (failed), 2 (wrong usage or settings)."""

import typer

from worker.commands import dead_letters, publish
from worker.commands.check import check
from worker.commands.common import Command, Group, VersionOption
from worker.commands.demo import demo
from worker.commands.run import run
from worker.commands.schema import schema
from worker.commands.status import status
from worker.commands.topology import topology

app = typer.Typer(
    name="crm-sync",
    cls=Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command(cls=Command)(run)
app.command(cls=Command)(check)
app.command(cls=Command)(status)
app.add_typer(publish.app, name="publish")
app.command(cls=Command)(topology)
app.add_typer(dead_letters.app, name="dead-letters")
app.command(cls=Command)(schema)
app.command(cls=Command)(demo)


@app.callback()
def crm_sync(*, version: VersionOption = False) -> None:
    """Carry VICIdial's call and agent events from RabbitMQ to a CRM.

    Every setting is an environment variable (CRM_SYNC_…) or a line in a YAML file given with --config.
    """


def main() -> None:
    """Run the command."""
    app()
