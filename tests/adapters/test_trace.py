"""The spans of one event: their shape, what they say of a failure, and what they never hold."""

import ast
import asyncio
import logging
import re
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aio_pika
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from pydantic import SecretStr
from structlog.testing import capture_logs

from tests.adapters.dialer_client import CALL, ROW, TIMES, make_breakers
from tests.adapters.raw import Connection, RawServer
from tests.core.inbounds import inbound
from tests.otlp import Collector
from worker import __version__
from worker.commands.run import tracing_variable
from worker.core.errors import EnrichmentUnavailable, InvalidEvent, NotReady, PublishError, Reason
from worker.core.events import Event, EventType
from worker.core.payload import Payload
from worker.core.pipeline import Outcome
from worker.core.ports import Ack, DeadLetter, Disposition, Duplicate, Receipt, Retry, Stage
from worker.core.tracing import UNTRACED, Server, Tracing, trace_headers
from worker.observe import trace
from worker.observe.trace import OpenTelemetryTracing, WatchedExporter
from worker.rabbitmq.publisher import BrokerPublisher
from worker.settings import SinkSettings, VicidialSettings
from worker.sinks import webhook
from worker.vicidial import client as dialer
from worker.vicidial.client import SingleFlight

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PRODUCER = "00f067aa0ba902b7"
TRACED = {"traceparent": f"00-{TRACE}-{PRODUCER}-01", "tracestate": "shop=7"}
QUEUE = "crm-sync.call-ended"
EVENTS = "crm-sync.events"
BROKER = Server("broker.example", 5672)
PASSWORD = "S3cret-Dialer_Pass"
TOKEN = "token-in-the-webhook-address"
EXPORTER = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
EVENT = Event(EventType.CALL_ENDED, "evt-1", datetime.now(UTC), CALL, {"call_id": CALL})
PAYLOAD = Payload("evt-1", "call.enriched", b"{}")


@dataclass
class Traced:
    """What traces, and what it has exported."""

    tracing: OpenTelemetryTracing
    _memory: InMemorySpanExporter

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        finished = self._memory.get_finished_spans()
        found = {span.name: span for span in finished}
        assert len(found) == len(finished), "each has a name of its own here"
        return found


@pytest.fixture
def traced() -> Traced:
    memory, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(memory))
    return Traced(OpenTelemetryTracing(provider, BROKER), memory)


@pytest.fixture(autouse=True)
def _library_loggers_as_they_were() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("opentelemetry", EXPORTER)]
    before = [(logger.level, logger.propagate, logger.handlers) for logger in loggers]
    yield
    for logger, (level, propagate, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.propagate, logger.handlers = propagate, handlers


def ids(span: ReadableSpan) -> tuple[str, str]:
    assert span.context is not None
    return f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"


def parent_of(span: ReadableSpan) -> tuple[str, str] | None:
    above = span.parent
    return None if above is None else (f"{above.trace_id:032x}", f"{above.span_id:016x}")


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def decided(disposition: Disposition, error: Exception | None = None) -> Outcome:
    return Outcome(disposition, Stage.DELIVER, EVENT, None, Receipt("200"), error)


# --- the span of a message


def test_a_messages_span_continues_its_producers_trace_with_the_conventions_attributes(
    traced: Traced,
) -> None:
    message = inbound(b"12345", headers=TRACED, message_id="m-1", attempt=2)
    with traced.tracing.work(QUEUE, EVENTS, message) as span:
        span.decided(decided(Ack()))
    (work,) = traced.spans.values()
    assert (work.name, work.kind) == (f"process {QUEUE}", SpanKind.CONSUMER)
    assert (ids(work)[0], parent_of(work)) == (TRACE, (TRACE, PRODUCER))
    assert work.context is not None
    assert work.context.trace_state.to_header() == "shop=7"
    assert attributes_of(work) == {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": f"{EVENTS}:call.ended:{QUEUE}",
        "messaging.rabbitmq.destination.routing_key": "call.ended",
        "messaging.message.id": "m-1",
        "messaging.message.body.size": 5,
        "server.address": "broker.example",
        "server.port": 5672,
        "crm_sync.attempt": 2,
        "crm_sync.event.id": "evt-1",
        "crm_sync.event.type": "call.ended",
        "crm_sync.outcome": "delivered",
    }
    assert work.status.status_code is StatusCode.UNSET
    assert work.instrumentation_scope is not None
    assert (work.instrumentation_scope.name, work.instrumentation_scope.version) == ("crm-sync", __version__)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"traceparent": "rubbish"},
        {"traceparent": 5},
        {"traceparent": b"\xff"},
        {"traceparent": f"00-{'0' * 32}-{PRODUCER}-01"},
        {"traceparent": f"00-{TRACE}-{PRODUCER}-01\r\nx-evil: 1"},
        {"tracestate": "shop=7"},
    ],
)
def test_a_message_without_a_usable_trace_begins_one(traced: Traced, headers: dict[str, object]) -> None:
    with traced.tracing.work(QUEUE, EVENTS, inbound(b"{}", headers=headers)):
        pass
    (work,) = traced.spans.values()
    assert parent_of(work) is None
    assert ids(work)[0] not in (TRACE, "0" * 32)


