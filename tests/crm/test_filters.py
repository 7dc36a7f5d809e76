# ruff: noqa: ANN401 - a template gives any JSON
"""The filters: one by one, and that null in gives null out."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from worker.crm import filters
from worker.crm.filters import LONGEST, PURE, Unusable

AT = datetime(2026, 11, 20, 14, 5, 9, 250_000, tzinfo=timezone(timedelta(hours=-5)))


@pytest.mark.parametrize(
    ("name", "arguments", "value"),
    [
        ("epoch_ms", (AT,), 1795201509250),
        ("epoch", (AT,), 1795201509),
        ("utc", (AT,), "2026-11-20T19:05:09Z"),
        ("utc", (AT, "%Y-%m-%d %H:%M:%S"), "2026-11-20 19:05:09"),
        ("utc", ("2026-11-20T14:05:09-05:00",), "2026-11-20T19:05:09Z"),
        ("utc", ("2026-11-20T14:05:09",), "2026-11-20T14:05:09Z"),
        ("utc", (datetime(2026, 11, 20, 1, 2, 3),), "2026-11-20T01:02:03Z"),  # noqa: DTZ001 - on purpose
        ("utc", (1795201509,), "2026-11-20T19:05:09Z"),
        ("local", (AT, "Europe/Berlin"), "2026-11-20 20:05:09"),
        ("local", (AT, "Europe/Berlin", "%H.%M"), "20.05"),
        ("local", (AT, None), "2026-11-20 14:05:09"),
        ("iso", (AT,), "2026-11-20T14:05:09-05:00"),
        ("iso", (AT, "UTC"), "2026-11-20T19:05:09+00:00"),
        ("date", (AT, "Asia/Tokyo"), "2026-11-21"),
        ("time", (AT,), "14:05:09"),
        ("seconds", ("125",), 125),
        ("minutes", (125,), 3),
        ("minutes", (120,), 2),
        ("hours", (3599,), 1),
        ("minutes_past_hour", (3599,), 0),
        ("minutes_past_hour", (3661,), 2),
        ("mmss", (125,), "02:05"),
        ("mmss", (6000,), "100:00"),
        ("mmss", (-3,), "00:00"),
        ("hhmm", (125,), "00:03"),
        ("hms", (3725,), "01:02:05"),
        ("times", (120, 1000), 120_000),
        ("times", ("1.5", 2), 3.0),
        ("plus", (1, 2), 3),
        ("plus", (AT, 1), AT + timedelta(seconds=1)),
        ("plus", (1, None), None),
        ("number", (" -12 ",), -12),
        ("number", ("1.25",), 1.25),
        ("int", ("1.9",), 1),
        ("text", (1,), "1"),
        ("text", (True,), "true"),
        ("text", (False,), "false"),
        ("text", ([1, {"a": None}],), '[1,{"a":null}]'),
        ("text", (AT,), "2026-11-20T14:05:09.250000-05:00"),
        ("clip", ("abcdef", 3), "abc"),
        ("lower", ("ABC",), "abc"),
        ("upper", ("abc",), "ABC"),
        ("title", ("outbound call",), "Outbound Call"),
        ("join", (["a", None, 2],), "a, 2"),
        ("join", (["a", "b"], "; "), "a; b"),
        ("join", ("a",), "a"),
        ("join", ([None],), None),
        ("spread", ("312", "%"), "3%1%2"),
        ("replace", ("a-b-c", "-", ""), "abc"),
        ("split", ("18/5000", "/"), ["18", "5000"]),
        ("first", ([1, 2],), 1),
        ("first", ([],), None),
        ("first", ("text",), None),
        ("find", ([{"a": "x"}, "b", {"a": "Y", "b": 1}], "a", "y"), {"a": "Y", "b": 1}),
        ("find", ([{"a": {"b": 7}}], "a.b", 7), {"a": {"b": 7}}),
        ("find", ([{"a": "xy"}], "a", "x"), None),
        ("find", ([{"a": None}], "a", None), None),
        ("find", ({"a": "x"}, "a", "x"), None),
        ("containing", ([{"a": "x"}, {"a": "a Call V1."}], "a", "V1"), {"a": "a Call V1."}),
        ("containing", ([{"a": "x"}, {"b": "V1"}, "V1"], "a", "V1"), None),
        ("containing", ([{"a": "x"}], "a", ""), None),
        ("containing", ("V1", "a", "V1"), None),
        ("default", (None, "x"), "x"),
        ("default", ("", "x"), ""),
        ("required", (0,), 0),
        ("uuid5", ("a",), "f851e396-95aa-5f67-b30d-44a72bdae424"),
        ("base64", ("a:b",), "YTpi"),
        ("md5", ("a",), "0cc175b9c0f1b6a831c399e269772661"),
        ("html", ("<a href='x'>&",), "&lt;a href=&#x27;x&#x27;&gt;&amp;"),
        ("sosl", ("a-b (c)",), r"a\-b \(c\)"),
        ("soql", ("O'Neil\\\n",), "O\\'Neil\\\\\\n"),
        ("odata", ("O'Neil",), "O''Neil"),
        ("vtql", ("O'Neil",), "O''Neil"),
        ("urlquote", ("a/b c+",), "a%2Fb%20c%2B"),
        ("json", ({"a": AT},), '{"a":"2026-11-20T14:05:09.250000-05:00"}'),
    ],
)
def test_a_filter_gives(name: str, arguments: tuple[Any, ...], value: Any) -> None:
    assert PURE[name](*arguments) == value


def test_an_escaped_text_is_not_escaped_again() -> None:
    assert filters.html(filters.html("&")) == "&amp;"


@pytest.mark.parametrize("name", sorted(set(PURE) - {"default", "required"}))
def test_null_in_gives_null_out(name: str) -> None:
    arguments = {
        "times": (2,),
        "plus": (2,),
        "clip": (2,),
        "local": ("UTC",),
        "replace": ("a", "b"),
        "split": ("/",),
    }
    assert PURE[name](None, *arguments.get(name, ())) is None


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("utc", ("soon",)),
        ("utc", (10.0**30,)),
        ("local", (AT, "Mars/Olympus")),
        ("number", ("many",)),
        ("number", ("nan",)),
        ("times", (1, "x")),
        ("required", (None,)),
        ("required", ("",)),
        ("replace", ("a", "", "b")),
        ("split", ("a", "")),
        ("replace", ("a" * 1000, "a", "b" * 1000)),
        ("join", (["a" * LONGEST, "b"],)),
        ("spread", ("a" * LONGEST, "%")),
    ],
)
def test_a_filter_that_cannot_do_its_work_fails(name: str, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(Unusable):
        PURE[name](*arguments)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("30", 30),
        (31, 31),
        ("Fri, 20 Nov 2026 19:06:09 GMT", 60),
        ("Fri, 20 Nov 2026 19:06:09 -0000", 60),
        ("Fri, 20 Nov 2026 19:00:00 GMT", 0),
        ("1m30s", 90),
        ("later", None),
        (None, None),
    ],
)
def test_seconds_until_reads_retry_after(value: Any, seconds: float | None) -> None:
    now = datetime(2026, 11, 20, 19, 5, 9, tzinfo=UTC)
    assert filters.seconds_until(lambda: now)(value) == seconds
