"""Receive crm-sync's deliveries: check the signature, keep each one once.

    WEBHOOK_SECRET=whsec_... python3 receive.py 127.0.0.1 8000 deliveries.db

Only Python's own library is used. `WEBHOOK_SECRET` may hold several secrets with spaces between them,
the new one and the old one, while a secret is being changed.
"""

import argparse
import base64
import binascii
import hashlib
import hmac
import json
import os
import re
import sqlite3
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

TOLERANCE = 300
"""Seconds by which the sender's clock and this one may differ."""
LARGEST = 4 * 1024 * 1024
"""Bytes; more are not taken in."""


class Refused(Exception):
    """A request that is not accepted; `status` says how to answer it."""

    def __init__(self, status: int, why: str) -> None:
        """Hold the HTTP status and a sentence for the sender's log."""
        super().__init__(why)
        self.status = status


def verify(secrets: Sequence[bytes], headers: Message, body: bytes, now: float) -> str:
    """Return the delivery's id if one of the secrets signed exactly these bytes; else raise `Refused`."""
    message_id = headers.get("webhook-id", "")
    timestamp = headers.get("webhook-timestamp", "")
    signatures = headers.get("webhook-signature", "")
    if not (message_id and timestamp and signatures):
        raise Refused(401, "webhook-id, webhook-timestamp or webhook-signature is missing")
    if not re.fullmatch(r"[0-9]{1,12}", timestamp):
        raise Refused(400, "webhook-timestamp is not a number of seconds")
    if abs(now - int(timestamp)) > TOLERANCE:
        raise Refused(401, "webhook-timestamp is more than 5 minutes off; check both clocks")
    signed = f"{message_id}.{timestamp}.".encode() + body
    good = False
    for secret in secrets:
        expected = b"v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest())
        for signature in signatures.split(" "):
            good |= hmac.compare_digest(expected, signature.encode())
    if not good:
        raise Refused(401, "no signature fits")
    return message_id


def read_event(body: bytes) -> str:
    """Return the delivery's type; raise `Refused` if the body is not what was agreed."""
    try:
        payload = json.loads(body.decode())
    except (ValueError, RecursionError):
        raise Refused(400, "the body is not JSON") from None
    if not isinstance(payload, dict) or not isinstance(payload.get("type"), str):
        raise Refused(400, "the body is not an object with a type")
    return str(payload["type"])


def store(database: str, message_id: str, body: bytes) -> bool:
    """Keep a delivery; false if it is a repeat.

    The id and the work stand in one transaction: either both happened or neither.
    """
    with closing(sqlite3.connect(database, timeout=10)) as connection, connection:
        added = connection.execute(
            "INSERT OR IGNORE INTO deliveries (id, received_at, body) VALUES (?, ?, ?)",
            (message_id, int(time.time()), body.decode()),
        )
        # Where it was added, the CRM's own tables are changed here, through the same connection.
        return added.rowcount == 1


class Receiver(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    timeout: ClassVar[float | None] = 30
    secrets: Sequence[bytes] = ()
    database = ""

    def do_POST(self) -> None:
        """Receive one delivery."""
        try:
            body = self.read()
            message_id = verify(self.secrets, self.headers, body, time.time())
            if read_event(body) == "ping":
                self.answer(200, "pong")
            else:
                self.answer(200, "stored" if store(self.database, message_id, body) else "had it")
        except Refused as refused:
            self.close_connection = True
            self.answer(refused.status, str(refused))
        except sqlite3.Error as error:
            self.answer(503, f"not stored: {error}")  # it is sent again later

    def read(self) -> bytes:
        """Read the bytes as they came: the signature is of these."""
        length = self.headers.get("content-length", "")
        if not re.fullmatch(r"[0-9]{1,12}", length):
            raise Refused(411, "content-length is missing")
        if int(length) > LARGEST:
            raise Refused(413, f"more than {LARGEST} bytes")
        return self.rfile.read(int(length))

    def answer(self, status: int, text: str) -> None:
        """Answer with a line of text."""
        line = f"{text}\n".encode()
        self.send_response(status)
        self.send_header("content-type", "text/plain; charset=utf-8")
        self.send_header("content-length", str(len(line)))
        if self.close_connection:
            self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(line)


def main() -> None:
    """Serve until it is stopped."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("database")
    chosen = parser.parse_args()
    Receiver.database = chosen.database
    try:
        Receiver.secrets = [
            base64.b64decode(secret.removeprefix("whsec_"), validate=True)
            for secret in os.environ.get("WEBHOOK_SECRET", "").split()
        ]
    except binascii.Error:
        sys.exit("WEBHOOK_SECRET is not whsec_ and base64")
    if not all(Receiver.secrets) or not Receiver.secrets:
        sys.exit("WEBHOOK_SECRET is missing")
    with closing(sqlite3.connect(Receiver.database)) as connection, connection:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS deliveries (id TEXT PRIMARY KEY, received_at INTEGER, body TEXT)"
        )
    ThreadingHTTPServer((chosen.host, chosen.port), Receiver).serve_forever()


if __name__ == "__main__":
    main()
