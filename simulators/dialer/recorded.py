"""What the stand-in dialer knows at first: all that stands in the recordings.

The calls are read from the recorded answers and the rest is written down from them, so that the stand-in
answers about them as the real server did.
"""

from collections.abc import Iterable
from typing import Final

from simulators.dialer.world import (
    CALL_COLUMNS,
    DEFAULT_PASSWORD,
    DEFAULT_USER,
    SEPARATORS,
    ApiUser,
    Campaign,
    DialerAgent,
    DialerCall,
    Recording,
    World,
    live_calls,
)
from simulators.recordings import Exchange, load

CAMPAIGNS: Final = (("Campaign1", "Outbound Sales"), ("Campaign2", "Inbound Support"))
"""The tutorials' campaigns, those of the agent `agent001`."""

_OF_A_MOMENT: Final = frozenset({"call_lifecycle", "db_down"})
"""Groups whose errors passed: of calls on their way, or of a server that was down."""


def recorded_world() -> World:
    """Return a world of its own with what is recorded, the tutorials' call, and the living calls."""
    calls = (*live_calls("real"), *_recorded_calls(load()), _tutorial_call())
    return World(
        calls={call.call_id: call for call in calls},
        agents={agent.user: agent for agent in _agents()},
        campaigns={campaign.campaign_id: campaign for campaign in _campaigns()},
        recordings=_recordings(),
        users=_users(),
    )


def _recorded_calls(exchanges: Iterable[Exchange]) -> Iterable[DialerCall]:
    """Read the calls from the answers; a later answer about the same call wins, as it did on the server."""
    uniqueids = {"V1201405090000012345": "1795269909.101", "V1201406090000012346": "1795269970.211"}
    for exchange in exchanges:
        call_id = exchange.query.get("call_id", "")
        if exchange.query.get("function") != "callid_info":
            continue
        lasts = exchange.group not in _OF_A_MOMENT
        if lasts and exchange.status == 500:
            yield DialerCall(call_id=call_id, schedule=((0, "sql_error"),))
        if lasts and exchange.body.startswith("ERROR: callid_info CALL LOG NOT FOUND"):
            yield DialerCall(call_id=call_id, schedule=((0, "log_not_found"),))
        separator = SEPARATORS.get(exchange.query.get("stage", ""), "|")
        for line in exchange.body.splitlines():
            fields = line.split(separator)
            if len(fields) == len(CALL_COLUMNS) and fields[0] == call_id:
                yield _recorded_call(fields, uniqueids.get(call_id, ""))


def _recorded_call(fields: list[str], uniqueid: str) -> DialerCall:
    call_id, talked, date, phone, kind, campaign_id, list_id, status, user = fields
    return DialerCall(
        call_id=call_id,
        talk_seconds=int(talked),
        call_date=date,
        phone=phone,
        call_type=kind,
        campaign_id=campaign_id,
        list_id=list_id,
        status=status,
        user=user,
        uniqueid=uniqueid,
    )


def _tutorial_call() -> DialerCall:
    return DialerCall(
        call_id="1000012345",
        call_date="2024-02-15 10:15:00",
        ended_at="2024-02-15 10:18:30",
        phone="9876543210",
        user="agent001",
        status="Answered",
        recording="rec_1000012345.wav",
        talk_seconds=210,
    )


def _campaigns() -> list[Campaign]:
    sales = ("AGENTDIRECT", "AGENTDIRECT_CHAT", "SALESLINE", "SUPPORTLINE")
    return [
        Campaign(campaign_id="SALES1", name="Sales one", dial_method="RATIO", in_groups=sales),
        Campaign(
            campaign_id="RENEW_24",
            name="Renewals 2024",
            dial_method="RATIO",
            in_groups=("RENEW_IN", "SALESLINE"),
        ),
        Campaign(campaign_id="CLOSED1", name="Closed", active=False, dial_method="RATIO"),
        Campaign(
            campaign_id="SUPP-1",
            name="Support with dash",
            dial_method="INBOUND_MAN",
            in_groups=("SUPPORTLINE",),
        ),
        Campaign(campaign_id="OUTONLY", name="Outbound only"),
        Campaign(campaign_id="OUTEMPTY", name="Outbound only empty closer"),
        Campaign(campaign_id="ADCAMP", name="Agentdirect only", in_groups=("AGENTDIRECT",)),
        Campaign(campaign_id="7", name="One char"),
    ]


