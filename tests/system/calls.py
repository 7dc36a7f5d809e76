"""Calls through their life, from the event to the CRM, each delivered field compared with what is true.

The stand-in dialer plans a shift of agents and says what is true of each call; nothing of that is derived
here. `python -m tests.system.calls --seconds 900 --wraps-up 5 60` plays it at the pace of real agents.
"""

import argparse
import asyncio
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import aio_pika

from tests.system.harness import Program, System

ELSEWHERE: Final = ("dialer", "--config", json.dumps({"utc_offset": -5 * 3600}))
"""A stand-in dialer whose local time is not the worker's."""

SETTLED_WITHIN: Final = 90.0
"""Seconds after the last disposition in which everything has ended, on a machine that is busy too."""

TIMES: Final = ("started_at", "ended_at")
MAY_BE_NULL: Final = frozenset({"ended_at", "duration_seconds", "recordings"})
"""What the dialer does not say of every call. Anything else that is null is wrong."""

_ORIGIN: Final = ("hang-up", "disposition")


@dataclass
class Case:
    """One call, the event about it, and what came of it."""

    truth: Mapping[str, Any]
    event: dict[str, Any]
    publish_at: float
    """The epoch seconds at which the event is published."""
    origin: str
    """What the event was published for: the hang-up or the disposition."""
    said: Mapping[str, Any] = field(default_factory=dict)
    """The call as it was delivered."""
    wrong: list[str] = field(default_factory=list)
    nulls: list[str] = field(default_factory=list)
    early: bool = False
    foreign: int = 0
    delay: float | None = None
    """Seconds from disposition and event, whichever is later, until the CRM had it."""
    requests: int = 0

    @property
    def id(self) -> str:
        """The event's id."""
        found: str = self.event["event_id"]
        return found

    @property
    def kind(self) -> str:
        """The kind of call, and whether it is days old."""
        return f"{self.truth['kind']}{', days old' if self.truth['late'] else ''}"

    @property
    def is_answered(self) -> bool:
        """Whether the dialer answers about this call, and not about another one or none."""
        return bool(self.truth["answered"] == "call")


def cases(truths: Iterable[Mapping[str, Any]], rng: random.Random, begin: float, spread: float) -> list[Case]:
    """Return an event for each call, at the hang-up or at the disposition, with more or less in it."""
    found = []
    for truth in truths:
        call, origin = truth["call"], rng.choice(_ORIGIN)
        happened = truth["hung_up_at" if origin == "hang-up" else "disposed_at"]
        event: dict[str, Any] = {
            "type": "call.ended",
            "event_id": str(uuid.UUID(int=rng.getrandbits(128))),
            "call_id": call["call_id"],
        }
        if rng.random() < 0.7 or truth["answered"] != "call":  # undated, "not found" would be waited for
            event["occurred_at"] = datetime.fromtimestamp(happened, UTC).isoformat()
        if rng.random() < 0.5:
            event["uniqueid"] = truth["uniqueid"]
        if rng.random() < 0.5:
            event["lead_id"] = call["lead_id"]
        if rng.random() < 0.2:
            event["ended_at"] = call["ended_at"]
        if call["agent_user"] is not None and rng.random() < 0.5:
            event["agent_user"] = call["agent_user"]
        if origin == "disposition" and rng.random() < 0.5:
            event["status"] = call["status"]
        late = begin + rng.uniform(0, spread)
        found.append(Case(truth, event, late if truth["late"] else happened + rng.uniform(0, 0.5), origin))
    return sorted(found, key=lambda each: each.publish_at)


async def play(system: System, seed: int, **shift: Any) -> list[Case]:  # noqa: ANN401 - the fields of a shift
    """Let the dialer plan a shift, publish an event for each call in time, and see what comes of it."""
    begin = time.time()
    said = await system.dialer.control(shift={"seed": seed, **shift})
    played = cases(said["shift"], random.Random(seed), begin, shift["seconds"])  # noqa: S311 - a plan
    async with await system.connect() as connection:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        exchange = await channel.get_exchange(f"{system.namespace}.events", ensure=False)
        for case in played:
            await asyncio.sleep(max(case.publish_at - time.time(), 0.0))
            body = json.dumps(case.event).encode()
            message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
            await exchange.publish(message, "call.ended", timeout=SETTLED_WITHIN)
    over = max(case.truth["disposed_at"] for case in played)
    await asyncio.sleep(max(over - time.time(), 0.0))
    await _all_settled(system, {case.id for case in played})
    await _judge(played, system)
    return played


