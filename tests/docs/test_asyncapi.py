"""The AsyncAPI document is valid, its examples fit, and so does every message that the system carries."""

import base64
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator, Draft202012Validator, FormatChecker
from pydantic import SecretStr
from typer.testing import CliRunner, Result

from simulators.crm import StandInCrm
from simulators.demo.scenario import CASES
from tests.core.inbounds import BLANKS
from tests.system.harness import Program, System, Worker
from tests.tools import need_asyncapi_schema
from worker.cli import app
from worker.commands.asyncapi import asyncapi
from worker.commands.event_schemas import EVENTS, payloads
from worker.core.errors import InvalidEvent
from worker.core.events import Inbound, decode
from worker.core.payload import schemas
from worker.rabbitmq.message import OUR_HEADERS, Header
from worker.rabbitmq.topology import Topology, build_topology
from worker.settings import BrokerCommandSettings, SinkSettings
from worker.sinks.webhook import WebhookSink, open_session

pytestmark = pytest.mark.verify

DRAFT_07 = {
    *("$ref", "type", "enum", "const", "format", "pattern", "minLength", "maxLength", "minimum", "items"),
    "maxItems",
    *("properties", "required", "additionalProperties", "anyOf", "description", "contentMediaType"),
}
"""Keywords of JSON Schema draft-07: with these alone, a tool that knows no later draft reads all of it."""
DOCUMENT = asyncapi(BrokerCommandSettings())
MESSAGES: dict[str, dict[str, Any]] = DOCUMENT["components"]["messages"]
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)

formats = FormatChecker(formats=())


@formats.checks("date-time", raises=ValueError)
def is_date_time(value: object) -> bool:
    """Insist on RFC 3339 with an offset (`jsonschema` needs a further package to do so by itself)."""
    return not isinstance(value, str) or datetime.fromisoformat(value).tzinfo is not None


def fits(schema: dict[str, Any], value: object) -> bool:
    """Hold a value against a schema of the document."""
    whole = {"allOf": [schema], "components": DOCUMENT["components"]}
    return Draft7Validator(whole, format_checker=formats).is_valid(value)


