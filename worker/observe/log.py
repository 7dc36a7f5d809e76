"""The log: one line of JSON (or of text, for a person) for each thing that happened, on standard error.

No secret leaves: every line goes through `Scrubber`, which replaces each known
secret, also as URLs, HTML and base64 write it.
"""

import base64
import html
import logging
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import quote, quote_plus

import orjson
import structlog
from structlog.typing import EventDict, WrappedLogger

from worker.settings import LogSettings

_SHORTEST_SECRET = 4
_PHONE = re.compile(r"(?<![\w.+-])\+?\d{9,15}(?![\w.-])")
_PHONE_FIELDS = frozenset({"phone_number", "phone"})


class Scrubber:
    """Replaces secrets in text."""

    def __init__(self, secrets: Iterable[str]) -> None:
        """Take the secrets as they are; those under four characters would tear up ordinary words."""
        spellings: set[str] = set()
        for secret in secrets:
            if len(secret) >= _SHORTEST_SECRET:
                plain = base64.b64encode(secret.encode()).decode().rstrip("=")
                spellings |= {secret, quote(secret, safe=""), quote_plus(secret), html.escape(secret), plain}
        longest_first = sorted(spellings, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def __call__(self, text: str) -> str:
        """Give the text without any secret."""
        return self._pattern.sub("***", text) if self._pattern is not None else text


def configure(settings: LogSettings, secrets: Iterable[str] = ()) -> None:
    """Set up structlog, and the standard library's log of the libraries used, once for the process."""
    scrub = Scrubber(secrets)
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    render: Callable[..., Any] = _console() if settings.format == "console" else _json
    shared: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    if settings.mask_phone_numbers:
        shared.append(_mask_phones)

    def scrubbed(logger: WrappedLogger, name: str, event: EventDict) -> str:
        line: str = render(logger, name, event)
        return scrub(line)

    structlog.configure(
        processors=[*shared, scrubbed],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    _route_libraries(shared, scrubbed, level)


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
    return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def _console() -> Callable[..., Any]:
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())


def mask_phone(number: str) -> str:
    """Hide all digits of a phone number but the last two."""
    last = len(number) - 2
    return "".join("*" if letter.isdigit() and at < last else letter for at, letter in enumerate(number))


def _mask_phones(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    for field, value in event.items():
        if field in _PHONE_FIELDS and isinstance(value, str):
            event[field] = mask_phone(value)
        elif field == "error" and isinstance(value, str):
            event[field] = _PHONE.sub(lambda match: mask_phone(match[0]), value)
    return event
