"""The dialer's answers: from bytes to text, to rows, to errors, and what may be shown of an unreadable one.

Encodings and invisible characters must not change the meaning of an answer. An
editor puts a byte order mark into one PHP file, and the site then sends it before
every answer; a proxy labels or compresses anew; a database in another charset
answers with its own bytes. The parsers see none of it.

VICIdial answers errors with status 200 and a line `ERROR: …`. That line counts
behind anything that says nothing: HTML, PHP's warnings, invisible characters. It
does not count behind a separator, as it then is a field of some row. Parsers look
for their rows first, and call `explain` only if there is none.

Errors hold no text of a body but VICIdial's own fixed sentences, since its bodies repeat the password.
"""

import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from html import unescape

from worker.core.errors import (
    EnrichmentRejected,
    EnrichmentUnavailable,
    FailureKind,
    FunctionRefused,
    LoginRefused,
    NotReady,
    ProcessingError,
)
from worker.core.scrub import INVISIBLE, Scrubber

# --- from bytes to text

MAX_ANSWER = 1024 * 1024
"""The largest answer that is read, in bytes, compressed or not."""

ACCEPTED = "gzip, deflate"
"""The content codings that can be decoded, as `Accept-Encoding` names them."""

CHECK_SERVER = "check the web server and any proxy at vicidial.url"

_NO_CODING = frozenset({"", "identity", "none", "binary", "8bit", "utf-8", "utf8"})
"""No coding, or what servers write by mistake if there is none."""
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
"""Encodings, by which bytes of an ASCII character are not NUL."""
_SAMPLE = 4096
_MOSTLY = 0.6

_MISREAD_MARK = "ï»¿|Ã¯Â»Â¿|п»ї|∩╗┐|ÿþ|þÿ|&nbsp;|&#0*65279;|&#[xX]0*[fF][eE][fF][fF];"
"""A byte order mark in an encoding that it is not meant for, or in HTML."""
_MEANINGLESS = re.compile(
    rf"^(?:[\s{INVISIBLE}]|{_MISREAD_MARK})+|[\x00\ufeff]+|(?<![{INVISIBLE}])[{INVISIBLE}]+$", re.MULTILINE
)
_PLAIN = bytes({*b"\t\n\r\x1b", *range(0x20, 0x7F)} - {*b"&"})
"""The bytes of a text without anything invisible."""
_INDENTED = re.compile(rb"\n\s")


def text_of(body: bytes, codings: Iterable[str] = ()) -> str:
    """Return the text of an answer, without invisible characters at the beginning of a line.

    `codings` are the values of its `Content-Encoding` headers. Raises `EnrichmentUnavailable` if it can't be
    decoded: that is an outage, since such a server or proxy would send every answer so.
    """
    body = _decompress(body, codings)
    text = _decode(body)
    return text if _is_plain(body) else _MEANINGLESS.sub("", text)


def _is_plain(body: bytes) -> bool:
    """Return quickly whether there is nothing to drop, as is usual."""
    if body.translate(None, _PLAIN) or body[:1].isspace():
        return False
    return _INDENTED.search(body) is None


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
    """Return the error for an answer that could not be decoded."""
    return EnrichmentUnavailable(f"the dialer's answer could not be decoded: {why}; {CHECK_SERVER}")


def too_large() -> EnrichmentUnavailable:
    """Return the error for an answer that is larger than `MAX_ANSWER`."""
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
    """Return the encoding of two or four bytes in which most characters would be ASCII, by its NULs."""
    sample = body[:_SAMPLE]
    for width in (4, 2):
        shares = [sample[at::width].count(0) / max(1, len(sample[at::width])) for at in range(width)]
        encoding = _WIDE.get(tuple(share < 1 - _MOSTLY for share in shares))
        if encoding is not None and all(share > _MOSTLY or share < 1 - _MOSTLY for share in shares):
            return encoding
    return None


# --- rows

SEPARATORS = ("|", "\t", ",")

_NUMBER = re.compile(r"-?[0-9]{1,9}")
_TAGS_BEHIND_ROW = re.compile(r"(?:\s*</?(?:br|p|pre|div|span|font|body|html)\b[^<>]*>)+\s*$", re.IGNORECASE)
_TAGS_BEFORE_ROW = re.compile(r"(?:<(?!b>)[^<>]*>\s*)+")
"""HTML before a row. PHP's own messages begin with `<b>`; they are no rows."""


