"""What can be asked of the stand-in dialer: examples, with the answers that they get."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from worker.demo.dialer_data import DEFAULT_PASSWORD, DEFAULT_USER, Dialect

LOGIN: Final[Mapping[str, str]] = {"user": DEFAULT_USER, "pass": DEFAULT_PASSWORD, "source": "test"}
"""The parameters that nearly every request has."""

CALL: Final[Mapping[Dialect, str]] = {"real": "V1201405090000012345", "tutorial": "1000012345"}
AGENT: Final[Mapping[Dialect, str]] = {"real": "1001", "tutorial": "agent001"}
"""A call and an agent of each dialect, to show how it is asked."""

_ROW = "V1201405090000012345|120|2026-11-20 14:05:09|3125551212|OUTBOUND_AUTO|SALES1|1001|SALE|1000"
_HEADER = "call_id|custtime|call_date|phone|call_type|campaign_id|list_id|status|user"
_READ = {"stage": "pipe", "header": "YES"}
_DETAIL = {**_READ, "detail": "YES"}


@dataclass(frozen=True, slots=True)
class Example:
    """One request, and the answer to it word for word; a `…` in that stands for anything."""

    title: str
    says: str
    parameters: Mapping[str, str]
    method: str = "GET"
    status: int = 200

    def address(self, url: str) -> str:
        """Write the address to ask at, with the parameters where they are part of it."""
        return url if self.method == "POST" else f"{url}?{urlencode(self.parameters)}"

    def curl(self, url: str) -> str:
        """Write the command that asks; with POST, the parameters are in the form and in no access log."""
        form = ["-d", urlencode(self.parameters)] if self.method == "POST" else []
        return shlex.join(["curl", *form, self.address(url)])


def call_query(call_id: str, **more: str) -> dict[str, str]:
    """Give the parameters that ask for a call."""
    return {**LOGIN, "function": "callid_info", "call_id": call_id, **more}


def agent_query(agent: str, **more: str) -> dict[str, str]:
    """Give the parameters that ask for an agent's campaigns."""
    return {**LOGIN, "function": "agent_campaigns", "agent_user": agent, **more}


def answers(dialect: Dialect, separator: str) -> tuple[Example, ...]:
    """Give a request for each thing that the dialer can tell."""
    if dialect == "real":
        return _REAL_ANSWERS
    call = ("1000012345", "2024-02-15 10:15:00", "2024-02-15 10:18:30", "Outbound", "agent001", "9876543210")
    call_says = separator.join((*call, "Answered", "rec_1000012345.wav"))
    pairs = ("agent001", "Campaign1", "Outbound Sales", "Campaign2", "Inbound Support")
    return (
        Example("A call", call_says, call_query(CALL[dialect])),
        Example("The same by POST", call_says, call_query(CALL[dialect]), "POST"),
        Example("An agent's campaigns", separator.join(pairs), agent_query(AGENT[dialect])),
    )


def refusals(dialect: Dialect) -> tuple[Example, ...]:
    """Give a request for each error that the dialer answers with."""
    return _REAL_REFUSALS if dialect == "real" else _TUTORIAL_REFUSALS


def _as_user(user: str, password: str) -> dict[str, str]:
    return {"user": user, "pass": password}


A_CALL = Example("A call", f"{CALL['real']}|120", call_query(CALL["real"]))
"""The shortest question about a call."""

_NO_SOURCE = {name: value for name, value in call_query(CALL["real"]).items() if name != "source"}

