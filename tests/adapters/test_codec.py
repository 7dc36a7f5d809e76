"""Properties and headers: whatever a producer wrote is read without an error, and copied byte for byte."""

import math
import struct
import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from aiormq import spec
from hypothesis import given
from hypothesis import strategies as st
from pamqp import frame
from pamqp.header import ContentHeader

from tests.broker.raw import SHORT_TEXTS, raw_properties, short, sized, table
from worker.rabbitmq import codec
from worker.rabbitmq.codec import Copy, OddText, Properties, read_table, write_table
from worker.rabbitmq.message import Header, producer_headers, read_routing_key, table_of, to_inbound

NOT_COPIED = ("expiration", "user_id")
WHEN = 1_795_269_909


def entry(name: bytes, value: bytes) -> bytes:
    return short(name) + value


def copied(properties: Properties, **ours: Any) -> Properties:  # noqa: ANN401
    """Copy a message, send it, and read what arrives."""
    copy = Copy(b"body", properties, producer_headers(table_of(properties)) | ours)
    return Properties.read(copy.properties.marshal())


VALUES: dict[str, tuple[bytes, Any]] = {
    "true": (b"t\x01", True),
    "8 bits": (b"b\x80", -128),
    "8 bits, unsigned": (b"B\xff", 255),
    "16 bits": (b"s\x80\x00", -32768),
    "16 bits, unsigned": (b"u\xff\xff", 65535),
    "32 bits": (b"I\x80\x00\x00\x00", -(2**31)),
    "32 bits that would fit into 8": (b"I\x00\x00\x00\x07", 7),
    "32 bits, unsigned": (b"i\xff\xff\xff\xff", 2**32 - 1),
    "64 bits": (b"l" + b"\x80" + b"\x00" * 7, -(2**63)),
    "64 bits, by another letter": (b"L" + b"\x7f" + b"\xff" * 7, 2**63 - 1),
    "a float": (b"f" + struct.pack(">f", 1.5), 1.5),
    "a double": (b"d" + struct.pack(">d", 1795269909.101), 1795269909.101),
    "a large double": (b"d" + struct.pack(">d", 1e300), 1e300),
    "an infinite double": (b"d" + struct.pack(">d", math.inf), math.inf),
    "a decimal": (b"D\x02" + struct.pack(">i", -12345), Decimal("-123.45")),
    "a decimal of 255 digits": (b"D\xff" + struct.pack(">i", 1), Decimal(1).scaleb(-255)),
    "text": (b"S" + sized("grün".encode()), "grün"),
    "text that is not UTF-8": (b"S" + sized(b"gr\xfcn"), b"gr\xfcn"),
    "bytes": (b"x" + sized(b"\x00\xff"), b"\x00\xff"),
    "seconds": (b"T" + struct.pack(">Q", WHEN), datetime.fromtimestamp(WHEN, UTC)),
    "milliseconds": (b"T" + struct.pack(">Q", WHEN * 1000 + 101), datetime.fromtimestamp(WHEN + 0.101, UTC)),
    "nothing": (b"V", None),
    "an array": (b"A" + sized(b"V" + b"b\x07" + b"S" + sized(b"x")), [None, 7, "x"]),
    "a table": (b"F" + table(a=b"V", b=b"A" + sized(b"t\x00")), {"a": None, "b": [False]}),
}
UNREADABLE: dict[str, bytes] = {
    "nanoseconds": b"T" + struct.pack(">Q", WHEN * 10**9),
    "nanoseconds inside": b"F" + table(a=b"T" + struct.pack(">Q", 2**64 - 1)),
    "an unknown type inside": b"A" + sized(b"?"),
    "an array that ends within a value": b"A" + sized(b"d\x00"),
}


def nested(depth: int) -> bytes:
    value = b"V"
    for _ in range(depth):
        value = b"A" + sized(value)
    return value


@pytest.mark.parametrize("what", VALUES)
def test_a_header_of_any_type_is_read_and_copied_byte_for_byte(what: str) -> None:
    raw, value = VALUES[what]
    properties = Properties.read(raw_properties(headers=table(sent=raw)))
    assert properties.headers == {"sent": value}
    copy = copied(properties, ours=1)
    assert table_of(copy).raw["sent"] == raw
    assert table_of(copy)["ours"] == 1


@pytest.mark.parametrize("raw", [*UNREADABLE.values(), nested(5_000)], ids=[*UNREADABLE, "deep nesting"])
def test_a_header_that_cannot_be_read_counts_as_missing_and_is_copied_all_the_same(raw: bytes) -> None:
    properties = Properties.read(raw_properties(headers=table(odd=raw, good=b"b\x07")))
    assert properties.headers == {"good": 7}
    assert table_of(copied(properties)).raw["odd"] == raw