def find_rows(
    body: str, asked: str, id_column: str, others: frozenset[str], *, any_case: bool = False
) -> tuple[list[str] | None, list[list[str]]]:
    """Return the columns' names if there is a header, and the distinct rows that begin with the id `asked`.

    A header begins with `id_column` and has at least one of `others`. Rows can be amid tens of kilobytes of
    PHP's warnings. With `any_case`, the case of the id may differ.
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
    """Split a line at the separator behind its first value; None if it begins with another one."""
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
    """Split a line; if blanks precede every value but the first, they are stripped."""
    values = line.split(mark)
    last = values[-1]
    if (last and last[0] != " ") or not all(value.startswith(" ") for value in values[1:] if value):
        return values
    return [value.strip() for value in values]


def by_name(
    function: str, columns: Sequence[str], values: Sequence[str], *, free_text: str | None = None
) -> dict[str, str]:
    """Return a row's values by their columns' names, without blanks around them.

    Raises `EnrichmentUnavailable` if they don't fit.

    The column `free_text` may contain the separator: the columns behind it are counted from the end.
    """
    surplus = len(values) - len(columns)
    if surplus > 0 and free_text in columns:
        at = columns.index(free_text)
        values = [*values[:at], "|".join(values[at : at + surplus + 1]), *values[at + surplus + 1 :]]
    if len(columns) != len(values):
        raise unreadable(f"the row of {function} has {len(values)} columns, but {len(columns)} are named")
    return {name.strip(): value.strip() for name, value in zip(columns, values, strict=True)}


def only_row(rows: list[list[str]]) -> list[str]:
    """Return the only row. Raises `EnrichmentUnavailable` if there are several."""
    if len(rows) > 1:
        raise unreadable("the dialer answered with several different rows for one id")
    return rows[0]


def lines(body: str) -> list[str]:
    """Split at line feeds only, as `str.splitlines` also splits inside a field. Drop HTML around a row."""
    if "\r" in body:
        body = body.replace("\r\n", "\n").removesuffix("\r")
    split = body.split("\n")
    if "<" not in body:
        return split
    return [
        _TAGS_BEHIND_ROW.sub("", _TAGS_BEFORE_ROW.sub("", line, 1) if line[:1] == "<" else line)
        if "<" in line
        else line
        for line in split
    ]


def seconds(text: str, what: str) -> int | None:
    """Parse a number of seconds, None if it is empty or negative. Raises `EnrichmentUnavailable`."""
    if not text:
        return None
    if not _NUMBER.fullmatch(text):
        raise unreadable(f"the dialer answered with a {what} that is not a number")
    number = int(text)
    return number if number >= 0 else None


# --- errors

_INVISIBLE = re.compile(f"[{INVISIBLE}]+")
_TAGS = r"(?:<[^<>\n]*>[^\S\n]*)*+"
_ERROR_LINE = re.compile(rf"^{_TAGS}ERROR ?: ?(.*)$", re.MULTILINE | re.IGNORECASE)
_ERROR_WITHIN_LINE = re.compile(r"^[^|\t\n]*?(?<!connect )(?<![A-Za-z])ERROR: ?(.*)$", re.MULTILINE)
_ECHO = re.compile(r"[:|]| - ")
_PAGE = re.compile(r"<(!doctype|html|head|body|title|h1|p)\b", re.IGNORECASE)
_HTML = re.compile(r"<(br|b)\b", re.IGNORECASE)
_DOCUMENT = re.compile(r"\s*(?:<\?xml|[{\[])")
_NO_DATABASE = re.compile(
    r"^[^|\t\n]*?(?:MySQLi? connect ERROR|mysqli?_(?:real_)?connect\b|Too many connections|SQLSTATE\[HY000\]"
    r"|server has gone away|Lost connection to (?:MySQL|MariaDB|server)"
    r"|(?:Can't|Could not|Unable to|Failed to) connect to (?:the |local )?(?:MySQL|MariaDB|database|server)"
    r"|Access denied for user|Lock wait timeout exceeded|Deadlock found|is marked as crashed"
    r"|No space left on device)",
    re.MULTILINE | re.IGNORECASE,
)
"""What VICIdial itself says, and MariaDB's own messages about itself: no look-up is the reason for one."""
_UNAVAILABLE = re.compile(
    r"^\W*(?:HTTP\S* )?(?:5[0-9]{2}\b\W*)?(?:Service (?:Temporarily )?Unavailable|The service is unavailable"
    r"|Internal Server Error|Bad Gateway|Gateway Time-?out|Proxy Error|no healthy upstream"
    r"|upstream (?:connect error|request timeout)|The server is temporarily unable)",
    re.IGNORECASE,
)
"""A web server's or proxy's own words, as text."""
_PHP_FAILED = re.compile(r"^(?:PHP )?(?:Fatal|Parse) error:", re.MULTILINE)

