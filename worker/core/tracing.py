"""Tracing as the adapters see it: work is done within a span.

If nothing traces, the producer's own trace headers are forwarded
unchanged, as W3C Trace Context asks of a system between two that trace
("forwarding a trace").
"""

import re
from collections.abc import Mapping, MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

from worker.core.events import Inbound
from worker.core.pipeline import Outcome

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[\x21-\x7e]{0,200})?")
_TRACESTATE = re.compile(r"[\x20-\x7e]{1,512}")
_PORTS = {"http": 80, "https": 443, "amqp": 5672, "amqps": 5671}


def trace_headers(headers: Mapping[str, Any]) -> dict[str, str]:
    """Return `traceparent` and `tracestate` of a message's headers, if HTTP can carry them.

    Empty if there is no `traceparent`, or none that can be parsed.
    """
    parent, state = headers.get("traceparent"), headers.get("tracestate")
    if not isinstance(parent, str) or _TRACEPARENT.fullmatch(parent) is None:
        return {}
    if isinstance(state, str) and _TRACESTATE.fullmatch(state) is not None:
        return {"traceparent": parent, "tracestate": state}
    return {"traceparent": parent}


@dataclass(frozen=True, slots=True)
class Server:
    """The server that a span names: no user, no password, no query."""

    host: str
    port: int
    url: str | None = None
    """The whole address, `None` if the path may be secret."""

    @classmethod
    def of(cls, url: str, *, shown: bool = False) -> Self:
        """Parse an address; with `shown`, its path is kept too."""
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)
        where = parts.netloc.rpartition("@")[2]
        return cls(host, port, urlunsplit((parts.scheme, where, parts.path, "", "")) if shown else None)


class Span:
    """The span of one block of work. This one traces nothing, and only has headers to forward."""

    __slots__ = ("headers",)

    def __init__(self, headers: Mapping[str, str] | None = None) -> None:
        self.headers = headers
        """Of a request: the headers by which the server can join the trace, None for none."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def decided(self, outcome: Outcome) -> None:
        """Record what becomes of the message in work."""

    def answered(self, status: int) -> None:
        """Record the status of the answer to a request."""


_NOTHING = Span()
_passed_on: ContextVar[Span] = ContextVar("passed_on", default=_NOTHING)


class Tracing:
    """Opens spans. This one traces nothing, and costs an event about a microsecond.

    `worker.observe.trace` has the one that traces. An error that leaves a span is recorded there by its class
    alone: its text might hold a secret.
    """

    def work(self, queue: str, exchange: str, inbound: Inbound) -> Span:
        """Open the span of a message that is taken into work, which continues its producer's trace.

        Once in a task: what the task does until then, and those that it starts, belongs to it.
        """
        if "traceparent" in inbound.headers and (headers := trace_headers(inbound.headers)):
            _passed_on.set(Span(headers))
        return _NOTHING

    def request(self, method: str, server: Server, function: str | None = None) -> Span:
        """Open the span of an HTTP request; `function` is the one of the dialer's API that it calls."""
        return _passed_on.get()

    def send(
        self, exchange: str, routing_key: str, message_id: str | None, headers: MutableMapping[str, Any]
    ) -> Span:
        """Open the span of a publish; `headers` are the message's own, to which the trace's are added.

        Those that are there already stay: a copy belongs where its original did.
        """
        if (passed_on := _passed_on.get().headers) is not None and "traceparent" not in headers:
            headers.update(passed_on)
        return _NOTHING

    def close(self) -> None:
        """Export what is left, within a few seconds. Never raises."""


UNTRACED = Tracing()
