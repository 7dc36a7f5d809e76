"""The composition root: opens, runs, drains, closes. The only module that knows every room."""

import asyncio
import math
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import structlog

from worker import __version__
from worker.core.gate import GateStatus
from worker.core.gates import Gates
from worker.core.pipeline import Pipeline
from worker.core.ports import Sink
from worker.core.retry import RetryPolicy
from worker.core.tracing import UNTRACED, Tracing
from worker.observe import health
from worker.observe.lag import LoopLag
from worker.observe.metrics import Metrics
from worker.observe.report import Reporter
from worker.rabbitmq.connection import Supervisor
from worker.rabbitmq.intake import Intake
from worker.rabbitmq.publisher import BrokerPublisher
from worker.rabbitmq.settle import Settler
from worker.rabbitmq.topology import Topology, plan
from worker.settings import Settings
from worker.sinks import webhook
from worker.sinks.queue import QueueSink
from worker.vicidial import client as dialer
from worker.vicidial.clock import DialerClock
from worker.vicidial.enricher import VicidialEnricher
from worker.vicidial.guard import OPTIONAL
from worker.vicidial.probe import Prober

_log = structlog.get_logger()


@dataclass(frozen=True)
class Worker:
    """A worker, put together and not yet running."""

    supervisor: Supervisor
    reporter: Reporter
    gates: Gates
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
        """Let the metrics show the present state whenever they are read."""
        state, guard, clock = self.supervisor.state, self.dialer.guard, self.clock
        self.metrics.in_flight.set_function(lambda: state.in_flight)
        self.metrics.consuming.set_function(lambda: state.consuming)
        self.metrics.loop_lag.set_function(lambda: self.lag.longest)
        self.metrics.dialer_limit.set_function(lambda: guard.limit)
        self.metrics.dialer_refused.set_function(lambda: guard.refusal is not None)
        for function in OPTIONAL:
            self.metrics.dialer_left_out.labels(function).set_function(partial(guard.leaves_out, function))
        for gate in self.gates.status():
            self.reporter.show_gate(gate)
            closed = partial(self.gates.closed_seconds, gate.name)
            self.metrics.gate_closed_seconds.labels(gate.name).set_function(closed)
        self.metrics.dialer_clock_skew.set_function(lambda: math.nan if clock.skew is None else clock.skew)

    def ready(self) -> bool:
        """Tell whether it consumes, or is paused by a closed gate."""
        return self.supervisor.state.consuming

    def status(self) -> dict[str, Any]:
        """Give what `/status` shows."""
        state = self.supervisor.state
        return {
            "version": __version__,
            "started_at": self.started_at.isoformat(),
            "consuming": state.consuming,
            "broker": {"connections": state.connections, "last_error": state.last_error},
            "gates": {each.name: _gate(each) for each in self.gates.status()},
            "dialer": self._dialer(),
            "in_flight": state.in_flight,
            "queues": self.reporter.queues,
            "counts": self.reporter.counts,
        }

    def _dialer(self) -> dict[str, Any]:
        guard = self.dialer.guard
        refusal, wait = guard.refusal, self.gates.dialer.status().next_probe_in
        left_out = {function: why for function in OPTIONAL if (why := guard.left_out(function)) is not None}
        return {
            "limit": guard.limit,
            "refused": refusal,
            "next_try_in_seconds": round(wait.total_seconds()) if refusal and wait else None,
            "left_out": left_out,
            "clock_skew_seconds": self.clock.skew,
        }


