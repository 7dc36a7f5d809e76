"""The guard around each request to the dialer: decides whether it may be sent, and learns from its outcome.

Every request passes `Guard.request`, which asks in this order:

1. the circuit breakers (`worker.core.breakers`) of the dialer and of the function;
2. the concurrency limiter (`worker.vicidial.limiter`) for a slot, with a deadline;
3. the breakers again, as that wait may have been long;
4. the login lockout guard (`LockoutGuard`).

Afterwards it reports the outcome to each of them, once a request: the exception
that passes through, or none.

If it may not be sent, an event that needs the answer is put off with
`CircuitOpen`. The optional functions have breakers of their own, which affect
no other one and no needed request; while one is open, its function is `LeftOut`.
"""

import hashlib
import math
import re
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Literal, TypeVar

import structlog

from worker.core.breakers import BreakerStatus, CircuitBreaker, CircuitBreakers
from worker.core.errors import (
    CircuitOpen,
    EnrichmentRejected,
    EnrichmentUnavailable,
    FailureKind,
    FunctionRefused,
    LeftOut,
    LoginRefused,
    NotReady,
)
from worker.core.fleet import Board, Needs, Round
from worker.core.logins import LOCK, LONGER, MOST_FAILURES, Login, Logins
from worker.core.transitions import State
from worker.vicidial.limiter import LONGEST_WAIT, AdaptiveLimit, AtCapacityError, ConcurrencyLimiter

_log = structlog.get_logger()

_T = TypeVar("_T")

# --- the login lockout guard

DROPPED_BY_VICIDIAL = re.compile(r"[^-_0-9a-zA-Z]")
"""What VICIdial drops from a user or password before it compares it, and before it repeats it in an error."""


@dataclass(slots=True, eq=False)
class Permit:
    """The right to send one request. Its holder reports exactly once how the request ended."""

    lone: bool
    """Whether this is the lone try after a refusal."""
    admitted: float
    password: str
    """The fingerprint of the password that is sent."""


