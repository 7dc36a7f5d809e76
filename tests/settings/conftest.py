"""The settings, loaded from whatever a test says."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.settings.loading import Loader
from worker.settings import Settings, load


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Loader:
    """Load settings from the required variables, others, and a tree that is written as YAML."""
    for name in [name for name in os.environ if name.upper().startswith("CRM_SYNC_")]:
        monkeypatch.delenv(name)

    def load_these(
        environment: Mapping[str, str] = {}, tree: object = None, kind: type[Any] = Settings, **settings: str
    ) -> Any:  # noqa: ANN401 - of the kind that was asked for
        given = {**environment, **{f"CRM_SYNC_{name}": value for name, value in settings.items()}}
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        config = None
        if tree is not None:
            config = tmp_path / "crm-sync.yaml"
            config.write_text(
                tree if isinstance(tree, str) else yaml.safe_dump(tree, sort_keys=False), encoding="utf-8"
            )
        return load(kind, config)

    return load_these
