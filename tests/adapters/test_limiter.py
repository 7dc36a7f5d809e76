"""The adaptive limit against simulated dialers in simulated time; the concurrency limiter on a real loop."""

import asyncio
import heapq
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import median
from typing import Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.clock import Clock
from worker.vicidial.limiter import AdaptiveLimit, AtCapacityError, ConcurrencyLimiter

SEED = 20261120
PROPERTY = settings(max_examples=200)
Kinds = Sequence[tuple[str, float, float]]
"""The kinds of requests: name, share of all, and seconds each takes alone."""


class Limit(Protocol):
    limit: int

    def on_success(self, kind: str, seconds: float, busy: int) -> None: ...


class Fixed:
    """What there was before: always as many."""

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def on_success(self, kind: str, seconds: float, busy: int) -> None:
        """Change nothing."""


class Simulation:
    """A dialer that works on up to `knee` requests at full speed and shares that speed among more.

    There is always more to ask, at most `clients` at one time. `slowness` may be changed between runs;
    `jitter` is the sigma of a lognormal factor, and a share of `stalls` takes 3 s longer.
    """

    def __init__(
        self,
        make: Callable[[Callable[[], float]], Limit],
        *,
        kinds: Kinds = (("call", 1.0, 0.005),),
        knee: float = 4,
        jitter: float = 0.0,
        stalls: float = 0.0,
        clients: int = 10_000,
        seed: int = SEED,
    ) -> None:
        self.now = 0.0
        self.slowness = 1.0
        self.kinds = kinds
        self.clients = clients
        self.limit = make(lambda: self.now)
        self.answers: list[tuple[float, float]] = []
        self.changes: list[tuple[float, int]] = [(0.0, self.limit.limit)]
        self._knee, self._jitter, self._stalls = knee, jitter, stalls
        self._random = random.Random(seed)  # noqa: S311 - nothing secret
        self._under_way: list[tuple[float, int, float, str]] = []
        self._work = 0.0  # what each request under way has got done since the beginning, in its own seconds
        self._number = 0

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while True:
            while len(self._under_way) < min(self.limit.limit, self.clients):
                self._send()
            done, _, sent, kind = self._under_way[0]
            at = self.now + (done - self._work) / self._speed()
            if at > until:
                self._work += (until - self.now) * self._speed()
                self.now = until
                return
            self.now, self._work = at, done
            self.answers.append((at, at - sent))
            self.limit.on_success(kind, at - sent, len(self._under_way))
            heapq.heappop(self._under_way)
            if self.limit.limit != self.changes[-1][1]:
                self.changes.append((at, self.limit.limit))

    def _speed(self) -> float:
        return min(1.0, self._knee / len(self._under_way)) / self.slowness

    def _send(self) -> None:
        shares = [share for _, share, _ in self.kinds]
        kind, _, seconds = self._random.choices(self.kinds, shares)[0]
        seconds *= self._random.lognormvariate(0, self._jitter)
        if self._random.random() < self._stalls:
            seconds += 3.0
        self._number += 1
        heapq.heappush(self._under_way, (self._work + seconds, self._number, self.now, kind))

    # --- what is read off it

    def rate(self, since: float = 0.0) -> float:
        """Return the answers per second since that time."""
        return sum(at >= since for at, _ in self.answers) / (self.now - since)

    def latency(self, since: float = 0.0) -> float:
        """Return the median time that an answer took since that time, in milliseconds."""
        return 1000 * median(seconds for at, seconds in self.answers if at >= since)

    def limit_at(self, time: float) -> int:
        """Return the limit at that time."""
        return [limit for at, limit in self.changes if at <= time][-1]

    def limits(self, since: float) -> Counter[int]:
        """Return for how many milliseconds each limit was in force since that time."""
        ends = [at for at, _ in self.changes[1:]] + [self.now]
        found: Counter[int] = Counter()
        for (at, limit), end in zip(self.changes, ends, strict=True):
            if end > since:
                found[limit] += round(1000 * (end - max(at, since)))
        return found


def show(text: str) -> None:
    """Print what a simulation gave; the table of `docs/politeness.md` is made so."""
    print(text)  # noqa: T201 - seen with `-s`, and if the test fails


