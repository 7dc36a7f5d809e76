"""Messages as the core sees them."""

import json
from datetime import UTC, datetime
from typing import Any

from worker.core.events import Inbound

SEEN = datetime(2026, 11, 20, 19, 8, tzinfo=UTC)
STRUCTURED = "application/cloudevents+json"
BLANKS = [
    " ",
    "\t\r\n",
    "\0",
    "\x7f\x85",
    "\N{NO-BREAK SPACE}",
    "\N{SOFT HYPHEN}",
    "\N{HANGUL FILLER}",
    "\N{ZERO WIDTH SPACE}",
    "\N{ZERO WIDTH JOINER}\N{WORD JOINER}",
    "\N{RIGHT-TO-LEFT MARK}",
    "\N{LINE SEPARATOR}",
    "\N{IDEOGRAPHIC SPACE}",
    "\N{BRAILLE PATTERN BLANK}",
    "\ufeff",
]
"""Texts of which nothing can be seen."""


def inbound(body: object, **said: Any) -> Inbound:  # noqa: ANN401 - what an Inbound has
    """Make an inbound; a body that is not bytes is written as JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Inbound(**{"body": raw, "routing_key": "call.ended", "first_seen": SEEN, "headers": {}, **said})
