"""The log for a person: `log.format=console`."""

import os
from typing import TextIO

import structlog
from structlog.dev import Column, KeyValueColumnFormatter, LogLevelColumnFormatter
from structlog.typing import EventDict, WrappedLogger

_LEVELS = ("critical", "error", "warning", "info", "debug")
_EVENT_WIDTH = 22
"""So wide is the column of the event's name; the longest of ours, which are rare, stick out."""
_NEEDS_QUOTES = frozenset(" =\"'\\")


class Console(structlog.dev.ConsoleRenderer):
    """One line each: time (UTC), level, event, then `name=value` as the code wrote them.

    What has no value is left out. A number of seconds or milliseconds is shown
    with its unit: `duration_ms: 4.2` as `duration=4.2ms`, `open_seconds: 75`
    as `closed=1m15s`. Whatever could steer a terminal is escaped.
    """

    def __init__(self, *, colors: bool) -> None:
        """Take whether to use colors."""
        style = self.get_default_column_styles(colors)
        by_level = self.get_default_level_styles(colors)
        levels = {level: by_level[level] + style.bright for level in _LEVELS}

        def bare(color: str, width: int = 0, before: str = "", after: str = "") -> KeyValueColumnFormatter:
            return KeyValueColumnFormatter(None, color, style.reset, _printable, width, before, after)

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
        """Give the line, and below it the traceback where there is one."""
        line = dict(_with_unit(*pair) for pair in event_dict.items() if pair[1] is not None)
        line["timestamp"] = f"{event_dict['timestamp']:%Y-%m-%d %H:%M:%S.%f}"[:-3] + "Z"
        for long in ("exception", "stack"):
            if long in line:
                line[long] = _printable(line[long])
        return super().__call__(logger, name, line)


def wants_colors(stream: TextIO) -> bool:
    """Tell whether to write colors: to a terminal that has them, unless `NO_COLOR` is set (no-color.org)."""
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
    """Write seconds as a person does: `0.35s`, `42s`, `1m15s`, `2h0m5s`."""
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
        return '"' + _printable(text).replace('"', r"\"").replace("\n", r"\n") + '"'
    return _printable(text).replace("\n", r"\n")


def _printable(value: object) -> str:
    """Escape whatever is no letter, but for the ends of lines."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each == "\n" else ascii(each)[1:-1] for each in text)
