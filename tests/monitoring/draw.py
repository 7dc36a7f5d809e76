"""Draws `docs/images/dashboard.png`: key panels of the dashboard, while the dialer breaks down and heals.

Run as `python -m tests.monitoring.draw`; it takes five minutes. A real worker works, and a real Prometheus
answers the dashboard's own queries.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, NullFormatter

from tests.monitoring.dashboard import Panel, panels
from tests.monitoring.prometheus import Prometheus, Series, watching
from tests.monitoring.scene import end_some, system_at
from tests.system.harness import System, environment, eventually

PICTURE: Final = Path(__file__).parents[2] / "docs" / "images" / "dashboard.png"
PANELS: Final = (
    "Share in time",
    "Age at delivery",
    "Delivered",
    "Messages in the queues",
    "Circuit breakers",
    "Requests by outcome",
)
LARGEST: Final = 200_000
"""Bytes that the picture may have."""

_WARM, _CALM, _BROKEN, _HEALED = 20.0, 60.0, 60.0, 120.0
"""Seconds: before anything is drawn, with the dialer well, with it down, and well again."""
_WINDOW = "15s"
_PACE = 6
"""Calls a second."""
_DEFAULTS: Final = (
    "retry__delays",
    "retry__max_attempts",
    "circuit_breakers__probe_max",
    "circuit_breakers__refused_probe",
    "vicidial__timeout",
    "vicidial__ready_within",
    "sink__timeout",
)
"""The settings that tests make quicker; here they are what an operator has."""

_STATES: Final = {1: ("recovering", "#f2cc0c"), 2: ("half_open", "#ff9830"), 3: ("open", "#e02f44")}
_CLOSED: Final = "#d5ecd4"
_COLOURS: Final = {"call.ended": "#1f77b4", "ok": "#56a64b", "dialer_outage": "#e02f44", "p95": "#ff780a"}
_UNITS: Final = {"percentunit": "% of calls", "s": "seconds", "short": "messages", "suffix: /s": "per second"}
_STYLE: Final[Mapping[Any, object]] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 22,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "legend.fontsize": 9,
}


@dataclass(frozen=True)
class Run:
    """What is drawn: each panel's lines, between two times, and when the dialer was down."""

    lines: Mapping[str, list[tuple[str, Series]]]
    """By the panel's title, each line with its legend."""
    started: float
    ended: float
    failed: tuple[float, float]

    def minutes(self, at: float) -> float:
        return (at - self.started) / 60


async def look(
    prometheus: Prometheus, started: float, ended: float, failed: tuple[float, float], window: str
) -> Run:
    """Ask Prometheus for the panels; `window` is what a rate is taken over."""
    lines: dict[str, list[tuple[str, Series]]] = {}
    for panel in _chosen():
        for query in panel.queries:
            sent = query.sent(window=window, shown=f"{ended - started:.0f}s")
            for found in await prometheus.graph(sent, started, ended):
                legend = query.legend
                for label, value in found.labels.items():
                    legend = legend.replace(f"{{{{{label}}}}}", value)
                lines.setdefault(panel.title, []).append((legend, found))
    return Run(lines, started, ended, failed)


def paint(run: Run, caption: str, file: Path) -> None:
    """Draw the panels on one page."""
    with mpl.rc_context(dict(_STYLE)):
        figure = Figure(figsize=(11, 11), layout=ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08))
        grid = figure.subplots(3, 2, sharex=True)
        for axes, panel in zip(grid.flat, _chosen(), strict=True):
            _draw(axes, panel, run)
        for axes in grid[-1]:
            axes.set_xlabel("minutes since the beginning")
        figure.supxlabel(caption, fontsize=10, x=0.02, ha="left")
        figure.savefig(file, dpi=100)


def _chosen() -> list[Panel]:
    by_title = {panel.title: panel for panel in panels()}
    return [by_title[title] for title in PANELS]


def _draw(axes: Axes, panel: Panel, run: Run) -> None:
    axes.set_title(panel.title)
    down = [run.minutes(at) for at in run.failed]
    label = "the dialer is down" if panel.title == PANELS[0] else None
    axes.axvspan(*down, color="#888888", alpha=0.15, linewidth=0, label=label)
    axes.set_xlim(0, run.minutes(run.ended))
    lines = run.lines.get(panel.title, [])
    if panel.kind == "state-timeline":
        _draw_states(axes, lines, run)
        return
    for legend, line in lines:
        times = [run.minutes(at) for at, _ in line.points]
        values = [value * (100 if panel.unit == "percentunit" else 1) for _, value in line.points]
        axes.plot(times, values, label=legend, color=_COLOURS.get(legend), linewidth=1.8)
    axes.set_ylabel(_UNITS[panel.unit])
    if panel.unit == "percentunit":
        axes.axhline(99, color="#e02f44", linestyle="--", linewidth=1.2, label="objective")
        axes.set_ylim(95, 100.4)
    elif panel.unit == "s":
        axes.axhline(300, color="#e02f44", linestyle="--", linewidth=1.2, label="in time: 5 minutes")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(bottom=0)
    _explain(axes)


