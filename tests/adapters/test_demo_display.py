"""What the demonstration shows: its rows, its sentences and its verdict, without a broker or a worker."""

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from rich.console import Console, RenderableType
from typer.testing import CliRunner

from simulators.broker import NoBrokerError
from simulators.crm import Received
from simulators.demo import runner
from simulators.demo.__main__ import app
from simulators.demo.display import LiveDisplay, PlainDisplay, head, make_display, sentence, table
from simulators.demo.progress import News, Progress
from simulators.demo.scenario import (
    CASES,
    EXCHANGES,
    QUEUES,
    READY_WITHIN,
    RETRY_DELAYS,
    Case,
    Dead,
    Delivered,
)
from simulators.demo.summary import Letter, Result, differences, sample, summary, what_next
from simulators.demo.worker_process import WorkerEnded, worker_process
from worker.core.events import EventType, Inbound, decode
from worker.rabbitmq.topology import build_topology
from worker.settings import BrokerCommandSettings, BrokerSettings, RetrySettings
from worker.settings.tree import DialerWaits, SinkNames

NOW = datetime(2026, 11, 20, 12, 0, 3, tzinfo=UTC)
SOLD, STILL_ON, UNKNOWN = CASES[0], CASES[1], CASES[2]
TWICE = next(case for case in CASES if case.published == 2)
FAILING = next(case for case in CASES if case.crm_says == (503,))
REFUSED = next(case for case in CASES if case.crm_says == (422,))
TUTORIAL = next(case for case in CASES if case.dialect == "tutorial")


