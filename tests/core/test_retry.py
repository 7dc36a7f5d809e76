"""The retry policy: what is final, what waits, what counts as an attempt, and on which tier."""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import pairwise
from typing import Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.errors import (
    DeliveryIncomplete,
    DeliveryRejected,
    DeliveryUnavailable,
    EnrichmentRejected,
    EnrichmentUnavailable,
    FailureKind,
    InvalidEvent,
    MappingFailed,
    NotReady,
    NotReadyReason,
    Reason,
    Unavailable,
)
from worker.core.ports import Ack, DeadLetter, Retry
from worker.core.retry import LOOK_AGAIN, LOOK_AGAIN_LATER, LookAgain, RetryPolicy, describe, format_delay

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
DELAYS = (5 * SECOND, 30 * SECOND, 2 * MINUTE, 10 * MINUTE, 60 * MINUTE)
POLICY = RetryPolicy(delays=DELAYS, max_attempts=12, ready_within=15 * MINUTE)


class LabelledError(Exception):
    """Somebody else's error that happens to have a label."""

    label = "theirs"


def decide(
    policy: RetryPolicy, error: Exception, *, attempt: int, age: timedelta, to_blame: bool = True
) -> Ack | Retry | DeadLetter:
    """Let the policy decide about an error that the circuit breaker has judged."""
    if isinstance(error, Unavailable):
        error.to_blame = to_blame
    return policy.decide(error, attempt=attempt, age=age)


UNEXPECTED = (RuntimeError("password=hunter2"), LabelledError("password=hunter2"))


# --- what is final --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (InvalidEvent("no"), Reason.INVALID_EVENT),
        (EnrichmentRejected("no"), Reason.REJECTED_BY_DIALER),
        (DeliveryRejected("no"), Reason.REJECTED_BY_SINK),
        (MappingFailed("no"), Reason.MAPPING_FAILED),
    ],
    ids=["invalid", "dialer", "sink", "mapping"],
)
def test_what_no_retry_would_help_is_dead_lettered_at_the_first_attempt(
    error: Exception, reason: Reason
) -> None:
    assert decide(POLICY, error, attempt=1, age=timedelta(0)) == DeadLetter(reason, "no")


# --- what counts as an attempt --------------------------------------------------------------------

COUNTED = (
    EnrichmentUnavailable("down"),
    EnrichmentUnavailable("gibberish", FailureKind.UNREADABLE),
    DeliveryUnavailable("down"),
    *UNEXPECTED,
)


@pytest.mark.parametrize("error", COUNTED, ids=repr)
def test_the_tiers_are_climbed_one_an_attempt_and_the_last_repeats(error: Exception) -> None:
    decisions = [decide(POLICY, error, attempt=attempt, age=MINUTE) for attempt in range(1, 12)]
    assert [(decision.tier, decision.attempt) for decision in decisions if isinstance(decision, Retry)] == [
        (DELAYS[min(attempt - 1, 4)], attempt + 1) for attempt in range(1, 12)
    ]


@pytest.mark.parametrize(
    ("error", "reason", "text"),
    [
        (EnrichmentUnavailable("down"), Reason.ATTEMPTS_EXHAUSTED, "down"),
        (EnrichmentUnavailable("gibberish", FailureKind.UNREADABLE), Reason.UNREADABLE_ANSWER, "gibberish"),
        (
            EnrichmentUnavailable("no permission", FailureKind.REFUSED),
            Reason.ATTEMPTS_EXHAUSTED,
            "no permission",
        ),
        (DeliveryUnavailable("answered 403", FailureKind.REFUSED), Reason.REJECTED_BY_SINK, "answered 403"),
        (DeliveryUnavailable("500"), Reason.ATTEMPTS_EXHAUSTED, "500"),
        *((error, Reason.ATTEMPTS_EXHAUSTED, describe(error)) for error in UNEXPECTED),
    ],
    ids=repr,
)
@pytest.mark.parametrize("attempt", [12, 13, 10**9])
def test_used_up_attempts_are_dead_lettered_with_the_last_error(
    error: Exception, reason: Reason, text: str, attempt: int
) -> None:
    decision = decide(POLICY, error, attempt=attempt, age=MINUTE)
    assert decision == DeadLetter(reason, f"{text} (attempt {attempt} of 12)")


