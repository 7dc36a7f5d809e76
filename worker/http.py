"""What the HTTP clients of the dialer and the webhook share: a session's limits, and why a request failed."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import aiohttp

from worker import __version__


def open_session(
    timeout: timedelta,
    connector: aiohttp.BaseConnector,
    headers: Mapping[str, str],
    *,
    longest_line: int,
    **more: Any,  # noqa: ANN401 - as they are aiohttp's
) -> aiohttp.ClientSession:
    """Open a session with every limit set, without cookies, that leaves bodies as they are.

    `longest_line` limits each line of an answer's head. The caller closes the session.
    """
    return aiohttp.ClientSession(
        connector=connector,
        # The total bounds every part of a request; bounds of their own would only cost timers.
        timeout=aiohttp.ClientTimeout(
            total=timeout.total_seconds(), connect=None, sock_connect=None, sock_read=None
        ),
        headers={"User-Agent": f"crm-sync/{__version__}", **headers},
        auto_decompress=False,  # aiohttp refuses a whole answer if it does not know its coding
        cookie_jar=aiohttp.DummyCookieJar(),
        max_line_size=longest_line,
        max_field_size=longest_line,
        **more,
    )


def describe_failure(error: Exception, server: str, setting: str, timeout: timedelta) -> str:
    """Return why a request got no answer; `setting` names the setting that holds the address of `server`."""
    match error:
        case TimeoutError():
            return f"{server} did not answer within {timeout.total_seconds():g} s"
        case aiohttp.ClientSSLError():
            return f"{server}'s TLS certificate can't be verified; check {setting}"
        case _:
            return f"{server} can't be reached ({type(error).__name__}); check {setting} and the network"
