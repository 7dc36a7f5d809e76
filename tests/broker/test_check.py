"""`check` finds out whether a worker could do its work from here, and harms nobody while it does."""

import asyncio
import json
import re
import shlex
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from zoneinfo import ZoneInfo

import aio_pika
import pytest
import yaml
from pydantic import SecretStr
from rich.console import Console
from standardwebhooks import Webhook
from typer.testing import CliRunner

from simulators.broker_node import PrivateBroker
from simulators.crm import StandInCrm
from simulators.dialer import DEFAULT_PASSWORD, DEFAULT_USER, ApiUser, StandInDialer
from simulators.stand_in import Fault
from tests.adapters.raw import Connection, RawServer
from worker import check
from worker.check import Finding, Level, worst
from worker.check.broker import about_version
from worker.check.dialer import about_waiting, check_clock, describe
from worker.check.webhook import about_answer, about_end, check_webhook
from worker.cli import app
from worker.commands import check as command
from worker.commands import terminal
from worker.rabbitmq.connection import address
from worker.rabbitmq.topology import build_topology, declare
from worker.settings import Settings, load
from worker.settings.show import InForce
from worker.vicidial.clock import read_version

pytestmark = pytest.mark.broker

FUNCTIONS = ("callid_info", "agent_campaigns", "recording_lookup", "campaigns_list", "user_details")


@pytest.fixture
async def dialer() -> AsyncIterator[StandInDialer]:
    async with StandInDialer() as opened:
        yield opened


@pytest.fixture
async def crm() -> AsyncIterator[StandInCrm]:
    async with StandInCrm() as opened:
        yield opened


@pytest.fixture
def environment(
    broker_url: str, namespace: str, dialer: StandInDialer, crm: StandInCrm, monkeypatch: pytest.MonkeyPatch
) -> pytest.MonkeyPatch:
    monkeypatch.setenv("CRM_SYNC_BROKER__URL", broker_url)
    monkeypatch.setenv("CRM_SYNC_BROKER__NAMESPACE", namespace)
    monkeypatch.setenv("CRM_SYNC_VICIDIAL__URL", dialer.url)
    monkeypatch.setenv("CRM_SYNC_VICIDIAL__USER", DEFAULT_USER)
    monkeypatch.setenv("CRM_SYNC_VICIDIAL__PASSWORD", DEFAULT_PASSWORD)
    monkeypatch.setenv("CRM_SYNC_SINK__URL", crm.url)
    return monkeypatch


@pytest.fixture
def free_port() -> Iterator[int]:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]  # bound, yet nobody listens


async def findings(*, ping: bool = False, deadline: float = check.DEADLINE) -> dict[str, Finding]:
    found = [finding async for finding in check.run(load(Settings), ping=ping, deadline=deadline)]
    by_name = {finding.name: finding for finding in found}
    assert len(by_name) == len(found), "one finding a subject"
    return by_name


def levels(found: dict[str, Finding]) -> dict[str, str]:
    return {name: finding.level.value for name, finding in found.items()}


SUBJECTS = ["settings", "broker", "permissions", "topology", "alarms", "dialer", "clock", "sink"]


async def test_all_is_well(environment: pytest.MonkeyPatch, dialer: StandInDialer, crm: StandInCrm) -> None:
    found = await findings()
    assert list(found) == SUBJECTS
    assert all(finding.level is Level.OK and not finding.advice for finding in found.values()), found
    assert worst(found.values()) is Level.OK
    assert "logged in; " in found["broker"].text
    assert found["topology"].text == "21 of 21 exchanges and queues missing, which run declares"
    assert found["alarms"].text == "none; the broker accepts messages"
    assert found["dialer"].text.startswith("VICIdial 2.14-")
    assert found["dialer"].text.endswith(
        "may use callid_info, agent_campaigns, recording_lookup, campaigns_list, user_details"
    )
    assert re.fullmatch(r"the dialer's is at UTC\S+, \d s (ahead of|behind) this host's", found["clock"].text)
    assert found["sink"].text.endswith(" reached; deliveries are not signed")
    assert dict(dialer.asked) == dict.fromkeys(["version", *FUNCTIONS], 1)
    assert crm.deliveries == 0


async def test_the_topology_stands_or_differs(environment: pytest.MonkeyPatch, namespace: str) -> None:
    settings = load(Settings)
    async with await aio_pika.connect(settings.broker.url[0].get_secret_value()) as connection:
        await declare(connection, build_topology(settings))
        topology = (await findings())["topology"]
        assert topology == Finding.of("topology", "all 21 exchanges and queues are as the settings want them")
        async with connection.channel() as channel:
            await channel.queue_delete(f"{namespace}.retry.5s")
            await channel.declare_queue(f"{namespace}.retry.5s", durable=True)
    found = await findings()
    assert levels(found)["topology"] == "failed"
    assert worst(found.values()) is Level.FAILED
    assert f"queue {namespace}.retry.5s: x-message-ttl is not set, wanted 5000" in found["topology"].advice


