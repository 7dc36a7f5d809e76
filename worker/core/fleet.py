"""The board that all workers of a namespace share, so that together they are one client of the dialer.

The broker keeps one message with the board. A worker takes it once a second, plays one *round* with it and
puts it back; no other worker can take it meanwhile. In a round a worker adds the logins that ended since its
last one, learns those of the others, and gets its share of the requests that all of them may have under way.

The shares of all never exceed the limit: a worker raises its own only by what no other one holds, and lowers
it before it says so. A worker that plays no round for `EXPIRE` seconds, by the clock of the one who looks,
is no member any more. As nobody knows how its requests ended, they count as failed logins until a good one:
what has failed and what may be under way make no ten together.

The limit adapts to the dialer. One member, the *leader*, finds it from the times of its own answers, which
wait in the same queue at the dialer as those of all; if it has no requests, another one that has some leads.
Any member lowers the limit when it sees an overload. While the leader measures how long an answer takes
without a queue, nobody else sends.
"""

import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Protocol

from worker.core.logins import MOST_FAILURES, Login, Logins

EXPIRE = 5.0
"""Seconds without a round after which a worker's share goes to the others."""
MISSED = 3
"""Rounds of the one who looks that a lost worker has missed: on a busy machine a round takes seconds."""
LEAP = 1000
"""By how much the version of a new board is higher, so that the one before is stale if it turns up again."""
TURNS = 2.0
"""Seconds for which the same workers have what can't be divided evenly, before it goes to the next ones."""
MOST_MEMBERS = 200
LONGEST_BOARD = 64 * 1024
"""Bytes of a board at most; a longer message is none of ours."""


@dataclass(frozen=True, slots=True)
class Member:
    """One worker on the board."""

    seq: int
    """Counts its rounds."""
    granted: int
    """How many requests it may have under way."""
    wanted: int
    """How many it could use."""


