"""While a dependency is down: intake pauses, nothing is lost or blamed, and it comes back gently."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.system.harness import Program, System, Worker, eventually

pytestmark = [pytest.mark.system, pytest.mark.verify]

CALLS, AGENTS = "call-ended", "agent-onboarded"


@pytest.fixture
async def own_dialer(system: System) -> AsyncIterator[Program]:
    """Yield a dialer of the test's own, which the system then uses."""
    system.dialer = dialer = Program("dialer")
    yield dialer
    dialer.end()


def onboarded(count: int) -> list[dict[str, Any]]:
    return [{"event_id": f"a-{n}", "agent_user": "1000"} for n in range(count)]


async def breaker_of(worker: Worker, name: str = "dialer") -> dict[str, Any]:
    found: dict[str, Any] = (await worker.status())["circuit_breakers"][name]
    return found


async def becomes(worker: Worker, state: str, name: str = "dialer", within: float = 10) -> None:
    async def is_so() -> bool:
        return bool((await breaker_of(worker, name))["state"] == state)

    await eventually(is_so, within)


async def idle(worker: Worker) -> None:
    """Wait until nothing is in work."""

    async def nothing_in_work() -> bool:
        return bool((await worker.status())["in_flight"] == 0)

    await eventually(nothing_in_work)


async def stand_ready(system: System, count: int, queue: str) -> None:
    """Wait until so many events stand in the queue and the first tier."""

    async def so_many() -> bool:
        return bool(await system.depth(queue) + await system.depth("retry.200ms") == count)

    await eventually(so_many)


def attempts(worker: Worker) -> set[int]:
    return {line["attempt"] for line in worker.settled("retry")}


async def asked(system: System, function: str = "callid_info") -> Counter[str]:
    """Count the look-ups, by what was asked about."""
    requests = (await system.dialer.report())["requests"]
    return Counter(each["subject"] for each in requests if each["function"] == function)


def may_be_in_work(successes: int) -> int:
    """Return the capacity after so many successes: one until the first, then two, four, …"""
    return 1 << (successes + 1).bit_length() - 1


async def peaks_of_a_recovery(worker: Worker, dialer: Program, system: System) -> list[int]:
    """Refuse our address for a while; return the most requests at once at capacities 1, 2 and 4."""
    await dialer.control(ip_blocked=True)
    await system.publish_all(await system.calls(80))
    await becomes(worker, "open")
    await idle(worker)
    before = len((await dialer.report())["requests"])
    await dialer.control(ip_blocked=False)
    await system.delivered(within=20)
    requests = (await dialer.report())["requests"][before:]
    spans = [(each["at"], each["at"] + each["seconds"]) for each in requests if each["outcome"] == "ok"]
    most: Counter[int] = Counter()
    for began, _ in spans:
        capacity = may_be_in_work(sum(end <= began for _, end in spans))
        at_once = sum(other <= began < end for other, end in spans)
        assert at_once <= capacity
        most[capacity] = max(most[capacity], at_once)
    return [most[capacity] for capacity in (1, 2, 4)]


