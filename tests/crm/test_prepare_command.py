"""`crm-sync crm prepare`: what is made is shown first, and what is there stays."""

import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from worker.cli import app

BROKER = {"url": "amqp://guest:guest@127.0.0.1/"}
DIALER = {"url": "https://dialer.example/x.php", "user": "api", "password": "hunter2-hunter2"}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("CRM_SYNC_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def crm(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """Serve a CRM in a process of its own, and return its settings."""
    name = getattr(request, "param", "hubspot")
    command = [sys.executable, "-m", "simulators.crms", name, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        settings: dict[str, Any] = json.loads(process.stdout.readline())["settings"]
        yield settings
        process.terminate()


def config(folder: Path, crm: dict[str, Any], kind: str = "crm") -> str:
    sink = {"kind": kind, **({"crm": crm} if kind == "crm" else {})}
    path = folder / "crm-sync.yaml"
    path.write_text(yaml.safe_dump({"broker": BROKER, "vicidial": DIALER, "sink": sink}), encoding="utf-8")
    return str(path)


def prepare(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["crm", "prepare", *arguments])


def test_what_is_made_is_shown_and_made_once(tmp_path: Path, crm: dict[str, Any]) -> None:
    first = prepare("--yes", "--config", config(tmp_path, crm))
    assert first.exit_code == 0, first.output
    lines = first.stdout.splitlines()
    url = f"{crm['url']}/crm/properties/2026-03/calls"
    assert lines[0].startswith(f'calls_group: POST {url}/groups {{"name":"crm_sync"')
    assert '"hasUniqueValue":true' in lines[1]
    assert lines[4:] == [
        f"{name}: made" for name in ("calls_group", "calls_property", "tasks_group", "tasks_property")
    ]
    again = prepare("--yes", "--config", config(tmp_path, crm))
    assert again.exit_code == 0
    assert all(line.endswith(": is there already") for line in again.stdout.splitlines()[4:])


def test_nobody_is_asked_without_a_terminal(tmp_path: Path) -> None:
    asked = prepare("--config", config(tmp_path, {"preset": "hubspot", "token": "pat-na1-x-x-x"}))
    assert (asked.exit_code, "use --yes" in asked.stderr) == (2, True)


def in_a_terminal(answer: bytes, *arguments: str) -> tuple[int, str]:
    """Run the command in a terminal, and answer its question."""
    parent, child = pty.openpty()
    command = [sys.executable, "-m", "worker", "crm", "prepare", *arguments]
    process = subprocess.Popen(command, stdin=child, stdout=child, stderr=child)
    os.close(child)
    os.write(parent, answer)
    output = bytearray()

    def read() -> None:
        try:
            while chunk := os.read(parent, 4096):
                output.extend(chunk)
        except OSError:  # the terminal's other end is closed
            return

    reader = threading.Thread(target=read)
    reader.start()
    status = process.wait(60)
    reader.join(10)
    os.close(parent)
    return status, output.decode()


def test_in_a_terminal_it_asks(tmp_path: Path, crm: dict[str, Any]) -> None:
    path = config(tmp_path, crm)
    status, output = in_a_terminal(b"n\n", "--config", path)
    assert status == 1
    assert "Make this in HubSpot?" in output
    assert "nothing was made" in output
    status, output = in_a_terminal(b"y\n", "--config", path)
    assert status == 0, output
    assert "calls_property: made" in output


@pytest.mark.parametrize("crm", ["vtiger"], indirect=True)
def test_a_crm_that_needs_nothing_says_so(tmp_path: Path, crm: dict[str, Any]) -> None:
    done = prepare("--yes", "--config", config(tmp_path, crm))
    assert (done.exit_code, done.stdout) == (
        0,
        "vtiger CRM: the API can prepare nothing; `crm-sync check` says what is missing\n",
    )


@pytest.mark.parametrize("crm", ["zoho"], indirect=True)
def test_a_login_that_is_refused_says_so(tmp_path: Path, crm: dict[str, Any]) -> None:
    done = prepare("--yes", "--config", config(tmp_path, {**crm, "client_secret": "the-wrong-one-of-all"}))
    assert done.exit_code == 1
    assert "the login is refused" in done.stderr
    assert "the-wrong-one" not in done.output


def test_a_step_that_is_refused_says_which_and_what_to_do(tmp_path: Path, crm: dict[str, Any]) -> None:
    done = prepare("--yes", "--config", config(tmp_path, {**crm, "token": "pat-na1-not-the-key"}))
    assert done.exit_code == 1
    assert "calls_group: the CRM answered 401" in done.stderr
    assert "run it again" in done.stderr


def test_steps_may_depend_on_each_other_and_be_left_out(tmp_path: Path, crm: dict[str, Any]) -> None:
    own = tmp_path / "own.yaml"
    group = "{{ calls_group.name | required('no name') }}"
    steps = [
        {"step": "calls_group", "take": {"name": "{{ body.nothing }}"}},
        {"step": "never", "when": "{{ settings.supervisor }}", "post": "/never"},
        {"step": "later", "get": f"/crm/properties/2026-03/calls/groups/{group}"},
    ]
    own.write_text(yaml.safe_dump({"extends": "hubspot", "prepare": steps}), encoding="utf-8")
    done = prepare("--yes", "--config", config(tmp_path, {**crm, "preset": str(own)}))
    assert "later: as the steps before it give" in done.stdout
    assert "never: not needed" in done.stdout
    assert done.exit_code == 1, "no step gives the name"


def test_without_a_crm_there_is_nothing_to_prepare(tmp_path: Path) -> None:
    done = prepare("--yes", "--config", config(tmp_path, {}, kind="queue"))
    assert (done.exit_code, "there is no CRM to prepare" in done.stderr) == (2, True)
