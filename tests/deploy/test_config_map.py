"""The settings that a worker is deployed with: they load, they renew, and what is wrong is named at once."""

import base64
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.deploy.manifests import K8S, OVERLAYS, SECRET, build, mount_secret, overlay, put_settings
from tests.system.harness import crm_sync, environment
from worker.settings import Settings, load

pytestmark = pytest.mark.verify

PASSWORD = "Dialer-Secret-4711"
SECRETS = {
    "broker__url": f"amqp://crm-sync:{PASSWORD}@rabbitmq.rabbitmq.svc:5672/crm-sync",
    "vicidial__password": PASSWORD,
    "sink__url": "https://crm.example/hooks/calls",
    "sink__signing_secret": "whsec_" + base64.b64encode(2 * PASSWORD.encode()).decode(),
}


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    return tmp_path / "mount"


def loaded(name: str, secrets: Mapping[str, str], mount: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Load the settings as a worker of an overlay does."""
    for variable, value in put_settings(overlay(name).environment, secrets, mount):
        monkeypatch.setenv(variable, value)
    return load(Settings)


@pytest.mark.parametrize("name", OVERLAYS)
def test_what_an_overlay_gives_loads_with_its_secrets(
    name: str, mount: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = loaded(name, SECRETS, mount, monkeypatch)
    assert settings.sink.kind == ("queue" if name == "queue" else "webhook")
    assert settings.vicidial.method == "POST"
    assert settings.vicidial.password.get_secret_value() == PASSWORD
    assert settings.broker.url[0].get_secret_value() == SECRETS["broker__url"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_example_of_a_secret_has_all_that_an_overlay_needs(
    name: str, mount: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = loaded(name, SECRET["stringData"], mount, monkeypatch)
    assert settings.sink.signing_secret is not None


def test_the_queue_overlay_needs_no_secret_of_a_webhook(mount: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {key: value for key, value in SECRETS.items() if not key.startswith("sink")}
    assert loaded("queue", secrets, mount, monkeypatch).sink.url is None


def test_a_new_password_in_the_secret_is_read_without_a_restart(
    mount: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = loaded("webhook", SECRETS, mount, monkeypatch)
    mount_secret(SECRETS | {"vicidial__password": "the-next-one"}, mount)
    assert settings.vicidial.password.get_secret_value() == PASSWORD
    assert settings.vicidial.reread().password.get_secret_value() == "the-next-one"


# --- what is wrong ----------------------------------------------------------------------------------

WRONG = {
    "CRM_SYNC_VICIDIAL__URL": ("dialer.example", "https://"),
    "CRM_SYNC_VICIDIAL__TIMEZONE": ("Eastern", "America/New_York"),
    "CRM_SYNC_VICIDIAL__MAX_CONCURRENCY": ("zero", "a whole number from 1"),
    "CRM_SYNC_DRAIN": ("45min", "5s, 2m"),
    "CRM_SYNC_RETRY__DELAYS": ("30s,5s", "each longer than the one before"),
}
"""Variables of a ConfigMap, each with a wrong value and what says what would be right."""


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """Return a copy of the manifests, to which an operator's own overlay can be added."""
    return Path(shutil.copytree(K8S, tmp_path / "k8s"))


def own_overlay(copied: Path, literals: Mapping[str, str]) -> Path:
    """Write an overlay over production that sets some values, as docs/deploy.md shows."""
    folder = copied / "overlays" / "mine"
    folder.mkdir()
    lines = "".join(f"      - {name}={value}\n" for name, value in literals.items())
    (folder / "kustomization.yaml").write_text(
        "resources: [../production]\n"
        f"configMapGenerator:\n  - name: crm-sync\n    behavior: merge\n    literals:\n{lines}",
        encoding="utf-8",
    )
    return folder


def run(given: Iterator[tuple[str, str]], folder: Path) -> subprocess.CompletedProcess[str]:
    """Start a worker with those variables, which has to end by itself."""
    return subprocess.run(
        [*crm_sync(), "run"],
        cwd=folder,
        env=environment(dict(given)) | {"COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


@pytest.mark.system
def test_every_wrong_value_of_a_config_map_is_named_in_one_start(
    copied: Path, tmp_path: Path, mount: Path
) -> None:
    """With its variable, the value, and what would be right; a secret's value stays out of it."""
    mistyped = "CRM_SYNC_VICIDIAL__MAX_CONCURENCY"
    built = build(own_overlay(copied, {name: wrong for name, (wrong, _) in WRONG.items()} | {mistyped: "2"}))
    secrets = SECRETS | {
        "broker__url": f"rabbit://crm-sync:{PASSWORD}@rabbitmq",
        "sink__signing_secret": PASSWORD,
    }
    done = run(put_settings(built.environment, secrets, mount), tmp_path)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    for name, (value, right) in WRONG.items():
        (line,) = (line for line in lines if f"({name})" in line)
        assert value.partition(",")[0] in line, line
        assert right in line, line
    for path, right in {"broker.url": "amqp://", "sink.signing_secret": "whsec_"}.items():
        (line,) = (line for line in lines if f"{path} (" in line)
        assert right in line, line
    assert f"{mistyped}: no such setting; did you mean CRM_SYNC_VICIDIAL__MAX_CONCURRENCY?" in done.stderr
    assert PASSWORD not in done.stdout + done.stderr


@pytest.mark.system
def test_a_secret_that_lacks_a_key_or_has_a_mistyped_one_is_named(tmp_path: Path, mount: Path) -> None:
    secrets = {key: value for key, value in SECRETS.items() if key != "vicidial__password"}
    secrets["vicidial__pasword"] = PASSWORD
    done = run(put_settings(overlay("webhook").environment, secrets, mount), tmp_path)
    assert done.returncode == 2
    assert "vicidial__pasword is no secret" in done.stderr
    assert "CRM_SYNC_VICIDIAL__PASSWORD" in done.stderr
    assert PASSWORD not in done.stderr
