"""When a failed event is tried again: a pure decision.

How long a dependency in trouble is left alone is decided by its circuit breaker (`worker.core.breakers`),
not here. An event that is not to blame goes to the first tier, so that its copy is back in the work queue
when the breaker probes.

Retries happen in one layer, the broker's tiers. Adapters never retry. The one silent repeat of aiohttp
(idempotent requests on a dropped keep-alive connection) is named in `worker.vicidial.client`.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Self

from worker.core.errors import (
    CircuitOpen,
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
    ProcessingError,
    Reason,
    Unavailable,
)
from worker.core.ports import Ack, DeadLetter, Retry

LOOK_AGAIN = timedelta(seconds=10)
"""Time between two look-ups of an event younger than `LOOK_AGAIN_OFTEN`, if its answer is not ready."""
LOOK_AGAIN_LATER = timedelta(seconds=25)
"""The same for an older event."""
LOOK_AGAIN_OFTEN = timedelta(minutes=1)

AFTER_REFUSAL = timedelta(minutes=2)
"""The first tier after a refusal of the sink is the longest up to this: only what others do meanwhile shows
whether the event alone is refused, and a breaker that the refusal opened stays open for longer."""


@dataclass(frozen=True, slots=True)
class LookAgain:
    """When an answer that is not ready is asked for again.

    A disposition comes at no predictable time, so evenly spaced look-ups make
    the CRM wait least for a given number of requests: half a gap on average, a
    whole one at most. Most dispositions come within a minute; after that a wider
    gap spares the dialer. A `ready_within` shorter than 150 s narrows the
    gaps, so that it always holds six of them or more.
    """

    often: timedelta
    later: timedelta

    @classmethod
    def within(cls, ready_within: timedelta) -> Self:
        """Return the schedule for an answer that is waited for so long, in whole milliseconds."""
        most = max(ready_within // 6, timedelta(milliseconds=100))
        most -= most % timedelta(milliseconds=1)
        return cls(min(LOOK_AGAIN, most), min(LOOK_AGAIN_LATER, most))

    def after(self, age: timedelta) -> timedelta:
        """Return the wait until the next look-up for an event of that age."""
        return self.often if age < LOOK_AGAIN_OFTEN else self.later


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The rules for retries.

    `delays` are the tiers for failures, ascending; the last one repeats. An answer that is not ready is not a
    failure, and has a schedule of its own, for as long as the event is younger than `ready_within`.
    """

    delays: tuple[timedelta, ...]
    max_attempts: int
    ready_within: timedelta

    def decide(self, error: Exception, *, attempt: int, age: timedelta) -> Ack | Retry | DeadLetter:
        """Decide what becomes of an event that failed in its `attempt`th attempt, `age` after it happened.

        This is the one place that decides by the class of the error. Whether an outage or a refusal counts as
        an attempt is in the error already (`to_blame`); an unexpected error always does. A payload that the
        sink has is no dead letter: without the rest of its delivery, it is acknowledged in the end.
        """
        match error:
            case InvalidEvent():
                decision: Ack | Retry | DeadLetter = DeadLetter(Reason.INVALID_EVENT, str(error))
            case EnrichmentRejected():
                decision = DeadLetter(Reason.REJECTED_BY_DIALER, str(error))
            case DeliveryRejected():
                decision = DeadLetter(Reason.REJECTED_BY_SINK, str(error))
            case MappingFailed():
                decision = DeadLetter(Reason.MAPPING_FAILED, str(error))
            case NotReady():
                decision = self._look_again(error, attempt, age)
            case CircuitOpen():
                decision = Retry(self.delays[0], attempt, error.label, str(error))
            case Unavailable() if not _counts(error):
                decision = Retry(self._first_tier(error), attempt, error.label, str(error))
            case _:
                decision = self._next_attempt(error, attempt)
        return decision

    def _first_tier(self, error: Exception) -> timedelta:
        """Return the shortest tier: after a refusal of the sink, one on which others have time to succeed."""
        longest = AFTER_REFUSAL if _is_sink_refusal(error) else self.delays[0]
        return max((delay for delay in self.delays if delay <= longest), default=self.delays[0])

    def _look_again(self, error: NotReady, attempt: int, age: timedelta) -> Retry | DeadLetter:
        if error.reason is NotReadyReason.RECORD and age >= self.ready_within:
            return DeadLetter(Reason.NOT_FOUND, str(error))
        return Retry(LookAgain.within(self.ready_within).after(age), attempt, error.label, str(error))

    def _next_attempt(self, error: Exception, attempt: int) -> Ack | Retry | DeadLetter:
        text = describe(error)
        if attempt >= self.max_attempts and _is_delivered(error):
            return Ack()
        if attempt >= self.max_attempts:
            return DeadLetter(_exhausted(error), f"{text} (attempt {attempt} of {self.max_attempts})")
        tier = max(self.delays[min(attempt, len(self.delays)) - 1], self._first_tier(error))
        label = error.label if isinstance(error, ProcessingError) else "unexpected"
        return Retry(tier, attempt + 1, label, text)


def _counts(error: Unavailable) -> bool:
    """Return whether it uses up an attempt: a request to come back later never does."""
    if error.kind is FailureKind.UNREADABLE:
        return True
    return error.to_blame and error.kind is not FailureKind.BUSY


def _exhausted(error: Exception) -> Reason:
    """Return why an event whose attempts are used up is a dead letter."""
    match error:
        case EnrichmentUnavailable(kind=FailureKind.UNREADABLE):
            return Reason.UNREADABLE_ANSWER
        case _ if _is_sink_refusal(error):
            return Reason.REJECTED_BY_SINK
        case _:
            return Reason.ATTEMPTS_EXHAUSTED


def _is_delivered(error: Exception) -> bool:
    return isinstance(error, DeliveryIncomplete) or (
        isinstance(error, DeliveryUnavailable) and error.delivered
    )


def _is_sink_refusal(error: Exception) -> bool:
    return isinstance(error, DeliveryUnavailable) and error.kind is FailureKind.REFUSED


def format_delay(delay: timedelta) -> str:
    """Write a delay the short way that queue names and the log use: `500ms`, `30s`, `2m`, `1h`."""
    milliseconds = delay // timedelta(milliseconds=1)
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms"


def describe(error: BaseException) -> str:
    """Name an error for a person.

    The text of an unexpected error is not shown: it was written by somebody
    who knew nothing of secrets; its class is enough to find the traceback.
    """
    if isinstance(error, ProcessingError):
        return str(error)
    return f"unexpected {type(error).__name__}; the worker's log has the traceback"