def test_from_a_header_of_an_unknown_type_on_all_count_as_missing() -> None:
    properties = Properties.read(raw_properties(headers=table(good=b"b\x07", odd=b"?xyz", lost=b"V")))
    assert table_of(copied(properties)) == {"good": 7}


def test_names_keep_their_bytes_also_those_that_are_not_utf8() -> None:
    names = [b"\xff\xfe", b"\xff\xfd", b"x" * 255, "größe".encode(), b""]
    raw = sized(b"".join(entry(name, b"b\x07") for name in names))
    properties = Properties.read(raw_properties(headers=raw))
    assert copied(properties).raw["headers"] == raw
    assert set(table_of(properties)) == {r"\xff\xfe", r"\xff\xfd", "x" * 255, "größe", ""}


@pytest.mark.parametrize("name", SHORT_TEXTS)
@pytest.mark.parametrize(
    "content", [b"\xe9" * 255, b"", b"plain", "größe".encode(), b"a\x00\xff", b"\xed\xa0\x80"]
)
def test_a_short_text_keeps_its_bytes(name: str, content: bytes) -> None:
    raw = short(content)
    properties = Properties.read(raw_properties(**{name: raw}))
    assert getattr(properties, name) == content.decode(errors="replace")
    assert copied(properties).raw[name] == raw


@pytest.mark.parametrize("name", NOT_COPIED)
def test_an_expiration_and_a_user_are_not_copied_whatever_they_hold(name: str) -> None:
    properties = Properties.read(raw_properties(**{name: b"\xff" + b"\xe9" * 255}, app_id=b"\x03pbx"))
    assert set(copied(properties).raw) == {"app_id", "headers", "delivery_mode"}


@pytest.mark.parametrize(
    ("count", "read"),
    [
        (WHEN, datetime.fromtimestamp(WHEN, UTC)),
        (WHEN * 1000 + 750, datetime.fromtimestamp(WHEN + 0.75, UTC)),
        (WHEN * 10**6, None),
        (WHEN * 10**9, None),
        (2**64 - 1, None),
        (0, datetime.fromtimestamp(0, UTC)),
    ],
)
def test_a_timestamp_keeps_its_bytes_so_each_attempt_reads_the_same_time(
    count: int, read: datetime | None
) -> None:
    raw = struct.pack(">Q", count)
    properties = Properties.read(raw_properties(timestamp=raw))
    assert properties.timestamp == read
    copy = copied(properties)
    assert (copy.raw["timestamp"], copy.timestamp) == (raw, read)


def test_octets_keep_their_bytes_but_a_copy_is_persistent() -> None:
    properties = Properties.read(raw_properties(priority=b"\xff", delivery_mode=b"\x07"))
    copy = copied(properties)
    assert (properties.priority, properties.delivery_mode) == (255, 7)
    assert (copy.priority, copy.delivery_mode) == (255, 2)
    assert "priority" not in copied(Properties.read(raw_properties())).raw


def _tables(values: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    names = st.binary(max_size=20)
    return st.dictionaries(names, values, max_size=5).map(
        lambda found: sized(b"".join(entry(name, value) for name, value in found.items()))
    )


def _fixed(letter: bytes, size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size).map(lambda content: letter + content)


_SCALARS = st.one_of(
    *(
        _fixed(letter.encode(), size)
        for letters, size in {"tbB": 1, "su": 2, "Iif": 4, "D": 5, "lLdT": 8, "V\x00": 0}.items()
        for letter in letters
    ),
    st.binary(max_size=40).map(lambda content: b"S" + sized(content)),
    st.binary(max_size=40).map(lambda content: b"x" + sized(content)),
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5).map(lambda items: b"A" + sized(b"".join(items))),
        _tables(inner).map(lambda content: b"F" + content),
    ),
    max_leaves=20,
)


@given(_tables(_VALUES))
def test_any_table_is_copied_byte_for_byte(raw: bytes) -> None:
    properties = Properties.read(raw_properties(headers=raw))
    read = table_of(properties)
    dropped = {name for name in read.raw if name.startswith("x-") or name.lower() in ("cc", "bcc")}
    if not dropped:
        assert write_table(producer_headers(read)) == raw


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_read_as_a_table_without_an_error(content: bytes) -> None:
    found = read_table(sized(content))
    assert read_table(write_table(found.raw)) is not None
    assert set(found) <= set(found.raw)


