"""What a producer may write: three envelopes, and where type, id and time come from."""

import base64
import json
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.inbounds import BLANKS, SEEN, STRUCTURED, inbound
from worker.core.errors import InvalidEvent
from worker.core.events import Event, EventType, Inbound, decode

NEW_YORK = ZoneInfo("America/New_York")
CALL = {"call_id": "V1201405090000012345"}
PREFIXES = ("ce-", "cloudEvents:", "cloudEvents_")
UUID = "9f1c2c1e-6f0e-4a53-9c6b-0a4f5d0c7a11"
OF_PBX_1 = "86b8f7bf-a33e-5e52-9418-84f6de74cd3e"
"""The id that is derived from `/pbx-1` and `17`."""


def binary(data: object, prefix: str = "ce-", **attributes: object) -> Inbound:
    """Make a CloudEvent in binary mode."""
    named = {f"{prefix}{name}": value for name, value in {"specversion": "1.0", **attributes}.items()}
    return inbound(data, headers=named)


def structured(data: object, **attributes: object) -> Inbound:
    """Make a CloudEvent in structured mode."""
    return inbound({"specversion": "1.0", "data": data, **attributes}, content_type=STRUCTURED)


def in_base64(data: object) -> str:
    """Write data as `data_base64` holds them."""
    return base64.b64encode(json.dumps(data).encode()).decode()


def structured_base64(data: object, **attributes: object) -> Inbound:
    """Make a CloudEvent in structured mode whose data are base64."""
    members = {"specversion": "1.0", "data_base64": in_base64(data), **attributes}
    return inbound(members, content_type=STRUCTURED)


# --- the whole event ------------------------------------------------------------------------------


def test_a_call_event_is_read_with_everything_it_says() -> None:
    body = {
        "type": "call.ended",
        "event_id": "9f1c",
        "occurred_at": "2026-11-20T14:07:14-05:00",
        "call_id": "V1201405090000012345",
        "uniqueid": "1795269909.101",
        "lead_id": 12345,
        "agent_user": "1000",
        "campaign_id": "SALES1",
        "shift": {"of": ["the", "producer"]},
    }
    assert decode(inbound(body, routing_key="")) == Event(
        type=EventType.CALL_ENDED,
        id="9f1c",
        occurred_at=datetime(2026, 11, 20, 19, 7, 14, tzinfo=UTC),
        subject="V1201405090000012345",
        data=body,
        dated=True,
        uniqueid="1795269909.101",
        lead_id="12345",
    )


def test_an_agent_event_is_read_with_everything_it_says() -> None:
    body = {
        "type": "agent.onboarded",
        "event_id": "a1",
        "occurred_at": "2026-11-20T14:07:14-05:00",
        "agent_user": 1001,
        "expected_campaigns": ["SALES1", 7],
    }
    assert decode(inbound(body)) == Event(
        type=EventType.AGENT_ONBOARDED,
        id="a1",
        occurred_at=datetime(2026, 11, 20, 19, 7, 14, tzinfo=UTC),
        subject="1001",
        data=body,
        dated=True,
        expected_campaigns=("SALES1", "7"),
    )


@pytest.mark.parametrize(
    ("said", "expected"),
    [({}, None), ({"expected_campaigns": None}, None), ({"expected_campaigns": []}, ())],
    ids=["left out", "null", "none"],
)
def test_no_expectation_differs_from_the_expectation_of_no_campaigns(
    said: dict[str, Any], expected: tuple[str, ...] | None
) -> None:
    event = decode(inbound({"type": "agent.onboarded", "agent_user": "a", **said}))
    assert event.expected_campaigns == expected


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (12345, "12345"),
        (12345.0, "12345"),
        (0, "0"),
        (-1, "-1"),
        (10**30, "1" + "0" * 30),
        (1e15, "1000000000000000"),
        (1795269909.101, "1795269909.101"),
    ],
)
def test_a_number_for_an_id_becomes_a_string(number: float, text: str) -> None:
    event = decode(inbound({"call_id": number, "uniqueid": number, "event_id": number}))
    assert (event.subject, event.uniqueid, event.id) == (text, text, text)


