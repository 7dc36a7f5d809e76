"""Taking secrets out of text: as they are, and in any mix of the ways to write a letter.

Those are what URLs, HTML, JSON and Python make of it; base64 too.
"""

import base64
import json
import re
from collections.abc import Iterable
from functools import cache
from html.entities import codepoint2name
from typing import Any

_SHORTEST_SECRET = 4
_SHORT_SECRET = 8
_ALONE_BEFORE = r"(?:(?<![0-9A-Za-z])|(?<=%[0-9A-Fa-f]{2})|(?<=\\[nrt]))"
_ALONE_AFTER = r"(?![0-9A-Za-z])"
_PARAMETER = r"""(?<=\bpass=)[^&\s"'<>\\]+"""
"""The dialer's password in an address or a form, whichever it is: its file may hold another one by now."""


class Scrubber:
    """Replaces each secret in text, however it is spelled.

    A secret of under eight characters is replaced only where it stands alone,
    or it would tear up the ids of calls; one of under `shortest` not at all.
    """

    def __init__(self, secrets: Iterable[str], *, shortest: int = _SHORTEST_SECRET) -> None:
        """Take the secrets as they are."""
        self._secrets: set[str] = set()
        self._shortest = shortest
        self.learn(*secrets)

    def learn(self, *secrets: str) -> None:
        """Replace these secrets too from now on."""
        long_enough = self._secrets.union(each for each in secrets if len(each) >= self._shortest)
        self._secrets = long_enough
        patterns = [_PARAMETER]
        self._traces = {"pass="}
        for secret in sorted(long_enough, key=len, reverse=True):
            spelled = "".join(_spellings(letter) for letter in secret)
            short = len(secret) < _SHORT_SECRET
            patterns.append(f"{_ALONE_BEFORE}{spelled}{_ALONE_AFTER}" if short else spelled)
            in_base64 = _in_base64(secret)
            patterns += in_base64
            self._traces |= {_trace(secret), *map(_trace, in_base64)}
        self._pattern = re.compile("|".join(patterns))

    def suspects(self, text: str) -> bool:
        """Tell quickly whether the text could hold a secret; where it could not, none needs looking for."""
        return any(map(text.__contains__, self._traces))

    def __call__(self, text: str) -> str:
        """Give the text without any secret."""
        if not text.isascii():
            text = text.encode("utf-8", "backslashreplace").decode()  # JSON can't hold half a surrogate pair
        return self._pattern.sub("***", text)

    def scrub(self, value: Any) -> Any:  # noqa: ANN401 - whatever a log line holds
        """Give what JSON can hold without any secret: numbers as they are, text scrubbed."""
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, dict):
            return {self(str(key)): self.scrub(each) for key, each in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.scrub(each) for each in value]
        return self(str(value))


def _trace(secret: str) -> str:
    """Give the longest run of letters and digits: they have one spelling, so all of the secret's hold it."""
    runs: list[str] = re.findall(r"[0-9A-Za-z]*", secret)
    return max(runs, key=len)


@cache
def _spellings(letter: str) -> str:
    """Give a pattern of the ways to write one letter."""
    if letter.isascii() and letter.isalnum():
        return letter
    percent = "".join(f"%{byte:02x}" for byte in letter.encode("utf-8", "surrogatepass"))
    forms = {re.escape(letter), f"(?i:{percent})", f"&#0*{ord(letter)};", f"(?i:&#x0*{ord(letter):x};)"}
    for name in (codepoint2name.get(ord(letter)), "apos" if letter == "'" else None):
        forms |= {f"&{name};"} if name else set()
    for escape in (json.dumps(letter)[1:-1], ascii(letter)[1:-1], f"\\{letter}"):
        if escape.startswith("\\"):  # several of them where one is written within another
            forms.add(r"\\{1,3}" + re.escape(escape[1:]))
    forms |= {r"\+"} if letter == " " else set()
    return f"(?:{'|'.join(sorted(forms, key=len, reverse=True))})"


def _in_base64(secret: str) -> list[str]:
    """Give patterns of what base64 makes of a secret, wherever in the encoded bytes it begins."""
    found = []
    data = secret.encode("utf-8", "surrogatepass")
    for before in range(3):
        text = base64.b64encode(bytes(before) + data).decode().rstrip("=")
        bits = (before + len(data)) * 8
        own = text[-(-before * 8 // 6) : bits // 6]
        if len(own) >= _SHORTEST_SECRET:
            found.append(own.replace("/", "[/_]").replace("+", "[+-]"))
    return found