@pytest.mark.parametrize(
    ("version", "level", "said"),
    [
        ("3.9.29", "failed", "too old: upgrade to 3.10 or later"),
        ("3.10.8", "ok", "requeueing an event counts towards its delivery limit of 20 before 4.3"),
        ("4.2.1", "ok", "requeueing an event counts towards its delivery limit of 20 before 4.3"),
        ("4.3.0-rc.1", "ok", "requeueing it does not"),
        ("5.0", "ok", "requeueing it does not"),
        ("of unknown version", "warning", "made for RabbitMQ 3.10 or later"),
    ],
)
def test_what_the_brokers_version_implies(version: str, level: str, said: str) -> None:
    finding = about_version("RabbitMQ", version, "broker.example:5672")
    assert finding.level == level
    assert said in " ".join([finding.text, *finding.advice])
    assert finding.text.startswith(f"RabbitMQ {version} at broker.example:5672, logged in")


def test_another_broker_is_a_warning() -> None:
    assert about_version("LavinMQ", "2.4.0", "b:5672").level is Level.WARNING


# --- the broker's permissions and alarms ----------------------------------------------------------


@pytest.fixture
async def limited(
    environment: pytest.MonkeyPatch, node: PrivateBroker, namespace: str
) -> AsyncIterator[PrivateBroker]:
    """Yield a node on which the user of the namespace's name, as whom `check` logs in, may do nothing yet."""
    await node.ctl("add_user", namespace, "Broker-Pass-1")
    environment.setenv("CRM_SYNC_BROKER__URL", node.url.replace("guest:guest", f"{namespace}:Broker-Pass-1"))
    yield node
    await node.ctl("delete_user", namespace)


async def standing(node: PrivateBroker) -> list[str]:
    what = ("list_exchanges", "list_queues", "list_bindings")
    return [await node.ctl(command) for command in what]


MISSING = {
    "configure": ("", "x", "x"),
    "write": ("x", "", "x"),
    "read": ("x", "x", ""),
    "configure, nor write, nor read": ("", "", ""),
}


@pytest.mark.timeout(400)  # rabbitmqctl takes a second of CPU and more each time: it is run 13 times
async def test_a_missing_permission_is_named_with_the_command_that_mends_it(
    environment: pytest.MonkeyPatch, limited: PrivateBroker, namespace: str
) -> None:
    everything = rf"^{namespace}\..*"
    command: list[str] = []
    before = await standing(limited)
    for lacking, allowed in MISSING.items():
        await limited.ctl("set_permissions", namespace, *[everything if each else "^$" for each in allowed])
        found = await findings()
        permissions = found["permissions"]
        assert permissions.level is Level.FAILED
        named = lacking.replace(",", f" {namespace}.*,") + f" {namespace}.*"
        assert permissions.text == f"user {namespace} may not {named}"
        assert levels(found)["broker"] == levels(found)["alarms"] == "ok"
        # From RabbitMQ 4.3 on, a user without any permission on a queue may not compare it either.
        may_look = {"ok"} if any(allowed) else {"ok", "warning"}
        assert levels(found)["topology"] in may_look
        (advice,) = permissions.advice
        command = shlex.split(advice.partition(": ")[2])
        assert command == ["rabbitmqctl", "set_permissions", "-p", "/", namespace, *[everything] * 3]
    assert await standing(limited) == before
    await limited.ctl(*command[1:])
    assert (await findings())["permissions"] == Finding.of(
        "permissions", f"user {namespace} may configure, write and read {namespace}.*"
    )


async def test_exchanges_outside_the_namespace_need_permissions_of_their_own(
    environment: pytest.MonkeyPatch, limited: PrivateBroker, namespace: str
) -> None:
    environment.setenv("CRM_SYNC_BROKER__EVENTS_EXCHANGE", "telephony.events")
    environment.setenv("CRM_SYNC_SINK__KIND", "queue")
    environment.setenv("CRM_SYNC_SINK__EXCHANGE", "theirs")
    await limited.ctl("set_permissions", namespace, *[rf"^{namespace}\..*"] * 3)
    permissions = (await findings())["permissions"]
    assert permissions.text == f"user {namespace} may not read telephony.events, nor write theirs"
    command = shlex.split(permissions.advice[0].partition(": ")[2])
    assert command[-1] == rf"^({namespace}\..*|telephony\.events|theirs)$"
    await limited.ctl(*command[1:])
    found = (await findings())["permissions"]
    assert found.text.endswith(f"may configure, write and read {namespace}.*, telephony.events, theirs")
    assert found.level is Level.OK


