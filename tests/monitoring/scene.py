"""A real worker does real work while a real Prometheus looks; the tests then ask about it."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import aiohttp

from tests.monitoring.prometheus import Prometheus, watching
from tests.system.harness import Program, System, Worker, call_ended, eventually

RULES: Final = Path(__file__).parents[2] / "k8s" / "monitoring" / "alerts.yaml"
PHONE: Final = "3125550187"
AGENT: Final = "zoequinn"
LEAD: Final = 70012345
TOKEN: Final = "a-token_of-the-tests"
_CALLS = 1000
_AT_ONCE = 4
_EVERY = 0.2
_REPORTS = 15
_SEEN_WITHIN = 10.0
_COUNTED_WITHIN = 25.0
"""The worker counts what waits in the queues every 15 s."""


@dataclass
class Scene:
    """What was played, and what it left."""

    prometheus: Prometheus
    started: float
    ended: float = 0.0
    exposition: str = ""
    """What `/metrics` said in the end."""
    personal: set[str] = field(default_factory=set)
    """Everything about single calls and people that passed through the worker."""


@asynccontextmanager
async def system_at(
    broker_url: str, folder: Path, namespace: str, *dialer_options: str
) -> AsyncIterator[System]:
    """Yield stand-ins of its own, which end with the block, as do the workers."""
    async with AsyncExitStack() as stack:
        dialer = Program("dialer", *dialer_options)
        stack.callback(dialer.end)
        crm = Program("crm")
        stack.callback(crm.end)
        system = System(broker_url, namespace, folder, dialer, crm)
        stack.callback(_kill, system.workers)
        yield system
        await system.end()


def _kill(workers: Iterable[Worker]) -> None:
    for worker in workers:
        if worker.process.poll() is None:
            worker.kill()


@asynccontextmanager
async def played(broker_url: str, folder: Path, namespace: str) -> AsyncIterator[Scene]:
    """Play it, and leave Prometheus to be asked for as long as the block runs."""
    async with AsyncExitStack() as stack:
        async with system_at(broker_url, folder, namespace, "--delay", "0.05") as system:
            worker = await system.start(vicidial__ready_within="1s")
            intake = _intake_of(system)
            ports = [await worker.listening(), await intake.listening()]
            watch = watching(ports, folder, RULES)
            scene = Scene(await stack.enter_async_context(watch), time.time())
            await _Play(system, scene, f"http://127.0.0.1:{ports[1]}").all()
            scene.exposition = (await worker.get("/metrics"))[1]
            scene.ended = time.time()
        yield scene


def _intake_of(system: System) -> Worker:
    """Start an intake in the same namespace; it ends with the workers."""
    (system.folder / "token").write_text(TOKEN, encoding="utf-8")
    settings = {
        "CRM_SYNC_BROKER__URL": system.broker_url,
        "CRM_SYNC_BROKER__NAMESPACE": system.namespace,
        "CRM_SYNC_INTAKE__PORT": "0",
        "CRM_SYNC_INTAKE__SPOOL": str(system.folder / "spool"),
        "CRM_SYNC_INTAKE__TOKEN_FILES": str(system.folder / "token"),
    }
    intake = Worker(settings, system.folder, "intake")
    system.workers.append(intake)
    return intake


async def end_some(system: System, calls: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Publish that so many calls of the list end now, and remove them from it. Return these events."""
    now = datetime.now(UTC).isoformat()
    ended = [calls.pop() | {"occurred_at": now} for _ in range(count)]
    await system.publish_all(ended)
    return ended


class _Play:
    """What happens, one act after the other, while calls keep coming."""

    def __init__(self, system: System, scene: Scene, intake: str) -> None:
        self._system, self._scene, self._intake = system, scene, intake
        self._calls: list[dict[str, Any]] = []

    async def all(self) -> None:
        await self._system.dialer.control(agents={AGENT: {"campaigns": ["SALES1"]}})
        calls = await self._system.calls(_CALLS, phone=PHONE, user=AGENT)
        self._calls = [call | {"lead_id": LEAD, "agent_user": AGENT} for call in calls]
        self._scene.personal |= {PHONE, AGENT, str(LEAD)}
        feeding = asyncio.create_task(self._feed())
        try:
            await self._sees('sum(rate(crm_sync_events_settled_total{outcome="delivered"}[5s])) > 1')
            for _ in range(_REPORTS):
                await self._report(self._calls.pop())
                await asyncio.sleep(_EVERY)
            await self._some_are_buried()
            await self._the_dialer_breaks()
            await self._the_login_is_refused()
            await self._a_function_is_refused()
            await self._sees("max(crm_sync_circuit_breaker_open_seconds) == 0")
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
        await self._sees("max(crm_sync_in_flight) == 0")

    async def _feed(self) -> None:
        """Let calls end, and agents be onboarded."""
        while True:
            onboarding = {"event_id": str(uuid.uuid4()), "agent_user": AGENT}
            self._note(onboarding)
            await self._system.publish(onboarding, "agent.onboarded")
            self._note(*await end_some(self._system, self._calls, _AT_ONCE))
            await asyncio.sleep(_EVERY)

    async def _report(self, call: dict[str, Any]) -> None:
        """Have the intake take a call, as VICIdial does."""
        self._note(call)
        query = {"token": TOKEN, "call_id": call["call_id"]}
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self._intake}/vicidial/call-ended", params=query) as response,
        ):
            assert response.status == 200

    async def _some_are_buried(self) -> None:
        """Bury one that nobody can read, one that the dialer does not know, and one that the CRM refuses."""
        unknown, refused = call_ended(), self._calls.pop()
        self._note(unknown, refused)
        await self._system.crm.control(fail_ids={refused["event_id"]: [422]})
        await self._system.publish_all([b"{", unknown, refused])
        for reason in ("invalid_event", "not_found", "rejected_by_sink"):
            await self._sees(f'crm_sync_dead_letters_total{{reason="{reason}"}} == 1')
        await self._sees('ALERTS{alertname="CrmSyncDeadLetters", alertstate="firing"}')

    async def _the_dialer_breaks(self) -> None:
        await self._system.dialer.control(fault="500")
        await self._sees('crm_sync_circuit_breaker_state{breaker="dialer", state="open"} == 1')
        await self._sees('max(crm_sync_queue_messages{role="work"}) > 0', _COUNTED_WITHIN)
        await self._system.dialer.control(fault=None)

    async def _the_login_is_refused(self) -> None:
        await self._sees('crm_sync_circuit_breaker_state{breaker="dialer", state="open"} == 0')
        await self._system.dialer.control(ip_blocked=True)
        await self._sees("crm_sync_dialer_refused == 1")
        await self._sees('ALERTS{alertname="CrmSyncLoginRefused", alertstate="pending"}')
        await self._system.dialer.control(ip_blocked=False)

    async def _a_function_is_refused(self) -> None:
        """Refuse the API user an optional function; it stays left out until the end."""
        await self._system.dialer.control(
            users={"crmsync": {"functions": ["callid_info", "agent_campaigns"]}}
        )
        await self._sees("max(crm_sync_dialer_function_left_out) == 1")

    def _note(self, *events: dict[str, Any]) -> None:
        for event in events:
            self._scene.personal |= {str(event[key]) for key in ("event_id", "call_id") if key in event}

    async def _sees(self, condition: str, within: float = _SEEN_WITHIN) -> None:
        """Wait until Prometheus sees that a condition holds."""
        try:
            await eventually(lambda: self._scene.prometheus.holds(condition), within)
        except TimeoutError:
            raise AssertionError(f"not seen within {within:g} s: {condition}") from None
