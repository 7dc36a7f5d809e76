"""The long proof: `python -m tests.system.chaos` breaks everything again and again and prints the account."""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from tests.system.chaos.account import Verdict
from tests.system.chaos.node import NodeUnavailable
from tests.system.chaos.play import LONG, SHORT
from tests.system.chaos.runner import Runner, Stuck
from tests.system.chaos.scenarios import SCENARIOS, Scenario
from tests.system.chaos.stage import Pace

_COLUMNS = "{:<50}{:>7}{:>6}{:>7}{:>9}{:>11}{:>10}  {}"
_HEADER = _COLUMNS.format(
    *("fault", "events", "lost", "twice", "at most", "recovered", "all done", "dead letters")
)


def main() -> int:
    """Play, and print the verdicts; returns 1 if anything was wrong, or not played."""
    chosen = _arguments()
    scenarios = [
        each for each in SCENARIOS if chosen.only in each.title and not (chosen.short and each.long_only)
    ]
    pace = SHORT if chosen.short else LONG
    _print(f"{len(scenarios)} scenarios, seed {chosen.seed}\n")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="crm-sync-chaos-") as made:
        folder = chosen.folder or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        verdicts = _play(scenarios, pace, chosen.seed, folder)
    _print(f"\n{_HEADER}")
    for verdict in verdicts:
        show(verdict)
    wrong = [verdict for verdict in verdicts if verdict.wrong]
    events, lost = sum(each.events for each in verdicts), sum(len(each.lost) for each in verdicts)
    _print(
        f"\n{events} events, {lost} lost, {len(wrong)} of {len(verdicts)} scenarios with something wrong,"
        f" {time.monotonic() - began:.0f} s, seed {chosen.seed}"
    )
    return 1 if wrong or not verdicts else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.system.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="to play it again")  # noqa: S311
    parser.add_argument("--short", action="store_true", help="as the tests do it")
    parser.add_argument("--only", default="", help="the scenarios in whose name this stands")
    parser.add_argument("--folder", type=Path, help="where to keep the workers' logs; a new folder")
    return parser.parse_args()


def _play(scenarios: Sequence[Scenario], pace: Pace, seed: int, folder: Path) -> list[Verdict]:
    """Play them, and print each as it ends; return the verdicts in the order of the table."""
    began, number = time.monotonic(), count(1)

    def progress(verdict: Verdict) -> None:
        said = "WRONG" if verdict.wrong else "right"
        seconds = time.monotonic() - began
        _print(f"{next(number):>3} of {len(scenarios)} {seconds:>6.0f} s  {said}  {verdict.name}")

    with Runner(scenarios, pace, seed, folder, progress) as runner:
        return [_verdict(runner, each) for each in scenarios]


def _verdict(runner: Runner, scenario: Scenario) -> Verdict:
    try:
        return runner.verdict(scenario.title)
    except (NodeUnavailable, Stuck) as error:
        return Verdict(scenario.title, wrong=[f"not played: {error}"])


def show(verdict: Verdict) -> None:
    """Print one line for a scenario, and one more for each thing to be said of it."""
    recovered = "never" if verdict.recovered is None else f"{verdict.recovered:.1f} s"
    dead = ", ".join(f"{number} {reason}" for reason, number in sorted(verdict.dead.items()))
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
