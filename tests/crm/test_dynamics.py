"""The preset dynamics against the stand-in Dynamics 365: each call is there once, and completed."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from simulators.crms.dynamics import DynamicsStandIn
from tests.crm.delivering import again, agent, call, sink_into
from worker.core.errors import DeliveryIncomplete, DeliveryRejected, DeliveryUnavailable, FailureKind

CONTACT = "aaaaaaaa-0000-4000-8000-000000000001"
LEAD = "bbbbbbbb-0000-4000-8000-000000000002"
USER = "cccccccc-0000-4000-8000-000000000003"


@pytest.fixture
async def dynamics() -> AsyncIterator[DynamicsStandIn]:
    async with DynamicsStandIn() as crm:
        crm.seed("contacts", {"id": CONTACT, "telephone1": "(312) 555-1212"})
        crm.seed("leads", {"id": LEAD, "mobilephone": "+13125551213", "statecode": 0})
        crm.seed("systemusers", {"id": USER, "domainname": "ann@example.com", "isdisabled": False})
        crm.seed("systemusers", {"employeeid": "1001", "isdisabled": True})
        yield crm


def only(crm: DynamicsStandIn) -> dict[str, Any]:
    (made,) = crm.records["phonecalls"].values()
    return made


def asked(crm: DynamicsStandIn) -> list[str]:
    """Return what was asked for of the phone call: the method, and the state if it is changed."""
    of_calls = [each for each in crm.requests if "phonecalls" in each.path]
    return [
        f"{each.method} {each.body['statecode']}" if each.body and "statecode" in each.body else each.method
        for each in of_calls
    ]


async def test_a_call_is_written_and_completed_with_its_parties(dynamics: DynamicsStandIn) -> None:
    async with sink_into(dynamics) as sink:
        await sink.deliver(agent("1000", "ann@example.com"))
        receipt = await sink.deliver(call())
    made = only(dynamics)
    assert receipt.record is not None
    assert (receipt.record.outcome, receipt.record.linked) == ("created", CONTACT)
    assert made == {
        "activityid": receipt.record.id,
        "subject": "Outbound call 3125551212",
        "description": "Disposition Sale\nCampaign SALES1\nAgent 1000\nCall id V1201405090000000001",
        "category": "SALES1",
        "subcategory": "Sale",
        "phonenumber": "+13125551212",
        "directioncode": True,
        "leftvoicemail": False,
        "actualstart": "2026-11-20T19:05:09Z",
        "actualend": "2026-11-20T19:07:09Z",
        "actualdurationminutes": 2,
        "ownerid@odata.bind": f"/systemusers({USER})",
        "regardingobjectid_contact_phonecall@odata.bind": f"/contacts({CONTACT})",
        "phonecall_activity_parties": [
            {"partyid_systemuser@odata.bind": f"/systemusers({USER})", "participationtypemask": 1},
            {"partyid_contact@odata.bind": f"/contacts({CONTACT})", "participationtypemask": 2},
        ],
        "statecode": 1,
        "statuscode": 2,
    }


async def test_many_calls_are_each_there_once(dynamics: DynamicsStandIn) -> None:
    keys = [f"V12014050900000000{number:02}" for number in range(20)]
    async with sink_into(dynamics) as sink:
        await asyncio.gather(*(sink.deliver(call(key)) for key in keys))
        lead = await sink.deliver(
            call("V2", phone_number="3125551213", direction="inbound", agent_user="1001")
        )
        unknown = await sink.deliver(call("V3", phone_number="3125551214", agent_user=None))
    assert (len(dynamics.writes), dynamics.doubles, dynamics.tokens_issued) == (22, {}, 1)
    assert {each["statecode"] for each in dynamics.records["phonecalls"].values()} == {1}
    assert lead.record is not None
    assert lead.record.linked == LEAD
    party = {"partyid_lead@odata.bind": f"/leads({LEAD})", "participationtypemask": 1}
    made = dynamics.records["phonecalls"][str(lead.record.id)]
    assert (made["phonecall_activity_parties"], made["directioncode"], made["statuscode"]) == (
        [party],
        False,
        4,
    )
    assert unknown.record is not None
    assert unknown.record.linked is None


@pytest.mark.parametrize("fail_next", [1, 2])
async def test_a_lost_answer_makes_no_second_call_and_the_retry_completes_it(
    dynamics: DynamicsStandIn, fail_next: int
) -> None:
    dynamics.control({"fault": "lose_answer", "fault_path": "phonecalls", "fail_next": fail_next})
    progress = None
    async with sink_into(dynamics) as sink:
        for _ in range(fail_next):
            with pytest.raises(DeliveryUnavailable) as lost:
                await sink.deliver(again(call(), progress))
            progress = lost.value.progress
        receipt = await sink.deliver(again(call(), progress))
    assert receipt.record is not None
    assert receipt.record.linked == CONTACT
    assert (dynamics.doubles, only(dynamics)["statecode"]) == ({}, 1)


async def test_a_call_whose_completion_failed_is_only_completed(dynamics: DynamicsStandIn) -> None:
    async with sink_into(dynamics) as sink:
        await sink.deliver(call("V0"))  # logs in, and finds the contact
        dynamics.requests.clear()
        dynamics.control({"fault": "lose_answer", "fault_path": "phonecalls", "fail_next": 1})
        with pytest.raises(DeliveryUnavailable):
            await sink.deliver(call())
        dynamics.control({"fault": "503", "fault_path": "contacts"})
        await sink.deliver(call())
    # Made; then there already, open, so changed and completed.
    assert asked(dynamics) == ["PATCH", "PATCH", "GET", "PATCH", "PATCH 1"]


async def test_a_correction_opens_a_completed_call_again(dynamics: DynamicsStandIn) -> None:
    async with sink_into(dynamics) as sink:
        await sink.deliver(call(status="CALLBK"))
        receipt = await sink.deliver(call(status="SALE"))
    assert receipt.record is not None
    assert receipt.record.outcome == "duplicate"
    made = only(dynamics)
    assert (made["subcategory"], made["statecode"], made["statuscode"]) == ("Sale", 1, 2)
    assert asked(dynamics)[-5:] == ["PATCH", "GET", "PATCH 0", "PATCH", "PATCH 1"]


async def test_a_call_that_somebody_deleted_or_canceled_stays_so(dynamics: DynamicsStandIn) -> None:
    async with sink_into(dynamics) as sink:
        await sink.deliver(call())
        only(dynamics)["statecode"] = 2
        await sink.deliver(call(status="NI"))
    assert (only(dynamics)["statecode"], only(dynamics)["subcategory"]) == (2, "Sale")


async def test_a_token_that_is_no_longer_good_is_replaced(dynamics: DynamicsStandIn) -> None:
    async with sink_into(dynamics) as sink:
        await sink.deliver(call("V1"))
        dynamics.control({"revoke_tokens": True})
        await asyncio.gather(*(sink.deliver(call(f"V2{number}")) for number in range(5)))
    assert (len(dynamics.writes), dynamics.doubles, dynamics.tokens_issued) == (6, {}, 2)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"client_secret": "an-old-secret"}, "AADSTS7000215"),
        ({"client_id": USER}, "AADSTS700016"),
        ({"tenant": USER}, "AADSTS90002"),
    ],
)
async def test_a_refused_login_is_no_fault_of_the_call(
    dynamics: DynamicsStandIn, wrong: dict[str, str], reason: str
) -> None:
    async with sink_into(dynamics, **wrong) as sink:
        with pytest.raises(DeliveryUnavailable, match=reason) as refused:
            await sink.deliver(call())
    assert refused.value.kind is FailureKind.REFUSED


async def test_a_storm_is_waited_for_and_an_outage_tried_again(dynamics: DynamicsStandIn) -> None:
    async with sink_into(dynamics) as sink:
        await sink.deliver(call("V1"))
        dynamics.control({"fault": "503", "fault_path": "phonecalls"})
        with pytest.raises(DeliveryUnavailable) as down:
            await sink.deliver(call("V2"))
        dynamics.control({"fault": None, "storm": 17})
        with pytest.raises(DeliveryUnavailable) as busy:
            await sink.deliver(call("V2"))
    assert down.value.kind is FailureKind.OUTAGE
    assert busy.value.kind is FailureKind.BUSY
    assert busy.value.retry_after is not None
    assert timedelta(seconds=15) < busy.value.retry_after <= timedelta(seconds=18)


async def test_a_search_that_is_down_holds_no_call_up_and_the_link_follows(dynamics: DynamicsStandIn) -> None:
    dynamics.control({"fault": "500", "fault_path": "contacts"})
    async with sink_into(dynamics) as sink:
        with pytest.raises(DeliveryIncomplete) as half:
            await sink.deliver(call())
        made = only(dynamics)
        assert (made["statecode"], "phonecall_activity_parties" in made) == (1, False)
        dynamics.control({"fault": None})
        receipt = await sink.deliver(again(call(), half.value.progress))
    assert receipt.record is not None
    assert (receipt.record.outcome, receipt.record.linked) == ("created", CONTACT)
    party = {"partyid_contact@odata.bind": f"/contacts({CONTACT})", "participationtypemask": 2}
    made = only(dynamics)
    assert (made["statecode"], made["phonecall_activity_parties"]) == (1, [party])


async def test_an_own_field_reaches_a_correction_too(dynamics: DynamicsStandIn) -> None:
    async with sink_into(dynamics, fields={"scheduledend": "{{ call_end | utc }}", "category": None}) as sink:
        await sink.deliver(call())
        await sink.deliver(call(talk_seconds=60))
    made = only(dynamics)
    assert (made["scheduledend"], "category" in made) == ("2026-11-20T19:06:09Z", False)


async def test_what_dynamics_refuses_is_rejected_or_refused_with_its_reason(
    dynamics: DynamicsStandIn,
) -> None:
    async with sink_into(dynamics, fields={"colour": "red"}) as sink:
        with pytest.raises(DeliveryRejected, match="undeclared property 'colour'"):
            await sink.deliver(call())
    dynamics.read_only.add(USER)
    async with sink_into(dynamics, owners={"1000": USER}) as sink:
        with pytest.raises(DeliveryUnavailable, match="prvReadActivity") as refused:
            await sink.deliver(call())
    assert refused.value.kind is FailureKind.REFUSED
    async with sink_into(dynamics, version="9.9") as sink:
        with pytest.raises(DeliveryUnavailable, match="check `url` and `version`"):
            await sink.deliver(call())
    assert not dynamics.writes
