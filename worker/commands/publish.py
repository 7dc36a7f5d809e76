"""`crm-sync publish`: publish events by hand or from a file, as a telephony system would."""

import asyncio
import json
import os
import shlex
import stat
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import aiormq
import typer
from aio_pika.abc import AbstractConnection

from worker.commands.broker import talk_to_broker
from worker.commands.common import load_or_exit, stop_with
from worker.commands.options import Command, ConfigOption, Group
from worker.commands.terminal import err, progress, say
from worker.core.errors import InvalidEvent, PublishError
from worker.core.events import EventType
from worker.core.scrub import printable
from worker.rabbitmq.bulk_publish import BadLine, BulkPublisher, check_event, publish_event, read_lines
from worker.rabbitmq.connection import Nodes, connect
from worker.rabbitmq.publisher import BrokerPublisher
from worker.rabbitmq.topology import Exchange, exists
from worker.settings import BrokerCommandSettings

app = typer.Typer(cls=Group, invoke_without_command=True, add_completion=False)

EventIdOption = Annotated[
    str | None, typer.Option("--event-id", help="The event's id; unset: derived from the event itself.")
]
OccurredAtOption = Annotated[
    str | None,
    typer.Option("--occurred-at", help="When it happened, such as 2026-11-20T14:07:14-05:00; unset: now."),
]

_MISSING = "start the worker or run crm-sync topology first"


@app.callback()
def publish(
    context: typer.Context,
    file: Annotated[
        Path | None, typer.Option("--file", help="A file with one JSON event a line; - is standard input.")
    ] = None,
    from_line: Annotated[
        int, typer.Option("--from-line", metavar="N", help="Continue at this line of the file.")
    ] = 1,
    config: ConfigOption = None,
) -> None:
    """Publish events to the events exchange, as a telephony system would.

    Use it to test the whole path to the CRM, or to publish events that a
    producer could not publish. Each event is checked before it is sent, and
    counts only when the broker has confirmed it. Nothing after a bad line is
    sent; the error names the line to continue at. The same line always gets the
    same event id, so publishing it twice does no harm.

    Examples:
      crm-sync publish call-ended --call-id V1201405090000012345
      crm-sync publish agent-onboarded --agent-user 1001
      crm-sync publish --file events.ndjson
    """
    context.obj = config
    if context.invoked_subcommand is not None:
        if file is not None:
            raise typer.BadParameter("can't be combined with a subcommand", param_hint="--file")
        return
    if file is None:
        raise typer.BadParameter(
            "choose what to publish: call-ended, agent-onboarded or --file; see crm-sync publish --help",
            param_hint="--file",
        )
    if from_line < 1:
        raise typer.BadParameter("lines are counted from 1", param_hint="--from-line")
    _publish_file(load_or_exit(BrokerCommandSettings, config), file, from_line, config)


@app.command("call-ended", cls=Command)
def call_ended(
    context: typer.Context,
    call_id: Annotated[str, typer.Option("--call-id", help="VICIdial's id of the call.")],
    event_id: EventIdOption = None,
    occurred_at: OccurredAtOption = None,
    uniqueid: Annotated[str | None, typer.Option("--uniqueid", help="Asterisk's id of the call.")] = None,
    lead_id: Annotated[str | None, typer.Option("--lead-id", help="The lead.")] = None,
    agent_user: Annotated[str | None, typer.Option("--agent-user", help="Who took the call.")] = None,
    campaign_id: Annotated[str | None, typer.Option("--campaign-id", help="The campaign.")] = None,
    config: ConfigOption = None,
) -> None:
    """Publish that a call ended, and print the event's id.

    Repeated without --occurred-at or --event-id it gets the same id, and the
    CRM drops it.

    Example: crm-sync publish call-ended --call-id V1201405090000012345 --lead-id 12345
    """
    fields = {
        "event_id": event_id,
        "occurred_at": occurred_at,
        "call_id": call_id,
        "uniqueid": uniqueid,
        "lead_id": lead_id,
        "agent_user": agent_user,
        "campaign_id": campaign_id,
    }
    _publish_one(EventType.CALL_ENDED, fields, config or context.obj)


