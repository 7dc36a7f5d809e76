"""The dead letters are read as they are, and leave only for where they belong."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import aio_pika
import aiormq
import pytest
from aio_pika.abc import AbstractIncomingMessage
from aiormq.abc import DeliveredMessage
from pamqp.header import ContentHeader

from tests.broker.letters import CALL, FAILED_AT, HEADERS, Letters, open_letters, settings_for
from worker.core.errors import PublishError
from worker.core.events import EventType
from worker.rabbitmq.dead_letters import (
    Selection,
    StoredDeadLetter,
    browse,
    discarding,
    read_dead_letter,
    record,
    replaying,
)
from worker.rabbitmq.message import Delivery, Header
from worker.settings import BrokerCommandSettings

pytestmark = pytest.mark.broker


@pytest.fixture
def settings(broker_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch) -> BrokerCommandSettings:
    return settings_for(broker_url, namespace, monkeypatch)


@pytest.fixture
async def bench(settings: BrokerCommandSettings) -> AsyncIterator[Letters]:
    async with open_letters(settings) as opened:
        yield opened


def not_the_brokers(message: AbstractIncomingMessage) -> dict[str, Any]:
    return {name: value for name, value in message.headers.items() if not name.startswith("x-")}


async def test_a_letter_of_ours_holds_all_it_knows(bench: Letters) -> None:
    await bench.bury(CALL, HEADERS)
    (letter,) = await bench.letters(1)
    assert letter == StoredDeadLetter(
        id="e-1",
        event_id="e-1",
        type="call.ended",
        reason="rejected_by_sink",
        stage="deliver",
        error="the webhook answered 422",
        attempts=12,
        first_seen=datetime(2026, 11, 20, 19, tzinfo=UTC),
        failed_at=FAILED_AT,
        queue=EventType.CALL_ENDED,
        enriched=True,
    )


async def test_a_letter_that_the_broker_put_there(bench: Letters) -> None:
    queue = bench.topology.work_queues[EventType.AGENT_ONBOARDED]
    body = b'{"agent_user": "agent001"}'
    await bench.publisher.publish_message(
        bench.topology.work_exchange, "agent.onboarded", aio_pika.Message(body, message_id="m-1")
    )
    await bench.wear_out(queue)
    (letter,) = await bench.letters(1)
    assert (letter.id, letter.event_id, letter.type) == ("m-1", "m-1", "agent.onboarded")
    assert (letter.reason, letter.queue) == ("delivery_limit", EventType.AGENT_ONBOARDED)
    assert letter.failed_at is not None
    assert abs(letter.failed_at - datetime.now(UTC)) < timedelta(minutes=1)

    progress = await bench.settle(Selection(), bench.replaying())
    assert progress.done == 1
    message = await bench.take(queue)
    assert message.body == body
    assert not_the_brokers(message) == {
        Header.EVENT_ID: "m-1",
        Header.ROUTING_KEY: "agent.onboarded",
        Header.FIRST_SEEN: letter.failed_at.isoformat(),
    }


async def test_a_retry_copy_that_the_broker_gave_up_on(bench: Letters) -> None:
    """Its first death is the tier's expiry, which is not why it lies here."""
    tier = bench.topology.tiers[timedelta(milliseconds=100)]
    said: dict[str, Any] = {Header.ATTEMPT: 3, Header.EVENT_ID: "e-1", Header.ROUTING_KEY: "some.key"}
    await bench.publisher.publish_message(tier, "call.ended", aio_pika.Message(CALL, headers=dict(said)))
    await bench.wear_out(bench.topology.work_queues[EventType.CALL_ENDED])
    (letter,) = await bench.letters(1)
    assert (letter.id, letter.reason, letter.attempts) == ("e-1", "delivery_limit", 3)
    assert letter.queue is EventType.CALL_ENDED


OWN = b'{"type": "call.ended", "call_id": "V1", "event_id": "its-own"}'
FORGED = HEADERS | {Header.EVENT_ID: "someone-elses-id"}