class TestTheDialer:
    @pytest.mark.parametrize("fault", ["500", "reset", "hang"])
    async def test_an_outage_pauses_the_intake_and_ends_with_everything_delivered(
        self, system: System, fault: str
    ) -> None:
        worker = await system.start(
            vicidial__timeout="300ms",
            retry__max_attempts="2",
            max_in_flight="8",
            circuit_breakers__probe_max="300ms",
        )
        await system.dialer.control(fault=fault)
        await system.publish_all(await system.calls(60))
        await eventually(lambda: len(worker.events("circuit_half_open")) >= 4)
        await system.publish_all(await system.calls(40))
        before = len(worker.settled())
        assert before < 60, "probes, and what was in hand"
        assert await system.depth(CALLS) >= 80
        await system.dialer.control(fault=None)
        found = await system.delivered(within=20)
        assert {len(deliveries) for deliveries in found.values()} == {1}
        assert attempts(worker) == {1}
        assert {line["reason"] for line in worker.settled("retry")} <= {"dialer_outage", "circuit_open"}
        await becomes(worker, "closed")
        await system.nothing_dead()

    async def test_what_an_operator_sees_of_it(self, system: System) -> None:
        worker = await system.start(circuit_breakers__probe_max="30s")
        states = {name: each["state"] for name, each in (await worker.status())["circuit_breakers"].items()}
        assert states == dict.fromkeys(("dialer", "sink", "callid_info", "agent_campaigns"), "closed")
        await system.dialer.control(fault="500")
        events = await system.calls(30)
        await system.publish_all(events)
        await eventually(lambda: len(worker.events("circuit_open")) >= 2)
        breaker = await breaker_of(worker)
        assert breaker["state"] == "open"
        assert "answered 500" in breaker["reason"]
        assert breaker["open_seconds"] > 0
        assert datetime.fromisoformat(breaker["next_probe_at"]) > datetime.now(UTC).replace(microsecond=0)
        assert (await worker.get("/readyz"))[0] == 200
        assert (await worker.status())["consuming"] is True
        metrics = (await worker.get("/metrics"))[1]
        shown = dict(
            line.rsplit(" ", 1)
            for line in metrics.splitlines()
            if line.startswith("crm_sync_circuit_breaker")
        )
        assert shown['crm_sync_circuit_breaker_state{breaker="dialer",state="open"}'] == "1.0"
        assert shown['crm_sync_circuit_breaker_state{breaker="dialer",state="closed"}'] == "0.0"
        assert shown['crm_sync_circuit_breaker_state{breaker="sink",state="closed"}'] == "1.0"
        assert float(shown['crm_sync_circuit_breaker_open_seconds{breaker="dialer"}']) > 0
        assert float(shown['crm_sync_circuit_breaker_open_seconds{breaker="sink"}']) == 0
        first, again = worker.events("circuit_open")[:2]
        assert (first["level"], first["breaker"], again["level"]) == ("warning", "dialer", "info")
        assert "answered 500" in first["reason"]
        assert 0.7 < first["next_probe_seconds"] < 1.3
        await system.dialer.control(fault=None)
        await system.publish_all(await system.calls(40))  # the ramp ends after 63
        await system.delivered(within=15)
        await becomes(worker, "closed")
        changes = [line["event"] for line in worker.lines() if line.get("breaker") == "dialer"]
        assert changes[:3] == ["circuit_open", "circuit_half_open", "circuit_open"]
        assert changes[-3:] == ["circuit_half_open", "circuit_recovering", "circuit_closed"]
        assert (await breaker_of(worker))["reason"] is None

    async def test_it_comes_back_gently(self, own_dialer: Program, system: System) -> None:
        """One at a time, then two, then four, as the dialer itself sees it."""
        worker = await system.start(vicidial__recording_lookup="false")  # one request an event
        await own_dialer.control(delay=0.06)
        await system.publish_all(await system.calls(100))
        await system.delivered(within=20)
        assert (await worker.status())["dialer"]["limit"] >= 4, "the client's own limit is not in the way"
        for _ in range(3):  # while the client measures the dialer anew, its own limit is in the way
            if await peaks_of_a_recovery(worker, own_dialer, system) == [1, 2, 4]:
                break
        else:
            pytest.fail("the capacity was never used")
        assert worker.events("circuit_closed")

    async def test_a_lone_events_outage_is_never_held_against_it(self, system: System) -> None:
        worker = await system.start(retry__max_attempts="1")
        await system.dialer.control(fault="500")
        await system.publish(await system.call())
        await eventually(lambda: len(worker.events("circuit_half_open")) >= 8, 20)
        assert len(worker.settled("retry")) <= 8, "no event is needed to see whether it works again"
        await system.dialer.control(fault=None)
        await system.delivered()
        await system.nothing_dead()

    @pytest.mark.parametrize("poison", [{"status": 500}, {"fault": "hang"}, {"status": 403}], ids=str)
    async def test_calls_at_which_it_always_fails_hold_up_none_behind_them(
        self, own_dialer: Program, system: System, poison: dict[str, Any]
    ) -> None:
        """Eight stand at the head of the queue, and nothing else comes but the fifty behind them."""
        worker = await system.start(
            retry__max_attempts="3", vicidial__timeout="300ms", vicidial__recording_lookup="false"
        )
        await worker.stop()
        bad, good = await system.calls(8), await system.calls(50)
        await own_dialer.control(plant={each["call_id"]: poison for each in bad})
        await system.publish_all(bad)
        await system.publish_all(good)
        worker = await system.start(
            retry__max_attempts="3", vicidial__timeout="300ms", vicidial__recording_lookup="false"
        )
        await system.delivered(*(each["event_id"] for each in good), within=20)
        ids = {each["event_id"] for each in bad}
        dead = {str((await system.dead_letter(within=60)).headers["crm-sync-event-id"]) for _ in bad}
        assert dead == ids
        letters = worker.settled("dead_letter")
        assert {line["reason"] for line in letters} == {"attempts_exhausted"}
        last = max(line["duration_ms"] for line in letters)
        assert last < 5000, "asking our own question takes no longer"
        asked = Counter(each["subject"] for each in (await own_dialer.report())["requests"])
        assert asked["M0000000000000000000"] <= 100

    async def test_a_refused_login_pauses_both_kinds(
        self, own_dialer: Program, system: System, tmp_path: Path
    ) -> None:
        file = tmp_path / "password"
        file.write_text("Dialer-Pass-1")
        worker = await system.start(
            circuit_breakers__refused_probe="2s", vicidial__password=None, vicidial__password_file=str(file)
        )
        await own_dialer.control(password={"crmsync": "Changed-Pass-2"})
        await system.publish(await system.call())
        await becomes(worker, "open")
        await system.publish_all(await system.calls(10))
        await system.publish_all(onboarded(10), "agent.onboarded")
        await idle(worker)
        assert "LOGIN INCORRECT" in (await breaker_of(worker))["reason"].upper()
        assert await system.depth(CALLS) >= 10
        assert await system.depth(AGENTS) == 10
        await asyncio.sleep(3)  # longer than `circuit_breakers.refused_probe`
        assert (await own_dialer.report())["failed_logins"] == 1, (
            "the same password can only be refused again"
        )
        file.write_text("Changed-Pass-2")
        await system.delivered(within=15)
        assert (await own_dialer.report())["failed_logins"] == 1
        assert attempts(worker) == {1}

    @pytest.mark.parametrize(
        ("held_up", "function", "other"),
        [(AGENTS, "agent_campaigns", "callid_info"), (CALLS, "callid_info", "agent_campaigns")],
    )
    async def test_a_missing_permission_pauses_the_events_that_need_it(
        self, own_dialer: Program, system: System, held_up: str, function: str, other: str
    ) -> None:
        extras = ["campaigns_list", "user_details", "recording_lookup"]
        limited = {"password": "Limited-1", "functions": [other, *extras]}
        await own_dialer.control(users={"limited": limited})
        worker = await system.start(vicidial__user="limited", vicidial__password="Limited-1")
        calls, agents = await system.calls(40), onboarded(40)
        await system.publish_all(calls)
        await system.publish_all(agents, "agent.onboarded")
        others = calls if held_up == AGENTS else agents
        await system.delivered(*(each["event_id"] for each in others))
        states = {name: each["state"] for name, each in (await worker.status())["circuit_breakers"].items()}
        assert states.pop(function) != "closed"
        assert set(states.values()) == {"closed"}
        await stand_ready(system, 40, held_up)
        assert {line["breaker"] for line in worker.events("circuit_open")} == {function}
        assert (await worker.get("/readyz"))[0] == 200
        await own_dialer.control(users={"limited": {"functions": [function, other, *extras]}})
        await system.delivered(within=15)
        assert attempts(worker) == {1}


