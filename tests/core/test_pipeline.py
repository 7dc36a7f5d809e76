"""The way of one event: what is asked and delivered, in which order, and what a failed step leads to."""

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from zoneinfo import ZoneInfo

import pytest

from worker.core.breakers import CircuitBreakers
from worker.core.errors import (
    CircuitOpen,
    DeliveryIncomplete,
    DeliveryRejected,
    DeliveryUnavailable,
    EnrichmentRejected,
    EnrichmentUnavailable,
    FailureKind,
    InvalidEvent,
    NotReady,
    NotReadyReason,
    ProcessingError,
    Reason,
    SinkLoginRefused,
)
from worker.core.events import Event, EventType, Inbound
from worker.core.payload import (
    AgentEnrichment,
    AgentRecord,
    CallEnrichment,
    CallRecord,
    Enrichment,
    Payload,
    enrichment_from_json,
)
from worker.core.pipeline import Outcome, Pipeline
from worker.core.ports import Ack, DeadLetter, Duplicate, Receipt, Retry, Stage
from worker.core.retry import LOOK_AGAIN, LOOK_AGAIN_LATER, RetryPolicy
from worker.core.transitions import State

HAPPENED = datetime(2026, 11, 20, 19, 7, 14, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
DELAYS = (timedelta(seconds=5), timedelta(seconds=30), 2 * MINUTE, 10 * MINUTE)
POLICY = RetryPolicy(delays=DELAYS, max_attempts=3, ready_within=15 * MINUTE)

BODY = {"event_id": "e1", "call_id": "V1", "occurred_at": "2026-11-20T19:07:14Z"}
CALL = Inbound(json.dumps(BODY).encode(), "call.ended", HAPPENED, {})
AGENT = replace(CALL, body=b'{"type": "agent.onboarded", "event_id": "e2", "agent_user": "V1"}')
FOUND = CallEnrichment(call=CallRecord(call_id="V1", status="SALE"))
NOT_FINAL = CallEnrichment(call=CallRecord(call_id="V1", status="INCALL"), final=False)
FOUND_AGENT = AgentEnrichment(agent=AgentRecord(agent_user="V1"))


def breakers() -> CircuitBreakers:
    return CircuitBreakers(full=64, probe_max=timedelta(seconds=30), refused_probe=5 * MINUTE)


class NotFinal(NotReady):
    """An answer that is not final: raised unless incomplete answers are accepted."""

    def __init__(self, known: Enrichment = NOT_FINAL) -> None:
        super().__init__("INCALL", NotReadyReason.FINAL_STATUS)
        self.known = known


@dataclass
class FakeEnricher:
    """Returns the answer, or raises it."""

    log: list[str]
    answer: Enrichment | BaseException = FOUND

    async def enrich(self, event: Event, *, accept_incomplete: bool) -> Enrichment:
        self.log.append(f"enrich {event.id}")
        if isinstance(self.answer, NotFinal) and accept_incomplete:
            return self.answer.known
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


@dataclass
class FakeSink:
    """Stores what is delivered, or raises the failure."""

    log: list[str]
    failure: BaseException | None = None
    delivered: list[Payload] = field(default_factory=list)
    receipt: Receipt = field(default_factory=lambda: Receipt("200"))

    async def deliver(self, payload: Payload) -> Receipt:
        self.log.append(f"deliver {payload.id}")
        if self.failure is not None:
            raise self.failure
        self.delivered.append(payload)
        return self.receipt


class World:
    """A pipeline between fakes that share one log of operations, at a given age of the event."""

    def __init__(
        self,
        answer: Enrichment | BaseException = FOUND,
        failure: BaseException | None = None,
        age: timedelta = MINUTE,
        window: int = 0,
    ) -> None:
        self.log: list[str] = []
        self.enricher = FakeEnricher(self.log, answer)
        self.sink = FakeSink(self.log, failure)
        self.now = HAPPENED + age
        ticks = count()
        self.breakers = breakers()
        self.pipeline = Pipeline(
            self.enricher,
            self.sink,
            POLICY,
            self.breakers,
            duplicates_window=window,
            now=lambda: self.now,
            timer=lambda: float(next(ticks)),
        )

    def others_succeed(self) -> None:
        """Let it be seen that other events get through, so that a failure is this one's own."""
        if isinstance(self.enricher.answer, EnrichmentUnavailable):
            self.enricher.answer.to_blame = True
        for _ in range(3):
            self.breakers.sink_answered()

    async def process(self, inbound: Inbound = CALL) -> Outcome:
        return await self.pipeline.process(inbound)

    def delivered(self) -> list[dict[str, object]]:
        return [json.loads(payload.body)["data"] for payload in self.sink.delivered]


# --- the good way ---------------------------------------------------------------------------------


async def test_an_event_is_decoded_then_looked_up_then_delivered() -> None:
    world = World()
    outcome = await world.process()
    assert world.log == ["enrich e1", "deliver e1"]
    assert outcome.disposition == Ack()
    assert outcome.stage is Stage.DELIVER
    assert outcome.event is not None
    assert (outcome.event.id, outcome.enrichment, outcome.receipt) == ("e1", FOUND, Receipt("200"))
    assert outcome.error is None
    assert outcome.seconds == {Stage.ENRICH: 1, Stage.DELIVER: 1}
    assert [payload.type for payload in world.sink.delivered] == ["call.enriched"]


async def test_times_without_an_offset_are_in_the_zone_of_the_pipeline() -> None:
    world = World()
    zone = ZoneInfo("America/New_York")
    pipeline = Pipeline(world.enricher, world.sink, POLICY, breakers(), zone=zone)
    await pipeline.process(replace(CALL, body=b'{"call_id": "V1", "occurred_at": "2026-11-20T14:07:14"}'))
    assert json.loads(world.sink.delivered[0].body)["timestamp"] == "2026-11-20T19:07:14Z"


async def test_by_default_the_age_and_the_seconds_are_those_of_the_clock() -> None:
    world = World(NotReady("not found"))
    outcome = await Pipeline(world.enricher, world.sink, POLICY, breakers()).process(
        Inbound(b'{"call_id": "V1"}', "call.ended", datetime.now(UTC), {})
    )
    assert outcome.disposition == Retry(LOOK_AGAIN, 1, "not_found", "not found")
    assert 0 <= outcome.seconds[Stage.ENRICH] < 60


# --- an enrichment that an earlier attempt has made -----------------------------------------------


async def test_what_an_earlier_attempt_looked_up_is_not_looked_up_again_and_gives_the_same_bytes() -> None:
    found = CallEnrichment(
        call=FOUND.call.model_copy(
            update={"started_at": datetime(2026, 11, 20, 14, 5, tzinfo=ZoneInfo("America/New_York"))}
        )
    )
    first = World(found, failure=DeliveryUnavailable("500"))
    outcome = await first.process()
    assert outcome.enrichment == found
    again = World()
    await again.process(replace(CALL, attempt=2, enrichment=found.model_dump_json()))
    direct = World(found)
    await direct.process()
    assert again.log == ["deliver e1"]
    assert again.sink.delivered == direct.sink.delivered


async def test_a_carried_enrichment_may_be_bytes_and_of_an_agent() -> None:
    world = World()
    outcome = await world.process(replace(AGENT, enrichment=FOUND_AGENT.model_dump_json().encode()))
    assert outcome.enrichment == FOUND_AGENT
    assert world.log == ["deliver e2"]


@pytest.mark.parametrize(
    "carried",
    [
        "",
        "not JSON",
        "{}",
        b"\xff",
        '{"kind": "call"}',
        '{"kind": "other", "call": {"call_id": "V1"}}',
        CallEnrichment(call=CallRecord(call_id="V2")).model_dump_json(),
        FOUND_AGENT.model_dump_json().replace("V1", "V2"),
    ],
)
async def test_a_carried_enrichment_that_is_none_or_of_another_subject_is_looked_up_again(
    carried: str | bytes,
) -> None:
    world = World()
    outcome = await world.process(replace(CALL, enrichment=carried))
    assert world.log == ["enrich e1", "deliver e1"]
    assert outcome.disposition == Ack()


async def test_what_was_delivered_in_vain_as_not_final_is_not_looked_up_again() -> None:
    world = World(FOUND)
    await world.process(replace(CALL, enrichment=NOT_FINAL.model_dump_json()))
    assert world.log == ["deliver e1"]


# --- a step fails ---------------------------------------------------------------------------------


async def test_a_message_that_can_not_be_decoded_is_dead_lettered_and_nobody_is_asked() -> None:
    world = World()
    outcome = await world.process(replace(CALL, body=b"[]"))
    assert world.log == []
    assert outcome.disposition == DeadLetter(
        Reason.INVALID_EVENT, "the body is not a JSON object but an array"
    )
    assert outcome.stage is Stage.DECODE
    assert outcome.event is None
    assert isinstance(outcome.error, InvalidEvent)
    assert outcome.seconds == {}


@pytest.mark.parametrize(
    ("answer", "disposition"),
    [
        (EnrichmentRejected("bad id"), DeadLetter(Reason.REJECTED_BY_DIALER, "bad id")),
        (EnrichmentUnavailable("down"), Retry(DELAYS[0], 1, "dialer_outage", "down")),
        (
            EnrichmentUnavailable("what?", FailureKind.UNREADABLE),
            Retry(DELAYS[0], 2, "dialer_unreadable", "what?"),
        ),
        (EnrichmentUnavailable("login", FailureKind.REFUSED), Retry(DELAYS[0], 1, "dialer_refused", "login")),
        (NotReady("not found"), Retry(LOOK_AGAIN_LATER, 1, "not_found", "not found")),
        (NotFinal(), Retry(LOOK_AGAIN_LATER, 1, "not_final", "INCALL")),
    ],
    ids=lambda value: repr(value) if isinstance(value, Exception) else None,
)
async def test_a_look_up_that_fails_is_decided_by_the_policy_and_nothing_is_delivered(
    answer: Exception, disposition: DeadLetter | Retry
) -> None:
    world = World(answer)
    outcome = await world.process()
    assert world.log == ["enrich e1"]
    assert outcome.disposition == disposition
    assert (outcome.stage, outcome.error, outcome.enrichment) == (Stage.ENRICH, answer, None)
    assert outcome.seconds == {Stage.ENRICH: 1}


@pytest.mark.parametrize(
    ("failure", "disposition"),
    [
        (DeliveryRejected("422"), DeadLetter(Reason.REJECTED_BY_SINK, "422")),
        (DeliveryUnavailable("500"), Retry(DELAYS[0], 1, "sink_outage", "500")),
        (DeliveryUnavailable("403", FailureKind.REFUSED), Retry(DELAYS[2], 1, "sink_refused", "403")),
        (DeliveryUnavailable("429", FailureKind.BUSY, MINUTE), Retry(DELAYS[0], 1, "sink_busy", "429")),
    ],
    ids=lambda value: repr(value) if isinstance(value, Exception) else None,
)
async def test_a_delivery_that_fails_is_decided_by_the_policy_and_keeps_the_enrichment(
    failure: Exception, disposition: DeadLetter | Retry
) -> None:
    world = World(failure=failure)
    outcome = await world.process()
    assert world.log == ["enrich e1", "deliver e1"]
    assert outcome.disposition == disposition
    assert (outcome.stage, outcome.error, outcome.enrichment) == (Stage.DELIVER, failure, FOUND)
    assert outcome.seconds == {Stage.ENRICH: 1, Stage.DELIVER: 1}


@pytest.mark.parametrize(
    ("world", "disposition"),
    [
        (World(EnrichmentUnavailable("down")), (Reason.ATTEMPTS_EXHAUSTED, "down (attempt 3 of 3)")),
        (
            World(EnrichmentUnavailable("what?", FailureKind.UNREADABLE)),
            (Reason.UNREADABLE_ANSWER, "what? (attempt 3 of 3)"),
        ),
        (
            World(failure=DeliveryUnavailable("500")),
            (Reason.ATTEMPTS_EXHAUSTED, "500 (attempt 3 of 3)"),
        ),
        (
            World(failure=RuntimeError("password=hunter2")),
            (
                Reason.ATTEMPTS_EXHAUSTED,
                "unexpected RuntimeError; the worker's log has the traceback (attempt 3 of 3)",
            ),
        ),
    ],
    ids=["dialer", "unreadable", "sink", "unexpected"],
)
async def test_used_up_attempts_end_in_the_dead_letters_with_the_last_error(
    world: World, disposition: tuple[Reason, str]
) -> None:
    world.others_succeed()
    outcome = await world.process(replace(CALL, attempt=3))
    assert outcome.disposition == DeadLetter(*disposition)


async def test_an_outage_uses_up_an_attempt_only_while_others_succeed() -> None:
    for world in (World(EnrichmentUnavailable("down")), World(failure=DeliveryUnavailable("down"))):
        alone = (await world.process()).disposition
        world.others_succeed()
        beside_others = (await world.process()).disposition
        assert isinstance(alone, Retry)
        assert isinstance(beside_others, Retry)
        assert (alone.attempt, beside_others.attempt) == (1, 2)


async def test_what_became_of_a_request_to_the_dialer_is_recorded_only_by_who_sent_it() -> None:
    """However many events wait for it."""
    error = EnrichmentUnavailable("the dialer can't be reached")
    world = World(error)
    for error.to_blame, attempt in ((True, 2), (False, 1)):
        for _ in range(100):
            outcome = await world.process()
            assert outcome.disposition == Retry(DELAYS[0], attempt, "dialer_outage", str(error))
    assert world.breakers.status() == breakers().status()


@pytest.mark.parametrize(
    "error",
    [
        EnrichmentRejected("1234"),
        NotReady("not found"),
        CircuitOpen("dialer: 403"),
        RuntimeError("a bug of ours"),
    ],
)
async def test_what_says_nothing_of_a_dependency_changes_no_breaker(error: Exception) -> None:
    world = World(error)
    world.breakers.functions["callid_info"].failed(FailureKind.REFUSED, "no permission")
    world.breakers.sink.failed(FailureKind.REFUSED, "403")
    for breaker in (world.breakers.functions["callid_info"], world.breakers.sink):
        breaker.probe_now()
    world.breakers.functions["callid_info"].capacity()
    world.breakers.functions["callid_info"].probed()
    assert world.breakers.probing(EventType.CALL_ENDED)

    def states() -> list[State]:
        return [each.state for each in world.breakers.status()]

    before = states()
    outcome = await world.process()
    assert (outcome.error, states()) == (error, before)


async def test_an_event_that_was_turned_away_uses_up_no_attempt() -> None:
    outcome = await World(CircuitOpen("dialer: 403")).process(replace(CALL, attempt=3))
    assert outcome.disposition == Retry(DELAYS[0], 3, "circuit_open", "dialer: 403")


async def test_a_payload_that_the_sink_refuses_for_good_shows_that_it_works() -> None:
    world = World(failure=DeliveryRejected("422"))
    world.breakers.sink.failed(FailureKind.REFUSED, "403")
    world.breakers.sink.probe_now()
    outcome = await world.process()
    assert outcome.disposition == DeadLetter(Reason.REJECTED_BY_SINK, "422")
    assert world.breakers.sink.state is State.RECOVERING


async def test_a_payload_that_the_sink_has_without_the_rest_shows_that_it_works() -> None:
    world = World(failure=DeliveryIncomplete("no link"))
    for _ in range(4):
        world.breakers.sink_failed(DeliveryUnavailable("down"), "e0")
    assert (await world.process()).disposition == Retry(POLICY.delays[0], 2, "delivery_incomplete", "no link")
    world.breakers.sink_failed(DeliveryUnavailable("down"), "e0")
    assert world.breakers.all_closed, "five outages, but not in a row"


async def test_a_payload_that_the_sink_passes_over_shows_nothing_of_it() -> None:
    world = World(failure=DeliveryUnavailable("down"))
    world.sink.receipt = Receipt("skipped", asked=False)
    for _ in range(5):
        world.sink.failure = DeliveryUnavailable("down")
        await world.process()
        world.sink.failure = None
        if world.breakers.sink.state is State.CLOSED:
            assert (await world.process()).disposition == Ack()
    assert world.breakers.sink.state is State.OPEN, "five outages in a row"


async def test_a_sink_that_refuses_the_login_is_left_alone_at_once() -> None:
    world = World(failure=SinkLoginRefused("wrong key"))
    world.others_succeed()
    outcome = await world.process()
    assert isinstance(outcome.disposition, Retry)
    assert outcome.disposition.attempt == 1, "no event is to blame"
    assert world.breakers.sink.state is State.OPEN


# --- what the sink notes --------------------------------------------------------------------------


def noting(error: ProcessingError, progress: str) -> ProcessingError:
    error.progress = progress
    return error


async def test_what_the_sink_noted_comes_back_to_it_with_the_next_attempt() -> None:
    world = World(failure=noting(DeliveryUnavailable("down"), "half done"))
    outcome = await world.process()
    assert outcome.progress == "half done"
    world.sink.failure = None
    await world.process(replace(CALL, attempt=2, progress=outcome.progress))
    assert [payload.progress for payload in world.sink.delivered] == ["half done"]


@pytest.mark.parametrize(
    ("answer", "failure"), [(EnrichmentUnavailable("down"), None), (FOUND, DeliveryUnavailable("down"))]
)
async def test_what_was_noted_before_stays_if_nothing_is_added(
    answer: Enrichment | BaseException, failure: BaseException | None
) -> None:
    outcome = await World(answer, failure).process(replace(CALL, attempt=2, progress="half done"))
    assert outcome.progress == "half done"


async def test_while_a_breaker_is_open_an_event_goes_back_untried() -> None:
    world = World(failure=DeliveryUnavailable("403", FailureKind.REFUSED))
    await world.process()
    world.log.clear()
    outcome = await world.process(replace(CALL, attempt=3))
    assert outcome.disposition == Retry(DELAYS[0], 3, "circuit_open", "sink: 403")
    assert world.log == []
    invalid = await world.process(replace(CALL, body=b"[]"))
    assert isinstance(invalid.disposition, DeadLetter)


async def test_a_sink_whose_breaker_opens_during_the_look_up_is_spared_and_the_answer_is_kept() -> None:
    world = World()

    async def opens_meanwhile(event: Event, *, accept_incomplete: bool) -> Enrichment:
        world.breakers.sink_failed(DeliveryUnavailable("403", FailureKind.REFUSED), event.id)
        return FOUND

    world.enricher.enrich = opens_meanwhile  # type: ignore[method-assign]
    outcome = await world.process(replace(CALL, attempt=3))
    assert outcome.disposition == Retry(DELAYS[0], 3, "circuit_open", "sink: 403")
    assert (outcome.stage, outcome.enrichment, world.log) == (Stage.DELIVER, FOUND, [])


async def test_an_unexpected_error_is_a_bounded_transient_whose_text_is_not_shown() -> None:
    error = RuntimeError("password=hunter2")
    outcome = await World(error).process()
    assert outcome.error is error  # for the log, with its traceback
    assert outcome.disposition == Retry(
        DELAYS[0], 2, "unexpected", "unexpected RuntimeError; the worker's log has the traceback"
    )


@pytest.mark.parametrize(
    "world",
    [World(asyncio.CancelledError()), World(failure=asyncio.CancelledError())],
    ids=["looking up", "delivering"],
)
async def test_a_cancellation_passes_through_and_is_no_disposition(world: World) -> None:
    with pytest.raises(asyncio.CancelledError):
        await world.process()


# --- not ready ------------------------------------------------------------------------------------


@pytest.mark.parametrize("attempt", [1, 3, 50])
async def test_what_is_not_found_in_time_is_looked_up_again_without_counting(attempt: int) -> None:
    outcome = await World(NotReady("not found"), age=14 * MINUTE).process(replace(CALL, attempt=attempt))
    assert outcome.disposition == Retry(LOOK_AGAIN_LATER, attempt, "not_found", "not found")


async def test_what_is_not_found_in_the_end_is_dead_lettered() -> None:
    outcome = await World(NotReady("not found"), age=15 * MINUTE).process()
    assert outcome.disposition == DeadLetter(Reason.NOT_FOUND, "not found")


async def test_what_is_not_final_in_time_is_looked_up_again_without_counting() -> None:
    world = World(NotFinal(), age=14 * MINUTE)
    outcome = await world.process()
    assert outcome.disposition == Retry(LOOK_AGAIN_LATER, 1, "not_final", "INCALL")
    assert world.delivered() == []


async def test_what_is_not_final_in_the_end_is_delivered_as_such() -> None:
    world = World(NotFinal(), age=15 * MINUTE)
    outcome = await world.process()
    assert outcome.disposition == Ack()
    assert outcome.enrichment == NOT_FINAL
    delivered = json.loads(world.sink.delivered[0].body)["data"]
    assert (delivered["final"], delivered["call"]["status"]) == (False, "INCALL")


async def test_what_is_not_final_is_not_lost_where_the_time_ends_between_two_glances_at_the_clock() -> None:
    world = World(NotFinal())
    end = HAPPENED + POLICY.ready_within
    clock = iter([end - timedelta.resolution, end])
    outcome = await Pipeline(world.enricher, world.sink, POLICY, breakers(), now=lambda: next(clock)).process(
        CALL
    )
    assert outcome.disposition == Retry(LOOK_AGAIN_LATER, 1, "not_final", "INCALL")


async def test_a_call_whose_time_ends_during_a_look_up_is_looked_up_once_more_before_it_is_given_up() -> None:
    """Else it is a dead letter if the setting wants it delivered: that look-up was not the last one."""
    world = World(NotReady("not found"))
    end = HAPPENED + POLICY.ready_within
    clock = iter([end - timedelta.resolution, end, end])
    pipeline = Pipeline(
        world.enricher, world.sink, POLICY, breakers(), deliver_not_found=True, now=lambda: next(clock)
    )
    outcome = await pipeline.process(CALL)
    assert outcome.disposition == Retry(LOOK_AGAIN_LATER, 1, "not_found", "not found")


async def test_the_age_counts_from_the_event_and_not_from_the_message() -> None:
    late = replace(CALL, first_seen=HAPPENED + 15 * MINUTE)
    outcome = await World(NotReady("not found"), age=15 * MINUTE).process(late)
    assert outcome.disposition == DeadLetter(Reason.NOT_FOUND, "not found")


@pytest.mark.parametrize(
    ("inbound", "age", "delivered"),
    [
        (CALL, 15 * MINUTE, True),
        (CALL, 14 * MINUTE, False),
        (replace(AGENT, first_seen=HAPPENED), 15 * MINUTE, False),
    ],
    ids=["a call in the end", "a call in time", "an agent"],
)
async def test_a_setting_delivers_a_call_that_is_not_found_in_the_end(
    inbound: Inbound, age: timedelta, *, delivered: bool
) -> None:
    world = World(NotReady("not found"), age=age)
    pipeline = Pipeline(
        world.enricher, world.sink, POLICY, breakers(), deliver_not_found=True, now=lambda: world.now
    )
    outcome = await pipeline.process(inbound)
    assert isinstance(outcome.disposition, Ack) is delivered
    assert [data["enrichment"] for data in world.delivered()] == ["not_found"] * delivered


# --- repeats --------------------------------------------------------------------------------------


async def test_a_repeat_has_the_same_id_whether_it_comes_again_is_tried_again_or_is_replayed() -> None:
    world = World()
    for inbound in (CALL, CALL, replace(CALL, attempt=2, event_id="e1"), replace(CALL, event_id="e1")):
        assert (await world.process(inbound)).disposition == Ack()
    assert [payload.id for payload in world.sink.delivered] == ["e1"] * 4
    assert len({payload.body for payload in world.sink.delivered}) == 1


async def test_with_a_window_a_repeat_of_what_was_delivered_is_dropped_and_nobody_is_asked() -> None:
    world = World(window=1)
    await world.process()
    world.log.clear()
    repeat = await world.process(replace(CALL, attempt=2))
    assert (repeat.disposition, repeat.stage, repeat.seconds) == (Duplicate(), Stage.DECODE, {})
    assert repeat.event is not None
    assert repeat.event.id == "e1"
    assert world.log == []
    assert isinstance((await world.process(replace(CALL, body=b"[]"))).disposition, DeadLetter)


async def test_a_repeat_is_dropped_also_while_a_breaker_is_open() -> None:
    world = World(window=1)
    await world.process()
    world.sink.failure = DeliveryUnavailable("403", FailureKind.REFUSED)
    other = replace(CALL, body=b'{"event_id": "e2", "call_id": "V1"}')
    assert isinstance((await world.process(other)).disposition, Retry)
    assert (await world.process()).disposition == Duplicate()
    assert isinstance((await world.process(other)).disposition, Retry)


@pytest.mark.parametrize(
    "failure",
    [
        DeliveryRejected("422"),
        DeliveryUnavailable("lost connection"),
        RuntimeError("what"),
        asyncio.CancelledError(),
    ],
    ids=repr,
)
async def test_what_was_not_delivered_is_never_taken_for_a_repeat(failure: BaseException) -> None:
    world = World(failure=failure, window=10)
    with suppress(asyncio.CancelledError):
        await world.process()
    world.sink.failure = None
    assert (await world.process()).disposition == Ack()
    assert [payload.id for payload in world.sink.delivered] == ["e1"]


async def test_what_could_not_be_looked_up_is_never_taken_for_a_repeat() -> None:
    world = World(NotReady("not found"), window=10)
    await world.process()
    world.enricher.answer = FOUND
    assert (await world.process()).disposition == Ack()


async def test_a_repeat_whose_first_copy_is_still_in_work_is_delivered_too() -> None:
    """Waiting for the first would be no safer: it may fail, and the broker counts the time."""
    world = World(window=10)
    both_there = asyncio.Barrier(2)

    async def deliver(payload: Payload) -> Receipt:
        await both_there.wait()
        return Receipt("200")

    world.sink.deliver = deliver  # type: ignore[method-assign]
    outcomes = await asyncio.gather(world.process(), world.process())
    assert [outcome.disposition for outcome in outcomes] == [Ack(), Ack()]
    assert (await world.process()).disposition == Duplicate()


@pytest.mark.parametrize("enrichment", [FOUND, NOT_FINAL, FOUND_AGENT], ids=["call", "not final", "agent"])
def test_an_enrichment_survives_the_way_through_a_header(enrichment: Enrichment) -> None:
    assert enrichment_from_json(enrichment.model_dump_json()) == enrichment
