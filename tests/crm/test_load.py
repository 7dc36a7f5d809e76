# ruff: noqa: ANN401 - a setting has any value
"""The settings below `sink.crm`: typed by the preset, secrets masked, every mistake named."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr, ValidationError

from tests.crm.conversation import template
from worker.crm.load import compiled, resolved
from worker.settings import Settings, SettingsError, load
from worker.settings.load import sources
from worker.settings.show import in_force
from worker.settings.tree import CrmSettings

PRESET: dict[str, Any] = {
    "crm": "own",
    "title": "Own",
    "about": "An own one.",
    "settings": {
        "token": {"secret": True, "required": True, "about": "The token."},
        "site": {"type": "address", "about": "The address."},
        "level": {"type": "number", "default": 3, "about": "A number."},
        "unique": {"type": "boolean", "default": False, "about": "A flag."},
        "unlogged": {"type": "list", "default": [], "about": "A list."},
        "owners": {"type": "table", "default": {}, "about": "A table."},
        "zone": {"type": "zone", "about": "A zone."},
        "region": {"type": "country", "default": "US", "about": "A country."},
        "center": {"default": "com", "choices": ["com", "eu"], "about": "A choice."},
    },
    "url": "https://crm.example",
    "headers": {"Authorization": "Bearer {{ settings.token }}"},
    "on_call": [{"step": "record", "repeat": "upsert", "post": "/calls", "body": {"a": 1}}],
    "receipt": {"id": "1"},
}
BATCH = {"max": 2, "wait": "1ms", "at": "items", "results": "{{ body }}"}
REQUIRED = {
    "CRM_SYNC_VICIDIAL__URL": "https://dialer.example/x.php",
    "CRM_SYNC_VICIDIAL__USER": "api",
    "CRM_SYNC_VICIDIAL__PASSWORD": "hunter2-hunter2",
    "CRM_SYNC_SINK__KIND": "crm",
}


@pytest.fixture
def preset(tmp_path: Path) -> str:
    """Write the preset."""
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(PRESET, sort_keys=False), encoding="utf-8")
    return str(path)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("CRM_SYNC_")]:
        monkeypatch.delenv(name)
    for name, value in REQUIRED.items():
        monkeypatch.setenv(name, value)


def crm(preset: str, **own: Any) -> CrmSettings:
    return CrmSettings.model_validate({"preset": preset, "token": "t0ken", **own})


def mistakes(settings: CrmSettings, origins: Mapping[str, str] = {}) -> list[str]:
    with pytest.raises(SettingsError) as error:
        resolved(settings, origins)
    return error.value.problems


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("site", "https://crm.example/", "https://crm.example"),
        ("level", "7", 7),
        ("level", "1.5", 1.5),
        ("level", 8, 8),
        ("unique", "yes", True),
        ("unique", "false", False),
        ("unlogged", "NA, B", ["NA", "B"]),
        ("unlogged", "[NA, 1]", ["NA", "1"]),
        ("unlogged", ["NA"], ["NA"]),
        ("owners", {"1000": "77"}, {"1000": "77"}),
        ("owners", "{1000: 77}", {"1000": 77}),
        ("zone", "America/New_York", "America/New_York"),
        ("region", "de", "DE"),
        ("center", "eu", "eu"),
        ("center", "", "com"),
    ],
)
def test_a_setting_has_the_type_that_the_preset_says(preset: str, name: str, given: Any, value: Any) -> None:
    assert resolved(crm(preset, **{name: given}), {}).own[name] == value


def test_settings_that_are_not_given_have_their_defaults(preset: str) -> None:
    own = resolved(crm(preset), {}).own
    assert own == {
        "token": SecretStr("t0ken"),
        "site": None,
        "level": 3,
        "unique": False,
        "unlogged": [],
        "owners": {},
        "zone": None,
        "region": "US",
        "center": "com",
    }


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("site", "crm.example", "is not an address"),
        ("level", "many", "must be a number"),
        ("level", True, "must be a number"),
        ("unique", "perhaps", "must be true or false"),
        ("unlogged", {"a": 1}, "must be a list"),
        ("unlogged", "[a", "must be a list"),
        ("owners", "1000", "must be a mapping"),
        ("zone", "Mars", "is no IANA time zone"),
        ("region", "USA", "must be a country of two letters"),
        ("region", "UK", "such as US, or GB for the United Kingdom"),
        ("region", "EU", "must be a country of two letters"),
        ("center", "us", "must be one of com, eu"),
        ("center", ["us"], "must be text"),
        ("token", "a\nb", "invisible"),
        ("token", "", "is required: The token."),
        ("region_file", "/x", "is no secret, so region_file names nothing"),
        ("tokn", "x", "the preset own has no such setting; did you mean sink.crm.token?"),
        ("zzz", "x", "the preset own has no such setting; known are token, site"),
    ],
)
def test_a_wrong_setting_is_named_with_what_would_be_right(
    preset: str, name: str, given: Any, said: str
) -> None:
    (problem,) = mistakes(crm(preset, **{name: given}), {f"sink.crm.{name}": "HERE"})
    assert problem.startswith(f"sink.crm.{name.removesuffix('_file')} (")
    assert said in problem


def test_a_secret_is_given_once(preset: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="token is given twice, directly and by token_file; keep one"):
        crm(preset, token_file=str(tmp_path / "token"))


def test_a_secret_file_that_can_not_be_read_is_named(preset: str) -> None:
    settings = CrmSettings.model_validate({"preset": preset, "token_file": "/none"})
    assert mistakes(settings) == [
        "sink.crm.token (CRM_SYNC_SINK__CRM__TOKEN): can't read /none: No such file or directory"
    ]


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    wrong = PRESET | {
        "settings": {**PRESET["settings"], "tables": {"about": "x"}, "x_file": {"about": "x"}},
        "on_call": [
            {"step": "find", "get": "/{{ x }}", "of": "search", "repeat": "upsert"},
            {"step": "find", "get": "/", "learn": {"table": "t", "key": "1", "value": "1"}},
            {"step": "record", "post": "/{{ call.x }}", "soft": True, "batch": BATCH},
            {"step": "call", "post": "/"},
        ],
        "receipt": {"new": True},
    }
    path.write_text(yaml.safe_dump(wrong), encoding="utf-8")
    found = [each.removeprefix("sink.crm.preset: ") for each in mistakes(crm(str(path), level="x"))]
    assert [each.partition(":")[0] for each in found] == [
        "settings.tables",
        "settings.x_file",
        "receipt",
        "on_call.find.repeat",
        "on_call.record.repeat",
        "on_call.record",
        "on_call.find",
        "on_call.find.of",
        "on_call.find.learn.table",
        "on_call.record.batch.at",
        "sink.crm.level (CRM_SYNC_SINK__CRM__LEVEL)",
        "on_call.find.path",
        "on_call.record.path",
        "on_call.call",
    ]


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([], "on_call: needs a step `record`"),
        ([{"step": "record", "post": "/", "repeat": "search"}], "search needs a step `known` before"),
    ],
)
def test_a_preset_needs_what_makes_a_repeat_harmless(tmp_path: Path, steps: list[Any], said: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(PRESET | {"on_call": steps}), encoding="utf-8")
    (problem,) = mistakes(crm(str(path)))
    assert said in problem


def test_a_preset_must_be_named_and_known() -> None:
    assert "sink.crm.preset (CRM_SYNC_SINK__CRM__PRESET): is required" in mistakes(CrmSettings())[0]
    assert "sink.crm.preset: hubspott: no such preset" in mistakes(CrmSettings(preset="hubspott"))[0]


def settings_from(tree: object, folder: Path) -> tuple[Settings, Path]:
    config = folder / "config.yaml"
    config.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree), encoding="utf-8")
    settings = load(Settings, config)
    own = resolved(settings.sink.crm, sources(config))
    return settings.model_copy(update={"sink": settings.sink.model_copy(update={"crm": own})}), config


def test_each_source_of_a_setting_counts_and_the_secrets_are_masked(
    preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "sink__crm__token").write_text("from-the-folder\n", encoding="utf-8")
    monkeypatch.setenv("CRM_SYNC_SECRETS_DIR", str(tmp_path / "secrets"))
    monkeypatch.setenv("CRM_SYNC_SINK__CRM__REGION", "GB")
    monkeypatch.setenv("CRM_SYNC_SINK__CRM__TABLES", "{owners: {NO: 1}}")
    text = f"""
        sink:
          crm:
            preset: {preset}
            center: eu
            level: 10
            owners: {{0100: 5, NO: "6"}}
            fields: {{b: true}}
    """
    settings, config = settings_from(text, tmp_path)
    shown = {each.name: (each.value, each.source) for each in in_force(settings, sources(config))}
    folder = tmp_path / "secrets" / "sink__crm__token"
    assert shown["sink.crm.token"] == ("***", f"{folder} (CRM_SYNC_SECRETS_DIR)")
    assert shown["sink.crm.region"] == ("GB", "CRM_SYNC_SINK__CRM__REGION")
    assert shown["sink.crm.center"] == ("eu", str(config))
    assert shown["sink.crm.owners"] == ('{"0100": 5, "NO": "6"}', str(config))
    assert shown["sink.crm.level"] == ("10", str(config))
    assert shown["sink.crm.unlogged"] == ("-", "default")
    assert shown["sink.crm.tables"] == ('{"owners": {"NO": 1}}', "CRM_SYNC_SINK__CRM__TABLES")
    assert "from-the-folder" in settings.secrets()
    assert "GB" not in settings.secrets()
    ready = compiled(settings.sink.crm, settings.vicidial.url)
    assert ready.dialer == "dialer.example"
    assert template(ready, "headers").render({"settings": ready.settings}) == {
        "Authorization": "Bearer from-the-folder"
    }
    assert template(ready, "on_call.record.body").render({}) == {"a": 1, "b": True}


def test_a_secret_file_is_read_again(preset: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("old", encoding="utf-8")
    settings = CrmSettings.model_validate({"preset": preset, "token_file": str(file)})
    own = resolved(settings, {})
    assert list(own.secrets()) == ["old"]
    file.write_text("new", encoding="utf-8")
    assert own.reread() == {"token": "new"}
    file.unlink()
    with pytest.raises(ValueError, match="can't read"):
        own.reread()


def test_without_its_preset_each_setting_is_taken_for_a_secret(preset: str) -> None:
    assert list(crm(preset).secrets()) == ["t0ken"]


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"sink": {"crm": "hubspot"}}, "sink.crm: is a section"),
        ({"sink": {"crm": {"Bad Name": "x"}}}, "sink.crm.Bad Name: no such setting"),
        ({"sink": {"crm": {"tables": "x"}}}, "sink.crm.tables ("),
    ],
)
def test_a_section_that_is_none_is_named(tree: object, said: str, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(tree), encoding="utf-8")
    with pytest.raises(SettingsError) as error:
        load(Settings, config)
    assert any(each.startswith(said) for each in error.value.problems)


def test_compiling_names_what_is_wrong(preset: str) -> None:
    with pytest.raises(SettingsError, match="is required"):
        compiled(CrmSettings(), "https://dialer.example/x.php")
    with pytest.raises(
        SettingsError, match=r"sink.crm.preset: on_call\.record\.body\.x: has an unknown name y"
    ):
        compiled(crm(preset, fields={"x": "{{ y }}"}), "https://dialer.example/x.php")


def test_a_placeholder_stands_for_a_required_setting_that_is_missing(preset: str) -> None:
    with pytest.raises(SettingsError, match="is required"):
        compiled(CrmSettings(preset=preset), "")
    ready = compiled(CrmSettings(preset=preset), "", placeholders=True)
    assert ready.settings["token"] == "<token>"
    pipedrive = compiled(CrmSettings(preset="pipedrive"), "", placeholders=True)
    assert pipedrive.settings["url"] == "https://url.example"


@pytest.mark.parametrize("command", ["run", "check"])
def test_a_command_names_all_wrong_settings_and_ends_with_2(
    command: str, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRM_SYNC_SINK__CRM__PRESET", preset)
    monkeypatch.setenv("CRM_SYNC_SINK__CRM__LEVEL", "x")
    monkeypatch.setenv("CRM_SYNC_VICIDIAL__USER", "")
    done = subprocess.run(
        [sys.executable, "-m", "worker", command], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert "3 settings are wrong" in done.stderr
    for part in ("vicidial.user", "sink.crm.token", "sink.crm.level (CRM_SYNC_SINK__CRM__LEVEL)"):
        assert part in done.stderr


def test_only_a_crm_needs_its_template_language() -> None:
    code = "import sys, worker.commands.run, worker.commands.check; print('jinja2' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "False"


def test_an_unknown_key_and_a_wrong_row_hide_no_mistake_in_a_template(preset: str) -> None:
    own = yaml.safe_load(Path(preset).read_text(encoding="utf-8"))
    own["on_call"][0] |= {"bodyy": 1, "of": "none", "body": {"a": "{{ call.staus }}"}}
    Path(preset).write_text(yaml.safe_dump(own), encoding="utf-8")
    with pytest.raises(SettingsError) as error:
        compiled(CrmSettings.model_validate({"preset": preset, "token": "t"}), "https://dialer.example/x.php")
    assert [each.removeprefix("sink.crm.preset: ").partition(":")[0] for each in error.value.problems] == [
        "on_call.record.bodyy",
        "on_call.record.of",
        "on_call.record.body.a",
    ]
