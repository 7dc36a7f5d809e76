"""From events to look-ups: which are made, which are shared, and where the dialer's times are."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from pydantic import SecretStr

from tests.adapters.raw import until
from worker.core.errors import EnrichmentRejected, EnrichmentUnavailable, NotReady
from worker.core.events import Event, EventType
from worker.core.records import AgentEnrichment, CallEnrichment
from worker.demo.dialer import DEFAULT_PASSWORD, DEFAULT_USER, DialerAgent, DialerCall, StandInDialer
from worker.settings import VicidialSettings
from worker.vicidial.client import DialerClient, open_session
from worker.vicidial.enricher import VicidialEnricher
from worker.vicidial.zone import DialerZone

CALL = "V1201405090000012345"
NEW_YORK = ZoneInfo("America/New_York")


def event(subject: str, kind: EventType = EventType.CALL_ENDED) -> Event:
    return Event(type=kind, id="e1", occurred_at=datetime(2026, 11, 20, tzinfo=UTC), subject=subject, data={})


def agent(subject: str) -> Event:
    return event(subject, EventType.AGENT_ONBOARDED)


@pytest.fixture
async def dialer() -> AsyncIterator[StandInDialer]:
    async with StandInDialer() as running:
        yield running


@pytest.fixture
async def client(dialer: StandInDialer) -> AsyncIterator[DialerClient]:
    settings = VicidialSettings(
        url=dialer.url, user=DEFAULT_USER, password=SecretStr(DEFAULT_PASSWORD), timeout=timedelta(seconds=5)
    )
    async with open_session(settings) as session:
        yield DialerClient(settings, session, refused_probe=timedelta(minutes=5))


@pytest.fixture
def enricher(client: DialerClient) -> VicidialEnricher:
    return VicidialEnricher(client, DialerZone(NEW_YORK, client.version))


async def test_a_call_and_an_agent_are_looked_up(enricher: VicidialEnricher, dialer: StandInDialer) -> None:
    call, found = await enricher.enrich(event(CALL)), await enricher.enrich(agent("jane-doe_1"))
    assert isinstance(call, CallEnrichment)
    assert call.call.started_at == datetime(2026, 11, 20, 14, 5, 9, tzinfo=NEW_YORK)
    assert isinstance(found, AgentEnrichment)
    assert found.agent.agent_user == "jane-doe_1"
    assert dict(dialer.asked) == {"callid_info": 1, "agent_campaigns": 1}


DROPPED = ["10'00", " 1000", "1000\n", "1000\x00", "10 00", "1000%", "josé", "٣", "a|b", ".", "a@b", "\ud800"]


@pytest.mark.parametrize("subject", [*DROPPED, "V-1", "V_1"])
async def test_a_call_id_with_characters_that_the_dialer_drops_is_not_asked_for(
    subject: str, enricher: VicidialEnricher, dialer: StandInDialer
) -> None:
    with pytest.raises(EnrichmentRejected, match="the call id has characters") as caught:
        await enricher.enrich(event(subject))
    assert caught.value.label == "rejected_by_dialer"
    assert dialer.served == 0


@pytest.mark.parametrize("subject", DROPPED)
async def test_an_agent_with_characters_that_the_dialer_drops_is_not_asked_for(
    subject: str, enricher: VicidialEnricher, dialer: StandInDialer
) -> None:
    with pytest.raises(EnrichmentRejected, match="the agent user has characters"):
        await enricher.enrich(agent(subject))
    assert dialer.served == 0


@pytest.mark.parametrize("status", ["QUEUE", "INCALL", "DISPO", "XFER", ""])
async def test_a_call_that_is_not_final_is_not_ready_and_carries_what_is_known(
    status: str, enricher: VicidialEnricher, dialer: StandInDialer
) -> None:
    dialer.add_call(DialerCall(call_id="V1202150000000012346", status=status))
    with pytest.raises(NotReady, match=status or "empty") as caught:
        await enricher.enrich(event("V1202150000000012346"))
    assert caught.value.label == "not_final"
    assert isinstance(caught.value.enrichment, CallEnrichment)
    assert caught.value.enrichment.call.phone_number == "3125551212"


async def test_an_unknown_call_is_not_found(enricher: VicidialEnricher) -> None:
    with pytest.raises(NotReady) as caught:
        await enricher.enrich(event("V9999999999999999999"))
    assert (caught.value.label, caught.value.enrichment) == ("not_found", None)


# --- look-ups in flight


async def test_identical_look_ups_in_flight_share_one_request(
    enricher: VicidialEnricher, dialer: StandInDialer
) -> None:
    dialer.delay = 0.05
    dialer.agents[CALL] = DialerAgent(user=CALL, campaigns=("SALES1",))
    events = [*[event(CALL)] * 20, *[agent("1000")] * 20, agent(CALL)]
    found = await asyncio.gather(*map(enricher.enrich, events))
    assert found[:20] == [found[0]] * 20
    assert found[20:40] == [found[20]] * 20
    assert (dialer.count("callid_info", CALL), dialer.count("agent_campaigns", "1000")) == (1, 1)
    assert dialer.count("agent_campaigns", CALL) == 1
    await enricher.enrich(event(CALL))
    assert dialer.count("callid_info") == 2  # only what is in flight is shared, nothing is kept


async def test_a_shared_failure_fails_each_and_is_not_kept(
    enricher: VicidialEnricher, dialer: StandInDialer
) -> None:
    dialer.delay = 0.05
    dialer.plant(CALL, body="", times=1)
    failed = await asyncio.gather(*(enricher.enrich(event(CALL)) for _ in range(5)), return_exceptions=True)
    assert [type(each) for each in failed] == [EnrichmentUnavailable] * 5
    assert dialer.served == 1
    await enricher.enrich(event(CALL))


async def test_the_cancellation_of_the_one_that_flies_does_not_fail_the_others(
    enricher: VicidialEnricher, dialer: StandInDialer
) -> None:
    dialer.fault = "hang"
    leader = asyncio.ensure_future(enricher.enrich(event(CALL)))
    await until(lambda: dialer.concurrent == 1)
    followers = [asyncio.ensure_future(enricher.enrich(event(CALL))) for _ in range(5)]
    await asyncio.sleep(0)
    dialer.fault = None
    leader.cancel()
    found = await asyncio.gather(*followers)
    assert found == [found[0]] * 5
    assert leader.cancelled()
    assert dialer.served == 2


async def test_the_cancellation_of_one_that_waits_touches_nobody_else(
    enricher: VicidialEnricher, dialer: StandInDialer
) -> None:
    dialer.delay = 0.05
    tasks = [asyncio.ensure_future(enricher.enrich(event(CALL))) for _ in range(3)]
    await until(lambda: dialer.concurrent == 1)
    tasks[1].cancel()
    await asyncio.gather(tasks[0], tasks[2])
    assert (tasks[1].cancelled(), dialer.served) == (True, 1)


async def test_what_nobody_foresaw_fails_the_one_it_happened_to(
    enricher: VicidialEnricher, dialer: StandInDialer, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = AgentEnrichment.model_validate({"agent": {"agent_user": "1"}})
    answers: Iterator[object] = iter([RuntimeError("a bug"), known])

    async def look_up(_: object, __: str) -> object:
        await asyncio.sleep(0)
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(DialerClient, "agent_campaigns", look_up)
    first, *others = await asyncio.gather(
        *(enricher.enrich(agent("1")) for _ in range(2)), return_exceptions=True
    )
    assert isinstance(first, RuntimeError)
    assert isinstance(others[0], AgentEnrichment)


# --- the zone


class Version:
    """The dialer's `version`, as a test wants it; it remembers how often it was asked."""

    def __init__(self, *hours: float | None) -> None:
        self.hours = list(hours)
        self.asked = 0

    async def __call__(self) -> str:
        self.asked += 1
        hours = self.hours.pop(0) if len(self.hours) > 1 else self.hours[0]
        await asyncio.sleep(0)
        if hours is None:
            raise EnrichmentUnavailable("down")
        local = datetime(2026, 11, 22, tzinfo=UTC) + timedelta(hours=hours)
        return f"VERSION: 2.14|DATE: {local:%Y-%m-%d %H:%M:%S}|EPOCH: 1795305600|DST: 0|TZ: -8.00|"


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def zone_of(version: Version, clock: Clock) -> DialerZone:
    return DialerZone(None, version, clock)


