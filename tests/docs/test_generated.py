"""The generated pages say what the code says now, and what they say of a setting is true of it."""

import base64
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from docs.generate import FOLDER, PAGES, Setting, settings_of
from worker.crm.load import resolved
from worker.observe.metrics import IntakeMetrics, Metrics
from worker.settings import IntakeCommandSettings, Settings, SettingsError
from worker.settings.load import variables

ROOT = Path(__file__).parents[2]
SETTINGS = {setting.path: setting for setting in settings_of()}
MINIMAL: dict[str, Any] = {
    "vicidial": {"url": "https://dialer.example/api.php", "user": "api", "password": "secret"},
    "sink": {"url": "https://crm.example/"},
}
WORDS = {
    "a duration": "30s",
    "a mapping": "{a: 1}",
    "a list of durations": "1s,2s",
    "a list of texts": "A,B",
    "a list of paths": "/a,/b",
    "a path": "/a",
    "a time zone's IANA name": "Europe/Berlin",
    "true or false": "no",
    "text": "http://x.example/",
    "text, a secret": "http://x.example/",
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_up_to_date(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == PAGES[name](), "run python -m docs.generate"


def test_the_command_says_so_whatever_is_set_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRM_SYNC_BROKER__NAMESPACE", "another")
    command = [sys.executable, "-m", "docs.generate", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    wrong = subprocess.run([*command, "--chekc"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stderr[:6]) == (2, "usage:")


def test_every_setting_and_its_variable_is_on_the_page_once() -> None:
    page = (FOLDER / "settings.md").read_text(encoding="utf-8")
    of_a_file = [setting.file for setting in SETTINGS.values() if setting.file is not None]
    assert sorted([*SETTINGS, *of_a_file]) == sorted(variables().values())
    assert sorted(re.findall(r"^### (\S+)$", page, re.MULTILINE)) == sorted(SETTINGS)
    for variable in variables():
        assert len(re.findall(rf"`{variable}`", page)) == 1 + (variable == "CRM_SYNC_VICIDIAL__TIMEOUT")


def given(path: str, value: object) -> Settings:
    """Load the tree with this one setting."""
    tree: dict[str, Any] = yaml.safe_load(yaml.safe_dump(MINIMAL))
    *sections, name = path.split(".")
    place = tree
    for section in sections:
        place = place.setdefault(section, {})
    place[name] = value
    return Settings.model_validate(tree)


def refused(path: str, value: object) -> bool:
    try:
        given(path, value)
    except ValidationError:
        return True
    return False


def good_value(setting: Setting) -> object:
    """Return a value of the kind that the page says."""
    special = {
        "broker.url": "amqps://u:p@x.example/",
        "broker.namespace": "name",
        "vicidial.user": "name",
        "http.host": "127.0.0.1",
        "intake.host": "127.0.0.1",
        "vicidial.source": "abc",
        "sink.signing_secret": "whsec_" + base64.b64encode(bytes(24)).decode(),
    }
    if setting.path in special:
        return special[setting.path]
    if setting.kind == "a whole number":
        return setting.bounds.split(" to ")[0]
    return WORDS[setting.kind] if setting.kind in WORDS else re.findall(r"`(\w+)`", setting.kind)[-1]


@pytest.mark.parametrize("path", SETTINGS)
def test_a_setting_takes_what_the_page_says(path: str) -> None:
    given(path, good_value(SETTINGS[path]))
    others = [value for value in ("nonsense/", "", [["x"]]) if refused(path, value)]
    assert others, "it takes anything, whatever the page says"


@pytest.mark.parametrize("path", SETTINGS)
def test_the_default_on_the_page_is_the_default(path: str) -> None:
    shown = SETTINGS[path].default
    if path == "sink.crm.preset":
        with pytest.raises(SettingsError, match="is required"):
            resolved(Settings.model_validate(MINIMAL).sink.crm, {})
    elif path == "intake.token_files":
        with pytest.raises(ValidationError, match="is required"):
            IntakeCommandSettings()
        assert given(path, "") == Settings.model_validate(MINIMAL)
    elif shown.startswith("required"):
        tree: dict[str, Any] = yaml.safe_load(yaml.safe_dump(MINIMAL))
        section, _, name = path.rpartition(".")
        del tree[section][name]
        with pytest.raises(ValidationError, match="is required"):
            Settings.model_validate(tree)
    elif shown != "unset":
        value = shown.strip("`").replace("<namespace>", "crm-sync")
        assert given(path, value) == Settings.model_validate(MINIMAL)


@pytest.mark.parametrize("path", [path for path, one in SETTINGS.items() if one.kind == "a duration"])
def test_a_duration_of_nothing_is_refused_where_the_page_says_so(path: str) -> None:
    assert refused(path, "0") == SETTINGS[path].bounds.startswith("longer than 0")


@pytest.mark.parametrize("path", [path for path, one in SETTINGS.items() if " to " in one.bounds])
def test_a_number_or_text_is_refused_beyond_its_bounds(path: str) -> None:
    low, high = (int(number) for number in re.findall(r"(\d+) to (\d+)", SETTINGS[path].bounds)[0])
    numeric = SETTINGS[path].kind == "a whole number"

    def value(number: int) -> object:
        return number if numeric else "a" * number

    assert [refused(path, value(number)) for number in (low - 1, low, high, high + 1)] == [
        True,
        False,
        False,
        True,
    ]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("broker.url", "http://x.example/"),
        ("broker.namespace", "a b"),
        ("drain", "1501s"),
        ("retry.delays", "5s,5s"),
        ("retry.delays", ""),
        ("vicidial.source", "a-b"),
        ("vicidial.url", "ftp://x.example/"),
        ("sink.url", "ftp://x.example/"),
        ("sink.signing_secret", "whsec_!"),
        ("sink.signing_secret", "whsec_" + base64.b64encode(bytes(23)).decode()),
        ("sink.signing_secret", "whsec_" + base64.b64encode(bytes(65)).decode()),
        ("vicidial.user", "a b"),
        ("retry.delays", "99ms"),
        ("sink.timeout", "121s"),
        ("vicidial.timeout", "121s"),
    ],
)
def test_what_is_out_of_bounds_by_the_page_is_refused(path: str, value: str) -> None:
    assert SETTINGS[path].bounds
    assert refused(path, value)


def test_the_longest_drain_on_the_page_is_taken() -> None:
    assert SETTINGS["drain"].bounds.endswith("at most 25m")
    given("drain", "25m")


def test_every_metric_that_is_exposed_is_on_the_page() -> None:
    page = (FOLDER / "metrics.md").read_text(encoding="utf-8")
    processes = Metrics(), IntakeMetrics()
    rows = {
        match[1]: (match[2], re.findall(r"`(\w+)`", match[3]))
        for match in re.finditer(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \|", page, re.MULTILINE)
    }
    exposed = {
        family.name + ("_total" if family.type == "counter" else ""): family
        for metrics in processes
        for family in metrics.registry.collect()
    }
    assert rows.keys() == exposed.keys()
    for name, (kind, _) in rows.items():
        assert kind == exposed[name].type
    assert rows["crm_sync_retries_total"] == ("counter", ["reason", "tier"])
    for metric in [each for metrics in processes for each in metrics.declared]:
        assert rows[metric.name][1] == list(metric.labels)
