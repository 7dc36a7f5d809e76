"""What the operator sees: log lines without any secret, metrics, health endpoints."""

import base64
import html
import io
import json
import logging
import re
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, quote_plus

import aiohttp
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from yarl import URL

from worker import __version__
from worker.core.disposition import Ack, DeadLetter, Disposition, Retry, Stage
from worker.core.errors import EnrichmentUnavailable, Fault, NotReady, Reason
from worker.core.events import Event, EventType, Inbound
from worker.core.gate import GateStatus, State
from worker.core.pipeline import Outcome
from worker.core.ports import Depth, DialerRequest
from worker.core.scrub import Scrubber
from worker.observe import health, log
from worker.observe.metrics import Metrics
from worker.observe.report import Reporter
from worker.settings import HttpSettings, LogSettings

SECRET = "S3cr3t/p@ss w\"örd'<&\\%+"
SHORT = "1234"
CALL = "V1201405090000012345"
LIBRARIES = ("aiormq", "aio_pika", "aiohttp.access")

Configure = Callable[..., Callable[[], list[dict[str, Any]]]]


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Catch the log, and put logging back to where it was."""
    caught = io.StringIO()
    monkeypatch.setattr(health, "_log", structlog.get_logger())  # a logger once used keeps its configuration
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    levels = {name: logging.getLogger(name).level for name in LIBRARIES}
    yield caught
    root.handlers = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)
    structlog.reset_defaults()


@pytest.fixture
def configured(stderr: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Configure the log; gives what tells the lines since."""

    def configure(
        *,
        secrets: tuple[str, ...] = (SECRET,),
        **chosen: Any,  # noqa: ANN401 - the settings of the log
    ) -> Callable[[], list[dict[str, Any]]]:
        monkeypatch.setattr(sys, "stderr", stderr)  # not before: pytest sets its own for each phase of a test
        log.configure(LogSettings(**chosen), secrets)
        return lambda: [json.loads(line) for line in stderr.getvalue().splitlines()]

    return configure


# --- the log of what was done

EVENT = Event(
    type=EventType.CALL_ENDED,
    id="evt-1",
    occurred_at=datetime.now(UTC) - timedelta(seconds=30),
    subject=CALL,
    data={"call_id": CALL},
)
AGENT = Event(
    type=EventType.AGENT_ONBOARDED, id="evt-2", occurred_at=EVENT.occurred_at, subject="agent001", data={}
)
SECONDS = {Stage.ENRICH: 0.0123456, Stage.DELIVER: 0.2}


def inbound(attempt: int = 1, body: bytes = b"{}", **fields: Any) -> Inbound:  # noqa: ANN401
    return Inbound(body, "call.ended", datetime.now(UTC), {}, attempt=attempt, **fields)


def test_a_delivered_event_is_one_line(configured: Configure) -> None:
    lines = configured()
    reporter = Reporter(Metrics())
    event = replace(EVENT, occurred_at=datetime.now(UTC) - timedelta(seconds=30))
    reporter.settled(inbound(), Outcome(Stage.DELIVER, event, None, "200", None, Ack(), SECONDS), 0.25)
    [line] = lines()
    assert datetime.fromisoformat(line.pop("timestamp")).utcoffset() == timedelta(0)
    assert 30 <= line.pop("age_seconds") < 40
    assert line == {
        "event": "event_settled",
        "level": "info",
        "outcome": "delivered",
        "event_id": "evt-1",
        "event_type": "call.ended",
        "call_id": CALL,
        "attempt": 1,
        "answer": "200",
        "enrich_ms": 12.35,
        "deliver_ms": 200.0,
        "duration_ms": 250.0,
    }
    assert reporter.counts == {"delivered": 1, "duplicate": 0, "retry": 0, "dead_letter": 0}


