"""From the settings below `sink.crm` to a preset that can be carried out."""

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import yaml
from pydantic import PrivateAttr, SecretStr

from worker.crm.compiled import CompiledPreset, PresetError, compile_preset
from worker.crm.numbers import is_region
from worker.crm.preset import Preset, SettingDeclaration
from worker.crm.source import parse_preset
from worker.settings.load import CRM, SettingsError
from worker.settings.tree import PREFIX, CrmSettings
from worker.settings.types import checked_url, parse_zone, read_secret, read_typed_yaml, visible

Origins = Mapping[str, str]
"""Who gives a setting, by its path, as `worker.settings.load.sources` returns."""


def compiled(crm: CrmSettings, dialer: str, *, placeholders: bool = False) -> CompiledPreset:
    """Return the preset that the settings choose, with their values.

    Args:
        crm: The settings.
        dialer: The address of the dialer.
        placeholders: Whether the name of a required setting stands for its value if that is missing.

    Raises:
        SettingsError: The preset or its settings can't be used; every mistake is named.
    """
    host = urlsplit(dialer).hostname or ""
    if isinstance(crm, _Resolved):
        return replace(crm.ready, dialer=host)
    return _checked(crm, {}, host, placeholders=placeholders)


def resolved(crm: CrmSettings, origins: Origins) -> CrmSettings:
    """Return the settings with all that the preset declares: typed, with defaults, and secrets as such.

    Raises:
        SettingsError: The preset or its settings can't be used; every mistake is named.
    """
    ready = _checked(crm, origins)
    own = {
        name: SecretStr(value) if ready.preset.settings[name].secret and value is not None else value
        for name, value in ready.settings.items()
    }
    found = _Resolved.model_construct(**{**dict(crm), **own})
    found._ready = ready  # noqa: SLF001 - its own class
    return found


class _Resolved(CrmSettings):
    """The settings of a CRM with all that its preset declares, and the preset, compiled once."""

    _ready: CompiledPreset = PrivateAttr()

    @property
    def ready(self) -> CompiledPreset:
        """The preset with these settings."""
        return self._ready


def _checked(
    crm: CrmSettings, origins: Origins, dialer: str = "", *, placeholders: bool = False
) -> CompiledPreset:
    """Compile the preset. Raise `SettingsError` with all that is wrong with it and its settings."""
    preset, values, problems = _chosen(crm, origins, placeholders=placeholders)
    ready = None
    if preset is not None:
        try:
            ready = compile_preset(preset, values, dialer=dialer)
        except PresetError as error:
            problems += [f"{CRM}preset: {problem}" for problem in error.problems]
    if problems or ready is None:
        raise SettingsError(problems)
    return ready


def _chosen(
    crm: CrmSettings, origins: Origins, *, placeholders: bool = False
) -> tuple[Preset | None, dict[str, Any], list[str]]:
    """Return the preset, the values of its settings, and what is wrong."""
    if crm.preset is None:
        path = f"{CRM}preset"
        return None, {}, [f"{path} ({_origin(path, origins)}): is required: the preset of the CRM"]
    preset, wrong = parse_preset(crm.preset, crm.tables, crm.fields)
    problems = [problem if problem.startswith(CRM) else f"{CRM}preset: {problem}" for problem in wrong]
    if preset is None:
        return None, {}, problems
    values = setting_values(preset, crm, origins, problems, placeholders=placeholders)
    return preset, values, problems


def _origin(path: str, origins: Origins) -> str:
    return origins.get(path, PREFIX + path.upper().replace(".", "__"))


# --- the settings of a preset ---------------------------------------------------------------------


