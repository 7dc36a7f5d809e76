"""The kinds of thing that the stand-in dialer knows: calls, agents, campaigns, recordings and API users."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal

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
Charset = Literal["utf-8", "latin-1"]


State = str
"""`not_found`, `log_not_found`, `sql_error`, `final`, or a status of VICIdial that a call has for a while."""


@dataclass(slots=True, kw_only=True)
class DialerCall:
    """One call, with the state it has in the end, and on request the way there.

    `schedule` lists (seconds, state): from so many seconds after `since` on, the call is in that state.
    States are `not_found`, `log_not_found`, `sql_error` (the server breaks over it), `final` (the call's own
    `status`), or a VICIdial status; `INCALL` and `QUEUE` have no talk time yet, and `QUEUE` no agent.
    `since` is the dialer's clock; unset, it becomes the time of the first question about the call. Without a
    schedule the call is final from the start. An empty `call_date` is the moment at which the schedule began.

    A call that came out of a transfer names the one it was `transferred_from`: its schedule begins
    `transferred_after` seconds after the beginning of that one, and never by itself.
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
    schedule: tuple[tuple[float, State], ...] = ()
    since: float | None = None
    transferred_from: "DialerCall | None" = field(default=None, repr=False)
    transferred_after: float = 0.0

    def state(self, now: float) -> State:
        """Say which state the call is in for who asks at that time of the dialer's clock, and begin it."""
        if self.schedule and self.since is None and self.transferred_from is None:
            self.since = now
        return self.peek(now)

    def peek(self, now: float) -> State:
        """Say which state the call is in at that time, and begin nothing."""
        if not self.schedule:
            return "final"
        age = self.age(now)
        reached = [] if age is None else [state for after, state in self.schedule if age >= after]
        return reached[-1] if reached else "not_found"

    def age(self, now: float) -> float | None:
        """Give the seconds since the schedule began, negative before it; `None` where nothing began it."""
        since = self.since if self.transferred_from is None else self.transferred_from.since
        return None if since is None else now - since - self.transferred_after


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
    are all that the user's own group may see. `lock_seconds` is how long a lock lasts after the last good
    login: VICIdial's 15 minutes, unless a test has less time.
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
    lock_seconds: float = 900.0


@dataclass(slots=True)
class World:
    """Everything that the stand-in knows; tests change it while it serves.

    `utc_offset` is the server's real offset in seconds, `zone` what `version` claims it to be: on the
    recorded server they differed. `display_errors` is PHP's setting of that name: the answer then stands
    amid warnings. With the `charset` `latin-1` the bytes are in it, whatever the header says.
    """

    calls: dict[str, DialerCall] = field(default_factory=dict)
    agents: dict[str, DialerAgent] = field(default_factory=dict)
    campaigns: dict[str, Campaign] = field(default_factory=dict)
    recordings: list[Recording] = field(default_factory=list)
    users: dict[str, ApiUser] = field(default_factory=dict)
    ip_blocked: bool = False
    display_errors: bool = False
    charset: Charset = "utf-8"
    utc_offset: int = 0
    zone: str = "-5.00"

    def local_time(self, wall: float) -> str:
        """Write a time of day as the server does: its own local time, without a zone."""
        return datetime.fromtimestamp(wall + self.utc_offset, UTC).strftime("%Y-%m-%d %H:%M:%S")
