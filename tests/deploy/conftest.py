"""The stand-ins that a deployed worker works with: what it is pointed at, and a way to see what arrives."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.system.harness import PASSWORD, Program, System


@pytest.fixture
async def open_system(
    tmp_path: Path, dialer_program: Program, crm_program: Program
) -> AsyncIterator[Callable[[str, str], System]]:
    """Yield a system on a broker and in a namespace that the test names; its workers end with the test."""
    await dialer_program.control(fault=None, delay=0, unplant=True, password={"crmsync": PASSWORD})
    await crm_program.control(fault=None, delay=0, script=[], fail_ids={}, secret=None, forget=True)
    opened: list[System] = []

    def open_it(broker_url: str, namespace: str) -> System:
        opened.append(System(broker_url, namespace, tmp_path, dialer_program, crm_program))
        return opened[-1]

    try:
        yield open_it
        for system in opened:
            await system.end()
    finally:
        for worker in (worker for system in opened for worker in system.workers):
            if worker.process.poll() is None:
                worker.kill()