RETRY = Retry(timedelta(seconds=30), 2, "not_final", "the status is INCALL")
DEAD = DeadLetter(Reason.NOT_FOUND, "the dialer says 3125551212")


@pytest.mark.parametrize(
    ("outcome", "said", "error_type"),
    [
        (decided(Ack()), {"outcome": "delivered"}, None),
        (decided(Duplicate()), {"outcome": "duplicate"}, None),
        (
            decided(RETRY, NotReady("not yet")),
            {"outcome": "retry", "reason": "not_final", "stage": "deliver", "retry.tier": "30s"},
            None,
        ),
        (
            decided(DEAD, NotReady("not yet")),
            {"outcome": "dead_letter", "reason": "not_found", "stage": "deliver"},
            "not_found",
        ),
        (
            decided(RETRY, KeyError("3125551212")),
            {"outcome": "retry", "reason": "not_final", "stage": "deliver", "retry.tier": "30s"},
            "KeyError",
        ),
    ],
    ids=["delivered", "a duplicate", "a retry", "a dead letter", "a bug"],
)
def test_only_a_dead_letter_and_a_bug_are_errors(
    traced: Traced, outcome: Outcome, said: dict[str, str], error_type: str | None
) -> None:
    message = inbound(b"{}")
    with traced.tracing.work(QUEUE, EVENTS, message) as span:
        span.decided(outcome)
    (work,) = traced.spans.values()
    found = attributes_of(work)
    for name in ("attempt", "event.id", "event.type"):
        del found[f"crm_sync.{name}"]
    assert {name: value for name, value in found.items() if name.startswith("crm_sync.")} == {
        f"crm_sync.{name}": value for name, value in said.items()
    }
    assert found.get("error.type") == error_type
    failed = work.status.status_code is StatusCode.ERROR
    assert (failed, work.status.description) == (error_type is not None, None)


def test_a_message_that_can_not_be_decoded_is_named_by_the_id_that_it_claims(traced: Traced) -> None:
    message = inbound({"type": "unheard of", "event_id": "evt-9"})
    with traced.tracing.work(QUEUE, EVENTS, message) as span:
        error = InvalidEvent("unknown event type")
        error.event_id = "evt-9"
        span.decided(Outcome(DeadLetter(Reason.INVALID_EVENT, str(error)), error=error))
    found = attributes_of(*traced.spans.values())
    assert found["crm_sync.event.id"] == "evt-9"
    assert "crm_sync.event.type" not in found


def test_what_breaks_the_work_off_is_named_by_its_class_alone(traced: Traced) -> None:
    with pytest.raises(PublishError), traced.tracing.work(QUEUE, EVENTS, inbound(b"{}")):
        raise PublishError("to 3125551212")
    (work,) = traced.spans.values()
    assert attributes_of(work)["error.type"] == "PublishError"
    assert (work.status.status_code, work.status.description) == (StatusCode.ERROR, None)
    assert work.events == ()


