"""The stand-in dialer: VICIdial's non-agent API on loopback, with what the recordings know.

Run as `python -m simulators.dialer`, it prints one JSON line with its address and serves until SIGTERM.
"""

from collections.abc import Mapping
from typing import Final

from aiohttp import web

from simulators.dialer.answers import (
    LONGEST_REQUEST_LINE,
    Question,
    ServerError,
    amid_warnings,
    answer,
    fatal_error,
    filtered,
    subject_of,
    too_long,
    tutorial_answer,
)
from simulators.dialer.page import View, html_page, text_page
from simulators.dialer.requests import CONTENT_TYPE, DialerRequest, Planted, outcome_of, read_parameters
from simulators.dialer.state import DialerState
from simulators.dialer.world import (
    DEFAULT_PASSWORD,
    DEFAULT_USER,
    ApiUser,
    Campaign,
    DialerAgent,
    DialerCall,
    Recording,
)

__all__ = [
    "DEFAULT_PASSWORD",
    "DEFAULT_USER",
    "PATH",
    "ApiUser",
    "Campaign",
    "DialerAgent",
    "DialerCall",
    "DialerRequest",
    "Planted",
    "Recording",
    "StandInDialer",
]

PATH: Final = "/vicidial/non_agent_api.php"
"""Where the API is."""

_NOT_LET_IN = ("ERROR: Login incorrect", "ERROR: Too many login", "ERROR: INVALID USERNAME")


class StandInDialer(DialerState):
    """A dialer that answers as VICIdial does, breaks on request, and remembers what it was asked.

    `calls`, `agents`, `campaigns`, `recordings` and `users` may be changed while it serves. In the tutorial
    dialect it answers as the tutorials say, with `separator` between the values. With `keep_requests=False`
    it only counts. Its `clock` starts at 0; `wall` is the time of day that `version` returns.

    An answer takes `delay` seconds, and then `service_time`, as long as at most `knee` requests are being
    answered; of more, each takes longer in proportion. `observe` is called with each request when it is over.
    """

    @property
    def url(self) -> str:
        """The full address of the API."""
        return f"{self.base_url}{PATH}"

    def add_routes(self, app: web.Application) -> None:
        """Answer at the API's path with any method, with a page at `/`, and say so anywhere else."""
        app.router.add_route("*", PATH, self._serve)
        app.router.add_get("/", self._page)
        app.router.add_route("*", "/{elsewhere:.*}", self._serve_elsewhere)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        parameters = filtered(await read_parameters(request))
        seen = DialerRequest(
            at=self.now(),
            method=request.method,
            function=parameters.get("function", ""),
            subject=subject_of(parameters),
            user=parameters.get("user", ""),
            parameters={name: value for name, value in parameters.items() if name != "pass"},
        )
        self.asked[seen.function] += 1
        if self.keep_requests:
            self.requests.append(seen)
        self.recent.append(seen)
        try:
            async with self.counted():
                return await self._respond(request, seen, parameters)
        finally:
            seen.seconds = self.now() - seen.at
            seen.outcome = seen.outcome or "the client gave up"
            self.observe(seen)

    async def _respond(
        self, request: web.Request, seen: DialerRequest, parameters: Mapping[str, str]
    ) -> web.StreamResponse:
        if self.fault is not None:
            seen.outcome = f"fault: {self.fault}"
            return await self.misbehave(request, self.fault)
        if seen.function != "version" and (wait := self.users_free_at - self.now()) > 0:
            await self.pause(wait)
        await self.load.work()
        planted = self.plants.take(seen)
        if planted is not None:
            return await self._serve_planted(request, seen, planted)
        if len(f"{request.method} {request.raw_path} HTTP/1.1") > LONGEST_REQUEST_LINE:
            body, content_type = too_long()
            seen.status, seen.outcome = 414, "the address is too long"
            return web.Response(status=414, body=body.encode(), headers={"content-type": content_type})
        return self._answer(seen, parameters)

    def _answer(self, seen: DialerRequest, parameters: Mapping[str, str]) -> web.Response:
        question = Question(parameters, self.world, self.now(), self.wall(), self.local)
        tutorial = self.dialect == "tutorial"
        seen.status = 200
        try:
            text = tutorial_answer(question, self.separator) if tutorial else answer(question)
            seen.outcome = outcome_of(text)
            if text.startswith(_NOT_LET_IN):
                self.failed_logins += 1
            if self.world.display_errors:
                text = amid_warnings(text, parameters)
        except ServerError as error:
            shown = self.world.display_errors
            text = fatal_error(parameters) if shown else ""
            seen.status, seen.outcome = 200 if shown else 500, f"server error: {error}"
        body = text.encode(self.world.charset, errors="replace")
        return web.Response(status=seen.status, body=body, headers={"content-type": CONTENT_TYPE})

    async def _serve_planted(
        self, request: web.Request, seen: DialerRequest, planted: Planted
    ) -> web.StreamResponse:
        if planted.delay:
            await self.pause(planted.delay)
        if planted.fault is not None:
            seen.outcome = f"fault: {planted.fault}"
            return await self.misbehave(request, planted.fault)
        body = planted.body.encode() if isinstance(planted.body, str) else planted.body
        seen.status, seen.outcome = planted.status, f"planted {planted.status}"
        return web.Response(
            status=planted.status,
            body=body,
            headers={"content-type": planted.content_type, **planted.headers},
        )

    async def _serve_elsewhere(self, request: web.Request) -> web.Response:
        """Answer a wrong address with the right one; the path only, as a query holds a password."""
        seen = DialerRequest(
            at=self.now(),
            method=request.method,
            function=request.path,
            subject="",
            user="",
            parameters={},
            status=404,
            outcome=f"not here: the API is at {PATH}",
        )
        self.recent.append(seen)
        self.observe(seen)
        return web.Response(status=404, text=f"Nothing is here. The API is at {self.url}, a page at /.\n")

    async def _page(self, request: web.Request) -> web.Response:
        """Explain itself: in HTML to who asks for HTML, else in plain text."""
        view = View(
            base_url=self.base_url,
            url=self.url,
            dialect=self.dialect,
            separator=self.separator,
            world=self.world,
            now=self.now(),
            local=self.local,
            recent=tuple(self.recent),
            troubles=self._troubles(),
        )
        if "text/html" not in request.headers.get("accept", ""):
            return web.Response(text=text_page(view))
        policy = "default-src 'none'; style-src 'unsafe-inline'"
        return web.Response(
            text=html_page(view), content_type="text/html", headers={"content-security-policy": policy}
        )

    def _troubles(self) -> tuple[str, ...]:
        """Return in what ways it is broken or slow at this moment."""
        waits = self.users_free_at - self.now()
        found = {
            f"fault {self.fault}": self.fault is not None,
            f"delay {self.delay:g} s": self.delay > 0,
            f"service_time {self.service_time:g} s, growing above {self.knee} at once": self.service_time > 0,
            f"users_table_locked for {waits:.0f} s more": waits > 0,
            "ip_blocked": self.world.ip_blocked,
            "display_errors": self.world.display_errors,
            f"charset {self.world.charset}": self.world.charset != "utf-8",
            "planted answers": bool(self.plants),
        }
        return tuple(said for said, holds in found.items() if holds)
