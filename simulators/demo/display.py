"""What a person sees: a table that fills up, and the latest news; plain lines if nobody looks.

`table`, `head` and `sentence` are pure; the two displays put them on a console.
"""

import math
import sys
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from simulators.demo.progress import News, Progress, Row, Tone
from simulators.demo.scenario import Delivered

WIDE = 100
"""From so many columns on, the endings are spelled out."""

_NARROWEST = 80
_NEWS = 8
_AROUND_THE_NEWS = 6  # lines: what stands above the table and between it and the news
_STYLES: dict[Tone, str] = {"plain": "", "good": "green", "wait": "yellow", "bad": "red"}


def table(rows: Sequence[Row], now: datetime, width: int) -> Table:
    """Draw a row for each event: what it is, its id, what the dialer says, what became of it."""
    drawn = Table(box=None, padding=(0, 2 if width >= WIDE else 1, 0, 0), pad_edge=False, header_style="dim")
    drawn.add_column("")
    drawn.add_column("EVENT", no_wrap=True)
    drawn.add_column("ID", no_wrap=True, style="dim")
    drawn.add_column("DIALER SAYS", no_wrap=True, min_width=13)
    drawn.add_column("WHAT BECOMES OF IT", no_wrap=True, min_width=22)
    for row in rows:
        ending = _ending(row, now, wide=width >= WIDE)
        started = Text("✓", "green") if row.received else Text("·", "dim")
        what = Text(row.case.what, "" if row.received else "dim")
        drawn.add_row(started, what, row.case.subject, _dialer(row), ending)
    return drawn


def _dialer(row: Row) -> Text:
    if row.known:
        return Text(f"✓ {row.says}", "green")
    if row.says:
        return Text(f"✗ {row.says}", "red") if row.over else Text(f"↻ {row.says}", "yellow")
    return Text("asked…", "dim") if row.looks and not row.over else Text("")


def _ending(row: Row, now: datetime, *, wide: bool) -> Text:
    if row.dead:
        return Text(f"✗ dead letter: {row.dead}" if wide else f"✗ {row.dead}", "red")
    if row.over:
        return _delivered(row, wide=wide)
    if row.due is not None:
        left = math.ceil((row.due - now).total_seconds())
        when = f"in {left} s" if left > 0 else "now"
        return Text(f"↻ {row.trouble}, {when}" if row.trouble else f"↻ asks again {when}", "yellow")
    if row.received:
        return Text("in work" if row.looks else "received", "dim")
    return Text("")


def _delivered(row: Row, *, wide: bool) -> Text:
    remark = row.case.ending.remark if isinstance(row.case.ending, Delivered) else ""
    remark = remark or (f"{row.looks} looks" if row.looks > 1 else "")
    text = Text("✓ delivered" if remark and not wide else f"✓ delivered {row.status}", "green")
    return text.append(f", {remark}") if remark else text


def head(rows: Sequence[Row], seconds: float) -> Text:
    """Return one line about how far it got."""
    delivered = sum(row.over and not row.dead for row in rows)
    dead = sum(row.over and bool(row.dead) for row in rows)
    under_way = sum(bool(row.received) and not row.over for row in rows)
    return Text.assemble(
        (f"{len(rows)} events", "bold"),
        "   ",
        (f"{delivered} delivered", "green"),
        "   ",
        (f"{dead} dead letters", "red" if dead else "dim"),
        "   ",
        (f"{under_way} under way", "yellow" if under_way else "dim"),
        "   ",
        (f"{seconds:.0f} s", "dim"),
    )


def sentence(news: News) -> Text:
    """Write news as one line, with the time of day."""
    return Text.assemble(
        (f"{news.at.astimezone():%H:%M:%S} ", "dim"), (news.text, _STYLES[news.tone]), overflow="ellipsis"
    )


class Display(ABC):
    """Where the demonstration is shown. `console` takes what comes before and after the events."""

    def __init__(self, console: Console) -> None:
        """Write to this console."""
        self.console = console

    def done(self, name: str, text: str) -> None:
        """Print that something is ready."""
        self.console.print(Text.assemble(("✓ ", "green"), (f"{name:<10}", "bold"), text), soft_wrap=True)

    def say(self, text: str) -> None:
        """Print a sentence."""
        self.console.print(text, markup=False, soft_wrap=True)

    @abstractmethod
    def stop(self) -> None:
        """Leave the console as it was, whatever went wrong."""

    @abstractmethod
    def doing(self, text: str) -> None:
        """Show what is being waited for; nobody needs to remember it."""

    @abstractmethod
    def news(self, news: News | None) -> None:
        """Show something that happened."""

    @abstractmethod
    @contextmanager
    def showing(self, progress: Progress) -> Iterator[None]:
        """Show the progress as it grows, and as it was in the end."""


class PlainDisplay(Display):
    """A line for each thing that happened, and the table once at the end."""

    def doing(self, text: str) -> None:
        """Print it on a line of its own."""
        self.say(f"… {text}")

    def stop(self) -> None:
        """Leave it as it is."""

    def news(self, news: News | None) -> None:
        """Print it."""
        if news is not None:
            self.console.print(sentence(news), soft_wrap=True)

    @contextmanager
    def showing(self, progress: Progress) -> Iterator[None]:
        """Print the table once all is over."""
        self.console.print()
        yield
        self.console.print()
        self.console.print(table(progress.rows, datetime.now(UTC), self.console.width))


class LiveDisplay(Display):
    """A table that is updated in place, with the latest news below it."""

    def __init__(self, console: Console) -> None:
        """Write to this console, which is a terminal."""
        super().__init__(console)
        self._latest: deque[News] = deque(maxlen=_NEWS)
        self._progress: Progress | None = None
        self._started = time.monotonic()
        self._waiting = console.status("")

    def doing(self, text: str) -> None:
        """Show it beside a spinner."""
        self._waiting.update(Text(text, "dim"))
        self._waiting.start()

    def done(self, name: str, text: str) -> None:
        """Print it; the waiting is over."""
        self._waiting.stop()
        super().done(name, text)

    def news(self, news: News | None) -> None:
        """Put it below the others."""
        if news is not None:
            self._latest.append(news)

    @contextmanager
    def showing(self, progress: Progress) -> Iterator[None]:
        """Update the table several times a second; at the end it stays, without the news."""
        self._waiting.stop()
        self._progress, self._started = progress, time.monotonic()
        live = Live(console=self.console, get_renderable=self._frame, refresh_per_second=8)
        try:
            with live:
                try:
                    yield
                finally:
                    self._latest.clear()
        finally:
            self._progress = None

    def stop(self) -> None:
        """End the spinner, whatever went wrong."""
        self._waiting.stop()

    def _frame(self) -> RenderableType:
        if self._progress is None:
            return Text("")
        rows = self._progress.rows
        room = max(1, min(_NEWS, self.console.height - len(rows) - _AROUND_THE_NEWS))
        below = [Text(""), *map(sentence, list(self._latest)[-room:])] if self._latest else []
        for line in below:
            line.no_wrap = True
        return Group(
            Text(""),
            head(rows, time.monotonic() - self._started),
            Text(""),
            table(rows, datetime.now(UTC), self.console.width),
            *below,
        )


def make_display() -> Display:
    """Choose: live for a terminal that can do it, plain lines for anything else."""
    console = Console(highlight=False, emoji=False)
    if sys.stdout.isatty() and not console.is_dumb_terminal and console.width >= _NARROWEST:
        return LiveDisplay(console)
    plain = Console(highlight=False, emoji=False, force_terminal=False, no_color=True, color_system=None)
    return PlainDisplay(plain)
