"""`crm-sync run`: the worker itself."""

import asyncio
import gc
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import typer
import uvloop
from pydantic import SecretStr

from worker import app
from worker.commands.common import fail, load_settings_or_exit, stop_with
from worker.commands.options import ConfigOption
from worker.core.tracing import UNTRACED, Server, Tracing
from worker.observe import log
from worker.observe.health import ListenError
from worker.rabbitmq.session import TopologyMismatchError

if TYPE_CHECKING:
    from worker.observe.trace import OpenTelemetryTracing

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_EXPORTER = "OTEL_TRACES_EXPORTER"


def run(config: ConfigOption = None) -> None:
    """Run the worker until SIGTERM or Ctrl-C: consume, enrich and deliver events.

    A stop lets the events in work finish (setting `drain`); a second one stops
    at once.
    Exit status 0 after a stop, 1 after a failure, 2 for settings that can't be
    used.
    """
    settings = load_settings_or_exit(config)
    traces = _tracing_or_exit()
    extra = [] if traces is None else [traces.add_ids]
    scrubber = log.configure(settings.log, settings.secrets(), extra=extra)
    tracing = UNTRACED if traces is None else _open_or_exit(traces, settings.broker.url)
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
    """Leave alone what the start has made, and check the rest less often: it saves a tenth of the CPU."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 20, 50)


# --- tracing --------------------------------------------------------------------------------------


def tracing_variable(environ: Mapping[str, str]) -> str | None:
    """Return the name of the variable that asks for traces, `None` if none does.

    Only OpenTelemetry's own variables ask for them. Raises `ValueError` if one can't be used.
    """
    disabled = environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    exporter = environ.get(_EXPORTER, "").strip()
    name = next((name for name in _ENDPOINTS if environ.get(name)), None)
    if name is None or disabled or exporter == "none":
        return None
    if exporter not in ("", "otlp"):
        raise ValueError(f"{_EXPORTER}={exporter}: otlp and none are known")
    for which in _PROTOCOLS:
        if (protocol := environ.get(which, "")) not in ("", "http/protobuf"):
            raise ValueError(
                f"{which}={protocol}: only http/protobuf is spoken; a collector takes it on port 4318"
            )
    try:
        parts = urlsplit(environ[name])
        usable = parts.scheme in ("http", "https") and parts.hostname is not None
    except ValueError:
        usable = False
    if not usable:  # and not shown: an address may hold a key
        raise ValueError(f"{name} is no address such as http://collector.example:4318")
    return name


def _tracing_or_exit() -> "type[OpenTelemetryTracing] | None":
    """Return the class that traces, `None` if no traces are wanted; exit with status 2 if it can't be had."""
    try:
        if (variable := tracing_variable(os.environ)) is None:
            return None
    except ValueError as error:
        stop_with(str(error), status=2)
    try:
        from worker.observe.trace import OpenTelemetryTracing  # noqa: PLC0415 - an optional extra
    except ImportError:
        fail(
            f"{variable} asks for traces, but what they need is not installed:"
            " pip install 'vicidial-crm-sync[tracing]'",
            [],
        )
    except ValueError as error:
        fail(str(error), [])
    else:
        return OpenTelemetryTracing
    raise typer.Exit(2)


def _open_or_exit(kind: "type[OpenTelemetryTracing]", broker_urls: Sequence[SecretStr]) -> Tracing:
    """Begin to trace, or exit with status 2 if one of OpenTelemetry's variables can't be used.

    The spans name the broker only if it has a single address.
    """
    broker = Server.of(broker_urls[0].get_secret_value()) if len(broker_urls) == 1 else None
    try:
        return kind.open(broker)
    except ValueError as error:
        stop_with(f"one of OpenTelemetry's variables can't be used: {error}", status=2)