def test_a_retried_event_is_one_line_with_the_reason_and_the_tier(configured: Configure) -> None:
    lines = configured()
    error = NotReady("the dialer says CALL NOT FOUND")
    retry = Retry(timedelta(seconds=30), 3, error.label, str(error))
    outcome = Outcome(Stage.ENRICH, AGENT, None, "", error, retry, {Stage.ENRICH: 0.001})
    Reporter(Metrics()).settled(inbound(3), outcome, 0.002)
    [line] = lines()
    del line["timestamp"]
    assert line == {
        "event": "event_settled",
        "level": "info",
        "outcome": "retry",
        "event_id": "evt-2",
        "event_type": "agent.onboarded",
        "agent_user": "agent001",
        "attempt": 3,
        "reason": "not_found",
        "stage": "enrich",
        "error": "the dialer says CALL NOT FOUND",
        "tier": "30s",
        "enrich_ms": 1.0,
        "duration_ms": 2.0,
    }


def test_a_dead_letter_is_a_warning_with_its_reason(configured: Configure) -> None:
    lines = configured()
    dead = DeadLetter(Reason.REJECTED_BY_SINK, "the webhook answered 422: ''")
    outcome = Outcome(Stage.DELIVER, EVENT, None, "", None, dead, SECONDS)
    Reporter(Metrics()).settled(inbound(2), outcome, 0.25)
    [line] = lines()
    assert (line["level"], line["outcome"], line["reason"]) == ("warning", "dead_letter", "rejected_by_sink")
    assert (line["stage"], line["error"], line["attempt"]) == ("deliver", "the webhook answered 422: ''", 2)


@pytest.mark.parametrize(
    ("message", "event_id"),
    [
        (inbound(body=b'{"event_id": "e7", "call_id": 5.5}'), "e7"),
        (inbound(body=b"no json", message_id="m1"), "m1"),
        (inbound(body=b"no json", event_id="h1", message_id="m1"), "h1"),
        (inbound(body=b"no json"), None),
    ],
)
def test_an_event_that_cannot_be_understood_is_named_by_what_id_it_has(
    message: Inbound, event_id: str | None, configured: Configure
) -> None:
    lines = configured()
    dead = DeadLetter(Reason.INVALID_EVENT, "the body is not JSON")
    metrics = Metrics()
    Reporter(metrics).settled(message, Outcome(disposition=dead), 0.001)
    [line] = lines()
    assert (line["event_id"], line["event_type"], line["stage"]) == (event_id, None, "decode")
    assert "call_id" not in line
    assert 'settled_total{event_type="unknown",outcome="dead_letter"} 1.0' in metrics.expose().decode()


def fail(error: Exception) -> None:
    raise error


def raised(error: Exception) -> Exception:
    """Give an error a traceback."""
    with pytest.raises(type(error)) as caught:
        fail(error)
    return caught.value


@pytest.mark.parametrize(
    "disposition", [Retry(timedelta(seconds=5), 2, "unexpected", "unexpected KeyError"), None]
)
def test_an_error_that_nobody_foresaw_is_shown_with_its_traceback(
    disposition: Retry | None, configured: Configure
) -> None:
    lines = configured()
    decided = disposition or DeadLetter(Reason.ATTEMPTS_EXHAUSTED, "unexpected KeyError")
    outcome = Outcome(Stage.ENRICH, EVENT, None, "", raised(KeyError(f"key {SECRET}")), decided, {})
    Reporter(Metrics()).settled(inbound(), outcome, 0.1)
    [line] = lines()
    assert line["level"] == "error"
    assert "Traceback (most recent call last)" in line["exception"]
    assert "in fail" in line["exception"]
    assert "KeyError" in line["exception"]
    assert "S3cr3t" not in json.dumps(line)


