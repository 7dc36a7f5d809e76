"""The settings in force are shown with where they come from, and without any secret."""

import base64
from pathlib import Path

import pytest

from worker.settings import BrokerCommandSettings, HttpSettings, Settings, load
from worker.settings.load import peek, sources, variables
from worker.settings.show import in_force, masked_address

SECRET = "hunter2-hunter2"
SIGNING_SECRET = "whsec_" + base64.b64encode(2 * SECRET.encode()).decode()


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return settings from every source: variables, secret files, the secrets directory, the YAML file."""
    (tmp_path / "password").write_text(SECRET)
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "sink__signing_secret").write_text(SIGNING_SECRET)
    given = {
        "BROKER__URL": f"amqps://me:{SECRET}@broker.example:5671/calls",
        "VICIDIAL__URL": f"https://me:{SECRET}@dialer.example/non_agent_api.php?pass={SECRET}",
        "VICIDIAL__USER": "6666",
        "VICIDIAL__PASSWORD_FILE": str(tmp_path / "password"),
        "SINK__URL": f"https://crm.example/hooks/{SECRET}?key={SECRET}",
        "SECRETS_DIR": str(tmp_path / "secrets"),
        "DRAIN": "90s",
        "VICIDIAL__NOT_FINAL": "QUEUE,INCALL",
    }
    for name, value in given.items():
        monkeypatch.setenv(f"CRM_SYNC_{name}", value)
    file = tmp_path / "crm-sync.yaml"
    file.write_text("drain: 5s\nvicidial: {timezone: America/New_York}\nretry: {delays: [1s, 90]}\n")
    return file


def shown(config: Path) -> dict[str, tuple[str, str]]:
    return {
        each.name: (each.value, each.source) for each in in_force(load(Settings, config), sources(config))
    }


def test_each_setting_is_shown_with_the_source_that_wins(config: Path, tmp_path: Path) -> None:
    found = shown(config)
    assert found["drain"] == ("90s", "CRM_SYNC_DRAIN")
    assert found["vicidial.timezone"] == ("America/New_York", str(config))
    assert found["retry.delays"] == ("1s,90s", str(config))
    assert found["retry.max_attempts"] == ("12", "default")
    assert found["vicidial.not_final"] == ("INCALL,QUEUE", "CRM_SYNC_VICIDIAL__NOT_FINAL")
    assert found["vicidial.campaigns_list"] == ("true", "default")
    assert found["sink.exchange"] == ("-", "default")
    assert found["vicidial.password"] == (
        *("***", f"{tmp_path}/password (CRM_SYNC_VICIDIAL__PASSWORD_FILE)"),
    )
    assert found["sink.signing_secret"] == (
        *("***", f"{tmp_path}/secrets/sink__signing_secret (CRM_SYNC_SECRETS_DIR)"),
    )


def test_a_secret_file_that_the_yaml_file_names(tmp_path: Path, config: Path) -> None:
    (tmp_path / "url").write_text("http://crm.example")
    config.write_text(f"sink: {{url_file: {tmp_path}/url}}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CRM_SYNC_SINK__URL")
        assert shown(config)["sink.url"] == ("http://crm.example", f"{tmp_path}/url ({config})")


def test_addresses_are_shown_without_what_may_be_a_key(config: Path) -> None:
    found = shown(config)
    assert found["broker.url"][0] == "amqps://***@broker.example:5671/calls"
    assert found["vicidial.url"][0] == "https://***@dialer.example/non_agent_api.php?***"
    assert found["sink.url"][0] == "https://crm.example/***"
    assert SECRET not in str(found)


def test_every_setting_is_shown_once_and_a_secret_not_once_more_for_its_file(config: Path) -> None:
    names = [each.name for each in in_force(load(Settings, config), sources(config))]
    secrets = {path for path in variables().values() if path.endswith("_file")}
    assert names == sorted(set(variables().values()) - secrets)


def test_the_commands_that_only_talk_to_the_broker_have_fewer(config: Path) -> None:
    names = {each.name for each in in_force(load(BrokerCommandSettings, config), sources(config))}
    assert {"broker.url", "sink.kind"} < names
    assert "vicidial.user" not in names


@pytest.mark.parametrize(
    ("address", "masked"),
    [
        ("https://crm.example/hook", "https://crm.example/hook"),
        (f"amqp://me:{SECRET}@broker/vhost", "amqp://***@broker/vhost"),
        (f"amqp://me:p@{SECRET}@broker/vhost", "amqp://***@broker/vhost"),
        (f"amqp://me:{SECRET}/x@broker/vhost", "amqp://***"),
        (f"amqp://me:a@b#{SECRET}@broker/vhost", "amqp://***"),
        (f"https:/me:{SECRET}@host/x", "https:/***@host/x"),
        (f"me:{SECRET}@host/x", "***@host/x"),
        (f"https://host/x?pass={SECRET}#{SECRET}", "https://host/x?***"),
        (f"https://host/x#{SECRET}", "https://host/x?***"),
        (f"https://host/x?pass=a@{SECRET}", "https://***"),
        (f"me:{SECRET}\n@host", "***@host"),
        ("", ""),
    ],
)
def test_an_address_is_masked_also_where_it_is_none(address: str, masked: str) -> None:
    assert masked_address(address) == masked


class HttpAlone(BrokerCommandSettings):
    """A part of the tree."""

    http: HttpSettings = HttpSettings()


def test_a_part_of_the_settings_can_be_read_whatever_is_wrong_with_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CRM_SYNC_HTTP__PORT", "9090")
    monkeypatch.setenv("CRM_SYNC_MAX_IN_FLIGHT", "many")
    monkeypatch.setenv("CRM_SYNC_NONSENSE", "x")
    part = peek(HttpAlone)
    assert part is not None
    assert part.http.port == 9090
    monkeypatch.setenv("CRM_SYNC_HTTP__PORT", "http")
    assert peek(HttpAlone) is None
