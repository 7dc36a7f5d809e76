"""Looking at the workers while something is broken: whether they tell the truth, and whether they live."""

import asyncio
import time
from contextlib import suppress
from typing import Any, Self

import aiohttp

from tests.system.chaos.account import Verdict
from tests.system.chaos.stage import TIERS, WORK, Stage, Window
from tests.system.harness import Worker, bounded

_STEP = 0.15
_ENDS_WITHIN = 60.0
_LOOKS = 4


class Watch:
    """Asks every worker for `/readyz` and `/status` again and again, and the broker who consumes.

    A worker that says it is ready while no breaker pauses it has to have a consumer on the broker; it may be
    wrong for `notices_within` seconds, and for a few looks, which take long on a slow machine. One that ends
    by itself with a failure is started again, as Kubernetes does it; one that ends as if all were well is
    wrong.
    """

    def __init__(self, stage: Stage, verdict: Verdict, *, notices_within: float, stays_ready: bool) -> None:
        self._stage, self._verdict = stage, verdict
        self._notices_within, self._stays_ready = notices_within, stays_ready
        self._window = Window(stage)
        self._wrong: list[float] = []
        self._ports: dict[int, int] = {}
        self._over = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self.queues: dict[str, tuple[int, int]] = {}
        self.in_flight: int | None = None
        """Of all workers; `None` where one of them did not say."""
        self.all_ready = False
        self.looks = 0

    async def __aenter__(self) -> Self:
        """Begin to look."""
        self._watching = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Look no more. It ends by itself then: a look may swallow a cancellation."""
        self._over.set()
        if self._watching is not None:
            await bounded(self._watching, _ENDS_WITHIN)

    def check(self) -> None:
        """Raise what it failed with, if it did."""
        if self._watching is not None and self._watching.done():
            self._watching.result()

    async def _run(self) -> None:
        try:
            while not self._over.is_set():
                await self._look()
                self.looks += 1
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._over.wait(), _STEP)
        finally:
            await self._window.close()

    async def _look(self) -> None:
        self._revive()
        answers = await asyncio.gather(*(self._ask(worker) for worker in self._stage.workers))
        self.queues = dict(await self._window.look() or {})
        consuming = min(
            (consumers for name, (_, consumers) in self.queues.items() if name in WORK), default=0
        )
        self.all_ready = bool(answers) and all(ready for ready, _ in answers)
        self.in_flight = sum(status["in_flight"] for _, status in answers if status is not None)
        if not all(status is not None for _, status in answers):
            self.in_flight = None
        claims = sum(bool(ready) and _unpaused(status) for ready, status in answers)
        self._judge(claims, consuming)
        if self._stays_ready and any(ready is False for ready, _ in answers):
            self._complain("a worker was not ready, though it had only to pause")

    def idle(self) -> bool:
        """Tell whether nothing is left to do in any queue, nor in any worker."""
        return self.in_flight == 0 and all(self.queues.get(name, (1, 0))[0] == 0 for name in (*WORK, *TIERS))

    def _judge(self, claims: int, consuming: int) -> None:
        if claims <= consuming:
            self._wrong.clear()
            return
        self._wrong.append(time.monotonic())
        if len(self._wrong) >= _LOOKS and self._wrong[-1] - self._wrong[0] > self._notices_within:
            self._complain(f"said to be ready, and did not consume, for over {self._notices_within:g} s")

    def _complain(self, sentence: str) -> None:
        if sentence not in self._verdict.wrong:
            self._verdict.wrong.append(sentence)

    def _revive(self) -> None:
        for worker in list(self._stage.workers):
            status = worker.process.poll()
            if status is None:
                continue
            if status == 0:
                self._complain("a worker ended by itself as if all were well")
            self._stage.notes.append(f"a worker ended with {status}")
            self._stage.cuts += 1
            self._stage.replace(worker)

    async def _ask(self, worker: Worker) -> tuple[bool | None, dict[str, Any] | None]:
        """Return whether it is ready, and its status; `None` where it did not answer."""
        with suppress(aiohttp.ClientError, TimeoutError, OSError):
            port = self._port(worker)
            if port is not None:
                base = f"http://127.0.0.1:{port}"
                async with self._stage.http.get(f"{base}/readyz") as response:
                    ready = response.status == 200
                async with self._stage.http.get(f"{base}/status") as response:
                    return ready, await response.json()
        return None, None

    def _port(self, worker: Worker) -> int | None:
        known = self._ports.get(worker.process.pid)
        if known is None and (said := worker.events("listening")):
            known = self._ports[worker.process.pid] = said[0]["port"]
        return known


def _unpaused(status: dict[str, Any] | None) -> bool:
    """Tell whether no breaker is a reason for consuming nothing."""
    states = (
        {"open"} if status is None else {breaker["state"] for breaker in status["circuit_breakers"].values()}
    )
    return states <= {"closed", "recovering"}
