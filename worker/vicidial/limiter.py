"""How many requests may be under way at the dialer: as many as it answers without queueing.

The dialer's database carries live calls. Past some number at a time (4 on the
recorded server) more requests at once only wait for each other there. The
limit finds that number by how long answers take, and never exceeds the most
that the settings allow. It is TCP's way of sharing a line it knows nothing of:

- It measures how long an answer takes when nothing else of ours is under way:
  the *best* time of each kind of request, a median of seven.
- Slow start (Jacobson, "Congestion Avoidance and Control", SIGCOMM 1988): it
  begins at 1 and doubles after each round of `limit` answers, for as long as
  all that it lets through is used.
- The queue is estimated as TCP Vegas does (Brakmo, O'Malley, Peterson, "TCP
  Vegas: New Techniques for Congestion Detection and Avoidance", SIGCOMM 1994),
  and Netflix's concurrency-limits for services: limit * (1 - 1 / slowdown),
  where the slowdown is the median of observed / best.
- A slowdown of 3 or more in a single round cuts it at once, to
  limit / slowdown + 1; so does one of 2 in the slow start, which is over then.
- Once a second, by all rounds since: a slowdown of more than 1.5 cuts it
  likewise, if more than one and a half requests queue; where less than a sixth
  of it queues, or less than one request, it rises by 1, if it is used.
- A timeout or a 5xx halves it, once for all that was under way.
- The best times are measured again 10 s later, then after twice as long each
  time, up to 5 minutes, as BBR's ProbeRTT does (Cardwell et al., "BBR:
  Congestion-Based Congestion Control", ACM Queue 14(5), 2016), but for no more
  than a fiftieth of the time. A dialer that has become slower for good is
  learnt so; one that is faster than its best times is measured at once.

The medians are why a stalled answer changes nothing, and the tolerance of 1.5
is why chance does not.
"""

import asyncio
import contextlib
import itertools
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection

ENOUGH = 7
"""So many answers make a median that chance hardly moves: for a best time, and for a round."""
MOST_ROUNDS = 256
"""So many rounds, at most, are looked at for a small step: the latest."""
TOLERANCE = 1.5
"""Times that differ by less than this factor may be the same but for chance."""
STARK_AT_START, STARK = 2.0, 3.0
"""The slowdown that a single round is believed: in the slow start, which has few of them, and later."""
FEW_QUEUE, MANY_QUEUE = 0.9, 1.5
"""So many requests in the queue, or fewer, are no reason to stop growing; so many or fewer none to cut."""
STEP = 1.0
"""Seconds from one small step to the next, at least."""
MEASURE_FIRST, MEASURE_EVERY = 10.0, 300.0
"""Seconds in use from one measuring to the next: after one that found something new, and at most."""
MEASURE_RARELY = 50.0
"""How many times as long as a measuring took no other follows, be the dialer ever so slow."""
SHORTEST = 1e-6
"""A best time is never taken to be less, in seconds."""
LONGEST_WAIT = 120.0
"""Seconds that a request waits for its place. RabbitMQ takes back what is in hand for 30 minutes."""
OVERDUE = 0.25
"""Seconds after which a request for something optional no longer keeps needed ones waiting."""

_Waiter = tuple[int, asyncio.Future[None]]
"""One who waits for a place: the number in which they came, and what is set when it is theirs."""


class AdaptiveLimit:
    """How many requests may be under way. Pure: it is told of answers, and holds nobody up itself."""

    limit: int
    """So many may be under way now. It is 1 also while the best times are measured."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Take the highest limit there may be, at least 1, and a clock in seconds."""
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

    def on_success(self, kind: str, seconds: float, busy: int) -> None:
        """Take an answer into account, `seconds` after its request was sent.

        `kind` tells apart what takes differently long; there must be few kinds. `busy` is how many requests
        were under way when this one ended, itself included.
        """
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
            if busy >= self.limit:
                self._in_use = True
            self._round.append(seconds / best)
            answers = len(self._round)
            if answers >= self.limit and (answers >= ENOUGH or self._slow_start):
                self._end_round(now, busy)

    def on_overload(self) -> None:
        """Take into account a request that timed out, or was answered with a 5xx."""
        self._slow_start = False
        if self._outdated:
            self._outdated -= 1
        elif self._measuring:
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
            self.limit = min(2 * self.limit, self._most)
            self._begin_step(now)
        elif now - self._stepped_at >= STEP:
            self._step(now, busy)

    def _step(self, now: float, busy: int) -> None:
        """Decide about a small step, by all that was answered since the last one."""
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
            self.limit = min(self.limit + 1, self._most)
        self._begin_step(now)

    def _without_queue(self, slowdown: float) -> int:
        return round(self.limit / slowdown + 1)

    def _cut(self, limit: int, now: float, busy: int) -> None:
        """Go down to a limit. What is under way was sent under the old one, and tells nothing of the new."""
        self.limit = limit
        self._slow_start = False
        self._outdated, self._cut_at = busy - 1, now
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
        """Note the answer to a lone request. The measuring ends when one kind has had enough of them."""
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
        self._measured_at = now
        self._samples.clear()
        self.limit, self._measuring = self._resume_at, False
        self._begin_step(now)

    def _learn(self, kind: str, seconds: float) -> None:
        """Note an answer of a kind that no measuring has met, less what the queue adds at present."""
        samples = self._samples.setdefault(kind, [])
        samples.append(seconds / self._slowdown)
        if len(samples) == ENOUGH:
            self._note_best(kind, self._samples.pop(kind))

    def _note_best(self, kind: str, times: list[float]) -> bool:
        """Take a new best time, and say whether it is the known one but for chance, which is averaged out."""
        old, new = self._best.get(kind, 0.0), max(_median(times), SHORTEST)
        as_known = old / TOLERANCE < new < old * TOLERANCE
        self._best[kind] = math.sqrt(old * new) if as_known else new
        return as_known


