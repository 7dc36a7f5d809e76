"""What happens when: a named test for each fault of the design's table."""

import asyncio
import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import aio_pika
import pytest

from tests.system.harness import Program, System, Worker, call_ended, eventually

pytestmark = pytest.mark.system

LARGE = json.dumps({"call_id": "V1201405090000012345", "filler": "x" * 1024 * 1024}).encode()
INVALID = {
    "not JSON": (b"{not json", "not JSON"),
    "empty": (b"", "not JSON"),
    "bytes that are no text": (bytes(range(256)), "not UTF-8"),
    "an array": (b"[1]", "an array"),
    "over 1 MiB": (LARGE, "the limit is"),
    "no call id": (b'{"event_id": "no-call"}', "call_id"),
    "a wrong type": (b'{"call_id": ["V1"]}', "call_id"),
    "an empty id": (b'{"call_id": ""}', "call_id"),
    "a time that can't be read": (b'{"call_id": "V1", "occurred_at": "yesterday"}', "occurred_at"),
    "an unknown type": (b'{"type": "call.begun", "call_id": "V1"}', "unknown event type"),
    "an id that no header can carry": (b'{"event_id": "a\\r\\nb", "call_id": "V1"}', "event_id"),
    "half of a surrogate pair": (b'{"call_id": "V1", "x": "\\ud800"}', "surrogate"),
    "nested too deep": (b'{"call_id": "V1", "x": ' + b"[" * 5000 + b"]" * 5000 + b"}", "deep"),
}
UNREADABLE = {
    "too few columns": "{id}|12|2026-11-20 14:05:09\n",
    "another id": "V9999999999999999999|12|2026-11-20 14:05:09|3125551212|OUTBOUND_AUTO|S|1|SALE|1000\n",
    "an unknown error": "ERROR: callid_info SOMETHING NEW: |secret|text|\n",
    "no row": "what?\n",
}


async def retried_then_delivered(system: System, worker: Worker, event: dict[str, Any], reason: str) -> None:
    """The event waits on the tiers while the fault stands, and is delivered once it is over."""
    await eventually(lambda: len(worker.settled("retry")) >= 2)
    await system.dialer.control(fault=None, unplant=True)
    await system.crm.control(fault=None, script=[], fail_ids={})
    await system.delivered(event["event_id"])
    assert {line["reason"] for line in worker.settled("retry")} == {reason}
    await system.nothing_dead()


class TestTheEvent:
    async def test_an_invalid_one_is_dead_lettered_at_once_untouched(self, system: System) -> None:
        worker = await system.start()
        for body, _ in INVALID.values():
            await system.publish(body, message_id="m-1")
        await eventually(lambda: len(worker.settled()) == len(INVALID))
        found = {}
        for _ in INVALID:
            dead = await system.dead_letter()
            assert dead.headers["crm-sync-reason"] == "invalid_event"
            assert dead.headers["crm-sync-stage"] == "decode"
            assert dead.headers["crm-sync-attempt"] == 1
            assert dead.headers["crm-sync-routing-key"] == "call.ended"
            found[dead.body] = str(dead.headers["crm-sync-error"])
        for body, says in INVALID.values():
            assert says in found[body]
        served = await system.dialer.report()
        assert not any(each["subject"] == "V1" for each in served["requests"])

    async def test_a_valid_one_beside_them_is_delivered(self, system: System) -> None:
        await system.start()
        event = await system.call()
        await system.publish_all([b"{", event, b"}"])
        await system.delivered()

    async def test_an_id_that_the_dialer_would_change_is_not_asked_for(self, system: System) -> None:
        await system.start()
        await system.publish(call_ended(call_id="V120 1405090000012345"))
        dead = await system.dead_letter()
        assert dead.headers["crm-sync-reason"] == "rejected_by_dialer"
        asked = (await system.dialer.report())["requests"]
        assert not any("1405090000012345" in each["subject"] and " " in each["subject"] for each in asked)


