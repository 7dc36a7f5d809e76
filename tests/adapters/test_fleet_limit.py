"""The limit that several workers find together, against a simulated dialer in simulated time."""

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable
from statistics import mean
from typing import NamedTuple

import pytest

from worker.core.fleet import EXPIRE, Board, Needs, Seat
from worker.vicidial.limiter import AdaptiveLimit

MOST = 8
PLACES = 4
SERVICE = 0.02


class Worker:
    """One worker: its limit, its seat, and how many requests it has use for at one time."""

    def __init__(self, fleet: "Fleet", name: str, wanted: int) -> None:
        self.fleet, self.name, self.wanted = fleet, name, wanted
        self.limit = AdaptiveLimit(MOST, lambda: fleet.now)
        self.seat = Seat(name, MOST, lambda: fleet.now)
        self.share = self.busy = self.peak = 0
        self.over = False
        self.measurable = True

    def round(self) -> None:
        """Play a round, and the next one when it is due."""
        if self.over:
            return
        needs = Needs(self.busy, self.peak, self.limit.limit, self.limit.measures, tries=False, news=())
        played = self.seat.play(self.fleet.board, needs, 1e9 + self.fleet.now)
        self.fleet.board = self.seat.last = Board.decode(played.board.encode())
        self.limit.adopt(played)
        self.share, self.peak = played.share, self.wanted
        members = played.board.members
        assert sum(each.granted for each in members.values()) <= MOST, members
        self.fleet.after(0.1 if played.soon else 1.0, self.round)
        self.fleet.send()

    def ended(self, seconds: float) -> None:
        """Note an answer."""
        if not self.over and self.measurable:
            self.limit.on_success("call", seconds, self.busy)
        self.busy -= 1

    def free(self) -> bool:
        """Return whether it sends one more request now."""
        return not self.over and self.busy < min(self.limit.limit, self.share, self.wanted)

    def want(self, wanted: int) -> None:
        """Have use for so many requests at one time from now on."""
        self.wanted, self.peak = wanted, max(self.peak, wanted)
        if wanted and not self.share:
            self.round()
        self.fleet.send()


class Fleet:
    """Workers and a dialer that works on up to `places` requests at full speed, and shares it among more."""

    def __init__(self, *wanted: int, seed: int = 1) -> None:
        self.now = 0.0
        self.slowness = 1.0
        self.board = Board()
        self.answers: list[tuple[float, str, float]] = []
        self.workers: list[Worker] = []
        self._random = random.Random(seed)  # noqa: S311 - a simulation
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._under_way: list[tuple[float, int, float, Worker]] = []
        self._work = 0.0
        self._numbers = itertools.count()
        for each in wanted:
            self.start(each)

    def start(self, wanted: int = 100) -> Worker:
        worker = Worker(self, f"w{len(self.workers)}", wanted)
        self.workers.append(worker)
        self.after(self._random.random(), worker.round)
        return worker

    def after(self, seconds: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self.now + seconds, next(self._numbers), what))

    def send(self) -> None:
        """Send what the workers may."""
        for worker in self.workers:
            while worker.free():
                worker.busy += 1
                work = self._work + SERVICE * self._random.lognormvariate(0.0, 0.1)
                heapq.heappush(self._under_way, (work, next(self._numbers), self.now, worker))

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while True:
            speed = min(1.0, PLACES / max(1, len(self._under_way))) / self.slowness
            ends = self.now + (self._under_way[0][0] - self._work) / speed if self._under_way else until + 1
            due = self._due[0][0] if self._due else until + 1
            at = min(ends, due, until)
            self._work += (at - self.now) * speed
            self.now = at
            if at == until:
                return
            if due <= ends:
                heapq.heappop(self._due)[2]()
                continue
            _, _, sent, worker = heapq.heappop(self._under_way)
            worker.ended(self.now - sent)
            self.answers.append((self.now, worker.name, self.now - sent))
            self.send()

    def over(self, seconds: float) -> "Seen":
        """Run on for so long. Return what happened meanwhile."""
        before = len(self.answers)
        self.run(seconds)
        answers = self.answers[before:]
        return Seen(
            len(answers) / seconds,
            Counter({worker.name: 0 for worker in self.workers if not worker.over})
            + Counter(name for _, name, _ in answers),
            mean(spent for _, _, spent in answers) if answers else 0.0,
        )


class Seen(NamedTuple):
    """What happened in some time: answers a second, those of each worker, and their mean time."""

    rate: float
    answers: Counter[str]
    seconds: float

    @property
    def spread(self) -> float:
        return max(self.answers.values()) / min(self.answers.values())


SETTLED = 40.0
"""Seconds after which the measurements are rare."""


