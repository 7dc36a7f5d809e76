"""The adaptive concurrency limit: as many requests at a time as the dialer answers without queueing.

The dialer's database carries live calls. Above some number (4 on the recorded server) concurrent requests
only wait for each other there. The limit finds that number by how long answers take, and never exceeds the
maximum of the settings.

It works like TCP's congestion control: slow start, then TCP Vegas's estimate of the queue, and now and then
a new measurement of the *best* times (those while no other request of ours is under way), as BBR makes it.
`docs/politeness.md` has the rules one by one, with their sources and what they achieve in a simulation.
Because of the medians one stalled answer changes nothing, and because of the tolerance of 1.5 noise does not.
"""

import asyncio
import contextlib
import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Collection

from worker.core.fleet import Round

ENOUGH = 7
"""Answers that make a median stable, for a best time and for a round."""
MOST_ROUNDS = 256
"""How many of the latest rounds count for a small step, at most."""
TOLERANCE = 1.5
"""Times that differ by less than this factor count as the same."""
STARK_AT_START, STARK = 2.0, 3.0
"""The slowdown for which a single round is enough: in slow start, which has few rounds, and later."""
FEW_QUEUE, MANY_QUEUE = 0.9, 1.5
"""Queued requests: up to the first the limit may grow, above the second it may be cut."""
STEP = 1.0
"""Minimum seconds between two small steps."""
MEASURE_FIRST, MEASURE_EVERY = 10.0, 300.0
"""Seconds between two measurements: after one that found something new, and at most."""
MEASURE_RARELY = 50.0
"""Minimum pause between two measurements, as a multiple of the last one's duration."""
SHORTEST = 1e-6
"""The least best time, in seconds."""
SETTLE = 1.5
"""Seconds after a cut until its effect shows, if other workers have to learn of it."""
PAUSE_BEGINS, PAUSE_ENDS = 3.0, 10.0
"""Seconds that other workers have to end their requests before a measurement, and that they wait for one."""
LONGEST_WAIT = 120.0
"""Seconds that a request waits for a slot. RabbitMQ requeues what is unacknowledged for 30 minutes."""
OVERDUE = 0.25
"""Seconds after which an optional request no longer keeps needed ones waiting."""

_Waiter = tuple[int, asyncio.Future[bool]]
"""A request that waits for a slot: its number in order of arrival, and whether it got one in the end."""


