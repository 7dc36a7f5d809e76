"""The dialer's clock: in which zone it writes its times, and how far it is from ours."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Never

import structlog

from worker.core.errors import EnrichmentUnavailable, ProcessingError
from worker.vicidial.version import Version

MEASURE_EVERY = 900.0
"""Seconds: all over the world the clocks are changed at a full quarter of an hour."""
MEASURE_AGAIN = 60.0
"""Seconds until `version` is asked again after it failed, or told no offset."""
ASK_AGAIN = 1.0
"""The same while nothing is known, and a look-up waits for it."""
LARGEST_SKEW = 30.0
"""Seconds by which the dialer's clock may differ from ours before it is worth a warning."""

_log = structlog.get_logger()


class DialerClock:
    """Tells the dialer's zone, and warns if its clock is wrong.

    `skew` is in seconds, positive if the dialer's clock is ahead of ours, `None` while it is unknown.
    """

    def __init__(
        self,
        setting: tzinfo | None,
        ask_version: Callable[[], Awaitable[Version]],
        *,
        on_outage: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Take the zone that is set; if it is `None`, the present offset from UTC is measured instead.

        `on_outage` is called with the reason each time that `version` fails: no call is looked up then, so
        nothing else would show that the dialer is down.
        """
        self._zone = setting
        self._setting = setting
        self._ask_version = ask_version
        self._on_outage = on_outage
        self._clock, self._wall = clock, wall
        self._ask_at = self._asked_at = clock()
        self._asking = asyncio.Lock()
        self._answered = False
        self._failure = "it was not asked yet"
        self.skew: float | None = None

    async def watch(self) -> Never:
        """Measure now, after each quarter of an hour, and a minute after a failure, until cancelled."""
        while True:
            await self._measure_if_due()
            await asyncio.sleep(self._ask_at - self._clock())

    async def zone(self) -> tzinfo | None:
        """Return the zone, `None` if the dialer tells no offset.

        While the offset is asked for, others use what is known, or wait for the answer if nothing is. Raises
        `EnrichmentUnavailable` while nothing is known because `version` failed: an outage must not cost a
        call its times.
        """
        if self._setting is not None:
            return self._setting
        if not self._answered:
            await self._measure_first()
        elif not self._asking.locked():
            await self._measure_if_due()
        return self._zone

    async def _measure_first(self) -> None:
        async with self._asking:
            if not self._answered and self._clock() >= self._asked_at:
                await self._measure()
        if not self._answered:
            raise EnrichmentUnavailable(
                f"the dialer's time zone is not known, as the function version failed: {self._failure};"
                " set vicidial.timezone to do without it"
            )

    async def _measure_if_due(self) -> None:
        if self._clock() < self._ask_at:
            return
        async with self._asking:
            if self._clock() >= self._ask_at:
                await self._measure()

    async def _measure(self) -> None:
        before = self._wall()
        offset = None
        try:
            version = await self._ask_version()
        except ProcessingError as error:
            self._failed(str(error))
        except Exception as error:  # noqa: BLE001 - nobody foresaw it, and times are worth another try
            self._failure = "an unforeseen error"
            _log.error("dialer_clock_unknown", exc_info=error)
        else:
            if version.outage:
                self._failed(version.outage)
            else:
                self._answered = True
                offset = version.offset
                self._compare(version, (before + self._wall()) / 2)
        now = self._clock()
        self._asked_at = now + ASK_AGAIN
        self._ask_at = now + (MEASURE_AGAIN if offset is None else self._until_a_change())

    def _failed(self, why: str) -> None:
        self._failure = why
        _log.warning("dialer_clock_unknown", error=why)
        if not self._answered and self._setting is None:
            self._on_outage(why)

    def _until_a_change(self) -> float:
        """Return the seconds until the dialer's clock may have been changed."""
        return MEASURE_EVERY - (self._wall() + (self.skew or 0)) % MEASURE_EVERY + 1

    def _compare(self, version: Version, now: float) -> None:
        """Learn from what the dialer's clock shows while ours shows `now`."""
        if version.epoch is not None:
            self.skew = version.epoch + 0.5 - now  # it is told in whole seconds, cut off
            if abs(self.skew) > LARGEST_SKEW:
                _log.warning("dialer_clock_differs", seconds=round(self.skew), advice="set both by NTP")
        if version.offset is None:
            if self._setting is None:
                _log.warning("dialer_clock_unknown", error="no such function; set vicidial.timezone")
        elif self._setting is None:
            self._zone = timezone(version.offset)
        elif (expected := self._expected(now)) != version.offset:
            _log.warning(
                "dialer_zone_differs",
                expected=_hours(expected),
                shown=_hours(version.offset),
                advice="check vicidial.timezone: the calls' times may be wrong",
            )

    def _expected(self, now: float) -> timedelta | None:
        return datetime.fromtimestamp(now, UTC).astimezone(self._setting).utcoffset()


def _hours(offset: timedelta | None) -> str:
    return str(timezone(offset or timedelta(0)))
