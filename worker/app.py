"""The composition root: opens, runs, drains, closes. With `worker.check` alone it knows every package."""

import asyncio
import math
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import structlog

from worker import __version__
from worker.core.breakers import BreakerStatus, CircuitBreakers
from worker.core.fleet import Seat
from worker.core.pipeline import Pipeline
from worker.core.ports import Sink
from worker.core.retry import RetryPolicy
from worker.core.tracing import UNTRACED, Tracing
from worker.observe import health
from worker.observe.health import LoopLag
from worker.observe.metrics import Metrics
from worker.observe.report import Reporter
from worker.observe.status import Breaker, Broker, Dialer, Status
from worker.rabbitmq.consumer import Consumer
from worker.rabbitmq.fleet import Fleet
from worker.rabbitmq.message import Settler
from worker.rabbitmq.publisher import BrokerPublisher
from worker.rabbitmq.session import Supervisor
from worker.rabbitmq.topology import Topology, build_topology
from worker.settings import Settings
from worker.signals import stop_on_signals
from worker.sinks import webhook
from worker.sinks.queue import QueueSink
from worker.vicidial import client as dialer
from worker.vicidial.client import Prober
from worker.vicidial.clock import DialerClock
from worker.vicidial.enricher import VicidialEnricher
from worker.vicidial.guard import OPTIONAL

_log = structlog.get_logger()


@dataclass(frozen=True)
class Worker:
    """A worker, assembled and not yet running."""

    supervisor: Supervisor
    reporter: Reporter
    breakers: CircuitBreakers
    dialer: dialer.DialerClient
    prober: Prober
    clock: DialerClock
    lag: LoopLag
    started_at: datetime

    @property
    def metrics(self) -> Metrics:
        """The metrics that are kept."""
        return self.reporter.metrics

    def show(self) -> None:
        """Have the metrics read the present state whenever they are scraped."""
        state, guard, clock = self.supervisor.state, self.dialer.guard, self.clock
        self.metrics.in_flight.set_function(lambda: self.breakers.in_work)
        self.metrics.consuming.set_function(lambda: state.consuming)
        self.metrics.loop_lag.set_function(lambda: self.lag.longest)
        self.metrics.dialer_limit.set_function(lambda: guard.limit)
        self.metrics.dialer_refused.set_function(lambda: guard.refusal is not None)
        for function in OPTIONAL:
            self.metrics.dialer_left_out.labels(function).set_function(partial(guard.leaves_out, function))
        for breaker in self.breakers.status():
            self.reporter.show_breaker(breaker)
            open_seconds = partial(self.breakers.open_seconds, breaker.name)
            self.metrics.circuit_breaker_open_seconds.labels(breaker.name).set_function(open_seconds)
        self.metrics.dialer_clock_skew.set_function(lambda: math.nan if clock.skew is None else clock.skew)

    def ready(self) -> bool:
        """Return whether it consumes, or is paused by an open circuit breaker."""
        return self.supervisor.state.consuming

    def status(self) -> dict[str, Any]:
        """Return what `/status` answers."""
        state = self.supervisor.state
        now = Status(
            version=__version__,
            started_at=self.started_at,
            consuming=state.consuming,
            broker=Broker(node=state.node, connections=state.connections, last_error=state.last_error),
            circuit_breakers={each.name: _breaker(each) for each in self.breakers.status()},
            dialer=self._dialer(),
            in_flight=self.breakers.in_work,
            queues=self.reporter.queues,
            counts=self.reporter.counts,
        )
        return now.model_dump(exclude_unset=True)

    def _dialer(self) -> Dialer:
        guard = self.dialer.guard
        refusal, wait = guard.refusal, self.breakers.dialer.status().next_probe_in
        left_out = {function: why for function in OPTIONAL if (why := guard.left_out(function)) is not None}
        return Dialer(
            limit=guard.limit,
            refused=refusal,
            next_try_in_seconds=round(wait.total_seconds()) if refusal and wait else None,
            left_out=left_out,
            clock_skew_seconds=self.clock.skew,
        )


@asynccontextmanager
async def assemble(
    settings: Settings,
    on_password: Callable[[str], None] = lambda _: None,
    tracing: Tracing = UNTRACED,
) -> AsyncIterator[Worker]:
    """Assemble a worker, and close its HTTP sessions at the end, but not `tracing`.

    `on_password` is called with each password that is read from its file again, and each secret of a CRM.
    """
    topology = build_topology(settings)
    publisher = BrokerPublisher(tracing=tracing)
    reporter = Reporter(Metrics())
    async with AsyncExitStack() as stack:
        changed = asyncio.Event()
        breakers = _make_breakers(settings, reporter, changed)
        client = await _open_dialer(settings, reporter, breakers, on_password, tracing, stack)
        clock = DialerClock(settings.vicidial.timezone, client.version, on_outage=breakers.dialer_failed)
        pipeline = Pipeline(
            VicidialEnricher(client, clock, settings.vicidial, on_hit=reporter.hit),
            await _open_sink(settings, topology, publisher, reporter, on_password, tracing, stack),
            _make_policy(settings),
            breakers,
            zone=settings.vicidial.timezone or UTC,
            deliver_not_found=settings.vicidial.not_found == "deliver",
            duplicates_window=settings.duplicates_window,
        )
        make_consumer = partial(
            Consumer,
            pipeline,
            Settler(publisher, topology),
            topology,
            breakers,
            observer=reporter,
            tracing=tracing,
        )
        seat = Seat(f"{socket.gethostname()[:100]}-{secrets.token_hex(4)}", settings.vicidial.max_concurrency)
        supervisor = Supervisor(
            settings.broker.url,
            topology,
            publisher,
            make_consumer,
            settings.drain.total_seconds(),
            reporter,
            fleet=Fleet(topology.board, seat, client.guard, alone=settings.vicidial.unshared_concurrency),
        )
        prober = Prober(client, changed)
        worker = Worker(supervisor, reporter, breakers, client, prober, clock, LoopLag(), datetime.now(UTC))
        worker.show()
        yield worker


