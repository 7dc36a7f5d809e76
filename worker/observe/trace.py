"""Traces by OpenTelemetry; the only module that imports it, so import it only if traces are wanted.

Names and attributes are those of the Semantic Conventions 1.44.0 (messaging
with RabbitMQ: in development; HTTP: stable), and our own under `crm_sync.`;
`docs/tracing.md` lists them. OpenTelemetry's own variables set up the rest.

Spans hold no text of an error: aiohttp's hold whole addresses, and the
dialer's holds its password. That is why the HTTP requests are traced here and
not by `opentelemetry-instrumentation-aiohttp-client`, which records them. Of
what travels with a message only `traceparent` and `tracestate` are taken over,
no `baggage`: what a producer put there is not for the dialer, nor for the CRM.
"""

import logging
import threading
from collections.abc import Mapping, MutableMapping, Sequence
from types import TracebackType
from typing import Any, Self

import structlog
from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http import trace_exporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue
from structlog.typing import EventDict, WrappedLogger
from typing_extensions import override

from worker import __version__
from worker.core import tracing
from worker.core.errors import ProcessingError
from worker.core.events import Inbound
from worker.core.pipeline import Outcome
from worker.core.ports import Ack, DeadLetter, Duplicate, Retry
from worker.core.retry import format_delay
from worker.core.tracing import Server, Tracing, trace_headers

FLUSH_WITHIN = 5.0
"""Seconds that the last spans have at the stop."""
_SCHEMA = "https://opentelemetry.io/schemas/1.44.0"

_log = structlog.get_logger()
_propagator = TraceContextTextMapPropagator()