@pytest.mark.parametrize(
    ("said", "lead_id"),
    [
        (12345, "12345"),
        (12345.0, "12345"),
        ("12345", "12345"),
        ("12345.0", "12345"),
        ("12345.", "12345"),
        ("0012345", "12345"),
        (" 12345\n", "12345"),
        ("+12345", "12345"),
        (2**32 - 1, "4294967295"),
        (2**32, None),
        (1e300, None),
        (0, None),
        (0.0, None),
        (-1, None),
        (12345.5, None),
        ("0", None),
        ("0000000000", None),
        ("", None),
        ("  ", None),
        ("-", None),
        ("undefined", None),
        ("null", None),
        ("NULL", None),
        ("None", None),
        ("NaN", None),
        ("nil", None),
        ("N/A", None),
        ("\\N", None),
        ("--A--lead_id--B--", None),
        ("[object Object]", None),
        ("L-12345", None),
        ("1e5", None),
        ("12,345", None),
        ("\N{ARABIC-INDIC DIGIT THREE}", None),
        (None, None),
    ],
    ids=repr,
)
def test_a_lead_is_its_number_however_it_is_written_and_a_placeholder_is_none(
    said: object, lead_id: str | None
) -> None:
    body = {**CALL, "lead_id": said}
    event = decode(inbound(body))
    assert event.lead_id == lead_id
    assert event.data == body


@pytest.mark.parametrize("name", ["uniqueid", "agent_user", "campaign_id", "lead_id"])
@pytest.mark.parametrize("said", ["", "undefined", "null", "-", "N/A", 0, 0.0], ids=repr)
def test_a_placeholder_for_what_need_not_be_there_is_no_wrong_event(name: str, said: object) -> None:
    assert decode(inbound({**CALL, name: said})).subject == CALL["call_id"]


def test_a_whole_number_is_written_without_a_fraction_in_every_id() -> None:
    assert decode(inbound({"call_id": "1000012345.0"})).subject == "1000012345"
    agent = {"type": "agent.onboarded", "agent_user": 1000.0, "expected_campaigns": [7.0, "8.0", "SALES1"]}
    event = decode(inbound(agent))
    assert (event.subject, event.expected_campaigns) == ("1000", ("7", "8", "SALES1"))
    assert decode(inbound({**agent, "agent_user": "1000.0"})).subject == "1000"


def test_a_byte_order_mark_is_no_hindrance() -> None:
    assert decode(inbound(b"\xef\xbb\xbf" + json.dumps(CALL).encode())).subject == CALL["call_id"]


def test_letters_outside_the_first_plane_survive_as_a_surrogate_pair() -> None:
    event = decode(inbound(rb'{"call_id": "V1", "note": "\ud83d\ude00"}'))
    assert event.data["note"] == "\N{GRINNING FACE}"


# --- the envelopes --------------------------------------------------------------------------------

ATTRIBUTES = {"type": "agent.onboarded", "id": "ce-7", "time": "2026-11-20T19:07:14Z"}


@pytest.mark.parametrize(
    "message",
    [
        structured({"agent_user": "a"}, **ATTRIBUTES),
        structured_base64({"agent_user": "a"}, **ATTRIBUTES),
        *(binary({"agent_user": "a"}, prefix, **ATTRIBUTES) for prefix in PREFIXES),
    ],
    ids=["structured", "base64", *PREFIXES],
)
def test_a_cloud_event_gives_type_id_time_and_data(message: Inbound) -> None:
    assert decode(message) == Event(
        type=EventType.AGENT_ONBOARDED,
        id="ce-7",
        occurred_at=datetime(2026, 11, 20, 19, 7, 14, tzinfo=UTC),
        subject="a",
        data={"agent_user": "a"},
        dated=True,
    )


@pytest.mark.parametrize(
    ("said", "dated"),
    [
        ({}, False),
        ({"timestamp": SEEN}, True),
        ({"timestamp": datetime(1970, 1, 1, tzinfo=UTC)}, False),
        ({"body": b'{"call_id": "V1", "occurred_at": "2026-11-20T14:07:14Z"}'}, True),
    ],
    ids=["nobody", "the property", "the property as 0", "the event"],
)
def test_whether_somebody_said_when_it_happened_is_known(said: dict[str, Any], *, dated: bool) -> None:
    event = decode(replace(inbound({"call_id": "V1"}), **said))
    assert event.dated is dated
    assert event.occurred_at.date() == SEEN.date()


