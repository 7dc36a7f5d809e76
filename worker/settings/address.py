"""Addresses: which can be used, and which parts of one are secret."""

from collections.abc import Iterator
from urllib.parse import unquote, unquote_plus, urlsplit

from pydantic import SecretStr

_SHORTEST_KEY = 8
"""In characters: a segment of a path that is shorter is a word and no key."""


def checked_url(secret: SecretStr, schemes: tuple[str, ...], example: str) -> SecretStr:
    """Insist on an address with one of the schemes, a host and a sensible port. Raises `ValueError`."""
    try:
        parts = urlsplit(secret.get_secret_value())
        usable = parts.scheme in schemes and parts.hostname and parts.port != 0
    except ValueError:  # whose text can repeat the password
        usable = False
    if not usable:
        raise ValueError(f"is not an address such as {example} (write special characters as %XX)")
    return secret


def login_secrets(url: str) -> Iterator[str]:
    """Yield the user and password of an address: as written, as meant, and joined as HTTP sends them."""
    parts = urlsplit(url)
    user, password = parts.username or "", parts.password or ""
    yield from (user, password, unquote(user), unquote(password))
    if user or password:
        yield f"{unquote(user)}:{unquote(password)}"  # of which a scrubber knows the base64, too


def path_secrets(url: str) -> Iterator[str]:
    """Yield each long part of the path: it may be a key."""
    for segment in urlsplit(url).path.split("/"):
        if len(segment) >= _SHORTEST_KEY:
            yield from (segment, unquote(segment))


def query_secrets(url: str) -> Iterator[str]:
    """Yield each value of the query, as written and as meant; a query may also be nothing but a key."""
    for pair in urlsplit(url).query.split("&"):
        name, equals, value = pair.partition("=")
        value = value if equals else name
        yield from (value, unquote(value), unquote_plus(value))
