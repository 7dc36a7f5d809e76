"""The locks hold all that is installed, each file by its hash, for every Python that is supported."""

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.locks import LOCKS, PROJECT, ROOT, Pin, could_install, installs, pins

pytestmark = pytest.mark.verify

PYTHONS = ["3.11", "3.12", "3.13", "3.14"]


def locked(name: str) -> dict[str, set[str]]:
    """Read a lock: each package with its versions."""
    found: dict[str, set[str]] = {}
    for pin in pins(name):
        found.setdefault(pin.name, set()).add(pin.version)
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


@pytest.mark.parametrize("python", PYTHONS)
def test_a_deployment_can_be_installed_without_building_anything(python: str) -> None:
    assert f"Programming Language :: Python :: {python}" in PROJECT["project"]["classifiers"]
    done = could_install("requirements.lock", python, "x86_64-unknown-linux-gnu")
    assert done.returncode == 0, done.stderr
    assert "Would install" in done.stderr


def test_every_place_that_installs_a_lock_does_so_by_hash_and_without_resolving_it() -> None:
    found = installs()
    assert {"Dockerfile", ".ci/venv", "docs/deploy.md", "README.md"} <= found.keys()
    for path, commands in found.items():
        for command in commands:
            assert "--require-hashes" in command, (path, command)
            assert "--no-deps" in command or "uv pip sync" in command, (path, command)
    for program in sorted((ROOT / "tests").rglob("*.py")):
        text = program.read_text(encoding="utf-8")
        if '"install"' in text and '"--require-hashes"' in text:
            assert '"--no-deps"' in text, program


PLATFORMS = [
    ("linux", "Linux", "posix", "x86_64"),
    ("linux", "Linux", "posix", "aarch64"),
    ("darwin", "Darwin", "posix", "arm64"),
    ("win32", "Windows", "nt", "AMD64"),
]


def environments(python: str) -> Iterator[dict[str, str]]:
    """Name the environments that markers can tell apart: the first and a late CPython on each platform."""
    for full in (f"{python}.0", f"{python}.30"):
        for sys_platform, system, os_name, machine in PLATFORMS:
            yield {
                "python_version": python,
                "python_full_version": full,
                "implementation_version": full,
                "implementation_name": "cpython",
                "platform_python_implementation": "CPython",
                "sys_platform": sys_platform,
                "platform_system": system,
                "os_name": os_name,
                "platform_machine": machine,
            }


def needed_by(pin: Pin, extra: str, environment: dict[str, str]) -> Iterator[Requirement]:
    """Read what a package, or an extra of it, requires; nothing if that version is not installed here."""
    known = importlib.metadata.distribution(pin.name)
    if known.version != pin.version:
        return
    for text in known.requires or []:
        wanted = Requirement(text)
        if wanted.marker is None:
            if not extra:
                yield wanted
        elif wanted.marker.evaluate(environment | {"extra": extra}):
            yield wanted


def lacking(name: str, environment: dict[str, str]) -> Iterator[str]:
    """Name what a lock lacks in an environment: whoever resolves it would have to look for that elsewhere."""
    there = {
        pin.name: pin for pin in pins(name) if pin.marker is None or pin.marker.evaluate({**environment})
    }
    asked = [Requirement(text) for text in LOCKS[name]]
    wanted = [each for each in asked if each.marker is None or each.marker.evaluate({**environment})]
    seen: set[tuple[str, str]] = set()
    while wanted:
        one = wanted.pop()
        pin = there.get(canonicalize_name(one.name))
        if pin is None or not one.specifier.contains(pin.version, prereleases=True):
            yield f"{one} on {environment}"
            continue
        for extra in {"", *one.extras}:
            if (pin.name, extra) not in seen:
                seen.add((pin.name, extra))
                wanted += needed_by(pin, extra, environment)


@pytest.mark.parametrize("name", LOCKS)
@pytest.mark.parametrize("python", PYTHONS)
def test_a_lock_is_complete_so_that_nobody_needs_to_resolve_it(name: str, python: str) -> None:
    for environment in environments(python):
        assert list(lacking(name, environment)) == []


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
