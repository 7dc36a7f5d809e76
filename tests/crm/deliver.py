"""Delivering into a stand-in, with the settings that it names."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from simulators.crms.base import CrmStandIn
from worker.commands.event_schemas import payloads
from worker.core.errors import DeliveryUnavailable, ProcessingError
from worker.core.payload import Payload
from worker.core.ports import Receipt
from worker.crm.session import CrmSession, open_crm
from worker.crm.sink import CrmSink
from worker.settings import Settings

CALL, AGENT = "call.enriched", "agent.enriched"


def settings_for(crm: Mapping[str, Any], **more: Any) -> Settings:  # noqa: ANN401 - other sections
    """Return settings with this section `sink.crm`."""
    dialer = {"url": "https://dialer.example/api.php", "user": "api", "password": "hunter2-hunter2"}
    return Settings.model_validate({"vicidial": dialer, "sink": {"kind": "crm", "crm": crm}, **more})


@dataclass
class Worker:
    """Delivers as a worker does: a failed event comes again with its progress."""

    session: CrmSession
    sink: CrmSink
    statuses: list[str]
    secrets: list[str]
    failures: list[ProcessingError] = field(default_factory=list)

    async def deliver(
        self,
        kind: str = CALL,
        *,
        progress: str | None = None,
        **changes: Any,  # noqa: ANN401 - fields
    ) -> Receipt:
        """Deliver the example's payload with some fields of its call changed."""
        payload = json.loads(json.dumps(payloads()[kind]))
        payload["data"].get("call", {}).update(changes)
        body = json.dumps(payload).encode()
        return await self.sink.deliver(Payload(payload["data"]["event_id"], kind, body, progress))

    async def deliver_in_the_end(self, kind: str = CALL, tries: int = 5, **changes: Any) -> Receipt:  # noqa: ANN401
        """Deliver, and again after each failure and the wait that it asks for."""
        progress = None
        for _ in range(tries):
            try:
                return await self.deliver(kind, progress=progress, **changes)
            except ProcessingError as error:
                self.failures.append(error)
                progress = error.progress or progress
                if isinstance(error, DeliveryUnavailable) and error.retry_after is not None:
                    await asyncio.sleep(min(error.retry_after.total_seconds(), 3.0))
        raise self.failures[-1]


@asynccontextmanager
async def worker_for(crm: CrmStandIn | Mapping[str, Any], **more: Any) -> AsyncIterator[Worker]:  # noqa: ANN401
    """Open a worker that delivers into a stand-in; `more` are other sections of the settings."""
    own = crm.settings() if isinstance(crm, CrmStandIn) else crm
    statuses: list[str] = []
    secrets: list[str] = []
    settings = settings_for(own, **more)
    async with open_crm(settings, observe=statuses.append, on_secret=secrets.append) as session:
        yield Worker(session, CrmSink(session), statuses, secrets)
