"""What the stand-in dialer's page shows of it: everything it knows and was asked last, in tables."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from worker.demo.dialer_answers import agent_campaign_ids, in_groups_of, is_call_id
from worker.demo.dialer_data import ApiUser, Dialect, DialerCall, World
from worker.demo.dialer_logins import LOWEST_LEVEL, PERMISSIONS, is_locked, refusal
from worker.demo.dialer_requests import DialerRequest
from worker.demo.dialer_tutorial import may

Rows = Sequence[Sequence[str]]

_STATES: Final = {
    "not_found": "CALL NOT FOUND",
    "log_not_found": "CALL LOG NOT FOUND",
    "sql_error": "breaks the server",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The dialer at one moment. `troubles` are the ways in which it is broken or slow."""

    base_url: str
    url: str
    dialect: Dialect
    separator: str
    world: World
    now: float
    wall: float
    recent: Sequence[DialerRequest]
    troubles: Sequence[str]


@dataclass(frozen=True, slots=True)
class Table:
    """Some rows under a title, with a sentence on them."""

    title: str
    remark: str
    columns: Sequence[str]
    rows: Rows


def tables(view: View) -> tuple[Table, ...]:
    """Give everything that the dialer knows and was asked last, at this moment."""
    world = view.world
    askable = str.isdigit if view.dialect == "tutorial" else is_call_id
    calls = [call for call in world.calls.values() if askable(call.call_id)]
    names = ("callid_info", "agent_campaigns") if view.dialect == "tutorial" else tuple(PERMISSIONS)
    call_columns = ("call id", "state now", "status", "agent", "phone")
    found = [
        Table(
            "Calls that live",
            "Each goes its way from the first question about it, or from the moment it is rung on.",
            (*call_columns, "its way, in seconds"),
            [(*_call_row(call, view.now), _way(call)) for call in calls if not _stays(call)],
        ),
        Table(
            "Calls that stay as they are",
            "",
            call_columns,
            [_call_row(call, view.now) for call in calls if _stays(call)],
        ),
        Table(
            "Agents",
            "",
            ("user", "name", "group", "level", "campaigns", "in-groups"),
            [_agent_row(world, user) for user in world.agents],
        ),
        Table(
            "Campaigns",
            "",
            ("campaign id", "name", "active", "in-groups"),
            [
                (each.campaign_id, each.name, "yes" if each.active else "no", " ".join(each.in_groups))
                for each in world.campaigns.values()
            ],
        ),
        Table(
            "API users",
            "The passwords open nothing but this stand-in.",
            ("user", "password", *names, "remarks"),
            [_user_row(view, name, user, names) for name, user in world.users.items()],
        ),
    ]
    if view.dialect == "real":
        found.insert(3, _recordings(world))
    return (*found, _last_requests(view))


def _stays(call: DialerCall) -> bool:
    """Say whether a call is in one state from its beginning on."""
    return not call.schedule or [after for after, _ in call.schedule] == [0]


def _call_row(call: DialerCall, now: float) -> tuple[str, ...]:
    if call.schedule and call.age(now) is None:
        state = call.schedule[0][1] if _stays(call) else "begins when it is asked for"
    else:
        state = call.peek(now)
    return (call.call_id, _STATES.get(state, state), call.status, call.user, call.phone)


def _way(call: DialerCall) -> str:
    steps = ", ".join(f"{after:g}: {_STATES.get(state, state)}" for after, state in call.schedule)
    if call.transferred_from is None:
        return steps
    return f"{call.transferred_after:g} s after the beginning of {call.transferred_from.call_id}: {steps}"


def _agent_row(world: World, user: str) -> tuple[str, ...]:
    agent = world.agents[user]
    ids = agent_campaign_ids(world, agent)
    lists = (" ".join(ids), " ".join(in_groups_of(world, ids)))
    return (user, agent.full_name, agent.user_group, str(agent.user_level), *lists)


def _user_row(view: View, name: str, user: ApiUser, functions: Iterable[str]) -> tuple[str, ...]:
    real = view.dialect == "real"
    may_use = (not refusal(user, name, function) if real else may(user, function) for function in functions)
    lets_in = user.level >= LOWEST_LEVEL
    remarks = {
        "locked: every login is refused": real and is_locked(user, view.now),
        f"level {user.level} can't log in": not lets_in,
        "two-factor: every login is refused": user.two_factor,
        f"sees the groups {' '.join(sorted(user.groups or ()))} only": real and user.groups is not None,
    }
    said = "; ".join(remark for remark, holds in remarks.items() if holds)
    return (name, user.password, *("yes" if lets_in and each else "no" for each in may_use), said)


def _recordings(world: World) -> Table:
    rows = [
        (
            each.recording_id,
            each.start_time,
            each.user,
            each.lead_id,
            f"{each.seconds}",
            each.uniqueid,
            each.location,
        )
        for each in world.recordings
    ]
    columns = ("recording id", "start", "agent", "lead id", "seconds", "uniqueid", "location")
    return Table("Recordings", "By uniqueid, by lead_id, or by agent_user and date.", columns, rows)


def _last_requests(view: View) -> Table:
    rows = [
        (
            view.world.local_time(view.wall - (view.now - each.at)),
            f"{each.method} {each.function}",
            each.subject,
            each.user,
            each.outcome or "being answered",
        )
        for each in reversed(view.recent)
    ]
    return Table(
        "Last requests", "The newest first.", ("when", "function", "about", "API user", "outcome"), rows
    )
