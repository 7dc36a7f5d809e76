"""A small worker in simulated time, through outages that last for days: nothing may be lost.

The breakers and the retry policy are the real ones; the broker's queue and tiers, the dialer and the sink
are played, and who asks the dialer questions of our own. Run with `-s` to see the table of what happened.
"""

import heapq
import math
import random
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import count, pairwise
from statistics import median

import pytest

from worker.core.breakers import BreakerStatus, CircuitBreaker
from worker.core.errors import (
    DeliveryUnavailable,
    EnrichmentUnavailable,
    FailureKind,
    Reason,
    Unavailable,
)
from worker.core.ports import DeadLetter, Retry
from worker.core.retry import RetryPolicy
from worker.core.transitions import State

pytestmark = pytest.mark.no_cover  # hours of simulated time; the other tests of the core reach each line

SEED = 20261120
SECOND = timedelta(seconds=1)
MINUTE = 60.0
HOUR = 60 * MINUTE
DAY = 24 * HOUR
FULL = 64
POLICY = RetryPolicy(
    delays=(5 * SECOND, 30 * SECOND, 120 * SECOND, 600 * SECOND, 3600 * SECOND),
    max_attempts=12,
    ready_within=900 * SECOND,
)
NEVER = math.inf

OUR_OWN_QUESTION = -1
"""Stands for an event when the dialer is asked a question of our own."""

Answer = tuple[float, FailureKind | None, timedelta | None]
"""How many seconds it takes, the trouble if there is any, and the wait that is asked for."""
Trouble = Callable[[random.Random, float, int], Answer | None]
"""How a dependency answers about an event, so many seconds into its bad time; `None` means well."""


def always(seconds: float, kind: FailureKind = FailureKind.OUTAGE, wait: float | None = None) -> Trouble:
    answer = (seconds, kind, None if wait is None else timedelta(seconds=wait))
    return lambda _rng, _since, _event: answer


def at_random(share: float) -> Trouble:
    return lambda rng, _since, _event: (0.1, FailureKind.OUTAGE, None) if rng.random() < share else None


def off_and_on(off: float, on: float, seconds: float = 0.1) -> Trouble:
    return lambda _rng, since, _event: (
        (seconds, FailureKind.OUTAGE, None) if since % (off + on) < off else None
    )


def only_of(
    poison: Callable[[int], bool], seconds: float = 0.1, kind: FailureKind = FailureKind.OUTAGE
) -> Trouble:
    return lambda _rng, _since, event: (seconds, kind, None) if poison(event) else None


def over(limit: float, burst: float, wait: float | None) -> Trouble:
    """Accept so many requests a second and answer 429 to all above."""
    asked = None if wait is None else timedelta(seconds=wait)
    tokens, filled = burst, 0.0

    def answer(_rng: random.Random, since: float, _event: int) -> Answer | None:
        nonlocal tokens, filled
        tokens, filled = min(burst, tokens + (since - filled) * limit), since
        if tokens < 1:
            return 0.05, FailureKind.BUSY, asked
        tokens -= 1
        return None

    return answer


@dataclass(frozen=True)
class Bad:
    """A bad time of one dependency."""

    trouble: Trouble
    begins: float = HOUR
    lasts: float = DAY
    where: str = "sink"

    @property
    def ends(self) -> float:
        return self.begins + self.lasts


@dataclass(frozen=True)
class Message:
    """One event in the queue or in a tier."""

    event: int
    attempt: int = 1
    enriched: bool = False


