# ruff: noqa: ANN401 - a preset holds any YAML
"""Where presets come from: files, what they extend, and the fields and rows of the settings."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from worker.crm.compiled import PresetError
from worker.crm.source import LARGEST, merged, read_merged, read_preset, shipped, shipped_text

OWN: dict[str, Any] = {
    "crm": "own",
    "title": "Own",
    "about": "An own one.",
    "settings": {},
    "url": "https://crm.example",
    "tables": {"status": {"A": "a", "B": "b", "*": None}},
    "on_call": [
        {"step": "find", "get": "/find", "answers": [{"status": 404, "means": "done"}]},
        {
            "step": "record",
            "repeat": "upsert",
            "post": "/calls",
            "body": {"list": [{"a.b": 1, "c": 2}], "d": {}},
        },
        {"step": "link", "put": "/link"},
    ],
    "receipt": {"id": "1"},
}


def write(folder: Path, name: str = "own.yaml", **data: Any) -> str:
    path = folder / name
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return str(path)


def mistakes(*args: Any) -> list[str]:
    with pytest.raises(PresetError) as error:
        read_preset(*args)
    return error.value.problems


def test_shipped_presets_are_known_by_their_names() -> None:
    assert "hubspot" in shipped()
    assert not [name for name in shipped() if "." in name]
    assert shipped_text("hubspot.yaml").startswith("crm: hubspot")


def test_an_own_file_is_read_by_its_path(tmp_path: Path) -> None:
    assert read_preset(write(tmp_path, **OWN)).title == "Own"


def test_what_can_not_be_read_is_named(tmp_path: Path) -> None:
    broken, listed, large, binary, twice = (tmp_path / f"{name}.yaml" for name in "abcde")
    broken.write_text("a: [", encoding="utf-8")
    listed.write_text("- a", encoding="utf-8")
    large.write_text("#" * (LARGEST + 1), encoding="utf-8")
    binary.write_bytes(b"\xff")
    twice.write_text("a: 1\nb: 2\na: 3", encoding="utf-8")
    said = {str(path): mistakes(str(path))[0] for path in (broken, listed, large, binary, twice)}
    assert [each.removeprefix(path) for path, each in said.items()] == [
        ": not YAML in line 1, column 5",
        ": is no mapping",
        ": is larger than 512 KiB",
        ": can't be read: not UTF-8",
        ": a is set twice in line 3, column 1",
    ]
    assert mistakes(f"{tmp_path}/none.yaml") == [
        f"{tmp_path}/none.yaml: can't be read: No such file or directory"
    ]
    assert re.match(r"hubspott: no such preset; known are .*hubspot", mistakes("hubspott")[0])


def test_a_document_that_aliases_or_levels_make_large_is_named(tmp_path: Path) -> None:
    doubled = "\n".join(f"  {b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in pairwise("abcdefg"))
    many, deep, endless = (tmp_path / f"{name}.yaml" for name in "abc")
    many.write_text(f"tables:\n  a: &a [1, 2, 3]\n{doubled}", encoding="utf-8")
    deep.write_text("headers: " + "[" * 5000, encoding="utf-8")
    endless.write_text("tables: &a {a: *a}", encoding="utf-8")
    said = [mistakes(str(path))[0].removeprefix(f"{path}: ") for path in (many, deep, endless)]
    assert said == [
        "has more than 100000 values, with those that aliases repeat",
        "is nested more than 100 levels deep",
        "is nested more than 100 levels deep",
    ]


def test_rows_of_a_table_that_nobody_looks_up_are_a_mistake(tmp_path: Path) -> None:
    own = write(tmp_path, **OWN)
    assert mistakes(own, {"statuss": {"A": 1}}) == [
        "sink.crm.tables.statuss: the preset has no such table; known are status"
    ]


def test_a_preset_may_extend_another_one_beside_it(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", **OWN)
    own = write(
        tmp_path,
        extends="./base.yaml",
        title="Mine",
        tables={"status": {"B": "mine", "C": "c"}, "more": {"x": 1}},
        on_call=[
            {"step": "before", "get": "/before"},
            {"step": "record", "body": {"d": {"e": 1}}, "post": None, "put": "/calls"},
            {"step": "find", "answers": [{"status": 409, "means": "bad"}]},
            {"step": "last", "get": "/last"},
        ],
    )
    preset = read_preset(own)
    assert (preset.crm, preset.title) == ("own", "Mine")
    assert preset.tables == {"status": {"A": "a", "B": "mine", "C": "c", "*": None}, "more": {"x": 1}}
    assert [step.step for step in preset.on_call] == ["find", "before", "record", "link", "last"]
    find, _, record, *_ = preset.on_call
    assert [rule.status for rule in find.answers] == [409, 404]
    assert (record.method, record.body) == ("PUT", {"list": [{"a.b": 1, "c": 2}], "d": {"e": 1}})


def test_an_own_preset_may_extend_a_shipped_one(tmp_path: Path) -> None:
    preset = read_preset(write(tmp_path, extends="hubspot", title="Ours"))
    assert (preset.crm, preset.title) == ("hubspot", "Ours")


def test_presets_that_extend_each_other_in_a_circle_are_named(tmp_path: Path) -> None:
    own = write(tmp_path, extends="./own.yaml")
    assert mistakes(own) == [f"{own}: more than 5 presets extend each other"]


def test_merging_changes_neither() -> None:
    base, own = {"a": {"b": [1]}}, {"a": {"c": 2}}
    assert merged(base, own) == {"a": {"b": [1], "c": 2}}
    assert (base, own) == ({"a": {"b": [1]}}, {"a": {"c": 2}})


def test_rows_and_fields_of_the_settings_win(tmp_path: Path) -> None:
    fields = {
        "list[0]['a.b']": 9,
        "list[0].c": None,
        "list[0].new.deep": "{{ call.status }}",
        "list[1]": "appended",
        "d.e[0]": 1,
        "d.f": "{{ call.status | table('new') }}",
    }
    preset = read_preset(write(tmp_path, **OWN), {"status": {"A": "mine"}, "new": {"x": 1}}, fields)
    assert preset.tables == {"status": {"A": "mine", "B": "b", "*": None}, "new": {"x": 1}}
    body = preset.on_call[1].body
    assert body["list"] == [{"a.b": 9, "new": {"deep": "{{ call.status }}"}}, "appended"]
    assert body["d"] == {"e": [1], "f": "{{ call.status | table('new') }}"}


def test_fields_of_a_record_that_is_a_form_are_set_in_the_form(tmp_path: Path) -> None:
    record = {"step": "record", "repeat": "upsert", "post": "/calls", "form": {"element": {"a": 1}}}
    preset = read_preset(write(tmp_path, **OWN | {"on_call": [record]}), {}, {"element.b": 2})
    assert preset.on_call[0].form == {"element": {"a": 1, "b": 2}}


def test_all_wrong_rows_and_fields_are_named(tmp_path: Path) -> None:
    fields = {"list[3].x": 1, "list.x": 1, "d[0]": 1, "a..b": 1, "": 1, "d.none": None}
    found = mistakes(write(tmp_path, **OWN), {"status": "no rows"}, fields)
    assert found == [
        "sink.crm.tables.status: must be a mapping of rows",
        "sink.crm.fields: list[3].x: the list has only 1 items",
        "sink.crm.fields: list.x: there is no mapping for x",
        "sink.crm.fields: d[0]: there is no list for [0]",
        "sink.crm.fields: a..b: is no path such as properties.campaign, items[0].name or ['name.with.dots']",
        "sink.crm.fields: : is no path such as properties.campaign, items[0].name or ['name.with.dots']",
        "sink.crm.fields: d.none: is not there, so it can't be removed",
    ]
    no_record = write(tmp_path, **OWN | {"on_call": []})
    assert mistakes(no_record, {}, {"a": 1})[0] == "sink.crm.fields: a: the preset has no step `record`"
    assert "on_call: must be a list" in mistakes(write(tmp_path, **OWN | {"on_call": "x"}), {}, {"a": 1})


def test_all_mistakes_in_the_shape_are_named_with_their_places(tmp_path: Path) -> None:
    steps = [
        {
            "step": "find",
            "get": "/a",
            "cach": {},
            "soft": "perhaps",
            "answers": [{"status": "5x", "means": "bad"}],
        },
        {
            "step": "record",
            "get": "/a",
            "cache": {"by": "x", "found": "soon"},
            "batch": {"max": 2, "wait": "1s", "results": "x"},
        },
        "link",
    ]
    found = mistakes(
        write(tmp_path, **OWN | {"on_call": steps, "answers": [{"means": "fine"}], "titel": "x"})
    )
    assert [each.partition(":")[0] for each in found] == [
        "on_call.find.answers[0].status",
        "on_call.find.soft",
        "on_call.find.cach",
        "on_call.record.cache.found",
        "on_call.record.cache.missing",
        "on_call.record.batch.wait",
        "on_call[2]",
        "answers[0].means",
        "titel",
    ]
    said = "\n".join(found)
    assert "on_call.find.cach: is no key of a preset; did you mean cache?" in said
    assert "on_call.record.cache.missing: is missing" in said
    assert "titel: is no key of a preset; did you mean title?" in said
    assert (
        "on_call.record: must have exactly one of get, post"
        in mistakes(write(tmp_path, **OWN | {"on_call": [{"step": "record", "get": "/a", "post": "/b"}]}))[0]
    )


def test_a_merged_preset_is_shown_as_it_is_written(tmp_path: Path) -> None:
    assert read_merged(write(tmp_path, **OWN)) == OWN
