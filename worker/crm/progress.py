"""How far a delivery got: what its next attempt needs to know, as text that travels on the retry copy."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from worker.crm.answers import plain
from worker.crm.plan import RECORD

MAX_PROGRESS = 1024
"""In bytes."""


@dataclass(slots=True)
class Progress:
    """The results of the steps that are done."""

    results: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    alone: bool = False
    """Whether its item is sent alone, as it failed in a batch: it may be why, or another item."""

    @classmethod
    def read(cls, crm: str, written: str | None) -> Self:
        """Read what `written` returned; nothing is done if it is of another CRM, or can't be read."""
        try:
            read = json.loads(written or "{}")
            if read["crm"] != crm:
                return cls()
            results = {str(name): plain(found) for name, found in read["steps"].items()}
            return cls(results, alone=read.get("alone") is True)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return cls()

    def written(self, crm: str) -> str | None:
        """Write as many results as there is space for, that of `record` first; None if there are none."""
        kept: dict[str, Any] = {}
        text = self._text(crm, kept) if self.alone else None
        for name in sorted(self.results, key=lambda each: each != RECORD):
            longer = self._text(crm, {**kept, name: self.results[name]})
            if len(longer) <= MAX_PROGRESS:
                kept[name] = self.results[name]
                text = longer
        return text

    def _text(self, crm: str, kept: dict[str, Any]) -> str:
        said: dict[str, Any] = {"crm": crm, "steps": kept}
        return json.dumps(said | ({"alone": True} if self.alone else {}), separators=(",", ":"))