async def test_a_topology_that_may_not_be_compared_is_a_warning(
    environment: pytest.MonkeyPatch, limited: PrivateBroker, namespace: str
) -> None:
    settings = load(Settings)
    async with await aio_pika.connect(limited.url) as connection:
        await declare(connection, build_topology(settings))
    await limited.ctl("set_permissions", namespace, "^$", ".*", ".*")
    topology = (await findings())["topology"]
    assert topology.level is Level.WARNING
    assert topology.text.startswith("can't be compared with the settings: ACCESS_REFUSED")


async def test_a_refused_virtual_host(
    environment: pytest.MonkeyPatch, limited: PrivateBroker, namespace: str
) -> None:
    found = await findings()
    assert levels(found) == dict.fromkeys(["settings", "dialer", "clock", "sink"], "ok") | {
        "broker": "failed"
    }
    assert "check the virtual host in broker.url" in found["broker"].text


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "before the first start"])
async def test_an_alarm_that_blocks_publishing_is_named(
    environment: pytest.MonkeyPatch, node: PrivateBroker, *, declared: bool
) -> None:
    environment.setenv("CRM_SYNC_BROKER__URL", node.url)
    if declared:
        async with await aio_pika.connect(node.url) as connection:
            await declare(connection, build_topology(load(Settings)))
    await node.ctl("set_vm_memory_high_watermark", "0.0000001")
    try:
        found = await findings()
    finally:
        await node.ctl("set_vm_memory_high_watermark", "0.4")
    assert levels(found)["alarms"] == "failed"
    assert "because of an alarm" in found["alarms"].text
    assert "rabbitmq-diagnostics alarms" in found["alarms"].advice[0]
    assert [name for name, level in levels(found).items() if level != "ok"] == ["alarms"]


# --- the dialer -----------------------------------------------------------------------------------


async def test_a_refused_login_is_not_repeated(
    environment: pytest.MonkeyPatch, dialer: StandInDialer
) -> None:
    environment.setenv("CRM_SYNC_VICIDIAL__PASSWORD", "not-the-password")
    every = await findings()
    found = every["dialer"]
    assert found.level is Level.FAILED
    assert every["clock"].level is Level.OK, "that needs no login"
    assert found.text.startswith("VICIdial 2.14-")
    assert "LOGIN INCORRECT" in found.advice[0]
    assert found.advice[1] == "agent_campaigns: not tried, since refused logins lock the API user"
    assert dialer.failed_logins == 1
    assert dict(dialer.asked) == {"version": 1, "callid_info": 1}


async def test_a_dialer_that_is_down_is_asked_once(
    environment: pytest.MonkeyPatch, dialer: StandInDialer
) -> None:
    dialer.fault = "500"
    every = await findings()
    found = every["dialer"]
    assert (found.level, found.text) == ("failed", "the dialer's web server answered 500 instead of 200")
    assert found.advice[0].endswith(f"curl '{dialer.url}?function=version'")
    assert "clock" not in every
    assert dialer.served == 1


TOLD = "VERSION: 2.14-202|BUILD: 250720-1841|DATE: 2026-11-22 02:09:58|EPOCH: 1795331398|DST: 0|"
NOW = 1795331398.0


@pytest.mark.parametrize(
    ("answered", "zone", "now", "text", "advice"),
    [
        (TOLD, None, NOW, "the dialer's is at UTC-05:00, 0 s ahead of this host's", ()),
        (TOLD, "America/New_York", NOW + 1, "the dialer's is at UTC-05:00, 0 s ahead of this host's", ()),
        (
            *(TOLD, "Asia/Kolkata", NOW, "the dialer's is at UTC-05:00, 0 s ahead of this host's"),
            ("vicidial.timezone (Asia/Kolkata) is at UTC+05:30 now, so times may be wrong; check it",),
        ),
        (
            *(TOLD, None, NOW + 100.4, "the dialer's is at UTC-05:00, 100 s behind this host's"),
            ("set both by NTP: the age of an event is measured between the two",),
        ),
        (
            *("ERROR: NO FUNCTION SPECIFIED", None, NOW, "the dialer reports no offset from UTC"),
            ("set vicidial.timezone; until then the calls' times are null",),
        ),
        (
            *("ERROR: NO FUNCTION SPECIFIED", "UTC", NOW),
            *("the dialer reports no offset from UTC", ()),
        ),
    ],
    ids=["right", "in its zone", "in another zone", "late", "unknown", "unknown, but set"],
)
def test_the_dialers_clock(
    environment: pytest.MonkeyPatch,
    answered: str,
    zone: str | None,
    now: float,
    text: str,
    advice: tuple[str, ...],
) -> None:
    chosen = None if zone is None else ZoneInfo(zone)
    settings = load(Settings).vicidial.model_copy(update={"timezone": chosen})
    assert check_clock(read_version(answered), settings, now) == Finding.of("clock", text, warnings=advice)


