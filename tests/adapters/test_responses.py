"""Reading the dialer's answers: all that was recorded, the tutorials' dialect, and what goes wrong."""

import string
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from simulators.recordings import Exchange, find, load
from tests.adapters.recorded import (
    CALL,
    NEW_YORK,
    NOT_FINAL,
    READERS,
    function_of,
    name_of,
    outcome,
    outcomes,
    read,
)
from worker.core.errors import (
    EnrichmentUnavailable,
    FailureKind,
    FunctionRefused,
    NotReady,
    NotReadyReason,
    ProcessingError,
)
from worker.core.payload import CallEnrichment, CallRecord, Campaign, Recording
from worker.vicidial.agents import read_agent
from worker.vicidial.answers import text_of
from worker.vicidial.calls import parse_call_id, read_call
from worker.vicidial.clock import DialerTimes

SECRET = "Pl4nted+Secret"
HEADER = "call_id|custtime|call_date|phone|call_type|campaign_id|list_id|status|user"
ROW = f"{CALL}|120|2026-11-20 14:05:09|3125551212|OUTBOUND_AUTO|SALES1|1001|SALE|1000"
AGENT_HEADER = "user|allowed_campaigns_list|allowed_ingroups_list"
TUTORIAL_CALL = (
    "1000012345",
    "2024-02-15 10:15:00",
    "2024-02-15 10:18:30",
    "Outbound",
    "agent001",
    "9876543210",
    "Answered",
    "rec_1000012345.wav",
)
PROPERTY = settings(max_examples=200)


def answered(body: str, call_id: str = CALL, zone: tzinfo | None = NEW_YORK) -> CallEnrichment:
    return read_call(body, call_id, DialerTimes(zone), NOT_FINAL)


def test_each_recorded_answer_means_what_the_table_says() -> None:
    wrong = []
    for exchange in load():
        expected, found = outcomes()[name_of(exchange)], outcome(exchange)
        label, colon, words = expected.partition(": ")
        means_it = found.partition(": ")[0] == label and words in found if colon else found == expected
        if not means_it:
            wrong.append(f"{name_of(exchange)}: {found!r}, not {expected!r}")
    assert not wrong, "\n".join(wrong)


def test_the_table_names_all_that_was_recorded_and_nothing_else() -> None:
    assert set(outcomes()) == set(map(name_of, load()))
    assert len(outcomes()) == 293


def errors() -> list[Exchange]:
    """Return each kind of recorded error body once."""
    kinds: dict[str, Exchange] = {}
    for each in load():
        if ("ERROR" in each.body or "<br" in each.body) and function_of(each) in READERS:
            kinds.setdefault(f"{function_of(each)} {each.body[-40:]}", each)
    return list(kinds.values())


def planted(body: str) -> Iterator[str]:
    """Return a body with the secret in place of each of its words, and between any two of them."""
    places = [at for at, letter in enumerate(body) if letter in "| :\n"]
    for at in places[:: max(1, len(places) // 60)]:
        end = next((place for place in places if place > at), len(body))
        yield body[: at + 1] + SECRET + body[end:]
        yield body[: at + 1] + SECRET + body[at:]
    yield SECRET + body
    yield body + SECRET


def test_no_error_repeats_anything_of_the_body() -> None:
    failures = []
    for exchange in errors():
        for body in planted(exchange.body):
            try:
                read(exchange, body)
            except ProcessingError as error:
                if SECRET in repr((str(error), error.args, error.__cause__)):
                    failures.append(f"{name_of(exchange)}: {error} of {body!r}")
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize(
    ("body", "label"),
    [
        ("ERROR: USER DOES NOT HAVE PERMISSION TO USE THIS FUNCTION", "dialer_refused"),
        ("ERROR: INVALID USERNAME OR PASSWORD", "dialer_refused"),
        ("ERROR: NO FUNCTION SPECIFIED", "dialer_refused"),
        ("ERROR: CALL ID NOT FOUND", "not_found"),
        ("ERROR: AGENT NOT FOUND", "not_found"),
        ("ERROR: Login incorrect, please try again: |6666|CALL NOT FOUND|BAD|", "dialer_refused"),
        ("ERROR: something new: |x|", "dialer_unreadable"),
        ("MySQL connect ERROR: Access denied for user 'cron'", "dialer_outage"),
        ("", "dialer_outage"),
        (" \r\n", "dialer_outage"),
        ("<!DOCTYPE html><html><body>It works!</body></html>", "dialer_outage"),
        ("SUCCESS", "dialer_unreadable"),
        ("OTHER|1|2", "dialer_unreadable"),
    ],
)
def test_an_error_is_recognized_by_its_words(body: str, label: str) -> None:
    for ask in (lambda: answered(body, zone=None), lambda: read_agent(body, "agent001")):
        with pytest.raises(ProcessingError) as caught:
            ask()
        assert caught.value.label == label


def refused(body: str, ask: Callable[[str], object]) -> EnrichmentUnavailable:
    with pytest.raises(EnrichmentUnavailable) as caught:
        ask(body)
    assert caught.value.kind is FailureKind.REFUSED
    return caught.value


RIGHTS = "User Level 7 or more, Agent API Access 1, View Reports 1, which callid_info"


@pytest.mark.parametrize(
    ("body", "says", "says_not"),
    [
        (
            "ERROR: auth USER DOES NOT HAVE PERMISSION TO USE THIS FUNCTION: |limited|callid_info|",
            ["callid_info (or ALL_FUNCTIONS) to its API Allowed Functions"],
            ["Level"],
        ),
        (
            "ERROR: callid_info USER DOES NOT HAVE PERMISSION TO GET CALL INFO: |noapi|0|",
            [RIGHTS],
            ["API Allowed Functions", "Modify Users"],
        ),
        ("ERROR: USER DOES NOT HAVE PERMISSION TO USE THIS FUNCTION", ["API Allowed Functions", RIGHTS], []),
        ("ERROR: NO FUNCTION SPECIFIED", ["does not know callid_info", "vicidial.url"], []),
    ],
)
def test_a_refused_function_names_the_box_to_tick(body: str, says: list[str], says_not: list[str]) -> None:
    error = refused(body, answered)
    assert isinstance(error, FunctionRefused)
    assert all(words in str(error) for words in says)
    assert not any(words in str(error) for words in says_not)
    assert "limited" not in str(error)


def test_only_the_agents_campaigns_need_a_user_who_may_modify_users() -> None:
    body = "ERROR: agent_campaigns USER DOES NOT HAVE PERMISSION TO GET AGENT INFO: |api7|0|"
    error = refused(body, lambda body: read_agent(body, "1000"))
    assert "User Level 8 or more, Agent API Access 1, View Reports 1, Modify Users 1" in str(error)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("ERROR: Login incorrect, please try again: |6666|x|2FA|", "turn two-factor off"),
        ("ERROR: INVALID USERNAME OR PASSWORD", "vicidial.password"),
        ("ERROR: Too many login attempts, try again in 15 minutes: |x|LOCK|", "its last good login"),
        ("ERROR: Your IP Address is not allowed: 10.0.0.1: ||IPBLOCK|", "Admin > IP Lists"),
        ("ERROR: Invalid Source - t\nERROR: Invalid Source: |t|", "vicidial.source"),
    ],
)
def test_a_refusal_of_every_function_is_no_refused_function(body: str, says: str) -> None:
    for ask in (answered, lambda body: read_agent(body, "1000")):
        error = refused(body, ask)
        assert not isinstance(error, FunctionRefused)
        assert says in str(error)