def delivered_without_the_rest() -> DeliveryUnavailable:
    """Make the error of a delivery whose last step failed."""
    error = DeliveryUnavailable("the link failed")
    error.delivered = True
    return error


@pytest.mark.parametrize("error", [DeliveryIncomplete("no link"), delivered_without_the_rest()], ids=repr)
def test_what_the_sink_has_is_tried_again_and_then_acknowledged_but_never_a_dead_letter(
    error: Exception,
) -> None:
    last_but_one = decide(POLICY, error, attempt=11, age=MINUTE)
    assert last_but_one == Retry(DELAYS[-1], 12, getattr(error, "label", ""), str(error))
    assert decide(POLICY, error, attempt=12, age=MINUTE) == Ack()


@pytest.mark.parametrize("error", UNEXPECTED, ids=repr)
def test_the_text_of_an_unexpected_error_is_not_shown(error: Exception) -> None:
    name = type(error).__name__
    assert describe(error) == f"unexpected {name}; the worker's log has the traceback"
    decision = decide(POLICY, error, attempt=1, age=MINUTE)
    assert decision == Retry(DELAYS[0], 2, "unexpected", describe(error))


# --- what is not the event's fault ----------------------------------------------------------------


@pytest.mark.parametrize("attempt", [1, 3, 12, 10**9])
@pytest.mark.parametrize(
    "error",
    [
        EnrichmentUnavailable("later", FailureKind.BUSY),
        DeliveryUnavailable("429", FailureKind.BUSY),
        DeliveryUnavailable("429, Retry-After", FailureKind.BUSY, timedelta(days=1)),
    ],
    ids=repr,
)
def test_after_a_request_to_come_back_later_the_copy_is_back_when_the_breaker_probes(
    error: EnrichmentUnavailable | DeliveryUnavailable, attempt: int
) -> None:
    for to_blame in (False, True):
        decision = decide(POLICY, error, attempt=attempt, age=MINUTE, to_blame=to_blame)
        assert decision == Retry(DELAYS[0], attempt, error.label, str(error))


@pytest.mark.parametrize("attempt", [1, 3, 12, 10**9])
@pytest.mark.parametrize(
    "error",
    [
        EnrichmentUnavailable("down"),
        DeliveryUnavailable("500"),
        EnrichmentUnavailable("login", FailureKind.REFUSED),
        DeliveryUnavailable("401", FailureKind.REFUSED),
    ],
    ids=repr,
)
def test_an_outage_or_a_refusal_costs_an_attempt_only_if_the_event_is_to_blame(
    error: EnrichmentUnavailable | DeliveryUnavailable, attempt: int
) -> None:
    decision = decide(POLICY, error, attempt=attempt, age=MINUTE, to_blame=False)
    tier = DELAYS[2] if error.label == "sink_refused" else DELAYS[0]
    assert decision == Retry(tier, attempt, error.label, str(error))
    counted = decide(POLICY, error, attempt=attempt, age=MINUTE, to_blame=True)
    assert not isinstance(counted, Retry) or counted.attempt == attempt + 1


def test_after_a_refusal_of_the_sink_others_get_time_to_succeed() -> None:
    """At least two minutes, or the longest tier below: not the five seconds of the first tiers."""
    error = DeliveryUnavailable("answered 403", FailureKind.REFUSED)
    tiers = []
    for attempt in range(1, 6):
        decision = decide(POLICY, error, attempt=attempt, age=MINUTE)
        assert isinstance(decision, Retry)
        tiers.append(decision.tier)
    assert tiers == [2 * MINUTE, 2 * MINUTE, 2 * MINUTE, 10 * MINUTE, 60 * MINUTE]
    for delays, first in (((SECOND, 3 * SECOND), 3 * SECOND), ((10 * MINUTE,), 10 * MINUTE)):
        policy = replace(POLICY, delays=delays)
        decision = decide(policy, error, attempt=1, age=MINUTE, to_blame=False)
        assert decision == Retry(first, 1, "sink_refused", "answered 403")