def test_what_answers_is_described_without_what_may_be_secret(environment: pytest.MonkeyPatch) -> None:
    settings = load(Settings).vicidial.model_copy(
        update={"url": "https://me:hush@dialer.example/x?pass=hush"}
    )
    assert describe(read_version(TOLD), settings) == "VICIdial 2.14-202, build 250720-1841"
    assert describe(read_version("ERROR: NO FUNCTION SPECIFIED"), settings) == (
        "something at https://***@dialer.example/x?*** answers, but reports no version"
    )


async def test_what_the_api_user_may_not_ask_is_a_warning_that_says_what_is_lost(
    environment: pytest.MonkeyPatch, dialer: StandInDialer
) -> None:
    dialer.users["modest"] = ApiUser("Modest-Pass-1", functions=frozenset(FUNCTIONS[:2]))
    environment.setenv("CRM_SYNC_VICIDIAL__USER", "modest")
    environment.setenv("CRM_SYNC_VICIDIAL__PASSWORD", "Modest-Pass-1")
    environment.setenv("CRM_SYNC_VICIDIAL__USER_DETAILS", "false")
    found = (await findings())["dialer"]
    assert found.level is Level.WARNING
    assert found.text.endswith("may use callid_info, agent_campaigns")
    recordings, campaigns = found.advice
    assert recordings.startswith("recording_lookup: the dialer says")
    assert recordings.endswith("until then recordings are null")
    assert "API Allowed Functions" in campaigns
    assert dialer.count("user_details") == 0


async def test_a_missing_permission_for_calls_does_not_keep_agents_from_being_tried(
    environment: pytest.MonkeyPatch, dialer: StandInDialer
) -> None:
    dialer.users["agents"] = ApiUser("Agents-Pass-1", functions=frozenset({"agent_campaigns"}))
    environment.setenv("CRM_SYNC_VICIDIAL__USER", "agents")
    environment.setenv("CRM_SYNC_VICIDIAL__PASSWORD", "Agents-Pass-1")
    found = (await findings())["dialer"]
    assert found.level is Level.FAILED
    refused = ["callid_info", "recording_lookup", "campaigns_list", "user_details"]
    assert [advice.partition(": the dialer says")[0] for advice in found.advice] == refused
    assert found.text.endswith("; may use agent_campaigns")


async def test_what_vicidial_would_make_of_the_settings_is_named(
    environment: pytest.MonkeyPatch, dialer: StandInDialer
) -> None:
    environment.setenv("CRM_SYNC_VICIDIAL__PASSWORD", f"{DEFAULT_PASSWORD}!&")
    environment.setenv("CRM_SYNC_VICIDIAL__MAX_CONCURRENCY", "10")
    environment.setenv("CRM_SYNC_CIRCUIT_BREAKERS__REFUSED_PROBE", "1m")
    found = await findings()
    assert levels(found)["settings"] == "warning"
    assert levels(found)["dialer"] == "warning"  # VICIdial drops the two characters: the rest is the password
    dropped, locking = found["dialer"].advice
    assert dropped.startswith("vicidial.password has characters that VICIdial drops silently")
    assert locking.startswith("vicidial.max_concurrency is 10")
    assert found["settings"].advice[0].startswith("circuit_breakers.refused_probe is shorter than 5m")


async def test_more_events_in_hand_than_a_slow_dialer_answers_in_30_minutes_are_a_warning(
    environment: pytest.MonkeyPatch, dialer: StandInDialer
) -> None:
    dialer.delay = 0.2
    environment.setenv("CRM_SYNC_MAX_IN_FLIGHT", "10000")
    found = (await findings())["dialer"]
    assert found.level is Level.WARNING
    assert re.search(
        r"an answer took 0\.\d s, so with max_in_flight 10000 the last of the .* \d+ min", found.advice[0]
    )


@pytest.mark.parametrize(
    ("seconds", "max_in_flight", "most"),
    [
        (9.9, 64, None),
        (9.9, 100, 90),
        (2.0, 500, 450),
        (0.1, 10_000, 9000),
        (0.005, 10_000, None),
        (3000.0, 1, 1),
    ],
)
def test_how_many_events_may_be_in_hand_for_a_dialer_so_slow(
    seconds: float, max_in_flight: int, most: int | None
) -> None:
    warnings = about_waiting(seconds, max_in_flight)
    assert len(warnings) == (most is not None)
    if most is not None:
        assert f"set max_in_flight to at most {most}," in warnings[0]


