"""Delivering to the CRM's webhook, as the Standard Webhooks specification says.

A delivery whose outcome is unknown (a timeout, a lost connection) may have
arrived. It is made again with the same `webhook-id`, by which the receiver
drops repeats. aiohttp repeats no POST by itself.

The status line of an answer decides, whatever comes behind it (`worker.http`); the
body is only wanted for the text of a rejection.
"""

import asyncio
import base64
import json
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from urllib.parse import unquote, unquote_to_bytes, urlsplit

import aiohttp
from yarl import URL

from worker import http
from worker.core.errors import DeliveryRejected, DeliveryUnavailable, FailureKind
from worker.core.payload import Payload
from worker.core.ports import Receipt
from worker.core.retry_after import retry_after
from worker.core.scrub import Scrubber
from worker.core.signature import key_of, sign
from worker.core.tracing import UNTRACED, Server, Tracing
from worker.http import LARGEST, Answer, Connector, Response, UnreadableAnswer, decoded
from worker.settings import SinkSettings

EXCERPT = 500
"""How much of the body of a rejection is shown, in bytes."""
BODY_SECONDS = 1.0
"""How long a body is read for, so that its connection can be used again."""
_SHORTEST_PATH = 8

_TRY_AGAIN = frozenset({408, 425})
_REFUSED = frozenset({401, 403})
_BUSY = frozenset({429, 503})
_HAS_IT_ALREADY = 409


def open_session(settings: SinkSettings, connections: int) -> aiohttp.ClientSession:
    """Open the HTTP session for the webhook, with every limit set. The caller closes it."""
    return http.open_session(
        settings.timeout,
        Connector(limit=connections, keepalive_timeout=30),
        {"content-type": "application/json", "Accept-Encoding": "identity"},
        longest_line=LARGEST,
        response_class=Response,
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
        *,
        body_seconds: float = BODY_SECONDS,
    ) -> None:
        """Use a session of `open_session`.

        `observe` is called once a request with what came of it: `2xx`, …, or `no_answer`.
        A body is read for `body_seconds` at most.
        """
        if settings.url is None:
            raise ValueError("sink.url is required for a webhook")
        url = settings.url.get_secret_value()
        self._url, self._login = _target(url)
        self._key = None if settings.signing_secret is None else key_of(settings.signing_secret)
        self._scrub = Scrubber(_secrets(settings))
        self._timeout = settings.timeout
        self._session = session
        self._body_seconds = body_seconds
        self._observe = observe
        self._now = now
        self._tracing = tracing
        self._server = Server.of(url)

    async def deliver(self, payload: Payload) -> Receipt:
        """POST the payload; see the port for what it raises."""
        seen = "no_answer"
        try:
            with self._tracing.request("POST", self._server) as span:
                answer = await self._post(payload, span.headers or {})
                seen = f"{answer.status // 100}xx"
                span.answered(answer.status)
        except (UnreadableAnswer, aiohttp.ClientError, OSError, ValueError) as error:
            text = http.describe_failure(error, "the webhook", "sink.url", self._timeout)
            raise DeliveryUnavailable(text, answered=isinstance(error, UnreadableAnswer)) from error
        finally:
            self._observe(seen)
        return self._receipt(answer)

    async def ping(self) -> Answer:
        """POST a ping, signed like any payload, and return the answer.

        Raises what aiohttp does: an `OSError`, such as a timeout, or an `aiohttp.ClientError`; and
        `UnreadableAnswer` for an answer without a status.
        """
        sent_at = datetime.fromtimestamp(int(self._now()), UTC).isoformat().replace("+00:00", "Z")
        body = json.dumps({"type": "ping", "timestamp": sent_at, "data": {}}).encode()
        return await self._post(Payload(f"ping-{uuid.uuid4()}", "ping", body))

    async def _post(self, payload: Payload, more: Mapping[str, str] = {}) -> Answer:
        headers = {**self._headers(payload), **more}
        request = self._session.post(self._url, data=payload.body, headers=headers, allow_redirects=False)
        return await http.answer_of(request, partial(_read_some, seconds=self._body_seconds))

    def _headers(self, payload: Payload) -> dict[str, str]:
        timestamp = int(self._now())
        headers = {
            "webhook-id": payload.id,
            "webhook-timestamp": str(timestamp),
            "idempotency-key": payload.id,
        }
        if self._login is not None:
            headers["Authorization"] = self._login
        if self._key is not None:
            headers["webhook-signature"] = sign(self._key, payload.id, timestamp, payload.body)
        return headers

    def _receipt(self, answer: Answer) -> Receipt:
        """Return the receipt that an answer stands for, or raise the error that it stands for."""
        status = answer.status
        if 200 <= status < 300 or status == _HAS_IT_ALREADY:
            return Receipt(str(status))
        if status in _REFUSED:
            raise DeliveryUnavailable(
                f"the webhook answered {status}; check sink.signing_secret and who may post there",
                FailureKind.REFUSED,
            )
        wait = retry_after(answer.field("Retry-After"), self._now()) if status in _BUSY else None
        if status == 429 or wait is not None:
            raise DeliveryUnavailable(
                f"the webhook answered {status} and asks to come back later",
                FailureKind.BUSY,
                wait or timedelta(0),
            )
        if status in _TRY_AGAIN or not 300 <= status < 500:
            raise DeliveryUnavailable(f"the webhook answered {status}", answered=True)
        where = f" with a redirect to {_host(answer.headers.get('Location'))}" if status < 400 else ""
        raise DeliveryRejected(f"the webhook answered {status}{where}: {self._excerpt(answer)}")

    def _excerpt(self, answer: Answer) -> str:
        """Return the beginning of the body, without secrets."""
        encoding = (answer.field("Content-Encoding") or "").strip().lower()
        body = decoded(answer.body, encoding, LARGEST)
        if body is None:
            return f"(its body could not be decoded; it is encoded as {encoding[:20]!r})"
        text = self._scrub.beginning(body.decode("utf-8", "replace"))
        return repr(text.encode()[:EXCERPT].decode("utf-8", "ignore"))


