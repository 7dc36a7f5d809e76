"""Every call that is delivered is told as it was: start, end, lead, recordings and status, and once."""

import random
from collections import Counter

import pytest

from tests.system.calls import AS_SHIPPED, ELSEWHERE, play, table, told_wrong
from tests.system.harness import Program, System

pytestmark = pytest.mark.system

SECONDS = 50.0
"""How long the agents take calls. The last disposition comes 20 s later, and is found within 25 s more."""


@pytest.mark.timeout(240)
async def test_of_five_hundred_calls_of_twenty_agents_every_field_is_true(system: System) -> None:
    seed = random.randrange(10**6)  # noqa: S311 - shown, to play it again
    print(f"seed {seed}")  # noqa: T201 - shown where the test fails
    system.dialer = Program(*ELSEWHERE)
    try:
        await system.start(**AS_SHIPPED)
        played = await play(system, seed, calls=500, agents=20, seconds=SECONDS)
    finally:
        system.dialer.end()
    print(table(played))  # noqa: T201 - shown where the test fails, and by `-rP`
    assert len(played) == 500
    wrong = told_wrong(played)
    print("\n".join(wrong))  # noqa: T201 - shown where the test fails
    assert len(wrong) == 0
    nulls = Counter(name for case in played for name in case.nulls)
    print(nulls)  # noqa: T201 - a measurement
    for case in played:
        knows_the_end = case.truth["call"]["direction"] == "outbound" and case.truth["agent_user"]
        if case.is_answered and knows_the_end:
            assert case.nulls == [], (case.kind, case.event)
