"""Looking at the workers while something is broken: whether they tell the truth, and whether they live."""

import asyncio
import time
from contextlib import suppress
from typing import Any

import aiohttp

from tests.system.chaos.account import Verdict
from tests.system.chaos.stage import TIERS, WORK, Stage, Window
from tests.system.harness import Worker

_STEP = 0.15


class Watch:
    """Asks every worker for `/readyz` and `/status` again and again, and the broker who consumes.

    A worker that says it is ready while no gate pauses it has to have a consumer on the broker; it may be
    wrong for `notices_within` seconds. One that ends by itself with a failure is started again, as
    Kubernetes does it; one that ends as if all were well is wrong.
    """

    def __init__(self, stage: Stage, verdict: Verdict, *, notices_within: float, stays_ready: bool) -> None:
        self._stage, self._verdict = stage, verdict
        self._notices_within, self._stays_ready = notices_within, stays_ready
        self._window = Window(stage)
        self._wrong_since: float | None = None
        self._ports: dict[int, int] = {}
        self.queues: dict[str, tuple[int, int]] = {}
        self.in_flight: int | None = None
        """Of all workers; `None` where one of them did not say."""
        self.all_ready = False
        self.looks = 0

    async def run(self) -> None:
        try:
            while True:
                await self.look()
                self.looks += 1
                await asyncio.sleep(_STEP)
        finally:
            await self._window.close()

    async def look(self) -> None:
        self._revive()
        workers = list(self._stage.workers)
        answers = [await self._ask(worker) for worker in workers]
        self.queues = dict(await self._window.look() or {})
        consuming = min(
            (consumers for name, (_, consumers) in self.queues.items() if name in WORK), default=0
        )
        self.all_ready = bool(answers) and all(ready for ready, _ in answers)
        self.in_flight = sum(status["in_flight"] for _, status in answers if status is not None)
        if not all(status is not None for _, status in answers):
            self.in_flight = None
        claims = sum(ready and _unpaused(status) for ready, status in answers)
        self._judge(claims, consuming)
        if self._stays_ready and not self.all_ready:
            self._complain("a worker was not ready, though it had only to pause")

    def idle(self) -> bool:
        """Tell whether nothing is left to do in any queue, nor in any worker."""
        return self.in_flight == 0 and all(self.queues.get(name, (1, 0))[0] == 0 for name in (*WORK, *TIERS))

    def _judge(self, claims: int, consuming: int) -> None:
        now = time.monotonic()
        if claims <= consuming:
            self._wrong_since = None
        elif self._wrong_since is None:
            self._wrong_since = now
        elif now - self._wrong_since > self._notices_within:
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

    async def _ask(self, worker: Worker) -> tuple[bool, dict[str, Any] | None]:
        with suppress(aiohttp.ClientError, TimeoutError, OSError):
            port = self._port(worker)
            if port is not None:
                base = f"http://127.0.0.1:{port}"
                async with self._stage.http.get(f"{base}/readyz") as response:
                    ready = response.status == 200
                async with self._stage.http.get(f"{base}/status") as response:
                    return ready, await response.json()
        return False, None

    def _port(self, worker: Worker) -> int | None:
        known = self._ports.get(worker.process.pid)
        if known is None and (said := worker.events("listening")):
            known = self._ports[worker.process.pid] = said[0]["port"]
        return known


def _unpaused(status: dict[str, Any] | None) -> bool:
    """Tell whether no gate is a reason for consuming nothing."""
    states = {"closed"} if status is None else {gate["state"] for gate in status["gates"].values()}
    return states <= {"open", "ramping"}