class TestTheSink:
    @pytest.mark.parametrize(
        ("trouble", "reason"),
        [
            ({"script": [403] * 1000}, "sink_refused"),
            ({"script": [429] * 1000, "retry_after": 1}, "sink_busy"),
            ({"fault": "reset"}, "sink_outage"),
        ],
        ids=["it refuses us", "it is busy", "it can't be reached"],
    )
    async def test_nothing_is_looked_up_that_would_only_wait_and_nothing_twice(
        self, system: System, trouble: dict[str, Any], reason: str
    ) -> None:
        worker = await system.start(max_in_flight="8", retry__max_attempts="2")
        before = await asked(system)
        await system.crm.control(**trouble)
        await system.publish_all(await system.calls(60))
        await becomes(worker, "open", "sink")
        await eventually(lambda: len(worker.events("circuit_half_open")) >= 3)
        now = await asked(system)
        probes = len(worker.events("circuit_half_open"))
        assert (now - before).total() <= 8 + 5 + probes + 1, "those in hand, and the probes"
        await system.crm.control(script=[], fault=None, retry_after=None)
        await system.delivered(within=20)
        assert set((await asked(system) - before).values()) == {1}, "what is known is carried"
        assert attempts(worker) == {1}
        assert {line["reason"] for line in worker.settled("retry")} <= {reason, "circuit_open"}
        await system.nothing_dead()

    async def test_its_wish_to_be_left_alone_is_honoured(self, system: System) -> None:
        worker = await system.start(max_in_flight="1")
        await system.crm.control(script=[429], retry_after=2)
        await system.publish_all(await system.calls(20))
        await system.delivered(within=15)
        received = (await system.crm.report())["received"]
        assert [each["status"] for each in received] == [429] + [200] * 20
        assert received[1]["at"] - received[0]["at"] >= 2
        assert worker.events("circuit_open")[0]["next_probe_seconds"] == 2.0

    async def test_an_event_that_it_alone_is_refused_holds_up_no_other_and_ends(self, system: System) -> None:
        """A firewall before the CRM dislikes what it says."""
        worker = await system.start(retry__max_attempts="3", circuit_breakers__refused_probe="1h")
        await system.publish_all(await system.calls(5))
        await system.delivered()
        odd = await system.calls(3)
        await system.crm.control(fail_ids={each["event_id"]: [403] * 100 for each in odd})

        async def all_have_ended() -> bool:
            await system.publish_all(await system.calls(4))
            return len(worker.settled("dead_letter")) == 3

        for each in odd:
            await system.publish(each)
            await system.publish_all(await system.calls(2))
            others = [name for name in system.published if name not in {each["event_id"] for each in odd}]
            await system.delivered(*others)
        await eventually(all_have_ended, 30)
        for _ in odd:
            dead = await system.dead_letter()
            assert dead.headers["crm-sync-reason"] == "rejected_by_sink"
            assert "answered 403" in str(dead.headers["crm-sync-error"])
            assert dead.headers["crm-sync-attempt"] == 3
        assert worker.events("circuit_open") == []

    async def test_a_secret_that_is_revoked_pauses_all_and_costs_nothing(self, system: System) -> None:
        worker = await system.start(retry__max_attempts="2", circuit_breakers__refused_probe="1s")
        await system.publish_all(await system.calls(20))
        await system.delivered()
        await system.crm.control(script=[403] * 1000)
        await system.publish_all(await system.calls(60))
        await becomes(worker, "open", "sink")
        await eventually(lambda: len(worker.events("circuit_half_open")) >= 3, 20)
        await system.crm.control(script=[])
        await system.delivered(within=20)
        assert attempts(worker) == {1}
        await system.nothing_dead()


