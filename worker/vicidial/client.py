"""The one place that speaks HTTP to the dialer.

Polite by construction: at most `max_concurrency` requests at one time, kept
alive connections, no redirects followed (one would carry the password
elsewhere), no answer over 1 MiB taken in. It never retries by itself; aiohttp
repeats a GET once, silently, where a kept-alive connection turns out to have
been closed by the server before it read anything.

A refused login is not repeated: ten of them lock the API user. So the very
first request goes alone, and after a refusal every request fails for
`refused_probe` without being sent; then one goes alone, with the password as
its file then holds it.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta, tzinfo
from functools import partial
from typing import TypeVar

import aiohttp
from yarl import URL

from worker import __version__
from worker.core.errors import EnrichmentRejected, EnrichmentUnavailable, Fault, NotReady, ProcessingError
from worker.core.ports import DialerRequest
from worker.core.records import AgentEnrichment, CallEnrichment
from worker.settings import VicidialSettings
from worker.vicidial import responses

MAX_ANSWER = 1024 * 1024
"""The largest answer that is taken in, in bytes."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Refusal:
    message: str
    until: float


def open_session(settings: VicidialSettings) -> aiohttp.ClientSession:
    """Open the HTTP session for the dialer, with every limit set. The caller closes it."""
    seconds = settings.timeout.total_seconds()
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=settings.max_concurrency, keepalive_timeout=30),
        # The total bounds every part of a request; bounds of their own would only cost timers.
        timeout=aiohttp.ClientTimeout(total=seconds, connect=None, sock_connect=None, sock_read=None),
        headers={"User-Agent": f"crm-sync/{__version__}"},
        cookie_jar=aiohttp.DummyCookieJar(),
    )


