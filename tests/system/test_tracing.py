"""Traces, from a producer's `traceparent` to the CRM, through a real worker to a collector."""

import base64
import os
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.adapters.raw import closed_port
from tests.otlp import Collector, Span
from tests.system.harness import ROOT, Program, System, Worker, call_ended, eventually

pytestmark = [pytest.mark.system, pytest.mark.verify]

PASSWORD = "Tr4ced-Dialer_Pass"
SIGNING = "whsec_" + base64.b64encode(b"a key that no span may hold").decode()
TOKEN = "token-in-the-webhook-address"
PHONE = "3125551212"
PRODUCER = "00f067aa0ba902b7"
WAITS_FOR_A_COLLECTOR = 5.0
"""Seconds that the worker gives its last spans at the stop."""


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    """Receive the spans of every worker that the test starts, a moment after each ends."""
    async with Collector() as running:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", running.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        yield running


class Listener:
    """Stands before the stand-in dialer and keeps the headers of what it passes on, by function."""

    def __init__(self, dialer_url: str) -> None:
        self._dialer_url = dialer_url
        self.heard: dict[str, list[dict[str, str]]] = {}
        self.url = ""

    async def _pass_on(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.heard.setdefault(request.query["function"], []).append(headers)
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self._dialer_url}?{request.query_string}") as answer,
        ):
            return web.Response(status=answer.status, body=await answer.read())

    async def run(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_get("/dialer", self._pass_on)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/dialer"
        return runner


@pytest.fixture
async def listener(system: System) -> AsyncIterator[Listener]:
    listening = Listener(system.dialer.url)
    runner = await listening.run()
    yield listening
    await runner.cleanup()


def new_trace() -> tuple[str, dict[str, str]]:
    """Make a trace id, and the headers of a producer that traces."""
    trace_id = secrets.token_hex(16)
    return trace_id, {"traceparent": f"00-{trace_id}-{PRODUCER}-01", "tracestate": "shop=7"}


def spans_of(collector: Collector, trace_id: str) -> list[Span]:
    return [span for span in collector.spans if span.trace_id == trace_id]


def the(spans: list[Span], name: str) -> Span:
    (found,) = [span for span in spans if span.name == name]
    return found


async def test_a_producers_trace_goes_on_through_the_dialer_to_the_crm(
    system: System, collector: Collector, listener: Listener
) -> None:
    worker = await system.start(
        vicidial__url=listener.url, vicidial__recording_lookup="false", log__level="debug"
    )
    event = await system.call(phone=PHONE)
    trace_id, headers = new_trace()
    await system.publish(event, headers=headers)
    (received,) = (await system.delivered())[event["event_id"]]
    queue = f"{system.namespace}.call-ended"
    await eventually(lambda: collector.named(f"process {queue}"))

    spans = spans_of(collector, trace_id)
    assert sorted(span.name for span in spans) == ["GET", "POST", f"process {queue}"]
    process, asked, posted = the(spans, f"process {queue}"), the(spans, "GET"), the(spans, "POST")
    assert (process.kind, process.parent, process.failed) == ("CONSUMER", PRODUCER, False)
    assert process.attributes["messaging.destination.name"] == f"{system.namespace}.events:call.ended:{queue}"
    assert process.attributes["crm_sync.event.id"] == event["event_id"]
    assert process.attributes["crm_sync.outcome"] == "delivered"
    assert process.resource["service.name"] == "crm-sync"
    assert {asked.parent, posted.parent} == {process.span_id}
    assert asked.attributes["crm_sync.dialer.function"] == "callid_info"
    assert asked.attributes["http.response.status_code"] == 200

    (heard,) = listener.heard["callid_info"]
    assert heard["traceparent"] == f"00-{trace_id}-{asked.span_id}-01"
    assert received["headers"]["traceparent"] == f"00-{trace_id}-{posted.span_id}-01"
    assert received["headers"]["tracestate"] == "shop=7"

    for line in (*worker.events("dialer_request")[-1:], *worker.settled()):
        assert (line["trace_id"], line["span_id"]) == (trace_id, process.span_id), line
    assert "trace_id" not in worker.events("listening")[0]
    assert await worker.stop() == 0
    assert "version" in listener.heard
    assert [span for span in collector.spans if span.trace_id != trace_id] == [], "only events are traced"


async def test_every_attempt_and_the_dead_letter_belong_to_the_producers_trace(
    system: System, collector: Collector
) -> None:
    worker = await system.start(retry__max_attempts="2")
    event = await system.call()
    await system.crm.control(fail_ids={event["event_id"]: [500] * 50})
    await deliver_another(system)  # a failure is the event's own if others succeed
    trace_id, headers = new_trace()
    await system.publish(event, headers=headers)
    letter = await system.dead_letter()
    assert {name: letter.headers[name] for name in headers} == headers
    queue = f"{system.namespace}.call-ended"
    await eventually(lambda: len(worker.settled("dead_letter")) == 1)
    assert await worker.stop() == 0

    spans = spans_of(collector, trace_id)
    attempts = [span for span in spans if span.name == f"process {queue}"]
    assert len(attempts) >= 2
    assert {span.parent for span in attempts} == {PRODUCER}
    *retried, last = sorted(attempts, key=lambda span: span.attributes["crm_sync.attempt"])
    for span in retried:
        assert (span.attributes["crm_sync.outcome"], span.failed) == ("retry", False)
        assert span.attributes["crm_sync.reason"] == "sink_outage"
        (copy,) = [each for each in collector.below(span) if each.name.startswith("send ")]
        assert copy.name == f"send {system.namespace}.retry.{span.attributes['crm_sync.retry.tier']}"
        assert copy.links == [(trace_id, PRODUCER)]
    assert (last.attributes["crm_sync.outcome"], last.failed) == ("dead_letter", True)
    assert last.attributes["error.type"] == last.attributes["crm_sync.reason"] == "attempts_exhausted"
    assert last.attributes["messaging.destination.name"].startswith(f"{system.namespace}.work:")
    the(collector.below(last), f"send {system.namespace}.dead-letters")
    posts = [span for span in spans if span.name == "POST"]
    assert {span.attributes["error.type"] for span in posts} == {"500"}


async def deliver_another(system: System) -> None:
    other = await system.call()
    await system.publish(other)
    await system.delivered(other["event_id"])


async def test_without_a_producers_trace_the_attempts_still_share_one(
    system: System, collector: Collector
) -> None:
    worker = await system.start()
    event = call_ended()
    await system.publish(event)
    await eventually(lambda: worker.settled("retry"))
    await system.dialer.control(calls={event["call_id"]: {}})
    await system.delivered()
    assert await worker.stop() == 0
    attempts = collector.named(f"process {system.namespace}.call-ended")
    assert len(attempts) >= 2
    assert len({span.trace_id for span in attempts}) == 1
    assert len({line["trace_id"] for line in worker.settled()}) == 1


async def test_an_outbound_message_carries_the_trace_on(system: System, collector: Collector) -> None:
    worker = await system.start(sink__kind="queue", sink__url=None, sink__timeout=None)
    trace_id, headers = new_trace()
    await system.publish(await system.call(), headers=headers)
    message = await system.take("enriched")
    await eventually(lambda: worker.settled("delivered"))
    assert await worker.stop() == 0
    sent = the(spans_of(collector, trace_id), f"send {system.namespace}.enriched")
    assert sent.kind == "PRODUCER"
    assert message.headers["traceparent"] == f"00-{trace_id}-{sent.span_id}-01"
    assert message.headers["tracestate"] == "shop=7"


async def test_no_secret_and_no_phone_number_is_in_any_span(system: System, collector: Collector) -> None:
    """Whatever breaks, and however: what a library says of it may hold the whole address."""
    dialer = Program("dialer")
    try:
        await dialer.control(password={"crmsync": PASSWORD})
        worker = await system.start(
            vicidial__url=dialer.url,
            vicidial__password=PASSWORD,
            sink__url=f"{system.crm.url}/{TOKEN}?key={TOKEN}",
            sink__signing_secret=SIGNING,
            vicidial__timeout="300ms",
        )
        for fault in ("not_http", "reset", "hang", "500", None):
            await dialer.control(fault=fault)
            event = call_ended(phone_number=PHONE)
            await dialer.control(calls={event["call_id"]: {"phone": PHONE}})
            before = len(collector.named("GET"))
            await system.publish(event)
            await eventually(lambda seen=before: len(collector.named("GET")) > seen)
        await eventually(lambda: collector.named("POST"), 15)
        assert await worker.stop() == 0
    finally:
        dialer.end()
    failures = {span.attributes.get("error.type") for span in collector.named("GET")}
    assert {"ClientResponseError", "TimeoutError", "500"} <= failures, failures
    assert {span.events for span in collector.spans} == {0}
    assert {span.status_text for span in collector.spans} == {""}
    for secret in (PASSWORD, SIGNING.removeprefix("whsec_"), TOKEN, PHONE, "crmsync"):
        assert secret not in collector.written, secret


async def test_a_collector_that_is_down_harms_nothing(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "20")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2")
    worker = await system.start()
    await system.publish_all(await system.calls(200))
    await system.delivered()
    await eventually(lambda: worker.events("traces_not_exported"))
    started = time.monotonic()
    assert await worker.stop() == 0
    assert time.monotonic() - started < WAITS_FOR_A_COLLECTOR + 3
    (line,) = worker.events("traces_not_exported")
    assert "ConnectionError" in line["error"]
    assert [each for each in worker.lines() if "opentelemetry" in each.get("logger", "")] == []


async def test_a_collector_that_comes_back_is_logged(system: System, collector: Collector) -> None:
    collector.status = 401
    worker = await system.start()
    await system.publish(await system.call())
    await eventually(lambda: worker.events("traces_not_exported"))
    assert "answered 401" in worker.events("traces_not_exported")[0]["error"]
    collector.status = 200
    await system.publish(await system.call())
    await eventually(lambda: worker.events("traces_exported_again"))
    assert worker.events("traces_exported_again")[0]["spans_lost"] >= 1


async def test_a_collector_that_never_answers_holds_the_stop_up_for_a_short_time(
    system: System, collector: Collector
) -> None:
    collector.answers.clear()
    worker = await system.start()
    await system.publish(await system.call())
    await system.delivered()
    await eventually(lambda: collector.requests)
    started = time.monotonic()
    assert await worker.stop() == 0
    assert WAITS_FOR_A_COLLECTOR <= time.monotonic() - started < WAITS_FOR_A_COLLECTOR + 3
    assert worker.events("traces_not_flushed")


@pytest.mark.parametrize(
    ("variable", "value", "complaint"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "only http/protobuf is spoken"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "abc", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT must be"),
        (
            "OTEL_BSP_MAX_QUEUE_SIZE",
            "10",
            "max_export_batch_size must be less than or equal to max_queue_size",
        ),
    ],
)
async def test_a_variable_that_can_not_be_obeyed_is_said_before_anything_is_opened(
    system: System, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, complaint: str
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    monkeypatch.setenv(variable, value)
    system.may_complain = True  # in plain words, not in a line of the log
    worker = system.spawn()
    assert await worker.exit() == 2
    (line,) = worker.text.splitlines()
    assert line.startswith("crm-sync: ")
    assert complaint in line


class TestWithoutTracing:
    """OpenTelemetry is not there at all: a package that can't be imported stands in its place."""

    @pytest.fixture
    def shadow(self, tmp_path: Path) -> str:
        package = tmp_path / "shadow" / "opentelemetry"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("raise ModuleNotFoundError('not installed')\n")
        return os.pathsep.join([str(package.parent), str(ROOT)])

    async def start(self, system: System, shadow: str, **more: str) -> Worker:
        worker = Worker(system.settings() | {"PYTHONPATH": shadow} | more, system.folder)
        system.workers.append(worker)
        return worker

    async def test_the_producers_headers_are_passed_on_unchanged(
        self, system: System, listener: Listener, shadow: str
    ) -> None:
        settings = {"CRM_SYNC_VICIDIAL__URL": listener.url, "CRM_SYNC_VICIDIAL__TIMEZONE": "UTC"}
        worker = await self.start(system, shadow, **settings)
        await worker.ready()
        event = call_ended()
        _, headers = new_trace()
        await system.publish(event, headers=headers)
        await eventually(lambda: worker.settled("retry"))
        await system.dialer.control(calls={event["call_id"]: {}})
        (received,) = (await system.delivered())[event["event_id"]]
        heard: list[dict[str, Any]] = [*listener.heard["callid_info"], received["headers"]]
        assert len(heard) >= 3, "the second attempt's are among them"
        for found in heard:
            assert {name: found[name] for name in headers} == headers
        assert all("trace_id" not in line for line in worker.lines())
        await self.an_untraced_event_carries_nothing(system, listener)
        assert await worker.stop() == 0

    async def an_untraced_event_carries_nothing(self, system: System, listener: Listener) -> None:
        event = await system.call()
        await system.publish(event)
        (received,) = (await system.delivered(event["event_id"]))[event["event_id"]]
        for found in (listener.heard["callid_info"][-1], received["headers"]):
            assert found.keys().isdisjoint({"traceparent", "tracestate"})

    async def test_dead_letters_keep_the_producers_headers(self, system: System, shadow: str) -> None:
        worker = await self.start(system, shadow)
        await worker.ready()
        _, headers = new_trace()
        await system.publish(b"{", headers=headers)
        letter = await system.dead_letter()
        assert {name: letter.headers[name] for name in headers} == headers

    async def test_where_traces_are_wanted_it_says_what_to_install(self, system: System, shadow: str) -> None:
        system.may_complain = True  # in plain words, not in a line of the log
        worker = await self.start(system, shadow, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:4318")
        assert await worker.exit() == 2
        assert worker.text == (
            "crm-sync: OTEL_EXPORTER_OTLP_ENDPOINT asks for traces, but what they need is not installed:"
            " pip install 'vicidial-crm-sync[tracing]'\n"
        )