def test_what_repeats_the_request_is_no_sentence_of_the_dialer() -> None:
    for echoed in ("CALL NOT FOUND", "NO FUNCTION SPECIFIED", "LOGIN INCORRECT"):
        for between in (": ", ": |", "|", " - "):
            assert "unknown kind" in unreadable(f"ERROR: something new{between}{echoed}|")


def unreadable(body: str, call_id: str = CALL) -> str:
    with pytest.raises(EnrichmentUnavailable) as caught:
        answered(body, call_id)
    assert caught.value.kind is FailureKind.UNREADABLE
    return str(caught.value)


def unreadable_agent(body: str, agent_user: str = "1000") -> str:
    with pytest.raises(EnrichmentUnavailable) as caught:
        read_agent(body, agent_user)
    assert caught.value.kind is FailureKind.UNREADABLE
    return str(caught.value)


# --- callid_info, the real dialect


def test_columns_are_read_by_name_in_whatever_order_and_number() -> None:
    found = answered(
        f"call_id|status|user|campaign_id|call_type|new_in_3_0\n{CALL}|NI|1000|SALES1|OUTBOUND_MANUAL|x\n",
        CALL,
        None,
    )
    assert found.final
    assert found.call.model_dump(exclude_none=True) == {
        "call_id": CALL,
        "direction": "outbound",
        "call_type": "OUTBOUND_MANUAL",
        "agent_user": "1000",
        "status": "NI",
        "campaign_id": "SALES1",
    }


def test_the_documented_order_with_one_column_fewer_is_read_by_name_and_only_so() -> None:
    row = f"{CALL}|120|2026-11-20 14:05:09|OUTBOUND_AUTO|SALES1|1001|SALE|1000"
    found = answered(
        f"call_id|custtime|call_date|call_type|campaign_id|list_id|status|user\n{row}\n", CALL, NEW_YORK
    )
    assert (found.call.talk_seconds, found.call.status, found.call.phone_number) == (120, "SALE", None)
    unreadable(row)


def test_nine_and_two_columns_are_known_without_a_header_too() -> None:
    assert answered(ROW) == answered(f"{HEADER}\n{ROW}\n")
    found = answered(f"{CALL}|120\n")
    assert found == CallEnrichment.model_validate(
        {"call": {"call_id": CALL, "talk_seconds": 120}, "final": True}
    )


@pytest.mark.parametrize("columns", [1, 3, 4, 5, 6, 7, 8, 10, 11])
def test_another_number_of_columns_is_an_error(columns: int) -> None:
    row = "|".join([*ROW.split("|"), "x", "y"][:columns])
    unreadable(row)
    unreadable(f"{HEADER}\n{row}")


@pytest.mark.parametrize("field", range(1, 9))
@pytest.mark.parametrize("mark", ["|", ",", "\t"])
def test_a_separator_in_a_field_never_shifts_the_record(field: int, mark: str) -> None:
    values = ROW.split("|")
    values[field] = f"{values[field][:2]}{mark}{values[field][2:]}"
    row = mark.join(values)
    unreadable(row)
    unreadable(HEADER.replace("|", mark) + "\n" + row)


@pytest.mark.parametrize(
    ("talk", "seconds"), [("0", 0), ("120", 120), ("-15", None), ("", None), ("999999999", 999999999)]
)
def test_a_talk_time_that_is_negative_or_missing_is_not_known(talk: str, seconds: int | None) -> None:
    assert answered(ROW.replace("|120|", f"|{talk}|"), zone=None).call.talk_seconds == seconds