@app.command("agent-onboarded", cls=Command)
def agent_onboarded(
    context: typer.Context,
    agent_user: Annotated[str, typer.Option("--agent-user", help="VICIdial's user name of the agent.")],
    expected_campaigns: Annotated[
        list[str] | None,
        typer.Option("--expected-campaign", help="A campaign that the agent should have; can be repeated."),
    ] = None,
    event_id: EventIdOption = None,
    occurred_at: OccurredAtOption = None,
    config: ConfigOption = None,
) -> None:
    """Publish that an agent was onboarded, and print the event's id.

    Repeated without --occurred-at or --event-id it gets the same id, and the
    CRM drops it.

    Example: crm-sync publish agent-onboarded --agent-user 1001
    """
    fields = {
        "event_id": event_id,
        "occurred_at": occurred_at,
        "agent_user": agent_user,
        "expected_campaigns": expected_campaigns or None,
    }
    _publish_one(EventType.AGENT_ONBOARDED, fields, config or context.obj)


def _publish_one(kind: EventType, fields: dict[str, Any], config: Path | None) -> None:
    settings = load_or_exit(BrokerCommandSettings, config)
    given = {name: value for name, value in fields.items() if value is not None}
    body = json.dumps({"type": kind} | given, ensure_ascii=False).encode("utf-8", "surrogateescape")
    try:
        event = check_event(body)
    except InvalidEvent as error:
        stop_with(str(error), status=2)
    exchange = settings.broker.events_exchange

    async def work(_stop: asyncio.Event) -> str | None:
        async with connect(Nodes(settings.broker.url), "crm-sync publish") as connection:
            publisher = BrokerPublisher()
            try:
                await _attach(publisher, connection, exchange)
                await publish_event(publisher, exchange, event, body)
            except PublishError as error:
                return _advice(error)
        return None

    if (problem := talk_to_broker(settings, work)) is not None:
        stop_with(problem)
    say(printable(f"published {kind} {event.id} to {exchange}"))


def _publish_file(settings: BrokerCommandSettings, file: Path, from_line: int, config: Path | None) -> None:
    try:
        descriptor = sys.stdin.fileno() if str(file) == "-" else os.open(file, os.O_RDONLY)
        found = os.fstat(descriptor)
    except OSError as error:
        stop_with(f"can't read {file}: {error.strerror or error}")
    if stat.S_ISDIR(found.st_mode):
        stop_with(f"can't read {file}: it is a folder")
    began = time.monotonic()
    publisher = BrokerPublisher()
    with progress("publishing", found.st_size, in_bytes=True) as show:

        def on_progress(bulk: BulkPublisher) -> None:
            show(bulk.bytes, _rate(bulk.published, began))

        bulk = BulkPublisher(publisher, settings.broker.events_exchange, on_progress=on_progress)

        async def work(stop: asyncio.Event) -> str | None:
            async with connect(Nodes(settings.broker.url), "crm-sync publish") as connection:
                try:
                    await _attach(publisher, connection, settings.broker.events_exchange)
                    await bulk.run(read_lines(descriptor, stop), from_line)
                except (BadLine, PublishError) as error:
                    return _advice(error)
            return "stopped" if stop.is_set() else None

        try:
            problem = talk_to_broker(settings, work, careful=True)
        except typer.Exit:
            err.print(_how_to_continue(bulk, file, from_line, config), markup=False, soft_wrap=True)
            raise
    if problem is not None:
        stop_with(problem, _how_to_continue(bulk, file, from_line, config))
    if bulk.confirmed < from_line - 1:
        stop_with(f"there is no line {from_line} in {file}; it has {bulk.confirmed}")
    say(f"published {_rate(bulk.published, began)}")


async def _attach(publisher: BrokerPublisher, connection: AbstractConnection, exchange: str) -> None:
    if not await exists(connection, Exchange(exchange, "topic")):
        raise PublishError(f"there is no exchange {exchange} on the broker; {_MISSING}")
    _ = await publisher.attach(connection)


def _advice(error: BadLine | PublishError) -> str:
    """Add what to do if the topology is missing; other errors speak for themselves."""
    unrouted = isinstance(error.__cause__, aiormq.exceptions.PublishError | aiormq.ChannelNotFoundEntity)
    return f"{error}; {_MISSING}" if unrouted else str(error)


def _how_to_continue(bulk: BulkPublisher, file: Path, from_line: int, config: Path | None) -> str:
    confirmed = max(bulk.confirmed, from_line - 1)
    command = ["crm-sync", "publish", "--file", str(file), "--from-line", str(confirmed + 1)]
    if config is not None:
        command += ["--config", str(config)]
    return f"confirmed up to line {confirmed}; continue with: {shlex.join(command)}"


def _rate(published: int, began: float) -> str:
    seconds = max(time.monotonic() - began, 0.001)
    events = "event" if published == 1 else "events"
    return f"{published:,} {events}, {published / seconds:,.0f} a second"
