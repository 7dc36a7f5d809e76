"""Every metric, declared once with its sentence."""

from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from worker import __version__

CONTENT_TYPE = CONTENT_TYPE_LATEST
PREFIX = "crm_sync"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_AGES = (1, 5, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 14400, 86400)


@dataclass(frozen=True, slots=True)
class Declared:
    """A metric as the documents show it: its full name, kind, sentence, labels and buckets."""

    name: str
    kind: str
    sentence: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


_PROCESS = tuple(
    Declared(f"{PREFIX}_process_{name}", "counter" if name.endswith("_total") else "gauge", sentence)
    for name, sentence in (
        ("virtual_memory_bytes", "Virtual memory size in bytes."),
        ("resident_memory_bytes", "Resident memory size in bytes."),
        ("start_time_seconds", "Start time of the process since unix epoch in seconds."),
        ("cpu_seconds_total", "Total user and system CPU time spent in seconds."),
        ("open_fds", "Number of open file descriptors."),
        ("max_fds", "Maximum number of open file descriptors."),
    )
)
"""What prometheus-client measures of the process, on Linux."""


class _Declaring:
    """A registry of a process's metrics, and what was declared for it."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # no metric of its own for a counter's start
        self.registry = CollectorRegistry()
        self.declared: list[Declared] = []

    def _declare_process(self) -> None:
        self._gauge("build_info", "1, with the version as a label.", "version").labels(__version__).set(1)
        ProcessCollector(namespace=PREFIX, registry=self.registry)
        self.declared += _PROCESS

    def expose(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, sentence: str, *labels: str) -> Counter:
        name = f"{PREFIX}_{name}_total"
        self.declared.append(Declared(name, "counter", sentence, labels))
        return Counter(name, sentence, labels, registry=self.registry)

    def _gauge(self, name: str, sentence: str, *labels: str) -> Gauge:
        name = f"{PREFIX}_{name}"
        self.declared.append(Declared(name, "gauge", sentence, labels))
        return Gauge(name, sentence, labels, registry=self.registry)

    def _histogram(self, name: str, sentence: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        name = f"{PREFIX}_{name}"
        self.declared.append(Declared(name, "histogram", sentence, labels, buckets))
        return Histogram(name, sentence, labels, buckets=buckets, registry=self.registry)


class Metrics(_Declaring):
    """The worker's metrics, in a registry of their own."""

    def __init__(self) -> None:
        super().__init__()
        self._declare_events()
        self._declare_dialer()
        self._declare_sink()
        self._declare_breakers()
        self._declare_broker()
        self._declare_worker()

    def _declare_events(self) -> None:
        self.received = self._counter(
            "events_received",
            "Messages taken into work, by the type of their queue; each retry is one more.",
            "event_type",
        )
        self.settled = self._counter(
            "events_settled",
            "Events settled, by type and outcome (delivered, duplicate, retry, dead_letter).",
            "event_type",
            "outcome",
        )
        self.in_flight = self._gauge("in_flight", "Events in work at this moment.")
        self.age = self._histogram(
            "delivered_age_seconds",
            "Seconds from when an event happened to when its payload was delivered.",
            _AGES,
            "event_type",
        )
        self.stage = self._histogram(
            "stage_seconds", "Seconds that one step took for one event: enrich or deliver.", _SECONDS, "stage"
        )
        self.retries = self._counter(
            "retries", "Copies put into a retry queue, by the reason and the queue's delay.", "reason", "tier"
        )
        self.dead_letters = self._counter(
            "dead_letters",
            "Messages put into the dead letters, by reason; those that the broker moves there by itself"
            " (delivery_limit, expired) are not among them.",
            "reason",
        )

    def _declare_dialer(self) -> None:
        self.dialer_requests = self._counter(
            "dialer_requests", "Requests to the dialer, by function and outcome.", "function", "outcome"
        )
        self.dialer_seconds = self._histogram(
            "dialer_request_seconds",
            "Seconds that one request to the dialer took, by function.",
            _SECONDS,
            "function",
        )
        self.dialer_cache_hits = self._counter(
            "dialer_cache_hits", "Look-ups answered from the cache, by function.", "function"
        )
        self.dialer_limit = self._gauge("dialer_limit", "Requests to the dialer allowed at one time now.")
        self.dialer_refused = self._gauge(
            "dialer_refused", "1 while nothing is sent, because the dialer refused the login or a permission."
        )
        self.dialer_left_out = self._gauge(
            "dialer_function_left_out",
            "1 while an optional function is not asked, because it is refused or fails; its fields are null.",
            "function",
        )
        self.dialer_clock_skew = self._gauge(
            "dialer_clock_skew_seconds",
            "Seconds by which the dialer's clock is ahead of ours; NaN if unknown.",
        )

    def _declare_sink(self) -> None:
        self.sink_requests = self._counter(
            "sink_requests",
            "Deliveries tried, by the class of the webhook's status (2xx, 3xx, 4xx, 5xx, no_answer), or by"
            " what became of the outbound publish (confirmed, not_confirmed); for a CRM's own API each"
            " request.",
            "status",
        )

        self.crm_records = self._counter(
            "crm_records",
            "Calls delivered by a CRM's own API, by what became of the record (created, updated, duplicate,"
            " skipped), and whether it is linked to a contact (yes, no).",
            "outcome",
            "linked",
        )

    def _declare_breakers(self) -> None:
        self.circuit_breaker_state = self._gauge(
            "circuit_breaker_state",
            "1 for the state of a circuit breaker (closed, open, half_open, recovering), 0 for the others.",
            "breaker",
            "state",
        )
        self.circuit_breaker_open_seconds = self._gauge(
            "circuit_breaker_open_seconds",
            "Seconds since a circuit breaker opened, failed probes included; 0 if closed.",
            "breaker",
        )

    def _declare_broker(self) -> None:
        self.consuming = self._gauge("consuming", "1 while the worker consumes from the broker, else 0.")
        self.reconnects = self._counter(
            "broker_reconnects", "Times that the worker has begun to consume again after a connection broke."
        )
        self.queue_messages = self._gauge(
            "queue_messages",
            "Messages that wait in a queue, by its role (work, retry, dead_letters), as the broker reports"
            " every 15 s; those in work are not among them.",
            "queue",
            "role",
        )

    def _declare_worker(self) -> None:
        self.loop_lag = self._gauge(
            "event_loop_lag_seconds",
            "The longest time in the last 15 s that the event loop was late: something kept it busy.",
        )
        self._declare_process()


class IntakeMetrics(_Declaring):
    """The intake's metrics, in a registry of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.requests = self._counter(
            "intake_requests", "Requests to the intake, by endpoint and HTTP status.", "endpoint", "status"
        )
        self.seconds = self._histogram(
            "intake_request_seconds",
            "Seconds from the headers of a request to its answer, by endpoint.",
            _SECONDS,
            "endpoint",
        )
        self.events = self._counter(
            "intake_events",
            "Events accepted, by type and by where they were safe first (broker, spool).",
            "event_type",
            "stored",
        )
        self.spool_events = self._gauge(
            "intake_spool_events", "Events in the spool, which the broker has not confirmed yet."
        )
        self.spool_bytes = self._gauge("intake_spool_bytes", "Bytes in the folder of the spool.")
        self.set_aside = self._counter(
            "intake_set_aside",
            "Lines of the spool that were set aside because they can't be published (unreadable, refused).",
            "reason",
        )
        self.connected = self._gauge(
            "intake_broker_available", "1 while the broker takes the intake's messages, else 0."
        )
        self._declare_process()
