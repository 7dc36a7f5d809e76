"""How accepted events reach the broker: at once if it takes them, else by the spool, in order."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Protocol

from worker.core.errors import MessageRefused, PublishError
from worker.core.ports import Outgoing
from worker.intake.requests import Record
from worker.intake.spool import Spool, SpoolError, Stored

WINDOW = 100
"""Publishes that are unconfirmed at one time, of requests and of the spool each."""
CONFIRMED_WITHIN = 1.0
"""Seconds that a request waits for the broker; then its events go into the spool."""
RENEW_AFTER, RENEW_AGAIN_AFTER = 3.0, 9.0
"""Seconds until what the spool holds is published again through another channel: at first, and later.

RabbitMQ sends a message again only after 10 s if the leader of its queue was lost when it came, and a channel
whose first message met a node that hangs waits 65 s for that one. The second wait is longer, as a broker may
be slow, and what it confirms later than this is published in vain.
"""
RETRY_AFTER = 0.3
"""Seconds until what the broker did not take is published again."""

BROKER, SPOOL = "broker", "spool"


class _Unconfirmed(PublishError):
    """The broker did not answer in time."""


class Feed(Protocol):
    """The way to the broker."""

    available: asyncio.Event
    """Set while the broker takes messages, as far as is known."""

    async def publish(self, message: Outgoing) -> None:
        """Publish, routed and confirmed. Raises `PublishError` otherwise."""
        ...

    async def renew(self) -> None:
        """Publish through another channel from now on; what is unconfirmed on the present one fails."""
        ...

    async def check(self) -> None:
        """Ask whether the broker would take a message, without publishing one. Raises `PublishError`."""
        ...


class Observer(Protocol):
    """Observes what becomes of events."""

    def spooling(self, error: str) -> None:
        """Report that events go into the spool from now on, and why."""

    def spool_held_up(self, error: str) -> None:
        """Report that the broker did not take an event of the spool, and why; called for each try."""

    def spool_moving(self) -> None:
        """Report that the broker takes events of the spool again, and that more are in it."""

    def spool_emptied(self) -> None:
        """Report that the broker has all events of the spool."""

    def spool_unreadable(self, error: str) -> None:
        """Report that the spool can't be read now, and why; it is read again."""

    def set_aside(self, reason: str, event_id: str | None) -> None:
        """Report that a line of the spool can't be published; `reason` is `unreadable` or `refused`."""