@dataclass
class World:
    """A worker, its queue and its tiers, and what it depends on, from a seed."""

    bad: tuple[Bad, ...]
    every: float
    """How many seconds apart the events come, on average."""
    most: int = sys.maxsize
    """How many events there are, at most."""
    at_once: int = 0
    """So many of them stand in the queue when the worker starts."""
    until: float = 0.0
    """How long events come; 0 for until an hour after the bad times."""
    full: int = FULL
    seed: int = SEED
    now: float = 0.0
    in_work: int = 0
    requests_while_bad: int = 0
    failures: int = 0
    attempts: int = 1
    dead: dict[int, Reason] = field(default_factory=dict)
    arrived: dict[int, float] = field(default_factory=dict, repr=False)
    delivered: dict[int, float] = field(default_factory=dict, repr=False)
    changes: list[BreakerStatus] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)  # noqa: S311 - played, not secret
        self.until = self.until or self.heal + HOUR
        self.breakers = {
            name: CircuitBreaker(
                name,
                full=self.full,
                probe_max=30 * SECOND,
                refused_probe=300 * SECOND,
                own_question=name == "dialer",
                clock=lambda: self.now,
                jitter=self.rng.random,
                on_change=self.changes.append,
            )
            for name in ("dialer", "sink")
        }
        self.queue: deque[Message] = deque()
        self.agenda: list[tuple[float, int, Callable[[], None]]] = []
        self.order = count()
        self.wakes_at = -1.0
        self.probing = False

    @property
    def heal(self) -> float:
        return max(each.ends for each in self.bad)

    # --- what a test asks

    def run(self) -> "World":
        """Let it go on until everything is settled, at most for two days after the last event."""
        self.arrived = dict.fromkeys(range(self.at_once), 0.0)
        self.queue.extend(Message(event) for event in self.arrived)
        self.later(0, self.take)
        if self.at_once < self.most:
            self.later(self.rng.expovariate(1 / self.every), lambda: self.comes(self.at_once))
        while self.agenda and self.now < self.until + 2 * DAY:
            at, _, action = heapq.heappop(self.agenda)
            self.now = at
            action()
        return self

    def lost(self) -> set[int]:
        """Return the events that were neither delivered nor dead-lettered."""
        return self.arrived.keys() - self.delivered.keys() - self.dead.keys()

    def last_delivery_after_the_heal(self) -> float:
        """Return how long after the heal the last event was delivered that had come before it."""
        late = [at for event, at in self.delivered.items() if self.arrived[event] < self.heal]
        return max(late, default=self.heal) - self.heal

    def delays(self) -> list[float]:
        return [at - self.arrived[event] for event, at in self.delivered.items()]

    def openings(self, name: str = "sink") -> int:
        """Return how often a breaker opened anew; a failed probe is not counted."""
        states = [State.CLOSED, *(change.state for change in self.changes if change.name == name)]
        anew = {(State.CLOSED, State.OPEN), (State.RECOVERING, State.OPEN)}
        return sum(step in anew for step in pairwise(states))

    # --- the broker and the intake

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self.agenda, (self.now + seconds, next(self.order), action))

    def comes(self, event: int) -> None:
        self.arrived[event] = self.now
        self.enqueue(Message(event))
        gap = self.rng.expovariate(1 / self.every)
        if event + 1 < self.most and self.now + gap < self.until:
            self.later(gap, lambda: self.comes(event + 1))

    def enqueue(self, message: Message) -> None:
        self.queue.append(message)
        self.take()

    def take(self) -> None:
        """Work on what there is capacity for; an open breaker whose wait is over becomes half-open."""
        while self.queue and self.in_work < min(breaker.capacity() for breaker in self.breakers.values()):
            self.in_work += 1
            probing = any(breaker.status().state is State.HALF_OPEN for breaker in self.breakers.values())
            assert self.in_work == 1 or not probing, "a probe goes alone"
            message = self.queue.popleft()
            self.ask("sink" if message.enriched else "dialer", message)
        self.breakers["dialer"].capacity()
        due = self.breakers.values() if self.queue else [self.breakers["dialer"]]
        waits = [at for breaker in due if (at := breaker.next_change()) is not None]
        if waits and self.wakes_at <= self.now:
            self.wakes_at = max(self.now, min(waits))
            self.later(self.wakes_at - self.now, self.take)
        if self.breakers["dialer"].state is State.HALF_OPEN and not self.probing:
            self.probing = True
            self.ask_our_own(1, self.probed)

    def probed(self, kind: FailureKind | None) -> None:
        self.probing = False
        if kind is None:
            self.breakers["dialer"].probed()
        self.take()

    def ask_our_own(self, times: int, then: Callable[[FailureKind | None], None]) -> None:
        """Ask the dialer a question of our own, so many times in a row, or until it fails."""
        seconds, kind, _ = self.trouble("dialer", OUR_OWN_QUESTION) or (self.rng.uniform(0.02, 0.2), None, 0)

        def ended() -> None:
            if kind is not None:
                if kind is not FailureKind.OUTAGE or self.breakers["dialer"].state is State.HALF_OPEN:
                    self.breakers["dialer"].failed(kind, "down")
                then(kind)
            elif times > 1:
                self.ask_our_own(times - 1, then)
            else:
                then(None)

        self.later(seconds, ended)

    # --- one event

    def ask(self, where: str, message: Message) -> None:
        answer = self.trouble(where, message.event)
        seconds, kind, wait = answer or (self.rng.uniform(0.02, 0.2), None, None)
        self.later(seconds, lambda: self.answered(where, message, kind, wait))

    def trouble(self, where: str, event: int) -> Answer | None:
        answer: Answer | None = None
        for bad in self.bad:
            if bad.where == where and bad.begins <= self.now < bad.ends:
                self.requests_while_bad += 1
                answer = bad.trouble(self.rng, self.now - bad.begins, event)
        return answer

    def answered(
        self, where: str, message: Message, kind: FailureKind | None, wait: timedelta | None
    ) -> None:
        if kind is not None:
            self.failed(where, message, kind, wait)
            return
        self.breakers[where].succeeded()
        if where == "dialer":
            self.ask("sink", replace(message, enriched=True))
            return
        assert message.event not in self.delivered
        self.delivered[message.event] = self.now
        self.ended()

    def ended(self) -> None:
        self.in_work -= 1
        self.take()

    def failed(self, where: str, message: Message, kind: FailureKind, wait: timedelta | None) -> None:
        """Judge as the guard of the dialer does, and as the pipeline does for the sink."""
        self.failures += 1
        breaker, event = self.breakers[where], str(message.event)

        def record() -> None:
            counts = breaker.failed(kind, "down", wait, event=event)
            self.decide(where, message, kind, wait, to_blame=counts)

        def vouched(trouble: FailureKind | None) -> None:
            if trouble is None and breaker.failed_alone(event):
                self.decide(where, message, kind, wait, to_blame=True)
            else:
                record()

        if where == "dialer" and kind is FailureKind.OUTAGE and breaker.in_doubt:
            self.ask_our_own(3, vouched)
        else:
            record()

    def decide(
        self, where: str, message: Message, kind: FailureKind, wait: timedelta | None, *, to_blame: bool
    ) -> None:
        error: Unavailable = (
            EnrichmentUnavailable("down", kind)
            if where == "dialer"
            else DeliveryUnavailable("down", kind, wait)
        )
        error.to_blame = to_blame
        decision = POLICY.decide(error, attempt=message.attempt, age=SECOND)
        if isinstance(decision, Retry):
            self.attempts = max(self.attempts, decision.attempt)
            copy = replace(message, attempt=decision.attempt)
            self.later(decision.tier.total_seconds(), lambda: self.enqueue(copy))
        elif isinstance(decision, DeadLetter):
            self.dead[message.event] = decision.reason
        self.ended()


