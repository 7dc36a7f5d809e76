"""The one place that speaks HTTP to the dialer.

Polite by construction: kept
alive connections, no redirects followed (one would carry the password
elsewhere), no answer over 1 MiB taken in. It never retries by itself; aiohttp
repeats a GET once, silently, where a kept-alive connection turns out to have
been closed by the server before it read anything.

Whether and when a request may go decides its guard (`worker.vicidial.guard`).

No text of its bodies leaves: errors are VICIdial's own fixed sentences, and
of an answer that can't be read a short excerpt without user and password.
"""

import asyncio
import re
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

import aiohttp
from yarl import URL

from worker import __version__
from worker.core.breakers import CircuitBreakers
from worker.core.errors import (
    EnrichmentUnavailable,
    FailureKind,
    ProcessingError,
)
from worker.core.ports import DialerRequest
from worker.core.records import AgentEnrichment, CallEnrichment
from worker.core.scrub import Scrubber
from worker.core.tracing import UNTRACED, Server, Tracing
from worker.settings import VicidialSettings
from worker.vicidial import extras, http, responses
from worker.vicidial.answers import ACCEPTED
from worker.vicidial.excerpt import excerpt
from worker.vicidial.guard import Guard
from worker.vicidial.lockout import LockoutGuard
from worker.vicidial.rows import DialerTimes
from worker.vicidial.version import Version, read_version

_DROPPED_FROM_PASSWORDS = re.compile(r"[^-_0-9a-zA-Z]")
"""What VICIdial drops from a password before it compares it, and before it repeats it in an error."""

_LONGEST_HEADER, _MOST_HEADERS = 32 * 1024, 256
"""Limits of an answer's head: generous, as a site's own headers say nothing of the answer."""

NO_CALL = "M0000000000000000000"
NO_AGENT = "crmsyncchecknobody"
"""A call id and a user that no dialer has, yet none refuses to look for."""

_About = tuple[tuple[str, str], ...]
"""What a request asks about, as pairs of a parameter's name and value."""

_T = TypeVar("_T")


def open_session(settings: VicidialSettings) -> aiohttp.ClientSession:
    """Open the HTTP session for the dialer, with every limit set. The caller closes it."""
    seconds = settings.timeout.total_seconds()
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=settings.max_concurrency, keepalive_timeout=30),
        # The total bounds every part of a request; bounds of their own would only cost timers.
        timeout=aiohttp.ClientTimeout(total=seconds, connect=None, sock_connect=None, sock_read=None),
        headers={"User-Agent": f"crm-sync/{__version__}", "Accept-Encoding": ACCEPTED},
        auto_decompress=False,  # aiohttp refuses an answer whole for a coding that it does not know
        max_line_size=_LONGEST_HEADER,
        max_field_size=_LONGEST_HEADER,
        max_headers=_MOST_HEADERS,
        cookie_jar=aiohttp.DummyCookieJar(),
    )


