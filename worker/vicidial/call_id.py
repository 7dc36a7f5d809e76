"""What VICIdial's id of a call tells: when the call began, and its lead.

The dialer builds the id when it dials, or when the caller enters the queue::

    V 1 20 14 05 09 0000012345
    │ │  │  │  │  │ └ the lead, ten digits
    │ │  │  │  │  └ second
    │ │  │  │  └ minute
    │ │  │  └ hour, of the dialer's local time
    │ │  └ day
    │ └ last digit of the month: 1 is January or November, 0 is October
    └ who made the call: V auto-dialled, M dialled by an agent, Y and J in-groups

The tens digit of the month and the year are not in it. They follow from a time
near it, the row's `call_date`, which is between the start and the end of the call.
"""

import re
from datetime import datetime, time, timedelta
from typing import NamedTuple

from worker.core.ids import LARGEST_LEAD
from worker.vicidial.rows import DialerTimes

EARLIEST = timedelta(minutes=-1)
LATEST = timedelta(hours=12)
"""How much later than the id's time `call_date` may be. The clocks of two servers may differ a little."""

REPEATS_AFTER = timedelta(days=60)
"""No id comes again sooner. Of months with the same last digit, November and January are the nearest."""

_SHAPE = re.compile(
    r"(?:[YJVMS]|DC|LP|VH|XL)([0-9])([0-9]{2})([0-9]{2})([0-9]{2})([0-9]{2})([0-9]{10})", re.ASCII
)
_NEAREST_DAYS = (timedelta(0), timedelta(days=-1), timedelta(days=1))
_LONGEST_MONTHS = (31, 31, 31, 31, 30, 31, 30, 31, 31, 30)
"""Days of the longest month, by the last digit of its number: 2 is also December."""


class CallId(NamedTuple):
    """The parts of a call id whose date is one of some year."""

    month: int
    """Its last digit."""
    day: int
    time: time
    lead_id: str | None
    """`None` where the call was made without a lead."""

    def is_at(self, when: datetime) -> bool:
        """Tell whether a time of the dialer's zone is the one in the id."""
        return (when.month % 10, when.day, when.time()) == (self.month, self.day, self.time)

    def begin(self, call_date: datetime, times: DialerTimes) -> tuple[datetime, datetime] | None:
        """Return when the call began, and `call_date`, both with their offsets from UTC.

        `None` if `call_date`, a local time, does not fit to the id: the call then began at another time, or
        the id was not made by VICIdial. In the hour that comes twice when the clocks go back, the reading of
        `call_date` is the one that `times` prefers, and the start is the last one before it.
        """
        for at in times.readings(call_date):
            for days in _NEAREST_DAYS:
                on = call_date + days
                if on.day != self.day or on.month % 10 != self.month:
                    continue
                readings = times.readings(datetime.combine(on, self.time))
                for began in readings if len(readings) == 1 else sorted(readings, reverse=True):
                    if EARLIEST <= at - began <= LATEST:
                        return began, at
        return None


def parse_call_id(call_id: str) -> CallId | None:
    """Return the parts of a call id, `None` where it has another shape or a date that never is."""
    found = _SHAPE.fullmatch(call_id)
    if found is None:
        return None
    month, day, hour, minute, second = map(int, found.group(1, 2, 3, 4, 5))
    if not 0 < day <= _LONGEST_MONTHS[month] or hour > 23 or minute > 59 or second > 59:
        return None
    lead = int(found[6])
    return CallId(month, day, time(hour, minute, second), str(lead) if 0 < lead <= LARGEST_LEAD else None)
