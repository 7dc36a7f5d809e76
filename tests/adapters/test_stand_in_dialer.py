"""The stand-in dialer answers as the recorded one did, and breaks on request."""

import asyncio
import heapq
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Coroutine
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Literal
from urllib.parse import parse_qsl

import aiohttp
import pytest
from yarl import URL

from simulators.dialer import (
    DEFAULT_PASSWORD,
    DEFAULT_USER,
    PATH,
    DialerAgent,
    DialerCall,
    DialerRequest,
    Planted,
    Recording,
    StandInDialer,
)
from simulators.dialer.requests import Load
from simulators.dialer.world import LIVE_IDS, transferred_id
from simulators.recordings import Exchange, find, load
from simulators.stand_in import FAULTS, Fault
from tests.adapters.raw import until

RECORDED_AT = 1795313398.0
CALL = "V1201405090000012345"
QUERY = {"user": DEFAULT_USER, "pass": DEFAULT_PASSWORD, "source": "test"}

EXACT_GROUPS = ("callid_info", "callid_info_errors", "agent_campaigns", "agent_campaigns_errors")
EXTRA_GROUPS = ("campaigns_list", "secondary", "other")
EXTRA_FUNCTIONS = ("campaigns_list", "user_details", "recording_lookup", "version")

LATER_ROWS = "recorded later than the other look-ups, when the same recordings had other numbers"
NOT_REPRODUCED = {
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


def reproduced() -> list[Exchange]:
    return [
        each
        for each in load()
        if (each.group, each.name) not in NOT_REPRODUCED
        and (
            each.group in EXACT_GROUPS
            or (each.group in EXTRA_GROUPS and each.query.get("function") in EXTRA_FUNCTIONS)
        )
    ]


async def test_it_answers_word_for_word_as_recorded(session: aiohttp.ClientSession) -> None:
    wrong = []
    for exchange in reproduced():
        async with StandInDialer(wall=lambda: RECORDED_AT) as dialer:
            said = await replay(session, dialer, exchange)
        if said != (exchange.status, exchange.body):
            wrong.append(f"{exchange.group}/{exchange.name}: {said}, not {(exchange.status, exchange.body)}")
    assert not wrong, "\n".join(wrong)


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


async def test_a_transfer_gives_a_call_a_new_id_and_nobody_finds_the_old_one_again(
    session: aiohttp.ClientSession,
) -> None:
    now = 0.0
    moment = datetime(2026, 11, 20, 22, 14, tzinfo=UTC).timestamp()
    async with StandInDialer(clock=lambda: now, wall=lambda: moment + now) as dialer:
        rung = dialer.ring("transferred", "V1202140000000012346", phone="3125551213", speed=0.8)
        assert rung == ("V1202140000000012346", "Y1202214100000012346")
        states = []
        for seconds in (0.0, 1.25, 8.75, 10.0, 15.0, 22.5, 27.5):
            now = seconds
            query = dict(find("call_lifecycle", "xfer_1_V_before_transfer").query)
            said = [(await ask(session, dialer, **query | {"call_id": each})).rstrip() for each in rung]
            states.append(tuple(said))
        dialled = "ERROR: callid_info CALL NOT FOUND: 6666|"
        first = "V1202140000000012346|{}|2026-11-20 22:14:01|3125551213|OUTBOUND_AUTO|SALES1|1001|{}|1000"
        then = "Y1202214100000012346|{}|2026-11-20 22:14:10|3125551213|INBOUND|SUPPORTLINE|1001|{}|{}"
        assert states == [
            (dialled, dialled),
            (first.format(0, "INCALL"), dialled),
            (first.format(6, "XFER"), dialled),
            (dialled, then.format(0, "QUEUE", "VDCL")),
            (dialled, then.format(0, "INCALL", "1001")),
            (dialled, then.format(6, "DISPO", "1001")),
            (dialled, then.format(6, "SALE", "1001")),
        ]
        recorded = [find("call_lifecycle", f"xfer_{name}") for name in XFER]
        assert [each.body.rstrip() for each in recorded] == [
            first.format(0, "INCALL").replace("22:14:01", "22:14:00"),  # its row was written as it began
            dialled,
            then.format(0, "QUEUE", "VDCL").replace("Y1202214100", "Y1202141000"),
        ]


XFER = ("1_V_before_transfer", "2_V_after_transfer_to_in_group", "3_Y_after_transfer")


@pytest.mark.parametrize(
    ("life", "states"),
    [
        (
            "answered",
            {0: "NOT FOUND", 2: "QUEUE|VDAD", 3: "INCALL|1000", 12: "DISPO|1000", 20: "SALE|1000"},
        ),
        ("unanswered", {9: "NOT FOUND", 10: "NA|VDAD"}),
        ("dropped", {0: "QUEUE|VDCL", 6: "DROP|VDCL"}),
        ("archived", {4: "INCALL|1000", 5: "NI|1000", 30: "NOT FOUND", 1e6: "NOT FOUND"}),
        ("endless", {0: "INCALL|1000", 1e6: "INCALL|1000"}),
        ("unknown", {0: "NOT FOUND", 1e6: "NOT FOUND"}),
    ],
)
async def test_the_calls_that_are_always_there_live_from_the_first_question_on(
    life: str, states: dict[float, str], session: aiohttp.ClientSession
) -> None:
    now = 500.0
    async with StandInDialer(clock=lambda: now) as dialer:
        call_id = LIVE_IDS["real"][life]
        await ask(session, dialer, function="callid_info", call_id=call_id)
        for seconds, expected in states.items():
            now = 500 + seconds
            said = await ask(session, dialer, function="callid_info", call_id=call_id, detail="YES")
            assert expected in said, (seconds, said)


async def test_a_call_that_comes_by_a_transfer_does_not_begin_by_itself(
    session: aiohttp.ClientSession,
) -> None:
    now = 0.0
    async with StandInDialer(clock=lambda: now) as dialer:
        first = LIVE_IDS["real"]["transferred"]
        query = {"function": "callid_info", "call_id": transferred_id(first)}
        for seconds in (0.0, 1000.0):
            now = seconds
            assert "CALL NOT FOUND" in await ask(session, dialer, **query)
        await ask(session, dialer, function="callid_info", call_id=first)
        now = 1022.0
        assert await ask(session, dialer, **query) == f"{transferred_id(first)}|6\n"


@pytest.mark.parametrize(
    ("dialect", "talking", "over"),
    [
        (
            "real",
            "V1220700020000000001|0|2026-11-22 07:00:04|",
            "V1220700020000000001|9|2026-11-22 07:00:14|",
        ),
        ("tutorial", "|2026-11-22 07:00:02||Out", "|2026-11-22 07:00:02|2026-11-22 07:00:14|Out"),
    ],
)
async def test_a_call_without_a_date_began_when_its_schedule_did(
    dialect: Literal["real", "tutorial"], talking: str, over: str, session: aiohttp.ClientSession
) -> None:
    now = 0.0
    moment = datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()
    async with StandInDialer(dialect=dialect, clock=lambda: now, wall=lambda: moment + now) as dialer:
        dialer.world.utc_offset = -5 * 3600
        now = 2.0
        (call_id,) = dialer.ring("answered")
        query = {"function": "callid_info", "call_id": call_id, "detail": "YES"}
        now = 10.0
        assert talking in await ask(session, dialer, **query)
        now = 40.0
        assert over in await ask(session, dialer, **query)


BEGAN = datetime(2026, 11, 30, 6, 53, 5, tzinfo=UTC).timestamp()
"""01:53:05 at the dialer."""

OUTCOMES: dict[tuple[str, str], dict[float, str]] = {
    ("answered", "V"): {
        1.9: "NOT FOUND",
        2.5: "|0|01:53:07|QUEUE|VDAD",
        3: "|0|01:53:07|INCALL|1000",
        11.9: "|0|01:53:07|INCALL|1000",
        12: "|9|01:53:17|DISPO|1000",
        20: "|9|01:53:17|SALE|1000",
    },
    ("manual", "M"): {
        2.9: "NOT FOUND",
        3.9: "LOG NOT FOUND",
        4: "|0|01:53:08|INCALL|1000",
        12: "|7|01:53:17|DISPO|1000",
        20: "|7|01:53:17|SALE|1000",
    },
    ("no_channel", "M"): {9.9: "NOT FOUND", 10: "|0|01:53:15|DONEM|1000", 20: "|0|01:53:15|B|1000"},
    ("inbound", "Y"): {
        0: "|0|01:53:05|QUEUE|VDCL",
        4: "|0|01:53:05|INCALL|1000",
        12: "|8|01:53:05|DISPO|1000",
        20: "|8|01:53:05|SALE|1000",
    },
    ("unanswered", "V"): {9.9: "NOT FOUND", 10: "|0|01:53:05|NA|VDAD"},
    ("dropped", "Y"): {0: "|0|01:53:05|QUEUE|VDCL", 6: "|0|01:53:05|DROP|VDCL"},
}


@pytest.mark.parametrize(("life", "prefix"), OUTCOMES)
async def test_the_date_of_an_agents_outbound_call_moves_at_the_hang_up_and_no_other(
    life: str, prefix: str, session: aiohttp.ClientSession
) -> None:
    now = 0.0
    async with StandInDialer(clock=lambda: now, wall=lambda: BEGAN + now) as dialer:
        dialer.world.utc_offset = -5 * 3600
        (call_id,) = dialer.ring(life, lead_id="12346")
        assert call_id == f"{prefix}1300153050000012346"
        for seconds, expected in OUTCOMES[life, prefix].items():
            now = seconds
            said = await ask(session, dialer, function="callid_info", call_id=call_id, detail="YES")
            assert _short(said).endswith(expected), (seconds, said)


def _short(said: str) -> str:
    if said.startswith("ERROR"):
        return (
            said.partition(": callid_info ")[2].partition(":")[0] or said.partition(": ")[2].partition(":")[0]
        )
    _, talked, date, *_, status, user = said.rstrip("\n").split("|")
    return f"|{talked}|{date.removeprefix('2026-11-30 ')}|{status}|{user}"


@pytest.mark.parametrize(
    ("call_id", "fields", "date"),
    [
        ("V1300153050000012346", {}, "2026-11-30 01:53:13"),
        ("M1300153050000012346", {"call_type": "OUTBOUND_MANUAL"}, "2026-11-30 01:53:13"),
        ("Y1300153050000012346", {"call_type": "INBOUND"}, "2026-11-30 01:53:05"),
        ("V1300153050000012346", {"user": "VDAD"}, "2026-11-30 01:53:05"),
        ("V1300253050000012346", {"user": "VDAD"}, "2026-01-30 02:53:05"),  # there it is not yet 02:53
        ("V2290153050000012346", {"user": "VDAD"}, "2025-12-29 01:53:05"),
        ("V9310153050000012346", {"user": "VDAD"}, "2026-11-20 14:05:09"),  # no month of a 9 has 31 days
        ("V9999999999999999999", {"user": "VDAD"}, "2026-11-20 14:05:09"),
        ("V1300153050000012346", {"call_date": "2025-11-30 01:53:05"}, "2025-11-30 01:53:05"),
    ],
)
async def test_a_call_that_is_over_has_the_date_in_its_id(
    call_id: str, fields: dict[str, Any], date: str, session: aiohttp.ClientSession
) -> None:
    async with StandInDialer(clock=lambda: 0.0, wall=lambda: BEGAN + 60) as dialer:
        dialer.world.utc_offset = -5 * 3600
        dialer.add_call(DialerCall(call_id=call_id, talk_seconds=8, **fields))
        said = await ask(session, dialer, function="callid_info", call_id=call_id, detail="YES")
        assert said.startswith(f"{call_id}|8|{date}|")


async def test_of_two_calls_with_one_id_the_older_is_answered(
    dialer: StandInDialer, session: aiohttp.ClientSession
) -> None:
    older = DialerCall(call_id="V1300153050000012346", call_date="2025-11-30 01:53:13", status="NI")
    dialer.add_call(DialerCall(call_id=older.call_id, earlier=older))
    said = await ask(session, dialer, function="callid_info", call_id=older.call_id, detail="YES")
    assert said == f"{older.call_id}|0|2025-11-30 01:53:13|3125551212|OUTBOUND_AUTO|SALES1|1001|NI|1000\n"


async def test_a_recording_is_found_from_its_beginning_and_has_length_and_place_at_its_end(
    session: aiohttp.ClientSession,
) -> None:
    now = 0.0
    async with StandInDialer(clock=lambda: now, wall=lambda: BEGAN + now) as dialer:
        (call_id,) = dialer.ring("manual", lead_id="12346")
        first, uniqueid = dialer.recordings[-1], dialer.calls[call_id].uniqueid
        assert uniqueid == f"{BEGAN:.0f}.1"
        dialer.record(dialer.calls[call_id], 13.0, 15.0)  # after the customer left, and the hang-up
        by_lead = {"function": "recording_lookup", "lead_id": "0012346", "duration": "Y"}
        by_second = {"function": "recording_lookup", "uniqueid": f"{BEGAN:.0f}.999", "duration": "Y"}
        assert await ask(session, dialer, **by_second) == (
            f"ERROR: recording_lookup INVALID SEARCH PARAMETERS: {DEFAULT_USER}||||{BEGAN:.0f}.999\n"
        )  # no call of that second has a row yet
        row = f"2026-11-30 06:53:05|1000|{first.recording_id}|12346"
        assert await ask(session, dialer, **by_lead) == f"{row}|0|\n"
        now = 12.0
        assert await ask(session, dialer, **by_second) == f"{row}|12|{first.location}\n"
        now = 14.0
        assert (await ask(session, dialer, **by_lead)).splitlines()[1].startswith("2026-11-30 06:53:18|1000|")


async def test_recordings_are_searched_for_as_vicidial_does_it(session: aiohttp.ClientSession) -> None:
    async with StandInDialer(wall=lambda: BEGAN) as dialer:
        dialer.add_call(DialerCall(call_id="V1300153050000000077", uniqueid="1796021585.7"))
        dialer.world.recordings = [
            Recording(
                recording_id=f"{number}",
                start_time=f"2026-11-{day} 01:53:0{second}",
                user=user,
                lead_id=lead,
                uniqueid=uniqueid,
            )
            for number, (day, second, user, lead, uniqueid) in enumerate(
                [
                    (30, 9, "1000", "77", "1796021585.7"),
                    (30, 6, "1001", "78", "1796021585.8"),
                    (29, 7, "1000", "77", "1795935185.1"),
                ]
            )
        ]
        for asked, found in {
            "uniqueid=1796021585.7": "10",
            "uniqueid=1796021585.7&lead_id=77": "0",
            "uniqueid=1796021585.7&agent_user=1001": "1",
            "lead_id=77": "20",
            "agent_user=1000&date=2026-11-30": "0",
            "agent_user=1000&lead_id=77": "20",
            "uniqueid=1700000000.1&lead_id=78": "1",  # an unknown one counts for nothing
            "uniqueid=1700000000.1&agent_user=1000&date=2026-11-29": "2",
        }.items():
            said = await ask(session, dialer, function="recording_lookup", **dict(parse_qsl(asked)))
            assert "".join(line.split("|")[2] for line in said.splitlines()) == found, asked
        for asked in ("agent_user=1000", "date=2026-11-30", "uniqueid=1700000000.1&date=2026-11-30", ""):
            said = await ask(session, dialer, function="recording_lookup", **dict(parse_qsl(asked)))
            assert said.startswith("ERROR: recording_lookup INVALID SEARCH PARAMETERS: "), asked


def test_a_life_that_is_none_is_refused() -> None:
    dialer = StandInDialer()
    with pytest.raises(ValueError, match="there is no life 'happy'; there are answered, "):
        dialer.ring("happy")
    with pytest.raises(ValueError, match="speed must be more than 0"):
        dialer.ring(speed=0)


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


async def test_with_display_errors_a_row_stands_amid_warnings_as_recorded(
    dialer: StandInDialer, session: aiohttp.ClientSession
) -> None:
    dialer.world.display_errors = True
    recorded = [each for each in load() if each.group == "display_errors_on"]
    assert len(recorded) == 3
    for exchange in recorded:
        assert await replay(session, dialer, exchange) == (exchange.status, exchange.body), exchange.name
    said = await ask(session, dialer, function="callid_info", call_id=CALL)
    assert len(said) > 30_000
    assert f"<br />\n{CALL}|120\n<br />\n" in said
    assert "$call_id" not in said
    assert "$agent_user" in said


async def test_apache_answers_as_recorded(dialer: StandInDialer, session: aiohttp.ClientSession) -> None:
    recorded = [each for each in load() if each.group == "apache_mod_php"]
    assert len(recorded) == 8
    for exchange in recorded:
        dialer.world.ip_blocked = exchange.name == "ip_block_allow_list"
        assert await replay(session, dialer, exchange) == (exchange.status, exchange.body), exchange.name


async def test_a_server_in_latin1_says_utf8_and_writes_latin1(
    dialer: StandInDialer, session: aiohttp.ClientSession
) -> None:
    dialer.world.charset = "latin-1"
    exchange = find("login_other", "server_charset_latin1_call")
    async with session.get(dialer.url, params=exchange.query) as response:
        assert response.headers["content-type"] == exchange.content_type == "text/html; charset=utf-8"
        assert await response.read() == exchange.body.encode("latin-1", errors="replace")


@pytest.mark.parametrize(
    ("fault", "name"), [("500", "apache_callid_info"), ("mysql", "mysqli_report_off_callid_info")]
)
async def test_without_its_database_it_answers_as_recorded(
    fault: Fault, name: str, dialer: StandInDialer, session: aiohttp.ClientSession
) -> None:
    dialer.fault = fault
    exchange = find("db_down", name)
    async with session.get(dialer.url, params=exchange.query) as response:
        found = (response.status, response.headers["content-type"], await response.text())
    assert found == (exchange.status, exchange.content_type, exchange.body)


async def test_while_the_table_of_the_users_is_locked_every_login_waits() -> None:
    now = 0.0
    paused = []

    class Patient(StandInDialer):
        async def pause(self, seconds: float) -> None:
            paused.append(seconds)

    async with Patient(clock=lambda: now) as dialer, aiohttp.ClientSession() as session:
        dialer.control({"users_table_locked": 5})
        await ask(session, dialer, function="version")
        assert paused == []
        now = 2.0
        assert await ask(session, dialer, function="callid_info", call_id=CALL) == f"{CALL}|120\n"
        assert paused == [3.0]
        now = 5.0
        await ask(session, dialer, function="callid_info", call_id=CALL)
        assert paused == [3.0]


async def test_a_function_checks_the_source_before_any_permission(
    dialer: StandInDialer, session: aiohttp.ClientSession
) -> None:
    query = {"user": "limited", "pass": "Limit1", "source": "", "function": "callid_info", "call_id": CALL}
    assert (await ask(session, dialer, **query)).startswith("ERROR: Invalid Source - \n")
    assert await ask(session, dialer, **query | {"function": "x"}) == "ERROR: NO FUNCTION SPECIFIED\n"


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


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault not in {"huge", "bomb"}])
async def test_it_breaks_in_every_way(fault: Fault) -> None:
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


