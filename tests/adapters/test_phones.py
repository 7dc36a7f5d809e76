"""Which phone numbers the log hides, and what it leaves."""

import time
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.observe.phones import mask_phone, mask_phones

CALL = "V1201405090000012345"


def shown(**fields: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever a line holds
    """Return the line with its phone numbers masked."""
    return dict(mask_phones(None, "info", {"event": "x", **fields}))


@pytest.mark.parametrize(
    ("number", "masked"),
    [
        ("3125551212", "********12"),
        ("+44 20 7946,0000", "+** ** ****,**00"),
        ("312|555|1212", "***|***|**12"),
        ("(312) 555-121 x2", "(***) ***-**1 x2"),
        ("12", "12"),
        ("", ""),
    ],
)
def test_of_a_phone_number_the_last_two_digits_are_shown(number: str, masked: str) -> None:
    assert mask_phone(number) == masked


NUMBERS = {
    "+13125551212": "+*********12",
    "13125551212": "*********12",
    "3125551212": "********12",
    "(312) 555-1212": "(***) ***-**12",
    "(312)555-1212": "(***)***-**12",
    "312-555-1212": "***-***-**12",
    "312.555.1212": "***.***.**12",
    "312 555 1212": "*** *** **12",
    "312/555-1212": "***/***-**12",
    "312|555|1212": "***|***|**12",
    "312-555-1212x34": "***-***-**12x34",
    "1-312-555-1212": "*-***-***-**12",
    "+1 (312) 555-1212": "+* (***) ***-**12",
    "+44 (0)20 7946 0000": "+** (*)** **** **00",
    "020 7946 0000": "*** **** **00",
    "07911 123456": "***** ****56",
    "06 12 34 56 78": "** ** ** ** 78",
    "004917112345678": "*************78",
}
AROUND = [
    "{}",
    "no route for {}, or so",
    'the webhook answered 422: \'{{"to":"{}"}}\'',
    "sip:{}@pbx",
    "dial SIP/trunk/{}.",
    "GET http://crm/contacts?phone={}&x=1",
    "tel:{}",
    r"'first\n{}\tlast'",
    "<td>{}</td>",
    "20261120-140515_{}-all.mp3",
    "M1202130000000012346|60|2026-11-20 22:13:00|{}|OUTBOUND_MANUAL",
]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_phone_number_is_masked_wherever_it_stands_in_a_text(number: str) -> None:
    masked = [shown(error=around.format(number))["error"] for around in AROUND]
    assert masked == [around.format(NUMBERS[number]) for around in AROUND]


@pytest.mark.parametrize(
    ("number", "masked"),
    [
        ("%2B13125551212", "%2B*********12"),
        ("%283125551212%29", "%28********12%29"),
        ("tel%3A312-555-1212", "tel%3A***-***-**12"),
    ],
)
def test_a_phone_number_in_an_address_is_masked(number: str, masked: str) -> None:
    assert shown(error=f"GET http://crm/?phone={number}")["error"] == f"GET http://crm/?phone={masked}"


def test_two_in_one_text_are_both_masked() -> None:
    assert shown(error="3125551212 and 312-555-1313")["error"] == "********12 and ***-***-**13"


NO_PHONES = [
    f"call {CALL}",
    "M1202130000000012346|60|100|1001|SALE",
    "Y1201405090000012345-1",
    "uniqueid 1795269909.101",
    "pbx-1795269909.101",
    "2026-11-20 14:05:09",
    "2026-11-20 14:05:09.123456",
    "14:07:05.123456789",
    "2026-11-20T14:07:14-05:00",
    "Fri, 20 Nov 2026 14:07:14 +0000",
    "08.11.2026 12:30",
    "20261120140515",
    "20261120-140515",
    "VERSION: 2.14-202|BUILD: 250720-1841|DATE: 2026-11-22 02:09:58|DST: 0|TZ: -5.00|TZNOW: -5.00|",
    "127.0.0.1:5672",
    "port 15672 of 10.11.12.13",
    "at 0x7f3f23a74b50",
    "9f1c1111-1111-4111-8111-111111111111",
    "9f1c1111-1111-4111-811a-111111111111",
    "4bf92f3577b34da6a3ce929d0e0e4736",
    "lead 12345678",
    "120|100|1001|60",
    "took 0.123456789 s",
    "(attempt 12 of 12)",
    "more than 1048576 bytes",
]


@pytest.mark.parametrize("text", NO_PHONES)
def test_what_is_no_phone_number_is_left(text: str) -> None:
    assert shown(error=text)["error"] == text


def test_a_time_in_seconds_or_milliseconds_is_left() -> None:
    now = time.time()
    text = f"EPOCH: {now:.0f}|, {now * 1000:.0f} ms, {now - 3e7:.0f}"
    assert shown(error=text)["error"] == text
    assert shown(error="in 2001: 1000000000")["error"] == "in 2001: ********00"


@pytest.mark.parametrize("field", ["call_id", "agent_user", "event_id", "lead_id", "uniqueid", "campaign_id"])
def test_an_id_that_the_line_names_is_left_in_its_texts_too(field: str) -> None:
    line = shown(**{field: "1000012345"}, error="6666|1000012345|3125551212")
    assert line == {"event": "x", field: "1000012345", "error": "6666|1000012345|********12"}


@pytest.mark.parametrize(
    ("value", "masked"),
    [
        ("3125551212", "********12"),
        (3125551212, "********12"),
        ("555 1212", "*** **12"),
        (["5551212", None], ["*****12", None]),
        ({"mobile": 5551212}, {"mobile": "*****12"}),
        (None, None),
    ],
    ids=repr,
)
@pytest.mark.parametrize("field", ["phone", "phone_number", "alt_phone"])
def test_a_field_of_a_phone_is_masked_whatever_its_shape(field: str, value: object, masked: object) -> None:
    assert shown(**{field: value})[field] == masked


def test_lists_and_dicts_are_masked_to_their_depth() -> None:
    line = shown(
        rows=[("3125551212", CALL), {"phone": 5551212, "to": {"3125551212"}}],
        numbers=[3125551212, 1.5, True],
    )
    assert line["rows"] == [["********12", CALL], {"phone": "*****12", "to": ["********12"]}]
    assert line["numbers"] == [3125551212, 1.5, True]  # a measure


def test_an_object_is_masked_as_the_text_that_it_becomes() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    line = shown(error=ValueError("for 3125551212"), at=at)
    assert (line["error"], line["at"]) == ("for ********12", at)


def test_the_text_of_a_librarys_record_is_masked() -> None:
    line = shown(event="lost +13125551212", logger="some.library")
    assert line["event"] == "lost +*********12"


@settings(max_examples=300)
@given(
    before=st.sampled_from(["", " ", "=", "'", '"', ":", "/", "_", "|", ", ", "(", "to-", "%20", r"\n"]),
    digits=st.from_regex(r"\+?[2-9]\d{9}", fullmatch=True),
    after=st.sampled_from(["", " ", "&", "'", '"', ",", ".", "_", "|", "-all", ")", ".mp3", "@", "\n"]),
)
def test_ten_digits_never_stand_in_a_text(before: str, digits: str, after: str) -> None:
    assert (
        digits.lstrip("+")
        not in shown(error=f"x{before}{digits}{after}" if before else digits + after)["error"]
    )
