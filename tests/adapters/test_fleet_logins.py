"""All workers at one dialer, in simulated time: how many failed logins reach it, and who gets which share."""

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial

import pytest

from simulators.dialer.logins import check_login, is_locked
from simulators.dialer.world import ApiUser
from tests.clock import Clock
from worker.core.breakers import CircuitBreakers
from worker.core.errors import LoginRefused
from worker.core.fleet import Board, Needs, Seat
from worker.vicidial.guard import Guard, LockoutGuard, Permit, keyed_hash

pytestmark = pytest.mark.verify

SPAN = 900.0
MOST = 8
KEY = b"one for all"


@dataclass
class Dialer:
    """The dialer's own count, and when each login failed."""

    clock: Clock
    user: ApiUser
    failures: list[float] = field(default_factory=list)
    logins: int = 0
    locked: bool = False

    def log_in(self, password: str) -> bool:
        self.logins += 1
        good = check_login(self.user, password, self.clock.now) == "GOOD"
        if not good:
            self.failures.append(self.clock.now)
        self.locked |= is_locked(self.user, self.clock.now)
        return good

    @property
    def most_in_15_minutes(self) -> int:
        return max(
            (sum(at <= each <= at + SPAN for each in self.failures) for at in self.failures), default=0
        )


class Simulated:
    """One worker: its guard, its seat, and the requests that it has under way."""

    def __init__(self, fleet: "Simulation", name: str) -> None:
        self.fleet = fleet
        self.password = fleet.file
        self.hurry = self.over = False
        wait = timedelta(seconds=300)
        breakers = CircuitBreakers(full=64, probe_max=wait, refused_probe=wait, clock=fleet.clock)
        self.lockout = LockoutGuard(
            300.0, self.password, self.read, fleet.clock, lambda text: keyed_hash(KEY, text)
        )
        self.guard = Guard(breakers, self.lockout, max_concurrency=MOST, clock=fleet.clock)
        self.guard.leave()
        self.guard.on_news = self.soon
        self.seat = Seat(name, MOST, fleet.clock)
        self.under_way = 0
        self.answered = 0

    def read(self) -> str:
        self.password = self.fleet.file
        return self.password

    def soon(self) -> None:
        if not self.hurry:
            self.hurry = True
            self.fleet.after(self.fleet.rng.uniform(0.005, 0.05), self.round)

    def needs(self, now: float) -> Needs:
        needs = self.guard.needs(now)
        return replace(needs, busy=self.under_way, wanted=self.under_way + self.fleet.waiting)

    def round(self) -> None:
        """Play a round, unless this process has ended."""
        self.hurry = False
        if self.over:
            return
        now = self.fleet.clock.now + 1e9
        played = self.seat.play(self.fleet.board, self.needs(now), now)
        self.fleet.board = Board.decode(played.board.encode())
        self.seat.last = played.board
        self.guard.take(played)
        held = sum(each.granted for each in played.board.members.values())
        assert held <= MOST, played.board

    def tick(self) -> None:
        """Play the round of each second."""
        self.round()
        if not self.over:
            self.fleet.after(1.0, self.tick)

    def send(self) -> None:
        """Send as many requests as the guard allows, as often as it does."""
        if self.over:
            return
        while self.fleet.waiting and self.under_way < self.guard._limiter.share:  # noqa: SLF001 - the outcome
            try:
                permit = self.lockout.admit()
            except LoginRefused:
                break
            self.under_way += 1
            self.fleet.waiting -= 1
            self.fleet.after(self.fleet.rng.uniform(0.01, 0.2), partial(self.end, permit, self.password))
        self.fleet.after(0.02 if not self.lockout.refusing else 1.0, self.send)

    def end(self, permit: Permit, password: str) -> None:
        good = self.fleet.dialer.log_in(password)
        self.under_way -= 1
        if self.over:
            return
        if good:
            self.answered += 1
            self.lockout.accepted(permit)
        else:
            self.fleet.waiting += 1
            self.lockout.refused(permit, "no")

    def kill(self) -> None:
        """End at once: the place on the board is left as it is."""
        self.over = True
        self.fleet.waiting += self.under_way

    def stop(self) -> None:
        """End in order."""
        now = self.fleet.clock.now + 1e9
        self.fleet.board = self.seat.leave(self.fleet.board, self.needs(now), now)
        self.kill()


