"""`crm-sync demo`: start the demonstration, which is a program of its own, if it is installed."""

import importlib.util
import os
import sys

import typer

from worker.commands.common import stop_with
from worker.commands.options import Command

_HOW_TO_GET_IT = (
    "the demo's simulators are not installed here: the service goes without them. "
    "Run `make demo` in a checkout, or install the wheel crm-sync-simulators of the same version"
)


app = typer.Typer(add_completion=False)


@app.command(
    cls=Command,
    add_help_option=False,  # the program has its own
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
def demo(context: typer.Context) -> None:
    """Watch the real worker at work for some ten seconds; nothing to set up."""
    if importlib.util.find_spec("simulators") is None:
        stop_with(_HOW_TO_GET_IT)
    command = [
        sys.executable,
        "-P",
        "-m",
        "simulators.demo",
        *context.args,
    ]  # -P: not what lies in this folder
    os.execv(sys.executable, command)  # noqa: S606 - this Python, and our own program
