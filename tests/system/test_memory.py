"""How much memory the largest messages take, in the limit that the Kubernetes manifests set."""

import json
from pathlib import Path

import pytest

from tests.system.harness import System, Worker, eventually

pytestmark = [pytest.mark.system, pytest.mark.verify]

LIMIT = 192
"""MiB, as in `k8s/base/deployment.yaml`."""
MIB = 1024 * 1024


def most_memory(worker: Worker) -> int:
    """Return the most that the process has had in memory, in MiB."""
    status = Path(f"/proc/{worker.process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


async def test_messages_of_16_mib_are_not_held(system: System) -> None:
    worker = await system.start()
    before = most_memory(worker)
    for number in range(8):
        await system.publish(bytes([number]) * (16 * MIB - 1024))
    await eventually(lambda: len(worker.settled("dead_letter")) == 8, 30)
    assert most_memory(worker) - before < 40
    assert {line["reason"] for line in worker.settled()} == {"invalid_event"}
    assert sorted([(await system.dead_letter()).body[0] for _ in range(8)]) == list(range(8))


async def test_the_largest_events_are_in_work_one_at_a_time_and_leave_nothing_behind(system: System) -> None:
    """Each takes 34 MiB while it is in work, and is put off once before it is delivered."""
    worker = await system.start(vicidial__timeout="10s", vicidial__ready_within="5m")
    calls = await system.calls(12, schedule=[[0, "not_found"], [4, "final"]])
    filler: list[dict[str, str]] = [{}] * ((MIB - 400) // 3)
    for call in calls:
        body = json.dumps({**call, "filler": filler}, separators=(",", ":")).encode()
        assert MIB - 500 < len(body) <= MIB
        await system.publish(body)
    await system.delivered(*[call["event_id"] for call in calls], within=60)
    assert len(worker.settled("retry")) >= 4
    assert most_memory(worker) < LIMIT
