"""`crm-sync status`: what a running worker says of itself, with the most important thing first."""

import asyncio
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn
from urllib.parse import urlsplit

import aiohttp
import typer
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.live import Live
from rich.text import Text

from worker.commands.common import to_json
from worker.commands.options import ConfigOption
from worker.commands.terminal import age, in_one_unit, out, say
from worker.core.scrub import printable
from worker.observe.status import Status
from worker.settings import HttpSettings
from worker.settings.load import peek
from worker.settings.show import masked_address

WITHIN = 10.0
"""Seconds that a worker may take to answer."""
LARGEST_ANSWER = 1024 * 1024
EVERY = 2.0
"""Seconds between two looks of `--watch`."""
DEFAULT_PORT = 8080

_WHERE = (
    "start one with crm-sync run, or say where it listens (its log: listening) with --url http://HOST:PORT;"
    " in Kubernetes first: kubectl port-forward deployment/crm-sync 8080"
)


_CLOSED = "closed"
_FIRST = {"open": 0, "half_open": 1}
"""The states that come first."""

Line = tuple[str, str | None]
"""A line for the terminal, and its style."""


class _HttpPart(BaseModel):
    """Where a worker listens; the rest of the settings is not looked at, so no secret is needed."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    http: HttpSettings = Field(default={}, validate_default=True)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a worker answered at one moment, if it did, and what that means in sentences."""

    url: str
    well: bool
    sentences: tuple[str, ...]
    answer: Any = None
    status: Status | None = None


class NoWorkerError(Exception):
    """Nothing answered, or something else did. The text is for the operator."""


def status(
    url: Annotated[
        str | None, typer.Option("--url", help="The worker's address, such as http://127.0.0.1:8080.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON document.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Look again every 2 seconds, until Ctrl-C.")] = False,
    config: ConfigOption = None,
) -> None:
    """Ask a running worker how it is: what is wrong, what to do, and the details.

    First comes one sentence for each thing that is wrong. Then its circuit
    breakers (why each opened, for how long, when the next probe is), the broker,
    the dialer, the events in work and waiting, and what became of the others
    since its start. What a breaker or a count means: docs/operations.md.

    It asks the worker's /readyz and /status, and needs no secret. The address
    is --url, else that of the settings http.host and http.port.

    Exit status 0 if it consumes and every circuit breaker is closed, else 1, also
    if no worker answers within 10 seconds.

    Examples:
      crm-sync status
      crm-sync status --watch --url http://10.0.0.7:8080
      crm-sync status --json | jq .status.circuit_breakers
    """
    if watch and (as_json or not out.is_terminal):
        raise typer.BadParameter(
            "it redraws a terminal; for a program ask again with --json", param_hint="--watch"
        )
    base = _base(url, config)
    snapshot = _watch(base) if watch else take_snapshot(base)
    if as_json:
        document = {
            "url": snapshot.url,
            "well": snapshot.well,
            "summary": snapshot.sentences,
            "status": snapshot.answer,
        }
        typer.echo(to_json(document, indent=2))
    elif not watch:
        for text, style in render(snapshot):
            say(text, style)
    if not snapshot.well:
        raise typer.Exit(1)


# --- asking ---------------------------------------------------------------------------------------


def _base(url: str | None, config: Path | None) -> str:
    if url is not None:
        try:
            parts = urlsplit(url)
            usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            _refuse_url(f"{masked_address(url)} is no address such as http://127.0.0.1:8080")
        return url.rstrip("/")
    part = peek(_HttpPart, config)
    host, port = (part.http.host, part.http.port) if part else ("127.0.0.1", DEFAULT_PORT)
    if port == 0:
        _refuse_url("http.port is 0, so the worker took any free port; its log names it: listening")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104 - not to listen
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _refuse_url(why: str) -> NoReturn:
    raise typer.BadParameter(why, param_hint="--url")


def take_snapshot(base: str, within: float = WITHIN) -> Snapshot:
    """Ask the worker at this address how it is; if none answers within so many seconds, say so."""
    url = masked_address(base)
    try:
        ready, answer = asyncio.run(_ask(base, within))
        reported = Status.model_validate(answer)
    except NoWorkerError as error:
        return Snapshot(url, well=False, sentences=(f"no worker answers at {url}: {error}",))
    except ValidationError:
        return Snapshot(
            url, well=False, sentences=(f"what answers at {url} is no worker of crm-sync; {_WHERE}",)
        )
    reported = reported.model_copy(update={"consuming": reported.consuming and ready})
    well, sentences = diagnose(reported)
    return Snapshot(url, well=well, sentences=sentences, answer=answer, status=reported)


async def _ask(base: str, within: float) -> tuple[bool, Any]:
    """Return whether the worker is ready, and its status. Raises `NoWorkerError`."""
    try:
        async with asyncio.timeout(within), aiohttp.ClientSession() as session:
            async with session.get(f"{base}/readyz", allow_redirects=False) as response:
                ready = response.status == 200
            async with session.get(f"{base}/status", allow_redirects=False) as response:
                body = await _read(response)
    except TimeoutError:
        raise NoWorkerError(f"nothing within {within:g} s; see its log, it may be stuck") from None
    except (aiohttp.ClientError, OSError) as error:
        raise NoWorkerError(f"{_reason(error)}; {_WHERE}") from error
    try:
        return ready, json.loads(body)
    except ValueError:
        return ready, None


def _reason(error: Exception) -> str:
    number = getattr(error, "errno", None) or 0
    return os.strerror(number) if number > 0 else getattr(error, "strerror", None) or type(error).__name__


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > LARGEST_ANSWER:
            return b""
    return bytes(body)


