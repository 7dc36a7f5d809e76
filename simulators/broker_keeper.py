"""The last act of a private broker: end its processes and remove its folder when its owner is gone.

Run as a program of its own (`python -I -S broker_keeper.py`), stdlib only. It makes the broker's folder and
writes its path to stdout, then waits for the end of its stdin, a pipe held by the owner. Whatever ends the
owner, a clean stop, a signal or SIGKILL, closes that pipe. Every process of the broker is put in the keeper's
process group, so the group is exactly what the owner started, and the keeper, its leader, keeps the number
from being given to anybody else until the end.
"""

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

LONGEST_CLEANING = 5.0
"""Seconds after which a folder that cannot be removed is left alone."""


def main() -> None:
    """Make the folder, say where it is, wait until the owner is gone, then clean up."""
    if "--help" in sys.argv:
        sys.stdout.write(f"usage: python -I -S broker_keeper.py\n\n{__doc__}")
        return
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    folder = Path(tempfile.mkdtemp(prefix="crm-sync-broker-"))
    with contextlib.suppress(OSError):
        os.write(sys.stdout.fileno(), f"{folder}\n".encode())
    while os.read(sys.stdin.fileno(), 1024):
        pass
    group = os.getpid()
    if os.fork() == 0:  # the child leaves the group, so that it outlives what it ends
        os.setpgid(0, 0)
        end(group, folder)
        os._exit(0)
    os.wait()


def end(group: int, folder: Path) -> None:
    """Kill the process group and remove the folder; twice, since a dying process may still write."""
    deadline = time.monotonic() + LONGEST_CLEANING
    while True:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.02)
        if not folder.exists() or time.monotonic() > deadline:
            return


if __name__ == "__main__":
    main()