class TestTheDialerKnowsNothingYet:
    async def test_not_found_is_looked_up_again_until_it_is_found(self, system: System) -> None:
        worker = await system.start(vicidial__ready_within="30s", retry__max_attempts="1")
        event = await system.call(schedule=[[0, "not_found"], [4, "log_not_found"], [9, "final"]])
        await system.publish(event)
        await system.delivered(within=60)
        retries = worker.settled("retry")
        assert len(retries) >= 2
        assert {(line["reason"], line["attempt"]) for line in retries} == {("not_found", 1)}

    async def test_not_found_for_good(self, system: System) -> None:
        worker = await system.start(
            vicidial__ready_within="3s", retry__delays="500ms,1s", retry__max_attempts="2"
        )
        event = call_ended()
        await system.publish(event)
        dead = await system.dead_letter()
        assert dead.headers["crm-sync-reason"] == "not_found"
        assert dead.headers["crm-sync-event-id"] == event["event_id"]
        assert "NOT FOUND" in str(dead.headers["crm-sync-error"])
        assert len(worker.settled("retry")) >= 3

    async def test_not_found_for_good_is_delivered_where_the_operator_wants_it(self, system: System) -> None:
        await system.start(vicidial__ready_within="500ms", vicidial__not_found="deliver")
        event = call_ended(agent_user=1000, lead_id=7, ended_at="2026-11-20T14:07:14-05:00")
        await system.publish(event)
        (received,) = (await system.delivered(event["event_id"]))[event["event_id"]]
        data = json.loads(received["body"])["data"]
        assert (data["enrichment"], data["final"], data["event"]) == ("not_found", False, event)
        known = {name: value for name, value in data["call"].items() if value is not None}
        assert known == {
            "call_id": event["call_id"],
            "agent_user": "1000",
            "lead_id": "7",
            "ended_at": "2026-11-20T14:07:14-05:00",
        }

    async def test_nobody_is_no_agent_of_a_call_that_is_delivered_as_not_found(self, system: System) -> None:
        await system.start(vicidial__ready_within="500ms", vicidial__not_found="deliver")
        event = call_ended(agent_user="VDAD", lead_id="undefined", status="NA")
        await system.publish(event)
        (received,) = (await system.delivered(event["event_id"]))[event["event_id"]]
        data = json.loads(received["body"])["data"]
        assert data["event"] == event
        known = {name: value for name, value in data["call"].items() if value is not None}
        assert known == {"call_id": event["call_id"], "status": "NA"}

    async def test_an_unknown_agent(self, system: System) -> None:
        await system.start(vicidial__ready_within="500ms")
        await system.publish({"event_id": "a-1", "agent_user": "nobody"}, "agent.onboarded")
        assert (await system.dead_letter()).headers["crm-sync-reason"] == "not_found"

    async def test_not_final_is_delivered_as_such_once_it_was_waited_for(self, system: System) -> None:
        worker = await system.start(vicidial__ready_within="1s", retry__max_attempts="1")
        event = await system.call(schedule=[[0, "INCALL"]])
        await system.publish(event)
        (received,) = (await system.delivered())[event["event_id"]]
        data = json.loads(received["body"])["data"]
        assert (data["final"], data["call"]["status"]) == (False, "INCALL")
        assert {line["reason"] for line in worker.settled("retry")} == {"not_final"}

    async def test_not_final_becomes_final(self, system: System) -> None:
        await system.start()
        event = await system.call(schedule=[[0, "INCALL"], [0.5, "DISPO"], [0.9, "final"]])
        await system.publish(event)
        (received,) = (await system.delivered())[event["event_id"]]
        assert json.loads(received["body"])["data"]["final"] is True

    async def test_an_old_event_is_not_waited_for(self, system: System) -> None:
        await system.start(vicidial__ready_within="15m")
        await system.publish(call_ended(occurred_at=(datetime.now(UTC) - timedelta(hours=1)).isoformat()))
        assert (await system.dead_letter()).headers["crm-sync-reason"] == "not_found"


