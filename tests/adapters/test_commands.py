"""The commands explain themselves, and tell wrong usage from failure by the exit status."""

import json
import re
import socket
from datetime import UTC, datetime, timedelta

import pytest
from jsonschema import Draft202012Validator
from rich.console import Console
from typer.testing import CliRunner, Result

from worker.cli import app
from worker.commands import common, letters, terminal
from worker.core.events import EventType
from worker.rabbitmq.dead_letters import Letter

COMMANDS = {
    "run": [],
    "check": [],
    "status": [],
    "publish": ["call-ended", "agent-onboarded"],
    "topology": [],
    "dead-letters": ["list", "show", "replay", "discard", "export"],
    "schema": [],
}
PATHS = [[name, *sub] for name, subs in COMMANDS.items() for sub in [[], *([each] for each in subs)]]


def crm_sync(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, list(arguments))


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_help_teaches(path: list[str]) -> None:
    shown = crm_sync(*path, "--help")
    assert shown.exit_code == 0
    assert " ".join(["Usage: crm-sync", *path]) in shown.stdout or path == []
    assert len(shown.stdout.splitlines()) > 8
    if path not in (["run"], ["dead-letters"]):
        assert re.search(rf"Examples?:.*crm-sync {' '.join(path)}", shown.stdout, re.DOTALL)


def test_the_command_alone_lists_the_commands() -> None:
    shown = crm_sync("--help").stdout
    assert all(re.search(rf"^│ {name} ", shown, re.MULTILINE) for name in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("nonsense", "No such command"),
        ("publish", "say what to publish"),
        ("publish --file x --from-line 0", "lines are counted from 1"),
        ("publish --file x call-ended --call-id V1", "goes without a subcommand"),
        ("publish call-ended", "--call-id"),
        ("publish agent-onboarded", "--agent-user"),
        ("topology --show --check", "choose one"),
        ("dead-letters list --limit -1", "can't be negative"),
        ("dead-letters list --reason nonsense", "'nonsense' is none of invalid_event, not_found"),
        ("dead-letters list --type nonsense", "'nonsense' is none of call.ended, agent.onboarded"),
        ("dead-letters show", "ID"),
        ("dead-letters replay", "say which"),
        ("dead-letters replay --all x", "not both"),
        ("dead-letters replay --all --rate 0", "must be more than 0"),
        ("dead-letters replay --all --rate nan", "must be more than 0"),
        ("dead-letters discard", "say which"),
        ("dead-letters discard --all", "say --yes"),
        ("dead-letters export", "FILE"),
        ("status --watch", "it redraws a terminal"),
        ("status --watch --json", "it redraws a terminal"),
        ("status --url 10.0.0.7:8080", "is no address such as http://127.0.0.1:8080"),
        ("status --url http://[", "is no address such as"),
        ("schema nonsense", "known are call.enriched and agent.enriched"),
    ],
)
def test_wrong_usage_is_named_with_status_2(arguments: str, said: str) -> None:
    result = crm_sync(*arguments.split())
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stdout == ""