@asynccontextmanager
async def assemble(
    settings: Settings,
    on_password: Callable[[str], None] = lambda _: None,
    tracing: Tracing = UNTRACED,
) -> AsyncIterator[Worker]:
    """Put a worker together; its HTTP sessions are closed at the end, `tracing` is not.

    `on_password` is told of each password that is read from its file again.
    """
    topology = plan(settings)
    publisher = BrokerPublisher(tracing=tracing)
    reporter = Reporter(Metrics())
    async with AsyncExitStack() as stack:
        changed = asyncio.Event()
        gates = _make_gates(settings, reporter, changed)
        client = await _open_dialer(settings, reporter, gates, on_password, tracing, stack)
        clock = DialerClock(settings.vicidial.timezone, client.version, on_outage=gates.dialer_failed)
        pipeline = Pipeline(
            VicidialEnricher(client, clock, settings.vicidial, on_hit=reporter.hit),
            await _open_sink(settings, topology, publisher, reporter, tracing, stack),
            _make_policy(settings),
            gates,
            zone=settings.vicidial.timezone or UTC,
            deliver_not_found=settings.vicidial.not_found == "deliver",
            duplicates_window=settings.duplicates_window,
        )
        make_intake = partial(
            Intake,
            pipeline,
            Settler(publisher, topology),
            topology,
            gates,
            max_in_flight=settings.max_in_flight,
            observer=reporter,
            tracing=tracing,
        )
        supervisor = Supervisor(
            settings.broker.url,
            topology,
            publisher,
            make_intake,
            settings.drain.total_seconds(),
            reporter,
        )
        prober = Prober(client, changed)
        worker = Worker(supervisor, reporter, gates, client, prober, clock, LoopLag(), datetime.now(UTC))
        worker.show()
        yield worker


def _make_policy(settings: Settings) -> RetryPolicy:
    return RetryPolicy(
        delays=settings.retry.delays,
        max_attempts=settings.retry.max_attempts,
        ready_within=settings.vicidial.ready_within,
    )


def _make_gates(settings: Settings, reporter: Reporter, changed: asyncio.Event) -> Gates:
    """Make the gates; `changed` is set whenever the state of one changes."""

    def on_change(status: GateStatus) -> None:
        reporter.gate(status)
        changed.set()

    return Gates(
        full=settings.max_in_flight,
        probe_max=settings.gates.probe_max,
        refused_probe=settings.gates.refused_probe,
        slow_start=True,
        on_change=on_change,
    )


async def _open_dialer(
    settings: Settings,
    reporter: Reporter,
    gates: Gates,
    on_password: Callable[[str], None],
    tracing: Tracing,
    stack: AsyncExitStack,
) -> dialer.DialerClient:
    session = await stack.enter_async_context(dialer.open_session(settings.vicidial))
    return dialer.DialerClient(
        settings.vicidial,
        session,
        gates,
        observe=reporter.asked,
        on_password=on_password,
        tracing=tracing,
    )


async def _open_sink(
    settings: Settings,
    topology: Topology,
    publisher: BrokerPublisher,
    reporter: Reporter,
    tracing: Tracing,
    stack: AsyncExitStack,
) -> Sink:
    if settings.sink.kind == "queue":
        return QueueSink(topology.outbound_exchange, publisher, reporter.posted)
    session = await stack.enter_async_context(webhook.open_session(settings.sink, settings.max_in_flight))
    return webhook.WebhookSink(settings.sink, session, reporter.posted, tracing=tracing)


def _gate(status: GateStatus) -> dict[str, Any]:
    shown: dict[str, Any] = {"state": status.state, "reason": status.reason}
    if status.closed_for is not None:
        shown["closed_seconds"] = round(status.closed_for.total_seconds(), 1)
    if status.next_probe_in is not None:
        shown["next_probe_at"] = (datetime.now(UTC) + status.next_probe_in).isoformat(timespec="seconds")
    return shown


async def run(
    settings: Settings,
    on_password: Callable[[str], None] = lambda _: None,
    tracing: Tracing = UNTRACED,
) -> None:
    """Run a worker until SIGTERM or SIGINT; a second one stops it at once.

    Raises `worker.observe.health.ListenError`, `TopologyMismatchError`,
    `asyncio.CancelledError` on the second signal, and `RuntimeError` where the
    consuming ended without a stop: a worker is never connected but deaf.
    """
    stop = asyncio.Event()
    _stop_on_signals(stop)
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


def _stop_on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    main = asyncio.current_task()

    def on_signal(name: str) -> None:
        if stop.is_set() and main is not None:
            _log.warning("stopping_now", signal=name)
            main.cancel()
        else:
            _log.info("stopping", signal=name)
            stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number.name)
