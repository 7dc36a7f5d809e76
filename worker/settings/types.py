"""The types of settings: durations, names, lists, zones, secrets, addresses; and YAML that stays text."""

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qsl, unquote, unquote_plus, urlsplit
from zoneinfo import ZoneInfo

import yaml
from pydantic import AfterValidator, BeforeValidator, SecretStr, ValidationInfo
from pydantic_core import PydanticCustomError
from typing_extensions import override

LONGEST_REQUEST = timedelta(minutes=2)
"""An event makes up to four requests to the dialer and one to the CRM, and settling it may wait for ten
minutes: together that has to stay below the 30 minutes after which RabbitMQ takes it for lost."""
SHORTEST_DELAY = timedelta(milliseconds=100)
MOST_NODES = 10
LARGEST_SECRET = 64 * 1024
"""In bytes."""
_AROUND = "\ufeff\r\n"
"""A byte order mark, and line breaks."""

_MILLISECONDS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "": 1000}
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,12})?) *(ms|s|m|h|)")
_LONGEST = timedelta(days=7)
_STATUS = re.compile(r"[-_0-9A-Za-z]{0,20}")
_NO_ZONE = re.compile(r"(posix|right)/.*|posixrules|localtime|Factory|EST|MST|HST")
"""What the system knows as well. The last three have no summer time, which nobody expects of them."""


def parse_duration(value: object) -> timedelta:
    """Read `500ms`, `5s`, `2m`, `1h` or a number of seconds. Raises `ValueError`."""
    if isinstance(value, timedelta):
        return value
    match = _DURATION.fullmatch(str(value).strip())
    if match is None or isinstance(value, bool):
        raise ValueError("write a duration such as 500ms, 5s, 2m, 1h or a number of seconds")
    milliseconds = Fraction(match[1]) * _MILLISECONDS[match[2]]
    if milliseconds.denominator != 1:
        raise ValueError("a duration must be whole milliseconds")
    if milliseconds > _LONGEST / timedelta(milliseconds=1):
        raise ValueError("a duration must be at most 7 days (168h)")
    return timedelta(milliseconds=int(milliseconds))


