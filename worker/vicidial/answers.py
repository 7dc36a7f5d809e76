"""From the bytes of an answer to its text: the one place that deals with encodings and invisible characters.

What has no meaning must not change the meaning of an answer. An editor puts a byte order mark before one
PHP file, and the site then sends it before every answer; a proxy labels or compresses anew; a database in
another charset answers with its own bytes. The parsers see none of it.
"""

import re
import zlib
from collections.abc import Iterable

from worker.core.errors import EnrichmentUnavailable, FailureKind
from worker.core.scrub import INVISIBLE

MAX_ANSWER = 1024 * 1024
"""The largest answer that is taken in, in bytes, compressed or not."""

ACCEPTED = "gzip, deflate"
"""The content codings that can be decoded, as `Accept-Encoding` names them."""

CHECK_SERVER = "check the web server and any proxy at vicidial.url"

_NO_CODING = frozenset({"", "identity", "none", "binary", "8bit", "utf-8", "utf8"})
"""No coding, or what is written by mistake where there is none."""
_CODING = re.compile(r"[-\w.]{1,20}", re.ASCII)
_GZIP_OR_ZLIB, _RAW_DEFLATE = 47, -15

_MARKS = re.compile(
    rb"\A(?:\xef\xbb\xbf|\xff\xfe\x00\x00|\x00\x00\xfe\xff|\xff\xfe|\xfe\xff|\s(?!\x00))+", re.ASCII
)
"""Byte order marks of UTF-8, UTF-32 and UTF-16, with blanks of one byte before, between and behind them."""
_WIDE = {
    (True, False): "utf-16-le",
    (False, True): "utf-16-be",
    (True, False, False, False): "utf-32-le",
    (False, False, False, True): "utf-32-be",
}
"""Which bytes of a character of ASCII are not NUL, and what that encoding is called."""
_SAMPLE = 4096
_MOSTLY = 0.6

_MISREAD_MARK = "ï»¿|Ã¯Â»Â¿|п»ї|∩╗┐|ÿþ|þÿ|&nbsp;|&#0*65279;|&#[xX]0*[fF][eE][fF][fF];"
"""A byte order mark in an encoding that it is not meant for, or in HTML."""
_MEANINGLESS = re.compile(
    rf"^(?:[\s{INVISIBLE}]|{_MISREAD_MARK})+|[\x00\ufeff]+|(?<![{INVISIBLE}])[{INVISIBLE}]+$", re.MULTILINE
)
_ODD_IN_ASCII = re.compile(r"[&\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f]")
_INDENTED = re.compile(r"\n\s")


def text_of(body: bytes, codings: Iterable[str] = ()) -> str:
    """Return the text of an answer, without what stands invisibly before the first character of any line.

    `codings` are the values of its `Content-Encoding` headers. Raises `EnrichmentUnavailable` if it can't be
    decoded: an outage, since a server or proxy that sends such an answer sends no other, so the event that
    met it is not to blame.
    """
    text = _decode(_decompress(body, codings))
    return text if _is_plain(text) else _MEANINGLESS.sub("", text)


def _is_plain(text: str) -> bool:
    """Return quickly whether nothing needs to be dropped, as is usual."""
    if not text.isascii() or text[:1].isspace():
        return False
    return _ODD_IN_ASCII.search(text) is None and _INDENTED.search(text) is None


def _decompress(body: bytes, codings: Iterable[str]) -> bytes:
    for coding in reversed([each.strip().lower() for value in codings for each in value.split(",")]):
        if coding in _NO_CODING:
            continue
        if coding in ("gzip", "x-gzip", "deflate"):
            body = _inflate(body, coding)
        else:
            named = coding if _CODING.fullmatch(coding) else "unknown"
            raise undecodable(f"its Content-Encoding is {named}, which was not asked for")
    return body


def _inflate(body: bytes, coding: str) -> bytes:
    for form in (_GZIP_OR_ZLIB, _RAW_DEFLATE):
        stream = zlib.decompressobj(form)
        try:
            whole = stream.decompress(body, MAX_ANSWER + 1)
        except zlib.error:
            continue
        if len(whole) > MAX_ANSWER:
            raise too_large()
        if stream.eof:
            return whole
    raise undecodable(f"it is not in the {coding} that its Content-Encoding names")


def undecodable(why: str) -> EnrichmentUnavailable:
    """Make the error for an answer that arrived but could not be decoded."""
    return EnrichmentUnavailable(f"the dialer's answer could not be decoded: {why}; {CHECK_SERVER}")


def too_large() -> EnrichmentUnavailable:
    """Make the error for an answer that is larger than what is taken in."""
    return EnrichmentUnavailable(
        f"the dialer's answer is larger than {MAX_ANSWER} bytes", FailureKind.UNREADABLE
    )


def _decode(body: bytes) -> str:
    """Decode UTF-8, as VICIdial claims it, UTF-16 or UTF-32 by its NULs, else cp1252 (MySQL's latin1)."""
    if b"\x00" in body or body[:1] in b"\xef\xfe\xff":
        body = _MARKS.sub(b"", body)
        if (wide := _wide_encoding(body)) is not None:
            return body.decode(wide, "replace")
    for encoding in ("utf-8", "cp1252"):
        try:
            return body.decode(encoding)
        except UnicodeDecodeError:
            pass
    return body.decode("latin-1")


def _wide_encoding(body: bytes) -> str | None:
    """Return the encoding in which most characters are of ASCII, so that NUL stands at the same places."""
    sample = body[:_SAMPLE]
    for width in (4, 2):
        shares = [sample[at::width].count(0) / max(1, len(sample[at::width])) for at in range(width)]
        encoding = _WIDE.get(tuple(share < 1 - _MOSTLY for share in shares))
        if encoding is not None and all(share > _MOSTLY or share < 1 - _MOSTLY for share in shares):
            return encoding
    return None
