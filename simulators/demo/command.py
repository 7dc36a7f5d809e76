"""`crm-sync demo`: the whole worker at work, with its own broker, dialer and CRM; or that dialer alone."""

import asyncio
import errno
import os
import signal
import sys
from typing import Annotated, Literal

import typer
from pydantic import SecretStr

from simulators.broker import BrokerError
from simulators.demo.dialer_only import DEFAULT_PORT, serve_alone
from simulators.demo.display import Display, make_display
from simulators.demo.runner import DemoError, play
from simulators.demo.summary import differences, sample, summary, what_next
from simulators.demo.worker_process import WorkerEnded
from simulators.dialer import StandInDialer
from worker.commands.broker import silence_libraries
from worker.commands.common import stop_with
from worker.commands.terminal import say
from worker.core.scrub import printable
from worker.rabbitmq.connection import BROKER_ERRORS, address, explain
from worker.settings.types import checked_broker_url, parse_duration

_ALONE = "The dialer alone"


def _checked(value: str | None) -> str | None:
    if value is not None:
        try:
            checked_broker_url(value)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
    return value


def _seconds(value: str) -> float:
    try:
        return parse_duration(value).total_seconds()
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


Broker = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        envvar="CRM_SYNC_BROKER__URL",
        callback=_checked,
        help="A RabbitMQ to use; unset: one is started for the demo.",
    ),
]
DialerOnly = Annotated[
    bool,
    typer.Option(
        "--dialer-only",
        rich_help_panel=_ALONE,
        help="Serve the stand-in dialer alone until Ctrl-C, to develop against.",
    ),
]
Port = Annotated[
    int,
    typer.Option(
        min=0, max=65535, rich_help_panel=_ALONE, help="Where it listens, on 127.0.0.1; 0: any free one."
    ),
]
Speech = Annotated[
    Literal["real", "tutorial"],
    typer.Option(
        "--dialect",
        rich_help_panel=_ALONE,
        help="As recorded from a real VICIdial, or as the tutorials tell it.",
    ),
]
ServiceTime = Annotated[
    float | None,
    typer.Option(
        parser=_seconds,
        metavar="DURATION",
        rich_help_panel=_ALONE,
        help="What an answer takes, such as 5ms; of more than 4 at once, each takes longer.",
    ),
]


def demo(
    context: typer.Context,
    broker: Broker = None,
    dialer_only: DialerOnly = False,
    port: Port = DEFAULT_PORT,
    dialect: Speech = "real",
    service_time: ServiceTime = None,
) -> None:
    """Watch the real worker at work for some ten seconds; nothing to set up.

    A day's handful of events is published to RabbitMQ, as a telephony system
    would; the worker asks a dialer about each and delivers what it learns to a
    CRM. Dialer and CRM are stand-ins, which answer as real ones do and fail now
    and then, so that you see retries and dead letters too.

    RabbitMQ is started for the demo alone if it is installed; else it is
    installed (Debian, as root) or run in a container. On a broker given by
    address, the demo keeps to exchanges and queues of its own and deletes them.
    Nothing is left running, however it ends.

    Exit status 0 if every event ended as it should, else 1; 130 after Ctrl-C.

    With --dialer-only, nothing is played: the stand-in dialer serves you, says
    how to ask it, and shows a line for each request. Exit status 0 after Ctrl-C.

    Example: crm-sync demo

    Example: crm-sync demo --dialer-only

    Example: crm-sync demo --dialer-only --port 8090 --service-time 5ms

    Example: crm-sync demo --dialer-only --dialect tutorial
    """
    _refuse_what_does_not_fit(context, dialer_only)
    if dialer_only:
        _serve_the_dialer(port, dialect, service_time or 0.0)
        return
    _play(broker)


def _refuse_what_does_not_fit(context: typer.Context, dialer_only: bool) -> None:
    """Refuse options that would change nothing; a setting in the environment may be there for others."""
    alone = ("port", "dialect", "service_time")
    for name in ("broker",) if dialer_only else alone:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            why = "is of no use with --dialer-only" if dialer_only else "works only with --dialer-only"
            raise typer.BadParameter(why, param_hint=f"--{name.replace('_', '-')}")


def _serve_the_dialer(port: int, dialect: Literal["real", "tutorial"], service_time: float) -> None:
    dialer = StandInDialer(port=port, dialect=dialect, keep_requests=False)
    dialer.service_time = service_time
    try:
        asyncio.run(_serve_until_signal(dialer))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            stop_with(f"port {port} on 127.0.0.1 is taken; choose another with --port, or 0 for any free one")
        stop_with(f"can't listen on 127.0.0.1:{port}: {os.strerror(error.errno or 0)}")


async def _serve_until_signal(dialer: StandInDialer) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    def tell(line: str) -> None:
        try:
            say(printable(line))
        except BrokenPipeError:  # who read it is gone, as with `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            stop.set()

    await serve_alone(dialer, tell, stop)


def _play(broker: str | None) -> None:
    silence_libraries()
    display = make_display()
    signals: list[signal.Signals] = []
    try:
        right = asyncio.run(_until_signal(broker, display, signals))
    except asyncio.CancelledError:
        display.stop()
        display.say("stopped; nothing is left running")
        raise typer.Exit(128 + (signals or [signal.SIGINT])[0]) from None
    except (DemoError, BrokerError, WorkerEnded) as error:
        display.stop()
        stop_with(str(error))
    except BROKER_ERRORS as error:
        display.stop()
        where = "" if broker is None else f" at {address(SecretStr(broker))}"
        stop_with(f"the broker{where}: {explain(error)}")
    if not right:
        raise typer.Exit(1)


async def _until_signal(broker: str | None, display: Display, signals: list[signal.Signals]) -> bool:
    """Play; the first signal ends it, and further ones don't keep it from cleaning up."""
    loop = asyncio.get_running_loop()
    main = asyncio.current_task()

    def on_signal(number: signal.Signals) -> None:
        signals.append(number)
        if main is not None and len(signals) == 1:
            main.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, on_signal, number)
    result = await play(broker, display)
    display.console.print(summary(result))
    if differences(result):
        return False
    display.console.print(sample(result, "demo-02"))
    display.console.print(what_next())
    return True
