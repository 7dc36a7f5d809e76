"""The part of SOQL and SOSL that the stand-in Salesforce understands.

Source: "SOQL and SOSL Reference" on developer.salesforce.com: quoting of text, the reserved characters of a
search term, `RETURNING`, and that punctuation in a telephone number is ignored. Not confirmed: whether each
reserved character without a backslash is an error; here it is.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

Test = Callable[[Mapping[str, Any]], bool]

RESERVED: Final = frozenset("?&|!{}[]()^~*:\\\"'+-")
PHONE_FIELDS: Final = ("Phone", "MobilePhone", "HomePhone", "OtherPhone")

_FLAGS = re.IGNORECASE | re.DOTALL
_TOKEN = re.compile(r"\s*('(?:[^'\\]|\\.)*'|[A-Za-z_][A-Za-z0-9_.]*|-?\d+|[(),]|!=|=)")
_SELECT = re.compile(r"SELECT\s+(?P<fields>[\w\s,]+?)\s+FROM\s+(?P<kind>\w+)\s*(?P<rest>.*)", _FLAGS)
_FIND = re.compile(
    r"FIND\s*\{(?P<term>(?:[^\\{}]|\\.)*)\}\s*IN\s+PHONE\s+FIELDS\s+RETURNING\s+(?P<returning>.+?)"
    r"(?:\s+LIMIT\s+(?P<limit>\d+))?",
    _FLAGS,
)
_RETURNING = re.compile(r"\s*(\w+)\s*\(([\w\s,]+?)(?:\s+WHERE\s+(.+?))?\)\s*(?:,|$)", _FLAGS)
_LIMIT = re.compile(r"(.*?)\s*LIMIT\s+(\d+)\s*", _FLAGS)


class BadQuery(Exception):
    """The text is no query that Salesforce understands."""

    def __init__(self, code: str, message: str) -> None:
        """Keep Salesforce's code."""
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Selection:
    """What to return of one type: these fields of the records that pass the test."""

    kind: str
    fields: tuple[str, ...]
    test: Test


@dataclass(frozen=True, slots=True)
class Query:
    """A SOQL query."""

    selection: Selection
    limit: int | None


@dataclass(frozen=True, slots=True)
class Search:
    """A SOSL search in the fields for telephone numbers."""

    terms: tuple[str, ...]
    returning: tuple[Selection, ...]
    limit: int

    def fits(self, record: Mapping[str, Any]) -> bool:
        """Return whether a number of the record is one of the terms, punctuation aside."""
        numbers = {re.sub(r"\D", "", str(record.get(name) or "")) for name in PHONE_FIELDS}
        return any(term in numbers for term in self.terms)


def parse_query(text: str, known: Mapping[str, frozenset[str]]) -> Query:
    """Parse SOQL; `known` are the fields of each type. Raises `BadQuery`."""
    limit = None
    if (limited := _LIMIT.fullmatch(text)) is not None:
        text, limit = limited[1], int(limited[2])
    match = _SELECT.fullmatch(text.strip())
    if match is None:
        raise BadQuery("MALFORMED_QUERY", f"unexpected token: {text[:40]}")
    rest = match["rest"].strip()
    if rest and not rest.upper().startswith("WHERE "):
        raise BadQuery("MALFORMED_QUERY", f"unexpected token: {rest[:40]}")
    return Query(_selection(match["kind"], match["fields"], rest[6:], known), limit)


def parse_search(text: str, known: Mapping[str, frozenset[str]]) -> Search:
    """Parse SOSL; `known` are the fields of each type. Raises `BadQuery`."""
    match = _FIND.fullmatch(text.strip())
    if match is None:
        raise BadQuery("MALFORMED_SEARCH", "No search term found. It must be enclosed in braces.")
    terms = tuple(_term(each) for each in re.split(r"\s+OR\s+", match["term"].strip()))
    found, rest = [], match["returning"]
    while rest.strip():
        each = _RETURNING.match(rest)
        if each is None:
            raise BadQuery("MALFORMED_SEARCH", f"unexpected token: {rest[:40]}")
        found.append(_selection(each[1], each[2], each[3] or "", known))
        rest = rest[each.end() :]
    return Search(terms, tuple(found), int(match["limit"] or 2000))


