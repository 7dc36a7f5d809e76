"""Addresses: which can be used, and which parts of one are secret.

What is refused here would be accepted further on, and mean something else: a blank at
the end becomes a part of the path, a bare `/` in a password ends the host, and what is
unknown in a query is ignored.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import parse_qsl, unquote, unquote_plus, urlsplit

_SHORTEST_KEY = 8
"""In characters: a segment of a path that is shorter is a word and no key."""

_WRONG = (
    (
        r"[\x00-\x20\x7f-\xa0\u2000-\u200f\u2028-\u202f\u205f-\u2060\u3000\ufeff]",
        "holds a blank or a line break",
    ),
    (r"[^\x21-\x7e]", "holds a letter that is not ASCII; write a host's name as xn--…, and elsewhere %XX"),
    (r"""["<>\\^`{|}]""", "holds a sign that no address has, such as a quote or a brace; write it as %XX"),
    (r"%(?![0-9A-Fa-f]{2})", "holds a % without two hexadecimal digits behind it; write the sign as %25"),
    (r"#", "holds a #, and what stands behind it would not be sent; write the sign as %23"),
    (r"\?$", "ends with a ? and has no query; leave it out"),
)
_LABEL = re.compile(r"[A-Za-z0-9_-]{1,63}")


def checked_url(url: str, schemes: tuple[str, ...], example: str) -> str:
    """Return the address without the blanks around it. Raises `ValueError` if it can't be used as it is.

    No error repeats any of the address, as it can hold a password.
    """
    url = url.strip("\ufeff \t\r\n")
    for pattern, wrong in _WRONG:
        if re.search(pattern, url):
            raise ValueError(wrong)
    try:
        parts = urlsplit(url)
        usable = parts.scheme in schemes and parts.port != 0 and _is_host(parts.hostname or "")
    except ValueError:  # whose text can repeat the password
        parts, usable = urlsplit(""), False
    if not usable:
        raise ValueError(f"is not an address such as {example} (write special characters as %XX)")
    if "@" in parts.path + parts.query and not ("http" in schemes and "." in (parts.hostname or "")):
        raise ValueError("holds an @ behind its host; in a password, write / as %2F, ? as %3F and @ as %40")
    return url


def _is_host(name: str) -> bool:
    if ":" in name:
        return ipaddress.ip_address(name).version == 6
    return all(map(_LABEL.fullmatch, name.removesuffix(".").split(".")))


def checked_broker_url(url: str) -> str:
    """Return a broker's address as `checked_url` does. Its login and query must work as they are, too."""
    url = checked_url(url, ("amqp", "amqps"), "amqp://user:password@broker.example:5672/vhost")
    parts = urlsplit(url)
    if "@" in parts.netloc and not (parts.username and parts.password):
        raise ValueError("names a user without a password, or a password without a user")
    seen = set()
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in _BROKER_QUERY:
            raise ValueError(f"has a query of which only {', '.join(_BROKER_QUERY)} are known")
        right, words = _BROKER_QUERY[name]
        if name in seen or not right(value):
            raise ValueError(f"has a query in which {name} must be {words}, once")
        seen.add(name)
    if parts.scheme == "amqp" and seen & _ONLY_TLS:
        raise ValueError(f"has {min(seen & _ONLY_TLS)} in its query, which is for amqps:// only")
    return url


def _whole_number(most: int) -> tuple[Callable[[str], object], str]:
    def right(value: str) -> bool:
        return re.fullmatch(r"[0-9]{1,4}", value) is not None and 1 <= int(value) <= most

    return right, f"a whole number of seconds from 1 to {most}"


_FILE = (lambda value: Path(value).is_file(), "the path of a file that exists")
_BROKER_QUERY: Mapping[str, tuple[Callable[[str], object], str]] = {
    "heartbeat": _whole_number(600),
    "timeout": _whole_number(600),
    "name": (str.isprintable, "text"),
    "auth": (lambda value: value.lower() in {"plain", "external"}, "plain or external"),
    "cafile": _FILE,
    "capath": (lambda value: Path(value).is_dir(), "the path of a directory that exists"),
    "certfile": _FILE,
    "keyfile": _FILE,
    "no_verify_ssl": (lambda value: value in {"0", "1"}, "0 or 1"),
}
"""What the broker's library knows, and takes as nonsense where it is not exactly this."""
_ONLY_TLS = frozenset({"cafile", "capath", "certfile", "keyfile", "no_verify_ssl"})


def passwords(url: str) -> Iterator[str]:
    """Yield the password of an address: as written, as meant, and behind the user as HTTP sends it."""
    parts = urlsplit(url)
    if parts.password:
        yield from (parts.password, unquote(parts.password))
        yield unquote(f"{parts.username or ''}:{parts.password}")  # a scrubber finds the base64 of it, too


def users(url: str) -> Iterator[str]:
    """Yield the user of an address, as written and as meant: some services take a key for one."""
    user = urlsplit(url).username or ""
    yield from (user, unquote(user))


def path_segments(url: str) -> Iterator[str]:
    """Yield each long part of the path, as written and as meant."""
    for segment in urlsplit(url).path.split("/"):
        if len(segment) >= _SHORTEST_KEY:
            yield from (segment, unquote(segment))


def query_values(url: str) -> Iterator[str]:
    """Yield each value of the query, as written and as meant; a query may also be nothing but a key."""
    for pair in urlsplit(url).query.split("&"):
        name, equals, value = pair.partition("=")
        value = value if equals else name
        yield from (value, unquote(value), unquote_plus(value))
