"""The dialer's clock: which zone its times are in, and how far it is from ours."""

import asyncio
from collections import deque
from datetime import timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

import pytest
from structlog.testing import capture_logs

from tests.adapters.raw import until
from worker.core.errors import EnrichmentUnavailable, FailureKind
from worker.vicidial.clock import ASK_AGAIN, MEASURE_AGAIN, MEASURE_EVERY, DialerClock, Version

NEW_YORK = ZoneInfo("America/New_York")
NOW = 1795287600.0  # 2026-11-21 19:00:00 UTC, winter in New York
DOWN = EnrichmentUnavailable("down")
BROKEN = Version(None, None, None, None, "the dialer can't reach its database")


def version(hours: float | None = -5, epoch: int | None = int(NOW)) -> Version:
    return Version("2.14-202", "250720-1841", epoch, None if hours is None else timedelta(hours=hours))


class Dialer:
    """Answers `version` in turn; the last answer repeats."""

    def __init__(self, *answers: Version | Exception) -> None:
        self.answers = deque(answers)
        self.asked = 0
        self.now = 0.0
        """Seconds since `NOW`, which is a full quarter of an hour."""
        self.outages: list[str] = []
        self.breaker = asyncio.Event()
        self.breaker.set()

    async def __call__(self) -> Version:
        self.asked += 1
        answer = self.answers.popleft() if len(self.answers) > 1 else self.answers[0]
        await self.breaker.wait()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def clock(self, setting: tzinfo | None = None) -> DialerClock:
        return DialerClock(
            setting,
            self,
            on_outage=self.outages.append,
            clock=lambda: self.now,
            wall=lambda: NOW + self.now,
        )


async def test_a_zone_that_is_set_is_known_without_asking() -> None:
    dialer = Dialer(version())
    assert await dialer.clock(NEW_YORK).zone() is NEW_YORK
    assert dialer.asked == 0


async def test_without_one_the_present_offset_is_measured_after_each_quarter_of_an_hour() -> None:
    """The clocks are changed at a quarter of an hour, so no call's times are read by the offset before."""
    dialer = Dialer(version(-5), version(-4))
    dialer.now = 600.0
    clock = dialer.clock()
    dialer.answers[0] = version(-5, int(NOW) + 600)
    assert [await clock.zone() for _ in range(3)] == [timezone(timedelta(hours=-5))] * 3
    dialer.now = MEASURE_EVERY - 1
    assert await clock.zone() == timezone(timedelta(hours=-5))
    assert dialer.asked == 1
    dialer.now = MEASURE_EVERY + 2
    assert await clock.zone() == timezone(timedelta(hours=-4))
    assert dialer.asked == 2


async def test_the_quarter_of_an_hour_is_that_of_the_dialers_clock() -> None:
    dialer = Dialer(version(-5, int(NOW) - 20))
    clock = dialer.clock()
    await clock.zone()
    dialer.now = 10.0
    assert (await clock.zone(), dialer.asked) == (timezone(timedelta(hours=-5)), 1)
    dialer.now = 21.0
    assert (await clock.zone(), dialer.asked) == (timezone(timedelta(hours=-5)), 2)


async def test_an_offset_that_is_missing_is_null_and_asked_for_again_a_minute_later() -> None:
    dialer = Dialer(version(None), version(-5))
    clock = dialer.clock()
    with capture_logs() as logs:
        assert await clock.zone() is None
        assert await clock.zone() is None
    assert dialer.asked == 1
    assert [line["event"] for line in logs] == ["dialer_clock_unknown"]
    dialer.now = MEASURE_AGAIN
    assert await clock.zone() == timezone(timedelta(hours=-5))


@pytest.mark.parametrize(
    ("failure", "says"),
    [(DOWN, "down"), (BROKEN, "can't reach its database"), (RuntimeError("a bug"), "unforeseen")],
    ids=["down", "database", "bug"],
)
async def test_an_offset_that_an_outage_withholds_is_an_outage_and_asked_for_again_a_second_later(
    failure: Version | Exception, says: str
) -> None:
    dialer = Dialer(failure, failure, version(-5))
    clock = dialer.clock()
    for second in (0.0, ASK_AGAIN):
        dialer.now = second
        for _ in range(3):
            with pytest.raises(EnrichmentUnavailable, match=says) as caught:
                await clock.zone()
            assert caught.value.kind is FailureKind.OUTAGE
            assert "vicidial.timezone" in str(caught.value)
    assert dialer.asked == 2
    dialer.now = 2 * ASK_AGAIN
    assert await clock.zone() == timezone(timedelta(hours=-5))


