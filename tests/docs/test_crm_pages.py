"""The settings and presets that the pages of the CRMs show can be used as they stand."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs.test_examples import example, wait_for
from tests.system.harness import ROOT, crm_sync, environment
from tests.tools import need
from worker.commands.event_schemas import payloads
from worker.crm.load import compiled, resolved
from worker.crm.preset_tests import failures, read_cases
from worker.crm.source import shipped
from worker.settings import Settings, load

pytestmark = pytest.mark.verify

FOLDER = ROOT / "docs" / "crm"
DIALER = {"url": "https://dialer.example/api.php", "user": "api", "password": "secret"}
EXAMPLES = {kind.partition(".")[0]: payload for kind, payload in payloads().items()}


def read(name: str) -> str:
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8")


def loaded(tree: dict[str, Any], tmp_path: Path) -> Settings:
    """Load settings, each secret file in another place."""
    text = yaml.safe_dump({"vicidial": DIALER, **tree})
    for name in re.findall(r"/run/secrets/crm-sync/([\w-]+)", text):
        (tmp_path / name).write_text("secret\n", encoding="utf-8")
    config = tmp_path / "settings.yaml"
    config.write_text(text.replace("/run/secrets/crm-sync", str(tmp_path)), encoding="utf-8")
    return load(Settings, config)


def test_each_preset_has_a_page() -> None:
    assert {*shipped(), "index", "presets"} == {path.stem for path in FOLDER.glob("*.md")}


@pytest.mark.parametrize("name", shipped())
def test_the_settings_of_a_page_work(name: str, tmp_path: Path) -> None:
    text = example(read(name), "settings")
    assert len(text.splitlines()) <= 12
    settings = loaded(yaml.safe_load(text), tmp_path)
    assert settings.sink.crm.preset == name
    crm = resolved(settings.sink.crm, {})
    assert set(crm.secrets()) == {"secret"}
    compiled(crm, DIALER["url"])


def test_the_example_of_a_preset_works_and_passes_its_tests(tmp_path: Path) -> None:
    page = read("presets")
    for name in ("ours.yaml", "ours.tests.yaml"):
        (tmp_path / name).write_text(example(page, name), encoding="utf-8")
    ours = str(tmp_path / "ours.yaml")
    cases = read_cases(ours)
    assert cases
    for case in cases:
        assert failures(ours, case, EXAMPLES) == []


@pytest.mark.system
async def test_the_lines_of_the_readme_lead_to_a_call_in_the_crm(
    broker_url: str, namespace: str, tmp_path: Path
) -> None:
    """As a person types them; only the addresses are this test's."""
    need("curl")
    lines = example((ROOT / "README.md").read_text(encoding="utf-8"), "crm")
    assert example(read("index"), "crm") == lines
    crm, dialer = free_port(), free_port()
    for shown, real, count in (
        ("amqp://guest:guest@127.0.0.1:5672/", broker_url, 1),
        ("8601", str(crm), 3),
        ("--dialer-only", f"--dialer-only --port {dialer}", 1),
        ("8089", str(dialer), 1),
    ):
        assert lines.count(shown) == count
        lines = lines.replace(shown, real)
    settings = {"CRM_SYNC_BROKER__NAMESPACE": namespace, "CRM_SYNC_HTTP__PORT": "0"}
    with typed(lines, settings, tmp_path) as shell:
        try:
            settled = json.loads(await asyncio.to_thread(wait_for, shell, '"event_settled"'))
            report = await asyncio.to_thread(reported, crm)
        finally:
            os.killpg(shell.pid, signal.SIGTERM)
    assert settled["crm_outcome"] == "created"
    assert report["records"]["calls"] == {settled["crm_record"]: "V1201405090000012345"}
    assert list(report["records"]["contacts"]) == [settled["crm_contact"]]
    paths = [each["path"].rpartition("2026-03/")[2] for each in report["requests"][-3:]]
    link = f"calls/{settled['crm_record']}/associations/default/contacts/{settled['crm_contact']}"
    assert paths == ["contacts/search", "calls/batch/upsert", link]


def typed(lines: str, settings: dict[str, str], folder: Path) -> subprocess.Popen[str]:
    """Start a shell with these lines, in a process group of its own."""
    (folder / ".venv/bin").mkdir(parents=True)
    for name, command in (("crm-sync", crm_sync()), ("python", [sys.executable])):
        program = folder / ".venv/bin" / name
        program.write_text(f'#!/bin/sh\nexec {" ".join(command)} "$@"\n', encoding="utf-8")
        program.chmod(0o755)
    return subprocess.Popen(
        ["/bin/sh", "-ec", lines],
        cwd=folder,
        env=environment(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def reported(port: int) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/report", timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
        return found
