"""No secret leaves: planted ones are looked for wherever the worker writes."""

import asyncio
import base64
import json
import re
from collections.abc import Sequence
from urllib.parse import quote, urlsplit

import pytest

from tests.system.chaos.proxy import Proxy
from tests.system.harness import Program, System, Worker, call_ended, crm_sync, environment, eventually

pytestmark = [pytest.mark.system, pytest.mark.verify]

DIALER = "D1aler&Pass/w0rd<+%"
BROKER = "guest"
SIGNING_KEY = b"a signing key that nobody knows!"
SIGNING = "whsec_" + base64.b64encode(SIGNING_KEY).decode()
TOKEN = "token-in-the-webhook-address"

UNREADABLE = (
    f"ERROR: SOMETHING NEW: |crmsync|{DIALER}|\n",
    f'PHP Warning:  Undefined array key "{DIALER}" in /srv/www/functions.php on line 8\n',
    f"{DIALER}|{quote(DIALER)}\n",
    "ERROR: " + base64.b64encode(DIALER.encode()).decode(),
)
"""Answers that repeat the password, and make dead letters."""
OUTAGES = (f"PHP Warning: mysqli_connect('{DIALER}')\n", f"<html><body>{DIALER}</body></html>")
"""Answers that repeat the password, and are outages: no event is to blame."""


async def test_no_secret_is_written_anywhere(system: System) -> None:
    """Logins fail, answers are odd, the webhook echoes, and the level is debug."""
    dialer = Program("dialer")
    try:
        worker = await system.start(
            vicidial__url=dialer.url,
            vicidial__timeout="1s",
            vicidial__password=DIALER,
            vicidial__ready_within="500ms",
            sink__url=f"{system.crm.url}?key={TOKEN}",
            sink__signing_secret=SIGNING,
            retry__max_attempts="2",
            circuit_breakers__refused_probe="200ms",
            log__level="debug",
        )
        refused = await refused_logins(system, dialer)
        odd = await planted(dialer, UNREADABLE)
        await system.publish_all([*odd, b"{"])
        await eventually(lambda: len(worker.settled("dead_letter")) >= len(odd) + 1, 15)
        # Only now: repeated outages have the login tried, and its refusal would keep the others waiting.
        outages = await planted(dialer, OUTAGES)
        await system.publish_all(outages)
        await eventually(lambda: retried_ids(worker) >= {each["event_id"] for each in outages}, 15)
        await system.publish_all([refused, call_ended(call_id="1")])
        await eventually(lambda: "LOGIN INCORRECT" in worker.text)
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


ECHOED = "Ech0ed-Secret_Pass"
"""What VICIdial leaves whole of a password: letters, digits, dash and underscore."""
ECHOES = (
    "ERROR: Login incorrect, please try again: |crmsync|{}|BAD|\n",
    "ERROR: Login incorrect, please try again: |crmsync|{}|2FA|\n",
    "ERROR: Too many login attempts, try again in 15 minutes: |crmsync|{}|LOCK|\n",
    "ERROR: Your IP Address is not allowed: {}: |crmsync|{}|IPBLOCK|\n",
    "ERROR: auth USER DOES NOT HAVE PERMISSION TO USE THIS FUNCTION: |crmsync|callid_info|{}|\n",
    "ERROR: callid_info INVALID SEARCH PARAMETERS: crmsync|{}\n",
    "ERROR: callid_info CALL NOT FOUND: crmsync|{}\n",
    "ERROR: Invalid Source - {}\nERROR: Invalid Source: |{}|\n",
    "ERROR: SOMETHING NEW {}: |crmsync|{}|\n",
    "<br />\n<b>Warning</b>: mysqli_connect('localhost', 'cron', '{}') in <b>/srv/www/{}.php</b>\n",
    "{}|{}|{}\n",
    "{0}call_id|custtime\n{0}\n",
)
"""The places in which the real API repeats a password, or PHP might."""