async def test_a_message_that_is_requeued_at_the_stop_is_no_error(traced: Traced) -> None:
    begun = asyncio.Event()

    async def work() -> None:
        with traced.tracing.work(QUEUE, EVENTS, inbound(b"{}")):
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await begun.wait()
    task.cancel()
    await asyncio.wait([task])
    (span,) = traced.spans.values()
    assert attributes_of(span)["crm_sync.outcome"] == "requeued"
    assert span.status.status_code is StatusCode.UNSET


def test_a_trace_that_its_producer_did_not_sample_is_not_exported_but_goes_on(traced: Traced) -> None:
    unsampled = TRACED | {"traceparent": f"00-{TRACE}-{PRODUCER}-00"}
    with traced.tracing.work(QUEUE, EVENTS, inbound(b"{}", headers=unsampled)):
        line = traced.tracing.add_ids(None, "info", {"event": "x"})
        with traced.tracing.request("GET", BROKER) as request:
            headers = dict(request.headers or {})
    assert traced.spans == {}
    assert isinstance(line, dict)
    assert line["trace_id"] == TRACE
    assert headers["traceparent"][:35] == f"00-{TRACE}"
    assert headers["traceparent"][-3:] == "-00"


# --- log lines


def test_a_log_line_within_a_span_carries_its_ids_and_no_other_does(traced: Traced) -> None:
    assert traced.tracing.add_ids(None, "info", {"event": "before"}) == {"event": "before"}
    with traced.tracing.work(QUEUE, EVENTS, inbound(b"{}", headers=TRACED)):
        line = traced.tracing.add_ids(None, "info", {"event": "within"})
    span = ids(*traced.spans.values())
    assert line == {"event": "within", "trace_id": span[0], "span_id": span[1]}
    assert traced.tracing.add_ids(None, "info", {"event": "after"}) == {"event": "after"}


# --- requests to the dialer


@asynccontextmanager
async def client_of(
    url: str,
    tracing: Tracing = UNTRACED,
    **chosen: Any,  # noqa: ANN401 - the dialer's settings
) -> AsyncIterator[dialer.DialerClient]:
    vicidial = VicidialSettings(url=url, user="apiuser", password=SecretStr(PASSWORD), **chosen)
    async with dialer.open_session(vicidial) as session:
        yield dialer.DialerClient(vicidial, session, make_breakers(), tracing=tracing)


class Answering:
    """A dialer that keeps each request and gives one answer."""

    def __init__(self, answer: bytes = ROW.encode(), start: bytes = b"HTTP/1.1 200 OK\r\n") -> None:
        self.requests: list[str] = []
        self._answer = answer
        self._start = start

    async def __call__(self, connection: Connection) -> None:
        self.requests.append((await connection.request()).decode())
        await connection.answer(self._answer, "connection: close", start=self._start)


async def breaks_off(connection: Connection) -> None:
    await connection.request()
    connection.reset()


async def speaks_no_http(connection: Connection) -> None:
    await connection.request()
    await connection.send(b"HTTP/1.1 abc\r\n\r\n")


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_look_up_is_a_client_span_without_query_user_or_password(traced: Traced, method: str) -> None:
    answering = Answering()
    async with RawServer(answering) as server, client_of(server.url, traced.tracing, method=method) as client:
        with traced.tracing.work(QUEUE, EVENTS, inbound(b"{}", headers=TRACED)):
            await client.callid_info(CALL, TIMES)
        asked = traced.spans[method]
        assert asked.kind is SpanKind.CLIENT
        assert parent_of(asked) == ids(traced.spans[f"process {QUEUE}"])
        assert attributes_of(asked) == {
            "http.request.method": method,
            "http.response.status_code": 200,
            "url.full": server.url,
            "server.address": "127.0.0.1",
            "server.port": server.port,
            "crm_sync.dialer.function": "callid_info",
        }
    (request,) = answering.requests
    assert PASSWORD in request
    assert f"traceparent: 00-{TRACE}-{ids(asked)[1]}-01\r\n" in request
    assert "tracestate: shop=7\r\n" in request


