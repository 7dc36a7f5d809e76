"""Settling: publish the successor, then acknowledge the inbound. Never the other way round."""

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import structlog

from worker.core.errors import MessageRefused, Reason
from worker.core.events import EventType, Inbound
from worker.core.pipeline import Outcome
from worker.core.ports import Ack, DeadLetter, Duplicate, Retry
from worker.rabbitmq.codec import Copy, Properties
from worker.rabbitmq.message import MAX_ENRICHMENT, MAX_ERROR, Delivery, DroppedBody, Header
from worker.rabbitmq.publisher import BrokerPublisher, RefusedByQueueError
from worker.rabbitmq.topology import Topology

SETTLE_TIMEOUT = 15.0
"""Seconds that settling may take at most, even while the worker is being stopped; longer than a publish."""
WAITS_WHEN_FULL = (1.0, 2.0, 4.0, 8.0, 15.0, *[30.0] * 42)
"""Seconds between the tries to put a copy into a queue that is full: 21.5 minutes in all.

With what came before, below the 30 minutes after which RabbitMQ gives up on a consumer. Before 4.3 each
requeue of the inbound counts towards its delivery limit, so it is held for as long as possible.
"""

_log = structlog.get_logger()


class Settler:
    """Acts on dispositions, each inbound at most once."""

    def __init__(self, publisher: BrokerPublisher, topology: Topology) -> None:
        """Take what publishes the copies, and where to."""
        self._publisher = publisher
        self._topology = topology
        self._waiting = 0

    async def settle(
        self, delivery: Delivery, inbound: Inbound, outcome: Outcome, queue: EventType
    ) -> Outcome:
        """Publish the successor and acknowledge; a cancellation waits until that is done.

        If the queue of the copy is full, hold the inbound and try again, so that consuming comes to a halt.
        If the message can't be copied, it goes to the dead letters, and the outcome that is returned says so.

        `queue` is the work queue that the inbound came from, to which a copy finds its way back, whatever the
        producer's routing key.

        Raises `PublishError` if there is no successor: the inbound is not acknowledged, and comes back. So it
        does if the acknowledgement itself gets lost; its successor is then published twice, with the same id.
        """
        if isinstance(outcome.disposition, Ack | Duplicate):
            await self._shielded(delivery.acknowledge())  # the sink has it: that was the successor
        elif isinstance(delivery.body, DroppedBody):
            await self._shielded(delivery.dead_letter())
        else:
            try:
                copy = delivery.copy(_our_headers(inbound, outcome))
                await self._succeed_unless_full(delivery, self._exchange_for(outcome), queue, copy)
            except MessageRefused as error:
                return await self._dead_letter_bare(delivery, inbound, outcome, queue, error)
        return outcome

    async def _dead_letter_bare(
        self, delivery: Delivery, inbound: Inbound, outcome: Outcome, queue: EventType, error: MessageRefused
    ) -> Outcome:
        """Publish a dead letter with our headers alone, or else have the broker move the message as it is."""
        if isinstance(outcome.disposition, Retry):
            reason = f"it can't be copied for a retry: {error}"
            outcome = replace(outcome, disposition=DeadLetter(Reason.INVALID_EVENT, reason))
        bare = Copy(delivery.body, Properties(), _our_headers(inbound, outcome))
        try:
            await self._succeed_unless_full(delivery, self._topology.dead_letters, queue, bare)
        except MessageRefused:
            await self._shielded(delivery.dead_letter())
        return outcome

    def _exchange_for(self, outcome: Outcome) -> str:
        tier = outcome.disposition.tier if isinstance(outcome.disposition, Retry) else None
        return self._topology.dead_letters if tier is None else self._topology.tiers[tier]

    async def _succeed_unless_full(
        self, delivery: Delivery, exchange: str, queue: EventType, copy: Copy
    ) -> None:
        for wait in WAITS_WHEN_FULL:
            try:
                await self._shielded(self._succeed(delivery, exchange, queue, copy))
            except RefusedByQueueError as error:
                await self._wait_for_space(wait, error)
            else:
                return
        await self._shielded(self._succeed(delivery, exchange, queue, copy))

    async def _wait_for_space(self, seconds: float, error: RefusedByQueueError) -> None:
        """Wait; of all that wait at one time, only the first one is logged."""
        if not self._waiting:
            _log.warning("settling_held_up", error=str(error), next_try_seconds=seconds)
        self._waiting += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self._waiting -= 1

    async def _shielded(self, step: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(step)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # seen: it comes back
            await asyncio.wait([task], timeout=SETTLE_TIMEOUT)
            task.cancel()
            raise

    async def _succeed(self, delivery: Delivery, exchange: str, queue: EventType, copy: Copy) -> None:
        await self._publisher.publish_message(exchange, queue, copy)
        await delivery.acknowledge()


def _our_headers(inbound: Inbound, outcome: Outcome) -> dict[str, Any]:
    """Return our headers for a retry copy or a dead letter."""
    ours: dict[str, Any] = {
        Header.FIRST_SEEN: inbound.first_seen.isoformat(),
        Header.ROUTING_KEY: inbound.routing_key,
    }
    if outcome.event_id is not None:
        ours[Header.EVENT_ID] = outcome.event_id
    if outcome.enrichment is not None:
        carried = outcome.enrichment.model_dump_json()
        if len(carried.encode()) <= MAX_ENRICHMENT:
            ours[Header.ENRICHMENT] = carried
    match outcome.disposition:
        case Retry() as retry:
            return ours | {Header.ATTEMPT: retry.attempt, Header.ERROR: retry.error[:MAX_ERROR]}
        case DeadLetter() as dead:
            return ours | {
                Header.ATTEMPT: inbound.attempt,
                Header.ERROR: dead.error[:MAX_ERROR],
                Header.REASON: dead.reason.value,
                Header.STAGE: outcome.stage.value,
                Header.FAILED_AT: datetime.now(UTC).isoformat(),
            }
        case _:
            return {}
