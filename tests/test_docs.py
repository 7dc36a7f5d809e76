"""The documents say only what is there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEST_NAME = re.compile(r"`(test_\w+\.py)((?:::\w+)+)`")
LINK = re.compile(r"\]\(([^)#:]+)\)")


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


def test_every_invariant_names_tests_that_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    there = {path.name: names_in(path) for path in (ROOT / "tests").rglob("test_*.py")}
    named = TEST_NAME.findall(text)
    assert [f"{file}{name}" for file, name in named if name not in there.get(file, set())] == []
    invariants = re.findall(
        r"^(\d+)\. \*\*(?:.|\n)*?(?=^\d+\. |\Z)", text[text.index("## What always holds") :], re.MULTILINE
    )
    assert invariants == [str(number) for number in range(1, 13)]
    assert len(named) >= len(invariants)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_to_a_file_leads_somewhere(document: Path) -> None:
    links = LINK.findall(document.read_text(encoding="utf-8"))
    assert [link for link in links if not (document.parent / link).exists()] == []
