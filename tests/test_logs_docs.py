"""`docs/logs.md` names every line that the worker logs, with its levels and fields, and no other.

The lines are read from the source. Whatever uses a logger in a way that can't be read fails the test, so
that no line escapes.
"""

import ast
import json
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, MutableMapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from worker.core.breakers import BreakerStatus
from worker.core.errors import DeliveryIncomplete, Reason
from worker.core.events import Event, EventType, Inbound
from worker.core.pipeline import Outcome
from worker.core.ports import (
    Ack,
    CrmRecord,
    DeadLetter,
    DialerRequest,
    Disposition,
    Duplicate,
    Receipt,
    Retry,
    Stage,
)
from worker.core.transitions import State
from worker.observe import log
from worker.observe.log import Console
from worker.observe.metrics import Metrics
from worker.observe.report import Reporter

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "logs.md").read_text(encoding="utf-8")
LEVELS = {"debug", "info", "warning", "error", "critical", "exception"}
PLACEHOLDERS = {"status.state": {str(state) for state in State}}
"""What stands in a name that is put together, and all that it may be."""
NOT_LOGGERS = {"parser"}
"""What has a method named like a level, and is none: argparse's."""
OF_EVERY_LINE = {"event", "level", "timestamp"}
OF_ANY_LINE = OF_EVERY_LINE | {"repeated", "exception", "logger", "stack", "trace_id", "span_id"}
"""What the log itself adds, and no call names."""


# --- what the source logs -------------------------------------------------------------------------


class Unreadable(Exception):
    """A logger is used in a way that this test doesn't know: write it another way, or teach the test."""


@dataclass
class Line:
    """One name of a line: what its calls say of it."""

    levels: set[str] = field(default_factory=set)
    fields: set[str] = field(default_factory=set)
    open: bool = False
    """Whether some of its levels or fields are known only when it runs."""


