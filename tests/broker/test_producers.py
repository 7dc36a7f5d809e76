"""Whatever a producer's message holds: no copy changes its properties, and no message ends anything."""

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.broker.bench import CALLS, Bench, ack, bury, eventually, open_bench, retry
from tests.broker.raw import SHORT_TEXTS, RawMessage, short, sized, table
from worker.core.events import Inbound, decode
from worker.core.ports import Disposition
from worker.rabbitmq import codec
from worker.rabbitmq.dead_letters import Progress, Selection, browse, replaying, settle
from worker.rabbitmq.message import Header, table_of
from worker.rabbitmq.publisher import BrokerPublisher

pytestmark = pytest.mark.broker

CALL = b'{"type": "call.ended", "call_id": "V1201405090000012345", "event_id": "e-1"}'
ODD = short(b"\xe9" * 110)
HEADERS = table(
    sent_at=b"d" + struct.pack(">d", 1795269909.101),
    small=b"I\x00\x00\x00\x07",
    large=b"l" + struct.pack(">q", -(2**60)),
    ratio=b"f" + struct.pack(">f", 0.5),
    amount=b"D\x02" + struct.pack(">i", -12345),
    yes=b"t\x01",
    name=b"S" + sized(b"gr\xfcn"),
    raw=b"x" + sized(b"\x00\xff"),
    nothing=b"V",
    when=b"T" + struct.pack(">Q", 1_795_269_909_101),
    many=b"A" + sized(b"V" + b"d" + struct.pack(">d", 0.1)),
    inner=b"F" + table(a=b"d" + struct.pack(">d", 0.1)),
)


@pytest.fixture
async def bench(broker_url: str, namespace: str) -> AsyncIterator[Bench]:
    codec.install()
    async with open_bench(broker_url, namespace) as opened:
        yield opened


async def publisher_of(bench: Bench) -> BrokerPublisher:
    publisher = BrokerPublisher()
    _ = await publisher.attach(bench.connection)
    return publisher


async def send(bench: Bench, message: RawMessage) -> None:
    await (await publisher_of(bench)).publish_message(bench.events, CALLS, message)


async def retry_then_bury(inbound: Inbound) -> Disposition:
    return await (retry(inbound) if inbound.attempt == 1 else bury(inbound))


async def raw_of(bench: Bench, queue: str) -> dict[str, bytes]:
    """Get a message, and return its properties' bytes."""
    async with bench.held(queue) as delivery:
        await delivery.acknowledge()
        return delivery.properties.raw


async def replay(bench: Bench) -> Progress:
    progress = Progress()
    act = replaying(await publisher_of(bench), bench.topology.work_exchange)
    async with browse(bench.connection, bench.topology.dead_letters) as held:
        await settle(held, Selection(), act, progress, stop=asyncio.Event())
    return progress


class TestEveryKindOfCopy:
    """Retry, dead letter and replay, one after the other, of one message."""

    async def test_keeps_every_short_text_that_is_not_utf8_byte_for_byte(self, bench: Bench) -> None:
        texts = dict.fromkeys(SHORT_TEXTS, ODD)
        async with bench.running(retry_then_bury) as supervisor:
            await send(bench, RawMessage(CALL, **texts))
            await eventually(lambda: len(bench.settled) == 2)
            assert supervisor.state.connections == 1
        await bench.holds(bench.topology.dead_letters, 1)
        assert (await replay(bench)).done == 1
        found = await raw_of(bench, bench.queue())
        assert {name: found[name] for name in SHORT_TEXTS} == texts

    async def test_keeps_the_time_the_priority_and_headers_of_every_type(self, bench: Bench) -> None:
        parts = {"timestamp": struct.pack(">Q", 1_795_269_909_750), "priority": b"\x03"}
        async with bench.running(retry_then_bury):
            await send(bench, RawMessage(CALL, headers=HEADERS, **parts))
            await eventually(lambda: len(bench.settled) == 2)
        times = {decode(inbound).occurred_at for inbound, _ in bench.settled}
        assert {when.microsecond for when in times} == {750_000}, "each attempt has the same time"
        await bench.holds(bench.topology.dead_letters, 1)
        assert (await replay(bench)).done == 1
        async with bench.held(bench.queue()) as delivery:
            await delivery.acknowledge()
        found, sent = table_of(delivery.properties), codec.read_table(HEADERS)
        assert {name: found.raw[name] for name in sent.raw} == sent.raw
        assert {name: delivery.properties.raw[name] for name in parts} == parts
        assert found["sent_at"] == 1795269909.101


