"""The ways in which things break. Each is a context: broken from its beginning on, healed at its end."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

from tests.system.chaos.account import BURIED, Published
from tests.system.chaos.proxy import Proxy
from tests.system.chaos.stage import Stage
from tests.system.harness import PASSWORD, cancelled, eventually

Fault = Callable[[Stage], AbstractAsyncContextManager[None]]
Pick = Callable[[Stage], Proxy]

_FRESH = 20
_MOST_DEATHS = 40
_BETWEEN_LOOKS = 0.1
_BACK_WITHIN = 120.0

# --- the worker


@asynccontextmanager
async def killed_again_and_again(stage: Stage) -> AsyncIterator[None]:
    for _ in range(stage.pace.kills):
        await asyncio.sleep(stage.rng.uniform(0.3, 2))  # while it starts, too
        stage.kill(stage.rng.choice(stage.workers))
        stage.spawn()
    yield


@asynccontextmanager
async def terminated(stage: Stage) -> AsyncIterator[None]:
    await stage.dismiss()
    yield
    stage.spawn()


@asynccontextmanager
async def one_killed(stage: Stage) -> AsyncIterator[None]:
    stage.kill(stage.rng.choice(stage.workers))
    yield
    stage.spawn()


@asynccontextmanager
async def poisoned(stage: Stage) -> AsyncIterator[None]:
    """Kill the worker whenever it has asked for the call of one event, until the event is a dead letter."""
    poison = stage.load.call(fate=BURIED)
    await stage.system.dialer.control(plant={poison.call_id: {"fault": "hang"}})
    await stage.publish([poison])
    deaths = 0
    while deaths < _MOST_DEATHS and await _asked_for(stage, poison):
        stage.kill(stage.workers[0])
        stage.spawn()
        deaths += 1
    stage.notes.append(f"buried after {deaths} deaths")
    yield
    await stage.system.dialer.control(unplant=True)


async def _asked_for(stage: Stage, poison: Published) -> bool:
    """Wait until a worker asks the dialer for its call; tell whether it did, or it is a dead letter."""
    sighted = asyncio.create_task(stage.dialer.sees(poison.call_id.encode()))

    async def decided() -> bool:
        await asyncio.sleep(_BETWEEN_LOOKS)
        await stage.take_dead()
        return sighted.done() or any(letter.id == poison.id for letter in stage.dead)

    try:
        await eventually(decided, _BACK_WITHIN)
        return sighted.done()
    finally:
        await cancelled(sighted)


# --- the broker


@asynccontextmanager
async def stopped(stage: Stage) -> AsyncIterator[None]:
    stage.cuts += 1
    await stage.node.halt()
    yield
    await stage.node.start()


@asynccontextmanager
async def crashed(stage: Stage) -> AsyncIterator[None]:
    stage.cuts += 1
    await stage.node.kill()
    yield
    await stage.node.start()


@asynccontextmanager
async def connections_closed(stage: Stage) -> AsyncIterator[None]:
    for _ in range(stage.pace.kills):
        await _pause(stage)
        stage.cuts += 1
        await stage.node.ctl("close_all_connections", "as an operator does")
    yield


def connection_closed(name: str) -> Fault:
    @asynccontextmanager
    async def fault(stage: Stage) -> AsyncIterator[None]:
        listed = await stage.node.ctl("list_connections", "pid", "client_properties")
        (line,) = [line for line in listed.splitlines() if name in line]
        stage.cuts += 1
        await stage.node.ctl("close_connection", line.split("\t")[0], "as an operator does")
        yield

    return fault


@asynccontextmanager
async def channels_closed(stage: Stage) -> AsyncIterator[None]:
    """Let the broker find a fault in what each channel said: an acknowledgement of nothing."""
    stage.cuts += 1
    ack = "{'basic.ack', 4000000, false}"
    await stage.node.ctl("eval", f"[rabbit_channel_common:do(C, {ack}) || C <- rabbit_channel:list()].")
    yield


@asynccontextmanager
async def consumer_cancelled(stage: Stage) -> AsyncIterator[None]:
    """Delete a queue in which nothing stands: the broker cancels its consumer."""
    stage.cuts += 1
    async with await stage.system.connect() as connection:
        channel = await connection.channel()
        await channel.queue_delete(f"{stage.name}.agent-onboarded", if_empty=False)
    yield


def tiers_full(*heal: str) -> Fault:
    """Let no retry queue take a copy, until this rabbitmqctl command about the policy."""

    @asynccontextmanager
    async def fault(stage: Stage) -> AsyncIterator[None]:
        waiting = stage.pace.long_hold  # events that need a retry for as long as there is no room for one
        before = _sessions(stage)
        await stage.node.ctl("set_policy", *_limit(stage, 0))
        schedule = [[0, "not_found"], [waiting, "final"]]
        await stage.publish([stage.load.call(schedule=schedule) for _ in range(_FRESH)])
        yield
        command, *arguments = heal
        await stage.node.ctl(command, *(arguments or _limit(stage, 100_000)))
        for worker in stage.workers:
            await worker.ready()
        ended = _sessions(stage) - before
        stage.notes.append(f"{ended} times it began anew, as a copy was refused")
        stage.cuts += ended

    return fault


def _sessions(stage: Stage) -> int:
    """Count how often the workers have begun to consume."""
    return sum(len(worker.events("consuming")) for worker in stage.workers)


def _limit(stage: Stage, length: int) -> tuple[str, ...]:
    pattern, rule = f"^{stage.name}\\.retry\\.", json.dumps({"max-length": length})
    return ("--apply-to", "queues", "full", pattern, rule)


@asynccontextmanager
async def alarm(stage: Stage) -> AsyncIterator[None]:
    stage.cuts += 1
    await stage.node.ctl("set_vm_memory_high_watermark", "0.000001")
    yield
    await stage.node.ctl("set_vm_memory_high_watermark", "0.4")


# --- the network


def stalled(pick: Pick) -> Fault:
    @asynccontextmanager
    async def fault(stage: Stage) -> AsyncIterator[None]:
        stage.cuts += 1  # what was given up as too late arrives all the same
        pick(stage).stall()
        yield
        await pick(stage).open()

    return fault


def unreachable(pick: Pick) -> Fault:
    @asynccontextmanager
    async def fault(stage: Stage) -> AsyncIterator[None]:
        stage.cuts += 1
        await pick(stage).refuse()
        yield
        await pick(stage).open()

    return fault


def cut(pick: Pick) -> Fault:
    @asynccontextmanager
    async def fault(stage: Stage) -> AsyncIterator[None]:
        for _ in range(stage.pace.kills):
            await _pause(stage)
            stage.cuts += 1
            pick(stage).cut()
        yield

    return fault


@asynccontextmanager
async def torn(stage: Stage) -> AsyncIterator[None]:
    for _ in range(stage.pace.kills):
        stage.cuts += 1
        stage.broker.tear()
        await asyncio.sleep(stage.rng.uniform(0.1, 0.5))
        await stage.broker.open()
        await _pause(stage)
    yield


@asynccontextmanager
async def lost(stage: Stage) -> AsyncIterator[None]:
    stage.cuts += 1
    stage.broker.lose()
    yield
    await stage.broker.open()


@asynccontextmanager
async def lost_at_rest(stage: Stage) -> AsyncIterator[None]:
    """Lose the connections while nothing goes through them, so that only a heartbeat can tell."""

    async def at_rest() -> bool:
        before = await stage.accepted()
        await asyncio.sleep(2)
        return await stage.accepted() == before

    await eventually(at_rest, _BACK_WITHIN)
    async with lost(stage):
        yield


# --- the dialer and the CRM


def dialer(**broken: Any) -> Fault:  # noqa: ANN401 - JSON
    healed = {"fault": None, "delay": 0.02, "ip_blocked": False}
    return _controlled("dialer", broken, {name: healed[name] for name in broken})


def crm(**broken: Any) -> Fault:  # noqa: ANN401 - JSON
    return _controlled("crm", broken, {"fault": None, "delay": 0, "answer": 200, "retry_after": None})


def busy(status: int, retry_after: str | Callable[[], str] | None) -> Fault:
    @asynccontextmanager
    async def fault(stage: Stage) -> AsyncIterator[None]:
        value = retry_after() if callable(retry_after) else retry_after
        async with crm(answer=status, retry_after=value)(stage):
            yield

    return fault


def far_too_busy(status: int) -> Fault:
    """It asks to come back in a year: only a new worker asks sooner."""

    @asynccontextmanager
    async def fault(stage: Stage) -> AsyncIterator[None]:
        async with crm(answer=status, retry_after=str(365 * 24 * 3600))(stage):
            yield
            await stage.dismiss()
        stage.spawn()

    return fault


def in_two_seconds() -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)


@asynccontextmanager
async def password_wrong(stage: Stage) -> AsyncIterator[None]:
    """Somebody changes the password on the dialer, and changes it back."""
    await stage.system.dialer.control(password={"crmsync": "Another-Pass-2"})
    yield
    await stage.system.dialer.control(password={"crmsync": PASSWORD})


@asynccontextmanager
async def password_changed(stage: Stage) -> AsyncIterator[None]:
    """Somebody changes the password on the dialer, and later in the worker's file."""
    await stage.system.dialer.control(password={"crmsync": "Another-Pass-2"})
    yield
    (stage.folder / "password").write_text("Another-Pass-2")


def _controlled(who: str, broken: dict[str, Any], healed: dict[str, Any]) -> Fault:
    @asynccontextmanager
    async def fault(stage: Stage) -> AsyncIterator[None]:
        program = getattr(stage.system, who)
        await program.control(**broken)
        yield
        await program.control(**healed)

    return fault


async def _pause(stage: Stage) -> None:
    """Let the workers come back, and have something to do when the next blow comes."""
    before = await stage.accepted()
    await stage.publish(stage.load.batch(_FRESH))

    async def progressed() -> bool:
        return await stage.accepted() > before

    await eventually(progressed, _BACK_WITHIN)