@pytest.mark.timeout(400)
async def test_a_password_that_the_dialer_repeats_leaves_no_trace(system: System) -> None:
    """In each place, in each spelling; also with a wrong password, in extras, and in what is replayed."""
    texts = [ECHOED, quote(ECHOED), html_escaped(ECHOED), base64.b64encode(ECHOED.encode()).decode()]
    drawn_apart = ["\0".join(ECHOED), "\u200b".join(ECHOED), "".join(f"%{ord(each):02x}" for each in ECHOED)]
    bodies = [
        echo.replace("{0}", text).replace("{}", text) for echo in ECHOES for text in (*texts, *drawn_apart)
    ]
    bodies += ["\xff\xfe" + ECHOES[0].replace("{}", ECHOED), "\ufeff" + ECHOES[8].replace("{}", ECHOED)]
    events = [call_ended() for _ in bodies]
    plants = {
        event["call_id"]: {"body": body, "times": 1 if REFUSES_A_LOGIN.search(body) else 3}
        for event, body in zip(events, bodies, strict=True)
    }
    extras = {f"{name}:": {"body": body, "times": 3} for name, body in zip(EXTRAS, bodies, strict=False)}
    dialer = Program("dialer")
    try:
        await dialer.control(password={"crmsync": ECHOED}, plant=plants | extras)
        known = call_ended()
        await dialer.control(calls={known["call_id"]: {}})
        worker = await system.start(
            vicidial__url=dialer.url,
            vicidial__password=ECHOED,
            vicidial__ready_within="1s",
            retry__max_attempts="2",
            circuit_breakers__refused_probe="50ms",
            log__level="debug",
        )
        await system.publish_all([*events, known])
        await system.publish({"event_id": "a-1", "agent_user": "1000"}, "agent.onboarded")
        # After each of some forty refused logins, the workers share a second until one of them tries again.
        await eventually(lambda: settled_ids(worker) >= {each["event_id"] for each in events}, 240)
        written = worker.text + "".join([(await worker.get(path))[1] for path in ("/metrics", "/status")])
        assert await worker.stop() == 0
        dead = await system.depth("dead-letters")
        assert dead >= len(texts)
        written += await command(system, "dead-letters", "list") + await command(
            system, "dead-letters", "replay", "--all"
        )
        assert await system.depth("dead-letters") == 0
        replayed = [await system.take("call-ended") for _ in range(await system.depth("call-ended"))]
        assert len(replayed) >= dead
        written += worker.text + "".join(f"{dict(each.headers)}{each.body!r}" for each in replayed)
        written += json.dumps(await system.crm.report())
    finally:
        dialer.end()
    assert "unreadable_answer" in written
    assert "LOGIN INCORRECT" in written
    for text in {*texts, *drawn_apart, *spellings(ECHOED)}:
        assert text not in written, f"{text} in {around(written, text)}"
    assert "".join(filter(str.isalnum, ECHOED)) not in "".join(filter(str.isalnum, written))


REFUSES_A_LOGIN = re.compile("Login incorrect|Too many login attempts|IP Address is not allowed")
"""Of these the worker tries one a second."""
EXTRAS = ("recording_lookup", "campaigns_list", "user_details")


def html_escaped(text: str) -> str:
    """Write every letter as HTML's numbers do."""
    return "".join(f"&#{ord(letter)};" for letter in text)


def settled_ids(worker: Worker) -> set[str]:
    """Return the ids of the events that came to an end."""
    return {line["event_id"] for line in worker.settled() if line["outcome"] != "retry"}


def retried_ids(worker: Worker) -> set[str]:
    """Return the ids of the events that an outage of the dialer held up."""
    return {line["event_id"] for line in worker.settled("retry") if line["reason"] == "dialer_outage"}


async def command(system: System, *words: str) -> str:
    """Run a command of the worker's, and give all that it writes."""
    process = await asyncio.create_subprocess_exec(
        *crm_sync(),
        *words,
        env=environment(system.settings()),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output
    return output.decode()


async def test_the_brokers_password_is_not_written(system: System) -> None:
    real = urlsplit(system.broker_url)
    for password in ("Br0ker/Secret@1", "Br0ker-Secret-2"):
        broker = Proxy(real.port or 5672, real.hostname or "127.0.0.1")
        await broker.open()
        login = f"guest:{quote(password, safe='')}@127.0.0.1:{broker.port}"
        worker = system.spawn(broker__url=real._replace(netloc=login).geturl(), log__level="debug")
        # The second line of the same fault is left out, so the third try shows that two were logged.
        await eventually(lambda broker=broker: broker.connections >= 3)
        assert worker.events("broker_unreachable")
        written = worker.text + "".join([(await worker.get(path))[1] for path in ("/metrics", "/status")])
        for spelling in spellings(password):
            assert spelling not in written, around(written, spelling)
        await broker.refuse()


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


async def planted(dialer: Program, bodies: Sequence[str]) -> list[dict[str, object]]:
    """Plant each answer for a call of its own, and return the events of their ends."""
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