def _make_policy(settings: Settings) -> RetryPolicy:
    return RetryPolicy(
        delays=settings.retry.delays,
        max_attempts=settings.retry.max_attempts,
        ready_within=settings.vicidial.ready_within,
    )


def _make_breakers(settings: Settings, reporter: Reporter, changed: asyncio.Event) -> CircuitBreakers:
    """Make the breakers; `changed` is set whenever the state of one changes."""

    def on_change(status: BreakerStatus) -> None:
        reporter.breaker(status)
        changed.set()

    return CircuitBreakers(
        full=settings.max_in_flight,
        probe_max=settings.circuit_breakers.probe_max,
        refused_probe=settings.circuit_breakers.refused_probe,
        slow_start=True,
        on_change=on_change,
    )


async def _open_dialer(
    settings: Settings,
    reporter: Reporter,
    breakers: CircuitBreakers,
    on_password: Callable[[str], None],
    tracing: Tracing,
    stack: AsyncExitStack,
) -> dialer.DialerClient:
    session = await stack.enter_async_context(dialer.open_session(settings.vicidial))
    return dialer.DialerClient(
        settings.vicidial,
        session,
        breakers,
        observe=reporter.asked,
        on_password=on_password,
        tracing=tracing,
    )


async def _open_sink(
    settings: Settings,
    topology: Topology,
    publisher: BrokerPublisher,
    reporter: Reporter,
    on_secret: Callable[[str], None],
    tracing: Tracing,
    stack: AsyncExitStack,
) -> Sink:
    if settings.sink.kind == "queue":
        return QueueSink(topology.outbound_exchange, publisher, reporter.posted)
    if settings.sink.kind == "crm":
        return await _open_crm(settings, reporter, on_secret, tracing, stack)
    session = await stack.enter_async_context(webhook.open_session(settings.sink, settings.max_in_flight))
    return webhook.WebhookSink(settings.sink, session, reporter.posted, tracing=tracing)


async def _open_crm(
    settings: Settings,
    reporter: Reporter,
    on_secret: Callable[[str], None],
    tracing: Tracing,
    stack: AsyncExitStack,
) -> Sink:
    from worker.crm.session import open_crm  # noqa: PLC0415 - only a CRM needs Jinja2
    from worker.crm.sink import CrmSink  # noqa: PLC0415

    session = open_crm(
        settings,
        connections=settings.max_in_flight,
        observe=reporter.posted,
        on_secret=on_secret,
        tracing=tracing,
    )
    return CrmSink(await stack.enter_async_context(session))


def _breaker(status: BreakerStatus) -> Breaker:
    shown: dict[str, Any] = {"state": str(status.state), "reason": status.reason}
    if status.open_for is not None:
        shown["open_seconds"] = round(status.open_for.total_seconds(), 1)
    if status.next_probe_in is not None:
        shown["next_probe_at"] = (datetime.now(UTC) + status.next_probe_in).replace(microsecond=0)
    return Breaker(**shown)


async def run(
    settings: Settings,
    on_password: Callable[[str], None] = lambda _: None,
    tracing: Tracing = UNTRACED,
) -> None:
    """Run a worker until SIGTERM or SIGINT; a second one stops it at once.

    Raises:
        ListenError: the port of the health endpoints can't be listened on.
        TopologyMismatchError: the broker's queues or exchanges differ from the settings.
        asyncio.CancelledError: a second signal came.
        RuntimeError: consuming ended without a stop. A worker is never connected but deaf.
    """
    stop = stop_on_signals()
    async with assemble(settings, on_password, tracing) as worker:
        served = health.serve(settings.http, metrics=worker.metrics, ready=worker.ready, status=worker.status)
        async with served:
            _log.info("started", version=__version__, sink=settings.sink.kind)
            watches = [
                asyncio.create_task(each.watch()) for each in (worker.clock, worker.lag, worker.prober)
            ]
            try:
                await worker.supervisor.run(stop)
            finally:
                for watch in watches:
                    watch.cancel()
            if not stop.is_set():
                raise RuntimeError("consuming ended without a stop")
    _log.info("stopped", **worker.reporter.counts)
