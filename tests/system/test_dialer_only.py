"""`crm-sync demo --dialer-only` as an integrator runs it: it says how to ask it, and shows what was asked."""

import re
import shlex
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Final

import psutil
import pytest

from tests.system.harness import crm_sync, environment

pytestmark = [pytest.mark.system, pytest.mark.timeout(60), pytest.mark.verify]

WITHIN: Final = 20.0
CALL: Final = "V1201405090000012345"


class Dialer:
    """One dialer in the foreground, and what it said so far."""

    def __init__(self, *arguments: str, **settings: str) -> None:
        """Start it on any free port, and read the instructions."""
        self.process = subprocess.Popen(
            [*crm_sync(), "demo", "--dialer-only", "--port", "0", *arguments],
            env=environment(settings),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.instructions = self.read_until("Ctrl-C stops it.")
        self.read_until("\n")

    def read_until(self, words: str) -> str:
        """Read lines up to the one that holds the words."""
        said = ""
        for line in self.process.stdout or ():
            said += line
            if words in line:
                return said
        raise AssertionError(f"{words!r} was never said, but:\n{said}")

    def after(self, title: str) -> list[str]:
        """Return the indented lines under a title of the instructions."""
        _, _, rest = self.instructions.partition(f"\n{title}\n")
        return [line.strip() for line in rest.partition("\n\n")[0].splitlines()]

    def value(self, name: str) -> str:
        """Return what the instructions say of the address, the user, the password or the page."""
        match = re.search(rf"^  {name} +(\S+)$", self.instructions, re.MULTILINE)
        assert match is not None, self.instructions
        return match[1]

    def stop(self, number: signal.Signals = signal.SIGINT) -> tuple[int, str, str]:
        """End it. Return the exit status and what else it said."""
        self.process.send_signal(number)
        said, complained = self.process.communicate(timeout=WITHIN)
        return self.process.returncode, said, complained

    def kill(self) -> None:
        """Let nothing be left, however the test ends."""
        if self.process.poll() is None:
            self.process.kill()
        with self.process:
            pass


@pytest.fixture
def dialer() -> Iterator[Dialer]:
    started = Dialer()
    yield started
    started.kill()


def curl(line: str) -> str:
    """Do what curl does with this line, whatever the status."""
    *options, address = shlex.split(line)[1:]
    assert options[:1] in ([], ["-d"])
    return get(address, options[1].encode() if options else None)


def get(address: str, form: bytes | None = None) -> str:
    assert address.startswith("http://127.0.0.1:")
    try:
        with urllib.request.urlopen(address, form, timeout=WITHIN) as response:  # noqa: S310 - see above
            return str(response.read().decode())
    except urllib.error.HTTPError as error:
        with error:
            return error.read().decode()


def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*crm_sync(), *arguments],
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=WITHIN,
        check=False,
    )


def test_what_it_prints_works(dialer: Dialer) -> None:
    call, agent = dialer.after("Ask it:")
    assert curl(call) == (
        "call_id|custtime|call_date|phone|call_type|campaign_id|list_id|status|user\n"
        f"{CALL}|120|2026-11-20 14:05:09|3125551212|OUTBOUND_AUTO|SALES1|1001|SALE|1000\n"
    )
    assert dialer.read_until("callid_info").endswith(" ms)\n")
    assert "1001|OUTONLY-RENEW_24-SUPP-1|RENEW_IN-SALESLINE-SUPPORTLINE\n" in curl(agent)
    page = get(dialer.value("page"))
    assert dialer.value("address") in page
    for line in dialer.after("Calls that live from the first question about them on:"):
        assert line.split()[0] in page
    status, said, complained = dialer.stop()
    assert (status, complained) == (0, "")
    assert re.search(r"^\d\d:\d\d:\d\d  agent_campaigns 1001  ok  \(GET, user crmsync, \d+ ms\)\n", said)
    assert said.endswith("stopped after 2 requests\n")


def test_its_settings_point_a_worker_at_it(dialer: Dialer) -> None:
    words = [shlex.split(line) for line in dialer.after("Point a worker at it:")]
    settings = dict(assignment.split("=", 1) for export, assignment in words if export == "export")
    assert settings["CRM_SYNC_VICIDIAL__URL"] == dialer.value("address")
    checked = run(
        "check",
        CRM_SYNC_BROKER__URL="amqp://127.0.0.1:1/",
        CRM_SYNC_SINK__URL="http://127.0.0.1:1/",
        **settings,
    )
    assert re.search(r"^✓ ok +dialer ", checked.stdout, re.MULTILINE), checked.stdout
    assert "version" in dialer.read_until("version")


