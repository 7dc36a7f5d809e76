"""The result of a check."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self
from urllib.parse import urlsplit


class Level(StrEnum):
    """How bad a finding is, from the best to the worst."""

    OK = "ok"
    WARNING = "warning"
    """The worker works, but not as well as it could, or not for long."""
    FAILED = "failed"
    """The worker would not work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found of its subject, `name`, and what to do about it."""

    name: str
    level: Level
    text: str
    advice: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, text: str, *, problems: Sequence[str] = (), warnings: Sequence[str] = ()) -> Self:
        """Return a finding whose level follows from the worst of its advice: a problem is a failure."""
        level = Level.FAILED if problems else Level.WARNING if warnings else Level.OK
        return cls(name, level, text, (*problems, *warnings))

    def with_warnings(self, warnings: Sequence[str]) -> Self:
        """Return a copy with more warnings."""
        level = Level.WARNING if warnings and self.level is Level.OK else self.level
        return replace(self, level=level, advice=(*self.advice, *warnings))


def worst(findings: Iterable[Finding]) -> Level:
    """Return the worst level; OK if there are no findings."""
    order = list(Level)
    return max((finding.level for finding in findings), key=order.index, default=Level.OK)


def in_the_clear(url: str) -> bool:
    """Return whether what is sent to an address leaves this host unencrypted."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    local = host in ("localhost", "::1") or host.startswith("127.")
    return parts.scheme == "http" and not local
