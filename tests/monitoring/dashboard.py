"""The dashboard's panels and queries, as Grafana would send them."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FILE: Final = Path(__file__).parents[2] / "k8s" / "monitoring" / "dashboard.json"

_METRIC = re.compile(r"\bcrm_sync_\w+")
_VARIABLE = re.compile(r"\$\w+|\$\{\w+\}|\[\[\w+\]\]")


@dataclass(frozen=True)
class Query:
    """One query of a panel."""

    panel: str
    ref: str
    text: str
    legend: str

    def sent(self, *, window: str, shown: str) -> str:
        """Return what Grafana would send, with all installations chosen.

        `window` is what it would choose for a rate, `shown` the length of the time shown.
        """
        values = {"$job": ".*", "$__rate_interval": window, "$__range": shown}
        return _VARIABLE.sub(lambda match: values[match[0]], self.text)


@dataclass(frozen=True)
class Panel:
    """One panel; rows are none."""

    title: str
    kind: str
    description: str
    unit: str
    place: tuple[int, int, int, int]
    """Left, top, width and height."""
    queries: tuple[Query, ...]


def load() -> dict[str, Any]:
    """Read the whole file."""
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def panels() -> list[Panel]:
    """Return the panels, from top to bottom."""
    return [_panel(each) for each in load()["panels"] if each["type"] != "row"]


def queries() -> list[Query]:
    """Return every query."""
    return [query for panel in panels() for query in panel.queries]


def metrics_in(texts: Iterable[str]) -> set[str]:
    """Name the metrics that queries speak of, without the recorded ones (`crm_sync:…`)."""
    return {name for text in texts for name in _METRIC.findall(text)}


def _panel(panel: Mapping[str, Any]) -> Panel:
    title, grid = panel["title"], panel["gridPos"]
    return Panel(
        title=title,
        kind=panel["type"],
        description=panel["description"],
        unit=panel["fieldConfig"]["defaults"]["unit"],
        place=(grid["x"], grid["y"], grid["w"], grid["h"]),
        queries=tuple(
            Query(title, each["refId"], each["expr"], each["legendFormat"]) for each in panel["targets"]
        ),
    )
