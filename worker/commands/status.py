"""`crm-sync status`: what a running worker says of itself, with the most important thing first."""

import asyncio
import json
import os
import time
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
from worker.commands.status_view import Snapshot, diagnose, render
from worker.commands.terminal import out, say
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


class _HttpPart(BaseModel):
    """Where a worker listens; the rest of the settings is not looked at, so no secret is needed."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    http: HttpSettings = Field(default={}, validate_default=True)


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
    snapshot = _watch(base) if watch else _take_snapshot(base)
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


def _take_snapshot(base: str) -> Snapshot:
    url = masked_address(base)
    try:
        ready, answer = asyncio.run(_ask(base))
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


async def _ask(base: str) -> tuple[bool, Any]:
    """Return whether the worker is ready, and its status. Raises `NoWorkerError`."""
    try:
        async with asyncio.timeout(WITHIN), aiohttp.ClientSession() as session:
            async with session.get(f"{base}/readyz", allow_redirects=False) as response:
                ready = response.status == 200
            async with session.get(f"{base}/status", allow_redirects=False) as response:
                body = await _read(response)
    except TimeoutError:
        raise NoWorkerError(f"nothing within {WITHIN:g} s; see its log, it may be stuck") from None
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
                snapshot = _take_snapshot(base)
                ending = (f"{datetime.now(UTC):%H:%M:%S} UTC, every {EVERY:g} s; Ctrl-C ends it", "dim")
                lines = [Text(text, style or "") for text, style in (*render(snapshot), ("", None), ending)]
                live.update(Text("\n").join(lines), refresh=True)
                time.sleep(EVERY)
        except KeyboardInterrupt:
            pass
    return snapshot or Snapshot(masked_address(base), well=False, sentences=())
