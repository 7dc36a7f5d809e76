"""Reading recordings, campaigns' names and users' details: the table of what was recorded has them too."""

import string
import time
from contextlib import suppress
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulators.recordings import find
from tests.adapters.recorded import NEW_YORK
from worker.core.errors import (
    EnrichmentRejected,
    EnrichmentUnavailable,
    FailureKind,
    FunctionRefused,
    ProcessingError,
)
from worker.core.payload import Recording
from worker.vicidial.agents import KnownCampaign, UserDetails, read_campaigns, read_user_details
from worker.vicidial.calls import FoundRecording, read_recordings
from worker.vicidial.clock import DialerTimes

HEADER = "start_time|user|recording_id|lead_id|location"
URL = "http://10.10.10.15/RECORDINGS/MP3/20261120-140515_3125551212-all.mp3"
ROW = f"2026-11-20 14:05:15|1000|1|12345|120|{URL}"
TIMES = DialerTimes(NEW_YORK)
CAMPAIGN_HEADER = (
    "campaign_id|campaign_name|active|user_group|dial_method|dial_level|lead_order|dial_statuses"
)
REST = "---ALL---|RATIO|0||NEW"
DETAILS_HEADER = "user|full_name|user_group|user_level|active"
DETAILS = UserDetails("Agent Thousand", "SALES", 1)
MARKS = ["|", ",", "\t"]
PROPERTY = settings(max_examples=200)
NOISE = find("display_errors_on", "agent_campaigns_ok").body.partition("1000|")[0]


def recordings(body: str, zone: tzinfo | None = NEW_YORK) -> list[FoundRecording]:
    return read_recordings(body, DialerTimes(zone))


def unreadable(body: str, function: str) -> str:
    readers: dict[str, Any] = {
        "recordings": recordings,
        "campaigns": read_campaigns,
        "details": lambda body: read_user_details(body, "1000"),
    }
    with pytest.raises(EnrichmentUnavailable) as caught:
        readers[function](body)
    assert caught.value.kind is FailureKind.UNREADABLE
    return str(caught.value)


# --- recording_lookup


def test_a_recording_is_read_with_the_length_that_the_header_does_not_show() -> None:
    (found,) = recordings(f"{HEADER}\n{ROW}\n")
    assert (found.agent_user, found.lead_id) == ("1000", "12345")
    assert found.recording.model_dump(mode="json") == {
        "recording_id": "1",
        "file_name": "20261120-140515_3125551212-all.mp3",
        "url": URL,
        "started_at": "2026-11-20T14:05:15-05:00",
        "duration_seconds": 120,
    }


@pytest.mark.parametrize("mark", MARKS)
def test_six_and_five_columns_are_known_without_a_header_too(mark: str) -> None:
    six = ROW.replace("|", mark)
    five = six.replace(f"{mark}120{mark}", mark)
    header = HEADER.replace("|", mark)
    assert recordings(six) == recordings(f"{header}\n{six}") == recordings(f"{HEADER}\n{ROW}")
    assert recordings(five) == recordings(f"{header}\n{five}")
    assert recordings(five)[0].recording.duration_seconds is None


@pytest.mark.parametrize("length", ["length_in_sec", "duration"])
def test_recordings_are_read_by_name(length: str) -> None:
    header = f"start_time|location|{length}|user"
    (found,) = recordings(f"{header}\n2026-11-20 14:05:15|/tmp/a.wav|7|1000\n")
    assert (found.agent_user, found.lead_id) == ("1000", None)
    assert found.recording.model_dump(mode="json", exclude_none=True) == {
        "file_name": "a.wav",
        "started_at": "2026-11-20T14:05:15-05:00",
        "duration_seconds": 7,
    }


@pytest.mark.parametrize(
    ("location", "url", "file_name"),
    [
        ("", None, None),
        ("NULL", None, None),
        (URL, URL, URL.rpartition("/")[2]),
        ("HTTPS://x/a/b.mp3?key=/1", "HTTPS://x/a/b.mp3?key=/1", "b.mp3"),
        ("https://x/?id=1", "https://x/?id=1", None),
        ("https://x", "https://x", None),
        ("http://[x/a.mp3", "http://[x/a.mp3", "a.mp3"),
        ("/var/spool/asterisk/monitorDONE/a.wav", None, "a.wav"),
        ("/var/spool/", None, None),
        ("a.wav", None, "a.wav"),
        ("ftp://x/a.wav", None, "a.wav"),
    ],
)
def test_a_location_is_an_address_or_a_path(location: str, url: str | None, file_name: str | None) -> None:
    (found,) = recordings(ROW.replace(URL, location))
    assert (found.recording.url, found.recording.file_name) == (url, file_name)


