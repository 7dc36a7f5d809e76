"""What SIGTERM and SIGINT do to a process that runs until it is stopped."""

import asyncio
import signal

import structlog

_log = structlog.get_logger()


def stop_on_signals() -> asyncio.Event:
    """Return an event that the first SIGTERM or SIGINT sets; a second one cancels the calling task."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    main = asyncio.current_task()

    def on_signal(name: str) -> None:
        if stop.is_set() and main is not None:
            _log.warning("stopping_now", signal=name)
            main.cancel()
        else:
            _log.info("stopping", signal=name)
            stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number.name)
    return stop
