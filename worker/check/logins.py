"""What `crm-sync check` knows of refused logins from the workers, and they from it."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from worker.core.fleet import Needs, Round, Seat
from worker.rabbitmq.connection import BROKER_ERRORS, Nodes, connect
from worker.rabbitmq.fleet import Fleet
from worker.rabbitmq.topology import Queue, build_topology, exists
from worker.settings import BrokerCommandSettings
from worker.vicidial.guard import LockoutGuard


class _Visitor:
    """A `worker.core.fleet.Participant` that exchanges the logins, and has no place of its own."""

    def __init__(self, lockout: LockoutGuard) -> None:
        self.on_news: Callable[[], None] = lambda: None
        self._lockout = lockout

    def needs(self, now: float) -> Needs:
        return Needs(0, 0, 1, measures=False, tries=self._lockout.tries, news=self._lockout.news(now))

    def take(self, played: Round) -> None:
        self._lockout.learn(played.board.logins)
        self._lockout.may_try = played.may_try

    def lower(self, share: int) -> None:
        pass

    def leave(self) -> None:
        pass

    def be_alone(self, share: int) -> None:
        pass


@asynccontextmanager
async def sharing_logins(
    settings: BrokerCommandSettings, lockout: LockoutGuard, within: float = 5.0
) -> AsyncIterator[None]:
    """Learn which logins the workers had refused, and share ours with them.

    Without a broker that answers within so many seconds, do neither.
    """
    topology = build_topology(settings)
    seat = Seat(f"check-{secrets.token_hex(4)}", 0)
    fleet = Fleet(topology.board, seat, _Visitor(lockout), alone=0)

    nodes = Nodes(settings.broker.url)

    async def visit(*, stay: bool) -> bool:
        with suppress(*BROKER_ERRORS):
            async with (
                asyncio.timeout(within),
                connect(nodes, "crm-sync check") as connection,
            ):
                if await exists(connection, Queue(topology.board)):
                    await fleet.visit(connection, stay=stay)
                    return True
        return False

    known = await visit(stay=False)
    claimed = known and lockout.tries and await visit(stay=True)
    try:
        yield
    finally:
        if known and (claimed or lockout.has_news):
            await visit(stay=False)
