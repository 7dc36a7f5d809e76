"""What became of each event so far, read from the real worker's log lines.

Pure: log lines go in, the state of each case and a sentence a person understands come out.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from simulators.demo.scenario import Case

Tone = Literal["plain", "good", "wait", "bad"]
Payload = Mapping[str, Any]

_LOOK_UPS = {"callid_info": "call_id", "agent_campaigns": "agent_user"}
_SAYS = re.compile(r"dialer says ([A-Z ]+)|status is (\w+)")
_STATUS = re.compile(r"answered (\d{3})\b")
_SHORT = {
    "CALL NOT FOUND": "not found",
    "CALL LOG NOT FOUND": "no log yet",
    "INVALID SEARCH PARAMETERS": "refuses it",
}


@dataclass(frozen=True, slots=True)
class News:
    """One thing that happened, as a sentence."""

    at: datetime
    text: str
    tone: Tone = "plain"


@dataclass(slots=True)
class Row:
    """How far one case got. `due` is when a waiting one is taken up again, in the log's time."""

    case: Case
    received: int = 0
    looks: int = 0
    retries: int = 0
    says: str = ""
    known: bool = False
    trouble: str = ""
    due: datetime | None = None
    status: str = ""
    dead: str = ""
    settled: int = 0

    @property
    def over(self) -> bool:
        """Whether every copy that was published has come to its end."""
        return self.settled >= self.case.published


@dataclass
class Progress:
    """The rows of all cases. `payload_of` gives what the CRM was last sent for an event id."""

    cases: Sequence[Case]
    payload_of: Callable[[str], Payload | None] = lambda _: None
    rows: list[Row] = field(init=False)

    def __post_init__(self) -> None:
        """Begin with nothing published."""
        self.rows = [Row(case) for case in self.cases]
        self._by_event = {row.case.event_id: row for row in self.rows}
        self._by_subject = {row.case.subject: row for row in self.rows if row.case.envelope != "broken"}

    @property
    def over(self) -> bool:
        """Whether every case has come to its end."""
        return all(row.over for row in self.rows)

    def received(self, case: Case, at: datetime) -> News:
        """Note that the broker confirmed a message of this case."""
        row = self._by_event[case.event_id]
        row.received += 1
        how = {"structured": " as a CloudEvent", "binary": " as a CloudEvent (binary)", "broken": ""}
        again = " once more" if row.received > 1 else ""
        return News(at, f"{case.who}: {case.event_type} published{how.get(case.envelope, '')}{again}")

    def logged(self, line: Mapping[str, Any]) -> News | None:
        """Record one line of the worker's log. Return a sentence about it, if it is worth one."""
        at = _time(line.get("timestamp"))
        match line.get("event"):
            case "dialer_request":
                self._asked(line)
                return None
            case "event_settled":
                row = self._by_event.get(str(line.get("event_id")))
                return None if row is None else self._settled(row, line, at)
            case name if line.get("level") in {"warning", "error", "critical"}:
                tone: Tone = "wait" if line["level"] == "warning" else "bad"
                return News(at, f"worker: {name} {line.get('error', '')}".rstrip(), tone)
            case _:
                return None

    def _asked(self, line: Mapping[str, Any]) -> None:
        subject = line.get(_LOOK_UPS.get(str(line.get("function")), ""))
        if (row := self._by_subject.get(str(subject))) is not None:
            row.looks += 1
            row.due = None

    def _settled(self, row: Row, line: Mapping[str, Any], at: datetime) -> News:
        error = str(line.get("error", ""))
        self._note_answer(row, error, enriched=line.get("stage", "deliver") == "deliver")
        row.due, row.trouble = None, ""
        match line.get("outcome"):
            case "retry":
                tier = str(line.get("tier", ""))
                return self._waits(row, error, tier, at)
            case "dead_letter":
                row.settled += 1
                row.dead = str(line.get("reason"))
                return News(at, f"{row.case.who}: dead letter: {_why(error, dead=True)}", "bad")
            case _:
                row.settled += 1
                row.status = str(line.get("answer", ""))
                return News(at, f"{row.case.who}: {self._delivery(row)}", "good")

    def _waits(self, row: Row, error: str, tier: str, at: datetime) -> News:
        row.retries += 1
        row.due = datetime.fromtimestamp(at.timestamp() + _seconds(tier), UTC)
        if (status := _STATUS.search(error)) is not None:
            row.trouble = f"CRM {status[1]}"
            again = "delivered again"
        else:
            again = "asks again"
        return News(at, f"{row.case.who}: {_why(error)}; {again} in {_spaced(tier)}", "wait")

    def _delivery(self, row: Row) -> str:
        if row.settled > 1:
            return "delivered again, same webhook-id: the CRM drops it"
        if row.case.dialect == "tutorial":
            return f"answered in the tutorials' dialect; delivered {row.status}"
        looks = f" after {row.looks} looks" if row.looks > 1 and row.case.published == 1 else ""
        tries = " at the 2nd try" if row.case.crm_says else ""
        return f"delivered{looks}{tries}, the CRM answers {row.status}"

    def _note_answer(self, row: Row, error: str, *, enriched: bool) -> None:
        """Note what the dialer says: by the error, or by the payload that was made of its answer."""
        payload = self.payload_of(row.case.event_id)
        if enriched and payload is not None:
            row.says, row.known = _summary_of(payload), True
        elif (match := _SAYS.search(error)) is not None:
            said = (match[1] or match[2]).strip()
            row.says = _SHORT.get(said, said)


def _summary_of(payload: Payload) -> str:
    data = payload.get("data", {})
    if "call" in data:
        return str(data["call"].get("status") or "found")
    count = len(data.get("agent", {}).get("campaigns", ()))
    return f"{count} campaign{'' if count == 1 else 's'}"


def _why(error: str, *, dead: bool = False) -> str:
    """Shorten the worker's own sentence to what fits a line."""
    if (match := _SAYS.search(error)) is not None:
        said = (match[1] or match[2]).strip()
        return said if dead else f"the dialer says {said}"
    if (status := _STATUS.search(error)) is not None:
        return f"the CRM answers {status[1]}"
    return error.partition(":")[0]


def _seconds(tier: str) -> float:
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    match = re.fullmatch(r"(\d+)(ms|s|m|h)", tier)
    return 0.0 if match is None else int(match[1]) * units[match[2]]


def _spaced(tier: str) -> str:
    return re.sub(r"(?<=\d)(?=[a-z])", " ", tier)


def _time(text: object) -> datetime:
    try:
        return datetime.fromisoformat(str(text)).astimezone(UTC)
    except ValueError:
        return datetime.now(UTC)
