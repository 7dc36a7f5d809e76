"""`crm-sync check`: whether a worker with these settings could do its work from here.

Like `worker.app` it imports every adapter. It changes nothing: it declares
nothing, publishes only what reaches no queue, and asks the dialer for a call
and an agent that can't exist. The CRM gets a ping if that is asked for, else
nothing.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta

from worker.check.broker import check_broker, check_queue
from worker.check.dialer import check_dialer
from worker.check.finding import Finding, Level, worst
from worker.check.intake import check_intake
from worker.check.webhook import check_webhook, is_secure
from worker.settings import Settings

__all__ = ["DEADLINE", "Finding", "Level", "run", "worst"]

DEADLINE = 30.0
"""Seconds that each group of checks may take."""
LOCK_SAFE_PROBE = timedelta(minutes=5)
"""Waits of this length between failed logins don't lock the API user (`worker.vicidial.guard`)."""


@dataclass(frozen=True, slots=True)
class _Group:
    """Checks that run one after another, each only if the one before makes it possible."""

    subjects: tuple[str, ...]
    findings: AsyncGenerator[Finding]


async def run(
    settings: Settings, *, ping: bool = False, deadline: float = DEADLINE
) -> AsyncIterator[Finding]:
    """Check everything at the same time. Yield one finding for each subject, in a fixed order.

    What can't be tried is left out: without a broker there is no finding about its alarms.
    """
    yield check_settings(settings)
    tasks = [
        asyncio.create_task(_within(deadline, group))
        for group in _groups(settings, ping=ping, deadline=deadline)
    ]
    try:
        for task in tasks:
            for finding in await task:
                yield finding
    finally:
        for task in tasks:
            task.cancel()


def _groups(settings: Settings, *, ping: bool, deadline: float) -> Iterator[_Group]:
    yield _Group(("broker", "permissions", "topology", "alarms"), check_broker(settings))
    yield _Group(("dialer", "clock"), check_dialer(settings, share_within=deadline / 6))
    if settings.sink.kind == "queue":
        yield _Group(("sink",), check_queue(settings))
    elif settings.sink.kind == "crm":
        yield _Group(("sink", "crm"), _check_crm(settings))
    else:
        wanted = {"sink": True, "tls": is_secure(settings.sink), "ping": ping}
        subjects = tuple(subject for subject, is_wanted in wanted.items() if is_wanted)
        yield _Group(subjects, check_webhook(settings, ping=ping))
    if settings.intake.token_files:
        yield _Group(("intake",), check_intake(settings))


def _check_crm(settings: Settings) -> AsyncGenerator[Finding]:
    from worker.check.crm import check_crm  # noqa: PLC0415 - only a CRM needs Jinja2

    return check_crm(settings)


async def _within(deadline: float, group: _Group) -> list[Finding]:
    found: list[Finding] = []
    try:
        async with asyncio.timeout(deadline), aclosing(group.findings) as findings:
            async for finding in findings:
                found.append(finding)  # noqa: PERF401 - keep what there is by the deadline
    except TimeoutError:
        names = [finding.name for finding in found]
        late = next((subject for subject in group.subjects if subject not in names), None)
        if late is not None:
            text = f"no result within {deadline:g} s"
            found.append(Finding(late, Level.FAILED, text, ("check the network",)))
    return found


def check_settings(settings: Settings) -> Finding:
    """Check combinations of settings; each setting by itself is known to be valid."""
    slowest = settings.vicidial.timeout
    if settings.sink.kind != "queue":
        slowest = max(slowest, settings.sink.timeout)
    warnings = []
    if settings.drain < slowest:
        warnings.append(
            f"drain ({settings.drain.total_seconds():g} s) is shorter than the longest request"
            f" ({slowest.total_seconds():g} s), so a stop may cut deliveries off and do them again;"
            " make drain longer, or vicidial.timeout and sink.timeout shorter"
        )
    if settings.circuit_breakers.refused_probe < LOCK_SAFE_PROBE:
        warnings.append(
            "circuit_breakers.refused_probe is shorter than 5m: without a password file the same password is"
            " tried again so soon, and ten failed logins within 15 minutes lock the API user"
        )
    return Finding.of("settings", f"complete; the sink is a {settings.sink.kind}", warnings=warnings)
