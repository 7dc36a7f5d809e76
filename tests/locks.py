"""The locks: reading them, and finding every place that installs one."""

import re
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.markers import Marker

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
TRACING: list[str] = PROJECT["project"]["optional-dependencies"]["tracing"]
DEPLOYED: list[str] = PROJECT["project"]["dependencies"] + TRACING
GROUPS: dict[str, list[Any]] = PROJECT["dependency-groups"]
LOCKS: dict[str, list[str]] = {
    "requirements.lock": DEPLOYED,
    "requirements-dev.lock": [
        *DEPLOYED,
        *GROUPS["build"],
        *(each for each in GROUPS["dev"] if isinstance(each, str)),
    ],
    "requirements-build.lock": GROUPS["build"],
}
"""By its name, what a lock is made from."""

_PINNED = re.compile(r"([a-z0-9.-]+)==(\S+)(?: ; (.+?))?((?: --hash=sha256:[0-9a-f]{64})+)")
_INSTALLS = re.compile(r"\bpip\b[^|;&`\n]*\b(?:install|sync)\b[^|;&`\n]*\s\S*requirements[\w-]*\.lock")


@dataclass(frozen=True)
class Pin:
    """One line of a lock: a package in a version, for the environments that the marker allows."""

    name: str
    version: str
    marker: Marker | None

    def line(self, sha256: str) -> str:
        """Write it as a lock does, with one hash."""
        marker = "" if self.marker is None else f" ; {self.marker}"
        return f"{self.name}=={self.version}{marker} --hash=sha256:{sha256}"


def pins(name: str) -> list[Pin]:
    """Read a lock. Every line must be a package with a version and a hash."""
    text = (ROOT / name).read_text(encoding="utf-8")
    lines = re.sub(r" \\\n +", " ", re.sub(r"^ *#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    found = []
    for line in lines:
        match = _PINNED.fullmatch(line)
        assert match, f"{name}: {line}"
        found.append(Pin(match[1], match[2], None if match[3] is None else Marker(match[3])))
    return found


def could_install(lock: str, python: str, platform: str) -> subprocess.CompletedProcess[str]:
    """Ask the package index for the wheels of a lock, for some Python on some platform."""
    command = [sys.executable, "-m", "uv", "pip", "install", "--dry-run", "--no-deps", "--require-hashes"]
    command += ["--only-binary", ":all:", "--python-version", python, "--python-platform", platform]
    with tempfile.TemporaryDirectory() as folder:
        command += ["--target", folder, "--requirement", str(ROOT / lock)]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


def installs() -> dict[str, list[str]]:
    """Find the commands that install a lock, by the file that they stand in: scripts, documents, settings."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, list[str]] = {}
    for path in done.stdout.splitlines():
        if not (ROOT / path).is_file() or path.endswith((".lock", ".jsonl", ".png", ".py")):
            continue
        text = re.sub(r"\\\n\s*", "", (ROOT / path).read_text(encoding="utf-8"))
        commands = [match[0] for match in _INSTALLS.finditer(text)]
        if commands:
            found[path] = commands
    return found
