"""The receivers that docs/receiving.md shows do what it says: each runs, and gets real deliveries."""

import asyncio
import base64
import hashlib
import io
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr
from standardwebhooks import Webhook

from tests.system.harness import Program, System, eventually
from tests.tools import need
from worker.core.payload import Payload
from worker.core.signature import key_of, sign
from worker.settings import SinkSettings
from worker.sinks.webhook import WebhookSink, open_session

pytestmark = pytest.mark.verify

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "docs" / "receiving"
PAGE = (ROOT / "docs" / "receiving.md").read_text(encoding="utf-8")

SECRET = "whsec_" + base64.b64encode(b"the secret that is in use now...").decode()
OLD_SECRET = "whsec_" + base64.b64encode(b"the secret that was used before.").decode()
WRONG_SECRET = "whsec_" + base64.b64encode(b"a secret that nobody agreed upon").decode()
BODY = json.dumps({"type": "call.enriched", "data": {"name": "Zoë ☎"}}, ensure_ascii=False)


@dataclass
class Receiver:
    """One of the samples, running."""

    kind: str
    folder: Path
    process: subprocess.Popen[bytes]
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hooks/crm-sync"

    @property
    def place(self) -> Path:
        return place_of(self.kind, self.folder)

    def stored(self) -> dict[str, bytes]:
        """Return each stored delivery's body by its id; of PHP's, by the id's hash."""
        if self.kind == "php":
            assert list(self.place.glob("new*")) == []
            return {path.stem: path.read_bytes() for path in self.place.glob("*.json")}
        with closing(sqlite3.connect(self.place)) as database:
            return {name: body.encode() for name, body in database.execute("SELECT id, body FROM deliveries")}

    def body_of(self, message_id: str) -> bytes | None:
        name = hashlib.sha256(message_id.encode()).hexdigest() if self.kind == "php" else message_id
        return self.stored().get(name)

    def end(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)  # PHP's workers too
        self.process.wait(10)


def place_of(kind: str, folder: Path) -> Path:
    return folder / ("deliveries" if kind == "php" else "deliveries.db")


def start(kind: str, folder: Path, secrets: str = f"{SECRET} {OLD_SECRET}") -> Receiver:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    place = place_of(kind, folder)
    if kind == "php":
        place.mkdir(exist_ok=True)
    command = {
        "python": [sys.executable, str(SAMPLES / "receive.py"), "127.0.0.1", str(port), str(place)],
        "php": ["php", "-d", "display_errors=1", "-S", f"127.0.0.1:{port}", str(SAMPLES / "receive.php")],
        "node": [
            str(Path(sys.executable).with_name("node")),
            str(SAMPLES / "receive.mjs"),
            "127.0.0.1",
            str(port),
            str(place),
        ],
    }[kind]
    if kind == "php":
        command[0] = str(need("php"))
    environment = os.environ | {
        "WEBHOOK_SECRET": secrets,
        "DELIVERIES": str(place),
        "PHP_CLI_SERVER_WORKERS": "4",
    }
    log = (folder / "receiver.log").open("ab")
    with log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, cwd=folder, start_new_session=True
        )
    receiver = Receiver(kind, folder, process, port)
    listening(receiver)
    return receiver


def listening(receiver: Receiver) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", receiver.port), 1).close()
        except OSError:
            ended = receiver.process.poll() is not None  # looked at first, so that all it said is there
            said = (receiver.folder / "receiver.log").read_text()
            assert not ended, said
            assert time.monotonic() < deadline, said
            time.sleep(0.02)
        else:
            return