@pytest.mark.parametrize("failure", [DOWN, BROKEN], ids=["down", "database"])
async def test_an_outage_that_keeps_calls_from_being_looked_up_is_reported_once_a_request(
    failure: Version | Exception,
) -> None:
    dialer = Dialer(failure, failure, version(-5), failure)
    clock = dialer.clock()
    for dialer.now in (0.0, 0.5, ASK_AGAIN):
        for _ in range(3):
            with pytest.raises(EnrichmentUnavailable):
                await clock.zone()
    assert (len(dialer.outages), dialer.asked) == (2, 2)
    for dialer.now in (2 * ASK_AGAIN, 2 * MEASURE_EVERY):
        await clock.zone()
    assert (len(dialer.outages), dialer.asked) == (2, 4), "a known offset goes on to be used"


async def test_with_a_zone_that_is_set_an_outage_is_no_matter_of_the_clock() -> None:
    dialer = Dialer(DOWN)
    watching = asyncio.create_task(dialer.clock(NEW_YORK).watch())
    await until(lambda: dialer.asked == 1)
    watching.cancel()
    assert dialer.outages == []


async def test_while_nothing_is_known_one_asks_for_all_and_they_share_what_becomes_of_it() -> None:
    dialer = Dialer(DOWN)
    clock = dialer.clock()
    dialer.breaker.clear()
    waiting = [asyncio.ensure_future(clock.zone()) for _ in range(20)]
    await until(lambda: dialer.asked == 1)
    dialer.breaker.set()
    failed = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(each) for each in failed] == [EnrichmentUnavailable] * 20
    assert dialer.asked == 1


async def test_that_the_dialer_names_no_offset_stays_known_while_it_is_down() -> None:
    dialer = Dialer(version(None), DOWN)
    clock = dialer.clock()
    assert await clock.zone() is None
    dialer.now = MEASURE_AGAIN
    assert [await clock.zone() for _ in range(2)] == [None, None]
    assert dialer.asked == 2


async def test_what_was_measured_stays_while_the_dialer_is_down() -> None:
    dialer = Dialer(version(-5), DOWN)
    clock = dialer.clock()
    await clock.zone()
    dialer.now = MEASURE_EVERY + 1
    assert await clock.zone() == timezone(timedelta(hours=-5))


async def test_the_first_measurement_is_waited_for_and_a_later_one_is_not() -> None:
    dialer = Dialer(version(-5))
    clock = dialer.clock()
    dialer.breaker.clear()
    first = [asyncio.ensure_future(clock.zone()) for _ in range(3)]
    await until(lambda: dialer.asked == 1)
    dialer.breaker.set()
    assert await asyncio.gather(*first) == [timezone(timedelta(hours=-5))] * 3
    dialer.now = MEASURE_EVERY + 1
    dialer.breaker.clear()
    asks = asyncio.ensure_future(clock.zone())
    await until(lambda: dialer.asked == 2)
    assert await clock.zone() == timezone(timedelta(hours=-5))
    dialer.breaker.set()
    await asks


async def test_it_is_watched_from_the_start_also_where_a_zone_is_set() -> None:
    dialer = Dialer(version(-5))
    clock = dialer.clock(NEW_YORK)
    watch = asyncio.ensure_future(clock.watch())
    await until(lambda: clock.skew is not None)
    watch.cancel()
    assert clock.skew == pytest.approx(0.5)
    assert dialer.asked == 1


@pytest.mark.parametrize(
    ("ahead", "warned"), [(0, False), (29, False), (31, True), (-31, True), (-29, False)]
)
async def test_a_clock_that_differs_by_over_30_s_is_warned_of(ahead: int, *, warned: bool) -> None:
    clock = Dialer(version(epoch=int(NOW) + ahead)).clock()
    with capture_logs() as logs:
        await clock.zone()
    assert clock.skew == pytest.approx(ahead + 0.5)
    assert [line["seconds"] for line in logs if line["event"] == "dialer_clock_differs"] == (
        [round(ahead + 0.5)] if warned else []
    )


@pytest.mark.parametrize(("hours", "warned"), [(-5, False), (0, True), (None, False)])
async def test_a_zone_that_is_not_the_dialers_is_warned_of(hours: float | None, *, warned: bool) -> None:
    clock = Dialer(version(hours)).clock(NEW_YORK)
    with capture_logs() as logs:
        watch = asyncio.ensure_future(clock.watch())
        await until(lambda: clock.skew is not None)
        watch.cancel()
    shown = [(line["expected"], line["shown"]) for line in logs if line["event"] == "dialer_zone_differs"]
    assert shown == ([("UTC-05:00", "UTC")] if warned else [])
    assert await clock.zone() is NEW_YORK