@pytest.mark.parametrize("talk", ["1.5", "two", "1e9", "9999999999", "--1", "NULL"])
def test_a_talk_time_that_is_no_number_is_an_error(talk: str) -> None:
    assert "talk time" in unreadable(ROW.replace("|120|", f"|{talk}|"))


@pytest.mark.parametrize("date", ["0000-00-00 00:00:00", "0000-00-00", ""])
def test_a_date_of_zeros_is_not_known(date: str) -> None:
    assert answered(ROW.replace("2026-11-20 14:05:09", date)).call.started_at is None


@pytest.mark.parametrize(
    "date", ["2026-02-30 10:00:00", "yesterday", "2026-11-20 14:05:09+01:00", "1795269909"]
)
def test_a_date_that_cannot_be_read_is_an_error(date: str) -> None:
    assert "time" in unreadable(ROW.replace("2026-11-20 14:05:09", date))


def test_without_a_zone_no_time_is_known() -> None:
    assert answered(ROW, zone=None).call.started_at is None


def test_a_time_has_the_offset_of_its_own_day() -> None:
    summer = answered(ROW.replace("2026-11-20", "2026-07-20")).call.started_at
    assert summer is not None
    assert summer.isoformat() == "2026-07-20T14:05:09-04:00"


@pytest.mark.parametrize("date", ["0001-01-01 00:00:00", "1969-12-31 19:00:00", "9999-12-31 23:59:59"])
@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/New_York"])
def test_a_date_in_a_year_in_which_nobody_called_is_not_known(date: str, zone: str) -> None:
    row = f"{ROW}|999999999".replace("2026-11-20 14:05:09", date)
    call = answered(f"{HEADER}|length_in_sec\n{row}", zone=ZoneInfo(zone)).call
    assert (call.started_at, call.ended_at, call.duration_seconds) == (None, None, 999999999)


@pytest.mark.parametrize("column", ["length_in_sec", "duration"])
def test_a_column_with_the_length_of_the_call_gives_its_end(column: str) -> None:
    def call(length: str, zone: tzinfo | None = NEW_YORK) -> CallRecord:
        return answered(f"{HEADER}|{column}\n{ROW}|{length}\n", zone=zone).call

    ended = call("125").ended_at
    assert ended is not None
    assert (ended.isoformat(), call("125").duration_seconds) == ("2026-11-20T14:07:14-05:00", 125)
    assert call("0").ended_at == call("0").started_at
    assert (call("125", None).ended_at, call("125", None).duration_seconds) == (None, 125)
    for unknown in ("", "-1"):
        assert (call(unknown).ended_at, call(unknown).duration_seconds) == (None, None)
    assert "length of the call" in unreadable(f"{HEADER}|{column}\n{ROW}|2:05\n")


def test_a_call_that_the_clocks_are_put_back_in_ends_with_the_offset_of_then() -> None:
    row = ROW.replace("2026-11-20 14:05:09", "2026-11-01 00:50:00")
    ended = answered(f"{HEADER}|length_in_sec\n{row}|4800\n").call.ended_at
    assert ended is not None
    assert ended.isoformat() == "2026-11-01T01:10:00-05:00"


OUTBOUND = "V1300153050000012346|6|{}|3125551212|OUTBOUND_AUTO|SALES1|1001|SALE|1000"


def facts(row: str, zone: tzinfo | None = NEW_YORK) -> tuple[str | None, str | None, int | None, str | None]:
    """Read a row and return start, end, length and lead of its call."""
    call = answered(row, row.partition("|")[0], zone).call
    began, ended = (None if each is None else each.isoformat() for each in (call.started_at, call.ended_at))
    return began, ended, call.duration_seconds, call.lead_id


BEGAN, HUNG_UP = "2026-11-30T01:53:05-05:00", "2026-11-30T01:53:13-05:00"
AT = "2026-11-30 01:53:13"


def test_an_agents_outbound_call_began_at_the_ids_time_and_ended_at_the_rows() -> None:
    assert facts(OUTBOUND.format(AT)) == (BEGAN, HUNG_UP, 8, "12346")
    manual = OUTBOUND.format(AT).replace("V1", "M1").replace("AUTO", "MANUAL")
    assert facts(manual) == (BEGAN, HUNG_UP, 8, "12346")
    assert facts(OUTBOUND.format(AT).replace("AUTO", "OTHER")) == (BEGAN, HUNG_UP, 8, "12346")


@pytest.mark.parametrize("status", sorted(NOT_FINAL))
def test_until_the_status_is_final_the_rows_time_is_never_taken_for_the_end(status: str) -> None:
    row = OUTBOUND.format(AT).replace("|SALE|", f"|{status}|")
    assert facts(row) == (BEGAN, None, None, "12346")


@pytest.mark.parametrize("nobody", ["VDAD", "VDCL", ""])
def test_the_end_of_an_outbound_call_that_nobody_took_is_not_known(nobody: str) -> None:
    row = OUTBOUND.format(AT).replace("|SALE|1000", f"|NA|{nobody}")
    assert facts(row) == (BEGAN, None, None, "12346")


def test_the_end_of_an_inbound_call_is_not_known() -> None:
    row = OUTBOUND.format(AT).replace("V1", "Y1").replace("OUTBOUND_AUTO", "INBOUND")
    assert facts(row) == (BEGAN, None, None, "12346")


@pytest.mark.parametrize("at", ["2026-11-30 01:53:05", "2026-11-30 01:52:10"])
def test_a_row_that_is_not_later_than_the_id_holds_no_end(at: str) -> None:
    assert facts(OUTBOUND.format(at)) == (BEGAN, None, None, "12346")


