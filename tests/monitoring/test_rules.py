"""The alerts fire when they must and not when they must not, and lead to what there is to do."""

import json
import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.monitoring.dashboard import metrics_in
from tests.monitoring.operator import ALERTS, FOLDER, PROMETHEUS_RULE, for_the_operator
from tests.tools import need
from worker.observe.metrics import IntakeMetrics, Metrics

pytestmark = pytest.mark.verify

ROOT: Final = FOLDER.parents[1]
TESTS: Final = FOLDER / "alerts.test.yaml"
HEADING: Final = re.compile(r"^### (.+)$", re.MULTILINE)


def read(path: Path) -> Any:  # noqa: ANN401 - YAML
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def rules() -> list[dict[str, Any]]:
    return [rule for group in read(ALERTS)["groups"] for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def promtool(*arguments: str | Path) -> str:
    """Run it in the rules' folder; return what it says: why it failed, if it did."""
    done = subprocess.run(
        [need("promtool"), *arguments], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_the_rules() -> None:
    assert f"{len(rules())} rules found" in promtool("check", "rules", ALERTS)


def test_every_alert_fires_when_it_must_and_is_silent_when_it_must_not() -> None:
    assert "SUCCESS" in promtool("test", "rules", TESTS)


def test_each_alert_has_cases_of_both_kinds() -> None:
    cases: dict[str, set[bool]] = defaultdict(set)
    for group in read(TESTS)["tests"]:
        for case in group.get("alert_rule_test", ()):
            cases[case["alertname"]].add(bool(case.get("exp_alerts")))
    assert dict(cases) == {rule["alert"]: {True, False} for rule in alerts()}


def test_each_alert_has_a_case_where_it_fires_in_each_of_its_windows() -> None:
    expected = {
        (case["alertname"], alert["exp_labels"].get("window"))
        for group in read(TESTS)["tests"]
        for case in group.get("alert_rule_test", ())
        for alert in case.get("exp_alerts") or ()
    }
    assert expected == {(rule["alert"], rule["labels"].get("window")) for rule in alerts()}


def test_each_alert_says_how_urgent_it_is_and_what_happened_and_leads_to_its_paragraph() -> None:
    for rule in alerts():
        notes = rule["annotations"]
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert set(notes) == {"summary", "description", "runbook_url"}
        assert notes["description"].endswith(".")
        assert notes["runbook_url"] == f"docs/operations.md#{rule['alert'].lower()}"


def test_each_alert_has_its_paragraph_and_there_is_no_other() -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    section = text[text.index("\n## Alerts\n") :]
    paragraphs = dict(zip(HEADING.findall(section), HEADING.split(section)[2::2], strict=True))
    assert list(paragraphs) == list(dict.fromkeys(rule["alert"] for rule in alerts()))
    for rule in alerts():
        text = " ".join(paragraphs[rule["alert"]].split())
        assert f"*{rule['labels']['severity']}*" in text, "it says how urgent it is"
        for part in ("**What it means.**", "**How to see it.**", "**What to do.**"):
            assert part in text, f"{part} of {rule['alert']}"


def test_the_rules_name_only_metrics_that_are_kept() -> None:
    declared = [*Metrics().declared, *IntakeMetrics().declared]
    kept = {each.name for each in declared}
    kept |= {
        f"{each.name}_{part}"
        for each in declared
        if each.kind == "histogram"
        for part in ("bucket", "sum", "count")
    }
    assert metrics_in(rule["expr"] for rule in rules()) - kept == set()
    series = [each["series"] for group in read(TESTS)["tests"] for each in group["input_series"]]
    assert metrics_in(series) - kept == set()


def test_every_recorded_series_is_used_and_there_is_no_other() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    used = {name for rule in alerts() for name in re.findall(r"crm_sync:[\w:]+", rule["expr"])}
    assert used == recorded


def test_the_operator_gets_the_same_rules() -> None:
    made = for_the_operator(ALERTS.read_text(encoding="utf-8"))
    assert PROMETHEUS_RULE.read_text(encoding="utf-8") == made, "run `python -m tests.monitoring.operator`"
    assert read(PROMETHEUS_RULE)["spec"] == read(ALERTS)


def test_the_commands_in_the_documents_change_the_objective_and_make_links(tmp_path: Path) -> None:
    folder = tmp_path / "k8s" / "monitoring"
    shutil.copytree(FOLDER, folder)
    text = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    commands = [block for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) if "sed" in block]
    assert len(commands) == 2
    for command in commands:
        where = tmp_path if command.startswith("cd ") else folder
        subprocess.run(["/bin/sh", "-euc", command], cwd=where, check=True)
    subprocess.run([need("promtool"), "check", "rules", folder / "alerts.yaml"], check=True)
    changed = read(folder / "alerts.yaml")
    assert read(folder / "prometheusrule.yaml")["spec"] == changed
    expressions = [rule["expr"] for group in changed["groups"] for rule in group["rules"]]
    assert [each.count("* 0.05") + each.count("> 0.05") for each in expressions if "ratio" in each] == [
        2,
        2,
        2,
    ]
    board = (folder / "dashboard.json").read_text(encoding="utf-8")
    assert json.loads(board)
    for text in (*expressions, board):
        assert "300.0" not in text
        assert "0.01" not in text
    links = [rule["annotations"]["runbook_url"] for rule in changed["groups"][0]["rules"] if "alert" in rule]
    assert links[0] == "https://git.example/crm-sync/blob/main/docs/operations.md#crmsynccallslate"


def test_kustomize_makes_the_rules_and_a_dashboard_that_grafana_finds() -> None:
    built = subprocess.run([need("kustomize"), "build", FOLDER], capture_output=True, text=True, check=True)
    found = {each["kind"]: each for each in yaml.safe_load_all(built.stdout)}
    assert set(found) == {"PodMonitor", "PrometheusRule", "ConfigMap"}
    assert found["PrometheusRule"]["spec"] == read(ALERTS)
    board = found["ConfigMap"]
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(board["data"]["crm-sync.json"]) == json.loads((FOLDER / "dashboard.json").read_text())
