"""What the broker lets our user do, found out without declaring, publishing or taking anything.

RabbitMQ looks at the permissions before it looks whether a thing exists, so
each is tried on names that nothing has: the answer is a refusal, or that there
is no such thing. Which operation takes which permission:
https://www.rabbitmq.com/docs/access-control#authorisation
"""

import re
import secrets
import shlex
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Literal
from urllib.parse import unquote, urlsplit

import aiormq
from aio_pika.abc import AbstractChannel, AbstractConnection
from pydantic import SecretStr

from worker.check.finding import Finding
from worker.rabbitmq.topology import build_topology
from worker.settings import Settings

_WITHIN = 10


@dataclass(frozen=True, slots=True)
class _Try:
    """One permission, what it is wanted for, and what shows whether it is there.

    The refusal has to name `name`: some operations take two permissions.
    """

    permission: Literal["configure", "write", "read"]
    what: str
    name: str
    operation: Callable[[AbstractChannel], Awaitable[None]]


async def check_permissions(connection: AbstractConnection, settings: Settings) -> Finding:
    """Try to configure, write and read; say which of it is refused, and the command that would mend it."""
    user, vhost = _login(settings.broker.url)
    namespace = settings.broker.namespace
    foreign = _foreign(settings)
    lacking = [
        f"{each.permission} {each.what}"
        for each in _tries(namespace, foreign)
        if await _is_refused(connection, each)
    ]
    if not lacking:
        names = ", ".join([f"{namespace}.*", *foreign])
        return Finding.of("permissions", f"user {user} may configure, write and read {names}")
    pattern = _pattern(namespace, list(foreign))
    mend = shlex.join(["rabbitmqctl", "set_permissions", "-p", vhost, user, pattern, pattern, pattern])
    text = f"user {user} may not {', nor '.join(lacking)}"
    return Finding.of("permissions", text, problems=[f"have the broker's administrator run: {mend}"])


def _foreign(settings: Settings) -> dict[str, Literal["read", "write"]]:
    """Name the exchanges outside the namespace, which others may own, each with what a worker needs there."""
    found: dict[str, Literal["read", "write"]] = {settings.broker.events_exchange: "read"}
    if settings.sink.kind == "queue":
        found[build_topology(settings).outbound_exchange] = "write"
    return {
        name: need for name, need in found.items() if not name.startswith(f"{settings.broker.namespace}.")
    }


def _tries(namespace: str, foreign: dict[str, Literal["read", "write"]]) -> list[_Try]:
    ours, nothing = f"{namespace}.*", f"{namespace}.check.{secrets.token_hex(4)}"
    tries = [
        _Try("configure", ours, nothing, partial(_delete, nothing)),
        _Try("write", ours, nothing, partial(_bind, nothing, "amq.topic")),
        _Try("read", ours, nothing, partial(_get, nothing)),
    ]
    for name, need in foreign.items():
        operation = partial(_bind, nothing, name) if need == "read" else partial(_feed, name, nothing)
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
    """Bind a queue that is none, which takes write on it, then read on the exchange."""
    await (await channel.get_queue(queue, ensure=False)).bind(exchange, queue, timeout=_WITHIN)


async def _feed(exchange: str, source: str, channel: AbstractChannel) -> None:
    """Bind an exchange to a source that is none, which takes write on the exchange."""
    await (await channel.get_exchange(exchange, ensure=False)).bind(source, source, timeout=_WITHIN)


def _login(url: SecretStr) -> tuple[str, str]:
    """Give the user and the virtual host that an address means."""
    parts = urlsplit(url.get_secret_value())
    return unquote(parts.username or "guest"), unquote(parts.path[1:]) or "/"


def _pattern(namespace: str, others: list[str]) -> str:
    """Give the pattern of everything in the namespace and of the names beside it."""
    ours, *names = (re.sub(r"[^\w-]", r"\\\g<0>", name) for name in (namespace, *others))
    ours += r"\..*"
    return f"^({'|'.join([ours, *names])})$" if names else f"^{ours}"