def _median(values: Collection[float]) -> float:
    """Give the middle one, of an even number the lower: of two, a stalled one must not count."""
    return sorted(values)[(len(values) - 1) // 2]


class AtCapacityError(Exception):
    """No place became free in time."""


class ConcurrencyLimiter:
    """Lets at most `limit.limit` requests go at one time, the others in the order in which they came.

    The limit may change at any time. A higher one is seen at the next release; under a lower one nobody is
    let in until so many have left.

    Requests for something optional leave one place free for the needed ones if there are two or more. One
    that takes longer than `OVERDUE` is no longer counted when a needed one wants in: so they may exceed the
    limit together, but never `most`.
    """

    def __init__(self, limit: AdaptiveLimit, most: int) -> None:
        """Take the limit to keep to, and the most requests there may ever be."""
        self._limit = limit
        self._most = most
        self._busy = self._optional = 0
        self._overdue = set[object]()
        self._numbers = itertools.count()
        self._waiting_needed = deque[_Waiter]()
        self._waiting_optional = deque[_Waiter]()

    @property
    def busy(self) -> int:
        """How many places are taken."""
        return self._busy

    @contextlib.asynccontextmanager
    async def slot(self, *, optional: bool = False, first: bool = False) -> AsyncIterator[None]:
        """Hold a place for the length of the block, waiting for it if there is none.

        `first` goes before all who wait. Raises `NoPlaceError` after `LONGEST_WAIT`.
        """
        if (self._waiting_needed or self._waiting_optional) or not self._is_free(optional=optional):
            await self._wait(optional=optional, first=first)
        else:
            self._enter(optional=optional)
        token = object()
        timer = None
        if optional:
            timer = asyncio.get_running_loop().call_later(OVERDUE, self._note_overdue, token)
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()
            self._overdue.discard(token)
            self._leave(optional=optional)

    async def _wait(self, *, optional: bool, first: bool) -> None:
        line = self._waiting_optional if optional else self._waiting_needed
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = (-1 if first else next(self._numbers), turn)
        line.insert(0 if first else len(line), place)
        self._let_in()  # a needed one may pass the optional ones that wait
        try:
            async with asyncio.timeout(LONGEST_WAIT):
                await self._turn(place, line, optional=optional)
        except TimeoutError as error:
            raise AtCapacityError(
                f"the dialer is too slow: no place for one more request fell free within {LONGEST_WAIT:g} s"
            ) from error

    async def _turn(self, place: _Waiter, line: deque[_Waiter], *, optional: bool) -> None:
        _, turn = place
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                with contextlib.suppress(ValueError):  # `_let_in` may have passed over it
                    line.remove(place)
            else:  # let in already
                self._leave(optional=optional)
            raise

    def _is_free(self, *, optional: bool) -> bool:
        limit = self._limit.limit
        if optional:
            return self._busy < limit and self._optional < max(1, limit - 1)
        return self._busy < self._most and self._busy - len(self._overdue) < limit

    def _enter(self, *, optional: bool) -> None:
        self._busy += 1
        self._optional += optional

    def _leave(self, *, optional: bool) -> None:
        self._busy -= 1
        self._optional -= optional
        self._let_in()

    def _note_overdue(self, token: object) -> None:
        self._overdue.add(token)
        self._let_in()

    def _let_in(self) -> None:
        """Give free places away, so that nobody who comes later takes one from those who wait."""
        while (line := self._next_line()) is not None:
            _, turn = line.popleft()
            if not turn.done():  # else cancelled
                turn.set_result(None)
                self._enter(optional=line is self._waiting_optional)

    def _next_line(self) -> deque[_Waiter] | None:
        """Return the line whose first may enter; if both may, that of who came first."""
        lines = (self._waiting_needed, False), (self._waiting_optional, True)
        free = [line for line, optional in lines if line and self._is_free(optional=optional)]
        return min(free, key=lambda line: line[0][0], default=None)
