"""The long proof: `python -m tests.system.chaos` breaks everything again and again and prints the account."""

import argparse
import asyncio
import logging
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.system.chaos.account import Verdict
from tests.system.chaos.play import LONG, SHORT, play_all
from tests.system.chaos.scenarios import SCENARIOS

_COLUMNS = "{:<50}{:>7}{:>6}{:>7}{:>9}{:>11}{:>10}  {}"
_HEADER = _COLUMNS.format(
    *("fault", "events", "lost", "twice", "at most", "recovered", "all done", "dead letters")
)


def main() -> int:
    """Play; gives 1 where anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.system.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="to play it again")  # noqa: S311
    parser.add_argument("--short", action="store_true", help="as the tests do it")
    parser.add_argument("--only", default="", help="the scenarios in whose name this stands")
    parser.add_argument("--folder", type=Path, help="where to keep the workers' logs; a new folder")
    chosen = parser.parse_args()
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)  # what is broken here is broken on purpose
    scenarios = [
        each
        for each in SCENARIOS
        if chosen.only in f"{each.group}: {each.name}" and not (chosen.short and each.long_only)
    ]
    pace = SHORT if chosen.short else LONG
    _print(f"{len(scenarios)} scenarios, seed {chosen.seed}\n\n{_HEADER}")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="crm-sync-chaos-") as made:
        folder = chosen.folder or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        verdicts = asyncio.run(play_all(scenarios, pace, chosen.seed, folder, show))
    wrong = [verdict for verdict in verdicts if verdict.wrong]
    events, lost = sum(each.events for each in verdicts), sum(len(each.lost) for each in verdicts)
    _print(
        f"\n{events} events, {lost} lost, {len(wrong)} of {len(verdicts)} scenarios with something wrong,"
        f" {time.monotonic() - began:.0f} s, seed {chosen.seed}"
    )
    return 1 if wrong else 0


def show(verdict: Verdict) -> None:
    """Print one line for a scenario, and one more for each thing to be said of it."""
    recovered = "never" if verdict.recovered is None else f"{verdict.recovered:.1f} s"
    dead = ", ".join(f"{count} {reason}" for reason, count in sorted(verdict.dead.items()))
    counts = (verdict.events, len(verdict.lost), verdict.duplicates, verdict.bound)
    _print(_COLUMNS.format(verdict.name, *counts, recovered, f"{verdict.seconds:.1f} s", dead))
    for note in verdict.notes:
        _print(f"    {note}")
    for sentence in verdict.wrong:
        _print(f"    WRONG: {sentence}")


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