@pytest.mark.parametrize("at", ["2026-11-30 01:52:04", "2026-11-30 13:53:06", "2026-11-20 01:53:13"])
def test_where_the_row_does_not_fit_to_the_id_the_call_began_at_the_rows_time(at: str) -> None:
    assert facts(OUTBOUND.format(at)) == (f"{at.replace(' ', 'T')}-05:00", None, None, "12346")


@pytest.mark.parametrize("digits", ["131", "130025", "130015360", "431", "100"])
def test_an_id_with_an_impossible_date_falls_back_to_the_rows_time(digits: str) -> None:
    row = OUTBOUND.format(AT).replace("V130015305"[: len(digits) + 1], f"V{digits}")
    assert facts(row)[:3] == (HUNG_UP, None, None)


def test_a_call_over_a_change_of_the_clocks_is_as_long_as_it_was() -> None:
    forward = OUTBOUND.format("2026-03-08 03:00:30").replace("V130015305", "V308015930")
    assert facts(forward) == ("2026-03-08T01:59:30-05:00", "2026-03-08T03:00:30-04:00", 60, "12346")
    back = OUTBOUND.format("2026-11-01 01:00:10").replace("V130015305", "V101015930")
    assert facts(back) == ("2026-11-01T01:59:30-04:00", "2026-11-01T01:00:10-05:00", 40, "12346")


def test_a_column_with_the_length_is_believed_before_the_rows_time() -> None:
    row = f"{HEADER}|length_in_sec\n{OUTBOUND.format(AT)}|5"
    call = answered(row, "V1300153050000012346").call
    assert (call.started_at and call.started_at.isoformat()) == BEGAN
    assert (call.ended_at and call.ended_at.isoformat(), call.duration_seconds) == (
        "2026-11-30T01:53:10-05:00",
        5,
    )


@pytest.mark.parametrize("user", ["VDAD", "VDCL", "vdad", ""])
def test_nobody_is_no_agent(user: str) -> None:
    assert answered(ROW.replace("|1000", f"|{user}"), zone=None).call.agent_user is None


@pytest.mark.parametrize("status", ["QUEUE", "INCALL", "DISPO", "DONEM", "XFER", ""])
def test_a_status_that_passes_is_not_final(status: str) -> None:
    assert not answered(ROW.replace("SALE|", f"{status}|"), zone=None).final


@pytest.mark.parametrize("status", ["Queue", "dispo"])
def test_a_status_is_compared_in_capital_letters(status: str) -> None:
    found = answered(ROW.replace("SALE|", f"{status}|"))
    assert (found.final, found.call.status) == (False, status)


def test_which_statuses_are_not_final_is_a_setting() -> None:
    def final(status: str, *not_final: str) -> bool:
        row = ROW.replace("SALE|", f"{status}|")
        return read_call(row, CALL, DialerTimes(None), frozenset(not_final)).final

    assert final("DISPO")
    assert final("", "DISPO")
    assert not final("", "")
    assert not final("PDROP", "PDROP", "DISPO")
    assert not read_call("|".join(TUTORIAL_CALL), TUTORIAL_CALL[0], DialerTimes(None), {"ANSWERED"}).final


def test_a_row_without_a_status_is_final() -> None:
    assert answered(f"call_id|custtime\n{CALL}|120\n").final


def test_an_unknown_call_type_is_a_shifted_record() -> None:
    assert "call type" in unreadable(ROW.replace("OUTBOUND_AUTO", "3125551212"))
    assert answered(ROW.replace("OUTBOUND_AUTO", "OUTBOUND_NEW"), zone=None).call.direction == "outbound"


def test_the_row_is_found_amid_the_warnings_of_php() -> None:
    noise = find("display_errors_on", "agent_campaigns_ok").body
    at = noise.index("1000|")
    body = f"{noise[:at]}{HEADER}\r\n<br />\n<b>Warning</b>: x\n{ROW}\r\n{noise[at + 100 :]}"
    assert answered(body) == answered(ROW)


def test_no_campaigns_is_an_answer_amid_the_warnings_of_php_too() -> None:
    noise = find("display_errors_on", "agent_campaigns_ok").body.partition("1000|")[0]
    said = find("agent_campaigns", "agent_1003_ignore-unset").body
    assert read_agent(noise + said, "1003").agent.campaigns == ()
    assert "another agent" in unreadable_agent(noise + said, "1004")


def test_another_id_is_no_answer() -> None:
    assert "no row" in unreadable(ROW, CALL[:-1])
    assert "no row" in unreadable(ROW, CALL + "6")
    assert "no row" in unreadable(ROW, CALL.lower())


def test_the_same_row_twice_is_one_and_two_different_ones_are_an_error() -> None:
    assert answered(f"{ROW}\n{ROW}\n", zone=None) == answered(ROW, zone=None)
    assert "several" in unreadable(f"{ROW}\n{ROW.replace('SALE|', 'NI|')}")


def test_a_database_of_latin_1_is_read() -> None:
    row = ROW.replace("|SALE|1000", "|ÄÖ|josé").encode("latin-1")
    call = answered(text_of(row), zone=None).call
    assert (call.status, call.agent_user) == ("ÄÖ", "josé")
    assert answered(text_of(ROW.replace("|1000", "|山田").encode()), zone=None).call.agent_user == "山田"


# --- times

BERLIN = ZoneInfo("Europe/Berlin")
LORD_HOWE = ZoneInfo("Australia/Lord_Howe")