class Relay:
    """Makes events safe: confirmed by the broker, or on the disk.

    While anything is in the spool, new events go behind it, so events are published in the order in which
    they were accepted. The exception are requests that are under way at the same time when the broker goes.
    """

    def __init__(
        self,
        spool: Spool,
        feed: Feed,
        observer: Observer,
        *,
        window: int = WINDOW,
        confirmed_within: float = CONFIRMED_WITHIN,
        renew_after: float = RENEW_AFTER,
        renew_again_after: float = RENEW_AGAIN_AFTER,
        retry_after: float = RETRY_AFTER,
    ) -> None:
        self._spool = spool
        self._feed = feed
        self._observer = observer
        self._window = window
        self._confirmed_within = confirmed_within
        self._renew_after, self._renew_again_after = renew_after, renew_again_after
        self._retry_after = retry_after
        self._unconfirmed = 0
        self._spooling = spool.waiting > 0
        self._held_up = False

    async def accept(self, records: Sequence[Record]) -> str:
        """Return once all events are safe, and where: `broker` or `spool`.

        Raises:
            SpoolError: they are not safe, because the broker is away and the spool did not take them.
            MessageRefused: the broker refuses one for good.
        """
        left = list(records)
        problem = "the broker is away, or slow"
        if self._direct(len(left)):
            self._unconfirmed += len(left)
            try:
                failed = await self._publish(left, self._confirmed_within)
            finally:
                self._unconfirmed -= len(left)
            refused = next((each for each in failed.values() if isinstance(each, MessageRefused)), None)
            if refused is not None:
                raise refused
            if not failed:
                return BROKER
            left = [left[number] for number in failed]
            problem = str(next(iter(failed.values())))
        await self._spool.add(left)
        if not self._spooling:
            self._spooling = True
            self._observer.spooling(problem)
        return SPOOL

    def _direct(self, count: int) -> bool:
        free = self._unconfirmed + count <= self._window
        return self._feed.available.is_set() and not self._spool.waiting and free

    async def check(self) -> tuple[str | None, str | None]:
        """Return why the broker, and why the spool, would not take an event now; None if it would."""
        broker = spool = None
        try:
            await self._feed.check()
        except PublishError as error:
            broker = str(error)
        try:
            await self._spool.check()
        except SpoolError as error:
            spool = str(error)
        return broker, spool

    async def run(self) -> None:
        """Publish what is in the spool whenever the broker takes it, until cancelled."""
        while True:
            await self._spool.filled.wait()
            try:
                stored = await self._spool.front(self._window)
            except OSError as error:  # for example because too many files are open
                self._observer.spool_unreadable(error.strerror or type(error).__name__)
                await asyncio.sleep(self._retry_after)
                continue
            if stored:
                await self._hand_over(stored)
            if not self._spool.waiting and self._spooling:
                self._spooling = self._held_up = False
                self._observer.spool_emptied()

    async def _hand_over(self, stored: Sequence[Stored]) -> None:
        """Publish the first records of the spool until the broker has each, and leave them behind."""
        aside = [each for each in stored if each.record is None]
        left = [(each, each.record) for each in stored if each.record is not None]
        at_once = len(left)
        took_all = True
        within = self._renew_after
        while left:
            await self._feed.available.wait()
            tried, rest = left[:at_once], left[at_once:]
            failed = await self._publish([record for _, record in tried], within)
            refused = {number for number, error in failed.items() if isinstance(error, MessageRefused)}
            aside += [tried[number][0] for number in refused]
            again = [tried[number] for number in failed if number not in refused]
            left = [*again, *rest]
            at_once = 1 if again else len(left)  # a broker that is blocked takes each try once it is not
            if again:
                took_all, self._held_up = False, True
                errors = [failed[number] for number in failed if number not in refused]
                self._observer.spool_held_up(str(errors[0]))
                if any(isinstance(error, _Unconfirmed) for error in errors):
                    await self._feed.renew()
                    within = self._renew_again_after
                await asyncio.sleep(self._retry_after)
        if took_all and self._held_up:
            self._held_up = False
            self._observer.spool_moving()
        await self._leave_behind(stored, aside)

    async def _leave_behind(self, stored: Sequence[Stored], aside: Sequence[Stored]) -> None:
        while True:
            try:
                await self._spool.advance(stored, aside)
                break
            except OSError:  # what is to be set aside has no place on the disk yet
                await asyncio.sleep(self._retry_after)
        for each in aside:
            record = each.record
            self._observer.set_aside(
                "unreadable" if record is None else "refused", None if record is None else record.id
            )

    async def _publish(self, records: Sequence[Record], within: float) -> dict[int, PublishError]:
        """Publish in order, without waiting for one after the other; return what failed, by its number."""
        results = await asyncio.gather(*(self._publish_one(each, within) for each in records))
        return {number: error for number, error in enumerate(results) if error is not None}

    async def _publish_one(self, record: Record, within: float) -> PublishError | None:
        message = Outgoing(
            record.body,
            record.id,
            record.type,
            record.content_type,
            dict(record.headers) or None,
            datetime.fromtimestamp(record.at, UTC),
        )
        try:
            async with asyncio.timeout(within):
                await self._feed.publish(message)
        except TimeoutError:
            return _Unconfirmed(
                f"the broker did not confirm within {within:g} s;"
                " is it blocked by an alarm, or a queue without a leader?"
            )
        except PublishError as error:
            return error
        return None
