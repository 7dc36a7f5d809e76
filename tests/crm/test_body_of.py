"""A step of a preset can send the body of an earlier one."""

import pytest
from pydantic import ValidationError

from worker.crm.preset import Preset, Step

PRESET = {
    "crm": "example",
    "title": "Example",
    "about": "An example.",
    "settings": {},
    "url": "https://crm.example.com",
    "receipt": {},
}


def preset(*steps: object) -> Preset:
    return Preset.model_validate(PRESET | {"on_call": list(steps)})


def test_a_step_sends_the_body_of_an_earlier_one() -> None:
    made = preset(
        {"step": "record", "post": "/calls", "body": {"name": "{{ key }}"}},
        {"step": "update", "body_of": "record", "put": "/calls"},
    )
    assert [step.body for step in made.on_call] == [{"name": "{{ key }}"}] * 2


@pytest.mark.parametrize("source", ["later", "without", "nowhere"])
def test_a_body_that_does_not_exist_is_a_mistake(source: str) -> None:
    with pytest.raises(ValidationError, match="step update: body_of must name an earlier step with a body"):
        preset(
            {"step": "without", "get": "/calls"},
            {"step": "update", "body_of": source, "put": "/calls"},
            {"step": "later", "post": "/calls", "body": {"name": "x"}},
        )


def test_what_is_no_preset_is_left_to_the_model() -> None:
    with pytest.raises(ValidationError):
        Preset.model_validate("hubspot")
    with pytest.raises(ValidationError):
        preset("record")
    assert preset(Step.model_validate({"step": "record", "post": "/calls"})).on_call[0].step == "record"
