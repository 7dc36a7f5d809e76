"""What each recorded answer of a real VICIdial means, written down from the answers and not by the parsers.

Each outcome stands above the groups and names of the exchanges that have it; `-` is what is not known.

- A call: whether it is final, talk seconds, time of day of its start (and end), phone, type, campaign,
  in-group, list, status and agent.
- `recordings`, each with id, agent, time of day, lead, seconds, and its address or file, by the file's name.
- `known` campaigns with their names; `details` of a user: full name, group, level.
- `version`: version, build, seconds since 1970, offset from UTC.
- The calls of `call_lifecycle` have ids of another time than their `call_date`. The start is the id's time
  (21:30:00 in M1202130000000012346), and `call_date` the end of the one that an agent ended.
- An error: its label and what its text has to say; `function_refused` if the login is good.
- `HTTP`: what a status other than 200 says is the client's to judge.
- `never asked`: answers of functions that the worker does not use, which every parser has to refuse.
"""

import re
from collections.abc import Callable
from urllib.parse import parse_qsl
from zoneinfo import ZoneInfo

from simulators.recordings import Exchange
from worker.core.errors import FunctionRefused, ProcessingError
from worker.core.payload import AgentEnrichment, CallEnrichment
from worker.vicidial.agents import UserDetails, read_agent, read_campaigns, read_user_details
from worker.vicidial.calls import FoundRecording, read_call, read_recordings
from worker.vicidial.clock import DialerTimes, Version, read_version

NEW_YORK = ZoneInfo("America/New_York")
NOT_FINAL = frozenset({"QUEUE", "INCALL", "DISPO", "DONEM", "XFER", ""})
CALL = "V1201405090000012345"

READERS: dict[str, Callable[[str, dict[str, str]], object]] = {
    "callid_info": lambda body, asked: read_call(
        body, asked.get("call_id", ""), DialerTimes(NEW_YORK), NOT_FINAL
    ),
    "agent_campaigns": lambda body, asked: read_agent(body, asked.get("agent_user", "")),
    "recording_lookup": lambda body, _: read_recordings(body, DialerTimes(NEW_YORK)),
    "campaigns_list": lambda body, _: read_campaigns(body),
    "user_details": lambda body, asked: read_user_details(body, asked.get("agent_user", "")),
    "version": lambda body, _: read_version(body),
}
"""The functions that the worker asks, and how each answer is read, given the parameters that were sent."""

NEVER_ASKED = frozenset({"agent_status", "coffee", "lead_callback_info", "lead_field_info"})
_LOCATION = "http://10.10.10.15/RECORDINGS/MP3/"

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
function_refused: USER DOES NOT HAVE PERMISSION: in Admin > Users, at the API user, \
give it User Level 8 or more, Agent API Access 1, View Reports 1, Modify Users 1, which agent_campaigns needs
    agent_campaigns_errors: level7 no_api_access no_view_reports
function_refused: USER DOES NOT HAVE PERMISSION: in Admin > Users, at the API user, \
give it User Level 7 or more, Agent API Access 1, View Reports 1, which callid_info needs
    callid_info_errors: no_view_reports
function_refused: add callid_info (or ALL_FUNCTIONS) to its API Allowed Functions
    callid_info_errors: function_not_allowed
function_refused: NO FUNCTION SPECIFIED
    callid_info_errors: function_upper unknown_function
dialer_refused: INVALID SOURCE
    agent_campaigns_errors: missing_source short_source
    callid_info_errors: missing_source short_source
dialer_refused: LOGIN INCORRECT
    agent_campaigns_errors: wrong_password
    apache_mod_php: no_such_file wrong_password
    callid_info: post_json_not_read put_method
    callid_info_errors: level6 nothing_at_all post_unknown_user user_array wrong_password_special_chars
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
    callid_info_errors: call_id_len18 call_id_sql_injection invalid_utf8_call_id
not final; 0; 21:30:00; 3125551213; OUTBOUND_MANUAL; SALES1; -; 1001; INCALL; 1000
    call_lifecycle: 3_talking
not final; 60; 21:30:00; 3125551213; OUTBOUND_MANUAL; SALES1; -; 1001; DISPO; 1000
    call_lifecycle: 4_hung_up_disposition_screen
final; 60; 21:30:00-22:13:00; 3125551213; OUTBOUND_MANUAL; SALES1; -; 1001; SALE; 1000
    call_lifecycle: 5_dispositioned
not final; 0; 21:40:00; 3125551213; OUTBOUND_AUTO; SALES1; -; 1001; INCALL; 1000
    call_lifecycle: xfer_1_V_before_transfer
not final; 0; 21:41:00; 3125551213; INBOUND; -; SUPPORTLINE; 1001; QUEUE; -
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
    callid_info_errors: function_junk right_password_with_junk_chars source_long user_case_insensitive
    db_down: users_table_long_select_3s users_table_read_locked_5s
    lockout: last_ok_20min_ago_right_after_11_wrong never_logged_in_count10_again
        right_password_16_min_after_last_login_date right_password_after_15_min
        right_password_after_9_wrong
    login_other: DB_1_debug_off DB_1_debug_on