def test_an_error_that_was_foreseen_has_no_traceback(configured: Configure) -> None:
    lines = configured()
    error = raised(EnrichmentUnavailable("refused", Fault.REFUSED))
    retry = Retry(timedelta(minutes=10), 1, "dialer_refused", "refused")
    Reporter(Metrics()).settled(inbound(), Outcome(Stage.ENRICH, EVENT, error=error, disposition=retry), 0.1)
    [line] = lines()
    assert (line["level"], "exception" in line) == ("warning", False)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (
            DialerRequest("callid_info", (("call_id", CALL),), "ok", 0.0051),
            {"call_id": CALL, "outcome": "ok", "level": "info"},
        ),
        (
            DialerRequest("agent_campaigns", (("agent_user", "1000"),), "not_found", 0.0051),
            {"agent_user": "1000", "outcome": "not_found", "level": "info"},
        ),
        (
            DialerRequest("version", (), "dialer_outage", 0.0051),
            {"outcome": "dialer_outage", "level": "info"},
        ),
        (
            DialerRequest("callid_info", (("call_id", CALL),), "dialer_refused", 0.0051),
            {"call_id": CALL, "outcome": "dialer_refused", "level": "error"},
        ),
    ],
)
def test_a_request_to_the_dialer_is_one_line(
    request_: DialerRequest, expected: dict[str, Any], configured: Configure
) -> None:
    lines, metrics = configured(), Metrics()
    Reporter(metrics).asked(request_)
    [line] = lines()
    del line["timestamp"]
    assert line == {
        "event": "dialer_request",
        "function": request_.function,
        "duration_ms": 5.1,
        **expected,
    }
    labels = f'{{function="{request_.function}",outcome="{request_.outcome}"}}'
    assert f"crm_sync_dialer_requests_total{labels} 1.0" in metrics.expose().decode()


def test_lines_below_the_level_are_not_shown(configured: Configure) -> None:
    lines = configured(level="warning")
    reporter = Reporter(Metrics())
    reporter.asked(DialerRequest("version", (), "ok", 0.1))
    reporter.asked(DialerRequest("version", (), "dialer_refused", 0.1))
    assert [line["level"] for line in lines()] == ["error"]


# --- no secret leaves


SPELLINGS: dict[str, Callable[[str], str]] = {
    "clear": str,
    "url": lambda text: quote(text, safe=""),
    "url, lower case": lambda text: re.sub("%..", lambda each: each[0].lower(), quote(text, safe="")),
    "url, some letters": quote,
    "form": quote_plus,
    "yarl": lambda text: str(URL("http://x/").with_query(p=text)),
    "html": html.escape,
    "html of php": lambda text: html.escape(text).replace("&#x27;", "&#039;").replace("ö", "&ouml;"),
    "json": json.dumps,
    "json, not only ascii": lambda text: json.dumps(text, ensure_ascii=False),
    "json in json": lambda text: json.dumps(json.dumps(text)),
    "repr": repr,
    "ascii": ascii,
    "repr in json": lambda text: json.dumps(repr(text)),
    "bytes": lambda text: repr(text.encode("latin-1")),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 of a login": lambda text: base64.b64encode(f"user:{text}".encode()).decode(),
    "base64 amid others": lambda text: base64.urlsafe_b64encode(f"?a=1&pass={text}&b=2".encode()).decode(),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize(
    "secret", [SECRET, "simple-Secret", "amqp://user:p%40ss@broker/%2f", "日本語の合言葉"]
)
def test_a_secret_is_replaced_however_it_is_spelled(spelling: str, secret: str) -> None:
    if spelling == "bytes" and not secret.isascii():
        secret = secret.encode("utf-8").decode("latin-1")  # as a log of bytes shows it
    spelled = SPELLINGS[spelling](secret)
    text = Scrubber([secret])(f"before {spelled} after")
    assert "***" in text
    assert spelled.strip("\"'=")[2:-2] not in text
    assert text.startswith("before ")
    assert text.endswith(" after")


secrets = st.text(min_size=8, max_size=20)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    secret=secrets,
    around=st.text(max_size=5),
    spelling=st.sampled_from([str, html.escape, json.dumps, quote, quote_plus]),
)
def test_no_secret_gets_through(secret: str, around: str, spelling: Callable[[str], str]) -> None:
    spelled = spelling(secret)[1:-1] if spelling is json.dumps else spelling(secret)
    assert spelled not in Scrubber([secret])(f"{around}{spelled}{around}").replace("***", "")


