"""Our headers on copies, and what of a producer's message a copy keeps."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from aio_pika import Message
from aio_pika.abc import AbstractIncomingMessage, DeliveryMode

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
"""Bounds in characters: all headers of a message must fit into one AMQP frame of 128 KiB."""

_ROUTES_ELSEWHERE = frozenset({"cc", "bcc"})


def text(headers: Mapping[str, Any], name: str) -> str | None:
    """Read a header as text, `None` where it is missing or something else."""
    value = headers.get(name)
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return value if isinstance(value, str) and value else None


def attempt(headers: Mapping[str, Any]) -> int:
    """Read the number of the attempt, 1 where it is missing or nonsense."""
    value = headers.get(ATTEMPT)
    return max(1, value) if isinstance(value, int) else 1


def time(headers: Mapping[str, Any], name: str) -> datetime | None:
    """Read a time that we wrote, `None` where it is missing or nonsense."""
    try:
        when = datetime.fromisoformat(text(headers, name) or "")
        return when.astimezone(UTC) if when.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def foreign(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Give the producer's own headers, for a copy.

    Without the broker's `x-…` (with `x-death` on it, older brokers silently
    drop a copy that would run in a circle), without `CC` and `BCC` (they
    would route the copy to other queues too), and without any at all where
    they are too large to stand beside ours.
    """
    kept = {
        name: value
        for name, value in headers.items()
        if name not in OURS and not name.startswith("x-") and name.lower() not in _ROUTES_ELSEWHERE
    }
    return kept if len(repr(kept)) <= MAX_FOREIGN else {}


def copy_of(message: AbstractIncomingMessage, headers: dict[str, Any]) -> Message:
    """Copy a message with other headers, its body byte for byte.

    `expiration` would empty the queue it goes to, and the broker refuses a
    `user_id` that is not ours, so neither is kept.
    """
    return Message(
        message.body,
        headers=headers,
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        delivery_mode=DeliveryMode.PERSISTENT,
        priority=message.priority,
        correlation_id=message.correlation_id,
        reply_to=message.reply_to,
        message_id=message.message_id,
        timestamp=message.timestamp,
        type=message.type,
        app_id=message.app_id,
    )
