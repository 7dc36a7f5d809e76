"""What no producer may write: each is named in a sentence, and nothing but `InvalidEvent` is raised."""

import base64
import gzip
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.core.inbounds import BLANKS, STRUCTURED, inbound
from worker.core.errors import InvalidEvent
from worker.core.events import MAX_BODY, MAX_DEPTH, MAX_EXPECTED_CAMPAIGNS, Event, Inbound, decode


def call(**said: object) -> dict[str, object]:
    """Make the body of a good call event, but for what is said."""
    return {"type": "call.ended", "event_id": "e1", "call_id": "V1", **said}


def agent(**said: object) -> dict[str, object]:
    """Make the body of a good agent event, but for what is said."""
    return {"type": "agent.onboarded", "event_id": "e1", "agent_user": "a1", **said}


def nested(depth: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    """Make a call event with something that deep in it; the event itself is the first level."""
    return b'{"call_id": "V1", "x": ' + opening * (depth - 1) + b"1" + closing * (depth - 1) + b"}"


IS_BLANK = "the text is blank; an id has at least one visible character"


def refusal(message: Inbound) -> str:
    """Return the sentence with which a message is refused."""
    with pytest.raises(InvalidEvent) as caught:
        decode(message)
    return str(caught.value)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "the body is not JSON"),
        (b"call ended", "the body is not JSON"),
        (b"{'call_id': 'V1'}", "the body is not JSON"),
        (b'{"call_id": "V1"} {}', "the body is not JSON"),
        (b'{"call_id": "V1", "x": NaN}', "NaN is not a JSON value"),
        (b'{"call_id": "V1", "x": -Infinity}', "-Infinity is not a JSON value"),
        (b'{"call_id": "V1", "x": 1e999}', "the number 1e999 is too large"),
        (b'{"call_id": "V1", "x": ' + b"9" * 5000 + b"}", "integer string conversion: value has 5000 digits"),
        (b'{"call_id": ' + b"9" * 4000 + b"}", "call_id: "),
        (b'{"call_id": "\xff"}', "the body is not UTF-8: invalid start byte at byte 13"),
        ('{"call_id": "V1"}'.encode("utf-16"), "the body is not UTF-8: invalid start byte at byte 0"),
        (gzip.compress(b'{"call_id": "V1"}', mtime=0), "not UTF-8 but gzip; publish it without compression"),
        (rb'{"call_id": "\ud800"}', "half of a surrogate pair"),
        (rb'{"call_id": "V1", "\uDC00": 1}', "half of a surrogate pair"),
        (b"[]", "the body is not a JSON object but an array"),
        (b'"V1"', "the body is not a JSON object but a string"),
        (b"12", "the body is not a JSON object but a number"),
        (b"1.5", "the body is not a JSON object but a number"),
        (b"true", "the body is not a JSON object but a boolean"),
        (b"null", "the body is not a JSON object but null"),
        (nested(MAX_DEPTH + 1), "more than 100 deep"),
        (nested(MAX_DEPTH + 1, b'{"a":', b"}"), "more than 100 deep"),
        (b"[" * 200_000, "more than 100 deep"),
        (b'{"a":' * 100_000, "more than 100 deep"),
    ],
    ids=lambda value: None if isinstance(value, str) else repr(value[:24]),
)
def test_a_body_that_is_no_readable_json_object_is_refused(body: bytes, sentence: str) -> None:
    assert sentence in refusal(inbound(body))


@pytest.mark.parametrize("body", [nested(MAX_DEPTH), nested(MAX_DEPTH, b'{"a":', b"}")])
def test_what_is_just_deep_enough_is_taken(body: bytes) -> None:
    assert decode(inbound(body)).subject == "V1"


def test_many_brackets_side_by_side_are_not_deep() -> None:
    assert decode(inbound(call(x=[[]] * 1000, y="[" * 1000))).subject == "V1"


