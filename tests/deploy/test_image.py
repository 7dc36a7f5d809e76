"""The container image: what its Dockerfile says, what that builds, and how it runs locked down.

No container engine is needed: `tests.deploy.container` follows the Dockerfile as written, in a tree of its
own, and runs what comes out as an engine would.
"""

import asyncio
import json
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from simulators.broker_node import free_ports
from tests.deploy.container import Image, build, need_namespaces
from tests.deploy.dockerfile import is_left_out, read
from tests.locks import could_install
from tests.system.harness import PASSWORD, System, eventually
from worker import __version__
from worker.settings.tree import HttpSettings

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"
INSTRUCTIONS = read(DOCKERFILE.read_text(encoding="utf-8"))
IGNORED = (ROOT / ".dockerignore").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

pytestmark = [pytest.mark.system, pytest.mark.timeout(300), pytest.mark.verify]


def the(name: str) -> str:
    """Return the text of the one instruction of that name."""
    (found,) = (each.text for each in INSTRUCTIONS if each.name == name)
    return found


@pytest.fixture(scope="module")
def context() -> list[str]:
    """Name the files that a build on a clean checkout is given: what git tracks, or is about to."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for path in done.stdout.splitlines() if (ROOT / path).is_file()]


class TestTheDockerfile:
    def test_hadolint_finds_nothing_and_has_to_ignore_nothing(self, tmp_path: Path) -> None:
        text = DOCKERFILE.read_text(encoding="utf-8")
        assert "hadolint ignore" not in text
        assert self.lint(text, tmp_path) == ""
        assert "DL3042" in self.lint(text.replace("--no-cache-dir", ""), tmp_path), "it does look"

    @staticmethod
    def lint(text: str, folder: Path) -> str:
        """Return what hadolint says, in a folder without a configuration."""
        hadolint = Path(sys.executable).with_name("hadolint")
        done = subprocess.run(
            [hadolint, "-"], input=text, cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == int(bool(done.stdout)), done.stderr
        return done.stdout + done.stderr

    def test_all_that_it_copies_is_in_the_checkout_and_let_in(self, context: list[str]) -> None:
        sources = [
            source
            for each in INSTRUCTIONS
            if each.name == "COPY" and "from" not in each.flags
            for source in each.arguments[:-1]
        ]
        assert sources
        let_in = {path for path in context if not is_left_out(path, IGNORED)}
        for source in sources:
            assert any(path == source or path.startswith(f"{source}/") for path in let_in), source
        others = {path for path in let_in if path.split("/")[0] not in sources}
        assert others == set(), "sent to the builder and copied nowhere"

    @pytest.mark.parametrize(
        "path", [".env", "secrets/password", "tests/conftest.py", ".git/config", "worker/__pycache__/x.pyc"]
    )
    def test_what_has_no_place_in_an_image_is_not_even_sent(self, path: str) -> None:
        assert is_left_out(path, IGNORED)

    def test_every_stage_has_the_same_base_named_once_slim_and_exact(self) -> None:
        bases = {each.arguments[0] for each in INSTRUCTIONS if each.name == "FROM"}
        assert bases == {"python:${PYTHON}"}
        tag = INSTRUCTIONS[0].pairs({})["PYTHON"]
        match = re.fullmatch(r"(3\.\d+)-slim-[a-z]+", tag)
        assert match is not None, tag
        assert f"Programming Language :: Python :: {match[1]}" in PROJECT["classifiers"]

    @pytest.mark.parametrize("platform", ["x86_64", "aarch64"])
    def test_every_dependency_has_a_wheel_for_its_python(self, platform: str) -> None:
        python = INSTRUCTIONS[0].pairs({})["PYTHON"].partition("-")[0]
        done = could_install("requirements.lock", python, f"{platform}-manylinux_2_28")
        assert done.returncode == 0, done.stderr
        assert "aiohttp==" in done.stderr

    def test_it_says_how_to_stop_the_port_and_the_user_as_the_worker_has_them(self) -> None:
        assert the("STOPSIGNAL") == "SIGTERM"
        assert the("EXPOSE") == str(HttpSettings.model_fields["port"].default)
        assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", the("USER"))


@pytest.fixture(scope="module")
def image(context: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """Build the image as the Dockerfile says; takes the package index, and half a minute."""
    need_namespaces()
    folder = tmp_path_factory.mktemp("image")
    yield build(DOCKERFILE, context, folder)
    shutil.rmtree(folder)  # a hundred megabytes; what was mounted in it ended with its processes


def lines_of(image: Image, script: str, log: Path) -> list[str]:
    """Run a Python script in the image, locked down, and give what it prints."""
    status, text = image.run(["python", "-c", script], {}, log)
    assert status == 0, text
    return text.splitlines()


class TestWhatIsBuilt:
    def test_it_holds_the_locked_versions_the_worker_and_nothing_that_installs(
        self, image: Image, tmp_path: Path
    ) -> None:
        script = (
            "import importlib.metadata as m; [print(d.name.lower(), d.version) for d in m.distributions()]"
        )
        found = dict(line.split() for line in lines_of(image, script, tmp_path / "log"))
        assert found.pop(PROJECT["name"]) == PROJECT["version"] == __version__
        lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
        locked = dict(re.findall(r"^([\w.-]+)==([\w.]+)", lock, re.MULTILINE))
        normal = {name.replace("_", "-").replace(".", "-"): version for name, version in found.items()}
        assert len(normal) > 20
        assert normal.items() <= locked.items()
        assert not {"pip", "setuptools", "wheel", "hatchling"} & found.keys()

    def test_no_pip_is_left_neither_the_base_images_nor_one_of_its_own(self, image: Image) -> None:
        places = (image.root / "base", image.root / "opt/crm-sync")
        programs = {path.name for place in places for path in (place / "bin").iterdir()}
        assert {"python", "crm-sync"} <= programs
        assert not [name for name in programs if name.startswith(("pip", "hatch"))]
        assert [path for place in places for path in place.glob("lib/python*/site-packages/pip")] == []

    def test_every_module_is_compiled_for_good(self, image: Image) -> None:
        """So that a start, which can keep no bytecode, need not compile it again."""
        modules = list((image.root / "opt/crm-sync/lib").rglob("site-packages/worker/**/*.py"))
        assert len(modules) > 50
        for module in modules:
            (compiled,) = module.parent.glob(f"__pycache__/{module.stem}.cpython-*.pyc")
            assert compiled.read_bytes()[4:8] == b"\x01\0\0\0", "0b01: by hash, unchecked (PEP 552)"

    def test_it_is_labelled(self, image: Image) -> None:
        said = {name.removeprefix("org.opencontainers.image."): text for name, text in image.labels.items()}
        assert said.keys() == {"title", "description", "licenses", "version", "revision", "source"}
        assert said["licenses"] == PROJECT["license"]


LOCKED_IN = """
import errno, json, os
refused = {}
for place in ("/", "/tmp", "/opt/crm-sync", "/etc", "/dev", "/proc/sys/kernel/hostname"):
    try:
        open(place if os.path.isfile(place) else os.path.join(place, "x"), "w")
    except OSError as error:
        refused[place] = errno.errorcode[error.errno]
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps([refused, os.getpid(), os.getresuid(), os.getresgid(), os.getgroups(),
                  [status[name].strip() for name in ("NoNewPrivs", "CapEff", "CapBnd")]]))