@pytest.mark.parametrize("level", Level)
def test_a_warning_makes_no_failure_of_what_is_well_nor_hides_one(level: Level) -> None:
    found = Finding("dialer", level, "text", ("advice",))
    assert found.with_warnings([]) == found
    more = found.with_warnings(["slow"])
    assert more.advice == ("advice", "slow")
    assert more.level is (Level.FAILED if level is Level.FAILED else Level.WARNING)


async def test_a_password_that_would_go_unencrypted_is_a_warning(
    environment: pytest.MonkeyPatch, dialer: StandInDialer
) -> None:
    environment.setenv("CRM_SYNC_VICIDIAL__URL", dialer.url.replace("127.0.0.1", "0.0.0.0"))  # noqa: S104 - this host
    found = (await findings())["dialer"]
    assert found.level is Level.WARNING
    assert found.advice == ("the password and the calls' data go unencrypted; use https in vicidial.url",)


async def test_nobody_is_there(environment: pytest.MonkeyPatch, free_port: int) -> None:
    environment.setenv("CRM_SYNC_BROKER__URL", f"amqp://guest:hush-hush@127.0.0.1:{free_port}/")
    environment.setenv("CRM_SYNC_VICIDIAL__URL", f"http://127.0.0.1:{free_port}/")
    environment.setenv("CRM_SYNC_SINK__URL", f"https://127.0.0.1:{free_port}/hook")
    environment.setenv("CRM_SYNC_DRAIN", "1s")
    found = await findings()
    assert levels(found) == {"settings": "warning"} | dict.fromkeys(["broker", "dialer", "sink"], "failed")
    assert "drain (1 s) is shorter than the longest request (15 s)" in found["settings"].advice[0]
    assert "the broker can't be reached" in found["broker"].text
    assert "the dialer can't be reached" in found["dialer"].text
    assert found["sink"].text.startswith(f"127.0.0.1:{free_port}: ")
    assert "hush-hush" not in str(found)


async def test_each_node_that_cant_be_reached_is_named(
    environment: pytest.MonkeyPatch, broker_url: str, free_port: int
) -> None:
    gone = f"amqp://guest:hush-hush@127.0.0.1:{free_port}/"
    refusing = broker_url.replace("guest:guest", "guest:hush-hush")
    environment.setenv("CRM_SYNC_BROKER__URL", f"{gone},{refusing},{broker_url}")
    found = await findings()
    assert levels(found)["broker"] == "warning"
    assert f"at {address(SecretStr(broker_url))}, logged in" in found["broker"].text
    first, second = found["broker"].advice
    assert first.startswith(f"127.0.0.1:{free_port}: the broker can't be reached")
    assert "the broker refused the login" in second
    assert levels(found)["alarms"] == "ok"
    assert "hush-hush" not in str(found)


async def test_no_node_can_be_reached(environment: pytest.MonkeyPatch, free_port: int) -> None:
    urls = [f"amqp://guest:hush-hush@127.0.0.{n}:{free_port}/" for n in (1, 2)]
    environment.setenv("CRM_SYNC_BROKER__URL", ",".join(urls))
    found = (await findings())["broker"]
    assert found.level is Level.FAILED
    assert all(f"127.0.0.{n}:{free_port}: the broker can't be reached" in found.text for n in (1, 2))
    assert "hush-hush" not in str(found)


async def test_the_broker_refuses_the_login(environment: pytest.MonkeyPatch, broker_url: str) -> None:
    environment.setenv("CRM_SYNC_BROKER__URL", broker_url.replace("guest:guest", "guest:hush-hush"))
    environment.setenv("CRM_SYNC_SINK__KIND", "queue")
    found = await findings()
    assert "refused the login" in found["broker"].text
    assert "refused the login" in found["sink"].text
    assert (found["broker"].level, found["sink"].level) == (Level.FAILED, Level.FAILED)
    assert "hush-hush" not in str(found)


async def test_the_outbound_exchange(environment: pytest.MonkeyPatch, namespace: str) -> None:
    environment.setenv("CRM_SYNC_SINK__KIND", "queue")
    found = await findings()
    assert found["sink"] == Finding.of("sink", f"exchange {namespace}.enriched is missing; run declares it")
    settings = load(Settings)
    async with await aio_pika.connect(settings.broker.url[0].get_secret_value()) as connection:
        await declare(connection, build_topology(settings))
    assert (await findings())["sink"].text == f"exchange {namespace}.enriched exists"