# --- the table ------------------------------------------------------------------------------------

_rows: list[str] = []


@pytest.fixture(scope="module", autouse=True)
def _table() -> Iterator[None]:
    yield
    head = f"{'trouble':<42} {'days':>5} {'requests':>8} {'attempt':>7} {'last after':>10} {'median':>9}"
    sys.stdout.write("\n".join(["", head, *_rows, ""]))


def noted(what: str, world: World) -> World:
    days = sum(bad.lasts for bad in world.bad) / DAY
    last = f"{world.last_delivery_after_the_heal():.0f} s"
    delay = f"{median(world.delays()):.1f} s"
    sent = world.requests_while_bad
    _rows.append(f"{what:<42} {days:>5.2f} {sent:>8} {world.attempts:>7} {last:>10} {delay:>9}")
    return world


# --- down for good while --------------------------------------------------------------------------

DOWN = {
    "dialer unreachable": (Bad(always(0.01), where="dialer"), 25.0),
    "dialer times out": (Bad(always(10), where="dialer", lasts=3 * DAY), 35.0),
    "dialer answers 500, empty": (Bad(always(0.05), where="dialer"), 25.0),
    "login refused": (Bad(always(0.05, FailureKind.REFUSED), where="dialer", lasts=3 * DAY), 300.0),
    "sink unreachable": (Bad(always(0.01)), 25.0),
    "sink times out": (Bad(always(15), lasts=3 * DAY), 40.0),
    "sink answers 500": (Bad(always(0.1), lasts=3 * DAY), 25.0),
    "sink answers 403": (Bad(always(0.1, FailureKind.REFUSED)), 300.0),
    "sink answers 429": (Bad(always(0.1, FailureKind.BUSY)), 25.0),
    "sink answers 429, Retry-After 2m": (Bad(always(0.1, FailureKind.BUSY, 120)), 120.0),
    "sink answers 503, Retry-After a day": (Bad(always(0.1, FailureKind.BUSY, DAY)), HOUR),
}
"""Each with the seconds that lie between two probes, at the least on average."""