def test_each_request_is_a_line_and_no_password_that_was_sent_is_shown(dialer: Dialer) -> None:
    address = dialer.value("address")
    get(f"{address}?user=crmsync&pass=s3cret&source=test&function=callid_info&call_id={CALL}")
    curl(f"curl -d 'user=crmsync&pass=s3cret&source=test&function=agent_campaigns&agent_user=1000' {address}")
    get(address.replace("non_agent_api", "agent_api") + "?pass=s3cret")
    get(f"{address}?function=%1b%5b2J")
    get(address)
    said = dialer.stop()[1]
    for line in (
        f"  callid_info {CALL}  ERROR: Login incorrect, please try again  (GET, user crmsync, ",
        "  agent_campaigns 1000  ERROR: Login incorrect, please try again  (POST, user crmsync, ",
        "  /vicidial/agent_api.php  not here: the API is at /vicidial/non_agent_api.php  (GET, ",
        "  (no function)  ERROR: Login incorrect, please try again  (GET, ",
    ):
        assert line in said, said
    assert "s3cret" not in said
    assert "\x1b" not in said
    assert said.endswith("stopped after 4 requests\n")


def test_a_call_lives_while_one_watches(dialer: Dialer) -> None:
    address, page = dialer.value("address"), dialer.value("page")
    rung = get(f"{page}control", b'{"ring": {"life": "endless", "phone": "15550001"}}')
    (call_id,) = re.findall(r"V\d{19}", rung)
    login = "user=crmsync&pass=Dialer-Pass-1&source=test"
    said = get(f"{address}?{login}&function=callid_info&call_id={call_id}&detail=YES")
    assert said.startswith(f"{call_id}|0|")
    assert said.endswith("|15550001|OUTBOUND_AUTO|SALES1|1001|INCALL|1000\n")


def test_it_speaks_the_tutorials_dialect() -> None:
    dialer = Dialer("--dialect", "tutorial", "--service-time", "5ms")
    try:
        call, agent = dialer.after("Ask it:")
        assert curl(call).endswith("|Outbound|agent001|9876543210|Answered|rec_1000012345.wav\n")
        assert curl(agent) == "agent001|Campaign1|Outbound Sales|Campaign2|Inbound Support\n"
        assert "NOW: service_time 0.005 s" in get(dialer.value("page"))
        assert dialer.stop()[0] == 0
    finally:
        dialer.kill()


def test_it_ends_at_sigterm_and_listens_on_this_machine_only(dialer: Dialer) -> None:
    process = psutil.Process(dialer.process.pid)
    listening = {each.laddr.ip for each in process.net_connections() if each.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}
    assert dialer.instructions.startswith("A stand-in dialer is listening, on this machine only (127.0.0.1).")
    assert dialer.stop(signal.SIGTERM) == (0, "stopped after 0 requests\n", "")


def test_it_ends_when_nobody_reads_it_any_more(dialer: Dialer) -> None:
    assert dialer.process.stdout is not None
    dialer.process.stdout.close()
    assert get(dialer.value("address") + "?function=version").startswith("VERSION: ")
    assert dialer.process.wait(WITHIN) == 0
    assert dialer.process.stderr is not None
    assert dialer.process.stderr.read() == ""


def test_a_port_that_is_taken_is_a_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = run("demo", "--dialer-only", "--port", str(port))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == (
        f"crm-sync: port {port} on 127.0.0.1 is taken; choose another with --port, or 0 for any free one\n"
    )


def test_the_address_of_a_broker_in_the_environment_is_no_hindrance() -> None:
    dialer = Dialer(CRM_SYNC_BROKER__URL="amqp://127.0.0.1:1/")
    try:
        assert dialer.stop()[0] == 0
    finally:
        dialer.kill()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--port", "8090"), "--port: works only with --dialer-only"),
        (("--dialect", "real"), "--dialect: works only with --dialer-only"),
        (("--service-time", "5ms"), "--service-time: works only with --dialer-only"),
        (("--dialer-only", "--broker", "amqp://127.0.0.1:1/"), "--broker: is of no use with --dialer-only"),
        (("--dialer-only", "--service-time", "soon"), "write a duration such as 500ms"),
        (("--dialer-only", "--port", "70000"), "65535"),
        (("--dialer-only", "--dialect", "klingon"), "klingon"),
    ],
)
def test_wrong_usage_is_reported_at_once(arguments: tuple[str, ...], complaint: str) -> None:
    ended = run("demo", *arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert complaint in " ".join(ended.stderr.split())


def test_its_help_teaches() -> None:
    ended = run("demo", "--help")
    assert "crm-sync demo --dialer-only --port 8090 --service-time 5ms" in ended.stdout
    assert "[default: 8089]" in ended.stdout
