"""Templates: any YAML value whose texts may hold expressions, compiled once and rendered for each event.

Jinja2 parses and compiles the expressions, of which only a part is allowed: names, fields, our filters and
tests, comparisons, `and`, `or`, `not`, `x if y else z`, `~`, literals and `{% if %}`. There are no calls, no
loops, no arithmetic, and nothing but keys of mappings and items of lists can be read, so that a template
reaches no object of Python. A field of null is null, and a comparison with null is false.
"""

import difflib
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from jinja2 import TemplateSyntaxError, nodes
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer
from markupsafe import Markup
from typing_extensions import override

from worker.core.errors import MappingFailed
from worker.crm.filters import TESTS, Unusable, compare, concatenate

LONGEST_SOURCE: Final = 8 * 1024
"""Of one text, in characters."""
LONGEST_TEXT: Final = 64 * 1024
"""That one text may give, in characters."""
MOST_PARTS: Final = 20_000
"""Texts, mappings, lists and other values of one preset; aliases in YAML can make a short one large."""
DEEPEST: Final = 30
"""Levels of a template, and of an expression."""

Shape = Mapping[str, Any] | None
"""What is known of a value: a JSON Schema without references; None: nothing."""
Names = Mapping[str, Any]

_VALUE = "_value"
_ALLOWED = (
    nodes.Template,
    nodes.Output,
    nodes.TemplateData,
    nodes.Const,
    nodes.Name,
    nodes.Getattr,
    nodes.Getitem,
    nodes.Filter,
    nodes.Test,
    nodes.Keyword,
    nodes.CondExpr,
    nodes.Compare,
    nodes.Operand,
    nodes.And,
    nodes.Or,
    nodes.Not,
    nodes.Neg,
    nodes.Concat,
    nodes.List,
    nodes.Dict,
    nodes.Pair,
    nodes.Tuple,
    nodes.If,
)


class TemplateError(MappingFailed):
    """A template that can't be compiled or rendered: where, and why."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A part of a rendered template that is left out because its expression is null."""

    path: str
    source: str


# --- Jinja2 ---------------------------------------------------------------------------------------


class _Context(Context):
    @override
    def resolve_or_missing(self, key: str) -> Any:
        """Return the value of a name; null if it has none, because the names were checked before."""
        return self.parent.get(key)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Reads keys of mappings and items of lists; anything else is null."""

    context_class: type[Context] = _Context

    def __init__(self, filters: Mapping[str, Callable[..., Any]], *, html: bool) -> None:
        super().__init__(autoescape=html, optimized=False, finalize=_as_text)
        self.globals.clear()
        self.tests = dict(TESTS)
        self.filters = {**filters, "_compare": compare, "_concatenate": concatenate}

    @override
    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, dict):
            return obj.get(argument)
        if isinstance(obj, list | tuple) and type(argument) is int and -len(obj) <= argument < len(obj):
            return obj[argument]
        return None

    @override
    def getattr(self, obj: Any, attribute: str) -> Any:
        return obj.get(attribute) if isinstance(obj, dict) else None


def _as_text(value: Any) -> Any:
    """Return what stands in a text for a value."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.isoformat() if isinstance(value, datetime) else value


class _NullSafe(NodeTransformer):
    """Let a comparison and `~` bear null, and a condition without `else` give it."""

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802 - Jinja2's name
        self.generic_visit(node)
        (operand,) = node.ops
        return _private("_compare", node.expr, nodes.Const(operand.op), operand.expr)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _private("_concatenate", *node.nodes)

    def visit_CondExpr(self, node: nodes.CondExpr) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.expr2 = node.expr2 or nodes.Const(None)
        return node