@pytest.mark.parametrize("most", [sys.maxsize, 1], ids=["many events", "one event"])
@pytest.mark.parametrize("kind", DOWN)
def test_an_outage_of_any_length_and_kind_costs_nothing(kind: str, most: int) -> None:
    bad, apart = DOWN[kind]
    if most == 1:
        bad = replace(bad, begins=0.0, lasts=7 * DAY)
    what = f"{kind}, one event" if most == 1 else kind
    world = noted(what, World((bad,), every=30.0, most=most).run())
    assert world.dead == {}
    assert world.lost() == set()
    assert world.attempts <= 2, "at most one failure counts, and only if others succeeded before"
    assert world.attempts == 1 or most > 1
    assert world.requests_while_bad <= FULL + 10 + bad.lasts / apart
    longest_wait = 1.2 * apart if apart >= 300 else max(apart, 36)
    drained = 0.5 * len(world.arrived) / FULL
    assert world.last_delivery_after_the_heal() <= longest_wait + 60 + drained


def test_both_dependencies_down_one_after_the_other_and_together() -> None:
    bad = (
        Bad(always(10), where="dialer", lasts=10 * HOUR),
        Bad(always(0.1), begins=5 * HOUR, lasts=10 * HOUR),
        Bad(always(0.1, FailureKind.REFUSED), where="dialer", begins=14 * HOUR, lasts=4 * HOUR),
    )
    world = noted("dialer and sink", World(bad, every=10.0).run())
    assert (world.dead, world.lost()) == ({}, set())
    assert world.attempts <= 3
    assert world.last_delivery_after_the_heal() <= 600


@pytest.mark.parametrize("full", [1, 2, 7])
def test_a_worker_with_few_places_recovers_just_as_well(full: int) -> None:
    world = World((Bad(always(0.1)),), every=30.0, full=full).run()
    assert (world.dead, world.lost()) == ({}, set())
    assert world.attempts <= 2
    assert world.last_delivery_after_the_heal() <= 120 + 0.5 * len(world.arrived) / full


# --- now and then ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "typical"), [(0.1, 1.0), (0.3, 1.0), (0.5, 120.0), (0.7, NEVER), (0.9, NEVER)]
)
@pytest.mark.parametrize("where", ["dialer", "sink"])
def test_failures_at_random_dead_letter_nothing_and_hold_up_only_what_they_must(
    where: str, share: float, typical: float
) -> None:
    bad = Bad(at_random(share), lasts=4 * HOUR, where=where)
    world = noted(f"{where} fails {share:.0%} at random", World((bad,), every=2.0).run())
    assert (world.dead, world.lost()) == ({}, set())
    assert world.attempts <= 9
    assert median(world.delays()) <= typical
    assert world.last_delivery_after_the_heal() <= HOUR + 60, "the longest tier"
    assert world.failures <= share * (len(world.arrived) / (1 - share) + 100)


