"""The dialer's HTTP client, the only code that sends requests to it; look-ups that share one; and the probes.

It keeps connections alive, follows no redirect (which would carry the password
elsewhere) and reads no more than 1 MiB of an answer. It never retries by itself;
aiohttp silently repeats a GET once if the server closed a kept-alive connection
before it read anything. The guard (`worker.vicidial.guard`) decides whether and
when a request may be sent.

Errors hold no text of a body but VICIdial's own fixed sentences, and a short
excerpt of an unreadable answer without user and password.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Hashable, Iterable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Generic, Never, TypeVar

import aiohttp
import structlog
from cachetools import TTLCache
from yarl import URL

from worker import http
from worker.core.breakers import CircuitBreakers
from worker.core.errors import EnrichmentUnavailable, FailureKind, LoginRefused, ProcessingError
from worker.core.payload import AgentEnrichment, CallEnrichment
from worker.core.ports import DialerRequest
from worker.core.scrub import Scrubber
from worker.core.tracing import UNTRACED, Server, Tracing
from worker.settings import VicidialSettings
from worker.vicidial import agents, calls
from worker.vicidial.answers import (
    ACCEPTED,
    CHECK_SERVER,
    MAX_ANSWER,
    excerpt,
    text_of,
    too_large,
    undecodable,
)
from worker.vicidial.clock import DialerTimes, Version, read_version
from worker.vicidial.guard import DROPPED_BY_VICIDIAL, Guard, LockoutGuard, slow_hash

_LONGEST_LINE, _MOST_HEADERS = 32 * 1024, 256
"""Limits of an answer's head; generous, as a site may add headers of its own."""

NO_CALL = "M0000000000000000000"
NO_AGENT = "crmsyncchecknobody"
"""A call id and a user that no dialer has, and that none refuses to look for."""

_About = tuple[tuple[str, str], ...]
"""The parameters of a request, as pairs of name and value."""

_log = structlog.get_logger()

_T = TypeVar("_T")
_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


def open_session(settings: VicidialSettings) -> aiohttp.ClientSession:
    """Open the HTTP session for the dialer, with every limit set. The caller closes it."""
    return http.open_session(
        settings.timeout,
        aiohttp.TCPConnector(limit=settings.max_concurrency, keepalive_timeout=30),
        {"Accept-Encoding": ACCEPTED},
        longest_line=_LONGEST_LINE,
        max_headers=_MOST_HEADERS,
    )


class DialerClient:
    """Calls the dialer's functions, with one request each."""

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
        """Use a session of `open_session`, and the breakers that record how requests end.

        `observe` is called with each request, `on_password` with each new password from the file.
        """
        self._secrets: set[str] = set()
        self._use(settings)
        self._session = session
        password = settings.password.get_secret_value()
        reread = None if settings.password_file is None else self._reread_password
        fingerprint = slow_hash(f"crm-sync {settings.url} {settings.user}".encode())
        lockout = LockoutGuard(breakers.refused_probe.total_seconds(), password, reread, clock, fingerprint)
        self.guard = Guard(breakers, lockout, max_concurrency=settings.max_concurrency, clock=clock)
        self._tracing = tracing
        self._server = Server.of(settings.url, shown=True)
        self._observe = observe
        self._on_password = on_password

    async def callid_info(self, call_id: str, times: DialerTimes) -> CallEnrichment:
        """Look up one call.

        Raises `CircuitOpen` if the request may not be sent, `EnrichmentUnavailable` without an answer, and
        what `read_call` raises.
        """
        read = partial(calls.read_call, call_id=call_id, times=times, not_final=self._settings.not_final)
        return await self._ask("callid_info", (("call_id", call_id),), read)

    async def agent_campaigns(self, agent_user: str, campaign_id: str | None = None) -> AgentEnrichment:
        """Look up one agent, or whether it has one campaign. Raises like `callid_info`."""
        about: _About = (("agent_user", agent_user),)
        if campaign_id is not None:
            about += (("campaign_id", campaign_id),)
        read = partial(agents.read_agent, agent_user=agent_user)
        return await self._ask("agent_campaigns", about, read)

    async def recording_lookup(
        self, search: Iterable[tuple[str, str]], times: DialerTimes
    ) -> list[calls.FoundRecording]:
        """Search for recordings. Raises like `callid_info`, and `LeftOut` or `FunctionRefused`."""
        read = partial(calls.read_recordings, times=times)
        return await self._ask("recording_lookup", tuple(search), read)

    async def campaigns_list(self, campaign_id: str | None = None) -> dict[str, agents.KnownCampaign]:
        """Return the campaigns that the API user may see, or one. Raises like `recording_lookup`."""
        about = () if campaign_id is None else (("campaign_id", campaign_id),)
        return await self._ask("campaigns_list", about, agents.read_campaigns)

    async def user_details(self, agent_user: str) -> agents.UserDetails | None:
        """Return an agent's details, None if there are none. Raises like `recording_lookup`."""
        read = partial(agents.read_user_details, agent_user=agent_user)
        return await self._ask("user_details", (("agent_user", agent_user),), read)

    async def version(self) -> Version:
        """Return the version, which needs no login. Raises `EnrichmentUnavailable`."""
        return await self._observed("version", (), read_version)

    async def probe(self, function: str) -> None:
        """Call a needed function with an id that no dialer has. Raises `EnrichmentUnavailable`."""
        about, read = _PROBES[function]
        await self.guard.probe(function, lambda: self._observed(function, about, read))

    async def _ask(self, function: str, about: _About, read: Callable[[str], _T]) -> _T:
        subject = about[0][1] if about else ""
        return await self.guard.request(function, subject, lambda: self._observed(function, about, read))

    def _reread_password(self) -> str:
        """Return the password that its file holds now, and use it. Raises `ValueError`."""
        settings = self._settings.reread()
        password = settings.password.get_secret_value()
        if settings.password != self._settings.password:
            self._use(settings)
            self._on_password(password)
        return password

    def _use(self, settings: VicidialSettings) -> None:
        """Prepare what all requests of a function have in common: that saves a tenth of a request's time."""
        self._settings = settings
        self._forms = _forms(settings)
        self._addresses = {name: URL(settings.url).extend_query(form) for name, form in self._forms.items()}
        password = settings.password.get_secret_value()
        self._secrets |= {settings.user, password, DROPPED_BY_VICIDIAL.sub("", password)}
        self._scrub = Scrubber(self._secrets, shortest=1)

    async def _observed(self, function: str, about: _About, read: Callable[[str], _T]) -> _T:
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
                    body = await _read_body(response)
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise _failure(error, self._settings.timeout, answered=response is not None) from error
        return _read_answer(response, body)


