"""Fails when a file is covered less than it must be: 100 % of worker/core/, 90 % of every other file.

One total would let a well-tested file pay for an untested one, so each file has to reach its own floor.
The percentages count branches as well as lines. Only the tests' own process is measured, so what runs in a
process of its own alone is named here, with the test that runs it; a name that isn't needed is a failure too.
"""

import argparse
import json
import sys
from pathlib import Path

CORE = "worker/core/"
CORE_FLOOR = 100
FLOOR = 90
RUN_AS_A_PROCESS = {
    "worker/commands/check.py": "tests/broker/test_check.py",
    "worker/commands/dead_letters.py": "tests/broker/test_dead_letters_commands.py",
    "worker/commands/dead_letters_output.py": "tests/broker/test_dead_letters_commands.py",
    "worker/commands/publish.py": "tests/broker/test_bulk_publish.py",
    "worker/commands/run.py": "tests/system/test_tracing.py",
    "worker/commands/topology.py": "tests/broker/test_topology.py",
}


def floor_of(name: str) -> int:
    """Returns the percentage that the file has to reach."""
    return CORE_FLOOR if name.startswith(CORE) else FLOOR


def main(report: Path) -> int:
    """Prints each file below its floor, then a summary; returns the exit status."""
    files = json.loads(report.read_text(encoding="utf-8"))["files"]
    covered = {Path(name).as_posix(): file["summary"]["percent_covered"] for name, file in files.items()}
    if not any(name.startswith(CORE) for name in covered):
        print(f"coverage: {report} holds nothing of {CORE}; was it made in this directory?")
        return 1
    below = {name: percent for name, percent in sorted(covered.items()) if percent < floor_of(name)}
    needless = [name for name in RUN_AS_A_PROCESS if name not in below]
    for name in needless:
        print(f"{name}: reaches its floor, or is gone; take it out of RUN_AS_A_PROCESS")
    below = {name: percent for name, percent in below.items() if name not in RUN_AS_A_PROCESS}
    for name, percent in below.items():
        # Cut off, not rounded: 99.96 must not be shown as 100.
        print(f"{name}: {int(percent * 10) / 10} % covered, must be {floor_of(name)} %")
    print(f"coverage: {len(covered) - len(below)} of {len(covered)} files reach their floor")
    return 1 if below or needless else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path, metavar="coverage.json")
    sys.exit(main(parser.parse_args().report))
