"""Reading the dialer's answers: all that was recorded, the tutorials' dialect, and what goes wrong."""

import string
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from worker.core.errors import EnrichmentUnavailable, Fault, NotReady, ProcessingError
from worker.core.records import AgentEnrichment, CallEnrichment, Campaign, Enrichment, Recording
from worker.demo.recordings import Exchange, find, load
from worker.vicidial.client import _text
from worker.vicidial.responses import read_agent, read_call, read_offset

NEW_YORK = ZoneInfo("America/New_York")
SECRET = "Pl4nted+Secret"
FUNCTIONS = ("callid_info", "agent_campaigns")
CALL = "V1201405090000012345"
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
PROPERTY = settings(max_examples=200, deadline=None, derandomize=True, database=None)

# What each recorded answer means, written down from the answers and not by the parser. Each outcome stands
# above the groups and names of the exchanges that have it. Of a call: whether it is final, talk seconds, time
# of day, phone, type, campaign, in-group, list, status and agent, `-` for what is not known. Of an error: its
# label, and what its text has to say.
RECORDED = """
campaigns=OUTONLY,RENEW_24,SUPP,1; in_groups=RENEW_IN,SALESLINE,SUPPORTLINE; ambiguous
    agent_campaigns: agent_1001_ignore-Y agent_1001_ignore-unset
campaigns=SALES1,RENEW_24,SUPP,1,OUTONLY,OUTEMPTY,ADCAMP,7; \
in_groups=AGENTDIRECT,AGENTDIRECT_CHAT,SALESLINE,SUPPORTLINE,RENEW_IN; ambiguous
    agent_campaigns: agent_1002_ignore-N agent_6666_ignore-N agent_VDAD_ignore-unset
        agent_inactive_ignore-N agent_inactive_ignore-unset
campaigns=; in_groups=
    agent_campaigns: agent_1003_ignore-unset agent_1004_ignore-N agent_1004_ignore-Y agent_1007_ignore-N
        agent_1007_ignore-Y campaign_filter_CLOSED1 campaign_filter_NOPE campaign_filter_OUTONLY
        campaign_filter_SUPP-1
    agent_campaigns_errors: agent_no_campaigns_csv agent_no_campaigns_group_inactive
        allowed_campaigns_null
campaigns=RENEW_24,SALES1; in_groups=AGENTDIRECT,AGENTDIRECT_CHAT,SALESLINE,SUPPORTLINE,RENEW_IN; \
ambiguous
    agent_campaigns: agent_1005_ignore-N agent_1005_ignore-unset agent_mixedcase_ignore-N
        api8_only_two_functions campaign_filter_empty detail_ignored fmt_stage-csv_header-NO
        fmt_stage-csv_header-unset fmt_stage-pipe_header-NO fmt_stage-pipe_header-YES
        fmt_stage-tab_header-NO fmt_stage-tab_header-YES fmt_stage-tab_header-unset
        fmt_stage-unset_header-NO fmt_stage-unset_header-unset ignore_lower_y post_form
    agent_campaigns_errors: viewable_groups_shows_agent
    apache_mod_php: agent_campaigns_header
    display_errors_on: agent_campaigns_ok
campaigns=OUTONLY; in_groups=
    agent_campaigns: agent_1006_ignore-unset
campaigns=ADCAMP; in_groups=
    agent_campaigns: agent_1008_ignore-Y
campaigns=7; in_groups=
    agent_campaigns: agent_1009_ignore-Y
campaigns=SALES1,RENEW_24,SUPP,1,OUTONLY,OUTEMPTY,ADCAMP,7; \
in_groups=SALESLINE,SUPPORTLINE,RENEW_IN; ambiguous
    agent_campaigns: agent_6666_ignore-Y
campaigns=RENEW_24,SALES1; in_groups=SALESLINE,SUPPORTLINE,RENEW_IN; ambiguous
    agent_campaigns: agent_MixedCase_ignore-Y agent_jane-doe_1_ignore-Y agent_mixedcase_ignore-Y
campaigns=RENEW_24; in_groups=RENEW_IN,SALESLINE
    agent_campaigns: campaign_filter_RENEW_24
campaigns=SALES1; in_groups=AGENTDIRECT,AGENTDIRECT_CHAT,SALESLINE,SUPPORTLINE
    agent_campaigns: campaign_filter_SALES1 campaign_filter_sales1
campaigns=SALES1,RENEW_24,SUPP,1,OUTONLY,OUTEMPTY,ADCAMP,7,X,ALL,LEAD; \
in_groups=AGENTDIRECT,AGENTDIRECT_CHAT,SALESLINE,SUPPORTLINE,RENEW_IN; ambiguous
    agent_campaigns: id_containing_dash_ALL_gives_every_campaign
campaigns=VENTÄ; in_groups=VENTÄ_IN
    agent_campaigns: non_latin_ids
not_found: AGENT USER DOES NOT EXIST
    agent_campaigns_errors: agent_long empty_agent_user missing_agent_user unknown_agent
        viewable_groups_hides_agent
    login_other: non_latin_agent_user_unicode
dialer_unreadable: the dialer's answer has no row for the id asked for
    agent_campaigns_errors: agent_space
    callid_info_errors: call_id_dash call_id_newline call_id_percent call_id_space
dialer_refused: DOES NOT HAVE PERMISSION
    agent_campaigns_errors: level7 no_api_access no_view_reports
    callid_info_errors: function_not_allowed no_view_reports
dialer_refused: INVALID SOURCE
    agent_campaigns_errors: missing_source short_source
    callid_info_errors: missing_source short_source
dialer_refused: LOGIN INCORRECT
    agent_campaigns_errors: wrong_password
    apache_mod_php: wrong_password
    callid_info: put_method
    callid_info_errors: level6 post_unknown_user wrong_password_special_chars
    display_errors_on: wrong_password
    lockout: last_ok_20min_ago_wrong_01 last_ok_20min_ago_wrong_02 last_ok_20min_ago_wrong_03
        last_ok_20min_ago_wrong_04 last_ok_20min_ago_wrong_05 last_ok_20min_ago_wrong_06
        last_ok_20min_ago_wrong_07 last_ok_20min_ago_wrong_08 last_ok_20min_ago_wrong_09
        last_ok_20min_ago_wrong_10 last_ok_20min_ago_wrong_11 never_logged_in_count10_right_password
        wrong_password_01 wrong_password_02 wrong_password_03 wrong_password_04 wrong_password_05
        wrong_password_06 wrong_password_07 wrong_password_08 wrong_password_09 wrong_password_10
final; 120; 14:05:09; 3125551212; OUTBOUND_AUTO; SALES1; -; 1001; SALE; 1000
    apache_mod_php: callid_info_detail_header_pipe
    callid_info: fmt_stage-PIPE_header-NO_detail-YES fmt_stage-PIPE_header-YES_detail-YES
        fmt_stage-PIPE_header-unset_detail-YES fmt_stage-csv_header-YES_detail-YES
        fmt_stage-csv_header-unset_detail-YES fmt_stage-pipe_header-NO_detail-YES
        fmt_stage-pipe_header-unset_detail-YES fmt_stage-tab_header-NO_detail-YES
        fmt_stage-tab_header-YES_detail-YES fmt_stage-tab_header-unset_detail-YES
        fmt_stage-unset_header-NO_detail-YES fmt_stage-unset_header-YES_detail-YES
        fmt_stage-unset_header-unset_detail-YES fmt_stage-xml_header-NO_detail-YES
        fmt_stage-xml_header-YES_detail-YES type_V_outbound_auto
dialer_refused: IP ADDRESS IS NOT ALLOWED
    apache_mod_php: ip_block_allow_list
    login_other: ip_block_allow_list
not_found: CALL LOG NOT FOUND
    apache_mod_php: log_not_found
    call_lifecycle: 2_between_extended_and_log_insert
    callid_info: odd_closer_date_differs_1s odd_closer_date_differs_1s_tab odd_ext_row_no_closer_log
        odd_ext_row_no_closer_log_csv odd_ext_row_no_closer_log_tab
HTTP 414
    apache_mod_php: url_9000
not_found: CALL NOT FOUND
    call_lifecycle: 1_dialled_no_rows_yet 6_after_archive_daily xfer_2_V_after_transfer_to_in_group
    callid_info: odd_log_no_ext_row odd_log_no_ext_row_csv
    callid_info_errors: call_id_len18 call_id_sql_injection
not final; 0; 22:13:00; 3125551213; OUTBOUND_MANUAL; SALES1; -; 1001; INCALL; 1000
    call_lifecycle: 3_talking
not final; 60; 22:13:00; 3125551213; OUTBOUND_MANUAL; SALES1; -; 1001; DISPO; 1000
    call_lifecycle: 4_hung_up_disposition_screen
final; 60; 22:13:00; 3125551213; OUTBOUND_MANUAL; SALES1; -; 1001; SALE; 1000
    call_lifecycle: 5_dispositioned
not final; 0; 22:14:00; 3125551213; OUTBOUND_AUTO; SALES1; -; 1001; INCALL; 1000
    call_lifecycle: xfer_1_V_before_transfer
not final; 0; 22:14:10; 3125551213; INBOUND; -; SUPPORTLINE; 1001; QUEUE; -
    call_lifecycle: xfer_3_Y_after_transfer
final; 0
    callid_info: detail_NO_no_agent_log
final; 0; 14:07:15; 3125551212; INBOUND; -; SALESLINE; 1001; DROP; -
    callid_info: dup_two_closer_rows
final; 120
    callid_info: fmt_lowercase_yes fmt_stage-PIPE_header-NO_detail-unset
        fmt_stage-PIPE_header-YES_detail-NO fmt_stage-PIPE_header-YES_detail-unset
        fmt_stage-csv_header-unset_detail-NO fmt_stage-pipe_header-YES_detail-NO
        fmt_stage-pipe_header-YES_detail-unset fmt_stage-tab_header-NO_detail-NO
        fmt_stage-tab_header-NO_detail-unset fmt_stage-tab_header-YES_detail-NO
        fmt_stage-tab_header-unset_detail-NO fmt_stage-unset_header-NO_detail-unset
        fmt_stage-unset_header-YES_detail-unset fmt_stage-unset_header-unset_detail-unset
        fmt_stage-xml_header-NO_detail-NO fmt_stage-xml_header-YES_detail-NO
        fmt_stage-xml_header-YES_detail-unset fmt_stage-xml_header-unset_detail-NO
    callid_info_errors: right_password_with_junk_chars source_long user_case_insensitive
    db_down: users_table_long_select_3s users_table_read_locked_5s
    lockout: last_ok_20min_ago_right_after_11_wrong never_logged_in_count10_again
        right_password_16_min_after_last_login_date right_password_after_15_min
        right_password_after_9_wrong
    login_other: DB_1_debug_off DB_1_debug_on
final; 10; 14:07:01; +44 20 7946,0000; OUTBOUND_MANUAL; SALES1; -; 1001; SALE; 1000
    callid_info: odd_comma_plus_phone odd_comma_plus_phone_tab
dialer_unreadable: 10 columns where 9
    callid_info: odd_comma_plus_phone_csv
final; -; 14:07:08; 3125551212; OUTBOUND_AUTO; SALES1; -; 1001; SALE; 1000
    callid_info: odd_dead_gt_talk_negative odd_dead_gt_talk_negative_csv odd_dead_gt_talk_negative_tab
final; 10; 14:07:00; -; OUTBOUND_MANUAL; SALES1; -; 1001; SALE; 1000
    callid_info: odd_empty_phone odd_empty_phone_csv odd_empty_phone_tab
final; 10; 14:07:13; <b>&amp;; OUTBOUND_MANUAL; SALES1; -; 1001; SALE; 1000
    callid_info: odd_html_in_phone_tab
rejected_by_dialer: INVALID SEARCH PARAMETERS
    callid_info: odd_lower_case_prefix_asked_csv odd_lower_case_prefix_asked_tab
    callid_info_errors: call_id_len40 call_id_lower_case call_id_numeric call_id_too_short
        call_id_uniqueid call_id_wrong_prefix empty_call_id
final; 0; 14:07:07; 3125551212; OUTBOUND_AUTO; SALES1; -; 1001; SALE; 1000
    callid_info: odd_no_agent_log odd_no_agent_log_csv odd_no_agent_log_tab
final; 10; 14:07:03; 3125551212; OUTBOUND_MANUAL; SALES1; -; 1001; ÄÖ山; josé
    callid_info: odd_non_ascii_status_user odd_non_ascii_status_user_csv odd_non_ascii_status_user_tab
    login_other: server_charset_latin1_call
HTTP 500
    callid_info: odd_null_lead_in_extended odd_null_lead_in_extended_csv odd_quote_in_user
        odd_quote_in_user_csv odd_quote_in_user_tab
    db_down: apache_agent_campaigns apache_callid_info php_s_agent_campaigns php_s_callid_info
final; 10; 14:07:11; 3125551212; OUTBOUND_MANUAL; SALES1; -; -; SALE; 1000
    callid_info: odd_null_list_id odd_null_list_id_csv
dialer_unreadable: 11 columns where 9
    callid_info: odd_pipe_phone
final; 10; 14:07:02; 312|555|1212; OUTBOUND_MANUAL; SALES1; -; 1001; SALE; 1000
    callid_info: odd_pipe_phone_csv
final; 0; 14:07:09; 3125551212; OUTBOUND_AUTO; SALES1; -; 1001; SALE; 1000
    callid_info: odd_two_agent_logs_tab
final; 10; 14:07:16; 3125551212; OUTBOUND_MANUAL; SALES1; -; 1001; SALE; 1000
    callid_info: odd_upper_prefix_row_is_lower odd_upper_prefix_row_is_lower_csv
        odd_upper_prefix_row_is_lower_tab
not final; 40; 14:06:02; 3125551212; OUTBOUND_AUTO; SALES1; -; 1001; DISPO; 1000
    callid_info: state_V_DISPO
final; 0; 14:06:07; 3125551212; OUTBOUND_AUTO; SALES1; -; 1001; DROP; -
    callid_info: state_V_DROP
final; 0; 14:06:09; 3125551212; OUTBOUND_AUTO; SALES1; -; 1001; NA; -
    callid_info: state_V_NA
not final; 0; 14:06:00; 3125551212; OUTBOUND_AUTO; SALES1; -; 1001; QUEUE; -
    callid_info: state_V_QUEUE
not final; 0; 14:06:04; 3125551212; INBOUND; -; SALESLINE; 1001; QUEUE; -
    callid_info: state_Y_QUEUE_no_user
not final; 12; 14:05:12; 3125551212; INBOUND; -; SUPPORTLINE; 1001; XFER; 1001
    callid_info: type_J_inbound
final; 0; 14:05:13; 3125551212; INBOUND; -; SUPPORTLINE; 1001; A; 1001
    callid_info: type_LP
final; 0; 14:05:14; 3125551212; INBOUND; -; SUPPORTLINE; 1001; A; 1001
    callid_info: type_VH
final; 300; 14:05:11; 3125551212; INBOUND; -; SALESLINE; 1001; SALE; 1001
    callid_info: viewable_groups_do_not_apply
dialer_outage: the dialer can't reach its database
    db_down: mysqli_report_off_callid_info
dialer_outage: the dialer answered with a page of HTML instead of a row
    display_errors_on: sql_error
dialer_refused: TOO MANY LOGIN ATTEMPTS
    lockout: right_password_while_locked wrong_password_11 wrong_password_12
"""


