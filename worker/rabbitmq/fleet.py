"""The board of `worker.core.fleet` as a message in a queue: take it, play a round, put it back.

Who holds the message unacknowledged has the board alone. The new one is confirmed before the old one is
acknowledged, so the board is never lost: at worst there are two for a moment, of which the queue keeps the
later one (`x-max-length` 1). If its holder dies the broker requeues it.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

import aio_pika
import aiormq
import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage

from worker.core.fleet import Board, Needs, Participant, Round, Seat
from worker.rabbitmq.connection import BROKER_ERRORS, explain, is_being_cancelled, loss_named

EVERY = 1.0
"""Seconds between two rounds of one worker."""
AGAIN = 0.03
"""Seconds until the next look for a board that another worker holds."""
LOST_AFTER = 3.0
"""Seconds without a board after which it counts as lost.

A worker holds it for some milliseconds, on a busy machine for longer. To begin another one meanwhile would
give shares twice, and nobody needs it soon: all keep their shares.
"""
ROUND_TIMEOUT = 10.0
"""Seconds that a round may take. In an alarm the broker answers none, and all keep their shares."""
LEAVE_TIMEOUT = 2.0
SOON = 0.1
"""Seconds until the next round if the others wait for it."""
RETRY_ALONE = 30.0
"""Seconds between two tries of a worker that can't use the queue."""
_MOST_STALE = 20

_REFUSED = (
    aiormq.exceptions.ChannelAccessRefused,
    aiormq.exceptions.ChannelNotFoundEntity,
    aiormq.exceptions.ChannelPreconditionFailed,
    aiormq.exceptions.ChannelLockedResource,
)
"""What only a person can change."""

_Play = Callable[[Board, Needs, float], Round]

_log = structlog.get_logger()