def shown(what: RenderableType, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(what)
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def settled(case: Case, outcome: str, **facts: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    line = {"event": "event_settled", "level": "info", "timestamp": NOW.isoformat(), "outcome": outcome}
    return line | {"event_id": case.event_id} | facts


def asked(case: Case) -> dict[str, Any]:
    function, name = ("callid_info", "call_id") if case.kind == "call" else ("agent_campaigns", "agent_user")
    return {"event": "dialer_request", "function": function, name: case.subject, "outcome": "ok"}


def not_yet(words: str) -> dict[str, str]:
    return {"stage": "enrich", "error": f"the dialer says {words}", "tier": "2s"}


def call_payload(status: str) -> dict[str, Any]:
    return {
        "type": "call.enriched",
        "timestamp": "2026-11-20T12:00:00Z",
        "data": {"call": {"status": status}},
    }


def line_of(progress: Progress, case: Case, width: int = 80, now: datetime = NOW) -> str:
    (line,) = [
        line
        for line in shown(table(progress.rows, now, width), width).splitlines()
        if case.what in line and case.subject in line
    ]
    return line


# --- the scenario ---------------------------------------------------------------------------------


def test_every_story_is_published_as_an_event_that_the_worker_understands() -> None:
    for case in CASES:
        if case.envelope == "broken":
            continue
        message = case.message(NOW)
        event = decode(
            Inbound(
                message.body,
                message.routing_key,
                NOW,
                dict(message.headers),
                message.content_type,
                message.message_id,
            )
        )
        assert (event.id, event.type, event.subject) == (case.event_id, case.event_type, case.subject)
        assert event.occurred_at == NOW


def test_the_stories_show_every_kind_of_envelope_and_ending() -> None:
    assert {case.envelope for case in CASES} == {"plain", "structured", "binary", "broken"}
    dead = {case.ending.reason for case in CASES if isinstance(case.ending, Dead)}
    assert dead == {"not_found", "rejected_by_dialer", "invalid_event", "rejected_by_sink"}
    assert {status for case in CASES for status in case.crm_says} == {503, 429, 422}
    assert {case.event_type for case in CASES} == set(EventType)
    assert len({case.event_id for case in CASES}) == len(CASES)


def test_what_is_deleted_from_a_given_broker_is_all_that_the_worker_declares() -> None:
    settings = BrokerCommandSettings.model_construct(
        broker=BrokerSettings(namespace="n", url=(SecretStr("amqp://127.0.0.1/"),)),
        sink=SinkNames(),
        retry=RetrySettings.model_validate({"delays": list(RETRY_DELAYS)}),
        vicidial=DialerWaits.model_validate({"ready_within": READY_WITHIN}),
    )
    topology = build_topology(settings)
    assert {f"n.{name}" for name in QUEUES} == {queue.name for queue in topology.queues}
    assert {f"n.{name}" for name in EXCHANGES} == {exchange.name for exchange in topology.exchanges}


# --- the progress --------------------------------------------------------------------------------


def test_a_call_that_is_not_ready_waits_and_is_delivered_after_some_looks() -> None:
    payloads: dict[str, Any] = {}
    progress = Progress(CASES, payloads.get)
    news = [progress.received(STILL_ON, NOW)]
    for words in ("CALL NOT FOUND", "CALL LOG NOT FOUND"):
        assert progress.logged(asked(STILL_ON)) is None
        news.append(progress.logged(settled(STILL_ON, "retry", **not_yet(words))) or pytest.fail("no news"))
    assert "↻ no log yet" in line_of(progress, STILL_ON)
    assert "↻ asks again in 2 s" in line_of(progress, STILL_ON)
    assert "↻ asks again in 1 s" in line_of(progress, STILL_ON, now=NOW + timedelta(seconds=1.5))
    assert "↻ asks again now" in line_of(progress, STILL_ON, now=NOW + timedelta(seconds=9))
    progress.logged(asked(STILL_ON))
    not_final = {"stage": "enrich", "error": "the call's status is INCALL, which is not final", "tier": "2s"}
    progress.logged(settled(STILL_ON, "retry", **not_final))
    assert "↻ INCALL" in line_of(progress, STILL_ON)
    progress.logged(asked(STILL_ON))
    payloads[STILL_ON.event_id] = call_payload("SALE")
    news.append(progress.logged(settled(STILL_ON, "delivered", answer="200")) or pytest.fail("no news"))
    assert [each.text for each in news] == [
        "call M120213000…: call.ended published",
        "call M120213000…: the dialer says CALL NOT FOUND; asks again in 2 s",
        "call M120213000…: the dialer says CALL LOG NOT FOUND; asks again in 2 s",
        "call M120213000…: delivered after 4 looks, the CRM answers 200",
    ]
    assert "✓ SALE" in line_of(progress, STILL_ON)
    assert line_of(progress, STILL_ON).rstrip().endswith("✓ delivered, 4 looks")
    assert line_of(progress, STILL_ON, 120).rstrip().endswith("✓ delivered 200, 4 looks")


def test_a_delivery_that_failed_shows_the_status_until_it_succeeds() -> None:
    progress = Progress(CASES, lambda _: call_payload("SALE"))
    progress.received(FAILING, NOW)
    assert line_of(progress, FAILING).rstrip().endswith("received")
    progress.logged(asked(FAILING))
    assert "asked…" in line_of(progress, FAILING)
    failed = {"stage": "deliver", "error": "the webhook answered 503", "tier": "1s"}
    news = progress.logged(settled(FAILING, "retry", **failed))
    assert news is not None
    assert (news.text, news.tone) == (
        "call M120140701…: the CRM answers 503; delivered again in 1 s",
        "wait",
    )
    assert line_of(progress, FAILING).rstrip().endswith("✓ SALE        ↻ CRM 503, in 1 s")
    news = progress.logged(settled(FAILING, "delivered", answer="200"))
    assert news is not None
    assert news.text.endswith("delivered at the 2nd try, the CRM answers 200")


def test_an_event_that_was_published_twice_is_over_after_both_copies() -> None:
    progress = Progress([TWICE], lambda _: call_payload("SALE"))
    texts = [progress.received(TWICE, NOW).text, progress.received(TWICE, NOW).text]
    assert texts[1] == texts[0] + " once more"
    progress.logged(settled(TWICE, "delivered", answer="200"))
    assert not progress.over
    news = progress.logged(settled(TWICE, "delivered", answer="200"))
    assert news is not None
    assert news.text.endswith("delivered again, same webhook-id: the CRM drops it")
    assert progress.over


@pytest.mark.parametrize(
    ("case", "error", "stage_", "said"),
    [
        (UNKNOWN, "the dialer says CALL NOT FOUND", "enrich", "dead letter: CALL NOT FOUND"),
        (REFUSED, "the webhook answered 422: '422\\n'", "deliver", "dead letter: the CRM answers 422"),
        (SOLD, "the body is not JSON: Expecting value", "decode", "dead letter: the body is not JSON"),
    ],
)
def test_a_dead_letter_shows_its_reason(case: Case, error: str, stage_: str, said: str) -> None:
    progress = Progress(CASES)
    news = progress.logged(settled(case, "dead_letter", reason="the_reason", stage=stage_, error=error))
    assert news is not None
    assert (news.text, news.tone) == (f"{case.who}: {said}", "bad")
    assert line_of(progress, case).rstrip().endswith("✗ the_reason")
    assert line_of(progress, case, 120).rstrip().endswith("✗ dead letter: the_reason")


def test_the_other_dialect_is_named() -> None:
    progress = Progress(CASES, lambda _: call_payload("Answered"))
    news = progress.logged(settled(TUTORIAL, "delivered", answer="200"))
    assert news is not None
    assert news.text == "call 1000012345: answered in the tutorials' dialect; delivered 200"


@pytest.mark.parametrize("count", [0, 1, 2])
def test_of_an_agent_the_number_of_campaigns_is_shown(count: int) -> None:
    agent = next(case for case in CASES if case.kind == "agent")
    progress = Progress(CASES, lambda _: {"data": {"agent": {"campaigns": [{}] * count}}})
    progress.logged(settled(agent, "delivered", answer="200"))
    assert f"✓ {count} campaign{'' if count == 1 else 's'} " in line_of(progress, agent)


def test_other_lines_of_the_log_are_shown_only_if_they_warn() -> None:
    progress = Progress(CASES)
    assert progress.logged({"event": "consuming", "level": "info"}) is None
    assert progress.logged({"event": "dialer_request", "function": "version"}) is None
    assert progress.logged(settled(SOLD, "delivered") | {"event_id": "somebody-else"}) is None
    warned = progress.logged({"event": "broker_unreachable", "level": "warning", "error": "gone"})
    assert warned is not None
    assert (warned.text, warned.tone) == ("worker: broker_unreachable gone", "wait")
    failed = progress.logged({"event": "intake_failed", "level": "error"})
    assert failed is not None
    assert failed.tone == "bad"


# --- the displays ---------------------------------------------------------------------------------


def worst_case() -> Progress:
    """Make every cell as long as it gets."""
    progress = Progress(CASES, lambda _: {"data": {"agent": {"campaigns": [{}, {}]}}})
    for case in CASES:
        for _ in range(case.published):
            progress.received(case, NOW)
        if isinstance(case.ending, Dead):
            facts = {"reason": case.ending.reason, "stage": "enrich", "error": "the dialer says"}
            progress.logged(settled(case, "dead_letter", **facts))
        for _ in range(case.published):
            progress.logged(settled(case, "delivered", answer="200"))
    return progress


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_table_fits_the_terminal_and_cuts_nothing(width: int) -> None:
    drawn = shown(table(worst_case().rows, NOW, width), width)
    lines = drawn.splitlines()
    assert len(lines) == len(CASES) + 1
    assert max(map(len, lines)) <= width
    assert "…" not in drawn
    assert all(line.startswith("✓") for line in lines[1:])


def test_the_head_counts() -> None:
    progress = worst_case()
    assert shown(head(progress.rows, 7.4)).startswith(
        "16 events   12 delivered   4 dead letters   0 under way   7 s"
    )
    assert shown(head(Progress(CASES).rows, 0)).startswith("16 events   0 delivered   0 dead letters")


def test_a_sentence_begins_with_the_time_of_day() -> None:
    local = NOW.astimezone().strftime("%H:%M:%S")
    assert shown(sentence(News(NOW, "call V1: [bold] published"))) == f"{local} call V1: [bold] published\n"


def test_where_nobody_looks_there_are_plain_lines_and_no_escapes() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=False, color_system=None)
    display = PlainDisplay(console)
    display.doing("starting")
    display.done("CRM", "here")
    with display.showing(Progress([SOLD])):
        display.news(None)
        display.news(News(NOW, "it happened"))
    display.stop()
    assert isinstance(console.file, io.StringIO)
    said = console.file.getvalue()
    assert said.startswith("… starting\n✓ CRM       here\n")
    assert "it happened\n" in said
    assert "WHAT BECOMES OF IT" in said
    assert "\x1b" not in said


def test_in_a_terminal_the_table_stays_and_the_news_go() -> None:
    console = Console(file=io.StringIO(), width=80, height=24, force_terminal=True, color_system=None)
    display = LiveDisplay(console)
    display.doing("starting")
    display.done("CRM", "here")
    progress = Progress(CASES)
    with display.showing(progress):
        display.news(progress.received(SOLD, NOW))
        for number in range(9):
            display.news(News(NOW, f"news number {number}"))
        time.sleep(0.3)
    display.stop()
    assert isinstance(console.file, io.StringIO)
    said = console.file.getvalue()
    assert "news number 8" in said
    assert "news number 6" not in said, "a screen of 24 lines has room for two"
    last_frame = said.rpartition("16 events")[2]
    assert "news number" not in last_frame
    assert "tutorial-style agent" in last_frame


# --- the verdict ----------------------------------------------------------------------------------


def deep(shows: dict[str, Any]) -> dict[str, Any]:
    data: dict[str, Any] = {"event_id": "demo-02", "final": True, "call": {"call_id": "M1", "ended_at": None}}
    for path, value in shows.items():
        *parents, last = path.split(".")
        at = data
        for parent in parents:
            at = at.setdefault(parent, {})
        at[last] = value
    return {"type": "call.enriched", "timestamp": "2026-11-20T12:00:00Z", "data": data}


def delivery(case: Case, status: int, payload: dict[str, Any], *, verified: bool = True) -> Received:
    headers = {"webhook-signature": "v1,AAAABBBBCCCCDDDDEEEEFFFF"}
    return Received(case.event_id, "0", headers, json.dumps(payload).encode(), payload, verified, 0.0, status)


@pytest.fixture
def result() -> Result:
    """Return a result in which everything ended as it should."""
    received, letters = [], {}
    for case in CASES:
        shows = dict(case.ending.shows) if isinstance(case.ending, Delivered) else {}
        answers = case.crm_says + ((200,) * case.published if isinstance(case.ending, Delivered) else ())
        received += [delivery(case, status, deep(shows)) for status in answers]
        if isinstance(case.ending, Dead):
            letters[case.event_id] = Letter(case.ending.reason, case.message(NOW).body)
    bodies = {case.event_id: case.message(NOW).body for case in CASES}
    return Result(worst_case().rows, received, letters, bodies, 25, 0, 10.9)


def test_a_result_as_it_should_be_has_no_differences(result: Result) -> None:
    assert differences(result) == []
    said = shown(summary(result))
    assert "Every event ended as it should: 16 events in 17 messages, 11 seconds." in said
    assert "the signatures of all 16 requests\n     and dropped 1 repeat by its webhook-id" in said
    assert max(map(len, said.splitlines())) <= 80
    assert max(map(len, shown(sample(result, "demo-02")).splitlines())) <= 80
    assert "ended_at" not in shown(sample(result, "demo-02"))
    assert "crm-sync check" in shown(what_next())


def without(result: Result, case: Case, status: int) -> Result:
    kept = [each for each in result.received if (each.id, each.status) != (case.event_id, status)]
    return replace(result, received=kept)


def with_letter(result: Result, case: Case, letter: Letter | None) -> Result:
    letters = {name: found for name, found in result.letters.items() if name != case.event_id}
    return replace(result, letters=letters if letter is None else letters | {case.event_id: letter})


def with_delivery(result: Result, received: Received) -> Result:
    return replace(result, received=[*result.received, received])


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda it: without(it, SOLD, 200), f"{SOLD.who}: the CRM accepted it 0 times instead of 1"),
        (lambda it: without(it, FAILING, 503), f"{FAILING.who}: the CRM never answered 503"),
        (lambda it: with_letter(it, SOLD, Letter("x", b"")), f"{SOLD.who}: it is in the dead letters as x"),
        (
            lambda it: with_letter(it, UNKNOWN, None),
            f"{UNKNOWN.who}: it is not in the dead letters; expected not_found",
        ),
        (
            lambda it: with_letter(it, UNKNOWN, Letter("x", b"")),
            f"{UNKNOWN.who}: it is in the dead letters as x instead of not_found",
        ),
        (
            lambda it: with_letter(it, UNKNOWN, Letter("not_found", b"")),
            f"{UNKNOWN.who}: its dead letter is not the body that was published",
        ),
        (lambda it: with_delivery(it, delivery(UNKNOWN, 200, {})), f"{UNKNOWN.who}: the CRM accepted it"),
        (
            lambda it: with_delivery(it, delivery(STILL_ON, 200, {"data": {"final": False}})),
            f"{STILL_ON.who}: final is False instead of True",
        ),
        (
            lambda it: with_delivery(it, delivery(REFUSED, 422, {}, verified=False)),
            "1 of the deliveries had no good signature",
        ),
        (lambda it: replace(it, worker_status=1), "the worker ended with status 1 instead of 0"),
        (lambda it: replace(it, rows=Progress([SOLD]).rows), f"{SOLD.who}: it came to no end"),
    ],
)
def test_each_difference_is_named(result: Result, spoil: Callable[[Result], Result], named: str) -> None:
    spoiled = spoil(result)
    assert named in differences(spoiled)
    said = shown(summary(spoiled))
    assert "not end as they should" in said
    assert named[:40] in said


