"""Looking at a dead letter costs little more than parsing its body, whatever that is."""

import pytest
from aiormq import spec
from aiormq.abc import DeliveredMessage
from pamqp.header import ContentHeader

from tests.core.large import LARGE, cost, parse
from worker.core.events import MAX_BODY
from worker.rabbitmq.dead_letters import read_dead_letter
from worker.rabbitmq.message import Delivery

pytestmark = pytest.mark.verify


def stored(body: bytes) -> Delivery:
    """Make a message that is among the dead letters."""
    place = spec.Basic.GetOk(exchange="crm-sync.dead-letters", routing_key="agent.onboarded")
    return Delivery(DeliveredMessage(place, ContentHeader(), body, channel=None))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name", ["objects for campaigns", "empty campaigns", "many campaigns", "objects", "a type that is a list"]
)
def test_the_worst_of_bodies_is_parsed_once(name: str) -> None:
    body = LARGE[name]
    plain_seconds, plain_bytes = cost(parse, body)
    seconds, size = cost(lambda raw: read_dead_letter(stored(raw)), body)
    assert seconds < 5 * plain_seconds + 0.05
    assert size < plain_bytes + 16 * MAX_BODY
