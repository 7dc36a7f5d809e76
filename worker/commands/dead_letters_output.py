"""How dead letters are shown (counted by reason and type, one by one, or one in full) and exported."""

import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from sys import intern
from typing import Any

import typer

from worker.commands.common import stop_with, to_json
from worker.commands.terminal import age, moment, out, say, show_table
from worker.core.events import EventType
from worker.core.scrub import printable
from worker.rabbitmq.dead_letters import StoredDeadLetter

_FACTS = (
    *("id", "type", "reason", "stage", "error", "attempts"),
    *("first_seen", "failed_at", "routing_key", "message_id", "content_type"),
)

Write = Callable[[dict[str, Any]], None]

_MOST_GROUPS = 100
_STRING_OR_BLANKS = re.compile(r'("(?:[^"\\]|\\.)*")|\s+')


@dataclass
class _Group:
    """The dead letters of one reason and type: how many, and from when to when."""

    count: int = 0
    oldest: datetime | None = None
    newest: datetime | None = None


class Summary:
    """Counts dead letters by reason and type, without keeping any."""

    def __init__(self) -> None:
        self.count = 0
        self._groups: dict[tuple[str, str], _Group] = {}

    def add(self, letter: StoredDeadLetter) -> None:
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


def show_dead_letters(shown: Collection[StoredDeadLetter], count: int) -> None:
    """Show the newest of `count` dead letters: on a terminal two lines each, else one with tabs."""
    if out.is_terminal:
        for letter in shown:
            attempts = f"{letter.attempts} attempt{'' if letter.attempts == 1 else 's'}"
            facts = (letter.type, letter.reason, attempts, f"{age(letter.failed_at)} ago")
            say(printable(f"{letter.id}  {'  '.join(facts)}"), "bold")
            say(f"  {printable(letter.error or 'no error named')}", cut=True)
    else:
        rows = [
            (
                *(letter.id, letter.type, letter.reason, str(letter.attempts)),
                *(letter.failed_at.isoformat() if letter.failed_at else "-", letter.error or "-"),
            )
            for letter in shown
        ]
        show_table(("ID", "TYPE", "REASON", "ATTEMPTS", "FAILED_AT", "ERROR"), rows)
    if count > len(shown):
        say(f"… and {count - len(shown)} more; --limit {count} shows all")


class Plan:
    """What a replay would send, in its order: to which queue, and whether with an enrichment."""

    def __init__(self, queues: Mapping[EventType, str], *, look_up_again: bool) -> None:
        self._queues = queues
        self._look_up_again = look_up_again
        self._rows: list[tuple[str, ...]] = []
        self.possible = self.asked = 0

    def add(self, letter: StoredDeadLetter) -> None:
        """Add one; only what is shown of it is kept."""
        queue = "stays: its queue is unknown" if letter.queue is None else self._queues[letter.queue]
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


def _moment(when: datetime | None) -> str:
    """Return a time for a person, the short way on a terminal."""
    return f"{age(when)} ago" if when is not None and out.is_terminal else moment(when)


def describe(facts: dict[str, Any]) -> list[str]:
    """Return everything about a dead letter, with its headers and body, in printable lines."""
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
    """Indent JSON, unless something in it would be written differently then."""
    value = json.loads(text)
    bare = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    same = bare == _STRING_OR_BLANKS.sub(r"\1", text)
    return json.dumps(value, indent=2, ensure_ascii=False) if same else text


# --- export


@contextmanager
def write_lines(file: Path, *, replace: bool) -> Iterator[Write]:
    """Yield the function that writes one JSON line; the file gets its name at the end, if all went well.

    Exits if there is such a file that may not be replaced: it may hold the only copy of what was discarded
    since.
    """
    if str(file) == "-":
        yield _write_to_standard_output
        return
    special = file.exists() and not file.is_file()  # a pipe or a device must not be replaced by a file
    if not special and not replace:
        _exit_if_exists(file)
    with _special_file(file) if special else _new_file(file.resolve(), replace=replace) as write:
        yield write


def _exit_if_exists(file: Path) -> None:
    if file.exists():
        stop_with(f"{file} exists; name another file, or replace it with --force")


def _write_to_standard_output(value: dict[str, Any]) -> None:
    try:
        sys.stdout.write(_line(value))
        sys.stdout.flush()
    except BrokenPipeError:  # `… | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None


@contextmanager
def _special_file(file: Path) -> Iterator[Write]:
    with _explained(file):
        descriptor = os.open(file, os.O_WRONLY)
    try:
        yield lambda value: _write_all(file, descriptor, _line(value).encode())
    finally:
        os.close(descriptor)


def _write_all(file: Path, descriptor: int, data: bytes) -> None:
    with _explained(file):
        while data:
            data = data[os.write(descriptor, data) :]


@contextmanager
def _new_file(file: Path, *, replace: bool) -> Iterator[Write]:
    """Write beside the file, which only its owner can read (as `mkstemp` makes it), and rename at the end."""
    with _explained(file):
        descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:

            def write(value: dict[str, Any]) -> None:
                with _explained(file):
                    stream.write(_line(value).encode())

            yield write
            with _explained(file):
                stream.flush()
                os.fsync(stream.fileno())
            if not replace:
                _exit_if_exists(file)
            with _explained(file):
                Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        stop_with(f"can't write {file}: {error.strerror}")


def _line(value: dict[str, Any]) -> str:
    return to_json(value) + "\n"
