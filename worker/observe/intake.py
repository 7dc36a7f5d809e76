"""Reports on the intake: log lines and metrics for each request and each event."""

from itertools import product
from pathlib import Path

import structlog

from worker.core.events import EventType
from worker.observe.metrics import IntakeMetrics


class IntakeReporter:
    """Reports to the log and the metrics. Implements the observers of `worker.intake`."""

    def __init__(self, metrics: IntakeMetrics) -> None:
        self.metrics = metrics
        self._log = structlog.get_logger().bind()
        for kind, stored in product(EventType, ("broker", "spool")):
            metrics.events.labels(kind, stored)
        for reason in ("unreadable", "refused"):
            metrics.set_aside.labels(reason)

    def answered(self, endpoint: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self.metrics.requests.labels(endpoint, status).inc()
        self.metrics.seconds.labels(endpoint).observe(seconds)

    def accepted(self, event_id: str, event_type: str, subject: str, stored: str, source: str) -> None:
        """Report an event that is safe."""
        self.metrics.events.labels(event_type, stored).inc()
        is_call = event_type == EventType.CALL_ENDED
        self._log.info(
            "event_accepted",
            event_id=event_id,
            event_type=event_type,
            call_id=subject if is_call else None,
            agent_user=None if is_call else subject,
            stored=stored,
            source=source,
        )

    def refused(self, path: str, status: int, error: str, source: str) -> None:
        """Report a request with a right token that was not accepted."""
        self._log.warning("request_refused", path=path, status=status, error=error, source=source)

    def turned_away(self, path: str, status: int, error: str, source: str) -> None:
        """Report a request that anybody can send, as often as they like."""
        self._log.warning("request_turned_away", path=path, status=status, error=error, source=source)

    def spooling(self, error: str) -> None:
        """Report that events go into the spool from now on."""
        self._log.warning("spooling", error=error)

    def spool_held_up(self, error: str) -> None:
        """Report that the broker did not take an event of the spool, and why."""
        self._log.warning("spool_held_up", error=error)

    def spool_moving(self) -> None:
        """Report that the broker takes events of the spool again, and that more are in it."""
        self._log.info("spool_moving")

    def spool_emptied(self) -> None:
        """Report that the broker has all events of the spool."""
        self._log.info("spool_emptied")

    def spool_unreadable(self, error: str) -> None:
        """Report that the spool can't be read now, and why."""
        self._log.error("spool_unreadable", error=error)

    def set_aside(self, reason: str, event_id: str | None) -> None:
        """Report a line of the spool that can't be published."""
        self.metrics.set_aside.labels(reason).inc()
        self._log.error("event_set_aside", reason=reason, event_id=event_id)

    def token_changed(self, file: Path, problem: str | None) -> None:
        """Report that a token was read again, or why it could not be."""
        if problem is None:
            self._log.info("token_changed", file=str(file))
        else:
            self._log.warning("token_unusable", file=str(file), error=problem)