_PROBES: dict[str, tuple[_About, Callable[[str], object]]] = {
    "callid_info": (
        (("call_id", NO_CALL),),
        partial(calls.read_call, call_id=NO_CALL, times=DialerTimes(None), not_final=frozenset()),
    ),
    "agent_campaigns": ((("agent_user", NO_AGENT),), partial(agents.read_agent, agent_user=NO_AGENT)),
}
"""The probes: they log in and read the database, and no event can be the reason why they fail."""


def _forms(settings: VicidialSettings) -> dict[str, dict[str, str]]:
    """Return the parameters of each function, without the id."""
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


_REFUSED = frozenset({401, 403})
_WORDS = re.compile(r"[\w ,:/'-]{1,100}", re.ASCII)


async def _read_body(response: aiohttp.ClientResponse) -> bytes:
    """Read a body, up to `MAX_ANSWER`. Raises `EnrichmentUnavailable` if it is larger."""
    body = bytearray()
    while not response.content.at_eof():
        body += await response.content.readany()
        if len(body) > MAX_ANSWER:
            response.close()
            raise too_large()
    return bytes(body)


def _read_answer(response: aiohttp.ClientResponse, body: bytes) -> str:
    """Return the text of an answer. Raises `EnrichmentUnavailable` for any status but 200."""
    if response.status in _REFUSED:
        raise EnrichmentUnavailable(
            f"the dialer's web server answered {response.status}; check vicidial.url and who may ask",
            FailureKind.REFUSED,
        )
    if response.status != 200:
        raise EnrichmentUnavailable(f"the dialer's web server answered {response.status} instead of 200")
    return text_of(body, response.headers.getall("Content-Encoding", []))


def _failure(error: Exception, timeout: timedelta, *, answered: bool) -> EnrichmentUnavailable:
    """Return the error for a request that raised; `answered` if the head of an answer had arrived."""
    match error:
        case TimeoutError() if answered:
            what = f"was not complete within {timeout.total_seconds():g} s"
            return EnrichmentUnavailable(f"the dialer's answer {what}")
        case aiohttp.ClientResponseError():
            return undecodable(f"it is no valid HTTP ({_parser_message(error.message)})")
        case _ if answered:
            name = type(error).__name__
            return EnrichmentUnavailable(f"the dialer's answer broke off ({name}); {CHECK_SERVER}")
        case _:
            return EnrichmentUnavailable(http.describe_failure(error, "the dialer", "vicidial.url", timeout))


