"""List the files of the worker that one delivered call passes through, in the order in which it meets them.

Play one call through a whole worker in this process, with a private broker and the simulators, and record
each file of `worker/` of which a function runs between the publish and the acknowledgement. A call before
it warms everything up. Files that only log, count or measure (`worker/observe/`) are listed apart.
"""

import argparse
import asyncio
import contextlib
import json
import sys
from pathlib import Path
from types import FrameType

import aio_pika
import structlog
from aio_pika.abc import AbstractConnection, AbstractExchange

import worker
from simulators.broker import find_broker
from simulators.crm import StandInCrm
from simulators.dialer import DEFAULT_PASSWORD, DEFAULT_USER, StandInDialer
from worker import app
from worker.settings import Settings

HOUSE = Path(worker.__file__).parent
CALLS = ("V1201405090000012345", "V1201406090000012346")
WITHIN = 30.0


async def events_of(connection: AbstractConnection) -> AbstractExchange:
    """Return the events exchange, once the worker consumes."""
    while True:
        with contextlib.suppress(aio_pika.exceptions.ChannelClosed):
            channel = await connection.channel()
            queue = await channel.declare_queue("crm-sync.call-ended", passive=True)
            if queue.declaration_result.consumer_count:
                return await channel.get_exchange("crm-sync.events")
        await asyncio.sleep(0.1)


async def play(broker: str) -> list[str]:
    """Deliver two calls, and return the files that the second one met."""
    met: dict[str, None] = {}

    def record(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(str(HOUSE)):
            met[str(Path(frame.f_code.co_filename).relative_to(HOUSE.parent))] = None

    async with StandInDialer() as dialer, StandInCrm() as crm:
        settings = Settings.model_validate(
            {
                "broker": {"url": broker},
                "vicidial": {"url": dialer.url, "user": DEFAULT_USER, "password": DEFAULT_PASSWORD},
                "sink": {"url": crm.url},
                "http": {"host": "127.0.0.1", "port": 0},
            }
        )
        running = asyncio.create_task(app.run(settings))
        connection = await aio_pika.connect(broker)
        async with asyncio.timeout(WITHIN), connection:
            exchange = await events_of(connection)
            for number, call in enumerate(CALLS, 1):
                if number == len(CALLS):
                    sys.setprofile(record)
                body = json.dumps({"type": "call.ended", "call_id": call}).encode()
                await exchange.publish(aio_pika.Message(body), "call.ended")
                while crm.deliveries < number:  # noqa: ASYNC110 - a simulator announces nothing
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.2)  # until it is settled, too
            sys.setprofile(None)
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    return list(met)


async def main() -> None:
    """Print the files."""
    async with find_broker(None, print) as broker:
        files = await play(broker)
    observe = [file for file in files if "/observe/" in file]
    way = [file for file in files if file not in observe]
    for number, file in enumerate(way, 1):
        print(f"{number:3} {file}")
    print("besides, to log, count and trace:", ", ".join(observe))


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m benchmarks.path", description=__doc__).parse_args()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())  # its lines are not the result
    asyncio.run(main())
