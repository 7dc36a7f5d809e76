"""Taking events in: what the core sees of a message, how many at a time, and what a stop leaves behind."""

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pamqp.encode
import pytest

from tests.broker.bench import AGENTS, CALLS, Bench, ack, bury, closed_breakers, eventually, open_bench
from worker.core.events import Inbound, decode
from worker.core.ports import Ack, Disposition

pytestmark = pytest.mark.broker

UUID = "9f1c2c1e-6f0e-4a53-9c6b-0a4f5d0c7a11"
CALL = {"type": "call.ended", "event_id": "e-1", "call_id": "V1201405090000012345"}
AGENT = {"agent_user": "agent001", "expected_campaigns": ["SALES1"]}


@pytest.fixture
async def bench(broker_url: str, namespace: str) -> AsyncIterator[Bench]:
    async with open_bench(broker_url, namespace) as opened:
        yield opened


async def taken(bench: Bench, count: int = 1) -> list[Inbound]:
    async with bench.running():
        await eventually(lambda: len(bench.settled) >= count)
    return [inbound for inbound, _ in bench.settled]


class Holding:
    """Holds every message until it is let go."""

    def __init__(self) -> None:
        self.released = asyncio.Event()

    async def __call__(self, _: Inbound) -> Disposition:
        await self.released.wait()
        return Ack()


class TestWhatTheCoreSees:
    async def test_plain_json(self, bench: Bench) -> None:
        body = json.dumps(CALL).encode()
        when = datetime(2026, 11, 20, 19, 7, 14, tzinfo=UTC)
        await bench.publish(
            body,
            message_id="m-1",
            type="call.ended",
            timestamp=when,
            content_type="application/json",
            headers={"tenant": "acme", "n": 7},
        )
        (inbound,) = await taken(bench)
        assert inbound.body == body
        assert inbound.routing_key == "call.ended"
        assert (inbound.message_id, inbound.type, inbound.timestamp) == ("m-1", "call.ended", when)
        assert (inbound.attempt, inbound.event_id, inbound.enrichment) == (1, None, None)
        assert inbound.headers == {"tenant": "acme", "n": 7}
        assert datetime.now(UTC) - inbound.first_seen < timedelta(seconds=10)
        event = decode(inbound)
        assert (event.type, event.id, event.subject) == (CALLS, "e-1", "V1201405090000012345")

    async def test_an_onboarding_known_by_its_routing_key_alone(self, bench: Bench) -> None:
        await bench.publish(json.dumps(AGENT).encode(), AGENTS)
        (inbound,) = await taken(bench)
        event = decode(inbound)
        assert (event.type, event.subject) == (AGENTS, "agent001")
        assert event.expected_campaigns == ("SALES1",)

    async def test_structured_cloudevents(self, bench: Bench) -> None:
        envelope = {
            "specversion": "1.0",
            "type": "call.ended",
            "id": UUID,
            "source": "/pbx",
            "time": "2026-11-20T14:07:14-05:00",
            "data": {"call_id": "V1201405090000012345"},
        }
        content_type = "application/cloudevents+json; charset=utf-8"
        await bench.publish(json.dumps(envelope).encode(), content_type=content_type)
        (inbound,) = await taken(bench)
        event = decode(inbound)
        assert (event.id, event.data) == (UUID, envelope["data"])
        assert event.occurred_at == datetime(2026, 11, 20, 19, 7, 14, tzinfo=UTC)

    @pytest.mark.parametrize("prefix", ["cloudEvents:", "cloudEvents_", "ce-"])
    async def test_binary_cloudevents(self, bench: Bench, prefix: str) -> None:
        attributes = {"specversion": "1.0", "type": "agent.onboarded", "id": UUID, "source": "/hr"}
        headers: dict[str, Any] = {prefix + name: value for name, value in attributes.items()}
        headers[prefix + "time"] = datetime(2026, 11, 20, 19, 7, 14, tzinfo=UTC)  # AMQP's own type for it
        await bench.publish(json.dumps(AGENT).encode(), AGENTS, headers=headers)
        (inbound,) = await taken(bench)
        event = decode(inbound)
        assert (event.type, event.id, event.subject) == (AGENTS, UUID, "agent001")
        assert event.occurred_at == datetime(2026, 11, 20, 19, 7, 14, tzinfo=UTC)

    async def test_garbage_in_our_own_headers_counts_as_missing(self, bench: Bench) -> None:
        odd: list[Any] = ["x", -3, None, [], {"a": 1}, 2.5, True]
        for nonsense in odd:
            await bench.publish(
                b"{}",
                headers={
                    "crm-sync-attempt": nonsense,
                    "crm-sync-first-seen": nonsense,
                    "crm-sync-event-id": nonsense if isinstance(nonsense, int) else "a\r\nb: c",
                    "crm-sync-enrichment": nonsense,
                    "crm-sync-routing-key": "k" * 300,
                },
                exchange=bench.topology.work_exchange,
            )
        for when in ("99999-01-01", "0001-01-01T00:00:00+14:00", "2026-11-20T14:07:14"):
            said = {"crm-sync-first-seen": when}
            await bench.publish(b"{}", exchange=bench.topology.work_exchange, headers=said)
        for inbound in await taken(bench, 10):
            assert inbound.attempt == 1
            assert inbound.event_id is None
            assert inbound.routing_key == "call.ended"
            assert datetime.now(UTC) - inbound.first_seen < timedelta(seconds=10)

    @pytest.mark.parametrize("own", [False, True], ids=["events", "bound to events"])
    async def test_a_producer_can_say_nothing_in_our_headers(self, bench: Bench, own: bool) -> None:  # noqa: FBT001
        forged = {
            "crm-sync-attempt": 11,
            "crm-sync-first-seen": "2026-11-20T14:07:14+00:00",
            "crm-sync-event-id": "another-event",
            "crm-sync-enrichment": '{"kind": "call"}',
            "crm-sync-routing-key": "agent.onboarded",
            "their-own": "kept",
        }
        exchange = bench.events
        if own:
            exchange += ".producer"
            async with bench.connection.channel() as channel:
                theirs = await channel.declare_exchange(exchange, "topic", auto_delete=True)
                await (await channel.get_exchange(bench.events)).bind(theirs, "#")
        await bench.publish(json.dumps(CALL).encode(), headers=forged, exchange=exchange)
        (inbound,) = await taken(bench)
        assert (inbound.attempt, inbound.event_id, inbound.enrichment) == (1, None, None)
        assert datetime.now(UTC) - inbound.first_seen < timedelta(seconds=10)
        assert inbound.routing_key == "call.ended"
        assert inbound.headers["their-own"] == "kept"

    async def test_a_message_of_the_queue_itself_keeps_its_own_routing_key(self, bench: Bench) -> None:
        await bench.publish(b"", bench.queue(), exchange="")
        (inbound,) = await taken(bench)
        assert (inbound.body, inbound.routing_key) == (b"", bench.queue())


