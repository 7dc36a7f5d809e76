"""How the stand-in answers: VICIdial's non-agent API as recorded, as a function of parameters and world.

The order of the checks is the real one: `version` needs no login; then login and lock, address, allowed
functions, the function's own permission, the source, and only then whether there is such a function.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from worker.demo.dialer_data import (
    ALL_FUNCTIONS,
    CALL_COLUMNS,
    SEPARATORS,
    ApiUser,
    DialerAgent,
    DialerCall,
    Recording,
    World,
)

LOCK_AFTER = 10
"""Failed logins that lock an API user…"""
LOCK_SECONDS = 900
"""…for so long after its last good one."""

_LOWEST_LEVEL = 7
_SHORTEST_SOURCE = 2
_SECOND_DIGITS = 10
_FILTERS = {
    "user": "-_0-9a-zA-Z",
    "pass": "-_0-9a-zA-Z",
    "function": "-_0-9a-zA-Z",
    "agent_user": "-_0-9a-zA-Z",
    "campaign_id": "-_0-9a-zA-Z",
    "call_id": "0-9a-zA-Z",
    "source": "0-9a-zA-Z",
    "ignore_agentdirect": "A-Z",
    "uniqueid": "0-9.",
    "lead_id": "0-9",
    "date": "-_0-9a-zA-Z",
}
_DROPPED = {name: re.compile(f"[^{kept}]") for name, kept in _FILTERS.items()}
_CALL_ID = re.compile(r"(?=.{18,39}$)(?:Y|J|V|M|DC|S|LP|VH|XL)")
_AGENT_HEADER = ("user", "allowed_campaigns_list", "allowed_ingroups_list")
_DETAILS_HEADER = ("user", "full_name", "user_group", "user_level", "active")
_RECORDING_HEADER = ("start_time", "user", "recording_id", "lead_id", "location")
_CAMPAIGN_HEADER = (
    "campaign_id",
    "campaign_name",
    "active",
    "user_group",
    "dial_method",
    "dial_level",
    "lead_order",
    "dial_statuses",
    "dial_timeout",
    "dial_prefix",
    "manual_dial_prefix",
    "three_way_dial_prefix",
)


@dataclass(frozen=True, slots=True)
class Question:
    """The parameters after the API's silent filtering, and what else an answer depends on."""

    parameters: Mapping[str, str]
    world: World
    now: float
    wall: float

    def get(self, name: str) -> str:
        """Give a parameter's value, empty where it was not sent."""
        return self.parameters.get(name, "")

    def table(self, header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
        """Write rows in the separator of `stage`, with the header only for the exact `header=YES`."""
        separator = SEPARATORS.get(self.get("stage"), "|")
        lines = [header, *rows] if self.get("header") == "YES" else list(rows)
        return "".join(f"{separator.join(line)}\n" for line in lines)


def filtered(parameters: Mapping[str, str]) -> dict[str, str]:
    """Drop from each known parameter the characters that the API drops without saying so."""
    return {
        name: _DROPPED[name].sub("", value) if name in _DROPPED else value
        for name, value in parameters.items()
    }


def subject_of(parameters: Mapping[str, str]) -> str:
    """Give the id that a request is about: its call, else its agent, else its recording's call."""
    return next(
        (parameters[name] for name in ("call_id", "agent_user", "uniqueid") if parameters.get(name)), ""
    )


def answer(question: Question) -> str:
    """Answer one request; the API users' login counts in the world are brought up to date."""
    function = question.get("function")
    if function == "version":
        return _version(question)
    user, refusal = _log_in(question)
    if user is None:
        return refusal
    name = question.get("user")
    if not user.functions & {ALL_FUNCTIONS, function}:
        return f"ERROR: auth USER DOES NOT HAVE PERMISSION TO USE THIS FUNCTION: |{name}|{function}|\n"
    known = _FUNCTIONS.get(function)
    if known is not None and not known.allows(user):
        return f"ERROR: {function} USER DOES NOT HAVE PERMISSION TO GET {known.what}: |{name}|0|\n"
    source = question.get("source")
    if len(source) < _SHORTEST_SOURCE:
        return f"ERROR: Invalid Source - {source}\nERROR: Invalid Source: |{source}|\n"
    return "ERROR: NO FUNCTION SPECIFIED\n" if known is None else known.run(question, user)


def check_login(user: ApiUser | None, password: str, now: float) -> str:
    """Check a password as VICIdial does and count it; gives `GOOD`, `BAD`, `LOCK` or `2FA`.

    The lock counts from the last good login, so a user who has none for 15 minutes is not locked by ten
    failures: the eleventh starts the count anew. A try while locked changes nothing.
    """
    if user is None:
        return "BAD"
    over = user.last_login is None or user.last_login < now - LOCK_SECONDS
    right = user.password.casefold() == password.casefold() and user.level >= _LOWEST_LEVEL
    # With no login ever, the real query compares with NULL, and the right password is refused once.
    if right and (user.failed_logins < LOCK_AFTER or (over and user.last_login is not None)):
        user.failed_logins, user.last_login = 0, now
        return "2FA" if user.two_factor else "GOOD"
    if user.failed_logins < LOCK_AFTER:
        user.failed_logins += 1
    elif over:
        user.failed_logins, user.last_login = 1, now
    else:
        return "LOCK"
    return "BAD"


def find_user(world: World, name: str) -> ApiUser | None:
    """Find an API user as the database does, whatever the case of the letters."""
    folded = name.casefold()
    exact = world.users.get(name)
    return exact or next((user for known, user in world.users.items() if known.casefold() == folded), None)


def find_agent(world: World, name: str) -> DialerAgent | None:
    """Find an agent as the database does, whatever the case of the letters."""
    folded = name.casefold()
    exact = world.agents.get(name)
    return exact or next((agent for known, agent in world.agents.items() if known.casefold() == folded), None)


def agent_campaign_ids(world: World, agent: DialerAgent) -> list[str]:
    """Give the agent's active campaigns; one that the world does not list counts as active."""
    ids = world.campaigns if agent.campaigns is None else agent.campaigns
    return [name for name in ids if name not in world.campaigns or world.campaigns[name].active]


def _log_in(question: Question) -> tuple[ApiUser | None, str]:
    name, password = question.get("user"), question.get("pass")
    user = find_user(question.world, name)
    verdict = check_login(user, password, question.now)
    if verdict == "LOCK":
        return None, f"ERROR: Too many login attempts, try again in 15 minutes: |{name}|LOCK|\n"
    if verdict != "GOOD":
        return None, f"ERROR: Login incorrect, please try again: |{name}|{password}|{verdict}|\n"
    if question.world.ip_blocked:
        return None, "ERROR: Your IP Address is not allowed: 127.0.0.1: ||IPBLOCK|\n"
    return user, ""


def _version(question: Question) -> str:
    zone = question.world.zone
    date = datetime.fromtimestamp(question.wall + question.world.utc_offset, UTC).strftime(
        "%Y-%m-%d %H:%M:%S"
    )
    start = "VERSION: 2.14-202|BUILD: 250720-1841"
    return f"{start}|DATE: {date}|EPOCH: {int(question.wall)}|DST: 0|TZ: {zone}|TZNOW: {zone}|\n"


def _callid_info(question: Question, _: ApiUser) -> str:
    call_id, name = question.get("call_id"), question.get("user")
    if not _CALL_ID.match(call_id):
        return f"ERROR: callid_info INVALID SEARCH PARAMETERS: {name}|{call_id}\n"
    call = question.world.calls.get(call_id)
    state = "not_found" if call is None else call.state(question.now)
    if call is None or state == "not_found":
        return f"ERROR: callid_info CALL NOT FOUND: {name}|\n"
    if state == "log_not_found":
        return f"ERROR: callid_info CALL LOG NOT FOUND: {name}|\n"
    width = len(CALL_COLUMNS) if question.get("detail") == "YES" else 2
    return question.table(CALL_COLUMNS[:width], [_call_row(call, state)[:width]])


def _call_row(call: DialerCall, state: str) -> tuple[str, ...]:
    talked = 0 if state in {"INCALL", "QUEUE"} else call.talk_seconds
    status = call.status if state == "final" else state
    place = (call.call_date, call.phone, call.call_type, call.campaign_id, call.list_id)
    return (call.call_id, str(talked), *place, status, call.user)


def _agent_campaigns(question: Question, user: ApiUser) -> str:
    world, name, asked = question.world, question.get("user"), question.get("agent_user")
    agent = find_agent(world, asked)
    if agent is None or not _may_see(user, agent):
        return f"ERROR: agent_campaigns AGENT USER DOES NOT EXIST: |{name}|{asked}\n"
    only = question.get("campaign_id").casefold()
    allowed = [each for each in agent_campaign_ids(world, agent) if only in {"", each.casefold()}]
    if not allowed:
        return f"ERROR: agent_campaigns THIS AGENT USER HAS NO AVAILABLE CAMPAIGNS: {asked}|{name}|\n"
    # The server reads the in-groups in the order of its campaigns, not of the agent's.
    in_groups = [
        group for each in world.campaigns.values() if each.campaign_id in allowed for group in each.in_groups
    ]
    if question.get("ignore_agentdirect") == "Y":
        in_groups = [group for group in in_groups if not group.startswith("AGENTDIRECT")]
    row = (asked, "-".join(allowed), "-".join(dict.fromkeys(in_groups)))
    return question.table(_AGENT_HEADER, [row])


def _campaigns_list(question: Question, user: ApiUser) -> str:
    only = question.get("campaign_id")
    rows = [
        (
            each.campaign_id,
            each.name,
            "Y" if each.active else "N",
            "---ALL---",
            each.dial_method,
            *("0", "", "NEW", "60", "9", "", ""),
        )
        for each in question.world.campaigns.values()
        if only in {"", each.campaign_id} and (user.campaigns is None or each.campaign_id in user.campaigns)
    ]
    if not rows:
        return f"ERROR: campaigns_list THIS USER HAS NO VIEWABLE CAMPAIGNS: {question.get('user')}|\n"
    return question.table(_CAMPAIGN_HEADER, rows)


def _user_details(question: Question, user: ApiUser) -> str:
    asked = question.get("agent_user")
    agent = find_agent(question.world, asked)
    if agent is None or not _may_see(user, agent):
        return f"ERROR: user_details USER NOT FOUND: {question.get('user')}|{asked}\n"
    active = "Y" if agent.active else "N"
    row = (agent.user, agent.full_name, agent.user_group, str(agent.user_level), active)
    return question.table(_DETAILS_HEADER, [row])


def _recording_lookup(question: Question, _: ApiUser) -> str:
    asked = tuple(question.get(name) for name in ("agent_user", "lead_id", "date", "uniqueid"))
    agent, lead, date, uniqueid = asked
    shown = "|".join((question.get("user"), *asked))
    second = uniqueid.partition(".")[0]  # the real one cuts here and finds every call of that second
    known = len(second) >= _SECOND_DIGITS and any(
        call.uniqueid.startswith(second) for call in question.world.calls.values()
    )
    if not (known if uniqueid else lead or (agent and date)):
        return f"ERROR: recording_lookup INVALID SEARCH PARAMETERS: {shown}\n"
    found = [
        each
        for each in question.world.recordings
        if (not second or each.uniqueid.startswith(second))
        and (not lead or each.lead_id == lead)
        and (not agent or each.user == agent)
        and each.start_time.startswith(date)
    ]
    if not found:
        return f"ERROR: recording_lookup NO RECORDINGS FOUND - {shown}\n"
    with_seconds = question.get("duration") == "Y"
    return question.table(
        _RECORDING_HEADER, [_recording_row(each, with_seconds=with_seconds) for each in found]
    )


def _recording_row(each: Recording, *, with_seconds: bool) -> tuple[str, ...]:
    seconds = (str(each.seconds),) if with_seconds else ()  # a column that the header does not show
    return (each.start_time, each.user, each.recording_id, each.lead_id, *seconds, each.location)


def _may_see(user: ApiUser, agent: DialerAgent) -> bool:
    return user.groups is None or agent.user_group in user.groups


@dataclass(frozen=True, slots=True)
class _Function:
    run: Callable[[Question, ApiUser], str]
    what: str
    level: int = _LOWEST_LEVEL
    modify_users: bool = False

    def allows(self, user: ApiUser) -> bool:
        may_modify = user.modify_users or not self.modify_users
        return user.api_access and user.view_reports and user.level >= self.level and may_modify


_FUNCTIONS = {
    "callid_info": _Function(_callid_info, "CALL INFO"),
    "agent_campaigns": _Function(_agent_campaigns, "AGENT INFO", level=8, modify_users=True),
    "campaigns_list": _Function(_campaigns_list, "CAMPAIGN INFO", level=8),
    "user_details": _Function(_user_details, "USER DETAILS"),
    "recording_lookup": _Function(_recording_lookup, "RECORDING INFO"),
}
