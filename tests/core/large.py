"""The worst of bodies, and what reading one costs."""

import gc
import json
import sys
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress

from worker.core.events import MAX_BODY


def filled(head: str, item: str, tail: str) -> bytes:
    """Make a body of nearly a mebibyte: the same item again and again, between a head and a tail."""
    count = (MAX_BODY - len(head) - len(tail)) // len(f"{item},".encode())
    return (head + ",".join([item] * count) + tail).encode()


AGENT = '{"type": "agent.onboarded", "agent_user": "a", "expected_campaigns": ['
UNKNOWN = '{"call_id": "V1", "x": ['
CLOUD_EVENT = '{"type": "call.ended", "data": {"call_id": "V1"}, '
LARGE = {
    "objects for campaigns": filled(AGENT, "{}", "]}"),
    "empty campaigns": filled(AGENT, '""', "]}"),
    "blank campaigns": filled(AGENT, '" "', "]}"),
    "campaigns that are true": filled(AGENT, "true", "]}"),
    "many campaigns": filled(AGENT, "1", "]}"),
    "many campaigns, and a bad one at the end": filled(AGENT, "1", ", {}]}"),
    "campaigns that are too long": filled(AGENT, f'"{"x" * 300}"', "]}"),
    "objects": filled(UNKNOWN, "{}", "]}"),
    "floats": filled(UNKNOWN, "1e1", "]}"),
    "nested as deep as it may be": filled(UNKNOWN, "[" * 97 + "]" * 97, "]}"),
    "nested deeper": filled(UNKNOWN, "[" * 101 + "]" * 101, "]}"),
    "nested far deeper": filled(UNKNOWN, "[" * 900 + "]" * 900, "]}"),
    "many keys": ("{" + ",".join(f'"{number}":[]' for number in range(90_000)) + "}").encode(),
    "the same key": filled('{"call_id": "V1", ', '"x": {}', "}"),
    "the same wrong field": filled('{"type": "call.ended", ', '"call_id": {}', "}"),
    "long integers": filled(UNKNOWN, "9" * 4299, "]}"),
    "one long integer": filled('{"call_id": ', "9" * (MAX_BODY - 100), "}"),
    "one long fraction": filled('{"call_id": ', "0." + "9" * (MAX_BODY - 100), "}"),
    "surrogate pairs": filled(UNKNOWN, '"\\ud83d\\ude00"', "]}"),
    "half a surrogate pair": filled(UNKNOWN, "{}", ', "\\ud83d"]}'),
    "escapes": filled('{"call_id": "', "\\u0000" * 170_000, '"}'),
    "a type that is a list": filled('{"call_id": "V1", "type": [', "{}", "]}"),
    "a type that is long": filled('{"call_id": "V1", "type": "', "\N{PADDING CHARACTER}" * 500_000, '"}'),
    "a blank id": filled('{"call_id": "', " " * (MAX_BODY - 100), '"}'),
    "an invisible id": filled('{"call_id": "', "\N{ZERO WIDTH SPACE}" * 340_000, '"}'),
    "a long time": filled('{"call_id": "V1", "occurred_at": "2026-11-20T14:07:14.', "2" * 1_000_000, 'Z"}'),
    "a time of many dashes": filled('{"call_id": "V1", "ended_at": "', "2026-" * 200_000, '"}'),
    "cut off": filled(UNKNOWN, "{}", "]"),
    "a CloudEvents id that is a list": filled(CLOUD_EVENT + '"id": [', "{}", "]}"),
    "a CloudEvents time that is a list": filled(CLOUD_EVENT + '"time": [', "{}", "]}"),
    "a CloudEvents source that is a list": filled(CLOUD_EVENT + '"id": 5, "source": [', "{}", "]}"),
    "a long CloudEvents source": filled(CLOUD_EVENT + '"id": 5, "source": "', "s" * 1_000_000, '"}'),
    "bad base64": filled('{"data_base64": "', "!" * 1_000_000, '"}'),
}


def cost(read: Callable[[bytes], object], body: bytes) -> tuple[float, int]:
    """Measure the seconds of CPU, the least of five runs, and the bytes at the peak.

    Run without the garbage collector, whose cost depends on all that the process holds, and without a trace
    function: measuring coverage slows our code down, and not json's.
    """

    def once() -> float:
        began = time.process_time()
        read(body)
        return time.process_time() - began

    trace = sys.gettrace()
    sys.settrace(None)
    gc.disable()
    try:
        seconds = min(once() for _ in range(5))
        tracemalloc.start()
        once()
        return seconds, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        gc.enable()
        sys.settrace(trace)


def parse(body: bytes) -> None:
    """Parse a body, or find that it is no JSON."""
    with suppress(ValueError, RecursionError):
        json.loads(body)
