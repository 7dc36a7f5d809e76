"""The events that are published while something breaks: most usual, some late, some wrong; by one seed."""

import json
import random
from datetime import UTC, datetime
from typing import Any

from tests.system.chaos.account import DELIVERED, Published
from tests.system.harness import new_call_id

_AGENTS = ("1000", "1001")


class Load:
    """Makes events with ids that no other has."""

    def __init__(self, name: str, rng: random.Random) -> None:
        self._name = name
        self._rng = rng
        self._count = 0

    def batch(self, count: int, *, agents: bool = True, after: int = 0) -> list[Published]:
        """Make so many, `after` others: of ten, one is about an agent, and one about a call not known yet.

        One in forty is invalid, and has to end in the dead letters. Publish them at once, as they happen now.
        """
        return [self._nth(number, agents=agents) for number in range(after, after + count)]

    def call(self, *, fate: str = DELIVERED, **known: object) -> Published:
        """Return the end of one call, of which the dialer knows this."""
        event = {"type": "call.ended", "call_id": new_call_id(self._rng)}
        return self._event(event, fate=fate, call=known)

    def agent(self) -> Published:
        event = {"type": "agent.onboarded", "agent_user": self._rng.choice(_AGENTS)}
        return self._event(event, key="agent.onboarded")

    def _nth(self, number: int, *, agents: bool) -> Published:
        if number % 40 == 17:
            return self._event({"type": "call.ended"}, fate="invalid_event")
        if number % 10 == 3:
            return self.call(schedule=[[0, "not_found"], [0.3, "DISPO"], [0.6, "final"]])
        return self.agent() if agents and number % 10 == 6 else self.call()

    def _event(self, event: dict[str, str], **more: Any) -> Published:  # noqa: ANN401 - the fields of `Published`
        self._count += 1
        name = f"{self._name}-{self._count}"
        body = json.dumps({"event_id": name, "occurred_at": datetime.now(UTC).isoformat(), **event})
        return Published(name, body.encode(), **more)
