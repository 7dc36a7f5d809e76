"""The settings and presets that the pages of the CRMs show can be used as they stand."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs.test_examples import example
from worker.commands.event_schemas import payloads
from worker.crm.load import compiled, resolved
from worker.crm.preset_tests import failures, read_cases
from worker.crm.source import shipped
from worker.settings import Settings, load

pytestmark = pytest.mark.verify

FOLDER = Path(__file__).parents[2] / "docs" / "crm"
DIALER = {"url": "https://dialer.example/api.php", "user": "api", "password": "secret"}
EXAMPLES = {kind.partition(".")[0]: payload for kind, payload in payloads().items()}


def read(name: str) -> str:
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8")


def loaded(tree: dict[str, Any], tmp_path: Path) -> Settings:
    """Load settings, each secret file in another place."""
    text = yaml.safe_dump({"vicidial": DIALER, **tree})
    for name in re.findall(r"/run/secrets/crm-sync/([\w-]+)", text):
        (tmp_path / name).write_text("secret\n", encoding="utf-8")
    config = tmp_path / "settings.yaml"
    config.write_text(text.replace("/run/secrets/crm-sync", str(tmp_path)), encoding="utf-8")
    return load(Settings, config)


def test_each_preset_has_a_page() -> None:
    assert {*shipped(), "index", "presets"} == {path.stem for path in FOLDER.glob("*.md")}


@pytest.mark.parametrize("name", shipped())
def test_the_settings_of_a_page_work(name: str, tmp_path: Path) -> None:
    text = example(read(name), "settings")
    assert len(text.splitlines()) <= 12
    settings = loaded(yaml.safe_load(text), tmp_path)
    assert settings.sink.crm.preset == name
    crm = resolved(settings.sink.crm, {})
    assert set(crm.secrets()) == {"secret"}
    compiled(crm, DIALER["url"])


def test_the_example_of_a_preset_works_and_passes_its_tests(tmp_path: Path) -> None:
    page = read("presets")
    for name in ("ours.yaml", "ours.tests.yaml"):
        (tmp_path / name).write_text(example(page, name), encoding="utf-8")
    ours = str(tmp_path / "ours.yaml")
    cases = read_cases(ours)
    assert cases
    for case in cases:
        assert failures(ours, case, EXAMPLES) == []