def reading(text: str, zone: tzinfo, near: str | None = None) -> str:
    when = DialerTimes(zone, None if near is None else datetime.fromisoformat(near)).read(text)
    assert when is not None
    assert datetime.fromisoformat(when.isoformat()) == when
    return when.isoformat()[len("2026-11-01T") :]


@pytest.mark.parametrize(
    ("zone", "text", "first", "second", "second_in_utc"),
    [
        (NEW_YORK, "2026-11-01 01:30:00", "01:30:00-04:00", "01:30:00-05:00", "2026-11-01T06:30:00Z"),
        (BERLIN, "2026-10-25 02:30:00", "02:30:00+02:00", "02:30:00+01:00", "2026-10-25T01:30:00Z"),
        (LORD_HOWE, "2026-04-05 01:45:00", "01:45:00+11:00", "01:45:00+10:30", "2026-04-04T15:15:00Z"),
    ],
)
def test_in_the_hour_that_comes_twice_it_is_the_last_one_that_can_be(
    zone: ZoneInfo, text: str, first: str, second: str, second_in_utc: str
) -> None:
    then = datetime.fromisoformat(second_in_utc)

    def after(seconds: int) -> str:
        return reading(text, zone, (then + timedelta(seconds=seconds)).isoformat())

    assert reading(text, zone) == first
    assert after(3600) == after(0) == after(-60) == second  # their clock and ours may differ a little
    assert after(-61) == after(-86400) == first
    same_zone = DialerTimes(zone, then.astimezone(zone)).read(text)
    assert same_zone is not None
    assert same_zone.isoformat().endswith(second)


@pytest.mark.parametrize(
    ("zone", "text", "read_as"),
    [
        (NEW_YORK, "2026-11-01 00:59:59", "00:59:59-04:00"),
        (NEW_YORK, "2026-11-01 02:00:00", "02:00:00-05:00"),
        (BERLIN, "2026-10-25 01:59:59", "01:59:59+02:00"),
        (BERLIN, "2026-10-25 03:00:00", "03:00:00+01:00"),
        (LORD_HOWE, "2026-04-05 01:29:59", "01:29:59+11:00"),
        (LORD_HOWE, "2026-04-05 02:00:00", "02:00:00+10:30"),
    ],
)
def test_beside_that_hour_there_is_one_reading(zone: ZoneInfo, text: str, read_as: str) -> None:
    for near in (None, "2020-01-01T00:00:00Z", "2030-01-01T00:00:00Z"):
        assert reading(text, zone, near) == read_as


@pytest.mark.parametrize(
    ("zone", "text", "read_as"),
    [
        (NEW_YORK, "2026-03-08 02:30:00", "02:30:00-05:00"),
        (BERLIN, "2026-03-29 02:30:00", "02:30:00+01:00"),
        (LORD_HOWE, "2026-10-04 02:15:00", "02:15:00+10:30"),
        (ZoneInfo("Pacific/Apia"), "2011-12-30 12:00:00", "12:00:00-10:00"),  # a whole day that never was
    ],
)
def test_a_time_that_never_was_is_read_with_the_offset_before(
    zone: ZoneInfo, text: str, read_as: str
) -> None:
    for near in (None, "2010-01-01T00:00:00Z", "2030-01-01T00:00:00Z"):
        assert reading(text, zone, near) == read_as


def test_a_fixed_offset_is_taken_as_it_is() -> None:
    fixed = timezone(timedelta(hours=-5))
    assert reading("2026-11-01 01:30:00", fixed, "2026-11-01T12:00:00Z") == "01:30:00-05:00"
    assert DialerTimes(None).read("2026-11-01 01:30:00") is None


class Offsetless(tzinfo):
    def utcoffset(self, _: datetime | None) -> None:
        return None

    dst = tzname = utcoffset


def test_in_a_zone_without_an_offset_no_time_is_known() -> None:
    assert DialerTimes(Offsetless()).read("2026-11-01 01:30:00") is None


def test_a_call_of_the_tutorials_lasts_as_long_as_it_did_also_where_the_clocks_change() -> None:
    def length(start: str, end: str, near: str) -> int | None:
        values = [TUTORIAL_CALL[0], start, end, *TUTORIAL_CALL[3:]]
        times = DialerTimes(NEW_YORK, datetime.fromisoformat(near))
        return read_call("|".join(values), TUTORIAL_CALL[0], times, NOT_FINAL).call.duration_seconds

    assert length("2026-11-01 01:50:00", "2026-11-01 01:10:00", "2026-11-01T06:10:00Z") == 1200
    assert length("2026-03-08 01:50:00", "2026-03-08 03:10:00", "2026-03-08T07:10:00Z") == 1200


@PROPERTY
@given(
    at=st.datetimes(),
    zone=st.sampled_from(sorted(available_timezones())).map(ZoneInfo),
    near=st.none() | st.datetimes(timezones=st.just(UTC)),
    length=st.integers(0, 999_999_999),
)
def test_every_time_has_an_offset_of_its_zone_and_can_be_reckoned_with(
    at: datetime, zone: ZoneInfo, near: datetime | None, length: int
) -> None:
    times = DialerTimes(zone, near)
    when = times.read(at.isoformat(" "))
    if when is None:
        assert not 1970 <= at.year < 3000
        return
    assert when.replace(tzinfo=None) == at
    assert when.utcoffset() in {at.replace(tzinfo=zone, fold=fold).utcoffset() for fold in (0, 1)}
    end = times.after(when, length)
    assert (end - when).total_seconds() == length
    assert end.utcoffset() == end.astimezone(zone).utcoffset()
    CallRecord(call_id="V1", started_at=when, ended_at=end).model_dump_json()


