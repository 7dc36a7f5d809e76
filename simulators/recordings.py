"""What a real VICIdial answered, word for word: the ground truth for the stand-in dialer and the tests."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any


@dataclass(frozen=True, slots=True)
class Exchange:
    """One recorded request and its exact answer.

    `query` holds the parameters as sent, whatever the method; it is empty if `raw_query` says how the
    request line really looked, or if nothing readable was sent.
    """

    group: str
    name: str
    method: str
    query: Mapping[str, str]
    raw_query: str | None
    status: int
    content_type: str
    body: str
    note: str


@cache
def load() -> tuple[Exchange, ...]:
    """Return every recorded exchange, in the order of the recording; read once."""
    text = resources.files(__package__).joinpath("recordings.jsonl").read_text(encoding="utf-8")
    return tuple(_exchange(json.loads(line)) for line in text.split("\n") if line)


def find(group: str, name: str) -> Exchange:
    """Return the exchange of that name; raises `KeyError` if there is none."""
    for exchange in load():
        if (exchange.group, exchange.name) == (group, name):
            return exchange
    raise KeyError((group, name))


def _exchange(fields: Mapping[str, Any]) -> Exchange:
    return Exchange(
        group=fields["group"],
        name=fields["name"],
        method=fields["method"],
        query=fields["query"] or {},
        raw_query=fields.get("raw_query") or fields.get("url_query"),
        status=fields["status"],
        content_type=fields["content_type"],
        body=fields["body"],
        note=fields.get("note", ""),
    )
