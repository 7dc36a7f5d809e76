"""How the stand-in answers: VICIdial's non-agent API as recorded, as a function of parameters and world.

The order of the checks is that of VICIdial's source: `version` needs no login; then login and lock, the
address, and whether there is such a function; the function itself checks the source, whether it is among the
user's allowed ones, and its own permission.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

from simulators.dialer.logins import check_login, find_user, log_in, refusal
from simulators.dialer.world import (
    ALL_FUNCTIONS,
    CALL_COLUMNS,
    SEPARATORS,
    ApiUser,
    DialerAgent,
    DialerCall,
    LocalTime,
    Recording,
    World,
)
from simulators.recordings import find

_SHORTEST_SOURCE = 2
_SHORTEST_UNIQUEID = 9
_DATE_LENGTH = 10
_FILTERS = {
    "user": "-_0-9a-zA-Z",
    "pass": "-_0-9a-zA-Z",
    "function": "-_0-9a-zA-Z",
    "agent_user": "-_0-9a-zA-Z",
    "campaign_id": "-_0-9a-zA-Z",
    "call_id": "0-9a-zA-Z",
    "source": "0-9a-zA-Z",
    "ignore_agentdirect": "A-Z",
    "uniqueid": r"- ._0-9a-zA-Z",
    "lead_id": "0-9",
    "date": "-0-9",
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
    """The parameters after the API's silent filtering, and what else an answer depends on.

    `now` is the dialer's clock, whose times `local` writes; `wall` is the time of day.
    """

    parameters: Mapping[str, str]
    world: World
    now: float
    wall: float
    local: LocalTime

    def get(self, name: str) -> str:
        """Return a parameter's value, empty if it was not sent."""
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
    """Return the id that a request is about: its call, else its agent, else its recording's call or lead."""
    names = ("call_id", "agent_user", "uniqueid", "lead_id")
    return next((parameters[name] for name in names if parameters.get(name)), "")


class ServerError(Exception):
    """The server breaks over a request: over an SQL error, or over an array instead of text."""


def answer(question: Question) -> str:
    """Answer one request; the API users' login counts in the world are brought up to date.

    Raises `ServerError` if the real one ends with a status 500.
    """
    function = question.get("function")
    if function == "version":
        return _version(question)
    name = question.get("user")
    user, error = log_in(question.world, name, question.get("pass"), question.now)
    if user is None:
        return error
    if function not in _FUNCTIONS:
        return "ERROR: NO FUNCTION SPECIFIED\n"
    source = question.get("source")
    if len(source) < _SHORTEST_SOURCE:
        return f"ERROR: Invalid Source - {source}\nERROR: Invalid Source: |{source}|\n"
    return refusal(user, name, function) or _FUNCTIONS[function](question, user)


def is_call_id(text: str) -> bool:
    """Return whether the API looks for a call of that id at all."""
    return _CALL_ID.match(text) is not None


def find_agent(world: World, name: str) -> DialerAgent | None:
    """Find an agent as the database does, whatever the case of the letters."""
    folded = name.casefold()
    exact = world.agents.get(name)
    return exact or next((agent for known, agent in world.agents.items() if known.casefold() == folded), None)


def agent_campaign_ids(world: World, agent: DialerAgent) -> list[str]:
    """Return the agent's active campaigns; one that the world does not list counts as active."""
    ids = world.campaigns if agent.campaigns is None else agent.campaigns
    return [name for name in ids if name not in world.campaigns or world.campaigns[name].active]


def in_groups_of(world: World, campaign_ids: Collection[str]) -> list[str]:
    """Return the in-groups of these campaigns, in the order of the server's campaigns, not of the agent's."""
    campaigns = [each for each in world.campaigns.values() if each.campaign_id in campaign_ids]
    return list(dict.fromkeys(group for each in campaigns for group in each.in_groups))


def _version(question: Question) -> str:
    zone = question.world.zone
    date = question.world.local_time(question.wall)
    start = "VERSION: 2.14-202|BUILD: 250720-1841"
    return f"{start}|DATE: {date}|EPOCH: {int(question.wall)}|DST: 0|TZ: {zone}|TZNOW: {zone}|\n"


def _callid_info(question: Question, _: ApiUser) -> str:
    call_id, name = question.get("call_id"), question.get("user")
    if "call_id[]" in question.parameters:
        raise ServerError("TypeError")
    if not is_call_id(call_id):
        return f"ERROR: callid_info INVALID SEARCH PARAMETERS: {name}|{call_id}\n"
    call = question.world.calls.get(call_id)
    if call is not None and call.earlier is not None:
        call = call.earlier  # the real one reads the first row of that id, which is the oldest
    state = "not_found" if call is None else call.state(question.now)
    if state == "sql_error":
        raise ServerError("mysqli_sql_exception")
    if call is None or state == "not_found":
        return f"ERROR: callid_info CALL NOT FOUND: {name}|\n"
    if state == "log_not_found":
        return f"ERROR: callid_info CALL LOG NOT FOUND: {name}|\n"
    width = len(CALL_COLUMNS) if question.get("detail") == "YES" else 2
    date = call.dates(question.now, question.local)[2]
    return question.table(CALL_COLUMNS[:width], [_call_row(call, state, date)[:width]])