async def test_a_host_without_a_name(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("CRM_SYNC_SINK__URL", "https://no-such-host.invalid/hook")
    found = await findings(ping=True)
    assert (found["sink"].level, found["sink"].text) == ("failed", "there is no host no-such-host.invalid")
    assert {"tls", "ping"}.isdisjoint(found)


async def test_no_tls_where_https_is_said(environment: pytest.MonkeyPatch, crm: StandInCrm) -> None:
    environment.setenv("CRM_SYNC_SINK__URL", crm.url.replace("http://", "https://"))
    found = await findings(ping=True)
    assert levels(found)["sink"] == "ok"
    assert found["tls"].level is Level.FAILED
    assert "no TLS handshake" in found["tls"].text
    assert found["tls"].advice == ("check the port and https or http in sink.url",)
    assert "ping" not in found, "nothing is delivered to it either"


async def test_a_handshake_that_is_never_answered(environment: pytest.MonkeyPatch) -> None:
    async with RawServer(Connection.gone) as server:
        environment.setenv("CRM_SYNC_SINK__URL", f"https://127.0.0.1:{server.port}/hook")
        found = [each async for each in check_webhook(load(Settings), ping=False, within=0.3)]
    assert found[-1].text == "no TLS handshake within 0.3 s"


@pytest.mark.usefixtures("environment")
async def test_a_host_that_accepts_no_connection_in_time() -> None:
    (found,) = [each async for each in check_webhook(load(Settings), ping=False, within=0.0)]
    assert found.text.endswith(": no connection within 0 s")


async def test_payloads_that_would_go_unencrypted_are_a_warning(
    environment: pytest.MonkeyPatch, crm: StandInCrm
) -> None:
    environment.setenv("CRM_SYNC_SINK__URL", crm.url.replace("127.0.0.1", "0.0.0.0"))  # noqa: S104 - this host
    sink = (await findings())["sink"]
    assert sink.level is Level.WARNING
    assert sink.advice == ("payloads go unencrypted; use https in sink.url",)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a certificate for `localhost` that nobody vouches for, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    names = ["-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*command, *names, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key


async def test_a_certificate_is_verified(
    environment: pytest.MonkeyPatch, certificate: tuple[Path, Path]
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)

    async def hang_up(_reader: object, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(hang_up, "localhost", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        environment.setenv("CRM_SYNC_SINK__URL", f"https://localhost:{port}/hook")
        environment.setenv("CRM_SYNC_SINK__SIGNING_SECRET", "whsec_aGVsbG8gaGVsbG8gaGVsbG8gaGVsbG8gaGVsbG8=")
        refused = (await findings())["tls"]
        assert refused.level is Level.FAILED
        assert "localhost can't be verified (self" in refused.text
        environment.setenv("SSL_CERT_FILE", str(certificate[0]))
        found = await findings()
        address = "127.0.0.1" if "127.0.0.1" in found["sink"].text else "::1"
        assert found["sink"].text == f"localhost:{port} ({address}) reached; deliveries are signed"
        assert found["tls"].text == "the certificate of localhost is verified, and good for 1 day more"
        assert found["tls"].level is Level.WARNING


@pytest.mark.parametrize(("days", "level"), [(0.5, "warning"), (13.9, "warning"), (14, "ok"), (90, "ok")])
def test_a_certificate_that_ends_within_a_fortnight_is_a_warning(days: float, level: str) -> None:
    finding = about_end("crm.example", days * 86400)
    assert finding.level == level
    assert f" good for {int(days)} days more" in finding.text


# --- the ping -------------------------------------------------------------------------------------

EXAMPLE = yaml.safe_load(
    (Path(__file__).parents[2] / "k8s" / "secret.example.yaml").read_text(encoding="utf-8")
)
SIGNING_SECRET = "whsec_aGVsbG8gaGVsbG8gaGVsbG8gaGVsbG8gaGVsbG8="


async def test_a_ping_is_signed_like_a_delivery(environment: pytest.MonkeyPatch, crm: StandInCrm) -> None:
    environment.setenv("CRM_SYNC_SINK__SIGNING_SECRET", SIGNING_SECRET)
    assert "ping" not in await findings()
    assert crm.deliveries == 0, "not without --ping"
    found = (await findings(ping=True))["ping"]
    assert found == Finding.of("ping", "the receiver answered 200: it accepts what we send")
    (received,) = crm.received
    body = Webhook(SIGNING_SECRET).verify(received.body, dict(received.headers))
    assert (body["type"], body["data"], body.keys()) == ("ping", {}, {"type", "timestamp", "data"})
    assert re.fullmatch(r"ping-[0-9a-f-]{36}", received.id)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", body["timestamp"])


async def test_the_signing_secret_of_the_example_is_a_warning(
    environment: pytest.MonkeyPatch, crm: StandInCrm
) -> None:
    environment.setenv("CRM_SYNC_SINK__SIGNING_SECRET", EXAMPLE["stringData"]["sink__signing_secret"])
    found = (await findings())["sink"]
    assert found.level is Level.WARNING
    assert found.advice[0].startswith("sink.signing_secret is the example's, which everybody knows; make one")
    assert crm.deliveries == 0


async def test_a_receiver_that_speaks_no_http_is_a_failure(
    environment: pytest.MonkeyPatch, crm: StandInCrm
) -> None:
    crm.fault = "not_http"
    found = (await findings(ping=True))["ping"]
    assert (found.level, found.text) == ("failed", "the receiver's answer is not HTTP")
    assert found.advice == ("check the host and the port in sink.url",)


async def test_a_signature_that_does_not_fit_is_a_failure(
    environment: pytest.MonkeyPatch, crm: StandInCrm
) -> None:
    crm.secret = "whsec_b3RoZXIgb3RoZXIgb3RoZXIgb3RoZXIgb3RoZXI="
    environment.setenv("CRM_SYNC_SINK__SIGNING_SECRET", SIGNING_SECRET)
    found = (await findings(ping=True))["ping"]
    assert (found.level, found.text) == ("failed", "the receiver answered 401")
    assert "compare sink.signing_secret" in found.advice[0]


@pytest.mark.parametrize("fault", ["reset", "hang"])
async def test_a_receiver_that_does_not_answer_a_ping_fails(
    environment: pytest.MonkeyPatch, crm: StandInCrm, fault: Fault
) -> None:
    environment.setenv("CRM_SYNC_SINK__TIMEOUT", "300ms")
    crm.fault = fault
    found = (await findings(ping=True))["ping"]
    assert found.level is Level.FAILED
    assert found.text.startswith("the receiver did not answer (")


@pytest.mark.parametrize(
    ("statuses", "level"),
    [
        ((200, 202, 204, 409), "ok"),
        ((400, 404, 405, 415, 422, 501), "warning"),
        ((429,), "warning"),
        ((401, 403), "failed"),
        ((302, 307, 410, 500, 502, 503), "failed"),
    ],
)
def test_what_the_answer_to_a_ping_means(statuses: tuple[int, ...], level: str) -> None:
    for status in statuses:
        finding = about_answer(status, None, NOW)
        assert (finding.level, bool(finding.advice)) == (level, level != "ok"), status
        assert f"the receiver answered {status}" in finding.text
        assert ("does not support pings" in finding.text) == (level == "warning" and status != 429)


@pytest.mark.parametrize(
    ("date", "said"),
    [
        ("Sun, 22 Nov 2026 07:09:58 GMT", ()),
        ("Sun, 22 Nov 2026 07:19:58 GMT", ("its clock is 600 s ahead of this host's",)),
        ("Sun, 22 Nov 2026 07:04:58 GMT", ("its clock is 300 s behind this host's",)),
        ("yesterday", ()),
    ],
)
def test_a_receiver_with_another_clock_is_a_warning(date: str, said: tuple[str, ...]) -> None:
    finding = about_answer(200, date, NOW)
    assert tuple(advice.partition(":")[0] for advice in finding.advice) == said


# --- the whole ------------------------------------------------------------------------------------


async def test_a_check_that_hangs_ends(environment: pytest.MonkeyPatch) -> None:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        environment.setenv("CRM_SYNC_BROKER__URL", f"amqp://127.0.0.1:{port}/")
        found = await findings(deadline=0.5)
        assert (found["broker"].level, found["broker"].text) == ("failed", "no result within 0.5 s")
        assert found["dialer"].level is Level.OK
        await asyncio.sleep(0.1)  # the connection that was given up is closed


async def test_what_was_found_before_the_deadline_is_kept(
    environment: pytest.MonkeyPatch, dialer: StandInDialer
) -> None:
    async def hang(connection: Connection) -> None:
        await connection.request()
        await connection.gone()

    async with RawServer(hang) as server:
        environment.setenv("CRM_SYNC_SINK__URL", f"http://127.0.0.1:{server.port}/hook")
        found = await findings(ping=True, deadline=0.5)
    assert levels(found)["sink"] == "ok"
    assert found["ping"] == Finding("ping", Level.FAILED, "no result within 0.5 s", ("check the network",))


async def crm_sync(*arguments: str) -> tuple[int, str]:
    """Run the command as a process of its own, with this one's environment."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "worker", *arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 40)
    assert process.returncode is not None
    return process.returncode, output.decode()


async def test_the_command_where_all_is_well(environment: pytest.MonkeyPatch) -> None:
    code, said = await crm_sync("check", "--ping")
    lines = said.splitlines()
    assert code == 0, said
    assert [line.split()[:3] for line in lines[:-2]] == [["✓", "ok", name] for name in (*SUBJECTS, "ping")]
    assert lines[-2:] == ["", "all is well"]
    environment.setenv("CRM_SYNC_DRAIN", "1s")
    code, said = await crm_sync("check", "--json")
    document = json.loads(said)
    assert (code, document["worst"]) == (0, "warning"), "a warning is no failure"
    assert [each["level"] for each in document["findings"]] == ["warning", *["ok"] * (len(SUBJECTS) - 1)]
    code, said = await crm_sync("check", "--settings")
    assert code == 0
    table = said[said.index("\n1 warning\n") :].splitlines()
    assert table[3] == "SETTING\tVALUE\tSOURCE"
    assert "drain\t1s\tCRM_SYNC_DRAIN" in table
    assert "vicidial.password\t***\tCRM_SYNC_VICIDIAL__PASSWORD" in table


@pytest.fixture
def nobody_there(monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    """Settings that are right, with addresses at which nobody listens."""
    values = {
        "BROKER__URL": f"amqp://guest:hush-hush@127.0.0.1:{free_port}/",
        "VICIDIAL__URL": f"http://127.0.0.1:{free_port}/",
        "VICIDIAL__USER": "6666",
        "VICIDIAL__PASSWORD": "hush-hush",
        "SINK__URL": f"http://127.0.0.1:{free_port}/hush-hush",
        "DRAIN": "1s",
    }
    for name, value in values.items():
        monkeypatch.setenv(f"CRM_SYNC_{name}", value)


@pytest.mark.usefixtures("nobody_there")
def test_the_command_prints_a_line_each() -> None:
    result = CliRunner().invoke(app, ["check", "--settings"])
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    marks = [line.split()[:3] for line in lines if line[:1] in set("✓!✗")]
    failed = [["✗", "failed", name] for name in ("broker", "dialer", "sink")]
    assert marks == [["!", "warning", "settings"], *failed]
    advice = [line.strip() for line in lines if line.startswith(" " * 20)]
    assert "- check broker.url, that the broker runs, and that this host may reach it" in advice
    assert "3 failed, 1 warning" in lines
    assert "drain\t1s\tCRM_SYNC_DRAIN" in lines
    assert "vicidial.password\t***\tCRM_SYNC_VICIDIAL__PASSWORD" in lines
    assert "hush-hush" not in result.output


@pytest.mark.usefixtures("nobody_there")
def test_for_a_program_it_is_one_json_document() -> None:
    result = CliRunner().invoke(app, ["check", "--json"])
    assert result.exit_code == 1
    assert result.stderr == ""
    document = json.loads(result.stdout)
    assert document["worst"] == "failed"
    assert [(each["name"], each["level"]) for each in document["findings"]] == [
        *(("settings", "warning"), ("broker", "failed"), ("dialer", "failed"), ("sink", "failed"))
    ]
    assert all(each["text"] and each["advice"] for each in document["findings"])
    settings = {each["name"]: (each["value"], each["source"]) for each in document["settings"]}
    assert settings["drain"] == ("1s", "CRM_SYNC_DRAIN")
    assert settings["http.port"] == ("8080", "default")
    assert "hush-hush" not in result.stdout


def test_settings_that_can_not_be_used_are_json_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRM_SYNC_HTTP__PORT", "http")
    result = CliRunner().invoke(app, ["check", "--json"])
    assert (result.exit_code, result.stderr) == (2, "")
    document = json.loads(result.stdout)
    (finding,) = document["findings"]
    assert (document["worst"], finding["name"], finding["text"]) == (
        *("failed", "settings", "5 settings are wrong"),
    )
    assert any("CRM_SYNC_HTTP__PORT" in advice for advice in finding["advice"])


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Console:
    """Return a terminal of 80 columns."""
    console = Console(force_terminal=True, width=80, color_system=None, record=True, highlight=False)
    for module in (command, terminal):
        monkeypatch.setattr(module, "out", console)
    return console


def test_in_a_terminal_a_setting_is_a_line(screen: Console) -> None:
    command.show_settings(
        [InForce("drain", "90s", "CRM_SYNC_DRAIN"), InForce("http.port", "8080", "default")]
    )
    assert screen.export_text() == "\ndrain      90s  (CRM_SYNC_DRAIN)\nhttp.port  8080  (default)\n"


def test_in_a_terminal_the_text_stays_in_its_column(screen: Console) -> None:
    text = "see whether it answers, and what it says of itself when asked in earnest: " * 2
    command.show(Finding.of("permissions", text, problems=[text]))
    lines = screen.export_text().splitlines()
    assert lines[0].startswith("✗ failed   permissions  see whether")
    assert len(lines) > 4
    assert all(line.startswith(" " * 24) for line in lines[1:])
    assert all(len(line) <= 80 for line in lines)
