"""What `/status` answers, declared once: the worker writes it, and `crm-sync status` reads it."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, PlainSerializer

Moment = Annotated[datetime, PlainSerializer(datetime.isoformat)]


class _Part(BaseModel):
    """Whatever may be absent has a default: the worker may be an older or a newer one."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Broker(_Part):
    """The connection to the broker."""

    node: str | None = None
    connections: int = 0
    last_error: str | None = None


class Breaker(_Part):
    """One circuit breaker; the last two only if it is not closed."""

    state: str
    reason: str | None = None
    open_seconds: float | None = None
    next_probe_at: Moment | None = None


class Dialer(_Part):
    """The guard around the requests to the dialer, and its clock."""

    limit: int | float | None = None
    refused: str | None = None
    next_try_in_seconds: int | float | None = None
    left_out: dict[str, str] = {}
    clock_skew_seconds: float | None = None


class Status(_Part):
    """The state of a worker."""

    version: str = "of unknown version"
    started_at: Moment | None = None
    consuming: bool
    broker: Broker = Broker()
    circuit_breakers: dict[str, Breaker]
    dialer: Dialer = Dialer()
    in_flight: int = 0
    queues: dict[str, int] = {}
    counts: dict[str, int] = {}