class TestTheDialerAnswers:
    async def test_a_refused_call_id(self, system: System) -> None:
        await system.start()
        await system.publish(call_ended(call_id="1234"))
        dead = await system.dead_letter()
        assert dead.headers["crm-sync-reason"] == "rejected_by_dialer"
        assert "INVALID SEARCH PARAMETERS" in str(dead.headers["crm-sync-error"])

    async def test_no_campaigns_are_an_answer(self, system: System) -> None:
        await system.start(vicidial__ready_within="500ms")
        event = {"event_id": "a-2", "agent_user": "1004", "expected_campaigns": ["SALES1"]}
        await system.publish(event, "agent.onboarded")
        (received,) = (await system.delivered())["a-2"]
        data = json.loads(received["body"])["data"]
        assert data["agent"]["campaigns"] == []
        assert data["access_check"]["missing"] == ["SALES1"]

    async def test_an_unreadable_answer_is_bounded(self, system: System) -> None:
        worker = await system.start(retry__max_attempts="3")
        for what, body in UNREADABLE.items():
            event = call_ended()
            await system.dialer.control(plant={event["call_id"]: {"body": body.format(id=event["call_id"])}})
            await system.publish(event)
            dead = await system.dead_letter()
            assert dead.headers["crm-sync-event-id"] == event["event_id"], what
            assert dead.headers["crm-sync-reason"] == "unreadable_answer", what
            assert dead.headers["crm-sync-attempt"] == 3, what
            assert "secret" not in str(dead.headers)
        assert len(worker.settled("retry")) == 2 * len(UNREADABLE)

    async def test_attempts_are_used_up(self, system: System) -> None:
        """The dialer fails for this one event while it serves others."""
        worker = await system.start(retry__max_attempts="3")
        broken, event = await system.calls(2)
        await system.dialer.control(plant={broken["call_id"]: {"status": 500}})
        await system.publish(broken)

        async def others_are_served() -> bool:
            await system.publish(await system.call())
            return len(worker.settled("dead_letter")) == 1

        await eventually(others_are_served)
        dead = await system.dead_letter()
        assert dead.headers["crm-sync-reason"] == "attempts_exhausted"
        assert dead.headers["crm-sync-event-id"] == broken["event_id"]
        assert "500" in str(dead.headers["crm-sync-error"])
        await system.publish(event)
        await system.delivered(event["event_id"])


class TestTheDialerIsDown:
    @pytest.mark.parametrize("fault", ["hang", "reset", "cut", "500", "empty", "html", "mysql", "drip"])
    async def test_the_event_waits_and_is_delivered_when_it_heals(self, system: System, fault: str) -> None:
        worker = await system.start(vicidial__timeout="300ms")
        event = await system.call()
        await system.dialer.control(fault=fault)
        await system.publish(event)
        await retried_then_delivered(system, worker, event, "dialer_outage")

    async def test_an_answer_that_can_not_be_decoded_is_an_outage_and_called_that(
        self, system: System
    ) -> None:
        worker = await system.start()
        event = await system.call()
        coded = {"body": "ok", "headers": {"Content-Encoding": "br"}}
        await system.dialer.control(plant={event["call_id"]: coded})
        await system.publish(event)
        await retried_then_delivered(system, worker, event, "dialer_outage")
        assert "could not be decoded: its Content-Encoding is br" in worker.settled("retry")[0]["error"]
        assert "reached" not in worker.text

    async def test_nobody_listens(self, system: System) -> None:
        dialer = Program("dialer")
        dialer.end()
        worker = await system.start(vicidial__url=dialer.url)
        event = call_ended()
        await system.publish(event)
        await eventually(lambda: len(worker.settled("retry")) >= 2)
        assert "can't be reached" in worker.settled("retry")[0]["error"]
        known = json.dumps({"calls": {event["call_id"]: {}}})
        again = Program("dialer", "--port", str(dialer.port), "--config", known)
        try:
            await system.delivered()
        finally:
            again.end()
        await system.nothing_dead()


