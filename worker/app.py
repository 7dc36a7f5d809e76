"""The composition root: opens, runs, drains, closes. The only module that knows every room."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog

from worker import __version__
from worker.core.pipeline import Pipeline
from worker.core.ports import Sink
from worker.core.retry import RetryPolicy
from worker.observe import health
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
from worker.vicidial.enricher import VicidialEnricher
from worker.vicidial.zone import DialerZone

_log = structlog.get_logger()


@dataclass(frozen=True)
class Worker:
    """A worker, put together and not yet running."""

    supervisor: Supervisor
    reporter: Reporter
    metrics: Metrics
    started_at: datetime

    def ready(self) -> bool:
        """Tell whether it consumes."""
        return self.supervisor.state.consuming

    def status(self) -> dict[str, Any]:
        """Give what `/status` shows."""
        state = self.supervisor.state
        return {
            "version": __version__,
            "started_at": self.started_at.isoformat(),
            "consuming": state.consuming,
            "broker": {"connections": state.connections, "last_error": state.last_error},
            "in_flight": state.in_flight,
            "counts": self.reporter.counts,
        }


@asynccontextmanager
async def assemble(settings: Settings) -> AsyncIterator[Worker]:
    """Put a worker together; its HTTP sessions are closed at the end."""
    topology = plan(settings)
    publisher = BrokerPublisher()
    metrics = Metrics()
    reporter = Reporter(metrics)
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(dialer.open_session(settings.vicidial))
        client = dialer.DialerClient(
            settings.vicidial, session, refused_probe=settings.gates.refused_probe, observe=reporter.asked
        )
        zone = DialerZone(settings.vicidial.timezone, client.version)
        sink = await _open_sink(settings, topology, publisher, stack)
        policy = RetryPolicy(
            delays=settings.retry.delays,
            max_attempts=settings.retry.max_attempts,
            ready_within=settings.vicidial.ready_within,
            refused_probe=settings.gates.refused_probe,
        )
        pipeline = Pipeline(
            VicidialEnricher(client, zone), sink, policy, zone=settings.vicidial.timezone or UTC
        )
        settler = Settler(publisher, topology)

        def make_intake() -> Intake:
            return Intake(
                pipeline, settler, topology, max_in_flight=settings.max_in_flight, observe=reporter.settled
            )

        supervisor = Supervisor(
            settings.broker.url,
            topology,
            publisher,
            make_intake,
            settings.drain.total_seconds(),
            metrics.connections.inc,
        )
        worker = Worker(supervisor, reporter, metrics, datetime.now(UTC))
        metrics.in_flight.set_function(lambda: supervisor.state.in_flight)
        metrics.consuming.set_function(lambda: supervisor.state.consuming)
        yield worker


async def _open_sink(
    settings: Settings, topology: Topology, publisher: BrokerPublisher, stack: AsyncExitStack
) -> Sink:
    if settings.sink.kind == "queue":
        return QueueSink(topology.outbound_exchange, publisher)
    session = webhook.open_session(settings.sink, settings.max_in_flight)
    return webhook.WebhookSink(settings.sink, await stack.enter_async_context(session))


async def run(settings: Settings) -> None:
    """Run a worker until SIGTERM or SIGINT; a second one stops it at once.

    Raises `OSError` where the health port is taken, `TopologyMismatchError`,
    `asyncio.CancelledError` on the second signal, and `RuntimeError` where the
    consuming ended without a stop: a worker is never connected but deaf.
    """
    stop = asyncio.Event()
    _stop_on_signals(stop)
    async with assemble(settings) as worker:
        served = health.serve(settings.http, metrics=worker.metrics, ready=worker.ready, status=worker.status)
        async with served:
            _log.info("started", version=__version__, sink=settings.sink.kind)
            await worker.supervisor.run(stop)
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
