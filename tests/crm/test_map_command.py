"""`crm-sync map` and `crm-sync crm`: what a CRM would get, without sending it."""

import json
import os
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from worker.cli import app
from worker.commands.common import load_settings
from worker.commands.event_schemas import payloads
from worker.settings import SettingsError

TOKEN = "pat-na1-a-secret-token"
ANSWERS = """
contact: {body: {results: [{id: "501"}], total: 1}}
record:
  - {status: 401}
  - {body: {results: [{id: "9", new: true, properties: {crm_sync_call_id: V1201405090000012345}}]}}
"""
CONFIG = {
    "sink": {
        "kind": "crm",
        "crm": {
            "preset": "hubspot",
            "token": TOKEN,
            "owners": {"1000": "77"},
            "tables": {"status": {"SALE": "COMPLETED"}},
            "fields": {"inputs[0].properties.campaign": "{{ call.campaign_id }}"},
        },
    }
}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("CRM_SYNC_")]:
        monkeypatch.delenv(name)


def crm_sync(*arguments: str, given: str | None = None) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, list(arguments), input=given)


def written(folder: Path, name: str, data: object) -> str:
    path = folder / name
    path.write_text(
        data if isinstance(data, str) else yaml.safe_dump(data, sort_keys=False), encoding="utf-8"
    )
    return str(path)


def test_an_example_is_shown_without_an_account() -> None:
    shown = crm_sync("map", "--example", "call", "--preset", "hubspot")
    assert shown.exit_code == 0
    lines = shown.stdout.splitlines()
    assert "record: POST https://api.hubapi.com/crm/objects/2026-03/calls/batch/upsert" in lines
    assert "  Authorization: Bearer <token>" in lines
    assert "outcome: delivered" in lines
    assert any(line.startswith('receipt: {"id":"9"') for line in lines)
    owner = "left out: body.inputs[0].properties.hubspot_owner_id, because this is null: {{ call.agent_user"
    assert owner in shown.stdout


def test_settings_and_answers_count_and_secrets_are_masked(tmp_path: Path) -> None:
    config = written(tmp_path, "config.yaml", CONFIG)
    answers = written(tmp_path, "answers.yaml", ANSWERS.replace("401", "503"))
    shown = crm_sync("map", "--example", "call", "--config", config, "--answers", answers)
    assert shown.exit_code == 0
    assert TOKEN not in shown.stdout
    assert "Authorization: Bearer ***" in shown.stdout
    assert '"hubspot_owner_id": "77"' in shown.stdout
    assert '"campaign": "SALES1"' in shown.stdout
    assert "outcome: retry: the CRM answered 503 to the step record" in shown.stdout


def test_another_preset_than_that_of_the_settings_has_none_of_its_settings(tmp_path: Path) -> None:
    config = written(tmp_path, "config.yaml", CONFIG)
    shown = crm_sync("map", "--example", "call", "--config", config, "--preset", "pipedrive")
    assert shown.exit_code == 0
    assert "x-api-token: <token>" in shown.stdout
    assert "POST https://url.example/api/v2/activities" in shown.stdout


def test_a_step_that_is_left_out_says_why() -> None:
    payload = payloads()["call.enriched"]
    payload["data"]["call"]["phone_number"] = None
    shown = crm_sync("map", "-", "--preset", "hubspot", given=json.dumps(payload))
    assert "contact: left out, because this is not true: {{ number.national" in shown.stdout


def test_a_form_is_shown_and_an_agent() -> None:
    assert "  operation=create" in crm_sync("map", "--example", "call", "--preset", "vtiger").stdout
    assert "outcome: delivered" in crm_sync("map", "--example", "agent", "--preset", "hubspot").stdout