@pytest.mark.parametrize(
    ("serve", "error_type"),
    [
        (Answering(start=b"HTTP/1.1 503 Busy\r\n"), "503"),
        (Answering(start=b"HTTP/1.1 404 No\r\n"), "404"),
        (breaks_off, "ClientOSError"),
        (speaks_no_http, "ClientResponseError"),
    ],
    ids=["503", "404", "a reset", "no HTTP"],
)
async def test_a_look_up_that_fails_is_an_error_whose_text_stays_here(
    traced: Traced, serve: Callable[[Connection], Awaitable[None]], error_type: str
) -> None:
    """The text of aiohttp's `ClientResponseError` holds the address with the password."""
    async with RawServer(serve) as server, client_of(server.url, traced.tracing) as client:
        with traced.tracing.work(QUEUE, EVENTS, inbound(b"{}")), pytest.raises(EnrichmentUnavailable):
            await client.callid_info(CALL, TIMES)
    asked = traced.spans["GET"]
    assert asked.status.status_code is StatusCode.ERROR
    assert attributes_of(asked)["error.type"] == error_type
    assert PASSWORD not in asked.to_json()
    assert asked.events == ()


async def test_a_request_that_no_event_asks_for_has_no_span(traced: Traced) -> None:
    answering = Answering(
        b"VERSION: 2.14-202|BUILD: 250720-1841|DATE: 2026-11-22 02:09:58|EPOCH: 1795313398|\n"
    )
    async with RawServer(answering) as server, client_of(server.url, traced.tracing) as client:
        await client.version()
    assert traced.spans == {}
    assert "traceparent" not in answering.requests[0]


async def test_a_shared_look_up_belongs_to_the_first_events_trace(traced: Traced) -> None:
    lookups, release = SingleFlight[str, str](), asyncio.Event()

    async def ask() -> str:
        with traced.tracing.request("GET", BROKER, "callid_info"):
            await release.wait()
        return "found"

    async def event(queue: str) -> str:
        with traced.tracing.work(queue, EVENTS, inbound(b"{}")):
            return await lookups.get(CALL, ask)

    first, second = asyncio.create_task(event("first")), asyncio.create_task(event("second"))
    await asyncio.sleep(0)
    release.set()
    assert [await first, await second] == ["found", "found"]
    assert parent_of(traced.spans["GET"]) == ids(traced.spans["process first"])
    assert ids(traced.spans["process second"])[0] != ids(traced.spans["GET"])[0]


# --- deliveries


@asynccontextmanager
async def sink_of(url: str, tracing: Tracing) -> AsyncIterator[webhook.WebhookSink]:
    sink = SinkSettings(url=SecretStr(url))
    async with webhook.open_session(sink, 4) as session:
        yield webhook.WebhookSink(sink, session, tracing=tracing)


async def test_a_delivery_names_the_webhooks_host_and_nothing_of_its_address(traced: Traced) -> None:
    answering = Answering(b"thanks")
    async with RawServer(answering) as server:
        url = f"http://user:{PASSWORD}@127.0.0.1:{server.port}/{TOKEN}?key={TOKEN}"
        async with sink_of(url, traced.tracing) as sink:
            with traced.tracing.work(QUEUE, EVENTS, inbound(b"{}", headers=TRACED)):
                await sink.deliver(PAYLOAD)
        posted = traced.spans["POST"]
        assert posted.kind is SpanKind.CLIENT
        assert attributes_of(posted) == {
            "http.request.method": "POST",
            "http.response.status_code": 200,
            "server.address": "127.0.0.1",
            "server.port": server.port,
        }
    assert TOKEN in answering.requests[0]
    assert f"traceparent: 00-{TRACE}-{ids(posted)[1]}-01\r\n" in answering.requests[0]
    assert "webhook-id: evt-1\r\n" in answering.requests[0]


