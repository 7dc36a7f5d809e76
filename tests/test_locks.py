"""The locks hold all that is installed, each file by its hash, for every Python that is supported."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
TRACING: list[str] = PROJECT["project"]["optional-dependencies"]["tracing"]
DEPLOYED: list[str] = PROJECT["project"]["dependencies"] + TRACING
GROUPS: dict[str, list[Any]] = PROJECT["dependency-groups"]
LOCKS = {
    "requirements.lock": DEPLOYED,
    "requirements-dev.lock": [*DEPLOYED, *(each for each in GROUPS["dev"] if isinstance(each, str))],
    "requirements-build.lock": GROUPS["build"],
}
HASHED = re.compile(r"^([a-z0-9.-]+)==(\S+)(?: ; .+)?((?: --hash=sha256:[0-9a-f]{64})+)$")


def locked(name: str) -> dict[str, set[str]]:
    """Read a lock: each package with its versions. Every line must be one, with a hash."""
    text = (ROOT / name).read_text(encoding="utf-8")
    lines = re.sub(r" \\\n +", " ", re.sub(r"^ *#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    found: dict[str, set[str]] = {}
    for line in lines:
        match = HASHED.match(line)
        assert match, f"{name}: {line}"
        found.setdefault(match[1], set()).add(match[2])
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_holds_what_the_project_asks_for_and_no_address(name: str) -> None:
    assert "://" not in (ROOT / name).read_text(encoding="utf-8")
    versions = locked(name)
    for text in LOCKS[name]:
        wanted = Requirement(text)
        found = versions[canonicalize_name(wanted.name)]
        assert all(wanted.specifier.contains(version, prereleases=True) for version in found), text


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-build.lock"])
def test_what_is_tested_is_what_is_deployed(name: str) -> None:
    development = locked("requirements-dev.lock")
    assert {package: development[package] for package in locked(name)} == locked(name)


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
def test_a_deployment_can_be_installed_without_building_anything(python: str, tmp_path: Path) -> None:
    assert f"Programming Language :: Python :: {python}" in PROJECT["project"]["classifiers"]
    uv = Path(sys.executable).with_name("uv")
    platform = ["--python-version", python, "--python-platform", "x86_64-unknown-linux-gnu"]
    strict = ["--require-hashes", "--only-binary", ":all:", "--dry-run", "--target", str(tmp_path)]
    command = [str(uv), "pip", "install", *platform, *strict, "-r", str(ROOT / "requirements.lock")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Would install" in done.stderr


def test_the_bill_of_materials_names_each_package_with_its_hashes(tmp_path: Path) -> None:
    written = tmp_path / "sbom.json"
    command = [str(Path(sys.executable).with_name("cyclonedx-py")), "requirements"]
    command += ["--pyproject", "pyproject.toml", "--output-file", str(written), "requirements.lock"]
    assert " ".join(command[1:3]) in (ROOT / "Makefile").read_text(encoding="utf-8")
    subprocess.run(command, check=True, cwd=ROOT)
    bill = json.loads(written.read_text(encoding="utf-8"))
    assert bill["metadata"]["component"]["name"] == PROJECT["project"]["name"]
    named = {(part["name"], part["version"]) for part in bill["components"]}
    assert named == {(name, one) for name, all_ in locked("requirements.lock").items() for one in all_}
    hashes = [part["externalReferences"][0]["hashes"] for part in bill["components"]]
    assert all(each[0]["alg"] == "SHA-256" for each in hashes)