def test_a_payload_that_can_not_be_mapped_fails(tmp_path: Path) -> None:
    own = written(
        tmp_path,
        "own.yaml",
        {"extends": "hubspot", "on_call": [{"step": "record", "body": {"x": "{{ event.none | required }}"}}]},
    )
    shown = crm_sync("map", "--example", "call", "--preset", own)
    assert shown.exit_code == 1
    assert "outcome: mapping failed: on_call.record.body.x: a required value is missing" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--preset", "hubspot"], "give a FILE, --example or --dead-letter"),
        (["--preset", "hubspot", "--example", "fax"], "known are call and agent"),
        (["--example", "call"], "the settings name no preset"),
        (["--example", "call", "--preset", "hubspott"], "hubspott: no such preset"),
        (["none.json", "--preset", "hubspot"], "none.json can't be read: No such file or directory"),
        (["--test", "--preset", "none.yaml"], "the preset none.yaml has no tests beside it"),
        (["--example", "call", "--preset", "hubspot", "--answers", "none"], "none can't be read"),
    ],
)
def test_wrong_usage_differs_from_failure(arguments: list[str], said: str) -> None:
    shown = crm_sync("map", *arguments)
    assert shown.exit_code == 2
    assert said in " ".join(shown.stderr.split())


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"type": "call.enriched"}', '{"type": 1, "data": {"agent": 1}}']
)
def test_a_file_that_is_no_payload_is_refused(text: str) -> None:
    shown = crm_sync("map", "-", "--preset", "hubspot", given=text)
    assert shown.exit_code == 2
    assert "is no payload: JSON with type, timestamp and data" in shown.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [("[", "is no YAML"), ("record: 5\nlink: [1]", "is no file of answers: record, link must be")],
)
def test_a_file_that_holds_no_answers_is_refused(text: str, said: str, tmp_path: Path) -> None:
    answers = written(tmp_path, "answers.yaml", text)
    shown = crm_sync("map", "--example", "call", "--preset", "hubspot", "--answers", answers)
    assert shown.exit_code == 2
    assert said in shown.stderr


def test_a_payload_that_is_too_large_is_refused(tmp_path: Path) -> None:
    large = tmp_path / "large.json"
    with large.open("wb") as file:
        file.truncate(17 * 1024 * 1024)
    shown = crm_sync("map", str(large), "--preset", "hubspot")
    assert (shown.exit_code, "is larger than 16 MiB" in shown.stderr) == (2, True)


def test_the_tests_of_a_preset_are_played(tmp_path: Path) -> None:
    assert "tests passed" in crm_sync("map", "--preset", "hubspot", "--test").stdout
    own = written(tmp_path, "own.yaml", {"extends": "hubspot"})
    case = {
        "name": "wrong",
        "payload": "agent",
        "settings": {"token": "x"},
        "expect": {"outcome": "delivered", "requests": [{"step": "link"}]},
    }
    written(tmp_path, "own.tests.yaml", [case])
    shown = crm_sync("map", "--preset", own, "--test")
    assert shown.exit_code == 1
    assert shown.stdout.splitlines()[0] == "✗ wrong"
    assert "1 of 1 test failed" in shown.stdout


# --- crm-sync crm ---------------------------------------------------------------------------------


def test_the_presets_are_listed() -> None:
    lines = crm_sync("crm", "list").stdout.splitlines()
    assert lines[0] == "PRESET\tCRM\tWHAT IT WRITES"
    assert any(line.startswith("hubspot\tHubSpot\tWrites each call") for line in lines)


def test_a_preset_is_shown_as_it_is_written_or_as_it_is_used(tmp_path: Path) -> None:
    config = written(tmp_path, "config.yaml", CONFIG)
    assert crm_sync("crm", "show", "hubspot").stdout.startswith("crm: hubspot\n")
    own = written(tmp_path, "own.yaml", {"extends": "hubspot", "title": "Ours"})
    assert crm_sync("crm", "show", own).stdout == "extends: hubspot\ntitle: Ours\n"
    used = yaml.safe_load(crm_sync("crm", "show", "--merged", "--config", config).stdout)
    record = next(step for step in used["on_call"] if step["step"] == "record")
    assert record["body"]["inputs"][0]["properties"]["campaign"] == "{{ call.campaign_id }}"
    merged = yaml.safe_load(crm_sync("crm", "show", own, "--merged").stdout)
    assert (merged["crm"], merged["title"]) == ("hubspot", "Ours")