class TestWhatTheBrokerMoved:
    """Its headers are its producer's, whatever names they have."""

    async def expire(self, bench: Letters, said: dict[str, Any]) -> None:
        message = aio_pika.Message(OWN, headers=said, expiration=0.01)
        await bench.publisher.publish_message(bench.topology.exchanges[0].name, "call.ended", message)

    async def wear_out(self, bench: Letters, said: dict[str, Any]) -> None:
        message = aio_pika.Message(OWN, headers=said)
        await bench.publisher.publish_message(bench.topology.exchanges[0].name, "call.ended", message)
        await bench.wear_out(bench.topology.work_queues[EventType.CALL_ENDED])

    def died_at_work(self, bench: Letters, reason: str) -> list[dict[str, Any]]:
        """Return the record of a copy of ours that the broker moved, as a producer could write it."""
        queue, exchange = bench.topology.work_queues[EventType.CALL_ENDED], bench.topology.work_exchange
        return [{"queue": queue, "reason": reason, "exchange": exchange, "count": 0}]

    @pytest.mark.parametrize("reason", ["expired", "delivery_limit"])
    async def test_what_its_producer_forged_counts_for_nothing(self, bench: Letters, reason: str) -> None:
        await (self.expire if reason == "expired" else self.wear_out)(bench, dict(FORGED))
        (letter,) = await bench.letters(1)
        assert (letter.id, letter.event_id, letter.reason) == ("its-own", "its-own", reason)
        assert (letter.attempts, letter.first_seen, letter.stage) == (1, None, None)
        assert not letter.enriched
        assert letter.failed_at is not None
        assert "422" not in str(letter.error)
        assert (await bench.settle(Selection(reason=reason), bench.replaying())).done == 1
        message = await bench.take(bench.topology.work_queues[EventType.CALL_ENDED])
        assert not_the_brokers(message) == {
            Header.EVENT_ID: "its-own",
            Header.ROUTING_KEY: "call.ended",
            Header.FIRST_SEEN: letter.failed_at.isoformat(),
        }

    @pytest.mark.parametrize("reason", ["expired", "delivery_limit"])
    async def test_what_the_dialer_said_does_not_count_even_where_x_death_is_forged(
        self, bench: Letters, reason: str
    ) -> None:
        """Brokers before 4.0 take up a record of `x-death` that a producer wrote."""
        forged = FORGED | {"x-death": self.died_at_work(bench, reason)}
        await (self.expire if reason == "expired" else self.wear_out)(bench, forged)
        (letter,) = await bench.letters(1)
        assert (letter.reason, letter.enriched) == (reason, False)
        assert (await bench.settle(Selection(), bench.replaying())).done == 1
        message = await bench.take(bench.topology.work_queues[EventType.CALL_ENDED])
        assert Header.ENRICHMENT not in message.headers

    async def test_an_x_death_that_cannot_be_read_makes_no_header_ours(self, bench: Letters) -> None:
        """It may say that a producer's message was moved here."""
        await bench.bury(OWN, FORGED | {"x-death": [{"reason": "x" * 20_000}]})
        (letter,) = await bench.letters(1)
        assert (letter.id, letter.reason, letter.enriched) == ("its-own", "unknown", False)

    async def test_an_expiration_that_ran_out_is_named_and_a_replay_carries_none(
        self, bench: Letters
    ) -> None:
        await self.expire(bench, {})
        (letter,) = await bench.letters(1)
        assert (letter.reason, letter.queue) == ("expired", EventType.CALL_ENDED)
        assert (
            letter.error == "its producer's own expiration of 10 ms ran out while it waited in the work queue"
        )
        assert (await bench.settle(Selection(), bench.replaying())).done == 1
        message = await bench.take(bench.topology.work_queues[EventType.CALL_ENDED])
        assert (message.body, message.expiration) == (OWN, None)

    @pytest.mark.parametrize(
        ("body", "error"),
        [
            (b"x" * (1024 * 1024 + 1), "the body has 1048577 bytes; the limit is 1048576"),
            (OWN, "the broker takes no copy of it, so it was moved as it is"),
        ],
        ids=["too large", "not to be copied"],
    )
    async def test_what_a_worker_had_it_move_is_an_invalid_event(
        self, bench: Letters, body: bytes, error: str
    ) -> None:
        message = aio_pika.Message(body, message_id="m-1", headers=dict(FORGED))
        await bench.publisher.publish_message(bench.topology.exchanges[0].name, "call.ended", message)
        async with bench.connection.channel() as channel:
            queue = await channel.get_queue(bench.topology.work_queues[EventType.CALL_ENDED])
            taken = await queue.get(timeout=10)
            await taken.reject(requeue=False)
        (letter,) = await bench.letters(1)
        assert (letter.reason, letter.error, letter.enriched) == ("invalid_event", error, False)


