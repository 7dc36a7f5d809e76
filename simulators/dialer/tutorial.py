"""The stand-in's other tongue: the contract as the tutorials tell it, which some servers and proxies speak.

No header, no stage, no detail: eight values for a call, pairs of campaign id and name for an agent, and the
tutorials' own error texts. The tutorials lost their example block, so the separator is a choice.
"""

from typing import Final

from simulators.dialer.answers import Question, agent_campaign_ids, find_agent
from simulators.dialer.data import ALL_FUNCTIONS, ApiUser, Campaign, DialerAgent, DialerCall, World
from simulators.dialer.lives import live_calls
from simulators.dialer.logins import check_login, find_user
from simulators.dialer.world import recorded_world

CAMPAIGNS: Final = (("Campaign1", "Outbound Sales"), ("Campaign2", "Inbound Support"))
"""The tutorials' campaigns, those of the agent `agent001`."""

_AGENT_LEVEL = 8
_NO_PERMISSION = "ERROR: USER DOES NOT HAVE PERMISSION TO USE THIS FUNCTION\n"


def tutorial_world() -> World:
    """Give the recorded world with the tutorials' own campaigns and agent, and calls that live."""
    world = recorded_world()
    world.calls.update({call.call_id: call for call in live_calls("tutorial")})
    for campaign_id, name in CAMPAIGNS:
        world.campaigns[campaign_id] = Campaign(campaign_id=campaign_id, name=name)
    ids = tuple(campaign_id for campaign_id, _ in CAMPAIGNS)
    world.agents["agent001"] = DialerAgent(user="agent001", campaigns=ids)
    return world


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
    return (_callid_info if function == "callid_info" else _agent_campaigns)(question, separator)


def may(user: ApiUser, function: str) -> bool:
    """Say whether this user may use this function."""
    high_enough = function == "callid_info" or user.level >= _AGENT_LEVEL
    return user.api_access and high_enough and bool(user.functions & {ALL_FUNCTIONS, function})


def _callid_info(question: Question, separator: str) -> str:
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


def _agent_campaigns(question: Question, separator: str) -> str:
    world, asked = question.world, question.get("agent_user")
    agent = find_agent(world, asked)
    if agent is None:
        return "ERROR: AGENT NOT FOUND\n"
    values = [asked]
    for campaign_id in agent_campaign_ids(world, agent):
        campaign = world.campaigns.get(campaign_id)
        values += [campaign_id, campaign_id if campaign is None else campaign.name]
    return separator.join(values) + "\n"
