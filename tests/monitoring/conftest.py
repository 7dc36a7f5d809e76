"""One scene is played for all tests that ask Prometheus about it."""

import uuid
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.conftest import clear
from tests.monitoring.scene import Scene, played


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def scene(broker_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    name = f"t{uuid.uuid4().hex[:12]}"
    async with played(broker_url, tmp_path_factory.mktemp("scene"), name) as scene:
        yield scene
    await clear(broker_url, name)
