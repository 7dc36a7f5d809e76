"""How long it takes to read one answer of the dialer: `python -m benchmarks.parse`."""

import argparse
import timeit
from collections.abc import Callable
from zoneinfo import ZoneInfo

from worker.vicidial.agents import read_agent
from worker.vicidial.calls import read_call
from worker.vicidial.clock import DialerTimes

BUDGET = 30
"""Microseconds: the parsing of an event's answer must not be what an event costs."""

_NUMBER, _REPEAT = 5000, 9
_ZONE = ZoneInfo("America/New_York")
_NOT_FINAL = frozenset({"QUEUE", "INCALL", "DISPO", "DONEM", "XFER", ""})
_CALL = "V1201405090000012345"
_TUTORIAL_CALL = "1000012345"
_NINE_COLUMNS = (
    "call_id|custtime|call_date|phone|call_type|campaign_id|list_id|status|user\n"
    f"{_CALL}|120|2026-11-20 14:05:09|3125551212|OUTBOUND_AUTO|SALES1|1001|SALE|1000\n"
)
_TWO_COLUMNS = f"call_id|custtime\n{_CALL}|120\n"
_AGENT = (
    "user|allowed_campaigns_list|allowed_ingroups_list\n"
    "1001|OUTONLY-RENEW_24-SUPP-1|RENEW_IN-SALESLINE-SUPPORTLINE\n"
)
_TUTORIAL = (
    f"{_TUTORIAL_CALL}|2024-02-15 10:15:00|2024-02-15 10:18:30|Outbound|agent001|9876543210|Answered"
    f"|rec_{_TUTORIAL_CALL}.wav\n"
)

PARSES: dict[str, Callable[[], object]] = {
    "callid_info, nine columns": lambda: read_call(_NINE_COLUMNS, _CALL, DialerTimes(_ZONE), _NOT_FINAL),
    "callid_info, two columns": lambda: read_call(_TWO_COLUMNS, _CALL, DialerTimes(_ZONE), _NOT_FINAL),
    "callid_info, of the tutorials": lambda: read_call(
        _TUTORIAL, _TUTORIAL_CALL, DialerTimes(_ZONE), _NOT_FINAL
    ),
    "agent_campaigns": lambda: read_agent(_AGENT, "1001"),
}


def microseconds(parse: Callable[[], object]) -> float:
    """Return the best mean of several runs: what else the machine does only ever adds."""
    return min(timeit.repeat(parse, number=_NUMBER, repeat=_REPEAT)) / _NUMBER * 1e6


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m benchmarks.parse", description=__doc__).parse_args()
    for name, parse in PARSES.items():
        print(f"{name:32}{microseconds(parse):6.1f} µs    budget: below {BUDGET} µs")