def adaptive(most: int) -> Callable[[Callable[[], float]], AdaptiveLimit]:
    return lambda clock: AdaptiveLimit(most, clock)


def fixed(limit: int) -> Callable[[Callable[[], float]], Fixed]:
    return lambda _: Fixed(limit)


# --- against a dialer that queues above 4 at a time, as the recorded one did


@pytest.mark.no_cover
@pytest.mark.parametrize("jitter", [0.0, 0.3])
def test_it_settles_where_the_dialer_is_used_to_the_full_and_hardly_queues(jitter: float) -> None:
    show(f"\nseed {SEED}, jitter {jitter}; answers a second, their median time in ms, the usual limit")
    found = {}
    limits: dict[str, Callable[[Callable[[], float]], Limit]] = {
        "fixed 4": fixed(4),
        "fixed 8": fixed(8),
        "fixed 64": fixed(64),
        "adaptive, most 8": adaptive(8),
        "adaptive, most 64": adaptive(64),
    }
    for name, make in limits.items():
        found[name] = dialer = Simulation(make, jitter=jitter)
        dialer.run(60.0)
        usual = dialer.limits(5.0).most_common(1)[0][0]
        show(f"| {name:17} | {dialer.rate(5.0):5.0f} | {dialer.latency(5.0):5.1f} | {usual:2} |")
    best = found["fixed 64"].rate(5.0)
    alone = found["fixed 4"].latency(5.0)
    for most in (8, 64):
        dialer = found[f"adaptive, most {most}"]
        assert dialer.rate(5.0) > 0.99 * best
        assert dialer.latency(5.0) < 1.35 * alone
        there = dialer.limits(5.0)
        assert sum(there[limit] for limit in (4, 5, 6)) > 0.98 * there.total(), there
    assert found["fixed 8"].latency(5.0) > 1.9 * alone
    assert found["fixed 64"].latency(5.0) > 15 * alone


def test_it_stays_there_for_an_hour_of_steady_load() -> None:
    dialer = Simulation(adaptive(64), kinds=[("call", 1.0, 0.05)], jitter=0.2)
    dialer.run(3600.0)
    for since in (30.0, 1800.0, 3000.0):
        there = dialer.limits(since)
        assert sum(there[limit] for limit in (4, 5, 6)) > 0.98 * there.total(), there


def test_a_dialer_that_is_ten_times_slower_for_a_minute() -> None:
    dialer = Simulation(adaptive(8))
    dialer.run(160.0)
    assert dialer.limit_at(160.0) == 5
    dialer.slowness = 10.0
    dialer.run(60.0)
    falls = [(at - 160.0, to) for at, to in dialer.changes if at > 160.0]
    show(f"\nthe limit, by the second: {[(round(at, 2), to) for at, to in falls]}")
    assert [to for _, to in falls] == [1]
    assert falls[0][0] < 2 * 10 * 0.00625, "within two rounds, as long as they are then"
    dialer.slowness = 1.0
    dialer.run(60.0)
    rises = [(at - 220.0, to) for at, to in dialer.changes if at > 220.0]
    show(f"and when it is as before: {[(round(at, 2), to) for at, to in rises]}")
    assert [to for _, to in rises] == [2, 3, 4, 5]
    assert all(0.99 < later - earlier < 1.2 for (earlier, _), (later, _) in pairwise(rises))


@pytest.mark.no_cover
@pytest.mark.parametrize("most", [8, 64])
def test_a_dialer_that_is_slower_for_good_is_learnt_within_minutes_and_one_that_is_faster_at_once(
    most: int,
) -> None:
    dialer = Simulation(adaptive(most))
    dialer.run(1000.0)
    dialer.slowness = 10.0
    dialer.run(10.0)
    assert dialer.limit_at(1010.0) == 1
    dialer.run(320.0)
    assert dialer.rate(1325.0) == pytest.approx(80, rel=0.03), "4 at a time, 50 ms each"
    assert dialer.limit_at(1330.0) == 5
    dialer.slowness = 1.0
    dialer.run(10.0)
    assert dialer.rate(1335.0) == pytest.approx(800, rel=0.03)
    assert dialer.latency(1335.0) < 7.5


# --- against a dialer that does not mind


