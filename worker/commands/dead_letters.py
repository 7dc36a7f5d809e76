"""`crm-sync dead-letters`: list, show, replay, discard and export what could not be delivered."""

import asyncio
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import aiormq
import typer

from worker.commands.broker import talk_to_broker
from worker.commands.common import fail, load_or_exit, stop_with
from worker.commands.dead_letters_output import Plan, Summary, describe, show_dead_letters, write_lines
from worker.commands.options import Command, ConfigOption, Group
from worker.commands.terminal import err, progress, say
from worker.core.errors import PublishError, Reason
from worker.core.events import EventType
from worker.core.scrub import printable
from worker.rabbitmq.connection import Nodes, connect
from worker.rabbitmq.dead_letters import (
    HOLD_AT_MOST,
    UNKNOWN,
    Action,
    DeadLetters,
    Progress,
    Selection,
    StoredDeadLetter,
    browse,
    discarding,
    record,
    replaying,
    settle,
)
from worker.rabbitmq.message import Delivery
from worker.rabbitmq.publisher import BrokerPublisher
from worker.rabbitmq.topology import build_topology
from worker.settings import BrokerCommandSettings

_LOWEST_RATE = 0.01  # the broker lets nobody hold a message for long
_NAMED_AT_MOST = 20

app = typer.Typer(cls=Group, no_args_is_help=True, add_completion=False)


@app.callback()
def dead_letters() -> None:
    """List, show, replay, discard or export the events that could not be delivered.

    An event ends up there when no retry would help, or none helped. Its body is
    kept byte for byte. Remove the cause first (list and show name it), then
    replay. Letters that another of these commands holds are not shown. ID is
    the event's id, or the message's own if the event has none.
    """


def _known_reason(value: str | None) -> str | None:
    return _one_of(value, [*Reason, UNKNOWN])


def _known_type(value: str | None) -> str | None:
    return _one_of(value, [*EventType, UNKNOWN])


def _one_of(value: str | None, known: list[str]) -> str | None:
    if value is not None and value not in known:
        raise typer.BadParameter(f"{value!r} is none of {', '.join(known)}")
    return value


IdsArgument = Annotated[list[str] | None, typer.Argument(metavar="ID", help="Which dead letters.")]
AllOption = Annotated[bool, typer.Option("--all", help="All of them.")]
ReasonOption = Annotated[
    str | None,
    typer.Option("--reason", metavar="REASON", callback=_known_reason, help="Only those with this reason."),
]
TypeOption = Annotated[
    str | None,
    typer.Option("--type", metavar="TYPE", callback=_known_type, help="Only call.ended or agent.onboarded."),
]


@app.command("list", cls=Command)
def list_(
    reason: ReasonOption = None,
    kind: TypeOption = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", help="Show so many one by one.")] = 20,
    ids: Annotated[bool, typer.Option("--ids", help="Print only the ids, one a line.")] = False,
    config: ConfigOption = None,
) -> None:
    """Show how many dead letters there are, and why; then the newest one by one.

    Example: crm-sync dead-letters list --reason rejected_by_sink
    """
    if limit < 0:
        raise typer.BadParameter("can't be negative", param_hint="--limit")
    found, newest, named = Summary(), deque[StoredDeadLetter](maxlen=limit), list[str]()

    def each(letter: StoredDeadLetter) -> None:
        if ids:
            named.append(letter.id)
        found.add(letter)
        newest.append(letter)

    selection = Selection(reason=reason, type=kind)
    count = _look_through(load_or_exit(BrokerCommandSettings, config), selection, each)
    if ids:
        for letter_id in named:
            say(printable(letter_id))
    elif not found.count:
        say(f"none of the {count} dead letters matches" if count else "no dead letters")
    else:
        say(f"{found.count} dead letter{'' if found.count == 1 else 's'}")
        say()
        found.show()
        if limit:
            say()
            show_dead_letters(newest, found.count)


@app.command(cls=Command)
def show(
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="Which dead letter.")],
    config: ConfigOption = None,
) -> None:
    """Show everything about a dead letter: why it is there, its headers, its body as it came.

    Example: crm-sync dead-letters show 9f1c2d3e
    """
    for letter, message in find_or_exit(load_or_exit(BrokerCommandSettings, config), letter_id):
        for line in describe(record(letter, message)):
            say(line)


