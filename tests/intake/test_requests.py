"""What becomes of a request: events of VICIdial's URLs, of plain JSON and of CloudEvents, or a refusal."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cloudevents.core.bindings.http import HTTPMessage, to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from worker.core.errors import InvalidEvent
from worker.core.events import Event, Inbound, decode
from worker.intake.requests import (
    BATCH,
    PLAIN,
    STRUCTURED,
    Record,
    UnsupportedType,
    read_body,
    read_call,
    read_query,
)

NOW = datetime(2026, 11, 20, 19, 7, 20, tzinfo=UTC)
CALL_ID = "V1201405090000012345"
QUERY = {
    "call_id": CALL_ID,
    "uniqueid": "1795269909.101",
    "lead_id": "12345",
    "agent_user": "1000",
    "campaign_id": "SALES1",
    "list_id": "1001",
    "status": "SALE",
}
CALL = {"type": "call.ended", "call_id": CALL_ID, "lead_id": 12345}
CLOUD: dict[str, Any] = {
    "specversion": "1.0",
    "id": "7",
    "source": "/pbx/1",
    "type": "call.ended",
    "time": "2026-11-20T14:07:14-05:00",
    "datacontenttype": "application/json",
    "data": {"call_id": CALL_ID},
}


def as_the_worker(record: Record) -> Event:
    """Read what is published as the worker does."""
    return decode(
        Inbound(
            record.body,
            routing_key=record.type,
            first_seen=NOW,
            headers=record.headers,
            content_type=record.content_type,
            message_id=record.id,
            timestamp=datetime.fromtimestamp(record.at, UTC),
        )
    )


def read(body: object, content_type: str = PLAIN, headers: dict[str, str] | None = None) -> list[Record]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_body(data, content_type, (headers or {}).items(), NOW)


# --- VICIdial's URLs --------------------------------------------------------------------------------


def test_a_url_becomes_an_event_with_what_it_says() -> None:
    record = read_call(QUERY, NOW)
    assert (record.type, record.content_type, record.headers) == ("call.ended", PLAIN, {})
    assert json.loads(record.body) == QUERY | {
        "type": "call.ended",
        "event_id": record.id,
        "occurred_at": "2026-11-20T19:07:20+00:00",
    }
    assert as_the_worker(record).id == record.id


def test_the_id_is_the_one_that_the_calls_were_reported_with_before() -> None:
    assert read_call(QUERY, NOW).id == "69c4fb2b-de40-5526-973b-7ade550caa5b"


def test_fields_that_vicidial_left_blank_and_its_users_for_nobody_are_left_out() -> None:
    event = json.loads(read_call(QUERY | {"agent_user": "VDCL", "list_id": " ", "x": "1"}, NOW).body)
    assert event.keys().isdisjoint({"agent_user", "list_id", "x"})


def test_a_variable_that_vicidial_does_not_know_is_left_out() -> None:
    event = json.loads(read_call(QUERY | {"list_id": "--A--list_id--B--", "status": "--A--"}, NOW).body)
    assert "list_id" not in event
    assert event["status"] == "--A--"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("", {}),
        ("a=1&b=&c", {"a": "1", "b": "", "c": ""}),
        ("a=1&a=2", {"a": "1"}),
        ("a=x%20y+z%2B", {"a": "x y z+"}),
        ("a=%C3%A4&b=%E4%80", {"a": "ä", "b": "ä€"}),
        ("a=%zz&=x&b=%81", {"a": "%zz", "": "x", "b": "\ufffd"}),
    ],
)
def test_a_query_is_decoded_whatever_vicidials_database_is_encoded_in(
    raw: str, expected: dict[str, str]
) -> None:
    assert read_query(raw) == expected


def test_a_repeat_has_the_same_id_and_another_call_has_another() -> None:
    changes: list[dict[str, str]] = [
        {},
        {"status": "NI", "occurred_at": "2026-11-20 14:07:14"},
        {"uniqueid": "1826805909.7"},
        {"call_id": "V1201405090000012346"},
    ]
    ids = [
        read_call(QUERY | changed, NOW + timedelta(hours=number)).id for number, changed in enumerate(changes)
    ]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3


@pytest.mark.parametrize(
    "call_id",
    ["", "--A--call_id--B--", "12345", "V12014050900000'2345", "V" + "1" * 39, f"{CALL_ID}\n", "v" * 20],
)
def test_a_url_without_one_of_vicidials_ids_is_refused(call_id: str) -> None:
    with pytest.raises(InvalidEvent, match="call_id"):
        read_call(QUERY | {"call_id": call_id}, NOW)


def test_a_url_with_a_time_that_is_none_is_refused_without_repeating_it() -> None:
    with pytest.raises(InvalidEvent, match="occurred_at is not a time") as caught:
        read_call(QUERY | {"occurred_at": "yesterday"}, NOW)
    assert "yesterday" not in str(caught.value)


# --- plain JSON -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content_type", ["", PLAIN, "application/json; charset=utf-8", "text/json", "a/x+json"]
)
def test_plain_json_is_published_byte_for_byte(content_type: str) -> None:
    body = b'{"type": "call.ended", "call_id": "V1201405090000012345",\n "x": 1.50, "name": "\xc3\xa4"}'
    (record,) = read(body, content_type)
    assert (record.body, record.content_type, record.headers) == (body, PLAIN, {})
    assert as_the_worker(record).data["x"] == 1.5
    assert read(body, content_type) == [record]


def test_an_agent_is_an_event_too() -> None:
    (record,) = read({"type": "agent.onboarded", "agent_user": "agent-001", "event_id": "7"})
    assert (record.type, record.id) == ("agent.onboarded", "7")


def test_a_call_of_a_server_that_numbers_them_is_accepted() -> None:
    (record,) = read({"type": "call.ended", "call_id": 1000012345})
    assert as_the_worker(record).subject == "1000012345"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not JSON"),
        (b"call", "not JSON"),
        (b"[]", "not a JSON object but an array"),
        (b"\xff", "not UTF-8"),
        (b"[" * 2000 + b"]" * 2000, "nested more than"),
        ({}, "unknown event type"),
        ({"type": "call.began", "call_id": CALL_ID}, "unknown event type"),
        ({"type": "call.ended"}, "call_id"),
        ({"type": "call.ended", "call_id": ["x"]}, "call_id"),
        ({"type": "call.ended", "call_id": "not-an-id"}, "none of VICIdial's"),
        ({"type": "call.ended", "call_id": "abc"}, "none of VICIdial's"),
        ({"type": "agent.onboarded", "agent_user": "a b"}, "none of VICIdial's"),
        (CALL | {"event_id": "a b"}, "visible ASCII"),
        (CALL | {"occurred_at": "soon"}, "occurred_at"),
        (CALL | {"lead_id": {}}, "lead_id"),
    ],
)
def test_what_is_no_event_is_refused_with_a_sentence(body: object, says: str) -> None:
    with pytest.raises(InvalidEvent, match=says):
        read(body)


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/cloudevents+avro", "application/cloudevents", "multipart/x"]
)
def test_another_type_of_body_is_refused(content_type: str) -> None:
    with pytest.raises(UnsupportedType, match="application/cloudevents"):
        read(CALL, content_type)


# --- CloudEvents ------------------------------------------------------------------------------------


def sdk_event(**changed: Any) -> CloudEvent:  # noqa: ANN401
    """Make an event as a client with the SDK does."""
    attributes = {name: value for name, value in CLOUD.items() if name != "data"}
    attributes |= {"time": NOW} | changed
    return CloudEvent(attributes=attributes, data={"call_id": CALL_ID})


def of_sdk(message: HTTPMessage) -> list[Record]:
    headers = dict(message.headers)
    content_type = next(value for name, value in headers.items() if name.lower() == "content-type")
    return read_body(bytes(message.body), content_type, headers.items(), NOW)


def test_what_the_sdk_sends_is_the_same_event_in_both_modes() -> None:
    event = sdk_event(source="/büro 1")
    (structured,) = of_sdk(to_structured_event(event))
    (binary,) = of_sdk(to_binary_event(event))
    assert structured.content_type == STRUCTURED
    assert binary.headers["cloudEvents:source"] == "/büro 1"
    assert structured.id == binary.id
    assert as_the_worker(structured) == as_the_worker(binary)
    assert as_the_worker(binary).data == {"call_id": CALL_ID}


def test_a_batch_becomes_an_event_each() -> None:
    batch = [CLOUD, CLOUD | {"id": "8"}]
    records = read(batch, f"{BATCH}; charset=utf-8")
    assert [as_the_worker(record).id for record in records] == [
        as_the_worker(read(event, STRUCTURED)[0]).id for event in batch
    ]
    assert read([], BATCH) == []


def test_a_quoted_header_is_unquoted() -> None:
    headers = {"Ce-Specversion": "1.0", "ce-id": '"a\\"b"', "CE-Source": "x", "ce-type": "call.ended"}
    (record,) = read({"call_id": CALL_ID}, headers=headers)
    assert record.headers["cloudEvents:id"] == 'a"b'


@pytest.mark.parametrize("missing", ["specversion", "id", "source", "type"])
def test_a_cloud_event_without_a_required_attribute_is_refused(missing: str) -> None:
    event = {name: value for name, value in CLOUD.items() if name != missing}
    with pytest.raises(InvalidEvent, match=f"has no {missing}"):
        read(event, STRUCTURED)
    with pytest.raises(InvalidEvent, match=f"event 1 of the batch, counted from 0: .* has no {missing}"):
        read([CLOUD, event], BATCH)


@pytest.mark.parametrize(
    ("body", "content_type", "headers", "says"),
    [
        (CLOUD | {"specversion": "0.3"}, STRUCTURED, {}, "specversion"),
        (CLOUD | {"id": 7}, STRUCTURED, {}, "has no id"),
        ([CLOUD], STRUCTURED, {}, "not a JSON object but an array"),
        (CLOUD, BATCH, {}, "not a JSON array but an object"),
        ([7], BATCH, {}, "event 0 .* not a JSON object but a number"),
        (b"[1]]", BATCH, {}, "the batch is not JSON"),
        ({"call_id": CALL_ID}, PLAIN, {"ce-specversion": "1.0", "ce-id": "1"}, "has no source"),
        (
            {"call_id": CALL_ID},
            PLAIN,
            {"ce-specversion": "1.0", "ce-id": "%ff", "ce-source": "x", "ce-type": "call.ended"},
            "percent-encoding",
        ),
    ],
)
def test_a_cloud_event_that_is_none_is_refused(
    body: object, content_type: str, headers: dict[str, str], says: str
) -> None:
    with pytest.raises(InvalidEvent, match=says):
        read(body, content_type, headers)


# --- whatever comes ---------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    body=st.binary(max_size=40)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(st.sampled_from([*CALL, *CLOUD, "event_id"]), JSON).map(
        lambda v: json.dumps(v).encode()
    ),
    content_type=st.sampled_from([PLAIN, STRUCTURED, BATCH, ""]),
    headers=st.dictionaries(st.sampled_from(["ce-specversion", "ce-id", "ce-source", "ce-type"]), st.text()),
)
def test_any_body_is_an_event_that_the_worker_reads_or_is_refused(
    body: bytes, content_type: str, headers: dict[str, str]
) -> None:
    try:
        records = read_body(body, content_type, headers.items(), NOW)
    except InvalidEvent:
        return
    for record in records:
        assert as_the_worker(record).id == record.id


@given(query=st.dictionaries(st.sampled_from([*QUERY, "occurred_at"]), st.text(max_size=300)))
def test_any_url_is_an_event_that_the_worker_reads_or_is_refused(query: dict[str, str]) -> None:
    try:
        record = read_call({"call_id": CALL_ID} | query, NOW)
    except InvalidEvent:
        return
    assert as_the_worker(record).id == record.id
