"""One CRM as the settings describe it: secrets that change, tokens in no log, waits that are kept."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from simulators.crms.hubspot import TOKEN, HubSpotStandIn
from simulators.crms.salesforce import CLIENT_SECRET, SalesforceStandIn
from tests.crm.delivering import worker_for
from worker.core.errors import DeliveryUnavailable, FailureKind, SinkLoginRefused

OTHER = "V2201405090000012345"


async def test_after_a_refusal_the_key_is_read_from_its_file_again(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("pat-na1-the-old-one\n")
    async with HubSpotStandIn() as crm:
        crm.prepare()
        own = {**crm.settings(), "token_file": str(file)}
        del own["token"]
        async with worker_for(own) as worker:
            with pytest.raises(DeliveryUnavailable) as caught:
                await worker.deliver(phone_number=None)
            assert caught.value.kind is FailureKind.REFUSED
            with pytest.raises(DeliveryUnavailable):
                await worker.deliver(phone_number=None)
            assert worker.secrets == []
            file.write_text(f"{TOKEN}\n")
            assert (await worker.deliver(phone_number=None)).record is not None
            assert worker.secrets == [TOKEN]
            assert worker.session.scrub(f"it says {TOKEN}") == "it says ***"


async def test_a_file_that_can_not_be_read_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("pat-na1-the-old-one\n")
    async with HubSpotStandIn() as crm:
        own = {**crm.settings(), "token_file": str(file)}
        del own["token"]
        async with worker_for(own) as worker:
            with pytest.raises(DeliveryUnavailable):
                await worker.deliver(phone_number=None)
            file.unlink()
            with pytest.raises(DeliveryUnavailable) as caught:
                await worker.deliver(phone_number=None)
    assert caught.value.kind is FailureKind.REFUSED


async def test_a_refused_login_is_tried_again_at_once_with_a_new_secret(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("the-wrong-client-secret\n")
    async with SalesforceStandIn() as crm:
        crm.prepare()
        own = {**crm.settings(), "client_secret_file": str(file)}
        del own["client_secret"]
        async with worker_for(own) as worker:
            for _ in range(2):
                with pytest.raises(SinkLoginRefused, match="the login is refused"):
                    await worker.deliver()
            logins = [seen for seen in crm.requests if seen.path.endswith("/token")]
            assert len(logins) == 1, "the same secret is not sent twice"
            file.write_text(f"{CLIENT_SECRET}\n")
            assert (await worker.deliver()).record is not None


async def test_a_token_is_known_to_the_log_and_never_shown() -> None:
    async with SalesforceStandIn() as crm:
        crm.prepare()
        async with worker_for(crm) as worker:
            await worker.deliver()
            (token,) = crm.tokens
            assert worker.secrets == [], "the log needs to know only of what it could show"
            assert token not in worker.session.scrub(f"Bearer {token}")


async def test_a_wait_for_everything_holds_the_next_delivery_back() -> None:
    async with HubSpotStandIn() as crm:
        crm.prepare()
        async with worker_for(crm) as worker:
            worker.session.memory.pause(None, timedelta(minutes=1))
            with pytest.raises(DeliveryUnavailable, match="asked to wait") as caught:
                await worker.deliver()
    assert caught.value.kind is FailureKind.BUSY
    assert caught.value.retry_after is not None
    assert crm.requests.maxlen is not None
    assert len(crm.requests) == 0


async def test_deliveries_of_one_number_at_the_same_time_share_one_search() -> None:
    async with HubSpotStandIn() as crm:
        crm.prepare()
        async with worker_for(crm) as worker:
            await asyncio.gather(worker.deliver(), worker.deliver(call_id=OTHER))
            searches = [each for each in crm.requests if each.path.endswith("/contacts/search")]
            assert len(searches) == 1
            assert len(crm.writes) == 2


async def test_each_request_is_counted_by_its_status() -> None:
    async with HubSpotStandIn() as crm:
        crm.prepare()
        async with worker_for(crm) as worker:
            await worker.deliver()
            crm.control({"fault": "500", "fail_next": 1})
            with pytest.raises(DeliveryUnavailable):
                await worker.deliver(call_id=OTHER, phone_number=None)
            assert worker.statuses == ["2xx", "2xx", "5xx"]
