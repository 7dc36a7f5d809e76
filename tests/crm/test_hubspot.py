"""Calls reach HubSpot, whatever happens on the way: the sink with the preset, against the stand-in."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from simulators.crms.hubspot import HubSpotStandIn
from tests.crm.delivering import (
    Clock,
    agent,
    call,
    delivered,
    incomplete,
    rejected,
    session_at,
    sink_at,
    unavailable,
)
from worker.core.errors import FailureKind
from worker.crm.preset import Means
from worker.crm.sink import CrmSink


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def crm(clock: Clock) -> AsyncIterator[HubSpotStandIn]:
    async with HubSpotStandIn(clock=clock) as running:
        running.prepare()
        running.seed("owners", {"id": "77", "email": "ann@example.com"})
        running.seed("contacts", {"id": "501", "phone": "(312) 555-1212"})
        yield running


@pytest.fixture
async def sink(crm: HubSpotStandIn, clock: Clock) -> AsyncIterator[CrmSink]:
    async with sink_at(crm, clock, owners={"1000": "77", "gone": "78"}, supervisor="77") as running:
        yield running


async def test_each_call_of_a_shift_is_one_record_and_linked(crm: HubSpotStandIn, sink: CrmSink) -> None:
    await delivered(sink, call("V0"))  # so that the search is known: five a second are allowed
    keys = [f"V{number}" for number in range(1, 20)]
    records = await asyncio.gather(*(delivered(sink, call(key)) for key in keys))
    assert {each.outcome for each in records} == {"created"}
    assert crm.writes == dict.fromkeys(["V0", *keys], 1)
    assert crm.associations >= {(f"calls/{each.id}", "contacts/501") for each in records}
    paths = [each.path.rpartition("/")[2] for each in crm.requests]
    assert paths.count("upsert") < 10  # several in one request
    assert paths.count("search") == 1
    stored = crm.records["calls"][str(records[0].id)]
    assert stored["hs_timestamp"] == "1795201509000"
    assert stored["hs_call_duration"] == "120000"
    assert stored["hs_call_disposition"] == "f240bbac-87c9-4f6e-bf70-924b57d47db7"
    assert stored["hubspot_owner_id"] == "77"


async def test_a_repeat_changes_the_record(crm: HubSpotStandIn, sink: CrmSink) -> None:
    first = await delivered(sink, call(status="NA"))
    second = await delivered(sink, call(status="SALE"))
    assert (second.outcome, second.id, second.linked) == ("updated", first.id, "501")
    assert crm.records["calls"][str(first.id)]["hs_call_status"] == "COMPLETED"
    assert not crm.doubles


async def test_an_answer_that_is_lost_after_the_write_makes_no_double(
    crm: HubSpotStandIn, sink: CrmSink
) -> None:
    crm.control({"fault": "lose_answer", "fault_path": "upsert", "fail_next": 1})
    error, again = await unavailable(sink, call())
    assert error.kind is FailureKind.OUTAGE
    record = await delivered(sink, again)
    assert (record.outcome, record.linked) == ("updated", "501")
    assert crm.writes == {"V1201405090000000001": 1}


async def test_a_call_is_written_while_the_search_is_down_and_linked_later(
    crm: HubSpotStandIn, sink: CrmSink
) -> None:
    crm.control({"fault": "503", "fault_path": "search"})
    why, again = await incomplete(sink, call())
    assert "contact" in why
    assert (len(crm.records["calls"]), crm.associations) == (1, set())
    crm.control({"fault": None})
    record = await delivered(sink, again)
    assert crm.associations == {(f"calls/{record.id}", "contacts/501")}
    assert [each.path.rpartition("/")[2] for each in crm.requests].count("upsert") == 1


async def test_a_storm_pauses_everything_and_passes(crm: HubSpotStandIn, sink: CrmSink, clock: Clock) -> None:
    crm.storm(5)
    error, again = await unavailable(sink, call(phone_number=None))
    assert (error.kind, error.retry_after) == (FailureKind.BUSY, timedelta(seconds=10))
    asked = len(crm.requests)
    error, again = await unavailable(sink, again)
    assert (error.kind, len(crm.requests)) == (FailureKind.BUSY, asked)
    clock.now += 10
    assert (await delivered(sink, again)).outcome == "created"


async def test_a_used_up_day_pauses_for_an_hour(crm: HubSpotStandIn, sink: CrmSink) -> None:
    crm.control({"daily": 0})
    error, _ = await unavailable(sink, call(phone_number=None))
    assert (error.kind, error.retry_after) == (FailureKind.BUSY, timedelta(hours=1))


async def test_the_last_requests_of_the_day_are_left_to_others(
    crm: HubSpotStandIn, sink: CrmSink, clock: Clock
) -> None:
    crm.control({"daily": 101})
    crm.windows["daily"].admit(100)
    assert (await delivered(sink, call(phone_number=None))).outcome == "created"
    error, again = await unavailable(sink, call("V2", phone_number=None))
    assert (error.kind, error.retry_after) == (FailureKind.BUSY, timedelta(minutes=10))
    clock.now += 86_400
    assert (await delivered(sink, again)).outcome == "created"


async def test_a_revoked_key_is_refused(crm: HubSpotStandIn, sink: CrmSink) -> None:
    crm.control({"revoke_tokens": True})
    error, _ = await unavailable(sink, call(phone_number=None))
    assert error.kind is FailureKind.REFUSED
    assert "Authentication credentials not found" in str(error)


async def test_one_bad_item_of_a_batch_is_rejected_alone(crm: HubSpotStandIn, sink: CrmSink) -> None:
    good, why, other = await asyncio.gather(
        delivered(sink, call("V1")),
        rejected(sink, call("V2", agent_user="gone")),
        delivered(sink, call("V3")),
    )
    assert "78 is no owner of this account" in why
    assert [good.outcome, other.outcome] == ["created", "created"]
    assert crm.writes == {"V1": 1, "V3": 1}


async def test_a_locked_record_is_tried_again(crm: HubSpotStandIn, sink: CrmSink, clock: Clock) -> None:
    first = await delivered(sink, call())
    crm.locked = {str(first.id)}
    error, again = await unavailable(sink, call())
    assert (error.kind, error.retry_after) == (FailureKind.BUSY, timedelta(seconds=2))
    crm.locked = set()
    clock.now += 2
    assert (await delivered(sink, again)).id == first.id


async def test_an_account_without_the_property_is_refused_with_what_to_do(clock: Clock) -> None:
    async with HubSpotStandIn(clock=clock) as crm, sink_at(crm, clock) as sink:
        error, _ = await unavailable(sink, call(phone_number=None))
        assert error.kind is FailureKind.REFUSED
        assert "crm-sync crm prepare" in str(error)


async def test_an_account_is_prepared_once_and_may_be_again(clock: Clock) -> None:
    async with HubSpotStandIn(clock=clock) as crm, session_at(crm, clock, supervisor="77") as session:
        crm.seed("owners", {"id": "77"})
        for means in (Means.DONE, Means.DUPLICATE):
            engine = await session.engine()
            asked = [await session.ask(engine, step) for step in session.plan.prepare]
            assert {verdict.means for _, verdict in asked} == {means}
        assert (await delivered(CrmSink(session), call())).outcome == "created"
        await CrmSink(session).deliver(agent("agent001", "ann@example.com", missing=("SALES1",)))
        assert len(crm.records["tasks"]) == 1


async def test_an_agent_whose_owner_is_known_by_e_mail_owns_later_calls(
    crm: HubSpotStandIn, sink: CrmSink
) -> None:
    await sink.deliver(agent("agent001", "ann@example.com"))
    record = await delivered(sink, call(agent_user="agent001"))
    assert crm.records["calls"][str(record.id)]["hubspot_owner_id"] == "77"


async def test_missing_access_is_one_task_even_if_it_is_said_twice(
    crm: HubSpotStandIn, sink: CrmSink
) -> None:
    for _ in range(2):
        await sink.deliver(agent("agent001", "ann@example.com", missing=("SALES1",)))
    (task,) = crm.records["tasks"].values()
    assert task["hs_task_subject"] == "Agent agent001 lacks access to SALES1"
    assert task["hubspot_owner_id"] == "77"
