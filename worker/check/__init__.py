"""What `crm-sync check` finds out: whether a worker with these settings could do its work from here.

Beside `worker.app`, the only room that knows every other. It changes nothing:
it declares nothing, posts nothing to the CRM, and asks the dialer for a call
and an agent that can't exist.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

from worker.check.broker import check_broker, check_queue
from worker.check.dialer import check_dialer
from worker.check.finding import Finding
from worker.check.webhook import check_webhook
from worker.settings import Settings

__all__ = ["DEADLINE", "Finding", "run"]

DEADLINE = 30.0
"""Seconds that each check may take."""
LOCK_SAFE_PROBE = timedelta(minutes=5)
"""Waits of this length between failed logins don't lock the API user (`worker.vicidial.fuse`)."""


async def run(settings: Settings) -> AsyncIterator[Finding]:
    """Check everything at the same time; give each finding in a fixed order, also where others failed."""
    checks: dict[str, Callable[[Settings], Awaitable[Finding]]] = {
        "broker": check_broker,
        "dialer": check_dialer,
        "sink": check_queue if settings.sink.kind == "queue" else check_webhook,
    }
    yield check_settings(settings)
    tasks = [asyncio.ensure_future(_within_deadline(name, check(settings))) for name, check in checks.items()]
    try:
        for task in tasks:
            yield await task
    finally:
        for task in tasks:
            task.cancel()


async def _within_deadline(name: str, check: Awaitable[Finding]) -> Finding:
    try:
        async with asyncio.timeout(DEADLINE):
            return await check
    except TimeoutError:
        return Finding(name, ok=False, text=f"no result within {DEADLINE:g} s", advice=("check the network",))


def check_settings(settings: Settings) -> Finding:
    """Look at what no setting says by itself; each by itself is known to be right."""
    slowest = settings.vicidial.timeout
    if settings.sink.kind == "webhook":
        slowest = max(slowest, settings.sink.timeout)
    advice = []
    if settings.drain < slowest:
        advice.append(
            f"drain ({settings.drain.total_seconds():g} s) is shorter than the longest request"
            f" ({slowest.total_seconds():g} s), so a stop may cut deliveries off and do them again;"
            " make drain longer, or vicidial.timeout and sink.timeout shorter"
        )
    if settings.gates.refused_probe < LOCK_SAFE_PROBE:
        advice.append(
            "gates.refused_probe is shorter than 5m: ten failed logins within 15 minutes lock the API user"
        )
    text = f"complete; the sink is a {settings.sink.kind}"
    return Finding("settings", ok=True, text=text, advice=tuple(advice))