def test_a_short_secret_is_replaced_only_where_it_stands_alone() -> None:
    scrub = Scrubber([SHORT, "abc", ""])
    assert scrub("|6666|1234|BAD|") == "|6666|***|BAD|"
    assert scrub("user=6666&pass=1234&function=x") == "user=6666&pass=***&function=x"
    assert scrub("user%3D6666%26pass%3D1234%26") == "user%3D6666%26pass%3D***%26"
    assert scrub(r"'\n1234\n'") == r"'\n***\n'"
    assert scrub("V1201234509 12345 abc") == "V1201234509 12345 abc"


def test_the_password_in_an_address_is_replaced_whatever_it_is() -> None:
    text = "GET /non_agent_api.php?user=6666&pass=rotated-s1nce&source=x 'pass=other' bypass=kept"
    assert Scrubber([])(text) == ("GET /non_agent_api.php?user=6666&pass=***&source=x 'pass=***' bypass=kept")


def test_one_secret_within_another_is_replaced_whole() -> None:
    assert Scrubber(["secret99", "my-secret99-too"])("my-secret99-too, secret99") == "***, ***"


def test_a_secret_that_is_learnt_later_is_replaced_from_then_on() -> None:
    scrub = Scrubber(["hush-hush"])
    assert not scrub.suspects("second-secret")
    scrub.learn("second-secret")
    assert scrub.suspects("second-secret")
    assert scrub("hush-hush, second-secret") == "***, ***"


def test_the_shortest_secret_may_be_shorter_where_it_stands_alone() -> None:
    assert Scrubber(["ab"], shortest=1)("ab|abc|ab") == "***|abc|***"


def test_a_secret_of_digits_breaks_neither_the_json_nor_the_time(configured: Configure) -> None:
    year = str(datetime.now(UTC).year)
    lines = configured(secrets=(SHORT, year))
    structlog.get_logger().info(
        "x", number=1234, ratio=1234.5, text="1234", call_id=CALL, items=["1234", {"1234": year}]
    )
    [line] = lines()
    assert line["timestamp"].startswith(year)
    assert (line["number"], line["ratio"], line["text"], line["call_id"]) == (1234, 1234.5, "***", CALL)
    assert line["items"] == ["***", {"***": "***"}]


def test_whatever_is_logged_becomes_a_line(configured: Configure) -> None:
    lines = configured()
    structlog.get_logger().info(
        "odd",
        none=None,
        yes=True,
        at=datetime(2026, 1, 1, tzinfo=UTC),
        error=ValueError(SECRET),
        half="\ud800",
    )
    [line] = lines()
    assert (line["none"], line["yes"], line["at"]) == (None, True, "2026-01-01 00:00:00+00:00")
    assert (line["error"], line["half"]) == ("***", "\\ud800")


@pytest.mark.parametrize("format_", ["json", "console"])
def test_no_secret_leaves_by_a_line_a_traceback_or_a_librarys_record(
    format_: str, configured: Configure, stderr: io.StringIO
) -> None:
    configured(format=format_)
    address = f"amqp://user:{quote(SECRET, safe='')}@broker/"
    error = raised(ConnectionError(f"no route to {address}"))
    structlog.get_logger().error("own", url=address, exc_info=error)
    logger = logging.getLogger("aiormq.channel")
    logger.warning("lost %s of %r", address, {"password": SECRET}, extra={"more": SECRET})
    logger.error("failed", exc_info=error)
    logger.error("failed", exc_info=error, stack_info=True)
    text = stderr.getvalue()
    assert "S3cr3t" not in text
    assert text.count("Traceback (most recent call last)") == 3
    assert "aiormq.channel" in text
    assert text.count("***") >= 6


