"""What a call id holds: the start of the call and its lead."""

from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from worker.vicidial.calls import REPEATS_AFTER, parse_call_id
from worker.vicidial.clock import DialerTimes

NEW_YORK = ZoneInfo("America/New_York")
EASTERN = timezone(timedelta(hours=-5))
ZONES = ("America/New_York", "Australia/Lord_Howe", "America/Havana", "Asia/Kolkata", "Europe/London", "UTC")
PREFIXES = ("V", "M", "Y", "J", "DC", "S", "LP", "VH", "XL")


def built(began: datetime, lead: int, prefix: str = "V") -> str:
    """Build an id as VICIdial does, of the local time."""
    return f"{prefix}{f'{began:%m%d%H%M%S}'[1:]}{lead:010}"


def begin(
    call_id: str, call_date: str, zone: tzinfo = NEW_YORK, near: datetime | None = None
) -> tuple[str, str] | None:
    parts = parse_call_id(call_id)
    assert parts is not None
    found = parts.begin(datetime.fromisoformat(call_date), DialerTimes(zone, near))
    return None if found is None else (found[0].isoformat(), found[1].isoformat())


# --- the shape


@pytest.mark.parametrize("prefix", PREFIXES)
def test_the_lead_is_the_last_ten_digits(prefix: str) -> None:
    parts = parse_call_id(f"{prefix}1201405090000012345")
    assert parts is not None
    assert parts.lead_id == "12345"


@pytest.mark.parametrize("lead", ["0000000000", "4294967296", "9999999999"])
def test_a_call_without_a_lead_has_none(lead: str) -> None:
    parts = parse_call_id(f"M120140509{lead}")
    assert parts is not None
    assert parts.lead_id is None


@pytest.mark.parametrize(
    "call_id",
    [
        "1000012345",
        "V120140509000012345",
        "V12014050900000123456",
        "v1201405090000012345",
        "V120140509000001234a",
        "V120140509000001234\N{ARABIC-INDIC DIGIT FIVE}",
        "V1201405090000012345\n",
        "LP120140513000012345",
        "DC234728W0001010141W",
        "E12345678900000012345",
        "",
    ],
)
def test_another_shape_is_no_time(call_id: str) -> None:
    assert parse_call_id(call_id) is None


@pytest.mark.parametrize(
    "date",
    [
        "100140509",  # day 0
        "132140509",  # day 32
        "431140509",  # 31 April
        "631140509",  # 31 June
        "931140509",  # 31 September
        "120240509",  # hour 24
        "120250509",  # hour 25
        "120146009",  # minute 60
        "120140560",  # second 60
        "199999999",
    ],
)
def test_a_date_that_never_is_is_no_time(date: str) -> None:
    assert parse_call_id(f"V{date}0000012345") is None


@pytest.mark.parametrize(
    ("date", "call_date"),
    [
        ("131140509", "2026-11-30 14:05:09"),  # 31 November
        ("229140509", "2026-02-28 14:05:09"),  # 29 February of a common year
        ("230140509", "2026-03-01 14:05:09"),  # 30 February
        ("020140509", "2026-11-20 14:05:09"),  # October
    ],
)
def test_a_date_that_is_none_in_the_year_of_the_call_does_not_fit(date: str, call_date: str) -> None:
    assert begin(f"V{date}0000012345", call_date) is None


# --- the start


@pytest.mark.parametrize(
    ("call_id", "call_date", "began", "at"),
    [
        ("V130015305", "2026-11-30 01:53:13", "2026-11-30T01:53:05-05:00", "2026-11-30T01:53:13-05:00"),
        ("V131235950", "2027-01-31 23:59:50", "2027-01-31T23:59:50-05:00", "2027-01-31T23:59:50-05:00"),
        ("V120235950", "2026-11-21 00:01:00", "2026-11-20T23:59:50-05:00", "2026-11-21T00:01:00-05:00"),
        ("V130235950", "2026-12-01 00:01:00", "2026-11-30T23:59:50-05:00", "2026-12-01T00:01:00-05:00"),
        ("V231235950", "2027-01-01 00:01:00", "2026-12-31T23:59:50-05:00", "2027-01-01T00:01:00-05:00"),
        ("V229235950", "2028-03-01 00:01:00", "2028-02-29T23:59:50-05:00", "2028-03-01T00:01:00-05:00"),
        ("V031120000", "2026-10-31 12:00:05", "2026-10-31T12:00:00-04:00", "2026-10-31T12:00:05-04:00"),
        # The clocks of two servers differ: the row is a little before the id.
        ("V101000010", "2026-12-31 23:59:50", "2027-01-01T00:00:10-05:00", "2026-12-31T23:59:50-05:00"),
    ],
    ids=["within", "same", "midnight", "month", "year", "leap day", "October", "before"],
)
def test_the_month_and_the_year_follow_from_the_rows_time(
    call_id: str, call_date: str, began: str, at: str
) -> None:
    assert begin(f"{call_id}0000012346", call_date) == (began, at)