@pytest.mark.parametrize(
    "error", [EnrichmentUnavailable("gibberish", FailureKind.UNREADABLE), *UNEXPECTED], ids=repr
)
def test_an_answer_that_nobody_can_read_and_an_unexpected_error_count_whatever_the_breaker_says(
    error: Exception,
) -> None:
    decisions = [decide(POLICY, error, attempt=4, age=MINUTE, to_blame=blame) for blame in (False, True)]
    assert decisions[0] == decisions[1]
    assert isinstance(decisions[0], Retry)
    assert (decisions[0].tier, decisions[0].attempt) == (DELAYS[3], 5)


WAITS = st.timedeltas(timedelta(0), timedelta(hours=2))
AGES = st.timedeltas(timedelta(days=-1), timedelta(days=30))
ATTEMPTS = st.integers(1, 2000)
POLICIES = st.builds(
    RetryPolicy,
    delays=st.lists(st.timedeltas(timedelta(milliseconds=1), timedelta(days=7)), min_size=1, unique=True).map(
        lambda delays: tuple(sorted(delays))
    ),
    max_attempts=st.integers(1, 1000),
    ready_within=st.timedeltas(timedelta(milliseconds=1), timedelta(days=7)),
)
REFUSED_OR_BUSY = st.sampled_from([FailureKind.REFUSED, FailureKind.BUSY])
NOT_THE_EVENTS_FAULT = st.builds(EnrichmentUnavailable, st.text(), REFUSED_OR_BUSY) | st.builds(
    DeliveryUnavailable, st.text(), REFUSED_OR_BUSY, st.none() | WAITS
)
ERRORS = (
    NOT_THE_EVENTS_FAULT
    | st.builds(EnrichmentUnavailable, st.text(), st.sampled_from(FailureKind))
    | st.builds(DeliveryUnavailable, st.text(), st.sampled_from(FailureKind))
    | st.builds(NotReady, st.text(), st.sampled_from(NotReadyReason))
    | st.builds(RuntimeError, st.text())
)


@given(POLICIES, NOT_THE_EVENTS_FAULT, ATTEMPTS, AGES)
def test_a_refusing_or_busy_dependency_never_costs_an_event_an_attempt(
    policy: RetryPolicy, error: Exception, attempt: int, age: timedelta
) -> None:
    decision = decide(policy, error, attempt=attempt, age=age, to_blame=False)
    assert isinstance(decision, Retry)
    assert decision.attempt == attempt


@given(policy=POLICIES, error=ERRORS, attempt=ATTEMPTS, age=AGES, to_blame=st.booleans())
def test_the_attempt_never_falls_and_the_tier_is_one_of_the_delays(
    policy: RetryPolicy, error: Exception, attempt: int, age: timedelta, *, to_blame: bool
) -> None:
    decision = decide(policy, error, attempt=attempt, age=age, to_blame=to_blame)
    if isinstance(decision, Retry):
        look_again = LookAgain.within(policy.ready_within)
        assert decision.tier in (*policy.delays, look_again.often, look_again.later)
        assert decision.attempt in (attempt, attempt + 1)
        assert decision.attempt <= max(attempt, policy.max_attempts)


@given(POLICIES, st.sampled_from(COUNTED), AGES)
def test_a_failure_that_counts_ends_after_the_given_number_of_attempts(
    policy: RetryPolicy, error: Exception, age: timedelta
) -> None:
    attempt, decision = 1, decide(policy, error, attempt=1, age=age)
    while isinstance(decision, Retry):
        assert decision.attempt == attempt + 1
        attempt += 1
        decision = decide(policy, error, attempt=attempt, age=age)
    assert attempt == policy.max_attempts


# --- what is not ready ----------------------------------------------------------------------------


