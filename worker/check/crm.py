"""Checks that a CRM's own API lets us in, and that all is there that the preset needs."""

from collections.abc import AsyncGenerator
from urllib.parse import urlsplit

from worker.check.finding import Finding
from worker.core.errors import DeliveryUnavailable, FailureKind, MappingFailed
from worker.crm.plan import CompiledCheck
from worker.crm.preset import Means
from worker.crm.session import CrmSession, open_crm
from worker.crm.steps import Engine
from worker.settings import Settings

_LATER = frozenset({Means.RETRY, Means.BUSY, Means.QUOTA})
_ADVICE = {
    FailureKind.REFUSED: "check the address, the user and the secret below sink.crm, and what they may do",
    FailureKind.BUSY: "try again later; deliveries would wait, too",
    FailureKind.OUTAGE: "check the address below sink.crm, the network, and whether the CRM is up",
}


async def check_crm(settings: Settings) -> AsyncGenerator[Finding]:
    """Log in, if the preset has a login, and look at what the preset looks at. Nothing is written."""
    async with open_crm(settings) as crm:
        title = crm.plan.title
        try:
            engine = await crm.engine()
        except DeliveryUnavailable as error:
            yield Finding.of("sink", f"{title}: {error}", problems=[_ADVICE[error.kind]])
            return
        host = urlsplit(engine.url).netloc
        entered = "logged in" if crm.plan.login is not None else "the key goes with each request"
        yield Finding.of("sink", f"{title} at {host}: {entered}")
        if crm.plan.check:
            yield await _check_each(crm, engine)


async def _check_each(crm: CrmSession, engine: Engine) -> Finding:
    problems = []
    for check in crm.plan.check:
        try:
            problem = await _problem(crm, engine, check)
        except DeliveryUnavailable as error:  # the others would fail, too
            problems.append(f"{check.title}: {error}; {_ADVICE[error.kind]}")
            break
        if problem is not None:
            problems.append(f"{check.title}: {problem}")
    count = len(crm.plan.check)
    good = f"all that it needs is there ({count} check{'s' if count > 1 else ''})"
    return Finding.of("crm", "something that it needs is missing" if problems else good, problems=problems)


async def _problem(crm: CrmSession, engine: Engine, check: CompiledCheck) -> str | None:
    """Return what is wrong and what to do, None if all is well."""
    try:
        answer, verdict = await crm.ask(engine, check.step)
        if verdict.means not in _LATER and check.expect.render(answer.names(engine.names)):
            return None
    except MappingFailed as error:
        return f"{error}; {check.otherwise}"
    # What is not there is what the check looks for, and no mistake in the path as in a delivery.
    reason = verdict.say if answer.status != 404 else None
    said = f" ({crm.scrub.beginning(reason)[:200]})" if reason else ""
    if verdict.means in _LATER:
        return f"the CRM answered {answer.status}{said}; try again later"
    return f"the CRM answered {answer.status}{said}; {check.otherwise}"
