"""`crm-sync intake`: the HTTP front door for events."""

import asyncio
from contextlib import AsyncExitStack, suppress

import structlog
import typer
import uvloop

from worker import __version__
from worker.commands.common import fail, load_or_exit, stop_with
from worker.commands.options import ConfigOption
from worker.core.scrub import Scrubber
from worker.intake.access import Rates, Tokens
from worker.intake.relay import Relay
from worker.intake.server import Limits, ListenError, Server
from worker.intake.spool import Spool, SpoolError
from worker.intake.tls import Certificate
from worker.observe import log
from worker.observe.intake import IntakeReporter
from worker.observe.metrics import CONTENT_TYPE, IntakeMetrics
from worker.rabbitmq.feed import Feed
from worker.settings import IntakeCommandSettings, IntakeSettings
from worker.signals import stop_on_signals

_MIB = 1024 * 1024

_log = structlog.get_logger()


def intake(config: ConfigOption = None) -> None:
    """Accept events over HTTP until SIGTERM or Ctrl-C, and publish them to the events exchange.

    For what can call a URL but does not speak AMQP, such as VICIdial and most
    PBXs. It answers 2xx only when an event is safe: confirmed by the broker,
    or, while the broker is away, on the disk in the folder intake.spool. From
    there it is published, in order, when the broker is back.

    GET /vicidial/call-ended is for VICIdial's Dispo Call URL and No Agent Call
    URL. POST /events accepts JSON and CloudEvents (structured, binary, batch).
    A request that is repeated gives the same event id. Each needs a token of
    intake.token_files: "Authorization: Bearer TOKEN", or token=TOKEN in the
    query. GET /livez, /readyz and /metrics need none.

    It needs the settings broker.* and intake.*, and no worker beside it. Exit
    status 0 after a stop, 1 after a failure, 2 for settings that can't be used.

    Examples:
      openssl rand -hex 16 > token
      CRM_SYNC_INTAKE__TOKEN_FILES=token CRM_SYNC_INTAKE__SPOOL=spool crm-sync intake
      curl "http://127.0.0.1:8085/vicidial/call-ended?token=$(cat token)&call_id=V1201405090000012345"
    """
    settings = load_or_exit(IntakeCommandSettings, config)
    scrubber = log.configure(settings.log, settings.secrets())
    reporter = IntakeReporter(IntakeMetrics())
    try:
        tokens = Tokens(settings.intake.token_files, scrubber.learn, reporter)
    except ValueError as error:
        stop_with(f"a setting is wrong: intake.token_files: {error}", status=2)
    try:
        certificate = _certificate(settings.intake)
    except ValueError as error:
        stop_with(f"a setting is wrong: intake.tls_certificate, intake.tls_key: {error}", status=2)
    try:
        uvloop.run(_run(settings, tokens, certificate, reporter, scrubber))
    except ListenError as error:
        fail(f"{error}; see intake.host and intake.port")
    except SpoolError as error:
        fail(f"{error}; see intake.spool")
    except asyncio.CancelledError:
        fail("stopped at once; what was answered with 2xx is safe")
    else:
        return
    raise typer.Exit(1)


def _certificate(settings: IntakeSettings) -> Certificate | None:
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    return Certificate(settings.tls_certificate, settings.tls_key)


async def _run(
    settings: IntakeCommandSettings,
    tokens: Tokens,
    certificate: Certificate | None,
    reporter: IntakeReporter,
    scrubber: Scrubber,
) -> None:
    """Serve until a stop; close in the order in which events flow."""
    stop = stop_on_signals()
    own, metrics = settings.intake, reporter.metrics
    async with AsyncExitStack() as stack:
        spool = await stack.enter_async_context(Spool(own.spool, own.spool_size * _MIB))
        feed = Feed(settings.broker.url, settings.broker.events_exchange)
        relay = Relay(spool, feed, reporter)
        metrics.spool_events.set_function(lambda: spool.waiting)
        metrics.spool_bytes.set_function(lambda: spool.size)
        metrics.connected.set_function(feed.available.is_set)
        server = Server(
            relay=relay,
            tokens=tokens,
            rates=Rates(own.rate),
            observer=reporter,
            scrub=scrubber,
            ready=lambda: not spool.full,
            metrics=lambda: (metrics.expose(), CONTENT_TYPE),
            limits=Limits(),
        )
        _log.info("intake_started", version=__version__, spooled=spool.waiting)
        tasks = [asyncio.create_task(feed.run()), asyncio.create_task(relay.run())]
        if certificate is not None:
            tasks.append(asyncio.create_task(certificate.watch()))
        stack.push_async_callback(_cancel, tasks)
        context = None if certificate is None else certificate.context
        port = await stack.enter_async_context(server.listen(own.host, own.port, context))
        _log.info("listening", host=own.host, port=port)
        stopped = asyncio.ensure_future(stop.wait())
        await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
        if not stop.is_set():
            stopped.cancel()
            await asyncio.gather(*(task for task in tasks if task.done()))  # raises what ended it
    _log.info("intake_stopped", spooled=spool.waiting)


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    with suppress(asyncio.CancelledError):
        await asyncio.gather(*tasks, return_exceptions=True)
