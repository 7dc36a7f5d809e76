"""Load the tree: the environment wins over the secrets directory, and that over the YAML file.

Variables are named `CRM_SYNC_<SECTION>__<NAME>`. A secret can stand in a file
instead: `…_FILE` names one, or `CRM_SYNC_SECRETS_DIR` names a directory with
files such as `vicidial__password`. Either way of giving a secret wins over
both ways of a weaker source.

Every problem is named at once, and nothing is opened but those files.
"""

import difflib
import os
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from worker.settings.show import explain
from worker.settings.tree import PREFIX, Settings, leaves
from worker.settings.types import read_typed_yaml, read_yaml, yaml_problem

SECRETS_DIR = PREFIX + "SECRETS_DIR"
CRM = "sink.crm."
"""The section whose further settings a preset declares; `worker.crm.load` looks at them."""

_OF_PRESET = re.compile(r"sink\.crm\.[a-z][a-z0-9_]{0,50}")

_SERVICE_LINK = re.compile(r"\w+_(SERVICE_(HOST|PORT)(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")
"""Variables that Kubernetes sets in every pod for each service; `…_PORT` is recognized by its value."""

_T = TypeVar("_T", bound=BaseModel)


class SettingsError(Exception):
    """Settings that can't be used; `problems` names each, with what would be right."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class _Given:
    """What each source gives, by the setting's path; a secret only in the way that wins."""

    environment: dict[str, str]
    """The name of the variable that gives it."""
    files: dict[str, Path]
    """The file of the secrets directory that holds it, by the path of the `…_file` setting."""
    yaml: dict[str, Any]
    """What the YAML file says."""


def load(kind: type[_T], config: Path | None = None) -> _T:
    """Load the settings of one kind. Raises `SettingsError` with every problem there is."""
    problems: list[str] = []
    settings = _load(kind, config, problems)
    if settings is None or problems:
        raise SettingsError(problems)
    return settings


def peek(kind: type[_T], config: Path | None = None) -> _T | None:
    """Return the settings of one kind if they are right, whatever is wrong with others; else `None`."""
    return _load(kind, config, [])


def sources(config: Path | None = None) -> dict[str, str]:
    """Return the source of each setting that is given, by its path; the others have their default.

    A source is the name of a variable (for a secret in a file, the variable that names the file or the
    secrets directory), or the YAML file.
    """
    return _origins(_read(config, []), config)


def _read(config: Path | None, problems: list[str]) -> _Given:
    environment = {path: name for name, path in _read_environment(problems).items()}
    files = _weaker(_read_secrets_dir(problems), environment)
    in_yaml = {} if config is None else _read_yaml(config, problems)
    return _Given(environment, files, _weaker(in_yaml, [*environment, *files]))


def _load(kind: type[_T], config: Path | None, problems: list[str]) -> _T | None:
    given = _read(config, problems)
    values = given.yaml | given.files | {path: os.environ[name] for path, name in given.environment.items()}
    settings: _T | None = None
    try:
        settings = kind.model_validate(_nested(values))
    except ValidationError as error:
        problems += explain(error, dict(leaves(Settings)), _origins(given, config))
    return settings


def _origins(given: _Given, config: Path | None) -> dict[str, str]:
    found = (
        dict.fromkeys(given.yaml, str(config)) | dict.fromkeys(given.files, SECRETS_DIR) | given.environment
    )
    return {path.removesuffix("_file"): origin for path, origin in found.items()} | found


def variables() -> dict[str, str]:
    """Return the path of each setting by the name of its variable."""
    return {PREFIX + path.upper().replace(".", "__"): path for path, _ in leaves(Settings)}


def _weaker(source: Mapping[str, Any], stronger: Iterable[str]) -> dict[str, Any]:
    """Leave out a secret that a stronger source gives the other way, directly or by file."""
    given = set(stronger)
    return {
        path: value
        for path, value in source.items()
        if (path.removesuffix("_file") if path.endswith("_file") else f"{path}_file") not in given
    }