def _watch(base: str) -> Snapshot:
    """Show snapshots until Ctrl-C; return the last one."""
    snapshot = None
    with Live(console=out, auto_refresh=False) as live:
        try:
            while True:
                snapshot = take_snapshot(base)
                ending = (f"{datetime.now(UTC):%H:%M:%S} UTC, every {EVERY:g} s; Ctrl-C ends it", "dim")
                lines = [Text(text, style or "") for text, style in (*render(snapshot), ("", None), ending)]
                live.update(Text("\n").join(lines), refresh=True)
                time.sleep(EVERY)
        except KeyboardInterrupt:
            pass
    return snapshot or Snapshot(masked_address(base), well=False, sentences=())


# --- diagnosis ------------------------------------------------------------------------------------


def diagnose(status: Status) -> tuple[bool, tuple[str, ...]]:
    """Return whether all is well, and sentences: what is wrong and what to do, the worst first."""
    problems = tuple(_problems(status))
    return not problems, problems or (_all_is_well(status),)


def _problems(status: Status) -> Iterator[str]:
    if not status.consuming:
        why = (
            status.broker.last_error
            or "it is starting or stopping, or the broker is in an alarm; see its log"
        )
        yield f"it consumes nothing: {why}; crm-sync check looks at the broker"
    tripped = [
        (name, breaker) for name, breaker in status.circuit_breakers.items() if breaker.state != _CLOSED
    ]
    for name, breaker in sorted(tripped, key=lambda each: _FIRST.get(each[1].state, len(_FIRST))):
        since = "" if breaker.open_seconds is None else f" for {in_one_unit(breaker.open_seconds)}"
        why = f": {breaker.reason}" if breaker.reason else ""
        about = f"{name}: circuit breaker"
        match breaker.state:
            case "open":
                yield f"{about} open, intake paused{since}{why}; see operations: circuit breakers"
            case "half_open":
                asked = "the next event" if name == "sink" else "a question of our own"
                yield f"{about} half-open, intake paused{since}{why}; {asked} shows whether it works again"
            case _:
                yield f"{about} {breaker.state}: it works again, and its capacity grows; nothing to do"


def _all_is_well(status: Status) -> str:
    dead = sum(count for name, count in status.queues.items() if name.endswith(".dead-letters"))
    rest = f", but {dead} in the dead letters need a person: crm-sync dead-letters list" if dead else ""
    return f"all is well: it consumes, and every circuit breaker is closed{rest}"


# --- rendering ------------------------------------------------------------------------------------


def render(snapshot: Snapshot) -> Iterator[Line]:
    """Yield the lines of the view; text that others wrote can't steer the terminal."""
    mark, style = ("✓", "green") if snapshot.well else ("✗", "red")
    for sentence in snapshot.sentences:
        yield f"{mark} {printable(sentence)}", style
    if snapshot.status is None:
        return
    yield "", None
    for text in _about(snapshot.url, snapshot.status):
        yield printable(text), None
    yield "", None
    yield from _breakers(snapshot.status)
    if snapshot.status.queues:
        yield "", None
        rows = [(name, str(count)) for name, count in snapshot.status.queues.items()]
        yield from _columns(("QUEUE", "WAITING"), rows)


def _about(url: str, status: Status) -> Iterator[str]:
    up = f", up {age(status.started_at)}" if status.started_at else ""
    yield f"worker   {status.version} at {url}{up}"
    state = "consuming" if status.consuming else "not consuming"
    where = f" from {status.broker.node}" if status.broker.node and status.consuming else ""
    yield f"broker   {state}{where}; connections since the start: {status.broker.connections}"
    dialer = status.dialer
    parts = [] if dialer.limit is None else [f"requests at one time: at most {dialer.limit:g}"]
    if dialer.refused is None:
        parts.append("refuses nothing")
    else:
        again = dialer.next_try_in_seconds
        parts.append(
            f"refuses us: {dialer.refused}" + (f"; next try in {in_one_unit(again)}" if again else "")
        )
    parts += [f"{function} is left out: {why}" for function, why in dialer.left_out.items()]
    if (skew := dialer.clock_skew_seconds) is not None:
        parts.append(f"its clock is {abs(skew):.1f} s {'behind' if skew < 0 else 'ahead'}")
    yield f"dialer   {'; '.join(parts)}"
    yield f"in work  {status.in_flight} events"
    if status.counts:
        yield f"so far   {', '.join(f'{name} {count}' for name, count in status.counts.items())}"


def _breakers(status: Status) -> Iterator[Line]:
    rows = []
    styles: list[str | None] = [None]
    for name, breaker in status.circuit_breakers.items():
        since = "-" if breaker.open_seconds is None else in_one_unit(breaker.open_seconds)
        rows.append((name, breaker.state, since, _in(breaker.next_probe_at), breaker.reason or "-"))
        styles.append(None if breaker.state == _CLOSED else "red" if breaker.state == "open" else "yellow")
    lines = _columns(("CIRCUIT BREAKER", "STATE", "OPEN FOR", "NEXT PROBE", "REASON"), rows)
    yield from ((text, own or style) for (text, style), own in zip(lines, styles, strict=True))


def _in(when: datetime | None) -> str:
    if when is None:
        return "-"
    seconds = (when - datetime.now(UTC)).total_seconds()
    return f"in {in_one_unit(seconds)}" if seconds > 0 else "now"


def _columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[Line]:
    """Yield lines with the values in columns; the head is bold."""
    shown = [[printable(value) for value in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for number, row in enumerate(shown):
        text = "  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip()
        yield text, None if number else "bold"
