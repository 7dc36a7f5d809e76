"""Reading what the dialer says of itself."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulators.recordings import find
from worker.vicidial.clock import Version, read_version

PROPERTY = settings(max_examples=200)
EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - the dialer names no zone
NOTHING = Version(None, None, None, None)


def body(date: str, epoch: int | str, version: str = "2.14-202", build: str = "250720-1841") -> str:
    return f"VERSION: {version}|BUILD: {build}|DATE: {date}|EPOCH: {epoch}|DST: 0|TZ: -5.00|TZNOW: -5.00|\n"


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
    offset = None if hours is None else timedelta(hours=hours)
    assert read_version(body(date, epoch)) == Version("2.14-202", "250720-1841", epoch, offset)


def test_what_is_missing_is_not_known() -> None:
    for answer in (
        "ERROR: NO FUNCTION SPECIFIED\n",
        "",
        "<html>",
        "MySQL connect ERROR:  Connection refused",
    ):
        assert read_version(answer) == NOTHING
    assert read_version("VERSION: 2.4|BUILD: 1|") == Version("2.4", "1", None, None)
    assert read_version("VERSION: 2.4|EPOCH: 1795313398|") == Version("2.4", None, 1795313398, None)
    assert read_version(body("2026-11-22 02:09:58", "soon")).offset is None


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("", "empty body"),
        (" \r\n", "empty body"),
        ("<!DOCTYPE html><html><body>Maintenance</body></html>", "page of HTML"),
        ("MySQL connect ERROR:  Connection refused", "database"),
        ("ERROR: NO FUNCTION SPECIFIED\n", ""),
        ("what?", ""),
        ("VERSION: 2.4|BUILD: 1|", ""),
        ("<br />VERSION: 2.4|BUILD: 1|", ""),
    ],
)
def test_an_outage_is_no_answer(answer: str, says: str) -> None:
    assert says in read_version(answer).outage
    assert bool(read_version(answer).outage) is bool(says)


def test_it_is_found_amid_the_warnings_of_php() -> None:
    noise = find("display_errors_on", "agent_campaigns_ok").body.partition("1000|")[0]
    answer = body("2026-11-22 02:09:58", 1795331398)
    assert read_version(noise + answer) == read_version(answer)


@PROPERTY
@given(
    st.datetimes().map(lambda at: at.replace(microsecond=0).isoformat(" ")),
    st.integers(0, 10**12),
    st.text(max_size=10),
)
def test_whatever_comes_is_read(date: str, epoch: int, junk: str) -> None:
    for answer in (body(date, epoch), body(date + junk, epoch, junk, junk), junk + body(junk, junk)):
        found = read_version(answer)
        assert found.offset is None or abs(found.offset) < timedelta(days=1)


@PROPERTY
@given(
    version=st.from_regex(r"[0-9.-]{1,12}", fullmatch=True),
    build=st.from_regex(r"[0-9-]{1,12}", fullmatch=True),
    epoch=st.integers(10**9, 10**10),
    quarters=st.integers(-48, 56),
)
def test_a_version_reads_back(version: str, build: str, epoch: int, quarters: int) -> None:
    from_utc = timedelta(minutes=15 * quarters)
    date = (EPOCH + timedelta(seconds=epoch) + from_utc).isoformat(" ")
    assert read_version(body(date, epoch, version, build)) == Version(version, build, epoch, from_utc)