def _longer_than_nothing(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("a duration must be longer than 0 and at most 7 days (168h)")
    return value


def _within_a_request(value: timedelta) -> timedelta:
    if value > LONGEST_REQUEST:
        raise ValueError("must be at most 2m, or RabbitMQ could give up on an event that is still in work")
    return value


def _parse_list(value: object) -> object:
    """Split a text at its commas. Text in brackets, as people copy it from YAML and JSON, is read as such."""
    if not isinstance(value, str):
        return [value] if isinstance(value, int | float) else value
    if not value.strip().startswith("["):
        return [part.strip() for part in value.split(",")]
    try:
        return read_yaml(value)
    except yaml.YAMLError as error:
        raise ValueError("has a bracket that does not fit; write a list as text with commas") from error


def _parse_paths(value: object) -> object:
    """Split a text at its commas, as `_parse_list` does; nothing is an empty list."""
    return () if value == "" else _parse_list(value)


def _ascending(delays: tuple[timedelta, ...]) -> tuple[timedelta, ...]:
    if not delays or list(delays) != sorted(set(delays)):
        raise ValueError("name at least one delay, each longer than the one before it, such as 5s,30s,2m")
    if delays[0] < SHORTEST_DELAY:
        raise ValueError("each delay must be at least 100ms, as it is a queue on the broker")
    return delays


def _status(value: str) -> str:
    if _STATUS.fullmatch(value) is None or value.lower() == "null":
        raise ValueError("write statuses with commas between them, such as QUEUE,INCALL")
    return value.upper()


def parse_zone(value: object) -> object:
    """Return the time zone of a name, null for null. Raises `ValueError`."""
    if value is None or isinstance(value, ZoneInfo):
        return value
    try:
        zone = None if _NO_ZONE.fullmatch(str(value)) else ZoneInfo(str(value))
    except (ValueError, OSError, KeyError):
        zone = None
    if zone is None:
        raise ValueError("is no IANA time zone; write one such as America/New_York")
    return zone


def _exchange(value: str) -> str:
    if not value.isprintable() or value != value.strip() or re.search(r"""["'`\[\]{}]""", value):
        raise ValueError("must be the bare name of an exchange, without quotes, brackets or blanks around it")
    if len(value.encode()) > 255:
        raise ValueError("must be at most 255 bytes long")
    return value


def _host(value: str) -> str:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        if re.fullmatch(r"(?=.*[A-Za-z])[A-Za-z0-9._-]{1,253}", value) is None:
            raise ValueError("must be an IP address such as 0.0.0.0, or a host's name") from None
    return value


def _parse_table(value: object) -> object:
    """Read text in braces, as in a variable, as YAML or JSON; nothing is an empty table."""
    if not isinstance(value, str):
        return value
    try:
        return read_typed_yaml(value) or {}
    except yaml.YAMLError as error:
        raise ValueError("must be a mapping such as {name: value}") from error


def _named(value: object) -> object:
    if value == "":
        raise ValueError("is empty; name a file, or leave it out")
    return value


def _folder(value: object) -> object:
    if value == "":
        raise ValueError("is empty; name a folder, or leave it out")
    return value


SecretFile = Annotated[Path | None, BeforeValidator(_named)]
DurationOrNone = Annotated[timedelta, BeforeValidator(parse_duration)]
"""A duration of which 0 turns something off."""
Duration = Annotated[DurationOrNone, AfterValidator(_longer_than_nothing)]
RequestTimeout = Annotated[Duration, AfterValidator(_within_a_request)]
Delays = Annotated[tuple[Duration, ...], BeforeValidator(_parse_list), AfterValidator(_ascending)]
Statuses = Annotated[frozenset[Annotated[str, AfterValidator(_status)]], BeforeValidator(_parse_list)]
Folder = Annotated[Path, BeforeValidator(_folder)]
Paths = Annotated[tuple[Path, ...], BeforeValidator(_parse_paths)]
Zone = Annotated[ZoneInfo, BeforeValidator(parse_zone)]
Exchange = Annotated[str, AfterValidator(_exchange)]
Table = Annotated[dict[str, Any], BeforeValidator(_parse_table)]
"""Rows by their names, of any type."""
Host = Annotated[str, AfterValidator(_host)]


def required(what: str) -> PydanticCustomError:
    """Make the error of a setting that has no default."""
    return PydanticCustomError("missing", "{what}", {"what": f"is required: {what}"})


def secret_or_file(what: str | None) -> BeforeValidator:
    """Read a secret from the file beside it if it is not given itself."""

    def read(value: object, info: ValidationInfo) -> object:
        path = info.data.get(f"{info.field_name}_file")
        if path is None:
            if value in (None, "") and what is not None:
                raise required(what)
            return value.strip(_AROUND) if isinstance(value, str) else value
        if value is not None:
            raise ValueError(f"is given twice, directly and by {info.field_name}_file; keep one of them")
        return read_secret(path)

    return BeforeValidator(read)


def visible(secret: SecretStr) -> SecretStr:
    """Insist on a secret without a character that nobody sees. Raises `ValueError`."""
    if not secret.get_secret_value().replace("\t", "").isprintable():
        raise ValueError("holds a line break or an invisible character")
    return secret


def read_secret(path: Path) -> str:
    """Read a secret file as UTF-8; what editors put around a secret is no part of it. Raises `ValueError`."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_SECRET + 1)
    except OSError as error:
        raise ValueError(f"can't read {path}: {error.strerror}") from error
    if len(data) > LARGEST_SECRET:
        raise ValueError(f"{path} is larger than {LARGEST_SECRET // 1024} KiB, so it is no secret")
    try:
        text = data.decode().strip(_AROUND)
    except UnicodeError as error:
        raise ValueError(f"can't read {path}: not UTF-8 text") from error
    if not text:
        raise ValueError(f"{path} is empty")
    return text


# --- addresses ------------------------------------------------------------------------------------

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
    url = url.strip(_BLANKS)
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


def split_addresses(value: object) -> object:
    """Split text into addresses, at line breaks and at the commas before one; a list stays as it is.

    A password may hold a comma, so that one is a separator only if an address follows, or nothing.
    """
    if isinstance(value, SecretStr):
        return [value]
    if not isinstance(value, str):
        return value
    text = value.strip(_BLANKS)
    return _parse_list(text) if text.startswith("[") else _BETWEEN_ADDRESSES.split(text)


_BLANKS = "\ufeff \t\r\n"
_BETWEEN_ADDRESSES = re.compile(r"[ \t]*[,\r\n][ \t\r\n]*(?=[A-Za-z][A-Za-z0-9+.-]*://|$)")


def checked_broker_urls(urls: Sequence[str]) -> tuple[str, ...]:
    """Return the addresses of a broker's nodes as `checked_broker_url` does. The error names each bad one.

    They are nodes of one broker, so they agree in the virtual host.
    """
    if not 1 <= len(urls) <= MOST_NODES:
        raise ValueError(f"must be 1 to {MOST_NODES} addresses")
    checked: list[str] = []
    wrong: list[str] = []
    for number, url in enumerate(urls, 1):
        try:
            checked.append(_checked_node(url, checked))
        except ValueError as error:
            wrong.append(f"address {number} of {len(urls)} {error}" if len(urls) > 1 else str(error))
    if wrong:
        raise ValueError("; ".join(wrong))
    return tuple(checked)


def _checked_node(url: str, others: Sequence[str]) -> str:
    url = checked_broker_url(url)
    if url in others:
        raise ValueError("is listed twice")
    if others and _virtual_host(url) != _virtual_host(others[0]):
        raise ValueError("names another virtual host than the one before it")
    return url


def _virtual_host(url: str) -> str:
    return unquote(urlsplit(url).path[1:]) or "/"


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
"""What the broker's library knows, and misreads if it is not exactly this."""
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


# --- YAML -----------------------------------------------------------------------------------------


MOST_YAML = 100_000
"""Values of one document, each alias counted as what it stands for: few lines can make very many."""
DEEPEST_YAML = 100
"""Levels of one document."""


class UnusableYaml(yaml.MarkedYAMLError):
    """A document that is YAML, but can't be used; `problem` says why without any of its values."""


def yaml_problem(error: yaml.YAMLError) -> str:
    """Return what is wrong with a document, and where, without any of its values."""
    mark = getattr(error, "problem_mark", None)
    said = error.problem if isinstance(error, UnusableYaml) else "not YAML"
    return f"{said} in line {mark.line + 1}, column {mark.column + 1}" if mark else f"{said}"


class _AsWritten(yaml.SafeLoader):
    """Reads an unquoted value as text, except an empty one, which is null."""

    @override
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Insist on names that differ: else one of two values is lost without a word."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise UnusableYaml(problem=f"{key.value} is set twice", problem_mark=key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return super().construct_mapping(node, deep)


_AsWritten.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag.endswith((":null", ":merge"))]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _Typed(_AsWritten):
    """Reads `true`, `false` and decimal numbers as what they are, but a key as text."""

    @override
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and not key.tag.endswith(":merge"):
                key.tag = self.DEFAULT_SCALAR_TAG
        return super().construct_mapping(node, deep)


