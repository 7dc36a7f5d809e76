"""The API user's password is changed under load: nobody is locked out, and no restart is needed."""

import asyncio
from pathlib import Path

import pytest

from tests.system.harness import Program, System, eventually

pytestmark = [pytest.mark.system, pytest.mark.verify]

OLD, NEW = "Dialer-Pass-1", "Changed-Pass-2"
EVENTS = 1000


async def test_a_password_that_changes_under_load(system: System, tmp_path: Path) -> None:
    """The operator is slow, mistypes it once, and nobody else uses the API user."""
    file = tmp_path / "password"
    file.write_text(OLD)
    dialer = Program("dialer", "--delay", "0.02")
    try:
        worker = await system.start(
            vicidial__url=dialer.url,
            vicidial__password=None,
            vicidial__password_file=str(file),
            vicidial__max_concurrency="6",
            vicidial__timeout="5s",
            circuit_breakers__refused_probe="1s",
            retry__max_attempts="2",
        )
        events = [event | {"lead_id": 1} for event in await system.calls(EVENTS)]
        calls: dict[str, object] = {event["call_id"]: {} for event in events}
        await dialer.control(calls=calls)
        publishing = asyncio.create_task(system.publish_all(events))
        await eventually(lambda: len(worker.settled("delivered")) >= 50, 30)
        await dialer.control(password={"crmsync": NEW})
        await publishing
        await eventually(lambda: worker.events("circuit_open"))
        await asyncio.sleep(3)  # three times as long as the shortest wait between two tries
        failed = (await dialer.report())["failed_logins"]
        assert failed <= 6, "those in flight when it changed, and none again"
        status = await worker.status()
        assert status["circuit_breakers"]["dialer"]["state"] == "open"
        assert "LOGIN INCORRECT" in status["circuit_breakers"]["dialer"]["reason"]
        assert 800 < status["dialer"]["next_try_in_seconds"] <= 918
        assert (await worker.get("/readyz"))[0] == 200
        file.write_text("Mistyped-Pass-2")

        async def one_more() -> bool:
            return bool((await dialer.report())["failed_logins"] == failed + 1)

        await eventually(one_more)
        file.write_text(OLD)  # and back, which was refused
        await asyncio.sleep(2)
        assert await one_more()
        file.write_text(NEW)
        await system.delivered(within=60)
        await system.nothing_dead()
        asked = (await dialer.report())["requests"]
    finally:
        dialer.end()
    assert not any("Too many" in each["outcome"] for each in asked)
    failures = sum("Login incorrect" in each["outcome"] for each in asked)
    print(f"{failures} failed logins in all")  # noqa: T201 - a measurement
    assert failures == failed + 1 < 10
    assert NEW not in worker.text
