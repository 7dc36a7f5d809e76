"""One scene is played for all tests that ask Prometheus about it."""

import asyncio
import uuid
from collections.abc import AsyncIterator

import aio_pika
import pytest
import pytest_asyncio

from tests.conftest import EXCHANGES, QUEUES, TIERS
from tests.monitoring.scene import Scene, played


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def scene(broker_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    name = f"t{uuid.uuid4().hex[:12]}"
    async with played(broker_url, tmp_path_factory.mktemp("scene"), name) as scene:
        yield scene
    async with asyncio.timeout(30), await aio_pika.connect(broker_url) as connection:
        channel = await connection.channel()
        for part in (*QUEUES, *(f"retry.{delay}" for delay in TIERS)):
            await channel.queue_delete(f"{name}.{part}")
        for part in (*EXCHANGES, *(f"retry.{delay}" for delay in TIERS)):
            await channel.exchange_delete(f"{name}.{part}")
