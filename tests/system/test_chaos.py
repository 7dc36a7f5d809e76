"""The proof in short: everything is broken once, under a light load, and every id is accounted for.

`python -m tests.system.chaos` is the long one.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial

import aio_pika
import pytest

from tests.system.chaos.account import Arrived, Dead, Published, Verdict, agree, judge
from tests.system.chaos.node import NodeUnavailable
from tests.system.chaos.play import SHORT
from tests.system.chaos.proxy import Proxy
from tests.system.chaos.runner import Runner
from tests.system.chaos.scenarios import SCENARIOS
from tests.system.chaos.stage import Window
from tests.system.chaos.watch import Claims
from tests.tools import skip_without

pytestmark = pytest.mark.verify

EVENT = Published("e", b"{}")
WRONG = Published("w", b"{", fate="invalid_event")
ONCE, TWICE = Arrived((1.0,)), Arrived((1.0, 2.0))
CALL = {"call_id": "V1", "lead_id": "7", "recordings": [{"url": "u"}]}
AGENT = {
    "agent_user": "1001",
    "full_name": "Ann",
    "access_level": 1,
    "user_group": "S",
    "campaigns": [{"campaign_id": "SUPP-1", "name": "Support"}],
    "campaigns_ambiguous": False,
}
UNNAMED = {
    "campaigns": [{"campaign_id": "SUPP", "name": None}, {"campaign_id": "1", "name": None}],
    "campaigns_ambiguous": True,
}
NO_DETAILS = {"full_name": None, "access_level": None, "user_group": None}


def of_call(**changed: object) -> str:
    return json.dumps({"data": {"final": True, "call": CALL | changed}})


def of_agent(**changed: object) -> str:
    return json.dumps({"data": {"agent": AGENT | changed}})


@pytest.fixture(scope="module")
def runner(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """Play the chosen scenarios, several at a time: most of the time of each is spent waiting."""
    names = {item.callspec.params.get("name") for item in request.session.items if hasattr(item, "callspec")}
    chosen = [each for each in SCENARIOS if each.title in names]
    seed = random.randrange(10**6)  # noqa: S311 - shown, to play it again
    with Runner(chosen, SHORT, seed, tmp_path_factory.mktemp("chaos")) as playing:
        yield playing


@pytest.mark.system
@pytest.mark.timeout(1200)  # longer than the runner lets a scenario last
@pytest.mark.parametrize("name", [each.title for each in SCENARIOS if not each.long_only])
def test_whatever_breaks_nothing_is_lost(name: str, runner: Runner) -> None:
    try:
        verdict = runner.verdict(name)
    except NodeUnavailable as error:
        skip_without(str(error))
    said = [*verdict.wrong, *verdict.notes, f"{verdict.events} events, seed {runner.seed}"]
    assert not verdict.wrong, "\n".join(said)


class TestTheAccount:
    """An account that finds nothing wrong proves nothing unless it finds what is."""

    @pytest.mark.parametrize(
        ("arrived", "dead", "queued", "says"),
        [
            ({}, [], (), ["1 lost"]),
            ({"e": Arrived(())}, [], (), ["1 lost"]),
            ({}, [], ("e",), ["1 still queued"]),
            ({"e": TWICE}, [], (), ["1 duplicates, at most 0"]),
            ({"e": Arrived((1.0,), (of_call(), of_agent()))}, [], (), ["different bodies"]),
            ({"e": ONCE, "x": ONCE}, [], (), ["a delivery that nobody published: x"]),
            ({"e": ONCE}, [Dead("x", "not_found", b"")], (), ["a dead letter that nobody published: x"]),
            (
                {},
                [Dead("e", "delivery_limit", b"{}")],
                (),
                ["dead-lettered (delivery_limit)"],
            ),
            ({}, [Dead("e", "not_found", b"{ }")], (), ["another body", "(not_found)"]),
            ({"e": ONCE}, [Dead("e", "not_found", b"{}")], (), ["(not_found)", "1 duplicates"]),
        ],
    )
    def test_what_must_not_be_is_named(
        self,
        arrived: dict[str, Arrived],
        dead: list[Dead],
        queued: tuple[str, ...],
        says: list[str],
    ) -> None:
        verdict = Verdict("it")
        judge(verdict, [EVENT], arrived, dead, queued=queued)
        assert len(verdict.wrong) == len(says), verdict.wrong
        for sentence in says:
            assert any(sentence in each for each in verdict.wrong), verdict.wrong

    def test_what_is_right_is_nothing_wrong(self) -> None:
        verdict = Verdict("it", bound=1)
        judge(verdict, [EVENT, WRONG], {"e": TWICE}, [Dead("w", "invalid_event", b"{")])
        assert (verdict.wrong, verdict.duplicates, verdict.dead) == ([], 1, {"invalid_event": 1})

    def test_what_has_to_die_may_not_be_delivered(self) -> None:
        verdict = Verdict("it")
        judge(verdict, [WRONG], {"w": ONCE}, [])
        assert verdict.wrong == ["1 delivered, though its fate is invalid_event"]

    def test_a_reason_may_be_tolerated(self) -> None:
        verdict = Verdict("it")
        judge(verdict, [EVENT], {}, [Dead("e", "rejected_by_sink", b"{}")], tolerated=["rejected_by_sink"])
        assert verdict.wrong == []


class TestWhetherBodiesAgree:
    """An event that was looked up twice may lack what an optional function did not answer, and no more."""

    @pytest.mark.parametrize(
        "bodies",
        [
            (of_call(), of_call(recordings=None)),
            (of_call(recordings=[]), of_call(recordings=None)),
            (of_agent(), of_agent(**NO_DETAILS)),
            (of_agent(), of_agent(**UNNAMED)),
            (of_agent(**NO_DETAILS), of_agent(**UNNAMED)),
        ],
    )
    def test_what_was_not_answered_may_be_missing(self, bodies: tuple[str, str]) -> None:
        verdict = Verdict("it")
        judge(verdict, [EVENT], {"e": Arrived((1.0,), bodies)}, [])
        assert verdict.wrong == []

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            (of_call(), of_call(recordings=[])),
            (of_call(), of_call(recordings=None, lead_id=None)),
            (of_call(), of_call(status="SALE")),
            (of_call(), json.dumps({"data": {"final": False, "call": CALL}})),
            (of_call(), of_agent()),
            (of_agent(), of_agent(full_name=None)),
            (of_agent(), of_agent(**NO_DETAILS, agent_user="1002")),
            (of_agent(), of_agent(campaigns_ambiguous=True)),
            (of_agent(), of_agent(campaigns=[])),
            (of_agent(), of_agent(campaigns=[{"campaign_id": "SUPP-1", "name": "Other"}])),
            (of_agent(), of_agent(campaigns=[{"campaign_id": "SUPP-2", "name": None}])),
        ],
    )
    def test_nothing_else_may_differ(self, one: str, other: str) -> None:
        assert not agree(one, other)
        assert not agree(other, one)

    def test_of_three_bodies_each_two_have_to_agree(self) -> None:
        bodies = of_call(), of_call(recordings=None), of_call(recordings=[])
        verdict = Verdict("it")
        judge(verdict, [EVENT], {"e": Arrived((1.0,), bodies)}, [])
        assert verdict.wrong == ["1 came with different bodies"]


class TestTheWatch:
    def test_a_claim_is_false_if_the_broker_has_no_consumer_for_too_long(self) -> None:
        claims = Claims(3.0)
        looks = [claims.are_false(now, {1}, {1}, 0) for now in (0.0, 1.0, 2.0, 3.0, 3.1)]
        assert looks == [False, False, False, False, True]

    def test_a_few_looks_prove_nothing_however_long_they_took(self) -> None:
        claims = Claims(3.0)
        assert [claims.are_false(now, {1}, {1}, 0) for now in (0.0, 10.0, 20.0)] == [False] * 3

    @pytest.mark.parametrize(
        ("before", "after", "consumers"),
        [
            pytest.param({1}, {1}, 1, id="it consumes"),
            pytest.param({1}, {1}, None, id="the broker did not answer in time"),
            pytest.param({1}, set[int](), 0, id="it had just been paused"),
            pytest.param({1}, {2}, 0, id="it was replaced"),
        ],
    )
    def test_one_look_without_a_contradiction_begins_anew(
        self, before: set[int], after: set[int], consumers: int | None
    ) -> None:
        claims = Claims(3.0)
        for now in (0.0, 1.0, 2.0):
            claims.are_false(now, {1}, {1}, 0)
        assert not claims.are_false(4.0, before, after, consumers)
        assert not claims.are_false(5.0, {1}, {1}, 0)

    async def test_a_broker_that_is_away_has_no_consumers_and_one_that_is_late_is_unknown(
        self, proxy: Proxy
    ) -> None:
        window = Window(partial(aio_pika.connect, f"amqp://127.0.0.1:{proxy.port}/"), ["q"])
        proxy.stall()
        assert await window.look(within=0.2) is None
        await proxy.refuse()
        assert await window.look() == {}


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """Yield a proxy before a server that says everything back."""
    begun, ended = 0, asyncio.Semaphore(0)

    async def say_back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal begun
        begun += 1
        with suppress(ConnectionError):
            while said := await reader.read(100):
                writer.write(said)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        ended.release()

    server = await asyncio.start_server(say_back, "127.0.0.1", 0)
    opened = Proxy(server.sockets[0].getsockname()[1])
    await opened.open()
    yield opened
    await opened.refuse()
    server.close()
    for _ in range(begun):
        await ended.acquire()


@asynccontextmanager
async def connected(proxy: Proxy) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    yield reader, writer
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def is_silent(reader: asyncio.StreamReader) -> bool:
    try:
        await asyncio.wait_for(reader.read(1), 0.1)
    except TimeoutError:
        return True
    return False


class TestTheProxy:
    async def test_it_stalls_and_everything_is_there_in_the_end(self, proxy: Proxy) -> None:
        async with connected(proxy) as (reader, writer):
            proxy.stall()
            writer.write(b"hello")
            assert await is_silent(reader)
            await proxy.open()
            assert await reader.readexactly(5) == b"hello"

    async def test_it_tears_what_comes_next_and_ends_the_connection(self, proxy: Proxy) -> None:
        async with connected(proxy) as (reader, writer):
            proxy.tear()
            writer.write(b"0123456789")
            said = await asyncio.wait_for(reader.read(), 5)
            assert said in {b"", b"0123", b"0123456"}, "the way there is torn, and perhaps the way back"

    async def test_it_refuses_and_listens_again_on_the_same_port(self, proxy: Proxy) -> None:
        async with connected(proxy) as (reader, _):
            await proxy.refuse()
            with suppress(ConnectionError):
                assert await reader.read() == b""
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", proxy.port)
        await proxy.open()
        async with connected(proxy) as (reader, writer):
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"

    async def test_what_it_loses_is_silent_also_after_it_opened_again(self, proxy: Proxy) -> None:
        async with connected(proxy) as (lost, writer):
            writer.write(b"!")
            assert await lost.readexactly(1) == b"!"
            proxy.lose()
            async with connected(proxy) as (unheard, other):
                other.write(b"hello")
                assert await is_silent(unheard)
            await proxy.open()
            writer.write(b"hello")
            assert await is_silent(lost)
            async with connected(proxy) as (reader, other):
                other.write(b"hello")
                assert await reader.readexactly(5) == b"hello"

    async def test_it_reports_when_it_sees_something(self, proxy: Proxy) -> None:
        seen = asyncio.create_task(proxy.sees(b"ell"))
        async with connected(proxy) as (_, writer):
            writer.write(b"hello")
            await asyncio.wait_for(seen, 5)
