"""What may be shown of an answer that could not be read."""

import re
from collections.abc import Callable
from html import unescape

_TAG = re.compile(r"<[^<>]*>")
_ERROR = re.compile(r"error:|login incorrect", re.IGNORECASE)
_ECHO = re.compile(r"[:|]| - ")
_DIGITS = re.compile(r"\d{7,}")


def excerpt(body: str, scrub: Callable[[str], str], limit: int = 200) -> str:
    """Give the beginning of an answer on one line, `limit` characters and `…` at most, safe to show.

    No secret that `scrub` knows: it looks at the whole answer before anything
    is taken out, and once more before it is cut off. No request: of a line with
    an error only its words remain, since the dialer repeats the password behind
    them. No phone number: of seven digits or more in a row the last two remain.
    """
    text = " ".join(_said(_plain(line)) for line in scrub(body).split("\n"))
    text = " ".join(scrub(text).split())
    text = _DIGITS.sub(lambda run: "*" * (len(run[0]) - 2) + run[0][-2:], text)
    if not text:
        return "(nothing readable)"
    return text if len(text) <= limit else text[:limit] + "…"


def _plain(line: str) -> str:
    """Take HTML out of a line, and all that can't be printed."""
    text = unescape(_TAG.sub("", line))
    return "".join(filter(str.isprintable, " ".join(text.split())))


def _said(line: str) -> str:
    """Cut off a line what stands behind the words of its first error, and what is not plain words before."""
    error = _ERROR.search(line)
    if error is None:
        return line
    before = _ECHO.split(line[: error.start()])[-1]
    return before + error[0] + _ECHO.split(line[error.end() :], maxsplit=1)[0]
