"""The measured lag of the event loop."""

import asyncio
import time

from worker.observe.health import LoopLag


def test_the_longest_lateness_of_the_loop_is_remembered_for_as_long_as_a_scrape_may_take() -> None:
    lag = LoopLag()
    assert lag.longest == 0
    lag.woken_after(0.5)
    lag.woken_after(2.5)
    lag.woken_after(0.4)  # a sleep that ends early is not late
    assert lag.longest == 2
    for _ in range(30):
        lag.woken_after(0.51)
    assert round(lag.longest, 3) == 0.01


async def test_a_loop_that_is_kept_busy_is_late() -> None:
    lag = LoopLag()
    watching = asyncio.create_task(lag.watch())
    await asyncio.sleep(0)
    time.sleep(0.7)  # noqa: ASYNC251 - this is the fault
    async with asyncio.timeout(5):
        while lag.longest == 0:  # noqa: ASYNC110 - it notifies nobody
            await asyncio.sleep(0.02)
    watching.cancel()
    assert lag.longest >= 0.15
