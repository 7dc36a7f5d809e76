"""`Retry-After` in every notation that a person would understand."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from email.utils import formatdate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.adapters.raw import Connection, RawServer
from tests.adapters.webhook import NOW, connected, unavailable
from worker.core.errors import FailureKind
from worker.core.retry_after import LONGEST_RETRY_AFTER, retry_after

HOUR = timedelta(hours=1)
SOON = NOW + 61.25
THEN = datetime.fromtimestamp(SOON, UTC)
AT_THAT_TIME = timedelta(seconds=61.25)
HTTP_DATE = formatdate(SOON, usegmt=True)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("17", 17),
        ("017", 17),
        ("1.5", 2),
        ("299.997", 300),
        ("299.", 299),
        (".5", 1),
        ("+30", 30),
        (" 30 ", 30),
        ('"30"', 30),
        ("30;", 30),
        ("120s", 120),
        ("120 S", 120),
        ("120 sec.", 120),
        ("5 seconds", 5),
        ("2 minutes", 120),
        ("2m", 120),
        ("1m30s", 90),
        ("1 minute, 30 seconds", 90),
        ("1 minute and 30 seconds", 90),
        ("in 1 hour", 3600),
        ("1500ms", 2),
        ("PT30S", 30),
        ("PT1M30.5S", 91),
        ("00:05:00", 300),
        ("120, 60", 120),
        ("60,120", 120),
        ("60s, 2m", 180),
        ("60, soon", 60),
        ("1 d", 3600),
        ("3601", 3600),
        ("9" * 21, 3600),
        ("9" * 5000, 3600),
        ("3e2", 300),
        ("1.5E+2", 150),
        ("1e300", 3600),
        ("1 week", 3600),
        ("P1W", 3600),
        ("PT30,5S", 31),
        ("wait 30", 30),
        ("Retry after: 30 seconds", 30),
        ("seconds=300", 300),
        ("delta-seconds=300", 300),
        ("300 (seconds)", 300),
        ("(300)", 300),
        ("[300]", 300),
        ("~30", 30),
        ("\N{LEFT DOUBLE QUOTATION MARK}30\N{RIGHT DOUBLE QUOTATION MARK}", 30),
        ("30; comment=later", 30),
    ],
)
def test_a_wait_is_understood_and_never_cut_short(value: str, seconds: float) -> None:
    assert retry_after(value, NOW) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "value",
    [
        HTTP_DATE,
        HTTP_DATE.lower(),
        HTTP_DATE.replace("Sun", "Wed"),
        HTTP_DATE.replace("GMT", "UTC"),
        HTTP_DATE.replace("GMT", "+0000"),
        HTTP_DATE.replace(" GMT", ""),
        HTTP_DATE.removeprefix("Sun, "),
        formatdate(SOON),
        f"{THEN:%A, %d-%b-%y %H:%M:%S GMT}",
        f"{THEN:%a %b %d %H:%M:%S %Y}",
        f"{THEN:%a %b %d %H:%M:%S GMT %Y}",
        f"{THEN:%b %d, %Y %H:%M:%S GMT}",
        f"{THEN:%Y-%m-%dT%H:%M:%SZ}",
        f"{THEN:%Y-%m-%dt%H:%M:%Sz}",
        f"{THEN:%Y-%m-%d %H:%M:%S UTC}",
        f"{THEN:%Y-%m-%d %H:%M:%S}",
        f"{THEN:%Y%m%dT%H%M%SZ}",
        f"{THEN + 5 * HOUR + HOUR / 2:%Y-%m-%dT%H:%M:%S+05:30}",
        f"{SOON:.0f}",
        f"{SOON:.1f}",
        f"{SOON * 1000:.0f}",
        f"{SOON * 1e6:.0f}",
        f"{SOON * 1e9:.0f}",
        f"until {THEN:%Y-%m-%dT%H:%M:%SZ}",
        f"after {HTTP_DATE}",
        f"{formatdate(SOON - 30, usegmt=True)}, {HTTP_DATE}",
    ],
)
def test_a_time_is_understood(value: str) -> None:
    assert retry_after(value, NOW) == AT_THAT_TIME


@pytest.mark.parametrize("at", [NOW - 90, NOW - 1e9, 0.0])
def test_a_time_in_the_past_is_no_wait(at: float) -> None:
    assert retry_after(formatdate(at, usegmt=True), NOW) == timedelta(0)


@pytest.mark.parametrize("at", [NOW + 3601, NOW + 9e8])
def test_a_time_far_ahead_is_an_hour(at: float) -> None:
    assert retry_after(formatdate(at, usegmt=True), NOW) == HOUR


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        " ",
        "soon",
        "-5",
        "-5 s",
        "- 5",
        "nan",
        "inf",
        "١٢",
        "30 parsecs",
        "2 30",
        "0x10",
        "true",
        "wait",
        "after -5",
        "2-30",
        "e3",
        "1e-3",
    ],
)
def test_what_nobody_would_understand_counts_as_missing(value: str | None) -> None:
    assert retry_after(value, NOW) is None


dates = st.from_regex(
    r"(Mon, )?\d{1,12} (Jan|Feb|Dec) \d{1,12} \d{1,4}:\d{1,4}(:\d{1,4})? ([+-]\d{1,8}|GMT|-0000|XYZ)?",
    fullmatch=True,
)
pieces = st.lists(
    st.sampled_from(["1", "90", ".", " ", ",", "s", "m", "ms", "+", "-", ":", "T", "PT", "Z", "e"])
)


@settings(max_examples=500)
@given(value=st.text(max_size=40) | dates | st.integers().map(str) | pieces.map("".join))
def test_whatever_it_says_it_is_a_wait_of_at_most_an_hour_or_nothing(value: str) -> None:
    wait = retry_after(value, NOW)
    assert wait is None or timedelta(0) <= wait <= LONGEST_RETRY_AFTER


@given(st.floats(min_value=0, max_value=3600, allow_nan=False), st.sampled_from(["", "s", " seconds"]))
def test_no_fraction_is_rounded_down(seconds: float, unit: str) -> None:
    wait = retry_after(f"{seconds:.7f}{unit}", NOW)
    assert wait is not None
    assert wait.total_seconds() >= float(f"{seconds:.7f}")


async def answered(status: int, values: Iterable[str]) -> tuple[FailureKind, timedelta | None]:
    """Return what a delivery makes of an answer with these values of the header."""

    async def serve(connection: Connection) -> None:
        await connection.request()
        headers = [f"Retry-After: {value}" for value in values]
        await connection.answer(b"", *headers, start=f"HTTP/1.1 {status} Later\r\n".encode())

    async with RawServer(serve) as server, connected(server.url, now=lambda: NOW) as sink:
        error = await unavailable(sink)
    return error.kind, error.retry_after


@pytest.mark.parametrize("status", [429, 503])
async def test_a_busy_sink_is_left_alone_for_as_long_as_it_asks(status: int) -> None:
    for values, wait in [
        (["299.997"], timedelta(seconds=300)),
        ([HTTP_DATE], AT_THAT_TIME),
        (["0"], timedelta(0)),
        (["30", "60"], timedelta(minutes=1)),
        ([HTTP_DATE, "30"], AT_THAT_TIME),
    ]:
        assert await answered(status, values) == (FailureKind.BUSY, wait)


@pytest.mark.parametrize("values", [[], ["soon"], [""], ["-5"]])
async def test_a_sink_that_does_not_say_for_how_long_is_busy_or_down(values: list[str]) -> None:
    assert await answered(429, values) == (FailureKind.BUSY, timedelta(0))
    assert await answered(503, values) == (FailureKind.OUTAGE, None)
