"""How many calls a second one worker writes into a CRM: `python -m benchmarks.crm_sink`.

The stand-in of HubSpot answers after 20 ms, with all of its limits lifted and those of the preset raised, so
that it is the worker that is measured. Each call is a record and a link to its contact.
"""

import argparse
import asyncio
import json
import tempfile
import time
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import psutil
import yaml

from benchmarks.bench import WITHIN, consumer, control, health_port, publish
from benchmarks.processes import PYTHON, process
from benchmarks.upstreams import CALLS, IN_FLIGHT, Stage, deliveries
from simulators.broker import find_broker

DELAY = 0.02
BUDGET = 200
"""Calls a second without batches, at least."""
_UNLIMITED = {"rate": 1_000_000, "per": "1s"}
_SETTLED = 'crm_sync_events_settled_total{event_type="call.ended",outcome="delivered"} '


class Result(NamedTuple):
    """One run: calls a second, CPU milliseconds a call, requests a call."""

    rate: float
    cpu_ms: float
    requests: float


def preset(folder: Path, batch: int) -> Path:
    """Write a preset with batches of so many."""
    file = folder / f"batches-of-{batch}.yaml"
    record = {"step": "record", "batch": {"max": batch}}
    limits = [_UNLIMITED, {**_UNLIMITED, "of": "search"}]
    own = {"extends": "hubspot", "limits": limits, "on_call": [record]}
    file.write_text(yaml.safe_dump(own), encoding="utf-8")
    return file


async def prepare(broker: str, own: dict[str, str], folder: Path) -> None:
    """Make the unique property in the CRM."""
    dialer = {"url": "http://127.0.0.1:9/", "user": "crmsync", "password": "Dialer-Pass-1"}
    file = folder / "prepare.yaml"
    settings = {"broker": {"url": broker}, "vicidial": dialer, "sink": {"kind": "crm", "crm": own}}
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    command = [PYTHON, "-m", "worker", "crm", "prepare", "--yes", "--config", str(file)]
    running = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
    if await running.wait() != 0:
        raise RuntimeError("the CRM can't be prepared")


async def settled(session: aiohttp.ClientSession, port: int) -> int:
    """Return how many events a worker has delivered."""
    async with session.get(f"http://127.0.0.1:{port}/metrics") as response:
        lines = (await response.text()).splitlines()
    return int(next(float(line.removeprefix(_SETTLED)) for line in lines if line.startswith(_SETTLED)))


async def served(session: aiohttp.ClientSession, url: str) -> int:
    """Return how many requests the CRM has had."""
    async with session.get(f"{url}/report") as response:
        report: dict[str, Any] = await response.json()
        return int(report["served"])


async def measure(running: psutil.Process, broker: str, url: str, count: int, offset: int) -> Result:
    """Push so many events through a worker that is ready."""
    port = health_port(running)
    async with aiohttp.ClientSession() as session:
        already, asked = await settled(session, port), await served(session, url)
        before, started = running.cpu_times(), time.monotonic()
        pushing = asyncio.create_task(publish(broker, count, offset))
        while await settled(session, port) < already + count:
            if time.monotonic() > started + WITHIN:
                raise TimeoutError("it took too long")
            await asyncio.sleep(0.25)
        took, after = time.monotonic() - started, running.cpu_times()
        await pushing
        requests = (await served(session, url) - asked) / count
    cpu = (after.user - before.user) + (after.system - before.system)
    return Result(count / took, cpu / count * 1000, requests)


async def _run(batch: int, count: int) -> Result:
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(find_broker(None, print))
        calls = json.dumps({"calls": {call: {"talk_seconds": 9} for call in CALLS}})
        dialer = [PYTHON, "-m", "simulators.dialer", "--count-only", "--delay", "0", "--config", calls]
        _, line = await stack.enter_async_context(process(*dialer))
        crm = [PYTHON, "-m", "simulators.crms", "hubspot", "--port", "0", "--delay", str(DELAY)]
        _, said = await stack.enter_async_context(process(*crm))
        own = json.loads(said)["settings"]
        contact = {"id": "501", "phone": "+1 312-555-1212"}
        lifted = {"rate": None, "search_rate": None, "daily": None}
        await control(own["url"] + "/", **lifted, records={"contacts": [contact]})
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        await prepare(broker, own, folder)
        names = {"SINK__KIND": "crm", **{f"SINK__CRM__{name.upper()}": value for name, value in own.items()}}
        names["SINK__CRM__PRESET"] = str(preset(folder, batch))
        nowhere = "http://127.0.0.1:9/webhook"
        on = Stage(broker, json.loads(line)["url"], nowhere, partial(deliveries, nowhere))
        running = await stack.enter_async_context(consumer("worker", on, names))
        await measure(running, broker, own["url"], count // 4, 0)  # warm: connections, caches
        return await measure(running, broker, own["url"], count, count // 4)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crm_sink", description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="calls in each run")
    chosen = parser.parse_args()
    for size in (1, 100):
        result = asyncio.run(_run(size, chosen.count))
        print(
            f"{IN_FLIGHT} in flight, batches of up to {size:3}: {result.rate:6.0f} calls/s,"
            f" {result.cpu_ms:.2f} ms of CPU and {result.requests:.2f} requests a call"
            + (f"    budget: at least {BUDGET} calls/s" if size == 1 else "")
        )