class DialerClient:
    """Asks the dialer's functions, one request each."""

    def __init__(
        self,
        settings: VicidialSettings,
        session: aiohttp.ClientSession,
        breakers: CircuitBreakers,
        *,
        observe: Callable[[DialerRequest], None] = lambda _: None,
        on_password: Callable[[str], None] = lambda _: None,
        tracing: Tracing = UNTRACED,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the session from `open_session`, and the breakers that the requests' ends open and close.

        `observe` is called with each request, `on_password` with each new password that its file holds.
        """
        self._secrets: set[str] = set()
        self._use(settings)
        self._session = session
        password = settings.password.get_secret_value()
        reread = None if settings.password_file is None else self._reread_password
        lockout = LockoutGuard(breakers.refused_probe.total_seconds(), password, reread, clock)
        self.guard = Guard(breakers, lockout, max_concurrency=settings.max_concurrency, clock=clock)
        self._tracing = tracing
        self._server = Server.of(settings.url, shown=True)
        self._observe = observe
        self._on_password = on_password

    async def callid_info(self, call_id: str, times: DialerTimes) -> CallEnrichment:
        """Ask about one call.

        Raises as `worker.vicidial.responses` does, and `EnrichmentUnavailable` where no answer came.
        """
        read = partial(responses.read_call, call_id=call_id, times=times, not_final=self._settings.not_final)
        return await self._ask("callid_info", (("call_id", call_id),), read)

    async def agent_campaigns(self, agent_user: str, campaign_id: str | None = None) -> AgentEnrichment:
        """Ask about one agent, or whether it has one campaign. Raises as `callid_info` does."""
        about: _About = (("agent_user", agent_user),)
        if campaign_id is not None:
            about += (("campaign_id", campaign_id),)
        read = partial(responses.read_agent, agent_user=agent_user)
        return await self._ask("agent_campaigns", about, read)

    async def recording_lookup(
        self, search: Iterable[tuple[str, str]], times: DialerTimes
    ) -> list[extras.FoundRecording]:
        """Search for recordings. Raises as `callid_info` does, and `FunctionRefused`."""
        read = partial(extras.read_recordings, times=times)
        return await self._ask("recording_lookup", tuple(search), read)

    async def campaigns_list(self, campaign_id: str | None = None) -> dict[str, extras.KnownCampaign]:
        """Ask for the campaigns that the API user may see, or one. Raises as `recording_lookup` does."""
        about = () if campaign_id is None else (("campaign_id", campaign_id),)
        return await self._ask("campaigns_list", about, extras.read_campaigns)

    async def user_details(self, agent_user: str) -> extras.UserDetails | None:
        """Ask for an agent's details, `None` where it shows none. Raises as `recording_lookup` does."""
        read = partial(extras.read_user_details, agent_user=agent_user)
        return await self._ask("user_details", (("agent_user", agent_user),), read)

    async def version(self) -> Version:
        """Ask for the version, which needs no login. Raises `EnrichmentUnavailable`."""
        return await self._measured("version", (), read_version)

    async def probe(self, function: str) -> None:
        """Ask a needed function about what no dialer has. Raises `EnrichmentUnavailable` if not answered."""
        about, read = _OWN_QUESTIONS[function]
        async with self.guard.own_question(function):
            await self._measured(function, about, read)

    async def _ask(self, function: str, about: _About, read: Callable[[str], _T]) -> _T:
        async with self.guard.request(function, about[0][1] if about else ""):
            return await self._measured(function, about, read)

    def _reread_password(self) -> str:
        """Use the password as its file holds it now, and return it. Raises `ValueError`."""
        settings = self._settings.reread()
        password = settings.password.get_secret_value()
        if settings.password != self._settings.password:
            self._use(settings)
            self._on_password(password)
        return password

    def _use(self, settings: VicidialSettings) -> None:
        """Prepare what every request of a function repeats: writing it anew costs a tenth of one."""
        self._settings = settings
        self._forms = _forms(settings)
        self._addresses = {name: URL(settings.url).extend_query(form) for name, form in self._forms.items()}
        password = settings.password.get_secret_value()
        self._secrets |= {settings.user, password, _DROPPED_FROM_PASSWORDS.sub("", password)}
        self._scrub = Scrubber(self._secrets, shortest=1)

    async def _measured(self, function: str, about: _About, read: Callable[[str], _T]) -> _T:
        started = time.perf_counter()
        outcome = "unexpected"
        try:
            answer = self._read(read, await self._request(function, about))
            outcome = "ok"
        except ProcessingError as error:
            outcome = error.label
            raise
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        finally:
            self._observe(DialerRequest(function, about, outcome, time.perf_counter() - started))
        return answer

    def _read(self, read: Callable[[str], _T], body: str) -> _T:
        try:
            return read(body)
        except EnrichmentUnavailable as error:
            if error.kind is not FailureKind.UNREADABLE:
                raise
            raise EnrichmentUnavailable(
                f"{error}; it begins: {excerpt(body, self._scrub)}", FailureKind.UNREADABLE
            ) from error

    async def _request(self, function: str, about: _About) -> str:
        method = self._settings.method
        response = None
        try:
            with self._tracing.request(method, self._server, function) as span:
                if method == "GET":
                    request = self._session.get(
                        self._addresses[function], params=about, headers=span.headers, allow_redirects=False
                    )
                else:
                    form = self._forms[function] | dict(about)
                    request = self._session.post(
                        self._settings.url, data=form, headers=span.headers, allow_redirects=False
                    )
                async with request as response:
                    span.answered(response.status)
                    body = await http.read_body(response)
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise http.failure(error, self._settings.timeout, answered=response is not None) from error
        return http.read_answer(response, body)


_OWN_QUESTIONS: dict[str, tuple[_About, Callable[[str], object]]] = {
    "callid_info": (
        (("call_id", NO_CALL),),
        partial(responses.read_call, call_id=NO_CALL, times=DialerTimes(None), not_final=frozenset()),
    ),
    "agent_campaigns": ((("agent_user", NO_AGENT),), partial(responses.read_agent, agent_user=NO_AGENT)),
}
"""They log in and read the database, and no event can be the reason why they are not answered."""


def _forms(settings: VicidialSettings) -> dict[str, dict[str, str]]:
    """Give what is sent with each function, but for the id asked about."""
    login = {"user": settings.user, "pass": settings.password.get_secret_value(), "source": settings.source}
    flags = {"stage": "pipe", "header": "YES"}
    agentdirect = {"ignore_agentdirect": "Y"} if settings.ignore_agentdirect else {}
    return {
        "version": {"function": "version"},
        "callid_info": login | {"function": "callid_info"} | flags | {"detail": "YES"},
        "agent_campaigns": login | {"function": "agent_campaigns"} | flags | agentdirect,
        "recording_lookup": login | {"function": "recording_lookup"} | flags | {"duration": "Y"},
        "campaigns_list": login | {"function": "campaigns_list"} | flags,
        "user_details": login | {"function": "user_details"} | flags,
    }