class Collector:
    """Reads the lines that one module logs."""

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self.tree = ast.parse(text)
        self.parents = {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}
        self.lines: dict[str, Line] = {}

    def read(self) -> dict[str, Line]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.alias) and node.name.split(".")[-1] in ("get_logger", "getLogger"):
                self.refuse(node, "import the module, and call it by its name")
            elif self.names(node, "get_logger"):
                self.check_our_logger(node)
            elif self.names(node, "getLogger"):
                self.check_librarys_logger(node)
            elif self.is_logger(node):
                self.read_method(node)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
                self.check_other_call(node.func)
        return self.lines

    def refuse(self, node: ast.AST, why: str) -> None:
        line = getattr(node, "lineno", 0)
        raise Unreadable(f"{self.path}:{line}: {ast.unparse(node)}: {why}")

    @staticmethod
    def names(node: ast.AST, name: str) -> bool:
        return (isinstance(node, ast.Attribute) and node.attr == name) or (
            isinstance(node, ast.Name) and node.id == name
        )

    @staticmethod
    def is_logger(node: ast.AST) -> bool:
        """Return whether a node reads `_log` or `self._log`."""
        named = isinstance(node, ast.Name) and node.id == "_log"
        owned = isinstance(node, ast.Attribute) and node.attr == "_log"
        return (named or owned) and isinstance(node.ctx, ast.Load)  # type: ignore[attr-defined]

    def statement(self, node: ast.AST) -> ast.AST:
        while not isinstance(node, ast.stmt):
            node = self.parents[node]
        return node

    def function(self, node: ast.AST) -> ast.AST:
        while not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Module):
            node = self.parents[node]
        return node

    def check_our_logger(self, node: ast.AST) -> None:
        statement = self.statement(node)
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        if [ast.unparse(target) for target in targets] not in (["_log"], ["self._log"]):
            self.refuse(statement, "a logger of ours is kept as `_log` or `self._log`")

    def check_librarys_logger(self, node: ast.AST) -> None:
        """Its settings may be changed; nothing is logged with it."""
        call = self.parents[node]
        user = self.parents[call]
        if isinstance(user, ast.Assign) and isinstance(user.targets[0], ast.Name):
            name = user.targets[0].id
            used = [each for each in ast.walk(self.tree) if isinstance(each, ast.Attribute)]
            attributes = {each.attr for each in used if ast.unparse(each.value) == name}
        else:
            attributes = {user.attr} if isinstance(user, ast.Attribute) else {"?"}
        if not attributes <= {"setLevel", "propagate", "handlers", "addFilter"}:
            self.refuse(user, "log with structlog; of a library's logger change only the settings")

    def check_other_call(self, method: ast.Attribute) -> None:
        receiver = ast.unparse(method.value)
        if method.attr in LEVELS and not self.is_logger(method.value) and receiver not in NOT_LOGGERS:
            self.refuse(method, "is that a logger? Ours are `_log` and `self._log`")

    def read_method(self, logger: ast.AST) -> None:
        parent = self.parents[logger]
        if isinstance(parent, ast.Attribute) and parent.attr in LEVELS:
            self.read_use(parent, {"error" if parent.attr == "exception" else parent.attr}, parent.attr)
        elif isinstance(parent, ast.Call) and ast.unparse(parent.func) == "getattr":
            self.read_use(parent, None, "")
        else:
            self.refuse(parent, "neither a level's method nor `getattr`")

    def read_use(self, method: ast.expr, levels: set[str] | None, attribute: str) -> None:
        """Read what becomes of a level's method: called, chosen among others, kept, or handed on."""
        parent = self.parents[method]
        if isinstance(parent, ast.IfExp) and method is not parent.test:
            self.read_use(parent, levels, attribute)
        elif isinstance(parent, ast.Call) and method is parent.func:
            self.read_call(parent, parent.args, levels, attribute)
        elif isinstance(parent, ast.Call) and method in parent.args:  # loop.call_later(10, _log.warning, "…")
            self.read_call(parent, parent.args[parent.args.index(method) + 1 :], levels, attribute)
        elif isinstance(parent, ast.Assign) and isinstance(parent.targets[0], ast.Name):
            self.read_kept(parent.targets[0], levels, attribute)
        else:
            self.refuse(parent, "named but not called")

    def read_kept(self, target: ast.Name, levels: set[str] | None, attribute: str) -> None:
        uses = [
            node
            for node in ast.walk(self.function(target))
            if isinstance(node, ast.Name) and node.id == target.id and isinstance(node.ctx, ast.Load)
        ]
        if not uses:
            self.refuse(target, "kept and never called")
        for use in uses:
            call = self.parents[use]
            if not isinstance(call, ast.Call) or use is not call.func:
                self.refuse(call, "a kept method is called, and nothing else")
                return
            self.read_call(call, call.args, levels, attribute)

    def read_call(
        self, call: ast.Call, arguments: list[ast.expr], levels: set[str] | None, attribute: str
    ) -> None:
        if len(arguments) != 1:
            self.refuse(call, "one name, then fields by keyword")
        for name in self.values(arguments[0]):
            line = self.lines.setdefault(name, Line())
            line.levels |= levels or set()
            line.open |= levels is None
            line.fields |= {"exception"} if attribute == "exception" else set()
            for keyword in call.keywords:
                if keyword.arg is None:
                    line.open = True
                else:
                    line.fields.add("exception" if keyword.arg == "exc_info" else keyword.arg)

    def values(self, expression: ast.expr) -> set[str]:
        """Return all that the name of a line may be."""
        match expression:
            case ast.Constant(value=str(name)):
                return {name}
            case ast.IfExp(body=one, orelse=other):
                return self.values(one) | self.values(other)
            case ast.Name(id=variable):
                assigned = [
                    each.value
                    for each in ast.walk(self.function(expression))
                    if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == variable
                ]
                if assigned:
                    return set().union(*map(self.values, assigned))
            case ast.JoinedStr(values=parts):
                return self.joined(parts)
            case _:
                pass
        self.refuse(expression, "which names can this be?")
        raise AssertionError

    def joined(self, parts: Iterable[ast.expr]) -> set[str]:
        names = {""}
        for part in parts:
            if isinstance(part, ast.FormattedValue):
                placed = PLACEHOLDERS.get(ast.unparse(part.value))
                if placed is None:
                    self.refuse(part.value, "which values can this have? Add it to PLACEHOLDERS")
                names = {name + value for name in names for value in placed or ()}
            else:
                names = {name + value for name in names for value in self.values(part)}
        return names


