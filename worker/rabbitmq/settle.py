"""Settling: make the successor, then acknowledge the inbound. Never the other way round."""

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import structlog

from worker.core.disposition import Ack, DeadLetter, Duplicate, Retry
from worker.core.errors import MessageRefused, Reason
from worker.core.events import EventType, Inbound
from worker.core.pipeline import Outcome
from worker.rabbitmq.codec import Copy, Properties
from worker.rabbitmq.message import (
    MAX_ENRICHMENT,
    MAX_ERROR,
    Delivery,
    DroppedBody,
    Header,
)
from worker.rabbitmq.publisher import BrokerPublisher, RefusedByQueueError
from worker.rabbitmq.topology import Topology

SETTLE_TIMEOUT = 15.0
"""Seconds that settling may take at most, also while the worker is being stopped; longer than a publish."""
WAITS_FOR_ROOM = (1.0, 2.0, 4.0, 8.0, 15.0, *[30.0] * 42)
"""Seconds between the tries to put a copy into a queue that is full: 21.5 minutes in all.

With what came before, below the 30 minutes after which RabbitMQ gives up on a consumer. Before 4.3 each time
that the inbound is given back counts towards its delivery limit, so it is held for as long as possible.
"""

_log = structlog.get_logger()


class Settler:
    """Acts on dispositions, each inbound at most once."""

    def __init__(self, publisher: BrokerPublisher, topology: Topology) -> None:
        """Take who publishes the copies, and where to."""
        self._publisher = publisher
        self._topology = topology
        self._held = 0

    async def settle(
        self, delivery: Delivery, inbound: Inbound, outcome: Outcome, queue: EventType
    ) -> Outcome:
        """Make the successor and acknowledge; a cancellation waits until that is done.

        `queue` tells which work queue the inbound came from: a copy finds its
        way back there, whatever routing key the producer used.

        Where the queue of the copy is full, it holds the inbound and tries again,
        so that intake comes to a halt. Where the message can't be copied, it goes to the
        dead letters, and the outcome that is returned says so.

        Raises `PublishError` where there is no successor: the inbound is then
        not acknowledged, and comes back. So it does where the acknowledgement
        itself gets lost; its successor is then made twice, with the same id.
        """
        if isinstance(outcome.disposition, Ack | Duplicate):
            await self._shielded(delivery.acknowledge())  # the sink's word was the successor
        elif isinstance(delivery.body, DroppedBody):
            await self._shielded(delivery.dead_letter())
        else:
            try:
                await self._copy(delivery, inbound, outcome, queue)
            except MessageRefused as error:
                return await self._bury_without_its_properties(delivery, inbound, outcome, queue, error)
        return outcome

    async def _copy(self, delivery: Delivery, inbound: Inbound, outcome: Outcome, queue: EventType) -> None:
        exchange, ours = self._exchange_for(outcome), _our_headers(inbound, outcome)
        await self._succeed_once_there_is_room(delivery, exchange, queue, delivery.copy(ours))

    async def _bury_without_its_properties(
        self, delivery: Delivery, inbound: Inbound, outcome: Outcome, queue: EventType, error: MessageRefused
    ) -> Outcome:
        """Bury the body with our headers alone, or else have the broker move the message as it is."""
        if isinstance(outcome.disposition, Retry):
            reason = f"it can't be copied for a retry: {error}"
            outcome = replace(outcome, disposition=DeadLetter(Reason.INVALID_EVENT, reason))
        bare = Copy(delivery.body, Properties(), _our_headers(inbound, outcome))
        try:
            await self._succeed_once_there_is_room(delivery, self._topology.dead_letters, queue, bare)
        except MessageRefused:
            await self._shielded(delivery.dead_letter())
        return outcome

    def _exchange_for(self, outcome: Outcome) -> str:
        tier = outcome.disposition.tier if isinstance(outcome.disposition, Retry) else None
        return self._topology.dead_letters if tier is None else self._topology.tiers[tier]

    async def _succeed_once_there_is_room(
        self, delivery: Delivery, exchange: str, queue: EventType, copy: Copy
    ) -> None:
        for wait in WAITS_FOR_ROOM:
            try:
                await self._shielded(self._succeed(delivery, exchange, queue, copy))
            except RefusedByQueueError as error:
                await self._hold(wait, error)
            else:
                return
        await self._shielded(self._succeed(delivery, exchange, queue, copy))

    async def _hold(self, seconds: float, error: RefusedByQueueError) -> None:
        """Wait for room; of all that wait at one time, the first one says so."""
        if not self._held:
            _log.warning("settling_held_up", error=str(error), next_try_seconds=seconds)
        self._held += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self._held -= 1

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
    match outcome.disposition:
        case Retry() as retry:
            return _common_headers(inbound, outcome) | _retry_headers(retry)
        case DeadLetter() as dead:
            return _common_headers(inbound, outcome) | _dead_headers(inbound, outcome, dead)
        case _:
            return {}


def _retry_headers(retry: Retry) -> dict[str, Any]:
    return {Header.ATTEMPT: retry.attempt, Header.ERROR: retry.error[:MAX_ERROR]}


def _dead_headers(inbound: Inbound, outcome: Outcome, dead: DeadLetter) -> dict[str, Any]:
    return {
        Header.ATTEMPT: inbound.attempt,
        Header.ERROR: dead.error[:MAX_ERROR],
        Header.REASON: dead.reason.value,
        Header.STAGE: outcome.stage.value,
        Header.FAILED_AT: datetime.now(UTC).isoformat(),
    }


def _common_headers(inbound: Inbound, outcome: Outcome) -> dict[str, Any]:
    kept: dict[str, Any] = {
        Header.FIRST_SEEN: inbound.first_seen.isoformat(),
        Header.ROUTING_KEY: inbound.routing_key,
    }
    if outcome.event_id is not None:
        kept[Header.EVENT_ID] = outcome.event_id
    if outcome.enrichment is not None:
        carried = outcome.enrichment.model_dump_json()
        if len(carried.encode()) <= MAX_ENRICHMENT:
            kept[Header.ENRICHMENT] = carried
    return kept
