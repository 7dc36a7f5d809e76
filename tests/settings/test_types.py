"""The kinds of value that settings have, each by itself."""

from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from worker.core.retry import format_delay
from worker.settings.types import Delays, Duration, Zone, parse_duration, read_secret

DURATION: TypeAdapter[timedelta] = TypeAdapter(Duration)
DELAYS: TypeAdapter[tuple[timedelta, ...]] = TypeAdapter(Delays)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("500ms", 0.5),
        ("5s", 5),
        ("1.5s", 1.5),
        ("2m", 120),
        ("1h", 3600),
        ("168h", 604_800),
        ("20", 20),
        ("0.25", 0.25),
        (" 5 s ", 5),
        (5, 5),
        (0.5, 0.5),
        (timedelta(seconds=5), 5),
    ],
)
def test_a_duration_has_a_unit_or_is_in_seconds(text: object, expected: float) -> None:
    assert DURATION.validate_python(text) == timedelta(seconds=expected)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "0s",
        0.0,
        "-5s",
        "5d",
        "5 minutes",
        "1h30m",
        "1e3",
        "nan",
        "5S",
        "169h",
        True,
        None,
        [],
        {},
    ],
)
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(ValidationError, match="duration"):
        DURATION.validate_python(text)


@pytest.mark.parametrize("text", ["1ms", "1500ms", "5s", "90s", "2m", "168h"])
def test_the_name_of_a_tier_reads_as_its_delay(text: str) -> None:
    assert format_delay(parse_duration(text)) == text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("5s", (5,)),
        (5, (5,)),
        ("1s, 2s", (1, 2)),
        (["1s", 2, 3.5], (1, 2, 3.5)),
        (("1s", "168h"), (1, 604_800)),
    ],
)
def test_delays_are_a_list_or_a_text_with_commas(value: object, expected: tuple[float, ...]) -> None:
    assert [delay.total_seconds() for delay in DELAYS.validate_python(value)] == list(expected)


@pytest.mark.parametrize(
    "value", ["", "5s,", "5s;30s", [], ["5s", "5s"], ["5s", 5], "30s,5s", [[5]], {"a": 1}, True, None]
)
def test_delays_that_do_not_ascend_or_of_another_shape_are_refused(value: object) -> None:
    with pytest.raises(ValidationError):
        DELAYS.validate_python(value)


@pytest.mark.parametrize("name", ["America/New_York", "UTC", "Asia/Kolkata"])
def test_a_zone_is_an_iana_name(name: str) -> None:
    zone = TypeAdapter(Zone).validate_python(name)
    assert zone.key == name
    assert TypeAdapter(Zone).validate_python(zone) is zone


@pytest.mark.parametrize(
    "name", ["", "Mars/Base", "../etc/passwd", "/etc/localtime", "America", "+05:00", "a\0b", 5]
)
def test_what_is_no_zone_is_refused(name: object) -> None:
    with pytest.raises(ValidationError, match="is no IANA time zone; write one such as America/New_York"):
        TypeAdapter(Zone).validate_python(name)


def test_only_the_line_break_at_its_end_is_no_part_of_a_secret_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(" pass word \t\r\n\n")
    assert read_secret(tmp_path / "secret") == " pass word \t"