def test_the_limit_of_a_body_is_one_mebibyte() -> None:
    def padded(size: int) -> bytes:
        return json.dumps(call()).encode().ljust(size)

    assert decode(inbound(padded(MAX_BODY))).subject == "V1"
    assert refusal(inbound(padded(MAX_BODY + 1))) == "the body has 1048577 bytes; the limit is 1048576"


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"type": "call.ended"}, "not a usable call.ended event: call_id: Field required"),
        ({"type": "agent.onboarded", "call_id": "V1"}, "agent_user: Field required"),
        (call(call_id=None), "call_id: "),
        (call(call_id=""), "call_id: "),
        *(
            sample
            for blank in BLANKS
            for sample in (
                (call(call_id=blank), f"call_id: {IS_BLANK}"),
                (call(event_id=blank), f"event_id: {IS_BLANK}"),
                (agent(agent_user=blank), f"agent_user: {IS_BLANK}"),
                (agent(expected_campaigns=[blank]), f"expected_campaigns.0: {IS_BLANK}"),
            )
        ),
        (call(call_id=True), "call_id: "),
        (call(call_id=["V1"]), "call_id: "),
        (call(call_id={"id": "V1"}), "call_id: "),
        (call(call_id="x" * 256), "call_id: "),
        (call(uniqueid=False), "uniqueid: "),
        (call(lead_id=[]), "lead_id: "),
        (call(agent_user={}), "agent_user: "),
        (call(campaign_id=True), "campaign_id: "),
        (call(occurred_at=1795269909), "occurred_at: "),
        (call(ended_at=1795269909), "ended_at: "),
        (call(ended_at="yesterday"), "ended_at 'yesterday' is not a time"),
        (call(ended_at="0001-01-01T00:00:00+14:00"), "ended_at '0001-01-01T00:00:00+14:00' is out of range"),
        (call(ended_at="9999-12-31T23:59:59-14:00"), "ended_at '9999-12-31T23:59:59-14:00' is out of range"),
        (call(ended_at="0001-01-01T00:00:00Z"), "ended_at '0001-01-01T00:00:00Z' is out of range"),
        (call(ended_at="9999-12-31T23:59:59"), "ended_at '9999-12-31T23:59:59' is out of range"),
        *(
            (call(call_id=word), "call_id: the text stands for a value that is missing")
            for word in ("undefined", "null", "None", "NaN", "(null)", "-", " undefined\n")
        ),
        (call(call_id="--A--call_id--B--"), "call_id: VICIdial did not fill in its variable"),
        (agent(agent_user="--A--user--B--"), "agent_user: VICIdial did not fill in its variable"),
        (agent(expected_campaigns=["--A--campaign_id--B--"]), "expected_campaigns.0: VICIdial did not"),
        (call(event_id=True), "event_id: "),
        (call(event_id=""), "event_id: "),
        (call(event_id="two words"), "event_id 'two words' is not 1 to 255 visible ASCII characters"),
        (call(event_id="line\nbreak"), "event_id 'line\\nbreak' is not"),
        (agent(agent_user=None), "agent_user: "),
        (agent(agent_user=True), "agent_user: "),
        (agent(expected_campaigns="SALES1"), "expected_campaigns: "),
        (agent(expected_campaigns=["SALES1", None]), "expected_campaigns.1: "),
        (agent(expected_campaigns=[True]), "expected_campaigns.0: "),
        (agent(expected_campaigns=[""]), "expected_campaigns.0: "),
    ],
    ids=ascii,
)
def test_a_missing_field_and_a_field_of_the_wrong_type_are_named(body: object, sentence: str) -> None:
    assert sentence in refusal(inbound(body))


def test_all_wrong_fields_are_named_at_once() -> None:
    assert refusal(inbound(call(call_id=None, lead_id=[], uniqueid=True))).count(": Input should") == 3


def test_of_many_bad_campaigns_the_first_is_named() -> None:
    assert refusal(inbound(agent(expected_campaigns=["S1", *[None] * 900]))) == (
        "not a usable agent.onboarded event: expected_campaigns.1: Input should be a valid string"
    )


def test_an_agent_may_be_expected_to_have_a_thousand_campaigns_and_no_more() -> None:
    just = agent(expected_campaigns=[f"S{number}" for number in range(MAX_EXPECTED_CAMPAIGNS)])
    assert len(decode(inbound(just)).expected_campaigns or ()) == MAX_EXPECTED_CAMPAIGNS == 1000
    too_many = refusal(inbound(agent(expected_campaigns=["S1"] * 1001)))
    assert "expected_campaigns: List should have at most 1000 items" in too_many


