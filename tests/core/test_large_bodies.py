"""The worst of bodies costs little more than parsing it, in time and in memory; its error text is short."""

import pytest

from tests.core.inbounds import STRUCTURED, inbound
from tests.core.large import LARGE, cost, parse
from worker.core.errors import InvalidEvent
from worker.core.events import MAX_BODY, decode

pytestmark = pytest.mark.verify

LONGEST_TEXT = 250


def refuse_or_decode(body: bytes) -> None:
    """Decode a body, and insist that an error text is short."""
    text = ""
    try:
        decode(inbound(body, content_type=STRUCTURED if b'"data' in body[:40] else None))
    except InvalidEvent as error:
        text = str(error)
    assert len(text) < LONGEST_TEXT


@pytest.mark.parametrize("body", LARGE.values(), ids=LARGE)
def test_the_worst_of_bodies_costs_little_more_than_parsing_it(body: bytes) -> None:
    assert len(body) <= MAX_BODY
    plain_seconds, plain_bytes = cost(parse, body)
    seconds, size = cost(refuse_or_decode, body)
    assert seconds < 5 * plain_seconds + 0.05
    assert size < plain_bytes + 16 * MAX_BODY
