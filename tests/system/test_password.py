"""The API user's password is changed under load: nobody is locked out, and no restart is needed."""

import asyncio
from pathlib import Path

import pytest

from tests.system.harness import Program, System, eventually

pytestmark = pytest.mark.system

OLD, NEW = "Dialer-Pass-1", "Changed-Pass-2"
PROBE = 1.0
"""`gates.refused_probe` in seconds. Five minutes are a third of VICIdial's fifteen, as this is of SPAN."""
SPAN = 3 * PROBE
EVENTS = 1000


async def test_a_password_that_changes_under_load(system: System, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(OLD)
    dialer = Program("dialer", "--delay", "0.02")
    try:
        worker = await system.start(
            vicidial__url=dialer.url,
            vicidial__password=None,
            vicidial__password_file=str(file),
            vicidial__max_concurrency="8",
            vicidial__timeout="5s",
            gates__refused_probe=f"{PROBE}s",
            retry__max_attempts="2",
        )
        events = [event | {"lead_id": 1} for event in await system.calls(EVENTS)]
        calls: dict[str, object] = {event["call_id"]: {} for event in events}
        await dialer.control(calls=calls, users={"crmsync": {"lock_seconds": SPAN}})
        publishing = asyncio.create_task(system.publish_all(events))
        await eventually(lambda: len(worker.settled("delivered")) >= 50, 30)
        await dialer.control(password={"crmsync": NEW})
        await publishing
        await eventually(lambda: worker.events("gate_closed"))

        async def probed_in_vain() -> bool:
            gate = (await worker.status())["gates"]["dialer"]
            return bool(gate["closed_seconds"] > 5 * PROBE)

        await eventually(probed_in_vain, 30)
        status = await worker.status()
        assert status["gates"]["dialer"]["state"] in {"closed", "probing"}
        assert "LOGIN INCORRECT" in status["gates"]["dialer"]["reason"]
        assert (await worker.get("/readyz"))[0] == 200
        file.write_text(NEW)
        await system.delivered(within=60)
        await system.nothing_dead()
        asked = (await dialer.report())["requests"]
    finally:
        dialer.end()
    failures = sorted(each["at"] for each in asked if "Login incorrect" in each["outcome"])
    assert not any("Too many" in each["outcome"] for each in asked)
    most = max(sum(start <= each <= start + SPAN for each in failures) for start in failures)
    print(f"{len(failures)} failed logins in all, {most} at most within {SPAN:g} s")  # noqa: T201 - a measurement
    assert most < 10
    assert NEW not in worker.text