@pytest.mark.parametrize("name", ["message_id", "message_type", "content_type", "app_id"])
async def test_text_that_is_not_utf8_counts_as_missing_for_an_event_that_says_all_itself(
    bench: Bench, name: str
) -> None:
    async with bench.running() as supervisor:
        await send(bench, RawMessage(CALL, **{name: ODD}))
        await eventually(lambda: bench.settled)
        assert supervisor.state.connections == 1
    event = decode(bench.settled[0][0])
    assert (event.id, event.type) == ("e-1", CALLS)


async def test_a_message_id_that_is_not_utf8_is_no_id_of_an_event(bench: Bench) -> None:
    body = b'{"call_id": "V1"}'
    async with bench.running(retry_then_bury):
        await send(bench, RawMessage(body, message_id=ODD))
        await eventually(lambda: len(bench.settled) == 2)
    ids = {decode(inbound).id for inbound, _ in bench.settled}
    assert len(ids) == 1
    assert ids.pop().isascii()


async def test_a_routing_key_that_is_not_utf8_comes_along(bench: Bench) -> None:
    """It reaches a work queue by `CC`, which names more keys to route by."""
    message = RawMessage(CALL, headers=table(CC=b"A" + sized(b"S" + sized(CALLS.encode()))))
    key = codec.OddText.read(b"\xff" * 200)
    async with bench.running(retry_then_bury):
        async with bench.connection.channel() as channel:
            underlay = await channel.get_underlay_channel()
            with pytest.MonkeyPatch.context() as patched:
                patched.setitem(__import__("pamqp.encode").encode.METHODS, "shortstr", _short)
                await underlay.basic_publish(
                    CALL, exchange=bench.events, routing_key=key, properties=message.properties
                )
        await eventually(lambda: len(bench.settled) == 2)
    async with bench.held(bench.topology.dead_letters) as delivery:
        await delivery.acknowledge()
    assert table_of(delivery.properties).raw[Header.ROUTING_KEY] == b"S" + sized(b"\xff" * 200)


def _short(text: str) -> bytes:
    return short(codec.to_bytes(text))


async def test_many_headers_cost_no_connection_and_the_worker_no_time(bench: Bench) -> None:
    """pamqp takes most of a second for each, in the reader of the connection."""
    many = table(many=b"A" + sized(b"V" * 120_000))
    async with bench.running(retry_then_bury) as supervisor:
        for number in range(5):
            body = json.dumps({"call_id": f"V{number}", "event_id": f"e-{number}"}).encode()
            await send(bench, RawMessage(body, headers=many))
        await eventually(lambda: len(bench.settled) == 10, 5)
        assert supervisor.state.connections == 1
    assert "many" not in (await bench.take_dead()).headers


