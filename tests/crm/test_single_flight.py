"""What several deliveries need at the same time is done once."""

import asyncio
from datetime import timedelta

from worker.core.errors import DeliveryUnavailable, FailureKind, MappingFailed
from worker.crm.single_flight import SingleFlight, own


class Work:
    """Counts how often it is done."""

    def __init__(self, error: Exception | None = None) -> None:
        self.times = 0
        self.go = asyncio.Event()
        self._error = error

    async def __call__(self) -> int:
        self.times += 1
        await self.go.wait()
        if self._error is not None:
            raise self._error
        return self.times


async def begin(flight: SingleFlight[int], work: Work, *keys: str) -> list[asyncio.Task[tuple[int, bool]]]:
    tasks = [asyncio.create_task(flight.do(key, work)) for key in keys]
    await asyncio.sleep(0)
    return tasks


async def test_the_same_is_done_once_and_all_get_its_result() -> None:
    flight, work = SingleFlight[int](), Work()
    tasks = await begin(flight, work, "a", "a", "b", "a")
    work.go.set()
    found = await asyncio.gather(*tasks)
    assert work.times == 2
    assert [begun for _, begun in found] == [True, False, True, False]
    assert await flight.do("a", work) == (3, True), "what is over is done again"


async def test_it_goes_on_if_whoever_began_it_is_cancelled() -> None:
    flight, work = SingleFlight[int](), Work()
    first, second = await begin(flight, work, "a", "a")
    first.cancel()
    work.go.set()
    assert await second == (1, False)


async def test_a_failure_is_an_error_for_each_and_counts_once() -> None:
    for error in (DeliveryUnavailable("down", answered=True), MappingFailed("too deep")):
        flight, work = SingleFlight[int](), Work(error)
        tasks = await begin(flight, work, "a", "a", "a")
        work.go.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [(type(each), str(each)) for each in found] == [(type(error), str(error))] * 3
        assert len({id(each) for each in found}) == 3
        shared = [each.shared for each in found if isinstance(each, DeliveryUnavailable)]
        assert shared in ([False, True, True], [])


async def test_closing_ends_what_is_under_way() -> None:
    flight, work = SingleFlight[int](), Work()
    (waiting,) = await begin(flight, work, "a")
    await flight.close()
    found = await asyncio.gather(waiting, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    await flight.close()


def test_a_copy_of_an_error_keeps_all_but_its_progress() -> None:
    wait = timedelta(seconds=1)
    error = DeliveryUnavailable("later", FailureKind.BUSY, wait, answered=True)
    error.progress = "half done"
    copy = own(error, shared=True)
    kept = (str(copy), copy.kind, copy.retry_after, copy.answered, copy.label)
    assert kept == ("later", FailureKind.BUSY, wait, True, error.label)
    assert (copy.progress, copy.shared) == (None, True)