def outcomes() -> dict[str, str]:
    """Give the outcome of each exchange by `group/name`, as the table has it."""
    found: dict[str, str] = {}
    outcome = group = ""
    for line in RECORDED.strip("\n").split("\n"):
        if not line.startswith(" "):
            outcome = line
            continue
        for word in line.split():
            if word.endswith(":"):
                group = word[:-1]
            else:
                assert f"{group}/{word}" not in found
                found[f"{group}/{word}"] = outcome
    return found


def recorded() -> list[Exchange]:
    return [each for each in load() if each.query.get("function") in FUNCTIONS]


def read(exchange: Exchange, body: str | None = None) -> Enrichment:
    body = exchange.body if body is None else body
    if exchange.query["function"] == "callid_info":
        return read_call(body, exchange.query.get("call_id", ""), NEW_YORK)
    return read_agent(body, exchange.query.get("agent_user", ""))


def facts(found: Enrichment) -> str:
    """Write an enrichment as the table does."""
    if isinstance(found, AgentEnrichment):
        agent = found.agent
        campaigns = ",".join(each.campaign_id for each in agent.campaigns)
        ambiguous = "; ambiguous" if agent.campaigns_ambiguous else ""
        return f"campaigns={campaigns}; in_groups={','.join(agent.in_groups)}{ambiguous}"
    call = found.call
    final = "final" if found.final else "not final"
    if call.call_type is None:
        return f"{final}; {call.talk_seconds}"
    assert call.started_at is not None
    assert call.started_at.isoformat().startswith("2026-11-20T")
    assert call.started_at.isoformat().endswith("-05:00")
    assert call.direction == ("inbound" if call.call_type == "INBOUND" else "outbound")
    values = [call.talk_seconds, f"{call.started_at:%H:%M:%S}", call.phone_number, call.call_type]
    values += [call.campaign_id, call.in_group_id, call.list_id, call.status, call.agent_user]
    return "; ".join([final, *("-" if value is None else str(value) for value in values)])


