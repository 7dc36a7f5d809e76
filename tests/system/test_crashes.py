"""A worker crashes, or its broker comes and goes: nothing is lost."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.adapters.raw import closed_port
from tests.system.chaos.node import Node, NodeUnavailable
from tests.system.harness import Program, System, call_ended, eventually
from tests.tools import skip_without

pytestmark = [pytest.mark.system, pytest.mark.verify, pytest.mark.timeout(400)]


class TestCrashes:
    async def test_killed_under_load_nothing_is_lost(self, system: System) -> None:
        events = await system.calls(200)
        await system.dialer.control(delay=0.02)
        worker = await system.start()
        await system.publish_all(events)
        for _ in range(3):
            before = (await system.crm.report())["accepted"]
            await eventually(lambda before=before: more_accepted(system, before + 20))
            worker.kill()
            worker = await system.start()
        found = await system.delivered(within=20)
        assert len(found) == 200
        again = sum(len(deliveries) - 1 for deliveries in found.values())
        print(f"{again} of 200 delivered again after three kills")  # noqa: T201 - a measurement
        assert again <= 3 * 64
        await system.nothing_dead()

    async def test_a_message_that_kills_the_worker_ends_in_the_dead_letters(self, system: System) -> None:
        """The delivery limit of the queue buries it; what stands beside it arrives."""
        poison, innocent = call_ended(), await system.call()
        await system.dialer.control(plant={poison["call_id"]: {"fault": "hang"}})

        async def asked() -> int:
            requests = (await system.dialer.report())["requests"]
            return sum(each["subject"] == poison["call_id"] for each in requests)

        async def asked_again_or_buried(times: int) -> bool:
            return await asked() > times or await system.depth("dead-letters") > 0

        worker = await system.start()
        await worker.stop()  # the queues stand
        await system.publish(poison)
        deaths = 0
        while deaths < 40:
            before = await asked()
            worker = system.spawn(vicidial__timeout="30s", drain="1s")
            await eventually(lambda before=before: asked_again_or_buried(before), 20)
            if await system.depth("dead-letters"):
                break
            worker.kill()
            deaths += 1
        print(f"buried after {deaths} deaths")  # noqa: T201 - a measurement
        assert 15 <= deaths <= 25
        assert json.loads((await system.dead_letter()).body) == poison
        await system.publish(innocent)
        await system.delivered(innocent["event_id"])

    async def test_two_workers_share_the_work(self, system: System) -> None:
        await system.dialer.control(delay=0.02)
        workers = [await system.start(max_in_flight="4") for _ in range(2)]
        await system.publish_all(await system.calls(100))
        found = await system.delivered(within=20)
        assert {len(deliveries) for deliveries in found.values()} == {1}
        assert all(len(worker.settled("delivered")) > 20 for worker in workers)

    async def test_one_of_two_dies(self, system: System) -> None:
        await system.dialer.control(delay=0.02)
        workers = [await system.start(max_in_flight="8") for _ in range(2)]
        await system.publish_all(await system.calls(100))
        await eventually(lambda: len(workers[0].settled()) > 5)
        workers[0].kill()
        await system.delivered(within=20)


async def more_accepted(system: System, count: int) -> bool:
    accepted = int((await system.crm.report())["accepted"])
    return accepted >= min(count, len(system.published))


@pytest.fixture
async def lonely(
    tmp_path: Path, dialer_program: Program, crm_program: Program, system: System
) -> AsyncIterator[tuple[System, Node]]:
    """Yield a system on a node that may be mistreated."""
    try:
        node = await asyncio.to_thread(Node)
    except NodeUnavailable as error:
        skip_without(str(error))
    opened = System(node.url, "lonely", tmp_path, dialer_program, crm_program)
    try:
        yield opened, node
        await opened.end()
    finally:
        await asyncio.to_thread(node.end)


class TestTheBroker:
    async def test_it_restarts_under_load(self, lonely: tuple[System, Node]) -> None:
        system, node = lonely
        await system.dialer.control(delay=0.02)
        worker = await system.start()
        events = await system.calls(300)
        await system.publish_all(events)
        await eventually(lambda: len(worker.settled()) > 10)
        await node.kill()
        await eventually(lambda: worker.events("broker_connection_lost"))
        assert (await worker.get("/livez"))[0] == 200
        await node.start()
        took = await worker.ready()
        print(f"ready {took:.2f} s after the broker")  # noqa: T201 - a measurement
        found = await system.delivered(within=20)
        assert len(found) == 300
        assert await worker.stop() == 0
        assert sum(len(deliveries) - 1 for deliveries in found.values()) <= 64

    async def test_it_is_not_there_yet(self, system: System) -> None:
        """A broker behind a port that opens only later."""
        port = closed_port()
        user, _, host = system.broker_url.partition("@")
        worker = system.spawn(broker__url=f"{user}@127.0.0.1:{port}/")
        await eventually(lambda: worker.events("broker_unreachable"))
        tries = 0

        def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal tries
            tries += 1
            writer.close()

        async with await asyncio.start_server(hang_up, "127.0.0.1", port):
            await eventually(lambda: tries >= 2)
        assert (await worker.get("/readyz"))[0] == 503
        target = host.rstrip("/").split(":")

        async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            other_reader, other_writer = await asyncio.open_connection(target[0], int(target[1]))
            await asyncio.gather(pump(reader, other_writer), pump(other_reader, writer))

        server = await asyncio.start_server(forward, "127.0.0.1", port)
        took = await worker.ready()
        print(f"ready {took:.2f} s after the broker")  # noqa: T201 - a measurement
        await system.publish(await system.call())
        await system.delivered()
        assert await worker.stop() == 0
        server.close()

    @pytest.mark.parametrize("queue", ["call-ended", "agent-onboarded"])
    async def test_its_queue_is_deleted(self, system: System, queue: str) -> None:
        worker = await system.start()
        async with await system.connect() as connection:
            channel = await connection.channel()
            await channel.queue_delete(f"{system.namespace}.{queue}")
        await eventually(lambda: len(worker.events("consuming")) == 2)
        await worker.ready()
        await system.publish(await system.call())
        await system.publish({"event_id": "a-1", "agent_user": "1000"}, "agent.onboarded")
        await system.delivered()

    async def test_another_topology_stands_there(self, system: System) -> None:
        worker = await system.start(retry__delays="1s")
        assert await worker.stop() == 0
        async with await system.connect() as connection:
            channel = await connection.channel()
            await channel.queue_delete(f"{system.namespace}.call-ended")
            await channel.declare_queue(f"{system.namespace}.call-ended", durable=True)
        worker = system.spawn()
        assert await worker.exit() == 1
        strays = "".join(line.get("stray", "") for line in worker.lines())
        assert f"queue {system.namespace}.call-ended" in strays
        assert "x-queue-type" in strays
        assert "Traceback" not in worker.text
        system.may_complain = True


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(65536):
        writer.write(chunk)
    writer.close()
