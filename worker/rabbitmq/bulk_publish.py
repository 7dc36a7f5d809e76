"""Publish many events from lines, a window of them unconfirmed; know up to which line all are confirmed."""

import asyncio
import os
import select
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import aio_pika
from aio_pika.abc import DeliveryMode

from worker.core.errors import InvalidEvent
from worker.core.events import MAX_BODY, Event, Inbound, decode
from worker.rabbitmq.publisher import BrokerPublisher

WINDOW = 200
"""Publishes that are unconfirmed at one time."""

_CHUNK = 256 * 1024
_CHECK_STOP_EVERY = 0.2
"""Seconds between two checks whether to stop, while no input comes."""


class BadLine(Exception):
    """A line that is no event; neither it nor any after it was sent."""

    def __init__(self, number: int, problem: str) -> None:
        super().__init__(f"line {number}: {problem}")


@dataclass(frozen=True, slots=True)
class Line:
    """One line without its line break. `end` is the number of bytes up to the next one."""

    number: int
    end: int
    text: bytes


async def read_lines(descriptor: int, stop: asyncio.Event) -> AsyncIterator[Line]:
    """Read lines from a file or a pipe, however slow, in constant memory; ends early at `stop`.

    Raises `BadLine` for one that is longer than an event can be.
    """
    rest, number, end = b"", 0, 0
    while not stop.is_set():
        chunk = await asyncio.to_thread(_read, descriptor)
        if chunk is None:
            continue
        *whole, rest = (rest + chunk).split(b"\n")
        for text in whole:
            number, end = number + 1, end + len(text) + 1
            yield Line(number, end, text.removesuffix(b"\r"))
        if not chunk:
            if rest:
                yield Line(number + 1, end + len(rest), rest)
            return
        if len(rest) > MAX_BODY:
            raise BadLine(number + 1, f"longer than {MAX_BODY} bytes")


def _read(descriptor: int) -> bytes | None:
    """Read what there is; empty at the end, `None` if nothing came yet."""
    ready, _, _ = select.select([descriptor], [], [], _CHECK_STOP_EVERY)
    return os.read(descriptor, _CHUNK) if ready else None


def check_event(body: bytes) -> Event:
    """Read an event as the worker will. Raises `InvalidEvent`."""
    return decode(
        Inbound(
            body, routing_key="", first_seen=datetime.now(UTC), headers={}, content_type="application/json"
        )
    )


async def publish_event(publisher: BrokerPublisher, exchange: str, event: Event, body: bytes) -> None:
    """Publish an event's bytes unchanged, routed and confirmed. Raises `PublishError`."""
    message = aio_pika.Message(
        body,
        content_type="application/json",
        message_id=event.id,
        type=event.type,
        delivery_mode=DeliveryMode.PERSISTENT,
        timestamp=datetime.now(UTC),  # when it happened, if the event itself does not say
    )
    await publisher.publish_message(exchange, event.type, message)


class BulkPublisher:
    """Publishes lines in their order, with at most a window of them unconfirmed.

    `confirmed` is the last line such that it and all before it are confirmed,
    or blank, or were left out; `published` counts the events among them.
    """

    def __init__(
        self,
        publisher: BrokerPublisher,
        exchange: str,
        *,
        window: int = WINDOW,
        on_progress: Callable[["BulkPublisher"], None] = lambda _: None,
    ) -> None:
        self._publisher = publisher
        self._exchange = exchange
        self._window = window
        self._on_progress = on_progress
        self._open: deque[tuple[Line, asyncio.Task[None]]] = deque()
        self.confirmed = 0
        self.published = 0
        self.bytes = 0

    async def run(self, lines: AsyncIterator[Line], from_line: int = 1) -> None:
        """Publish every line from that number on.

        Raises `BadLine` or `PublishError`. What is on its way then, or at a cancellation, is still waited
        for: `confirmed` says how far it got.
        """
        try:
            async for line in lines:
                if line.number < from_line or not line.text.strip():
                    self._skip(line)
                    continue
                self._send(line)
                while len(self._open) >= self._window:
                    await self._confirm_first()
        finally:
            await self._confirm_rest()

    def _send(self, line: Line) -> None:
        try:
            event = check_event(line.text)
        except InvalidEvent as error:
            raise BadLine(line.number, str(error)) from error
        publishing = publish_event(self._publisher, self._exchange, event, line.text)
        self._open.append((line, asyncio.ensure_future(publishing)))

    def _skip(self, line: Line) -> None:
        if not self._open:
            self._advance(line)

    async def _confirm_first(self) -> None:
        line, task = self._open[0]
        await asyncio.wait([task])
        task.result()  # one that failed stays first, so that nothing after it counts
        self._open.popleft()
        self.published += 1
        self._advance(line)

    async def _confirm_rest(self) -> None:
        """Wait for what is on its way, within the publisher's deadline; the first failure ends the count."""
        try:
            while self._open:
                await self._confirm_first()
        finally:
            left = [task for _, task in self._open]
            self._open.clear()
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    def _advance(self, line: Line) -> None:
        self.confirmed, self.bytes = line.number, line.end
        self._on_progress(self)
