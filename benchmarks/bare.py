"""The yardstick: a loop with the same two hops and an acknowledgement, and nothing else.

Run as a process: `python -m benchmarks.bare BROKER_URL QUEUE PREFETCH DIALER_URL WEBHOOK_URL`, or with
`--exchange NAME` instead of the webhook to publish with a confirm. It prints `ready` once it consumes, and
runs until it is terminated. It sends fewer parameters and headers than the worker, and no signature.
"""

import argparse
import asyncio
import json
from functools import partial

import aio_pika
import aiohttp
import uvloop
from aio_pika.abc import AbstractExchange, AbstractIncomingMessage

QUERY = {"user": "crmsync", "pass": "Dialer-Pass-1", "source": "crmsync", "function": "callid_info"}
HEADERS = {"content-type": "application/json"}


async def on_message(
    session: aiohttp.ClientSession,
    dialer: str,
    target: str | AbstractExchange,
    message: AbstractIncomingMessage,
) -> None:
    """Ask, post or publish, acknowledge."""
    event = json.loads(message.body)
    answer = await ask(session, dialer, event["call_id"])
    body = json.dumps({"event": event, "answer": answer}).encode()
    if isinstance(target, str):
        await post(session, target, body)
    else:
        await target.publish(aio_pika.Message(body, delivery_mode=2), "call.enriched")
    await message.ack()


async def ask(session: aiohttp.ClientSession, dialer: str, call_id: str) -> str:
    """Look a call up."""
    async with session.get(dialer, params=QUERY | {"call_id": call_id}) as response:
        return await response.text()


async def post(session: aiohttp.ClientSession, webhook: str, body: bytes) -> None:
    """Deliver."""
    async with session.post(webhook, data=body, headers=HEADERS) as response:
        await response.read()


async def main() -> None:
    """Consume for ever."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bare", description=__doc__)
    for name in ("broker", "queue"):
        parser.add_argument(name)
    parser.add_argument("prefetch", type=int)
    parser.add_argument("dialer")
    parser.add_argument("webhook", nargs="?")
    parser.add_argument("--exchange")
    chosen = parser.parse_args()
    connector = aiohttp.TCPConnector(limit=2 * chosen.prefetch)
    async with aiohttp.ClientSession(connector=connector) as session:
        connection = await aio_pika.connect(chosen.broker)
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=chosen.prefetch)
        target = chosen.webhook or await channel.get_exchange(chosen.exchange, ensure=False)
        queue = await channel.get_queue(chosen.queue, ensure=False)
        await queue.consume(partial(on_message, session, chosen.dialer, target))
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
