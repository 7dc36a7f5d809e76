"""Checks that the broker can be reached, accepts the login, has the right topology, and accepts messages.

It declares, publishes and consumes nothing.
"""

import asyncio
import re
import secrets
import shlex
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Literal
from urllib.parse import unquote, urlsplit

import aiormq
from aio_pika.abc import AbstractChannel, AbstractConnection
from pydantic import SecretStr

from worker.check.finding import Finding
from worker.core.errors import PublishError
from worker.rabbitmq.connection import BROKER_ERRORS, Nodes, address, addresses, connect, explain, node
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
"""From this version on a requeued message (`basic.nack`) does not count towards the delivery limit.

The end of a channel or a connection counts in every version, also a clean one.
"""

_BLOCKED_AFTER = 5.0
_NAME = "crm-sync check"


async def check_broker(settings: Settings) -> AsyncGenerator[Finding]:
    """Connect and log in, try the permissions, compare the topology with the settings, and publish."""
    topology = build_topology(settings)
    urls = settings.broker.url
    working, unusable = await _try_each(urls) if len(urls) > 1 else (urls, [])
    nodes = Nodes(working or urls)
    try:
        async with connect(nodes, _NAME) as connection:
            yield about_version(*_server(connection), node(connection)).with_warnings(unusable)
            yield await check_permissions(connection, settings)
            yield await _check_topology(connection, topology)
        async with connect(nodes, _NAME) as connection:  # an alarm blocks a connection that has published
            yield await _check_alarms(connection, topology)
    except BROKER_ERRORS as error:
        yield Finding.of("broker", f"{addresses(urls)}: {explain(error)}", problems=_advice(error))


async def _try_each(urls: Sequence[SecretStr]) -> tuple[list[SecretStr], list[str]]:
    """Connect to each address, all at the same time; return those that work, and a line for each other."""

    async def failure(url: SecretStr) -> str | None:
        try:
            async with connect(Nodes([url]), _NAME):
                return None
        except BROKER_ERRORS as error:
            return f"{address(url)}: {explain(error)}"

    failures = await asyncio.gather(*map(failure, urls))
    working = [url for url, found in zip(urls, failures, strict=True) if found is None]
    return working, [found for found in failures if found is not None]


def _server(connection: AbstractConnection) -> tuple[str, str]:
    underlay = getattr(connection.transport, "connection", None)
    properties = getattr(underlay, "server_properties", None) or {}
    return str(properties.get("product", "a broker")), str(properties.get("version", "of unknown version"))


def about_version(product: str, version: str, where: str) -> Finding:
    """Return which broker it is, and how its version counts redeliveries."""
    text = f"{product} {version} at {where}, logged in"
    found = re.match(r"(\d+)\.(\d+)", version)
    if product != "RabbitMQ" or found is None:
        return Finding.of("broker", text, warnings=["crm-sync is made for RabbitMQ 3.10 or later"])
    number = int(found[1]), int(found[2])
    if number < OLDEST:
        return Finding.of("broker", text, problems=["this version is too old: upgrade to 3.10 or later"])
    if number < UNCOUNTED_FROM:
        counting = f"requeueing an event counts towards its delivery limit of {DELIVERY_LIMIT} before 4.3"
    else:
        counting = (
            f"each connection or channel that ends with an event in hand counts towards its delivery limit of"
            f" {DELIVERY_LIMIT}, requeueing it does not"
        )
    return Finding.of("broker", f"{text}; {counting}")


def _advice(error: BaseException) -> list[str]:
    if isinstance(error, aiormq.exceptions.ProbableAuthenticationError):
        return ["on the broker, rabbitmqctl authenticate_user and list_permissions show what it accepts"]
    return ["check broker.url, that the broker runs, and that this host may reach it"]


async def _check_topology(connection: AbstractConnection, topology: Topology) -> Finding:
    """List the differences from the settings. What is missing is no difference, as run declares it."""
    try:
        standing = await inspect(connection, topology)
        differing = await differences(connection, topology, missing=False)
    except aiormq.exceptions.ChannelAccessRefused as error:
        warning = "give the user its permissions, then check again"
        return Finding.of("topology", f"can't be compared with the settings: {error}", warnings=[warning])
    if differing:
        advice = [*differing, "crm-sync topology --help says how to fix that"]
        return Finding.of("topology", "differs from the settings", problems=advice)
    missing = sum(not each.exists for each in standing)
    if missing:
        text = f"{missing} of {len(standing)} exchanges and queues missing, which run declares"
        return Finding.of("topology", text)
    return Finding.of("topology", f"all {len(standing)} exchanges and queues are as the settings want them")


async def _check_alarms(connection: AbstractConnection, topology: Topology) -> Finding:
    """Publish a message that reaches no queue: during an alarm the broker does not answer it."""
    publisher = BrokerPublisher()
    try:
        async with asyncio.timeout(_BLOCKED_AFTER):
            with suppress(PublishError):  # the exchange is missing, or refused: the broker answers
                _ = await publisher.attach(connection)
                await publisher.probe(topology.work_exchange)
            await (await connection.channel()).close()
    except TimeoutError:
        advice = "free memory or disk space on the broker; rabbitmq-diagnostics alarms says which it lacks"
        return Finding.of("alarms", "the broker accepts no messages, because of an alarm", problems=[advice])
    return Finding.of("alarms", "none; the broker accepts messages")


