"""Of a fault that repeats, the log shows the first line, then one a minute."""

import threading
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.clock import Clock
from worker.observe.log import Repeats, in_short, origin


def test_the_first_is_shown_at_once_and_the_next_a_minute_later_with_their_number() -> None:
    clock = Clock()
    repeats = Repeats(clock=clock)
    shown = []
    for _ in range(14):
        shown.append(repeats.seen("down"))
        clock.now += 10
    assert shown == [0, *[None] * 5, 5, *[None] * 5, 5, None]


def test_one_that_comes_rarely_is_always_shown() -> None:
    clock = Clock()
    repeats = Repeats(every=60, clock=clock)
    for _ in range(3):
        assert repeats.seen("down") == 0
        clock.now += 60


def test_another_fault_is_shown_at_once_and_counted_by_itself() -> None:
    clock = Clock()
    repeats = Repeats(clock=clock)
    assert [repeats.seen(fault) for fault in ("a", "b", "a", "b", "a")] == [0, 0, None, None, None]
    clock.now += 60
    assert [repeats.seen(fault) for fault in ("b", "a")] == [1, 2]


def test_what_was_left_out_before_a_long_silence_is_counted_after_it() -> None:
    clock = Clock()
    repeats = Repeats(clock=clock)
    assert [repeats.seen("down"), repeats.seen("down")] == [0, None]
    clock.now += 86400
    assert repeats.seen("down") == 1


def test_of_too_many_faults_the_one_shown_longest_ago_is_forgotten() -> None:
    clock = Clock()
    repeats = Repeats(every=60, most=2, clock=clock)
    assert [repeats.seen("a"), repeats.seen("b")] == [0, 0]
    clock.now += 60
    assert [repeats.seen("a"), repeats.seen("c")] == [0, 0]  # b was shown longest ago
    assert [repeats.seen("a"), repeats.seen("c"), repeats.seen("b")] == [None, None, 0]


def test_however_many_faults_there_are_no_more_than_so_many_are_kept() -> None:
    repeats = Repeats(most=10, clock=Clock())
    for number in range(1000):
        assert repeats.seen(("fault", number)) == 0
    assert sum(repeats.seen(("fault", number)) is None for number in range(1000)) <= 10


@settings(max_examples=200)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 40)), max_size=60))
def test_every_one_is_shown_or_counted_and_no_two_are_shown_within_a_minute(
    happened: Iterable[tuple[str, int]],
) -> None:
    clock = Clock()
    repeats = Repeats(every=60, clock=clock)
    shown_at: dict[str, float] = {}
    uncounted = dict.fromkeys("abc", 0)
    for fault, pause in happened:
        clock.now += pause
        left_out = repeats.seen(fault)
        due = fault not in shown_at or clock.now - shown_at[fault] >= 60
        assert (left_out is not None) == due
        if left_out is None:
            uncounted[fault] += 1
        else:
            assert left_out == uncounted[fault]
            shown_at[fault], uncounted[fault] = clock.now, 0


def test_threads_may_ask_at_one_time() -> None:
    clock = Clock()
    repeats = Repeats(most=4, clock=clock)
    counted = []

    def ask() -> None:
        counted.append(sum(repeats.seen("down") is not None for _ in range(2000)))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counted) == 1
    clock.now += 60
    assert repeats.seen("down") == 7999


# --- where an error came from


def caught(work: Callable[[], object]) -> Exception:
    """Return what the work raises."""
    try:
        work()
    except Exception as error:  # noqa: BLE001 - whatever it is
        return error
    raise AssertionError("it raised nothing")


def one(text: str = "a", kind: type[Exception] = KeyError) -> None:
    raise kind(text)


def other() -> None:
    raise KeyError("a")


def wrapped(inner: Callable[[], None]) -> None:
    try:
        inner()
    except KeyError as error:
        raise RuntimeError("it failed") from error


def in_a_group(inner: Callable[[], None]) -> None:
    raise ExceptionGroup("several", [caught(inner)])


def quiet(inner: Callable[[], None]) -> None:
    try:
        inner()
    except KeyError:
        raise RuntimeError("it failed") from None


def test_the_same_error_from_the_same_line_has_the_same_origin_whatever_its_text() -> None:
    assert origin(caught(lambda: one("a"))) == origin(caught(lambda: one("b")))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (one, other),
        (one, lambda: one(kind=ValueError)),
        (lambda: wrapped(one), lambda: wrapped(other)),
        (lambda: in_a_group(one), lambda: in_a_group(other)),
    ],
    ids=["line", "class", "cause", "group"],
)
def test_another_line_class_or_cause_is_another_origin(
    first: Callable[[], None], second: Callable[[], None]
) -> None:
    assert origin(caught(first)) != origin(caught(second))
    assert origin(caught(first)) == origin(caught(first))


def test_what_a_traceback_would_not_show_makes_no_difference() -> None:
    assert origin(caught(lambda: quiet(one))) == origin(caught(lambda: quiet(other)))


def test_an_error_that_was_never_raised_or_has_a_circle_behind_it_has_an_origin() -> None:
    error = KeyError("x")
    error.__cause__ = cause = ValueError("y")
    cause.__cause__ = error
    found = origin(error)
    assert {each[0] for each in found if isinstance(each, tuple)} == {KeyError, ValueError}
    assert len(found) <= 8


class Broken(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_in_short_an_error_is_named_with_the_line_that_raised_it() -> None:
    line = one.__code__.co_firstlineno + 1
    shown = in_short(caught(lambda: one("a", ValueError)))
    assert shown == f"ValueError: a at {__file__}:{line}; the traceback is in an earlier line"
    assert in_short(KeyError("a")) == "KeyError: 'a'; the traceback is in an earlier line"
    assert in_short(Broken()).startswith("Broken: (it has no text)")
