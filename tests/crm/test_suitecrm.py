"""The preset suitecrm against the stand-in SuiteCRM: each call is there once, with the right fields."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from simulators.crms.suitecrm import SuiteCrmStandIn
from tests.crm.delivering import again, agent, call, sink_into
from worker.core.errors import DeliveryIncomplete, DeliveryRejected, DeliveryUnavailable, FailureKind

CONTACT = "aaaaaaaa-0000-4000-8000-000000000001"
LEAD = "bbbbbbbb-0000-4000-8000-000000000002"
USER = "cccccccc-0000-4000-8000-000000000003"


@pytest.fixture
async def suitecrm() -> AsyncIterator[SuiteCrmStandIn]:
    async with SuiteCrmStandIn() as crm:
        crm.seed("Contacts", {"id": CONTACT, "phone_work": "(312) 555-1212"})
        crm.seed("Leads", {"id": LEAD, "phone_mobile": "+1 312.555.1213"})
        crm.seed("Users", {"id": USER, "user_name": "1000"})
        yield crm


def only(crm: SuiteCrmStandIn) -> dict[str, Any]:
    (made,) = crm.records["Calls"].values()
    return made


def asked(crm: SuiteCrmStandIn) -> Counter[str]:
    return Counter(f"{each.method} {each.path.rpartition('/')[2]}" for each in crm.requests)


async def test_a_call_is_written_and_related_by_one_request(suitecrm: SuiteCrmStandIn) -> None:
    async with sink_into(suitecrm) as sink:
        receipt = await sink.deliver(call())
    assert receipt.record is not None
    assert (receipt.record.outcome, receipt.record.linked) == ("created", CONTACT)
    assert only(suitecrm) == {
        "id": receipt.record.id,
        "name": "Outbound call 3125551212",
        "date_start": "2026-11-20 19:05:09",
        "date_end": "2026-11-20 19:07:09",
        "duration_hours": 0,
        "duration_minutes": 2,
        "status": "Held",
        "direction": "Outbound",
        "description": "Disposition SALE\nNumber +13125551212\nCampaign SALES1\nAgent 1000\n"
        "Call id V1201405090000000001",
        "parent_type": "Contacts",
        "parent_id": CONTACT,
        "assigned_user_id": USER,
    }
    assert suitecrm.links[str(receipt.record.id)] == {"contacts": {CONTACT}}
    assert (asked(suitecrm)["POST module"], asked(suitecrm)["PATCH module"], suitecrm.silent) == (1, 0, [])


async def test_many_calls_are_each_there_once(suitecrm: SuiteCrmStandIn) -> None:
    keys = [f"V12014050900000000{number:02}" for number in range(20)]
    async with sink_into(suitecrm) as sink:
        await sink.deliver(agent("1000", "ann@example.com"))
        await asyncio.gather(*(sink.deliver(call(key)) for key in keys))
        lead = await sink.deliver(call("V2", phone_number="3125551213", status="NA", talk_seconds=0))
        unknown = await sink.deliver(call("V3", phone_number="3125551214", agent_user="1001"))
    assert (len(suitecrm.writes), suitecrm.doubles, suitecrm.tokens_issued) == (22, {}, 1)
    assert (asked(suitecrm)["GET Users"], suitecrm.max_concurrent <= 8) == (2, True)
    assert lead.record is not None
    made = suitecrm.records["Calls"][str(lead.record.id)]
    assert (made["status"], made["parent_type"], made["parent_id"]) == ("Not Held", "Leads", LEAD)
    assert suitecrm.links[str(lead.record.id)] == {"leads": {LEAD}}
    assert unknown.record is not None
    assert unknown.record.linked is None
    assert "assigned_user_id" not in suitecrm.records["Calls"][str(unknown.record.id)]


async def test_a_lost_answer_makes_no_second_call(suitecrm: SuiteCrmStandIn) -> None:
    suitecrm.control({"fault": "lose_answer", "fault_path": "/module", "fail_next": 1})
    async with sink_into(suitecrm) as sink:
        with pytest.raises(DeliveryUnavailable) as lost:
            await sink.deliver(call())
        receipt = await sink.deliver(again(call(), lost.value.progress))
    assert receipt.record is not None
    assert (receipt.record.outcome, receipt.record.linked) == ("duplicate", CONTACT)
    assert (len(suitecrm.records["Calls"]), suitecrm.doubles) == (1, {})


async def test_a_correction_arrives_and_a_deleted_call_stays_deleted(suitecrm: SuiteCrmStandIn) -> None:
    suitecrm.custom_fields = frozenset({"result_c"})
    own = {"data.attributes.result_c": "{{ call.status }}"}
    async with sink_into(suitecrm, fields=own) as sink:
        await sink.deliver(call(status="NA", talk_seconds=0))
        await sink.deliver(call(status="SALE"))
        made = only(suitecrm)
        assert (made["status"], made["duration_minutes"], made["result_c"]) == ("Held", 2, "SALE")
        made["deleted"] = 1
        await sink.deliver(call(status="NI"))
    assert (made["result_c"], suitecrm.doubles) == ("SALE", {})


async def test_a_token_that_is_no_longer_good_is_replaced(suitecrm: SuiteCrmStandIn) -> None:
    async with sink_into(suitecrm) as sink:
        await sink.deliver(call("V1"))
        suitecrm.control({"revoke_tokens": True})
        await asyncio.gather(*(sink.deliver(call(f"V2{number}")) for number in range(5)))
    assert (len(suitecrm.writes), suitecrm.doubles, suitecrm.tokens_issued) == (6, {}, 2)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"client_secret": "an-old-secret"}, "Client authentication failed"),
        ({"client_id": USER}, "OAuth2Clients module with id"),
        ({"api": "/legacy/Api"}, "check `url` and `api`"),
    ],
)
async def test_a_refused_login_is_no_fault_of_the_call(
    suitecrm: SuiteCrmStandIn, wrong: dict[str, str], reason: str
) -> None:
    async with sink_into(suitecrm, **wrong) as sink:
        with pytest.raises(DeliveryUnavailable, match=reason) as refused:
            await sink.deliver(call())
    assert refused.value.kind is FailureKind.REFUSED


async def test_suitecrm_8_is_reached_by_its_path() -> None:
    async with SuiteCrmStandIn(prefix="/legacy/Api") as crm, sink_into(crm) as sink:
        await sink.deliver(call())
        assert len(crm.writes) == 1


async def test_what_is_a_passing_trouble_is_tried_again(suitecrm: SuiteCrmStandIn) -> None:
    async with sink_into(suitecrm) as sink:
        await sink.deliver(call("V1"))
        for trouble in ({"fault": "503", "fault_path": "/module"}, {"fault": None, "database_down": True}):
            suitecrm.control(trouble)
            with pytest.raises(DeliveryUnavailable) as down:
                await sink.deliver(call("V2"))
            assert down.value.kind is FailureKind.OUTAGE
        suitecrm.control({"database_down": False, "fault": "mysql", "fault_path": "/module"})
        with pytest.raises(DeliveryUnavailable):  # the text of a PHP without its database, as a 200
            await sink.deliver(call("V2"))
        suitecrm.control({"fault": None, "storm": 17})
        with pytest.raises(DeliveryUnavailable) as busy:
            await sink.deliver(call("V2"))
    assert busy.value.kind is FailureKind.BUSY
    assert busy.value.retry_after is not None
    assert timedelta(seconds=15) < busy.value.retry_after <= timedelta(seconds=18)
    assert len(suitecrm.writes) == 1


async def test_a_search_that_is_down_holds_no_call_up_and_the_link_follows(suitecrm: SuiteCrmStandIn) -> None:
    suitecrm.control({"fault": "500", "fault_path": "Contacts"})
    async with sink_into(suitecrm) as sink:
        with pytest.raises(DeliveryIncomplete) as half:
            await sink.deliver(call())
        assert "parent_id" not in only(suitecrm)
        suitecrm.control({"fault": None})
        receipt = await sink.deliver(again(call(), half.value.progress))
    assert receipt.record is not None
    assert (receipt.record.outcome, receipt.record.linked) == ("created", CONTACT)
    assert only(suitecrm)["parent_id"] == CONTACT
    assert suitecrm.links[only(suitecrm)["id"]] == {"contacts": {CONTACT}}


async def test_what_suitecrm_refuses_is_rejected_or_refused_with_its_reason(
    suitecrm: SuiteCrmStandIn,
) -> None:
    async with sink_into(suitecrm, fields={"data.attributes.colour": "red"}) as sink:
        with pytest.raises(DeliveryRejected, match="Property colour in Call module is invalid"):
            await sink.deliver(call())
    for trouble in ({"denied": ["Calls"]}, {"denied": [], "enabled": False}):
        async with sink_into(suitecrm) as sink:
            await sink.deliver(agent("1000", "ann@example.com"))
            suitecrm.control(trouble)
            with pytest.raises(DeliveryUnavailable, match="no rights, or the user") as refused:
                await sink.deliver(call(agent_user=None, phone_number=None))
            assert refused.value.kind is FailureKind.REFUSED
    assert not suitecrm.writes
