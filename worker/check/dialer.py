"""Whether the dialer can be reached, lets us in, and answers what it will be asked."""

import re
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial

from worker.check.finding import Finding
from worker.core.errors import (
    EnrichmentRejected,
    EnrichmentUnavailable,
    Fault,
    FunctionRefused,
    NotReady,
    ProcessingError,
)
from worker.settings import Settings, VicidialSettings
from worker.vicidial import client as dialer
from worker.vicidial.clock import LARGEST_SKEW
from worker.vicidial.fuse import MOST_FAILURES
from worker.vicidial.rows import DialerTimes
from worker.vicidial.version import Version

NO_CALL = "M0000000000000000000"
NO_AGENT = "crmsyncchecknobody"
NO_CAMPAIGN = "CRMSYNC0"
"""A call id, a user and a campaign that no dialer has, yet none refuses to look for."""

_DROPPED = re.compile(r"[^-_0-9a-zA-Z]")
_NO_TIMES = DialerTimes(None)

LookUp = Callable[[], Awaitable[object]]


async def check_dialer(settings: Settings) -> Finding:
    """Ask for the version, which needs no login; then for what can't exist, with each function.

    A refused login is not tried a second time: ten of them lock the API user.
    """
    chosen = settings.vicidial
    async with dialer.open_session(chosen) as session:
        client = dialer.DialerClient(chosen, session, refused_probe=settings.gates.refused_probe)
        try:
            version = await client.version()
        except ProcessingError as error:
            return Finding("dialer", ok=False, text=str(error))
        text = describe(version, chosen)
        advice = [*about_clock(version, chosen, time.time()), *about_settings(chosen)]
        problems = await _try_each(_needed(client))
        if problems:
            return Finding("dialer", ok=False, text=text, advice=(*problems, *advice))
        optional = _optional(client, chosen)
        lost = await _try_each({name: look_up for name, (look_up, _) in optional.items()})
    allowed = [*_needed(client), *(name for name in optional if not _named(name, lost))]
    losses = [f"{problem}; until then {optional[problem.partition(':')[0]][1]}" for problem in lost]
    return Finding("dialer", ok=True, text=f"{text}; may ask {', '.join(allowed)}", advice=(*losses, *advice))


def _needed(client: dialer.DialerClient) -> dict[str, LookUp]:
    return {
        "callid_info": partial(client.callid_info, NO_CALL, _NO_TIMES),
        "agent_campaigns": partial(client.agent_campaigns, NO_AGENT),
    }


def _optional(client: dialer.DialerClient, settings: VicidialSettings) -> dict[str, tuple[LookUp, str]]:
    """Give the extra functions that are switched on, with what is lost without each."""
    today = datetime.now(UTC).date().isoformat()
    search = (("agent_user", NO_AGENT), ("date", today))
    every: dict[str, tuple[LookUp, str]] = {
        "recording_lookup": (
            partial(client.recording_lookup, search, _NO_TIMES),
            "recordings are null",
        ),
        "campaigns_list": (
            partial(client.campaigns_list, NO_CAMPAIGN),
            "campaigns have no names, and dashes in their ids can't be told",
        ),
        "user_details": (
            partial(client.user_details, NO_AGENT),
            "full_name, access_level and user_group are null",
        ),
    }
    return {name: each for name, each in every.items() if getattr(settings, name)}


async def _try_each(look_ups: dict[str, LookUp]) -> list[str]:
    """Give a line for each that failed; after a refused login the rest is not tried."""
    problems: list[str] = []
    refused = False
    for function, look_up in look_ups.items():
        if refused:
            problems.append(f"{function}: not tried, since refused logins lock the API user")
        elif (trouble := await _trouble_with(look_up)) is not None:
            problems.append(f"{function}: {trouble}")
            refused = trouble.fault is Fault.REFUSED and not isinstance(trouble, FunctionRefused)
    return problems


async def _trouble_with(look_up: LookUp) -> EnrichmentUnavailable | None:
    """Give what went wrong; not finding anything, or refusing the id, is how it ought to end."""
    with suppress(NotReady, EnrichmentRejected):
        try:
            await look_up()
        except EnrichmentUnavailable as error:
            return error
    return None


def _named(function: str, problems: list[str]) -> bool:
    return any(problem.startswith(f"{function}:") for problem in problems)


def describe(version: Version, settings: VicidialSettings) -> str:
    """Say which version answered and what its clock shows."""
    if version.version is None:
        text = f"something at {settings.url} answers, but tells no version"
    else:
        text = f"VICIdial {version.version}, build {version.build or 'unknown'}"
    return text if version.offset is None else f"{text}, clock {utc(version.offset)}"


def about_clock(version: Version, settings: VicidialSettings, now: float) -> list[str]:
    """Say what is wrong with the dialer's clock, and what to do about it."""
    advice = []
    if version.offset is None:
        if settings.timezone is None:
            advice.append("its clock is unknown, so times would be null; set vicidial.timezone")
    elif settings.timezone is not None:
        expected = datetime.fromtimestamp(now, UTC).astimezone(settings.timezone).utcoffset()
        if expected is not None and expected != version.offset:
            advice.append(
                f"its clock shows {utc(version.offset)}, but vicidial.timezone ({settings.timezone.key}) is"
                f" {utc(expected)} now, so times may be wrong; check that setting"
            )
    if version.epoch is not None and abs(skew := round(version.epoch - now)) > LARGEST_SKEW:
        ahead = "ahead of" if skew > 0 else "behind"
        advice.append(f"its clock is {abs(skew)} s {ahead} this host's; set both by NTP")
    return advice


def about_settings(settings: VicidialSettings) -> list[str]:
    """Say what VICIdial would make of the settings without telling anybody."""
    advice = []
    values = {
        "vicidial.user": settings.user,
        "vicidial.password": settings.password.get_secret_value(),
    }
    for name, value in values.items():
        if _DROPPED.search(value):
            advice.append(
                f"{name} has characters that VICIdial drops silently: all but letters, digits, - and _;"
                " give the API user one without them"
            )
    if settings.max_concurrency > MOST_FAILURES:
        advice.append(
            f"vicidial.max_concurrency is {settings.max_concurrency}: as many logins can fail at once when"
            " the password is changed, and ten lock the API user; keep the sum over all workers below 10"
        )
    return advice


def utc(offset: timedelta) -> str:
    """Write an offset such as `UTC-05:00`."""
    minutes = round(offset.total_seconds() / 60)
    return f"UTC{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"
