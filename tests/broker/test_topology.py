"""What stands on the broker is declared once, and every difference from the settings is named."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import aio_pika
import pytest
from aio_pika.abc import AbstractConnection

from worker.core.events import EventType
from worker.rabbitmq.topology import (
    Exchange,
    Queue,
    QueueState,
    Topology,
    build_topology,
    declare,
    describe,
    differences,
    exists,
    inspect,
)
from worker.settings import BrokerCommandSettings, load

pytestmark = pytest.mark.broker

QUORUM = {"x-queue-type": "quorum"}


@pytest.fixture
def topology(broker_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Topology:
    monkeypatch.setenv("CRM_SYNC_BROKER__URL", broker_url)
    monkeypatch.setenv("CRM_SYNC_BROKER__NAMESPACE", namespace)
    monkeypatch.setenv("CRM_SYNC_RETRY__DELAYS", "100ms,1s")
    monkeypatch.setenv("CRM_SYNC_SINK__KIND", "queue")
    return build_topology(load(BrokerCommandSettings))


@pytest.fixture
async def connection(broker_url: str) -> AsyncIterator[AbstractConnection]:
    async with await aio_pika.connect(broker_url) as opened:
        yield opened


async def ignore(_message: object) -> None:
    """Ignore the message."""


async def make(connection: AbstractConnection, name: str, **how: Any) -> None:  # noqa: ANN401
    async with connection.channel() as channel:
        await channel.declare_queue(name, **({"durable": True} | how))


async def crm_sync(*arguments: str, **environment: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "worker", "topology", *arguments),
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    stdout, stderr = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode or 0, stdout.decode(), stderr.decode()


async def test_declaring_twice_changes_nothing(connection: AbstractConnection, topology: Topology) -> None:
    everything = len(topology.exchanges) + len(topology.queues)
    assert len(await differences(connection, topology)) == everything
    assert await differences(connection, topology, missing=False) == []
    await declare(connection, topology)
    await declare(connection, topology)
    assert await differences(connection, topology) == []
    assert [standing.exists for standing in await inspect(connection, topology)] == [True] * everything


async def test_a_command_uses_the_first_node_that_works(topology: Topology, broker_url: str) -> None:
    """One is not there."""
    url = f"amqp://guest:hush-hush@127.0.0.1:1/,{broker_url}"
    code, _, said = await crm_sync(CRM_SYNC_BROKER__URL=url)
    assert (code, said) == (0, "")
    gone = ",".join(f"amqp://guest:hush-hush@127.0.0.{n}:1/" for n in (1, 2))
    code, _, said = await crm_sync(CRM_SYNC_BROKER__URL=gone)
    assert code == 1
    assert "the broker at 127.0.0.1:1, 127.0.0.2:1: none of its nodes can be used; 127.0.0.1:1: the" in said
    assert "hush-hush" not in said


async def test_what_is_bound_arrives(connection: AbstractConnection, topology: Topology) -> None:
    await declare(connection, topology)
    async with connection.channel(on_return_raises=True) as channel:
        events = await channel.get_exchange(topology.exchanges[0].name)
        for kind in EventType:
            await events.publish(aio_pika.Message(b"{}"), kind, timeout=5)
        (tier, *_) = topology.tiers.values()
        await (await channel.get_exchange(tier)).publish(aio_pika.Message(b"{}"), "call.ended", timeout=5)
    work = topology.work_queues[EventType.CALL_ENDED]
    async with asyncio.timeout(10):
        while await messages(connection, topology, work) != 2:  # noqa: ASYNC110 - the broker notifies nobody
            await asyncio.sleep(0.05)


async def messages(connection: AbstractConnection, topology: Topology, queue: str) -> int:
    return next(each.messages for each in await inspect(connection, topology) if each.item.name == queue)


@pytest.mark.parametrize(
    ("there", "wanted", "named"),
    [
        (
            {"arguments": QUORUM | {"x-dead-letter-exchange": "other", "x-delivery-limit": 5}},
            {"x-dead-letter-exchange": "dead", "x-delivery-limit": 20, "x-overflow": "reject-publish"},
            {
                "x-dead-letter-exchange is other, wanted dead",
                "x-delivery-limit is 5, wanted 20",
                "x-overflow is not set, wanted reject-publish",
            },
        ),
        (
            {
                "arguments": QUORUM
                | {"x-message-ttl": 3000, "x-single-active-consumer": True, "x-expires": 60_000}
            },
            {"x-message-ttl": 5000},
            {
                "x-message-ttl is 3000, wanted 5000",
                "x-single-active-consumer is true, wanted not set",
                "x-expires is 60000, wanted not set",
            },
        ),
        (
            {"durable": False, "auto_delete": True, "arguments": {"x-message-ttl": 7}},
            {},
            {
                "durable is false, wanted true",
                "auto_delete is true, wanted false",
                "x-message-ttl is 7, wanted not set",
                "x-queue-type is not set, wanted quorum",
            },
        ),
        (
            {"arguments": {"x-queue-type": "stream"}},
            {"x-delivery-limit": 20, "x-overflow": "reject-publish"},
            {"x-queue-type is stream, wanted quorum"},
        ),
        (
            {"arguments": QUORUM | {"x-dead-letter-exchange": "dead", "x-dead-letter-routing-key": "17"}},
            {},
            {
                "x-dead-letter-exchange is dead, wanted not set",
                "x-dead-letter-routing-key is 17, wanted not set",
            },
        ),
    ],
)
async def test_each_difference_of_a_queue_is_named(
    connection: AbstractConnection,
    namespace: str,
    there: dict[str, Any],
    wanted: dict[str, Any],
    named: set[str],
) -> None:
    name = f"{namespace}.call-ended"
    await make(connection, name, **there)
    topology = Topology({}, "", "", "", "", {}, (), (Queue(name, wanted),), ())
    found = await differences(connection, topology)
    classic = (
        "x-queue-type is not set, wanted quorum"  # some versions say what a classic queue is, some don't
    )
    assert {line.replace("is classic,", "is not set,") for line in found} == {
        f"queue {name}: {each}" for each in named
    }, classic
    assert len(found) == len(named)


async def test_an_exclusive_queue_is_named(
    connection: AbstractConnection, broker_url: str, namespace: str
) -> None:
    name = f"{namespace}.call-ended"
    topology = Topology({}, "", "", "", "", {}, (), (Queue(name),), ())
    async with await aio_pika.connect(broker_url) as other:
        await make(other, name, durable=False, exclusive=True)
        (found,) = await differences(connection, topology)
        assert found == f"queue {name}: is exclusive to another connection, wanted one that all can use"


async def test_each_difference_of_an_exchange_is_named(
    connection: AbstractConnection, namespace: str
) -> None:
    name = f"{namespace}.work"
    async with connection.channel() as channel:
        await channel.declare_exchange(
            name, "fanout", internal=True, arguments={"alternate-exchange": "elsewhere"}
        )
    ours = Topology({}, "", "", "", "", {}, (Exchange(name, "direct"),), (), ())
    assert set(await differences(connection, ours)) == {
        f"exchange {name}: type is fanout, wanted direct",
        f"exchange {name}: durable is false, wanted true",
        f"exchange {name}: internal is true, wanted false",
        f"exchange {name}: alternate-exchange is elsewhere, wanted not set",
    }
    theirs = Topology({}, "", "", "", "", {}, (Exchange(name, "direct", ours=False),), (), ())
    assert await differences(connection, theirs) == []


async def test_a_producers_exchange_is_taken_as_it_is(
    connection: AbstractConnection, topology: Topology, namespace: str
) -> None:
    async with connection.channel() as channel:
        await channel.declare_exchange(f"{namespace}.events", "direct", durable=True, auto_delete=True)
    await declare(connection, topology)
    assert await differences(connection, topology) == []


async def test_a_survey_counts(connection: AbstractConnection, topology: Topology, namespace: str) -> None:
    await declare(connection, topology)
    work = topology.work_queues[EventType.CALL_ENDED]
    async with connection.channel() as channel:
        queue = await channel.get_queue(work)
        await queue.consume(ignore)
        standing = {each.item.name: each for each in await inspect(connection, topology)}
        assert standing[work] == QueueState(queue_of(topology, work), exists=True, messages=0, consumers=1)
    absent = Queue(f"{namespace}.nowhere")
    assert not await exists(connection, absent)
    assert describe(absent) == f"queue {namespace}.nowhere"


def queue_of(topology: Topology, name: str) -> Queue:
    return next(queue for queue in topology.queues if queue.name == name)


# --- the command ----------------------------------------------------------------------------------


async def test_the_command_declares_and_shows(topology: Topology, namespace: str) -> None:
    status, stdout, stderr = await crm_sync("--check")
    assert (status, stdout) == (1, "")
    assert f"  queue {namespace}.dead-letters: missing\n" in stderr
    status, stdout, stderr = await crm_sync("--show")
    assert (status, stderr) == (0, "")
    assert f"{namespace}.call-ended\t-\t-\tmissing\n" in stdout
    status, stdout, stderr = await crm_sync()
    assert (status, stderr) == (0, "")
    assert f"{namespace}.work\tdirect\tcreated\n" in stdout
    assert f"{namespace}.call-ended\t0\t0\tcreated\n" in stdout
    assert f"{namespace}.call-ended\t{namespace}.work\tcall.ended\n" in stdout
    assert f"{namespace}.dead-letters\tx-queue-type=quorum x-delivery-limit=2147483647\n" in stdout
    assert stdout.endswith("17 created, 0 exist already, bindings declared\n")
    status, stdout, _ = await crm_sync()
    assert (status, stdout.splitlines()[-1]) == (0, "0 created, 17 exist already, bindings declared")
    assert await crm_sync("--check") == (
        0,
        "all 17 exchanges and queues are as the settings want them\n",
        "",
    )


async def test_the_command_declares_nothing_where_something_differs(
    connection: AbstractConnection, topology: Topology, namespace: str
) -> None:
    name = f"{namespace}.retry.1s"
    await make(connection, name, arguments=QUORUM | {"x-message-ttl": 9})
    status, _, stderr = await crm_sync()
    assert status == 1
    assert "nothing was declared, as these differ from the settings:\n" in stderr
    assert f"  queue {name}: x-message-ttl is 9, wanted 1000\n" in stderr
    assert f"  queue {name}: x-overflow is not set, wanted reject-publish\n" in stderr
    status, stdout, stderr = await crm_sync("--check")
    assert (status, stdout) == (1, "")
    assert f"  queue {name}: x-message-ttl is 9, wanted 1000\n" in stderr
    assert f"  queue {namespace}.call-ended: missing\n" in stderr