@pytest.mark.parametrize(
    ("off", "on"), [(1, 1), (5, 5), (10, 10), (60, 60), (10, 60), (60, 10), (300, 600), (1200, 1200), (20, 3)]
)
@pytest.mark.parametrize("seconds", [0.1, 10.0], ids=["fast", "slow"])
def test_failures_in_bursts_dead_letter_nothing(off: float, on: float, seconds: float) -> None:
    bad = Bad(off_and_on(off, on, seconds), lasts=4 * HOUR)
    what = f"sink {off} s off, {on} s on, {seconds} s to fail"
    world = noted(what, World((bad,), every=5.0).run())
    assert (world.dead, world.lost()) == ({}, set())
    assert world.attempts <= 8
    assert world.last_delivery_after_the_heal() <= HOUR + 60


@pytest.mark.parametrize(("off", "on"), [(1, 1), (5, 5), (10, 20), (60, 60), (600, 3000)])
def test_nor_do_bursts_in_step_with_the_tiers(off: float, on: float) -> None:
    """All tiers but the first bring an event back into the same part of a burst, again and again."""
    world = World((Bad(off_and_on(off, on)),), every=10.0).run()
    noted(f"sink {off} s off, {on} s on, for a day", world)
    assert (world.dead, world.lost()) == ({}, set())
    assert world.attempts <= 9


def test_one_event_alone_gets_through_a_dependency_that_works_now_and_then() -> None:
    for trouble in (at_random(0.9), off_and_on(60, 10), off_and_on(600, 60)):
        world = World((Bad(trouble, begins=0.0, lasts=7 * DAY),), every=1.0, most=1).run()
        assert (world.dead, world.lost(), world.attempts) == ({}, set(), 1)
        assert world.delays()[0] <= HOUR


@pytest.mark.parametrize("wait", [None, 1.0], ids=["429", "429, Retry-After 1s"])
@pytest.mark.parametrize(("limit", "burst"), [(10.0, 10.0), (2.0, 2.0), (100 / 60, 100.0)])
def test_a_sink_that_takes_only_so_many_gets_most_of_that(
    limit: float, burst: float, wait: float | None
) -> None:
    """A backlog of an outage meets a limit of the rate: it must be worked off at about that rate."""
    down = Bad(always(0.1), begins=0.0, lasts=HOUR)
    bad = Bad(over(limit, burst, wait), begins=HOUR, lasts=HOUR / 2)
    world = World((down, bad), every=0.7 / limit, until=1.2 * HOUR).run()
    assert (world.dead, world.lost()) == ({}, set())
    assert world.attempts <= 2
    taken = sum(bad.begins <= at < bad.ends for at in world.delivered.values())
    asked = "" if wait is None else f", asks for {wait:.0f} s"
    noted(f"sink takes {limit:.1f} a second{asked}: {taken / (limit * bad.lasts):.0%}", world)
    assert taken >= 0.5 * limit * bad.lasts


# --- the event itself -----------------------------------------------------------------------------


@pytest.mark.parametrize("every", [0.5, 5.0, 10.0, 30.0, 120.0, 600.0])
def test_one_event_that_always_fails_is_dead_lettered_and_the_others_do_not_notice(every: float) -> None:
    poison = 10
    bad = Bad(only_of(lambda event: event == poison), begins=0.0, lasts=NEVER)
    world = World((bad,), every=every, until=DAY if every > 1 else 9 * HOUR).run()
    _rows.append(
        f"{f'one bad event, others each {every:g} s':<42} {'':>5} {world.failures:>8} {world.attempts:>7}"
    )
    assert world.dead == {poison: Reason.ATTEMPTS_EXHAUSTED}
    assert world.lost() == set()
    assert median(world.delays()) < 0.5
    assert world.failures <= 200 + every / 2
    if every <= 5:
        assert world.changes == [], "others succeed in between"
        assert max(world.delays()) < 0.5
    else:
        assert world.openings() <= 20, "it is alone for minutes, as in an outage"
        assert max(world.delays()) <= 80, "two probes, the bad event's first"


@pytest.mark.parametrize("share", [200, 80])
def test_some_events_that_always_fail_hold_up_no_others(share: int) -> None:
    bad = Bad(only_of(lambda event: event % share == 0), lasts=DAY)
    world = noted(f"1 of {share} always fails", World((bad,), every=5.0).run())
    poison = {event for event in world.arrived if event % share == 0}
    good = [at - world.arrived[event] for event, at in world.delivered.items() if event not in poison]
    assert world.dead.keys() <= poison
    assert world.dead, "it was long enough"
    assert world.lost() == set()
    assert median(good) < 0.5
    assert sorted(good)[int(0.99 * len(good))] < 60


