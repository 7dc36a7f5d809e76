"""How many events the intake takes: `python -m benchmarks.intake [--seconds 10]`.

Clients on this machine report calls one after the other over kept-alive connections, with the broker there,
and with it away. What is counted are answers with 200, and the time from a request to its answer.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import aio_pika
import aiohttp
from rich.console import Console

from simulators.broker import find_server
from simulators.broker_node import PrivateBroker, free_ports

TOKEN = "a-token_of-the-benchmark"  # noqa: S105 - it opens nothing
CLIENTS = 16
PACED = 100
"""Requests a second of the paced run: far more than a dialer with 500 agents."""


async def measure(port: int, seconds: float, rate: float | None = None) -> tuple[float, list[float]]:
    """Report calls for so long, as fast as answers come or at a rate; return answers a second and times."""
    took: list[float] = []
    until = time.monotonic() + seconds
    url = f"http://127.0.0.1:{port}/vicidial/call-ended"

    async def client(session: aiohttp.ClientSession, number: int) -> None:
        count = 0
        while time.monotonic() < until:
            count += 1
            query = {"token": TOKEN, "call_id": f"V12014050900{number:02d}{count:06d}", "status": "SALE"}
            began = time.monotonic()
            async with session.get(url, params=query) as response:
                await response.read()
                if response.status != 200:
                    raise SystemExit(f"answered {response.status}")
            took.append(time.monotonic() - began)
            if rate is not None:
                await asyncio.sleep(max(0.0, CLIENTS / rate - took[-1]))

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CLIENTS)) as session:
        await asyncio.gather(*(client(session, number) for number in range(CLIENTS)))
    return len(took) / seconds, took


def shown(what: str, rate: float, took: Sequence[float]) -> str:
    """Return one line: requests a second, the median and 99 %."""
    cuts = statistics.quantiles(took, n=100)
    return f"{what}: {rate:.0f} requests/s, median {cuts[49] * 1000:.1f} ms, 99 % {cuts[98] * 1000:.1f} ms"


async def run(seconds: float, console: Console) -> None:
    """Start a broker and an intake, and measure."""
    server = find_server()
    if server is None:
        raise SystemExit("it needs an installed rabbitmq-server")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        await asyncio.to_thread((folder / "token").write_text, TOKEN)
        async with await PrivateBroker.start(server) as node:
            async with await aio_pika.connect(node.url) as connection:
                channel = await connection.channel()
                exchange = await channel.declare_exchange("crm-sync.events", "topic", durable=True)
                queue = await channel.declare_queue(
                    "crm-sync.call-ended", durable=True, arguments={"x-queue-type": "quorum"}
                )
                await queue.bind(exchange, "call.ended")
            (port,) = free_ports(1)
            intake = await _start(folder, node.url, port)
            try:
                for state in ("broker there", "broker away"):
                    if state == "broker away":
                        await node.kill()
                        await asyncio.sleep(1)
                    for what, rate in (("flat out", None), (f"{PACED}/s", float(PACED))):
                        console.print(shown(f"{state}, {what}", *await measure(port, seconds, rate)))
            finally:
                intake.terminate()
                await intake.wait()


async def _start(folder: Path, broker_url: str, port: int) -> asyncio.subprocess.Process:
    settings = {
        "CRM_SYNC_BROKER__URL": broker_url,
        "CRM_SYNC_INTAKE__PORT": str(port),
        "CRM_SYNC_INTAKE__RATE": "1000000",
        "CRM_SYNC_INTAKE__SPOOL": str(folder / "spool"),
        "CRM_SYNC_INTAKE__TOKEN_FILES": str(folder / "token"),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "worker", "intake", env=os.environ | settings, stderr=asyncio.subprocess.DEVNULL
    )
    for _ in range(200):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.1)
        else:
            writer.close()
            break
    await asyncio.sleep(1)  # until it is connected to the broker
    return process


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.intake", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each run")
    asyncio.run(run(parser.parse_args().seconds, Console(emoji=False)))


if __name__ == "__main__":
    main()