def _nested(source: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in source.items():
        *sections, name = path.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    return tree


def _read_yaml(path: Path, problems: list[str]) -> dict[str, Any]:
    """Return what the file gives, by path; a setting with nothing after its name is not given."""
    try:
        text = path.read_text(encoding="utf-8")
        data = read_yaml(text)
    except (OSError, UnicodeError) as error:
        problems.append(f"--config {path}: can't be read: {getattr(error, 'strerror', None) or 'not UTF-8'}")
    except yaml.YAMLError as error:
        problems.append(f"--config {path}: {yaml_problem(error)}")
    else:
        if isinstance(data, dict):
            return _flattened(data, read_typed_yaml(text), problems)
        if data is not None:
            problems.append(f"--config {path}: not a mapping of settings")
    return {}


def _flattened(data: dict[Any, Any], typed: Any, problems: list[str]) -> dict[str, Any]:  # noqa: ANN401
    """Return the settings by path; `typed` is the same document, with numbers, true and false as such."""
    known = dict(leaves(Settings))
    sections = {path.partition(".")[0] for path in known if "." in path}
    found: dict[str, Any] = {}
    for key, value in data.items():
        if key not in sections:
            found[str(key)] = value
        elif isinstance(value, dict):
            found |= {f"{key}.{name}": inner for name, inner in value.items()}
        elif value is not None:
            problems.append(f"{key}: is a section; write each of its settings on a line of its own below it")
    crm = found.pop("sink.crm", None)
    if isinstance(crm, dict):
        of_crm = typed["sink"]["crm"]
        found |= {
            f"{CRM}{name}": of_crm[name] if isinstance(inner, dict | list) else inner
            for name, inner in crm.items()
        }
    elif crm is not None:
        problems.append("sink.crm: is a section; write each of its settings on a line of its own below it")
    problems += [_no_such(path, known) for path in found if not _is_known(path, known)]
    return {path: value for path, value in found.items() if _is_known(path, known) and value is not None}


def _is_known(path: str, known: Container[str]) -> bool:
    return path in known or _OF_PRESET.fullmatch(path) is not None


def _read_secrets_dir(problems: list[str]) -> dict[str, Path]:
    """Turn each file of the secrets directory into the `…_file` setting that names it."""
    if not (name := os.environ.get(SECRETS_DIR)):
        return {}
    secrets = [path for path, _ in leaves(Settings) if path.endswith("_file")]
    known = {path.removesuffix("_file").replace(".", "__"): path for path in secrets}
    try:
        files = sorted(path for path in Path(name).iterdir() if not path.name.startswith("."))
    except OSError as error:
        problems.append(f"{SECRETS_DIR}: can't list {name}: {error.strerror}")
        return {}
    found: dict[str, Path] = {}
    for path in files:
        name = path.name.lower()
        if _OF_PRESET.fullmatch(of_preset := name.replace("__", ".")):
            found[f"{of_preset}_file"] = path
        elif name in known:
            found[known[name]] = path
        else:
            problems.append(f"{SECRETS_DIR}: {path} is no secret; known are {', '.join(known)}")
    return found


def _read_environment(problems: list[str]) -> dict[str, str]:
    """Return the path of each variable's setting, for the variables that are set."""
    known = variables()
    found: dict[str, str] = {}
    for name, value in sorted(os.environ.items()):
        path = known.get(name.upper()) or _path_in_preset(name)
        if path is not None:
            problems += [f"{name}: is set twice, also as {other}" for other in found if found[other] == path]
            found[name] = path
        elif name.upper().startswith(PREFIX) and name.upper() != SECRETS_DIR and not _is_link(name, value):
            problems.append(_no_such(name, [*known, SECRETS_DIR]))
    return found


def _path_in_preset(variable: str) -> str | None:
    """Return the path of a preset's setting by the name of its variable."""
    if not variable.upper().startswith(PREFIX):
        return None
    path = variable[len(PREFIX) :].lower().replace("__", ".")
    return path if _OF_PRESET.fullmatch(path) else None


def _is_link(name: str, value: str) -> bool:
    """Return whether Kubernetes set it, for a service whose name begins with `crm-sync`."""
    is_port = name.endswith("_PORT") and value.startswith(("tcp://", "udp://", "sctp://"))
    return is_port or _SERVICE_LINK.fullmatch(name) is not None


_RENAMED = {"gates": "circuit_breakers"}
"""The sections that were renamed: the new name by the old one."""


def _no_such(name: str, known: Iterable[str]) -> str:
    """Return the problem of an unknown setting, named by its path or its variable, with what may be meant."""
    is_variable = name.upper().startswith(PREFIX)
    for old, new in _RENAMED.items():
        if is_variable and name.upper().startswith(f"{PREFIX}{old.upper()}__"):
            rest = name[len(PREFIX + old) :].upper()
            return f"{name}: is now called {PREFIX}{new.upper()}{rest}"
        if name == old or name.startswith(f"{old}."):
            return f"{name}: is now called {new}{name.removeprefix(old)}"
    close = difflib.get_close_matches(name.upper() if is_variable else name, known, 1)
    return f"{name}: no such setting" + (f"; did you mean {close[0]}?" if close else "")