@pytest.mark.no_cover
def test_a_dialer_whose_times_do_not_depend_on_the_load_gets_the_most_at_once_and_for_good() -> None:
    dialer = Simulation(adaptive(64), kinds=[("call", 1.0, 0.05)], knee=math.inf)
    dialer.run(600.0)
    reached = next(at for at, limit in dialer.changes if limit == 64)
    requests = sum(at <= reached for at, _ in dialer.answers)
    show(f"\n64 after {1000 * reached:.0f} ms and {requests} requests")
    assert reached < 0.7
    assert requests < 80
    there = dialer.limits(reached)
    assert there.keys() == {64, 1}, "one at a time only while it measures"
    assert there[1] < 0.006 * there.total()


@pytest.mark.no_cover
@pytest.mark.parametrize("most", [8, 64])
@pytest.mark.parametrize("seconds", [0.05, 0.5])
def test_chance_and_stalls_cost_less_than_a_tenth_of_the_throughput(seconds: float, most: int) -> None:
    shares = []
    for seed in range(SEED, SEED + 4):
        rates = []
        for make in (adaptive(most), fixed(most)):
            dialer = Simulation(
                make,
                kinds=[("call", 1.0, seconds)],
                knee=math.inf,
                jitter=0.3,
                stalls=0.005,
                seed=seed,
            )
            dialer.run(seconds * 3000)
            rates.append(dialer.rate())
        shares.append(rates[0] / rates[1])
    show(f"\nseeds from {SEED}: {[round(share, 3) for share in shares]} of what {most} at once give")
    assert min(shares) > 0.9


def test_requests_that_take_differently_long_are_no_queue() -> None:
    kinds = [("call", 0.6, 0.005), ("agent", 0.3, 0.02), ("campaigns", 0.1, 0.2)]
    dialer = Simulation(adaptive(16), kinds=kinds, knee=math.inf)
    dialer.run(60.0)
    there = dialer.limits(5.0)
    assert there[16] > 0.95 * there.total(), there


def test_a_kind_that_comes_later_is_learnt_under_way() -> None:
    dialer = Simulation(adaptive(8), knee=math.inf)
    dialer.run(30.0)
    dialer.kinds = [("agent", 1.0, 0.1)]
    dialer.run(30.0)
    assert dialer.limits(31.0)[8] > 28_000
    dialer.slowness = 10.0
    dialer.run(7.0)
    assert dialer.limit_at(67.0) == 1


def test_a_kind_that_comes_later_is_learnt_without_what_the_queue_adds() -> None:
    dialer = Simulation(adaptive(64))
    dialer.run(100.0)
    dialer.kinds = [("agent", 1.0, 0.02)]
    dialer.run(40.0)
    assert dialer.limit_at(140.0) == 5, "and not more, as if the queue were its own slowness"


# --- one rule at a time


def answer(limit: AdaptiveLimit, clock: Clock, seconds: float, how_many: int = 1, busy: int = 100) -> None:
    """Return answers that come one after the other, each sent after the last one came."""
    for _ in range(how_many):
        clock.now += seconds
        limit.on_success("call", seconds * 0.999, busy)


def grown(clock: Clock, most: int) -> AdaptiveLimit:
    """Return a limit that has reached the most, and whose best time is 10 ms."""
    limit = AdaptiveLimit(most, clock)
    while limit.limit < most:
        answer(limit, clock, 0.01)
    answer(limit, clock, 0.01, most)
    return limit


def test_it_begins_at_one_measures_seven_and_doubles_each_round(clock: Clock) -> None:
    limit = AdaptiveLimit(8, clock)
    seen = []
    for _ in range(20):
        seen.append(limit.limit)
        answer(limit, clock, 0.01)
    assert seen == [1] * 8 + [2] * 2 + [4] * 4 + [8] * 6


def test_it_does_not_grow_where_it_is_not_used(clock: Clock) -> None:
    limit = AdaptiveLimit(8, clock)
    answer(limit, clock, 0.01, 500, busy=1)
    assert limit.limit == 2
    limit = grown(clock, 8)
    limit.on_overload()
    answer(limit, clock, 0.01, 500, busy=3)
    assert limit.limit == 4


