"""Who is let in: tokens from files, compared whole and read again, and a rate for each source."""

import os
from pathlib import Path

import pytest

from tests.clock import Clock
from worker.intake.access import LOOK_EVERY, MOST_SOURCES, Rates, Tokens, presented, source_of

FIRST, SECOND = "first-token_of.tests", "second~token-of-tests"


class Observer:
    def __init__(self) -> None:
        self.changes: list[tuple[str, str | None]] = []

    def token_changed(self, file: Path, problem: str | None) -> None:
        self.changes.append((file.name, problem))


class Bench:
    """Tokens in two files, with a clock that stands still."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.files = [folder / "a", folder / "b"]
        self.files[0].write_text(f"{FIRST}\n")
        self.files[1].write_text(SECOND)
        self.clock = clock
        self.learned: list[str] = []
        self.observer = Observer()
        self.tokens = Tokens(self.files, self.learned.append, self.observer, clock=clock)

    def change(self, text: str | None) -> None:
        """Replace the first file, as an administrator does, and let the time pass until the next look."""
        if text is None:
            self.files[0].unlink()
        else:
            new = self.files[0].with_name("new")
            new.write_text(text)
            os.replace(new, self.files[0])  # noqa: PTH105 - in one step
        self.clock.now += LOOK_EVERY


@pytest.fixture
def bench(tmp_path: Path, clock: Clock) -> Bench:
    return Bench(tmp_path, clock)


def test_each_token_is_accepted_whole_and_nothing_else(bench: Bench) -> None:
    assert bench.tokens.accept(FIRST)
    assert bench.tokens.accept(SECOND)
    assert bench.learned == [FIRST, SECOND]
    for wrong in ("", FIRST[:-1], FIRST + "x", FIRST.upper(), f"{FIRST}\n", "\ud800é"):
        assert not bench.tokens.accept(wrong)


def test_a_token_that_changes_counts_without_a_restart(bench: Bench) -> None:
    bench.change("another-token-of-tests")
    assert bench.tokens.accept("another-token-of-tests")
    assert not bench.tokens.accept(FIRST)
    assert bench.tokens.accept(SECOND)
    assert bench.observer.changes == [("a", None)]


def test_a_file_is_looked_at_once_a_second_at_most(bench: Bench) -> None:
    bench.change("another-token-of-tests")
    bench.clock.now += -LOOK_EVERY / 2
    assert bench.tokens.accept(FIRST)


def test_a_file_that_is_just_being_written_does_not_turn_the_producer_away(bench: Bench) -> None:
    for text, problem in (("", "is empty"), ("short", "holds no token of 16 to 256")):
        bench.change(text)
        assert bench.tokens.accept(FIRST)
        assert problem in str(bench.observer.changes[-1][1])
    assert len(bench.observer.changes) == 2


def test_a_file_that_is_removed_revokes_its_token(bench: Bench) -> None:
    bench.change(None)
    assert not bench.tokens.accept(FIRST)
    assert "can't read" in str(bench.observer.changes[-1][1])
    bench.change(FIRST)
    assert bench.tokens.accept(FIRST)


@pytest.mark.parametrize("text", ["", "short", "x" * 257, "with blank between it", "&token=in-an-address"])
def test_a_token_that_could_be_guessed_or_needs_escapes_is_refused_at_the_start(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / "token").write_text(text)
    with pytest.raises(ValueError, match="token") as caught:
        Tokens([tmp_path / "token"], lambda _: None, Observer())
    assert not text or text not in str(caught.value)


@pytest.mark.parametrize(
    ("headers", "query", "expected"),
    [
        ({}, {}, ""),
        ({"Authorization": "Bearer a"}, {"token": "b"}, "a"),
        ({"Authorization": "bearer  a"}, {}, "a"),
        ({"Authorization": "Basic a"}, {"token": "b"}, "b"),
        ({"Authorization": "Bearer"}, {}, ""),
    ],
)
def test_the_token_is_in_the_header_or_in_the_query(
    headers: dict[str, str], query: dict[str, str], expected: str
) -> None:
    assert presented(headers, query) == expected


def test_a_source_has_its_own_rate(clock: Clock) -> None:
    rates = Rates(3, clock=clock)
    assert [rates.admit("a") for _ in range(5)] == [True, True, True, False, False]
    assert rates.admit("b")
    clock.now += 0.5
    assert [rates.admit("a") for _ in range(2)] == [True, False]
    clock.now += 3600
    assert [rates.admit("a") for _ in range(4)] == [True, True, True, False]


def test_the_sources_that_are_remembered_are_bounded(clock: Clock) -> None:
    rates = Rates(1, clock=clock)
    assert all(rates.admit(str(number)) for number in range(MOST_SOURCES + 1))
    assert rates.admit("0")
    assert not rates.admit(str(MOST_SOURCES))


@pytest.mark.parametrize(
    ("remote", "source"),
    [
        ("10.10.10.15", "10.10.10.15"),
        ("::ffff:10.10.10.15", "10.10.10.15"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        (None, "unknown"),
        ("somewhere", "somewhere"),
    ],
)
def test_a_source_is_an_address_or_a_network_of_one_host(remote: str | None, source: str) -> None:
    assert source_of(remote) == source
