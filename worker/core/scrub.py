"""Removing secrets from text, however they are written.

Each letter of a secret is looked for in every spelling that URLs, HTML, JSON and Python
have for it, also if it needs none (`%61` is an `a`), in the wrong encoding, and with
anything invisible between two letters: NUL (a text in UTF-16, read as bytes), byte order
marks, zero-width characters. Base64 and hexadecimal digits are looked for too.
"""

import base64
import re
from collections.abc import Callable, Iterable
from functools import cache
from html.entities import codepoint2name
from typing import Any

INVISIBLE = (
    r"\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    r"\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\uffff\U000e0000-\U000e0fff"
)
"""The inside of a regex class: what nobody sees in a text, but for blanks, line ends and ESC."""

_SHORTEST_SECRET = 4
_SHORT_SECRET = 8
_ALONE_BEFORE = (
    r"(?:(?<![0-9A-Za-z])|(?<=%[0-9A-Fa-f]{2})|(?<=\\u[0-9A-Fa-f]{4})|(?<=\\x[0-9A-Fa-f]{2})|(?<=\\[nrt]))"
)
_ALONE_AFTER = r"(?![0-9A-Za-z])"
_PARAMETER = re.compile(r"""(?<=\bpass=)[^&\s"'<>\\]+""")
"""The dialer's password in an address or a form, whichever it is: its file may hold another one by now."""

_BETWEEN = rf"(?:[{INVISIBLE}]|\\{{1,3}}u(?:0000|[fF][eE][fF][fF]|200[b-fB-F])|\\{{1,3}}x?00|%00|&#0+;)*"
"""What may stand between two letters."""
_ESCAPED = re.compile(rf"[%&\\{INVISIBLE}]")
_ESCAPED_IN_ASCII = re.compile(r"[%&\\\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f]")
"""In a text without any of these, each letter is written as it is."""
_SHORT_ESCAPES = {"\n": "n", "\r": "r", "\t": "t", "\b": "b", "\f": "f"}
_BEGINNING, _LONGEST_SPELLED = 8192, 1024
"""How much of a text is looked at, and how long a secret may be in whatever spelling, in characters."""
_NOT_IN_WORDS = re.compile(r"[\W_]+")


class Scrubber:
    """Replaces each secret in text, however it is spelled.

    A secret of under eight characters is replaced only if it stands alone, since it might be part of a
    call id; one of under `shortest` not at all.
    """

    def __init__(self, secrets: Iterable[str], *, shortest: int = _SHORTEST_SECRET) -> None:
        self._secrets: set[str] = set()
        self._shortest = shortest
        self.learn(*secrets)

    def learn(self, *secrets: str) -> None:
        """Replace these secrets too from now on."""
        self._secrets |= {each for each in secrets if len(each) >= self._shortest}
        self._longest_first = sorted(self._secrets, key=len, reverse=True)
        self._encoded = [each for secret in self._longest_first for each in _encodings(secret)]
        self._traces = ["pass=", *map(_trace, self._longest_first), *map(_trace, self._encoded)]
        self._literal = self._pattern(lambda secret: "".join(map(_unescaped, secret)))
        self._spelled: re.Pattern[str] | None = None  # it takes long to compile, and hardly any text needs it
        self._words = {words for each in self._secrets if len(words := _words(each)) >= _SHORT_SECRET}

    def _pattern(self, spell: Callable[[str], str]) -> re.Pattern[str]:
        """Compile the pattern that finds all secrets, each written as `spell` says."""
        patterns = []
        for secret in self._longest_first:
            short = len(secret) < _SHORT_SECRET
            patterns.append(f"{_ALONE_BEFORE}{spell(secret)}{_ALONE_AFTER}" if short else spell(secret))
        return re.compile("|".join([*patterns, *self._encoded] or ["(?!)"]))

    def suspects(self, text: str) -> bool:
        """Return quickly whether the text could hold a secret; if it could not, none needs looking for."""
        return _has_escapes(text) or any(map(text.__contains__, self._traces))

    def __call__(self, text: str) -> str:
        """Return the text without any secret."""
        if not text.isascii():
            text = text.encode("utf-8", "backslashreplace").decode()  # JSON can't hold half a surrogate pair
        if not _has_escapes(text):
            return _PARAMETER.sub("***", self._literal.sub("***", text))
        if self._spelled is None:
            self._spelled = self._pattern(lambda secret: _BETWEEN.join(map(_spellings, secret)))
        return _PARAMETER.sub("***", self._spelled.sub("***", text))

    def beginning(self, text: str) -> str:
        """Return the beginning of a text without any secret, nor the first part of one at its end."""
        known = self(text[: _BEGINNING + _LONGEST_SPELLED])
        return known if len(text) <= _BEGINNING else known[:-_LONGEST_SPELLED]

    def holds(self, text: str) -> bool:
        """Return whether a long secret is in the text once all but letters and digits is left out.

        For text that is better not shown at all than shown with a secret in a guise that nobody foresaw.
        """
        words = _words(text)
        return any(map(words.__contains__, self._words))

    def scrub(self, value: Any) -> Any:  # noqa: ANN401 - whatever a log line holds
        """Return what JSON can hold without any secret: numbers as they are, text scrubbed."""
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, dict):
            return {self(str(key)): self.scrub(each) for key, each in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.scrub(each) for each in value]
        return self(str(value))