@pytest.mark.parametrize(
    ("body", "said", "properties", "expected"),
    [
        (b"\xff\x00", {}, {"message_id": "m-1"}, ("m-1", "unknown", "unknown", None)),
        (b'{"event_id": "e-9"}', {}, {}, ("e-9", "unknown", "unknown", None)),
        (b'{"event_id": 9}', {}, {"type": "call.ended"}, ("9", "call.ended", "unknown", "call.ended")),
        (
            *(b"[]", {"x-first-death-reason": "delivery_limit", "x-first-death-queue": "a.b.call-ended"}),
            *({"message_id": "m"}, ("m", "call.ended", "delivery_limit", "call.ended")),
        ),
        (
            *(b"[]", {Header.ROUTING_KEY: "agent.onboarded", Header.REASON: 5, Header.ATTEMPT: "x"}),
            *({"message_id": "m"}, ("m", "agent.onboarded", "unknown", "agent.onboarded")),
        ),
        (
            *(b"[]", {"x-death": [7, {"reason": "expired"}, {"reason": "delivery_limit", "time": "?"}]}),
            *({"message_id": "m"}, ("m", "unknown", "delivery_limit", None)),
        ),
    ],
)
async def test_nonsense_counts_as_missing(
    bench: Letters, body: bytes, said: dict[str, Any], properties: dict[str, Any], expected: tuple[str, ...]
) -> None:
    await bench.bury(body, said, "other", **properties)
    (letter,) = await bench.letters(1)
    assert (letter.id, letter.type, letter.reason, letter.queue) == expected
    assert letter.attempts == 1


def test_a_letter_without_any_id_has_one_all_the_same() -> None:
    """aiormq gives each message an id, so only another client's comes without."""
    delivery = aiormq.spec.Basic.GetOk(routing_key="call.ended", exchange="x", delivery_tag=1)
    header = ContentHeader(properties=aiormq.spec.Basic.Properties(headers={}))
    bare = DeliveredMessage(delivery=delivery, header=header, body=b"not JSON", channel=None)  # type: ignore[arg-type]
    letter = read_dead_letter(Delivery(bare))
    assert (letter.id, letter.event_id) == ("body-62b8125a6f6d924e", None)


async def test_a_replay_begins_anew_as_the_same_event(bench: Letters) -> None:
    said = HEADERS | {"ce-source": "pbx", Header.ROUTING_KEY: "their.key"}
    await bench.bury(CALL, said, content_type="application/json", message_id="m-1", type="t", priority=3)
    await bench.letters(1)
    await bench.holds(bench.topology.dead_letters, 1)
    progress = await bench.settle(Selection(), bench.replaying())
    assert (progress.done, progress.stuck) == (1, [])
    message = await bench.take(bench.topology.work_queues[EventType.CALL_ENDED])
    assert message.body == CALL
    assert not_the_brokers(message) == {
        "ce-source": "pbx",
        Header.EVENT_ID: "e-1",
        Header.FIRST_SEEN: "2026-11-20T19:00:00+00:00",
        Header.ROUTING_KEY: "their.key",
        Header.ENRICHMENT: HEADERS[Header.ENRICHMENT],
    }
    assert (message.message_id, message.content_type, message.type) == ("m-1", "application/json", "t")
    assert await bench.count(bench.topology.dead_letters) == 0


async def test_a_replay_that_is_to_be_looked_up_again_carries_no_enrichment(bench: Letters) -> None:
    await bench.bury(CALL, HEADERS)
    await bench.holds(bench.topology.dead_letters, 1)
    assert (await bench.settle(Selection(), bench.replaying(look_up_again=True))).done == 1
    message = await bench.take(bench.topology.work_queues[EventType.CALL_ENDED])
    assert not_the_brokers(message) == {
        Header.EVENT_ID: "e-1",
        Header.FIRST_SEEN: "2026-11-20T19:00:00+00:00",
        Header.ROUTING_KEY: "call.ended",
    }


@pytest.mark.parametrize(
    ("body", "enrichment"),
    [
        (CALL, None),
        (CALL, '{"kind": "call"}'),
        (CALL.replace(b"V1", b"V2"), HEADERS[Header.ENRICHMENT]),
        (b"not an event", HEADERS[Header.ENRICHMENT]),
    ],
)
async def test_an_enrichment_that_the_worker_would_not_use_is_none(
    bench: Letters, body: bytes, enrichment: str | None
) -> None:
    await bench.bury(body, HEADERS | {Header.ENRICHMENT: enrichment})
    (letter,) = await bench.letters(1)
    assert not letter.enriched


