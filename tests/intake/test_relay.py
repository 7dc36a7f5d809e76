"""Where events are safe: with a broker that takes them, is away, hangs, refuses, and comes back."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from tests.intake.test_spool import record
from worker.core.errors import MessageRefused, PublishError
from worker.core.ports import Outgoing
from worker.intake.relay import BROKER, SPOOL, Relay
from worker.intake.spool import SET_ASIDE, Spool, SpoolError, Stored

WITHIN = 20.0


class FakeFeed:
    """A broker that does what the test says with each message."""

    def __init__(self) -> None:
        self.available = asyncio.Event()
        self.available.set()
        self.published: list[str | None] = []
        self.refuses: dict[str, PublishError] = {}
        self.hangs = False
        self.renewed = 0
        self.renews_in_vain = False

    async def publish(self, message: Outgoing) -> None:
        if self.hangs:
            await asyncio.sleep(3600)
        if not self.available.is_set():
            raise PublishError("there is no connection to the broker")
        if (error := self.refuses.get(message.message_id or "")) is not None:
            raise error
        self.published.append(message.message_id)

    async def renew(self) -> None:
        self.renewed += 1
        self.hangs = self.hangs and self.renews_in_vain

    async def check(self) -> None:
        if not self.available.is_set():
            raise PublishError("away")


class Observer:
    def __init__(self) -> None:
        self.seen: list[tuple[str, ...]] = []

    def spooling(self, error: str) -> None:
        self.seen.append(("spooling", error))

    def spool_held_up(self, error: str) -> None:
        self.seen.append(("held up", error))

    def spool_moving(self) -> None:
        self.seen.append(("moving",))

    def spool_emptied(self) -> None:
        self.seen.append(("emptied",))

    def spool_unreadable(self, error: str) -> None:
        self.seen.append(("unreadable", error))

    def set_aside(self, reason: str, event_id: str | None) -> None:
        self.seen.append(("set aside", reason, str(event_id)))


class CountedSpool(Spool):
    advances = 0

    async def advance(self, done: Sequence[Stored], set_aside: Sequence[Stored] = ()) -> None:
        self.advances += 1
        await super().advance(done, set_aside)


class Bench:
    def __init__(self, folder: Path, feed: FakeFeed, spool: Spool) -> None:
        self.folder, self.feed, self.spool = folder, feed, spool
        self.observer = Observer()
        self.relay = Relay(
            spool,
            feed,
            self.observer,
            window=3,
            confirmed_within=0.2,
            renew_after=0.2,
            renew_again_after=0.3,
            retry_after=0.02,
        )

    async def accept(self, *numbers: int) -> str:
        return await self.relay.accept([record(number) for number in numbers])

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.relay.run())
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    async def emptied(self) -> None:
        await until(lambda: not self.spool.waiting and self.observer.seen[-1:] == [("emptied",)])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN):
        while not condition():  # noqa: ASYNC110 - many things can make it true
            await asyncio.sleep(0.005)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with Spool(tmp_path, 100_000) as spool:
        yield Bench(tmp_path, FakeFeed(), spool)


def unconfirmed_for(seconds: float) -> str:
    return (
        f"the broker did not confirm within {seconds:g} s;"
        " is it blocked by an alarm, or a queue without a leader?"
    )


def ids(*numbers: int) -> list[str]:
    return [f"id-{number}" for number in numbers]


async def test_a_broker_that_takes_events_has_them_before_the_answer(bench: Bench) -> None:
    assert await bench.accept(1, 2) == BROKER
    assert bench.feed.published == ids(1, 2)
    assert (bench.spool.waiting, bench.observer.seen) == (0, [])


async def test_while_the_broker_is_away_events_wait_in_the_spool_and_are_published_in_order(
    bench: Bench,
) -> None:
    bench.feed.available.clear()
    async with bench.running():
        assert [await bench.accept(number) for number in range(8)] == [SPOOL] * 8
        assert bench.observer.seen == [("spooling", "the broker is away, or slow")]
        bench.feed.available.set()
        await bench.emptied()
    assert bench.feed.published == ids(*range(8))


async def test_a_new_event_goes_behind_what_is_in_the_spool(bench: Bench) -> None:
    bench.feed.available.clear()
    await bench.accept(1)
    bench.feed.available.set()
    assert await bench.accept(2) == SPOOL
    async with bench.running():
        await bench.emptied()
        assert await bench.accept(3) == BROKER
    assert bench.feed.published == ids(1, 2, 3)


async def test_a_broker_that_hangs_costs_a_request_a_moment_and_no_event(bench: Bench) -> None:
    bench.feed.hangs = True
    first, second = await asyncio.gather(bench.accept(1), bench.accept(2))
    assert (first, second) == (SPOOL, SPOOL)
    assert bench.observer.seen == [("spooling", unconfirmed_for(0.2))]
    async with asyncio.timeout(WITHIN):
        assert await bench.accept(3) == SPOOL


async def test_more_than_a_window_is_not_left_unconfirmed(bench: Bench) -> None:
    bench.feed.hangs = True
    waiting = [asyncio.create_task(bench.accept(number)) for number in range(3)]
    await asyncio.sleep(0)
    assert await bench.accept(3) == SPOOL
    assert not any(task.done() for task in waiting)
    assert await asyncio.gather(*waiting) == [SPOOL] * 3


async def test_of_a_batch_only_what_the_broker_did_not_take_goes_into_the_spool(bench: Bench) -> None:
    bench.feed.refuses["id-2"] = PublishError("a queue is full")
    assert await bench.accept(1, 2, 3) == SPOOL
    assert bench.spool.waiting == 1
    async with bench.running():
        await until(lambda: ("spooling", "a queue is full") in bench.observer.seen)
        bench.feed.refuses.clear()
        await bench.emptied()
    assert bench.feed.published == ids(1, 3, 2)


async def test_what_the_spool_holds_is_published_again_until_it_is_taken(bench: Bench) -> None:
    bench.feed.available.clear()
    await bench.accept(1, 2, 3, 4)
    bench.feed.refuses["id-2"] = PublishError("a queue is full")
    bench.feed.available.set()
    async with bench.running():
        await until(lambda: len(bench.feed.published) >= 2)
        assert bench.feed.published == ids(1, 3)
        bench.feed.refuses.clear()
        await bench.emptied()
    assert bench.feed.published == ids(1, 3, 2, 4)


async def test_each_try_that_the_broker_does_not_take_is_reported_and_once_that_it_takes_them(
    bench: Bench,
) -> None:
    bench.feed.available.clear()
    for number in range(8):
        await bench.accept(number)
    bench.feed.refuses["id-1"] = PublishError("a queue is full")
    bench.feed.available.set()
    async with bench.running():
        await until(lambda: bench.observer.seen.count(("held up", "a queue is full")) >= 2)
        bench.feed.refuses.clear()
        await bench.emptied()
    said = [each for each in bench.observer.seen if each[0] != "held up"]
    assert said == [("spooling", "the broker is away, or slow"), ("moving",), ("emptied",)]
    assert bench.observer.seen[-2:] == said[-2:]


async def test_a_spool_that_cannot_be_read_is_read_again(bench: Bench) -> None:
    bench.feed.available.clear()
    await bench.accept(1)
    (segment,) = bench.folder.glob("*.ndjson")
    hidden = segment.rename(bench.folder / "hidden")
    bench.feed.available.set()
    async with bench.running():
        await until(lambda: ("unreadable", "No such file or directory") in bench.observer.seen)
        hidden.rename(segment)
        await bench.emptied()
    assert bench.feed.published == ids(1)


async def test_what_is_not_confirmed_is_published_through_another_channel(bench: Bench) -> None:
    bench.feed.hangs = True
    assert await bench.accept(1) == SPOOL
    async with bench.running():
        await bench.emptied()
    assert (bench.feed.published, bench.feed.renewed) == (ids(1), 1)


async def test_a_channel_that_confirms_nothing_either_is_not_the_last_one(bench: Bench) -> None:
    """Else the spool stays as it is for as long as the connection lasts."""
    bench.feed.hangs = bench.feed.renews_in_vain = True
    assert await bench.accept(1) == SPOOL
    async with bench.running():
        await until(lambda: bench.feed.renewed == 3)
        bench.feed.renews_in_vain = False
        await bench.emptied()
    assert bench.feed.published == ids(1)
    held_up = [why for kind, *why in bench.observer.seen if kind == "held up"]
    assert held_up[:2] == [[unconfirmed_for(0.2)], [unconfirmed_for(0.3)]]


async def test_an_event_that_the_broker_refuses_for_good_is_refused(bench: Bench) -> None:
    bench.feed.refuses["id-1"] = MessageRefused("too large")
    with pytest.raises(MessageRefused, match="too large"):
        await bench.accept(1)
    assert bench.spool.waiting == 0


async def test_one_in_the_spool_that_is_refused_for_good_is_kept_aside_and_stops_nothing(
    bench: Bench,
) -> None:
    bench.feed.available.clear()
    await bench.accept(1, 2, 3)
    bench.feed.refuses["id-2"] = MessageRefused("too large")
    bench.feed.available.set()
    async with bench.running():
        await bench.emptied()
    assert bench.feed.published == ids(1, 3)
    assert ("set aside", "refused", "id-2") in bench.observer.seen
    assert b"id-2" in (bench.folder / SET_ASIDE).read_bytes()


async def test_a_line_that_cannot_be_read_is_kept_aside(tmp_path: Path) -> None:
    (tmp_path / f"{1:016d}.ndjson").write_bytes(b"damaged\n")
    async with Spool(tmp_path, 100_000) as spool:
        bench = Bench(tmp_path, FakeFeed(), spool)
        async with bench.running():
            await bench.emptied()
    assert bench.observer.seen == [("set aside", "unreadable", "None"), ("emptied",)]


async def test_while_a_line_cannot_be_kept_aside_it_stays_in_the_spool(tmp_path: Path) -> None:
    path = tmp_path / f"{1:016d}.ndjson"
    path.write_bytes(b"damaged\n")
    (tmp_path / "disk").mkdir()
    (tmp_path / SET_ASIDE).symlink_to(tmp_path / "disk" / "not" / "there")
    async with CountedSpool(tmp_path, 100_000) as spool:
        bench = Bench(tmp_path, FakeFeed(), spool)
        async with bench.running():
            await until(lambda: spool.advances > 2)
            assert path.exists()
            (tmp_path / "disk" / "not").mkdir()
            await bench.emptied()
    assert (tmp_path / "disk" / "not" / "there").read_bytes() == b"damaged\n"


async def test_without_a_broker_and_without_place_nothing_is_accepted(bench: Bench) -> None:
    bench.feed.available.clear()
    with pytest.raises(SpoolError, match="full"):
        await bench.relay.accept([record(1, 100_000)])
    assert bench.observer.seen == []


@pytest.mark.parametrize(
    ("available", "size", "broker", "spool"),
    [
        (True, 0, None, None),
        (False, 0, "away", None),
        (False, 99_500, "away", "the spool is full: 100000 bytes"),
    ],
)
async def test_a_check_says_what_would_take_an_event_and_leaves_none(
    bench: Bench, *, available: bool, size: int, broker: str | None, spool: str | None
) -> None:
    bench.feed.available.clear()
    await bench.relay.accept([record(0, size)])
    if available:
        bench.feed.available.set()
    assert await bench.relay.check() == (broker, spool)
    assert (bench.spool.waiting, bench.feed.published) == (1, [])
