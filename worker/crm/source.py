"""Where presets come from: shipped files and own ones, which may extend another."""

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError

from worker.crm.compiled import PresetError
from worker.crm.preset import Preset
from worker.crm.problems import explained, shape_problems, without_unknown
from worker.settings.types import read_typed_yaml, yaml_problem

LARGEST: Final = 512 * 1024
"""Of a preset's file, in bytes."""
LONGEST_CHAIN: Final = 5
"""Presets that extend each other."""

_SHIPPED: Final = files("worker.crm") / "presets"
_PART: Final = re.compile(r"(?:^|\.)([^.\[\]']+)|\[([0-9]{1,4})\]|\['([^']+)'\]")
_STEPS: Final = ("on_call", "on_agent", "prepare", "steps")


def shipped() -> tuple[str, ...]:
    """Return the names of the presets that the service has."""
    names = (each.name for each in _SHIPPED.iterdir())
    return tuple(
        sorted(name.removesuffix(".yaml") for name in names if re.fullmatch(r"[a-z0-9_]+\.yaml", name))
    )


def shipped_text(name: str) -> str:
    """Return the text of a shipped file, such as `hubspot.yaml`. Raises `FileNotFoundError`."""
    return (_SHIPPED / name).read_text(encoding="utf-8")


def read_preset(
    name: str, tables: Mapping[str, Any] | None = None, fields: Mapping[str, Any] | None = None
) -> Preset:
    """Read a preset.

    Args:
        name: A shipped preset's name, or the path of an own file.
        tables: Rows that win over the preset's, by table.
        fields: Templates by their paths in the body of `record`; null removes one.

    Raises:
        PresetError: It can't be read; every mistake is named.
    """
    preset, problems = parse_preset(name, tables, fields)
    if preset is None or problems:
        raise PresetError(problems)
    return preset


def parse_preset(
    name: str, tables: Mapping[str, Any] | None = None, fields: Mapping[str, Any] | None = None
) -> tuple[Preset | None, list[str]]:
    """Return a preset, None if it can't be read, and all that is wrong with it; see `read_preset`."""
    problems: list[str] = []
    try:
        data = _changed(_read_chain(name), tables or {}, fields or {}, problems)
    except PresetError as error:
        return None, error.problems
    try:
        preset = Preset.model_validate(data)
    except ValidationError as error:
        problems += explained(error, data)
        try:  # what is wrong with the rest is named at once, too
            preset = Preset.model_validate(without_unknown(error, data))
        except ValidationError:
            return None, problems
    return preset, [*problems, *shape_problems(preset)]