class TestAMessageThatTheBrokerTakesNoCopyOf:
    """The broker closes the channel for a copy to reply to a consumer that is not there."""

    FAST_REPLY = short(b"amq.rabbitmq.reply-to")

    async def refused(self, bench: Bench) -> None:
        """Put such a message into a work queue, as it came by another protocol."""
        await bench.publish(CALL, headers={"tenant": "acme"})

    @pytest.fixture(autouse=True)
    def reply_to_nobody(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Add to each message that is read a property that the broker refuses in a copy."""
        read = codec.Properties.read

        def with_reply_to(data: bytes) -> codec.Properties:
            found = read(data)
            found.raw["reply_to"] = self.FAST_REPLY
            return found

        monkeypatch.setattr(codec.Properties, "read", with_reply_to)

    @pytest.mark.parametrize("act", [retry, bury])
    async def test_is_a_dead_letter_with_our_headers_alone(self, bench: Bench, act: Any) -> None:  # noqa: ANN401
        async def only_this_one(inbound: Inbound) -> Disposition:
            return await (act(inbound) if inbound.body == CALL else ack(inbound))

        async with bench.running(only_this_one) as supervisor:
            await self.refused(bench)
            await bench.publish(b"innocent")
            await eventually(lambda: len(bench.settled) == 2)
            assert supervisor.state.connections == 1
        dead = await bench.take_dead()
        assert (dead.body, dead.headers[Header.REASON]) == (CALL, "invalid_event")
        assert "tenant" not in dead.headers
        if act is retry:
            assert "fast reply consumer" in str(dead.headers[Header.ERROR])

    async def test_stays_in_the_dead_letters_at_a_replay_and_the_rest_goes_on(self, bench: Bench) -> None:
        for number in range(3):
            await bench.publish(CALL.replace(b"e-1", b"e-%d" % number), exchange=bench.topology.dead_letters)
        await bench.holds(bench.topology.dead_letters, 3)
        progress = await replay(bench)
        assert (progress.done, progress.stuck) == (0, ["e-0", "e-1", "e-2"])
        await bench.holds(bench.topology.dead_letters, 3)


@pytest.mark.parametrize("kind", [KeyError, TypeError, RuntimeError, ZeroDivisionError, UnicodeError])
async def test_an_error_of_ours_of_any_class_begins_the_session_anew(
    bench: Bench, kind: type[Exception]
) -> None:
    async def broken_once(inbound: Inbound) -> Disposition:
        if len(bench.pipeline.seen) == 1:
            raise kind("a bug of ours")
        return await ack(inbound)

    await bench.publish(CALL)
    with capture_logs() as logged:
        async with bench.running(broken_once) as supervisor:
            await eventually(lambda: bench.settled and supervisor.state.connections == 2)
    failures = [line for line in logged if line["event"] == "intake_failed"]
    assert [line["error_type"] for line in failures] == [kind.__name__]
    assert not [line for line in logged if line["event"] == "broker_unreachable"]


async def test_an_event_that_breaks_the_consumer_each_time_ends_in_the_dead_letters(
    bench: Bench,
) -> None:
    """The broker's delivery limit bounds it; the events beside it are settled meanwhile."""
    bench.longest_wait_once_connected = 0.01

    async def poisoned(inbound: Inbound) -> Disposition:
        if inbound.body == b"poison":
            raise KeyError("a bug of ours")
        return await ack(inbound)

    async with bench.running(poisoned) as supervisor:
        await bench.publish(b"poison")
        await bench.flood([b"%d" % number for number in range(20)])
        await eventually(lambda: supervisor.state.connections > 20, 60)
        await bench.holds(bench.topology.dead_letters, 1)
    dead = await bench.take_dead()
    assert (dead.body, dead.headers["x-first-death-reason"]) == (b"poison", "delivery_limit")
    assert len({inbound.body for inbound, _ in bench.settled}) == 20


async def test_an_error_while_a_session_begins_is_waited_out_too(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_consumer, made = bench.make_consumer, 0

    def broken_once() -> Any:  # noqa: ANN401
        nonlocal made
        made += 1
        if made == 1:
            raise LookupError("a bug of ours")
        return make_consumer()

    monkeypatch.setattr(bench, "make_consumer", broken_once)
    with capture_logs() as logged:
        async with bench.running() as supervisor:
            await bench.publish(CALL)
            await eventually(lambda: bench.settled)
    assert [line["error_type"] for line in logged if line["event"] == "intake_failed"] == ["LookupError"]
    assert supervisor.state.last_error == "unexpected LookupError; the log has the traceback"
