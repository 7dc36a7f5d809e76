"""What dialers, their databases and the servers before them answer, beside what VICIdial's document says."""

import time
from zoneinfo import ZoneInfo

import pytest

from worker.core.errors import EnrichmentUnavailable, FailureKind, LoginRefused, NotReady, ProcessingError
from worker.core.payload import CallEnrichment
from worker.vicidial.answers import explain, text_of
from worker.vicidial.calls import read_call
from worker.vicidial.clock import DialerTimes

CALL = "V1201405090000012345"
HEADER = "call_id|custtime|call_date|phone|call_type|campaign_id|list_id|status|user"
ROW = f"{CALL}|120|2026-11-20 14:07:14|3125551212|OUTBOUND_AUTO|SALES1|1001|SALE|1000"
NOT_FINAL = frozenset({"QUEUE", "INCALL", "DISPO", ""})
TIMES = DialerTimes(ZoneInfo("America/New_York"))
MEBIBYTE = 1024 * 1024


def read(body: str) -> CallEnrichment:
    return read_call(text_of(body.encode()), CALL, TIMES, NOT_FINAL)


def failure(body: str) -> ProcessingError:
    with pytest.raises(ProcessingError) as caught:
        read(body)
    return caught.value


@pytest.mark.parametrize(
    "body",
    [
        f"{HEADER}<br>\n{ROW}<br>\n",
        f"<pre>{HEADER}\n{ROW}</pre>\n",
        f"{HEADER}\n{ROW}<br />\n<b>Warning</b>:  x in <b>/x.php</b> on line <b>9</b><br />\n",
        f"<html><body>{HEADER}\n{ROW}</body></html>",
        f"{HEADER}\n{ROW.replace('|', ' |')} \n",
    ],
)
def test_html_and_blanks_around_a_row_are_in_none_of_its_fields(body: str) -> None:
    assert read(body) == read(f"{HEADER}\n{ROW}\n")


@pytest.mark.parametrize("status", [" ", "DISPO ", " dispo"])
def test_blanks_make_no_status_final(status: str) -> None:
    assert not read(f"{HEADER}\n{ROW.replace('SALE|', f'{status}|')}\n").final


def test_the_names_of_a_tutorial_server_do_not_hide_its_row() -> None:
    row = f"{CALL},2026-11-20 14:05:09,2026-11-20 14:08:00,Outbound,agent001,9876543210,Answered,rec_1.wav"
    names = "call_id,start_time,end_time,direction,agent_user,phone_number,status,recording"
    assert read(f"{names}\n{row}\n") == read(row)
    assert read(row).call.duration_seconds == 171


@pytest.mark.parametrize(
    "said",
    [
        "mysqli connect ERROR: 2002",
        "mysql connect error: Connection refused",
        "ERROR: mysqli_connect(): (HY000/2002): Connection refused",
        "ERROR: 1040 Too many connections",
        "ERROR 2006 (HY000): MySQL server has gone away",
        "Lost connection to MySQL server during query",
        "Can't connect to local MySQL server through socket '/run/mysqld/mysqld.sock' (2)",
        "Can't connect to server on '10.0.0.1' (115)",
        "Could not connect to the database",
        "SQLSTATE[HY000] [2002] No such file or directory",
        "Access denied for user 'cron'@'localhost' (using password: YES)",
        "Lock wait timeout exceeded; try restarting transaction",
        "Deadlock found when trying to get lock; try restarting transaction",
        "Table './asterisk/vicidial_users' is marked as crashed and should be repaired",
        "PHP Fatal error:  Uncaught mysqli_sql_exception: Too many connections in /x.php:9",
        "Service Temporarily Unavailable",
        "503 Service Unavailable",
        "HTTP/1.1 502 Bad Gateway",
        "upstream connect error or disconnect/reset before headers. reset reason: connection failure",
        "no healthy upstream",
        '{"message": "no route matched"}',
        '<?xml version="1.0"?><Error><Code>SlowDown</Code></Error>',
    ],
)
def test_a_database_or_server_that_can_not_work_is_an_outage(said: str) -> None:
    for body in (said, f"{said}\n", f"\ufeff\n{said}", f"<br />\n<b>Warning</b>:  x<br />\n{said}"):
        error = failure(body)
        assert isinstance(error, EnrichmentUnavailable)
        assert error.kind is FailureKind.OUTAGE
    assert read(f"{said}\n{HEADER}\n{ROW}").call.status == "SALE"


@pytest.mark.parametrize(
    "said", ["what?", "ERROR: callid_info SOMETHING NEW: |Too many connections|", "x|mysqli_connect|x"]
)
def test_what_is_neither_that_nor_an_answer_is_unreadable(said: str) -> None:
    error = failure(said)
    assert isinstance(error, EnrichmentUnavailable)
    assert error.kind is FailureKind.UNREADABLE


@pytest.mark.parametrize(
    "said",
    [
        "error: Login incorrect, please try again: |6666|x|BAD|",
        "Error : Login incorrect",
        "NOTICE: Login incorrect",
        '{"error": "Login incorrect, please try again"}',
        "<p class='x'>ERROR - Too many login attempts, try again in 15 minutes</p>",
        "403: INVALID USERNAME/PASSWORD",
    ],
)
def test_a_refused_login_is_one_however_it_is_introduced(said: str) -> None:
    assert isinstance(failure(said), LoginRefused)


@pytest.mark.parametrize("said", ["error: callid_info call not found: 6666|", "ERROR : CALL NOT FOUND"])
def test_an_error_of_the_dialer_is_one_in_small_letters_too(said: str) -> None:
    assert isinstance(failure(said), NotReady)


@pytest.mark.parametrize(
    "piece", ["<a>\n", "<>", "<a> ", "1 ", "error ", "ERROR: x\n", "x ERROR: ", "x<br>\n"]
)
def test_a_long_answer_without_a_row_costs_little_time(piece: str) -> None:
    text = (piece * MEBIBYTE)[:MEBIBYTE] + "login!"
    started = time.process_time()
    explain(text, "callid_info")
    assert time.process_time() - started < 5
