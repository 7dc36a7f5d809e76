"""The log: one line of JSON (or of text, for a person) for each thing that happened, on standard error.

No secret leaves: every text of every line goes through `Scrubber`, before it
is rendered, so that what is replaced can't break the JSON.
"""

import logging
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any

import orjson
import structlog
from structlog.typing import EventDict, WrappedLogger

from worker.observe.scrub import Scrubber
from worker.settings import LogSettings

_PHONE = re.compile(
    r"(?<![\w.+-])(?:\+?\d{9,15}|\+\d[\d ().-]{7,20}\d|\(?\d{3}\)?[ .-]?\d{3}[ .-]\d{4})(?!\w|[.-]\w)"
)
_PHONE_FIELDS = frozenset({"phone_number", "phone"})
_TEXT_FIELDS = frozenset({"error", "event", "exception"})


def configure(settings: LogSettings, secrets: Iterable[str] = ()) -> None:
    """Set up structlog, and the standard library's log of the libraries used, once for the process."""
    scrubber = Scrubber(secrets)
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    render: Callable[..., Any] = _console() if settings.format == "console" else _json

    def scrubbed(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
        return {
            field: value if field.startswith("_") else scrubber.scrub(value) for field, value in event.items()
        }

    shared: list[Any] = [structlog.processors.format_exc_info]
    if settings.mask_phone_numbers:
        shared.append(_mask_phones)
    # What follows the scrubber can hold no secret: a password 2026 must not tear up the time.
    shared += [
        scrubbed,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    _route_libraries(shared, render, level)


def _route_libraries(shared: list[Any], render: Callable[..., str], level: int) -> None:
    """Let the libraries' own records look like ours; never below INFO: aiormq then logs whole frames."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(level, logging.INFO))
    for chatty in ("aiormq", "aio_pika", "aiohttp.access"):
        logging.getLogger(chatty).setLevel(max(level, logging.WARNING))


def _json(_logger: WrappedLogger, _name: str, event: EventDict) -> str:
    event = {"event": event.pop("event", None), **event}
    return orjson.dumps(event).decode()


def _console() -> Callable[..., Any]:
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())


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
    for field, value in event.items():
        if field in _PHONE_FIELDS and isinstance(value, str):
            event[field] = mask_phone(value)
        elif field in _TEXT_FIELDS and isinstance(value, str):
            event[field] = _PHONE.sub(lambda match: mask_phone(match[0]), value)
    return event
