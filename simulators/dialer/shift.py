"""A shift of agents at the stand-in dialer: all their calls, planned in advance, and the truth about each.

The calls of one agent follow one another, as an agent is on one call at a time; only an inbound call may wait
in the queue meanwhile. Some live while the shift lasts, and the others happened on the days before.
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from simulators.dialer.world import (
    NOBODY,
    DialerAgent,
    DialerCall,
    Recording,
    Schedule,
    World,
    automatic,
    make_call_id,
    manual,
    queued,
    without_a_channel,
)

_DAY: Final = 86400.0
_EARLIER_DAYS: Final = 6
_REDIAL: Final = 2.0
"""Seconds after which the same lead is called again, or calls, at the soonest: times are in whole seconds."""
_WITH_AN_AGENT: Final = {"auto": 38, "manual": 22, "no channel": 8, "inbound": 26, "transfer": 6}
"""What an agent does, by weight."""

_WITHOUT: Final = {"unanswered": 3, "dropped": 1}
_STATUSES: Final = ("SALE", "NI", "CALLBK", "N", "DNC", "A")
_CAMPAIGNS: Final = ("SALES1", "RENEW_24")
_IN_GROUPS: Final = ("SALESLINE", "SUPPORTLINE")


class Dialer(Protocol):
    """The parts of the stand-in dialer that a shift needs."""

    world: World

    def now(self) -> float:
        """Return the seconds of its clock."""
        ...

    def local(self, at: float) -> str:
        """Write a time of its clock as the server does."""
        ...

    def time_of_day(self, at: float) -> float:
        """Return the epoch seconds of a time of its clock."""
        ...

    def record(self, call: DialerCall, begin: float, end: float) -> Recording:
        """Add a recording of a call."""
        ...


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How long things take, each between a least and a most, in seconds. Short waits are more frequent."""

    rings: tuple[float, float]
    talks: tuple[float, float]
    wraps_up: tuple[float, float]
    pauses: tuple[float, float]


_OF_THE_DAYS_BEFORE: Final = Pace(rings=(3, 25), talks=(5, 240), wraps_up=(5, 90), pauses=(2, 600))


