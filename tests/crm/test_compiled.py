# ruff: noqa: ANN401 - a template gives any JSON
"""A compiled preset: its templates by their places, and the names that they may use."""

from typing import Any

import pytest

from tests.crm.conversation import template
from worker.commands.event_schemas import payloads
from worker.crm.compiled import CompiledPreset, PresetError, compile_preset, variables
from worker.crm.expressions import TemplateError
from worker.crm.preset import Preset
from worker.crm.tables import MOST_LEARNED, Tables

PRESET: dict[str, Any] = {
    "crm": "example",
    "title": "Example",
    "about": "An example.",
    "settings": {
        "token": {"secret": True, "required": True, "about": "A token."},
        "region": {"default": "US", "about": "The country."},
        "owners": {"type": "table", "default": {"2000": "o2"}, "about": "Owners."},
    },
    "url": "https://crm.example",
    "headers": {"Authorization": "Bearer {{ login.token }}"},
    "login": {
        "steps": [
            {
                "step": "start",
                "post": "/token",
                "form": {"secret": "{{ settings.token }}"},
                "take": {"id": "x"},
            },
        ],
        "take": {"token": "{{ start.id }}"},
        "lifetime": "{{ start.id | number }}",
    },
    "tables": {"status": {"B": "BUSY", "NO": None, "7": "seven", "*": "DONE"}, "owners": {"3000": "o3"}},
    "skip_when": "{{ call.talk_seconds == 0 }}",
    "on_call": [
        {
            "step": "find",
            "when": "{{ number.national }}",
            "cache": {"by": "{{ number.e164 }}", "found": "10m", "missing": "2m"},
            "get": "/find",
            "query": {"q": "{{ number.e164 }}"},
            "answers": [{"status": 404, "means": "duplicate", "take": {"old": "{{ body.id }}"}}],
            "take": {"id": "{{ body.id }}"},
            "learn": {"table": "owners", "key": "{{ call.agent_user }}", "value": "{{ find.id }}"},
        },
        {
            "step": "record",
            "repeat": "upsert",
            "post": "/calls",
            "batch": {
                "max": 10,
                "wait": "100ms",
                "results": "{{ body.results }}",
                "errors": "{{ body.errors }}",
                "match": "{{ result.key }}",
                "each": [{"when": "{{ result.error }}", "means": "bad"}],
            },
            "body": [{"of": "{{ find.id or find.old }}", "status": "{{ call.status | table('status') }}"}],
            "take": {"id": "{{ result.id }}"},
        },
    ],
    "on_agent": [{"step": "user", "get": "/users/{{ agent.agent_user | urlquote }}"}],
    "receipt": {"id": "{{ record.id }}"},
    "agent_receipt": {"id": "{{ user.duplicate }}"},
    "answers": [{"status": 429, "means": "busy", "wait": "{{ headers['retry-after'] | seconds_until }}"}],
    "check": [{"check": "it", "get": "/me", "expect": "{{ body.ok }}", "otherwise": "do it"}],
    "prepare": [{"step": "key", "post": "/fields", "body": {"name": "{{ settings.region }}"}}],
}


def compiled(**changed: Any) -> CompiledPreset:
    return compile_preset(Preset.model_validate(PRESET | changed), {"token": "t"}, dialer="dialer.example")


def test_each_template_is_found_by_its_place() -> None:
    preset = compiled()
    for place in (
        *("url", "headers", "skip_when", "receipt", "agent_receipt", "answers[0].wait"),
        *("login.steps.start.path", "login.steps.start.form", "login.steps.start.take", "login.take"),
        *("login.lifetime", "on_call.find.path", "on_call.find.query", "on_call.find.when"),
        *("on_call.find.cache.by", "on_call.find.answers[0].take", "on_call.find.learn.key"),
        *("on_call.find.learn.value", "on_call.record.body", "on_call.record.batch.results"),
        *("on_call.record.batch.errors", "on_call.record.batch.match", "on_call.record.batch.each[0].when"),
        *("on_agent.user.path", "check[0].path", "check[0].expect", "prepare.key.body"),
    ):
        assert template(preset, place).path == place
    assert preset.plan.on_call[0].request.body is None


def test_all_mistakes_of_a_preset_are_named_at_once() -> None:
    step = {
        "step": "record",
        "post": "/{{ record.id }}",
        "body": {"a": "{{ body.x }}", "b": "{{ find.id }}", "c": "{{ call.x }}", "d": "{{ 1 | table('t') }}"},
        "take": {"id": "{{ body.x }}", "y": "{{ result.x }}"},
    }
    with pytest.raises(PresetError) as error:
        compiled(on_call=[step], receipt={"id": "{{ record.nr }}"})
    assert [each.partition(":")[0] for each in error.value.problems] == [
        "on_call.record.path",
        "on_call.record.body.a",
        "on_call.record.body.b",
        "on_call.record.body.c",
        "on_call.record.body.d",
        "on_call.record.take.y",
        "receipt.id",
    ]
    assert "known are owners, status" in str(error.value)