EASTERN = timezone(timedelta(hours=-5))
CENTRAL = timezone(timedelta(hours=-6))


async def test_the_setting_is_the_zone_and_nobody_is_asked() -> None:
    version = Version(-5)
    assert await DialerZone(NEW_YORK, version).get() is NEW_YORK
    assert version.asked == 0


async def test_without_a_setting_the_offset_is_measured_again_every_hour() -> None:
    version, clock = Version(-5, -6), Clock()
    zone = zone_of(version, clock)
    for seconds, asked, expected in [
        (0, 1, EASTERN),
        (3599, 1, EASTERN),
        (1, 2, CENTRAL),
        (3599, 2, CENTRAL),
    ]:
        clock.now += seconds
        assert await zone.get() == expected
        assert version.asked == asked


async def test_an_unknown_offset_is_asked_for_again_after_a_minute() -> None:
    version, clock = Version(None, -5), Clock()
    zone = zone_of(version, clock)
    for seconds, asked, expected in [(0, 1, None), (59, 1, None), (1, 2, EASTERN)]:
        clock.now += seconds
        assert await zone.get() == expected
        assert version.asked == asked


async def test_an_offset_that_was_known_is_used_while_the_dialer_is_down() -> None:
    version, clock = Version(-5, None, None, -6), Clock()
    zone = zone_of(version, clock)
    assert await zone.get() == EASTERN
    clock.now += 3600
    assert await zone.get() == EASTERN
    clock.now += 60
    assert (await zone.get(), version.asked) == (EASTERN, 3)
    clock.now += 60
    assert (await zone.get(), version.asked) == (CENTRAL, 4)


