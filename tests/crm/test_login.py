"""The login: one at a time, renewed before it ends, and not tried again and again after a refusal."""

import asyncio
from collections.abc import Iterable
from datetime import timedelta

import pytest

from worker.core.errors import DeliveryUnavailable, FailureKind, SinkLoginRefused
from worker.crm.login import Logins
from worker.crm.steps import Access


class Crm:
    """Logs in with these results, in turn; the last one repeats."""

    def __init__(self, *results: Access | DeliveryUnavailable, life: float | None = 100.0) -> None:
        self.now = 0.0
        self.count = 0
        self._results = results or [Access({}, "u", None if life is None else timedelta(seconds=life))]
        self.logins = Logins(self._log_in, 60.0, clock=lambda: self.now)
        self.go = asyncio.Event()
        self.go.set()

    async def _log_in(self) -> Access:
        await self.go.wait()
        result = self._results[min(self.count, len(self._results) - 1)]
        self.count += 1
        if isinstance(result, DeliveryUnavailable):
            raise result
        return Access({"n": self.count}, result.url, result.lifetime)

    async def number(self) -> object:
        return (await self.logins.get()).login["n"]


def good(seconds: float = 100.0) -> Access:
    return Access({}, "u", timedelta(seconds=seconds))


async def all_of(crm: Crm, count: int) -> Iterable[object]:
    return await asyncio.gather(*(crm.number() for _ in range(count)), return_exceptions=True)


async def test_whoever_needs_one_while_it_is_made_waits_for_that_one() -> None:
    crm = Crm()
    assert await all_of(crm, 5) == [1] * 5
    assert crm.count == 1


async def test_it_is_renewed_at_nine_tenths_of_its_life() -> None:
    crm = Crm()
    assert await crm.number() == 1
    crm.now = 89.0
    assert await crm.number() == 1
    crm.now = 90.0
    assert await crm.number() == 2


async def test_one_without_an_end_is_kept() -> None:
    crm = Crm(life=None)
    assert await crm.number() == 1
    crm.now = 1e9
    assert await crm.number() == 1


async def test_one_that_the_crm_does_not_accept_is_renewed_once_for_all() -> None:
    crm = Crm()
    stale = await crm.logins.get()
    renewed = await asyncio.gather(*(crm.logins.renew(stale) for _ in range(3)))
    assert [each.login["n"] for each in renewed] == [2, 2, 2]


async def test_while_the_old_one_is_good_a_renewal_that_fails_changes_nothing() -> None:
    crm = Crm(good(), DeliveryUnavailable("down"))
    assert await crm.number() == 1
    crm.now = 95.0
    assert await crm.number() == 1
    crm.now = 100.0
    with pytest.raises(DeliveryUnavailable, match="down"):
        await crm.number()


async def test_each_delivery_gets_an_error_of_its_own() -> None:
    crm = Crm(DeliveryUnavailable("later", FailureKind.BUSY, timedelta(seconds=3)))
    errors = [each for each in await all_of(crm, 2) if isinstance(each, DeliveryUnavailable)]
    assert [(each.kind, each.retry_after) for each in errors] == [
        (FailureKind.BUSY, timedelta(seconds=3))
    ] * 2
    assert errors[0] is not errors[1]
    assert crm.count == 1


async def test_after_a_refusal_nobody_asks_again_for_a_while() -> None:
    crm = Crm(SinkLoginRefused("wrong key"), good())
    for now in (0.0, 59.0):
        crm.now = now
        with pytest.raises(SinkLoginRefused, match="wrong key"):
            await crm.number()
    assert crm.count == 1
    crm.now = 60.0
    assert await crm.number() == 2


async def test_a_new_secret_is_tried_at_once() -> None:
    crm = Crm(SinkLoginRefused("wrong key"), good())
    with pytest.raises(SinkLoginRefused):
        await crm.number()
    crm.logins.forget()
    assert await crm.number() == 2


async def test_a_delivery_that_is_cancelled_does_not_end_the_login_of_the_others() -> None:
    crm = Crm()
    crm.go.clear()
    first, second = asyncio.create_task(crm.number()), asyncio.create_task(crm.number())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    crm.go.set()
    assert await second == 1


async def test_closing_ends_a_login_that_is_being_made() -> None:
    crm = Crm()
    await crm.logins.close()
    crm.go.clear()
    waiting = asyncio.create_task(crm.number())
    await asyncio.sleep(0)
    await crm.logins.close()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