class TestTheDialerRefusesUs:
    async def test_a_wrong_password_dead_letters_nothing_and_locks_nobody_out(self, system: System) -> None:
        dialer = Program("dialer", "--delay", "0.05")
        try:
            await dialer.control(password={"crmsync": "Changed-Pass-2"})
            worker = await system.start(vicidial__url=dialer.url, retry__max_attempts="2")
            events = [call_ended() for _ in range(30)]
            await dialer.control(calls={event["call_id"]: {} for event in events})
            await system.publish_all(events)
            await eventually(lambda: worker.settled("retry"))
            await asyncio.sleep(2.5)  # two waits after a refusal, of a second each
            failed = (await dialer.report())["failed_logins"]
            print(f"{failed} failed logins")  # noqa: T201 - a measurement
            assert failed < 10, "ten lock the API user"
            assert "LOGIN INCORRECT" in worker.text
            await system.nothing_dead()
            await dialer.control(password={"crmsync": "Dialer-Pass-1"})
            await system.delivered(within=15)
            await system.nothing_dead()
        finally:
            dialer.end()

    async def test_a_refusal_behind_a_byte_order_mark_is_one(self, system: System) -> None:
        worker = await system.start(retry__max_attempts="4", circuit_breakers__refused_probe="2s")
        events = await system.calls(12)
        refused = {"body": "\ufeffERROR: Login incorrect, please try again: |6666|x|BAD|\n"}
        await system.dialer.control(plant={event["call_id"]: refused for event in events})
        await system.publish_all(events)
        await eventually(lambda: worker.events("circuit_open"))
        ours = {event["call_id"] for event in events}
        asked = [each for each in (await system.dialer.report())["requests"] if each["subject"] in ours]
        assert 0 < len(asked) < 10, "ten lock the API user"
        await system.dialer.control(unplant=True)
        await system.delivered(within=30)
        await system.nothing_dead()

    async def test_an_address_that_is_not_allowed(self, system: System) -> None:
        worker = await system.start(retry__max_attempts="1")
        event = await system.call()
        await system.dialer.control(ip_blocked=True)
        await system.publish(event)
        await eventually(lambda: worker.settled("retry"))
        assert "API IP list" in worker.settled("retry")[0]["error"]
        await system.dialer.control(ip_blocked=False)
        await system.delivered()
        await system.nothing_dead()

    async def test_a_missing_permission(self, system: System) -> None:
        worker = await system.start(vicidial__user="api7", vicidial__password="Seven7")
        await system.publish({"event_id": "a-3", "agent_user": "1000"}, "agent.onboarded")
        await eventually(lambda: worker.settled("retry"))
        assert "Modify Users" in worker.settled("retry")[0]["error"]
        await system.nothing_dead()


class TestTheWebhook:
    @pytest.mark.parametrize("status", [408, 425, 500, 502, 503, 504])
    async def test_a_status_that_may_pass(self, system: System, status: int) -> None:
        worker = await system.start()
        event = await system.call()
        await system.crm.control(fail_ids={event["event_id"]: [status] * 3})
        await system.publish(event)
        received = (await system.delivered())[event["event_id"]]
        assert [each["status"] for each in received] == [status] * 3 + [200]
        assert {each["headers"]["webhook-id"] for each in received} == {event["event_id"]}
        assert len({each["body"] for each in received}) == 1
        assert len(worker.settled("retry")) == 3
        asked = [each["subject"] for each in (await system.dialer.report())["requests"]]
        assert asked.count(event["call_id"]) == 1, "the enrichment is carried, not looked up again"

    @pytest.mark.parametrize("fault", ["hang", "reset", "not_http", "500"])
    async def test_an_outage(self, system: System, fault: str) -> None:
        worker = await system.start(sink__timeout="300ms")
        event = await system.call()
        await system.crm.control(fault=fault)
        await system.publish(event)
        await retried_then_delivered(system, worker, event, "sink_outage")
        received = (await system.delivered())[event["event_id"]]
        assert {each["headers"]["webhook-id"] for each in received} == {event["event_id"]}

    @pytest.mark.parametrize("status", [429, 503])
    async def test_it_asks_to_come_back_later(self, system: System, status: int) -> None:
        worker = await system.start(retry__max_attempts="1")
        event = await system.call()
        await system.crm.control(fail_ids={event["event_id"]: [status]}, retry_after=1)
        await system.publish(event)
        first, second = (await system.delivered())[event["event_id"]]
        assert second["at"] - first["at"] >= 0.9
        assert worker.settled("retry")[0]["reason"] == "sink_busy"

    @pytest.mark.parametrize("status", [401, 403])
    async def test_it_refuses_us(self, system: System, status: int) -> None:
        worker = await system.start(retry__max_attempts="1")
        event = await system.call()
        await system.crm.control(fail_ids={event["event_id"]: [status] * 2})
        await system.publish(event)
        await system.delivered()
        refused = worker.settled("retry")[0]
        assert (refused["reason"], refused["level"]) == ("sink_refused", "warning")
        assert str(status) in refused["error"]
        await system.nothing_dead()

    async def test_a_signature_that_does_not_fit(self, system: System) -> None:
        secrets = ["whsec_" + base64.b64encode(bytes([n]) * 24).decode() for n in (1, 2)]
        await system.crm.control(secret=secrets[0])
        worker = await system.start(sink__signing_secret=secrets[1], retry__max_attempts="1")
        await system.publish(await system.call())
        await eventually(lambda: worker.settled("retry"))
        assert "sink.signing_secret" in worker.settled("retry")[0]["error"]
        await system.crm.control(secret=secrets[1])
        await system.delivered()
        await system.nothing_dead()

    async def test_it_has_the_payload_already(self, system: System) -> None:
        worker = await system.start()
        event = await system.call()
        await system.crm.control(fail_ids={event["event_id"]: [409]})
        await system.publish(event)
        await eventually(lambda: worker.settled("delivered"))
        assert (await system.crm.report())["by_id"] == {event["event_id"]: 1}

    async def test_it_rejects_the_payload(self, system: System) -> None:
        await system.start()
        for status in (300, 301, 302, 307, 308, 400, 404, 410, 413, 422):
            event = await system.call()
            await system.crm.control(fail_ids={event["event_id"]: [status]})
            await system.publish(event)
            dead = await system.dead_letter()
            assert dead.headers["crm-sync-event-id"] == event["event_id"], status
            assert dead.headers["crm-sync-reason"] == "rejected_by_sink", status
            assert dead.headers["crm-sync-stage"] == "deliver"
            assert f"answered {status}" in str(dead.headers["crm-sync-error"])
            assert f"{status}\\n" in str(dead.headers["crm-sync-error"]), "the body's beginning"
            enrichment = json.loads(str(dead.headers["crm-sync-enrichment"]))
            assert enrichment["call"]["call_id"] == event["call_id"]

    async def test_attempts_are_used_up(self, system: System) -> None:
        """It fails for this one event while it takes all the others."""
        worker = await system.start(retry__max_attempts="3")
        event = await system.call()
        await system.crm.control(fail_ids={event["event_id"]: [500] * 100})
        await system.publish_all(await system.calls(3))
        await system.delivered()
        before = len(system.published)
        await system.publish(event)

        async def others_are_served() -> bool:
            await system.publish_all(await system.calls(3))
            return len(worker.settled("dead_letter")) == 1

        await eventually(others_are_served)
        dead = await system.dead_letter()
        assert dead.headers["crm-sync-reason"] == "attempts_exhausted"
        assert dead.headers["crm-sync-event-id"] == event["event_id"]
        assert dead.headers["crm-sync-attempt"] == 3
        assert "answered 500" in str(dead.headers["crm-sync-error"])
        others = [each for each in system.published if each != event["event_id"]]
        assert len(others) > before
        received = await system.delivered(*others)
        assert len(received[event["event_id"]]) >= 3
        assert not worker.events("circuit_open"), "one bad event among good ones closes nothing"


