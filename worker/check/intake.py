"""Checks that an intake with these settings is there, knows the token, and would accept an event."""

import ssl
from collections.abc import AsyncGenerator
from ipaddress import ip_address

import aiohttp

from worker.check.finding import Finding
from worker.settings import Settings
from worker.settings.types import read_secret

_WITHIN = aiohttp.ClientTimeout(total=15)
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what listens there answers here, too


async def check_intake(settings: Settings) -> AsyncGenerator[Finding]:
    """Ask the intake to accept a test event that goes nowhere."""
    own = settings.intake
    host = _ANYWHERE.get(own.host, own.host)
    place = f"[{host}]" if ":" in host else host
    scheme = "http" if own.tls_certificate is None else "https"
    url = f"{scheme}://{place}:{own.port}"
    try:
        token = read_secret(own.token_files[0]).strip()
    except ValueError as error:
        yield Finding.of("intake", "its token can't be read", problems=[str(error)])
        return
    headers = {"Authorization": f"Bearer {token}"}
    try:
        async with (
            aiohttp.ClientSession(timeout=_WITHIN) as session,
            session.post(f"{url}/check", headers=headers, ssl=_context(host)) as response,
        ):
            yield _finding(url, response.status, await response.json() if response.status != 401 else {})
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        text = f"no answer from {url} ({type(error).__name__})"
        yield Finding.of("intake", text, problems=["start crm-sync intake, or check intake.host and port"])


def _context(host: str) -> ssl.SSLContext | bool:
    """Return how to verify the certificate: not by its name if it is asked by an address of this machine."""
    try:
        local = ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local:
        return True
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _finding(url: str, status: int, answer: dict[str, str | None]) -> Finding:
    if status not in (200, 503):
        problem = "it does not know the first token of intake.token_files; is it another intake?"
        return Finding.of("intake", f"{url} answered {status}", problems=[problem])
    broker, spool = answer["broker"], answer["spool"]
    if status == 503:
        return Finding.of("intake", f"{url} accepts no events", problems=[f"{broker}; {spool}"])
    warnings = [each for each in (broker, spool) if each]
    return Finding.of("intake", f"{url} accepts events", warnings=warnings)
