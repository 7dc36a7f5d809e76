"""What the pages show can be used as it stands, and their tables name every field."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aio_pika
import pytest

from tests.system.harness import PASSWORD, ROOT, Program, crm_sync, environment
from tests.tools import PHP_LIBRARY, skip_without
from worker.commands.asyncapi import asyncapi
from worker.commands.event_schemas import EVENTS, FIELDS, cloud_event, cloud_event_headers, payloads
from worker.core.events import EventType, Inbound, decode
from worker.rabbitmq.message import OUR_HEADERS, to_inbound
from worker.settings import BrokerCommandSettings

pytestmark = pytest.mark.verify

DOCS = ROOT / "docs"
EVENTS_PAGE = (DOCS / "events.md").read_text(encoding="utf-8")
START_PAGE = (DOCS / "index.md").read_text(encoding="utf-8")
SCHEMAS: dict[str, dict[str, Any]] = asyncapi(BrokerCommandSettings())["components"]["schemas"]
NOW = datetime(2026, 11, 22, tzinfo=UTC)


def example(page: str, name: str) -> str:
    """Return the block under `<!-- example: name -->`."""
    (block,) = re.findall(rf"<!-- example: {re.escape(name)} -->\n```\w+\n(.*?)```", page, re.DOTALL)
    found: str = block
    return found


# --- events and payloads --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", EVENTS)
def test_a_plain_event_is_understood_as_it_is_shown(kind: str) -> None:
    shown = example(EVENTS_PAGE, f"plain {kind}")
    assert json.loads(shown) == EVENTS[kind]
    event = decode(Inbound(shown.encode(), "", NOW, {}, content_type="application/json"))
    assert (event.type, event.id) == (kind, EVENTS[kind]["event_id"])


def test_the_cloud_events_are_the_same_event() -> None:
    plain = decode(Inbound(json.dumps(EVENTS["call.ended"]).encode(), "", NOW, {}))
    structured = example(EVENTS_PAGE, "structured call.ended")
    assert json.loads(structured) == cloud_event("call.ended")
    as_one = decode(Inbound(structured.encode(), "", NOW, {}, content_type="application/cloudevents+json"))
    head, body = example(EVENTS_PAGE, "binary call.ended").split("\n\n")
    said = dict(line.split(": ", 1) for line in head.splitlines())
    content_type = said.pop("content-type")
    assert said == cloud_event_headers("call.ended")
    as_two = decode(Inbound(body.encode(), "", NOW, said, content_type=content_type))
    for other in (as_one, as_two):
        assert other.data == json.loads(body)
        for name in ("type", "id", "occurred_at", "subject", "uniqueid", "lead_id"):
            assert getattr(other, name) == getattr(plain, name), name


@pytest.mark.parametrize("kind", payloads())
def test_a_payload_is_what_becomes_of_its_event(kind: str) -> None:
    shown = json.loads(example(EVENTS_PAGE, f"payload {kind}"))
    assert shown == payloads()[kind]
    assert json.dumps(shown) == json.dumps(payloads()[kind]), "the fields stand in another order"


def test_every_concept_that_is_shown_in_json_is_understood() -> None:
    shown = re.findall(r"```json\n(.*?)```", (DOCS / "concepts.md").read_text(encoding="utf-8"), re.DOTALL)
    assert shown
    for event in shown:
        decode(Inbound(event.encode(), "", NOW, {}))


# --- the tables of fields -------------------------------------------------------------------------


def rows_under(title: str) -> dict[str, list[str]]:
    """Return the rows of the table under a heading, by the name in the first column."""
    _, _, after = EVENTS_PAGE.partition(f"\n{title}\n\n")
    lines = after[: after.index("\n\n", after.index("|---"))].splitlines()
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")
    ]
    return {first.strip("`"): others for first, *others in cells}


def types_of(schema: dict[str, Any]) -> Iterator[str]:
    """Name the types that a schema accepts as the tables do, `null` among them."""
    words = {"string": "text", "integer": "whole number", "boolean": "true or false", "null": "null"}
    if "$ref" in schema:
        yield "object"
    elif "anyOf" in schema:
        for each in schema["anyOf"]:
            yield from types_of(each)
    elif schema["type"] == "array":
        yield "list of " + "".join(types_of(schema["items"])) + "s"
    elif schema.get("format") == "date-time":
        yield "time"
    else:
        yield words.get(schema["type"], schema["type"])


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("### `call.enriched`", "CallEnriched"),
        ("### `data` of a call", "CallData"),
        ("### `data.call`", "CallRecord"),
        ("### `data.call.recordings`", "Recording"),
        ("### `agent.enriched`", "AgentEnriched"),
        ("### `data` of an agent", "AgentData"),
        ("### `data.agent`", "AgentRecord"),
        ("### `data.agent.campaigns`", "Campaign"),
        ("### `data.access_check`", "AccessCheck"),
    ],
)
def test_a_payloads_table_names_each_field_its_type_and_what_null_means(title: str, name: str) -> None:
    rows = rows_under(title)
    fields = SCHEMAS[name]["properties"]
    assert list(rows) == list(fields)
    for field, schema in fields.items():
        accepted = list(types_of(schema))
        assert rows[field][0] == next(each for each in accepted if each != "null")
        assert rows[field][1], f"{field} has no sentence"
        says_null = len(rows[field]) > 2 and rows[field][2] != ""
        assert says_null == ("null" in accepted), field


@pytest.mark.parametrize(
    ("kind", "name"), [("call.ended", "CallEnded"), ("agent.onboarded", "AgentOnboarded")]
)
def test_an_events_table_names_each_field(kind: str, name: str) -> None:
    rows = rows_under(f"### The fields of `{kind}`")
    schema = SCHEMAS[name]
    assert set(rows) == set(schema["properties"])
    assert {field for field, row in rows.items() if "**required**" in row[0]} == set(schema["required"])


def test_each_field_of_an_event_has_a_sentence() -> None:
    fields = {field for name in ("CallEnded", "AgentOnboarded") for field in SCHEMAS[name]["properties"]}
    assert fields == FIELDS.keys()


def test_the_headers_of_a_dead_letter_are_named() -> None:
    assert rows_under("## In the dead letters").keys() == OUR_HEADERS


def test_the_webhooks_headers_are_named() -> None:
    described = asyncapi(BrokerCommandSettings())["components"]["messages"]["callEnrichedWebhook"]["headers"]
    assert list(rows_under("## On the webhook")) == list(described["properties"])


# --- publishing -----------------------------------------------------------------------------------

COMMANDS = {
    "python": [sys.executable, "-"],
    "shell": ["/bin/sh", "-s"],
    "php": [shutil.which("php") or "php"],
}
MISSING = {
    "python": False,
    "shell": shutil.which("amqp-publish") is None,
    "php": shutil.which("php") is None or not PHP_LIBRARY.exists(),
}


def run(command: list[str], code: str, settings: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command,
        input=code.encode(),
        env={**os.environ, **settings},
        capture_output=True,
        timeout=30,
        check=False,
    )


@pytest.mark.broker
@pytest.mark.parametrize(
    ("kind", "event_type"),
    [
        ("python", EventType.CALL_ENDED),
        ("shell", EventType.AGENT_ONBOARDED),
        ("php", EventType.CALL_ENDED),
    ],
    ids=["python", "shell", "php"],
)
async def test_a_program_publishes_an_event(
    kind: str, event_type: EventType, broker_url: str, namespace: str
) -> None:
    if MISSING[kind]:
        skip_without(f"what the {kind} example needs is not installed here; see `python -m tests.tools`")
    code = example(EVENTS_PAGE, kind).replace("crm-sync.events", f"{namespace}.events")
    code = code.replace("require 'vendor/autoload.php';", f"require '{PHP_LIBRARY}';")
    async with await aio_pika.connect(broker_url) as connection:
        channel = await connection.channel()
        exchange = await channel.declare_exchange(f"{namespace}.events", "topic", durable=True)
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(exchange, event_type)
        done = await asyncio.to_thread(run, COMMANDS[kind], code, {"CRM_SYNC_BROKER__URL": broker_url})
        assert done.returncode == 0, done.stderr.decode()
        message = await queue.get(timeout=10)
        await message.ack()
    event = decode(to_inbound(message.body, message.properties, message.routing_key or ""))
    assert event.type is event_type


# --- the start page -------------------------------------------------------------------------------


@pytest.mark.system
async def test_the_start_page_leads_to_a_delivered_call(
    broker_url: str, namespace: str, tmp_path: Path
) -> None:
    """Its blocks, one after the other, as a person types them; only the addresses are this test's."""
    dialer, crm = Program("dialer"), Program("crm")
    settings = example(START_PAGE, "settings")
    for shown, real in (
        ("amqp://crm-sync:password@rabbitmq.example:5672/", broker_url),
        ("password-of-the-API-user", PASSWORD),
        ("https://dialer.example/vicidial/non_agent_api.php", dialer.url),
        ("https://crm.example/hooks/calls", crm.url),
    ):
        assert settings.count(shown) == 1
        settings = settings.replace(shown, real)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    command = tmp_path / ".venv/bin/crm-sync"
    command.write_text(f'#!/bin/sh\nexec {" ".join(crm_sync())} "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    ours = {
        "CRM_SYNC_BROKER__NAMESPACE": namespace,
        "CRM_SYNC_HTTP__PORT": "0",
        "CRM_SYNC_HTTP__HOST": "127.0.0.1",
    }

    def type_in(block: str) -> subprocess.Popen[str]:
        lines = [
            "set -e",
            again if (tmp_path / "secrets").exists() else settings,
            f"exec {example(START_PAGE, block)}",
        ]
        return subprocess.Popen(
            ["/bin/sh", "-c", "\n".join(lines)],
            cwd=tmp_path,
            env=environment(ours),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    again = "\n".join(line for line in settings.splitlines() if line.startswith("export "))
    worker = None
    try:
        await dialer.control(password={"crmsync": PASSWORD})
        check = type_in("check")
        said, _ = await asyncio.to_thread(check.communicate)
        assert check.returncode == 0, said
        await crm.control(secret=(tmp_path / "secrets/sink__signing_secret").read_text().strip(), forget=True)
        worker = type_in("run")
        await asyncio.to_thread(wait_for, worker, "consuming")
        publish = type_in("publish")
        said, _ = await asyncio.to_thread(publish.communicate)
        assert publish.returncode == 0, said
        settled = json.loads(await asyncio.to_thread(wait_for, worker, '"event_settled"'))
        assert settled["outcome"] == "delivered"
        (received,) = (await crm.report())["received"]
        assert received["verified"]
        assert json.loads(received["body"])["data"]["call"]["status"] == "SALE"
    finally:
        if worker is not None:
            worker.terminate()
            await asyncio.to_thread(worker.communicate)
        dialer.end()
        crm.end()


def wait_for(process: subprocess.Popen[str], words: str) -> str:
    """Read lines until one holds the words."""
    said = []
    for line in process.stdout or ():
        said.append(line)
        if words in line:
            return line
    raise AssertionError(said)
