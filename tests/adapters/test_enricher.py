"""From events to what the dialer knows: which look-ups are made, shared and cached, and what each adds."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from simulators.dialer import (
    DEFAULT_PASSWORD,
    DEFAULT_USER,
    ApiUser,
    Campaign,
    DialerAgent,
    DialerCall,
    StandInDialer,
)
from simulators.dialer.requests import DialerRequest, Planted
from tests.adapters.dialer_client import make_breakers
from tests.adapters.raw import until
from worker.core.errors import EnrichmentRejected, EnrichmentUnavailable, NotReady, NotReadyReason
from worker.core.events import Event, EventType, Inbound, decode
from worker.core.payload import AgentEnrichment, CallEnrichment, CallRecord, check_access
from worker.core.pipeline import build_payload
from worker.settings import VicidialSettings
from worker.vicidial.client import DialerClient, open_session
from worker.vicidial.clock import DialerClock
from worker.vicidial.enricher import VicidialEnricher

CALL = "V1201405090000012345"
NEW_YORK = ZoneInfo("America/New_York")
ENDED = datetime(2026, 11, 20, 19, 7, 14, tzinfo=UTC)


def event(
    subject: str,
    kind: EventType = EventType.CALL_ENDED,
    *,
    uniqueid: str | None = None,
    when: datetime = ENDED,
) -> Event:
    return Event(
        type=kind, id="e1", occurred_at=when, subject=subject, data={}, dated=True, uniqueid=uniqueid
    )


def agent(subject: str, *expected: str) -> Event:
    return Event(
        type=EventType.AGENT_ONBOARDED,
        id="e1",
        occurred_at=ENDED,
        subject=subject,
        data={},
        expected_campaigns=expected or None,
    )


@pytest.fixture
async def dialer() -> AsyncIterator[StandInDialer]:
    async with StandInDialer(wall=(ENDED + timedelta(hours=6)).timestamp) as running:
        yield running


@pytest.fixture
def settings(dialer: StandInDialer) -> VicidialSettings:
    return VicidialSettings(
        url=dialer.url, user=DEFAULT_USER, password=SecretStr(DEFAULT_PASSWORD), timeout=timedelta(seconds=5)
    )


@pytest.fixture
async def client(settings: VicidialSettings) -> AsyncIterator[DialerClient]:
    async with open_session(settings) as session:
        yield DialerClient(settings, session, make_breakers())


class Bench:
    """An enricher that is asked for complete answers unless a test says otherwise."""

    def __init__(self, client: DialerClient, settings: VicidialSettings) -> None:
        clock = DialerClock(NEW_YORK, client.version)
        self.hits: list[str] = []
        self.enricher = VicidialEnricher(client, clock, settings, on_hit=self.hits.append)

    async def enrich(
        self, event: Event, *, accept_incomplete: bool = False
    ) -> CallEnrichment | AgentEnrichment:
        return await self.enricher.enrich(event, accept_incomplete=accept_incomplete)

    async def call(self, event: Event, *, accept_incomplete: bool = False) -> CallRecord:
        found = await self.enrich(event, accept_incomplete=accept_incomplete)
        assert isinstance(found, CallEnrichment)
        return found.call

    async def agent(self, event: Event, *, accept_incomplete: bool = False) -> AgentEnrichment:
        found = await self.enrich(event, accept_incomplete=accept_incomplete)
        assert isinstance(found, AgentEnrichment)
        return found


@pytest.fixture
def bench(client: DialerClient, settings: VicidialSettings) -> Bench:
    return Bench(client, settings)


@pytest.fixture
def enricher(client: DialerClient, settings: VicidialSettings) -> Bench:
    """Return an enricher that looks up only what is needed."""
    optional = {"recording_lookup": False, "campaigns_list": False, "user_details": False}
    return Bench(client, settings.model_copy(update=optional))


async def test_a_call_and_an_agent_are_looked_up(enricher: Bench, dialer: StandInDialer) -> None:
    call, found = await enricher.call(event(CALL)), await enricher.agent(agent("jane-doe_1"))
    assert call.started_at == datetime(2026, 11, 20, 14, 5, 9, tzinfo=NEW_YORK)
    assert call.recordings is None
    assert found.agent.agent_user == "jane-doe_1"
    assert found.agent.campaigns_ambiguous
    assert dict(dialer.asked) == {"callid_info": 1, "agent_campaigns": 1}


DROPPED = ["10'00", " 1000", "1000\n", "1000\x00", "10 00", "1000%", "josé", "٣", "a|b", ".", "a@b", "\ud800"]


@pytest.mark.parametrize("subject", [*DROPPED, "V-1", "V_1"])
async def test_a_call_id_with_characters_that_the_dialer_drops_is_not_asked_for(
    subject: str, enricher: Bench, dialer: StandInDialer
) -> None:
    with pytest.raises(EnrichmentRejected, match="the call id has characters") as caught:
        await enricher.enrich(event(subject))
    assert caught.value.label == "rejected_by_dialer"
    assert dialer.served == 0


@pytest.mark.parametrize("subject", DROPPED)
async def test_an_agent_with_characters_that_the_dialer_drops_is_not_asked_for(
    subject: str, enricher: Bench, dialer: StandInDialer
) -> None:
    with pytest.raises(EnrichmentRejected, match="the agent user has characters"):
        await enricher.enrich(agent(subject))
    assert dialer.served == 0


@pytest.mark.parametrize("status", ["QUEUE", "INCALL", "DISPO", "DONEM", "XFER", ""])
async def test_a_call_that_is_not_final_is_not_ready_unless_incomplete_answers_are_accepted(
    status: str, enricher: Bench, dialer: StandInDialer
) -> None:
    dialer.add_call(DialerCall(call_id="V1202150000000012346", status=status))
    with pytest.raises(NotReady, match=status or "empty") as caught:
        await enricher.enrich(event("V1202150000000012346"))
    assert caught.value.reason is NotReadyReason.FINAL_STATUS
    found = await enricher.enrich(event("V1202150000000012346"), accept_incomplete=True)
    assert isinstance(found, CallEnrichment)
    assert (found.final, found.call.phone_number) == (False, "3125551212")


async def test_which_statuses_are_not_final_is_a_setting(
    dialer: StandInDialer, settings: VicidialSettings
) -> None:
    dialer.add_call(DialerCall(call_id="V1202150000000012346", status="DISPO"))
    dialer.add_call(DialerCall(call_id="V1202150000000012347", status="SALE"))
    chosen = settings.model_copy(update={"not_final": frozenset({"SALE"})})
    async with open_session(chosen) as session:
        bench = Bench(DialerClient(chosen, session, make_breakers()), chosen)
        await bench.enrich(event("V1202150000000012346"))
        with pytest.raises(NotReady):
            await bench.enrich(event("V1202150000000012347"))


@pytest.mark.parametrize("accept_incomplete", [False, True])
async def test_an_unknown_call_is_not_found(enricher: Bench, *, accept_incomplete: bool) -> None:
    with pytest.raises(NotReady) as caught:
        await enricher.enrich(event("V9999999999999999999"), accept_incomplete=accept_incomplete)
    assert caught.value.reason is NotReadyReason.RECORD


@pytest.mark.parametrize(
    ("call_id", "call_date", "when"),
    [
        ("V1201405090000012346", "2025-11-20 14:07:09", "2026-11-20"),
        ("V1201405090000012346", "2026-01-20 14:07:09", "2026-11-20"),
        ("V1201405090000012346", "2026-11-20 14:07:09", "2027-01-20"),
        ("V2201405090000012346", "2026-12-20 14:07:09", "2027-02-20"),
        ("Y1201405090000012346", "2026-11-20 14:05:09", "2025-11-20"),
    ],
)
@pytest.mark.parametrize("accept_incomplete", [False, True])
async def test_a_call_of_the_same_id_months_or_years_ago_is_another_one(
    call_id: str,
    call_date: str,
    when: str,
    *,
    accept_incomplete: bool,
    enricher: Bench,
    dialer: StandInDialer,
) -> None:
    dialer.add_call(DialerCall(call_id=call_id, call_date=call_date))
    occurred_at = datetime.fromisoformat(f"{when}T19:07:14+00:00")
    with pytest.raises(NotReady, match="another call of the same id") as caught:
        await enricher.enrich(event(call_id, when=occurred_at), accept_incomplete=accept_incomplete)
    assert caught.value.reason is NotReadyReason.RECORD


@pytest.mark.parametrize("days", [-3, 0, 7, 59])
async def test_an_event_that_is_published_days_later_is_still_of_its_call(
    days: int, enricher: Bench, dialer: StandInDialer
) -> None:
    late = ENDED + timedelta(days=days)
    assert (await enricher.call(event(CALL, when=late))).started_at is not None
    assert dialer.served == 1


async def test_an_id_of_another_kind_is_no_calls_of_another_year(
    enricher: Bench, dialer: StandInDialer
) -> None:
    dialer.dialect = "tutorial"
    late = datetime(2030, 1, 1, tzinfo=UTC)
    assert (await enricher.call(event("1000012345", when=late))).started_at is not None


async def test_no_recording_is_asked_for_while_a_call_is_not_ready(
    bench: Bench, dialer: StandInDialer
) -> None:
    dialer.add_call(DialerCall(call_id="V1202150000000012346", status="DISPO"))
    with pytest.raises(NotReady):
        await bench.enrich(event("V1202150000000012346"))
    assert dict(dialer.asked) == {"callid_info": 1}


# --- look-ups in flight


async def test_identical_look_ups_in_flight_share_one_request(enricher: Bench, dialer: StandInDialer) -> None:
    dialer.delay = 0.05
    dialer.agents[CALL] = DialerAgent(user=CALL, campaigns=("SALES1",))
    events = [*[event(CALL)] * 20, *[agent("1000")] * 20, agent(CALL)]
    found = await asyncio.gather(*map(enricher.enrich, events))
    assert found[:20] == [found[0]] * 20
    assert found[20:40] == [found[20]] * 20
    assert (dialer.count("callid_info", CALL), dialer.count("agent_campaigns", "1000")) == (1, 1)
    assert dialer.count("agent_campaigns", CALL) == 1
    await enricher.enrich(event(CALL))
    assert dialer.count("callid_info") == 2  # only what is in flight is shared, nothing is cached


async def test_a_shared_failure_fails_each_and_is_not_cached(enricher: Bench, dialer: StandInDialer) -> None:
    dialer.delay = 0.05
    dialer.plant(CALL, body="", times=1)
    failed = await asyncio.gather(*(enricher.enrich(event(CALL)) for _ in range(5)), return_exceptions=True)
    assert [type(each) for each in failed] == [EnrichmentUnavailable] * 5
    assert dialer.served == 1
    await enricher.enrich(event(CALL))


AMBIGUOUS = "V1010110000000012345"
FIRST, SECOND = (datetime(2026, 11, 1, hour, 25, tzinfo=UTC) for hour in (5, 6))


async def test_no_events_time_decides_how_the_answer_is_read_for_another_event(
    bench: Bench, dialer: StandInDialer
) -> None:
    """In the hour that is repeated when the clocks go back, one answer means two times."""
    dialer.delay = 0.05
    dialer.add_call(DialerCall(call_id=AMBIGUOUS, call_date="2026-11-01 01:20:00", talk_seconds=600))
    row = "2026-11-01 01:12:00|1000|1|12345|60|\n"
    dialer.plant("12345", function="recording_lookup", body=row)
    events = [event(AMBIGUOUS, when=when) for when in (FIRST, SECOND, FIRST, SECOND)]
    found = await asyncio.gather(*map(bench.call, events))
    for call, offset in zip(found, ["-04:00", "-05:00"] * 2, strict=True):
        assert call.recordings is not None
        times = [call.started_at, call.ended_at, call.recordings[0].started_at]
        read = [each.isoformat() for each in times if each is not None]
        assert read == [f"2026-11-01T01:{time}:00{offset}" for time in ("10", "20", "12")]
    assert (dialer.count("callid_info"), dialer.count("recording_lookup")) == (2, 2)


async def test_events_of_different_times_share_a_request_whose_answer_is_read_alike(
    bench: Bench, dialer: StandInDialer
) -> None:
    dialer.delay = 0.05
    events = [event(CALL, when=ENDED + timedelta(seconds=after)) for after in range(20)]
    await asyncio.gather(*map(bench.call, events))
    assert dict(dialer.asked) == {"callid_info": 1, "recording_lookup": 1}


async def test_the_cancellation_of_the_one_in_flight_does_not_fail_the_others(
    enricher: Bench, dialer: StandInDialer
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
    enricher: Bench, dialer: StandInDialer
) -> None:
    dialer.delay = 0.05
    tasks = [asyncio.ensure_future(enricher.enrich(event(CALL))) for _ in range(3)]
    await until(lambda: dialer.concurrent == 1)
    tasks[1].cancel()
    await asyncio.gather(tasks[0], tasks[2])
    assert (tasks[1].cancelled(), dialer.served) == (True, 1)


async def test_what_nobody_foresaw_is_neither_hidden_nor_cached(
    enricher: Bench, monkeypatch: pytest.MonkeyPatch
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
    failed = await asyncio.gather(*(enricher.enrich(agent("1")) for _ in range(2)), return_exceptions=True)
    assert [type(each) for each in failed] == [RuntimeError] * 2
    assert await enricher.enrich(agent("1")) == known


# --- recordings


async def test_a_calls_own_recordings_and_its_lead_are_added(bench: Bench, dialer: StandInDialer) -> None:
    call = await bench.call(event(CALL, uniqueid="1795269909.101"))
    assert call.recordings is not None
    (recording,) = call.recordings  # the search finds another call's recording too
    assert recording.recording_id == "1"
    assert recording.file_name == "20261120-140515_3125551212-all.mp3"
    assert recording.url == "http://10.10.10.15/RECORDINGS/MP3/20261120-140515_3125551212-all.mp3"
    assert recording.started_at == datetime(2026, 11, 20, 14, 5, 15, tzinfo=NEW_YORK)
    assert recording.duration_seconds == 120
    assert call.lead_id == "12345"
    assert dict(dialer.asked) == {"callid_info": 1, "recording_lookup": 1}


async def test_several_recordings_are_a_list_the_longest_first(bench: Bench) -> None:
    call = await bench.call(event(CALL))  # by the lead in the id: 1 and 3 began within the call
    assert call.recordings is not None
    assert [each.recording_id for each in call.recordings] == ["1", "3"]


async def test_a_call_without_a_recording_has_none_and_one_that_nobody_took_is_not_searched_for(
    bench: Bench, dialer: StandInDialer
) -> None:
    dialer.add_call(DialerCall(call_id="V1202150000000012346", user="1002"))
    assert (await bench.call(event("V1202150000000012346"))).recordings == ()
    dialer.add_call(DialerCall(call_id="V1202150000000012347", user="VDAD"))
    assert (await bench.call(event("V1202150000000012347"))).recordings is None
    assert dialer.count("recording_lookup") == 1


UNIQUEID = "1795269909.101"
ROW = "2026-11-20 14:05:15|1000|1|12345|120|\n"
LATER = "2026-11-20 15:00:00|1000|9|12345|60|\n"
NONE_FOUND = "ERROR: recording_lookup NO RECORDINGS FOUND - 6666||12345||\n"
NO_SUCH_CALL = "ERROR: recording_lookup INVALID SEARCH PARAMETERS: 6666||12345||\n"


@pytest.mark.parametrize(
    ("by_uniqueid", "by_lead", "expected"),
    [
        (ROW, None, ["1"]),
        (NONE_FOUND, ROW, ["1"]),
        (NO_SUCH_CALL, ROW, ["1"]),
        (LATER, ROW, ["1"]),
        (NONE_FOUND, NONE_FOUND, []),
        (NONE_FOUND, LATER, []),
        (NO_SUCH_CALL, NONE_FOUND, []),
        (ROW.replace("|1000|", "|VDAD|"), NONE_FOUND, None),
        (ROW.replace("|12345|", "|777|"), NONE_FOUND, None),
        (NONE_FOUND, "", None),
        ("", None, None),
    ],
)
async def test_what_is_not_found_by_uniqueid_is_searched_for_by_lead(
    by_uniqueid: str, by_lead: str | None, expected: list[str] | None, bench: Bench, dialer: StandInDialer
) -> None:
    dialer.plant(UNIQUEID, function="recording_lookup", body=by_uniqueid)
    dialer.plant("12345", function="recording_lookup", body=by_lead or "")
    found = (await bench.call(event(CALL, uniqueid=UNIQUEID))).recordings
    assert (None if found is None else [each.recording_id for each in found]) == expected
    assert dialer.count("recording_lookup") == (1 if by_lead is None else 2)


async def test_where_no_call_has_the_uniqueid_and_no_lead_is_known_the_recordings_are_unknown(
    bench: Bench, dialer: StandInDialer
) -> None:
    dialer.add_call(DialerCall(call_id="M1201405090000000000"))
    dialer.plant(UNIQUEID, function="recording_lookup", body=NO_SUCH_CALL)
    call = await bench.call(event("M1201405090000000000", uniqueid=UNIQUEID))
    assert (call.lead_id, call.recordings) == (None, None)


@pytest.mark.parametrize("said", [0, "undefined", 12345.0, "12345.0", "0012345", "00077", "", None], ids=repr)
async def test_however_a_producer_writes_the_lead_the_calls_recordings_are_found(
    said: object, bench: Bench, dialer: StandInDialer
) -> None:
    """Of an undated event, which is taken in days later."""
    dialer.plant(UNIQUEID, function="recording_lookup", body=ROW)
    body = {"call_id": CALL, "uniqueid": UNIQUEID, "lead_id": said}
    seen = ENDED + timedelta(days=10)
    happened = decode(Inbound(json.dumps(body).encode(), "call.ended", seen, {}))
    payload = json.loads(build_payload(happened, await bench.enrich(happened)).body)
    call = payload["data"]["call"]
    lead_id = "77" if said == "00077" else "12345"
    assert (call["lead_id"], payload["data"]["event"]["lead_id"]) == (lead_id, said)
    assert [each["recording_id"] for each in call["recordings"]] == ["1"]


async def test_the_lead_is_the_ids_if_no_recording_has_one(bench: Bench) -> None:
    call = await bench.call(event("V1201407070000012347"))
    assert (call.lead_id, call.recordings) == ("12347", ())


async def test_a_call_that_stays_not_final_is_searched_for_in_the_end(
    bench: Bench, dialer: StandInDialer
) -> None:
    call_id = "V1201405080000012345"
    dialer.add_call(DialerCall(call_id=call_id, status="DISPO", talk_seconds=120))
    found = await bench.enrich(event(call_id), accept_incomplete=True)
    assert isinstance(found, CallEnrichment)
    assert (found.final, found.call.ended_at) == (False, None)
    assert found.call.recordings


@pytest.mark.parametrize("body", ["", "<html></html>", "what?", "ERROR: recording_lookup SOMETHING: 1|2|"])
async def test_a_failed_search_fails_no_event(body: str, bench: Bench, dialer: StandInDialer) -> None:
    dialer.plant("12345", function="recording_lookup", body=body)
    call = await bench.call(event(CALL))
    assert (call.status, call.recordings) == ("SALE", None)
    assert dialer.count("callid_info") == 1


async def test_the_tutorials_recording_stays_as_it_is_and_nothing_is_searched_for(
    bench: Bench, dialer: StandInDialer
) -> None:
    dialer.dialect = "tutorial"
    call = await bench.call(event("1000012345"))
    assert call.recordings is not None
    assert [each.file_name for each in call.recordings] == ["rec_1000012345.wav"]
    assert dict(dialer.asked) == {"callid_info": 1}


# --- agents


async def test_an_agents_campaigns_have_names_and_are_split_at_the_right_dashes(bench: Bench) -> None:
    found = await bench.agent(agent("1001"))
    named = [(each.campaign_id, each.name) for each in found.agent.campaigns]
    assert named == [
        ("OUTONLY", "Outbound only"),
        ("RENEW_24", "Renewals 2024"),
        ("SUPP-1", "Support with dash"),
    ]
    assert not found.agent.campaigns_ambiguous
    assert found.campaigns_text == "OUTONLY-RENEW_24-SUPP-1"


async def test_what_can_not_be_split_for_certain_is_flagged(bench: Bench, dialer: StandInDialer) -> None:
    dialer.campaigns["SUPP"] = Campaign(campaign_id="SUPP", name="Support")
    dialer.campaigns["1"] = Campaign(campaign_id="1", name="One")
    assert (await bench.agent(agent("1001"))).agent.campaigns_ambiguous


async def test_an_agents_details_are_added(bench: Bench) -> None:
    found = (await bench.agent(agent("1000"))).agent
    assert (found.full_name, found.access_level, found.user_group) == ("Agent Thousand", 1, "SALES")


async def test_each_answer_about_agents_is_cached_for_a_short_time(
    bench: Bench, dialer: StandInDialer
) -> None:
    for _ in range(3):
        await bench.agent(agent("1000"))
    await bench.agent(agent("1001"))
    assert dict(dialer.asked) == {"agent_campaigns": 2, "campaigns_list": 1, "user_details": 2}
    assert sorted(bench.hits) == [*["agent_campaigns"] * 2, *["campaigns_list"] * 3, *["user_details"] * 2]


async def test_zero_turns_the_cache_off(
    client: DialerClient, settings: VicidialSettings, dialer: StandInDialer
) -> None:
    names = ("agent_campaigns_cache", "campaigns_list_cache", "user_details_cache")
    bench = Bench(client, settings.model_copy(update=dict.fromkeys(names, timedelta(0))))
    for _ in range(2):
        await bench.agent(agent("1000"))
    assert dict(dialer.asked) == {"agent_campaigns": 2, "campaigns_list": 2, "user_details": 2}


def know_campaigns(dialer: StandInDialer, *ids: str, seen: Iterable[str] | None = None) -> None:
    """Let the dialer have these campaigns and no others, of which the API user may see some."""
    dialer.campaigns.clear()
    dialer.campaigns.update({each: Campaign(campaign_id=each, name=f"Name of {each}") for each in ids})
    dialer.users[DEFAULT_USER].campaigns = None if seen is None else frozenset(seen)


@pytest.mark.parametrize(
    ("has", "seen"),
    [
        (("A-B",), ("A", "B")),
        (("SALES1", "A-B"), ("SALES1", "A", "B")),
        (("A-B", "SALES1"), ("SALES1", "A", "B")),
        (("A", "B-C"), ("A", "B", "C", "A-B")),
        (("A-B-C",), ("A", "B", "C")),
        (("A-B-C",), ("A-B", "C")),
        (("HIDDEN", "A"), ("A",)),
    ],
)
async def test_a_campaign_that_the_api_user_may_not_see_makes_the_list_ambiguous(
    has: tuple[str, ...], seen: tuple[str, ...], bench: Bench, dialer: StandInDialer
) -> None:
    know_campaigns(dialer, *has, *seen, seen=seen)
    dialer.agents["1000"].campaigns = has
    found = await bench.agent(agent("1000"))
    assert found.agent.campaigns_ambiguous
    assert found.campaigns_text == "-".join(has)


@pytest.mark.parametrize(
    ("has", "questions"),
    [
        (("A", "B"), 1),
        (("B", "A", "C"), 3),
        (("SALES1", "RENEW_24", "SUPP-1"), 0),
        (("SALES1", "RENEW_24", "ADCAMP", "7"), 1),
        (("SALES1", "OD-A", "OD", "A", "RENEW_24"), 3),
        (tuple(f"10{number}" for number in range(10)), 9),
    ],
)
async def test_a_list_without_a_hidden_campaign_is_proven_by_few_questions_asked_once(
    has: tuple[str, ...], questions: int, bench: Bench, dialer: StandInDialer
) -> None:
    know_campaigns(dialer, *has)
    dialer.agents["1000"].campaigns = has
    for _ in range(3):
        found = await bench.agent(agent("1000", *has))
        assert sorted(each.campaign_id for each in found.agent.campaigns) == sorted(has)
        assert not found.agent.campaigns_ambiguous
        assert check_access(has, found).ok
    assert dialer.count("agent_campaigns") == 3 + questions


async def test_a_list_that_takes_too_many_questions_is_ambiguous(bench: Bench, dialer: StandInDialer) -> None:
    has = tuple(str(number) for number in range(100, 120))
    know_campaigns(dialer, *has)
    dialer.agents["1000"].campaigns = has
    found = await bench.agent(agent("1000"))
    assert [each.campaign_id for each in found.agent.campaigns] == list(has)
    assert found.agent.campaigns_ambiguous
    assert dialer.count("agent_campaigns") == 1


@pytest.mark.parametrize(("text", "ambiguous"), [("A-B", True), ("OD-A-OD-A", False)])
async def test_a_server_without_the_filter_hides_no_campaigns(
    text: str,
    ambiguous: bool,  # noqa: FBT001
    bench: Bench,
    dialer: StandInDialer,
) -> None:
    know_campaigns(dialer, "A", "B", "OD", "OD-A")
    dialer.plant("1000", function="agent_campaigns", body=f"1000|{text}|\n")
    assert (await bench.agent(agent("1000"))).agent.campaigns_ambiguous == ambiguous


async def test_an_outage_while_a_list_is_proven_is_an_outage(bench: Bench, dialer: StandInDialer) -> None:
    know_campaigns(dialer, "A", "B")
    dialer.agents["1000"].campaigns = ("A", "B")

    def answer(request: DialerRequest) -> Planted | None:
        return Planted(status=500) if "campaign_id" in request.parameters else None

    dialer.plant("1000", answer, function="agent_campaigns")
    with pytest.raises(EnrichmentUnavailable, match="500"):
        await bench.agent(agent("1000"))


async def test_an_agent_without_campaigns_needs_no_names(bench: Bench, dialer: StandInDialer) -> None:
    assert (await bench.agent(agent("1004"))).agent.campaigns == ()
    assert dialer.count("campaigns_list") == 0


# --- the access check


async def test_campaigns_that_are_not_yet_assigned_are_waited_for(
    bench: Bench, dialer: StandInDialer
) -> None:
    with pytest.raises(NotReady, match="has not been given the campaigns SUPP-1 yet") as caught:
        await bench.agent(agent("1000", "SALES1", "SUPP-1"))
    assert caught.value.reason is NotReadyReason.CAMPAIGNS
    assert dialer.count("user_details") == 0
    dialer.agents["1000"].campaigns = ("SALES1", "SUPP-1")
    found = await bench.agent(agent("1000", "SALES1", "SUPP-1"))
    assert check_access(("SALES1", "SUPP-1"), found).ok


async def test_what_is_missing_is_delivered_as_such_if_incomplete_answers_are_accepted(bench: Bench) -> None:
    found = await bench.agent(agent("1000", "SALES1", "SUPP-1"), accept_incomplete=True)
    check = check_access(("SALES1", "SUPP-1"), found)
    assert (check.ok, check.missing, check.unexpected) == (False, ("SUPP-1",), ("RENEW_24",))
    assert found.agent.full_name == "Agent Thousand"


async def test_a_check_is_never_answered_from_the_cache(bench: Bench, dialer: StandInDialer) -> None:
    await bench.agent(agent("1000"))
    dialer.agents["1000"].campaigns = ("SUPP-1",)
    await bench.agent(agent("1000", "SUPP-1"))
    assert dialer.count("agent_campaigns") == 2


async def test_the_expectation_of_no_campaigns_waits_for_nothing(bench: Bench) -> None:
    nothing = Event(EventType.AGENT_ONBOARDED, "e1", ENDED, "1000", {}, expected_campaigns=())
    assert (await bench.agent(nothing)).agent.campaigns


# --- permissions


async def test_what_the_api_user_may_not_ask_is_null_and_logged_once(
    dialer: StandInDialer, settings: VicidialSettings
) -> None:
    main = frozenset({"callid_info", "agent_campaigns"})
    dialer.users["modest"] = ApiUser("Modest-Pass-1", functions=main)
    modest = settings.model_copy(update={"user": "modest", "password": SecretStr("Modest-Pass-1")})
    async with open_session(modest) as session:
        client = DialerClient(modest, session, make_breakers())
        bench = Bench(client, modest)
        with capture_logs() as logs:
            for user in ("1000", "1001", "1002"):
                found = (await bench.agent(agent(user))).agent
                assert (found.full_name, found.access_level, found.user_group) == (None, None, None)
                assert {each.name for each in found.campaigns} == {None}
                assert found.campaigns_ambiguous
                assert (await bench.call(event(CALL))).recordings is None
        assert client.guard.refusal is None
    refusals = [line for line in logs if line["event"] == "dialer_extra_refused"]
    assert [line["function"] for line in refusals] == ["campaigns_list", "user_details", "recording_lookup"]
    assert all("API Allowed Functions" in line["error"] for line in refusals)
    assert [dialer.count(line["function"]) for line in refusals] == [1, 1, 1]
    assert (dialer.count("agent_campaigns"), dialer.count("callid_info")) == (3, 3)


# --- the zone


async def test_the_events_times_are_in_the_measured_zone_or_not_known(
    client: DialerClient, settings: VicidialSettings, dialer: StandInDialer
) -> None:
    for body, expected in [
        ("VERSION: 2.14|DATE: 2026-11-21 19:00:00|EPOCH: 1795305600|\n", "2026-11-20T14:05:09-05:00"),
        ("ERROR: NO FUNCTION SPECIFIED\n", None),
    ]:
        dialer.plant("", function="version", body=body)
        enricher = VicidialEnricher(client, DialerClock(None, client.version), settings)
        found = await enricher.enrich(event(CALL), accept_incomplete=False)
        assert isinstance(found, CallEnrichment)
        assert (found.call.started_at and found.call.started_at.isoformat()) == expected
        assert (found.call.talk_seconds, found.call.recordings is None) == (120, expected is None)


async def test_no_call_loses_its_times_to_an_outage_of_the_version_alone(
    client: DialerClient, settings: VicidialSettings, dialer: StandInDialer
) -> None:
    now = 0.0
    clock = DialerClock(None, client.version, clock=lambda: now)
    enricher = VicidialEnricher(client, clock, settings)
    for failed in ({"status": 503}, {"body": ""}, {"body": "MySQL connect ERROR: 2002"}):
        dialer.plant("", function="version", times=1, **failed)
        with pytest.raises(EnrichmentUnavailable, match="time zone is not known") as caught:
            await enricher.enrich(event(CALL), accept_incomplete=True)
        assert caught.value.label == "dialer_outage"
        assert dialer.count("callid_info") == 0
        now += 1
    found = await enricher.enrich(event(CALL), accept_incomplete=True)
    assert isinstance(found, CallEnrichment)
    assert found.call.started_at is not None
    assert found.call.recordings is not None


@pytest.mark.parametrize(
    ("ended", "offset"), [("05:35", "-04:00"), ("06:35", "-05:00")], ids=["first", "second"]
)
async def test_the_hour_that_is_repeated_is_resolved_by_the_events_own_time(
    ended: str, offset: str, bench: Bench, dialer: StandInDialer
) -> None:
    dialer.add_call(DialerCall(call_id="V1202150000000012346", call_date="2026-11-01 01:30:00"))
    when = datetime.fromisoformat(f"2026-11-01T{ended}:00+00:00")
    call = await bench.call(event("V1202150000000012346", when=when))
    assert call.started_at is not None
    assert call.started_at.isoformat() == f"2026-11-01T01:30:00{offset}"
