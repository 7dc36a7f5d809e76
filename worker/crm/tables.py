"""The tables of a preset: a value for each row, some of them learned while the worker runs."""

from collections.abc import Mapping
from typing import Any, Final

from cachetools import LRUCache

MOST_LEARNED: Final = 10_000
ANY_OTHER: Final = "*"
"""The row for a value that has none of its own."""


class Tables:
    """Looks rows up. A row that was given wins over a learned one."""

    def __init__(self, rows: Mapping[str, Mapping[Any, Any]]) -> None:
        """Make the tables; a key is compared as text."""
        self._rows = {name: {str(key): value for key, value in table.items()} for name, table in rows.items()}
        self._learned: LRUCache[tuple[str, str], Any] = LRUCache(MOST_LEARNED)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the tables."""
        return tuple(self._rows)

    def lookup(self, name: str, key: object) -> Any:
        """Return a row, else the learned one, else the row `*`, else null; null for null."""
        if key is None:
            return None
        table, text = self._rows[name], str(key)
        if text in table:
            return table[text]
        found = self._learned.get((name, text))
        return table.get(ANY_OTHER) if found is None else found

    def learn(self, name: str, key: object, value: object) -> None:
        """Keep a row in memory, unless its key or value is null; the oldest are forgotten."""
        if key is not None and value is not None:
            self._learned[name, str(key)] = value
