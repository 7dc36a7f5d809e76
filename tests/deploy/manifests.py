"""The manifests as kustomize builds them, and what the tests look up in them."""

import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.tools import need
from worker.settings.load import SECRETS_DIR
from worker.settings.tree import PREFIX

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
OVERLAYS = ("webhook", "queue", "production")
SECRET = yaml.safe_load((K8S / "secret.example.yaml").read_text(encoding="utf-8"))

HASH = re.compile(r"-[2456789bcdfghkmt]{10}$")

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Built:
    """What `kustomize build` gives for one folder."""

    manifests: tuple[Manifest, ...]

    def all(self, kind: str) -> list[Manifest]:
        """Return the manifests of one kind."""
        return [each for each in self.manifests if each["kind"] == kind]

    def the(self, kind: str, name: str = "crm-sync") -> Manifest:
        """Return the one manifest of that kind and name, without the hash at a generated name's end."""
        (found,) = (each for each in self.all(kind) if HASH.sub("", each["metadata"]["name"]) == name)
        return found

    @property
    def pod(self) -> Manifest:
        """The workers' pod: labels and specification."""
        template: Manifest = self.the("Deployment")["spec"]["template"]
        return template

    @property
    def container(self) -> Manifest:
        """The worker's container."""
        (container,) = self.pod["spec"]["containers"]
        found: Manifest = container
        return found

    @property
    def environment(self) -> dict[str, str]:
        """The variables that a worker is given."""
        given = {each["name"]: each["value"] for each in self.container.get("env", [])}
        settings: dict[str, str] = self.the("ConfigMap")["data"]
        return settings | given


@cache
def build(folder: Path) -> Built:
    """Build a folder with kustomize, as `kubectl apply -k` does."""
    done = subprocess.run([need("kustomize"), "build", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "a warning, such as of a field that is going away"
    return Built(tuple(yaml.safe_load_all(done.stdout)))


def overlay(name: str) -> Built:
    """Build one of the overlays."""
    return build(K8S / "overlays" / name)


def put_settings(
    environment: Mapping[str, str], secrets: Mapping[str, str], mount: Path
) -> Iterator[tuple[str, str]]:
    """Yield a worker's variables, with its secrets mounted below another folder, as the kubelet does it.

    The files are links by way of `..data`, which is replaced as a whole when the Secret changes.
    """
    mount_secret(secrets, mount)
    for name, value in environment.items():
        assert name.startswith(PREFIX)
        yield name, str(mount) if name == SECRETS_DIR else value


def mount_secret(secrets: Mapping[str, str], mount: Path) -> None:
    """Mount a Secret, or bring a mounted one up to date."""
    version = mount / f"..version-{len(list(mount.glob('..version-*')))}"
    version.mkdir(parents=True)
    for key, value in secrets.items():
        (version / key).write_text(value, encoding="utf-8")
        if not (mount / key).is_symlink():
            (mount / key).symlink_to(Path("..data", key))
    (mount / "..data_tmp").symlink_to(version.name)
    (mount / "..data_tmp").rename(mount / "..data")