def test_the_end_of_a_call_keeps_its_offset_or_is_in_the_zone() -> None:
    ends = {
        "2026-11-20T14:07:14-05:00": "2026-11-20T14:07:14-05:00",
        "2026-11-20 14:07:14": "2026-11-20T14:07:14+01:00",
    }
    for said, expected in ends.items():
        event = decode(inbound({"call_id": "V1", "ended_at": said}), ZoneInfo("Europe/Berlin"))
        assert event.ended_at is not None
        assert event.ended_at.isoformat() == expected
    assert decode(inbound({"call_id": "V1"})).ended_at is None


@pytest.mark.parametrize("make", [structured, structured_base64, binary])
def test_what_the_data_say_themselves_wins_over_the_envelope(make: Callable[..., Inbound]) -> None:
    data = {**CALL, "event_id": "inner", "occurred_at": "2026-11-20T18:00:00Z"}
    event = decode(make(data, type="call.ended", id="outer", time="2026-11-20T19:00:00Z"))
    assert (event.id, event.occurred_at.hour) == ("inner", 18)


@pytest.mark.parametrize(
    "members",
    [
        {"data": CALL, "data_base64": None},
        {"data": None, "data_base64": in_base64(CALL)},
        {"data": CALL, "subject": None, "time": None, "datacontenttype": None, "dataschema": None},
        {"data": CALL, "id": None, "source": None, "specversion": None},
        {"data": {**CALL, "type": "call.ended"}, "type": None},
        {"data": {**CALL, "event_id": None, "occurred_at": None, "ended_at": None, "lead_id": None}},
        {"data": {**CALL, "uniqueid": None, "agent_user": None, "campaign_id": None}},
    ],
)
def test_null_is_as_good_as_leaving_a_member_out(members: dict[str, Any]) -> None:
    message = inbound({"specversion": "1.0", **members}, content_type=STRUCTURED, type="agent.onboarded")
    without = {name: value for name, value in members.items() if value is not None}
    if "type" not in members:
        message = replace(message, type=None)
    event = decode(message)
    same = decode(replace(message, body=json.dumps({"specversion": "1.0", **without}).encode()))
    assert (event.subject, event.type, event.data) == (same.subject, "call.ended", same.data)
    assert (event.dated, event.occurred_at) == (False, SEEN)


def test_an_attribute_without_a_value_is_not_set_in_binary_mode_either() -> None:
    message = binary({**CALL, "type": "call.ended"}, type=None, id=None, source=None, time=None)
    assert decode(message) == decode(binary({**CALL, "type": "call.ended"}))


def test_an_empty_data_base64_beside_data_is_not_set_either() -> None:
    assert decode(structured(CALL, type="call.ended", data_base64="")).subject == CALL["call_id"]


@pytest.mark.parametrize(
    "media", [f"{STRUCTURED}; charset=utf-8", "Application/CloudEvents+JSON", f" {STRUCTURED}"]
)
def test_the_content_type_may_have_parameters_capitals_and_blanks(media: str) -> None:
    message = inbound({"type": "call.ended", "id": "5", "data": CALL}, content_type=media)
    assert decode(message).id == "5"


def test_the_attributes_of_a_binary_cloud_event_are_read_whatever_their_case() -> None:
    for prefix in ("ce-", "Ce-", "CE-", "cloudevents:", "CloudEvents_"):
        names = {"SpecVersion": "1.0", "Id": "7", "Type": "call.ended"}
        message = inbound(CALL, headers={f"{prefix}{name}": value for name, value in names.items()})
        assert decode(message).id == "7"


def test_a_header_that_only_looks_like_an_attribute_makes_no_cloud_event() -> None:
    message = inbound({"type": "call.ended", **CALL}, headers={"ce-type": "agent.onboarded"})
    assert decode(message).type is EventType.CALL_ENDED


