"""The example of a broker: the rights and policies in its manifests, tried on a real RabbitMQ.

What the operators would make of the manifests is given to a node of the tests' own as its definitions.
"""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aio_pika
import aiohttp
import pytest
from aio_pika.abc import AbstractChannel, AbstractExchange
from aiormq.exceptions import ChannelAccessRefused, DeliveryError

from simulators.broker import find_server
from simulators.broker_node import BrokerError, PrivateBroker, free_ports
from tests.deploy.manifests import K8S, Built, Manifest, build, overlay
from tests.system.harness import System, call_ended, crm_sync, environment, eventually
from tests.tools import skip_without
from worker.core.events import EventType
from worker.rabbitmq.topology import Topology, build_topology, declare
from worker.settings import BrokerCommandSettings

VHOST = NAMESPACE = "crm-sync"
DELAYS = "200ms,500ms,1s"  # as the harness sets them
FROM_4_3 = "crm-sync-work"
WORKER, PRODUCER, KEDA = "crm-sync", "crm-sync-producer", "crm-sync-keda"

pytestmark = [pytest.mark.broker, pytest.mark.timeout(180), pytest.mark.verify]


@dataclass(frozen=True)
class Broker:
    """A node with the virtual host, the users, their rights and the policies of k8s/rabbitmq."""

    node: PrivateBroker
    management: str

    def url(self, user: str) -> str:
        return f"amqp://{user}:pw@127.0.0.1:{self.node.port}/{VHOST}"

    @asynccontextmanager
    async def channel(self, user: str) -> AsyncIterator[AbstractChannel]:
        """Open a channel as a user; broken by the first thing that is refused."""
        async with (
            await aio_pika.connect(self.url(user)) as connection,
            connection.channel(on_return_raises=True) as channel,
        ):
            yield channel


def manifests() -> Built:
    return build(K8S / "rabbitmq")


async def start() -> Broker:
    """Start a node with the management, quick to count, and set up by the manifests."""
    server = find_server()
    if server is None:
        skip_without("a node of its own needs an installed rabbitmq-server")
    node = await PrivateBroker.start(server)
    (port,) = free_ports(1)
    (node.folder / "enabled_plugins").write_text("[rabbitmq_management].\n")
    wanted = definitions(manifests())
    if not await knows(node, "consumer-disconnected-timeout"):
        wanted["policies"] = [each for each in wanted["policies"] if each["name"] != FROM_4_3]
    (node.folder / "definitions.json").write_text(json.dumps(wanted))
    (node.folder / "conf.d" / "more.conf").write_text(
        f"management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {port}\ncollect_statistics_interval = 250\n"
        f"load_definitions = {node.folder}/definitions.json\n"
    )
    await node.restart()
    broker = Broker(node, f"http://127.0.0.1:{port}")
    async with broker.channel(WORKER) as channel:
        await channel.declare_exchange("crm-sync.events", "topic", durable=True)
    for each in manifests().all("TopicPermission"):  # RabbitMQ 4.3 refuses them until the exchange is there
        given = each["spec"]["permissions"]
        patterns = given["exchange"], given["write"], given["read"]
        await node.ctl("set_topic_permissions", "-p", VHOST, name_of_user(each), *patterns)
    return broker


async def knows(node: PrivateBroker, key: str) -> bool:
    """Return whether a policy with this key is accepted, as by RabbitMQ 4.3 and later."""
    try:
        await node.ctl("set_policy", "--apply-to", "queues", "tried", "^$", json.dumps({key: 10_000}))
    except BrokerError as error:
        if "are not recognised policy settings" not in str(error):
            raise
        return False
    await node.ctl("clear_policy", "tried")
    return True


def definitions(built: Built) -> dict[str, list[dict[str, Any]]]:
    """Return RabbitMQ's own definitions of what is in the manifests."""
    rights = [each["spec"] | {"user": name_of_user(each)} for each in built.all("Permission")]
    policies = [each["spec"] for each in built.all("Policy")]
    return {
        "vhosts": [{"name": each["spec"]["name"]} for each in built.all("Vhost")],
        "users": [
            {"name": each["metadata"]["name"], "password": "pw", "tags": each["spec"].get("tags", [])}
            for each in built.all("User")
        ],
        "permissions": [
            {"user": each["user"], "vhost": each["vhost"], **each["permissions"]} for each in rights
        ],
        "policies": [
            {name: each[name] for name in ("name", "vhost", "pattern", "definition")}
            | {"apply-to": each["applyTo"], "priority": each.get("priority", 0)}
            for each in policies
        ],
    }


def name_of_user(manifest: Manifest) -> str:
    """Return the user that a right is of, one that the manifests make."""
    name: str = manifest["spec"]["userReference"]["name"]
    assert name in {user["metadata"]["name"] for user in manifests().all("User")}
    return name


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    broker = asyncio.run(start())
    yield broker
    asyncio.run(broker.node.stop())


