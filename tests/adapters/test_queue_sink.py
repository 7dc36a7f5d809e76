"""Delivering to the outbound exchange."""

import pytest

from worker.core.errors import DeliveryUnavailable, FailureKind, PublishError
from worker.core.payload import Payload
from worker.core.ports import Outgoing, Receipt
from worker.sinks.queue import QueueSink

PAYLOAD = Payload("evt-1", "call.enriched", b'{"type":"call.enriched"}')


class FakePublisher:
    """Accepts what is published, or refuses it."""

    def __init__(self, refusal: Exception | None = None) -> None:
        self.refusal = refusal
        self.published: list[tuple[str, str, Outgoing]] = []

    async def publish(self, exchange: str, routing_key: str, message: Outgoing) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.published.append((exchange, routing_key, message))


async def test_a_payload_is_published_under_its_type_with_its_id() -> None:
    publisher, observed = FakePublisher(), list[str]()
    sink = QueueSink("crm.enriched", publisher, observed.append)
    assert await sink.deliver(PAYLOAD) == Receipt("confirmed")
    assert observed == ["confirmed"]
    message = Outgoing(PAYLOAD.body, "evt-1", "call.enriched", "application/json")
    assert publisher.published == [("crm.enriched", "call.enriched", message)]


async def test_a_publish_that_is_refused_is_an_outage_of_the_sink() -> None:
    observed: list[str] = []
    sink = QueueSink("crm.enriched", FakePublisher(PublishError("not routed")), observed.append)
    with pytest.raises(DeliveryUnavailable, match="not routed") as caught:
        await sink.deliver(PAYLOAD)
    assert (caught.value.kind, caught.value.retry_after) == (FailureKind.OUTAGE, None)
    assert observed == ["not_confirmed"]


async def test_nothing_else_is_taken_for_an_outage() -> None:
    with pytest.raises(ZeroDivisionError):
        await QueueSink("crm.enriched", FakePublisher(ZeroDivisionError())).deliver(PAYLOAD)
