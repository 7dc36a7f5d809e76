"""`crm-sync topology`: declare what the worker needs on the broker, show it, name every difference."""

import asyncio
from typing import Annotated

import typer

from worker.commands.broker import talk_to_broker
from worker.commands.common import load_or_exit, stop_with
from worker.commands.options import ConfigOption
from worker.commands.terminal import say, show_table
from worker.rabbitmq.connection import Nodes, connect
from worker.rabbitmq.topology import (
    Exchange,
    Queue,
    QueueState,
    Topology,
    build_topology,
    declare,
    describe,
    differences,
    inspect,
)
from worker.settings import BrokerCommandSettings


def topology(
    show: Annotated[bool, typer.Option("--show", help="Only show what exists; declare nothing.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Declare nothing; fail if anything is missing or differs.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Declare the exchanges, queues and bindings of a worker, and show them.

    Use it before the first start, if producers begin before the worker does;
    the worker itself declares the same. RabbitMQ can't change the arguments of
    a queue: if any differ, nothing is declared, each difference is printed, and
    the exit status is 1. To fix one, empty the queue, delete it and run this
    again, or set the argument by a policy.

    Examples:
      crm-sync topology
      crm-sync topology --check
    """
    if show and check:
        raise typer.BadParameter("choose one of --show and --check", param_hint="--show")
    settings = load_or_exit(BrokerCommandSettings, config)
    wanted = build_topology(settings)
    declares = not (show or check)

    async def work(_stop: asyncio.Event) -> tuple[list[QueueState], list[QueueState], list[str]]:
        async with connect(Nodes(settings.broker.url), "crm-sync topology") as connection:
            before = await inspect(connection, wanted)
            differing = await differences(connection, wanted, missing=False)
            if declares and not differing:
                await declare(connection, wanted)
            return before, await inspect(connection, wanted), differing

    before, now, differing = talk_to_broker(settings, work)
    if not check:
        _show(wanted, before, now)
    _judge(before, differing, declares=declares, check=check)


def _show(wanted: Topology, before: list[QueueState], now: list[QueueState]) -> None:
    exchanges, queues, arguments = [], [], []
    for was, is_now in zip(before, now, strict=True):
        state = "missing" if not is_now.exists else "exists already" if was.exists else "created"
        match is_now.item:
            case Exchange(name=name, kind=kind):
                exchanges.append((name, kind, state))
            case Queue(name=name) as queue:
                counts = (str(is_now.messages), str(is_now.consumers)) if is_now.exists else ("-", "-")
                queues.append((name, *counts, state))
                settings = {"x-queue-type": "quorum"} | queue.arguments
                arguments.append((name, " ".join(f"{key}={value}" for key, value in settings.items())))
    show_table(("EXCHANGE", "TYPE", "STATE"), exchanges)
    say()
    show_table(("QUEUE", "MESSAGES", "CONSUMERS", "STATE"), queues, right=("MESSAGES", "CONSUMERS"))
    say()
    bindings = [(binding.queue, binding.exchange, binding.key or "-") for binding in wanted.bindings]
    show_table(("QUEUE", "BOUND TO", "KEY"), bindings)
    say()
    show_table(("QUEUE", "ARGUMENTS"), arguments)
    say()


def _judge(before: list[QueueState], differing: list[str], *, declares: bool, check: bool) -> None:
    missing = [f"{describe(standing.item)}: missing" for standing in before if not standing.exists]
    if differing:
        stop_with(
            "nothing was declared, as these differ from the settings:"
            if declares
            else "these differ from the settings:",
            *differing,
            *(missing if check else []),
        )
    if check and missing:
        stop_with("these are missing; the worker and crm-sync topology declare them:", *missing)
    if declares:
        say(f"{len(missing)} created, {len(before) - len(missing)} exist already, bindings declared")
    elif check:
        say(f"all {len(before)} exchanges and queues are as the settings want them")
