"""`crm-sync demo`: the whole worker at work, with a broker, a dialer and a CRM of its own."""

import asyncio
import signal
from typing import Annotated

import typer
from pydantic import SecretStr

from worker.commands.terminal import silence_libraries, stop_with
from worker.demo.broker import BrokerError
from worker.demo.display import Display, make_display
from worker.demo.stage import DemoError, play
from worker.demo.summary import differences, specimen, summary, what_next
from worker.demo.worker_process import WorkerEnded
from worker.rabbitmq.connection import BROKER_ERRORS, address, explain
from worker.settings.types import checked_url


def _checked(value: str | None) -> str | None:
    if value is not None:
        try:
            checked_url(SecretStr(value), ("amqp", "amqps"), "amqp://user:password@broker.example:5672/vhost")
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
    return value


def demo(
    broker: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            envvar="CRM_SYNC_BROKER__URL",
            callback=_checked,
            help="A RabbitMQ to use; unset: one is started for the demo.",
        ),
    ] = None,
) -> None:
    """Watch the real worker at work for some ten seconds; nothing to set up.

    A day's handful of events is published to RabbitMQ, as a telephony system
    would; the worker asks a dialer about each and delivers what it learns to a
    CRM. Dialer and CRM are stand-ins, which answer as real ones do and fail now
    and then, so that you see retries and dead letters too.

    RabbitMQ is started for the demo alone where it is installed; else it is
    installed (Debian, as root) or run in a container. On a broker given by
    address, the demo keeps to exchanges and queues of its own and deletes them.
    Nothing is left running, however it ends.

    Exit status 0 if every event ended as it should, else 1; 130 after Ctrl-C.

    Example: crm-sync demo
    """
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
    display.console.print(specimen(result, "demo-02"))
    display.console.print(what_next())
    return True
