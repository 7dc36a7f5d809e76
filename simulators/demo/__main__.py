"""The program behind `crm-sync demo`."""

import typer

from simulators.demo.command import demo
from worker.commands.options import Command

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command(cls=Command)(demo)

if __name__ == "__main__":
    app(prog_name="crm-sync demo")
