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
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from types import MappingProxyType

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
from worker.core.transitions import State
from worker.vicidial.limiter import LONGEST_WAIT, AdaptiveLimit, AtCapacityError, ConcurrencyLimiter

_log = structlog.get_logger()

# --- the login lockout guard

MOST_FAILURES = 9
"""The most failed logins in 15 minutes; one more locks the user."""
LOCK = 15 * 60 * 1.02
"""Seconds for which a refused password is not sent again, and in which failed logins are counted.

VICIdial's 15 minutes and 18 s more: it records logins in whole seconds, and may count one a while after we
stopped waiting for its answer.
"""
DROPPED_BY_VICIDIAL = re.compile(r"[^-_0-9a-zA-Z]")
"""What VICIdial drops from a user or password before it compares it, and before it repeats it in an error."""
_LONGER = 2.1
"""The factor between two waits without a password file: 5 minutes, then 10.5, then `LOCK`."""


@dataclass(slots=True, eq=False)
class Permit:
    """The right to send one request. Its holder reports exactly once how the request ended."""

    lone: bool
    """Whether this is the lone try after a refusal."""
    admitted: float
    password: bytes
    """The fingerprint of the password that is sent."""


class LockoutGuard:
    """Login lockout guard: failed logins must never lock the API user.

    VICIdial counts a user's failed logins since the last good one. After ten it refuses that user, even with
    the right password, until 15 minutes after the last good login. So the first refused login stops every
    request, and the next try is sent alone: after everything sent before has ended, no sooner than
    `refused_probe`, and with another password or after 15 minutes if there is a file. Between two good logins
    no 15 minutes hold ten failed ones. `docs/politeness.md` has the rules one by one.

    It knows only its own process, as that page says too. If logins are refused and every answer is lost, that
    can't be distinguished from an outage.

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
    ) -> None:
        """Start with nothing refused.

        Args:
            refused_probe: The minimum time between two tries, in seconds.
            password: The password that is sent as long as nothing is refused.
            read_password: Reads the file again and returns the password to send from now on. Raises
                `ValueError`. None if there is no file.
            clock: Returns the time in seconds.
        """
        self._refused_probe = self._without_file = refused_probe
        self._read_password = read_password
        self._clock = clock
        self._key = secrets.token_bytes(16)
        self._password = self._fingerprint(password)
        self._unreadable = ""
        self._under_way: set[Permit] = set()
        # When each login ended that may have failed since the last good one, as far as they matter.
        self._failures: deque[float] = deque(maxlen=MOST_FAILURES)
        self._refused_passwords: dict[bytes, float] = {}
        self.message: str | None = None
        """The dialer's answer to the latest refused login; None if no refusal stands."""
        self._tried_at = 0.0

    @property
    def refusing(self) -> bool:
        """Whether a refusal stands."""
        return self.message is not None

    def admit(self) -> Permit:
        """Return a permit to send one request now. Raises `LoginRefused` if nothing may be sent now."""
        if self.refusing and (self.next_try_in() > 0 or self._under_way):
            raise LoginRefused(self.explain())
        permit = Permit(self.refusing, self._clock(), self._password)
        self._under_way.add(permit)
        return permit

    def accepted(self, permit: Permit) -> None:
        """Report that the dialer accepted the login. Only the success of a lone try lifts the refusal.

        An unreadable answer does not show that: report it as `unanswered`.
        """
        if not self._ended(permit):
            return
        # The dialer restarted its count at this login: what ended before it was sent no longer counts.
        while self._failures and self._failures[0] < permit.admitted:
            self._failures.popleft()
        if permit.lone:
            self.message = None
            self._refused_passwords.clear()
            self._without_file = self._refused_probe

    def refused(self, permit: Permit, message: str) -> None:
        """Report that the dialer refused the login. `message` is shown to operators, without secrets."""
        if not self._ended(permit):
            return
        now = self._clock()
        self._failures.append(now)
        self._refused_passwords[permit.password] = now
        if permit.lone:
            self._without_file = min(_LONGER * self._without_file, LOCK)
        if not self.refusing or permit.lone:
            self._tried_at = now
        self.message = message

    def unanswered(self, permit: Permit) -> None:
        """Report an outage, timeout or cancellation; it counts as a failed login while a refusal stands."""
        if not self._ended(permit) or not self.refusing:
            return
        now = self._clock()
        self._failures.append(now)
        if permit.lone:
            self._tried_at = now
            if permit.password in self._refused_passwords:
                self._refused_passwords[permit.password] = now

    def next_try_in(self) -> float:
        """Return the seconds until the next try is due, with the password that its file holds now."""
        if not self.refusing:
            return 0.0
        now = self._clock()
        due = self._tried_at + self._refused_probe
        if self._read_password is None:
            due = self._tried_at + self._without_file
        else:
            due = max(due, self._file_allows_at(self._read_password, now))
        if len(self._failures) == MOST_FAILURES:
            due = max(due, self._failures[0] + LOCK)
        return max(0.0, due - now)

    def _file_allows_at(self, read_password: Callable[[], str], now: float) -> float:
        """Read the file again. Return when its password may be sent."""
        try:
            self._password, self._unreadable = self._fingerprint(read_password()), ""
        except ValueError as error:
            self._unreadable = f"; the password file: {error}"
            return now + 1.0
        self._refused_passwords = {
            password: at
            for password, at in self._refused_passwords.items()
            if at + LOCK > now or password == self._password
        }
        return self._refused_passwords.get(self._password, -math.inf) + LOCK

    def ready_in(self) -> float:
        """Return the seconds until `admit` may succeed; an estimate while requests are under way."""
        wait = self.next_try_in()
        return max(wait, 1.0) if self.refusing and self._under_way else wait

    def explain(self) -> str:
        """Return for an operator what was refused, and when the next try is due."""
        wait = self.next_try_in()
        refused_at = self._refused_passwords.get(self._password, -math.inf)
        same = self._read_password is not None and refused_at + LOCK > self._clock()
        why = "; the file still holds the password that was refused" if same else ""
        return f"{self.message}{why}{self._unreadable}; {self._next_try(wait)}"

    def _next_try(self, wait: float) -> str:
        if wait > 0:
            return f"next try in {_in_words(wait)}"
        if any(permit.lone for permit in self._under_way):
            return "the next try is under way"
        return "next try when the requests under way have ended"

    def _ended(self, permit: Permit) -> bool:
        if permit not in self._under_way:
            return False
        self._under_way.remove(permit)
        return True

    def _fingerprint(self, password: str) -> bytes:
        sent = DROPPED_BY_VICIDIAL.sub("", password).encode()
        return hashlib.blake2b(sent, key=self._key, digest_size=16).digest()


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
        return self._limit.limit

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

    @asynccontextmanager
    async def request(self, function: str, subject: str) -> AsyncIterator[None]:
        """Guard one request about this subject of an event; the block sends it.

        Raises `CircuitOpen`, or `LeftOut` for an optional function, if it may not be sent now, and what the
        block raises.
        """
        if function in self._optional:
            async with self._optional_request(function):
                yield
            return
        check = partial(self.breakers.check_function, function)
        check()
        try:
            async with self._sending(function, check):
                yield
        except EnrichmentUnavailable as error:
            error.to_blame = await self._record_failure(function, subject, error)
            raise
        except (NotReady, EnrichmentRejected):
            self.breakers.answered(function)
            raise
        self.breakers.answered(function)

    @asynccontextmanager
    async def probe(self, function: str) -> AsyncIterator[None]:
        """Guard one probe, which goes before all requests that wait; the block sends it.

        Any answer is a success, also an unreadable one, as servers differ in how they answer an unknown id:
        what the block raises then is suppressed.
        """
        try:
            async with self._sending(function, first=True):
                yield
        except LoginRefused:
            raise
        except EnrichmentUnavailable as error:
            if error.kind is not FailureKind.UNREADABLE or self.lockout.refusing:
                self.breakers.probed_in_vain(function, error)
                raise
        except (NotReady, EnrichmentRejected):
            pass
        self.breakers.probed(function)

    @asynccontextmanager
    async def _optional_request(self, function: str) -> AsyncIterator[None]:
        """Guard one request of an optional function; its breaker has the outcome before the slot is free."""
        breaker = self._optional[function]
        check = partial(self._check_optional, function)

        def report(error: EnrichmentUnavailable | None) -> None:
            if error is None:
                breaker.succeeded()
            elif not isinstance(error, LoginRefused):
                breaker.failed(error.kind, str(error))

        check()
        async with self._sending(function, check, optional=True):
            self._being_tried.add(function)
            try:
                with _reporting(report):
                    yield
            finally:
                self._being_tried.discard(function)

    def _check_optional(self, function: str) -> None:
        self.breakers.check_function(function)
        breaker = self._optional[function]
        if breaker.capacity() == 0 or (breaker.state is State.HALF_OPEN and function in self._being_tried):
            raise LeftOut(f"{function} is left out for now: {breaker.status().reason}")

    @asynccontextmanager
    async def _sending(
        self,
        function: str,
        check: Callable[[], None] = lambda: None,
        *,
        optional: bool = False,
        first: bool = False,
    ) -> AsyncIterator[None]:
        """Hold a slot and a permit. `check` raises if nothing may be sent after the wait for the slot."""
        try:
            async with self._limiter.slot(optional=optional, first=first):
                check()
                permit = self.lockout.admit()
                started, worked = time.perf_counter(), time.thread_time()

                def report(error: EnrichmentUnavailable | None) -> None:
                    ours = time.thread_time() - worked  # not the dialer's
                    if not optional:
                        self._report_time(function, time.perf_counter() - started - ours, error)
                    self._report_login(permit, error)

                try:
                    with _reporting(report):
                        yield
                finally:
                    self.lockout.unanswered(permit)  # ignored if it was reported already
        except AtCapacityError as error:
            if optional:
                self._optional[function].failed(FailureKind.OUTAGE, str(error))
                raise EnrichmentUnavailable(str(error)) from error
            raise CircuitOpen(str(error)) from error

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


@contextmanager
def _reporting(report: Callable[[EnrichmentUnavailable | None], None]) -> Iterator[None]:
    """Report once why a request got no answer, or None for an answer; a cancellation is neither."""
    try:
        yield
    except EnrichmentUnavailable as error:
        report(error)
        raise
    except (NotReady, EnrichmentRejected):
        report(None)
        raise
    report(None)


async def _not_verified(_: str) -> bool:
    return False