async def test_all_wait_for_the_first_answer_and_for_no_later_one() -> None:
    version, clock = Version(-5, -6), Clock()
    zone = zone_of(version, clock)
    assert await asyncio.gather(*(zone.get() for _ in range(5))) == [EASTERN] * 5
    clock.now += 3600
    assert await asyncio.gather(*(zone.get() for _ in range(5))) == [CENTRAL, *[EASTERN] * 4]
    assert version.asked == 2


async def test_a_cancelled_question_is_asked_by_the_next_one() -> None:
    version, clock = Version(-5), Clock()
    zone = zone_of(version, clock)
    first, second = (asyncio.ensure_future(zone.get()) for _ in range(2))
    await asyncio.sleep(0)
    assert version.asked == 1
    first.cancel()
    assert await second == EASTERN
    assert version.asked == 2


async def test_the_events_times_are_in_the_measured_zone_or_not_known(
    client: DialerClient, dialer: StandInDialer
) -> None:
    for body, expected in [
        ("VERSION: 2.14|DATE: 2026-11-21 19:00:00|EPOCH: 1795305600|\n", "2026-11-20T14:05:09-05:00"),
        ("ERROR: NO FUNCTION SPECIFIED\n", None),
    ]:
        dialer.plant("", function="version", body=body)
        enricher = VicidialEnricher(client, DialerZone(None, client.version))
        found = await enricher.enrich(event(CALL))
        assert isinstance(found, CallEnrichment)
        assert (found.call.started_at and found.call.started_at.isoformat()) == expected
        assert found.call.talk_seconds == 120