async def _all_settled(system: System, wanted: set[str]) -> None:
    """Wait until each event is delivered or a dead letter. The log is long, so it is read seldom."""
    (worker,) = system.workers
    ends = ("delivered", "dead_letter")
    async with asyncio.timeout(SETTLED_WITHIN):
        while wanted - {line["event_id"] for line in worker.settled() if line["outcome"] in ends}:  # noqa: ASYNC110
            await asyncio.sleep(0.5)


async def _judge(played: list[Case], system: System) -> None:
    """Compare what the CRM got and what is in the dead letters with the truth."""
    asked = Counter(each["subject"] for each in (await system.dialer.report())["requests"])
    received: dict[str, list[dict[str, Any]]] = {}
    for each in (await system.crm.report())["received"]:
        received.setdefault(each["id"], []).append(each)
    dead = await _dead_letters(system)
    for case in played:
        case.requests = asked[case.truth["call"]["call_id"]]
        deliveries = received.get(case.id, [])
        if len(deliveries) != int(case.is_answered):
            case.wrong.append(f"delivered {len(deliveries)} times, dead letter {dead.get(case.id)}")
        elif not case.is_answered and dead.get(case.id) != "not_found":
            case.wrong.append(f"dead letter {dead.get(case.id)}")
        elif case.is_answered:
            data = json.loads(deliveries[0]["body"])["data"]
            case.delay = deliveries[0]["at"] - max(case.truth["disposed_at"], case.publish_at)
            judge_call(case, data)


async def _dead_letters(system: System) -> dict[str, str]:
    """Remove all dead letters, and return the reason of each by its event's id."""
    found = {}
    async with await system.connect() as connection:
        channel = await connection.channel()
        queue = await channel.get_queue(f"{system.namespace}.dead-letters", ensure=False)
        while (letter := await queue.get(no_ack=True, fail=False, timeout=SETTLED_WITHIN)) is not None:
            found[json.loads(letter.body)["event_id"]] = str(letter.headers["crm-sync-reason"])
    return found


def judge_call(case: Case, data: Mapping[str, Any]) -> None:
    """Compare what a payload says of a call with the truth."""
    call = case.said = data["call"]
    case.early = not data["final"] or call["status"] != case.truth["call"]["status"]
    for name, true in case.truth["call"].items():
        said = call[name]
        if said is None and true is not None:
            (case.nulls if name in MAY_BE_NULL else case.wrong).append(name)
        elif name == "recordings":
            own = {each["recording_id"]: each for each in true}
            case.foreign += len({each["recording_id"] for each in said} - own.keys())
            if sorted(map(_plain, said)) != sorted(map(_plain, true)):
                case.wrong.append(name)
        elif (_instant(said) != _instant(true)) if name in TIMES else (said != true):
            case.wrong.append(name)


def may_be_null(case: Case) -> set[str]:
    """Return the fields that neither the dialer nor the event holds."""
    agent, inbound = case.truth["agent_user"], case.truth["call"]["direction"] == "inbound"
    if "ended_at" in case.event:
        return set() if agent else {"recordings"}
    if not agent:
        return {"ended_at", "duration_seconds", "recordings"}
    if not inbound:
        return set()
    # The lead finds recordings of the agent's next call with it, too. Of an undated event they are in doubt.
    by_lead = "uniqueid" not in case.event or not case.truth["call"]["recordings"]
    in_doubt = by_lead and "occurred_at" not in case.event
    return {"ended_at", "duration_seconds", *(("recordings",) if in_doubt else ())}


def _plain(recording: Mapping[str, Any]) -> str:
    return json.dumps({**recording, "started_at": _instant(recording["started_at"])}, sort_keys=True)


def _instant(said: str | None) -> float | None:
    return None if said is None else datetime.fromisoformat(said).timestamp()