@pytest.mark.parametrize(
    "text",
    [
        "yesterday",
        "",
        "2026-11-20",
        "2026-13-20T14:07:14Z",
        "2026-11-20T25:07:14Z",
        "1795269909.0000000",
        "2026-11-20T19:07:61Z",
        "2026-11-20T19:60:14Z",
        "2026-11-20T24:00:01Z",
        "2026-11-20T24:01Z",
        "2026-11-20T19:07:14.Z",
        "2026-11-20T19:07:14+24:00",
        "2026-11-20T19:07:14+05:60",
        "2026-11-20T19:07:14-05:00Z",
        "2026-11-20T19:07:14-05:00:60",
        "2026-11-20T14:07:14 EST",
        "2026-11-20T14:07:14[America/New_York]",
        "2026-11-20T14:07:14-05:00[]",
        "2026-11-20T14:07:14-05:00[America/New_York",
        "2026-11-20T19:0714Z",
        "2026-11-20T190714:00Z",
        "2026-11-20--19:07:14Z",
        "2026-02-29T12:00:00Z",
        "2026-W54-1T12:00:00Z",
        "9999-12-31T24:00:00Z",
        "\N{FULLWIDTH DIGIT TWO}026-11-20T19:07:14Z",
        "2026-11-20T19:07:14 PM",
        "Fri, 20 Nov 2026 19:07:14 GMT",
        "0001-01-01T00:00:00Z",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
    ],
)
def test_a_time_that_can_not_be_read_is_refused(text: str) -> None:
    assert f"occurred_at {text!r} is " in refusal(inbound(call(occurred_at=text)))


@pytest.mark.parametrize("time", [1795269909, True, b"2026-11-20T14:07:14Z", {}, "soon"])
def test_so_is_a_time_of_a_cloud_event(time: object) -> None:
    headers = {"ce-specversion": "1.0", "ce-time": time}
    assert "is not a time such as" in refusal(inbound(call(), headers=headers))


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (inbound(call(type="call.started")), "'call.started'"),
        (inbound(call(type="CALL.ENDED")), "'CALL.ENDED'"),
        (inbound(call(type="")), "''"),
        (inbound(call(type=["call.ended"])), "[…]"),
        (inbound(call(type={"call.ended": 1})), "{…}"),
        (inbound({"call_id": "V1"}, type="call.started"), "'call.started'"),
        (inbound({"call_id": "V1"}, routing_key=""), "''"),
        (inbound(call(), headers={"ce-id": "1", "ce-type": b"call.ended"}), "b'call.ended'"),
        (inbound({"type": "x", "data": call()}, content_type=STRUCTURED), "'x'"),
        (inbound(call(type="x" * 100)), f"'{'x' * 79}…"),
    ],
)
def test_an_unknown_type_is_refused_and_the_known_ones_are_named(message: Inbound, shown: str) -> None:
    assert refusal(message) == (f"unknown event type {shown}; known are call.ended and agent.onboarded")