def test_a_new_message_is_given_the_context_of_the_span_that_sends_it(traced: Traced) -> None:
    headers: dict[str, Any] = {}
    with (
        traced.tracing.work(QUEUE, EVENTS, inbound(b"{}", headers=TRACED)),
        traced.tracing.send("crm-sync.enriched", "call.enriched", "evt-1", headers),
    ):
        pass
    sent = traced.spans["send crm-sync.enriched"]
    assert sent.kind is SpanKind.PRODUCER
    assert parent_of(sent) == ids(traced.spans[f"process {QUEUE}"])
    assert headers == {"traceparent": f"00-{TRACE}-{ids(sent)[1]}-01", "tracestate": "shop=7"}
    assert attributes_of(sent) == {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "crm-sync.enriched:call.enriched",
        "messaging.rabbitmq.destination.routing_key": "call.enriched",
        "messaging.message.id": "evt-1",
        "server.address": "broker.example",
        "server.port": 5672,
    }


def test_a_copy_keeps_its_producers_context_and_its_span_links_to_that(traced: Traced) -> None:
    headers: dict[str, Any] = TRACED | {"tenant": "a"}
    with (
        traced.tracing.work(QUEUE, EVENTS, inbound(b"{}", headers=TRACED)),
        traced.tracing.send("crm-sync.retry.30s", "call.ended", None, headers),
    ):
        pass
    assert headers == TRACED | {"tenant": "a"}
    sent = traced.spans["send crm-sync.retry.30s"]
    assert sent.kind is SpanKind.CLIENT
    (link,) = sent.links
    assert (f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}") == (TRACE, PRODUCER)


async def test_a_publish_that_fails_is_an_error(traced: Traced) -> None:
    publisher = BrokerPublisher(tracing=traced.tracing)
    with traced.tracing.work(QUEUE, EVENTS, inbound(b"{}")), pytest.raises(PublishError):
        await publisher.publish_message("crm-sync.enriched", "call.enriched", aio_pika.Message(b"{}"))
    sent = traced.spans["send crm-sync.enriched"]
    assert attributes_of(sent)["error.type"] == "PublishError"
    assert sent.status.status_code is StatusCode.ERROR


# --- without tracing


async def in_a_task_of_its_own(headers: dict[str, Any], server: RawServer, sink_url: str) -> dict[str, Any]:
    """Do what an event does, untraced. Return the headers of its outbound message."""
    outbound: dict[str, Any] = {}
    with UNTRACED.work(QUEUE, EVENTS, inbound(b"{}", headers=headers)) as span:
        async with client_of(server.url) as client, sink_of(sink_url, UNTRACED) as sink:
            await client.callid_info(CALL, TIMES)
            await sink.deliver(PAYLOAD)
        with UNTRACED.send("crm-sync.enriched", "call.enriched", "evt-1", outbound):
            pass
        span.decided(decided(Ack()))
    return outbound


async def test_untraced_the_producers_headers_are_passed_on_as_they_are() -> None:
    asked, posted = Answering(), Answering(b"")
    async with RawServer(asked) as server, RawServer(posted) as crm:
        outbound = await asyncio.create_task(in_a_task_of_its_own(TRACED | {"x": 1}, server, crm.url))
        untraced = await asyncio.create_task(in_a_task_of_its_own({"x": 1}, server, crm.url))
        rubbish = {"traceparent": "rubbish\r\nx-evil: 1"}
        useless = await asyncio.create_task(in_a_task_of_its_own(rubbish, server, crm.url))
    assert (outbound, untraced, useless) == (TRACED, {}, {})
    for first, *others in (asked.requests, posted.requests):
        assert f"traceparent: {TRACED['traceparent']}\r\n" in first
        assert "tracestate: shop=7\r\n" in first
        assert len(others) == 2
        assert all("trace" not in other and "evil" not in other for other in others)


def test_untraced_a_copys_headers_stay_as_they_are() -> None:
    headers: dict[str, Any] = {"traceparent": "the one it came with"}
    with UNTRACED.send("crm-sync.retry.30s", "call.ended", None, headers):
        pass
    assert headers == {"traceparent": "the one it came with"}


PARENTS = st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?\s?", fullmatch=True)