class DialerClient:
    """Asks the dialer's functions, one request each."""

    def __init__(
        self,
        settings: VicidialSettings,
        session: aiohttp.ClientSession,
        *,
        refused_probe: timedelta,
        observe: Callable[[DialerRequest], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the session from `open_session`, and who is told of each request."""
        self._use(settings)
        self._session = session
        self._places = asyncio.Semaphore(settings.max_concurrency)
        self._first = asyncio.Lock()
        self._has_asked = False
        self._refused_probe = refused_probe.total_seconds()
        self._refusal: _Refusal | None = None
        self._observe = observe
        self._clock = clock

    async def callid_info(self, call_id: str, zone: tzinfo | None) -> CallEnrichment:
        """Ask about one call; times of the answer are in `zone`.

        Raises as `worker.vicidial.responses` does, and `EnrichmentUnavailable` where no answer came.
        """
        read = partial(responses.read_call, call_id=call_id, zone=zone)
        return await self._ask("callid_info", {"call_id": call_id}, read)

    async def agent_campaigns(self, agent_user: str) -> AgentEnrichment:
        """Ask about one agent. Raises as `callid_info` does."""
        read = partial(responses.read_agent, agent_user=agent_user)
        return await self._ask("agent_campaigns", {"agent_user": agent_user}, read)

    async def version(self) -> str:
        """Ask for the version, which needs no login. Raises `EnrichmentUnavailable`."""
        return await self._measured("version", {}, str)

    async def _ask(self, function: str, about: dict[str, str], read: Callable[[str], _T]) -> _T:
        async with self._places:
            if not self._has_asked:
                async with self._first:
                    if not self._has_asked:
                        try:
                            return await self._ask_once(function, about, read)
                        finally:
                            self._has_asked = True
            return await self._ask_once(function, about, read)

    async def _ask_once(self, function: str, about: dict[str, str], read: Callable[[str], _T]) -> _T:
        probed = self._check_refusal()
        try:
            answer = await self._measured(function, about, read)
        except EnrichmentUnavailable as error:
            if error.fault is Fault.REFUSED:
                self._refusal = _Refusal(str(error), self._clock() + self._refused_probe)
            raise
        except (NotReady, EnrichmentRejected):
            self._accepted(probed)  # an answer about the id: the login is good
            raise
        self._accepted(probed)
        return answer

    def _check_refusal(self) -> _Refusal | None:
        """Let a request through, or raise the refusal that still stands.

        The first request after the wait goes alone: until it has an answer, the refusal stands for the rest.
        """
        if self._refusal is not None:
            if self._clock() < self._refusal.until:
                raise EnrichmentUnavailable(self._refusal.message, Fault.REFUSED)
            self._reread_password()
            self._refusal = _Refusal(self._refusal.message, self._clock() + self._refused_probe)
        return self._refusal

    def _accepted(self, probed: _Refusal | None) -> None:
        """Lift the refusal that this request probed, but not one that came while it was under way."""
        if self._refusal is probed:
            self._refusal = None

    def _reread_password(self) -> None:
        try:
            self._use(self._settings.reread())
        except ValueError as error:
            raise EnrichmentUnavailable(f"the password file: {error}", Fault.REFUSED) from error

    def _use(self, settings: VicidialSettings) -> None:
        """Prepare what every request of a function repeats: writing it anew costs a tenth of one."""
        self._settings = settings
        self._forms = _forms(settings)
        self._addresses = {name: URL(settings.url).extend_query(form) for name, form in self._forms.items()}

    async def _measured(self, function: str, about: dict[str, str], read: Callable[[str], _T]) -> _T:
        started = time.perf_counter()
        outcome = "unexpected"
        try:
            answer = read(await self._request(function, about))
            outcome = "ok"
        except ProcessingError as error:
            outcome = error.label
            raise
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        finally:
            seconds = time.perf_counter() - started
            self._observe(DialerRequest(function, next(iter(about.values()), ""), outcome, seconds))
        return answer

    async def _request(self, function: str, about: dict[str, str]) -> str:
        if self._settings.method == "GET":
            request = self._session.get(self._addresses[function], params=about, allow_redirects=False)
        else:
            form = self._forms[function] | about
            request = self._session.post(self._settings.url, data=form, allow_redirects=False)
        try:
            async with request as response:
                body = await _read_at_most(response, MAX_ANSWER)
        except TimeoutError as error:
            raise EnrichmentUnavailable(
                f"the dialer did not answer within {self._settings.timeout.total_seconds():g} s"
            ) from error
        except aiohttp.ClientSSLError as error:
            raise EnrichmentUnavailable(
                "the dialer's TLS certificate can't be verified; check vicidial.url"
            ) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise EnrichmentUnavailable(
                f"the dialer can't be reached ({type(error).__name__}); check vicidial.url and the network"
            ) from error
        if response.status in (401, 403):
            raise EnrichmentUnavailable(
                f"the dialer's web server answered {response.status}; check vicidial.url and who may ask",
                Fault.REFUSED,
            )
        if response.status != 200:
            raise EnrichmentUnavailable(f"the dialer's web server answered {response.status} instead of 200")
        return _text(body)


def _forms(settings: VicidialSettings) -> dict[str, dict[str, str]]:
    """Give what is sent with each function, but for the id asked about."""
    login = {"user": settings.user, "pass": settings.password.get_secret_value(), "source": settings.source}
    flags = {"stage": "pipe", "header": "YES"}
    agentdirect = {"ignore_agentdirect": "Y"} if settings.ignore_agentdirect else {}
    return {
        "version": {"function": "version"},
        "callid_info": login | {"function": "callid_info"} | flags | {"detail": "YES"},
        "agent_campaigns": login | {"function": "agent_campaigns"} | flags | agentdirect,
    }


async def _read_at_most(response: aiohttp.ClientResponse, limit: int) -> bytes:
    body = bytearray()
    while not response.content.at_eof():
        body += await response.content.readany()
        if len(body) > limit:
            response.close()
            raise EnrichmentUnavailable(f"the dialer's answer is larger than {limit} bytes", Fault.UNREADABLE)
    return bytes(body)


def _text(body: bytes) -> str:
    """Decode an answer: UTF-8 as it claims, or latin-1 as a database of that charset makes it."""
    try:
        return body.decode()
    except UnicodeDecodeError:
        return body.decode("latin-1")
