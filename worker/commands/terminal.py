"""Output of the commands: tables, lines, progress bars, ages and times."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Protocol

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from worker.core.scrub import printable

A_HANDFUL = 20
"""Up to so many steps are done before a progress bar could be read."""

_LOOK_AGAIN = 0.1

out = Console(highlight=False, emoji=False)
err = Console(stderr=True, highlight=False, emoji=False)


class Show(Protocol):
    """Updates a progress bar."""

    def __call__(self, done: int, note: str = "") -> None:
        """Show how far it got, and a note, unless the bar was updated just now."""
        ...


def show_table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> None:
    """Show a table; if standard output is no terminal, lines with tabs. Columns in `right` hold numbers."""
    if not out.is_terminal:
        for line in (columns, *rows):
            say("\t".join(printable(value) for value in line))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        last = name == columns[-1]
        table.add_column(
            name, justify="right" if name in right else "left", overflow="fold", no_wrap=not last
        )
    for row in rows:
        table.add_row(*(printable(value) for value in row))
    out.print(table, markup=False)


def say(line: str = "", style: str | None = None, *, cut: bool = False) -> None:
    """Show one line of plain text; with `cut`, no wider than the terminal."""
    if not out.is_terminal:
        typer.echo(line)
        return
    out.print(
        line, style=style, markup=False, soft_wrap=not cut, no_wrap=cut, overflow="ellipsis" if cut else None
    )


def age(when: datetime | None) -> str:
    """Return how long ago that was, in one unit."""
    return "-" if when is None else in_one_unit((datetime.now(UTC) - when).total_seconds())


def in_one_unit(seconds: float) -> str:
    """Return a duration in its largest unit, such as `3h`; a negative one is `0s`."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f}{unit}"
    return f"{max(0, int(seconds))}s"


def moment(when: datetime | None) -> str:
    """Return a time as a person reads it, to the second, in UTC."""
    return "-" if when is None else when.astimezone(UTC).isoformat(sep=" ", timespec="seconds")


@contextmanager
def progress(title: str, total: int, *, in_bytes: bool = False) -> Iterator[Show]:
    """Show a progress bar on standard error, if that is a terminal and there are enough steps.

    Yields the function to call with how far it got.
    """
    shown = err.is_terminal and (in_bytes or total > A_HANDFUL)
    counts = DownloadColumn() if in_bytes else MofNCompleteColumn()
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        counts,
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=err, transient=True, disable=not shown) as bar:
        task = bar.add_task(title, total=total or None, note="")
        shown_at = 0.0

        def show(done: int, note: str = "") -> None:
            nonlocal shown_at
            if not bar.disable and (now := time.monotonic()) - shown_at >= _LOOK_AGAIN:
                shown_at = now
                bar.update(task, completed=done, note=note)

        yield show
