# ruff: noqa: ANN401 - a preset holds any YAML
"""A delivery with canned answers, and the tests of presets that play it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from worker.commands.event_schemas import payloads
from worker.crm.compiled import PresetError, compile_preset
from worker.crm.preset import Preset
from worker.crm.preset_tests import Case, failures, read_cases
from worker.crm.rehearsal import Rehearsal, Skipped, rehearse

EXAMPLES = {name.partition(".")[0]: payload for name, payload in payloads().items()}
PRESET: dict[str, Any] = {
    "crm": "own",
    "title": "Own",
    "about": "An own one.",
    "settings": {
        "secret": {"secret": True, "required": True, "about": "A secret."},
        "region": {"default": "US", "about": "The country."},
    },
    "url": "https://crm.example",
    "headers": {"Authorization": "Bearer {{ login.token }}"},
    "login": {
        "steps": [
            {
                "step": "token",
                "post": "https://login.crm.example/token",
                "form": {"secret": "{{ settings.secret }}"},
                "take": {"token": "{{ body.token }}"},
            }
        ],
        "take": {"token": "{{ token.token }}", "url": "https://api.crm.example/v1"},
        "url": "{{ login.url }}",
        "hosts": ["crm.example"],
    },
    "skip_when": "{{ call.status == 'SKIP' }}",
    "on_call": [
        {
            "step": "find",
            "soft": True,
            "when": "{{ number.national }}",
            "get": "/find",
            "query": {"q": "{{ number.national }}", "more": "{{ call.in_group_id }}"},
            "take": {"id": "{{ body.id }}"},
        },
        {
            "step": "record",
            "repeat": "upsert",
            "post": "/calls",
            "body": {
                "id": "{{ key }}",
                "who": "{{ find.id }}",
                "end": "{{ call.ended_at | utc }}",
                "agent": "{{ call.agent_user | required }}",
            },
            "take": {"id": "{{ body.id }}"},
        },
        {"step": "link", "when": "{{ find.id }}", "put": "/link/{{ record.id }}"},
    ],
    "receipt": {"id": "{{ record.id }}", "linked": "{{ find.id }}"},
}
FOUND = {"find": {"body": {"id": "5"}}, "record": {"body": {"id": "9"}}}


def play(answers: dict[str, Any], changes: dict[str, Any] | None = None, **options: Any) -> Rehearsal:
    preset = compile_preset(Preset.model_validate(PRESET), {"secret": "s3cret"})
    payload = payloads()["call.enriched"]
    payload["data"]["call"] |= changes or {}
    return rehearse(preset, payload, answers, **options)


def steps(rehearsal: Rehearsal) -> list[str]:
    return [each.step if isinstance(each, Skipped) else each.request.step for each in rehearsal.parts]


def test_a_delivery_is_played_with_what_it_leaves_out() -> None:
    found = play(FOUND)
    assert (found.outcome, found.receipt) == ("delivered", {"id": "9", "linked": "5"})
    assert steps(found) == ["find", "record", "link"]
    assert [[(each.path, each.source) for each in sent.left_out] for sent in found.requests] == [
        [("on_call.find.query.more", "{{ call.in_group_id }}")],
        [("on_call.record.body.end", "{{ call.ended_at | utc }}")],
        [],
    ]
    assert found.requests[0].request.headers == {"Authorization": "Bearer <token>"}
    assert found.requests[1].request.url == "https://crm.example/calls"


def test_a_step_that_is_left_out_is_named() -> None:
    found = play(FOUND, {"phone_number": None})
    assert steps(found) == ["find", "record", "link"]
    assert [each for each in found.parts if isinstance(each, Skipped)] == [Skipped("find"), Skipped("link")]


@pytest.mark.parametrize("options", [{"answers": {"token": {"body": {"token": "t"}}}}, {"real_login": True}])
def test_the_login_is_made_if_it_is_wanted(options: dict[str, Any]) -> None:
    answers = {**FOUND, **options.pop("answers", {})}
    found = play(answers, **options)
    assert steps(found)[0] == "token"
    assert found.requests[0].of_login
    assert found.requests[0].request.form == {"secret": "s3cret"}
    assert found.requests[1].request.url == "https://api.crm.example/v1/find"


def test_a_token_that_is_not_accepted_is_renewed_once() -> None:
    found = play(
        {**FOUND, "record": [{"status": 401}, {"body": {"id": "9"}}], "token": {"body": {"token": "t"}}}
    )
    assert steps(found) == ["token", "find", "record", "token", "record", "link"]
    assert found.outcome == "delivered"


@pytest.mark.parametrize(
    ("answers", "outcome", "says"),
    [
        ({"record": {"status": 500}}, "retry", "500"),
        ({"record": {"lost": True}}, "retry", "the connection was lost"),
        ({"record": {"status": 429, "headers": {"Retry-After": 7}}}, "busy", "429"),
        ({"record": {"status": 403}}, "refused", "403"),
        ({"record": {"status": 422, "text": "no such field"}}, "rejected", "no such field"),
        ({"find": {"status": 500}}, "incomplete", "find"),
        ({"find": {"lost": True}}, "incomplete", "the connection was lost"),
        ({"find": {"status": 422}}, "delivered", "find"),
        ({"token": {"status": 400}}, "refused", "the login is refused"),
    ],
)
def test_each_outcome_is_shown(answers: dict[str, Any], outcome: str, says: str) -> None:
    found = play({**FOUND, **answers})
    assert found.outcome == outcome
    assert says in found.says


def test_a_call_that_is_not_written_or_can_not_be_mapped() -> None:
    assert play(FOUND, {"status": "SKIP"}).outcome == "skipped"
    found = play(FOUND, {"agent_user": None})
    assert (found.outcome, found.says) == (
        "mapping_failed",
        "on_call.record.body.agent: a required value is missing",
    )


def test_what_an_earlier_attempt_did_is_not_repeated() -> None:
    assert steps(play({}, progress={"find": {"id": "5"}, "record": {"id": "9"}})) == ["link"]


# --- the tests of presets -------------------------------------------------------------------------

CASE: dict[str, Any] = {
    "name": "a call",
    "payload": "call",
    "settings": {"secret": "s"},
    "answers": FOUND,
    "expect": {
        "outcome": "delivered",
        "receipt": {"id": "9"},
        "requests": [
            {"step": "find", "method": "GET", "query": {"q": "3125551212"}},
            {"step": "record", "headers": {"Authorization": "Bearer <token>"}},
            {"step": "link", "path": "/link/9"},
        ],
    },
}


@pytest.fixture
def preset(tmp_path: Path) -> str:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(PRESET, sort_keys=False), encoding="utf-8")
    return str(path)


def outcome_of(preset: str, **changed: Any) -> list[str]:
    case = {**CASE, **changed}
    return failures(preset, Case.model_validate(case), EXAMPLES)


def expecting(**expected: Any) -> dict[str, Any]:
    return {"expect": {**CASE["expect"], **expected}}


def test_a_test_that_holds_has_no_failures(preset: str) -> None:
    assert outcome_of(preset) == []


def test_the_requests_of_the_login_are_compared_if_one_is_expected(preset: str) -> None:
    requests = [
        {"step": "token", "form": {"secret": "s"}},
        {"step": "find"},
        {"step": "record"},
        {"step": "link"},
    ]
    assert outcome_of(preset, **expecting(requests=requests)) == []


def test_values_of_the_payload_are_changed_by_their_paths(preset: str) -> None:
    changes = {"data.call.recordings.0.url": "x", "data.event.new.deep": 1, "data.call.phone_number": None}
    requests = [{"step": "record"}]
    assert outcome_of(preset, **{"with": changes}, **expecting(requests=requests)) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (expecting(outcome="retry"), "outcome: delivered, not retry; "),
        (expecting(receipt={"id": "8"}), "receipt.id: '9', not '8'"),
        (expecting(says="never"), "says: '', without 'never'"),
        (expecting(requests=[{"step": "find"}]), "requests: find, record, link, not find"),
        (
            expecting(requests=[{"step": "find", "query": {}}, {"step": "record"}, {"step": "link"}]),
            "requests[0] (find) query: {'q': '3125551212'}, not {}",
        ),
        ({"payload": "fax"}, "payload: fax is no example; known are call, agent"),
        ({"settings": {}}, "sink.crm.secret (CRM_SYNC_SINK__CRM__SECRET): is required: A secret."),
    ],
)
def test_what_differs_is_named(preset: str, changed: dict[str, Any], said: str) -> None:
    assert outcome_of(preset, **changed) == [said]


def test_the_tests_stand_beside_their_preset(preset: str, tmp_path: Path) -> None:
    with pytest.raises(PresetError, match="has no tests beside it"):
        read_cases(preset)
    beside = tmp_path / "own.tests.yaml"
    beside.write_text(yaml.safe_dump([CASE]), encoding="utf-8")
    (case,) = read_cases(preset)
    assert case.name == "a call"
    beside.write_text(yaml.safe_dump([{**CASE, "expcet": 1}]), encoding="utf-8")
    with pytest.raises(PresetError, match=r"\[0\]\.expcet: is no key"):
        read_cases(preset)
    beside.write_text("[", encoding="utf-8")
    with pytest.raises(PresetError, match="can't be read"):
        read_cases(preset)
