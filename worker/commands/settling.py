"""From a command to the dead letters and back: open, collect, settle, and say how far that got."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import aiormq
import typer

from worker.commands.broker import talk_to_broker
from worker.commands.common import fail, printable, stop_with
from worker.commands.terminal import progress, say
from worker.core.errors import PublishError
from worker.rabbitmq.connection import connect
from worker.rabbitmq.dead_letters import Act, DeadLetters, Letter, Selection, Tally, hold, settle
from worker.rabbitmq.publisher import BrokerPublisher
from worker.rabbitmq.topology import build_topology
from worker.settings import BrokerCommandSettings

_NAMED_AT_MOST = 20


@dataclass
class Run:
    """A settling, and how far it got; `count` is `None` until the letters are held."""

    selection: Selection
    tally: Tally = field(default_factory=Tally)
    count: int | None = None
    problems: list[str] = field(default_factory=list)
    said_why: bool = False


@asynccontextmanager
async def opened(settings: BrokerCommandSettings, at_most: int | None = None) -> AsyncIterator[DeadLetters]:
    """Hold the dead letters on a connection of their own; exits where there is no queue of them."""
    name = build_topology(settings).dead_letters
    async with connect(settings.broker.url, "crm-sync dead-letters") as connection:
        try:
            async with hold(connection, name, at_most) as letters:
                yield letters
        except aiormq.ChannelNotFoundEntity:
            stop_with(
                f"there is no queue {name} on the broker; start the worker or run crm-sync topology first"
            )


def look_through(
    settings: BrokerCommandSettings, selection: Selection, each: Callable[[Letter], object]
) -> int:
    """Call `each` with every letter that is meant, in the order of the queue; return how many all are.

    There may be hundreds of thousands, and little memory: nothing here keeps them.
    """

    async def work(_stop: asyncio.Event) -> int:
        async with opened(settings) as letters:
            with progress("reading", letters.count) as tick:
                async for letter, _ in letters:
                    tick(letters.looked_at)
                    if selection.takes(letter):
                        each(letter)
            return letters.count

    return talk_to_broker(settings, work)


def settle_letters(
    settings: BrokerCommandSettings,
    selection: Selection,
    act: Act,
    publisher: BrokerPublisher | None = None,
    rate: float | None = None,
) -> Run:
    """Act on each letter that is meant, then acknowledge it. The publisher, if any, gets its connection here.

    Exits only where nothing was begun; whatever else ends it is told in what it gives.
    """
    run = Run(selection)

    async def work(stop: asyncio.Event) -> None:
        async with AsyncExitStack() as stack:
            if publisher is not None:
                connected = connect(settings.broker.url, "crm-sync replay")
                _ = await publisher.attach(await stack.enter_async_context(connected))
            while await _settle_more(settings, run, act, stop, rate):
                pass

    try:
        talk_to_broker(settings, work, careful=True)
    except typer.Exit:
        if run.count is None:
            raise
        run.said_why = True
    return run


async def _settle_more(
    settings: BrokerCommandSettings, run: Run, act: Act, stop: asyncio.Event, rate: float | None
) -> bool:
    """Settle until the end, or until what is held has to be given back; tell whether there is more to do.

    What was left is then in front of the queue, and what has arrived since is not looked at.
    """
    run.tally.unfinished = False
    run.tally.stuck.clear()
    left = None if run.count is None else run.count - run.tally.done
    async with opened(settings, left) as letters:
        if run.count is None:
            run.count = letters.count
        with progress("settling", letters.count) as show:
            try:
                await settle(letters, run.selection, act, run.tally, stop=stop, rate=rate, tick=show)
            except PublishError as error:
                run.problems.append(str(error))
        if stop.is_set() and letters.looked_at < letters.count:
            run.problems.append("stopped before the end")
    return run.tally.unfinished


def finish(run: Run, verb: str) -> None:
    """Say how far it got, whatever ended it; exit with status 1 where that isn't all that was asked for."""
    if run.tally.stuck:
        named = [printable(letter_id) for letter_id in run.tally.stuck[:_NAMED_AT_MOST]]
        more = len(run.tally.stuck) - len(named)
        named += [f"… and {more} more"] if more else []
        fail("these stay: their queue can't be told, or the broker takes no copy of them:", named)
    for problem in run.problems:
        fail(problem, [])
    complete = not run.problems and not run.said_why
    absent = sorted(run.selection.ids - run.tally.found) if complete else []
    if absent:
        fail("not among the dead letters meant:", [printable(letter_id) for letter_id in absent])
    say(f"{verb} {run.tally.done}, left {(run.count or 0) - run.tally.done}")
    if run.tally.stuck or absent or not complete:
        raise typer.Exit(1)
