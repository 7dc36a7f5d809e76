"""`crm-sync demo` as a person runs it: it shows everything, and it leaves nothing behind."""

import fcntl
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import aiormq
import psutil
import pytest

from tests.system.harness import connect, crm_sync, environment

pytestmark = [pytest.mark.system, pytest.mark.timeout(400), pytest.mark.verify]

WITHIN: Final = 90.0
"""Until a demo has ended by itself. It takes 13 s on a quiet machine; how long is for no test to judge."""
ENDS_WITHIN: Final = 8.0
PLACES: Final = "/usr/sbin:/usr/lib/rabbitmq/bin:/opt/homebrew/sbin:/usr/local/sbin"
PARTS: Final = ("call-ended", "agent-onboarded", "dead-letters", "retry.1s", "retry.2s")
REASONS: Final = ("invalid_event", "not_found", "rejected_by_dialer", "rejected_by_sink")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """Yield the folder in which all the demo's temporary things are made; at the end nothing is left."""
    yield tmp_path
    assert processes_of(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def _rabbitmq() -> None:
    path = f"{os.environ.get('PATH', '')}:{PLACES}"
    if shutil.which("rabbitmq-server", path=path) is None and not os.environ.get("CI"):
        pytest.skip("RabbitMQ is not installed here")


def processes_of(folder: Path) -> list[str]:
    """Find every process that was started with this folder for its temporary files, whoever its parent is."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TMPDIR") == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{process.pid} {process.cmdline()}")
        except psutil.Error:
            continue
    return found


def start(folder: Path, *arguments: str, **settings: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*crm_sync(), "demo", *arguments],
        env=environment(settings) | {"TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Wait for the end; a demo that hangs is killed, and the test fails."""
    with process:
        try:
            return process.communicate(timeout=WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


@pytest.mark.usefixtures("_rabbitmq")
def test_it_shows_every_event_to_its_end_without_any_setting(home: Path) -> None:
    process = start(home)
    said, complained = finish(process)
    assert process.returncode == 0, said + complained
    assert complained == ""
    assert "\x1b" not in said
    assert "Every event ended as it should: 16 events in 17 messages" in said
    assert "12 delivered" in said
    assert "4 in the dead letters" in said
    for reason in REASONS:
        assert re.search(rf"^ +1 {reason} ", said, re.MULTILINE), reason
    for sentence in (
        "call M120213000…: the dialer says CALL NOT FOUND; asks again in 1 s",
        "call M120213000…: delivered after 7 looks, the CRM answers 200",
        "the CRM answers 503; delivered again in 1 s",
        "answered in the tutorials' dialect; delivered 200",
        '"type": "call.enriched"',
        "crm-sync dead-letters replay --reason",
        "crm-sync check",
        "crm-sync run",
    ):
        assert sentence in said, sentence


@pytest.mark.usefixtures("_rabbitmq")
def test_in_a_terminal_the_table_is_updated_in_place(home: Path) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    process = subprocess.Popen(
        [*crm_sync(), "demo"],
        env=environment({}) | {"TMPDIR": str(home), "TERM": "xterm-256color"},
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    said = read_all(ours)
    os.close(ours)
    assert process.wait(WITHIN) == 0, said
    assert "\x1b[1A" in said  # goes back up to draw anew
    assert said.rstrip().endswith("does to your events what you have just seen.")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said)
    assert "WHAT BECOMES OF IT" in plain
    assert "↻ asks again in 1 s" in plain
    assert all(len(line.rstrip("\r")) <= 80 for line in plain.split("\r\n")[-60:])


def read_all(descriptor: int) -> str:
    """Read a terminal until nobody writes to it any more."""
    parts = []
    while True:
        try:
            part = os.read(descriptor, 65536)
        except OSError:
            break
        if not part:
            break
        parts.append(part)
    return b"".join(parts).decode()


@pytest.mark.usefixtures("_rabbitmq")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_the_middle_ends_it_cleanly(home: Path, number: signal.Signals, status: int) -> None:
    process = start(home)
    read_until(process, "delivered, the CRM answers 200")
    process.send_signal(number)
    began = time.monotonic()
    said, complained = finish(process)
    assert process.returncode == status, said + complained
    assert time.monotonic() - began < ENDS_WITHIN
    assert said.endswith("stopped; nothing is left running\n")
    assert complained == ""


@pytest.mark.usefixtures("_rabbitmq")
def test_a_signal_while_rabbitmq_starts_ends_it_cleanly(home: Path) -> None:
    process = start(home)
    read_until(process, "starting RabbitMQ")
    process.send_signal(signal.SIGINT)
    said, complained = finish(process)
    assert process.returncode == 130, said + complained


def read_until(process: subprocess.Popen[str], words: str) -> str:
    said = ""
    for line in process.stdout or ():
        said += line
        if words in line:
            return said
    raise AssertionError(f"{words!r} was never said, but:\n{said}")


async def test_a_broker_that_was_given_is_left_as_it_was(home: Path, broker_url: str) -> None:
    process = start(home, CRM_SYNC_BROKER__URL=broker_url)
    said, complained = finish(process)
    assert process.returncode == 0, said + complained
    assert await left_on(broker_url, said) == []


async def test_a_signal_leaves_a_broker_that_was_given_as_it_was(home: Path, broker_url: str) -> None:
    process = start(home, "--broker", broker_url)
    said = read_until(process, "asks again")
    assert await left_on(broker_url, said) != []
    process.send_signal(signal.SIGINT)
    finish(process)
    assert process.returncode == 130
    assert await left_on(broker_url, said) == []


async def left_on(url: str, said: str) -> list[str]:
    """Name what stands on the broker of the namespace that the demo said it uses."""
    match = re.search(r"crm-sync-demo-[0-9a-f]+", said)
    assert match is not None, said
    left = []
    async with await connect(url) as connection:
        for name in PARTS:
            async with connection.channel() as channel:
                try:
                    await channel.declare_queue(f"{match[0]}.{name}", passive=True)
                    left.append(f"queue {name}")
                except aiormq.ChannelNotFoundEntity:
                    pass
        for name in ("events", "work", *PARTS[2:]):
            async with connection.channel() as channel:
                try:
                    await channel.declare_exchange(f"{match[0]}.{name}", passive=True)
                    left.append(f"exchange {name}")
                except aiormq.ChannelNotFoundEntity:
                    pass
    return left


def test_a_broker_that_is_not_there_is_a_sentence(home: Path) -> None:
    process = start(home, "--broker", "amqp://guest:s3cret@127.0.0.1:1/")
    said, complained = finish(process)
    assert process.returncode == 1
    assert "the broker at 127.0.0.1:1: the broker can't be reached" in complained
    assert "Traceback" not in complained
    assert "s3cret" not in said + complained


def test_an_address_that_is_none_is_wrong_usage(home: Path) -> None:
    process = start(home, "--broker", "nonsense")
    assert "is not an" in finish(process)[1]
    assert process.returncode == 2


def test_its_help_teaches(home: Path) -> None:
    process = start(home, "--help")
    said, _ = finish(process)
    assert process.returncode == 0
    assert "Nothing is left running" in said
    assert "CRM_SYNC_BROKER__URL" in said