def structured(**members: object) -> Inbound:
    """Make a CloudEvent in structured mode."""
    return inbound(
        {"specversion": "1.0", "id": "1", "type": "call.ended", **members}, content_type=STRUCTURED
    )


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (structured(), "the data of the CloudEvent is not a JSON object but null"),
        (structured(data=None), "the data of the CloudEvent is not a JSON object but null"),
        (structured(data=None, data_base64=None), "the data of the CloudEvent is not a JSON object but null"),
        (structured(data=[call()]), "the data of the CloudEvent is not a JSON object but an array"),
        (structured(data=json.dumps(call())), "the data of the CloudEvent is not a JSON object but a string"),
        (
            structured(data=call(), data_base64="e30="),
            "the CloudEvent has both data and data_base64; send one",
        ),
        (structured(data=5, data_base64="%%%"), "the CloudEvent has both data and data_base64; send one"),
        (structured(data_base64="%%%"), "data_base64 of the CloudEvent is not base64"),
        (structured(data_base64="e30"), "data_base64 of the CloudEvent is not base64"),
        (structured(data_base64="\N{SNOWMAN}"), "data_base64 of the CloudEvent is not base64"),
        (structured(data_base64=5), "data_base64 of the CloudEvent is not base64"),
        (structured(data_base64=""), "the data of the CloudEvent is not JSON"),
        (
            structured(data_base64=base64.b64encode(b"[]").decode()),
            "the data of the CloudEvent is not a JSON object but an array",
        ),
        (structured(data_base64=base64.b64encode(b"{").decode()), "the data of the CloudEvent is not JSON"),
        (structured(data=call(event_id=None), id=True), "the CloudEvents id True is not"),
        (structured(data=call(event_id=None), id="a b"), "the CloudEvents id 'a b' is not"),
        (structured(data=call(event_id=None), id=""), "the CloudEvents id '' is not"),
        (structured(data=call(event_id=None), id=" \t", source="/pbx-1"), "the CloudEvents id ' \\t' is not"),
        (structured(data=call(event_id=None), id=[], source="/pbx-1"), "the CloudEvents id […] is not"),
        (
            inbound(call(event_id=None), headers={"ce-specversion": "1.0", "ce-id": b"1"}),
            "the CloudEvents id b'1' is not",
        ),
        (inbound(b"[]", content_type=STRUCTURED), "the body is not a JSON object but an array"),
        (
            inbound([call()], content_type="application/cloudevents-batch+json"),
            "the body is a CloudEvents batch; publish one event a message",
        ),
    ],
    ids=str,
)
def test_a_cloud_event_with_a_broken_envelope_is_refused(message: Inbound, sentence: str) -> None:
    assert sentence in refusal(message)


# --- nothing but InvalidEvent is ever raised ------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)
TIMES = st.datetimes(timezones=st.none() | st.just(UTC))
HEADER_VALUES = JSON | st.binary() | TIMES | st.decimals()
NAMES = (
    "source",
    "type",
    "event_id",
    "occurred_at",
    "call_id",
    "agent_user",
    "uniqueid",
    "lead_id",
    "expected_campaigns",
    "data",
    "data_base64",
    "id",
    "time",
)
KEYS = st.sampled_from(NAMES) | st.text()
VALUES = JSON | st.sampled_from(["call.ended", "agent.onboarded", "2026-11-20T14:07:14", "e30="])
EVENTS = st.dictionaries(KEYS, VALUES, max_size=8)
HEADERS = st.dictionaries(
    st.sampled_from(
        [f"{prefix}{name}" for prefix in ("ce-", "cloudEvents:") for name in ("specversion", *NAMES)]
    )
    | st.text(),
    HEADER_VALUES,
    max_size=6,
)
CONTENT_TYPES = st.sampled_from([None, "application/json", STRUCTURED, "application/cloudevents-batch+json"])


LONGEST_TEXT = 1000


def read(message: Inbound) -> Event | None:
    """Decode, and return nothing if the message is refused; any other error is the test's failure."""
    event, text = None, ""
    try:
        event = decode(message)
    except InvalidEvent as error:
        text = str(error)
    assert len(text) <= LONGEST_TEXT
    if event is None:
        return None
    assert event.id.isascii()
    assert event.id.isprintable()
    assert event.subject
    assert event.occurred_at <= message.first_seen
    return event


@given(st.binary(), CONTENT_TYPES)
@example(b"\x00", None)
@example(b"\xef\xbb\xbf", STRUCTURED)
def test_arbitrary_bytes_are_refused_and_never_more(body: bytes, content_type: str | None) -> None:
    assert read(inbound(body, content_type=content_type)) is None


@given(JSON | EVENTS, CONTENT_TYPES)
def test_arbitrary_json_is_read_or_refused(body: object, content_type: str | None) -> None:
    read(inbound(body, content_type=content_type))
    read(inbound({"data": body, "type": "call.ended"}, content_type=content_type))


@given(EVENTS, HEADERS, st.none() | st.text(), st.none() | TIMES)
def test_arbitrary_headers_and_properties_are_read_or_refused(
    body: object, headers: dict[str, Any], text: str | None, timestamp: datetime | None
) -> None:
    said = {"message_id": text, "type": text, "event_id": text, "timestamp": timestamp}
    read(inbound(body, headers=headers, **said))
    read(inbound(call(), headers=headers, **(said | {"type": None})))
