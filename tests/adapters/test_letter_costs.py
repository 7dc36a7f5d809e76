"""Looking at a dead letter costs little more than parsing its body, whatever that is."""

from dataclasses import dataclass, field

import pytest
from aiormq import spec

from tests.core.large import LARGE, cost, parse
from worker.core.body import MAX_BODY
from worker.rabbitmq.dead_letters import read_letter


@dataclass
class Received:
    """A message that lies in the dead letters."""

    body: bytes
    properties: spec.Basic.Properties = field(default_factory=spec.Basic.Properties)
    exchange: str | None = "crm-sync.dead-letters"
    routing_key: str | None = "agent.onboarded"


@pytest.mark.parametrize(
    "name", ["objects for campaigns", "empty campaigns", "many campaigns", "objects", "a type that is a list"]
)
def test_the_worst_of_bodies_is_parsed_once(name: str) -> None:
    body = LARGE[name]
    plain_seconds, plain_bytes = cost(parse, body)
    seconds, size = cost(lambda raw: read_letter(Received(raw)), body)
    assert seconds < 5 * plain_seconds + 0.05
    assert size < plain_bytes + 16 * MAX_BODY
