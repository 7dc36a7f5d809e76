"""The yardstick: a bare aio-pika and aiohttp loop with the worker's two requests and an ack, nothing else.

Run as a process: `python -m benchmarks.bare BROKER_URL QUEUE DIALER_URL WEBHOOK_URL PREFETCH`.
It prints `ready` once it consumes and runs until it is terminated.
"""

import argparse
import asyncio
import json
from functools import partial

import aio_pika
import aiohttp
import uvloop
from aio_pika.abc import AbstractIncomingMessage

LOGIN = {"user": "crmsync", "pass": "Dialer-Pass-1", "source": "crmsync"}
HEADERS = {
    "content-type": "application/json",
    "webhook-timestamp": "1795269909",
    "webhook-signature": "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=",
}
ASK = {"function": "callid_info", "stage": "pipe", "header": "YES", "detail": "YES"}


async def on_message(
    session: aiohttp.ClientSession, dialer: str, webhook: str, message: AbstractIncomingMessage
) -> None:
    """Ask, post, ack."""
    event = json.loads(message.body)
    query = LOGIN | ASK | {"call_id": event["call_id"]}
    async with session.get(dialer, params=query) as response:
        answer = await response.text()
    body = json.dumps({"event": event, "answer": answer}).encode()
    headers = HEADERS | {"webhook-id": event["event_id"], "idempotency-key": event["event_id"]}
    async with session.post(webhook, data=body, headers=headers) as response:
        await response.read()
    await message.ack()


async def main() -> None:
    """Consume for ever."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bare", description=__doc__)
    for name in ("broker", "queue", "dialer", "webhook"):
        parser.add_argument(name)
    parser.add_argument("prefetch", type=int)
    chosen = parser.parse_args()
    connector = aiohttp.TCPConnector(limit=2 * chosen.prefetch)
    async with aiohttp.ClientSession(connector=connector) as session:
        connection = await aio_pika.connect(chosen.broker)
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=chosen.prefetch)
        queue = await channel.get_queue(chosen.queue, ensure=False)
        await queue.consume(partial(on_message, session, chosen.dialer, chosen.webhook))
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