_LOGIN_REFUSED = {
    "LOGIN INCORRECT": "check vicidial.user and vicidial.password; an API user that is inactive or below User"
    " Level 7 gets this too, and with two-factor login on even the right password does: turn two-factor off"
    " for the API user",
    "INVALID USERNAME OR PASSWORD": "check vicidial.user and vicidial.password",
    "INVALID USERNAME/PASSWORD": "that is what the agent API (agc/api.php) says; vicidial.url must be the"
    " address of non_agent_api.php",
    "TOO MANY LOGIN ATTEMPTS": "ten failed logins lock the API user for 15 minutes, counted from its last"
    " good login; check vicidial.password",
    "IP ADDRESS IS NOT ALLOWED": "this host's address must be on the API IP list of the API user's user group"
    " (Admin > IP Lists, Admin > User Groups)",
    "INVALID SOURCE": "vicidial.source must be 2 to 20 letters and digits",
}
_LOGIN_IS_GOOD = frozenset({"IP ADDRESS IS NOT ALLOWED", "INVALID SOURCE"})
"""Refused whatever the password is; the others are failed logins, of which ten lock the API user."""
_LOGIN_REFUSED_WITHOUT_ERROR = re.compile(
    rf"^{_TAGS}(?:[^\w|\t\n]*+(?:error|errors|notice|warning|message|[0-9]++)\b)*+[^\w|\t\n]*+"
    rf"({'|'.join(map(re.escape, _LOGIN_REFUSED))})",
    re.IGNORECASE | re.MULTILINE,
)
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


_NO_AGENT = ": not made yet, or hidden from the API user, whose user group may not see the agent's"
_NOT_FOUND = {
    "CALL LOG NOT FOUND": "",
    "CALL NOT FOUND": "",
    "CALL ID NOT FOUND": "",
    "AGENT USER DOES NOT EXIST": _NO_AGENT,
    "AGENT NOT FOUND": _NO_AGENT,
}
"""Sentences that mean that the id is not known, and the possible cause."""
_REJECTED = "INVALID SEARCH PARAMETERS"


def error_text(body: str) -> str:
    """Return the text behind the first `ERROR:`; empty if there is none."""
    return next(_error_texts(_INVISIBLE.sub("", body)), "")


def error_message(body: str) -> str:
    """Return the first error's sentence in capital letters, without what repeats the request."""
    return _sentence(error_text(body))


def _error_texts(seen: str) -> Iterator[str]:
    if "error" not in seen.lower():
        return
    for pattern in (_ERROR_LINE, _ERROR_WITHIN_LINE):
        yield from (found[1] for found in pattern.finditer(seen))


def _sentence(text: str) -> str:
    return _ECHO.split(text, maxsplit=1)[0].upper()


def first_in(text: str, known: Iterable[str]) -> str | None:
    """Return the first of the known phrases that a text contains."""
    return next((words for words in known if words in text), None)


def unreadable(message: str) -> EnrichmentUnavailable:
    """Return the error for an answer of no known shape."""
    return EnrichmentUnavailable(message, FailureKind.UNREADABLE)


def explain(body: str, function: str) -> EnrichmentUnavailable:
    """Return the error for an answer without a row; what means the same for all functions."""
    seen = _INVISIBLE.sub("", body)
    if (login := _refused_login(seen)) is not None:
        text = f"the dialer says {login}: {_LOGIN_REFUSED[login]}"
        return (
            EnrichmentUnavailable(text, FailureKind.REFUSED)
            if login in _LOGIN_IS_GOOD
            else LoginRefused(text)
        )
    said = error_message(seen)
    if _NO_PERMISSION in said:
        return FunctionRefused(f"the dialer says {_NO_PERMISSION}: {_missing_permission(said, function)}")
    if _NO_FUNCTION in said:
        return FunctionRefused(
            f"the dialer says {_NO_FUNCTION}: this build of VICIdial does not know {function},"
            " or vicidial.url is not the address of its non_agent_api.php"
        )
    if (failed := _failed_server(seen)) is not None:
        return failed
    if _ERROR_LINE.search(seen) is not None:
        return unreadable("the dialer answered with an ERROR of an unknown kind")
    return unreadable("the dialer's answer has no row for the id asked for")