class TestAnOptionalFunction:
    async def test_one_that_hangs_slows_no_call_and_is_shown(
        self, own_dialer: Program, system: System
    ) -> None:
        """300 calls in some seconds, although each that waited for it would take half a second."""
        worker = await system.start(vicidial__timeout="500ms")
        calls = [
            each | {"uniqueid": f"{1795269909 + n}.101"} for n, each in enumerate(await system.calls(300))
        ]
        plants = {f"recording_lookup:{each['uniqueid']}": {"fault": "hang"} for each in calls}
        await own_dialer.control(plant=plants)
        began = time.monotonic()
        await system.publish_all(calls)
        found = await system.delivered(within=30)
        print(f"300 calls in {time.monotonic() - began:.1f} s")  # noqa: T201 - a measurement
        payloads = [json.loads(each[0]["body"]) for each in found.values()]
        assert all(each["data"]["call"]["recordings"] is None for each in payloads)
        (failing,) = worker.events("dialer_extra_failing")
        assert (failing["function"], failing["null"], failing["level"]) == (
            "recording_lookup",
            "recordings",
            "warning",
        )
        status = await worker.status()
        assert {breaker["state"] for breaker in status["circuit_breakers"].values()} == {"closed"}
        assert "did not answer within 0.5 s" in status["dialer"]["left_out"]["recording_lookup"]
        metrics = (await worker.get("/metrics"))[1]
        assert 'crm_sync_dialer_function_left_out{function="recording_lookup"} 1.0' in metrics
        assert 'crm_sync_dialer_function_left_out{function="user_details"} 0.0' in metrics
        asked = Counter(each["function"] for each in (await own_dialer.report())["requests"])
        assert asked["recording_lookup"] < 30