def references(part: object) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for inner in part.values():
            yield from references(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from references(inner)


# --- the document itself --------------------------------------------------------------------------


def test_it_is_an_asyncapi_3_document() -> None:
    schema = json.loads(need_asyncapi_schema().read_text(encoding="utf-8"))
    validator = Draft7Validator(schema)
    assert [error.message for error in validator.iter_errors(DOCUMENT)] == []
    for failed in (
        {**DOCUMENT, "asyncapi": "2.6.0"},
        {**DOCUMENT, "operations": {"x": {"action": "publish", "channel": {"$ref": "#/channels/webhook"}}}},
    ):
        assert not validator.is_valid(failed)


def test_every_reference_in_it_leads_somewhere_and_every_part_is_used() -> None:
    named = set(references(DOCUMENT))
    for reference in named:
        part: Any = DOCUMENT
        for step in reference.removeprefix("#/").split("/"):
            part = part[step]
    for kind in ("messages", "schemas", "securitySchemes"):
        for name in DOCUMENT["components"][kind]:
            assert f"#/components/{kind}/{name}" in named
    for kind in ("channels", "servers"):
        assert {f"#/{kind}/{name}" for name in DOCUMENT[kind]} <= named


def test_its_schemas_are_of_draft_07() -> None:
    def keywords(schema: dict[str, Any]) -> Iterator[str]:
        yield from schema
        inner = [*schema.get("anyOf", []), *schema.get("properties", {}).values()]
        inner += [
            schema[name] for name in ("items", "additionalProperties") if isinstance(schema.get(name), dict)
        ]
        for each in inner:
            yield from keywords(each)

    described = [*DOCUMENT["components"]["schemas"].values()]
    described += [message["headers"] for message in MESSAGES.values() if "headers" in message]
    assert len(described) > 10
    for schema in described:
        Draft7Validator.check_schema(schema)
        assert set(keywords(schema)) <= DRAFT_07


def test_its_examples_fit_their_messages() -> None:
    for name, message in MESSAGES.items():
        assert message["examples"], name
        for example in message["examples"]:
            assert fits(message["payload"], example["payload"]), name
            assert ("headers" in example) == ("headers" in message), name
            assert fits(message.get("headers", {}), example.get("headers")), name


def test_its_payload_schemas_are_those_that_the_crm_is_given() -> None:
    bad: dict[str, Any] = {"type": "call.enriched", "timestamp": "2026-11-20T19:07:14", "data": {}}
    for kind, payload in payloads().items():
        name = "callEnriched" if kind == "call.enriched" else "agentEnriched"
        for value, right in (
            (payload, True),
            ({**payload, "more": 1}, True),
            (bad, False),
            ({**payload, "data": {**payload["data"], "event": []}}, False),
        ):
            expected = Draft202012Validator(schemas()[kind], format_checker=formats).is_valid(value)
            assert fits(MESSAGES[name]["payload"], value) == expected == right


# --- its names ------------------------------------------------------------------------------------


def topology_of(**namespace: str) -> tuple[dict[str, Any], Topology, BrokerCommandSettings]:
    chosen = BrokerCommandSettings.model_validate({"broker": namespace, "sink": {"kind": "queue"}})
    return asyncapi(chosen), build_topology(chosen), chosen


@pytest.mark.parametrize(
    "namespace", [{}, {"namespace": "emea", "events_exchange": "telephony"}], ids=["", "other"]
)
def test_exchanges_queues_and_keys_are_those_on_the_broker(namespace: dict[str, str]) -> None:
    document, topology, chosen = topology_of(**namespace)
    channels = document["channels"]
    kinds = {exchange.name: exchange.kind for exchange in topology.exchanges}
    bound = {(binding.exchange, str(binding.key)) for binding in topology.bindings}
    queues = {queue.name: {"x-queue-type": "quorum"} | queue.arguments for queue in topology.queues}
    published, kept = {}, {}
    for channel in channels.values():
        binding = channel.get("bindings", {}).get("amqp", {})
        if binding.get("is") == "routingKey":
            assert binding["exchange"]["type"] == kinds[binding["exchange"]["name"]]
            published[channel["address"]] = binding["exchange"]["name"]
        elif binding.get("is") == "queue":
            assert channel["address"] == binding["queue"]["name"]
            kept[channel["address"]] = binding["x-arguments"]
    events = {str(key): exchange for exchange, key in bound if exchange == chosen.broker.events_exchange}
    assert published == events | dict.fromkeys(payloads(), topology.outbound_exchange)
    worked = [*topology.work_queues.values(), topology.dead_letters]
    assert kept == {name: queues[name] for name in worked}
    assert f"`{chosen.broker.namespace}.enriched`" in channels["callEnrichedPayloads"]["description"]
    assert f"{chosen.broker.namespace}.enriched" in queues


def test_what_it_receives_and_sends() -> None:
    found = {
        (operation["action"], operation["channel"]["$ref"].rpartition("/")[2])
        for operation in DOCUMENT["operations"].values()
    }
    assert found == {
        ("receive", "callEndedEvents"),
        ("receive", "agentOnboardedEvents"),
        ("receive", "callEndedQueue"),
        ("receive", "agentOnboardedQueue"),
        ("send", "deadLetters"),
        ("send", "callEnrichedPayloads"),
        ("send", "agentEnrichedPayloads"),
        ("send", "webhook"),
    }


def test_the_headers_of_a_dead_letter_are_ours() -> None:
    assert set(MESSAGES["deadLetter"]["headers"]["properties"]) == OUR_HEADERS


# --- what producers say ---------------------------------------------------------------------------

IDS = st.one_of(
    st.text(max_size=2),
    st.sampled_from(BLANKS),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.none(),
    st.booleans(),
)
SAID = {
    "type": st.sampled_from(["call.ended", "agent.onboarded"]),
    "event_id": st.one_of(
        st.sampled_from(["9f1c", "a b", "", "ü"]), st.integers(), st.none(), st.lists(IDS, max_size=1)
    ),
    "occurred_at": st.one_of(
        st.sampled_from(["2026-11-20T14:07:14-05:00", "2026-11-20 14:07:14"]), st.none(), st.just(5)
    ),
    "uniqueid": IDS,
    "lead_id": IDS,
    "campaign_id": IDS,
    "agent_user": IDS,
    "call_id": st.one_of(st.just("V1"), IDS),
    "expected_campaigns": st.one_of(st.lists(IDS, max_size=2), IDS),
    "status": IDS,
    "other": IDS,
}


@settings(max_examples=400)
@given(st.sampled_from(sorted(EVENTS)), st.fixed_dictionaries({}, optional=SAID))
def test_an_event_is_accepted_exactly_where_it_fits_its_schema(kind: str, event: dict[str, Any]) -> None:
    event["type"] = kind
    message = MESSAGES["callEnded" if kind == "call.ended" else "agentOnboarded"]
    try:
        decode(Inbound(json.dumps(event).encode(), kind, NOW, {}))
        accepted = True
    except InvalidEvent:
        accepted = False
    assert fits(message["payload"], event) == accepted


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.event_id)
def test_what_the_demo_publishes_fits_where_it_is_an_event(case: Any) -> None:  # noqa: ANN401 - the demo's own
    message = case.message(NOW)
    name = "callEnded" if case.kind == "call" else "agentOnboarded"
    name += {"structured": "CloudEvent", "binary": "BinaryCloudEvent"}.get(case.envelope, "")
    try:
        body = json.loads(message.body)
    except ValueError:
        assert case.envelope == "broken"
        return
    described = MESSAGES[name]
    assert message.content_type == described["contentType"]
    assert fits(described["payload"], body)
    assert fits(described.get("headers", {}), dict(message.headers))


