"""Whether the broker can be reached, lets us in, takes messages, and stands as the settings want it."""

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import suppress

import aiormq
from aio_pika.abc import AbstractConnection

from worker.check.finding import Finding
from worker.check.permissions import check_permissions
from worker.core.errors import PublishError
from worker.rabbitmq.connection import BROKER_ERRORS, address, connect, explain
from worker.rabbitmq.publisher import BrokerPublisher
from worker.rabbitmq.topology import (
    DELIVERY_LIMIT,
    Exchange,
    Topology,
    build_topology,
    differences,
    exists,
    inspect,
)
from worker.settings import Settings

OLDEST = (3, 10)
"""The first RabbitMQ whose quorum queues have a TTL and dead-letter at least once."""
UNCOUNTED_FROM = (4, 3)
"""From this one on, giving a message back (`basic.nack`) does not count towards the delivery limit.

The end of a channel or a connection does in every version, also a clean one.
"""

_BLOCKED_AFTER = 5.0
_NAME = "crm-sync check"


async def check_broker(settings: Settings) -> AsyncGenerator[Finding]:
    """Connect and log in; try the permissions; compare what stands there with the settings; publish."""
    topology = build_topology(settings)
    try:
        async with connect(settings.broker.url, _NAME) as connection:
            yield about_version(*_server(connection), address(settings.broker.url))
            yield await check_permissions(connection, settings)
            yield await _check_topology(connection, topology)
        async with connect(settings.broker.url, _NAME) as connection:  # an alarm makes it deaf
            yield await _check_alarms(connection, topology)
    except BROKER_ERRORS as error:
        where = address(settings.broker.url)
        yield Finding.of("broker", f"{where}: {explain(error)}", problems=_advice(error))


def _server(connection: AbstractConnection) -> tuple[str, str]:
    underlay = getattr(connection.transport, "connection", None)
    told = getattr(underlay, "server_properties", None) or {}
    return str(told.get("product", "a broker")), str(told.get("version", "of unknown version"))


def about_version(product: str, version: str, where: str) -> Finding:
    """Say which broker it is, and what its version implies for the counting of redeliveries."""
    text = f"{product} {version} at {where}, logged in"
    found = re.match(r"(\d+)\.(\d+)", version)
    if product != "RabbitMQ" or found is None:
        return Finding.of("broker", text, warnings=["crm-sync is made for RabbitMQ 3.10 or later"])
    number = int(found[1]), int(found[2])
    if number < OLDEST:
        return Finding.of("broker", text, problems=["this version is too old: upgrade to 3.10 or later"])
    if number < UNCOUNTED_FROM:
        counting = f"giving an event back counts towards its delivery limit of {DELIVERY_LIMIT}, until 4.3"
    else:
        counting = (
            f"each connection or channel that ends with an event in hand counts towards its delivery limit of"
            f" {DELIVERY_LIMIT}, giving it back does not"
        )
    return Finding.of("broker", f"{text}; {counting}")


def _advice(error: BaseException) -> list[str]:
    if isinstance(error, aiormq.exceptions.ProbableAuthenticationError):
        return []  # the explanation says it
    return ["check broker.url, that the broker runs, and that this host may reach it"]


async def _check_topology(connection: AbstractConnection, topology: Topology) -> Finding:
    """Name each difference from the settings; what is missing is none, as run declares it."""
    try:
        standing = await inspect(connection, topology)
        differing = await differences(connection, topology, missing=False)
    except aiormq.exceptions.ChannelAccessRefused as error:
        warning = "give the user its permissions, then check again"
        return Finding.of("topology", f"can't be compared with the settings: {error}", warnings=[warning])
    if differing:
        advice = [*differing, "crm-sync topology --help says how to mend that"]
        return Finding.of("topology", "differs from the settings", problems=advice)
    missing = sum(not each.exists for each in standing)
    if missing:
        text = f"{missing} of {len(standing)} exchanges and queues missing, which run declares"
        return Finding.of("topology", text)
    return Finding.of("topology", f"all {len(standing)} exchanges and queues stand as the settings want them")


async def _check_alarms(connection: AbstractConnection, topology: Topology) -> Finding:
    """Publish what no queue gets: in an alarm the broker then neither answers nor listens any more."""
    publisher = BrokerPublisher()
    try:
        async with asyncio.timeout(_BLOCKED_AFTER):
            with suppress(PublishError):  # the exchange is missing, or refused: the broker answers
                _ = await publisher.attach(connection)
                await publisher.probe(topology.work_exchange)
            await (await connection.channel()).close()
    except TimeoutError:
        advice = "free memory or disk space on the broker; rabbitmq-diagnostics alarms says which it lacks"
        return Finding.of("alarms", "the broker takes no messages, as an alarm blocks it", problems=[advice])
    return Finding.of("alarms", "none; the broker takes messages")


async def check_queue(settings: Settings) -> AsyncGenerator[Finding]:
    """Look whether the outbound exchange stands, or would be declared."""
    name = build_topology(settings).outbound_exchange
    try:
        async with connect(settings.broker.url, _NAME) as connection:
            stands = await exists(connection, Exchange(name, "topic"))
    except BROKER_ERRORS as error:
        yield Finding.of("sink", f"exchange {name}: {explain(error)}", problems=_advice(error))
        return
    yield Finding.of("sink", f"exchange {name} {'stands' if stands else 'is missing; run declares it'}")
