"""A collector for tests: it takes spans by OTLP over HTTP, as any real one does, and keeps every byte."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from aiohttp import web
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2


@dataclass
class Span:
    """One span as it arrived."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent: str
    """The id of the span above it, empty for none."""
    attributes: dict[str, Any]
    failed: bool
    status_text: str
    events: int
    links: list[tuple[str, str]]
    resource: dict[str, Any] = field(repr=False)
    schema: str = field(repr=False)


class Collector:
    """Serves on loopback for as long as its context lasts."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.spans: list[Span] = []
        self.status = 200
        self.answers = asyncio.Event()
        """Unset, it takes a request and does not answer until this is set again."""
        self.answers.set()
        self.requests = 0
        self.url = ""

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/v1/traces", self._take)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        assert request.content_type == "application/x-protobuf"
        body = await request.read()
        self.requests += 1
        await self.answers.wait()
        if self.status == 200:
            self.bodies.append(body)
            self.spans += _read(trace_service_pb2.ExportTraceServiceRequest.FromString(body))
        return web.Response(status=self.status, content_type="application/x-protobuf")

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    def below(self, parent: Span) -> list[Span]:
        return [span for span in self.spans if span.parent == parent.span_id]

    @property
    def written(self) -> str:
        """Everything that arrived, in one text."""
        return b"\n".join(self.bodies).decode("utf-8", "replace")


def _read(request: trace_service_pb2.ExportTraceServiceRequest) -> list[Span]:
    return [
        _span(span, _attributes(group.resource.attributes), scope.schema_url)
        for group in request.resource_spans
        for scope in group.scope_spans
        for span in scope.spans
    ]


def _span(span: trace_pb2.Span, resource: dict[str, Any], schema: str) -> Span:
    return Span(
        name=span.name,
        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        attributes=_attributes(span.attributes),
        failed=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
        status_text=span.status.message,
        events=len(span.events),
        links=[(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
        resource=resource,
        schema=schema,
    )


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in pairs}
