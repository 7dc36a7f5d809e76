"""What a check says."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found, and what to do about it. Where it is `ok` all the same, that is a warning."""

    name: str
    ok: bool
    text: str
    advice: tuple[str, ...] = ()
