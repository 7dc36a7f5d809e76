"""Messages of producers whose client libraries check nothing: properties and headers as bytes."""

import struct

from aio_pika import Message
from aiormq import spec

SHORT_TEXTS = (
    *("content_type", "content_encoding", "correlation_id", "reply_to"),
    *("message_id", "message_type", "app_id", "cluster_id"),
)
"""The properties that are short texts, but for those that the broker checks."""


def sized(content: bytes) -> bytes:
    """Write what begins with its length in 32 bits."""
    return struct.pack(">I", len(content)) + content


def short(content: bytes) -> bytes:
    """Write a short text."""
    return bytes([len(content)]) + content


def table(**values: bytes) -> bytes:
    """Write a header table of values with their types."""
    return sized(b"".join(short(name.encode()) + value for name, value in values.items()))


def raw_properties(**parts: bytes) -> bytes:
    """Write a content header's flags and properties from their bytes."""
    slots = spec.Basic.Properties.__slots__
    flags = sum(spec.Basic.Properties.flags[name] for name in parts)
    return struct.pack(">H", flags) + b"".join(parts[name] for name in slots if name in parts)


class _RawProperties(spec.Basic.Properties):
    def __init__(self, parts: dict[str, bytes]) -> None:
        super().__init__(message_id="known to the publishing client alone")
        self._parts = parts

    def marshal(self) -> bytes:
        return raw_properties(**self._parts)


class RawMessage(Message):
    """A message whose properties are given as bytes."""

    def __init__(self, body: bytes, **parts: bytes) -> None:
        super().__init__(body)
        self._parts = {"delivery_mode": b"\x02"} | parts

    @property
    def properties(self) -> spec.Basic.Properties:
        return _RawProperties(self._parts)
