"""What PHP and Apache put around an answer, or in its place: warnings, other bytes, errors of the server."""

import re
from collections.abc import Mapping
from functools import cache
from typing import Final

from simulators.recordings import find

LONGEST_REQUEST_LINE: Final = 8190
"""Apache's `LimitRequestLine`: what is longer is answered with 414."""

_WARNING = re.compile(r"<br />\n<b>Warning</b>:  .*<br />\n")
_UNSENT = re.compile(r"Undefined variable \$(\w+) in")
_NOT_LET_IN = ("ERROR: Login incorrect", "ERROR: Too many login", "ERROR: Your IP Address")


def amid_warnings(text: str, parameters: Mapping[str, str]) -> str:
    """Give the answer as a server with `display_errors` on does: amid tens of kilobytes of warnings.

    Among them is one for each parameter that the API knows and that was not sent.
    """
    start, logged_in, end = _warnings()
    said = [each for each in start if not _is_about(each, parameters)]
    if text.startswith(_NOT_LET_IN):
        refused = find("display_errors_on", "wrong_password").body
        return "".join((*said, _WARNING.findall(refused)[-1], text))
    around = (logged_in[1], end[0]) if parameters.get("function") == "agent_campaigns" else ("", "")
    return "".join((*said, logged_in[0], around[0], text, around[1], *end[1:]))


def fatal_error(parameters: Mapping[str, str]) -> str:
    """Give what such a server shows in place of an empty answer with the status 500."""
    start, logged_in, _ = _warnings()
    body = find("display_errors_on", "sql_error").body
    said = [each for each in start if not _is_about(each, parameters)]
    return "".join((*said, logged_in[0], body[body.index("<br />\n<b>Fatal error</b>") :]))


def too_long() -> tuple[str, str]:
    """Give body and content type of Apache's answer to a request line that is too long."""
    recorded = find("apache_mod_php", "url_9000")
    return recorded.body, recorded.content_type


def _is_about(warning: str, parameters: Mapping[str, str]) -> bool:
    found = _UNSENT.search(warning)
    return found is not None and found[1] in parameters


@cache
def _warnings() -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Give the warnings before the login, between the login and the row, and after the row.

    Each recording lacks those about its own parameters, so the first part is put together from two.
    """
    with_agent, after = _around_the_row(find("display_errors_on", "agent_campaigns_ok").body)
    with_call = _WARNING.findall(find("display_errors_on", "wrong_password").body)[:-1]
    login = next(place for place, each in enumerate(with_agent) if "$login_problem" in each)
    start = with_agent[:login]
    for before, each in zip(["", *with_call], with_call, strict=False):
        if each not in start:
            start.insert(start.index(before) + 1, each)
    return tuple(start), tuple(with_agent[login:]), tuple(after)


def _around_the_row(body: str) -> tuple[list[str], list[str]]:
    """Give the warnings before the one row of a body, and those after it."""
    row = _WARNING.sub("", body)
    before, _, after = body.partition(row)
    return _WARNING.findall(before), _WARNING.findall(after)
