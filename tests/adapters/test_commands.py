"""The commands explain themselves, and tell wrong usage from failure by the exit status."""

import ast
import asyncio
import json
import os
import re
import signal
import socket
import tracemalloc
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer
from jsonschema import Draft202012Validator
from rich.console import Console
from typer.testing import CliRunner, Result

from worker import __version__
from worker.cli import app
from worker.commands import broker, common, dead_letters_output, terminal
from worker.commands.status import Snapshot
from worker.core.events import EventType
from worker.core.scrub import Scrubber, printable
from worker.observe import health
from worker.observe.metrics import Metrics
from worker.rabbitmq.dead_letters import StoredDeadLetter
from worker.settings import BrokerCommandSettings, HttpSettings

COMMANDS = {
    "run": [],
    "check": [],
    "status": [],
    "publish": ["call-ended", "agent-onboarded"],
    "topology": [],
    "dead-letters": ["list", "show", "replay", "discard", "export"],
    "schema": [],
    "map": [],
    "crm": ["list", "show", "diff"],
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
        ("publish", "choose what to publish"),
        ("publish --file x --from-line 0", "lines are counted from 1"),
        ("publish --file x call-ended --call-id V1", "can't be combined with a subcommand"),
        ("publish call-ended", "--call-id"),
        ("publish agent-onboarded", "--agent-user"),
        ("topology --show --check", "choose one"),
        ("dead-letters list --limit -1", "can't be negative"),
        ("dead-letters list --reason nonsense", "'nonsense' is none of invalid_event, not_found"),
        ("dead-letters list --type nonsense", "'nonsense' is none of call.ended, agent.onboarded"),
        ("dead-letters show", "ID"),
        ("dead-letters replay", "select dead letters"),
        ("dead-letters replay --all x", "not both"),
        ("dead-letters replay --all --rate 0", "must be more than 0"),
        ("dead-letters replay --all --rate nan", "must be more than 0"),
        ("dead-letters discard", "select dead letters"),
        ("dead-letters discard --all", "use --yes"),
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
    assert printable("ä € 😀") == "ä € 😀"
    assert printable("\x1b[2J\r\n\x9b\u202e\ud800") == r"\x1b[2J\r\n\x9b\u202e\ud800"


ODD = "a\x7f\x9b1m\u202eb\u2066c\ufeff\u2028d\u200f\x1b[2Jé😀\ud800\n"


def test_a_json_document_can_not_steer_the_terminal_either() -> None:
    for indent in (None, 2):
        shown = common.to_json({"x": ODD, "é😀": [1.5, None]}, indent=indent)
        assert json.loads(shown) == {"x": ODD, "é😀": [1.5, None]}
        assert all(line.isprintable() for line in shown.split("\n"))
        assert "é😀" in shown
    assert "\n" not in common.to_json({"x": ODD})


@pytest.mark.parametrize("command", ["check", "status"])
def test_what_others_wrote_is_escaped_in_json(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if command == "check":
        monkeypatch.setenv("CRM_SYNC_HTTP__PORT", ODD.replace("\ud800", ""))
    else:
        look = Snapshot(ODD, well=False, sentences=(ODD,), answer={"breakers": {ODD: ODD}})
        monkeypatch.setattr("worker.commands.status.take_snapshot", lambda _: look)
    shown = crm_sync(command, "--json").stdout
    assert json.loads(shown)
    assert all(line.isprintable() for line in shown.split("\n"))
    assert "u202e" in shown


@pytest.mark.parametrize("text", ["id a:100:b", ":ok: :+1: [bold]x[/bold]", "[link=x]"])
def test_text_is_shown_as_it_is_on_a_terminal(text: str) -> None:
    for console in (terminal.out, terminal.err):
        with console.capture() as shown:
            console.print(text, markup=False)
        assert shown.get() == f"{text}\n"


def test_every_console_leaves_emoji_codes_alone() -> None:
    """A copied id with `:100:` in it would be another."""
    made = 0
    for folder in ("worker", "benchmarks"):
        for file in (Path(__file__).parents[2] / folder).rglob("*.py"):
            for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(call, ast.Call) and ast.unparse(call.func) == "Console" and file.stem != "log":
                    made += 1
                    assert "emoji=False" in ast.unparse(call), file
    assert made >= 4


def test_the_version_is_printed() -> None:
    shown = crm_sync("--version")
    assert (shown.exit_code, shown.stdout) == (0, f"crm-sync {__version__}\n")


def test_a_broker_that_falls_silent_is_an_outage_and_no_stop(capsys: pytest.CaptureFixture[str]) -> None:
    async def work(_stop: asyncio.Event) -> None:
        raise asyncio.CancelledError  # so ends what waits for a connection of aiormq's that is lost

    settings = BrokerCommandSettings()
    with pytest.raises(typer.Exit) as ended:
        broker.talk_to_broker(settings, work)
    assert ended.value.exit_code == 1
    assert "the broker at 127.0.0.1:5672: " in (said := capsys.readouterr().err)
    assert "silent" in said
    assert "stopped" not in said


def test_a_signal_is_a_stop(capsys: pytest.CaptureFixture[str]) -> None:
    async def work(_stop: asyncio.Event) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(10)

    with pytest.raises(typer.Exit):
        broker.talk_to_broker(BrokerCommandSettings(), work)
    assert capsys.readouterr().err == "crm-sync: stopped\n"


def some_letters(count: int) -> Iterator[StoredDeadLetter]:
    at = datetime.now(UTC)
    for number in range(count):
        yield StoredDeadLetter(
            *(f"event-{number}", f"event-{number}", "call.ended", f"reason-{number % 3}", "enrich"),
            *(f"a long error {number} " * 10, 1, at, at + timedelta(seconds=number), EventType.CALL_ENDED),
        )


def test_a_summary_of_many_letters_takes_no_memory() -> None:
    summary, newest = dead_letters_output.Summary(), deque[StoredDeadLetter](maxlen=20)
    tracemalloc.start()
    try:
        for letter in some_letters(50_000):
            summary.add(letter)
            newest.append(letter)
        assert tracemalloc.get_traced_memory()[1] < 1024 * 1024
    finally:
        tracemalloc.stop()
    assert summary.count == 50_000
    assert [letter.id for letter in newest] == [f"event-{number}" for number in range(49_980, 50_000)]


def test_reasons_without_end_are_put_together(screen: Console) -> None:
    summary = dead_letters_output.Summary()
    for number, letter in enumerate(some_letters(1000)):
        summary.add(replace(letter, reason=f"reason-{number}"))
    summary.show()
    shown = screen.export_text()
    assert "(others)" in shown
    assert len(shown.splitlines()) < 110


def test_a_letter_differs_from_another_of_the_same_event() -> None:
    one, other = some_letters(2)
    assert hash(one) == hash(replace(one)) != hash(other)
    assert hash(one) != hash(replace(one, failed_at=datetime.now(UTC)))


def test_an_error_of_a_whole_run_is_not_reported_as_one_of_listening(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise FileNotFoundError(2, "No such file or directory", "/etc/ssl/absent.pem")

    monkeypatch.setattr("worker.app.run", fail)
    monkeypatch.setattr("worker.commands.run.log.configure", lambda *_, **__: Scrubber([]))
    monkeypatch.setattr("worker.commands.run._tune_garbage_collection", lambda: None)
    for name, value in {
        "VICIDIAL__URL": "http://127.0.0.1:1/",
        "VICIDIAL__USER": "6666",
        "VICIDIAL__PASSWORD": "hush-hush",
        "SINK__KIND": "queue",
    }.items():
        monkeypatch.setenv(f"CRM_SYNC_{name}", value)
    ended = crm_sync("run")
    assert ended.exit_code == 1
    assert "listen" not in ended.output
    assert "the worker ended: No such file or directory" in ended.stderr
    assert "/etc/ssl/absent.pem" in ended.stderr


async def test_a_port_that_is_taken_is_reported_as_such() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = HttpSettings(host="127.0.0.1", port=taken.getsockname()[1])
        with pytest.raises(health.ListenError, match=r"can.t listen on 127\.0\.0\.1:"):
            async with health.serve(settings, metrics=Metrics(), ready=bool, status=dict):
                pass


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
    """Return a terminal of 60 columns in the place of both streams."""
    console = Console(force_terminal=True, width=60, color_system=None, record=True, highlight=False)
    for module in (common, dead_letters_output, terminal):
        for name in ("out", "err"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, console)
    return console


def test_letters_fit_the_terminal(screen: Console, capsys: pytest.CaptureFixture[str]) -> None:
    letter = StoredDeadLetter(
        *("e-1", "e-1", "call.ended", "not_found", "enrich", "a long error " * 10, 1),
        *(None, datetime.now(UTC) - timedelta(hours=3), EventType.CALL_ENDED),
    )
    summary = dead_letters_output.Summary()
    for _ in range(3):
        summary.add(letter)
    summary.show()
    dead_letters_output.show_dead_letters([letter], summary.count)
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