def logged() -> dict[str, Line]:
    """Return all lines that the worker's modules log, by name."""
    found: dict[str, Line] = {}
    for path in sorted((ROOT / "worker").rglob("*.py")):
        place = path.relative_to(ROOT).as_posix()
        for name, line in Collector(place, path.read_text(encoding="utf-8")).read().items():
            known = found.setdefault(name, Line())
            known.levels |= line.levels
            known.fields |= line.fields
            known.open |= line.open
    return found


LOGGED = logged()


# --- what the page says ---------------------------------------------------------------------------


def rows(first_column: str) -> Iterator[list[str]]:
    """Yield the rows of all tables whose first column has this head, the first without its backticks."""
    head: str | None = None
    for line in PAGE.splitlines():
        if not line.startswith("|"):
            head = None
            continue
        cells = [cell.strip() for cell in line.replace(r"\|", "¦").strip("|").split("|")]
        if head is None:
            head = cells[0]
        elif head == first_column and not set(line) <= set("|-"):
            yield [cells[0].strip("`"), *cells[1:]]


DOCUMENTED = {
    row[0]: Line(set(row[1].split(", ")), set(re.findall(r"`(\w+)`", row[3]))) for row in rows("event")
}
FIELDS = {row[0]: row[1:] for row in rows("field")}
"""By name: type, unit, meaning, example."""


def test_every_line_that_is_logged_is_on_the_page_and_no_other() -> None:
    assert sorted(LOGGED) == sorted(row[0] for row in rows("event"))


@pytest.mark.parametrize("name", sorted(LOGGED))
def test_a_line_has_the_levels_and_fields_that_the_page_names(name: str) -> None:
    source, documented = LOGGED[name], DOCUMENTED[name]
    if source.open:  # the rest is seen when it runs, below
        assert source.fields <= documented.fields
        assert name in RUN
    else:
        assert (source.levels, source.fields) == (documented.levels, documented.fields)


def test_every_field_has_its_row_and_no_other() -> None:
    named = set().union(*(line.fields for line in DOCUMENTED.values()))
    assert sorted(named | OF_ANY_LINE) == sorted(row[0] for row in rows("field"))


def test_the_unit_of_a_field_is_that_of_its_name() -> None:
    for name, (kind, unit, meaning, _) in FIELDS.items():
        assert meaning, name
        if name.endswith(("_ms", "seconds")):
            assert (kind, unit) == ("number", "ms" if name.endswith("_ms") else "s"), name


def test_the_lines_that_are_limited_are_named() -> None:
    assert sorted(row[0] for row in rows("limited event")) == sorted(log.REPEATING)
    assert LOGGED.keys() >= log.REPEATING


# --- what is known only when it runs --------------------------------------------------------------


def settled_lines() -> list[MutableMapping[str, Any]]:
    """Log an event of each type that came to each end, as the reporter does it."""
    reporter = Reporter(Metrics())
    seconds = {Stage.ENRICH: 0.01, Stage.DELIVER: 0.02}
    ends: list[tuple[Disposition, Exception | None]] = [
        (Ack(), None),
        (Ack(), DeliveryIncomplete("no link")),
        (Duplicate(), None),
        (Retry(timedelta(seconds=5), 2, "not_found", "not found"), None),
        (Retry(timedelta(seconds=5), 2, "sink_refused", "no"), None),
        (Retry(timedelta(seconds=5), 2, "unexpected", "unexpected KeyError"), KeyError("x")),
        (DeadLetter(Reason.NOT_FOUND, "not found"), None),
    ]
    now = datetime.now(UTC)
    events = [None, *(Event(type=kind, id="e", occurred_at=now, subject="s", data={}) for kind in EventType)]
    with capture_logs() as lines:
        for event in events:
            for disposition, error in ends:
                receipt = None if error is not None else Receipt("created", CrmRecord("created", "7", "8"))
                outcome = Outcome(disposition, Stage.DELIVER, event, None, receipt, error, seconds)
                inbound = Inbound(b"", "", now, {}, message_id="m")
                reporter.settled(inbound, outcome, 0.1)
    return lines