@pytest.fixture
async def system(broker: Broker, open_system: Callable[[str, str], System]) -> AsyncIterator[System]:
    """Yield a system whose worker has the worker's rights, and remove its queues afterwards."""
    system = open_system(broker.url(WORKER), NAMESPACE)
    yield system
    await system.end()
    async with broker.channel(WORKER) as channel:
        for queue in planned("queue").queues:
            await channel.queue_delete(queue.name)


def planned(sink: str) -> Topology:
    """Return what a worker of such a system declares."""
    settings = BrokerCommandSettings.model_validate({"sink": {"kind": sink}, "retry": {"delays": DELAYS}})
    return build_topology(settings)


@pytest.fixture
async def declared(system: System, broker: Broker) -> System:
    """Return a system with everything that a worker declares, with the worker's rights."""
    async with await aio_pika.connect(broker.url(WORKER)) as connection:
        await declare(connection, planned("webhook"))
    return system


class TestTheWorker:
    async def test_with_its_rights_it_declares_consumes_delivers_retries_and_dead_letters(
        self, system: System
    ) -> None:
        worker = await system.start()
        good, slow, bad = await system.call(), await system.call(), call_ended(call_id=["no", "id"])
        await system.crm.control(fail_ids={slow["event_id"]: [503]})
        await system.publish_all([good, slow, bad])
        found = await system.delivered(good["event_id"], slow["event_id"])
        assert len(found[slow["event_id"]]) == 2, "once refused, then from a retry queue"
        assert json.loads((await system.dead_letter()).body) == bad
        assert worker.settled("retry")

    async def test_with_its_rights_it_feeds_the_outbound_queue(self, system: System) -> None:
        await system.start(sink__kind="queue", sink__url=None)
        event = await system.call()
        await system.publish(event)
        assert (await system.take("enriched")).message_id == event["event_id"]

    async def test_it_sees_nothing_of_others_on_the_same_virtual_host(self, broker: Broker) -> None:
        async with broker.channel(WORKER) as channel:
            with pytest.raises(ChannelAccessRefused):
                await channel.declare_queue("crm-sync2.call-ended")
        async with broker.channel(WORKER) as channel:
            with pytest.raises(ChannelAccessRefused):
                await channel.declare_exchange("another.events")

    async def test_the_check_finds_its_rights_complete(self, declared: System) -> None:
        """What `crm-sync check` asks of the broker is what the manifests give."""
        process = await asyncio.create_subprocess_exec(
            *crm_sync(), "check", env=environment(declared.settings()), stdout=subprocess.PIPE
        )
        said = (await process.communicate())[0].decode()
        assert process.returncode == 0, said


class TestTheProducer:
    async def test_it_may_publish_both_kinds_of_event(self, declared: System, broker: Broker) -> None:
        async with broker.channel(PRODUCER) as channel:
            exchange = await channel.get_exchange("crm-sync.events")
            for key in ("call.ended", "agent.onboarded"):
                await exchange.publish(aio_pika.Message(b"{}"), key, timeout=10)
        assert await declared.depth("call-ended") == await declared.depth("agent-onboarded") == 1

    async def test_the_command_that_publishes_needs_no_more(self, declared: System, broker: Broker) -> None:
        given = environment({"CRM_SYNC_BROKER__URL": broker.url(PRODUCER)})
        command = [*crm_sync(), "publish", "call-ended", "--call-id", "V1201405090000012345"]
        process = await asyncio.create_subprocess_exec(*command, env=given, stdout=subprocess.PIPE)
        await process.communicate()
        assert process.returncode == 0
        assert await declared.depth("call-ended") == 1

    @pytest.mark.parametrize(
        ("exchange", "key"),
        [
            ("crm-sync.events", "call.started"),
            ("crm-sync.work", "call.ended"),
            ("crm-sync.dead-letters", ""),
            ("crm-sync.retry.1s", ""),
            ("", "crm-sync.call-ended"),
        ],
    )
    async def test_it_may_publish_nothing_else(
        self, declared: System, broker: Broker, exchange: str, key: str
    ) -> None:
        async with broker.channel(PRODUCER) as channel:
            target = (
                await channel.get_exchange(exchange, ensure=False) if exchange else channel.default_exchange
            )
            with pytest.raises(ChannelAccessRefused):
                await target.publish(aio_pika.Message(b"{}"), key, timeout=10)

    async def test_it_may_neither_read_nor_declare(self, declared: System, broker: Broker) -> None:
        async with broker.channel(PRODUCER) as channel:
            queue = await channel.get_queue("crm-sync.call-ended", ensure=False)
            with pytest.raises(ChannelAccessRefused):
                await queue.get()
        async with broker.channel(PRODUCER) as channel:
            with pytest.raises(ChannelAccessRefused):
                await channel.declare_queue("crm-sync.mine")
        async with broker.channel(PRODUCER) as channel:
            queue = await channel.get_queue("crm-sync.call-ended", ensure=False)
            with pytest.raises(ChannelAccessRefused):
                await queue.purge()


