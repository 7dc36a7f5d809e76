"""A real Prometheus has scraped a real worker: what the dashboard and the alerts ask for is there."""

import re
import subprocess
from typing import Any, Final

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.monitoring.dashboard import Query, queries
from tests.monitoring.scene import Scene
from tests.monitoring.test_rules import rules
from tests.tools import need
from worker.observe.metrics import Metrics

pytestmark = [pytest.mark.system, pytest.mark.asyncio(loop_scope="session"), pytest.mark.verify]

STAYS_ZERO: Final = {
    "Reconnects": "the broker is never away in this scene",
    "Size of the spool": "the broker is never away in this scene",
    "In the spool": "the broker is never away in this scene",
    "Set aside": "nothing is damaged in this scene",
    "Records in the CRM": "the worker of this scene delivers to a webhook",
}
NEVER_THERE: Final = {
    'crm_sync_intake_requests_total{status=~"5.."}': "the intake accepts everything in this scene",
    'crm_sync_retries_total{reason="unexpected"}': "there is no bug in this scene",
}
MOST_VALUES: Final = 12
"""More than there are reasons, which are the most that a label has."""
SELECTOR: Final = re.compile(r"crm_sync[_:][\w:]+(?:\{[^}]*\})?")


@pytest.mark.parametrize("query", queries(), ids=lambda query: f"{query.panel} {query.ref}")
async def test_every_query_of_the_dashboard_shows_something(scene: Scene, query: Query) -> None:
    sent = query.sent(window="10s", shown=f"{scene.ended - scene.started:.0f}s")
    lines = await scene.prometheus.graph(sent, scene.started, scene.ended)
    values = [value for line in lines for _, value in line.points if value == value]  # noqa: PLR0124 - not NaN
    assert values
    assert any(values) is (query.panel not in STAYS_ZERO), "more than zeros"
    for label in re.findall(r"\{\{(\w+)\}\}", query.legend):
        assert all(line.labels[label] for line in lines), "what the legend names is there"


def selectors() -> list[str]:
    return sorted({found for rule in rules() for found in SELECTOR.findall(rule["expr"])})


@pytest.mark.parametrize("selector", selectors())
async def test_every_series_that_a_rule_asks_for_is_there(scene: Scene, selector: str) -> None:
    played = f"{scene.ended - scene.started:.0f}s"
    found = await scene.prometheus.ask("query", query=f"{selector}[{played}]", time=str(scene.ended))
    assert bool(found["result"]) is (selector not in NEVER_THERE)


async def test_prometheus_evaluates_every_rule(scene: Scene) -> None:
    groups: list[dict[str, Any]] = (await scene.prometheus.ask("rules"))["groups"]
    evaluated = [rule for group in groups for rule in group["rules"]]
    assert len(evaluated) == len(rules())
    assert {(rule["health"], rule.get("lastError")) for rule in evaluated} == {("ok", None)}


async def test_what_happened_raised_its_alerts_and_nothing_else_did(scene: Scene) -> None:
    """The buried events, and the refused login, which was fixed within its minute."""
    raised = await scene.prometheus.graph("ALERTS", scene.started, scene.ended)
    found = {(line.labels["alertname"], line.labels["alertstate"]) for line in raised}
    before_the_first_scrape = ("CrmSyncNoConsumer", "pending")
    assert found - {before_the_first_scrape} == {
        ("CrmSyncDeadLetters", "firing"),
        ("CrmSyncLoginRefused", "pending"),
    }


def checked_by_promtool(exposition: str) -> tuple[int, str]:
    command = [str(need("promtool")), "check", "metrics"]
    done = subprocess.run(command, input=exposition, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


async def test_promtool_finds_no_fault_with_the_exposition(scene: Scene) -> None:
    assert checked_by_promtool(scene.exposition) == (0, "")
    assert checked_by_promtool(scene.exposition.replace("_total", "_sum"))[0] != 0


async def test_no_call_phone_or_agent_is_in_the_metrics(scene: Scene) -> None:
    assert len(scene.personal) > 200
    assert {each for each in scene.personal if each in scene.exposition} == set()


async def test_each_sample_has_the_labels_of_its_declaration_and_few_values(scene: Scene) -> None:
    declared = {each.name: set(each.labels) for each in Metrics().declared}
    values: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(scene.exposition):
        for sample in family.samples:
            name = sample.name if sample.name in declared else family.name
            assert set(sample.labels) - {"le"} == declared[name], sample.name
            for label, value in sample.labels.items():
                values.setdefault(label, set()).add(value)
    many = {label for label, found in values.items() if len(found) > MOST_VALUES}
    assert many <= {"le"}, "the buckets alone are many"
