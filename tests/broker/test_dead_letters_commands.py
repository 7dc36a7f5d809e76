"""The commands for the dead letters say what they find and do, and lose nothing."""

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aio_pika.abc import AbstractQueue
from typer.testing import CliRunner, Result

from tests.broker.letters import CALL, FAILED_AT, HEADERS, Letters, command, open_letters, settings_for
from worker.cli import app
from worker.commands.dead_letters import Run, settle_all
from worker.core.events import EventType
from worker.rabbitmq.dead_letters import DeadLetters, Selection, replaying
from worker.rabbitmq.message import Header
from worker.rabbitmq.publisher import BrokerPublisher
from worker.rabbitmq.topology import build_topology
from worker.settings import BrokerCommandSettings

pytestmark = pytest.mark.broker


@pytest.fixture
def settings(broker_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch) -> BrokerCommandSettings:
    return settings_for(broker_url, namespace, monkeypatch)


@pytest.fixture
async def bench(settings: BrokerCommandSettings) -> AsyncIterator[Letters]:
    async with open_letters(settings) as opened:
        yield opened


def crm_sync(*arguments: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(app, ["dead-letters", *arguments], input=answer)


async def test_list_counts_by_reason_and_type(bench: Letters) -> None:
    assert (await command("list")).stdout == "no dead letters\n"
    await bench.bury_some()
    shown = await command("list", "--limit", "2")
    assert shown.exit_code == 0
    lines = shown.stdout.splitlines()
    assert lines[:3] == ["4 dead letters", "", "REASON\tTYPE\tCOUNT\tOLDEST\tNEWEST"]
    assert lines[3].startswith("rejected_by_sink\tcall.ended\t3\t2026-11-20 19:07:14+00:00\t")
    assert lines[4].startswith("invalid_event\tagent.onboarded\t1\t")
    assert lines[6] == "ID\tTYPE\tREASON\tATTEMPTS\tFAILED_AT\tERROR"
    assert lines[8].endswith(r"bad \x1b[31m\nid")  # nothing that would steer a terminal
    assert lines[9] == "… and 2 more; --limit 4 shows all"
    assert len(lines) == 10
    assert (await command("list", "--ids", "--type", "call.ended")).stdout.split() == ["e-0", "e-1", "e-2"]
    none = await command("list", "--reason", "not_found")
    assert none.stdout == "none of the 4 dead letters matches\n"


async def test_show_prints_everything(bench: Letters) -> None:
    await bench.bury_some()
    shown = (await command("show", "e-1")).stdout
    assert "error:        the webhook answered 422\n" in shown
    assert f"  {Header.STAGE}: deliver\n" in shown
    assert '  {\n    "type": "call.ended",\n    "call_id": "V1",\n' in shown
    assert "attempts:     12\n" in shown
    bad = (await command("show", "bad")).stdout
    assert r"error:        bad \x1b[31m\nid" in bad
    assert bad.endswith('body:\n  {"agent_user": 1\n')
    absent = await command("show", "e-9")
    assert (absent.exit_code, absent.stdout) == (1, "")
    assert "there is no dead letter e-9" in absent.stderr
    await bench.bury(b"\xff", {}, message_id="raw")
    assert "  (base64) /w==\n" in (await command("show", "raw")).stdout


@pytest.mark.parametrize(
    "body", ['{"call_id": "V1", "lead_id": 1e3}', '{"call_id": "V1", "call_id": "V2"}', r'{"a": "\u00e9 "}']
)
async def test_show_writes_nothing_of_the_body_differently(bench: Letters, body: str) -> None:
    await bench.bury(body.encode(), {}, message_id="m-1")
    assert (await command("show", "m-1")).stdout.endswith(f"body:\n  {body}\n")


async def test_a_dry_run_says_what_would_be_sent_where_and_in_which_order(
    bench: Letters, namespace: str
) -> None:
    await bench.bury_some()
    dead, calls = bench.topology.dead_letters, f"{namespace}.call-ended"
    dry = await command("replay", "--all", "--dry-run")
    assert dry.exit_code == 0
    assert dry.stdout.splitlines()[3:] == [
        "",
        "ID\tTYPE\tREASON\tTO\tENRICHMENT",
        f"e-0\tcall.ended\trejected_by_sink\t{calls}\tcarried",
        f"e-1\tcall.ended\trejected_by_sink\t{calls}\tcarried",
        f"e-2\tcall.ended\trejected_by_sink\t{calls}\tcarried",
        f"bad\tagent.onboarded\tinvalid_event\t{namespace}.agent-onboarded\tnone",
        "",
        "would replay 4, and ask the dialer about 1 of them; nothing was changed",
    ]
    again = (await command("replay", "e-1", "--look-up-again", "--dry-run")).stdout
    assert f"e-1\tcall.ended\trejected_by_sink\t{calls}\tdropped\n" in again
    assert "would replay 1, and ask the dialer about 1 of them" in again
    assert (await command("replay", "e-7", "--dry-run")).exit_code == 1
    await bench.holds(dead, 4)
    assert [letter.id for letter in await bench.letters(4)] == ["e-0", "e-1", "e-2", "bad"]
    assert await bench.count(calls) == 0


@pytest.mark.parametrize("rate", ["0", "-1", "nan", "0.009"])
async def test_a_rate_is_more_than_next_to_nothing(bench: Letters, rate: str) -> None:
    assert (await command("replay", "--all", "--rate", rate)).exit_code == 2


async def test_replay_takes_what_is_named_by_reason_and_type_and_looks_up_again_on_demand(
    bench: Letters,
) -> None:
    await bench.bury_some()
    assert (await command("replay", "--reason", "not_found")).stdout == "replayed 0, left 4\n"
    one = await command("replay", "e-0", "--reason", "rejected_by_sink", "--look-up-again")
    assert one.stdout == "replayed 1, left 3\n"
    calls = bench.topology.work_queues[EventType.CALL_ENDED]
    assert Header.ENRICHMENT not in (await bench.take(calls)).headers
    assert (await command("replay", "--type", "call.ended")).stdout == "replayed 2, left 1\n"
    taken = [await bench.take(calls) for _ in range(2)]
    assert [message.headers[Header.EVENT_ID] for message in taken] == ["e-1", "e-2"]
    assert all(Header.ENRICHMENT in message.headers for message in taken)


def test_a_long_replay_lets_go_now_and_then_of_what_it_leaves(
    settings: BrokerCommandSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker would end it: no channel may hold a message for half an hour."""
    held: list[int] = []

    class Watched(DeadLetters):
        def __init__(self, queue: AbstractQueue, count: int) -> None:
            super().__init__(queue, count)
            held.append(count)

    async def set_up() -> None:
        async with open_letters(settings) as letters:
            await letters.bury(b"x", {}, "elsewhere", message_id="lost")
            for number in range(12):
                reason = "not_found" if number % 2 else "rejected_by_sink"
                await letters.bury(CALL, HEADERS | {Header.EVENT_ID: f"e-{number}", Header.REASON: reason})
            await letters.holds(letters.topology.dead_letters, 13)

    async def left() -> tuple[set[str], int]:
        async with open_letters(settings) as letters:
            dead = {letter.id for letter in await letters.letters(7)}
            return dead, await letters.count(letters.topology.work_queues[EventType.CALL_ENDED])

    asyncio.run(set_up())
    monkeypatch.setattr("worker.rabbitmq.dead_letters.DeadLetters", Watched)
    publisher = BrokerPublisher()
    run = Run(Selection(reason="not_found"), rate=20, hold_at_most=0.15)
    settle_all(settings, run, replaying(publisher, build_topology(settings).work_exchange), publisher)
    assert (run.progress.done, run.count, run.problems) == (6, 13, [])
    assert len(held) > 1
    assert held == sorted(held, reverse=True)
    monkeypatch.undo()
    assert asyncio.run(left()) == ({"lost", *(f"e-{number}" for number in range(0, 12, 2))}, 6)


async def test_replay_says_what_it_did(bench: Letters) -> None:
    await bench.bury_some()
    some = await command("replay", "e-0", "e-7", "e-8")
    assert (some.exit_code, some.stdout) == (1, "replayed 1, left 3\n")
    assert some.stderr == "crm-sync: not among the selected dead letters:\n  e-7\n  e-8\n"
    rest = await command("replay", "--all")
    assert (rest.exit_code, rest.stdout, rest.stderr) == (0, "replayed 3, left 0\n", "")
    await bench.holds(bench.topology.work_queues[EventType.CALL_ENDED], 3)
    await bench.holds(bench.topology.work_queues[EventType.AGENT_ONBOARDED], 1)


async def test_a_replay_that_is_stopped_loses_nothing(bench: Letters) -> None:
    for number in range(50):
        await bench.bury(CALL, HEADERS | {Header.EVENT_ID: f"e-{number}"})
    work, dead = bench.topology.work_queues[EventType.CALL_ENDED], bench.topology.dead_letters
    await bench.holds(dead, 50)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "worker", "dead-letters", "replay", "--all", "--rate", "20"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    async with asyncio.timeout(20):
        while not await bench.count(work):  # noqa: ASYNC110 - the broker notifies nobody
            await asyncio.sleep(0.02)
        process.send_signal(signal.SIGINT)
        stdout, stderr = await process.communicate()
    assert process.returncode == 1
    assert stderr == b"crm-sync: stopped before the end\n"
    replayed = await bench.count(work)
    assert 0 < replayed < 50
    assert stdout.decode() == f"replayed {replayed}, left {50 - replayed}\n"
    await bench.holds(dead, 50 - replayed)


async def test_a_replay_that_is_killed_loses_nothing(bench: Letters) -> None:
    for number in range(200):
        await bench.bury(CALL, HEADERS | {Header.EVENT_ID: f"e-{number}"})
    work, dead = bench.topology.work_queues[EventType.CALL_ENDED], bench.topology.dead_letters
    await bench.holds(dead, 200)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "worker", "dead-letters", "replay", "--all", "--rate", "400"),
        stdout=subprocess.DEVNULL,
    )
    async with asyncio.timeout(20):
        while await bench.count(work) < 20:  # noqa: ASYNC110 - the broker notifies nobody
            await asyncio.sleep(0.01)
        process.kill()
        await process.wait()
    left = {(await bench.take(dead)).headers[Header.EVENT_ID] for _ in range(await bench.back(dead))}
    replayed = [(await bench.take(work)).headers[Header.EVENT_ID] for _ in range(await bench.count(work))]
    assert left | set(replayed) == {f"e-{number}" for number in range(200)}
    assert len(left) < 200
    assert len(left & set(replayed)) <= 1  # confirmed, and not yet acknowledged


async def test_a_replay_without_a_way_back_stays_and_is_named(bench: Letters) -> None:
    await bench.bury(b"x", {}, "elsewhere", message_id="lost")
    await bench.holds(bench.topology.dead_letters, 1)
    stuck = await command("replay", "--all")
    assert (stuck.exit_code, stuck.stdout) == (1, "replayed 0, left 1\n")
    assert stuck.stderr == (
        "crm-sync: these were not moved, because their queue is unknown or the broker accepts no copy of"
        " them:\n  lost\n"
    )
    dry = (await command("replay", "--all", "--dry-run")).stdout
    assert "lost\tunknown\tunknown\tstays: its queue is unknown\tnone\n" in dry
    assert dry.endswith("would replay 0, and ask the dialer about 0 of them; nothing was changed\n")
    await bench.bury(CALL, HEADERS)
    async with bench.connection.channel() as channel:
        await channel.exchange_delete(bench.topology.work_exchange)
    failed = await command("replay", "e-1")
    assert failed.exit_code == 1
    assert failed.stdout.endswith("replayed 0, left 2\n")


async def test_discard_asks_first(bench: Letters, monkeypatch: pytest.MonkeyPatch) -> None:
    await bench.bury_some()
    nobody = await command("discard", "--all")
    assert nobody.exit_code == 2
    assert "use --yes" in nobody.stderr
    done = await command("discard", "--reason", "invalid_event", "--yes")
    assert (done.exit_code, done.stdout) == (0, "discarded 1, left 3\n")
    await bench.holds(bench.topology.dead_letters, 3)


def test_discard_throws_away_only_after_a_yes(
    settings: BrokerCommandSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def set_up() -> None:
        async with open_letters(settings) as letters:
            await letters.bury_some()

    asyncio.run(set_up())
    monkeypatch.setattr("worker.commands.dead_letters.sys", type("Sys", (), {"stdin": Terminal()}))
    refused = crm_sync("discard", "--all", answer="n\n")
    assert refused.exit_code == 1
    assert "nothing was discarded" in refused.stderr
    agreed = crm_sync("discard", "--type", "call.ended", answer="y\n")
    assert agreed.stdout.endswith("discarded 3, left 1\n")
    none = crm_sync("discard", "e-0")
    assert none.exit_code == 1
    assert none.stdout == "discarded 0, left 1\n"


class Terminal:
    """Standard input at which a person sits."""

    def isatty(self) -> bool:
        return True


async def test_export_writes_all_and_takes_nothing(bench: Letters, tmp_path: Path) -> None:
    await bench.bury_some()
    file = tmp_path / "out.ndjson"
    done = await command("export", str(file))
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "exported 4 dead letters\n")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["id"] for line in lines] == ["e-0", "e-1", "e-2", "bad"]
    assert lines[0]["body"] == CALL.decode()
    assert lines[0]["failed_at"] == FAILED_AT.isoformat()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [file]  # noqa: ASYNC240
    shown = await command("export", "-")
    assert [json.loads(line)["id"] for line in shown.stdout.splitlines()] == ["e-0", "e-1", "e-2", "bad"]
    for path, why in {
        tmp_path / "no" / "out": "No such file or directory",
        tmp_path: "Is a directory",
        Path("/dev/full"): "No space left on device",
    }.items():
        failed = await command("export", str(path))
        assert (failed.exit_code, failed.stderr) == (1, f"crm-sync: can't write {path}: {why}\n")
    assert (await command("export", "/dev/null")).exit_code == 0
    assert Path("/dev/null").is_char_device()  # noqa: ASYNC240
    await bench.holds(bench.topology.dead_letters, 4)


async def test_an_export_replaces_no_file_unless_forced(bench: Letters, tmp_path: Path) -> None:
    await bench.bury_some()
    file = tmp_path / "out.ndjson"
    file.write_text("the only copy\n")
    refused = await command("export", str(file))
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr == f"crm-sync: {file} exists; name another file, or replace it with --force\n"
    assert file.read_text() == "the only copy\n"
    assert list(tmp_path.iterdir()) == [file]  # noqa: ASYNC240
    assert (await command("export", str(file), "--force")).exit_code == 0
    assert len(file.read_text().splitlines()) == 4


async def test_what_a_message_holds_can_not_steer_the_terminal(bench: Letters, tmp_path: Path) -> None:
    odd = "\x7f\x9b31m\u202eabc\u2066"
    await bench.bury(json.dumps({"x": odd}, ensure_ascii=False).encode(), {"odd": odd}, message_id="m-1")
    for printed in ((await command("export", "-")).stdout, (await command("show", "m-1")).stdout):
        assert all(line.isprintable() for line in printed.splitlines())
    line = json.loads((await command("export", "-")).stdout)
    assert json.loads(line["body"]) == {"x": odd}
    assert line["headers"]["odd"] == odd


async def test_an_export_whose_reader_has_gone_ends_quietly(bench: Letters) -> None:
    await bench.bury_some()
    reading, writing = os.pipe()
    os.close(reading)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "worker", "dead-letters", "export", "-"),
        stdout=writing,
        stderr=subprocess.PIPE,
    )
    os.close(writing)
    _, stderr = await asyncio.wait_for(process.communicate(), 30)
    assert (process.returncode, stderr) == (1, b"")
    await bench.holds(bench.topology.dead_letters, 4)


async def test_trouble_with_the_broker_is_a_sentence(
    settings: BrokerCommandSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = await command("list")
    assert absent.exit_code == 1
    assert "start the worker or run crm-sync topology first" in absent.stderr
    secret = "hush-hush"
    url = settings.broker.url[0].get_secret_value()
    monkeypatch.setenv("CRM_SYNC_BROKER__URL", url.replace("guest:guest", f"guest:{secret}"))
    refused = await command("replay", "--all")
    assert refused.exit_code == 1
    assert "the broker refused the login" in refused.stderr
    monkeypatch.setenv("CRM_SYNC_BROKER__URL", f"amqp://guest:{secret}@127.0.0.1:1/")
    unreachable = await command("list")
    assert unreachable.exit_code == 1
    assert "127.0.0.1:1: the broker can't be reached" in unreachable.stderr
    assert secret not in refused.output + unreachable.output
