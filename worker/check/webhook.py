"""Checks that the CRM's webhook can be reached, that its certificate is good, and how it answers a ping."""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncGenerator
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import aiohttp

from worker.check.finding import Finding, Level, in_the_clear
from worker.core.signature import ADVICE, is_well_known, key_of
from worker.http import UnreadableAnswer
from worker.settings import Settings, SinkSettings
from worker.sinks import webhook

RENEW_WITHIN = 14
"""Days before a certificate expires from which on that is a warning."""
_LARGEST_SKEW = 60
"""Seconds. Receivers accept a signature for five minutes, as Standard Webhooks advises."""
CONNECT_TIMEOUT = 10.0
_NO_PINGS = frozenset({400, 404, 405, 415, 422, 501})
_REFUSED = frozenset({401, 403})


def is_secure(settings: SinkSettings) -> bool:
    """Return whether deliveries use TLS."""
    return settings.url is not None and urlsplit(settings.url.get_secret_value()).scheme == "https"


async def check_webhook(
    settings: Settings, *, ping: bool, within: float = CONNECT_TIMEOUT
) -> AsyncGenerator[Finding]:
    """Resolve the host, connect, verify its certificate if it is https, and post a ping if `ping`."""
    if settings.sink.url is None:
        raise AssertionError  # the settings require it
    parts = urlsplit(settings.sink.url.get_secret_value())
    host, secure = parts.hostname or "", is_secure(settings.sink)
    port = parts.port or (443 if secure else 80)
    try:
        async with asyncio.timeout(within):
            _, writer = await asyncio.open_connection(host, port)
    except OSError as error:  # a timeout is one, too
        yield _unreached(host, port, error, within)
        return
    try:
        yield _reached(settings.sink, writer)
        if secure:
            certificate = await _check_certificate(writer, host, within)
            yield certificate
            ping = ping and certificate.level is not Level.FAILED
    finally:
        writer.transport.abort()
    if ping:
        yield await _ping(settings.sink)


def _unreached(host: str, port: int, error: OSError, within: float) -> Finding:
    where = f"{host}:{port}"
    match error:
        case socket.gaierror():
            text, advice = f"there is no host {host}", "check the host's name in sink.url, and the DNS"
        case TimeoutError():
            text = f"{where}: no connection within {within:g} s"
            advice = "check sink.url and the firewalls"
        case _:
            text = f"{where}: {error.strerror or type(error).__name__}"
            advice = "check sink.url, and that the CRM listens there"
    return Finding.of("sink", text, problems=[advice])


def _reached(settings: SinkSettings, writer: asyncio.StreamWriter) -> Finding:
    url = "" if settings.url is None else settings.url.get_secret_value()
    address, port = writer.get_extra_info("peername")[:2]
    host = urlsplit(url).hostname or ""
    secret = settings.signing_secret
    where = f"{host}:{port}" if host == address else f"{host}:{port} ({address})"
    warnings = ["payloads go unencrypted; use https in sink.url"] if in_the_clear(url) else []
    if secret is not None and is_well_known(key_of(secret)):
        warnings.append(f"sink.signing_secret is the example's, which everybody knows; {ADVICE}")
    signed = "not signed" if secret is None else "signed"
    return Finding.of("sink", f"{where} reached; deliveries are {signed}", warnings=warnings)


async def _check_certificate(writer: asyncio.StreamWriter, host: str, within: float) -> Finding:
    """Verify the certificate as a delivery does, and see when it expires."""
    try:
        async with asyncio.timeout(within):
            await writer.start_tls(ssl.create_default_context(), server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        text = f"the certificate of {host} can't be verified ({error.verify_message})"
        advice = "check the host in sink.url; for a private authority set SSL_CERT_FILE"
    except TimeoutError:
        text, advice = f"no TLS handshake within {within:g} s", "check the port in sink.url"
    except OSError as error:
        text = f"no TLS handshake ({getattr(error, 'reason', None) or type(error).__name__})"
        advice = "check the port and https or http in sink.url"
    else:
        end = ssl.cert_time_to_seconds(writer.get_extra_info("ssl_object").getpeercert()["notAfter"])
        return about_end(host, end - time.time())
    return Finding.of("tls", text, problems=[advice])


def about_end(host: str, seconds: float) -> Finding:
    """Return for how long the certificate of a host is valid."""
    days = int(seconds // 86400)
    text = f"the certificate of {host} is verified, and good for {days} day{'' if days == 1 else 's'} more"
    late = days < RENEW_WITHIN
    warnings = ["renew it: after it expires nothing is delivered, and events wait"] if late else []
    return Finding.of("tls", text, warnings=warnings)


async def _ping(settings: SinkSettings) -> Finding:
    async with webhook.open_session(settings, 1) as session:
        try:
            answer = await webhook.WebhookSink(settings, session).ping()
        except UnreadableAnswer:
            text = "the receiver's answer is not HTTP"
            return Finding.of("ping", text, problems=["check the host and the port in sink.url"])
        except (aiohttp.ClientError, OSError) as error:
            text = f"the receiver did not answer ({type(error).__name__})"
            advice = f"see what its log says; a delivery may take {settings.timeout.total_seconds():g} s"
            return Finding.of("ping", text, problems=[f"{advice} (sink.timeout)"])
    return about_answer(answer.status, answer.headers.get("Date"), time.time())


def about_answer(status: int, date: str | None, now: float) -> Finding:
    """Return what the receiver's answer to a ping means; `date` is its `Date` header."""
    text = f"the receiver answered {status}"
    problems, warnings = [], []
    if status in _REFUSED:
        problems.append("it refuses the signature or the access: compare sink.signing_secret with the CRM's")
    elif status in _NO_PINGS:
        text += ": it does not support pings"
        warnings.append("it may accept deliveries all the same; if in doubt, check the path in sink.url")
    elif status == 429:
        warnings.append("it asks to come back later; deliveries would wait, too")
    elif not (200 <= status < 300 or status == 409):
        problems.append("a delivery would not be accepted: see what its log says, and check sink.url")
    else:
        text += ": it accepts what we send"
    skew = _skew(date, now)
    if abs(skew) > _LARGEST_SKEW:
        warnings.append(
            f"its clock is {abs(skew)} s {'behind' if skew < 0 else 'ahead of'} this host's: set"
            " both by NTP, as a signature counts for five minutes"
        )
    return Finding.of("ping", text, problems=problems, warnings=warnings)


def _skew(date: str | None, now: float) -> int:
    try:
        return 0 if date is None else round(parsedate_to_datetime(date).timestamp() - now)
    except (ValueError, OverflowError):
        return 0
