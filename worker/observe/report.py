"""Reports on the work: one log line and the metrics for each settled event and each dialer request."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from itertools import product
from typing import Any

import structlog

from worker.core.breakers import BreakerStatus
from worker.core.errors import BY_THE_BROKER, FailureKind, ProcessingError, Reason
from worker.core.events import EventType, Inbound
from worker.core.pipeline import Outcome
from worker.core.ports import Ack, DeadLetter, Depth, DialerRequest, Duplicate, Retry, Stage
from worker.core.retry import format_delay
from worker.core.transitions import State
from worker.observe.metrics import Metrics

_SUBJECT = {EventType.CALL_ENDED: "call_id", EventType.AGENT_ONBOARDED: "agent_user"}
_MILLISECONDS = {stage: f"{stage}_ms" for stage in Stage}
_REFUSED = f"dialer_{FailureKind.REFUSED}"


class Reporter:
    """Reports to the log and the metrics, and counts for `/status`."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self._log = structlog.get_logger().bind()  # once: an unbound one binds itself at each line
        self._breakers: dict[str, BreakerStatus] = {}
        self._cached = cache(lambda metric, *labels: metric.labels(*labels))
        self.queues: dict[str, int] = {}
        self.counts = {"delivered": 0, "duplicate": 0, "retry": 0, "dead_letter": 0}
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """Create the counters: to Prometheus, one that first appears as 1 has not grown."""
        for kind in EventType:
            self._cached(self.metrics.received, kind)
            for outcome in self.counts:
                self._cached(self.metrics.settled, kind, outcome)
        for outcome, linked in product(("created", "updated", "duplicate", "skipped"), ("yes", "no")):
            self._cached(self.metrics.crm_records, outcome, linked)
        for reason in Reason:
            if reason not in BY_THE_BROKER:
                self._cached(self.metrics.dead_letters, reason)

    def received(self, queue: EventType) -> None:
        """Count a message that is taken into work."""
        self._cached(self.metrics.received, queue).inc()

    def settled(self, inbound: Inbound, outcome: Outcome, seconds: float) -> None:
        """Report an inbound that was settled after so many seconds of work."""
        name, level, facts = self._outcome(outcome)
        line = {"outcome": name} | _identity(inbound, outcome) | {"attempt": inbound.attempt} | facts
        self.counts[name] += 1
        self._cached(self.metrics.settled, line["event_type"] or "unknown", name).inc()
        for stage, took in outcome.seconds.items():
            self._cached(self.metrics.stage, stage).observe(took)
            line[_MILLISECONDS[stage]] = _ms(took)
        line["duration_ms"] = _ms(seconds)
        if outcome.error is not None and not isinstance(outcome.error, ProcessingError):
            level = "error"
            line["exc_info"] = outcome.error  # show where an error came from that nobody foresaw
        getattr(self._log, level)("event_settled", **line)

    def asked(self, request: DialerRequest) -> None:
        """Report a request to the dialer. One that was answered as usual is logged for debugging only.

        Its event has a line anyway, with the time that the look-up took.
        """
        self._cached(self.metrics.dialer_requests, request.function, request.outcome).inc()
        self._cached(self.metrics.dialer_seconds, request.function).observe(request.seconds)
        if request.outcome == "ok":
            log = self._log.debug
        else:
            log = self._log.error if request.outcome == _REFUSED else self._log.info
        log(
            "dialer_request",
            function=request.function,
            **dict(request.about),
            outcome=request.outcome,
            duration_ms=_ms(request.seconds),
        )

    def breaker(self, status: BreakerStatus) -> None:
        """Report that a circuit breaker changed its state.

        A probe that failed as the one before is no news, so its level is info.
        """
        before = self._breakers.get(status.name)
        as_before = before is not None and (before.state, before.reason) == (State.HALF_OPEN, status.reason)
        self.show_breaker(status)
        facts: dict[str, Any] = {"breaker": status.name}
        if status.reason is not None:
            facts["reason"] = status.reason
        if status.open_for is not None:
            facts["open_seconds"] = round(status.open_for.total_seconds(), 1)
        if status.next_probe_in is not None:
            facts["next_probe_seconds"] = round(status.next_probe_in.total_seconds(), 1)
        news = status.state is State.OPEN and not as_before
        (self._log.warning if news else self._log.info)(f"circuit_{status.state}", **facts)

    def show_breaker(self, status: BreakerStatus) -> None:
        """Set the metrics of a circuit breaker's state."""
        self._breakers[status.name] = status
        for state in State:
            self._cached(self.metrics.circuit_breaker_state, status.name, state).set(state is status.state)

    def posted(self, status: str) -> None:
        """Count what became of one try to deliver."""
        self._cached(self.metrics.sink_requests, status).inc()

    def reconnected(self) -> None:
        """Count that the worker consumes again after a connection broke."""
        self.metrics.reconnects.inc()

    def counted(self, depths: Sequence[Depth]) -> None:
        """Set the depths of the queues, and forget those that are not among them."""
        self.queues = {depth.queue: depth.messages for depth in depths}
        self.metrics.queue_messages.clear()
        for depth in depths:
            self.metrics.queue_messages.labels(depth.queue, depth.role).set(depth.messages)

    def hit(self, function: str) -> None:
        """Count a look-up that was answered from the cache."""
        self._cached(self.metrics.dialer_cache_hits, function).inc()

    def _outcome(self, outcome: Outcome) -> tuple[str, str, dict[str, Any]]:
        """Return the name of the outcome, its log level, and the other fields of its line."""
        match outcome.disposition:
            case Ack():
                return "delivered", "info", self._delivered(outcome)
            case Duplicate():
                return "duplicate", "info", {}
            case Retry() as retry:
                tier = format_delay(retry.tier)
                self._cached(self.metrics.retries, retry.label, tier).inc()
                facts = {"reason": retry.label, "stage": str(outcome.stage), "error": retry.error}
                level = "warning" if retry.label.endswith(FailureKind.REFUSED) else "info"
                return "retry", level, facts | {"tier": tier}
            case DeadLetter() as dead:
                self.metrics.dead_letters.labels(dead.reason).inc()
                facts = {"reason": str(dead.reason), "stage": str(outcome.stage), "error": dead.error}
                return "dead_letter", "warning", facts

    def _delivered(self, outcome: Outcome) -> dict[str, Any]:
        if outcome.event is None:
            return {}
        age = max(0.0, (datetime.now(UTC) - outcome.event.occurred_at).total_seconds())
        self._cached(self.metrics.age, outcome.event.type).observe(age)
        answer = str(outcome.error or "") if outcome.receipt is None else outcome.receipt.detail
        return {"answer": answer, **self._record(outcome), "age_seconds": round(age, 3)}

    def _record(self, outcome: Outcome) -> dict[str, Any]:
        """Count what became of a CRM's record, and return its fields."""
        record = None if outcome.receipt is None else outcome.receipt.record
        if record is None:
            return {}
        linked = "yes" if record.linked is not None else "no"
        self._cached(self.metrics.crm_records, record.outcome, linked).inc()
        fields = {"crm_record": record.id, "crm_contact": record.linked}
        said = {name: value for name, value in fields.items() if value is not None}
        return {"crm_outcome": record.outcome, **said}


def _identity(inbound: Inbound, outcome: Outcome) -> dict[str, Any]:
    event = outcome.event
    if event is None:
        return {"event_id": outcome.event_id or inbound.message_id, "event_type": None}
    return {"event_id": event.id, "event_type": str(event.type), _SUBJECT[event.type]: event.subject}


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)