class AdaptiveLimit:
    """How many requests may be under way. Pure: it learns from answers, and makes nobody wait itself.

    Of several workers one leads: its answers change the limit of all. `adopt` has the others follow.
    """

    limit: int
    """How many requests may be under way now. It is 1 also while the best times are measured."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Start at 1; `most` is the highest limit, at least 1."""
        self.limit = 1
        self._most = most
        self._clock = clock
        self._best: dict[str, float] = {}
        self._samples: dict[str, list[float]] = {}
        self._slow_start = True
        self._in_use = False
        self._round: list[float] = []  # the slowdowns of this round's answers
        self._rounds: deque[float] = deque(maxlen=MOST_ROUNDS)  # those of the rounds since the last step
        self._slowdown = 1.0  # at the last step
        self._stepped_at = clock()
        self._measure_after, self._measured_at = MEASURE_FIRST, self._stepped_at
        self._outdated = 0  # how many may be under way that were sent under a higher limit, and so…
        self._cut_at = -math.inf  # …not after this
        self._measuring, self._resume_at = True, 1  # the limit after the measuring
        self._leads = self._alone = True
        self._led = False  # in the last round
        self._paused_at: float | None = None  # when the other workers began to wait for a measurement
        self._settle = 0.0
        self._full = most  # with how many requests of this worker the limit is used up

    @property
    def measures(self) -> bool:
        """Whether the other workers have to wait, so that a best time can be measured."""
        return self._measuring and self._paused_for() < PAUSE_ENDS

    def _paused_for(self) -> float:
        return 0.0 if self._paused_at is None else self._clock() - self._paused_at

    def adopt(self, played: Round) -> None:
        """Go by the outcome of a round of all workers."""
        began = played.leads and not self._led
        self._leads = self._led = played.leads
        self._settle = SETTLE if played.others else 0.0
        self._full = self._most if played.full is None else played.full
        now, limit = self._clock(), played.board.limit
        if not self._leads:
            self.limit, self._outdated = limit, 0
        elif began:
            self._paused_at = None
            self._slow_start = self._slow_start and limit == 1
            self.limit, self._resume_at = (1 if self._measuring else limit), limit
            self._round.clear()
            self._begin_step(now)
        elif played.lowered and not self._measuring:
            self._cut(min(limit, self.limit), now, limit)
        if self._leads and played.board.measuring and self._paused_at is None:
            self._paused_at = now
        if played.alone and not self._alone:
            self._samples.clear()
            self._cut_at = now
        self._alone = played.alone
        if self._measuring and self._best and not self._alone and self._paused_for() > PAUSE_BEGINS:
            self._end_measuring(now)

    def on_success(self, kind: str, seconds: float, busy: int) -> None:
        """Record an answer, `seconds` after its request was sent.

        `kind` separates requests that take differently long; there must be few kinds. `busy` is how many
        requests were under way when this one ended, itself included.
        """
        if not self._leads:
            return
        now = self._clock()
        if now - seconds <= self._cut_at:
            if self._outdated:
                self._outdated -= 1
            return
        best = self._best.get(kind)
        if self._measuring:
            self._measure(kind, seconds, now)
        elif best is None:
            self._learn(kind, seconds)
        else:
            if busy >= self.limit or busy >= self._full:
                self._in_use = True
            self._round.append(seconds / best)
            answers = len(self._round)
            if answers >= self.limit and (answers >= ENOUGH or self._slow_start):
                self._end_round(now, busy)

    def on_overload(self) -> None:
        """Record a request that timed out, or was answered with a 5xx."""
        self._slow_start = False
        if self._outdated:
            self._outdated -= 1
        elif self._measuring and self._leads:
            self._resume_at = max(1, self._resume_at // 2)
        else:
            self._cut(max(1, self.limit // 2), self._clock(), self.limit)

    def _end_round(self, now: float, busy: int) -> None:
        slowdown = _median(self._round)
        self._round.clear()
        self._rounds.append(slowdown)
        self._outdated = 0
        stark = STARK_AT_START if self._slow_start else STARK
        if slowdown >= stark and self._without_queue(slowdown) < self.limit:
            self._cut(self._without_queue(slowdown), now, busy)
        elif now - self._measured_at >= self._measure_after:
            self._begin_measuring(now, busy)
        elif self._slow_start and self._in_use:
            self._slow_start = self.limit < self._most
            self._change(min(2 * self.limit, self._most), now)
        elif now - self._stepped_at >= STEP:
            self._step(now, busy)

    def _step(self, now: float, busy: int) -> None:
        """Change the limit a little, if at all, by all answers since the last step."""
        slowdown = _median(self._rounds)
        self._slowdown = max(1.0, slowdown)
        if slowdown < 1 / TOLERANCE:
            self._begin_measuring(now, busy)
            return
        queue = self.limit * (1 - 1 / slowdown)
        if queue > MANY_QUEUE and slowdown > TOLERANCE:
            self._cut(self._without_queue(slowdown), now, busy)
            return
        few_queue = queue < max(FEW_QUEUE, self.limit / 6) and slowdown < TOLERANCE
        if few_queue and self._in_use and not self._slow_start:
            self._change(min(self.limit + 1, self._most), now)
        else:
            self._begin_step(now)

    def _without_queue(self, slowdown: float) -> int:
        return round(self.limit / slowdown + 1)

    def _cut(self, limit: int, now: float, busy: int) -> None:
        """Lower the limit. What is under way was sent under the old one, and says nothing about the new."""
        self.limit = limit
        self._slow_start = False
        self._outdated, self._cut_at = busy - 1, now + self._settle
        self._round.clear()
        self._begin_step(now)

    def _begin_step(self, now: float) -> None:
        self._rounds.clear()
        self._in_use = False
        self._stepped_at = now

    def _begin_measuring(self, now: float, busy: int) -> None:
        slow_start, self._resume_at = self._slow_start, self.limit
        self._measuring = True
        self._samples.clear()
        self._cut(1, now, busy)
        self._slow_start = slow_start

    def _measure(self, kind: str, seconds: float, now: float) -> None:
        """Record the answer to a lone request. The measurement ends when one kind has enough of them."""
        if not self._alone:
            return
        samples = self._samples.setdefault(kind, [])
        samples.append(seconds)
        if len(samples) < ENOUGH:
            return
        as_known = [
            self._note_best(each, times) for each, times in self._samples.items() if len(times) > ENOUGH / 2
        ]
        after = min(2 * self._measure_after, MEASURE_EVERY) if all(as_known) else MEASURE_FIRST
        took = sum(sum(times) for times in self._samples.values())
        self._measure_after = max(after, took * MEASURE_RARELY)
        self._end_measuring(now)

    def _end_measuring(self, now: float) -> None:
        self._measured_at = now
        self._samples.clear()
        self._measuring, self._paused_at = False, None
        self._change(self._resume_at, now)

    def _change(self, limit: int, now: float) -> None:
        """Raise the limit. It is used up here only once the other workers know it, and use it, too."""
        self.limit = limit
        self._full = self._most
        self._begin_step(now)

    def _learn(self, kind: str, seconds: float) -> None:
        """Record an answer of a kind that was never measured, less what the queue adds at present."""
        samples = self._samples.setdefault(kind, [])
        samples.append(seconds / self._slowdown)
        if len(samples) == ENOUGH:
            self._note_best(kind, self._samples.pop(kind))

    def _note_best(self, kind: str, times: list[float]) -> bool:
        """Record a best time. Return whether it equals the known one within the tolerance; if so, average."""
        old, new = self._best.get(kind, 0.0), max(_median(times), SHORTEST)
        as_known = old / TOLERANCE < new < old * TOLERANCE
        self._best[kind] = math.sqrt(old * new) if as_known else new
        return as_known


def _median(values: Collection[float]) -> float:
    """Return the middle value; the lower one of an even number, so that one stalled of two does not count."""
    return sorted(values)[(len(values) - 1) // 2]


class AtCapacityError(Exception):
    """No slot became free in time."""


class ConcurrencyLimiter:
    """Lets at most `limit.limit` requests go at one time; the others wait in order of arrival.

    The limit may change at any time. A higher one takes effect at the next release; under a lower one nobody
    gets a slot until enough have ended. So may the `share` of this worker, below which the limit stays.

    Optional requests leave one slot to the needed ones if there are two or more. An optional request that
    is overdue no longer counts when a needed one waits: together they may exceed the limit, but never `most`.
    """

    def __init__(
        self,
        limit: AdaptiveLimit,
        most: int,
        *,
        longest_wait: float = LONGEST_WAIT,
        overdue: float = OVERDUE,
    ) -> None:
        """Make it; `longest_wait` and `overdue` are in seconds."""
        self._limit = limit
        self._most = self._share = most
        self._longest_wait = longest_wait
        self._overdue_after = overdue
        self._busy = self._optional = self._peak = 0
        self._overdue = set[_Slot]()
        self._numbers = itertools.count()
        self.on_starved: Callable[[], None] = lambda: None
        """Called when a request waits and this worker has no share."""
        self._waiting_needed = deque[_Waiter]()
        self._waiting_optional = deque[_Waiter]()

    @property
    def busy(self) -> int:
        """How many slots are in use."""
        return self._busy

    @property
    def share(self) -> int:
        """How many slots this worker has of those that all workers share; by default all."""
        return self._share

    @share.setter
    def share(self, share: int) -> None:
        self._share = share
        self._let_in()

    def take_peak(self) -> int:
        """Return how many slots would have been used at one time since the last call, had all been free."""
        peak, self._peak = self._peak, 0
        self._note_peak()
        return peak

    def slot(self, *, optional: bool = False, first: bool = False) -> "_Slot":
        """Return a context manager that holds a slot for the duration of its block.

        It waits if none is free, with `first` before all others, and raises `AtCapacityError` after the
        longest wait.
        """
        return _Slot(self, optional=optional, first=first)

    async def enter(self, slot: "_Slot") -> None:
        """Take a slot; wait if none is free. Raises `AtCapacityError`. `leave` must follow."""
        if self._waiting_needed or self._waiting_optional or not self._is_free(optional=slot.optional):
            await self._wait(slot)
        else:
            self._occupy(optional=slot.optional)
        if slot.optional:
            loop = asyncio.get_running_loop()
            slot.timer = loop.call_later(self._overdue_after, self._note_overdue, slot)

    def leave(self, slot: "_Slot") -> None:
        """Free a slot."""
        if slot.timer is not None:
            slot.timer.cancel()
            self._overdue.discard(slot)
        self._release(optional=slot.optional)

    async def _wait(self, slot: "_Slot") -> None:
        loop = asyncio.get_running_loop()
        line = self._waiting_optional if slot.optional else self._waiting_needed
        turn: asyncio.Future[bool] = loop.create_future()
        waiter = (-1 if slot.first else next(self._numbers), turn)
        line.insert(0 if slot.first else len(line), waiter)
        self._note_peak()
        if self._share == 0 and len(self._waiting_needed) + len(self._waiting_optional) == 1:
            self.on_starved()
        self._let_in()  # a needed one may overtake the optional ones that wait
        deadline = loop.call_later(self._longest_wait, _turn_away, waiter, line)
        try:
            let_in = await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                with contextlib.suppress(ValueError):  # `_let_in` may have removed it
                    line.remove(waiter)
            elif turn.result():  # let in already
                self._release(optional=slot.optional)
            raise
        finally:
            deadline.cancel()
        if not let_in:
            raise AtCapacityError(
                "the dialer is too slow: no place for one more request fell free within"
                f" {self._longest_wait:g} s"
            )

    def _is_free(self, *, optional: bool) -> bool:
        limit = min(self._limit.limit, self._share)
        if optional:
            return self._busy < limit and self._optional < max(1, limit - 1)
        most = min(self._most, self._share)
        return self._busy < most and self._busy - len(self._overdue) < limit

    def _occupy(self, *, optional: bool) -> None:
        self._busy += 1
        self._optional += optional
        self._note_peak()

    def _note_peak(self) -> None:
        self._peak = max(self._peak, self._busy + len(self._waiting_needed) + len(self._waiting_optional))

    def _release(self, *, optional: bool) -> None:
        self._busy -= 1
        self._optional -= optional
        self._let_in()

    def _note_overdue(self, slot: "_Slot") -> None:
        self._overdue.add(slot)
        self._let_in()

    def _let_in(self) -> None:
        """Assign free slots to those who wait, so that no later request overtakes them."""
        while (line := self._next_line()) is not None:
            _, turn = line.popleft()
            if not turn.done():  # else cancelled
                turn.set_result(True)
                self._occupy(optional=line is self._waiting_optional)

    def _next_line(self) -> deque[_Waiter] | None:
        """Return the line whose first may enter; if both may, the one that waits longer."""
        needed, optional = self._waiting_needed, self._waiting_optional
        may_needed = bool(needed) and self._is_free(optional=False)
        if optional and self._is_free(optional=True) and not (may_needed and needed[0][0] < optional[0][0]):
            return optional
        return needed if may_needed else None


def _turn_away(waiter: _Waiter, line: deque[_Waiter]) -> None:
    """End a wait that took too long."""
    _, turn = waiter
    if not turn.done():
        line.remove(waiter)
        turn.set_result(False)


class _Slot:
    """A slot for the duration of a block."""

    __slots__ = ("_limiter", "first", "optional", "timer")

    def __init__(self, limiter: ConcurrencyLimiter, *, optional: bool, first: bool) -> None:
        self._limiter = limiter
        self.optional = optional
        self.first = first
        self.timer: asyncio.TimerHandle | None = None
        """Of an optional one: makes it overdue."""

    async def __aenter__(self) -> None:
        await self._limiter.enter(self)

    async def __aexit__(self, *_: object) -> None:
        self._limiter.leave(self)
