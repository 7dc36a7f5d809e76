"""What the parsers of all the dialer's functions share: rows and times.

Nothing here raises but the errors of `worker.core.errors`. No error holds text of
the body but VICIdial's own fixed sentences, since its bodies repeat the password.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo

from worker.vicidial.error_answers import unreadable

SEPARATORS = ("|", "\t", ",")

_NUMBER = re.compile(r"-?[0-9]{1,9}")
_TAGS = re.compile(r"(?:<(?!b>)[^<>]*>\s*)+")
"""HTML before a row. PHP's own messages begin with `<b>`: they are no rows."""
_DAY = timedelta(days=1)
_YEARS = range(1970, 3000)
_CLOCKS_DIFFER = timedelta(seconds=60)


# --- times


@dataclass(frozen=True, slots=True)
class DialerTimes:
    """How to read the dialer's times, which are local and tell no zone; in an unknown `zone` none is known.

    `near` is an aware time at or after what is read about, such as that of the
    event. It tells apart the two readings of a time in the hour that is repeated
    when the clocks go back.
    """

    zone: tzinfo | None
    near: datetime | None = None

    def read(self, text: str) -> datetime | None:
        """Read a time; `None` for an empty one, a placeholder such as zeros, and in an unknown zone.

        It has the offset of its own day. Of two readings it is the later one that
        is not after `near`, and the first one where there is no `near`. Raises
        `EnrichmentUnavailable` for what is no local time.
        """
        return self.place(local_time(text))

    def place(self, local: datetime | None) -> datetime | None:
        """Return a local time with its offset from UTC, as `read` does."""
        if local is None:
            return None
        found = self.readings(local)
        return found[0] if found else None

    def readings(self, local: datetime) -> tuple[datetime, ...]:
        """Return what a local time can be, the one that `read` takes first; two in the hour that is repeated.

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
        if second is None or second >= offset:  # more: the time never was
            return (first,)
        later = _with_zone(local, timezone(second))
        if self.near is not None and later - self.near <= _CLOCKS_DIFFER:
            return later, first
        return first, later

    def hang_on_near(self, *whens: datetime | None) -> bool:
        """Tell whether one of these times, which were read, could also be read in another way."""
        return any(len(self.readings(when.replace(tzinfo=None))) > 1 for when in whens if when is not None)

    def after(self, start: datetime, seconds: int) -> datetime:
        """Give the time so many seconds after one that was read, with the offset of then."""
        end = (start + timedelta(seconds=seconds)).astimezone(self.zone)
        return end.astimezone(timezone(end.utcoffset() or timedelta(0)))


def _with_zone(local: datetime, zone: timezone) -> datetime:
    return datetime.combine(local, local.time(), zone)  # five times as fast as `replace`


def local_time(text: str) -> datetime | None:
    """Read a time without its zone; `None` for an empty one and for one that is only a placeholder.

    MariaDB's is a date of zeros; years in which nobody called, such as 1 and 9999, are of that kind, and
    with them no offset can lead out of what `datetime` holds. Raises `EnrichmentUnavailable`.
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


# --- rows


def find_rows(
    body: str, asked: str, id_column: str, others: frozenset[str], *, any_case: bool = False
) -> tuple[list[str] | None, list[list[str]]]:
    """Find the different rows that begin with the id asked for, and their columns' names where they are told.

    A header begins with `id_column` and names at least one of `others`. Rows can
    stand amid tens of kilobytes of PHP's warnings. With `any_case`, the id in the
    row may have capital letters where the one asked for has small ones.
    """
    header: list[str] | None = None
    rows: dict[tuple[str, ...], list[str]] = {}
    for line in lines(body):
        if line.startswith(id_column):
            names = _split_behind(line, id_column)
            if names is not None and not others.isdisjoint(names[1:]):
                header = names
                continue
        first = asked
        if any_case and line[: len(asked)].casefold() == asked.casefold():
            first = line[: len(asked)]
        if line.startswith(first) and (values := _split_behind(line, first)) is not None:
            rows[tuple(values)] = values
    return header, list(rows.values())


def split_row(line: str, first: str) -> list[str] | None:
    """Split a line at the separator that stands behind its first value; `None` where it begins otherwise."""
    return _split_behind(line, first) if line.startswith(first) else None


def _split_behind(line: str, first: str) -> list[str] | None:
    behind = len(first)
    mark = line[behind : behind + 1]
    if mark == " ":
        mark = line[behind:].lstrip(" ")[:1]
    if mark in SEPARATORS:
        return split_values(line, mark)
    return [first] if line and not mark else None


def split_values(line: str, mark: str) -> list[str]:
    """Split a line; where blanks stand before every value but the first, they are no part of the values."""
    values = line.split(mark)
    last = values[-1]
    if (last and last[0] != " ") or not all(value.startswith(" ") for value in values[1:] if value):
        return values
    return [value.strip() for value in values]


def by_name(
    function: str, columns: Sequence[str], values: Sequence[str], *, free_text: str | None = None
) -> dict[str, str]:
    """Return a row's values by their columns' names. Raises `EnrichmentUnavailable` if they don't fit.

    The column `free_text` may hold the separator: what stands behind it is counted from the end.
    """
    surplus = len(values) - len(columns)
    if surplus > 0 and free_text in columns:
        at = columns.index(free_text)
        values = [*values[:at], "|".join(values[at : at + surplus + 1]), *values[at + surplus + 1 :]]
    if len(columns) != len(values):
        raise unreadable(f"the row of {function} has {len(values)} columns where {len(columns)} are named")
    return dict(zip(columns, values, strict=True))


def only_row(rows: list[list[str]]) -> list[str]:
    """Give the row where it is the only one. Raises `EnrichmentUnavailable`."""
    if len(rows) > 1:
        raise unreadable("the dialer answered with several different rows for one id")
    return rows[0]


def lines(body: str) -> list[str]:
    """Split at line feeds alone: `str.splitlines` would also cut at characters inside a field.

    HTML at the beginning of a line is left out.
    """
    if "\r" in body:
        body = body.replace("\r\n", "\n").removesuffix("\r")
    split = body.split("\n")
    return (
        split if "<" not in body else [_TAGS.sub("", line, 1) if line[:1] == "<" else line for line in split]
    )


def seconds(text: str, what: str) -> int | None:
    """Read a number of seconds, `None` where it is empty or negative. Raises `EnrichmentUnavailable`."""
    if not text:
        return None
    if not _NUMBER.fullmatch(text):
        raise unreadable(f"the dialer answered with a {what} that is not a number")
    number = int(text)
    return number if number >= 0 else None
