"""Limits: how many requests may start in a time, and how many may be under way."""

import asyncio
import time
from datetime import timedelta
from typing import Any

import pytest

from worker.core.errors import DeliveryUnavailable, FailureKind
from worker.crm.limits import SPREAD, Limits
from worker.crm.memory import Memory
from worker.crm.preset import Limit


def limit(**said: Any) -> Limit:  # noqa: ANN401 - parts of a limit
    return Limit.model_validate(said)


async def starts(limits: Limits, count: int, group: str | None = None) -> list[float]:
    """Return when so many requests started, in seconds since the first was wanted."""
    begun = time.monotonic()
    found = []

    async def one() -> None:
        async with limits.turn(group):
            found.append(time.monotonic() - begun)

    await asyncio.gather(*(one() for _ in range(count)))
    return sorted(found)


async def test_no_more_start_in_any_such_time() -> None:
    found = await starts(Limits([limit(rate=3, per="200ms")]), 8)
    assert [found[3] >= 0.2, found[6] >= 0.4] == [True, True]
    for index in range(3, 8):
        assert found[index] - found[index - 3] >= 0.195


async def test_a_groups_limit_is_for_its_requests_alone_and_those_of_all_count_too() -> None:
    limits = Limits([limit(rate=4, per="200ms"), limit(rate=1, per="150ms", of="search")])
    others, searches = await asyncio.gather(starts(limits, 3), starts(limits, 2, "search"))
    assert searches[1] >= 0.15
    assert others[-1] < searches[1]


async def test_requests_of_a_group_that_waited_for_the_limit_of_all_still_keep_their_own() -> None:
    limits = Limits([limit(rate=6, per="200ms"), limit(rate=2, per="200ms", of="search")])
    others, searches = await asyncio.gather(starts(limits, 15), starts(limits, 6, "search"))
    everything = sorted(others + searches)
    assert min(after - before for before, after in zip(searches, searches[2:], strict=False)) >= 0.195
    assert min(after - before for before, after in zip(everything, everything[6:], strict=False)) >= 0.195


async def test_a_request_whose_turn_comes_too_late_is_not_made_and_takes_no_place() -> None:
    limits = Limits([limit(rate=1, per="10s")], longest_turn=1.0)
    await starts(limits, 1)
    for _ in range(3):
        with pytest.raises(DeliveryUnavailable, match="our limit of 1 in 10 s is used up") as caught:
            await starts(limits, 1)
        assert caught.value.kind is FailureKind.BUSY
        assert caught.value.retry_after is not None
        assert 8 < caught.value.retry_after.total_seconds() <= 10 + SPREAD


async def test_so_many_are_under_way_and_the_others_wait() -> None:
    limits = Limits([limit(concurrent=2)])
    now = most = 0

    async def one() -> None:
        nonlocal now, most
        async with limits.turn(None):
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.01)
            now -= 1

    await asyncio.gather(*(one() for _ in range(7)))
    assert (now, most) == (0, 2)


async def test_who_waits_too_long_for_others_is_busy() -> None:
    limits = Limits([limit(concurrent=1, of="search")], longest_turn=0.05)
    async with limits.turn("search"):
        with pytest.raises(DeliveryUnavailable, match="our limit of 1 at one time for search") as caught:
            await starts(limits, 1, "search")
        await starts(limits, 1)
    assert caught.value.kind is FailureKind.BUSY
    await starts(limits, 1, "search")


async def test_a_place_falls_free_if_a_request_fails_or_is_cancelled() -> None:
    limits = Limits([limit(concurrent=1, rate=1, per="50ms")])
    with pytest.raises(RuntimeError):
        async with limits.turn(None):
            raise RuntimeError
    waiting = asyncio.create_task(starts(limits, 1))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    await starts(limits, 1)


async def test_a_wait_that_the_crm_asked_of_a_group_is_kept() -> None:
    memory = Memory()
    limits = Limits([], memory.wait)
    memory.pause("search", timedelta(seconds=30))
    with pytest.raises(DeliveryUnavailable, match="wait with requests of the group search") as caught:
        await starts(limits, 1, "search")
    assert caught.value.retry_after is not None
    await starts(limits, 1)
