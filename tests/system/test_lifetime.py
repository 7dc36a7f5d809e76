"""From start to end: how a worker stops, and what it refuses to start with."""

import signal
import socket
from typing import Any

import pytest

from tests.adapters.raw import closed_port
from tests.system.harness import System, Worker, eventually

pytestmark = pytest.mark.system

SIGTERM, SIGINT = signal.SIGTERM, signal.SIGINT


class TestStopping:
    @pytest.mark.parametrize("number", [SIGTERM, SIGINT])
    async def test_what_is_in_work_finishes_and_nothing_is_lost(
        self, system: System, number: signal.Signals
    ) -> None:
        worker = await system.start(max_in_flight="4")
        await system.dialer.control(delay=0.2)
        await system.publish_all(await system.calls(20))
        await eventually(lambda: len(worker.settled()) >= 2)
        worker.signal(number)
        await eventually(lambda: worker.events("stopping"))
        assert await worker.exit() == 0
        done = {line["event_id"] for line in worker.settled("delivered")}
        found = await system.delivered(*done)
        assert found.keys() == done
        assert worker.events("stopped")[0]["delivered"] == len(done)
        assert not worker.events("drain_incomplete")
        assert await system.depth("call-ended") == 20 - len(done) > 0
        await system.dialer.control(delay=0)
        await system.start()
        found = await system.delivered()
        assert {len(deliveries) for deliveries in found.values()} == {1}

    async def test_it_is_not_ready_while_it_drains(self, system: System) -> None:
        worker = await system.start()
        await system.dialer.control(delay=0.8)
        await system.publish(await system.call())
        await eventually(lambda: worker_is_busy(worker))
        worker.signal(SIGTERM)
        await eventually(lambda: worker.events("stopping"))
        assert await worker.get("/readyz") == (503, "not consuming\n")
        assert (await worker.get("/livez"))[0] == 200
        assert await worker.exit() == 0
        await system.delivered()

    async def test_a_second_signal_stops_it_at_once(self, system: System) -> None:
        worker = await system.start(drain="60s", vicidial__timeout="60s")
        await system.dialer.control(fault="hang")
        events = await system.calls(3)
        await system.publish_all(events)
        await eventually(lambda: worker_is_busy(worker, 3))
        worker.signal(SIGTERM)
        await eventually(lambda: worker.events("stopping"))
        worker.signal(SIGTERM)
        assert await worker.exit(3) == 1
        assert "stopped at once" in worker.text
        await system.dialer.control(fault=None)
        await system.start()
        found = await system.delivered()
        assert {len(deliveries) for deliveries in found.values()} == {1}
        expect_one_stray_sentence(system, worker, "stopped at once")

    async def test_what_outlasts_the_drain_is_requeued(self, system: System) -> None:
        worker = await system.start(drain="300ms", vicidial__timeout="60s")
        slow, quick = await system.calls(2)
        await system.dialer.control(plant={slow["call_id"]: {"fault": "hang"}})
        await system.publish(quick)
        await eventually(lambda: worker.settled("delivered"))
        await system.publish(slow)
        await eventually(lambda: worker_is_busy(worker))
        assert await worker.stop(5) == 0
        (left,) = worker.events("drain_incomplete")
        assert left["requeued"] == 1
        assert await system.depth("call-ended") == 1
        await system.dialer.control(unplant=True)
        await system.start()
        await system.delivered(slow["event_id"], quick["event_id"])

    async def test_while_the_broker_is_away(self, system: System) -> None:
        worker = system.spawn(broker__url=f"amqp://guest:guest@127.0.0.1:{closed_port()}/")
        await eventually(lambda: worker.events("broker_unreachable"))
        assert (await worker.get("/readyz"))[0] == 503
        assert (await worker.get("/livez"))[0] == 200
        assert await worker.stop(2) == 0

    async def test_before_it_has_begun(self, system: System) -> None:
        worker = system.spawn()
        await eventually(lambda: worker.events("listening"))
        assert await worker.stop(5) == 0


def worker_is_busy(worker: Worker, count: int = 1) -> Any:  # noqa: ANN401 - an awaitable for `eventually`
    async def busy() -> bool:
        return bool((await worker.status())["in_flight"] >= count)

    return busy()


def expect_one_stray_sentence(system: System, worker: Worker, sentence: str) -> None:
    (line,) = worker.complaints()
    assert sentence in line["stray"]
    system.may_complain = True


class TestStarting:
    async def test_the_health_port_is_taken(self, system: System) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            worker = system.spawn(http__port=str(port))
            assert await worker.exit() == 1
        assert f"can't listen on 127.0.0.1:{port}" in worker.text
        assert "Traceback" not in worker.text
        system.may_complain = True

    async def test_wrong_settings_are_all_named_at_once(self, system: System) -> None:
        worker = system.spawn(
            vicidial__url="nonsense", retry__delays="5s,1s", max_in_flight="0", sink__url=None, typo="1"
        )
        assert await worker.exit() == 2
        for name in ("VICIDIAL__URL", "RETRY__DELAYS", "MAX_IN_FLIGHT", "SINK__URL", "TYPO"):
            assert f"CRM_SYNC_{name}" in worker.text
        assert "Traceback" not in worker.text
        system.may_complain = True

    async def test_a_login_that_the_broker_refuses(self, system: System) -> None:
        """The worker keeps trying: an operator may be about to create the user."""
        user_and_host = system.broker_url.split("@")[1]
        worker = system.spawn(broker__url=f"amqp://guest:Wrong-Secret-9@{user_and_host}")
        await eventually(lambda: worker.events("broker_unreachable"))
        assert "refused the login" in worker.events("broker_unreachable")[0]["error"]
        assert (await worker.get("/readyz"))[0] == 503
        assert "Wrong-Secret-9" not in worker.text
        assert await worker.stop(3) == 0
