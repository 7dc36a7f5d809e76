"""AMQP properties and header tables: read whatever a producer wrote, and written back byte for byte.

A producer may write what pamqp refuses: text that is not UTF-8, a timestamp past the year 9999, a header of
an unknown type, tables that take seconds to decode. pamqp then fails inside the connection's reader, so one
such message breaks the connection at every delivery, until the delivery limit buries it together with all
that were in flight beside it. What pamqp does read it does not always write back as it was: a double becomes
a 32-bit float, an unsigned number a signed one.

So each property and each header keeps the bytes that it came as, and a copy is made of those bytes. The
values are decoded for reading only, and what can't be decoded counts as missing.
"""

import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from aio_pika import Message
from aio_pika.abc import DeliveryMode
from pamqp import decode, encode
from pamqp.commands import Basic
from pamqp.header import ContentHeader

MAX_HEADERS = 1000
MAX_NESTED = 16 * 1024
"""How much of a table is read, so that none holds up the connection: so many headers, and so many bytes of
those that are arrays or tables. The others count as missing.
"""
MAX_NESTING = 32
"""How deep tables and arrays may be nested for a header to be decoded."""

_NOT_COPIED = frozenset({"headers", "delivery_mode", "expiration", "user_id"})
_LENGTH = struct.Struct(">I")


class Raw(bytes):
    """The type and the value of one header, as they stood in the table."""


class OddText(str):
    """Text that is not UTF-8, with replacement characters. `raw` are its own bytes."""

    __slots__ = ("raw",)

    raw: bytes

    @classmethod
    def read(cls, raw: bytes, errors: str = "replace") -> str:
        """Decode text; plain text if it is UTF-8."""
        try:
            return raw.decode()
        except UnicodeDecodeError:
            text = cls(raw.decode(errors=errors))
            text.raw = raw
            return text


def to_bytes(text: str) -> bytes:
    """Encode text. Never raises: half a surrogate pair becomes its escape."""
    return text.raw if isinstance(text, OddText) else text.encode(errors="backslashreplace")


class Table(dict[str, Any]):
    """A header table: the values that could be decoded. `raw` has every header as it came."""

    __slots__ = ("raw",)

    def __init__(self) -> None:
        super().__init__()
        self.raw: dict[str, Raw] = {}


class Properties(Basic.Properties):  # no slots of its own: pamqp counts them
    """A message's properties. `raw` has each of them as it came."""

    def __init__(self) -> None:
        super().__init__()
        self.raw: dict[str, bytes] = {}

    @classmethod
    def of(cls, properties: Basic.Properties) -> "Properties":
        """Return properties of any kind with their bytes, as this reads them or else as pamqp writes them."""
        return properties if isinstance(properties, cls) else cls.read(properties.marshal())

    @classmethod
    def read(cls, data: bytes) -> "Properties":
        """Read the flags and the list of properties that end a content header. Never raises."""
        found = cls()
        flags, at = _flags(data)
        for name, flag, end_of, read in _LAYOUT:
            if flags & flag:
                end = end_of(data, at)
                raw = found.raw[name] = data[at:end]
                setattr(found, name, read(raw))
                at = end
        return found


class Copy(Message):
    """A message to publish: a received one's body and properties, byte for byte, with other headers.

    `expiration` would empty the queue that the copy goes to, and the broker refuses a `user_id` that is not
    ours, so neither is copied.
    """

    def __init__(self, body: bytes, properties: Basic.Properties, headers: dict[str, Any]) -> None:
        """Copy everything but the headers; a header that is `Raw` is written as it is."""
        read = Properties.of(properties)
        super().__init__(body, delivery_mode=DeliveryMode.PERSISTENT, message_id=read.message_id)
        self.headers = headers
        self._raw = {name: raw for name, raw in read.raw.items() if name not in _NOT_COPIED}

    @property
    def properties(self) -> Basic.Properties:
        """The properties as aiormq sends them."""
        return _CopiedProperties(self._raw, self.headers, self.message_id)


class _CopiedProperties(Basic.Properties):
    def __init__(self, raw: Mapping[str, bytes], headers: dict[str, Any], message_id: str | None) -> None:
        super().__init__(message_id=message_id)
        self._parts = {**raw, "headers": write_table(headers), "delivery_mode": b"\x02"}

    def marshal(self) -> bytes:
        """Write the properties; aiormq has set a `message_id` by now, if there was none."""
        parts = dict(self._parts)
        if self.message_id and "message_id" not in parts:
            parts["message_id"] = encode.short_string(self.message_id)
        flags = sum(self.flags[name] for name in parts)
        return struct.pack(">H", flags) + b"".join(parts[name] for name in self.__slots__ if name in parts)


def install() -> None:
    """Make pamqp read messages with this module, in the whole process. Can be repeated."""
    ContentHeader.unmarshal = _read_content_header  # type: ignore[method-assign, assignment]
    decode.METHODS["shortstr"] = _short_text  # names and routing keys in methods


def _read_content_header(header: ContentHeader, data: bytes) -> None:
    header.class_id, header.weight, header.body_size = struct.unpack_from(">HHQ", data)
    header.properties = Properties.read(data[12:])


def _short_text(data: bytes) -> tuple[int, str]:
    end = data[0] + 1
    return end, OddText.read(data[1:end])


def _flags(data: bytes) -> tuple[int, int]:
    """Return the flags of the properties that are there, and where the first one begins."""
    (flags,) = struct.unpack_from(">H", data)
    at, more = 2, flags
    while more & 1:  # another word of flags follows, for properties that no class has
        (more,) = struct.unpack_from(">H", data, at)
        at += 2
    return flags, at