@given(PARENTS, st.text() | st.binary())
def test_whatever_a_producer_sends_what_is_passed_on_fits_into_http(parent: str, state: str | bytes) -> None:
    for value in trace_headers({"traceparent": parent, "tracestate": state}).values():
        assert value.isascii()
        assert value.isprintable()


@pytest.mark.parametrize(
    "parent", [f"00-{TRACE}-{PRODUCER}-01", f"cc-{TRACE}-{PRODUCER}-01-what-comes-later"]
)
@pytest.mark.parametrize("state", [None, "shop=7", "a=1, b=2", "", "a\nb", "x" * 513, 7])
def test_a_tracestate_goes_along_only_if_it_can_be_one(parent: str, state: object) -> None:
    found = trace_headers({"traceparent": parent, "tracestate": state})
    expected = {"traceparent": parent} | ({"tracestate": state} if state in ("shop=7", "a=1, b=2") else {})
    assert found == expected


@pytest.mark.parametrize(
    ("url", "host", "port", "shown"),
    [
        ("http://u:p@dialer.example/api.php?pass=p#x", "dialer.example", 80, "http://dialer.example/api.php"),
        ("https://[::1]:8443/a", "::1", 8443, "https://[::1]:8443/a"),
        ("amqps://u:p@broker.example/vhost", "broker.example", 5671, "amqps://broker.example/vhost"),
    ],
)
def test_a_server_is_named_without_user_password_or_query(url: str, host: str, port: int, shown: str) -> None:
    assert Server.of(url) == Server(host, port, None)
    assert Server.of(url, shown=True) == Server(host, port, shown)


# --- the way to the collector


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    async with Collector() as running:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", running.url)
        yield running


async def export_one(tracing: OpenTelemetryTracing) -> None:
    with tracing.work(QUEUE, EVENTS, inbound(b"{}", headers=TRACED)):
        pass
    await asyncio.to_thread(tracing.close)


async def test_spans_left_at_the_stop_reach_the_collector_with_the_services_name(
    collector: Collector,
) -> None:
    await export_one(OpenTelemetryTracing.open(BROKER))
    (span,) = collector.spans
    assert (span.trace_id, span.parent, span.kind) == (TRACE, PRODUCER, "CONSUMER")
    assert span.schema == "https://opentelemetry.io/schemas/1.44.0"
    assert span.resource["service.name"] == "crm-sync"
    assert span.resource["service.version"] == __version__
    assert len(span.resource["service.instance.id"]) == 36


async def test_a_broker_of_several_nodes_is_not_named(collector: Collector) -> None:
    await export_one(OpenTelemetryTracing.open(None))
    (span,) = collector.spans
    assert span.attributes["messaging.system"] == "rabbitmq"
    assert "server.address" not in span.attributes


async def test_opentelemetrys_variables_describe_the_service(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "crm-sync-berlin")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.version=blue,k8s.pod.name=pod-7")
    await export_one(OpenTelemetryTracing.open(BROKER))
    (span,) = collector.spans
    described = (span.resource[name] for name in ("service.name", "service.version", "k8s.pod.name"))
    assert tuple(described) == ("crm-sync-berlin", "blue", "pod-7")


