"""The log: one line of JSON (or of text, for a person) for each thing that happened, on standard error.

`docs/logs.md` names every line and field. No secret leaves: every line goes
through `Scrubber`. A fault that repeats does not flood it: see `REPEATING`.
"""

import logging
import re
import sys
import traceback
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from worker.core.scrub import Scrubber
from worker.observe.console import Console, wants_colors
from worker.observe.phones import mask_phones
from worker.observe.repeats import Repeats, in_short, origin
from worker.settings import LogSettings

REPEATING = frozenset(
    {
        "broker_blocks_publishing",
        "broker_connection_lost",
        "broker_unreachable",
        "intake_failed",
        "settling_failed",
        "settling_held_up",
    }
)
"""Lines of which each says the same for as long as a fault lasts, so that one a minute is enough.

None that tells of one event or request, or that something changed, belongs here.
"""

_NUMBERS = re.compile(r"0x[0-9a-f]+|\d+")


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

    Gives the scrubber that every line goes through, so that it can learn a new secret.
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
    """Of a fault that repeats, leaves out whole lines of `REPEATING`, and of any other line the traceback."""

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

    Two are the same fault where the same error is told of, or without one
    the texts differ in nothing but numbers.
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


def _stamped(name: str, event: EventDict) -> EventDict:
    level = "error" if name == "exception" else name
    return {"event": event.get("event"), **event, "level": level, "timestamp": datetime.now(UTC)}


def _route_libraries(repeats: Repeats, complete: list[Processor], level: int) -> None:
    """Let the libraries' own records look like ours; never below INFO: aiormq then logs whole frames."""
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
    for chatty in ("aiormq", "aio_pika", "aiohttp.access"):
        logging.getLogger(chatty).setLevel(max(level, logging.WARNING))


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
    """Give the error that a line is to tell of, from what logging calls take as `exc_info`."""
    if isinstance(exc_info, tuple):
        exc_info = exc_info[1]
    elif exc_info is True:
        exc_info = sys.exc_info()[1]
    return exc_info if isinstance(exc_info, BaseException) else None


def _traceback(error: BaseException) -> str:
    """Give a traceback without the values of variables, which may be secrets."""
    return "".join(traceback.format_exception(error)).rstrip()


def _text_of(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - its arguments don't fit its text: logging itself complains of that
        return str(record.msg)


def _json(_logger: WrappedLogger, _name: str, event: EventDict) -> str:
    return orjson.dumps(event, option=orjson.OPT_UTC_Z).decode()
