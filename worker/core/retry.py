"""When a failed event is tried again: a pure decision.

Retries happen in one layer, the broker's tiers. Adapters never retry, and the
one silent repeat of aiohttp (idempotent requests on a dropped keep-alive
connection) is named in `worker.vicidial.client`.
"""

from dataclasses import dataclass
from datetime import timedelta

from worker.core.disposition import DeadLetter, Retry
from worker.core.errors import (
    DeliveryRejected,
    DeliveryUnavailable,
    EnrichmentRejected,
    EnrichmentUnavailable,
    Fault,
    InvalidEvent,
    NotReady,
    ProcessingError,
    Reason,
)

LOOK_AGAIN_AT_MOST = timedelta(minutes=2)
"""The longest tier on which an answer that is not ready is waited for."""

_FINAL: dict[type[Exception], Reason] = {
    InvalidEvent: Reason.INVALID_EVENT,
    EnrichmentRejected: Reason.REJECTED_BY_DIALER,
    DeliveryRejected: Reason.REJECTED_BY_SINK,
}


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The rules of retrying. `delays` are the tiers, ascending; the last one repeats."""

    delays: tuple[timedelta, ...]
    max_attempts: int
    ready_within: timedelta
    refused_probe: timedelta

    def decide(self, error: Exception, *, attempt: int, age: timedelta) -> Retry | DeadLetter:
        """Decide about an event that failed for the `attempt`th time, `age` after it happened."""
        if (reason := _FINAL.get(type(error))) is not None:
            return DeadLetter(reason, str(error))
        if isinstance(error, NotReady):
            return self._look_again(error, attempt, age)
        if isinstance(error, EnrichmentUnavailable | DeliveryUnavailable):
            wait = self._wait_that_counts_no_attempt(error)
            if wait is not None:
                return Retry(self._tier_of_at_least(wait), attempt, error.label, str(error))
        return self._next_attempt(error, attempt)

    def still_waits(self, age: timedelta) -> bool:
        """Whether an answer that is not ready is worth another look-up."""
        return age < self.ready_within

    def _look_again(self, error: NotReady, attempt: int, age: timedelta) -> Retry | DeadLetter:
        if error.enrichment is None and not self.still_waits(age):
            return DeadLetter(Reason.NOT_FOUND, str(error))
        return Retry(self._look_again_tier(age), attempt, error.label, str(error))

    def _look_again_tier(self, age: timedelta) -> timedelta:
        """Wait about as long again as the event is old: most dispositions land in the first minute."""
        short = [delay for delay in self.delays if delay <= LOOK_AGAIN_AT_MOST] or [self.delays[0]]
        return max((delay for delay in short if delay <= 2 * age), default=short[0])

    def _wait_that_counts_no_attempt(
        self, error: EnrichmentUnavailable | DeliveryUnavailable
    ) -> timedelta | None:
        if error.fault is Fault.REFUSED:
            return self.refused_probe
        asked_for = error.retry_after if isinstance(error, DeliveryUnavailable) else None
        return timedelta(0) if asked_for is None and error.fault is Fault.BUSY else asked_for

    def _tier_of_at_least(self, wait: timedelta) -> timedelta:
        return next((delay for delay in self.delays if delay >= wait), self.delays[-1])

    def _next_attempt(self, error: Exception, attempt: int) -> Retry | DeadLetter:
        text = describe(error)
        if attempt >= self.max_attempts:
            unreadable = isinstance(error, EnrichmentUnavailable) and error.fault is Fault.UNREADABLE
            return DeadLetter(
                Reason.UNREADABLE_ANSWER if unreadable else Reason.ATTEMPTS_EXHAUSTED,
                f"{text} (attempt {attempt} of {self.max_attempts})",
            )
        tier = self.delays[min(attempt, len(self.delays)) - 1]
        label = error.label if isinstance(error, ProcessingError) else "unexpected"
        return Retry(tier, attempt + 1, label, text)


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
