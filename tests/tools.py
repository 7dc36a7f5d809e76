"""The programs beside Python that tests need: found on the PATH, or put below `.cache/tools`.

`python -m tests.tools` gets what is missing, if it can: Debian's packages are unpacked, not installed, so
that none of them starts a server; only what needs more than its own files is installed.
"""

import argparse
import base64
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".cache" / "tools"
KUSTOMIZE = "sigs.k8s.io/kustomize/kustomize/v5@v5.0.3"  # the newest that Debian 12's Go can build
ASYNCAPI = "@asyncapi/specs@6.11.1"
ASYNCAPI_SHA512 = "A3WBLqAKGoJ2+6FWFtpjBlCQ1oFCcs4GxF7zsIGvNqp/klGUHjlA3aAcZ9XMMpLGE8zPeYDz2x9FmO6DSuKraQ=="
PHP_LIBRARY = Path("/usr/share/php/PhpAmqpLib/autoload.php")
ASYNCAPI_SCHEMA = FOLDER / "asyncapi-3.0.0.json"


def find(program: str) -> Path | None:
    """Find a program, on the PATH or among what was fetched."""
    found = shutil.which(program) or shutil.which(program, path=str(FOLDER))
    return Path(found) if found else None


def need(program: str) -> Path:
    """Return a program's path. If it is missing the test is skipped; in CI it fails."""
    found = find(program)
    if found is None:
        skip_without(f"{program} is not installed; `python -m tests.tools` says what can be done")
    return found


def need_asyncapi_schema() -> Path:
    """Return AsyncAPI's own JSON schema of version 3.0.0; like `need` if it is missing."""
    if not ASYNCAPI_SCHEMA.exists():
        skip_without("the AsyncAPI schema is missing; `python -m tests.tools` fetches it")
    return ASYNCAPI_SCHEMA


def skip_without(reason: str) -> NoReturn:
    """Skip what can't be tested on this machine; in CI, that is a failure."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def _unpack_prometheus() -> None:
    with tempfile.TemporaryDirectory() as folder:
        _run(["apt-get", "download", "prometheus"], folder)
        package = next(Path(folder).glob("prometheus_*.deb"))
        _run(["dpkg", "-x", str(package), folder], folder)
        for name in ("prometheus", "promtool"):
            shutil.move(Path(folder, "usr/bin", name), FOLDER / name)


def _build_kustomize() -> None:
    if shutil.which("go") is None:
        _install("golang-go")
    _run(["go", "install", KUSTOMIZE], FOLDER, GOBIN=str(FOLDER))


def _fetch_asyncapi_schema() -> None:
    with tempfile.TemporaryDirectory() as folder:
        _run([str(Path(sys.executable).with_name("npm")), "pack", ASYNCAPI], folder)
        package = next(Path(folder).glob("*.tgz"))
        if base64.b64encode(hashlib.sha512(package.read_bytes()).digest()).decode() != ASYNCAPI_SHA512:
            raise OSError(f"{ASYNCAPI} is not what it was")
        with tarfile.open(package) as tar:
            schema = tar.extractfile("package/schemas/3.0.0.json")
            ASYNCAPI_SCHEMA.write_bytes(schema.read() if schema else b"")


def _install_php() -> None:
    _install("php-cli", "php-amqplib")


def _install_amqp_tools() -> None:
    _install("amqp-tools")


def _install_curl() -> None:
    _install("curl")


def _install(*packages: str) -> None:
    if os.getuid() != 0:
        raise OSError(f"only root can install {' and '.join(packages)}")
    _run(["apt-get", "install", "--yes", "--no-install-recommends", *packages], FOLDER)


def _run(command: list[str], folder: str | Path, **environment: str) -> None:
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()[-500:]}")


def main() -> int:
    """Get what is missing; fails in CI: every test must run there."""
    argparse.ArgumentParser(
        prog="python -m tests.tools",
        description="Get the programs that some tests need and that are missing.",
    ).parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    wanted = [
        ("prometheus and promtool", bool(find("prometheus") and find("promtool")), _unpack_prometheus),
        ("kustomize", find("kustomize") is not None, _build_kustomize),
        ("PHP and php-amqplib", bool(find("php") and PHP_LIBRARY.exists()), _install_php),
        ("amqp-publish", find("amqp-publish") is not None, _install_amqp_tools),
        ("curl", find("curl") is not None, _install_curl),
        ("AsyncAPI's schema", ASYNCAPI_SCHEMA.exists(), _fetch_asyncapi_schema),
    ]
    missing = [(name, get) for name, there, get in wanted if not there]
    lacking = 0
    if missing and os.getuid() == 0 and shutil.which("apt-get"):
        try:
            _run(["apt-get", "update"], FOLDER)
        except OSError as error:
            _say(str(error))
    for name, get in missing:
        _say(f"getting {name}")
        try:
            get()
        except (OSError, StopIteration, KeyError) as error:
            lacking += 1
            _say(f"no {name}: {error}\n  The tests that need it are skipped; install it to run them.")
    return 1 if lacking and os.environ.get("CI") else 0


def _say(text: str) -> None:
    sys.stderr.write(f"crm-sync: {text}\n")


if __name__ == "__main__":
    sys.exit(main())
