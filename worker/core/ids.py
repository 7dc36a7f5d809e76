"""What an id in an event is, however its producer writes it.

Ids go through script languages, tables and data frames on their way: a number
becomes a fraction, gets leading zeros, or is replaced by a word for "nothing".
The functions here return the id that is meant, or `None` where none is.
"""

import re

NOBODY = frozenset({"", "VDAD", "VDCL"})
"""Users that VICIdial writes where no agent took the call."""

LARGEST_LEAD = 2**32 - 1
"""VICIdial counts leads from 1, in an `INT UNSIGNED` column."""

_LARGEST_EXACT = 2**53
"""From here on a fraction's digits are not all its own."""
_NOTHING = frozenset(
    {"", "-", "--", "undefined", "null", "(null)", "<null>", "\\n", "none", "nan", "nil", "n/a", "#n/a"}
)
"""What languages and tables write for a missing value, in small letters."""
_UNFILLED = "--A--"
"""What VICIdial's own variables in a URL begin with, where it did not fill them in."""
_WHOLE = re.compile(r"([0-9]+)\.0+")
_LEAD = re.compile(r"\+?0*([1-9][0-9]{0,9})(?:\.0*)?")


def whole(value: object) -> object:
    """Return a number as text, without a fraction of zeros; also one that is text already.

    Anything else is returned as it is, for whoever validates it.
    """
    if isinstance(value, str):
        number = _WHOLE.fullmatch(value)
        return value if number is None else number[1]
    return number_text(value)


def number_text(value: object) -> object:
    """Return a number as text, a whole one without a fraction; anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) <= _LARGEST_EXACT:
        return str(int(value))
    return str(value)


def known(value: object) -> object:
    """Return an id as `whole` does, `None` for a word that stands for nothing."""
    if isinstance(value, str) and (value.strip().casefold() in _NOTHING or value.startswith(_UNFILLED)):
        return None
    return whole(value)


def lead(value: object) -> object:
    """Return a lead as `lead_number` does; what is neither text nor a number is returned as it is."""
    text = number_text(value)
    return lead_number(text) if isinstance(text, str) else value


def lead_number(text: str) -> str | None:
    """Return a lead's number without leading zeros, `None` for what can't be a lead."""
    number = _LEAD.fullmatch(text.strip())
    return number[1] if number is not None and int(number[1]) <= LARGEST_LEAD else None


def agent(value: object) -> object:
    """Return an agent's user, `None` for the users that VICIdial writes where there is none, and for 0."""
    user = known(value)
    return None if user == "0" or (isinstance(user, str) and user.strip().upper() in NOBODY) else user
