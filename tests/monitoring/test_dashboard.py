"""The dashboard is whole: each panel says what it shows, and each metric has its place."""

import re
from itertools import combinations
from typing import Final

from tests.monitoring.dashboard import Panel, load, metrics_in, panels, queries
from worker.observe.metrics import IntakeMetrics, Metrics

NOT_SHOWN: Final = {
    "crm_sync_process_virtual_memory_bytes": "address space costs nothing; the resident memory is shown",
}
PARTS: Final = ("_bucket", "_sum", "_count")


def test_each_panel_says_in_a_sentence_what_it_shows() -> None:
    for panel in panels():
        assert re.fullmatch(r"[A-Z].{20,200}\.", panel.description), panel.title
    titles = [panel.title for panel in panels()]
    assert len(set(titles)) == len(titles)


def test_whether_calls_arrive_in_time_stands_on_top() -> None:
    first = load()["panels"][0]
    assert (first["type"], first["title"]) == ("row", "Do calls reach the CRM in time?")
    assert panels()[0].title == "In time"


def overlap(one: Panel, other: Panel) -> bool:
    (x, y, w, h), (x2, y2, w2, h2) = one.place, other.place
    return x < x2 + w2 and x2 < x + w and y < y2 + h2 and y2 < y + h


def test_no_panel_covers_another_or_leaves_the_page() -> None:
    assert [(a.title, b.title) for a, b in combinations(panels(), 2) if overlap(a, b)] == []
    assert max(x + w for x, _, w, _ in (panel.place for panel in panels())) <= 24
    ids = [panel["id"] for panel in load()["panels"]]
    assert len(set(ids)) == len(ids)


def test_the_data_source_and_the_installation_are_chosen_on_the_page() -> None:
    board = load()
    names = [each["name"] for each in board["templating"]["list"]]
    assert names == ["datasource", "job"]
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    for panel in board["panels"]:
        if panel["type"] != "row":
            assert [panel["datasource"], *(each["datasource"] for each in panel["targets"])] == [chosen] * (
                1 + len(panel["targets"])
            )


def test_each_query_asks_for_the_chosen_installation_only() -> None:
    for query in queries():
        selectors = re.findall(r"crm_sync_\w+(\{[^}]*\})?", query.text)
        assert selectors, query.panel
        assert all('job=~"$job"' in each for each in selectors), query.panel


def test_each_metric_is_on_the_dashboard_or_excused_and_there_is_no_other() -> None:
    asked = metrics_in(query.text for query in queries())
    declared = {each.name for each in (*Metrics().declared, *IntakeMetrics().declared)}
    shown = {name if name in declared else re.sub(f"({'|'.join(PARTS)})$", "", name) for name in asked}
    assert shown - declared == set()
    assert declared - shown == set(NOT_SHOWN)
