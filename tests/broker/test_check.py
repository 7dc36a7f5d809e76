"""`check` finds out whether a worker could do its work from here, and harms nobody while it does."""

import asyncio
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import aio_pika
import pytest
from typer.testing import CliRunner

from worker import check
from worker.check import Finding
from worker.check.dialer import about_clock, describe
from worker.cli import app
from worker.demo.crm import StandInCrm
from worker.demo.dialer import DEFAULT_PASSWORD, DEFAULT_USER, ApiUser, StandInDialer
from worker.rabbitmq.topology import declare, plan
from worker.settings import Settings, load
from worker.vicidial.version import read_version

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


async def findings() -> dict[str, Finding]:
    return {finding.name: finding async for finding in check.run(load(Settings))}


async def test_all_is_well(environment: pytest.MonkeyPatch, dialer: StandInDialer, crm: StandInCrm) -> None:
    found = await findings()
    assert list(found) == ["settings", "broker", "dialer", "sink"]
    assert all(finding.ok and not finding.advice for finding in found.values()), found
    assert "RabbitMQ" in found["broker"].text
    assert found["broker"].text.endswith("16 of 16 exchanges and queues missing, which run declares")
    assert found["dialer"].text.startswith("VICIdial 2.14-")
    assert found["dialer"].text.endswith(
        "may ask callid_info, agent_campaigns, recording_lookup, campaigns_list, user_details"
    )
    assert found["sink"].text.endswith("reached, without TLS; deliveries are not signed")
    assert dict(dialer.asked) == dict.fromkeys(["version", *FUNCTIONS], 1)
    assert crm.deliveries == 0


async def test_the_topology_stands_or_differs(environment: pytest.MonkeyPatch, namespace: str) -> None:
    settings = load(Settings)
    async with await aio_pika.connect(settings.broker.url.get_secret_value()) as connection:
        await declare(connection, plan(settings))
        assert (await findings())["broker"].text.endswith("the topology stands")
        async with connection.channel() as channel:
            await channel.queue_delete(f"{namespace}.retry.5s")
            await channel.declare_queue(f"{namespace}.retry.5s", durable=True)
    broker = (await findings())["broker"]
    assert not broker.ok
    assert f"queue {namespace}.retry.5s: x-message-ttl is not set, wanted 5000" in broker.advice


async def test_a_refused_login_is_not_repeated(
    environment: pytest.MonkeyPatch, dialer: StandInDialer
) -> None:
    environment.setenv("CRM_SYNC_VICIDIAL__PASSWORD", "not-the-password")
    found = (await findings())["dialer"]
    assert not found.ok
    assert found.text.startswith("VICIdial 2.14-")
    assert "LOGIN INCORRECT" in found.advice[0]
    assert found.advice[1] == "agent_campaigns: not tried, since refused logins lock the API user"
    assert dialer.failed_logins == 1
    assert dict(dialer.asked) == {"version": 1, "callid_info": 1}


async def test_a_dialer_that_is_down_is_asked_once(
    environment: pytest.MonkeyPatch, dialer: StandInDialer
) -> None:
    dialer.fault = "500"
    found = (await findings())["dialer"]
    assert (found.ok, found.text) == (False, "the dialer's web server answered 500 instead of 200")
    assert dialer.served == 1


async def test_the_dialers_clock(environment: pytest.MonkeyPatch) -> None:
    settings = load(Settings).vicidial
    told = "VERSION: 2.14-202|BUILD: 250720-1841|DATE: 2026-11-22 02:09:58|EPOCH: 1795331398|DST: 0|"
    answer, now = read_version(told), 1795331398.0
    assert describe(answer, settings) == "VICIdial 2.14-202, build 250720-1841, clock UTC-05:00"
    assert about_clock(answer, settings, now) == []
    assert about_clock(answer, settings, now + 100) == [
        "its clock is 100 s behind this host's; set both by NTP"
    ]
    zoned = settings.model_copy(update={"timezone": ZoneInfo("America/New_York")})
    assert about_clock(answer, zoned, now) == []
    zoned = settings.model_copy(update={"timezone": ZoneInfo("Asia/Kolkata")})
    assert about_clock(answer, zoned, now) == [
        (
            "its clock shows UTC-05:00, but vicidial.timezone (Asia/Kolkata) is UTC+05:30 now, so times may"
            " be wrong; check that setting"
        )
    ]
    nothing = read_version("ERROR: NO FUNCTION SPECIFIED")
    assert describe(nothing, settings) == f"something at {settings.url} answers, but tells no version"
    assert about_clock(nothing, settings, 0) == [
        "its clock is unknown, so times would be null; set vicidial.timezone"
    ]


async def test_what_the_api_user_may_not_ask_is_a_warning_that_says_what_is_lost(
    environment: pytest.MonkeyPatch, dialer: StandInDialer
) -> None:
    dialer.users["modest"] = ApiUser("Modest-Pass-1", functions=frozenset(FUNCTIONS[:2]))
    environment.setenv("CRM_SYNC_VICIDIAL__USER", "modest")
    environment.setenv("CRM_SYNC_VICIDIAL__PASSWORD", "Modest-Pass-1")
    environment.setenv("CRM_SYNC_VICIDIAL__USER_DETAILS", "false")
    found = (await findings())["dialer"]
    assert found.ok
    assert found.text.endswith("may ask callid_info, agent_campaigns")
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
    assert not found.ok
    (problem,) = found.advice
    assert problem.startswith("callid_info: the dialer says")
    assert dialer.count("agent_campaigns") == 1


