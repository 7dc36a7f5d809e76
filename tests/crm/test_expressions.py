# ruff: noqa: ANN401 - a template gives any JSON
"""Templates: what they may say, what they give, and what is left out."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.crm import filters
from worker.crm.expressions import LONGEST_TEXT, Compiler, Shape, Template, TemplateError

SCOPE: dict[str, Shape] = {
    "call": {
        "type": "object",
        "properties": {
            "status": {"type": "string"},
            "started_at": {"type": "string"},
            "recordings": {
                "type": "array",
                "items": {"type": "object", "properties": {"url": {"type": "string"}}},
            },
        },
    },
    "event": None,
    "body": None,
}
NAMES: dict[str, dict[str, Any]] = {
    "call": {
        "status": "SALE",
        "started_at": datetime(2026, 11, 20, 19, 5, 9, tzinfo=UTC),
        "recordings": None,
    },
    "event": {"n": 3, "yes": True, "tags": ["a", None, "b"], "evil": "<b>&", "_id": 7, "items": [1]},
    "body": {"results": [{"id": "501"}], "total": None},
}


def compile_one(template: Any) -> Template:
    compiler = Compiler(filters.PURE)
    found = compiler.compile(template, "body", SCOPE)
    assert compiler.problems == []
    return found


def render(template: Any) -> Any:
    return compile_one(template).render(NAMES)


def mistakes(template: Any) -> list[str]:
    compiler = Compiler(filters.PURE)
    compiler.compile(template, "body", SCOPE)
    return [str(problem) for problem in compiler.problems]


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("plain", "plain"),
        (7, 7),
        ("{{ event.n }}", 3),
        ("{{ event.n }} calls", "3 calls"),
        ("{{ event.yes }}", True),
        ("is {{ event.yes }}, {{ event.no }}", "is true, "),
        ("{{ event.tags }}", ["a", None, "b"]),
        ("{{ call.recordings[0].url }}", None),
        ("{{ call.recordings[0].url | upper | clip(3) }}", None),
        ("{{ event.a.b.c[4].d }}", None),
        ("{{ event['_id'] }}", 7),
        ("{{ event.items[0] }}", 1),
        ("{{ event.tags[-1] }}", "b"),
        ("{{ event.tags[9] }}", None),
        ("{{ event.tags['x'] }}", None),
        ("{{ call.started_at }}", "2026-11-20T19:05:09+00:00"),
        ("at {{ call.started_at }}", "at 2026-11-20T19:05:09+00:00"),
        ("{{ body.total > 1 }}", False),
        ("{{ body.total == none }}", True),
        ("{{ event.n >= 3 and event.n < 4 }}", True),
        ("{{ call.status in ['SALE', 'NI'] }}", True),
        ("{{ event.none in 'text' }}", False),
        ("{{ event.n not in event.none }}", True),
        ("{{ event.none not in event.tags }}", False),
        ("{{ 'yes' if event.n == 3 }}", "yes"),
        ("{{ 'yes' if event.n != 3 }}", None),
        ("{{ event.none or event.n }}", 3),
        ("{{ not event.none }}", True),
        ("{{ 'a' ~ event.none ~ event.n }}", "a3"),
        ("{{ event.n | times(-2) }}", -6),
        ("{{ {'a': event.n} }}", {"a": 3}),
        ("{% if event.n %}some{% else %}none{% endif %}", "some"),
        ("{{ event.evil }}", "<b>&"),
        ({"html": "{{ event.evil }}"}, "&lt;b&gt;&amp;"),
        ({"html": "<i>{{ event.evil }}</i>"}, "<i>&lt;b&gt;&amp;</i>"),
        ({"html": "{{ event.none }}"}, None),
        ("{{ event.evil | html }}", "&lt;b&gt;&amp;"),
        ("{{ event.url is https }}", False),
        ("{{ event.url is none }}", True),
        ("{{ event.n is defined }}", True),
        ("{{ missing_later.id }}", None),
        ("{{ [call.started_at, (1, 2)] }}", ["2026-11-20T19:05:09+00:00", [1, 2]]),
        ("{{ {1: event.evil | html} }}", {"1": "&lt;b&gt;&amp;"}),
    ],
)
def test_a_template_gives_its_value(template: Any, value: Any) -> None:
    compiler = Compiler(filters.PURE)
    found = compiler.compile(template, "body", {**SCOPE, "missing_later": None})
    assert compiler.problems == []
    got = found.render(NAMES)
    assert got == value
    assert type(got) is type(value)


def test_what_is_null_is_left_out_and_what_that_empties_too() -> None:
    template = {
        "a": "{{ event.n }}",
        "b": {"c": {"d": "{{ event.none }}"}},
        "e": ["{{ event.none }}", "x"],
        "f": [["{{ event.none }}"]],
        "kept": {"keep": None},
        "kept_too": [{"keep": "{{ event.none }}"}],
        "empty": {},
        "sorts": [],
        "null": None,
        "{{ call.status }}": "by its name",
        "{{ event.none }}": "has no name",
    }
    assert render(template) == {
        "a": 3,
        "e": ["x"],
        "kept": None,
        "kept_too": [None],
        "empty": {},
        "sorts": [],
        "SALE": "by its name",
    }
    assert render({"a": "{{ event.none }}"}) is None


def test_what_is_left_out_is_named_with_its_expression() -> None:
    template = compile_one({"a": ["{{ event.none }}"], "b": "{{ event.n }}", "c": {"keep": None}, "d": None})
    assert [(each.path, each.source) for each in template.left_out(NAMES)] == [
        ("body.a[0]", "{{ event.none }}")
    ]


def test_a_template_without_expressions_is_constant() -> None:
    assert compile_one({"a": ["b", 1]}).constant
    assert not compile_one({"a": ["b", "{{ event.n }}"]}).constant


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ ().__class__ }}", "reads __class__"),
        ("{{ call.clear() }}", "has a call"),
        ("{% for x in event %}{% endfor %}", "has a loop"),
        ("{{ 'a' * 9 }}", "has arithmetic"),
        ("{{ 9 ** 9 }}", "has arithmetic"),
        ("{{ -event.n }}", "has arithmetic"),
        ("{{ event | attr('x') }}", "unknown filter attr"),
        ("{% include 'x' %}", "has `include`"),
        ("{% set x = 1 %}", "has `assign`"),
        ("{{ event.n[1:2] }}", "has a slice"),
        ("{{ 1 < event.n < 3 }}", "compares three values"),
        ("{{ lipsum }}", "unknown name lipsum"),
        ("{{ cal.status }}", "unknown name cal; did you mean call?"),
        ("{{ call.statsu }}", "reads call.statsu, which does not exist; did you mean status?"),
        ("{{ call['statsu'] }}", "reads call.statsu"),
        ("{{ call.recordings.url }}", "reads url of call.recordings, which is a list"),
        (
            "{{ call.recordings[0].ulr }}",
            "reads call.recordings[0].ulr, which does not exist; did you mean url",
        ),
        ("{{ call.status.x }}", "reads x of call.status, which is a value without fields"),
        ("{{ event.n | uper }}", "unknown filter uper; did you mean upper?"),
        ("{{ event.n | _compare('eq', 1) }}", "unknown filter _compare"),
        ("{{ event.n is odd }}", "unknown test odd"),
        ("{{ event.n | clip }}", "uses the filter clip wrongly"),
        ("{{ event.n | clip(length=2, more=3) }}", "uses the filter clip wrongly"),
        ("{{ event.n ", "can't be parsed"),
        ("{{ event.n | }}", "can't be parsed"),
        ("{{ " + "(" * 2000 + "1" + ")" * 2000 + " }}", "nested too deeply"),
        ("{{ " + "not " * 50 + "1 }}", "more than 30 levels"),
        ("{{ event.n }}" * 1000, "is longer than"),
        (f"{{{{ {'1' * 5000} }}}}", "a number that is too long"),
    ],
)
def test_what_a_template_may_not_say_is_named_with_its_place(template: str, said: str) -> None:
    (problem,) = mistakes({"a": [template]})
    assert problem.startswith("body.a[0]: ")
    assert said in problem


def test_all_mistakes_are_named_at_once() -> None:
    found = mistakes({"a": "{{ x }}", "b": {"c": "{{ y }}"}, "{{ z }}": 1})
    assert [each.partition(":")[0] for each in found] == ["body.a", "body.b.c", "body (key)"]


def test_a_tree_is_at_most_so_deep() -> None:
    tree: Any = "x"
    for _ in range(40):
        tree = [tree]
    assert "levels deep" in mistakes(tree)[0]


def test_a_preset_has_at_most_so_many_parts() -> None:
    tree: Any = ["x", "x"]
    for _ in range(25):
        tree = [tree, tree]
    (problem,) = mistakes(tree)
    assert "there are too many" in problem


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ event.none | required('the agent has no owner') }}", "body.a: the agent has no owner"),
        ("{{ call.status | number }}", "body.a: is no number"),
        ("{{ '1e308' | number | times(10) }}", "body.a: is no number"),
        ("{{ event.n < call.status }}", "body.a: can't compare int and str"),
        ("{{ event.n in event.yes }}", "body.a: can't compare"),
        ("{{ event[event.tags] }}", "body.a: TypeError in {{ event[event.tags] }}"),
        ("x{{ event.long }}", "body.a: gives a text of more than"),
    ],
)
def test_a_template_that_fails_names_its_place(template: str, said: str) -> None:
    compiled = compile_one({"a": template})
    names = {**NAMES, "event": {**NAMES["event"], "long": "x" * LONGEST_TEXT}}
    with pytest.raises(TemplateError) as error:
        compiled.render(names)
    assert str(error.value).startswith(said)
    assert error.value.path == "body.a"


def test_rendering_changes_nothing_in_its_names() -> None:
    before = repr(NAMES)
    render({"a": "{{ event.tags | join }}", "b": "{{ event.items }}"})
    assert repr(NAMES) == before


TOKENS = st.sampled_from(
    [
        *(
            "call",
            "event",
            "body",
            "x",
            "none",
            "true",
            "1",
            "-1",
            "1e9",
            "'a'",
            '"',
            "[",
            "]",
            "(",
            ")",
            "{",
            "}",
        ),
        *(
            ".",
            ",",
            ":",
            "|",
            "~",
            "+",
            "*",
            "**",
            "%",
            "<",
            "==",
            "!=",
            "in",
            "not",
            "and",
            "or",
            "if",
            "else",
        ),
        *(
            "is",
            "https",
            "upper",
            "join",
            "default('x')",
            "replace('a', 'b')",
            "times(2)",
            "clip(3)",
            "json",
            "int",
        ),
        *(
            "__class__",
            "_x",
            "items",
            "keys",
            "pop",
            "format",
            "n",
            "status",
            "tags",
            "results",
            "[0]",
            "['n']",
        ),
        *(
            "{{",
            "}}",
            "{%",
            "%}",
            "{#",
            "#}",
            "for",
            "set",
            "endif",
            "loop",
            "self",
            "caller",
            "\\",
            "\n",
            "é",
        ),
    ]
)


@given(st.lists(TOKENS, max_size=20).map(" ".join), st.booleans())
@settings(max_examples=500, deadline=None)
def test_whatever_is_written_is_refused_or_gives_data(text: str, alone: Any) -> None:
    before = repr(NAMES)
    compiler = Compiler(filters.PURE)
    template = compiler.compile(f"{{{{ {text} }}}}" if alone else text, "body", SCOPE)
    try:
        value = template.render(NAMES)
    except TemplateError:
        value = None
    json.dumps(value, allow_nan=False)
    assert repr(NAMES) == before