def _call_row(call: DialerCall, state: str, date: str) -> tuple[str, ...]:
    talked = 0 if state in {"INCALL", "QUEUE"} else call.talk_seconds
    status = call.status if state == "final" else state
    nobody = "VDCL" if call.call_type == "INBOUND" else "VDAD"
    user = nobody if state == "QUEUE" else call.user
    place = (date, call.phone, call.call_type, call.campaign_id, call.list_id)
    return (call.call_id, str(talked), *place, status, user)


def _agent_campaigns(question: Question, user: ApiUser) -> str:
    world, name, asked = question.world, question.get("user"), question.get("agent_user")
    agent = find_agent(world, asked)
    if agent is None or not _may_see(user, agent):
        return f"ERROR: agent_campaigns AGENT USER DOES NOT EXIST: |{name}|{asked}\n"
    only = question.get("campaign_id").casefold()
    allowed = [each for each in agent_campaign_ids(world, agent) if only in {"", each.casefold()}]
    if not allowed:
        return f"ERROR: agent_campaigns THIS AGENT USER HAS NO AVAILABLE CAMPAIGNS: {asked}|{name}|\n"
    in_groups = in_groups_of(world, allowed)
    if question.get("ignore_agentdirect") == "Y":
        in_groups = [group for group in in_groups if not group.startswith("AGENTDIRECT")]
    row = (asked, "-".join(allowed), "-".join(in_groups))
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
    """Search as the real one does: each parameter that is long enough narrows, and too few are an error.

    Of a `uniqueid` the second alone counts; one that no call has is as if it were not given.
    """
    asked = agent, lead, date, uniqueid = tuple(
        question.get(name) for name in ("agent_user", "lead_id", "date", "uniqueid")
    )
    shown = "|".join((question.get("user"), *asked))
    tests, weight = _recording_tests(question, agent, lead, uniqueid)
    weight += len(date) == _DATE_LENGTH
    if weight < 2:
        return f"ERROR: recording_lookup INVALID SEARCH PARAMETERS: {shown}\n"
    fitting = (each for each in question.world.recordings if all(fits(each) for fits in tests))
    found = [
        each
        for recording in fitting
        if (each := recording.as_of(question.now, question.local)) is not None
        and (len(date) != _DATE_LENGTH or each.start_time.startswith(date))
    ]
    if not found:
        return f"ERROR: recording_lookup NO RECORDINGS FOUND - {shown}\n"
    with_seconds = "Y" in question.get("duration")
    found.sort(key=lambda each: each.start_time)
    return question.table(
        _RECORDING_HEADER, [_recording_row(each, with_seconds=with_seconds) for each in found]
    )


def _recording_tests(
    question: Question, agent: str, lead: str, uniqueid: str
) -> tuple[list[Callable[[Recording], bool]], int]:
    """Return what a recording must fulfil, and how much these parameters weigh: a search needs 2."""
    second = uniqueid.partition(".")[0]
    given: list[tuple[bool, int, Callable[[Recording], bool]]] = [
        (
            len(uniqueid) >= _SHORTEST_UNIQUEID and _is_logged(question, second),
            2,
            lambda each: each.uniqueid.startswith(second),
        ),
        (2 < len(agent) < 21, 1, lambda each: each.user.casefold() == agent.casefold()),
        (0 < len(lead) < 11, 2, lambda each: each.lead_id.lstrip("0") == lead.lstrip("0")),
    ]
    used = [(weight, fits) for is_given, weight, fits in given if is_given]
    return [fits for _, fits in used], sum(weight for weight, _ in used)


def _is_logged(question: Question, second: str) -> bool:
    """Return whether a call of that second has its row in the log, by which a `uniqueid` is found."""
    return any(
        call.uniqueid.startswith(second) and call.peek(question.now) not in {"not_found", "log_not_found"}
        for call in question.world.calls.values()
    )


def _recording_row(each: Recording, *, with_seconds: bool) -> tuple[str, ...]:
    seconds = (str(each.seconds),) if with_seconds else ()  # a column that the header does not show
    return (each.start_time, each.user, each.recording_id, each.lead_id, *seconds, each.location)


def _may_see(user: ApiUser, agent: DialerAgent) -> bool:
    return user.groups is None or agent.user_group in user.groups


_FUNCTIONS: Mapping[str, Callable[[Question, ApiUser], str]] = {
    "callid_info": _callid_info,
    "agent_campaigns": _agent_campaigns,
    "campaigns_list": _campaigns_list,
    "user_details": _user_details,
    "recording_lookup": _recording_lookup,
}


# --- the contract as the tutorials describe it ----------------------------------------------------
#
# Some servers and proxies speak it. No header, no stage, no detail: eight values for a call, pairs of
# campaign id and name for an agent, and the tutorials' own error texts. The tutorials lost their example
# block, so the separator is a choice.

_AGENT_LEVEL = 8
_NO_PERMISSION = "ERROR: USER DOES NOT HAVE PERMISSION TO USE THIS FUNCTION\n"