# --- what the worker sends ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dialer() -> Iterator[Program]:
    program = Program("dialer")
    yield program
    program.end()


@pytest.fixture(scope="module")
def crm() -> Iterator[Program]:
    program = Program("crm")
    yield program
    program.end()


@pytest.fixture
async def system(
    broker_url: str, namespace: str, tmp_path: Path, dialer: Program, crm: Program
) -> AsyncIterator[System]:
    started: list[Worker] = []
    opened = System(broker_url, namespace, tmp_path, dialer, crm, started)
    yield opened
    await opened.end()


SECRET = "whsec_" + base64.b64encode(b"a key of at least 24 bytes").decode()


def ours(found: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what the broker adds."""
    return {name: value for name, value in found.items() if not name.startswith("x-")}


@pytest.mark.system
async def test_what_a_worker_delivers_and_gives_up_fits(system: System) -> None:
    await system.crm.control(secret=SECRET, forget=True)
    await system.start(sink__signing_secret=SECRET)
    call = await system.call(talk_seconds=9)
    agent = {"event_id": "agent-1", "agent_user": "1000", "expected_campaigns": ["SALES1"]}
    await system.publish(call)
    await system.publish(agent, "agent.onboarded")
    received = await system.delivered()
    for event_id, name in ((call["event_id"], "callEnrichedWebhook"), ("agent-1", "agentEnrichedWebhook")):
        (request,) = received[event_id]
        said = {
            name: value for name, value in request["headers"].items() if name.startswith(("webhook", "idemp"))
        }
        described = MESSAGES[name]
        assert set(said) == set(described["headers"]["properties"])
        assert fits(described["headers"], said)
        assert fits(described["payload"], json.loads(request["body"]))

    await system.crm.control(fail_ids={"refused-1": [422]})
    refused = await system.call()
    await system.publish(refused | {"event_id": "refused-1"})
    described = MESSAGES["deadLetter"]
    letter = await system.dead_letter()
    assert set(ours(letter.headers)) == OUR_HEADERS - {Header.PROGRESS}
    assert fits(described["headers"], dict(letter.headers))
    await system.publish(b"no JSON")
    invalid = await system.dead_letter()
    assert set(ours(invalid.headers)) == OUR_HEADERS - {Header.PROGRESS, Header.EVENT_ID, Header.ENRICHMENT}
    assert fits(described["headers"], dict(invalid.headers))


@pytest.mark.system
async def test_what_a_worker_publishes_fits(system: System) -> None:
    await system.start(sink__kind="queue", sink__url=None)
    event = await system.call()
    await system.publish(event)
    message = await system.take("enriched")
    described = MESSAGES["callEnriched"]
    assert (message.routing_key, message.type) == (
        "call.enriched",
        described["bindings"]["amqp"]["messageType"],
    )
    assert (message.message_id, message.content_type) == (event["event_id"], described["contentType"])
    assert fits(described["payload"], json.loads(message.body))
    assert ours(message.headers) == {}


async def test_a_ping_fits() -> None:
    async with StandInCrm(secret=SECRET) as crm:
        chosen = SinkSettings(url=SecretStr(crm.url), signing_secret=SecretStr(SECRET))
        async with open_session(chosen, 1) as session:
            await WebhookSink(chosen, session).ping()
    (seen,) = crm.received
    assert seen.verified
    assert fits(MESSAGES["ping"]["headers"], {name.lower(): value for name, value in seen.headers.items()})
    assert fits(MESSAGES["ping"]["payload"], seen.json)


# --- the command ----------------------------------------------------------------------------------


def crm_sync(*arguments: str, **environment: str) -> Result:
    return CliRunner(env=environment).invoke(app, ["schema", *arguments])


def test_the_command_prints_it_with_the_names_of_the_settings() -> None:
    assert yaml.safe_load(crm_sync("--asyncapi").stdout) == DOCUMENT
    other = crm_sync("--asyncapi", CRM_SYNC_BROKER__NAMESPACE="emea").stdout
    assert yaml.safe_load(other) == topology_of(namespace="emea")[0]
    assert "emea.dead-letters" in other
    assert "&id" not in other


def test_the_command_says_what_does_not_go_together(tmp_path: Path) -> None:
    for arguments, said in (
        (["call.enriched", "--asyncapi"], "leave TYPE out"),
        (["--config", str(tmp_path)], "without --asyncapi"),
    ):
        result = crm_sync(*arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert said in " ".join(result.stderr.replace("│", " ").split())
    assert crm_sync("--asyncapi", CRM_SYNC_BROKER__NAMESPACE="a b").exit_code == 2
