"""What happens in the demonstration: a day's handful of events, and how each has to end."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal

from simulators.dialer.world import DialerCall

Envelope = Literal["plain", "structured", "binary", "broken"]
"""How a producer wraps an event: plain JSON, CloudEvents in either mode, or something that is no JSON."""

RETRY_DELAYS: Final = ("1s", "2s")
READY_WITHIN: Final = "6s"
"""Short, so that nobody has to wait; a call that is not ready is then asked about each second."""

_TIERS = tuple(f"retry.{delay}" for delay in RETRY_DELAYS)
QUEUES: Final = ("call-ended", "agent-onboarded", "dead-letters", "dialer", *_TIERS)
EXCHANGES: Final = ("events", "work", "dead-letters", *_TIERS)
"""What the worker declares on a broker, each behind the namespace: to be deleted from one that was given."""

RETRY_AFTER: Final = 1
"""The seconds that the CRM asks for with a 429."""

_STATUSES_OVER = ((0.0, "not_found"), (0.5, "log_not_found"), (2.0, "INCALL"), (4.0, "DISPO"), (5.5, "final"))
"""A call from dialling to its disposition, final before `READY_WITHIN` is over."""


@dataclass(frozen=True, slots=True)
class Message:
    """One AMQP message as a producer publishes it."""

    body: bytes
    routing_key: str
    content_type: str = "application/json"
    message_id: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Delivered:
    """The CRM has it. `shows` maps dotted paths of the payload's data to what must stand there."""

    shows: Mapping[str, Any] = field(default_factory=dict)
    remark: str = ""
    """What is worth a word in the table."""


@dataclass(frozen=True, slots=True)
class Dead:
    """It is in the dead letters, for this reason."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One event: what it is in words, how it is published, and how it has to end.

    `call` is what the dialer gets to know of it at the moment of publishing. `happened` is when, if that is
    not now: the recorded calls are those of one evening, and a call id is used again in other years.
    `crm_says` are the statuses that the CRM answers first, before it accepts. `published` is how often the
    producer sends it.
    """

    what: str
    kind: Literal["call", "agent"]
    subject: str
    event_id: str
    ending: Delivered | Dead
    fields: Mapping[str, Any] = field(default_factory=dict)
    envelope: Envelope = "plain"
    call: Callable[[datetime], DialerCall] | None = None
    happened: datetime | None = None
    crm_says: tuple[int, ...] = ()
    published: int = 1
    dialect: Literal["real", "tutorial"] = "real"

    @property
    def event_type(self) -> str:
        """The event's type, which is its routing key too."""
        return "call.ended" if self.kind == "call" else "agent.onboarded"

    @property
    def who(self) -> str:
        """The call or agent, in few enough letters for a sentence."""
        if self.envelope == "broken":
            return f"message {self.event_id}"
        short = self.subject if len(self.subject) <= 10 else f"{self.subject[:10]}…"
        return f"{self.kind} {short}"

    def message(self, now: datetime) -> Message:
        """Return the message about something that happened now, or at its own time."""
        time = (self.happened or now).isoformat(timespec="milliseconds")
        key = "call_id" if self.kind == "call" else "agent_user"
        data = {key: self.subject} | dict(self.fields)
        match self.envelope:
            case "plain":
                whole = {"type": self.event_type, "event_id": self.event_id, "occurred_at": time} | data
                return Message(_json(whole), self.event_type)
            case "structured":
                outer = self._attributes(time) | {"data": data}
                return Message(_json(outer), self.event_type, "application/cloudevents+json")
            case "binary":
                headers = {f"cloudEvents:{name}": value for name, value in self._attributes(time).items()}
                return Message(_json(data), self.event_type, headers=headers)
            case "broken":
                body = f"call_id={self.subject};status=SALE".encode()
                return Message(body, self.event_type, "text/plain", self.event_id)

    def _attributes(self, time: str) -> dict[str, str]:
        return {
            "specversion": "1.0",
            "id": self.event_id,
            "source": "/telephony/demo",
            "type": self.event_type,
            "time": time,
        }


_RECORDED: Final = datetime(2026, 11, 20, 23, tzinfo=UTC)


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode()


def _still_on(now: datetime) -> DialerCall:
    return DialerCall(
        call_id="M1202130000000012346",
        talk_seconds=60,
        call_date=f"{now:%Y-%m-%d %H:%M:%S}",
        phone="3125551213",
        call_type="OUTBOUND_MANUAL",
        schedule=_STATUSES_OVER,
    )


