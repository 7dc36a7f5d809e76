"""Whether the CRM's webhook can be reached; nothing is posted to it."""

import asyncio
import socket
import ssl
from urllib.parse import urlsplit

from worker.check.finding import Finding
from worker.settings import Settings

_CONNECT_TIMEOUT = 10.0


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