class Simulation:
    """Workers, a board, a dialer and a password file; what happens is in the order of time."""

    def __init__(self, seed: int, workers: int, waiting: int = 1000) -> None:
        self.rng = random.Random(seed)  # noqa: S311 - a simulation
        self.clock = Clock()
        self.file = "old"
        self.dialer = Dialer(self.clock, ApiUser("old", last_login=self.clock.now))
        self.board = Board()
        self.waiting = waiting
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._names = itertools.count()
        self.workers: list[Simulated] = []
        for _ in range(workers):
            self.start()

    def start(self) -> Simulated:
        """Start a worker: its first round, then its requests."""
        worker = Simulated(self, f"w{next(self._names)}")
        self.workers.append(worker)
        self.after(self.rng.uniform(0.0, 1.0), worker.tick)
        self.after(self.rng.uniform(0.0, 1.0), worker.send)
        return worker

    def after(self, seconds: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self.clock.now + seconds, next(self._numbers), what))

    def run(self, seconds: float) -> None:
        until = self.clock.now + seconds
        while self._due and self._due[0][0] <= until:
            self.clock.now, _, what = heapq.heappop(self._due)
            what()
        self.clock.now = until

    def restart(self, *, in_order: bool) -> None:
        """Restart a worker."""
        worker = self.rng.choice(self.workers)
        (worker.stop if in_order else worker.kill)()
        self.workers.remove(worker)
        self.start()

    def check(self) -> None:
        """Do what `crm-sync check` does about logins."""
        lockout = LockoutGuard(
            300.0, self.file, lambda: self.file, self.clock, lambda text: keyed_hash(KEY, text)
        )
        seat, now = Seat("check", 0, self.clock), self.clock.now + 1e9
        lockout.news(now)
        lockout.learn(self.board.logins)
        if lockout.refusing and (lockout.ready_in() > 0 or self.board.trier is not None):
            return
        permit = lockout.admit()
        if self.dialer.log_in(self.file):
            lockout.accepted(permit)
        else:
            lockout.refused(permit, "no")
        if lockout.has_news:
            self.board = seat.leave(
                self.board, Needs(0, 0, 1, measures=False, tries=False, news=lockout.news(now)), now
            )


@pytest.mark.parametrize("seed", range(20))
def test_a_password_that_changes_under_load_never_makes_ten_failed_logins(seed: int) -> None:
    """Four workers, 1,000 events waiting; restarts, kills and `check` meanwhile; mistyped twice."""
    simulation = Simulation(seed, 4)
    rng = simulation.rng
    simulation.run(rng.uniform(4.0, 8.0))
    simulation.waiting += 1000
    simulation.dialer.user.password = "new"
    for _ in range(rng.randrange(5, 40)):
        simulation.run(rng.uniform(1.0, 60.0))
        match rng.randrange(5):
            case 0:
                simulation.restart(in_order=True)
            case 1:
                simulation.restart(in_order=False)
            case 2 | 3:
                simulation.check()
            case _:
                simulation.start()
                simulation.workers.pop(0).stop()
        if rng.random() < 0.1:
            simulation.file = rng.choice(["wrong", "mistyped", "old"])
    first = len(simulation.dialer.failures)
    assert first >= 1
    simulation.file = "new"
    simulation.run(35 * 60.0)
    print(f"seed {seed}: {simulation.dialer.most_in_15_minutes} failed logins in 15 minutes")  # noqa: T201
    assert simulation.dialer.most_in_15_minutes < 10
    assert not simulation.dialer.locked
    assert simulation.waiting == 0, "everything goes through once the password is right"
