"""The life of one event: decode, enrich, build, deliver; and the decision if a step fails."""

import hashlib
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

from worker.core.breakers import CircuitBreakers
from worker.core.errors import (
    DeliveryIncomplete,
    DeliveryRejected,
    DeliveryUnavailable,
    InvalidEvent,
    NotReady,
    ProcessingError,
)
from worker.core.events import Event, EventType, Inbound, decode, known_agent, known_id, known_lead
from worker.core.payload import (
    AGENT_ENRICHED,
    CALL_ENRICHED,
    AgentData,
    AgentEnriched,
    AgentEnrichment,
    CallData,
    CallEnriched,
    CallEnrichment,
    CallRecord,
    Enrichment,
    Payload,
    check_access,
    enrichment_from_json,
)
from worker.core.ports import Ack, Disposition, Duplicate, Enricher, Receipt, Sink, Stage
from worker.core.retry import RetryPolicy


@dataclass(slots=True)
class _Progress:
    """How far one inbound has got: what is known of it even if a step fails."""

    stage: Stage = Stage.DECODE
    event: Event | None = None
    age: timedelta | None = None
    """The event's age when its look-up began: what is decided of that look-up is decided by one age."""
    enrichment: Enrichment | None = None
    receipt: Receipt | None = None
    seconds: dict[Stage, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of one inbound: the disposition, and what the log and the copies need.

    The disposition has no default: code that forgets to decide acknowledges nothing.
    """

    disposition: Disposition
    stage: Stage = Stage.DECODE
    """The last step that was begun; the one that failed if there is an error."""
    event: Event | None = None
    enrichment: Enrichment | None = None
    receipt: Receipt | None = None
    """The sink's, if the payload was delivered."""
    error: Exception | None = None
    seconds: Mapping[Stage, float] = field(default_factory=dict)
    progress: str | None = None
    """What the sink wants to get back with the next attempt."""

    @property
    def event_id(self) -> str | None:
        """The event's id; of a message that is no event, the one that it claims, if it has one."""
        if self.event is not None:
            return self.event.id
        return self.error.event_id if isinstance(self.error, InvalidEvent) else None


class Pipeline:
    """Processes inbounds, each by itself; all it remembers is which events were delivered last."""

    def __init__(  # noqa: PLR0913 - each is a part or a rule of its own
        self,
        enricher: Enricher,
        sink: Sink,
        policy: RetryPolicy,
        breakers: CircuitBreakers,
        *,
        zone: tzinfo = UTC,
        deliver_not_found: bool = False,
        duplicates_window: int = 0,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Create a pipeline between the adapters.

        Args:
            enricher: Asks the dialer.
            sink: Where payloads are delivered.
            policy: Decides what becomes of a failed event.
            breakers: The circuit breakers that an event has to pass.
            zone: The time zone of times without an offset.
            deliver_not_found: Whether a call that the dialer does not know in the end is delivered with what
                the event said, instead of becoming a dead letter.
            duplicates_window: How many delivered events to remember. A repeat of one is not delivered again,
                unless it comes while the first is still in work.
            now: Returns the present time.
            timer: Returns seconds, to measure how long a step takes.
        """
        self._enricher = enricher
        self._sink = sink
        self._policy = policy
        self._breakers = breakers
        self._zone = zone
        self._deliver_not_found = deliver_not_found
        self._window = Window(duplicates_window)
        self._now = now
        self._timer = timer

    async def process(self, inbound: Inbound) -> Outcome:
        """Process one inbound as far as possible, and decide what becomes of it.

        Raises nothing but `CancelledError`, which is not a disposition: the inbound is then left as it was.
        """
        progress = _Progress()
        disposition: Disposition
        error = None
        try:
            disposition = await self._advance(inbound, progress)
        except Exception as raised:  # noqa: BLE001 - the policy decides, whatever went wrong
            error = raised
            age = self._age(inbound, progress.event) if progress.age is None else progress.age
            disposition = self._policy.decide(raised, attempt=inbound.attempt, age=age)
        noted = error.progress if isinstance(error, ProcessingError) else None
        return Outcome(
            disposition,
            progress.stage,
            progress.event,
            progress.enrichment,
            progress.receipt,
            error,
            progress.seconds,
            noted or inbound.progress,
        )

    async def _advance(self, inbound: Inbound, progress: _Progress) -> Ack | Duplicate:
        event = progress.event = decode(inbound, self._zone)
        if event in self._window:
            return Duplicate()
        progress.stage = Stage.ENRICH
        self._breakers.check(event.type)
        started = self._timer()
        try:
            progress.enrichment = carried(inbound, event) or await self._enrich(event, inbound, progress)
        finally:
            progress.seconds[Stage.ENRICH] = self._timer() - started
        payload = build_payload(event, progress.enrichment)
        if inbound.progress is not None:
            payload = replace(payload, progress=inbound.progress)
        progress.stage = Stage.DELIVER
        self._breakers.check_sink()  # it may have opened during the look-up
        started = self._timer()
        try:
            progress.receipt = await self._deliver(payload, event)
        finally:
            progress.seconds[Stage.DELIVER] = self._timer() - started
        return Ack()

    async def _enrich(self, event: Event, inbound: Inbound, progress: _Progress) -> Enrichment:
        progress.age = self._age(inbound, event)
        accept_incomplete = progress.age >= self._policy.ready_within
        try:
            found = await self._enricher.enrich(event, accept_incomplete=accept_incomplete)
        except NotReady:
            if not accept_incomplete or not self._deliver_not_found or event.type is not EventType.CALL_ENDED:
                raise
            found = unknown_call(event)
        return found

    async def _deliver(self, payload: Payload, event: Event) -> Receipt:
        try:
            receipt = await self._sink.deliver(payload)
        except DeliveryUnavailable as error:
            error.to_blame = self._breakers.sink_failed(error, event.id)
            raise
        except (DeliveryRejected, DeliveryIncomplete):
            self._breakers.sink_answered()
            raise
        if receipt.asked:
            self._breakers.sink_answered()
        self._window.add(event)
        return receipt

    def _age(self, inbound: Inbound, event: Event | None) -> timedelta:
        return self._now() - (event.occurred_at if event else inbound.first_seen)


def carried(inbound: Inbound, event: Event) -> Enrichment | None:
    """Return what an earlier look-up for the same call or agent found, if the inbound carries it."""
    if inbound.enrichment is None:
        return None
    found = enrichment_from_json(inbound.enrichment)
    if found is None:
        return None
    if isinstance(found, CallEnrichment):
        about = EventType.CALL_ENDED, found.call.call_id
    else:
        about = EventType.AGENT_ONBOARDED, found.agent.agent_user
    return found if about == (event.type, event.subject) else None


# --- the payload

_SAID_OF_A_CALL: dict[str, Callable[[object], object]] = {
    "agent_user": known_agent,
    "campaign_id": known_id,
    "in_group_id": known_id,
    "list_id": known_id,
    "lead_id": known_lead,
    "phone_number": known_id,
    "status": known_id,
}
"""The fields of an event that stand in for the dialer's row, and how each is read."""


def build_payload(event: Event, enrichment: Enrichment) -> Payload:
    """Build the payload. The same event and enrichment always give the same bytes."""
    if isinstance(enrichment, CallEnrichment):
        return _call_payload(event, enrichment)
    return _agent_payload(event, enrichment)


def _call_payload(event: Event, enrichment: CallEnrichment) -> Payload:
    call = _completed(enrichment.call, event)
    data: CallData = {"event_id": event.id, "final": enrichment.final, "call": call, "event": event.data}
    if not enrichment.found:
        data["enrichment"] = "not_found"
    body: CallEnriched = {"type": "call.enriched", "timestamp": event.occurred_at, "data": data}
    return Payload(event.id, body["type"], CALL_ENRICHED.dump_json(body))


def _completed(call: CallRecord, event: Event) -> CallRecord:
    """Return the record with what the event says itself, which is taken before what the dialer says."""
    known: dict[str, Any] = {}
    if event.lead_id is not None:
        known["lead_id"] = event.lead_id
    if event.ended_at is not None:
        known["ended_at"] = event.ended_at
        if call.started_at is not None:
            seconds = int((event.ended_at - call.started_at).total_seconds())
            known["duration_seconds"] = seconds if seconds >= 0 else None
    return call.model_copy(update=known) if known else call


def unknown_call(event: Event) -> CallEnrichment:
    """Return what the event said of its call, for one that the dialer does not know."""
    said = {name: read(event.data.get(name)) for name, read in _SAID_OF_A_CALL.items()}
    texts = {name: value for name, value in said.items() if isinstance(value, str)}
    call = CallRecord.model_validate({"call_id": event.subject, **texts})
    return CallEnrichment(call=call, final=False, found=False)


def _agent_payload(event: Event, enrichment: AgentEnrichment) -> Payload:
    data: AgentData
    if event.expected_campaigns is None:
        data = {"event_id": event.id, "agent": enrichment.agent, "event": event.data}
    else:
        check = check_access(event.expected_campaigns, enrichment)
        data = {
            "event_id": event.id,
            "agent": enrichment.agent,
            "access_check": check,
            "event": event.data,
        }
    body: AgentEnriched = {"type": "agent.enriched", "timestamp": event.occurred_at, "data": data}
    return Payload(event.id, body["type"], AGENT_ENRICHED.dump_json(body))


# --- events that were delivered


class Window:
    """The last `size` events that were delivered; always empty if `size` is 0.

    It is lost with its process, so it only saves deliveries: a receiver that must not act on a repeat
    compares the payload's id. Events are compared by id, type and subject: if a producer gives two calls the
    same id, neither is taken for a repeat.
    """

    def __init__(self, size: int) -> None:
        """Start empty. Each event takes the same memory, however long its ids are."""
        self._size = size
        self._known: set[bytes] = set()
        self._order: deque[bytes] = deque()

    def __contains__(self, event: Event) -> bool:
        """Return whether the event is among the last ones that were delivered."""
        return bool(self._known) and _mark(event) in self._known

    def add(self, event: Event) -> None:
        """Add an event that was delivered; if the window is full, forget the oldest one."""
        if not self._size or (mark := _mark(event)) in self._known:
            return
        if len(self._order) == self._size:
            self._known.remove(self._order.popleft())
        self._known.add(mark)
        self._order.append(mark)


def _mark(event: Event) -> bytes:
    """Return 16 bytes for an event. Neither a type nor an id holds a blank."""
    identity = f"{event.type} {event.id} {event.subject}".encode(errors="surrogatepass")
    return hashlib.blake2b(identity, digest_size=16).digest()