def test_a_queue_ends_the_slow_start(clock: Clock) -> None:
    limit = AdaptiveLimit(64, clock)
    while limit.limit < 16:
        answer(limit, clock, 0.01)
    answer(limit, clock, 0.04, 16)
    assert limit.limit == 5, "16 / 4 + 1"
    answer(limit, clock, 0.01, 40)
    assert limit.limit == 5, "from now on one a second"
    answer(limit, clock, 0.01, 100)
    assert limit.limit == 6


def test_the_answers_to_what_was_sent_before_a_cut_do_not_cut_again(clock: Clock) -> None:
    limit = grown(clock, 8)
    clock.now += 0.1
    for busy in range(8, 0, -1):
        limit.on_success("call", 0.03, busy)
    assert limit.limit == 4, "8 / 3 + 1"
    for busy in range(7, 0, -1):
        limit.on_success("call", 0.05, busy)
    assert limit.limit == 4
    answer(limit, clock, 0.06, 7)
    assert limit.limit == 2, "4 / 6 + 1"


def test_how_seldom_it_measures_depends_on_how_long_the_dialer_took_not_on_how_long_nobody_asked(
    clock: Clock,
) -> None:
    limit = AdaptiveLimit(8, clock)
    for _ in range(7):
        clock.now += 3600
        answer(limit, clock, 0.01, busy=1)
    answer(limit, clock, 0.01, 900)
    assert limit.limit == 8
    answer(limit, clock, 0.01, 110)
    assert limit.limit == 1, "it measures again after 10 s"


def test_a_slow_dialer_is_measured_less_often(clock: Clock) -> None:
    limit = AdaptiveLimit(8, clock)
    answer(limit, clock, 2.0, 7)
    begun = clock.now
    while limit.limit < 8:
        answer(limit, clock, 2.0)
    while limit.limit == 8:
        answer(limit, clock, 2.0)
    assert 50 * 7 * 2 <= clock.now - begun < 50 * 7 * 2 + 20


def test_one_stalled_answer_in_a_round_changes_nothing(clock: Clock) -> None:
    limit = grown(clock, 8)
    for _ in range(20):
        answer(limit, clock, 3.0)
        answer(limit, clock, 0.01, 10)
    assert limit.limit == 8


def test_of_two_answers_one_stalled_changes_nothing(clock: Clock) -> None:
    limit = AdaptiveLimit(8, clock)
    while limit.limit < 2:
        answer(limit, clock, 0.01)
    for seconds in (0.01, 3.0):
        answer(limit, clock, seconds)
    assert limit.limit == 4


def test_a_slow_start_that_measuring_broke_into_goes_on_after_it(clock: Clock) -> None:
    limit = AdaptiveLimit(64, clock)
    answer(limit, clock, 0.01, 500, busy=1)
    assert limit.limit == 2
    while limit.limit == 2:
        answer(limit, clock, 0.01, busy=1)
    answer(limit, clock, 0.01, 7)
    assert limit.limit == 2
    answer(limit, clock, 0.01, 2 + 4 + 8 + 16 + 32)
    assert limit.limit == 64


def test_overload_halves_it_once_for_all_that_was_under_way(clock: Clock) -> None:
    limit = grown(clock, 8)
    seen = []
    for _ in range(15):
        limit.on_overload()
        seen.append(limit.limit)
    assert seen == [4] * 8 + [2] * 4 + [1] * 3
    answer(limit, clock, 0.01, 250)
    assert limit.limit == 3, "it recovers by one a second"


def test_an_answer_that_was_under_way_too_is_one_less_to_pass_over(clock: Clock) -> None:
    limit = grown(clock, 4)
    clock.now += 0.1
    limit.on_overload()
    assert limit.limit == 2
    for _ in range(3):
        limit.on_success("call", 1.0, 4)
    limit.on_overload()
    assert limit.limit == 1


def test_after_a_round_of_answers_to_what_was_sent_since_overload_counts_again(clock: Clock) -> None:
    limit = grown(clock, 8)
    limit.on_overload()
    answer(limit, clock, 0.01, 7)
    limit.on_overload()
    assert limit.limit == 2


def test_overload_while_it_measures_counts_for_the_time_after(clock: Clock) -> None:
    limit = grown(clock, 8)
    clock.now += 20.0
    answer(limit, clock, 0.01, 8, busy=1)
    assert limit.limit == 1
    limit.on_overload()
    assert limit.limit == 1
    answer(limit, clock, 0.01, 7, busy=1)
    assert limit.limit == 4


