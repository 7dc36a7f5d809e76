"""The errors of the core, grouped by who handles each.

The retry policy (`worker.core.retry`) decides what becomes of an event whose
step failed::

    ProcessingError
    ├── InvalidEvent            the producer's message can't be understood
    ├── EnrichmentRejected      the dialer will never answer for this id
    ├── DeliveryRejected        the sink will never accept this payload
    ├── MappingFailed           no request for the sink can be made of this payload
    ├── DeliveryIncomplete      the sink has the payload, but a part of the delivery is missing
    ├── NotReady                the dialer has no final answer yet
    ├── CircuitOpen             a dependency is in trouble, and the event is not tried now
    └── Unavailable             a dependency could not, or would not, do its part
        ├── EnrichmentUnavailable   the dialer did not answer
        │   ├── FunctionRefused     it refuses one function, and may allow others
        │   └── LoginRefused        it refuses the user or the password: never send them again at once
        └── DeliveryUnavailable     the sink did not accept the payload
            └── SinkLoginRefused        it refuses our login, whatever the payload

The enricher goes on without the answer of an optional function::

    LeftOut

Whoever asked for a publish handles its failure: the queue sink turns it into
`DeliveryUnavailable`, settling leaves the inbound unacknowledged, or buries a
message that can't be copied::

    PublishError
    ├── PublishForbidden        the broker refuses us the exchange
    └── MessageRefused          the broker, or AMQP itself, refuses this one message

The adapter that understands a failure classifies it, by the class and the `FailureKind`. Nothing else parses
the text.
"""

from datetime import timedelta
from enum import StrEnum


class Reason(StrEnum):
    """Why a message is in the dead letters; the value of `crm-sync-reason`."""

    INVALID_EVENT = "invalid_event"
    NOT_FOUND = "not_found"
    REJECTED_BY_DIALER = "rejected_by_dialer"
    UNREADABLE_ANSWER = "unreadable_answer"
    REJECTED_BY_SINK = "rejected_by_sink"
    MAPPING_FAILED = "mapping_failed"
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    DELIVERY_LIMIT = "delivery_limit"
    """Not written by our code: the broker's delivery limit moved the message."""
    EXPIRED = "expired"
    """Not written by our code: the broker moved the message when its producer's expiration was over."""


BY_THE_BROKER = frozenset({Reason.DELIVERY_LIMIT, Reason.EXPIRED})
"""The reasons for which the broker moves a message by itself, so that no worker can count it."""


class FailureKind(StrEnum):
    """What kind of failure of a dependency it is."""

    OUTAGE = "outage"
    """Unreachable, slow or broken."""
    REFUSED = "refused"
    """It answers, but refuses our credentials, permissions or settings."""
    BUSY = "busy"
    """It asked us to come back later."""
    UNREADABLE = "unreadable"
    """It answered this one request with something that fits no known shape."""


class NotReadyReason(StrEnum):
    """What an answer that is not ready yet lacks."""

    RECORD = "not_found"
    FINAL_STATUS = "not_final"
    CAMPAIGNS = "not_assigned"
    """The agent is not assigned to all campaigns that the event expects."""


class ProcessingError(Exception):
    """One step for one event failed. The text is safe to show: adapters scrub it."""

    label: str
    """The kind of failure, for log lines and metrics."""
    progress: str | None = None
    """What the sink wants to get back with the next attempt of the event: only the sink reads it."""


class InvalidEvent(ProcessingError):
    """The message can't be understood; no retry would help.

    `event_id` is the id by which a person can find it, if the message has one.
    """

    label = "invalid_event"
    event_id: str | None = None


class EnrichmentRejected(ProcessingError):
    """The dialer refuses the id itself, for good."""

    label = "rejected_by_dialer"


class DeliveryRejected(ProcessingError):
    """The sink refuses this payload for good."""

    label = "rejected_by_sink"


class MappingFailed(ProcessingError):
    """A part of the payload that the sink needs is missing, or has no counterpart in its tables."""

    label = "mapping_failed"


class DeliveryIncomplete(ProcessingError):
    """The sink has the payload, but a part of the delivery that can be done without is missing."""

    label = "delivery_incomplete"


class NotReady(ProcessingError):
    """The dialer does not know the call or agent yet, or what it knows is not final."""

    def __init__(self, message: str, reason: NotReadyReason = NotReadyReason.RECORD) -> None:
        super().__init__(message)
        self.reason = reason
        self.label = str(reason)


class CircuitOpen(ProcessingError):
    """A dependency is in trouble, or too slow: the event, received before that was known, is put off."""

    label = "circuit_open"


class Unavailable(ProcessingError):
    """A dependency could not, or would not, do its part now; a later try may succeed.

    Attributes:
        kind: What kind of failure it is.
        to_blame: Whether it counts as an attempt of the event. Whoever sent the request sets it to what
            the circuit breaker decided.
    """

    def __init__(self, message: str, kind: FailureKind, dependency: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.to_blame = kind is FailureKind.UNREADABLE
        self.label = f"{dependency}_{kind}"


class EnrichmentUnavailable(Unavailable):
    """The dialer gave no usable answer."""

    def __init__(self, message: str, kind: FailureKind = FailureKind.OUTAGE) -> None:
        super().__init__(message, kind, "dialer")


class FunctionRefused(EnrichmentUnavailable):
    """The dialer refuses this one function; the login is good, and other functions may be allowed."""

    def __init__(self, message: str) -> None:
        super().__init__(message, FailureKind.REFUSED)


class LoginRefused(EnrichmentUnavailable):
    """The dialer refuses the user or the password. Ten of these lock the user."""

    def __init__(self, message: str) -> None:
        super().__init__(message, FailureKind.REFUSED)


class DeliveryUnavailable(Unavailable):
    """The sink did not accept the payload.

    Attributes:
        retry_after: How long the sink asked us to wait, if it did.
        answered: Whether it was there, and answered this payload.
        delivered: Whether it has the payload, so that only the rest of the delivery is missing.
        shared: Whether another event met the same failed request, and reports it.
    """

    delivered = False
    shared = False

    def __init__(
        self,
        message: str,
        kind: FailureKind = FailureKind.OUTAGE,
        retry_after: timedelta | None = None,
        *,
        answered: bool = False,
    ) -> None:
        super().__init__(message, kind, "sink")
        self.answered = answered
        self.retry_after = retry_after


class SinkLoginRefused(DeliveryUnavailable):
    """The sink refuses our login, so that no event can be the reason."""

    def __init__(self, message: str) -> None:
        super().__init__(message, FailureKind.REFUSED, answered=True)


class LeftOut(Exception):
    """An optional function was not asked, since it is refused or fails."""


class PublishError(Exception):
    """The broker did not take a message: not routed, not confirmed, or no connection."""


class PublishForbidden(PublishError):
    """The broker refuses our user the permission to publish to this exchange."""


class MessageRefused(PublishError):
    """This one message can't be published, however often it is tried: it is too large, for example."""