def _timestamp(raw: bytes) -> datetime | None:
    try:
        return _time(raw)
    except (ValueError, OverflowError, OSError):
        return None


def _time(raw: bytes) -> datetime:
    """Read a time in seconds, or in milliseconds if it would be past the year 2106 otherwise."""
    (count,) = struct.unpack(">Q", raw)
    return datetime.fromtimestamp(count if count <= 0xFFFFFFFF else count / 1000, UTC)


def _text(raw: bytes) -> str | bytes:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _decimal(raw: bytes) -> Decimal:
    scale, mantissa = struct.unpack(">Bi", raw)
    return Decimal(mantissa).scaleb(-scale)


def _number(layout: str) -> tuple[int, Callable[[bytes], Any]]:
    number = struct.Struct(layout)
    return number.size, lambda raw: number.unpack(raw)[0]


_FIXED: dict[int, tuple[int, Callable[[bytes], Any]]] = {
    ord("t"): (1, lambda raw: raw != b"\x00"),
    ord("b"): _number(">b"),
    ord("B"): _number(">B"),
    ord("s"): _number(">h"),
    ord("u"): _number(">H"),
    ord("I"): _number(">i"),
    ord("i"): _number(">I"),
    ord("l"): _number(">q"),
    ord("L"): _number(">q"),
    ord("f"): _number(">f"),
    ord("d"): _number(">d"),
    ord("D"): (5, _decimal),
    ord("T"): (8, _time),
    ord("V"): (0, lambda _: None),
    0: (0, lambda _: None),
}
"""The types of one size: that size, and how to read the bytes. The type letters are RabbitMQ's.

https://www.rabbitmq.com/amqp-0-9-1-errata#section_3
"""
_SIZED: dict[int, Callable[[bytes], Any]] = {ord("S"): _text, ord("x"): bytearray}
"""The types that begin with their length, but for those that hold others."""
_ARRAY, _TABLE = ord("A"), ord("F")
_NESTED = (_ARRAY, _TABLE)

_END: dict[str, Callable[[bytes, int], int]] = {
    "shortstr": lambda data, at: at + 1 + data[at],
    "table": lambda data, at: int(at + 4 + _LENGTH.unpack_from(data, at)[0]),
    "octet": lambda _, at: at + 1,
    "timestamp": lambda _, at: at + 8,
}


def read_table(data: bytes) -> Table:
    """Read a header table with its length. Never raises; takes time in proportion to its size."""
    table = Table()
    at, nested = 4, MAX_NESTED
    with suppress(LookupError, struct.error):  # after an unknown type nothing can be read
        while at < len(data) and len(table.raw) < MAX_HEADERS:
            name, start = _name(data, at)
            at = _end(data, start)
            raw = table.raw[name] = Raw(data[start:at])
            if raw[0] in _NESTED:
                nested -= len(raw)
            if nested >= 0 or raw[0] not in _NESTED:
                _decode(table, name, raw)
    return table


def _decode(table: Table, name: str, raw: Raw) -> None:
    try:
        table[name] = _value(raw, 0, MAX_NESTING)
    except (LookupError, ValueError, ArithmeticError, OSError, struct.error):
        table.pop(name, None)  # of two with one name the last one counts


def _name(data: bytes, at: int) -> tuple[str, int]:
    end = at + 1 + data[at]
    return OddText.read(data[at + 1 : end], "backslashreplace"), end


def _end(data: bytes, at: int) -> int:
    """Return the end of the value whose type is at this place."""
    kind = data[at]
    if kind in _FIXED:
        return at + 1 + _FIXED[kind][0]
    if kind in _SIZED or kind in _NESTED:
        return int(at + 5 + _LENGTH.unpack_from(data, at + 1)[0])
    raise LookupError(kind)


def _value(data: bytes, at: int, nesting: int) -> Any:  # noqa: ANN401 - a value of any type
    """Decode one value. Raises an error of any of several classes if it can't be."""
    kind, end = data[at], _end(data, at)
    if kind in _FIXED:
        return _FIXED[kind][1](data[at + 1 : end])
    if kind in _SIZED:
        return _SIZED[kind](data[at + 5 : end])
    if not nesting:
        raise ValueError("tables and arrays are nested too deep")
    at += 5
    if kind == _ARRAY:
        items = []
        while at < end:
            items.append(_value(data, at, nesting - 1))
            at = _end(data, at)
        return items
    inner = {}
    while at < end:
        name, at = _name(data, at)
        inner[name] = _value(data, at, nesting - 1)
        at = _end(data, at)
    return inner


def write_table(headers: Mapping[str, Any]) -> bytes:
    """Write a header table: `Raw` values as they are, others as pamqp does."""
    parts = []
    for name, value in headers.items():
        raw_name = to_bytes(name)
        parts += [bytes([len(raw_name)]), raw_name, _written(value)]
    content = b"".join(parts)
    return _LENGTH.pack(len(content)) + content


def _written(value: Any) -> bytes:  # noqa: ANN401 - a value of any type
    if isinstance(value, Raw):
        return value
    if isinstance(value, str):
        raw = to_bytes(value)
        return b"S" + _LENGTH.pack(len(raw)) + raw
    return encode.encode_table_value(value)


_READ: dict[str, Callable[[bytes], Any]] = {
    "shortstr": lambda raw: OddText.read(raw[1:]),
    "table": read_table,
    "octet": lambda raw: raw[0],
    "timestamp": _timestamp,
}
_LAYOUT = [
    (name, Properties.flags[name], _END[Properties.amqp_type(name)], _READ[Properties.amqp_type(name)])
    for name in Properties.__slots__
]
"""The properties in their order: name, flag, how to find its end, and how to read it."""
