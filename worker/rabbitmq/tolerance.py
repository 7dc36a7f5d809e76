"""Reading messages whose properties can't be read.

A producer may write what pamqp refuses: a timestamp in microseconds (past the
year 9999), text that is not UTF-8, a header of a type that nobody knows.
pamqp then fails in the middle of the connection's reader, so one such message
breaks the connection, and does so at every delivery, until the delivery limit
buries it together with all that were in flight beside it.

Here such a property counts as missing, and the message is taken like any
other: the event stands in its body.
"""

import struct
from collections.abc import Callable
from datetime import datetime
from typing import Any

from pamqp import decode

_Decoder = Callable[[bytes], tuple[int, Any]]

_strict_table: _Decoder = decode.field_table
_strict_timestamp: _Decoder = decode.timestamp


def install() -> None:
    """Make pamqp read what it would refuse; once for the process, and harmless when repeated."""
    decode.METHODS["shortstr"] = _short_text
    decode.METHODS["table"] = _table
    decode.METHODS["timestamp"] = _timestamp
    decode.TABLE_MAPPING[b"T"] = _timestamp


def _short_text(value: bytes) -> tuple[int, str]:
    end = value[0] + 1
    return end, value[1:end].decode("utf-8", "replace")


def _timestamp(value: bytes) -> tuple[int, datetime | None]:
    try:
        return _strict_timestamp(value)
    except (ValueError, OverflowError, OSError):
        return 8, None


def _table(value: bytes) -> tuple[int, dict[str, Any]]:
    try:
        return _strict_table(value)
    except (ValueError, OverflowError, RecursionError, IndexError):
        (length,) = struct.unpack_from(">I", value)
        return 4 + length, {}
