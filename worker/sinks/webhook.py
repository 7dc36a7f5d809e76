"""Delivering to the CRM's webhook, as the Standard Webhooks specification says.

A delivery whose outcome is unknown (a timeout, a lost connection) may have
arrived; it is made again with the same `webhook-id`, by which the receiver
drops repeats. aiohttp repeats no POST by itself.
"""

import asyncio
import json
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from urllib.parse import unquote, urlsplit, urlunsplit

import aiohttp

from worker import __version__
from worker.core.errors import DeliveryRejected, DeliveryUnavailable, Fault
from worker.core.payload import Payload
from worker.core.ports import Receipt
from worker.core.signature import key_of, sign
from worker.core.tracing import UNTRACED, Server, Tracing
from worker.settings import SinkSettings

LONGEST_RETRY_AFTER = timedelta(hours=1)
EXCERPT = 500
"""How much of a refusal's body is kept, in bytes."""
_LONGEST_ANSWER = 64 * 1024
_ANSWER_SECONDS = 1.0
_SHORTEST_SECRET = 8

_TRY_AGAIN = frozenset({408, 425})
_REFUSED = frozenset({401, 403})
_BUSY = frozenset({429, 503})
_HAS_IT_ALREADY = 409


def open_session(settings: SinkSettings, connections: int) -> aiohttp.ClientSession:
    """Open the HTTP session for the webhook, with every limit set. The caller closes it."""
    seconds = settings.timeout.total_seconds()
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections, keepalive_timeout=30),
        # The total bounds every part of a request; bounds of their own would only cost timers.
        timeout=aiohttp.ClientTimeout(total=seconds, connect=None, sock_connect=None, sock_read=None),
        headers={"User-Agent": f"crm-sync/{__version__}", "content-type": "application/json"},
        cookie_jar=aiohttp.DummyCookieJar(),
    )


class WebhookSink:
    """Fulfils `worker.core.ports.Sink`."""

    def __init__(
        self,
        settings: SinkSettings,
        session: aiohttp.ClientSession,
        observe: Callable[[str], None] = lambda _: None,
        now: Callable[[], float] = time.time,
        tracing: Tracing = UNTRACED,
    ) -> None:
        """Take the session from `open_session`, and who is told of each try: `2xx`, …, `no_answer`."""
        if settings.url is None:
            raise ValueError("sink.url is required for a webhook")
        self._url = settings.url.get_secret_value()
        self._key = None if settings.signing_secret is None else key_of(settings.signing_secret)
        self._secrets = _secrets(settings)
        self._timeout = settings.timeout
        self._session = session
        self._observe = observe
        self._now = now
        self._tracing = tracing
        self._server = Server.of(self._url)

    async def deliver(self, payload: Payload) -> Receipt:
        """POST the payload; see the port for what it raises."""
        seen = "no_answer"
        try:
            with self._tracing.request("POST", self._server) as span:
                headers = self._headers(payload)
                if span.headers is not None:
                    headers |= span.headers
                async with self._session.post(
                    self._url, data=payload.body, headers=headers, allow_redirects=False
                ) as response:
                    seen = f"{response.status // 100}xx"
                    span.answered(response.status)
                    body = await _read_some(response)
        except TimeoutError as error:
            raise DeliveryUnavailable(
                f"the webhook did not answer within {self._timeout.total_seconds():g} s"
            ) from error
        except aiohttp.ClientSSLError as error:
            raise DeliveryUnavailable(
                "the webhook's TLS certificate can't be verified; check sink.url"
            ) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise DeliveryUnavailable(
                f"the webhook can't be reached ({type(error).__name__}); check sink.url and the network"
            ) from error
        finally:
            self._observe(seen)
        return self._judge(response, body)

    async def ping(self) -> aiohttp.ClientResponse:
        """POST what means nothing, signed like any payload; gives the answer without its body.

        Raises what aiohttp does: an `OSError`, such as a timeout, or an `aiohttp.ClientError`.
        """
        sent_at = datetime.fromtimestamp(int(self._now()), UTC).isoformat().replace("+00:00", "Z")
        body = json.dumps({"type": "ping", "timestamp": sent_at, "data": {}}).encode()
        payload = Payload(f"ping-{uuid.uuid4()}", "ping", body)
        async with self._session.post(
            self._url, data=body, headers=self._headers(payload), allow_redirects=False
        ) as response:
            return response

    def _headers(self, payload: Payload) -> dict[str, str]:
        timestamp = int(self._now())
        headers = {
            "webhook-id": payload.id,
            "webhook-timestamp": str(timestamp),
            "idempotency-key": payload.id,
        }
        if self._key is not None:
            headers["webhook-signature"] = sign(self._key, payload.id, timestamp, payload.body)
        return headers

    def _judge(self, response: aiohttp.ClientResponse, body: bytes) -> Receipt:
        status = response.status
        if 200 <= status < 300 or status == _HAS_IT_ALREADY:
            return Receipt(str(status))
        if status in _REFUSED:
            raise DeliveryUnavailable(
                f"the webhook answered {status}; check sink.signing_secret and who may post there",
                Fault.REFUSED,
            )
        wait = retry_after(response.headers.get("Retry-After"), self._now()) if status in _BUSY else None
        if status == 429 or wait is not None:
            raise DeliveryUnavailable(
                f"the webhook answered {status} and asks to come back later", Fault.BUSY, wait or timedelta(0)
            )
        if status in _TRY_AGAIN or status >= 500:
            raise DeliveryUnavailable(f"the webhook answered {status}", answered=True)
        where = (
            f" with a redirect to {_host(response.headers.get('Location'))}" if 300 <= status < 400 else ""
        )
        raise DeliveryRejected(f"the webhook answered {status}{where}: {self._excerpt(body)!r}")

    def _excerpt(self, body: bytes) -> str:
        """Give the beginning of an answer, without what only the CRM and this worker may know."""
        text = body.decode("utf-8", "replace")
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text.encode()[:EXCERPT].decode("utf-8", "ignore")


