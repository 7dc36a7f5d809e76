"""`crm-sync intake` is killed again and again under load while its broker comes and goes: nothing is lost."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from simulators.broker import find_server
from simulators.broker_node import PrivateBroker, free_ports
from tests.system.harness import Worker
from tests.system.intake import Producer, account, declare, emptied, spawn
from tests.tools import skip_without

pytestmark = [pytest.mark.system, pytest.mark.broker, pytest.mark.verify, pytest.mark.timeout(600)]

KILLS = 20


@pytest.fixture
async def node() -> AsyncIterator[PrivateBroker]:
    server = find_server()
    if server is None:
        skip_without("a node of its own needs an installed rabbitmq-server")
    async with await PrivateBroker.start(server) as started:
        yield started


async def test_killed_twenty_times_under_load_with_the_broker_away_nothing_is_lost(
    node: PrivateBroker, tmp_path: Path, workers: list[Worker]
) -> None:
    await declare(node.url)
    # RabbitMQ 3.10 writes the name of a quorum queue's member down up to a second late (`names.dets`). Killed
    # before, it makes a new member that waits for an election for ever, and confirms nothing.
    await node.restart()
    (port,) = free_ports(1)
    producer = Producer(port)
    workers.append(spawn(tmp_path, node.url, port))
    async with producer.running():
        for kill in range(KILLS):
            await producer.more()
            if kill % 5 == 1:
                await node.kill()
            workers[-1].kill()
            workers.append(spawn(tmp_path, node.url, port))
            if kill % 5 == 3:
                await node.resume()
        if node.pid is None:
            await node.resume()
        await producer.more()
    await emptied(workers[-1])
    assert await workers[-1].stop() == 0
    await account(node.url, producer)
