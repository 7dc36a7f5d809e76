"""The window remembers the last events that were delivered, up to its size, and nothing else."""

from collections import deque
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.events import Event, EventType
from worker.core.pipeline import Window
from worker.settings.tree import LARGEST_WINDOW

CALL, AGENT = EventType.CALL_ENDED, EventType.AGENT_ONBOARDED


def event(name: str = "e1", kind: EventType = CALL, subject: str = "V1") -> Event:
    return Event(kind, name, datetime(2026, 11, 20, tzinfo=UTC), subject, {})


def test_only_what_was_delivered_is_known() -> None:
    window = Window(2)
    assert event() not in window
    window.add(event())
    assert event() in window
    assert event("e2") not in window


def test_a_window_of_size_0_remembers_nothing() -> None:
    window = Window(0)
    window.add(event())
    assert event() not in window


@pytest.mark.parametrize(
    "other", [event(kind=AGENT), event(subject="V2"), event("e1 V1", subject=""), event("e", subject="1 V1")]
)
def test_another_event_with_the_same_id_is_none_of_them(other: Event) -> None:
    window = Window(2)
    window.add(event())
    assert other not in window


def test_whatever_a_subject_holds_it_can_be_remembered() -> None:
    window = Window(1)
    for subject in ("\ud800", "\0", "V" * 255, "Ünal 7"):
        window.add(event(subject=subject))
        assert event(subject=subject) in window


@pytest.mark.no_cover
def test_the_largest_one_holds_as_many_as_it_says() -> None:
    window = Window(LARGEST_WINDOW)
    for number in range(LARGEST_WINDOW + 1):
        window.add(event(str(number)))
    assert event("0") not in window
    assert event("1") in window
    assert event(str(LARGEST_WINDOW)) in window


@given(st.integers(0, 4), st.lists(st.integers(0, 6)))
def test_it_knows_the_last_different_ones(size: int, names: list[int]) -> None:
    window = Window(size)
    last: deque[int] = deque(maxlen=size)
    for name in names:
        window.add(event(str(name)))
        if name not in last:
            last.append(name)
        assert [each for each in range(7) if event(str(each)) in window] == sorted(last)