def look_ups(policy: RetryPolicy, first: timedelta, latency: timedelta) -> list[timedelta]:
    """Return how old an event is at each look-up, until there is none any more."""
    ages = [first]
    while isinstance(decision := decide(policy, NotReady("not found"), attempt=1, age=ages[-1]), Retry):
        assert decision.attempt == 1
        ages.append(ages[-1] + decision.tier + latency)
    assert decision == DeadLetter(Reason.NOT_FOUND, "not found")
    return ages


@given(
    st.timedeltas(-5 * SECOND, 10 * SECOND),
    st.timedeltas(timedelta(0), 5 * SECOND),
)
def test_what_is_not_ready_is_looked_up_evenly_and_given_up_in_time(
    first: timedelta, latency: timedelta
) -> None:
    ages = look_ups(POLICY, first, latency)
    gaps = {later - earlier for earlier, later in pairwise(ages)}
    assert gaps == {LOOK_AGAIN + latency, LOOK_AGAIN_LATER + latency}
    assert POLICY.ready_within <= ages[-1] <= POLICY.ready_within + LOOK_AGAIN_LATER + latency
    assert len(ages) <= 43  # nor is the dialer asked all the time


@pytest.mark.parametrize(
    ("age", "gap"),
    [
        (timedelta(days=-1), 10 * SECOND),
        (timedelta(0), 10 * SECOND),
        (59.9 * SECOND, 10 * SECOND),
        (60 * SECOND, 25 * SECOND),
        (14 * MINUTE, 25 * SECOND),
    ],
)
@pytest.mark.parametrize("delays", [DELAYS, (10 * MINUTE, 60 * MINUTE)], ids=["default", "long"])
def test_the_schedule_of_what_is_not_ready_does_not_depend_on_the_tiers_of_failures(
    age: timedelta, gap: timedelta, delays: tuple[timedelta, ...]
) -> None:
    decision = replace(POLICY, delays=delays).decide(NotReady("not yet"), attempt=7, age=age)
    assert decision == Retry(gap, 7, "not_found", "not yet")


@pytest.mark.parametrize(
    ("ready_within", "often", "later"),
    [
        (timedelta(days=7), 10 * SECOND, 25 * SECOND),
        (150 * SECOND, 10 * SECOND, 25 * SECOND),
        (90 * SECOND, 10 * SECOND, 15 * SECOND),
        (3 * SECOND, 0.5 * SECOND, 0.5 * SECOND),
        (1 * SECOND, timedelta(milliseconds=166), timedelta(milliseconds=166)),
        (timedelta(milliseconds=1), timedelta(milliseconds=100), timedelta(milliseconds=100)),
    ],
)
def test_a_short_wait_narrows_the_gaps(ready_within: timedelta, often: timedelta, later: timedelta) -> None:
    assert LookAgain.within(ready_within) == LookAgain(often, later)


CALLS = 5_000
LATENCY = 0.2
"""Seconds between a tier's end and the next look-up: the broker's, the queue's and the dialer's time."""


@dataclass(frozen=True, slots=True)
class Simulated:
    """What a schedule costs and gives: seconds from a disposition to the look-up that sees it."""

    waits: list[float]
    requests: float

    @classmethod
    def of(cls, disposition: Callable[[random.Random], float], seed: int = 20261130) -> Self:
        chance = random.Random(seed)  # noqa: S311 - repeatable chance
        waits, requests = [], 0
        for _ in range(CALLS):
            ready, age, looks = disposition(chance), 0.0, 1
            while age < ready:
                error = NotReady("DISPO", NotReadyReason.FINAL_STATUS)
                decision = decide(POLICY, error, attempt=1, age=timedelta(seconds=age))
                assert isinstance(decision, Retry)
                age += decision.tier.total_seconds() + LATENCY
                looks += 1
            waits.append(age - ready)
            requests += looks
        return cls(sorted(waits), requests / CALLS)

    def share(self, part: float) -> float:
        return self.waits[int(part * CALLS)]


