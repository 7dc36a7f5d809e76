"""What the stand-in dialer knows and remembers, and how tests and integrators change it."""

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import asdict
from dataclasses import fields as fields_of
from typing import Any, Final, get_args

from simulators.dialer.answers import filtered, subject_of
from simulators.dialer.logins import lock
from simulators.dialer.recorded import recorded_world, tutorial_world
from simulators.dialer.requests import Answerer, DialerRequest, Load, Planted, Plants
from simulators.dialer.shift import Shift
from simulators.dialer.world import (
    ApiUser,
    Campaign,
    Charset,
    Dialect,
    DialerAgent,
    DialerCall,
    Recording,
    World,
    life_cycle_of,
    make_call,
    make_call_id,
)
from simulators.recordings import Exchange
from simulators.stand_in import StandIn, take_common

_RECENT: Final = 20


class DialerState(StandIn):
    """A dialer but for its answers: a world that may be changed while it serves, and what it was asked."""

    def __init__(
        self,
        *,
        port: int = 0,
        delay: float = 0.0,
        dialect: Dialect = "real",
        separator: str = "|",
        keep_requests: bool = True,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Prepare a dialer with everything that stands in the recordings."""
        super().__init__(port=port, delay=delay)
        self.dialect: Dialect = dialect
        self.separator = separator
        self.keep_requests = keep_requests
        self.world: World = self._world_at_first()
        self.plants = Plants()
        self.load = Load(self.pause)
        self.requests: list[DialerRequest] = []
        self.recent: deque[DialerRequest] = deque(maxlen=_RECENT)
        self.observe: Callable[[DialerRequest], None] = lambda _: None
        self.asked: Counter[str] = Counter()
        self.failed_logins = 0
        self._rung = 0
        self.users_free_at = 0.0
        self.wall = wall
        self._clock, self._began = clock, clock()
        self._epoch = wall()

    @property
    def calls(self) -> dict[str, DialerCall]:
        """The calls by id; add one to have it found."""
        return self.world.calls

    @property
    def agents(self) -> dict[str, DialerAgent]:
        """The agents by user name."""
        return self.world.agents

    @property
    def campaigns(self) -> dict[str, Campaign]:
        """The campaigns by id."""
        return self.world.campaigns

    @property
    def recordings(self) -> list[Recording]:
        """The recordings that `recording_lookup` searches."""
        return self.world.recordings

    @property
    def users(self) -> dict[str, ApiUser]:
        """The API users by name; change a password here."""
        return self.world.users

    @property
    def service_time(self) -> float:
        """The seconds that an answer takes while at most `knee` are being worked on."""
        return self.load.seconds

    @service_time.setter
    def service_time(self, seconds: float) -> None:
        self.load.seconds = seconds

    @property
    def knee(self) -> int:
        """How many requests it works on at full speed; more at once don't get more done."""
        return self.load.knee

    @knee.setter
    def knee(self, many: int) -> None:
        self.load.knee = many

    def now(self) -> float:
        """Return the seconds since this dialer was made, by its clock."""
        return self._clock() - self._began

    def local(self, at: float) -> str:
        """Write a time of this dialer's clock as the server does. It is the same each time it is written."""
        return self.world.local_time(self.time_of_day(at))

    def time_of_day(self, at: float) -> float:
        """Return the epoch seconds of a time of this dialer's clock."""
        return self._epoch + at

    def add_call(self, call: DialerCall) -> None:
        """Add a call whose schedule begins now, not at the first question about it."""
        call.since = self.now()
        self.calls[call.call_id] = call

    def ring(
        self,
        life: str = "answered",
        call_id: str | None = None,
        *,
        speed: float = 1.0,
        **fields: Any,  # noqa: ANN401 - the fields of `DialerCall`, given one by one
    ) -> tuple[str, ...]:
        """Begin a call of one of the `LIFE_CYCLES` now; return its id, and the one after a transfer, if any.

        Its seconds go by `speed` times as fast. Raises `ValueError` for an unknown life cycle.
        """
        self._rung += 1
        since, kind = self.now(), life_cycle_of(life)
        if call_id is None and self.dialect == "real":
            call_id = make_call_id(kind.prefix, self.local(since), str(fields.get("lead_id", self._rung)))
        fields.setdefault("uniqueid", f"{int(self._epoch + since)}.{self._rung}")
        rung = make_call(life, call_id or f"{1020000000 + self._rung}", since=since, speed=speed, **fields)
        for follower in rung[1:]:
            if self.dialect == "real" and follower.begun is not None:
                follower.call_id = make_call_id("Y", self.local(follower.begun), follower.lead_id)
        self.calls.update({call.call_id: call for call in rung})
        for begin, end in kind.recorded:
            self.record(rung[0], begin / speed, end / speed)
        return tuple(call.call_id for call in rung)

    def record(self, call: DialerCall, begin: float, end: float) -> Recording:
        """Add a recording of a call, from and until so many seconds after its beginning."""
        number = f"{1001 + len(self.recordings)}"
        location = f"http://10.10.10.15/RECORDINGS/MP3/{call.call_id}_{number}-all.mp3"
        added = Recording(
            recording_id=number,
            call=call,
            after=begin,
            seconds=int(end - begin),
            user=call.user,
            lead_id=call.lead_id,
            uniqueid=call.uniqueid,
            location=location,
        )
        self.recordings.append(added)
        return added

    def lock_users(self, seconds: float) -> None:
        """Let every request that logs in wait so long: another session holds the table of the users."""
        self.users_free_at = self.now() + seconds

    def plant(
        self,
        subject: str,
        planted: Planted | Answerer | None = None,
        *,
        function: str = "",
        **fields: Any,  # noqa: ANN401 - the fields of `Planted`, given one by one
    ) -> None:
        """Answer requests about this call or agent with exactly this: a `Planted`, its fields, or a callable.

        With `function`, only that function; then `subject` may be empty, for one without an id.
        """
        self.plants.put(function, subject, Planted(**fields) if planted is None else planted)

    def plant_exchange(self, exchange: Exchange) -> None:
        """Answer the recorded request's function and subject with the recorded answer."""
        parameters = filtered(exchange.query)
        self.plant(
            subject_of(parameters),
            function=parameters.get("function", ""),
            body=exchange.body,
            status=exchange.status,
            content_type=exchange.content_type,
        )

    def unplant(self) -> None:
        """Forget everything planted."""
        self.plants.clear()

    def reset(self) -> None:
        """Know again what it knew at first, and be broken no more; how fast it is stays as it was set."""
        self.world = self._world_at_first()
        self.fault = None
        self.lock_users(0)
        self.unplant()

    def count(self, function: str, subject: str | None = None) -> int:
        """Count the requests of a function so far, of one subject if given (which needs `keep_requests`)."""
        if subject is None:
            return self.asked[function]
        return sum(1 for each in self.requests if (each.function, each.subject) == (function, subject))

    def control(self, change: Mapping[str, Any]) -> Mapping[str, Any]:
        """Change by JSON, and return the ids of calls that were begun, and the truth about a shift's.

        `calls`, `agents`, `campaigns` and `users` map ids to fields of `DialerCall`, `DialerAgent`,
        `Campaign` and `ApiUser`, `password` users to passwords; `plant` maps a subject, or
        `function:subject`, to fields of `Planted`; `ring` is a life, or an object with the arguments of
        `ring`; `shift` has fields of `Shift`. The other names are those of the attributes, here and of the
        world.
        """
        said: dict[str, Any] = {}
        for name, value in change.items():
            if name == "ring":
                said["rung"] = self.ring(value) if isinstance(value, str) else self.ring(**value)
            elif name == "shift":
                said["shift"] = Shift(dialer=self, **value).plan()
            elif name in self._changes:
                self._changes[name](value)
            elif not change_world(self.world, name, value, self.now()):
                take_common(self, name, value)
        return said

    def report(self) -> dict[str, Any]:
        """Return what was asked so far: counts, and the requests if they are kept."""
        return {
            "served": self.served,
            "asked": dict(self.asked),
            "failed_logins": self.failed_logins,
            "concurrent": self.concurrent,
            "max_concurrent": self.max_concurrent,
            "requests": [asdict(each) for each in self.requests],
        }

    @property
    def _changes(self) -> Mapping[str, Callable[[Any], None]]:
        return {
            "plant": self._change_plants,
            "unplant": lambda _: self.unplant(),
            "reset": lambda _: self.reset(),
            "service_time": lambda value: setattr(self, "service_time", float(value)),
            "knee": lambda value: setattr(self, "knee", int(value)),
            "separator": lambda value: setattr(self, "separator", str(value)),
            "users_table_locked": self.lock_users,
        }

    def _change_plants(self, plants: Mapping[str, Mapping[str, Any]]) -> None:
        for key, fields in plants.items():
            function, _, subject = key.rpartition(":")
            self.plant(subject, Planted(**fields), function=function)

    def _world_at_first(self) -> World:
        return recorded_world() if self.dialect == "real" else tutorial_world()


Json = Any
"""What stands in a JSON document."""

_SETS: Final = frozenset({"functions", "groups", "campaigns"})


def change_world(world: World, name: str, value: Json, now: float) -> bool:
    """Make one change, or say that it is none of the world's. Raises `ValueError` or `TypeError`."""
    change = _CHANGES.get(name)
    if change is not None:
        change(world, value, now)
    return change is not None


def _passwords(world: World, passwords: Mapping[str, str], _: float) -> None:
    for user, password in passwords.items():
        _known(world, user).password = password


def _users(world: World, users: Mapping[str, Mapping[str, Json]], now: float) -> None:
    """Change API users by the fields of `ApiUser`, and `locked`; make those that come with a password."""
    for name, given in users.items():
        if name not in world.users and "password" in given:
            world.users[name] = ApiUser(given["password"])
        user = _known(world, name)
        for field, value in given.items():
            if field == "locked":
                lock(user, now) if value else setattr(user, "failed_logins", 0)
            elif field not in _USER_FIELDS:
                raise ValueError(f"an API user has no {field!r}; it has {', '.join(_USER_FIELDS)}, locked")
            else:
                setattr(user, field, frozenset(value) if field in _SETS and value is not None else value)


def _known(world: World, name: str) -> ApiUser:
    if name not in world.users:
        raise ValueError(f"there is no API user {name!r}; there are {', '.join(world.users)}")
    return world.users[name]


def _calls(world: World, calls: Mapping[str, Mapping[str, Json]], now: float) -> None:
    for call_id, given in calls.items():
        world.calls[call_id] = DialerCall(call_id=call_id, **{"since": now, **_with_tuples(given)})


def _agents(world: World, agents: Mapping[str, Mapping[str, Json]], _: float) -> None:
    for user, given in agents.items():
        world.agents[user] = DialerAgent(user=user, **_with_tuples(given))


def _campaigns(world: World, campaigns: Mapping[str, Mapping[str, Json]], _: float) -> None:
    for campaign_id, given in campaigns.items():
        world.campaigns[campaign_id] = Campaign(campaign_id=campaign_id, **_with_tuples(given))


def _recordings(world: World, recordings: list[Mapping[str, Json]], _: float) -> None:
    world.recordings.extend([Recording(**given) for given in recordings])


def _ip_blocked(world: World, value: Json, _: float) -> None:
    world.ip_blocked = bool(value)


def _display_errors(world: World, value: Json, _: float) -> None:
    world.display_errors = bool(value)


def _charset(world: World, value: Json, _: float) -> None:
    if value not in get_args(Charset):
        raise ValueError(f"unknown charset {value!r}; there are {', '.join(get_args(Charset))}")
    world.charset = value


def _utc_offset(world: World, value: Json, _: float) -> None:
    world.utc_offset = int(value)


_USER_FIELDS: Final = tuple(each.name for each in fields_of(ApiUser))
_CHANGES: Final[Mapping[str, Callable[[World, Json, float], None]]] = {
    "password": _passwords,
    "users": _users,
    "calls": _calls,
    "agents": _agents,
    "campaigns": _campaigns,
    "recordings": _recordings,
    "ip_blocked": _ip_blocked,
    "display_errors": _display_errors,
    "charset": _charset,
    "utc_offset": _utc_offset,
}


def _with_tuples(given: Mapping[str, Json]) -> dict[str, Json]:
    return {name: _as_tuple(value) for name, value in given.items()}


def _as_tuple(value: object) -> object:
    return tuple(_as_tuple(each) for each in value) if isinstance(value, list) else value
