"""The preset pipedrive against the stand-in Pipedrive: each call is there once, with the right fields."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from simulators.crms.pipedrive import PipedriveStandIn
from tests.crm.delivering import again, agent, call, settings_for, sink_into
from worker.check import Level
from worker.check.crm import check_crm
from worker.core.errors import DeliveryIncomplete, DeliveryRejected, DeliveryUnavailable, FailureKind
from worker.core.ports import CrmRecord

V1 = "V1201405090000000001"


@pytest.fixture
async def pipedrive() -> AsyncIterator[PipedriveStandIn]:
    async with PipedriveStandIn() as crm:
        crm.seed("organizations", {"id": "31", "name": "Example"})
        crm.seed("persons", {"id": "501", "phones": ["(312) 555-1212"], "organization": {"id": 31}})
        crm.seed("users", {"id": "77", "name": "Ann", "email": "ann@example.com"})
        yield crm


async def test_calls_are_written_once_and_linked(pipedrive: PipedriveStandIn) -> None:
    keys = [f"V120140509000000000{number}" for number in range(5)]
    async with sink_into(pipedrive) as sink:
        await sink.deliver(agent("1000", "ann@example.com"))
        await asyncio.gather(*(sink.deliver(call(key)) for key in keys))
        other = await sink.deliver(call("V2", phone_number="3125550000", status="NA", talk_seconds=None))
        repeat = await sink.deliver(call(keys[0]))
    assert pipedrive.writes == Counter(dict.fromkeys([*keys, "V2"], 1))
    (first,) = pipedrive.find("activities", key=keys[0])
    made = pipedrive.records["activities"][first]
    del made["add_time"], made["update_time"]
    assert made == {
        "key": keys[0],
        "subject": "Outbound call 3125551212: connected",
        "type": "call",
        "done": True,
        "due_date": "2026-11-20",
        "due_time": "19:05",
        "duration": "00:02",
        "owner_id": 77,
        "org_id": 31,
        "participants": [{"person_id": 501, "primary": True}],
        "note": "<p>connected, 120 s of talk</p><p>Status SALE, campaign SALES1, list 1001, agent 1000</p>"
        f"<p>Call {keys[0]}</p>",
    }
    assert other.record == CrmRecord("created", *pipedrive.find("activities", key="V2"))
    assert repeat.record == CrmRecord("duplicate", first, "501")
    searches = [each for each in pipedrive.requests if each.path.endswith("/search")]
    assert [each.query["term"] for each in searches].count("3125550000") == 1


async def test_a_lost_answer_makes_no_second_activity(pipedrive: PipedriveStandIn) -> None:
    pipedrive.control({"fault": "lose_answer", "fault_path": "/activities", "fail_next": 1})
    async with sink_into(pipedrive) as sink:
        with pytest.raises(DeliveryUnavailable) as lost:
            await sink.deliver(call())
        receipt = await sink.deliver(again(call(), lost.value.progress))
    assert pipedrive.writes == {V1: 1}
    (made,) = pipedrive.find("activities", key=V1)
    assert receipt.record == CrmRecord("duplicate", made, "501")


async def test_a_wrong_token_is_no_fault_of_the_call(pipedrive: PipedriveStandIn) -> None:
    async with sink_into(pipedrive, token="an-old-token") as sink:
        with pytest.raises(DeliveryUnavailable, match="unauthorized access") as refused:
            await sink.deliver(call())
    assert refused.value.kind is FailureKind.REFUSED


@pytest.mark.parametrize(
    ("trouble", "wait"),
    [
        ({"storm": 30}, timedelta(seconds=30)),
        ({"blocked": 60}, timedelta(minutes=10)),
        ({"daily": 0}, timedelta(hours=1)),
    ],
)
async def test_limits_are_waited_for(
    pipedrive: PipedriveStandIn, trouble: dict[str, int], wait: timedelta
) -> None:
    pipedrive.clock = lambda: 0.0  # stands still
    pipedrive.control(trouble)
    async with sink_into(pipedrive) as sink:
        with pytest.raises(DeliveryUnavailable) as busy:
            await sink.deliver(call())
    assert (busy.value.kind, busy.value.retry_after) == (FailureKind.BUSY, wait)
    assert not pipedrive.writes


async def test_a_search_that_is_down_holds_no_call_up_and_the_link_follows(
    pipedrive: PipedriveStandIn,
) -> None:
    pipedrive.control({"fault": "500", "fault_path": "/search"})
    async with sink_into(pipedrive) as sink:
        with pytest.raises(DeliveryIncomplete) as half:
            await sink.deliver(call())
        (made,) = pipedrive.find("activities", key=V1)
        assert "participants" not in pipedrive.records["activities"][made]
        pipedrive.control({"fault": None})
        receipt = await sink.deliver(again(call(), half.value.progress))
    assert receipt.record is not None
    assert (receipt.record.id, receipt.record.linked) == (made, "501")
    assert pipedrive.records["activities"][made]["participants"] == [{"person_id": 501, "primary": True}]
    assert pipedrive.writes == {V1: 1}


async def test_a_refused_field_says_which(pipedrive: PipedriveStandIn) -> None:
    async with sink_into(pipedrive, owners={"1000": "78"}) as sink:
        with pytest.raises(DeliveryRejected, match="user 78 not found"):
            await sink.deliver(call())


async def test_the_check_names_a_missing_activity_type(pipedrive: PipedriveStandIn) -> None:
    findings = [each async for each in check_crm(settings_for(pipedrive.settings() | {"type": "chat"}))]
    assert findings[-1].level is Level.FAILED
    assert "create an activity type with this key" in findings[-1].advice[0]
