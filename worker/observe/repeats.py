"""Faults that repeat: which of their lines are worth showing."""

import threading
import time
from collections.abc import Callable, Hashable

SHOW_EVERY = 60.0
"""Seconds between two lines that say the same."""
MOST_FAULTS = 512
"""How many faults are told apart; of more, the one that was shown longest ago is forgotten."""
_DEEPEST = 8
"""How many errors behind an error, or within a group, are looked at."""


class Repeats:
    """Lets the first line of a fault through at once, then one in each `every` seconds.

    Of a fault only its hash is kept, so the memory is bounded whatever its
    text. It may be asked from any thread: libraries log from their own.
    """

    def __init__(
        self,
        every: float = SHOW_EVERY,
        most: int = MOST_FAULTS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the seconds between two lines of a fault, and how many faults to remember."""
        self._every = every
        self._most = most
        self._clock = clock
        self._shown: dict[int, tuple[float, int]] = {}  # when, and how many were left out since; oldest first
        self._lock = threading.Lock()

    def seen(self, fault: Hashable) -> int | None:
        """Note that the fault happened once more.

        Gives how many of it were left out since it was last shown, where this
        one is to be shown; `None` where this one is to be left out too.
        """
        key, now = hash(fault), self._clock()
        with self._lock:
            shown_at, left_out = self._shown.get(key, (None, 0))
            if shown_at is not None and now - shown_at < self._every:
                self._shown[key] = (shown_at, left_out + 1)
                return None
            self._shown.pop(key, None)
            self._shown[key] = (now, 0)
            if len(self._shown) > self._most:
                del self._shown[next(iter(self._shown))]
            return left_out


def origin(error: BaseException) -> tuple[Hashable, ...]:
    """Tell what an error is and where it was raised, and the same of those behind it or within it.

    Two with the same origin have the same traceback, but for their texts and
    the way there.
    """
    found: list[Hashable] = []
    waiting: list[BaseException | None] = [error]
    while waiting and len(found) < _DEEPEST:
        each = waiting.pop(0)
        if each is None:
            continue
        found.append((type(each), *_place(each)))
        waiting.append(each.__cause__ or (None if each.__suppress_context__ else each.__context__))
        if isinstance(each, BaseExceptionGroup):
            waiting += each.exceptions
    return tuple(found)


def in_short(error: BaseException) -> str:
    """Name an error whose traceback was shown a short time ago: class, text, and the line it came from."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - whoever wrote the class; the log goes on
        text = "(it has no text)"
    file, line = _place(error)
    where = "" if file is None else f" at {file}:{line}"
    return f"{type(error).__name__}: {text}{where}; the traceback is in an earlier line"


def _place(error: BaseException) -> tuple[str | None, int]:
    """Give the file and the line where it was raised, `None` and 0 where it never was."""
    step = error.__traceback__
    if step is None:
        return None, 0
    while step.tb_next is not None:
        step = step.tb_next
    return step.tb_frame.f_code.co_filename, step.tb_lineno