def read_merged(
    name: str, tables: Mapping[str, Any] | None = None, fields: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return a preset as written, over those that it extends, with these rows and fields.

    Raises:
        PresetError: It can't be read.
    """
    problems: list[str] = []
    data = _changed(_read_chain(name), tables or {}, fields or {}, problems)
    if problems:
        raise PresetError(problems)
    return data


def _changed(
    data: dict[str, Any], tables: Mapping[str, Any], fields: Mapping[str, Any], problems: list[str]
) -> dict[str, Any]:
    known = {**(data.get("tables") or {}), **_table_settings(data)}
    for table, rows in tables.items():
        used = re.search(rf"table\(\W*{re.escape(table)}\W", str(fields))  # by a field of the settings
        if table not in known and used is None:
            names = ", ".join(known) or "none"
            problems.append(f"sink.crm.tables.{table}: the preset has no such table; known are {names}")
        elif isinstance(rows, dict):
            data["tables"] = merged(data.get("tables") or {}, {table: rows})
        else:
            problems.append(f"sink.crm.tables.{table}: must be a mapping of rows")
    for path, template in fields.items():
        try:
            _set_field(data, path, template)
        except ValueError as error:
            problems.append(f"sink.crm.fields: {path}: {error}")
    return data


def _table_settings(data: dict[str, Any]) -> dict[str, Any]:
    declared = data.get("settings")
    found = declared.items() if isinstance(declared, dict) else ()
    return {name: each for name, each in found if isinstance(each, dict) and each.get("type") == "table"}


def _read_chain(name: str) -> dict[str, Any]:
    """Return a preset as written, over those that it extends. Raises `PresetError`."""
    chain: list[dict[str, Any]] = []
    place, beside = name, Path()
    while True:
        text, found = _text_of(place, beside)
        data = _parsed(text, place)
        chain.append(data)
        base = data.get("extends")
        if base is None:
            break
        if len(chain) == LONGEST_CHAIN:
            raise PresetError([f"{name}: more than {LONGEST_CHAIN} presets extend each other"])
        place, beside = str(base), found
    result: dict[str, Any] = {}
    for data in reversed(chain):
        result = merged(result, data)
    return result


def is_path(name: str) -> bool:
    """Return whether a preset is named by the path of its file."""
    return "/" in name or name.endswith((".yaml", ".yml"))


def _text_of(name: str, beside: Path) -> tuple[str, Path]:
    """Return the text of a preset, and the folder in which it stands."""
    if not is_path(name):
        if name not in shipped():
            known = ", ".join(shipped())
            raise PresetError([f"{name}: no such preset; known are {known}, and own files by their paths"])
        return shipped_text(f"{name}.yaml"), beside
    path = beside / name
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise PresetError([f"{path}: is larger than {LARGEST // 1024} KiB"])
        return data.decode(), path.parent
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "not UTF-8"
        raise PresetError([f"{path}: can't be read: {why}"]) from error


def _parsed(text: str, name: str) -> dict[str, Any]:
    try:
        data = read_typed_yaml(text)
    except yaml.YAMLError as error:
        raise PresetError([f"{name}: {yaml_problem(error)}"]) from error
    if not isinstance(data, dict):
        raise PresetError([f"{name}: is no mapping"])
    return data


# --- merging --------------------------------------------------------------------------------------


def merged(base: Any, own: Any, key: str = "") -> Any:
    """Merge an own preset over another.

    Mappings merge key by key and steps by their names; own rules come before those of the other, because the
    first that fits decides. Anything else is replaced.
    """
    if isinstance(base, dict) and isinstance(own, dict):
        result = dict(base)
        for name, value in own.items():
            result[name] = merged(base[name], value, name) if name in base else value
        return result
    if isinstance(base, list) and isinstance(own, list):
        if key in _STEPS:
            return _merged_steps(base, own)
        if key == "answers":
            return [*own, *base]
    return own


def _merged_steps(base: list[Any], own: list[Any]) -> list[Any]:
    """Merge steps; a new one stands before the known one that follows it in the own preset, else last."""
    names = [_step_name(step) for step in base]
    result = list(base)
    following = len(result)
    for step in reversed(own):
        name = _step_name(step)
        if name in names:
            following = [_step_name(each) for each in result].index(name)
            result[following] = merged(result[following], step)
        else:
            result.insert(following, step)
    return result


def _step_name(step: Any) -> Any:
    return step.get("step") if isinstance(step, dict) else None


# --- fields ---------------------------------------------------------------------------------------


def _set_field(data: dict[str, Any], path: str, template: Any) -> None:
    """Set or remove one field of the record's body, which is copied. Raises `ValueError`."""
    steps = data.get("on_call")
    if not isinstance(steps, list):
        steps = []
    for place, step in enumerate(steps):
        if _step_name(step) == "record":
            name = "form" if step.get("form") is not None else "body"
            changed = _with_leaf(step.get(name), _parts(path), template)
            data["on_call"] = [*steps[:place], {**step, name: changed}, *steps[place + 1 :]]
            return
    raise ValueError("the preset has no step `record`")


def _parts(path: str) -> list[str | int]:
    """Split `inputs[0].properties['a.b']` into its keys and places. Raises `ValueError`."""
    parts: list[str | int] = []
    end = 0
    for match in _PART.finditer(path):
        if match.start() != end:
            break
        end = match.end()
        parts.append(int(match[2]) if match[2] is not None else match[1] or match[3])
    if end != len(path) or not parts:
        raise ValueError("is no path such as properties.campaign, items[0].name or ['name.with.dots']")
    return parts


def _with_leaf(tree: Any, parts: list[str | int], template: Any) -> Any:
    """Return a tree in which one leaf is set, or removed by null; the tree itself is not changed."""
    if not parts:
        return template
    part, *rest = parts
    if isinstance(part, int):
        items = list(tree) if isinstance(tree, list) else []
        if tree is not None and not isinstance(tree, list):
            raise ValueError(f"there is no list for [{part}]")
        if part > len(items):
            raise ValueError(f"the list has only {len(items)} items")
        old = items[part] if part < len(items) else None
        items[part : part + 1] = [_with_leaf(old, rest, template)]
        return items
    if tree is not None and not isinstance(tree, dict):
        raise ValueError(f"there is no mapping for {part}")
    found = dict(tree or {})
    if not rest and template is None:
        if part not in found:
            raise ValueError("is not there, so it can't be removed")
        del found[part]
        return found
    return {**found, part: _with_leaf(found.get(part), rest, template)}