@pytest.mark.parametrize("full", [1, 4, FULL])
@pytest.mark.parametrize("seconds", [0.1, 10.0], ids=["500", "hangs"])
@pytest.mark.parametrize("how_many", [1, 8, 20])
def test_events_at_which_the_dialer_always_fails_hold_up_none_behind_them(
    how_many: int, seconds: float, full: int
) -> None:
    """They stand at the head of the queue, 50 good ones behind, and nothing else comes."""
    bad = Bad(only_of(lambda event: 0 <= event < how_many, seconds), 0.0, NEVER, "dialer")
    world = World((bad,), every=1.0, most=how_many + 50, at_once=how_many + 50, until=DAY, full=full).run()
    assert world.dead == dict.fromkeys(range(how_many), Reason.ATTEMPTS_EXHAUSTED)
    assert world.lost() == set()
    one_after_the_other = (how_many / full + 1) * (seconds + 1)
    assert max(world.delays()) <= one_after_the_other + 50, "each of the good ones takes up to 0.6 s"
    assert world.openings("dialer") == 0
    assert world.failures <= 5 * 12 * how_many, "the fifth in a row counts"


def test_more_of_them_than_can_be_alone_wait_until_others_succeed() -> None:
    def poison(event: int) -> bool:
        return 0 <= event < 40

    bad = Bad(only_of(poison), 0.0, NEVER, "dialer")
    world = World((bad,), every=60.0, at_once=90, until=2 * DAY).run()
    assert world.dead == dict.fromkeys(range(40), Reason.ATTEMPTS_EXHAUSTED)
    assert world.lost() == set()
    assert max(at - world.arrived[event] for event, at in world.delivered.items()) <= 200


@pytest.mark.parametrize(("seconds", "every"), [(0.1, 5.0), (0.1, 300.0), (10.0, 30.0)])
def test_a_dialer_that_answers_only_our_own_question_is_down(seconds: float, every: float) -> None:
    """Part of its database is broken, or it is too slow for real questions."""
    bad = Bad(only_of(lambda event: event >= 0, seconds), HOUR, DAY, "dialer")
    world = noted(f"only our own question is answered, {every:g} s", World((bad,), every=every).run())
    assert (world.dead, world.lost()) == ({}, set())
    assert world.attempts <= 7
    assert world.requests_while_bad <= FULL + 300 + 10 * bad.lasts / 30
    assert world.last_delivery_after_the_heal() <= 2 * HOUR


@pytest.mark.parametrize(("share", "every"), [(200, 2.0), (10, 5.0), (50, 30.0)])
def test_a_firewall_that_refuses_some_events_for_what_they_say_holds_up_no_others(
    share: int, every: float
) -> None:
    def odd(event: int) -> bool:
        return event % share == 7 and event < share * 20

    refused = only_of(odd, 0.1, FailureKind.REFUSED)
    world = World((Bad(refused, 0.0, NEVER),), every=every, until=20 * share * every + 10 * HOUR).run()
    _rows.append(
        f"{f'1 of {share} refused, others each {every:g} s':<42} {'':>5} {world.failures:>8} {12:>7}"
    )
    assert world.lost() == set()
    assert world.dead == {event: Reason.REJECTED_BY_SINK for event in world.arrived if odd(event)}
    assert median(world.delays()) < 0.5
    assert world.openings() <= 2
    assert sorted(world.delays())[int(0.99 * len(world.delivered))] < 1


def test_a_secret_that_is_revoked_and_comes_back_costs_nothing() -> None:
    odd = Bad(only_of(lambda event: event % 50 == 7, 0.1, FailureKind.REFUSED), 0.0, 5 * HOUR)
    revoked = Bad(always(0.1, FailureKind.REFUSED), HOUR, 3 * HOUR)
    world = World((odd, revoked), every=5.0, until=6 * HOUR).run()
    assert (world.dead, world.lost()) == ({}, set())
    assert all(at < HOUR or at > 4 * HOUR for at in world.delivered.values())
