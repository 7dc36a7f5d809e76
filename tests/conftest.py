"""What the tests share: one broker for the whole run, and a namespace on it for each test.

Property tests try the same examples each time, so that a failure is everybody's failure;
`HYPOTHESIS_PROFILE=explore` looks for new ones instead.
"""

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aio_pika
import pytest
from hypothesis import settings

from tests.clock import Clock
from tests.system.harness import Program
from tests.tools import skip_without

QUEUES = ("call-ended", "agent-onboarded", "dead-letters", "enriched", "dialer")
EXCHANGES = ("events", "work", "dead-letters", "enriched")
TIERS = (
    "50ms",
    "100ms",
    "200ms",
    "500ms",
    "1s",
    "2s",
    "3s",
    "5s",
    "10s",
    "25s",
    "30s",
    "1m",
    "2m",
    "10m",
    "1h",
)
"""What a namespace may hold: AMQP can't list it. A test with other names removes them itself."""

_BOTH: dict[str, Any] = {"deadline": None, "database": None, "print_blob": True}
settings.register_profile("ci", derandomize=True, **_BOTH)
settings.register_profile("explore", max_examples=5000, **_BOTH)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

GIVEN_BROKER = os.environ.get("CRM_SYNC_TEST_BROKER_URL")

for _name in [name for name in os.environ if name.startswith("CRM_SYNC_")]:
    del os.environ[_name]  # a developer's settings are none of the tests', and unknown ones are errors


@pytest.fixture(autouse=True)
def _loggers_as_they_were() -> Iterator[None]:
    """Undo what a command does to the libraries' loggers, which are the whole process's."""
    loggers = [logging.getLogger(name) for name in ("aio_pika", "aiormq", "asyncio")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture
def clock() -> Clock:
    """Return a clock that stands still until the test sets it forward."""
    return Clock()


@pytest.fixture(scope="session")
def broker_url() -> Iterator[str]:
    """Yield the address of `CRM_SYNC_TEST_BROKER_URL`, else of a private broker that ends with the run."""
    if GIVEN_BROKER is not None:
        yield GIVEN_BROKER
        return
    command = [sys.executable, "-m", "simulators.broker"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield _address_of(process)
        finally:
            process.send_signal(signal.SIGTERM)


def _address_of(process: subprocess.Popen[str]) -> str:
    if process.stdout is None:
        raise AssertionError
    line = process.stdout.readline()  # the node's own deadline is shorter than the test's
    if not line:
        skip_without("no broker is to be had; what is missing stands above")
    url: str = json.loads(line)["url"]
    return url


@pytest.fixture
async def namespace(broker_url: str) -> AsyncIterator[str]:
    """Yield a namespace that nobody else uses; what the test left there is deleted."""
    name = f"t{uuid.uuid4().hex[:12]}"
    yield name
    await clear(broker_url, name)


async def clear(broker_url: str, namespace: str) -> None:
    """Delete what stands in a namespace."""
    async with asyncio.timeout(30), await aio_pika.connect(broker_url) as connection:
        channel = await connection.channel()
        for part in (*QUEUES, *(f"retry.{delay}" for delay in TIERS)):
            await channel.queue_delete(f"{namespace}.{part}")
        for part in (*EXCHANGES, *(f"retry.{delay}" for delay in TIERS)):
            await channel.exchange_delete(f"{namespace}.{part}")


@pytest.fixture(scope="session")
def dialer_program() -> Iterator[Program]:
    program = Program("dialer")
    yield program
    program.end()


@pytest.fixture(scope="session")
def crm_program() -> Iterator[Program]:
    program = Program("crm")
    yield program
    program.end()