@pytest.mark.parametrize(
    ("old", "new", "known"),
    [
        ("|120|", "||", {"duration_seconds": None}),
        ("|120|", "|-5|", {"duration_seconds": None}),
        ("|120|", "|0|", {"duration_seconds": 0}),
        ("2026-11-20 14:05:15", "0000-00-00 00:00:00", {"started_at": None}),
        ("|1|", "||", {"recording_id": None}),
    ],
)
def test_what_a_recording_leaves_open_is_not_known(old: str, new: str, known: dict[str, object]) -> None:
    (found,) = recordings(ROW.replace(old, new))
    assert found.recording.model_dump(include=set(known)) == known


@pytest.mark.parametrize("lead", ["", "0", "NULL"])
def test_no_lead_is_not_known(lead: str) -> None:
    assert recordings(ROW.replace("12345|", f"{lead}|"))[0].lead_id is None


def test_without_a_zone_no_recordings_time_is_known() -> None:
    assert recordings(ROW, None)[0].recording.started_at is None


def test_a_row_that_stands_twice_is_one_recording() -> None:
    other = ROW.replace("|1|", "|2|")
    assert [each.recording.recording_id for each in recordings(f"{ROW}\n{other}\n{ROW}\n")] == ["1", "2"]


def test_recordings_are_found_amid_the_warnings_of_php() -> None:
    other = ROW.replace("|1|", "|2|")
    body = f"{NOISE}{HEADER}\r\n{NOISE}{ROW}\r\n<br />\n{other}\r\n{NOISE}"
    assert recordings(body) == recordings(f"{ROW}\n{other}")


@pytest.mark.parametrize(
    "body",
    [
        "",
        ROW.replace("|1000|", "|1000|x|"),
        ROW.replace("|120|", "|two|"),
        ROW.replace("|120|", "|1.5|"),
        ROW.replace("|1|", "|one|"),
        ROW.replace("|12345|", "|lead|"),
        ROW.replace("2026-11-20", "2026-02-30"),
        f"{ROW}\n{ROW.replace('|120|', '|')}",
        f"{HEADER}\n{ROW}|x",
        f"{HEADER}\n{ROW.rpartition('|')[0].rpartition('|')[0]}",
        f"{HEADER}\n",
        f"start_time|recording_id|location\n{ROW}",
        f"{HEADER.replace('location', 'duration|location')}\n{ROW.replace('|120|', '|120|1|')}",
        "2026-11-20 14:05:15",
        "2026-11-20 14:05:15|1000|1",
        "ERROR: CALL NOT FOUND",
    ],
)
def test_recordings_that_do_not_fit_are_an_error(body: str) -> None:
    if body:
        unreadable(body, "recordings")
        return
    with pytest.raises(EnrichmentUnavailable, match="empty body"):
        recordings(body)


def test_a_search_that_the_dialer_refuses_is_rejected() -> None:
    with pytest.raises(EnrichmentRejected, match="uniqueid"):
        recordings("ERROR: recording_lookup INVALID SEARCH PARAMETERS: 6666||||1.1\n")


# --- campaigns_list


def campaign(text: str) -> str:
    """Make a row of a campaign's id, name and mark."""
    return f"{text}|{REST}"


def test_campaigns_are_read_by_name() -> None:
    body = "campaign_id|active|user_group|campaign_name\nA|Y|x|Sales\nB|N|x|\n"
    assert read_campaigns(body) == {
        "A": KnownCampaign("Sales", active=True),
        "B": KnownCampaign(None, active=False),
    }


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("more", ["", "|60|9||"])
def test_campaigns_are_read_by_shape_where_there_is_no_header(mark: str, more: str) -> None:
    body = f"{campaign('-A|Sales|Y')}{more}\n{campaign('Ä_1||N')}{more}\n".replace("|", mark)
    assert read_campaigns(body) == {
        "-A": KnownCampaign("Sales", active=True),
        "Ä_1": KnownCampaign(None, active=False),
    }


