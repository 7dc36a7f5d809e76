"""The service's wheel goes without the simulators; their own wheel brings them, and the demo with them."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from worker import __version__

pytestmark = [pytest.mark.system, pytest.mark.verify, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Build both; returns the wheel by the name of its package."""
    folder = tmp_path_factory.mktemp("wheels")
    build = [
        str(Path(sys.executable).with_name("uv")),
        "build",
        "--wheel",
        "--no-build-isolation",
        "--offline",
    ]
    options = ["--no-cache", "--python", sys.executable, "--out-dir", str(folder)]
    for source in (ROOT, ROOT / "simulators"):
        done = subprocess.run([*build, *options, str(source)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return {path.name.partition("-")[0]: path for path in folder.glob("*.whl")}


def names_in(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def run(command: str, *wheels: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `python -m <command>` with nothing of ours but what is in the wheels.

    Without `site`, which would add the checkout: it is installed here in place.
    """
    for wheel in wheels:
        zipfile.ZipFile(wheel).extractall(folder)
    path = os.pathsep.join([str(folder), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    return subprocess.run(
        [sys.executable, "-S", "-P", "-m", *command.split()],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": path, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_services_wheel_holds_every_module_of_it_and_no_simulator(wheels: dict[str, Path]) -> None:
    found = names_in(wheels["vicidial_crm_sync"])
    assert {name.partition("/")[0] for name in found if ".dist-info/" not in name} == {"worker"}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "worker").rglob("*.py")}
    assert modules <= found


def test_the_services_wheel_holds_the_presets_of_crms(wheels: dict[str, Path], tmp_path: Path) -> None:
    presets = {path.relative_to(ROOT).as_posix() for path in (ROOT / "worker").rglob("*.yaml")}
    assert presets <= names_in(wheels["vicidial_crm_sync"])
    done = run("worker crm list", wheels["vicidial_crm_sync"], folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "hubspot\tHubSpot" in done.stdout


def test_the_simulators_wheel_holds_them_and_needs_the_service_of_its_version(
    wheels: dict[str, Path],
) -> None:
    found = names_in(wheels["crm_sync_simulators"])
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "simulators").rglob("*.py")}
    assert modules | {"simulators/recordings.jsonl"} <= found
    (name,) = (each for each in found if each.endswith("/METADATA"))
    metadata = Parser().parsestr(zipfile.ZipFile(wheels["crm_sync_simulators"]).read(name).decode())
    assert metadata["Version"] == __version__
    assert metadata.get_all("Requires-Dist") == [f"vicidial-crm-sync=={__version__}"]


def test_without_the_simulators_the_demo_says_how_to_get_them(
    wheels: dict[str, Path], tmp_path: Path
) -> None:
    done = run("worker demo", wheels["vicidial_crm_sync"], folder=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "the demo's simulators are not installed here" in done.stderr
    assert "crm-sync-simulators" in done.stderr


@pytest.mark.parametrize(
    ("command", "says"),
    [("worker demo", "Watch the real worker"), ("simulators.demo", "Watch the real worker")]
    + [(f"simulators.{name}", "usage: ") for name in ("dialer", "crm", "broker")],
)
def test_with_both_wheels_the_simulators_are_programs(
    wheels: dict[str, Path], tmp_path: Path, command: str, says: str
) -> None:
    done = run(f"{command} --help", *wheels.values(), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert says in done.stdout