# --- callid_info, the tutorials' dialect

SEPARATORS = ["|", ",", "\t", " | ", ", "]


@pytest.mark.parametrize("separator", SEPARATORS)
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_the_tutorials_call_is_read(separator: str, end: str) -> None:
    found = answered(separator.join(TUTORIAL_CALL) + end, TUTORIAL_CALL[0])
    assert found.final
    assert found.call.model_dump(mode="json", exclude_none=True) == {
        "call_id": "1000012345",
        "direction": "outbound",
        "started_at": "2024-02-15T10:15:00-05:00",
        "ended_at": "2024-02-15T10:18:30-05:00",
        "duration_seconds": 210,
        "agent_user": "agent001",
        "phone_number": "9876543210",
        "status": "Answered",
        "recordings": [{"file_name": "rec_1000012345.wav"}],
    }


@pytest.mark.parametrize("separator", SEPARATORS)
@pytest.mark.parametrize("last", [[""], []])
def test_the_tutorials_recording_may_be_empty_or_missing(separator: str, last: list[str]) -> None:
    found = answered(separator.join([*TUTORIAL_CALL[:7], *last]), TUTORIAL_CALL[0])
    assert found.call.recordings == ()


@pytest.mark.parametrize("separator", ["|", ",", "\t"])
@pytest.mark.parametrize("field", range(1, 8))
def test_a_separator_in_a_field_of_the_tutorials_is_an_error(separator: str, field: int) -> None:
    values = list(TUTORIAL_CALL)
    values[field] = f"{values[field][:3]}{separator}{values[field][3:]}"
    unreadable(separator.join(values), TUTORIAL_CALL[0])
    if field < 6:  # a status with a separator and no recording looks like a status and a recording
        unreadable(separator.join(values[:7]), TUTORIAL_CALL[0])


def tutorial(at: int, value: str) -> CallEnrichment:
    values = [*TUTORIAL_CALL]
    values[at] = value
    return answered("|".join(values), TUTORIAL_CALL[0])


def test_what_the_tutorials_call_leaves_open_is_not_known() -> None:
    assert tutorial(3, "Inbound").call.direction == "inbound"
    assert tutorial(4, "").call.agent_user is None
    assert tutorial(5, "").call.phone_number is None
    for zeros in ("", "0000-00-00 00:00:00"):
        assert (tutorial(2, zeros).call.ended_at, tutorial(2, zeros).call.duration_seconds) == (None, None)
    assert tutorial(2, "2024-02-15 10:14:00").call.duration_seconds is None
    assert not tutorial(6, "INCALL").final
    unknown = answered("|".join(TUTORIAL_CALL), TUTORIAL_CALL[0], None).call
    assert (unknown.started_at, unknown.ended_at, unknown.duration_seconds) == (None, None, 210)


@pytest.mark.parametrize(
    ("at", "value"), [(3, "Sideways"), (6, ""), (6, "42"), (1, "soon"), (2, "2024-13-01")]
)
def test_what_fits_no_column_of_the_tutorials_is_an_error(at: int, value: str) -> None:
    with pytest.raises(EnrichmentUnavailable):
        tutorial(at, value)


# --- agent_campaigns


def test_an_agent_without_in_groups_or_with_one_campaign() -> None:
    found = read_agent(f"{AGENT_HEADER}\n1006|OUTONLY|\n", "1006")
    assert (found.agent.campaigns, found.agent.in_groups) == ((Campaign(campaign_id="OUTONLY"),), ())
    assert (found.agent.campaigns_ambiguous, found.campaigns_text) == (False, "OUTONLY")


def test_an_agent_may_be_named_as_a_column_is() -> None:
    for body in (f"{AGENT_HEADER}\nuser|SALES1|IN1\n", "user|SALES1|IN1\n"):
        assert read_agent(body, "user").agent.in_groups == ("IN1",)


def test_the_lists_are_read_by_name() -> None:
    found = read_agent(
        "user|full_name|allowed_ingroups_list|allowed_campaigns_list\n1000|Jane|IN1-IN2|A\n", "1000"
    )
    assert (found.campaigns_text, found.agent.in_groups) == ("A", ("IN1", "IN2"))
    assert "lacks its lists" in unreadable_agent("user|allowed_campaigns_list\n1000|A\n")


def test_an_agents_row_that_does_not_fit_is_an_error() -> None:
    assert "3 are named" in unreadable_agent(f"{AGENT_HEADER}\n1000|A|B|C\n")
    assert "several" in unreadable_agent(f"{AGENT_HEADER}\n1000|A|B\n1000|A|C\n")
    assert "several" in unreadable_agent("1000|A|B\n1000|A|C\n")
    assert "no row" in unreadable_agent(f"{AGENT_HEADER}\n10000|A|B\n")
    assert "no row" in unreadable_agent(f"{AGENT_HEADER}\n")


PAIRS = {"Campaign1": "Outbound Sales", "Campaign2": "Inbound Support"}


def tutorial_agents(separator: str) -> list[str]:
    """Return each way in which the tutorials' pairs may stand."""
    one, two = (separator.join(pair) for pair in PAIRS.items())
    name = f"agent001{separator}"
    return [
        f"{name}{one}{separator}{two}",
        f"{name}{one}\n{two}",
        f"{name}{one}\r\n{name}{two}\r\n",
        f"agent001\n{one}\n{two}\n",
        f"<br />\n<b>Warning</b>: x, y | z<br />\n{name}{one}\n\n{two}\n<br />\n",
    ]


