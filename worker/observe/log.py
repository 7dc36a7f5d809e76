"""The log: one line of JSON (or of text, for a person) for each thing that happened, on standard error.

`docs/logs.md` lists every line and field. No secret leaves: every line goes
through `Scrubber`. A fault that repeats does not flood it: see `REPEATING`.
"""

import logging
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Hashable, Iterable
from datetime import UTC, datetime
from typing import TextIO

import orjson
import structlog
from structlog.dev import Column, KeyValueColumnFormatter, LogLevelColumnFormatter
from structlog.typing import EventDict, Processor, WrappedLogger

from worker.core.scrub import Scrubber, printable
from worker.observe.phones import mask_phones
from worker.settings import LogSettings

REPEATING = frozenset(
    {
        "broker_blocks_publishing",
        "broker_connection_lost",
        "broker_takes_nothing",
        "broker_unreachable",
        "feed_failed",
        "intake_failed",
        "request_turned_away",
        "settling_failed",
        "settling_held_up",
        "spool_held_up",
        "spool_unreadable",
    }
)
"""Lines that say the same for as long as a fault lasts, so that one a minute is enough.

No line about one event or request, or about a change, belongs here: except requests of anybody, who could
flood the log with them.
"""

_NUMBERS = re.compile(r"0x[0-9a-f]+|\d+")
SHOW_EVERY = 60.0
"""Seconds between two lines that say the same."""
MOST_FAULTS = 512
"""How many faults are distinguished; of more, the one that was shown longest ago is forgotten."""
_DEEPEST = 8
"""How many errors behind an error, or within a group, are looked at."""

LIBRARY_LEVELS = {
    "aiormq": logging.WARNING,
    "aio_pika": logging.WARNING,
    "aiohttp.access": logging.WARNING,
    "aiormq.connection": logging.CRITICAL,
    "aiormq.channel": logging.CRITICAL,
}
"""The least level that each of these loggers writes.

The last two write a traceback for each lost connection, which has a line of ours, and a message with its
body if it is returned after its publish has timed out.
"""

_LEVELS = ("critical", "error", "warning", "info", "debug")
_EVENT_WIDTH = 22
"""So wide is the column of the event's name; the longest of ours, which are rare, stick out."""
_NEEDS_QUOTES = frozenset(" =\"'\\")


# --- faults that repeat ------------------------------------------------------------------------------


