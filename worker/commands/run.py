"""`crm-sync run`: the worker itself."""

import asyncio
import gc

import typer
import uvloop

from worker import app
from worker.commands.common import fail, load_or_exit
from worker.commands.options import ConfigOption
from worker.commands.tracing import open_or_exit, tracing_or_exit
from worker.core.tracing import UNTRACED
from worker.observe import log
from worker.observe.health import ListenError
from worker.rabbitmq.session import TopologyMismatchError
from worker.settings import Settings


def run(config: ConfigOption = None) -> None:
    """Run the worker until SIGTERM or Ctrl-C: consume, enrich and deliver events.

    A stop lets the events in work finish (setting `drain`); a second one stops
    at once.
    Exit status 0 after a stop, 1 after a failure, 2 for settings that can't be
    used.
    """
    settings = load_or_exit(Settings, config)
    traces = tracing_or_exit()
    extra = [] if traces is None else [traces.add_ids]
    scrubber = log.configure(settings.log, settings.secrets(), extra=extra)
    tracing = UNTRACED if traces is None else open_or_exit(traces, settings.broker.url.get_secret_value())
    _tune_garbage_collection()
    try:
        uvloop.run(app.run(settings, on_password=scrubber.learn, tracing=tracing))
    except TopologyMismatchError as error:
        fail(
            "the broker's topology differs from the settings; crm-sync topology shows more:",
            error.differences,
        )
    except ListenError as error:
        fail(f"{error}; see http.host and http.port", [])
    except OSError as error:
        fail(f"the worker ended: {error.strerror or type(error).__name__}", [scrubber(str(error))])
    except asyncio.CancelledError:
        fail("stopped at once; the broker delivers again what was in work", [])
    else:
        return
    finally:
        tracing.close()  # after the last event, and out of any loop's way
    raise typer.Exit(1)


def _tune_garbage_collection() -> None:
    """Leave alone what the start has made, and look at the rest less often: a tenth of the CPU otherwise."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 20, 50)