def _agents() -> list[DialerAgent]:
    sales = ("RENEW_24", "SALES1")
    every = ("SALES1", "RENEW_24", "SUPP-1", "OUTONLY", "OUTEMPTY", "ADCAMP", "7")
    return [
        DialerAgent(user="1000", full_name="Agent Thousand", campaigns=sales),
        DialerAgent(
            user="1001",
            full_name="Agent One",
            user_group="SUPPORT",
            campaigns=("OUTONLY", "RENEW_24", "SUPP-1"),
        ),
        DialerAgent(user="1002"),
        DialerAgent(user="1003", campaigns=("CLOSED1",)),
        DialerAgent(user="1004", campaigns=()),
        DialerAgent(user="1005", campaigns=sales),
        DialerAgent(user="1006", campaigns=("OUTONLY",)),
        DialerAgent(user="1007", campaigns=()),
        DialerAgent(user="1008", campaigns=("ADCAMP",)),
        DialerAgent(user="1009", campaigns=("7",)),
        DialerAgent(user="1010", campaigns=(*every, "X-ALL", "-LEAD")),
        DialerAgent(user="1012", campaigns=()),
        DialerAgent(user="6666", user_level=9),
        DialerAgent(user="MixedCase", campaigns=sales),
        DialerAgent(user="jane-doe_1", campaigns=sales),
        DialerAgent(user="inactive", active=False),
        DialerAgent(user="VDAD"),
        DialerAgent(user="agent001", full_name="Agent Tutorial", campaigns=("SALES1",)),
    ]


def _recordings() -> list[Recording]:
    web, disk = "http://10.10.10.15/RECORDINGS/MP3", "/var/spool/asterisk/monitorDONE"
    rows = (
        (
            "1",
            "2026-11-20 14:05:15",
            "1000",
            120,
            f"{web}/20261120-140515_3125551212-all.mp3",
            "1795269909.101",
        ),
        ("3", "2026-11-20 14:05:16", "1000", 60, f"{disk}/20261120-140516_3125551212-all.wav", ""),
        ("4", "2026-11-20 14:05:20", "1001", 0, "", ""),
        (
            "2",
            "2026-11-20 14:07:15",
            "1000",
            20,
            f"{web}/20261120-140715_3125551212-all.mp3",
            "1795269909.102",
        ),
    )
    return [
        Recording(
            recording_id=number,
            start_time=start,
            user=user,
            lead_id="12345",
            seconds=seconds,
            location=location,
            uniqueid=uniqueid,
        )
        for number, start, user, seconds, location, uniqueid in rows
    ]


def _users() -> dict[str, ApiUser]:
    """Return the API users of the recordings, with their passwords there, and the default one."""
    main = frozenset({"callid_info", "agent_campaigns"})
    sales = frozenset({"SALES"})
    return {
        DEFAULT_USER: ApiUser(DEFAULT_PASSWORD),
        "6666": ApiUser("1234"),
        "limited": ApiUser("Limit1", functions=frozenset()),
        "level6": ApiUser("Level6", level=6),
        "api7": ApiUser("Seven7", level=7),
        "api8": ApiUser("Eight8", level=8, functions=main),
        "api8nomod": ApiUser("Eight8", level=8, modify_users=False),
        "limadm": ApiUser("Limad1", groups=sales, campaigns=frozenset({"SALES1"})),
        "noapi": ApiUser("NoApi1", api_access=False),
        "noreports": ApiUser("NoRep1", view_reports=False),
        "lockme": ApiUser("Right1"),
    }


def tutorial_world() -> World:
    """Return the recorded world with the tutorials' own campaigns and agent, and calls that live."""
    world = recorded_world()
    world.calls.update({call.call_id: call for call in live_calls("tutorial")})
    for campaign_id, name in CAMPAIGNS:
        world.campaigns[campaign_id] = Campaign(campaign_id=campaign_id, name=name)
    ids = tuple(campaign_id for campaign_id, _ in CAMPAIGNS)
    world.agents["agent001"] = DialerAgent(user="agent001", campaigns=ids)
    return world
