"""What can be asked of the stand-in dialer, and how it can be changed: examples, with their answers."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import urlencode

from simulators.dialer.world import DEFAULT_PASSWORD, DEFAULT_USER, LIVE_IDS, Dialect

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
        """Write the address to ask at, with the parameters if they are part of it."""
        return url if self.method == "POST" else f"{url}?{urlencode(self.parameters)}"

    def curl(self, url: str) -> str:
        """Write the command that asks; with POST, the parameters are in the form and in no access log."""
        form = ["-d", urlencode(self.parameters)] if self.method == "POST" else []
        return shlex.join(["curl", *form, self.address(url)])


def call_query(call_id: str, **more: str) -> dict[str, str]:
    """Return the parameters that ask for a call."""
    return {**LOGIN, "function": "callid_info", "call_id": call_id, **more}


def agent_query(agent: str, **more: str) -> dict[str, str]:
    """Return the parameters that ask for an agent's campaigns."""
    return {**LOGIN, "function": "agent_campaigns", "agent_user": agent, **more}


def answers(dialect: Dialect, separator: str) -> tuple[Example, ...]:
    """Return a request for each thing that the dialer can tell."""
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
    """Return a request for each error that the dialer answers with."""
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


@dataclass(frozen=True, slots=True)
class Change:
    """One change by `POST /control`, and a request that then shows it."""

    title: str
    change: Mapping[str, Any]
    then: Example
    back: Mapping[str, Any] | None = None
    """What undoes it, if `reset` is not the way."""

    def curl(self, base_url: str) -> str:
        """Write the command that makes the change."""
        return control_line(base_url, self.change)


def control_line(base_url: str, change: Mapping[str, Any]) -> str:
    """Write the command that makes a change."""
    return shlex.join(["curl", "-d", json.dumps(change, ensure_ascii=False), f"{base_url}/control"])


def changes(dialect: Dialect, separator: str) -> tuple[Change, ...]:
    """Return a change for each way in which the dialer can be broken or made to know more."""
    call = answers(dialect, separator)[0] if dialect == "tutorial" else A_CALL
    subject = CALL[dialect]
    busy = {"body": "<html>busy</html>", "status": 503, "times": 1}
    common = (
        Change(
            "Every request is answered with a status 500; the other faults are named below",
            {"fault": "500"},
            _same(call, "", status=500),
            {"fault": None},
        ),
        Change(
            "One answer, once, word for word; with delay, fault and headers too",
            {"plant": {f"callid_info:{subject}": busy}},
            _same(call, "<html>busy</html>", status=503),
            {"unplant": True},
        ),
        Change("So many seconds before each answer", {"delay": 0.2}, call, {"delay": 0}),
        Change(
            "The seconds of work that an answer is; with more than 4 at once it takes longer in proportion",
            {"service_time": 0.005},
            call,
            {"service_time": 0},
        ),
        Change(
            "A long report holds the table of the users: every login waits for so many seconds",
            {"users_table_locked": 3},
            call,
            {"users_table_locked": 0},
        ),
        Change("Everything is again as at first, but for delay and service_time", {"reset": True}, call),
    )
    return (*(_REAL_CHANGES if dialect == "real" else _TUTORIAL_CHANGES), *common)


def _same(example: Example, says: str, *, status: int = 200) -> Example:
    return replace(example, says=says, status=status)


