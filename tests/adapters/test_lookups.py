"""Look-ups that are shared while they fly, and kept for a while."""

import asyncio
from datetime import timedelta

import pytest

from tests.clock import Clock
from worker.core.errors import NotReady
from worker.vicidial.lookup import MOST_KEPT, SingleFlight


class Asked:
    """Answers with how often it was asked; waits where a breaker is given."""

    def __init__(self, breaker: asyncio.Event | None = None, failure: Exception | None = None) -> None:
        self.times = 0
        self._breaker = breaker
        self._failure = failure

    async def __call__(self) -> int:
        self.times += 1
        answer = self.times
        if self._breaker is not None:
            await self._breaker.wait()
        if self._failure is not None:
            raise self._failure
        return answer


async def test_those_who_ask_the_same_at_one_time_share_one_answer() -> None:
    breaker = asyncio.Event()
    ask, other = Asked(breaker), Asked(breaker)
    lookups = SingleFlight[str, int]()
    waiting = [asyncio.ensure_future(lookups.get("a", ask)) for _ in range(5)]
    waiting.append(asyncio.ensure_future(lookups.get("b", other)))
    await asyncio.sleep(0)
    breaker.set()
    assert await asyncio.gather(*waiting) == [1] * 6
    assert (ask.times, other.times) == (1, 1)
    assert await lookups.get("a", ask) == 2  # nothing is kept unless told to


async def test_a_failure_fails_all_who_wait_and_is_not_kept() -> None:
    breaker = asyncio.Event()
    failing = Asked(breaker, NotReady("not yet"))
    lookups = SingleFlight[str, int](timedelta(minutes=1))
    waiting = [asyncio.ensure_future(lookups.get("a", failing)) for _ in range(3)]
    await asyncio.sleep(0)
    breaker.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [NotReady] * 3
    assert failing.times == 1
    assert await lookups.get("a", Asked()) == 1


async def test_where_the_one_that_flies_is_cancelled_the_next_one_takes_its_place() -> None:
    breaker = asyncio.Event()
    ask = Asked(breaker)
    lookups = SingleFlight[str, int]()
    first = asyncio.ensure_future(lookups.get("a", ask))
    second = asyncio.ensure_future(lookups.get("a", ask))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    breaker.set()
    assert await second == 2


async def test_an_answer_is_kept_for_its_time_and_no_longer() -> None:
    clock, ask, hits = Clock(), Asked(), []
    lookups = SingleFlight[str, int](timedelta(seconds=10), on_hit=lambda: hits.append(1), clock=clock)
    assert [await lookups.get("a", ask), await lookups.get("a", ask)] == [1, 1]
    assert len(hits) == 1
    clock.now += 9.9
    assert await lookups.get("a", ask) == 1
    clock.now += 0.2
    assert await lookups.get("a", ask) == 2
    assert len(hits) == 2


async def test_a_fresh_answer_is_not_a_kept_one_and_is_kept_itself() -> None:
    ask = Asked()
    lookups = SingleFlight[str, int](timedelta(minutes=1))
    assert await lookups.get("a", ask) == 1
    assert await lookups.get("a", ask, fresh=True) == 2
    assert await lookups.get("a", ask) == 2


async def test_no_more_than_so_many_are_kept() -> None:
    asked = Asked()
    lookups = SingleFlight[int, int](timedelta(hours=1))
    for number in range(MOST_KEPT + 1):
        await lookups.get(number, asked)
    await lookups.get(MOST_KEPT, asked)
    assert asked.times == MOST_KEPT + 1
    await lookups.get(0, asked)  # the oldest went first
    assert asked.times == MOST_KEPT + 2


async def test_one_that_is_asked_for_within_another_flies_by_itself() -> None:
    lookups = SingleFlight[str, int]()
    ask = Asked()

    async def outer() -> int:
        return 10 + await lookups.get("inner", ask)

    assert await lookups.get("outer", outer) == 11