@pytest.fixture(scope="module", params=["python", "php", "node"])
def receiver(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    running = start(request.param, tmp_path_factory.mktemp(request.param))
    yield running
    running.end()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        yield session


def headers(
    message_id: str, body: str = BODY, *, secret: str = SECRET, age: timedelta = timedelta(0)
) -> dict[str, str]:
    """Sign as the reference library of Standard Webhooks does."""
    when = datetime.now(UTC) - age
    return {
        "content-type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(when.timestamp())),
        "webhook-signature": Webhook(secret).sign(message_id, when, body),
    }


async def post(
    http: aiohttp.ClientSession, receiver: Receiver, fields: dict[str, str], body: str | bytes = BODY
) -> tuple[int, str]:
    data = body.encode() if isinstance(body, str) else body
    async with http.post(receiver.url, data=io.BytesIO(data), headers=fields) as response:
        return response.status, (await response.text()).strip()


# --- what is taken --------------------------------------------------------------------------------


async def test_a_delivery_of_the_worker_is_stored_once_however_often_it_comes(receiver: Receiver) -> None:
    settings = SinkSettings.model_validate({"url": receiver.url, "signing_secret": SECRET})
    payload = Payload("9f1c-delivered", "call.enriched", BODY.encode())
    async with open_session(settings, 2) as session:
        sink = WebhookSink(settings, session)
        assert (await sink.deliver(payload)).detail == "200"
        before = receiver.stored()
        assert receiver.body_of(payload.id) == payload.body
        assert (await sink.deliver(payload)).detail == "200"
    assert receiver.stored() == before


async def test_the_same_delivery_many_times_at_once_is_stored_once(
    receiver: Receiver, http: aiohttp.ClientSession
) -> None:
    answers = await asyncio.gather(*(post(http, receiver, headers("at-once")) for _ in range(20)))
    assert sorted(answers) == [(200, "had it")] * 19 + [(200, "stored")]


@pytest.mark.parametrize("body", ['{"type": "x"}', '{"type": "x", "pad": "' + "é" * 500_000 + '"}', BODY])
async def test_what_the_reference_library_signed_is_taken(
    receiver: Receiver, http: aiohttp.ClientSession, body: str
) -> None:
    name = f"reference-{hashlib.sha256(body.encode()).hexdigest()}"
    assert await post(http, receiver, headers(name, body), body) == (200, "stored")
    assert receiver.body_of(name) == body.encode()


async def test_one_fitting_signature_among_several_is_enough(
    receiver: Receiver, http: aiohttp.ClientSession
) -> None:
    good = headers("several")
    wrong = headers("several", secret=WRONG_SECRET)["webhook-signature"]
    both = f"{wrong} v2,xyz {good['webhook-signature']} v1,"
    assert await post(http, receiver, good | {"webhook-signature": both}) == (200, "stored")


async def test_while_a_secret_is_changed_the_old_one_is_good_too(
    receiver: Receiver, http: aiohttp.ClientSession
) -> None:
    assert await post(http, receiver, headers("rotated", secret=OLD_SECRET)) == (200, "stored")


async def test_a_ping_is_answered_and_not_stored(receiver: Receiver, http: aiohttp.ClientSession) -> None:
    body = '{"type":"ping","timestamp":"2026-11-20T19:07:14Z","data":{}}'
    status, _ = await post(http, receiver, headers("ping-1", body), body)
    assert 200 <= status < 300
    assert receiver.body_of("ping-1") is None


@pytest.mark.parametrize("kind", ["python", "php", "node"])
async def test_it_remembers_over_a_restart(kind: str, tmp_path: Path, http: aiohttp.ClientSession) -> None:
    for answer in ("stored", "had it"):
        running = start(kind, tmp_path)
        try:
            assert await post(http, running, headers("restarted")) == (200, answer)
        finally:
            running.end()


# --- what is refused ------------------------------------------------------------------------------

TOO_OLD = timedelta(minutes=5, seconds=5)


@pytest.mark.parametrize(
    "case",
    [
        "wrong secret",
        "another body",
        "another id",
        "another timestamp",
        "too old",
        "from the future",
        "no id",
        "no timestamp",
        "no signature",
        "an empty code",
        "another version",
    ],
)
async def test_what_is_not_well_signed_is_refused(
    receiver: Receiver, http: aiohttp.ClientSession, case: str
) -> None:
    name = f"refused-{case.replace(' ', '-')}"
    fields, body = headers(name), BODY
    match case:
        case "wrong secret":
            fields = headers(name, secret=WRONG_SECRET)
        case "another body":
            body += " "
        case "another id":
            fields["webhook-id"] += "x"
        case "another timestamp":
            fields["webhook-timestamp"] = str(int(fields["webhook-timestamp"]) - 1)
        case "too old":
            fields = headers(name, age=TOO_OLD)
        case "from the future":
            fields = headers(name, age=-TOO_OLD)
        case "an empty code":
            fields["webhook-signature"] = "v1,"
        case "another version":
            fields["webhook-signature"] = fields["webhook-signature"].replace("v1,", "v2,")
        case missing:
            del fields[f"webhook-{missing.removeprefix('no ')}"]
    before = receiver.stored()
    status, _ = await post(http, receiver, fields, body)
    assert status == 401
    assert receiver.stored() == before


async def test_up_to_five_minutes_clocks_may_differ(receiver: Receiver, http: aiohttp.ClientSession) -> None:
    for age in (timedelta(minutes=4, seconds=50), -timedelta(minutes=4, seconds=50)):
        fields = headers(f"late-{age.total_seconds():.0f}", age=age)
        assert await post(http, receiver, fields) == (200, "stored")


NOT_EVENTS = {
    "not UTF-8": b'{"type": "\xff\xfe"}',
    "UTF-16": BODY.encode("utf-16"),
    "not JSON": b"<html>",
    "empty": b"",
    "an array": b"[]",
    "null": b"null",
    "no type": b'{"data": {}}',
    "a number for a type": b'{"type": 5}',
    "very deep": b"[" * 200_000,
}


@pytest.mark.parametrize("body", NOT_EVENTS.values(), ids=NOT_EVENTS)
async def test_what_is_no_event_is_refused_for_good_and_breaks_nothing(
    receiver: Receiver, http: aiohttp.ClientSession, body: bytes
) -> None:
    name = f"malformed-{hashlib.sha256(body).hexdigest()}"
    now = int(time.time())
    fields = headers(name) | {
        "webhook-timestamp": str(now),
        "webhook-signature": sign(key_of(SecretStr(SECRET)), name, now, body),
    }
    assert (await post(http, receiver, fields, body))[0] == 400
    assert receiver.body_of(name) is None
    assert await post(http, receiver, headers(f"after-{name}")) == (200, "stored")


@pytest.mark.parametrize("timestamp", ["soon", "-1", "1e9", "1" * 50, "٣"])
async def test_a_timestamp_that_is_no_number_of_seconds_is_malformed(
    receiver: Receiver, http: aiohttp.ClientSession, timestamp: str
) -> None:
    status, _ = await post(http, receiver, headers("when") | {"webhook-timestamp": timestamp})
    assert status == 400


def test_more_than_it_takes_in_is_refused(receiver: Receiver) -> None:
    # Not by `http`: aiohttp leaves a transport open if it is closed before all of the body has been sent.
    status = 413
    with closing(HTTPConnection("127.0.0.1", receiver.port, timeout=10)) as connection:
        with suppress(ConnectionError):  # it may hang up before all has been sent
            connection.request("POST", "/hooks/crm-sync", b" " * (4 * 1024 * 1024 + 1), headers("large"))
        with suppress(ConnectionError):
            status = connection.getresponse().status
    assert status == 413
    assert receiver.body_of("large") is None


@pytest.mark.parametrize("kind", ["python", "php", "node"])
async def test_what_can_not_be_stored_is_asked_for_again(
    kind: str, tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    running = start(kind, tmp_path)
    try:
        if kind == "php":
            running.place.rename(tmp_path / "elsewhere")
        else:
            with closing(sqlite3.connect(running.place)) as database, database:
                database.execute("DROP TABLE deliveries")
        status, said = await post(http, running, headers("nowhere"))
        assert status == 503
        assert "\n" not in said  # no warning of PHP's either
    finally:
        running.end()


@pytest.mark.parametrize("secrets", ["", "whsec_", f"{SECRET} whsec_"])
@pytest.mark.parametrize("kind", ["python", "php", "node"])
async def test_without_a_usable_secret_nothing_is_taken(
    kind: str, secrets: str, tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    """An empty secret would let anybody sign."""
    if kind == "php":
        running = start(kind, tmp_path, secrets=secrets)
        try:
            assert (await post(http, running, headers("nobody")))[0] == 503
        finally:
            running.end()
    else:
        with pytest.raises(AssertionError, match="WEBHOOK_SECRET is missing"):
            start(kind, tmp_path, secrets=secrets)


# --- the page -------------------------------------------------------------------------------------


def test_what_the_page_shows_stands_in_the_samples() -> None:
    shown = re.findall(r"<!-- from receiving/([\w.]+) -->\n```\w+\n(.*?)```", PAGE, re.DOTALL)
    assert [file for file, _ in shown] == ["receive.py", "receive.php", "receive.mjs"]
    for file, code in shown:
        assert code in (SAMPLES / file).read_text(encoding="utf-8"), file


def vector() -> dict[str, str]:
    match = re.search(r"<!-- vector -->\n```\n(.*?)```", PAGE, re.DOTALL)
    assert match is not None
    return {line.split()[0]: line.split(maxsplit=1)[1] for line in match[1].splitlines()}


def test_the_pages_numbers_to_try_a_verifier_with_are_right() -> None:
    value = vector()
    when = datetime.fromtimestamp(int(value["timestamp"]), UTC)
    assert value["signature"] == Webhook(value["secret"]).sign(value["id"], when, value["body"])


# --- as a system ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dialer() -> Iterator[Program]:
    program = Program("dialer")
    yield program
    program.end()


@pytest.fixture(scope="module")
def crm() -> Iterator[Program]:
    program = Program("crm", "--secret", SECRET)
    yield program
    program.end()


@pytest.fixture
async def system(
    broker_url: str, namespace: str, tmp_path: Path, dialer: Program, crm: Program
) -> AsyncIterator[System]:
    opened = System(broker_url, namespace, tmp_path, dialer, crm)
    await dialer.control(password={"crmsync": "Dialer-Pass-1"})
    yield opened
    await opened.end()


@pytest.mark.broker
@pytest.mark.system
async def test_a_running_worker_delivers_to_it(receiver: Receiver, system: System) -> None:
    await system.start(sink__url=receiver.url, sink__signing_secret=SECRET, sink__timeout="15s")
    event = await system.call()
    for _ in range(2):  # its producer repeats it
        await system.publish(event)
    await eventually(lambda: len(system.workers[0].settled("delivered")) == 2)
    stored = receiver.body_of(event["event_id"])
    assert stored is not None
    assert json.loads(stored)["data"]["event"] == event


EXAMPLE = re.compile(r"<!-- delivery -->\n```http\n(.*?)\n\n(.*?)```", re.DOTALL)


@pytest.mark.broker
@pytest.mark.system
async def test_the_pages_example_is_what_a_worker_sends(system: System) -> None:
    match = EXAMPLE.search(PAGE)
    assert match is not None
    request, *lines = match[1].splitlines()
    shown: dict[str, Any] = json.loads(match[2])
    await system.start(sink__signing_secret=SECRET, vicidial__timezone="America/New_York")
    await system.publish(shown["data"]["event"])
    (sent,) = (await system.delivered(shown["data"]["event_id"]))[shown["data"]["event_id"]]
    assert json.loads(sent["body"]) == shown
    headers_shown = {name.lower(): text for name, text in (line.split(": ", 1) for line in lines)}
    assert request.startswith("POST ")
    assert headers_shown.keys() == sent["headers"].keys()
    for name in ("content-type", "content-length", "idempotency-key", "webhook-id"):
        assert headers_shown[name] == sent["headers"][name]
    when = datetime.fromtimestamp(int(headers_shown["webhook-timestamp"]), UTC)
    signature = Webhook(vector()["secret"]).sign(headers_shown["webhook-id"], when, sent["body"])
    assert headers_shown["webhook-signature"] == signature
