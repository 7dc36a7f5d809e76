"""The shipped presets: each can be read, and does what its tests say."""

import pytest

from worker.commands.event_schemas import payloads
from worker.crm.preset_tests import Case, failures, read_cases
from worker.crm.source import read_preset, shipped

EXAMPLES = {name.partition(".")[0]: payload for name, payload in payloads().items()}
CASES = [
    pytest.param(name, case, id=f"{name}: {case.name}") for name in shipped() for case in read_cases(name)
]


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_preset_can_be_read(name: str) -> None:
    assert read_preset(name).crm == name


@pytest.mark.no_cover
@pytest.mark.parametrize(("name", "case"), CASES)
def test_a_shipped_preset_does_what_its_tests_say(name: str, case: Case) -> None:
    assert failures(name, case, EXAMPLES) == []