def _refused_login(seen: str) -> str | None:
    """Return how any of its errors refuses the login: what is overlooked here locks the API user."""
    if first_in(seen.upper(), _LOGIN_REFUSED) is None:
        return None
    for text in _error_texts(seen):
        if (known := first_in(_sentence(text), _LOGIN_REFUSED)) is not None:
            return known
    bare = _LOGIN_REFUSED_WITHOUT_ERROR.search(seen)
    return None if bare is None else bare[1].upper()


def _failed_server(seen: str) -> EnrichmentUnavailable | None:
    """Return the error for an answer of a server that can't work; PHP's warnings are none."""
    if not seen.strip():
        return EnrichmentUnavailable("the dialer answered with an empty body")
    if _NO_DATABASE.search(seen):
        return EnrichmentUnavailable("the dialer can't reach its database")
    if _UNAVAILABLE.match(seen) or _DOCUMENT.match(seen):
        return EnrichmentUnavailable("the dialer's web server, or a proxy, answered for it; " + CHECK_SERVER)
    if _PAGE.search(seen) or (_HTML.search(seen) and not _ERROR_LINE.search(seen)):
        return EnrichmentUnavailable("the dialer answered with a page of HTML instead of a row")
    if _PHP_FAILED.search(seen):
        return EnrichmentUnavailable("the dialer's PHP failed; see the error log of its web server")
    return None


def _missing_permission(said: str, function: str) -> str:
    """Return which boxes to tick: `auth` checks the list of functions, the function itself the rest.

    The tutorials' sentence does not say which of them it was.
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


def explain_needed(body: str, function: str) -> ProcessingError:
    """Return the error for an answer of a needed function without a row."""
    said = error_message(body)
    if (known := first_in(said, _NOT_FOUND)) is not None:
        return NotReady(f"the dialer says {known}{_NOT_FOUND[known]}")
    if _REJECTED in said:
        return EnrichmentRejected(f"the dialer says {_REJECTED}: this can't be a call id on that server")
    return explain(body, function)


# --- excerpts

_NOT_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffd-\uffff]")
_TAG = re.compile(r"<[^<>]*>")
_ERROR = re.compile(r"error ?:|login incorrect", re.IGNORECASE)
_DIGITS = re.compile(r"\d{7,}")


def excerpt(body: str, scrub: Scrubber, limit: int = 200) -> str:
    """Return the beginning of an answer on one line, `limit` characters and `…` at most, safe to show.

    - If it is not plainly text, only its length: what we can't read others may.
    - No secret that `scrub` knows, both before anything is removed and before the text is cut off.
    - No request: of a line with an error only its words, since the dialer repeats the password behind them.
    - No phone number: of seven digits or more in a row only the last two.
    """
    if _NOT_TEXT.search(body) is not None:
        return f"({len(body)} characters, not all of them text)"
    text = " ".join(_error_words(_plain(line)) for line in scrub.beginning(body).split("\n"))
    text = " ".join(scrub(text).split())
    if scrub.holds(text):
        return "(not shown, as it may hold a secret)"
    text = _DIGITS.sub(lambda run: "*" * (len(run[0]) - 2) + run[0][-2:], text)
    if not text:
        return "(nothing readable)"
    return text if len(text) <= limit else text[:limit] + "…"


def _plain(line: str) -> str:
    """Return a line without HTML, and without what can't be printed."""
    text = unescape(_TAG.sub("", line))
    return "".join(filter(str.isprintable, " ".join(text.split())))


def _error_words(line: str) -> str:
    """Return only the words of a line's first error; a line without one is unchanged."""
    error = _ERROR.search(line)
    if error is None:
        return line
    before = _ECHO.split(line[: error.start()])[-1]
    return before + error[0] + _ECHO.split(line[error.end() :], maxsplit=1)[0]