@pytest.mark.parametrize("separator", SEPARATORS)
@pytest.mark.parametrize("way", range(5))
def test_the_tutorials_agent_is_read(separator: str, way: int) -> None:
    found = read_agent(tutorial_agents(separator)[way], "agent001")
    assert {each.campaign_id: each.name for each in found.agent.campaigns} == PAIRS
    assert (found.agent.in_groups, found.agent.campaigns_ambiguous, found.campaigns_text) == ((), False, None)


def test_one_pair_is_distinguished_from_two_lists_by_its_name() -> None:
    assert read_agent("1|SALES1|Sales one", "1").agent.campaigns == (
        Campaign(campaign_id="SALES1", name="Sales one"),
    )
    assert read_agent("1|SALES1|SALES LINE", "1").agent.campaigns[0].name == "SALES LINE"
    assert read_agent("1|SALES1|SALESLINE", "1").agent.in_groups == ("SALESLINE",)
    assert read_agent("1|SALES1||OTHER|", "1").agent.campaigns[0].name is None


@pytest.mark.parametrize(
    "body",
    [
        "1,Campaign1,Sales, the big one,Campaign2,Support",
        "1,Campaign1,Sales, now, and then,Campaign2,Support",
        "1,Campaign1,Sales,Campaign2",
        "1|Campaign1|Sales|Campaign1|Support",
        "1|C1|In,Out\nC2|Up,Down|x",
        "1,C1,In\nC2,Out|In,x",
        "1||Sales one",
        "1|",
        "1",
        "1\n",
    ],
)
def test_pairs_that_do_not_fit_are_an_error(body: str) -> None:
    unreadable_agent(body, "1")


def test_pairs_on_lines_of_their_own_need_no_names_that_look_like_names() -> None:
    found = read_agent("1|C1|SALES\nC2|SUPPORT\n<br />\n", "1").agent
    assert {each.campaign_id: each.name for each in found.campaigns} == {"C1": "SALES", "C2": "SUPPORT"}


def test_the_separator_of_the_first_line_holds_for_all() -> None:
    found = read_agent("1,C1,In|Out\nC2,Up|Down", "1").agent
    assert [each.name for each in found.campaigns] == ["In|Out", "Up|Down"]


