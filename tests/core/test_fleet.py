"""The board that all workers share: shares, turns, and what happens to those that are gone."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.clock import Clock
from worker.core.fleet import EXPIRE, LONGEST_BOARD, Board, Member, Needs, Seat
from worker.core.logins import Login, Logins

NOW = 1e9
MOST = 8


def needs(
    wanted: int = 100,
    busy: int = 0,
    *,
    limit: int = MOST,
    measures: bool = False,
    tries: bool = False,
    news: tuple[Login, ...] = (),
) -> Needs:
    return Needs(busy, wanted, limit, measures, tries, news)


class Table:
    """Seats at one board; each holds all of its share if it wants as much."""

    def __init__(self, clock: Clock, count: int) -> None:
        self.clock = clock
        self.board = Board()
        self.seats = [Seat(f"w{number}", MOST, clock) for number in range(count)]
        self.shares = dict.fromkeys((seat.name for seat in self.seats), 0)
        self.tries: dict[str, bool] = {}

    def play(self, seat: Seat, brought: Needs | None = None) -> int:
        played = seat.play(self.board, brought or needs(), NOW + self.clock.now)
        self.board = seat.last = Board.decode(played.board.encode())
        self.shares[seat.name] = played.share
        self.tries[seat.name] = played.may_try
        return played.share

    def second(self, **wanted: int) -> None:
        for seat in self.seats:
            self.play(seat, needs(wanted.get(seat.name, 100)))
        self.clock.now += 1.0


@pytest.mark.parametrize(
    ("workers", "shares"),
    [(1, [8]), (2, [4, 4]), (3, [3, 3, 2]), (4, [2, 2, 2, 2]), (8, [1] * 8)],
)
def test_all_get_an_even_share_within_three_rounds(clock: Clock, workers: int, shares: list[int]) -> None:
    table = Table(clock, workers)
    for _ in range(3):
        table.second()
        assert sum(table.shares.values()) <= MOST
    assert sorted(table.shares.values(), reverse=True) == shares


def test_a_new_worker_gets_its_share_within_two_seconds(clock: Clock) -> None:
    table = Table(clock, 2)
    table.second()
    table.second()
    table.seats.append(Seat("w2", MOST, clock))
    table.second()
    table.second()
    assert min(table.shares.values()) >= 2


def test_what_one_has_no_use_for_goes_to_the_others(clock: Clock) -> None:
    table = Table(clock, 3)
    for _ in range(3):
        table.second(w0=0, w1=2)
    assert table.shares == {"w0": 1, "w1": 2, "w2": 5}
    table.second(w1=2)
    table.second(w1=2)
    assert table.shares == {"w0": 3, "w1": 2, "w2": 3}


def test_what_is_under_way_is_not_given_to_others(clock: Clock) -> None:
    table = Table(clock, 2)
    first, second = table.seats
    assert table.play(first) == 8
    assert table.play(second) == 0
    assert table.play(first, needs(busy=7)) == 4, "no new ones above its share"
    assert table.play(second) == 1
    assert table.play(first, needs(busy=4)) == 4
    assert table.play(second) == 4


def test_if_there_are_more_workers_than_requests_each_has_its_turn(clock: Clock) -> None:
    table = Table(clock, 10)
    served = dict.fromkeys(table.shares, 0)
    for _ in range(120):
        table.second()
        assert sum(table.shares.values()) <= MOST
        for name, share in table.shares.items():
            served[name] += share
    assert min(served.values()) > 0
    assert max(served.values()) <= 2 * min(served.values())


def test_the_share_of_a_lost_worker_goes_to_the_others_and_counts_as_failed(clock: Clock) -> None:
    table = Table(clock, 2)
    table.second()
    table.second()
    gone = table.seats.pop()
    del table.shares[gone.name]
    for _ in range(int(EXPIRE)):
        table.second()
    assert table.shares == {"w0": 4}
    table.second()
    assert len(table.board.logins.failures) == 4
    assert table.shares == {"w0": 5}, "with what may have failed no ten"
    good = Login("accepted", NOW + clock.now, NOW + clock.now, "a", lone=False)
    assert table.play(table.seats[0], needs(news=(good,))) == 8


def test_one_that_comes_to_the_board_seldom_takes_nobody_for_lost(clock: Clock) -> None:
    """As on a busy machine, on which each round takes seconds."""
    table = Table(clock, 2)
    table.second()
    table.second()
    for _ in range(3):
        clock.now += 4.0
        table.play(table.seats[0])
    assert set(table.board.members) == {"w0", "w1"}


def test_another_board_gives_nothing_twice_while_the_lost_one_is_still_in_use(clock: Clock) -> None:
    """A worker came too late to the board each time, and begins another one from what it knew last."""
    table = Table(clock, 4)
    table.second()
    table.second()
    first, second, third, late = table.seats
    for seat, wanted in ((first, 100), (second, 0), (third, 0)):
        table.play(seat, needs(wanted))
    begun = late.begin(NOW + clock.now)
    assert table.play(first) == 3, "what the other two have lowered, and the late one does not know"
    lost, table.board = table.board, begun
    for seat in (late, second, third):
        table.play(seat)
        assert seat.is_stale(lost)
    assert sum(table.shares.values()) <= MOST
    for _ in range(int(EXPIRE) + 4):
        table.second()
        assert sum(table.shares.values()) <= MOST
    assert set(table.shares.values()) == {2}


def test_one_that_was_away_itself_takes_nobody_for_lost(clock: Clock) -> None:
    table = Table(clock, 2)
    table.second()
    table.second()
    clock.now += 3600
    table.play(table.seats[0])
    assert set(table.board.members) == {"w0", "w1"}


def test_one_that_leaves_leaves_nothing_behind(clock: Clock) -> None:
    table = Table(clock, 2)
    table.second()
    table.board = table.seats[1].leave(table.board, needs(), NOW)
    assert table.board.trier is None
    assert table.board.logins == Logins()
    assert table.play(table.seats[0]) == 8


def refused(clock: Clock) -> Login:
    return Login("refused", NOW + clock.now, NOW + clock.now, "old", lone=False, message="no")


def test_a_refused_login_is_known_to_all_and_one_of_them_tries_again(clock: Clock) -> None:
    table = Table(clock, 3)
    table.second()
    table.play(table.seats[1], needs(news=(refused(clock),)))
    assert table.board.logins.message == "no"
    for seat in table.seats:
        table.play(seat, needs(tries=True))
    assert table.tries == {"w0": True, "w1": False, "w2": False}
    table.play(table.seats[0])
    table.play(table.seats[2], needs(tries=True))
    assert table.tries["w2"]
    clock.now += 1.0
    lone = Login("accepted", NOW + clock.now, NOW + clock.now, "new", lone=True)
    table.play(table.seats[2], needs(news=(lone,)))
    assert table.board.logins == Logins()
    assert table.board.trier is None


def test_a_lost_try_counts_as_failed_and_the_next_one_is_another_workers(clock: Clock) -> None:
    table = Table(clock, 2)
    table.second()
    table.play(table.seats[0], needs(tries=True, news=(refused(clock),)))
    gone = table.seats.pop(0)
    del table.shares[gone.name]
    for _ in range(int(EXPIRE) + 2):
        table.second()
    assert table.board.trier is None
    assert len(table.board.logins.failures) >= 2
    assert table.board.logins.tried_at >= NOW + clock.now - 2
    table.play(table.seats[0], needs(tries=True))
    assert table.tries["w1"]


@pytest.mark.parametrize(("busy", "tries", "failures"), [(3, False, 4), (0, True, 2), (2, True, 3)])
def test_one_that_leaves_in_the_middle_may_have_failed(
    clock: Clock,
    busy: int,
    tries: bool,  # noqa: FBT001 - a case
    failures: int,
) -> None:
    table = Table(clock, 1)
    table.play(table.seats[0], needs(tries=True, news=(refused(clock),)))
    left = table.seats[0].leave(table.board, needs(busy=busy, tries=tries), NOW)
    assert (len(left.logins.failures), left.trier, left.members) == (failures, None, {})


def test_one_that_is_lost_after_a_refusal_leaves_nothing_in_doubt(clock: Clock) -> None:
    table = Table(clock, 2)
    table.second()
    table.play(table.seats[0], needs(news=(refused(clock),)))
    table.second()
    gone = table.seats.pop(0)
    del table.shares[gone.name]
    for _ in range(int(EXPIRE) + 2):
        table.second()
    assert set(table.board.members) == {"w1"}
    assert len(table.board.logins.failures) == 1


def test_an_earlier_board_is_stale(clock: Clock) -> None:
    table = Table(clock, 1)
    before = table.board
    table.second()
    assert table.seats[0].is_stale(before)
    assert not table.seats[0].is_stale(table.board)


def test_a_seat_without_requests_may_try_and_has_no_share(clock: Clock) -> None:
    played = Seat("check", 0, clock).play(Board(), needs(0, tries=True), NOW)
    assert (played.share, played.may_try) == (0, True)


def test_the_first_with_requests_leads_and_sets_the_limit_of_all(clock: Clock) -> None:
    table = Table(clock, 2)
    first, second = table.seats
    table.play(first, needs(0, limit=1))
    assert table.board.leader == "w0"
    table.play(second, needs(limit=1))
    assert table.board.leader == "w1", "the first one has no requests"
    table.play(first, needs(limit=1))
    table.play(second, needs(limit=5))
    assert (table.board.leader, table.board.limit) == ("w1", 5)
    table.play(first, needs(limit=1))
    assert table.board.limit == 5
    assert table.shares["w0"] <= 3


def test_any_one_lowers_the_limit_and_the_leader_learns_it(clock: Clock) -> None:
    table = Table(clock, 2)
    first, second = table.seats
    table.play(first, needs(limit=8))
    table.play(second, needs(limit=1))
    table.play(first, needs(limit=8))
    table.play(second, needs(limit=8))
    table.play(second, needs(limit=4))
    assert table.board.limit == 4
    table.play(second, needs(limit=4))
    played = first.play(table.board, needs(limit=8), NOW)
    assert (played.leads, played.lowered, played.board.limit) == (True, True, 4)
    played = first.play(table.board, needs(limit=2), NOW)
    assert (played.lowered, played.board.limit) == (True, 2)


def test_nobody_else_sends_while_the_leader_measures(clock: Clock) -> None:
    table = Table(clock, 3)
    for _ in range(3):
        table.second()
    first, second, third = table.seats
    played = first.play(table.board, needs(limit=1, busy=2, measures=True), NOW)
    assert (played.soon, played.alone, played.board.measuring) == (True, False, True)
    table.play(first, needs(limit=1, busy=1, measures=True))
    for seat in (second, third):
        assert table.play(seat, needs(limit=8)) == 0
    played = first.play(table.board, needs(limit=1, measures=True), NOW)
    assert (played.alone, played.share) == (True, 1)
    table.play(first, needs(limit=6))
    for seat in (second, third):
        assert table.play(seat, needs(limit=1)) == 2


def test_a_leader_that_has_nothing_to_measure_makes_nobody_wait(clock: Clock) -> None:
    table = Table(clock, 2)
    table.play(table.seats[0], needs(1, limit=8))
    table.play(table.seats[1], needs(0, limit=1))
    assert not table.seats[0].play(table.board, needs(0, limit=1, measures=True), NOW).board.measuring


def test_another_leads_once_the_leader_is_gone(clock: Clock) -> None:
    table = Table(clock, 2)
    table.second()
    table.second()
    table.play(table.seats[0], needs(limit=1, measures=True))
    left = table.seats[0].leave(table.board, needs(), NOW)
    played = table.seats[1].play(left, needs(limit=1), NOW)
    assert (played.leads, played.board.leader, played.board.measuring) == (True, "w1", False)


def test_if_there_are_more_workers_than_requests_an_idle_one_has_no_share(clock: Clock) -> None:
    table = Table(clock, 10)
    for _ in range(5):
        table.second(w3=0, w4=0, w5=0)
    shares = [table.shares[f"w{number}"] for number in range(10)]
    assert shares[3:6] == [0, 0, 0]
    assert sum(shares) == MOST
    table.second(**{f"w{number}": 0 for number in range(10)})
    assert sum(table.shares.values()) == 0


def test_a_board_is_the_same_after_a_journey() -> None:
    logins = Logins("no", 1.5, "a", 2, (1.0, 1.5), {"a": 1.5})
    board = Board(7, {"a": Member(1, 2, 3)}, logins, "a", "a", 5, measuring=True, begun=1.5)
    assert Board.decode(board.encode()) == board


GOOD = json.loads(Board(7, {"a": Member(1, 2, 3)}, Logins("no", 1.5), None).encode())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        b" " * (LONGEST_BOARD + 1),
        json.dumps(GOOD | {"members": {"a": [1]}}).encode(),
        json.dumps(GOOD | {"members": [1]}).encode(),
        json.dumps(GOOD | {"version": "x"}).encode(),
        json.dumps(GOOD | {"begun": "x"}).encode(),
        json.dumps(GOOD | {"logins": None}).encode(),
        json.dumps(GOOD | {"logins": GOOD["logins"] | {"tried_at": float("nan")}}).encode(),
        json.dumps(GOOD | {"version": float("inf")}).encode(),
    ],
)
def test_what_is_no_board_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any of them
        Board.decode(body)


@given(
    rounds=st.lists(
        st.tuples(st.integers(0, 11), st.integers(0, 20), st.sampled_from([0.0, 0.3, 1.0, 7.0])), max_size=60
    )
)
def test_whatever_they_want_they_never_hold_more_than_there_is(rounds: list[Any]) -> None:
    clock = Clock()
    table = Table(clock, 12)
    held = dict.fromkeys(table.shares, 0)
    for number, wanted, seconds in rounds:
        seat = table.seats[number]
        held[seat.name] = table.play(seat, needs(wanted, busy=held[seat.name]))
        granted = table.board.members
        assert sum(each.granted for each in granted.values()) <= MOST
        clock.now += seconds
