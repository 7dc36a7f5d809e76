"""The stand-in dialer answers as the recorded one did, and breaks as it is told to."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from yarl import URL

from worker.demo.dialer import DEFAULT_PASSWORD, DEFAULT_USER, DialerAgent, DialerCall, Planted, StandInDialer
from worker.demo.recordings import Exchange, find, load
from worker.demo.stand_in import FAULTS, Fault

RECORDED_AT = 1795313398.0
QUERY = {"user": DEFAULT_USER, "pass": DEFAULT_PASSWORD, "source": "test"}

EXACT_GROUPS = ("callid_info", "callid_info_errors", "agent_campaigns", "agent_campaigns_errors")
EXTRA_GROUPS = ("campaigns_list", "secondary", "other")
EXTRA_FUNCTIONS = ("campaigns_list", "user_details", "recording_lookup", "version")

SQL_ERROR = "an SQL error inside the server, whose rows the stand-in does not have"
LATER_ROWS = "recorded later than the other look-ups, when the same recordings had other numbers"
NOT_REPRODUCED = {
    ("callid_info", "odd_null_lead_in_extended"): SQL_ERROR,
    ("callid_info", "odd_null_lead_in_extended_csv"): SQL_ERROR,
    ("callid_info", "odd_quote_in_user"): SQL_ERROR,
    ("callid_info", "odd_quote_in_user_csv"): SQL_ERROR,
    ("callid_info", "odd_quote_in_user_tab"): SQL_ERROR,
    ("agent_campaigns", "non_latin_ids"): "a server with use_non_latin=1, which keeps other letters in ids",
    ("other", "recording_lookup_same_second_prefix"): LATER_ROWS,
    ("secondary", "recording_lookup_as_api7"): LATER_ROWS,
    ("secondary", "recording_lookup_as_api8nomod"): LATER_ROWS,
    ("secondary", "recording_lookup_as_limadm"): LATER_ROWS,
}


@pytest.fixture
async def dialer() -> AsyncIterator[StandInDialer]:
    async with StandInDialer(wall=lambda: RECORDED_AT) as running:
        yield running


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as running:
        yield running


async def replay(
    session: aiohttp.ClientSession, dialer: StandInDialer, exchange: Exchange
) -> tuple[int, str]:
    if exchange.raw_query is not None:
        request = session.get(URL(f"{dialer.url}?{exchange.raw_query}", encoded=True))
    elif exchange.method == "GET":
        request = session.get(dialer.url, params=exchange.query)
    elif exchange.query:
        request = session.request(exchange.method, dialer.url, data=exchange.query)
    else:
        request = session.request(exchange.method, dialer.url, json={"function": "callid_info"})
    async with request as response:
        return response.status, await response.text()


async def ask(session: aiohttp.ClientSession, dialer: StandInDialer, **parameters: str) -> str:
    async with session.get(dialer.url, params=QUERY | parameters) as response:
        return await response.text()


def reproduced() -> list[Any]:
    return [
        pytest.param(each, id=f"{each.group}-{each.name}")
        for each in load()
        if (each.group, each.name) not in NOT_REPRODUCED
        and (
            each.group in EXACT_GROUPS
            or (each.group in EXTRA_GROUPS and each.query.get("function") in EXTRA_FUNCTIONS)
        )
    ]


@pytest.mark.parametrize("exchange", reproduced())
async def test_it_answers_word_for_word_as_recorded(
    exchange: Exchange, dialer: StandInDialer, session: aiohttp.ClientSession
) -> None:
    assert await replay(session, dialer, exchange) == (exchange.status, exchange.body)


@pytest.mark.parametrize(("group", "name"), NOT_REPRODUCED)
async def test_what_it_does_not_reproduce_differs_indeed(
    group: str, name: str, dialer: StandInDialer, session: aiohttp.ClientSession
) -> None:
    exchange = find(group, name)
    assert await replay(session, dialer, exchange) != (exchange.status, exchange.body)


WRONG = [f"wrong_password_{number:02}" for number in range(1, 13)]
WRONG_20_MINUTES = [f"last_ok_20min_ago_wrong_{number:02}" for number in range(1, 12)]
LOCKOUTS = {
    "busy user": (0.0, 0, [*WRONG, "right_password_while_locked", "version_while_locked"]),
    "idle user": (-1200.0, 0, [*WRONG_20_MINUTES, "last_ok_20min_ago_right_after_11_wrong"]),
    "never": (None, 10, ["never_logged_in_count10_right_password", "never_logged_in_count10_again"]),
    "nine": (0.0, 0, [*WRONG[:9], "right_password_after_9_wrong"]),
    "901 s": (-901.0, 10, ["right_password_after_15_min"]),
    "16 min": (-960.0, 10, ["right_password_16_min_after_last_login_date"]),
}


@pytest.mark.parametrize("scenario", LOCKOUTS)
async def test_it_locks_an_api_user_as_recorded(scenario: str, session: aiohttp.ClientSession) -> None:
    last_login, failed, names = LOCKOUTS[scenario]
    async with StandInDialer(wall=lambda: RECORDED_AT + 95, clock=lambda: 0.0) as dialer:
        dialer.users["lockme"].last_login = last_login
        dialer.users["lockme"].failed_logins = failed
        for name in names:
            exchange = find("lockout", name)
            assert await replay(session, dialer, exchange) == (exchange.status, exchange.body), name


def test_every_recorded_lockout_is_in_a_scenario() -> None:
    played = {name for _, _, names in LOCKOUTS.values() for name in names}
    assert played == {each.name for each in load() if each.group == "lockout"}


async def test_a_call_goes_through_its_states_in_time(session: aiohttp.ClientSession) -> None:
    now = 0.0
    call = DialerCall(
        call_id="M1202130000000012346",
        talk_seconds=60,
        call_date="2026-11-20 22:13:00",
        phone="3125551213",
        call_type="OUTBOUND_MANUAL",
        schedule=((1, "log_not_found"), (2, "INCALL"), (3, "DISPO"), (4, "final"), (5, "not_found")),
    )
    async with StandInDialer(clock=lambda: now) as dialer:
        dialer.users["6666"].last_login = None
        dialer.add_call(call)
        recorded = [each for each in load() if each.group == "call_lifecycle" and each.name[0].isdigit()]
        assert len(recorded) == 6
        for exchange in recorded:
            assert await replay(session, dialer, exchange) == (200, exchange.body), exchange.name
            now += 1


async def test_a_schedule_without_a_beginning_starts_at_the_first_question(
    session: aiohttp.ClientSession,
) -> None:
    now = 100.0
    call = DialerCall(call_id="V1202150000000012346", schedule=((0, "INCALL"), (10, "final")))
    async with StandInDialer(clock=lambda: now) as dialer:
        dialer.calls[call.call_id] = call
        now = 200.0
        assert "|INCALL|" in await ask(
            session, dialer, function="callid_info", call_id=call.call_id, detail="YES"
        )
        now = 210.0
        assert "|SALE|" in await ask(
            session, dialer, function="callid_info", call_id=call.call_id, detail="YES"
        )


async def test_what_is_added_is_found(dialer: StandInDialer, session: aiohttp.ClientSession) -> None:
    dialer.agents["newcomer"] = DialerAgent(user="newcomer", campaigns=("SUPP-1",))
    assert await ask(session, dialer, function="agent_campaigns", agent_user="newcomer") == (
        "newcomer|SUPP-1|SUPPORTLINE\n"
    )


@pytest.mark.parametrize("separator", ["|", ",", "\t"])
async def test_the_tutorial_dialect_answers_as_the_tutorials_say(
    separator: str, session: aiohttp.ClientSession
) -> None:
    async with StandInDialer(dialect="tutorial", separator=separator) as dialer:
        call = await ask(
            session,
            dialer,
            function="callid_info",
            call_id="1000012345",
            stage="tab",
            header="YES",
            detail="YES",
        )
        assert call.rstrip("\n").split(separator) == [
            "1000012345",
            "2024-02-15 10:15:00",
            "2024-02-15 10:18:30",
            "Outbound",
            "agent001",
            "9876543210",
            "Answered",
            "rec_1000012345.wav",
        ]
        agent = await ask(session, dialer, function="agent_campaigns", agent_user="agent001")
        values = ["agent001", "Campaign1", "Outbound Sales", "Campaign2", "Inbound Support"]
        assert agent == separator.join(values) + "\n"


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"function": "version"}, "ERROR: NO FUNCTION SPECIFIED\n"),
        ({"function": "callid_info", "call_id": "1"}, "ERROR: CALL ID NOT FOUND\n"),
        ({"function": "callid_info", "call_id": "V1201405090000012345"}, "ERROR: CALL ID NOT FOUND\n"),
        ({"function": "agent_campaigns", "agent_user": "x"}, "ERROR: AGENT NOT FOUND\n"),
        ({"function": "callid_info", "pass": "x"}, "ERROR: INVALID USERNAME OR PASSWORD\n"),
        (
            {"function": "callid_info", "user": "limited", "pass": "Limit1"},
            "ERROR: USER DOES NOT HAVE PERMISSION TO USE THIS FUNCTION\n",
        ),
    ],
)
async def test_the_tutorial_dialect_has_errors_of_its_own(
    parameters: dict[str, str], expected: str, session: aiohttp.ClientSession
) -> None:
    async with StandInDialer(dialect="tutorial") as dialer:
        assert await ask(session, dialer, **parameters) == expected


@pytest.mark.parametrize("group", ["display_errors_on", "db_down", "login_other", "apache_mod_php"])
async def test_any_recorded_answer_can_be_planted(
    group: str, dialer: StandInDialer, session: aiohttp.ClientSession
) -> None:
    for exchange in load():
        if exchange.group != group or exchange.raw_query is not None or exchange.name == "url_9000":
            continue
        dialer.plant_exchange(exchange)
        assert await replay(session, dialer, exchange) == (exchange.status, exchange.body), exchange.name
        dialer.unplant()


async def test_a_planted_answer_may_be_for_a_few_times_or_decided_each_time(
    dialer: StandInDialer, session: aiohttp.ClientSession
) -> None:
    dialer.plant("1000", body="odd\n", times=2)
    answers = [await ask(session, dialer, function="agent_campaigns", agent_user="1000") for _ in range(3)]
    assert answers[:2] == ["odd\n", "odd\n"]
    assert answers[2].startswith("1000|")
    dialer.plant("1000", lambda seen: Planted(body="csv") if seen.parameters.get("stage") == "csv" else None)
    assert await ask(session, dialer, function="agent_campaigns", agent_user="1000", stage="csv") == "csv"
    assert (await ask(session, dialer, function="agent_campaigns", agent_user="1000")).startswith("1000|")


@pytest.mark.parametrize("fault", FAULTS)
async def test_it_breaks_in_every_way_it_is_told_to(fault: Fault) -> None:
    quick = aiohttp.ClientTimeout(total=0.3)
    async with StandInDialer() as dialer, aiohttp.ClientSession(timeout=quick) as session:
        dialer.fault = fault
        if fault in {"500", "empty", "html", "mysql", "garbage"}:
            async with session.get(dialer.url) as response:
                body = await response.read()
                assert (response.status, bool(body)) == (
                    500 if fault == "500" else 200,
                    fault not in {"500", "empty"},
                )
            return
        with pytest.raises((aiohttp.ClientError, TimeoutError)):
            await ask(session, dialer, function="version")
        dialer.fault = None
        assert (await ask(session, dialer, function="version")).startswith("VERSION: ")
        assert dialer.concurrent == 0


async def test_a_changed_password_counts_at_once_and_no_password_is_kept(
    dialer: StandInDialer, session: aiohttp.ClientSession
) -> None:
    dialer.users[DEFAULT_USER].password = "Other-Pass-2"
    answer = await ask(session, dialer, function="callid_info", call_id="V1201405090000012345")
    assert answer == f"ERROR: Login incorrect, please try again: |{DEFAULT_USER}|{DEFAULT_PASSWORD}|BAD|\n"
    assert dialer.failed_logins == 1
    assert dialer.requests[-1].outcome == "ERROR: Login incorrect, please try again"
    assert DEFAULT_PASSWORD not in json.dumps(dialer.report())


async def test_two_factor_login_repeats_the_right_password(
    dialer: StandInDialer, session: aiohttp.ClientSession
) -> None:
    dialer.users[DEFAULT_USER].two_factor = True
    assert f"|{DEFAULT_PASSWORD}|2FA|" in await ask(session, dialer, function="callid_info")


async def test_it_counts_how_many_it_served_at_once(
    dialer: StandInDialer, session: aiohttp.ClientSession
) -> None:
    dialer.delay = 0.1
    await asyncio.gather(*(ask(session, dialer, function="version") for _ in range(5)))
    assert (dialer.max_concurrent, dialer.concurrent, dialer.count("version")) == (5, 0, 5)


async def test_it_can_be_stopped_and_started_on_the_same_address(session: aiohttp.ClientSession) -> None:
    async with StandInDialer() as dialer:
        address = dialer.url
        await dialer.stop()
        with pytest.raises(aiohttp.ClientConnectionError):
            await ask(session, dialer, function="version")
        await dialer.start()
        assert dialer.url == address
        assert (await ask(session, dialer, function="version")).startswith("VERSION: ")


async def test_a_hanging_request_does_not_hold_up_its_end() -> None:
    async with aiohttp.ClientSession() as session, asyncio.timeout(5):
        async with StandInDialer() as dialer:
            dialer.fault = "hang"
            asking = asyncio.ensure_future(ask(session, dialer, function="version"))
            while not dialer.concurrent:  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(0.01)
        with pytest.raises(aiohttp.ClientError):
            await asking


async def test_as_a_program_it_is_controlled_over_http(session: aiohttp.ClientSession) -> None:
    command = [sys.executable, "-m", "worker.demo.dialer", "--config", '{"password": {"crmsync": "a"}}']
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        line = json.loads(await asyncio.wait_for(process.stdout.readline(), 20))
        control = f"http://127.0.0.1:{line['port']}/control"
        change = {
            "calls": {"V1202150000000012346": {"status": "NI", "schedule": [[0, "final"]]}},
            "agents": {"bob": {"campaigns": ["SALES1"]}},
            "plant": {"callid_info:V1": {"body": "planted"}},
        }
        async with session.post(control, json=change) as response:
            assert response.status == 200, await response.text()
        async with session.post(control, json={"nonsense": 1}) as response:
            assert response.status == 400
        query = QUERY | {
            "pass": "a",
            "function": "callid_info",
            "call_id": "V1202150000000012346",
            "detail": "YES",
        }
        async with session.get(line["url"], params=query) as response:
            assert "|NI|" in await response.text()
        async with session.get(line["url"], params=query | {"call_id": "V1"}) as response:
            assert await response.text() == "planted"
        async with session.get(control) as response:
            report = await response.json()
        assert [each["outcome"] for each in report["requests"]] == ["ok", "planted 200"]
        async with session.get(f"http://127.0.0.1:{line['port']}/") as response:
            assert "V1201405090000012345" in await response.text()
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 20) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