async def test_what_vicidial_would_make_of_the_settings_is_told(
    environment: pytest.MonkeyPatch, dialer: StandInDialer
) -> None:
    environment.setenv("CRM_SYNC_VICIDIAL__PASSWORD", f"{DEFAULT_PASSWORD}!&")
    environment.setenv("CRM_SYNC_VICIDIAL__MAX_CONCURRENCY", "10")
    environment.setenv("CRM_SYNC_GATES__REFUSED_PROBE", "1m")
    found = await findings()
    assert found["dialer"].ok  # VICIdial drops the two characters, and the rest is the password
    dropped, locking = found["dialer"].advice
    assert dropped.startswith("vicidial.password has characters that VICIdial drops silently")
    assert locking.startswith("vicidial.max_concurrency is 10")
    assert found["settings"].advice[0].startswith("gates.refused_probe is shorter than 5m")


async def test_nobody_is_there(environment: pytest.MonkeyPatch, free_port: int) -> None:
    environment.setenv("CRM_SYNC_BROKER__URL", f"amqp://guest:hush-hush@127.0.0.1:{free_port}/")
    environment.setenv("CRM_SYNC_VICIDIAL__URL", f"http://127.0.0.1:{free_port}/")
    environment.setenv("CRM_SYNC_SINK__URL", f"https://127.0.0.1:{free_port}/hook")
    environment.setenv("CRM_SYNC_DRAIN", "1s")
    found = await findings()
    assert [finding.ok for finding in found.values()] == [True, False, False, False]
    assert "drain (1 s) is shorter than the longest request (15 s)" in found["settings"].advice[0]
    assert "the broker can't be reached" in found["broker"].text
    assert "the dialer can't be reached" in found["dialer"].text
    assert found["sink"].text.startswith(f"127.0.0.1:{free_port}: ")
    assert "hush-hush" not in str(found)


async def test_the_broker_refuses_the_login(environment: pytest.MonkeyPatch, broker_url: str) -> None:
    environment.setenv("CRM_SYNC_BROKER__URL", broker_url.replace("guest:guest", "guest:hush-hush"))
    environment.setenv("CRM_SYNC_SINK__KIND", "queue")
    found = await findings()
    assert "refused the login" in found["broker"].text
    assert "refused the login" in found["sink"].text
    assert "hush-hush" not in str(found)


async def test_the_outbound_exchange(environment: pytest.MonkeyPatch, namespace: str) -> None:
    environment.setenv("CRM_SYNC_SINK__KIND", "queue")
    found = await findings()
    assert found["sink"] == Finding(
        "sink", ok=True, text=f"exchange {namespace}.enriched is missing; run declares it"
    )
    settings = load(Settings)
    async with await aio_pika.connect(settings.broker.url.get_secret_value()) as connection:
        await declare(connection, plan(settings))
    assert (await findings())["sink"].text == f"exchange {namespace}.enriched stands"


async def test_a_host_without_a_name(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("CRM_SYNC_SINK__URL", "https://no-such-host.invalid/hook")
    found = (await findings())["sink"]
    assert (found.ok, found.text) == (False, "there is no host no-such-host.invalid")


async def test_no_tls_where_https_is_said(environment: pytest.MonkeyPatch, crm: StandInCrm) -> None:
    environment.setenv("CRM_SYNC_SINK__URL", crm.url.replace("http://", "https://"))
    found = (await findings())["sink"]
    assert not found.ok
    assert "no TLS handshake" in found.text
    assert found.advice == ("check the port and https or http in sink.url",)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Give a certificate for `localhost` that nobody vouches for, and its key."""
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
        environment.setenv("CRM_SYNC_SINK__SIGNING_SECRET", "whsec_aGVsbG8gaGVsbG8gaGVsbG8=")
        refused = (await findings())["sink"]
        assert not refused.ok
        assert "the TLS certificate can't be verified (self" in refused.text
        environment.setenv("SSL_CERT_FILE", str(certificate[0]))
        taken = (await findings())["sink"]
        assert taken.text == f"localhost:{port} reached, certificate verified; deliveries are signed"


async def test_a_check_that_hangs_ends(environment: pytest.MonkeyPatch) -> None:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    environment.setattr(check, "DEADLINE", 0.5)
    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        environment.setenv("CRM_SYNC_BROKER__URL", f"amqp://127.0.0.1:{port}/")
        found = await findings()
        assert (found["broker"].ok, found["broker"].text) == (False, "no result within 0.5 s")
        assert found["dialer"].ok
        await asyncio.sleep(0.1)  # the connection that was given up is closed


def test_the_command_prints_a_line_each(monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    values: dict[str, Any] = {
        "BROKER__URL": f"amqp://guest:hush-hush@127.0.0.1:{free_port}/",
        "VICIDIAL__URL": f"http://127.0.0.1:{free_port}/",
        "VICIDIAL__USER": "6666",
        "VICIDIAL__PASSWORD": "hush-hush",
        "SINK__URL": f"http://127.0.0.1:{free_port}/",
        "DRAIN": "1s",
    }
    for name, value in values.items():
        monkeypatch.setenv(f"CRM_SYNC_{name}", value)
    result = CliRunner().invoke(app, ["check"])
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    marks = [line.split()[:2] for line in lines if not line.startswith(" ")]
    assert marks == [["!", "settings"], ["✗", "broker"], ["✗", "dialer"], ["✗", "sink"]]
    assert "  - check broker.url, that the broker runs, and that this host may reach it" in lines
    assert "hush-hush" not in result.output