def test_status_asks_for_the_address_of_a_worker_that_took_any_free_port(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CRM_SYNC_HTTP__PORT", "0")
    result = crm_sync("status")
    assert result.exit_code == 2
    assert "http.port is 0, so the worker took any free port; its log names it" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        *("topology", "dead-letters list", "dead-letters show x", "dead-letters replay x"),
        *("dead-letters discard --yes x", "dead-letters export -", "publish call-ended --call-id V1"),
        *("publish --file -", "check"),
    ],
)
def test_wrong_settings_are_named_with_status_2(arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRM_SYNC_BROKER__NAMESPACE", "not a name")
    result = crm_sync(*arguments.split())
    assert result.exit_code == 2
    assert "broker.namespace" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["call-ended", "--call-id", ""], "call_id"),
        (["call-ended", "--call-id", "V1", "--occurred-at", "yesterday"], "occurred_at 'yesterday'"),
        (["agent-onboarded", "--agent-user", "a", "--event-id", "ä"], "event_id 'ä'"),
    ],
)
def test_an_event_that_is_none_is_not_published(arguments: list[str], said: str) -> None:
    result = crm_sync("publish", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_file_that_can_not_be_read(tmp_path: object) -> None:
    missing = crm_sync("publish", "--file", "/nowhere/at-all")
    assert (missing.exit_code, missing.stderr) == (
        *(1, "crm-sync: can't read /nowhere/at-all: No such file or directory\n"),
    )
    folder = crm_sync("publish", "--file", str(tmp_path))
    assert (folder.exit_code, "it is a folder" in folder.stderr) == (1, True)


def test_a_broker_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRM_SYNC_BROKER__URL", "amqp://guest:hush-hush@127.0.0.1:1/")
    for arguments in (
        ["topology"],
        ["publish", "call-ended", "--call-id", "V1"],
        ["publish", "--file", "/dev/null"],
    ):
        result = crm_sync(*arguments)
        assert result.exit_code == 1
        assert "the broker at 127.0.0.1:1: the broker can't be reached" in result.stderr
        assert "hush-hush" not in result.output


def test_schema_prints_json_schemas() -> None:
    both = json.loads(crm_sync("schema").stdout)
    assert list(both) == ["call.enriched", "agent.enriched"]
    for name, one in both.items():
        Draft202012Validator.check_schema(one)
        assert json.loads(crm_sync("schema", name).stdout) == one


def test_text_of_others_can_not_steer_the_terminal() -> None:
    assert terminal.printable("ä € 😀") == "ä € 😀"
    assert terminal.printable("\x1b[2J\r\n\x9b\u202e\ud800") == r"\x1b[2J\r\n\x9b\u202e\ud800"


def test_ages_and_moments() -> None:
    now = datetime.now(UTC)
    ages = [
        terminal.age(now - timedelta(seconds=seconds)) for seconds in (-5, 3, 59, 60, 3599, 7200, 200_000)
    ]
    assert ages == ["0s", "3s", "59s", "1m", "59m", "2h", "2d"]
    assert (terminal.age(None), terminal.moment(None)) == ("-", "-")
    assert terminal.moment(datetime(2026, 1, 2, tzinfo=UTC)) == "2026-01-02 00:00:00+00:00"


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Console:
    """Give a terminal of 60 columns in the place of both streams."""
    console = Console(force_terminal=True, width=60, color_system=None, record=True, highlight=False)
    for module in (common, letters, terminal):
        for name in ("out", "err"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, console)
    return console


def test_letters_fit_the_terminal(screen: Console, capsys: pytest.CaptureFixture[str]) -> None:
    letter = Letter(
        *("e-1", "e-1", "call.ended", "not_found", "enrich", "a long error " * 10, 1),
        *(None, datetime.now(UTC) - timedelta(hours=3), EventType.CALL_ENDED),
    )
    letters.show_summary([letter] * 3)
    letters.show_letters([letter] * 3, 1)
    lines = screen.export_text().splitlines()
    assert lines[0].split() == ["REASON", "TYPE", "COUNT", "OLDEST", "NEWEST"]
    assert "e-1  call.ended  not_found  1 attempt  3h ago" in lines
    assert any(line.startswith("  a long error") and line.endswith("…") for line in lines)
    assert all(len(line) <= 60 for line in lines)
    assert lines[-1] == "… and 2 more; --limit 3 shows all"


def test_progress_is_shown_for_more_than_a_handful(
    screen: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    with terminal.progress("reading", terminal.A_HANDFUL) as show:
        show(3)
    assert "reading" not in capsys.readouterr().out
    with terminal.progress("reading", 1000) as show:
        show(250, "a note")
        show(300)  # too soon after the other to be shown
    shown = capsys.readouterr().out
    assert "reading" in shown
    assert "250/1000" in shown


def test_check_names_each_failure_and_what_to_do() -> None:
    with socket.socket() as nobody:  # bound, and listening to nobody
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        settings = {
            "CRM_SYNC_BROKER__URL": f"amqp://guest:guest@{address}/",
            "CRM_SYNC_VICIDIAL__URL": f"http://{address}/vicidial/non_agent_api.php",
            "CRM_SYNC_VICIDIAL__USER": "crmsync",
            "CRM_SYNC_VICIDIAL__PASSWORD": "Dialer-Pass-1",
            "CRM_SYNC_SINK__URL": f"http://{address}/webhook",
        }
        shown = CliRunner(env={"COLUMNS": "200", **settings}).invoke(app, ["check"])
    assert shown.exit_code == 1
    lines = shown.stdout.splitlines()
    assert [line.split()[:3] for line in lines if line[:1] in set("✓✗!")] == [
        ["✓", "ok", "settings"],
        ["✗", "failed", "broker"],
        ["✗", "failed", "dialer"],
        ["✗", "failed", "sink"],
    ]
    assert lines[-1] == "3 failed"
    assert "Dialer-Pass-1" not in shown.output