_LIVES_REAL, _LIVES_TUTORIAL = LIVE_IDS["real"], LIVE_IDS["tutorial"]
_REAL_CHANGES: Final = (
    Change(
        "A call is dialled now; the answer contains the ids that it gets",
        {"ring": {"life": "transferred", "speed": 10}},
        A_CALL,
    ),
    Change(
        "A life begins anew, with fields of your own",
        {"ring": {"life": "endless", "call_id": _LIVES_REAL["endless"], "phone": "15550001", "user": "1001"}},
        Example(
            "The call",
            f"{_LIVES_REAL['endless']}|0|…|15550001|OUTBOUND_AUTO|SALES1|1001|INCALL|1001",
            call_query(_LIVES_REAL["endless"], detail="YES"),
        ),
    ),
    Change(
        "One more call, with a way of its own: seconds and states",
        {"calls": {"V1202150000000099999": {"status": "NI", "schedule": [[0, "QUEUE"], [30, "final"]]}}},
        Example(
            "The call",
            "V1202150000000099999|0|…|QUEUE|VDAD",
            call_query("V1202150000000099999", detail="YES"),
        ),
    ),
    Change(
        "A shift of agents: the answer contains what is true of each call, those of the days before included",
        {"shift": {"calls": 20, "agents": 3, "seconds": 30, "seed": 1}},
        A_CALL,
    ),
    Change(
        "One more agent",
        {"agents": {"newcomer": {"full_name": "New Comer", "campaigns": ["SALES1"]}}},
        Example("The agent", "newcomer|SALES1|…", agent_query("newcomer")),
    ),
    Change(
        "Another password",
        {"password": {DEFAULT_USER: "changed"}},
        _same(A_CALL, f"ERROR: Login incorrect, please try again: |{DEFAULT_USER}|{DEFAULT_PASSWORD}|BAD|"),
    ),
    Change(
        "A locked user: the right password is refused too",
        {"users": {DEFAULT_USER: {"locked": True}}},
        _same(A_CALL, f"ERROR: Too many login attempts, try again in 15 minutes: |{DEFAULT_USER}|LOCK|"),
        {"users": {DEFAULT_USER: {"locked": False}}},
    ),
    Change(
        "Two-factor login: the answer repeats the right password",
        {"users": {DEFAULT_USER: {"two_factor": True}}},
        _same(A_CALL, f"ERROR: Login incorrect, please try again: |{DEFAULT_USER}|{DEFAULT_PASSWORD}|2FA|"),
        {"users": {DEFAULT_USER: {"two_factor": False}}},
    ),
    Change(
        "Other permissions: level, api_access, view_reports, modify_users, functions, groups, campaigns",
        {"users": {DEFAULT_USER: {"view_reports": False}}},
        _same(
            A_CALL, f"ERROR: callid_info USER DOES NOT HAVE PERMISSION TO GET CALL INFO: |{DEFAULT_USER}|0|"
        ),
        {"users": {DEFAULT_USER: {"view_reports": True}}},
    ),
    Change(
        "An address that is not allowed",
        {"ip_blocked": True},
        _same(A_CALL, "ERROR: Your IP Address is not allowed: 127.0.0.1: ||IPBLOCK|"),
        {"ip_blocked": False},
    ),
    Change(
        "PHP's warnings around every answer",
        {"display_errors": True},
        _same(A_CALL, f"<br />\n<b>Warning</b>:  …\n{CALL['real']}|120\n<br />\n…"),
        {"display_errors": False},
    ),
    Change(
        "Bytes in latin-1, whatever the header says; what it lacks becomes ?",
        {"charset": "latin-1"},
        Example(
            "A call",
            "M1201407030000012347|10|…|\ufffd\ufffd?|jos\ufffd",
            call_query("M1201407030000012347", detail="YES"),
        ),
        {"charset": "utf-8"},
    ),
)

_TUTORIAL_CHANGES: Final = (
    Change(
        "A call is dialled now; the answer contains the id that it gets",
        {"ring": {"life": "answered", "speed": 10}},
        Example(
            "A call that is not begun", "ERROR: CALL ID NOT FOUND", call_query(_LIVES_TUTORIAL["unanswered"])
        ),
    ),
    Change(
        "One more call",
        {"calls": {"1000099999": {"status": "Busy", "phone": "15550001", "call_type": "INBOUND"}}},
        Example("The call", "1000099999…Inbound…15550001…Busy…", call_query("1000099999")),
    ),
    Change(
        "Another password",
        {"password": {DEFAULT_USER: "changed"}},
        Example("A call", "ERROR: INVALID USERNAME OR PASSWORD", call_query(CALL["tutorial"])),
    ),
    Change(
        "Another separator",
        {"separator": ","},
        Example(
            "An agent",
            "agent001,Campaign1,Outbound Sales,Campaign2,Inbound Support",
            agent_query(AGENT["tutorial"]),
        ),
        {"separator": "|"},
    ),
)