def _trace(secret: str) -> str:
    """Return the longest run of letters and digits, which is in the text unless they are spelled."""
    runs: list[str] = re.findall(r"[0-9A-Za-z]*", secret)
    return max(runs, key=len)


def _has_escapes(text: str) -> bool:
    return (_ESCAPED_IN_ASCII if text.isascii() else _ESCAPED).search(text) is not None


def _words(text: str) -> str:
    return _NOT_IN_WORDS.sub("", text).casefold()


@cache
def _unescaped(letter: str) -> str:
    """Return a pattern of one letter as it is, or as the wrong encoding shows it."""
    if letter.isascii():
        return re.escape(letter) if letter != " " else "[ +]"
    encoded = letter.encode("utf-8", "surrogatepass")
    forms = {letter, *(encoded.decode(each, "replace") for each in ("latin-1", "cp1252"))}
    return f"(?:{'|'.join(map(re.escape, forms))}|[?\ufffd]{{1,4}})"


@cache
def _spellings(letter: str) -> str:
    """Return a pattern of the ways to write one letter, also escaped two or three times over."""
    point, encoded = ord(letter), letter.encode("utf-8", "surrogatepass")
    forms = {
        _unescaped(letter),
        "".join(f"%(?:25)*(?i:{byte:02x})" for byte in encoded),
        "".join(rf"\\{{1,3}}x(?i:{byte:02x})" for byte in encoded),
        "".join(rf"\\{{1,3}}u(?i:{unit:04x})" for unit in _units(letter)),
        rf"\\{{1,3}}U(?i:{point:08x})",
        rf"&(?:amp;)*\#(?:0*{point}(?![0-9]);?|[xX]0*(?i:{point:x})(?![0-9a-fA-F]);?)",
    }
    if point < 256:
        forms |= {rf"\\{{1,3}}x(?i:{point:02x})", rf"%(?:25)*(?i:{point:02x})"}
    for name in (codepoint2name.get(point), "apos" if letter == "'" else None):
        forms |= {f"&(?:amp;)*{name};"} if name else set()
    if not letter.isalnum():
        forms.add(r"\\{1,3}" + re.escape(_SHORT_ESCAPES.get(letter, letter)))
    return f"(?:{'|'.join(sorted(forms, key=len, reverse=True))})"


def _units(letter: str) -> list[int]:
    """Return the UTF-16 code units of a letter: JSON escapes one outside the basic plane as two."""
    data = letter.encode("utf-16-be", "surrogatepass")
    return [int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2)]


def _encodings(secret: str) -> list[str]:
    """Return patterns of a secret in base64, wherever in the bytes it begins, and in hexadecimal digits.

    In digits only if it is long enough not to be confused with other numbers.
    """
    found = []
    data = secret.encode("utf-8", "surrogatepass")
    for before in range(3):
        text = base64.b64encode(bytes(before) + data).decode().rstrip("=")
        bits = (before + len(data)) * 8
        own = text[-(-before * 8 // 6) : bits // 6]
        if len(own) >= _SHORTEST_SECRET:
            found.append(own.replace("/", "[/_]").replace("+", "[+-]"))
    return [*found, data.hex(), data.hex().upper()] if len(secret) >= _SHORT_SECRET else found


def printable(text: str, keep: str = "") -> str:
    """Return text that others wrote with escapes for what would steer a terminal; letters of `keep` stay."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in keep else ascii(each)[1:-1] for each in text)
