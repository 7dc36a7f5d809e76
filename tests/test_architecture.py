"""The rules of the architecture: which package may import which, and how long a function may be.

Every rule is a function from the modules to the sentences about what breaks it,
so that the rules themselves can be tried on modules that break them all.
"""

import ast
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FUNCTION_LIMIT = 50

ADAPTERS = frozenset({"crm", "intake", "rabbitmq", "vicidial", "sinks", "observe"})
KNOW_EVERY_PACKAGE = frozenset({"worker.app", "worker.check"})
INSTALLERS = ("apt-get", "docker")
CORE_LIBRARIES = frozenset({"pydantic", "pydantic_core", "typing_extensions"})
MAY_IMPORT = {
    "core": {"core"},
    "settings": {"core", "settings"},
    "http": {"worker"},
    "signals": set(),
    **{package: {"core", "http", "settings", package, "worker"} for package in ADAPTERS},
    "app": {"core", "settings", "signals", "app", "worker", *ADAPTERS},
    "check": {"core", "http", "settings", "app", "check", "worker", *ADAPTERS},
    "commands": {"core", "settings", "signals", "app", "check", "commands", "worker", *ADAPTERS},
    "cli": {"commands"},
    "__main__": {"cli"},
    "worker": set(),
}
"""By package: the first name below `worker`, or `worker` itself, which holds the version."""

_DECORATED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(frozen=True)
class Module:
    """One file: its place, its text, and the modules that it imports, wherever in it."""

    path: str
    tree: ast.Module
    imports: frozenset[str]

    @property
    def libraries(self) -> set[str]:
        """The third-party packages that it imports."""
        tops = {name.partition(".")[0] for name in self.imports}
        return {top for top in tops if top not in sys.stdlib_module_names and top != "worker"}

    @property
    def texts(self) -> Iterator[str]:
        """The texts that stand in it."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value

    @property
    def decorators(self) -> set[str]:
        """The decorators of its functions and classes, and of the functions in those."""
        outer = [node for node in self.tree.body if isinstance(node, _DECORATED)]
        inner = [node for each in outer for node in each.body if isinstance(node, _DECORATED)]
        return {ast.unparse(each) for node in (*outer, *inner) for each in node.decorator_list}

    @property
    def ours(self) -> set[str]:
        """The modules of the worker that it imports."""
        return {name for name in self.imports if package_of(name) is not None}


Modules = Mapping[str, Module]
Rule = Callable[[Modules], Iterator[str]]


def package_of(name: str) -> str | None:
    """Return the package of a module of the worker, `worker` for the package itself; `None` for any other."""
    top, _, below = name.partition(".")
    return (below.partition(".")[0] or "worker") if top == "worker" else None


def read_modules(folder: Path) -> dict[str, Module]:
    """Read all modules of the worker and of its tests, by their names."""
    found = [path for part in ("worker", "tests") for path in sorted((folder / part).rglob("*.py"))]
    files = {path.relative_to(folder): path for path in found}
    names = {place: ".".join(place.with_suffix("").parts).removesuffix(".__init__") for place in files}
    modules = {}
    for place, path in files.items():
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        imports = frozenset(imported(tree, names[place], place.name, frozenset(names.values())))
        modules[names[place]] = Module(place.as_posix(), tree, imports)
    return modules


def imported(tree: ast.Module, name: str, file: str, known: frozenset[str]) -> Iterator[str]:
    """Yield the modules that a module imports; of `from worker import app`, that is `worker.app`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = node.level - (file == "__init__.py")
            base = name.rsplit(".", up)[0] if up > 0 else name
            source = ".".join(filter(None, [base, node.module])) if node.level else node.module or ""
            for alias in node.names:
                whole = f"{source}.{alias.name}"
                yield whole if whole in known else source


# --- the rules ------------------------------------------------------------------------------------


