"""The documents say only what is there."""

import ast
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from worker.core.breakers import CircuitBreakers
from worker.core.errors import (
    DeliveryUnavailable,
    EnrichmentUnavailable,
    FailureKind,
    NotReady,
    NotReadyReason,
    ProcessingError,
    Reason,
)
from worker.core.transitions import State
from worker.observe.metrics import IntakeMetrics, Metrics
from worker.observe.report import Reporter

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEST_NAME = re.compile(r"`(test_\w+\.py)((?:::\w+)+)`")
FILE_NAME = re.compile(
    r"`((?:worker|simulators|tests|docs|core|rabbitmq|vicidial|sinks|observe|check|commands)/[\w/]+\.py)`"
)
LINK = re.compile(r"\]\(([^)#:]*)(?:#([\w-]+))?\)")
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.+)$")
ROW = re.compile(r"^\| *`([^`]+)` *\|")
METRIC = re.compile(r"\bcrm_sync_\w+")
NO_METRICS = {"crm_sync_call_id"}
"""Names that only look so: a property in HubSpot."""


def names_in(path: Path) -> set[str]:
    """Name each class, function and method of a test file as pytest does."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(f"::{node.name}")
        if isinstance(node, ast.ClassDef):
            functions = (
                each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
            )
            names |= {f"::{node.name}::{function.name}" for function in functions}
    return names


@pytest.fixture(scope="module")
def tests_there() -> dict[str, set[str]]:
    """Name the tests of each file."""
    return {path.name: names_in(path) for path in (ROOT / "tests").rglob("test_*.py")}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_test_that_is_named_exists(document: Path, tests_there: dict[str, set[str]]) -> None:
    named = TEST_NAME.findall(document.read_text(encoding="utf-8"))
    assert [f"{file}{name}" for file, name in named if name not in tests_there.get(file, set())] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_file_of_ours_that_is_named_exists(document: Path) -> None:
    """The architecture page names files below `worker/`, the others from the root."""
    named = FILE_NAME.findall(document.read_text(encoding="utf-8"))
    assert [name for name in named if not any((ROOT / top / name).exists() for top in ("", "worker"))] == []


def test_the_architecture_page_follows_one_event_in_at_most_14_steps() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| `([\w/]+\.py)` \|", text, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, len(rows) + 1))
    assert len({file for _, file in rows}) <= len(rows) <= 14


def test_every_invariant_names_tests() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = TEST_NAME.findall(text)
    invariants = re.findall(
        r"^(\d+)\. \*\*(?:.|\n)*?(?=^\d+\. |\Z)", text[text.index("## What always holds") :], re.MULTILINE
    )
    assert invariants == [str(number) for number in range(1, 13)]
    assert len(named) >= len(invariants)


def headings_of(document: Path) -> set[str]:
    """Name each heading as a link to it does."""
    lines = FENCED.sub("", document.read_text(encoding="utf-8")).splitlines()
    texts = [match[1].lower() for line in lines if (match := HEADING.match(line))]
    return {re.sub(r"[^\w -]", "", text).replace(" ", "-") for text in texts}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_to_a_file_or_a_heading_leads_somewhere(document: Path) -> None:
    lost = []
    for file, heading in LINK.findall(document.read_text(encoding="utf-8")):
        target = document.parent / file if file else document
        if not target.exists() or (heading and heading not in headings_of(target)):
            lost.append(f"{file}#{heading}")
    assert lost == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_metric_that_is_named_is_kept(document: Path) -> None:
    families = [*Metrics().registry.collect(), *IntakeMetrics().registry.collect()]
    kept = {sample.name for family in families for sample in family.samples}
    kept |= {f"{family.name}_total" for family in families if family.type == "counter"}
    kept |= {family.name for family in families}
    named = set(METRIC.findall(document.read_text(encoding="utf-8")))
    assert named - kept - NO_METRICS == set()


# --- the operator's tables ------------------------------------------------------------------------


def tables_of(document: Path) -> dict[tuple[str, str], list[str]]:
    """Return the names in the first column of each table, by its section and the head of that column."""
    tables: dict[tuple[str, str], list[str]] = {}
    section, rows = "", None
    for line in FENCED.sub("", document.read_text(encoding="utf-8")).splitlines():
        if heading := HEADING.match(line):
            section = heading[1]
        if not line.startswith("|"):
            rows = None
        elif rows is None:
            rows = tables[section, line.split("|")[1].strip()] = []
        elif row := ROW.match(line):
            rows.append(row[1])
    return tables


def raised_in(package: str) -> Iterator[FailureKind]:
    """Yield each kind of failure that the package raises; an outage is the default and not named."""
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "worker" / package).glob("*.py"))
    return (kind for kind in FailureKind if kind is FailureKind.OUTAGE or f"FailureKind.{kind.name}" in text)


def kinds_of(error: type[ProcessingError]) -> Iterator[type[ProcessingError]]:
    """Yield a class of errors and all below it."""
    yield error
    for below in error.__subclasses__():
        yield from kinds_of(below)


def labels() -> set[str]:
    """Return the label of every error that a step can fail with."""
    found = {error.label for error in kinds_of(ProcessingError) if "label" in vars(error)}
    found |= {NotReady("", reason).label for reason in NotReadyReason}
    found |= {EnrichmentUnavailable("", kind).label for kind in raised_in("vicidial")}
    return found | {
        DeliveryUnavailable("", kind).label for package in ("sinks", "crm") for kind in raised_in(package)
    }


BREAKERS = CircuitBreakers(full=1, probe_max=timedelta(seconds=1), refused_probe=timedelta(seconds=1))
FINAL = {"invalid_event", "rejected_by_dialer", "rejected_by_sink", "mapping_failed"}
"""The errors that nothing is tried again after: each is a reason instead."""


@pytest.mark.parametrize(
    ("section", "column", "names"),
    [
        ("Outcomes", "outcome", set(Reporter(Metrics()).counts)),
        ("Circuit breakers", "breaker", {status.name for status in BREAKERS.status()}),
        ("Circuit breakers", "state", set(State)),
        ("Reasons of a retry", "reason", labels() - FINAL | {"unexpected"}),
        ("Reasons in the dead letters", "reason", set(Reason)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_word_that_an_operator_meets_has_its_row(section: str, column: str, names: set[str]) -> None:
    rows = tables_of(ROOT / "docs" / "operations.md")[section, column]
    assert sorted(rows) == sorted(str(name) for name in names)


def test_what_is_tried_again_after_nothing_is_a_reason() -> None:
    assert labels() > FINAL
    assert {str(reason) for reason in Reason} > FINAL