# --- the type -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            inbound({"type": "agent.onboarded", "agent_user": "a", "call_id": "c"}, type="call.ended"),
            "agent.onboarded",
        ),
        (inbound({"agent_user": "a", "call_id": "c"}, type="agent.onboarded"), "agent.onboarded"),
        (inbound({"agent_user": "a", "call_id": "c"}), "call.ended"),
        (inbound({"type": None, "call_id": "c"}), "call.ended"),
        (binary({"agent_user": "a"}, id="1", type="agent.onboarded"), "agent.onboarded"),
        (binary({"call_id": "c"}, id="1"), "call.ended"),
        (structured({"call_id": "c"}, id="1"), "call.ended"),
    ],
    ids=["body", "property", "routing key", "null", "binary", "binary without", "structured without"],
)
def test_the_type_falls_back_to_the_property_then_to_the_routing_key(message: Inbound, expected: str) -> None:
    assert decode(message).type == expected


# --- the id ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (inbound({**CALL, "event_id": "body"}, event_id="ours", message_id="message"), "ours"),
        (inbound({**CALL, "event_id": "body"}, message_id="message"), "body"),
        (binary({**CALL, "event_id": "body"}, id="envelope"), "body"),
        (binary(CALL, id="envelope"), "envelope"),
        (binary(CALL, id=12), "12"),
        (inbound(CALL, message_id="message"), "message"),
    ],
    ids=["our header", "body", "body of a cloud event", "cloud event", "a number", "message id"],
)
def test_the_id_is_the_first_that_is_given(message: Inbound, expected: str) -> None:
    assert decode(message).id == expected


MAKERS: list[Callable[..., Inbound]] = [structured, structured_base64, binary]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("id_", ["17", "two words", "V1201405090000012345", "\N{SNOWMAN}", "x" * 300])
def test_cloud_events_of_two_sources_with_the_same_id_are_two_events(
    make: Callable[..., Inbound], id_: object
) -> None:
    ids = [decode(make(CALL, id=id_, source=source)).id for source in ("/pbx-1", "/pbx-2", "/pbx-1")]
    assert ids[0] == ids[2] != ids[1]
    assert [uuid.UUID(each).version for each in ids] == [5, 5, 5]


def test_the_id_derived_from_a_source_is_this_one_for_ever() -> None:
    """A change would hand the same event to the CRM under two ids."""
    for make in MAKERS:
        assert decode(make(CALL, id="17", source="/pbx-1")).id == OF_PBX_1
        assert decode(make(CALL, id=17, source="/pbx-1")).id == OF_PBX_1
    assert decode(structured(CALL, id=" 17 ", source="/pbx-1\t")).id == OF_PBX_1


def test_a_source_that_is_not_utf_8_is_one_too() -> None:
    ids = {decode(binary(CALL, id="17", source=source)).id for source in (b"/pbx-\xe9", b"/pbx-\xe8")}
    assert len(ids) == 2


@pytest.mark.parametrize("id_", [UUID, UUID.upper()])
@pytest.mark.parametrize("make", MAKERS)
def test_an_id_that_is_a_uuid_is_unique_by_itself(make: Callable[..., Inbound], id_: str) -> None:
    assert decode(make(CALL, id=id_, source="/pbx-1")).id == id_


@pytest.mark.parametrize("source", [None, "", " ", [], {}, True])
@pytest.mark.parametrize("make", MAKERS)
def test_without_a_source_the_id_of_a_cloud_event_is_as_sent(
    make: Callable[..., Inbound], source: object
) -> None:
    assert decode(make(CALL, id="17", source=source)).id == "17"


@pytest.mark.parametrize("make", MAKERS)
def test_what_the_producer_calls_event_id_is_the_id_whatever_the_source(make: Callable[..., Inbound]) -> None:
    assert decode(make({**CALL, "event_id": "17"}, id="5", source="/pbx-1")).id == "17"
    assert decode(replace(make(CALL, id="5", source="/pbx-1"), event_id="ours")).id == "ours"


@pytest.mark.parametrize("blank", BLANKS, ids=ascii)
def test_what_surrounds_an_id_and_can_not_be_seen_is_no_part_of_it(blank: str) -> None:
    def padded(text: str) -> str:
        return f"{blank}{text} {blank}"

    names = ("call_id", "uniqueid", "lead_id", "agent_user", "campaign_id", "event_id")
    body = {name: padded(name) for name in names} | {"lead_id": padded("12345")}
    event = decode(inbound(body))
    assert (event.subject, event.uniqueid, event.lead_id, event.id) == (
        "call_id",
        "uniqueid",
        "12345",
        "event_id",
    )
    assert event.data == body
    said = {"type": "agent.onboarded", "agent_user": padded("a1"), "expected_campaigns": [padded("S 1")]}
    agent = decode(inbound(said))
    assert (agent.subject, agent.expected_campaigns) == ("a1", ("S 1",))


