"""Checks that the dialer can be reached, accepts the login, answers each function, and knows the time."""

import shlex
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from urllib.parse import urlsplit

from worker.check.finding import Finding, in_the_clear
from worker.check.logins import sharing_logins
from worker.core.breakers import CircuitBreakers
from worker.core.errors import (
    EnrichmentRejected,
    EnrichmentUnavailable,
    FailureKind,
    FunctionRefused,
    NotReady,
    ProcessingError,
)
from worker.core.logins import MOST_FAILURES
from worker.settings import Settings, VicidialSettings
from worker.settings.show import masked_address
from worker.vicidial import client as dialer
from worker.vicidial.client import NO_AGENT, NO_CALL
from worker.vicidial.clock import LARGEST_SKEW, DialerTimes, Version
from worker.vicidial.guard import DROPPED_BY_VICIDIAL

NO_CAMPAIGN = "CRMSYNC0"
"""A campaign that no dialer has, and that none refuses to look for."""

CONSUMER_TIMEOUT = 1800.0
"""Seconds for which RabbitMQ lets a consumer hold a message, unless its administrator says otherwise."""
_AGENT_API = "agc/api.php"
_NO_TIMES = DialerTimes(None)


async def check_dialer(settings: Settings, *, share_within: float = 5.0) -> AsyncGenerator[Finding]:
    """Ask for the version, which needs no login; then try each function with an id that can't exist.

    A refused login is not tried a second time, also if a worker's was refused: ten of them lock the API user.
    `share_within` is in seconds.
    """
    chosen = settings.vicidial
    async with dialer.open_session(chosen) as session:
        waits = settings.circuit_breakers
        breakers = CircuitBreakers(full=1, probe_max=waits.probe_max, refused_probe=waits.refused_probe)
        seconds: list[float] = []
        client = dialer.DialerClient(
            chosen, session, breakers, observe=lambda request: seconds.append(request.seconds)
        )
        try:
            version = await client.version()
        except ProcessingError as error:
            question = shlex.quote(f"{masked_address(chosen.url)}?function=version")
            advice = (
                f"see whether this answers, from here and on the dialer; it needs no login: curl {question}"
            )
            yield Finding.of("dialer", str(error), problems=[advice])
            return
        now = time.time()
        async with sharing_logins(settings, client.guard.lockout, share_within):
            found = await _check_functions(client, chosen, version)
        yield found.with_warnings(about_waiting(max(seconds), settings.max_in_flight))
    yield check_clock(version, chosen, now)


@dataclass(frozen=True, slots=True)
class _Function:
    """One of the dialer's functions, a look-up that tries it, and what is lost if it fails."""

    name: str
    look_up: Callable[[], Awaitable[object]]
    loss: str = ""
    """Empty for a function that is needed."""


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why a function can't be used."""

    function: _Function
    reason: str

    def __str__(self) -> str:
        loss = f"; until then {self.function.loss}" if self.function.loss else ""
        return f"{self.function.name}: {self.reason}{loss}"


async def _check_functions(
    client: dialer.DialerClient, settings: VicidialSettings, version: Version
) -> Finding:
    text, warnings = describe(version, settings), about_settings(settings)
    if version.agent_api or urlsplit(settings.url).path.endswith(_AGENT_API):
        advice = "vicidial.url is the agent API; set it to the address of vicidial/non_agent_api.php"
        return Finding.of("dialer", text, problems=[advice], warnings=warnings)
    if client.guard.lockout.refusing and client.guard.lockout.ready_in() > 0:
        advice = f"not tried, as the workers were refused: {client.guard.lockout.explain()}"
        return Finding.of("dialer", text, problems=[advice], warnings=warnings)
    answered, failures = await _try_each(_functions(client, settings))
    problems = [str(failure) for failure in failures if not failure.function.loss]
    losses = [str(failure) for failure in failures if failure.function.loss]
    if answered:
        text += f"; may use {', '.join(answered)}"
    return Finding.of("dialer", text, problems=problems, warnings=[*losses, *warnings])


def _functions(client: dialer.DialerClient, settings: VicidialSettings) -> list[_Function]:
    """Return the needed functions, then the optional ones that are switched on."""
    today = datetime.now(UTC).date().isoformat()
    search = (("agent_user", NO_AGENT), ("date", today))
    needed = [
        _Function("callid_info", partial(client.callid_info, NO_CALL, _NO_TIMES)),
        _Function("agent_campaigns", partial(client.agent_campaigns, NO_AGENT)),
    ]
    optional = [
        _Function(
            "recording_lookup", partial(client.recording_lookup, search, _NO_TIMES), "recordings are null"
        ),
        _Function(
            "campaigns_list",
            partial(client.campaigns_list, NO_CAMPAIGN),
            "campaigns have no names, and lists of ids with dashes are ambiguous",
        ),
        _Function(
            "user_details",
            partial(client.user_details, NO_AGENT),
            "full_name, access_level and user_group are null",
        ),
    ]
    return [*needed, *(function for function in optional if getattr(settings, function.name))]


