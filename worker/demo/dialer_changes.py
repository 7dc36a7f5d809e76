"""How the stand-in dialer can be broken, or made to know more: examples, and what is then answered."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from worker.demo.dialer_data import DEFAULT_PASSWORD, DEFAULT_USER, Dialect
from worker.demo.dialer_examples import A_CALL, AGENT, CALL, Example, agent_query, answers, call_query
from worker.demo.dialer_lives import LIVE_IDS


@dataclass(frozen=True, slots=True)
class Change:
    """One change by `POST /control`, and a request that then shows it."""

    title: str
    change: Mapping[str, Any]
    then: Example
    back: Mapping[str, Any] | None = None
    """What undoes it, where `reset` is not the way."""

    def curl(self, base_url: str) -> str:
        """Write the command that makes the change."""
        return control_line(base_url, self.change)


def control_line(base_url: str, change: Mapping[str, Any]) -> str:
    """Write the command that makes a change."""
    return shlex.join(["curl", "-d", json.dumps(change, ensure_ascii=False), f"{base_url}/control"])


def changes(dialect: Dialect, separator: str) -> tuple[Change, ...]:
    """Give a change for each way in which the dialer can be broken or made to know more."""
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
        "A call is dialled now; the answer tells the ids that it gets",
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
        "A call is dialled now; the answer tells the id that it gets",
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
