"""What `crm-sync check` finds out: whether a worker with these settings could do its work from here.

Beside `worker.app`, the only module that knows every room. It changes
nothing: it declares nothing, posts nothing to the CRM, and asks the dialer
for a call and an agent that can't exist.
"""

import asyncio
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

import aiormq
from aio_pika.abc import AbstractConnection

from worker.core.errors import (
    EnrichmentRejected,
    EnrichmentUnavailable,
    Fault,
    NotReady,
    ProcessingError,
)
from worker.rabbitmq.connection import BROKER_ERRORS, address, connect, explain
from worker.rabbitmq.topology import Exchange, differences, exists, plan, survey
from worker.settings import Settings, VicidialSettings
from worker.vicidial import client as dialer
from worker.vicidial.responses import read_offset

DEADLINE = 30.0
"""Seconds that each check may take."""
NO_CALL = "M0000000000000000000"
NO_AGENT = "crmsyncchecknobody"
"""A call id and a user that no dialer has, yet none refuses to look for."""

_CONNECT_TIMEOUT = 10.0
_LARGEST_SKEW = 60
_VERSION = re.compile(r"VERSION: ([\w.-]+)\|BUILD: ([\w.-]+)\|")
_EPOCH = re.compile(r"EPOCH: (\d{9,11})\|")


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found, and what to do about it. Where it is `ok` all the same, that is a warning."""

    name: str
    ok: bool
    text: str
    advice: tuple[str, ...] = ()


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
    advice = (
        f"drain ({settings.drain.total_seconds():g} s) is shorter than the longest request"
        f" ({slowest.total_seconds():g} s), so a stop may cut deliveries off and do them again;"
        " make drain longer, or vicidial.timeout and sink.timeout shorter"
    )
    text = f"complete; the sink is a {settings.sink.kind}"
    return Finding("settings", ok=True, text=text, advice=(advice,) if settings.drain < slowest else ())


async def check_broker(settings: Settings) -> Finding:
    """Connect, log in, and compare what stands there with the settings."""
    where = address(settings.broker.url)
    topology = plan(settings)
    try:
        async with connect(settings.broker.url, "crm-sync check") as connection:
            version = _server_version(connection)
            differing = await differences(connection, topology, missing=False)
            standing = await survey(connection, topology)
    except BROKER_ERRORS as error:
        return Finding("broker", ok=False, text=f"{where}: {explain(error)}", advice=_broker_advice(error))
    text = f"{version} at {where}, logged in"
    if differing:
        advice = (*differing, "crm-sync topology --help says how to mend that")
        return Finding(
            "broker", ok=False, text=f"{text}; the topology differs from the settings", advice=advice
        )
    missing = sum(not each.exists for each in standing)
    state = (
        f"{missing} of {len(standing)} exchanges and queues missing, which run declares"
        if missing
        else ("the topology stands")
    )
    return Finding("broker", ok=True, text=f"{text}; {state}")


def _server_version(connection: AbstractConnection) -> str:
    underlay = getattr(connection.transport, "connection", None)
    told = getattr(underlay, "server_properties", None) or {}
    return f"{told.get('product', 'a broker')} {told.get('version', 'of unknown version')}"


def _broker_advice(error: BaseException) -> tuple[str, ...]:
    if isinstance(error, aiormq.exceptions.ChannelAccessRefused):
        return ("give the user permission to configure, write and read in its virtual host",)
    if isinstance(error, aiormq.exceptions.ProbableAuthenticationError):
        return ()  # the explanation says it
    return ("check broker.url, that the broker runs, and that this host may reach it",)


async def check_dialer(settings: Settings) -> Finding:
    """Ask for the version, which needs no login; then for a call and an agent that can't exist.

    A refused login is not tried a second time: ten of them lock the API user.
    """
    async with dialer.open_session(settings.vicidial) as session:
        client = dialer.DialerClient(settings.vicidial, session, refused_probe=settings.gates.refused_probe)
        try:
            answer = await client.version()
        except ProcessingError as error:
            return Finding("dialer", ok=False, text=str(error))
        text, advice = read_version(answer, settings.vicidial, time.time())
        lookups: dict[str, Callable[[], Awaitable[object]]] = {
            "callid_info": partial(client.callid_info, NO_CALL, None),
            "agent_campaigns": partial(client.agent_campaigns, NO_AGENT),
        }
        problems: list[str] = []
        for function, lookup in lookups.items():
            if (trouble := await _trouble_with(lookup)) is not None:
                problems.append(f"{function}: {trouble}")
                if trouble.fault is Fault.REFUSED:
                    break
    if problems:
        untried = list(lookups)[len(problems) :]
        problems += [f"{function}: not tried, since refused logins lock the API user" for function in untried]
        return Finding("dialer", ok=False, text=text, advice=(*problems, *advice))
    return Finding("dialer", ok=True, text=f"{text}; may ask {' and '.join(lookups)}", advice=advice)


async def _trouble_with(lookup: Callable[[], Awaitable[object]]) -> EnrichmentUnavailable | None:
    """Give what went wrong; not finding anything, or refusing the id, is how it ought to end."""
    with suppress(NotReady, EnrichmentRejected):
        try:
            await lookup()
        except EnrichmentUnavailable as error:
            return error
    return None


def read_version(answer: str, settings: VicidialSettings, now: float) -> tuple[str, tuple[str, ...]]:
    """Say which version answered and what its clock shows, and what to do about it."""
    version, epoch, offset = _VERSION.search(answer), _EPOCH.search(answer), read_offset(answer)
    if version is None:
        text = f"something at {settings.url} answers, but tells no version"
    else:
        text = f"VICIdial {version[1]}, build {version[2]}"
    advice: list[str] = []
    if offset is not None:
        minutes = round(offset.total_seconds() / 60)
        sign = "-" if minutes < 0 else "+"
        text += f", clock UTC{sign}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"
    elif settings.timezone is None:
        advice.append("its clock is unknown, so times would be null; set vicidial.timezone")
    if epoch is not None and abs(skew := round(int(epoch[1]) - now)) > _LARGEST_SKEW:
        ahead = "ahead of" if skew > 0 else "behind"
        advice.append(f"its clock is {abs(skew)} s {ahead} this host's; set both by NTP")
    return text, tuple(advice)


async def check_queue(settings: Settings) -> Finding:
    """Look whether the outbound exchange stands, or would be declared."""
    name = plan(settings).outbound_exchange
    try:
        async with connect(settings.broker.url, "crm-sync check") as connection:
            stands = await exists(connection, Exchange(name, "topic"))
    except BROKER_ERRORS as error:
        return Finding("sink", ok=False, text=f"exchange {name}: {explain(error)}")
    state = "stands" if stands else "is missing; run declares it"
    return Finding("sink", ok=True, text=f"exchange {name} {state}")


async def check_webhook(settings: Settings) -> Finding:
    """Look the host up, connect, and for https verify its certificate; nothing is posted."""
    if settings.sink.url is None:
        raise AssertionError  # the settings insist on it
    parts = urlsplit(settings.sink.url.get_secret_value())
    host, secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    where = f"{host}:{port}"
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT):
            context = ssl.create_default_context() if secure else None
            _, writer = await asyncio.open_connection(host, port, ssl=context)
    except socket.gaierror:
        return _webhook_failed(f"there is no host {host}", "check the host's name in sink.url, and the DNS")
    except ssl.SSLCertVerificationError as error:
        return _webhook_failed(
            f"{where}: the TLS certificate can't be verified ({error.verify_message})",
            "check the host in sink.url; for a private authority set SSL_CERT_FILE",
        )
    except ssl.SSLError as error:
        return _webhook_failed(
            f"{where}: no TLS handshake ({error.reason})", "check the port and https or http in sink.url"
        )
    except TimeoutError:
        return _webhook_failed(
            f"{where}: no connection within {_CONNECT_TIMEOUT:g} s", "check sink.url and the firewalls"
        )
    except OSError as error:
        text = error.strerror or type(error).__name__
        return _webhook_failed(f"{where}: {text}", "check sink.url, and that the CRM listens there")
    writer.transport.abort()
    signed = "signed" if settings.sink.signing_secret is not None else "not signed"
    reached = "reached, certificate verified" if secure else "reached, without TLS"
    advice = () if secure or _is_local(host) else ("payloads go unencrypted; use https in sink.url",)
    return Finding("sink", ok=True, text=f"{where} {reached}; deliveries are {signed}", advice=advice)


def _webhook_failed(text: str, advice: str) -> Finding:
    return Finding("sink", ok=False, text=text, advice=(advice,))


def _is_local(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")
