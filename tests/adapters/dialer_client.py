"""A client of a dialer, made as the application makes it, and what it fails with."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from simulators.dialer import DEFAULT_PASSWORD, DEFAULT_USER
from tests.clock import Clock
from worker.core.breakers import CircuitBreakers
from worker.core.errors import CircuitOpen, EnrichmentUnavailable, FailureKind
from worker.core.ports import DialerRequest
from worker.settings import VicidialSettings
from worker.vicidial.client import DialerClient, open_session
from worker.vicidial.clock import DialerTimes

TIMES = DialerTimes(None)
CALL = "V1201405090000012345"
ROW = f"{CALL}|120|2026-11-20 14:05:09|3125551212|OUTBOUND_AUTO|SALES1|1001|SALE|1000\n"


@asynccontextmanager
async def connected(
    url: str,
    *,
    clock: Callable[[], float] = lambda: 1000.0,
    observe: Callable[[DialerRequest], None] = lambda _: None,
    on_password: Callable[[str], None] = lambda _: None,
    breakers: CircuitBreakers | None = None,
    **chosen: Any,  # noqa: ANN401 - as many kinds as there are settings
) -> AsyncIterator[DialerClient]:
    """Yield a client of the dialer there: its default user, unless the chosen settings name another."""
    chosen = {"user": DEFAULT_USER} | chosen
    if "password_file" not in chosen:
        chosen = {"password": SecretStr(DEFAULT_PASSWORD)} | chosen
    settings = VicidialSettings(url=url, **chosen)
    async with open_session(settings) as session:
        yield DialerClient(
            settings,
            session,
            make_breakers(clock) if breakers is None else breakers,
            observe=observe,
            on_password=on_password,
            clock=clock,
        )


def make_breakers(clock: Callable[[], float] = time.monotonic) -> CircuitBreakers:
    """Make breakers with the default waits."""
    return CircuitBreakers(
        full=64, probe_max=timedelta(seconds=30), refused_probe=timedelta(minutes=5), clock=clock
    )


def let_limit_grow(client: DialerClient, clock: Clock) -> None:
    """Report answers until the limit is at its maximum; on a busy machine real ones may be too slow."""
    limit = client.guard._limit  # noqa: SLF001 - it learns from nothing but the times of answers
    while limit.limit < 8:
        clock.now += 0.1
        limit.on_success("callid_info", 0.05, busy=limit.limit)


async def put_off(client: DialerClient) -> str:
    """Look a call up, check that nothing is sent, and return the reason."""
    with pytest.raises(CircuitOpen) as caught:
        await client.callid_info(CALL, TIMES)
    return str(caught.value)


async def failure(client: DialerClient, kind: FailureKind = FailureKind.OUTAGE) -> str:
    """Look a call up, check the kind of failure, and return its text."""
    with pytest.raises(EnrichmentUnavailable) as caught:
        await client.callid_info(CALL, TIMES)
    assert caught.value.kind is kind, caught.value
    assert DEFAULT_PASSWORD not in f"{caught.value!r}"
    return str(caught.value)
