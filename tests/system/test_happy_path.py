"""Events of every kind arrive, enriched, where they should."""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from tests.system.harness import Program, System, eventually

pytestmark = pytest.mark.system

SECRET = "whsec_" + base64.b64encode(b"a key of at least 24 bytes").decode()
CALL_ID = "V1201405090000012345"


def payload_of(received: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(received["body"])
    return found


async def test_a_call_reaches_the_webhook_enriched_and_signed(system: System) -> None:
    await system.crm.control(secret=SECRET)
    worker = await system.start(sink__signing_secret=SECRET)
    event = await system.call(talk_seconds=120, phone="3125551212")
    event |= {"lead_id": 12345, "extra": {"kept": [1, 2]}}
    await system.publish(event)
    (received,) = (await system.delivered())[event["event_id"]]
    assert received["verified"]
    assert received["status"] == 200
    headers = received["headers"]
    assert headers["webhook-id"] == headers["idempotency-key"] == event["event_id"]
    assert headers["content-type"] == "application/json"
    signed = f"{event['event_id']}.{headers['webhook-timestamp']}.{received['body']}".encode()
    digest = hmac.digest(b"a key of at least 24 bytes", signed, hashlib.sha256)
    assert headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()

    payload = payload_of(received)
    assert payload["type"] == "call.enriched"
    assert payload["data"]["event_id"] == event["event_id"]
    assert payload["data"]["final"] is True
    assert payload["data"]["event"] == event
    call = payload["data"]["call"]
    assert (call["call_id"], call["talk_seconds"], call["status"]) == (event["call_id"], 120, "SALE")
    assert (call["direction"], call["phone_number"], call["lead_id"]) == ("outbound", "3125551212", "12345")
    began = datetime.fromisoformat(call["started_at"])
    assert f"{began:%d%H%M%S}" == event["call_id"][2:10]
    ended = datetime.fromisoformat(call["ended_at"])
    assert (ended - began, call["duration_seconds"]) == (timedelta(seconds=120), 120)

    (line,) = worker.settled()
    assert (line["outcome"], line["event_id"], line["call_id"]) == (
        "delivered",
        event["event_id"],
        event["call_id"],
    )
    assert "3125551212" not in worker.text
    status = await worker.status()
    assert (status["consuming"], status["counts"]["delivered"], status["in_flight"]) == (True, 1, 0)
    assert (
        'crm_sync_events_settled_total{event_type="call.ended",outcome="delivered"} 1.0'
        in (await worker.get("/metrics"))[1]
    )
    assert (await worker.get("/livez"))[0] == 200
    assert await worker.stop() == 0


async def test_an_onboarding_is_checked_against_the_campaigns_expected(system: System) -> None:
    worker = await system.start(vicidial__ready_within="1s")
    event = {"event_id": "onboarding-1", "agent_user": "1000", "expected_campaigns": ["SALES1", "NOPE"]}
    await system.publish(event, "agent.onboarded")
    (received,) = (await system.delivered())["onboarding-1"]
    data = payload_of(received)["data"]
    named = [
        {"campaign_id": "RENEW_24", "name": "Renewals 2024"},
        {"campaign_id": "SALES1", "name": "Sales one"},
    ]
    assert data["agent"] == {
        "agent_user": "1000",
        "full_name": "Agent Thousand",
        "access_level": 1,
        "user_group": "SALES",
        "campaigns": named,
        "in_groups": ["AGENTDIRECT", "AGENTDIRECT_CHAT", "SALESLINE", "SUPPORTLINE", "RENEW_IN"],
        "campaigns_ambiguous": False,
    }
    assert data["access_check"] == {"ok": False, "missing": ["NOPE"], "unexpected": ["RENEW_24"]}
    assert {line["reason"] for line in worker.settled("retry")} == {"not_assigned"}


async def test_a_campaign_that_is_assigned_in_time_is_waited_for(system: System) -> None:
    worker = await system.start()
    await system.publish(
        {"event_id": "onboarding-2", "agent_user": "1000", "expected_campaigns": ["SUPP-1"]},
        "agent.onboarded",
    )
    await eventually(lambda: worker.settled("retry"))
    await system.dialer.control(agents={"1000": {"campaigns": ["SUPP-1", "SALES1"]}})
    (received,) = (await system.delivered())["onboarding-2"]
    check = payload_of(received)["data"]["access_check"]
    assert check == {"ok": True, "missing": [], "unexpected": ["SALES1"]}


async def test_all_three_envelopes_are_understood(system: System) -> None:
    await system.start()
    data = {"call_id": (await system.call())["call_id"]}
    when = datetime.now(UTC).replace(microsecond=0)
    time = when.astimezone(timezone(timedelta(hours=-5))).isoformat()
    attributes = {"specversion": "1.0", "type": "call.ended"}
    structured = attributes | {"id": "ce-1", "data": data, "time": time}
    await system.publish(
        json.dumps(structured).encode(), "call.ended", content_type="application/cloudevents+json"
    )
    for prefix in ("cloudEvents:", "ce-"):
        headers = {prefix + name: value for name, value in (attributes | {"id": prefix + "1"}).items()}
        await system.publish(json.dumps(data).encode(), headers=headers)
    await system.publish(json.dumps(data).encode(), message_id="by-message-id")
    found = await system.delivered("ce-1", "cloudEvents:1", "ce-1", "by-message-id")
    assert payload_of(found["ce-1"][0])["timestamp"] == f"{when:%Y-%m-%dT%H:%M:%SZ}"
    for deliveries in found.values():
        assert payload_of(deliveries[0])["data"]["event"] == data


async def test_cloud_events_of_two_sources_with_the_same_id_are_delivered_as_two_events(
    system: System,
) -> None:
    await system.start()
    for source in ("/pbx-1", "/pbx-2", "/pbx-1"):
        event = {
            "specversion": "1.0",
            "type": "call.ended",
            "id": "17",
            "source": source,
            "time": "2026-11-20t19:07:14z",
            "data": {"call_id": CALL_ID},
            "data_base64": None,
        }
        await system.publish(json.dumps(event).encode(), content_type="application/cloudevents+json")
    ids = ("86b8f7bf-a33e-5e52-9418-84f6de74cd3e", "a9f40296-4971-5268-af09-249900c099a0")
    found = await system.delivered(*ids)
    assert set(found) == set(ids)
    for name, deliveries in found.items():
        for request in deliveries:
            assert request["headers"]["idempotency-key"] == name
            assert payload_of(request)["timestamp"] == "2026-11-20T19:07:14Z"


async def test_the_queue_sink(system: System) -> None:
    await system.start(sink__kind="queue", sink__url=None)
    event = await system.call()
    await system.publish(event)
    message = await system.take("enriched")
    assert (message.message_id, message.type) == (event["event_id"], "call.enriched")
    assert (message.routing_key, message.content_type) == ("call.enriched", "application/json")
    assert message.delivery_mode == 2
    assert json.loads(message.body)["data"]["event"] == event
    await system.publish({"event_id": "a", "agent_user": "1000"}, "agent.onboarded")
    assert (await system.take("enriched")).routing_key == "agent.enriched"


@pytest.mark.parametrize("separator", ["|", ","])
async def test_the_tutorials_dialect(system: System, separator: str) -> None:
    dialer = Program("dialer", "--dialect", "tutorial", "--separator", separator)
    try:
        await system.start(vicidial__url=dialer.url, vicidial__timezone="America/New_York")
        await system.publish({"event_id": "t-1", "call_id": "1000012345"})
        await system.publish({"event_id": "t-2", "agent_user": "agent001"}, "agent.onboarded")
        found = await system.delivered()
        call = payload_of(found["t-1"][0])["data"]["call"]
        assert (call["status"], call["duration_seconds"], call["talk_seconds"]) == ("Answered", 210, None)
        assert call["started_at"] == "2024-02-15T10:15:00-05:00"
        assert [each["file_name"] for each in call["recordings"]] == ["rec_1000012345.wav"]
        agent = payload_of(found["t-2"][0])["data"]["agent"]
        assert agent["campaigns"] == [
            {"campaign_id": "Campaign1", "name": "Outbound Sales"},
            {"campaign_id": "Campaign2", "name": "Inbound Support"},
        ]
    finally:
        dialer.end()


async def test_the_post_method(system: System) -> None:
    await system.start(vicidial__method="POST")
    event = await system.call()
    await system.publish(event)
    await system.delivered()
    requests = (await system.dialer.report())["requests"]
    assert {each["method"] for each in requests if each["subject"] == event["call_id"]} == {"POST"}


async def test_a_thousand_events_arrive_once_each(system: System) -> None:
    system.dialer = Program("dialer")  # one that has counted nothing yet
    try:
        worker = await system.start()
        events = await system.calls(1000)
        await system.publish_all(events)
        await eventually(lambda: len(worker.settled()) == 1000, 90)
        assert (await system.dialer.report())["max_concurrent"] <= 8
    finally:
        system.dialer.end()
    report = await system.crm.report()
    assert report["by_id"] == {event["event_id"]: 1 for event in events}
    await system.nothing_dead()
