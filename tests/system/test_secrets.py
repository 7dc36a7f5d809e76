"""No secret leaves: planted ones are looked for wherever the worker writes."""

import asyncio
import base64
import json
from urllib.parse import quote

import pytest

from tests.system.harness import Program, System, call_ended, eventually

pytestmark = pytest.mark.system

DIALER = "D1aler&Pass/w0rd<+%"
BROKER = "guest"
SIGNING_KEY = b"a signing key that nobody knows!"
SIGNING = "whsec_" + base64.b64encode(SIGNING_KEY).decode()
TOKEN = "token-in-the-webhook-address"


async def test_no_secret_is_written_anywhere(system: System) -> None:
    """Logins fail, answers are odd, the webhook echoes, and the level is debug."""
    dialer = Program("dialer")
    try:
        worker = await system.start(
            vicidial__url=dialer.url,
            vicidial__password=DIALER,
            vicidial__ready_within="500ms",
            sink__url=f"{system.crm.url}?key={TOKEN}",
            sink__signing_secret=SIGNING,
            retry__max_attempts="2",
            gates__refused_probe="200ms",
            log__level="debug",
        )
        refused = await refused_logins(system, dialer)
        odd = await odd_answers(system, dialer)
        await system.publish_all([refused, *odd, b"{", call_ended(call_id="1")])
        await eventually(lambda: len(worker.settled("dead_letter")) >= 6, 15)
        await dialer.control(fault="hang")
        await system.publish(call_ended())
        await asyncio.sleep(1.2)  # a timeout, too
        written = worker.text + "".join([(await worker.get(path))[1] for path in ("/metrics", "/status")])
        written += await dead_letters(system)
        assert await worker.stop() == 0
        written += worker.text
    finally:
        dialer.end()
    assert "LOGIN INCORRECT" in written
    assert "unreadable_answer" in written
    for secret in (DIALER, SIGNING.removeprefix("whsec_"), TOKEN):
        for spelling in spellings(secret):
            assert spelling not in written, f"{spelling} in {around(written, spelling)}"


async def test_the_brokers_password_is_not_written(system: System) -> None:
    host = system.broker_url.split("@")[1]
    for password in ("Br0ker/Secret@1", "Br0ker-Secret-2"):
        worker = system.spawn(
            broker__url=f"amqp://guest:{quote(password, safe='')}@{host}", log__level="debug"
        )
        await eventually(lambda worker=worker: len(worker.events("broker_unreachable")) >= 2)
        written = worker.text + "".join([(await worker.get(path))[1] for path in ("/metrics", "/status")])
        for spelling in spellings(password):
            assert spelling not in written, around(written, spelling)


async def test_settings_that_are_wrong_show_no_secret(system: System) -> None:
    worker = system.spawn(
        broker__url="http://user:Br0ker-Secret-3@host",
        vicidial__password="",
        sink__signing_secret="not-base64-secret!",
        sink__url="ftp://user:Webhook-Secret-4@host",
    )
    assert await worker.exit() == 2
    for secret in ("Br0ker-Secret-3", "not-base64-secret!", "Webhook-Secret-4"):
        assert secret not in worker.text
    system.may_complain = True


async def refused_logins(system: System, dialer: Program) -> dict[str, object]:
    event = call_ended()
    await dialer.control(calls={event["call_id"]: {}})
    return event


async def odd_answers(system: System, dialer: Program) -> list[dict[str, object]]:
    """Plant answers that repeat the password in every way that PHP might."""
    bodies = [
        f"ERROR: SOMETHING NEW: |crmsync|{DIALER}|\n",
        f"PHP Warning: mysqli_connect('{DIALER}')\n",
        f"{DIALER}|{quote(DIALER)}\n",
        f"<html><body>{DIALER}</body></html>",
        "ERROR: " + base64.b64encode(DIALER.encode()).decode(),
    ]
    events = [call_ended() for _ in bodies]
    plants = {event["call_id"]: {"body": body} for event, body in zip(events, bodies, strict=True)}
    await dialer.control(plant=plants)
    return events


async def dead_letters(system: System) -> str:
    found = []
    for _ in range(await system.depth("dead-letters")):
        dead = await system.dead_letter()
        found.append(json.dumps(dict(dead.headers), default=str))
    return "\n".join(found)


def spellings(secret: str) -> set[str]:
    plain = base64.b64encode(secret.encode()).decode().rstrip("=")
    return {secret, quote(secret, safe=""), quote(secret), plain, json.dumps(secret)[1:-1]}


def around(text: str, part: str) -> str:
    at = text.index(part)
    return text[max(0, at - 300) : at + 100]