def the_core_imports_nothing_but_the_standard_library_and_pydantic(modules: Modules) -> Iterator[str]:
    for name, module in modules.items():
        if package_of(name) == "core" and (others := module.libraries - CORE_LIBRARIES):
            yield f"{module.path} imports {', '.join(sorted(others))}"


def each_package_imports_only_what_it_may(modules: Modules) -> Iterator[str]:
    for name, module in modules.items():
        package = package_of(name)
        if package is None:
            continue
        allowed = MAY_IMPORT.get(package)
        if allowed is None:
            yield f"{module.path} is in a package that MAY_IMPORT does not know"
            continue
        for other in sorted(module.ours):
            if package_of(other) not in allowed:
                yield f"{module.path} imports {other}; {package} may import {sorted(allowed)}"


def only_the_composition_root_knows_every_package(modules: Modules) -> Iterator[str]:
    for name, module in modules.items():
        known = {package_of(other) for other in module.ours} & ADAPTERS
        if package_of(name) is not None and known == ADAPTERS and name not in KNOW_EVERY_PACKAGE:
            yield f"{module.path} imports every adapter; only {sorted(KNOW_EVERY_PACKAGE)} may"


def the_worker_imports_no_simulator(modules: Modules) -> Iterator[str]:
    for name, module in modules.items():
        if package_of(name) is not None and "simulators" in module.libraries:
            yield f"{module.path} imports simulators, which the service goes without"


def the_worker_installs_nothing(modules: Modules) -> Iterator[str]:
    for name, module in modules.items():
        for tool in INSTALLERS if package_of(name) is not None else ():
            if any(tool in text for text in module.texts):
                yield f"{module.path} names {tool}; the service installs nothing"


def a_test_file_belongs_to_make_test_or_to_make_verify(modules: Modules) -> Iterator[str]:
    for name, module in modules.items():
        if name.startswith("tests.") and "pytest.mark.verify" in module.decorators:
            yield f"{module.path} marks some of its tests with verify; mark the file, or move them"


def no_test_patches_a_constant(modules: Modules) -> Iterator[str]:
    for name, module in modules.items():
        for node in ast.walk(module.tree) if name.startswith("tests.") else ():
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".setattr"):
                texts = [each.value for each in node.args if isinstance(each, ast.Constant)]
                target = str(texts[0]).rpartition(".")[2] if texts else ""
                if target.isupper():
                    yield f"{module.path}:{node.lineno} patches {target}; let it be an argument"


def no_imports_run_in_a_circle(modules: Modules) -> Iterator[str]:
    graph = {name: module.ours - {name} for name, module in modules.items() if package_of(name) is not None}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        yield f"the modules import each other in a circle: {' <- '.join(error.args[1])}"


def no_function_is_too_long(modules: Modules) -> Iterator[str]:
    for name, module in modules.items():
        for node in ast.walk(module.tree) if package_of(name) is not None else ():
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines >= FUNCTION_LIMIT:
                    where = f"{module.path}:{node.lineno}"
                    yield f"{where} {node.name} has {lines} lines; it must be under {FUNCTION_LIMIT}"


def the_system_tests_import_nothing_of_the_worker(modules: Modules) -> Iterator[str]:
    for name, module in modules.items():
        if name.startswith("tests.system.") and module.ours:
            yield f"{module.path} imports {', '.join(sorted(module.ours))}; system tests see it from outside"


RULES: tuple[Rule, ...] = (
    the_core_imports_nothing_but_the_standard_library_and_pydantic,
    each_package_imports_only_what_it_may,
    only_the_composition_root_knows_every_package,
    the_worker_imports_no_simulator,
    the_worker_installs_nothing,
    a_test_file_belongs_to_make_test_or_to_make_verify,
    no_test_patches_a_constant,
    no_imports_run_in_a_circle,
    no_function_is_too_long,
    the_system_tests_import_nothing_of_the_worker,
)


