"""How many bytes of messages are in memory and in work at one time.

A prefetch counts messages, whatever their size. A body over `MAX_BODY` can be no event, and goes to the dead
letters at once; but many of them come at a time, and a broker takes up to 16 MiB each (before 4.0: 128 MiB).
So only a few of them are held. What is beyond that is dropped as it is read, and the broker moves the message
by itself. A body of up to `MAX_BODY` is held as bytes; what takes many times as much memory are the objects
that it is parsed into, so large ones are in work in turn.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from aiormq.abc import DeliveredMessage
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from worker.core.body import MAX_BODY

MAX_OVERSIZE = 4 * MAX_BODY
"""Bytes of bodies over `MAX_BODY` that are held at one time, all together."""
LARGE = 16 * 1024
"""From how many bytes on a body counts as large."""
MAX_LARGE_IN_WORK = MAX_BODY
"""Bytes of large bodies that are in work at one time, all together."""


class DroppedBody(bytes):
    """Stands for a body that was too large to be held. It has that body's length, and no content."""

    _size: int

    @classmethod
    def of(cls, size: int) -> "DroppedBody":
        """Return one of so many bytes."""
        body = cls()
        body._size = size
        return body

    def __len__(self) -> int:
        """Return how many bytes the message has."""
        return self._size


class Bodies:
    """The bodies in hand of one session."""

    def __init__(self) -> None:
        """Start with none."""
        self._oversize = 0
        self._large_in_work = 0
        self._turn = asyncio.Lock()
        self._ended = asyncio.Event()

    def watch(self, channel: Any) -> None:  # noqa: ANN401 - aiormq's own class, not the abstract one
        """Have a channel read bodies by this."""
        channel._read_content = partial(self._read, channel)  # noqa: SLF001 - aiormq offers no other place

    async def _read(self, channel: Any, delivery: Any, header: ContentHeader) -> DeliveredMessage:  # noqa: ANN401
        size, parts, count = header.body_size, list[bytes](), 0
        held = size <= MAX_BODY or self._oversize + size <= MAX_OVERSIZE
        if held and size > MAX_BODY:
            self._oversize += size
        while count < size:
            frame = await channel._get_frame()  # noqa: SLF001 - as above
            if not isinstance(frame, ContentBody):
                raise ConnectionError("the broker sent something else than the rest of a body")
            count += len(frame.value)
            if held:
                parts.append(frame.value)
        body = b"".join(parts) if held else DroppedBody.of(size)
        return DeliveredMessage(delivery=delivery, header=header, body=body, channel=channel)

    def forget(self, body: bytes) -> None:
        """Hold a body no more."""
        if len(body) > MAX_BODY and not isinstance(body, DroppedBody):
            self._oversize -= len(body)

    @asynccontextmanager
    async def in_work(self, body: bytes) -> AsyncIterator[None]:
        """Wait until a large body may be in work beside the others; they come in turn."""
        size = 0 if isinstance(body, DroppedBody) else len(body)
        if size < LARGE:
            yield
            return
        async with self._turn:
            while self._large_in_work and self._large_in_work + size > MAX_LARGE_IN_WORK:
                self._ended.clear()
                await self._ended.wait()
            self._large_in_work += size
        try:
            yield
        finally:
            self._large_in_work -= size
            self._ended.set()
