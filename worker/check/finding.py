"""What a check says."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self
from urllib.parse import urlsplit


class Level(StrEnum):
    """How bad it is, from the best to the worst."""

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
        """Judge by what was found: a problem makes it failed, else a warning makes it one."""
        level = Level.FAILED if problems else Level.WARNING if warnings else Level.OK
        return cls(name, level, text, (*problems, *warnings))

    def with_warnings(self, warnings: Sequence[str]) -> Self:
        """Return it with these warnings besides; they make no failure of what is well."""
        level = Level.WARNING if warnings and self.level is Level.OK else self.level
        return replace(self, level=level, advice=(*self.advice, *warnings))


def worst(findings: Iterable[Finding]) -> Level:
    """Give the worst level of all; of none, that all is well."""
    order = list(Level)
    return max((finding.level for finding in findings), key=order.index, default=Level.OK)


def in_the_clear(url: str) -> bool:
    """Tell whether what goes to an address leaves this host and is not encrypted."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    local = host in ("localhost", "::1") or host.startswith("127.")
    return parts.scheme == "http" and not local
