"""Whether the broker can be reached, lets us in, and stands as the settings want it."""

import aiormq
from aio_pika.abc import AbstractConnection

from worker.check.finding import Finding
from worker.rabbitmq.connection import BROKER_ERRORS, address, connect, explain
from worker.rabbitmq.topology import Exchange, differences, exists, plan, survey
from worker.settings import Settings


async def check_broker(settings: Settings) -> Finding:
    """Connect, log in, and compare what stands there with the settings."""
    where = address(settings.broker.url)
    topology = plan(settings)
    try:
        async with connect(settings.broker.url, "crm-sync check") as connection:
            version = _server_version(connection)
            differing = await differences(connection, topology, missing=False)
            standing = await survey(connection, topology)
    except BROKER_ERRORS as error:
        return Finding("broker", ok=False, text=f"{where}: {explain(error)}", advice=_broker_advice(error))
    text = f"{version} at {where}, logged in"
    if differing:
        advice = (*differing, "crm-sync topology --help says how to mend that")
        return Finding(
            "broker", ok=False, text=f"{text}; the topology differs from the settings", advice=advice
        )
    missing = sum(not each.exists for each in standing)
    state = (
        f"{missing} of {len(standing)} exchanges and queues missing, which run declares"
        if missing
        else ("the topology stands")
    )
    return Finding("broker", ok=True, text=f"{text}; {state}")


def _server_version(connection: AbstractConnection) -> str:
    underlay = getattr(connection.transport, "connection", None)
    told = getattr(underlay, "server_properties", None) or {}
    return f"{told.get('product', 'a broker')} {told.get('version', 'of unknown version')}"


def _broker_advice(error: BaseException) -> tuple[str, ...]:
    if isinstance(error, aiormq.exceptions.ChannelAccessRefused):
        return ("give the user permission to configure, write and read in its virtual host",)
    if isinstance(error, aiormq.exceptions.ProbableAuthenticationError):
        return ()  # the explanation says it
    return ("check broker.url, that the broker runs, and that this host may reach it",)


async def check_queue(settings: Settings) -> Finding:
    """Look whether the outbound exchange stands, or would be declared."""
    name = plan(settings).outbound_exchange
    try:
        async with connect(settings.broker.url, "crm-sync check") as connection:
            stands = await exists(connection, Exchange(name, "topic"))
    except BROKER_ERRORS as error:
        return Finding("sink", ok=False, text=f"exchange {name}: {explain(error)}")
    state = "stands" if stands else "is missing; run declares it"
    return Finding("sink", ok=True, text=f"exchange {name} {state}")
