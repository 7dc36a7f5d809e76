"""The decision about one inbound, as a value. Acting on it is settling (`worker.rabbitmq.settle`)."""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from worker.core.errors import Reason


class Stage(StrEnum):
    """How far an event got."""

    DECODE = "decode"
    ENRICH = "enrich"
    DELIVER = "deliver"


@dataclass(frozen=True, slots=True)
class Ack:
    """The payload was delivered: acknowledge the inbound."""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The same event was delivered a moment ago, which is this one's successor too: acknowledge it."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Put a copy into the tier with this delay, to be taken up as this attempt.

    `attempt` is the inbound's own number where the failure is not the event's fault.
    """

    tier: timedelta
    attempt: int
    label: str
    error: str


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Put a copy into the dead letters, for a person to look at."""

    reason: Reason
    error: str


Disposition = Ack | Duplicate | Retry | DeadLetter
