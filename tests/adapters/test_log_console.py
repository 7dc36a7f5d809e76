"""The log as a person reads it."""

import io
from datetime import UTC, datetime
from typing import Any

import pytest

from worker.observe.log import Console, wants_colors

NOW = datetime(2026, 11, 22, 9, 53, 43, 45678, tzinfo=UTC)
HEAD = "2026-11-22 09:53:43.045Z "


def rendered(*, colors: bool = False, **fields: Any) -> str:  # noqa: ANN401 - whatever a line holds
    line = {"event": "x", "level": "info", **fields, "timestamp": NOW}
    return Console(colors=colors)(None, "info", line)


def test_a_line_begins_with_time_level_and_event_in_columns() -> None:
    assert (
        rendered(event="stopping", signal="SIGTERM")
        == f"{HEAD}[info    ] stopping               signal=SIGTERM"
    )
    long = rendered(event="broker_blocks_publishing", level="warning", a=1)
    assert long == f"{HEAD}[warning ] broker_blocks_publishing a=1"


def test_fields_stand_in_the_order_in_which_they_were_written() -> None:
    assert rendered(outcome="retry", attempt=2, error="no", a="last").endswith(
        "outcome=retry attempt=2 error=no a=last"
    )


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("duration_ms", 4.19, "duration=4.19ms"),
        ("enrich_ms", 12.0, "enrich=12ms"),
        ("duration_ms", 1_230_456.7, "duration=20m30s"),
        ("age_seconds", 0.004, "age=0.004s"),
        ("next_try_seconds", 9.5, "next_try=9.5s"),
        ("open_seconds", 75.2, "open=1m15s"),
        ("open_seconds", 59.99, "open=59.99s"),
        ("open_seconds", 60.0, "open=1m0s"),
        ("open_seconds", 8140.3, "open=2h15m40s"),
        ("open_seconds", 3599.9, "open=1h0m0s"),
        ("seconds", -45, "seconds=-45"),
        ("drain_seconds", "soon", "drain_seconds=soon"),
        ("queues", ["a.b", "c d"], 'queues=a.b,"c d"'),
        ("error", "it's down", 'error="it\'s down"'),
        ("error", 'said "no"', r'error="said \"no\""'),
        ("error", "two\nlines", r"error=two\nlines"),
        ("error", "", 'error=""'),
        ("allowed", False, "allowed=False"),
    ],
)
def test_a_value_is_shown_with_its_unit_and_quotes_only_where_they_help(
    field: str, value: object, text: str
) -> None:
    line: dict[str, Any] = {field: value}
    assert rendered(**line) == f"{HEAD}[info    ] x{' ' * 21} {text}"


def test_what_has_no_value_is_left_out() -> None:
    assert rendered(event_type=None, logger=None) == f"{HEAD}[info    ] x"


def test_a_librarys_record_names_its_logger() -> None:
    assert rendered(event="no route\nto host", logger="lib").endswith("no route\nto host       [lib]")


def test_nothing_that_others_wrote_steers_the_terminal() -> None:
    nasty = "\x1b[2Jx\r\x9b31m\u202e"
    fields: dict[str, Any] = dict.fromkeys(("event", "logger", "error", "stack"), nasty)
    line = rendered(**fields, items=[nasty], exception=f"T\n{nasty}")
    assert not {"\x1b", "\r", "\x9b", "\u202e"} & set(line)
    assert line.endswith("T\n" + r"\x1b[2Jx\r\x9b31m\u202e")


def test_colors_are_for_terminals_and_leave_the_text_alone() -> None:
    plain, colored = (rendered(colors=colors, level="error", error="no") for colors in (False, True))
    assert "\x1b" not in plain
    assert "\x1b[31m" in colored  # red
    for part in (HEAD.strip(), "error", "x ", "no"):
        assert part in colored


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "environment", "wanted"),
    [
        (Terminal(), {}, True),
        (io.StringIO(), {}, False),
        (Terminal(), {"NO_COLOR": "1"}, False),
        (Terminal(), {"NO_COLOR": ""}, True),
        (Terminal(), {"TERM": "dumb"}, False),
    ],
)
def test_colors_are_written_to_a_terminal_unless_somebody_minds(
    stream: io.StringIO, environment: dict[str, str], *, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"TERM": "xterm", "NO_COLOR": None, **environment}.items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert wants_colors(stream) is wanted