def test_a_librarys_record_looks_like_ours(configured: Configure) -> None:
    lines = configured()
    logging.getLogger("some.library").info("seen %d times", 3)
    [line] = lines()
    del line["timestamp"]
    assert line == {"event": "seen 3 times", "level": "info", "logger": "some.library"}


@pytest.mark.parametrize("level", ["debug", "info"])
def test_a_library_is_never_heard_below_info_and_some_not_below_warning(
    level: str, configured: Configure
) -> None:
    lines = configured(level=level)
    for name in ("some.library", *LIBRARIES):
        for said in ("debug", "info", "warning"):
            getattr(logging.getLogger(name), said)("x")
    assert [(line["logger"], line["level"]) for line in lines()] == [
        ("some.library", "info"),
        ("some.library", "warning"),
        *((name, "warning") for name in LIBRARIES),
    ]


# --- phone numbers


@pytest.mark.parametrize(
    ("number", "masked"),
    [
        ("3125551212", "********12"),
        ("+44 20 7946,0000", "+** ** ****,**00"),
        ("312|555|1212", "***|***|**12"),
        ("(312) 555-121 x2", "(***) ***-**1 x2"),
        ("12", "12"),
        ("", ""),
    ],
)
def test_of_a_phone_number_the_last_two_digits_are_shown(number: str, masked: str) -> None:
    assert log.mask_phone(number) == masked


MASKED = {
    "phone_number": ("3125551212", "********12"),
    "phone": ("+1 312 555 1212", "+* *** *** **12"),
    "error": (
        'the webhook answered 422: \'{"to":"+13125551212"}\'',
        'the webhook answered 422: \'{"to":"+*********12"}\'',
    ),
    "exception": ("ValueError: 312-555-1212.", "ValueError: ***-***-**12."),
}
NOT_PHONES = [
    f"call {CALL}",
    "uniqueid 1795269909.101",
    "2026-11-20 14:05:09",
    "2026-11-20T14:07:14-05:00",
    "20261120-140515_3125551212-all.mp3",
    "127.0.0.1:5672",
    "port 15672 of 10.11.12.13",
    "at 0x7f3f23a74b50",
    "9f1c1111-1111-4111-8111-111111111111",
    "(attempt 12 of 12)",
]


@pytest.mark.parametrize("field", MASKED)
def test_phone_numbers_are_masked_in_fields_and_errors(field: str, configured: Configure) -> None:
    lines = configured()
    shown, masked = MASKED[field]
    structlog.get_logger().info("x", **{field: shown, "call_id": "3125551212"})
    [line] = lines()
    assert line[field] == masked
    assert line["call_id"] == "3125551212"  # the tutorials' ids are plain digits


@pytest.mark.parametrize("text", NOT_PHONES)
def test_what_is_no_phone_number_is_left(text: str, configured: Configure) -> None:
    lines = configured()
    structlog.get_logger().info("x", error=text)
    assert lines()[0]["error"] == text


def test_a_librarys_record_is_masked_too(configured: Configure) -> None:
    lines = configured()
    logging.getLogger("some.library").warning("no route for %s", "+13125551212")
    assert lines()[0]["event"] == "no route for +*********12"


def test_the_operator_may_turn_the_masks_off(configured: Configure) -> None:
    lines = configured(mask_phone_numbers=False)
    structlog.get_logger().info("x", phone_number="3125551212", error="for 3125551212")
    assert (lines()[0]["phone_number"], lines()[0]["error"]) == ("3125551212", "for 3125551212")


def test_the_console_shows_text_for_a_person(configured: Configure, stderr: io.StringIO) -> None:
    configured(format="console")
    Reporter(Metrics()).asked(DialerRequest("callid_info", (("call_id", CALL),), "ok", 0.005))
    line = stderr.getvalue()
    assert not line.startswith("{")
    assert all(part in line for part in ("dialer_request", "info", f"call_id={CALL}", "duration_ms=5.0"))
    assert "\x1b" not in line  # it is no terminal