@pytest.mark.parametrize("blank", ["", *BLANKS], ids=ascii)
def test_an_id_that_may_be_left_out_may_be_blank(blank: str) -> None:
    names = ("uniqueid", "lead_id", "agent_user", "campaign_id")
    event = decode(inbound({**CALL, **dict.fromkeys(names, blank)}))
    assert (event.uniqueid, event.lead_id) == (None, None)


@pytest.mark.parametrize("nonsense", ["", "two words", "line\nbreak", "\N{SNOWMAN}", "x" * 256])
def test_a_message_id_or_header_that_no_http_header_could_carry_counts_as_missing(nonsense: str) -> None:
    derived = decode(inbound(CALL)).id
    assert decode(inbound(CALL, message_id=nonsense)).id == derived
    assert decode(inbound(CALL, event_id=nonsense)).id == derived


@pytest.mark.parametrize(
    "word", ["undefined", "null", "None", "NaN", "-", " undefined ", "--A--uniqueid--B--"]
)
def test_a_word_for_nothing_is_no_id_or_a_receiver_would_drop_all_events_but_one(word: str) -> None:
    def id_of(call_id: str, message_id: str | None = None) -> str:
        return decode(inbound({"call_id": call_id}, message_id=message_id)).id

    assert id_of("V1", message_id=word) == id_of("V1") != id_of("V2", message_id=word)
    said = {"occurred_at": "2026-11-20T14:07:14-05:00"}
    assert decode(inbound({**CALL, **said, "event_id": word})).id == decode(inbound({**CALL, **said})).id
    assert decode(inbound({**CALL, "event_id": word}, message_id="m1")).id == "m1"
    for make in MAKERS:
        assert (
            decode(make({**CALL, **said}, id=word, source="/pbx-1")).id == decode(make({**CALL, **said})).id
        )


def test_the_derived_id_is_this_one_for_ever() -> None:
    """A change would hand the same event to the CRM under two ids."""
    event = decode(inbound({"call_id": "V1", "occurred_at": "2026-11-20T14:07:14-05:00"}))
    assert event.id == "cb7fed74-62e3-5957-9218-f5f010bbc6b3"


SUBJECTS = st.text(max_size=28).map(lambda text: f"V{text}.")


@given(SUBJECTS, st.sampled_from([None, "2026-11-20T14:07:14-05:00"]), st.integers(1, 9))
def test_the_derived_id_is_the_same_over_repeats_and_attempts(
    subject: str, time: str | None, attempt: int
) -> None:
    body = {"call_id": subject, "occurred_at": time}
    later = SEEN + timedelta(hours=1)
    assert decode(inbound(body)).id == decode(inbound(body, attempt=attempt, first_seen=later)).id


@given(SUBJECTS, SUBJECTS)
def test_the_derived_id_differs_by_subject(one: str, other: str) -> None:
    time = "2026-11-20T14:07:14-05:00"
    ids = {decode(inbound({"call_id": subject, "occurred_at": time})).id for subject in (one, other)}
    assert len(ids) == len({one, other})


def test_the_derived_id_differs_by_type_and_by_time_and_without_a_time_by_body() -> None:
    same = {"call_id": "1", "agent_user": "1"}
    bodies = [
        {**same, "type": "call.ended"},
        {**same, "type": "agent.onboarded"},
        {**same, "occurred_at": "2026-11-20T14:07:14Z"},
        {**same, "occurred_at": "2026-11-20T14:07:15Z"},
        {**same, "note": "x"},
    ]
    assert len({decode(inbound(body)).id for body in bodies}) == len(bodies)


def test_with_a_time_the_derived_id_does_not_hang_on_how_the_body_is_written() -> None:
    said = {"call_id": "1", "occurred_at": "2026-11-20T14:07:14Z"}
    assert decode(inbound(said)).id == decode(inbound(json.dumps(said, indent=1).encode())).id


