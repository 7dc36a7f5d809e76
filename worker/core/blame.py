"""Who is to blame for a failure of a dependency: one event, or the dependency.

**An outage** counts as an attempt of its event only if the breaker stays closed or recovering, and

- at least 3 successes, of whichever events, came since the last outage that counted: others succeed; or
- the dependency answered this event, and the outage before it was this event's own too, with no success
  between: it alone fails, and nothing shows an outage.

Hence at the onset of an outage at most one failure counts. Without other traffic at most three of one event
do before the breaker opens, and none if nothing answers. If failures strike at random, an event uses up its
next attempt before it gets through in at most one of four cases. An event that always fails uses up its
attempts also if it is tried more often than others come: that alone makes the breaker open and recover
again, so it has to count while recovering. If more than about one event in forty fails for good, the
breaker opens now and again: the others wait for minutes at a time, and nothing is lost.

A dependency with a question of our own is asked it before its breaker opens. If it answers, the failure is
the event's own. But if more than 20 different events fail like that with no success between, something is
down that our question does not need: then none counts, and the breaker opens as for any outage.

**A refusal** is about our credentials, and opens the breaker. But if at least 3 successes, or an answer to
our own question, came since this same event was last refused, it is the event's own (a firewall that
dislikes its content): it counts, and opens nothing. After one or two it neither counts nor opens anything.
The first refusal of an event opens a breaker with a question of our own. It opens another breaker if
nothing succeeded since the last event was refused for the first time, as when all are refused; else it
neither counts nor opens anything.
"""

from collections import deque

LAST_OUTCOMES = 20
FAILURES_OF_THE_LAST = 10
SUCCESSES_TO_BLAME = 3
MOST_ALONE = 20
"""Different events that may fail though our own question is answered, with no success between."""
MOST_REFUSED = 1000
"""Refused events that are remembered; the oldest are forgotten first."""


class Outcomes:
    """The last outcomes, and whether they look like an outage."""

    def __init__(self, failures_in_a_row: int) -> None:
        """Begin without any; so many failures in a row are an outage."""
        self._in_a_row = failures_in_a_row
        self._failed = deque[bool](maxlen=LAST_OUTCOMES)

    @property
    def last_failed(self) -> bool:
        """Whether the last outcome was a failure."""
        return bool(self._failed) and self._failed[-1]

    def add(self, *, failed: bool) -> None:
        """Add an outcome; the oldest one is forgotten."""
        self._failed.append(failed)

    def clear(self) -> None:
        """Forget all outcomes."""
        self._failed.clear()

    def look_down(self, *, after_one_more: bool = False) -> bool:
        """Return whether they look like an outage, or would do so after one more failure."""
        failed = [*self._failed, *([True] * after_one_more)][-LAST_OUTCOMES:]
        row = failed[-self._in_a_row :]
        return (len(row) == self._in_a_row and all(row)) or sum(failed) >= FAILURES_OF_THE_LAST


class Blame:
    """Decides whether a failure counts as an attempt of its event."""

    def __init__(self, *, own_question: bool) -> None:
        """Begin without successes; `own_question` is whether the dependency is asked one."""
        self._own_question = own_question
        self._successes = 0  # since the last outage that counted
        self._suspect: str | None = None  # the only event that failed since the last success
        self._failed_alone = set[str]()  # events since the last success, though our own question was answered
        self._all_successes = 0
        self._refused = dict[str, int]()  # how many successes there were at each event's last refusal
        self._last_refusal = 0  # and at the last one that was not an event's own

    @property
    def too_many_alone(self) -> bool:
        """Whether so many different events failed alone that they are not alone."""
        return len(self._failed_alone) > MOST_ALONE

    def succeeded(self, *, late: bool) -> None:
        """Record a success of an event. A late one, while the breaker is open, only shows no refusal."""
        self._all_successes += 1
        if not late:
            self._failed_alone.clear()
            self._successes += 1

    def answered(self) -> None:
        """Record an answer to our own question: it shows as much as it takes that we are allowed."""
        self._all_successes += SUCCESSES_TO_BLAME

    def failed_alone(self, event: str) -> bool:
        """Record a failure of an event though our own question was answered. Return whether it counts."""
        if not self.too_many_alone:
            self._failed_alone.add(event)
        return not self.too_many_alone

    def outage(self, answered: str | None, *, follows_another: bool) -> bool:
        """Record an outage that left the breaker closed or recovering. Return whether it counts.

        Args:
            answered: The event, if the dependency answered it.
            follows_another: Whether the outcome before it was an outage too.
        """
        again = follows_another and answered is not None and answered == self._suspect
        if not again:
            self._suspect = None if follows_another else answered
        if self._successes < SUCCESSES_TO_BLAME:
            return again
        self._successes = 0
        return True

    def refusal(self, event: str | None) -> bool | None:
        """Record a refusal. Return whether it counts, or None if it concerns every event."""
        if event is None:
            self._last_refusal = self._all_successes
            return None
        before = self._refused.pop(event, None)
        self._refused[event] = self._all_successes
        if len(self._refused) > MOST_REFUSED:
            del self._refused[next(iter(self._refused))]
        if before is not None and self._all_successes - before >= SUCCESSES_TO_BLAME:
            return True
        nothing_since = self._all_successes == (self._last_refusal if before is None else before)
        self._last_refusal = self._all_successes
        return None if nothing_since or (before is None and self._own_question) else False