def tutorial_answer(question: Question, separator: str) -> str:
    """Answer one request in the tutorials' way; logins are counted, but there is no lock to speak of."""
    function = question.get("function")
    if function not in {"callid_info", "agent_campaigns"}:
        return "ERROR: NO FUNCTION SPECIFIED\n"
    user = find_user(question.world, question.get("user"))
    if user is None or check_login(user, question.get("pass"), question.now) != "GOOD":
        return "ERROR: INVALID USERNAME OR PASSWORD\n"
    if not may(user, function):
        return _NO_PERMISSION
    return (_tutorial_callid_info if function == "callid_info" else _tutorial_agent_campaigns)(
        question, separator
    )


def may(user: ApiUser, function: str) -> bool:
    """Return whether this user may use this function."""
    high_enough = function == "callid_info" or user.level >= _AGENT_LEVEL
    return user.api_access and high_enough and bool(user.functions & {ALL_FUNCTIONS, function})


def _tutorial_callid_info(question: Question, separator: str) -> str:
    call = question.world.calls.get(question.get("call_id"))
    state = "not_found" if call is None else call.state(question.now)
    if call is None or not call.call_id.isdigit() or state in {"not_found", "log_not_found"}:
        return "ERROR: CALL ID NOT FOUND\n"
    start, end, _ = call.dates(question.now, question.local)
    return separator.join(_call_values(call, state, (start, end))) + "\n"


def _call_values(call: DialerCall, state: str, times: tuple[str, str]) -> tuple[str, ...]:
    direction = "Inbound" if call.call_type == "INBOUND" else "Outbound"
    status = call.status if state == "final" else state
    return (call.call_id, *times, direction, call.user, call.phone, status, call.recording)


def _tutorial_agent_campaigns(question: Question, separator: str) -> str:
    world, asked = question.world, question.get("agent_user")
    agent = find_agent(world, asked)
    if agent is None:
        return "ERROR: AGENT NOT FOUND\n"
    values = [asked]
    for campaign_id in agent_campaign_ids(world, agent):
        campaign = world.campaigns.get(campaign_id)
        values += [campaign_id, campaign_id if campaign is None else campaign.name]
    return separator.join(values) + "\n"


# --- what PHP and Apache put around an answer, or in its place ------------------------------------

LONGEST_REQUEST_LINE: Final = 8190
"""Apache's `LimitRequestLine`: what is longer is answered with 414."""

_WARNING = re.compile(r"<br />\n<b>Warning</b>:  .*<br />\n")
_UNSENT = re.compile(r"Undefined variable \$(\w+) in")
_NOT_LET_IN = ("ERROR: Login incorrect", "ERROR: Too many login", "ERROR: Your IP Address")


def amid_warnings(text: str, parameters: Mapping[str, str]) -> str:
    """Return the answer as a server with `display_errors` on does: amid tens of kilobytes of warnings.

    Among them is one for each parameter that the API knows and that was not sent.
    """
    start, logged_in, end = _warnings()
    said = [each for each in start if not _is_about(each, parameters)]
    if text.startswith(_NOT_LET_IN):
        refused = find("display_errors_on", "wrong_password").body
        return "".join((*said, _WARNING.findall(refused)[-1], text))
    around = (logged_in[1], end[0]) if parameters.get("function") == "agent_campaigns" else ("", "")
    return "".join((*said, logged_in[0], around[0], text, around[1], *end[1:]))


def fatal_error(parameters: Mapping[str, str]) -> str:
    """Return what such a server shows in place of an empty answer with the status 500."""
    start, logged_in, _ = _warnings()
    body = find("display_errors_on", "sql_error").body
    said = [each for each in start if not _is_about(each, parameters)]
    return "".join((*said, logged_in[0], body[body.index("<br />\n<b>Fatal error</b>") :]))


def too_long() -> tuple[str, str]:
    """Return body and content type of Apache's answer to a request line that is too long."""
    recorded = find("apache_mod_php", "url_9000")
    return recorded.body, recorded.content_type


def _is_about(warning: str, parameters: Mapping[str, str]) -> bool:
    found = _UNSENT.search(warning)
    return found is not None and found[1] in parameters


@cache
def _warnings() -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Return the warnings before the login, between the login and the row, and after the row.

    Each recording lacks those about its own parameters, so the first part is put together from two.
    """
    with_agent, after = _around_the_row(find("display_errors_on", "agent_campaigns_ok").body)
    with_call = _WARNING.findall(find("display_errors_on", "wrong_password").body)[:-1]
    login = next(place for place, each in enumerate(with_agent) if "$login_problem" in each)
    start = with_agent[:login]
    for before, each in zip(["", *with_call], with_call, strict=False):
        if each not in start:
            start.insert(start.index(before) + 1, each)
    return tuple(start), tuple(with_agent[login:]), tuple(after)


def _around_the_row(body: str) -> tuple[list[str], list[str]]:
    """Return the warnings before the one row of a body, and those after it."""
    row = _WARNING.sub("", body)
    before, _, after = body.partition(row)
    return _WARNING.findall(before), _WARNING.findall(after)
