"""Every kind of payload fits what `crm-sync schema` promises, and the documented examples are met exactly."""

import json
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import ValidationError

from worker.core.events import Inbound, decode
from worker.core.payload import (
    AgentEnrichment,
    AgentRecord,
    CallEnrichment,
    CallRecord,
    Campaign,
    Enrichment,
    Recording,
    schemas,
)
from worker.core.pipeline import build_payload

NEW_YORK = ZoneInfo("America/New_York")
CALL_EVENT = {
    "type": "call.ended",
    "event_id": "9f1c",
    "occurred_at": "2026-11-20T14:07:14-05:00",
    "call_id": "V1201405090000012345",
    "uniqueid": "1795269909.101",
    "lead_id": 12345,
    "agent_user": "1000",
    "campaign_id": "SALES1",
}
AGENT_EVENT = {
    "type": "agent.onboarded",
    "event_id": "7a2b",
    "occurred_at": "2026-11-20T14:07:14-05:00",
    "agent_user": "agent001",
    "expected_campaigns": ["SALES1"],
}
NO_EXPECTATION = {name: value for name, value in AGENT_EVENT.items() if name != "expected_campaigns"}

REAL = CallEnrichment(
    call=CallRecord(
        call_id="V1201405090000012345",
        direction="outbound",
        call_type="OUTBOUND_AUTO",
        started_at=datetime(2026, 11, 20, 14, 5, 9, tzinfo=NEW_YORK),
        talk_seconds=120,
        agent_user="1000",
        phone_number="3125551212",
        status="SALE",
        campaign_id="SALES1",
        list_id="1001",
        recordings=(
            Recording(
                recording_id="1",
                file_name="20261120-140515_3125551212-all.mp3",
                url="http://dialer.example/RECORDINGS/20261120-140515_3125551212-all.mp3",
                started_at=datetime(2026, 11, 20, 14, 5, 15, tzinfo=NEW_YORK),
                duration_seconds=120,
            ),
        ),
    )
)
INBOUND = CallEnrichment(
    call=CallRecord(
        call_id="Y1", direction="inbound", call_type="INBOUND", in_group_id="SALESLINE", recordings=()
    ),
    final=False,
)
TUTORIAL = CallEnrichment(
    call=CallRecord(
        call_id="V1",
        direction="outbound",
        started_at=datetime(2026, 11, 20, 14, 5, 9, tzinfo=UTC),
        ended_at=datetime(2026, 11, 20, 14, 7, 9, tzinfo=UTC),
        duration_seconds=120,
        agent_user="1000",
        status="SALE",
        recordings=(Recording(file_name="V1.mp3"),),
    )
)
BARE = CallEnrichment(call=CallRecord(call_id="V1", talk_seconds=3))
AGENT = AgentEnrichment(
    agent=AgentRecord(
        agent_user="agent001",
        campaigns=(Campaign(campaign_id="SALES1", name="Sales one"),),
        in_groups=("SALESLINE",),
    ),
    campaigns_text="SALES1",
)
FULL_AGENT = AgentEnrichment(
    agent=AgentRecord(
        agent_user="agent001",
        full_name="Agnes",
        access_level=1,
        user_group="AGENTS",
        campaigns=(Campaign(campaign_id="EU"), Campaign(campaign_id="1")),
        campaigns_ambiguous=True,
    ),
    campaigns_text="EU-1",
)
NO_CAMPAIGNS = AgentEnrichment(agent=AgentRecord(agent_user="agent001"))

formats = FormatChecker(formats=())


@formats.checks("date-time", raises=ValueError)
def is_date_time(value: object) -> bool:
    """Insist on RFC 3339 with an offset (`jsonschema` needs a further package to do so by itself)."""
    return not isinstance(value, str) or datetime.fromisoformat(value).tzinfo is not None


def payload_of(event: dict[str, Any], enrichment: Enrichment) -> dict[str, Any]:
    """Return the payload as its receiver reads it."""
    inbound = Inbound(json.dumps(event).encode(), "", datetime(2027, 1, 1, tzinfo=UTC), {})
    payload: dict[str, Any] = json.loads(build_payload(decode(inbound), enrichment).body)
    return payload


def check(payload: dict[str, Any]) -> None:
    """Hold a payload against the schema of its type, which must name each of its fields."""
    Draft202012Validator(closed(schemas()[payload["type"]]), format_checker=formats).validate(payload)


def closed(schema: Any) -> Any:  # noqa: ANN401 - any part of a JSON Schema
    """Let a schema allow no field that it doesn't name."""
    if isinstance(schema, dict):
        more = {"additionalProperties": False} if "properties" in schema else {}
        return {name: closed(part) for name, part in schema.items()} | more
    return [closed(each) for each in schema] if isinstance(schema, list) else schema


# --- the examples of the design, section 5 --------------------------------------------------------