final; 10; 14:07:01; +44 20 7946,0000; OUTBOUND_MANUAL; SALES1; -; 1001; SALE; 1000
    callid_info: odd_comma_plus_phone odd_comma_plus_phone_tab
dialer_unreadable: 10 columns, but 9
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
    apache_mod_php: call_id_array_500
    callid_info: odd_null_lead_in_extended odd_null_lead_in_extended_csv odd_quote_in_user
        odd_quote_in_user_csv odd_quote_in_user_tab
    db_down: apache_agent_campaigns apache_callid_info apache_version php_s_agent_campaigns
        php_s_callid_info php_s_version
final; 10; 14:07:11; 3125551212; OUTBOUND_MANUAL; SALES1; -; -; SALE; 1000
    callid_info: odd_null_list_id odd_null_list_id_csv
dialer_unreadable: 11 columns, but 9
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
HTTP 418
    other: coffee_418
version 2.14-202; 250720-1841; 1795313398; +0:00:00
    other: version version_post version_with_credentials version_wrong_password
version 2.14-202; 250720-1841; 1795313493; +0:00:00
    lockout: version_while_locked
version -; -; -; -
    db_down: mysqli_report_off_version
known SALES1=Sales one; RENEW_24=Renewals 2024; CLOSED1=Closed (inactive); SUPP-1=Support with dash; \
OUTONLY=Outbound only; OUTEMPTY=Outbound only empty closer; ADCAMP=Agentdirect only; 7=One char
    campaigns_list: campaigns_list_pipe_header-YES campaigns_list_pipe_header-NO
        campaigns_list_csv_header-YES campaigns_list_csv_header-NO campaigns_list_tab_header-YES
        campaigns_list_tab_header-NO campaigns_list_as_api8nomod
known SUPP-1=Support with dash
    campaigns_list: campaigns_list_one
known SALES1=Sales one
    campaigns_list: campaigns_list_as_limadm
known
    campaigns_list: campaigns_list_unknown
function_refused: give it User Level 8 or more, Agent API Access 1, View Reports 1, which campaigns_list needs
    campaigns_list: campaigns_list_as_api7 campaigns_list_as_noapi
function_refused: add campaigns_list (or ALL_FUNCTIONS) to its API Allowed Functions
    campaigns_list: campaigns_list_as_limited campaigns_list_as_api8
details Agent Thousand; SALES; 1
    other: user_details user_details_no_header
details Agent One; SUPPORT; 1
    secondary: user_details_as_api7 user_details_as_api8nomod
details -
    secondary: user_details_as_limadm
function_refused: give it User Level 7 or more, Agent API Access 1, View Reports 1, which user_details needs
    secondary: user_details_as_noapi
function_refused: add user_details (or ALL_FUNCTIONS) to its API Allowed Functions
    secondary: user_details_as_limited user_details_as_api8
recordings 1 1000 14:05:15 12345 120 url=20261120-140515_3125551212-all.mp3; \
3 1000 14:05:16 12345 60 file=20261120-140516_3125551212-all.wav; \
2 1000 14:07:15 12345 20 url=20261120-140715_3125551212-all.mp3
    other: recording_lookup_agent_date
recordings 1 1000 14:05:15 12345 120 url=20261120-140515_3125551212-all.mp3; \
3 1000 14:05:16 12345 60 file=20261120-140516_3125551212-all.wav; \
4 1001 14:05:20 12345 0 -; \
2 1000 14:07:15 12345 20 url=20261120-140715_3125551212-all.mp3
    other: recording_lookup_lead_id
recordings 1 1000 14:05:15 12345 120 url=20261120-140515_3125551212-all.mp3; \
2 1000 14:07:15 12345 20 url=20261120-140715_3125551212-all.mp3
    other: recording_lookup_no_header recording_lookup_uniqueid_duration
recordings 5 1000 14:05:15 12345 - url=20261120-140515_3125551212-all.mp3; \
6 1000 14:07:15 12345 - url=20261120-140715_3125551212-all.mp3
    other: recording_lookup_same_second_prefix
    secondary: recording_lookup_as_api7 recording_lookup_as_api8nomod recording_lookup_as_limadm
recordings
    other: recording_lookup_call_without_recording recording_lookup_not_found_lead
rejected_by_dialer: it has no call log with this uniqueid
    other: recording_lookup_agent_without_date recording_lookup_bad_uniqueid recording_lookup_not_found
function_refused: give it User Level 7 or more, Agent API Access 1, View Reports 1, \
which recording_lookup needs
    secondary: recording_lookup_as_noapi
function_refused: add recording_lookup (or ALL_FUNCTIONS) to its API Allowed Functions
    secondary: recording_lookup_as_limited recording_lookup_as_api8