def test_what_the_settings_change_is_shown(tmp_path: Path) -> None:
    config = written(tmp_path, "config.yaml", CONFIG)
    lines = crm_sync("crm", "diff", "--config", config).stdout.splitlines()
    assert lines[:2] == ["--- hubspot", "+++ hubspot"]
    assert "+        campaign: '{{ call.campaign_id }}'" in lines
    elsewhere = {"preset": "hubspot", "token_file": "/nowhere/token"}
    same = written(tmp_path, "same.yaml", {"sink": {"crm": elsewhere}})
    assert crm_sync("crm", "diff", "--config", same).stdout == "nothing is changed\n"


def test_what_can_not_be_shown_is_named(tmp_path: Path) -> None:
    def run(*arguments: str, **crm: object) -> tuple[int, str]:
        config = written(tmp_path, "config.yaml", {"sink": {"crm": crm}})
        shown = crm_sync("crm", *arguments, "--config", config)
        return shown.exit_code, " ".join(shown.stderr.split())

    assert run("show") == (
        2,
        "crm-sync: the settings name no preset; see sink.crm.preset, and crm-sync crm list",
    )
    assert run("show", "none") == (2, "crm-sync: none can't be read: No such file or directory")
    assert "no such preset" in run("show", "none", "--merged")[1]
    assert "no such preset" in run("diff", preset="none")[1]
    wrong = {"preset": "hubspot", "fields": {"x..y": 1}}
    assert "sink.crm.fields: x..y: is no path" in run("show", "--merged", **wrong)[1]
    broken = written(tmp_path, "broken.yaml", {"extends": "hubspot", "titel": "x", "url": "{{ nobody }}"})
    for arguments in (("show", broken), ("show", broken, "--merged")):
        code, said = run(*arguments)
        assert code == 2
        assert "titel: is no key of a preset; did you mean title?" in said
        assert "url: " in said, "expressions are looked at, too"
    hubspot = yaml.safe_load(crm_sync("crm", "show", "hubspot").stdout)
    own = written(tmp_path, "own.yaml", hubspot | {"crm": "ours"})
    assert run("diff", preset=own)[1].startswith("crm-sync: the service has no preset ours to compare with")


# --- the settings of all commands -----------------------------------------------------------------


def test_the_settings_of_a_preset_are_part_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dialer = {"url": "https://dialer.example/x.php", "user": "api", "password": "hunter2-hunter2"}
    settings = load_settings(Path(written(tmp_path, "config.yaml", {**CONFIG, "vicidial": dialer})))
    assert TOKEN in settings.secrets()
    assert settings.sink.crm.own["region"] == "US"
    monkeypatch.setenv("CRM_SYNC_SINK__CRM__TOKN", "x")
    with pytest.raises(SettingsError) as error:
        load_settings(Path(written(tmp_path, "config.yaml", CONFIG)))
    assert [each.partition(" (")[0] for each in error.value.problems] == [
        "vicidial.url",
        "vicidial.user",
        "vicidial.password",
        "sink.crm.tokn",
    ]
    webhook = load_settings(
        Path(written(tmp_path, "config.yaml", {"sink": {"url": "https://x.example"}, "vicidial": dialer}))
    )
    assert webhook.sink.kind == "webhook"
    monkeypatch.setenv("CRM_SYNC_SINK__KIND", "mail")
    with pytest.raises(SettingsError, match=r"sink\.kind"):
        load_settings(Path(written(tmp_path, "config.yaml", CONFIG)))
