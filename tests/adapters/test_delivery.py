"""Settling one delivery: at most once, and unsettled as long as its frame is not in line."""

import asyncio

import pytest
from aiormq import spec
from aiormq.abc import DeliveredMessage
from pamqp.header import ContentHeader

from worker.core.errors import PublishError
from worker.core.events import EventType
from worker.core.pipeline import Outcome
from worker.core.ports import Ack
from worker.rabbitmq.message import Delivery, Settler
from worker.rabbitmq.publisher import BrokerPublisher
from worker.rabbitmq.topology import build_topology
from worker.settings import BrokerCommandSettings


class Channel:
    """A channel whose frames wait in a short line, as aiormq's do."""

    def __init__(self, capacity: int) -> None:
        self.write_queue: asyncio.Queue[str] = asyncio.Queue(capacity)

    async def basic_ack(self, _tag: int, *, wait: bool) -> None:
        assert not wait
        await self.write_queue.put("ack")

    async def basic_nack(self, _tag: int, *, requeue: bool, wait: bool) -> None:
        assert requeue
        assert not wait
        await self.write_queue.put("nack")

    async def basic_reject(self, _tag: int, *, requeue: bool, wait: bool) -> None:
        assert not requeue
        assert not wait
        await self.write_queue.put("reject")

    def sent(self) -> list[str]:
        return [self.write_queue.get_nowait() for _ in range(self.write_queue.qsize())]


def delivery_on(channel: Channel) -> Delivery:
    frame = spec.Basic.Deliver("ctag", 1, exchange="x", routing_key="call.ended")
    return Delivery(DeliveredMessage(frame, ContentHeader(), b"{}", channel))  # type: ignore[arg-type]


@pytest.fixture
def full() -> Channel:
    channel = Channel(1)
    channel.write_queue.put_nowait("another's")
    return channel


async def suspended(task: asyncio.Task[object]) -> None:
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done()


async def test_an_acknowledgement_that_was_cancelled_in_line_was_none(full: Channel) -> None:
    delivery = delivery_on(full)
    task = asyncio.create_task(delivery.acknowledge())
    await suspended(task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not delivery.settled
    assert full.sent() == ["another's"]
    await delivery.requeue()
    assert (full.sent(), delivery.settled) == (["nack"], True)


async def test_giving_back_that_was_cancelled_in_line_can_be_done_again(full: Channel) -> None:
    delivery = delivery_on(full)
    task = asyncio.create_task(delivery.requeue())
    await suspended(task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not delivery.settled
    full.sent()
    await delivery.requeue()
    assert full.sent() == ["nack"]


async def test_nobody_settles_what_somebody_else_is_settling(full: Channel) -> None:
    delivery = delivery_on(full)
    task = asyncio.create_task(delivery.acknowledge())
    await suspended(task)
    await delivery.requeue()
    await delivery.dead_letter()
    with pytest.raises(PublishError, match="meanwhile"):
        await delivery.acknowledge()
    assert full.sent() == ["another's"]
    await task
    assert full.sent() == ["ack"]


async def test_a_cancellation_waits_until_what_was_delivered_is_acknowledged(full: Channel) -> None:
    """Else the event would be delivered twice."""
    delivery = delivery_on(full)
    settler = Settler(BrokerPublisher(), build_topology(BrokerCommandSettings()))
    inbound = delivery.inbound("work")
    outcome = Outcome(Ack())
    task = asyncio.create_task(settler.settle(delivery, inbound, outcome, EventType.CALL_ENDED))
    await suspended(task)
    task.cancel()
    await suspended(task)
    full.sent()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (full.sent(), delivery.settled) == (["ack"], True)
