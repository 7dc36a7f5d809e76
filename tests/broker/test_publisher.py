"""Publishing: returning means routed and confirmed, and nothing else does."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from simulators.broker_node import PrivateBroker
from tests.broker.bench import Bench, ack, eventually, open_bench, retry
from worker.core.errors import PublishError
from worker.core.events import Inbound
from worker.core.ports import Disposition, Outgoing
from worker.rabbitmq.publisher import BrokerPublisher, RefusedByQueueError

pytestmark = pytest.mark.broker

OUTGOING = Outgoing(b"{}", "id-1", "call.enriched", "application/json")


@pytest.fixture
async def bench(broker_url: str, namespace: str) -> AsyncIterator[Bench]:
    async with open_bench(broker_url, namespace) as opened:
        _ = await opened.publisher.attach(opened.connection)
        yield opened


async def test_a_message_arrives_with_its_properties(bench: Bench) -> None:
    await bench.publisher.publish(bench.topology.outbound_exchange, "call.enriched", OUTGOING)
    message = await bench.take(f"{bench.topology.outbound_exchange}")
    assert (message.body, message.routing_key) == (b"{}", "call.enriched")
    assert (message.message_id, message.type) == ("id-1", "call.enriched")
    assert message.content_type == "application/json"
    assert message.delivery_mode == 2


async def test_unroutable(bench: Bench) -> None:
    with pytest.raises(PublishError, match=r"no queue takes messages for 'nowhere'"):
        await bench.publisher.publish(bench.events, "nowhere", OUTGOING)


async def test_refused_by_a_full_queue(bench: Bench, namespace: str) -> None:
    async with bench.connection.channel() as channel:
        exchange = await channel.declare_exchange(f"{namespace}.retry.50ms", "fanout")
        arguments: dict[str, Any] = {"x-max-length": 1, "x-overflow": "reject-publish"}
        queue = await channel.declare_queue(f"{namespace}.retry.50ms", durable=True, arguments=arguments)
        await queue.bind(exchange)
    await bench.publisher.publish(exchange.name, "any", OUTGOING)
    with pytest.raises(PublishError, match="is it full"):
        await bench.publisher.publish(exchange.name, "any", OUTGOING)


async def test_a_channel_that_does_not_close_makes_no_failure_of_what_was_confirmed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second channel, after a refusal, is for one message; the broker may leave its end unanswered."""

    async def refuse(*_: object) -> None:
        raise RefusedByQueueError("full")

    async def hang(*_: object) -> None:
        await asyncio.sleep(3600)

    monkeypatch.setattr("worker.rabbitmq.publisher._Lane.publish", refuse)
    monkeypatch.setattr("aio_pika.Channel.close", hang)
    await bench.publisher.publish(bench.events, "call.ended", OUTGOING)
    monkeypatch.undo()


async def test_an_exchange_that_does_not_exist(bench: Bench) -> None:
    for _ in range(2):
        with pytest.raises(PublishError, match=r"there is no exchange no\.such\.exchange"):
            await bench.publisher.publish("no.such.exchange", "any", OUTGOING)
    await bench.publisher.publish(
        bench.events, "call.ended", OUTGOING
    )  # through a channel that was opened anew


async def test_between_two_connections(bench: Bench) -> None:
    bench.publisher.detach()
    with pytest.raises(PublishError, match="no connection"):
        await bench.publisher.publish(bench.events, "call.ended", OUTGOING)
    with pytest.raises(PublishError, match="no connection"):
        await BrokerPublisher().publish(bench.events, "call.ended", OUTGOING)


async def test_many_at_once_with_one_message_id_are_not_mistaken_for_each_other(bench: Bench) -> None:
    """aiormq finds the publish that a returned message belongs to by the message id alone."""
    keys = ["nowhere", "call.enriched"] * 20
    outbound = {"nowhere": bench.events, "call.enriched": bench.topology.outbound_exchange}
    for _ in range(5):
        results = await asyncio.gather(
            *(bench.publisher.publish(outbound[key], key, OUTGOING) for key in keys), return_exceptions=True
        )
        failed = [isinstance(result, PublishError) for result in results]
        assert failed == [key == "nowhere" for key in keys]


async def test_a_stop_while_it_blocks(node: PrivateBroker) -> None:
    await node.ctl("set_vm_memory_high_watermark", "0.0000001")
    try:
        async with open_bench(node.url, f"t{uuid.uuid4().hex[:12]}") as bench:
            await asyncio.wait_for(stopped_soon(bench), 15)
    finally:
        await node.ctl("set_vm_memory_high_watermark", "0.4")


async def stopped_soon(bench: Bench) -> None:
    bench.stop = asyncio.Event()
    supervisor = bench.make_supervisor()
    task = asyncio.create_task(supervisor.run(bench.stop))
    await asyncio.sleep(1)
    assert not supervisor.state.consuming
    bench.stop.set()
    await task


async def test_a_broker_that_blocks_publishers(node: PrivateBroker) -> None:
    """Nothing is acknowledged while an alarm stands, and all is done once it is over."""
    namespace = f"t{uuid.uuid4().hex[:12]}"
    async with open_bench(node.url, namespace) as bench:
        bench.publisher = BrokerPublisher(timeout=0.5)
        alarmed = asyncio.Event()

        async def fail_then(inbound: Inbound) -> Disposition:
            await alarmed.wait()
            return await retry(inbound)

        try:
            async with bench.running(fail_then) as supervisor:
                for number in range(3):
                    await bench.publish(b'{"call_id": "%d"}' % number)
                await eventually(lambda: bench.pipeline.now == 3)
                await node.ctl("set_vm_memory_high_watermark", "0.0000001")
                alarmed.set()
                await eventually(lambda: supervisor.state.last_error)
                assert bench.settled == []
                assert "is it blocked by an alarm" in str(supervisor.state.last_error)
                await asyncio.sleep(2)  # longer than the wait before the next session
                assert len(bench.pipeline.seen) == 3, "no message may be taken up again while it blocks"
                bench.pipeline.act = ack
                await node.ctl("set_vm_memory_high_watermark", "0.4")
                took = await eventually(lambda: len({inbound.body for inbound, _ in bench.settled}) == 3)
                print(f"done {took:.2f} s after the alarm")  # noqa: T201 - a measurement
        finally:
            await node.ctl("set_vm_memory_high_watermark", "0.4")
        assert {inbound.body for inbound, _ in bench.settled} == {b'{"call_id": "%d"}' % n for n in range(3)}
