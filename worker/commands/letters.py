"""How dead letters are shown: counted by reason and type, one by one, or one with everything about it."""

import json
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from sys import intern
from typing import Any

from worker.commands.common import printable
from worker.commands.terminal import age, moment, out, say, show_table
from worker.core.events import EventType
from worker.rabbitmq.dead_letters import Letter

_FACTS = (
    *("id", "type", "reason", "stage", "error", "attempts"),
    *("first_seen", "failed_at", "routing_key", "message_id", "content_type"),
)

_MOST_GROUPS = 100
_STRING_OR_BLANKS = re.compile(r'("(?:[^"\\]|\\.)*")|\s+')


@dataclass
class _Group:
    """Letters of one reason and type: how many, and from when to when."""

    count: int = 0
    oldest: datetime | None = None
    newest: datetime | None = None


class Summary:
    """Counts letters by reason and type, without keeping any."""

    def __init__(self) -> None:
        """Begin with none."""
        self.count = 0
        self._groups: dict[tuple[str, str], _Group] = {}

    def add(self, letter: Letter) -> None:
        """Count one."""
        self.count += 1
        key = (letter.reason, letter.type)
        if key not in self._groups and len(self._groups) >= _MOST_GROUPS:
            key = ("(others)", "(others)")
        group = self._groups.setdefault(key, _Group())
        group.count += 1
        if (at := letter.failed_at) is not None:
            group.oldest = at if group.oldest is None else min(group.oldest, at)
            group.newest = at if group.newest is None else max(group.newest, at)

    def show(self) -> None:
        """Show how many there are of each reason and type, the most first."""
        rows = [
            (reason, kind, str(group.count), _moment(group.oldest), _moment(group.newest))
            for (reason, kind), group in sorted(self._groups.items(), key=lambda item: -item[1].count)
        ]
        show_table(("REASON", "TYPE", "COUNT", "OLDEST", "NEWEST"), rows, right=("COUNT",))


def show_letters(shown: Collection[Letter], count: int) -> None:
    """Show letters one by one, the newest of `count`: on a terminal two lines each, else one with tabs."""
    if out.is_terminal:
        for letter in shown:
            attempts = f"{letter.attempts} attempt{'' if letter.attempts == 1 else 's'}"
            facts = (letter.type, letter.reason, attempts, f"{age(letter.failed_at)} ago")
            say(printable(f"{letter.id}  {'  '.join(facts)}"), "bold")
            say(f"  {printable(letter.error or 'no error told')}", cut=True)
    else:
        rows = [
            (*(letter.id, letter.type, letter.reason, str(letter.attempts)), *_late(letter))
            for letter in shown
        ]
        show_table(("ID", "TYPE", "REASON", "ATTEMPTS", "FAILED_AT", "ERROR"), rows)
    if count > len(shown):
        say(f"… and {count - len(shown)} more; --limit {count} shows all")


class Plan:
    """What a replay would send, in its order: to which queue, and whether with an enrichment."""

    def __init__(self, queues: Mapping[EventType, str], *, look_up_again: bool) -> None:
        """Begin with nothing."""
        self._queues = queues
        self._look_up_again = look_up_again
        self._rows: list[tuple[str, ...]] = []
        self.possible = self.asked = 0

    def add(self, letter: Letter) -> None:
        """Take in one letter; of it only what is shown is kept."""
        queue = "stays: its queue can't be told" if letter.queue is None else self._queues[letter.queue]
        enrichment = ("dropped" if self._look_up_again else "carried") if letter.enriched else "none"
        self._rows.append(
            (letter.id, intern(str(letter.type)), intern(str(letter.reason)), queue, enrichment)
        )
        if letter.queue is not None:
            self.possible += 1
            self.asked += self._look_up_again or not letter.enriched

    def show(self) -> None:
        """Show a line for each."""
        show_table(("ID", "TYPE", "REASON", "TO", "ENRICHMENT"), self._rows)


def _late(letter: Letter) -> tuple[str, str]:
    return (letter.failed_at.isoformat() if letter.failed_at else "-", letter.error or "-")


def _moment(when: datetime | None) -> str:
    """Say when that was, the short way on a terminal."""
    return f"{age(when)} ago" if when is not None and out.is_terminal else moment(when)


def describe(facts: dict[str, Any]) -> list[str]:
    """Say everything about a letter, its headers and its body too, line by line; all of it printable."""
    lines = [f"{name + ':':<14}{_text(facts[name])}" for name in _FACTS]
    lines.append("headers:")
    lines += [f"  {name}: {_text(value)}" for name, value in facts["headers"].items()]
    return [printable(line) for line in (*lines, "body:", *_body(facts))]


def _text(value: object) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _body(facts: dict[str, Any]) -> list[str]:
    if "body_base64" in facts:
        return [f"  (base64) {facts['body_base64']}"]
    text: str = facts["body"]
    with suppress(ValueError, RecursionError):  # what is not JSON is shown as it is
        text = _indented(text)
    return [f"  {line}" for line in text.split("\n")]


def _indented(text: str) -> str:
    """Lay JSON out to be read, but only where nothing in it is written differently then."""
    value = json.loads(text)
    bare = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    same = bare == _STRING_OR_BLANKS.sub(r"\1", text)
    return json.dumps(value, indent=2, ensure_ascii=False) if same else text