def _draw_states(axes: Axes, lines: list[tuple[str, Series]], run: Run) -> None:
    """Draw a bar for each breaker, coloured by its state."""
    names = sorted((legend for legend, _ in lines), reverse=True)
    shown: set[str] = set()
    for legend, line in lines:
        height = (names.index(legend) - 0.3, 0.6)
        left, right = (run.minutes(line.points[each][0]) for each in (0, -1))
        axes.broken_barh(
            [(left, right - left)], height, facecolors=_CLOSED, label=None if shown else "closed"
        )
        shown.add("closed")
        for at, value in line.points:
            if value in _STATES:
                state, colour = _STATES[int(value)]
                label = None if state in shown else state
                axes.broken_barh([(run.minutes(at), 1 / 60)], height, facecolors=colour, label=label)
                shown.add(state)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.grid(visible=False)
    _explain(axes)


def _explain(axes: Axes) -> None:
    """Put the legend between the title and the axes, where no line can run through it."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        borderaxespad=0.0,
        ncols=4,
        columnspacing=1,
        handlelength=1.2,
        handletextpad=0.5,
        borderpad=0.2,
    )


async def run(broker_url: str, folder: Path) -> tuple[Run, str]:
    """Let calls end for some minutes, in which the dialer breaks down and heals. Return it with a caption."""
    async with system_at(broker_url, folder, "crm-sync", "--delay", "0.05") as system:
        worker = await system.start(**dict.fromkeys(_DEFAULTS))
        async with watching([await worker.listening()], folder) as prometheus:
            await eventually(lambda: prometheus.holds("crm_sync_consuming == 1"), 20)
            calling = asyncio.create_task(_keep_calling(system))
            await asyncio.sleep(_WARM)
            started = time.time()
            await asyncio.sleep(_CALM)
            await system.dialer.control(fault="500")
            failed = time.time()
            await asyncio.sleep(_BROKEN)
            await system.dialer.control(fault=None)
            healed = time.time()
            await asyncio.sleep(_HEALED)
            ended = time.time()
            calling.cancel()
            await asyncio.gather(calling, return_exceptions=True)
            made = await look(prometheus, started, ended, (failed, healed), _WINDOW)
            return made, await _caption(prometheus, made)


async def _caption(prometheus: Prometheus, run: Run) -> str:
    """Return what happened when, and what became of the calls."""
    delivered, in_time, dead = [
        sum(await prometheus.now(f"sum(crm_sync_{each})"))
        for each in (
            'delivered_age_seconds_count{event_type="call.ended"}',
            'delivered_age_seconds_bucket{event_type="call.ended", le="300.0"}',
            "dead_letters_total",
        )
    ]
    broke, healed = (_clock(at - run.started) for at in run.failed)
    return (
        f"A real run with {_PACE} calls a second and the default settings."
        f" From {broke} to {healed} (grey) the dialer answers nothing but 500:\n"
        "the circuit breaker opens, nothing is delivered (no line), and calls wait in their queue.\n"
        "The first probe after that is answered, the breaker recovers, and the backlog is delivered."
        f" Of {delivered:,.0f} calls {delivered - in_time:,.0f} came late,\n"
        f"and {dead:,.0f} went to the dead letters."
        f" Rates are taken over {_WINDOW}, and the worker counts the queues every 15s."
    )


async def _keep_calling(system: System) -> None:
    calls = await system.calls(int((_WARM + _CALM + _BROKEN + _HEALED + 60) * _PACE))
    begun = time.monotonic()
    for second in range(10_000):
        await end_some(system, calls, _PACE)
        await asyncio.sleep(max(0.0, begun + second + 1 - time.monotonic()))


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


@contextmanager
def _broker() -> Iterator[str]:
    command = [sys.executable, "-m", "simulators.broker"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment({})) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            yield json.loads(line)["url"]
        finally:
            process.terminate()


def main() -> int:
    """Play and draw; return 1 if the picture is too large."""
    argparse.ArgumentParser(prog="python -m tests.monitoring.draw", description=__doc__).parse_args()
    with tempfile.TemporaryDirectory(prefix="crm-sync-draw-") as folder, _broker() as url:
        made, caption = asyncio.run(run(url, Path(folder)))
    PICTURE.parent.mkdir(exist_ok=True)
    paint(made, caption, PICTURE)
    sys.stdout.write(f"{PICTURE}, {PICTURE.stat().st_size} bytes\n{caption}\n")
    return 0 if PICTURE.stat().st_size < LARGEST else 1


if __name__ == "__main__":
    sys.exit(main())
