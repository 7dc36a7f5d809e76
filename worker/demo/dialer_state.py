"""What the stand-in dialer knows and remembers, and how tests and integrators change it."""

import re
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Final

from worker.demo.dialer_answers import filtered, subject_of
from worker.demo.dialer_control import change_world
from worker.demo.dialer_data import (
    ApiUser,
    Campaign,
    Dialect,
    DialerAgent,
    DialerCall,
    Recording,
    World,
)
from worker.demo.dialer_lives import make_call
from worker.demo.dialer_load import Load
from worker.demo.dialer_requests import Answerer, DialerRequest, Planted, Plants
from worker.demo.dialer_tutorial import tutorial_world
from worker.demo.dialer_world import recorded_world
from worker.demo.recordings import Exchange
from worker.demo.stand_in import StandIn, take_common

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
        """Give the seconds since this dialer was made, by its clock."""
        return self._clock() - self._began

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
        """Begin a call of one of the `LIVES` now; gives its id, and the one it gets by a transfer, if any.

        Its seconds go by `speed` times as fast. Raises `ValueError` for a life that is none.
        """
        self._rung += 1
        moment = re.sub(r"\D", "", self.world.local_time(self.wall())[8:])
        made_up = f"V1{moment}{self._rung:010}" if self.dialect == "real" else f"{1020000000 + self._rung}"
        rung = make_call(life, call_id or made_up, since=self.now(), speed=speed, **fields)
        self.calls.update({call.call_id: call for call in rung})
        return tuple(call.call_id for call in rung)

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
        """Change by JSON, and give the ids of calls that were begun.

        `calls`, `agents`, `campaigns` and `users` map ids to fields of `DialerCall`, `DialerAgent`,
        `Campaign` and `ApiUser`, `password` users to passwords; `plant` maps a subject, or
        `function:subject`, to fields of `Planted`; `ring` is a life, or an object with the arguments of
        `ring`. The other names are those of the attributes, here and of the world.
        """
        said: dict[str, Any] = {}
        for name, value in change.items():
            if name == "ring":
                said["rung"] = self.ring(value) if isinstance(value, str) else self.ring(**value)
            elif name in self._changes:
                self._changes[name](value)
            elif not change_world(self.world, name, value, self.now()):
                take_common(self, name, value)
        return said

    def report(self) -> dict[str, Any]:
        """Say what was asked so far: counts, and the requests where they are kept."""
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
