"""Our headers on copies, and what of a producer's message a copy keeps."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from worker.core.events import CLOUDEVENTS_PREFIXES
from worker.rabbitmq import codec
from worker.rabbitmq.codec import OddText, Raw, Table, to_bytes

EVENT_ID = "crm-sync-event-id"
ATTEMPT = "crm-sync-attempt"
FIRST_SEEN = "crm-sync-first-seen"
ROUTING_KEY = "crm-sync-routing-key"
REASON = "crm-sync-reason"
ERROR = "crm-sync-error"
STAGE = "crm-sync-stage"
FAILED_AT = "crm-sync-failed-at"
ENRICHMENT = "crm-sync-enrichment"

OURS = frozenset({EVENT_ID, ATTEMPT, FIRST_SEEN, ROUTING_KEY, REASON, ERROR, STAGE, FAILED_AT, ENRICHMENT})

MAX_ERROR = 1000
MAX_ENRICHMENT = 16 * 1024
MAX_FOREIGN = 32 * 1024
MAX_READ = 1024
MAX_HEADERS = codec.MAX_HEADERS - 100
"""Bounds in bytes (of the error: in characters), as all headers must fit into one AMQP frame of 128 KiB.

`MAX_FOREIGN` bytes and `MAX_HEADERS` headers of its producer's are carried by a copy; of more, those that are
read and have up to `MAX_READ` bytes.
"""

_ROUTES_ELSEWHERE = frozenset({"cc", "bcc"})
_TRACE_CONTEXT = ("traceparent", "tracestate")
_READ = (*CLOUDEVENTS_PREFIXES, *_TRACE_CONTEXT)
_EVENT_ID = re.compile(r"[\x21-\x7e]{1,255}")
_LONGEST_ROUTING_KEY = 255


def text(headers: Mapping[str, Any], name: str) -> str | None:
    """Read a header as text, `None` if it is missing or something else."""
    value = headers.get(name)
    if isinstance(value, bytes):
        value = OddText.read(value)
    return value if isinstance(value, str) and value else None


def event_id(headers: Mapping[str, Any]) -> str | None:
    """Read the event id, `None` if it is missing or could not travel as an HTTP header."""
    value = text(headers, EVENT_ID)
    return value if value is not None and _EVENT_ID.fullmatch(value) else None


def routing_key(headers: Mapping[str, Any]) -> str | None:
    """Read the producer's routing key, `None` if it is missing or longer than one can be."""
    value = text(headers, ROUTING_KEY)
    return value if value is not None and len(to_bytes(value)) <= _LONGEST_ROUTING_KEY else None


def attempt(headers: Mapping[str, Any]) -> int:
    """Read the number of the attempt, 1 where it is missing or nonsense."""
    value = headers.get(ATTEMPT)
    return max(1, value) if isinstance(value, int) else 1


def time(headers: Mapping[str, Any], name: str) -> datetime | None:
    """Read a time that we wrote, `None` where it is missing or nonsense."""
    if (written := text(headers, name)) is None:
        return None
    try:
        when = datetime.fromisoformat(written)
        return when.astimezone(UTC) if when.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def is_brokers(name: str) -> bool:
    """Whether a header is the broker's, or has such a name."""
    return name.startswith("x-")


def foreign(table: Table) -> dict[str, Any]:
    """Return the producer's own headers: those that the core sees, and that copies carry as they came.

    Not the broker's `x-…` (with `x-death` on it, older brokers silently drop a copy that would run in a
    circle), nor `CC` and `BCC` (they would route the copy to other queues too). If the rest is too large to
    stand beside ours, only what is read remains: the attributes of a CloudEvent and the trace context.
    The trace context is text, as tracing reads it from the copy.
    """
    own = {
        name: raw
        for name, raw in table.raw.items()
        if name not in OURS and not is_brokers(name) and name.lower() not in _ROUTES_ELSEWHERE
    }
    if not own:
        return {}
    if not _fit(own):
        own = {name: raw for name, raw in own.items() if name.startswith(_READ) and len(raw) <= MAX_READ}
        if not _fit(own):
            return {}
    context = {name: table[name] for name in _TRACE_CONTEXT if name in own and name in table}
    return own | {name: value for name, value in context.items() if isinstance(value, str)}


def _fit(headers: Mapping[str, Raw]) -> bool:
    size = sum(1 + len(to_bytes(name)) + len(raw) for name, raw in headers.items())
    return size <= MAX_FOREIGN and len(headers) <= MAX_HEADERS
