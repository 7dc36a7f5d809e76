"""The login lockout guard: failed logins must never lock the API user.

VICIdial counts the failed logins of a user since its last good one. Once they
are ten, it refuses that user, the right password included, until 15 minutes
after the last good login. So:

- The first refused login stops every request that is not sent yet.
- The next try goes no sooner than `refused_probe` after the last one, alone: when everything sent
  before has ended, and while it is under way nothing else is sent. The password file is read just before.
- A password that was refused is not sent again for 15 minutes while its file still holds it: it can only
  fail. Another one is tried as soon as the file holds it.
- Without a file only the dialer's side can change (an inactive user, a level, two-factor login): the same
  password is tried after `refused_probe`, then after twice as long each time, up to 15 minutes.
- Between two good logins, no 15 minutes hold ten failed ones, whatever the file holds and however many
  requests were in flight at the first refusal.

It knows only its own process. Each further worker, each restart and each
`crm-sync check` adds logins of its own, and `max_concurrency` of all workers
together must stay below ten: so many can be in flight when the password changes.
If logins are refused and every answer is lost, nothing tells that from an outage.

Nothing in here waits or sends. The clock is given, in seconds.
"""

import hashlib
import math
import re
import secrets
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from worker.core.errors import LoginRefused

MOST_FAILURES = 9
"""The most failed logins in 15 minutes; one more locks the user."""
LOCK = 15 * 60 * 1.02
"""Seconds for which a refused password is not sent again, and in which failed logins are counted.

VICIdial's 15 minutes and 18 s more: it notes its logins in whole seconds, and may count one a while after we
stopped waiting for it.
"""
_DROPPED = re.compile(r"[^-_0-9a-zA-Z]")
"""What VICIdial drops from a password before it compares it: with or without, it is the same password."""
_LONGER = 2.1
"""How much longer each wait without a file is; after two of 5 minutes, the first try was 15 minutes ago."""


@dataclass(slots=True, eq=False)
class Permit:
    """Leave to send one request. Whoever holds it reports exactly once how the request ended."""

    lone: bool
    """Whether it is the lone try after a refusal."""
    admitted: float
    password: bytes
    """The fingerprint of the password that it is sent with."""


class LockoutGuard:
    """Stops sending once a login is refused, and decides when the next try may go.

    Every permit that `admit` returns must come back, through one of `accepted`, `refused` and `unanswered`.
    The first report counts and any further one is ignored, so that a `finally` may report `unanswered` for
    every request. A permit that never came back would hold up every later try.
    """

    def __init__(
        self,
        refused_probe: float,
        password: str,
        read_password: Callable[[], str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with nothing refused.

        Args:
            refused_probe: The shortest time between two tries, in seconds.
            password: The password that is sent as long as nothing is refused.
            read_password: Returns the password to send from now on, reading its file again. Raises
                `ValueError`. `None` if there is no file.
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
        """What the dialer said to the latest refused login; `None` if no refusal stands."""
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
        """Report that the dialer took the login. Only a lone try's success lifts the refusal.

        An answer that nobody can read does not show that: it counts as `unanswered`.
        """
        if not self._ended(permit):
            return
        # The dialer's count began anew with this login: what ended before it was sent counts no more.
        while self._failures and self._failures[0] < permit.admitted:
            self._failures.popleft()
        if permit.lone:
            self.message = None
            self._refused_passwords.clear()
            self._without_file = self._refused_probe

    def refused(self, permit: Permit, message: str) -> None:
        """Report that the dialer refused the login. `message` goes to operators, so it holds no secret."""
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
        """Report an outage, a timeout or a cancellation.

        While a refusal stands, its login was probably refused too, so it counts.
        """
        if not self._ended(permit) or not self.refusing:
            return
        now = self._clock()
        self._failures.append(now)
        if permit.lone:
            self._tried_at = now
            if permit.password in self._refused_passwords:
                self._refused_passwords[permit.password] = now

    def next_try_in(self) -> float:
        """Return the seconds until the next try may go, with the password as its file holds it now."""
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
        """Read the file again, and return when what it holds may be sent."""
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
        """Return the seconds until `admit` may return a permit; a guess while requests are under way."""
        wait = self.next_try_in()
        return max(wait, 1.0) if self.refusing and self._under_way else wait

    def explain(self) -> str:
        """Return what was refused, and when the next try goes, in words for an operator."""
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
        sent = _DROPPED.sub("", password).encode()
        return hashlib.blake2b(sent, key=self._key, digest_size=16).digest()


def _in_words(seconds: float) -> str:
    """Write a wait for a person, rounded up to whole seconds: `5s`, `4m 50s`, `2h`, `1h 2m`."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "m"), (0 if hours else rest, "s")]
    return " ".join(f"{number}{unit}" for number, unit in parts if number)
