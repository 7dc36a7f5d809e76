"""How dead letters are shown: counted by reason and type, one by one, or one with everything about it."""

import json
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from worker.commands.common import out
from worker.commands.terminal import age, moment, printable, say, show_table
from worker.rabbitmq.dead_letters import Letter

_FACTS = (
    *("id", "type", "reason", "stage", "error", "attempts"),
    *("first_seen", "failed_at", "routing_key", "message_id", "content_type"),
)


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
        text = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    return [f"  {line}" for line in text.split("\n")]