async def _try_each(functions: Iterable[_Function]) -> tuple[list[str], list[_Failure]]:
    """Return the names of the functions that were answered, and the failures of the others.

    After a refused login nothing more is tried, and after an outage only what is needed.
    """
    answered: list[str] = []
    failures: list[_Failure] = []
    refused = failed = False
    for function in functions:
        if function.loss and (refused or failed):
            continue
        if refused:
            failures.append(_Failure(function, "not tried, since refused logins lock the API user"))
        elif (error := await _try(function)) is None:
            answered.append(function.name)
        else:
            failures.append(_Failure(function, str(error)))
            refused = error.kind is FailureKind.REFUSED and not isinstance(error, FunctionRefused)
            failed |= error.kind is FailureKind.OUTAGE
    return answered, failures


async def _try(function: _Function) -> EnrichmentUnavailable | None:
    """Return why a function failed. Nothing found, or an id that is refused, is the expected answer."""
    with suppress(NotReady, EnrichmentRejected):
        try:
            await function.look_up()
        except EnrichmentUnavailable as error:
            return error
    return None


def describe(version: Version, settings: VicidialSettings) -> str:
    """Return which version answered."""
    if version.version is None:
        return f"something at {masked_address(settings.url)} answers, but reports no version"
    return f"VICIdial {version.version}, build {version.build or 'unknown'}"


def check_clock(version: Version, settings: VicidialSettings, now: float) -> Finding:
    """Compare the dialer's clock with the settings and with this host's, whose time is `now`."""
    warnings = []
    if version.offset is None:
        text = "the dialer reports no offset from UTC"
        if settings.timezone is None:
            warnings.append("set vicidial.timezone; until then the calls' times are null")
    else:
        text = f"the dialer's is at {utc(version.offset)}"
        zone = settings.timezone
        expected = None if zone is None else datetime.fromtimestamp(now, UTC).astimezone(zone).utcoffset()
        if zone is not None and expected is not None and expected != version.offset:
            warnings.append(
                f"vicidial.timezone ({zone.key}) is at {utc(expected)} now, so times may be wrong; check it"
            )
    if version.epoch is not None:
        skew = round(version.epoch + 0.5 - now)  # whole seconds, rounded down
        text += f", {abs(skew)} s {'behind' if skew < 0 else 'ahead of'} this host's"
        if abs(skew) > LARGEST_SKEW:
            warnings.append("set both by NTP: the age of an event is measured between the two")
    return Finding.of("clock", text, warnings=warnings)


def about_settings(settings: VicidialSettings) -> list[str]:
    """Return warnings about settings that are valid, but that VICIdial misreads or that are risky."""
    advice = []
    values = {
        "vicidial.user": settings.user,
        "vicidial.password": settings.password.get_secret_value(),
    }
    for name, value in values.items():
        if DROPPED_BY_VICIDIAL.search(value):
            advice.append(
                f"{name} has characters that VICIdial drops silently: all but letters, digits, - and _;"
                " give the API user one without them"
            )
    if in_the_clear(settings.url):
        advice.append("the password and the calls' data go unencrypted; use https in vicidial.url")
    if settings.max_concurrency > MOST_FAILURES:
        advice.append(
            f"vicidial.max_concurrency is {settings.max_concurrency}: as many logins can fail at once when"
            " the password is changed, and ten lock the API user; keep it below 10"
        )
    return advice


def about_waiting(answer_seconds: float, max_in_flight: int) -> list[str]:
    """Return a warning if events could wait for a dialer this slow until RabbitMQ requeues them.

    Each event sends at least two requests, and a slow dialer gets one at a time.
    """
    longest = 2 * max_in_flight * answer_seconds
    if longest <= CONSUMER_TIMEOUT:
        return []
    most = max(1, int(CONSUMER_TIMEOUT / 2 / answer_seconds))
    warning = (
        f"an answer took {answer_seconds:.1f} s, so with max_in_flight {max_in_flight} the last of the events"
        f" in hand would wait {longest / 60:.0f} min for its turn, and RabbitMQ requeues what is held for"
        f" {CONSUMER_TIMEOUT / 60:.0f} min: set max_in_flight to at most {most}, and look at the dialer's"
        " database"
    )
    return [warning]


def utc(offset: timedelta) -> str:
    """Return an offset as text, such as `UTC-05:00`."""
    minutes = round(offset.total_seconds() / 60)
    return f"UTC{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"
