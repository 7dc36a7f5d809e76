"""What the core asks of the world. Adapters fulfil these; `worker.app` plugs them in."""

from dataclasses import dataclass
from typing import Protocol

from worker.core.events import Event
from worker.core.payload import Payload
from worker.core.records import Enrichment


class Enricher(Protocol):
    """Asks the dialer."""

    async def enrich(self, event: Event, *, accept_incomplete: bool) -> Enrichment:
        """Tell what the dialer knows of the event's call or agent.

        An answer that may still get better raises `NotReady`. With `accept_incomplete`
        it is returned as it is, and only one that lacks the record raises.

        Never retries by itself. Raises `EnrichmentRejected`,
        `EnrichmentUnavailable` or `NotReady`, and nothing else that is foreseen.
        """
        ...


@dataclass(frozen=True, slots=True)
class Receipt:
    """The sink's word that it has the payload, in a few words for the log."""

    detail: str


class Sink(Protocol):
    """Where payloads go."""

    async def deliver(self, payload: Payload) -> Receipt:
        """Hand the payload over; returning means that the sink has it.

        Never retries by itself. Raises `DeliveryRejected` or
        `DeliveryUnavailable`, and nothing else that is foreseen. Where the
        outcome is unknown (a lost connection) it raises
        `DeliveryUnavailable`: the same id is then delivered twice.
        """
        ...


@dataclass(frozen=True, slots=True)
class DialerRequest:
    """What is told of one request to the dialer: never the password, nor any text of the answer.

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


class Publisher(Protocol):
    """Publishes through the broker."""

    async def publish(self, exchange: str, routing_key: str, message: Outgoing) -> None:
        """Publish; returning means that the message was routed and confirmed.

        Raises `PublishError` otherwise.
        """
        ...
