"""Loading the tree: the environment wins over the secrets directory, and that over the YAML file.

Variables are named `CRM_SYNC_<SECTION>__<NAME>`. A secret can stand in a file
instead: `…_FILE` names one, or `CRM_SYNC_SECRETS_DIR` names a directory with
files such as `vicidial__password`.

Every problem is named at once, and nothing is opened but those files.
"""

import difflib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource

from worker.settings.tree import PREFIX, BrokerCommandSettings, Settings

SECRETS_DIR = PREFIX + "SECRETS_DIR"

_T = TypeVar("_T", bound=BrokerCommandSettings)


class SettingsError(Exception):
    """Settings that can't be used; `problems` names each, with what would be right."""

    def __init__(self, problems: list[str]) -> None:
        """Take one line for each problem."""
        super().__init__("\n".join(problems))
        self.problems = problems


def load(kind: type[_T], config: Path | None = None) -> _T:
    """Load the settings of one kind. Raises `SettingsError` with every problem there is."""
    problems: list[str] = []
    from_yaml = _read_yaml(config, problems) if config is not None else {}
    from_secrets = _read_secrets_dir(problems)
    unknown = _unknown_variables(problems)

    class Loaded(kind):  # type: ignore[misc, valid-type]  # the sources differ from one call to the next
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            del init_settings, dotenv_settings, file_secret_settings
            secrets = InitSettingsSource(settings_cls, from_secrets)
            return env_settings, secrets, InitSettingsSource(settings_cls, from_yaml)

    settings: _T | None = None
    try:
        settings = Loaded()
    except ValidationError as error:
        problems += _explain(error, unknown)
    if settings is None or problems:
        raise SettingsError(problems)
    return settings


def variables() -> dict[str, str]:
    """Give the name of each environment variable, with the setting that it sets."""
    return {PREFIX + path.upper().replace(".", "__"): path for path, _ in leaves(Settings)}


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Walk the tree's settings: each one's path, such as `broker.url`, and its field."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from leaves(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def _read_yaml(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError) as error:
        problems.append(f"--config {path}: can't be read: {getattr(error, 'strerror', None) or 'not UTF-8'}")
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" in line {where.line + 1}" if where else ""
        problems.append(f"--config {path}: not YAML{line}")
    else:
        if isinstance(data, dict):
            return {str(key): value for key, value in data.items() if value is not None}
        if data is not None:
            problems.append(f"--config {path}: not a mapping of settings")
    return {}


def _read_secrets_dir(problems: list[str]) -> dict[str, dict[str, Path]]:
    """Turn each file of the secrets directory into the `…_file` setting that names it."""
    if not (name := os.environ.get(SECRETS_DIR)):
        return {}
    found: dict[str, dict[str, Path]] = {}
    secrets = [path.removesuffix("_file") for path, _ in leaves(Settings) if path.endswith("_file")]
    known = [path.replace(".", "__") for path in secrets]
    try:
        files = sorted(path for path in Path(name).iterdir() if not path.name.startswith("."))
    except OSError as error:
        problems.append(f"{SECRETS_DIR}: can't list {name}: {error.strerror}")
        return {}
    for path in files:
        if path.name.lower() in known:
            section, secret = path.name.lower().split("__")
            found.setdefault(section, {})[f"{secret}_file"] = path
        else:
            problems.append(f"{SECRETS_DIR}: {path} is no secret; known are {', '.join(known)}")
    return found


def _unknown_variables(problems: list[str]) -> set[str]:
    known = {*variables(), SECRETS_DIR}
    unknown = {name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in known}
    for name in sorted(unknown):
        close = difflib.get_close_matches(name.upper(), known, 1)
        problems.append(f"{name}: no such setting" + (f"; did you mean {close[0]}?" if close else ""))
    return {name.upper() for name in unknown}


def _explain(error: ValidationError, unknown: set[str]) -> Iterator[str]:
    fields = dict(leaves(Settings))
    for problem in error.errors(include_url=False, include_context=False):
        path = ".".join(str(part) for part in problem["loc"] if not isinstance(part, int))
        variable = PREFIX + path.upper().replace(".", "__")
        if problem["type"] == "extra_forbidden":
            if variable not in unknown:
                close = difflib.get_close_matches(path, fields, 1)
                yield f"{path}: no such setting" + (f"; did you mean {close[0]}?" if close else "")
            continue
        said = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
        yield f"{path} ({variable}): {said}{_shown(path, problem['input'], fields)}"


def _shown(path: str, value: object, fields: dict[str, Any]) -> str:
    """Show what was given, unless it is a secret or nothing."""
    if value is None or path not in fields or f"{path}_file" in fields or isinstance(value, SecretStr):
        return ""
    return f" (it is {value!r})"