def _target(url: str) -> tuple[URL, str | None]:
    """Return an address exactly as it is written but for user and password, and the header for these."""
    login, at, _ = urlsplit(url).netloc.rpartition("@")
    if not at:
        return URL(url, encoded=True), None
    user, _, password = login.partition(":")
    token = base64.b64encode(unquote_to_bytes(user) + b":" + unquote_to_bytes(password)).decode()
    return URL(url.replace(f"{login}@", "", 1), encoded=True), f"Basic {token}"


def _host(location: str | None) -> str:
    try:
        host = urlsplit(location or "").hostname or "the same host"
    except ValueError:
        return "an unreadable address"
    return host.encode("ascii", "replace").decode()


def _secrets(settings: SinkSettings) -> list[str]:
    """Return what an answer may repeat and nobody else may see; also the whole path, as it can be a key."""
    url = "" if settings.url is None else settings.url.get_secret_value()
    parts = urlsplit(url)
    paths = {unquote(parts.path), unquote(f"{parts.path}?{parts.query}")}
    return [*settings.secrets(), *settings.words(), *(each for each in paths if len(each) >= _SHORTEST_PATH)]


async def _read_some(response: aiohttp.ClientResponse, seconds: float) -> bytes:
    """Read the body: all of one that is neither long nor slow, so that the connection can be used again.

    The status has decided already, so a body that stalls or breaks off changes nothing.
    """
    body = bytearray()
    if response.status < 300 and response.content.is_eof():
        return b""  # it has arrived as a whole, and is not needed
    with suppress(TimeoutError, aiohttp.ClientError, OSError):
        async with asyncio.timeout(seconds):
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > LARGEST:
                    break
    return bytes(body)
