"""The dialer's clock: in which zone it writes its times, and how far it is from ours."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Never

import structlog

from worker.core.errors import ProcessingError
from worker.vicidial.version import Version

MEASURE_EVERY = 3600.0
MEASURE_AGAIN = 60.0
"""Seconds until `version` is asked for again: after an answer, and after none."""
LARGEST_SKEW = 30.0
"""Seconds by which the dialer's clock may differ from ours before it is worth a warning."""

_log = structlog.get_logger()


class DialerClock:
    """Tells the dialer's zone, and warns where its clock is wrong.

    `skew` is in seconds, positive where the dialer's clock is ahead of ours, `None` while it is unknown.
    """

    def __init__(
        self,
        setting: tzinfo | None,
        ask_version: Callable[[], Awaitable[Version]],
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Take the zone that is set; where it is `None`, the present offset from UTC is measured instead."""
        self._zone = setting
        self._setting = setting
        self._ask_version = ask_version
        self._clock, self._wall = clock, wall
        self._ask_at = clock()
        self._asking = asyncio.Lock()
        self.skew: float | None = None

    async def watch(self) -> Never:
        """Measure now, each hour, and a minute after a failure, until cancelled."""
        while True:
            await self._measure_where_due()
            await asyncio.sleep(self._ask_at - self._clock())

    async def zone(self) -> tzinfo | None:
        """Give the zone, `None` where it is unknown. Never raises.

        While the offset is being asked for, the others use what is known, or
        wait for the answer where nothing is: their times would be null without it.
        """
        if self._setting is None and not (self._zone is not None and self._asking.locked()):
            await self._measure_where_due()
        return self._zone

    async def _measure_where_due(self) -> None:
        if self._clock() < self._ask_at:
            return
        async with self._asking:
            if self._clock() >= self._ask_at:
                await self._measure()

    async def _measure(self) -> None:
        version = None
        before = self._wall()
        try:
            version = await self._ask_version()
        except ProcessingError as error:
            _log.warning("dialer_clock_unknown", error=str(error))
        except Exception as error:  # noqa: BLE001 - nobody foresaw it, and times are worth another try
            _log.error("dialer_clock_unknown", exc_info=error)
        else:
            self._compare(version, (before + self._wall()) / 2)
        told = version is not None and version.offset is not None
        self._ask_at = self._clock() + (MEASURE_EVERY if told else MEASURE_AGAIN)

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
