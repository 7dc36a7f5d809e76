"""A stop is heeded from the first moment on, while the imports still run, also by a container's process 1."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.deploy.container import need_namespaces
from tests.system.harness import eventually

pytestmark = pytest.mark.system

NEVER_DONE = """
import signal, os
open(os.environ["IMPORTING"], "w").close()
while True:
    signal.sigtimedwait([], 0.05)
"""
"""A module in place of one that is imported at the start: that start never ends."""


@contextmanager
def starting(folder: Path, *before: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Start a worker that never ends its imports. Return it, and the file that it makes there."""
    (folder / "typer.py").write_text(NEVER_DONE, encoding="utf-8")
    importing = folder / "importing"
    process = subprocess.Popen(
        [*before, sys.executable, "-m", "worker", "run"],
        env=os.environ | {"PYTHONPATH": str(folder), "IMPORTING": str(importing)},
    )
    try:
        yield process, importing
    finally:
        process.kill()
        process.wait(10)


@pytest.mark.parametrize(
    ("before", "status"),
    [((), -signal.SIGTERM), (("unshare", "--pid", "--fork", "--kill-child"), 128 + signal.SIGTERM)],
    ids=["any process", "process 1"],
)
async def test_a_stop_while_the_imports_run_ends_it_at_once(
    before: Sequence[str], status: int, tmp_path: Path
) -> None:
    if before:
        need_namespaces()
    with starting(tmp_path, *before) as (process, importing):
        await eventually(importing.exists, 60)
        (first,) = psutil.Process(process.pid).children() if before else [psutil.Process(process.pid)]
        first.send_signal(signal.SIGTERM)
        await eventually(lambda: process.poll() is not None, 20)
        assert process.returncode == status
