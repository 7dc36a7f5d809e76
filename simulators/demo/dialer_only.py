"""The stand-in dialer alone in the foreground, to develop against: instructions, then each request."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Final

from simulators.dialer import StandInDialer
from simulators.dialer.examples import AGENT, CALL, Example, agent_query, call_query
from simulators.dialer.page import settings_lines
from simulators.dialer.requests import DialerRequest
from simulators.dialer.world import DEFAULT_PASSWORD, DEFAULT_USER, LIFE_CYCLES, LIVE_IDS, transferred_id

DEFAULT_PORT: Final = 8089
"""Where it listens if nothing is said."""

_READABLE: Final = {"stage": "pipe", "header": "YES"}


async def serve_alone(dialer: StandInDialer, say: Callable[[str], None], stop: asyncio.Event) -> None:
    """Serve until `stop`, and say in lines how to ask, then each request; never a password that was sent.

    Raises `OSError` if the port can't be listened on.
    """

    def on_request(seen: DialerRequest) -> None:
        say(request_line(seen, dialer.world.local_time(dialer.wall())[-8:]))

    dialer.observe = on_request
    async with dialer:
        for line in instructions(dialer):
            say(line)
        await stop.wait()
    say(f"stopped after {dialer.served} request{'' if dialer.served == 1 else 's'}")


def instructions(dialer: StandInDialer) -> Iterator[str]:
    """Write what one needs to know to ask it."""
    yield "A stand-in dialer is listening, on this machine only (127.0.0.1)."
    yield from ("", f"  address   {dialer.url}", f"  user      {DEFAULT_USER}")
    yield from (f"  password  {DEFAULT_PASSWORD}", f"  page      {dialer.base_url}/")
    yield from ("", "Ask it:")
    more = _READABLE if dialer.dialect == "real" else {}
    detail = {"detail": "YES"} if dialer.dialect == "real" else {}
    for query in (
        call_query(CALL[dialer.dialect], **more, **detail),
        agent_query(AGENT[dialer.dialect], **more),
    ):
        yield f"  {Example('', '', query).curl(dialer.url)}"
    yield from ("", "Point a worker at it:")
    yield from (f"  {line}" for line in settings_lines(dialer.url))
    yield from ("", "Calls that live from the first question about them on:")
    for life, call_id in LIVE_IDS[dialer.dialect].items():
        then = f" ({transferred_id(call_id)})" if LIFE_CYCLES[life].then else ""
        yield f"  {call_id}  {LIFE_CYCLES[life].what}{then}"
    yield from ("", "The page shows everything that it knows, and how to break it. Ctrl-C stops it.", "")


def request_line(seen: DialerRequest, time: str) -> str:
    """Write one request: time, function, what it is about, outcome; who asked and how long it took."""
    asked = " ".join(filter(None, (seen.function or "(no function)", seen.subject)))
    who = f", user {seen.user}" if seen.user else ""
    return f"{time}  {asked}  {seen.outcome}  ({seen.method}{who}, {seen.seconds * 1000:.0f} ms)"
