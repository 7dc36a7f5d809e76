"""`status` says first what is wrong and what to do, whatever it is that answers."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from tests.adapters.raw import Connection, RawServer, closed_port
from worker.cli import app
from worker.commands import status as command
from worker.commands import terminal
from worker.observe import health
from worker.observe.metrics import Metrics
from worker.settings import HttpSettings

BREAKERS = ("dialer", "sink", "callid_info", "agent_campaigns")
REASON = "the webhook answered 401; check sink.signing_secret and who may post there"


def answer(**changed: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """Return what a worker answers that is well, but for what is changed."""
    return {
        "version": "1.2.3",
        "started_at": (datetime.now(UTC) - timedelta(hours=3)).isoformat(),
        "consuming": True,
        "broker": {"node": "b2.example:5672", "connections": 2, "last_error": None},
        "circuit_breakers": {name: {"state": "closed", "reason": None} for name in BREAKERS},
        "dialer": {"limit": 4, "refused": None, "next_try_in_seconds": None, "clock_skew_seconds": -0.26},
        "in_flight": 7,
        "queues": {"crm-sync.call-ended": 1200, "crm-sync.dead-letters": 0},
        "counts": {"delivered": 42, "retry": 3},
        **changed,
    }


def breakers(**changed: dict[str, Any]) -> dict[str, Any]:
    return {**answer()["circuit_breakers"], **changed}


@asynccontextmanager
async def worker_that_says(reported: Any, *, ready: bool = True) -> AsyncIterator[str]:  # noqa: ANN401 - JSON
    """Serve health endpoints with that status. Return the address."""
    served = health.serve(
        HttpSettings(host="127.0.0.1", port=0),
        metrics=Metrics(),
        ready=lambda: ready,
        status=lambda: reported,
    )
    async with served as port:
        yield f"http://127.0.0.1:{port}"


async def crm_sync(*arguments: str) -> Result:
    """Run the command in a thread: it has a loop of its own."""
    return await asyncio.to_thread(CliRunner().invoke, app, list(arguments))


async def status_of(reported: Any, *, ready: bool = True) -> tuple[int, list[str]]:  # noqa: ANN401 - JSON
    async with worker_that_says(reported, ready=ready) as url:
        result = await crm_sync("status", "--url", url)
    assert result.stderr == ""
    return result.exit_code, result.stdout.replace(url, "URL").splitlines()


async def test_a_worker_that_is_well() -> None:
    code, lines = await status_of(answer())
    assert code == 0
    assert lines == [
        "✓ all is well: it consumes, and every circuit breaker is closed",
        "",
        "worker   1.2.3 at URL, up 3h",
        "broker   consuming from b2.example:5672; connections since the start: 2",
        "dialer   requests at one time: at most 4; refuses nothing; its clock is 0.3 s behind",
        "in work  7 events",
        "so far   delivered 42, retry 3",
        "",
        "CIRCUIT BREAKER  STATE   OPEN FOR  NEXT PROBE  REASON",
        *(f"{name:<15}  closed  -         -           -" for name in BREAKERS),
        "",
        "QUEUE                  WAITING",
        "crm-sync.call-ended    1200",
        "crm-sync.dead-letters  0",
    ]


async def test_dead_letters_are_shown_although_all_is_well() -> None:
    code, lines = await status_of(answer(queues={"crm-sync.dead-letters": 5}))
    assert code == 0
    assert lines[0].endswith("but 5 in the dead letters need a person: crm-sync dead-letters list")


async def test_an_open_breaker_comes_first_with_its_reason() -> None:
    probe = (datetime.now(UTC) + timedelta(minutes=4, seconds=30)).isoformat()
    closed = {"state": "open", "reason": REASON, "open_seconds": 750.2, "next_probe_at": probe}
    code, lines = await status_of(
        answer(circuit_breakers=breakers(dialer={"state": "recovering", "open_seconds": 40.0}, sink=closed))
    )
    assert code == 1
    assert lines[:3] == [
        f"✗ sink: circuit breaker open, intake paused for 12m: {REASON}; see operations: circuit breakers",
        "✗ dialer: circuit breaker recovering: it works again, and its capacity grows; nothing to do",
        "",
    ]
    assert f"sink             open        12m       in 4m       {REASON}" in lines


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"consuming": False, "broker": {"last_error": "the broker can't be reached"}},
            ["it consumes nothing: the broker can't be reached; crm-sync check looks at the broker"],
        ),
        (
            {"consuming": False},
            [
                (
                    "it consumes nothing: it is starting or stopping, or the broker is in an alarm; see its"
                    " log; crm-sync check looks at the broker"
                )
            ],
        ),
        (
            {
                "circuit_breakers": breakers(
                    sink={"state": "half_open", "reason": "it was down", "open_seconds": 200_000}
                )
            },
            [
                (
                    "sink: circuit breaker half-open, intake paused for 2d: it was down; the next event"
                    " shows whether it works again"
                )
            ],
        ),
        (
            {"circuit_breakers": breakers(sink={"state": "open"})},
            ["sink: circuit breaker open, intake paused; see operations: circuit breakers"],
        ),
        (
            {
                "consuming": False,
                "broker": {"last_error": "gone"},
                "circuit_breakers": breakers(
                    callid_info={"state": "half_open", "open_seconds": 1},
                    agent_campaigns={"state": "open", "open_seconds": 7200},
                ),
            },
            [
                "it consumes nothing: gone; crm-sync check looks at the broker",
                (
                    "agent_campaigns: circuit breaker open, intake paused for 2h; see operations:"
                    " circuit breakers"
                ),
                (
                    "callid_info: circuit breaker half-open, intake paused for 1s; a question of our own"
                    " shows whether it works again"
                ),
            ],
        ),
    ],
    ids=["no broker", "not yet", "half_open", "no reason", "all at once"],
)
async def test_what_is_wrong_is_said_first_the_worst_on_top(changed: dict[str, Any], said: list[str]) -> None:
    code, lines = await status_of(answer(**changed))
    assert code == 1
    assert lines[: lines.index("")] == [f"✗ {each}" for each in said]


async def test_who_is_not_ready_does_not_consume() -> None:
    code, lines = await status_of(answer(), ready=False)
    assert (code, lines[0].partition(":")[0]) == (1, "✗ it consumes nothing")


async def test_an_optional_function_that_is_left_out_is_shown_and_is_no_trouble() -> None:
    dialer = {"limit": 4, "left_out": {"user_details": "the dialer did not answer within 10 s"}}
    code, lines = await status_of(answer(dialer=dialer))
    assert code == 0
    assert (
        "dialer   requests at one time: at most 4; refuses nothing; user_details is left out: the dialer did"
        " not answer within 10 s"
    ) in lines


async def test_a_dialer_that_refuses_is_shown_with_the_next_try() -> None:
    dialer = {"limit": 8, "refused": "LOGIN INCORRECT", "next_try_in_seconds": 240}
    _, lines = await status_of(answer(dialer=dialer))
    assert "dialer   requests at one time: at most 8; refuses us: LOGIN INCORRECT; next try in 4m" in lines
    _, lines = await status_of(answer(dialer={"refused": "LOGIN INCORRECT"}))
    assert "dialer   refuses us: LOGIN INCORRECT" in lines


async def test_a_probe_that_is_due_is_due_now() -> None:
    closed = {"state": "open", "next_probe_at": (datetime.now(UTC) - timedelta(seconds=5)).isoformat()}
    _, lines = await status_of(answer(circuit_breakers=breakers(sink=closed)))
    assert "sink             open    -         now         -" in lines


async def test_an_older_or_newer_worker_is_understood() -> None:
    code, lines = await status_of(
        {"consuming": True, "circuit_breakers": {"sink": {"state": "closed"}}, "new": 1}
    )
    assert (code, lines[0]) == (0, "✓ all is well: it consumes, and every circuit breaker is closed")
    assert not any(line.startswith(("QUEUE", "so far")) for line in lines)


async def test_text_of_others_can_not_steer_the_terminal() -> None:
    closed = {"state": "open", "reason": "\x1b[2Jgone"}
    _, lines = await status_of(answer(circuit_breakers=breakers(sink=closed), version="\x1b[31m"))
    assert "\x1b" not in "".join(lines)
    assert (
        "✗ sink: circuit breaker open, intake paused: \\x1b[2Jgone; see operations: circuit breakers" in lines
    )


async def test_for_a_program_it_is_one_json_document() -> None:
    reported = answer(circuit_breakers=breakers(sink={"state": "open", "reason": REASON, "open_seconds": 5}))
    async with worker_that_says(reported) as url:
        result = await crm_sync("status", "--json", "--url", f"{url}/")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {
        "url": url,
        "well": False,
        "summary": [
            f"sink: circuit breaker open, intake paused for 5s: {REASON}; see operations: circuit breakers"
        ],
        "status": reported,
    }


# --- no worker ------------------------------------------------------------------------------------


async def test_nobody_answers() -> None:
    url = f"http://me:hush-hush@127.0.0.1:{closed_port()}"
    result = await crm_sync("status", "--url", url)
    assert result.exit_code == 1
    assert result.stdout.startswith(
        f"✗ no worker answers at {url.replace('me:hush-hush', '***')}: Connection"
    )
    assert "start one with crm-sync run" in result.stdout
    assert "hush-hush" not in result.output
    as_json = json.loads((await crm_sync("status", "--json", "--url", url)).stdout)
    assert (as_json["well"], as_json["status"]) == (False, None)
    assert as_json["summary"][0] == result.stdout.strip().removeprefix("✗ ")


async def test_no_such_host() -> None:
    result = await crm_sync("status", "--url", "http://no-such-host.invalid:8080")
    assert result.exit_code == 1
    assert "no worker answers at http://no-such-host.invalid:8080: " in result.stdout


async def test_what_hangs_up_is_no_worker() -> None:
    async def hang_up(connection: Connection) -> None:
        await connection.request()  # what closes with something unread resets the connection instead
        connection.close()

    async with RawServer(hang_up) as server:
        result = await crm_sync("status", "--url", f"http://127.0.0.1:{server.port}")
    assert "no worker answers" in result.stdout
    assert "ServerDisconnectedError" in result.stdout


async def test_who_stalls_is_given_up() -> None:
    async with RawServer(Connection.gone) as server:
        url = f"http://127.0.0.1:{server.port}"
        snapshot = await asyncio.to_thread(command.take_snapshot, url, within=0.3)
    assert not snapshot.well
    assert snapshot.sentences == (
        f"no worker answers at {url}: nothing within 0.3 s; see its log, it may be stuck",
    )


@pytest.mark.parametrize(
    "body",
    [
        b"<html>not found</html>",
        b"",
        b"[]",
        b"{}",
        b'{"consuming": true}',
        b'{"consuming": true, "circuit_breakers": "none"}',
        b'{"consuming": true, "circuit_breakers": {}, "x": "' + b"x" * command.LARGEST_ANSWER + b'"}',
    ],
    ids=["HTML", "empty", "list", "nothing", "half", "odd", "over 1 MiB"],
)
async def test_what_answers_something_else_is_no_worker(body: bytes) -> None:
    async def serve(connection: Connection) -> None:
        while True:
            await connection.request()
            await connection.answer(body)

    async with RawServer(serve) as server:
        url = f"http://127.0.0.1:{server.port}"
        result = await crm_sync("status", "--url", url)
    assert result.exit_code == 1
    assert result.stdout.startswith(f"✗ what answers at {url} is no worker of crm-sync; ")


# --- where it asks --------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return a function that runs the command and returns the address that it asked."""
    seen: list[str] = []

    def look(base: str) -> command.Snapshot:
        seen.append(base)
        return command.Snapshot(base, well=True, sentences=())

    monkeypatch.setattr(command, "take_snapshot", look)

    def ask(*arguments: str) -> str:
        assert CliRunner().invoke(app, ["status", *arguments]).exit_code == 0
        return seen.pop()

    return ask


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ({}, "http://127.0.0.1:8080"),
        ({"HTTP__PORT": "9090"}, "http://127.0.0.1:9090"),
        ({"HTTP__HOST": "10.0.0.7", "HTTP__PORT": "9090"}, "http://10.0.0.7:9090"),
        ({"HTTP__HOST": "::"}, "http://[::1]:8080"),
        (
            {"HTTP__PORT": "9090", "BROKER__URL": "nonsense", "VICIDIAL__PASWORD": "x"},
            "http://127.0.0.1:9090",
        ),
        ({"HTTP__PORT": "nonsense"}, "http://127.0.0.1:8080"),
    ],
    ids=str,
)
def test_the_address_is_that_of_the_settings_whatever_else_is_wrong_with_them(
    asked: Callable[..., str], monkeypatch: pytest.MonkeyPatch, given: dict[str, str], address: str
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(f"CRM_SYNC_{name}", value)
    assert asked() == address
    assert asked("--url", "https://other.example/worker/") == "https://other.example/worker"


def test_the_address_may_stand_in_the_yaml_file(asked: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "crm-sync.yaml").write_text("http: {port: 9191}\nvicidial: {password_file: /nowhere}\n")
    assert asked("--config", str(tmp_path / "crm-sync.yaml")) == "http://127.0.0.1:9191"


# --- watching -------------------------------------------------------------------------------------


async def test_watching_redraws_until_ctrl_c_and_survives_a_worker_that_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = Console(force_terminal=True, width=100, color_system=None, record=True, highlight=False)
    for module in (command, terminal):
        monkeypatch.setattr(module, "out", screen)
    pauses: list[float] = []
    looks = iter([answer(), answer(consuming=False), {"nobody": "knows this"}])
    reported: dict[str, Any] = next(looks)

    def pause(seconds: float) -> None:
        nonlocal reported
        pauses.append(seconds)
        if len(pauses) == 3:
            raise KeyboardInterrupt
        reported = next(looks)

    monkeypatch.setattr(command, "time", SimpleNamespace(sleep=pause))
    served = health.serve(
        HttpSettings(host="127.0.0.1", port=0), metrics=Metrics(), ready=lambda: True, status=lambda: reported
    )
    async with served as port:
        result = await crm_sync("status", "--watch", "--url", f"http://127.0.0.1:{port}")
    assert result.exit_code == 1, "as it was at the last look"
    assert pauses == [2.0, 2.0, 2.0]
    text = screen.export_text()
    marks = [text.index(said) for said in ("all is well", "it consumes nothing", "is no worker of crm-sync")]
    assert marks == sorted(marks)
    assert "UTC, every 2 s; Ctrl-C ends it" in text


async def test_the_first_look_can_be_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: str) -> command.Snapshot:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "take_snapshot", interrupted)
    monkeypatch.setattr(command, "out", Console(force_terminal=True, width=100, color_system=None))
    result = await crm_sync("status", "--watch", "--url", "http://127.0.0.1:8080")
    assert result.exit_code == 1