@dataclass(kw_only=True)
class Shift:
    """Plans the calls of so many agents, of whom the last takes what the others transfer.

    As many calls live within `seconds` from now as the agents find time for; one in four that are not theirs
    comes on top. The others, up to `calls`, happened within the six days before.
    """

    dialer: Dialer
    calls: int = 500
    agents: int = 20
    seconds: float = 60.0
    rings: tuple[float, float] = (0.5, 3.0)
    talks: tuple[float, float] = (0.5, 6.0)
    wraps_up: tuple[float, float] = (1.0, 20.0)
    seed: int = 0
    truths: list[dict[str, Any]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        """Begin with nothing planned."""
        self._rng = random.Random(self.seed)  # noqa: S311 - a plan, no secret
        self._leads: dict[str, dict[str, float]] = {}
        self._transfers: list[tuple[DialerCall, float, Pace]] = []
        self._pace = Pace(rings=self.rings, talks=self.talks, wraps_up=self.wraps_up, pauses=(1.0, 2.0))

    def plan(self) -> list[dict[str, Any]]:
        """Add the calls to the dialer's world, and return the truth about each."""
        now = self.dialer.now()
        users = [f"{2001 + number}" for number in range(self.agents)]
        for user in users:
            self.dialer.world.agents[user] = DialerAgent(user=user, campaigns=_CAMPAIGNS)
        for user in users[:-1]:
            self._work(user, now + self._rng.uniform(1, 4), now + self.seconds, self._pace)
        for _ in range(len(self.truths) // 3):
            self._agentless(now + self._rng.uniform(0, self.seconds), self._pace)
        while (missing := self.calls - len(self.truths) - self._to_come()) > 0:
            begin = now - self._rng.randint(1, _EARLIER_DAYS) * _DAY - self._rng.uniform(0, _DAY / 2)
            self._work(self._rng.choice(users[:-1]), begin, begin + 1800, _OF_THE_DAYS_BEFORE, most=missing)
            self._agentless(begin, _OF_THE_DAYS_BEFORE)
        self._close(users[-1])
        return self.truths[: self.calls]

    def _to_come(self) -> int:
        """Count the calls that come of the transfers; of the days before, those that are gone count too."""
        return sum(2 if pace is _OF_THE_DAYS_BEFORE else 1 for _, _, pace in self._transfers)

    def _work(self, user: str, begin: float, end: float, pace: Pace, most: int = 10**6) -> None:
        """Plan one agent's calls, one after the other, until a time comes or there are enough."""
        busy = any(each["agent_user"] == user for each in self._near(begin, end))
        at = begin
        while at < end and most > 0 and not busy:
            at = self._one(self._pick(_WITH_AN_AGENT), user, at, pace) + self._wait(pace.pauses)
            most -= 1

    def _near(self, begin: float, end: float) -> Iterator[dict[str, Any]]:
        margin = 3600.0
        first = self.dialer.time_of_day(begin) - margin
        last = self.dialer.time_of_day(end) + margin
        return (each for each in self.truths if first < each["hung_up_at"] < last)

    def _one(self, kind: str, user: str, at: float, pace: Pace) -> float:
        """Plan one call of an agent who is free from `at` on; return the time of its disposition."""
        rings, talks, wraps_up = self._wait(pace.rings), self._wait(pace.talks), self._wait(pace.wraps_up)
        dead = self._rng.choice((0.0, 0.0, 0.0, min(1.0, talks / 3), talks / 2))
        lasts = talks + dead
        waits = self._wait((0.0, pace.wraps_up[1])) if kind == "inbound" else 0.0  # even for a busy agent
        common: dict[str, Any] = {"user": user, "talk_seconds": int(talks)}
        end = float("inf") if kind == "transfer" else at + rings + lasts  # who knows when the other is done
        common["lead_id"] = self._lead(user, at - waits, end)
        if kind == "inbound":
            call = self._call("Y", at - waits, queued(waits + rings, lasts, wraps_up), **common)
            self._note(call, kind, self._record(call, waits + rings, talks, dead))
        elif kind == "no channel":
            # Without a talk, VICIdial counts from the beginning of the agent's wait.
            waited = self._rng.choice((0, 0, self._rng.randrange(90)))
            common |= {"talk_seconds": waited, "status": self._rng.choice(("B", "NA"))}
            second = int(self.dialer.time_of_day(at + rings + lasts))
            common["uniqueid"] = f"{second}.{common['lead_id'][-9:]:0>9}"  # made up, as Asterisk gave none
            self._note(self._call("M", at, without_a_channel(rings + lasts, wraps_up), **common), kind, [])
        elif kind == "transfer":
            gone = ((0.0, "not_found"), (rings, "INCALL"), (rings + lasts, "not_found"))
            call = self._call("V", at, gone, **common)
            self._record(call, rings, talks, dead)
            self._transfers.append((call, at + rings + lasts, pace))
        else:
            is_manual = kind == "manual"
            schedule = (manual if is_manual else automatic)(rings, lasts, wraps_up)
            call = self._call("M" if is_manual else "V", at, schedule, **common)
            while_dialling = rings if is_manual and self._rng.random() < 0.5 else 0.0
            self._note(call, kind, self._record(call, rings - while_dialling, talks + while_dialling, dead))
            if pace is _OF_THE_DAYS_BEFORE and self._rng.random() < 0.06:
                self._had_a_twin(call)
        return at + rings + lasts + wraps_up

    def _close(self, closer: str) -> None:
        """Plan what becomes of the transfers: one agent takes them in turn, each by another id."""
        free = float("-inf")
        for first, at, pace in sorted(self._transfers, key=lambda each: each[1]):
            waits = max(free - at, 0.0) + self._wait((0.5, 2.0))
            talks, wraps_up = self._wait(pace.talks), self._wait(pace.wraps_up) / 4  # or they would pile up
            call = self._call(
                "Y",
                at,
                queued(waits, talks, wraps_up),
                user=closer,
                talk_seconds=int(talks),
                lead_id=first.lead_id,
                phone=first.phone,
                uniqueid=first.uniqueid,
            )
            self._note(call, "transferred", self._record(call, waits, talks, 0.0))
            if pace is _OF_THE_DAYS_BEFORE:
                self._note(first, "transferred away", [], answered="never", hung_up=at, disposed=at)
            free = at + waits + talks + wraps_up

    def _agentless(self, at: float, pace: Pace) -> None:
        """Plan a call that no agent took: an automatic one that nobody answered, or a caller who gave up."""
        lasts, lead = self._wait(pace.rings) + 1, self._new_lead()
        if self._pick(_WITHOUT) == "dropped":
            schedule: Schedule = ((0.0, "QUEUE"), (lasts, "final"))
            call = self._call("Y", at, schedule, user="VDCL", status="DROP", lead_id=lead)
            self._note(call, "dropped", [])
            return
        schedule = ((0.0, "not_found"), (lasts, "final"))
        status = self._rng.choice(("NA", "B", "AB", "PDROP"))
        call = self._call("V", at, schedule, user="VDAD", status=status, lead_id=lead)
        if self._rng.random() < 0.3:  # cleared by the dialer itself, which writes the time at which it does
            call.call_date = self.dialer.local(at + lasts)
        self._note(call, "unanswered", [])

    def _call(self, prefix: str, at: float, schedule: Schedule, **fields: Any) -> DialerCall:  # noqa: ANN401
        inbound = prefix == "Y"
        number = len(self.dialer.world.calls)
        call = DialerCall(
            **{
                "call_id": make_call_id(prefix, self.dialer.local(at), fields["lead_id"]),
                "since": at,
                "schedule": schedule,
                "uniqueid": f"{int(self.dialer.time_of_day(at))}.{number}",
                "phone": f"312555{self._rng.randrange(10_000):04}",
                "status": self._rng.choice(_STATUSES),
                "campaign_id": self._rng.choice(_IN_GROUPS if inbound else _CAMPAIGNS),
                "call_type": {"Y": "INBOUND", "M": "OUTBOUND_MANUAL"}.get(prefix, "OUTBOUND_AUTO"),
                **fields,
            }
        )
        self.dialer.world.calls[call.call_id] = call
        return call

    def _record(self, call: DialerCall, begin: float, talks: float, dead: float) -> list[Recording]:
        """Add none to three recordings, one after the other; the last may begin in the dead time."""
        many = self._rng.choices((0, 1, 2, 3), (8, 62, 20, 10))[0]
        end = begin + talks + dead
        starts = sorted({begin, *(self._rng.uniform(begin, end) for _ in range(many - 1))})
        if many > 1 and dead > 0:
            starts[-1] = max(starts[-2] + 0.1, begin + talks)
        ends = [*starts[1:], end]
        return [self.dialer.record(call, *span) for span in zip(starts[:many], ends[:many], strict=True)]

    def _had_a_twin(self, call: DialerCall) -> None:
        """Let a call of a year before have the same id, which the dialer answers for good."""
        year, rest = self.dialer.local(call.since or 0.0).split("-", 1)
        older = DialerCall(
            call_id=call.call_id, call_date=f"{int(year) - 1}-{rest}", status="NI", talk_seconds=33
        )
        call.earlier = older
        self.truths[-1] |= {"kind": f"{self.truths[-1]['kind']}, twin", "answered": "older"}

    def _note(
        self,
        call: DialerCall,
        kind: str,
        recordings: list[Recording],
        *,
        answered: str = "call",
        hung_up: float | None = None,
        disposed: float | None = None,
    ) -> None:
        """Write the truth about a call down."""
        begun = call.begun or 0.0
        hung_up = hung_up if hung_up is not None else call.hung_up or begun
        disposed = disposed if disposed is not None else begun + call.schedule[-1][0]
        inbound, agent = call.call_type == "INBOUND", None if call.user in NOBODY else call.user
        day = self.dialer.time_of_day
        self.truths.append(
            {
                "kind": kind,
                "late": disposed < self.dialer.now() - _DAY / 4,
                "answered": answered,
                "hung_up_at": day(hung_up),
                "disposed_at": day(disposed),
                "uniqueid": call.uniqueid,
                "call": {
                    "call_id": call.call_id,
                    "direction": "inbound" if inbound else "outbound",
                    "call_type": call.call_type,
                    "started_at": self._utc(begun),
                    "ended_at": self._utc(hung_up),
                    "duration_seconds": int(day(hung_up)) - int(day(begun)),
                    "talk_seconds": call.talk_seconds,
                    "agent_user": agent,
                    "phone_number": call.phone,
                    "status": call.status,
                    "campaign_id": None if inbound else call.campaign_id,
                    "in_group_id": call.campaign_id if inbound else None,
                    "list_id": call.list_id,
                    "lead_id": call.lead_id,
                    "recordings": [self._as_known(each) for each in recordings],
                },
            }
        )
        self.truths[-1]["agent_user"] = agent

    def _as_known(self, recording: Recording) -> Mapping[str, Any]:
        begun = recording.call.begun if recording.call is not None else None
        return {
            "recording_id": recording.recording_id,
            "file_name": recording.location.rpartition("/")[2],
            "url": recording.location,
            "started_at": self._utc((begun or 0.0) + recording.after),
            "duration_seconds": recording.seconds,
        }

    def _utc(self, at: float) -> str:
        return datetime.fromtimestamp(int(self.dialer.time_of_day(at)), UTC).isoformat()

    def _lead(self, user: str, begin: float, end: float) -> str:
        """Return a lead for a call of that time: a new one, or one that this agent talked to before it."""
        known = self._leads.setdefault(user, {})
        free = [lead for lead, until in known.items() if until < begin - _REDIAL]
        again = bool(free) and self._rng.random() < 0.2
        lead = self._rng.choice(free) if again else self._new_lead()
        known[lead] = end
        return lead

    def _new_lead(self) -> str:
        return f"{self._rng.randrange(20_000, 2**31)}"

    def _pick(self, weights: Mapping[str, int]) -> str:
        return self._rng.choices(tuple(weights), tuple(weights.values()))[0]

    def _wait(self, between: tuple[float, float]) -> float:
        least, most = between
        return least + (most - least) * self._rng.random() ** 3
