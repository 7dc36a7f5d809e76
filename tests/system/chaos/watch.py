"""Looking at the workers while something is broken: whether they tell the truth, and whether they live."""

import asyncio
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any, Self

import aiohttp

from tests.system.chaos.account import Verdict
from tests.system.chaos.stage import QUEUES, TIERS, WORK, Stage, Window
from tests.system.harness import Worker, bounded

_STEP = 0.15
_ENDS_WITHIN = 60.0
_LOOKS = 4

_Answer = tuple[bool | None, dict[str, Any] | None]
"""Whether a worker is ready, and its status; `None` if it did not answer."""


class Claims:
    """Whether workers claim for too long to consume, while the broker has fewer consumers. Pure.

    They may be wrong for `within` seconds, and for a few looks, which take long on a slow machine.
    """

    def __init__(self, within: float) -> None:
        self._within = within
        self._wrong: list[float] = []

    def are_false(
        self, now: float, before: Collection[int], after: Collection[int], consumers: int | None
    ) -> bool:
        """Judge one look: who claimed to consume before and after the broker counted its consumers.

        A worker that claims it only once changed its state meanwhile. A count that came too late is `None`
        and proves nothing.
        """
        claims = len({*before} & {*after})
        if consumers is None or claims <= consumers:
            self._wrong.clear()
            return False
        self._wrong.append(now)
        return len(self._wrong) >= _LOOKS and now - self._wrong[0] > self._within


class Watch:
    """Asks every worker for `/readyz` and `/status` again and again, and the broker who consumes.

    A worker that says it is ready while no breaker pauses it has to have a consumer on the broker (`Claims`).
    One that ends by itself with a failure is started again, as Kubernetes does it; one that ends as if all
    were well is wrong.
    """

    def __init__(self, stage: Stage, verdict: Verdict, *, notices_within: float, stays_ready: bool) -> None:
        self._stage, self._verdict = stage, verdict
        self._notices_within, self._stays_ready = notices_within, stays_ready
        self._claims = Claims(notices_within)
        self._window = Window(stage.system.connect, [f"{stage.name}.{queue}" for queue in QUEUES])
        self._ports: dict[int, int] = {}
        self._over = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self.queues: dict[str, tuple[int, int]] = {}
        self.in_flight: int | None = None
        """Of all workers; `None` if one of them did not say."""
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
        before = await self._ask_all()
        found = await self._window.look()
        after = await self._ask_all()
        prefix = len(self._stage.name) + 1
        self.queues = {name[prefix:]: counts for name, counts in (found or {}).items()}
        answers = after.values()
        self.all_ready = bool(answers) and all(ready for ready, _ in answers)
        statuses = [status for _, status in answers]
        self.in_flight = sum(each["in_flight"] for each in statuses if each) if all(statuses) else None
        consumers = min((self.queues[name][1] for name in WORK if name in self.queues), default=0)
        now = time.monotonic()
        if self._claims.are_false(
            now, _consuming(before), _consuming(after), None if found is None else consumers
        ):
            self._complain(f"said to be ready, and did not consume, for over {self._notices_within:g} s")
        if self._stays_ready and any(ready is False for ready, _ in answers):
            self._complain("a worker was not ready, though it had only to pause")

    def idle(self) -> bool:
        """Return whether nothing is left to do in any queue, nor in any worker."""
        return self.in_flight == 0 and all(self.queues.get(name, (1, 0))[0] == 0 for name in (*WORK, *TIERS))

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

    async def _ask_all(self) -> dict[int, _Answer]:
        workers = list(self._stage.workers)
        answers = await asyncio.gather(*(self._ask(worker) for worker in workers))
        return {worker.process.pid: answer for worker, answer in zip(workers, answers, strict=True)}

    async def _ask(self, worker: Worker) -> _Answer:
        """Return whether it is ready, and its status."""
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


def _consuming(answers: Mapping[int, _Answer]) -> set[int]:
    """Return the workers that claim to consume: they are ready, and no breaker pauses them."""
    return {
        pid
        for pid, (ready, status) in answers.items()
        if ready and status is not None and _states(status) <= {"closed", "recovering"}
    }


def _states(status: Mapping[str, Any]) -> set[str]:
    return {breaker["state"] for breaker in status["circuit_breakers"].values()}