# --- what ends it early ---------------------------------------------------------------------------


async def test_a_worker_that_does_not_start_is_named_with_its_last_words() -> None:
    lines: list[dict[str, Any]] = []
    async with worker_process({"NO_SUCH": "setting"}, lines.append) as worker:
        with pytest.raises(WorkerEnded, match=r"status 2\..*vicidial"):
            await worker.consuming()
    assert lines == []


def test_without_any_broker_it_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    @asynccontextmanager
    async def none(url: str | None, _say: Callable[[str], None]) -> AsyncIterator[str]:
        if url is None:
            raise NoBrokerError("No RabbitMQ was found. Install it.")
        yield url

    monkeypatch.setattr(runner, "find_broker", none)
    done = CliRunner().invoke(app)
    assert done.exit_code == 1
    assert "No RabbitMQ was found. Install it." in done.output


def test_what_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    @asynccontextmanager
    async def somewhere(_url: str | None, _say: Callable[[str], None]) -> AsyncIterator[str]:
        yield "amqp://127.0.0.1:1/"

    @asynccontextmanager
    async def never(_url: str) -> AsyncIterator[None]:
        await asyncio.sleep(60)
        yield

    monkeypatch.setattr(runner, "find_broker", somewhere)
    monkeypatch.setattr(runner, "_connected", never)
    with pytest.raises(runner.DemoError, match="this took longer than 0 seconds, so it was given up"):
        asyncio.run(runner.play(None, make_display(), within=0.1))
