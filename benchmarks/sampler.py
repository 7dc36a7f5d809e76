"""Run a program, and note every millisecond of its CPU time which stage of an event it is in.

Run as `python -m benchmarks.sampler OUT DIALER_PORT WEBHOOK_PORT MODULE [ARGUMENT …]`. SIGUSR1 starts the
sampling; SIGUSR2 ends it, and writes the counts by stage to the file OUT, as JSON.

The program runs on asyncio's own event loop: uvloop reads and writes in C, so its time would show up wherever
Python goes on afterwards. That makes the loop itself dearer than it is; the other shares are right. A sample
belongs to the innermost function that `STAGES` names; if the loop reads from a socket, to the stage whose
socket that is. A stage includes the libraries that it calls: `post` is mostly aiohttp.
"""

import argparse
import asyncio
import json
import runpy
import signal
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from types import FrameType

import uvloop

INTERVAL = 0.001
STAGES: tuple[tuple[str, str, str], ...] = (
    ("log", "worker/observe/log.py", ""),
    ("log", "/structlog/", ""),
    ("metrics", "worker/observe/", ""),
    ("metrics", "/prometheus_client/", ""),
    ("sign", "worker/core/signature.py", ""),
    ("build", "worker/core/payload.py", ""),
    ("build", "worker/core/pipeline.py", "build_payload"),
    ("build", "worker/core/pipeline.py", "_call_payload"),
    ("build", "worker/core/pipeline.py", "_completed"),
    ("decode", "worker/core/events.py", ""),
    ("decode", "worker/core/schema.py", ""),
    ("decode", "worker/rabbitmq/codec.py", ""),
    ("decode", "worker/rabbitmq/message.py", "inbound"),
    ("decode", "worker/rabbitmq/message.py", "to_inbound"),
    ("settle", "worker/rabbitmq/message.py", ""),
    ("look-up", "worker/vicidial/", ""),
    ("look-up", "benchmarks/bare.py", "ask"),
    ("post", "worker/sinks/", ""),
    ("post", "benchmarks/bare.py", "post"),
    ("post", "aio_pika/exchange.py", "publish"),
    ("settle", "aio_pika/message.py", "ack"),
    ("settle", "aiormq/connection.py", "__writer"),
    ("work on it", "worker/core/", ""),
    ("work on it", "benchmarks/bare.py", "on_message"),
    ("work on it", "worker/rabbitmq/consumer.py", "_work_on"),
    ("receive", "worker/rabbitmq/", ""),
    ("receive", "/aiormq/", ""),
    ("receive", "/aio_pika/", ""),
)
"""Stage, a part of the file's path, and the function (any if empty). The first one that fits."""
LOOP = "event loop"


@cache
def stage_of(path: str, function: str) -> str | None:
    """Return the stage that a function belongs to."""
    fits = (stage for stage, part, name in STAGES if part in path and name in {"", function})
    return next(fits, None)


class Sampler:
    """Counts samples by stage."""

    def __init__(self, out: Path, ports: dict[int, str]) -> None:
        self.out = out
        self.ports = ports
        self.seen = Counter[str]()

    def start(self, *_: object) -> None:
        """Start."""
        signal.signal(signal.SIGPROF, self.sample)
        signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)

    def sample(self, _: int, frame: FrameType | None) -> None:
        """Note where the program is."""
        while frame is not None:
            code = frame.f_code
            stage = stage_of(code.co_filename, code.co_name)
            if stage is None and code.co_name == "_read_ready__data_received":
                stage = self._peer(frame.f_locals["self"])
            if stage is not None:
                self.seen[stage] += 1
                return
            frame = frame.f_back
        self.seen[LOOP] += 1

    def _peer(self, transport: asyncio.Transport) -> str:
        peer = transport.get_extra_info("peername") or ("", 0)
        return self.ports.get(peer[1], "receive")

    def write(self, *_: object) -> None:
        """End, and write the counts."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        part = self.out.with_suffix(".part")
        part.write_text(json.dumps(self.seen), encoding="utf-8")
        part.rename(self.out)


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sampler", description=__doc__)
    parser.add_argument("out", type=Path)
    for name in ("dialer_port", "webhook_port"):
        parser.add_argument(name, type=int)
    parser.add_argument("module")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    chosen = parser.parse_args()
    sampler = Sampler(chosen.out, {chosen.dialer_port: "look-up", chosen.webhook_port: "post"})
    signal.signal(signal.SIGUSR1, sampler.start)
    signal.signal(signal.SIGUSR2, sampler.write)
    vars(uvloop)["run"] = asyncio.run
    sys.argv = [chosen.module, *chosen.arguments]
    runpy.run_module(chosen.module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
