"""What an id in an event is, however its producer writes it, and what can be an event id.

Ids go through script languages, tables and data frames on their way: a number
becomes a fraction, gets leading zeros, or is replaced by a word for "nothing",
and a text gets blanks around it. The functions here return the id that is
meant, or `None` where none is.
"""

import re
import uuid

MAX_ID = 255
EVENT_ID_PATTERN = f"^[!-~]{{1,{MAX_ID}}}$"
"""An event id can travel as an HTTP header and as an AMQP property: visible ASCII."""

_INVISIBLE_RANGES = (
    (0x00, 0x20),  # control characters, and the blank
    (0x7F, 0xA0),  # more control characters, and the no-break space
    (0xAD, 0xAD),  # soft hyphen
    (0x34F, 0x34F),  # from here on: what Unicode has as white space, or as ignorable by default
    (0x61C, 0x61C),
    (0x115F, 0x1160),
    (0x1680, 0x1680),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x2000, 0x200F),
    (0x2028, 0x202F),
    (0x205F, 0x206F),
    (0x2800, 0x2800),  # braille without a dot
    (0x3000, 0x3000),
    (0x3164, 0x3164),
    (0xFE00, 0xFE0F),
    (0xFEFF, 0xFEFF),  # byte order mark
    (0xFFA0, 0xFFA0),
    (0xFFF0, 0xFFFB),
)
_INVISIBLE = "".join(chr(code) for first, last in _INVISIBLE_RANGES for code in range(first, last + 1))
VISIBLE_PATTERN = "[^" + "".join(rf"\u{first:04x}-\u{last:04x}" for first, last in _INVISIBLE_RANGES) + "]"
"""Found in every text that is not blank."""

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
_EVENT_ID = re.compile(rf"[!-~]{{1,{MAX_ID}}}")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_NAMESPACE = uuid.UUID("6f0c2a53-4d0e-5a0b-9f39-6f6d1f2b6c11")
_WHOLE = re.compile(r"([0-9]+)\.0+")
_LEAD = re.compile(r"\+?0*([1-9][0-9]{0,9})(?:\.0*)?")


def whole(value: object) -> object:
    """Return an id as `plain` does; a text that is a number without its fraction of zeros."""
    text = plain(value)
    number = _WHOLE.fullmatch(text) if isinstance(text, str) else None
    return text if number is None else number[1]


def plain(value: object) -> object:
    """Return text without what surrounds it and can't be seen, and a number as text.

    A whole number is written without a fraction. Anything else is returned as it is, for
    whoever validates it.
    """
    if isinstance(value, str):
        return value.strip(_INVISIBLE)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) <= _LARGEST_EXACT:
        return str(int(value))
    return str(value)


def known(value: object) -> object:
    """Return an id as `whole` does, `None` for a word that stands for nothing."""
    return _unless_nothing(whole(value))


def uniqueid(value: object) -> object:
    """Return Asterisk's id of a call, which may end with zeros; `None` for a word that stands for nothing."""
    return _unless_nothing(plain(value))


def _unless_nothing(text: object) -> object:
    nothing = isinstance(text, str) and (text.casefold() in _NOTHING or text.startswith(_UNFILLED))
    return None if nothing else text


def lead(value: object) -> object:
    """Return a lead as `lead_number` does; what is neither text nor a number is returned as it is."""
    text = plain(value)
    return lead_number(text) if isinstance(text, str) else value


def lead_number(text: str) -> str | None:
    """Return a lead's number without leading zeros, `None` for what can't be a lead."""
    number = _LEAD.fullmatch(text.strip())
    return number[1] if number is not None and int(number[1]) <= LARGEST_LEAD else None


def agent(value: object) -> object:
    """Return an agent's user, `None` for the users that VICIdial writes where there is none, and for 0."""
    user = known(value)
    return None if user == "0" or (isinstance(user, str) and user.upper() in NOBODY) else user


def event_id(value: object) -> str | None:
    """Return an event id as `plain` does, `None` for what can't be one."""
    text = plain(value)
    return text if isinstance(text, str) and _EVENT_ID.fullmatch(text) else None


def is_uuid(text: str) -> bool:
    """Return whether a text is a UUID, and so unique by itself."""
    return _UUID.fullmatch(text) is not None


def derived(*parts: str) -> str:
    """Derive an event id: the same parts always give the same one."""
    return str(uuid.uuid5(_NAMESPACE, "\n".join(parts)))
