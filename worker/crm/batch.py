"""Collect the items of several events for one request, and share its answer among them."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

from worker.core.errors import MappingFailed, ProcessingError
from worker.crm.answers import Answer, SharedAnswer
from worker.crm.plan import CompiledBatch
from worker.crm.single_flight import own
from worker.crm.steps import HttpRequest

QUIET = 0.1
"""The part of its longest wait after which a batch is sent if no item came: all others may wait for it."""

_Group = tuple[Any, ...]


@dataclass(slots=True)
class _Open:
    """A batch that is still collected."""

    request: HttpRequest
    """The first one: all others are equal but for their items."""
    batch: CompiledBatch
    until: float
    """When it is sent at the latest, in the loop's time."""
    waiting: list[tuple[list[Any], asyncio.Future[Answer]]] = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None

    def stop(self) -> None:
        """Let its time not run out."""
        if self.timer is not None:
            self.timer.cancel()


class Collector:
    """Sends requests with a `batch` together with others of the same kind."""

    def __init__(self, send: Callable[[HttpRequest], Awaitable[Answer]]) -> None:
        """Send whole batches by `send`."""
        self._send = send
        self._open: dict[_Group, _Open] = {}
        self._sending: set[asyncio.Task[None]] = set()

    async def send(self, request: HttpRequest, batch: CompiledBatch) -> Answer:
        """Send the item of a request, and return the answer to the whole batch, with the item's place in it.

        Raises what sending the batch raises, and `MappingFailed` if the body has no items.
        """
        items, rest = _split(request, batch)
        group = (
            request.step,
            request.method,
            request.url,
            *(tuple(sorted(each.items())) for each in (request.query, request.headers)),
            batch.max,
            rest,
        )
        loop, wait = asyncio.get_running_loop(), batch.wait.total_seconds()
        opened = self._open.get(group)
        if opened is None:
            opened = self._open[group] = _Open(request, batch, loop.time() + wait)
        answer: asyncio.Future[Answer] = loop.create_future()
        opened.waiting.append((items, answer))
        if len(opened.waiting) >= batch.max:
            self._flush(group)
        else:
            opened.stop()
            opened.timer = loop.call_at(min(loop.time() + QUIET * wait, opened.until), self._flush, group)
        return await answer

    async def close(self) -> None:
        """End what is being sent."""
        for opened in self._open.values():
            opened.stop()
            for _, answer in opened.waiting:
                answer.cancel()
        self._open.clear()
        for task in self._sending:
            task.cancel()
        if self._sending:
            await asyncio.wait(self._sending)

    def _flush(self, group: _Group) -> None:
        opened = self._open.pop(group)
        opened.stop()
        task = asyncio.create_task(self._send_batch(opened))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send_batch(self, opened: _Open) -> None:
        waiting = [(items, answer) for items, answer in opened.waiting if not answer.done()]
        if not waiting:
            return  # all were cancelled
        items = [item for each, _ in waiting for item in each]
        try:
            whole = await self._send(
                replace(opened.request, body=_with_items(opened.request.body, opened.batch.at, items))
            )
        except asyncio.CancelledError:
            for _, answer in waiting:
                answer.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - whoever waits has to know, whatever it is
            for position, (_, answer) in enumerate(waiting):
                if not answer.done():
                    answer.set_exception(
                        own(error, shared=position > 0) if isinstance(error, ProcessingError) else error
                    )
        else:
            shared = SharedAnswer(len(waiting))
            for position, (_, answer) in enumerate(waiting):
                if not answer.done():
                    answer.set_result(replace(whole, shared=shared, position=position, reported=position > 0))


def _split(request: HttpRequest, batch: CompiledBatch) -> tuple[list[Any], str]:
    """Return the items of a body, and the rest of it as text."""
    items = request.body
    for name in batch.at:
        items = items.get(name) if isinstance(items, dict) else None
    if not isinstance(items, list) or not items:
        raise MappingFailed(
            f"{request.step}.body: there is no list of items at {'.'.join(batch.at) or 'its root'}"
        )
    rest = _with_items(request.body, batch.at, [])
    return items, json.dumps(rest, sort_keys=True, default=str)


def _with_items(body: Any, at: tuple[str, ...], items: list[Any]) -> Any:
    if not at:
        return items
    first, *rest = at
    return {**body, first: _with_items(body[first], tuple(rest), items)}