class TestStopping:
    async def stop(self, system: System, worker: Worker, within: float = 3) -> None:
        """Stop it, and let a new worker find everything: all is delivered, once."""
        assert await worker.stop(within) == 0
        await system.dialer.control(fault=None, delay=0)
        await system.start()
        found = await system.delivered(within=20)
        assert {len(deliveries) for deliveries in found.values()} == {1}
        assert {line["attempt"] for each in system.workers for line in each.settled()} == {1}
        await system.nothing_dead()

    async def test_while_closed(self, system: System) -> None:
        worker = await system.start(circuit_breakers__refused_probe="5m")
        await system.dialer.control(ip_blocked=True)
        await system.publish_all(await system.calls(20))
        await becomes(worker, "open")
        await idle(worker)
        await system.dialer.control(ip_blocked=False)
        await self.stop(system, worker)

    async def test_while_a_probe_hangs(self, system: System) -> None:
        worker = await system.start(
            drain="500ms", vicidial__timeout="20s", circuit_breakers__probe_max="200ms"
        )
        await system.dialer.control(fault="500")
        await system.publish_all(await system.calls(20))
        await becomes(worker, "open")
        await idle(worker)
        await system.dialer.control(fault="hang")

        async def it_hangs() -> bool:
            return bool((await system.dialer.report())["concurrent"] == 1)

        await eventually(it_hangs)
        assert (await breaker_of(worker))["state"] == "half_open"
        assert (await worker.status())["in_flight"] == 0, "no event is needed for it"
        await self.stop(system, worker)

    async def test_while_it_ramps_up(self, system: System) -> None:
        worker = await system.start(circuit_breakers__probe_max="200ms")
        await system.dialer.control(fault="500")
        await system.publish_all(await system.calls(60))
        await becomes(worker, "open")
        await idle(worker)
        await system.dialer.control(fault=None, delay=0.2)
        await becomes(worker, "recovering")
        await self.stop(system, worker, 5)


async def test_a_worker_with_a_closed_gate_is_idle(system: System) -> None:
    worker = await system.start(circuit_breakers__refused_probe="5m")
    await system.dialer.control(ip_blocked=True)
    await system.publish_all(await system.calls(200))
    await becomes(worker, "open")
    await idle(worker)
    process = psutil.Process(worker.process.pid)
    before = sum(process.cpu_times()[:2])
    await asyncio.sleep(2)
    used = sum(process.cpu_times()[:2]) - before
    print(f"{used / 2:.1%} of a core while closed")  # noqa: T201 - a measurement
    assert used < 0.2
    await system.dialer.control(ip_blocked=False)
