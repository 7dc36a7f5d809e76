"""What may be shown of an answer that could not be read."""

import re
from html import unescape

from worker.core.scrub import Scrubber

_NOT_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffd-\uffff]")
_TAG = re.compile(r"<[^<>]*>")
_ERROR = re.compile(r"error:|login incorrect", re.IGNORECASE)
_ECHO = re.compile(r"[:|]| - ")
_DIGITS = re.compile(r"\d{7,}")
_SEEN, _LONGEST_SPELLED = 8192, 1024


def excerpt(body: str, scrub: Scrubber, limit: int = 200) -> str:
    """Return the beginning of an answer on one line, `limit` characters and `…` at most, safe to show.

    Only its length if it is not plainly text: what can't be read by us may be read by others.
    No secret that `scrub` knows: it looks at all that may be shown before anything
    is taken out, and once more before it is cut off. No request: of a line with
    an error only its words remain, since the dialer repeats the password behind
    them. No phone number: of seven digits or more in a row the last two remain.
    """
    if _NOT_TEXT.search(body) is not None:
        return f"({len(body)} characters, not all of them text)"
    known = scrub(body[: _SEEN + _LONGEST_SPELLED])
    if len(body) > _SEEN:
        known = known[:-_LONGEST_SPELLED]  # it may end within a secret
    text = " ".join(_said(_plain(line)) for line in known.split("\n"))
    text = " ".join(scrub(text).split())
    if scrub.holds(text):
        return "(not shown, as it may hold a secret)"
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
