"""The way from a command to the broker and back: signals, and every trouble as a sentence."""

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable
from typing import TypeVar

import typer
import uvloop

from worker.commands.common import stop_with
from worker.rabbitmq.connection import BROKER_ERRORS, SILENT, addresses, explain, is_being_cancelled
from worker.settings import BrokerCommandSettings

_T = TypeVar("_T")


def talk_to_broker(
    settings: BrokerCommandSettings,
    work: Callable[[asyncio.Event], Awaitable[_T]],
    *,
    careful: bool = False,
) -> _T:
    """Run `work` and return its result; a failure of the broker is printed, with exit status 1.

    Ctrl-C and SIGTERM end it at once. If it is `careful`, the first of them only sets the event that `work`
    is called with, so that it can finish what it is at.
    """
    silence_libraries()
    try:
        return uvloop.run(_until_signal(work, careful=careful))
    except typer.Exit:
        raise
    except asyncio.CancelledError:
        stop_with("stopped")
    except BROKER_ERRORS as error:
        stop_with(f"the broker at {addresses(settings.broker.url)}: {explain(error)}")


async def _until_signal(work: Callable[[asyncio.Event], Awaitable[_T]], *, careful: bool) -> _T:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    main = asyncio.current_task()

    def on_signal() -> None:
        if main is not None and (stop.is_set() or not careful):
            main.cancel()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    try:
        return await work(stop)
    except asyncio.CancelledError:
        if is_being_cancelled():
            raise
        raise ConnectionError(SILENT) from None  # so ends what waits for a broker that fell silent


def silence_libraries() -> None:
    """Turn the libraries' own log off: each failure is printed once, in our own words."""
    for name in ("aiormq", "aio_pika"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