def _private(name: str, first: nodes.Expr, *others: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(first, name, list(others), [], None, None, lineno=1)


# --- what an expression may say -------------------------------------------------------------------


class _Checker:
    """Finds what is wrong with one parsed text."""

    def __init__(self, scope: Mapping[str, Shape], filters: Mapping[str, Callable[..., Any]]) -> None:
        self._scope = scope
        self._filters = filters

    def check(self, node: nodes.Node, depth: int = 0) -> None:
        """Raise `Unusable` for the first mistake in it."""
        if depth > DEEPEST:
            raise Unusable(f"is nested more than {DEEPEST} levels deep")
        if not isinstance(node, _ALLOWED):
            raise Unusable(f"has {_spoken(node)}, which a template may not have")
        match node:
            case nodes.Compare() if len(node.ops) > 1:
                raise Unusable("compares three values at once; write `and` between two comparisons")
            case nodes.Neg() if not isinstance(node.node, nodes.Const):
                raise Unusable("has arithmetic, which a template may not have; use a filter")
            case nodes.Getattr() if node.attr.startswith("_"):
                raise Unusable(f"reads {node.attr}; write a name that begins with _ as ['{node.attr}']")
            case nodes.Filter() if node.name is not None:
                self._check_filter(node)
            case nodes.Test() if node.name not in TESTS:
                raise Unusable(f"has an unknown test {node.name}{_instead(node.name, TESTS)}")
            case _:
                pass
        self._shape(node)
        for child in node.iter_child_nodes():
            self.check(child, depth + 1)

    def _check_filter(self, node: nodes.Filter) -> None:
        found = self._filters.get(node.name)
        if found is None or node.name.startswith("_"):
            raise Unusable(f"has an unknown filter {node.name}{_instead(node.name, self._filters)}")
        named = {str(each.key): None for each in node.kwargs}
        try:
            inspect.signature(found).bind(None, *node.args, **named)
        except TypeError as error:
            raise Unusable(f"uses the filter {node.name} wrongly: {error}") from error
        check = getattr(found, "check", None)
        if check is not None:
            check(*[each.value if isinstance(each, nodes.Const) else None for each in node.args])

    def _shape(self, node: nodes.Node) -> Shape:
        """Return what is known of a value. Raises `Unusable` for a name or a field that can't be."""
        match node:
            case nodes.Name():
                if node.name not in self._scope:
                    raise Unusable(f"has an unknown name {node.name}{_instead(node.name, self._scope)}")
                return self._scope[node.name]
            case nodes.Getattr():
                return self._field(node.node, node.attr)
            case nodes.Getitem(arg=nodes.Const(value=str() as name)):
                return self._field(node.node, name)
            case nodes.Getitem():
                shape = self._shape(node.node)
                return None if shape is None else shape.get("items")
            case _:
                return None

    def _field(self, owner: nodes.Node, name: str) -> Shape:
        shape = self._shape(owner)
        if shape is None or shape.get("additionalProperties") is True:
            return None
        known = shape.get("properties")
        if known is None:
            what = "a list" if shape.get("type") == "array" else "a value without fields"
            raise Unusable(f"reads {name} of {_written(owner)}, which is {what}")
        if name not in known:
            raise Unusable(f"reads {_written(owner)}.{name}, which does not exist{_instead(name, known)}")
        found: Shape = known[name]
        return found


def _written(node: nodes.Node) -> str:
    match node:
        case nodes.Name():
            return node.name
        case nodes.Getattr():
            return f"{_written(node.node)}.{node.attr}"
        case nodes.Getitem(arg=nodes.Const(value=place)):
            return f"{_written(node.node)}[{place!r}]"
        case _:
            return "an expression"


_SPOKEN: Final[Mapping[type[nodes.Node], str]] = {
    nodes.Call: "a call",
    nodes.For: "a loop",
    nodes.Slice: "a slice",
    nodes.BinExpr: "arithmetic (use a filter)",
    nodes.UnaryExpr: "arithmetic (use a filter)",
}


def _spoken(node: nodes.Node) -> str:
    found = next((words for kind, words in _SPOKEN.items() if isinstance(node, kind)), None)
    return found or f"`{type(node).__name__.lower()}`"


def _instead(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, [each for each in known if not each.startswith("_")], 1)
    return f"; did you mean {close[0]}?" if close else ""


# --- compiled templates ---------------------------------------------------------------------------


class _Constant:
    __slots__ = ("_value",)

    def __init__(self, value: Any) -> None:
        self._value = value

    def value(self, _context: Context) -> Any:
        return self._value

    def left_out(self, _context: Context) -> Iterator[LeftOut]:
        yield from ()


class _Leaf:
    """One text with expressions."""

    __slots__ = ("_clean", "_path", "_run", "_source", "_whole")

    def __init__(
        self, path: str, source: str, run: Callable[[Context], Iterator[str]], *, whole: bool
    ) -> None:
        self._path = path
        self._source = source
        self._run = run
        self._whole = whole
        """Whether it is one expression, which gives its own value; else text."""

    def value(self, context: Context) -> Any:
        try:
            found = self._evaluated(context)
        except Unusable as error:
            raise TemplateError(self._path, str(error)) from error
        except Exception as error:  # an expression over foreign data can fail in any way
            raise TemplateError(self._path, f"{type(error).__name__} in {self._source[:200]}") from error
        if isinstance(found, str) and len(found) > LONGEST_TEXT:
            raise TemplateError(self._path, f"gives a text of more than {LONGEST_TEXT} characters")
        return found

    def _evaluated(self, context: Context) -> Any:
        if not self._whole:
            return "".join(self._run(context))
        for _ in self._run(context):
            pass
        return _plain(context.vars[_VALUE])

    def left_out(self, context: Context) -> Iterator[LeftOut]:
        if self.value(context) is None:
            yield LeftOut(self._path, self._source)


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it."""
    match value:
        case Markup():
            return str(value)
        case datetime():
            return value.isoformat()
        case float() if not math.isfinite(value):
            raise Unusable("is no number")
        case dict():
            return {str(name): _plain(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_plain(inner) for inner in value]
        case _:
            return value


class _Kept:
    """A leaf that is sent even if it is null."""

    __slots__ = ("node",)

    def __init__(self, node: "_Node") -> None:
        self.node = node

    def value(self, context: Context) -> Any:
        return self.node.value(context)

    def left_out(self, _context: Context) -> Iterator[LeftOut]:
        yield from ()


class _Mapping:
    __slots__ = ("_items",)

    def __init__(self, items: "Sequence[tuple[_Node, _Node]]") -> None:
        self._items = items

    def value(self, context: Context) -> Any:
        found = {}
        for key, node in self._items:
            value = node.value(context)
            if value is not None or isinstance(node, _Kept):
                name = key.value(context)
                if name is not None:
                    found[name] = value
        return found or None

    def left_out(self, context: Context) -> Iterator[LeftOut]:
        for _, node in self._items:
            yield from node.left_out(context)


class _List:
    __slots__ = ("_items",)

    def __init__(self, items: "Sequence[_Node]") -> None:
        self._items = items

    def value(self, context: Context) -> Any:
        found = []
        for node in self._items:
            value = node.value(context)
            if value is not None or isinstance(node, _Kept):
                found.append(value)
        return found or None

    def left_out(self, context: Context) -> Iterator[LeftOut]:
        for node in self._items:
            yield from node.left_out(context)


_Node = _Constant | _Leaf | _Kept | _Mapping | _List


@dataclass(frozen=True, slots=True)
class Template:
    """A compiled template."""

    path: str
    """Where it stands in the preset, such as `on_call.record.body`."""
    node: _Node = field(repr=False)
    environment: _Sandbox = field(repr=False)

    @property
    def constant(self) -> bool:
        """Whether it is the same for each event."""
        return isinstance(self.node, _Constant)

    def render(self, names: Names) -> Any:
        """Return its value. What is null is left out, and so is a mapping or list that this empties.

        Raises:
            TemplateError: An expression has no value, or too long a one.
        """
        if isinstance(self.node, _Constant):
            return self.node.value(None)  # type: ignore[arg-type] # it needs no names
        return self.node.value(self._context(names))

    def left_out(self, names: Names) -> list[LeftOut]:
        """Return the parts that `render` leaves out, with their expressions."""
        return list(self.node.left_out(self._context(names)))

    def _context(self, names: Names) -> Context:
        return _Context(self.environment, dict(names), None, {})


@dataclass
class Compiler:
    """Compiles the templates of one preset; collects what is wrong with them."""

    filters: Mapping[str, Callable[..., Any]]
    problems: list[TemplateError] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._plain = _Sandbox(self.filters, html=False)
        self._html = _Sandbox(self.filters, html=True)
        self._parts = 0

    def compile(self, template: Any, path: str, scope: Mapping[str, Shape]) -> Template:
        """Return the compiled template; `scope` has the names that it may use, and their shapes.

        A mistake is added to `problems`.
        """
        return Template(path, self._node(template, path, scope, 0), self._plain)

    def _node(  # noqa: PLR0911 - one for each kind
        self, template: Any, path: str, scope: Mapping[str, Shape], depth: int
    ) -> _Node:
        self._parts += 1
        if depth > DEEPEST:
            return self._wrong(path, f"is nested more than {DEEPEST} levels deep")
        if self._parts == MOST_PARTS:
            return self._wrong(path, f"is the part number {MOST_PARTS} of the preset; there are too many")
        if self._parts > MOST_PARTS:
            return _Constant(None)
        match template:
            case str():
                return self._text(template, path, scope)
            case {"html": str() as source} if len(template) == 1:
                return self._text(source, path, scope, html=True)
            case {"keep": kept} if len(template) == 1:
                return _Kept(self._node(kept, path, scope, depth + 1))
            case dict():
                items = [
                    (
                        self._text(str(key), f"{path} (key)", scope),
                        self._node(value, f"{path}.{key}" if path else str(key), scope, depth + 1),
                    )
                    for key, value in template.items()
                ]
                parts = [each for item in items for each in item]
                return _folded(_Mapping(items), parts) if items else _Constant({})
            case list() | tuple():
                inner = [
                    self._node(value, f"{path}[{place}]", scope, depth + 1)
                    for place, value in enumerate(template)
                ]
                return _folded(_List(inner), inner) if inner else _Constant([])
            case _:
                return _Constant(template)

    def _text(self, source: str, path: str, scope: Mapping[str, Shape], *, html: bool = False) -> _Node:
        if not any(mark in source for mark in ("{{", "{%", "{#")):
            return _Constant(source)
        if len(source) > LONGEST_SOURCE:
            return self._wrong(path, f"is longer than {LONGEST_SOURCE} characters")
        environment = self._html if html else self._plain
        try:
            return _compiled(source, path, environment, _Checker(scope, self.filters))
        except Unusable as error:
            reason = f"{error} (in {source[:200]!r})"
        except TemplateSyntaxError as error:
            reason = f"can't be parsed: {error.message} (in {source[:200]!r})"
        except (RecursionError, MemoryError, SyntaxError):
            reason = "is nested too deeply"
        except ValueError:
            reason = "has a number that is too long"
        return self._wrong(path, reason)

    def _wrong(self, path: str, reason: str) -> _Node:
        self.problems.append(TemplateError(path, reason))
        return _Constant(None)


def _folded(node: _Node, parts: Sequence[_Node]) -> _Node:
    """Return a constant if all parts are."""
    if all(isinstance(each, _Constant) for each in parts):
        return _Constant(node.value(None))  # type: ignore[arg-type] # constants need no names
    return node


def _compiled(source: str, path: str, environment: _Sandbox, checker: _Checker) -> _Node:
    tree = environment.parse(source)
    checker.check(tree)
    tree = _NullSafe().visit(tree)
    whole = _only_expression(tree)
    if whole is not None:
        if environment.autoescape:
            whole = _private("html", whole)
        tree = nodes.Template([nodes.Assign(nodes.Name(_VALUE, "store"), whole, lineno=1)], lineno=1)
        tree.set_environment(environment)
    run = environment.from_string(tree).root_render_func
    return _Leaf(path, source, run, whole=whole is not None)


def _only_expression(tree: nodes.Template) -> nodes.Expr | None:
    match tree.body:
        case [nodes.Output(nodes=[expression])] if not isinstance(expression, nodes.TemplateData):
            return expression
    return None