@pytest.mark.no_cover
@pytest.mark.parametrize("line", ["1|{0}|x", "1|{0}", "{0}", "1|C{0}|A name|"])
@pytest.mark.parametrize("before", ["", "1|C|A name\n"])
def test_the_time_for_an_answer_grows_with_its_size_and_no_faster(line: str, before: str) -> None:
    text = "\n".join(line.format(number) for number in range(256 * 1024 // len(line.format(99999))))
    started = time.process_time()
    for read_it in (lambda: read_agent(before + text, "1"), lambda: answered(before + text, "1", None)):
        with suppress(ProcessingError):
            read_it()
    assert time.process_time() - started < 5


# --- properties

ids = st.text(string.ascii_letters + string.digits, min_size=1, max_size=20)
names = st.text(string.ascii_letters + string.digits + "_", min_size=1, max_size=8)
texts = st.text(st.characters(exclude_characters="|,\t\r\n", exclude_categories=["Cs"]), max_size=20).map(
    str.strip
)
times = st.none() | st.datetimes(datetime(1970, 1, 1), datetime(2999, 12, 31)).map(  # noqa: DTZ001 - local
    lambda at: at.replace(microsecond=0)
)
ZONES = ["America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "Pacific/Apia"]
zones = st.sampled_from([None, timezone(timedelta(hours=-5)), *map(ZoneInfo, ZONES)])
marks = st.sampled_from("|,\t")
warnings = st.lists(st.sampled_from(["<br />", "<b>Warning</b>: a|b,c", "", "DEBUG: SELECT 1;"]), max_size=3)


@st.composite
def calls(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "call_id": draw(ids.filter(lambda each: parse_call_id(each) is None)),
        "custtime": draw(st.none() | st.integers(-99999, 99999)),
        "call_date": draw(times),
        "phone": draw(texts),
        "call_type": draw(st.sampled_from(["INBOUND", "OUTBOUND_AUTO", "OUTBOUND_MANUAL", "OUTBOUND_OTHER"])),
        "campaign_id": draw(texts),
        "list_id": draw(texts),
        "status": draw(texts),
        "user": draw(texts),
    }


def spelled(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat(" ")
    return "" if value is None else str(value)


def zoned(at: datetime | None, zone: tzinfo | None) -> datetime | None:
    if at is None or zone is None:
        return None
    offset = at.replace(tzinfo=zone).utcoffset()
    assert offset is not None
    return at.replace(tzinfo=timezone(offset))


def length_of(start: datetime | None, end: datetime | None, zone: tzinfo | None) -> int | None:
    if start is None or end is None:
        return None
    seconds = int(((zoned(end, zone) or end) - (zoned(start, zone) or start)).total_seconds())
    return seconds if seconds >= 0 else None


def a_body(noise: list[str], lines: list[str]) -> str:
    return "\n".join([*noise, *lines, *noise]) + "\n"


@PROPERTY
@given(call=calls(), zone=zones, mark=marks, noise=warnings, shuffled=st.permutations(HEADER.split("|")[1:]))
def test_a_real_answer_reads_back(
    call: dict[str, Any], zone: tzinfo | None, mark: str, noise: list[str], shuffled: list[str]
) -> None:
    in_order = mark.join(spelled(call[column]) for column in HEADER.split("|"))
    columns = ["call_id", *shuffled]
    by_name = [mark.join(columns), mark.join(spelled(call[column]) for column in columns)]
    found = answered(a_body(noise, by_name), call["call_id"], zone)
    assert found == answered(a_body(noise, [in_order]), call["call_id"], zone)
    inbound = call["call_type"] == "INBOUND"
    talk = call["custtime"]
    assert found.final == (call["status"] not in {"QUEUE", "INCALL", "DISPO", "XFER", ""})
    assert found.call.model_dump() == {
        "call_id": call["call_id"],
        "direction": "inbound" if inbound else "outbound",
        "call_type": call["call_type"],
        "started_at": zoned(call["call_date"], zone),
        "ended_at": None,
        "talk_seconds": talk if talk is not None and talk >= 0 else None,
        "duration_seconds": None,
        "agent_user": call["user"] if call["user"] not in {"VDAD", "VDCL", ""} else None,
        "phone_number": call["phone"] or None,
        "status": call["status"] or None,
        "campaign_id": None if inbound else call["campaign_id"] or None,
        "in_group_id": call["campaign_id"] or None if inbound else None,
        "list_id": call["list_id"] or None,
        "lead_id": None,
        "recordings": None,
    }


@PROPERTY
@given(
    call=calls(),
    end=times,
    zone=zones,
    mark=marks,
    status=texts.filter(lambda text: any(letter.isalpha() for letter in text)),
    recording=st.none() | texts,
    direction=st.sampled_from(["Inbound", "Outbound"]),
)
def test_an_answer_of_the_tutorials_reads_back(
    call: dict[str, Any],
    end: datetime | None,
    zone: tzinfo | None,
    mark: str,
    status: str,
    recording: str | None,
    direction: str,
) -> None:
    start = call["call_date"]
    values = [call["call_id"], spelled(start), spelled(end), direction, call["user"], call["phone"], status]
    found = answered(
        mark.join(values + ([] if recording is None else [recording])), call["call_id"], zone
    ).call
    assert (found.started_at, found.ended_at) == (zoned(start, zone), zoned(end, zone))
    assert found.duration_seconds == length_of(start, end, zone)
    assert (found.direction, found.status) == (direction.lower(), status)
    assert found.phone_number == (call["phone"] or None)
    assert found.recordings == ((Recording(file_name=recording),) if recording else ())


@PROPERTY
@given(
    user=names,
    campaigns=st.lists(names, min_size=1, max_size=5),
    groups=st.lists(names.map(str.upper), max_size=5),
    mark=marks,
    noise=warnings,
    header=st.booleans(),
)
def test_an_agents_real_answer_reads_back(
    user: str, campaigns: list[str], groups: list[str], mark: str, noise: list[str], *, header: bool
) -> None:
    row = mark.join([user, "-".join(campaigns), "-".join(groups)])
    lines = [AGENT_HEADER.replace("|", mark), row] if header else [row]
    found = read_agent(a_body(noise, lines), user)
    assert [each.campaign_id for each in found.agent.campaigns] == campaigns
    assert list(found.agent.in_groups) == groups
    assert found.agent.campaigns_ambiguous == (len(campaigns) > 1)
    assert found.campaigns_text == "-".join(campaigns)


@PROPERTY
@given(
    user=names,
    pairs=st.dictionaries(names, texts, min_size=2, max_size=5),
    mark=marks,
    each_line=st.booleans(),
)
def test_an_agents_answer_of_the_tutorials_reads_back(
    user: str, pairs: dict[str, str], mark: str, *, each_line: bool
) -> None:
    joined = [mark.join(pair) for pair in pairs.items()]
    body = user + mark + ("\n" if each_line else mark).join(joined)
    assume(user not in pairs)  # a line that begins with the agent's own name could be either
    found = read_agent(body, user).agent.campaigns
    assert {each.campaign_id: each.name for each in found} == {
        name: title or None for name, title in pairs.items()
    }


fragments = st.lists(
    st.sampled_from(
        [
            *HEADER.split("|"),
            *AGENT_HEADER.split("|"),
            *TUTORIAL_CALL,
            *ROW.split("|"),
            *(
                "|",
                "|",
                "|",
                ",",
                "\t",
                "\n",
                "\n",
                "\r",
                "ERROR: ",
                "CALL NOT FOUND",
                "NO AVAILABLE CAMPAIGNS: ",
                "<br />",
            ),
            *(
                "DATE: ",
                "EPOCH: ",
                "9999-99-99 99:99:99",
                "0001-01-01 00:00:00",
                "9999-12-31 23:59:59",
                "1795313398",
                "-",
            ),
        ]
    )
    | st.text(max_size=5),
    max_size=40,
).map("".join)
bodies = st.binary(max_size=300).map(text_of) | st.text(max_size=300) | fragments


@settings(PROPERTY, max_examples=1000)
@given(body=bodies, zone=zones)
def test_whatever_comes_is_a_record_or_a_named_error(body: str, zone: tzinfo | None) -> None:
    for call_id in (CALL, TUTORIAL_CALL[0]):
        try:
            assert answered(f"{call_id}|{body}", call_id, zone).call.call_id == call_id
            assert answered(body, call_id, zone).call.call_id == call_id
        except ProcessingError:
            pass
    for user in ("1000", "agent001", "user"):
        try:
            assert read_agent(f"{user}|{body}", user).agent.agent_user == user
            assert read_agent(body, user).agent.agent_user == user
        except ProcessingError:
            pass


def test_not_found_carries_nothing() -> None:
    with pytest.raises(NotReady) as caught:
        answered("ERROR: callid_info CALL NOT FOUND: 6666|\n", zone=None)
    assert caught.value.reason is NotReadyReason.RECORD
