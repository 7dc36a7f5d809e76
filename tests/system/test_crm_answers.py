"""A CRM whose answers a strict reader refuses, or that asks for a pause in its own words."""

from collections.abc import Awaitable, Callable

import pytest

from tests.adapters.raw import Connection, RawServer
from tests.adapters.test_webhook_answers import ANSWERS
from tests.system.harness import System, eventually

pytestmark = pytest.mark.system

EVENTS = 10


def counting(answer: bytes, posts: list[bytes]) -> Callable[[Connection], Awaitable[None]]:
    """Answer every request with these bytes, and keep the connection open."""

    async def serve(connection: Connection) -> None:
        while True:
            posts.append(await connection.request())
            await connection.send(answer)

    return serve


@pytest.mark.parametrize(
    "name",
    [
        "204 with chunks",
        "204 with a body",
        "brotli",
        "a long header",
        "two equal lengths",
        "a length and chunks",
    ],
)
async def test_one_post_for_each_event_and_the_gate_stays_open(system: System, name: str) -> None:
    answer, _ = ANSWERS[name]
    posts: list[bytes] = []
    async with RawServer(counting(answer, posts)) as crm:
        worker = await system.start(sink__url=crm.url)
        await system.publish_all(await system.calls(EVENTS))
        await eventually(lambda: len(worker.settled("delivered")) == EVENTS)
    assert len(posts) == EVENTS
    assert worker.events("circuit_open") == []
    await system.nothing_dead()


async def test_a_wait_in_its_own_notation_is_kept(system: System) -> None:
    posts: list[bytes] = []
    answer = b"HTTP/1.1 429 Later\r\nRetry-After: 299.997\r\nContent-Length: 0\r\n\r\n"
    async with RawServer(counting(answer, posts)) as crm:
        worker = await system.start(sink__url=crm.url)
        await system.publish(await system.call())
        await eventually(lambda: worker.events("circuit_open"))
        await system.publish_all(await system.calls(3))
        await eventually(lambda: len(worker.settled("retry")) == 1)
        (closed,) = worker.events("circuit_open")
    assert (closed["breaker"], closed["next_probe_seconds"]) == ("sink", 300.0)
    assert len(posts) == 1
    await system.nothing_dead()
