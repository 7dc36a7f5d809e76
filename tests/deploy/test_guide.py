"""What an operator has to write and to run by docs/deploy.md is there and fits."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from tests.deploy.dockerfile import read
from tests.deploy.manifests import K8S, ROOT, SECRET, Built, build, overlay, put_settings
from worker.settings import Settings, load
from worker.settings.load import SECRETS_DIR, variables

pytestmark = pytest.mark.verify

GUIDE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
SHELL = re.findall(r"^```sh\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
(OVERLAY,) = re.findall(r"^```yaml\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
COMMANDS = re.sub(r"\\\n\s*", "", "\n".join(SHELL))


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Build the overlay of the guide, at the place that it names."""
    folder = Path(shutil.copytree(K8S, tmp_path_factory.mktemp("guide") / "k8s")) / "overlays" / "mine"
    folder.mkdir()
    (folder / "kustomization.yaml").write_text(OVERLAY, encoding="utf-8")
    return build(folder)


def test_the_overlay_puts_everything_into_its_namespace(mine: Built) -> None:
    outside = {each["kind"] for each in mine.manifests if each["metadata"].get("namespace") != "crm-sync"}
    assert outside == {"PriorityClass"}, "which belongs to the whole cluster"


def test_the_overlay_gives_the_image_its_place(mine: Built) -> None:
    (wanted,) = yaml.safe_load(OVERLAY)["images"]
    assert mine.container["image"] == f"{wanted['newName']}:{wanted['newTag']}"
    assert f"--tag {mine.container['image']}" in COMMANDS, "as it was built"


def test_the_overlays_settings_reach_the_worker_beside_those_below_it(mine: Built) -> None:
    own = dict(line.split("=", 1) for line in yaml.safe_load(OVERLAY)["configMapGenerator"][0]["literals"])
    below = overlay("production")
    assert own.items() <= mine.environment.items()
    assert mine.environment == below.environment | own
    (source,) = mine.container["envFrom"]
    assert source["configMapRef"]["name"] == mine.the("ConfigMap")["metadata"]["name"]
    assert source["configMapRef"]["name"] != below.the("ConfigMap")["metadata"]["name"], "so that it rolls"


@pytest.mark.parametrize("script", SHELL, ids=lambda script: script.split("\n")[0][:60])
def test_every_script_is_one(script: str) -> None:
    done = subprocess.run(["/bin/sh", "-n"], input=script, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_argument_of_the_build_is_one_of_the_dockerfiles() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    known = {name for each in read(text) if each.name == "ARG" for name in each.pairs({})}
    assert set(re.findall(r"--build-arg (\w+)=", COMMANDS)) <= known


def test_every_variable_is_a_setting() -> None:
    assert set(re.findall(r"\bCRM_SYNC_\w+", GUIDE)) <= {*variables(), SECRETS_DIR}


def test_every_folder_that_is_applied_is_there() -> None:
    folders = set(re.findall(r"-k (k8s\S+)", COMMANDS))
    assert folders == {"k8s/rabbitmq", "k8s/overlays/mine"}
    assert (ROOT / "k8s" / "rabbitmq" / "kustomization.yaml").exists()
    assert "`k8s/overlays/mine/kustomization.yaml`" in GUIDE


KUBECTL = """#!/bin/sh
printf '%s\\n' "$*" >> "$CALLS"
case $* in *"get secret"*) printf 'broker-pw' | base64;; esac
"""
"""Writes down what it is asked to do; a Secret that is asked for holds a password."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Run the guide's commands that make Secrets. Return the folder, and what kubectl was asked to do."""
    folder = tmp_path_factory.mktemp("secrets")
    (folder / "kubectl").write_text(KUBECTL, encoding="utf-8")
    (folder / "kubectl").chmod(0o755)
    (folder / "vicidial-password").write_text("dialer-pw\n", encoding="utf-8")
    calls = folder / "calls"
    path = {"PATH": f"{folder}:{os.environ['PATH']}", "CALLS": str(calls)}
    for script in (each for each in SHELL if "create secret" in each or "mkdir" in each):
        command = ["/bin/sh", "-euc", script]
        done = subprocess.run(command, cwd=folder, env=path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return folder, calls.read_text(encoding="utf-8")


def test_the_secrets_files_are_what_the_worker_reads(
    made: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, calls = made
    files = {file.name: file.read_text(encoding="utf-8") for file in (folder / "secrets").iterdir()}
    assert files.keys() == SECRET["stringData"].keys()
    assert "create secret generic crm-sync --from-file=secrets\n" in calls
    for name, value in put_settings(overlay("webhook").environment, files, folder / "mounted"):
        monkeypatch.setenv(name, value)
    settings = load(Settings)
    assert settings.vicidial.password.get_secret_value() == "dialer-pw"
    assert urlsplit(settings.broker.url[0].get_secret_value()).password == "broker-pw"
    assert settings.sink.signing_secret is not None


def test_keda_gets_the_key_that_is_read(made: tuple[Path, str]) -> None:
    (reference,) = overlay("production").the("TriggerAuthentication", "crm-sync-keda")["spec"][
        "secretTargetRef"
    ]
    (host,) = re.findall(rf"generic {reference['name']} --from-literal={reference['key']}=(.+)", made[1])
    assert urlsplit(host).port == 15672
    assert urlsplit(host).password == "broker-pw"


def test_each_user_of_the_broker_gets_the_secret_that_it_is_made_from(made: tuple[Path, str]) -> None:
    given = re.findall(r"generic (rabbitmq-\S+) --from-literal=username=(\S+) .*password=(\S+)", made[1])
    wanted = {
        (each["spec"]["importCredentialsSecret"]["name"], each["metadata"]["name"])
        for each in build(K8S / "rabbitmq").all("User")
    }
    assert {(secret, user) for secret, user, _ in given} == wanted
    assert all(re.fullmatch(r"[\w-]{32}", password) for *_, password in given), "fits into an address"


def test_the_numbers_in_its_table_are_the_manifests() -> None:
    def number(pattern: str) -> int:
        (found,) = re.findall(rf"^\| {pattern}", GUIDE, re.MULTILINE)
        return int(found)

    base, production = overlay("webhook"), overlay("production")
    concurrency = {each.environment["CRM_SYNC_VICIDIAL__MAX_CONCURRENCY"] for each in (base, production)}
    assert {str(number(r"`CRM_SYNC_VICIDIAL__MAX_CONCURRENCY` (\d+)"))} == concurrency
    scaled = production.the("ScaledObject")["spec"]
    assert number(r"`maxReplicaCount` (\d+)") == scaled["maxReplicaCount"]
    assert {number(r"`value` (\d+)")} == {int(each["metadata"]["value"]) for each in scaled["triggers"]}
    grace = base.pod["spec"]["terminationGracePeriodSeconds"]
    assert number(r"`terminationGracePeriodSeconds` (\d+)") == grace
    assert f"--stop-timeout {grace}" in COMMANDS
    resources = base.container["resources"]
    assert f"| memory {resources['requests']['memory']}, at most {resources['limits']['memory']} |" in GUIDE
    assert f"| CPU {resources['requests']['cpu']}, no limit |" in GUIDE