def _term(text: str) -> str:
    plain, escaped = "", False
    for letter in text:
        if not escaped and letter == "\\":
            escaped = True
            continue
        if not escaped and letter in RESERVED:
            raise BadQuery("MALFORMED_SEARCH", f"reserved character {letter} must be escaped")
        plain, escaped = plain + letter, False
    if len(plain) < 2:
        raise BadQuery("MALFORMED_SEARCH", f"search term must be longer than one character: {plain}")
    return re.sub(r"\D", "", plain) or plain


def _selection(kind: str, fields: str, where: str, known: Mapping[str, frozenset[str]]) -> Selection:
    if kind not in known:
        raise BadQuery("INVALID_TYPE", f"sObject type '{kind}' is not supported.")
    names = tuple(each.strip() for each in fields.split(","))
    for name in names:
        _check(name, kind, known)
    return Selection(kind, names, _Conditions(where, kind, known).test() if where else lambda _: True)


def _check(name: str, kind: str, known: Mapping[str, frozenset[str]]) -> None:
    if name not in known[kind]:
        raise BadQuery("INVALID_FIELD", f"No such column '{name}' on entity '{kind}'.")


class _Conditions:
    """`=`, `!=` and `IN`, joined by `AND`, `OR` and parentheses."""

    def __init__(self, text: str, kind: str, known: Mapping[str, frozenset[str]]) -> None:
        self._tokens = list(_tokens(text))
        self._kind = kind
        self._known = known

    def test(self) -> Test:
        made = self._any()
        if self._tokens:
            raise BadQuery("MALFORMED_QUERY", f"unexpected token: {self._tokens[0]}")
        return made

    def _next(self, *expected: str) -> str:
        token = self._tokens.pop(0) if self._tokens else "<EOF>"
        if expected and token.upper() not in expected:
            raise BadQuery("MALFORMED_QUERY", f"unexpected token: {token}")
        return token

    def _at(self, word: str) -> bool:
        return bool(self._tokens) and self._tokens[0].upper() == word

    def _any(self) -> Test:
        tests = [self._all()]
        while self._at("OR"):
            self._next()
            tests.append(self._all())
        return lambda record: any(test(record) for test in tests)

    def _all(self) -> Test:
        tests = [self._one()]
        while self._at("AND"):
            self._next()
            tests.append(self._one())
        return lambda record: all(test(record) for test in tests)

    def _one(self) -> Test:
        if self._at("("):
            self._next()
            inner = self._any()
            self._next(")")
            return inner
        name = self._next()
        _check(name, self._kind, self._known)
        operator = self._next("=", "!=", "IN").upper()
        if operator == "IN":
            values = self._values()
            return lambda record: record.get(name) in values
        value, equal = _value(self._next()), operator == "="
        return lambda record: (record.get(name) == value) is equal

    def _values(self) -> list[Any]:
        self._next("(")
        values = [_value(self._next())]
        while self._next(",", ")") == ",":
            values.append(_value(self._next()))
        return values


def _tokens(text: str) -> Iterator[str]:
    at = 0
    while text[at:].strip():
        match = _TOKEN.match(text, at)
        if match is None:
            raise BadQuery("MALFORMED_QUERY", f"unexpected token: {text[at:][:40]}")
        yield match[1]
        at = match.end()


def _value(token: str) -> Any:  # noqa: ANN401 - text, number, true, false or null
    if token.startswith("'"):
        return re.sub(r"\\(.)", r"\1", token[1:-1])
    words = {"true": True, "false": False, "null": None}
    if token.lower() in words:
        return words[token.lower()]
    if re.fullmatch(r"-?\d+", token) is None:
        raise BadQuery("MALFORMED_QUERY", f"unexpected token: {token}")
    return int(token)