@pytest.mark.parametrize(
    ("disposition", "most_share", "most_requests"),
    [
        pytest.param(lambda chance: chance.uniform(5, 60), 0.95, 5.0, id="uniform, 5 to 60 s"),
        pytest.param(lambda chance: chance.expovariate(1 / 20), 0.95, 5.0, id="exponential, mean 20 s"),
        pytest.param(
            lambda chance: chance.uniform(290, 310) if chance.random() < 0.1 else chance.uniform(5, 60),
            0.9,
            6.2,  # never more than 30 s later: a disposition after 5 minutes alone takes 17
            id="one in ten takes 5 minutes",
        ),
    ],
)
def test_the_crm_has_most_calls_within_12_s_of_their_disposition(
    disposition: Callable[[random.Random], float],
    most_share: float,
    most_requests: float,
    record_property: Callable[[str, object], None],
) -> None:
    played = Simulated.of(disposition)
    figures = [round(played.share(part), 1) for part in (0.5, 0.95, 0.9999)]
    record_property("median, 95 %, most; requests a call", (*figures, played.requests))
    assert played.share(0.5) <= 7
    assert played.share(most_share) <= 12
    assert played.waits[-1] <= 30
    assert played.requests <= most_requests


def test_a_call_that_is_dispositioned_when_its_event_comes_takes_one_request() -> None:
    assert Simulated.of(lambda _: 0.0).requests == 1


@pytest.mark.parametrize("age", [timedelta(0), 15 * MINUTE, timedelta(days=30)])
def test_what_was_found_and_is_not_final_is_never_dead_lettered(age: timedelta) -> None:
    """The pipeline delivers it once it has waited enough, also if the clock ticks in between."""
    decision = decide(POLICY, NotReady("INCALL", NotReadyReason.FINAL_STATUS), attempt=1, age=age)
    assert isinstance(decision, Retry)
    assert decision.label == "not_final"


def test_waiting_ends_when_the_event_is_as_old_as_the_setting_says() -> None:
    unknown = NotReady("not found")
    assert isinstance(decide(POLICY, unknown, attempt=1, age=15 * MINUTE - timedelta.resolution), Retry)
    assert isinstance(decide(POLICY, unknown, attempt=1, age=15 * MINUTE), DeadLetter)


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "label"),
    [
        (InvalidEvent(""), "invalid_event"),
        (EnrichmentRejected(""), "rejected_by_dialer"),
        (DeliveryRejected(""), "rejected_by_sink"),
        (NotReady(""), "not_found"),
        (NotReady("", NotReadyReason.FINAL_STATUS), "not_final"),
        (NotReady("", NotReadyReason.CAMPAIGNS), "not_assigned"),
        *((EnrichmentUnavailable("", kind), f"dialer_{kind}") for kind in FailureKind),
        *((DeliveryUnavailable("", kind), f"sink_{kind}") for kind in FailureKind),
        (EnrichmentUnavailable(""), "dialer_outage"),
        (DeliveryUnavailable(""), "sink_outage"),
    ],
)
def test_each_kind_of_failure_has_a_label(error: InvalidEvent, label: str) -> None:
    assert error.label == label


@pytest.mark.parametrize(
    ("delay", "text"),
    [
        (timedelta(milliseconds=1), "1ms"),
        (timedelta(milliseconds=1500), "1500ms"),
        (5 * SECOND, "5s"),
        (90 * SECOND, "90s"),
        (2 * MINUTE, "2m"),
        (60 * MINUTE, "1h"),
        (timedelta(days=7), "168h"),
    ],
)
def test_a_delay_is_written_in_the_largest_unit_that_fits(delay: timedelta, text: str) -> None:
    assert format_delay(delay) == text


@given(st.integers(1, 7 * 24 * 3_600_000), st.integers(1, 7 * 24 * 3_600_000))
def test_two_delays_never_share_a_name(one: int, other: int) -> None:
    names = {format_delay(timedelta(milliseconds=delay)) for delay in (one, other)}
    assert len(names) == len({one, other})
    assert all(re.fullmatch(r"[1-9]\d*(ms|s|m|h)", name) for name in names)


def test_the_policy_can_not_be_changed() -> None:
    with pytest.raises(AttributeError):
        POLICY.max_attempts = 1  # type: ignore[misc]