async def check_queue(settings: Settings) -> AsyncGenerator[Finding]:
    """Check whether the outbound exchange exists, or would be declared."""
    name = build_topology(settings).outbound_exchange
    try:
        async with connect(Nodes(settings.broker.url), _NAME) as connection:
            found = await exists(connection, Exchange(name, "topic"))
    except BROKER_ERRORS as error:
        yield Finding.of("sink", f"exchange {name}: {explain(error)}", problems=_advice(error))
        return
    yield Finding.of("sink", f"exchange {name} {'exists' if found else 'is missing; run declares it'}")


# --- permissions

_WITHIN = 10


@dataclass(frozen=True, slots=True)
class _Try:
    """One permission, what it is needed for, and an operation that is refused without it.

    The refusal has to name `name`, as some operations need two permissions.
    """

    permission: Literal["configure", "write", "read"]
    what: str
    name: str
    operation: Callable[[AbstractChannel], Awaitable[None]]


async def check_permissions(connection: AbstractConnection, settings: Settings) -> Finding:
    """Try to configure, write and read.

    RabbitMQ checks permissions before it looks whether a thing exists. So each is tried on a name that
    nothing has: the answer is a refusal, or that there is no such thing. Which operation needs which
    permission: https://www.rabbitmq.com/docs/access-control#authorisation
    """
    user, vhost = _login(settings.broker.url[0])
    namespace = settings.broker.namespace
    others = _outside_namespace(settings)
    lacking = [
        f"{each.permission} {each.what}"
        for each in _tries(namespace, others)
        if await _is_refused(connection, each)
    ]
    if not lacking:
        names = ", ".join([f"{namespace}.*", *others])
        return Finding.of("permissions", f"user {user} may configure, write and read {names}")
    pattern = _pattern(namespace, list(others))
    command = shlex.join(["rabbitmqctl", "set_permissions", "-p", vhost, user, pattern, pattern, pattern])
    text = f"user {user} may not {', nor '.join(lacking)}"
    return Finding.of("permissions", text, problems=[f"ask the broker's administrator to run: {command}"])


def _outside_namespace(settings: Settings) -> dict[str, Literal["read", "write"]]:
    """Return the exchanges outside the namespace, which others may own, and the permission needed on each."""
    found: dict[str, Literal["read", "write"]] = {settings.broker.events_exchange: "read"}
    if settings.sink.kind == "queue":
        found[build_topology(settings).outbound_exchange] = "write"
    return {
        name: need for name, need in found.items() if not name.startswith(f"{settings.broker.namespace}.")
    }


def _tries(namespace: str, others: dict[str, Literal["read", "write"]]) -> list[_Try]:
    ours, nothing = f"{namespace}.*", f"{namespace}.check.{secrets.token_hex(4)}"
    tries = [
        _Try("configure", ours, nothing, partial(_delete, nothing)),
        _Try("write", ours, nothing, partial(_bind, nothing, "amq.topic")),
        _Try("read", ours, nothing, partial(_get, nothing)),
    ]
    for name, need in others.items():
        operation = (
            partial(_bind, nothing, name) if need == "read" else partial(_bind_exchange, name, nothing)
        )
        tries.append(_Try(need, name, name, operation))
    return tries


async def _is_refused(connection: AbstractConnection, tried: _Try) -> bool:
    try:
        with suppress(aiormq.exceptions.ChannelNotFoundEntity):
            async with connection.channel() as channel:
                await tried.operation(channel)
    except aiormq.exceptions.ChannelAccessRefused as error:
        return f"'{tried.name}'" in str(error)
    return False


async def _delete(queue: str, channel: AbstractChannel) -> None:
    await channel.queue_delete(queue, timeout=_WITHIN)


async def _get(queue: str, channel: AbstractChannel) -> None:
    await (await channel.get_queue(queue, ensure=False)).get(fail=False, timeout=_WITHIN)


async def _bind(queue: str, exchange: str, channel: AbstractChannel) -> None:
    """Bind a queue that does not exist, which needs write on it, then read on the exchange."""
    await (await channel.get_queue(queue, ensure=False)).bind(exchange, queue, timeout=_WITHIN)


async def _bind_exchange(exchange: str, source: str, channel: AbstractChannel) -> None:
    """Bind an exchange to a source that does not exist, which needs write on the exchange."""
    await (await channel.get_exchange(exchange, ensure=False)).bind(source, source, timeout=_WITHIN)


def _login(url: SecretStr) -> tuple[str, str]:
    """Return the user and the virtual host of an address."""
    parts = urlsplit(url.get_secret_value())
    return unquote(parts.username or "guest"), unquote(parts.path[1:]) or "/"


def _pattern(namespace: str, others: list[str]) -> str:
    """Return the pattern of everything in the namespace and of the names beside it."""
    ours, *names = (re.sub(r"[^\w-]", r"\\\g<0>", name) for name in (namespace, *others))
    ours += r"\..*"
    return f"^({'|'.join([ours, *names])})$" if names else f"^{ours}"