never asked: dialer_unreadable
    login_other: server_charset_latin1_lead_field
    other: agent_status_not_logged_in lead_callback_info lead_field_info_cjk_city
        lead_field_info_comments lead_field_info_first_name lead_field_info_last_name
        lead_field_info_status lead_field_info_vendor_lead_code
"""


def outcomes() -> dict[str, str]:
    """Return the outcome of each exchange by `group/name`, as the table has it."""
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


def name_of(exchange: Exchange) -> str:
    """Return `group/name`."""
    return f"{exchange.group}/{exchange.name}"


def parameters(exchange: Exchange) -> dict[str, str]:
    """Return what was asked, also if it stands in the request line alone."""
    return dict(exchange.query) or dict(parse_qsl(exchange.raw_query or ""))


def function_of(exchange: Exchange) -> str:
    """Return the function asked as the dialer takes it; one that it can't know counts as `callid_info`."""
    name = re.sub("[^-_0-9a-zA-Z]", "", parameters(exchange).get("function", ""))
    return name if name in READERS or name in NEVER_ASKED else "callid_info"


def read(exchange: Exchange, body: str | None = None) -> object:
    """Read an exchange's answer, or another body as if it were that."""
    body = exchange.body if body is None else body
    return READERS[function_of(exchange)](body, parameters(exchange))


def outcome(exchange: Exchange) -> str:
    """Return what reading an exchange's answer gives, as the table does; of an error label and whole text."""
    if exchange.status != 200:
        return f"HTTP {exchange.status}"
    if function_of(exchange) in NEVER_ASKED:
        assert read_version(exchange.body) == Version(None, None, None, None)
        asked = {"call_id": CALL, "agent_user": "1000"}
        readers = (reader for function, reader in READERS.items() if function != "version")
        labels = {_label(reader, exchange.body, asked) for reader in readers}
        return f"never asked: {', '.join(labels)}"
    try:
        return facts(read(exchange))
    except ProcessingError as error:
        label = "function_refused" if isinstance(error, FunctionRefused) else error.label
        return f"{label}: {error}"


def facts(found: object) -> str:
    """Write an answer as the table does."""
    words: tuple[str, ...]
    match found:
        case CallEnrichment():
            words = (_call(found),)
        case AgentEnrichment(agent=agent):
            campaigns = ",".join(each.campaign_id for each in agent.campaigns)
            ambiguous = "; ambiguous" if agent.campaigns_ambiguous else ""
            words = (f"campaigns={campaigns}; in_groups={','.join(agent.in_groups)}{ambiguous}",)
        case list():
            words = ("recordings", "; ".join(map(_recording, found)))
        case dict():
            named = (
                f"{key}={each.name}{'' if each.active else ' (inactive)'}" for key, each in found.items()
            )
            words = ("known", "; ".join(named))
        case Version(version=version, build=build, epoch=epoch, offset=offset):
            hours = None if offset is None else ("-" if offset.days < 0 else "+") + str(abs(offset))
            words = ("version", _shown(version, build, epoch, hours))
        case UserDetails(full_name=full_name, user_group=group, user_level=level):
            words = ("details", _shown(full_name, group, level))
        case _:
            words = ("details", _shown(found))
    return " ".join(words).strip()


def _label(reader: Callable[[str, dict[str, str]], object], body: str, asked: dict[str, str]) -> str:
    try:
        return f"an answer: {reader(body, asked)}"
    except ProcessingError as error:
        return error.label


def _call(found: CallEnrichment) -> str:
    call = found.call
    final = "final" if found.final else "not final"
    if call.call_type is None:
        return f"{final}; {call.talk_seconds}"
    assert call.started_at is not None
    assert call.started_at.isoformat().startswith("2026-11-20T")
    assert call.started_at.isoformat().endswith("-05:00")
    assert call.direction == ("inbound" if call.call_type == "INBOUND" else "outbound")
    times = f"{call.started_at:%H:%M:%S}"
    if call.ended_at is not None:
        assert call.duration_seconds == (call.ended_at - call.started_at).total_seconds()
        times += f"-{call.ended_at:%H:%M:%S}"
    values = [call.talk_seconds, times, call.phone_number, call.call_type]
    values += [call.campaign_id, call.in_group_id, call.list_id, call.status, call.agent_user]
    return f"{final}; {_shown(*values)}"


def _recording(found: FoundRecording) -> str:
    recording = found.recording
    assert recording.started_at is not None
    assert recording.started_at.isoformat().startswith("2026-11-20T")
    assert recording.started_at.isoformat().endswith("-05:00")
    place = "-"
    if recording.file_name is not None:
        place = f"{'file' if recording.url is None else 'url'}={recording.file_name}"
        assert recording.url in (None, _LOCATION + recording.file_name)
    seconds = "-" if recording.duration_seconds is None else recording.duration_seconds
    when = f"{recording.started_at:%H:%M:%S}"
    return f"{recording.recording_id} {found.agent_user} {when} {found.lead_id} {seconds} {place}"


def _shown(*values: object) -> str:
    return "; ".join("-" if value is None else str(value) for value in values)