class TestKeda:
    async def ask(self, broker: Broker, method: str, path: str) -> tuple[int, Any]:
        login = {"Authorization": aiohttp.encode_basic_auth(KEDA, "pw")}
        async with (
            aiohttp.ClientSession(headers=login) as session,
            session.request(method, f"{broker.management}/api/{path}") as response,
        ):
            return response.status, await response.json(content_type=None)

    async def test_it_reads_the_length_of_each_queue_that_it_watches_what_is_in_work_too(
        self, declared: System, broker: Broker
    ) -> None:
        triggers = overlay("production").the("ScaledObject")["spec"]["triggers"]
        watched = [each["metadata"]["queueName"] for each in triggers]

        async def lengths() -> list[tuple[int, int]]:
            answers = [await self.ask(broker, "GET", f"queues/{VHOST}/{queue}") for queue in watched]
            assert [status for status, _ in answers] == [200] * len(watched)
            return [
                (found.get("messages", 0), found.get("messages_unacknowledged", 0)) for _, found in answers
            ]

        async def all_counted() -> bool:
            return await lengths() == [(3, 1)] * len(watched)

        async with broker.channel(WORKER) as channel:
            exchange = await channel.get_exchange("crm-sync.work")
            for kind in EventType:
                for _ in range(3):
                    await exchange.publish(aio_pika.Message(b"{}"), kind, timeout=10)
            for queue in watched:
                await (await channel.get_queue(queue)).get()  # and neither settled nor requeued
            await eventually(all_counted, 20)

    async def test_it_can_change_and_take_nothing(self, declared: System, broker: Broker) -> None:
        path = f"queues/{VHOST}/crm-sync.call-ended"
        assert (await self.ask(broker, "DELETE", path))[0] in {401, 403}
        assert (await self.ask(broker, "DELETE", f"{path}/contents"))[0] in {400, 401, 403}
        async with broker.channel(KEDA) as channel:
            queue = await channel.get_queue("crm-sync.call-ended", ensure=False)
            with pytest.raises(ChannelAccessRefused):
                await queue.get()
        assert await declared.depth("call-ended") == 0


class TestThePolicies:
    async def test_each_applies_to_its_queue(self, system: System, broker: Broker) -> None:
        """The one for the work queues is only for a broker that knows what is in it."""
        worker = await system.start(sink__kind="queue", sink__url=None)
        await worker.stop()
        listed = await broker.node.ctl("list_queues", "-p", VHOST, "--no-table-headers", "name", "policy")
        applied = dict(line.split("\t") for line in listed.splitlines())
        work = {"crm-sync.call-ended": FROM_4_3, "crm-sync.agent-onboarded": FROM_4_3}
        assert {queue: policy for queue, policy in applied.items() if policy} == {
            "crm-sync.dead-letters": "crm-sync-dead-letters",
            "crm-sync.enriched": "crm-sync-enriched",
        } | (work if await knows(broker.node, "consumer-disconnected-timeout") else {})

    async def test_what_is_full_refuses_what_comes_and_drops_nothing(
        self, declared: System, broker: Broker
    ) -> None:
        """The shipped policy, with a limit that a test can reach."""
        (policy,) = (each["spec"] for each in manifests().all("Policy") if "dead" in each["metadata"]["name"])
        small = policy["definition"] | {"max-length-bytes": 3000}
        where = ("-p", VHOST, "--apply-to", policy["applyTo"], "--priority", "1")
        await broker.node.ctl("set_policy", *where, "small", policy["pattern"], json.dumps(small))
        try:
            async with broker.channel(WORKER) as channel:
                exchange = await channel.get_exchange("crm-sync.dead-letters")
                letters = [aio_pika.Message(b"x" * 1000) for _ in range(50)]
                sent = [await self.is_taken(exchange, letter) for letter in letters]
            assert sent[:3] == [True] * 3
            assert sent[-3:] == [False] * 3
            assert await declared.depth("dead-letters") == sent.count(True)
        finally:
            await broker.node.ctl("clear_policy", "-p", VHOST, "small")

    @staticmethod
    async def is_taken(exchange: AbstractExchange, message: aio_pika.Message) -> bool:
        """Publish a message, and tell whether the broker confirms or refuses it."""
        try:
            await exchange.publish(message, "", timeout=10)
        except DeliveryError:
            return False
        return True