@pytest.fixture(scope="module")
def our_modules() -> Modules:
    """Read this project."""
    return read_modules(ROOT)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_modules_keep_the_rule(our_modules: Modules, rule: Rule) -> None:
    assert {"worker", "worker.app", "worker.core.pipeline", "tests.test_architecture"} <= our_modules.keys()
    broken = list(rule(our_modules))
    assert not broken, "\n".join(["", *broken])


# --- the rules see what breaks them ---------------------------------------------------------------

BROKEN_MODULES = {
    "worker/__init__.py": "",
    "worker/core/a.py": "import aiohttp.web\nfrom worker.core import b\nfrom worker import settings\n",
    "worker/core/b.py": "def f():\n    from . import a\n",
    "worker/settings/__init__.py": "from worker.sinks.web import x",
    "worker/sinks/__init__.py": "",
    "worker/sinks/web.py": "from worker import app\nfrom simulators import dialer\nfrom .. import vicidial",
    "worker/vicidial/__init__.py": "",
    "worker/vicidial/client.py": "",
    "worker/rabbitmq/consumer.py": "async def f():\n" + "    pass\n" * (FUNCTION_LIMIT - 1),
    "worker/observe/log.py": "",
    "worker/app.py": "from worker.sinks import web",
    "worker/commands/all.py": "from worker.crm import steps\nfrom worker.rabbitmq import consumer\n"
    "from worker.intake import spool\n"
    "from worker.sinks import web\n"
    "from worker.vicidial import client\nfrom worker.observe import log\n",
    "worker/cli.py": "from worker.app import run",
    "worker/attic/x.py": "",
    "worker/observe/tools.py": "run(['apt-get', 'install', 'x'])",
    "tests/core/test_it.py": "@pytest.mark.verify\ndef test_x(): ...",
    "tests/core/test_patches.py": "monkeypatch.setattr(x, 'MOST', 1)\n"
    "patched.setattr('worker.x.MOST', 1)\nmonkeypatch.setattr('worker.x.Most', 'A')\n",
    "tests/core/test_all.py": "pytestmark = [pytest.mark.system, pytest.mark.verify]",
    "tests/system/test_it.py": "import worker.app",
}
EXPECTED = [
    "worker/core/a.py imports aiohttp",
    "worker/attic/x.py is in a package that MAY_IMPORT does not know",
    "worker/cli.py imports worker.app; cli may import ['commands']",
    "worker/core/a.py imports worker.settings; core may import ['core']",
    "worker/settings/__init__.py imports worker.sinks.web; settings may import ['core', 'settings']",
    f"worker/sinks/web.py imports worker.app; sinks may import {sorted(MAY_IMPORT['sinks'])}",
    f"worker/sinks/web.py imports worker.vicidial; sinks may import {sorted(MAY_IMPORT['sinks'])}",
    "worker/commands/all.py imports every adapter; only ['worker.app', 'worker.check'] may",
    "worker/sinks/web.py imports simulators, which the service goes without",
    "worker/observe/tools.py names apt-get; the service installs nothing",
    "tests/core/test_it.py marks some of its tests with verify; mark the file, or move them",
    "tests/core/test_patches.py:1 patches MOST; let it be an argument",
    "tests/core/test_patches.py:2 patches MOST; let it be an argument",
    "worker/rabbitmq/consumer.py:1 f has 50 lines; it must be under 50",
    "tests/system/test_it.py imports worker.app; system tests see it from outside",
]


def test_each_rule_names_the_file_that_breaks_it(tmp_path: Path) -> None:
    for place, text in BROKEN_MODULES.items():
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(text, encoding="utf-8")
    modules = read_modules(tmp_path)
    said = [sentence for rule in RULES for sentence in rule(modules)]
    (circle,) = [sentence for sentence in said if "in a circle" in sentence]
    assert "worker.core.a" in circle or "worker.sinks.web" in circle
    assert [sentence for sentence in said if sentence != circle] == EXPECTED
