"""What `POST /control` can change in the stand-in dialer's world, by JSON."""

from collections.abc import Callable, Mapping
from dataclasses import fields as fields_of
from typing import Any, Final, get_args

from worker.demo.dialer_data import (
    ApiUser,
    Campaign,
    Charset,
    DialerAgent,
    DialerCall,
    Recording,
    World,
)
from worker.demo.dialer_logins import lock

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
