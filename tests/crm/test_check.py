"""`crm-sync check` of a CRM: who is let in, what is missing, and what to do."""

from collections.abc import Mapping
from typing import Any

import pytest

from simulators.crms.__main__ import names, stand_in
from simulators.crms.base import CrmStandIn
from simulators.crms.hubspot import HubSpotStandIn
from simulators.crms.salesforce import SalesforceStandIn
from tests.adapters.raw import closed_port
from tests.crm.delivering import settings_for
from worker.check import Finding, Level, run
from worker.check.crm import check_crm


async def found(crm: CrmStandIn | Mapping[str, Any], **changes: Any) -> dict[str, Finding]:  # noqa: ANN401
    own = crm.settings() if isinstance(crm, CrmStandIn) else crm
    settings = settings_for({**own, **changes})
    return {finding.name: finding async for finding in check_crm(settings)}


@pytest.mark.parametrize("name", names())
async def test_a_crm_that_is_prepared_is_in_order(name: str) -> None:
    async with stand_in(name)() as crm:
        prepare = getattr(crm, "prepare", None)
        if prepare is not None:
            prepare()
        findings = await found(crm)
        assert {each.level for each in findings.values()} == {Level.OK}, findings
        assert " at 127.0.0.1:" in findings["sink"].text
        assert crm.writes == {}


async def test_what_is_missing_is_named_with_what_to_do() -> None:
    async with HubSpotStandIn() as crm:
        findings = await found(crm)
    assert findings["sink"].level is Level.OK
    missing = findings["crm"]
    assert (missing.level, missing.text) == (Level.FAILED, "something that it needs is missing")
    what, answered = "the unique property on calls", "the CRM answered 404"
    assert missing.advice[0] == f"{what}: {answered}; run `crm-sync crm prepare`, or correct `sink.crm.key`"


async def test_a_key_that_is_refused_says_which_right_is_missing_and_never_the_key() -> None:
    async with HubSpotStandIn() as crm:
        crm.prepare()
        findings = await found(crm, token="pat-na1-not-the-key")
    assert findings["crm"].level is Level.FAILED
    assert any("crm.objects.contacts.read" in each for each in findings["crm"].advice)
    assert "not-the-key" not in str(findings)


async def test_a_login_that_is_refused_says_what_to_check_and_nothing_more_is_tried() -> None:
    async with SalesforceStandIn() as crm:
        crm.prepare()
        findings = await found(crm, client_secret="the-wrong-one-of-all")
        assert list(findings) == ["sink"]
        assert findings["sink"].level is Level.FAILED
        assert "the login is refused" in findings["sink"].text
        assert findings["sink"].advice == (
            "check the address, the user and the secret below sink.crm, and what they may do",
        )
        assert len(crm.requests) == 1


@pytest.mark.parametrize("fault", ["500", "drop"])
async def test_a_crm_in_trouble_is_not_taken_for_one_that_is_not_prepared(fault: str) -> None:
    async with HubSpotStandIn() as crm:
        crm.prepare()
        crm.control({"fault": fault})
        advice = (await found(crm))["crm"].advice
    assert not any("prepare" in each for each in advice)
    assert "try again later" in advice[0] or "check the address below sink.crm" in advice[0]


async def test_nobody_at_the_address_is_a_failure() -> None:
    findings = await found({"preset": "hubspot", "token": "pat-na1-x-x-x", "url": "http://127.0.0.1:9"})
    assert findings["crm"].level is Level.FAILED
    assert len(findings["crm"].advice) == 1
    assert "can't be reached" in findings["crm"].advice[0]


async def test_a_check_that_can_not_be_written_says_where() -> None:
    async with HubSpotStandIn() as crm:
        own = {**crm.settings(), "key": ""}
        findings = await found({**own, "version": "{{"})
    assert findings["crm"].level is Level.FAILED


async def test_the_whole_check_looks_at_the_crm_too() -> None:
    broker = {"url": f"amqp://127.0.0.1:{closed_port()}/"}
    async with HubSpotStandIn() as crm:
        crm.prepare()
        settings = settings_for(crm.settings(), broker=broker)
        dialer = settings.vicidial.model_copy(update={"url": f"http://127.0.0.1:{closed_port()}/"})
        all_of_them = [each async for each in run(settings.model_copy(update={"vicidial": dialer}))]
    levels = {finding.name: finding.level for finding in all_of_them}
    assert (levels["sink"], levels["crm"]) == (Level.OK, Level.OK)
    assert (levels["broker"], levels["dialer"]) == (Level.FAILED, Level.FAILED)
    assert all_of_them[0].text == "complete; the sink is a crm"
