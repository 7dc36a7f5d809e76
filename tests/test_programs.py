"""`--help` of every program helps, and starts nothing."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from worker.cli import COMMANDS, app, load

ROOT = Path(__file__).parents[1]
FOLDERS = ("worker", "simulators", "tests", "benchmarks", "docs", ".ci")
_RUNS = re.compile(r'^if __name__ == "__main__":', re.MULTILINE)


def programs() -> list[list[str]]:
    """Return the command of each file that runs as a program."""
    found = []
    for folder in FOLDERS:
        for file in sorted((ROOT / folder).rglob("*.py")):
            if file.name == "__main__.py" or _RUNS.search(file.read_text(encoding="utf-8")):
                place = file.relative_to(ROOT).with_suffix("")
                packaged = (file.parent / "__init__.py").exists() or folder in ("benchmarks", "tests")
                name = ".".join(place.parts).removesuffix(".__main__")
                found.append([sys.executable, *(["-m", name] if packaged else [str(file)])])
    found += [
        [str(Path(sys.executable).with_name("node")), str(file)]
        for file in sorted((ROOT / "docs").rglob("*.mjs"))
    ]
    found += [["php", str(file)] for file in sorted((ROOT / "docs").rglob("*.php"))]
    return found


def name_of(command: list[str]) -> str:
    return Path(command[-1]).name


def test_they_are_all_found() -> None:
    names = {name_of(command) for command in programs()}
    assert names >= {
        *("worker", "simulators.broker", "simulators.dialer", "simulators.crm", "benchmarks"),
        "simulators.crms",
        *(
            "benchmarks.outage",
            "benchmarks.crm",
            "benchmarks.intake",
            "tests.tools",
            "tests.system.chaos",
            "generate.py",
            "receive.py",
        ),
        *("receive.mjs", "receive.php", "coverage_floor.py"),
    }


@pytest.mark.parametrize("command", programs(), ids=name_of)
def test_help_of_a_program_helps_and_starts_nothing(command: list[str], tmp_path: Path) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"there is no {command[0]} here")
    before = changed()
    environment = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "COLUMNS": "100", "CI": "1"}
    began = time.monotonic()
    ended = subprocess.run(
        [*command, "--help"],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, ""), time.monotonic() - began
    assert "usage" in ended.stdout.lower()
    assert not list(tmp_path.iterdir())
    assert changed() == before


def changed() -> dict[Path, float]:
    """Return when the files were written that programs make."""
    made = [*(ROOT / "docs").rglob("*"), *(ROOT / "k8s").rglob("*")]
    return {file: file.stat().st_mtime for file in made if "__pycache__" not in file.parts}


def commands() -> list[list[str]]:
    """Return every command and subcommand of `crm-sync`; `demo` is a program of its own."""

    def walk(command: object, path: list[str]) -> list[list[str]]:
        inner = getattr(command, "commands", {})
        return [path, *(each for name, one in inner.items() for each in walk(one, [*path, name]))]

    return [[], *(each for name in COMMANDS if name != "demo" for each in walk(load(name), [name]))]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_each_says_itself(name: str) -> None:
    assert COMMANDS[name].summary == load(name).help.partition("\n\n")[0].replace("\n", " ")


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_help_of_a_command_shows_no_type_of_a_flag_and_no_foreign_option(command: list[str]) -> None:
    shown = CliRunner(env={"COLUMNS": "100"}).invoke(app, [*command, "--help"])
    assert shown.exit_code == 0
    assert "--help" in shown.stdout
    assert "bool" not in shown.stdout
    assert "completion" not in shown.stdout
