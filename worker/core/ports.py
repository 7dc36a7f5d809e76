"""What the core and the adapters exchange: what the core asks of them, and what it decides.

Adapters implement the protocols; `worker.app` plugs them in. A disposition is the decision about one
inbound, as a value; acting on it is settling (`worker.rabbitmq.message`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from worker.core.errors import Reason
from worker.core.events import Event
from worker.core.payload import Enrichment, Payload


class Enricher(Protocol):
    """Asks the dialer."""

    async def enrich(self, event: Event, *, accept_incomplete: bool) -> Enrichment:
        """Return what the dialer knows of the event's call or agent.

        An answer that may still get better raises `NotReady`. With `accept_incomplete`
        it is returned as it is, and only one that lacks the record raises.

        Never retries by itself. Raises `EnrichmentRejected`,
        `EnrichmentUnavailable` or `NotReady`, and nothing else that is foreseen.
        """
        ...


@dataclass(frozen=True, slots=True)
class CrmRecord:
    """What a CRM said of the record that stands for a call."""

    outcome: str
    """`created`, `updated`, `duplicate` (it was there already) or `skipped` (by the preset's rule)."""
    id: str | None = None
    linked: str | None = None
    """The id of the contact that it is linked to."""


@dataclass(slots=True)
class Receipt:
    """The sink's confirmation that it has the payload, in a few words for the log."""

    detail: str
    record: CrmRecord | None = None
    """Set for a call that was delivered by a CRM's own API."""
    asked: bool = True
    """Whether the sink was asked at all: if not, nobody knows whether it works."""


class Sink(Protocol):
    """Accepts payloads."""

    async def deliver(self, payload: Payload) -> Receipt:
        """Deliver the payload; returning means that the sink has it.

        Never retries by itself. Raises `DeliveryRejected`, `DeliveryUnavailable`, `DeliveryIncomplete` or
        `MappingFailed`, and nothing else that is foreseen. If the outcome is unknown (a lost connection) it
        raises `DeliveryUnavailable`: the same id may then be delivered twice.

        An error's `progress` comes back in the payload of the next attempt. `DeliveryIncomplete` means that
        the sink has the payload, and `MappingFailed` that it can't be sent as it is.
        """
        ...


@dataclass(slots=True)
class DialerRequest:
    """What is reported of one request to the dialer: never the password, nor any text of the answer.

    `about` holds the parameters that say what was asked about, `outcome` is
    `ok` or the label of a `ProcessingError`.
    """

    function: str
    about: tuple[tuple[str, str], ...]
    outcome: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Depth:
    """How many messages wait in a queue. The role is `work`, `retry` or `dead_letters`."""

    queue: str
    role: str
    messages: int


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One persistent message for the broker."""

    body: bytes
    message_id: str | None
    type: str | None
    content_type: str | None
    headers: Mapping[str, str] | None = None
    timestamp: datetime | None = None


class Publisher(Protocol):
    """Publishes through the broker."""

    async def publish(self, exchange: str, routing_key: str, message: Outgoing) -> None:
        """Publish; returning means that the message was routed and confirmed.

        Raises `PublishError` otherwise.
        """
        ...


class Stage(StrEnum):
    """How far an event got."""

    DECODE = "decode"
    ENRICH = "enrich"
    DELIVER = "deliver"


@dataclass(frozen=True, slots=True)
class Ack:
    """The payload was delivered: acknowledge the inbound."""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The same event was delivered a moment ago, which is this one's successor too: acknowledge it."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Publish a copy to the tier with this delay, to be processed as this attempt.

    `attempt` is the inbound's own number if the failure does not count as an attempt.
    """

    tier: timedelta
    attempt: int
    label: str
    error: str


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Publish a copy to the dead letters, for a person to look at."""

    reason: Reason
    error: str


Disposition = Ack | Duplicate | Retry | DeadLetter