# --- metrics


def test_each_metric_is_declared_once_with_a_sentence_and_the_prefix() -> None:
    text = Metrics().expose().decode()
    families = list(text_string_to_metric_families(text))
    names = [family.name for family in families if not family.name.endswith("_created")]
    assert len(names) == len(set(names)) == 27
    for family in families:
        assert family.name.startswith("crm_sync_")
        assert family.documentation.endswith(".")
        assert len(family.documentation) > 15
    assert text.count("# HELP") == text.count("# TYPE")


def test_two_workers_in_one_process_share_no_metrics() -> None:
    one, other = Metrics(), Metrics()
    one.reconnects.inc()
    assert b"broker_reconnects_total 1.0" in one.expose()
    assert b"broker_reconnects_total 0.0" in other.expose()


def test_what_is_declared_is_what_is_exposed() -> None:
    metrics = Metrics()
    exposed = {
        (family.name + ("_total" if family.type == "counter" else ""), family.type, family.documentation)
        for family in metrics.registry.collect()
    }
    assert {(each.name, each.kind, each.sentence) for each in metrics.declared} == exposed
    assert len(metrics.declared) == len(exposed)


def test_no_label_could_tell_of_one_call_agent_or_number() -> None:
    labels = {label for metric in Metrics().declared for label in metric.labels}
    assert labels == {
        "event_type",
        "outcome",
        "stage",
        "reason",
        "tier",
        "function",
        "status",
        "gate",
        "state",
        "queue",
        "role",
        "version",
    }


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    return {
        (sample.name.removeprefix("crm_sync_"), *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(metrics.expose().decode())
        for sample in family.samples
    }


def test_what_is_settled_is_counted(configured: Configure) -> None:
    configured()
    metrics = Metrics()
    reporter = Reporter(metrics)
    retry = Retry(timedelta(seconds=5), 2, "dialer_outage", "down")
    dead = DeadLetter(Reason.NOT_FOUND, "gone")
    fresh = replace(EVENT, occurred_at=datetime.now(UTC) - timedelta(seconds=30))
    settled: list[tuple[Event | None, Disposition]] = [(fresh, Ack()), (fresh, Ack()), (AGENT, retry)]
    for event, disposition in [*settled, (EVENT, dead), (None, Ack())]:
        outcome = Outcome(Stage.DELIVER, event, disposition=disposition, seconds=SECONDS)
        reporter.settled(inbound(), outcome, 0.3)
    reporter.asked(DialerRequest("callid_info", (("call_id", CALL),), "ok", 0.02))
    seen = samples(metrics)
    assert seen["events_settled_total", "call.ended", "delivered"] == 2
    assert seen["events_settled_total", "delivered", "unknown"] == 1
    assert seen["events_settled_total", "agent.onboarded", "retry"] == 1
    assert seen["events_settled_total", "call.ended", "dead_letter"] == 1
    assert seen["retries_total", "5s", "dialer_outage"] == 1
    assert seen["dead_letters_total", "not_found"] == 1
    assert seen["delivered_age_seconds_count", "call.ended"] == 2
    assert 60 <= seen["delivered_age_seconds_sum", "call.ended"] < 80
    assert seen["stage_seconds_count", "enrich"] == 5
    assert seen["stage_seconds_bucket", "+Inf", "deliver"] == 5
    assert seen["dialer_request_seconds_sum", "callid_info"] == 0.02
    assert seen["build_info", __version__] == 1
    assert reporter.counts == {"delivered": 3, "duplicate": 0, "retry": 1, "dead_letter": 1}


def test_what_is_taken_in_posted_and_waiting_is_shown() -> None:
    metrics = Metrics()
    reporter = Reporter(metrics)
    for kind in (EVENT.type, EVENT.type, AGENT.type):
        reporter.received(kind)
    for status in ("2xx", "no_answer", "2xx"):
        reporter.posted(status)
    reporter.reconnected()
    reporter.counted([Depth("crm-sync.call-ended", "work", 7), Depth("crm-sync.retry.5s", "retry", 0)])
    seen = samples(metrics)
    assert seen["events_received_total", "call.ended"] == 2
    assert seen["events_received_total", "agent.onboarded"] == 1
    assert (seen["sink_requests_total", "2xx"], seen["sink_requests_total", "no_answer"]) == (2, 1)
    assert seen["broker_reconnects_total",] == 1
    assert seen["queue_messages", "crm-sync.call-ended", "work"] == 7
    assert reporter.queues == {"crm-sync.call-ended": 7, "crm-sync.retry.5s": 0}
    reporter.counted([])
    assert not [name for name in samples(metrics) if name[0] == "queue_messages"]
    assert reporter.queues == {}


def test_a_gate_that_closes_is_a_warning_and_what_follows_is_not(configured: Configure) -> None:
    lines = configured()
    metrics = Metrics()
    reporter = Reporter(metrics)
    second = timedelta(seconds=1)
    for status in (
        GateStatus("dialer", State.CLOSED, "it is down", 0 * second, 2 * second),
        GateStatus("dialer", State.PROBING, "it is down", 2 * second, None),
        GateStatus("dialer", State.CLOSED, "it is down", 2.04 * second, 4 * second),
        GateStatus("dialer", State.OPEN, None, None, None),
    ):
        reporter.gate(status)
    shown = [(line["event"], line["level"], line.get("reason")) for line in lines()]
    assert shown == [
        ("gate_closed", "warning", "it is down"),
        ("gate_probing", "info", "it is down"),
        ("gate_closed", "info", "it is down"),
        ("gate_open", "info", None),
    ]
    assert lines()[2] | {"closed_seconds": 2.0, "next_probe_seconds": 4.0, "gate": "dialer"} == lines()[2]
    seen = samples(metrics)
    assert (seen["gate_state", "dialer", "open"], seen["gate_state", "closed", "dialer"]) == (1, 0)


# --- health


async def test_the_endpoints_answer(configured: Configure) -> None:
    lines = configured()
    ready = False
    metrics = Metrics()
    metrics.consuming.set_function(lambda: ready)
    served = health.serve(
        HttpSettings(host="127.0.0.1", port=0),
        metrics=metrics,
        ready=lambda: ready,
        status=lambda: {"consuming": ready, "since": timedelta(seconds=1), "counts": {"retry": 1}},
    )
    async with served as port, aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        assert port > 0

        async def get(path: str) -> tuple[int, str, str]:
            async with session.get(path) as response:
                return response.status, response.content_type, await response.text()

        assert await get("/livez") == (200, "text/plain", "ok\n")
        assert await get("/readyz") == (503, "text/plain", "not consuming\n")
        ready = True
        assert await get("/readyz") == (200, "text/plain", "ok\n")
        status, kind, text = await get("/status")
        assert (status, kind) == (200, "application/json")
        assert json.loads(text) == {"consuming": True, "since": "0:00:01", "counts": {"retry": 1}}
        status, kind, text = await get("/metrics")
        assert (status, kind) == (200, "text/plain")
        assert "crm_sync_consuming 1.0" in text
        assert list(text_string_to_metric_families(text))
        assert (await get("/"))[0] == 404
        async with session.post("/livez") as response:
            assert response.status == 405
    assert [(line["event"], line["port"]) for line in lines()] == [("listening", port)]
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(f"http://127.0.0.1:{port}/livez")


async def test_a_port_that_is_taken_is_an_error(configured: Configure) -> None:
    lines = configured()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        served = health.serve(
            HttpSettings(host="127.0.0.1", port=taken.getsockname()[1]),
            metrics=Metrics(),
            ready=lambda: True,
            status=dict,
        )
        with pytest.raises(OSError, match="address already in use"):
            await served.__aenter__()
    assert lines() == []
