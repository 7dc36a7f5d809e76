"""How dead letters are shown: counted by reason and type, one by one, or one with everything about it."""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from worker.commands.common import out
from worker.commands.terminal import age, moment, printable, say, show_table
from worker.core.events import EventType
from worker.rabbitmq.dead_letters import Letter

_FACTS = (
    *("id", "type", "reason", "stage", "error", "attempts"),
    *("first_seen", "failed_at", "routing_key", "message_id", "content_type"),
)

_STRING_OR_BLANKS = re.compile(r'("(?:[^"\\]|\\.)*")|\s+')


def show_summary(letters: Sequence[Letter]) -> None:
    """Show how many there are of each reason and type, the most first."""
    groups: dict[tuple[str, str], list[Letter]] = {}
    for letter in letters:
        groups.setdefault((letter.reason, letter.type), []).append(letter)
    rows = []
    for (reason, kind), group in sorted(groups.items(), key=lambda item: -len(item[1])):
        times = [letter.failed_at for letter in group if letter.failed_at is not None]
        oldest, newest = _moment(min(times, default=None)), _moment(max(times, default=None))
        rows.append((reason, kind, str(len(group)), oldest, newest))
    show_table(("REASON", "TYPE", "COUNT", "OLDEST", "NEWEST"), rows, right=("COUNT",))


def show_letters(letters: Sequence[Letter], limit: int) -> None:
    """Show the newest letters one by one: on a terminal two lines each, else one with tabs."""
    shown = letters[len(letters) - min(limit, len(letters)) :]
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
    if len(letters) > len(shown):
        say(f"… and {len(letters) - len(shown)} more; --limit {len(letters)} shows all")


def show_plan(letters: Sequence[Letter], queues: Mapping[EventType, str], *, look_up_again: bool) -> None:
    """Show what a replay would send, in its order: to which queue, and whether with an enrichment."""
    rows = []
    for letter in letters:
        queue = "stays: its queue can't be told" if letter.queue is None else queues[letter.queue]
        enrichment = ("dropped" if look_up_again else "carried") if letter.enriched else "none"
        rows.append((letter.id, letter.type, letter.reason, queue, enrichment))
    show_table(("ID", "TYPE", "REASON", "TO", "ENRICHMENT"), rows)


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