def seconds(count: int) -> bytes:
    return struct.pack(">Q", count)


def table(content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + content


NOW = 1_795_200_000
ODD_TIMES = {
    "milliseconds": NOW * 10**3,
    "microseconds": NOW * 10**6,
    "nanoseconds": NOW * 10**9,
    "the largest": 2**64 - 1,
}
ODD_TABLES = {
    "a time in nanoseconds": b"\x01aT" + seconds(NOW * 10**9),
    "such a time deep inside": b"\x01aF" + table(b"\x01bA" + table(b"T" + seconds(2**64 - 1))),
    "a name that is not UTF-8": b"\x02\xff\xfeS" + table(b"value"),
    "text that is not UTF-8": b"\x01aS" + table(b"gr\xfc\xdfe"),
    "a byte array": b"\x01ax" + table(b"\x00\xff"),
    "a decimal": b"\x01aD\x02" + struct.pack(">i", -12345),
    "numbers of every size": b"\x01ab\xff\x01bB\xff\x01cs\x80\x00\x01du\xff\xff\x01eI\x80\x00\x00\x00"
    b"\x01fi\xff\xff\xff\xff\x01gl" + b"\xff" * 8 + b"\x01hL" + b"\x7f" * 8,
    "a large double": b"\x01ad" + struct.pack(">d", 1e300),
    "nothing": b"\x01aV",
}


class TestPropertiesThatPamqpRefuses:
    """Each would break the connection at every delivery, and count against all that is in flight with it."""

    @pytest.mark.parametrize("what", ODD_TIMES)
    async def test_an_odd_timestamp(self, bench: Bench, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
        await self.check(bench, monkeypatch, "timestamp", seconds(ODD_TIMES[what]), timestamp=NOW)

    @pytest.mark.parametrize("what", ODD_TABLES)
    async def test_odd_headers(self, bench: Bench, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
        await self.check(bench, monkeypatch, "table", table(ODD_TABLES[what]), headers={"a": "b"})

    async def test_a_type_that_is_not_utf8(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        inbound = await self.check(bench, monkeypatch, "shortstr", b"\x03\xffab", content_type="x")
        assert inbound.content_type == "\ufffdab"

    async def check(
        self,
        bench: Bench,
        monkeypatch: pytest.MonkeyPatch,
        kind: str,
        raw: bytes,
        **properties: Any,  # noqa: ANN401
    ) -> Inbound:
        """The message is taken like any other, and so are those around it, all within one connection."""

        async def bury_the_odd_one(inbound: Inbound) -> Disposition:
            return await (bury(inbound) if inbound.body == b"odd" else ack(inbound))

        await bench.publish(b"before")
        strict = pamqp.encode.METHODS[kind]

        def write(value: object) -> bytes:
            return raw if value in properties.values() or kind == "timestamp" else strict(value)

        with monkeypatch.context() as patched:
            patched.setitem(pamqp.encode.METHODS, kind, write)
            await bench.publish(b"odd", type="call.ended", **properties)
        await bench.publish(b"after")
        async with bench.running(bury_the_odd_one) as supervisor:
            await eventually(lambda: len(bench.settled) == 3)
            assert supervisor.state.connections == 1
        dead = await bench.take_dead()
        assert dead.body == b"odd"
        assert dead.type == "call.ended"
        assert dead.headers["crm-sync-reason"] == "invalid_event"
        return next(inbound for inbound, _ in bench.settled if inbound.body == b"odd")


class TestHowManyAtOnce:
    async def test_never_more_than_max_in_flight(self, bench: Bench) -> None:
        async def briefly(_: Inbound) -> Disposition:
            await asyncio.sleep(0.01)
            return Ack()

        bench.max_in_flight = 4
        breakers = bench.breakers = closed_breakers(4)
        await bench.flood([b"%d" % n for n in range(60)])
        await bench.flood([b"a%d" % n for n in range(20)], AGENTS)
        async with bench.running(briefly):
            most = 0
            while len(bench.settled) < 80:
                most = max(most, breakers.in_work)
                await asyncio.sleep(0.002)
            assert bench.pipeline.most == 4
            assert most <= 4
            await eventually(lambda: breakers.in_work == 0)
        assert len({inbound.body for inbound, _ in bench.settled}) == 80

    async def test_an_onboarding_is_not_starved_by_a_flood_of_calls(self, bench: Bench) -> None:
        async def briefly(_: Inbound) -> Disposition:
            await asyncio.sleep(0.05)
            return Ack()

        bench.max_in_flight = 4
        await bench.flood([b"%d" % n for n in range(500)])
        async with bench.running(briefly):
            await eventually(lambda: len(bench.settled) >= 20)
            await bench.publish(b"onboarding", AGENTS)
            before = len(bench.settled)  # once it is confirmed, it is on its way
            await eventually(lambda: any(inbound.body == b"onboarding" for inbound, _ in bench.settled))
            order = [inbound.body for inbound, _ in bench.settled]
            assert order.index(b"onboarding") - before <= 8
            assert await bench.depth(bench.queue()) > 300


class TestStopping:
    async def test_what_is_in_work_finishes_and_the_rest_stays_in_the_queue(self, bench: Bench) -> None:
        bench.max_in_flight = 2
        holding = Holding()
        await bench.flood([b"%d" % n for n in range(6)])
        async with bench.running(holding) as supervisor:
            await eventually(lambda: bench.pipeline.now == 2)
            bench.stop.set()
            await eventually(lambda: not supervisor.state.consuming)
            holding.released.set()
        assert len(bench.settled) == 2
        await bench.holds(bench.queue(), 4)
        assert not (await bench.take(bench.queue())).redelivered

    async def test_what_is_not_done_by_the_deadline_comes_back(self, bench: Bench) -> None:
        bench.max_in_flight, bench.drain = 3, 0.3
        await bench.flood([b"%d" % n for n in range(3)])
        await bench.publish(b"waits for a place", AGENTS)
        started = asyncio.get_running_loop().time()
        async with bench.running(Holding()):
            await eventually(lambda: bench.pipeline.now == 3)
            bench.stop.set()
        assert asyncio.get_running_loop().time() - started < 8
        assert bench.settled == []
        await bench.holds(bench.queue(), 3)
        await bench.holds(bench.queue(AGENTS), 1)
        bench.pipeline.act = ack
        assert len(await taken(bench, 4)) == 4

    async def test_a_cancellation_stops_at_once(self, bench: Bench) -> None:
        bench.drain = 60
        await bench.flood([b"%d" % n for n in range(3)])
        context = bench.running(Holding())
        supervisor = await context.__aenter__()
        await eventually(lambda: bench.pipeline.now == 3)
        task = next(each for each in asyncio.all_tasks() if "Supervisor.run" in repr(each))
        bench.stop.set()
        await eventually(lambda: not supervisor.state.consuming)
        task.cancel()
        async with asyncio.timeout(3):
            with pytest.raises(asyncio.CancelledError):
                await task
        with pytest.raises(asyncio.CancelledError):
            await context.__aexit__(None, None, None)
        await eventually(lambda: bench.pipeline.now == 0)
        assert sorted([(await bench.take(bench.queue())).body for _ in range(3)]) == [b"0", b"1", b"2"]

    async def test_nothing_in_work_means_no_waiting(self, bench: Bench) -> None:
        bench.drain = 20
        async with bench.running():
            started = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - started < 8


async def test_an_unforeseen_error_loses_nothing(bench: Bench) -> None:
    async def broken_once(inbound: Inbound) -> Disposition:
        if len(bench.pipeline.seen) == 1:
            raise RuntimeError("a bug of ours")
        return Ack()

    await bench.publish(b"first")
    async with bench.running(broken_once) as supervisor:
        await eventually(lambda: bench.settled and supervisor.state.connections == 2)
