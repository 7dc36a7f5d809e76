"""What the stand-in dialer knows: its calls, agents, campaigns, recordings and API users.

The calls are read from the recorded answers and the rest is written down from them, so that the stand-in
answers about them as the real server did.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal

from worker.demo.recordings import Exchange, load

CALL_COLUMNS: Final = (
    "call_id",
    "custtime",
    "call_date",
    "phone",
    "call_type",
    "campaign_id",
    "list_id",
    "status",
    "user",
)
"""The columns of `callid_info` with `detail=YES`, in this build's order."""

DEFAULT_USER: Final = "crmsync"
DEFAULT_PASSWORD: Final = "Dialer-Pass-1"  # noqa: S105 - opens nothing but the stand-in

ALL_FUNCTIONS: Final = "ALL_FUNCTIONS"
SEPARATORS: Final = {"csv": ",", "tab": "\t"}
"""The separators of `stage`; anything else is a pipe."""

Dialect = Literal["real", "tutorial"]


@dataclass(slots=True, kw_only=True)
class DialerCall:
    """One call, with the state it has in the end, and on request the way there.

    `schedule` lists (seconds, state): from so many seconds after `since` on, the call is in that state.
    States are `not_found`, `log_not_found`, `final` (the call's own `status`), or a VICIdial status, of which
    `INCALL` and `QUEUE` have no talk time yet. `since` is the dialer's clock; unset, it becomes the time of
    the first question about the call. Without a schedule the call is final from the start.
    """

    call_id: str
    talk_seconds: int = 0
    call_date: str = "2026-11-20 14:05:09"
    phone: str = "3125551212"
    call_type: str = "OUTBOUND_AUTO"
    campaign_id: str = "SALES1"
    list_id: str = "1001"
    status: str = "SALE"
    user: str = "1000"
    uniqueid: str = ""
    ended_at: str = ""
    recording: str = ""
    schedule: tuple[tuple[float, str], ...] = ()
    since: float | None = None

    def state(self, now: float) -> str:
        """Say which state the call is in at that time of the dialer's clock."""
        if not self.schedule:
            return "final"
        if self.since is None:
            self.since = now
        reached = [state for after, state in self.schedule if now - self.since >= after]
        return reached[-1] if reached else "not_found"


@dataclass(slots=True, kw_only=True)
class Campaign:
    """One campaign, as `campaigns_list` tells it, with the in-groups that its agents may take calls from."""

    campaign_id: str
    name: str
    active: bool = True
    dial_method: str = "MANUAL"
    in_groups: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class DialerAgent:
    """One agent. `campaigns` unset means every active campaign."""

    user: str
    full_name: str = "Agent"
    user_group: str = "SALES"
    user_level: int = 1
    active: bool = True
    campaigns: tuple[str, ...] | None = None


@dataclass(slots=True, kw_only=True)
class Recording:
    """One recording of a call or of a lead."""

    recording_id: str
    start_time: str
    user: str
    lead_id: str
    seconds: int
    location: str
    uniqueid: str = ""


@dataclass(slots=True, kw_only=True)
class ApiUser:
    """One user of the API, with what it may do and how its logins went.

    `last_login` is in seconds of the dialer's clock, which starts at 0: by default the user logged in just
    before, so that ten failures lock it. `None` means that it never has. `groups` and `campaigns`, where set,
    are all that the user's own group may see.
    """

    password: str = field(kw_only=False)
    level: int = 9
    api_access: bool = True
    view_reports: bool = True
    modify_users: bool = True
    two_factor: bool = False
    functions: frozenset[str] = frozenset({ALL_FUNCTIONS})
    groups: frozenset[str] | None = None
    campaigns: frozenset[str] | None = None
    failed_logins: int = 0
    last_login: float | None = 0.0


@dataclass(slots=True)
class World:
    """Everything that the stand-in knows; tests change it while it serves.

    `utc_offset` is the server's real offset in seconds, `zone` what `version` claims it to be: on the
    recorded server they differed.
    """

    calls: dict[str, DialerCall] = field(default_factory=dict)
    agents: dict[str, DialerAgent] = field(default_factory=dict)
    campaigns: dict[str, Campaign] = field(default_factory=dict)
    recordings: list[Recording] = field(default_factory=list)
    users: dict[str, ApiUser] = field(default_factory=dict)
    ip_blocked: bool = False
    utc_offset: int = 0
    zone: str = "-5.00"


def recorded_world() -> World:
    """Give a world of its own with everything that stands in the recordings, and the tutorials' examples."""
    return World(
        calls={call.call_id: call for call in (*_recorded_calls(load()), _tutorial_call())},
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
        if exchange.query.get("function") != "callid_info" or exchange.status != 200:
            continue
        if (
            exchange.body.startswith("ERROR: callid_info CALL LOG NOT FOUND")
            and exchange.group != "call_lifecycle"
        ):
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
    """Give the API users of the recordings, with their passwords there, and the default one."""
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