@pytest.mark.parametrize("name", [f"{each.group}/{each.name}" for each in recorded()])
def test_a_recorded_answer_means_what_the_table_says(name: str) -> None:
    exchange, expected = find(*name.split("/")), outcomes()[name]
    if expected.startswith("HTTP"):  # what a status says is the client's to judge
        assert expected == f"HTTP {exchange.status}"
        return
    if not expected.startswith(("final", "not final", "campaigns")):
        with pytest.raises(ProcessingError, match=expected.partition(": ")[2]) as caught:
            read(exchange)
        assert caught.value.label == expected.partition(": ")[0]
        return
    assert facts(read(exchange)) == expected


def test_the_table_names_nothing_that_was_not_recorded() -> None:
    assert set(outcomes()) == {f"{each.group}/{each.name}" for each in recorded()}


def errors() -> list[Exchange]:
    """Give each kind of recorded error body once."""
    kinds: dict[str, Exchange] = {}
    for each in recorded():
        if "ERROR" in each.body or "<br" in each.body:
            kinds.setdefault(f"{each.query['function']} {each.body[-40:]}", each)
    return list(kinds.values())


def planted(body: str) -> Iterator[str]:
    """Give a body with the secret in place of each of its words, and between any two of them."""
    places = [at for at, letter in enumerate(body) if letter in "| :\n"]
    for at in places[:: max(1, len(places) // 60)]:
        end = next((place for place in places if place > at), len(body))
        yield body[: at + 1] + SECRET + body[end:]
        yield body[: at + 1] + SECRET + body[at:]
    yield SECRET + body
    yield body + SECRET


@pytest.mark.parametrize("exchange", errors(), ids=lambda each: f"{each.group}-{each.name}")
def test_no_error_repeats_anything_of_the_body(exchange: Exchange) -> None:
    for body in planted(exchange.body):
        raised: list[ProcessingError] = []
        try:
            read(exchange, body)
        except ProcessingError as error:
            raised.append(error)
        assert SECRET not in repr([(str(error), error.args, error.__cause__) for error in raised])


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
def test_an_error_is_told_by_its_words(body: str, label: str) -> None:
    for ask in (lambda: read_call(body, CALL, None), lambda: read_agent(body, "agent001")):
        with pytest.raises(ProcessingError) as caught:
            ask()
        assert caught.value.label == label


def unreadable(body: str, call_id: str = CALL) -> str:
    with pytest.raises(EnrichmentUnavailable) as caught:
        read_call(body, call_id, NEW_YORK)
    assert caught.value.fault is Fault.UNREADABLE
    return str(caught.value)


def unreadable_agent(body: str, agent_user: str = "1000") -> str:
    with pytest.raises(EnrichmentUnavailable) as caught:
        read_agent(body, agent_user)
    assert caught.value.fault is Fault.UNREADABLE
    return str(caught.value)


# --- callid_info, the real dialect


def test_columns_are_read_by_name_in_whatever_order_and_number() -> None:
    found = read_call(
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
    found = read_call(
        f"call_id|custtime|call_date|call_type|campaign_id|list_id|status|user\n{row}\n", CALL, NEW_YORK
    )
    assert (found.call.talk_seconds, found.call.status, found.call.phone_number) == (120, "SALE", None)
    unreadable(row)


def test_nine_and_two_columns_are_known_without_a_header_too() -> None:
    assert read_call(ROW, CALL, NEW_YORK) == read_call(f"{HEADER}\n{ROW}\n", CALL, NEW_YORK)
    found = read_call(f"{CALL}|120\n", CALL, NEW_YORK)
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
    assert read_call(ROW.replace("|120|", f"|{talk}|"), CALL, None).call.talk_seconds == seconds


@pytest.mark.parametrize("talk", ["1.5", "two", "1e9", "9999999999", "--1", "NULL"])
def test_a_talk_time_that_is_no_number_is_an_error(talk: str) -> None:
    assert "talk time" in unreadable(ROW.replace("|120|", f"|{talk}|"))


@pytest.mark.parametrize("date", ["0000-00-00 00:00:00", "0000-00-00", ""])
def test_a_date_of_zeros_is_not_known(date: str) -> None:
    assert read_call(ROW.replace("2026-11-20 14:05:09", date), CALL, NEW_YORK).call.started_at is None


@pytest.mark.parametrize(
    "date", ["2026-02-30 10:00:00", "yesterday", "2026-11-20 14:05:09+01:00", "1795269909"]
)
def test_a_date_that_cannot_be_read_is_an_error(date: str) -> None:
    assert "time" in unreadable(ROW.replace("2026-11-20 14:05:09", date))


def test_without_a_zone_no_time_is_known() -> None:
    assert read_call(ROW, CALL, None).call.started_at is None


def test_a_time_has_the_offset_of_its_own_day() -> None:
    summer = read_call(ROW.replace("2026-11-20", "2026-07-20"), CALL, NEW_YORK).call.started_at
    assert summer is not None
    assert summer.isoformat() == "2026-07-20T14:05:09-04:00"


@pytest.mark.parametrize("user", ["VDAD", "VDCL", ""])
def test_nobody_is_no_agent(user: str) -> None:
    assert read_call(ROW.replace("|1000", f"|{user}"), CALL, None).call.agent_user is None


@pytest.mark.parametrize("status", ["QUEUE", "INCALL", "DISPO", "XFER", ""])
def test_a_status_that_passes_is_not_final(status: str) -> None:
    assert not read_call(ROW.replace("SALE|", f"{status}|"), CALL, None).final


def test_an_unknown_call_type_is_a_shifted_record() -> None:
    assert "call type" in unreadable(ROW.replace("OUTBOUND_AUTO", "3125551212"))
    assert read_call(ROW.replace("OUTBOUND_AUTO", "OUTBOUND_NEW"), CALL, None).call.direction == "outbound"


def test_the_row_is_found_amid_the_warnings_of_php() -> None:
    noise = find("display_errors_on", "agent_campaigns_ok").body
    at = noise.index("1000|")
    body = f"{noise[:at]}{HEADER}\r\n<br />\n<b>Warning</b>: x\n{ROW}\r\n{noise[at + 100 :]}"
    assert read_call(body, CALL, NEW_YORK) == read_call(ROW, CALL, NEW_YORK)


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
    assert read_call(f"{ROW}\n{ROW}\n", CALL, None) == read_call(ROW, CALL, None)
    assert "several" in unreadable(f"{ROW}\n{ROW.replace('SALE|', 'NI|')}")


def test_a_database_of_latin_1_is_read() -> None:
    row = ROW.replace("|SALE|1000", "|ÄÖ|josé").encode("latin-1")
    call = read_call(_text(row), CALL, None).call
    assert (call.status, call.agent_user) == ("ÄÖ", "josé")
    assert read_call(_text(ROW.replace("|1000", "|山田").encode()), CALL, None).call.agent_user == "山田"


# --- callid_info, the tutorials' dialect

SEPARATORS = ["|", ",", "\t", " | ", ", "]


@pytest.mark.parametrize("separator", SEPARATORS)
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_the_tutorials_call_is_read(separator: str, end: str) -> None:
    found = read_call(separator.join(TUTORIAL_CALL) + end, TUTORIAL_CALL[0], NEW_YORK)
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
    found = read_call(separator.join([*TUTORIAL_CALL[:7], *last]), TUTORIAL_CALL[0], NEW_YORK)
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
    return read_call("|".join(values), TUTORIAL_CALL[0], NEW_YORK)


def test_what_the_tutorials_call_leaves_open_is_not_known() -> None:
    assert tutorial(3, "Inbound").call.direction == "inbound"
    assert tutorial(4, "").call.agent_user is None
    assert tutorial(5, "").call.phone_number is None
    for zeros in ("", "0000-00-00 00:00:00"):
        assert (tutorial(2, zeros).call.ended_at, tutorial(2, zeros).call.duration_seconds) == (None, None)
    assert tutorial(2, "2024-02-15 10:14:00").call.duration_seconds is None
    assert not tutorial(6, "INCALL").final
    unknown = read_call("|".join(TUTORIAL_CALL), TUTORIAL_CALL[0], None).call
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
    """Give each way in which the tutorials' pairs may stand."""
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


def test_one_pair_is_told_from_two_lists_by_its_name() -> None:
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


# --- version


@pytest.mark.parametrize(
    ("date", "epoch", "hours"),
    [
        ("2026-11-22 02:09:58", 1795331398, -5),
        ("2026-11-22 02:09:58", 1795313398, 0),
        ("2026-11-22 02:09:58", 1795313399, 0),
        ("2026-11-22 02:09:58", 1795293598, 5.5),
        ("2026-11-22 02:09:58", 1795113398, None),
        ("2026-02-30 02:09:58", 1795313398, None),
        ("٢026-11-22 02:09:58", 1795313398, None),
        ("soon", 1795313398, None),
    ],
)
def test_the_offset_is_the_date_less_the_epoch(date: str, epoch: int, hours: float | None) -> None:
    body = (
        f"VERSION: 2.14-202|BUILD: 250720-1841|DATE: {date}|EPOCH: {epoch}|DST: 0|TZ: -5.00|TZNOW: -5.00|\n"
    )
    assert read_offset(body) == (None if hours is None else timedelta(hours=hours))


def test_a_dialer_without_version_tells_no_offset() -> None:
    assert read_offset("ERROR: NO FUNCTION SPECIFIED\n") is None


@pytest.mark.parametrize("line", ["1|{0}|x", "1|{0}", "{0}", "1|C{0}|A name|"])
@pytest.mark.parametrize("before", ["", "1|C|A name\n"])
def test_the_time_for_an_answer_grows_with_its_size_and_no_faster(line: str, before: str) -> None:
    text = "\n".join(line.format(number) for number in range(256 * 1024 // len(line.format(99999))))
    started = time.monotonic()
    for read_it in (lambda: read_agent(before + text, "1"), lambda: read_call(before + text, "1", None)):
        with suppress(ProcessingError):
            read_it()
    assert time.monotonic() - started < 5


# --- properties

ids = st.text(string.ascii_letters + string.digits, min_size=1, max_size=20)
names = st.text(string.ascii_letters + string.digits + "_", min_size=1, max_size=8)
texts = st.text(st.characters(exclude_characters="|,\t\r\n", exclude_categories=["Cs"]), max_size=20).map(
    str.strip
)
times = st.none() | st.datetimes().map(lambda at: at.replace(microsecond=0))
zones = st.sampled_from([None, NEW_YORK, ZoneInfo("Asia/Kolkata"), timezone(timedelta(hours=-5))])
marks = st.sampled_from("|,\t")
warnings = st.lists(st.sampled_from(["<br />", "<b>Warning</b>: a|b,c", "", "DEBUG: SELECT 1;"]), max_size=3)


@st.composite
def calls(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "call_id": draw(ids),
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
    return None if at is None or zone is None else at.replace(tzinfo=zone)


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
    found = read_call(a_body(noise, by_name), call["call_id"], zone)
    assert found == read_call(a_body(noise, [in_order]), call["call_id"], zone)
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
    found = read_call(
        mark.join(values + ([] if recording is None else [recording])), call["call_id"], zone
    ).call
    seconds = None if start is None or end is None else int((end - start).total_seconds())
    assert (found.started_at, found.ended_at) == (zoned(start, zone), zoned(end, zone))
    assert found.duration_seconds == (seconds if seconds is not None and seconds >= 0 else None)
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
bodies = st.binary(max_size=300).map(_text) | st.text(max_size=300) | fragments


@settings(PROPERTY, max_examples=1000)
@given(body=bodies, zone=zones)
def test_whatever_comes_is_a_record_or_a_named_error(body: str, zone: tzinfo | None) -> None:
    for call_id in (CALL, TUTORIAL_CALL[0]):
        try:
            assert read_call(f"{call_id}|{body}", call_id, zone).call.call_id == call_id
            assert read_call(body, call_id, zone).call.call_id == call_id
        except ProcessingError:
            pass
    for user in ("1000", "agent001", "user"):
        try:
            assert read_agent(f"{user}|{body}", user).agent.agent_user == user
            assert read_agent(body, user).agent.agent_user == user
        except ProcessingError:
            pass
    offset = read_offset(f"DATE: {body[:19]}|EPOCH: {body[-10:]}|")
    assert offset is None or abs(offset) < timedelta(days=1)


def test_not_found_carries_nothing() -> None:
    with pytest.raises(NotReady) as caught:
        read_call("ERROR: callid_info CALL NOT FOUND: 6666|\n", CALL, None)
    assert caught.value.enrichment is None
