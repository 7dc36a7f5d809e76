"""The stand-ins run once for all tests, and forget between two of them; each test has its own workers."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.system.harness import PASSWORD, Program, System, Worker


@pytest.fixture
def workers() -> Iterator[list[Worker]]:
    """Hold the workers that a test starts; none outlives it, however it ends."""
    started: list[Worker] = []
    yield started
    for worker in started:
        if worker.process.poll() is None:
            worker.kill()


@pytest.fixture
async def system(
    broker_url: str,
    namespace: str,
    tmp_path: Path,
    dialer_program: Program,
    crm_program: Program,
    workers: list[Worker],
) -> AsyncIterator[System]:
    opened = System(broker_url, namespace, tmp_path, dialer_program, crm_program, workers)
    await dialer_program.control(
        fault=None, delay=0, unplant=True, ip_blocked=False, password={"crmsync": PASSWORD}
    )
    await crm_program.control(
        fault=None, delay=0, script=[], fail_ids={}, retry_after=None, secret=None, forget=True
    )
    yield opened
    await opened.end()