async def test_what_is_selected_is_settled_and_the_rest_goes_back(bench: Letters) -> None:
    for number in range(6):
        reason = "not_found" if number % 2 else "rejected_by_sink"
        body = json.dumps({"call_id": "V1"}).encode()
        await bench.bury(body, HEADERS | {Header.EVENT_ID: f"e-{number}", Header.REASON: reason})
    await bench.bury(b"x", {}, "elsewhere", message_id="lost")
    dead = bench.topology.dead_letters
    await bench.holds(dead, 7)
    progress = await bench.settle(Selection(frozenset({"e-1", "e-2", "no"}), "not_found"), bench.replaying())
    assert (progress.done, progress.found) == (1, {"e-1"})
    await bench.holds(dead, 6)
    progress = await bench.settle(Selection(type="unknown"), bench.replaying())
    assert (progress.done, progress.stuck) == (0, ["lost"])
    await bench.holds(dead, 6)
    assert (await bench.settle(Selection(reason="not_found"), discarding)).done == 2
    assert [letter.id for letter in await bench.letters(4)] == ["e-0", "e-2", "e-4", "lost"]


async def test_what_arrives_meanwhile_is_left_for_the_next_time(bench: Letters) -> None:
    await bench.bury(CALL, HEADERS)
    await bench.holds(bench.topology.dead_letters, 1)

    async def again(letter: StoredDeadLetter, message: Delivery) -> bool:
        await bench.bury(message.body, HEADERS)
        return True

    assert (await bench.settle(Selection(), again)).done == 1
    await bench.holds(bench.topology.dead_letters, 1)


async def test_a_letter_stays_where_its_replay_fails(bench: Letters) -> None:
    await bench.bury(CALL, HEADERS)
    await bench.holds(bench.topology.dead_letters, 1)
    act = replaying(bench.publisher, bench.topology.dead_letters + ".nowhere")
    with pytest.raises(PublishError):
        await bench.settle(Selection(), act)
    await bench.holds(bench.topology.dead_letters, 1)


async def test_the_rate_is_kept_and_a_stop_heard(bench: Letters) -> None:
    for number in range(8):
        await bench.bury(CALL, HEADERS | {Header.EVENT_ID: f"e-{number}"})
    await bench.holds(bench.topology.dead_letters, 8)
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert (await bench.settle(Selection(frozenset({"e-0", "e-1", "e-2"})), discarding, rate=10)).done == 3
    assert 0.2 <= loop.time() - began < 5
    await bench.holds(bench.topology.dead_letters, 5)
    stop = asyncio.Event()
    loop.call_later(0.3, stop.set)
    began = loop.time()
    assert (await bench.settle(Selection(), discarding, rate=0.1, stop=stop)).done == 1
    assert loop.time() - began < 8, "the next would come after 10 s"
    await bench.holds(bench.topology.dead_letters, 4)

    async def stopping(_letter: StoredDeadLetter, _message: Delivery) -> bool:
        stop.set()
        return True

    stop.clear()
    assert (await bench.settle(Selection(), stopping, stop=stop)).done == 1


async def test_a_record_holds_what_json_can(bench: Letters) -> None:
    said = {"when": FAILED_AT, "raw": bytearray(b"\xff"), "list": [1, {"a": None, "b": 1.5}], "yes": True}
    await bench.bury(b"\xff\xfe", said, message_id="m-1", content_type="x/y")
    await bench.holds(bench.topology.dead_letters, 1)
    async with browse(bench.connection, bench.topology.dead_letters) as letters:
        (found,) = [record(letter, message) async for letter, message in letters]
    kept = json.loads(json.dumps(found))
    assert base64.b64decode(kept["body_base64"]) == b"\xff\xfe"
    assert "body" not in kept
    assert kept["headers"]["when"] == FAILED_AT.isoformat()
    assert kept["headers"]["list"] == [1, {"a": None, "b": 1.5}]
    assert kept["headers"]["yes"] is True
    assert (kept["message_id"], kept["routing_key"], kept["content_type"]) == ("m-1", "call.ended", "x/y")
