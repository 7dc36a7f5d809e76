"""The preset vtiger against the stand-in vtiger: each call is there once, with the right fields."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from simulators.crms.vtiger import VtigerStandIn
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
AGENT = "19x6"


@pytest.fixture
async def vtiger() -> AsyncIterator[VtigerStandIn]:
    async with VtigerStandIn() as crm:
        crm.seed("Contacts", {"id": "12x501", "lastname": "O'Brien", "mobile": "(312) 555-1212"})
        crm.seed("Leads", {"id": "10x601", "lastname": "Lead", "phone": "+13125550000"})
        named = {"user_name": "ann", "email1": "ann@example.com", "is_admin": "off", "status": "Active"}
        crm.seed("Users", {"id": AGENT} | named)
        crm.crmid = 1000
        yield crm


def the_only(crm: VtigerStandIn, key: str) -> str:
    """Return the id of the only record of a call."""
    (record_id,) = crm.find("PBXManager", sourceuuid=key)
    return record_id


def made(crm: VtigerStandIn, key: str = V1) -> dict[str, str]:
    """Return the only record of a call, without what every record has."""
    record = dict(crm.records["PBXManager"][the_only(crm, key)])
    for name in ("CreatedTime", "ModifiedTime", "source"):
        del record[name]
    return record


def _contact_searches(crm: VtigerStandIn) -> int:
    return sum("FROM Contacts" in each.query.get("query", "") for each in crm.requests)


async def test_calls_are_written_once_and_linked(vtiger: VtigerStandIn) -> None:
    keys = [f"V120140509000000000{number}" for number in range(5)]
    async with sink_into(vtiger) as sink:
        await sink.deliver(agent("1000", "ann@example.com"))
        await asyncio.gather(*(sink.deliver(call(key)) for key in keys))
        lead = await sink.deliver(call("V2", phone_number="3125550000", status="NA", talk_seconds=None))
        searched = _contact_searches(vtiger)
        repeat = await sink.deliver(call(keys[0]))
        await sink.deliver(call("V3"))
    assert vtiger.writes == Counter(dict.fromkeys([*keys, "V2", "V3"], 1))
    assert made(vtiger, keys[0]) == {
        "sourceuuid": keys[0],
        "direction": "outbound",
        "callstatus": "completed",
        "starttime": "2026-11-20 19:05:09",
        "endtime": "2026-11-20 19:07:09",
        "totalduration": "120",
        "billduration": "120",
        "recordingurl": "",
        "gateway": "VICIdial",
        "customernumber": "+13125551212",
        "customer": "12x501",
        "customertype": "Contacts",
        "user": AGENT,
        "assigned_user_id": AGENT,
    }
    assert lead.record == CrmRecord("created", the_only(vtiger, "V2"), "10x601")
    assert repeat.record == CrmRecord("updated", the_only(vtiger, keys[0]), "12x501")
    assert vtiger.tokens_issued == 1
    assert _contact_searches(vtiger) == searched  # the contact of a number is remembered
    assert vtiger.max_concurrent == 1


async def test_a_correction_changes_the_record_and_keeps_its_owner(vtiger: VtigerStandIn) -> None:
    async with sink_into(vtiger, owners={"1000": AGENT}) as sink:
        await sink.deliver(call())
        receipt = await sink.deliver(call(status="B", talk_seconds=0, agent_user=None))
    assert receipt.record is not None
    assert (receipt.record.outcome, receipt.record.linked) == ("updated", "12x501")
    changed = made(vtiger)
    assert (changed["callstatus"], changed["billduration"]) == ("busy", "0")
    assert changed["assigned_user_id"] == AGENT


@pytest.mark.parametrize(
    "trouble",
    [
        {"fault": "lose_answer", "fail_next": 1},
        *({"after_write": [each]} for each in ("trace", "empty", "internal")),
    ],
)
async def test_an_answer_lost_after_the_write_makes_no_second_record(
    vtiger: VtigerStandIn, trouble: dict[str, object]
) -> None:
    vtiger.control(trouble)
    async with sink_into(vtiger) as sink:
        with pytest.raises(DeliveryUnavailable) as lost:
            await sink.deliver(call())
        assert lost.value.kind is FailureKind.OUTAGE
        receipt = await sink.deliver(again(call(), lost.value.progress))
    assert vtiger.writes == {V1: 1}
    assert receipt.record == CrmRecord("updated", the_only(vtiger, V1), "12x501")


async def test_an_ended_session_is_followed_by_another(vtiger: VtigerStandIn) -> None:
    async with sink_into(vtiger) as sink:
        await sink.deliver(call())
        vtiger.control({"revoke_tokens": True})
        await asyncio.gather(*(sink.deliver(call(f"V{number}")) for number in range(5)))
    assert vtiger.tokens_issued == 2
    assert not vtiger.doubles


async def test_workers_that_log_in_at_the_same_moment_all_get_in(vtiger: VtigerStandIn) -> None:
    vtiger.control({"delay": 0.01})
    async with sink_into(vtiger) as one, sink_into(vtiger) as two, sink_into(vtiger) as three:
        sinks = (one, two, three)
        await asyncio.gather(*(sink.deliver(call(f"V{at}")) for at, sink in enumerate(sinks)))
    assert vtiger.writes == {"V0": 1, "V1": 1, "V2": 1}


async def test_a_wrong_access_key_is_refused(vtiger: VtigerStandIn) -> None:
    async with sink_into(vtiger, access_key="no-such-key") as sink:
        with pytest.raises(SinkLoginRefused, match="wrong access key"):
            await sink.deliver(call())
    assert vtiger.tokens_issued == 0


async def test_the_search_that_is_down_holds_no_call_up_and_the_link_follows(vtiger: VtigerStandIn) -> None:
    async with sink_into(vtiger) as sink:
        vtiger.records["Contacts"].clear()  # a contact that is made only later
        await sink.deliver(call("V0", phone_number=None))
        vtiger.seed("Contacts", {"id": "12x501", "lastname": "O'Brien", "mobile": "(312) 555-1212"})
        vtiger.control({"fail_query": "FROM Contacts"})
        with pytest.raises(DeliveryIncomplete) as half:
            await sink.deliver(call())
        assert made(vtiger)["customer"] == ""
        vtiger.control({"fail_query": None})
        receipt = await sink.deliver(again(call(), half.value.progress))
    assert receipt.record is not None
    assert receipt.record.linked == "12x501"
    assert (made(vtiger)["customer"], made(vtiger)["customertype"]) == ("12x501", "Contacts")
    assert vtiger.writes == {"V0": 1, V1: 1}


async def test_a_user_who_is_no_administrator_writes_each_call_once_too(vtiger: VtigerStandIn) -> None:
    own = {"user": "seller", "access_key": "SellersAccessKey", "owners": {"1000": AGENT}}
    async with sink_into(vtiger, **own) as sink:
        for _ in range(2):
            await sink.deliver(call())
        await sink.deliver(agent("1000", "ann@example.com"))
    assert (made(vtiger)["assigned_user_id"], made(vtiger)["user"]) == ("19x5", "")


async def test_an_owner_who_does_not_exist_is_not_sent(vtiger: VtigerStandIn) -> None:
    async with sink_into(vtiger, owners={"1000": "19x99999"}) as sink:
        await sink.deliver(call())
    assert (made(vtiger)["assigned_user_id"], made(vtiger)["user"]) == ("19x1", "")


async def test_nothing_is_cut(vtiger: VtigerStandIn) -> None:
    key, recording = "K" * 150, {"url": f"https://dialer.example/{'r' * 200}"}
    async with sink_into(vtiger) as sink:
        for _ in range(2):
            await sink.deliver(call(key, recordings=[recording], phone_number="9" * 300))
    ((stored, count),) = vtiger.writes.items()
    assert (len(stored), count) == (36, 1)  # a UUID of the key
    assert made(vtiger, stored)["recordingurl"] == ""


async def test_a_quote_in_a_key_is_found_again(vtiger: VtigerStandIn) -> None:
    async with sink_into(vtiger) as sink:
        for _ in range(2):
            await sink.deliver(call("V1'2"))
    assert vtiger.writes == {"V1'2": 1}


async def test_a_unique_field_makes_another_users_record_a_duplicate(vtiger: VtigerStandIn) -> None:
    vtiger.control({"unique": True})
    async with sink_into(vtiger) as sink:
        await sink.deliver(call())
    async with sink_into(vtiger, user="seller", access_key="SellersAccessKey") as sink:
        receipt = await sink.deliver(call())
    assert receipt.record == CrmRecord("duplicate", None, "12x501")
    assert vtiger.writes == {V1: 1}


async def test_a_field_of_the_operators_own_is_filled(vtiger: VtigerStandIn) -> None:
    own = {"element.gateway": "{{ call.campaign_id }}", "element.direction": None}
    async with sink_into(vtiger, fields=own) as sink:
        await sink.deliver(call())
    assert (made(vtiger)["gateway"], made(vtiger)["direction"]) == ("SALES1", "")


async def test_a_text_as_an_owner_is_named_as_the_reason(vtiger: VtigerStandIn) -> None:
    own = {"element.customer": "none"}
    async with sink_into(vtiger, fields=own) as sink:
        with pytest.raises(DeliveryRejected, match="denied for id"):
            await sink.deliver(call())
