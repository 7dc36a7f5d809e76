"""What the parsers of all the dialer's functions share: rows, times, and what its error bodies mean.

Nothing here raises but the errors of `worker.core.errors`. No error holds text of
the body but VICIdial's own fixed sentences, since its bodies repeat the password.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo
from typing import NoReturn

from worker.core.errors import EnrichmentUnavailable, Fault, FunctionRefused

SEPARATORS = ("|", "\t", ",")

_NUMBER = re.compile(r"-?[0-9]{1,9}")
_HTML = re.compile(r"<(!doctype|html|head|body|br|b|title|p|h1)\b", re.IGNORECASE)
_ERROR_LINE = re.compile(r"^ERROR: ?(.*)$", re.MULTILINE)
_ECHO = re.compile(r"[:|]| - ")
_DAY = timedelta(days=1)
_YEARS = range(1970, 3000)
_CLOCKS_DIFFER = timedelta(seconds=60)

_LOGIN_REFUSED = {
    "LOGIN INCORRECT": "check vicidial.user and vicidial.password; an API user that is inactive or below User"
    " Level 7 gets this too, and with two-factor login on even the right password does: turn two-factor off"
    " for the API user",
    "INVALID USERNAME OR PASSWORD": "check vicidial.user and vicidial.password",
    "TOO MANY LOGIN ATTEMPTS": "ten failed logins lock the API user for 15 minutes, counted from its last"
    " good login; check vicidial.password",
    "IP ADDRESS IS NOT ALLOWED": "this host's address must be on the API IP list of the API user's user group"
    " (Admin > IP Lists, Admin > User Groups)",
    "INVALID SOURCE": "vicidial.source must be 2 to 20 letters and digits",
}
_LEVELS = {
    "callid_info": 7,
    "recording_lookup": 7,
    "user_details": 7,
    "agent_campaigns": 8,
    "campaigns_list": 8,
}
_MODIFIES_USERS = frozenset({"agent_campaigns"})
_NO_PERMISSION = "USER DOES NOT HAVE PERMISSION"
_NO_FUNCTION = "NO FUNCTION SPECIFIED"


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
        unreadable("the dialer answered with a time that can't be read")
    if when.tzinfo is not None:
        unreadable("the dialer answered with a time that has a zone, which it never has")
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


def by_name(function: str, columns: Sequence[str], values: Sequence[str]) -> dict[str, str]:
    """Give a row's values by their columns' names. Raises `EnrichmentUnavailable` where they don't fit."""
    if len(columns) != len(values):
        unreadable(f"the row of {function} has {len(values)} columns where {len(columns)} are named")
    return dict(zip(columns, values, strict=True))


def only_row(rows: list[list[str]]) -> list[str]:
    """Give the row where it is the only one. Raises `EnrichmentUnavailable`."""
    if len(rows) > 1:
        unreadable("the dialer answered with several different rows for one id")
    return rows[0]


def lines(body: str) -> list[str]:
    """Split at line feeds alone: `str.splitlines` would also cut at characters inside a field."""
    if "\r" in body:
        body = body.replace("\r\n", "\n").removesuffix("\r")
    return body.split("\n")


def seconds(text: str, what: str) -> int | None:
    """Read a number of seconds, `None` where it is empty or negative. Raises `EnrichmentUnavailable`."""
    if not text:
        return None
    if not _NUMBER.fullmatch(text):
        unreadable(f"the dialer answered with a {what} that is not a number")
    number = int(text)
    return number if number >= 0 else None


# --- error bodies


def error_line(body: str) -> str | None:
    """Give what stands behind `ERROR:` on the first such line, `None` where there is none."""
    found = _ERROR_LINE.search(body)
    return None if found is None else found[1]


def complaint(body: str) -> str:
    """Give the first error's sentence in capital letters, without what repeats the request; empty if none."""
    return _ECHO.split(error_line(body) or "", maxsplit=1)[0].upper()


def first_in(text: str, known: Iterable[str]) -> str | None:
    """Give the first of the known words that stand in a text."""
    return next((words for words in known if words in text), None)


def explain(body: str, function: str) -> NoReturn:
    """Raise what an answer of `function` without a row stands for, where it is the same for all functions.

    `FunctionRefused`, or `EnrichmentUnavailable`: a refused login, an outage, or an unreadable answer.
    """
    if error_line(body) is not None:
        _explain_complaint(complaint(body), function)
    text = body.strip()
    if not text:
        raise EnrichmentUnavailable("the dialer answered with an empty body")
    if text.startswith("MySQL connect ERROR"):
        raise EnrichmentUnavailable("the dialer can't reach its database")
    if _HTML.search(text):
        raise EnrichmentUnavailable("the dialer answered with a page of HTML instead of a row")
    unreadable("the dialer's answer has no row for the id asked for")


def unreadable(message: str) -> NoReturn:
    """Raise that an answer fits no known shape."""
    raise EnrichmentUnavailable(message, Fault.UNREADABLE)


def _explain_complaint(said: str, function: str) -> NoReturn:
    if (known := first_in(said, _LOGIN_REFUSED)) is not None:
        raise EnrichmentUnavailable(f"the dialer says {known}: {_LOGIN_REFUSED[known]}", Fault.REFUSED)
    if _NO_PERMISSION in said:
        raise FunctionRefused(f"the dialer says {_NO_PERMISSION}: {_missing_permission(said, function)}")
    if _NO_FUNCTION in said:
        raise FunctionRefused(
            f"the dialer says {_NO_FUNCTION}: this build of VICIdial does not know {function},"
            " or vicidial.url is not the address of its non_agent_api.php"
        )
    unreadable("the dialer answered with an ERROR of an unknown kind")


def _missing_permission(said: str, function: str) -> str:
    """Say which boxes to tick: `auth` looks at the list of functions, the function itself at the rest.

    The tutorials' sentence does not tell which of them it was.
    """
    allow = f"add {function} (or ALL_FUNCTIONS) to its API Allowed Functions"
    modify = ", Modify Users 1" if function in _MODIFIES_USERS else ""
    rights = (
        f"give it User Level {_LEVELS[function]} or more, Agent API Access 1, View Reports 1{modify},"
        f" which {function} needs"
    )
    steps = rights
    if "TO USE THIS FUNCTION" in said:
        steps = allow if said.startswith("AUTH ") else f"{allow}, and {rights}"
    return f"in Admin > Users, at the API user, {steps}"