@pytest.mark.parametrize(
    ("call_date", "fits"),
    [
        ("2026-11-20 14:04:08", False),
        ("2026-11-20 14:04:09", True),
        ("2026-11-20 14:05:09", True),
        ("2026-11-21 02:05:09", True),
        ("2026-11-21 02:05:10", False),
        ("2026-11-27 14:05:09", False),
        ("2026-12-20 14:05:09", False),
    ],
)
def test_the_rows_time_fits_from_a_minute_before_to_twelve_hours_after(call_date: str, *, fits: bool) -> None:
    for zone in (NEW_YORK, EASTERN):
        assert (begin("V1201405090000012345", call_date, zone) is not None) is fits


@pytest.mark.parametrize(
    ("call_id", "call_date", "seconds"),
    [
        ("V308015930", "2026-03-08 03:00:30", 60),  # put forward at 2:00
        ("V101013000", "2026-11-01 02:30:00", 3600),  # put back at 2:00; from the second 1:30, the nearer one
        ("V101005000", "2026-11-01 01:10:00", 20 * 60),
        ("V101015930", "2026-11-01 01:00:10", 40),  # from the first 1:59:30 to the second 1:00:10
        ("V101235930", "2026-11-02 00:00:10", 40),
    ],
)
def test_a_call_that_the_clocks_are_changed_in_is_as_long_as_it_was(
    call_id: str, call_date: str, seconds: int
) -> None:
    found = begin(f"{call_id}0000012345", call_date)
    assert found is not None
    began, at = map(datetime.fromisoformat, found)
    assert (at - began).total_seconds() == seconds


@pytest.mark.parametrize(("ended", "offset"), [("05:25", "-04:00"), ("06:25", "-05:00")])
def test_in_the_hour_that_is_repeated_the_events_time_decides(ended: str, offset: str) -> None:
    near = datetime.fromisoformat(f"2026-11-01T{ended}:00+00:00")
    found = begin("V1010110000000012345", "2026-11-01 01:20:00", near=near)
    assert found == (f"2026-11-01T01:10:00{offset}", f"2026-11-01T01:20:00{offset}")


MOMENTS = st.integers(1577836800, 2051222400).map(lambda epoch: datetime.fromtimestamp(epoch, UTC))
CHANGES = (
    datetime(2026, 3, 8, 7, tzinfo=UTC),
    datetime(2026, 11, 1, 6, tzinfo=UTC),
    datetime(2026, 4, 4, 15, tzinfo=UTC),
    datetime(2026, 10, 3, 15, 30, tzinfo=UTC),
    datetime(2026, 11, 1, 5, tzinfo=UTC),
    datetime(2026, 3, 29, 1, tzinfo=UTC),
    datetime(2027, 1, 1, tzinfo=UTC),
    datetime(2028, 2, 29, tzinfo=UTC),
)
NEAR_A_CHANGE = st.builds(
    lambda change, seconds: change + timedelta(seconds=seconds),
    st.sampled_from(CHANGES),
    st.integers(-4 * 3600, 4 * 3600),
)


@given(
    MOMENTS | NEAR_A_CHANGE,
    st.integers(-60, 12 * 3600),
    st.integers(0, 2**32 - 1),
    st.sampled_from(PREFIXES),
    st.sampled_from(ZONES),
)
@example(datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC), 1, 1, "V", "UTC")
def test_every_id_that_can_be_built_is_read_back(
    when: datetime, later: int, lead: int, prefix: str, name: str
) -> None:
    """In the repeated hour as well, if the call was not longer than it must have been."""
    zone, row = ZoneInfo(name), when + timedelta(seconds=later)
    parts = parse_call_id(built(when.astimezone(zone), lead, prefix))
    assert parts is not None
    assert parts.lead_id == (str(lead) if lead else None)
    found = parts.begin(row.astimezone(zone).replace(tzinfo=None, fold=0), DialerTimes(zone, row))
    assert found is not None
    assert found[1] == row
    assert found[0].replace(tzinfo=None) == when.astimezone(zone).replace(tzinfo=None, fold=0)
    if found[0] != when:  # the other reading of the same local time, nearer to the row
        assert when < found[0] <= row + timedelta(seconds=60)


@given(MOMENTS | NEAR_A_CHANGE, st.integers(-60, 12 * 3600), st.integers(1, 2**32 - 1))
def test_so_it_is_in_a_zone_of_one_offset(when: datetime, later: int, lead: int) -> None:
    """As if `vicidial.timezone` is not set: then times have the server's present offset."""
    began, row = when.astimezone(EASTERN), (when + timedelta(seconds=later)).astimezone(EASTERN)
    parts = parse_call_id(built(began, lead))
    assert parts is not None
    assert parts.begin(row.replace(tzinfo=None), DialerTimes(EASTERN)) == (began, row)


@given(st.dates(date(2020, 1, 1), date(2035, 1, 1)))
def test_no_id_comes_again_within_the_time_in_which_a_row_is_the_same_call(day: date) -> None:
    mark = f"{day:%m%d}"[1:]
    again = next(n for n in range(1, 800) if f"{day + timedelta(days=n):%m%d}"[1:] == mark)
    assert timedelta(days=again) > REPEATS_AFTER