async def test_a_huge_answer_is_a_hundred_mebibytes_also_where_few_bytes_are_sent() -> None:
    plain: dict[Fault, int] = {"huge": 100, "bomb": 1}
    async with StandInDialer() as dialer, aiohttp.ClientSession(auto_decompress=False) as session:
        for fault, mebibytes in plain.items():
            dialer.fault = fault
            async with session.get(dialer.url) as response:
                sent = 0
                async for chunk in response.content.iter_any():
                    sent += len(chunk)
            assert (mebibytes - 1) * 2**20 < sent <= mebibytes * 2**20
            assert response.headers.get("content-encoding") == (None if fault == "huge" else "gzip")


async def test_a_redirect_leads_to_itself_without_the_query() -> None:
    async with StandInDialer() as dialer, aiohttp.ClientSession() as session:
        dialer.fault = "redirect"
        async with session.get(f"{dialer.url}?pass=x", allow_redirects=False) as response:
            assert (response.status, response.headers["location"]) == (302, PATH)


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


class VirtualTime:
    """A clock that goes on to the next wake-up as soon as everybody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self._sleeping: list[tuple[float, int, asyncio.Future[None]]] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        waking = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleeping, (self.now + seconds, id(waking), waking))
        await waking

    async def run(self, *work: Coroutine[Any, Any, None]) -> None:
        together = asyncio.gather(*work)
        while not together.done():
            for _ in range(10):
                await asyncio.sleep(0)
            if self._sleeping:
                self.now, _, waking = heapq.heappop(self._sleeping)
                if not waking.done():  # else who slept was cancelled
                    waking.set_result(None)
        await together


async def seconds_for(many: int, each: int, *, at_once_knee: int = 4) -> tuple[float, float]:
    """Return how long so many clients take who ask so often each, and what one request took them."""
    time = VirtualTime()
    load = Load(time.sleep, time.clock)
    load.seconds, load.knee = 0.005, at_once_knee
    took: list[float] = []

    async def client() -> None:
        for _ in range(each):
            began = time.now
            await load.work()
            took.append(time.now - began)

    await time.run(*(client() for _ in range(many)))
    return time.now, sum(took) / len(took)


async def test_up_to_four_at_once_each_takes_as_long_as_alone() -> None:
    for many in (1, 2, 3, 4):
        whole, one = await seconds_for(many, 10)
        assert one == pytest.approx(0.005)
        assert whole == pytest.approx(0.05)


async def test_with_eight_at_once_each_takes_twice_as_long_and_no_more_gets_done() -> None:
    four, eight = await seconds_for(4, 20), await seconds_for(8, 10)
    assert eight[0] == pytest.approx(four[0])
    assert eight[1] == pytest.approx(2 * four[1])
    assert (await seconds_for(16, 5))[1] == pytest.approx(4 * four[1])
    assert (await seconds_for(2, 5, at_once_knee=1))[1] == pytest.approx(0.01)


async def test_who_comes_while_others_are_served_slows_them_from_then_on() -> None:
    time = VirtualTime()
    load = Load(time.sleep, time.clock)
    load.seconds = 1.0
    ends: list[float] = []

    async def client(begin: float) -> None:
        await time.sleep(begin)
        await load.work()
        ends.append(time.now)

    await time.run(*(client(0.0) for _ in range(4)), *(client(0.5) for _ in range(4)))
    assert ends[:4] == pytest.approx([1.5] * 4)
    assert ends[4:] == pytest.approx([2.0] * 4)  # the last half second of work is theirs alone


async def test_a_request_that_is_given_up_leaves_the_others_their_share() -> None:
    time = VirtualTime()
    load = Load(time.sleep, time.clock)
    load.seconds = 1.0

    async def gives_up() -> None:
        giving_up = asyncio.ensure_future(load.work())
        await time.sleep(0.5)
        giving_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await giving_up

    await time.run(gives_up(), *(load.work() for _ in range(4)))
    assert time.now == pytest.approx(1.1)  # half a second among five, then four at full speed


async def test_its_answers_take_their_service_time(
    dialer: StandInDialer, session: aiohttp.ClientSession
) -> None:
    dialer.control({"service_time": 0.02, "knee": 2})
    assert (dialer.service_time, dialer.knee) == (0.02, 2)
    began = asyncio.get_running_loop().time()
    await asyncio.gather(*(ask(session, dialer, function="version") for _ in range(8)))
    assert asyncio.get_running_loop().time() - began >= 8 * 0.02 / 2


async def test_each_request_is_reported_when_it_is_over(
    dialer: StandInDialer, session: aiohttp.ClientSession
) -> None:
    observed: list[DialerRequest] = []
    dialer.observe = observed.append
    dialer.keep_requests = False
    await ask(session, dialer, function="callid_info", call_id=CALL)
    dialer.fault = "hang"
    with pytest.raises(TimeoutError):
        async with session.get(dialer.url, timeout=aiohttp.ClientTimeout(total=0.05)):
            pass
    await until(lambda: len(observed) == 2)
    dialer.fault = None
    dialer.delay = 60
    with pytest.raises(TimeoutError):
        async with session.get(dialer.url, timeout=aiohttp.ClientTimeout(total=0.05)):
            pass
    await until(lambda: len(observed) == 3)
    dialer.delay = 0
    async with session.get(f"{dialer.base_url}/vicidial/api.php?pass={DEFAULT_PASSWORD}") as response:
        assert response.status == 404
        assert dialer.url in await response.text()
    outcomes = ["ok", "fault: hang", "the client gave up", "not here: the API is at " + PATH]
    assert [each.outcome for each in observed] == outcomes
    assert list(dialer.recent) == observed
    assert dialer.requests == []
    assert DEFAULT_PASSWORD not in repr([asdict(each) for each in observed])


async def test_it_is_changed_by_json_and_put_back(
    dialer: StandInDialer, session: aiohttp.ClientSession
) -> None:
    query = {"function": "campaigns_list", "campaign_id": "NEW1"}
    at_first = await ask(session, dialer, **query)
    dialer.control(
        {
            "campaigns": {"NEW1": {"name": "New one", "in_groups": ["A"]}},
            "recordings": [
                {
                    "recording_id": "9",
                    "start_time": "2026-11-20 14:00:00",
                    "user": "1001",
                    "lead_id": "99",
                    "seconds": 5,
                    "location": "",
                }
            ],
            "users": {
                "fresh": {"password": "Fresh1", "functions": ["campaigns_list"], "campaigns": ["NEW1"]}
            },
            "utc_offset": 3600,
        }
    )
    login = {"user": "fresh", "pass": "Fresh1"}
    assert (await ask(session, dialer, **query | login)).startswith("NEW1|New one|Y|")
    assert "USER DOES NOT HAVE PERMISSION TO USE" in await ask(
        session, dialer, function="user_details", **login
    )
    assert "|9|99|" in await ask(session, dialer, function="recording_lookup", lead_id="99")
    assert "DATE: 2026-11-22 03:09:58|EPOCH: 1795313398|" in await ask(session, dialer, function="version")
    dialer.control({"reset": True})
    assert await ask(session, dialer, **query) == at_first
    assert "fresh" not in dialer.users


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"users": {"nobody": {"locked": True}}}, "there is no API user 'nobody'; there are crmsync, "),
        ({"users": {"crmsync": {"shoe_size": 9}}}, "an API user has no 'shoe_size'; it has password, "),
        ({"charset": "ebcdic"}, "unknown charset 'ebcdic'; there are utf-8, latin-1"),
        ({"password": {"nobody": "x"}}, "there is no API user 'nobody'"),
        ({"fault": "tea"}, "unknown fault 'tea'"),
        ({"nonsense": 1}, "unknown or unusable setting 'nonsense'"),
    ],
)
async def test_a_change_that_is_none_is_refused_in_words(
    change: dict[str, Any], complaint: str, dialer: StandInDialer, session: aiohttp.ClientSession
) -> None:
    async with session.post(f"{dialer.base_url}/control", json=change) as response:
        assert response.status == 400
        assert complaint in (await response.json())["error"]


async def test_a_user_is_locked_and_let_in_again_by_json(session: aiohttp.ClientSession) -> None:
    now = 10_000.0
    async with StandInDialer(clock=lambda: now) as dialer:
        now = 20_000.0
        dialer.control({"users": {"crmsync": {"locked": True}}})
        query = {"function": "callid_info", "call_id": CALL}
        assert "|LOCK|" in await ask(session, dialer, **query)
        now += 901
        assert await ask(session, dialer, **query) == f"{CALL}|120\n"
        dialer.control({"users": {"crmsync": {"locked": True}}})
        assert "|LOCK|" in await ask(session, dialer, **query)
        dialer.control({"users": {"crmsync": {"locked": False}}})
        assert await ask(session, dialer, **query) == f"{CALL}|120\n"


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
    command = [sys.executable, "-m", "simulators.dialer", "--config", '{"password": {"crmsync": "a"}}']
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


def planned(seed: int = 7, **shift: Any) -> tuple[StandInDialer, list[dict[str, Any]]]:  # noqa: ANN401
    """Plan a shift at a dialer whose clock stands, and return the truth about each call."""
    dialer = StandInDialer(clock=lambda: 0.0, wall=lambda: BEGAN)
    dialer.world.utc_offset = -5 * 3600
    truths: list[dict[str, Any]] = dialer.control({"shift": {"seed": seed, **shift}})["shift"]
    return dialer, truths


def test_a_shift_is_the_same_by_the_same_seed() -> None:
    assert planned(calls=60, agents=4)[1] == planned(calls=60, agents=4)[1]
    assert planned(calls=60, agents=4)[1] != planned(8, calls=60, agents=4)[1]


@pytest.mark.parametrize("seed", range(5))
def test_an_agent_of_a_shift_is_on_one_call_at_a_time(seed: int) -> None:
    dialer, truths = planned(seed)
    assert len(truths) == 500
    assert len({each["call"]["call_id"] for each in truths}) == 500
    spans: dict[str, list[tuple[float, float]]] = {}
    for each in truths:
        if (agent := each["agent_user"]) is not None and each["answered"] != "never":
            call = dialer.calls[each["call"]["call_id"]]
            taken = next(after for after, state in call.schedule if state not in {"not_found", "QUEUE"})
            begun = dialer.time_of_day((call.begun or 0.0) + taken)
            spans.setdefault(agent, []).append((begun, each["disposed_at"]))
    assert len(spans) == 20
    for each_agents in spans.values():
        each_agents.sort()
        assert all(before[1] <= after[0] for before, after in pairwise(each_agents))


@pytest.mark.parametrize("seed", range(3))
async def test_when_a_shift_is_over_the_dialer_answers_as_its_truth_says(
    seed: int, session: aiohttp.ClientSession
) -> None:
    now = 0.0
    async with StandInDialer(clock=lambda: now, wall=lambda: BEGAN + now) as dialer:
        truths = dialer.control({"shift": {"seed": seed, "calls": 150}})["shift"]
        now = 1000.0
        for truth in truths:
            call, query = truth["call"], {"function": "callid_info", "call_id": truth["call"]["call_id"]}
            said = await ask(session, dialer, **query, detail="YES")
            if truth["answered"] == "never":
                assert "CALL NOT FOUND" in said
                continue
            _, talked, date, phone, kind, place, _, status, user = said.rstrip("\n").split("|")
            if truth["answered"] == "older":
                assert (date[:4], status) == ("2025", "NI")
                continue
            assert (talked, phone, kind) == (
                str(call["talk_seconds"]),
                call["phone_number"],
                call["call_type"],
            )
            assert place == (call["campaign_id"] or call["in_group_id"])
            assert (status, user in {"VDAD", "VDCL"}) == (call["status"], truth["agent_user"] is None)
            moves = call["direction"] == "outbound" and truth["agent_user"] is not None
            expected = {call["ended_at" if moves else "started_at"]}
            if truth["kind"] == "unanswered":  # of these, some are cleared by the dialer, some time later
                expected.add(call["ended_at"])
            assert f"{date.replace(' ', 'T')}+00:00" in expected
            query = {"function": "recording_lookup", "lead_id": call["lead_id"], "duration": "Y"}
            rows = (await ask(session, dialer, **query)).splitlines()
            for recording in call["recordings"]:
                start, length = recording["started_at"], recording["duration_seconds"]
                row = f"{start[:19].replace('T', ' ')}|{user}|{recording['recording_id']}|{call['lead_id']}"
                assert f"{row}|{length}|{recording['url']}" in rows
