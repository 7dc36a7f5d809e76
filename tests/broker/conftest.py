"""A second broker, for tests that do to it what nobody else may suffer from."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from simulators.broker import find_server
from simulators.broker_node import PrivateBroker
from tests.tools import skip_without


@pytest.fixture(scope="session")
def own_node() -> Iterator[PrivateBroker]:
    """Yield a node that may be restarted, set into alarm, and made to drop its connections."""
    server = find_server()
    if server is None:
        skip_without("a node of its own needs an installed rabbitmq-server")
    node = asyncio.run(start(server))
    yield node
    asyncio.run(node.stop())


async def start(server: Path) -> PrivateBroker:
    return await PrivateBroker.start(server)


@pytest.fixture
async def node(own_node: PrivateBroker) -> AsyncIterator[PrivateBroker]:
    """Return that node, up and without alarms; each test has a namespace of its own on it."""
    if own_node.pid is None:
        await own_node.resume()
    yield own_node
    if own_node.pid is None:
        await own_node.resume()
