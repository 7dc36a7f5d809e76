"""The command `crm-sync`. Exit status 0, 1 (failed), 2 (wrong usage or settings)."""

import typer

from worker.commands.run import run

app = typer.Typer(name="crm-sync", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command()(run)


@app.callback()
def crm_sync() -> None:
    """Carry VICIdial's call and agent events from RabbitMQ to a CRM.

    Every setting is an environment variable (CRM_SYNC_…) or a line in a YAML file given with --config.
    """


def main() -> None:
    """Run the command."""
    app()
