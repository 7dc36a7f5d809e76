"""The table of what is broken. A group plays one after the other on one stage; groups play side by side."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.system.chaos import faults
from tests.system.chaos.faults import Fault, crm, dialer

CONSUMES_AGAIN_WITHIN = 30.0
"""Seconds after the heal in which the worker consumes again, whatever it was."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One fault, and what is special about it."""

    group: str
    name: str
    fault: Fault
    workers: int = 1
    settings: Mapping[str, str | None] = field(default_factory=dict)
    takes_events: bool = True
    """Whether events can be published while it lasts."""
    agents: bool = True
    """Whether the agents' queue stands throughout."""
    tolerated: frozenset[str] = frozenset()
    """Reasons for which any event may be dead-lettered."""
    notices_within: float = 3.0
    """Seconds in which a worker has to notice that it does not consume any more."""
    stays_ready: bool = False
    """Whether the worker has only to pause."""
    shows_late: bool = False
    """Whether it has to last for long to show."""
    long_only: bool = False
    """Whether it takes too long for every run of the tests."""
    deadline: float | None = None
    """Seconds in which it has to end, whatever happens; `None` for those of the pace."""

    @property
    def title(self) -> str:
        """The name by which it is known among all."""
        return f"{self.group}: {self.name}"


def _worker() -> list[Scenario]:
    group = "worker"
    return [
        Scenario(group, "killed (-9) again and again", faults.killed_again_and_again),
        Scenario(group, "SIGTERM under load", faults.terminated),
        Scenario(group, "one of 2 killed", faults.one_killed, workers=2),
        Scenario(group, "one of 4 killed", faults.one_killed, workers=4),
        Scenario(
            group,
            "a message that kills it, with neighbours",
            faults.poisoned,
            settings={"vicidial__timeout": "30s"},
        ),
    ]


def _broker() -> list[Scenario]:
    group = "broker"
    patient = {"vicidial__ready_within": "36s"}  # longer than a call stays unknown there
    return [
        Scenario(group, "stopped and started", faults.stopped, takes_events=False),
        Scenario(group, "killed (-9) and started", faults.crashed, takes_events=False),
        Scenario(group, "closes all connections", faults.connections_closed, takes_events=False),
        Scenario(group, "closes the consumer's", faults.connection_closed("crm-sync consumer")),
        Scenario(group, "closes the publisher's", faults.connection_closed("crm-sync publisher")),
        Scenario(group, "closes every channel", faults.channels_closed, takes_events=False),
        Scenario(group, "cancels a consumer", faults.consumer_cancelled, agents=False),
        Scenario(
            group,
            "retry queues full, then widened",
            faults.tiers_full("set_policy"),
            settings=patient,
            shows_late=True,
        ),
        Scenario(
            group,
            "retry queues full, then unlimited",
            faults.tiers_full("clear_policy", "full"),
            settings=patient,
            shows_late=True,
        ),
        Scenario(group, "memory alarm", faults.alarm, takes_events=False, shows_late=True),
    ]


def _network() -> list[Scenario]:
    group = "network"
    heartbeat = {"broker__url": "amqp://guest:guest@127.0.0.1:{port}/?heartbeat=2"}
    return [
        Scenario(group, "stalls", faults.stalled(lambda stage: stage.broker)),
        Scenario(group, "is cut", faults.cut(lambda stage: stage.broker)),
        Scenario(group, "is cut within a frame", faults.torn),
        Scenario(group, "is away", faults.unreachable(lambda stage: stage.broker)),
        Scenario(group, "loses connections in silence", faults.lost, settings=heartbeat, notices_within=10.0),
        Scenario(
            group,
            "loses them at rest, usual heartbeat",
            faults.lost_at_rest,
            notices_within=CONSUMES_AGAIN_WITHIN,
            long_only=True,
        ),
    ]


def _dialer() -> list[Scenario]:
    group = "dialer"
    by_file = {"vicidial__password": None, "vicidial__password_file": "{folder}/password"}
    broken = {
        "hangs": "hang",
        "drips": "drip",
        "resets": "reset",
        "resets within a body": "cut",
        "answers garbage": "garbage",
        "is no HTTP server": "not_http",
        "answers 100 MiB": "huge",
        "answers a gzip bomb": "bomb",
        "redirects without end": "redirect",
        "answers 500": "500",
        "answers nothing": "empty",
        "answers HTML": "html",
        "has no database": "mysql",
    }
    return [
        Scenario(group, "is down", faults.unreachable(lambda stage: stage.dialer), stays_ready=True),
        Scenario(group, "is cut off", faults.stalled(lambda stage: stage.dialer), stays_ready=True),
        *(Scenario(group, name, dialer(fault=fault), stays_ready=True) for name, fault in broken.items()),
        Scenario(group, "allows our address no more", dialer(ip_blocked=True), stays_ready=True),
        Scenario(
            group,
            "refuses the login",
            faults.password_wrong,
            # Nine in flight would rightly be the last for 15 minutes.
            settings={"vicidial__max_concurrency": "3"},
            stays_ready=True,
        ),
        Scenario(
            group,
            "gets another password, then the file",
            faults.password_changed,
            settings=by_file,
            stays_ready=True,
        ),
    ]


def _crm() -> list[Scenario]:
    group = "crm"
    broken = {
        "hangs": "hang",
        "drips": "drip",
        "resets": "reset",
        "resets within a body": "cut",
        "is no HTTP server": "not_http",
        "answers 100 MiB": "huge",
        "answers a gzip bomb": "bomb",
        "answers 500": "500",
        "answers nothing": "empty",
        "answers HTML": "html",
    }
    refused = frozenset({"rejected_by_sink"})
    return [
        Scenario(group, "is down", faults.unreachable(lambda stage: stage.crm), stays_ready=True),
        Scenario(group, "is cut off", faults.stalled(lambda stage: stage.crm), stays_ready=True),
        *(Scenario(group, name, crm(fault=fault), stays_ready=True) for name, fault in broken.items()),
        Scenario(group, "redirects without end", crm(fault="redirect"), tolerated=refused, stays_ready=True),
        Scenario(group, "answers 401", crm(answer=401), stays_ready=True),
        Scenario(group, "answers 403", crm(answer=403), stays_ready=True),
    ]


def _busy() -> list[Scenario]:
    group = "busy crm"
    forms = {
        "none": None,
        "1 second": "1",
        "a date in 2 seconds": faults.in_two_seconds,
        "a date long ago": "Wed, 21 Oct 2015 07:28:00 GMT",
        "garbage": "soon; ask my sister",
        "negative": "-5",
    }
    return [
        *(
            Scenario(group, f"{status}, Retry-After: {name}", faults.busy(status, value), stays_ready=True)
            for status in (429, 503)
            for name, value in forms.items()
        ),
        *(
            Scenario(group, f"{status}, Retry-After: a year", faults.far_too_busy(status))
            for status in (429, 503)
        ),
    ]


SCENARIOS = (*_worker(), *_broker(), *_network(), *_dialer(), *_crm(), *_busy())
"""Every scenario there is."""
