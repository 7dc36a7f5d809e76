"""Send one request to a CRM, and return what it answered.

The status line decides, whatever comes behind it (`worker.http`). Redirects are not followed, certificates
are verified, and at most `LARGEST_BODY` bytes of a body are read. An answer whose body breaks off keeps its
status; whether that is enough is for the rules of the preset.

aiohttp repeats a GET or PUT silently, once, if a kept-alive connection turns out to be closed.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import lru_cache
from urllib.parse import quote, urlencode

import aiohttp
from yarl import URL

from worker import http
from worker.core.errors import DeliveryUnavailable, MappingFailed
from worker.core.tracing import UNTRACED, Server, Tracing
from worker.crm.answers import Answer
from worker.crm.limits import Limits
from worker.crm.steps import HttpRequest
from worker.http import UnreadableAnswer

LARGEST_BODY = 1024 * 1024
"""In bytes, once it is decompressed."""

_IN_ADDRESSES = "%/:?[]@!$&'()*+,;=-._~"
_BEFORE_JSON = "\ufeff \t\r\n"
"""Byte order marks, as editors put them before PHP files, and blanks."""
_FORM = "application/x-www-form-urlencoded"


def open_session(timeout: timedelta, connections: int) -> aiohttp.ClientSession:
    """Open the HTTP session for a CRM, with every limit set. The caller closes it."""
    return http.open_session(
        timeout,
        http.Connector(limit=connections, keepalive_timeout=30),
        {"Accept": "application/json", "Accept-Encoding": "identity"},
        longest_line=http.LARGEST,
        response_class=http.Response,
    )


class CrmClient:
    """Sends requests, within the limits of the preset."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        limits: Limits,
        timeout: timedelta,
        *,
        observe: Callable[[str], None] = lambda _: None,
        tracing: Tracing = UNTRACED,
    ) -> None:
        """Use a session of `open_session`; `observe` is called as the webhook's is."""
        self._session = session
        self._limits = limits
        self._timeout = timeout
        self._observe = observe
        self._tracing = tracing

    async def send(self, request: HttpRequest) -> Answer:
        """Send a request, and return the answer.

        Raises:
            DeliveryUnavailable: There is none, or it is not the request's turn in time.
            MappingFailed: The request can't be written.
        """
        url, data, headers = _written(request)
        async with self._limits.turn(request.of):
            return await self._exchange(request.method, url, data, headers)

    async def _exchange(self, method: str, url: URL, data: bytes | None, headers: dict[str, str]) -> Answer:
        seen = "no_answer"
        try:
            with self._tracing.request(method, _server(str(url.origin()))) as span:
                request = self._session.request(
                    method,
                    url,
                    data=data,
                    headers={**headers, **(span.headers or {})},
                    allow_redirects=False,
                )
                answer = await http.answer_of(request, _read_body)
                seen = f"{answer.status // 100}xx"
                span.answered(answer.status)
        except (UnreadableAnswer, aiohttp.ClientError, OSError, ValueError) as error:
            text = http.describe_failure(error, "the CRM", "its address in sink.crm", self._timeout)
            raise DeliveryUnavailable(text, answered=isinstance(error, UnreadableAnswer)) from error
        finally:
            self._observe(seen)
        return _read(answer)


async def _read_body(response: aiohttp.ClientResponse) -> bytes:
    """Read as much of the body as there is: one that breaks off does not change the status."""
    body = bytearray()
    with suppress(aiohttp.ClientError, OSError):
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > LARGEST_BODY:
                break
    return bytes(body)


@lru_cache(maxsize=16)
def _server(origin: str) -> Server:
    return Server.of(origin)


def _written(request: HttpRequest) -> tuple[URL, bytes | None, dict[str, str]]:
    """Return the address, the body and the headers of a request."""
    address = quote(request.url, safe=_IN_ADDRESSES)
    if request.query:
        address += ("&" if "?" in address else "?") + urlencode(request.query, quote_via=quote)
    headers = dict(request.headers)
    data, kind = None, None
    if request.form is not None:
        data, kind = urlencode(request.form).encode(), _FORM
    elif request.body is not None:
        try:
            text = json.dumps(request.body, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        except (ValueError, TypeError, RecursionError) as error:
            raise MappingFailed(f"{request.step}: the body can't be written as JSON ({error})") from error
        data, kind = text.encode(errors="replace"), "application/json"
    if kind is not None and not any(name.lower() == "content-type" for name in headers):
        headers["Content-Type"] = kind
    return URL(address, encoded=True), data, headers


def _read(answer: http.Answer) -> Answer:
    headers = {name.lower(): answer.field(name) or "" for name in answer.headers}
    body = http.decoded(answer.body, headers.get("content-encoding", ""), LARGEST_BODY + 1) or b""
    text = _text(body[:LARGEST_BODY])
    if len(body) > LARGEST_BODY:
        return Answer(answer.status, headers, text, None, is_json=False)
    return Answer.read(answer.status, headers, text)


def _text(body: bytes) -> str:
    """Decode UTF-8, or UTF-16 or UTF-32 by its mark or NULs; drop what nobody sees before the text."""
    return body.decode(json.detect_encoding(body), "replace").lstrip(_BEFORE_JSON)