class LockoutGuard:
    """Login lockout guard: failed logins must never lock the API user.

    VICIdial counts a user's failed logins since the last good one. After ten it refuses that user, even with
    the right password, until 15 minutes after the last good login. So the first refused login stops every
    request, and the next try is sent alone: after everything sent before has ended, at once with another
    password than the refused one (from the file, or if others sent that), else after 15 minutes; without a
    file no sooner than `refused_probe`. Between two good logins no 15 minutes hold ten failed ones.
    `docs/politeness.md` has the rules one by one.

    Through `news` and `learn` it shares what it knows with the other workers (`worker.core.fleet`); then
    `may_try` says whose turn the next try is. If logins are refused and every answer is lost, that can't be
    distinguished from an outage.

    Every permit that `admit` returns must come back, through one of `accepted`, `refused` and `unanswered`.
    The first report counts and later ones are ignored, so a `finally` may report `unanswered` for every
    request. A permit that never comes back blocks every later try. Nothing here waits or sends.
    """

    def __init__(
        self,
        refused_probe: float,
        password: str,
        read_password: Callable[[], str] | None = None,
        clock: Callable[[], float] = time.monotonic,
        fingerprint: Callable[[str], str] | None = None,
    ) -> None:
        """Start with nothing refused.

        Args:
            refused_probe: The minimum time between two tries, in seconds.
            password: The password that is sent as long as nothing is refused.
            read_password: Reads the file again and returns the password to send from now on. Raises
                `ValueError`. None if there is no file.
            clock: Returns the time in seconds.
            fingerprint: Returns the keyed hash of a password. By default the key is this process's own.
        """
        self._refused_probe = refused_probe
        self._read_password = read_password
        self._clock = clock
        self._hash = fingerprint or partial(keyed_hash, secrets.token_bytes(16))
        self._password = self._fingerprint(password)
        self._unreadable = ""
        self._under_way: set[Permit] = set()
        self._logins = Logins()
        self._news = deque[Login](maxlen=_MOST_NEWS)
        self._told: tuple[Login, ...] = ()
        self._ahead = 0.0
        self.may_try = True
        """Whether the next try after a refusal is this worker's; another one's, if not."""
        self.on_news: Callable[[], None] = lambda: None
        """Called after each login that the other workers should know of."""

    @property
    def message(self) -> str | None:
        """The dialer's answer to the latest refused login; None if no refusal stands."""
        return self._logins.message

    @property
    def refusing(self) -> bool:
        """Whether a refusal stands."""
        return self.message is not None

    @property
    def tries(self) -> bool:
        """Whether the lone try is under way, or could be sent now if it is this worker's turn."""
        if not self.refusing:
            return False
        return any(permit.lone for permit in self._under_way) or self._wait_alone() == 0

    @property
    def has_news(self) -> bool:
        """Whether a login ended that the other workers should know of."""
        return bool(self._news)

    def admit(self) -> Permit:
        """Return a permit to send one request now. Raises `LoginRefused` if nothing may be sent now."""
        if self.refusing and self.ready_in() > 0:
            raise LoginRefused(self.explain())
        permit = Permit(self.refusing, self._clock(), self._password)
        self._under_way.add(permit)
        return permit

    def accepted(self, permit: Permit) -> None:
        """Report that the dialer accepted the login. Only the success of a lone try lifts the refusal.

        An unreadable answer does not show that: report it as `unanswered`.
        """
        self._report(permit, "accepted")

    def refused(self, permit: Permit, message: str) -> None:
        """Report that the dialer refused the login. `message` is shown to operators, without secrets."""
        self._report(permit, "refused", message)

    def unanswered(self, permit: Permit) -> None:
        """Report an outage, timeout or cancellation; it counts as a failed login while a refusal stands."""
        self._report(permit, "unanswered")

    def news(self, now: float) -> tuple[Login, ...]:
        """Return what the other workers don't know yet of this one's logins; `now` is the Unix time."""
        self._ahead, self._told = now - self._clock(), tuple(self._news)
        return tuple(login.shifted(self._ahead) for login in self._told)

    def learn(self, logins: Logins) -> None:
        """Adopt what all workers know together, with the latest `news` of this one; in Unix time."""
        self._logins = logins.shifted(-self._ahead)
        self._news = deque((each for each in self._news if each not in self._told), self._news.maxlen)
        for login in self._news:
            self._logins = self._logins.after(login)

    def next_try_in(self) -> float:
        """Return the seconds until the next try is due, with the password that its file holds now."""
        if not self.refusing:
            return 0.0
        now, known = self._clock(), self._logins
        if self._read_password is None and self._password not in (*known.passwords, known.tried):
            due = now  # it was another one that others sent, such as one that `check` was given by mistake
        elif self._read_password is None:
            due = known.tried_at + min(
                LONGER**known.tries * self._refused_probe, max(LOCK, self._refused_probe)
            )
        else:
            due = self._file_allows_at(self._read_password, now)
        if len(known.failures) == MOST_FAILURES:
            due = max(due, known.failures[0] + LOCK)
        return max(0.0, due - now)

    def _file_allows_at(self, read_password: Callable[[], str], now: float) -> float:
        """Read the file again. Return when its password may be sent."""
        try:
            self._password, self._unreadable = self._fingerprint(read_password()), ""
        except ValueError as error:
            self._unreadable = f"; the password file: {error}"
            return now + 1.0
        known = self._logins
        if self._password in known.passwords:
            return max(known.passwords[self._password] + LOCK, known.tried_at + self._refused_probe)
        return known.tried_at + self._refused_probe if self._password == known.tried else now

    def ready_in(self) -> float:
        """Return the seconds until `admit` may succeed; an estimate while requests are under way.

        The turn of this worker comes at an unknown time, too.
        """
        wait = self._wait_alone()
        return wait if self.may_try or not self.refusing else max(wait, 1.0)

    def _wait_alone(self) -> float:
        wait = self.next_try_in()
        return max(wait, 1.0) if self.refusing and self._under_way else wait

    def explain(self) -> str:
        """Return for an operator what was refused, and when the next try is due."""
        wait = self.next_try_in()
        refused_at = self._logins.passwords.get(self._password, -math.inf)
        same = self._read_password is not None and refused_at + LOCK > self._clock()
        why = "; the file still holds the password that was refused" if same else ""
        return f"{self.message}{why}{self._unreadable}; {self._next_try(wait)}"

    def _next_try(self, wait: float) -> str:
        if wait > 0:
            return f"next try in {_in_words(wait)}"
        if any(permit.lone for permit in self._under_way):
            return "the next try is under way"
        if self._under_way:
            return "next try when the requests under way have ended"
        return "the workers agree on which of them makes the next try"

    def _report(
        self, permit: Permit, outcome: Literal["accepted", "refused", "unanswered"], message: str = ""
    ) -> None:
        if permit not in self._under_way:
            return
        self._under_way.remove(permit)
        if outcome == "accepted" and not permit.lone and not self._logins.failures:
            return  # nothing to learn, as nearly always
        login = Login(outcome, permit.admitted, self._clock(), permit.password, permit.lone, message)
        known = self._logins.after(login)
        if known == self._logins:
            return
        self._logins = known
        self._news.append(login)
        self.on_news()

    def _fingerprint(self, password: str) -> str:
        return self._hash(DROPPED_BY_VICIDIAL.sub("", password))


