"""Each answer of each function means the same with and without something of no meaning before it."""

from collections.abc import Callable
from typing import Any

import pytest

from simulators.recordings import find
from tests.adapters.dialer_client import CALL, ROW
from tests.adapters.test_answer_text import BEFORE
from worker.core.errors import (
    EnrichmentRejected,
    EnrichmentUnavailable,
    FunctionRefused,
    LoginRefused,
    NotReady,
    ProcessingError,
)
from worker.vicidial.agents import read_agent, read_campaigns, read_user_details
from worker.vicidial.answers import text_of
from worker.vicidial.calls import read_call, read_recordings
from worker.vicidial.clock import DialerTimes, read_version

READ: dict[str, Callable[[str], object]] = {
    "callid_info": lambda body: read_call(body, CALL, DialerTimes(None), frozenset()),
    "agent_campaigns": lambda body: read_agent(body, "1001"),
    "recording_lookup": lambda body: read_recordings(body, DialerTimes(None)),
    "campaigns_list": read_campaigns,
    "user_details": lambda body: read_user_details(body, "1000"),
}
LOGIN = "ERROR: Login incorrect, please try again: |6666|x|BAD|\n"
CALL_HEADER = "call_id|custtime|call_date|phone|call_type|campaign_id|list_id|status|user\n"
CAMPAIGNS = find("campaigns_list", "campaigns_list_pipe_header-YES").body
DETAILS = "user|full_name|user_group|user_level|active\n1000|ERROR: Login incorrect|SALES|1|Y\n"
RECORDINGS = (
    "start_time|user|recording_id|lead_id|location\n2026-11-20 14:05:15|1000|1|12345|120|http://d/a.mp3\n"
)
AGENT = find("agent_campaigns", "agent_1001_ignore-Y").body

OF_EACH = (
    LOGIN,
    "ERROR: Too many login attempts, try again in 15 minutes: |lockme|LOCK|\n",
    "ERROR: Your IP Address is not allowed: 127.0.0.1: |||IPBLOCK|\n",
    "ERROR: Invalid Source - x\nERROR: Invalid Source: |x|\n",
    "ERROR: auth USER DOES NOT HAVE PERMISSION TO USE THIS FUNCTION: |limited|x|\n",
    "ERROR: NO FUNCTION SPECIFIED\n",
    "ERROR: INVALID USERNAME OR PASSWORD",
    "ERROR: something new: |6666|x|\n",
    "MySQL connect ERROR: 2002",
    "<html><head><title>502 Bad Gateway</title></head></html>",
    "Fatal error: Uncaught mysqli_sql_exception: Connection refused in x.php:71",
    "garbage\n",
    "",
)
ANSWERS: list[tuple[str, str]] = [
    *((function, body) for function in READ for body in OF_EACH),
    ("callid_info", CALL_HEADER + ROW),
    ("callid_info", ROW),
    ("callid_info", f"{CALL}, 2024-02-15 10:15:00, 2024-02-15 10:18:30, Outbound, a, 98, Answered, r.wav"),
    ("callid_info", "ERROR: callid_info CALL NOT FOUND: 6666|\n"),
    ("callid_info", "ERROR: callid_info CALL LOG NOT FOUND: 6666|\n"),
    ("callid_info", "ERROR: CALL ID NOT FOUND"),
    ("callid_info", "ERROR: callid_info INVALID SEARCH PARAMETERS: 6666|1000012345\n"),
    ("callid_info", "ERROR: callid_info USER DOES NOT HAVE PERMISSION TO GET CALL INFO: |noapi|0|\n"),
    ("agent_campaigns", AGENT),
    ("agent_campaigns", AGENT.partition("\n")[2]),
    ("agent_campaigns", "1001|Campaign1|Outbound Sales|Campaign2|Inbound Support\n"),
    ("agent_campaigns", "1001|C1|Outbound Sales\nC2|Inbound Support\n"),
    ("agent_campaigns", "ERROR: agent_campaigns THIS AGENT USER HAS NO AVAILABLE CAMPAIGNS: 1001|6666|\n"),
    ("agent_campaigns", "ERROR: agent_campaigns AGENT USER DOES NOT EXIST: |6666|1001\n"),
    ("agent_campaigns", "ERROR: AGENT NOT FOUND\n"),
    ("recording_lookup", RECORDINGS),
    ("recording_lookup", "ERROR: recording_lookup NO RECORDINGS FOUND - 6666|1000||2026-11-20|\n"),
    ("recording_lookup", "ERROR: recording_lookup INVALID SEARCH PARAMETERS: 6666||||1.1\n"),
    ("campaigns_list", CAMPAIGNS),
    ("campaigns_list", CAMPAIGNS.partition("\n")[2]),
    ("campaigns_list", "ERROR: campaigns_list THIS USER HAS NO VIEWABLE CAMPAIGNS: 6666|\n"),
    ("user_details", DETAILS),
    ("user_details", DETAILS.partition("\n")[2]),
    ("user_details", "ERROR: user_details USER NOT FOUND: 6666|1000\n"),
]
NOISE = b"<br />\n<b>Warning</b>:  Undefined variable $x in <b>/srv/d.php</b> on line <b>1</b><br />\n"
PLAIN_NOISE = b"\nWarning: Undefined variable $x in /srv/d.php on line 1\n"