class Fleet:
    """Takes part in the rounds for one worker, over one connection after the other."""

    def __init__(
        self,
        queue: str,
        seat: Seat,
        dialer: Participant,
        *,
        alone: int,
        every: float = EVERY,
        lost_after: float = LOST_AFTER,
        retry_alone: float = RETRY_ALONE,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Share the dialer by this queue; if it can't be used, send `alone` requests at one time."""
        self.queue = queue
        self._seat = seat
        self._dialer = dialer
        self._alone = alone
        self._every = every
        self._lost_after = lost_after
        self._retry_alone = retry_alone
        self._wall = wall
        self._hurry = asyncio.Event()
        self._channel: AbstractChannel | None = None
        self._missing_since: float | None = None
        self._fresh = False
        self._is_alone = False
        dialer.on_news = self._hurry.set
        dialer.leave()

    async def attend(self, connection: AbstractConnection, *, fresh: bool) -> None:
        """Play a round every second, and at once if there is news, until cancelled.

        If the queue is `fresh`, nobody has put a board there yet.
        """
        self._missing_since, self._fresh = -self._lost_after if fresh else None, fresh
        try:
            while True:
                self._hurry.clear()
                wait = await self._attend_whole(connection)
                if is_being_cancelled():
                    return
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await (self._hurry.wait() if wait > AGAIN else asyncio.sleep(wait))
        finally:
            await self._close_channel()  # a round that was cut short may hold the board

    async def leave(self, connection: AbstractConnection) -> None:
        """Leave this worker's place, with its last news for the others; send nothing from then on."""
        if not self._is_alone:
            with suppress(*BROKER_ERRORS), loss_named(connection):
                await self._visit(connection, self._play_last, LEAVE_TIMEOUT)
        self._dialer.leave()

    async def visit(self, connection: AbstractConnection, *, stay: bool) -> None:
        """Play a single round, and `stay` a member for a while or not. Raises one of `BROKER_ERRORS`."""
        with loss_named(connection):
            await self._visit(connection, self._seat.play if stay else self._play_last, ROUND_TIMEOUT)

    async def _visit(self, connection: AbstractConnection, play: _Play, within: float) -> None:
        try:
            async with asyncio.timeout(within):
                while True:
                    if await self._exchange(connection, play):
                        return
                    await asyncio.sleep(AGAIN)
        finally:
            await self._close_channel()

    async def _attend_whole(self, connection: AbstractConnection) -> float:
        """Play a round to its end, also if cancelled: else news that the others have goes out again."""
        played = asyncio.ensure_future(self._attend_once(connection))
        try:
            return await asyncio.shield(played)
        except asyncio.CancelledError:
            await asyncio.wait([played], timeout=LEAVE_TIMEOUT)
            played.cancel()
            raise

    async def _attend_once(self, connection: AbstractConnection) -> float:
        """Play a round. Return the seconds until the next one."""
        try:
            async with asyncio.timeout(ROUND_TIMEOUT):
                with loss_named(connection):
                    played = await self._exchange(connection, self._seat.play)
        except _REFUSED as error:
            await self._close_channel()
            self._go_alone(error)
            return self._retry_alone
        except (*BROKER_ERRORS, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and is_being_cancelled():
                raise
            # If the connection is lost, or silent (aiormq cancels then), the consumer finds out more.
            await self._close_channel()
            return self._every
        if played is None:
            return AGAIN
        if self._is_alone:
            self._is_alone = False
            _log.info("dialer_shared", queue=self.queue)
        return min(SOON, self._every) if played.soon else self._every

    def _play_last(self, board: Board, needs: Needs, now: float) -> Round:
        left = self._seat.leave(board, needs, now)
        return Round(left, 0, left.trier is None, leads=False)

    async def _exchange(self, connection: AbstractConnection, play: _Play) -> Round | None:
        """Get the board, play and put it back. Return None if another worker has it.

        Also if it took `lost_after`: another worker may have begun a new board meanwhile, and what this round
        gives may have been given twice.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        if self._channel is None or self._channel.is_closed:
            self._channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        message, board = await self._take(self._channel)
        if board is None:
            return None
        now = self._wall()
        needs = self._dialer.needs(now)
        played = play(board, needs, now)
        self._dialer.lower(played.share)
        await self._channel.default_exchange.publish(
            aio_pika.Message(
                played.board.encode(),
                content_type="application/json",
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            ),
            self.queue,
        )
        if message is not None:
            await message.ack()
        self._missing_since = None
        if loop.time() - began >= self._lost_after:
            return None
        self._seat.last = played.board
        self._dialer.take(played)
        return played

    async def _take(self, channel: AbstractChannel) -> tuple[AbstractIncomingMessage | None, Board | None]:
        """Return the message and its board; of a board that is lost, the last one that was seen here."""
        queue = await channel.get_queue(self.queue, ensure=False)
        for _ in range(_MOST_STALE):
            message = await queue.get(fail=False)
            if message is None:
                return None, self._begun() if self._is_lost() else None
            try:
                board = Board.decode(message.body)
            except ValueError as error:
                _log.warning("dialer_board_unreadable", queue=self.queue, error=str(error))
                return message, self._begun()
            if not self._seat.is_stale(board):
                return message, board
            await message.ack()
        return None, None

    def _begun(self) -> Board:
        """Return a new board: with what the others hold still to come, if there may be any."""
        if self._fresh and self._seat.last.version == 0:
            return self._seat.last
        if self._seat.last.version:
            _log.warning("dialer_board_lost", queue=self.queue)
        return self._seat.begin(self._wall())

    def _is_lost(self) -> bool:
        now = asyncio.get_running_loop().time()
        if self._missing_since is None:
            self._missing_since = now
        return now - self._missing_since >= self._lost_after

    def _go_alone(self, error: BaseException) -> None:
        if not self._is_alone:
            self._is_alone = True
            _log.warning("dialer_not_shared", queue=self.queue, error=explain(error), share=self._alone)
        self._dialer.be_alone(self._alone)

    async def _close_channel(self) -> None:
        """Close the channel: whatever it holds goes back to the queue."""
        channel, self._channel = self._channel, None
        if channel is not None:
            with suppress(*BROKER_ERRORS, RuntimeError):
                async with asyncio.timeout(LEAVE_TIMEOUT):
                    await channel.close()