_MOST_NEWS = 64
"""Logins that are kept for the other workers, the latest; a round a second takes them."""


def keyed_hash(key: bytes, password: str) -> str:
    """Return the fingerprint of a password for this process."""
    return hashlib.blake2b(password.encode(), key=key, digest_size=16).hexdigest()


def slow_hash(salt: bytes) -> Callable[[str], str]:
    """Return a function for fingerprints that other workers can compare, and nobody can easily guess from.

    The latest few are remembered, as each takes some 50 ms.
    """

    @lru_cache(maxsize=16)
    def fingerprint(password: str) -> str:
        return hashlib.scrypt(password.encode(), salt=salt, n=2**14, r=8, p=1, dklen=16).hex()

    return fingerprint


def _in_words(seconds: float) -> str:
    """Return a duration as text, rounded up to whole seconds: `5s`, `4m 50s`, `2h`, `1h 2m`."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "m"), (0 if hours else rest, "s")]
    return " ".join(f"{number}{unit}" for number, unit in parts if number)


# --- the guard

OPTIONAL: Mapping[str, str] = MappingProxyType(
    {
        "recording_lookup": "recordings",
        "campaigns_list": "the campaigns' names",
        "user_details": "full_name, access_level and user_group",
    }
)
"""The optional functions, which not every API user may use, and what is null without each."""
FAILURES_IN_A_ROW = 3
"""How many open an optional function's breaker; each made one call wait in vain."""

_INSTANT = 0.005
"""Seconds that the recorded server took when idle. A faster answer counts as no faster."""