_REAL_ANSWERS: Final = (
    Example(
        "The version, without a login",
        "VERSION: 2.14-202|BUILD: …|DATE: …|EPOCH: …|…",
        {"function": "version"},
    ),
    A_CALL,
    Example("All about a call", f"{_HEADER}\n{_ROW}", call_query(CALL["real"], **_DETAIL)),
    Example("The same by POST", f"{_HEADER}\n{_ROW}", call_query(CALL["real"], **_DETAIL), "POST"),
    Example(
        "An agent's campaigns and in-groups",
        "user|allowed_campaigns_list|allowed_ingroups_list\n"
        "1001|OUTONLY-RENEW_24-SUPP-1|RENEW_IN-SALESLINE-SUPPORTLINE",
        agent_query("1001", **_READ),
    ),
    Example(
        "A campaign's name",
        "campaign_id|campaign_name|active|…\nSUPP-1|Support with dash|Y|…",
        {**LOGIN, "function": "campaigns_list", "campaign_id": "SUPP-1", **_READ},
    ),
    Example(
        "An agent's name, group and level",
        "user|full_name|user_group|user_level|active\n1000|Agent Thousand|SALES|1|Y",
        {**LOGIN, "function": "user_details", "agent_user": "1000", **_READ},
    ),
    Example(
        "The recordings of a call, and of any other of that second",
        "start_time|user|recording_id|lead_id|location\n2026-11-20 14:05:15|1000|1|12345|120|http://…\n"
        "2026-11-20 14:07:15|1000|2|12345|20|http://…",
        {**LOGIN, "function": "recording_lookup", "uniqueid": "1795269909.101", "duration": "Y", **_READ},
    ),
)

_REAL_REFUSALS: Final = (
    Example(
        "A call that nobody knows",
        f"ERROR: callid_info CALL NOT FOUND: {DEFAULT_USER}|",
        call_query("V1299999990000099999"),
    ),
    Example(
        "A call between two inserts",
        f"ERROR: callid_info CALL LOG NOT FOUND: {DEFAULT_USER}|",
        call_query("V1201407040000012347"),
    ),
    Example(
        "An id that can be none",
        f"ERROR: callid_info INVALID SEARCH PARAMETERS: {DEFAULT_USER}|1000012345",
        call_query("1000012345"),
    ),
    Example("A call that breaks the server's SQL", "", call_query("M1201407120000012347"), status=500),
    Example(
        "An agent that does not exist",
        f"ERROR: agent_campaigns AGENT USER DOES NOT EXIST: |{DEFAULT_USER}|9999",
        agent_query("9999"),
    ),
    Example(
        "An agent that this API user may not see",
        "ERROR: agent_campaigns AGENT USER DOES NOT EXIST: |limadm|1001",
        agent_query("1001", **_as_user("limadm", "Limad1")),
    ),
    Example(
        "An agent without campaigns",
        f"ERROR: agent_campaigns THIS AGENT USER HAS NO AVAILABLE CAMPAIGNS: 1003|{DEFAULT_USER}|",
        agent_query("1003"),
    ),
    Example(
        "A wrong password, which the answer repeats; ten of them lock the user for 15 minutes",
        "ERROR: Login incorrect, please try again: |lockme|wrong|BAD|",
        call_query(CALL["real"], **_as_user("lockme", "wrong")),
    ),
    Example(
        "A function that the user is not allowed",
        "ERROR: auth USER DOES NOT HAVE PERMISSION TO USE THIS FUNCTION: |limited|callid_info|",
        call_query(CALL["real"], **_as_user("limited", "Limit1")),
    ),
    Example(
        "A user whose level is too low for this function",
        "ERROR: agent_campaigns USER DOES NOT HAVE PERMISSION TO GET AGENT INFO: |api7|0|",
        agent_query("1000", **_as_user("api7", "Seven7")),
    ),
    Example("No source", "ERROR: Invalid Source - \nERROR: Invalid Source: ||", _NO_SOURCE),
    Example("No such function", "ERROR: NO FUNCTION SPECIFIED", {**LOGIN, "function": "no_such_function"}),
)

_TUTORIAL_REFUSALS: Final = (
    Example("A call that nobody knows", "ERROR: CALL ID NOT FOUND", call_query("9999999999")),
    Example("An agent that does not exist", "ERROR: AGENT NOT FOUND", agent_query("nobody")),
    Example(
        "A wrong password",
        "ERROR: INVALID USERNAME OR PASSWORD",
        call_query(CALL["tutorial"], **_as_user("lockme", "wrong")),
    ),
    Example(
        "A user without permission",
        "ERROR: USER DOES NOT HAVE PERMISSION TO USE THIS FUNCTION",
        call_query(CALL["tutorial"], **_as_user("limited", "Limit1")),
    ),
    Example("No such function", "ERROR: NO FUNCTION SPECIFIED", {**LOGIN, "function": "version"}),
)