@pytest.mark.parametrize("make", [inbound, structured, structured_base64, binary])
def test_the_copy_of_an_event_without_an_id_has_the_id_of_its_first_attempt(
    make: Callable[..., Inbound],
) -> None:
    first = make(CALL)
    event = decode(first)
    copy = Inbound(
        first.body,
        first.routing_key,
        first.first_seen,
        first.headers,
        first.content_type,
        message_id="invented-by-a-library",
        attempt=2,
        event_id=event.id,
    )
    assert decode(copy).id == event.id


# --- the id of what can't be decoded --------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (inbound({"event_id": "e1"}), "e1"),
        (inbound({"event_id": 5}), "5"),
        (inbound({"event_id": " e1\t"}), "e1"),
        (inbound({"event_id": ["no"]}), None),
        (inbound({"event_id": "two words"}), None),
        (binary({"nothing": 1}, id="c1"), "c1"),
        (structured({"nothing": 1}, id=3), "3"),
        (structured({"nothing": 1}, id=UUID, source="/pbx-1"), UUID),
        (structured({"nothing": 1}, id="17", source="/pbx-1"), OF_PBX_1),
        (structured({"nothing": 1}, id=[]), None),
        (inbound(b"not JSON"), None),
        (inbound(b"not JSON", event_id="ours"), "ours"),
        (inbound({"event_id": "e1"}, event_id="not ours"), "e1"),
    ],
)
def test_a_message_that_can_not_be_decoded_is_found_by_the_id_that_it_claims(
    message: Inbound, expected: str | None
) -> None:
    with pytest.raises(InvalidEvent) as caught:
        decode(message)
    assert caught.value.event_id == expected


# --- the time -------------------------------------------------------------------------------------

EARLIER = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (inbound({**CALL, "occurred_at": "2026-11-20T10:00:00Z"}, timestamp=EARLIER), 10),
        (binary({**CALL, "occurred_at": "2026-11-20T10:00:00Z"}, time="2026-11-20T11:00:00Z"), 10),
        (binary(CALL, time="2026-11-20T11:00:00Z"), 11),
        (binary(CALL, time=datetime(2026, 11, 20, 11, tzinfo=UTC)), 11),
        (structured(CALL, time="2026-11-20T11:00:00Z"), 11),
        (inbound(CALL, timestamp=EARLIER), 12),
        (inbound({**CALL, "occurred_at": None}, timestamp=EARLIER), 12),
        (inbound(CALL), SEEN.hour),
    ],
    ids=["body", "body of a cloud event", "binary", "AMQP time", "structured", "property", "null", "seen"],
)
def test_the_time_is_the_first_that_is_given(message: Inbound, expected: int) -> None:
    assert decode(message).occurred_at.hour == expected


@pytest.mark.parametrize(
    "message",
    [
        inbound({**CALL, "occurred_at": "2026-11-20T19:08:01Z"}),
        inbound({**CALL, "occurred_at": "9999-01-01T00:00:00Z"}),
        inbound(CALL, timestamp=SEEN + timedelta(days=1)),
        binary(CALL, time="2027-01-01T00:00:00Z"),
    ],
    ids=["just ahead", "far ahead", "property", "cloud event"],
)
def test_a_time_in_the_future_counts_as_first_seen(message: Inbound) -> None:
    assert decode(message).occurred_at == SEEN


@pytest.mark.parametrize(
    ("text", "zone", "expected"),
    [
        ("2026-11-20T14:07:14", NEW_YORK, "2026-11-20T19:07:14+00:00"),
        ("2026-07-01 14:07", NEW_YORK, "2026-07-01T18:07:00+00:00"),
        ("2026-11-20T14:07:14", UTC, "2026-11-20T14:07:14+00:00"),
        ("2026-11-20T14:07:14Z", NEW_YORK, "2026-11-20T14:07:14+00:00"),
        ("2026-11-20T14:07:14.250-05:00", UTC, "2026-11-20T19:07:14.250000+00:00"),
        ("20261120T140714Z", NEW_YORK, "2026-11-20T14:07:14+00:00"),
    ],
)
def test_only_a_time_without_an_offset_is_in_the_zone(text: str, zone: ZoneInfo, expected: str) -> None:
    assert decode(inbound({**CALL, "occurred_at": text}), zone).occurred_at.isoformat() == expected


