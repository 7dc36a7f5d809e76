"""The preset espocrm against the stand-in EspoCRM: each call is there once, with the right fields."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import aiohttp
import pytest

from simulators.crms.espocrm import API_USER, EspoStandIn
from tests.crm.delivering import again, agent, call, sink_into
from worker.core.errors import (
    DeliveryIncomplete,
    DeliveryRejected,
    DeliveryUnavailable,
    FailureKind,
    SinkLoginRefused,
)
from worker.core.ports import CrmRecord

V1 = "V1201405090000000001"
AGENT = "6b0dbb23d43113418"


@pytest.fixture
async def espo() -> AsyncIterator[EspoStandIn]:
    async with EspoStandIn() as crm:
        crm.seed("Contact", {"id": "c1", "lastName": "O'Brien", "phoneNumber": "+13125551212"})
        crm.seed("Lead", {"id": "l1", "lastName": "Lead", "phoneNumber": "3125550000"})
        yield crm


def the_only(crm: EspoStandIn, key: str = V1) -> str:
    """Return the id of the only record of a call."""
    (record_id,) = crm.find("Call", cCallId=key)
    return record_id


def made(crm: EspoStandIn, key: str = V1) -> dict[str, Any]:
    """Return the only record of a call."""
    return crm.records["Call"][the_only(crm, key)]


async def test_calls_are_written_once_and_linked(espo: EspoStandIn) -> None:
    keys = [f"V120140509000000000{number}" for number in range(5)]
    async with sink_into(espo) as sink:
        await sink.deliver(agent("1000", "a1000@example.com"))
        await asyncio.gather(*(sink.deliver(call(key)) for key in keys))
        lead = await sink.deliver(call("V2", phone_number="3125550000", status="NA", talk_seconds=None))
        repeat = await sink.deliver(call(keys[0]))
    assert espo.writes == Counter(dict.fromkeys([*keys, "V2"], 1))
    written = made(espo, keys[0])
    del written["createdAt"]
    assert written == {
        "cCallId": keys[0],
        "name": "Outbound call +13125551212",
        "status": "Held",
        "direction": "Outbound",
        "dateStart": "2026-11-20 19:05:09",
        "dateEnd": "2026-11-20 19:07:09",
        "assignedUserId": AGENT,
        "usersIds": [AGENT],
        "contactsIds": ["c1"],
        "leadsIds": [],
        "description": "Status SALE, 120 s of talk, campaign SALES1, list 1001, agent 1000",
    }
    assert lead.record == CrmRecord("created", the_only(espo, "V2"), "l1")
    assert (made(espo, "V2")["leadsIds"], made(espo, "V2")["status"]) == (["l1"], "Not Held")
    assert repeat.record == CrmRecord("duplicate", the_only(espo, keys[0]), "c1")
    assert espo.max_concurrent <= 4


async def test_a_correction_changes_the_record_and_keeps_its_links_and_owner(espo: EspoStandIn) -> None:
    async with sink_into(espo, owners={"1000": AGENT}) as sink:
        await sink.deliver(call())
        await sink.deliver(call(status="B", talk_seconds=0, agent_user=None, direction="inbound"))
    changed = made(espo)
    assert (changed["status"], changed["direction"], changed["contactsIds"]) == (
        "Not Held",
        "Inbound",
        ["c1"],
    )
    assert changed["assignedUserId"] == AGENT
    assert espo.writes == {V1: 1}


@pytest.mark.parametrize("fault", ["lose_answer", "503", "html"])
async def test_a_lost_answer_makes_no_second_record(espo: EspoStandIn, fault: str) -> None:
    async with sink_into(espo) as sink:
        await sink.deliver(call("V0"))
        espo.control({"fault": fault, "fault_path": "/api/v1/Call", "fail_next": 1})
        with pytest.raises(DeliveryUnavailable) as lost:
            await sink.deliver(call())
        receipt = await sink.deliver(again(call(), lost.value.progress))
    assert espo.writes == {"V0": 1, V1: 1}
    assert receipt.record is not None
    assert (receipt.record.id, receipt.record.linked) == (the_only(espo), "c1")


async def test_espocrms_own_check_names_the_record(espo: EspoStandIn) -> None:
    async with sink_into(espo) as one, sink_into(espo) as two:
        espo.control({"unique": True, "delay": 0.05})
        receipts = await asyncio.gather(one.deliver(call()), two.deliver(call()))
    records = [receipt.record for receipt in receipts if receipt.record is not None]
    assert sorted(each.outcome for each in records) == ["created", "duplicate"]
    assert {each.id for each in records} == {the_only(espo)}


async def test_a_search_that_is_down_holds_no_call_up_and_the_link_follows(espo: EspoStandIn) -> None:
    espo.control({"fault": "500", "fault_path": "/Contact"})
    async with sink_into(espo) as sink:
        with pytest.raises(DeliveryIncomplete) as half:
            await sink.deliver(call())
        assert made(espo)["contactsIds"] == []
        espo.control({"fault": None})
        receipt = await sink.deliver(again(call(), half.value.progress))
    assert receipt.record is not None
    assert receipt.record.linked == "c1"
    assert made(espo)["contactsIds"] == ["c1"]
    assert espo.writes == {V1: 1}


async def test_a_wrong_key_is_tried_once_only(espo: EspoStandIn) -> None:
    async with sink_into(espo, token="0" * 32) as sink:
        for _ in range(3):
            with pytest.raises(SinkLoginRefused, match="the API key is wrong"):
                await sink.deliver(call())
    assert espo.by_status == {401: 1}


async def test_a_lockout_after_wrong_keys_is_waited_for(
    espo: EspoStandIn, session: aiohttp.ClientSession
) -> None:
    for _ in range(11):
        await session.get(f"{espo.url}/api/v1/App/user", headers={"X-Api-Key": "wrong"})
    async with sink_into(espo) as sink:
        with pytest.raises(DeliveryUnavailable, match="blocked after failed logins") as busy:
            await sink.deliver(call())
    assert (busy.value.kind, busy.value.retry_after) == (FailureKind.BUSY, timedelta(seconds=60))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"fields": {}}, "Make the field in the Entity Manager"),
        ({"acl": {"Call": {"create": False}}}, "No create access."),
        ({"acl": {"User": {"read": False}}}, "No foreign record access"),
    ],
)
async def test_what_the_administrator_forgot_is_named(
    espo: EspoStandIn, change: dict[str, Any], reason: str
) -> None:
    espo.control(change)
    async with sink_into(espo) as sink:
        with pytest.raises(DeliveryUnavailable, match=reason) as refused:
            await sink.deliver(call())
    assert refused.value.kind is FailureKind.REFUSED


async def test_an_owner_who_is_no_active_user_is_not_sent(espo: EspoStandIn) -> None:
    espo.change("User", AGENT, {"isActive": False})
    async with sink_into(espo, owners={"1000": AGENT}) as sink:
        await sink.deliver(call())
    assert made(espo)["assignedUserId"] == API_USER


async def test_a_contact_that_is_deleted_meanwhile_is_the_reason(espo: EspoStandIn) -> None:
    async with sink_into(espo) as sink:
        await sink.deliver(call("V0"))
        del espo.records["Contact"]["c1"]
        with pytest.raises(DeliveryRejected, match=r"non-existing record.*link: contacts"):
            await sink.deliver(call())


async def test_a_long_key_becomes_a_uuid_of_it(espo: EspoStandIn) -> None:
    async with sink_into(espo) as sink:
        for _ in range(2):
            await sink.deliver(call("K" * 150))
    ((stored, count),) = espo.writes.items()
    assert (len(stored), count) == (36, 1)


async def test_a_field_of_the_operators_own_is_filled_and_changed(espo: EspoStandIn) -> None:
    espo.control({"fields": {"cCallId": 100, "cDisposition": 20}})
    async with sink_into(espo, fields={"cDisposition": "{{ call.status }}"}) as sink:
        await sink.deliver(call())
        await sink.deliver(call(status="NI"))
    assert made(espo)["cDisposition"] == "NI"