@pytest.mark.parametrize(
    ("row", "name", "active"),
    [
        ("B|Sales | now|Y", "Sales | now", True),
        ("B|Sales|Y|x|y", "Sales", True),
        ("B|Sales|Y|x|N", None, False),
        ("B||||N", "||", False),
        ("B|a|b|c|d|N", "a|b|c|d", False),
        ("B|ERROR: Login incorrect|N", "ERROR: Login incorrect", False),
        ("B|Sales|N|Y", None, True),
        ("B|Y|Y|N", None, False),
    ],
)
def test_a_name_with_the_separator_is_read_unless_another_column_may_hold_it(
    row: str,
    name: str | None,
    active: bool,  # noqa: FBT001
) -> None:
    rows = [campaign("A|One|Y"), campaign(row), campaign("C|Three|N")]
    found = read_campaigns("\n".join([CAMPAIGN_HEADER, *rows]))
    assert found == {
        "A": KnownCampaign("One", active=True),
        "B": KnownCampaign(name, active=active),
        "C": KnownCampaign("Three", active=False),
    }
    if row.count("|") > 2:
        unreadable("\n".join(rows), "campaigns")  # without a header, the number of columns is unknown


def test_campaigns_are_found_amid_the_warnings_of_php() -> None:
    rows = [campaign("A|One|Y"), campaign("A-1|Two|N")]
    noise = f"{NOISE}<b>Warning</b>: a|b,c\nDEBUG: SELECT '|A|B|';\n"
    body = f"{noise}{CAMPAIGN_HEADER}\r\n{rows[0]}\r\n{noise}{rows[1]}\r\n{noise}"
    assert read_campaigns(body) == read_campaigns("\n".join(rows))


@pytest.mark.parametrize(
    "body",
    [
        f"{CAMPAIGN_HEADER}\n",
        f"{CAMPAIGN_HEADER}\n{campaign('A|One|X')}",
        f"{CAMPAIGN_HEADER}\n{campaign('A|One')}",
        f"{CAMPAIGN_HEADER}\n{campaign('A|One|x|y')}",
        f"{CAMPAIGN_HEADER}\n{campaign('|One|Y')}",
        f"{CAMPAIGN_HEADER}\n{campaign('A' * 33 + '|One|Y')}",
        f"{CAMPAIGN_HEADER}\n{campaign('A|One|Y')}\n{campaign('A|Two|Y')}",
        f"{CAMPAIGN_HEADER}\n{campaign('A|One|Y')}\n{campaign('A|One|N')}",
        f"campaign_id|active|campaign_name\n{campaign('A|Y|One')}",
        "campaign_id|campaign_name|user_group\nA|One|x",
        campaign("A|One|X"),
        campaign("A|One|Y|Y"),
        "A|One|Y|x",
        "SUCCESS",
    ],
)
def test_campaigns_that_do_not_fit_are_an_error(body: str) -> None:
    unreadable(body, "campaigns")


# --- user_details


def test_a_users_details_are_read_by_name_and_by_shape() -> None:
    row = "1000|Agent Thousand|SALES|1|Y"
    assert read_user_details(f"{DETAILS_HEADER}\n{row}\n", "1000") == DETAILS
    assert read_user_details(row, "1000") == DETAILS
    assert read_user_details(f"{NOISE}{DETAILS_HEADER}\r\n{NOISE}{row}\r\n{NOISE}", "1000") == DETAILS
    by_name = "user|user_level|new|user_group|full_name\n1000|1|x|SALES|Agent Thousand\n"
    assert read_user_details(by_name, "1000") == DETAILS
    assert read_user_details("user|user_level\n1000|9\n", "1000") == UserDetails(None, None, 9)
    assert read_user_details("1000||||Y", "1000") == UserDetails(None, None, None)


@pytest.mark.parametrize(
    ("asked", "answered"), [("jane-doe_1", "Jane-Doe_1"), ("JANE", "jane"), ("USER", "User")]
)
def test_a_user_is_the_same_whatever_the_case_of_the_letters(asked: str, answered: str) -> None:
    body = f"{DETAILS_HEADER}\n{answered}|Agent Thousand|SALES|1|Y\n"
    assert read_user_details(body, asked) == DETAILS


@pytest.mark.parametrize(
    "body",
    [
        f"{DETAILS_HEADER}\n",
        f"{DETAILS_HEADER}\n1001|Agent|SALES|1|Y",
        f"{DETAILS_HEADER}\n10000|Agent|SALES|1|Y",
        f"{DETAILS_HEADER}\n1000|Agent|SALES|1|Y|Thousand",
        f"{DETAILS_HEADER}\n1000|Agent|SALES|Thousand|Y",
        f"{DETAILS_HEADER}\n1000|Agent|SALES|one|Y",
        f"{DETAILS_HEADER}\n1000|A|SALES|1|Y\n1000|B|SALES|1|Y",
        "1000|Agent|SALES|1",
        "1000|Agent|SALES|1|Y|Thousand",
        "1000|Agent|Thousand|SALES|1",
        "1000|Agent|SALES|100|Y",
        "1000",
        "ERROR: AGENT NOT FOUND",
    ],
)
def test_details_that_do_not_fit_are_an_error(body: str) -> None:
    unreadable(body, "details")