_COLUMNS: Final = "{:<29}{:>6}{:>6}{:>7}{:>5}{:>6}{:>6}{:>8}{:>7}{:>7}{:>7}{:>8}{:>8}{:>8}{:>10}"
_HEADER: Final = (
    *("kind of call", "calls", "right", "start", "end", "lead", "recs", "foreign", "other", "early"),
    *("nulls", "median", "95 %", "max", "requests"),
)


def table(played: Collection[Case]) -> str:
    """Write a line for each kind of call, and one for all: what was wrong, and how soon it was right."""
    kinds: dict[str, list[Case]] = {}
    origins: dict[str, list[Case]] = {}
    for case in played:
        kinds.setdefault(case.kind, []).append(case)
        if case.truth["agent_user"] is not None and not case.truth["late"]:
            origins.setdefault(f"agents' now, at {case.origin}", []).append(case)
    rows = [*sorted(kinds.items()), *sorted(origins.items()), ("all", [*played])]
    return "\n".join([_COLUMNS.format(*_HEADER), *(_row(*each) for each in rows)])


def _row(kind: str, group: list[Case]) -> str:
    wrong = Counter(name for case in group for name in case.wrong)
    named = ("started_at", "ended_at", "lead_id", "recordings")
    nulls = sum(1 for case in group if case.nulls)
    delays = delays_of(group)
    return _COLUMNS.format(
        kind,
        len(group),
        sum(1 for case in group if not case.wrong and not case.early),
        *(wrong[name] for name in named),
        sum(case.foreign for case in group),
        sum(count for name, count in wrong.items() if name not in named),
        sum(case.early for case in group),
        nulls,
        *(f"{each:.1f}" for each in delays),
        f"{statistics.mean(case.requests for case in group):.2f}",
    )


def told_wrong(played: Iterable[Case]) -> list[str]:
    """Describe each call that was delivered wrong, or before it was final: event, truth, and payload."""
    return [
        f"{case.kind}: {', '.join(case.wrong) or 'early'}\n  event {json.dumps(case.event)}\n"
        f"  truth {json.dumps(case.truth)}\n  delivered {json.dumps(case.said)}"
        for case in played
        if case.wrong or case.early or case.foreign
    ]


def delays_of(group: Iterable[Case]) -> tuple[float, float, float]:
    """Return median, 95th percentile and maximum of the seconds until the CRM had the calls."""
    found = sorted(case.delay for case in group if case.delay is not None) or [0.0]
    return statistics.median(found), found[math.ceil(0.95 * len(found)) - 1], found[-1]


def main() -> None:
    """Play one shift with a broker, a dialer and a CRM of its own, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.system.calls", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="to play it again")  # noqa: S311
    parser.add_argument("--seconds", type=float, default=900.0, help="how long the shift lasts")
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--talks", type=float, nargs=2, default=(5.0, 60.0), help="seconds of talk")
    parser.add_argument("--wraps-up", type=float, nargs=2, default=(5.0, 60.0), help="until the disposition")
    chosen = vars(parser.parse_args())
    _print(f"seed {chosen['seed']}")
    command = [sys.executable, "-m", "simulators.broker"]
    with (
        tempfile.TemporaryDirectory(prefix="crm-sync-calls-") as folder,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as broker,
    ):
        try:
            assert broker.stdout is not None
            url = json.loads(broker.stdout.readline())["url"]
            played = asyncio.run(_play_alone(url, Path(folder), **chosen))
        finally:
            broker.terminate()
    _print(table(played))
    _print("\n".join(told_wrong(played)))


async def _play_alone(url: str, folder: Path, **chosen: Any) -> list[Case]:  # noqa: ANN401 - the arguments
    system = System(url, "calls", folder, Program(*ELSEWHERE), Program("crm"))
    try:
        await system.start(**AS_SHIPPED)
        return await play(system, **chosen)
    finally:
        await system.end()
        system.dialer.end()
        system.crm.end()


AS_SHIPPED: Final = {
    "vicidial__ready_within": None,
    "vicidial__timeout": None,
    "sink__timeout": None,
    "retry__delays": None,
    "retry__max_attempts": None,
}
"""Settings of the tests that are left at their defaults."""


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
