"""What the tests of the webhook share: a sink, and how a delivery can fail."""

import base64
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from pydantic import SecretStr

from worker.core.errors import DeliveryRejected, DeliveryUnavailable
from worker.core.payload import Payload
from worker.settings import SinkSettings
from worker.sinks.webhook import BODY_SECONDS, WebhookSink, open_session

SECRET = "whsec_" + base64.b64encode(b"a key of 24 bytes or so.").decode()
PAYLOAD = Payload("9f1c-evt", "call.enriched", '{"type":"call.enriched","data":{"é":1}}'.encode())
NOW = 1795313398.75


@asynccontextmanager
async def connected(
    url: str,
    *,
    secret: str | None = SECRET,
    now: Callable[[], float] = time.time,
    timeout: float = 5,  # noqa: ASYNC109 - the setting of that name
    connections: int = 8,
    observe: Callable[[str], None] = lambda _: None,
    body_seconds: float = BODY_SECONDS,
) -> AsyncIterator[WebhookSink]:
    chosen = SinkSettings(
        url=SecretStr(url),
        signing_secret=None if secret is None else SecretStr(secret),
        timeout=timedelta(seconds=timeout),
    )
    async with open_session(chosen, connections) as session:
        yield WebhookSink(chosen, session, observe, now, body_seconds=body_seconds)


async def unavailable(sink: WebhookSink, payload: Payload = PAYLOAD) -> DeliveryUnavailable:
    with pytest.raises(DeliveryUnavailable) as caught:
        await sink.deliver(payload)
    return caught.value


async def rejected(sink: WebhookSink, payload: Payload = PAYLOAD) -> str:
    with pytest.raises(DeliveryRejected) as caught:
        await sink.deliver(payload)
    assert caught.value.label == "rejected_by_sink"
    return str(caught.value)
