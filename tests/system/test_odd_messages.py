"""Messages that no library would send: the worker and the commands take them like any other."""

import asyncio
import json
import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.broker.raw import SHORT_TEXTS, RawMessage, short, sized, table
from tests.system.harness import System, Worker, call_ended, crm_sync, environment, eventually

pytestmark = [pytest.mark.system, pytest.mark.verify]

ODD = short(b"\xe9" * 110)
TEXTS = dict.fromkeys(SHORT_TEXTS, ODD)
SENT_AT = b"d" + struct.pack(">d", 1795269909.101)
HEADERS = table(
    sent_at=SENT_AT,
    name=b"S" + sized(b"gr\xfcn"),
    deep=b"A" + sized(b"A" + sized(b"A" + sized(b"V"))),
    late=b"T" + struct.pack(">Q", 2**64 - 1),
    ratio=b"d" + struct.pack(">d", 1e300),
    many=b"A" + sized(b"V" * 20_000),
)


async def send(system: System, messages: Iterable[RawMessage]) -> None:
    async with await system.connect() as connection:
        channel = await connection.channel(publisher_confirms=True)
        target = await channel.get_exchange(f"{system.namespace}.events", ensure=False)
        for message in messages:
            await target.publish(message, "call.ended", mandatory=False, timeout=20)


async def command(system: System, *arguments: str, status: int = 0) -> str:
    process = await asyncio.create_subprocess_exec(
        *crm_sync(),
        "dead-letters",
        *arguments,
        env=environment(system.settings()),
        cwd=system.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    stdout, stderr = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == status, stderr.decode()
    assert b"Traceback" not in stderr
    return stdout.decode()


def still_well(worker: Worker) -> None:
    assert worker.process.poll() is None
    assert not worker.events("broker_connection_lost")
    assert not worker.events("intake_failed")


@pytest.mark.parametrize("kind", ["webhook", "queue"])
async def test_an_event_is_looked_up_again_and_delivered_whatever_its_properties_are(
    system: System, kind: str
) -> None:
    worker = await system.start(sink__kind=kind, sink__url=system.crm.url if kind == "webhook" else None)
    event = await system.call(schedule=[[0, "not_found"], [1, "final"]])
    nameless = {"type": "call.ended", "call_id": event["call_id"], "occurred_at": event["occurred_at"]}
    bodies = [json.dumps(each).encode() for each in (event, nameless)]
    await send(system, [RawMessage(body, headers=HEADERS, **TEXTS) for body in bodies])
    await eventually(lambda: len(worker.settled("delivered")) == 2)
    assert {line["reason"] for line in worker.settled("retry")} == {"not_found"}
    ids = {line["event_id"] for line in worker.settled("delivered")}
    assert event["event_id"] in ids
    assert all(each.isascii() for each in ids)
    if kind == "webhook":
        await system.delivered(*ids)
    else:
        assert {(await system.take("enriched")).message_id for _ in range(2)} == ids
    assert (await worker.get("/metrics"))[0] == 200
    still_well(worker)


async def test_the_commands_show_export_and_replay_its_dead_letter(system: System, tmp_path: Path) -> None:
    worker = await system.start()
    await send(system, [RawMessage(b"\xff not JSON", headers=HEADERS, **TEXTS)])
    await eventually(lambda: worker.settled("dead_letter"))
    await eventually_there(system, 1)
    listed = await command(system, "list")
    assert "invalid_event" in listed
    (letter_id,) = (await command(system, "list", "--ids")).split()
    shown = await command(system, "show", letter_id)
    assert r"message_id:   \xe9\xe9" in shown.replace("\\\\", "\\")
    assert "sent_at: 1795269909.101" in shown
    await command(system, "export", "letters.ndjson")
    exported: dict[str, Any] = json.loads((system.folder / "letters.ndjson").read_text(), parse_constant=fail)
    assert exported["headers"]["sent_at"] == 1795269909.101
    assert await command(system, "replay", letter_id) == "replayed 1, left 0\n"
    await eventually(lambda: len(worker.settled("dead_letter")) == 2)
    await eventually_there(system, 1)
    assert await command(system, "show", letter_id) != shown, "it failed anew"
    still_well(worker)


def fail(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


async def eventually_there(system: System, count: int) -> None:
    async with asyncio.timeout(10):
        while await system.depth("dead-letters") != count:  # noqa: ASYNC110 - a queue announces nothing
            await asyncio.sleep(0.02)


async def test_an_expiration_that_ran_out_in_the_queue_is_named_and_a_replay_delivers(system: System) -> None:
    worker = await system.start()
    assert await worker.stop() == 0
    events = await system.calls(10)
    await system.publish_all(events, expiration=1)
    await eventually_there(system, 10)
    listed = await command(system, "list", "--reason", "expired")
    assert "expired\tcall.ended\t10\t" in listed
    assert "its producer's own expiration of 1000 ms ran out while it waited in the work queue" in listed
    await system.start()
    assert await command(system, "replay", "--reason", "expired") == "replayed 10, left 0\n"
    await system.delivered(*(event["event_id"] for event in events), within=30)
    await system.nothing_dead()


async def test_an_event_that_is_put_off_loses_its_expiration(system: System) -> None:
    await system.start()
    event = await system.call(schedule=[[0, "not_found"], [1.5, "final"]])
    await system.publish(event, expiration=1)
    await system.delivered()
    await system.nothing_dead()
    assert call_ended()["call_id"] != event["call_id"]
