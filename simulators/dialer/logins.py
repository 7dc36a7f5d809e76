"""How the stand-in lets API users in: passwords, the lock, two-factor login, addresses, permissions."""

from dataclasses import dataclass

from simulators.dialer.world import ALL_FUNCTIONS, ApiUser, World

LOCK_AFTER = 10
"""Failed logins that lock an API user, until `lock_seconds` after its last good one."""

LOWEST_LEVEL = 7
"""A user below it can't log in at all."""


@dataclass(frozen=True, slots=True)
class Permission:
    """What a function demands of an API user; `what` is how its refusal calls it."""

    what: str
    level: int = LOWEST_LEVEL
    modify_users: bool = False


PERMISSIONS = {
    "callid_info": Permission("CALL INFO"),
    "agent_campaigns": Permission("AGENT INFO", level=8, modify_users=True),
    "campaigns_list": Permission("CAMPAIGN INFO", level=8),
    "user_details": Permission("USER DETAILS"),
    "recording_lookup": Permission("RECORDING INFO"),
}
"""The functions that there are, but for `version`, which anybody may use."""


def log_in(world: World, name: str, password: str, now: float) -> tuple[ApiUser | None, str]:
    """Let a user in, or give the error that says why not; counts the try."""
    user = find_user(world, name)
    verdict = check_login(user, password, now)
    if verdict == "LOCK":
        return None, f"ERROR: Too many login attempts, try again in 15 minutes: |{name}|LOCK|\n"
    if verdict != "GOOD":
        return None, f"ERROR: Login incorrect, please try again: |{name}|{password}|{verdict}|\n"
    if world.ip_blocked:
        return None, "ERROR: Your IP Address is not allowed: 127.0.0.1: ||IPBLOCK|\n"
    return user, ""


def check_login(user: ApiUser | None, password: str, now: float) -> str:
    """Check a password as VICIdial does and count it. Return `GOOD`, `BAD`, `LOCK` or `2FA`.

    The lock counts from the last good login, so a user who has none for 15 minutes is not locked by ten
    failures: the eleventh starts the count anew. A try while locked changes nothing.
    """
    if user is None:
        return "BAD"
    over = user.last_login is None or user.last_login < now - user.lock_seconds
    right = user.password.casefold() == password.casefold() and user.level >= LOWEST_LEVEL
    # With no login ever, the real query compares with NULL, and the right password is refused once.
    if right and (user.failed_logins < LOCK_AFTER or (over and user.last_login is not None)):
        user.failed_logins, user.last_login = 0, now
        return "2FA" if user.two_factor else "GOOD"
    if user.failed_logins < LOCK_AFTER:
        user.failed_logins += 1
    elif over:
        user.failed_logins, user.last_login = 1, now
    else:
        return "LOCK"
    return "BAD"


def is_locked(user: ApiUser, now: float) -> bool:
    """Return whether every login of this user is refused, the right password included."""
    recent = user.last_login is not None and user.last_login >= now - user.lock_seconds
    return recent and user.failed_logins >= LOCK_AFTER


def lock(user: ApiUser, now: float) -> None:
    """Lock a user as ten failed logins of a busy one do."""
    user.failed_logins, user.last_login = LOCK_AFTER, now


def find_user(world: World, name: str) -> ApiUser | None:
    """Find an API user as the database does, whatever the case of the letters."""
    folded = name.casefold()
    exact = world.users.get(name)
    return exact or next((user for known, user in world.users.items() if known.casefold() == folded), None)


def refusal(user: ApiUser, name: str, function: str) -> str:
    """Return the error for a user who may not use this function, empty for one who may."""
    if not user.functions & {ALL_FUNCTIONS, function}:
        return f"ERROR: auth USER DOES NOT HAVE PERMISSION TO USE THIS FUNCTION: |{name}|{function}|\n"
    demanded = PERMISSIONS[function]
    may_modify = user.modify_users or not demanded.modify_users
    if user.api_access and user.view_reports and user.level >= demanded.level and may_modify:
        return ""
    return f"ERROR: {function} USER DOES NOT HAVE PERMISSION TO GET {demanded.what}: |{name}|0|\n"
