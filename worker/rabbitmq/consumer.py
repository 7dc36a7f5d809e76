"""The consumer of both work queues, from start to stop, with one task for each message.

While a circuit breaker is open nothing is consumed: the queues hold the backlog. What was in hand goes back
by way of the first tier. A half-open breaker gets a single message as its probe, as soon as nothing else is
in work behind it; after that, as many as it has capacity for.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Protocol

import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection
from aiormq import spec
from aiormq.abc import AbstractChannel as Underlay
from aiormq.abc import DeliveredMessage
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from worker.core.breakers import CircuitBreakers
from worker.core.errors import PublishError
from worker.core.events import MAX_BODY, EventType, Inbound
from worker.core.pipeline import Outcome, Pipeline
from worker.core.ports import Depth
from worker.core.tracing import UNTRACED, Tracing
from worker.rabbitmq.connection import SILENT, is_being_cancelled
from worker.rabbitmq.message import Delivery, DroppedBody, Settler
from worker.rabbitmq.publisher import RefusedByQueueError
from worker.rabbitmq.topology import Topology

POLL_FOR_PROBE = 0.5
"""Seconds between two attempts to get a probe from queues that are empty."""
CHECK_QUEUES = 5.0
"""Seconds between two checks that a queue that is not consumed from still exists."""
RPC_TIMEOUT = 10.0
"""Seconds after which a broker that does not answer counts as gone; the channel is then closed."""
_REGULATE_TIMEOUT = 2.0
_CANCEL_TIMEOUT = 2.0
_REQUEUE_TIMEOUT = 1.0

MAX_OVERSIZE = 4 * MAX_BODY
"""Bytes of bodies over `MAX_BODY` that are held at one time, all together."""
LARGE = 16 * 1024
"""Bytes from which on a body counts as large."""
MAX_LARGE_IN_WORK = MAX_BODY
"""Bytes of large bodies that are in work at one time, all together."""

_CANCELLED = (
    "the broker cancelled the consumer; was its queue deleted, or an event held longer than consumer_timeout?"
)
"""RabbitMQ 4.3 does so for an event that is held too long; before, it closes the channel."""

_log = structlog.get_logger()


class ConsumerFailedError(Exception):
    """A bug of ours ended the consuming; it has been logged with its traceback."""


class Observer(Protocol):
    """Is notified of each inbound, and of the connection."""

    def received(self, queue: EventType) -> None:
        """Record that work on a message begins."""
        ...

    def settled(self, inbound: Inbound, outcome: Outcome, seconds: float) -> None:
        """Record that a message was settled after so many seconds of work."""
        ...

    def reconnected(self) -> None:
        """Record that it consumes again after a connection failed."""
        ...

    def counted(self, depths: Sequence[Depth]) -> None:
        """Record how many messages are in the queues; empty if that is not known any more."""
        ...


class Consumer:
    """Consumes over one connection until it is stopped, or until `failed` says that it can't go on."""

    def __init__(
        self,
        pipeline: Pipeline,
        settler: Settler,
        topology: Topology,
        breakers: CircuitBreakers,
        *,
        observer: Observer,
        tracing: Tracing = UNTRACED,
        poll_every: float = POLL_FOR_PROBE,
        check_every: float = CHECK_QUEUES,
    ) -> None:
        self._pipeline = pipeline
        self._settler = settler
        self._topology = topology
        self._breakers = breakers
        self._observer = observer
        self._tracing = tracing
        self._poll_every = poll_every
        self._check_every = check_every
        self._slots = asyncio.Semaphore(breakers.full)
        self._bodies = BodyLimits()
        self._in_hand: dict[
            Delivery, asyncio.Task[None] | None
        ] = {}  # unsettled, with the task that works on it
        self._queues: list[WorkQueue] = []
        self._regulating: asyncio.Task[None] | None = None
        self._stopping = False
        self._at_full_capacity = False
        self._changed = asyncio.Event()  # set until `_regulate` has seen it
        self._capacity_changed = asyncio.Event()  # set for an instant: wakes those who wait for capacity
        self._probe: asyncio.Task[None] | None = None
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # --- start

    async def start(self, connection: AbstractConnection) -> None:
        """Start to consume. From then on `failed` raises as soon as that is no longer possible."""
        for kind, name in self._topology.work_queues.items():
            queue = WorkQueue(kind, name, partial(self._on_message, kind), self.fail)
            self._bodies.attach(await queue.open(connection))
            self._queues.append(queue)
        self._breakers.watch(self._wake)
        await self._set_prefetch()
        self._regulating = asyncio.create_task(self._regulate())

    # --- consume: as much as the breakers have capacity for

    async def _regulate(self) -> None:
        try:
            while await self._wait_for_change():
                await self._set_prefetch()
        except asyncio.CancelledError as error:
            if is_being_cancelled():
                raise
            self.fail(error)
        except Exception as error:  # noqa: BLE001 - the channel broke, or a bug of ours: begin anew
            self.fail(error)

    async def _wait_for_change(self) -> bool:
        """Wait until the capacity may have changed; return whether to go on."""
        try:
            async with asyncio.timeout(self._next_look()):
                await self._changed.wait()
        except TimeoutError:
            for queue in self._queues:
                if not self._breakers.probing(queue.kind):  # else it is asked for a message anyway
                    await queue.check()
        return not self._stopping

    def _next_look(self) -> float | None:
        """Return the seconds after which to look at breakers and queues even if nothing happened."""
        if self._at_full_capacity:
            return None
        wanted = any(self._wants_probe(queue.kind) for queue in self._queues)
        look = self._poll_every if wanted else self._check_every
        change = self._breakers.next_change_in()
        return look if change is None else min(look, change)

    async def _set_prefetch(self) -> None:
        self._changed.clear()
        self._at_full_capacity = self._breakers.all_closed
        await asyncio.gather(*(queue.set_prefetch(self._prefetch(queue.kind)) for queue in self._queues))
        if not self._at_full_capacity:
            await self._send_a_probe()

    def _prefetch(self, kind: EventType) -> int:
        """Return how many messages of a queue may be in hand.

        The calls alone may fill every slot. The onboardings have a quarter more in hand, and as slots go in
        the order of arrival, an onboarding gets the next one that falls free.
        """
        if self._breakers.probing(kind):
            return 0
        capacity = self._breakers.capacity(kind)
        return capacity if kind is EventType.CALL_ENDED or capacity == 0 else max(1, capacity // 4)

    def _wants_probe(self, kind: EventType) -> bool:
        under_way = self._probe is not None and not self._probe.done()
        return not under_way and self._breakers.probing(kind) and not self._breakers.at_capacity(kind)

    async def _send_a_probe(self) -> None:
        """Get one message for a breaker that is half-open, from each queue in turn.

        What was in hand when the breaker opened may be tried as well, whatever its kind.
        """
        for queue in self._queues:
            if self._wants_probe(queue.kind) and (message := await queue.get_one()) is not None:
                self._probe = asyncio.create_task(self._on_message(queue.kind, message))
                self._queues.remove(queue)
                self._queues.append(queue)  # the next probe is of the other kind, if there is one
                return

    # --- work: one message

    async def _on_message(self, kind: EventType, message: DeliveredMessage) -> None:
        """Work on a message. If it stays unsettled, `stop` requeues it.

        Requeued at once, it would be delivered here again before the consumer is cancelled, and each delivery
        counts towards the limit.
        """
        delivery = Delivery(message)
        self._in_hand[delivery] = asyncio.current_task()
        if self.failed.done():
            return
        try:
            if len(delivery.body) < LARGE:
                await self._work_on(kind, delivery)
            else:
                async with self._bodies.in_work(delivery.body):
                    await self._work_on(kind, delivery)
        except RefusedByQueueError as error:  # the queue of its copy is full, which concerns no other event
            _log.warning("settling_failed", error=str(error))
            await delivery.requeue()
        except PublishError as error:
            self.fail(error)
        except Exception as error:  # noqa: BLE001 - a bug of ours: begin anew, and lose nothing
            _log.exception("intake_failed", error_type=type(error).__name__)
            self._in_hand.pop(delivery)  # the end of the channel requeues it, which is counted
            self.fail(ConsumerFailedError(f"unexpected {type(error).__name__}; the log has the traceback"))
        finally:
            if delivery.settled:
                self._in_hand.pop(delivery, None)
            self._bodies.release(delivery.body)

    async def _work_on(self, kind: EventType, delivery: Delivery) -> None:
        async with self._slots:
            while self._breakers.at_capacity(kind):
                await self._capacity_changed.wait()
            if self.failed.done():  # while it waited
                return
            self._breakers.begin(kind)
            self._observer.received(kind)
            try:
                await self._process(kind, delivery)
            finally:
                self._breakers.end(kind)
                if not (self._at_full_capacity and self._breakers.all_closed):
                    self._wake()

    async def _process(self, kind: EventType, delivery: Delivery) -> None:
        started = time.perf_counter()
        inbound = delivery.inbound(self._topology.work_exchange)
        with self._tracing.work(self._topology.work_queues[kind], delivery.exchange, inbound) as span:
            outcome = await self._pipeline.process(inbound)
            span.decided(outcome)
            outcome = await self._settler.settle(delivery, inbound, outcome, kind)
            self._observer.settled(inbound, outcome, time.perf_counter() - started)
        if outcome.error is not None:  # its frames hold the parsed event, in a circle with it
            outcome.error.__traceback__ = None

    def _wake(self) -> None:
        """Wake those who wait for capacity: a breaker's state or the number of events in work has changed."""
        self._changed.set()
        self._capacity_changed.set()
        self._capacity_changed.clear()

    def fail(self, error: BaseException | None) -> None:
        """Record that the consumer can't go on; `failed` raises the first such error."""
        if isinstance(error, asyncio.CancelledError):  # aiormq's, if the heartbeats stopped
            error = ConnectionError(SILENT)
        if not self.failed.done():
            self.failed.set_exception(error or ConnectionError("the channel was closed"))
            self.failed.exception()  # retrieved, also if the stop comes first

    # --- drain and stop

    async def stop(self, drain: float) -> None:
        """Stop consuming, let what is in work finish within `drain` seconds, requeue the rest."""
        await self._stop_regulating()
        for queue in self._queues:
            await queue.close()
        if tasks := self._unfinished():
            await asyncio.wait(tasks, timeout=drain)
        if left := self._unfinished():
            _log.warning("drain_incomplete", requeued=len(left), drain_seconds=drain)
            for task in left:
                task.cancel()
            await asyncio.wait(left)
        with suppress(TimeoutError):  # of a connection that fell silent; its end gives them back
            async with asyncio.timeout(_REQUEUE_TIMEOUT):
                for delivery in list(self._in_hand):
                    await delivery.requeue()

    async def _stop_regulating(self) -> None:
        """Wait for `_regulate` to end: cancelled during a request, it would break a channel in use."""
        self._stopping = True
        self._wake()
        if self._regulating is None:
            return
        try:
            await asyncio.wait([self._regulating], timeout=_REGULATE_TIMEOUT)
        finally:
            self._regulating.cancel()

    def _unfinished(self) -> list[asyncio.Task[None]]:
        return [task for task in self._in_hand.values() if task is not None and not task.done()]


class WorkQueue:
    """One work queue on a channel of its own. Nothing is consumed until `set_prefetch`."""

    def __init__(
        self,
        kind: EventType,
        name: str,
        on_message: Callable[[DeliveredMessage], Coroutine[Any, Any, None]],
        on_failed: Callable[[BaseException | None], None],
    ) -> None:
        self.kind = kind
        self._name = name
        self._on_message = on_message
        self._on_failed = on_failed
        self._tag: str | None = None
        self._prefetch = 0
        self._channel: AbstractChannel
        self._underlay: Underlay

    async def open(self, connection: AbstractConnection) -> Underlay:
        """Open the channel; return the one of aiormq below it."""
        self._channel = await connection.channel(publisher_confirms=False)
        self._underlay = await self._channel.get_underlay_channel()
        self._channel.close_callbacks.add(self._on_channel_closed)
        self._underlay.on_consumer_cancel_callbacks.add(self._on_cancelled)
        return self._underlay

    async def set_prefetch(self, prefetch: int) -> None:
        """Consume with at most so many messages in hand; 0 stops consuming.

        A prefetch counts from the next consumer on, so a change replaces the consumer. What was delivered
        before the old one ended is worked on. What the broker was about to send to it goes back to the head
        of the queue, one delivery more in its count, and is the first that the new one gets.
        """
        if prefetch == self._prefetch:
            return
        self._prefetch = prefetch
        if self._tag is not None:
            tag, self._tag = self._tag, None
            await self._underlay.basic_cancel(tag, timeout=RPC_TIMEOUT)
        if prefetch > 0:
            await self._underlay.basic_qos(prefetch_count=prefetch, timeout=RPC_TIMEOUT)
            consume = self._underlay.basic_consume(self._name, self._on_message, timeout=RPC_TIMEOUT)
            self._tag = (await consume).consumer_tag

    async def get_one(self) -> DeliveredMessage | None:
        """Return one message, or `None` if the queue is empty."""
        message = await self._underlay.basic_get(self._name, timeout=RPC_TIMEOUT)
        return None if isinstance(message.delivery, spec.Basic.GetEmpty) else message

    async def check(self) -> None:
        """Raise if the queue is gone, unless it is consumed from: the broker notifies a consumer."""
        if self._tag is None:
            await self._underlay.queue_declare(self._name, passive=True, timeout=RPC_TIMEOUT)

    async def close(self) -> None:
        """Stop consuming; the channel itself closes with its connection."""
        self._channel.close_callbacks.discard(self._on_channel_closed)
        tag, self._tag = self._tag, None
        if tag is not None:
            with suppress(Exception):  # if it can't be cancelled any more, nothing is consumed either
                try:
                    await self._underlay.basic_cancel(tag, timeout=_CANCEL_TIMEOUT)
                except asyncio.CancelledError:
                    if is_being_cancelled():
                        raise

    def _on_channel_closed(self, _channel: object, error: BaseException | None) -> None:
        self._on_failed(error)

    def _on_cancelled(self, _frame: object) -> None:
        self._on_failed(ConnectionError(_CANCELLED))


class BodyLimits:
    """Limits how many bytes of bodies one session holds in memory and in work.

    A prefetch counts messages, whatever their size. A body over `MAX_BODY` can't be an event, and goes to the
    dead letters at once; but many of them may come at a time, and a broker takes up to 16 MiB each (before
    4.0: 128 MiB). So only a few of them are held. The others are dropped as they are read, and the broker
    moves the message by itself. A body of up to `MAX_BODY` is always held. The objects that it is parsed into
    take many times as much memory, so large ones are in work in turn.
    """

    def __init__(self) -> None:
        self._oversize = 0
        self._large_in_work = 0
        self._turn = asyncio.Lock()
        self._ended = asyncio.Event()

    def attach(self, channel: Any) -> None:  # noqa: ANN401 - aiormq's own class, not the abstract one
        """Apply the limits to the bodies that a channel reads."""
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

    def release(self, body: bytes) -> None:
        """Count a body as held no more."""
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
