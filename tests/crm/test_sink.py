"""Delivering into each CRM's stand-in: each call is one record, whatever happens on the way."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from simulators.crms.__main__ import names, stand_in
from simulators.crms.base import CrmStandIn
from tests.crm.delivering import AGENT, Worker, worker_for
from worker.core.errors import DeliveryUnavailable, FailureKind
from worker.core.ports import Receipt
from worker.crm.sink import KeyedLock

CRMS = names()
WITHOUT_LOGIN = {"espocrm", "hubspot", "pipedrive"}
"""Those with a key that never ends."""


@pytest.fixture(params=CRMS)
async def crm(request: pytest.FixtureRequest) -> AsyncIterator[CrmStandIn]:
    """Serve each CRM, prepared as its preset wants it."""
    async with stand_in(request.param)() as opened:
        prepare = getattr(opened, "prepare", None)
        if prepare is not None:
            prepare()
        yield opened


@pytest.fixture
async def worker(crm: CrmStandIn) -> AsyncIterator[Worker]:
    async with worker_for(crm) as opened:
        yield opened


def ids(receipt: Receipt) -> str:
    assert receipt.record is not None
    assert receipt.record.id is not None
    return receipt.record.id


async def test_a_call_becomes_a_record_and_a_repeat_none(crm: CrmStandIn, worker: Worker) -> None:
    first = await worker.deliver()
    assert first.record is not None
    assert first.record.outcome == "created"
    again = await worker.deliver()
    assert again.record is not None
    assert again.record.outcome in {"updated", "duplicate"}
    assert ids(first) == ids(again)
    assert crm.report()["doubles"] == {}
    assert list(crm.writes.values()) == [1]


async def test_an_answer_that_is_lost_makes_no_second_record(crm: CrmStandIn, worker: Worker) -> None:
    crm.control({"fault": "lose_answer", "fail_next": 1})
    receipt = await worker.deliver_in_the_end()
    assert ids(receipt)
    assert crm.report()["doubles"] == {}
    assert list(crm.writes.values()) == [1]


@pytest.mark.parametrize("fault", ["500", "503", "drop"])
async def test_a_fault_is_got_over(crm: CrmStandIn, worker: Worker, fault: str) -> None:
    crm.control({"fault": fault, "fail_next": 2})
    receipt = await worker.deliver_in_the_end()
    assert ids(receipt)
    assert list(crm.writes.values()) == [1]
    for error in worker.failures:
        assert not isinstance(error, DeliveryUnavailable) or error.kind is FailureKind.OUTAGE


async def test_a_storm_of_refusals_asks_to_come_back_later(crm: CrmStandIn, worker: Worker) -> None:
    await worker.deliver()
    crm.control({"storm": 60})
    with pytest.raises(DeliveryUnavailable) as caught:
        await worker.deliver(call_id="V2201405090000012345")
    assert caught.value.kind in {FailureKind.BUSY, FailureKind.OUTAGE}
    assert list(crm.writes.values()) == [1]


@pytest.mark.parametrize("crm", sorted({*CRMS} - WITHOUT_LOGIN), indirect=True)
async def test_a_login_that_was_ended_is_renewed(crm: CrmStandIn, worker: Worker) -> None:
    await worker.deliver()
    issued = crm.tokens_issued
    crm.control({"revoke_tokens": True})
    await worker.deliver(call_id="V2201405090000012345")
    assert (crm.tokens_issued, worker.failures) == (issued + 1, [])


async def test_many_calls_at_once_are_one_record_each(crm: CrmStandIn, worker: Worker) -> None:
    keys = [f"V{number}201405090000012345" for number in range(10)]
    tasks = [worker.deliver_in_the_end(call_id=key, phone_number=None) for key in keys for _ in range(2)]
    receipts = await asyncio.gather(*tasks)
    assert len({ids(receipt) for receipt in receipts}) == 10
    assert list(crm.writes.values()) == [1] * 10
    assert max(crm.tokens_issued, 1) == 1, "one login for all"


async def test_an_agents_event_is_delivered(worker: Worker) -> None:
    receipt = await worker.deliver(AGENT)
    assert receipt.record is None
    assert receipt.detail in {"done", "skipped"}


# --- one flight per key ---------------------------------------------------------------------------


async def test_a_key_has_one_holder_and_is_forgotten_after_the_last() -> None:
    locks = KeyedLock()
    log: list[Any] = []

    async def hold(key: str, name: str) -> None:
        async with locks.hold(key):
            log.append(name)
            await asyncio.sleep(0)
            log.append(name)

    await asyncio.gather(hold("a", "1"), hold("a", "2"), hold("b", "3"))
    assert [name for name in log if name != "3"] == ["1", "1", "2", "2"]
    assert vars(locks)["_locks"] == {}
