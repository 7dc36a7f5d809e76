"""The board that all workers share, as a message on a real broker."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import ClassVar

import aio_pika
import pytest
from aio_pika.abc import AbstractConnection
from pydantic import SecretStr
from structlog.testing import capture_logs

from tests.broker.bench import settings_for
from tests.system.harness import eventually
from worker.check.logins import sharing_logins
from worker.core.errors import LoginRefused
from worker.core.fleet import Board, Needs, Round, Seat
from worker.core.logins import Login, Logins
from worker.rabbitmq.connection import Nodes, connect
from worker.rabbitmq.fleet import Fleet
from worker.rabbitmq.topology import Queue, Topology, declare
from worker.vicidial.guard import LockoutGuard

pytestmark = pytest.mark.broker

MOST = 8
STOPS = 40
BOARD = {"x-max-length": 1, "x-overflow": "drop-head", "x-delivery-limit": 2**31 - 1}


class Dialer:
    """A `Participant` that wants all, and remembers what it got."""

    def __init__(self) -> None:
        self.on_news: Callable[[], None] = lambda: None
        self.share = MOST
        self.logins = Logins()
        self.may_try = False
        self.tries = False
        self.news: tuple[Login, ...] = ()
        self.rounds = 0

    def needs(self, now: float) -> Needs:
        news = tuple(each.shifted(now) for each in self.news)
        return Needs(0, MOST, MOST, measures=False, tries=self.tries, news=news)

    def lower(self, share: int) -> None:
        self.share = min(share, self.share)

    def take(self, played: Round) -> None:
        self.share, self.may_try, self.logins = played.share, played.may_try, played.board.logins
        self.news = ()
        self.rounds += 1

    def leave(self) -> None:
        self.share = 0

    def be_alone(self, share: int) -> None:
        self.share = share

    def refuse(self) -> None:
        self.news = (Login("refused", 0.0, 0.0, "old", lone=False, message="no"),)
        self.on_news()


@pytest.fixture
def queue(namespace: str) -> str:
    return f"{namespace}.dialer"


@pytest.fixture
async def connection(broker_url: str, queue: str) -> AsyncIterator[AbstractConnection]:
    async with connect(Nodes([SecretStr(broker_url)]), "test") as connection:
        yield connection


async def make(connection: AbstractConnection, queue: str) -> None:
    await declare(connection, Topology({}, "", "", queue, "", {}, (), (Queue(queue, BOARD),), ()))


@asynccontextmanager
async def attending(
    broker_url: str, queue: str, dialer: Dialer, name: str, *, fresh: bool = False
) -> AsyncIterator[Fleet]:
    """Attend over a connection of its own, until the block ends in order."""
    seat = Seat(name, MOST)
    fleet = Fleet(queue, seat, dialer, alone=2, every=0.1, lost_after=0.3, retry_alone=0.1)
    async with connect(Nodes([SecretStr(broker_url)]), name) as connection:
        task = asyncio.ensure_future(fleet.attend(connection, fresh=fresh))
        try:
            yield fleet
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await fleet.leave(connection)


async def boards(connection: AbstractConnection, queue: str) -> list[bytes]:
    """Return the messages in the queue, and put them back."""
    async with connection.channel() as channel:
        source = await channel.get_queue(queue, ensure=False)
        found = []
        while (message := await source.get(fail=False)) is not None:
            found.append(message.body)
    return found


async def put(connection: AbstractConnection, queue: str, body: bytes) -> None:
    async with connection.channel(publisher_confirms=True) as channel:
        await (await channel.get_queue(queue, ensure=False)).purge()
        await channel.default_exchange.publish(aio_pika.Message(body), queue)


async def test_two_share_evenly_and_one_alone_has_all(
    broker_url: str, connection: AbstractConnection, queue: str
) -> None:
    await make(connection, queue)
    first, second = Dialer(), Dialer()
    async with attending(broker_url, queue, first, "a", fresh=True):
        await eventually(lambda: first.share == MOST)
        async with attending(broker_url, queue, second, "b"):
            await eventually(lambda: (first.share, second.share) == (4, 4))
        assert second.share == 0
        await eventually(lambda: first.share == MOST)
    (left,) = await boards(connection, queue)
    assert Board.decode(left).members == {}


async def test_a_refused_login_is_known_to_the_others_at_once_and_to_one_that_starts(
    broker_url: str, connection: AbstractConnection, queue: str
) -> None:
    await make(connection, queue)
    first, second, later = Dialer(), Dialer(), Dialer()
    async with attending(broker_url, queue, first, "a", fresh=True):
        async with attending(broker_url, queue, second, "b"):
            await eventually(lambda: second.rounds)
            first.refuse()
            await eventually(lambda: second.logins.message == "no")
        first.tries = True
        await eventually(lambda: first.may_try)
    async with attending(broker_url, queue, later, "c"):
        await eventually(lambda: later.rounds)
    assert later.logins.message == "no"


async def test_a_board_whose_holder_dies_comes_back(
    broker_url: str, connection: AbstractConnection, queue: str
) -> None:
    await make(connection, queue)
    dialer = Dialer()
    async with attending(broker_url, queue, dialer, "a", fresh=True):
        await eventually(lambda: dialer.rounds)
        dialer.refuse()
        await eventually(lambda: dialer.logins.message)
    async with connection.channel() as channel:
        message = await (await channel.get_queue(queue, ensure=False)).get()
        assert message is not None
        async with attending(broker_url, queue, other := Dialer(), "b"):
            await asyncio.sleep(0.1)
            assert other.rounds == 0
            await channel.close()
            await eventually(lambda: other.rounds)
    assert other.logins.message == "no"


async def test_a_board_that_is_lost_is_made_again_from_what_is_known(
    broker_url: str, connection: AbstractConnection, queue: str
) -> None:
    await make(connection, queue)
    dialer = Dialer()
    with capture_logs() as lines:
        async with attending(broker_url, queue, dialer, "a", fresh=True):
            await eventually(lambda: dialer.rounds)
            dialer.refuse()
            await eventually(lambda: dialer.logins.message)
            async with connection.channel() as channel:
                await (await channel.get_queue(queue, ensure=False)).purge()
            rounds = dialer.rounds
            await eventually(lambda: dialer.rounds > rounds + 3)
            assert dialer.logins.message == "no"
    assert [line["event"] for line in lines] == ["dialer_board_lost"]


async def test_a_round_that_took_so_long_that_others_may_have_another_board_gives_nothing(
    broker_url: str, connection: AbstractConnection, queue: str
) -> None:
    class Stalled(Dialer):
        acts: ClassVar[list[str]] = []

        def lower(self, share: int) -> None:
            super().lower(share)
            if not self.acts:
                time.sleep(0.4)
            self.acts.append("lower")

        def take(self, played: Round) -> None:
            super().take(played)
            self.acts.append("take")

    await make(connection, queue)
    stalled = Stalled()
    async with attending(broker_url, queue, stalled, "a", fresh=True):
        await eventually(lambda: "take" in stalled.acts)
    assert stalled.acts[:2] == ["lower", "lower"]


async def test_what_is_no_board_is_replaced_and_an_old_board_dropped(
    broker_url: str, connection: AbstractConnection, queue: str
) -> None:
    await make(connection, queue)
    dialer = Dialer()
    with capture_logs() as lines:
        async with attending(broker_url, queue, dialer, "a", fresh=True):
            await eventually(lambda: dialer.rounds)
            dialer.refuse()
            await eventually(lambda: dialer.logins.message)
            for body in (b"nonsense", Board().encode()):
                rounds = dialer.rounds
                await put(connection, queue, body)
                await eventually(lambda since=rounds: dialer.rounds > since + 5)
                assert dialer.logins.message == "no"
    assert "dialer_board_unreadable" in [line["event"] for line in lines]


async def test_without_the_queue_each_goes_alone_until_it_is_there(
    broker_url: str, connection: AbstractConnection, queue: str
) -> None:
    dialer = Dialer()
    with capture_logs() as lines:
        async with attending(broker_url, queue, dialer, "a"):
            await eventually(lambda: dialer.share == 2)
            await make(connection, queue)
            await eventually(lambda: dialer.share == MOST)
        async with attending(broker_url, f"{queue}.none", dialer, "b"):
            await eventually(lambda: dialer.share == 2)
        assert dialer.share == 0
    assert [line["event"] for line in lines] == ["dialer_not_shared", "dialer_shared", "dialer_not_shared"]


async def test_a_lost_connection_ends_nothing(
    broker_url: str, connection: AbstractConnection, queue: str
) -> None:
    await make(connection, queue)
    dialer = Dialer()
    fleet = Fleet(queue, Seat("a", MOST), dialer, alone=2, every=0.05)
    async with connect(Nodes([SecretStr(broker_url)]), "a") as own:
        task = asyncio.ensure_future(fleet.attend(own, fresh=True))
        await eventually(lambda: dialer.rounds)
        await own.close()
        await asyncio.sleep(0.2)
        assert not task.done()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await fleet.leave(own)
    assert dialer.share == 0


# --- `crm-sync check`


async def test_a_check_learns_from_the_workers_and_they_from_it(
    broker_url: str, namespace: str, connection: AbstractConnection, queue: str
) -> None:
    settings = settings_for(broker_url, namespace)
    lockout = LockoutGuard(300.0, "old", lambda: "old", fingerprint=str)
    async with sharing_logins(settings, lockout):
        assert not lockout.refusing, "there is no queue"
    await make(connection, queue)
    async with sharing_logins(settings, lockout):
        lockout.refused(lockout.admit(), "no")
    (left,) = await boards(connection, queue)
    assert Board.decode(left).logins.message == "no"
    other = LockoutGuard(300.0, "old", lambda: "old", fingerprint=str)
    async with sharing_logins(settings, other):
        with pytest.raises(LoginRefused, match="still holds the password that was refused"):
            other.admit()
    third = LockoutGuard(0.0, "new", lambda: "new", fingerprint=str)
    async with sharing_logins(settings, third):
        (held,) = await boards(connection, queue)
        assert (Board.decode(held).trier or "").startswith("check-")
        third.accepted(third.admit())
    (left,) = await boards(connection, queue)
    assert (Board.decode(left).logins, Board.decode(left).members) == (Logins(), {})


async def test_a_stop_in_the_middle_of_a_round_ends_it(
    broker_url: str, connection: AbstractConnection, queue: str
) -> None:
    """Before Python 3.12, a round that ends at that moment makes it lose the cancellation."""
    await make(connection, queue)
    fleet = Fleet(queue, Seat("a", MOST), Dialer(), alone=2, every=0.0)
    for n in range(STOPS):
        task = asyncio.ensure_future(fleet.attend(connection, fresh=n == 0))
        await asyncio.sleep(0.03 + 0.03 * n / STOPS)
        task.cancel()
        _, pending = await asyncio.wait([task], timeout=20)
        assert not pending, "it goes on"
