"""What the operator sees: log lines without any secret, metrics, health endpoints."""

import asyncio
import base64
import gc
import html
import io
import json
import logging
import re
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import aiohttp
import pytest
import structlog
from aiormq import spec
from aiormq.abc import DeliveredMessage
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp.header import ContentHeader
from prometheus_client.parser import text_string_to_metric_families
from structlog.typing import EventDict, Processor
from yarl import URL

from tests.clock import Clock
from worker import __version__
from worker.core.breakers import BreakerStatus
from worker.core.errors import EnrichmentUnavailable, FailureKind, InvalidEvent, NotReady, Reason
from worker.core.events import Event, EventType, Inbound, decode
from worker.core.pipeline import Outcome
from worker.core.ports import Ack, DeadLetter, Depth, DialerRequest, Disposition, Receipt, Retry, Stage
from worker.core.scrub import Scrubber
from worker.core.transitions import State
from worker.observe import health, log
from worker.observe.intake import IntakeReporter
from worker.observe.log import LIBRARY_LEVELS, Repeats
from worker.observe.metrics import IntakeMetrics, Metrics
from worker.observe.report import Reporter
from worker.settings import HttpSettings, LogSettings

SECRET = "S3cr3t/p@ss w\"örd'<&\\%+"
SHORT = "1234"
CALL = "V1201405090000012345"

Configure = Callable[..., Callable[[], list[dict[str, Any]]]]


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Catch the log, and put logging back to where it was."""
    caught = io.StringIO()
    monkeypatch.setattr(health, "_log", structlog.get_logger())  # a logger once used keeps its configuration
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    levels = {name: logging.getLogger(name).level for name in LIBRARY_LEVELS}
    yield caught
    root.handlers = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)
    structlog.reset_defaults()


@pytest.fixture
def configured(stderr: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Configure the log. Return a function that returns the lines since."""

    def configure(
        *,
        secrets: tuple[str, ...] = (SECRET,),
        extra: Sequence[Processor] = (),
        repeats: Repeats | None = None,
        **chosen: Any,  # noqa: ANN401 - the settings of the log
    ) -> Callable[[], list[dict[str, Any]]]:
        monkeypatch.setattr(sys, "stderr", stderr)  # not before: pytest sets its own for each phase of a test
        log.configure(LogSettings(**chosen), secrets, extra=extra, repeats=repeats)
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
    reporter.settled(
        inbound(), Outcome(Ack(), Stage.DELIVER, event, None, Receipt("200"), None, SECONDS), 0.25
    )
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
    outcome = Outcome(retry, Stage.ENRICH, AGENT, None, None, error, {Stage.ENRICH: 0.001})
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
    outcome = Outcome(dead, Stage.DELIVER, EVENT, None, None, None, SECONDS)
    Reporter(Metrics()).settled(inbound(2), outcome, 0.25)
    [line] = lines()
    assert (line["level"], line["outcome"], line["reason"]) == ("warning", "dead_letter", "rejected_by_sink")
    assert (line["stage"], line["error"], line["attempt"]) == ("deliver", "the webhook answered 422: ''", 2)


@pytest.mark.parametrize(
    ("message", "event_id"),
    [
        (inbound(body=b'{"event_id": "e7", "call_id": true}'), "e7"),
        (inbound(body=b"no json", message_id="m1"), "m1"),
        (inbound(body=b"no json", event_id="h1", message_id="m1"), "h1"),
        (inbound(body=b"no json"), None),
    ],
)
def test_an_event_that_cannot_be_understood_is_named_by_what_id_it_has(
    message: Inbound, event_id: str | None, configured: Configure
) -> None:
    lines = configured()
    with pytest.raises(InvalidEvent) as refused:
        decode(message)
    dead = DeadLetter(Reason.INVALID_EVENT, str(refused.value))
    metrics = Metrics()
    Reporter(metrics).settled(message, Outcome(dead, error=refused.value), 0.001)
    [line] = lines()
    assert (line["event_id"], line["event_type"], line["stage"]) == (event_id, None, "decode")
    assert "call_id" not in line
    assert 'settled_total{event_type="unknown",outcome="dead_letter"} 1.0' in metrics.expose().decode()


def fail(error: Exception) -> None:
    raise error