@pytest.mark.parametrize("header", [f"{DETAILS_HEADER}\n", ""])
@pytest.mark.parametrize(
    "name", ["Agent|Thousand", "|", "a|b|c|Y", "SALES|9|N", "ERROR: Login incorrect, please try again: |x|"]
)
def test_a_full_name_with_the_separator_costs_neither_level_nor_group(name: str, header: str) -> None:
    found = read_user_details(f"{header}1000|{name}|SALES|8|Y\n", "1000")
    assert found == UserDetails(name, "SALES", 8)


# --- all of them


@pytest.mark.parametrize(
    ("body", "refused_function", "kind"),
    [
        ("ERROR: auth USER DOES NOT HAVE PERMISSION TO USE THIS FUNCTION: |x|y|", True, FailureKind.REFUSED),
        ("ERROR: NO FUNCTION SPECIFIED", True, FailureKind.REFUSED),
        ("ERROR: Login incorrect, please try again: |6666|x|BAD|", False, FailureKind.REFUSED),
        ("ERROR: Invalid Source - \nERROR: Invalid Source: ||", False, FailureKind.REFUSED),
        ("MySQL connect ERROR:  Connection refused", False, FailureKind.OUTAGE),
        ("<html>", False, FailureKind.OUTAGE),
        ("ERROR: something new: |x|", False, FailureKind.UNREADABLE),
        (
            "ERROR: something new: NO RECORDINGS FOUND NO VIEWABLE CAMPAIGNS USER NOT FOUND",
            False,
            FailureKind.UNREADABLE,
        ),
    ],
)
def test_an_error_means_the_same_for_each(body: str, refused_function: bool, kind: FailureKind) -> None:  # noqa: FBT001
    for read in (recordings, read_campaigns, lambda body: read_user_details(body, "1000")):
        with pytest.raises(EnrichmentUnavailable) as caught:
            read(body)
        assert isinstance(caught.value, FunctionRefused) == refused_function
        assert caught.value.kind is kind


@pytest.mark.no_cover
@pytest.mark.parametrize("before", ["", f"{HEADER}\n", f"{CAMPAIGN_HEADER}\n", f"{DETAILS_HEADER}\n"])
@pytest.mark.parametrize(
    "line", [f"{ROW}{{0}}", campaign("{0}|A|Y"), "1000|{0}", "{0},x", "2026-11-20 14:05:15|{0}", "|||||"]
)
def test_the_time_for_an_answer_grows_with_its_size_and_no_faster(before: str, line: str) -> None:
    size = 256 * 1024 // len(line.format(9999))
    body = before + "\n".join(line.format(number) for number in range(size))
    started = time.process_time()
    for read in (recordings, read_campaigns, lambda body: read_user_details(body, "1000")):
        with suppress(ProcessingError):
            read(body)
    assert time.process_time() - started < 5


# --- properties

users = st.text(string.ascii_letters + string.digits + "-_", min_size=1, max_size=12)
texts = st.text(st.characters(exclude_characters="|,\t\r\n", exclude_categories=["Cs"]), max_size=20).map(
    str.strip
)
numbers = st.integers(1, 10**9).map(str)
marks = st.sampled_from(MARKS)
noises = st.lists(st.sampled_from(["<br />", "<b>Warning</b>: a|b,c", "", "DEBUG: SELECT 1;"]), max_size=3)
zones = st.sampled_from([None, NEW_YORK, ZoneInfo("Australia/Lord_Howe"), timezone(timedelta(hours=-5))])
times = st.datetimes(datetime(1970, 1, 1), datetime(2999, 12, 31)).map(  # noqa: DTZ001 - local
    lambda at: at.replace(microsecond=0)
)


def a_body(noise: list[str], lines: list[str]) -> str:
    return "\n".join([*noise, *lines, *noise]) + "\n"


def offset_of(at: datetime, zone: tzinfo) -> timedelta:
    offset = at.replace(tzinfo=zone).utcoffset()
    assert offset is not None
    return offset


