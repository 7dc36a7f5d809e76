"""The examples in config/ can be used as they are, name every setting, and show its true default."""

import base64
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from worker.crm.load import resolved
from worker.settings import Settings, load
from worker.settings.load import variables

EXAMPLES = sorted((Path(__file__).parents[2] / "config").glob("*.yaml"))
SECRETS_AT = "/run/secrets/crm-sync"
SECRETS = {
    "broker-url": "amqps://crm-sync:secret@broker.example/",
    "vicidial-password": "secret",
    "signing-secret": "whsec_" + base64.b64encode(b"a secret of 24 bytes or so").decode(),
    "crm-token": "pat-na1-secret",
}
KNOWN = set(variables().values())
COMMENTED = re.compile(r"^( *)#(\w+:.*)$", re.MULTILINE)
"""A commented setting, unlike prose, has no blank after its `#`."""

pytestmark = pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("CRM_SYNC_")]:
        monkeypatch.delenv(name)


def load_text(text: str, tmp_path: Path) -> Settings:
    """Load an example's text, with its secrets in another place."""
    for name, secret in SECRETS.items():
        (tmp_path / name).write_text(secret + "\n", encoding="utf-8")
    config = tmp_path / "example.yaml"
    config.write_text(text.replace(SECRETS_AT, str(tmp_path)), encoding="utf-8")
    return load(Settings, config)


def named(text: str) -> list[str]:
    """Return the path of each setting that a text sets, except those of a preset."""
    return [path for path in paths(yaml.safe_load(text)) if path in KNOWN or not path.startswith("sink.crm.")]


def paths(tree: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from paths(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def test_an_example_loads_as_it_is(example: Path, tmp_path: Path) -> None:
    settings = load_text(example.read_text(encoding="utf-8"), tmp_path)
    assert settings.sink.kind == example.stem
    assert settings.broker.url[0].get_secret_value() == SECRETS["broker-url"]
    assert settings.vicidial.password.get_secret_value() == SECRETS["vicidial-password"]


def test_an_example_names_every_setting_once(example: Path) -> None:
    everything = COMMENTED.sub(r"\1\2", example.read_text(encoding="utf-8"))
    assert sorted(named(everything)) == sorted(KNOWN)
    for path in KNOWN:
        indent = "  " * path.count(".")
        name = path.rpartition(".")[2]
        same = [each for each in KNOWN if each.count(".") == path.count(".") and each.endswith(f".{name}")]
        found = re.findall(rf"^{indent}{name}:", everything, re.MULTILINE)
        assert len(found) == max(len(same), 1)


def test_the_values_in_its_comments_are_the_defaults(example: Path, tmp_path: Path) -> None:
    """So that taking the `#` away changes nothing; of a secret, only one of its two ways can be given."""
    text = example.read_text(encoding="utf-8")
    no_secrets = re.sub(r"^ *#url: amqp:.*$", "", text, flags=re.MULTILINE)
    spelt_out = load_text(COMMENTED.sub(r"\1\2", no_secrets), tmp_path)
    assert spelt_out.model_dump() == load_text(text, tmp_path).model_dump()


def test_the_preset_of_an_example_takes_its_settings(example: Path, tmp_path: Path) -> None:
    settings = load_text(example.read_text(encoding="utf-8"), tmp_path)
    if settings.sink.kind == "crm":
        crm = resolved(settings.sink.crm, {})
        assert list(crm.secrets()) == [SECRETS["crm-token"]]


def test_a_secret_stands_in_a_file(example: Path) -> None:
    given = named(example.read_text(encoding="utf-8"))
    secrets = {path.removesuffix("_file") for path in variables().values() if path.endswith("_file")}
    assert secrets & set(given) <= {"sink.url"}
