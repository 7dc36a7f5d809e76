"""`crm-sync intake` as a command: how it begins, serves without a broker, and ends."""

import contextlib
import fcntl
import json
import os
import signal
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.adapters.intake import CALL_ID, TOKEN
from tests.adapters.raw import closed_port
from worker.cli import app
from worker.core.scrub import Scrubber


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set what it needs, with a broker that is away; leave the log of the tests alone."""
    (tmp_path / "token").write_text(TOKEN)
    for name, value in {
        "BROKER__URL": f"amqp://guest:Br0ker-Secret@127.0.0.1:{closed_port()}/",
        "INTAKE__TOKEN_FILES": str(tmp_path / "token"),
        "INTAKE__SPOOL": str(tmp_path / "spool"),
        "INTAKE__PORT": str(closed_port()),
    }.items():
        monkeypatch.setenv(f"CRM_SYNC_{name}", value)
    monkeypatch.setattr("worker.commands.intake.log.configure", lambda *_, **__: Scrubber([]))
    return tmp_path


def crm_sync(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, list(arguments))


def get(path: str, tls: ssl.SSLContext | None = None) -> str:
    """Ask the intake, once it listens; from another thread, as the command has the main one."""
    scheme = "http" if tls is None else "https"
    url = f"{scheme}://127.0.0.1:{os.environ['CRM_SYNC_INTAKE__PORT']}{path}"
    for _ in range(200):
        try:
            with urllib.request.urlopen(url, timeout=20, context=tls) as response:  # noqa: S310 - our own
                return str(response.read().decode())
        except ConnectionError:
            time.sleep(0.05)
        except urllib.error.URLError as error:
            if not isinstance(error.reason, ConnectionError):
                raise
            time.sleep(0.05)
    raise AssertionError


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT]])
def test_it_serves_until_a_signal_and_leaves_what_it_answered_in_the_spool(
    settings: Path, signals: list[signal.Signals]
) -> None:
    answers: list[str] = []

    def client() -> None:
        answers.append(get(f"/vicidial/call-ended?token={TOKEN}&call_id={CALL_ID}"))
        answers.append(get("/metrics"))
        for each in signals:
            os.kill(os.getpid(), each)

    asking = threading.Thread(target=client)
    asking.start()
    ended = crm_sync("intake")
    asking.join(20)
    assert ended.exit_code == 0, ended.output
    assert answers[0].startswith("stored ")
    assert "crm_sync_intake_spool_events 1.0" in answers[1]
    (segment,) = (settings / "spool").glob("*.ndjson")
    assert json.loads(segment.read_bytes())["id"] == answers[0].split()[1]


def test_with_a_certificate_it_serves_tls(
    settings: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRM_SYNC_INTAKE__TLS_CERTIFICATE", str(certificate))
    assert "set both tls_certificate and tls_key" in crm_sync("intake").stderr
    monkeypatch.setenv("CRM_SYNC_INTAKE__TLS_KEY", str(certificate))
    tls = ssl.create_default_context(cafile=certificate)
    tls.check_hostname = False
    answers: list[str] = []

    def client() -> None:
        try:
            answers.append(get("/livez", tls))
            with socket.create_connection(("127.0.0.1", int(os.environ["CRM_SYNC_INTAKE__PORT"]))) as plain:
                plain.settimeout(20)
                plain.sendall(b"GET /livez HTTP/1.1\r\nHost: intake\r\n\r\n")
                with contextlib.suppress(ConnectionError):
                    answers.append(plain.recv(100).decode("latin-1"))
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    asking = threading.Thread(target=client)
    asking.start()
    assert crm_sync("intake").exit_code == 0
    asking.join(20)
    encrypted, *plain = answers
    assert encrypted == "ok\n"
    assert not any("HTTP/" in answer for answer in plain), "it spoke plain HTTP"
    certificate.write_text("broken")
    broken = crm_sync("intake")
    assert broken.exit_code == 2
    assert "intake.tls_certificate, intake.tls_key: can't use" in broken.stderr
    assert "no certificate and its key, in PEM" in broken.stderr


def test_settings_that_cannot_be_used_are_named(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (settings / "token").write_text("short")
    ended = crm_sync("intake")
    assert ended.exit_code == 2
    assert f"intake.token_files: {settings}/token holds no token of 16 to 256" in ended.stderr
    monkeypatch.setenv("CRM_SYNC_INTAKE__SPOOL", "")
    ended = crm_sync("intake")
    assert ended.exit_code == 2
    assert "intake.spool (CRM_SYNC_INTAKE__SPOOL): is empty; name a folder" in ended.stderr
    monkeypatch.delenv("CRM_SYNC_INTAKE__TOKEN_FILES")
    ended = crm_sync("intake")
    assert ended.exit_code == 2
    assert "intake.token_files (CRM_SYNC_INTAKE__TOKEN_FILES): is required" in ended.stderr


def test_a_spool_that_another_process_has_is_named(settings: Path) -> None:
    (settings / "spool").mkdir()
    with (settings / "spool" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ended = crm_sync("intake")
    assert ended.exit_code == 1
    assert "another process has the spool" in ended.stderr


def test_a_port_that_is_taken_is_named(settings: Path) -> None:
    with socket.create_server(("127.0.0.1", int(os.environ["CRM_SYNC_INTAKE__PORT"]))):
        ended = crm_sync("intake")
    assert ended.exit_code == 1
    port = os.environ["CRM_SYNC_INTAKE__PORT"]
    said = f"can't listen on 127.0.0.1:{port}: Address already in use; see intake.host and intake.port"
    assert said in ended.stderr
