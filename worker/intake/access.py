"""Who may report events, and how often: tokens from files, and a rate for each source."""

import hmac
import ipaddress
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cachetools import LRUCache

from worker.settings.types import read_secret

LOOK_EVERY = 1.0
"""Seconds between two looks at the files."""
MOST_SOURCES = 10_000
"""Sources whose rate is remembered; of more, the one that was seen longest ago is forgotten."""

_TOKEN = re.compile(r"[A-Za-z0-9._~-]{16,256}")
"""What can stand in an address as it is, and is not guessed."""
_BEARER = re.compile(r"bearer +(\S+)", re.IGNORECASE)
_SITE_BITS = 64


class Observer(Protocol):
    """Observes the tokens."""

    def token_changed(self, file: Path, problem: str | None) -> None:
        """Report that a token was read again, or why its file can't be used."""


def presented(headers: Mapping[str, str], query: Mapping[str, str]) -> str:
    """Return the token of a request: of its header if that has one, else of its query."""
    bearer = _BEARER.fullmatch(headers.get("Authorization", ""))
    return bearer[1] if bearer is not None else query.get("token", "")


@dataclass(slots=True)
class _File:
    stamp: tuple[int, int, int] | None = None
    token: str | None = None


class Tokens:
    """The tokens that are accepted, one a file. A file that changes is read again.

    A token is revoked by changing or removing its file. While a file holds no usable token, as one that is
    just being written, the last one counts.
    """

    def __init__(
        self,
        files: Sequence[Path],
        learn: Callable[[str], None],
        observer: Observer,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read the files; `learn` is called with each token. Raises `ValueError` if one can't be used."""
        self._files = {path: _File() for path in files}
        self._learn = learn
        self._observer = observer
        self._clock = clock
        self._looked_at = clock()
        for path, file in self._files.items():
            file.stamp = _stamp(path)
            file.token = self._read(path)

    def accept(self, token: str) -> bool:
        """Return whether it is one of them, in a time that does not depend on which letters fit."""
        self._look()
        known = [file.token for file in self._files.values() if file.token is not None]
        found = False
        for each in known:
            found |= hmac.compare_digest(each.encode(), token.encode(errors="replace"))
        return found

    def _look(self) -> None:
        if self._clock() - self._looked_at < LOOK_EVERY:
            return
        self._looked_at = self._clock()
        for path, file in self._files.items():
            stamp = _stamp(path)
            if stamp == file.stamp:
                continue
            file.stamp = stamp
            try:
                file.token = self._read(path)
            except ValueError as error:
                if stamp is None:
                    file.token = None
                self._observer.token_changed(path, str(error))
            else:
                self._observer.token_changed(path, None)

    def _read(self, path: Path) -> str:
        token = read_secret(path).strip()
        if _TOKEN.fullmatch(token) is None:
            raise ValueError(f"{path} holds no token of 16 to 256 letters, digits and . _ ~ -")
        self._learn(token)
        return token


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Return what changes when a file does; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


class Rates:
    """A rate for each source: so many requests a second, and as many at once after a pause."""

    def __init__(self, per_second: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._clock = clock
        self._sources: LRUCache[str, tuple[float, float]] = LRUCache(MOST_SOURCES)

    def admit(self, source: str) -> bool:
        """Count a request of a source; return whether it is within the rate."""
        now = self._clock()
        left, at = self._sources.get(source, (float(self._per_second), now))
        left = min(left + (now - at) * self._per_second, float(self._per_second))
        admitted = left >= 1
        self._sources[source] = (left - admitted, now)
        return admitted


def source_of(remote: str | None) -> str:
    """Return what a rate is for: the IPv4 address, or the /64 network of an IPv6 address."""
    try:
        address = ipaddress.ip_address((remote or "").partition("%")[0])
    except ValueError:
        return remote or "unknown"
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, _SITE_BITS), strict=False))