def test_overload_at_the_very_beginning_leaves_it_at_one_and_ends_the_slow_start(clock: Clock) -> None:
    limit = AdaptiveLimit(64, clock)
    for _ in range(5):
        limit.on_overload()
    answer(limit, clock, 0.01, 50)
    assert limit.limit == 1
    answer(limit, clock, 0.01, 250)
    assert 3 <= limit.limit <= 4


def test_a_clock_too_coarse_to_time_an_answer_does_no_harm(clock: Clock) -> None:
    limit = AdaptiveLimit(8, clock)
    answer(limit, clock, 0.0, 100)
    clock.now += 20.0
    answer(limit, clock, 0.0, 100)
    assert 1 <= limit.limit <= 8


@PROPERTY
@given(
    most=st.integers(1, 20),
    outcomes=st.lists(
        st.tuples(
            st.sampled_from(["answered", "answered", "answered", "overloaded"]),
            st.sampled_from(["call", "agent"]),
            st.one_of(st.just(0.0), st.floats(1e-9, 60.0)),
            st.integers(1, 20),
            st.integers(1, 30),
        ),
        max_size=60,
    ),
)
def test_whatever_is_reported_it_stays_within_its_bounds(
    most: int, outcomes: list[tuple[str, str, float, int, int]]
) -> None:
    clock = Clock()
    limit = AdaptiveLimit(most, clock)
    for what, kind, seconds, busy, times in outcomes:
        for _ in range(times):
            clock.now += seconds
            if what == "answered":
                limit.on_success(kind, seconds, busy)
            else:
                limit.on_overload()
            assert 1 <= limit.limit <= most


# --- the concurrency limiter


MOST = 100


class Settable(AdaptiveLimit):
    """A limit that a test sets."""

    def __init__(self, limit: int) -> None:
        super().__init__(MOST)
        self.limit = limit


class Crowd:
    """Tasks that each hold a slot until they are made to leave."""

    def __init__(self, limiter: ConcurrencyLimiter) -> None:
        self.limiter = limiter
        self.inside: list[int] = []
        self.came: list[int] = []
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._leave: dict[int, asyncio.Event] = {}

    def comes(self, *, optional: bool = False, first: bool = False) -> int:
        number = len(self._tasks)
        self._leave[number] = asyncio.Event()
        self._tasks[number] = asyncio.ensure_future(self._visit(number, optional=optional, first=first))
        return number

    async def _visit(self, number: int, *, optional: bool, first: bool) -> None:
        async with self.limiter.slot(optional=optional, first=first):
            self.came.append(number)
            self.inside.append(number)
            try:
                await self._leave[number].wait()
            finally:
                self.inside.remove(number)

    def leaves(self, number: int) -> None:
        self._leave[number].set()

    def cancel(self, number: int) -> None:
        self._tasks[number].cancel()

    def there(self) -> list[int]:
        return [number for number, task in self._tasks.items() if not task.done()]

    async def all_leave(self) -> None:
        for event in self._leave.values():
            event.set()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)