def test_the_call_payload_is_exactly_the_documented_one() -> None:
    assert payload_of(CALL_EVENT, REAL) == {
        "type": "call.enriched",
        "timestamp": "2026-11-20T19:07:14Z",
        "data": {
            "event_id": "9f1c",
            "final": True,
            "call": {
                "call_id": "V1201405090000012345",
                "direction": "outbound",
                "call_type": "OUTBOUND_AUTO",
                "started_at": "2026-11-20T14:05:09-05:00",
                "ended_at": None,
                "talk_seconds": 120,
                "duration_seconds": None,
                "agent_user": "1000",
                "phone_number": "3125551212",
                "status": "SALE",
                "campaign_id": "SALES1",
                "in_group_id": None,
                "list_id": "1001",
                "lead_id": "12345",
                "recordings": [
                    {
                        "recording_id": "1",
                        "file_name": "20261120-140515_3125551212-all.mp3",
                        "url": "http://dialer.example/RECORDINGS/20261120-140515_3125551212-all.mp3",
                        "started_at": "2026-11-20T14:05:15-05:00",
                        "duration_seconds": 120,
                    }
                ],
            },
            "event": CALL_EVENT,
        },
    }


def test_the_agent_payload_is_exactly_the_documented_one() -> None:
    assert payload_of(AGENT_EVENT, AGENT) == {
        "type": "agent.enriched",
        "timestamp": "2026-11-20T19:07:14Z",
        "data": {
            "event_id": "7a2b",
            "agent": {
                "agent_user": "agent001",
                "full_name": None,
                "access_level": None,
                "user_group": None,
                "campaigns": [{"campaign_id": "SALES1", "name": "Sales one"}],
                "in_groups": ["SALESLINE"],
                "campaigns_ambiguous": False,
            },
            "access_check": {"ok": True, "missing": [], "unexpected": []},
            "event": AGENT_EVENT,
        },
    }


def test_members_stand_in_the_documented_order() -> None:
    payload = payload_of(AGENT_EVENT, AGENT)
    assert list(payload) == ["type", "timestamp", "data"]
    assert list(payload["data"]) == ["event_id", "agent", "access_check", "event"]
    assert list(payload_of(CALL_EVENT, REAL)["data"]) == ["event_id", "final", "call", "event"]


# --- every kind of payload ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "enrichment"),
    [
        (CALL_EVENT, REAL),
        (CALL_EVENT, INBOUND),
        (CALL_EVENT, TUTORIAL),
        (CALL_EVENT, BARE),
        (AGENT_EVENT, AGENT),
        (AGENT_EVENT, FULL_AGENT),
        (AGENT_EVENT, NO_CAMPAIGNS),
        (NO_EXPECTATION, AGENT),
        ({**AGENT_EVENT, "expected_campaigns": []}, AGENT),
    ],
    ids=[
        "real dialect",
        "inbound, not final",
        "tutorial dialect",
        "bare row",
        "agent",
        "agent in full",
        "no campaigns",
        "no expectation",
        "none expected",
    ],
)
def test_each_kind_of_payload_fits_its_schema(event: dict[str, Any], enrichment: Enrichment) -> None:
    check(payload_of(event, enrichment))


WHENS = st.none() | st.datetimes(timezones=st.sampled_from([UTC, NEW_YORK]))
TEXTS = st.none() | st.text()
CALLS = st.builds(
    CallRecord,
    call_id=st.text(),
    direction=st.sampled_from([None, "inbound", "outbound"]),
    call_type=TEXTS,
    started_at=WHENS,
    ended_at=WHENS,
    talk_seconds=st.none() | st.integers(),
    recordings=st.none() | st.lists(st.builds(Recording, url=TEXTS, started_at=WHENS), max_size=2).map(tuple),
)


@given(st.builds(CallEnrichment, call=CALLS, final=st.booleans()))
def test_whatever_the_dialer_said_of_a_call_fits_the_schema(enrichment: CallEnrichment) -> None:
    check(payload_of(CALL_EVENT, enrichment))


@pytest.mark.parametrize("kind", ["call.enriched", "agent.enriched"])
def test_each_schema_is_a_schema_and_refuses_what_is_no_payload(kind: str) -> None:
    schema = schemas()[kind]
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    good = payload_of(CALL_EVENT, REAL) if kind == "call.enriched" else payload_of(AGENT_EVENT, AGENT)
    for bad in (
        {**good, "timestamp": "yesterday"},
        {**good, "timestamp": "2026-11-20T19:07:14"},
        {name: value for name, value in good.items() if name != "data"},
        {**good, "data": {**good["data"], "event_id": 5}},
        {**good, "data": {**good["data"], "event": []}},
    ):
        with pytest.raises(ValidationError):
            Draft202012Validator(schema, format_checker=formats).validate(bad)


@pytest.mark.parametrize("kind", ["call.enriched", "agent.enriched"])
def test_a_receiver_that_validates_takes_the_fields_that_a_later_version_adds(kind: str) -> None:
    payload = payload_of(CALL_EVENT, REAL) if kind == "call.enriched" else payload_of(AGENT_EVENT, AGENT)
    payload |= {"more": 1, "data": payload["data"] | {"more": {}}}
    Draft202012Validator(schemas()[kind], format_checker=formats).validate(payload)
    with pytest.raises(ValidationError):
        check(payload)


def test_every_type_of_payload_has_a_schema() -> None:
    assert set(schemas()) == {"call.enriched", "agent.enriched"}