@pytest.mark.parametrize(
    "value",
    [
        b"A" + sized(b"V" * 130_000),
        b"F" + sized(b"\x00V" * 65_000),
        b"A" + sized(b"A\x00\x00\x00\x00" * 13_000),
        b"A" + sized(b"V" * 16_000),
    ],
    ids=["an array of nothings", "a table of nothings", "an array of arrays", "an array that is still read"],
)
def test_a_large_header_costs_little_time(value: bytes) -> None:
    """pamqp takes 0.8 s for the first of them, in the reader of the connection."""
    raw = raw_properties(headers=table(big=value, good=b"b\x07"))
    started = time.process_time()
    properties = Properties.read(raw)
    copied(properties)
    assert time.process_time() - started < 0.3


def test_of_arrays_and_tables_no_more_than_16_kib_are_read() -> None:
    half, text = b"A" + sized(b"V" * 8_000), b"S" + sized(b"x" * 60_000)
    raw = table(first=half, second=half, third=half, text=text, last=b"b\x07")
    assert set(read_table(raw)) == {"first", "second", "text", "last"}


def test_no_more_than_a_thousand_headers_are_read() -> None:
    many = {f"h{number}": b"V" for number in range(1001)}
    assert len(table_of(Properties.read(raw_properties(headers=table(**many))))) == 1000


CLOUD_EVENT = {
    "ce-id": b"S" + sized(b"e-1"),
    "cloudEvents_time": b"S" + sized(b"2026-11-20T14:07:14Z"),
    "traceparent": b"S" + sized(b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"),
}


def test_of_headers_that_leave_no_room_the_attributes_that_are_read_are_kept() -> None:
    """Each attempt sees the same: also the first one does not see the others."""
    big = b"S" + sized(b"x" * 33_000)
    raw = raw_properties(headers=table(big=big, **CLOUD_EVENT, **{"ce-big": big}))
    first = to_inbound(b"{}", Properties.read(raw), "call.ended")
    again = to_inbound(b"{}", copied(Properties.read(raw)), "call.ended")
    assert set(first.headers) == set(CLOUD_EVENT)
    assert again.headers == first.headers


@pytest.mark.parametrize(("count", "size"), [(40, 900), (950, 1)])
def test_attributes_that_leave_no_room_themselves_are_dropped(count: int, size: int) -> None:
    many = {f"ce-{number}": b"S" + sized(b"x" * size) for number in range(count)}
    properties = Properties.read(raw_properties(headers=table(**many)))
    assert producer_headers(table_of(properties)) == {}


def test_the_core_sees_text_that_every_encoder_takes() -> None:
    odd = bytes([100]) + b"\xe9" * 100
    raw = raw_properties(message_id=odd, message_type=odd, content_type=odd, headers=table())
    inbound = to_inbound(b"{}", Properties.read(raw), "call.ended")
    for text in (inbound.message_id, inbound.type, inbound.content_type):
        assert text == "\N{REPLACEMENT CHARACTER}" * 100
        assert text.encode()


def test_a_routing_key_that_is_not_utf8_keeps_its_bytes_over_copies() -> None:
    key = OddText.read(b"\xff" * 255)
    written = write_table({Header.ROUTING_KEY: key})
    read = read_routing_key(read_table(written))
    assert isinstance(read, OddText)
    assert read.raw == b"\xff" * 255
    assert write_table({Header.ROUTING_KEY: read}) == written


def test_text_of_ours_that_no_encoding_holds_is_escaped() -> None:
    assert read_table(write_table({"error": "half a pair: \ud800"}))["error"] == r"half a pair: \ud800"


def test_a_frame_is_read_by_this_module_once_it_is_installed() -> None:
    codec.install()
    raw = raw_properties(message_id=b"\x01\xe9", headers=table(big=b"d" + struct.pack(">d", 0.1)))
    content = struct.pack(">HHQ", 60, 0, 17) + raw
    packed = struct.pack(">BHI", 2, 1, len(content)) + content + b"\xce"
    consumed, channel, header = frame.unmarshal(packed)
    assert isinstance(header, ContentHeader)
    assert (consumed, channel, header.body_size) == (len(packed), 1, 17)
    assert isinstance(header.properties, Properties)
    assert header.properties.raw["message_id"] == b"\x01\xe9"
    assert header.properties.headers == {"big": 0.1}


def test_properties_that_pamqp_read_are_copied_too() -> None:
    read = spec.Basic.Properties(message_id="m-1", headers={"a": 1}, app_id="pbx")
    copy = copied(Properties.of(read))
    assert (copy.message_id, copy.app_id, copy.headers) == ("m-1", "pbx", {"a": 1})