async def test_a_sampler_is_opentelemetrys_to_choose(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    await export_one(OpenTelemetryTracing.open(BROKER))
    assert collector.spans == []


async def test_a_collector_that_never_answers_holds_nothing_up_beyond_the_deadline(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "_log", structlog.get_logger())
    collector.answers.clear()
    tracing = OpenTelemetryTracing.open(BROKER)
    with tracing.work(QUEUE, EVENTS, inbound(b"{}")):
        pass
    started = time.monotonic()
    with capture_logs() as lines:
        await asyncio.to_thread(tracing.close, 0.2)
    assert 0.2 <= time.monotonic() - started < 2
    assert lines == [{"event": "traces_not_flushed", "log_level": "warning", "waited_seconds": 0.2}]
    collector.answers.set()
    (flushing,) = (thread for thread in threading.enumerate() if thread.name == "last-spans")
    await asyncio.to_thread(flushing.join, 10)  # left alone it would try again amid the tests that follow
    assert not flushing.is_alive()
    assert len(collector.spans) == 1


class Unreliable(SpanExporter):
    """Answers each batch as the test wants it."""

    def __init__(self, *results: SpanExportResult) -> None:
        self._results = iter(results)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return next(self._results)


def test_a_collectors_trouble_is_logged_once_and_its_end_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "_log", structlog.get_logger())
    well, bad = SpanExportResult.SUCCESS, SpanExportResult.FAILURE
    exporter = WatchedExporter(Unreliable(well, bad, bad, well, well, bad))
    library = logging.getLogger(EXPORTER)
    spans = [ReadableSpan("a"), ReadableSpan("b")]
    with capture_logs() as lines:
        exporter.export(spans)
        library.error("Failed to export %s batch code: %s, reason: %s", "spans", 401, "Unauthorized")
        exporter.export(spans)
        library.warning("Transient error %s, retrying in %.2fs.", ConnectionError(f"to /{TOKEN}"), 1.5)
        exporter.export(spans)
        exporter.export(spans)
        exporter.export(spans)
        exporter.export(spans)
    assert lines == [
        {"event": "traces_not_exported", "log_level": "warning", "error": "the collector answered 401"},
        {"event": "traces_exported_again", "log_level": "info", "spans_lost": 4},
        {"event": "traces_not_exported", "log_level": "warning", "error": "the collector gave no answer"},
    ]


# --- whether to trace

HERE = "http://127.0.0.1:4318"
BASE, TRACES = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"


@pytest.mark.parametrize(
    ("environ", "by"),
    [
        ({}, None),
        ({BASE: ""}, None),
        ({BASE: HERE}, BASE),
        ({TRACES: f"{HERE}/v1/traces"}, TRACES),
        ({BASE: HERE, TRACES: HERE}, TRACES),
        ({BASE: HERE, "OTEL_SDK_DISABLED": "TRUE"}, None),
        ({BASE: HERE, "OTEL_SDK_DISABLED": "no"}, BASE),
        ({BASE: HERE, "OTEL_TRACES_EXPORTER": "none"}, None),
        ({BASE: HERE, "OTEL_TRACES_EXPORTER": "otlp"}, BASE),
        ({BASE: HERE, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, BASE),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, None),
    ],
)
def test_opentelemetrys_variables_say_whether_to_trace(environ: dict[str, str], by: str | None) -> None:
    assert tracing_variable(environ) == by


@pytest.mark.parametrize(
    ("environ", "complaint"),
    [
        ({BASE: "collector:4317"}, f"{BASE} is no address"),
        ({TRACES: "http://[::1"}, f"{TRACES} is no address"),
        ({BASE: HERE, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "only http/protobuf is spoken"),
        ({BASE: HERE, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json"}, "only http/protobuf is spoken"),
        ({BASE: HERE, "OTEL_TRACES_EXPORTER": "zipkin"}, "otlp and none are known"),
    ],
)
def test_what_can_not_be_obeyed_is_said(environ: dict[str, str], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        tracing_variable(environ)


def test_opentelemetry_is_imported_in_one_module_only() -> None:
    worker = Path(__file__).parents[2] / "worker"
    importing = {
        path.relative_to(worker).as_posix()
        for path in worker.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in _imported(node)
        if name.partition(".")[0] == "opentelemetry"
    }
    assert importing == {"observe/trace.py"}


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


def test_the_page_about_traces_names_every_attribute_and_no_other() -> None:
    root = Path(__file__).parents[2]
    code = (root / "worker" / "observe" / "trace.py").read_text(encoding="utf-8")
    page = (root / "docs" / "tracing.md").read_text(encoding="utf-8")
    table = page.partition("### Attributes")[2].partition("###")[0]
    first_cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = {name for cell in first_cells for name in re.findall(r"`([a-z_.]+)`", cell)}
    used = re.findall(r'"((?:messaging|server|http|url|error|crm_sync)\.[a-z_.]+)"', code)
    assert named == set(used)