def _transferred(_: datetime) -> DialerCall:
    return DialerCall(
        call_id="Y1202141000000012346",
        talk_seconds=95,
        call_date="2026-11-20 22:14:10",
        phone="3125551213",
        call_type="INBOUND",
        campaign_id="SUPPORTLINE",
        user="1001",
    )


CASES: Final[tuple[Case, ...]] = (
    Case(
        what="outbound call, sold",
        kind="call",
        subject="V1201405090000012345",
        event_id="demo-01",
        happened=_RECORDED,
        fields={"uniqueid": "1795269909.101", "lead_id": 12345, "agent_user": "1000"},
        ending=Delivered({"call.direction": "outbound", "call.status": "SALE", "call.talk_seconds": 120}),
    ),
    Case(
        what="call still going on",
        kind="call",
        subject="M1202130000000012346",
        event_id="demo-02",
        call=_still_on,
        ending=Delivered({"final": True, "call.status": "SALE", "call.talk_seconds": 60}),
    ),
    Case(
        what="call nobody knows",
        kind="call",
        subject="V1209999990000099999",
        event_id="demo-03",
        ending=Dead("not_found"),
    ),
    Case(
        what="inbound call, sold",
        kind="call",
        subject="Y1201405110000012345",
        event_id="0d3e0000-0000-4000-8000-000000000004",
        happened=_RECORDED,
        envelope="structured",
        ending=Delivered({"call.direction": "inbound", "call.in_group_id": "SALESLINE"}),
    ),
    Case(
        what="agent onboarded",
        kind="agent",
        subject="1000",
        event_id="0d3e0000-0000-4000-8000-000000000005",
        envelope="binary",
        fields={"expected_campaigns": ["SALES1", "RENEW_24"]},
        ending=Delivered({"access_check.ok": True}, "access ok"),
    ),
    Case(
        what="dropped, no agent",
        kind="call",
        subject="V1201406070000012346",
        event_id="demo-06",
        happened=_RECORDED,
        ending=Delivered({"call.status": "DROP", "call.agent_user": None}),
    ),
    Case(
        what="manual call, sold",
        kind="call",
        subject="M1201407010000012347",
        event_id="demo-07",
        happened=_RECORDED,
        crm_says=(503,),
        ending=Delivered({"call.call_type": "OUTBOUND_MANUAL"}, "2nd try"),
    ),
    Case(
        what="agent onboarded",
        kind="agent",
        subject="1006",
        event_id="demo-08",
        fields={"expected_campaigns": ["SALES1", "OUTONLY"]},
        ending=Delivered(
            {"access_check.ok": False, "access_check.missing": ["SALES1"]},
            "no SALES1",
        ),
    ),
    Case(
        what="transferred, sold",
        kind="call",
        subject="Y1202141000000012346",
        event_id="demo-09",
        happened=_RECORDED,
        call=_transferred,
        crm_says=(429,),
        ending=Delivered({"call.in_group_id": "SUPPORTLINE", "call.agent_user": "1001"}, "2nd try"),
    ),
    Case(
        what="agent, no campaigns",
        kind="agent",
        subject="1003",
        event_id="demo-10",
        ending=Delivered({"agent.campaigns": []}),
    ),
    Case(
        what="call with a wrong id",
        kind="call",
        subject="K1201405090000012345",
        event_id="demo-11",
        ending=Dead("rejected_by_dialer"),
    ),
    Case(
        what="not even JSON",
        kind="call",
        subject="V1201406090000012346",
        event_id="demo-12",
        envelope="broken",
        ending=Dead("invalid_event"),
    ),
    Case(
        what="call the CRM refuses",
        kind="call",
        subject="V1201406090000012346",
        event_id="demo-13",
        happened=_RECORDED,
        crm_says=(422,),
        ending=Dead("rejected_by_sink"),
    ),
    Case(
        what="call published twice",
        kind="call",
        subject="M1201407000000012347",
        event_id="demo-14",
        happened=_RECORDED,
        published=2,
        ending=Delivered({"call.status": "SALE"}, "once"),
    ),
    Case(
        what="tutorial-style call",
        kind="call",
        subject="1000012345",
        event_id="demo-15",
        dialect="tutorial",
        ending=Delivered({"call.status": "Answered", "call.duration_seconds": 210}),
    ),
    Case(
        what="tutorial-style agent",
        kind="agent",
        subject="agent001",
        event_id="demo-16",
        dialect="tutorial",
        fields={"expected_campaigns": ["Campaign1"]},
        ending=Delivered({"access_check.ok": True}, "access ok"),
    ),
)
"""What is published, in this order."""