class TestTheOutboundQueue:
    async def test_unroutable_is_retried_until_it_is_routed(self, system: System) -> None:
        worker = await system.start(sink__kind="queue", sink__url=None, retry__max_attempts="100")
        async with await system.connect() as connection:
            channel = await connection.channel()
            queue = await channel.get_queue(f"{system.namespace}.enriched", ensure=False)
            await queue.unbind(f"{system.namespace}.enriched", "#")
            event = await system.call()
            await system.publish(event)
            await eventually(lambda: len(worker.settled("retry")) >= 2)
            assert "no queue takes messages" in worker.settled("retry")[0]["error"]
            await queue.bind(f"{system.namespace}.enriched", "#")
            assert (await system.take("enriched")).message_id == event["event_id"]
        await system.nothing_dead()

    async def test_full_is_retried_until_there_is_room(self, system: System) -> None:
        outbound = f"{system.namespace}.retry.50ms"
        async with await system.connect() as connection:
            channel = await connection.channel()
            exchange = await channel.declare_exchange(outbound, "topic", durable=True)
            arguments: dict[str, Any] = {"x-max-length": 1, "x-overflow": "reject-publish"}
            queue = await channel.declare_queue(outbound, durable=True, arguments=arguments)
            await queue.bind(exchange, "#")
            await exchange.publish(aio_pika.Message(b"takes the place"), "any")
            bound = {"sink__kind": "queue", "sink__url": None, "sink__exchange": outbound}
            worker = await system.start(**bound)
            enriched = await channel.get_queue(f"{system.namespace}.enriched", ensure=False)
            await enriched.unbind(exchange, "#")
            event = await system.call()
            await system.publish(event)
            await eventually(lambda: len(worker.settled("retry")) >= 2)
            await queue.purge()
            assert (await system.take("retry.50ms")).message_id == event["event_id"]
        await system.nothing_dead()
