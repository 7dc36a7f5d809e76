"""The log: one line of JSON (or of text, for a person) for each thing that happened, on standard error.

No secret leaves: every line goes through `Scrubber`.
"""

import logging
import re
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from worker.core.scrub import Scrubber
from worker.settings import LogSettings

_PHONE = re.compile(
    r"(?<![\w.+-])(?:\+?\d{9,15}|\+\d[\d ().-]{7,20}\d|\(?\d{3}\)?[ .-]?\d{3}[ .-]\d{4})(?!\w|[.-]\w)"
)
_PHONE_FIELDS = frozenset({"phone_number", "phone"})
_MAY_HOLD_PHONES = _PHONE_FIELDS | {"error", "event", "exception"}


def configure(settings: LogSettings, secrets: Iterable[str] = ()) -> Scrubber:
    """Set up structlog, and the standard library's log of the libraries used, once for the process.

    Gives the scrubber that every line goes through, so that it can learn a new secret.
    """
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    render = _Console(colors=sys.stderr.isatty()) if settings.format == "console" else _json
    prepare: list[Processor] = [_with_traceback]
    if settings.mask_phone_numbers:
        prepare.append(_mask_phones)
    scrubber = Scrubber(secrets)
    finish = _Finish(render, scrubber)
    structlog.configure(
        processors=[*prepare, finish],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    _route_libraries(prepare, finish, level)
    return scrubber


class _Finish:
    """Renders a line, with its level and time, and without any secret.

    Hardly any line could hold one, so it is rendered first and looked at
    quickly; only where that raises a suspicion each text in it is scrubbed
    and the line rendered anew, so that what is replaced can't break the JSON.
    The level and the time are added last: a password 2026 must not tear them up.
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


def _with_traceback(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    return structlog.processors.format_exc_info(logger, name, event) if "exc_info" in event else event


def _stamped(name: str, event: EventDict) -> EventDict:
    level = "error" if name == "exception" else name
    return {"event": event.get("event"), **event, "level": level, "timestamp": datetime.now(UTC)}


def _route_libraries(prepare: list[Processor], finish: Processor, level: int) -> None:
    """Let the libraries' own records look like ours; never below INFO: aiormq then logs whole frames."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *prepare],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, finish],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(level, logging.INFO))
    for chatty in ("aiormq", "aio_pika", "aiohttp.access"):
        logging.getLogger(chatty).setLevel(max(level, logging.WARNING))


def _json(_logger: WrappedLogger, _name: str, event: EventDict) -> str:
    return orjson.dumps(event, option=orjson.OPT_UTC_Z).decode()


class _Console(structlog.dev.ConsoleRenderer):
    """Writes the time as a person reads it."""

    def __call__(self, logger: WrappedLogger, name: str, event_dict: EventDict) -> str:
        event_dict["timestamp"] = event_dict["timestamp"].isoformat(" ", "milliseconds")
        return super().__call__(logger, name, event_dict)


def mask_phone(number: str) -> str:
    """Hide all digits of a phone number but the last two."""
    hidden = sum(letter.isdigit() for letter in number) - 2
    masked = []
    for letter in number:
        if letter.isdigit():
            hidden -= 1
        masked.append("*" if letter.isdigit() and hidden >= 0 else letter)
    return "".join(masked)


def _mask_phones(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    for field in _MAY_HOLD_PHONES & event.keys():
        if field in _PHONE_FIELDS:
            event[field] = mask_phone(str(event[field]))
        elif isinstance(event[field], str) and not event[field].isidentifier():  # our own events' names
            event[field] = _PHONE.sub(lambda match: mask_phone(match[0]), event[field])
    return event