@pytest.mark.parametrize(
    ("workers", "factor", "spread", "rate"), [(2, 1.3, 1.2, 185), (4, 1.3, 1.2, 185), (8, 1.3, 1.5, 170)]
)
def test_more_workers_make_the_dialer_no_slower_and_share_it(
    workers: int, factor: float, spread: float, rate: float
) -> None:
    alone = Fleet(100)
    alone.run(SETTLED)
    expected = alone.over(60.0)
    assert expected.rate == pytest.approx(200, rel=0.02)
    fleet = Fleet(*[100] * workers)
    fleet.run(SETTLED)
    seen = fleet.over(60.0)
    assert seen.seconds < factor * expected.seconds
    assert seen.spread < spread
    assert seen.rate > rate


@pytest.mark.parametrize("workers", [1, 4, 8])
def test_the_limit_is_found_within_seconds_of_the_first_events(workers: int) -> None:
    fleet = Fleet(*[0] * workers)
    fleet.run(60.0)
    assert not fleet.answers
    for worker in fleet.workers:
        worker.want(100)
    fleet.run(5.0)
    assert fleet.over(5.0).rate > 150


def test_a_request_of_an_idle_fleet_is_sent_at_once() -> None:
    fleet = Fleet(0, 0, 0, 0)
    fleet.run(10.0)
    for worker in fleet.workers:
        worker.want(1)
        fleet.run(0.2)
        worker.want(0)
        fleet.run(9.8)
        assert fleet.answers[-1][1] == worker.name
    assert all(seconds < 0.05 for _, _, seconds in fleet.answers)


def test_what_one_has_no_use_for_goes_to_the_others_and_comes_back() -> None:
    fleet = Fleet(100, 1, 0)
    fleet.run(SETTLED)
    seen = fleet.over(5.0)
    assert seen.rate > 185
    assert seen.answers["w1"] == pytest.approx(5.0 / SERVICE / 1.3, rel=0.3)
    assert seen.answers["w2"] == 0
    fleet.workers[2].want(100)
    fleet.run(2.0)
    seen = fleet.over(8.0)
    assert seen.answers["w0"] < 1.5 * seen.answers["w2"]
    fleet.workers[0].want(0)
    fleet.run(2.0)
    assert fleet.over(4.0).rate > 150, "the next leader measures"


def test_a_worker_that_joins_has_its_share_within_five_seconds() -> None:
    fleet = Fleet(100, 100, 100)
    fleet.run(SETTLED)
    joined = fleet.start()
    fleet.run(5.0)
    seen = fleet.over(10.0)
    assert seen.answers[joined.name] > 0.2 * seen.answers.total()


@pytest.mark.parametrize("which", ["the leader", "another"])
def test_the_others_go_on_without_a_worker_that_dies(which: str) -> None:
    fleet = Fleet(100, 100, 100, 100)
    fleet.run(SETTLED)
    leads = [worker.name == fleet.board.leader for worker in fleet.workers]
    fleet.workers[leads.index(which == "the leader")].over = True
    assert fleet.over(EXPIRE).rate > 100
    fleet.run(5.0)
    seen = fleet.over(20.0)
    assert seen.rate > 185
    assert seen.spread < 1.3
    assert fleet.board.leader in seen.answers


@pytest.mark.parametrize("workers", [1, 4])
def test_all_follow_a_dialer_that_becomes_slower_and_recovers(workers: int) -> None:
    fleet = Fleet(*[100] * workers)
    fleet.run(15.0)
    fleet.slowness = 10.0
    fleet.run(6.0)
    assert fleet.board.limit == 1
    fleet.run(4.0)
    fleet.slowness = 1.0
    fleet.run(40.0)
    assert fleet.over(10.0).rate > 175


def test_an_overload_that_one_worker_sees_lowers_the_limit_of_all() -> None:
    fleet = Fleet(100, 100, 100)
    fleet.run(15.0)
    follower = next(worker for worker in fleet.workers if worker.name != fleet.board.leader)
    before = follower.limit.limit
    follower.limit.on_overload()
    follower.limit.on_overload()
    follower.round()
    assert fleet.board.limit == before // 2
    fleet.run(2.5)
    assert all(worker.limit.limit <= before - 1 for worker in fleet.workers)
    fleet.run(SETTLED)
    assert fleet.over(10.0).rate > 175


def test_a_request_that_hangs_keeps_the_others_waiting_for_seconds_at_most() -> None:
    """It is of another worker than the leader, which can't measure meanwhile."""
    fleet = Fleet(100, 100)
    fleet.run(8.0)
    follower = next(worker for worker in fleet.workers if worker.name != fleet.board.leader)
    follower.busy += 1
    slow = sum(fleet.over(1.0).rate < 100 for _ in range(10))
    follower.busy -= 1
    assert 1 <= slow <= 4
    fleet.run(20.0)
    assert fleet.over(10.0).rate > 170


def test_others_wait_for_a_measurement_for_ten_seconds_at_most() -> None:
    """The leader gets no answer that it could measure."""
    fleet = Fleet(100, 100, 100)
    for worker in fleet.workers:
        worker.measurable = False
    fleet.run(9.0)
    assert len({name for _, name, _ in fleet.answers}) == 1
    seen = fleet.over(30.0)
    assert min(seen.answers.values()) > 200
