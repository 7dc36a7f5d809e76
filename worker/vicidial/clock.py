"""The dialer's clock: the time zone of its times, how to read them, and how far its clock is from ours."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Never

import structlog

from worker.core.errors import EnrichmentUnavailable, FailureKind, ProcessingError
from worker.vicidial.answers import explain, unreadable

MEASURE_EVERY = 900.0
"""Seconds: everywhere in the world clocks are changed at a full quarter of an hour."""
MEASURE_AGAIN = 60.0
"""Seconds until `version` is asked again after it failed, or if it has no offset."""
ASK_AGAIN = 1.0
"""The same while nothing is known and a look-up waits for it."""
LARGEST_SKEW = 30.0
"""Seconds by which the dialer's clock may differ from ours before it is worth a warning."""

_DAY = timedelta(days=1)
_YEARS = range(1970, 3000)
_CLOCKS_DIFFER = timedelta(seconds=60)
_VERSION = re.compile(r"VERSION: ([\w.-]{1,40})\|", re.ASCII)
_BUILD = re.compile(r"\|BUILD: ([\w.-]{1,40})\|", re.ASCII)
_EPOCH = re.compile(r"EPOCH: ([0-9]{9,11})\|")
_DATE = re.compile(r"DATE: ([0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2})\|EPOCH: ")
_OF_AGENT_API = re.compile(
    r"VERSION: [^|\n]*\|BUILD: [^|\n]*\|DATE: [^|\n]*\|EPOCH: [0-9]+\s*$", re.MULTILINE
)
"""It ends with the epoch; the answer of the non-agent API goes on with daylight saving and time zone."""

_log = structlog.get_logger()


# --- the answer of version


@dataclass(frozen=True, slots=True)
class Version:
    """An answer of `version`; None for what it lacks.

    `epoch` is the dialer's clock in seconds since 1970, `offset` its present
    offset from UTC.
    """

    version: str | None
    build: str | None
    epoch: int | None
    offset: timedelta | None
    outage: str = field(default="", compare=False)
    """Why the answer is that of an outage, if it is: an empty body, a page, a database that is down."""
    agent_api: bool = False
    """Whether the agent API answered (`agc/api.php`), which knows none of our functions."""


def read_version(body: str) -> Version:
    """Parse an answer of `version`, whatever it is. Never raises."""
    version, build, epoch = (
        None if found is None else found[1]
        for found in (pattern.search(body) for pattern in (_VERSION, _BUILD, _EPOCH))
    )
    error = explain(body, "version") if version is None and epoch is None else None
    return Version(
        version,
        build,
        None if epoch is None else int(epoch),
        _offset(body),
        agent_api=_OF_AGENT_API.search(body) is not None,
        outage=str(error) if error is not None and error.kind is FailureKind.OUTAGE else "",
    )


def _offset(body: str) -> timedelta | None:
    """Return `DATE` (read as UTC) less the `EPOCH` beside it, to the minute: the `TZ` field can be wrong."""
    if (date := _DATE.search(body)) is None or (epoch := _EPOCH.match(body, date.end(1) + 1)) is None:
        return None
    try:
        local = datetime.fromisoformat(date[1]).replace(tzinfo=UTC)
    except ValueError:
        return None
    offset = timedelta(minutes=round((local.timestamp() - int(epoch[1])) / 60))
    return offset if abs(offset) < timedelta(days=1) else None


# --- the dialer's times


@dataclass(frozen=True, slots=True)
class DialerTimes:
    """How to read the dialer's times, which are local and name no zone; without a `zone` none is known.

    `near` is an aware time at or after the one that is read, such as the event's. It decides between the two
    readings of a time in the hour that is repeated when the clocks go back.
    """

    zone: tzinfo | None
    near: datetime | None = None

    def read(self, text: str) -> datetime | None:
        """Parse a time; None for an empty one, a placeholder such as zeros, and in an unknown zone.

        It has the offset of its own day. Of two readings it is the later one that is not after `near`, and
        the first one without `near`. Raises `EnrichmentUnavailable` if it is no local time.
        """
        return self.localize(local_time(text))

    def localize(self, local: datetime | None) -> datetime | None:
        """Return a local time with its offset from UTC, as `read` does."""
        if local is None:
            return None
        found = self.readings(local)
        return found[0] if found else None

    def readings(self, local: datetime) -> tuple[datetime, ...]:
        """Return the readings of a local time, that of `read` first; two in the hour that is repeated.

        Empty in an unknown zone.
        """
        if type(self.zone) is timezone:
            return (_with_zone(local, self.zone),)
        offset = None if self.zone is None else self.zone.utcoffset(local)
        if self.zone is None or offset is None:
            return ()
        first = _with_zone(local, timezone(offset))
        # Nowhere are the clocks changed twice within two days, and asking twice more is cheaper than `fold`.
        if self.zone.utcoffset(local - _DAY) == self.zone.utcoffset(local + _DAY):
            return (first,)
        second = self.zone.utcoffset(local.replace(fold=1))
        if second is None or second >= offset:  # more: the clocks skipped this time
            return (first,)
        later = _with_zone(local, timezone(second))
        if self.near is not None and later - self.near <= _CLOCKS_DIFFER:
            return later, first
        return first, later

    def are_ambiguous(self, *whens: datetime | None) -> bool:
        """Return whether one of these times, which were read, has another reading."""
        return any(len(self.readings(when.replace(tzinfo=None))) > 1 for when in whens if when is not None)

    def after(self, start: datetime, seconds: int) -> datetime:
        """Return the time `seconds` after one that was read, with the offset of that moment."""
        end = (start + timedelta(seconds=seconds)).astimezone(self.zone)
        return end.astimezone(timezone(end.utcoffset() or timedelta(0)))


def _with_zone(local: datetime, zone: timezone) -> datetime:
    return datetime.combine(local, local.time(), zone)  # five times as fast as `replace`


def local_time(text: str) -> datetime | None:
    """Parse a time without a zone; None for an empty one and for a placeholder.

    Placeholders are MariaDB's date of zeros, and years such as 1 and 9999, for which an offset could exceed
    the range of `datetime`. Raises `EnrichmentUnavailable`.
    """
    if not text or text.startswith("0000-00-00"):
        return None
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise unreadable("the dialer answered with a time that can't be read") from None
    if when.tzinfo is not None:
        raise unreadable("the dialer answered with a time that has a zone, which it never has")
    return when if when.year in _YEARS else None


# --- its clock


class DialerClock:
    """Knows the dialer's zone, and warns if its clock is wrong.

    `skew` is in seconds, positive if the dialer's clock is ahead of ours, None while it is unknown.
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
        """Use the zone of the settings; if it is None, measure the present offset from UTC instead.

        `on_outage` is called with the reason each time `version` fails while no offset is known: no call is
        looked up then, so nothing else would show that the dialer is down.
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
        """Return the zone, None if the dialer shows no offset.

        While the offset is measured, others use the last known one, or wait if there is none. Raises
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
        except Exception as error:  # noqa: BLE001 - a bug of ours must not end the watching
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
        """Compare the dialer's clock with ours, which shows `now`, and with the settings."""
        if version.epoch is not None:
            self.skew = version.epoch + 0.5 - now  # whole seconds, rounded down
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
