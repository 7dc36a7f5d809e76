"""Tracing as the adapters see it: work is done within a span.

If nothing traces (`Untraced`), the producer's own trace headers are forwarded
unchanged, as W3C Trace Context asks of a system between two that trace
("forwarding a trace").
"""

import re
from collections.abc import Mapping, MutableMapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol, Self
from urllib.parse import urlsplit, urlunsplit

from typing_extensions import override

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


class WorkSpan(Protocol):
    """The span of one message in work."""

    def decided(self, outcome: Outcome) -> None:
        """Record what becomes of the message."""
        ...


class RequestSpan(Protocol):
    """The span of one HTTP request."""

    @property
    def headers(self) -> Mapping[str, str] | None:
        """The headers by which the server can join the trace, `None` for none."""
        ...

    def answered(self, status: int) -> None:
        """Record the status of the answer."""
        ...


class Tracing(Protocol):
    """Opens spans. An error that leaves one is recorded by its class alone: its text might hold a secret."""

    def work(self, queue: str, exchange: str, inbound: Inbound) -> AbstractContextManager[WorkSpan]:
        """Open the span of a message that is taken into work, which continues its producer's trace.

        Once in a task: what the task does until then, and those that it starts, belongs to it.
        """
        ...

    def request(
        self, method: str, server: Server, function: str | None = None
    ) -> AbstractContextManager[RequestSpan]:
        """Open the span of an HTTP request; `function` is the one of the dialer's API that it calls."""
        ...

    def send(
        self, exchange: str, routing_key: str, message_id: str | None, headers: MutableMapping[str, Any]
    ) -> AbstractContextManager[object]:
        """Open the span of a publish; `headers` are the message's own, to which the trace's are added.

        Those that are there already stay: a copy belongs where its original did.
        """
        ...

    def close(self) -> None:
        """Export what is left, within a few seconds. Never raises."""
        ...


class _Nothing:
    """Every span if nothing traces."""

    __slots__ = ("headers",)

    def __init__(self, headers: Mapping[str, str] | None = None) -> None:
        self.headers = headers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None: ...

    def decided(self, outcome: Outcome) -> None: ...

    def answered(self, status: int) -> None: ...


_NOTHING = _Nothing()
_passed_on: ContextVar[_Nothing] = ContextVar("passed_on", default=_NOTHING)


class Untraced(Tracing):
    """Fulfils `Tracing` without tracing; it costs an event about a microsecond."""

    @override
    def work(self, queue: str, exchange: str, inbound: Inbound) -> _Nothing:
        """Remember the producer's trace headers for what this task sends; each message has its own task."""
        if "traceparent" in inbound.headers and (headers := trace_headers(inbound.headers)):
            _passed_on.set(_Nothing(headers))
        return _NOTHING

    @override
    def request(self, method: str, server: Server, function: str | None = None) -> _Nothing:
        """Return a span with the producer's headers, to be forwarded."""
        return _passed_on.get()

    @override
    def send(
        self, exchange: str, routing_key: str, message_id: str | None, headers: MutableMapping[str, Any]
    ) -> _Nothing:
        """Forward the producer's headers; a copy has them already."""
        if (passed_on := _passed_on.get().headers) is not None and "traceparent" not in headers:
            headers.update(passed_on)
        return _NOTHING

    @override
    def close(self) -> None:
        """Do nothing: there is nothing left."""


UNTRACED: Tracing = Untraced()