@app.command(cls=Command)
def replay(
    ids: IdsArgument = None,
    everything: AllOption = False,
    reason: ReasonOption = None,
    kind: TypeOption = None,
    rate: Annotated[
        float | None, typer.Option("--rate", metavar="N", help="At most so many a second.")
    ] = None,
    look_up_again: Annotated[
        bool,
        typer.Option("--look-up-again", help="Ask the dialer also about events that it was asked about."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be replayed.")] = False,
    config: ConfigOption = None,
) -> None:
    """Put dead letters back into work: each starts anew, as the same event with the same id.

    Use it once the cause is removed. All conditions must apply. A dead letter
    is removed only after the broker has the event in its work queue, so this
    can be stopped at any time, or killed, and loses nothing. An event that
    carries the dialer's answer is looked up again only with --look-up-again.

    Examples:
      crm-sync dead-letters replay --all --dry-run
      crm-sync dead-letters replay --reason rejected_by_sink --rate 20
      crm-sync dead-letters replay 9f1c2d3e 7a5b4c3d --look-up-again
    """
    if rate is not None and not rate >= _LOWEST_RATE:
        raise typer.BadParameter(f"must be more than 0, at least {_LOWEST_RATE}", param_hint="--rate")
    selection = _select(ids, reason, kind, everything=everything)
    settings = load_or_exit(BrokerCommandSettings, config)
    if dry_run:
        _dry_run(settings, selection, look_up_again=look_up_again)
        return
    publisher = BrokerPublisher()
    act = replaying(publisher, build_topology(settings).work_exchange, look_up_again=look_up_again)
    _finish(settle_all(settings, Run(selection, rate), act, publisher), "replayed")


@app.command(cls=Command)
def discard(
    ids: IdsArgument = None,
    everything: AllOption = False,
    reason: ReasonOption = None,
    kind: TypeOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    config: ConfigOption = None,
) -> None:
    """Delete dead letters permanently, after asking. Export them first if in doubt.

    All conditions must apply. Only what was counted when asking is deleted,
    not what arrives in the meantime.

    Example: crm-sync dead-letters discard --reason invalid_event
    """
    selection = _select(ids, reason, kind, everything=everything)
    if not yes and not sys.stdin.isatty():
        stop_with("can't ask for confirmation, because standard input is not a terminal; use --yes", status=2)
    settings = load_or_exit(BrokerCommandSettings, config)
    if not yes:
        found, meant = Summary(), set[int]()

        def each(letter: StoredDeadLetter) -> None:
            found.add(letter)
            meant.add(hash(letter))

        _look_through(settings, selection, each)
        if found.count:
            found.show()
            if not typer.confirm(f"Delete {found.count} dead letter(s) permanently?", err=True):
                stop_with("nothing was discarded")
        selection = Selection(selection.ids, reason, kind, frozenset(meant))
    _finish(settle_all(settings, Run(selection), discarding), "discarded")


@app.command(cls=Command)
def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write; - is standard output.")],
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
    config: ConfigOption = None,
) -> None:
    """Write all dead letters to a file, one JSON object a line; they stay where they are.

    The file holds personal data: only its owner can read it. It is written
    whole or not at all, and replaces no other without --force.

    Example: crm-sync dead-letters export dead-letters.ndjson
    """
    settings = load_or_exit(BrokerCommandSettings, config)

    async def work(_stop: asyncio.Event) -> int:
        async with browse_or_exit(settings) as letters:
            with progress("exporting", letters.count) as tick, write_lines(file, replace=force) as write:
                async for letter, message in letters:
                    write(record(letter, message))
                    tick(letters.looked_at)
            return letters.looked_at

    written = talk_to_broker(settings, work)
    err.print(f"exported {written} dead letters", markup=False)


def _select(ids: list[str] | None, reason: str | None, kind: str | None, *, everything: bool) -> Selection:
    if everything and ids:
        raise typer.BadParameter("use either ids or --all, not both", param_hint="--all")
    if not (everything or ids or reason or kind):
        raise typer.BadParameter("select dead letters by ID, --reason, --type or --all", param_hint="ID")
    return Selection(frozenset(ids or ()), reason, kind)


def _dry_run(settings: BrokerCommandSettings, selection: Selection, *, look_up_again: bool) -> None:
    found, sending = Summary(), Plan(build_topology(settings).work_queues, look_up_again=look_up_again)
    absent = set(selection.ids)

    def each(letter: StoredDeadLetter) -> None:
        found.add(letter)
        sending.add(letter)
        absent.discard(letter.id)

    _look_through(settings, selection, each)
    if found.count:
        found.show()
        say()
        sending.show()
        say()
    say(
        f"would replay {sending.possible}, and ask the dialer about {sending.asked} of them;"
        " nothing was changed"
    )
    if absent:
        stop_with("not among the selected dead letters:", *sorted(absent))


# --- at the broker


@dataclass
class Run:
    """What is to be settled and how, and how far that got.

    `count` is `None` until the dead letters are browsed.
    """

    selection: Selection
    rate: float | None = None
    hold_at_most: float = HOLD_AT_MOST
    progress: Progress = field(default_factory=Progress)
    count: int | None = None
    problems: list[str] = field(default_factory=list)
    said_why: bool = False


@asynccontextmanager
async def browse_or_exit(
    settings: BrokerCommandSettings, at_most: int | None = None
) -> AsyncIterator[DeadLetters]:
    """Browse the dead letters on a connection of their own; exit if there is no queue of them."""
    name = build_topology(settings).dead_letters
    async with connect(Nodes(settings.broker.url), "crm-sync dead-letters") as connection:
        try:
            async with browse(connection, name, at_most) as letters:
                yield letters
        except aiormq.ChannelNotFoundEntity:
            stop_with(
                f"there is no queue {name} on the broker; start the worker or run crm-sync topology first"
            )


def find_or_exit(settings: BrokerCommandSettings, letter_id: str) -> list[tuple[StoredDeadLetter, Delivery]]:
    """Return the dead letters with an id, in the order of the queue; exit if there is none."""

    async def work(_stop: asyncio.Event) -> list[tuple[StoredDeadLetter, Delivery]]:
        found = []
        async with browse_or_exit(settings) as letters:
            with progress("looking", letters.count) as tick:
                async for letter, message in letters:
                    tick(letters.looked_at)
                    if letter.id == letter_id:
                        found.append((letter, message))
        return found

    found = talk_to_broker(settings, work)
    if not found:
        stop_with(f"there is no dead letter {printable(letter_id)}; see crm-sync dead-letters list --ids")
    return found


def _look_through(
    settings: BrokerCommandSettings, selection: Selection, each: Callable[[StoredDeadLetter], object]
) -> int:
    """Call `each` with every dead letter that is meant, in the order of the queue; return how many all are.

    There may be hundreds of thousands, and little memory: nothing here keeps them.
    """

    async def work(_stop: asyncio.Event) -> int:
        async with browse_or_exit(settings) as letters:
            with progress("reading", letters.count) as show:
                async for letter, _ in letters:
                    show(letters.looked_at)
                    if selection.matches(letter):
                        each(letter)
            return letters.count

    return talk_to_broker(settings, work)


def settle_all(
    settings: BrokerCommandSettings, run: Run, act: Action, publisher: BrokerPublisher | None = None
) -> Run:
    """Act on each dead letter that is meant, then acknowledge it. A publisher gets its connection here.

    Exits only if nothing was begun; whatever else ends it, the result says how far it got.
    """

    async def work(stop: asyncio.Event) -> None:
        async with AsyncExitStack() as stack:
            if publisher is not None:
                connected = connect(Nodes(settings.broker.url), "crm-sync replay")
                _ = await publisher.attach(await stack.enter_async_context(connected))
            while await _settle_more(settings, run, act, stop):
                pass

    try:
        talk_to_broker(settings, work, careful=True)
    except typer.Exit:
        if run.count is None:
            raise
        run.said_why = True
    return run


async def _settle_more(settings: BrokerCommandSettings, run: Run, act: Action, stop: asyncio.Event) -> bool:
    """Settle until the end, or until what is held has to be requeued; return whether there is more to do.

    What was left is then in front of the queue, and what has arrived since is not looked at.
    """
    run.progress.unfinished = False
    run.progress.stuck.clear()
    left = None if run.count is None else run.count - run.progress.done
    async with browse_or_exit(settings, left) as letters:
        if run.count is None:
            run.count = letters.count
        with progress("settling", letters.count) as show:
            try:
                await settle(
                    letters,
                    run.selection,
                    act,
                    run.progress,
                    stop=stop,
                    rate=run.rate,
                    hold_at_most=run.hold_at_most,
                    on_progress=show,
                )
            except PublishError as error:
                run.problems.append(str(error))
        if stop.is_set() and letters.looked_at < letters.count:
            run.problems.append("stopped before the end")
    return run.progress.unfinished


def _finish(run: Run, verb: str) -> None:
    """Print how far it got, whatever ended it; exit with status 1 if that isn't all that was asked for."""
    if run.progress.stuck:
        named = [printable(letter_id) for letter_id in run.progress.stuck[:_NAMED_AT_MOST]]
        more = len(run.progress.stuck) - len(named)
        named += [f"… and {more} more"] if more else []
        fail(
            "these were not moved, because their queue is unknown or the broker accepts no copy of them:",
            named,
        )
    for problem in run.problems:
        fail(problem, [])
    complete = not run.problems and not run.said_why
    absent = sorted(run.selection.ids - run.progress.found) if complete else []
    if absent:
        fail("not among the selected dead letters:", [printable(letter_id) for letter_id in absent])
    say(f"{verb} {run.progress.done}, left {(run.count or 0) - run.progress.done}")
    if run.progress.stuck or absent or not complete:
        raise typer.Exit(1)