@PROPERTY
@given(
    rows=st.lists(
        st.tuples(times, users, numbers, numbers, st.integers(-5, 9999), texts.map(lambda text: f"/{text}")),
        min_size=1,
        max_size=4,
        unique=True,
    ),
    zone=zones,
    mark=marks,
    noise=noises,
    with_length=st.booleans(),
    header=st.booleans(),
)
def test_recordings_read_back(
    rows: list[tuple[datetime, str, str, str, int, str]],
    zone: tzinfo | None,
    mark: str,
    noise: list[str],
    *,
    with_length: bool,
    header: bool,
) -> None:
    lines = [HEADER.replace("|", mark)] if header else []
    expected = {}
    for at, user, number, lead, length, location in rows:
        values = [at.isoformat(" "), user, number, lead, *([str(length)] if with_length else []), location]
        lines.append(mark.join(values))
        expected[lines[-1]] = FoundRecording(
            Recording(
                recording_id=number,
                file_name=location.rpartition("/")[2] or None,
                started_at=None if zone is None else at.replace(tzinfo=timezone(offset_of(at, zone))),
                duration_seconds=length if with_length and length >= 0 else None,
            ),
            user,
            lead,
        )
    assert recordings(a_body(noise, lines), zone) == list(expected.values())


@PROPERTY
@given(
    campaigns=st.dictionaries(users, st.tuples(texts, st.booleans()), min_size=1, max_size=5),
    mark=marks,
    noise=noises,
    rest=st.lists(st.sampled_from(["", "NEW", "60", "---ALL---"]), min_size=5, max_size=9),
    header=st.booleans(),
)
def test_campaigns_read_back(
    campaigns: dict[str, tuple[str, bool]], mark: str, noise: list[str], rest: list[str], *, header: bool
) -> None:
    names = ["campaign_id", "campaign_name", "active", *(f"column{number}" for number in range(len(rest)))]
    lines = [mark.join(names)] if header else []
    for campaign_id, (name, active) in campaigns.items():
        lines.append(mark.join([campaign_id, name, "Y" if active else "N", *rest]))
    assert read_campaigns(a_body(noise, lines)) == {
        campaign_id: KnownCampaign(name or None, active=active)
        for campaign_id, (name, active) in campaigns.items()
    }


@PROPERTY
@given(
    user=users,
    full_name=texts,
    group=texts,
    level=st.integers(0, 9),
    mark=marks,
    noise=noises,
    header=st.booleans(),
    upper=st.booleans(),
)
def test_details_read_back(
    user: str,
    full_name: str,
    group: str,
    level: int,
    mark: str,
    noise: list[str],
    *,
    header: bool,
    upper: bool,
) -> None:
    row = mark.join([user.upper() if upper else user, full_name, group, str(level), "Y"])
    lines = [DETAILS_HEADER.replace("|", mark), row] if header else [row]
    expected = UserDetails(full_name or None, group or None, level)
    assert read_user_details(a_body(noise, lines), user) == expected


fragments = st.lists(
    st.sampled_from(
        [
            *HEADER.split("|"),
            *ROW.split("|"),
            *CAMPAIGN_HEADER.split("|"),
            *DETAILS_HEADER.split("|"),
            *("0001-01-01 00:00:00", "9999-12-31 23:59:59", "9999-99-99 99:99:99", "NULL", "Y", "N", "-1"),
            *("|", "|", "|", "|", ",", "\t", "\n", "\n", "\r", "ERROR: ", "<br />", "http://", "?", "/"),
            *("NO RECORDINGS FOUND - ", "NO VIEWABLE CAMPAIGNS: ", "USER NOT FOUND: ", "9" * 30),
        ]
    )
    | st.text(max_size=5),
    max_size=40,
).map("".join)
bodies = st.binary(max_size=300).map(lambda data: data.decode("latin-1")) | st.text(max_size=300) | fragments


@settings(PROPERTY, max_examples=1000)
@given(body=bodies, zone=zones)
def test_whatever_comes_is_an_answer_or_a_named_error(body: str, zone: tzinfo | None) -> None:
    for whole in (body, f"{HEADER}\n{ROW[:20]}{body}", f"{ROW[:20]}{body}"):
        with suppress(EnrichmentUnavailable, EnrichmentRejected):
            assert all(isinstance(each, FoundRecording) for each in recordings(whole, zone))
    for whole in (body, f"{CAMPAIGN_HEADER}\nA|{body}", f"A|B|Y|{body}"):
        with suppress(EnrichmentUnavailable):
            assert all(isinstance(each, KnownCampaign) for each in read_campaigns(whole).values())
    for whole in (body, f"{DETAILS_HEADER}\n1000|{body}", f"1000|{body}"):
        with suppress(EnrichmentUnavailable):
            assert isinstance(read_user_details(whole, "1000"), UserDetails | None)