def retry_after(value: str | None, now: float) -> timedelta | None:
    """Read `Retry-After` (RFC 9110, 10.2.3: seconds, or a date), at most an hour.

    `None` where it is missing or says nothing.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isdecimal() and text.isascii():
        seconds = float(text[:10])
    else:
        try:
            when = parsedate_to_datetime(text)
            seconds = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            return None
    return min(timedelta(seconds=max(0.0, seconds)), LONGEST_RETRY_AFTER)


def _host(location: str | None) -> str:
    try:
        host = urlsplit(location or "").hostname or "the same host"
    except ValueError:
        return "an unreadable address"
    return host.encode("ascii", "replace").decode()


def _secrets(settings: SinkSettings) -> list[str]:
    """List what an answer may repeat and nobody else may see; the address too, as its path can be a key."""
    found: set[str] = set()
    if settings.signing_secret is not None:
        secret = settings.signing_secret.get_secret_value()
        found |= {secret, secret.removeprefix("whsec_")}
    if settings.url is not None:
        url = settings.url.get_secret_value()
        parts = urlsplit(url)
        path = urlunsplit(("", "", parts.path, parts.query, ""))
        found |= {url, path, unquote(path), parts.path, unquote(parts.path), parts.password or ""}
    return sorted((each for each in found if len(each) >= _SHORTEST_SECRET), key=len, reverse=True)


async def _read_some(response: aiohttp.ClientResponse) -> bytes:
    """Read the body: all of one that is neither long nor slow, so that the connection can be used again.

    The status has decided already, so a body that stalls or breaks off changes nothing.
    """
    body = bytearray()
    if response.status < 300 and response.content.is_eof():
        return b""  # it has arrived as a whole, and nobody wants to read it
    with suppress(TimeoutError, aiohttp.ClientError, OSError):
        async with asyncio.timeout(_ANSWER_SECONDS):
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > _LONGEST_ANSWER:
                    break
    return bytes(body)
