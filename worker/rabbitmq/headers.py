"""Our headers on copies, and what of a producer's message a copy keeps."""

import re
import struct
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from aio_pika import Message
from aio_pika.abc import DeliveryMode
from aiormq import spec
from pamqp import encode

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
MAX_FOREIGN = 48 * 1024
"""Bounds in bytes (of the error: in characters), as all headers must fit into one AMQP frame of 128 KiB."""

_ROUTES_ELSEWHERE = frozenset({"cc", "bcc"})
_EVENT_ID = re.compile(r"[\x21-\x7e]{1,255}")
_LONGEST_ROUTING_KEY = 255


def text(headers: Mapping[str, Any], name: str) -> str | None:
    """Read a header as text, `None` where it is missing or something else."""
    value = headers.get(name)
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return value if isinstance(value, str) and value else None


def event_id(headers: Mapping[str, Any]) -> str | None:
    """Read the event id, `None` where it is missing or could not travel as an HTTP header."""
    value = text(headers, EVENT_ID)
    return value if value is not None and _EVENT_ID.fullmatch(value) else None


def routing_key(headers: Mapping[str, Any]) -> str | None:
    """Read the producer's routing key, `None` where it is missing or longer than one can be."""
    value = text(headers, ROUTING_KEY)
    return value if value is not None and len(value.encode()) <= _LONGEST_ROUTING_KEY else None


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


def foreign(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Give the producer's own headers, for a copy.

    Without the broker's `x-…` (with `x-death` on it, older brokers silently
    drop a copy that would run in a circle), without `CC` and `BCC` (they
    would route the copy to other queues too), without those that the library
    reads but can't write, and without any at all where they are too large to
    stand beside ours.
    """
    kept: dict[str, Any] = {}
    size = 0
    for name, value in headers.items():
        if name in OURS or name.startswith("x-") or name.lower() in _ROUTES_ELSEWHERE:
            continue
        try:
            writable = _writable(value)
            size += len(encode.field_table({name: writable}))
        except (TypeError, ValueError, OverflowError, RecursionError, struct.error):
            continue
        kept[name] = writable
    return kept if size <= MAX_FOREIGN else {}


def _writable(value: Any) -> Any:  # noqa: ANN401 - any value of a header
    """Turn what pamqp reads into what it writes: text that is not UTF-8 is read as `bytes`."""
    match value:
        case bytes():
            return bytearray(value)
        case dict():
            return {name: _writable(inner) for name, inner in value.items()}
        case list():
            return [_writable(inner) for inner in value]
        case _:
            return value


def copy_of(body: bytes, properties: spec.Basic.Properties, headers: dict[str, Any]) -> Message:
    """Copy a message with other headers, its body byte for byte.

    `expiration` would empty the queue it goes to, and the broker refuses a
    `user_id` that is not ours, so neither is kept.
    """
    return Message(
        body,
        headers=headers,
        content_type=properties.content_type,
        content_encoding=properties.content_encoding,
        delivery_mode=DeliveryMode.PERSISTENT,
        priority=properties.priority,
        correlation_id=properties.correlation_id,
        reply_to=properties.reply_to,
        message_id=properties.message_id,
        timestamp=properties.timestamp,
        type=properties.message_type,
        app_id=properties.app_id,
    )
