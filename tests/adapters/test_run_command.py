"""How `crm-sync run` ends, and what `crm-sync demo` and `crm-sync schema` do before anything else."""

import asyncio
import gc
import importlib.util
import json
import os
import sys
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner, Result

from tests.adapters.raw import closed_port
from worker.cli import app
from worker.core.scrub import Scrubber
from worker.observe.health import ListenError
from worker.rabbitmq.session import TopologyMismatchError


def crm_sync(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, list(arguments))


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set what `run` needs, and leave the log and the garbage collection of the tests alone."""
    for name, value in {
        "VICIDIAL__URL": "http://127.0.0.1:1/",
        "VICIDIAL__USER": "6666",
        "VICIDIAL__PASSWORD": "hush-hush",
        "SINK__KIND": "queue",
    }.items():
        monkeypatch.setenv(f"CRM_SYNC_{name}", value)
    monkeypatch.setattr("worker.commands.run.log.configure", lambda *_, **__: Scrubber(["hush-hush"]))
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (None, 0, ""),
        (TopologyMismatchError(["queue a: x is 1, wanted 2"]), 1, "queue a: x is 1, wanted 2"),
        (ListenError("can't listen on 0.0.0.0:80: no"), 1, "can't listen on 0.0.0.0:80: no; see http.host"),
        (OSError(13, "Permission denied", "/hush-hush"), 1, "the worker ended: Permission denied"),
        (asyncio.CancelledError(), 1, "stopped at once"),
    ],
    ids=["stopped", "another topology", "a port that is taken", "a failure", "stopped twice"],
)
def test_an_end_has_its_status_and_its_words(
    settings: None,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException | None,
    status: int,
    says: str,
) -> None:
    async def end(*_: object, **__: object) -> None:
        if error is not None:
            raise error

    monkeypatch.setattr("worker.app.run", end)
    ended = crm_sync("run")
    assert ended.exit_code == status, ended.output
    assert says in ended.stderr
    assert "hush-hush" not in ended.output


def test_a_check_without_broker_and_dialer_names_both_and_fails(
    settings: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRM_SYNC_BROKER__URL", f"amqp://127.0.0.1:{closed_port()}/")
    ended = crm_sync("check")
    assert ended.exit_code == 1
    assert "broker" in ended.stdout
    assert "dialer" in ended.stdout


@pytest.mark.parametrize("there", [True, False])
def test_the_demo_is_a_program_of_its_own_where_it_is_installed(
    monkeypatch: pytest.MonkeyPatch, *, there: bool
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _, command: started.append(command))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object() if there else None)
    ended = crm_sync("demo", "--dialer-only")
    if there:
        assert ended.exit_code == 0
        assert started == [[sys.executable, "-P", "-m", "simulators.demo", "--dialer-only"]]
    else:
        assert (ended.exit_code, started) == (1, [])
        assert "install the wheel crm-sync-simulators" in ended.stderr


def test_the_schema_of_one_payload_or_of_both() -> None:
    both = json.loads(crm_sync("schema").stdout)
    assert set(both) == {"call.enriched", "agent.enriched"}
    assert json.loads(crm_sync("schema", "call.enriched").stdout) == both["call.enriched"]
    assert crm_sync("schema", "--asyncapi").stdout.startswith("asyncapi: 3.0.0\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["call.begun"], "known are call.enriched and agent.enriched"),
        (["call.enriched", "--asyncapi"], "leave TYPE out"),
        (["--config", "config/webhook.yaml"], "changes nothing without --asyncapi"),
    ],
    ids=" ".join,
)
def test_a_schema_that_there_is_not_is_wrong_usage(arguments: list[str], says: str) -> None:
    ended = crm_sync("schema", *arguments)
    assert ended.exit_code == 2
    assert says in ended.stderr