def test_what_a_template_may_not_be_without_is_named() -> None:
    with pytest.raises(PresetError) as error:
        compiled(url=None, receipt={})
    assert error.value.problems == ["receipt: is missing", "url: is missing"]


def test_a_call_has_its_names() -> None:
    preset = compiled()
    names = variables(payloads()["call.enriched"], preset, {"token": "l"})
    assert names["settings"] == {"token": "t", "region": "US", "owners": {"2000": "o2"}}
    assert names["login"] == {"token": "l"}
    assert names["key"] == names["call"]["call_id"] == "V1201405090000012345"
    assert names["number"]["e164"] == "+13125551212"
    assert names["call_end"].isoformat() == "2026-11-20T14:07:09-05:00"
    assert names["timestamp"].isoformat() == "2026-11-20T19:07:14+00:00"
    assert (names["found"], names["final"], names["agent"]) == (True, True, None)
    assert template(preset, "on_call.record.body").render({**names, "find": {"id": "5"}}) == [
        {"of": "5", "status": "DONE"}
    ]


def test_the_end_of_a_call_is_its_own_if_it_is_known() -> None:
    payload = payloads()["call.enriched"]
    payload["data"]["call"] |= {"ended_at": "2026-11-20T20:00:00Z"}
    assert variables(payload, compiled())["call_end"].isoformat() == "2026-11-20T20:00:00+00:00"
    payload["data"]["call"] |= {"ended_at": None, "talk_seconds": None}
    assert variables(payload, compiled())["call_end"] is None


def test_a_call_that_the_dialer_does_not_know_is_not_found() -> None:
    payload = payloads()["call.enriched"]
    payload["data"]["enrichment"] = "not_found"
    assert variables(payload, compiled())["found"] is False


def test_the_uuid_of_a_record_depends_on_the_dialer_and_the_call_alone() -> None:
    payload = payloads()["call.enriched"]
    first = variables(payload, compiled())["record_uuid"]
    other = compile_preset(Preset.model_validate(PRESET), {}, dialer="other.example")
    payload["data"]["event_id"] = "another"
    assert variables(payload, compiled())["record_uuid"] == first
    assert variables(payload, other)["record_uuid"] != first


def test_an_agent_has_its_names() -> None:
    names = variables(payloads()["agent.enriched"], compiled())
    assert names["agent"]["agent_user"] == "agent001"
    assert names["access_check"]["ok"] is True
    assert names["key"] == names["event_id"]
    assert (names["call"], names["call_end"], names["number"]["e164"]) == (None, None, None)


def test_a_payload_with_a_time_that_is_none_is_named() -> None:
    payload = payloads()["call.enriched"]
    payload["data"]["call"]["started_at"] = "soon"
    with pytest.raises(TemplateError, match=r"call\.started_at: is no time"):
        variables(payload, compiled())


@pytest.mark.parametrize(
    ("name", "key", "row"),
    [
        ("status", "B", "BUSY"),
        ("status", "NO", None),
        ("status", 7, "seven"),
        ("status", "X", "DONE"),
        ("status", None, None),
        ("owners", "2000", "o2"),
        ("owners", "3000", "o3"),
        ("owners", "4000", None),
    ],
)
def test_a_table_has_its_rows(name: str, key: object, row: object) -> None:
    assert compiled().plan.tables.lookup(name, key) == row


def test_a_given_row_wins_over_a_learned_one() -> None:
    tables = Tables({"owners": {"1": "given", "*": "any"}})
    tables.learn("owners", "1", "learned")
    tables.learn("owners", 2, "learned")
    tables.learn("owners", "3", None)
    tables.learn("owners", None, "learned")
    assert [tables.lookup("owners", key) for key in ("1", "2", "3")] == ["given", "learned", "any"]


def test_so_many_rows_are_learned_at_most() -> None:
    tables = Tables({"owners": {}})
    for key in range(MOST_LEARNED + 1):
        tables.learn("owners", key, "x")
    assert tables.lookup("owners", 0) is None
    assert tables.lookup("owners", MOST_LEARNED) == "x"


def test_the_forms_of_a_number_are_filters() -> None:
    preset = compiled(receipt={"id": "{{ event.n | e164 }} {{ event.n | national('GB') }}"})
    names = {"event": {"n": "3125551212"}}
    assert template(preset, "receipt").render(names) == {"id": "+13125551212 3125551212"}


def test_a_step_may_read_of_itself_only_whether_its_record_is_there() -> None:
    body = {"kind": "{{ 'new' if not record }}", "again": "{{ record.duplicate }}"}
    record = {"step": "record", "repeat": "upsert", "post": "/calls", "body": body}
    update = {"step": "update", "put": "/calls", "body_of": "record"}
    preset = compiled(on_call=[record, update], receipt={"id": "1"})
    assert template(preset, "on_call.record.body").render({"record": {}}) == {"kind": "new"}
    assert template(preset, "on_call.update.body").render({"record": {"duplicate": True}}) == {"again": True}