async def settled() -> None:
    """Let everything happen that is due; nothing here takes longer."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_as_many_as_the_limit_get_in_and_the_others_in_the_order_in_which_they_came() -> None:
    limiter = ConcurrencyLimiter(Settable(2), MOST)
    crowd = Crowd(limiter)
    for _ in range(6):
        crowd.comes()
    for number in range(6):
        await settled()
        assert crowd.inside == [each for each in (number, number + 1) if each < 6]
        assert limiter.busy == len(crowd.inside)
        crowd.leaves(number)
    await settled()
    assert crowd.came == [0, 1, 2, 3, 4, 5]
    assert limiter.busy == 0


async def test_nobody_overtakes_those_who_wait() -> None:
    limiter = ConcurrencyLimiter(Settable(1), MOST)
    crowd = Crowd(limiter)
    first, second = crowd.comes(), crowd.comes()
    await settled()
    crowd.leaves(first)
    third = crowd.comes()  # begins before the second one has run again
    await settled()
    assert crowd.inside == [second]
    crowd.leaves(second)
    await settled()
    assert crowd.inside == [third]
    await crowd.all_leave()


async def test_a_lower_limit_holds_as_soon_as_enough_have_left() -> None:
    limit = Settable(4)
    crowd = Crowd(ConcurrencyLimiter(limit, MOST))
    for _ in range(8):
        crowd.comes()
    await settled()
    limit.limit = 2
    for number, inside in enumerate([[1, 2, 3], [2, 3], [3, 4], [4, 5]]):
        crowd.leaves(number)
        await settled()
        assert crowd.inside == inside
    await crowd.all_leave()


async def test_a_higher_limit_is_seen_when_the_next_one_leaves_or_comes() -> None:
    limit = Settable(1)
    crowd = Crowd(ConcurrencyLimiter(limit, MOST))
    for _ in range(6):
        crowd.comes()
    await settled()
    limit.limit = 3
    await settled()
    assert crowd.inside == [0]
    crowd.leaves(0)
    await settled()
    assert crowd.inside == [1, 2, 3]
    limit.limit = 4
    crowd.comes()
    await settled()
    assert crowd.inside == [1, 2, 3, 4], "who comes now is the last in the queue"
    await crowd.all_leave()


async def test_a_probe_goes_before_all_who_wait() -> None:
    crowd = Crowd(ConcurrencyLimiter(Settable(1), MOST))
    for _ in range(3):
        crowd.comes()
    ours = crowd.comes(first=True)
    await settled()
    crowd.leaves(0)
    await settled()
    assert crowd.inside == [ours]
    await crowd.all_leave()


async def test_who_waits_too_long_is_turned_away() -> None:
    limiter = ConcurrencyLimiter(Settable(1), MOST, longest_wait=0.05)
    async with limiter.slot():
        for optional in (False, True):
            with pytest.raises(
                AtCapacityError, match=r"no place for one more request fell free within 0.05 s"
            ):
                async with limiter.slot(optional=optional):
                    pass
    assert limiter.busy == 0
    async with limiter.slot():
        assert limiter.busy == 1


# --- optional requests


@pytest.mark.parametrize(("limit", "optional"), [(1, 1), (2, 1), (3, 2), (8, 7)])
async def test_optional_requests_leave_a_slot_to_the_needed_ones(limit: int, optional: int) -> None:
    crowd = Crowd(ConcurrencyLimiter(Settable(limit), MOST))
    for _ in range(20):
        crowd.comes(optional=True)
    await settled()
    assert len(crowd.inside) == optional
    needed = crowd.comes()
    await settled()
    assert (needed in crowd.inside) is (limit > 1)
    await crowd.all_leave()


async def test_needed_and_optional_requests_go_in_the_order_in_which_they_came() -> None:
    crowd = Crowd(ConcurrencyLimiter(Settable(2), MOST))
    for number in range(12):
        crowd.comes(optional=number % 2 == 1)
    for number in range(12):
        await settled()
        crowd.leaves(number)
    await crowd.all_leave()
    assert crowd.came == list(range(12))


@pytest.mark.parametrize("limit", [1, 2, 4])
async def test_optional_requests_that_hang_hold_up_no_needed_one(limit: int) -> None:
    limiter = ConcurrencyLimiter(Settable(limit), MOST, overdue=0.02)
    crowd = Crowd(limiter)
    hanging = [crowd.comes(optional=True) for _ in range(20)]
    needed = [crowd.comes() for _ in range(limit)]
    async with asyncio.timeout(5):
        while not {*needed} <= {*crowd.inside}:  # noqa: ASYNC110 - nobody announces it
            await asyncio.sleep(0.005)
    inside = [number for number in hanging if number in crowd.inside]
    assert len(inside) == max(1, limit - 1), "and there are not more of them"
    await crowd.all_leave()
    assert limiter.busy == 0


async def test_there_are_never_more_than_may_ever_be() -> None:
    limiter = ConcurrencyLimiter(Settable(3), 4, overdue=0.0)
    crowd = Crowd(limiter)
    for number in range(20):
        crowd.comes(optional=number % 2 == 0)
    for _ in range(20):
        await asyncio.sleep(0.001)
        assert limiter.busy <= 4
    assert limiter.busy == 4
    await crowd.all_leave()


async def test_who_is_cancelled_while_waiting_leaves_nothing_behind() -> None:
    limiter = ConcurrencyLimiter(Settable(1), MOST)
    crowd = Crowd(limiter)
    for _ in range(4):
        crowd.comes()
    await settled()
    crowd.cancel(1)
    crowd.leaves(0)  # finds the first in the queue cancelled, before that one has run again
    crowd.cancel(3)
    await settled()
    assert crowd.inside == [2]
    crowd.leaves(2)
    await settled()
    assert (limiter.busy, crowd.there()) == (0, [])


async def test_a_slot_is_not_given_to_one_who_is_being_cancelled() -> None:
    limiter = ConcurrencyLimiter(Settable(1), MOST)
    async with limiter.slot():
        second = asyncio.ensure_future(limiter.slot().__aenter__())
        third = asyncio.ensure_future(limiter.slot().__aenter__())
        await settled()
        second.cancel()  # it runs again only after the slot has been freed
    await third
    assert second.cancelled()
    assert limiter.busy == 1


async def test_who_is_cancelled_just_when_let_in_passes_the_slot_on() -> None:
    limiter = ConcurrencyLimiter(Settable(1), MOST)
    async with limiter.slot():
        second = asyncio.ensure_future(limiter.slot().__aenter__())
        third = asyncio.ensure_future(limiter.slot().__aenter__())
        await settled()
    assert limiter.busy == 1, "the second one has the slot, but has not run yet"
    second.cancel()
    await third
    assert second.cancelled()
    assert limiter.busy == 1


async def test_an_error_inside_frees_the_slot() -> None:
    limiter = ConcurrencyLimiter(Settable(1), MOST)
    with pytest.raises(ZeroDivisionError):
        async with limiter.slot():
            raise ZeroDivisionError
    assert limiter.busy == 0


@PROPERTY
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["comes", "comes", "leaves", "is cancelled", "limit"]),
            st.integers(0, 30),
            st.booleans(),
        ),
        max_size=80,
    )
)
def test_whatever_happens_no_more_than_the_limit_get_in_each_in_turn(
    steps: list[tuple[str, int, bool]],
) -> None:
    async def play() -> None:
        limit = Settable(3)
        limiter = ConcurrencyLimiter(limit, MOST)
        crowd = Crowd(limiter)
        for what, number, everything_settles in steps:
            before = limiter.busy
            if what == "comes":
                crowd.comes()
            elif what == "limit":
                limit.limit = 1 + number % 6
            elif there := crowd.there():
                act = crowd.leaves if what == "leaves" else crowd.cancel
                act(there[number % len(there)])
            if everything_settles:
                await settled()
                assert limiter.busy == len(crowd.inside)
            assert limiter.busy <= max(limit.limit, before), "nobody gets in above the limit"
        assert crowd.came == sorted(crowd.came), "in the order in which they came"
        limit.limit = 1
        await crowd.all_leave()
        assert crowd.came == sorted(crowd.came)
        assert (limiter.busy, crowd.inside, crowd.there()) == (0, [], [])
        async with asyncio.timeout(1), limiter.slot():
            assert limiter.busy == 1

    asyncio.run(play())


async def test_a_limit_and_its_slots_find_the_knee_of_a_server_on_a_real_loop() -> None:
    """The server works in ticks of a millisecond, which it shares among those above four."""
    clock = Clock()
    limit = AdaptiveLimit(8, clock)
    limiter = ConcurrencyLimiter(limit, MOST)
    left: dict[asyncio.Future[None], float] = {}
    most_at_once = 0

    async def ask() -> None:
        async with limiter.slot():
            began = clock.now
            answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            left[answer] = 20.0
            await answer
            limit.on_success("call", clock.now - began, limiter.busy)

    asked = [asyncio.ensure_future(ask()) for _ in range(1000)]
    await settled()
    while left:
        most_at_once = max(most_at_once, len(left))
        done = min(1.0, 4 / len(left))
        for answer in list(left):
            left[answer] -= done
            if left[answer] <= 0:
                del left[answer]
                answer.set_result(None)
        clock.now += 0.001
        await settled()
    await asyncio.gather(*asked)
    assert most_at_once == 8
    assert limit.limit == 5
    assert limiter.busy == 0