def meaning(function: str, text: str) -> object:
    """Return what is read, or the class and the text of what is raised."""
    try:
        return READ[function](text)
    except ProcessingError as error:
        return type(error), getattr(error, "kind", None), str(error)


def test_the_samples_have_every_meaning() -> None:
    meanings: list[Any] = [meaning(*answer) for answer in ANSWERS]
    raised = {found[0] for found in meanings if isinstance(found, tuple)}
    assert raised == {EnrichmentRejected, EnrichmentUnavailable, FunctionRefused, LoginRefused, NotReady}
    assert sum(not isinstance(found, tuple) for found in meanings) == 16


@pytest.mark.parametrize("before", BEFORE)
def test_what_nobody_sees_before_an_answer_does_not_change_its_meaning(before: str) -> None:
    for function, body in ANSWERS:
        assert meaning(function, text_of(BEFORE[before] + body.encode())) == meaning(function, body), body


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32-be"])
def test_nor_does_an_encoding_of_two_or_four_bytes(encoding: str) -> None:
    for function, body in ANSWERS:
        assert meaning(function, text_of(body.encode(encoding))) == meaning(function, body), body


@pytest.mark.parametrize(
    "between", [b"", b"\xef\xbb\xbf", b"\n\n", b"\x00", b"<br />", b"<p> </p>\xef\xbb\xbf"]
)
@pytest.mark.parametrize("noise", [NOISE, PLAIN_NOISE, b"\xef\xbb\xbf" + NOISE, NOISE * 200])
def test_nor_do_warnings_of_php(noise: bytes, between: bytes) -> None:
    for function, body in ANSWERS:
        expected = meaning(function, body)
        page_of_html = b"<p>" in between and body.startswith("ERROR: something new")
        if page_of_html or body in ("", "garbage\n") or body.startswith("Fatal error"):
            continue  # what is left is HTML
        assert meaning(function, text_of(noise + between + body.encode())) == expected, body


@pytest.mark.parametrize("before", ["; ", "1", "?> ", "Notice: x ", "<?xml version='1.0'?>"])
@pytest.mark.parametrize("function", READ)
def test_a_refused_login_is_seen_behind_anything_that_is_no_field(function: str, before: str) -> None:
    assert meaning(function, before + LOGIN) == meaning(function, LOGIN)
    assert meaning(function, f"ERROR: x\n{before}{LOGIN}") == meaning(function, LOGIN)
    assert meaning(function, LOGIN.removeprefix("ERROR: ")) == meaning(function, LOGIN)


@pytest.mark.parametrize(
    ("function", "body"),
    [
        ("callid_info", f"V9{CALL[2:]}|60|2026-11-20 14:05:09|ERROR: Login incorrect|x\n"),
        ("agent_campaigns", "1002|ERROR: Login incorrect, please|IN\n"),
        ("user_details", "1001|ERROR: Login incorrect|SALES|1|Y\n"),
        ("user_details", "1001\tERROR: Login incorrect\tSALES\t1\tY\n"),
        ("recording_lookup", "x|ERROR: Login incorrect|1\n"),
    ],
)
def test_a_field_of_a_row_is_no_error_of_the_dialer(function: str, body: str) -> None:
    found: Any = meaning(function, body)
    assert found[:2] == (EnrichmentUnavailable, "unreadable")


def test_a_name_that_reads_like_an_error_is_a_name() -> None:
    assert read_user_details(DETAILS, "1000").full_name == "ERROR: Login incorrect"  # type: ignore[union-attr]
    row = "C1|MySQL connect ERROR: Login incorrect|Y|G|RATIO|1|DOWN|NEW|60|9|9|9\n"
    assert read_campaigns(CAMPAIGNS + row)["C1"].name == "MySQL connect ERROR: Login incorrect"


VERSION = find("other", "version").body


@pytest.mark.parametrize("before", BEFORE)
def test_the_version_is_read_behind_anything(before: str) -> None:
    assert read_version(text_of(BEFORE[before] + VERSION.encode())) == read_version(VERSION)
    assert read_version(text_of(VERSION.encode("utf-16"))) == read_version(VERSION)