def asked_about() -> set[str]:
    """Return the parameters that name what a request is about: pairs of a name and a value from elsewhere."""
    found = set()
    for module in ("client", "calls"):
        tree = ast.parse((ROOT / "worker" / "vicidial" / f"{module}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            match node:
                case ast.Tuple(elts=[ast.Constant(value=str(name)), ast.Name() | ast.Attribute()]):
                    found.add(name)
                case _:
                    pass
    return found


def request_lines() -> list[MutableMapping[str, Any]]:
    reporter = Reporter(Metrics())
    about = tuple((name, "1") for name in sorted(asked_about()))
    with capture_logs() as lines:
        for outcome in ("ok", "not_found", "dialer_refused"):
            reporter.asked(DialerRequest("callid_info", about, outcome, 0.005))
    return lines


def breaker_lines() -> list[MutableMapping[str, Any]]:
    reporter = Reporter(Metrics())
    second = timedelta(seconds=1)
    with capture_logs() as lines:
        for status in (
            BreakerStatus("dialer", State.OPEN, "it is down", second, second),
            BreakerStatus("dialer", State.HALF_OPEN, "it is down", second, None),
            BreakerStatus("dialer", State.OPEN, "it is down", second, second),
            BreakerStatus("dialer", State.RECOVERING, None, None, None),
            BreakerStatus("dialer", State.CLOSED, None, None, None),
        ):
            reporter.breaker(status)
    return lines


def stopped_lines() -> list[MutableMapping[str, Any]]:
    return [{"event": "stopped", "log_level": "info", **Reporter(Metrics()).counts}]


def gathered() -> dict[str, list[MutableMapping[str, Any]]]:
    by_name: dict[str, list[MutableMapping[str, Any]]] = {}
    for lines in (settled_lines(), request_lines(), breaker_lines(), stopped_lines()):
        for line in lines:
            by_name.setdefault(line["event"], []).append(line)
    return by_name


RUN = gathered()
"""By name: lines that were really logged, of all whose fields stand in no call."""
PYTHON = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "list": list,
    "string or null": (str, type(None)),
}


@pytest.mark.parametrize("name", sorted(RUN))
def test_a_line_that_is_put_together_has_the_levels_and_fields_that_the_page_names(name: str) -> None:
    levels = {line.pop("log_level") for line in RUN[name]}
    fields = {key: value for line in RUN[name] for key, value in line.items() if key != "event"}
    fields = {"exception" if key == "exc_info" else key: value for key, value in fields.items()}
    assert (levels, sorted(fields)) == (DOCUMENTED[name].levels, sorted(DOCUMENTED[name].fields))


@pytest.mark.parametrize("name", sorted(RUN))
def test_a_value_has_the_type_that_the_page_names(name: str) -> None:
    for line in RUN[name]:
        for key, value in line.items():
            if key not in ("exc_info", "log_level"):
                assert isinstance(value, PYTHON[FIELDS[key][0]]), key  # type: ignore[arg-type]


# --- the collector sees what it should ------------------------------------------------------------


def collected(text: str) -> dict[str, Line]:
    return Collector("worker/x.py", text).read()


def test_the_collector_reads_each_way_of_logging() -> None:
    found = collected(
        """
import logging
import structlog
_log = structlog.get_logger()
logging.getLogger("lib").setLevel(30)

class A:
    def __init__(self):
        self._log = structlog.get_logger().bind()

    def f(self, level, line, status, bad, loop):
        name = "one" if bad else "two"
        _log.warning(name, a=1)
        _log.error("three" if bad else name, b=2)
        getattr(self._log, level)("four", **line)
        say = self._log.error if bad else self._log.info
        say("five", c=3)
        (self._log.warning if bad else self._log.info)(f"circuit_{status.state}", d=4)
        loop.call_later(1, _log.debug, "six")
        _log.exception("seven")
        _log.info("eight", exc_info=bad)
"""
    )
    documented = {name: (line.levels, line.fields, line.open) for name, line in found.items()}
    breakers = {f"circuit_{state}": ({"warning", "info"}, {"d"}, False) for state in State}
    assert documented == breakers | {
        "one": ({"warning", "error"}, {"a", "b"}, False),
        "two": ({"warning", "error"}, {"a", "b"}, False),
        "three": ({"error"}, {"b"}, False),
        "four": (set(), set(), True),
        "five": ({"error", "info"}, {"c"}, False),
        "six": ({"debug"}, set(), False),
        "seven": ({"error"}, {"exception"}, False),
        "eight": ({"info"}, {"exception"}, False),
    }


@pytest.mark.parametrize(
    "text",
    [
        "_log.info(name)",
        "_log.info(f'x_{y}')",
        "_log.info('a' + 'b')",
        "_log.info('a %s', 1)",
        "_log.info()",
        "_log.bind(a=1).info('x')",
        "_log.msg('x')",
        "_log.info",
        "f(_log)",
        "say = _log.info\nf(say)",
        "say = _log.info",
        "mine = structlog.get_logger()",
        "from structlog import get_logger",
        "structlog.get_logger().info('x')",
        "logging.getLogger('x').warning('y')",
        "mine = logging.getLogger('x')\nmine.warning('y')",
        "logging.error('x')",
        "self.log.warning('x')",
        "def f(log):\n    log.info('x')",
    ],
)
def test_the_collector_refuses_what_it_cannot_read(text: str) -> None:
    with pytest.raises(Unreadable, match=r"^worker/x\.py:\d+: "):
        collected(text)


# --- the examples ---------------------------------------------------------------------------------


def example(name: str) -> str:
    """Return the block under `<!-- example: name -->`."""
    (block,) = re.findall(rf"<!-- example: {name} -->\n```\w*\n(.*?)```", PAGE, re.DOTALL)
    found: str = block
    return found


LINES = [json.loads(line) for line in example("json").splitlines()]


def test_the_lines_shown_have_the_fields_and_levels_that_the_page_names() -> None:
    for line in LINES:
        documented = DOCUMENTED[line["event"]]
        assert line["level"] in documented.levels
        assert OF_EVERY_LINE <= line.keys() <= documented.fields | OF_EVERY_LINE


def test_the_console_shows_the_lines_as_the_page_does() -> None:
    render = Console(colors=False)
    shown = [
        render(None, "", {**line, "timestamp": datetime.fromisoformat(line["timestamp"])}) for line in LINES
    ]
    assert shown == example("console").splitlines()


DEAD = {"event": "event_settled", "outcome": "dead_letter", "reason": "not_found", "level": "warning"}
RECIPES = {
    "one call": [json.dumps(line, separators=(",", ":")) for line in LINES[:2]],
    "reasons": ["2 dead_letter not_found", "1 retry not_final"],
    "warnings": ["2026-11-22T14:09:02.000251Z circuit_open sink the webhook answered 503"],
    "dialer": ['{"requests":3,"median_ms":5.1,"p95_ms":9.5}'],
}


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_gives_what_it_promises(name: str, tmp_path: Path) -> None:
    more: list[dict[str, Any]] = [
        DEAD,
        DEAD,
        {"event": "event_settled", "outcome": "retry", "reason": "not_final", "level": "info"},
        {"event": "event_settled", "outcome": "duplicate", "level": "info"},
        {"event": "dialer_request", "duration_ms": 9.5, "level": "debug"},
        {"event": "dialer_request", "duration_ms": 1, "level": "debug"},
    ]
    text = "".join(json.dumps(line) + "\n" for line in [*LINES, *more])
    (tmp_path / "worker.log").write_text(f"no JSON\n{text}", encoding="utf-8")
    done = subprocess.run(
        ["/bin/sh", "-e", "-c", example(name)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert [line.strip() for line in done.stdout.splitlines()] == RECIPES[name]
    assert done.stderr == ""