@dataclass(frozen=True, slots=True)
class Board:
    """What all workers know together. All its times are Unix times."""

    version: int = 0
    members: dict[str, Member] = field(default_factory=dict)
    logins: Logins = field(default_factory=Logins)
    trier: str | None = None
    """The member that may make the lone try after a refused login."""
    leader: str | None = None
    """The member whose answers the limit goes by."""
    limit: int = 1
    """How many requests all may have under way together."""
    measuring: bool = False
    """Whether the leader alone sends now."""
    begun: float = -math.inf
    """When a worker began it because it found none, although there had been one.

    That one may have been with other workers all the time, and what they hold by then is not on this one.
    """

    def encode(self) -> bytes:
        """Return the body of a message."""
        members = {name: [each.seq, each.granted, each.wanted] for name, each in self.members.items()}
        document: dict[str, object] = {
            "version": self.version,
            "members": members,
            "logins": self.logins.to_dict(),
            "trier": self.trier,
            "leader": self.leader,
            "limit": self.limit,
            "measuring": self.measuring,
        }
        if math.isfinite(self.begun):
            document["begun"] = self.begun
        return json.dumps(document, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, body: bytes) -> "Board":
        """Read what `encode` returned. Raises `ValueError` for anything else."""
        if len(body) > LONGEST_BOARD:
            raise ValueError("the board is too long")
        try:
            found = json.loads(body)
            members = {
                str(name): Member(int(seq), max(0, int(granted)), max(0, int(wanted)))
                for name, (seq, granted, wanted) in [*found["members"].items()][:MOST_MEMBERS]
            }
            logins = Logins.from_dict(found["logins"])
            trier, leader = (None if found[key] is None else str(found[key]) for key in ("trier", "leader"))
            limit, measuring = max(1, int(found["limit"])), bool(found["measuring"])
            begun = float(found.get("begun", -math.inf))
            board = cls(int(found["version"]), members, logins, trier, leader, limit, measuring, begun)
        except (AttributeError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise ValueError("this is no board") from error
        if not all(map(math.isfinite, (logins.tried_at, *logins.failures, *logins.passwords.values()))):
            raise ValueError("the board has a time that is none")
        return board


@dataclass(frozen=True, slots=True)
class Needs:
    """What a worker brings to a round."""

    busy: int
    """How many requests it has under way."""
    wanted: int
    """How many it had use for since its last round."""
    limit: int
    """How many all may have under way, by what this worker saw since its last round."""
    measures: bool
    """Whether it has to be the only one that sends, if it leads."""
    tries: bool
    """Whether it has a lone try under way, or could make one now."""
    news: tuple[Login, ...]
    """The logins that ended since its last round, in Unix time."""


@dataclass(frozen=True, slots=True)
class Round:
    """The outcome of a round, which holds once the board is back."""

    board: Board
    share: int
    may_try: bool
    leads: bool = True
    """Whether this worker's answers change the limit."""
    lowered: bool = False
    """Whether another worker has lowered the limit since this leader's last round."""
    others: bool = False
    """Whether there are other workers."""
    alone: bool = True
    """Whether no other worker has a request under way."""
    full: int | None = None
    """With how many requests here the limit is used up by all, if it can be with fewer than the limit."""
    soon: bool = False
    """Whether the others wait for this worker's next round."""


class Participant(Protocol):
    """The part of a worker that sends requests to the dialer, as a round sees it."""

    on_news: Callable[[], None]
    """Called when a round should be played soon."""

    def needs(self, now: float) -> Needs:
        """Return what this worker brings to a round."""

    def lower(self, share: int) -> None:
        """Have no more requests under way than this from now on, if it has a larger share."""

    def take(self, played: Round) -> None:
        """Go by the outcome of the round that `needs` was called for."""

    def leave(self) -> None:
        """Send nothing more, as this worker takes part no longer, or not yet."""

    def be_alone(self, share: int) -> None:
        """Go on without the others, with this share."""


class Seat:
    """One worker's place at the board: plays its rounds. Pure; nothing here waits or sends."""

    def __init__(self, name: str, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Join under this name, which no other worker has; `most` requests are for all together."""
        self.name = name
        self._most = most
        self._clock = clock
        self._seq = 0
        self._played_at = -math.inf
        self._seen: dict[str, tuple[int, float, int]] = {}
        self.last = Board()
        """The board as it was when this worker put it back last."""

    def play(self, board: Board, needs: Needs, now: float) -> Round:
        """Play one round with the board; `now` is the Unix time."""
        board = self._without_lost(board, now)
        logins = _after_all(board.logins, needs.news)
        others = {name: each for name, each in board.members.items() if name != self.name}
        leader, limit = self._leader(board, needs), self._limit(board, needs)
        measures = leader == self.name and needs.measures and needs.wanted > 0 and bool(others)
        measuring = measures if board.leader == self.name else board.measuring and leader == board.leader
        most = min(limit, self._most) if others else self._most  # one alone needs no round to raise its limit
        if logins.failures:  # until a good login shows that they don't count
            most = min(most, max(1, MOST_FAILURES - len(logins.failures)))
        mine = Member(0, 0, min(needs.wanted, self._most))
        members = others | {self.name: mine}
        trier = None if board.trier == self.name else board.trier
        if trier is None and needs.tries:
            trier = self.name
        refusing = logins.message is not None
        if (sole := trier if refusing else leader if measuring else None) is not None:
            shares = dict.fromkeys(members, 0) | {sole: 1}
        else:
            shares = _divide(members, most, now)
        held = sum(each.granted for each in others.values())
        share = max(0, min(shares[self.name], most - held))
        if abs(now - board.begun) < EXPIRE:  # until then each of the others has said what it holds
            share = min(share, self._granted)
        self._seq += 1
        # While a refusal stands nothing new is sent but the lone try: a lost worker leaves no more in doubt.
        granted = needs.busy if refusing else max(share, needs.busy)
        members[self.name] = replace(mine, seq=self._seq, granted=granted)
        return Round(
            Board(board.version + 1, members, logins, trier, leader, limit, measuring, board.begun),
            share,
            may_try=trier == self.name,
            leads=leader == self.name,
            lowered=board.leader == self.name and board.limit < self.last.limit,
            others=bool(others),
            alone=held == 0,
            full=share if others and sum(each.wanted for each in members.values()) >= limit else None,
            soon=measures or needs.busy > (0 if refusing else share),
        )

    def _leader(self, board: Board, needs: Needs) -> str | None:
        """Return who leads: this worker if nobody does, or if the leader has no requests and this one has."""
        present = None if board.leader is None else board.members.get(board.leader)
        idle = present is None or (present.wanted == 0 and needs.wanted > 0)
        return self.name if idle and self._most > 0 else board.leader

    def _limit(self, board: Board, needs: Needs) -> int:
        """Return the limit of all: the leader sets it, and any other one only lowers it."""
        told = self.last.limit
        if self.name not in board.members:
            return board.limit if board.members else needs.limit
        if board.leader == self.name and board.limit >= told:
            return needs.limit
        return min(board.limit, needs.limit) if needs.limit < told else board.limit

    def leave(self, board: Board, needs: Needs, now: float) -> Board:
        """Return the board without this worker, but with its news.

        What it has under way may yet fail.
        """
        board = self._without_lost(board, now)
        logins = _after_all(board.logins, needs.news)
        tried = board.trier == self.name and needs.tries
        if needs.busy or tried:
            logins = logins.in_doubt(max(needs.busy, tried), now, lone=tried)
        others = {name: each for name, each in board.members.items() if name != self.name}
        trier = None if board.trier == self.name else board.trier
        return replace(board, version=board.version + 1, members=others, logins=logins, trier=trier)

    @property
    def _granted(self) -> int:
        mine = self.last.members.get(self.name)
        return 0 if mine is None else mine.granted

    def begin(self, now: float) -> Board:
        """Return a new board, in place of the last one that was seen here; `now` is the Unix time."""
        return replace(self.last, version=self.last.version + LEAP, begun=now)

    def is_stale(self, board: Board) -> bool:
        """Return whether a later board was seen: this one was lost for a while with its holder."""
        return board.version < self.last.version

    def _without_lost(self, board: Board, now: float) -> Board:
        """Return the board without the members that have played no round for a while.

        What they had under way may have failed.
        """
        clock = self._clock()
        if clock - self._played_at >= EXPIRE:
            self._seen = {}  # this worker was away itself, as in an alarm: the others have to be watched anew
        self._played_at = clock
        seen = {}
        for name, member in board.members.items():
            seq, since, missed = self._seen.get(name, (member.seq, clock, 0))
            seen[name] = (seq, since, missed + 1) if seq == member.seq else (member.seq, clock, 1)
        self._seen = seen
        logins, trier, members = board.logins.no_later_than(now), board.trier, dict(board.members)
        for name, member in board.members.items():
            _, since, missed = seen[name]
            if name != self.name and clock - since >= EXPIRE and missed > MISSED:
                del members[name]
                logins = logins.in_doubt(max(member.granted, trier == name), now, lone=trier == name)
        return replace(board, members=members, logins=logins, trier=trier if trier in members else None)


def _divide(members: dict[str, Member], most: int, now: float) -> dict[str, int]:
    """Return the fair share of each: evenly, and what one has no use for goes to the others.

    If there are more members than requests, one that has no use for any gets none.
    """
    names = sorted(members)
    if len(names) > most:
        names = [name for name in names if members[name].wanted]
    shares, left = dict.fromkeys(members, 0), most
    if not names:
        return shares
    first = int(now / TURNS) * (most % len(names)) % len(names)
    names = names[first:] + names[:first]
    for claims in ({name: members[name].wanted or 1 for name in names}, dict.fromkeys(names, most)):
        while left > 0 and (hungry := [name for name in names if shares[name] < claims[name]]):
            for name in hungry[:left]:
                shares[name] += 1
            left -= len(hungry[:left])
    return shares


def _after_all(logins: Logins, news: Iterable[Login]) -> Logins:
    for login in news:
        logins = logins.after(login)
    return logins