class Repeats:
    """Decides which lines of a fault are logged: the first at once, then one every so many seconds.

    Of a fault only its hash is kept, so the memory is bounded whatever its
    text. It may be asked from any thread: libraries log from their own.
    """

    def __init__(
        self,
        every: float = SHOW_EVERY,
        most: int = MOST_FAULTS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make it; `every` are the seconds between two lines of a fault, `most` the faults remembered."""
        self._every = every
        self._most = most
        self._clock = clock
        self._shown: dict[int, tuple[float, int]] = {}  # when, and how many were left out since; oldest first
        self._lock = threading.Lock()

    def seen(self, fault: Hashable) -> int | None:
        """Record that the fault happened once more.

        Returns:
            How many lines of it were left out since the last one that was shown, if this one is to be shown;
            `None` if this one is to be left out too.
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
    """Return the class of an error and where it was raised, and the same of its causes and its group.

    Two errors with the same origin have the same traceback, but for their texts and the way there.
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
    """Return class, text and line of an error whose traceback was logged a short time ago."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - whoever wrote the class; the log goes on
        text = "(it has no text)"
    file, line = _place(error)
    where = "" if file is None else f" at {file}:{line}"
    return f"{type(error).__name__}: {text}{where}; the traceback is in an earlier line"


def _place(error: BaseException) -> tuple[str | None, int]:
    """Return the file and the line where it was raised, `None` and 0 if it never was."""
    step = error.__traceback__
    if step is None:
        return None, 0
    while step.tb_next is not None:
        step = step.tb_next
    return step.tb_frame.f_code.co_filename, step.tb_lineno


# --- the log ------------------------------------------------------------------------------------


def configure(
    settings: LogSettings,
    secrets: Iterable[str] = (),
    *,
    extra: Iterable[Processor] = (),
    repeats: Repeats | None = None,
) -> Scrubber:
    """Set up structlog, and the standard library's log of the libraries used, once for the process.

    `extra` processors add fields to each line that is shown, ours and the
    libraries'; what they add is masked and scrubbed like the rest. `repeats`
    decides which lines of a fault that repeats are shown.

    Returns the scrubber that every line goes through, so that it can learn a new secret.
    """
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    render = Console(colors=wants_colors(sys.stderr)) if settings.format == "console" else _json
    repeats = repeats or Repeats()
    complete: list[Processor] = [*extra]
    if settings.mask_phone_numbers:
        complete.append(mask_phones)
    scrubber = Scrubber(secrets)
    complete.append(_Finish(render, scrubber))
    structlog.configure(
        processors=[_Limit(repeats), *complete],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    _route_libraries(repeats, complete, level)
    return scrubber


class _Limit:
    """Leaves out lines of `REPEATING` while a fault repeats, and the traceback of any other line."""

    def __init__(self, repeats: Repeats) -> None:
        self._repeats = repeats

    def __call__(self, _logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
        name = event.get("event")
        if name in REPEATING:
            return self._one_a_minute(event)
        if "exc_info" in event and (error := _error_of(event.pop("exc_info"))) is not None:
            known = self._repeats.seen(("traceback", *origin(error))) is None
            event["exception"] = in_short(error) if known else _traceback(error)
        return event

    def _one_a_minute(self, event: EventDict) -> EventDict:
        error = _error_of(event.pop("exc_info", None))
        raised = None if error is None else origin(error)
        left_out = self._repeats.seen((event["event"], event.get("error"), raised))
        if left_out is None:
            raise structlog.DropEvent
        if left_out:
            event["repeated"] = left_out
        if error is not None:
            event["exception"] = _traceback(error)
        return event


class _LimitLibraries(logging.Filter):
    """The same for a library's warnings and errors.

    Two records are of the same fault if their errors have the same origin; without an error, if their texts
    differ in nothing but numbers.
    """

    def __init__(self, repeats: Repeats) -> None:
        super().__init__()
        self._repeats = repeats

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        error = record.exc_info[1] if record.exc_info else None
        fault = _NUMBERS.sub("0", _text_of(record)) if error is None else origin(error)
        left_out = self._repeats.seen((record.name, record.levelno, fault))
        if left_out:
            record.repeated = left_out
        return left_out is not None


class _Finish:
    """Renders a line, with its level and time, and without any secret.

    Hardly any line could hold a secret, so it is rendered first and searched quickly. Only if that raises a
    suspicion is each text in it scrubbed and the line rendered anew, so that a replacement can't break the
    JSON. The level and the time are added last: a password 2026 must not change them.
    """

    def __init__(self, render: Callable[..., str], scrubber: Scrubber) -> None:
        self._render = render
        self._scrubber = scrubber

    def __call__(self, logger: WrappedLogger, name: str, event: EventDict) -> str:
        try:
            line = self._render(logger, name, _stamped(name, event))
        except TypeError:  # something that JSON can't hold
            line = None
        if line is not None and not self._scrubber.suspects(line):
            return line
        return self._render(logger, name, _stamped(name, self._scrubber.scrub(event)))


def _stamped(name: str, event: EventDict) -> EventDict:
    level = "error" if name == "exception" else name
    return {"event": event.get("event"), **event, "level": level, "timestamp": datetime.now(UTC)}


def _route_libraries(repeats: Repeats, complete: list[Processor], level: int) -> None:
    """Log the libraries' own records as ours; never below INFO, at which aiormq logs whole frames.

    Less of the loggers in `LIBRARY_LEVELS`.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_LimitLibraries(repeats))
    remove_meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_from_record], processors=[remove_meta, *complete]
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(level, logging.INFO))
    for chatty, least in LIBRARY_LEVELS.items():
        logging.getLogger(chatty).setLevel(max(level, least))


def _from_record(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    record: logging.LogRecord = event["_record"]
    event["logger"] = record.name
    if repeated := getattr(record, "repeated", 0):
        event["repeated"] = repeated
    if (error := _error_of(event.pop("exc_info", None))) is not None:
        event["exception"] = _traceback(error)
    if (stack := event.pop("stack_info", None)) is not None:
        event["stack"] = stack
    return event


def _error_of(exc_info: object) -> BaseException | None:
    """Return the error of a line, from what logging calls accept as `exc_info`."""
    if isinstance(exc_info, tuple):
        exc_info = exc_info[1]
    elif exc_info is True:
        exc_info = sys.exc_info()[1]
    return exc_info if isinstance(exc_info, BaseException) else None


def _traceback(error: BaseException) -> str:
    """Return a traceback without the values of variables, which may be secrets."""
    return "".join(traceback.format_exception(error)).rstrip()


def _text_of(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - its arguments don't fit its text: logging itself complains of that
        return str(record.msg)


def _json(_logger: WrappedLogger, _name: str, event: EventDict) -> str:
    return orjson.dumps(event, option=orjson.OPT_UTC_Z).decode()


# --- the log for a person: log.format=console --------------------------------------------------------


class Console(structlog.dev.ConsoleRenderer):
    """One line each: time (UTC), level, event, then `name=value` as the code wrote them.

    What has no value is left out. A number of seconds or milliseconds is shown
    with its unit: `duration_ms: 4.2` as `duration=4.2ms`, `open_seconds: 75`
    as `open=1m15s`. Whatever could steer a terminal is escaped.
    """

    def __init__(self, *, colors: bool) -> None:
        style = self.get_default_column_styles(colors)
        by_level = self.get_default_level_styles(colors)
        levels = {level: by_level[level] + style.bright for level in _LEVELS}

        def bare(color: str, width: int = 0, before: str = "", after: str = "") -> KeyValueColumnFormatter:
            return KeyValueColumnFormatter(None, color, style.reset, _escaped, width, before, after)

        super().__init__(
            columns=[
                Column("timestamp", bare(style.timestamp)),
                Column("level", LogLevelColumnFormatter(levels, style.reset)),
                Column("event", bare(style.bright, _EVENT_WIDTH)),
                Column("logger", bare(style.bright + style.logger_name, 0, "[", "]")),
                Column("", KeyValueColumnFormatter(style.kv_key, style.kv_value, style.reset, _shown)),
            ],
            exception_formatter=structlog.dev.plain_traceback,  # the others show variables: secrets
            sort_keys=False,
        )

    def __call__(self, logger: WrappedLogger, name: str, event_dict: EventDict) -> str:
        """Return the line, and below it the traceback if there is one."""
        line = dict(_with_unit(*pair) for pair in event_dict.items() if pair[1] is not None)
        line["timestamp"] = f"{event_dict['timestamp']:%Y-%m-%d %H:%M:%S.%f}"[:-3] + "Z"
        for long in ("exception", "stack"):
            if long in line:
                line[long] = _escaped(line[long])
        return super().__call__(logger, name, line)


def wants_colors(stream: TextIO) -> bool:
    """Return whether to write colors: to a terminal with colors, unless `NO_COLOR` is set (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _with_unit(name: str, value: object) -> tuple[str, object]:
    if isinstance(value, int | float):
        if name.endswith("_ms"):
            short = f"{value:g}ms" if value < 60_000 else _duration(value / 1000)
            return name.removesuffix("_ms"), short
        if name.endswith("_seconds"):
            return name.removesuffix("_seconds"), _duration(value)
    return name, value


def _duration(seconds: float) -> str:
    """Return seconds as a person writes them: `0.35s`, `42s`, `1m15s`, `2h0m5s`."""
    if seconds < 60:
        return f"{seconds:g}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"


def _shown(value: object) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(_shown, value))
    text = str(value)
    if not text or _NEEDS_QUOTES.intersection(text):
        return '"' + _escaped(text).replace('"', r"\"").replace("\n", r"\n") + '"'
    return _escaped(text).replace("\n", r"\n")


def _escaped(value: object) -> str:
    return printable(str(value), keep="\n")
