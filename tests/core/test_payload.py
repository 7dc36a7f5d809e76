"""The payload: what of the event and of the enrichment goes where."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from unittest.mock import ANY

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.events import Event, EventType, Inbound, decode
from worker.core.payload import (
    AccessCheck,
    AgentEnrichment,
    AgentRecord,
    CallEnrichment,
    CallRecord,
    Campaign,
    check_access,
)
from worker.core.pipeline import build_payload, unknown_call

WHEN = datetime(2026, 11, 20, 19, 7, 14, tzinfo=UTC)
CALL = Event(EventType.CALL_ENDED, "e1", WHEN, "V1", {"call_id": "V1"})
AGENT = Event(EventType.AGENT_ONBOARDED, "e2", WHEN, "a1", {"agent_user": "a1"})
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)


def call(**known: Any) -> CallEnrichment:  # noqa: ANN401 - what a CallRecord has
    """Make the enrichment of a call."""
    return CallEnrichment(call=CallRecord(**{"call_id": "V1", **known}))


def agent(*campaigns: str, text: str | None = None) -> AgentEnrichment:
    """Make the enrichment of an agent; with a text, as the real dialer writes its list, not resolved."""
    has = tuple(Campaign(campaign_id=name) for name in campaigns)
    record = AgentRecord(agent_user="a1", campaigns=has, campaigns_ambiguous="-" in (text or ""))
    return AgentEnrichment(agent=record, campaigns_text=text)


def test_the_id_of_a_payload_is_that_of_the_event() -> None:
    payload = build_payload(CALL, call())
    assert (payload.id, payload.type) == ("e1", "call.enriched")
    payload = build_payload(AGENT, agent())
    assert (payload.id, payload.type) == ("e2", "agent.enriched")


@pytest.mark.parametrize(
    ("said", "answered", "expected"),
    [("12345", None, "12345"), ("12345", "777", "12345"), (None, "777", "777"), (None, None, None)],
)
def test_the_lead_is_the_events_and_else_the_dialers(
    said: str | None, answered: str | None, expected: str | None
) -> None:
    event = Event(EventType.CALL_ENDED, "e1", WHEN, "V1", {}, lead_id=said)
    payload = build_payload(event, call(lead_id=answered))
    assert json.loads(payload.body)["data"]["call"]["lead_id"] == expected


STARTED = datetime(2026, 11, 20, 14, 5, 9, tzinfo=timezone(timedelta(hours=-5)))
ENDED = datetime(2026, 11, 20, 19, 7, 14, tzinfo=UTC)


@pytest.mark.parametrize(
    ("answered", "said", "ended_at", "duration"),
    [
        ({"started_at": STARTED}, ENDED, "2026-11-20T19:07:14Z", 125),
        ({"started_at": STARTED}, None, None, None),
        ({}, ENDED, "2026-11-20T19:07:14Z", None),
        ({"started_at": ENDED}, STARTED, "2026-11-20T14:05:09-05:00", None),
        (
            {"started_at": STARTED, "ended_at": STARTED, "duration_seconds": 0},
            ENDED,
            "2026-11-20T19:07:14Z",
            125,
        ),
        (
            {"started_at": STARTED, "ended_at": STARTED, "duration_seconds": 0},
            None,
            "2026-11-20T14:05:09-05:00",
            0,
        ),
        ({"duration_seconds": 9}, ENDED, "2026-11-20T19:07:14Z", 9),
        ({"started_at": datetime.min.replace(tzinfo=UTC)}, datetime.max.replace(tzinfo=UTC), ANY, ANY),
    ],
    ids=[
        "both",
        "not said",
        "no start",
        "before the start",
        "both say it",
        "the dialer knows",
        "unknown zone",
        "all of time",
    ],
)
def test_the_end_is_the_events_own_and_else_the_dialers_and_never_guessed(
    answered: dict[str, Any], said: datetime | None, ended_at: str | None, duration: int | None
) -> None:
    event = Event(EventType.CALL_ENDED, "e1", WHEN, "V1", {}, ended_at=said)
    found = json.loads(build_payload(event, call(**answered)).body)["data"]["call"]
    assert (found["ended_at"], found["duration_seconds"]) == (ended_at, duration)


def test_a_call_that_the_dialer_does_not_know_holds_what_the_event_said() -> None:
    said = {
        "call_id": "V1",
        "agent_user": 1000,
        "campaign_id": "SALES1",
        "phone_number": "3125551212",
        "status": "",
        "list_id": True,
        "in_group_id": ["x"],
        "lead_id": 7,
        "ended_at": "2026-11-20T14:07:14-05:00",
    }
    event = decode(Inbound(json.dumps(said).encode(), "call.ended", WHEN, {}))
    data = json.loads(build_payload(event, unknown_call(event)).body)["data"]
    known = {name: value for name, value in data["call"].items() if value is not None}
    assert (data["enrichment"], data["final"], data["event"]) == ("not_found", False, said)
    assert known == {
        "call_id": "V1",
        "agent_user": "1000",
        "campaign_id": "SALES1",
        "phone_number": "3125551212",
        "lead_id": "7",
        "ended_at": "2026-11-20T14:07:14-05:00",
    }


@pytest.mark.parametrize("nobody", ["VDAD", "VDCL", "vdad", "", " ", 0, "undefined", "null", "None", "N/A"])
def test_nobody_is_no_agent_of_a_call_that_the_dialer_does_not_know(nobody: object) -> None:
    event = decode(
        Inbound(json.dumps({"call_id": "V1", "agent_user": nobody}).encode(), "call.ended", WHEN, {})
    )
    data = json.loads(build_payload(event, unknown_call(event)).body)["data"]
    assert (data["call"]["agent_user"], data["event"]["agent_user"]) == (None, nobody)


def test_placeholders_and_fractions_of_a_call_that_the_dialer_does_not_know_are_not_delivered() -> None:
    said = {
        "call_id": "V1",
        "agent_user": 1000.0,
        "campaign_id": "undefined",
        "in_group_id": "null",
        "list_id": "1001.0",
        "lead_id": "undefined",
        "phone_number": 3125551212.0,
        "status": "NA",
    }
    event = decode(Inbound(json.dumps(said).encode(), "call.ended", WHEN, {}))
    data = json.loads(build_payload(event, unknown_call(event)).body)["data"]
    known = {name: value for name, value in data["call"].items() if value is not None}
    assert known == {
        "call_id": "V1",
        "agent_user": "1000",
        "list_id": "1001",
        "phone_number": "3125551212",
        "status": "NA",  # one of VICIdial's own: not answered
    }


def test_a_call_that_was_found_says_nothing_of_the_enrichment() -> None:
    assert "enrichment" not in json.loads(build_payload(CALL, call()).body)["data"]


OPTIONAL = ("lead_id", "uniqueid", "agent_user", "campaign_id", "ended_at")


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_the_event_is_passed_on_as_its_producer_wrote_it(extra: dict[str, Any]) -> None:
    body = {**extra, "type": "call.ended", "event_id": "e1", "occurred_at": None, "call_id": "V1"}
    body = {name: value for name, value in body.items() if name not in OPTIONAL}
    event = decode(Inbound(json.dumps(body).encode(), "", WHEN, {}))
    assert json.loads(build_payload(event, call()).body)["data"]["event"] == body


def test_so_is_the_largest_number_and_the_deepest_nesting_that_is_read() -> None:
    raw = b'{"call_id": "V1", "n": ' + b"9" * 4000 + b', "x": ' + b"[" * 99 + b"]" * 99 + b"}"
    event = decode(Inbound(raw, "call.ended", WHEN, {}))
    assert json.loads(build_payload(event, call()).body)["data"]["event"] == json.loads(raw)


def test_the_same_event_and_enrichment_give_the_same_bytes() -> None:
    assert build_payload(CALL, call(status="SALE")) == build_payload(CALL, call(status="SALE"))


# --- the access check -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "has", "text", "check"),
    [
        (("A",), ("A",), None, (True, (), ())),
        (("A", "B"), ("A",), None, (False, ("B",), ())),
        (("A",), ("A", "B"), None, (True, (), ("B",))),
        (("A",), ("B",), None, (False, ("A",), ("B",))),
        ((), ("A",), None, (True, (), ("A",))),
        ((), (), None, (True, (), ())),
        (("A",), (), None, (False, ("A",), ())),
        (("A", "A"), ("A",), None, (True, (), ())),
        (("a",), ("A",), None, (False, ("a",), ("A",))),
        # The dialer joins its list with dashes, which a campaign's id may hold too.
        (("EU-1",), ("EU", "1"), "EU-1", (True, (), ())),
        (("EU-1", "A"), ("EU", "1", "A"), "EU-1-A", (True, (), ())),
        (("EU-1",), ("EU", "1", "A"), "EU-1-A", (True, (), ("A",))),
        (("EU", "1"), ("EU", "1"), "EU-1", (True, (), ())),
        (("U-1",), ("EU", "1"), "EU-1", (False, ("U-1",), ("EU", "1"))),
        (("EU-1",), ("EU", "1"), None, (False, ("EU-1",), ("EU", "1"))),
        (("EU-1",), ("EU-1", "EU"), None, (True, (), ("EU",))),
        (("A",), (), "", (False, ("A",), ())),
    ],
)
def test_the_access_check_compares_what_is_with_what_was_expected(
    expected: tuple[str, ...],
    has: tuple[str, ...],
    text: str | None,
    check: tuple[bool, tuple[str, ...], tuple[str, ...]],
) -> None:
    ok, missing, unexpected = check
    assert check_access(expected, agent(*has, text=text)) == AccessCheck(
        ok=ok, missing=missing, unexpected=unexpected
    )


def test_a_list_that_was_resolved_is_taken_at_its_word() -> None:
    record = AgentRecord(agent_user="a1", campaigns=(Campaign(campaign_id="EU-1"),))
    resolved = AgentEnrichment(agent=record, campaigns_text="EU-1")
    assert check_access(("EU", "EU-1"), resolved) == AccessCheck(ok=False, missing=("EU",), unexpected=())


NAMES = st.lists(st.text("AB1-", min_size=1, max_size=4), max_size=5, unique=True)


@given(NAMES, NAMES)
def test_access_is_in_order_exactly_where_nothing_is_missing(expected: list[str], has: list[str]) -> None:
    check = check_access(tuple(expected), agent(*has))
    assert check.ok is (not check.missing)
    assert set(check.missing) == set(expected) - set(has)
    assert set(check.unexpected) == set(has) - set(expected)


def test_without_expectations_there_is_no_access_check() -> None:
    assert "access_check" not in json.loads(build_payload(AGENT, agent("A")).body)["data"]
