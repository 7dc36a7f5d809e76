"""The dialer's time zone: the setting, or else the server's present offset."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timezone, tzinfo

import structlog

from worker.core.errors import ProcessingError
from worker.vicidial.responses import read_offset

MEASURE_EVERY = 3600.0
MEASURE_AGAIN = 60.0
"""Seconds until the offset is asked for again: after an answer, and after none."""

_log = structlog.get_logger()


class DialerZone:
    """Tells in which zone the dialer writes its times."""

    def __init__(
        self,
        setting: tzinfo | None,
        ask_version: Callable[[], Awaitable[str]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the setting; where it is `None`, `ask_version` is asked, at most once a minute."""
        self._zone = setting
        self._fixed = setting is not None
        self._ask_version = ask_version
        self._clock = clock
        self._ask_at = clock()
        self._asking = asyncio.Lock()

    async def get(self) -> tzinfo | None:
        """Give the zone, `None` where it is unknown. Never raises.

        While the offset is being asked for, the others use what is known, or
        wait for the answer where nothing is: their times would be null without it.
        """
        if self._fixed or self._clock() < self._ask_at or (self._zone is not None and self._asking.locked()):
            return self._zone
        async with self._asking:
            if self._clock() >= self._ask_at:
                await self._measure()
        return self._zone

    async def _measure(self) -> None:
        offset = None
        try:
            offset = read_offset(await self._ask_version())
        except ProcessingError as error:
            _log.warning("dialer_offset_unknown", error=str(error))
        else:
            if offset is None:
                _log.warning("dialer_offset_unknown", error="no such function; set vicidial.timezone")
        if offset is not None:
            self._zone = timezone(offset)
        self._ask_at = self._clock() + (MEASURE_AGAIN if offset is None else MEASURE_EVERY)
