"""The worker as it is put together, as far as no broker is needed to see it."""

import asyncio
import json
import os
import signal
import socket
from datetime import UTC, datetime
from typing import Any, Literal, get_args

import pytest
from pydantic import SecretStr

from tests.adapters.raw import closed_port
from worker import __version__, app
from worker.observe.health import ListenError
from worker.settings import BrokerSettings, HttpSettings, Settings, SinkSettings, VicidialSettings
from worker.settings.tree import CrmSettings

Kind = Literal["webhook", "queue", "crm"]
CRM: dict[str, Any] = {"preset": "hubspot", "token": "pat-na1-secret-password"}


def chosen(*, kind: Kind = "webhook", http_port: int = 0) -> Settings:
    url = SecretStr("http://127.0.0.1:1/") if kind == "webhook" else None
    return Settings(
        broker=BrokerSettings(url=(SecretStr(f"amqp://127.0.0.1:{closed_port()}/"),)),
        vicidial=VicidialSettings(url="http://127.0.0.1:1/", user="u", password=SecretStr("secret-password")),
        sink=SinkSettings(kind=kind, url=url, crm=CrmSettings(**CRM) if kind == "crm" else CrmSettings()),
        http=HttpSettings(host="127.0.0.1", port=http_port),
    )


@pytest.mark.parametrize("kind", get_args(Kind))
async def test_a_worker_is_put_together_without_a_broker(kind: Kind) -> None:
    async with app.assemble(chosen(kind=kind)) as worker:
        assert not worker.ready()
        status = worker.status()
        assert json.loads(json.dumps(status)) == status
        assert datetime.fromisoformat(status["started_at"]) <= datetime.now(UTC)
        assert (status["version"], status["consuming"], status["in_flight"]) == (__version__, False, 0)
        assert status["counts"] == {"delivered": 0, "duplicate": 0, "retry": 0, "dead_letter": 0}
        assert b"crm_sync_consuming 0.0" in worker.metrics.expose()
        assert b"crm_sync_in_flight 0.0" in worker.metrics.expose()
        assert "secret-password" not in repr(worker)


async def test_a_port_that_is_taken_ends_it_before_it_consumes() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ListenError, match="address already in use"):
            await app.run(chosen(http_port=taken.getsockname()[1]))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_a_worker_that_never_found_its_broker(number: signal.Signals) -> None:
    running = asyncio.ensure_future(app.run(chosen()))
    await asyncio.sleep(0)  # it has begun, and minds signals
    os.kill(os.getpid(), number)
    async with asyncio.timeout(10):
        await running


async def test_a_second_signal_ends_it_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stopping = asyncio.Event()

    async def go_on(_: object, stop: asyncio.Event) -> None:
        await stop.wait()
        stopping.set()
        await asyncio.Event().wait()

    monkeypatch.setattr("worker.app.Supervisor.run", go_on)
    running = asyncio.ensure_future(app.run(chosen()))
    await asyncio.sleep(0)
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(10):
        await stopping.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(asyncio.CancelledError):
            await running


async def test_a_worker_that_ends_without_a_stop_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def end(_: object, __: asyncio.Event) -> None:
        return

    monkeypatch.setattr("worker.app.Supervisor.run", end)
    with pytest.raises(RuntimeError, match="without a stop"):
        await app.run(chosen())