def _parser_message(message: str) -> str:
    """Return the message of the HTTP parser, without the bytes of the answer that it quotes."""
    words = " ".join(message.partition("b'")[0].partition('b"')[0].split()).rstrip(":")
    return words if _WORDS.fullmatch(words) else "malformed"


# --- identical look-ups in flight share one request

CACHE_SIZE = 10_000
"""How many answers of one function are cached at most; the oldest are dropped first."""


class SingleFlight(Generic[_K, _V]):
    """The look-ups of one function: never two with the same key at one time."""

    def __init__(
        self,
        ttl: timedelta = timedelta(0),
        *,
        on_hit: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Cache each answer for `ttl`, by default not at all. `on_hit` is called at each use of the cache."""
        self._cache = TTLCache[_K, _V](CACHE_SIZE, ttl.total_seconds(), timer=clock) if ttl else None
        self._on_hit = on_hit
        self._in_flight: dict[_K, asyncio.Future[_V]] = {}

    async def get(self, key: _K, ask: Callable[[], Awaitable[_V]], *, fresh: bool = False) -> _V:
        """Return the answer to `key`: from the cache unless `fresh`, from a look-up in flight, or from `ask`.

        Raises what `ask` raises, to everyone who waits; a failure is not cached. If the look-up in flight is
        cancelled, the next one who waits calls its own `ask`.
        """
        if self._cache is not None and not fresh and (cached := self._cache.get(key)) is not None:
            self._on_hit()
            return cached
        while (flight := self._in_flight.get(key)) is not None:
            await asyncio.wait([flight])
            if not flight.cancelled():
                return flight.result()
        flight = self._in_flight[key] = asyncio.get_running_loop().create_future()
        try:
            answer = await ask()
        except Exception as error:
            flight.set_exception(error)
            flight.exception()  # mark it as retrieved, also if nobody else waits
            raise
        else:
            flight.set_result(answer)
            if self._cache is not None:
                self._cache[key] = answer
            return answer
        finally:
            flight.cancel()
            del self._in_flight[key]


# --- probing

PROBES_TO_VERIFY = 3
"""Answers in a row that show that a dialer works: if every other request fails, one may succeed by chance."""
REREAD_PASSWORD_EVERY = 1.0
"""Seconds between two reads of the password file while the dialer refuses its password."""


class Prober:
    """Sends the probes that the breakers of the dialer wait for."""

    def __init__(
        self, client: DialerClient, changed: asyncio.Event, reread_every: float = REREAD_PASSWORD_EVERY
    ) -> None:
        """Probe with the client; `changed` is set at each change of a breaker's state.

        While the login is refused, the password file is read again every so many seconds.
        """
        self._reread_every = reread_every
        self._client = client
        self._guard = client.guard
        self._breakers = client.guard.breakers
        self._changed = changed
        self._verifying = SingleFlight[str, bool]()
        self._guard.verify = self.verify

    async def watch(self) -> Never:
        """Probe whenever a breaker is due, until cancelled."""
        while True:
            self._changed.clear()
            await self.probe_what_is_due()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._next_look()):
                    await self._changed.wait()

    async def probe_what_is_due(self) -> None:
        """Send the probes that are due now. A password that has changed is due at once."""
        if self._guard.lockout.refusing and self._guard.lockout.ready_in() == 0:
            self._breakers.dialer.probe_now()
        for function in self._breakers.to_probe():
            await self._probe(function)

    async def verify(self, function: str) -> bool:
        """Return whether the dialer answers several probes of this function in a row.

        Concurrent callers share the probes.
        """
        return await self._verifying.get(function, lambda: self._ask_in_a_row(function))

    async def _ask_in_a_row(self, function: str) -> bool:
        try:
            for _ in range(PROBES_TO_VERIFY):
                await self._client.probe(function)
        except ProcessingError:
            return False
        return True

    def _next_look(self) -> float | None:
        if self._guard.lockout.refusing:
            return self._reread_every
        return self._breakers.next_change_in()

    async def _probe(self, function: str) -> None:
        dialer, lockout = self._breakers.dialer, self._guard.lockout
        if (wait := lockout.ready_in()) > 0:
            dialer.postpone(timedelta(seconds=wait))
            return
        try:
            await self._client.probe(function)
        except LoginRefused:
            dialer.postpone(timedelta(seconds=max(1.0, lockout.ready_in())))
        except ProcessingError:
            pass  # the breakers know
        except Exception as error:  # noqa: BLE001 - a bug of ours must not end the probing
            _log.error("dialer_probe_failed", exc_info=error)
            self._breakers.probed_in_vain(
                function, EnrichmentUnavailable("our own question met a bug of ours")
            )
