"""Look-ups in flight are shared, and answers are cached for a while."""

import asyncio
from datetime import timedelta

import pytest

from tests.clock import Clock
from worker.core.errors import NotReady
from worker.vicidial.client import CACHE_SIZE, SingleFlight


class Asked:
    """Answers with how often it was asked; waits for an event if one is given."""

    def __init__(self, release: asyncio.Event | None = None, failure: Exception | None = None) -> None:
        self.times = 0
        self._release = release
        self._failure = failure

    async def __call__(self) -> int:
        self.times += 1
        answer = self.times
        if self._release is not None:
            await self._release.wait()
        if self._failure is not None:
            raise self._failure
        return answer


async def test_those_who_ask_the_same_at_one_time_share_one_answer() -> None:
    release = asyncio.Event()
    ask, other = Asked(release), Asked(release)
    lookups = SingleFlight[str, int]()
    waiting = [asyncio.ensure_future(lookups.get("a", ask)) for _ in range(5)]
    waiting.append(asyncio.ensure_future(lookups.get("b", other)))
    await asyncio.sleep(0)
    release.set()
    assert await asyncio.gather(*waiting) == [1] * 6
    assert (ask.times, other.times) == (1, 1)
    assert await lookups.get("a", ask) == 2  # nothing is cached by default


async def test_a_failure_fails_all_who_wait_and_is_not_cached() -> None:
    release = asyncio.Event()
    failing = Asked(release, NotReady("not yet"))
    lookups = SingleFlight[str, int](timedelta(minutes=1))
    waiting = [asyncio.ensure_future(lookups.get("a", failing)) for _ in range(3)]
    await asyncio.sleep(0)
    release.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [NotReady] * 3
    assert failing.times == 1
    assert await lookups.get("a", Asked()) == 1


async def test_if_the_one_in_flight_is_cancelled_the_next_one_asks() -> None:
    release = asyncio.Event()
    ask = Asked(release)
    lookups = SingleFlight[str, int]()
    first = asyncio.ensure_future(lookups.get("a", ask))
    second = asyncio.ensure_future(lookups.get("a", ask))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    release.set()
    assert await second == 2


async def test_an_answer_is_cached_for_its_time_and_no_longer() -> None:
    clock, ask, hits = Clock(), Asked(), []
    lookups = SingleFlight[str, int](timedelta(seconds=10), on_hit=lambda: hits.append(1), clock=clock)
    assert [await lookups.get("a", ask), await lookups.get("a", ask)] == [1, 1]
    assert len(hits) == 1
    clock.now += 9.9
    assert await lookups.get("a", ask) == 1
    clock.now += 0.2
    assert await lookups.get("a", ask) == 2
    assert len(hits) == 2


async def test_a_fresh_answer_is_not_a_cached_one_and_is_cached_itself() -> None:
    ask = Asked()
    lookups = SingleFlight[str, int](timedelta(minutes=1))
    assert await lookups.get("a", ask) == 1
    assert await lookups.get("a", ask, fresh=True) == 2
    assert await lookups.get("a", ask) == 2


async def test_no_more_than_so_many_are_cached() -> None:
    asked = Asked()
    lookups = SingleFlight[int, int](timedelta(hours=1))
    for number in range(CACHE_SIZE + 1):
        await lookups.get(number, asked)
    await lookups.get(CACHE_SIZE, asked)
    assert asked.times == CACHE_SIZE + 1
    await lookups.get(0, asked)  # the oldest went first
    assert asked.times == CACHE_SIZE + 2


async def test_one_that_is_asked_for_within_another_is_a_flight_of_its_own() -> None:
    lookups = SingleFlight[str, int]()
    ask = Asked()

    async def outer() -> int:
        return 10 + await lookups.get("inner", ask)

    assert await lookups.get("outer", outer) == 11