for _kind, _pattern, _first in (
    ("bool", r"true|false", "tf"),
    ("int", r"[-+]?(0|[1-9][0-9]{0,17})", "-+0123456789"),
    ("float", r"[-+]?[0-9]{1,17}\.[0-9]{1,17}", "-+0123456789"),
):
    _Typed.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(rf"^({_pattern})$"), list(_first))


def read_yaml(text: str) -> Any:  # noqa: ANN401 - whatever stands there
    """Parse a document of which every value is text, null, a list or a mapping. Raises `yaml.YAMLError`.

    YAML 1.1 takes `0100` for 64, `12:30` for 750 and `no` for false. A setting is text until its own type
    parses it, as it is in a variable.
    """
    return _loaded(text, _AsWritten)


def read_typed_yaml(text: str) -> Any:  # noqa: ANN401
    """Parse a document with numbers, `true` and `false` as in JSON; a key is text. Raises `yaml.YAMLError`.

    What a CRM gets has types, and a table's keys, such as the dialer's statuses, are text: `NO` and `0100`.
    """
    return _loaded(text, _Typed)


def _loaded(text: str, loader: type[yaml.SafeLoader]) -> Any:  # noqa: ANN401
    try:
        data = yaml.load(text, Loader=loader)  # noqa: S506 - a kind of SafeLoader
    except RecursionError as error:
        raise UnusableYaml(problem=f"is nested more than {DEEPEST_YAML} levels deep") from error
    left = [(data, 0)]
    count = 0
    while left:
        value, depth = left.pop()
        count += 1
        if depth > DEEPEST_YAML:
            raise UnusableYaml(problem=f"is nested more than {DEEPEST_YAML} levels deep")
        if count > MOST_YAML:
            raise UnusableYaml(problem=f"has more than {MOST_YAML} values, with those that aliases repeat")
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        left += [(each, depth + 1) for each in inner]
    return data