def raised(error: Exception) -> Exception:
    """Return the error with a traceback."""
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
    outcome = Outcome(decided, Stage.ENRICH, EVENT, None, None, raised(KeyError(f"key {SECRET}")), {})
    Reporter(Metrics()).settled(inbound(), outcome, 0.1)
    [line] = lines()
    assert line["level"] == "error"
    assert "Traceback (most recent call last)" in line["exception"]
    assert "in fail" in line["exception"]
    assert "KeyError" in line["exception"]
    assert "S3cr3t" not in json.dumps(line)


def test_an_error_that_was_foreseen_has_no_traceback(configured: Configure) -> None:
    lines = configured()
    error = raised(EnrichmentUnavailable("refused", FailureKind.REFUSED))
    retry = Retry(timedelta(minutes=10), 1, "dialer_refused", "refused")
    Reporter(Metrics()).settled(inbound(), Outcome(retry, Stage.ENRICH, EVENT, error=error), 0.1)
    [line] = lines()
    assert (line["level"], "exception" in line) == ("warning", False)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (
            DialerRequest("callid_info", (("call_id", CALL),), "ok", 0.0051),
            {"call_id": CALL, "outcome": "ok", "level": "debug"},
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
    lines, metrics = configured(level="debug"), Metrics()
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


def test_a_request_that_was_answered_as_usual_has_no_line_beside_that_of_its_event(
    configured: Configure,
) -> None:
    lines, metrics = configured(), Metrics()
    Reporter(metrics).asked(DialerRequest("version", (), "ok", 0.1))
    assert lines() == []
    assert 'dialer_requests_total{function="version",outcome="ok"} 1.0' in metrics.expose().decode()


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


@settings(max_examples=300)
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
    gc.collect()  # or what another test left unfinished may be complained of in this test's log
    configured(format=format_)
    address = f"amqp://user:{quote(SECRET, safe='')}@broker/"
    error = raised(ConnectionError(f"no route to {address}"))
    structlog.get_logger().error("own", url=address, exc_info=error)
    logger = logging.getLogger("aiormq.some")
    logger.warning("lost %s of %r", address, {"password": SECRET}, extra={"more": SECRET})
    logger.error("failed", exc_info=error)
    logging.getLogger("aiormq.other").error("failed", exc_info=error, stack_info=True)
    text = stderr.getvalue()
    assert "S3cr3t" not in text
    assert text.count("Traceback (most recent call last)") == 3, text
    assert "aiormq.some" in text
    assert text.count("***") >= 6


def test_a_librarys_record_looks_like_ours(configured: Configure) -> None:
    lines = configured()
    logging.getLogger("some.library").info("seen %d times", 3)
    [line] = lines()
    del line["timestamp"]
    assert line == {"event": "seen 3 times", "level": "info", "logger": "some.library"}


@pytest.mark.parametrize("level", ["debug", "info"])
def test_a_library_is_never_heard_below_info_and_some_not_below_their_own_level(
    level: str, configured: Configure
) -> None:
    lines = configured(level=level)
    for name in ("some.library", *LIBRARY_LEVELS):
        for said in ("debug", "info", "warning", "critical"):
            getattr(logging.getLogger(name), said)("x")
    assert [(line["logger"], line["level"]) for line in lines()] == [
        ("some.library", "info"),
        ("some.library", "warning"),
        ("some.library", "critical"),
        *product(("aiormq", "aio_pika", "aiohttp.access"), ("warning", "critical")),
        ("aiormq.connection", "critical"),
        ("aiormq.channel", "critical"),
    ]


def test_no_message_is_logged_that_the_broker_returned_too_late(
    configured: Configure, stderr: io.StringIO
) -> None:
    """aiormq would log it with its body."""
    configured()
    message = DeliveredMessage(spec.Basic.Return(), ContentHeader(), b"3125551212", None)  # type: ignore[arg-type]
    logging.getLogger("aiormq.channel").error("Unhandled message %r returning", message)
    assert stderr.getvalue() == ""


# --- phone numbers


def test_phone_numbers_are_masked_in_every_line_and_traceback(configured: Configure) -> None:
    lines = configured()
    error = raised(ValueError("no route for (312) 555-1212"))
    structlog.get_logger().warning("x", call_id="1000012345", reason="to +1 312 555 1212", exc_info=error)
    logging.getLogger("some.library").warning("no route for %s", "+13125551212")
    logging.getLogger("some.library").error("failed", exc_info=error)
    own, record, failed = lines()
    assert (own["call_id"], own["reason"]) == ("1000012345", "to +* *** *** **12")
    assert record["event"] == "no route for +*********12"
    for line in (own, failed):
        assert line["exception"].endswith("ValueError: no route for (***) ***-**12")


def test_the_operator_may_turn_the_masks_off(configured: Configure) -> None:
    lines = configured(mask_phone_numbers=False)
    structlog.get_logger().info("x", phone_number="3125551212", error="for 3125551212")
    assert (lines()[0]["phone_number"], lines()[0]["error"]) == ("3125551212", "for 3125551212")


# --- faults that repeat


def test_of_a_fault_that_repeats_one_line_a_minute_is_shown_and_says_how_many_were_not(
    configured: Configure,
) -> None:
    clock = Clock()
    lines = configured(repeats=Repeats(clock=clock))
    logger = structlog.get_logger()
    for _ in range(13):  # two minutes
        logger.warning("broker_unreachable", error="refused", next_try_seconds=clock.now)
        clock.now += 10
    shown = [(line["next_try_seconds"], line.get("repeated")) for line in lines()]
    assert shown == [(1000, None), (1060, 5), (1120, 5)]


def test_a_fault_that_changes_is_shown_at_once(configured: Configure) -> None:
    lines = configured(repeats=Repeats(clock=Clock()))
    logger = structlog.get_logger()
    for event, error in [
        ("broker_connection_lost", "reset"),
        ("broker_unreachable", "refused"),
        ("broker_unreachable", "refused"),
        ("broker_unreachable", "wrong password"),
        ("broker_unreachable", "refused"),
    ]:
        logger.warning(event, error=error)
    assert [(line["event"], line["error"]) for line in lines()] == [
        ("broker_connection_lost", "reset"),
        ("broker_unreachable", "refused"),
        ("broker_unreachable", "wrong password"),
    ]


def test_no_line_of_an_event_a_request_or_a_change_is_left_out(configured: Configure) -> None:
    lines = configured(repeats=Repeats(clock=Clock()))
    reporter = Reporter(Metrics())
    retry = Retry(timedelta(seconds=5), 2, "dialer_outage", "down")
    closed = BreakerStatus("dialer", State.OPEN, "down", timedelta(0), timedelta(seconds=1))
    for _ in range(3):
        reporter.settled(inbound(), Outcome(retry, Stage.ENRICH, EVENT), 0.1)
        reporter.asked(DialerRequest("callid_info", (("call_id", CALL),), "dialer_refused", 0.1))
        reporter.breaker(closed)
    assert [line["event"] for line in lines()] == ["event_settled", "dialer_request", "circuit_open"] * 3


def test_the_traceback_of_an_event_is_shown_once_a_minute_and_its_line_always(configured: Configure) -> None:
    clock = Clock()
    lines = configured(repeats=Repeats(clock=clock))
    reporter = Reporter(Metrics())
    retry = Retry(timedelta(seconds=5), 2, "unexpected", "unexpected KeyError")
    for text in ("a", SECRET, "b"):
        outcome = Outcome(retry, Stage.ENRICH, EVENT, error=raised(KeyError(text)))
        reporter.settled(inbound(), outcome, 0.1)
        clock.now += 30
    first, repeat, later = (line["exception"] for line in lines())
    assert first.startswith("Traceback (most recent call last)")
    assert first.endswith("KeyError: 'a'")
    assert re.fullmatch(
        r"KeyError: '\*\*\*' at .*test_observe\.py:\d+; the traceback is in an earlier line", repeat
    )
    assert later.endswith("KeyError: 'b'")
    assert later.startswith("Traceback")


def test_another_error_shows_its_own_traceback(configured: Configure) -> None:
    lines = configured(repeats=Repeats(clock=Clock()))
    for error in (KeyError("a"), ValueError("a")):
        structlog.get_logger().error("dialer_clock_unknown", exc_info=raised(error))
    assert all(line["exception"].startswith("Traceback") for line in lines())


def test_a_line_that_is_left_out_for_a_while_comes_back_with_its_traceback(configured: Configure) -> None:
    clock = Clock()
    lines = configured(repeats=Repeats(clock=clock))
    for _ in range(3):
        try:
            fail(KeyError("x"))
        except KeyError as error:
            structlog.get_logger().exception("intake_failed", error_type=type(error).__name__)
        clock.now += 30
    assert [(line["level"], line.get("repeated"), line["exception"][:9]) for line in lines()] == [
        ("error", None, "Traceback"),
        ("error", 1, "Traceback"),
    ]


def test_a_librarys_warnings_are_limited_where_they_differ_only_in_numbers(configured: Configure) -> None:
    clock = Clock()
    lines = configured(repeats=Repeats(clock=clock))
    logger = logging.getLogger("some.library")
    for number in range(4):
        logger.info("seen %d", number)
        logger.warning("task 'Task-%d' at 0x%x was destroyed", number, id(object()))
    logger.error("task 'Task-1' at 0x1 was destroyed")  # of another level
    logging.getLogger("another").warning("task 'Task-1' at 0x1 was destroyed")
    clock.now += 60
    logger.warning("task 'Task-9' at 0x9 was destroyed")
    assert [(line["event"][:6], line["level"], line.get("repeated")) for line in lines()] == [
        ("seen 0", "info", None),
        ("task '", "warning", None),
        ("seen 1", "info", None),
        ("seen 2", "info", None),
        ("seen 3", "info", None),
        ("task '", "error", None),
        ("task '", "warning", None),
        ("task '", "warning", 3),
    ]


async def test_the_exceptions_that_asyncio_reports_are_limited_by_where_they_were_raised(
    configured: Configure,
) -> None:
    lines = configured(repeats=Repeats(clock=Clock()))
    loop = asyncio.get_running_loop()
    for each in ("a", "b"):
        message = f"Exception in callback {each} of <TimerHandle when={loop.time()}>"
        loop.call_exception_handler({"message": message, "exception": raised(KeyError(each))})
    loop.call_exception_handler({"message": "x", "exception": raised(ValueError("c"))})
    assert [(line["logger"], line["exception"].splitlines()[-1]) for line in lines()] == [
        ("asyncio", "KeyError: 'a'"),
        ("asyncio", "ValueError: c"),
    ]


def test_a_record_whose_arguments_do_not_fit_breaks_nothing(
    configured: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = configured()
    monkeypatch.setattr(logging, "raiseExceptions", False)  # logging's own complaint goes to standard error
    logging.getLogger("some.library").warning("%d seen", "three")
    logging.getLogger("some.library").warning("well")
    assert [line["event"] for line in lines()] == ["well"]


# --- what others add, and the console


def test_what_else_processors_add_stands_in_every_line(configured: Configure) -> None:
    def trace(_logger: object, _name: str, event: EventDict) -> EventDict:
        return {**event, "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "note": SECRET}

    lines = configured(extra=[trace])
    structlog.get_logger().info("consuming")
    logging.getLogger("some.library").warning("x")
    assert [(line["trace_id"], line["note"]) for line in lines()] == [
        ("4bf92f3577b34da6a3ce929d0e0e4736", "***")
    ] * 2


def test_the_console_shows_text_for_a_person(configured: Configure, stderr: io.StringIO) -> None:
    configured(format="console", level="debug")
    Reporter(Metrics()).asked(DialerRequest("callid_info", (("call_id", CALL),), "ok", 0.005))
    logging.getLogger("some.library").warning("no route")
    own, record = stderr.getvalue().splitlines()
    when = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}Z"
    expected = f"dialer_request         function=callid_info call_id={CALL} outcome=ok duration=5ms"
    assert re.fullmatch(rf"{when} \[debug   ] {expected}", own)
    assert re.fullmatch(rf"{when} \[warning ] no route               \[some\.library\]", record)


def test_the_console_shows_a_traceback_below_its_line_without_the_values_of_variables(
    configured: Configure, stderr: io.StringIO
) -> None:
    configured(format="console", secrets=())
    error = raised(KeyError("x"))

    def call(password: str) -> None:
        raise ValueError("bad") from error

    try:
        call(SHORT)
    except ValueError as caught:
        structlog.get_logger().error("dialer_clock_unknown", exc_info=caught)
    first, *rest = stderr.getvalue().splitlines()
    assert first.endswith("dialer_clock_unknown")
    assert rest[0] == "Traceback (most recent call last):"
    assert rest[-1] == "ValueError: bad"
    assert SHORT not in "".join(rest)


# --- metrics


def test_each_metric_is_declared_once_with_a_sentence_and_the_prefix() -> None:
    text = Metrics().expose().decode()
    families = list(text_string_to_metric_families(text))
    names = [family.name for family in families if not family.name.endswith("_created")]
    assert len(names) == len(set(names)) == 29
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


def test_no_label_could_name_one_call_agent_or_number() -> None:
    labels = {label for metric in Metrics().declared for label in metric.labels}
    assert labels == {
        "event_type",
        "outcome",
        "stage",
        "reason",
        "tier",
        "function",
        "status",
        "linked",
        "breaker",
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
        outcome = Outcome(disposition, Stage.DELIVER, event, seconds=SECONDS)
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


def test_what_may_happen_is_counted_from_zero() -> None:
    """A counter that first appears as 1 has not grown, to Prometheus: `increase` would miss it."""
    metrics = Metrics()
    Reporter(metrics)
    seen = samples(metrics)
    assert {name[1] for name in seen if name[0] == "dead_letters_total"} == set(Reason) - {
        "delivery_limit",
        "expired",
    }
    assert seen["events_settled_total", "agent.onboarded", "dead_letter"] == 0
    assert seen["events_received_total", "call.ended"] == 0


def test_a_gate_that_closes_is_a_warning_and_what_follows_is_not(configured: Configure) -> None:
    lines = configured()
    metrics = Metrics()
    reporter = Reporter(metrics)
    second = timedelta(seconds=1)
    for status in (
        BreakerStatus("dialer", State.OPEN, "it is down", 0 * second, 2 * second),
        BreakerStatus("dialer", State.HALF_OPEN, "it is down", 2 * second, None),
        BreakerStatus("dialer", State.OPEN, "it is down", 2.04 * second, 4 * second),
        BreakerStatus("dialer", State.HALF_OPEN, "it is down", 6 * second, None),
        BreakerStatus("dialer", State.OPEN, "it refuses the login", 6 * second, 300 * second),
        BreakerStatus("dialer", State.CLOSED, None, None, None),
    ):
        reporter.breaker(status)
    shown = [(line["event"], line["level"], line.get("reason")) for line in lines()]
    assert shown == [
        ("circuit_open", "warning", "it is down"),
        ("circuit_half_open", "info", "it is down"),
        ("circuit_open", "info", "it is down"),
        ("circuit_half_open", "info", "it is down"),
        ("circuit_open", "warning", "it refuses the login"),
        ("circuit_closed", "info", None),
    ]
    assert lines()[2] | {"open_seconds": 2.0, "next_probe_seconds": 4.0, "breaker": "dialer"} == lines()[2]
    seen = samples(metrics)
    assert (
        seen["circuit_breaker_state", "closed", "dialer"],
        seen["circuit_breaker_state", "dialer", "open"],
    ) == (1, 0)


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
        with pytest.raises(
            health.ListenError, match=r"can't listen on 127\.0\.0\.1:[0-9]+: .*address already in use"
        ):
            await served.__aenter__()
    assert lines() == []


def test_the_intake_reports_the_spool_and_its_tokens(configured: Configure) -> None:
    lines = configured()
    metrics = IntakeMetrics()
    reporter = IntakeReporter(metrics)
    reporter.spooling("the broker is away")
    reporter.set_aside("unreadable", "e1")
    reporter.spool_unreadable("Input/output error")
    reporter.spool_held_up("a queue is full")
    reporter.spool_held_up("a queue is full")
    reporter.spool_moving()
    reporter.spool_emptied()
    reporter.token_changed(Path("/run/token"), None)
    reporter.token_changed(Path("/run/token"), "it is empty")
    assert [(line["event"], line["level"]) for line in lines()] == [
        ("spooling", "warning"),
        ("event_set_aside", "error"),
        ("spool_unreadable", "error"),
        ("spool_held_up", "warning"),
        ("spool_moving", "info"),
        ("spool_emptied", "info"),
        ("token_changed", "info"),
        ("token_unusable", "warning"),
    ]
    assert b'set_aside_total{reason="unreadable"} 1.0' in metrics.expose()