class OpenTelemetryTracing(Tracing):
    """Opens spans that are exported to a collector."""

    def __init__(self, provider: TracerProvider, broker: Server | None) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("crm-sync", __version__, schema_url=_SCHEMA)
        self._messaging: dict[str, AttributeValue] = {"messaging.system": "rabbitmq"}
        if broker is not None:
            self._messaging |= {"server.address": broker.host, "server.port": broker.port}

    @classmethod
    def open(cls, broker: Server | None) -> Self:
        """Export to the collector that OpenTelemetry's variables name.

        Raises `ValueError` if one of them can't be used.
        """
        exporter = trace_exporter.OTLPSpanExporter()
        provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(WatchedExporter(exporter)))
        return cls(provider, broker)

    @override
    def work(self, queue: str, exchange: str, inbound: Inbound) -> "_Work":
        """Open the span of a message; the context of its producer is its parent."""
        attributes = self._messaging | {
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": ":".join(filter(None, (exchange, inbound.routing_key, queue))),
            "messaging.rabbitmq.destination.routing_key": inbound.routing_key,
            "messaging.message.body.size": len(inbound.body),
            "crm_sync.attempt": inbound.attempt,
        }
        if inbound.message_id:
            attributes["messaging.message.id"] = inbound.message_id
        parent = _propagator.extract(trace_headers(inbound.headers), Context())
        # Not named by the whole destination: its routing key is the producer's, and names are to be few.
        return _Work(
            self._tracer.start_span(f"process {queue}", parent, SpanKind.CONSUMER, attributes=attributes)
        )

    @override
    def request(self, method: str, server: Server, function: str | None = None) -> tracing.Span:
        """Open the span of a request that belongs to a message; others, such as the clock's, have none."""
        if not get_current_span().get_span_context().is_valid:
            return super().request(method, server, function)
        attributes: dict[str, AttributeValue] = {
            "http.request.method": method,
            "server.address": server.host,
            "server.port": server.port,
        }
        if server.url is not None:
            attributes["url.full"] = server.url
        if function is not None:
            attributes["crm_sync.dialer.function"] = function
        return _Request(self._tracer.start_span(method, None, SpanKind.CLIENT, attributes=attributes))

    @override
    def send(
        self, exchange: str, routing_key: str, message_id: str | None, headers: MutableMapping[str, Any]
    ) -> "_Span":
        """Open the span of a publish.

        A copy keeps the context that its original came with, as the conventions ask, so that every
        attempt stands below the producer; a message that has none is given that of this span.
        """
        attributes = self._messaging | {
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
            "messaging.destination.name": f"{exchange}:{routing_key}",
            "messaging.rabbitmq.destination.routing_key": routing_key,
        }
        if message_id:
            attributes["messaging.message.id"] = message_id
        name = f"send {exchange}"
        if kept := trace_headers(headers):
            creator = get_current_span(_propagator.extract(kept, Context())).get_span_context()
            links = [Link(creator)]
            return _Span(self._tracer.start_span(name, None, SpanKind.CLIENT, attributes, links))
        span = self._tracer.start_span(name, None, SpanKind.PRODUCER, attributes)
        _propagator.inject(headers, set_span_in_context(span))
        return _Span(span)

    @staticmethod
    def add_ids(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
        """Add the ids of the current span to a log line, if there is one."""
        context = get_current_span().get_span_context()
        if context.is_valid:
            event["trace_id"] = f"{context.trace_id:032x}"
            event["span_id"] = f"{context.span_id:016x}"
        return event

    @override
    def close(self, within: float = FLUSH_WITHIN) -> None:
        """Export what is left, within so many seconds."""
        # The SDK would wait up to 30 s for a collector that is down; a daemon thread holds up no exit.
        flushing = threading.Thread(target=self._provider.shutdown, name="last-spans", daemon=True)
        flushing.start()
        flushing.join(within)
        if flushing.is_alive():
            _log.warning("traces_not_flushed", waited_seconds=within)


class _Span(tracing.Span):
    """A span that ends with its block, and records the class of an error that leaves it."""

    __slots__ = ("_span",)

    def __init__(self, span: Span, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(headers)
        self._span = span

    @override
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._failed(kind.__name__)
        self._span.end()

    def _failed(self, error_type: str) -> None:
        self._span.set_attribute("error.type", error_type)
        self._span.set_status(StatusCode.ERROR)


class _Work(_Span):
    """The current span until its block ends: what is done in the block belongs to it."""

    __slots__ = ("_token",)

    @override
    def __enter__(self) -> Self:
        self._token = otel_context.attach(set_span_in_context(self._span))
        return self

    @override
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        otel_context.detach(self._token)
        if isinstance(error, Exception) or kind is None:
            super().__exit__(kind, error, trace)
        else:  # cancelled: the worker stops, and the message is requeued as it was
            self._span.set_attribute("crm_sync.outcome", "requeued")
            self._span.end()

    @override
    def decided(self, outcome: Outcome) -> None:
        """Record what becomes of the message.

        Of the expected outcomes only a dead letter is an error: a retry is how the
        worker waits for an answer or sits an outage out, and an alert on
        failed spans should ring for what a person has to look at.
        """
        attributes = _facts(outcome)
        event = outcome.event
        if outcome.event_id is not None:
            attributes["crm_sync.event.id"] = outcome.event_id
        if event is not None:
            attributes["crm_sync.event.type"] = str(event.type)
        self._span.set_attributes(attributes)
        if outcome.error is not None and not isinstance(outcome.error, ProcessingError):
            self._failed(type(outcome.error).__name__)
        elif isinstance(outcome.disposition, DeadLetter):
            self._failed(str(outcome.disposition.reason))


def _facts(outcome: Outcome) -> dict[str, AttributeValue]:
    stage = str(outcome.stage)
    match outcome.disposition:
        case Ack():
            return {"crm_sync.outcome": "delivered"}
        case Duplicate():
            return {"crm_sync.outcome": "duplicate"}
        case Retry(tier=tier, label=reason):
            return {
                "crm_sync.outcome": "retry",
                "crm_sync.reason": reason,
                "crm_sync.stage": stage,
                "crm_sync.retry.tier": format_delay(tier),
            }
        case DeadLetter(reason=why):
            return {"crm_sync.outcome": "dead_letter", "crm_sync.reason": str(why), "crm_sync.stage": stage}


class _Request(_Span):
    __slots__ = ()

    def __init__(self, span: Span) -> None:
        headers: dict[str, str] = {}
        _propagator.inject(headers, set_span_in_context(span))
        super().__init__(span, headers)

    @override
    def answered(self, status: int) -> None:
        """Note the answer's status; from 400 on the request has failed, whatever the caller makes of it."""
        self._span.set_attribute("http.response.status_code", status)
        if status >= 400:
            self._failed(str(status))


def _resource() -> Resource:
    """Describe this process; what `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` say wins."""
    said: Mapping[str, AttributeValue] = OTELResourceDetector().detect().attributes
    return Resource.create({"service.name": "crm-sync", "service.version": __version__} | dict(said))


class WatchedExporter(SpanExporter):
    """Logs once that the collector accepts no spans, and once that it does again.

    The libraries below would say it with every batch and every span that
    finds the queue full, and in words that may hold the collector's key.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        """Make it; the exporter is used from one thread only, that of the batches."""
        self._exporter = exporter
        self._lost = 0
        self._trouble = _Trouble()
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        library = logging.getLogger(trace_exporter.__name__)
        library.setLevel(logging.WARNING)
        library.propagate = False
        library.handlers = [self._trouble]

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export a batch; see `SpanExporter`."""
        result = self._exporter.export(spans)
        if result is not SpanExportResult.SUCCESS:
            if not self._lost:
                _log.warning("traces_not_exported", error=self._trouble.last)
            self._lost += len(spans)
        elif self._lost:
            _log.info("traces_exported_again", spans_lost=self._lost)
            self._lost = 0
            self._trouble.last = _Trouble.last
        return result

    def shutdown(self) -> None:
        """Export no more; a batch that is being tried again is given up."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Wait for nothing: an exporter holds nothing back."""
        return self._exporter.force_flush(timeout_millis)


class _Trouble(logging.Handler):
    """Records why an export failed, as far as that is no secret: a status or the class of an error."""

    last = "the collector gave no answer"

    def emit(self, record: logging.LogRecord) -> None:
        for each in record.args if isinstance(record.args, tuple) else ():
            if isinstance(each, Exception):
                self.last = f"the collector can't be reached ({type(each).__name__})"
            elif isinstance(each, int):
                self.last = f"the collector answered {each}"
