"""Four workers share one dialer: the API user's password changes under load, and nobody is locked out."""

import asyncio
import subprocess
from pathlib import Path

import pytest

from tests.system.harness import Program, System, crm_sync, environment, eventually

pytestmark = [pytest.mark.system, pytest.mark.verify, pytest.mark.timeout(400)]

OLD, NEW = "Dialer-Pass-1", "Changed-Pass-2"
EVENTS = 1000


async def test_a_password_that_changes_under_load_of_four_workers(system: System, tmp_path: Path) -> None:
    """Workers are restarted, one killed, and `check` is run meanwhile."""
    file = tmp_path / "password"
    file.write_text(OLD)
    dialer = Program("dialer", "--delay", "0.05")
    chosen = {
        "vicidial__url": dialer.url,
        "vicidial__password": None,
        "vicidial__password_file": str(file),
        "circuit_breakers__refused_probe": "5s",
        "retry__max_attempts": "2",
    }
    try:
        workers = [await system.start(**chosen) for _ in range(4)]
        events = [event | {"lead_id": 1} for event in await system.calls(EVENTS)]
        calls: dict[str, object] = {event["call_id"]: {} for event in events}
        await dialer.control(calls=calls)
        publishing = asyncio.create_task(system.publish_all(events))
        await eventually(lambda: all(len(each.settled("delivered")) >= 20 for each in workers), 60)
        # Their limits change between one answer and the next: what the dialer saw is one moment.
        limits = [(await each.status())["dialer"]["limit"] for each in workers]
        at_once = (await dialer.report())["max_concurrent"]
        assert at_once <= 8, limits
        await dialer.control(password={"crmsync": NEW})
        await publishing
        await eventually(lambda: all(each.events("circuit_open") for each in workers))
        for worker in workers[:2]:
            await worker.stop()
        workers[2].kill()
        workers += [await system.start(**chosen) for _ in range(3)]
        for _ in range(3):
            checked = await check(system.settings(**chosen), tmp_path)
            assert "not tried, as the workers were refused" in checked, checked
        await asyncio.sleep(8)
        first = await failed(dialer)
        assert 1 <= first <= 8, "those in flight when it changed, and none again"
        file.write_text(NEW)
        await system.delivered(within=90)
        await system.nothing_dead()
        total = await failed(dialer)
        asked = (await dialer.report())["requests"]
    finally:
        dialer.end()
    print(f"{first} failed logins, {total} in all; {at_once} at once, limits {limits}")  # noqa: T201 - a measurement
    assert total == first
    assert not any("Too many" in each["outcome"] for each in asked)
    assert not any(NEW in each.text or OLD in each.text for each in workers)


async def check(settings: dict[str, str], folder: Path) -> str:
    """Return what `crm-sync check` prints."""
    command = [*crm_sync(), "check"]
    done = await asyncio.to_thread(
        subprocess.run,
        command,
        cwd=folder,
        env=environment(settings),
        capture_output=True,
        timeout=60,
        check=False,
    )
    return (done.stdout + done.stderr).decode()


async def failed(dialer: Program) -> int:
    asked = (await dialer.report())["requests"]
    return sum("Login incorrect" in each["outcome"] for each in asked)
