"""Settling: make the successor, then acknowledge the inbound. Never the other way round."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import structlog
from aio_pika import Message

from worker.core.disposition import Ack, DeadLetter, Duplicate, Retry
from worker.core.events import EventType, Inbound
from worker.core.pipeline import Outcome
from worker.rabbitmq import headers
from worker.rabbitmq.delivery import Delivery
from worker.rabbitmq.publisher import BrokerPublisher, RefusedByQueueError
from worker.rabbitmq.topology import Topology

SETTLE_TIMEOUT = 15.0
"""Seconds that settling may take at most, also while the worker is being stopped; longer than a publish."""
WAITS_FOR_ROOM = (1.0, 2.0, 4.0, 8.0, 15.0, *[30.0] * 19)
"""Seconds between the tries to put a copy into a queue that is full: ten minutes in all.

Well below the 30 minutes after which RabbitMQ gives up on a consumer. Each time
the inbound is given back counts towards the delivery limit instead.
"""

_log = structlog.get_logger()


class Settler:
    """Acts on dispositions, each inbound at most once."""

    def __init__(self, publisher: BrokerPublisher, topology: Topology) -> None:
        """Take who publishes the copies, and where to."""
        self._publisher = publisher
        self._topology = topology
        self._held = 0

    async def settle(self, delivery: Delivery, inbound: Inbound, outcome: Outcome, queue: EventType) -> None:
        """Make the successor and acknowledge; a cancellation waits until that is done.

        `queue` tells which work queue the inbound came from: a copy finds its
        way back there, whatever routing key the producer used.

        Where the queue of the copy is full, it holds the inbound and tries again,
        so that intake comes to a halt.

        Raises `PublishError` where there is no successor: the inbound is then
        not acknowledged, and comes back. So it does where the acknowledgement
        itself gets lost; its successor is then made twice, with the same id.
        """
        disposition = outcome.disposition
        if isinstance(disposition, Ack | Duplicate):
            await delivery.acknowledge()  # the sink's word was the successor
            return
        if isinstance(disposition, Retry):
            exchange, more = self._topology.tiers[disposition.tier], _retry_headers(disposition)
        else:
            exchange, more = self._topology.dead_letters, _dead_headers(inbound, outcome, disposition)
        copy = delivery.copy(_common_headers(inbound, outcome) | more)
        for wait in WAITS_FOR_ROOM:
            try:
                await self._shielded(delivery, exchange, queue, copy)
            except RefusedByQueueError as error:
                await self._hold(wait, error)
            else:
                return
        await self._shielded(delivery, exchange, queue, copy)

    async def _hold(self, seconds: float, error: RefusedByQueueError) -> None:
        """Wait for room; of all that wait at one time, the first one says so."""
        if not self._held:
            _log.warning("settling_held_up", error=str(error), next_try_seconds=seconds)
        self._held += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self._held -= 1

    async def _shielded(self, delivery: Delivery, exchange: str, queue: EventType, copy: Message) -> None:
        step = asyncio.ensure_future(self._succeed(delivery, exchange, queue, copy))
        try:
            await asyncio.shield(step)
        except asyncio.CancelledError:
            step.add_done_callback(lambda done: done.cancelled() or done.exception())  # seen: it comes back
            await asyncio.wait([step], timeout=SETTLE_TIMEOUT)
            step.cancel()
            raise

    async def _succeed(self, delivery: Delivery, exchange: str, queue: EventType, copy: Message) -> None:
        await self._publisher.publish_message(exchange, queue, copy)
        await delivery.acknowledge()


def _retry_headers(retry: Retry) -> dict[str, Any]:
    return {headers.ATTEMPT: retry.attempt, headers.ERROR: retry.error[: headers.MAX_ERROR]}


def _dead_headers(inbound: Inbound, outcome: Outcome, dead: DeadLetter) -> dict[str, Any]:
    return {
        headers.ATTEMPT: inbound.attempt,
        headers.ERROR: dead.error[: headers.MAX_ERROR],
        headers.REASON: dead.reason.value,
        headers.STAGE: outcome.stage.value,
        headers.FAILED_AT: datetime.now(UTC).isoformat(),
    }


def _common_headers(inbound: Inbound, outcome: Outcome) -> dict[str, Any]:
    kept = headers.foreign(inbound.headers)
    kept[headers.FIRST_SEEN] = inbound.first_seen.isoformat()
    kept[headers.ROUTING_KEY] = inbound.routing_key
    if outcome.event_id is not None:
        kept[headers.EVENT_ID] = outcome.event_id
    if outcome.enrichment is not None:
        carried = outcome.enrichment.model_dump_json()
        if len(carried.encode()) <= headers.MAX_ENRICHMENT:
            kept[headers.ENRICHMENT] = carried
    return kept