HOW_A_TIME_IS_WRITTEN = {
    "2026-11-20t19:07:14z": "2026-11-20T19:07:14+00:00",
    "2026-11-20T14:07:14.25-05:00": "2026-11-20T19:07:14.250000+00:00",
    "2026-11-20 19:07:14Z": "2026-11-20T19:07:14+00:00",
    "2026-11-20_19:07:14Z": "2026-11-20T19:07:14+00:00",
    " 2026-11-20T19:07:14Z\n": "2026-11-20T19:07:14+00:00",
    "2026-11-20T19:07:14.1Z": "2026-11-20T19:07:14.100000+00:00",
    "2026-11-20T19:07:14.123456789Z": "2026-11-20T19:07:14.123456+00:00",
    "2026-11-20T19:07:14." + "9" * 40 + "Z": "2026-11-20T19:07:14.999999+00:00",
    "2026-11-20T19:07:14,5Z": "2026-11-20T19:07:14.500000+00:00",
    "2026-11-20T19:07:14-00:00": "2026-11-20T19:07:14+00:00",
    "2026-11-20T19:07:14+00:00": "2026-11-20T19:07:14+00:00",
    "2026-11-21T00:52:14+05:45": "2026-11-20T19:07:14+00:00",
    "2026-11-20T14:07:14-0500": "2026-11-20T19:07:14+00:00",
    "2026-11-20T14:07:14-05": "2026-11-20T19:07:14+00:00",
    "2026-11-20T14:07:14\N{MINUS SIGN}05:00": "2026-11-20T19:07:14+00:00",
    "2026-11-20 14:07:14 -0500": "2026-11-20T19:07:14+00:00",
    "2026-11-20 19:07:14 UTC": "2026-11-20T19:07:14+00:00",
    "2026-11-20T19:07:14GMT": "2026-11-20T19:07:14+00:00",
    "2026-11-20T14:11:12-04:56:02": "2026-11-20T19:07:14+00:00",
    "2026-11-20T14:07:14-05:00[America/New_York]": "2026-11-20T19:07:14+00:00",
    "2026-11-20T19:07Z[Etc/GMT+5]": "2026-11-20T19:07:00+00:00",
    "2026-11-20T19:07Z": "2026-11-20T19:07:00+00:00",
    "20261120T190714Z": "2026-11-20T19:07:14+00:00",
    "20261120T1907Z": "2026-11-20T19:07:00+00:00",
    "2026-W47-5T19:07:14Z": "2026-11-20T19:07:14+00:00",
    "2026W475T190714Z": "2026-11-20T19:07:14+00:00",
    "2016-12-31T23:59:60Z": "2017-01-01T00:00:00+00:00",
    "1990-12-31T15:59:60-08:00": "1991-01-01T00:00:00+00:00",
    "2016-12-31T23:59:60.5Z": "2017-01-01T00:00:00.500000+00:00",
    "2026-11-19T24:00:00Z": "2026-11-20T00:00:00+00:00",
    "2026-11-19T24:00Z": "2026-11-20T00:00:00+00:00",
    "2024-02-29T12:00:00Z": "2024-02-29T12:00:00+00:00",
}


@pytest.mark.parametrize(("text", "expected"), HOW_A_TIME_IS_WRITTEN.items())
def test_a_time_is_read_however_rfc_3339_and_iso_8601_let_it_be_written(text: str, expected: str) -> None:
    def happened(message: Inbound) -> str:
        return decode(message).occurred_at.isoformat()

    assert happened(inbound({**CALL, "occurred_at": text})) == expected
    assert happened(structured(CALL, time=text)) == expected
    for prefix in PREFIXES:
        assert happened(binary(CALL, prefix, time=text)) == expected
    ended_at = decode(inbound({**CALL, "ended_at": text})).ended_at
    assert ended_at is not None
    assert ended_at.astimezone(UTC).isoformat() == expected


@given(st.datetimes(timezones=st.integers(-840, 840).map(lambda m: timezone(timedelta(minutes=m)))))
def test_a_time_is_in_utc_and_never_after_the_message_was_first_seen(when: datetime) -> None:
    if timedelta(days=1) < when.replace(tzinfo=UTC) - datetime.min.replace(tzinfo=UTC):
        event = decode(inbound({**CALL, "occurred_at": when.isoformat()}))
        assert event.occurred_at == min(when, SEEN)
        assert event.occurred_at.tzinfo is UTC