"""


def pid_of(process: subprocess.Popen[bytes]) -> psutil.Process | None:
    """Find the process that an image's `start` has started: its own process 1, seen from outside."""
    children = psutil.Process(process.pid).children() if process.poll() is None else []
    return next((child for child in children if child.name() not in ("sh", "unshare")), None)


@contextmanager
def started(image: Image, settings: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the image as it is, until the end of the block."""
    process = image.start([*image.entrypoint, *image.command], settings, log)
    try:
        yield process
    finally:
        process.kill()  # its --kill-child takes the worker along
        process.wait(10)


class TestRunning:
    """Always as the image's user, without capabilities, under a root file system that is read-only."""

    def test_nothing_can_be_written_and_no_right_is_left(self, image: Image, tmp_path: Path) -> None:
        (line,) = lines_of(image, LOCKED_IN, tmp_path / "log")
        refused, pid, users, groups, others, rights = json.loads(line)
        assert len(refused) == 6
        assert set(refused.values()) <= {"EROFS", "EACCES"}
        assert list(refused.values()).count("EROFS") >= 4
        assert pid == 1
        assert {f"{user}:{group}" for user in users for group in groups} == {image.user}
        assert others == []
        assert rights == ["1", "0" * 16, "0" * 16]

    def test_without_settings_it_names_what_is_missing(self, image: Image, tmp_path: Path) -> None:
        status, text = image.run([*image.entrypoint, *image.command], {}, tmp_path / "log")
        assert status == 2
        for name in ("VICIDIAL__URL", "VICIDIAL__USER", "VICIDIAL__PASSWORD", "SINK__URL"):
            assert f"CRM_SYNC_{name}" in text
        assert "Traceback" not in text

    async def test_it_delivers_calls_is_found_healthy_and_ends_on_its_stop_signal(
        self,
        image: Image,
        broker_url: str,
        namespace: str,
        open_system: Callable[[str, str], System],
        tmp_path: Path,
    ) -> None:
        system = open_system(broker_url, namespace)
        (port,) = free_ports(1)
        settings = system.settings(http__port=str(port), vicidial__password=PASSWORD)
        log = tmp_path / "worker.log"

        async def status_of(*command: str) -> int:
            status, _ = await asyncio.to_thread(image.run, command, settings, tmp_path / "beside.log")
            return status

        async def health() -> int:
            return await status_of(*image.health)

        assert await health() != 0
        with started(image, settings, log) as process:
            await eventually(lambda: '"consuming"' in log.read_text() or process.poll() is not None, 20)
            assert process.poll() is None, log.read_text()
            assert await health() == 0
            event = await system.call()
            await system.publish(event)
            await system.delivered(event["event_id"])
            assert await status_of("crm-sync", "check") == 0, (tmp_path / "beside.log").read_text()
            worker = pid_of(process)
            assert worker is not None
            assert worker.uids().real == int(image.user.partition(":")[0])
            worker.send_signal(signal.Signals[image.stop_signal])
            await eventually(lambda: process.poll() is not None, 15)
            assert process.returncode == 0, log.read_text()
        assert await health() != 0
        assert "Traceback" not in log.read_text()
