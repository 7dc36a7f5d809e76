"""Installing a lock does not depend on what the package index offers on the day.

The commands of this project are run as they stand, against an index on the disk: it has the locked version of
each package and a newer one, both with the requirements that the package really has. No network is used.
"""

import hashlib
import importlib.metadata
import os
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.locks import LOCKS, Pin, installs, pins

pytestmark = [pytest.mark.system, pytest.mark.timeout(600), pytest.mark.verify]

UNLOCKED = "appeared-today"
"""A package that no lock has, and that each package of the index needs: whoever resolves meets it."""

_INSTALLED = {canonicalize_name(each.name): each for each in importlib.metadata.distributions()}


def write_wheel(folder: Path, name: str, version: str, metadata: Sequence[str] = ()) -> str:
    """Write a wheel without modules; returns its hash."""
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    path = folder / f"{stem}-py3-none-any.whl"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *metadata]
    tags = ["Wheel-Version: 1.0", "Generator: tests", "Root-Is-Purelib: true", "Tag: py3-none-any"]
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{info}/METADATA", "\n".join(lines) + "\n")
        wheel.writestr(f"{info}/WHEEL", "\n".join(tags) + "\n")
        wheel.writestr(
            f"{info}/RECORD", "".join(f"{info}/{each},,\n" for each in ("METADATA", "WHEEL", "RECORD"))
        )
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_packages(folder: Path, pin: Pin) -> str:
    """Write a locked package and a newer version of it, with its real requirements and one more."""
    known = _INSTALLED[canonicalize_name(pin.name)]
    extras = [f"Provides-Extra: {each}" for each in known.metadata.get_all("Provides-Extra") or []]
    needs = [f"Requires-Dist: {each}" for each in (*(known.requires or []), UNLOCKED)]
    write_wheel(folder, pin.name, f"{Version(pin.version).base_version}.1", [*extras, *needs])
    return write_wheel(folder, pin.name, pin.version, [*extras, *needs])


@dataclass(frozen=True)
class Index:
    """A folder of wheels, with locks of the project's names and versions but of these wheels' hashes."""

    wheels: Path
    locks: Path
    pip: Sequence[str]

    def install(self, command: str, into: Path) -> subprocess.CompletedProcess[str]:
        """Run an install command of the project with this index and these locks."""
        words = shlex.split(command)
        options = words[words.index("install") :]
        environment = {"PATH": os.environ["PATH"], "HOME": str(into), "PIP_CONFIG_FILE": os.devnull}
        offline = {
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.wheels),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }
        return subprocess.run(
            [*self.pip, "--python", str(into / "bin" / "python"), *options],
            cwd=self.locks,
            env=environment | offline,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Make an index of all that is locked; the pip is the one that comes with this Python."""
    folder = tmp_path_factory.mktemp("index")
    wheels, locks = folder / "wheels", folder / "locks"
    wheels.mkdir()
    locks.mkdir()
    write_wheel(wheels, UNLOCKED, "1.0")
    hashes = {pin: write_packages(wheels, pin) for name in LOCKS for pin in pins(name)}
    for name in LOCKS:
        text = "".join(f"{pin.line(hashes[pin])}\n" for pin in pins(name))
        (locks / name).write_text(text, encoding="utf-8")
    subprocess.run([sys.executable, "-m", "venv", folder / "tool"], check=True)
    return Index(wheels, locks, [str(folder / "tool" / "bin" / "python"), "-m", "pip"])


def emptied(folder: Path) -> Path:
    """Make a virtual environment that holds nothing, not even pip."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder


def installed_in(place: Path) -> dict[str, str]:
    """Name what is installed in a virtual environment, with the versions."""
    (packages,) = place.glob("lib/python*/site-packages")
    found = importlib.metadata.distributions(path=[str(packages)])
    return {canonicalize_name(each.name): each.version for each in found}


COMMANDS = [
    (path, command)
    for path, commands in installs().items()
    if not path.endswith(".md")
    for command in commands
]


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=[command.split()[-1] for _, command in COMMANDS])
def test_a_lock_installs_as_it_stands_whatever_the_index_has(
    path: str, command: str, index: Index, tmp_path: Path
) -> None:
    lock = command.rsplit(maxsplit=1)[-1]
    place = emptied(tmp_path / "locked")
    done = index.install(command, place)
    assert done.returncode == 0, f"{path}: {done.stderr}"
    expected = {pin.name: pin.version for pin in pins(lock) if pin.marker is None or pin.marker.evaluate()}
    assert installed_in(place) == expected


def test_a_command_that_resolves_would_fail_with_this_index(index: Index, tmp_path: Path) -> None:
    (command,) = (each for _, each in COMMANDS if each.endswith("requirements-build.lock"))
    done = index.install(command.replace("--no-deps", ""), emptied(tmp_path / "resolved"))
    assert done.returncode != 0
    assert "--require-hashes" in done.stderr


def test_every_lock_is_installed_by_one_of_these_commands() -> None:
    assert {command.split()[-1] for _, command in COMMANDS} == set(LOCKS)
    assert {path for path, _ in COMMANDS} == {".ci/venv", "Dockerfile"}
