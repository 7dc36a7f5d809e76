"""Calls reach Salesforce, whatever happens on the way: the sink with the preset, against the stand-in."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from simulators.crms.salesforce import SalesforceStandIn
from tests.crm.delivering import Clock, agent, call, delivered, incomplete, rejected, sink_at, unavailable
from worker.core.errors import FailureKind, SinkLoginRefused
from worker.crm.sink import CrmSink

CONTACT, LEAD, USER = "003000000000000501", "00Q000000000000601", "005000000000000077"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def crm(clock: Clock) -> AsyncIterator[SalesforceStandIn]:
    async with SalesforceStandIn(clock=clock) as running:
        running.prepare()
        running.seed("Contact", {"id": CONTACT, "Phone": "(312) 555-1212"})
        running.seed("Lead", {"id": LEAD, "MobilePhone": "+1 312 555 1213"})
        running.seed("User", {"id": USER, "EmployeeNumber": "agent001"})
        yield running


@pytest.fixture
async def sink(crm: SalesforceStandIn, clock: Clock) -> AsyncIterator[CrmSink]:
    owners = {"1000": USER, "gone": "005000000000000999"}
    async with sink_at(crm, clock, owners=owners, supervisor=USER, zone="America/Chicago") as running:
        yield running


async def test_each_call_of_a_shift_is_one_task(crm: SalesforceStandIn, sink: CrmSink) -> None:
    keys = [f"V{number}" for number in range(20)]
    records = await asyncio.gather(*(delivered(sink, call(key)) for key in keys))
    assert {(each.outcome, each.linked) for each in records} == {("created", CONTACT)}
    assert crm.writes == dict.fromkeys(keys, 1)
    assert crm.tokens_issued == 1
    assert [each.method for each in crm.requests].count("PATCH") < 10  # several in one request
    stored = crm.records["Task"][str(records[0].id)]
    assert (stored["WhoId"], stored["OwnerId"], stored["ActivityDate"]) == (CONTACT, USER, "2026-11-20")
    assert (stored["TaskSubtype"], stored["CallDurationInSeconds"]) == ("Call", 120)


async def test_the_number_of_a_lead_is_found_with_its_countrys_code(
    crm: SalesforceStandIn, sink: CrmSink
) -> None:
    assert (await delivered(sink, call(phone_number="3125551213"))).linked == LEAD


@pytest.mark.parametrize("updated", [200, 204])
async def test_a_repeat_changes_the_task(crm: SalesforceStandIn, sink: CrmSink, updated: int) -> None:
    crm.updated_status = updated
    await delivered(sink, call(status="NA"))
    second = await delivered(sink, call(status="SALE"))
    (stored,) = crm.records["Task"].values()
    assert (second.outcome, second.linked, stored["CallDisposition"]) == ("duplicate", CONTACT, "Sale")


async def test_an_answer_that_is_lost_after_the_write_makes_no_double(
    crm: SalesforceStandIn, sink: CrmSink
) -> None:
    crm.control({"fault": "lose_answer", "fault_path": "composite", "fail_next": 1})
    error, again = await unavailable(sink, call())
    assert error.kind is FailureKind.OUTAGE
    record = await delivered(sink, again)
    assert record.id in crm.records["Task"]
    assert crm.writes == {"V1201405090000000001": 1}


async def test_the_loser_of_a_race_on_the_key_changes_the_winners_task(
    crm: SalesforceStandIn, sink: CrmSink
) -> None:
    crm.racing = {"V1201405090000000001"}
    record = await delivered(sink, call())
    assert record.id in crm.records["Task"]
    assert not crm.doubles


async def test_a_session_that_ended_is_made_anew_once(crm: SalesforceStandIn, sink: CrmSink) -> None:
    await delivered(sink, call("V1"))
    crm.control({"revoke_tokens": True})
    await asyncio.gather(*(delivered(sink, call(f"V{number}")) for number in range(2, 8)))
    assert crm.tokens_issued == 2
    assert not crm.doubles


async def test_a_refused_login_says_why(crm: SalesforceStandIn, clock: Clock) -> None:
    async with sink_at(crm, clock, client_secret="wrong") as sink:
        error, _ = await unavailable(sink, call())
    assert isinstance(error, SinkLoginRefused)
    assert "invalid client credentials" in str(error)
    assert "wrong" not in str(error)


async def test_a_call_is_written_while_the_search_is_down_and_linked_later(
    crm: SalesforceStandIn, sink: CrmSink
) -> None:
    crm.control({"fault": "503", "fault_path": "/search"})
    why, again = await incomplete(sink, call())
    assert "contact" in why
    (stored,) = crm.records["Task"].values()
    assert "WhoId" not in stored
    crm.control({"fault": None})
    assert (await delivered(sink, again)).linked == CONTACT
    assert crm.records["Task"].popitem()[1]["WhoId"] == CONTACT
    assert not crm.doubles


async def test_a_locked_row_fails_its_own_call_alone_and_only_for_now(
    crm: SalesforceStandIn, sink: CrmSink
) -> None:
    crm.locked = {CONTACT}
    (error, again), other = await asyncio.gather(
        unavailable(sink, call("V1")), delivered(sink, call("V2", phone_number=None))
    )
    assert (error.kind, other.outcome) == (FailureKind.OUTAGE, "created")
    assert "exclusive access" in str(error)
    crm.locked = set()
    assert (await delivered(sink, again)).outcome == "created"
    assert crm.writes == {"V1": 1, "V2": 1}


async def test_one_bad_task_of_a_batch_is_rejected_alone(crm: SalesforceStandIn, sink: CrmSink) -> None:
    why, good = await asyncio.gather(
        rejected(sink, call("V1", agent_user="gone")), delivered(sink, call("V2"))
    )
    assert "INVALID_CROSS_REFERENCE_KEY" in why
    assert (good.outcome, crm.writes) == ("created", {"V2": 1})


async def test_a_used_up_day_pauses_everything(crm: SalesforceStandIn, sink: CrmSink, clock: Clock) -> None:
    crm.control({"daily": 0})
    error, again = await unavailable(sink, call(phone_number=None))
    assert (error.kind, error.retry_after) == (FailureKind.BUSY, timedelta(minutes=15))
    crm.control({"daily": 1000})
    clock.now += 900
    assert (await delivered(sink, again)).outcome == "created"


async def test_the_last_requests_of_the_day_are_left_to_others(crm: SalesforceStandIn, sink: CrmSink) -> None:
    crm.control({"daily": 200})
    crm.windows["daily"].admit(198)
    assert (await delivered(sink, call(phone_number=None))).outcome == "created"
    error, _ = await unavailable(sink, call("V2", phone_number=None))
    assert (error.kind, error.retry_after) == (FailureKind.BUSY, timedelta(minutes=10))


async def test_an_org_without_the_external_id_is_refused(clock: Clock) -> None:
    async with SalesforceStandIn(clock=clock) as crm, sink_at(crm, clock) as sink:
        error, _ = await unavailable(sink, call(phone_number=None))
        assert error.kind is FailureKind.REFUSED
        assert "CrmSync_Call_Id__c" in str(error)


async def test_an_agent_who_is_a_user_owns_later_calls(crm: SalesforceStandIn, sink: CrmSink) -> None:
    await sink.deliver(agent("agent001", "ann@example.com"))
    record = await delivered(sink, call(agent_user="agent001"))
    assert crm.records["Task"][str(record.id)]["OwnerId"] == USER


async def test_missing_access_is_one_task_even_if_it_is_said_twice(
    crm: SalesforceStandIn, sink: CrmSink
) -> None:
    for _ in range(2):
        await sink.deliver(agent("agent001", "ann@example.com", missing=("SALES1",)))
    (task,) = crm.records["Task"].values()
    assert (task["Subject"], task["OwnerId"]) == ("Agent agent001 lacks access to SALES1", USER)
