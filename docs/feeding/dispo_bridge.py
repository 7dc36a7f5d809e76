"""Serve VICIdial's Dispo Call URL and No Agent Call URL, and publish each as a `call.ended` event.

    BRIDGE_TOKEN=... CRM_SYNC_BROKER__URL=amqp://... python dispo_bridge.py

It runs with the Python that crm-sync is installed in. VICIdial asks once and waits for the answer. So an
event is first written to a file on this host (the spool), then answered, then published. It leaves the
spool when the broker has confirmed it: neither a broker that is away nor a kill loses one. What was
confirmed just before a kill is published twice, with the same id.

`BRIDGE_TOKEN` (16 or more letters, digits, `-` and `_`) and `CRM_SYNC_BROKER__URL` are required. Defaults:
`CRM_SYNC_BROKER__EVENTS_EXCHANGE` crm-sync.events, `BRIDGE_LISTEN` 127.0.0.1:8085, `BRIDGE_SPOOL`
dispo_bridge.ndjson.
"""

import argparse
import asyncio
import fcntl
import json
import logging
import os
import re
import secrets
import sys
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import aio_pika
from aiohttp import web

NAMESPACE = uuid.UUID("a4b6a3f2-6d0d-4d53-9a0e-6c1b8f6c2f10")
CALL_ID = re.compile(r"[A-Z][0-9A-Za-z]{17,38}")  # what VICIdial's callid_info takes
FIELDS = (
    "uniqueid",
    "lead_id",
    "agent_user",
    "campaign_id",
    "in_group_id",
    "list_id",
    "phone_number",
    "status",
)
NOBODY = {"VDAD", "VDCL"}  # VICIdial's users for a call that no agent took
RETRY_SECONDS = 5.0

log = logging.getLogger("dispo_bridge")


def to_event(query: Mapping[str, str]) -> dict[str, str]:
    """Make an event of what VICIdial put into the URL. Raises `ValueError`.

    Its id depends on the call alone, so a URL that is asked for again gives the same event.
    """
    call_id = query.get("call_id", "")
    if not CALL_ID.fullmatch(call_id):
        raise ValueError("call_id is missing, or is none of VICIdial's")
    occurred_at = query.get("occurred_at") or datetime.now(UTC).isoformat(timespec="seconds")
    datetime.fromisoformat(occurred_at)
    said = {name: query.get(name, "").strip()[:255] for name in FIELDS}
    known = {name: value for name, value in said.items() if value and value not in NOBODY}
    event_id = str(uuid.uuid5(NAMESPACE, f"{call_id} {known.get('uniqueid', '')}"))
    event = {"type": "call.ended", "event_id": event_id, "occurred_at": occurred_at, "call_id": call_id}
    return event | known


class Spool:
    """The events that are not confirmed yet, one JSON object a line."""

    def __init__(self, path: Path) -> None:
        """Open it, for this process alone. Raises `OSError`."""
        self._path = path
        self._end = path.open("ab", buffering=0)
        fcntl.flock(self._end, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._end.truncate(path.read_bytes().rfind(b"\n") + 1)  # half a line was never answered
        self._front = path.open("rb")
        self._done = 0
        self._filled = asyncio.Event()

    def add(self, event: Mapping[str, str]) -> None:
        """Write an event to the disk. Raises `OSError`, and then has written nothing."""
        before = os.fstat(self._end.fileno()).st_size
        try:
            self._write(json.dumps(event).encode() + b"\n")
        except OSError:
            self._end.truncate(before)
            raise
        self._filled.set()

    def _write(self, line: bytes) -> None:
        if self._end.write(line) != len(line):
            raise OSError("the disk is full")
        os.fsync(self._end.fileno())

    async def first(self) -> bytes:
        """Wait for the first event that is not done."""
        while True:
            self._front.seek(self._done)
            if line := self._front.readline():
                return line.rstrip()
            self._end.truncate(0)  # all is done
            self._done = 0
            self._front.close()
            self._front = self._path.open("rb")  # as the old one may remember what it read
            self._filled.clear()
            await self._filled.wait()

    def done(self) -> None:
        """Leave behind what `first` gave."""
        self._done = self._front.tell()


async def publish(spool: Spool, url: str, exchange: str) -> None:
    """Publish what comes into the spool; whatever goes wrong, it is tried again."""
    while True:
        try:
            async with await aio_pika.connect(url, timeout=10) as connection:
                channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
                target = await channel.get_exchange(exchange, ensure=False)
                while True:
                    event = await spool.first()
                    message = aio_pika.Message(event, content_type="application/json", delivery_mode=2)
                    await target.publish(message, "call.ended", mandatory=True, timeout=10)
                    spool.done()
        except Exception as error:  # noqa: BLE001 - its text may hold the broker's password
            log.warning("not published (%s); the events wait in the spool", type(error).__name__)
        await asyncio.sleep(RETRY_SECONDS)


def make_app(token: str, spool: Spool, url: str, exchange: str) -> web.Application:
    """Make the server: one address, and the task that publishes."""

    async def call_ended(request: web.Request) -> web.Response:
        if not secrets.compare_digest(request.query.get("token", "").encode(), token.encode()):
            return web.Response(status=403, text="wrong token\n")
        try:
            event = to_event(request.query)
            spool.add(event)
        except ValueError as error:
            return web.Response(status=400, text=f"{error}\n")
        except OSError as error:
            log.critical("call %s is lost: can't write the spool (%s)", request.query["call_id"], error)
            return web.Response(status=503, text="not stored\n")
        return web.Response(text=f"stored {event['event_id']}\n")  # PHP takes an empty answer for an error

    async def publishing(_: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(publish(spool, url, exchange))
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    app = web.Application()
    app.router.add_get("/call-ended", call_ended, allow_head=False)
    app.cleanup_ctx.append(publishing)
    return app


def main() -> None:
    """Serve until SIGTERM."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    os.umask(0o077)  # the spool may hold phone numbers
    token, url = os.environ.get("BRIDGE_TOKEN", ""), os.environ.get("CRM_SYNC_BROKER__URL", "")
    if not re.fullmatch(r"[A-Za-z0-9_-]{16,}", token) or not url:
        sys.exit("set BRIDGE_TOKEN (16 or more letters, digits, - and _) and CRM_SYNC_BROKER__URL")
    host, _, port = os.environ.get("BRIDGE_LISTEN", "127.0.0.1:8085").rpartition(":")
    exchange = os.environ.get("CRM_SYNC_BROKER__EVENTS_EXCHANGE", "crm-sync.events")
    try:
        spool = Spool(Path(os.environ.get("BRIDGE_SPOOL", "dispo_bridge.ndjson")))
    except OSError as error:
        sys.exit(f"the spool can't be opened, or another bridge has it: {error}")
    app = make_app(token, spool, url, exchange)
    web.run_app(app, host=host, port=int(port), access_log=None)  # the token stands in the address


if __name__ == "__main__":
    main()
