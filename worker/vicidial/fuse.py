"""The fuse: a refused login is not repeated until it locks the API user.

VICIdial counts the failed logins of a user since its last good one. Once they
are ten, it refuses that user, the right password included, until 15 minutes
after the last good login. So this is kept: between two good logins, no span of
15 minutes (three times `refused_probe`) holds ten refused ones.

- The first refusal stops every request that is not sent yet.
- The next try goes `refused_probe` later, alone: when everything sent before
  has ended, and while it is under way nothing else is sent.
- If it is refused too, or gets no answer, the next one goes as long after it.
- The requests in flight at the first refusal may be refused as well. They
  move the next try only where a span would hold ten. After eight at once the
  tries go 5 minutes after them (the ninth refusal), then 15, 20, 25, … minutes.

Three things it can't prevent. Ten requests in flight when the password
changes are ten failed logins: `max_concurrency` of all workers together must
stay below 10. Where logins are refused but every answer is lost, nothing tells
that from an outage. And a fuse forgets with its process: ten restarts within
15 minutes can be ten failed logins.

Nothing in here waits or sends. The clock is given, in seconds.
"""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from worker.core.errors import EnrichmentUnavailable, Fault

MOST_FAILURES = 9
"""The most failed logins in one span; one more locks the user."""
SPAN_IN_PROBES = 3
"""The length of a span, in `refused_probe`: 15 minutes by default, as the dialer's lock."""
MARGIN = 1.02
"""How much longer a span is taken to be: 18 s by default.

The dialer notes its logins in whole seconds, and may count one a while after we stopped waiting for it.
"""


@dataclass(slots=True, eq=False)
class Ticket:
    """Leave to send one request. Whoever holds it reports exactly once how the request ended."""

    probe: bool
    """Whether it is the lone try after a refusal: read the password file again before sending it."""
    admitted: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refusal that stands."""

    message: str
    """What the dialer said to the latest refused request, or where the trouble is."""
    seconds: float
    """Until the next try: 0 where it is due, or under way."""


class Fuse:
    """Keeps a refused login from being repeated until it locks the API user.

    Every ticket that `admit` gives must come back, through one of `accepted`, `refused`, `unanswered` and
    `unsent`. The first report counts and any further one is ignored, so that a `finally` may say
    `unanswered` of every request. A ticket that never came back would hold up every later try.
    """

    def __init__(self, refused_probe: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Take the shortest time between two tries, in seconds."""
        self._probe_after = refused_probe
        self._span = SPAN_IN_PROBES * refused_probe * MARGIN
        self._clock = clock
        self._under_way: set[Ticket] = set()
        # When each login ended that may have failed since the last good one, as far as they matter.
        self._failures: deque[float] = deque(maxlen=MOST_FAILURES)
        self._message: str | None = None
        self._refused_at = 0.0

    @property
    def refusal(self) -> Refusal | None:
        """The refusal that stands, if one does."""
        return None if self._message is None else Refusal(self._message, self._wait())

    def admit(self) -> Ticket:
        """Give leave to send one request now.

        Raises `EnrichmentUnavailable` with `Fault.REFUSED` where nothing may be sent now.
        """
        probe = self._message is not None
        if self._message is not None and (self._under_way or self._wait() > 0):
            raise EnrichmentUnavailable(f"{self._message}; {self._next_try()}", Fault.REFUSED)
        ticket = Ticket(probe, self._clock())
        self._under_way.add(ticket)
        return ticket

    def accepted(self, ticket: Ticket) -> None:
        """Report that the dialer took the login. Only a probe's success lifts the refusal.

        An answer that nobody can read shows no such thing: it counts as `unanswered`.
        """
        if not self._ended(ticket):
            return
        # The dialer's count began anew with this login: what ended before it was sent counts no more.
        while self._failures and self._failures[0] < ticket.admitted:
            self._failures.popleft()
        if ticket.probe:
            self._message = None

    def refused(self, ticket: Ticket, message: str) -> None:
        """Report that the dialer refused. `message` goes to operators, so it holds no secret."""
        if not self._ended(ticket):
            return
        now = self._clock()
        self._failures.append(now)
        if self._message is None or ticket.probe:
            self._refused_at = now
        self._message = message

    def unanswered(self, ticket: Ticket) -> None:
        """Report an outage, a timeout or a cancellation. Its login may have been refused, so it counts."""
        if not self._ended(ticket):
            return
        now = self._clock()
        self._failures.append(now)
        if ticket.probe:
            self._refused_at = now

    def unsent(self, ticket: Ticket) -> None:
        """Give the leave back: nothing was sent. Another request may go in its place."""
        self._ended(ticket)

    def _ended(self, ticket: Ticket) -> bool:
        if ticket not in self._under_way:
            return False
        self._under_way.remove(ticket)
        return True

    def _wait(self) -> float:
        """Give the seconds until the next try may go, at least 0."""
        due = self._refused_at + self._probe_after
        if len(self._failures) == MOST_FAILURES:
            due = max(due, self._failures[0] + self._span)
        return max(0.0, due - self._clock())

    def _next_try(self) -> str:
        if (wait := self._wait()) > 0:
            return f"next try in {_in_words(wait)}"
        if any(ticket.probe for ticket in self._under_way):
            return "the next try is under way"
        return "next try when the requests under way have ended"


def _in_words(seconds: float) -> str:
    """Write a wait for a person, rounded up to whole seconds: `5s`, `4m 50s`, `2h`, `1h 2m`."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "m"), (0 if hours else rest, "s")]
    return " ".join(f"{number}{unit}" for number, unit in parts if number)
