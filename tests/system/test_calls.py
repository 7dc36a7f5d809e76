"""Every call is delivered as it was: start, end, lead, recordings and status, and once."""

import pytest

from tests.system.calls import AS_SHIPPED, ELSEWHERE, may_be_null, play, table, told_wrong
from tests.system.harness import Program, System

pytestmark = [pytest.mark.system, pytest.mark.verify]

SEED = 25984
"""The same calls each time, but for the times. `python -m tests.system.calls` plays others."""

SECONDS = 40.0
"""How long the agents take calls. The last disposition comes 20 s later, and is found within 25 s more."""


@pytest.mark.timeout(240)
async def test_of_five_hundred_calls_of_twenty_agents_every_field_is_true(system: System) -> None:
    system.dialer = Program(*ELSEWHERE)
    try:
        await system.start(**AS_SHIPPED)
        played = await play(system, SEED, calls=500, agents=20, seconds=SECONDS)
    finally:
        system.dialer.end()
    print(table(played))  # noqa: T201 - shown if the test fails, and by `-rP`
    assert len(played) == 500
    wrong = told_wrong(played)
    print("\n".join(wrong))  # noqa: T201 - shown if the test fails
    assert len(wrong) == 0
    withheld = [(case.kind, case.nulls, case.event) for case in played if set(case.nulls) - may_be_null(case)]
    assert withheld == []
