"""The preset zoho against the stand-in Zoho CRM: each call is there once, with the right fields."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from simulators.crms.zoho import KEY, ZohoStandIn
from tests.crm.delivering import Clock, again, agent, call, session_at, settings_for, sink_into
from worker.check import Level
from worker.check.crm import check_crm
from worker.core.errors import DeliveryIncomplete, DeliveryRejected, DeliveryUnavailable, FailureKind
from worker.core.ports import CrmRecord
from worker.crm.preset import Means

V1 = "V1201405090000000001"


@pytest.fixture
async def zoho() -> AsyncIterator[ZohoStandIn]:
    async with ZohoStandIn() as crm:
        crm.seed("Contacts", {"id": "501", "Last_Name": "Smith", "Phone": "(312) 555-1212"})
        crm.seed("Leads", {"id": "601", "Last_Name": "Jones", "Mobile": "312-555-1213"})
        crm.seed("users", {"id": "77", "email": "ann@example.com"})
        yield crm


def asked(crm: ZohoStandIn) -> Counter[str]:
    return Counter(f"{each.method} {each.path.removeprefix('/crm/v8/')}" for each in crm.requests)


async def test_calls_are_written_once_together_and_linked(zoho: ZohoStandIn) -> None:
    keys = [f"V12014050900000000{number:02}" for number in range(30)]
    async with sink_into(zoho) as sink:
        await sink.deliver(agent("1000", "ann@example.com"))
        receipts = await asyncio.gather(*(sink.deliver(call(key)) for key in keys))
        other = await sink.deliver(call("V2", phone_number="3125551213", agent_user=None))
        repeat = await sink.deliver(call(keys[0]))
    assert {each.record.outcome for each in receipts if each.record} == {"created"}
    assert zoho.writes == Counter(dict.fromkeys([*keys, "V2"], 1))
    (first,) = zoho.find("Calls", **{KEY: keys[0]})
    assert zoho.records["Calls"][first] == {
        KEY: keys[0],
        "Subject": "Outbound call 3125551212",
        "Call_Type": "Outbound",
        "Call_Start_Time": "2026-11-20T19:05:09+00:00",
        "Call_Duration": "02:00",
        "Outgoing_Call_Status": "Completed",
        "Call_Result": "Interested",
        "Dialled_Number": "+13125551212",
        "Owner": {"id": "77"},
        "Who_Id": {"id": "501"},
        "Description": f"Status SALE, campaign SALES1, list 1001, agent 1000, call {keys[0]}",
    }
    assert other.record is not None
    assert other.record.linked == "601"
    assert repeat.record == CrmRecord("duplicate", first, "501")
    requests = asked(zoho)
    assert requests["POST Calls"] < 10  # several in each
    assert requests["GET Leads/search"] == 1
    assert zoho.tokens_issued == 1


@pytest.mark.parametrize("unique", [False, True])
async def test_a_lost_answer_makes_no_second_call(zoho: ZohoStandIn, unique: bool) -> None:  # noqa: FBT001
    zoho.control({"unique": unique, "fault": "lose_answer", "fault_path": "/Calls", "fail_next": 1})
    async with sink_into(zoho, unique=unique) as sink:
        with pytest.raises(DeliveryUnavailable) as lost:
            await sink.deliver(call())
        receipt = await sink.deliver(again(call(), lost.value.progress))
    assert zoho.writes == {V1: 1}
    (made,) = zoho.find("Calls", **{KEY: V1})
    assert receipt.record == CrmRecord("duplicate", made, "501")
    assert asked(zoho)["POST coql"] == (0 if unique else 2)


async def test_a_token_that_is_no_longer_good_is_replaced(zoho: ZohoStandIn) -> None:
    async with sink_into(zoho) as sink:
        await sink.deliver(call("V1"))
        zoho.control({"revoke_tokens": True})
        await asyncio.gather(*(sink.deliver(call(f"V2{number}")) for number in range(5)))
    assert (len(zoho.writes), zoho.doubles, zoho.tokens_issued) == (6, {}, 2)


async def test_client_credentials_are_used_without_a_refresh_token(zoho: ZohoStandIn) -> None:
    async with sink_into(zoho, refresh_token=None, organization="600000046") as sink:
        await sink.deliver(call())
    assert zoho.writes == {V1: 1}


async def test_a_refused_login_is_no_fault_of_the_call(zoho: ZohoStandIn) -> None:
    async with sink_into(zoho, client_secret="an-old-secret") as sink:
        with pytest.raises(DeliveryUnavailable, match="invalid_client_secret") as refused:
            await sink.deliver(call())
    assert refused.value.kind is FailureKind.REFUSED


async def test_too_many_tokens_are_waited_for(zoho: ZohoStandIn) -> None:
    for _ in range(10):
        zoho.token_requests.admit()
    async with sink_into(zoho) as sink:
        with pytest.raises(DeliveryUnavailable, match="too many requests") as busy:
            await sink.deliver(call())
    assert (busy.value.kind, busy.value.retry_after) == (FailureKind.BUSY, timedelta(minutes=15))


async def test_too_many_requests_and_used_up_credits_are_waited_for(zoho: ZohoStandIn) -> None:
    async with sink_into(zoho) as sink:
        await sink.deliver(call("V1"))
        zoho.clock = lambda: 0.0  # stands still
        zoho.control({"storm": 30})
        with pytest.raises(DeliveryUnavailable) as busy:
            await sink.deliver(call("V2"))
    assert (busy.value.kind, busy.value.retry_after) == (FailureKind.BUSY, timedelta(seconds=30))
    zoho.control({"storm": 0, "daily": 0})
    async with sink_into(zoho) as sink:
        with pytest.raises(DeliveryUnavailable) as used_up:
            await sink.deliver(call("V2"))
    assert (used_up.value.kind, used_up.value.retry_after) == (FailureKind.BUSY, timedelta(minutes=15))
    assert zoho.writes == {"V1": 1}


async def test_a_search_that_is_down_holds_no_call_up_and_the_link_follows(zoho: ZohoStandIn) -> None:
    zoho.control({"fault": "500", "fault_path": "/search"})
    async with sink_into(zoho) as sink:
        with pytest.raises(DeliveryIncomplete) as half:
            await sink.deliver(call())
        (made,) = zoho.find("Calls", **{KEY: V1})
        assert "Who_Id" not in zoho.records["Calls"][made]
        zoho.control({"fault": None, "locked": [made]})
        with pytest.raises(DeliveryIncomplete) as locked:
            await sink.deliver(again(call(), half.value.progress))
        zoho.control({"locked": []})
        receipt = await sink.deliver(again(call(), locked.value.progress))
    assert receipt.record is not None
    assert (receipt.record.id, receipt.record.linked) == (made, "501")
    assert zoho.records["Calls"][made]["Who_Id"] == {"id": "501"}
    assert zoho.writes == {V1: 1}


async def test_one_refused_call_stops_no_other_of_its_batch(zoho: ZohoStandIn) -> None:
    async with sink_into(zoho, tables=zoho.settings()["tables"] | {"result": {"OWN": "Sold"}}) as sink:
        good, bad = await asyncio.gather(
            sink.deliver(call("V1")), sink.deliver(call("V2", status="OWN")), return_exceptions=True
        )
    assert not isinstance(good, BaseException)
    assert isinstance(bad, DeliveryRejected)
    assert "INVALID_DATA: invalid data (Call_Result)" in str(bad)
    assert zoho.writes == {"V1": 1}


async def test_a_missing_field_for_the_call_s_id_stops_all_calls(zoho: ZohoStandIn) -> None:
    zoho.control({"fields": []})
    async with sink_into(zoho) as sink:
        with pytest.raises(DeliveryUnavailable, match=KEY) as refused:
            await sink.deliver(call())
    assert refused.value.kind is FailureKind.REFUSED
    assert not zoho.writes


async def test_the_check_names_a_missing_field(zoho: ZohoStandIn) -> None:
    zoho.control({"fields": []})
    findings = {each.name: each async for each in check_crm(settings_for(zoho.settings()))}
    assert findings["crm"].level is Level.FAILED
    assert "run `crm-sync crm prepare`" in findings["crm"].advice[0]


async def test_an_account_is_prepared_once_and_may_be_again(zoho: ZohoStandIn) -> None:
    zoho.control({"fields": []})
    async with session_at(zoho, Clock()) as session:
        for means in (Means.DONE, Means.DUPLICATE):
            engine = await session.engine()
            asked = [await session.ask(engine, step) for step in session.plan.prepare]
            assert [verdict.means for _, verdict in asked] == [means]
    async with sink_into(zoho) as sink:
        await sink.deliver(call())
    assert zoho.writes == {V1: 1}
