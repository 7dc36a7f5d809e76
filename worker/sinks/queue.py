"""Delivering to the outbound exchange."""

from collections.abc import Callable

from worker.core.errors import (
    DeliveryUnavailable,
    FailureKind,
    MessageRefused,
    PublishError,
    PublishForbidden,
)
from worker.core.payload import Payload
from worker.core.ports import Outgoing, Publisher, Receipt


class QueueSink:
    """Fulfils `worker.core.ports.Sink`. The routing key is the payload's type."""

    def __init__(
        self, exchange: str, publisher: Publisher, observe: Callable[[str], None] = lambda _: None
    ) -> None:
        """Publish to an exchange; `observe` is called with the outcome of each publish."""
        self._exchange = exchange
        self._publisher = publisher
        self._observe = observe

    async def deliver(self, payload: Payload) -> Receipt:
        """Publish the payload, routed and confirmed; see the port for what it raises."""
        message = Outgoing(payload.body, payload.id, payload.type, "application/json")
        try:
            await self._publisher.publish(self._exchange, payload.type, message)
        except PublishError as error:
            self._observe("not_confirmed")
            raise DeliveryUnavailable(
                f"the outbound exchange did not take the payload: {error}",
                FailureKind.REFUSED if isinstance(error, PublishForbidden) else FailureKind.OUTAGE,
                answered=isinstance(error, MessageRefused),
            ) from error
        self._observe("confirmed")
        return Receipt("confirmed")
