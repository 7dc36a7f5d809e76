"""Every metric, declared once with its sentence."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from worker import __version__

CONTENT_TYPE = CONTENT_TYPE_LATEST

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_AGES = (1, 5, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 14400, 86400)


class Metrics:
    """The worker's metrics, in a registry of their own."""

    def __init__(self) -> None:
        """Declare them all."""
        self.registry = CollectorRegistry()
        self.settled = Counter(
            "crm_sync_events_settled_total",
            "Events settled, by type and by what became of them (delivered, retry, dead_letter).",
            ["event_type", "outcome"],
            registry=self.registry,
        )
        self.retries = Counter(
            "crm_sync_retries_total",
            "Copies put into a retry queue, by the cause.",
            ["cause"],
            registry=self.registry,
        )
        self.dead_letters = Counter(
            "crm_sync_dead_letters_total",
            "Messages put into the dead letters, by reason.",
            ["reason"],
            registry=self.registry,
        )
        self.age = Histogram(
            "crm_sync_delivered_age_seconds",
            "Seconds from when an event happened to when its payload was delivered.",
            ["event_type"],
            buckets=_AGES,
            registry=self.registry,
        )
        self.stage = Histogram(
            "crm_sync_stage_seconds",
            "Seconds that one step took for one event: enrich or deliver.",
            ["stage"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.dialer_requests = Counter(
            "crm_sync_dialer_requests_total",
            "Requests to the dialer, by function and outcome.",
            ["function", "outcome"],
            registry=self.registry,
        )
        self.dialer_seconds = Histogram(
            "crm_sync_dialer_request_seconds",
            "Seconds that one request to the dialer took, by function.",
            ["function"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.in_flight = Gauge("crm_sync_in_flight", "Events in work at this moment.", registry=self.registry)
        self.consuming = Gauge(
            "crm_sync_consuming",
            "1 while the worker consumes from the broker, else 0.",
            registry=self.registry,
        )
        self.connections = Counter(
            "crm_sync_broker_connections_total",
            "How often the worker has begun to consume, the first time included.",
            registry=self.registry,
        )
        info = Gauge(
            "crm_sync_build_info", "1, with the version as a label.", ["version"], registry=self.registry
        )
        info.labels(__version__).set(1)

    def expose(self) -> bytes:
        """Write all metrics in Prometheus' text format."""
        return generate_latest(self.registry)
