"""Whether to trace: where OpenTelemetry's own variables name a collector, and only there."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import typer

from worker.commands.common import fail
from worker.core.tracing import Server, Tracing

if TYPE_CHECKING:
    from worker.observe.trace import OpenTelemetryTracing

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_EXPORTER = "OTEL_TRACES_EXPORTER"


def asked_for_by(environ: Mapping[str, str]) -> str | None:
    """Name the variable that asks for traces, `None` where none does.

    Raises `ValueError`, in words for the operator, where one does that can't be obeyed.
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


def tracing_or_exit() -> "type[OpenTelemetryTracing] | None":
    """Give what traces, or `None` where nobody wants it; where it can't be had, exit with status 2."""
    try:
        if (variable := asked_for_by(os.environ)) is None:
            return None
    except ValueError as error:
        fail(str(error), [])
        raise typer.Exit(2) from None
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


def open_or_exit(kind: "type[OpenTelemetryTracing]", broker_url: str) -> Tracing:
    """Begin to trace; where one of OpenTelemetry's variables can't be used, exit with status 2."""
    try:
        return kind.open(Server.of(broker_url))
    except ValueError as error:
        fail(f"one of OpenTelemetry's variables can't be used: {error}", [])
        raise typer.Exit(2) from None