def setting_values(
    preset: Preset, crm: CrmSettings, origins: Origins, problems: list[str], *, placeholders: bool = False
) -> dict[str, Any]:
    """Return the values of all settings of a preset, secrets as plain text; add what is wrong.

    With `placeholders`, a required one that is missing is its name in angle brackets.
    """
    given = crm.own
    problems += [
        _no_such(name, preset, origins)
        for name in given
        if name not in preset.settings and name.removesuffix("_file") not in preset.settings
    ]
    values = {}
    for name, declared in preset.settings.items():
        if placeholders and declared.required and not {name, f"{name}_file"} & given.keys():
            values[name] = f"https://{name}.example" if declared.type == "address" else f"<{name}>"
            continue
        try:
            values[name] = _value(name, declared, given)
        except ValueError as error:
            path = f"{CRM}{name}"
            problems.append(f"{path} ({_origin(path, origins)}): {error}")
    return values


def _no_such(name: str, preset: Preset, origins: Origins) -> str:
    path = f"{CRM}{name}"
    origin = _origin(path, origins)
    close = difflib.get_close_matches(name, preset.settings, 1)
    meant = f"; did you mean {CRM}{close[0]}?" if close else f"; known are {', '.join(preset.settings)}"
    return f"{path} ({origin}): the preset {preset.crm} has no such setting{meant}"


def _value(name: str, declared: SettingDeclaration, given: Mapping[str, Any]) -> Any:
    """Return the value of one setting. Raises `ValueError`, whose text holds no secret."""
    raw, file = given.get(name), given.get(f"{name}_file")
    if isinstance(raw, SecretStr):
        raw = raw.get_secret_value()
    if file is not None:
        if not declared.secret:
            raise ValueError(f"is no secret, so {name}_file names nothing; set it itself")
        raw = read_secret(Path(str(file)))
    if raw is None or raw == "":
        if declared.required:
            raise ValueError(f"is required: {declared.about}")
        return declared.default
    value = _READERS[declared.type](raw)
    if declared.secret:
        visible(SecretStr(str(value)))
    if declared.choices and value not in declared.choices:
        raise ValueError(f"must be one of {', '.join(declared.choices)}")
    return value


_TRUE: Final = frozenset({"true", "yes", "on", "1"})
_FALSE: Final = frozenset({"false", "no", "off", "0"})


def _text(raw: Any) -> str:
    if isinstance(raw, dict | list):
        raise ValueError("must be text")  # noqa: TRY004 - named like the other mistakes
    return str(raw).strip("\r\n")


def _number(raw: Any) -> Any:
    found = read_typed_yaml(raw) if isinstance(raw, str) else raw
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise ValueError("must be a number")  # noqa: TRY004
    return found


def _boolean(raw: Any) -> bool:
    word = str(raw).strip().lower()
    if word not in _TRUE | _FALSE:
        raise ValueError("must be true or false")
    return word in _TRUE


def _list(raw: Any) -> list[Any]:
    if isinstance(raw, str):
        raw = _yaml(raw) if raw.lstrip().startswith("[") else [part.strip() for part in raw.split(",")]
    if not isinstance(raw, list):
        raise ValueError("must be a list, or text with commas")  # noqa: TRY004
    return [str(each) for each in raw]


def _table(raw: Any) -> dict[str, Any]:
    found = _yaml(raw) if isinstance(raw, str) else raw
    if not isinstance(found, dict):
        raise ValueError("must be a mapping such as {name: value}")  # noqa: TRY004
    return found


def _yaml(text: str) -> Any:
    try:
        return read_typed_yaml(text)
    except yaml.YAMLError:
        return None


def _address(raw: Any) -> str:
    return checked_url(_text(raw), ("http", "https"), "https://crm.example").rstrip("/")


def _zone(raw: Any) -> str:
    parse_zone(_text(raw))
    return _text(raw)


def _country(raw: Any) -> str:
    found = _text(raw).strip().upper()
    if re.fullmatch(r"[A-Z]{2}", found) is None or not is_region(found):
        raise ValueError("must be a country of two letters, such as US, or GB for the United Kingdom")
    return found


_READERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "text": _text,
    "number": _number,
    "boolean": _boolean,
    "list": _list,
    "table": _table,
    "address": _address,
    "zone": _zone,
    "country": _country,
}
