"""VTQL, the language of vtiger's operation `query`, as far as vtiger 8.0.0 was seen to accept it.

`SELECT fields FROM module WHERE field = 'value' AND … OR … ORDER BY field LIMIT n;`. There are no
parentheses, a quote is doubled, the semicolon is demanded. Text is compared as MariaDB's `utf8_general_ci`
does it: without case, and without blanks at the end. A comparison with an empty text is an internal error.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

_TOKEN = re.compile(
    r"\s*(?:(?P<value>'(?:[^']|'')*'|\d+(?:\.\d+)?)|(?P<word>[A-Za-z_*][\w*]*)|(?P<sign>[<>!]=|[=<>(),;]))"
)
_NAMES: Final = {"(": "PARENOPEN", ")": "PARENCLOSE", ",": "COMMA", ";": "SEMICOLON", "=": "EQ"}


class QuerySyntaxError(Exception):
    """The query is none; the message is vtiger's."""


class EmptyComparisonError(Exception):
    """The query compares with an empty text."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison; a list of values for `IN`."""

    field: str
    operator: str
    values: tuple[str, ...]

    def holds(self, record: Mapping[str, Any]) -> bool:
        """Return whether a record fulfils it."""
        stored = _folded(record.get(self.field))
        values = [_folded(each) for each in self.values]
        if self.operator == "LIKE":
            parts = re.split("([%_])", values[0])
            shape = "".join({"%": ".*", "_": "."}.get(part, re.escape(part)) for part in parts)
            return re.fullmatch(shape, stored, re.DOTALL) is not None
        return {
            "=": stored == values[0],
            "!=": stored != values[0],
            "<": stored < values[0],
            ">": stored > values[0],
            "<=": stored <= values[0],
            ">=": stored >= values[0],
            "IN": stored in values,
        }[self.operator]


@dataclass(slots=True)
class Query:
    """A query, read. `any_of` are the alternatives between the words OR."""

    module: str
    columns: list[str]
    any_of: list[list[Condition]] = field(default_factory=list)
    order: str | None = None
    descending: bool = False
    offset: int = 0
    limit: int = 100

    @property
    def conditioned(self) -> list[str]:
        """Every field that it compares."""
        return [each.field for alternative in self.any_of for each in alternative]

    def select(self, records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Return the records that it asks for, whole."""
        found = [
            each
            for each in records
            if not self.any_of or any(all(one.holds(each) for one in group) for group in self.any_of)
        ]
        if self.order is not None:
            order = self.order
            found.sort(key=lambda each: _folded(each.get(order)), reverse=self.descending)
        return found[self.offset : self.offset + self.limit]


def _folded(value: object) -> str:
    return str(value or "").rstrip(" ").casefold()


class _Reader:
    """Reads tokens one by one, and refuses with vtiger's words."""

    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str]] = []
        at = 0
        while (found := _TOKEN.match(text, at)) is not None:
            kind = str(found.lastgroup)
            self.tokens.append((kind, found[kind]))
            at = found.end()
        if text[at:].strip():
            self.tokens.append(("unknown", text[at:].strip()[0]))
        self.at = 0

    @property
    def word(self) -> str:
        """The next token, a keyword in capitals."""
        return self.tokens[self.at][1].upper() if self.at < len(self.tokens) else ""

    def refuse(self, expected: str) -> NoReturn:
        if self.at < len(self.tokens):
            kind, token = self.tokens[self.at]
            name = _NAMES.get(token, "COLUMNNAME" if kind == "word" else "VALUE")
            raise QuerySyntaxError(
                f"Syntax Error on line 1: token '{token}' Unexpected {name}({token}),"
                f" expected one of: {expected}"
            )
        last = self.tokens[-1][1] if self.tokens else ""
        raise QuerySyntaxError(
            f"Syntax Error on line 1: token '{last}' Unexpected End of Input(0), expected one of: {expected}"
        )

    def accept(self, word: str) -> bool:
        if self.word != word:
            return False
        self.at += 1
        return True

    def demand(self, word: str, name: str | None = None) -> None:
        if not self.accept(word):
            self.refuse(name or word)

    def take(self, kind: str, name: str) -> str:
        if self.at >= len(self.tokens) or self.tokens[self.at][0] != kind:
            self.refuse(name)
        self.at += 1
        return self.tokens[self.at - 1][1]

    def value(self) -> str:
        text = self.take("value", "VALUE")
        text = text[1:-1].replace("''", "'") if text.startswith("'") else text
        if not text:
            raise EmptyComparisonError
        return text

    def list_of(self, kind: str, name: str) -> list[str]:
        found = [self.take(kind, name)]
        while self.accept(","):
            found.append(self.take(kind, name))
        return found


def parse(text: str) -> Query:
    """Read a query; raise `QuerySyntaxError`, or `EmptyComparisonError`."""
    reader = _Reader(text)
    reader.demand("SELECT")
    columns = reader.list_of("word", "COLUMNNAME")
    reader.demand("FROM")
    query = Query(reader.take("word", "TABLENAME"), columns)
    if reader.accept("WHERE"):
        query.any_of = [[_condition(reader)]]
        while reader.word in {"AND", "OR"}:
            if reader.accept("OR"):
                query.any_of.append([])
            else:
                reader.demand("AND")
            query.any_of[-1].append(_condition(reader))
    if reader.accept("ORDER"):
        reader.demand("BY")
        query.order = reader.take("word", "COLUMNNAME")
        query.descending = reader.accept("DESC") or (reader.accept("ASC") and False)
    if reader.accept("LIMIT"):
        numbers = [int(each) for each in reader.list_of("value", "VALUE")]
        query.offset, query.limit = (0, numbers[0]) if len(numbers) == 1 else (numbers[0], numbers[1])
    reader.demand(";", "SEMICOLON")
    return query


def _condition(reader: _Reader) -> Condition:
    name = reader.take("word", "COLUMNNAME")
    operator = reader.word
    if operator not in {"=", "!=", "<", ">", "<=", ">=", "LIKE", "IN"}:
        reader.refuse("EQ")
    reader.at += 1
    if operator != "IN":
        return Condition(name, operator, (reader.value(),))
    reader.demand("(", "PARENOPEN")
    values = [reader.value()]
    while reader.accept(","):
        values.append(reader.value())
    reader.demand(")", "PARENCLOSE")
    return Condition(name, operator, tuple(values))