class Guard:
    """Decides whether a request may be sent, and learns from its outcome."""

    def __init__(
        self,
        breakers: CircuitBreakers,
        lockout: LockoutGuard,
        *,
        max_concurrency: int,
        longest_wait: float = LONGEST_WAIT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Have each request wait for a slot for `longest_wait` seconds at most."""
        self.breakers = breakers
        self.lockout = lockout
        self.verify: Callable[[str], Awaitable[bool]] = _not_verified
        """Returns whether the dialer answers probes of this function; set by the `Prober`."""
        self._limit = AdaptiveLimit(max_concurrency, clock)
        self._limiter = ConcurrencyLimiter(self._limit, max_concurrency, longest_wait=longest_wait)
        self._being_tried = set[str]()
        self._reported = set[str]()
        self._optional = {
            name: CircuitBreaker(
                name,
                full=1,
                probe_max=breakers.probe_max,
                refused_probe=breakers.refused_probe,
                failures_in_a_row=FAILURES_IN_A_ROW,
                clock=clock,
                on_change=self._report_optional,
            )
            for name in OPTIONAL
        }

    @property
    def limit(self) -> int:
        """How many requests may be under way now."""
        return min(self._limit.limit, self._limiter.share)

    # --- as a `worker.core.fleet.Participant`

    @property
    def on_news(self) -> Callable[[], None]:
        """Called when a round should be played soon: for news, or as a request waits without a share."""
        return self.lockout.on_news

    @on_news.setter
    def on_news(self, called: Callable[[], None]) -> None:
        self.lockout.on_news = self._limiter.on_starved = called

    def needs(self, now: float) -> Needs:
        """Return what this worker brings to a round of all workers; `now` is the Unix time."""
        return Needs(
            busy=self._limiter.busy,
            wanted=self._limiter.take_peak(),
            limit=self._limit.limit,
            measures=self._limit.measures,
            tries=self.lockout.tries,
            news=self.lockout.news(now),
        )

    def lower(self, share: int) -> None:
        """Have no more requests under way than this from now on, if the share is larger."""
        self._limiter.share = min(self._limiter.share, share)

    def take(self, played: Round) -> None:
        """Learn what all workers know, then use this worker's share."""
        was_refusing = self.lockout.refusing
        self.lockout.learn(played.board.logins)
        self.lockout.may_try = played.may_try
        if self.lockout.refusing and not was_refusing:
            wait = timedelta(seconds=self.lockout.next_try_in())
            self.breakers.login_refused(LoginRefused(self.lockout.explain()), wait)
        elif was_refusing and not self.lockout.refusing:
            self.breakers.dialer.probe_now()
        self._limit.adopt(played)
        self._limiter.share = played.share

    def leave(self) -> None:
        """Send nothing until the next round."""
        self._limiter.share, self.lockout.may_try = 0, False

    def be_alone(self, share: int) -> None:
        """Go on with this share, by what this worker alone knows."""
        self._limit.adopt(Round(Board(), share, may_try=True))
        self._limiter.share, self.lockout.may_try = share, True

    @property
    def refusal(self) -> str | None:
        """Why nothing is sent to the dialer now, if it refuses us; else None."""
        if self.lockout.refusing:
            return self.lockout.message
        return self.breakers.dialer.status().reason if self.breakers.dialer.refused else None

    def left_out(self, function: str) -> str | None:
        """Return why an optional function is not used now; None if it is."""
        status = self._optional[function].status()
        return status.reason if status.state in (State.OPEN, State.HALF_OPEN) else None

    def leaves_out(self, function: str) -> bool:
        """Return whether an optional function is not used now."""
        return self.left_out(function) is not None

    async def request(self, function: str, subject: str, send: Callable[[], Awaitable[_T]]) -> _T:
        """Send one request about this subject of an event, if it may be sent now. Return its answer.

        Raises `CircuitOpen`, or `LeftOut` for an optional function, if it may not be sent now, and what
        `send` raises.
        """
        if function in self._optional:
            return await self._request_optional(function, send)
        self.breakers.check_function(function)
        try:
            answer = await self._send(function, send, self.breakers.check_function)
        except EnrichmentUnavailable as error:
            error.to_blame = await self._record_failure(function, subject, error)
            raise
        except (NotReady, EnrichmentRejected):
            self.breakers.answered(function)
            raise
        self.breakers.answered(function)
        return answer

    async def probe(self, function: str, send: Callable[[], Awaitable[object]]) -> None:
        """Send one probe, before all requests that wait.

        Any answer is a success, also an unreadable one, as servers differ in how they answer an unknown id:
        what `send` raises then is suppressed.
        """
        try:
            await self._send(function, send, lambda _: None, first=True)
        except LoginRefused:
            raise
        except EnrichmentUnavailable as error:
            if error.kind is not FailureKind.UNREADABLE or self.lockout.refusing:
                self.breakers.probed_in_vain(function, error)
                raise
        except (NotReady, EnrichmentRejected):
            pass
        self.breakers.probed(function)

    async def _request_optional(self, function: str, send: Callable[[], Awaitable[_T]]) -> _T:
        """Send one request of an optional function; its breaker has the outcome before the slot is free."""
        breaker = self._optional[function]

        async def send_and_record() -> _T:
            self._being_tried.add(function)
            try:
                answer = await send()
            except (NotReady, EnrichmentRejected):
                breaker.succeeded()
                raise
            except EnrichmentUnavailable as error:
                if not isinstance(error, LoginRefused):
                    breaker.failed(error.kind, str(error))
                raise
            finally:
                self._being_tried.discard(function)
            breaker.succeeded()
            return answer

        self._check_optional(function)
        return await self._send(function, send_and_record, self._check_optional, optional=True)

    def _check_optional(self, function: str) -> None:
        self.breakers.check_function(function)
        breaker = self._optional[function]
        if breaker.capacity() == 0 or (breaker.state is State.HALF_OPEN and function in self._being_tried):
            raise LeftOut(f"{function} is left out for now: {breaker.status().reason}")

    async def _send(
        self,
        function: str,
        send: Callable[[], Awaitable[_T]],
        check: Callable[[str], None],
        *,
        optional: bool = False,
        first: bool = False,
    ) -> _T:
        """Send a request within a slot. `check` raises if nothing may be sent after the wait for the slot."""
        try:
            async with self._limiter.slot(optional=optional, first=first):
                check(function)
                self.breakers.look_up()
                return await self._send_within_slot(function, send, timed=not optional)
        except AtCapacityError as error:
            if optional:
                self._optional[function].failed(FailureKind.OUTAGE, str(error))
                raise EnrichmentUnavailable(str(error)) from error
            raise CircuitOpen(str(error)) from error

    async def _send_within_slot(self, function: str, send: Callable[[], Awaitable[_T]], *, timed: bool) -> _T:
        """Send a request with a permit, and report once how it ended."""
        permit = self.lockout.admit()
        started = _not_ours() if timed else None
        try:
            answer = await send()
        except EnrichmentUnavailable as error:
            self._report(function, permit, started, error)
            raise
        except (NotReady, EnrichmentRejected):
            self._report(function, permit, started)
            raise
        else:
            self._report(function, permit, started)
            return answer
        finally:
            self.lockout.unanswered(permit)  # ignored if it was reported already

    def _report(
        self,
        function: str,
        permit: Permit,
        started: float | None,
        error: EnrichmentUnavailable | None = None,
    ) -> None:
        """Report how a request ended; `started` is None if its time says nothing."""
        if started is not None:
            self._report_time(function, _not_ours() - started, error)
        self._report_login(permit, error)

    def _report_time(self, function: str, seconds: float, error: EnrichmentUnavailable | None) -> None:
        if error is None or error.kind is FailureKind.UNREADABLE:
            self._limit.on_success(function, max(seconds, _INSTANT), self._limiter.busy)
        elif error.kind is FailureKind.OUTAGE:
            self._limit.on_overload()

    def _report_login(self, permit: Permit, error: EnrichmentUnavailable | None) -> None:
        if error is None or isinstance(error, FunctionRefused):
            self.lockout.accepted(permit)  # an answer, so the login is good
        elif isinstance(error, LoginRefused):
            self.lockout.refused(permit, str(error))
            self.breakers.login_refused(error, timedelta(seconds=self.lockout.next_try_in()))

    async def _record_failure(self, function: str, subject: str, error: EnrichmentUnavailable) -> bool:
        """Record that an event's request failed. Return whether it counts as an attempt of the event."""
        if isinstance(error, LoginRefused):
            return False  # recorded already, and the event is not to blame
        dialer = self.breakers.dialer
        in_doubt = error.kind is FailureKind.OUTAGE and dialer.in_doubt
        if in_doubt and await self.verify(function) and dialer.failed_alone(f"{function} {subject}"):
            return True
        return self.breakers.unanswered(function, error, subject)

    def _report_optional(self, status: BreakerStatus) -> None:
        """Log once that an optional function is not used, and once that it works again."""
        name = status.name
        if status.state is State.RECOVERING:
            self._reported.discard(name)
            _log.info("dialer_extra_allowed", function=name)
        elif status.state is State.OPEN and name not in self._reported:
            self._reported.add(name)
            if self._optional[name].refused:
                _log.warning("dialer_extra_refused", function=name, error=status.reason, null=OPTIONAL[name])
            else:
                _log.warning("dialer_extra_failing", function=name, error=status.reason, null=OPTIONAL[name])


def _not_ours() -> float:
    """Return a time in seconds that stands still while this thread works, as that is not the dialer's."""
    return time.perf_counter() - time.thread_time()


async def _not_verified(_: str) -> bool:
    return False
