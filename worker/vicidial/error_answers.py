"""What an answer without a row stands for: VICIdial's own errors, a failed database, a page of HTML.

VICIdial answers errors with status 200 and a line `ERROR: …`. That line counts wherever it stands behind
something that says nothing: HTML, PHP's warnings, characters that nobody sees. It does not count behind a
separator, since then it is a field of somebody's row. A parser looks for its rows first and asks here only if
there is none.

No error holds text of the body but VICIdial's own fixed sentences, since its bodies repeat the password.
"""

import re
from collections.abc import Iterable, Iterator

from worker.core.errors import EnrichmentUnavailable, FailureKind, FunctionRefused, LoginRefused
from worker.core.scrub import INVISIBLE

_INVISIBLE = re.compile(f"[{INVISIBLE}]+")
_TAGS = r"(?:<[^<>\n]*>\s*)*"
_ERROR_LINE = re.compile(rf"^{_TAGS}ERROR: ?(.*)$", re.MULTILINE)
_ERROR_WITHIN_LINE = re.compile(r"^[^|\t\n]*?(?<!connect )(?<![A-Za-z])ERROR: ?(.*)$", re.MULTILINE)
_ECHO = re.compile(r"[:|]| - ")
_PAGE = re.compile(r"<(!doctype|html|head|body|title|h1|p)\b", re.IGNORECASE)
_HTML = re.compile(r"<(br|b)\b", re.IGNORECASE)
_NO_DATABASE = re.compile(r"^[^|\t\n]*?MySQL connect ERROR", re.MULTILINE)
_PHP_FAILED = re.compile(r"^(?:PHP )?(?:Fatal|Parse) error:", re.MULTILINE)

_LOGIN_REFUSED = {
    "LOGIN INCORRECT": "check vicidial.user and vicidial.password; an API user that is inactive or below User"
    " Level 7 gets this too, and with two-factor login on even the right password does: turn two-factor off"
    " for the API user",
    "INVALID USERNAME OR PASSWORD": "check vicidial.user and vicidial.password",
    "INVALID USERNAME/PASSWORD": "that is what the agent API (agc/api.php) says; vicidial.url must be the"
    " address of non_agent_api.php",
    "TOO MANY LOGIN ATTEMPTS": "ten failed logins lock the API user for 15 minutes, counted from its last"
    " good login; check vicidial.password",
    "IP ADDRESS IS NOT ALLOWED": "this host's address must be on the API IP list of the API user's user group"
    " (Admin > IP Lists, Admin > User Groups)",
    "INVALID SOURCE": "vicidial.source must be 2 to 20 letters and digits",
}
_LOGIN_IS_GOOD = frozenset({"IP ADDRESS IS NOT ALLOWED", "INVALID SOURCE"})
"""What is refused whatever the password is; the others are failed logins, of which ten lock the API user."""
_LOGIN_REFUSED_WITHOUT_ERROR = re.compile(
    rf"^{_TAGS}({'|'.join(map(re.escape, _LOGIN_REFUSED))})", re.IGNORECASE | re.MULTILINE
)
_LEVELS = {
    "callid_info": 7,
    "recording_lookup": 7,
    "user_details": 7,
    "agent_campaigns": 8,
    "campaigns_list": 8,
}
_MODIFIES_USERS = frozenset({"agent_campaigns"})
_NO_PERMISSION = "USER DOES NOT HAVE PERMISSION"
_NO_FUNCTION = "NO FUNCTION SPECIFIED"


def error_text(body: str) -> str:
    """Return what stands behind the first `ERROR:`; empty if there is none."""
    return next(_error_texts(_INVISIBLE.sub("", body)), "")


def error_message(body: str) -> str:
    """Return the first error's sentence in capital letters, without what repeats the request."""
    return _sentence(error_text(body))


def _error_texts(seen: str) -> Iterator[str]:
    if "ERROR:" not in seen:
        return
    for pattern in (_ERROR_LINE, _ERROR_WITHIN_LINE):
        yield from (found[1] for found in pattern.finditer(seen))


def _sentence(text: str) -> str:
    return _ECHO.split(text, maxsplit=1)[0].upper()


def first_in(text: str, known: Iterable[str]) -> str | None:
    """Return the first of the known words that stand in a text."""
    return next((words for words in known if words in text), None)


def unreadable(message: str) -> EnrichmentUnavailable:
    """Make the error for an answer that fits no known shape."""
    return EnrichmentUnavailable(message, FailureKind.UNREADABLE)


def explain(body: str, function: str) -> EnrichmentUnavailable:
    """Make the error for an answer of `function` without a row, if it means the same for all functions."""
    seen = _INVISIBLE.sub("", body)
    if (login := _refused_login(seen)) is not None:
        text = f"the dialer says {login}: {_LOGIN_REFUSED[login]}"
        return (
            EnrichmentUnavailable(text, FailureKind.REFUSED)
            if login in _LOGIN_IS_GOOD
            else LoginRefused(text)
        )
    said = error_message(seen)
    if _NO_PERMISSION in said:
        return FunctionRefused(f"the dialer says {_NO_PERMISSION}: {_missing_permission(said, function)}")
    if _NO_FUNCTION in said:
        return FunctionRefused(
            f"the dialer says {_NO_FUNCTION}: this build of VICIdial does not know {function},"
            " or vicidial.url is not the address of its non_agent_api.php"
        )
    if (failed := _failed_server(seen)) is not None:
        return failed
    if _ERROR_LINE.search(seen) is not None:
        return unreadable("the dialer answered with an ERROR of an unknown kind")
    return unreadable("the dialer's answer has no row for the id asked for")


def _refused_login(seen: str) -> str | None:
    """Return what it says of the login, in any of its errors: what is overlooked here locks the API user."""
    if first_in(seen.upper(), _LOGIN_REFUSED) is None:
        return None
    for text in _error_texts(seen):
        if (known := first_in(_sentence(text), _LOGIN_REFUSED)) is not None:
            return known
    bare = _LOGIN_REFUSED_WITHOUT_ERROR.search(seen)
    return None if bare is None else bare[1].upper()


def _failed_server(seen: str) -> EnrichmentUnavailable | None:
    """Make the error for what the dialer's server sends if it can't work, which PHP's warnings don't mean."""
    if not seen.strip():
        return EnrichmentUnavailable("the dialer answered with an empty body")
    if _NO_DATABASE.search(seen):
        return EnrichmentUnavailable("the dialer can't reach its database")
    if _PAGE.search(seen) or (_HTML.search(seen) and not _ERROR_LINE.search(seen)):
        return EnrichmentUnavailable("the dialer answered with a page of HTML instead of a row")
    if _PHP_FAILED.search(seen):
        return EnrichmentUnavailable("the dialer's PHP failed; see the error log of its web server")
    return None


def _missing_permission(said: str, function: str) -> str:
    """Say which boxes to tick: `auth` looks at the list of functions, the function itself at the rest.

    The tutorials' sentence does not tell which of them it was.
    """
    allow = f"add {function} (or ALL_FUNCTIONS) to its API Allowed Functions"
    modify = ", Modify Users 1" if function in _MODIFIES_USERS else ""
    rights = (
        f"give it User Level {_LEVELS[function]} or more, Agent API Access 1, View Reports 1{modify},"
        f" which {function} needs"
    )
    steps = rights
    if "TO USE THIS FUNCTION" in said:
        steps = allow if said.startswith("AUTH ") else f"{allow}, and {rights}"
    return f"in Admin > Users, at the API user, {steps}"
